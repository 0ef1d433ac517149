//! `servecast calibrate` against times of single tokens: runs whose prices are known, and those of a real server.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Prices and a host that are known, for runs to fit them to.
const TRUTH: &str = "gap_us = 1500.0\ngap_us_per_request = 60.0\nfront_end_us = 4000.0\n\
                     delivery_us_per_request = 150.0\n\n[prefill]\nbase_us = 14000.0\nper_prefill_token_us = 100.0\n\
                     per_sequence_us = 250.0\nper_context_token_us = 1.5\nper_attention_pair_us = 0.2\n\n[decode]\n\
                     base_us = 12000.0\nper_sequence_us = 250.0\nper_context_token_us = 1.5\n";
const ENGINE: &str = r#"{"block_size": 32, "num_gpu_blocks": 400, "max_num_seqs": 16, "max_num_batched_tokens": 256, "max_model_len": 2048}"#;

/// A run of that model at a rate: token times as `vllm bench serve` writes them, and iterations.
fn own_run(sandbox: &Sandbox, name: &str, interval_ms: &str) {
    sandbox.write("truth.toml", TRUTH);
    let export = format!("vllm-bench={name}.json");
    let iterations = format!("{name}.iterations.jsonl");
    let arguments =
        ["replay", "--latency", "step:truth.toml", "--engine-args", ENGINE, "--request-count", "80"];
    let lengths = ["--input-tokens", "200", "--output-tokens", "50", "--length-distribution", "uniform"];
    let load =
        ["--length-spread", "0.8", "--arrival-process", "poisson", "--arrival-interval-ms", interval_ms];
    let output = ["--quiet", "--export", &export, "--iterations-jsonl", &iterations, "--seed", interval_ms];
    sandbox.run(&[&arguments[..], &lengths, &load, &output].concat()).success();
}

fn price(model: &str, section: &str, key: &str) -> f64 {
    let model: toml::Table = model.parse().unwrap();
    let table =
        if section.is_empty() { Some(&model) } else { model.get(section).and_then(|one| one.as_table()) };
    table.and_then(|table| table.get(key)).and_then(toml::Value::as_float).unwrap_or(0.0)
}

#[track_caller]
fn near(found: f64, truth: f64, share: f64) {
    assert!((found - truth).abs() <= share * truth, "{found} for {truth}");
}

#[test]
fn times_of_tokens_tell_prices_and_a_log_tells_the_gap() {
    let sandbox = Sandbox::new();
    own_run(&sandbox, "low", "1500");
    own_run(&sandbox, "high", "140");
    let calibrate = |inputs: &[&str]| {
        let fixed = ["calibrate", "--quiet", "--output", "found.toml", "--engine-args", ENGINE];
        let text = sandbox.run(&[&fixed, inputs].concat()).success();
        (text, sandbox.read("found.toml"))
    };
    let (text, model) = calibrate(&["low.json", "high.json"]);
    // What lies between passes is in them, and it is said.
    near(price(&model, "decode", "base_us"), 13_500.0, 0.01);
    near(price(&model, "decode", "per_sequence_us"), 310.0, 0.05);
    near(price(&model, "prefill", "per_prefill_token_us"), 100.0, 0.03);
    // A pass that nothing came before has no gap, which its price has: the front end is as much shorter.
    near(price(&model, "", "front_end_us"), 2500.0, 0.02);
    assert!(text.contains("clients see passes and what lies between them as one"), "{text}");
    let (text, model) = calibrate(&["low.json", "high.json", "high.iterations.jsonl"]);
    near(price(&model, "decode", "base_us"), 12_000.0, 0.01);
    near(price(&model, "decode", "per_context_token_us"), 1.5, 0.03);
    near(price(&model, "prefill", "base_us"), 14_000.0, 0.01);
    near(price(&model, "prefill", "per_attention_pair_us"), 0.2, 0.1);
    near(price(&model, "", "gap_us"), 1500.0, 0.03);
    near(price(&model, "", "gap_us_per_request"), 60.0, 0.1);
    near(price(&model, "", "delivery_us_per_request"), 150.0, 0.1);
    assert!(!text.contains("clients see passes"), "{text}");
}

#[test]
fn a_fitted_model_says_how_far_off_it_was_for_what_was_held_out() {
    let sandbox = Sandbox::new();
    own_run(&sandbox, "low", "1500");
    own_run(&sandbox, "high", "140");
    let error_of = |inputs: &[&str]| {
        let fixed = ["calibrate", "--quiet", "--output", "found.toml", "--format", "json"];
        let text = sandbox.run(&[&fixed, inputs].concat()).success();
        let load = ["--input-tokens", "50", "--output-tokens", "3", "--request-count", "2", "--quiet"];
        let replay = ["replay", "--latency", "step:found.toml", "--format", "json"];
        let report = sandbox.run(&[&replay[..], &load].concat()).success();
        let [fit, report]: [Value; 2] = [text, report].map(|text| serde_json::from_str(&text).unwrap());
        let errors = [&fit, &report].map(|value| value["latency_error"].clone());
        assert_eq!(errors[0], errors[1]);
        errors[1].clone()
    };
    let error = error_of(&["low.json", "high.json", "--engine-args", ENGINE]);
    let share = |key: &str| error[key].as_f64().unwrap();
    assert!(share("tpot_p90") < 0.02 && share("ttft_p90") < 0.1, "{error}");
    assert!(share("tpot_mape") <= share("tpot_p90") && error["n"].as_u64().unwrap() >= 2, "{error}");
    assert!(error["basis"].as_str().unwrap().contains("predicted from the"), "{error}");
    let error = error_of(&["high.iterations.jsonl"]);
    assert!(error["tpot_p90"].is_null() && error["n"].is_null(), "{error}");
    assert!(error["basis"].as_str().unwrap().contains("iterations alone"), "{error}");
}

#[test]
fn a_host_is_fitted_to_requests_over_known_passes() {
    let sandbox = Sandbox::new();
    own_run(&sandbox, "low", "1500");
    let passes = TRUTH.split_once("\n\n").unwrap().1;
    sandbox.write("passes.toml", passes);
    let fixed = ["calibrate", "--quiet", "--engine-args", ENGINE, "--base", "step:passes.toml", "low.json"];
    let text = sandbox.run(&[&fixed[..], &["--output", "host.toml", "--format", "json"]].concat()).success();
    let host = sandbox.read("host.toml");
    near(price(&host, "host", "gap_us"), 1500.0, 0.01);
    near(price(&host, "host", "gap_us_per_request"), 60.0, 0.05);
    // With the way of the token, which is not told from it.
    near(price(&host, "host", "front_end_us"), 4150.0, 0.01);
    let fit: Value = serde_json::from_str(&text).unwrap();
    assert!(fit["all"]["mean_e2e"].as_f64().unwrap().abs() < 0.2, "{fit}");
    // Each fifth of the time is predicted by a host that was fitted to the rest.
    assert_eq!((fit["held_out"].as_array().unwrap().len(), &fit["latency_error"]["n"]), (5, &5.into()));
    let error = |key: &str| fit["latency_error"][key].as_f64().unwrap();
    assert!(error("tpot_p90") < 0.01 && error("tpot_mape") <= error("tpot_p90"), "{fit}");
    assert!(host.contains("# Held out of the fit: TPOT ±"), "{host}");
    // The file is a configuration.
    let replay = ["replay", "--config", "host.toml", "--latency", "step:passes.toml", "--format", "json"];
    let lengths = ["--request-count", "1", "--input-tokens", "50", "--output-tokens", "3", "--quiet"];
    let report: Value =
        serde_json::from_str(&sandbox.run(&[&replay[..], &lengths].concat()).success()).unwrap();
    // Two gaps of about 1.56 ms, between three passes.
    let tpot_ms = report["mean_tpot_ms"].as_f64().unwrap();
    near(tpot_ms, 1.56 + 12.25 + 1.5e-3 * 51.5, 0.01);
    let refused = |arguments: &[&str], words: &[&str]| sandbox.run(arguments).is_refused(words);
    refused(&["calibrate", "low.json", "--base", "polynomial"], &["no model of a GPU"]);
    refused(
        &["calibrate", "low.iterations.jsonl", "--base", "step:passes.toml"],
        &["--base", "without iterations"],
    );
}

#[test]
fn iterations_and_requests_must_be_of_one_run_and_have_token_times() {
    let sandbox = Sandbox::new();
    own_run(&sandbox, "low", "1500");
    own_run(&sandbox, "high", "140");
    let log = "iteration,context_requests,context_tokens,generation_requests,generation_tokens,elapsed_ms\n";
    let lines = (0..60).fold(log.to_owned(), |mut text, number| {
        let _ = writeln!(text, "{number},1,40,{},{},12.5", number % 7, number % 7);
        text
    });
    sandbox.write("other.csv", &lines);
    let refused = |inputs: &[&str], words: &[&str]| {
        sandbox.run(&[&["calibrate", "--engine-args", ENGINE], inputs].concat()).is_refused(words);
    };
    refused(&["low.json", "high.json", "other.csv"], &["other.csv", "not of these requests"]);
    let rows = "arrival_ms,input_tokens,output_tokens,ttft_ms,e2e_ms\n0,10,4,20,60\n900,10,4,20,60\n905,10,4,30,90\n";
    sandbox.write("rows.csv", rows);
    refused(&["rows.csv", "high.iterations.jsonl"], &["need the time of each token", "gaps_ms"]);
    sandbox.write("bad.csv", lines.replace("3,1,40,3,3,12.5", "3,1,forty,3,3,12.5"));
    refused(&["bad.csv"], &["bad.csv, line 5", "`context_tokens` is `forty`"]);
    sandbox.write("bad.jsonl", r#"{"arrival_ms": 0, "input_tokens": 9, "output_tokens": 2, "ttft_ms": 1, "e2e_ms": 2, "cached_tokens": 10}"#);
    refused(&["bad.jsonl"], &["bad.jsonl, line 1", "`cached_tokens` is 10", "which has 9"]);
}

#[test]
fn a_server_that_does_not_schedule_ahead_is_told_from_one_that_does() {
    let Some(live) = Live::new("paced", 256) else { return };
    let ahead = Live { engine: live.engine.replace("false", "true"), ..live };
    let text = ahead.fit(&["serial-a.requests.jsonl.gz", "near-a.requests.jsonl.gz"]);
    assert!(text.contains("looks like one without asynchronous scheduling"), "{text}");
    let Some(live) = Live::new("paced", 256) else { return };
    let text = live.fit(&["serial-a.requests.jsonl.gz", "near-a.requests.jsonl.gz"]);
    assert!(!text.contains("asynchronous scheduling"), "{text}");
}

/// Runs of a real server.
struct Live {
    folder: PathBuf,
    engine: String,
    sandbox: Sandbox,
}

impl Live {
    fn new(kind: &str, budget: u32) -> Option<Self> {
        let folder = testkit::outside("SERVECAST_ORACLE")?.join("live/timed").join(kind);
        let engine = format!(
            "{{\"block_size\": 32, \"num_gpu_blocks\": 160, \"max_num_seqs\": 16, \"max_num_batched_tokens\": {budget}, \
             \"max_model_len\": 2048, \"async_scheduling\": false}}"
        );
        Some(Self { folder, engine, sandbox: Sandbox::new() })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn fit(&self, inputs: &[&str]) -> String {
        let inputs: Vec<String> = inputs.iter().map(|input| self.file(input)).collect();
        let mut arguments = vec!["calibrate", "--engine-preset", "vllm-0.32", "--engine-args", &self.engine];
        arguments.extend(["--quiet", "--output", "found.toml"]);
        arguments.extend(inputs.iter().map(String::as_str));
        self.sandbox.run(&arguments).success()
    }

    /// The error of the mean E2E of a run in percent.
    fn off(&self, run: &str) -> f64 {
        let trace = self.file(&format!("{run}.trace.jsonl.gz"));
        let arguments = ["replay", &trace, "--trace-block-size", "32", "--engine-preset", "vllm-0.32"];
        let model =
            ["--engine-args", &self.engine, "--latency", "step:found.toml", "--format", "json", "--quiet"];
        let report: Value =
            serde_json::from_str(&self.sandbox.run(&[&arguments[..], &model].concat()).success()).unwrap();
        let meta = fs::read_to_string(self.file(&format!("{run}.meta.json"))).unwrap();
        let meta: Value = serde_json::from_str(&meta).unwrap();
        let of = |value: &Value| value.as_f64().unwrap();
        (of(&report["mean_e2e_latency_ms"]) / of(&meta["mean_e2e_ms"]) - 1.0) * 100.0
    }

    #[track_caller]
    fn is_within(&self, limits: &[(&str, f64)]) {
        for (run, most) in limits {
            let off = self.off(run);
            assert!(off.abs() <= *most, "{run} is off by {off:+.2} %");
        }
    }
}

#[test]
fn two_loads_of_a_paced_server_predict_the_others() {
    let Some(live) = Live::new("paced", 256) else { return };
    live.fit(&["serial-a.requests.jsonl.gz", "near-a.requests.jsonl.gz"]);
    let limits = [("serial-a", 2.0), ("half-a", 4.0), ("near-a", 2.0), ("over-a", 4.0), ("prefix-a", 8.0)];
    live.is_within(&limits);
}

#[test]
fn the_log_of_one_load_with_its_requests_predicts_all() {
    let Some(live) = Live::new("paced", 256) else { return };
    let text = live.fit(&["near-a.steps.csv.gz", "near-a.requests.jsonl.gz"]);
    assert!(text.contains("gap_us"), "{text}");
    // The prices that are known are off by 3.8 % for the last one.
    let limits = [("serial-a", 4.0), ("half-a", 4.0), ("near-a", 4.0), ("over-a", 4.0), ("prefix-a", 4.0)];
    live.is_within(&limits);
    // The log alone is read as well, and says what it lacks.
    let text = live.sandbox.run(&["calibrate", &live.file("near-a.steps.csv.gz")]).success();
    assert!(text.contains("does not say how long contexts are"), "{text}");
}

#[test]
fn two_loads_of_a_noisy_server_predict_the_others() {
    let Some(live) = Live::new("real-compute", 128) else { return };
    live.fit(&["serial-c.requests.jsonl.gz", "near-c.requests.jsonl.gz"]);
    // Passes of one run are 5 to 8 % longer than those of another, whatever is in them: half-c was the fastest.
    live.is_within(&[("serial-c", 3.0), ("half-c", 6.0), ("near-c", 3.0), ("prefix-c", 10.0)]);
    live.fit(&["serial-a.requests.jsonl.gz", "near-a.requests.jsonl.gz"]);
    live.is_within(&[("serial-a", 3.0), ("half-a", 6.0), ("near-a", 3.0), ("prefix-a", 10.0)]);
}

#[test]
fn a_load_whose_requests_all_wait_for_a_seat_is_fitted() {
    let Some(live) = Live::new("real-compute", 128) else { return };
    // Nothing says when such requests would have been admitted: taken for seconds on their way, parts of prompts were taken
    // for decodes, and the load that was fitted came out 49 % too long.
    live.fit(&["half-c.requests.jsonl.gz", "over-c.requests.jsonl.gz"]);
    live.is_within(&[("half-c", 6.0), ("over-c", 6.0), ("near-c", 5.0)]);
}

#[test]
fn rows_with_cached_tokens_are_fitted_as_they_were_computed() {
    let Some(live) = Live::new("paced", 256) else { return };
    live.fit(&["half-a.requests.jsonl.gz", "prefix-a.requests.jsonl.gz"]);
    live.is_within(&[("half-a", 4.0), ("prefix-a", 5.0), ("near-a", 4.0)]);
}

#[test]
fn the_gap_of_a_host_carries_over_to_another_model_on_it() {
    let Some(folder) = testkit::outside("SERVECAST_DATA").map(|folder| folder.join("real")) else { return };
    let sandbox = Sandbox::new();
    let runs = ["rtxpro6000_llama8b", "rtxpro6000_qwen32b_tp2"];
    // A hundredth of the passes of the larger model, whose all-reduces are not measured, is as long as a gap of the smaller.
    for (fitted, judged, most) in [(runs[0], runs[1], 1.0), (runs[1], runs[0], 1.8)] {
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let base = format!("profile:{}", path(fitted));
        let text = ["calibrate", &path(fitted), "--base", &base, "--quiet", "--format", "json"];
        let fit: Value = serde_json::from_str(&sandbox.run(&text).success()).unwrap();
        let gap = fit["coefficients"][0]["value_us"].as_f64().unwrap();
        let latency = format!("profile:{},gap_us={gap}", path(judged));
        let limits =
            [format!("e2e_mape>{most}%"), format!("mean_e2e_ms>{most}%"), "mean_ttft_ms>4%".to_owned()];
        let judged = path(judged);
        let mut arguments = vec!["validate", judged.as_str(), "--latency", &latency];
        arguments.extend(limits.iter().flat_map(|limit| ["--fail-if", limit.as_str()]));
        sandbox.run(&arguments).success();
    }
}
