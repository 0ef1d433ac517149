//! The policy `random`.

use rand::RngExt;
use rand_pcg::Pcg64;

use super::{Candidate, Pick, RoutedRequest};

/// A worker drawn at random.
#[derive(Debug)]
pub(crate) struct Random {
    generator: Pcg64,
}

impl Random {
    pub(super) fn new(generator: Pcg64) -> Self {
        Self { generator }
    }
}

impl Pick for Random {
    fn pick(&mut self, _: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        self.generator.random_range(0..candidates.len() as u32) as usize
    }

    fn reads_workers(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::routing::tests::pick;

    fn picks(seed: u64, in_flight: &[u32]) -> Vec<u32> {
        let mut policy = Random::new(Pcg64::seed_from_u64(seed));
        (0..64).map(|_| pick(&mut policy, in_flight)).collect()
    }

    #[test]
    fn draws_depend_on_the_seed_alone_and_reach_every_worker() {
        assert_eq!(picks(7, &[0; 4]), picks(7, &[5, 0, 0, 0]));
        assert_ne!(picks(7, &[0; 4]), picks(8, &[0; 4]));
        assert!((0..4).all(|worker| picks(7, &[0; 4]).contains(&worker)));
    }
}
