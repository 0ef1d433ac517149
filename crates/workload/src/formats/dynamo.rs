//! Request traces of Dynamo (`dynamo.request.trace.v1`): a record a line, which holds a request in `event.request`. Times
//! are milliseconds since 1970; `input_sequence_hashes` name the full blocks of a prompt, `trace_block_size` tokens each.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Fields, Items, Names};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS};
use crate::{TimeUnit, Trace, TraceError, TraceForm, TraceRow};

/// Reads the requests of a file; records of anything else are counted.
pub(super) fn read(input: &mut dyn BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let (mut trace, mut names) = (Trace::default(), Names::default());
    let mut items = Items::new(input);
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        let record = Fields::new(item.line, &object);
        let request = record.object("event")?.map(|event| event.object("request")).transpose()?.flatten();
        let Some(request) = request else {
            trace.notes.other_records.add(item.line);
            continue;
        };
        let row = row(&request, form, &mut trace)?;
        match row.filter(|row| row.input_length != Some(0) && row.output_length > 0) {
            Some(row) => {
                names.add(&request, "request_id", "")?;
                trace.rows.push(row);
            }
            None => trace.notes.without_tokens.add(item.line),
        }
    }
    Ok(trace)
}

/// The row of a request; `None` if it has no output, as one that failed.
fn row(request: &Fields, form: &TraceForm, trace: &mut Trace) -> Result<Option<TraceRow>, TraceError> {
    let Some(output_length) = request.tokens("output_tokens", MAX_OUTPUT_TOKENS)? else { return Ok(None) };
    let time = "request_received_ms";
    let timestamp_ms = request.time_ms(time, form.unit.unwrap_or(TimeUnit::Ms))?;
    let timestamp_ms = timestamp_ms.ok_or_else(|| request.missing(time, "when the request came"))?;
    let replay = request.object("replay")?;
    let length = match &replay {
        Some(replay) => replay.tokens("input_length", MAX_INPUT_TOKENS)?,
        None => None,
    };
    let input_length = match length {
        Some(length) => length,
        None => request.needed_tokens("input_tokens", MAX_INPUT_TOKENS)?,
    };
    let hashes = replay.as_ref().map(|replay| hashes(replay, trace)).transpose()?.unwrap_or_default();
    Ok(Some(TraceRow {
        line: request.line,
        session_id: request.name("session_id")?,
        timestamp_ms: Some(timestamp_ms),
        input_length: Some(input_length),
        output_length,
        shares_nothing: hashes.is_empty(),
        hash_runs: hashes.into_iter().map(|hash| hash..=hash).collect(),
        ..TraceRow::default()
    }))
}

/// The hashes of the blocks of a prompt, whose size must be that of the others.
fn hashes(replay: &Fields, trace: &mut Trace) -> Result<Vec<u64>, TraceError> {
    let (key, list) = ("trace_block_size", "input_sequence_hashes");
    let Some(hashes) = replay.list(list)? else { return Ok(Vec::new()) };
    let size = replay.tokens(key, u64::from(u32::MAX))?;
    let size = size.ok_or_else(|| replay.missing(key, "the number of tokens that a hash stands for"))?;
    let first = u64::from(*trace.stated_block_size.get_or_insert(size as u32));
    if size == 0 || size != first {
        let expected =
            if size == 0 { "at least 1".to_owned() } else { format!("{first}, as in the lines before") };
        return Err(replay.wrong(key, &size.into(), expected));
    }
    let hash = |(place, value): (usize, &Value)| {
        let wrong = || {
            replay.wrong(&format!("{list}[{place}]"), value, format!("a whole number from 0 to {}", u64::MAX))
        };
        value.as_u64().ok_or_else(wrong)
    };
    hashes.iter().enumerate().map(hash).collect()
}
