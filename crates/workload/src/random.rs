//! Streams of random numbers of a workload.

use rand::SeedableRng;
use rand_pcg::Pcg64;
use servecast_types::Seed;

/// The generator that `purpose` has for itself under a root seed.
///
/// Every purpose draws from a stream of its own, so that one more draw for lengths does not move an arrival.
pub(crate) fn stream(seed: u64, purpose: &str) -> Pcg64 {
    Pcg64::seed_from_u64(Seed(seed).purpose(purpose).0)
}

/// A drawn time in milliseconds, rounded to whole microseconds.
///
/// The last bits of a logarithm differ between machines, and a workload must not.
pub(crate) fn rounded_ms(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn streams_are_fixed_and_differ_by_seed_and_purpose() {
        let first = |seed, purpose| stream(seed, purpose).next_u64();
        assert_eq!(first(42, "arrivals"), first(42, "arrivals"));
        assert_ne!(first(42, "arrivals"), first(43, "arrivals"));
        assert_ne!(first(42, "arrivals"), first(42, "lengths"));
    }
}
