//! Finds the run that a number lies in.

use std::ops::ControlFlow;

use hashbrown::HashTable;

/// A run has an entry for every stretch of `1 << SPAN_BITS` numbers that it reaches into.
const SPAN_BITS: u32 = 6;

/// Of a table with fewer places nobody notices that it grows.
const FEWEST_PLACES: usize = 1000;

/// Runs of consecutive 64-bit numbers, each known by a number of its own below 2³², which may overlap.
///
/// An entry a run and stretch of 64 numbers, so that a run of any length costs little, and numbers that have nothing to do
/// with one another an entry each. Which numbers a run consists of the caller knows; they may go on from 2⁶⁴ − 1 to 0.
#[derive(Debug, Clone, Default)]
pub struct RunIndex {
    entries: HashTable<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// 32 bits of the stretch.
    tag: u32,
    run: u32,
}

/// Where a run begins and how many numbers it has.
pub type Extent = (u64, u32);

impl RunIndex {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no runs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A run that begins at `first` had `old_len` numbers and has `new_len` from now on; 0 stands for no run.
    ///
    /// # Panics
    /// If it had not `old_len`.
    #[inline]
    pub fn resize(&mut self, first: u64, old_len: u32, new_len: u32, run: u32) {
        let (old, new) = (stretches_of(first, old_len), stretches_of(first, new_len));
        for place in old..new {
            let entry = Entry { tag: tag(stretch_at(first, place)), run };
            self.make_room();
            self.entries.insert_unique(spread(entry.tag), entry, |entry| spread(entry.tag));
        }
        for place in new..old {
            let entry = Entry { tag: tag(stretch_at(first, place)), run };
            let found = self.entries.find_entry(spread(entry.tag), |other| *other == entry);
            found.expect("a run has an entry for all that it reaches into").remove();
        }
    }

    /// Makes a table anew that is full, a quarter of it or more with places of entries that were removed: by itself it would
    /// become twice as large, once for each worker of a long run.
    #[inline]
    fn make_room(&mut self) {
        if self.entries.len() == self.entries.capacity() {
            self.make_anew();
        }
    }

    #[cold]
    fn make_anew(&mut self) {
        let places = self.entries.num_buckets() / 8 * 7;
        if places >= FEWEST_PLACES && self.entries.len() <= places / 4 * 3 {
            let mut entries = HashTable::with_capacity(places);
            for entry in self.entries.drain() {
                entries.insert_unique(spread(entry.tag), entry, |entry| spread(entry.tag));
            }
            self.entries = entries;
        }
    }

    /// A run that `number` lies in and how far into it; `extent` gives the extent of each run.
    ///
    /// Of several runs, an arbitrary one.
    pub fn find(&self, number: u64, extent: impl Fn(u32) -> Extent) -> Option<(u32, u32)> {
        let tag = tag(number >> SPAN_BITS);
        let mut offset = 0;
        let covers = |entry: &Entry| {
            let (first, len) = extent(entry.run);
            offset = number.wrapping_sub(first);
            entry.tag == tag && offset < u64::from(len)
        };
        let run = self.entries.find(spread(tag), covers)?.run;
        Some((run, offset as u32))
    }

    /// The first number of a run, counted from its beginning, that lies in another run, with that run; `extent` gives the
    /// extent of each run.
    ///
    /// Of several other runs, an arbitrary one.
    pub fn first_overlap(&self, (first, len): Extent, extent: impl Fn(u32) -> Extent) -> Option<(u32, u32)> {
        let search = (0..stretches_of(first, len)).try_for_each(|place| {
            let tag = tag(stretch_at(first, place));
            let mut nearest: Option<(u32, u32)> = None;
            for entry in self.entries.iter_hash(spread(tag)).filter(|entry| entry.tag == tag) {
                let (other, other_len) = extent(entry.run);
                // Either this one begins within the other, or the other within this one.
                let into_other = first.wrapping_sub(other);
                let into_this = other.wrapping_sub(first);
                let at = if into_other < u64::from(other_len) { 0 } else { into_this };
                if at < u64::from(len) && nearest.is_none_or(|(nearest, _)| at < u64::from(nearest)) {
                    nearest = Some((at as u32, entry.run));
                }
            }
            nearest.map_or(ControlFlow::Continue(()), ControlFlow::Break)
        });
        search.break_value()
    }
}

/// Into how many stretches a run reaches.
fn stretches_of(first: u64, len: u32) -> u64 {
    let span = 1_u64 << SPAN_BITS;
    if len == 0 { 0 } else { ((first % span) + u64::from(len)).div_ceil(span) }
}

fn stretch_at(first: u64, place: u64) -> u64 {
    // Stretches go round as numbers do.
    (first >> SPAN_BITS).wrapping_add(place) & (u64::MAX >> SPAN_BITS)
}

fn tag(stretch: u64) -> u32 {
    (stretch.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

/// The bits of a tag where the table looks for them: at both ends.
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_run_takes_few_entries_and_may_pass_the_end_of_numbers() {
        let mut index = RunIndex::default();
        let extents = [(u64::MAX - 99, 1000)];
        let extent = |run: u32| extents[run as usize];
        index.resize(extents[0].0, 0, 1000, 0);
        assert_eq!(index.len(), 17);
        assert_eq!(index.find(u64::MAX, extent), Some((0, 99)));
        assert_eq!(index.find(899, extent), Some((0, 999)));
        assert_eq!(index.find(900, extent), None);
        assert_eq!(index.first_overlap((800, 500), extent), Some((0, 0)));
        assert_eq!(index.first_overlap((u64::MAX - 200, 500), extent), Some((101, 0)));
        index.resize(extents[0].0, 1000, 0, 0);
        assert!(index.is_empty());
    }

    #[test]
    fn runs_that_come_and_go_do_not_make_the_table_grow() {
        let mut index = RunIndex::default();
        // A stretch each, as many as fill two thirds of a table; the one that goes is another one each time.
        let mut runs: Vec<u64> = (0..4_800).map(|run| run * 64).collect();
        for (run, first) in runs.iter().enumerate() {
            index.resize(*first, 0, 64, run as u32);
        }
        let buckets = index.entries.num_buckets();
        for step in 0..300_000_u64 {
            let run = (step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % runs.len();
            index.resize(runs[run], 64, 0, run as u32);
            runs[run] = (5_000 + step) * 64;
            index.resize(runs[run], 0, 64, run as u32);
        }
        assert_eq!((index.len(), index.entries.num_buckets()), (4_800, buckets));
        let extent = |run: u32| (runs[run as usize], 64);
        for run in [0, 1, 4_799] {
            assert_eq!(index.find(runs[run] + 7, extent), Some((run as u32, 7)));
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_search_through_all_runs_finds(
            steps in prop::collection::vec((0_u64..1500, 0_u32..200, 0_usize..12), 1..60),
            asked in prop::collection::vec((0_u64..1800, 1_u32..300), 20),
        ) {
            let mut index = RunIndex::default();
            let mut runs = [(0_u64, 0_u32); 12];
            for (first, len, run) in steps {
                let (old_first, old_len) = runs[run];
                // Numbers of several runs at once are found in any of them, so keep them apart here.
                let first = first + (run as u64) * 10_000;
                if old_first == first {
                    index.resize(first, old_len, len, run as u32);
                } else {
                    index.resize(old_first, old_len, 0, run as u32);
                    index.resize(first, 0, len, run as u32);
                }
                runs[run] = (first, len);
            }
            let extent = |run: u32| runs[run as usize];
            for (number, len) in asked {
                for base in [0, 10_000, 50_000] {
                    let number = number + base;
                    let holds = |&run: &u32| number.wrapping_sub(extent(run).0) < u64::from(extent(run).1);
                    let expected = (0..12).find(holds).map(|run| (run, (number - extent(run).0) as u32));
                    prop_assert_eq!(index.find(number, extent), expected);
                    let overlap = (0..len).find_map(|at| {
                        let number = number + u64::from(at);
                        let holds = |&run: &u32| number.wrapping_sub(extent(run).0) < u64::from(extent(run).1);
                        (0..12).find(holds).map(|run| (at, run))
                    });
                    prop_assert_eq!(index.first_overlap((number, len), extent), overlap);
                }
            }
        }
    }
}
