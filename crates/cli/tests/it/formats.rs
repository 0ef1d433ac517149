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

/// Files that are no traces: name, content, and what they are.
const FILES: &[(&str, &str, &str)] = &[
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
        "vllm.json",
        r#"{"backend": "vllm", "input_lens": [10], "output_lens": [5], "ttfts": [0.1], "itls": [[0.01]],
            "start_times": [0.0]}"#,
        "a result of `vllm bench serve --save-detailed`",
    ),
    (
        "aiperf.jsonl",
        r#"{"metadata": {"request_start_ns": 1, "benchmark_phase": "profiling"}, "metrics": {}}"#,
        "records of AIPerf (profile_export.jsonl)",
    ),
    (
        "dynamo.jsonl",
        r#"{"schema": "dynamo.request.trace.v1", "event": {"request": {"request_id": "r1", "input_tokens": 1024}}}"#,
        "a request trace of Dynamo (dynamo.request.trace.v1)",
    ),
    (
        "spans.jsonl",
        r#"{"traceId": "aa", "spanId": "bb", "name": "chat", "startTimeUnixNano": 1767225600250000000}"#,
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
    sandbox.write("weka.jsonl.gz", packed.finish().unwrap());
    sandbox.run(&["replay", "weka.jsonl.gz"]).is_refused(&["holds WEKA agentic traces"]);
    sandbox.write("a.parquet", b"PAR1\x15\x04");
    sandbox.run(&["replay", "a.parquet"]).is_refused(&["a Parquet file"]);
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
    for (file, content, name) in FILES.iter().chain(TABLES) {
        sandbox.write(file, content);
        sandbox
            .run(&["compare", "r.json", file])
            .is_refused(&[&format!("`{file}` holds {name}, no report of a run")]);
    }
}

#[test]
fn what_has_no_times_is_called_what_it_is() {
    let sandbox = Sandbox::new();
    for (file, content, name) in
        [TABLES[0], TABLES[1], FILES[0], ("t.jsonl", TRACE, "a trace in Mooncake JSON Lines")]
    {
        sandbox.write(file, content);
        let words = format!("{file}: the file holds {name}, which has no times of single requests");
        sandbox.run(&["calibrate", file]).is_refused(&[&words, "`servecast calibrate --help`"]);
    }
}

#[test]
fn tables_of_times_and_lengths_are_replayed() {
    let sandbox = Sandbox::new();
    for (file, content, _) in TABLES {
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
        .is_refused(&["`columns` must be time=COLUMN,input=COLUMN,output=COLUMN, but `input` is missing"]);
    sandbox
        .run(&["replay", "--columns", columns])
        .is_refused(&["`columns` says how a trace is read, but there is none"]);
}
