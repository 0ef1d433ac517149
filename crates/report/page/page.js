"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const toc = document.getElementById("toc");
  const colors = [0, 1, 2, 3, 4, 5, 6].map((n) => `var(--c${n})`);
  const number = (value, digits = 2) =>
    value == null ? "–" : value.toLocaleString("en-US", { maximumFractionDigits: digits });
  const short = (v) => (v >= 1e6 ? `${+(v / 1e6).toPrecision(3)}M` : v >= 1e4 ? `${+(v / 1e3).toPrecision(3)}k` : `${+v.toPrecision(3)}`);
  const words = (name) => name.replaceAll("_", " ");

  const node = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const section = (id, title, about) => {
    const element = node("section", { id, "aria-labelledby": `${id}-title` });
    element.append(node("h2", { id: `${id}-title` }, title));
    if (about) element.append(node("p", { class: "dim" }, about));
    main.append(element);
    toc.append(node("li", {}, node("a", { href: `#${id}` }, title)));
    return element;
  };
  const table = (head, rows) => {
    const body = rows.map((row) => node("tr", {}, ...row.map((cell, n) => node(n ? "td" : "th", n ? {} : { scope: "row" }, String(cell)))));
    const header = node("tr", {}, ...head.map((cell) => node("th", { scope: "col" }, cell)));
    return node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": head[0] }, node("table", {}, node("thead", {}, header), node("tbody", {}, ...body)));
  };
  const legend = (names) => {
    const element = node("div", { class: "legend" });
    names.forEach((name, n) => {
      const mark = node("i");
      mark.style.background = colors[n % colors.length];
      element.append(node("span", {}, mark, name));
    });
    return element;
  };

  // Charts that do not move are SVG, which prints well.
  const W = 560, H = 240, L = 52, R = 12, T = 10, B = 34;
  const svg = (label, width, height) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", label);
    return element;
  };
  const draw = (parent, tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text != null) element.textContent = text;
    parent.append(element);
    return element;
  };
  const tip = (element, text) => draw(element, "title", {}, text);
  const logTicks = (low, high) => {
    const ticks = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) ticks.push(m * 10 ** e);
    if (ticks.length < 3) {
      // A narrow range has hardly a round number on a logarithmic axis.
      const raw = (high - low) / 4 || 1, unit = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find((m) => m * unit >= raw) * unit;
      const first = Math.ceil(low / step);
      return Array.from({ length: Math.max(0, Math.floor(high / step) - first + 1) }, (_, n) => (first + n) * step);
    }
    return ticks.length > 8 ? ticks.filter((t) => Number.isInteger(Math.round(Math.log10(t) * 1e9) / 1e9)) : ticks;
  };
  const linear = (low, high, from, to) => (v) => from + ((v - low) / (high - low || 1)) * (to - from);
  const logarithmic = (low, high, from, to) => {
    const scale = linear(Math.log(low), Math.log(high), from, to);
    return (v) => scale(Math.log(Math.max(v, low)));
  };
  const axes = (chart, x, xTicks, y, yTicks, xName, yName) => {
    for (const t of xTicks) {
      draw(chart, "line", { class: "axis", x1: x(t), x2: x(t), y1: T, y2: H - B });
      draw(chart, "text", { x: x(t), y: H - B + 14, "text-anchor": "middle" }, short(t));
    }
    for (const t of yTicks) {
      draw(chart, "line", { class: "axis", x1: L, x2: W - R, y1: y(t), y2: y(t) });
      draw(chart, "text", { x: L - 5, y: y(t) + 4, "text-anchor": "end" }, short(t));
    }
    draw(chart, "text", { x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle" }, xName);
    draw(chart, "text", { x: 11, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(T + H - B) / 2})` }, yName);
  };
  const ticks = (high, count = 5) => {
    const raw = high / count || 1, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((m) => m * unit >= raw) * unit;
    return Array.from({ length: Math.floor(high / step + 1e-9) + 1 }, (_, n) => n * step);
  };
  const figure = (parent, chart, caption) => parent.append(node("figure", {}, chart, node("figcaption", {}, caption)));

  function summary() {
    const r = data.report;
    const at = section("summary", "Summary");
    if (r.sla && Object.keys(r.sla).length) {
      const share = r.goodput_completed_requests / Math.max(r.num_requests, 1);
      const limits = Object.entries(r.sla).filter(([, v]) => v != null).map(([k, v]) => `${k.replace("_ms", "").toUpperCase()} ≤ ${v} ms`);
      at.append(node("p", { class: share >= 0.99 ? "good" : "bad" },
        `${share >= 0.99 ? "✓ SLA kept" : "✗ SLA missed"}: ${number(share * 100)}% of all requests within ${limits.join(", ")} (goodput ${number(r.goodput_request_throughput_rps)} requests/s; the verdict asks for 99%)`));
    } else at.append(node("p", { class: "dim" }, "No SLA was given (--sla-ttft-ms and the like give a verdict)."));
    const cards = [
      ["TTFT avg / p99", `${number(r.mean_ttft_ms, 0)} / ${number(r.p99_ttft_ms, 0)} ms`], ["ITL avg / p99", `${number(r.mean_itl_ms)} / ${number(r.p99_itl_ms)} ms`],
      ["E2E latency avg / p99", `${number(r.mean_e2e_latency_ms / 1e3)} / ${number(r.p99_e2e_latency_ms / 1e3)} s`], ["Output", `${number(r.output_throughput_tok_s, 0)} tokens/s`],
      ["Requests", `${number(r.request_throughput_rps)} /s`], ["Completed / rejected", `${number(r.completed_requests)} / ${number(r.rejected_requests)}`],
      ["Prefix reuse", `${number(r.prefix_cache_reused_ratio * 100)}%`], ["Preemptions", number(r.total_preemptions)]];
    at.append(node("div", { class: "cards" }, ...cards.map(([name, value]) => node("div", { class: "card" }, node("b", {}, value), node("span", {}, name)))));
    at.append(table(["Metric (ms)", "avg", "min", "median", "p90", "p95", "p99", "max"],
      ["ttft", "ttst", "itl", "tpot", "e2e_latency", "queue_time"].map((m) => [words(m), ...["mean", "min", "median", "p90", "p95", "p99", "max"].map((s) => number(r[`${s}_${m}_ms`]))])));
    at.append(node("p", {}));
    at.append(table(["Pool", "workers", "iterations", "tokens computed", "preemptions", "utilization", "least / most used worker"],
      r.pools.map((p) => [p.pool, p.workers, number(p.iterations), number(p.computed_tokens), number(p.preemptions), `${number(p.utilization * 100)}%`, `${number(p.utilization_per_worker.min * 100)}% / ${number(p.utilization_per_worker.max * 100)}%`])));
  }

  function distributions() {
    const at = section("distributions", "Distributions", "Share of samples at or below a latency, and how many lie around it; logarithmic.");
    const pair = node("div", { class: "pair" });
    at.append(pair);
    for (const d of data.distributions) {
      if (!d.quantiles.length) continue;
      const q = d.quantiles, n = q.length - 1;
      const low = Math.max(q[0], 0.01), high = Math.max(q[n], low * 1.5);
      const x = logarithmic(low, high, L, W - R), y = linear(0, 1, H - B, T);
      const chart = svg(`${d.name}: median ${number(q[n / 2])} ms, 99th percentile ${number(q[Math.round(n * 0.99)])} ms`, W, H);
      axes(chart, x, logTicks(low, high), y, [0, 0.25, 0.5, 0.75, 1], `${d.name} (ms)`, "share");
      const bins = 40, counts = new Array(bins).fill(0);
      for (const v of q) counts[Math.min(bins - 1, Math.floor(((x(v) - L) / (W - R - L)) * bins))]++;
      const most = Math.max(...counts), width = (W - R - L) / bins;
      counts.forEach((c, b) => c && draw(chart, "rect", { x: L + b * width, width: width - 1, y: y(c / most), height: y(0) - y(c / most), fill: "var(--c0)", opacity: 0.25 }));
      draw(chart, "path", { d: "M" + q.map((v, i) => `${x(v).toFixed(1)} ${y(i / n).toFixed(1)}`).join("L"), fill: "none", stroke: "var(--c0)", "stroke-width": 2 });
      for (const p of [50, 90, 99]) {
        const v = q[Math.round((n * p) / 100)];
        tip(draw(chart, "circle", { cx: x(v), cy: y(p / 100), r: 4, fill: "var(--c1)" }), `p${p}: ${number(v)} ms`);
      }
      figure(pair, chart, `${d.name}: ${number(d.samples)} samples; p50 ${number(q[n / 2])}, p90 ${number(q[Math.round(n * 0.9)])}, p99 ${number(q[Math.round(n * 0.99)])} ms (dots)`);
    }
  }

  function breakdown() {
    const at = section("breakdown", "Where the time goes", "Mean TTFT of the requests in each percentile band of the TTFT, by what it was spent on.");
    const names = data.parts.map(words), row = 34;
    const bands = data.bands.filter((b) => b.requests);
    at.append(legend(names));
    const sum = (b) => b.parts_ms.reduce((a, v) => a + v, 0);
    for (const [mode, caption] of [["ms", "Mean TTFT in ms"], ["share", "The same as shares"]]) {
      const high = mode === "ms" ? Math.max(...bands.map(sum), 1e-9) : 1;
      const x = linear(0, high, 80, 1060), chart = svg(`Parts of the TTFT by percentile band, ${caption}`, 1160, bands.length * row + 4);
      bands.forEach((b, n) => {
        const total = sum(b) || 1;
        let left = 0;
        draw(chart, "text", { x: 74, y: n * row + 20, "text-anchor": "end" }, `p${b.from}–${b.to}`);
        b.parts_ms.forEach((ms, part) => {
          const size = mode === "ms" ? ms : ms / total;
          if (size > 0) tip(draw(chart, "rect", { x: x(left), y: n * row + 4, width: Math.max(x(left + size) - x(left), 0.5), height: row - 10, fill: colors[part] }), `${names[part]}: ${number(ms)} ms (${number((ms / total) * 100, 1)}%)`);
          left += size;
        });
        draw(chart, "text", { x: x(left) + 6, y: n * row + 20 }, mode === "ms" ? `${number(sum(b), 1)} ms` : `${number(b.requests)} requests`);
      });
      figure(at, chart, caption);
    }
    at.append(table(["Band", "requests", ...names.map((n) => `${n} (ms)`), "TTFT (ms)"], bands.map((b) => [`p${b.from}–${b.to}`, number(b.requests), ...b.parts_ms.map((v) => number(v)), number(sum(b))])));
  }

  const plots = [];
  function timeSeries() {
    const s = data.series;
    const at = section("time", "Over time", "Averages over bins of equal length. Drag over a chart to zoom all of them, double-click to go back. Context and token rates are spread evenly over each request's prompt and output.");
    const reset = node("button", { type: "button" }, "Whole run");
    at.append(reset);
    const times = s.arrivals.map((_, n) => (s.start_ms + (n + 0.5) * s.bin_ms) / 1000);
    const pools = (key) => s.pools.map((p) => [p.pool, p[key]]);
    const charts = [["Arrivals (requests/s)", [["arrivals", s.arrivals]]], ["Running requests", pools("running")], ["Waiting requests", pools("waiting")],
      ["KV in use (context tokens of running requests)", pools("context_tokens")], ["Tokens computed a second", pools("tokens")],
      ["Prefix reuse of admitted prompts (%)", [["reuse", s.reuse.map((v) => (v == null ? null : v * 100))]]]];
    for (const p of s.pools) if (p.workers.length <= 16) charts.push([`Running requests by worker (${p.pool})`, p.workers.map((w, n) => [`${n}`, w])]);
    const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    let zooming = false;
    const build = () => {
      for (const { plot } of plots) plot.destroy();
      plots.length = 0;
      at.querySelectorAll("figure").forEach((f) => f.remove());
      const axis = { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "11px system-ui" };
      for (const [name, lines] of charts) {
        const box = node("div", { role: "img", "aria-label": `${name} over time: ${lines.map(([n, v]) => `${n} at most ${number(Math.max(...v.map((x) => x ?? 0)))}`).join(", ")}` });
        const holder = node("figure", {}, node("h3", {}, name), box);
        at.append(holder);
        const options = {
          width: Math.max(holder.clientWidth, 280), height: 170,
          cursor: { sync: { key: "time" }, drag: { x: true, y: false } }, scales: { x: { time: false } },
          axes: [{ ...axis, label: "s", labelSize: 16 }, { ...axis, size: 60, values: (_, v) => v.map(short) }],
          series: [{ label: "s", value: (_, v) => number(v, 1) }, ...lines.map(([label], n) => ({ label, stroke: css(`--c${n % 7}`), width: 1.5, dash: n > 6 ? [6, 3] : undefined, value: (_, v) => number(v), spanGaps: false, points: { show: false } }))],
          hooks: { setScale: [(u, key) => {
            if (key !== "x" || zooming) return;
            zooming = true;
            const { min, max } = u.scales.x;
            for (const { plot } of plots) if (plot !== u) plot.setScale("x", { min, max });
            zooming = false;
          }] },
        };
        plots.push({ plot: new uPlot(options, [times, ...lines.map(([, values]) => values)], box), holder });
      }
    };
    build();
    reset.addEventListener("click", () => plots[0]?.plot.setScale("x", { min: times[0], max: times[times.length - 1] }));
    addEventListener("resize", () => plots.forEach(({ plot, holder }) => plot.setSize({ width: Math.max(holder.clientWidth, 280), height: 170 })));
    return build;
  }

  function heat() {
    const at = section("heat", "Workers over time", "Running requests of each worker; the darker, the more.");
    for (const p of data.series.pools) {
      const rows = p.workers.length, bins = p.workers[0]?.length ?? 0, step = Math.ceil(bins / 100), height = Math.max(3, Math.min(18, 600 / rows));
      const cells = p.workers.map((w) => Array.from({ length: Math.ceil(bins / step) }, (_, n) => w.slice(n * step, (n + 1) * step).reduce((a, v) => a + v, 0) / step));
      const most = Math.max(...cells.flat(), 1e-9), width = 1100 / Math.ceil(bins / step);
      const chart = svg(`${p.pool}: running requests by worker and time, at most ${number(most)}`, 1160, rows * height + 20);
      cells.forEach((row, w) => {
        if (height >= 10 || w % 10 === 0) draw(chart, "text", { x: 40, y: w * height + height / 2 + 4, "text-anchor": "end" }, w);
        row.forEach((v, n) => v > 0 && tip(draw(chart, "rect", { x: 48 + n * width, y: w * height, width: width + 0.3, height: height - 0.5, fill: "var(--c0)", opacity: (0.06 + 0.94 * v / most).toFixed(3) }), `worker ${w}, ${number((data.series.start_ms + n * step * data.series.bin_ms) / 1000, 0)} s: ${number(v)}`));
      });
      draw(chart, "text", { x: 48, y: rows * height + 15 }, `${number(data.series.start_ms / 1000, 0)} s`);
      draw(chart, "text", { x: 1148, y: rows * height + 15, "text-anchor": "end" }, `${number((data.series.start_ms + bins * data.series.bin_ms) / 1000, 0)} s`);
      figure(at, chart, `${p.pool}: up to ${number(most)} running requests`);
    }
  }

  function prompts() {
    const at = section("prompts", "Prompts", "Which part of prompts was reused, and what their length does to the TTFT.");
    const pair = node("div", { class: "pair" });
    at.append(pair);
    if (!data.scatter.length) return;
    const longest = Math.max(...data.prefix.map(([d]) => d), 1), y1 = linear(0, 100, H - B, T), x1 = linear(0, longest, L, W - R);
    const reuse = svg("Share of prompts by depth whose tokens were reused", W, H);
    axes(reuse, x1, ticks(longest), y1, [0, 25, 50, 75, 100], "depth in the prompt (tokens)", "%");
    const line = (of, color) => draw(reuse, "path", { d: "M" + data.prefix.map((p) => `${x1(p[0]).toFixed(1)} ${y1(of(p)).toFixed(1)}`).join("L"), fill: "none", stroke: color, "stroke-width": 2 });
    const all = Math.max(data.prefix[0][1], 1);
    line(([, reach, hit]) => (reach ? (hit / reach) * 100 : 0), "var(--c0)");
    line(([, reach]) => (reach / all) * 100, "var(--c6)");
    const left = node("div", {});
    figure(left, reuse, "Blue: of the prompts that reach a depth, the share that found it in the prefix cache. Grey: the share of prompts that reach it.");
    const maxX = Math.max(...data.scatter.map(([t]) => t), 2), values = data.scatter.map(([, ms]) => Math.max(ms, 0.01));
    const x2 = linear(0, maxX, L, W - R), low = Math.min(...values), high = Math.max(...values, low * 1.5), y2 = logarithmic(low, high, H - B, T);
    const cloud = svg("Input length against TTFT, a dot a request", W, H);
    axes(cloud, x2, ticks(maxX), y2, logTicks(low, high), "input length (tokens)", "TTFT (ms)");
    draw(cloud, "path", { d: data.scatter.map(([t, ms]) => `M${x2(t).toFixed(1)} ${y2(ms).toFixed(1)}h0`).join(""), stroke: "var(--c0)", "stroke-width": 3, "stroke-linecap": "round", opacity: 0.35 });
    const right = node("div", {});
    figure(right, cloud, `${number(data.scatter.length)} of ${number(data.report.completed_requests)} requests`);
    pair.append(left, right);
  }

  function slowest() {
    const at = section("slowest", "Slowest requests", "The longest TTFTs: the part before the first token by what it was spent on, then the output.");
    if (!data.slowest.length) return;
    const names = data.parts.map(words), row = 26, high = Math.max(...data.slowest.map((r) => r.e2e)), x = linear(0, high, 110, 1150);
    at.append(legend([...names, "output"]));
    const chart = svg("Life lines of the slowest requests", 1160, data.slowest.length * row + 22);
    data.slowest.forEach((r, n) => {
      let left = 0;
      draw(chart, "text", { x: 104, y: n * row + 16, "text-anchor": "end" }, `request ${r.request}`);
      [...r.parts, r.e2e - r.ttft].forEach((ms, part) => {
        if (ms > 0) tip(draw(chart, "rect", { x: x(left), y: n * row + 3, width: Math.max(x(left + ms) - x(left), 0.5), height: row - 9, fill: colors[part] }), `${[...names, "output"][part]}: ${number(ms)} ms`);
        left += ms;
      });
    });
    for (const t of ticks(high)) draw(chart, "text", { x: x(t), y: data.slowest.length * row + 16, "text-anchor": "middle" }, `${short(t)} ms`);
    figure(at, chart, "Time since arrival");
    at.append(table(["Request", "arrival (s)", "input", "reused", "output", "TTFT (ms)", "E2E (ms)", "workers", "preemptions"],
      data.slowest.map((r) => [r.request, number(r.arrival / 1e3), number(r.input), number(r.reused), number(r.output), number(r.ttft), number(r.e2e), r.stages.map((s) => `${s.pool} ${s.worker}`).join(" → "), r.stages.reduce((a, s) => a + s.preemptions, 0)])));
  }

  function reproduce() {
    const at = section("reproduce", "Configuration", "Save this as config.toml; `servecast replay --config config.toml` gives the same report.");
    at.append(node("pre", { tabindex: "0" }, data.config));
  }

  document.getElementById("title").textContent = data.title;
  if (data.report.latency_estimate) {
    const estimate = document.getElementById("estimate");
    estimate.textContent = `Iteration times are an estimate, nothing was measured: ${data.report.latency_estimate}`;
    estimate.hidden = false;
  }
  summary();
  distributions();
  breakdown();
  const rebuild = timeSeries();
  heat();
  prompts();
  slowest();
  reproduce();
  const theme = document.getElementById("theme");
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = isDark ? "light" : "dark";
    theme.setAttribute("aria-pressed", String(!isDark));
    rebuild();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
  document.documentElement.dataset.ready = "true";
})();
