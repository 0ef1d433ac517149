//! The latency model `step`, and `servecast calibrate`, which fits it.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Prices that are known, for runs to fit them to.
const STEP: &str = "front_end_us = 2000.0\n\n[prefill]\nbase_us = 9000.0\nper_prefill_token_us = 60.0\n\
                    per_sequence_us = 30.0\nper_context_token_us = 0.25\nper_attention_pair_us = 0.004\n\n[decode]\n\
                    base_us = 7000.0\nper_sequence_us = 40.0\nper_context_token_us = 0.3\n";

#[test]
fn a_step_model_serves_a_replay_and_a_bad_one_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("step.toml", STEP);
    sandbox
        .write("one.jsonl", r#"{"timestamp": 0, "input_length": 100, "output_length": 3, "hash_ids": [1]}"#);
    let replay = |rest: &[&str]| {
        let fixed = ["replay", "one.jsonl", "--latency", "step:step.toml", "--format", "json"];
        sandbox.run(&[&fixed, rest].concat())
    };
    let report: Value = serde_json::from_str(&replay(&["--requests-jsonl", "r.jsonl"]).success()).unwrap();
    // 2000 in front, then 9000 + 60·100 + 30 + 0.004·5050
    assert_eq!(report["mean_ttft_ms"], 17.0502, "{report}");
    // 7000 + 40 + 0.3·101.5
    let row: Value = serde_json::from_str(&sandbox.read("r.jsonl")).unwrap();
    assert_eq!(row["tpot_ms"], 7.07045, "{row}");
    assert_eq!(row["ttft_breakdown"]["front_end_ms"], 2.0, "{row}");
    let refused = |text: &str, message: &str| {
        sandbox.write("step.toml", text);
        let outcome = replay(&[]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    };
    refused(
        "[prefill]\nbase_us = -1",
        "step.toml: `prefill.base_us` is -1, but must be a number of microseconds",
    );
    refused(
        "[prefill]\nbase_ms = 1",
        "step.toml: `prefill.base_ms` is no known key: did you mean `base_us`?",
    );
}

/// Three runs of servecast at different rates, by the files that a run leaves of its requests or iterations.
fn own_runs(sandbox: &Sandbox, rows: &str) {
    sandbox.write("truth.toml", STEP);
    for (name, interval) in [("low", "1500"), ("middle", "400"), ("high", "150")] {
        let arguments =
            ["replay", "--latency", "step:truth.toml", "--request-count", "60", "--seed", interval];
        let lengths =
            ["--input-tokens", "900", "--output-tokens", "60", "--length-distribution", "lognormal"];
        let load =
            ["--length-spread", "0.8", "--arrival-process", "poisson", "--arrival-interval-ms", interval];
        let file = format!("{name}.jsonl");
        let output = ["--quiet", rows, &file];
        sandbox.run(&[&arguments[..], &lengths, &load, &output].concat()).success();
    }
}

/// Asserts that the prices of a model are those of [`STEP`] to 2 %.
#[track_caller]
fn found_again(model: &str, but: &[&str]) {
    // What comes after prices is how far off they are.
    let model = model.split("[error]").next().unwrap();
    let (model, truth): (toml::Table, toml::Table) = (model.parse().unwrap(), STEP.parse().unwrap());
    let flat = |table: &toml::Table| {
        let mut prices = Vec::new();
        for (key, value) in table {
            match value {
                toml::Value::Table(section) => {
                    prices
                        .extend(section.iter().map(|(name, value)| (format!("{key}.{name}"), value.clone())));
                }
                value => prices.push((key.clone(), value.clone())),
            }
        }
        prices
    };
    for ((name, found), (_, truth)) in flat(&model).iter().zip(flat(&truth)) {
        let (found, truth) = (found.as_float().unwrap(), truth.as_float().unwrap());
        if !but.contains(&name.as_str()) {
            assert!((found / truth - 1.0).abs() <= 0.02, "{name} is {found} instead of {truth}: {model}");
        }
    }
}

#[test]
fn prices_are_found_again_from_requests_alone() {
    let sandbox = Sandbox::new();
    own_runs(&sandbox, "--requests-jsonl");
    let arguments = ["calibrate", "low.jsonl", "middle.jsonl", "high.jsonl", "--output", "found.toml"];
    let text = sandbox.run(&arguments).success();
    found_again(&sandbox.read("found.toml"), &[]);
    assert!(text.contains("held out of the fit") && text.contains("low.jsonl"), "{text}");
    let again = sandbox.run(&arguments).success();
    assert_eq!(text, again, "the same data give the same prices");
    let report = ["replay", "t.jsonl", "--latency", "step:found.toml", "--format", "json"];
    sandbox.run(&report).success();
}

#[test]
fn prices_are_found_again_from_iterations() {
    let sandbox = Sandbox::new();
    own_runs(&sandbox, "--iterations-jsonl");
    let arguments =
        ["calibrate", "low.jsonl", "middle.jsonl", "high.jsonl", "-o", "found.toml", "--format", "json"];
    let result: Value = serde_json::from_str(&sandbox.run(&arguments).success()).unwrap();
    // Iterations know nothing of what is in front of the engine.
    found_again(&sandbox.read("found.toml"), &["front_end_us"]);
    assert_eq!(result["warnings"], serde_json::json!([]), "{result}");
    assert_eq!(result["held_out"].as_array().unwrap().len(), 5);
}

/// Asserts that a model fitted to the times of the first half of a recorded run predicts the other half.
fn half_predicts_half(name: &str) {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    let path = folder.join("real").join(name);
    let arguments =
        ["calibrate", path.to_str().unwrap(), "--first-requests", "150", "--format", "json", "-q"];
    let result: Value = serde_json::from_str(&sandbox.run(&arguments).success()).unwrap();
    let rest = result["held_out"].as_array().unwrap().last().unwrap();
    assert_eq!(rest["part"], "the 150 requests after the first 150");
    let error = |name: &str| rest["errors_percent"][name].as_f64().unwrap();
    assert!(error("mean_e2e").abs() < 5.0 && error("e2e_mape") < 5.0, "{name}: {rest}");
}

#[test]
fn the_first_half_of_a_recorded_run_predicts_the_other() {
    half_predicts_half("rtx4090_llama8b");
}

#[test]
fn the_first_half_of_a_run_on_two_gpus_predicts_the_other() {
    half_predicts_half("rtxpro6000_qwen32b_tp2");
}

#[test]
fn what_cannot_be_fitted_is_refused_with_what_to_do() {
    let sandbox = Sandbox::new();
    let row = |arrival: u32, input: u32| {
        format!(
            "{{\"arrival_ms\": {arrival}, \"input_tokens\": {input}, \"output_tokens\": 9, \"ttft_ms\": 20, \"e2e_ms\": 90}}\n"
        )
    };
    let alone: String = (0..20).map(|number| row(1000 * number, 100 + number)).collect();
    sandbox.write("alone.jsonl", alone);
    let help = sandbox.run(&["calibrate", "--help"]).success();
    let refused = |arguments: &[&str], words: &[&str]| {
        let outcome = sandbox.run(&[&["calibrate"], arguments].concat());
        outcome.is_refused(words);
        // It names only options that it has.
        let flags = outcome.stderr.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        for flag in flags.filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "{flag}: {outcome:?}");
        }
    };
    refused(&["alone.jsonl"], &["measured at one load level (1 at a time)", "measure at another rate"]);
    let equal: String = (0..20).map(|number| row(10 * number, 100)).collect();
    sandbox.write("equal.jsonl", equal);
    refused(
        &["equal.jsonl", "--phases", "two"],
        &["different load levels and lengths, but 9 prices", "--phases one"],
    );
    sandbox.write("mixed.jsonl", row(0, 9) + "{\"arrival_s\": 1, \"input_tokens\": 9, \"output_tokens\": 9}");
    refused(
        &["mixed.jsonl"],
        &["mixed.jsonl, line 2: `arrival_s` is in s, but other times of the file are in ms"],
    );
    sandbox.write("negative.csv", "arrival_ms,input_tokens,output_tokens,ttft_ms,e2e_ms\n0,9,9,-2,9\n");
    refused(&["negative.csv"], &["negative.csv, line 2: `ttft_ms` is -2"]);
    sandbox.write("empty.jsonl", "");
    refused(&["empty.jsonl"], &["the file is empty"]);
    refused(&["alone.jsonl", "--experts", "8,9"], &["expected COUNT,PER_TOKEN"]);
    refused(&["alone.jsonl", "--output", "no/where.toml"], &["the folder `no` does not exist"]);
    let varied: String = (0..20).map(|number| row(10 * number, 100 + number)).collect();
    sandbox.write("varied.jsonl", varied);
    let few = ["varied.jsonl", "--engine-args", r#"{"num_gpu_blocks": 4, "block_size": 16}"#];
    let words = [
        "varied.jsonl: line 1: the simulated engine does not serve a prompt of 100 tokens",
        "--engine-preset, ",
    ];
    refused(&few, &words);
    let latency = ["varied.jsonl", "--engine-args", r#"{"latency": "polynomial"}"#];
    refused(&latency, &["`latency` is what is fitted"]);
    refused(&["varied.jsonl", "--first-requests", "20"], &["varied.jsonl has 20 requests", "from 1 to 19"]);
    // A recorded run that does not say how many blocks there were.
    fs::create_dir(sandbox.path("run")).unwrap();
    sandbox.write("run/meta.json", r#"{"vllm_version": "0.19.0"}"#);
    let blocks =
        ["`num_gpu_blocks` is not recorded", "--extra-engine-args '{\"num_gpu_blocks\": N}' states it"];
    refused(&["run"], &blocks);
    sandbox.run(&["validate", "run"]).is_refused(&[blocks[0], "--num-gpu-blocks states it"]);
    assert!(!sandbox.files().iter().any(|name| name.contains(".toml")));
}

#[test]
fn warm_up_requests_are_no_failures() {
    let sandbox = Sandbox::new();
    let record = |phase: &str, start_ns: u64| {
        let seconds = |value: f64| serde_json::json!({"value": value, "unit": "s"});
        let tokens = |value: u64| serde_json::json!({"value": value, "unit": "tokens"});
        let record = serde_json::json!({
            "metadata": {"request_start_ns": start_ns, "benchmark_phase": phase},
            "metrics": {
                "time_to_first_token": seconds(0.1), "request_latency": seconds(1.0),
                "input_sequence_length": tokens(100), "output_sequence_length": tokens(10),
            },
        });
        format!("{record}\n")
    };
    let lines: String =
        (0..6).map(|number| record(if number < 2 { "warmup" } else { "profiling" }, number)).collect();
    sandbox.write("aiperf.jsonl", lines);
    let outcome = sandbox.run(&["calibrate", "aiperf.jsonl"]);
    assert!(
        outcome.stderr.contains("note: aiperf.jsonl: 2 requests are warm-up and are left out"),
        "{outcome:?}"
    );
    assert!(!outcome.stderr.contains("not served"), "{outcome:?}");
}

#[test]
fn intervals_say_what_they_are() {
    let sandbox = Sandbox::new();
    own_runs(&sandbox, "--iterations-jsonl");
    let inputs = ["calibrate", "low.jsonl", "middle.jsonl", "high.jsonl"];
    let words = "± is the 95 % interval of a price over other data of the same kind";
    assert!(sandbox.run(&inputs).success().contains(words));
    let result = sandbox.run(&[&inputs[..], &["--format", "json"]].concat()).success();
    let result: Value = serde_json::from_str(&result).unwrap();
    assert!(result["intervals"].as_str().unwrap().contains(words));
}
