//! Sessions of turns, ready to be replayed.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::{ClassId, ContentNames, Duration, Prompt, Time};
use smallvec::SmallVec;

use crate::assemble::Plan;
use crate::blocks::Blocks;
use crate::graph::{self, Graph, Waits};
use crate::row::TraceRow;
use crate::{FreeingIter, TraceError, TraceNotes, shape};

/// What a simulation replays: sessions of turns with virtual times.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Workload {
    /// The sessions, in order of first appearance.
    pub sessions: Vec<Session>,
    /// What was odd about the trace but could be used.
    pub notes: TraceNotes,
    /// What the content of its prompts is called.
    pub names: ContentNames,
    /// The names of the classes that its requests are of.
    pub classes: Vec<Box<str>>,
    /// The names of the LoRA adapters that its requests ask for.
    pub loras: Vec<Box<str>>,
    /// The names of the grammars of their structured output.
    pub grammars: Vec<Box<str>>,
}

/// Requests that follow one another: each waits for the one before it, or for those that it names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Session {
    /// The name that the trace gives it.
    pub name: Option<Box<str>>,
    /// Its requests, in an order in which each comes after those that it waits for; at least one, and in most traces just
    /// one.
    pub turns: SmallVec<[Turn; 1]>,
    /// By turn, the turns that it waits for, if that is not always the one before.
    pub waits: Option<Box<[Waits]>>,
}

impl Session {
    /// The turns that a turn waits for.
    pub fn waits_for(&self, turn: usize) -> Waits {
        match &self.waits {
            Some(waits) => waits[turn].clone(),
            None => (turn as u32).checked_sub(1).into_iter().collect(),
        }
    }

    /// Drops the turns before one, with which the session begins then; what waits for none of the others any more is sent
    /// with it.
    pub(crate) fn begin_at(&mut self, turn: usize) {
        self.turns.drain(..turn);
        if let Some(first) = self.turns.first_mut() {
            first.start = TurnStart::At(Time::ZERO);
        }
        let Some(waits) = self.waits.take() else { return };
        let begin = turn as u32;
        let left = |of_turn: &Waits| -> Waits {
            of_turn.iter().filter_map(|before| before.checked_sub(begin)).collect()
        };
        let were: &[Waits] = &waits[turn..];
        let waits: Vec<Waits> = were.iter().map(left).collect();
        for ((turn, waits), were) in self.turns.iter_mut().zip(&waits).zip(were).skip(1) {
            if waits.is_empty() && !were.is_empty() {
                turn.start = TurnStart::AfterPrevious(Duration::ZERO);
            }
        }
        self.waits = graph::not_in_turn(waits);
    }

    /// Drops the turns behind the first so many.
    pub(crate) fn truncate(&mut self, turns: usize) {
        self.turns.truncate(turns);
        // Those that are left wait for none of the others.
        if let Some(waits) = self.waits.take() {
            self.waits = graph::not_in_turn(waits.into_iter().take(turns).collect());
        }
    }
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
    /// Tokens that it asks for, at least 1.
    pub output_tokens: u32,
    /// Scheduling priority, 0 by default.
    pub priority: i32,
    /// Generation ends after this many tokens although more were asked for.
    pub stop_after: Option<u32>,
    /// What it generates, from the first token on, as far as the trace or a later turn names it.
    pub output: Option<Box<Prompt>>,
    /// The class that it is of.
    pub class: Option<ClassId>,
    /// The place of its adapter among the names of the workload; its prompt is that under the adapter.
    pub lora: Option<u32>,
    /// The place of the grammar of its structured output among the names of the workload, if it has one.
    pub grammar: Option<u32>,
}

impl Turn {
    /// The request of a row that has been checked.
    pub(crate) fn of_row(
        row: &TraceRow,
        start: TurnStart,
        blocks: &mut Blocks,
        notes: &mut TraceNotes,
    ) -> Result<Self, TraceError> {
        // Checked to be below a million.
        let generated = row.output_length as u32;
        Ok(Self {
            line: row.line,
            start,
            prompt: blocks.prompt(row, notes)?,
            output_tokens: row.max_output.unwrap_or(generated),
            priority: row.priority,
            stop_after: row.max_output.map(|_| generated),
            output: blocks.output(row, notes),
            class: None,
            lora: None,
            grammar: None,
        })
    }

    /// Tokens that it generates, at least 1.
    pub fn generated(&self) -> u32 {
        self.stop_after.map_or(self.output_tokens, |stop| stop.clamp(1, self.output_tokens))
    }
}

/// When a turn is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnStart {
    /// At this time: only the first turn of a session.
    At(Time),
    /// This long after the turns that it waits for complete: the one before it, if nothing else is said; of one that waits
    /// for none, after the first turn of the session is sent.
    AfterPrevious(Duration),
    /// At this time, or when the turns that it waits for complete if that is later.
    NotBefore(Time),
}

/// What the rows of a trace stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Tokens that a hash id stands for.
    pub block_size: u32,
    /// What the rows of a session hold.
    pub turns: Turns,
    /// Rows that are used, the first ones of the trace; where rows name one another, the requests of the first sessions, in
    /// order of arrival. All without it.
    pub max_requests: Option<NonZeroUsize>,
}

impl Cut {
    /// How many of the rows are used; all where rows name one another, which may stand in any order.
    fn rows_of(self, rows: &[TraceRow]) -> usize {
        let most = self.max_requests.map_or(rows.len(), NonZeroUsize::get);
        if most >= rows.len() || Graph::is_one(rows) { rows.len() } else { most }
    }

    /// What is used of a workload, of whose rows not all may be.
    fn of_workload(self, mut workload: Workload) -> Workload {
        if let Some(most) = self.max_requests
            && most.get() < workload.requests()
        {
            shape::first_requests(&mut workload, most.get());
        }
        workload
    }
}

impl From<u32> for Cut {
    /// Whole prompts with so many tokens to a hash id.
    fn from(block_size: u32) -> Self {
        Self { block_size, turns: Turns::Whole, max_requests: None }
    }
}

/// What the rows of a session hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// The whole prompt of each turn, with all that came before.
    #[default]
    Whole,
    /// What is new in a turn: its prompt is that of the turn before, the reply to it, and this.
    Delta,
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
    /// Assembles sessions from rows, for whole prompts just their block size.
    ///
    /// The rows of a session need not be adjacent. Its turns go by their timestamps, those without one after the row
    /// before them. Where a later turn has both a delay and a timestamp, the delay counts for its start.
    ///
    /// Rows that name others that they wait for, or that wait for them, are one session with these; where such names occur,
    /// the order of a session is the one that they leave, and of rows that could go first, that of the file.
    ///
    /// A reply that the ids of its row do not name is known by the next turn if that goes on from prompt and reply.
    ///
    /// # Errors
    /// With the line of the first row that cannot be used, and when there are no rows.
    ///
    /// # Panics
    /// With more than 2³⁰ distinct hash ids of 2³⁰ and above, which would be a trace of over 10 GB.
    pub fn from_rows(rows: &[TraceRow], cut: impl Into<Cut>, load: Load) -> Result<Self, TraceError> {
        let cut = cut.into();
        let rows = &rows[..cut.rows_of(rows)];
        Ok(cut.of_workload(Plan::new(rows, cut, load)?.assemble(rows.iter())?))
    }

    /// As [`Workload::from_rows`], with each row dropped once it is used: less memory for a long trace.
    ///
    /// # Errors
    /// As there.
    pub fn from_owned_rows(
        mut rows: Vec<TraceRow>,
        cut: impl Into<Cut>,
        load: Load,
    ) -> Result<Self, TraceError> {
        let cut = cut.into();
        rows.truncate(cut.rows_of(&rows));
        Ok(cut.of_workload(Plan::new(&rows, cut, load)?.assemble(FreeingIter::new(rows))?))
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
        self.turns().map(|turn| u64::from(turn.generated())).sum()
    }

    /// Whether a turn waits for others than the one before it in its session.
    pub fn forks(&self) -> bool {
        self.sessions.iter().any(|session| session.waits.is_some())
    }

    /// All turns, session by session.
    pub fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.sessions.iter().flat_map(|session| &session.turns)
    }

    /// Indices of the sessions in the order in which they arrive: by time, then by line.
    pub fn arrival_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sessions.len()).collect();
        order.sort_by_key(|&index| {
            self.sessions[index].turns.first().map(|turn| match turn.start {
                TurnStart::At(time) | TurnStart::NotBefore(time) => (time, turn.line),
                TurnStart::AfterPrevious(_) => (Time::ZERO, turn.line),
            })
        });
        order
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::BlockHasher;

    use super::*;
    use crate::Noted;

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
        check(&rows, OPEN, "- [1: at 25.5 ms]\nb [4: at 0 ms, 2: not before 5 ms]\n- [3: at 15 ms]");
        let workload = Workload::from_rows(&rows, 100, OPEN).unwrap();
        assert_eq!(workload.arrival_order(), [1, 2, 0]);
        assert_eq!((workload.requests(), workload.input_tokens(), workload.output_tokens()), (4, 400, 20));
    }

    #[test]
    fn turns_go_by_their_timestamps_and_those_without_one_after_the_row_before() {
        let rows =
            [row(1, "a", 9.0), row(2, "a", None), row(3, "b", 1.0), row(4, "a", 4.0), row(5, "a", 4.0)];
        check(
            &rows,
            OPEN,
            "a [4: at 3 ms, 5: not before 3 ms, 1: not before 8 ms, 2: after 0 ms]\nb [3: at 0 ms]",
        );
        let notes = Workload::from_rows(&rows, 100, OPEN).unwrap().notes;
        assert_eq!(notes.unordered_turns, Noted { rows: 2, first_line: 4 });
    }

    #[test]
    fn sessions_that_begin_together_go_by_the_line_of_their_first_turn() {
        let rows = [row(1, "a", 5.0), row(2, "b", 0.0), row(3, "a", 0.0)];
        let workload = Workload::from_rows(&rows, 100, OPEN).unwrap();
        assert_eq!(workload.arrival_order(), [1, 0]);
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
        check(&rows, Load::Closed, "a [1: at 0 ms, 4: after 8 ms, 3: after 0 ms]\n- [2: at 0 ms]");
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
        check(
            &[],
            OPEN,
            "the trace has no rows: every request is a line with one JSON object, or a line of a table",
        );
        let error = Workload::from_rows(&[row(1, "", 0.0)], 0, OPEN).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`trace_block_size` is 0, but every hash id must stand for at least 1 token"
        );
    }
}
