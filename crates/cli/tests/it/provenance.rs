//! What a report says of the run that it is of.

use serde_json::{Value, json};

use crate::sandbox::{Sandbox, TRACE};

#[test]
fn a_report_says_what_was_run() {
    let sandbox = Sandbox::new();
    let report = sandbox.report(&["t.jsonl", "--workers", "2", "--seed", "7", "--block-size", "16"]);
    assert_eq!(report["servecast_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&report["workload_name"], &report["seed"]), (&json!("t.jsonl"), &json!(7)));
    assert_eq!(report["workload_hash"].as_str().unwrap().len(), 16);
    let settings = &report["settings"];
    assert_eq!((&settings["num_workers"], &settings["seed"]), (&json!(2), &json!(7)));
    assert_eq!(settings["engine_args"]["block_size"], 16);
    assert_eq!(settings["engine_args"]["max_num_seqs"], 256, "defaults too");
    assert_eq!(settings.get("trace_file"), None, "where it lies is nobody's business");
}

#[test]
fn the_hash_is_of_what_is_replayed_and_not_of_the_file() {
    let sandbox = Sandbox::new();
    let of = |arguments: &[&str]| sandbox.report(arguments)["workload_hash"].clone();
    let plain = of(&["t.jsonl"]);
    sandbox.write("renamed.jsonl", TRACE.replace(": ", ":").replace('\n', "\r\n"));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, TRACE.as_bytes()).unwrap();
    sandbox.write("packed.jsonl.gz", packed.finish().unwrap());
    for same in [
        &["renamed.jsonl"][..],
        &["packed.jsonl.gz"],
        &["t.jsonl", "--workers", "3"],
        &["t.jsonl", "--seed", "9"],
    ] {
        assert_eq!(of(same), plain, "{same:?}");
    }
    sandbox.write("other.jsonl", TRACE.replace("\"output_length\": 20", "\"output_length\": 21"));
    for other in [
        &["other.jsonl"][..],
        &["t.jsonl", "--arrival-speedup-ratio", "2"],
        &["t.jsonl", "--replay-concurrency", "1"],
        &[],
        &["--seed", "9"],
    ] {
        assert_ne!(of(other), plain, "{other:?}");
    }
    assert_ne!(of(&[]), of(&["--seed", "9"]));
}

#[test]
fn every_latency_model_has_a_source_and_polynomial_is_of_no_gpu() {
    let sandbox = Sandbox::new();
    sandbox.write("s.toml", "[prefill]\nbase_us = 1000.0\n");
    let source = |latency: &[&str]| {
        let report = sandbox.report(&[&["t.jsonl"], latency].concat());
        report["latency_source"].as_str().unwrap().to_owned()
    };
    let roofline = "roofline:model=meta-llama/Llama-3.1-8B,gpu=H100-SXM";
    for (latency, expected) in [
        (&[][..], "polynomial, of no particular GPU: the constants of Dynamo's mocker"),
        (&["--latency", "linear:1000,1,5"], "linear, of no particular GPU: prices that were given"),
        (
            &["--latency", "step:s.toml"],
            "step model s.toml: prices fitted to what was measured, on a GPU that it does not name",
        ),
        (
            &["--latency", roofline],
            "roofline of meta-llama/Llama-3.1-8B on 1 H100-SXM: an estimate, nothing was measured",
        ),
        (
            &["--prefill-engine-args", r#"{"latency": "linear:1000,1,5"}"#, "--decode-engine-args", "{}"],
            "prefill: linear, of no particular GPU: prices that were given; decode: polynomial, of no particular GPU: \
             the constants of Dynamo's mocker",
        ),
    ] {
        assert_eq!(source(latency), expected);
    }
    let line = "Iteration times: polynomial, of no particular GPU: the constants of Dynamo's mocker\n";
    let table = sandbox.run(&["replay", "t.jsonl", "--report-html", "p.html"]).success();
    assert!(table.contains(line), "{table}");
    assert!(sandbox.read("p.html").contains("\"latency_source\":\"polynomial, of no particular GPU"));
    let several = sandbox.run(&["replay", "t.jsonl", "--vary", "workers=1,2"]).success();
    assert_eq!(several.matches(line).count(), 1, "{several}");
}

/// The four prompts need more blocks than there are, so that nobody is served.
const NOBODY: [&str; 3] = ["t.jsonl", "--num-gpu-blocks", "2"];

#[test]
fn a_run_that_served_nobody_has_no_latencies() {
    let sandbox = Sandbox::new();
    let report = sandbox.report(&NOBODY);
    assert_eq!(report["completed_requests"], 0);
    for key in
        ["mean_ttft_ms", "p99_itl_ms", "output_throughput_tok_s", "duration_ms", "prefix_cache_reused_ratio"]
    {
        assert_eq!(report[key], Value::Null, "{key}");
    }
    let table = sandbox.run(&[&["replay"], &NOBODY[..]].concat()).success();
    let ttft = table.lines().find(|line| line.contains("Time to First Token")).unwrap();
    assert!(ttft.contains("N/A") && !ttft.contains("0.00"), "{ttft}");
    assert!(table.contains("Simulated duration: N/A"), "{table}");
    let several = sandbox.run(&["replay", "t.jsonl", "--vary", "num_gpu_blocks=2,3"]).success();
    assert!(several.contains("N/A") && !several.contains("0.00"), "{several}");
}
