//! OpenTelemetry spans of calls to models, by the conventions for generative AI: one a line, or as OTLP exports them.
//! Times are nanoseconds since 1970.
//!
//! The calls under one parent span are a session: each waits for the one before it, and then as long as it did.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Fields, Items, Names, whole};
use super::measured::{Measured, MeasuredRequest};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, tokens_up_to};
use crate::{Noted, TimeUnit, TraceError};

/// Names of the numbers of tokens, the usual one and what it was before.
const INPUT: [&str; 2] = ["gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"];
const OUTPUT: [&str; 2] = ["gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"];

/// Reads the calls of a file, and counts spans that are none.
pub(super) fn read(input: &mut dyn BufRead) -> Result<(Measured, Noted), TraceError> {
    let (mut measured, mut others) = (Measured::default(), Noted::default());
    let mut names = Names::default();
    let mut items = Items::new(input);
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        let mut take = |span: &Fields| {
            match request(span)? {
                None => others.add(span.line),
                Some(request) if request.input_tokens == 0 || request.output_tokens == 0 => {
                    measured.failed.add(span.line);
                }
                Some(request) => {
                    names.add(span, "spanId", &span.name("traceId")?.unwrap_or_default())?;
                    measured.requests.push(request);
                }
            }
            Ok::<(), TraceError>(())
        };
        let export = Fields::new(item.line, &object);
        if export.get("resourceSpans").is_none() {
            take(&export)?;
            continue;
        }
        for resource in export.elements("resourceSpans")? {
            for scope in resource?.elements("scopeSpans")? {
                for span in scope?.elements("spans")? {
                    take(&span?)?;
                }
            }
        }
    }
    Ok((measured, others))
}

/// The call that a span is, if it is one.
fn request(span: &Fields) -> Result<Option<MeasuredRequest>, TraceError> {
    let (input, output) =
        (attribute(span, INPUT, MAX_INPUT_TOKENS)?, attribute(span, OUTPUT, MAX_OUTPUT_TOKENS)?);
    let (Some(input_tokens), Some(output_tokens)) = (input, output) else { return Ok(None) };
    let time = |key: &str| {
        let ms = span.time_ms(key, TimeUnit::Ns)?;
        ms.ok_or_else(|| span.missing(key, "a number of nanoseconds since 1970"))
    };
    let (start_ms, end_ms) = (time("startTimeUnixNano")?, time("endTimeUnixNano")?);
    if end_ms < start_ms {
        let value = span.get("endTimeUnixNano").unwrap_or(&Value::Null);
        return Err(span.wrong("endTimeUnixNano", value, "at or after `startTimeUnixNano`"));
    }
    let parent = span.name("parentSpanId")?.filter(|parent| !parent.is_empty());
    let trace = span.name("traceId")?;
    let session = parent.map(|parent| format!("{}/{parent}", trace.unwrap_or_default()));
    Ok(Some(MeasuredRequest {
        line: span.line,
        session,
        sent_s: Some(start_ms / 1e3),
        input_tokens,
        output_tokens,
        e2e_s: Some((end_ms - start_ms) / 1e3),
        ..MeasuredRequest::default()
    }))
}

/// A number of tokens among the attributes of a span: an object, or a list of keys with typed values.
fn attribute(span: &Fields, names: [&str; 2], most: u64) -> Result<Option<u64>, TraceError> {
    let Some(attributes) = span.get("attributes") else { return Ok(None) };
    for name in names {
        let value = match attributes {
            Value::Object(object) => object.get(name),
            Value::Array(list) => {
                let found = list.iter().find(|entry| entry["key"] == name);
                let value = found.and_then(|entry| entry["value"].as_object());
                value.and_then(|value| value.values().next())
            }
            other => return Err(span.wrong("attributes", other, "an object or a list")),
        };
        if let Some(value) = value.filter(|value| !value.is_null()) {
            let number = whole(value).or_else(|| value.as_str()?.parse().ok());
            let tokens = number.filter(|tokens| *tokens <= most);
            let wrong = || span.wrong(&format!("attributes.{name}"), value, tokens_up_to(most));
            return tokens.map(Some).ok_or_else(wrong);
        }
    }
    Ok(None)
}
