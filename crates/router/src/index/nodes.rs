//! The blocks of the tree: which follows which, and the name by which each is known.
//!
//! ```text
//!  parent ─ latest child ⇄ next ⇄ next        siblings are a list, the one that came last in front
//! ```
//!
//! Chains are mostly stored once, by one rank, and removed again from their end, and each of their blocks costs a miss
//! or two of the processor's cache. So a block is a node of 48 bytes, numbered in the order of its chain, and one entry
//! of 16 to 32 bytes in a table of names, in which the names of the simulation lie in the order of the chain too. Local hashes are indexed only where chains
//! part.
//!
//! **Invariants:** `by_name` has every node that is not in `unnamed`, once, and no two under one name. `edges` has the
//! children of exactly the nodes with two or more.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::NearTable;

use super::ranks::RankSet;

pub(super) type NodeId = u32;
pub(super) const ROOT: NodeId = 0;
const NONE: NodeId = NodeId::MAX;

/// A block that some rank holds.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) local: u64,
    /// Name that the first rank to store the block gave it.
    pub(super) external: u64,
    pub(super) parent: NodeId,
    /// The child that came last, which a growing chain continues.
    latest_child: NodeId,
    next: NodeId,
    previous: NodeId,
    pub(super) ranks: RankSet,
}

/// All blocks, behind a root that is none.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    arena: Vec<Node>,
    free: Vec<NodeId>,
    edges: FxHashMap<(NodeId, u64), NodeId>,
    /// The block that a name means, for ranks that have not said otherwise.
    by_name: NearTable,
    /// Blocks whose name meant another one when they came.
    unnamed: FxHashSet<NodeId>,
}

const _: () = assert!(size_of::<Node>() == 48, "the module's documentation says so");

impl Node {
    fn new(local: u64, external: u64, parent: NodeId) -> Self {
        Self {
            local,
            external,
            parent,
            latest_child: NONE,
            next: NONE,
            previous: NONE,
            ranks: RankSet::default(),
        }
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.latest_child == NONE
    }
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self {
            arena: vec![Node::new(0, 0, NONE)],
            free: Vec::new(),
            edges: FxHashMap::default(),
            by_name: NearTable::default(),
            unnamed: FxHashSet::default(),
        }
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.arena.len() - self.free.len() - 1
    }

    pub(super) fn get(&self, id: NodeId) -> &Node {
        &self.arena[id as usize]
    }

    pub(super) fn ranks_mut(&mut self, id: NodeId) -> &mut RankSet {
        &mut self.arena[id as usize].ranks
    }

    /// The child of `at` by its local hash.
    pub(super) fn child(&self, at: NodeId, local: u64) -> Option<NodeId> {
        let latest = self.arena[at as usize].latest_child;
        let node = self.arena.get(latest as usize)?;
        if node.local == local {
            return Some(latest);
        }
        // A single child needs no look-up to be the wrong one.
        if node.next == NONE { None } else { self.edges.get(&(at, local)).copied() }
    }

    /// The block that a name means.
    pub(super) fn named(&self, name: u64) -> Option<NodeId> {
        self.by_name.get(name, |id| self.arena[id as usize].external)
    }

    /// Brings what is known of some names into the processor's cache.
    pub(super) fn read_ahead(&self, names: impl Iterator<Item = u64>) {
        let known = names.filter(|&name| self.named(name).is_some()).count();
        std::hint::black_box(known);
    }

    /// Whether a name is that of a block and means it.
    pub(super) fn is_named(&self, id: NodeId, name: u64) -> bool {
        self.arena[id as usize].external == name && (self.unnamed.is_empty() || !self.unnamed.contains(&id))
    }

    /// Puts a block that is not there yet behind `parent`, unless `is_fine` objects to the block that its name means
    /// already.
    pub(super) fn create(
        &mut self,
        parent: NodeId,
        local: u64,
        external: u64,
        is_fine: impl FnOnce(NodeId, &Node) -> bool,
    ) -> Option<NodeId> {
        let Self { arena, free, by_name, unnamed, .. } = self;
        let id = free.last().copied().unwrap_or(arena.len() as NodeId);
        if let Some(named) = by_name.insert(external, id, |id| arena[id as usize].external) {
            if !is_fine(named, &arena[named as usize]) {
                return None;
            }
            unnamed.insert(id);
        }
        let node = Node::new(local, external, parent);
        if free.pop().is_some() {
            arena[id as usize] = node;
        } else {
            arena.push(node);
        }
        self.link(id);
        Some(id)
    }

    fn link(&mut self, id: NodeId) {
        let Node { local, parent, .. } = self.arena[id as usize];
        let sibling = std::mem::replace(&mut self.arena[parent as usize].latest_child, id);
        if sibling == NONE {
            return;
        }
        self.arena[id as usize].next = sibling;
        let sibling_node = &mut self.arena[sibling as usize];
        sibling_node.previous = id;
        if sibling_node.next == NONE {
            self.edges.insert((parent, sibling_node.local), sibling);
        }
        self.edges.insert((parent, local), id);
    }

    /// Takes a block out behind which there is none.
    pub(super) fn remove(&mut self, id: NodeId) {
        let Node { local, external, parent, latest_child, next, previous, .. } = self.arena[id as usize];
        debug_assert_eq!(latest_child, NONE, "a block that nobody holds has none behind it");
        if previous == NONE {
            self.arena[parent as usize].latest_child = next;
        } else {
            self.arena[previous as usize].next = next;
        }
        if next != NONE {
            self.arena[next as usize].previous = previous;
        }
        if next != NONE || previous != NONE {
            self.edges.remove(&(parent, local));
            let left = &self.arena[self.arena[parent as usize].latest_child as usize];
            if left.next == NONE {
                self.edges.remove(&(parent, left.local));
            }
        }
        if self.unnamed.is_empty() || !self.unnamed.remove(&id) {
            let was_there = self.by_name.remove(external, id);
            debug_assert!(was_there, "a block that is not unnamed is found by its name");
        }
        self.free.push(id);
    }

    /// Children of a block, the latest first.
    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let some = |id: NodeId| (id != NONE).then_some(id);
        let next = move |&id: &NodeId| some(self.arena[id as usize].next);
        std::iter::successors(some(self.arena[id as usize].latest_child), next)
    }
}
