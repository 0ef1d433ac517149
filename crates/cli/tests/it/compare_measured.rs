//! Runs that clients measured beside simulated ones.

use serde_json::{Value, json};

use crate::sandbox::{Outcome, Sandbox};

/// When requests were sent (s), and the tokens of their prompts and outputs.
pub(crate) const LOAD: [(f64, u64, u64); 4] = [(0.0, 100, 6), (0.5, 200, 11), (1.0, 300, 21), (2.0, 50, 6)];
const TTFT_S: f64 = 0.25;
const GAP_S: f64 = 0.02;

pub(crate) fn e2e_s(output: u64) -> f64 {
    TTFT_S + GAP_S * (output - 1) as f64
}

/// As `vllm bench serve --save-detailed` writes them; as SGLang does without the times of sending.
pub(crate) fn bench(load: &[(f64, u64, u64)]) -> Value {
    let of = |value: &dyn Fn(&(f64, u64, u64)) -> Value| load.iter().map(value).collect::<Value>();
    json!({
        "backend": "vllm", "duration": 2.5, "completed": load.len(),
        "input_lens": of(&|one| one.1.into()),
        "output_lens": of(&|one| one.2.into()),
        "ttfts": of(&|_| TTFT_S.into()),
        "itls": of(&|one| json!(vec![GAP_S; one.2 as usize - 1])),
        "start_times": of(&|one| (one.0 + 77.0).into()),
        "errors": of(&|_| "".into()),
    })
}

pub(crate) fn sglang(load: &[(f64, u64, u64)]) -> Value {
    let mut result = bench(load);
    result.as_object_mut().unwrap().remove("start_times");
    result
}

/// Records as requests end, the first of them one of the warm-up.
fn aiperf(load: &[(f64, u64, u64)]) -> String {
    let metric = |value: Value, unit: &str| json!({"value": value, "unit": unit});
    let record = |phase: &str, (sent, input, output): (f64, u64, u64)| {
        let record = json!({
            "metadata": {"request_start_ns": ((sent + 9.0) * 1e9) as u64, "benchmark_phase": phase},
            "metrics": {
                "time_to_first_token": metric((TTFT_S * 1e3).into(), "ms"),
                "request_latency": metric((e2e_s(output) * 1e3).into(), "ms"),
                "input_sequence_length": metric(input.into(), "tokens"),
                "output_sequence_length": metric(output.into(), "tokens"),
            },
        });
        format!("{record}\n")
    };
    let mut load = load.to_vec();
    load.sort_by(|one, other| (one.0 + e2e_s(one.2)).total_cmp(&(other.0 + e2e_s(other.2))));
    let records = load.into_iter().map(|one| record("profiling", one));
    [record("warmup", (0.0, 5, 5))].into_iter().chain(records).collect()
}

fn guidellm(load: &[(f64, u64, u64)]) -> Value {
    let request = |&(sent, input, output): &(f64, u64, u64)| {
        json!({
            "request_start_time": 1_767_225_600.0 + sent, "prompt_tokens": input, "output_tokens": output,
            "time_to_first_token_ms": TTFT_S * 1e3, "request_latency": e2e_s(output),
        })
    };
    json!({"benchmarks": [{"requests": {"successful": load.iter().map(request).collect::<Value>()}}]})
}

/// The four forms of one measured run, and a simulated one of the same load.
pub(crate) fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("vllm.json", bench(&LOAD).to_string());
    sandbox.write("sglang.jsonl", sglang(&LOAD).to_string() + "\n");
    sandbox.write("aiperf.jsonl", aiperf(&LOAD));
    sandbox.write("guidellm.json", guidellm(&LOAD).to_string());
    let row = |(number, &(sent, input, output)): (usize, &(f64, u64, u64))| {
        let row = json!({
            "timestamp": sent * 1e3, "input_length": input, "output_length": output, "hash_ids": [number],
        });
        format!("{row}\n")
    };
    sandbox.write("load.jsonl", LOAD.iter().enumerate().map(row).collect::<String>());
    sandbox.run(&["replay", "load.jsonl", "-q", "--output-dir", "sim"]).success();
    sandbox
}

fn compare(sandbox: &Sandbox, runs: [&str; 2], more: &[&str]) -> Outcome {
    sandbox.run(&[&["compare", runs[0], runs[1]], more].concat())
}

fn differences(sandbox: &Sandbox, runs: [&str; 2]) -> Value {
    serde_json::from_str(&compare(sandbox, runs, &["--format", "json"]).success()).unwrap()
}

pub(crate) const NAMES: [&str; 4] = ["vllm.json", "sglang.jsonl", "aiperf.jsonl", "guidellm.json"];

/// Never broken, so that what is refused is not refused for the figure.
const LOOSE: [&str; 2] = ["--fail-if", "mean_ttft_ms>+100000%"];

#[test]
fn every_form_has_the_same_figures() {
    let sandbox = sandbox();
    for name in NAMES {
        let baseline = differences(&sandbox, [name, "sim"])["baseline"].clone();
        let figures = &baseline["figures"];
        let e2e_ms = LOAD.map(|(.., output)| e2e_s(output) * 1e3);
        let close = |key: &str, expected: f64| {
            let found = figures[key].as_f64().unwrap_or_else(|| panic!("{name} has no {key}: {figures}"));
            assert!((found - expected).abs() < 1e-3, "{name}: {key} is {found}, not {expected}");
        };
        close("num_requests", 4.0);
        close("completed_requests", 4.0);
        close("total_output_tokens", 44.0);
        close("p99_ttft_ms", 250.0);
        close("mean_tpot_ms", 20.0);
        close("mean_e2e_latency_ms", e2e_ms.iter().sum::<f64>() / 4.0);
        // The last one was sent after 2 s. SGLang has only what the client says.
        let duration_s = if name == "sglang.jsonl" { 2.5 } else { 2.35 };
        close("duration_ms", duration_s * 1e3);
        close("output_throughput_tok_s", 44.0 / duration_s);
        let has_gaps = ["vllm.json", "sglang.jsonl"].contains(&name);
        assert_eq!(figures.get("mean_itl_ms").is_some(), has_gaps, "{name}");
        for key in ["rejected_requests", "total_preemptions", "mean_queue_time_ms"] {
            assert!(figures.get(key).is_none(), "{name} has no {key}");
        }
        let notes = baseline["measured"]["notes"].to_string();
        assert_eq!(notes.contains("it has no ITL"), !has_gaps, "{name}: {notes}");
        assert_eq!(
            notes.contains("warm-up, which are left out: 1"),
            name == "aiperf.jsonl",
            "{name}: {notes}"
        );
    }
}

#[test]
fn requests_are_paired_in_the_order_in_which_they_were_sent() {
    let sandbox = sandbox();
    for name in NAMES {
        for runs in [[name, "sim"], ["sim", name]] {
            let found = differences(&sandbox, runs);
            let run = &found["runs"][0];
            assert_eq!(run["paired"][0]["pairs"], 4, "{name}: {run}");
            let (pooled, paired) =
                (&run["figures"]["mean_ttft_ms"]["change"], &run["paired"][0]["mean_change_ms"]);
            let [pooled, paired] = [pooled, paired].map(|change| change.as_f64().unwrap());
            assert!((pooled - paired).abs() < 1e-6, "{name}: {pooled} {paired}");
        }
    }
    // Of the rows of a report.
    sandbox.run(&["replay", "load.jsonl", "-q", "--report-json", "r.json"]).success();
    let rows = ["--requests", "sim/requests.jsonl"];
    let table = compare(&sandbox, ["vllm.json", "r.json"], &rows).success();
    assert!(table.contains("r.json, request by request"), "{table}");
    let both = [&rows[..], &rows].concat();
    compare(&sandbox, ["vllm.json", "r.json"], &both)
        .is_refused(&["--requests is given 2 times, but there are 1 runs that were not measured"]);
}

#[test]
fn what_is_not_known_is_said_in_every_format() {
    let sandbox = sandbox();
    let same = "have the same lengths, one by one in the order in which they were sent";
    let unknown = "settings, targets and workload are not in it";
    let table = compare(&sandbox, ["aiperf.jsonl", "sim"], &[]).success();
    assert!(
        table.contains(unknown) && table.contains("\n  it has no ITL\n") && table.contains(same),
        "{table}"
    );
    assert!(!table.contains("ITL p99"), "{table}");
    let markdown = compare(&sandbox, ["sim", "vllm.json"], &["--format", "markdown"]).success();
    assert!(markdown.contains(unknown) && markdown.contains(same), "{markdown}");
    assert!(markdown.contains("| Preemptions | 0 | N/A |"), "{markdown}");
    let junit = compare(&sandbox, ["vllm.json", "sim"], &[&LOOSE[..], &["--format", "junit"]].concat());
    assert_eq!(junit.code, Some(0), "{junit:?}");
    for words in [same, "what was measured has no targets", "requests were sent up to 0.00 s apart in 2.00 s"]
    {
        assert!(junit.stdout.contains(words), "{words}: {}", junit.stdout);
    }
    compare(&sandbox, ["vllm.json", "sim"], &["--html", "c.html"]).success();
    assert!(sandbox.read("c.html").contains(same));
}

#[test]
fn a_gate_holds_for_the_same_requests_only() {
    let sandbox = sandbox();
    let gate = |runs: [&str; 2], more: &[&str]| compare(&sandbox, runs, &[&LOOSE[..], more].concat());
    let refused = |run: &str, words: &str| {
        for format in ["table", "json", "markdown", "junit"] {
            let outcome = gate(["vllm.json", run], &["--format", format]);
            assert_eq!(outcome.code, Some(2), "{run}: {outcome:?}");
            for words in ["--fail-if is for runs of the same requests", words, "--different-workloads"] {
                assert!(outcome.stderr.contains(words), "{words}: {outcome:?}");
            }
            // Who reads these sees no error message.
            if ["markdown", "junit"].contains(&format) {
                assert!(outcome.stdout.contains(words.split('`').next().unwrap()), "{outcome:?}");
            }
        }
        assert_eq!(
            gate(["vllm.json", run], &["--different-workloads", "--allow-fewer"]).code,
            Some(0),
            "{run}"
        );
    };
    assert_eq!(gate(["vllm.json", "sim"], &[]).code, Some(0));
    let broken = compare(&sandbox, ["vllm.json", "sim"], &["--fail-if", "mean_ttft_ms<+0"]);
    assert_eq!(broken.code, Some(3), "{broken:?}");
    compare(&sandbox, ["sim", "vllm.json"], &["--fail-if", "total_preemptions>0"])
        .is_refused(&["vllm.json has no `total_preemptions`"]);

    sandbox.run(&["replay", "load.jsonl", "-q", "--report-json", "no-rows.json"]).success();
    refused("no-rows.json", "no-rows.json has no rows of requests");
    let mut other = LOAD;
    other[2].2 += 1;
    sandbox.write("longer.json", bench(&other).to_string());
    refused(
        "longer.json",
        "number 3 has 300 and 21 tokens of prompt and output in one, 300 and 22 in the other",
    );
    sandbox.write("fewer.json", bench(&LOAD[..3]).to_string());
    refused("fewer.json", "they are 4 and 3");
    sandbox.write(
        "slower.json",
        bench(&LOAD.map(|(sent, input, output)| (sent * 2.0, input, output))).to_string(),
    );
    refused("slower.json", "requests were sent up to 2.00 s apart in 2.00 s");
    sandbox.run(&["replay", "load.jsonl", "-q", "--output-dir", "warm", "--warmup", "1"]).success();
    refused("warm", "warm has `warmup`");
}

#[test]
fn times_that_cannot_be_held_against_each_other_are_said() {
    let sandbox = sandbox();
    let gate = |runs: [&str; 2]| compare(&sandbox, runs, &[&LOOSE[..], &["--format", "junit"]].concat());
    let unknown = gate(["sglang.jsonl", "sim"]);
    assert_eq!(unknown.code, Some(0), "{unknown:?}");
    let words = "whether sim was sent at the times of sglang.jsonl is not known";
    assert!(unknown.stderr.contains(words) && unknown.stdout.contains(words), "{unknown:?}");
    sandbox
        .run(&["replay", "load.jsonl", "-q", "--replay-concurrency", "1", "--output-dir", "closed"])
        .success();
    let closed = gate(["vllm.json", "closed"]);
    assert_eq!(closed.code, Some(0), "{closed:?}");
    assert!(closed.stderr.contains("is not checked: requests waited for others"), "{closed:?}");
}

#[test]
fn a_run_that_failed_does_not_pass() {
    let sandbox = sandbox();
    let mut result = bench(&LOAD);
    result["errors"] = json!(["timeout", "timeout", "timeout", "timeout"]);
    sandbox.write("failed.json", result.to_string());
    let found = differences(&sandbox, ["sim", "failed.json"]);
    let figures = &found["runs"][0]["figures"];
    assert_eq!(figures["completed_requests"]["value"], 0.0);
    assert!(figures.get("mean_ttft_ms").is_none(), "{figures}");
    let more = [&LOOSE[..], &["--different-workloads"]].concat();
    compare(&sandbox, ["sim", "failed.json"], &more).is_refused(&["failed.json has no `mean_ttft_ms`"]);
    let completed = ["--fail-if", "completed_requests>5", "--different-workloads", "--allow-fewer"];
    let outcome = compare(&sandbox, ["sim", "failed.json"], &completed);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("failed.json served no request"), "{outcome:?}");
}

#[test]
fn several_runs_in_a_file_are_not_one() {
    let sandbox = sandbox();
    let result = format!("{}\n", sglang(&LOAD));
    sandbox.write("two.jsonl", result.repeat(2));
    compare(&sandbox, ["sim", "two.jsonl"], &[]).is_refused(&["two.jsonl holds 2 runs", "a file of its own"]);
    let mut report = guidellm(&LOAD);
    let benchmark = report["benchmarks"][0].clone();
    report["benchmarks"].as_array_mut().unwrap().push(benchmark);
    sandbox.write("sweep.json", report.to_string());
    compare(&sandbox, ["sim", "sweep.json"], &[]).is_refused(&["sweep.json holds 2 runs"]);
}
