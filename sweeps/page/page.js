"use strict";
const page = JSON.parse(document.getElementById("data").textContent);

// Light or dark: as the system has it, until somebody says otherwise.
document.getElementById("theme").addEventListener("click", () => {
  const shown = getComputedStyle(document.documentElement).colorScheme;
  const dark = shown === "light dark" ? matchMedia("(prefers-color-scheme: dark)").matches : shown === "dark";
  document.documentElement.style.colorScheme = dark ? "light" : "dark";
});

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

function csvOf(name) {
  const known = page.tables[name];
  const cells = (row) => [...row.cells].map((cell) => cell.querySelector("data")?.value ?? cell.textContent);
  const rows = known
    ? [known.columns, ...known.rows]
    : [...document.querySelector(`table[data-name="${CSS.escape(name)}"]`).rows].map(cells);
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

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.csv) save(button.dataset.csv + ".csv", csvOf(button.dataset.csv), "text/csv");
  if (button.dataset.svg) {
    const drawing = button.closest("figure").querySelector("svg");
    save(button.dataset.svg + ".svg", svgOf(drawing), "image/svg+xml");
  }
  if (button.dataset.sort) sortBy(button);
});

// By the values behind the cells, those without one last; again, the other way round.
function sortBy(button) {
  const table = button.closest("table");
  const {columns, rows} = page.tables[table.dataset.name];
  const column = columns.indexOf(button.dataset.sort);
  const heading = button.closest("th");
  const down = heading.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  body._rows ??= [...body.rows];
  const order = body._rows.map((row, i) => [rows[i][column], row]);
  order.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const less = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return down ? -less : less;
  });
  body.append(...order.map(([, row]) => row));
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
