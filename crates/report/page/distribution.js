// A latency as cumulative curve and histogram.

const PERCENTILES = [1, 10, 25, 50, 75, 90, 95, 99, 100];
/// Limits in ms that are marked, by the name of the latency.
const limits = {};
const quantile = (d, percent) => d.quantiles[Math.round(((d.quantiles.length - 1) * percent) / 100)];

/// Cumulative curves of distributions of one latency, each with a label and a colour; one alone has its histogram behind it.
const distribution = (parent, name, lines) => {
  const shown = lines.filter(([, d]) => d.quantiles.length);
  if (!shown.length) return;
  const low = Math.max(Math.min(...shown.map(([, d]) => d.quantiles[0])), 0.001);
  const high = Math.max(...shown.map(([, d]) => quantile(d, 100)), low * 1.5);
  const told = ([label, d]) => `${label ? `${label}: ` : ""}${number(d.samples)} samples, mean ${number(d.mean)}, p50 ${number(quantile(d, 50))}, p90 ${number(quantile(d, 90))}, p99 ${number(quantile(d, 99))} ms`;
  const caption = `${name}: ${shown.map(told).join("; ")}`;
  figure(parent, {
    label: `Distribution of ${caption}`, caption, height: 240,
    paint: (chart, width, height) => {
      const box = frame(width, height);
      const x = logarithmic(low, high, box.left, box.right), y = linear(0, 1, box.bottom, box.top);
      axes(chart, box, [x, logTicks(low, high, box.columns), `${name} (ms)`], [y, [0, 0.25, 0.5, 0.75, 1], "share"]);
      if (shown.length === 1) histogram(chart, shown[0][1], x, y);
      const limit = limits[name];
      if (limit >= low && limit <= high) tip(draw(chart, "line", { x1: x(limit), x2: x(limit), y1: box.top, y2: box.bottom, stroke: "var(--bad)", "stroke-width": 1.5, "stroke-dasharray": "6 4" }), `target ${number(limit)} ms`);
      shown.forEach(([label, d, color = colors[0]]) => {
        const n = d.quantiles.length - 1;
        const points = d.quantiles.map((v, i) => [x(v), y(i / n)]);
        tip(draw(chart, "path", { d: path(points), fill: "none", stroke: color, "stroke-width": 2 }), label || name);
        for (const p of [50, 90, 99])
          tip(draw(chart, "circle", { cx: x(quantile(d, p)), cy: y(p / 100), r: 4, fill: label ? color : "var(--c1)" }), `${label} p${p}: ${number(quantile(d, p))} ms`);
      });
    },
  });
};

const histogram = (chart, d, x, y) => {
  const from = x(d.quantiles[0]), width = (x(quantile(d, 100)) - from) / d.counts.length, high = most(d.counts);
  d.counts.forEach((count, bin) => {
    if (!count) return;
    const bar = { x: from + bin * width, width: Math.max(width - 1, 0.5), y: y(count / high), height: y(0) - y(count / high), fill: "var(--c0)", opacity: 0.25 };
    tip(draw(chart, "rect", bar), `${number(count)} samples`);
  });
};
