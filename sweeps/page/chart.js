// Small charts: lines and dots on two axes, drawn anew from numbers whenever those are new.
const SVG = "http://www.w3.org/2000/svg";
const WIDEST = 640, NARROWEST = 300, HEIGHT = 340, LEFT = 58, RIGHT = 14, TOP = 12, BOTTOM = 44;

function drawn(kind, attributes, text) {
  const node = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Round values within a range: of a wide logarithmic one powers of ten, else steps of 1, 2 or 5.
function ticks(low, high, log) {
  if (log && high / low >= 20) {
    const steps = high / low > 2000 ? [1] : [1, 3];
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of steps) found.push(step * 10 ** power);
    return found.filter((value) => value >= low && value <= high);
  }
  const rough = (high - low) / 5 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

function axis(values, log) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = log ? [low / 1.5, high * 1.5] : [low - 0.5, high + 0.5];
  const f = log ? Math.log : (value) => value;
  const margin = (f(high) - f(low)) * 0.04;
  const [from, to] = [f(low) - margin, f(high) + margin];
  const back = log ? Math.exp : (value) => value;
  return {at: (value) => (f(value) - from) / (to - from), ticks: ticks(back(from), back(to), log)};
}

// series: [{name, colour, points: [[x, y, label]...], line, dots, open}]; colours are numbers, and come again after 8.
function draw(figure, series, {x, y, xLog, yLog, format}) {
  const svg = figure.querySelector("svg");
  const points = series.flatMap((one) => one.points);
  figure.hidden = !points.length;
  if (!points.length) return;
  const width = Math.max(NARROWEST, Math.min(WIDEST, figure.clientWidth));
  const across = axis(points.map((p) => p[0]), xLog), up = axis(points.map((p) => p[1]), yLog);
  const px = (value) => LEFT + across.at(value) * (width - LEFT - RIGHT);
  const py = (value) => HEIGHT - BOTTOM - up.at(value) * (HEIGHT - TOP - BOTTOM);
  const nodes = [];
  const room = across.ticks.filter((_, i) => width > 450 || i % 2 === 0);
  for (const value of room) {
    nodes.push(drawn("line", {class: "grid", x1: px(value), x2: px(value), y1: TOP, y2: HEIGHT - BOTTOM}));
    nodes.push(drawn("text", {x: px(value), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle"}, format(value)));
  }
  for (const value of up.ticks) {
    nodes.push(drawn("line", {class: "grid", x1: LEFT, x2: width - RIGHT, y1: py(value), y2: py(value)}));
    nodes.push(drawn("text", {x: LEFT - 7, y: py(value) + 4, "text-anchor": "end"}, String(+value.toPrecision(4))));
  }
  nodes.push(drawn("text", {x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle"}, x));
  const middle = (TOP + HEIGHT - BOTTOM) / 2;
  nodes.push(drawn("text", {x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})`}, y));
  for (const one of series) {
    const colour = `var(--series-${one.colour % 8})`;
    const places = one.points.map(([a, b]) => `${px(a).toFixed(1)} ${py(b).toFixed(1)}`);
    if (one.line) {
      const path = drawn("path", {d: "M" + places.join("L"), style: `stroke: ${colour}`});
      path.append(drawn("title", {}, one.name));
      nodes.push(path);
    }
    for (const [a, b, label] of one.dots ? one.points : one.points.slice(-1)) {
      const how = one.open ? {class: "dot open", style: `stroke: ${colour}`} : {class: "dot", style: `fill: ${colour}`};
      const dot = drawn("circle", {cx: px(a).toFixed(1), cy: py(b).toFixed(1), r: 3.6, ...how});
      dot.append(drawn("title", {}, label || one.name));
      nodes.push(dot);
    }
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("class", "chart");
  svg.replaceChildren(...nodes);
  figure.querySelector(".legend").replaceChildren(...series.map((one) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = `var(--series-${one.colour % 8})`;
    item.append(swatch, one.name);
    return item;
  }));
}
