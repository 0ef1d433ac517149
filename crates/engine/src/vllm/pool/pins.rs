//! Blocks that copies to the host hold besides requests, and what they see of the free list.

use servecast_types::{BlockId, SequenceHash};

use super::BlockPool;
use crate::vllm::segment::{ENDS, FRESH, NONE};

impl BlockPool {
    /// References blocks with content, each by itself.
    pub(in crate::vllm) fn pin(&mut self, blocks: &[BlockId]) {
        // From behind, so that what is cut off a segment is short.
        for &block in blocks.iter().rev() {
            let segment = self.isolate(block);
            if self.segments[segment].references == 0 {
                self.segments.unlink(segment);
                self.num_free -= 1;
            }
            self.segments[segment].references += 1;
        }
    }

    /// Drops those references; blocks that nobody has any more go to the tail of the free list, in order.
    pub(in crate::vllm) fn unpin(&mut self, blocks: &[BlockId]) {
        for &block in blocks {
            let segment = self.isolate(block);
            let entry = &mut self.segments[segment];
            assert!(entry.references > 0, "block {block} was released more often than taken");
            entry.references -= 1;
            if entry.references == 0 {
                self.segments.link(segment, ENDS);
                self.num_free += 1;
            }
        }
    }

    /// Makes a block with content a segment of its own; returns that.
    fn isolate(&mut self, block: BlockId) -> u32 {
        let segment = self.segment_of[block.index()];
        let blocks = &self.segments[segment].blocks;
        let at = blocks.iter().rposition(|&other| other == block).expect("a block is in its segment") as u32;
        let len = blocks.len() as u32;
        let own = if at > 0 { self.split(segment, at) } else { segment };
        if at + 1 < len {
            self.split(own, 1);
        }
        own
    }

    /// Whether nobody references a block.
    pub(in crate::vllm) fn is_free(&self, block: BlockId) -> bool {
        match self.segment_of.get(block.index()) {
            None => block.0 < self.num_blocks,
            Some(&NONE) => false,
            Some(&segment) => self.segments[segment].references == 0,
        }
    }

    /// The free list behind a free block, or all of it, with what each block holds.
    pub(in crate::vllm) fn free_after(
        &self,
        block: Option<BlockId>,
    ) -> impl Iterator<Item = (BlockId, Option<SequenceHash>)> {
        let of = |block: BlockId| self.segment_of.get(block.index()).copied().unwrap_or(FRESH);
        let first = block.map_or(self.segments[ENDS].next, of);
        let next = |id: u32| Some(self.segments[id].next).filter(|&next| next != ENDS);
        let segments = std::iter::successors(Some(first).filter(|&first| first != ENDS), move |&id| next(id));
        // Of the first segment only what is behind the block.
        segments.flat_map(|id| self.free_blocks_of(id)).skip(block.map_or(0, |block| {
            self.free_blocks_of(first).take_while(|&(other, _)| other != block).count() + 1
        }))
    }

    /// The blocks of a segment on the free list, in order.
    fn free_blocks_of(&self, id: u32) -> impl Iterator<Item = (BlockId, Option<SequenceHash>)> {
        let segment = &self.segments[id];
        let content =
            move |at: usize| segment.content.map(|first| SequenceHash(first.0.wrapping_add(at as u64)));
        let held = segment.blocks.iter().enumerate().rev().map(move |(at, &block)| (block, content(at)));
        let fresh = if id == FRESH { self.segment_of.len() as u32..self.num_blocks } else { 0..0 };
        held.chain(fresh.map(|block| (BlockId(block), None)))
    }
}
