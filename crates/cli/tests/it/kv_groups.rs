//! Caches of layers in groups, from the command line.

use crate::sandbox::Sandbox;

/// Requests of one conversation whose prompts end in different places of a block, which they fill with what they generate,
/// while one of them loses its blocks: it hits one that is full, and in which another prompt ended.
#[test]
fn prompts_that_end_in_one_block_at_different_places_share_it() {
    let sandbox = Sandbox::new();
    let ids = |from: u32, to: u32| (from..to).map(|id| id.to_string()).collect::<Vec<_>>().join(", ");
    let row = |at: u32, prompt: u32, output: u32| {
        let output_ids = ids(prompt, prompt + output.div_ceil(8));
        let (tokens, prompt) = (prompt * 8, ids(0, prompt));
        format!(
            r#"{{"timestamp": {at}, "input_length": {tokens}, "output_length": {output}, "hash_ids": [{prompt}], "output_hash_ids": [{output_ids}]}}"#
        )
    };
    sandbox.write("t.jsonl", [row(5, 4, 232), row(30, 11, 184), row(50, 5, 152)].join("\n"));
    let engine = r#"{"num_gpu_blocks": 17, "block_size": 64, "prefix_cache_retention_interval": "dense", "kv_groups": [
        {"type": "full", "block_size": 64}, {"type": "sliding_window", "sliding_window": 32, "block_size": 16}]}"#;
    let arguments =
        ["t.jsonl", "--trace-block-size", "8", "--latency", "linear:2000,10,5", "--engine-args", engine];
    let report = sandbox.report(&arguments);
    assert_eq!(report["completed_requests"], 3);
    let plain = sandbox.report(&[&arguments[..], &["--plain"]].concat());
    assert_eq!(report["mean_ttft_ms"], plain["mean_ttft_ms"]);
    assert!(report["total_preemptions"].as_u64().is_none_or(|preemptions| preemptions > 0), "{report}");
}
