// Curves of runs over time, laid over each other.

/// Runs that are drawn at first.
const FIRST = 6;

/// Of `runs`, each with a name and perhaps curves; `without` more have none on this page.
function laidOver(runs, without) {
  if (runs.some((run) => run.curves)) drawOver(overTimeOf("The runs"), runs, without);
}

/// The section of curves over time.
const overTimeOf = (about) => section("time", "Over time", `${about} laid over each other, in seconds since the first arrival of each. TTFT and E2E latency are means of the completed requests that arrive then, ITL is the mean gap between the tokens that come then; lines end, or have gaps, where there is no sample.`);

function drawOver(at, runs, without) {
  const known = runs.flatMap((run, n) => (run.curves ? [n] : []));
  if (without) at.append(node("p", { class: "dim" }, `${number(without)} more runs have no curves here, which keeps this page small.`));
  // Who served nobody has no latency to look at.
  const served = known.filter((n) => runs[n].curves.latencies.ttft.some((value) => value != null));
  const chosen = new Set((served.length ? served : known).slice(0, FIRST));
  const boxes = known.map((n) => {
    const box = node("input", { type: "checkbox" }), mark = node("i");
    box.checked = chosen.has(n);
    mark.style.background = colors[n % 8];
    box.addEventListener("change", () => {
      chosen[box.checked ? "add" : "delete"](n);
      build();
    });
    return node("label", {}, box, " ", mark, runs[n].name);
  });
  at.append(node("div", { class: "controls legend picks", role: "group", "aria-label": "Runs that are drawn" }, ...boxes));
  const build = remade(at, (part) => overlay(part, runs, known.filter((n) => chosen.has(n))));
}

function overlay(at, all, runs) {
  if (!runs.length) return at.append(node("p", {}, "Choose a run above."));
  const curves = (n) => all[n].curves;
  const hasQueues = runs.every((n) => curves(n).running);
  const charts = [
    ["TTFT (ms)", (c) => c.latencies.ttft], ["ITL (ms)", (c) => c.latencies.itl], ["E2E latency (ms)", (c) => c.latencies.e2e], ["Arrivals (requests/s)", (c) => c.arrivals],
    ...(hasQueues ? [] : [["Requests under way", (c) => c.under_way]]),
    ["Running requests", (c) => c.running], ["Waiting requests", (c) => c.waiting], ["KV in use (tokens of running requests)", (c) => c.kv_tokens],
  ].map(([name, of]) => [name, runs.filter((n) => of(curves(n))?.some((value) => value != null)).map((n) => [n, of(curves(n)), curves(n).bin_s])]).filter(([, lines]) => lines.length);
  const end = most(runs.map((n) => curves(n).bin_s * curves(n).arrivals.length)), grid = node("div", { class: "multiples" });
  at.append(grid);
  for (const [name, lines] of charts) {
    const high = Math.max(...lines.map(([, values]) => most(values))), told = lines.map(([n, values]) => `${all[n].name} at most ${number(most(values))}`).join(", ");
    figure(titled(grid, name), {
      label: `${name} over time: ${told}`, caption: "", height: 190,
      paint: (chart, width, height) => {
        const box = frame(width, height), x = linear(0, end, box.left, box.right), y = linear(0, high * 1.05 || 1, box.bottom, box.top);
        axes(chart, box, [x, ticks(end, box.columns), "s"], [y, ticks(high * 1.05 || 1, 4), ""]);
        for (const [n, values, bin] of lines) tip(draw(chart, "path", { d: broken(values.map((value, i) => value != null && [x((i + 0.5) * bin), y(value)])), ...lineOf(n) }), all[n].name);
      },
    });
  }
  const mean = (values) => {
    const there = values.filter((value) => value != null);
    return number(sum(there) / Math.max(there.length, 1));
  };
  const rows = charts.flatMap(([name, lines]) => lines.map(([n, values]) => [name, all[n].name, mean(values), number(most(values))]));
  at.append(details("Figures", table(["Curve", "run", "mean", "most"], rows)));
}
