//! Agentic sessions as lengths of turns: a session a line, with the first prompt, and for each call of a tool what the
//! model said before it, what the tool said and how long it took (seconds). A prompt is all that came before.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Fields, Items};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS};
use crate::{TimeUnit, Trace, TraceError, TraceForm, TraceRow, Turns};

const SAID: &str = "assistant_response_length";
const TOOL: &str = "tool_call_output_length";
const TOOK: &str = "tool_call_latency";

/// Reads the sessions of a file; no text has no times.
pub(super) fn read(input: &mut dyn BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let unit = form.unit.unwrap_or(TimeUnit::S);
    let mut trace = Trace { token_ids: true, turns: Some(Turns::Delta), ..Trace::default() };
    let mut items = Items::new(input);
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        session(&Fields::new(item.line, &object), unit, &mut trace)?;
    }
    Ok(trace)
}

fn session(session: &Fields, unit: TimeUnit, trace: &mut Trace) -> Result<(), TraceError> {
    let numbers = "a list with a number for each call of a tool";
    let turns = session.needed_tokens("num_turns", MAX_INPUT_TOKENS)?;
    for key in [SAID, TOOL, TOOK] {
        let list = session.needed_list(key, numbers)?;
        if list.len() as u64 != turns {
            let value = session.get(key).unwrap_or(&Value::Null);
            let expected = format!("a list of {turns}, which is `num_turns`");
            return Err(session.wrong(key, value, expected));
        }
    }
    let mut row = |new: u64, output: u64, delay_ms: Option<f64>| -> Result<(), TraceError> {
        if new == 0 || output == 0 {
            trace.notes.made_one_token.add(session.line);
        }
        let mut row = TraceRow {
            line: session.line,
            session_id: Some(format!("line {}", session.line)),
            delay_ms,
            input_length: Some(new.max(1)),
            output_length: output.max(1),
            shares_nothing: true,
            ..TraceRow::default()
        };
        session.add_labels(&mut row)?;
        trace.rows.push(row);
        Ok(())
    };
    let mut new = session.needed_tokens("input_prompt_length", MAX_INPUT_TOKENS)?;
    let mut delay_ms = None;
    for place in 0..turns as usize {
        row(new, session.tokens_at(SAID, place, MAX_OUTPUT_TOKENS)?, delay_ms)?;
        new = session.tokens_at(TOOL, place, MAX_INPUT_TOKENS)?;
        delay_ms = Some(session.duration_ms_at(TOOK, place, unit)?);
    }
    row(new, session.needed_tokens("final_assistant_response_length", MAX_OUTPUT_TOKENS)?, delay_ms)
}
