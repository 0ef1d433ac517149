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
//! Memory: a node and two map entries for every distinct block, whatever the number of ranks; copies beyond the
//! first, names of its own and orphans cost an entry each.

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

use super::ranks::RankSet;
use super::uses::Uses;
use crate::EventError;
use crate::rank::Slot;

pub(super) type NodeId = u32;
pub(super) const ROOT: NodeId = 0;
const NONE: NodeId = NodeId::MAX;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) local: u64,
    /// Name that the first rank to store the block gave it.
    external: u64,
    parent: NodeId,
    /// The child that came last, which a growing chain continues.
    first_child: NodeId,
    next: NodeId,
    previous: NodeId,
    pub(super) ranks: RankSet,
}

/// What one rank calls a block, and how often it holds it.
type Names = SmallVec<[(u64, u32); 1]>;

/// Which rank holds which chain of blocks; see the module's documentation.
#[derive(Debug, Clone)]
pub struct RadixTree {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    edges: FxHashMap<(NodeId, u64), NodeId>,
    /// The block that a name means, for ranks that have not said otherwise.
    externals: FxHashMap<u64, NodeId>,
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
            nodes: vec![Node::new(0, 0, NONE)],
            free: Vec::new(),
            edges: FxHashMap::default(),
            externals: FxHashMap::default(),
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
        self.edges.len()
    }

    /// Entries beyond a node and two names for every distinct block: copies, names of one rank only, orphans.
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
            let Some(child) = self.child(at, local) else { break };
            if at != ROOT {
                self.leave(at, child, |slot| depths[slot as usize] = depth);
            }
            depth += 1;
            at = child;
        }
        if at != ROOT {
            self.nodes[at as usize].ranks.for_each(|slot| depths[slot as usize] = depth);
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
            alone = at != ROOT && self.nodes[at as usize].ranks.len() == 1;
            child.is_some()
        });
        let path: Vec<u64> = path.collect();
        self.look_up(path, depths);
    }

    fn leave(&self, from: NodeId, to: NodeId, visit: impl FnMut(Slot)) {
        let (from, to) = (&self.nodes[from as usize].ranks, &self.nodes[to as usize].ranks);
        if from.len() != to.len() {
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
        for (local, external) in blocks {
            let (node, held) = self.place(slot, at, local, external)?;
            if held {
                self.add_copy(slot, node, external);
            }
            at = node;
        }
        Ok(())
    }

    /// Takes one copy of a block away from a rank.
    ///
    /// # Errors
    /// If the rank does not hold the block, neither in the tree nor as an orphan.
    pub fn remove(&mut self, slot: Slot, external: u64) -> Result<(), EventError> {
        let Some(node) = self.find(slot, external) else { return self.remove_orphan(slot, external) };
        if !self.drop_copy(slot, node, external) {
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
        let latest = self.nodes[at as usize].first_child;
        let node = self.nodes.get(latest as usize)?;
        if node.local == local {
            return Some(latest);
        }
        // A single child needs no look-up to be the wrong one.
        if node.next == NONE { None } else { self.edges.get(&(at, local)).copied() }
    }

    /// The block that a rank holds under a name.
    pub(super) fn find(&self, slot: Slot, external: u64) -> Option<NodeId> {
        if !self.aliases.is_empty()
            && let Some(&node) = self.aliases.get(&(slot, external))
        {
            return Some(node);
        }
        let node = *self.externals.get(&external)?;
        let known_by_it = || match self.names.get(&(slot, node)) {
            None => true,
            Some(names) => names.iter().any(|&(name, _)| name == external),
        };
        (self.nodes[node as usize].ranks.contains(slot) && known_by_it()).then_some(node)
    }

    /// Makes a rank hold the block `local` behind `at`; the flag says whether it did before.
    pub(super) fn place(
        &mut self,
        slot: Slot,
        at: NodeId,
        local: u64,
        external: u64,
    ) -> Result<(NodeId, bool), EventError> {
        let existing = self.child(at, local);
        // A rank has a block in one place only: a second one would turn the tree into a graph.
        if let Some(held) = self.find(slot, external)
            && Some(held) != existing
        {
            return Err(EventError::MovedBlock { external });
        }
        let node = existing.unwrap_or_else(|| self.create(at, local, external));
        if !self.nodes[node as usize].ranks.insert(slot) {
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

    /// Whether the name means this block to all; if not, it does to this rank from now on.
    fn name_in_common(&mut self, slot: Slot, node: NodeId, external: u64) -> bool {
        let common =
            self.nodes[node as usize].external == external && self.externals.get(&external) == Some(&node);
        if !common {
            self.aliases.insert((slot, external), node);
        }
        common
    }

    fn create(&mut self, parent: NodeId, local: u64, external: u64) -> NodeId {
        let mut node = Node::new(local, external, parent);
        node.next = self.nodes[parent as usize].first_child;
        let id = if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            id
        } else {
            self.nodes.push(node);
            self.nodes.len() as NodeId - 1
        };
        let sibling = self.nodes[parent as usize].first_child;
        if sibling != NONE {
            self.nodes[sibling as usize].previous = id;
        }
        self.nodes[parent as usize].first_child = id;
        self.edges.insert((parent, local), id);
        self.externals.entry(external).or_insert(id);
        id
    }

    fn add_copy(&mut self, slot: Slot, node: NodeId, external: u64) {
        let common = self.nodes[node as usize].external;
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
        let common = self.nodes[node as usize].external;
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
            let mut child = self.nodes[node as usize].first_child;
            while child != NONE {
                if self.nodes[child as usize].ranks.contains(slot) {
                    held.push(child);
                }
                child = self.nodes[child as usize].next;
            }
        }
        held
    }

    fn forget_names(&mut self, slot: Slot, node: NodeId) -> Names {
        let Some(names) = self.names.remove(&(slot, node)) else {
            return smallvec![(self.nodes[node as usize].external, 1)];
        };
        for (name, _) in &names {
            self.aliases.remove(&(slot, *name));
        }
        names
    }

    /// Takes a rank and all its copies off a block behind which it holds nothing.
    pub(super) fn drop_rank_and_names(&mut self, slot: Slot, node: NodeId) {
        self.forget_names(slot, node);
        self.drop_rank(slot, node);
    }

    fn drop_rank(&mut self, slot: Slot, id: NodeId) {
        let node = &mut self.nodes[id as usize];
        let was_there = node.ranks.remove(slot);
        debug_assert!(was_there, "a rank leaves a block that it holds");
        self.sizes[slot as usize] -= 1;
        if node.ranks.is_empty() {
            self.unlink(id);
        }
    }

    fn unlink(&mut self, id: NodeId) {
        let Node { local, external, parent, first_child, next, previous, .. } = self.nodes[id as usize];
        debug_assert_eq!(first_child, NONE, "a block that nobody holds has none behind it");
        if previous == NONE {
            self.nodes[parent as usize].first_child = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        self.edges.remove(&(parent, local));
        if self.externals.get(&external) == Some(&id) {
            self.externals.remove(&external);
        }
        if let Some(uses) = &mut self.uses {
            uses.forget(id);
        }
        self.free.push(id);
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
        &self.nodes[id as usize]
    }

    /// Children of a block, oldest first.
    pub(super) fn children(&self, id: NodeId) -> Vec<NodeId> {
        let mut children = Vec::new();
        let mut child = self.nodes[id as usize].first_child;
        while child != NONE {
            children.push(child);
            child = self.nodes[child as usize].next;
        }
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
            self.nodes[node as usize].ranks.for_each(|slot| holders.push((slot, node)));
            queue.extend(self.children(node));
        }
        holders
    }

    /// What a rank calls a block that it holds, with the copies of each name.
    pub(super) fn names(&self, slot: Slot, node: NodeId) -> Names {
        self.names
            .get(&(slot, node))
            .cloned()
            .unwrap_or_else(|| smallvec![(self.nodes[node as usize].external, 1)])
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

impl Node {
    fn new(local: u64, external: u64, parent: NodeId) -> Self {
        Self {
            local,
            external,
            parent,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            ranks: RankSet::default(),
        }
    }

    pub(super) fn parent(&self) -> NodeId {
        self.parent
    }
}
