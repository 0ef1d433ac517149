//! The policy `power_of_two`.

use rand::RngExt;
use rand_pcg::Pcg64;

use super::{Candidate, Pick, RoutedRequest};

/// The one with fewer requests in flight for its capacity of two workers drawn at random; the first drawn of equals.
///
/// Mitzenmacher, "The power of two choices in randomized load balancing" (2001).
#[derive(Debug)]
pub(crate) struct PowerOfTwo {
    generator: Pcg64,
}

impl PowerOfTwo {
    pub(super) fn new(generator: Pcg64) -> Self {
        Self { generator }
    }
}

impl Pick for PowerOfTwo {
    fn pick(&mut self, _: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        let workers = candidates.len() as u32;
        let first = self.generator.random_range(0..workers);
        if workers == 1 {
            return first as usize;
        }
        // A draw among the others: those from `first` on are one further.
        let draw = self.generator.random_range(0..workers - 1);
        let second = draw + u32::from(draw >= first);
        let [first, second] = [first, second].map(|index| index as usize);
        if candidates[second].cmp_load(&candidates[first]).is_lt() { second } else { first }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::routing::tests::pick;

    fn picks(in_flight: &[u32]) -> Vec<u32> {
        let mut policy = PowerOfTwo::new(Pcg64::seed_from_u64(7));
        (0..200).map(|_| pick(&mut policy, in_flight)).collect()
    }

    #[test]
    fn of_two_workers_the_less_loaded_one_is_picked() {
        assert!(picks(&[5, 1]).iter().all(|&worker| worker == 1));
    }

    #[test]
    fn the_most_loaded_worker_of_many_is_never_picked_and_all_others_are() {
        let picks = picks(&[1, 9, 1, 1]);
        assert!(!picks.contains(&1));
        assert!([0, 2, 3].iter().all(|worker| picks.contains(worker)));
    }

    #[test]
    fn one_worker_is_no_choice() {
        assert!(picks(&[4]).iter().all(|&worker| worker == 0));
    }
}
