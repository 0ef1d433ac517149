//! Agentic workloads of LLMServingSim: a session a line, whose `sub_requests` follow one another, each after the tool of
//! the one before (`tool_duration_ns`). Times are nanoseconds; prompts have the ids of their tokens, or only a length.

use std::io::BufRead;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use super::json::{Fields, Items};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, tokens_up_to};
use crate::{TimeUnit, Trace, TraceError, TraceForm, TraceRow};

/// Reads the sessions of a file.
pub(super) fn read(input: &mut dyn BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let unit = form.unit.unwrap_or(TimeUnit::Ns);
    let mut trace = Trace { token_ids: true, ..Trace::default() };
    let (mut items, mut lines) = (Items::new(input), FxHashMap::default());
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        let session = Fields::new(item.line, &object);
        let name = session.name("session_id")?.unwrap_or_else(|| format!("line {}", item.line));
        if let Some(line) = lines.insert(name.clone(), item.line) {
            let expected = format!("a name of its own: line {line} has it");
            return Err(session.wrong("session_id", &name.into(), expected));
        }
        let mut timestamp_ms = session.time_ms("arrival_time_ns", unit)?;
        let mut delay_ms = None;
        for sub_request in session.elements("sub_requests")? {
            let sub_request = sub_request?;
            let tool_ms = sub_request.duration_ms("tool_duration_ns", unit)?;
            let mut row = TraceRow {
                session_id: Some(name.clone()),
                timestamp_ms: timestamp_ms.take(),
                delay_ms,
                ..row(&sub_request)?
            };
            session.add_labels(&mut row)?;
            sub_request.add_labels(&mut row)?;
            trace.rows.push(row);
            delay_ms = Some(tool_ms.unwrap_or(0.0));
        }
    }
    Ok(trace)
}

fn row(request: &Fields) -> Result<TraceRow, TraceError> {
    let tokens = |key: &str, most| {
        let tokens = request.needed_tokens(key, most)?;
        let wrong = || request.wrong(key, &0.into(), tokens_up_to(most));
        Some(tokens).filter(|tokens| *tokens > 0).ok_or_else(wrong)
    };
    let input_length = tokens("input_toks", MAX_INPUT_TOKENS)?;
    let hash_ids = ids(request, "input_tok_ids")?;
    if !hash_ids.is_empty() && hash_ids.len() as u64 != input_length {
        let expected = format!("{}, the number of `input_tok_ids`", hash_ids.len());
        return Err(request.wrong("input_toks", &input_length.into(), expected));
    }
    Ok(TraceRow {
        line: request.line,
        input_length: Some(input_length),
        output_length: tokens("output_toks", MAX_OUTPUT_TOKENS)?,
        shares_nothing: hash_ids.is_empty(),
        hash_ids,
        output_ids: ids(request, "output_tok_ids")?,
        ..TraceRow::default()
    })
}

fn ids(request: &Fields, key: &str) -> Result<Vec<u64>, TraceError> {
    let id = |(place, value): (usize, &Value)| {
        let wrong = || request.wrong(&format!("{key}[{place}]"), value, "the id of a token");
        value.as_u64().ok_or_else(wrong)
    };
    request.list(key)?.unwrap_or_default().iter().enumerate().map(id).collect()
}
