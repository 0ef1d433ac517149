//! How much of a prompt each rank holds.

use super::nodes::NodeId;
use super::tree::{At, RadixTree};

impl RadixTree {
    /// How many leading blocks of `locals` each rank holds, into `depths` by slot; 0 for those that hold none.
    ///
    /// O(blocks + ranks), apart from a word for 64 ranks and the ranks that drop out wherever some do.
    pub fn look_up(&self, locals: impl IntoIterator<Item = u64>, depths: &mut Vec<u32>) {
        depths.clear();
        depths.resize(self.sizes.len(), 0);
        let mut at = At::ROOT;
        let mut depth = 0;
        for local in locals {
            let Some(next) = self.step(at, local) else { break };
            if next.node != at.node && at != At::ROOT {
                self.leave(at, depth, Some(next.node), depths);
            }
            depth += 1;
            at = next;
        }
        if at != At::ROOT {
            self.leave(at, depth, None, depths);
        }
    }

    /// Notes how deep the ranks are that hold the way to `at`, which is `depth` blocks long, and do not hold `next`.
    fn leave(&self, at: At, depth: u32, next: Option<NodeId>, depths: &mut [u32]) {
        let holders = &self.nodes.get(at.node).holders;
        let ranks = holders.ranks();
        match next.map(|next| self.nodes.get(next).holders.ranks()) {
            None => ranks.for_each(|slot| depths[slot as usize] = depth),
            Some(next) if ranks.exceeds(next) => {
                ranks.for_each_not_in(next, |slot| depths[slot as usize] = depth);
            }
            Some(_) => {}
        }
        for &(slot, held) in holders.shallow() {
            depths[slot as usize] = depth - at.passed + held.min(at.passed);
        }
    }

    /// The place behind the block `local` at a place, if that is here.
    pub(super) fn step(&self, at: At, local: u64) -> Option<At> {
        let node = self.nodes.get(at.node);
        if at.passed < node.len {
            let is_next = node.local.wrapping_add(u64::from(at.passed)) == local;
            return is_next.then_some(At { passed: at.passed + 1, ..at });
        }
        self.nodes.child(at.node, local).map(|node| At { node, passed: 1 })
    }
}
