//! `replay --slo`: objectives over the requests that arrived.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// One request a second, 10 ms a pass whatever is in it, 5 tokens: TTFT and every gap are 10 ms, E2E 50.
const STEADY: [&str; 14] = [
    "replay",
    "--input-tokens",
    "100",
    "--output-tokens",
    "5",
    "--request-count",
    "20",
    "--arrival-interval-ms",
    "1000",
    "--latency",
    "linear:10000,0,0",
    "-q",
    "--format",
    "json",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    STEADY.into_iter().chain(more.iter().copied()).collect()
}

fn objectives(stdout: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(stdout).unwrap();
    report["slo"].as_array().unwrap().clone()
}

#[test]
fn a_report_says_what_is_kept_and_by_how_much() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&with(&["--slo", "p95 ttft<=12.5ms", "--slo", "max itl < 10ms"]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let [ttft, itl] = &objectives(&outcome.stdout)[..] else { panic!("two objectives") };
    assert_eq!(
        *ttft,
        json!({"objective": "p95 ttft <= 12.5ms", "met": true, "value": 10.0, "limit": 12.5, "margin": 0.2,
               "samples": 20, "misses": 0, "unserved": 0})
    );
    assert_eq!(
        (&itl["met"], &itl["value"], &itl["samples"], &itl["misses"]),
        (&json!(false), &json!(10.0), &json!(80), &json!(80))
    );
    let mut table = with(&["--slo", "p95 ttft <= 12.5ms", "--slo", "goodput >= 99% (e2e <= 50ms)"]);
    table.retain(|argument| !matches!(*argument, "--format" | "json"));
    let table = sandbox.run(&table).stdout;
    assert!(table.contains("\n✓ p95 ttft <= 12.5ms: 10.00 ms, 20.0 % below\n"), "{table}");
    assert!(
        table.contains(
            "\n✓ goodput >= 99% (e2e <= 50ms): 100.00%, 1.00 points above; 0 of 20 requests miss\n"
        )
    );
}

#[test]
fn a_missed_objective_is_a_status_if_asked_for() {
    let sandbox = Sandbox::new();
    let missed = with(&["--slo", "p50 e2e < 50ms", "--slo", "p50 ttft <= 1s"]);
    assert_eq!(sandbox.run(&missed).code, Some(0));
    let outcome = sandbox.run(&[&missed[..], &["--fail-if", "slo"]].concat());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert_eq!(outcome.stderr, "error: ✗ p50 e2e < 50ms: 50.00 ms, at the limit\n");
    assert_eq!(objectives(&outcome.stdout).len(), 2, "the report is written all the same");
    let kept = with(&["--slo", "p50 e2e <= 50ms", "--fail-if", "slo"]);
    assert_eq!(sandbox.run(&kept).code, Some(0));
}

/// In the grammar of `servecast compare`, but without a baseline.
#[test]
fn a_figure_beyond_a_limit_is_a_status_if_asked_for() {
    let sandbox = Sandbox::new();
    let with_limit =
        |limit: &str, more: &[&str]| sandbox.run(&[&with(&["--fail-if", limit])[..], more].concat());
    let outcome = with_limit("p50_e2e_ms>=50", &[]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (Some(3), "error: median_e2e_latency_ms>=50: it is 50\n")
    );
    assert_eq!(with_limit("p50_e2e_ms>50", &[]).code, Some(0));
    let without = with_limit("goodput_request_throughput_rps<1", &[]);
    assert_eq!(without.code, Some(3), "a figure without a sample fails: {without:?}");
    let nothing = with_limit("total_preemptions>5", &["--max-model-len", "2"]);
    assert_eq!((nothing.code, nothing.stderr.as_str()), (Some(3), "error: no request was served\n"));
}

/// A prompt of 2,000 tokens does not fit 16 blocks of 64: what is rejected waits forever.
#[test]
fn what_is_rejected_is_a_miss() {
    let sandbox = Sandbox::new();
    let row = |ms: u32, tokens: u32| {
        let ids: Vec<u32> = (0..tokens.div_ceil(512)).map(|id| ms + id).collect();
        format!("{}\n", json!({"timestamp": ms, "input_length": tokens, "output_length": 5, "hash_ids": ids}))
    };
    let rows: String = (0..10).map(|n| row(n * 1000, if n == 4 { 2000 } else { 200 })).collect();
    sandbox.write("r.jsonl", rows);
    let slo = |objective: &str| {
        let arguments =
            ["replay", "r.jsonl", "-q", "--format", "json", "--num-gpu-blocks", "16", "--slo", objective];
        objectives(&sandbox.run(&arguments).stdout)[0].clone()
    };
    let median = slo("p50 ttft <= 10s");
    assert_eq!(
        (&median["met"], &median["misses"], &median["unserved"]),
        (&json!(true), &json!(1), &json!(1))
    );
    let tail = slo("p95 e2e <= 1m");
    assert_eq!((&tail["met"], &tail["value"], &tail["margin"]), (&json!(false), &json!(null), &json!(null)));
    let goodput = slo("goodput >= 90% (ttft <= 10s)");
    assert_eq!((&goodput["met"], &goodput["value"]), (&json!(true), &json!(0.9)));
}

#[test]
fn runs_beside_each_other_say_who_keeps_what() {
    let sandbox = Sandbox::new();
    let mut arguments = with(&["--slo", "p50 ttft <= 15ms", "--slo", "p50 ttft <= 5ms", "--fail-if", "slo"]);
    arguments.retain(|argument| !matches!(*argument, "--format" | "json" | "linear:10000,0,0" | "--latency"));
    let vary = ["--vary", "latency=\"linear:10000,0,0\",\"linear:20000,0,0\""];
    let outcome = sandbox.run(&[&arguments[..], &vary].concat());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stdout.contains("✓✗") && outcome.stdout.contains("✗✗"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("latency=linear:20000,0,0: ✗ p50 ttft <= 15ms: 20.00 ms, 33.3 % above"));
    assert_eq!(outcome.stderr.lines().count(), 3, "{}", outcome.stderr);
}

#[test]
fn an_objective_may_come_from_a_file_or_a_variable() {
    let sandbox = Sandbox::new().with_variable("SERVECAST_SLO", "p90 e2e <= 1s");
    let outcome = sandbox.run(&with(&[]));
    assert_eq!(objectives(&outcome.stdout)[0]["objective"], "p90 e2e <= 1s");
    let sandbox = Sandbox::new();
    sandbox.write("c.toml", "slo = [\"mean tpot <= 20ms\"]\n");
    let outcome = sandbox.run(&with(&["--config", "c.toml"]));
    assert_eq!(objectives(&outcome.stdout)[0]["objective"], "mean tpot <= 20ms");
    sandbox.write("c.toml", "slo = 3\n");
    let outcome = sandbox.run(&with(&["--config", "c.toml"]));
    assert!(outcome.stderr.contains("each an objective such as 'p95 ttft <= 1s'"), "{}", outcome.stderr);
}

#[test]
fn a_mistake_is_shown_where_it_stands() {
    let sandbox = Sandbox::new();
    for (arguments, message) in [
        (
            &["--slo", "p95 ttfs <= 1s"][..],
            "error: --slo: unknown figure `ttfs`, did you mean `ttft`?\n  p95 ttfs <= 1s\n      ^^^^\n",
        ),
        (
            &["--slo", "median ttft <= 1s"],
            "error: --slo: unknown statistic `median`: p50 is the median\n  median ttft <= 1s\n  ^^^^^^\n",
        ),
        (
            &["--fail-if", "slo"],
            "error: `fail_if` is `slo`, but there is no objective that could be missed (from --fail-if)\n\nhint: \
             --slo 'p95 ttft <= 1s' gives one\n",
        ),
        (
            &["--fail-if", "p99_ttft_ms>+5%"],
            "error: `fail_if` is `p99_ttft_ms>+5%`, a change, but a run by itself has no baseline (from --fail-if)\n\n\
             hint: give the limit itself, as in `p99_ttft_ms>2000`; `servecast compare --fail-if` holds a run against \
             another one\n",
        ),
        (
            &["--fail-if", "p99_tftt_ms>5"],
            "error: --fail-if: `p99_tftt_ms>5`: there is no figure `p99_tftt_ms`, did you mean `p99_ttft_ms`?\n\nhint: \
             --fail-if 'p99_ttft_ms>2000' is a limit of a figure, --fail-if slo asks for objectives\n",
        ),
    ] {
        let outcome = sandbox.run(&with(arguments));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(2), message), "{arguments:?}");
    }
}

/// An engine that serves one request at a time in 10 ms behind Poisson arrivals is an M/D/1 queue.
#[test]
fn a_run_whose_queue_grows_says_so() {
    let sandbox = Sandbox::new();
    let run = |interval: &str| {
        let arguments = [
            "replay",
            "-q",
            "--input-tokens",
            "10",
            "--output-tokens",
            "1",
            "--request-count",
            "4000",
            "--arrival-process",
            "poisson",
            "--latency",
            "linear:10000,0,0",
            "--max-num-seqs",
            "1",
            "--arrival-interval-ms",
            interval,
        ];
        sandbox.run(&arguments).stdout
    };
    let calm = run("12");
    assert!(calm.contains("Requests: 4,000 completed") && !calm.contains("Overloaded"), "{calm}");
    // 125 requests a second, of which 100 are served.
    let busy = run("8");
    let line = busy.lines().find(|line| line.starts_with("Overloaded from second ")).expect("a line");
    let growth: f64 = line.split("grows by ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((growth - 25.0).abs() < 5.0, "{line}");
}
