//! `trace stats --stream` and `replay --stream`: a trace that is used as it is read.

use std::fmt::Write as _;

use serde_json::Value;

use crate::sandbox::Sandbox;

/// So many requests, 10 ms apart, a third of which have 500 tokens in common, now and then a bit late.
fn trace(requests: u32) -> String {
    let mut text = String::new();
    for number in 0..requests {
        let late = if number % 7 == 3 { 25 } else { 0 };
        let (family, output) = (number % 3, 1 + number * 37 % 50);
        let _ = writeln!(
            text,
            r#"{{"timestamp": {}, "input_length": 600, "output_length": {output}, "hash_ids": [{family}, {}]}}"#,
            10 * number + 1000 - late,
            number + 10
        );
    }
    text
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("s.jsonl", trace(3000));
    sandbox
}

/// What a trace looks like, read in both ways; with notes and errors alike.
#[test]
fn statistics_are_those_of_the_whole_trace() {
    let sandbox = sandbox();
    for format in ["json", "table"] {
        let stats = ["trace", "stats", "s.jsonl", "--format", format];
        let (whole, streamed) = (sandbox.run(&stats), sandbox.run(&[&stats[..], &["--stream"]].concat()));
        assert_eq!((whole.code, &whole.stdout, &whole.stderr), (Some(0), &streamed.stdout, &streamed.stderr));
    }
    sandbox.write("table.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n100.5,374,44\n203.5,9,9\n");
    let [whole, streamed] =
        [&["trace", "stats", "table.csv"][..], &["trace", "stats", "table.csv", "--stream"]]
            .map(|arguments| sandbox.run(arguments));
    assert_eq!((streamed.code, streamed.stdout), (Some(0), whole.stdout));
    let stats = ["trace", "stats", "s.jsonl", "--stream", "--sort-window", "0.01"];
    let late = sandbox.run(&stats);
    assert_eq!((late.code, late.stdout), (Some(0), sandbox.run(&stats[..3]).stdout));
    assert!(late.stderr.contains("note: all of the trace is read: line 4:"), "{}", late.stderr);
    let pipe = sandbox
        .run_with_input(&["trace", "stats", "-", "--stream", "--sort-window", "0"], trace(9).as_bytes());
    assert_eq!(pipe.code, Some(2));
    assert!(pipe.stderr.contains("leave --stream out"), "{}", pipe.stderr);
}

const DEPLOYMENT: [&str; 6] = ["--workers", "3", "--num-gpu-blocks", "400", "--sla-ttft-ms", "40"];

/// A report without what differs: the times of this machine, the hash, and percentiles, whose error it states.
fn exact(report: &str) -> Value {
    let mut report: Value = serde_json::from_str(report).unwrap();
    let rounded = |key: &str| {
        let of_latency = ["ttft_ms", "ttst_ms", "tpot_ms", "e2e_latency_ms", "queue_time_ms"];
        let is_exact = ["mean_", "min_", "max_"].iter().any(|start| key.starts_with(start));
        of_latency.iter().any(|latency| key.ends_with(latency)) && !is_exact
    };
    let keys = report.as_object_mut().unwrap();
    keys.retain(|key, _| {
        // What needs all requests at once is not in the report of a run that keeps none.
        !["wall_time_ms", "workload_hash", "workload_name", "diagnosis"].contains(&key.as_str())
            && !rounded(key)
    });
    report
}

/// From a file and from a pipe, with the rows of requests, iterations and routing.
#[test]
fn a_streamed_replay_is_that_of_the_whole_trace() {
    let sandbox = sandbox();
    let rows = ["requests.jsonl", "iterations.jsonl", "routing.jsonl"];
    let run = |trace: &str, more: &[&str], input: &str| {
        let outputs =
            ["--requests-jsonl", rows[0], "--iterations-jsonl", rows[1], "--routing-jsonl", rows[2]];
        let fixed = ["replay", trace, "--check", "--format", "json", "--router-mode", "kv_router"];
        let outcome =
            sandbox.run_with_input(&[&fixed[..], &DEPLOYMENT, &outputs, more].concat(), input.as_bytes());
        (outcome.success(), rows.map(|name| sandbox.read(name)))
    };
    let whole = run("s.jsonl", &[], "");
    let mut expected = exact(&whole.0);
    expected.as_object_mut().unwrap().insert("percentile_relative_error".to_owned(), (1.0 / 1024.0).into());
    for (trace, input) in [("s.jsonl", String::new()), ("-", trace(3000))] {
        let streamed = run(trace, &["--stream", "--report-json", "r.json"], &input);
        assert_eq!(exact(&streamed.0), expected);
        assert_eq!(exact(&sandbox.read("r.json")), expected);
        assert!(streamed.1 == whole.1, "rows are the same");
    }
    let few = |more: &[&str]| exact(&run("s.jsonl", &[more, &["--max-requests", "70"]].concat(), "").0);
    assert_eq!(few(&["--stream"])["total_input_tokens"], few(&[])["total_input_tokens"]);
    let compared = sandbox.run(&["compare", "r.json", "r.json", "--fail-if", "mean_ttft_ms > +1%"]);
    assert!(compared.stderr.contains("is not known"), "{compared:?}");
    assert!(compared.stderr.contains("nor has that of a streamed trace"), "{compared:?}");
    let table = sandbox.run(&["replay", "s.jsonl", "--stream"]).success();
    assert!(table.contains("Percentiles of latencies: within 0.10%, means exact (--stream)"), "{table}");
}

/// What is measured, and the rows that say so, are those of a replay that keeps its requests.
#[test]
fn ends_of_a_streamed_replay_are_left_out() {
    let sandbox = sandbox();
    for ends in [
        &["--warmup", "300"][..],
        &["--cooldown", "4s"],
        &["--warmup", "2.5s", "--cooldown", "200"],
        &["--warmup", "9999", "--cooldown", "10"],
    ] {
        let run = |more: &[&str]| {
            let fixed =
                ["replay", "s.jsonl", "--check", "--format", "json", "--requests-jsonl", "rows.jsonl"];
            let outcome = sandbox.run(&[&fixed[..], &DEPLOYMENT, ends, more].concat());
            (exact(&outcome.success()), sandbox.read("rows.jsonl"))
        };
        let (mut report, rows) = run(&[]);
        let (streamed, streamed_rows) = run(&["--stream"]);
        let keys = report.as_object_mut().unwrap();
        keys.insert("percentile_relative_error".to_owned(), (1.0 / 1024.0).into());
        // Percentiles of latencies of the whole run are counted by length, too.
        let without_whole = |mut report: Value| {
            let mut whole = report["measured"]["whole_run"].take();
            for latency in ["ttft_ms", "tpot_ms", "e2e_latency_ms"] {
                let of = whole[latency].as_object_mut().unwrap();
                of.retain(|key, _| key == "mean" || key == "max");
            }
            (report, whole)
        };
        assert_eq!(without_whole(streamed), without_whole(report), "{ends:?}");
        assert!(streamed_rows == rows, "{ends:?}");
    }
}

#[test]
fn what_needs_all_of_a_trace_or_run_is_refused() {
    let sandbox = sandbox();
    for (arguments, words) in [
        (
            &["--warmup", "auto"][..],
            &["`warmup` is `auto`, and looks for a steady state in all requests", "--stream"][..],
        ),
        (&["--repeat", "2"], &["`repeat` is made of all of the load"]),
        (&["--merge", "t.jsonl"], &["`merge` sends several traces"]),
        (&["--replay-concurrency", "4"], &["`replay_concurrency` does not follow"]),
        (&["--replay-mode", "online"], &["`replay_mode` goes by the clock of the machine"]),
        (&["--router-mode", "prefix_hash"], &["`router_mode` goes by names of content"]),
        (&["--output-dir", "out"], &["`output_dir` is made of all requests", "--requests-jsonl"]),
        (&["--report-html", "p.html"], &["`report_html` is made of all requests"]),
        (&["--timeline", "t.json"], &["`timeline` is made of all requests"]),
        (&["--export", "csv=a.csv"], &["`export` is made of all requests"]),
        (&["--vary", "num_workers=1,2"], &["--vary has several runs of one load"]),
        (&["--sort-window=-1"], &["--sort-window is -1, but must be a number of seconds from 0 on"]),
    ] {
        sandbox.run(&[&["replay", "s.jsonl", "--stream"], arguments].concat()).is_refused(words);
    }
    let search =
        sandbox.run(&["recommend", "s.jsonl", "--stream", "--slo", "p95 ttft <= 1s", "--max-gpus", "2"]);
    search.is_refused(&[
        "error: `stream` uses a trace as it is read, but `recommend` has many runs of one load",
    ]);
    sandbox.run(&["replay", "--stream"]).is_refused(&["but there is none", "name a TRACE"]);
    sandbox.run(&["replay", "s.jsonl", "--sort-window", "2"]).is_refused(&["--stream uses it as it is read"]);
    assert_eq!(sandbox.files(), ["s.jsonl", "t.jsonl"]);
}

/// What is wrong with a row turns out when it is read: then there are no results.
#[test]
fn a_row_that_cannot_be_used_ends_a_streamed_replay_without_results() {
    let sandbox = sandbox();
    let outputs = ["--stream", "--requests-jsonl", "rows.jsonl", "--report-json", "r.json"];
    let replay = |sort_window: &str, row: &str| {
        sandbox.write("bad.jsonl", trace(500) + row + "\n" + &trace(9));
        let arguments = [&["replay", "bad.jsonl", "--sort-window", sort_window], &outputs[..]].concat();
        let outcome = sandbox.run(&arguments);
        assert_eq!(sandbox.files(), ["bad.jsonl", "s.jsonl", "t.jsonl"]);
        outcome
    };
    replay("1", r#"{"timestamp": 6000}"#).is_refused(&["bad.jsonl: line 501: `output_length` is missing"]);
    let row = r#"{"timestamp": 5995, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}"#;
    replay("1", row).is_refused(&["bad.jsonl: line 502: the row comes 4.995 s before", "leave --stream out"]);
    replay("0.01", row).is_refused(&["bad.jsonl: line 4: the row comes 0.015 s before one above it"]);
    let session = row.replace("\"input", "\"session_id\": \"a\", \"input");
    replay("1", &session).is_refused(&["line 501: the row has a `session_id`", "leave --stream out"]);
}
