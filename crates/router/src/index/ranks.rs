//! Small sets of rank slots.

use crate::rank::Slot;

const FEW: usize = 4;
/// A large set becomes a small one again well below the size at which it grew, so that it does not flip.
const FEW_AGAIN: u32 = 2;

/// The ranks that hold a block: up to four in place, more as a bit each.
#[derive(Debug, Clone)]
pub(crate) enum RankSet {
    /// The first `len` of `slots`, ascending.
    Few { len: u8, slots: [Slot; FEW] },
    /// A bit a slot.
    Many { count: u32, words: Box<[u64]> },
}

impl Default for RankSet {
    fn default() -> Self {
        Self::Few { len: 0, slots: [0; FEW] }
    }
}

impl RankSet {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few { len, .. } => *len as usize,
            Self::Many { count, .. } => *count as usize,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        match self {
            Self::Few { len, slots } => slots[..*len as usize].contains(&slot),
            Self::Many { words, .. } => {
                words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
            }
        }
    }

    /// Adds a rank; `false` if it is there already.
    pub(crate) fn insert(&mut self, slot: Slot) -> bool {
        if self.contains(slot) {
            return false;
        }
        match self {
            Self::Few { len, slots } if (*len as usize) < FEW => {
                let at = slots[..*len as usize].partition_point(|&other| other < slot);
                slots.copy_within(at..*len as usize, at + 1);
                slots[at] = slot;
                *len += 1;
            }
            Self::Few { slots, .. } => {
                let most = slot.max(slots[FEW - 1]);
                let mut words = vec![0_u64; most as usize / 64 + 1].into_boxed_slice();
                for &member in slots.iter().chain([&slot]) {
                    words[member as usize / 64] |= 1 << (member % 64);
                }
                *self = Self::Many { count: FEW as u32 + 1, words };
            }
            Self::Many { count, words } => {
                let word = slot as usize / 64;
                if word >= words.len() {
                    let mut longer = std::mem::take(words).into_vec();
                    longer.resize(word + 1, 0);
                    *words = longer.into_boxed_slice();
                }
                words[word] |= 1 << (slot % 64);
                *count += 1;
            }
        }
        true
    }

    /// Takes a rank out; `false` if it is not there.
    pub(crate) fn remove(&mut self, slot: Slot) -> bool {
        if !self.contains(slot) {
            return false;
        }
        match self {
            Self::Few { len, slots } => {
                let at = slots[..*len as usize].partition_point(|&other| other < slot);
                slots.copy_within(at + 1..*len as usize, at);
                *len -= 1;
            }
            Self::Many { count, words } => {
                words[slot as usize / 64] &= !(1 << (slot % 64));
                *count -= 1;
                if *count <= FEW_AGAIN {
                    let mut few = Self::default();
                    self.for_each(|member| {
                        few.insert(member);
                    });
                    *self = few;
                }
            }
        }
        true
    }

    /// Visits the ranks in ascending order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Slot)) {
        match self {
            Self::Few { len, slots } => slots[..*len as usize].iter().copied().for_each(visit),
            Self::Many { words, .. } => {
                for (index, &word) in words.iter().enumerate() {
                    for_each_bit(index, word, &mut visit);
                }
            }
        }
    }

    /// Visits the ranks that are not in `smaller`, at the cost of those ranks and a word for 64 ranks.
    pub(crate) fn for_each_not_in(&self, smaller: &Self, mut visit: impl FnMut(Slot)) {
        match (self, smaller) {
            (Self::Many { words, .. }, Self::Many { words: others, .. }) => {
                for (index, &word) in words.iter().enumerate() {
                    let other = others.get(index).copied().unwrap_or(0);
                    for_each_bit(index, word & !other, &mut visit);
                }
            }
            _ => self.for_each(|slot| {
                if !smaller.contains(slot) {
                    visit(slot);
                }
            }),
        }
    }
}

fn for_each_bit(index: usize, mut word: u64, visit: &mut impl FnMut(Slot)) {
    while word != 0 {
        visit(index as u32 * 64 + word.trailing_zeros());
        word &= word - 1;
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
