//! The lines of a Mooncake trace.

use std::io::BufRead;
use std::str;

use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::fields::{self, Object};
use crate::lengths::{self, Columns};
use crate::{Cut, Load, Recognised, TimeUnit, TraceError, TraceNotes, TraceRow, Workload};

/// A trace as it stands in its file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// Its rows, in file order; at least one.
    pub rows: Vec<TraceRow>,
    /// What was odd but could be read.
    pub notes: TraceNotes,
    /// Whether the hash ids of its rows are the ids of their tokens, each of which stands for itself.
    pub token_ids: bool,
    /// Tokens that a hash id is known to stand for, unless somebody says otherwise.
    pub block_size: Option<u32>,
}

impl Trace {
    /// The sessions of the trace, see [`Workload::from_rows`], with the notes of the reader among its own.
    pub fn workload(&self, cut: impl Into<Cut>, load: Load) -> Result<Workload, TraceError> {
        let workload = Workload::from_rows(&self.rows, self.cut(cut), load)?;
        Ok(with_notes(workload, self.notes.clone(), load))
    }

    /// As [`Trace::workload`], for a trace that is not needed again: its rows go as the sessions come.
    pub fn into_workload(self, cut: impl Into<Cut>, load: Load) -> Result<Workload, TraceError> {
        let cut = self.cut(cut);
        let workload = Workload::from_owned_rows(self.rows, cut, load)?;
        Ok(with_notes(workload, self.notes, load))
    }

    fn cut(&self, cut: impl Into<Cut>) -> Cut {
        let cut = cut.into();
        // What is no block size at all is refused with or without token ids.
        Cut { block_size: if self.token_ids { cut.block_size.min(1) } else { cut.block_size }, ..cut }
    }
}

/// The reader's notes beside those of the workload.
fn with_notes(mut workload: Workload, notes: TraceNotes, load: Load) -> Workload {
    let TraceNotes {
        ignored_keys,
        ignored_key_names,
        without_tokens,
        recognised,
        odd_rate,
        overruled_unit,
        ..
    } = notes;
    let of_rows = workload.notes;
    let is_open = matches!(load, Load::Open { .. });
    workload.notes = TraceNotes {
        ignored_keys,
        ignored_key_names,
        without_tokens,
        recognised,
        odd_rate: odd_rate.filter(|_| is_open),
        overruled_unit,
        ..of_rows
    };
    workload
}

/// Reads a trace, whose times are in milliseconds unless they are beyond doubt in another unit: see [`read_trace`].
///
/// # Errors
/// As there.
pub fn read_mooncake(reader: impl BufRead) -> Result<Trace, TraceError> {
    read_trace(reader, &TraceForm::default())
}

/// What somebody says of the form of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceForm {
    /// Unit of its times.
    pub unit: Option<TimeUnit>,
    /// It is a table, with these columns.
    pub columns: Option<Columns>,
}

impl From<TimeUnit> for TraceForm {
    fn from(unit: TimeUnit) -> Self {
        Self { unit: Some(unit), columns: None }
    }
}

/// Reads a trace: JSON Lines with one request per line, or a table with a header that has the `columns` of `form` or
/// those of a known tool (Azure, BurstGPT, Vidur, BLIS, ServeGen).
///
/// Keys: `timestamp` (or `created_time`), `input_length` (or `input_tokens`), `output_length` (or
/// `output_tokens`), `hash_ids`, `output_hash_ids`, `session_id`, `delay` (or `delay_ms`), `priority`. Null means that
/// a key is not there. A workload with token ids has other keys: `arrival_time_ns`, `input_toks`, `output_toks`,
/// `input_tok_ids` and `output_tok_ids`; all rows of a trace are of one kind. Blank lines, CRLF and a byte order mark at
/// the start are skipped; unknown keys are counted unless they look like a slip of the pen.
///
/// The unit is that of timestamps and of `delay`. Without one they are milliseconds (`arrival_time_ns` nanoseconds), but
/// for timestamps that are dates, are seconds, microseconds or nanoseconds since 1970 by their size, or stand in rows
/// of the Bailian traces: the notes say so.
///
/// # Errors
/// At the first line that cannot be read or holds something else, and when there is no row at all.
pub fn read_trace(mut reader: impl BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let mut trace = Trace::default();
    let mut seen = Seen { unit: form.unit, ..Seen::default() };
    let (mut bytes, mut ids) = (Vec::new(), Vec::new());
    for line in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(|source| TraceError::Read { line, source })? == 0 {
            break;
        }
        let mut text = bytes.as_slice();
        if line == 1 {
            check_format(text)?;
            text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        }
        let text = str::from_utf8(text)
            .map_err(|error| TraceError::NotUtf8 { line, byte: error.valid_up_to() + 1 })?
            .trim_ascii_end();
        if line == 1
            && let Some((columns, unit)) = table(text, form)
        {
            seen.unit = form.unit.or(unit);
            lengths::read(text, &mut reader, &columns, seen.unit, &mut trace, &mut seen)?;
            break;
        }
        if !text.trim_ascii_start().is_empty() {
            read_row(text, line, &mut ids, &mut trace, &mut seen)?;
        }
    }
    if trace.rows.is_empty() {
        return Err(TraceError::NoRows);
    }
    seen.settle_unit(&mut trace)?;
    Ok(trace)
}

/// The columns of a table whose first line this is, and the unit of its times if it is that of a known tool.
fn table(header: &str, form: &TraceForm) -> Option<(Columns, Option<TimeUnit>)> {
    match &form.columns {
        Some(columns) => Some((columns.clone(), None)),
        None => lengths::known_columns(header).map(|(columns, unit)| (columns, Some(unit))),
    }
}

/// What the rows of a trace say about its times.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The unit that somebody gave, or that of a known form.
    unit: Option<TimeUnit>,
    /// Whether timestamps are dates.
    pub(crate) dated: Option<bool>,
    /// Rows of the Bailian traces.
    chats: usize,
}

impl Seen {
    /// Brings timestamps to milliseconds that are in another unit beyond doubt, and notes what is odd about them.
    fn settle_unit(&self, trace: &mut Trace) -> Result<(), TraceError> {
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
    /// More than one deployment serves.
    const MOST: f64 = 1000.0;
    /// A request every two minutes.
    const LEAST: f64 = 1.0 / 120.0;
    let times = || rows.iter().filter_map(|row| row.timestamp_ms);
    let (gaps, span_ms) = (
        times().count().saturating_sub(1),
        times().fold(f64::NEG_INFINITY, f64::max) - times().fold(f64::INFINITY, f64::min),
    );
    let rate = gaps as f64 / (span_ms / 1e3);
    // Two far apart may well be meant.
    let is_odd = rate > MOST || (rate < LEAST && gaps > 1);
    (span_ms > 0.0 && is_odd).then_some(rate)
}

fn read_row(
    text: &str,
    line: u64,
    ids: &mut Vec<u64>,
    trace: &mut Trace,
    seen: &mut Seen,
) -> Result<(), TraceError> {
    let starts_an_object = text.trim_ascii_start().starts_with('{');
    if !starts_an_object && let Ok(value) = serde_json::from_str::<&RawValue>(text) {
        return Err(TraceError::NotObject { line, found: fields::described(value.get()) });
    }
    let mut object = Object::parse(text, ids).map_err(|error| not_json(text, line, &error))?;
    let row = object.row(line, seen.unit)?;
    if let Some(dated) = row.timestamp_ms.map(|_| object.is_dated())
        && *seen.dated.get_or_insert(dated) != dated
    {
        return Err(TraceError::MixedTimes { line });
    }
    seen.chats += usize::from(object.is_chat());
    if trace.rows.is_empty() {
        trace.token_ids = object.has_token_ids();
    } else if trace.token_ids != object.has_token_ids() {
        return Err(TraceError::OtherKind { line, token_ids: trace.token_ids });
    }
    trace.rows.push(row);
    if !object.unknown.is_empty() {
        trace.notes.note_ignored_keys(object.unknown);
    }
    Ok(())
}

/// Says in the words of a trace what is wrong with the syntax of a line.
fn not_json(text: &str, line: u64, error: &serde_json::Error) -> TraceError {
    let start = text.len() - text.trim_ascii_start().len();
    if !text[start..].starts_with('{') {
        let problem =
            format!("found `{}`, but every line must be one JSON object", beginning(&text[start..]));
        return TraceError::NotJson { line, column: start + 1, problem };
    }
    // The parser's column is the last byte that it has read, which can stand within a character.
    let at = (0..error.column().min(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if error.classify() == Category::Eof {
        let problem = "the line ends within the row, but every line must be one whole JSON object".into();
        return TraceError::NotJson { line, column: at + 1, problem };
    }
    // A misspelt literal is shown from its first letter, not from the first wrong one.
    let at = text[..at].trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
    let (before, rest) = text.split_at(at);
    let problem = if let Some(word) = NOT_NUMBERS.iter().find(|word| rest.starts_with(*word)) {
        let sign = if before.ends_with('-') { "-" } else { "" };
        match key_before(before) {
            Some(key) => format!("`{}` is {sign}{word}, but JSON has no NaN or infinity", fields::shown(key)),
            None => format!("found {sign}{word}, but JSON has no NaN or infinity"),
        }
    } else {
        format!("{}, but found `{}`", expectation(&error.to_string()), beginning(rest))
    };
    TraceError::NotJson { line, column: at + 1, problem }
}

/// How programs write floats that JSON does not have.
const NOT_NUMBERS: [&str; 4] = ["NaN", "nan", "Infinity", "inf"];

/// A parser's complaint as what it wanted, without the position, which is that within the line.
fn expectation(complaint: &str) -> &str {
    match complaint.rfind(" at line ").map_or(complaint, |end| &complaint[..end]) {
        "expected value" => "expected a value",
        "expected ident" => "expected `true`, `false` or `null`",
        "key must be a string" => "expected a key in double quotes",
        "trailing comma" => "expected another key after the comma",
        "trailing characters" => "expected the end of the line after the object",
        other => other,
    }
}

/// The next few characters.
fn beginning(text: &str) -> String {
    const LONGEST: usize = 20;
    let cut = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
    format!("{}{}", fields::shown(&text[..cut]), if cut < text.len() { "…" } else { "" })
}

/// The key whose value comes next.
fn key_before(text: &str) -> Option<&str> {
    let key =
        text.trim_end_matches(['-', ' ', '\t']).strip_suffix(':')?.trim_ascii_end().strip_suffix('"')?;
    key.rsplit('"').next()
}

/// Refuses what is known not to be text, since a message about bytes would not help.
fn check_format(start: &[u8]) -> Result<(), TraceError> {
    const DECOMPRESS: &str = "decompress it first";
    const EXPORT: &str = "write it out as JSON Lines";
    const FORMATS: [(&[u8], &str, &str); 9] = [
        (b"\x1f\x8b", "gzip data", DECOMPRESS),
        (b"\x28\xb5\x2f\xfd", "Zstandard data", DECOMPRESS),
        (b"\xfd7zXZ\0", "xz data", DECOMPRESS),
        (b"BZh", "bzip2 data", DECOMPRESS),
        (b"PK\x03\x04", "a zip archive", "extract the trace from it first"),
        (b"PAR1", "a Parquet file", EXPORT),
        (b"ARROW1", "an Arrow file", EXPORT),
        (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
        (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
    ];
    match FORMATS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        Some(&(_, format, remedy)) => Err(TraceError::NotText { format, remedy }),
        None => Ok(()),
    }
}
