//! `dp_size`: workers of several data-parallel ranks.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Pairs of equal prompts of 640 tokens, the second of each long after the first.
fn trace() -> String {
    let row = |index: u64| {
        let (time, family) = (index * 500, 10 * (index / 2));
        let ids: Vec<String> = (family..family + 10).map(|id| id.to_string()).collect();
        let ids = ids.join(",");
        format!(
            "{{\"timestamp\": {time}, \"input_length\": 640, \"output_length\": 20, \"hash_ids\": [{ids}]}}\n"
        )
    };
    (0..16).map(row).collect()
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("trace.jsonl", trace());
    sandbox
}

const RANKS: [&str; 7] = [
    "trace.jsonl",
    "--trace-block-size",
    "64",
    "--latency",
    "linear:5000,20,50",
    "--extra-engine-args",
    "{\"dp_size\": 2}",
];

/// The second of two equal prompts goes to the rank that has the first in its cache, if somebody knows which that is.
#[test]
fn the_kv_router_sends_requests_to_ranks() {
    let sandbox = sandbox();
    let reused = |more: &[&str]| {
        let report = sandbox.report(&[&RANKS[..], more].concat());
        report["prefix_cache_reused_ratio"].as_f64().unwrap()
    };
    let (routed, by_worker) = (reused(&["--router-mode", "kv_router", "--num-workers", "2"]), reused(&[]));
    assert!(routed > by_worker, "{routed} {by_worker}");
}

#[test]
fn iterations_and_tracks_tell_ranks_apart() {
    let sandbox = sandbox();
    let files = ["--iterations-jsonl", "rows.jsonl", "--timeline", "timeline.json"];
    sandbox.report(&[&RANKS[..], &files].concat());
    let rows: Vec<Value> =
        sandbox.read("rows.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_second = rows.iter().filter(|row| row["dp_rank"] == 1).count();
    assert!(0 < of_second && of_second < rows.len(), "{of_second} of {}", rows.len());
    let timeline: Value = serde_json::from_str(&sandbox.read("timeline.json")).unwrap();
    let names: Vec<&str> = timeline["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .filter_map(|event| event["args"]["name"].as_str())
        .collect();
    assert!(
        names.contains(&"aggregated worker 0") && names.contains(&"aggregated worker 0 rank 1"),
        "{names:?}"
    );
}

const SGLANG: [&str; 7] = [
    "trace.jsonl",
    "--trace-block-size",
    "64",
    "--latency",
    "linear:5000,20,50",
    "--enable-dp-attention",
    "--extra-engine-args",
];

/// Those of SGLang, by the ways in which they get requests.
#[test]
fn sglangs_ranks_share_requests_out() {
    let sandbox = sandbox();
    let engine = r#"{"engine_type": "sglang", "dp_size": 2, "sglang": {"page_size": 64}}"#;
    let rows = |more: &[&str]| -> Vec<Value> {
        sandbox.report(&[&SGLANG[..], &[engine, "--iterations-jsonl", "rows.jsonl"], more].concat());
        sandbox.read("rows.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of_second = |rows: &[Value]| rows.iter().filter(|row| row["dp_rank"] == 1).count();
    // Requests come one by one, when both ranks have nothing to do: in turn, or all to the first.
    let in_turn = rows(&[]);
    assert!(!in_turn.is_empty());
    assert_eq!(2 * of_second(&in_turn), in_turn.len());
    let to_first = rows(&["--load-balance-method", "total_requests"]);
    assert!(!to_first.is_empty());
    assert_eq!(of_second(&to_first), 0);
    // Equal prompts follow each other, which a router knows to be cached on a rank.
    let reused = |more: &[&str]| {
        let report = sandbox.report(&[&SGLANG[..], &[engine], more].concat());
        report["prefix_cache_reused_ratio"].as_f64().unwrap()
    };
    let routed = reused(&["--router-mode", "kv_router", "--num-workers", "2"]);
    assert!(routed > 0.4 && reused(&[]) == 0.0, "{routed}");
    let alone = r#"{"engine_type": "sglang", "dp_size": 2}"#;
    let arguments = ["replay", "trace.jsonl", "--trace-block-size", "64", "--extra-engine-args", alone];
    sandbox.run(&arguments).is_refused(&["`dp_size` is 2, but", "`sglang.enable_dp_attention` is off"]);
}

#[test]
fn ranks_that_cannot_be_are_refused() {
    let sandbox = sandbox();
    for (settings, words) in [
        ("{\"dp_size\": 2, \"engine_type\": \"trtllm\"}", "`dp_size`"),
        ("{\"dp_sync_interval\": 8}", "`dp_sync_interval` is for several ranks"),
        ("{\"dp_size\": 2000}", "1024 ranks"),
    ] {
        let arguments =
            ["replay", "trace.jsonl", "--trace-block-size", "64", "--extra-engine-args", settings];
        sandbox.run(&arguments).is_refused(&[words]);
    }
}

/// A model with experts, whose operators were measured, on GPUs with room for it.
const EXPERTS: [&str; 8] =
    ["trace.jsonl", "--trace-block-size", "64", "--model", "Qwen/Qwen3-30B-A3B", "--gpu", "H100-SXM", "--ep"];

/// SGLang counts all GPUs of a server by `tensor_parallel_size`, and its ranks share them out: the same as ranks of so many
/// fewer GPUs each.
#[test]
fn ranks_of_sglang_share_out_the_gpus() {
    let sandbox = sandbox();
    let report = |sizes: &[&str]| {
        let engine = ["4", "--engine-preset", "sglang-0.5", "--enable-dp-attention"];
        sandbox.report(&[&EXPERTS[..], &engine, sizes].concat())
    };
    let shared = report(&["--tp", "4", "--dp", "4"]);
    let apart = report(&["--tp", "1", "--dp", "4", "--extra-engine-args", "{\"dp_size\": 4}"]);
    assert_eq!(shared["mean_ttft_ms"], apart["mean_ttft_ms"]);
    assert_eq!(shared["settings"], apart["settings"], "a file that repeats the run says it once");
    report(&["--tp", "4", "--dp", "4", "--max-num-seqs", "2", "--output-dir", "out"]);
    let again = sandbox.report(&["--config", "out/config.toml"]);
    let first: Value = serde_json::from_str(&sandbox.read("out/report.json")).unwrap();
    assert_eq!((&again["mean_ttft_ms"], &again["settings"]), (&first["mean_ttft_ms"], &first["settings"]));
    sandbox
        .run(
            &[
                &["replay"],
                &EXPERTS[..],
                &["1", "--engine-preset", "sglang-0.5"],
                &["--enable-dp-attention", "--dp", "4"],
            ]
            .concat(),
        )
        .is_refused(&[
            "`data_parallel_size` is 4, which does not divide `tensor_parallel_size`, 1",
            "counts all GPUs",
        ]);
}

#[test]
fn ranks_that_are_priced_as_one_engine_say_so_and_a_dense_model_of_vllm_has_none() {
    let sandbox = sandbox();
    let vllm = ["4", "--engine-preset", "vllm-0.33", "--dp", "4"];
    let outcome = sandbox.run(&[&["replay"], &EXPERTS[..], &vllm].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for words in ["the 4 data-parallel ranks are one engine", "`dp_size` 4 simulates ranks in lock step"] {
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    let dense = ["replay", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--dp", "4"];
    sandbox.run(&dense).is_refused(&["has no experts", "share nothing", "--num-workers 4"]);
    let roofline = ["4", "--engine-preset", "vllm-0.33", "--dp", "4", "--latency", "roofline:host_us=0"];
    let outcome = sandbox.run(&[&["replay"], &EXPERTS[..], &roofline].concat());
    assert!(
        outcome.stderr.contains("`roofline` has no groups of GPUs that share experts"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn sizes_of_sglangs_ranks_are_settings_and_no_options_of_latency() {
    let latency = ["--latency", "ops:model=Qwen/Qwen3-30B-A3B,gpu=H100-SXM,tp=4", "--dp", "4"];
    let arguments =
        [&["replay", "--engine-preset", "sglang-0.5", "--enable-dp-attention"], &latency[..]].concat();
    sandbox().run(&arguments).is_refused(&["give them as settings", "not among the options of"]);
}
