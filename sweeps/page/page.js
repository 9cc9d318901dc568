"use strict";
const page = JSON.parse(document.getElementById("data").textContent);

// Light or dark: as the system has it, until somebody says otherwise.
document.getElementById("theme").addEventListener("click", () => {
  const shown = getComputedStyle(document.documentElement).colorScheme;
  const dark = shown === "light dark" ? matchMedia("(prefers-color-scheme: dark)").matches : shown === "dark";
  document.documentElement.style.colorScheme = document.documentElement.dataset.theme = dark ? "light" : "dark";
});

// The end of the address keeps what is shown, each script the names of its own.
const linked = new URLSearchParams(location.hash.slice(1)), addressed = {};
function keepAddress(script, told) {
  addressed[script] = told;
  const every = new URLSearchParams({...addressed.calculator, ...addressed.figures});
  history.replaceState(null, "", every.size ? `#${every}` : location.pathname + location.search);
}

function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// A spreadsheet takes text that begins so for a formula; a number is none. As in spreadsheet.py.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  const isNumber = typeof value === "number" || /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text);
  if (!isNumber && /^[=+\-@\t\r\n]/.test(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

// JSON that is packed, as document.py does it.
async function unpackedJson(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// The rows of a table of the page's data; a long one is unpacked when it is asked for first.
async function rowsOf(name) {
  const known = page.tables[name];
  if (!known.rows) {
    const columns = await unpackedJson(known.packed);
    known.rows = columns[0].map((_, i) => columns.map((column) => column[i]));
  }
  return known.rows;
}

async function csvOf(name) {
  const cells = (row) => [...row.cells].map((cell) => cell.querySelector("data")?.value ?? cell.textContent);
  const table = document.querySelector(`table[data-name="${CSS.escape(name)}"]`);
  const rows = page.tables[name]
    ? [page.tables[name].columns, ...await rowsOf(name)]
    : [...table.tHead.rows, ...await allRows(table)].map(cells);
  return rows.map((row) => row.map(csvCell).join(",") + "\r\n").join("");
}

// The figure as a file: its colours no longer follow the page.
function svgOf(drawing) {
  const text = new XMLSerializer().serializeToString(drawing);
  const ink = "#1b1f24";
  return text
    .replaceAll(/light-dark\(color-mix\(in srgb, (var\(--c-\w+\)) (\d+)%, transparent\), color-mix\([^)]*\)[^)]*\)\)/g, "$1; fill-opacity: 0.$2")
    .replaceAll("var(--card)", "#ffffff")
    .replaceAll("var(--ink)", ink)
    .replaceAll(/var\(--c-([0-9a-f]{6})\)/g, "#$1");
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.csv) save(button.dataset.csv + ".csv", await csvOf(button.dataset.csv), "text/csv");
  if (button.dataset.svg) {
    const drawing = button.closest("figure").querySelector("svg");
    save(button.dataset.svg + ".svg", svgOf(drawing), "image/svg+xml");
  }
  if (button.dataset.sort) sortBy(button);
});

// Every row of a table, those that are not shown yet too. What is unpacked was escaped where the page was written.
async function allRows(table) {
  const body = table.tBodies[0], rest = table.parentElement.querySelector(".rest");
  if (!rest && !page.tables[table.dataset.name]) return [...body.rows];
  if (!table._rows) {
    const more = document.createElement("template");
    if (rest) more.innerHTML = (await unpackedJson(JSON.parse(rest.textContent))).join("");
    table._rows = [...body.rows, ...more.content.children];
  }
  return table._rows;
}

// So many more rows of a long table when its end comes into sight.
const MORE = 200;
async function lengthen(table) {
  const body = table.tBodies[0], rows = await allRows(table), shown = body.rows.length;
  body.append(...(table._order ?? rows).slice(shown, shown + MORE));
  if (body.rows.length === rows.length) table.parentElement.querySelector(".more").hidden = true;
}

for (const rest of document.querySelectorAll(".rest")) {
  const scroll = rest.parentElement;
  scroll.addEventListener("scroll", () => {
    if (scroll.scrollTop + 2 * scroll.clientHeight > scroll.scrollHeight) lengthen(scroll.querySelector("table"));
  });
}

// By the values behind the cells, those without one last; again, the other way round.
async function sortBy(button) {
  const table = button.closest("table");
  const column = page.tables[table.dataset.name].columns.indexOf(button.dataset.sort);
  const heading = button.closest("th");
  const down = heading.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0], values = await rowsOf(table.dataset.name), rows = await allRows(table);
  const order = rows.map((row, i) => [values[i][column], row]);
  order.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const less = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return down ? -less : less;
  });
  const shown = body.rows.length;
  table._order = order.map(([, row]) => row);
  body.replaceChildren(...table._order.slice(0, shown));
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
