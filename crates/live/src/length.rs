//! How long answers are for which clients set no limit, or all that may end by themselves.

use rand::RngExt;
use rand::SeedableRng;
use rand_distr::{Distribution, LogNormal};
use rand_pcg::Pcg64;

/// The tokens of answers that end by themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutputLength {
    /// Their number, on average.
    pub tokens: u32,
    /// How it varies.
    pub law: LengthLaw,
}

/// How a length varies from answer to answer. Drawn lengths are rounded and at least 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LengthLaw {
    /// It does not; and only answers for which a client sets no limit end by themselves.
    Constant,
    /// From mean × (1 − spread) to mean × (1 + spread), evenly; the spread is above 0 and at most 1.
    Uniform(f64),
    /// Log-normal, with standard deviation over mean, which is above 0.
    Lognormal(f64),
}

impl OutputLength {
    /// Whether an answer ends by itself although the client said how long it may be at most.
    pub(crate) fn is_drawn(self) -> bool {
        self.law != LengthLaw::Constant
    }

    /// The length of the answer with these random numbers.
    pub(crate) fn draw(self, seed: u64) -> u32 {
        let mean = f64::from(self.tokens);
        // Its own stream: what answers say has the same seed.
        let mut rng = Pcg64::seed_from_u64(seed ^ 0x6c65_6e67_7468);
        let length = match self.law {
            LengthLaw::Constant => return self.tokens,
            LengthLaw::Uniform(spread) => rng.random_range(mean * (1.0 - spread)..=mean * (1.0 + spread)),
            LengthLaw::Lognormal(spread) => match LogNormal::from_mean_cv(mean, spread) {
                Ok(law) => law.sample(&mut rng),
                // No spread that the law has.
                Err(_) => mean,
            },
        };
        // A cast saturates.
        (length.round() as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_lengths_have_the_mean_and_the_spread_asked_for() {
        for (law, spread) in [(LengthLaw::Uniform(0.5), 0.5 / 3_f64.sqrt()), (LengthLaw::Lognormal(0.4), 0.4)]
        {
            let length = OutputLength { tokens: 200, law };
            let drawn: Vec<f64> = (0..20_000).map(|seed| length.draw(seed).into()).collect();
            let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
            let variance = drawn.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
            assert!((mean / 200.0 - 1.0).abs() < 0.02, "{mean}");
            assert!((variance.sqrt() / mean / spread - 1.0).abs() < 0.03, "{law:?} {variance}");
        }
        assert_eq!(OutputLength { tokens: 7, law: LengthLaw::Constant }.draw(3), 7);
    }
}
