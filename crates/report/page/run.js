// The page of a run.

const WANTED = 0.99;

function diagnosis() {
  const findings = data.report.diagnosis ?? [];
  if (!findings.length) return;
  const at = section("diagnosis", "Diagnosis", "What is wrong with this run, the first thing to change first.");
  const units = { share: percent, ms: (value) => `${number(value)} ms` };
  const figure = (e) => `${words(e.name)}: ${units[e.unit]?.(e.value) ?? `${number(e.value)} ${e.unit}`}`;
  const place = (test) => findings.findIndex((f) => JSON.stringify(f.what_if?.settings) === JSON.stringify(test.settings));
  const item = (finding, n) => {
    const [name, ...rest] = finding.sentence.split(":");
    const entry = node("li", {}, node("p", {}, node("b", {}, name), `:${rest.join(":")}.`));
    entry.append(node("p", { class: "dim" }, finding.evidence.map(figure).join(" · ")));
    const test = finding.what_if;
    if (test) entry.append(node("p", {}, `${test.tested ? "Tested" : "To test it"}, with ${test.change}: `, node("code", {}, test.command)));
    if (test?.tested) entry.append(place(test) < n ? node("p", { class: "dim" }, `What came of it stands in ${place(test) + 1}.`) : tested(test.tested, name));
    return entry;
  };
  at.append(node("ol", { class: "findings" }, ...findings.map(item)));
  at.append(node("p", { class: "dim" }, "It was made with the targets that the run was given. Those set below do not change it."));
}

/// What came of the run that tests a finding.
function tested({ refused, figures }, finding) {
  if (refused) return node("p", { class: "dim" }, `That run cannot be made: ${refused}`);
  const names = { sla: "requests within the limits" };
  const ofTarget = (f) => names[f.name] ?? (f.name.includes("<") ? `within ${f.name}` : words(f.name.replace(/_(ms|tok_s)$/, "")));
  const shown = (f, value) => (f.unit === "share" ? percent(value) : number(value, f.unit === "count" ? 0 : 2));
  const change = (f) => (f.before > 0 && f.after != null && f.unit !== "share" ? `${number((f.after / f.before - 1) * 100, 0)} %` : "");
  const row = (f) => [`${ofTarget(f)}${["ms", "tokens/s"].includes(f.unit) ? ` (${f.unit})` : ""}`, shown(f, f.before), shown(f, f.after), change(f)];
  return table(["Figure", "this run", "with the change", "change"], figures.map(row), `Test of: ${finding}`);
}

function summary() {
  const r = data.report;
  const at = section("summary", "Summary");
  iterationTimes(r);
  const { pooled_itl_ms: gap, ...limits } = r.sla ?? {};
  const ofRequests = Object.entries(limits).filter(([, limit]) => limit != null).map(([key, limit]) => `${key.replace("_ms", "").toUpperCase()} ≤ ${number(limit)} ms`);
  const judged = [];
  if (ofRequests.length) {
    const share = r.goodput_completed_requests / Math.max(r.num_requests, 1);
    judged.push([share, `${percent(share)} of all requests within ${ofRequests.join(", ")}; goodput ${number(r.goodput_request_throughput_rps)} requests/s`]);
  }
  if (gap != null) judged.push([r.pooled_itl_within_sla_ratio ?? 0, `${percent(r.pooled_itl_within_sla_ratio)} of all gaps between tokens within ${number(gap)} ms`]);
  if (judged.length) {
    const kept = judged.every(([share]) => share >= WANTED);
    at.append(node("p", { class: `verdict ${kept ? "good" : "bad"}` }, node("b", {}, kept ? "✓ SLA kept" : "✗ SLA missed"),
      `: ${judged.map(([, text]) => text).join("; ")}. The verdict asks for ${WANTED * 100}%.`));
  } else if (!r.slo?.length) at.append(node("p", { class: "dim" }, "No SLA was given, so there is no verdict: --sla-ttft-ms, --sla-tpot-ms, --sla-e2e-ms and --sla-pooled-itl-ms set limits, --slo objectives."));
  if (r.measured) {
    const m = r.measured, span = m.from_ms == null ? "" : `, which arrived from ${number(m.from_ms / 1e3)} to ${number(m.to_ms / 1e3)} s`;
    const found = { given: "as asked for", mser5: "steady state by MSER-5", no_steady_state: "no steady state found, so nothing is left out before" }[m.found_by];
    at.append(node("p", {}, node("b", {}, `Measured: ${number(m.requests)} of ${number(m.requests + m.left_out_before + m.left_out_after)} requests`), `${span}; ${number(m.left_out_before)} before and ${number(m.left_out_after)} after left out (${found}). Charts, and what pools did, are of the whole run.`));
  }
  if (r.counted_as_infinite) at.append(node("p", {}, `${number(r.counted_as_infinite)} requests were not served and count as infinite in latencies.`));
  if (r.overload) {
    const o = r.overload, seconds = o.from_ms / 1e3;
    const from = seconds < 120 ? `second ${number(seconds, 0)}` : `minute ${number(seconds / 60, 0)}`;
    at.append(node("p", { class: "verdict bad" }, node("b", {}, `Overloaded from ${from}`), `: the queue grows by ${number(o.growth_rps)} requests/s of ${number(o.arrival_rps)} that arrive, so latencies depend on the length of the trace.`));
  }
  for (const slo of r.slo ?? []) {
    const points = slo.objective.startsWith("goodput");
    const margin = slo.margin == null ? "" : `, ${number(Math.abs(slo.margin) * 100)} ${points ? "points" : "%"} ${(slo.margin < 0) === points ? "below" : "above"}`;
    const found = slo.value != null ? `${points ? percent(slo.value) : `${number(slo.value)} ms`}${margin}` : slo.samples ? `infinite, since ${number(slo.unserved)} requests were not served` : "there is no sample of it";
    at.append(node("p", { class: `verdict ${slo.met ? "good" : "bad"}` }, node("b", {}, `${slo.met ? "✓" : "✗"} ${slo.objective}`), `: ${found}; ${number(slo.misses)} of ${number(slo.samples)} beyond the limit.`));
  }
  const both = (name, digits, factor = 1) => `${number(scaled(r[`mean_${name}`], 1 / factor), digits)} / ${number(scaled(r[`p99_${name}`], 1 / factor), digits)}`;
  const of = (p) => (r.pools.length > 1 ? `, ${p.pool}` : "");
  const cards = [
    ["TTFT, mean / p99", `${both("ttft_ms", 0)} ms`], ["ITL, mean / p99", `${both("itl_ms", 2)} ms`], ["E2E latency, mean / p99", `${both("e2e_latency_ms", 1, 1e3)} s`],
    ["Output", `${number(r.output_throughput_tok_s, 0)} tokens/s`], ["Requests", `${number(r.request_throughput_rps)} /s`], ["Completed / rejected", `${number(r.completed_requests)} / ${number(r.rejected_requests)}`],
    ["Prefix reuse", percent(r.prefix_cache_reused_ratio)], ["Preemptions", number(r.total_preemptions)],
    ...r.pools.flatMap((p) => [[`Batch occupancy${of(p)}`, percent(p.batch_occupancy)], [`KV in use${of(p)}, mean / most`, `${percent(p.kv_usage)} / ${percent(p.peak_kv_usage)}`]]),
  ];
  at.append(node("div", { class: "cards" }, ...cards.map(([name, value]) => node("div", { class: "card" }, node("span", {}, name), node("b", {}, value)))));
  const statistics = ["mean", "min", "median", "p90", "p95", "p99", "max"];
  at.append(table(["Metric (ms)", ...statistics], ["ttft", "ttst", "itl", "tpot", "e2e_latency", "queue_time"].map((name) => [words(name), ...statistics.map((s) => number(r[`${s}_${name}_ms`]))])));
  const pool = (p) => [p.pool, p.workers, percent(p.batch_occupancy), number(p.mean_batch_size), `${percent(p.kv_usage)} / ${percent(p.peak_kv_usage)}`, percent(p.utilization), `${percent(p.utilization_per_worker?.min)} / ${percent(p.utilization_per_worker?.max)}`, number(p.iterations), number(p.computed_tokens), number(p.preemptions)];
  at.append(table(["Pool", "workers", "batch occupancy", "requests in an iteration", "KV in use, mean / most", "time in an iteration", "least / most busy worker", "iterations", "tokens computed", "preemptions"], r.pools.map(pool)));
  at.append(node("p", { class: "dim" }, "How full a pool is, and how much more it could take, is said by batch occupancy (requests in an iteration over max_num_seqs) and KV in use (the share of KV blocks that requests hold), averaged over the time in iterations. Time in an iteration, which reports call utilization, is the share of time in any iteration, however small its batch: it is near 100 % as soon as there always is a request."));
}

// ---- Classes of requests, and sessions.

const STATISTICS = ["mean", "median", "p90", "p95", "p99", "max"];
/// A statistic of a latency: none without samples, and null where it falls on a request that was not served.
const statistic = (of, key) => (of && of[key] == null ? "infinite" : number(of?.[key]));
/// As many rows as a reader takes in at a glance; more are folded away.
const MOST_ROWS = 20;

/// The figures of each class of requests, and of sessions of several requests.
function groups() {
  const { classes, sessions } = data.report;
  if (!classes && !sessions) return;
  const title = classes && sessions ? "Classes and sessions" : classes ? "Classes" : "Sessions";
  const at = section("groups", title);
  if (classes) byClass(at, Object.entries(classes));
  if (sessions) ofSessions(at, sessions);
}

function byClass(at, classes) {
  const which = data.report.measured ? " that are measured" : "";
  at.append(node("p", { class: "dim" }, `The requests of each class that the trace names${which}; times in ms.`));
  const objectives = classes[0][1].slo?.map((slo) => slo.objective) ?? [];
  const withGoodput = classes[0][1].goodput_completed_requests != null;
  const head = ["Class", "requests", "completed", "TTFT mean", "TTFT p99", "TPOT mean", "ITL p99", "E2E mean", "E2E p99", "prefix reuse", ...(withGoodput ? ["within limits"] : []), ...objectives];
  const outcome = ({ met, objective, value, samples }) => `${met ? "✓" : "✗"} ${value == null ? (samples ? "infinite" : "no sample") : objective.startsWith("goodput") ? percent(value) : number(value)}`;
  const row = ([name, c]) => [name, number(c.num_requests), number(c.completed_requests), statistic(c.ttft_ms, "mean"), statistic(c.ttft_ms, "p99"), statistic(c.tpot_ms, "mean"), statistic(c.itl_ms, "p99"), statistic(c.e2e_latency_ms, "mean"), statistic(c.e2e_latency_ms, "p99"), percent(c.prefix_cache_reused_ratio),
    ...(withGoodput ? [percent(c.goodput_completed_requests / Math.max(c.num_requests, 1))] : []), ...(c.slo ?? []).map(outcome)];
  const figures = table(head, classes.map(row), "Figures by class");
  at.append(classes.length > MOST_ROWS ? details(`${number(classes.length)} classes`, figures) : figures);
}

function ofSessions(at, s) {
  const whole = data.report.measured ? " They are of the whole run." : "";
  const told = s.idle_ratio == null ? "." : `; in ${percent(s.idle_ratio)} of their time none of their requests was under way, while people think and tools run.`;
  at.append(node("p", {}, `${number(s.num_sessions)} sessions of several requests, ${number(s.completed_sessions)} served to the end${told}${whole}`));
  const seconds = (of) => of && Object.fromEntries(Object.entries(of).map(([key, value]) => [key, scaled(value, 1e-3)]));
  const rows = [["length (s)", seconds(s.session_duration_ms)], ["TTFT of first requests (ms)", s.first_turn_ttft_ms], ["TTFT of later requests (ms)", s.later_turn_ttft_ms]];
  at.append(table(["Session", ...STATISTICS], rows.map(([name, of]) => [name, ...STATISTICS.map((key) => number(of?.[key]))]), "Figures of sessions"));
}

// ---- Targets that the reader sets.

/// Name, key of the limit that the run was given, and the latencies of requests.
const TARGETS = [["TTFT", "ttft_ms", "ttft"], ["ITL", "tpot_ms", "itl"], ["E2E latency", "e2e_ms", "e2e"]];

/// How many requests keep limits, and what else follows from them.
function targets(repaint) {
  const at = section("targets", "Targets", "Limits on the latencies of a request; its ITL is the mean gap between its tokens (TPOT). Goodput, the lines in the charts and the marks of the slowest requests follow; the diagnosis, and the verdict above, stay those of the run.");
  if (data.report.measured) at.append(node("p", { class: "dim" }, "Shares and goodput are of the measured requests; the lines of latencies over time and the slowest requests are of the whole run."));
  const { every, all, latencies } = data.requests, seconds = (data.report.duration_ms ?? 0) / 1e3;
  const said = node("output", { class: "kept", "aria-live": "polite" }), list = node("ul");
  const tell = () => {
    const given = TARGETS.filter(([name]) => limits[name] > 0), count = latencies.ttft.length;
    const keeps = (n, [name, , key]) => latencies.e2e[n] != null && (latencies[key][n] ?? 0) <= limits[name];
    const share = (of) => Array.from({ length: count }, (_, n) => n).filter((n) => of.every((target) => keeps(n, target))).length / Math.max(count, 1);
    const within = (target) => `${target[0]} ≤ ${number(limits[target[0]])} ms`;
    const sampled = every > 1 ? ` (counted over every ${every}th request)` : "";
    const kept = share(given);
    said.textContent = !given.length ? "No target is set." : !count ? "No request arrived: there is no sample." : `${percent(kept)} of ${number(all)} ${data.report.measured ? "measured " : ""}requests${sampled} within ${given.map(within).join(", ")}: goodput ${seconds ? number((kept * all) / seconds) : "–"} requests/s.`;
    list.replaceChildren(...(given.length > 1 && count ? given.map((target) => node("li", {}, `${within(target)}: ${percent(share([target]))}`)) : []));
    for (const [mark, , request] of marks) mark.classList.toggle("bad", TARGETS.some(([name, , key]) => limits[name] > 0 && (key === "itl" ? request.tpot : request[key]) > limits[name]));
  };
  const input = ([name, key]) => {
    const box = node("input", { type: "number", min: "0", step: "any", inputmode: "decimal", placeholder: "none" });
    box.value = data.report.sla?.[key] ?? "";
    limits[name] = +box.value;
    box.addEventListener("input", () => {
      limits[name] = box.validity.valid ? +box.value : 0;
      tell();
      repaint();
    });
    return node("label", {}, `${name} (ms) `, box);
  };
  at.append(node("div", { class: "controls" }, ...TARGETS.map(input)), said, list);
  return tell;
}

/// What a request went through, in order: the part of the TTFT (or the output behind them), from, to, in ms.
const life = (request) => {
  const spans = [];
  const part = (name) => data.parts.indexOf(name);
  const loss = request.parts?.[part("preemption_loss")] ?? 0;
  let at = request.arrival;
  for (const stage of request.stages) {
    const until = (part, time) => {
      if (time != null && time > at) spans.push([part, at, time, `${stage.pool} ${stage.worker}`]);
      at = Math.max(at, time ?? at);
    };
    until(part("front_end"), stage.arrived);
    until(part("router_queue"), stage.queued);
    const wait = part(stage.pool === "decode" ? "decode_wait" : "engine_queue");
    until(wait, stage.transfer_start);
    until(part("kv_transfer"), stage.transfer_end);
    until(wait, stage.admitted);
    if (stage.preemptions && loss > 0 && stage.first_token != null) until(part("preemption_loss"), Math.min(at + loss, stage.first_token));
    until(part("prefill_compute"), stage.first_token);
    until(data.parts.length, stage.last_token);
  }
  // The last token is on its way to the user.
  if (request.arrival + request.e2e > at + 1e-6) spans.push([part("front_end"), at, request.arrival + request.e2e, "delivery"]);
  return spans;
};

function slowest() {
  const at = section("slowest", "Slowest requests", "The life lines of the requests with the longest TTFT. The number of one shows it on the time axis above; in the file of --timeline it is called the same, “request 17” for 17.");
  if (!data.slowest.length) return;
  const names = [...data.parts.map(words), "output"], row = 26;
  const requests = data.slowest, height = requests.length * row + 24;
  at.append(legend(names));
  for (const [high, caption] of [[Math.max(...requests.map((r) => r.ttft)), "Until the first token, since arrival"], [Math.max(...requests.map((r) => r.e2e)), "The whole life, since arrival"]]) {
    figure(at, {
      label: `Life lines of the ${requests.length} requests with the longest TTFT. ${caption}`, caption, height,
      paint: (chart, width) => {
        const x = linear(0, high, 68, width - 16);
        for (const t of ticks(high, Math.max(2, Math.floor(width / 110)))) {
          draw(chart, "line", { class: "axis", x1: x(t), x2: x(t), y1: 0, y2: requests.length * row });
          tick(chart, x(t), height - 8, `${short(t)} ms`);
        }
        requests.forEach((request, n) => {
          draw(chart, "text", { x: 62, y: n * row + 17, "text-anchor": "end" }, `# ${request.request}`);
          for (const [part, from, to, where] of life(request)) {
            const left = x(from - request.arrival), right = x(Math.min(to - request.arrival, high));
            const bar = { x: left, y: n * row + 4, width: Math.max(right - left, 0.5), height: row - 9, fill: colors[part] };
            if (from - request.arrival < high) tip(draw(chart, "rect", bar), `request ${request.request}, ${names[part]}: ${number(to - from)} ms on ${where}`);
          }
        });
      },
    });
  }
  const onAxis = (r) => {
    const button = node("button", { type: "button", class: "link", "aria-label": `Request ${r.request} on the time axis` }, `${r.request}`);
    button.addEventListener("click", () => {
      const [from, to] = [r.arrival / 1e3, (r.arrival + r.e2e) / 1e3], room = Math.max((to - from) * 0.5, (span[1] - span[0]) / 200);
      zoomTo(Math.max(from - room, span[0]), Math.min(to + room, span[1]));
      document.getElementById("time").scrollIntoView();
    });
    return button;
  };
  const line = (r) => [onAxis(r), r.line, number(r.arrival / 1e3), number(r.input), number(r.reused), number(r.output), number(r.ttft), number(r.e2e), r.stages.map((s) => `${s.pool} ${s.worker}`).join(" → "), sum(r.stages.map((s) => s.preemptions))];
  at.append(table(["Request", "line", "arrival (s)", "input", "reused", "output", "TTFT (ms)", "E2E (ms)", "workers", "preemptions"], requests.map(line), "Times of the slowest requests"));
  at.querySelectorAll("tbody tr").forEach((row, n) => {
    row.id = `request-${requests[n].request}`;
    row.tabIndex = -1;
  });
}

function reproduce() {
  const at = section("reproduce", "Configuration", `Every setting of the run. Saved as config.toml, it gives the same report with servecast ${data.version}:`);
  const r = data.report;
  if (r.workload_hash) at.append(node("p", {}, `Workload: ${r.workload_name}, hash ${r.workload_hash}; seed ${r.seed}.`));
  const command = "servecast replay --config config.toml";
  at.append(node("pre", { tabindex: "0", "aria-label": "Command" }, command));
  at.append(...copied("Copy the configuration", "config.toml", data.config));
}

head(data.about);
diagnosis();
summary();
groups();
let repaintLines = () => {};
const tellTargets = targets(() => {
  drawAll(0, true);
  repaintLines();
});
distributions();
breakdown();
repaintLines = timeSeries();
tellTargets();
const repaintHeat = heat();
prompts();
slowest();
reproduce();
finish(() => {
  repaintLines();
  repaintHeat();
});
