//! How much of a prompt each rank holds.

use super::nodes::NodeId;
use super::tree::{At, RadixTree};

impl RadixTree {
    /// How many leading blocks each rank holds, into `depths` by slot; 0 for those that hold none. `local` says what a
    /// block is called.
    ///
    /// O(blocks + ranks), apart from a word for 64 ranks and the ranks that drop out wherever some do.
    pub fn look_up<T: Copy>(&self, blocks: &[T], local: impl Fn(T) -> u64, depths: &mut Vec<u32>) {
        depths.clear();
        depths.resize(self.sizes.len(), 0);
        let mut at = At::ROOT;
        let mut depth = 0;
        while let Some(&block) = blocks.get(depth as usize) {
            let Some(next) = self.step(at, local(block)) else { break };
            if next.node != at.node && at != At::ROOT {
                self.leave(at, depth, Some(next.node), depths);
            }
            let node = self.nodes.get(next.node);
            let behind = &blocks[depth as usize + 1..];
            let behind = &behind[..behind.len().min((node.len - next.passed) as usize)];
            let passed = ascending(behind, &local, node.local.wrapping_add(u64::from(next.passed)));
            depth += 1 + passed;
            at = At { passed: next.passed + passed, ..next };
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

/// How many blocks are called `first` and so on upwards, from the first block on.
fn ascending<T: Copy>(blocks: &[T], local: impl Fn(T) -> u64, first: u64) -> u32 {
    /// So many are compared without a branch.
    const CHUNK: usize = 32;
    let mut expected = first;
    for chunk in blocks.chunks(CHUNK) {
        let goes_on = |(block, step): (&T, u64)| local(*block) == expected.wrapping_add(step);
        if !chunk.iter().zip(0..).fold(true, |all, each| all & goes_on(each)) {
            expected =
                expected.wrapping_add(chunk.iter().zip(0..).take_while(|&each| goes_on(each)).count() as u64);
            break;
        }
        expected = expected.wrapping_add(chunk.len() as u64);
    }
    expected.wrapping_sub(first) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_ascend_until_one_does_not() {
        for len in [0, 1, 31, 32, 33, 64, 100] {
            for (first, wrong) in
                [0, u64::MAX - 40].into_iter().flat_map(|first| (0..=len).map(move |at| (first, at)))
            {
                let mut blocks: Vec<u64> = (0..len as u64).map(|step| first.wrapping_add(step)).collect();
                if let Some(block) = blocks.get_mut(wrong) {
                    *block = block.wrapping_add(1);
                }
                assert_eq!(ascending(&blocks, |block| block, first) as usize, wrong, "{len} from {first}");
            }
        }
    }
}
