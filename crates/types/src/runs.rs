//! Identities of blocks, a run of consecutive numbers at a time.
//!
//! [`BlockHasher`](crate::BlockHasher) numbers the blocks of one run of tokens consecutively, so most lists of identities
//! are a run or two. An engine stores a run upwards and evicts it downwards, the tail of a sequence first.

use std::ops::Range;

use smallvec::SmallVec;

use crate::SequenceHash;

/// `len` identities, each the one before it plus or minus 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashRun {
    /// The one that comes first.
    pub first: SequenceHash,
    /// How many there are, at least 1.
    pub len: u32,
    /// Whether each is the one before it minus 1; of one alone, false.
    pub descends: bool,
}

impl HashRun {
    /// `len` identities from `first` up.
    pub const fn up(first: SequenceHash, len: u32) -> Self {
        Self { first, len, descends: false }
    }

    /// `len` identities from `first` down.
    pub const fn down(first: SequenceHash, len: u32) -> Self {
        Self { first, len, descends: len > 1 }
    }

    /// The identity at a position, which must be below `len`.
    pub const fn get(self, at: u32) -> SequenceHash {
        let at = at as u64;
        let SequenceHash(first) = self.first;
        SequenceHash(if self.descends { first.wrapping_sub(at) } else { first.wrapping_add(at) })
    }

    /// The one that comes last.
    pub const fn last(self) -> SequenceHash {
        self.get(self.len - 1)
    }

    /// The lowest of them, counted from which all are reached upwards.
    pub const fn lowest(self) -> SequenceHash {
        if self.descends { self.last() } else { self.first }
    }

    /// The part at some positions.
    #[must_use]
    pub const fn part(self, at: Range<u32>) -> Self {
        let len = at.end - at.start;
        Self { first: self.get(at.start), len, descends: self.descends && len > 1 }
    }

    /// One after the other.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = SequenceHash> + Clone {
        (0..self.len).map(move |at| self.get(at))
    }

    /// This run followed by another, if that is a run.
    fn joined(self, next: Self) -> Option<Self> {
        let up = !self.descends && !next.descends && next.first.0 == self.last().0.wrapping_add(1);
        let down = (self.descends || self.len == 1)
            && (next.descends || next.len == 1)
            && next.first.0 == self.last().0.wrapping_sub(1);
        (up || down).then(|| Self { first: self.first, len: self.len + next.len, descends: down })
    }
}

/// A list of identities, in order.
#[derive(Debug, Clone, Default)]
pub struct HashRuns {
    runs: SmallVec<[Placed; 1]>,
    len: u32,
}

/// A run that begins at position `from` and ends where the next begins.
#[derive(Debug, Clone, Copy)]
struct Placed {
    first: SequenceHash,
    from: u32,
    descends: bool,
}

impl HashRuns {
    /// How many identities there are.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends one identity.
    pub fn push(&mut self, hash: SequenceHash) {
        self.push_run(HashRun::up(hash, 1));
    }

    /// Appends a run.
    pub fn push_run(&mut self, run: HashRun) {
        let joined = self.last_run().and_then(|last| last.joined(run));
        if let (Some(joined), Some(last)) = (joined, self.runs.last_mut()) {
            last.descends = joined.descends;
        } else {
            self.runs.push(Placed { first: run.first, from: self.len, descends: run.descends });
        }
        self.len += run.len;
    }

    /// The identity at a position.
    pub fn get(&self, at: u32) -> Option<SequenceHash> {
        if at < self.len { self.range(at..at + 1).next().map(|run| run.first) } else { None }
    }

    /// The one that comes last.
    pub fn last(&self) -> Option<SequenceHash> {
        self.last_run().map(HashRun::last)
    }

    /// The runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = HashRun> + Clone {
        self.range(0..self.len)
    }

    /// The runs of the identities at some positions, which must be there.
    #[inline]
    pub fn range(&self, at: Range<u32>) -> impl Iterator<Item = HashRun> + Clone {
        debug_assert!(at.end <= self.len, "only what is there has positions");
        let start = match self.runs.len() {
            0 | 1 => 0,
            _ => self.runs.partition_point(|run| run.from <= at.start).saturating_sub(1),
        };
        (start..self.runs.len()).map_while(move |index| {
            let Placed { from, .. } = self.runs[index];
            let run = self.run(index);
            let part = at.start.saturating_sub(from).min(run.len)..at.end.saturating_sub(from).min(run.len);
            (part.start < part.end).then(|| run.part(part))
        })
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = SequenceHash> + Clone {
        self.runs().flat_map(HashRun::iter)
    }

    /// Appends all of them to a list.
    pub fn append_to(&self, list: &mut Vec<SequenceHash>) {
        list.reserve(self.len());
        for HashRun { first: SequenceHash(first), len, descends } in self.runs() {
            // A loop without a branch, since a list can have a hundred thousand.
            let steps = 0..u64::from(len);
            if descends {
                list.extend(steps.map(|step| SequenceHash(first.wrapping_sub(step))));
            } else {
                list.extend(steps.map(|step| SequenceHash(first.wrapping_add(step))));
            }
        }
    }

    fn run(&self, index: usize) -> HashRun {
        let Placed { first, from, descends } = self.runs[index];
        let end = self.runs.get(index + 1).map_or(self.len, |next| next.from);
        HashRun { first, len: end - from, descends }
    }

    fn last_run(&self) -> Option<HashRun> {
        self.runs.len().checked_sub(1).map(|last| self.run(last))
    }
}

impl PartialEq for HashRuns {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for HashRuns {}

impl Extend<HashRun> for HashRuns {
    fn extend<T: IntoIterator<Item = HashRun>>(&mut self, runs: T) {
        runs.into_iter().for_each(|run| self.push_run(run));
    }
}

impl FromIterator<HashRun> for HashRuns {
    fn from_iter<T: IntoIterator<Item = HashRun>>(runs: T) -> Self {
        let mut list = Self::default();
        list.extend(runs);
        list
    }
}

impl FromIterator<SequenceHash> for HashRuns {
    fn from_iter<T: IntoIterator<Item = SequenceHash>>(hashes: T) -> Self {
        hashes.into_iter().map(|hash| HashRun::up(hash, 1)).collect()
    }
}

impl From<HashRun> for HashRuns {
    fn from(run: HashRun) -> Self {
        std::iter::once(run).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spelled_out(list: &HashRuns) -> Vec<u64> {
        let mut all = Vec::new();
        list.append_to(&mut all);
        assert!(list.iter().eq(all.iter().copied()), "one by one as all at once");
        all.iter().map(|hash| hash.0).collect()
    }

    #[test]
    fn neighbours_become_runs_up_and_down() {
        let list: HashRuns = [7, 8, 9, 8, 7, 20, u64::MAX, 0, 1].map(SequenceHash).into_iter().collect();
        assert_eq!(spelled_out(&list), [7, 8, 9, 8, 7, 20, u64::MAX, 0, 1]);
        let runs: Vec<_> = list.runs().map(|run| (run.first.0, run.len, run.descends)).collect();
        assert_eq!(runs, [(7, 3, false), (8, 2, true), (20, 1, false), (u64::MAX, 3, false)]);
        assert_eq!(HashRun::down(SequenceHash(5), 3).lowest(), SequenceHash(3));
    }

    proptest! {
        #[test]
        fn it_is_a_list(hashes in prop::collection::vec(0_u64..6, 0..40), cut in 0_usize..40, end in 0_usize..40) {
            let list: HashRuns = hashes.iter().copied().map(SequenceHash).collect();
            prop_assert_eq!(spelled_out(&list), &hashes[..]);
            prop_assert_eq!(list.last().map(|hash| hash.0), hashes.last().copied());
            for at in 0..45 {
                prop_assert_eq!(list.get(at).map(|hash| hash.0), hashes.get(at as usize).copied());
            }
            let (cut, end) = (cut.min(hashes.len()), end.min(hashes.len()));
            let (cut, end) = (cut.min(end), cut.max(end));
            let part: HashRuns = list.range(cut as u32..end as u32).collect();
            prop_assert_eq!(spelled_out(&part), &hashes[cut..end]);
            let mut joined: HashRuns = list.range(0..cut as u32).collect();
            joined.extend(list.range(cut as u32..hashes.len() as u32));
            prop_assert_eq!(&joined, &list);
        }
    }
}
