//! The KV blocks of a worker: who references them, which are free, and which content can be hit.
//!
//! As vLLM's `BlockPool`: the free blocks form one doubly linked list. Blocks are taken from its head; a freed block
//! whose content can still be hit goes to the tail, so that the list is the LRU order of the prefix cache, and one
//! without goes to the head. Taking a block that still has content evicts that content.

use servecast_types::{BlockId, KvEvent, NearTable, SequenceHash};
use smallvec::{SmallVec, smallvec};

/// Stands for no block.
const NONE: u32 = u32::MAX;

/// List position of the free list's two ends.
const ENDS: u32 = 0;
/// List position that stands for all blocks that were never taken.
const FRESH: u32 = 1;
/// List position of block 0.
const FIRST: u32 = 2;

#[derive(Debug, Clone)]
struct Block {
    /// Its content, if `has_content`.
    hash: SequenceHash,
    has_content: bool,
    /// Whether it is the one that a lookup of its content finds.
    is_first: bool,
    references: u32,
    previous: u32,
    next: u32,
    /// List position of the next block of equal content, which got it later.
    next_duplicate: u32,
}

/// All KV blocks of a worker.
///
/// Blocks come into being when they are first taken, so that an idle worker costs nothing: until then one entry of
/// the free list stands for the whole range `fresh..num_blocks`, which nothing can split.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// The ends of the circular free list, the entry of the fresh range, then the blocks.
    list: Vec<Block>,
    fresh: u32,
    num_blocks: u32,
    num_free: u32,
    /// List position of the first block of each content that can be hit; duplicates follow each other from there.
    cached: NearTable,
    unhashed_to_head: bool,
    events: Option<Vec<KvEvent>>,
}

impl BlockPool {
    /// A pool of `num_blocks`, of which the first is never handed out if `reserve_null_block`.
    pub(crate) fn new(
        num_blocks: u32,
        reserve_null_block: bool,
        unhashed_to_head: bool,
        capture_events: bool,
    ) -> Self {
        let first = u32::from(reserve_null_block).min(num_blocks);
        let mut pool = Self {
            list: vec![Block::new(), Block::new()],
            fresh: 0,
            num_blocks,
            num_free: num_blocks - first,
            cached: NearTable::default(),
            unhashed_to_head,
            events: capture_events.then(Vec::new),
        };
        if pool.num_free > 0 {
            pool.link(FRESH, ENDS);
        }
        if first == 1 {
            pool.grow();
        }
        pool
    }

    pub(crate) fn num_free(&self) -> u32 {
        self.num_free
    }

    /// Number of distinct contents that can be hit.
    pub(crate) fn num_cached(&self) -> usize {
        self.cached.len()
    }

    /// The block to hit for `hash`.
    pub(crate) fn lookup(&self, hash: SequenceHash) -> Option<BlockId> {
        self.first_of(hash).map(|position| BlockId(position - FIRST))
    }

    pub(crate) fn is_free(&self, block: BlockId) -> bool {
        self.block(block).references == 0
    }

    /// Takes `count` blocks from the head of the free list, evicting their contents.
    ///
    /// # Panics
    /// If fewer are free: callers check first, so that an allocation is all or nothing.
    pub(crate) fn take(&mut self, count: u32, taken: &mut Vec<BlockId>) {
        assert!(count <= self.num_free, "blocks are taken only after the free count was checked");
        self.num_free -= count;
        let first = taken.len();
        let mut head = self.list[ENDS as usize].next;
        for _ in 0..count {
            // The entry of the fresh range stays at the head until that is used up.
            let position = if head == FRESH { self.grow() } else { head };
            if head != FRESH || self.fresh == self.num_blocks {
                head = self.list[head as usize].next;
            }
            self.list[position as usize].references = 1;
            taken.push(BlockId(position - FIRST));
        }
        self.list[ENDS as usize].next = head;
        self.list[head as usize].previous = ENDS;
        for &block in &taken[first..] {
            self.evict(block);
        }
    }

    /// References a block that was hit, taking it off the free list if nobody else does.
    pub(crate) fn touch(&mut self, block: BlockId) {
        if self.is_free(block) {
            self.unlink(block.0 + FIRST);
            self.num_free -= 1;
        }
        self.block_mut(block).references += 1;
    }

    /// Drops one reference to each block of a request, given in sequence order.
    ///
    /// The tail of a sequence becomes free first, so it is evicted before what it depends on.
    pub(crate) fn release(&mut self, blocks: &[BlockId]) {
        let mut unhashed: SmallVec<[u32; 16]> = SmallVec::new();
        for &block in blocks.iter().rev() {
            let entry = self.block_mut(block);
            assert!(entry.references > 0, "block {block} was released more often than taken");
            entry.references -= 1;
            if entry.references > 0 {
                continue;
            }
            let hashed = entry.has_content;
            self.num_free += 1;
            if hashed || !self.unhashed_to_head {
                self.link(block.0 + FIRST, ENDS);
            } else {
                unhashed.push(block.0 + FIRST);
            }
        }
        for &position in unhashed.iter().rev() {
            self.link(position, self.list[ENDS as usize].next);
        }
    }

    /// Makes the content of `blocks` hittable; `hashes` are theirs, and `parent` is what stands before them.
    pub(crate) fn store(
        &mut self,
        parent: Option<SequenceHash>,
        blocks: &[BlockId],
        hashes: &[SequenceHash],
    ) {
        debug_assert_eq!(blocks.len(), hashes.len());
        for (&block, &hash) in blocks.iter().zip(hashes) {
            let position = block.0 + FIRST;
            let entry = &mut self.list[position as usize];
            debug_assert!(!entry.has_content, "block {block} already has content");
            (entry.hash, entry.has_content) = (hash, true);
            let list = &self.list;
            match self.cached.insert(hash.0, position, |position| list[position as usize].hash.0) {
                None => self.list[position as usize].is_first = true,
                Some(first) => self.append_duplicate(first, position),
            }
        }
        if let Some(events) = &mut self.events
            && !hashes.is_empty()
        {
            events.push(KvEvent::Stored { parent, blocks: hashes.to_vec() });
        }
    }

    /// Moves the events since the last call to the end of `sink`.
    pub(crate) fn take_events(&mut self, sink: &mut Vec<KvEvent>) {
        if let Some(events) = &mut self.events {
            sink.append(events);
        }
    }

    /// The free list from head to tail.
    pub(crate) fn free_list(&self) -> impl Iterator<Item = BlockId> {
        let next = |position: u32| Some(self.list[position as usize].next).filter(|&next| next != ENDS);
        std::iter::successors(next(ENDS), move |&position| next(position)).flat_map(|position| {
            let blocks = if position == FRESH {
                self.fresh..self.num_blocks
            } else {
                position - FIRST..position - FIRST + 1
            };
            blocks.map(BlockId)
        })
    }

    /// Panics unless the list, the counts and the index of contents agree and `references` are all that there are;
    /// for checked runs.
    pub(crate) fn check(&self, references: impl Iterator<Item = BlockId>) {
        let blocks = &self.list[FIRST as usize..];
        let mut expected = vec![0_u32; blocks.len()];
        references.for_each(|block| expected[block.index()] += 1);
        for (id, (block, &expected)) in blocks.iter().zip(&expected).enumerate() {
            assert_eq!(block.references, expected, "references of block {id}");
        }
        let mut listed = 0;
        for block in self.free_list() {
            assert!(
                block.0 >= self.fresh || self.is_free(block),
                "block {block} is on the free list but referenced"
            );
            listed += 1;
        }
        assert_eq!(listed, self.num_free, "length of the free list");
        let hashed = blocks.iter().filter(|block| block.has_content).count();
        for first in self.cached.values() {
            let Block { hash, is_first, .. } = self.list[first as usize];
            assert!(
                is_first && self.first_of(hash) == Some(first),
                "content is found at the block that has it first"
            );
        }
        let duplicates = |first: u32| {
            let next = |position: u32| Some(self.list[position as usize].next_duplicate);
            std::iter::successors(Some(first), move |&at| next(at).filter(|&next| next != NONE)).count()
        };
        assert_eq!(hashed, self.cached.values().map(duplicates).sum::<usize>(), "blocks with content");
    }

    /// List position of the first block of some content.
    fn first_of(&self, hash: SequenceHash) -> Option<u32> {
        self.cached.get(hash.0, |position| self.list[position as usize].hash.0)
    }

    fn block(&self, block: BlockId) -> &Block {
        &self.list[block.index() + FIRST as usize]
    }

    fn block_mut(&mut self, block: BlockId) -> &mut Block {
        &mut self.list[block.index() + FIRST as usize]
    }

    /// Brings the next fresh block into being, linked nowhere; returns its position.
    fn grow(&mut self) -> u32 {
        self.list.push(Block::new());
        self.fresh += 1;
        self.fresh - 1 + FIRST
    }

    fn evict(&mut self, block: BlockId) {
        let position = block.0 + FIRST;
        let entry = &mut self.list[position as usize];
        if !entry.has_content {
            return;
        }
        entry.has_content = false;
        let was_first = std::mem::take(&mut entry.is_first);
        let (hash, next) = (entry.hash, std::mem::replace(&mut entry.next_duplicate, NONE));
        if !was_first {
            self.remove_duplicate(hash, position, next);
        } else if next == NONE {
            self.cached.remove(hash.0, position);
        } else {
            self.list[next as usize].is_first = true;
            let list = &self.list;
            self.cached.replace(hash.0, next, |position| list[position as usize].hash.0);
        }
        if let Some(events) = &mut self.events {
            events.push(KvEvent::Removed { blocks: smallvec![hash] });
        }
    }

    /// Puts a block behind those of equal content.
    fn append_duplicate(&mut self, first: u32, position: u32) {
        let mut last = first;
        while self.list[last as usize].next_duplicate != NONE {
            last = self.list[last as usize].next_duplicate;
        }
        self.list[last as usize].next_duplicate = position;
    }

    /// Takes a block that is not the first out of those of equal content; `next` is the one behind it.
    fn remove_duplicate(&mut self, hash: SequenceHash, position: u32, next: u32) {
        let mut before = self.first_of(hash).expect("a duplicate has a first");
        while self.list[before as usize].next_duplicate != position {
            before = self.list[before as usize].next_duplicate;
        }
        self.list[before as usize].next_duplicate = next;
    }

    fn unlink(&mut self, position: u32) {
        let Block { previous, next, .. } = self.list[position as usize];
        self.list[previous as usize].next = next;
        self.list[next as usize].previous = previous;
    }

    /// Puts an entry in front of `next`; in front of the ends is the tail.
    fn link(&mut self, position: u32, next: u32) {
        let previous = std::mem::replace(&mut self.list[next as usize].previous, position);
        self.list[previous as usize].next = position;
        let entry = &mut self.list[position as usize];
        (entry.previous, entry.next) = (previous, next);
    }
}

impl Block {
    /// A block without content that is linked nowhere.
    const fn new() -> Self {
        let hash = SequenceHash(0);
        Self {
            hash,
            has_content: false,
            is_first: false,
            references: 0,
            previous: ENDS,
            next: ENDS,
            next_duplicate: NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(pool: &BlockPool) -> Vec<u32> {
        pool.free_list().map(|block| block.0).collect()
    }

    fn take(pool: &mut BlockPool, n: u32) -> Vec<BlockId> {
        let mut taken = Vec::new();
        pool.take(n, &mut taken);
        taken
    }

    #[test]
    fn the_null_block_is_never_handed_out() {
        assert_eq!(ids(&BlockPool::new(4, true, true, false)), [1, 2, 3]);
        assert_eq!(ids(&BlockPool::new(4, false, true, false)), [0, 1, 2, 3]);
        assert!(ids(&BlockPool::new(1, true, true, false)).is_empty());
        assert!(ids(&BlockPool::new(0, true, true, false)).is_empty());
    }

    #[test]
    fn content_goes_to_the_tail_and_the_rest_to_the_head_tail_of_the_sequence_first() {
        let mut pool = BlockPool::new(8, true, true, false);
        let blocks = take(&mut pool, 5);
        pool.store(None, &blocks[..3], &[10, 11, 12].map(SequenceHash));
        pool.release(&blocks);
        assert_eq!(ids(&pool), [5, 4, 6, 7, 3, 2, 1]);
        pool.check(std::iter::empty());
        assert_eq!(take(&mut pool, 4), [5, 4, 6, 7].map(BlockId));
        assert_eq!(ids(&pool), [3, 2, 1]);
    }

    #[test]
    fn older_releases_put_every_freed_block_at_the_tail() {
        let mut pool = BlockPool::new(6, true, false, false);
        let blocks = take(&mut pool, 3);
        pool.release(&blocks);
        assert_eq!(ids(&pool), [4, 5, 3, 2, 1]);
    }

    #[test]
    fn a_hit_takes_a_block_off_the_free_list_and_keeps_its_content() {
        let mut pool = BlockPool::new(5, true, true, false);
        let blocks = take(&mut pool, 2);
        let hash = SequenceHash(7);
        pool.store(None, &blocks[..1], &[hash]);
        pool.release(&blocks);
        let hit = pool.lookup(hash).unwrap();
        pool.touch(hit);
        pool.touch(hit);
        assert_eq!(ids(&pool), [2, 3, 4]);
        pool.release(&[hit]);
        assert!(!pool.is_free(hit));
        pool.check([hit].into_iter());
    }

    #[test]
    fn duplicates_are_evicted_one_by_one_and_each_is_announced() {
        let mut pool = BlockPool::new(4, true, true, true);
        let blocks = take(&mut pool, 2);
        let hash = SequenceHash(7);
        pool.store(None, &blocks[..1], &[hash]);
        pool.store(None, &blocks[1..], &[hash]);
        assert_eq!(pool.lookup(hash), Some(blocks[0]), "the first one is hit");
        assert_eq!(pool.num_cached(), 1);
        pool.release(&blocks[..1]);
        take(&mut pool, 2);
        assert_eq!(pool.lookup(hash), Some(blocks[1]));
        let mut events = Vec::new();
        pool.take_events(&mut events);
        let stored = KvEvent::Stored { parent: None, blocks: vec![hash] };
        assert_eq!(events, [stored.clone(), stored, KvEvent::Removed { blocks: smallvec![hash] }]);
    }
}
