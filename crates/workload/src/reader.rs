//! From a file to a trace, whatever its form.

use std::io::{self, BufRead, Read};

use serde_json::error::Category;

use crate::formats::{self, TraceFormat};
use crate::{
    Columns, Cut, KnownFormat, Load, Noted, TELLING_BYTES, TextTokenizer, TimeUnit, TraceError, TraceNotes,
    TraceRow, Turns, Workload, fields, known_format,
};

/// A trace as it stands in its file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// Its rows, in file order; at least one.
    pub rows: Vec<TraceRow>,
    /// What was odd but could be read.
    pub notes: TraceNotes,
    /// Whether the hash ids of its rows are the ids of their tokens, each of which stands for itself.
    pub token_ids: bool,
    /// Whether those are the numbers of tokens of text in the order in which they turn up, which mean nothing in another trace.
    pub numbered_texts: bool,
    /// Tokens that a hash id is known to stand for, unless somebody says otherwise.
    pub block_size: Option<u32>,
    /// Tokens that a hash id stands for because the file says so.
    pub stated_block_size: Option<u32>,
    /// What the rows of sessions are known to hold, unless somebody says otherwise.
    pub turns: Option<Turns>,
    /// What the file is, if that was recognised.
    pub format: Option<KnownFormat>,
}

impl Trace {
    /// The sessions of the trace, see [`Workload::from_rows`], with the notes of the reader among its own.
    pub fn workload(&self, cut: impl Into<Cut>, load: Load) -> Result<Workload, TraceError> {
        let workload = Workload::from_rows(&self.rows, self.cut(cut)?, load)?;
        let notes = with_notes(&workload.notes, self.known(self.notes.clone()), load);
        Ok(Workload { notes, ..workload })
    }

    /// As [`Trace::workload`], for a trace that is not needed again: its rows go as the sessions come.
    pub fn into_workload(self, cut: impl Into<Cut>, load: Load) -> Result<Workload, TraceError> {
        let cut = self.cut(cut)?;
        let notes = self.known(self.notes.clone());
        let workload = Workload::from_owned_rows(self.rows, cut, load)?;
        let notes = with_notes(&workload.notes, notes, load);
        Ok(Workload { notes, ..workload })
    }

    /// Rows with an id twice in one prompt, which is odd where ids stand for blocks.
    pub fn repeated_ids(&self) -> Noted {
        let mut noted = Noted::default();
        if self.token_ids {
            return noted;
        }
        let mut ids = Vec::new();
        for row in &self.rows {
            ids.clear();
            ids.extend_from_slice(&row.hash_ids);
            ids.extend(row.hash_runs.iter().cloned().flatten());
            ids.sort_unstable();
            if ids.windows(2).any(|pair| pair[0] == pair[1]) {
                noted.add(row.line);
            }
        }
        noted
    }

    /// The notes, with what the file says of its rows.
    pub(crate) fn known(&self, notes: TraceNotes) -> TraceNotes {
        TraceNotes { stated_block_size: self.stated_block_size, turns: self.turns, ..notes }
    }

    pub(crate) fn cut(&self, cut: impl Into<Cut>) -> Result<Cut, TraceError> {
        let cut = cut.into();
        match self.stated_block_size {
            Some(stated) if stated != cut.block_size => {
                Err(TraceError::OtherBlockSize { stated, given: cut.block_size })
            }
            // What is no block size at all is refused with or without token ids.
            _ if self.token_ids => Ok(Cut { block_size: cut.block_size.min(1), ..cut }),
            _ => Ok(cut),
        }
    }
}

/// The reader's notes beside those of what its rows stand for.
pub(crate) fn with_notes(of_rows: &TraceNotes, notes: TraceNotes, load: Load) -> TraceNotes {
    let TraceNotes {
        ignored_keys,
        ignored_key_names,
        without_tokens,
        warmups,
        concurrency,
        recognised,
        odd_rate,
        overruled_unit,
        stated_block_size,
        turns,
        other_records,
        side_by_side,
        sub_agents,
        without_gap,
        made_one_token,
        unknown_parents,
        unfinished_row,
        unread_sessions,
        ..
    } = notes;
    let is_open = matches!(load, Load::Open { .. });
    TraceNotes {
        ignored_keys,
        ignored_key_names,
        without_tokens,
        warmups,
        concurrency: concurrency.filter(|_| is_open),
        recognised,
        odd_rate: odd_rate.filter(|_| is_open),
        overruled_unit,
        stated_block_size,
        turns,
        other_records,
        side_by_side,
        sub_agents,
        without_gap,
        made_one_token,
        unknown_parents,
        unfinished_row,
        unread_sessions,
        ..of_rows.clone()
    }
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
    /// It is a table, or JSON objects, with these columns.
    pub columns: Option<Columns>,
    /// What it is, whatever its beginning says.
    pub format: Option<TraceFormat>,
    /// What cuts its texts into tokens; without it a token is four characters.
    pub tokenizer: Option<TextTokenizer>,
}

impl From<TimeUnit> for TraceForm {
    fn from(unit: TimeUnit) -> Self {
        Self { unit: Some(unit), ..Self::default() }
    }
}

/// Reads a trace of any form in [`TraceFormat`], which its beginning tells unless `form` does: JSON Lines with one
/// request per line, a table with the `columns` of `form` or those of a known tool, what a tool wrote.
///
/// Without a unit times are in that of the format; timestamps of rows are milliseconds (`arrival_time_ns` nanoseconds),
/// but for those that are dates, are seconds, microseconds or nanoseconds since 1970 by their size, or stand in rows of
/// the Bailian traces: the notes say so.
///
/// # Errors
/// At the first line that cannot be read or holds something else, when there is no row at all, and when the file is
/// known to hold something else.
pub fn read_trace(mut reader: impl BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let (start, rest) = telling(&mut reader);
    let (known, format) = format_of(&start, form)?;
    let columns = form.columns.as_ref().filter(|_| formats::is_json(&start));
    let mut input = io::Cursor::new(start).chain(rest);
    let mut trace = match columns {
        Some(columns) => formats::columns::read(&mut input, columns, form.unit)?,
        None => formats::read(format, input, form)?,
    };
    if trace.rows.is_empty() {
        return Err(TraceError::NoRows);
    }
    trace.format = known;
    Ok(trace)
}

/// What an input is by its first bytes, if that is known and not said, and as what it is read.
pub(crate) fn format_of(
    start: &[u8],
    form: &TraceForm,
) -> Result<(Option<KnownFormat>, TraceFormat), TraceError> {
    check_format(start)?;
    let known = if form.columns.is_some() || form.format.is_some() { None } else { known_format(start) };
    match known.map(|known| known.trace().ok_or(known)) {
        Some(Err(format)) => Err(TraceError::OtherFormat { format }),
        Some(Ok(format)) => Ok((known, format)),
        // What is wrong with it is said in terms of what most traces are.
        None => Ok((None, form.format.unwrap_or(TraceFormat::Rows))),
    }
}

/// The first bytes of an input, which tell what it is, and the rest.
pub(crate) fn telling<R: BufRead>(mut reader: R) -> (Vec<u8>, Rest<R>) {
    let mut start = Vec::new();
    let error = reader.by_ref().take(TELLING_BYTES as u64).read_to_end(&mut start).err();
    (start, Rest { error, reader })
}

/// An input whose beginning has been read; if that failed, it fails where it failed.
pub(crate) struct Rest<R> {
    error: Option<io::Error>,
    reader: R,
}

impl<R: BufRead> BufRead for Rest<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.error.take() {
            Some(error) => Err(error),
            None => self.reader.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
    }
}

impl<R: BufRead> Read for Rest<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.error.take() {
            Some(error) => Err(error),
            None => self.reader.read(out),
        }
    }
}

/// Says in the words of a trace what is wrong with the syntax of a line.
pub(crate) fn not_json(text: &str, line: u64, error: &serde_json::Error) -> TraceError {
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
pub(crate) fn expectation(complaint: &str) -> &str {
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
    const PARQUET: &str = "the Python package reads it, with PyArrow or Polars (`servecast.run_trace_replay`); or write it out as JSON Lines";
    const FORMATS: [(&[u8], &str, &str); 9] = [
        (b"\x1f\x8b", "gzip data", DECOMPRESS),
        (b"\x28\xb5\x2f\xfd", "Zstandard data", DECOMPRESS),
        (b"\xfd7zXZ\0", "xz data", DECOMPRESS),
        (b"BZh", "bzip2 data", DECOMPRESS),
        (b"PK\x03\x04", "a zip archive", "extract the trace from it first"),
        (b"PAR1", "a Parquet file", PARQUET),
        (b"ARROW1", "an Arrow file", EXPORT),
        (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
        (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
    ];
    match FORMATS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        Some(&(_, format, remedy)) => Err(TraceError::NotText { format, remedy }),
        None => Ok(()),
    }
}
