//! How latencies are distributed: quantiles for a cumulative curve, and a histogram with bins of equal ratio.

use serde::Serialize;
use servecast_record::{RequestRecord, RunRecord};
use servecast_types::Duration;

use super::{finished, rounded};
use crate::latency::tpot_ms;
use crate::stats::percentile;

/// Quantiles of a distribution, at equal distances.
pub(super) const QUANTILES: usize = 400;

/// Bins of a histogram.
const BINS: usize = 48;

/// Lower end of a logarithmic axis, in ms: latencies of nothing have no logarithm.
const LEAST_MS: f64 = 0.001;

/// How the samples of one latency are distributed.
#[derive(Debug, Serialize)]
pub(crate) struct Distribution {
    name: &'static str,
    samples: u64,
    mean: f64,
    /// Values at equal distances of their rank, in ms.
    quantiles: Vec<f64>,
    /// Samples in bins of equal ratio from the least to the greatest.
    counts: Vec<u64>,
}

impl Distribution {
    /// Of values in ms, ascending, each with how often it is there.
    pub(crate) fn of(name: &'static str, values: &[(f64, u64)]) -> Self {
        let mut up_to = Vec::with_capacity(values.len());
        let mut samples = 0;
        for (_, times) in values {
            samples += times;
            up_to.push(samples);
        }
        let at = |rank: u64| values[up_to.partition_point(|&count| count <= rank)].0;
        let quantile =
            |number: usize| rounded(percentile(samples, 100.0 * number as f64 / QUANTILES as f64, at));
        let quantiles = if samples == 0 { Vec::new() } else { (0..=QUANTILES).map(quantile).collect() };
        let sum: f64 = values.iter().map(|&(value, times)| value * times as f64).sum();
        Self { name, samples, mean: rounded(sum / samples.max(1) as f64), quantiles, counts: counts(values) }
    }

    /// Of one value a request.
    pub(crate) fn of_samples(name: &'static str, samples: impl Iterator<Item = f64>) -> Self {
        let mut samples: Vec<(f64, u64)> = samples.map(|sample| (sample, 1)).collect();
        samples.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        Self::of(name, &samples)
    }
}

/// A histogram with bins of equal ratio over all values.
fn counts(values: &[(f64, u64)]) -> Vec<u64> {
    let (Some((least, _)), Some((most, _))) = (values.first(), values.last()) else { return Vec::new() };
    let low = least.max(LEAST_MS).ln();
    let width = (most.max(LEAST_MS).ln() - low) / BINS as f64;
    let mut counts = vec![0; BINS];
    for (value, times) in values {
        // Without a width everything is in the first bin.
        let bin = ((value.max(LEAST_MS).ln() - low) / width) as usize;
        counts[bin.min(BINS - 1)] += times;
    }
    counts
}

/// The distributions of a run.
pub(super) fn distributions(run: &RunRecord) -> Vec<Distribution> {
    let of = |name, latency: fn(&RequestRecord) -> Option<f64>| {
        Distribution::of_samples(name, finished(run).filter_map(|(_, request)| latency(request)))
    };
    let gaps: Vec<(f64, u64)> =
        run.gaps.sorted().into_iter().map(|(gap, times)| (gap.as_ms(), times)).collect();
    vec![
        of("TTFT", |request| request.ttft().map(Duration::as_ms)),
        Distribution::of("ITL", &gaps),
        of("TPOT", tpot_ms),
        of("E2E latency", |request| request.e2e().map(Duration::as_ms)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_in_one_bin() {
        let of = |values: &[(f64, u64)]| Distribution::of("x", values);
        let found = of(&[(1.0, 3), (10.0, 2), (100.0, 5)]);
        assert_eq!((found.samples, found.mean), (10, 52.3));
        assert_eq!((found.counts[0], found.counts[24], found.counts[47]), (3, 2, 5));
        assert_eq!(
            (found.quantiles[0], found.quantiles[200], found.quantiles[QUANTILES]),
            (1.0, 55.0, 100.0)
        );
        assert_eq!(of(&[(5.0, 4)]).counts[0], 4, "equal samples have no width");
        assert_eq!(of(&[(0.0, 1), (2.0, 1)]).counts.iter().sum::<u64>(), 2, "nothing has no logarithm");
        assert!(of(&[]).quantiles.is_empty());
    }
}
