//! What is one's own decides: times, workers and the order follow from it, by hand.

use extension::{Balance, LongestPass, ShortWithAge, run};
use serde_json::{Value, json};
use servecast::engine::Order;
use servecast::latency::{Batch, LatencyModel};
use servecast::record::RunRecord;

fn trace(rows: &[(u32, u32, u32)]) -> std::path::PathBuf {
    let rows = rows.iter().map(|(at_ms, tokens, first)| {
        let ids: Vec<u32> = (*first..first + tokens.div_ceil(512)).collect();
        format!("{{\"timestamp\": {at_ms}, \"input_length\": {tokens}, \"output_length\": 3, \"hash_ids\": {ids:?}}}\n")
    });
    let path = std::env::temp_dir().join(format!("extension-{}-{}.jsonl", std::process::id(), rows.len()));
    std::fs::write(&path, rows.collect::<String>()).unwrap();
    path
}

fn run_on(rows: &[(u32, u32, u32)], more: &Value) -> (RunRecord, LongestPass) {
    let path = trace(rows);
    let mut settings = json!({"engine_preset": "vllm-0.33", "num_gpu_blocks": 10_000, "trace_file": path});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut longest = LongestPass::default();
    let record = run(&settings, &mut longest).unwrap();
    std::fs::remove_file(path).unwrap();
    (record, longest)
}

#[test]
fn a_pass_takes_what_the_model_says() {
    let (record, longest) = run_on(&[(0, 2048, 1)], &json!({}));
    let request = &record.requests[0];
    // 2,048 tokens of 22 µs each, then two passes that read the weights and the KV of 2,049 and 2,050 tokens.
    assert_eq!(request.ttft().unwrap().as_ns(), 45_056_000);
    assert_eq!(request.e2e().unwrap().as_ns(), 45_056_000 + 2 * 4_800_000 + 40 * (2049 + 2050));
    let (ms, _, tokens) = longest.longest.unwrap();
    assert!((ms - 45.056).abs() < 1e-9);
    assert_eq!((tokens, longest.passes), (2048, 3));
    let nothing = Balance { weights_ms: 1.0, ms_per_million_kv_tokens: 0.0, ms_per_thousand_tokens: 1.0 };
    let pass = nothing.pass(&Batch { requests: 1, tokens: 3000, ..Batch::default() });
    assert!((pass.decode_ms - 3.0).abs() < 1e-9, "arithmetic takes longer");
}

#[test]
fn requests_go_where_their_prompt_is() {
    // The second prompt goes to the other worker; both come back to their own.
    let rows = [(0, 1024, 1), (10, 1024, 101), (1000, 1024, 101), (1000, 1024, 1)];
    let (record, _) = run_on(&rows, &json!({"num_workers": 2}));
    let workers: Vec<u32> = record.requests.iter().map(|request| request.stages[0].worker.0).collect();
    assert_eq!(workers, [0, 1, 1, 0]);
    assert!(record.requests[2..].iter().all(|request| request.reused_tokens() == 1008));
}

#[test]
fn short_prompts_go_first_until_a_long_one_has_waited() {
    // One runs at a time. The long prompt waits for the first, and lets the short one pass that came behind it.
    let rows = [(0, 4000, 1), (1, 3000, 101), (2, 100, 201)];
    let (record, _) = run_on(&rows, &json!({"max_num_seqs": 1}));
    let ended: Vec<_> = record.requests.iter().map(|request| request.last_token).collect();
    assert!(ended[0] < ended[2] && ended[2] < ended[1]);
    assert!(!ShortWithAge { tokens_per_second: 1.0 }.is_fixed());
}

#[test]
fn what_is_wrong_with_settings_is_said() {
    let refused = run(&json!({"num_worker": 2}), &mut LongestPass::default()).unwrap_err();
    assert_eq!(refused, "unknown key `num_worker`, did you mean `num_workers`?");
}
