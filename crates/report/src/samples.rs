//! Samples of a latency: each by itself, or counted by length.

use servecast_record::TokenGaps;
use servecast_types::Duration;

use crate::stats::Stats;

/// Samples of a latency in ms, in the order in which they came.
#[derive(Debug, Clone)]
pub(crate) enum Samples {
    /// Every one: all statistics are exact.
    All(Vec<f64>),
    /// Counted by length, in memory that does not grow with their number.
    Counted(Box<Counted>),
}

/// Samples counted by length, and what is exact all the same. The standard deviation is so up to rounding (Welford).
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    lengths: TokenGaps,
    count: u64,
    sum_ms: f64,
    min_ms: f64,
    max_ms: f64,
    mean_so_far: f64,
    squares: f64,
}

impl Samples {
    /// No samples of which every one will be kept.
    pub(crate) fn all() -> Self {
        Self::All(Vec::new())
    }

    /// No samples that will be counted by length.
    pub(crate) fn counted() -> Self {
        Self::Counted(Box::default())
    }

    /// Adds one, which is finite.
    pub(crate) fn add(&mut self, ms: f64) {
        match self {
            Self::All(samples) => samples.push(ms),
            Self::Counted(counted) => counted.add(ms),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::All(samples) => samples.len() as u64,
            Self::Counted(counted) => counted.count,
        }
    }

    /// Their sum, in the order in which they came, over their number, with so many infinite ones; `None` without any.
    pub(crate) fn mean(&self, infinite: u64) -> Option<f64> {
        let number = self.len();
        match self {
            _ if infinite > 0 => Some(f64::INFINITY),
            _ if number == 0 => None,
            Self::All(samples) => Some(samples.iter().sum::<f64>() / number as f64),
            Self::Counted(counted) => Some(counted.sum_ms / number as f64),
        }
    }

    /// Each length with how often it occurs, smallest first, with so many infinite ones behind.
    pub(crate) fn sorted(&self, infinite: u64) -> Vec<(f64, u64)> {
        let mut sorted: Vec<(f64, u64)> = match self {
            Self::All(samples) => {
                let mut samples = samples.clone();
                samples.sort_unstable_by(f64::total_cmp);
                samples.into_iter().map(|ms| (ms, 1)).collect()
            }
            Self::Counted(counted) => counted.sorted(),
        };
        sorted.extend((infinite > 0).then_some((f64::INFINITY, infinite)));
        sorted
    }

    /// Their statistics with so many infinite ones; `None` without any.
    pub(crate) fn stats(&self, infinite: u64) -> Option<Stats> {
        match self {
            Self::All(samples) if infinite == 0 => Stats::of(samples),
            Self::All(samples) => {
                let infinite = std::iter::repeat_n(f64::INFINITY, infinite as usize);
                Stats::of(&samples.iter().copied().chain(infinite).collect::<Vec<f64>>())
            }
            Self::Counted(counted) => {
                let stats = Stats::of_counted(&self.sorted(infinite))?;
                Some(match (counted.count, infinite) {
                    (0, _) => stats,
                    (_, 0) => counted.exact(stats),
                    (_, _) => Stats { min: counted.min_ms, ..stats },
                })
            }
        }
    }

    /// The largest relative error of a percentile; `None` where every sample is kept.
    pub(crate) fn relative_error(&self) -> Option<f64> {
        match self {
            Self::All(_) => None,
            Self::Counted(_) => Some(TokenGaps::BUCKET_WIDTH),
        }
    }
}

impl Counted {
    fn add(&mut self, ms: f64) {
        let length = Duration::from_ms(ms).expect("a latency is finite and not negative");
        self.lengths.add(length, 1);
        (self.min_ms, self.max_ms) =
            if self.count == 0 { (ms, ms) } else { (self.min_ms.min(ms), self.max_ms.max(ms)) };
        self.count += 1;
        self.sum_ms += ms;
        let distance = ms - self.mean_so_far;
        self.mean_so_far += distance / self.count as f64;
        self.squares += distance * (ms - self.mean_so_far);
    }

    /// None of them outside of the samples, since a mean per token is no whole number of nanoseconds.
    fn sorted(&self) -> Vec<(f64, u64)> {
        let lengths = self.lengths.sorted().into_iter();
        lengths.map(|(length, times)| (length.as_ms().clamp(self.min_ms, self.max_ms), times)).collect()
    }

    /// Statistics of lengths with what is known better.
    fn exact(&self, stats: Stats) -> Stats {
        let (min, max) = (self.min_ms, self.max_ms);
        let mean = (self.sum_ms / self.count as f64).clamp(min, max);
        Stats { mean, min, max, std: (self.squares / self.count as f64).sqrt(), ..stats }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn both(samples: &[f64]) -> (Samples, Samples) {
        let (mut all, mut counted) = (Samples::all(), Samples::counted());
        for &ms in samples {
            all.add(ms);
            counted.add(ms);
        }
        (all, counted)
    }

    #[test]
    fn without_samples_there_is_nothing_to_say() {
        for samples in [Samples::all(), Samples::counted()] {
            assert_eq!((samples.stats(0), samples.mean(0), samples.len()), (None, None, 0));
            assert_eq!(samples.stats(3).unwrap().min, f64::INFINITY);
        }
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_exact_is(
            samples in vec(prop_oneof![0.0..10.0_f64, 1e3..1e6_f64, Just(7.25)], 1..200),
            infinite in prop_oneof![Just(0_u64), 1..5_u64],
        ) {
            let (all, counted) = both(&samples);
            prop_assert_eq!(all.mean(infinite), counted.mean(infinite));
            let (exact, found) = (all.stats(infinite).unwrap(), counted.stats(infinite).unwrap());
            let equal = |one: f64, other: f64, error: f64| one == other || (one - other).abs() <= error;
            prop_assert_eq!(exact.min, found.min);
            if infinite == 0 {
                prop_assert_eq!([exact.mean, exact.min, exact.max], [found.mean, found.min, found.max]);
                prop_assert!(equal(exact.std, found.std, 1e-9 * exact.max));
            }
            for (one, other) in exact.to_array().into_iter().zip(found.to_array()).skip(3).take(5) {
                // Half a nanosecond is lost where lengths are counted.
                prop_assert!(equal(one, other, one / 1000.0 + 1e-6), "{one} {other}");
            }
        }
    }

    #[test]
    fn percentiles_of_many_samples_are_as_close_as_said() {
        let samples: Vec<f64> =
            (0..200_000_u64).map(|n| 20.0 + (n * 7919 % 200_003) as f64 / 371.0).collect();
        let (all, counted) = both(&samples);
        let (exact, found) = (all.stats(0).unwrap(), counted.stats(0).unwrap());
        let error = counted.relative_error().unwrap();
        assert_eq!([exact.mean, exact.min, exact.max], [found.mean, found.min, found.max]);
        for (one, other) in exact.to_array().into_iter().zip(found.to_array()) {
            assert!((one - other).abs() <= error * one, "{one} {other}");
        }
    }
}
