//! The policy `least_loaded`.

use rand::RngExt;
use rand_pcg::Pcg64;

use super::{Candidate, Pick, RoutedRequest};

/// The worker with the fewest requests in flight for its capacity; of equals, one drawn at random.
///
/// The first of equals would get every request of a deployment that is never busy, and the cache of one worker would
/// serve them all.
#[derive(Debug)]
pub(crate) struct LeastLoaded {
    generator: Pcg64,
}

impl LeastLoaded {
    pub(super) fn new(generator: Pcg64) -> Self {
        Self { generator }
    }
}

impl Pick for LeastLoaded {
    fn pick(&mut self, _: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        let Some(least) = candidates.iter().min_by(|one, other| one.cmp_load(other)) else { return 0 };
        let is_tied = |candidate: &Candidate| candidate.cmp_load(least).is_eq();
        let ties = candidates.iter().filter(|candidate| is_tied(candidate)).count();
        let nth = if ties > 1 { self.generator.random_range(0..ties) } else { 0 };
        let mut tied = candidates.iter().enumerate().filter(|(_, candidate)| is_tied(candidate));
        tied.nth(nth).map_or(0, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use servecast_types::Prompt;

    use super::*;
    use crate::routing::tests::{assert_even, candidates, pick};

    fn policy(seed: u64) -> LeastLoaded {
        LeastLoaded::new(Pcg64::seed_from_u64(seed))
    }

    #[test]
    fn the_worker_with_the_fewest_requests_is_picked() {
        assert_eq!(pick(&mut policy(0), &[3, 2, 1, 2]), 2);
        assert_eq!(pick(&mut policy(0), &[0]), 0);
    }

    #[test]
    fn a_worker_of_twice_the_capacity_has_twice_the_requests() {
        let with = |in_flight: [u32; 2]| {
            let mut candidates = candidates(&in_flight);
            candidates[1].capacity = 200;
            policy(0).pick(&RoutedRequest::of(&Prompt::default()), &candidates)
        };
        assert_eq!([[1, 1], [2, 3], [2, 5], [1, 3]].map(with), [1, 1, 0, 0]);
    }

    #[test]
    fn those_with_the_fewest_requests_are_picked_equally_often() {
        let mut policy = policy(1);
        let picks: Vec<u32> = (0..4_000).map(|_| pick(&mut policy, &[1, 3, 1, 1, 2, 1])).collect();
        assert_even(&picks, &[0, 2, 3, 5]);
    }

    #[test]
    fn draws_depend_on_the_seed_alone() {
        let picks = |seed| {
            let mut policy = policy(seed);
            (0..64).map(|_| pick(&mut policy, &[0; 4])).collect::<Vec<_>>()
        };
        assert_eq!(picks(7), picks(7));
        assert_ne!(picks(7), picks(8));
    }
}
