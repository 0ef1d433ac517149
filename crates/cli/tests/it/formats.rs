//! Files of other tools, and ours in the wrong place: called what they are, with what to do.

use std::io::Write;

use crate::sandbox::{Sandbox, TRACE};

/// Tables of requests, which can be replayed.
const TABLES: &[(&str, &str, &str)] = &[
    (
        "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n",
        "an Azure LLM inference trace (CSV)",
    ),
    (
        "burst.csv",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
         5,1,2.5,ChatGPT,472,18,490,Conversation log\n",
        "a BurstGPT trace (CSV)",
    ),
    ("vidur.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n", "a trace of Vidur (CSV)"),
];

/// What clients measured, which is a load to repeat: name, content, and what it is.
const MEASURED: &[(&str, &str, &str)] = &[
    (
        "vllm.json",
        r#"{"backend": "vllm", "input_lens": [10], "output_lens": [5], "ttfts": [0.1], "itls": [[0.01]],
            "start_times": [0.0]}"#,
        "a result of `vllm bench serve --save-detailed`",
    ),
    (
        "aiperf.jsonl",
        r#"{"metadata": {"request_start_ns": 1, "benchmark_phase": "profiling"}, "metrics": {
            "input_sequence_length": {"value": 10, "unit": "tokens"},
            "output_sequence_length": {"value": 5, "unit": "tokens"}}}"#,
        "records of AIPerf (profile_export.jsonl)",
    ),
    (
        "guidellm.json",
        r#"{"benchmarks": [{"requests": {"successful": [
            {"request_start_time": 1767225600.5, "prompt_tokens": 10, "output_tokens": 5}]}}]}"#,
        "a report of GuideLLM",
    ),
];

/// Traces of sessions without a time of their own: name, content, and what they are.
const CLOSED: &[(&str, &str, &str)] = &[
    (
        "sharegpt.json",
        r#"[{"id": "c1", "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]}]"#,
        "conversations in the form of ShareGPT",
    ),
    (
        "weka.jsonl",
        r#"{"id": "t1", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": [{"t": 0.0, "model": "m",
            "in": 640, "out": 20, "hash_runs": [[1, 10]], "api_time": 1.9, "think_time": 1.0, "type": "s"}]}"#,
        "WEKA agentic traces",
    ),
    (
        "sglang.jsonl",
        r#"{"backend": "sglang", "input_lens": [10], "output_lens": [5], "ttfts": [0.1], "itls": [[0.01]]}"#,
        "a result of a serving benchmark (vLLM's or SGLang's)",
    ),
    (
        "lengths.jsonl",
        r#"{"num_turns": 0, "input_prompt_length": 10, "assistant_response_length": [], "tool_call_output_length": [],
            "tool_call_latency": [], "final_assistant_response_length": 3}"#,
        "an agentic workload of turn lengths",
    ),
];

/// Other traces: name, content, and what they are.
const TRACES: &[(&str, &str, &str)] = &[
    (
        "dynamo.jsonl",
        r#"{"schema": "dynamo.request.trace.v1", "event": {"request": {"request_id": "r1", "input_tokens": 1024,
            "output_tokens": 64, "request_received_ms": 1767225600250}}}"#,
        "a request trace of Dynamo (dynamo.request.trace.v1)",
    ),
    (
        "spans.jsonl",
        r#"{"traceId": "aa", "spanId": "bb", "name": "chat", "startTimeUnixNano": 1767225600250000000,
            "endTimeUnixNano": 1767225600350000000,
            "attributes": {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 2}}"#,
        "an export of OpenTelemetry spans",
    ),
    (
        "agentic.jsonl",
        r#"{"session_id": "s0", "arrival_time_ns": 4059740, "sub_requests": [{"input_toks": 1472, "output_toks": 133}]}"#,
        "an agentic workload of LLMServingSim",
    ),
    (
        "text.jsonl",
        r#"{"session_id": "s1", "messages": [{"role": "user", "content": "Hello"}], "output_length": 50, "timestamp": 0}"#,
        "requests with text",
    ),
];

/// Files that are no traces: name, content, and what they are.
const FILES: &[(&str, &str, &str)] = &[
    ("timeline.json", r#"{"traceEvents": [{"ph": "X", "ts": 1, "pid": 0}]}"#, "a timeline of trace events"),
    (
        "summary.json",
        r#"{"total_input_tokens": 10, "request_throughput": 1.5}"#,
        "the summary of a serving benchmark",
    ),
    ("config.json", r#"{"model_type": "llama", "num_hidden_layers": 2}"#, "the config.json of a model"),
    ("blis.csv", "request_id,client_id,prefix_group,prefix_length\n0,a,g,5\n", "a trace of BLIS (CSV)"),
];

#[test]
fn what_is_no_trace_is_called_what_it_is() {
    let sandbox = Sandbox::new();
    for (file, content, name) in FILES {
        sandbox.write(file, content);
        let words = format!("error: {file}: the file holds {name}, which cannot be replayed\n\nhint: ");
        for command in [&["replay"][..], &["trace", "stats"]] {
            sandbox.run(&[command, &[file]].concat()).is_refused(&[&words]);
        }
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(FILES[1].1.as_bytes()).unwrap();
    sandbox.write("summary.json.gz", packed.finish().unwrap());
    sandbox.run(&["replay", "summary.json.gz"]).is_refused(&["holds the summary of a serving benchmark"]);
    sandbox.write("a.parquet", b"PAR1\x15\x04");
    sandbox.run(&["replay", "a.parquet"]).is_refused(&["a Parquet file", "the Python package reads it"]);
}

#[test]
fn own_results_in_the_place_of_a_trace_are_called_what_they_are() {
    let sandbox = Sandbox::new();
    let outputs =
        ["--report-json", "r.json", "--requests-jsonl", "rows.jsonl", "--iterations-jsonl", "i.jsonl"];
    sandbox.run(&[&["replay", "t.jsonl"], &outputs[..]].concat()).success();
    for (file, words) in [
        (
            "r.json",
            "holds a report of servecast, which cannot be replayed\n\nhint: name the trace that was replayed",
        ),
        ("rows.jsonl", "holds rows of requests (--requests-jsonl), which cannot be replayed"),
        ("i.jsonl", "holds rows of iterations (--iterations-jsonl), which cannot be replayed"),
    ] {
        sandbox.run(&["replay", file]).is_refused(&[words]);
    }
    let columns = "time=arrival_ms,input=input_length,output=output_length";
    let again = sandbox.report(&["rows.jsonl", "--columns", columns]);
    assert_eq!((&again["completed_requests"], &again["total_input_tokens"]), (&4.into(), &4136.into()));
}

#[test]
fn a_bad_row_of_a_trace_stays_the_problem() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.jsonl", TRACE.replacen("1200", "\"x\"", 1));
    sandbox
        .run(&["replay", "bad.jsonl"])
        .is_refused(&["bad.jsonl: line 1: `input_length` is the string \"x\""]);
}

#[test]
fn what_is_no_report_is_called_what_it_is() {
    let sandbox = Sandbox::new();
    sandbox.run(&["replay", "t.jsonl", "--report-json", "r.json"]).success();
    let vary = ["replay", "t.jsonl", "--vary", "workers=1,2", "--report-json", "several.json"];
    sandbox.run(&vary).success();
    for (file, words) in [
        (
            "t.jsonl",
            &[
                "`t.jsonl` holds a trace in Mooncake JSON Lines, no report of a run",
                "servecast replay t.jsonl --report-json FILE",
            ][..],
        ),
        ("several.json", &["a comparison of several runs (--vary), no report", "without --vary"]),
    ] {
        sandbox.run(&["compare", "r.json", file]).is_refused(words);
        sandbox.run(&["compare", file, "r.json"]).is_refused(words);
    }
    let (measured, others): (Vec<_>, Vec<_>) = FILES
        .iter()
        .chain(TABLES)
        .chain(MEASURED)
        .chain(TRACES)
        .chain(CLOSED)
        .partition(|one| MEASURED.contains(one) || one.0 == "sglang.jsonl");
    assert_eq!(measured.len(), 4);
    for (file, content, name) in others {
        sandbox.write(file, content);
        sandbox
            .run(&["compare", "r.json", file])
            .is_refused(&[&format!("`{file}` holds {name}, no report of a run")]);
    }
    // These are runs, too.
    for (file, content, name) in measured {
        sandbox.write(file, content);
        let table = sandbox.run(&["compare", "r.json", file]).success();
        assert!(table.contains(&format!("{file} was measured ({name}): ")), "{table}");
    }
}

#[test]
fn what_has_no_times_is_called_what_it_is() {
    let sandbox = Sandbox::new();
    for (file, content, name) in
        [TABLES[0], TABLES[1], CLOSED[0], ("t.jsonl", TRACE, "a trace in Mooncake JSON Lines")]
    {
        sandbox.write(file, content);
        let words = format!("{file}: the file holds {name}, which has no times of single requests");
        sandbox.run(&["calibrate", file]).is_refused(&[&words, "`servecast calibrate --help`"]);
    }
}

#[test]
fn tables_and_measurements_of_times_and_lengths_are_replayed() {
    let sandbox = Sandbox::new();
    for (file, content, _) in TABLES.iter().chain(MEASURED) {
        sandbox.write(file, content);
        let outcome = sandbox.run(&["replay", file, "--format", "json", "--check"]);
        assert!(outcome.stderr.contains("1 row has lengths only"), "{}", outcome.stderr);
        assert!(outcome.success().contains("\"completed_requests\": 1"), "{file}");
        sandbox.run(&["trace", "stats", file]).success();
    }
    sandbox.write("mine.csv", "when,prompt,answer\n0,100,5\n2,200,6\n");
    let columns = "time=when,input=prompt,output=answer";
    let told =
        sandbox.run(&["replay", "mine.csv", "--format", "json", "--time-unit", "s", "--columns", columns]);
    assert!(told.success().contains("\"total_input_tokens\": 300"));
    sandbox
        .write("c.toml", format!("trace_file = \"mine.csv\"\ntime_unit = \"s\"\ncolumns = \"{columns}\"\n"));
    sandbox.run(&["replay", "--config", "c.toml"]).success();
    sandbox.run(&["replay", "mine.csv"]).is_refused(&["mine.csv: line 1", "--columns time=NAME"]);
    sandbox.run(&["replay", "mine.csv", "--columns", "time=when,input=tokens,output=answer"]).is_refused(&[
        "mine.csv: line 1: there is no column `tokens`: the table has `when`, `prompt`, `answer`",
    ]);
    sandbox
        .run(&["replay", "mine.csv", "--columns", "time=when"])
        .is_refused(&["`columns` must be time=COLUMN,input=COLUMN,output=COLUMN", "but `input` is missing"]);
    sandbox
        .run(&["replay", "--columns", columns])
        .is_refused(&["`columns` says how a trace is read, but there is none"]);
}

#[test]
fn traces_of_other_tools_are_replayed_checked_and_converted() {
    let sandbox = Sandbox::new();
    let closed = CLOSED.iter().map(|trace| (trace, &["--replay-concurrency", "2"][..]));
    for ((file, content, name), load) in
        TRACES.iter().chain(MEASURED).map(|trace| (trace, &[][..])).chain(closed)
    {
        // The form is one of objects, so that those over several lines are read as well.
        sandbox.write(file, content);
        let replayed = sandbox.report(&[&[*file], load].concat());
        assert_eq!(replayed["completed_requests"], 1, "{file}");
        let checked = sandbox.run(&["trace", "check", file, "--format", "json"]).success();
        let checked: serde_json::Value = serde_json::from_str(&checked).unwrap();
        assert_eq!((&checked["form"], &checked["requests"]), (&(*name).into(), &1.into()), "{file}");
        assert_eq!(checked["span_ms"].is_null(), !load.is_empty(), "{file}");
        let converted = sandbox.run(&["trace", "convert", file, "--output", "c.jsonl"]);
        let size =
            converted.stderr.rsplit("--trace-block-size ").next().unwrap().trim_end().trim_end_matches('`');
        let size = if size.parse::<u32>().is_ok() { size } else { "512" };
        let again = sandbox.report(&[&["c.jsonl", "--trace-block-size", size], load].concat());
        for key in ["completed_requests", "total_input_tokens", "total_output_tokens", "duration_ms"] {
            assert_eq!(again[key], replayed[key], "{file}: {key}");
        }
        if !load.is_empty() {
            sandbox.run(&["replay", file]).is_refused(&["`timestamp` is missing", "--replay-concurrency N"]);
        }
    }
}

#[test]
fn a_check_says_what_is_odd_with_its_line() {
    let sandbox = Sandbox::new();
    let row = |time: f64, ids: &str| {
        format!(
            "{{\"timestamp\": {time}, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": {ids}, \"x\": 1}}\n"
        )
    };
    sandbox.write("t.jsonl", row(0.0, "[1, 2, 3]") + &row(0.2, "[1, 4, 4]") + &row(0.4, "[1, 5, 6, 7]"));
    insta::assert_snapshot!(sandbox.run(&["trace", "check", "t.jsonl"]).success(), @r"
    Form      a trace in Mooncake JSON Lines
    Requests  3 in 3 sessions
    Tokens    3300 of prompts, 15 of outputs
    Content   an id for each 512 tokens
    Times     0.4 ms, 7500.000 requests/sec

    - the times, read as milliseconds, make 5000 requests a second: --time-unit s, us or ns if they are in another unit
    - 3 rows have keys that are ignored: `x`
    - 1 row has more `hash_ids` than the prompt needs
    - 1 row has an id twice in one prompt (line 2)
    ");
    sandbox.write(
        "u.jsonl",
        row(0.0, "[1, 2, 3]").replace(", \"x\": 1", "") + &row(500.0, "[1, 5, 6]").replace(", \"x\": 1", ""),
    );
    insta::assert_snapshot!(sandbox.run(&["trace", "check", "u.jsonl"]).success(), @r"
    Form      a trace in Mooncake JSON Lines
    Requests  2 in 2 sessions
    Tokens    2200 of prompts, 10 of outputs
    Content   an id for each 512 tokens
    Times     500 ms, 4.000 requests/sec

    Nothing odd was found.
    ");
}

#[test]
fn what_real_clients_wrote_is_replayed() {
    let Some(folder) = testkit::outside(testkit::ORACLE) else { return };
    let sandbox = Sandbox::new();
    for (file, requests, tokens) in [
        ("vllm-bench-openai.json", 20, (1264, 320)),
        ("vllm-bench-openai-chat.json", 20, (1324, 320)),
        ("aiperf-profile_export.jsonl", 20, (1260, 347)),
    ] {
        let path = std::fs::canonicalize(folder.join("live/clients").join(file)).unwrap();
        let report = sandbox.report(&[path.to_str().unwrap()]);
        let figures = ["completed_requests", "total_input_tokens", "total_output_tokens"];
        let expected: [u64; 3] = [requests, tokens.0, tokens.1];
        assert_eq!(figures.map(|key| report[key].as_u64().unwrap()), expected, "{file}");
    }
}
