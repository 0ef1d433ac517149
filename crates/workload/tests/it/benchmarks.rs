//! What results of benchmarks become, with their requests worked out by hand.

use servecast_workload::Load;

use crate::formats::{LENGTHS_ONLY, check, check_in, read, refused, workload};

#[test]
fn results_of_vllm_bench_serve_are_sent_again_when_they_were_sent() {
    let result = r#"{"backend": "vllm", "max_concurrency": 8, "input_lens": [100, 3, 70], "output_lens": [11, 0, 5],
        "ttfts": [0.25, 0.0, 0.1], "itls": [[0.5, 0.5], [], [0.2]], "start_times": [50.5, 50.6, 52.0],
        "errors": ["", "gone", ""]}"#;
    check(
        result,
        "-: @0 100>11\n-: @1500 70>5\n",
        &[
            "the client had 8 requests under way at most: --replay-concurrency 8 sends them so again",
            LENGTHS_ONLY,
            "1 row has 0 tokens of prompt or output, as requests that failed have: they are left out (line 2)",
        ],
    );
    refused(
        &result.replace("[11, 0, 5]", "[11, 0]"),
        "line 1: `output_lens` is a list of 2 entries, but must be one of 3, as many as `input_lens` has",
    );
    refused(
        &result.replace("70]", "7.5]"),
        "line 1: `input_lens[2]` is the number 7.5, but must be a whole number of tokens from 1 to",
    );
    refused(
        &result.replace("52.0", "\"noon\""),
        "line 1: `start_times[2]` is the string \"noon\", but must be a number of seconds",
    );
    refused(
        &result.replace("[0.2]", "[0.2, -1]"),
        "line 1: `itls[2]` is the list [0.2, -1], but must be a list, each of it a number of seconds from 0",
    );
    refused(
        &result.replace("output_lens", "out"),
        "`output_lens` is missing or null: give a list with a number",
    );
    refused(&result[..80], "line 1: the file ends within the object that begins at line 1: it is cut off");
}

#[test]
fn results_of_sglang_bench_serving_are_a_closed_loop() {
    let result = r#"{"backend": "sglang", "request_rate": 4.0, "max_concurrency": 2, "input_lens": [100, 70],
        "output_lens": [11, 5], "ttfts": [0.25, 0.1], "itls": [[0.5], [0.2]], "errors": ["", ""]}"#;
    check_in(Load::Closed, result, "-: @0 100>11\n-: @0 70>5\n", &[LENGTHS_ONLY]);
    let error = workload(&read(result).unwrap(), Load::Open { arrival_speedup_ratio: 1.0 }).unwrap_err();
    assert!(error.to_string().starts_with("line 1: `timestamp` is missing"), "{error}");
    refused(r#"{"backend": "sglang", "input_lens": [1]}"#, "`output_lens` is missing or null");
    let with = |more: &str| {
        format!(r#"{{"backend": "sglang", "input_lens": [9, 9], "output_lens": [3, 3], {more}}}"#)
    };
    for (more, problem) in [
        (
            r#""max_concurrency": -1"#,
            "`max_concurrency` is the number -1, but must be a whole number of requests",
        ),
        (
            r#""max_concurrency": "x""#,
            "`max_concurrency` is the string \"x\", but must be a whole number of requests",
        ),
        (r#""errors": ["", true]"#, "`errors[1]` is true, but must be a string, empty if there was none"),
        (
            r#""ttfts": [0.5, 0.5], "latencies": [0.5, 0]"#,
            "`latencies[1]` is the number 0, but must be at least the time to its first token, 0.5 s",
        ),
    ] {
        refused(&with(more), problem);
    }
}

#[test]
fn records_of_aiperf_are_sessions_with_the_gaps_that_were_measured() {
    let record = |session: &str, start_ms: u64, latency_ms: u64, tokens: (u64, u64)| {
        format!(
            "{{\"metadata\": {{\"x_correlation_id\": \"{session}\", \"benchmark_phase\": \"profiling\", \
             \"request_start_ns\": {}}}, \"metrics\": {{\"request_latency\": {{\"value\": {latency_ms}, \"unit\": \
             \"ms\"}}, \"input_sequence_length\": {{\"value\": {}, \"unit\": \"tokens\"}}, \
             \"output_sequence_length\": {{\"value\": {}, \"unit\": \"tokens\"}}}}}}\n",
            1_767_225_600_000_000_000 + start_ms * 1_000_000,
            tokens.0,
            tokens.1
        )
    };
    // They are written as requests end: the first turn of `a` before its second, `b` before both.
    let warmup = record("w", 0, 10, (9, 9)).replace("profiling", "warmup");
    let cancelled = record("c", 0, 10, (9, 9)).replace("{\"x_", "{\"was_cancelled\": true, \"x_");
    let text = [
        warmup,
        record("b", 1500, 100, (70, 5)),
        record("a", 1000, 800, (100, 11)),
        cancelled,
        record("a", 2048, 500, (211, 7)),
    ];
    check(
        &text.concat(),
        "a: @0 100>11 +248 211>7\nb: @500 70>5\n",
        &[
            "3 rows have lengths only: no prompt shares anything with another, so that caches hit nothing",
            "1 row has requests of a warm-up: they are left out (line 1)",
            "1 row has 0 tokens of prompt or output, as requests that failed have: they are left out (line 4)",
        ],
    );
    let one = record("a", 0, 10, (9, 9));
    refused(
        &one.replace("\"ms\"", "\"min\""),
        "line 1: `metrics.request_latency.unit` is the string \"min\", but must be sec, ms, us or ns",
    );
    refused(
        &format!("\n{}", one.replace("\"value\": 9", "\"value\": 9.5")),
        "line 2: `metrics.input_sequence_length.value` is the number 9.5, but must be a whole number of tokens",
    );
    for (value, problem) in [
        ("1e30", "must be a number of milliseconds from 0 to 1.8e13"),
        ("-1", "must be a number of milliseconds from 0 to 1.8e13"),
    ] {
        refused(&one.replace("\"value\": 10", &format!("\"value\": {value}")), problem);
    }
    let ttft = "\"metrics\": {\"time_to_first_token\": {\"value\": 20, \"unit\": \"ms\"}, ";
    refused(&one.replace("\"metrics\": {", ttft), "but must be at least the time to its first token, 0.02 s");
    refused(
        &one.replace("{\"x_", "{\"was_cancelled\": \"x\", \"x_"),
        "`metadata.was_cancelled` is the string \"x\", but must be true or false",
    );
    refused(
        &one.replace("{\"value\": 10, \"unit\": \"ms\"}", "10"),
        "`metrics.request_latency` is the number 10, but must be an object with the `value` of a time and its `unit`",
    );
    refused(
        &one.replace("request_start_ns", "start"),
        "line 1: `metadata.request_start_ns` is missing or null",
    );
    refused(
        &one.replace("input_sequence_length", "isl"),
        "`metrics.input_sequence_length` is missing or null",
    );
}

#[test]
fn reports_of_guidellm_are_sent_again_when_they_were_sent() {
    let report = r#"{
  "metadata": {"version": 2, "guidellm_version": "0.8.1"},
  "benchmarks": [
    {"requests": {"successful": [
        {"request_start_time": 1767225600.5, "request_latency": 1.5, "prompt_tokens": 100, "output_tokens": 11},
        {"request_start_time": 1767225601.75, "request_latency": 0.5, "prompt_tokens": 70, "output_tokens": 5}
    ], "incomplete": [{"request_id": "x"}], "errored": []}}
  ]
}"#;
    check(
        report,
        "-: @0 100>11\n-: @1250 70>5\n",
        &[
            LENGTHS_ONLY,
            "1 row has 0 tokens of prompt or output, as requests that failed have: they are left out (line 3)",
        ],
    );
    refused(
        &report.replace("70,", "-70,"),
        "`benchmarks[0].requests.successful[1].prompt_tokens` is the number -70, but must be a whole number of tokens",
    );
    refused(
        &report.replace("1767225601.75", "null"),
        "`benchmarks[0].requests.successful[1].request_start_time` is missing or null",
    );
    refused(&report[..report.len() - 1], "the file ends within the object that begins at line 1");
}
