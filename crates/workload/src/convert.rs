//! Any workload as rows of Mooncake.

use rustc_hash::FxHashMap;
use servecast_types::{Prompt, Time};

use crate::{Links, Load, Session, TraceRow, Turn, TurnStart, Workload};

impl Workload {
    /// The requests as rows of Mooncake with an id for each `block_size` tokens, sessions in order of first appearance, in
    /// which a closed loop sends them, and times of an open load in milliseconds from the first arrival.
    ///
    /// Equal blocks have equal ids. What prompts share, and what later turns share with replies, stays to the token if
    /// the workload was read with the same block size, and to the block otherwise.
    ///
    /// # Panics
    /// If `block_size` is 0.
    pub fn mooncake_rows(&self, block_size: u32, load: Load) -> impl Iterator<Item = TraceRow> {
        assert!(block_size > 0, "a block holds at least one token");
        let mut ids =
            BlockIds { size: block_size, plain: FxHashMap::default(), pieced: FxHashMap::default() };
        let is_open = matches!(load, Load::Open { .. });
        let of_session = |session| move |(place, turn)| (session, place, turn);
        let turns = self
            .sessions
            .iter()
            .flat_map(move |session: &Session| session.turns.iter().enumerate().map(of_session(session)));
        turns.zip(1..).map(move |((session, place, turn), line)| {
            let name = session.name.as_deref().filter(|_| session.turns.len() > 1);
            let class = turn.class.and_then(|class| self.classes.get(class.index()));
            let row = row(name, turn, line, is_open, &mut ids);
            TraceRow {
                class: class.cloned(),
                lora: turn.lora.and_then(|lora| self.loras.get(lora as usize)).cloned(),
                grammar: turn.grammar.and_then(|grammar| self.grammars.get(grammar as usize)).cloned(),
                links: links(session, place, line),
                // It is known again by the turn that goes on from it, to the token, which ids of whole blocks are not.
                output_ids: if is_repeated(session, place) { Vec::new() } else { row.output_ids },
                ..row
            }
        })
    }
}

/// Whether a turn that waits for this one repeats its whole reply behind its prompt.
fn is_repeated(session: &Session, place: usize) -> bool {
    let turn = &session.turns[place];
    let Some(output) = &turn.output else { return false };
    let (begin, end) = (turn.prompt.tokens(), turn.prompt.tokens().saturating_add(turn.generated()));
    let repeats = |next: &Turn| {
        next.prompt.tokens() >= end
            && turn.prompt.common_prefix(&next.prompt) == begin
            && Prompt::new(next.prompt.range(begin..end)) == **output
    };
    let later = match session.waits {
        // The next turn is the only one that waits for it.
        None => place + 1..session.turns.len().min(place + 2),
        Some(_) => place + 1..session.turns.len(),
    };
    later
        .into_iter()
        .any(|next| session.waits_for(next).contains(&(place as u32)) && repeats(&session.turns[next]))
}

/// What a row says of others, which are called by their lines, if turns of its session wait for others than those before
/// them.
fn links(session: &Session, turn: usize, line: u64) -> Option<Box<Links>> {
    session.waits.as_ref()?;
    let name = |turn_of_session: u64| (line - turn as u64 + turn_of_session).to_string().into();
    Some(Box::new(Links {
        request_id: Some(name(turn as u64)),
        wait_for: Some(session.waits_for(turn).into_iter().map(|before| name(before.into())).collect()),
        ..Links::default()
    }))
}

fn row(name: Option<&str>, turn: &Turn, line: u64, is_open: bool, ids: &mut BlockIds) -> TraceRow {
    let (timestamp_ms, delay_ms) = match turn.start {
        TurnStart::At(time) | TurnStart::NotBefore(time) => {
            (is_open.then(|| time.since(Time::ZERO).as_ms()), None)
        }
        TurnStart::AfterPrevious(delay) => (None, Some(delay.as_ms())),
    };
    TraceRow {
        line,
        session_id: name.map(ToOwned::to_owned),
        timestamp_ms,
        delay_ms,
        input_length: Some(u64::from(turn.prompt.tokens())),
        output_length: u64::from(turn.generated()),
        max_output: turn.stop_after.map(|_| turn.output_tokens),
        hash_ids: ids.of(&turn.prompt),
        output_ids: turn.output.as_ref().map(|output| ids.of(output)).unwrap_or_default(),
        priority: turn.priority,
        ..TraceRow::default()
    }
}

/// Numbers blocks in the order in which they turn up.
struct BlockIds {
    size: u32,
    /// Those of tokens with consecutive identities, by the first.
    plain: FxHashMap<u64, u64>,
    /// The others: where each piece begins, and of which length all but the last are.
    pieced: FxHashMap<Vec<(u64, u32)>, u64>,
}

impl BlockIds {
    fn of(&mut self, prompt: &Prompt) -> Vec<u64> {
        let mut ids = Vec::with_capacity(prompt.tokens().div_ceil(self.size) as usize);
        let (mut block, mut filled) = (Vec::new(), 0);
        for run in prompt.runs() {
            let mut used = 0;
            while used < run.len() {
                let take = (run.len() - used).min(self.size - filled);
                block.push((run.start() + u64::from(used), take));
                (used, filled) = (used + take, filled + take);
                if filled == self.size {
                    ids.push(self.id(&mut block));
                    filled = 0;
                }
            }
        }
        if filled > 0 {
            ids.push(self.id(&mut block));
        }
        ids
    }

    /// The number of a block, full or not: one that begins another has its number, as blocks of a trace do.
    fn id(&mut self, block: &mut Vec<(u64, u32)>) -> u64 {
        let next = (self.plain.len() + self.pieced.len()) as u64;
        if let &[(start, _)] = block.as_slice() {
            block.clear();
            return *self.plain.entry(start).or_insert(next);
        }
        if let Some(last) = block.last_mut() {
            last.1 = 0;
        }
        *self.pieced.entry(std::mem::take(block)).or_insert(next)
    }
}
