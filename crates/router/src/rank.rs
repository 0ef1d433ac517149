//! The dense slots in which everything about ranks is kept.

use servecast_types::Rank;

/// What the router has to know about a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RankInfo {
    /// Tokens that the engine computes in an iteration at most: the unit of the queue threshold. Without it the
    /// rank counts as never busy in practice (10,000,000 tokens).
    pub max_num_batched_tokens: Option<u32>,
}

impl RankInfo {
    const UNKNOWN_BATCH: u32 = 10_000_000;

    pub(crate) fn batch_tokens(self) -> u32 {
        self.max_num_batched_tokens.unwrap_or(Self::UNKNOWN_BATCH)
    }
}

/// Index of a rank into per-rank vectors; a slot is used again after its rank was removed.
pub type Slot = u32;

/// The registered ranks in sorted order, each with its slot.
#[derive(Debug, Clone, Default)]
pub(crate) struct RankTable {
    sorted: Vec<Entry>,
    free: Vec<Slot>,
    slots: usize,
    /// Whether a slot is not the place of its rank.
    out_of_order: bool,
}

/// A registered rank.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) rank: Rank,
    pub(crate) slot: Slot,
    /// Outstanding prefill tokens above which the rank is busy.
    pub(crate) busy_above: f64,
}

impl RankTable {
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.sorted
    }

    /// One more than the largest slot ever given.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    pub(crate) fn get(&self, rank: Rank) -> Option<Entry> {
        self.position(rank).ok().map(|at| self.sorted[at])
    }

    /// A rank, or nothing.
    pub(crate) fn exactly(&self, rank: Rank) -> &[Entry] {
        self.position(rank).map_or(&[], |at| &self.sorted[at..=at])
    }

    /// Registers a rank, or changes the limit of a registered one.
    pub(crate) fn insert(&mut self, rank: Rank, busy_above: f64) -> Slot {
        match self.position(rank) {
            Ok(at) => {
                self.sorted[at].busy_above = busy_above;
                self.sorted[at].slot
            }
            Err(at) => {
                let slot = self.free.pop().unwrap_or(self.slots as Slot);
                self.slots = self.slots.max(slot as usize + 1);
                self.sorted.insert(at, Entry { rank, slot, busy_above });
                if at + 1 < self.sorted.len() {
                    self.note_order();
                } else {
                    self.out_of_order |= slot as usize != at;
                }
                slot
            }
        }
    }

    pub(crate) fn remove(&mut self, rank: Rank) -> Option<Slot> {
        let at = self.position(rank).ok()?;
        let slot = self.sorted.remove(at).slot;
        self.free.push(slot);
        self.note_order();
        Some(slot)
    }

    /// Whether the slot of each rank is its place among them, as long as none has been removed.
    pub(crate) fn are_in_order_of_slots(&self) -> bool {
        !self.out_of_order
    }

    fn note_order(&mut self) {
        self.out_of_order = self.sorted.iter().zip(0..).any(|(entry, place)| entry.slot != place);
    }

    fn position(&self, rank: Rank) -> Result<usize, usize> {
        self.sorted.binary_search_by_key(&rank, |entry| entry.rank)
    }
}
