// The page of iteration times: what a pass is made of, over its size.

/// The parts of passes as areas on each other, in ms or as shares, over a logarithmic size.
const areas = (parent, chart, shown, isShare) => {
  const { sizes, pass_ms: pass, parts_ms: parts } = chart;
  const totals = sizes.map((_, n) => sum(shown.map((part) => parts[part][n])));
  const high = isShare ? 100 : Math.max(most(totals), most(pass), 1e-9);
  const caption = isShare ? "Shares of the parts in %" : "Parts in ms; the line is the pass as it is priced, with the constants that were fitted";
  const last = sizes.length - 1;
  figure(parent, {
    label: `${chart.title}: ${caption}; ${number(sizes[0])} ${chart.size}: ${number(pass[0])} ms, ${number(sizes[last])}: ${number(pass[last])} ms`,
    caption, height: 300,
    paint: (svg, width, height) => {
      const box = frame(width, height);
      const x = logarithmic(sizes[0], sizes[last], box.left, box.right), y = linear(0, high, box.bottom, box.top);
      axes(svg, box, [x, logTicks(sizes[0], sizes[last], box.columns), chart.size], [y, isShare ? [0, 25, 50, 75, 100] : ticks(high, 5), isShare ? "%" : "ms"]);
      const below = sizes.map(() => 0);
      for (const part of shown) {
        const value = (n) => (isShare ? (parts[part][n] / (totals[n] || 1)) * 100 : parts[part][n]);
        const lower = sizes.map((size, n) => [x(size), y(below[n])]);
        sizes.forEach((_, n) => (below[n] += value(n)));
        const upper = sizes.map((size, n) => [x(size), y(below[n])]);
        tip(draw(svg, "path", { d: `${path([...upper, ...lower.reverse()])}Z`, fill: colors[part % colors.length] }), data.parts[part]);
      }
      if (!isShare) tip(draw(svg, "path", { d: path(sizes.map((size, n) => [x(size), y(pass[n])])), fill: "none", stroke: "var(--fg)", "stroke-width": 2 }), "the pass");
    },
  });
};

for (const chart of data.charts) {
  const shown = data.parts.map((_, part) => part).filter((part) => most(chart.parts_ms[part]) > 0);
  const at = section(chart.id, chart.title, `By ${chart.size}; the axis is logarithmic.`);
  const names = node("div", { class: "legend" });
  for (const part of shown) {
    const mark = node("i");
    mark.style.background = colors[part % colors.length];
    names.append(node("span", {}, mark, data.parts[part]));
  }
  const pair = node("div", { class: "pair" });
  at.append(names, pair);
  areas(pair, chart, shown, false);
  areas(pair, chart, shown, true);
  const rows = chart.sizes.map((size, n) => [number(size), number(chart.pass_ms[n], 3), ...shown.map((part) => number(chart.parts_ms[part][n], 3))]);
  at.append(details("Figures in ms", table([chart.size, "pass", ...shown.map((part) => data.parts[part])], rows, `Figures of ${chart.title}`)));
}

const from = section("origins", "Where times are from", data.about.join(" · "));
from.append(table(["Part", "from", "kind"], data.origins.map(([part, source, isEstimate]) => [part, source, isEstimate ? "estimate" : "measured"])));
finish(() => {});
