//! JSON Lines with one request per line: Mooncake's and what is like it, the Bailian (Qwen) traces, workloads with token
//! ids.
//!
//! Keys: `timestamp` (or `created_time`), `input_length` (or `input_tokens`), `output_length` (or
//! `output_tokens`), `hash_ids`, `output_hash_ids`, `session_id`, `delay` (or `delay_ms`), `priority`. Null means that
//! a key is not there. A workload with token ids has other keys: `arrival_time_ns`, `input_toks`, `output_toks`,
//! `input_tok_ids` and `output_tok_ids`; all rows of a trace are of one kind. `max_output_toks` is how many tokens were asked
//! for where the output ended before. Blank lines, CRLF and a byte order mark at
//! the start are skipped; unknown keys are counted unless they look like a slip of the pen.

use std::io::BufRead;
use std::str;

use rustc_hash::FxHashSet;
use serde_json::value::RawValue;

use super::table::{self, TableRows};
use crate::fields::{self, Object};
use crate::reader::not_json;
use crate::{Columns, Noted, Recognised, TimeUnit, Trace, TraceError, TraceForm, TraceRow};

/// Reads rows, or a table if the first line is the header of one.
pub(crate) fn read(reader: &mut impl BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let mut reader = RowReader::new(reader, form);
    reader.seen.parents = Some(Parents::default());
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        rows.push(row);
    }
    let RowReader { mut trace, mut seen, .. } = reader;
    trace.rows = rows;
    trace.notes.unknown_parents = seen.parents.take().map(Parents::unknown).unwrap_or_default();
    if trace.rows.is_empty() {
        return Err(TraceError::NoRows);
    }
    seen.settle_unit(&mut trace)?;
    Ok(trace)
}

/// Reads rows one after the other, with times as they stand in the file unless somebody gave their unit.
pub(crate) struct RowReader<R: BufRead> {
    form: TraceForm,
    /// Where lines come from; none behind the header of a table.
    lines: Option<R>,
    table: Option<TableRows<R>>,
    line: u64,
    /// Kept for their memory.
    bytes: Vec<u8>,
    ids: Vec<u64>,
    /// What is known of the trace so far, without its rows.
    pub(crate) trace: Trace,
    pub(crate) seen: Seen,
}

impl<R: BufRead> RowReader<R> {
    pub(crate) fn new(lines: R, form: &TraceForm) -> Self {
        Self {
            form: form.clone(),
            lines: Some(lines),
            table: None,
            line: 0,
            bytes: Vec::new(),
            ids: Vec::new(),
            trace: Trace::default(),
            seen: Seen::of(form.unit),
        }
    }

    /// The next row; `None` at the end.
    pub(crate) fn next_row(&mut self) -> Result<Option<TraceRow>, TraceError> {
        while let Some(lines) = &mut self.lines {
            self.line += 1;
            let line = self.line;
            self.bytes.clear();
            let read = lines.read_until(b'\n', &mut self.bytes);
            if read.map_err(|source| TraceError::Read { line, source })? == 0 {
                self.lines = None;
                return Ok(None);
            }
            let mut text = self.bytes.as_slice();
            if line == 1 {
                text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
            }
            let text = str::from_utf8(text)
                .map_err(|error| TraceError::NotUtf8 { line, byte: error.valid_up_to() + 1 })?
                .trim_ascii_end();
            if line == 1
                && let Some((columns, unit)) = columns(text, &self.form)
            {
                self.seen.unit = self.form.unit.or(unit);
                let rows = self.lines.take().expect("its first line was read");
                self.table = Some(TableRows::new(text, rows, columns, self.seen.unit)?);
            } else if !text.trim_ascii_start().is_empty() {
                return read_row(text, line, &mut self.ids, &mut self.trace, &mut self.seen).map(Some);
            }
        }
        match &mut self.table {
            Some(table) => table.next_row(&mut self.trace.notes, &mut self.seen),
            None => Ok(None),
        }
    }
}

/// The columns of a table whose first line this is, and the unit of its times if it is that of a known tool.
fn columns(header: &str, form: &TraceForm) -> Option<(Columns, Option<TimeUnit>)> {
    match &form.columns {
        Some(columns) => Some((columns.clone(), None)),
        None => table::known_columns(header).map(|(columns, unit)| (columns, Some(unit))),
    }
}

/// What the rows of a trace say about its times.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The unit that somebody gave, or that of a known form.
    unit: Option<TimeUnit>,
    /// Whether timestamps are dates.
    dated: Option<bool>,
    /// Rows that are JSON objects.
    objects: usize,
    /// Those of the Bailian traces.
    chats: usize,
    /// What these build on, if anybody wants to know, which takes memory for each of them.
    parents: Option<Parents>,
}

/// The rows of a Bailian trace by name, and what each builds on.
#[derive(Debug, Default)]
struct Parents {
    names: FxHashSet<Box<str>>,
    /// Parents, and the lines of their rows.
    named: Vec<(Box<str>, u64)>,
}

impl Parents {
    fn add(&mut self, chat: &str, parent: &str, line: u64) {
        /// What stands for no parent.
        const NONE: [&str; 2] = ["-1", "null"];
        self.names.insert(chat.into());
        if !NONE.contains(&parent) {
            self.named.push((parent.into(), line));
        }
    }

    /// The rows whose parent is none of the rows.
    fn unknown(self) -> Noted {
        let mut unknown = Noted::default();
        let missing = self.named.iter().filter(|(parent, _)| !self.names.contains(parent));
        missing.for_each(|(_, line)| unknown.add(*line));
        unknown
    }
}

impl Seen {
    /// Nothing yet, of times in `unit` if somebody gave one.
    pub(super) fn of(unit: Option<TimeUnit>) -> Self {
        Self { unit, ..Self::default() }
    }

    /// Refuses dates among numbers and the reverse.
    pub(super) fn note_dated(&mut self, dated: bool, line: u64) -> Result<(), TraceError> {
        if *self.dated.get_or_insert(dated) == dated { Ok(()) } else { Err(TraceError::MixedTimes { line }) }
    }

    /// Brings timestamps to milliseconds that are in another unit beyond doubt, and notes what is odd about them.
    pub(super) fn settle_unit(&self, trace: &mut Trace) -> Result<(), TraceError> {
        if self.unit.is_none()
            && !trace.token_ids
            && let Some(line) = mixed_units(&trace.rows)
        {
            return Err(TraceError::MixedUnits { line });
        }
        let recognised = self.recognised(trace);
        trace.block_size = recognised.and_then(Recognised::block_size);
        trace.notes.recognised = recognised;
        if let Some(unit) = self.unit {
            trace.notes.overruled_unit = Some(unit).filter(|unit| trace.token_ids && *unit != TimeUnit::Ns);
            return Ok(());
        }
        let unit = match recognised {
            Some(Recognised::Epoch(unit)) => unit,
            Some(Recognised::Chats) => TimeUnit::S,
            Some(Recognised::Dates) | None => TimeUnit::Ms,
        };
        for row in &mut trace.rows {
            row.timestamp_ms = row.timestamp_ms.map(|time| unit.to_ms(time));
            row.check()?;
        }
        trace.notes.odd_rate = recognised.is_none().then(|| odd_rate(&trace.rows)).flatten();
        Ok(())
    }

    /// What the first row alone tells of times.
    pub(crate) fn recognised_at_once(&self, first: &TraceRow, token_ids: bool) -> Option<Recognised> {
        if self.dated == Some(true) {
            return Some(Recognised::Dates);
        }
        if self.chats > 0 {
            return Some(Recognised::Chats);
        }
        let time = first.timestamp_ms.filter(|_| !token_ids && self.unit.is_none());
        time.and_then(TimeUnit::of_epoch).map(Recognised::Epoch)
    }

    /// Whether all rows so far are those of the Bailian traces.
    pub(crate) fn are_chats(&self) -> bool {
        self.chats == self.objects
    }

    /// The unit of times that somebody gave, or that of a known form.
    pub(crate) fn unit(&self) -> Option<TimeUnit> {
        self.unit
    }

    fn recognised(&self, trace: &Trace) -> Option<Recognised> {
        if self.dated == Some(true) {
            return Some(Recognised::Dates);
        }
        if self.chats == trace.rows.len() {
            return Some(Recognised::Chats);
        }
        if trace.token_ids || self.unit.is_some() {
            return None;
        }
        let mut times = trace.rows.iter().filter_map(|row| row.timestamp_ms);
        let unit = times.next().and_then(TimeUnit::of_epoch)?;
        times.all(|time| TimeUnit::of_epoch(time) == Some(unit)).then_some(Recognised::Epoch(unit))
    }
}

/// Requests per second, if they are so many or few that the times are probably in another unit.
fn odd_rate(rows: &[TraceRow]) -> Option<f64> {
    let mut span = Span::default();
    rows.iter().filter_map(|row| row.timestamp_ms).for_each(|ms| span.add(ms));
    span.odd_rate()
}

/// How many requests come from when to when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    times: usize,
    first_ms: f64,
    last_ms: f64,
}

impl Default for Span {
    fn default() -> Self {
        Self { times: 0, first_ms: f64::INFINITY, last_ms: f64::NEG_INFINITY }
    }
}

impl Span {
    /// Another request comes then.
    pub(crate) fn add(&mut self, ms: f64) {
        self.times += 1;
        self.first_ms = self.first_ms.min(ms);
        self.last_ms = self.last_ms.max(ms);
    }

    /// Requests per second, if they are so many or few that the times are probably in another unit.
    pub(crate) fn odd_rate(self) -> Option<f64> {
        /// More than one deployment serves.
        const MOST: f64 = 1000.0;
        /// A request every two minutes.
        const LEAST: f64 = 1.0 / 120.0;
        let (gaps, span_ms) = (self.times.saturating_sub(1), self.last_ms - self.first_ms);
        let rate = gaps as f64 / (span_ms / 1e3);
        // Two far apart may well be meant.
        let is_odd = rate > MOST || (rate < LEAST && gaps > 1);
        (span_ms > 0.0 && is_odd).then_some(rate)
    }
}

fn read_row(
    text: &str,
    line: u64,
    ids: &mut Vec<u64>,
    trace: &mut Trace,
    seen: &mut Seen,
) -> Result<TraceRow, TraceError> {
    let starts_an_object = text.trim_ascii_start().starts_with('{');
    if !starts_an_object && let Ok(value) = serde_json::from_str::<&RawValue>(text) {
        return Err(TraceError::NotObject { line, found: fields::described(value.get()) });
    }
    let mut object = Object::parse(text, ids).map_err(|error| not_json(text, line, &error))?;
    let row = object.row(line, seen.unit)?;
    if row.timestamp_ms.is_some() {
        seen.note_dated(object.is_dated(), line)?;
    }
    if let Some((chat, parent)) = object.chat_and_parent() {
        seen.chats += 1;
        // It is the class of the request.
        object.unknown.retain(|key| key != "type");
        if let Some(parents) = &mut seen.parents {
            parents.add(chat, parent, line);
        }
    }
    seen.objects += 1;
    if seen.objects == 1 {
        trace.token_ids = object.has_token_ids();
    } else if trace.token_ids != object.has_token_ids() {
        return Err(TraceError::OtherKind { line, token_ids: trace.token_ids });
    }
    if !object.unknown.is_empty() {
        trace.notes.note_ignored_keys(object.unknown);
    }
    Ok(row)
}

/// The first row whose time is in another unit than that of the first, where all are times since 1970 by their size.
fn mixed_units(rows: &[TraceRow]) -> Option<u64> {
    let since_1970 = |ms: f64| {
        let is_ms = (1e12..1e14).contains(&ms);
        TimeUnit::of_epoch(ms).or(is_ms.then_some(TimeUnit::Ms))
    };
    let (mut first, mut other) = (None, None);
    for row in rows {
        let unit = since_1970(row.timestamp_ms?)?;
        if *first.get_or_insert(unit) != unit {
            other = other.or(Some(row.line));
        }
    }
    other
}
