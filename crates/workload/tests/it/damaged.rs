//! What is wrong with a file of any form is said with its line, its field, the value, and what would be right.

use servecast_workload::{Cut, Load, TraceForm, read_trace};

/// What is read of a file in an open loop: so many requests and the notes on them, or the message that refuses it.
fn outcome(text: &str, columns: Option<&str>) -> String {
    let form = TraceForm { columns: columns.map(|text| text.parse().unwrap()), ..TraceForm::default() };
    let read = || {
        let trace = read_trace(text.as_bytes(), &form)?;
        let block_size = trace.stated_block_size.or(trace.block_size).unwrap_or(512);
        let cut = Cut { turns: trace.turns.unwrap_or_default(), ..Cut::from(block_size) };
        trace.workload(cut, Load::Open { arrival_speedup_ratio: 1.0 })
    };
    match read() {
        Ok(workload) => format!("{}: {}", workload.requests(), workload.notes.sentences().join("; ")),
        Err(error) => error.to_string(),
    }
}

const COLUMNS: Option<&str> = Some("time=at,input=in,output=out,session=user");

const LENGTHS: &str =
    "1: 1 row has lengths only: no prompt shares anything with another, so that caches hit nothing";

/// Files with what is read of them, or why not.
const FILES: &[(&str, Option<&str>, &str)] = &[
    // Truncated.
    (
        r#"{"timestamp": 0, "input_length": 600, "output_length": 9, "hash_ids": [0, 7"#,
        None,
        "line 1, column 75: not valid JSON: the line ends within the row, but every line must be one whole JSON object",
    ),
    (
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n1.5,39",
        None,
        "line 3: `num_decode_tokens` is empty, but must be a whole number of tokens from 1 to 999999",
    ),
    (
        r#"{"max_concurrency": 8, "input_lens": [100, 70], "output_lens": [11, 5], "start_times": [50.5"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"id": "t1", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": [{"t": 0.0, "in": 650"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"schema": "dynamo.request.trace.v1", "event": {"request": {"input_tokens": 130, "output_tok"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"traceId": "aa", "spanId": "b1", "startTimeUnixNano": "1767225600250000000""#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"[{"id": "c1", "conversations": [{"from": "human", "value": "hel"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"num_turns": 1, "input_prompt_length": 1000, "assistant_response_length": [50"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"session_id": "s0", "arrival_time_ns": 40, "sub_requests": [{"input_toks": 1472, "outp"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"benchmarks": [{"requests": {"successful": [{"request_start_time": 1767225600.5"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"metadata": {"x_correlation_id": "a", "benchmark_phase": "profiling"}, "metrics": {"request_lat"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    (
        r#"{"timestamp": 0, "text_input": "What is a blo"#,
        None,
        "line 1: the file ends within the object that begins at line 1: it is cut off",
    ),
    // Wrong delimiter, missing column.
    ("at|in|out|user\n0|1|2|a\n", COLUMNS, "line 1: there is no column `at`: the table has `at|in|out|user`"),
    ("at,in,user\n0,1,a\n", COLUMNS, "line 1: there is no column `out`: the table has `at`, `in`, `user`"),
    (
        "TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,374\n",
        None,
        "line 1: there is no column `GeneratedTokens`: the table has `TIMESTAMP`, `ContextTokens`",
    ),
    (
        "TIMESTAMP;ContextTokens;GeneratedTokens\n2023-11-16 18:15:46;374;44\n",
        None,
        "1: timestamps are dates, read as UTC unless they say another zone; 1 row has lengths only: no prompt shares anything \
         with another, so that caches hit nothing",
    ),
    (
        "at,in,out,user\n0,1,2,a\n5,3,47",
        COLUMNS,
        "2: 2 rows have lengths only: no prompt shares anything with another, so that caches hit nothing; 1 row has no line \
         break behind it: if the file is cut off there, so is the row's last number (line 3)",
    ),
    (
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,374,44\n",
        None,
        "line 2: the cell `44` stands behind the last of the 3 columns: a value with a separator in it stands in double \
         quotes, and a decimal point is a point",
    ),
    ("at,in,out,user\n0,1,2,a,,\n", COLUMNS, LENGTHS),
    (
        "at,in,out,user\n0,1,2\n3,4\n",
        COLUMNS,
        "line 3: `out` is empty, but must be a whole number of tokens from 1 to 999999",
    ),
    (
        r#"{"at": 0, "in": 1, "user": "a"}"#,
        COLUMNS,
        "line 1: `out` is missing or null: give a number of tokens",
    ),
    (
        r#"{"max_concurrency": 8, "input_lens": [100, 70], "output_lens": [11], "start_times": [50.5, 52.0]}"#,
        None,
        "line 1: `output_lens` is a list of 1 entries, but must be one of 2, as many as `input_lens` has",
    ),
    // Mixed units.
    (
        "{\"timestamp\": 1767225600, \"output_length\": 1, \"hash_ids\": [1]}\n{\"timestamp\": 1767225600000, \"output_length\": 1, \"hash_ids\": [1]}",
        None,
        "line 2: by its size the timestamp is in another unit since 1970 than those before it: write all of them in one",
    ),
    (
        "at,in,out,user\n2026-01-01 00:00:00,1,2,a\n17,4,5,b\n",
        COLUMNS,
        "line 3: some timestamps are dates and others numbers: write all of them in one way",
    ),
    (
        "{\"at\": \"2026-01-01T00:00:00Z\", \"in\": 1, \"out\": 2}\n{\"at\": 17, \"in\": 1, \"out\": 2}",
        COLUMNS,
        "line 2: some timestamps are dates and others numbers: write all of them in one way",
    ),
    // Turns that are not there, or in another order.
    (
        "{\"chat_id\": 2, \"parent_chat_id\": 1, \"timestamp\": 0.5, \"input_length\": 20, \"output_length\": 2, \"turn\": 2, \"hash_ids\": [1, 2]}",
        None,
        "1: rows with `chat_id` and `parent_chat_id` are read with timestamps in seconds and 16 tokens to a hash id, unless --time-unit and --trace-block-size say otherwise; 1 row has keys that are ignored: `chat_id`, `parent_chat_id`, `turn`; 1 row has a `parent_chat_id` that is the `chat_id` of no row: the file is a part of a longer one, and what a prompt shares is by its `hash_ids` alone (line 1)",
    ),
    (
        "{\"chat_id\": 2, \"parent_chat_id\": 1, \"timestamp\": 0.5, \"input_length\": 20, \"output_length\": 2, \"turn\": 2, \"hash_ids\": [1, 2]}\n{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": 0.7, \"input_length\": 20, \"output_length\": 2, \"turn\": 1, \"hash_ids\": [1, 2]}",
        None,
        "2: rows with `chat_id` and `parent_chat_id` are read with timestamps in seconds and 16 tokens to a hash id, unless --time-unit and --trace-block-size say otherwise; 2 rows have keys that are ignored: `chat_id`, `parent_chat_id`, `turn`",
    ),
    (
        "{\"session_id\": \"a\", \"delay\": 5, \"output_length\": 1, \"hash_ids\": [1]}",
        None,
        "line 1: `delay` is 5 on the first turn of session `a`, but a delay counts from the end of the turn before: leave it out, or give 0",
    ),
    (
        "at,in,out,user\n9,4,5,a\n1,1,2,a\n",
        COLUMNS,
        "2: 2 rows have lengths only: no prompt shares anything with another, so that caches hit nothing; 1 row has a timestamp before that of an earlier row of its session: turns go by their timestamps (line 3)",
    ),
    (
        r#"{"traceId": "aa", "spanId": "b1", "parentSpanId": "gone", "startTimeUnixNano": "1767225600250000000", "endTimeUnixNano": "1767225601250000000", "attributes": {"gen_ai.usage.input_tokens": 900, "gen_ai.usage.output_tokens": 120}}"#,
        None,
        "1: 1 row has lengths only: no prompt shares anything with another, so that caches hit nothing",
    ),
    // Duplicate ids.
    (
        "{\"id\": \"t1\", \"models\": [\"m\"], \"block_size\": 64, \"hash_id_scope\": \"local\", \"requests\": [{\"t\": 0.0, \"in\": 650, \"out\": 20, \"hash_ids\": [0]}]}\n{\"id\": \"t1\", \"models\": [\"m\"], \"block_size\": 64, \"hash_id_scope\": \"local\", \"requests\": [{\"t\": 0.0, \"in\": 650, \"out\": 20, \"hash_ids\": [0]}]}",
        None,
        "line 2: `id` is the string \"t1\", but must be a name of its own: line 1 has it",
    ),
    // Negative gaps, and what no gap is.
    (
        r#"{"session_id": "a", "timestamp": 0, "delay": -5, "output_length": 1, "hash_ids": [1]}"#,
        None,
        "line 1: `delay` is the number -5, but must be a number of milliseconds from 0 to 1.8e13",
    ),
    (
        r#"{"session_id": "s0", "arrival_time_ns": 40, "sub_requests": [{"input_toks": 14, "output_toks": 1, "tool_duration_ns": -3}, {"input_toks": 14, "output_toks": 1}]}"#,
        None,
        "line 1: `sub_requests[0].tool_duration_ns` is the number -3, but must be a number of nanoseconds from 0 to 1.8e19",
    ),
    (
        r#"{"id": "t1", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": [{"t": 0.0, "in": 650, "out": 20, "hash_ids": [0], "think_time": -1}]}"#,
        None,
        "line 1: `requests[0].think_time` is the number -1, but must be a number of seconds from 0 to 1.8e10",
    ),
    (
        r#"{"num_turns": 1, "input_prompt_length": 1000, "assistant_response_length": [50], "tool_call_output_length": [200], "tool_call_latency": [-1.5], "final_assistant_response_length": 300}"#,
        None,
        "line 1: `tool_call_latency[0]` is the number -1.5, but must be a number of seconds from 0 to 1.8e10",
    ),
    (
        r#"{"traceId": "aa", "spanId": "b1", "startTimeUnixNano": "1767225600250000000", "endTimeUnixNano": "1767225500250000000", "attributes": {"gen_ai.usage.input_tokens": 900, "gen_ai.usage.output_tokens": 120}}"#,
        None,
        "line 1: `endTimeUnixNano` is the string \"1767225500250000000\", but must be at or after `startTimeUnixNano`",
    ),
    (
        r#"{"benchmarks": [{"requests": {"successful": [{"request_start_time": 1767225600.5, "request_latency": -1.5, "prompt_tokens": 100, "output_tokens": 11}]}}]}"#,
        None,
        "line 1: `benchmarks[0].requests.successful[0].request_latency` is the number -1.5, but must be a number of seconds from 0 to 1.8e10",
    ),
];

#[test]
fn what_is_wrong_is_said() {
    for (text, columns, expected) in FILES {
        assert_eq!(outcome(text, *columns), *expected, "{text}");
    }
}
