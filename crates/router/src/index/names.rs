//! What single ranks call blocks and how often they hold them, wherever that is not one copy under the common name, and
//! the blocks that they hold out of reach.

use smallvec::{SmallVec, smallvec};

use super::nodes::NodeId;
use super::tree::RadixTree;
use crate::EventError;
use crate::rank::Slot;

/// What one rank calls a block, and how often it holds it.
pub(super) type Names = SmallVec<[(u64, u32); 1]>;

impl RadixTree {
    /// Whether a rank holds a block under a name that means it to all but those that call it otherwise.
    pub(super) fn holds_as(&self, slot: Slot, external: u64, (id, place): (NodeId, u32)) -> bool {
        let calls_it_so = || match self.names.get(&(slot, id)) {
            None => true,
            Some(names) => names.iter().any(|&(name, _)| name == external),
        };
        self.nodes.get(id).depth(slot) > place && (self.names.is_empty() || calls_it_so())
    }

    pub(super) fn alias(&self, slot: Slot, external: u64) -> Option<NodeId> {
        if self.aliases.is_empty() { None } else { self.aliases.get(&(slot, external)).copied() }
    }

    /// Whether the name means this block to all; if not, it does to this rank from now on.
    pub(super) fn name_in_common(&mut self, slot: Slot, node: NodeId, external: u64) -> bool {
        let common = self.nodes.is_named(node, external);
        if !common {
            self.aliases.insert((slot, external), node);
        }
        common
    }

    pub(super) fn add_copy(&mut self, slot: Slot, node: NodeId, external: u64) {
        let common = self.nodes.get(node).external;
        let names = self.names.entry((slot, node)).or_insert_with(|| smallvec![(common, 1)]);
        if let Some((_, copies)) = names.iter_mut().find(|(name, _)| *name == external) {
            *copies += 1;
        } else {
            names.push((external, 1 + self.orphans.remove(&(slot, external)).unwrap_or(0)));
            self.name_in_common(slot, node, external);
        }
    }

    /// Takes a copy away unless it is the last one; `false` then.
    pub(super) fn drop_copy(&mut self, slot: Slot, node: NodeId, external: u64) -> bool {
        if self.names.is_empty() {
            return false;
        }
        let Some(names) = self.names.get_mut(&(slot, node)) else { return false };
        let Some(at) = names.iter().position(|&(name, _)| name == external) else { return false };
        if names.len() == 1 && names[0].1 == 1 {
            return false;
        }
        names[at].1 -= 1;
        if names[at].1 == 0 {
            names.remove(at);
            self.aliases.remove(&(slot, external));
        }
        let common = self.nodes.get(node).external;
        if let &[(name, 1)] = names.as_slice()
            && name == common
            && !self.aliases.contains_key(&(slot, name))
        {
            self.names.remove(&(slot, node));
        }
        true
    }

    /// What a rank calls the blocks of a node that it holds, with the copies of each; no longer.
    pub(super) fn forget_names(&mut self, slot: Slot, node: NodeId) -> Names {
        let Some(names) = self.names.remove(&(slot, node)) else {
            return self.common_names(slot, node);
        };
        for (name, _) in &names {
            self.aliases.remove(&(slot, *name));
        }
        names
    }

    /// One copy of each block of a node that a rank holds, under the common names.
    pub(super) fn common_names(&self, slot: Slot, node: NodeId) -> Names {
        let node = self.nodes.get(node);
        (0..node.depth(slot)).map(|at| (node.external.wrapping_add(at.into()), 1)).collect()
    }

    /// What a rank calls a block that it holds, with the copies of each name.
    pub(super) fn names(&self, slot: Slot, node: NodeId, place: u32) -> Names {
        let common = || smallvec![(self.nodes.get(node).external.wrapping_add(place.into()), 1)];
        self.names.get(&(slot, node)).cloned().unwrap_or_else(common)
    }

    /// Blocks that ranks hold but that cannot be hit, with their copies, sorted.
    pub(super) fn orphans(&self) -> Vec<(Slot, u64, u32)> {
        let mut orphans: Vec<_> =
            self.orphans.iter().map(|(&(slot, external), &copies)| (slot, external, copies)).collect();
        orphans.sort_unstable();
        orphans
    }

    pub(super) fn add_orphan(&mut self, slot: Slot, external: u64, copies: u32) {
        *self.orphans.entry((slot, external)).or_insert(0) += copies;
    }

    pub(super) fn remove_orphan(&mut self, slot: Slot, external: u64) -> Result<(), EventError> {
        let Some(copies) = self.orphans.get_mut(&(slot, external)) else {
            return Err(EventError::BlockNotFound { first: external, count: 1 });
        };
        *copies -= 1;
        if *copies == 0 {
            self.orphans.remove(&(slot, external));
        }
        Ok(())
    }
}
