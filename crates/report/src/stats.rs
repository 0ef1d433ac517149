//! Mean, spread and percentiles of a set of samples.

/// The nine statistics of one metric, in the unit of its samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// Sum of the samples divided by their number.
    pub mean: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// 50th percentile.
    pub median: f64,
    /// 75th percentile.
    pub p75: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Population standard deviation: the root of the mean squared distance from the mean.
    pub std: f64,
}

impl Stats {
    /// Key prefix and description of each statistic, in the order of [`Self::to_array`].
    pub(crate) const NAMES: [(&str, &str); 9] = [
        ("mean", "Mean"),
        ("min", "Minimum"),
        ("max", "Maximum"),
        ("median", "Median"),
        ("p75", "75th percentile"),
        ("p90", "90th percentile"),
        ("p95", "95th percentile"),
        ("p99", "99th percentile"),
        ("std", "Population standard deviation"),
    ];

    /// Statistics of `samples` in any order, `None` if there are none; sums follow the order given.
    ///
    /// Samples may be infinite, upwards; a statistic that is so is infinite, and the spread of such samples, too.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let ones = samples.iter().map(|&value| (value, 1));
        Self::over(&ones, samples.len() as u64, |rank| sorted[rank as usize])
    }

    /// Statistics of a multiset given as `(value, count)` pairs, smallest value first: the same as those of
    /// the list that repeats each value `count` times, without building it. `None` if no value is there.
    ///
    /// Every value must be finite.
    ///
    /// # Panics
    ///
    /// Panics when the values do not ascend.
    pub fn of_counted(pairs: &[(f64, u64)]) -> Option<Self> {
        assert!(pairs.is_sorted_by(|a, b| a.0 <= b.0), "counted samples must ascend");
        let ends: Vec<u64> = pairs
            .iter()
            .scan(0, |end, &(_, count)| {
                *end += count;
                Some(*end)
            })
            .collect();
        let total = ends.last().copied().unwrap_or(0);
        Self::over(&pairs.iter().copied(), total, |rank| pairs[ends.partition_point(|&end| end <= rank)].0)
    }

    pub(crate) fn to_array(self) -> [f64; 9] {
        let Self { mean, min, max, median, p75, p90, p95, p99, std } = self;
        [mean, min, max, median, p75, p90, p95, p99, std]
    }

    pub(crate) fn from_array(values: [f64; 9]) -> Self {
        let [mean, min, max, median, p75, p90, p95, p99, std] = values;
        Self { mean, min, max, median, p75, p90, p95, p99, std }
    }

    fn over(
        pairs: &(impl Iterator<Item = (f64, u64)> + Clone),
        total: u64,
        at: impl Fn(u64) -> f64,
    ) -> Option<Self> {
        if total == 0 {
            return None;
        }
        let average = |of: &dyn Fn(f64) -> f64| {
            pairs.clone().map(|(value, count)| of(value) * count as f64).sum::<f64>() / total as f64
        };
        let (min, max) = (at(0), at(total - 1));
        // The sum of equal samples need not be a multiple of them, yet no mean lies outside its samples.
        let mean = average(&|value| value).clamp(min, max);
        let percentile = |percent| percentile(total, percent, &at);
        Some(Self {
            mean,
            min,
            max,
            median: percentile(50.0),
            p75: percentile(75.0),
            p90: percentile(90.0),
            p95: percentile(95.0),
            p99: percentile(99.0),
            std: if max.is_finite() { average(&|value| (value - mean).powi(2)).sqrt() } else { max },
        })
    }
}

/// The value below which `percent` of `total` sorted samples lie, where `at(rank)` is the sample of that rank
/// from 0.
///
/// Interpolates linearly between the two samples around rank `percent / 100 * (total - 1)`, bit for bit as
/// `numpy.percentile` does by default: from the nearer of the two, so that the result never leaves their
/// interval.
pub(crate) fn percentile(total: u64, percent: f64, at: impl Fn(u64) -> f64) -> f64 {
    let position = (total - 1) as f64 * (percent / 100.0);
    let rank = position.floor();
    let share = position - rank;
    let below = at(rank as u64);
    let above = at((rank as u64 + 1).min(total - 1));
    if above.is_infinite() {
        // Between a figure and infinity there is nothing but infinity.
        return if share > 0.0 { above } else { below };
    }
    let gap = above - below;
    if share < 0.5 { below + gap * share } else { above - gap * (1.0 - share) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn check(samples: &[f64], expected: [f64; 9]) {
        assert_eq!(Stats::of(samples).unwrap().to_array(), expected, "{samples:?}");
    }

    /// Expectations are what `numpy.mean`, `min`, `max`, `percentile` and `std` return.
    #[test]
    fn statistics_are_those_of_numpy() {
        check(&[7.5], [7.5, 7.5, 7.5, 7.5, 7.5, 7.5, 7.5, 7.5, 0.0]);
        check(&[1.0, 2.0], [1.5, 1.0, 2.0, 1.5, 1.75, 1.9, 1.95, 1.99, 0.5]);
        check(
            &[4.0, 1.0, 3.0, 2.0],
            [2.5, 1.0, 4.0, 2.5, 3.25, 3.7, 3.8499999999999996, 3.9699999999999998, 1.118033988749895],
        );
        check(
            &[10.0, 10.0, 10.0, 10.0, 10.0, 20.0, 40.0],
            [
                15.714285714285714,
                10.0,
                40.0,
                10.0,
                15.0,
                28.000000000000007,
                33.999999999999986,
                38.79999999999999,
                10.497813183356477,
            ],
        );
        check(
            &[0.3, 0.1, 0.2, 0.7, 0.55, 0.9, 0.05, 0.45, 0.6, 0.15, 0.35],
            [0.39545454545454545, 0.05, 0.9, 0.35, 0.575, 0.7, 0.8, 0.8800000000000001, 0.25801210811487957],
        );
    }

    #[test]
    fn without_samples_there_is_no_statistic() {
        assert_eq!((Stats::of(&[]), Stats::of_counted(&[])), (None, None));
        assert_eq!(Stats::of_counted(&[(1.0, 0)]), None);
    }

    #[test]
    fn equal_samples_have_no_spread() {
        check(&[0.1; 3], [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0]);
    }

    #[test]
    #[should_panic(expected = "must ascend")]
    fn counted_samples_must_ascend() {
        Stats::of_counted(&[(2.0, 1), (1.0, 1)]);
    }

    #[test]
    fn counts_of_zero_are_no_samples() {
        assert_eq!(Stats::of_counted(&[(1.0, 0), (2.0, 2), (3.0, 0)]), Stats::of(&[2.0, 2.0]));
    }

    #[test]
    fn counts_may_exceed_memory() {
        let stats = Stats::of_counted(&[(1.0, 1 << 50), (3.0, 1 << 50)]).unwrap();
        assert_eq!([stats.mean, stats.p75, stats.std], [2.0, 3.0, 1.0]);
    }

    /// Multiples of 1/8, whose sums are exact in any order.
    fn eighths() -> impl Strategy<Value = f64> {
        (0u32..80_000).prop_map(|n| f64::from(n) / 8.0)
    }

    proptest! {
        #[test]
        fn counted_equals_expanded(mut pairs in vec((eighths(), 0u64..5), 0..40)) {
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            let expanded: Vec<f64> =
                pairs.iter().flat_map(|&(value, count)| std::iter::repeat_n(value, count as usize)).collect();
            let (Some(counted), Some(plain)) = (Stats::of_counted(&pairs), Stats::of(&expanded)) else {
                prop_assert!(expanded.is_empty() && Stats::of_counted(&pairs).is_none());
                return Ok(());
            };
            let slack = 1e-12 * plain.std;
            prop_assert!((counted.std - plain.std).abs() <= slack, "{} {}", counted.std, plain.std);
            prop_assert_eq!(Stats { std: 0.0, ..counted }, Stats { std: 0.0, ..plain });
        }

        #[test]
        fn percentiles_ascend_within_the_samples(
            mut samples in vec(0.0f64..1e6, 1..50),
            percents in vec(0.0f64..=100.0, 2),
        ) {
            samples.sort_unstable_by(f64::total_cmp);
            let total = samples.len() as u64;
            let at = |percent: f64| percentile(total, percent, |rank| samples[rank as usize]);
            let (low, high) = (percents[0].min(percents[1]), percents[0].max(percents[1]));
            prop_assert!(at(low) <= at(high));
            prop_assert_eq!(at(0.0), samples[0]);
            prop_assert_eq!(at(100.0), samples[samples.len() - 1]);
        }

        #[test]
        fn the_order_of_samples_does_not_matter(samples in vec(eighths(), 1..50)) {
            let reversed: Vec<f64> = samples.iter().rev().copied().collect();
            let (forth, back) = (Stats::of(&samples).unwrap(), Stats::of(&reversed).unwrap());
            prop_assert!((forth.std - back.std).abs() <= 1e-12 * forth.std);
            prop_assert_eq!(Stats { std: 0.0, ..forth }, Stats { std: 0.0, ..back });
        }
    }
}
