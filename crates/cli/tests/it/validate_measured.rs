//! `servecast validate RESULT --config` of results that have the times of each request.

use serde_json::{Value, json};

use crate::compare_measured::{LOAD, NAMES, bench, e2e_s, sandbox, sglang};
use crate::sandbox::{Outcome, Sandbox};

/// Every pass takes 10 ms, so that a request has a token every 10 ms from 10 ms on.
const DEPLOYMENT: &str = "latency = \"linear:10000,0,0\"\nmax_num_batched_tokens = 4096\nnum_workers = 1\n";

fn validate(sandbox: &Sandbox, result: &str, more: &[&str]) -> Outcome {
    sandbox.write("deployment.toml", DEPLOYMENT);
    sandbox.run(&[&["validate", result, "--config", "deployment.toml"], more].concat())
}

fn outcome(sandbox: &Sandbox, result: &str) -> Value {
    let text = validate(sandbox, result, &["--format", "json"]).success();
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

#[track_caller]
fn check(outcome: &Value, figure: &str, expected: [f64; 3]) {
    let figures = outcome["figures"].as_array().unwrap();
    let row =
        figures.iter().find(|row| row["figure"] == figure).unwrap_or_else(|| panic!("{figure}: {outcome}"));
    for (side, expected) in ["real", "servecast", "error_percent"].into_iter().zip(expected) {
        let found = row[side].as_f64().unwrap();
        assert!(
            (found - expected).abs() < 1e-3 * expected.abs().max(1.0),
            "{figure}, {side}: {found}\n{row}"
        );
    }
}

#[track_caller]
fn is_assumed(outcome: &Value, words: &str) {
    let assumed = outcome["assumptions"].as_array().unwrap();
    assert!(assumed.iter().any(|one| one.as_str().unwrap().contains(words)), "{words}: {assumed:?}");
}

#[test]
fn every_form_is_replayed_request_for_request() {
    let sandbox = sandbox();
    let mut limited = sglang(&LOAD);
    limited["max_concurrency"] = 1.into();
    sandbox.write("sglang.jsonl", limited.to_string() + "\n");
    let mean_e2e_ms = LOAD.map(|(.., output)| e2e_s(output) * 1e3).iter().sum::<f64>() / 4.0;
    for name in NAMES {
        let outcome = outcome(&sandbox, name);
        check(&outcome, "mean_ttft_ms", [250.0, 10.0, -96.0]);
        check(&outcome, "median_tpot_ms", [20.0, 10.0, -50.0]);
        check(&outcome, "p99_tpot_ms", [20.0, 10.0, -50.0]);
        check(&outcome, "mean_e2e_ms", [mean_e2e_ms, 110.0, (110.0 / mean_e2e_ms - 1.0) * 100.0]);
        let has_gaps = ["vllm.json", "sglang.jsonl"].contains(&name);
        if has_gaps {
            check(&outcome, "p99_itl_ms", [20.0, 10.0, -50.0]);
        }
        if name == "sglang.jsonl" {
            is_assumed(&outcome, "closed loop of 1 requests at a time, as the client had");
            // One after the other, 44 tokens.
            check(&outcome, "duration_ms", [2500.0, 440.0, (440.0 / 2500.0 - 1.0) * 100.0]);
        } else {
            is_assumed(&outcome, "requests are sent when the client sent them");
            // The last of 6 tokens, 2 s after the first.
            check(&outcome, "duration_ms", [2350.0, 2060.0, (2060.0 / 2350.0 - 1.0) * 100.0]);
        }
        is_assumed(&outcome, "the 4 requests of both have the same lengths, one by one");
        let mape = |name: &str| {
            let figures = outcome["figures"].as_array().unwrap();
            figures.iter().find(|row| row["figure"] == name).unwrap()["error_percent"].as_f64().unwrap()
        };
        assert!(
            (mape("ttft_mape") - 96.0).abs() < 1e-3 && (mape("tpot_mape") - 50.0).abs() < 1e-3,
            "{outcome}"
        );
        let paired = &outcome["paired"][0];
        assert_eq!(
            (&paired["metric"], &paired["pairs"], &paired["faster"]),
            (&json!("ttft_ms"), &json!(4), &json!(1.0))
        );
    }
    let table = validate(&sandbox, "vllm.json", &[]).success();
    assert!(table.contains("request by request") && table.contains("  ttft_ms: mean -240.00"), "{table}");
}

#[test]
fn a_limit_is_on_the_error_either_way() {
    let sandbox = sandbox();
    let gate = |condition: &str| validate(&sandbox, "vllm.json", &["--fail-if", condition]).code;
    assert_eq!((gate("mean_ttft_ms>97%"), gate("mean_ttft_ms>95%")), (Some(0), Some(3)));
    assert_eq!((gate("tpot_mape>51%"), gate("tpot_mape>49%")), (Some(0), Some(3)));
    // Two of four prompts are as long as the context: nothing is said of the others as if they were all.
    sandbox.write("short.toml", "max_model_len = 200\n");
    let short = ["--config", "short.toml", "--fail-if", "mean_ttft_ms>1000%"];
    let outcome = validate(&sandbox, "vllm.json", &short);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("2 requests of vllm.json are not served"), "{outcome:?}");
}

#[test]
fn a_page_has_both_over_each_other() {
    let sandbox = sandbox();
    validate(&sandbox, "vllm.json", &["--html", "p.html"]).success();
    let page = sandbox.read("p.html");
    let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    let run = &data["validated"][0];
    let ttft = &run["distributions"][0];
    assert_eq!(
        (&ttft["name"], &ttft["means"], &ttft["samples"]),
        (&json!("TTFT"), &json!([250.0, 10.0]), &json!([4, 4]))
    );
    // 350, 450, 650 and 350 ms; 60, 110, 210 and 60 ms.
    let total = |side: &str| {
        let parts = run["charts"][0][side].as_array().unwrap();
        let bin_s = run["charts"][0]["bin_s"].as_f64().unwrap();
        bin_s * parts.iter().map(|value| value.as_f64().unwrap()).sum::<f64>()
    };
    assert!((total("real") - 1.8).abs() < 0.02 && (total("ours") - 0.44).abs() < 0.02, "{run}");
}

#[test]
fn a_limit_beside_a_rate_is_no_load() {
    let sandbox = sandbox();
    let mut result = bench(&LOAD);
    result["max_concurrency"] = 1.into();
    for (rate, words) in
        [(json!(2.0), "when the client sent them"), (json!("inf"), "closed loop of 1 requests")]
    {
        result["request_rate"] = rate;
        sandbox.write("limited.json", result.to_string());
        is_assumed(&outcome(&sandbox, "limited.json"), words);
    }
}

#[test]
fn what_makes_another_load_is_refused() {
    let sandbox = sandbox();
    for (setting, key) in [
        ("arrival_speedup_ratio = 2.0", "arrival_speedup_ratio"),
        ("rate_profile = \"rates.toml\"", "rate_profile"),
        ("merge = [\"other.jsonl\"]", "merge"),
        ("time_range = \"0..1\"", "time_range"),
        ("sample = 0.5", "sample"),
        ("repeat = 2", "repeat"),
        ("max_requests = 1", "max_requests"),
        ("burstiness = 2.0", "burstiness"),
        ("warm_start = true", "warm_start"),
        ("warmup = \"1s\"", "warmup"),
        ("cooldown = \"1\"", "cooldown"),
    ] {
        sandbox.write("more.toml", setting);
        let more = ["--config", "more.toml"];
        validate(&sandbox, "vllm.json", &more).is_refused(&[&format!("`{key}` is"), "leave it out"]);
    }
    sandbox.write("more.toml", "report_json = \"r.json\"\n");
    validate(&sandbox, "vllm.json", &["--config", "more.toml"])
        .is_refused(&["`report_json` names a result of a replay", "leave it out"]);
    sandbox.write("more.toml", "seed = 3\nrequest_rate = 2.0\nburstiness = 2.0\n");
    validate(&sandbox, "vllm.json", &["--config", "more.toml"]).success();
}

/// What a server gave is not compared with a part of it.
#[test]
fn a_deployment_that_ends_requests_earlier_is_refused() {
    let sandbox = sandbox();
    sandbox.write("short.toml", "max_model_len = 305\n");
    validate(&sandbox, "vllm.json", &["--config", "short.toml"]).is_refused(&[
        "`max_model_len`",
        "after 5 of the 21 tokens",
        "number 3",
        "that the server had",
    ]);
    sandbox.write("long.toml", "max_model_len = 321\n");
    validate(&sandbox, "vllm.json", &["--config", "long.toml"]).success();
}

#[test]
fn what_a_result_says_of_its_load_is_of_the_kind_that_it_has_to_be() {
    let sandbox = sandbox();
    for (key, value, words) in [
        ("request_rate", json!("many"), "above 0, or \"inf\""),
        ("request_rate", json!(-1), "`request_rate` is the number -1"),
        ("request_rate", json!([1]), "`request_rate`"),
        ("duration", json!("long"), "`duration`"),
        ("duration", json!(-1), "`duration` is the number -1"),
        ("max_concurrency", json!(1.5), "at least 1"),
    ] {
        let mut result = bench(&LOAD);
        result[key] = value;
        sandbox.write("wrong.json", result.to_string());
        validate(&sandbox, "wrong.json", &[]).is_refused(&["wrong.json: line 1: ", words]);
        result[key] = Value::Null;
        sandbox.write("right.json", result.to_string());
        validate(&sandbox, "right.json", &[]).success();
    }
}

#[test]
fn a_latency_of_nothing_is_in_no_mean_of_shares() {
    let sandbox = sandbox();
    let mut result = bench(&LOAD);
    result["ttfts"][0] = json!(0.0);
    sandbox.write("zero.json", result.to_string());
    let outcome = outcome(&sandbox, "zero.json");
    is_assumed(&outcome, "`ttft_mape` is without 1 requests whose ttft was measured as 0");
}

#[test]
fn how_requests_were_sent_has_to_be_known() {
    let sandbox = sandbox();
    validate(&sandbox, "sglang.jsonl", &[])
        .is_refused(&["sglang.jsonl: line 1: `timestamp` is missing", "--request-rate"]);
    let mut at_once = sglang(&LOAD);
    at_once["request_rate"] = "inf".into();
    sandbox.write("inf.jsonl", at_once.to_string() + "\n");
    is_assumed(&outcome(&sandbox, "inf.jsonl"), "all requests are sent at once");
    at_once["request_rate"] = 4.0.into();
    sandbox.write("rate.jsonl", at_once.to_string() + "\n");
    let drawn = outcome(&sandbox, "rate.jsonl");
    is_assumed(&drawn, "they arrive at random, 4 a second");
    is_assumed(&drawn, "one draw, of seed");
    assert_eq!(drawn.get("paired"), None, "{drawn}");
    assert!(!drawn.to_string().contains("ttft_mape"), "{drawn}");
    at_once["max_concurrency"] = 2.into();
    sandbox.write("both.jsonl", at_once.to_string() + "\n");
    validate(&sandbox, "both.jsonl", &[]).is_refused(&[
        "both.jsonl: `max_concurrency` is 2",
        "`request_rate` of \"inf\"",
        "in the deployment file",
    ]);
    sandbox.write("loop.toml", "replay_concurrency = 2\n");
    validate(&sandbox, "both.jsonl", &["--config", "loop.toml"]).success();
    sandbox.write("load.toml", "trace_file = \"load.jsonl\"\n");
    validate(&sandbox, "vllm.json", &["--config", "load.toml"])
        .is_refused(&["`trace_file` names another load than `vllm.json`"]);
    sandbox.write("nobody.json", bench(&[]).to_string());
    let outcome = validate(&sandbox, "nobody.json", &[]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

/// A page takes the place of nothing that it is made from.
#[test]
fn a_page_is_not_written_over_what_is_read() {
    let sandbox = sandbox();
    sandbox.write("result.json", bench(&LOAD).to_string());
    for page in ["result.json", "./deployment.toml"] {
        validate(&sandbox, "result.json", &["--html", page])
            .is_refused(&[&format!("--html is `{page}`, which is read")]);
    }
    assert_eq!(sandbox.read("deployment.toml"), DEPLOYMENT);
}
