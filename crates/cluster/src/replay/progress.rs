//! How far a session is whose turns wait for others than the one before them.

use servecast_types::Time;
use servecast_workload::Waits;
use smallvec::SmallVec;

/// A session that is under way, turn by turn.
#[derive(Debug)]
pub(super) struct Progress {
    turns: Vec<TurnProgress>,
    /// Turns that have neither been served nor refused.
    left: usize,
}

#[derive(Debug, Clone, Default)]
struct TurnProgress {
    /// How many of those that it waits for have not been served.
    missing: usize,
    /// When the last of those that were served ended.
    ready: Time,
    /// Those that wait for it.
    dependents: SmallVec<[u32; 2]>,
    /// Whether it will not be sent.
    refused: bool,
}

impl Progress {
    /// A session that begins, by the turns that each of its turns waits for.
    pub(super) fn of(waits: &[Waits]) -> Self {
        let mut turns = vec![TurnProgress::default(); waits.len()];
        for (turn, before) in waits.iter().enumerate() {
            turns[turn].missing = before.len();
            before.iter().for_each(|&before| turns[before as usize].dependents.push(turn as u32));
        }
        Self { left: turns.len(), turns }
    }

    /// A turn was served: the turns that wait for nothing more, and since when.
    pub(super) fn served(&mut self, turn: u32, at: Time) -> SmallVec<[(u32, Time); 2]> {
        self.left -= 1;
        let dependents = self.turns[turn as usize].dependents.clone();
        let ready = dependents.into_iter().filter_map(|dependent| {
            let next = &mut self.turns[dependent as usize];
            next.missing -= 1;
            next.ready = next.ready.max(at);
            (next.missing == 0).then_some((dependent, next.ready))
        });
        ready.collect()
    }

    /// A turn was not served: the turns that will not be sent for that, in their order.
    pub(super) fn lost(&mut self, turn: u32) -> Vec<u32> {
        self.left -= 1;
        let mut refused = Vec::new();
        let mut next = vec![turn];
        while let Some(turn) = next.pop() {
            for dependent in self.turns[turn as usize].dependents.clone() {
                if !std::mem::replace(&mut self.turns[dependent as usize].refused, true) {
                    refused.push(dependent);
                    next.push(dependent);
                }
            }
        }
        self.left -= refused.len();
        refused.sort_unstable();
        refused
    }

    /// Whether nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }
}
