//! Sessions of turns, ready to be replayed.

use std::borrow::Borrow;

use rustc_hash::FxHashMap;
use serde::Serialize;
use servecast_types::{Duration, Interner, Prompt, Time};
use smallvec::SmallVec;

use crate::row::{MAX_INPUT_TOKENS, TraceRow, tokens_up_to};
use crate::{TraceError, fields};

/// What a simulation replays: sessions of turns with virtual times.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Workload {
    /// The sessions, in order of first appearance.
    pub sessions: Vec<Session>,
    /// What was odd about the trace but could be used.
    pub notes: TraceNotes,
}

/// Requests that follow one another: each waits for the one before it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Session {
    /// The name that the trace gives it.
    pub name: Option<Box<str>>,
    /// Its requests, in file order; at least one, and in most traces just one.
    pub turns: SmallVec<[Turn; 1]>,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Line of the trace, from 1.
    pub line: u64,
    /// When it is sent.
    pub start: TurnStart,
    /// Its prompt.
    pub prompt: Prompt,
    /// Tokens to generate, at least 1.
    pub output_tokens: u32,
    /// Scheduling priority, 0 by default.
    pub priority: i32,
    /// Generation ends after this many tokens although more were asked for.
    pub stop_after: Option<u32>,
    /// Identity of the first output token, if a later prompt names the output; `None` is one of its own.
    pub output: Option<u64>,
}

/// When a turn is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnStart {
    /// At this time: only the first turn of a session.
    At(Time),
    /// This long after the turn before it completes.
    AfterPrevious(Duration),
    /// At this time, or when the turn before it completes if that is later.
    NotBefore(Time),
}

/// What was odd about a trace but could be used, counted in rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TraceNotes {
    /// Rows with keys that mean nothing here.
    pub ignored_keys: u64,
    /// The first few of those keys, in order of appearance.
    pub ignored_key_names: Vec<String>,
    /// Rows with more hash ids than their prompt needs.
    pub surplus_hash_ids: u64,
    /// Rows without a prompt length, which is then what their hash ids cover.
    pub inferred_input_length: u64,
}

/// How the times of a trace become those of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Requests arrive at their times, whether or not earlier ones are done.
    Open {
        /// Times, counted from the first arrival, and delays are divided by this; 1 leaves them as they are.
        arrival_speedup_ratio: f64,
    },
    /// Requests are sent as earlier ones complete: timestamps are ignored, delays stay as they are.
    Closed,
}

impl Workload {
    /// Assembles sessions from rows, every id of which stands for `trace_block_size` tokens.
    ///
    /// The rows of a session need not be adjacent; their file order is the order of its turns. Where a later turn
    /// has both a delay and a timestamp, the delay counts.
    ///
    /// # Errors
    /// With the line of the first row that cannot be used, and when there are no rows.
    ///
    /// # Panics
    /// With more than 2³⁰ distinct hash ids of 2³⁰ and above, which would be a trace of over 10 GB.
    pub fn from_rows(rows: &[TraceRow], trace_block_size: u32, load: Load) -> Result<Self, TraceError> {
        Plan::new(rows, trace_block_size, load)?.assemble(rows.iter())
    }

    /// As [`Workload::from_rows`], with each row dropped once it is used: less memory for a long trace.
    ///
    /// # Errors
    /// As there.
    pub fn from_owned_rows(
        rows: Vec<TraceRow>,
        trace_block_size: u32,
        load: Load,
    ) -> Result<Self, TraceError> {
        Plan::new(&rows, trace_block_size, load)?.assemble(rows.into_iter())
    }

    /// How many requests there are.
    pub fn requests(&self) -> usize {
        self.sessions.iter().map(|session| session.turns.len()).sum()
    }

    /// Tokens of all prompts.
    pub fn input_tokens(&self) -> u64 {
        self.turns().map(|turn| u64::from(turn.prompt.tokens())).sum()
    }

    /// Tokens of all outputs.
    pub fn output_tokens(&self) -> u64 {
        self.turns().map(|turn| u64::from(turn.output_tokens)).sum()
    }

    /// All turns, session by session.
    pub fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.sessions.iter().flat_map(|session| &session.turns)
    }

    /// Indices of the sessions in the order in which they arrive: by time, then by line.
    pub fn arrival_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sessions.len()).collect();
        // Sessions stand in the order of their first lines and the sort is stable.
        order.sort_by_key(|&index| match self.sessions[index].turns.first().map(|turn| turn.start) {
            Some(TurnStart::At(time) | TurnStart::NotBefore(time)) => time,
            Some(TurnStart::AfterPrevious(_)) | None => Time::ZERO,
        });
        order
    }
}

impl TraceNotes {
    /// The notes as sentences for a reader, without the counts that are 0.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let mut add = |count: u64, what: String| {
            if count > 0 {
                sentences
                    .push(format!("{count} {} {what}", if count == 1 { "row has" } else { "rows have" }));
            }
        };
        let names =
            self.ignored_key_names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        add(self.ignored_keys, format!("keys that are ignored: {names}"));
        add(self.surplus_hash_ids, "more `hash_ids` than the prompt needs".into());
        add(self.inferred_input_length, "no `input_length`: as many tokens as `hash_ids` cover".into());
        sentences
    }

    pub(crate) fn note_ignored_keys(&mut self, keys: Vec<String>) {
        const MOST_NAMES: usize = 8;
        self.ignored_keys += 1;
        for key in keys {
            if self.ignored_key_names.len() < MOST_NAMES && !self.ignored_key_names.contains(&key) {
                self.ignored_key_names.push(fields::shown(&key));
            }
        }
    }
}

/// What has to be known of all rows before the first of them becomes a turn.
struct Plan {
    /// The session of each row.
    places: Vec<usize>,
    clock: Clock,
    blocks: Blocks,
}

impl Plan {
    fn new(rows: &[TraceRow], trace_block_size: u32, load: Load) -> Result<Self, TraceError> {
        if trace_block_size == 0 {
            return Err(TraceError::BlockSize);
        }
        if rows.is_empty() {
            return Err(TraceError::NoRows);
        }
        let places = session_of_each_row(rows);
        let clock = Clock::new(load, rows, &places)?;
        let blocks = Blocks { size: trace_block_size, interner: Interner::new() };
        Ok(Self { places, clock, blocks })
    }

    fn assemble(mut self, rows: impl Iterator<Item: Borrow<TraceRow>>) -> Result<Workload, TraceError> {
        let sessions = self.places.iter().max().map_or(0, |last| last + 1);
        let mut workload = Workload { sessions: Vec::with_capacity(sessions), ..Workload::default() };
        for (row, place) in rows.zip(self.places) {
            let row: &TraceRow = row.borrow();
            row.check()?;
            let is_first = place == workload.sessions.len();
            let turn = Turn {
                line: row.line,
                start: if is_first { self.clock.first_turn(row)? } else { self.clock.later_turn(row)? },
                prompt: self.blocks.prompt(row, &mut workload.notes)?,
                // Checked to be below a million.
                output_tokens: row.output_length as u32,
                priority: row.priority,
                stop_after: None,
                output: None,
            };
            if is_first {
                let name = row.session_id.as_deref().map(Box::from);
                workload.sessions.push(Session { name, turns: SmallVec::new() });
            }
            workload.sessions[place].turns.push(turn);
        }
        Ok(workload)
    }
}

/// The index of the session that each row belongs to, numbered in order of first appearance.
fn session_of_each_row(rows: &[TraceRow]) -> Vec<usize> {
    let mut by_name = FxHashMap::default();
    let mut sessions = 0;
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        let place = match &row.session_id {
            Some(name) => *by_name.entry(name).or_insert(sessions),
            None => sessions,
        };
        sessions += usize::from(place == sessions);
        places.push(place);
    }
    places
}

/// Turns the times of rows into those of a run.
enum Clock {
    /// Milliseconds of the first arrival, and the ratio.
    Open {
        first_arrival: f64,
        ratio: f64,
    },
    Closed,
}

impl Clock {
    fn new(load: Load, rows: &[TraceRow], places: &[usize]) -> Result<Self, TraceError> {
        let Load::Open { arrival_speedup_ratio: ratio } = load else { return Ok(Self::Closed) };
        if !(ratio.is_finite() && ratio > 0.0) {
            return Err(TraceError::SpeedupRatio { ratio });
        }
        let mut sessions = 0;
        let mut first_arrival = f64::INFINITY;
        for (row, &place) in rows.iter().zip(places) {
            if place == sessions {
                sessions += 1;
                first_arrival = first_arrival.min(row.timestamp_ms.unwrap_or(f64::INFINITY));
            }
        }
        Ok(Self::Open { first_arrival, ratio })
    }

    fn first_turn(&self, row: &TraceRow) -> Result<TurnStart, TraceError> {
        if let Some(delay_ms) = row.delay_ms.filter(|ms| *ms != 0.0) {
            return Err(TraceError::FirstTurnDelay {
                line: row.line,
                delay_ms,
                session: session_in_words(row),
            });
        }
        let Self::Open { first_arrival, ratio } = self else { return Ok(TurnStart::At(Time::ZERO)) };
        let no_timestamp = || TraceError::NoTimestamp { line: row.line, session: session_in_words(row) };
        let timestamp = row.timestamp_ms.ok_or_else(no_timestamp)?;
        Ok(TurnStart::At(time(row, (timestamp - first_arrival) / ratio, *ratio)?))
    }

    fn later_turn(&self, row: &TraceRow) -> Result<TurnStart, TraceError> {
        let (first_arrival, ratio) = match *self {
            Self::Open { first_arrival, ratio } => (first_arrival, ratio),
            Self::Closed => {
                return Ok(TurnStart::AfterPrevious(delay(row, row.delay_ms.unwrap_or(0.0), 1.0)?));
            }
        };
        Ok(match (row.delay_ms, row.timestamp_ms) {
            (Some(ms), _) => TurnStart::AfterPrevious(delay(row, ms / ratio, ratio)?),
            // A time before the first arrival has passed by the time that any turn completes.
            (None, Some(ms)) => {
                TurnStart::NotBefore(time(row, ((ms - first_arrival) / ratio).max(0.0), ratio)?)
            }
            (None, None) => TurnStart::AfterPrevious(Duration::ZERO),
        })
    }
}

fn time(row: &TraceRow, ms: f64, ratio: f64) -> Result<Time, TraceError> {
    Time::from_ms(ms).map_err(|_| TraceError::TimeSpan { line: row.line, field: "timestamp", ms, ratio })
}

fn delay(row: &TraceRow, ms: f64, ratio: f64) -> Result<Duration, TraceError> {
    Duration::from_ms(ms).map_err(|_| TraceError::TimeSpan { line: row.line, field: "delay", ms, ratio })
}

fn session_in_words(row: &TraceRow) -> String {
    match &row.session_id {
        Some(name) => format!("session `{name}`"),
        None => "its session (a row without `session_id` is a session of its own)".into(),
    }
}

/// Makes prompts out of hash ids.
struct Blocks {
    size: u32,
    interner: Interner,
}

impl Blocks {
    fn prompt(&mut self, row: &TraceRow, notes: &mut TraceNotes) -> Result<Prompt, TraceError> {
        let covered = row.hash_ids.len() as u64 * u64::from(self.size);
        let tokens = row.input_length.unwrap_or(covered);
        let needed = tokens.div_ceil(u64::from(self.size));
        if tokens == 0 {
            return Err(TraceError::EmptyPrompt { line: row.line });
        }
        if tokens > covered {
            return Err(TraceError::BlockCount {
                line: row.line,
                input_length: tokens,
                hash_ids: row.hash_ids.len() as u64,
                block_size: self.size,
                covered,
                needed,
            });
        }
        if tokens > MAX_INPUT_TOKENS {
            return Err(TraceError::Value {
                line: row.line,
                field: "hash_ids".into(),
                found: format!("a list that covers {covered} tokens"),
                expected: format!("one that covers {}", tokens_up_to(MAX_INPUT_TOKENS)),
            });
        }
        notes.inferred_input_length += u64::from(row.input_length.is_none());
        notes.surplus_hash_ids += u64::from((row.hash_ids.len() as u64) > needed);
        let ids = row.hash_ids[..needed as usize].iter().map(|id| self.interner.intern(*id));
        Ok(Prompt::from_blocks(ids, self.size, tokens as u32))
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::BlockHasher;

    use super::*;

    const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

    /// A row of one block of 100 tokens.
    fn row(line: u64, session: &str, timestamp_ms: impl Into<Option<f64>>) -> TraceRow {
        TraceRow {
            line,
            session_id: (!session.is_empty()).then(|| session.into()),
            timestamp_ms: timestamp_ms.into(),
            input_length: Some(100),
            output_length: 5,
            hash_ids: vec![line],
            ..TraceRow::default()
        }
    }

    fn delayed(row: TraceRow, delay_ms: f64) -> TraceRow {
        TraceRow { delay_ms: Some(delay_ms), ..row }
    }

    /// One line per session: its name and the start of each of its turns.
    fn dump(workload: &Workload) -> String {
        let start = |turn: &Turn| match turn.start {
            TurnStart::At(time) => format!("{}: at {time}", turn.line),
            TurnStart::AfterPrevious(delay) => format!("{}: after {delay}", turn.line),
            TurnStart::NotBefore(time) => format!("{}: not before {time}", turn.line),
        };
        let session = |session: &Session| {
            let turns: Vec<_> = session.turns.iter().map(start).collect();
            format!("{} [{}]", session.name.as_deref().unwrap_or("-"), turns.join(", "))
        };
        workload.sessions.iter().map(session).collect::<Vec<_>>().join("\n")
    }

    fn check(rows: &[TraceRow], load: Load, expected: &str) {
        let outcome = Workload::from_rows(rows, 100, load);
        assert_eq!(outcome.map_or_else(|error| error.to_string(), |workload| dump(&workload)), expected);
    }

    #[test]
    fn times_count_from_the_earliest_first_turn() {
        let rows = [row(1, "", 30.5), row(2, "b", 10.0), row(3, "", 20.0), row(4, "b", 5.0)];
        check(&rows, OPEN, "- [1: at 20.5 ms]\nb [2: at 0 ms, 4: not before 0 ms]\n- [3: at 10 ms]");
        let workload = Workload::from_rows(&rows, 100, OPEN).unwrap();
        assert_eq!(workload.arrival_order(), [1, 2, 0]);
        assert_eq!((workload.requests(), workload.input_tokens(), workload.output_tokens()), (4, 400, 20));
    }

    #[test]
    fn a_delay_goes_before_a_timestamp_and_neither_means_at_once() {
        let rows = [row(1, "a", 0.0), delayed(row(2, "a", 50.0), 7.0), row(3, "a", 50.0), row(4, "a", None)];
        check(&rows, OPEN, "a [1: at 0 ms, 2: after 7 ms, 3: not before 50 ms, 4: after 0 ms]");
    }

    #[test]
    fn a_speedup_divides_times_and_delays_after_the_subtraction() {
        let rows =
            [row(1, "a", 1000.0), row(2, "b", 1010.0), delayed(row(3, "a", None), 8.0), row(4, "b", 1030.0)];
        check(
            &rows,
            Load::Open { arrival_speedup_ratio: 4.0 },
            "a [1: at 0 ms, 3: after 2 ms]\nb [2: at 2.5 ms, 4: not before 7.5 ms]",
        );
    }

    #[test]
    fn a_closed_loop_ignores_timestamps_and_does_not_need_them() {
        let rows = [row(1, "a", None), row(2, "", 7.0), row(3, "a", 90.0), delayed(row(4, "a", 1.0), 8.0)];
        check(&rows, Load::Closed, "a [1: at 0 ms, 3: after 0 ms, 4: after 8 ms]\n- [2: at 0 ms]");
    }

    #[test]
    fn times_that_cannot_be_used_are_refused() {
        check(
            &[row(1, "", 0.0), row(2, "b", None)],
            OPEN,
            "line 2: `timestamp` is missing on the first turn of session `b`: an open-loop run needs the time in \
             milliseconds at which it arrives (a closed loop does not)",
        );
        check(
            &[delayed(row(1, "", 0.0), 3.0)],
            Load::Closed,
            "line 1: `delay` is 3 on the first turn of its session (a row without `session_id` is a session of its \
             own), but a delay counts from the end of the turn before: leave it out, or give 0",
        );
        check(
            &[row(1, "", -1e13), row(2, "", 1e13)],
            OPEN,
            "line 2: `timestamp` comes to 2e13 ms from the first arrival at a speed-up of 1, but must be at most \
             1.8e13 ms",
        );
        check(
            &[row(1, "", f64::NAN)],
            OPEN,
            "line 1: `timestamp` is NaN, but must be a number of milliseconds from -1.8e13 to 1.8e13",
        );
        for ratio in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = format!("`arrival_speedup_ratio` is {ratio}, but must be a finite number above 0");
            check(&[row(1, "", 0.0)], Load::Open { arrival_speedup_ratio: ratio }, &error);
        }
    }

    #[test]
    fn a_delay_of_zero_on_a_first_turn_is_none() {
        check(&[delayed(row(1, "a", 3.0), 0.0)], OPEN, "a [1: at 0 ms]");
    }

    #[test]
    fn prompts_are_cut_to_their_length_and_share_equal_ids() {
        let rows = [
            TraceRow { hash_ids: vec![1, 2, 3], input_length: Some(150), ..row(1, "", 0.0) },
            TraceRow { hash_ids: vec![1, 1 << 32 | 2], input_length: None, ..row(2, "", 0.0) },
        ];
        let workload = Workload::from_rows(&rows, 100, OPEN).unwrap();
        let prompts: Vec<_> = workload.turns().map(|turn| &turn.prompt).collect();
        assert_eq!((prompts[0].tokens(), prompts[1].tokens()), (150, 200));
        let [first, second] = [0, 1].map(|place: usize| BlockHasher::all(prompts[place], 50));
        assert_eq!(first[..2], second[..2], "the block that both name");
        assert_ne!(first[2], second[2]);
        assert_eq!(
            workload.notes.sentences(),
            [
                "1 row has more `hash_ids` than the prompt needs",
                "1 row has no `input_length`: as many tokens as `hash_ids` cover",
            ]
        );
    }

    #[test]
    fn prompts_that_are_empty_or_too_long_are_refused() {
        let with = |hash_ids, input_length| TraceRow { input_length, hash_ids, ..row(1, "", 0.0) };
        let empty =
            "line 1: `hash_ids` is empty and there is no `input_length`, but a prompt has at least 1 token";
        check(&[with(vec![], None)], OPEN, empty);
        check(
            &[with(vec![1], Some(101))],
            OPEN,
            "line 1: `input_length` is 101, but 1 `hash_ids` of 100 tokens cover only 100: it needs 2 of them, or \
             another trace block size",
        );
        let error = Workload::from_rows(&[with(vec![1], None)], u32::MAX, OPEN).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 1: `hash_ids` is a list that covers 4294967295 tokens, but must be one that covers a whole number \
             of tokens from 1 to 1000000000"
        );
    }

    #[test]
    fn no_rows_and_no_block_size_are_refused() {
        check(&[], OPEN, "the trace has no rows: every request is a line with one JSON object");
        let error = Workload::from_rows(&[row(1, "", 0.0)], 0, OPEN).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`trace_block_size` is 0, but every hash id must stand for at least 1 token"
        );
    }
}
