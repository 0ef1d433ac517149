use rand::SeedableRng;
use rand_pcg::Pcg64;

/// The generator that `purpose` has for itself under a root seed.
///
/// Every purpose draws from a stream of its own, so that one more draw for lengths does not move an arrival.
pub(crate) fn stream(seed: u64, purpose: &str) -> Pcg64 {
    // FNV-1a over purpose and seed. It must never change: the numbers of every seed would.
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = purpose.bytes().chain(seed.to_le_bytes());
    Pcg64::seed_from_u64(bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
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
