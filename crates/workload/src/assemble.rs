//! From rows to sessions.

use std::borrow::Borrow;

use rustc_hash::FxHashSet;

use crate::blocks::Blocks;
use crate::clock::Clock;
use crate::graph::Graph;
use crate::labels::Labels;
use crate::order::TurnOrder;
use crate::{Cut, Load, Session, TraceError, TraceNotes, TraceRow, Turn, Turns, Workload, continuation};

/// What has to be known of all rows before the first of them becomes a turn.
pub(crate) struct Plan {
    order: TurnOrder,
    graph: Option<Graph>,
    turns: Turns,
    clock: Clock,
    blocks: Blocks,
    notes: TraceNotes,
}

impl Plan {
    pub(crate) fn new(
        rows: &[TraceRow],
        Cut { block_size, turns, .. }: Cut,
        load: Load,
    ) -> Result<Self, TraceError> {
        if block_size == 0 {
            return Err(TraceError::BlockSize);
        }
        if rows.is_empty() {
            return Err(TraceError::NoRows);
        }
        let mut notes = TraceNotes::default();
        let graph = Graph::of(rows)?;
        let order = match &graph {
            Some(graph) => TurnOrder::of_graph(graph),
            None => TurnOrder::of(rows, &mut notes),
        };
        let clock = Clock::new(load, rows, &order)?;
        let blocks = Blocks::of(rows, block_size);
        Ok(Self { order, graph, turns, clock, blocks, notes })
    }

    pub(crate) fn assemble(
        self,
        rows: impl Iterator<Item: Borrow<TraceRow>>,
    ) -> Result<Workload, TraceError> {
        let Self { order, graph, turns, clock, mut blocks, mut notes } = self;
        let (mut classes, mut loras, mut grammars) =
            (Labels::default(), Labels::default(), Labels::default());
        let mut resets = FxHashSet::default();
        let mut sessions: Vec<Session> = Vec::with_capacity(order.num_sessions());
        for (index, row) in rows.enumerate() {
            let row: &TraceRow = row.borrow();
            row.check()?;
            let start = if order.is_first(index) { clock.first_turn(row)? } else { clock.later_turn(row)? };
            let class = classes.class_of(row)?;
            let lora = row.lora.as_deref().map(|lora| loras.number(lora));
            let grammar = row.grammar.as_deref().map(|grammar| grammars.number(grammar));
            notes.with_grammar += u64::from(grammar.is_some());
            let turn = Turn { class, lora, grammar, ..Turn::of_row(row, start, &mut blocks, &mut notes)? };
            if row.links.as_ref().is_some_and(|links| links.prefix_reset) {
                resets.insert(row.line);
            }
            let place = order.session(index);
            if place == sessions.len() {
                let name = graph
                    .as_ref()
                    .map_or_else(|| row.session_id.as_deref().map(Box::from), |graph| graph.name_of(place));
                sessions.push(Session { name, ..Session::default() });
            }
            sessions[place].turns.push(turn);
        }
        order.sort(&mut sessions);
        if let Some(graph) = graph {
            for (place, session) in sessions.iter_mut().enumerate() {
                session.waits = graph.waits_of(place);
            }
        }
        let mut names = blocks.into_names();
        match turns {
            Turns::Whole => continuation::name_replies(&mut sessions, &mut notes),
            Turns::Delta => continuation::join_turns(&mut sessions, &mut names, &resets)?,
        }
        for turn in sessions.iter_mut().flat_map(|session| &mut session.turns) {
            if let Some(lora) = turn.lora {
                // No salt is that of no adapter.
                turn.prompt = turn.prompt.salted(u64::from(lora) + 1);
            }
        }
        let (classes, loras, grammars) = (classes.into_names(), loras.into_names(), grammars.into_names());
        Ok(Workload { sessions, notes, names, classes, loras, grammars })
    }
}
