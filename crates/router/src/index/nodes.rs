//! The blocks of the tree: which follows which, and the name by which each is known.
//!
//! ```text
//!  parent ─ latest child ⇄ next ⇄ next        siblings are a list, the one that came last in front
//! ```
//!
//! Blocks that come and go together, as those of a prompt mostly do, have consecutive hashes and names in the simulation:
//! such a run is one node of 64 bytes, whatever its length, with an entry in the table of names for every 64 numbers.
//! Any other block is a node of its own. Local hashes are indexed only where chains part.
//!
//! **Invariants:** `by_name` has every node that is not in `unnamed`, once, and no two that share a name. `edges` has the
//! children of exactly the nodes with two or more. A node with children is held to its end by somebody.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::{Extent, RunIndex};

use super::holders::Holders;
use crate::rank::Slot;

pub(super) type NodeId = u32;

/// The node above all chains; not a block itself.
pub(super) const ROOT: NodeId = 0;
const NONE: NodeId = u32::MAX;

/// Blocks that follow one another.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Local hash of the first block; those of the others are the next numbers.
    pub(super) local: u64,
    /// Name that the first rank to store the first block gave it; those of the others are the next numbers.
    pub(super) external: u64,
    pub(super) parent: NodeId,
    /// The child that came last, which a growing chain continues.
    latest_child: NodeId,
    next: NodeId,
    previous: NodeId,
    /// Number of blocks; of the root 0.
    pub(super) len: u32,
    /// Whether it is one block and stays so, since more is known of it than fits here.
    pub(super) is_single: bool,
    pub(super) holders: Holders,
}

/// What a new node consists of: see the fields of [`Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRun {
    pub(super) local: u64,
    pub(super) external: u64,
    pub(super) len: u32,
}

impl BlockRun {
    /// What is left without the first blocks.
    pub(super) fn behind(self, blocks: u32) -> Self {
        let at = u64::from(blocks);
        Self {
            local: self.local.wrapping_add(at),
            external: self.external.wrapping_add(at),
            len: self.len - blocks,
        }
    }
}

/// All blocks, behind a root that is none.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    arena: Vec<Node>,
    free: Vec<NodeId>,
    edges: FxHashMap<(NodeId, u64), NodeId>,
    /// The blocks that names mean, for ranks that have not said otherwise.
    by_name: RunIndex,
    /// Blocks whose name meant another one when they came; each is a node of its own.
    unnamed: FxHashSet<NodeId>,
    blocks: usize,
}

const _: () = assert!(size_of::<Node>() == 64, "the module's documentation says so");

impl Node {
    fn new(BlockRun { local, external, len }: BlockRun, parent: NodeId) -> Self {
        Self {
            local,
            external,
            parent,
            latest_child: NONE,
            next: NONE,
            previous: NONE,
            len,
            is_single: false,
            holders: Holders::default(),
        }
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.latest_child == NONE
    }

    /// How many of its blocks a rank holds.
    pub(super) fn depth(&self, slot: Slot) -> u32 {
        self.holders.depth(slot, self.len)
    }

    /// Whether anybody but this rank holds some of it.
    pub(super) fn is_shared(&self) -> bool {
        self.holders.ranks().len() > 1
    }
}

impl Nodes {
    pub(super) fn new() -> Self {
        let root = Node::new(BlockRun { local: 0, external: 0, len: 0 }, NONE);
        Self {
            arena: vec![root],
            free: Vec::new(),
            edges: FxHashMap::default(),
            by_name: RunIndex::default(),
            unnamed: FxHashSet::default(),
            blocks: 0,
        }
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks
    }

    pub(super) fn get(&self, id: NodeId) -> &Node {
        &self.arena[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.arena[id as usize]
    }

    /// The child of `at` by the local hash of its first block.
    pub(super) fn child(&self, at: NodeId, local: u64) -> Option<NodeId> {
        let latest = self.arena[at as usize].latest_child;
        let node = self.arena.get(latest as usize)?;
        if node.local == local {
            return Some(latest);
        }
        // A single child needs no look-up to be the wrong one.
        if node.next == NONE { None } else { self.edges.get(&(at, local)).copied() }
    }

    /// The block that a name means: its node and its place in it.
    pub(super) fn named(&self, name: u64) -> Option<(NodeId, u32)> {
        self.by_name.find(name, |id| extent(&self.arena, id))
    }

    /// How many of the names of a run, from its beginning on, mean no block yet.
    pub(super) fn count_unused_names(&self, first: u64, len: u32) -> u32 {
        self.by_name.first_overlap((first, len), |id| extent(&self.arena, id)).map_or(len, |(at, _)| at)
    }

    /// Whether a name is that of a node's only block and means it.
    pub(super) fn is_named(&self, id: NodeId, name: u64) -> bool {
        self.arena[id as usize].external == name && (self.unnamed.is_empty() || !self.unnamed.contains(&id))
    }

    /// Puts a run of blocks that are not there yet, under names that mean no block yet, behind the end of `parent`.
    pub(super) fn create(&mut self, parent: NodeId, run: BlockRun) -> NodeId {
        let id = self.add(Node::new(run, parent));
        self.by_name.resize(run.external, 0, run.len, id);
        self.blocks += run.len as usize;
        self.link(id);
        id
    }

    /// Puts a single block that is not there yet behind the end of `parent`. If its name means another block already, it is
    /// not found by it.
    pub(super) fn create_single(&mut self, parent: NodeId, local: u64, external: u64) -> NodeId {
        let named = self.named(external);
        let node = Node { is_single: true, ..Node::new(BlockRun { local, external, len: 1 }, parent) };
        let id = self.add(node);
        if named.is_some() {
            self.unnamed.insert(id);
        } else {
            self.by_name.resize(external, 0, 1, id);
        }
        self.blocks += 1;
        self.link(id);
        id
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.free.pop() {
            self.arena[id as usize] = node;
            return id;
        }
        self.arena.push(node);
        self.arena.len() as NodeId - 1
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

    /// Gives a run another length: what is added continues it under names that mean no block yet, and what is taken nobody
    /// holds. There are no blocks behind it.
    pub(super) fn resize(&mut self, id: NodeId, len: u32) {
        let node = &mut self.arena[id as usize];
        debug_assert!(node.is_leaf() && !node.is_single, "only the end of a chain grows and shrinks");
        self.by_name.resize(node.external, node.len, len, id);
        self.blocks = self.blocks + len as usize - node.len as usize;
        node.len = len;
    }

    /// Parts a run before block `at`; returns the node of what is in front, while `id` stays that of what is behind.
    pub(super) fn split(&mut self, id: NodeId, at: u32) -> NodeId {
        let node = &mut self.arena[id as usize];
        let Node { local, external, parent, next, previous, len, .. } = *node;
        debug_assert!(0 < at && at < len, "both parts have blocks");
        let behind = BlockRun { local, external, len }.behind(at);
        let holders = node.holders.split_off_front(at);
        (node.local, node.external, node.len) = (behind.local, behind.external, behind.len);
        (node.next, node.previous) = (NONE, NONE);
        let front = Node::new(BlockRun { local, external, len: at }, parent);
        let front = self.add(Node { latest_child: id, next, previous, holders, ..front });
        self.arena[id as usize].parent = front;
        if previous == NONE {
            self.arena[parent as usize].latest_child = front;
        } else {
            self.arena[previous as usize].next = front;
        }
        if next != NONE {
            self.arena[next as usize].previous = front;
        }
        if let Some(edge) = self.edges.get_mut(&(parent, local)) {
            *edge = front;
        }
        self.by_name.resize(external, len, 0, id);
        self.by_name.resize(external, 0, at, front);
        self.by_name.resize(behind.external, 0, behind.len, id);
        front
    }

    /// Makes a block a node of its own for good.
    pub(super) fn isolate(&mut self, mut id: NodeId, place: u32) -> NodeId {
        if place > 0 {
            self.split(id, place);
        }
        if self.get(id).len > 1 {
            id = self.split(id, 1);
        }
        self.get_mut(id).is_single = true;
        id
    }

    /// Takes a node out behind which there is none.
    pub(super) fn remove(&mut self, id: NodeId) {
        let Node { local, external, parent, latest_child, next, previous, len, .. } = self.arena[id as usize];
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
            self.by_name.resize(external, len, 0, id);
        }
        self.blocks -= len as usize;
        self.free.push(id);
    }

    /// Children of a block, the latest first.
    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let some = |id: NodeId| (id != NONE).then_some(id);
        let next = move |&id: &NodeId| some(self.arena[id as usize].next);
        std::iter::successors(some(self.arena[id as usize].latest_child), next)
    }
}

fn extent(arena: &[Node], id: NodeId) -> Extent {
    let node = &arena[id as usize];
    (node.external, node.len)
}
