//! A timing wheel: who opens a block in which iteration.
//!
//! A member opens a block every *block size* iterations, so a wheel with a slot for each iteration of one turn has all of
//! its openings in one slot. Members join and leave at a cost that does not grow with the batch, and the next opening is the
//! next bit of a map of the slots that are not empty.

use std::ops::RangeInclusive;

use smallvec::SmallVec;

use crate::table::Slot;

/// The largest block size for which there is a wheel: 128 kB of it a scheduler. A scheduler with larger blocks, which no engine
/// has, decides request by request.
pub(crate) const LARGEST_WHEEL: u32 = 1 << 12;

/// A member of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opener {
    /// Where it stands among all members, in running-list order.
    pub(super) place: u32,
    pub(super) slot: Slot,
}

/// The members that open blocks, by the iteration in which they do, modulo the block size.
#[derive(Debug, Default)]
pub(super) struct Wheel {
    /// Members in order of place; most slots have one or two.
    slots: Vec<SmallVec<[Opener; 2]>>,
    /// A bit for each slot that is not empty.
    occupied: Vec<u64>,
}

impl Wheel {
    /// Makes an empty wheel one for blocks of so many tokens, up to [`LARGEST_WHEEL`].
    pub(super) fn resize(&mut self, block_size: u32) {
        debug_assert!(self.occupied.iter().all(|bits| *bits == 0), "members would be in other slots");
        let size = block_size as usize;
        if self.slots.len() != size {
            self.slots.resize_with(size, SmallVec::new);
            self.occupied.resize(size.div_ceil(64), 0);
        }
    }

    /// Takes all members out, at a cost that does not grow with the empty slots but by a word for 64 of them.
    pub(super) fn clear(&mut self) {
        for (word, bits) in (0..).zip(&mut self.occupied) {
            while *bits != 0 {
                self.slots[word * 64 + bits.trailing_zeros() as usize].clear();
                *bits &= *bits - 1;
            }
        }
    }

    fn index(&self, iteration: u64) -> usize {
        (iteration % self.slots.len() as u64) as usize
    }

    /// Adds a member that comes after all others in the running list and opens a block in an iteration.
    pub(super) fn add(&mut self, iteration: u64, opener: Opener) {
        let index = self.index(iteration);
        self.slots[index].push(opener);
        self.occupied[index / 64] |= 1 << (index % 64);
    }

    /// Takes the member with a place out, which opens a block in an iteration.
    pub(super) fn remove(&mut self, iteration: u64, place: u32) {
        let index = self.index(iteration);
        let slot = &mut self.slots[index];
        let at = slot.binary_search_by_key(&place, |opener| opener.place).expect("a member is in its slot");
        slot.remove(at);
        if slot.is_empty() {
            self.occupied[index / 64] &= !(1 << (index % 64));
        }
    }

    /// Who opens a block in an iteration, in running-list order.
    pub(super) fn opening(&self, iteration: u64) -> &[Opener] {
        if self.slots.is_empty() { &[] } else { &self.slots[self.index(iteration)] }
    }

    /// Who opens blocks in some iterations, in order of those.
    pub(super) fn openings(&self, iterations: RangeInclusive<u64>) -> impl Iterator<Item = &Opener> {
        let mut from = *iterations.start();
        let next = std::iter::from_fn(move || {
            let opening = self.next_opening(from)?;
            from = opening + 1;
            Some(opening)
        });
        next.take_while(move |opening| opening <= iterations.end()).flat_map(|opening| self.opening(opening))
    }

    /// The first iteration from `from` on in which somebody opens a block, if anybody ever does.
    pub(super) fn next_opening(&self, from: u64) -> Option<u64> {
        if self.slots.is_empty() {
            return None;
        }
        let index = self.index(from);
        let (first, ahead) = (index / 64, u64::MAX << (index % 64));
        let bit = |word: usize, mask: u64| {
            let bits = self.occupied[word] & mask;
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        };
        let words = self.occupied.len();
        let this_turn = bit(first, ahead).or_else(|| (first + 1..words).find_map(|word| bit(word, u64::MAX)));
        if let Some(next) = this_turn {
            return Some(from + (next - index) as u64);
        }
        let next = (0..=first).find_map(|word| bit(word, u64::MAX))?;
        Some(from + (self.slots.len() - index + next) as u64)
    }
}
