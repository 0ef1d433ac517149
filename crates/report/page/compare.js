// The page of a comparison.

const { baseline, runs } = data.differences;
const names = [baseline.name, ...runs.map((run) => run.name)];
const told = (value) => number(value, Math.abs(value) < 100 ? 4 : 2);
const signed = (value, digits = 2) => `${value > 0 ? "+" : ""}${number(value, digits)}`;
const shareOf = (difference) => (difference.change == null ? "" : difference.relative_change == null ? "from 0" : difference.relative_change === 0 ? "=" : `${signed(difference.relative_change * 100)}%`);

/// Whether more of a figure is better; absent for those that are neither.
const BETTER = { request_throughput_rps: 1, output_throughput_tok_s: 1, goodput_request_throughput_rps: 1, prefix_cache_reused_ratio: 1, completed_requests: 1, rejected_requests: -1, total_preemptions: -1 };
const isBetter = (key, change) => {
  const sign = BETTER[key] ?? (/_(ttft|itl|tpot|e2e_latency|queue_time)_ms$/.test(key) ? -1 : 0);
  return sign * Math.sign(change);
};

function overview() {
  const at = section("overview", "Differences", "Each run beside the first. A change is relative to the first run; green is better, red is worse.");
  if (data.conditions.length) {
    const isKept = !data.broken.length;
    at.append(node("p", { class: `verdict ${isKept ? "good" : "bad"}` }, node("b", {}, isKept ? "✓ Within limits" : "✗ A limit is broken"), `: fails if ${data.conditions.join(", ")}`));
    if (!isKept) at.append(node("ul", {}, ...data.broken.map((text) => node("li", {}, text))));
  }
  at.append(legend(names));
  const cell = (key, difference) => {
    const better = isBetter(key, difference.change);
    return node("span", { class: better > 0 ? "good" : better < 0 ? "bad" : "" }, shareOf(difference));
  };
  const rows = data.shown.filter(([key]) => key in baseline.figures).map(([key, name]) => [name, told(baseline.figures[key]),
    ...runs.flatMap((run) => (run.figures[key] ? [told(run.figures[key].value), cell(key, run.figures[key])] : ["–", ""]))]);
  at.append(table(["Metric", baseline.name, ...runs.flatMap((run) => [run.name, "change"])], rows, "Table of differences"));
  changes(at);
}

/// What has to be known of measured runs, and of the requests of runs beside them.
const aboutMeasured = () => [
  ...[baseline, ...runs].filter((run) => run.measured).map((run) => node("p", {}, [`${run.name} was measured (${run.measured.source}): settings, targets and workload are not in it`, ...run.measured.notes].join(". ") + ".")),
  ...runs.filter((run) => run.requests).map((run) => node("p", {}, `${baseline.name} and ${run.name}: ${run.requests}.`)),
];

/// Bars of the relative changes of the figures that are shown.
function changes(at) {
  const rows = data.shown.filter(([key]) => runs.some((run) => run.figures[key]?.relative_change));
  if (!rows.length) return at.append(node("p", {}, "No figure differs."));
  const thick = 14, gap = 10, row = runs.length * thick + gap;
  const all = rows.flatMap(([key]) => runs.map((run) => run.figures[key]?.relative_change ?? 0));
  const size = clamp(Math.max(...all.map(Math.abs)), 0.001, 2) * 100;
  const caption = `Change in percent of ${baseline.name}${Math.max(...all.map(Math.abs)) > 2 ? "; bars end at 200%" : ""}`;
  figure(at, {
    label: caption, caption, height: rows.length * row + 24,
    paint: (chart, width) => {
      const x = linear(-size, size, 150, width - 66), bottom = rows.length * row;
      for (const t of steps(-size, size, Math.max(2, Math.floor(width / 150)))) {
        draw(chart, "line", { class: "axis", x1: x(t), x2: x(t), y1: 0, y2: bottom });
        tick(chart, x(t), bottom + 16, `${signed(t)}%`);
      }
      rows.forEach(([key, name], n) => {
        draw(chart, "text", { x: 144, y: n * row + row / 2 + 4, "text-anchor": "end" }, name);
        runs.forEach((run, place) => {
          const difference = run.figures[key];
          if (difference?.change == null) return;
          const change = clamp((difference.relative_change ?? 0) * 100, -size, size), y = n * row + gap / 2 + place * thick;
          const bar = { x: Math.min(x(0), x(change)), y, width: Math.max(Math.abs(x(change) - x(0)), 1), height: thick - 2, fill: colors[(place + 1) % 8] };
          tip(draw(chart, "rect", bar), `${run.name}, ${name}: ${told(difference.baseline)} became ${told(difference.value)}`);
          draw(chart, "text", { x: change < 0 ? x(0) + 4 : x(change) + 4, y: y + thick - 3 }, shareOf(difference));
        });
      });
    },
  });
}

function curves() {
  if (!data.latencies.length) return;
  const at = section("distributions", "Distributions", "Of the runs whose requests are known: the share of requests at or below a latency; dots: p50, p90 and p99. The axis is logarithmic.");
  at.append(legend(names));
  const pair = node("div", { class: "pair" });
  at.append(pair);
  for (const latency of data.latencies) distribution(pair, latency.name, latency.runs.map(([place, d]) => [names[place], d, colors[place % 8]]));
}

function paired() {
  const known = runs.filter((run) => run.paired?.length);
  if (!known.length) return;
  const at = section("paired", "Request by request", "Each request beside itself in the first run, with 95% confidence intervals by bootstrap over the pairs: how much the result depends on which requests the trace happens to have.");
  const rows = known.flatMap((run) => run.paired.map((change) => ({ run, ...change })));
  at.append(legend(names));
  const bounds = rows.flatMap((r) => [...r.mean_change_interval_ms, 0]);
  const low = Math.min(...bounds), high = Math.max(...bounds), row = 30, caption = "Mean change of a latency in ms, with its interval; left of 0 is faster";
  figure(at, {
    label: caption, caption, height: rows.length * row + 24,
    paint: (chart, width) => {
      const x = linear(low, high, 150, width - 24), bottom = rows.length * row;
      for (const t of steps(low, high, Math.max(2, Math.floor(width / 150)))) {
        draw(chart, "line", { class: "axis", x1: x(t), x2: x(t), y1: 0, y2: bottom });
        tick(chart, x(t), bottom + 16, short(t));
      }
      draw(chart, "line", { x1: x(0), x2: x(0), y1: 0, y2: bottom, stroke: "var(--dim)" });
      rows.forEach((r, n) => {
        const y = n * row + row / 2, color = colors[(runs.indexOf(r.run) + 1) % 8], [from, to] = r.mean_change_interval_ms;
        draw(chart, "text", { x: 144, y: y + 4, "text-anchor": "end" }, r.metric);
        draw(chart, "line", { x1: x(from), x2: Math.max(x(to), x(from) + 1), y1: y, y2: y, stroke: color, "stroke-width": 3 });
        tip(draw(chart, "circle", { cx: x(r.mean_change_ms), cy: y, r: 5, fill: color }), `${r.run.name}, ${r.metric}: ${signed(r.mean_change_ms)} ms`);
      });
    },
  });
  const interval = ([from, to]) => `${signed(from)} to ${signed(to)}`;
  const line = (r) => [r.run.name, r.metric, number(r.pairs), signed(r.mean_change_ms), interval(r.mean_change_interval_ms), signed(r.median_change_ms), signed(r.p99_change_ms), interval(r.p99_change_interval_ms), `${number(r.slower * 100, 1)}%`, `${number(r.faster * 100, 1)}%`];
  at.append(table(["Run", "latency (ms)", "pairs", "mean", "95% interval", "median", "p99", "95% interval", "slower", "faster"], rows.map(line), "Paired changes"));
}

function figures() {
  const at = section("figures", "All figures");
  const rows = Object.keys(baseline.figures).map((key) => [key, number(baseline.figures[key], 6), ...runs.map((run) => number(run.figures[key]?.value, 6))]);
  at.append(details(`${rows.length} figures of each run`, table(["Figure", ...names], rows)));
}

whatDiffers(...aboutMeasured());
overview();
tradeoffOfRuns();
overSetting();
laidOver(several.list.map((run, n) => ({ ...run, name: numbered(n) })), several.without_curves);
curves();
paired();
figures();
finish(() => {});
