// The page of recorded runs beside their simulations.

/// Curves of both over time.
const overTime = (parent, { name, bin_s: bin, real, ours }) => {
  const lines = [["real", real], ["servecast", ours]];
  const high = Math.max(most(real), most(ours), 1e-9), seconds = Math.max(real.length, ours.length) * bin;
  const told = lines.map(([label, values]) => `${label} at most ${number(most(values))}, on average ${number(sum(values) / Math.max(values.length, 1))}`).join("; ");
  figure(parent, {
    label: `${name} over time: ${told}`, caption: `${name}: ${told}`, height: 200,
    paint: (chart, width, height) => {
      const box = frame(width, height);
      const x = linear(0, seconds, box.left, box.right), y = linear(0, high, box.bottom, box.top);
      axes(chart, box, [x, ticks(seconds, box.columns), "s"], [y, ticks(high, 4), ""]);
      lines.forEach(([label, values], n) =>
        tip(draw(chart, "path", { d: path(values.map((v, n) => [x((n + 0.5) * bin), y(v)])), fill: "none", stroke: colors[n], "stroke-width": 1.5 }), label));
    },
  });
};

data.validated.forEach((run, n) => {
  const at = section(`run${n}`, run.name, run.about.join(" · "));
  at.append(table(run.head, run.rows, `Figures of ${run.name}`), legend(["real", "servecast"]));
  const pair = node("div", { class: "pair" });
  at.append(pair);
  for (const d of run.distributions) {
    const side = (quantiles, which) => ({ quantiles, samples: d.samples[which], mean: d.means[which] });
    distribution(pair, d.name, [["real", side(d.real, 0), colors[0]], ["servecast", side(d.ours, 1), colors[1]]]);
  }
  run.charts.forEach((chart) => overTime(at, chart));
});
finish(() => {});
