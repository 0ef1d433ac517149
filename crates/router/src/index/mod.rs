//! Which rank can serve which prefix from its KV cache.
//!
//! - [`RadixTree`]: exact, fed by the KV events of engines.
//! - [`ApproximateIndex`]: predicted from the router's own decisions, for engines without events.

mod approximate;
mod dump;
mod holders;
mod look_up;
mod names;
mod nodes;
mod ranks;
mod tree;

use servecast_types::{HashRuns, Rank, Time};

pub use approximate::{ApproximateIndex, Lifetime};
pub use dump::{DumpedBlock, DumpedOrphan, IndexDump};
pub use tree::RadixTree;

use crate::EventError;
use crate::rank::Slot;
use crate::wire::IndexEventData;

/// How many KV events were applied, and how many met something unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventCounts {
    /// Store, remove and clear events that were applied in full.
    pub applied: u64,
    /// Events that an index without events passed over.
    pub ignored: u64,
    /// Events of ranks that are not registered.
    pub unknown_rank: u64,
    /// Store events whose parent was unknown.
    pub parent_not_found: u64,
    /// Store events with a block that its rank holds elsewhere.
    pub moved_block: u64,
    /// Remove events with blocks that their rank does not hold.
    pub block_not_found: u64,
}

impl EventCounts {
    pub(crate) fn count(&mut self, outcome: &Result<(), EventError>) {
        let counter = match outcome {
            Ok(()) => &mut self.applied,
            Err(EventError::UnknownRank { .. }) => &mut self.unknown_rank,
            Err(EventError::ParentNotFound { .. }) => &mut self.parent_not_found,
            Err(EventError::MovedBlock { .. }) => &mut self.moved_block,
            Err(EventError::BlockNotFound { .. }) => &mut self.block_not_found,
        };
        *counter += 1;
    }
}

/// Either kind of index.
#[derive(Debug, Clone)]
pub(crate) enum Index {
    Events(RadixTree),
    Approximate(ApproximateIndex),
}

impl Index {
    pub(crate) fn tree(&self) -> &RadixTree {
        match self {
            Self::Events(tree) => tree,
            Self::Approximate(index) => index.tree(),
        }
    }

    pub(crate) fn add_slot(&mut self, slot: Slot) {
        match self {
            Self::Events(tree) => tree.add_slot(slot),
            Self::Approximate(index) => index.add_slot(slot),
        }
    }

    pub(crate) fn clear(&mut self, slot: Slot) {
        match self {
            Self::Events(tree) => tree.clear(slot),
            Self::Approximate(index) => index.clear(slot),
        }
    }

    pub(crate) fn expire(&mut self, now: Time) {
        if let Self::Approximate(index) = self {
            index.expire(now);
        }
    }

    /// Replaces the contents; entries of an approximate index live from now on.
    pub(crate) fn restore(
        &mut self,
        contents: &IndexDump,
        slots: usize,
        slot_of: impl Fn(Rank) -> Option<Slot>,
        now: Time,
    ) -> Result<(), EventError> {
        let mut tree = match self {
            Self::Events(_) => RadixTree::new(),
            Self::Approximate(_) => RadixTree::new().of_singles(),
        };
        for slot in 0..slots {
            tree.add_slot(slot as Slot);
        }
        dump::restore(&mut tree, contents, &slot_of)?;
        match self {
            Self::Events(current) => *current = tree,
            Self::Approximate(index) => index.refill(tree, now),
        }
        Ok(())
    }

    pub(crate) fn dump(&self, rank_of: impl FnMut(Slot) -> Option<Rank>) -> IndexDump {
        dump::dump(self.tree(), rank_of)
    }
}

/// Applies an event with two names a block.
pub(crate) fn apply_index_event(
    tree: &mut RadixTree,
    slot: Slot,
    event: &IndexEventData,
) -> Result<(), EventError> {
    match event {
        IndexEventData::Stored(stored) => {
            let blocks = stored.blocks.iter().map(|block| (block.tokens_hash.0, block.block_hash.0));
            tree.store(slot, stored.parent_hash.map(|parent| parent.0), blocks)
        }
        IndexEventData::Removed(removed) => {
            let names: HashRuns = removed.block_hashes.iter().copied().collect();
            tree.remove_all(slot, names.runs())
        }
        IndexEventData::Cleared => {
            tree.clear(slot);
            Ok(())
        }
    }
}
