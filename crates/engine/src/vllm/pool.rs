//! The KV blocks of a worker: who references them, which are free, and which content can be hit.
//!
//! As vLLM's `BlockPool`: the free blocks form one list. Blocks are taken from its head; a freed block whose content can
//! still be hit goes to the tail, so that the list is the LRU order of the prefix cache, and one without goes to the head.
//! Taking a block that still has content evicts that content.
//!
//! Blocks that came together mostly live and die together, so they are kept as [`Segment`]s: all costs are a segment,
//! but for a few bytes a block.

mod check;
mod pins;

use servecast_types::{BlockId, Extent, HashRun, HashRuns, KvEvent, RunIndex, SequenceHash};

use super::segment::{ENDS, FRESH, NONE, Segment, Segments, Told};

/// All KV blocks of a worker.
///
/// Blocks come into being when they are first taken, so that an idle worker costs nothing: until then one entry of
/// the free list stands for all of them, which nothing can split.
#[derive(Debug)]
pub(crate) struct BlockPool {
    segments: Segments,
    /// The segment of each block in being; of one that a request holds without content, and of the null block, none.
    segment_of: Vec<u32>,
    num_blocks: u32,
    num_free: u32,
    /// Distinct contents that can be hit.
    num_cached: u32,
    /// Finds the first segment of each content that can be hit; duplicates follow each other from there.
    cached: RunIndex,
    unhashed_to_head: bool,
    events: Option<Vec<KvEvent>>,
}

/// Cached blocks that a prompt begins with.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    pub(crate) blocks: Vec<BlockId>,
    /// How many of them nobody references, so that hitting them takes them out of what can be allocated.
    pub(crate) free: u32,
}

impl Hits {
    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
        self.free = 0;
    }

    pub(crate) fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// How many of them somebody references.
    pub(crate) fn in_use(&self) -> u32 {
        self.len() - self.free
    }
}

/// What some blocks contain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents<'a> {
    /// The identity of each, as ascending runs, and maybe of some more.
    pub(super) hashes: &'a HashRuns,
    /// Whether none of it is here already.
    pub(super) is_new: bool,
    pub(super) told: Told,
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
            segments: Segments::new(),
            segment_of: vec![NONE; first as usize],
            num_blocks,
            num_free: num_blocks - first,
            num_cached: 0,
            cached: RunIndex::default(),
            unhashed_to_head,
            events: capture_events.then(Vec::new),
        };
        if pool.num_free > 0 {
            pool.segments.link(FRESH, ENDS);
        }
        pool
    }

    /// Forgets all contents. Nobody references any: which blocks are taken next makes no difference then.
    pub(crate) fn reset(&mut self) {
        let reserves_null = self.num_free < self.num_blocks;
        assert!(self.num_blocks - self.num_free <= 1, "a pool that is in use cannot be emptied");
        let mut events = self.events.take();
        if let Some(events) = &mut events {
            events.push(KvEvent::Cleared);
        }
        *self = Self { events, ..Self::new(self.num_blocks, reserves_null, self.unhashed_to_head, false) };
    }

    pub(crate) fn num_blocks(&self) -> u32 {
        self.num_blocks
    }

    pub(crate) fn num_free(&self) -> u32 {
        self.num_free
    }

    /// Number of distinct contents that can be hit.
    pub(crate) fn num_cached(&self) -> u32 {
        self.num_cached
    }

    /// Adds the blocks to hit for an ascending run to `hits`, up to the first that is not cached; returns whether all are.
    ///
    /// The run continues where `hits` ends.
    pub(crate) fn find_hits(&self, run: HashRun, hits: &mut Hits) -> bool {
        let mut at = 0;
        while at < run.len {
            let Some((segment, offset)) = self.find(run.get(at)) else { return false };
            let Segment { blocks, references, .. } = &self.segments[segment];
            let rest = &blocks[offset as usize..];
            let rest = &rest[..rest.len().min((run.len - at) as usize)];
            hits.blocks.extend_from_slice(rest);
            at += rest.len() as u32;
            hits.free += if *references == 0 { rest.len() as u32 } else { 0 };
        }
        true
    }

    /// Takes `count` blocks from the head of the free list, evicting their contents.
    ///
    /// # Panics
    /// If fewer are free: callers check first, so that an allocation is all or nothing.
    pub(crate) fn take(&mut self, count: u32, taken: &mut Vec<BlockId>) {
        assert!(count <= self.num_free, "blocks are taken only after the free count was checked");
        self.num_free -= count;
        let mut missing = count;
        while missing > 0 {
            missing -= match self.segments[ENDS].next {
                FRESH => self.take_fresh(missing, taken),
                head => self.take_from(head, missing, taken),
            };
        }
    }

    /// Brings blocks into being.
    fn take_fresh(&mut self, most: u32, taken: &mut Vec<BlockId>) -> u32 {
        let fresh = self.segment_of.len() as u32;
        let end = self.num_blocks.min(fresh + most);
        taken.extend((fresh..end).map(BlockId));
        self.segment_of.resize(end as usize, NONE);
        if end == self.num_blocks {
            self.segments.unlink(FRESH);
        }
        end - fresh
    }

    /// Takes blocks from the end of the segment at the head of the list; returns how many.
    fn take_from(&mut self, head: u32, most: u32, taken: &mut Vec<BlockId>) -> u32 {
        let len = self.segments[head].len();
        let count = len.min(most);
        let left = len - count;
        if left > 0 && self.segments[head].has_duplicates() {
            // The end becomes a segment of its own, and the new head.
            self.split(head, left);
            return 0;
        }
        self.evict(head, left);
        for block in self.segments[head].blocks.drain(left as usize..).rev() {
            self.segment_of[block.index()] = NONE;
            taken.push(block);
        }
        if left == 0 {
            self.segments.unlink(head);
            self.segments.discard(head);
        }
        count
    }

    /// Drops the content of a segment from block `left` on; with duplicates that is all of it.
    fn evict(&mut self, segment: u32, left: u32) {
        let Segment { content, is_first, next_duplicate, told, .. } = self.segments[segment];
        let Some(first) = content else { return };
        let len = self.segments[segment].len();
        if is_first {
            self.cached.resize(first.0, len, left, segment);
        } else {
            self.segments.remove_duplicate(self.first_of(first), segment);
        }
        if is_first && next_duplicate != NONE {
            self.segments[next_duplicate].is_first = true;
            self.cached.resize(first.0, 0, len, next_duplicate);
        } else if is_first {
            self.num_cached -= len - left;
        }
        if let Some(events) = &mut self.events
            && told == Told::Yes
        {
            let run = HashRun::up(first, len).get(len - 1);
            events.push(KvEvent::Removed { blocks: HashRun::down(run, len - left).into() });
        }
    }

    /// References blocks that were hit, taking them off the free list if nobody else does.
    pub(crate) fn touch(&mut self, mut blocks: &[BlockId]) {
        while let Some(first) = blocks.first() {
            let segment = self.segment_of[first.index()];
            debug_assert_eq!(self.segments[segment].blocks[0], *first, "hits begin where segments do");
            let held = self.segments[segment].blocks.iter().zip(blocks);
            // A sequence may leave a run in the middle and go on elsewhere.
            let count = held.take_while(|(ours, hit)| ours == hit).count() as u32;
            if count < self.segments[segment].len() {
                self.split(segment, count);
            }
            if self.segments[segment].references == 0 {
                self.segments.unlink(segment);
                self.num_free -= count;
            }
            self.segments[segment].references += 1;
            blocks = &blocks[count as usize..];
        }
    }

    /// Drops one reference to each block of a request, given in sequence order.
    ///
    /// The tail of a sequence becomes free first, so it is evicted before what it depends on.
    pub(crate) fn release(&mut self, blocks: &[BlockId]) {
        let has_content = |block: &BlockId| self.segment_of[block.index()] != NONE;
        let (mut stored, unhashed) = blocks.split_at(blocks.partition_point(has_content));
        let unhashed = self.free_unhashed(unhashed);
        while let Some(last) = stored.last() {
            let segment = self.segment_of[last.index()];
            let entry = &mut self.segments[segment];
            assert!(entry.references > 0, "block {last} was released more often than taken");
            debug_assert_eq!(entry.blocks.last(), Some(last), "who holds a block of a segment holds all");
            entry.references -= 1;
            let len = entry.len();
            if entry.references == 0 {
                self.segments.link(segment, ENDS);
                self.num_free += len;
            }
            stored = &stored[..stored.len() - len as usize];
        }
        if let Some(unhashed) = unhashed.filter(|_| self.unhashed_to_head) {
            self.segments.link(unhashed, self.segments[ENDS].next);
        }
    }

    /// Makes a free segment of blocks without content, linked already if that goes to the tail.
    fn free_unhashed(&mut self, blocks: &[BlockId]) -> Option<u32> {
        if blocks.is_empty() {
            return None;
        }
        self.num_free += blocks.len() as u32;
        let segment = self.add(Segment::new(None, blocks));
        if !self.unhashed_to_head {
            self.segments.link(segment, ENDS);
        }
        Some(segment)
    }

    /// Makes the content of `blocks` hittable from block `stored` on; what is before that can be hit already.
    ///
    pub(super) fn store(&mut self, blocks: &[BlockId], stored: u32, contents: Contents<'_>) {
        let Contents { hashes, told, .. } = contents;
        let new = stored..blocks.len() as u32;
        if let Some(events) = &mut self.events
            && told == Told::Yes
            && !new.is_empty()
        {
            let parent = stored.checked_sub(1).and_then(|before| hashes.get(before));
            events.push(KvEvent::Stored { parent, blocks: hashes.range(new.clone()).collect() });
        }
        let mut done = stored as usize;
        for mut run in hashes.range(new) {
            loop {
                let before = done.checked_sub(1).map(|before| blocks[before]);
                let count = self.store_some(before, &blocks[done..], run, contents);
                done += count as usize;
                if count == run.len {
                    break;
                }
                run = run.part(count..run.len);
            }
        }
        debug_assert_eq!(done, blocks.len(), "a hash for each block");
    }

    /// Stores the first blocks of a run: those up to the first whose content is here already, or those that are here
    /// already in one segment. Returns how many.
    fn store_some(
        &mut self,
        before: Option<BlockId>,
        blocks: &[BlockId],
        run: HashRun,
        Contents { is_new, told, .. }: Contents<'_>,
    ) -> u32 {
        let search = || self.cached.first_overlap((run.first.0, run.len), |segment| self.extent(segment));
        debug_assert!(!is_new || search().is_none(), "what is new is not here yet");
        let overlap = if is_new { None } else { search() };
        if let Some((0, other)) = overlap {
            return self.store_duplicates(other, blocks, run, told);
        }
        let count = overlap.map_or(run.len, |(at, _)| at);
        let blocks = &blocks[..count as usize];
        self.num_cached += count;
        let continued = before.and_then(|before| self.continued(before, run.first, told));
        let segment = if let Some(segment) = continued {
            for &block in blocks {
                self.segments[segment].blocks.push(block);
                self.segment_of[block.index()] = segment;
            }
            segment
        } else {
            self.add(Segment { is_first: true, references: 1, told, ..Segment::new(Some(run.first), blocks) })
        };
        let (first, len) = self.extent(segment);
        self.cached.resize(first, len - count, len, segment);
        count
    }

    /// The segment that ends with `block` if `next` continues it in every respect.
    fn continued(&self, block: BlockId, next: SequenceHash, told: Told) -> Option<u32> {
        let id = self.segment_of[block.index()];
        let segment = self.segments.get(id)?;
        let (first, len) = self.extent(id);
        let continues = segment.content.is_some()
            && first.wrapping_add(u64::from(len)) == next.0
            && segment.references == 1
            && segment.told == told
            && !segment.has_duplicates()
            && segment.blocks.last() == Some(&block);
        continues.then_some(id)
    }

    /// Puts blocks behind those of equal content, `other` being the first of these.
    fn store_duplicates(&mut self, mut other: u32, blocks: &[BlockId], run: HashRun, told: Told) -> u32 {
        let offset = run.first.0.wrapping_sub(self.extent(other).0) as u32;
        if offset > 0 {
            other = self.split(other, offset);
        }
        let count = run.len.min(self.segments[other].len());
        if count < self.segments[other].len() {
            self.split(other, count);
        }
        let duplicate = Segment::new(Some(run.first), &blocks[..count as usize]);
        let duplicate = self.add(Segment { references: 1, told, ..duplicate });
        self.segments.append_duplicate(other, duplicate);
        count
    }

    /// Cuts a segment and those of equal content in front of block `at`; returns what is behind the cut.
    fn split(&mut self, segment: u32, at: u32) -> u32 {
        let content = self.segments[segment].content.expect("only contents are shared in part");
        let first = self.first_of(content);
        let len = self.segments[first].len();
        let second = SequenceHash(content.0.wrapping_add(u64::from(at)));
        let (mut next, mut before, mut result) = (first, NONE, NONE);
        while next != NONE {
            let left = &mut self.segments[next];
            let right = Segment {
                references: left.references,
                is_first: left.is_first,
                told: left.told,
                ..Segment::new(Some(second), &left.blocks[at as usize..])
            };
            left.blocks.truncate(at as usize);
            let (is_free, following) = (left.references == 0, left.next_duplicate);
            let right = self.add(right);
            if is_free {
                self.segments.link(right, next);
            }
            if before == NONE {
                self.cached.resize(content.0, len, at, next);
                self.cached.resize(second.0, 0, len - at, right);
            } else {
                self.segments[before].next_duplicate = right;
            }
            if next == segment {
                result = right;
            }
            (next, before) = (following, right);
        }
        result
    }

    fn add(&mut self, segment: Segment) -> u32 {
        let id = self.segments.vacant();
        for block in &segment.blocks {
            self.segment_of[block.index()] = id;
        }
        self.segments.put(id, segment);
        id
    }

    /// Whether somebody wants to know what is stored and removed.
    pub(crate) fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// Whether there are events since they were last taken.
    pub(crate) fn has_news(&self) -> bool {
        self.events.as_ref().is_some_and(|events| !events.is_empty())
    }

    /// Blocks at the head of the free list that were never taken.
    pub(crate) fn num_fresh(&self) -> u32 {
        if self.segments[ENDS].next == FRESH { self.num_blocks - self.segment_of.len() as u32 } else { 0 }
    }

    /// Moves the events since the last call to the end of `sink`.
    pub(crate) fn take_events(&mut self, sink: &mut Vec<KvEvent>) {
        if let Some(events) = &mut self.events {
            sink.append(events);
        }
    }

    /// The free list from head to tail.
    pub(crate) fn free_list(&self) -> impl Iterator<Item = BlockId> {
        self.segments.linked().flat_map(|segment| {
            let fresh = self.segment_of.len() as u32..self.num_blocks;
            let fresh = if segment == FRESH { fresh } else { 0..0 };
            self.segments[segment].blocks.iter().rev().copied().chain(fresh.map(BlockId))
        })
    }

    fn find(&self, hash: SequenceHash) -> Option<(u32, u32)> {
        self.cached.find(hash.0, |segment| self.extent(segment))
    }

    /// The first segment of a content that a segment begins with.
    fn first_of(&self, content: SequenceHash) -> u32 {
        self.find(content).expect("what has content is found by it").0
    }

    /// The identities of a segment with content.
    fn extent(&self, segment: u32) -> Extent {
        let Segment { content, blocks, .. } = &self.segments[segment];
        (content.map_or(0, |first| first.0), blocks.len() as u32)
    }
}

#[cfg(test)]
mod tests;
