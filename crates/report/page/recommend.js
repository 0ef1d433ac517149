// The page of a recommendation: the answer, every simulated deployment as a point, and the settings of any of them.

const hasPrices = data.loads.some((load) => load.points.some((point) => point.per_hour != null));
/// The load that is shown, and the deployment whose settings are.
let load = data.loads[0], picked = load.points[0];

const gpus = (count) => `${number(count)} GPU${count === 1 ? "" : "s"}`;
const times = (factor) => `${number(factor)} ×`;
const money = (value) => (value == null ? "–" : value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 }));
/// A figure of a target, and by how much it keeps or misses it.
const valueOf = (target, value) => (value == null ? "infinite" : target.is_share ? percent(value) : value >= 1e4 ? `${number(value / 1e3)} s` : `${number(value, value < 100 ? 1 : 0)} ms`);
const marginOf = (target, margin) => (margin == null ? "" : ` (${margin > 0 === target.is_share ? "+" : "−"}${number(Math.abs(margin) * 100, 0)} %)`);
const judged = (target, [value, met, margin]) => node("span", { class: met ? "good" : "bad" }, `${met ? "✓" : "✗"} ${valueOf(target, value)}${marginOf(target, margin)}`);
const named = (point) => `${point.rank ? `#${point.rank} ` : ""}${point.name}`;
const fate = (point) => (point.met ? "keeps all" : point.lost ? "cut off" : "misses");

/// The settings that repeat the run of a deployment, as a TOML file.
const toml = (point) => {
  const all = Object.entries({ ...data.common, ...load.settings, ...point.settings }).filter(([, value]) => value != null);
  return all.map(([key, value]) => `${key} = ${value}\n`).sort().join("");
};

/// What a deployment came to, in a line.
const told = (point) => {
  const cost = point.per_hour == null ? "" : `, ${money(point.per_hour)} an hour`;
  const figures = point.lost ? [point.lost[0]] : data.targets.map((target, n) => {
    const [value, met, margin] = point.figures[n];
    return `${target.figure} ${valueOf(target, value)}${met ? "" : " ✗"}${marginOf(target, margin)}`;
  });
  return `${named(point)}: ${gpus(point.gpus)}${cost}; ${figures.join("; ")}`;
};

// ---- What differs.

/// The settings in which deployments differ, those of a table by themselves: path, and the value of each deployment.
const differing = () => {
  const flat = (point) => Object.fromEntries(Object.entries(point.settings).filter(([, value]) => value != null).flatMap(([key, value]) => {
    const inner = /^\{ (.*) \}$/.exec(value)?.[1];
    // Values within are those of engines: numbers, words and truths, or lists.
    return inner == null ? [[key, value]] : [...inner.matchAll(/("(?:[^"\\]|\\.)*") = ("(?:[^"\\]|\\.)*"|\[[^\]]*\]|[^,]+)/g)].map(([, name, of]) => [`${key}.${JSON.parse(name)}`, of]);
  }));
  const all = load.points.map(flat), paths = [...new Set(all.flatMap((one) => Object.keys(one)))];
  return paths.map((path) => [path, all.map((one) => one[path] ?? null)]).filter(([, values]) => new Set(values).size > 1);
};

const least = (one, other) => (one == null || other == null ? (one == null) - (other == null) : `${one}`.localeCompare(`${other}`, "en", { numeric: true }));

function differs(at) {
  const found = differing();
  if (!found.length) return at.append(node("p", {}, "Deployments differ in no setting, or there is one only."));
  const values = (all) => [...new Set(all)].sort(least).map((value) => `${value ?? "not given"} (${number(all.filter((other) => other === value).length)})`).join(", ");
  const isRanked = load.points[0]?.rank === 1;
  at.append(table(["Setting", ...(isRanked ? ["the first"] : []), "values, and how many of the deployments have it"], found.map(([path, all]) => [path, ...(isRanked ? [all[0] ?? "–"] : []), values(all)]), "Settings in which deployments differ"));
}

// ---- Targets over a setting.

let overPath = null;

function overSetting(at) {
  const found = differing();
  if (!found.length) return at.append(node("p", {}, "Deployments differ in no setting."));
  const [path, values] = found.find(([other]) => other === overPath) ?? found[0];
  const select = choice("Setting", found.map(([other]) => [other, other]), (other) => {
    overPath = other;
    rebuild();
  });
  select.querySelector("select").value = path;
  at.append(node("div", { class: "controls" }, select));
  const names = [...new Set(values)].sort(least), grid = node("div", { class: "multiples" });
  at.append(grid);
  data.targets.forEach((target, n) => {
    const dots = load.points.map((point, place) => ({ point, value: values[place], y: point.figures[n]?.[0] })).filter((dot) => dot.y != null);
    if (!dots.length) return;
    const best = names.map((name) => dots.filter((dot) => dot.value === name).map((dot) => dot.y)).map((all) => (all.length ? Math[target.is_share ? "max" : "min"](...all) : null));
    figure(grid, {
      label: `${target.figure} over ${path}, the best of each value: ${names.map((name, i) => `${name ?? "not given"} ${valueOf(target, best[i])}`).join(", ")}`,
      caption: `${target.figure}: each deployment that ran to its end, and a line through the best of each value.`, height: 240,
      paint: (chart, width, height) => {
        const box = frame(width, height), x = linear(-0.5, names.length - 0.5, box.left, box.right), { y, at: place, ticks: yTicks, name } = scaleOf(target, dots.map((dot) => dot.y), box.bottom, box.top);
        axes(chart, box, [x, [], path], [place, yTicks, name]);
        const every = Math.ceil((names.length * 64) / width);
        names.forEach((text, i) => i % every === 0 && tick(chart, x(i), box.bottom + 14, `${text ?? "–"}`.replaceAll('"', "").slice(0, 12)));
        limitLine(chart, box, y(target.limit), target);
        draw(chart, "path", { d: broken(best.map((value, i) => value != null && [x(i), y(value)])), ...lineOf(2) });
        for (const { point, value, y: of } of dots) tip(draw(chart, "circle", { cx: x(names.indexOf(value)), cy: y(of), r: 4, fill: point.met ? "var(--c0)" : "var(--bg)", stroke: point.met ? "var(--c0)" : "var(--bad)", "stroke-width": 1.5, opacity: 0.8 }), told(point));
      },
    });
    const rows = names.map((name, i) => [name ?? "not given", number(dots.filter((dot) => dot.value === name).length), valueOf(target, best[i])]);
    at.append(details(`Figures: ${target.figure}`, table([path, "deployments that ran to their end", `best ${target.figure}`], rows)));
  });
}

// ---- The answer.

function answer(at) {
  const first = load.points.find((point) => !point.lost), kept = Boolean(first?.met);
  at.append(node("p", { class: `verdict ${kept ? "good" : "bad"}` }, node("b", {}, `${kept ? "✓" : "✗"} ${load.answer}`)));
  if (first?.overload) at.append(node("p", { class: "verdict bad" }, first.overload));
  if (first) {
    const cards = [[kept ? "GPUs" : "GPUs of the nearest", number(first.gpus)]];
    if (first.per_hour != null) cards.push(["Cost an hour", money(first.per_hour)], ["Cost of a million output tokens", money(first.per_million_output_tokens)]);
    if (first.headroom) cards.push(["Headroom: keeps its targets up to", `${times(first.headroom.factor)} the load`]);
    data.targets.forEach((target, n) => cards.push([target.objective, judged(target, first.figures[n])]));
    at.append(cardsOf(cards));
  }
  if (data.loads.length > 1) {
    const rows = data.loads.map((other) => [times(other.factor), `${number(other.tally.met)} of ${number(other.tally.candidates)}`, other.answer]);
    at.append(table(["Load", "keep all targets", "answer"], rows, "The answer under each load"));
  }
  at.append(node("h3", {}, "How sure"), ...sureness());
  at.append(node("h3", {}, "What was tried"), ...tried());
}

const cardsOf = (cards) => node("div", { class: "cards" }, ...cards.map(([name, value]) => node("div", { class: "card" }, node("span", {}, name), node("b", {}, value))));

function sureness() {
  const { sure } = load, known = data.latency_error.tpot_p90;
  if (!sure) {
    return [node("p", { class: "dim" }, known == null ? `How far off iteration times are is not known: ${data.latency_error.basis || "nothing like them was measured"}.`
      : `Iteration times are known to ${percent(known)}. Whether the first place stays under others was not searched: that is done for one objective, if something keeps the targets.`)];
  }
  const size = `${number(sure.iteration_time_error * 100, 0)} %`;
  const first = (found) => (found ? [number(found.gpus), found.deployment] : ["–", "none keeps all targets"]);
  const best = load.points[0], rows = [[`${size} more`, ...first(sure.if_slower)], ["as they are", ...first({ deployment: best.name, gpus: best.gpus })], [`${size} less`, ...first(sure.if_faster)]];
  const about = `Nine of ten measured runs are within ${size} of the iteration times used here.`;
  const verdict = sure.first_stays ? node("p", { class: "verdict good" }, node("b", {}, "✓ The first place stays"), `. ${about} It is the same if iterations take that much more or less.`)
    : node("p", { class: "verdict warn" }, node("b", {}, "The first place depends on iteration times"), `. ${about} If they take that much more, the first place ${sure.first_keeps_if_slower ? "still keeps" : "misses"} its targets. A measurement settles it: vllm bench serve on these GPUs, then servecast calibrate.`);
  return [verdict, table(["If iterations take", "GPUs", "first place"], rows, "The first place under other iteration times")];
}

function tried() {
  const { candidates, simulated, cut_off, met, proved_worse, refused, not_reached } = load.tally;
  const cards = [["Keep all targets", number(met)], ["Simulated, but miss a target", `${number(simulated - met)}${cut_off ? ` (${number(cut_off)} cut off)` : ""}`], ["Proved no better, without a run", number(proved_worse)], ["Refused by an engine", number(refused)]];
  const parts = [node("p", {}, `${number(candidates)} deployments${not_reached ? `; the search was stopped before it reached ${number(not_reached)}` : ""}. A run is cut off as soon as a target cannot be met any more.`), cardsOf(cards)];
  const reasons = Object.entries(load.refused).map(([reason, count]) => [reason.split("\n")[0], number(count)]);
  if (reasons.length) parts.push(details("Why engines refused", table(["Reason", "deployments"], reasons)));
  return parts;
}

// ---- Every deployment as a point.

const LANE = 72;

/// The axis of a target: linear, or logarithmic where figures are far apart.
const scaleOf = (target, values, from, to) => {
  const all = [...values, target.limit].map((value) => (target.is_share ? value * 100 : value)), low = Math.min(...all), high = Math.max(...all);
  const unit = target.is_share ? 100 : 1;
  if (target.is_share) {
    const bottom = Math.max(0, low - (100 - low) * 0.15 - 0.01), y = linear(bottom, 100, from, to);
    return { y: (value) => y(value * unit), at: y, ticks: steps(bottom, 100, 5), name: `${target.figure} (%)` };
  }
  if (low > 0 && high / low > 8) {
    const y = logarithmic(low / 1.25, high * 1.25, from, to);
    return { y, at: y, ticks: logTicks(low / 1.25, high * 1.25, 7), name: `${target.figure} (ms)` };
  }
  const y = linear(0, high * 1.12, from, to);
  return { y, at: y, ticks: ticks(high * 1.12), name: `${target.figure} (ms)` };
};

const limitLine = (chart, box, y, target) => {
  draw(chart, "line", { x1: box.left, x2: box.right, y1: y, y2: y, stroke: "var(--bad)", "stroke-width": 1.5, "stroke-dasharray": "6 4" });
  draw(chart, "text", { x: box.left + 4, y: y - 4 }, `limit ${valueOf(target, target.limit)}`);
};

let xKey = hasPrices ? "per_hour" : "gpus", yTarget = 0;

function tradeoff(at) {
  const target = data.targets[yTarget], ofX = (point) => point[xKey] ?? 0;
  const ran = load.points.filter((point) => point.figures[yTarget]?.[0] != null), lost = load.points.filter((point) => !ran.includes(point));
  if (!load.points.length) return at.append(node("p", {}, "No deployment was simulated."));
  const ofY = (point) => point.figures[yTarget][0], best = front(ran.filter((point) => point.met), ofX, ofY, target.is_share);
  const xName = xKey === "gpus" ? "GPUs" : "cost an hour";
  const beyond = load.tally.proved_worse ? ` ${number(load.tally.proved_worse)} deployments that cannot be better were not run and have no point; with two objectives (--objective ${hasPrices ? "cost" : "gpus"},latency) all are.` : "";
  const caption = `Filled: keeps all targets; hollow: misses one; ×: ended when a target was lost, so without a figure, the lower the later. Line: what no other one beats in both.${beyond}${load.left_out ? ` ${number(load.left_out)} more were simulated than are shown.` : ""}`;
  const label = `${xName} against ${target.figure} of ${load.points.length} deployments; ${best.length} that no other one beats, the cheapest with ${valueOf(target, best.length ? ofY(best[0]) : null)}`;
  // Of the requests, how many had arrived when the run ended; all of them where only the figure is infinite.
  const share = (point) => point.lost?.[1] ?? 1;
  const said = node("output", { class: "told", "aria-live": "polite" });
  let dots = [], marks = {}, pointed = null;
  const mark = () => {
    for (const [ring, point] of [[marks.picked, picked], [marks.pointed, pointed]]) {
      const dot = dots.find((one) => one.point === point);
      ring.setAttribute("visibility", dot ? "visible" : "hidden");
      if (dot) for (const key of ["cx", "cy"]) ring.setAttribute(key, dot[key]);
    }
  };
  const element = figure(at, {
    label, caption, height: 400,
    paint: (chart, width, height) => {
      const box = frame(width, height);
      if (lost.length) box.top += LANE;
      const high = most(load.points.map(ofX)) * 1.1 || 1, x = linear(0, high, box.left, box.right);
      const { y, at: place, ticks: yTicks, name } = scaleOf(target, ran.map(ofY), box.bottom, box.top);
      axes(chart, box, [x, ticks(high, box.columns), xName], [place, yTicks, name]);
      limitLine(chart, box, y(target.limit), target);
      dots = apart(ran.map((point) => ({ point, x: x(ofX(point)), cy: y(ofY(point)) })));
      if (lost.length) {
        draw(chart, "text", { x: box.left + 4, y: TOP + 6 }, `× lost a target: ${number(lost.length)}`);
        const lane = linear(0, most(lost.map(share)), TOP + 18, TOP + LANE - 10);
        dots.push(...apart(lost.map((point) => ({ point, x: x(ofX(point)), cy: lane(share(point)) }))));
      }
      steppedFront(chart, box, best.map((point) => [x(ofX(point)), y(ofY(point))]), target.is_share);
      for (const dot of [...dots].reverse()) paintDot(chart, dot, best.includes(dot.point));
      const ring = (stroke) => draw(chart, "circle", { r: 11, fill: "none", stroke, "stroke-width": 2, visibility: "hidden" });
      marks = { picked: ring("var(--fg)"), pointed: ring("var(--dim)") };
      mark();
    },
  });
  const point = (one) => {
    pointed = one;
    said.textContent = told(pointed ?? picked);
    mark();
  };
  point(null);
  element.querySelector(".chart").after(said);
  explore(element.querySelector(".chart"), label, () => dots, point, () => pointed ?? picked, (one) => pick(one));
  onPick = mark;
}

const paintDot = (chart, { point, cx, cy }, isBest) => {
  if (point.lost || point.figures[yTarget]?.[0] == null) return cross(chart, cx, cy, "var(--dim)");
  const fill = point.met ? (isBest ? "var(--c2)" : "var(--c0)") : "var(--bg)";
  draw(chart, "circle", { class: "dot", cx, cy, r: point.rank <= LEADERS ? 7 : 5, fill, stroke: point.met ? fill : "var(--bad)", "stroke-width": 2 });
  if (point.rank <= LEADERS) draw(chart, "text", { x: cx, y: cy + 4, "text-anchor": "middle", style: "fill:var(--bg);font-size:11px;font-weight:700" }, `${point.rank}`);
};

// ---- The settings of one of them.

let onPick = () => {}, panel;
const pick = (point, isToShow) => {
  picked = point;
  onPick();
  settings();
  if (isToShow) {
    panel.scrollIntoView({ block: "nearest" });
    panel.querySelector("h3").focus({ preventScroll: true });
  }
};

function settings() {
  if (!picked) return panel.replaceChildren();
  const parts = [node("h3", { tabindex: "-1" }, named(picked))];
  const cost = picked.per_hour == null ? "" : `, ${money(picked.per_hour)} an hour`;
  const room = picked.headroom ? `, keeps its targets up to ${times(picked.headroom.factor)} the load` : "";
  parts.push(node("p", {}, `${gpus(picked.gpus)}${cost}${room}.`));
  if (picked.lost) parts.push(node("p", { class: "bad" }, `✗ ${picked.lost[0]}`));
  else parts.push(node("p", {}, ...data.targets.flatMap((target, n) => [`${target.objective}: `, judged(target, picked.figures[n]), node("br")])));
  parts.push(node("p", { class: "dim" }, "Repeats its run: servecast replay --config deployment.toml"), ...copied("Copy the settings", "deployment.toml", toml(picked)));
  if (picked.start) parts.push(node("p", { class: "dim" }, "Starts it for real; host names and ports are placeholders:"), ...copied("Copy the commands", "Commands that start it", picked.start));
  panel.replaceChildren(...parts);
}

// ---- Targets over load.

const LEADERS = 3;

function overLoad(at) {
  const leaders = load.points.filter((point) => point.headroom).slice(0, LEADERS);
  if (!leaders.length) return at.append(node("p", { class: "dim" }, "No deployment keeps its targets, so none was tried under more load."));
  at.append(legend(leaders.map((point) => `${named(point)}: up to ${times(point.headroom.factor)}`)));
  for (const { name, headroom } of leaders) {
    if (!headroom.is_monotone) at.append(node("p", { class: "bad" }, `${name}: targets are missed at ${times(headroom.missed_at)} the load, yet kept at a larger one.`));
  }
  const pair = node("div", { class: "pair" });
  at.append(pair);
  data.targets.forEach((target, n) => curve(pair, target, n, leaders));
  const factors = [...new Set(leaders.flatMap(({ headroom }) => headroom.tried.map((probe) => probe.factor)))].sort((one, other) => one - other);
  const cell = ({ headroom }, factor, target, n) => {
    const probe = headroom.tried.find((one) => one.factor === factor);
    return !probe ? "" : probe.values.length ? `${probe.met ? "✓" : "✗"} ${valueOf(target, probe.values[n])}` : "✗ lost";
  };
  const rows = factors.map((factor) => [times(factor), ...data.targets.flatMap((target, n) => leaders.map((point) => cell(point, factor, target, n)))]);
  const head = data.targets.flatMap((target) => leaders.map((point) => `#${point.rank} ${target.figure}`));
  at.append(details("Figures at each load", table(["Load", ...head], rows)));
}

function curve(at, target, n, leaders) {
  const valueAt = (probe) => probe.values[n], tried = leaders.flatMap(({ headroom }) => headroom.tried);
  const factors = tried.map((probe) => probe.factor), low = Math.min(...factors), high = Math.max(...factors, low * 1.01);
  const known = tried.map(valueAt).filter((value) => value != null), lane = 14 * leaders.length + 16;
  const ends = leaders.map((point) => `${point.name} up to ${times(point.headroom.factor)}`).join("; ");
  figure(at, {
    label: `${target.figure} by load: ${ends}`, height: 280,
    caption: `${target.figure}. Ring and vertical line: the most load at which all targets hold; ×: a target was lost, and the run ended without a figure.`,
    paint: (chart, width, height) => {
      const box = frame(width, height);
      box.top += lane;
      const isWide = high / low > 4, x = (isWide ? logarithmic : linear)(low, high, box.left + 6, box.right - 6);
      const { y, at: place, ticks: yTicks, name } = scaleOf(target, known, box.bottom, box.top);
      const xTicks = isWide ? logTicks(low, high, box.columns) : steps(low, high, box.columns);
      axes(chart, box, [x, xTicks, "times the load"], [place, yTicks, name]);
      draw(chart, "text", { x: box.left + 4, y: TOP + 6 }, "× lost a target");
      limitLine(chart, box, y(target.limit), target);
      leaders.forEach((point, n) => paintLeader(chart, box, point.headroom, { stroke: colors[n], x, y, valueAt, lost: TOP + 20 + 14 * n }));
    },
  });
}

/// The figures of a deployment over the load, and where its targets are lost.
function paintLeader(chart, box, headroom, { stroke, x, y, valueAt, lost }) {
  const line = headroom.tried.filter((probe) => valueAt(probe) != null).map((probe) => [x(probe.factor), y(valueAt(probe))]);
  if (line.length) draw(chart, "path", { d: path(line), fill: "none", stroke, "stroke-width": 2 });
  if (headroom.factor > 0) draw(chart, "line", { x1: x(headroom.factor), x2: x(headroom.factor), y1: box.top, y2: box.bottom, stroke, "stroke-dasharray": "2 3" });
  for (const probe of headroom.tried) {
    const value = valueAt(probe);
    if (value == null) cross(chart, x(probe.factor), lost, stroke);
    else tip(draw(chart, "circle", { cx: x(probe.factor), cy: y(value), r: probe.factor === headroom.factor ? 5.5 : 3, fill: probe.factor === headroom.factor ? "var(--bg)" : stroke, stroke, "stroke-width": 2 }), `${times(probe.factor)}: ${number(value)}`);
  }
}

// ---- Over time.

function overTime(at) {
  const runs = load.over_time.map((one, n) => ({ ...one, name: `${n + 1}: ${one.name}` }));
  at.append(node("p", {}, `Under ${load.factor === 1 ? "the load as it was given" : `${times(load.factor)} the load that was given`}.`));
  for (const { name, problem } of runs) if (problem) at.append(node("p", { class: "bad" }, `${name} has no curves: ${problem}.`));
  if (runs.some((run) => run.curves)) drawOver(at, runs, 0);
  else if (!runs.length) at.append(node("p", {}, "No deployment ran."));
}

// ---- The table.

const MOST_ROWS = 300;
let sorted = ["rank", 1], wanted = "", onlyKept = false;

/// Columns: name, what they are sorted by, and what is shown.
const columns = () => [
  ["#", "rank", (point) => point.rank, (point) => point.rank ?? "–"],
  ["Deployment", "name", (point) => point.name, (point) => {
    const button = node("button", { type: "button", class: "link" }, point.name);
    button.addEventListener("click", () => pick(point, true));
    return button;
  }],
  ["GPUs", "gpus", (point) => point.gpus, (point) => number(point.gpus)],
  ...(hasPrices ? [["Cost an hour", "hour", (point) => point.per_hour, (point) => money(point.per_hour)], ["Cost of 1M output tokens", "million", (point) => point.per_million_output_tokens, (point) => money(point.per_million_output_tokens)]] : []),
  ...data.targets.map((target, n) => [target.objective, `target${n}`, (point) => point.figures[n]?.[0], (point) => (point.figures[n] ? judged(target, point.figures[n]) : "–")]),
  ["Headroom", "headroom", (point) => point.headroom?.factor, (point) => (point.headroom ? times(point.headroom.factor) : "")],
  ["Targets", "fate", fate, fate],
];

function deployments(at) {
  const shown = columns(), count = node("output", { class: "dim", "aria-live": "polite" });
  const head = shown.map(([name, key]) => {
    const button = node("button", { type: "button", class: "link" }, name);
    button.addEventListener("click", () => {
      sorted = [key, sorted[0] === key ? -sorted[1] : 1];
      fill();
    });
    return button;
  });
  const box = table(head, [], "All deployments that were simulated");
  const fill = () => {
    const [key, direction] = sorted, of = shown.find(([, other]) => other === key)[2];
    const compare = (one, other) => {
      // What there is not comes last, either way.
      if (one == null || other == null) return (one == null) - (other == null);
      return direction * (typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : one - other);
    };
    const text = (point) => `${point.name} ${fate(point)} ${Object.entries(point.settings).flat().join(" ")}`.toLowerCase();
    const all = load.points.filter((point) => (!onlyKept || point.met) && wanted.toLowerCase().split(/\s+/).every((word) => text(point).includes(word)));
    const rows = [...all].sort((one, other) => compare(of(one), of(other))).slice(0, MOST_ROWS);
    box.querySelector("tbody").replaceWith(table([""], rows.map((point) => shown.map(([, , , cell]) => cell(point)))).querySelector("tbody"));
    box.querySelectorAll("thead th").forEach((cell, n) => {
      if (shown[n][1] === key) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
    count.textContent = `${number(all.length)} of ${number(load.points.length)}${all.length > MOST_ROWS ? `, the first ${MOST_ROWS} are shown` : ""}`;
  };
  const search = node("input", { type: "search", placeholder: "least_loaded 2 x 4" }), kept = node("input", { type: "checkbox" });
  [search.value, kept.checked] = [wanted, onlyKept];
  search.addEventListener("input", () => {
    wanted = search.value;
    fill();
  });
  kept.addEventListener("change", () => {
    onlyKept = kept.checked;
    fill();
  });
  at.append(node("div", { class: "controls" }, node("label", {}, "Filter ", search), node("label", {}, kept, " keeps all targets"), count), box);
  fill();
}

// ---- The page.

/// Parts of the page that are made anew for another load or another axis.
const parts = [];
const part = (parent, make) => {
  const at = node("div");
  parent.append(at);
  parts.push(maker(at, make));
  return at;
};
const rebuild = () => parts.forEach((build) => build());

function page() {
  head(data.about);
  part(section("differs", "What differs", "The settings in which the deployments differ that were simulated; what all have in common stands above."), differs);
  const first = section("answer", "Answer");
  data.question.forEach((sentence) => first.append(node("p", {}, sentence)));
  if (data.loads.length > 1) {
    first.append(node("div", { class: "controls" }, choice("Load", data.loads.map((one, n) => [n, `${times(one.factor)}`]), (n) => {
      load = data.loads[n];
      picked = load.points[0];
      rebuild();
    })));
  }
  part(first, answer);
  const second = section("tradeoff", `${hasPrices ? "Cost" : "GPUs"} against latency`, "Every deployment that was simulated. Point at one to read it; a click shows its settings.");
  const controls = node("div", { class: "controls" }), pair = node("div", { class: "explore" });
  if (data.targets.length > 1) {
    controls.append(choice("Target", data.targets.map((target, n) => [n, target.objective]), (n) => {
      yTarget = +n;
      rebuild();
    }));
  }
  if (hasPrices) {
    controls.append(choice("against", [["per_hour", "cost an hour"], ["gpus", "GPUs"]], (key) => {
      xKey = key;
      rebuild();
    }));
  }
  second.append(controls, pair);
  part(pair, tradeoff);
  panel = part(pair, () => settings());
  panel.className = "settings";
  part(section("setting", "Targets over a setting", "What a setting does to each target, whatever the others are. Filled: keeps all targets; hollow: misses one."), overSetting);
  part(section("load", "Targets over load", `How the first ${LEADERS} fare under more load than was asked for, up to the factor at which a target is missed.`), overLoad);
  part(section("deployments", "All deployments", "Those that were simulated. A head sorts; a name shows the settings."), deployments);
  if (data.loads.some((one) => one.over_time.length)) part(overTimeOf("The first deployments"), overTime);
  rebuild();
}

iterationTimes(data);
page();
finish(() => {});
