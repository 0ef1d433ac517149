//! Tables of requests that say when each came and how long it was, and nothing of its content.

use std::io::{self, BufRead, Chain, Read};
use std::str::FromStr;

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{LengthsTable, lengths_table, rows::Seen};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, timestamp_in, tokens_up_to};
use crate::unit::date_ms;
use crate::{TimeUnit, TraceError, TraceNotes, TraceRow, fields};

/// Which columns of a table, or keys of JSON objects, hold what:
/// `time=arrived,input=prompt_tokens,output=completion_tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// When a request came: a number, or a date and time of day.
    pub time: String,
    /// Tokens of its prompt.
    pub input: String,
    /// Tokens of its output.
    pub output: String,
    /// The session that it is the next turn of.
    pub session: Option<String>,
    /// The class of requests that it is one of.
    pub class: Option<String>,
}

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "must be time=COLUMN,input=COLUMN,output=COLUMN, and session=COLUMN and class=COLUMN if there are such";
        let mut given: [(&str, Option<String>); 5] =
            [("time", None), ("input", None), ("output", None), ("session", None), ("class", None)];
        for part in text.split(',') {
            let Some((key, column)) = part.split_once('=').filter(|(_, column)| !column.trim().is_empty())
            else {
                return Err(format!("{form}, but `{part}` has no column"));
            };
            let Some((_, slot)) = given.iter_mut().find(|(known, _)| *known == key.trim()) else {
                return Err(format!("{form}, but `{}` is none of them", key.trim()));
            };
            if slot.replace(column.trim().to_owned()).is_some() {
                return Err(format!("{form}, but `{}` is given twice", key.trim()));
            }
        }
        let [time, input, output, (_, session), (_, class)] = given;
        let needed = |(key, column): (&str, Option<String>)| {
            column.ok_or_else(|| format!("{form}, but `{key}` is missing"))
        };
        Ok(Self { time: needed(time)?, input: needed(input)?, output: needed(output)?, session, class })
    }
}

impl Columns {
    fn names(&self) -> [&str; 3] {
        [&self.time, &self.input, &self.output]
    }
}

/// How tables call the session of a request: BurstGPT's (newer files) and BLIS'.
const SESSION_COLUMNS: [&str; 2] = ["Session ID", "session_id"];

/// What separates the cells of a table.
pub(crate) const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// The columns of a table whose first line, its header, is that of a trace of a known tool; with the unit of its times.
pub(crate) fn known_columns(header: &str) -> Option<(Columns, TimeUnit)> {
    let LengthsTable { columns: [time, input, output], unit } = lengths_table(header)?;
    let [time, input, output] = [time, input, output].map(ToOwned::to_owned);
    Some((Columns { time, input, output, session: None, class: None }, unit))
}

/// Reads the rows of a table whose header has been read already. Rows with 0 tokens of prompt or output, requests that
/// failed, are left out and counted.
pub(crate) struct TableRows<R: BufRead> {
    columns: Columns,
    unit: Option<TimeUnit>,
    places: [usize; 3],
    session: Option<usize>,
    /// A column of sessions that nobody asked for.
    unread_session: Option<usize>,
    class: Option<usize>,
    /// How many columns there are.
    width: usize,
    reader: Reader<Chain<LastByte<R>, &'static [u8]>>,
    /// Kept for its memory.
    record: ByteRecord,
    /// The line of the row before.
    last: u64,
    /// The same; 0 without a row.
    last_row: u64,
}

impl<R: BufRead> TableRows<R> {
    pub(crate) fn new(
        header: &str,
        rows: R,
        columns: Columns,
        unit: Option<TimeUnit>,
    ) -> Result<Self, TraceError> {
        let Header { separator, places, session, unread_session, class, width } =
            header_of(header, &columns)?;
        // Every row ends with a line then.
        let rows = LastByte { rows, last: b'\n' }.chain(&b"\n"[..]);
        let reader =
            ReaderBuilder::new().has_headers(false).flexible(true).delimiter(separator).from_reader(rows);
        Ok(Self {
            columns,
            unit,
            places,
            session,
            unread_session,
            class,
            width,
            reader,
            record: ByteRecord::new(),
            last: 1,
            last_row: 0,
        })
    }

    /// The next row; `None` at the end.
    pub(crate) fn next_row(
        &mut self,
        notes: &mut TraceNotes,
        seen: &mut Seen,
    ) -> Result<Option<TraceRow>, TraceError> {
        loop {
            let more = self.reader.read_byte_record(&mut self.record);
            let record = &self.record;
            // The header was the first line. Blank lines before a row count, and breaks within its cells do. Where lines end
            // in CRLF, the reader has not counted the last one yet.
            let breaks = record.iter().flatten().filter(|byte| **byte == b'\n').count() as u64;
            let line = self.reader.position().line().saturating_sub(breaks).max(self.last + 1);
            self.last = line;
            if !more.map_err(|error| unreadable(error, line))? {
                if self.reader.get_ref().get_ref().0.last != b'\n' && self.last_row > 0 {
                    notes.unfinished_row.add(self.last_row);
                }
                return Ok(None);
            }
            self.last_row = line;
            if let Some(cell) = record.iter().skip(self.width).find(|cell| !cell.trim_ascii().is_empty()) {
                let cell = fields::shown(&String::from_utf8_lossy(cell));
                return Err(TraceError::ExtraCell { line, cell, width: self.width });
            }
            let row = Row { line, record, columns: &self.columns, places: self.places };
            let (input, output) = (row.tokens(1, MAX_INPUT_TOKENS)?, row.tokens(2, MAX_OUTPUT_TOKENS)?);
            let (timestamp_ms, dated) = row.time(self.unit)?;
            seen.note_dated(dated, line)?;
            let name = |place: Option<usize>| {
                let cell = place.and_then(|place| record.get(place)).map(String::from_utf8_lossy);
                cell.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
            };
            let (session_id, class) = (name(self.session), name(self.class));
            if input == 0 || output == 0 {
                notes.without_tokens.add(line);
                continue;
            }
            if name(self.unread_session).is_some() {
                notes.unread_sessions.add(line);
            }
            return Ok(Some(TraceRow {
                line,
                session_id,
                timestamp_ms: Some(timestamp_ms),
                input_length: Some(input),
                output_length: output,
                shares_nothing: true,
                class: class.map(Box::from),
                ..TraceRow::default()
            }));
        }
    }
}

/// Rows, and the byte before the next one.
struct LastByte<R> {
    rows: R,
    last: u8,
}

impl<R: BufRead> Read for LastByte<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.rows.read(out)?;
        self.last = out[..read].last().copied().unwrap_or(self.last);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for LastByte<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.rows.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let (Some(last), Ok(buffer)) = (amount.checked_sub(1), self.rows.fill_buf()) {
            self.last = buffer[last];
        }
        self.rows.consume(amount);
    }
}

/// What separates the cells of a table, and where its columns are.
struct Header {
    separator: u8,
    places: [usize; 3],
    session: Option<usize>,
    /// A column of sessions, if `session` is none.
    unread_session: Option<usize>,
    class: Option<usize>,
    width: usize,
}

fn header_of(header: &str, columns: &Columns) -> Result<Header, TraceError> {
    let cells = |separator: u8| -> Vec<String> {
        let mut reader =
            ReaderBuilder::new().has_headers(false).delimiter(separator).from_reader(header.as_bytes());
        let first = reader.records().next().and_then(Result::ok).unwrap_or_default();
        first.iter().map(|cell| cell.trim().to_owned()).collect()
    };
    for separator in SEPARATORS {
        let cells = cells(separator);
        let place = |name: &str| cells.iter().position(|cell| cell == name);
        let [session, class] = [&columns.session, &columns.class].map(|name| name.as_deref().map(place));
        if let [Some(time), Some(input), Some(output)] = columns.names().map(place)
            && session != Some(None)
            && class != Some(None)
        {
            let (session, class) = (session.flatten(), class.flatten());
            let (places, width) = ([time, input, output], cells.len());
            let unread_session =
                if session.is_none() { SESSION_COLUMNS.iter().find_map(|name| place(name)) } else { None };
            return Ok(Header { separator, places, session, unread_session, class, width });
        }
    }
    let most = SEPARATORS.map(cells).into_iter().max_by_key(Vec::len).unwrap_or_default();
    let mut wanted =
        columns.names().into_iter().chain(columns.session.as_deref()).chain(columns.class.as_deref());
    let missing = wanted.find(|name| !most.iter().any(|cell| cell == name));
    let found = most.iter().map(|cell| format!("`{}`", fields::shown(cell))).collect::<Vec<_>>().join(", ");
    Err(TraceError::NoColumn { column: missing.unwrap_or(&columns.time).to_owned(), found })
}

fn unreadable(error: csv::Error, line: u64) -> TraceError {
    let source = match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => std::io::Error::other(format!("{other:?}")),
    };
    TraceError::Read { line, source }
}

/// A row of a table.
struct Row<'a> {
    line: u64,
    record: &'a ByteRecord,
    columns: &'a Columns,
    places: [usize; 3],
}

impl Row<'_> {
    fn cell(&self, which: usize) -> &str {
        let bytes = self.record.get(self.places[which]).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or("\u{fffd}").trim()
    }

    fn wrong(&self, which: usize, expected: String) -> TraceError {
        let cell = self.cell(which);
        let found = if cell.is_empty() { "empty".to_owned() } else { format!("\"{}\"", fields::shown(cell)) };
        TraceError::Value { line: self.line, field: self.columns.names()[which].to_owned(), found, expected }
    }

    /// A number of tokens; programs that know of no whole numbers write `44.0`.
    fn tokens(&self, which: usize, most: u64) -> Result<u64, TraceError> {
        let cell = self.cell(which);
        let whole = cell.parse::<u64>().ok().or_else(|| {
            let number = cell.parse::<f64>().ok()?;
            (number.fract() == 0.0 && (0.0..=1e15).contains(&number)).then_some(number as u64)
        });
        whole.filter(|tokens| *tokens <= most).ok_or_else(|| self.wrong(which, tokens_up_to(most)))
    }

    /// Milliseconds, and whether they come from a date.
    fn time(&self, unit: Option<TimeUnit>) -> Result<(f64, bool), TraceError> {
        let cell = self.cell(0);
        let number = cell.parse::<f64>().ok().filter(|number| number.is_finite());
        match number {
            Some(number) => Ok((unit.map_or(number, |unit| unit.to_ms(number)), false)),
            None => date_ms(cell).map(|ms| (ms, true)).ok_or_else(|| {
                let number = timestamp_in(unit.unwrap_or(TimeUnit::Ms));
                self.wrong(0, format!("{number}, or a date and time such as 2026-01-31 12:00:00.5"))
            }),
        }
    }
}
