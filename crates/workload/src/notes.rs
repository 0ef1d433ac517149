//! What was odd about a trace but could be used.

use servecast_types::{Message, message};

use crate::unit::{Recognised, TimeUnit};
use crate::{Turns, fields};

/// What was odd about a trace but could be used, counted in rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TraceNotes {
    /// Rows with keys that mean nothing here.
    pub ignored_keys: u64,
    /// The first few of those keys, in order of appearance.
    pub ignored_key_names: Vec<String>,
    /// Rows with more hash ids than their prompt needs.
    pub surplus_hash_ids: u64,
    /// Rows without a prompt length, which is then what their hash ids cover.
    pub inferred_input_length: u64,
    /// Rows that name more or fewer generated tokens than their output has.
    pub other_output_ids: Noted,
    /// Turns that stand behind a later one of their session.
    pub unordered_turns: Noted,
    /// Turns whose prompt has nothing in common with that of the turn before.
    pub unrelated_turns: Noted,
    /// Rows of which nothing is known but their lengths.
    pub without_content: u64,
    /// Rows with 0 tokens of prompt or output, which are left out.
    pub without_tokens: Noted,
    /// Rows of requests that came before a measurement, which are left out.
    pub warmups: Noted,
    /// Records of something else than requests.
    pub other_records: Noted,
    /// Turns that began before the one before them had ended, and wait for it.
    pub side_by_side: Noted,
    /// Calls of sub-agents, which stand between the calls of their parent.
    pub sub_agents: Noted,
    /// Calls of which nobody knows how long after the one before they were sent.
    pub without_gap: Noted,
    /// Calls with 0 tokens, of which they get one.
    pub made_one_token: Noted,
    /// Rows whose ids leave a block or more of the prompt without one.
    pub uncovered: Noted,
    /// Rows that build on a row which the file does not have.
    pub unknown_parents: Noted,
    /// The last row of a table, if no line break follows it.
    pub unfinished_row: Noted,
    /// Rows that name a session in a column that is not used.
    pub unread_sessions: Noted,
    /// Rows with a class, of which a trace that is used as it is read has no figures.
    pub streamed_classes: Noted,
    /// Rows with the grammar of a structured output.
    pub with_grammar: u64,
    /// The most requests that the client of a measurement had under way.
    pub concurrency: Option<u64>,
    /// What the file was found to be, where nobody said so.
    pub recognised: Option<Recognised>,
    /// Requests per second, if that is so odd that the times may have another unit.
    pub odd_rate: Option<f64>,
    /// Tokens that a hash id stands for, where the file says so.
    pub stated_block_size: Option<u32>,
    /// What the rows of sessions hold, where the form of the file says so.
    pub turns: Option<Turns>,
    /// The unit of time that was given, where the names of keys contradict it.
    pub overruled_unit: Option<TimeUnit>,
}

/// Rows with something odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// How many there are.
    pub rows: u64,
    /// The line of the first one.
    pub first_line: u64,
}

impl Noted {
    pub(crate) fn add(&mut self, line: u64) {
        self.first_line = if self.rows == 0 { line } else { self.first_line.min(line) };
        self.rows += 1;
    }
}

impl TraceNotes {
    /// What was odd about several traces. Lines are those of the first trace that has something odd.
    pub fn of_all(notes: Vec<Self>) -> Self {
        notes.into_iter().reduce(Self::and).unwrap_or_default()
    }

    fn and(self, other: Self) -> Self {
        let both = |one: Noted, other: Noted| Noted {
            rows: one.rows + other.rows,
            first_line: if one.rows > 0 { one.first_line } else { other.first_line },
        };
        let mut ignored_key_names = self.ignored_key_names;
        for name in other.ignored_key_names {
            if !ignored_key_names.contains(&name) {
                ignored_key_names.push(name);
            }
        }
        Self {
            ignored_keys: self.ignored_keys + other.ignored_keys,
            ignored_key_names,
            surplus_hash_ids: self.surplus_hash_ids + other.surplus_hash_ids,
            inferred_input_length: self.inferred_input_length + other.inferred_input_length,
            other_output_ids: both(self.other_output_ids, other.other_output_ids),
            unordered_turns: both(self.unordered_turns, other.unordered_turns),
            unrelated_turns: both(self.unrelated_turns, other.unrelated_turns),
            without_content: self.without_content + other.without_content,
            without_tokens: both(self.without_tokens, other.without_tokens),
            warmups: both(self.warmups, other.warmups),
            other_records: both(self.other_records, other.other_records),
            side_by_side: both(self.side_by_side, other.side_by_side),
            sub_agents: both(self.sub_agents, other.sub_agents),
            without_gap: both(self.without_gap, other.without_gap),
            made_one_token: both(self.made_one_token, other.made_one_token),
            uncovered: both(self.uncovered, other.uncovered),
            unknown_parents: both(self.unknown_parents, other.unknown_parents),
            unfinished_row: both(self.unfinished_row, other.unfinished_row),
            unread_sessions: both(self.unread_sessions, other.unread_sessions),
            streamed_classes: both(self.streamed_classes, other.streamed_classes),
            with_grammar: self.with_grammar + other.with_grammar,
            concurrency: self.concurrency.max(other.concurrency),
            recognised: self.recognised.or(other.recognised),
            odd_rate: self.odd_rate.or(other.odd_rate),
            stated_block_size: self.stated_block_size.or(other.stated_block_size),
            turns: self.turns.or(other.turns),
            overruled_unit: self.overruled_unit.or(other.overruled_unit),
        }
    }

    /// The notes as sentences for a reader, without the counts that are 0.
    pub fn sentences(&self) -> Vec<String> {
        self.messages().iter().map(Message::to_string).collect()
    }

    /// The same in the words of whoever shows them.
    pub fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        messages.extend(self.recognised.map(Recognised::message));
        messages.extend(self.overruled_unit.map(|unit| {
            message!("`arrival_time_ns` is read as {}, since {--time_unit} says so", unit.name())
        }));
        messages.extend(self.odd_rate.map(odd_rate));
        messages.extend(self.concurrency.map(|requests| {
            message!(
                "the client had {} requests under way at most: {--replay_concurrency} {} sends them so again",
                requests,
                requests
            )
        }));
        let mut add = |count: u64, what: Message| {
            if count > 0 {
                messages.push(message!(
                    "{} {} {}",
                    count,
                    if count == 1 { "row has" } else { "rows have" },
                    what
                ));
            }
        };
        let names =
            self.ignored_key_names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        add(self.ignored_keys, message!("keys that are ignored: {}", names));
        add(self.surplus_hash_ids, "more `hash_ids` than the prompt needs".into());
        add(self.inferred_input_length, "no `input_length`: as many tokens as `hash_ids` cover".into());
        add(
            self.without_content,
            "lengths only: no prompt shares anything with another, so that caches hit nothing".into(),
        );
        add(
            self.with_grammar,
            message!(
                "a `grammar`, for which they wait on vLLM as long as {grammar_compile_ms} says, by default not at all"
            ),
        );
        for (noted, what) in self.noted() {
            let first = if noted.rows > 1 { " first" } else { "" };
            add(noted.rows, message!("{} (line {}{})", what, noted.first_line, first));
        }
        messages
    }

    /// Rows with something odd, and what that is.
    fn noted(&self) -> [(Noted, Message); 15] {
        [
            (self.warmups, message!("requests of a warm-up: they are left out")),
            (
                self.without_tokens,
                message!("0 tokens of prompt or output, as requests that failed have: they are left out"),
            ),
            (self.other_records, message!("something else than a request: they are left out")),
            (
                self.side_by_side,
                message!(
                    "begun before the turn before had ended: they wait for it, as turns of a session do"
                ),
            ),
            (
                self.sub_agents,
                message!(
                    "a call of a sub-agent, which waits for what had ended when that began, and runs beside what had not"
                ),
            ),
            (
                self.without_gap,
                message!("no time between the turn before and this: it is sent as soon as that has ended"),
            ),
            (self.made_one_token, message!("0 tokens, of which they get one")),
            (
                self.uncovered,
                message!("a prompt longer than its ids cover: the rest of it is shared with no other"),
            ),
            (
                self.unknown_parents,
                message!(
                    "a `parent_chat_id` that is the `chat_id` of no row: the file is a part of a longer one, and what a prompt \
                     shares is by its `hash_ids` alone"
                ),
            ),
            (
                self.unfinished_row,
                message!(
                    "no line break behind it: if the file is cut off there, so is the row's last number"
                ),
            ),
            (
                self.unread_sessions,
                message!(
                    "a session that is not used, since each request comes at its own time: {--columns} with session=COLUMN \
                     makes a turn wait for the one before"
                ),
            ),
            (
                self.streamed_classes,
                message!("a class, which a trace that is used as it is read has no figures of"),
            ),
            (
                self.other_output_ids,
                message!(
                    "ids of generated tokens for another length than that of the output: what has no id is never hit, \
                     surplus ids are ignored"
                ),
            ),
            (
                self.unordered_turns,
                message!(
                    "a timestamp before that of an earlier row of its session: turns go by their timestamps"
                ),
            ),
            (
                self.unrelated_turns,
                message!(
                    "nothing in common with the turn before it: {--turns} delta if rows hold only what is new in a turn"
                ),
            ),
        ]
    }

    /// The notes as counts of rows by kind, without those that are 0.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("ignored_keys", self.ignored_keys),
            ("surplus_hash_ids", self.surplus_hash_ids),
            ("inferred_input_length", self.inferred_input_length),
            ("without_content", self.without_content),
            ("without_tokens", self.without_tokens.rows),
            ("warmups", self.warmups.rows),
            ("other_records", self.other_records.rows),
            ("side_by_side", self.side_by_side.rows),
            ("sub_agents", self.sub_agents.rows),
            ("without_gap", self.without_gap.rows),
            ("made_one_token", self.made_one_token.rows),
            ("uncovered", self.uncovered.rows),
            ("unknown_parents", self.unknown_parents.rows),
            ("unfinished_row", self.unfinished_row.rows),
            ("unread_sessions", self.unread_sessions.rows),
            ("streamed_classes", self.streamed_classes.rows),
            ("with_grammar", self.with_grammar),
            ("other_output_ids", self.other_output_ids.rows),
            ("unordered_turns", self.unordered_turns.rows),
            ("unrelated_turns", self.unrelated_turns.rows),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
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

fn odd_rate(per_second: f64) -> Message {
    let rate = if per_second >= 1.0 {
        format!("{per_second:.0} requests a second")
    } else {
        format!("a request every {:.0} seconds", 1.0 / per_second)
    };
    message!(
        "the times, read as milliseconds, make {}: {--time_unit} s, us or ns if they are in another unit",
        rate
    )
}
