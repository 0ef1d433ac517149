//! Which ranks hold a run of blocks, and how far into it.

use super::ranks::RankSet;
use crate::rank::Slot;

/// The ranks that hold some first blocks of a node; most of them hold all.
#[derive(Debug, Clone, Default)]
pub(super) struct Holders {
    ranks: RankSet,
    shallow: Option<Box<Shallow>>,
}

/// The ranks that do not hold all blocks, with how many they hold; never empty.
#[derive(Debug, Clone, Default)]
struct Shallow(Vec<(Slot, u32)>);

impl Holders {
    /// Everybody who holds the first block.
    pub(super) fn ranks(&self) -> &RankSet {
        &self.ranks
    }

    /// How many blocks of a node of `len` a rank holds.
    pub(super) fn depth(&self, slot: Slot, len: u32) -> u32 {
        if !self.ranks.contains(slot) {
            return 0;
        }
        let of_slot = |&&(other, _): &&(Slot, u32)| other == slot;
        self.shallow().iter().find(of_slot).map_or(len, |&(_, depth)| depth)
    }

    /// Lets a rank hold `depth` blocks of a node of `len`.
    pub(super) fn set_depth(&mut self, slot: Slot, depth: u32, len: u32) {
        if depth == 0 {
            self.ranks.remove(slot);
        } else {
            self.ranks.insert(slot);
        }
        self.change_shallow(|shallow| {
            shallow.retain(|&(other, _)| other != slot);
            if 0 < depth && depth < len {
                shallow.push((slot, depth));
            }
        });
    }

    /// The ranks that do not hold all blocks, with how many they hold.
    pub(super) fn shallow(&self) -> &[(Slot, u32)] {
        self.shallow.as_ref().map_or(&[], |shallow| &shallow.0)
    }

    /// Visits the ranks with how many of `len` blocks each holds, in ascending order.
    pub(super) fn for_each(&self, len: u32, mut visit: impl FnMut(Slot, u32)) {
        self.ranks.for_each(|slot| visit(slot, self.depth(slot, len)));
    }

    /// How many of `len` blocks somebody holds.
    pub(super) fn deepest(&self, len: u32) -> u32 {
        if self.ranks.len() > self.shallow().len() {
            return len;
        }
        self.shallow().iter().map(|&(_, depth)| depth).max().unwrap_or(0)
    }

    /// A node that somebody held in part ends there now.
    pub(super) fn shrink(&mut self, len: u32) {
        self.change_shallow(|shallow| shallow.retain(|&(_, depth)| depth < len));
    }

    /// Takes the holders of the first `at` blocks away from those of what is behind them.
    pub(super) fn split_off_front(&mut self, at: u32) -> Self {
        let mut front = self.clone();
        front.shrink(at);
        let ranks = &mut self.ranks;
        if let Some(shallow) = &mut self.shallow {
            shallow.0.retain_mut(|(slot, depth)| {
                *depth = depth.saturating_sub(at);
                *depth > 0 || !ranks.remove(*slot)
            });
        }
        self.change_shallow(|_| {});
        front
    }

    fn change_shallow(&mut self, change: impl FnOnce(&mut Vec<(Slot, u32)>)) {
        let mut none = Shallow::default();
        let shallow = self.shallow.as_deref_mut().unwrap_or(&mut none);
        change(&mut shallow.0);
        if self.shallow.as_ref().is_some_and(|shallow| shallow.0.is_empty()) {
            self.shallow = None;
        } else if !none.0.is_empty() {
            self.shallow = Some(Box::new(none));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(holders: &Holders, len: u32) -> Vec<(Slot, u32)> {
        let mut all = Vec::new();
        holders.for_each(len, |slot, depth| all.push((slot, depth)));
        all
    }

    #[test]
    fn ranks_hold_first_blocks_and_part_with_the_node() {
        let mut holders = Holders::default();
        for (slot, depth) in [(0, 8), (1, 3), (2, 5), (70, 8), (3, 6)] {
            holders.set_depth(slot, depth, 8);
        }
        let front = holders.split_off_front(5);
        assert_eq!(of(&front, 5), [(0, 5), (1, 3), (2, 5), (3, 5), (70, 5)]);
        assert_eq!(of(&holders, 3), [(0, 3), (3, 1), (70, 3)]);
        assert_eq!((holders.deepest(3), holders.depth(2, 3)), (3, 0));
        holders.set_depth(0, 0, 3);
        holders.set_depth(70, 2, 3);
        assert_eq!(holders.deepest(3), 2);
        holders.shrink(2);
        assert_eq!((of(&holders, 2), holders.shallow().len()), (vec![(3, 1), (70, 2)], 1));
    }
}
