//! The KV blocks of a worker whose layers are groups: one by one, since those of a request live and die at different times.
//!
//! As vLLM's `BlockPool`: the free blocks form one list, from whose head blocks are taken. A freed block whose content can
//! still be hit goes to the tail, one without to the head. What a block has is a content of one group.

use rustc_hash::FxHashMap;
use servecast_types::{BlockId, SequenceHash, ensure};

use crate::vllm::contents::{Contents, NONE, Prefix};

/// Stands where a sequence holds no block: it is never handed out.
pub(super) const NULL: BlockId = BlockId(0);

/// The free list's two ends, which are those of the null block.
const ENDS: u32 = NULL.0;
/// Stands on the free list for all blocks that were never taken.
const FRESH: u32 = u32::MAX - 1;

/// What a block holds: a group's part of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Content {
    pub(super) group: u32,
    pub(super) hash: SequenceHash,
}

/// A prefix that ends within a block.
#[derive(Debug, Clone, Copy)]
struct Tail {
    content: Content,
    /// Its length in units of identities.
    units: u32,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Its content, if it has one.
    prefix: Option<Prefix>,
    group: u32,
    references: u32,
    previous: u32,
    next: u32,
    /// The block that got the same content next.
    next_duplicate: u32,
}

impl Node {
    const NEW: Self =
        Self { prefix: None, group: 0, references: 0, previous: NONE, next: NONE, next_duplicate: NONE };
}

/// All KV blocks of a worker, the null block among them.
#[derive(Debug)]
pub(super) struct GroupPool {
    /// Those in being: others come into being when they are first taken.
    nodes: Vec<Node>,
    /// What stands for the others.
    fresh: Node,
    num_blocks: u32,
    num_free: u32,
    num_groups: u32,
    contents: Contents,
    /// The identities of contents to a router, by block, where they are others.
    names: FxHashMap<u32, SequenceHash>,
    /// What blocks hold besides: a prefix that ends within a block, and the blocks that it ends in. Nobody hits it.
    tails: FxHashMap<Content, Vec<u32>>,
    tail_of: FxHashMap<u32, Tail>,
    unhashed_to_head: bool,
}

impl GroupPool {
    pub(super) fn new(num_blocks: u32, num_groups: u32, unhashed_to_head: bool) -> Self {
        let ends = Node { previous: ENDS, next: ENDS, references: 1, ..Node::NEW };
        let num_free = num_blocks.saturating_sub(1);
        let mut pool = Self {
            nodes: vec![ends],
            fresh: Node::NEW,
            num_blocks,
            num_free,
            num_groups,
            contents: Contents::new(num_groups as usize),
            names: FxHashMap::default(),
            tails: FxHashMap::default(),
            tail_of: FxHashMap::default(),
            unhashed_to_head,
        };
        if num_free > 0 {
            pool.link(FRESH, ENDS);
        }
        pool
    }

    /// Forgets all contents. Nobody references any: which blocks are taken next makes no difference then.
    pub(super) fn reset(&mut self) {
        assert_eq!(
            self.num_free,
            self.num_blocks.saturating_sub(1),
            "a pool that is in use cannot be emptied"
        );
        *self = Self::new(self.num_blocks, self.num_groups, self.unhashed_to_head);
    }

    pub(super) fn num_free(&self) -> u32 {
        self.num_free
    }

    /// Distinct contents that can be hit.
    pub(super) fn num_cached(&self) -> u32 {
        self.contents.len() + self.tails.len() as u32
    }

    /// Where an identity is of which a block may have a content; `near` is the place of another one, maybe of its sequence.
    pub(super) fn find(&self, hash: SequenceHash, near: Option<Prefix>) -> Option<Prefix> {
        self.contents.find(hash, near)
    }

    /// The first block that has a group's content.
    pub(super) fn first(&self, prefix: Prefix, group: u32) -> Option<BlockId> {
        Some(self.contents.first(prefix, group)).filter(|&block| block != NONE).map(BlockId)
    }

    /// Whether nobody references a block, so that hitting it takes it out of what can be allocated.
    pub(super) fn is_free(&self, block: BlockId) -> bool {
        block != NULL && self.nodes[block.index()].references == 0
    }

    /// Whether a block can be hit.
    pub(super) fn content(&self, block: BlockId) -> Option<Content> {
        let Node { prefix, group, .. } = self.nodes[block.index()];
        prefix.map(|prefix| Content { group, hash: self.contents.hash(prefix) })
    }

    /// Takes a block from the head of the free list; if that evicts contents, `evicted` hears of them, of the one that can be
    /// hit with its name.
    ///
    /// # Panics
    /// If none is free: callers check first, so that an allocation is all or nothing.
    pub(super) fn take(&mut self, mut evicted: impl FnMut(Content, Option<SequenceHash>)) -> BlockId {
        assert!(self.num_free > 0, "blocks are taken only after the free count was checked");
        self.num_free -= 1;
        let head = self.nodes[ENDS as usize].next;
        if head == FRESH {
            let block = self.nodes.len() as u32;
            self.nodes.push(Node { references: 1, ..Node::NEW });
            if block + 1 == self.num_blocks {
                self.unlink(FRESH);
            }
            return BlockId(block);
        }
        self.unlink(head);
        let node = &mut self.nodes[head as usize];
        node.references = 1;
        let group = node.group;
        if let Some(prefix) = node.prefix.take() {
            let hash = self.contents.hash(prefix);
            let name = if self.names.is_empty() { None } else { self.names.remove(&head) };
            evicted(Content { group, hash }, Some(name.unwrap_or(hash)));
            self.forget(prefix, head);
        }
        if let Some(tail) = self.forget_tail(head) {
            evicted(tail, None);
        }
        BlockId(head)
    }

    /// How long the prefix is that was noted to end within a block, in units of identities.
    pub(super) fn tail_units(&self, block: BlockId) -> Option<u32> {
        self.tail_of.get(&block.0).map(|tail| tail.units)
    }

    /// Notes a prefix of `units` units that ends within a block, of which none is noted.
    pub(super) fn store_tail(&mut self, block: BlockId, content: Content, units: u32) {
        let before = self.tail_of.insert(block.0, Tail { content, units });
        debug_assert!(before.is_none(), "block {block} has a tail already");
        self.tails.entry(content).or_default().push(block.0);
    }

    /// A block without content is about to hold more: forgets the prefix that ends within it, and returns that.
    pub(super) fn outgrow_tail(&mut self, block: BlockId) -> Option<Content> {
        if self.nodes[block.index()].prefix.is_some() { None } else { self.forget_tail(block.0) }
    }

    fn forget_tail(&mut self, block: u32) -> Option<Content> {
        if self.tail_of.is_empty() {
            return None;
        }
        let tail = self.tail_of.remove(&block)?.content;
        let holders = self.tails.get_mut(&tail)?;
        holders.retain(|&holder| holder != block);
        if holders.is_empty() {
            self.tails.remove(&tail);
        }
        Some(tail)
    }

    /// Takes a block out of those that have a content.
    fn forget(&mut self, prefix: Prefix, block: u32) {
        let Node { group, next_duplicate, .. } = &mut self.nodes[block as usize];
        let (group, next) = (*group, std::mem::replace(next_duplicate, NONE));
        let first = self.contents.first(prefix, group);
        if first == block {
            return self.contents.set_first(prefix, group, next);
        }
        let mut before = first;
        while self.nodes[before as usize].next_duplicate != block {
            before = self.nodes[before as usize].next_duplicate;
        }
        self.nodes[before as usize].next_duplicate = next;
    }

    /// References blocks that were hit.
    pub(super) fn touch(&mut self, blocks: &[BlockId]) {
        for block in blocks.iter().filter(|&&block| block != NULL) {
            if self.nodes[block.index()].references == 0 {
                self.unlink(block.0);
                self.num_free -= 1;
            }
            self.nodes[block.index()].references += 1;
        }
    }

    /// Drops a reference to each of some blocks, given in the order in which they are to be evicted; null blocks are passed
    /// over.
    pub(super) fn release(&mut self, blocks: impl Iterator<Item = BlockId>) {
        let mut head = self.nodes[ENDS as usize].next;
        for block in blocks.filter(|&block| block != NULL) {
            let node = &mut self.nodes[block.index()];
            assert!(node.references > 0, "block {block} was released more often than taken");
            node.references -= 1;
            if node.references == 0 {
                let is_hashed = node.prefix.is_some() || self.tail_of.contains_key(&block.0);
                let to_head = !is_hashed && self.unhashed_to_head;
                // Those that go to the head keep their order.
                self.link(block.0, if to_head { head } else { ENDS });
                self.num_free += 1;
                if !to_head && head == ENDS {
                    head = block.0;
                }
            }
        }
    }

    /// Makes a block hittable, which has no content yet; `near` is the place of another content, maybe of its sequence. Returns
    /// the place of its own.
    pub(super) fn store(
        &mut self,
        block: BlockId,
        content: Content,
        name: SequenceHash,
        near: Option<Prefix>,
    ) -> Prefix {
        let prefix = self.contents.place(content.hash, near);
        let node = &mut self.nodes[block.index()];
        debug_assert!(node.prefix.is_none(), "block {block} has a content already");
        (node.prefix, node.group) = (Some(prefix), content.group);
        if name != content.hash {
            self.names.insert(block.0, name);
        }
        let mut last = self.contents.first(prefix, content.group);
        if last == NONE {
            self.contents.set_first(prefix, content.group, block.0);
            return prefix;
        }
        while self.nodes[last as usize].next_duplicate != NONE {
            last = self.nodes[last as usize].next_duplicate;
        }
        self.nodes[last as usize].next_duplicate = block.0;
        prefix
    }

    fn node(&mut self, id: u32) -> &mut Node {
        if id == FRESH { &mut self.fresh } else { &mut self.nodes[id as usize] }
    }

    /// Puts a block on the free list in front of `next`.
    fn link(&mut self, id: u32, next: u32) {
        let previous = std::mem::replace(&mut self.node(next).previous, id);
        self.node(previous).next = id;
        let node = self.node(id);
        (node.previous, node.next) = (previous, next);
    }

    fn unlink(&mut self, id: u32) {
        let Node { previous, next, .. } = *self.node(id);
        self.node(previous).next = next;
        self.node(next).previous = previous;
    }

    /// The free list from head to tail.
    pub(super) fn free_list(&self) -> impl Iterator<Item = BlockId> {
        let next = |id: u32| {
            let node = if id == FRESH { &self.fresh } else { &self.nodes[id as usize] };
            Some(node.next).filter(|&next| next != ENDS)
        };
        let listed = std::iter::successors(next(ENDS), move |&id| next(id));
        listed
            .flat_map(|id| {
                let fresh = self.nodes.len() as u32..self.num_blocks;
                if id == FRESH { fresh } else { id..id + 1 }
            })
            .map(BlockId)
    }

    /// Unless the list, the counts and the index of contents agree and `references` are all that there are: says what does
    /// not. Otherwise how many blocks and references it looked at.
    pub(super) fn check(&self, references: impl Iterator<Item = BlockId>) -> Result<u64, String> {
        let mut expected = vec![0_u32; self.nodes.len()];
        let mut looked_at = self.nodes.len() as u64;
        for block in references.filter(|&block| block != NULL) {
            expected[block.index()] += 1;
            looked_at += 1;
        }
        let mut contents = 0;
        for (block, (node, expected)) in self.nodes.iter().zip(&expected).enumerate().skip(1) {
            let references = node.references;
            ensure!(
                references == *expected,
                "block {block} counts {references} references, but has {expected}"
            );
            contents += usize::from(node.prefix.is_some());
        }
        let mut found = 0;
        for (prefix, group, first) in self.contents.iter() {
            let next =
                |&block: &u32| Some(self.nodes[block as usize].next_duplicate).filter(|&next| next != NONE);
            for block in std::iter::successors(Some(first), next) {
                let Node { prefix: own, group: of, .. } = self.nodes[block as usize];
                let is_listed = own == Some(prefix) && of == group;
                ensure!(
                    is_listed,
                    "block {block} is listed under {prefix:?} of {group}, but has {own:?} of {of}"
                );
                found += 1;
            }
        }
        ensure!(found == contents, "{contents} blocks have content, of which {found} are found by it");
        let listed = self.free_list().count();
        ensure!(
            listed == self.num_free as usize,
            "{listed} blocks are on the free list of {}",
            self.num_free
        );
        let held = self.free_list().find(|block| expected.get(block.index()).is_some_and(|&held| held > 0));
        ensure!(held.is_none(), "block {held:?} is free and held");
        Ok(looked_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(group: u32, hash: u64) -> Content {
        Content { group, hash: SequenceHash(hash) }
    }

    fn list(pool: &GroupPool) -> Vec<u32> {
        pool.free_list().map(|block| block.0).collect()
    }

    #[test]
    fn freed_blocks_without_content_are_taken_first_in_the_order_in_which_they_were_freed() {
        let mut pool = GroupPool::new(8, 1, true);
        let blocks: Vec<BlockId> = (0..5).map(|_| pool.take(|_, _| unreachable!())).collect();
        assert_eq!(blocks, [1, 2, 3, 4, 5].map(BlockId));
        pool.store(BlockId(2), content(0, 7), SequenceHash(7), None);
        pool.release([4, 3, 2, 1].map(BlockId).into_iter());
        assert_eq!((list(&pool), pool.num_free()), (vec![4, 3, 1, 6, 7, 2], 6));
        pool.check([BlockId(5)].into_iter()).unwrap();
        let mut evicted = Vec::new();
        for _ in 0..6 {
            pool.take(|content, _| evicted.push(content));
        }
        assert_eq!((evicted, pool.num_cached()), (vec![content(0, 7)], 0));
        pool.check((1..8).map(BlockId)).unwrap();
    }

    #[test]
    fn equal_contents_are_found_in_the_order_in_which_they_came() {
        let mut pool = GroupPool::new(4, 2, true);
        let blocks: Vec<BlockId> = (0..3).map(|_| pool.take(|_, _| unreachable!())).collect();
        for &block in &blocks {
            pool.store(block, content(1, 9), SequenceHash(9), None);
        }
        let first = |pool: &GroupPool, group| pool.first(pool.find(SequenceHash(9), None).unwrap(), group);
        assert_eq!((first(&pool, 1), first(&pool, 0)), (Some(BlockId(1)), None));
        pool.release([2, 1].map(BlockId).into_iter());
        assert_eq!(pool.take(|_, _| ()), BlockId(2));
        assert_eq!(pool.take(|_, _| ()), BlockId(1));
        assert_eq!((first(&pool, 1), pool.num_cached()), (Some(BlockId(3)), 1));
        pool.touch(&[NULL, BlockId(3)]);
        pool.check([1, 2, 3, 3].map(BlockId).into_iter()).unwrap();
    }
}
