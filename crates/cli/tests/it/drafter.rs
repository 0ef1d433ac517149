//! What the drafter of speculative decoding takes where it is a part of the model.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// The module of DeepSeek-V3 has one of 61 blocks, so that a pass of it takes some, but a small part of what the model takes.
#[test]
fn a_module_of_the_model_takes_a_part_of_its_time() {
    let sandbox = Sandbox::new();
    sandbox.write("t.jsonl", r#"{"timestamp": 0, "input_length": 1000, "output_length": 101}"#);
    let replay = |latency: &str, more: &str| {
        let speculation =
            format!(r#"{{"method": "mtp", "num_speculative_tokens": 1, "acceptance_rates": [0.0]{more}}}"#);
        let engine =
            ["--model", "deepseek-ai/DeepSeek-V3", "--gpu", "H200", "--tp", "8", "--latency", latency];
        let rest = ["replay", "t.jsonl", "--speculative-config", &speculation, "--format", "json"];
        let done = sandbox.run(&[&rest[..], &engine[..]].concat());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let report: Value = serde_json::from_str(&done.stdout).unwrap();
        (report["mean_itl_ms"].as_f64().unwrap(), done.stderr)
    };
    for latency in ["auto", "ops:", "roofline:host_us=0"] {
        let (own, said) = replay(latency, "");
        assert!(said.contains("a pass of the drafter is taken for one block of the model"), "{said}");
        let (none, said) = replay(latency, r#", "draft_pass_us": 0"#);
        assert!(!said.contains("a pass of the drafter"), "{said}");
        let share = (own - none) / none;
        assert!((0.01..0.3).contains(&share), "{latency}: {own} ms, {none} ms without");
    }
}

#[test]
fn what_is_no_part_of_a_model_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("t.jsonl", r#"{"timestamp": 0, "input_length": 10, "output_length": 1}"#);
    let latency = "roofline:model=deepseek-ai/DeepSeek-V3,gpu=H200,tp=8,part=head";
    let refused = sandbox.run(&["replay", "t.jsonl", "--latency", latency]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("expected mtp, a module that drafts tokens"), "{}", refused.stderr);
}
