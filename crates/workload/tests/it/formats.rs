//! What the files of other tools become: for each a small one of our own, with its requests worked out by hand.

use std::fmt::Write as _;
use std::io::Read as _;

use serde_json::{Value, json};
use servecast_types::{Prompt, Time};
use servecast_workload::{Cut, Load, Trace, TraceError, TraceForm, TurnStart, Workload, read_trace};

pub(crate) fn read(text: &str) -> Result<Trace, TraceError> {
    read_trace(text.as_bytes(), &TraceForm::default())
}

pub(crate) fn workload(trace: &Trace, load: Load) -> Result<Workload, TraceError> {
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
pub(crate) fn check(text: &str, requests: &str, notes: &[&str]) {
    check_in(Load::Open { arrival_speedup_ratio: 1.0 }, text, requests, notes);
}

#[track_caller]
pub(crate) fn check_in(load: Load, text: &str, requests: &str, notes: &[&str]) {
    let trace = read(text).unwrap_or_else(|error| panic!("{error}"));
    let workload = workload(&trace, load).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(dump(&workload), requests);
    assert_eq!(workload.notes.sentences(), notes);
}

#[track_caller]
pub(crate) fn refused(text: &str, problem: &str) {
    let error = match read(text).and_then(|trace| workload(&trace, Load::Closed)) {
        Ok(workload) => panic!("{}", dump(&workload)),
        Err(error) => error.to_string(),
    };
    assert!(error.contains(problem), "{error}");
}

pub(crate) const LENGTHS_ONLY: &str =
    "2 rows have lengths only: no prompt shares anything with another, so that caches hit nothing";

/// The prompts of a trace, in a closed loop.
pub(crate) fn prompts(text: &str) -> Vec<Prompt> {
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
