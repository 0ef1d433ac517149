//! `servecast trace`.

use serde_json::Value;

use crate::sandbox::{Sandbox, TRACE};

#[test]
fn stats_describe_a_trace() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run(&["trace", "stats", "t.jsonl"]).success(), @r"
    Requests        4
    Sessions        4 of 1.00 turns on average, 1 at most
    Span            400.5 ms
    Rate            9.988 requests/sec
    Ideal reuse     49.52% of tokens, 40.00% of blocks (4 of 10)
                    with blocks of 512 tokens (3 distinct full ones) and a cache that forgets none

                      mean  min   p50   p90   p95   p99   max  total
    Input tokens    1034.0  300  1150  1435  1486  1526  1536   4136
    Output tokens      9.0    1     8    17    18    20    20     36

    Arrivals every 20 ms
        0 ms  1  █████████████████████████
       20 ms  0
       40 ms  0
       60 ms  0
       80 ms  0
      100 ms  1  █████████████████████████
      120 ms  0
      140 ms  0
      160 ms  0
      180 ms  0
      200 ms  0
      220 ms  0
      240 ms  0
      260 ms  0
      280 ms  0
      300 ms  0
      320 ms  0
      340 ms  0
      360 ms  0
      380 ms  0
      400 ms  2  ██████████████████████████████████████████████████
    ");
}

#[test]
fn stats_are_there_for_programs() {
    let sandbox = Sandbox::new();
    let stats = sandbox.run(&["trace", "stats", "t.jsonl", "--format", "json", "--trace-block-size", "1024"]);
    let stats: Value = serde_json::from_str(&stats.success()).unwrap();
    assert_eq!((stats["requests"].clone(), stats["block_size"].clone()), (4.into(), 1024.into()));
}

#[test]
fn stats_do_without_timestamps() {
    let sandbox = Sandbox::new();
    sandbox.write("t.jsonl", TRACE.replace("\"timestamp\": 0, ", ""));
    let outcome = sandbox.run(&["trace", "stats", "t.jsonl"]);
    assert!(outcome.stderr.contains("without a timestamp"), "{outcome:?}");
    assert!(outcome.success().contains("all at once"));
}

#[test]
fn what_is_generated_can_be_replayed() {
    let sandbox = Sandbox::new();
    let spec = [
        "--input-tokens",
        "700",
        "--output-tokens",
        "9",
        "--request-count",
        "30",
        "--turns-per-session",
        "2",
    ];
    let direct = sandbox.report(&[&spec[..], &["--trace-block-size", "100"]].concat());
    for name in ["g.jsonl", "g.jsonl.gz", "g.jsonl.zst"] {
        let arguments =
            [&["trace", "generate", "--trace-block-size", "100", "--output", name], &spec[..]].concat();
        let outcome = sandbox.run(&arguments);
        let hint = format!("wrote 60 requests; try `servecast replay {name} --trace-block-size 100`\n");
        assert_eq!(outcome.stderr, hint);
        assert_eq!(outcome.success(), "");
        let replayed = sandbox.report(&[name, "--trace-block-size", "100"]);
        assert_eq!(replayed["duration_ms"], direct["duration_ms"], "{name}");
    }
    assert!(sandbox.read("g.jsonl").starts_with("{\"session_id\":\"session_0\",\"timestamp\":0,"));
    let printed =
        sandbox.run(&[&["trace", "generate", "--trace-block-size", "100"], &spec[..]].concat()).success();
    assert_eq!(printed, sandbox.read("g.jsonl"));
}

#[test]
fn the_sample_can_be_written() {
    let sandbox = Sandbox::new();
    sandbox.run(&["trace", "generate", "--sample", "-o", "s.jsonl"]).success();
    let replayed = sandbox.report(&["s.jsonl", "--trace-block-size", "64"]);
    assert_eq!(replayed["duration_ms"], sandbox.report(&["--latency", "polynomial"])["duration_ms"]);
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let sandbox = Sandbox::new();
    let refused = |arguments: &[&str], words: &[&str]| {
        sandbox.run(&[&["trace", "generate"], arguments].concat()).is_refused(words);
    };
    refused(&[], &["nothing says what to generate", "--sample"]);
    refused(&["--input-tokens", "5"], &["--output-tokens, --request-count are missing"]);
    refused(&["--sample", "--input-tokens", "5"], &["--input-tokens has no effect on the sample"]);
    let spec = ["--input-tokens", "5", "--output-tokens", "5", "--request-count", "0"];
    refused(&spec, &["`request_count` is 0, but must be from 1 to 10000000 (from --request-count)"]);
    refused(&["--sample", "-o", "."], &["cannot write `.`: it is a directory"]);
    refused(&["--sample", "-o", "no/where"], &["the folder `no` does not exist", "mkdir -p no"]);
}

#[test]
fn more_of_a_trace_is_made_without_its_content() {
    let sandbox = Sandbox::new();
    sandbox.run(&["trace", "generate", "--sample", "-o", "s.jsonl"]).success();
    let like = ["trace", "generate", "--like", "s.jsonl", "--trace-block-size", "64"];
    let requests = sandbox.read("s.jsonl").lines().count();
    sandbox.run(&[&like[..], &["-o", "like.jsonl"]].concat()).success();
    assert_eq!(sandbox.read("like.jsonl").lines().count(), requests);
    sandbox
        .run(&[&like[..], &["--request-count", "500", "--seed", "2", "-o", "more.jsonl"]].concat())
        .success();
    assert_eq!(sandbox.read("more.jsonl").lines().count(), 500);
    let report = sandbox.report(&["more.jsonl", "--trace-block-size", "64"]);
    assert_eq!(report["completed_requests"], 500);
    sandbox.write("lengths.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n1.5,9,9\n");
    let printed = sandbox.run(&["trace", "generate", "--like", "lengths.csv"]).success();
    assert_eq!(printed.lines().count(), 2);
    let refused = |arguments: &[&str], words: &[&str]| {
        sandbox.run(&[&["trace", "generate"], arguments].concat()).is_refused(words);
    };
    let like = ["--like", "s.jsonl"];
    refused(&["--like", "none.jsonl"], &["cannot read `none.jsonl`"]);
    refused(&[&like[..], &["--sample"]].concat(), &["--sample cannot be combined with --like"]);
    refused(
        &[&like[..], &["--input-tokens", "5"]].concat(),
        &["--input-tokens cannot be combined with --like"],
    );
    refused(&[&like[..], &["--request-count", "0"]].concat(), &["`request_count` is 0"]);
    refused(&["--sample", "--turns", "delta"], &["--turns says how a trace is read", "--like TRACE"]);
}

#[test]
fn the_parameters_of_a_trace_make_a_load() {
    let sandbox = Sandbox::new();
    let spec = ["--input-tokens", "1000", "--output-tokens", "50", "--request-count", "200"];
    sandbox
        .run(&[&["trace", "generate", "-o", "t.jsonl", "--arrival-interval-ms", "10"], &spec[..]].concat())
        .success();
    let printed = sandbox.run(&["trace", "fit", "t.jsonl"]).success();
    for words in
        ["200 in 200 sessions", "100.0000 sessions/sec, at equal distances", "mean 1000, spread 0.00"]
    {
        assert!(printed.contains(words), "{printed}");
    }
    let (_, command) = printed.split_once("servecast ").unwrap();
    let arguments: Vec<&str> = command.split_whitespace().filter(|word| *word != "\\").collect();
    let found = sandbox.report(&arguments[1..]);
    let of_trace = sandbox.report(&["t.jsonl"]);
    for key in ["num_requests", "mean_ttft_ms", "p99_e2e_latency_ms"] {
        assert_eq!(found[key], of_trace[key], "{key}");
    }
    let json = sandbox.run(&["trace", "fit", "t.jsonl", "--format", "json"]).success();
    let fit: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(fit["synthetic"]["request_count"], 200);
    sandbox.run(&["trace", "fit", "none"]).is_refused(&["cannot read `none`"]);
}

#[test]
fn stats_refuse_what_replays_refuse() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.jsonl", "hello");
    let refused = |arguments: &[&str], words: &[&str]| {
        sandbox.run(&[&["trace", "stats"], arguments].concat()).is_refused(words);
    };
    refused(&["none"], &["cannot read `none`"]);
    refused(&["."], &["it is a directory"]);
    refused(&["bad.jsonl"], &["bad.jsonl: line 1"]);
    refused(&["t.jsonl", "--trace-block-size", "0"], &["`trace_block_size` is 0"]);
    refused(
        &["t.jsonl", "--trace-block-size", "8"],
        &["t.jsonl: line 1", "cover only 24", "--trace-block-size"],
    );
}
