//! Rows with the text of prompts instead of lengths and ids: `text_input`, `prompt` or `messages` (in `body`, too), with
//! `output_length`, and with `timestamp`, `delay` (ms) and `session_id` as rows of Mooncake have them.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Fields, Items};
use super::texts::{Prompt, Texts};
use crate::row::{MAX_OUTPUT_TOKENS, hash_runs};
use crate::unit::date_ms;
use crate::{TimeUnit, Trace, TraceError, TraceForm, TraceRow};

/// What the number of tokens to generate is called.
const OUTPUT: [&str; 4] = ["output_length", "output_tokens", "max_completion_tokens", "max_tokens"];

/// Reads the rows of a file.
pub(super) fn read(input: &mut dyn BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let unit = form.unit.unwrap_or(TimeUnit::Ms);
    let mut trace = Trace { token_ids: true, numbered_texts: true, ..Trace::default() };
    let (mut texts, mut items) = (Texts::new(form.tokenizer.as_ref()), Items::new(input));
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        let outer = Fields::new(item.line, &object);
        let row = outer.object("body")?.unwrap_or_else(|| outer.clone());
        let mut prompt = Prompt::default();
        add_prompt(&row, &mut texts, &mut prompt)?;
        let mut text_row = TraceRow {
            line: item.line,
            session_id: outer.name("session_id")?,
            timestamp_ms: timestamp_ms(&outer, unit)?,
            delay_ms: delay_ms(&outer, unit)?,
            input_length: Some(prompt.tokens()),
            output_length: output_length(&row)?,
            hash_runs: hash_runs(prompt.runs),
            links: outer.links()?,
            ..TraceRow::default()
        };
        outer.add_labels(&mut text_row)?;
        trace.rows.push(text_row);
    }
    Ok(trace)
}

/// The time after the turn before, in ms, by whichever name it has.
fn delay_ms(row: &Fields, unit: TimeUnit) -> Result<Option<f64>, TraceError> {
    let given = [("delay", unit), ("delay_ms", TimeUnit::Ms), ("tool_wait_ms", TimeUnit::Ms)];
    let mut given = given.into_iter().filter(|(key, _)| row.get(key).is_some());
    let Some((key, unit)) = given.next() else { return Ok(None) };
    if let Some((second, _)) = given.next() {
        return Err(TraceError::BothNames { line: row.line, first: key, second });
    }
    row.duration_ms(key, unit)
}

/// A number, or a date.
fn timestamp_ms(row: &Fields, unit: TimeUnit) -> Result<Option<f64>, TraceError> {
    match row.get("timestamp").and_then(Value::as_str).and_then(date_ms) {
        Some(ms) => Ok(Some(ms)),
        None => row.time_ms("timestamp", unit),
    }
}

fn output_length(row: &Fields) -> Result<u64, TraceError> {
    for key in OUTPUT {
        if let Some(tokens) = row.tokens(key, MAX_OUTPUT_TOKENS)? {
            let wrong = || row.wrong(key, &0.into(), crate::row::tokens_up_to(MAX_OUTPUT_TOKENS));
            return Some(tokens).filter(|tokens| *tokens > 0).ok_or_else(wrong);
        }
    }
    Err(row.missing(OUTPUT[0], "the number of tokens to generate: a run cannot know where an answer ends"))
}

fn add_prompt(row: &Fields, texts: &mut Texts<'_>, prompt: &mut Prompt) -> Result<(), TraceError> {
    let given: Vec<&str> = ["text_input", "prompt", "messages", "input_length"]
        .into_iter()
        .filter(|key| row.get(key).is_some())
        .collect();
    if let [first, second, ..] = given[..] {
        let expected = format!("left out beside `{second}`, which says what the prompt is, too");
        return Err(row.wrong(first, row.get(first).unwrap_or(&Value::Null), expected));
    }
    let key = given.first().copied().unwrap_or("text_input");
    if key == "messages" {
        for message in row.elements(key)? {
            let message = message?;
            let role = message.name("role")?.unwrap_or_default();
            for text in parts(&message)? {
                texts.add(prompt, &role, text, row.line)?;
            }
        }
    } else {
        let text = row.text(key)?.ok_or_else(|| row.missing(key, "the text of the prompt"))?;
        texts.add(prompt, "", text, row.line)?;
    }
    if prompt.tokens() == 0 {
        let value = row.get(key).unwrap_or(&Value::Null);
        return Err(row.wrong(key, value, "text of at least one token"));
    }
    Ok(())
}

/// The texts of a message: one, or a list of parts, some of which may be something else.
fn parts<'a>(message: &Fields<'a>) -> Result<Vec<&'a str>, TraceError> {
    match message.get("content") {
        None => Ok(Vec::new()),
        Some(Value::Array(parts)) => Ok(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        Some(_) => Ok(message.text("content")?.into_iter().collect()),
    }
}
