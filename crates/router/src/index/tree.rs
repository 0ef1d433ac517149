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
//! **Runs.** Blocks that follow one another under consecutive hashes and names share a node ([`nodes`](super::nodes)), of
//! which each rank holds some first blocks, so that a prompt is stored, evicted and stored again at a cost a run, not a
//! block. A block of which more is known than that, a copy or another name, becomes a node of its own.
//!
//! Memory: a node for every run, whatever the number of ranks; copies beyond the first, names of its own and orphans cost
//! an entry each.

use rustc_hash::FxHashMap;
use servecast_types::HashRun;
use smallvec::{SmallVec, smallvec};

use super::names::Names;
use super::nodes::{BlockRun, Node, NodeId, Nodes, ROOT};
use crate::EventError;
use crate::rank::Slot;

/// A place on a chain: behind the first `passed` blocks of a node, at least one unless it is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) node: NodeId,
    pub(super) passed: u32,
}

impl At {
    pub(super) const ROOT: Self = Self { node: ROOT, passed: 0 };
}

/// Which rank holds which chain of blocks; see the module's documentation.
#[derive(Debug, Clone)]
pub struct RadixTree {
    pub(super) nodes: Nodes,
    /// Names of a rank that mean another block to others.
    pub(super) aliases: FxHashMap<(Slot, u64), NodeId>,
    /// Names and copies of single blocks, wherever they are not one copy under the common name.
    pub(super) names: FxHashMap<(Slot, NodeId), Names>,
    pub(super) orphans: FxHashMap<(Slot, u64), u32>,
    pub(super) sizes: Vec<u32>,
    /// Whether every block is a node of its own.
    singles_only: bool,
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
            singles_only: false,
        }
    }

    /// The same without runs, for those who keep something of every block.
    pub(super) fn of_singles(self) -> Self {
        debug_assert_eq!(self.num_blocks(), 0, "what is in the tree already may be in runs");
        Self { singles_only: true, ..self }
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
        let run = |(local, external)| BlockRun { local, external, len: 1 };
        self.store_runs(slot, parent, blocks.into_iter().map(run))
    }

    /// As [`RadixTree::store`] for blocks whose two names are equal.
    ///
    /// # Errors
    /// As there.
    pub fn store_hashes(
        &mut self,
        slot: Slot,
        parent: Option<u64>,
        blocks: impl Iterator<Item = HashRun>,
    ) -> Result<(), EventError> {
        // A run that descends is one block after another.
        let ascending = |run: HashRun| {
            let len = if run.descends { 1 } else { run.len };
            (0..run.len).step_by(len as usize).map(move |at| {
                let first = run.get(at).0;
                BlockRun { local: first, external: first, len }
            })
        };
        self.store_runs(slot, parent, blocks.flat_map(ascending))
    }

    fn store_runs(
        &mut self,
        slot: Slot,
        parent: Option<u64>,
        runs: impl Iterator<Item = BlockRun>,
    ) -> Result<(), EventError> {
        self.add_slot(slot);
        let mut at = match parent {
            None => At::ROOT,
            Some(parent) => {
                let (node, place) = self.find(slot, parent).ok_or(EventError::ParentNotFound { parent })?;
                At { node, passed: place + 1 }
            }
        };
        for mut run in runs {
            while run.len > 0 {
                let stored;
                (at, stored) = self.store_some(slot, at, run)?;
                run = run.behind(stored);
            }
        }
        Ok(())
    }

    /// Stores the first blocks of a run at a place; returns where that ends and how many they are.
    fn store_some(&mut self, slot: Slot, mut at: At, run: BlockRun) -> Result<(At, u32), EventError> {
        let Some(next) = self.step(at, run.local) else {
            if at.passed < self.nodes.get(at.node).len {
                at.node = self.nodes.split(at.node, at.passed);
            }
            return self.store_new(slot, at, run);
        };
        let (node, place) = (self.nodes.get(next.node), next.passed - 1);
        let is_regular = !node.is_single
            && node.external.wrapping_add(u64::from(place)) == run.external
            // Further copies are counted block by block.
            && node.depth(slot) == place;
        let count = if is_regular { self.count_regular(slot, run, node.len - place) } else { 0 };
        if count == 0 {
            let single = self.nodes.isolate(next.node, place);
            let parent = self.nodes.get(single).parent;
            return self.store_single(slot, parent, run);
        }
        let depth = place + count;
        let node = self.nodes.get_mut(next.node);
        node.holders.set_depth(slot, depth, node.len);
        self.sizes[slot as usize] += count;
        Ok((At { node: next.node, passed: depth }, count))
    }

    /// Stores the first blocks of a run behind the end of a node where they are not yet.
    fn store_new(&mut self, slot: Slot, at: At, run: BlockRun) -> Result<(At, u32), EventError> {
        let most = if self.singles_only { 0 } else { self.nodes.count_unused_names(run.external, run.len) };
        let count = self.count_regular(slot, run, most);
        if count == 0 {
            return self.store_single(slot, at.node, run);
        }
        self.sizes[slot as usize] += count;
        let node = self.nodes.get(at.node);
        let len = node.len;
        let continues = at != At::ROOT
            && (node.local.wrapping_add(len.into()), node.external.wrapping_add(len.into()))
                == (run.local, run.external)
            && node.is_leaf()
            && !(node.is_single || node.is_shared());
        if continues {
            self.nodes.resize(at.node, len + count);
            return Ok((At { passed: len + count, ..at }, count));
        }
        let node = self.nodes.create(at.node, BlockRun { len: count, ..run });
        self.nodes.get_mut(node).holders.set_depth(slot, count, count);
        Ok((At { node, passed: count }, count))
    }

    /// How many of the first `most` blocks of a run are nothing special to a rank.
    fn count_regular(&self, slot: Slot, run: BlockRun, most: u32) -> u32 {
        let most = most.min(run.len);
        if self.aliases.is_empty() && self.orphans.is_empty() {
            return most;
        }
        let is_special = |&at: &u32| {
            let name = (slot, run.external.wrapping_add(u64::from(at)));
            self.aliases.contains_key(&name) || self.orphans.contains_key(&name)
        };
        (0..most).find(is_special).unwrap_or(most)
    }

    /// Stores the first block of a run behind the end of a node, as a node of its own.
    fn store_single(&mut self, slot: Slot, at: NodeId, run: BlockRun) -> Result<(At, u32), EventError> {
        let (node, held) = self.place(slot, at, run.local, run.external)?;
        if held {
            self.add_copy(slot, node, run.external);
        }
        Ok((At { node, passed: 1 }, 1))
    }

    /// Takes one copy of a block away from a rank.
    ///
    /// # Errors
    /// If the rank does not hold the block, neither in the tree nor as an orphan.
    pub fn remove(&mut self, slot: Slot, external: u64) -> Result<(), EventError> {
        let Some((node, place)) = self.find(slot, external) else {
            return self.remove_orphan(slot, external);
        };
        let node = self.nodes.isolate(node, place);
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

    /// As [`RadixTree::remove`] for each of `blocks`, all of which are tried.
    ///
    /// # Errors
    /// How many the rank does not hold, and the first of them.
    pub fn remove_all(
        &mut self,
        slot: Slot,
        blocks: impl Iterator<Item = HashRun>,
    ) -> Result<(), EventError> {
        // The order makes no difference, and from its end a chain goes at once. A chain may be several runs, its end the
        // last of them, so those behind which something is left wait for their turn in reverse.
        let mut runs: SmallVec<[(HashRun, u32); 4]> = blocks.map(|run| (run, run.len)).collect();
        for (run, left) in &mut runs {
            *left -= self.remove_ends(slot, run.lowest().0, *left);
        }
        let mut first = None;
        let mut count = 0;
        for (run, left) in runs.iter_mut().rev() {
            let lowest = run.lowest().0;
            let mut missing: Option<u64> = None;
            loop {
                *left -= self.remove_ends(slot, lowest, *left);
                let Some(before) = left.checked_sub(1) else { break };
                let name = lowest.wrapping_add(before.into());
                if self.remove(slot, name).is_err() {
                    // From the top down, so the first of a run that descends, and the last of one that ascends, comes first.
                    missing = missing.filter(|_| run.descends).or(Some(name));
                    count += 1;
                }
                *left = before;
            }
            first = missing.or(first);
        }
        first.map_or(Ok(()), |first| Err(EventError::BlockNotFound { first, count }))
    }

    /// Takes as many of the last of `len` blocks away from a rank, named from `lowest` on, as it holds nothing behind;
    /// returns how many.
    fn remove_ends(&mut self, slot: Slot, lowest: u64, len: u32) -> u32 {
        let mut left = len;
        while let Some(before) = left.checked_sub(1) {
            let removed = self.remove_end(slot, lowest.wrapping_add(before.into()), left);
            if removed == 0 {
                break;
            }
            left -= removed;
        }
        len - left
    }

    /// Takes up to `most` blocks of a run that ends with `name` away from a rank that holds nothing behind them; returns how
    /// many, 0 if it is not that simple.
    fn remove_end(&mut self, slot: Slot, name: u64, most: u32) -> u32 {
        let Some((id, place)) = self.nodes.named(name) else { return 0 };
        let node = self.nodes.get(id);
        let depth = place + 1;
        let holds = |child: NodeId| self.nodes.get(child).holders.ranks().contains(slot);
        if node.is_single
            || node.depth(slot) != depth
            || (depth == node.len && self.nodes.children(id).any(holds))
        {
            return 0;
        }
        let most = most.min(depth);
        let is_alias = |&at: &u32| self.alias(slot, name.wrapping_sub(at.into())).is_some();
        let count = if self.aliases.is_empty() { most } else { (0..most).find(is_alias).unwrap_or(most) };
        if count > 0 {
            self.hold_less(slot, id, depth - count);
        }
        count
    }

    /// A rank holds only the first `depth` blocks of a node from now on.
    fn hold_less(&mut self, slot: Slot, id: NodeId, depth: u32) {
        let node = self.nodes.get_mut(id);
        self.sizes[slot as usize] -= node.depth(slot) - depth;
        let deepest = if node.is_shared() || depth == 0 {
            node.holders.set_depth(slot, depth, node.len);
            node.holders.deepest(node.len)
        } else {
            depth
        };
        if deepest == 0 {
            self.nodes.remove(id);
        } else if deepest < node.len {
            node.holders.shrink(deepest);
            self.nodes.resize(id, deepest);
        }
    }

    /// Drops everything that a rank holds.
    pub fn clear(&mut self, slot: Slot) {
        for &node in self.held_from(slot, ROOT)[1..].iter().rev() {
            self.drop_rank_and_names(slot, node);
        }
        self.orphans.retain(|&(owner, _), _| owner != slot);
        debug_assert_eq!(self.size(slot), 0, "nothing is left of a cleared rank");
    }

    /// The block that a rank holds under a name: its node and its place in it.
    fn find(&self, slot: Slot, external: u64) -> Option<(NodeId, u32)> {
        if let Some(node) = self.alias(slot, external) {
            return Some((node, 0));
        }
        self.nodes.named(external).filter(|&named| self.holds_as(slot, external, named))
    }

    /// Makes a rank hold the single block `local` behind the end of `at`; the flag says whether it did before.
    pub(super) fn place(
        &mut self,
        slot: Slot,
        at: NodeId,
        local: u64,
        external: u64,
    ) -> Result<(NodeId, bool), EventError> {
        let node = match self.nodes.child(at, local) {
            Some(node) => {
                debug_assert!(
                    self.nodes.get(node).is_single,
                    "what is known of one block has a node of its own"
                );
                self.check_place(slot, node, external)?;
                node
            }
            None => self.create(slot, at, local, external)?,
        };
        if self.nodes.get(node).depth(slot) > 0 {
            return Ok((node, true));
        }
        self.nodes.get_mut(node).holders.set_depth(slot, 1, 1);
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
        if is_there || self.find(slot, external).is_none_or(|held| held == (node, 0)) {
            Ok(())
        } else {
            Err(EventError::MovedBlock { external })
        }
    }

    fn create(&mut self, slot: Slot, at: NodeId, local: u64, external: u64) -> Result<NodeId, EventError> {
        match self.find(slot, external) {
            Some(_) => Err(EventError::MovedBlock { external }),
            None => Ok(self.nodes.create_single(at, local, external)),
        }
    }

    /// Takes a rank off a single block and off all behind it, whose copies become orphans.
    fn detach(&mut self, slot: Slot, top: NodeId) {
        // From the leaves up, so that a block without ranks has no children either.
        for &node in self.held_from(slot, top).iter().rev() {
            let names = self.forget_names(slot, node);
            if node != top {
                for (name, copies) in names {
                    self.add_orphan(slot, name, copies);
                }
            }
            self.hold_less(slot, node, 0);
        }
    }

    /// What a rank holds from `top` on, parents first.
    fn held_from(&self, slot: Slot, top: NodeId) -> Vec<NodeId> {
        let mut held = vec![top];
        let mut next = 0;
        while let Some(&node) = held.get(next) {
            next += 1;
            held.extend(self.nodes.children(node).filter(|&child| self.nodes.get(child).depth(slot) > 0));
        }
        held
    }

    /// Takes a rank and all its copies off a node behind which it holds nothing.
    pub(super) fn drop_rank_and_names(&mut self, slot: Slot, node: NodeId) {
        if !self.names.is_empty() {
            self.forget_names(slot, node);
        }
        self.hold_less(slot, node, 0);
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id)
    }

    /// Children of a node, oldest first.
    pub(super) fn children(&self, id: NodeId) -> Vec<NodeId> {
        let mut children: Vec<_> = self.nodes.children(id).collect();
        children.reverse();
        children
    }

    /// Every single block with every rank that holds it, parents first.
    pub(super) fn holders(&self) -> Vec<(Slot, NodeId)> {
        let mut holders = Vec::new();
        let mut queue = self.children(ROOT);
        let mut next = 0;
        while let Some(&node) = queue.get(next) {
            next += 1;
            self.nodes.get(node).holders.ranks().for_each(|slot| holders.push((slot, node)));
            queue.extend(self.children(node));
        }
        holders
    }
}
