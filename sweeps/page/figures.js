// Figures that answer to a pointer, a finger and the keyboard: the nearest run is named, a click sets its budget apart in
// every figure, and switches show other views. What is shown is kept in the address.
const MOUSE = 16, FINGER = 28;

// Where a value lies on an axis, 0 at its one end and 1 at the other; null where the axis cannot show it.
function along(value, low, high, scale) {
  if (scale === "log") return value > 0 ? Math.log(value / low) / Math.log(high / low) : null;
  return (value - low) / (high - low);
}

// Where something stands on a figure, by what its axes show.
function placeOn(svg, x, y) {
  const [x0, x1, left, right, y0, y1, bottom, top] = svg.dataset.frame.split(" ").map(Number);
  const [across, up] = svg.dataset.scales.split(" ");
  const a = along(x, x0, x1, across), b = along(y, y0, y1, up);
  const inside = a !== null && b !== null && a >= 0 && a <= 1 && b >= 0 && b <= 1;
  return {a, x: left + (right - left) * Math.min(Math.max(a, 0), 1), y: bottom + (top - bottom) * b, inside, bottom, top};
}

function shape(kind, told) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(told)) made.setAttribute(name, value);
  return made;
}

function startFigures(known) {
  const figures = [...document.querySelectorAll("figure:has(svg[data-points])")].map(startFigure);
  const shown = {budget: null};
  let rows = null;

  // The runs and the known models, as records.
  async function everyRow() {
    const records = async (name) => {
      const values = page.tables[name] ? await rowsOf(name) : [];
      return values.map((row) => Object.fromEntries(page.tables[name].columns.map((column, i) => [column, row[i]])));
    };
    rows ??= [...await records("points"), ...await records("known-models")];
    return rows;
  }

  const sameBudget = (one) => shown.budget !== null && Math.abs(one / shown.budget - 1) < 0.01;

  function told(row) {
    const words = row.name ? `${row.name} (${row.date})` : row.run_id ? `run ${row.run_id}` : "a run";
    const size = `${counted(row.params, 3)} on ${counted(row.tokens, 3)} tokens, ${compute(row.flops)} FLOPs`;
    const loss = row.loss === undefined ? `as printed in ${row.source}` : `loss ${row.loss.toFixed(4)}`;
    const bits = row.bits_per_byte ? `, ${row.bits_per_byte.toFixed(4)} bits per byte` : "";
    return `${words}${row.held_out ? ", held out" : ""}: ${size}, ${loss}${bits}`;
  }

  function startFigure(figure) {
    const drawing = figure.querySelector(".drawing"), tip = document.createElement("div");
    const switches = [...figure.querySelectorAll("[data-switch]")], packed = figure.querySelector(".views");
    let views = null, at = null, pinned = false;
    tip.className = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    drawing.after(tip);
    const svg = () => drawing.querySelector("svg");

    // The rows that this view shows, each with its place.
    async function placed() {
      const [x, y] = svg().dataset.points.split(" "), withKnown = view().includes("known");
      return (await everyRow()).filter((row) => row[x] != null && row[y] != null && (!row.name || withKnown))
        .map((row) => ({row, ...placeOn(svg(), row[x], row[y])})).filter(({inside}) => inside);
    }

    const view = () => switches.filter((one) => one.ariaPressed === "true").map((one) => one.dataset.switch).sort().join(".");

    async function show(name) {
      views ??= {"": drawing.innerHTML, ...(packed ? await unpackedJson(JSON.parse(packed.textContent)) : {})};
      if (!(name in views)) return;
      for (const one of switches) one.ariaPressed = String(name.split(".").includes(one.dataset.switch));
      drawing.innerHTML = views[name];
      pinned = false;
      point(null);
      await isolate();
      document.dispatchEvent(new Event("redrawn"));
    }

    // Names a run: beside it, with a ring around it, and with where its files are.
    function point(found) {
      at = found;
      svg().querySelector(".pointed")?.remove();
      tip.hidden = !found;
      tip.classList.toggle("pinned", pinned);  // until then it is in nobody's way
      if (!found) return;
      svg().append(shape("circle", {class: "pointed", cx: found.x, cy: found.y, r: 6}));
      tip.replaceChildren(told(found.row), ...links(found.row));
      const box = svg().getBoundingClientRect(), frame = figure.getBoundingClientRect();
      const scale = box.width / svg().viewBox.baseVal.width;
      const left = box.left - frame.left + found.x * scale, top = box.top - frame.top + found.y * scale;
      tip.style.top = `${top + 10}px`;
      tip.style.left = `${Math.max(0, Math.min(left + 8, frame.width - tip.offsetWidth - 4))}px`;
    }

    function links(row) {
      if (!known.folder || !row.run_id || !row.local || location.protocol !== "file:") return [];
      return [["folder", ""], ["curve", "metrics.jsonl"]].flatMap(([words, file]) => {
        const link = document.createElement("a");
        link.href = `${known.folder}/${row.run_id}/${file}`;
        link.textContent = words;
        return [" ", link];
      });
    }

    async function nearest(event) {
      const here = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg().getScreenCTM().inverse());
      let best = null, least = event.pointerType === "touch" ? FINGER : MOUSE;
      for (const one of await placed()) {
        const far = Math.hypot(one.x - here.x, one.y - here.y);
        if (far < least) [best, least] = [one, far];
      }
      return best;
    }

    // The runs of one budget stand out, the others step back.
    async function isolate() {
      svg().querySelector(".apart")?.remove();
      svg().classList.toggle("isolated", shown.budget !== null);
      for (const one of svg().querySelectorAll('[id*="-of-"]')) one.classList.toggle("kept", sameBudget(Number(one.id.split("-of-")[1])));
      if (shown.budget === null) return;
      const group = shape("g", {class: "apart"});
      for (const {row, x, y} of await placed()) if (sameBudget(row.budget)) group.append(shape("circle", {cx: x, cy: y, r: 3}));
      svg().append(group);
    }

    function choose(found) {
      const budget = found?.row.budget ?? null;
      shown.budget = budget === shown.budget ? null : budget;
      for (const one of figures) one.isolate();
      keep();
    }

    // What was clicked stays named, so that its links can be reached.
    drawing.addEventListener("pointermove", async (event) => {
      const found = await nearest(event);
      if (!pinned) point(found);
    });
    figure.addEventListener("pointerleave", () => pinned || point(null));
    drawing.addEventListener("click", async (event) => {
      const found = await nearest(event);
      pinned = found !== null;
      point(found);
      if (found || shown.budget !== null) choose(found);
    });
    drawing.addEventListener("keydown", async (event) => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (step) {
        event.preventDefault();
        const all = (await placed()).sort((a, b) => a.x - b.x || b.y - a.y);
        const now = at ? all.findIndex(({row}) => row === at.row) : step > 0 ? -1 : 0;
        if (all.length) point(all[(now + step + all.length) % all.length]);
        pinned = true;
      } else if (event.key === "Enter" && at) choose(at);
      else if (event.key === "Escape") {
        pinned = false;
        point(null);
        if (shown.budget !== null) choose(null);
      }
    });
    for (const one of switches)
      one.addEventListener("click", async () => {
        one.ariaPressed = String(one.ariaPressed !== "true");
        await show(view());
        keep();
      });
    return {name: figure.id, view, show, isolate};
  }

  // As #figure-loss=log&budget=1e18.
  function keep() {
    const found = Object.fromEntries(figures.map((one) => [one.name, one.view()]).filter(([, view]) => view));
    if (shown.budget !== null) found.budget = shown.budget;
    keepAddress("figures", found);
  }

  async function restore() {
    if (Number(linked.get("budget")) > 0) shown.budget = Number(linked.get("budget"));
    for (const one of figures) if (linked.has(one.name)) await one.show(linked.get(one.name));
    for (const one of figures) one.isolate();
    keep();
  }

  if (figures.some((one) => linked.has(one.name)) || linked.has("budget")) restore();
}

if (page.figures) startFigures(page.figures);
