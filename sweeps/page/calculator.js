// The arithmetic of `nextscale forecast`, number by number: see frontier.py, estimate.py and forecast.py of nextscale.fit.
const GRID = 400, RANGE = 100, NEAR = 0.001, FAR = 10, STEPS = 12, HALF = 0.01, WITHIN = 0.2, ALIKE = 1.1, APART = 1.5, YEAR = 365.25 * 86400;

function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float64Array(bytes.buffer);
}

function forecaster(told) {
  const laws = told.laws.map((law) => ({...law, theta: unpacked(law.theta)}));
  const surprise = unpacked(told.errors.surprise), scatter = told.errors.scatter && unpacked(told.errors.scatter);
  const known = unpacked(told.cost.x), cubics = unpacked(told.cost.cubics);
  // Of each resample its law, and where among which parameter vectors its own begins.
  const draws = new Array(surprise.length);
  for (const {law, rows, thetas} of told.draws) {
    const packed = unpacked(thetas), size = laws[law].theta.length;
    rows.forEach((row, i) => (draws[row] = {law: laws[law], theta: packed.subarray(i * size, (i + 1) * size)}));
  }

  // log FLOPs per token of a size, by the logarithm of the size.
  function logCost(x) {
    const last = known.length - 1, inside = Math.min(Math.max(x, known[0]), known[last]);
    let i = 0;
    while (i < last - 1 && inside >= known[i + 1]) i++;
    const h = inside - known[i];
    let y = told.cost.y;
    if (last > 0) y = ((cubics[i] * h + cubics[last + i]) * h + cubics[2 * last + i]) * h + cubics[3 * last + i];
    const [below, above] = told.cost.slopes;
    return y + below * Math.min(x - known[0], 0) + above * Math.max(x - known[last], 0);
  }

  // The loss under one law, by the logarithms of size and tokens.
  function lossOf({terms}, theta, logN, logD) {
    let sum = 0;
    for (const [coefficient, powers] of terms) {
      let log = theta[coefficient];
      for (const [variable, exponent, times] of powers)
        log -= times * theta[exponent] * (variable === "N" ? logN : logD);
      sum += Math.exp(log);
    }
    return sum;
  }

  // The loss that is forecast: the weighted mean of the laws' logarithms.
  function central(logN, logD) {
    if (laws.length === 1) return lossOf(laws[0], laws[0].theta, logN, logD);
    let log = 0;
    for (const law of laws) log += law.weight * Math.log(lossOf(law, law.theta, logN, logD));
    return Math.exp(log);
  }

  // The losses that a run may measure so many e-folds beyond the runs, one by each resample.
  function measurable(logN, logD, reach) {
    const {grows} = told.errors, far = grows && Math.max(reach, grows.nearest);
    const near = grows && Math.min(far, Math.max(grows.tested, grows.nearest));
    const growth = grows ? (near ** grows.power * far) / near : reach;
    const untested = grows ? Math.min(Math.max(1 - grows.tested / far, 0), 1) : 1;
    return surprise.map((error, r) => {
      const {law, theta} = draws[r], own = lossOf(law, theta, logN, logD);
      const centre = untested < 1 ? lossOf(law, law.theta, logN, logD) : own;
      return centre * (own / centre) ** untested * Math.exp((scatter ? scatter[r] : 0) + error * growth);
    });
  }

  // A minimum to all digits, from near it: Newton's method on the central difference.
  function polished(at, start) {
    let x = start, first;
    for (let i = 0; i < STEPS; i++) {
      const [left, middle, right] = [at(x - HALF), at(x), at(x + HALF)], curvature = left - 2 * middle + right;
      first ??= middle;
      if (!(curvature > 0)) break;
      const step = (0.5 * HALF * (left - right)) / curvature;
      x = Math.min(Math.max(x + step, start - WITHIN), start + WITHIN);
      if (Math.abs(step) < Math.max(1e-9, (4 * Number.EPSILON * middle * HALF) / curvature)) return [x, middle];
    }
    return [start, first];
  }

  return function forecast(flops) {
    const growth = Math.max(flops / told.flops[1], 1);
    const first = Math.log(told.params[0] / RANGE), last = Math.log(told.params[1] * RANGE * growth);
    const logN = Float64Array.from({length: GRID}, (_, i) => first + ((last - first) * i) / (GRID - 1));
    const logD = logN.map((x) => Math.log(flops) - logCost(x));
    const step = logN[1] - logN[0];
    const sizes = new Float64Array(draws.length + 1), tokens = new Float64Array(draws.length + 1);
    let best, interior, near;
    const losses = new Float64Array(GRID);
    for (let draw = 0; draw <= draws.length; draw++) {
      const {law, theta} = draws[draw - 1] ?? {};
      let lowest = 0;
      for (let i = 0; i < GRID; i++) {
        losses[i] = draw ? lossOf(law, theta, logN[i], logD[i]) : central(logN[i], logD[i]);
        if (losses[i] < losses[lowest]) lowest = i;
      }
      // By a parabola through the lowest point and its neighbours.
      const centre = Math.min(Math.max(lowest, 1), GRID - 2);
      const left = losses[centre - 1], middle = losses[centre], right = losses[centre + 1];
      const curvature = left - 2 * middle + right;
      const shift = curvature > 0 ? Math.min(Math.max((0.5 * (left - right)) / curvature, -1), 1) : 0;
      let x = logN[centre] + shift * step;
      if (draw === 0) {
        best = middle - 0.25 * (left - right) * shift;
        interior = lowest > 0 && lowest < GRID - 1;
        if (interior) [x, best] = polished((at) => central(at, Math.log(flops) - logCost(at)), x);
        const good = logN.filter((_, i) => losses[i] <= losses[lowest] * (1 + NEAR));
        near = [Math.exp(good[0]), Math.exp(good[good.length - 1])];
      }
      sizes[draw] = Math.exp(x);
      tokens[draw] = Math.exp(Math.log(flops) - logCost(x));
    }
    const reach = Math.max(Math.log(flops / told.flops[1]), 0);
    const measured = measurable(Math.log(sizes[0]), Math.log(tokens[0]), reach);
    const ratios = tokens.map((value, draw) => value / sizes[draw]);
    const other = told.minima && told.minima[0] * flops ** told.minima[1];
    const lossAt = (size) => central(Math.log(size), Math.log(flops) - logCost(Math.log(size)));
    const known = (values) => (interior ? {value: values[0], interval: interval(values[0], values.subarray(1))} : null);
    return {
      flops,
      reach: flops / told.flops[1],
      below: flops / told.flops[0],
      near: interior ? near : null,
      minima: other && interior ? {params: other, loss: lossAt(other)} : null,
      loss: {value: best, interval: interval(best, measured)},
      params: known(sizes),
      tokens: known(tokens),
      tokens_per_param: known(ratios),
    };
  };

  // Of draws, and the value that it is of, which it holds.
  function interval(value, draws) {
    const sorted = Float64Array.from(draws).sort();
    const [low, high] = [(1 - told.level) / 2, (1 + told.level) / 2].map((share) => {
      const at = share * (sorted.length - 1), i = Math.floor(at);
      return sorted[i] + (at - i) * ((sorted[i + 1] ?? sorted[i]) - sorted[i]);
    });
    return [Math.min(low, value), Math.max(high, value)];
  }
}

function three(value) {
  return value >= 1e-3 && value < 1e5 ? String(Number(value.toPrecision(3))) : raised(value);
}

// 28.7k, 3.53M, 70B: to three digits.
function counted(value, digits = 3) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (value >= (1 - 0.5 / 10 ** digits * 10) * size && value < 1e16) return Number((value / size).toPrecision(digits)) + letter;
  return value >= 1e-3 && value < 1e16 ? String(Number(value.toPrecision(digits))) : raised(value, digits);
}

// 10²¹, 1.56×10¹²: as people write it.
function raised(value, digits = 3) {
  const [front, exponent] = value.toExponential(digits - 1).split("e");
  const power = String(Number(exponent)).replace(/./g, (letter) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[letter] ?? "⁻");
  return Number(front) === 1 ? `10${power}` : `${Number(front)}×10${power}`;
}

const compute = (value, digits = 3) => (value >= 1e-3 && value < 1e5 ? String(Number(value.toPrecision(digits))) : raised(value, digits));
const FORMS = {flops: compute, usd: (value) => `$${counted(value)}`};

// The decimals of a loss, by the width of its interval.
function placesOf([low, high]) {
  const half = (high - low) / 2;
  return half > 0 ? Math.min(Math.max(Math.ceil(-Math.log10(half)), 2), 4) : 4;
}

function formOf(name, found) {
  if (name !== "loss" && name !== "bits_per_byte") return FORMS[name] ?? counted;
  return (value) => value.toFixed(placesOf(found.interval));
}

// The answer as one sentence, and how well such a forecast was tested: in the words of sentences.py.
function sentence(told, amount, unit, cluster, costs) {
  const on = cluster ? ` on ${cluster.chips} ${cluster.accelerator}` : "";
  const asked = {flops: `${compute(amount)} FLOPs`, usd: `$${counted(amount, 3)}${on}`, days: `${compute(amount)} days${on}`}[unit] ??
    `${counted(amount, 3)} device-hours${on}`;
  const [low, high] = told.loss.interval, places = placesOf(told.loss.interval);
  const [loss, from, to] = [told.loss.value, low, high].map((value) => value.toFixed(places));
  const parts = told.params ? [`a ${counted(told.params.value, 3)} model on ${counted(told.tokens.value, 3)} tokens`] : [];
  if (costs.usd && unit !== "usd") parts.push(money(costs.usd.value));
  if (costs.days && unit !== "days") parts.push(lasting(86400 * costs.days.value));
  const level = `${Math.round(100 * page.calculator.level)}%${told.reach > 1 && !bandOf(told.reach) ? ", untested" : ""}`;
  return `With ${asked}: ${[...parts, `loss ${loss} (${level}: ${from} to ${to})`].join(", ")}.`;
}

function lasting(seconds) {
  for (const [size, unit, least] of [[YEAR, "years", 2 * YEAR], [86400, "days", 172800], [3600, "h", 7200], [60, "min", 120]])
    if (seconds >= least) return `${Number((seconds / size).toPrecision(3)).toLocaleString("en-US")} ${unit}`;
  return seconds < 1 ? "less than a second" : `${Number(seconds.toPrecision(3))} s`;
}

const share = (value) => `${compute(100 * value)}%`, ends = (values, form) => values.map((one) => form(one)).join(" to ");

// What time and cost hang on: in the words of sentences.py.
function costBasis(told, unit, cluster, costs, forecast) {
  if (!cluster) return "";
  const basis = cluster.basis.split(/,| \(/)[0], bought = unit !== "flops", range = cluster.range;
  const at = `At ${share(cluster.utilisation)} of the chips' peak, ${basis}`;
  if (!range) return `${at}; at half of that ${bought ? "a budget buys half the compute" : "time and cost double"}.`;
  const who = basis === "assumed" ? "published runs of large models" : "nine tenths of their compute";
  const reached = `${at}; ${who} reached ${ends(range, share)}`, there = `${reached}, at which `;
  if (bought) {
    const flops = range.map((end) => (told.flops * end) / cluster.utilisation);
    const losses = ends(flops, (one) => forecast(one).loss.value.toFixed(placesOf(told.loss.interval)));
    return `${there}this buys ${ends(flops, compute)} FLOPs and a loss of ${losses}.`;
  }
  const of = (name, form) => ends([...range].reverse().map((end) => (costs[name].value * cluster.utilisation) / end), form);
  if ((costs.device_hours.value * cluster.utilisation) / range[0] < 1e-3) return `${reached}.`;
  const money = costs.usd ? ` and $${of("usd", (usd) => counted(usd)).replace(" to ", " to $")}` : "";
  return `${there}this takes ${of("device_hours", (hours) => counted(hours))} device-hours, ${of("days", (days) => compute(days))} days${money}.`;
}

function trust(told, test) {
  const {reach} = told, rest = restsOn(page.calculator.members);
  if (reach <= 1) return {grade: "inside the runs", sentence: "That lies inside the runs."};
  const band = bandOf(reach), far = `That is ${compute(reach)} times the largest run fitted`;
  if (!band) {
    const {furthest, problem} = page.calculator.tested;
    const short = !problem && furthest > 1 && furthest < reach ? ` (${compute(furthest)} times)` : "";
    return {grade: "untested", sentence: `${far}, further than backtests of this forecast reached${short}: nothing tested the interval${reach >= 30 ? advice(reach, ...test((10 * told.flops) / reach)) : ""}.${rest}`};
  }
  const often = band.cuts >= 2, half = halfOf(told.loss), narrow = band.error > half;
  const more = narrow ? `, more than the interval's ±${(100 * half).toFixed(2)}%: it may be too narrow` : "";
  const missed = `missed the loss by ${(100 * band.error).toFixed(2)}%${more}.${rest}`;
  return {
    grade: narrow ? "too narrow" : often ? "tested" : "tested once",
    sentence: `${far}; ${often ? "backtests" : "one backtest"} of such a reach ${missed}`,
  };
}

// The run that would test a forecast.
function advice(reach, {params, tokens, loss}, {usd}) {
  const model = params ? ` a ${counted(params.value, 3)} model on ${counted(tokens.value, 3)} tokens` : "";
  const price = usd ? ` for ${money(usd.value)}` : "";
  const share = `1/${compute(reach / 10)} of this`, losses = ends(loss.interval, (end) => end.toFixed(placesOf(loss.interval)));
  return `. First train a run 10 times the largest${model || price ? "," : ""}${model}${price} (${share}): a loss of ${losses} there bears the forecast out up to there`;
}

const money = (usd) => (usd < 0.01 ? "less than a cent" : `$${counted(usd, 3)}`);
const halfOf = ({value, interval: [low, high]}) => (high - low) / 2 / value;

// Which law has most of the weight of a forecast by several, where one has.
function restsOn(members) {
  const weights = new Map();
  for (const [law, weight] of members) weights.set(law, (weights.get(law) ?? 0) + weight);
  const [law, most] = [...weights].reduce((one, other) => (other[1] > one[1] ? other : one), ["", 0]);
  const percent = Math.round(100 * most);
  return most > 0.5 ? ` It rests on one law, ${law}${percent < 100 ? ` (${percent}% of the weight)` : ""}.` : "";
}

// Laws under which no model comes to the loss that is forecast.
function contradicted({loss: {value}}) {
  const {members} = page.calculator;
  const above = members.filter(([, , limit]) => limit > value), n = above.length;
  if (members.length < 2 || !n) return [];
  const weight = above.reduce((sum, one) => sum + one[1], 0), limit = Math.min(...above.map((one) => one[2]));
  return [`${n} of the ${members.length} fits that the forecast is a mean of (weight ${Math.round(100 * weight)}%) ` +
    `${n === 1 ? "says" : "say"} that no model comes below a loss of ${limit.toFixed(2)}, and ${n === 1 ? "contradicts" : "contradict"} ` +
    `the ${value.toFixed(2)} that is forecast.`];
}

function exact(value, form) {
  const element = document.createElement("data");
  element.value = String(value);
  element.textContent = form(value);
  return element;
}

function answer(told) {
  for (const row of document.querySelectorAll("#forecast-answer tbody tr")) {
    const found = told && told[row.dataset.row], form = formOf(row.dataset.row, found);
    const [value, bounds] = row.querySelectorAll("td");
    const ends = found && found.interval, range = ends ? [exact(ends[0], form), " – ", exact(ends[1], form)] : [];
    const isRange = found && found.value === undefined;  // which is no interval of anything
    value.replaceChildren(...(!found ? ["–"] : isRange ? range : [exact(found.value, form)]));
    bounds.replaceChildren(...(!found ? ["–"] : isRange ? [] : range));
  }
}

// From and to which reach a step of a backtest is.
function endsOf(band) {
  const [low, high] = band.reach.split("-").map((end) => (end === "inf" ? Infinity : Number(end)));
  return [low, Math.min(high, page.calculator.tested.furthest)];
}

// What a backtest says of a reach; undefined within the runs, and where no run lay so far beyond a cut.
function bandOf(reach) {
  return page.calculator.tested.bands.find((band) => {
    const [low, high] = endsOf(band);
    return low < reach && reach <= high * (1 + 1e-9);
  });
}

// An interval that is narrower than what backtests of such a reach missed by, in the words of the command.
function warned(told) {
  const found = bandOf(told.reach), {bands} = page.calculator.tested, band = found ?? bands[bands.length - 1];
  const half = halfOf(told.loss);
  if (!(told.reach > 1) || !band || !(band.error > half)) return [];
  const reach = found ? "such a reach" : `${endsOf(band).map(three).join(" to ")} times, a shorter reach,`;
  const widened = page.calculator.errors.grows ? "is made of what each law missed in backtests, and that is too little"
    : page.calculator.widened ? "is widened already by what the forecast of the largest budget missed, and that is too little"
    : "allows for the resamples of the law and the scatter of runs alone";
  const missed = (100 * band.error).toFixed(2), room = (100 * half).toFixed(2);
  return [`The interval may be too narrow: backtests of ${reach} missed the loss by ${missed}% on average, more than the interval's ±${room}%; it ${widened}.`];
}

// Whether the lowest points of the runs' own budgets lead to another best size than the law does.
function byMinima(told, apart = APART) {
  const {minima} = told;
  if (!minima || Math.abs(Math.log(minima.params / told.params.value)) < Math.log(apart)) return [];
  const sure = apart === APART ? " The interval of the size is the law's alone: where they lie so far apart neither is sure." : "";
  const more = (100 * (minima.loss / told.loss.value - 1)).toPrecision(2);
  return [`The best sizes at the runs' own budgets (isoFLOP minima) lead to ${counted(minima.params, 3)} parameters here, ` +
    `the law to ${counted(told.params.value, 3)}; by the law ${counted(minima.params, 3)} would raise the loss by ${Number(more)}%.${sure}`];
}

// What is to be known of an answer, in the words of the command.
function said(told) {
  const lines = [], {furthest, problem, bands} = page.calculator.tested, band = bandOf(told.reach);
  if (told.params === null) lines.push("The loss falls to the end of the sizes searched: there is no optimum.");
  if (byMinima(told, ALIKE).length && !byMinima(told).length) lines.push(...byMinima(told, ALIKE));
  if (told.below < 1 / FAR)
    lines.push(`This is ${three(told.below)} times the smallest run fitted: nothing here tested the law so far down.`);
  if (band) {
    const error = (100 * band.error).toFixed(2), spread = band.se === null ? "" : ` ± ${(100 * band.se).toFixed(2)}`;
    lines.push(`Backtests of such a reach missed by ${error}${spread} % (${endsOf(band).map(three).join(" to ")} times the runs they were fitted to; backtests: ${band.cuts}).`);
  } else if (told.reach > 1 && !problem) {
    lines.push(`Backtests of this forecast reached ${three(furthest)} times beyond the runs that they were fitted to, and say nothing of more.`);
    const percent = (value) => `${(100 * value).toFixed(2)}%`;
    const missed = bands.map((one) => `${percent(one.error)} at ${endsOf(one).map(three).join(" to ")} times`).join(", ");
    const low = bands.every(({bias}) => bias < 0), side = low ? "below" : bands.every(({bias}) => bias > 0) ? "above" : "";
    lines.push(`They missed by ${missed}${side && `; on average the loss came out ${side} the forecast at each`}.`);
  }
  return lines;
}

function assumed(cluster, {flops, params, tokens}) {
  const each = params && three(flops / params.value / tokens.value);
  const cost = each && each !== "6" ? [`A token of this model takes ${each} FLOPs per parameter.`] : [];
  if (!cluster) return cost;
  return [...cost, `The peak of a chip is ${raised(cluster.peak_flops, 4)} FLOP/s.`,
    cluster.price === null ? "No price is known." : `$${cluster.price} per chip-hour, ${cluster.priced}.`];
}

// Where a budget stands on the first figure, and the loss that it buys; at the edge, without a line, that it lies beyond.
// A budget that is new is sought on the view that goes further, where there is one.
function mark(flops, loss, isNew) {
  const drawing = document.querySelector("#figure-loss svg[data-frame]");
  if (!drawing) return;
  const further = document.querySelector("#figure-loss [data-switch=further]");
  const {a: share, x, y, inside, bottom, top} = placeOn(drawing, flops, loss);
  if (isNew && share > 1 && further?.ariaPressed === "false") further.click();
  const group = shape("g", {class: "budget", stroke: "var(--ink)", fill: "var(--ink)"});
  if (share >= 0 && share <= 1) group.append(shape("line", {x1: x, x2: x, y1: top, y2: bottom, "stroke-dasharray": "3 3"}));
  if (inside) group.append(shape("circle", {cx: x, cy: y, r: 3.5}));
  // Losses fall with compute: the corners above the last and below the first are free.
  const [dx, y0, anchor] = share > 0.5 ? [-5, top + 9, "end"] : [5, bottom - 6, "start"];
  const words = shape("text", {x: x + dx, y: y0, "font-size": 9, stroke: "none", "text-anchor": anchor});
  const bought = `your budget: loss ${loss.toFixed(2)}`;
  words.textContent = share > 1 ? `${bought}, far beyond →` : share < 0 ? `← ${bought}` : bought;
  group.append(words);
  drawing.querySelector(".budget")?.remove();
  drawing.append(group);
}

// What a field takes; numbers are written as the command takes them.
const DECIMAL = /^(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i, SHORT = /^\$?(\d+\.?\d*|\.\d+)([kMBT]?)$/;
const TIMES = {"": 1, k: 1e3, M: 1e6, B: 1e9, T: 1e12};
const WANTED = {
  budget: {low: 1e-9, high: 1e40, short: true, what: "a number above 0, such as 1e21 or $2M"},
  chips: {low: 1, high: 1e7, whole: true, what: "a whole number from 1 to 10 million"},
  utilisation: {low: 0.001, high: 1, what: "a share of the peak from 0.001 to 1"},
  price: {low: 0, high: 1e9, open: true, what: "dollars, 0 or more, or nothing where no price is known"},
};

// The number in a field; null where there is none, and where it cannot be used, which a line of `problems` tells.
function numberIn(input, problems) {
  const {low, high, whole, open, short, what} = WANTED[input.name], text = input.value.trim();
  const [, amount, letter] = (short && SHORT.exec(text)) || [];
  const value = DECIMAL.test(text) ? Number(text) : amount ? Number(`${amount}e0`) * TIMES[letter] : NaN;
  const sound = value >= low && value <= high && (!whole || Number.isInteger(value));
  const wrong = !sound && !(open && text === "");
  input.setAttribute("aria-invalid", String(wrong));
  if (wrong) problems.push(`${input.labels[0].textContent}: type ${what}${text && `, not ${text}`}.`);
  return sound ? value : null;
}

function startCalculator(told, form) {
  const forecast = forecaster(told), fields = form.elements;
  const chosen = () => told.hardware.find(({accelerator}) => accelerator === fields.on.value);

  // The hardware as it is typed; null where there is none.
  function cluster(problems) {
    if (!told.hardware.length) return null;
    const known = chosen(), before = problems.length, stated = fields.utilisation.value !== fields.utilisation.dataset.usual;
    const chips = numberIn(fields.chips, problems), price = numberIn(fields.price, problems);
    // What was measured may be less than anybody would state.
    const utilisation = stated ? numberIn(fields.utilisation, problems) : known.utilisation;
    if (!stated) fields.utilisation.setAttribute("aria-invalid", "false");
    if (problems.length > before) return null;
    const own = fields.price.value !== fields.price.dataset.usual;
    return {
      ...known, chips, price, utilisation,
      basis: stated ? "as stated" : known.utilisation_basis,
      range: stated ? null : known.utilisation_range,
      priced: own ? "as stated" : known.priced,
      option: ` --on ${known.accelerator}x${chips}` + (stated ? ` --utilisation ${utilisation}` : "") +
        (own && price !== null ? ` --price ${price}` : ""),
    };
  }

  function perDeviceHour(one) {
    return 3600 * one.peak_flops * one.utilisation;
  }

  // FLOPs that a budget buys; null where nobody can say.
  function bought(amount, unit, one) {
    if (unit === "flops" || amount === null) return amount;
    if (!one) return null;
    if (unit === "days") return amount * 24 * one.chips * perDeviceHour(one);
    if (unit === "device-hours") return amount * perDeviceHour(one);
    return one.price ? (amount / one.price) * perDeviceHour(one) : null;
  }

  function costs(flops, one) {
    if (!one) return {};
    const hours = flops / perDeviceHour(one);
    const found = {device_hours: hours, days: hours / (24 * one.chips)};
    if (one.price !== null) found.usd = hours * one.price;
    if (one.watts !== null) found.kwh = (hours * one.watts) / 1000;
    return Object.fromEntries(Object.entries(found).map(([name, value]) => [name, {value, interval: null}]));
  }

  function tell(text, {grade, sentence}) {
    document.querySelector(".trust").hidden = !grade;
    document.getElementById("forecast-grade").dataset.grade = grade;
    for (const [name, shown] of [["sentence", text], ["grade", grade], ["trust", sentence]])
      document.getElementById(`forecast-${name}`).textContent = shown;
  }

  // The form as the end of an address, #flops=1e21&on=h100x64, and back.
  function keep() {
    const shown = {[fields.unit.value]: fields.budget.value.trim()};
    if (fields.on) shown.on = `${fields.on.value}x${fields.chips.value.trim()}`;
    for (const name of ["utilisation", "price"])
      if (fields[name] && fields[name].value !== fields[name].dataset.usual) shown[name] = fields[name].value.trim();
    keepAddress("calculator", shown);
  }

  function restore() {
    const unit = [...fields.unit.options].find(({value}) => linked.has(value));
    if (!unit) return;
    fields.unit.value = unit.value;
    fields.budget.value = linked.get(unit.value);
    const [, name, chips] = (linked.get("on") ?? "").match(/^(.+)x(\d+)$/) ?? [];
    if (fields.on && told.hardware.some(({accelerator}) => accelerator === name)) {
      fields.on.value = name;
      fields.chips.value = chips;
      usual();
    }
    for (const field of ["utilisation", "price"]) if (fields[field] && linked.has(field)) fields[field].value = linked.get(field);
    keep();
  }

  function warn(texts) {
    document.getElementById("forecast-warned").replaceChildren(...texts.map((text) => element("p", text, "warning")));
  }

  function show(isNew = true) {
    const unit = fields.unit.value, typed = fields.budget.value.trim(), problems = [], one = cluster(problems);
    const dollars = typed.startsWith("$") && unit !== "usd";
    if (dollars) problems.push(`budget: ${typed} is in dollars; choose dollars, or type a number without $.`);
    const amount = dollars ? null : numberIn(fields.budget, problems), flops = bought(amount, unit, one);
    const sound = flops !== null && flops >= 1 && flops <= 1e40, note = document.getElementById("forecast-said");
    if (!sound && !problems.length)
      problems.push(flops === null ? "Without a price above 0 dollars buy no certain compute: type one."
        : `That is ${compute(flops)} FLOPs; a forecast is of 1 to 1e40.`);
    document.getElementById("forecast-command").textContent = sound
      ? `${told.command} --${unit} ${DECIMAL.test(typed) ? typed : amount}${one ? one.option : ""}` : told.command;
    if (!sound) {
      answer(null);
      document.getElementById("forecast-basis").textContent = "";
      warn(problems);
      tell("", {grade: "", sentence: ""});
      note.replaceChildren();
      return;
    }
    const found = forecast(flops), factor = told.bitsPerNat;
    const bits = factor && {value: factor * found.loss.value, interval: found.loss.interval.map((end) => factor * end)};
    const cost = costs(flops, one);
    answer({...found, near: found.near && {interval: found.near}, flops: {value: flops, interval: null}, bits_per_byte: bits, ...cost});
    document.getElementById("forecast-basis").textContent = costBasis(found, unit, one, cost, forecast);
    tell(sentence(found, amount, unit, one, cost), trust(found, (tested) => [forecast(tested), costs(tested, one)]));
    const narrow = warned(found), graded = bandOf(found.reach);
    const other = byMinima(found), bounds = document.querySelector("#forecast-answer th:last-child");
    bounds.textContent = `${bounds.dataset.level} interval${other.length ? " by the law" : ""}`;
    warn([...problems, ...(graded ? [] : narrow), ...contradicted(found), ...other]);
    note.replaceChildren(...[...(graded ? narrow : []), ...said(found)].map(line));
    document.getElementById("forecast-assumed").replaceChildren(...assumed(one, found).map(line));
    mark(flops, found.loss.value, isNew);
  }

  function element(kind, text, name = "") {
    const made = document.createElement(kind);
    made.textContent = text;
    made.className = name;
    return made;
  }

  const line = (text) => element("li", text);

  function usual() {
    const known = chosen();
    fields.utilisation.value = fields.utilisation.dataset.usual = String(Number(known.utilisation.toPrecision(3)));
    fields.price.value = fields.price.dataset.usual = known.usd_per_chip_hour ?? "";
  }

  if (told.hardware.length) {
    fields.on.addEventListener("change", usual);
    usual();
  }
  restore();
  form.addEventListener("input", (event) => {
    const dollars = event.target === fields.budget && fields.budget.value.trim().startsWith("$");
    if (dollars && told.hardware.length) fields.unit.value = "usd";
    show();
    keep();
  });
  document.addEventListener("redrawn", () => show(false));
  form.addEventListener("submit", (event) => event.preventDefault());
  show(!linked.has("figure-loss"));  // an address says itself which view it is of
}

if (page.calculator) startCalculator(page.calculator, document.querySelector("form.calculator"));
