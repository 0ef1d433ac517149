//! `--pipeline-parallel-size`: workers whose layers are spread over stages.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Requests of 640 tokens, all at once.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let row = |index: u64| {
        format!(
            "{{\"timestamp\": 0, \"input_length\": 640, \"output_length\": 20, \"hash_ids\": [{index}]}}\n"
        )
    };
    sandbox.write("trace.jsonl", (0..16).map(row).collect::<String>());
    sandbox
}

const TRACE: [&str; 5] = ["trace.jsonl", "--trace-block-size", "640", "--latency", "linear:1000,500,0"];

/// While one batch is in the second stage, another is in the first: the throughput of a worker grows, and it is never busier
/// than the time that there is.
#[test]
fn stages_work_at_the_same_time() {
    let sandbox = sandbox();
    // A prompt a batch, so that there are enough of them to fill two stages evenly.
    let one_prompt = ["--max-num-batched-tokens", "672"];
    let report = |more: &[&str]| sandbox.report(&[&TRACE[..], &one_prompt, more].concat());
    let (whole, halves) = (report(&[]), report(&["--pp", "2", "--async-scheduling"]));
    let throughput = |report: &Value| report["output_throughput_tok_s"].as_f64().unwrap();
    assert!(throughput(&halves) > 1.2 * throughput(&whole), "{} {}", throughput(&halves), throughput(&whole));
    let busy = halves["pools"][0]["utilization"].as_f64().unwrap();
    assert!((0.5..=1.0).contains(&busy), "{busy}");
    assert_eq!(halves["latency_error"]["basis"], "pipelines were not measured");
}

#[test]
fn batches_under_way_have_tracks_of_their_own() {
    let sandbox = sandbox();
    sandbox.report(&[&TRACE[..], &["--pp", "2", "--timeline", "timeline.json"]].concat());
    let timeline: Value = serde_json::from_str(&sandbox.read("timeline.json")).unwrap();
    let events = timeline["traceEvents"].as_array().unwrap();
    let names: Vec<&str> = events
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .filter_map(|event| event["args"]["name"].as_str())
        .collect();
    assert!(names.contains(&"aggregated worker 0 batch 1"), "{names:?}");
    // Slices of a track do not overlap.
    let mut ends = std::collections::BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X" && event["pid"] == events[0]["pid"]) {
        let (start, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        let end = ends.entry(event["tid"].as_u64().unwrap()).or_insert(0.0);
        assert!(start >= *end - 1e-6, "{event}");
        *end = start + length;
    }
}

/// More stages hold more KV: of each, a GPU has the weights and the KV of its layers only.
#[test]
fn kv_of_all_stages_counts() {
    let sandbox = sandbox();
    let blocks = |more: &[&str]| {
        let model = ["--model", "meta-llama/Llama-3.1-70B", "--gpu", "H100-SXM", "--tp", "4"];
        let run = sandbox
            .run(&[&["replay", "trace.jsonl", "--trace-block-size", "640"], &model[..], more].concat());
        let text = &run.stderr;
        let found = text.split("`num_gpu_blocks` is ").nth(1).and_then(|rest| rest.split(',').next());
        found.and_then(|number| number.parse::<u64>().ok()).unwrap_or_else(|| panic!("{text}"))
    };
    let (one, two) = (blocks(&[]), blocks(&["--pp", "2"]));
    assert!(two > 2 * one, "{two} {one}");
}

#[test]
fn pipelines_that_cannot_be_are_refused() {
    let sandbox = sandbox();
    for (more, words) in [
        (&["--pp", "0"][..], "`pipeline_parallel_size` is 0"),
        (&["--pp", "2000"], "1024 stages"),
        (&["--engine", "sglang", "--pp", "2"], "pipeline_parallel_size"),
        (&["--pp", "2", "--extra-engine-args", "{\"dp_size\": 2}"], "does not go together"),
        (&["--extra-engine-args", "{\"pipeline_idle_sleep_us\": 5}"], "is for pipelines"),
        (&["--pp", "2", "--extra-engine-args", "{\"pipeline_idle_sleep_us\": -5}"], "expected microseconds"),
    ] {
        let arguments = [&["replay"], &TRACE[..], more].concat();
        sandbox.run(&arguments).is_refused(&[words]);
    }
}
