//! Which drafts are accepted.

use servecast_types::RequestId;

const MILLION: u32 = 1_000_000;

/// Which drafts are accepted: a pure function of the request and of how often it was verified before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acceptance {
    seed: u64,
    /// Millionths by position: how often that draft is accepted if all before it were.
    rates: Box<[u32]>,
}

impl Acceptance {
    /// `rates`: how often each draft is accepted if all before it were, from 0 to 1; one for each that may be proposed.
    pub(super) fn new(seed: u64, rates: &[f64]) -> Self {
        let millionths = |rate: &f64| (rate * f64::from(MILLION)).round() as u32;
        Self { seed, rates: rates.iter().map(millionths).collect() }
    }

    /// How many of `drafts` are accepted in verification `number` of a request, counted from 0.
    ///
    /// # Source
    /// The generator of the recordings of the real schedulers, so that these are reproduced: `SplitMix64` of seed, request,
    /// verification and position.
    pub(crate) fn accepted(&self, request: RequestId, number: u32, drafts: u32) -> u32 {
        let first = self.seed.wrapping_add(u64::from(request.0) << 32).wrapping_add(u64::from(number) << 8);
        let is_accepted = |&(position, rate): &(u64, u32)| {
            split_mix(first.wrapping_add(position)) % u64::from(MILLION) < u64::from(rate)
        };
        let rates = self.rates.iter().copied();
        (0..).zip(rates).take(drafts as usize).take_while(is_accepted).count() as u32
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
fn split_mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// How often each draft is accepted if all before it were, from how often all drafts up to each are.
pub(super) fn conditional(rates: &[f64]) -> Vec<f64> {
    let before = std::iter::once(1.0).chain(rates.iter().copied());
    let share = |(before, &rate): (f64, &f64)| if before == 0.0 { 0.0 } else { rate / before };
    before.zip(rates).map(share).collect()
}

/// Rates of `drafts` drafts, each of which is accepted equally often if all before it were, so that a verification gives
/// `length` tokens in the mean, the model's own among them.
pub(super) fn with_mean_length(length: f64, drafts: u32) -> Vec<f64> {
    let mean = |rate: f64| (0..drafts).fold(1.0, |sum, _| 1.0 + rate * sum);
    let (mut low, mut high) = (0.0, 1.0);
    // Halved until no number lies between: the mean grows with the rate.
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if mean(middle) < length {
            low = middle;
        } else {
            high = middle;
        }
    }
    vec![high; drafts as usize]
}

/// Rates as vLLM's `synthetic_acceptance_length` has them, which vary as little as they can: the first drafts are always
/// accepted, the next one sometimes, the others never.
pub(super) fn with_least_variance(length: f64, drafts: u32) -> Vec<f64> {
    (1..=drafts).map(|position| (length - f64::from(position)).clamp(0.0, 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_are_accepted_up_to_the_first_that_is_not() {
        let acceptance = Acceptance::new(7, &[0.8, 0.6, 0.4]);
        let of = |request, number| acceptance.accepted(RequestId(request), number, 3);
        // Recording 62 of vLLM: what became of the drafts of its first request.
        assert_eq!([0, 1, 2, 3, 4, 5].map(|number| of(0, number)), [3, 1, 0, 3, 1, 2]);
        for number in 0..100 {
            let all = of(5, number);
            assert_eq!(acceptance.accepted(RequestId(5), number, 1), all.min(1), "fewer drafts, same luck");
        }
    }

    #[test]
    fn drafts_are_accepted_as_often_as_asked_for() {
        let check = |rates: &[f64], expected: f64| {
            let acceptance = Acceptance::new(0, rates);
            let accepted =
                (0..100_000).map(|number| acceptance.accepted(RequestId(3), number, rates.len() as u32));
            let mean = accepted.map(f64::from).sum::<f64>() / 1e5;
            assert!((mean - expected).abs() < 0.01, "{mean} instead of {expected}");
        };
        check(&conditional(&[0.67, 0.42, 0.26]), 0.67 + 0.42 + 0.26);
        check(&conditional(&[0.5, 0.0, 0.0]), 0.5);
        check(&[1.0; 5], 5.0);
        check(&with_mean_length(2.35, 3), 1.35);
        check(&with_mean_length(1.0, 3), 0.0);
        check(&with_mean_length(4.0, 3), 3.0);
        check(&with_least_variance(2.35, 3), 1.35);
    }

    #[test]
    fn least_variance_accepts_from_the_front() {
        let rates = with_least_variance(2.25, 3);
        assert_eq!(rates, [1.0, 0.25, 0.0]);
    }
}
