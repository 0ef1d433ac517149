//! `--warmup`, `--cooldown` and `--count-rejected`: which requests figures are of.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// One request a second, 10 ms a pass whatever is in it, 5 tokens: TTFT and every gap are 10 ms, E2E 50. The first three come
/// at once: with one seat, they wait for 50 ms each, and have TTFTs of 10, 60 and 110 ms.
fn trace() -> String {
    let row = |number: u64| {
        let at = number.saturating_sub(2) * 1000;
        format!(
            "{}\n",
            json!({"timestamp": at, "input_length": 100, "output_length": 5, "hash_ids": [number]})
        )
    };
    (0..12).map(row).collect()
}

const RUN: [&str; 8] = [
    "replay",
    "w.jsonl",
    "--latency",
    "linear:10000,0,0",
    "--extra-engine-args",
    r#"{"max_num_seqs": 1}"#,
    "-q",
    "--check",
];

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("w.jsonl", trace());
    sandbox
}

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    RUN.into_iter().chain(more.iter().copied()).collect()
}

fn report(sandbox: &Sandbox, more: &[&str]) -> Value {
    let outcome = sandbox.run(&with(&[&["--format", "json"], more].concat()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn figures_are_of_the_steady_part_and_say_so() {
    let sandbox = sandbox();
    let whole = report(&sandbox, &[]);
    assert_eq!(whole["max_ttft_ms"], 110.0);
    assert_eq!(whole.get("measured"), None);
    let slo = ["--slo", "max ttft <= 10ms", "--sla-ttft-ms", "10"];
    for margins in [&["--warmup", "1s", "--cooldown", "2"][..], &["--warmup", "3", "--cooldown", "1001ms"]] {
        let report = report(&sandbox, &[margins, &slo].concat());
        assert_eq!([&report["num_requests"], &report["completed_requests"]], [7, 7], "{margins:?}");
        for figure in ["min_ttft_ms", "max_ttft_ms", "mean_itl_ms", "max_itl_ms", "p99_tpot_ms"] {
            assert_eq!(report[figure], 10.0, "{figure}");
        }
        // From the arrival at 1 s to the last token of that at 7 s.
        assert_eq!([&report["duration_ms"], &report["mean_queue_time_ms"]], [6050.0, 0.0]);
        assert_eq!(report["total_output_tokens"], 35);
        assert_eq!([&report["goodput_completed_requests"], &report["slo"][0]["samples"]], [7, 7]);
        assert_eq!(report["slo"][0]["met"], true);
        let measured = &report["measured"];
        for (key, expected) in [("requests", 7), ("left_out_before", 3), ("left_out_after", 2)] {
            assert_eq!(measured[key], expected, "{key}");
        }
        assert_eq!([&measured["from_ms"], &measured["to_ms"]], [1000.0, 7000.0]);
        let all = &measured["whole_run"];
        assert_eq!([&all["num_requests"], &all["goodput_completed_requests"]], [12, 10]);
        assert_eq!([&all["ttft_ms"]["max"], &all["itl_ms"]["max"]], [110.0, 10.0]);
        assert_eq!(all["slo"][0]["met"], false);
        // What pools did is of the whole run.
        assert_eq!(
            [&report["pools"], &report["total_iterations"]],
            [&whole["pools"], &whole["total_iterations"]]
        );
        let key = report["settings"]["warmup"].as_str().unwrap();
        assert_eq!(key, margins[1]);
    }
}

#[test]
fn table_page_rows_and_exports_know_it() {
    let sandbox = sandbox();
    let margins = ["--warmup", "1s", "--cooldown", "2"];
    let files = ["--output-dir", "out", "--export", "vllm-bench=v.json", "--export", "csv=v.csv"];
    let table = sandbox.run(&with(&[&margins[..], &files].concat())).success();
    assert!(
        table.contains(
            "\nMeasured: 7 of 12 requests, which arrived from 1.00 to 7.00 s; 3 before and 2 after left out (as asked for)\n  \
             charts, and what pools did (preemptions, iterations, utilization), are of the whole run\n"
        ),
        "{table}"
    );
    let rows = sandbox.read("out/requests.jsonl");
    let measured: Vec<Value> =
        rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["measured"].clone()).collect();
    let expected: Vec<Value> = (0..12).map(|number| (3..10).contains(&number).into()).collect();
    assert_eq!(measured, expected);
    assert!(sandbox.read("out/config.toml").contains("warmup = \"1s\""));
    assert!(sandbox.read("out/report.html").contains("\"left_out_before\":3"));
    let bench: Value = serde_json::from_str(&sandbox.read("v.json")).unwrap();
    assert_eq!([bench["ttfts"].as_array().unwrap().len(), bench["itls"].as_array().unwrap().len()], [7, 7]);
    assert_eq!(bench["itls"][0], json!([0.01, 0.01, 0.01, 0.01]));
    assert_eq!(sandbox.read("v.csv").lines().count(), 8);
    let again = sandbox.run(&["replay", "--config", "out/config.toml", "-q"]).success();
    assert_eq!(again.replace(&wall(&again), ""), table.replace(&wall(&table), ""));
}

/// The line with the time that the run took.
fn wall(table: &str) -> String {
    table.lines().find(|line| line.starts_with("Wall time")).unwrap().to_owned()
}

#[test]
fn the_environment_and_several_runs_know_it_too() {
    let sandbox = sandbox().with_variable("SERVECAST_WARMUP", "3");
    assert_eq!(report(&sandbox, &[])["num_requests"], 9);
    let outcome = sandbox.run(&with(&["--format", "json", "--vary", "num_workers=1,2"])).success();
    let runs: Value = serde_json::from_str(&outcome).unwrap();
    for run in runs["runs"].as_array().unwrap() {
        assert_eq!(
            [&run["report"]["num_requests"], &run["report"]["max_ttft_ms"]],
            [&json!(9), &json!(10.0)]
        );
    }
}

#[test]
fn runs_are_not_judged_by_figures_of_other_requests() {
    let sandbox = sandbox();
    sandbox.run(&with(&["--output-dir", "a"])).success();
    sandbox.run(&with(&["--output-dir", "b", "--warmup", "3"])).success();
    let told = sandbox.run(&["compare", "a", "b"]).success();
    assert!(told.contains("warmup: "), "{told}");
    // Pairs are of those that both measure.
    assert!(told.contains("faster of 9"), "{told}");
    let compare = ["compare", "a", "b", "--fail-if", "p99_ttft_ms>+5%", "--allow-fewer"];
    sandbox.run(&compare).is_refused(&["of `warmup` a has none, and b has \"3\"", "--different-workloads"]);
    assert_eq!(sandbox.run(&[&compare[..], &["--different-workloads"]].concat()).code, Some(0));
    sandbox
        .run(&["recommend", "w.jsonl", "--warmup", "3", "--slo", "p95 ttft <= 1s"])
        .is_refused(&["`warmup` is for the figures of a replay, but a search judges all requests"]);
}

#[test]
fn what_cannot_be_found_is_said() {
    let sandbox = sandbox();
    let without_quiet = |more: &[&'static str]| {
        let arguments: Vec<&str> = with(more).into_iter().filter(|argument| *argument != "-q").collect();
        sandbox.run(&arguments)
    };
    let outcome = without_quiet(&["--warmup", "auto"]);
    assert!(outcome.stderr.contains("no steady state was found in the TTFT (MSER-5)"), "{outcome:?}");
    assert!(outcome.stdout.contains("Measured: 12 of 12 requests"), "{outcome:?}");
    let outcome = without_quiet(&["--warmup", "12"]);
    assert!(outcome.stderr.contains("no request is measured"), "{outcome:?}");
    assert!(outcome.stdout.contains("N/A"), "{outcome:?}");
}

/// A prompt of 2,000 tokens does not fit 16 blocks of 64 tokens.
#[test]
fn rejected_requests_are_infinite_if_asked_for() {
    let sandbox = Sandbox::new();
    let row = |ms: u32, tokens: u32| {
        let ids: Vec<u32> = (0..tokens.div_ceil(512)).map(|id| ms + id).collect();
        format!("{}\n", json!({"timestamp": ms, "input_length": tokens, "output_length": 5, "hash_ids": ids}))
    };
    sandbox.write("w.jsonl", [row(0, 100), row(1000, 2000), row(2000, 100)].concat());
    let run = |more: &[&str]| {
        let small = ["--num-gpu-blocks", "16", "--block-size", "64"];
        report(&sandbox, &[&small[..], more].concat())
    };
    let served = run(&[]);
    assert_eq!([&served["p99_ttft_ms"], &served["max_e2e_latency_ms"]], [10.0, 50.0]);
    let all = run(&["--count-rejected"]);
    // TTFTs of 10, 10 and ∞ ms.
    assert_eq!([&all["median_ttft_ms"], &all["min_ttft_ms"]], [10.0, 10.0]);
    for key in
        ["p75_ttft_ms", "max_ttft_ms", "mean_ttft_ms", "std_ttft_ms", "p99_tpot_ms", "max_e2e_latency_ms"]
    {
        assert_eq!(all[key], Value::Null, "{key}");
    }
    assert_eq!([&all["counted_as_infinite"], &all["completed_requests"]], [1, 2]);
    assert_eq!(all["max_itl_ms"], 10.0);
}
