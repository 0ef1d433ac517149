//! The diagnosis of runs that were made to have a fault, and of healthy ones.

use std::fmt::Write as _;

use serde_json::Value;

use crate::sandbox::Sandbox;

/// A made-up trace, with arrivals by chance that are the same in each run.
struct Load {
    random: u64,
    rows: Vec<(f64, String)>,
    next_id: u64,
}

impl Load {
    fn new(seed: u64) -> Self {
        Self { random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), rows: Vec::new(), next_id: 1 << 20 }
    }

    /// A number from 0 to 1, by xorshift.
    fn unit(&mut self) -> f64 {
        for _ in 0..3 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
        }
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One request at a second, whose prompt begins with these blocks of 512 tokens.
    fn one(mut self, second: f64, tokens: [u32; 2], shared: &[u64]) -> Self {
        let blocks = tokens[0].div_ceil(512) as usize;
        let mut ids: Vec<u64> = shared.iter().copied().take(blocks).collect();
        while ids.len() < blocks {
            self.next_id += 1;
            ids.push(self.next_id);
        }
        let [input, output] = tokens;
        let row = format!(
            "{{\"timestamp\": {:.3}, \"input_length\": {input}, \"output_length\": {output}, \"hash_ids\": {ids:?}}}\n",
            second * 1000.0
        );
        self.rows.push((second, row));
        self
    }

    /// Requests by a Poisson process of so many a second, from one second to another.
    fn poisson(self, rate: f64, from: f64, to: f64, tokens: [u32; 2]) -> Self {
        self.varied(rate, from, to, |_, _| (tokens, Vec::new()))
    }

    /// The same; each request, by its number, as `of` says, which may draw numbers.
    fn varied(
        mut self,
        rate: f64,
        from: f64,
        to: f64,
        of: impl Fn(usize, f64) -> ([u32; 2], Vec<u64>),
    ) -> Self {
        let mut at = from;
        for number in 0.. {
            at -= (1.0 - self.unit()).ln() / rate;
            if at >= to {
                break;
            }
            let draw = self.unit();
            let (tokens, shared) = of(number, draw);
            self = self.one(at, tokens, &shared);
        }
        self
    }

    fn text(mut self) -> String {
        self.rows.sort_by(|one, other| one.0.total_cmp(&other.0));
        self.rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// One of so many prefixes of eight blocks.
fn prefix(of: usize, draw: f64) -> Vec<u64> {
    let first = (draw * of as f64) as u64 * 100;
    (first..first + 8).collect()
}

const LINEAR: &str = "--latency linear:5000,100,50";
const FAST: &str = "--latency linear:8000,50,100";
const LLAMA: &str = "--model meta-llama/Llama-3.1-8B-Instruct --gpu H100-SXM --engine-preset vllm-0.33";
const SGLANG: &str = "--engine sglang --num-gpu-blocks 400000";
const DISAGGREGATED: &str = "--kv-bytes-per-token 131072";

/// What a run is diagnosed with, of a trace or of a load that the arguments make up.
fn diagnosis(load: Option<Load>, arguments: &str) -> Value {
    let sandbox = Sandbox::new();
    let mut all: Vec<&str> = Vec::new();
    if let Some(load) = load {
        sandbox.write("load.jsonl", load.text());
        all.push("load.jsonl");
    }
    all.extend(["--quiet", "--diagnosis"]);
    // An objective has spaces in it, which stand as underscores here.
    let arguments: Vec<String> = arguments
        .split_whitespace()
        .map(
            |argument| if argument.contains("<=") { argument.replace('_', " ") } else { argument.to_owned() },
        )
        .collect();
    all.extend(arguments.iter().map(String::as_str));
    sandbox.report(&all)["diagnosis"].clone()
}

/// Holds that the first finding of each run is of this kind, has figures, and names a run that tests it.
#[track_caller]
fn named_first(kind: &str, runs: Vec<(Option<Load>, String)>) {
    assert_eq!(runs.len(), 3);
    let mut told = String::new();
    let mut is_right = true;
    for (load, arguments) in runs {
        let found = diagnosis(load, &arguments);
        let first = &found[0];
        is_right &= first["kind"] == kind
            && first["evidence"].as_array().is_some_and(|evidence| !evidence.is_empty())
            && first["what_if"]["command"]
                .as_str()
                .is_some_and(|command| command.starts_with("servecast replay"));
        let _ = writeln!(told, "{arguments}: {found:#}");
    }
    assert!(is_right, "{kind} is not named first: {told}");
}

fn run(load: Load, arguments: &[&str]) -> (Option<Load>, String) {
    (Some(load), arguments.join(" "))
}

fn made_up(arguments: &[&str]) -> (Option<Load>, String) {
    (None, arguments.join(" "))
}

#[test]
fn waiting_at_a_peak() {
    let burst = |seed, rate, peak: [f64; 3], tokens| {
        Load::new(seed).poisson(rate, 0.0, 60.0, tokens).poisson(peak[0], peak[1], peak[2], tokens)
    };
    named_first(
        "queue_at_peak",
        vec![
            run(burst(1, 1.0, [12.0, 20.0, 25.0], [2000, 50]), &[LINEAR]),
            run(burst(2, 2.0, [30.0, 10.0, 14.0], [2500, 40]), &[LINEAR, SGLANG, "--workers 2"]),
            run(burst(3, 1.0, [12.0, 30.0, 40.0], [300, 200]), &["--engine trtllm --max-num-seqs 16"]),
        ],
    );
}

#[test]
fn prefill_bound() {
    let closed = "--input-tokens 6000 --output-tokens 20 --request-count 150 --replay-concurrency 16";
    named_first(
        "prefill_bound",
        vec![
            made_up(&[LINEAR, closed]),
            run(Load::new(5).poisson(1.7, 0.0, 100.0, [5000, 30]), &[LINEAR, "--slo p95_ttft_<=_1s"]),
            made_up(&[LLAMA, &closed.replace("6000", "20000"), "--workers 2"]),
        ],
    );
}

const LLAMA_70B: &str = "--model meta-llama/Llama-3.3-70B-Instruct --gpu H100-SXM --tp 4 --engine-preset vllm-0.33 --max-num-seqs 256";

/// Tokens come late since prompts are in the same passes, not since these have many decodes.
#[test]
fn prefill_stalls_decodes() {
    named_first(
        "prefill_stalls",
        vec![
            run(Load::new(61).poisson(1.0, 0.0, 80.0, [2000, 200]), &[LINEAR, "--slo p99.9_itl_<=_30ms"]),
            run(Load::new(62).poisson(4.0, 0.0, 60.0, [3000, 300]), &[LLAMA, "--slo p90_tpot_<=_12ms"]),
            // Less than half of the time has prompts in it, and some of the gaps.
            run(
                Load::new(63).poisson(15.0, 0.0, 40.0, [500, 100]),
                &[LLAMA_70B, "--workers 2 --max-num-batched-tokens 512 --slo p95_itl_<=_30ms"],
            ),
        ],
    );
    named_first(
        "prefill_stalls",
        vec![
            run(Load::new(64).poisson(2.0, 0.0, 60.0, [4000, 200]), &[SGLANG, "--slo p99.5_itl_<=_20ms"]),
            run(
                Load::new(65).poisson(1.5, 0.0, 60.0, [2000, 300]),
                &[LINEAR, "--engine trtllm --slo p95_tpot_<=_9ms"],
            ),
            // A prompt waits for others, too, which nobody asked about.
            run(
                Load::new(66).poisson(15.0, 0.0, 40.0, [500, 100]),
                &[LLAMA_70B, "--dtype fp8 --max-num-batched-tokens 512 --slo p95_itl_<=_30ms"],
            ),
        ],
    );
}

#[test]
fn decodes_that_are_slow_by_themselves() {
    named_first(
        "decode_bound_batch",
        vec![
            made_up(&[
                "--latency linear:8000,5,500 --input-tokens 50 --output-tokens 300 --request-count 300",
                "--replay-concurrency 64 --slo mean_tpot_<=_20ms",
            ]),
            // A seventh of the gaps has prompts, and they are half as long again; the others are too long without.
            run(
                Load::new(67).poisson(6.0, 0.0, 60.0, [100, 400]),
                &["--latency linear:8000,10,400 --slo p95_tpot_<=_20ms"],
            ),
            made_up(&[
                LLAMA_70B,
                "--input-tokens 128 --output-tokens 600 --request-count 400 --replay-concurrency 128 --slo p90_itl_<=_18ms",
            ]),
        ],
    );
}

/// On two H100 of a model of 70B half the chunk keeps a target of which another worker had been made the remedy.
#[test]
fn half_the_chunk_keeps_what_prompts_stalled() {
    let sandbox = Sandbox::new();
    sandbox.write("load.jsonl", Load::new(63).poisson(15.0, 0.0, 40.0, [500, 100]).text());
    let settings = [LLAMA_70B, "--workers 2 --max-num-batched-tokens 512"].join(" ");
    let mut given = vec!["load.jsonl", "-q", "--diagnose", "--slo", "p95 itl <= 30ms"];
    given.extend(settings.split_whitespace());
    let report = sandbox.report(&given);
    let first = &report["diagnosis"][0];
    assert_eq!(first["kind"], "prefill_stalls", "{first:#}");
    assert_eq!(first["what_if"]["change"], "half the chunk");
    let kept = tested(first).into_iter().find(|(name, ..)| name == "p95 itl <= 30ms").unwrap();
    assert!(kept.1.as_f64() < Some(0.95) && kept.2.as_f64() >= Some(0.95), "{kept:?}");
}

#[test]
fn decode_bound_by_the_batch() {
    let closed = "--input-tokens 300 --output-tokens 300 --request-count 150";
    named_first(
        "decode_bound_batch",
        vec![
            made_up(&["--max-num-seqs 8 --replay-concurrency 32", closed]),
            made_up(&[SGLANG, "--max-num-seqs 12 --workers 2 --replay-concurrency 72", closed]),
            run(
                Load::new(7).poisson(3.2, 0.0, 80.0, [200, 200]),
                &["--max-num-seqs 4 --slo p95_ttft_<=_500ms"],
            ),
        ],
    );
}

#[test]
fn decode_bound_by_kv() {
    let closed = "--input-tokens 1500 --request-count 100 --replay-concurrency 24";
    named_first(
        "decode_bound_kv",
        vec![
            made_up(&["--engine trtllm --num-gpu-blocks 300 --output-tokens 400", closed]),
            made_up(&["--engine sglang --num-gpu-blocks 16000 --output-tokens 300", closed]),
            made_up(&[FAST, "--num-gpu-blocks 120 --output-tokens 50", closed]),
        ],
    );
}

#[test]
fn preemption_storm() {
    named_first(
        "preemption_storm",
        vec![
            made_up(&[
                "--num-gpu-blocks 300 --input-tokens 200 --output-tokens 1500 --request-count 80 --replay-concurrency 32",
            ]),
            made_up(&[
                LLAMA,
                "--num-gpu-blocks 1200 --input-tokens 100 --output-tokens 1000 --request-count 100 --replay-concurrency 64",
            ]),
            run(
                Load::new(31).poisson(1.5, 0.0, 60.0, [300, 1200]),
                &[FAST, "--num-gpu-blocks 200 --slo p90_e2e_<=_30s"],
            ),
        ],
    );
}

#[test]
fn poor_reuse() {
    let shared = |seed, rate, end, of| {
        Load::new(seed).varied(rate, 0.0, end, move |_, draw| ([4600, 40], prefix(of, draw)))
    };
    named_first(
        "poor_reuse",
        vec![
            run(shared(9, 1.2, 120.0, 5), &[LINEAR, "--no-enable-prefix-caching"]),
            run(shared(10, 6.0, 40.0, 20), &[LINEAR, "--workers 8"]),
            run(shared(11, 1.3, 120.0, 20), &[LINEAR, "--num-gpu-blocks 400 --slo p90_ttft_<=_300ms"]),
        ],
    );
}

#[test]
fn imbalance_of_workers() {
    let alternating = |seed, every: usize, rate, heavy| {
        Load::new(seed).varied(rate, 0.0, 80.0, move |number, _| {
            ([if number.is_multiple_of(every) { heavy } else { 250 }, 20], Vec::new())
        })
    };
    let hot = Load::new(13).varied(9.0, 0.0, 60.0, |_, draw| {
        ([2500, 200], if draw < 0.9 { prefix(1, 0.0) } else { Vec::new() })
    });
    named_first(
        "worker_imbalance",
        vec![
            run(alternating(12, 2, 2.2, 8000), &[LINEAR, "--workers 2"]),
            run(
                hot,
                &["--workers 4 --max-num-seqs 8 --router-mode kv_router --router-kv-overlap-score-weight 50"],
            ),
            run(alternating(14, 4, 8.0, 8000), &[FAST, SGLANG, "--workers 4 --slo p90_ttft_<=_500ms"]),
        ],
    );
}

/// Nobody waits long for a first token, but one worker has most of the decodes.
#[test]
fn imbalance_of_tokens() {
    let decodes = "--latency linear:8000,10,400";
    let hot = |seed| {
        Load::new(seed).varied(6.0, 0.0, 60.0, |_, draw| {
            ([4500, 300], if draw < 0.9 { prefix(1, 0.0) } else { Vec::new() })
        })
    };
    let by_overlap = "--workers 4 --router-mode kv_router --router-kv-overlap-score-weight 50";
    let long_every_fourth = Load::new(71).varied(8.0, 0.0, 60.0, |number, _| {
        ([200, if number.is_multiple_of(4) { 600 } else { 40 }], Vec::new())
    });
    named_first(
        "worker_imbalance",
        vec![
            run(hot(72), &[decodes, by_overlap, "--slo p95_tpot_<=_20ms"]),
            run(hot(73), &[decodes, by_overlap, "--slo p95_itl_<=_20ms"]),
            run(long_every_fourth, &[decodes, SGLANG, "--workers 4 --slo p95_tpot_<=_16ms"]),
        ],
    );
}

#[test]
fn hand_off_bound_by_the_link() {
    let pools = [DISAGGREGATED, "--prefill-workers 2 --decode-workers 2"].join(" ");
    named_first(
        "link_bound",
        vec![
            run(Load::new(15).poisson(2.0, 0.0, 60.0, [2000, 60]), &[&pools, "--kv-transfer-bandwidth 0.2"]),
            run(
                Load::new(16).poisson(2.0, 0.0, 60.0, [3000, 60]),
                &[&pools, SGLANG, "--kv-transfer-bandwidth 0.3"],
            ),
            run(
                Load::new(17).poisson(3.0, 0.0, 60.0, [1000, 100]),
                &[&pools, FAST, "--kv-transfer-bandwidth 0.5 --slo p95_ttft_<=_200ms"],
            ),
        ],
    );
}

#[test]
fn ratio_of_pools() {
    let pools = [DISAGGREGATED, "--kv-transfer-bandwidth 50"].join(" ");
    named_first(
        "pool_ratio",
        vec![
            run(
                Load::new(18).poisson(1.6, 0.0, 100.0, [5500, 20]),
                &[&pools, LINEAR, "--prefill-workers 1 --decode-workers 3"],
            ),
            made_up(&[
                &pools,
                "--prefill-workers 4 --decode-workers 1 --max-num-seqs 16",
                "--input-tokens 300 --output-tokens 600 --request-count 150 --replay-concurrency 64",
            ]),
            run(
                Load::new(19).poisson(3.3, 0.0, 80.0, [5500, 20]),
                &[&pools, LINEAR, SGLANG, "--prefill-workers 2 --decode-workers 6 --slo p95_ttft_<=_1s"],
            ),
        ],
    );
}

#[test]
fn a_pool_of_one_has_one_worker() {
    let pools = [DISAGGREGATED, "--kv-transfer-bandwidth 50"].join(" ");
    let (load, arguments) = run(
        Load::new(18).poisson(1.6, 0.0, 100.0, [5500, 20]),
        &[&pools, LINEAR, "--prefill-workers 1 --decode-workers 3"],
    );
    let found = diagnosis(load, &arguments);
    let sentence = found[0]["sentence"].as_str().unwrap();
    assert!(
        sentence.contains("the prefill pool (1 worker, ") && sentence.contains("pool (3 workers)"),
        "{sentence}"
    );
}

#[test]
fn overloaded() {
    named_first(
        "overloaded",
        vec![
            run(Load::new(20).poisson(4.0, 0.0, 80.0, [4000, 50]), &[LINEAR]),
            run(
                Load::new(21).poisson(2.0, 0.0, 40.0, [500, 200]).poisson(25.0, 40.0, 80.0, [500, 200]),
                &[SGLANG, "--workers 2 --max-num-seqs 16"],
            ),
            run(Load::new(23).poisson(30.0, 0.0, 30.0, [3000, 100]), &[LLAMA, "--slo p95_ttft_<=_1s"]),
        ],
    );
}

#[test]
fn one_long_prompt_stalls_others() {
    named_first(
        "long_prompt",
        vec![
            run(Load::new(24).poisson(4.0, 0.0, 60.0, [300, 60]).one(20.0, [60_000, 50], &[]), &[LINEAR]),
            run(
                Load::new(25).poisson(3.0, 0.0, 60.0, [400, 80]).one(15.0, [50_000, 20], &[]).one(
                    40.0,
                    [50_000, 20],
                    &[],
                ),
                &[LINEAR, SGLANG, "--slo p95_ttft_<=_500ms"],
            ),
            run(Load::new(27).poisson(5.0, 0.0, 60.0, [500, 100]).one(30.0, [100_000, 20], &[]), &[LLAMA]),
        ],
    );
}

#[test]
fn rejections() {
    let long = |seed| Load::new(seed).poisson(2.0, 0.0, 40.0, [500, 50]);
    named_first(
        "rejections",
        vec![
            run(long(28).one(3.0, [90_000, 5], &[]).one(9.0, [90_000, 5], &[]), &["--max-model-len 32768"]),
            run(long(29).one(3.0, [9000, 5], &[]), &["--num-gpu-blocks 100"]),
            run(
                long(30).one(3.0, [9000, 5], &[]).one(5.0, [9000, 5], &[]),
                &[SGLANG, "--max-model-len 4096"],
            ),
        ],
    );
}

/// Targets are kept, the backlog does not grow, nobody is preempted, and less than 80 % is in use; or there are no targets,
/// and hardly anybody waits.
#[test]
fn healthy_runs_have_no_findings() {
    let plain = |seed, rate, tokens| Load::new(seed).poisson(rate, 0.0, 60.0, tokens);
    let pools =
        [DISAGGREGATED, "--kv-transfer-bandwidth 50 --prefill-workers 2 --decode-workers 2"].join(" ");
    let shared = Load::new(48).varied(2.0, 0.0, 60.0, |_, draw| ([5000, 100], prefix(4, draw)));
    let runs = vec![
        run(plain(40, 1.0, [500, 100]), &["--slo p99_ttft_<=_1s"]),
        run(plain(41, 4.0, [800, 100]), &["--workers 4 --slo p95_ttft_<=_1s"]),
        run(plain(42, 2.0, [1000, 200]), &[SGLANG, "--workers 2 --sla-ttft-ms 2000"]),
        run(plain(43, 2.0, [500, 100]), &["--engine trtllm --slo p99_ttft_<=_2s"]),
        run(plain(44, 6.0, [1000, 200]), &[LLAMA, "--slo p99_ttft_<=_500ms"]),
        run(plain(45, 2.0, [1000, 100]), &[&pools, "--slo p95_ttft_<=_1s"]),
        run(plain(46, 2.0, [1500, 100]), &[LINEAR]),
        run(plain(47, 3.0, [2500, 100]), &[LINEAR, "--workers 3"]),
        made_up(&[]),
        run(shared, &["--workers 2 --router-mode kv_router"]),
        made_up(&["--input-tokens 500 --output-tokens 200 --request-count 100 --replay-concurrency 8"]),
        run(plain(50, 10.0, [2000, 200]), &[LLAMA, "--workers 2"]),
        run(plain(51, 2.0, [2000, 100]), &[LLAMA, "--slo p99_itl_<=_150ms --slo p90_tpot_<=_20ms"]),
    ];
    for (load, arguments) in runs {
        let found = diagnosis(load, &arguments);
        assert!(found.as_array().is_some_and(Vec::is_empty), "{arguments}: {found:#}");
    }
}

#[test]
fn a_terminal_gets_it_in_short_behind_the_facts() {
    let sandbox = Sandbox::new();
    let load = "replay --input-tokens 200 --output-tokens 300 --request-count 40 --replay-concurrency 32 --max-num-seqs 4";
    let shown = sandbox.run(&load.split_whitespace().collect::<Vec<_>>()).success();
    let (_, shown) = shown.split_once("Diagnosis:\n").unwrap();
    insta::assert_snapshot!(shown, @"
    1. Decode-bound by the batch: 100 % of the TTFT of the slowest 4 requests (mean 12,396 ms) is waiting for a place among the requests that may run at a time (4 requests); batches are 100 % full, KV is 0 % full
       to test it: twice the requests in a batch (--vary engine_args.max_num_seqs=4,8)
    ");
    let healthy = sandbox.run(&["replay", "t.jsonl"]).success();
    assert!(!healthy.contains("Diagnosis"), "{healthy}");
}

const FEW_SEATS: &str = "--input-tokens 200 --output-tokens 300 --request-count 40 --replay-concurrency 32 \
     --max-num-seqs 4 --slo p95_ttft_<=_1s";

/// Arguments in which an objective has underscores for spaces.
fn words(text: &str) -> Vec<String> {
    let spaced = |word: &str| if word.contains("<=") { word.replace('_', " ") } else { word.to_owned() };
    text.split_whitespace().map(spaced).collect()
}

/// The figures of the run that tests a finding, each by its name: before and after.
fn tested(finding: &Value) -> Vec<(String, Value, Value)> {
    let figures = finding["what_if"]["tested"]["figures"].as_array();
    let figures = figures.unwrap_or_else(|| panic!("not tested: {finding:#}"));
    let figure =
        |of: &Value| (of["name"].as_str().unwrap().to_owned(), of["before"].clone(), of["after"].clone());
    figures.iter().map(figure).collect()
}

/// What stands beside a finding is what its command gives.
#[test]
fn a_finding_is_tested_by_the_run_that_it_names() {
    let given = words(FEW_SEATS);
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let sandbox = Sandbox::new();
    let report = sandbox.report(&[&given[..], &["-q", "--diagnose", "--output-dir", "out"]].concat());
    let first = &report["diagnosis"][0];
    assert_eq!(first["kind"], "decode_bound_batch", "{first:#}");
    let command = first["what_if"]["command"].as_str().unwrap();
    let command = command.strip_prefix("servecast replay --config config.toml ").unwrap();
    let again: Vec<&str> = ["replay", "--config", "out/config.toml", "-q", "--format", "json"]
        .into_iter()
        .chain(command.split_whitespace())
        .collect();
    let varied: Value = serde_json::from_str(&sandbox.run(&again).success()).unwrap();
    let [before, after] = [0, 1].map(|run| &varied["runs"][run]["report"]);
    let figures = tested(first);
    assert!(figures.len() >= 9, "{figures:?}");
    for (name, was, is) in &figures {
        let within = |report: &Value| {
            let slo = &report["slo"][0];
            (1.0 - slo["misses"].as_f64().unwrap() / slo["samples"].as_f64().unwrap()).into()
        };
        let of = |report: &Value| if report[name].is_null() { within(report) } else { report[name].clone() };
        let [before, after] = [before, after].map(of).map(|value: Value| value.as_f64());
        assert_eq!((was.as_f64(), is.as_f64()), (before, after), "{name}");
    }
    let ttft = figures.iter().find(|(name, ..)| name == "mean_ttft_ms").unwrap();
    assert!(ttft.2.as_f64() < ttft.1.as_f64(), "more seats, less waiting: {ttft:?}");
    let page = sandbox.read("out/report.html");
    assert!(page.contains("\"tested\":{\"figures\":["), "the page has it, too");
}

#[test]
fn tests_are_printed_beside_findings_and_change_nothing_else() {
    let given = words(FEW_SEATS);
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let sandbox = Sandbox::new();
    let run = |more: &[&str]| sandbox.run(&[&["replay", "-q"], &given[..], more].concat()).success();
    let plain = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("Wall time")).map(str::to_owned);
        lines.collect::<Vec<_>>().join("\n")
    };
    let (without, with) = (plain(run(&[])), plain(run(&["--diagnose"])));
    assert_eq!(with, plain(run(&["--diagnose"])), "equal bytes each time");
    let (table, diagnosis) = with.split_once("Diagnosis:\n").unwrap();
    assert_eq!(table, without.split_once("Diagnosis:\n").unwrap().0);
    let line = diagnosis.lines().find(|line| line.starts_with("     tested, ")).unwrap();
    assert!(line.starts_with(
        "     tested, twice the requests in a batch (--vary engine_args.max_num_seqs=4,8): TTFT "
    ));
    assert!(
        line.contains(" → ") && line.contains(" %)") && line.contains("within p95 ttft <= 1s "),
        "{line}"
    );
    let markdown = run(&["--diagnose", "--format", "markdown"]);
    assert!(markdown.contains("; tested, twice the requests in a batch (`--vary"), "{markdown}");
}

/// At most three runs are made, and two findings with one test share it.
#[test]
fn the_first_findings_are_tested() {
    let sandbox = Sandbox::new();
    let load = Load::new(20).poisson(4.0, 0.0, 60.0, [4000, 50]).one(20.0, [60_000, 50], &[]).one(
        1.0,
        [900_000, 5],
        &[],
    );
    sandbox.write("load.jsonl", load.text());
    let arguments =
        ["load.jsonl", "-q", "--diagnose", "--latency", "linear:5000,100,50", "--max-model-len", "100000"];
    let report = sandbox.report(&arguments);
    let findings = report["diagnosis"].as_array().unwrap();
    let tests: Vec<&Value> =
        findings.iter().map(|finding| &finding["what_if"]).filter(|what_if| what_if.is_object()).collect();
    let mut made: Vec<&Value> = tests
        .iter()
        .filter(|what_if| what_if["tested"].is_object())
        .map(|what_if| &what_if["settings"])
        .collect();
    made.dedup();
    assert!((1..=3).contains(&made.len()), "{findings:#?}");
    assert!(tests[0]["tested"].is_object(), "{findings:#?}");
}

#[test]
fn where_nothing_can_be_tested_it_is_said() {
    let sandbox = Sandbox::new();
    let refused = |more: &[&str], words: &[&str]| {
        sandbox.run(&[&["replay", "t.jsonl", "--diagnose"], more].concat()).is_refused(words);
    };
    refused(&["--stream"], &["`diagnose` is made of all requests of a run, but `stream` keeps none"]);
    refused(
        &["--replay-mode", "online"],
        &["`diagnose` runs the same load again in virtual time", "is online"],
    );
    refused(
        &["--diagnosis=false"],
        &["`diagnose` runs what tests the findings of `diagnosis`, but that is false"],
    );
    refused(&["--vary", "num_workers=1,2"], &["`diagnose` makes several runs of one, but `vary`"]);
    let recommend = ["recommend", "t.jsonl", "--diagnose", "--slo", "p95 ttft <= 1s"];
    sandbox.run(&recommend).is_refused(&["`diagnose` is of one run"]);
    // Nothing is wrong with this one, so that nothing is run.
    let healthy = sandbox.report(&["t.jsonl", "-q", "--diagnose"]);
    assert_eq!(healthy["diagnosis"], serde_json::json!([]));
}
