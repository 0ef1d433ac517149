//! Conversations in the form of ShareGPT: a list of objects, whose `conversations` are messages of `human` and `gpt` in
//! turn. What `gpt` says is what a request generates; it has no times.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Fields, Items};
use super::texts::{Prompt, Texts};
use crate::row::hash_runs;
use crate::{Trace, TraceError, TraceForm, TraceRow, Turns};

/// Reads the conversations of a file: a session each, with a turn for each answer.
pub(super) fn read(input: &mut dyn BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let mut trace =
        Trace { token_ids: true, numbered_texts: true, turns: Some(Turns::Delta), ..Trace::default() };
    let (mut texts, mut items, mut number) = (Texts::new(form.tokenizer.as_ref()), Items::new(input), 0_u64);
    while let Some(item) = items.next()? {
        number += 1;
        let object: Map<String, Value> = item.parse()?;
        let conversation = Fields::new(item.line, &object);
        // Ids of parts of one conversation can be equal.
        let name = conversation.name("id")?.unwrap_or_default();
        add(&conversation, &format!("{name}#{number}"), &mut texts, &mut trace)?;
    }
    Ok(trace)
}

fn add(
    conversation: &Fields,
    name: &str,
    texts: &mut Texts<'_>,
    trace: &mut Trace,
) -> Result<(), TraceError> {
    let (mut prompt, line) = (Prompt::default(), conversation.line);
    for message in conversation.elements("conversations")? {
        let message = message?;
        let from = message.name("from")?.ok_or_else(|| message.missing("from", "`human` or `gpt`"))?;
        let text = message.text("value")?.unwrap_or_default();
        let is_answer = matches!(from.as_str(), "gpt" | "chatgpt" | "assistant" | "bing" | "bard" | "model");
        let role = if is_answer { "assistant" } else { &from };
        let asked = std::mem::take(&mut prompt.runs);
        texts.add(&mut prompt, role, text, line)?;
        if !is_answer {
            let said = std::mem::replace(&mut prompt.runs, asked);
            prompt.runs.extend(said);
        } else if asked.is_empty() || prompt.runs.is_empty() {
            // An answer to nothing is part of what the next one goes by.
            trace.notes.without_tokens.add(line);
            prompt.runs.splice(0..0, asked);
        } else {
            let output: Vec<u64> = std::mem::take(&mut prompt.runs).into_iter().flatten().collect();
            let mut row = TraceRow {
                line,
                session_id: Some(name.to_owned()),
                input_length: Some(asked.iter().map(|run| run.end - run.start).sum()),
                output_length: output.len() as u64,
                hash_runs: hash_runs(asked),
                output_ids: output,
                ..TraceRow::default()
            };
            conversation.add_labels(&mut row)?;
            trace.rows.push(row);
        }
    }
    Ok(())
}
