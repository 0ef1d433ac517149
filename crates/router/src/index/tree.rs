//! The radix tree: which rank holds which chain of blocks.
//!
//! ```text
//!  root ─ b1 {A,B} ─ b2 {A,B} ─ b3 {A,B} ─ b4 {A} ─ b5 {A}       look-up b1…b7: A 5, B 3
//! ```
//!
//! A block has two names. Its **local** hash says what is in it; it is the edge by which a look-up descends. Its
//! **external** hash is whatever the engine calls it, opaque and possibly different from engine to engine; parents
//! and removals use it. Where both are the same chained identity, as in the simulation, nothing changes.
//!
//! **Invariant (prefix-closed):** a rank that holds a block holds every block before it. So the ranks of a child
//! are among those of its parent, a look-up compares counts only, and it costs one step a block, one a rank, and
//! one word for 64 ranks wherever a rank drops out.
//!
//! **Copies.** An engine may hold the same block several times and announces and removes each copy on its own (vLLM
//! does). Copies are counted for each rank and name; the block stays until the last copy is removed.
//!
//! **Removal from the middle of a chain.** The blocks behind the gap cannot be hit, so they leave the tree at once
//! for that rank and become *orphans*: the engine has not said that it dropped them. A later removal of an orphan
//! finds it; storing it again brings it back with all its copies. Storing the missing block alone therefore ends the
//! match there, whoever else holds the chain. Engines that evict leaves first never make orphans.
//!
//! Memory: a node and an entry in a table of names for every distinct block ([`nodes`](super::nodes)), whatever the
//! number of ranks; copies beyond the first, names of its own and orphans cost an entry each.

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

use super::nodes::{Node, NodeId, Nodes, ROOT};
use super::uses::Uses;
use crate::EventError;
use crate::rank::Slot;

/// How many names are looked up before the first of them is acted on: so many misses of the processor's cache overlap.
const AHEAD: usize = 32;

/// What one rank calls a block, and how often it holds it.
type Names = SmallVec<[(u64, u32); 1]>;

/// Which rank holds which chain of blocks; see the module's documentation.
#[derive(Debug, Clone)]
pub struct RadixTree {
    nodes: Nodes,
    /// Names of a rank that mean another block to others.
    aliases: FxHashMap<(Slot, u64), NodeId>,
    /// Names and copies, wherever they are not one copy under the common name.
    names: FxHashMap<(Slot, NodeId), Names>,
    orphans: FxHashMap<(Slot, u64), u32>,
    sizes: Vec<u32>,
    pub(super) uses: Option<Uses>,
}

impl Default for RadixTree {
    fn default() -> Self {
        Self::new()
    }
}

impl RadixTree {
    /// A tree without blocks.
    pub fn new() -> Self {
        Self {
            nodes: Nodes::new(),
            aliases: FxHashMap::default(),
            names: FxHashMap::default(),
            orphans: FxHashMap::default(),
            sizes: Vec::new(),
            uses: None,
        }
    }

    /// Makes room for a rank.
    pub fn add_slot(&mut self, slot: Slot) {
        if self.sizes.len() <= slot as usize {
            self.sizes.resize(slot as usize + 1, 0);
        }
    }

    /// Distinct blocks that can be hit on a rank.
    pub fn size(&self, slot: Slot) -> u32 {
        self.sizes.get(slot as usize).copied().unwrap_or(0)
    }

    /// Distinct blocks that any rank holds.
    pub fn num_blocks(&self) -> usize {
        self.nodes.len()
    }

    /// Entries beyond a node and its name for every distinct block: copies, names of one rank only, orphans.
    pub fn num_extras(&self) -> usize {
        self.aliases.len() + self.names.len() + self.orphans.len()
    }

    /// How many leading blocks of `locals` each rank holds, into `depths` by slot; 0 for those that hold none.
    ///
    /// O(blocks + ranks), apart from a word for 64 ranks wherever a rank drops out.
    pub fn look_up(&self, locals: impl IntoIterator<Item = u64>, depths: &mut Vec<u32>) {
        depths.clear();
        depths.resize(self.sizes.len(), 0);
        let mut at = ROOT;
        let mut depth = 0;
        for local in locals {
            let Some(child) = self.nodes.child(at, local) else { break };
            if at != ROOT {
                self.leave(at, child, |slot| depths[slot as usize] = depth);
            }
            depth += 1;
            at = child;
        }
        if at != ROOT {
            self.nodes.get(at).ranks.for_each(|slot| depths[slot as usize] = depth);
        }
    }

    /// As [`RadixTree::look_up`], but stops as soon as one rank is left, whose depth is then a lower bound: enough
    /// to know *who* holds most.
    pub fn look_up_until_alone(&self, locals: impl IntoIterator<Item = u64>, depths: &mut Vec<u32>) {
        let mut alone = false;
        let mut at = ROOT;
        let path = locals.into_iter().take_while(|&local| {
            let child = if alone { None } else { self.child(at, local) };
            at = child.unwrap_or(at);
            alone = at != ROOT && self.nodes.get(at).ranks.len() == 1;
            child.is_some()
        });
        let path: Vec<u64> = path.collect();
        self.look_up(path, depths);
    }

    fn leave(&self, from: NodeId, to: NodeId, visit: impl FnMut(Slot)) {
        let (from, to) = (&self.nodes.get(from).ranks, &self.nodes.get(to).ranks);
        if from.exceeds(to) {
            from.for_each_not_in(to, visit);
        }
    }

    /// Adds a copy of each of `blocks`, given as (local, external), behind `parent` or at the start of a chain.
    ///
    /// # Errors
    /// A parent that the rank does not hold stores nothing; a block that it holds in another place stores nothing
    /// from there on.
    pub fn store(
        &mut self,
        slot: Slot,
        parent: Option<u64>,
        blocks: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<(), EventError> {
        self.add_slot(slot);
        let mut at = match parent {
            None => ROOT,
            Some(parent) => self.find(slot, parent).ok_or(EventError::ParentNotFound { parent })?,
        };
        let mut blocks = blocks.into_iter();
        let mut next: SmallVec<[(u64, u64); AHEAD]> = blocks.by_ref().take(AHEAD).collect();
        while !next.is_empty() {
            self.nodes.read_ahead(next.iter().map(|&(_, external)| external));
            for (local, external) in next.drain(..) {
                let (node, held) = self.place(slot, at, local, external)?;
                if held {
                    self.add_copy(slot, node, external);
                }
                at = node;
            }
            next.extend(blocks.by_ref().take(AHEAD));
        }
        Ok(())
    }

    /// Takes one copy of a block away from a rank.
    ///
    /// # Errors
    /// If the rank does not hold the block, neither in the tree nor as an orphan.
    pub fn remove(&mut self, slot: Slot, external: u64) -> Result<(), EventError> {
        self.remove_named(slot, external, self.nodes.named(external))
    }

    /// As [`RadixTree::remove`] for each of `blocks`, all of which are tried.
    ///
    /// # Errors
    /// How many the rank does not hold, and the first of them.
    pub fn remove_all(
        &mut self,
        slot: Slot,
        blocks: impl IntoIterator<Item = u64>,
    ) -> Result<(), EventError> {
        let mut blocks = blocks.into_iter();
        let mut missing = None;
        let mut count = 0;
        let mut next: SmallVec<[(u64, Option<NodeId>); AHEAD]> = SmallVec::new();
        loop {
            // Removals give no name to another block, and what they take out nobody holds.
            next.extend(blocks.by_ref().take(AHEAD).map(|block| (block, self.nodes.named(block))));
            if next.is_empty() {
                return missing.map_or(Ok(()), |first| Err(EventError::BlockNotFound { first, count }));
            }
            for (block, named) in next.drain(..) {
                if self.remove_named(slot, block, named).is_err() {
                    missing = missing.or(Some(block));
                    count += 1;
                }
            }
        }
    }

    /// `named`: the block that `external` means.
    fn remove_named(&mut self, slot: Slot, external: u64, named: Option<NodeId>) -> Result<(), EventError> {
        let Some(node) = self.find_named(slot, external, named) else {
            return self.remove_orphan(slot, external);
        };
        if self.drop_copy(slot, node, external) {
            return Ok(());
        }
        if self.nodes.get(node).is_leaf() {
            self.drop_rank_and_names(slot, node);
        } else {
            self.detach(slot, node);
        }
        Ok(())
    }

    /// Drops everything that a rank holds.
    pub fn clear(&mut self, slot: Slot) {
        for &node in self.held_from(slot, ROOT)[1..].iter().rev() {
            self.drop_rank_and_names(slot, node);
        }
        self.orphans.retain(|&(owner, _), _| owner != slot);
        debug_assert_eq!(self.size(slot), 0, "nothing is left of a cleared rank");
    }

    /// The child of `at` by its local hash.
    pub(super) fn child(&self, at: NodeId, local: u64) -> Option<NodeId> {
        self.nodes.child(at, local)
    }

    /// The block that a rank holds under a name.
    fn find(&self, slot: Slot, external: u64) -> Option<NodeId> {
        self.find_named(slot, external, self.nodes.named(external))
    }

    fn find_named(&self, slot: Slot, external: u64, named: Option<NodeId>) -> Option<NodeId> {
        let holds = |&node: &NodeId| holds_as(&self.names, slot, external, node, self.nodes.get(node));
        self.alias(slot, external).or_else(|| named.filter(holds))
    }

    fn alias(&self, slot: Slot, external: u64) -> Option<NodeId> {
        if self.aliases.is_empty() { None } else { self.aliases.get(&(slot, external)).copied() }
    }

    /// Makes a rank hold the block `local` behind `at`; the flag says whether it did before.
    pub(super) fn place(
        &mut self,
        slot: Slot,
        at: NodeId,
        local: u64,
        external: u64,
    ) -> Result<(NodeId, bool), EventError> {
        let node = match self.nodes.child(at, local) {
            Some(node) => {
                self.check_place(slot, node, external)?;
                node
            }
            None => self.create(slot, at, local, external)?,
        };
        if !self.nodes.ranks_mut(node).insert(slot) {
            return Ok((node, true));
        }
        self.sizes[slot as usize] += 1;
        let orphaned = if self.orphans.is_empty() { None } else { self.orphans.remove(&(slot, external)) };
        let copies = orphaned.unwrap_or(0) + 1;
        let common = self.name_in_common(slot, node, external);
        if !common || copies > 1 {
            self.names.insert((slot, node), smallvec![(external, copies)]);
        }
        Ok((node, false))
    }

    /// A rank has a block in one place only: a second one would turn the tree into a graph.
    fn check_place(&self, slot: Slot, node: NodeId, external: u64) -> Result<(), EventError> {
        // The name that all use for the block cannot stand for another one.
        let is_there = self.aliases.is_empty() && self.nodes.is_named(node, external);
        if is_there || self.find(slot, external).is_none_or(|held| held == node) {
            Ok(())
        } else {
            Err(EventError::MovedBlock { external })
        }
    }

    fn create(&mut self, slot: Slot, at: NodeId, local: u64, external: u64) -> Result<NodeId, EventError> {
        let names = &self.names;
        let created = match self.alias(slot, external) {
            Some(_) => None,
            None => {
                self.nodes.create(at, local, external, |id, node| !holds_as(names, slot, external, id, node))
            }
        };
        created.ok_or(EventError::MovedBlock { external })
    }

    /// Whether the name means this block to all; if not, it does to this rank from now on.
    fn name_in_common(&mut self, slot: Slot, node: NodeId, external: u64) -> bool {
        let common = self.nodes.is_named(node, external);
        if !common {
            self.aliases.insert((slot, external), node);
        }
        common
    }

    fn add_copy(&mut self, slot: Slot, node: NodeId, external: u64) {
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
    fn drop_copy(&mut self, slot: Slot, node: NodeId, external: u64) -> bool {
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

    /// Takes a rank off a block and off all behind it, whose copies become orphans.
    fn detach(&mut self, slot: Slot, top: NodeId) {
        // From the leaves up, so that a block without ranks has no children either.
        for &node in self.held_from(slot, top).iter().rev() {
            let names = self.forget_names(slot, node);
            if node != top {
                for (name, copies) in names {
                    self.add_orphan(slot, name, copies);
                }
            }
            self.drop_rank(slot, node);
        }
    }

    /// What a rank holds from `top` on, parents first.
    fn held_from(&self, slot: Slot, top: NodeId) -> Vec<NodeId> {
        let mut held = vec![top];
        let mut next = 0;
        while let Some(&node) = held.get(next) {
            next += 1;
            held.extend(
                self.nodes.children(node).filter(|&child| self.nodes.get(child).ranks.contains(slot)),
            );
        }
        held
    }

    fn forget_names(&mut self, slot: Slot, node: NodeId) -> Names {
        let Some(names) = self.names.remove(&(slot, node)) else {
            return smallvec![(self.nodes.get(node).external, 1)];
        };
        for (name, _) in &names {
            self.aliases.remove(&(slot, *name));
        }
        names
    }

    /// Takes a rank and all its copies off a block behind which it holds nothing.
    pub(super) fn drop_rank_and_names(&mut self, slot: Slot, node: NodeId) {
        if !self.names.is_empty() {
            self.forget_names(slot, node);
        }
        self.drop_rank(slot, node);
    }

    fn drop_rank(&mut self, slot: Slot, node: NodeId) {
        let ranks = self.nodes.ranks_mut(node);
        let was_there = ranks.remove(slot);
        debug_assert!(was_there, "a rank leaves a block that it holds");
        self.sizes[slot as usize] -= 1;
        if ranks.is_empty() {
            self.nodes.remove(node);
            if let Some(uses) = &mut self.uses {
                uses.forget(node);
            }
        }
    }

    fn remove_orphan(&mut self, slot: Slot, external: u64) -> Result<(), EventError> {
        let Some(copies) = self.orphans.get_mut(&(slot, external)) else {
            return Err(EventError::BlockNotFound { first: external, count: 1 });
        };
        *copies -= 1;
        if *copies == 0 {
            self.orphans.remove(&(slot, external));
        }
        Ok(())
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id)
    }

    /// Children of a block, oldest first.
    pub(super) fn children(&self, id: NodeId) -> Vec<NodeId> {
        let mut children: Vec<_> = self.nodes.children(id).collect();
        children.reverse();
        children
    }

    /// Every block with every rank that holds it, parents first.
    pub(super) fn holders(&self) -> Vec<(Slot, NodeId)> {
        let mut holders = Vec::new();
        let mut queue = self.children(ROOT);
        let mut next = 0;
        while let Some(&node) = queue.get(next) {
            next += 1;
            self.nodes.get(node).ranks.for_each(|slot| holders.push((slot, node)));
            queue.extend(self.children(node));
        }
        holders
    }

    /// What a rank calls a block that it holds, with the copies of each name.
    pub(super) fn names(&self, slot: Slot, node: NodeId) -> Names {
        self.names
            .get(&(slot, node))
            .cloned()
            .unwrap_or_else(|| smallvec![(self.nodes.get(node).external, 1)])
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
}

/// Whether a rank holds a block under a name that means it to all but those that call it otherwise.
fn holds_as(
    names: &FxHashMap<(Slot, NodeId), Names>,
    slot: Slot,
    external: u64,
    id: NodeId,
    node: &Node,
) -> bool {
    let calls_it_so = || match names.get(&(slot, id)) {
        None => true,
        Some(names) => names.iter().any(|&(name, _)| name == external),
    };
    node.ranks.contains(slot) && (names.is_empty() || calls_it_so())
}
