//! The timeline of a run, beside its report and its rows.

use std::collections::BTreeMap;
use std::fs::File;

use serde_json::{Map, Value, json};

use crate::sandbox::Sandbox;

/// Requests that share workers, some of which wait, and KV that takes time to move.
const LOAD: [&str; 8] =
    ["--input-tokens", "700", "--output-tokens", "30", "--request-count", "60", "--arrival-interval-ms", "8"];

fn events(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    let file = flate2::read::MultiGzDecoder::new(File::open(sandbox.path(name)).unwrap());
    let timeline: Value = serde_json::from_reader(file).unwrap();
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&timeline).take(3).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    timeline["traceEvents"].as_array().unwrap().clone()
}

/// What the Trace Event Format asks of the events that are written: their keys by phase, and nothing else.
fn schema() -> Value {
    let (count, text) = (json!({"type": "integer", "minimum": 0}), json!({"type": "string", "minLength": 1}));
    let time = json!({"type": "number", "minimum": 0});
    let counts = json!({"type": "object", "additionalProperties": count});
    let event = |phase: &str, more: &[(&str, &Value)]| {
        let mut keys = vec![("pid", &count), ("name", &text)];
        keys.extend(more);
        let mut properties: Map<String, Value> =
            keys.iter().map(|(key, schema)| ((*key).to_owned(), (*schema).clone())).collect();
        properties.insert("ph".to_owned(), json!({"const": phase}));
        let required: Vec<String> = properties.keys().filter(|key| *key != "tid").cloned().collect();
        json!({"properties": properties, "required": required, "additionalProperties": false})
    };
    let any = json!({"type": "object", "minProperties": 1});
    let (bound, value) = (json!({"const": "e"}), json!({"type": "object", "required": ["value"]}));
    let named = json!({"properties": {"name": text}, "required": ["name"], "additionalProperties": false});
    let value = json!({"allOf": [counts, value]});
    let flow = [("tid", &count), ("ts", &time), ("id", &count), ("cat", &text)];
    let metadata = event("M", &[("tid", &count), ("args", &named)]);
    let span = event("X", &[("tid", &count), ("ts", &time), ("dur", &time), ("args", &any)]);
    let counter = event("C", &[("ts", &time), ("args", &value)]);
    let (begins, ends) = (event("s", &flow), event("f", &[&flow[..], &[("bp", &bound)]].concat()));
    json!({
        "type": "object",
        "properties": {
            "displayTimeUnit": {"const": "ms"},
            "traceEvents": {"items": {"type": "object", "oneOf": [metadata, span, counter, begins, ends]}},
        },
        "required": ["traceEvents"],
        "additionalProperties": false,
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn of_phase<'a>(events: &'a [Value], phase: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["ph"] == phase)
}

/// Whether an event is on a track of a worker.
fn is_of_worker(event: &Value) -> bool {
    event["pid"].as_u64().unwrap() < 10
}

/// What a report says in bytes, but for the wall time.
fn report_text(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let run = ["replay", "--quiet", "--format", "json"];
    let text = sandbox.run(&[&run, arguments].concat()).success();
    let wall_time = text.lines().find(|line| line.contains("wall_time_ms")).unwrap().to_owned();
    text.replace(&wall_time, "")
}

/// A run with its timeline, its rows and its report.
fn check(deployment: &[&str]) {
    let sandbox = Sandbox::new();
    let files = ["--timeline", "t.json.gz", "--requests-jsonl", "q.jsonl"];
    let report = sandbox.report(&[&LOAD, deployment, &files].concat());
    let events = events(&sandbox, "t.json.gz");
    // Slices of a worker do not overlap, and add up to what the report says.
    let mut tracks: BTreeMap<(u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
    for event in of_phase(&events, "X").filter(|event| is_of_worker(event)) {
        let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        tracks.entry(track).or_default().push((number(&event["ts"]), number(&event["dur"])));
    }
    for slices in tracks.values() {
        assert!(slices.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0 + 1e-3));
    }
    let busy_us: f64 = tracks.values().flatten().map(|(_, length)| length).sum();
    let pools = report["pools"].as_array().unwrap();
    let expected: f64 =
        pools.iter().map(|pool| number(&pool["utilization"]) * number(&pool["workers"])).sum();
    let expected_us = expected * number(&report["duration_ms"]) * 1000.0;
    assert!((busy_us / expected_us - 1.0).abs() < 1e-9, "{busy_us} {expected_us}");
    let of_workers = || of_phase(&events, "X").filter(|event| is_of_worker(event));
    let sum = |key: &str| of_workers().map(|event| number(&event["args"][key])).sum::<f64>();
    let total = |key: &str| pools.iter().map(|pool| number(&pool[key])).sum::<f64>();
    assert_eq!((sum("iterations"), sum("tokens")), (total("iterations"), total("computed_tokens")));

    // The span of a request begins when it arrives and ends with its last token; its phases fill it.
    let rows: Vec<Value> =
        sandbox.read("q.jsonl").lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let mut free_from: BTreeMap<u64, f64> = BTreeMap::new();
    let spans: Vec<&Value> = of_phase(&events, "X").filter(|event| !is_of_worker(event)).collect();
    let mut spans = spans.into_iter().peekable();
    for row in &rows {
        let span = spans.next().unwrap();
        assert_eq!(span["name"], format!("request {}", row["request"]));
        let (start, end) = (number(&span["ts"]), number(&span["ts"]) + number(&span["dur"]));
        assert!((start - number(&row["arrival_ms"]) * 1000.0).abs() < 1e-3);
        assert!((end - number(&row["last_token_ms"]) * 1000.0).abs() < 1e-3);
        let free = free_from.entry(span["tid"].as_u64().unwrap()).or_default();
        assert!(start > *free - 1e-3, "two requests at once on a track");
        *free = end;
        let mut at = start;
        while let Some(phase) = spans.next_if(|next| !next["name"].as_str().unwrap().starts_with("request")) {
            assert!((number(&phase["ts"]) - at).abs() < 1e-3 && phase["tid"] == span["tid"]);
            at += number(&phase["dur"]);
        }
        assert!((at - end).abs() < 1e-2);
    }
    assert!(spans.next().is_none());
    let handed_off = if pools.len() > 1 { rows.len() } else { 0 };
    assert_eq!(of_phase(&events, "s").count(), handed_off);
    assert_eq!(of_phase(&events, "f").count(), handed_off);
    assert!(of_phase(&events, "C").next().is_some());
}

#[test]
fn a_timeline_accounts_for_every_iteration_and_request() {
    check(&["--workers", "2"]);
    check(&["--workers", "2", "--plain"]);
    let transfer = ["--kv-bytes-per-token", "100000", "--kv-transfer-bandwidth", "10"];
    check(&[&["--prefill-workers", "2", "--decode-workers", "2"], &transfer[..]].concat());
    check(&["--engine", "sglang"]);
    check(&["--async-scheduling"]);
}

#[test]
fn the_schema_refuses_what_is_no_event() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let of = |event: Value| validator.is_valid(&json!({"traceEvents": [event]}));
    let span =
        json!({"ph": "X", "name": "decode", "pid": 0, "tid": 1, "ts": 0.5, "dur": 1, "args": {"tokens": 3}});
    assert!(of(span.clone()));
    for (key, value) in [("ph", json!("Y")), ("ts", json!(-1)), ("pid", json!("0")), ("surplus", json!(1))] {
        let mut wrong = span.clone();
        wrong[key] = value;
        assert!(!of(wrong), "{key}");
    }
    let mut wrong = span;
    wrong.as_object_mut().unwrap().remove("dur");
    assert!(!of(wrong));
}

#[test]
fn a_window_bounds_it_and_nothing_of_the_report_changes() {
    let sandbox = Sandbox::new();
    let report = |files: &[&str]| report_text(&sandbox, &[&LOAD, files].concat());
    let window = ["--timeline", "w.json.gz", "--timeline-window", "0.1..0.15"];
    assert_eq!(report(&["--timeline", "t.json.gz"]), report(&[]));
    assert_eq!(report(&window), report(&[]));
    let (all, some) = (events(&sandbox, "t.json.gz"), events(&sandbox, "w.json.gz"));
    assert!(some.len() < all.len());
    for slice in of_phase(&some, "X").filter(|event| is_of_worker(event)) {
        let (start, length) = (number(&slice["ts"]), number(&slice["dur"]));
        assert!(start <= 150_000.0 && start + length >= 100_000.0, "{slice}");
    }
    sandbox.run(&["replay", "--timeline-sample", "2"]).is_refused(&["--timeline FILE writes one"]);
    sandbox
        .run(&["replay", "--timeline", "x.json", "--timeline-sample", "0"])
        .is_refused(&["`timeline_sample` is 0, but must be at least 1"]);
    let run = |window: &str| sandbox.run(&["replay", "--timeline", "x.json", "--timeline-window", window]);
    run("5").is_refused(&["`timeline_window` is \"5\", but must be FROM..TO in seconds"]);
    sandbox.run(&["replay", "--timeline-window", "1..2"]).is_refused(&["--timeline FILE writes one"]);
}

#[test]
fn a_sample_is_smaller_and_its_sums_are_the_same() {
    let sandbox = Sandbox::new();
    let run = |files: &[&str]| report_text(&sandbox, &[&LOAD, files].concat());
    run(&["--timeline", "all.json.gz"]);
    run(&["--timeline", "some.json.gz", "--timeline-sample", "4"]);
    let (all, some) = (events(&sandbox, "all.json.gz"), events(&sandbox, "some.json.gz"));
    let slices = |events: &[Value]| {
        of_phase(events, "X").filter(|event| is_of_worker(event)).cloned().collect::<Vec<_>>()
    };
    let (all_slices, some_slices) = (slices(&all), slices(&some));
    assert!(some_slices.len() * 2 < all_slices.len(), "{} {}", some_slices.len(), all_slices.len());
    let sum = |slices: &[Value], key: &str| {
        slices.iter().filter_map(|slice| slice["args"][key].as_u64()).sum::<u64>()
    };
    for key in ["iterations", "tokens", "prompts", "admitted"] {
        assert_eq!(sum(&some_slices, key), sum(&all_slices, key), "{key}");
    }
    let busy = |slices: &[Value]| slices.iter().map(|slice| number(&slice["dur"])).sum::<f64>();
    assert!((busy(&some_slices) / busy(&all_slices) - 1.0).abs() < 1e-9);
    let requests = |events: &[Value]| {
        of_phase(events, "X").filter(|event| event["name"].as_str().unwrap().starts_with("request ")).count()
    };
    assert_eq!((requests(&all), requests(&some)), (60, 15));
}

#[test]
fn no_file_changes_a_byte_of_the_report() {
    let sandbox = Sandbox::new();
    let alone = report_text(&sandbox, &LOAD);
    for files in [
        &["--timeline", "t.json.gz"][..],
        &["--report-html", "r.html"],
        &["--output-dir", "out"],
        &["--export", "aiperf=a.json", "--export", "csv=r.csv"],
        &["--requests-jsonl", "q.jsonl", "--iterations-jsonl", "i.jsonl"],
    ] {
        assert_eq!(report_text(&sandbox, &[&LOAD, files].concat()), alone, "{files:?}");
    }
}
