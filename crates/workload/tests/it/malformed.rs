//! What is wrong with a trace is said with line, field, value and what would be right; what is merely odd is read.

use servecast_types::{BlockHasher, Time};
use servecast_workload::{Load, TraceError, TurnStart, Workload, read_mooncake};

use crate::read;

const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

fn replayable(bytes: &[u8], trace_block_size: u32) -> Result<Workload, TraceError> {
    read_mooncake(bytes)?.workload(trace_block_size, OPEN)
}

/// The notes of a trace that can be replayed, joined, or the message that refuses it.
fn outcome(bytes: &[u8], trace_block_size: u32) -> Result<String, String> {
    match replayable(bytes, trace_block_size) {
        Ok(workload) => Ok(workload.notes.sentences().join("; ")),
        Err(error) => Err(error.to_string()),
    }
}

/// Traces at a block size of 100, each with the notes on it.
const ACCEPTED: &[(&str, &str)] = &[
    (r#"{"timestamp": 7, "input_length": 150, "output_length": 3, "hash_ids": [8, 9]}"#, ""),
    ("\n \t\n{\"timestamp\": 7, \"input_length\": 150, \"output_length\": 3, \"hash_ids\": [8, 9]}\n\n", ""),
    ("{\"timestamp\": 7, \"input_length\": 90, \"output_length\": 3, \"hash_ids\": [8]}\r\n\r\n", ""),
    ("\u{feff}{\"timestamp\": 7, \"input_length\": 90, \"output_length\": 3, \"hash_ids\": [8]}", ""),
    (r#"{"timestamp": 0.25, "input_length": 90, "output_length": 3, "hash_ids": [8]}"#, ""),
    (r#"{"timestamp": -3e2, "input_length": 90, "output_length": 3, "hash_ids": [8]}"#, ""),
    (r#"{"created_time": 4, "input_tokens": 90, "output_tokens": 3, "hash_ids": [8], "delay_ms": -0.0}"#, ""),
    (r#"{"timestamp": 4, "input_length": 90, "output_length": 3, "hash_ids": [18446744073709551615]}"#, ""),
    (
        r#"{"timestamp": 4, "output_length": 3, "hash_ids": [8], "session_id": null, "priority": -1, "input_length": 1}"#,
        "",
    ),
    (
        "{\"timestamp\": 9, \"input_length\": 90, \"output_length\": 3, \"hash_ids\": [8]}\n\
         {\"timestamp\": 2, \"input_length\": 90, \"output_length\": 3, \"hash_ids\": [8]}",
        "",
    ),
    (
        "{\"session_id\": \"s\", \"timestamp\": 9, \"input_length\": 90, \"output_length\": 3, \"hash_ids\": [8]}\n\
         {\"session_id\": \"s\", \"timestamp\": 2, \"input_length\": 90, \"output_length\": 3, \"hash_ids\": [8]}",
        "1 row has a timestamp before that of an earlier row of its session: turns go by their timestamps (line 2)",
    ),
    (
        r#"{"timestamp": 7, "input_length": 90, "output_length": 3, "hash_ids": [8, 9, 10]}"#,
        "1 row has more `hash_ids` than the prompt needs",
    ),
    (
        "{\"timestamp\": 7, \"output_length\": 3, \"hash_ids\": [8]}\n\
         {\"timestamp\": 7, \"input_length\": null, \"output_length\": 3, \"hash_ids\": [8]}",
        "2 rows have no `input_length`: as many tokens as `hash_ids` cover",
    ),
    (
        r#"{"timestamp": 7, "input_length": 90, "output_length": 3, "hash_ids": [8], "chat_id": {"a": [1]}, "type": 1}"#,
        "1 row has keys that are ignored: `chat_id`, `type`",
    ),
    (
        "{\"input_toks\": 3, \"output_toks\": 2, \"arrival_time_ns\": 1500000, \"input_tok_ids\": [5, 9, 128000], \
         \"output_tok_ids\": [7, 7]}\n{\"output_toks\": 2, \"arrival_time_ns\": 0, \"input_tok_ids\": [5]}",
        "",
    ),
];

#[test]
fn rows_with_token_ids_share_what_their_tokens_share() {
    let text = "{\"input_toks\": 5, \"output_toks\": 2, \"arrival_time_ns\": 1500000, \"input_tok_ids\": [5, 9, 1, 2, 7]}\n\
                {\"input_toks\": 5, \"output_toks\": 3, \"arrival_time_ns\": 500000, \"input_tok_ids\": [5, 9, 1, 3, 7]}";
    let trace = read_mooncake(text.as_bytes()).unwrap();
    assert!(trace.token_ids);
    let workload = trace.workload(512, OPEN).unwrap();
    let turns: Vec<_> = workload.turns().collect();
    assert_eq!(
        turns.iter().map(|turn| (turn.prompt.tokens(), turn.output_tokens)).collect::<Vec<_>>(),
        [(5, 2), (5, 3)]
    );
    assert_eq!(turns[0].start, TurnStart::At(Time::from_ns(1_000_000)));
    let [first, second] = [0, 1].map(|turn: usize| BlockHasher::all(&turns[turn].prompt, 1));
    let shared = first.iter().zip(&second).take_while(|(one, other)| one == other).count();
    assert_eq!(shared, 3);
}

/// Rows with token ids, each with the message that refuses it.
const TOKENS_REFUSED: &[(&str, &str)] = &[
    (
        r#"{"output_toks": 2, "arrival_time_ns": 0, "input_toks": null}"#,
        "line 1: `input_tok_ids` is missing or null: give a list with the id of every token of the prompt, or `input_toks`",
    ),
    (
        r#"{"input_toks": 3, "output_toks": 2, "arrival_time_ns": 0, "input_tok_ids": [1, 2]}"#,
        "line 1: `input_toks` is the number 3, but must be 2, the number of `input_tok_ids`",
    ),
    (
        r#"{"output_toks": 2, "arrival_time_ns": 0, "input_tok_ids": []}"#,
        "line 1: `input_tok_ids` is the list [], but must be a list with at least one id",
    ),
    (
        r#"{"output_toks": 2, "arrival_time_ns": 0, "input_tok_ids": [1, -2]}"#,
        "line 1: `input_tok_ids[1]` is the number -2, but must be a whole number from 0 to 18446744073709551615",
    ),
    (
        r#"{"output_toks": 2, "arrival_time_ns": "soon", "input_tok_ids": [1]}"#,
        "line 1: `arrival_time_ns` is the string \"soon\", but must be a number of nanoseconds from -1.8e19 to 1.8e19",
    ),
    (
        r#"{"output_toks": 2, "arrival_time_ns": 0, "input_tok_ids": [1], "hash_ids": [1]}"#,
        "line 1: `hash_ids` and `input_tok_ids` mean the same: keep one of them",
    ),
    (
        "{\"output_toks\": 2, \"arrival_time_ns\": 0, \"input_tok_ids\": [1]}\n\
         {\"timestamp\": 7, \"output_length\": 3, \"hash_ids\": [8]}",
        "line 2: the row has `hash_ids`, but the rows before it have `input_tok_ids`: keep them in files of their own",
    ),
];

#[test]
fn rows_with_token_ids_that_make_no_sense_are_refused() {
    for (text, message) in TOKENS_REFUSED {
        assert_eq!(outcome(text.as_bytes(), 100).unwrap_err(), *message);
    }
}

/// Traces at a block size of 100, each with the message that refuses it.
const REFUSED: &[(&str, &str)] = &[
    // The file is none of JSON Lines.
    ("", "the trace has no rows: every request is a line with one JSON object, or a line of a table"),
    (" \r\n\n", "the trace has no rows: every request is a line with one JSON object, or a line of a table"),
    (
        "\u{feff}\n",
        "the trace has no rows: every request is a line with one JSON object, or a line of a table",
    ),
    (
        "time to go",
        "line 1, column 1: not valid JSON: found `time to go`, but every line must be one JSON object",
    ),
    (
        "timestamp,input_length,output_length\n0,90,3",
        "line 1, column 1: not valid JSON: found `timestamp,input_leng…`, but every line must be one JSON object",
    ),
    ("[\n{}\n]", "line 1, column 1: not valid JSON: found `[`, but every line must be one JSON object"),
    (
        "{\n  \"timestamp\": 7\n}",
        "line 1, column 1: not valid JSON: the line ends within the row, but every line must be one whole JSON object",
    ),
    (
        r#"[{"timestamp": 7}]"#,
        r#"line 1: the row is the list [{"timestamp": 7}], but every line must be one JSON object such as {"timestamp": 0, …}"#,
    ),
    (
        "\n 17",
        r#"line 2: the row is the number 17, but every line must be one JSON object such as {"timestamp": 0, …}"#,
    ),
    (
        "null",
        r#"line 1: the row is null, but every line must be one JSON object such as {"timestamp": 0, …}"#,
    ),
    // The syntax is broken.
    (
        r#"{"timestamp": 7, "input_le"#,
        "line 1, column 26: not valid JSON: the line ends within the row, but every line must be one whole JSON object",
    ),
    (
        r#"{"timestamp": NaN, "output_length": 3}"#,
        "line 1, column 15: not valid JSON: `timestamp` is NaN, but JSON has no NaN or infinity",
    ),
    (
        r#"{"delay": -Infinity}"#,
        "line 1, column 12: not valid JSON: `delay` is -Infinity, but JSON has no NaN or infinity",
    ),
    (
        r#"{"hash_ids": [4, nan]}"#,
        "line 1, column 18: not valid JSON: found nan, but JSON has no NaN or infinity",
    ),
    (
        "{'timestamp': 7}",
        "line 1, column 2: not valid JSON: expected a key in double quotes, but found `'timestamp': 7}`",
    ),
    (
        r#"{"timestamp": 7,}"#,
        "line 1, column 17: not valid JSON: expected another key after the comma, but found `}`",
    ),
    (r#"{"timestamp": None}"#, "line 1, column 15: not valid JSON: expected a value, but found `None}`"),
    (r#"{"é": 1é}"#, "line 1, column 9: not valid JSON: expected `,` or `}`, but found `é}`"),
    (
        r#"{"timestamp": 7} {"timestamp": 8}"#,
        "line 1, column 18: not valid JSON: expected the end of the line after the object, but found \
         `{\"timestamp\": 8}`",
    ),
    // The keys are wrong.
    (r#"{"delay": 1, "delay": 2}"#, "line 1: `delay` is given twice: keep one of them"),
    (r#"{"hash_ids": null, "hash_ids": null}"#, "line 1: `hash_ids` is given twice: keep one of them"),
    (
        r#"{"timestamp": 1, "created_time": 2}"#,
        "line 1: `timestamp` and `created_time` mean the same: keep one of them",
    ),
    (r#"{"delay": 1, "delay_ms": 1}"#, "line 1: `delay` and `delay_ms` mean the same: keep one of them"),
    (
        r#"{"input_tokens": 1, "input_length": 1}"#,
        "line 1: `input_length` and `input_tokens` mean the same: keep one of them",
    ),
    (
        r#"{"output_tokens": 1, "output_length": null}"#,
        "line 1: `output_length` and `output_tokens` mean the same: keep one of them",
    ),
    (r#"{"extra": 1, "timestmap": 7}"#, "line 1: `timestmap` is no known key: did you mean `timestamp`?"),
    (r#"{"input_lenght": 7}"#, "line 1: `input_lenght` is no known key: did you mean `input_length`?"),
    (r#"{"hash_id": [7]}"#, "line 1: `hash_id` is no known key: did you mean `hash_ids`?"),
    (
        r#"{"timestamp": 7, "input_length": 90, "hash_ids": [8]}"#,
        "line 1: `output_length` is missing or null: give the number of tokens to generate, from 1 to 999999",
    ),
    (
        r#"{"timestamp": 7, "input_length": 90, "output_length": 3, "hash_ids": null}"#,
        "line 1: `hash_ids` is missing or null: give a list with an id for every block of the prompt, or leave it out beside \
         `input_length`: nothing is shared then",
    ),
    (
        r#"{"input_length": 90, "output_length": 3, "hash_ids": [8]}"#,
        "line 1: `timestamp` is missing on the first turn of its session (a row without `session_id` is a session of \
         its own): an open-loop run needs the time in milliseconds at which it arrives (a closed loop does not)",
    ),
    // A value has the wrong type or size.
    (
        r#"{"session_id": 1.2}"#,
        "line 1: `session_id` is the number 1.2, but must be a string, a whole number or null",
    ),
    (
        "{\"timestamp\": 7, \"input_length\": 90, \"output_length\": 3, \"hash_ids\": [8]}\n{\"timestamp\": \"noon\"}",
        "line 2: `timestamp` is the string \"noon\", but must be a number of milliseconds from -1.8e13 to 1.8e13 or a date \
         such as 2026-01-31T12:00:00.5Z",
    ),
    (
        r#"{"created_time": 1e300}"#,
        "line 1: `created_time` is the number 1e300, but must be a number of milliseconds from -1.8e13 to 1.8e13",
    ),
    (
        r#"{"delay_ms": -1}"#,
        "line 1: `delay_ms` is the number -1, but must be a number of milliseconds from 0 to 1.8e13",
    ),
    (
        r#"{"delay": 1e999}"#,
        "line 1: `delay` is the number 1e999, but must be a number of milliseconds from 0 to 1.8e13",
    ),
    (
        r#"{"input_length": 90.5}"#,
        "line 1: `input_length` is the number 90.5, but must be a whole number of tokens from 1 to 1000000000",
    ),
    (
        r#"{"input_length": "90"}"#,
        "line 1: `input_length` is the string \"90\", but must be a whole number of tokens from 1 to 1000000000",
    ),
    (
        r#"{"input_length": -90}"#,
        "line 1: `input_length` is the number -90, but must be a whole number of tokens from 1 to 1000000000",
    ),
    (
        r#"{"input_length": 0}"#,
        "line 1: `input_length` is the number 0, but must be a whole number of tokens from 1 to 1000000000",
    ),
    (
        r#"{"input_length": 99999999999999999999999}"#,
        "line 1: `input_length` is the number 99999999999999999999999, but must be a whole number of tokens from 1 to \
         1000000000",
    ),
    (
        r#"{"output_tokens": [3]}"#,
        "line 1: `output_tokens` is the list [3], but must be a whole number of tokens from 1 to 999999",
    ),
    (
        r#"{"output_length": 0}"#,
        "line 1: `output_length` is the number 0, but must be a whole number of tokens from 1 to 999999",
    ),
    (
        r#"{"output_length": -3}"#,
        "line 1: `output_length` is the number -3, but must be a whole number of tokens from 1 to 999999",
    ),
    (
        r#"{"output_length": 1000000}"#,
        "line 1: `output_length` is the number 1000000, but must be a whole number of tokens from 1 to 999999",
    ),
    (
        r#"{"output_length": 15e-1}"#,
        "line 1: `output_length` is the number 15e-1, but must be a whole number of tokens from 1 to 999999",
    ),
    (
        r#"{"output_length": 3, "hash_ids": 8}"#,
        "line 1: `hash_ids` is the number 8, but must be a list of whole numbers, an id for every block",
    ),
    (
        r#"{"output_length": 3, "hash_ids": [8, -9]}"#,
        "line 1: `hash_ids[1]` is the number -9, but must be a whole number from 0 to 18446744073709551615",
    ),
    (
        r#"{"output_length": 3, "hash_ids": ["x"]}"#,
        "line 1: `hash_ids[0]` is the string \"x\", but must be a whole number from 0 to 18446744073709551615",
    ),
    (
        r#"{"output_length": 3, "hash_ids": [], "priority": 0.5}"#,
        "line 1: `priority` is the number 0.5, but must be a whole number from -2147483648 to 2147483647",
    ),
    // Rows that contradict themselves or one another.
    (
        r#"{"timestamp": 7, "input_length": 101, "output_length": 3, "hash_ids": [8]}"#,
        "line 1: `input_length` is 101, but 1 `hash_ids` of 100 tokens cover only 100: it needs 2 of them, or another \
         trace block size",
    ),
    (
        r#"{"timestamp": 7, "input_length": 10, "output_length": 3, "hash_ids": []}"#,
        "line 1: `input_length` is 10, but 0 `hash_ids` of 100 tokens cover only 0: it needs 1 of them, or another \
         trace block size",
    ),
    (
        r#"{"timestamp": 7, "output_length": 3, "hash_ids": []}"#,
        "line 1: `hash_ids` is empty and there is no `input_length`, but a prompt has at least 1 token",
    ),
    (
        r#"{"session_id": "s", "timestamp": 7, "delay": 2.5, "output_length": 3, "hash_ids": [8]}"#,
        "line 1: `delay` is 2.5 on the first turn of session `s`, but a delay counts from the end of the turn before: \
         leave it out, or give 0",
    ),
];

#[test]
fn odd_traces_are_read_and_their_oddities_counted() {
    for (text, notes) in ACCEPTED {
        assert_eq!(outcome(text.as_bytes(), 100), Ok((*notes).to_owned()), "{text}");
    }
}

#[test]
fn malformed_traces_are_refused_with_the_place_and_the_remedy() {
    for (text, message) in REFUSED {
        assert_eq!(outcome(text.as_bytes(), 100), Err((*message).to_owned()), "{text}");
    }
}

#[test]
fn what_is_not_text_is_called_by_its_name() {
    let cases: [(&[u8], &str); 5] = [
        (b"\x1f\x8b\x08\0\0", "line 1: this is gzip data, not text: decompress it first"),
        (b"\x28\xb5\x2f\xfd\x04", "line 1: this is Zstandard data, not text: decompress it first"),
        (
            b"PAR1\x15\x04",
            "line 1: this is a Parquet file, not text: the Python package reads it, with PyArrow or Polars \
             (`servecast.run_trace_replay`); or write it out as JSON Lines",
        ),
        (b"\xff\xfe{\0\"\0", "line 1: this is UTF-16, not text: save it as UTF-8"),
        (b"\n\n{\"a\": \"\xc3\x28\"}", "line 3: byte 8 is not UTF-8: a trace is JSON Lines text in UTF-8"),
    ];
    for (bytes, message) in cases {
        assert_eq!(outcome(bytes, 100), Err(message.to_owned()));
    }
}

#[test]
fn a_source_that_fails_is_reported_with_its_line() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    let row = b"{\"timestamp\": 7, \"output_length\": 3, \"hash_ids\": [8]}\n".as_slice();
    let source = std::io::BufReader::new(std::io::Read::chain(row, Broken));
    let error = read_mooncake(source).unwrap_err();
    assert_eq!(error.to_string(), "line 2: cannot read");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the disk is gone");
}

/// The recorded traces at a block size of 512: notes on those that are read, messages for the others.
const RECORDED: &[(&str, Result<&str, &str>)] = &[
    (
        "array.jsonl",
        Err(
            r#"line 1: the row is the list [{"timestamp": 0, "input_length": 1024, …, but every line must be one JSON object such as {"timestamp": 0, …}"#,
        ),
    ),
    ("blank_lines.jsonl", Ok("")),
    ("bom.jsonl", Ok("")),
    ("crlf.jsonl", Ok("")),
    (
        "delay_no_session.jsonl",
        Err(
            "line 2: `delay` is 10 on the first turn of its session (a row without `session_id` is a session of its own), but a delay counts from the end of the turn before: leave it out, or give 0",
        ),
    ),
    ("dup_key.jsonl", Err("line 1: `timestamp` is given twice: keep one of them")),
    (
        "empty.jsonl",
        Err("the trace has no rows: every request is a line with one JSON object, or a line of a table"),
    ),
    (
        "empty_hashes.jsonl",
        Err(
            "line 1: `input_length` is 1024, but 0 `hash_ids` of 512 tokens cover only 0: it needs 2 of them, or another trace block size",
        ),
    ),
    ("extra_field.jsonl", Ok("1 row has keys that are ignored: `foo`")),
    (
        "few_hashes.jsonl",
        Err(
            "line 1: `input_length` is 1024, but 1 `hash_ids` of 512 tokens cover only 512: it needs 2 of them, or another trace block size",
        ),
    ),
    (
        "float_input.jsonl",
        Err(
            "line 1: `input_length` is the number 10.5, but must be a whole number of tokens from 1 to 1000000000",
        ),
    ),
    ("float_ts.jsonl", Ok("")),
    (
        "garbage.jsonl",
        Err("line 1, column 1: not valid JSON: found `hello`, but every line must be one JSON object"),
    ),
    (
        "huge_input.jsonl",
        Err(
            "line 1: `input_length` is the number 1000000000000000, but must be a whole number of tokens from 1 to 1000000000",
        ),
    ),
    (
        "huge_output.jsonl",
        Err(
            "line 1: `output_length` is the number 1000000000, but must be a whole number of tokens from 1 to 999999",
        ),
    ),
    (
        "huge_output_1m.jsonl",
        Err(
            "line 1: `output_length` is the number 1000000, but must be a whole number of tokens from 1 to 999999",
        ),
    ),
    (
        "inf_ts.jsonl",
        Err(
            "line 1: `timestamp` is the number 1e+308, but must be a number of milliseconds from -1.8e13 to 1.8e13",
        ),
    ),
    ("many_hashes.jsonl", Ok("1 row has more `hash_ids` than the prompt needs")),
    (
        "nan_ts.jsonl",
        Err("line 1, column 15: not valid JSON: `timestamp` is NaN, but JSON has no NaN or infinity"),
    ),
    (
        "neg_hash.jsonl",
        Err(
            "line 1: `hash_ids[0]` is the number -1, but must be a whole number from 0 to 18446744073709551615",
        ),
    ),
    (
        "neg_input.jsonl",
        Err(
            "line 1: `input_length` is the number -5, but must be a whole number of tokens from 1 to 1000000000",
        ),
    ),
    (
        "neg_output.jsonl",
        Err(
            "line 1: `output_length` is the number -5, but must be a whole number of tokens from 1 to 999999",
        ),
    ),
    ("neg_ts.jsonl", Ok("")),
    (
        "no_hash.jsonl",
        Ok("1 row has lengths only: no prompt shares anything with another, so that caches hit nothing"),
    ),
    ("no_input.jsonl", Ok("1 row has no `input_length`: as many tokens as `hash_ids` cover")),
    (
        "no_output.jsonl",
        Err(
            "line 1: `output_length` is missing or null: give the number of tokens to generate, from 1 to 999999",
        ),
    ),
    (
        "no_timestamp.jsonl",
        Err(
            "line 1: `timestamp` is missing on the first turn of its session (a row without `session_id` is a session of its own): an open-loop run needs the time in milliseconds at which it arrives (a closed loop does not)",
        ),
    ),
    (
        "null_hash.jsonl",
        Err(
            "line 1: `hash_ids` is missing or null: give a list with an id for every block of the prompt, or leave it out beside \
         `input_length`: nothing is shared then",
        ),
    ),
    (
        "second_bad.jsonl",
        Err(
            r#"line 2: `timestamp` is the string "x", but must be a number of milliseconds from -1.8e13 to 1.8e13 or a date such as 2026-01-31T12:00:00.5Z"#,
        ),
    ),
    (
        "session_first_delay.jsonl",
        Err(
            "line 1: `delay` is 10 on the first turn of session `a`, but a delay counts from the end of the turn before: leave it out, or give 0",
        ),
    ),
    ("session_no_delay.jsonl", Ok("")),
    (
        "str_hash.jsonl",
        Err(
            r#"line 1: `hash_ids[0]` is the string "a", but must be a whole number from 0 to 18446744073709551615"#,
        ),
    ),
    (
        "str_input.jsonl",
        Err(
            r#"line 1: `input_length` is the string "1024", but must be a whole number of tokens from 1 to 1000000000"#,
        ),
    ),
    (
        "truncated.jsonl",
        Err(
            "line 1, column 25: not valid JSON: the line ends within the row, but every line must be one whole JSON object",
        ),
    ),
    (
        "u64_over.jsonl",
        Err(
            "line 1: `input_length` is the number 1180591620717411303424, but must be a whole number of tokens from 1 to 1000000000",
        ),
    ),
    (
        "zero_input.jsonl",
        Err(
            "line 1: `input_length` is the number 0, but must be a whole number of tokens from 1 to 1000000000",
        ),
    ),
    (
        "zero_output.jsonl",
        Err("line 1: `output_length` is the number 0, but must be a whole number of tokens from 1 to 999999"),
    ),
];

#[test]
fn recorded_traces_are_read_or_refused() {
    let Some(folder) = testkit::outside(testkit::ORACLE) else { return };
    let folder = folder.join("bad");
    for (name, expected) in RECORDED {
        let bytes = read(&folder.join(name));
        assert_eq!(outcome(&bytes, 512), expected.map(str::to_owned).map_err(str::to_owned), "{name}");
    }
    let traces = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let traces = traces.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    assert_eq!(traces.count(), RECORDED.len(), "every recorded trace has its outcome here");
}
