// Distributions, the parts of the TTFT, and what prompts have to do with it.

function distributions() {
  const at = section("distributions", "Distributions", "Line: the share of samples at or below a latency; dots: p50, p90 and p99; bars: how many lie where. The axis is logarithmic.");
  const pair = node("div", { class: "pair" });
  at.append(pair);
  for (const d of data.distributions) distribution(pair, d.name, [["", d]]);
  const rows = data.distributions.filter((d) => d.quantiles.length).map((d) => [d.name, number(d.samples), ...PERCENTILES.map((p) => number(quantile(d, p)))]);
  at.append(details("Percentiles in ms", table(["Latency", "samples", ...PERCENTILES.map((p) => (p === 100 ? "max" : `p${p}`))], rows)));
}

function breakdown() {
  const at = section("breakdown", "Where the time goes", "The requests of each percentile band of the TTFT: what the mean of their TTFT was spent on.");
  const names = data.parts.map(words), row = 34;
  const bands = data.bands.filter((band) => band.requests);
  at.append(legend(names));
  for (const [isShare, caption] of [[false, "Mean TTFT in ms"], [true, "The same as shares of the TTFT"]]) {
    const high = isShare ? 1 : Math.max(...bands.map((band) => sum(band.parts_ms)), 1e-9);
    figure(at, {
      label: `Parts of the TTFT by percentile band: ${caption}`, caption, height: bands.length * row + 4,
      paint: (chart, width) => {
        const x = linear(0, high, 62, width - 100);
        bands.forEach((band, n) => {
          const total = sum(band.parts_ms);
          let left = 0;
          draw(chart, "text", { x: 56, y: n * row + 21, "text-anchor": "end" }, `p${band.from}–${band.to}`);
          band.parts_ms.forEach((ms, part) => {
            const size = isShare ? ms / (total || 1) : ms;
            const bar = { x: x(left), y: n * row + 4, width: Math.max(x(left + size) - x(left), 0.5), height: row - 10, fill: colors[part] };
            if (size > 0) tip(draw(chart, "rect", bar), `${names[part]}: ${number(ms)} ms (${number((ms / (total || 1)) * 100, 1)}%)`);
            left += size;
          });
          draw(chart, "text", { x: x(left) + 6, y: n * row + 21 }, isShare ? `${number(band.requests)} requests` : `${number(total, 1)} ms`);
        });
      },
    });
  }
  const rows = bands.map((band) => [`p${band.from}–${band.to}`, number(band.requests), ...band.parts_ms.map((ms) => number(ms)), number(sum(band.parts_ms))]);
  at.append(details("Figures", table(["Band", "requests", ...names.map((name) => `${name} (ms)`), "TTFT (ms)"], rows)));
}

function prompts() {
  const at = section("prompts", "Prompts", "How deep into prompts the prefix cache reaches, and what their length does to the TTFT.");
  if (!data.scatter.length) return;
  const pair = node("div", { class: "pair" });
  at.append(pair);
  const longest = Math.max(...data.prefix.map(([depth]) => depth), 1), all = Math.max(data.prefix[0][1], 1);
  figure(pair, {
    label: "Prefix reuse by depth in the prompt", height: 260,
    caption: "By depth in the prompt. Blue: of the prompts that are that long, the share that found this depth in the prefix cache. Grey: the share of prompts that are that long.",
    paint: (chart, width, height) => {
      const box = frame(width, height);
      const x = linear(0, longest, box.left, box.right), y = linear(0, 100, box.bottom, box.top);
      axes(chart, box, [x, ticks(longest, box.columns), "depth in the prompt (tokens)"], [y, [0, 25, 50, 75, 100], "% of prompts"]);
      const line = (of, color) => draw(chart, "path", { d: path(data.prefix.map((p) => [x(p[0]), y(of(p))])), fill: "none", stroke: color, "stroke-width": 2 });
      line(([, reach]) => (reach / all) * 100, "var(--c6)");
      line(([, reach, hit]) => (reach ? (hit / reach) * 100 : 0), "var(--c0)");
    },
  });
  const values = data.scatter.map(([, ms]) => Math.max(ms, 0.01));
  const widest = Math.max(...data.scatter.map(([tokens]) => tokens), 2), low = Math.min(...values), high = Math.max(...values, low * 1.5);
  figure(pair, {
    label: "Input length against TTFT, a dot a request", height: 260,
    caption: `Input length and TTFT of ${number(data.scatter.length)} of ${number(data.report.completed_requests)} requests; the TTFT is logarithmic.`,
    paint: (chart, width, height) => {
      const box = frame(width, height);
      const x = linear(0, widest, box.left, box.right), y = logarithmic(low, high, box.bottom, box.top);
      axes(chart, box, [x, ticks(widest, box.columns), "input length (tokens)"], [y, logTicks(low, high, 8), "TTFT (ms)"]);
      const dots = data.scatter.map(([tokens, ms]) => `M${x(tokens).toFixed(1)} ${y(ms).toFixed(1)}h0`).join("");
      draw(chart, "path", { d: dots, stroke: "var(--c0)", "stroke-width": 3, "stroke-linecap": "round", opacity: 0.5 });
    },
  });
}
