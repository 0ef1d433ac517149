//! Small sets of rank slots.

use crate::rank::Slot;

/// A large set becomes a small one again well below the size at which it grew, so that it does not flip.
const FEW_AGAIN: u32 = 2;

/// The ranks that hold a block, a bit each: in place as long as they are among 64 neighbours.
#[derive(Debug, Clone)]
pub(crate) enum RankSet {
    /// Slots from `64 * word` on.
    Near { word: u32, bits: u64 },
    /// All slots from 0 on. A look-up compares counts, so these are in place too.
    Far { count: u32, words: Box<Words> },
}

/// A list in the size of a pointer.
#[derive(Debug, Clone)]
pub(crate) struct Words(Vec<u64>);

impl Default for RankSet {
    fn default() -> Self {
        Self::Near { word: 0, bits: 0 }
    }
}

const fn place_of(slot: Slot) -> (u32, u64) {
    (slot / 64, 1 << (slot % 64))
}

impl RankSet {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Near { bits, .. } => bits.count_ones() as usize,
            Self::Far { count, .. } => *count as usize,
        }
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        let (at, bit) = place_of(slot);
        match self {
            Self::Near { word, bits } => *word == at && bits & bit != 0,
            Self::Far { words, .. } => words.0.get(at as usize).is_some_and(|bits| bits & bit != 0),
        }
    }

    /// Adds a rank; `false` if it is there already.
    pub(crate) fn insert(&mut self, slot: Slot) -> bool {
        let (at, bit) = place_of(slot);
        match self {
            Self::Near { word, bits } if *bits == 0 || *word == at => {
                let is_new = *bits & bit == 0;
                *word = at;
                *bits |= bit;
                is_new
            }
            Self::Near { word, bits } => {
                let mut words = vec![0; at.max(*word) as usize + 1];
                words[*word as usize] = *bits;
                words[at as usize] = bit;
                *self = Self::Far { count: bits.count_ones() + 1, words: Box::new(Words(words)) };
                true
            }
            Self::Far { count, words } => {
                if words.0.len() <= at as usize {
                    words.0.resize(at as usize + 1, 0);
                }
                let bits = &mut words.0[at as usize];
                let is_new = *bits & bit == 0;
                *bits |= bit;
                *count += u32::from(is_new);
                is_new
            }
        }
    }

    /// Takes a rank out; `false` if it is not there.
    pub(crate) fn remove(&mut self, slot: Slot) -> bool {
        if !self.contains(slot) {
            return false;
        }
        let (at, bit) = place_of(slot);
        match self {
            Self::Near { bits, .. } => *bits &= !bit,
            Self::Far { count, words } => {
                words.0[at as usize] &= !bit;
                *count -= 1;
                if *count <= FEW_AGAIN
                    && let Some(word) = words.0.iter().position(|bits| bits.count_ones() == *count)
                {
                    *self = Self::Near { word: word as u32, bits: words.0[word] };
                }
            }
        }
        true
    }

    /// Whether there are ranks beside those of `smaller`, all of which are here.
    pub(crate) fn exceeds(&self, smaller: &Self) -> bool {
        match (self, smaller) {
            (Self::Near { bits, .. }, Self::Near { bits: others, .. }) => bits != others,
            _ => self.len() != smaller.len(),
        }
    }

    /// Visits the ranks in ascending order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Slot)) {
        match self {
            Self::Near { word, bits } => for_each_bit(*word, *bits, &mut visit),
            Self::Far { words, .. } => {
                for (word, &bits) in (0..).zip(&words.0) {
                    for_each_bit(word, bits, &mut visit);
                }
            }
        }
    }

    /// Visits the ranks that are not in `smaller`, at the cost of those ranks and a word for 64 ranks.
    pub(crate) fn for_each_not_in(&self, smaller: &Self, mut visit: impl FnMut(Slot)) {
        match self {
            Self::Near { word, bits } => for_each_bit(*word, bits & !smaller.bits_of(*word), &mut visit),
            Self::Far { words, .. } => {
                for (word, &bits) in (0..).zip(&words.0) {
                    for_each_bit(word, bits & !smaller.bits_of(word), &mut visit);
                }
            }
        }
    }

    fn bits_of(&self, at: u32) -> u64 {
        match self {
            Self::Near { word, bits } => {
                if *word == at {
                    *bits
                } else {
                    0
                }
            }
            Self::Far { words, .. } => words.0.get(at as usize).copied().unwrap_or(0),
        }
    }
}

fn for_each_bit(word: u32, mut bits: u64, visit: &mut impl FnMut(Slot)) {
    while bits != 0 {
        visit(word * 64 + bits.trailing_zeros());
        bits &= bits - 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(set: &RankSet) -> Vec<Slot> {
        let mut members = Vec::new();
        set.for_each(|slot| members.push(slot));
        members
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0_u32..150), 0..200)) {
            let (mut set, mut model) = (RankSet::default(), BTreeSet::new());
            let mut before = set.clone();
            for (add, slot) in steps {
                if add {
                    prop_assert_eq!(set.insert(slot), model.insert(slot));
                } else {
                    before = set.clone();
                    prop_assert_eq!(set.remove(slot), model.remove(&slot));
                    let mut gone = Vec::new();
                    before.for_each_not_in(&set, |slot| gone.push(slot));
                    prop_assert!(gone.iter().all(|&gone| gone == slot));
                }
                prop_assert_eq!(members(&set), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.contains(slot), model.contains(&slot));
            }
            let mut left = Vec::new();
            before.for_each_not_in(&set, |slot| left.push(slot));
            let expected: Vec<Slot> = members(&before).into_iter().filter(|&slot| !set.contains(slot)).collect();
            prop_assert_eq!(left, expected);
        }
    }
}
