//! Every example of docs/traces.md is what it says: a file that is read, with so many requests.

use std::path::Path;

use servecast_workload::{Cut, Load, TraceForm, read_trace};

use crate::read;

/// How examples of traces begin, and the requests that they hold.
const EXAMPLES: &[(&str, usize)] = &[
    ("{\"timestamp\": 0, \"input_length\": 1200", 3),
    ("{\"request_id\": \"plan\"", 4),
    ("{\"arrival_time_ns\": 0, \"input_toks\": 3", 2),
    ("{\"session_id\": \"s0\", \"arrival_time_ns\"", 2),
    ("{\"timestamp\": 0, \"text_input\"", 3),
    ("TIMESTAMP,ContextTokens", 2),
    ("{\"ts\": \"2026-01-31T12:00:00.5Z\"", 1),
    ("{\"backend\": \"vllm\"", 2),
    ("{\"metadata\": {\"x_correlation_id\"", 1),
    ("{\"benchmarks\": [{\"requests\"", 1),
    ("{\"id\": \"t1\", \"models\"", 2),
    ("{\"schema\": \"dynamo.request.trace.v1\"", 1),
    ("{\"traceId\": \"aa\"", 1),
    ("[{\"id\": \"c1\", \"conversations\"", 1),
    ("{\"num_turns\": 2", 3),
];

/// The fenced blocks of a page, each with its language and the text up to the next one.
fn blocks(page: &str) -> Vec<(&str, &str, &str)> {
    let mut parts = page.split("```");
    let mut blocks = Vec::new();
    let _ = parts.next();
    while let (Some(block), Some(after)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').unwrap();
        blocks.push((language, text, after));
    }
    blocks
}

#[test]
fn examples_of_traces_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/traces.md");
    let page = String::from_utf8(read(&path)).unwrap();
    let mut found = 0;
    for (language, text, after) in blocks(&page) {
        match language {
            "json" | "csv" => {
                let example = EXAMPLES.iter().find(|(start, _)| text.starts_with(start));
                let (start, requests) = example.unwrap_or_else(|| panic!("is not in this test: {text}"));
                // Where a form has no columns of its own, the text says which they are.
                let columns = after.split_once("is read with `--columns ").map(|(_, rest)| rest);
                let columns = columns.and_then(|rest| Some(rest.split_once('`')?.0.parse().unwrap()));
                let columns = columns.filter(|_| start.starts_with("{\"ts\""));
                let form = TraceForm { columns, ..TraceForm::default() };
                let trace =
                    read_trace(text.as_bytes(), &form).unwrap_or_else(|error| panic!("{text}{error}"));
                let size = trace.stated_block_size.or(trace.block_size).unwrap_or(512);
                let cut = Cut { turns: trace.turns.unwrap_or_default(), ..Cut::from(size) };
                let workload =
                    trace.workload(cut, Load::Closed).unwrap_or_else(|error| panic!("{text}{error}"));
                assert_eq!(workload.requests(), *requests, "{text}");
                found += 1;
            }
            // Profiles of rates are for the command line, whose tests have their own.
            "toml" | "sh" => {}
            other => panic!("nobody checks examples in {other:?}"),
        }
    }
    assert_eq!(found, EXAMPLES.len());
}
