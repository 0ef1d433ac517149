// Several runs: in what they differ, two figures of each, and figures over a setting.

const several = data.runs;
const numbered = (n) => `${n + 1}: ${several.list[n].name}`;
const valueText = (value) => (value == null ? "–" : typeof value === "string" ? value : JSON.stringify(value));
const figureAt = Object.fromEntries(several.shown.map(([key], place) => [key, place]));
const figureOf = (run, key) => run.figures[figureAt[key]] ?? null;
const exact = (value) => (value == null ? "no sample" : number(value, Math.abs(value) < 100 ? 4 : 2));

/// What is drawn of runs: name, value, and whether more of it is better (1), or worse (-1).
const MEASURES = [
  ...several.shown.filter(([key]) => !/^(num_requests|total_iterations|duration_ms)$/.test(key)).map(([key, name]) => [name, (run) => figureOf(run, key), /_ms$|rejected|preemptions/.test(key) ? -1 : 1, key]),
  ["Output tokens/s for each GPU", (run) => (run.gpus ? scaled(figureOf(run, "output_throughput_tok_s"), 1 / run.gpus) : null), 1, "per_gpu"],
  ["GPUs", (run) => run.gpus, -1, "gpus"],
  ...[...new Set(several.list.flatMap((run) => Object.keys(run.pools)))].map((name) => [`${name} (share)`, (run) => run.pools[name] ?? null, 0, name]),
].filter(([, of]) => several.list.some((run) => of(run) != null));

// ---- What differs.

/// What was run is above everything else; in what the runs differ comes first below it.
function whatDiffers(...more) {
  head(several.common);
  const at = section("differs", "What differs", "The settings in which these runs differ; what is the same for all stands above. – is not given.");
  const names = several.list.map((_, n) => numbered(n));
  const isWide = several.differs.length > 12 || several.list.length <= Math.min(several.differs.length, 4);
  if (!several.differs.length) at.append(node("p", {}, several.is_known ? "No setting differs, and the workload is the same." : several.unknown.length < several.list.length - 1 ? "No setting differs between the runs whose settings are known." : "In which settings the runs differ is not known."));
  else if (isWide) at.append(table(["Setting", ...names], several.differs.map(([path, values]) => [path, ...values.map(valueText)]), "Settings that differ"));
  else at.append(table(["Run", ...several.differs.map(([path]) => path)], names.map((name, n) => [name, ...several.differs.map(([, values]) => valueText(values[n]))]), "Settings that differ"));
  if (several.unknown.length) at.append(node("p", { class: "dim" }, `The settings of ${several.unknown.join(", ")} are not known.`));
  if (several.left_out) at.append(node("p", { class: "dim" }, `${number(several.left_out)} more runs are not on this page; --format json has all.`));
  at.append(...more);
}

// ---- Two figures of each run.

function tradeoffOfRuns() {
  const isLatency = ([, , , key]) => /(ttft|itl|tpot|e2e_latency)_ms$/.test(key);
  const latencies = MEASURES.filter(isLatency);
  const others = ["per_gpu", "output_throughput_tok_s", "request_throughput_rps", "goodput_request_throughput_rps", "gpus"].flatMap((key) => MEASURES.filter((measure) => measure[3] === key));
  if (!latencies.length || !others.length) return;
  let x = latencies.find((measure) => measure[3] === "p99_ttft_ms") ?? latencies[0], y = others.find((measure) => several.list.every((run) => x[1](run) == null || measure[1](run) != null)) ?? others[0], picked = Math.max(several.list.findIndex((run) => x[1](run) != null && y[1](run) != null), 0);
  const at = section("tradeoff", "Throughput against latency", "A dot a run, with its number. Point at one to read it; a click, or Enter, shows its settings and figures.");
  const controls = node("div", { class: "controls" }), pair = node("div", { class: "explore" });
  at.append(controls, pair);
  const build = remade(pair, (part) => dotsOf(part, x, y, (n) => { picked = n; buildPanel(); }, () => picked));
  const buildPanel = remade(pair, (part) => panelOf(part, picked));
  pair.lastChild.className = "panel";
  const chosen = (all, key) => all.find((measure) => measure[3] === key);
  const options = (all, first) => [first, ...all.filter((measure) => measure !== first)].map(([name, , , key]) => [key, name]);
  controls.append(choice("Show", options(others, y), (key) => { y = chosen(others, key); build(); }), choice("against", options(latencies, x), (key) => { x = chosen(latencies, key); build(); }));
}

function dotsOf(at, [xName, xOf], [yName, yOf, better], pick, picked) {
  const runs = several.list.map((run, n) => ({ run, n }));
  const known = runs.filter(({ run }) => xOf(run) != null && yOf(run) != null), isMore = better > 0;
  const most = Math.max(...runs.map(({ run }) => figureOf(run, "completed_requests") ?? 0));
  // Latencies of those that turn requests away are of the others.
  const isWhole = ({ run }) => (figureOf(run, "completed_requests") ?? most) >= (figureOf(run, "num_requests") ?? 0);
  const best = front(known.filter(isWhole), ({ run }) => xOf(run), ({ run }) => yOf(run), isMore);
  const told = ({ run, n }) => `${numbered(n)}: ${xName} ${exact(xOf(run))}, ${yName} ${exact(yOf(run))}`;
  if (!known.length) return at.append(node("p", {}, "No run has a sample of both."));
  const label = `${yName} against ${xName} of ${known.length} runs; ${best.length} that no other one beats in both: ${best.map(({ n }) => n + 1).join(", ") || "none"}`;
  const said = node("output", { class: "told", "aria-live": "polite" });
  let dots = [], rings = {}, pointed = null;
  const current = () => pointed ?? known.find(({ n }) => n === picked()) ?? known[0];
  const mark = () => {
    for (const [ring, one] of [[rings.picked, known.find(({ n }) => n === picked())], [rings.pointed, pointed]]) {
      const dot = dots.find(({ point }) => point === one);
      ring.setAttribute("visibility", dot ? "visible" : "hidden");
      if (dot) for (const key of ["cx", "cy"]) ring.setAttribute(key, dot[key]);
    }
  };
  const caption = `Line: what no other run beats in both.${known.some((one) => !isWhole(one)) ? " Hollow: did not serve all requests, so it is not on the line." : ""} Dots that would cover others stand beside them, with a line to their place.`;
  const element = figure(at, {
    label, caption, height: 380,
    paint: (chart, width, height) => {
      const box = frame(width, height), x = axisOf(known.map(({ run }) => xOf(run)), box.left, box.right - 8, box.columns), y = axisOf(known.map(({ run }) => yOf(run)), box.bottom, box.top + 8, 5);
      axes(chart, box, [x.at, x.ticks, xName], [y.at, y.ticks, yName]);
      dots = beside(known.map((point) => ({ point, x: x.at(xOf(point.run)), cy: y.at(yOf(point.run)) })));
      steppedFront(chart, box, best.map(({ run }) => [x.at(xOf(run)), y.at(yOf(run))]), isMore);
      for (const { x: from, cx, cy } of dots) if (cx !== from) draw(chart, "line", { x1: from, x2: cx, y1: cy, y2: cy, stroke: "var(--dim)", "stroke-width": 1 });
      for (const { point, cx, cy } of [...dots].reverse()) {
        const color = colors[point.n % 8], whole = isWhole(point);
        draw(chart, "circle", { class: "dot", cx, cy, r: 8, fill: whole ? color : "var(--bg)", stroke: color, "stroke-width": 2 });
        draw(chart, "text", { x: cx, y: cy + 4, "text-anchor": "middle", style: `fill:${whole ? "var(--bg)" : "var(--fg)"};font-size:11px;font-weight:700` }, `${point.n + 1}`);
      }
      const ring = (stroke) => draw(chart, "circle", { r: 12, fill: "none", stroke, "stroke-width": 2, visibility: "hidden" });
      rings = { picked: ring("var(--fg)"), pointed: ring("var(--dim)") };
      mark();
    },
  });
  const point = (one) => {
    pointed = one;
    said.textContent = told(current());
    mark();
  };
  point(null);
  element.querySelector(".chart").after(said);
  explore(element.querySelector(".chart"), label, () => dots, point, current, (one) => {
    pick(one.n);
    mark();
  });
  const rows = runs.map((one) => [numbered(one.n), exact(xOf(one.run)), exact(yOf(one.run)), best.includes(one) ? "✓" : ""]);
  at.append(details("Figures", table(["Run", xName, yName, "not beaten"], rows)));
}

const WIDE = 17;

/// Moves dots that would cover others to their right, or to their left where there is no room.
const beside = (dots) => {
  const placed = [];
  for (const dot of dots) {
    const isFree = (cx) => cx >= LEFT && placed.every((other) => Math.hypot(other.cx - cx, other.cy - dot.cy) >= WIDE - 1);
    const shifts = Array.from({ length: 40 }, (_, n) => [n * WIDE, -n * WIDE]).flat();
    placed.push(Object.assign(dot, { cx: dot.x + (shifts.find((shift) => isFree(dot.x + shift)) ?? 0) }));
  }
  return placed;
};

/// Everything of a run that is on this page.
function panelOf(at, n) {
  const run = several.list[n];
  at.append(node("h3", {}, numbered(n)));
  if (run.findings.length) at.append(node("ul", {}, ...run.findings.map((text) => node("li", {}, text))));
  const own = several.differs.map(([path, values]) => [path, valueText(values[n])]);
  at.append(table(["Setting or figure", "value"], [...own, ...MEASURES.map(([name, of]) => [name, exact(of(run))])], `Settings and figures of run ${n + 1}`));
}

// ---- Figures over a setting.

/// Figures that are drawn over a setting, if runs have them.
const OVER = ["mean_ttft_ms", "p99_ttft_ms", "mean_itl_ms", "p99_itl_ms", "mean_e2e_latency_ms", "output_throughput_tok_s", "per_gpu", "goodput_request_throughput_rps", "prefix_cache_reused_ratio", "rejected_requests"];

function overSetting() {
  const axesOf = (several.varied.length ? several.differs.filter(([path]) => several.varied.includes(path)) : several.differs.length <= 3 && several.list.length > 2 ? several.differs : [])
    .filter(([, values]) => new Set(values.map(valueText)).size > 1);
  if (!axesOf.length) return;
  const at = section("setting", "Over a setting", "Each figure over the values of a setting, a line for each combination of the others that were varied.");
  let shown = axesOf[0];
  const controls = node("div", { class: "controls" });
  at.append(controls);
  const build = remade(at, (part) => multiples(part, shown, axesOf.filter((other) => other !== shown)));
  if (axesOf.length > 1) controls.append(choice("Over", axesOf.map(([path]) => [path, path]), (path) => { shown = axesOf.find(([other]) => other === path); build(); }));
}

function multiples(at, [setting, values], others) {
  const groups = new Map();
  several.list.forEach((run, n) => {
    const name = others.map(([other, own]) => `${other}=${valueText(own[n])}`).join(" ");
    groups.set(name, [...(groups.get(name) ?? []), n]);
  });
  const isNumeric = values.every((value) => typeof value === "number"), names = [...new Set(values.map(valueText))];
  const place = (n) => (isNumeric ? values[n] : names.indexOf(valueText(values[n])));
  if (groups.size > 1) at.append(legend([...groups.keys()]));
  const grid = node("div", { class: "multiples" });
  at.append(grid);
  const drawn = MEASURES.filter(([, of, better, key]) => (better === 0 || OVER.includes(key)) && new Set(several.list.map(of).filter((value) => value != null)).size > 1);
  if (!drawn.length) at.append(node("p", {}, "No figure depends on it."));
  for (const [name, of] of drawn) {
    const lines = [...groups.values()].map((runs) => runs.filter((n) => of(several.list[n]) != null).sort((one, other) => place(one) - place(other)));
    const missing = several.list.filter((run) => of(run) == null).length;
    figure(titled(grid, name), {
      label: `${name} over ${setting}: ${lines.flat().slice(0, 12).map((n) => `${valueText(values[n])}: ${exact(of(several.list[n]))}`).join(", ")}`,
      caption: missing ? `${number(missing)} runs have no sample of it.` : "", height: 210,
      paint: (chart, width, height) => {
        const box = frame(width, height), all = lines.flat(), y = axisOf(all.map((n) => of(several.list[n])), box.bottom, box.top, 4);
        const x = isNumeric ? valueAxis(values, box) : { at: linear(-0.5, names.length - 0.5, box.left, box.right), ticks: [] };
        axes(chart, box, [x.at, x.ticks, setting], [y.at, y.ticks, ""]);
        if (!isNumeric) names.forEach((text, n) => (names.length * 70 <= width || n % 2 === 0) && tick(chart, x.at(n), box.bottom + 14, text.length > 12 ? `${text.slice(0, 11)}…` : text));
        lines.forEach((runs, group) => {
          const points = runs.map((n) => [x.at(place(n)), y.at(of(several.list[n]))]);
          if (points.length > 1) draw(chart, "path", { d: path(points), ...lineOf(group) });
          runs.forEach((n, i) => tip(draw(chart, "circle", { cx: points[i][0], cy: points[i][1], r: 3.5, fill: colors[group % 8] }), `${several.list[n].name}: ${exact(of(several.list[n]))}`));
        });
      },
    });
  }
  const rows = several.list.map((run, n) => [numbered(n), valueText(values[n]), ...drawn.map(([, of]) => exact(of(run)))]);
  at.append(details("Figures", table(["Run", setting, ...drawn.map(([name]) => name)], rows)));
}

