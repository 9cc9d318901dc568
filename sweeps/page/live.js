// How the sweep stands, asked again and again. What has not changed is left alone, so that nothing flickers.
const SOON = 2000, HIDDEN = 30000, LATEST = 15000, PATIENCE = 10000;
const $ = (id) => document.getElementById(id);
let told = null, tag = "", heard = null, missed = 0, timer = 0, ahead = 0;

async function ask() {
  try {
    const options = {headers: tag ? {"If-None-Match": tag} : {}, signal: AbortSignal.timeout(PATIENCE)};
    const answer = await fetch("api/status", options);
    if (answer.status === 200) {
      told = await answer.json();
      tag = answer.headers.get("ETag");
      show();
    } else if (answer.status !== 304) throw new Error(answer.statusText);
    ahead = Date.parse(answer.headers.get("Date")) - Date.now();
    heard = Date.now();
    missed = 0;
  } catch {
    missed += 1;
  }
  silence();
  clearTimeout(timer);  // of another that was on its way
  timer = setTimeout(ask, document.hidden ? HIDDEN : Math.min(SOON * 2 ** missed, LATEST));
}

function silence() {
  $("silence").hidden = !missed;
  document.body.classList.toggle("stale", missed > 0);
  if (missed) write($("silence"), heard
    ? `No answer since ${clock(heard / 1000)}; what is below is from then. Asking again and again.`
    : "No answer yet. Asking again and again.");
}

// Numbers, as the tables of the command write them.
function number(value, digits = 3) {
  if (value === null || value === undefined) return "-";
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)) return String(+value.toPrecision(digits));
  return raised(value);
}
// As people write it, 1.56×10¹²; as in calculator.js.
function raised(value) {
  const [front, exponent] = value.toExponential(2).split("e");
  const power = String(Number(exponent)).replace(/./g, (letter) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[letter] ?? "⁻");
  return Number(front) === 1 ? `10${power}` : `${Number(front)}×10${power}`;
}
function count(value) {
  if (value === null || value === undefined) return "-";
  for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (value >= 0.9995 * size) return +(value / size).toPrecision(3) + letter;
  return String(+value.toPrecision(3));
}
function duration(seconds) {
  for (const [size, unit, least] of [[86400, "d", 172800], [3600, "h", 7200], [60, "min", 120]])
    if (seconds >= least) return `${+(seconds / size).toPrecision(3)} ${unit}`;
  return `${Math.max(0, Math.round(seconds))} s`;
}
const loss = (value) => (value === null || value === undefined ? "-" : value.toFixed(4));
const percent = (value) => `${Math.floor(value * 100)} %`;
const now = () => (Date.now() + ahead) / 1000;
function clock(time) {
  const date = new Date(time * 1000), today = new Date().toDateString() === date.toDateString();
  const hour = date.toLocaleTimeString(undefined, {hour12: false});
  return today ? hour : `${date.toLocaleDateString()} ${hour}`;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function element(kind, text = "", name = "") {
  const node = document.createElement(kind);
  node.textContent = text;
  if (name) node.className = name;
  return node;
}
// As many children as there are things, each written over, not made anew.
function fill(parent, things, kind, put) {
  while (parent.children.length > things.length) parent.lastElementChild.remove();
  while (parent.children.length < things.length) parent.append(document.createElement(kind));
  things.forEach((thing, i) => put(parent.children[i], thing));
}
// A cell is text, or {text, share, name}: with a small bar, of a class.
function rows(name, things, cells) {
  const body = document.querySelector(`table[data-name="${name}"]`).tBodies[0];
  const headings = body.parentNode.tHead.rows[0].cells;
  const box = body.closest(".scroll");
  for (const part of [box, box.previousElementSibling, box.nextElementSibling]) part.hidden = !things.length;
  fill(body, things.map(cells), "tr", (row, texts) => fill(row, texts, "td", (cell, one) => {
    const {text, share, name: own} = typeof one === "object" ? one : {text: one};
    const left = headings[cell.cellIndex].className;
    cell.className = [left, own].filter(Boolean).join(" ");
    if (share === undefined) return write(cell, text);
    if (!cell.querySelector(".track")) {
      cell.replaceChildren(element("span", "", "track"), element("span"));
      cell.firstChild.append(element("i"));
    }
    cell.querySelector(".track i").style.width = `${share * 100}%`;
    write(cell.lastChild, text);
  }));
}
function section(id, shown) {
  $(id).hidden = !shown;
  document.querySelector(`nav a[href="#${id}"]`).hidden = !shown;
}

function show() {
  const begun = told.begun && told.runs;
  const problem = $("problem");
  problem.hidden = !told.problem;
  if (told.problem) write(problem, begun
    ? `Since ${clock(told.at)} the folder cannot be read: ${told.problem}. What is below is from before.`
    : `${told.out} holds no sweep yet. This page fills as soon as nextscale run begins one there (--out ${told.out}).`);
  for (const id of ["cost", "where", "losses", "events"]) section(id, begun);
  for (const id of ["failures", "forecasts", "report"]) section(id, false);
  for (const id of ["progress", "counts", "left", "others"]) $(id).hidden = !begun;
  $("state").hidden = !begun;
  if (!begun) return;
  const sweep = told.sweeps[0];
  standing(sweep);
  costs();
  where();
  losses();
  section("failures", told.failed.length);
  rows("failed", told.failed, (run) => [run.run_id, run.what, String(run.attempts), {text: run.reason, name: "why"}]);
  section("forecasts", told.forecasts.length || told.narrowing.length);
  narrowing();
  rows("forecasts", told.forecasts.flatMap(targets), (cells) => cells);
  section("events", told.events.length);
  rows("events", told.events, (event) => [
    {text: clock(event.time), name: "fixed"}, {text: event.event, name: "fixed"}, {text: event.run_id ?? "", name: "fixed"},
    {text: event.text, name: "why"},
  ]);
  report();
  tick();
}

function standing(sweep) {
  const states = {"at work": ["at work", "alive"], silent: ["silent", "dead"], none: ["nobody is at work", "quiet"]};
  const runs = sweep ? sweep.runs : told.runs;
  const waiting = runs["not started"] + runs.unfinished;
  const ended = !waiting && !runs.running && told.controller === "none";
  const [word, name] = ended ? ["ended", "alive"] : states[told.controller];
  const who = told.holder.host ? `process ${told.holder.pid} on ${told.holder.host}` : "";
  const said = {
    "at work": who,
    silent: `${who} has given no sign of life for a while; the same nextscale run goes on from here`,
    none: ended ? "" : "the same nextscale run goes on from here",
  }[told.controller];
  write($("state").firstChild, word);
  write($("state").lastChild, said);
  $("state").firstChild.className = name;
  const [done, planned] = sweep ? sweep.flops : told.flops;
  const share = planned ? done / planned : 0;
  const title = sweep ? sweep.name : told.out;
  write(document.querySelector("h1"), title);
  document.title = `${percent(share)} · ${title}`;
  write(document.querySelector(".top .quiet"), told.out);
  $("progress").setAttribute("aria-valuenow", String(Math.floor(share * 100)));
  fill($("progress"), [["done", share]], "i", (node, [kind, width]) => {
    node.className = kind;
    node.style.width = `${width * 100}%`;
  });
  const counts = [[runs.done, "done"], [runs.running, "running"], [waiting, told.controller === "at work" ? "waiting" : "left"],
    [runs.failed, "failed"], [runs.diverged, "diverged"]];
  fill($("counts"), counts.filter(([n, what]) => n || what === "done" || what === "failed"), "span", (node, [n, what]) => {
    node.replaceChildren(element("b", String(n)), ` ${what}`);
    node.className = n && (what === "failed" || what === "diverged") ? "dead" : "";
  });
  const others = told.sweeps.slice(1).map((one) => {
    const all = Object.values(one.runs).reduce((a, b) => a + b, 0);
    return `${one.name}, ${one.runs.done} of ${all} runs done`;
  });
  $("others").hidden = !others.length;
  write($("others"), `Earlier in this folder: ${others.join("; ")}.`);
  const warnings = [...told.alarms, told.ledger_problem, ...(told.summary?.warnings ?? [])].filter(Boolean);
  fill($("warnings"), warnings, "p", (node, text) => {
    write(node, text);
    node.className = "warning";
  });
}

// What moves with the clock, and not with the sweep.
function tick() {
  if (!told?.sweeps) return;
  const left = told.time_left, sweep = told.sweeps[0];
  let text = "";
  if (left) {
    const rest = left.ends - now();
    const basis = left.timed ? `${left.timed} timed attempts` : "the pace of those at work";
    text = `about ${duration(Math.max(rest, 0))} left, until ${clock(left.ends)} (by ${basis}, on ${left.slots} slots)`;
    if (sweep.more) text += ", for the runs chosen so far; more are chosen as results land";
  } else if (told.controller === "at work") text = "how long it will take is not known before a run has shown its pace";
  write($("left"), text);
  for (const node of document.querySelectorAll("[data-since]")) write(node, duration(now() - node.dataset.since));
  const wall = told.costs.find((one) => one.cap === "max_wall");
  if (wall && wall.until === null) cost($("costs").lastElementChild, {...wall, spent: (now() - wall.since) / 3600});
}

const UNITS = {max_flops: "FLOPs trained", max_usd: "dollars", max_device_hours: "device-hours", max_wall: "since the first start"};
function amount(cap, value) {
  if (cap === "max_usd") return `$${value.toFixed(2)}`;
  return cap === "max_wall" ? duration(value * 3600) : number(value);
}
function cost(node, one) {
  if (!node.children.length) {
    node.className = "fact";
    node.append(element("dt"), element("dd"), element("dd"), element("dd", "", "meter"));
    node.lastChild.append(element("i"), element("i"));
  }
  const [heading, spent, rest, meter] = node.children;
  write(heading, UNITS[one.cap]);
  write(spent, amount(one.cap, one.spent));
  const parts = [];
  if (one.limit !== null) parts.push(`of ${amount(one.cap, one.limit)}`);
  if (one.reserved) parts.push(`${amount(one.cap, one.reserved)} reserved`);
  if (one.cap === "max_flops" && told.spent.flops_lost) parts.push(`${number(told.spent.flops_lost)} of them lost`);
  if (one.limit === null && one.cap !== "max_wall") parts.push("no cap");
  write(rest, parts.join(", "));
  meter.hidden = one.limit === null;
  const share = one.limit ? one.spent / one.limit : 0;
  meter.classList.toggle("full", share >= 0.95);
  meter.children[0].style.width = `${Math.min(share, 1) * 100}%`;
  meter.children[1].style.width = `${one.limit ? Math.min(one.reserved / one.limit, Math.max(1 - share, 0)) * 100 : 0}%`;
}
function costs() {
  fill($("costs"), told.costs, "div", cost);
}

function where() {
  section("where", told.pools.length);
  rows("pools", told.pools, (pool) => [
    pool.pool, pool.accelerator, pool.slots ? `${pool.busy} of ${pool.slots}` : "-", String(pool.attempts), String(pool.vain),
    number(pool.device_hours), pool.usd.toFixed(2), pool.utilisation === null ? "-" : `${(pool.utilisation * 100).toFixed(1)} %`,
  ]);
  rows("lanes", told.lanes, (lane) => [
    lane.slot, lane.pool, lane.run_id ?? "idle", lane.what,
    lane.share === null ? "" : {text: percent(lane.share), share: lane.share}, lane.run_id ? loss(lane.loss) : "", "",
  ]);
  const body = document.querySelector('table[data-name="lanes"]').tBodies[0];
  told.lanes.forEach((lane, i) => (body.rows[i].cells[6].dataset.since = lane.since));
}

function losses() {
  const known = (curve) => curve.tokens.map((at, i) => [at, curve.loss[i]]).filter(([at, value]) => at > 0 && value > 0);
  const curves = told.curves.map((one, i) => ({name: `${one.slot}: ${one.what || one.run_id}`, colour: i, points: known(one), line: true}));
  draw($("curves"), curves.filter((one) => one.points.length),
    {x: "tokens", y: "training loss (nats/token)", xLog: true, yLog: true, format: count});
  const bySize = told.budgets.length > 0;
  const shown = (one) => `${one.run_id}: ${count(one.params)} params, ${count(one.tokens)} tokens, loss ${loss(one.loss)}`;
  const point = (one) => [bySize ? one.params : one.budget, one.loss, shown(one)];
  const groups = bySize
    ? told.budgets.map((budget) => [`${number(budget)} FLOPs`, told.results.filter((one) => one.budget === budget)])
    : ["fit", "holdout"].map((role) => [role === "fit" ? "fitted" : "", told.results.filter((one) => one.role === role)]);
  const series = groups.map(([name, results], colour) => {
    const points = results.map(point).sort((a, b) => a[0] - b[0]);
    const once = new Set(points.map(([x]) => x)).size === points.length;
    const heldOut = results[0]?.role === "holdout";
    return {name: [name, heldOut ? "held out" : ""].filter(Boolean).join(", "), colour, points, dots: true,
      line: bySize && once, open: heldOut};
  });
  draw($("results"), series.filter((one) => one.points.length),
    {x: bySize ? "parameters" : "FLOPs", y: "loss (nats/token)", xLog: true, yLog: false, format: bySize ? count : number});
  const caption = $("results").querySelector("figcaption");
  caption.replaceChildren(element("strong", "Done."), bySize ? " Held-out loss of each size, by budget." : " Held-out loss against compute.");
  section("losses", told.curves.length || told.results.length || told.newest.length);
  rows("newest", told.newest, (run) => [
    run.run_id, count(run.params), count(run.tokens), number(run.flops),
    run.status === "done" ? loss(run.loss) : `${run.status}: ${run.reason}`, loss(run.bits_per_byte), clock(run.time),
  ]);
}

function narrowing() {
  const points = told.narrowing.map((one) => [one.spent, 100 * one.half_width, `±${(100 * one.half_width).toFixed(2)} % after ${number(one.spent)} FLOPs`]);
  draw($("narrowing"), [{name: "interval at the target", colour: 0, points, line: true, dots: true}],
    {x: "FLOPs trained", y: "± % of the loss", xLog: true, yLog: true, format: number});
}

function targets(one) {
  const made = clock(Date.parse(one.time) / 1000);
  return one.targets.map((target) => {
    const [low, high] = target.interval;
    const outcome = target.measured === undefined ? "" : target.inside ? "inside" : "outside";
    return [made, one.law ?? "", number(target.flops), count(target.params), count(target.tokens), loss(target.predicted),
      `[${loss(low)}, ${loss(high)}]`, percent(one.level), target.measured === undefined ? "" : loss(target.measured),
      {text: one.started_before ? "no forecast: they had started" : outcome, name: outcome === "outside" ? "miss" : "hit"}];
  });
}

function report() {
  const frame = $("report-frame");
  section("report", true);
  const links = [["runs.csv", "runs.csv"], ...told.figures.map((name) => [name, `figures/${encodeURIComponent(name)}`])];
  if (told.report) links.unshift(["report.html", "report"]);
  fill($("files"), links, "a", (node, [text, target]) => {
    write(node, text);
    if (node.getAttribute("href") !== target) node.setAttribute("href", target);
  });
  frame.hidden = !told.report;
  if (told.report && frame.dataset.stamp !== told.report) {
    frame.dataset.stamp = told.report;
    frame.src = `report?${encodeURIComponent(told.report)}`;
  }
}
$("report-frame").addEventListener("load", () => {
  const inner = $("report-frame").contentDocument?.documentElement;
  if (inner) new ResizeObserver(() => ($("report-frame").style.height = `${inner.scrollHeight + 2}px`)).observe(inner);
});

document.addEventListener("visibilitychange", () => document.hidden || ask());
addEventListener("resize", () => told?.sweeps && (losses(), narrowing()));
setInterval(tick, 1000);
ask();
