//! Arrivals of `vllm bench serve`.

use rand_distr::{Distribution, Gamma};

use crate::random::{rounded_ms, stream};

/// When requests of `vllm bench serve` are sent, in ms: the first at 0, then after gaps of a gamma distribution with the shape
/// `burstiness` (1 is a Poisson process, more is more regular) and the mean 1,000 / `requests_per_s`.
///
/// `None` if one of the two is no number above 0. An infinite rate sends all at once.
pub fn bench_arrivals_ms(
    requests_per_s: f64,
    burstiness: f64,
    requests: usize,
    seed: u64,
) -> Option<Vec<f64>> {
    if requests_per_s == f64::INFINITY {
        return Some(vec![0.0; requests]);
    }
    let is_above_0 = |number: f64| number.is_finite() && number > 0.0;
    if !(is_above_0(requests_per_s) && is_above_0(burstiness)) {
        return None;
    }
    let gaps = Gamma::new(burstiness, 1000.0 / (requests_per_s * burstiness)).ok()?;
    let mut random = stream(seed, "bench_arrivals");
    let mut now = 0.0;
    let arrivals = (0..requests).map(|_| {
        let arrival = rounded_ms(now);
        now += gaps.sample(&mut random);
        arrival
    });
    Some(arrivals.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burstiness_is_how_regular_gaps_are() {
        let spread = |burstiness| {
            let arrivals = bench_arrivals_ms(4.0, burstiness, 4001, 1).unwrap();
            let gaps: Vec<f64> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((mean / 250.0 - 1.0).abs() < 0.05, "{mean}");
            variance.sqrt() / mean
        };
        assert!((spread(1.0) - 1.0).abs() < 0.1 && (spread(100.0) - 0.1).abs() < 0.01);
        assert_eq!(bench_arrivals_ms(f64::INFINITY, 1.0, 2, 1), Some(vec![0.0, 0.0]));
        assert_eq!(bench_arrivals_ms(0.0, 1.0, 2, 1), None);
    }
}
