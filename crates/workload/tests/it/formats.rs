//! What the files of other tools become: for each a small one of our own, with its requests worked out by hand.

use std::fmt::Write as _;
use std::io::Read as _;

use serde_json::{Value, json};
use servecast_types::{Prompt, Time};
use servecast_workload::{Cut, Load, Trace, TraceError, TraceForm, TurnStart, Workload, read_trace};

pub(crate) fn read(text: &str) -> Result<Trace, TraceError> {
    read_trace(text.as_bytes(), &TraceForm::default())
}

fn workload(trace: &Trace, load: Load) -> Result<Workload, TraceError> {
    let block_size = trace.stated_block_size.or(trace.block_size).unwrap_or(512);
    trace.workload(Cut { turns: trace.turns.unwrap_or_default(), ..Cut::from(block_size) }, load)
}

/// One line for each session, with its turns as `start input>output`, in milliseconds and tokens.
fn dump(workload: &Workload) -> String {
    let mut text = String::new();
    for session in &workload.sessions {
        let _ = write!(text, "{}:", session.name.as_deref().unwrap_or("-"));
        for turn in &session.turns {
            let start = match turn.start {
                TurnStart::At(time) => format!("@{}", time.since(Time::ZERO).as_ms()),
                TurnStart::AfterPrevious(delay) => format!("+{}", delay.as_ms()),
                TurnStart::NotBefore(time) => format!(">{}", time.since(Time::ZERO).as_ms()),
            };
            let _ = write!(text, " {start} {}>{}", turn.prompt.tokens(), turn.output_tokens);
        }
        text.push('\n');
    }
    text
}

/// The requests of a file in an open loop, and the notes.
#[track_caller]
fn check(text: &str, requests: &str, notes: &[&str]) {
    check_in(Load::Open { arrival_speedup_ratio: 1.0 }, text, requests, notes);
}

#[track_caller]
fn check_in(load: Load, text: &str, requests: &str, notes: &[&str]) {
    let trace = read(text).unwrap_or_else(|error| panic!("{error}"));
    let workload = workload(&trace, load).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(dump(&workload), requests);
    assert_eq!(workload.notes.sentences(), notes);
}

#[track_caller]
fn refused(text: &str, problem: &str) {
    let error = match read(text).and_then(|trace| workload(&trace, Load::Closed)) {
        Ok(workload) => panic!("{}", dump(&workload)),
        Err(error) => error.to_string(),
    };
    assert!(error.contains(problem), "{error}");
}

const LENGTHS_ONLY: &str =
    "2 rows have lengths only: no prompt shares anything with another, so that caches hit nothing";

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
    refused(
        &result[..80],
        "line 1, column 1: not valid JSON: the file ends within the object that begins at line 1",
    );
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

/// The prompts of a trace, in a closed loop.
fn prompts(text: &str) -> Vec<Prompt> {
    let trace = read(text).unwrap_or_else(|error| panic!("{error}"));
    let workload = workload(&trace, Load::Closed).unwrap();
    workload.turns().map(|turn| turn.prompt.clone()).collect()
}

#[test]
fn sessions_of_weka_wait_for_their_answers_and_think() {
    let session = r#"{"id": "t1", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": [
        {"t": 0.0, "type": "s", "model": "m", "in": 650, "out": 20, "hash_ids": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "api_time": 1.9, "think_time": 0.0},
        {"t": 4.0, "type": "n", "model": "m", "in": 900, "out": 0, "hash_runs": [[0, 14]], "api_time": 1.0, "think_time": 2.1},
        {"t": 6.0, "type": "n", "model": "m", "in": 64, "out": 7, "hash_runs": [[100, 1]], "api_time": 1.0}]}"#;
    let text = format!("{session}\n{}\n", session.replace("t1", "t2"));
    check_in(
        Load::Closed,
        &text,
        "t1: @0 650>20 +2100 900>1 +0 64>7\nt2: @0 650>20 +2100 900>1 +0 64>7\n",
        &[
            "2 rows have no time between the turn before and this: it is sent as soon as that has ended (line 1 first)",
            "2 rows have 0 tokens, of which they get one (line 1 first)",
            "2 rows have nothing in common with the turn before it: --turns delta if rows hold only what is new in a turn \
             (line 1 first)",
        ],
    );
    let prompts = prompts(&text);
    // 10 full blocks and the 10 tokens behind them, which the next call names.
    assert_eq!(prompts[0].common_prefix(&prompts[1]), 650);
    assert_eq!(prompts[0].common_prefix(&prompts[3]), 0, "ids are local");
    let shared = text.replace("\"local\"", "\"global\"");
    assert_eq!(self::prompts(&shared)[0].common_prefix(&self::prompts(&shared)[3]), 650);
    refused(
        &text.replace("t2", "t1"),
        "line 5: `id` is the string \"t1\", but must be a name of its own: line 1 has it",
    );
    refused(
        &text.replacen("64, \"hash_id_scope\"", "32, \"hash_id_scope\"", 2).replacen("32,", "64,", 1),
        "line 5: `block_size` is the number 32, but must be 64, as in the lines before",
    );
    refused(
        &text.replace("\"in\": 900", "\"in\": \"many\""),
        "line 1: `requests[1].in` is the string \"many\", but must be a whole",
    );
    refused(
        &text.replace("[[0, 14]]", "[[0, -14]]"),
        "`requests[1].hash_runs[0]` is the list [0,-14], but must be the first id",
    );
    refused(
        &text.replace("\"think_time\": 2.1", "\"think_time\": -2.1"),
        "`requests[1].think_time` is the number -2.1, but must be a number of seconds from 0",
    );
    refused(
        &text.replace("\"local\"", "\"mine\""),
        "`hash_id_scope` is the string \"mine\", but must be `local` or `global`",
    );
    let error = read(session).unwrap().workload(512, Load::Closed).unwrap_err();
    assert!(
        error.to_string().contains("is 512, but the file says that its ids stand for 64 tokens"),
        "{error}"
    );
    let error = read(session).unwrap().workload(64, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap_err();
    assert!(
        error.to_string().starts_with("line 1: `timestamp` is missing on the first turn of session `t1`"),
        "{error}"
    );
}

#[test]
fn sub_agents_of_weka_run_side_by_side_where_they_did() {
    let agent = |t: f64| {
        format!(
            "{{\"t\": {t}, \"type\": \"subagent\", \"duration_ms\": 3000, \"requests\": [{{\"t\": 0.0, \"in\": 128, \
             \"out\": 5, \"hash_runs\": [[50, 2]], \"api_time\": 1.0, \"think_time\": 0.0}}, {{\"t\": 2.0, \"in\": 192, \
             \"out\": 6, \"hash_runs\": [[50, 3]], \"api_time\": 1.0, \"think_time\": 1.0}}]}}"
        )
    };
    // They began 0.5 and 0.75 s after the answer at 1.0, and ran side by side; a third one began 0.25 s after the first had
    // ended, and the parent went on 0.25 s after that.
    let text = format!(
        "{{\"id\": \"a\", \"models\": [], \"block_size\": 64, \"requests\": [{{\"t\": 0, \"in\": 64, \"out\": 3, \"hash_runs\": \
         [[0, 1]], \"api_time\": 1.0, \"think_time\": 0}}, {}, {}, {}, {{\"t\": 8.0, \"in\": 128, \"out\": 4, \"hash_runs\": [[0, \
         2]], \"api_time\": 1.0, \"think_time\": 4.0}}]}}",
        agent(4.5),
        agent(4.75),
        agent(7.6)
    );
    check_in(
        Load::Closed,
        &text,
        "a: @0 64>3 +500 128>5 +1000 192>6 +750 128>5 +1000 192>6 +100 128>5 +1000 192>6 +400 128>4\n",
        &[
            "6 rows have a call of a sub-agent, which waits for what had ended when that began, and runs beside what had not \
           (line 1 first)",
        ],
    );
    let trace = read(&text).unwrap();
    let session = &workload(&trace, Load::Closed).unwrap().sessions[0];
    let waits: Vec<Vec<u32>> = (0..8).map(|turn| session.waits_for(turn).to_vec()).collect();
    assert_eq!(waits, [vec![], vec![0], vec![1], vec![0], vec![3], vec![0, 2], vec![5], vec![0, 2, 4, 6]]);
}

/// Sub-agents from the start on, the one that stands last began first; and one that began when another had ended, behind a
/// call in between.
#[test]
fn sub_agents_of_weka_begin_when_they_did() {
    let call = |t: f64, input: u32| {
        format!(
            "{{\"t\": {t}, \"in\": {input}, \"out\": 1, \"hash_runs\": [[0, 1]], \"api_time\": 1.0, \"think_time\": 0}}"
        )
    };
    let agent = |ended: f64, lasted: f64, input: u32| {
        format!("{{\"t\": {ended}, \"duration_ms\": {}, \"requests\": [{}]}}", lasted * 1e3, call(0.0, input))
    };
    let session = |calls: &[String]| {
        format!("{{\"id\": \"a\", \"models\": [], \"block_size\": 64, \"requests\": [{}]}}", calls.join(", "))
    };
    let dumped = |calls: &[String]| {
        let trace = read(&session(calls)).unwrap_or_else(|error| panic!("{error}"));
        let workload = workload(&trace, Load::Closed).unwrap_or_else(|error| panic!("{error}"));
        let waits: Vec<Vec<u32>> =
            (0..calls.len()).map(|turn| workload.sessions[0].waits_for(turn).to_vec()).collect();
        (dump(&workload), waits)
    };
    let (turns, waits) = dumped(&[agent(5.0, 2.0, 10), agent(10.0, 10.0, 20), call(12.0, 30)]);
    assert_eq!(turns, "a: @0 20>1 +3000 10>1 +2000 30>1\n");
    assert_eq!(waits, [vec![], vec![], vec![0, 1]]);
    // The second agent began at 5.5, when the first had ended at 5 and the second call had not.
    let (turns, waits) =
        dumped(&[call(0.0, 10), agent(5.0, 3.0, 20), call(5.25, 30), agent(8.5, 3.0, 40), call(9.0, 50)]);
    assert_eq!(turns, "a: @0 10>1 +1000 20>1 +250 30>1 +500 40>1 +500 50>1\n");
    assert_eq!(waits, [vec![], vec![0], vec![0, 1], vec![0, 1], vec![2, 3]]);
    // The agent ended before the call before it was answered: what is waited is counted from the later of the two.
    let (turns, _) = dumped(&[call(0.0, 10), call(2.0, 20), agent(2.5, 1.0, 30), call(6.0, 40)]);
    assert_eq!(turns, "a: @0 10>1 +0 20>1 +500 30>1 +3000 40>1\n");
}

#[test]
fn request_traces_of_dynamo_are_requests_with_hashes() {
    let record = |ms: u64, input: u64, hashes: &str| {
        format!(
            "{{\"schema\": \"dynamo.request.trace.v1\", \"event\": {{\"request\": {{\"request_id\": \"r{ms}\", \"model\": \"m\", \
             \"input_tokens\": {input}, \"output_tokens\": 64, \"request_received_ms\": {}, \"replay\": \
             {{\"trace_block_size\": 64, \"input_length\": {input}, \"input_sequence_hashes\": {hashes}}}}}}}}}\n",
            1_767_225_600_000_u64 + ms
        )
    };
    let other = "{\"schema\": \"dynamo.request.trace.v1\", \"event\": {\"worker\": {}}}\n";
    let text = [
        record(250, 130, "[18446744073709551615, 12]"),
        record(750, 500, "[18446744073709551615]"),
        other.to_owned(),
    ];
    check(
        &text.concat(),
        "-: @0 130>64\n-: @500 500>64\n",
        &[
            "1 row has something else than a request: they are left out (line 3)",
            "1 row has a prompt longer than its ids cover: the rest of it is shared with no other (line 2)",
        ],
    );
    let prompts = prompts(&text.concat());
    assert_eq!(prompts[0].common_prefix(&prompts[1]), 64);
    refused(
        &text[0].replace("[1844", "[\"1844").replace("615,", "615\","),
        "line 1: `event.request.replay.input_sequence_hashes[0]` is the string",
    );
    refused(
        &text[0].replace("_received_ms", "_sent_ms"),
        "`event.request.request_received_ms` is missing or null",
    );
    refused(
        &text[0].replace("\"output_tokens\": 64", "\"output_tokens\": 6.4"),
        "`event.request.output_tokens` is the number 6.4",
    );
    refused(
        &[&text[0], &text[1], &text[0]].map(String::as_str).concat(),
        "line 3: `event.request.request_id` is the string \"r250\", but must be a name of its own: line 1 has it",
    );
}

#[test]
fn spans_under_one_parent_are_a_session() {
    let span = |parent: &str, start_ms: u64, end_ms: u64, tokens: (u64, u64)| {
        let stamp = |ms: u64| 1_767_225_600_000_000_000 + ms * 1_000_000;
        format!(
            "{{\"traceId\": \"t\", \"spanId\": \"s{start_ms}\", \"parentSpanId\": \"{parent}\", \"startTimeUnixNano\": {}, \
             \"endTimeUnixNano\": \"{}\", \"attributes\": {{\"gen_ai.usage.input_tokens\": {}, \
             \"gen_ai.usage.output_tokens\": {}}}}}",
            stamp(start_ms),
            stamp(end_ms),
            tokens.0,
            tokens.1
        )
    };
    let tool = r#"{"traceId": "t", "spanId": "x", "name": "tool", "attributes": {}}"#;
    let spans = [
        span("p", 0, 1000, (900, 120)),
        span("p", 1024, 2000, (1100, 20)),
        span("p", 1512, 3000, (50, 6)),
        span("", 512, 600, (40, 5)),
        tool.to_owned(),
    ];
    let requests = "t/p: @0 900>120 +24 1100>20 +0 50>6\n-: @512 40>5\n";
    let notes = |other: &str, late: &str| {
        vec![
            "4 rows have lengths only: no prompt shares anything with another, so that caches hit nothing"
                .to_owned(),
            format!("1 row has something else than a request: they are left out (line {other})"),
            format!(
                "1 row has begun before the turn before had ended: they wait for it, as turns of a session do (line {late})"
            ),
        ]
    };
    let as_strs = |notes: Vec<String>| notes.leak().iter().map(String::as_str).collect::<Vec<_>>();
    check(&spans.join("\n"), requests, &as_strs(notes("5", "3")));
    // The same in the form of OTLP, with typed values.
    let typed = |span: &String| {
        let mut span: Value = serde_json::from_str(span).unwrap();
        let attributes = span["attributes"].as_object().unwrap().clone();
        let typed =
            |(key, value): (String, Value)| json!({"key": key, "value": {"intValue": value.to_string()}});
        span["attributes"] = attributes.into_iter().map(typed).collect();
        span
    };
    let spans_typed: Vec<Value> = spans.iter().map(typed).collect();
    let export = json!({"resourceSpans": [{"scopeSpans": [{"spans": spans_typed}]}]});
    check(&export.to_string(), requests, &as_strs(notes("1", "1")));
    refused(
        &spans[0].replace("900", "\"x\""),
        "line 1: `attributes.gen_ai.usage.input_tokens` is the string \"x\", but must be a whole",
    );
    refused(
        &span("p", 5, 4, (1, 1)),
        "line 1: `endTimeUnixNano` is the string \"1767225600004000000\", but must be at or after",
    );
    let twice = [&spans[0], &spans[3], &spans[3]].map(String::as_str).join("\n");
    refused(&twice, "line 3: `spanId` is the string \"s512\", but must be a name of its own: line 2 has it");
    // Ids of spans count within their trace.
    let elsewhere = spans[3].replace("\"t\"", "\"u\"");
    assert_eq!(read(&[&spans[3], &elsewhere].map(String::as_str).join("\n")).unwrap().rows.len(), 2);
}

#[test]
fn conversations_of_sharegpt_are_sessions_with_what_was_said() {
    let says = |from: &str, text: &str| format!("{{\"from\": \"{from}\", \"value\": \"{text}\"}}");
    let question = "q".repeat(100);
    let talk =
        [says("human", &question), says("gpt", &"a".repeat(30)), says("human", "more"), says("gpt", "b")];
    let text = format!(
        "[\n{{\"id\": \"c1\", \"conversations\": [{}]}},\n{{\"id\": \"c2\", \"conversations\": [{}, {}, {}]}}\n]",
        talk.join(", "),
        says("gpt", "hello"),
        says("human", &format!("{question}!")),
        says("gpt", "c"),
    );
    // 25 tokens, 8 of the answer, 1 more; then 2 of a greeting and 26.
    check_in(
        Load::Closed,
        &text,
        "c1#1: @0 25>8 +0 34>1\nc2#2: @0 28>1\n",
        &["1 row has 0 tokens of prompt or output, as requests that failed have: they are left out (line 3)"],
    );
    let found = prompts(&text);
    assert_eq!(found[0].common_prefix(&found[1]), 25);
    assert_eq!(found[0].common_prefix(&found[2]), 0, "there is a greeting before it");
    let same = prompts(&text.replace(&format!("{}, ", says("gpt", "hello")), ""));
    assert_eq!(same[0].common_prefix(&same[2]), 16, "up to the piece in which they part");
    refused(
        &text.replace("\"value\": \"more\"", "\"value\": 5"),
        "line 2: `conversations[2].value` is the number 5, but must be a string",
    );
    refused(&text[..text.len() - 2], "line 3, column 1: not valid JSON: the file ends within the list");
}

#[test]
fn rows_with_text_share_what_they_begin_with() {
    let text = r#"{"timestamp": 0, "text_input": "What is a block?", "output_length": 50}
{"timestamp": 250, "session_id": 7, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "output_length": 9}
{"delay": 800, "session_id": 7, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there."}, {"role": "user", "content": "Bye"}], "max_tokens": 5}
{"timestamp": 500, "custom_id": "b", "body": {"prompt": "What is a block?!", "max_tokens": 6}}
"#;
    check(text, "-: @0 4>50\n7: @250 5>9 +800 9>5\n-: @500 5>6\n", &[]);
    let found = prompts(text);
    assert_eq!(found[1].common_prefix(&found[2]), 5);
    refused(
        &text.replacen("\"output_length\": 50", "\"n\": 50", 1),
        "line 1: `output_length` is missing or null: give the number of tokens to",
    );
    refused(
        &text.replacen("50}", "50, \"input_length\": 9}", 1),
        "line 1: `text_input` is the string \"What is a block?\", but must be left out beside `input_length`",
    );
    refused(
        &text.replacen("What is a block?\"", "\"", 1),
        "line 1: `text_input` is the string \"\", but must be text of at least one character",
    );
}

#[test]
fn sub_requests_follow_one_another_after_their_tools() {
    let text = r#"{"session_id": "s0", "arrival_time_ns": 1000000, "sub_requests": [{"input_toks": 1472, "output_toks": 133, "tool_duration_ns": 127000000}, {"input_toks": 1800, "output_toks": 20}]}
{"session_id": 5, "arrival_time_ns": 3000000, "sub_requests": [{"input_toks": 2, "output_toks": 1, "input_tok_ids": [7, 8], "output_tok_ids": [9]}, {"input_toks": 3, "output_toks": 1, "input_tok_ids": [7, 8, 9]}]}
"#;
    check(text, "s0: @0 1472>133 +127 1800>20\n5: @2 2>1 +0 3>1\n", &[LENGTHS_ONLY]);
    let found = prompts(text);
    assert_eq!(found[2].common_prefix(&found[3]), 2);
    refused(
        &text.replace(": 5,", ": \"s0\","),
        "line 2: `session_id` is the string \"s0\", but must be a name of its own: line 1 has it",
    );
    refused(
        &text.replace("[7, 8]", "[7]"),
        "line 2: `sub_requests[0].input_toks` is the number 2, but must be 1, the number of `input_tok_ids`",
    );
    refused(
        &text.replace("\"output_toks\": 133", "\"output_toks\": 0"),
        "line 1: `sub_requests[0].output_toks` is the number 0, but must be a whole",
    );
}

#[test]
fn turn_lengths_make_prompts_of_all_that_came_before() {
    let text = r#"{"num_turns": 2, "input_prompt_length": 1000, "assistant_response_length": [50, 60], "tool_call_output_length": [200, 100], "tool_call_latency": [1.5, 0.3], "final_assistant_response_length": 300}"#;
    check_in(
        Load::Closed,
        text,
        "line 1: @0 1000>50 +1500 1250>60 +300 1410>300\n",
        &["3 rows have lengths only: no prompt shares anything with another, so that caches hit nothing"],
    );
    let found = prompts(text);
    assert_eq!(found[1].common_prefix(&found[2]), 1250);
    refused(
        &text.replace("[50, 60]", "[50]"),
        "line 1: `assistant_response_length` is the list [50], but must be a list of 2, which is `num_turns`",
    );
    refused(
        &text.replace("0.3", "-1"),
        "line 1: `tool_call_latency[1]` is the number -1, but must be a number of seconds from 0",
    );
}

#[test]
fn rows_may_do_without_ids_and_write_whole_numbers_as_they_like() {
    let text = r#"{"timestamp": 0, "input_length": 1200.0, "output_length": 5.2e1, "session_id": 3}
{"timestamp": 10, "input_length": 512, "output_length": 1, "hash_ids": [0], "session_id": "3"}
{"timestamp": 20, "input_length": 512, "output_length": 1}
"#;
    check(text, "3: @0 1200>52 >10 512>1\n-: @20 512>1\n", &[LENGTHS_ONLY]);
    let found = prompts(text);
    assert_eq!(found[0].common_prefix(&found[1]), 0);
    assert_eq!(found[1].common_prefix(&found[2]), 0);
    refused(
        &text.replace("\"input_length\": 1200.0, ", ""),
        "line 1: `hash_ids` is missing or null: give a list with an id for every block of the prompt, or leave it",
    );
    refused(&text.replace("1200.0", "1200.5"), "line 1: `input_length` is the number 1200.5");
    let token_rows = "{\"arrival_time_ns\": 0, \"input_toks\": 9, \"output_toks\": 3}\n{\"arrival_time_ns\": 1000000, \"input_toks\": 8, \"output_toks\": 2}\n";
    check(token_rows, "-: @0 9>3\n-: @1 8>2\n", &[LENGTHS_ONLY]);
}

#[test]
fn the_sessions_of_weka_are_as_they_were_recorded() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let mut text = String::new();
    let file = crate::read(&folder.join("traces/weka_rle.jsonl.gz"));
    flate2::read::GzDecoder::new(file.as_slice()).read_to_string(&mut text).unwrap();
    let trace = read(&text).unwrap();
    let workload = workload(&trace, Load::Closed).unwrap();
    assert_eq!((workload.sessions.len(), workload.requests()), (710, 49_334));
    let notes = &workload.notes;
    let counts =
        [notes.sub_agents.rows, notes.made_one_token.rows, notes.without_gap.rows, notes.uncovered.rows];
    assert_eq!(counts, [676, 27, 116, 0]);
    // An independent count: the most whole blocks that a call has in common with one before it in its session.
    let (mut input, mut output, mut blocks, mut reused) = (0, 0, 0, 0);
    for line in text.lines() {
        let session: Value = serde_json::from_str(line).unwrap();
        let mut before: Vec<Vec<(u64, u64)>> = Vec::new();
        let top = session["requests"].as_array().unwrap().iter();
        for call in top.flat_map(|call| match call["requests"].as_array() {
            Some(calls) => calls.iter().collect(),
            None => vec![call],
        }) {
            input += call["in"].as_u64().unwrap();
            output += call["out"].as_u64().unwrap().max(1);
            blocks += call["in"].as_u64().unwrap().div_ceil(64);
            let number = |value: &Value| value.as_u64().unwrap();
            let runs =
                call["hash_runs"].as_array().unwrap().iter().map(|run| (number(&run[0]), number(&run[1])));
            let runs: Vec<_> = runs.collect();
            reused += before.iter().map(|other| in_common(other, &runs)).max().unwrap_or(0);
            before.push(runs);
        }
    }
    assert_eq!((workload.input_tokens(), workload.output_tokens()), (input, output));
    let (mut whole, mut found) = (0, 0);
    for session in &workload.sessions {
        for (place, turn) in session.turns.iter().enumerate() {
            whole += u64::from(turn.prompt.tokens().div_ceil(64));
            let before = session.turns[..place].iter();
            let shared = before.map(|other| other.prompt.common_prefix(&turn.prompt) / 64).max();
            found += u64::from(shared.unwrap_or(0));
        }
    }
    assert_eq!((whole, found), (blocks, reused));
}

/// How many ids two lists of runs begin with in common.
fn in_common(one: &[(u64, u64)], other: &[(u64, u64)]) -> u64 {
    let mut ids = 0;
    for (one, other) in one.iter().zip(other) {
        if one.0 == other.0 {
            ids += one.1.min(other.1);
        }
        if one != other {
            break;
        }
    }
    ids
}
