// What happened over time, of pools and of workers: lines that zoom together, and heat maps.

const span = [data.series.start_ms / 1000, (data.series.start_ms + data.series.bin_ms * data.series.arrivals.length) / 1000];
/// The middles of `bins` equal parts of the run, in seconds.
const middles = (bins) => Array.from({ length: bins }, (_, n) => span[0] + ((n + 0.5) / bins) * (span[1] - span[0]));

/// Figures of workers over time: name, key of a row, unit.
const FIGURES = [
  ["Share of time in iterations", "busy", "%"], ["KV blocks in use", "kv", "%"], ["Batch: tokens an iteration", "batch", ""],
  ["Running requests", "running", ""],
  ["Waiting requests", "waiting", ""], ["Prefix reuse of admitted prompts", "reuse", "%"],
].filter(([, key]) => data.pools.some((pool) => pool.rows.some((row) => row[key].length)));
const rowName = (pool, n) => {
  const first = n * pool.group, last = Math.min(first + pool.group, pool.workers.length) - 1;
  return first === last ? `worker ${first}` : `workers ${first}–${last}`;
};

const plots = [];
let zooming = false;
const zoomTo = (min, max) => {
  placeMarks(min, max);
  zooming = true;
  for (const { plot } of plots) plot.setScale("x", { min, max });
  zooming = false;
};

/// Adds lines over time, with controls perhaps; returns what draws them anew.
const lines = (parent, name, of, ...controls) => {
  const box = node("div", { class: "lines", tabindex: "0", role: "group" });
  const spoken = node("output", { class: "hidden", "aria-live": "polite" });
  const holder = node("figure", {}, node("h3", {}, name), ...controls, box, spoken);
  parent.append(holder);
  const own = { holder, build };
  function build() {
    own.plot?.destroy();
    const { series, bands = [], limit } = of();
    const axis = { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "11px system-ui, sans-serif" };
    const told = series.map(([label, values]) => `${label} at most ${number(most(values))}`).join(", ");
    box.setAttribute("aria-label", `${name} over time: ${told}. Arrow keys move the cursor, plus and minus zoom, 0 shows the whole run.`);
    const line = ([label, , style = {}], n) => ({ label, stroke: css(`--c${n % 7}`), width: 1.5, dash: n > 6 ? [6, 3] : undefined, value: (_, v) => number(v), spanGaps: false, points: { show: false }, ...style });
    own.plot = new uPlot({
      width: Math.max(holder.clientWidth, 260), height: 160, padding: [8, 12, 0, 0],
      cursor: { sync: { key: "time" }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: (_, low, high) => [Math.min(low ?? 0, 0), (high || 1) * 1.05] } },
      axes: [{ ...axis, size: 30, values: (_, v) => v.map((t) => number(t, 3)) }, { ...axis, size: 52, values: (_, v) => v.map(short) }],
      series: [{ label: "s", value: (_, v) => number(v, 1) }, ...series.map(line)], bands,
      hooks: { setScale: [(u, key) => key === "x" && !zooming && zoomTo(u.scales.x.min, u.scales.x.max)], draw: [(u) => limit > 0 && limit <= u.scales.y.max && drawLimit(u, limit)] },
    }, [middles(series[0][1].length), ...series.map(([, values]) => values)], box);
    const known = plots.find((other) => other !== own)?.plot.scales.x;
    zooming = true;
    own.plot.setScale("x", known?.min == null ? { min: span[0], max: span[1] } : { min: known.min, max: known.max });
    zooming = false;
  }
  plots.push(own);
  build();
  box.addEventListener("keydown", (event) => onKey(event, own, spoken));
  redraws.push((forced) => own.plot.setSize({ width: Math.max(forced ? Math.min(forced, holder.clientWidth) : holder.clientWidth, 260), height: 160 }));
  return build;
};

/// A limit as a dashed line.
const drawLimit = ({ ctx, bbox, valToPos }, limit) => {
  const y = valToPos(limit, "y", true);
  ctx.save();
  ctx.strokeStyle = css("--bad");
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
};

// ---- The slowest requests on the time axis.

const marks = [];
const placeMarks = (min, max) => {
  for (const [mark, at] of marks) {
    mark.hidden = at < min || at > max;
    mark.style.left = `${((at - min) / (max - min || 1)) * 100}%`;
  }
};

/// Links to the life lines of the slowest requests, where they arrive on the time axis; those beyond a target stand out.
function markSlowest(parent) {
  if (!data.slowest.length) return;
  const strip = node("div", { class: "marks", role: "group", "aria-label": "When the slowest requests arrive" });
  for (const request of data.slowest) {
    const name = `Request ${request.request}: TTFT ${number(request.ttft)} ms, arrives at ${number(request.arrival / 1e3)} s`;
    const mark = node("a", { href: `#request-${request.request}`, title: name, "aria-label": name }, "▼");
    strip.append(mark);
    marks.push([mark, request.arrival / 1e3, request]);
  }
  parent.append(node("p", { class: "dim marked" }, `▼ the ${data.slowest.length} slowest requests, each a link to its life line`), strip);
  placeMarks(...span);
}

const onKey = (event, { plot }, spoken) => {
  const { min, max } = plot.scales.x, x = plot.data[0];
  const at = plot.cursor.idx ?? x.findIndex((t) => t >= min);
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (move) {
    const next = clamp(at + move * (event.shiftKey ? 10 : 1), 0, x.length - 1);
    for (const { plot: other } of plots) other.setCursor({ left: other.valToPos(x[next], "x"), top: 20 }, false);
    spoken.textContent = `${number(x[next], 1)} s: ${plot.series.slice(1).map((s, n) => `${s.label} ${number(plot.data[n + 1][next])}`).join(", ")}`;
  } else if (["+", "=", "-"].includes(event.key)) {
    const size = (max - min) * (event.key === "-" ? 1 : 0.25), middle = x[at] ?? (min + max) / 2;
    zoomTo(Math.max(span[0], middle - size), Math.min(span[1], middle + size));
  } else if (event.key === "0") zoomTo(...span);
  else return;
  event.preventDefault();
};

function timeSeries() {
  const s = data.series;
  const at = section("time", "Over time", "Averages over 400 equal parts of the run. Drag over a chart to zoom into all of them; double-click, or the button, goes back. With the keyboard: arrows, plus, minus, 0.");
  const reset = node("button", { type: "button" }, "Whole run");
  reset.addEventListener("click", () => zoomTo(...span));
  at.append(reset);
  const pools = (of) => data.pools.map((pool, n) => [pool.pool, of(pool, s.pools[n])]).filter(([, values]) => values);
  const isWatched = data.pools.every((pool) => pool.watched);
  const l = s.latencies, dots = { points: { show: true, size: 3 } };
  const latencies = [["TTFT", [["mean", l.ttft, dots], ["longest", l.ttft_most, dots]]], ["ITL", [["mean", l.itl, dots]]], ["E2E latency", [["mean", l.e2e, dots]]]];
  const charts = [["Arrivals (requests/s)", [["arrivals", s.arrivals]]], ["Running requests", pools((_, p) => p.running)], ["Waiting requests", pools((_, p) => p.waiting)]];
  if (isWatched) {
    const sizes = data.pools.map((pool) => `${pool.pool} ${number(pool.blocks)}`).join(", ");
    charts.push([`KV blocks in use (of ${sizes}; ${data.block_size} tokens each)`, pools((pool) => pool.watched.blocks_in_use)]);
    charts.push(["Share of workers in an iteration (%)", pools((pool) => pool.watched.busy)]);
    charts.push(["Batch: tokens an iteration", pools((pool) => pool.watched.batch_tokens)]);
  } else charts.push(["KV in use (context tokens of running requests)", pools((_, p) => p.context_tokens)]);
  charts.push(["Tokens computed a second", pools((pool, p) => pool.watched?.tokens ?? p.tokens)], ["Prefix reuse of admitted prompts (%)", pools((pool) => pool.reuse)]);
  markSlowest(at);
  const builds = latencies.map(([name, series]) => lines(at, `${name} (ms)`, () => ({ series, limit: limits[name] })));
  at.append(node("p", { class: "dim" }, "TTFT and E2E latency are of the completed requests that arrive then, ITL is the mean gap between the tokens that come then, with the gaps of a request taken as equal. Lines have gaps where there is no sample."));
  builds.push(...charts.map(([name, series]) => lines(at, name, () => ({ series }))));
  builds.push(...data.pools.map((pool) => byWorker(at, pool)));
  const rows = [...latencies.map(([name, series]) => [`${name} (ms)`, series]), ...charts].flatMap(([name, series]) => series.map(([label, values]) => {
    const there = values.filter((v) => v != null);
    return [`${name}, ${label}`, number(sum(there) / Math.max(there.length, 1)), number(there.length ? Math.min(...there) : null), number(most(there))];
  }));
  at.append(details("Figures", table(["Series", "mean", "least", "most"], rows)));
  return () => builds.forEach((build) => build());
}

// Lines of single workers, or of the least, the middle and the most of many.
const FEW = 8;
function byWorker(at, pool) {
  let [, key] = FIGURES[0], shown = "";
  const all = pool.rows.map((_, n) => [`${n}`, rowName(pool, n)]);
  const series = () => {
    const values = pool.rows.map((row) => row[key]);
    if (values.length <= FEW) return { series: values.map((line, n) => [rowName(pool, n), line]) };
    const at = values[0].map((_, bin) => values.map((line) => line[bin]).filter((v) => v != null).sort((a, b) => a - b));
    const rank = (share) => at.map((sorted) => (sorted.length ? sorted[Math.round((sorted.length - 1) * share)] : null));
    const quiet = { stroke: css("--c6"), width: 1 };
    const series = [["most", rank(1), quiet], ["median", rank(0.5), { stroke: css("--c0") }], ["least", rank(0), quiet]];
    if (shown) series.push([rowName(pool, +shown), values[+shown], { stroke: css("--c1") }]);
    return { series, bands: [{ series: [1, 3], fill: `${css("--c6")}33` }] };
  };
  const controls = node("div", { class: "controls" });
  const build = lines(at, `By worker: ${pool.pool}`, series, controls);
  controls.append(choice("Show", FIGURES.map(([name, key, unit]) => [key, unit ? `${name} (${unit})` : name]), (value) => { key = value; build(); }));
  if (pool.rows.length > FEW) controls.append(choice("and", [["", "no single worker"], ...all], (value) => { shown = value; build(); }));
  return build;
}

// ---- Heat maps.

/// A colour between that of nothing and that of the most.
const heatColors = () => {
  const parse = (name) => css(name).split(",").map(Number);
  const stops = [parse("--heat0"), parse("--heat1"), parse("--heat2")];
  return (share) => {
    const at = clamp(share, 0, 1) * 2, first = Math.min(1, Math.floor(at));
    return stops[first].map((v, n) => Math.round(v + (stops[first + 1][n] - v) * (at - first)));
  };
};

function heat() {
  const at = section("heat", "Workers over time", `${data.pools.some((pool) => pool.group > 1) ? "A row a worker, or the mean of neighbours where there are many" : "A row a worker"}. Point at a cell, or use the arrow keys, to read it.`);
  let figureShown = FIGURES[0];
  const maps = data.pools.map((pool) => heatMap(pool));
  const repaint = () => maps.forEach((map) => map.paint(figureShown));
  at.append(node("div", { class: "controls" }, choice("Show", FIGURES.map(([name, key]) => [key, name]), (value) => {
    figureShown = FIGURES.find(([, key]) => key === value);
    repaint();
  })));
  maps.forEach((map) => at.append(map.element));
  for (const pool of data.pools) {
    const rows = pool.workers.map((w, n) => [`${n}`, number(w.requests), `${number(w.busy, 1)}%`, number(w.reused_tokens)]);
    at.append(details(`Each worker: ${pool.pool}`, table(["Worker", "requests", "time in iterations", "tokens reused"], rows, `Workers of ${pool.pool}`)));
  }
  repaint();
  return repaint;
}

function heatMap(pool) {
  const count = pool.rows.length, height = clamp(Math.round(420 / count), 4, 22);
  const canvas = node("canvas", { class: "heat", tabindex: "0", role: "img" });
  canvas.style.height = `${count * height}px`;
  const names = node("div", { class: "names", "aria-hidden": "true" });
  const step = Math.ceil(13 / height);
  pool.rows.forEach((_, n) => {
    const name = node("span", {}, n % step === 0 ? `${n * pool.group}` : "");
    name.style.height = `${height}px`;
    names.append(name);
  });
  const times = node("div", { class: "times", "aria-hidden": "true" }, ...[0, 0.25, 0.5, 0.75, 1].map((share) => node("span", {}, `${number(span[0] + share * (span[1] - span[0]), 0)} s`)));
  const scale = node("span", { class: "scale", "aria-hidden": "true" }), high = node("span"), caption = node("span"), told = node("output", { "aria-live": "polite" });
  const element = node("figure", { class: "heatmap" },
    node("h3", {}, pool.pool), node("div", { class: "grid" }, names, canvas, node("span"), times),
    node("figcaption", {}, node("span", { class: "keys" }, "0 ", scale, high), caption, told));
  let values = [], at = [0, 0], unit = "";
  const tell = (row, bin) => {
    at = [row, bin];
    const length = (span[1] - span[0]) / values[0].length;
    told.textContent = `${rowName(pool, row)}, ${number(span[0] + bin * length, 0)} to ${number(span[0] + (bin + 1) * length, 0)} s: ${number(values[row][bin])}${unit}`;
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const share = (from, size, count) => clamp(Math.floor(((from) / size) * count), 0, count - 1);
    tell(share(event.clientY - box.top, box.height, count), share(event.clientX - box.left, box.width, values[0].length));
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    tell(clamp(at[0] + move[0], 0, count - 1), clamp(at[1] + move[1], 0, values[0].length - 1));
  });
  const paint = ([name, key, unitShown]) => {
    values = pool.rows.map((row) => row[key]);
    unit = unitShown;
    const color = heatColors(), limit = key === "busy" ? 100 : Math.max(...values.map(most), 1e-9), bins = values[0].length;
    [canvas.width, canvas.height] = [bins, count];
    const context = canvas.getContext("2d"), image = context.createImageData(bins, count);
    values.forEach((line, row) => line.forEach((value, bin) => image.data.set([...color((value ?? 0) / limit), 255], (row * bins + bin) * 4)));
    context.putImageData(image, 0, 0);
    scale.style.background = `linear-gradient(90deg, ${[0, 0.5, 1].map((share) => `rgb(${color(share)})`).join(", ")})`;
    high.textContent = ` ${number(limit)}${unit}`;
    caption.textContent = name;
    const means = values.map((line) => sum(line) / Math.max(line.length, 1)), busiest = means.indexOf(most(means));
    canvas.setAttribute("aria-label", `${pool.pool}, ${name} by worker and time: on average ${number(sum(means) / count)}${unit}, most in ${rowName(pool, Math.max(busiest, 0))} with ${number(most(means))}${unit}`);
  };
  return { element, paint };
}
