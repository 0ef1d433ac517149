//! The index without KV events: what a rank should hold, judging by what was sent to it.
//!
//! Each decision credits the chosen rank with the whole chain of the request for [`Lifetime::ttl`]. Since every
//! credit lasts equally long, entries expire in the order of their last credit, the deepest block of a chain first,
//! so one list in that order is enough and a credit costs one map access a block.

use rustc_hash::FxHashMap;
use servecast_types::{Duration, Time};

use super::nodes::{NodeId, ROOT};
use super::tree::RadixTree;
use crate::rank::Slot;

const NONE: u32 = u32::MAX;

/// How long predictions live and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Time from the last credit of a block to its expiry.
    pub ttl: Duration,
    /// Entries (a block on a rank is one) above which the oldest are pruned.
    pub max_entries: usize,
    /// Entries that a pruning leaves.
    pub pruned_entries: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    slot: Slot,
    node: NodeId,
    expires: Time,
    older: u32,
    newer: u32,
}

/// A [`RadixTree`] that is filled by predictions and emptied by time.
#[derive(Debug, Clone)]
pub struct ApproximateIndex {
    tree: RadixTree,
    lifetime: Lifetime,
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_block: FxHashMap<(Slot, NodeId), u32>,
    oldest: u32,
    newest: u32,
    path: Vec<NodeId>,
}

impl ApproximateIndex {
    /// An index without predictions.
    pub fn new(lifetime: Lifetime) -> Self {
        Self {
            tree: RadixTree::new().of_singles(),
            lifetime,
            entries: Vec::new(),
            free: Vec::new(),
            by_block: FxHashMap::default(),
            oldest: NONE,
            newest: NONE,
            path: Vec::new(),
        }
    }

    /// The predicted contents.
    pub fn tree(&self) -> &RadixTree {
        &self.tree
    }

    /// Makes room for a rank.
    pub fn add_slot(&mut self, slot: Slot) {
        self.tree.add_slot(slot);
    }

    /// Entries that have not expired.
    pub fn num_entries(&self) -> usize {
        self.by_block.len()
    }

    /// Credits a rank with a chain of (local, external) blocks from now on.
    pub fn credit(&mut self, slot: Slot, blocks: impl IntoIterator<Item = (u64, u64)>, now: Time) {
        self.tree.add_slot(slot);
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        let mut at = ROOT;
        for (local, external) in blocks {
            // A chain that names one block twice is credited up to there.
            let Ok((node, _)) = self.tree.place(slot, at, local, external) else { break };
            path.push(node);
            at = node;
        }
        let expires = now + self.lifetime.ttl;
        for &node in path.iter().rev() {
            self.renew(slot, node, expires);
        }
        self.path = path;
        if self.by_block.len() > self.lifetime.max_entries {
            while self.by_block.len() > self.lifetime.pruned_entries {
                self.drop_oldest();
            }
        }
    }

    /// Drops what has expired by `now`.
    pub fn expire(&mut self, now: Time) {
        while self.oldest != NONE && self.entries[self.oldest as usize].expires <= now {
            self.drop_oldest();
        }
    }

    /// Drops everything that a rank is believed to hold.
    pub fn clear(&mut self, slot: Slot) {
        let mut at = self.oldest;
        while at != NONE {
            let entry = self.entries[at as usize];
            if entry.slot == slot {
                self.remove(at);
            }
            at = entry.newer;
        }
        debug_assert_eq!(self.tree.size(slot), 0, "every block of the tree has an entry");
    }

    /// Replaces the contents by those of a tree, all credited now.
    pub(super) fn refill(&mut self, tree: RadixTree, now: Time) {
        *self = Self { tree, ..Self::new(self.lifetime) };
        let expires = now + self.lifetime.ttl;
        for (slot, node) in self.tree.holders().into_iter().rev() {
            self.renew(slot, node, expires);
        }
    }

    fn renew(&mut self, slot: Slot, node: NodeId, expires: Time) {
        let entry = Entry { slot, node, expires, older: NONE, newer: NONE };
        let at = if let Some(&at) = self.by_block.get(&(slot, node)) {
            self.unlink(at);
            self.entries[at as usize] = entry;
            at
        } else {
            let at = if let Some(at) = self.free.pop() {
                self.entries[at as usize] = entry;
                at
            } else {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            };
            self.by_block.insert((slot, node), at);
            at
        };
        self.entries[at as usize].older = self.newest;
        match self.newest {
            NONE => self.oldest = at,
            newest => self.entries[newest as usize].newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, .. } = self.entries[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    fn drop_oldest(&mut self) {
        self.remove(self.oldest);
    }

    /// Every credit renews a block after those behind it, so the oldest entry of a rank is always a leaf of its.
    fn remove(&mut self, at: u32) {
        let Entry { slot, node, .. } = self.entries[at as usize];
        self.unlink(at);
        self.by_block.remove(&(slot, node));
        self.free.push(at);
        self.tree.drop_rank_and_names(slot, node);
    }
}
