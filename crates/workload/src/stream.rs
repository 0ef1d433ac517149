//! A trace that is used as it is read: each request once it is known that none comes before it.
//!
//! Memory goes with the rows of the sort window. What a row says may depend on no other: there are no sessions, and the unit
//! of times and the kind of content are those of the first row. A trace that turns out to be otherwise is refused, and can be
//! read as a whole.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufRead, Chain, Cursor, Read as _};
use std::num::NonZeroUsize;

use servecast_types::{Duration, Time};

use crate::blocks::Blocks;
use crate::clock::{Clock, first_turn_ms};
use crate::formats::rows::{RowReader, Span};
use crate::formats::{self, TraceFormat};
use crate::graph::Graph;
use crate::reader::{Rest, format_of, telling, with_notes};
use crate::workload::{Cut, Load, Turn, TurnStart};
use crate::{Recognised, TimeUnit, Trace, TraceError, TraceForm, TraceNotes, TraceRow};

/// How a trace is used as it is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamOptions {
    /// Times, counted from the first arrival, are divided by this.
    pub arrival_speedup_ratio: f64,
    /// Rows that are used, the first ones of the trace; all without it.
    pub max_requests: Option<NonZeroUsize>,
    /// How long, in the times of the trace, a row may come before one above it.
    pub sort_window: Duration,
}

/// The requests of a trace, each a session of its own with its number in the file, in order of their times, and of their
/// lines where those are equal. It ends at the first row that cannot be used, which [`TraceStream::finish`] tells.
pub struct TraceStream<R: BufRead> {
    rows: RowReader<Chain<Cursor<Vec<u8>>, Rest<R>>>,
    options: StreamOptions,
    /// What the times of the first row were found to be, where nobody said so.
    recognised: Option<Recognised>,
    blocks: Blocks,
    /// Whether rows have ids, as the first has.
    has_ids: bool,
    notes: TraceNotes,
    span: Span,
    read: usize,
    latest_ms: f64,
    /// Since the first request was handed out.
    clock: Option<Clock>,
    held: BinaryHeap<Reverse<Held>>,
    is_over: bool,
    error: Option<TraceError>,
}

/// A request that others may still come before.
struct Held {
    ms: f64,
    session: u32,
    turn: Turn,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ms.total_cmp(&other.ms).then(self.turn.line.cmp(&other.turn.line))
    }
}

impl<R: BufRead> TraceStream<R> {
    /// A trace of which the first row is read. `cut` says what its rows stand for, once it is known what they are.
    ///
    /// # Errors
    /// If there is no row, if the first one cannot be used, and if a file of this form is read as a whole.
    pub fn new(
        reader: R,
        form: &TraceForm,
        cut: impl FnOnce(&Trace) -> Cut,
        options: StreamOptions,
    ) -> Result<Self, TraceError> {
        let ratio = options.arrival_speedup_ratio;
        if !(ratio.is_finite() && ratio > 0.0) {
            return Err(TraceError::SpeedupRatio { ratio });
        }
        let (start, rest) = telling(reader);
        let (_, format) = format_of(&start, form)?;
        let has_keys = form.columns.is_some() && formats::is_json(&start);
        if has_keys || !matches!(format, TraceFormat::Rows | TraceFormat::Table) {
            return Err(TraceError::StreamedForm);
        }
        if form.tokenizer.is_some() {
            return Err(TraceError::NoTexts);
        }
        let mut rows = RowReader::new(Cursor::new(start).chain(rest), form);
        let first = rows.next_row()?.ok_or(TraceError::NoRows)?;
        let recognised = rows.seen.recognised_at_once(&first, rows.trace.token_ids);
        rows.trace.block_size = recognised.and_then(Recognised::block_size);
        let cut = rows.trace.cut(cut(&rows.trace))?;
        if cut.block_size == 0 {
            return Err(TraceError::BlockSize);
        }
        let mut stream = Self {
            blocks: Blocks::of(std::slice::from_ref(&first), cut.block_size),
            has_ids: has_ids(&first),
            rows,
            options,
            recognised,
            notes: TraceNotes::default(),
            span: Span::default(),
            read: 0,
            latest_ms: f64::NEG_INFINITY,
            clock: None,
            held: BinaryHeap::new(),
            is_over: false,
            error: None,
        };
        stream.hold(first)?;
        Ok(stream)
    }

    /// How many requests have been read.
    pub fn num_read(&self) -> u64 {
        self.read as u64
    }

    /// What was odd about the trace, when all of it has been read.
    ///
    /// # Errors
    /// With the line of the row that could not be used, if there was one.
    pub fn finish(self) -> Result<TraceNotes, TraceError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let (mut trace, unit) = (self.rows.trace, self.rows.seen.unit());
        trace.notes.recognised = self.recognised;
        trace.notes.overruled_unit = unit.filter(|unit| trace.token_ids && *unit != TimeUnit::Ns);
        let is_odd = unit.is_none() && self.recognised.is_none();
        trace.notes.odd_rate = is_odd.then(|| self.span.odd_rate()).flatten();
        let load = Load::Open { arrival_speedup_ratio: self.options.arrival_speedup_ratio };
        let of_reader = std::mem::take(&mut trace.notes);
        Ok(with_notes(&self.notes, trace.known(of_reader), load))
    }

    /// The next request, if one can be handed out already.
    fn hand_out(&mut self) -> Result<Option<(u32, Turn)>, TraceError> {
        let window_ms = self.options.sort_window.as_ms();
        let is_first = |Reverse(held): &Reverse<Held>| self.is_over || held.ms <= self.latest_ms - window_ms;
        if !self.held.peek().is_some_and(is_first) {
            return Ok(None);
        }
        let Some(Reverse(Held { ms, session, mut turn })) = self.held.pop() else { return Ok(None) };
        let ratio = self.options.arrival_speedup_ratio;
        let clock = self.clock.get_or_insert(Clock::Open { first_arrival: ms, ratio });
        turn.start = TurnStart::At(clock.since_first(turn.line, ms)?);
        Ok(Some((session, turn)))
    }

    /// Reads on by a row.
    fn read_on(&mut self) -> Result<(), TraceError> {
        let is_enough = self.options.max_requests.is_some_and(|most| self.read >= most.get());
        let next = if is_enough { None } else { self.rows.next_row()? };
        if let Some(row) = next {
            return self.hold(row);
        }
        self.is_over = true;
        Ok(())
    }

    /// Takes a row in.
    fn hold(&mut self, mut row: TraceRow) -> Result<(), TraceError> {
        let refused = |problem| Err(TraceError::NotStreamed { line: row.line, problem });
        if row.session_id.is_some() {
            return refused("the row has a `session_id`, and when it is sent depends on other rows");
        }
        if Graph::is_one(std::slice::from_ref(&row)) {
            return refused(
                "the row has `wait_for` or `branches`, and when it is sent depends on other rows",
            );
        }
        if row.links.is_some() && row.delay_ms.is_some_and(|ms| ms > 0.0) {
            return refused("the row comes a time after another one, which other rows may name");
        }
        if row.lora.is_some() {
            return refused(
                "the row has a `lora`, and adapters are told apart when all of their names are known",
            );
        }
        if row.grammar.is_some() {
            return refused(
                "the row has a `grammar`, and grammars are told apart when all of their names are known",
            );
        }
        if self.recognised == Some(Recognised::Chats) && !self.rows.seen.are_chats() {
            return refused("the row has no `chat_id` and `parent_chat_id` as the first one has");
        }
        if has_ids(&row) && !self.has_ids {
            return refused("the row has `hash_ids` and the first one has none");
        }
        if self.rows.seen.unit().is_none() {
            let unit = match self.recognised {
                Some(Recognised::Epoch(unit)) => {
                    if row.timestamp_ms.is_some_and(|time| TimeUnit::of_epoch(time) != Some(unit)) {
                        return refused(
                            "the timestamp of the row has another unit than that of the first one",
                        );
                    }
                    unit
                }
                Some(Recognised::Chats) => TimeUnit::S,
                Some(Recognised::Dates) | None => TimeUnit::Ms,
            };
            row.timestamp_ms = row.timestamp_ms.map(|time| unit.to_ms(time));
        }
        row.check()?;
        let (ms, window_ms) = (first_turn_ms(&row)?, self.options.sort_window.as_ms());
        if ms < self.latest_ms - window_ms {
            return Err(TraceError::Unsorted { line: row.line, by_ms: self.latest_ms - ms, window_ms });
        }
        if row.class.is_some() {
            self.notes.streamed_classes.add(row.line);
        }
        // When it is sent is known when the request is handed out.
        let start = TurnStart::At(Time::ZERO);
        let turn = Turn::of_row(&row, start, &mut self.blocks, &mut self.notes)?;
        self.held.push(Reverse(Held { ms, session: self.read as u32, turn }));
        self.span.add(ms);
        self.latest_ms = self.latest_ms.max(ms);
        self.read += 1;
        Ok(())
    }
}

impl<R: BufRead> Iterator for TraceStream<R> {
    type Item = (u32, Turn);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = self.hand_out();
            let read_on = match next {
                Ok(Some(next)) => return Some(next),
                Ok(None) if self.is_over => return None,
                Ok(None) => self.read_on(),
                Err(error) => Err(error),
            };
            if let Err(error) = read_on {
                self.error = Some(error);
                self.is_over = true;
                self.held.clear();
            }
        }
    }
}

fn has_ids(row: &TraceRow) -> bool {
    !(row.hash_ids.is_empty() && row.hash_runs.is_empty())
}
