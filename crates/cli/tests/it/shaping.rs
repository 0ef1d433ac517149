//! A part of a load, more of it, several at once, and the same at other times.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Eight requests, a second apart, in ids of 512 tokens; those of odd seconds are two sessions of two turns.
fn trace() -> String {
    (0..8)
        .map(|second| {
            let session = if second % 2 == 0 { String::new() } else { format!(r#""session_id": "s{}", "#, second % 4) };
            format!(
                r#"{{{session}"timestamp": {}, "input_length": 600, "output_length": 5, "hash_ids": [0, {}]}}"#,
                second * 1000,
                second + 1
            )
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("s.jsonl", trace());
    sandbox
}

fn reuse(report: &Value) -> f64 {
    report["prefix_cache_reused_ratio"].as_f64().unwrap()
}

/// When requests arrive, in ms.
fn arrivals(sandbox: &Sandbox, arguments: &[&str]) -> Vec<f64> {
    sandbox.report(&[arguments, &["--requests-jsonl", "rows.jsonl"]].concat());
    let rows = sandbox.read("rows.jsonl");
    let row = |line: &str| serde_json::from_str::<Value>(line).unwrap()["arrival_ms"].as_f64().unwrap();
    rows.lines().map(row).collect()
}

#[test]
fn a_range_of_time_and_a_sample_keep_whole_sessions() {
    let sandbox = sandbox();
    let range = sandbox.report(&["s.jsonl", "--time-range", "1..3"]);
    assert_eq!(range["num_requests"], 3, "the session of second 1, with its turn of second 5, and second 2");
    assert_eq!(sandbox.report(&["s.jsonl", "--time-range", "2.."])["num_requests"], 5);
    assert_eq!(sandbox.report(&["s.jsonl", "--time-range", "..0.5"])["num_requests"], 1);
    let sample = sandbox.report(&["s.jsonl", "--sample", "0.5", "--seed", "3"]);
    assert_eq!(sample["settings"]["sample"], 0.5);
    let requests = sample["num_requests"].as_u64().unwrap();
    assert!((1..8).contains(&requests), "{requests}");
}

#[test]
fn a_load_is_sent_again_with_the_same_content() {
    let sandbox = sandbox();
    let twice = ["s.jsonl", "--repeat", "2"];
    let report = sandbox.report(&twice);
    assert_eq!(report["num_requests"], 16);
    let once = sandbox.report(&["s.jsonl"]);
    assert!(reuse(&report) > reuse(&once));
    let arrivals = arrivals(&sandbox, &twice);
    // The last session begins at 6 s, six of them 1.2 s apart.
    assert!(arrivals.iter().any(|ms| (ms - 7200.0).abs() < 1e-6), "{arrivals:?}");
    assert_eq!(sandbox.report(&[&twice[..], &["--replay-concurrency", "1"]].concat())["num_requests"], 16);
}

#[test]
fn traces_are_sent_side_by_side() {
    let sandbox = sandbox();
    sandbox
        .write("lengths.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n100.5,374,44\n103.5,9,9\n");
    let both = ["s.jsonl", "--merge", "lengths.csv"];
    let report = sandbox.report(&both);
    assert_eq!(
        (&report["num_requests"], &report["workload_name"]),
        (&10.into(), &"s.jsonl + lengths.csv".into())
    );
    let at_once = arrivals(&sandbox, &both).iter().filter(|ms| **ms == 0.0).count();
    assert_eq!(at_once, 2, "the first of each");
    assert_eq!(sandbox.report(&["lengths.csv", "--merge", "s.jsonl"])["num_requests"], 10);
    let thrice = ["s.jsonl", "--merge", "s.jsonl", "--merge", "s.jsonl", "--replay-concurrency", "2"];
    let report = sandbox.report(&thrice);
    assert_eq!(report["num_requests"], 24);
    let alone = sandbox.report(&["s.jsonl", "--replay-concurrency", "2"]);
    assert!((reuse(&report) - reuse(&alone)).abs() < 1e-9, "copies share nothing with one another");
}

#[test]
fn arrivals_follow_a_rate() {
    let sandbox = sandbox();
    let at_rate = |more: &[&str]| arrivals(&sandbox, &[&["s.jsonl"], more].concat());
    let even = at_rate(&["--request-rate", "10", "--burstiness", "1000000"]);
    assert!(
        even.iter().take(4).enumerate().all(|(place, ms)| (ms - 100.0 * place as f64).abs() < 2.0),
        "{even:?}"
    );
    let fast = at_rate(&["--request-rate", "10", "--burstiness", "1000000", "--arrival-speedup-ratio", "10"]);
    assert!(
        fast.iter().take(4).enumerate().all(|(place, ms)| (ms - 10.0 * place as f64).abs() < 0.2),
        "{fast:?}"
    );
    assert_eq!(at_rate(&["--request-rate", "10"]), at_rate(&["--request-rate", "10"]));
    assert_ne!(at_rate(&["--request-rate", "10"]), at_rate(&["--request-rate", "10", "--seed", "1"]));
    let closed = r#"{"num_turns": 1, "input_prompt_length": 10, "assistant_response_length": [5],
        "tool_call_output_length": [2], "tool_call_latency": [0.5], "final_assistant_response_length": 3}"#;
    sandbox.write("turns.jsonl", closed.replace('\n', " "));
    assert_eq!(sandbox.report(&["turns.jsonl", "--request-rate", "2"])["num_requests"], 2);
    sandbox
        .run(&["replay", "turns.jsonl"])
        .is_refused(&["`timestamp` is missing", "--request-rate R has R of them arrive in a second"]);
}

#[test]
fn a_run_by_a_profile_is_repeated_by_its_settings() {
    let sandbox = sandbox();
    sandbox.write("day.toml", "[[segment]]\nduration_s = 2\nrate_per_s = 1\nend_rate_per_s = 4\n");
    let settings =
        ["s.jsonl", "--rate-profile", "day.toml", "--merge", "s.jsonl", "--sample", "0.9", "--repeat", "2"];
    sandbox.run(&[&["replay"], &settings[..], &["--output-dir", "out"]].concat()).success();
    let report: Value = serde_json::from_str(&sandbox.read("out/report.json")).unwrap();
    let again = sandbox.report(&["--config", "out/config.toml"]);
    for key in ["workload_hash", "mean_ttft_ms", "num_requests"] {
        assert_eq!(report[key], again[key], "{key}");
    }
    let made = ["--input-tokens", "9", "--output-tokens", "5", "--request-count", "9", "--request-rate", "2"];
    sandbox.run(&[&["replay"], &made[..], &["--output-dir", "made"]].concat()).success();
    assert_eq!(sandbox.report(&["--config", "made/config.toml"])["num_requests"], 9);
}

#[test]
fn what_is_no_profile_is_refused_with_its_line() {
    let sandbox = sandbox();
    for (text, expected) in [
        ("[[segment]]\nduration = 2\n", &["`p.toml`: line 2: unknown field `duration`"][..]),
        ("[[segment]\n", &["`p.toml`: line 1: "]),
        (
            "[[segment]]\nduration_s = 2\nrate_per_s = -1\n",
            &["`p.toml`: `rate_per_s` of [[segment]] 1 is -1"],
        ),
        ("", &["`p.toml`: there is neither a [[segment]] nor a [[state]]"]),
    ] {
        sandbox.write("p.toml", text);
        sandbox.run(&["replay", "s.jsonl", "--rate-profile", "p.toml"]).is_refused(expected);
    }
    sandbox.write(
        "p.toml",
        "[[segment]]\nduration_s = 1\nrate_per_s = 2\n[[segment]]\nduration_s = 1\nrate_per_s = 0\n",
    );
    sandbox
        .run(&["replay", "s.jsonl", "--rate-profile", "p.toml"])
        .is_refused(&["`rate_profile` ends with a rate of 0 after", "(from --rate-profile)"]);
}

#[test]
fn traces_that_cannot_be_one_load_are_refused_by_their_names() {
    let sandbox = sandbox();
    sandbox
        .write("bad.jsonl", r#"{"timestamp": 0, "input_length": 600, "output_length": 0, "hash_ids": [1]}"#);
    sandbox.run(&["replay", "s.jsonl", "--merge", "bad.jsonl"]).is_refused(&["bad.jsonl: line 1"]);
    let chat = r#"{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [1]}"#;
    sandbox.write("chat.jsonl", chat);
    sandbox.run(&["replay", "s.jsonl", "--merge", "chat.jsonl"]).is_refused(&[
        "`merge` names chat.jsonl, whose ids stand for 16 tokens, but those of the other for 512",
        "trace convert",
    ]);
    sandbox
        .run(&[
            "replay",
            "s.jsonl",
            "--merge",
            "s.jsonl",
            "--replay-mode",
            "online",
            "--log-arrivals",
            "x.jsonl",
        ])
        .is_refused(&["`log_arrivals` writes the rows of one trace"]);
}
