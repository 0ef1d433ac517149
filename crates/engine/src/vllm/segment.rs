//! Runs of blocks in one state, and the list of the free ones.

use std::ops::{Index, IndexMut};

use servecast_types::{BlockId, SequenceHash};
use smallvec::SmallVec;

/// Stands for no segment.
pub(super) const NONE: u32 = u32::MAX;
/// The free list's two ends.
pub(super) const ENDS: u32 = 0;
/// Stands for all blocks that were never taken.
pub(super) const FRESH: u32 = 1;

/// Blocks that follow one another in a sequence and have everything in common: whether they have content, who references
/// them, and that they are neighbours on the free list, the last one first.
///
/// One cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Segment {
    /// In order of the sequence.
    pub(super) blocks: SmallVec<[BlockId; 4]>,
    /// Identity of the first block; those of the others are the next numbers.
    pub(super) content: Option<SequenceHash>,
    pub(super) references: u32,
    pub(super) previous: u32,
    pub(super) next: u32,
    /// The segment of equal content that got it next.
    pub(super) next_duplicate: u32,
    /// Whether it is the one that a lookup of its content finds.
    pub(super) is_first: bool,
    pub(super) told: Told,
}

/// Whether the KV events say of a content when it is stored and evicted, if there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Yes,
    No,
}

impl Segment {
    /// Free blocks that are on no list.
    pub(super) fn new(content: Option<SequenceHash>, blocks: &[BlockId]) -> Self {
        Self {
            blocks: SmallVec::from_slice(blocks),
            content,
            references: 0,
            previous: ENDS,
            next: ENDS,
            next_duplicate: NONE,
            is_first: false,
            told: Told::Yes,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Whether there is another segment of equal content.
    pub(super) fn has_duplicates(&self) -> bool {
        self.content.is_some() && (!self.is_first || self.next_duplicate != NONE)
    }
}

const _: () = assert!(size_of::<Segment>() == 64);

/// All segments of a pool, by number; numbers are used again.
#[derive(Debug)]
pub(super) struct Segments {
    /// The ends of the circular free list, the entry of the blocks that were never taken, then the segments.
    arena: Vec<Segment>,
    vacant: Vec<u32>,
}

impl Segments {
    pub(super) fn new() -> Self {
        Self { arena: vec![Segment::new(None, &[]), Segment::new(None, &[])], vacant: Vec::new() }
    }

    /// Numbers that were given away, those of the list's ends and of the blocks that were never taken among them.
    pub(super) fn len(&self) -> usize {
        self.arena.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Segment> {
        self.arena.get(id as usize)
    }

    /// The number that the next segment is [`put`](Self::put) under.
    pub(super) fn vacant(&mut self) -> u32 {
        self.vacant.pop().unwrap_or(self.arena.len() as u32)
    }

    pub(super) fn put(&mut self, id: u32, segment: Segment) {
        match self.arena.get_mut(id as usize) {
            Some(place) => *place = segment,
            None => self.arena.push(segment),
        }
    }

    /// Forgets a segment whose blocks are gone.
    pub(super) fn discard(&mut self, id: u32) {
        self[id].blocks = SmallVec::new();
        self.vacant.push(id);
    }

    /// Puts a segment on the free list in front of `next`; in front of the ends is the tail.
    pub(super) fn link(&mut self, id: u32, next: u32) {
        let previous = std::mem::replace(&mut self[next].previous, id);
        self[previous].next = id;
        let segment = &mut self[id];
        (segment.previous, segment.next) = (previous, next);
    }

    pub(super) fn unlink(&mut self, id: u32) {
        let Segment { previous, next, .. } = self[id];
        self[previous].next = next;
        self[next].previous = previous;
    }

    /// The free list from head to tail.
    pub(super) fn linked(&self) -> impl Iterator<Item = u32> {
        let next = |id: u32| Some(self[id].next).filter(|&next| next != ENDS);
        std::iter::successors(next(ENDS), move |&id| next(id))
    }

    /// A segment and those that got its content later.
    pub(super) fn duplicates(&self, first: u32) -> impl Iterator<Item = u32> {
        let next = |id: u32| Some(self[id].next_duplicate).filter(|&next| next != NONE);
        std::iter::successors(Some(first), move |&id| next(id))
    }

    /// Puts a segment behind those of equal content.
    pub(super) fn append_duplicate(&mut self, first: u32, segment: u32) {
        let last = self.duplicates(first).last().expect("the first is one of them");
        self[last].next_duplicate = segment;
    }

    /// Takes a segment that is not the first out of those of equal content.
    pub(super) fn remove_duplicate(&mut self, first: u32, segment: u32) {
        let next = self[segment].next_duplicate;
        let before = self.duplicates(first).find(|&id| self[id].next_duplicate == segment);
        self[before.expect("a duplicate has one before it")].next_duplicate = next;
    }
}

impl Index<u32> for Segments {
    type Output = Segment;

    fn index(&self, id: u32) -> &Segment {
        &self.arena[id as usize]
    }
}

impl IndexMut<u32> for Segments {
    fn index_mut(&mut self, id: u32) -> &mut Segment {
        &mut self.arena[id as usize]
    }
}
