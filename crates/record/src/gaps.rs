//! Gaps between consecutive tokens, pooled over all requests: how often each length occurred.

use rustc_hash::FxHashMap;
use servecast_types::Duration;

/// Distinct lengths up to which each is counted by itself.
pub const MOST_DISTINCT_GAPS: usize = 1 << 16;

/// A table with so many lengths that is full grows to its largest size at once: while it grows, there is the old one beside
/// the new one.
const MANY_GAPS: usize = 1 << 13;

/// Bits of a length that tell its bucket from others: buckets are 2⁻¹⁰ of their lengths wide.
const PRECISION: u32 = 10;

/// Gaps between consecutive tokens of finished and unfinished requests alike.
///
/// Exact while there are at most [`MOST_DISTINCT_GAPS`] distinct lengths: requests of one batch share theirs. Beyond
/// that, lengths that differ by less than 0.1 % share a bucket, which remembers their number and sum: mean, shortest and
/// longest stay exact, percentiles are off by [`TokenGaps::relative_error`] at most. Which of the two it is depends on the
/// gaps alone, not on the order in which they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGaps(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Exact(FxHashMap<u64, u64>),
    Sketch(Sketch),
}

/// Lengths by size.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sketch {
    buckets: Vec<Bucket>,
    min_ns: u64,
    max_ns: u64,
}

/// Lengths of about the same size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    count: u64,
    sum_ns: u128,
}

impl Default for TokenGaps {
    fn default() -> Self {
        Self(Form::Exact(FxHashMap::default()))
    }
}

impl TokenGaps {
    /// How much longer the longest length of a bucket can be than the shortest, relative to it.
    pub const BUCKET_WIDTH: f64 = 1.0 / (1 << PRECISION) as f64;

    /// Counts `times` gaps of one length.
    #[inline]
    pub fn add(&mut self, gap: Duration, times: u64) {
        match &mut self.0 {
            Form::Exact(_) => self.add_exactly(gap.as_ns(), times),
            Form::Sketch(sketch) => sketch.add(gap.as_ns(), times),
        }
    }

    /// Not inlined: a long run counts nearly all of its gaps in a sketch.
    #[inline(never)]
    fn add_exactly(&mut self, ns: u64, times: u64) {
        let Form::Exact(counts) = &mut self.0 else { return };
        if counts.len() == counts.capacity() && counts.len() >= MANY_GAPS {
            counts.reserve(MOST_DISTINCT_GAPS + 1 - counts.len());
        }
        *counts.entry(ns).or_default() += times;
        if counts.len() > MOST_DISTINCT_GAPS {
            self.merge_similar();
        }
    }

    /// All lengths with their counts, shortest first; those of a bucket as their mean.
    pub fn sorted(&self) -> Vec<(Duration, u64)> {
        let mut gaps: Vec<_> = match &self.0 {
            Form::Exact(counts) => {
                counts.iter().map(|(&ns, &times)| (Duration::from_ns(ns), times)).collect()
            }
            Form::Sketch(sketch) => sketch.lengths(),
        };
        gaps.sort_unstable();
        gaps
    }

    /// Mean length in ms, exact up to the last division; 0 without gaps.
    pub fn mean_ms(&self) -> f64 {
        let (count, sum_ns) = match &self.0 {
            Form::Exact(counts) => {
                total(counts.iter().map(|(&ns, &times)| (times, u128::from(ns) * u128::from(times))))
            }
            Form::Sketch(sketch) => total(sketch.buckets.iter().map(|bucket| (bucket.count, bucket.sum_ns))),
        };
        if count == 0 { 0.0 } else { sum_ns as f64 / 1e6 / count as f64 }
    }

    /// Sum of all lengths in ms.
    pub fn sum_ms(&self) -> f64 {
        let sum_ns: u128 = match &self.0 {
            Form::Exact(counts) => {
                counts.iter().map(|(&ns, &times)| u128::from(ns) * u128::from(times)).sum()
            }
            Form::Sketch(sketch) => sketch.buckets.iter().map(|bucket| bucket.sum_ns).sum(),
        };
        sum_ns as f64 / 1e6
    }

    /// How many are longer than `limit` by more than the width of a bucket: they will be however many more come.
    pub fn surely_above(&self, limit: Duration) -> u64 {
        let first = bucket_of(limit.as_ns()) + 1;
        match &self.0 {
            Form::Exact(counts) => {
                counts.iter().filter(|&(&ns, _)| bucket_of(ns) >= first).map(|(_, &times)| times).sum()
            }
            Form::Sketch(sketch) => sketch.buckets.iter().skip(first).map(|bucket| bucket.count).sum(),
        }
    }

    /// Largest relative error of a length: 0 while all are counted by themselves.
    pub fn relative_error(&self) -> f64 {
        match &self.0 {
            Form::Exact(_) => 0.0,
            Form::Sketch(_) => Self::BUCKET_WIDTH,
        }
    }

    fn merge_similar(&mut self) {
        let Form::Exact(counts) = &self.0 else { return };
        let mut sketch = Sketch { buckets: Vec::new(), min_ns: u64::MAX, max_ns: 0 };
        for (&ns, &times) in counts {
            sketch.add(ns, times);
        }
        self.0 = Form::Sketch(sketch);
    }
}

/// The sums of counts and of lengths.
fn total(parts: impl Iterator<Item = (u64, u128)>) -> (u128, u128) {
    parts.fold((0, 0), |(count, sum_ns), (times, ns)| (count + u128::from(times), sum_ns + ns))
}

impl Sketch {
    #[inline]
    fn add(&mut self, ns: u64, times: u64) {
        let index = bucket_of(ns);
        if index >= self.buckets.len() {
            self.grow(index);
        }
        let bucket = &mut self.buckets[index];
        bucket.count += times;
        bucket.sum_ns += u128::from(ns) * u128::from(times);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    #[cold]
    fn grow(&mut self, index: usize) {
        self.buckets.resize(index + 1, Bucket::default());
    }

    /// The shortest and the longest one as they are, all others as the mean of their bucket.
    fn lengths(&self) -> Vec<(Duration, u64)> {
        let mut lengths = Vec::new();
        for (index, &bucket) in self.buckets.iter().enumerate() {
            let Bucket { mut count, mut sum_ns } = bucket;
            for extreme in [self.min_ns, self.max_ns] {
                if count > 0 && bucket_of(extreme) == index {
                    lengths.push((Duration::from_ns(extreme), 1));
                    count -= 1;
                    sum_ns -= u128::from(extreme);
                }
            }
            if count > 0 {
                let mean = (sum_ns + u128::from(count) / 2) / u128::from(count);
                lengths.push((Duration::from_ns(mean as u64), count));
            }
        }
        lengths
    }
}

/// Lengths below 2^(p + 1) have a bucket each; then there are 2^p to every power of two.
fn bucket_of(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(PRECISION + 1);
    ((u64::from(shift) << PRECISION) + (ns >> shift)) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_lengths_are_counted_by_themselves() {
        let mut gaps = TokenGaps::default();
        for (ns, times) in [(7_000_001, 2), (5, 1), (7_000_000, 3), (5, 4)] {
            gaps.add(Duration::from_ns(ns), times);
        }
        let expected = [(5, 5), (7_000_000, 3), (7_000_001, 2)];
        assert_eq!(gaps.sorted(), expected.map(|(ns, times)| (Duration::from_ns(ns), times)));
        assert!(gaps.relative_error() == 0.0);
    }

    #[test]
    fn many_lengths_share_buckets_whose_means_are_exact() {
        let mut gaps = TokenGaps::default();
        let lengths = (0..100_000_u64).map(|number| 5_000_000 + 31 * number);
        lengths.clone().for_each(|ns| gaps.add(Duration::from_ns(ns), 2));
        let sorted = gaps.sorted();
        assert!(sorted.len() < 1000 && sorted.is_sorted());
        assert_eq!(sorted.iter().map(|(_, times)| times).sum::<u64>(), 200_000);
        let ends = [sorted.first(), sorted.last()].map(|end| end.unwrap().0.as_ns());
        assert_eq!(ends, [5_000_000, 5_000_000 + 31 * 99_999]);
        let mean = |sum: f64| sum / 200_000.0;
        let exact = mean(lengths.map(|ns| 2.0 * ns as f64).sum());
        let found = mean(sorted.iter().map(|&(gap, times)| gap.as_ns() as f64 * times as f64).sum());
        assert!((exact - found).abs() <= 0.5, "{exact} {found}");
    }

    /// Whatever comes later, what was surely above a limit stays above it.
    #[test]
    fn what_is_surely_above_stays_there() {
        let mut gaps = TokenGaps::default();
        let limit = Duration::from_ns(5_400_000);
        let above = |gaps: &TokenGaps| {
            let lengths = gaps.sorted();
            lengths.iter().filter(|(gap, _)| *gap > limit).map(|(_, times)| times).sum::<u64>()
        };
        let mut before = 0;
        for number in 0..80_000_u64 {
            gaps.add(Duration::from_ns(5_000_000 + 7919 * number % 1_000_003), 1);
            if number % 4000 == 0 {
                let surely = gaps.surely_above(limit);
                assert!(before <= surely && surely <= above(&gaps), "{number}");
                before = surely;
            }
        }
        assert!(gaps.relative_error() > 0.0 && before <= above(&gaps) && before > 40_000);
        let mean = gaps.sum_ms() / 80_000.0;
        assert!((mean - gaps.mean_ms()).abs() < 1e-9);
    }

    #[test]
    fn the_order_in_which_gaps_come_does_not_matter() {
        let lengths = || (0..90_000_u64).map(|number| Duration::from_ns(number * 977 % 1_000_003));
        let (mut forth, mut back) = (TokenGaps::default(), TokenGaps::default());
        lengths().for_each(|gap| forth.add(gap, 1));
        lengths().rev().for_each(|gap| back.add(gap, 1));
        assert_eq!(forth, back);
    }

    proptest! {
        #[test]
        fn a_bucket_is_narrower_than_the_stated_error(ns: u64, other: u64) {
            let (low, high) = (ns.min(other), ns.max(other));
            prop_assert!(bucket_of(low) <= bucket_of(high));
            if bucket_of(low) == bucket_of(high) {
                prop_assert!((high - low) as f64 <= low as f64 / 1024.0);
            }
        }
    }
}
