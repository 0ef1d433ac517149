//! What becomes of damaged files of every form: an error or requests, never a panic, and nothing that a valid file does
//! not say.
//!
//! `SERVECAST_PROPERTY_CASES=1000000` damages a million files (`.ci/long fuzz`).

use proptest::prelude::*;
use servecast_workload::{Cut, Load, Trace, TraceError, TraceForm, TraceRow, Workload, read_trace};

/// A small file of each form.
const FILES: &[&str] = &[
    r#"{"timestamp": 0, "session_id": "a", "input_length": 600, "output_length": 9, "hash_ids": [0, 7], "priority": 1}
{"delay": 8.5, "session_id": "a", "input_length": 1100, "output_length": 9, "hash_ids": [0, 7, 8], "output_hash_ids": [9]}
{"timestamp": 30, "input_length": 100, "output_length": 2}
"#,
    r#"{"request_id": "q1", "timestamp": 0, "input_length": 600, "output_length": 9, "hash_ids": [0, 7], "class": "x", "branches": ["q3"]}
{"request_id": "q2", "wait_for": ["q1"], "tool_wait_ms": 5, "input_length": 100, "output_length": 2, "hash_ids": [0]}
{"request_id": "q3", "input_length": 100, "output_length": 2, "hash_ids": [0], "prefix_reset": true}
{"request_id": "q4", "wait_for": ["q2", "q3"], "input_length": 100, "output_length": 2, "hash_ids": [0]}
"#,
    r#"{"chat_id": 55, "parent_chat_id": -1, "timestamp": 0.114, "input_length": 30, "output_length": 8, "turn": 1, "hash_ids": [0, 1]}
"#,
    r#"{"arrival_time_ns": 0, "input_toks": 3, "output_toks": 2, "input_tok_ids": [5, 6, 7], "output_tok_ids": [8, 9]}
{"arrival_time_ns": 4059740, "input_toks": 1472, "output_toks": 133}
"#,
    r#"{"session_id": "s0", "arrival_time_ns": 4059740, "sub_requests": [{"input_toks": 1472, "output_toks": 133, "tool_duration_ns": 127348767}, {"input_toks": 2, "output_toks": 20, "input_tok_ids": [1, 2]}]}
"#,
    r#"{"timestamp": 0, "text_input": "What is a block?", "output_length": 50}
{"timestamp": 1, "session_id": 7, "messages": [{"role": "user", "content": "Hello"}], "output_length": 50}
"#,
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.99,396,109\n",
    "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374.0,44\n1.5,396,0\n",
    r#"{"max_concurrency": 8, "input_lens": [100, 70], "output_lens": [11, 5], "start_times": [50.5, 52.0],
 "ttfts": [0.25, 0.1], "itls": [[0.5], [0.2]], "errors": ["", ""]}"#,
    r#"{"metadata": {"x_correlation_id": "a", "benchmark_phase": "profiling", "request_start_ns": 1767225600000000000}, "metrics": {"request_latency": {"value": 800, "unit": "ms"}, "input_sequence_length": {"value": 100, "unit": "tokens"}, "output_sequence_length": {"value": 11, "unit": "tokens"}}}
"#,
    r#"{"benchmarks": [{"requests": {"successful": [
 {"request_start_time": 1767225600.5, "request_latency": 1.5, "prompt_tokens": 100, "output_tokens": 11}]}}]}"#,
    r#"{"id": "t1", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": [{"t": 0.0, "in": 650, "out": 20, "hash_ids": [0, 1], "api_time": 1.9}, {"t": 9.0, "duration_ms": 5, "requests": [{"t": 0, "in": 900, "out": 0, "hash_runs": [[0, 14]], "think_time": 2.1}]}]}
"#,
    r#"{"schema": "dynamo.request.trace.v1", "event": {"request": {"input_tokens": 130, "output_tokens": 64, "request_received_ms": 1767225600250, "replay": {"trace_block_size": 64, "input_length": 130, "input_sequence_hashes": [11, 12]}}}}
"#,
    r#"{"traceId": "aa", "spanId": "b1", "parentSpanId": "p", "startTimeUnixNano": "1767225600250000000", "endTimeUnixNano": "1767225601250000000", "attributes": {"gen_ai.usage.input_tokens": 900, "gen_ai.usage.output_tokens": 120}}
"#,
    r#"[{"id": "c1", "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]}]"#,
    r#"{"num_turns": 1, "input_prompt_length": 1000, "assistant_response_length": [50], "tool_call_output_length": [200], "tool_call_latency": [1.5], "final_assistant_response_length": 300}
"#,
];

fn read(bytes: &[u8]) -> Result<(Trace, Workload), TraceError> {
    let trace = read_trace(bytes, &TraceForm::default())?;
    let block_size = trace.stated_block_size.or(trace.block_size).unwrap_or(512);
    let cut = Cut { turns: trace.turns.unwrap_or_default(), ..Cut::from(block_size) };
    let workload = trace.workload(cut, Load::Closed)?;
    Ok((trace, workload))
}

/// Bytes that mean something in such files.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "-", "9", "0", "e9", ".5", "\"", ",", "[", "]", "{", "}", ":", "null", "\n", "\\", "\u{0}", "1e999",
        "é",
    ];
    prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ]
}

/// Few in the default run; `SERVECAST_PROPERTY_CASES` asks for a long campaign.
fn cases() -> u32 {
    let given = std::env::var_os("SERVECAST_PROPERTY_CASES");
    given.map_or(256, |given| given.to_str().unwrap().parse().expect("SERVECAST_PROPERTY_CASES is a number"))
}

/// A text with its bytes at these places, each with a length, replaced.
fn damaged(text: &str, damage: Vec<(prop::sample::Index, usize, Vec<u8>)>) -> Vec<u8> {
    let mut text = text.as_bytes().to_vec();
    for (at, len, bytes) in damage {
        let at = at.index(text.len().max(1)).min(text.len());
        let end = (at + len).min(text.len());
        text.splice(at..end, bytes);
    }
    text
}

/// Files of several rows, each on a line of its own that stands for itself.
fn files_of_rows() -> Vec<String> {
    let several = |file: &&str| {
        let header =
            if file.starts_with(['{', '[']) { "" } else { file.split_inclusive('\n').next().unwrap() };
        let rows = &file[header.len()..];
        // Names of sessions and ids that have to be unique are others in each copy.
        let copy = |number: u32| {
            rows.replace("\"q", &format!("\"q{number}-"))
                .replace("\"t1\"", &format!("\"t{number}\""))
                .replace("\"s0\"", &format!("\"s{number}\""))
                .replace("\"spanId\": \"b1\"", &format!("\"spanId\": \"b{number}\""))
                .replace("\"session_id\": \"a\"", &format!("\"session_id\": \"a{number}\""))
        };
        let file = format!("{header}{}{}{}", copy(1), copy(2), copy(3));
        let lines = file.lines().count();
        // A row that ends with a line is one.
        (rows.ends_with('\n') && lines > 2 && read(file.as_bytes()).is_ok()).then_some(file)
    };
    FILES.iter().filter_map(several).collect()
}

#[test]
fn every_form_is_read() {
    for file in FILES {
        let (_, workload) = read(file.as_bytes()).unwrap_or_else(|error| panic!("{file}{error}"));
        assert!(workload.requests() > 0, "{file}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn no_damage_breaks_a_reader(
        file in prop::sample::select(FILES.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, bytes()), 1..4),
    ) {
        let text = damaged(file, damage);
        if let Ok((trace, workload)) = read(&text) {
            prop_assert_eq!(workload.requests(), trace.rows.len());
            // What was read is what is written: a damaged row is another row, not another meaning of it.
            let rows = workload.mooncake_rows(16, Load::Closed).count();
            prop_assert_eq!(rows, trace.rows.len());
        }
    }

    /// Whatever becomes of a row, the others say what they said: nothing of it is taken for something of theirs.
    #[test]
    fn damage_to_a_row_changes_no_other(
        file in prop::sample::select(files_of_rows()),
        row in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, bytes()), 1..4),
    ) {
        let whole = read(file.as_bytes()).unwrap().0;
        let lines: Vec<&str> = file.lines().collect();
        // The header of a table says what all of its rows are.
        let first = usize::from(!file.starts_with(['{', '[']));
        let row = first + row.index(lines.len() - first);
        let mut text = Vec::new();
        let mut is_one_line = true;
        for (number, line) in lines.iter().enumerate() {
            if number == row {
                let line = damaged(line, damage.clone());
                // In a table, an open quote goes on for as long as it is open.
                is_one_line = !line.contains(&b'\n') && (first == 0 || !line.contains(&b'"'));
                text.extend(line);
            } else {
                text.extend(line.as_bytes());
            }
            text.push(b'\n');
        }
        let (true, Ok((trace, _))) = (is_one_line, read(&text)) else { return Ok(()) };
        // What the unit of times is, and whether ids are those of tokens, is known from all rows, with a note.
        let what = |trace: &Trace| (trace.notes.recognised, trace.token_ids, trace.block_size, trace.stated_block_size);
        if what(&trace) != what(&whole) {
            return Ok(());
        }
        let others = |trace: &Trace| -> Vec<TraceRow> {
            trace.rows.iter().filter(|one| one.line != row as u64 + 1).cloned().collect()
        };
        let (found, expected) = (others(&trace), others(&whole));
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!(found.line, expected.line);
            prop_assert_eq!(found.output_length, expected.output_length);
            prop_assert_eq!(found.input_length, expected.input_length);
            prop_assert_eq!(found.priority, expected.priority);
            prop_assert_eq!(found.timestamp_ms, expected.timestamp_ms);
        }
    }

    #[test]
    fn a_file_that_is_cut_off_has_no_more_than_its_whole_rows(
        file in prop::sample::select(FILES.to_vec()),
        at in any::<prop::sample::Index>(),
    ) {
        let whole = read(file.as_bytes()).unwrap().0;
        if let Ok((cut, _)) = read(&file.as_bytes()[..at.index(file.len())]) {
            let rows = cut.rows.len();
            prop_assert!(rows <= whole.rows.len());
            // A number at the end of a table can lose digits; JSON cannot.
            if file.starts_with(['{', '[']) {
                prop_assert_eq!(&cut.rows[..], &whole.rows[..rows]);
            }
        }
    }

    #[test]
    fn spaces_and_unknown_keys_change_nothing(
        file in prop::sample::select(FILES.to_vec()),
        spaces in prop::sample::select(vec![" ", "\t", "  "]),
    ) {
        if file.starts_with(['{', '[']) {
            let whole = read(file.as_bytes()).unwrap();
            let spaced = file.replace(": ", &format!("{spaces}:{spaces}")).replace(", ", &format!("{spaces},"));
            let spaced = spaced.replace('}', ",\"zz_unknown\":{\"a\":[1,\"}\"]}}").replace("{,", "{");
            let again = read(spaced.as_bytes()).unwrap();
            prop_assert_eq!(again.0.rows, whole.0.rows);
            prop_assert_eq!(again.1.fingerprint(), whole.1.fingerprint());
        }
    }

    #[test]
    fn what_is_converted_is_the_same_load(file in prop::sample::select(FILES.to_vec())) {
        let (trace, workload) = read(file.as_bytes()).unwrap();
        let size = if trace.token_ids { 1 } else { trace.stated_block_size.or(trace.block_size).unwrap_or(512) };
        let rows: Vec<_> = workload.mooncake_rows(size, Load::Closed).collect();
        let again = Workload::from_rows(&rows, size, Load::Closed).unwrap();
        let lengths = |workload: &Workload| -> Vec<_> {
            workload.turns().map(|turn| (turn.start, turn.prompt.tokens(), turn.output_tokens, turn.priority)).collect()
        };
        prop_assert_eq!(lengths(&again), lengths(&workload));
        let shared = |workload: &Workload| -> Vec<u32> {
            let turns: Vec<_> = workload.turns().collect();
            let pairs = turns.iter().flat_map(|one| turns.iter().map(|other| one.prompt.common_prefix(&other.prompt)));
            pairs.collect()
        };
        prop_assert_eq!(shared(&again), shared(&workload));
    }
}
