//! `profile_export.jsonl` of AIPerf: a record for each request, with stamps in nanoseconds and metrics that say their
//! units.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Fields, Items, number};
use super::measured::{Measured, MeasuredRequest, ends_too_early};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, delay_in, is_delay};
use crate::{TimeUnit, TraceError};

/// Reads the records of a file; those of the warm-up, and requests that failed, are only counted.
pub(super) fn read(input: &mut dyn BufRead) -> Result<Measured, TraceError> {
    let mut measured = Measured { runs: 1, ..Measured::default() };
    let mut items = Items::new(input);
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        let record = Fields::new(item.line, &object);
        let metadata = record.object("metadata")?.ok_or_else(|| record.missing("metadata", "an object"))?;
        let phase = metadata.name("benchmark_phase")?;
        let was_cancelled = match metadata.get("was_cancelled") {
            None => false,
            Some(Value::Bool(was_cancelled)) => *was_cancelled,
            Some(other) => return Err(metadata.wrong("was_cancelled", other, "true or false")),
        };
        if phase.is_some_and(|phase| phase != "profiling") {
            measured.warmups.add(item.line);
        } else if record.get("error").is_some() || was_cancelled {
            measured.failed.add(item.line);
        } else {
            let request = request(&record, &metadata)?;
            if request.input_tokens == 0 || request.output_tokens == 0 {
                measured.failed.add(item.line);
            } else {
                measured.requests.push(request);
            }
        }
    }
    Ok(measured)
}

fn request(record: &Fields, metadata: &Fields) -> Result<MeasuredRequest, TraceError> {
    let metrics = record.object("metrics")?.ok_or_else(|| record.missing("metrics", "an object"))?;
    let tokens = |key: &str, most| {
        let metric = Metric::of(&metrics, key)?;
        let metric = metric.ok_or_else(|| metrics.missing(key, "a metric with a number of tokens"))?;
        metric.tokens(most)
    };
    let seconds = |key: &str| Metric::of(&metrics, key)?.map(|metric| metric.seconds()).transpose();
    let sent_ms = metadata.time_ms("request_start_ns", TimeUnit::Ns)?;
    let sent_ms = sent_ms.ok_or_else(|| metadata.missing("request_start_ns", "when the request was sent"))?;
    let (ttft_s, e2e_s) = (seconds("time_to_first_token")?, seconds("request_latency")?);
    if let Some(expected) = ends_too_early(ttft_s, e2e_s)
        && let Some(value) = metrics.get("request_latency")
    {
        return Err(metrics.wrong("request_latency", value, expected));
    }
    // A conversation can be sent several times; each time is a session with an id of its own.
    let session = match metadata.name("x_correlation_id")? {
        None => metadata.name("conversation_id")?,
        id => id,
    };
    Ok(MeasuredRequest {
        line: record.line,
        session,
        sent_s: Some(sent_ms / 1e3),
        input_tokens: tokens("input_sequence_length", MAX_INPUT_TOKENS)?,
        output_tokens: tokens("output_sequence_length", MAX_OUTPUT_TOKENS)?,
        ttft_s,
        e2e_s,
        gaps_s: Vec::new(),
    })
}

/// A metric: an object with value and unit, or a bare number.
enum Metric<'a> {
    WithUnit(Fields<'a>),
    Bare(&'a Fields<'a>, &'a str),
}

impl<'a> Metric<'a> {
    fn of(metrics: &'a Fields<'a>, key: &'a str) -> Result<Option<Self>, TraceError> {
        Ok(match metrics.get(key) {
            None => None,
            Some(Value::Object(_)) => metrics.object(key)?.map(Self::WithUnit),
            Some(_) => Some(Self::Bare(metrics, key)),
        })
    }

    fn place(&self) -> (&Fields<'a>, &str) {
        match self {
            Self::WithUnit(fields) => (fields, "value"),
            Self::Bare(fields, key) => (fields, key),
        }
    }

    fn tokens(&self, most: u64) -> Result<u64, TraceError> {
        let (fields, key) = self.place();
        fields.needed_tokens(key, most)
    }

    fn seconds(&self) -> Result<f64, TraceError> {
        let (fields, key) = self.place();
        let value = fields.get(key).ok_or_else(|| fields.missing(key, "a time"))?;
        let Self::WithUnit(_) = self else {
            return Err(fields.wrong(key, value, "an object with the `value` of a time and its `unit`"));
        };
        let unit = match fields.get("unit").and_then(Value::as_str).unwrap_or("") {
            "s" | "sec" => TimeUnit::S,
            "ms" => TimeUnit::Ms,
            "us" => TimeUnit::Us,
            "ns" => TimeUnit::Ns,
            other => {
                return Err(fields.wrong("unit", &other.into(), "sec, ms, us or ns: `value` is a time"));
            }
        };
        let ms = number(value).map(|time| unit.to_ms(time)).filter(|ms| is_delay(*ms));
        ms.map(|ms| ms / 1e3).ok_or_else(|| fields.wrong(key, value, delay_in(unit)))
    }
}
