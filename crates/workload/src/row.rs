//! One line of a trace, and how it is written.

use std::io::{self, Write};
use std::ops::{Range, RangeInclusive};

use serde::Serialize;

use crate::graph::Links;
use crate::{TimeUnit, TraceError};

/// The longest output that a trace may ask for, in tokens: longer than any served model generates.
pub const MAX_OUTPUT_TOKENS: u64 = 999_999;

/// The longest prompt that a trace may hold, in tokens.
pub const MAX_INPUT_TOKENS: u64 = 1_000_000_000;

/// The largest timestamp (either sign) and delay in milliseconds: 570 years, which fit 64-bit nanoseconds.
pub const MAX_TIME_MS: f64 = 1.8e13;

/// What one line of a Mooncake trace says, in the units of the file.
///
/// Readers and generators make rows; [`Workload::from_rows`](crate::Workload::from_rows) makes sense of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TraceRow {
    /// Line in the file from 1, blank lines included; a generator numbers its rows.
    pub line: u64,
    /// The session that this is the next turn of; `None` is a session of its own.
    pub session_id: Option<String>,
    /// Arrival in milliseconds, from any origin.
    pub timestamp_ms: Option<f64>,
    /// Milliseconds between the end of the turn before and this turn.
    pub delay_ms: Option<f64>,
    /// Prompt length in tokens; `None` is as many as `hash_ids` cover.
    pub input_length: Option<u64>,
    /// Output length in tokens.
    pub output_length: u64,
    /// Content of the prompt, one id per trace block; equal ids are equal content.
    pub hash_ids: Vec<u64>,
    /// The same as ranges of consecutive ids, in place of `hash_ids`. Tokens behind them are the row's own.
    pub hash_runs: Vec<RangeInclusive<u64>>,
    /// Whether its prompt has nothing in common with any other: a table of lengths says nothing of content. There are
    /// no `hash_ids` then.
    pub shares_nothing: bool,
    /// Content of the output from its first token on, one id per trace block; empty if nobody says.
    pub output_ids: Vec<u64>,
    /// Scheduling priority, 0 unless the trace says otherwise.
    pub priority: i32,
    /// Tokens that were asked for, if the output ended by itself before; no less than `output_length`.
    pub max_output: Option<u32>,
    /// The class of requests that it is one of, for which figures are told apart.
    pub class: Option<Box<str>>,
    /// The LoRA adapter that it asks for: prompts under different adapters share nothing.
    pub lora: Option<Box<str>>,
    /// The grammar of its structured output: one that is equal has the same name.
    pub grammar: Option<Box<str>>,
    /// What it says of other rows, if anything.
    pub links: Option<Box<Links>>,
}

impl TraceRow {
    /// Refuses values that no trace may hold, whoever made the row.
    pub(crate) fn check(&self) -> Result<(), TraceError> {
        let value = |field: &str, found: String, expected: String| {
            Err(TraceError::Value { line: self.line, field: field.into(), found, expected })
        };
        if let Some(length) = self.input_length
            && !(1..=MAX_INPUT_TOKENS).contains(&length)
        {
            return value("input_length", length.to_string(), tokens_up_to(MAX_INPUT_TOKENS));
        }
        if !(1..=MAX_OUTPUT_TOKENS).contains(&self.output_length) {
            return value("output_length", self.output_length.to_string(), tokens_up_to(MAX_OUTPUT_TOKENS));
        }
        if let Some(most) = self.max_output.map(u64::from)
            && !(self.output_length..=MAX_OUTPUT_TOKENS).contains(&most)
        {
            let expected = format!(
                "a whole number of tokens from {}, which were generated, to {MAX_OUTPUT_TOKENS}",
                self.output_length
            );
            return value("max_output_toks", most.to_string(), expected);
        }
        if let Some(ms) = self.timestamp_ms
            && !is_timestamp(ms)
        {
            return value("timestamp", format!("{ms:e}"), timestamp_in(TimeUnit::Ms));
        }
        if let Some(ms) = self.delay_ms
            && !is_delay(ms)
        {
            return value("delay", format!("{ms:e}"), delay_in(TimeUnit::Ms));
        }
        Ok(())
    }
}

/// What a timestamp in this unit must be, in words.
pub(crate) fn timestamp_in(unit: TimeUnit) -> String {
    let most = MAX_TIME_MS / unit.to_ms(1.0);
    format!("a number of {} from -{most:e} to {most:e}", unit.name())
}

/// What a delay in this unit must be, in words.
pub(crate) fn delay_in(unit: TimeUnit) -> String {
    format!("a number of {} from 0 to {:e}", unit.name(), MAX_TIME_MS / unit.to_ms(1.0))
}

/// Ranges of ids, none of them empty, as a row has them.
pub(crate) fn hash_runs(ranges: Vec<Range<u64>>) -> Vec<RangeInclusive<u64>> {
    ranges.into_iter().map(|range| range.start..=range.end - 1).collect()
}

pub(crate) fn tokens_up_to(max: u64) -> String {
    format!("a whole number of tokens from 1 to {max}")
}

pub(crate) fn is_timestamp(ms: f64) -> bool {
    ms.abs() <= MAX_TIME_MS
}

pub(crate) fn is_delay(ms: f64) -> bool {
    (0.0..=MAX_TIME_MS).contains(&ms)
}

/// Writes rows as Mooncake JSON Lines: one object per row, keys without a value left out.
///
/// [`read_mooncake`](crate::read_mooncake) reads the same rows back, but numbers their lines from 1.
///
/// # Errors
/// When `out` fails, or with [`io::ErrorKind::InvalidInput`] if a time is not finite: JSON cannot say it.
pub fn write_mooncake(rows: &[TraceRow], mut out: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    for row in rows {
        line.clear();
        let links = row.links.as_deref();
        let json = JsonRow {
            session_id: row.session_id.as_deref(),
            timestamp: row.timestamp_ms.map(Milliseconds::new).transpose()?,
            delay: row.delay_ms.map(Milliseconds::new).transpose()?,
            input_length: row.input_length,
            output_length: row.output_length,
            hash_ids: &row.hash_ids,
            output_hash_ids: &row.output_ids,
            priority: (row.priority != 0).then_some(row.priority),
            max_output_toks: row.max_output,
            class: row.class.as_deref(),
            lora: row.lora.as_deref(),
            grammar: row.grammar.as_deref(),
            request_id: links.and_then(|links| links.request_id.as_deref()),
            wait_for: links.and_then(|links| links.wait_for.as_deref()),
            branches: links.map_or(&[], |links| &links.branches),
            prefix_reset: links.is_some_and(|links| links.prefix_reset),
        };
        serde_json::to_writer(&mut line, &json)?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    out.flush()
}

#[derive(Serialize)]
struct JsonRow<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Milliseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Milliseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_length: Option<u64>,
    output_length: u64,
    hash_ids: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    output_hash_ids: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_toks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grammar: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_for: Option<&'a [Box<str>]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    branches: &'a [Box<str>],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    prefix_reset: bool,
}

/// A time in a file: whole ones without a fraction, since some readers of such traces take only integers.
#[derive(Serialize)]
#[serde(untagged)]
enum Milliseconds {
    Whole(i64),
    Fraction(f64),
}

impl Milliseconds {
    fn new(ms: f64) -> io::Result<Self> {
        const EXACT: f64 = (1_u64 << 53) as f64;
        if !ms.is_finite() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{ms} ms cannot be written as JSON"),
            ));
        }
        Ok(if ms.fract() == 0.0 && ms.abs() < EXACT { Self::Whole(ms as i64) } else { Self::Fraction(ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(row: TraceRow) -> String {
        let mut out = Vec::new();
        write_mooncake(&[row], &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_a_row_has_is_written() {
        let row = TraceRow { line: 1, output_length: 7, hash_ids: vec![3, u64::MAX], ..TraceRow::default() };
        assert_eq!(written(row), "{\"output_length\":7,\"hash_ids\":[3,18446744073709551615]}\n");
    }

    #[test]
    fn whole_times_have_no_fraction() {
        let row = TraceRow {
            timestamp_ms: Some(27000.0),
            delay_ms: Some(0.1),
            output_length: 1,
            priority: -2,
            max_output: Some(3),
            ..TraceRow::default()
        };
        assert_eq!(
            written(row),
            "{\"timestamp\":27000,\"delay\":0.1,\"output_length\":1,\"hash_ids\":[],\"priority\":-2,\"max_output_toks\":3}\n"
        );
    }

    #[test]
    fn a_time_that_json_cannot_say_is_refused() {
        let row = TraceRow { timestamp_ms: Some(f64::NAN), ..TraceRow::default() };
        let error = write_mooncake(&[row], Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "NaN ms cannot be written as JSON");
    }
}
