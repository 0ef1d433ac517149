//! Which blocks have which content, by group of layers; and which chunk at the host has a number.

use servecast_types::{Extent, RunIndex, SequenceHash};

/// Stands for no block.
pub(in crate::vllm) const NONE: u32 = u32::MAX;

/// Identities that a run may pass over, to be continued: those that no group has a block for, where groups have blocks of
/// several sizes.
const MOST_PASSED_OVER: u64 = 8;

/// The first block of each content: of a group's part of a prefix.
///
/// Beside groups, what a chunk of the host is known by is kept in the same way, as of one group.
///
/// Identities of the blocks of a sequence are consecutive numbers for the most part, so they are kept as runs: it is a run that
/// is looked up, not a content.
#[derive(Debug)]
pub(in crate::vllm) struct Contents {
    groups: usize,
    runs: Vec<Run>,
    /// Runs that are empty.
    free: Vec<u32>,
    index: RunIndex,
    /// Contents that a block has.
    len: u32,
}

#[derive(Debug, Default)]
struct Run {
    first: u64,
    len: u32,
    /// Contents that a block has.
    contents: u32,
    /// Those blocks: a row of groups for each identity.
    blocks: Vec<u32>,
}

/// Where an identity is; it stays there as long as a block has a content of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vllm) struct Prefix {
    run: u32,
    at: u32,
}

impl Contents {
    pub(in crate::vllm) fn new(groups: usize) -> Self {
        Self { groups, runs: Vec::new(), free: Vec::new(), index: RunIndex::default(), len: 0 }
    }

    /// Contents that a block has.
    pub(in crate::vllm) fn len(&self) -> u32 {
        self.len
    }

    /// Where an identity is; `near` is the place of another one, maybe of its sequence.
    pub(in crate::vllm) fn find(&self, hash: SequenceHash, near: Option<Prefix>) -> Option<Prefix> {
        if let Some(Prefix { run, .. }) = near {
            let (first, len) = self.extent(run);
            let at = hash.0.wrapping_sub(first);
            if at < u64::from(len) {
                return Some(Prefix { run, at: at as u32 });
            }
        }
        let (run, at) = self.index.find(hash.0, |run| self.extent(run))?;
        Some(Prefix { run, at })
    }

    /// The same, of an identity that gets a place if it has none.
    pub(in crate::vllm) fn place(&mut self, hash: SequenceHash, near: Option<Prefix>) -> Prefix {
        if let Some(found) = self.find(hash, near) {
            return found;
        }
        let before = near.or_else(|| self.find(SequenceHash(hash.0.wrapping_sub(1)), None));
        let run = before.map(|before| before.run).filter(|&run| self.may_continue(run, hash));
        let run = run.unwrap_or_else(|| self.begin(hash));
        let groups = self.groups;
        let Run { first, len, blocks, .. } = &mut self.runs[run as usize];
        let (at, old_len) = (hash.0.wrapping_sub(*first) as u32, *len);
        *len = at + 1;
        blocks.resize(*len as usize * groups, NONE);
        self.index.resize(*first, old_len, *len, run);
        Prefix { run, at }
    }

    /// Whether a run can be made longer so that its last identity is one that has no place.
    fn may_continue(&self, run: u32, hash: SequenceHash) -> bool {
        let (first, len) = self.extent(run);
        let end = first.wrapping_add(len.into());
        let passed_over = hash.0.wrapping_sub(end);
        let is_free = |at| self.find(SequenceHash(end.wrapping_add(at)), None).is_none();
        passed_over <= MOST_PASSED_OVER && (0..passed_over).all(is_free)
    }

    fn begin(&mut self, hash: SequenceHash) -> u32 {
        let run = self.free.pop().unwrap_or_else(|| {
            self.runs.push(Run::default());
            self.runs.len() as u32 - 1
        });
        self.runs[run as usize].first = hash.0;
        run
    }

    pub(in crate::vllm) fn hash(&self, Prefix { run, at }: Prefix) -> SequenceHash {
        SequenceHash(self.runs[run as usize].first.wrapping_add(at.into()))
    }

    /// The first block that has a group's content at a place, or [`NONE`].
    pub(in crate::vllm) fn first(&self, Prefix { run, at }: Prefix, group: u32) -> u32 {
        self.runs[run as usize].blocks[at as usize * self.groups + group as usize]
    }

    /// Says which block is the first that has a group's content at a place; [`NONE`] if none is.
    pub(in crate::vllm) fn set_first(&mut self, Prefix { run, at }: Prefix, group: u32, block: u32) {
        let own = &mut self.runs[run as usize];
        let first = &mut own.blocks[at as usize * self.groups + group as usize];
        let before = std::mem::replace(first, block);
        match (before, block) {
            (NONE, NONE) => {}
            (NONE, _) => {
                own.contents += 1;
                self.len += 1;
            }
            (_, NONE) => {
                own.contents -= 1;
                self.len -= 1;
                self.shorten(run);
            }
            _ => {}
        }
    }

    /// Drops the identities at the end of a run of which no block has a content.
    fn shorten(&mut self, run: u32) {
        let groups = self.groups;
        let Run { first, len, contents, blocks } = &mut self.runs[run as usize];
        let old_len = *len;
        let is_empty = |row: &[u32]| row.iter().all(|&block| block == NONE);
        *len = if *contents == 0 {
            0
        } else {
            *len - blocks.rchunks(groups).take_while(|row| is_empty(row)).count() as u32
        };
        if *len < old_len {
            blocks.truncate(*len as usize * groups);
            self.index.resize(*first, old_len, *len, run);
            if *len == 0 {
                self.free.push(run);
            }
        }
    }

    fn extent(&self, run: u32) -> Extent {
        let Run { first, len, .. } = self.runs[run as usize];
        (first, len)
    }

    /// Every content that a block has: its place, its group and its first block.
    pub(in crate::vllm) fn iter(&self) -> impl Iterator<Item = (Prefix, u32, u32)> {
        (0..).zip(&self.runs).flat_map(|(number, run)| {
            let rows = (0..).zip(run.blocks.chunks(self.groups));
            rows.flat_map(move |(at, row)| {
                let of_group = (0..).zip(row).filter(|&(_, &block)| block != NONE);
                of_group.map(move |(group, &block)| (Prefix { run: number, at }, group, block))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_from_contents_to_blocks(
            steps in prop::collection::vec((prop_oneof![0_u64..40, 100_u64..140], 0_u32..3, prop::option::weighted(0.6, 0_u32..9)), 1..300),
            walks in any::<bool>(),
        ) {
            let (mut contents, mut expected) = (Contents::new(3), BTreeMap::new());
            let mut near = None;
            for (number, group, block) in steps {
                // Numbers go on from the last to the first.
                let hash = SequenceHash(number.wrapping_sub(20));
                if let Some(block) = block {
                    let place = contents.place(hash, near);
                    contents.set_first(place, group, block);
                    expected.insert((hash.0, group), block);
                    near = Some(place).filter(|_| walks);
                } else {
                    near = None;
                    if expected.remove(&(hash.0, group)).is_some() {
                        let place = contents.find(hash, None).expect("it has a block");
                        contents.set_first(place, group, NONE);
                    }
                }
                let mut found: Vec<_> =
                    contents.iter().map(|(place, group, block)| ((contents.hash(place).0, group), block)).collect();
                found.sort_unstable();
                prop_assert!(found.iter().copied().eq(expected.clone()));
                prop_assert_eq!(contents.len() as usize, expected.len());
                for (&(hash, group), &block) in &expected {
                    let place = contents.find(SequenceHash(hash), near);
                    prop_assert_eq!(place.map(|place| contents.first(place, group)), Some(block));
                }
            }
        }
    }

    #[test]
    fn consecutive_identities_are_a_run_and_empty_runs_are_used_again() {
        let mut contents = Contents::new(1);
        let mut near = None;
        for number in [0, 1, 2, 5, 6, 40] {
            let place = contents.place(SequenceHash(number), near);
            contents.set_first(place, 0, number as u32);
            near = Some(place);
        }
        assert_eq!(
            contents.runs.iter().map(|run| (run.first, run.len)).collect::<Vec<_>>(),
            [(0, 7), (40, 1)]
        );
        for number in [6, 5, 40] {
            let place = contents.find(SequenceHash(number), None).unwrap();
            contents.set_first(place, 0, NONE);
        }
        assert_eq!((contents.runs[0].len, contents.runs[1].len, &contents.free[..]), (3, 0, &[1][..]));
        contents.place(SequenceHash(100), None);
        assert_eq!((contents.runs[1].first, contents.runs.len()), (100, 2));
    }
}
