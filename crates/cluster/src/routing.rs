//! Which worker of a pool gets a request.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::WorkerId;

/// A routing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouterMode {
    /// Workers in turn.
    #[default]
    RoundRobin,
    /// A worker drawn at random, from a seeded generator.
    Random,
    /// The worker with the fewest requests in flight; the first of equals.
    LeastLoaded,
}

/// Picks workers for one pool.
#[derive(Debug)]
pub(crate) struct Router {
    mode: RouterMode,
    next: usize,
    random: Pcg64,
}

impl Router {
    /// A router of its own random stream: `pool` keeps those of different pools apart.
    pub(crate) fn new(mode: RouterMode, seed: u64, pool: u64) -> Self {
        Self {
            mode,
            next: 0,
            random: Pcg64::seed_from_u64(seed ^ (pool + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        }
    }

    /// The worker for the next request; `in_flight` has the number of requests of each.
    pub(crate) fn pick(&mut self, in_flight: &[u32]) -> WorkerId {
        let worker = match self.mode {
            RouterMode::RoundRobin => {
                let worker = self.next % in_flight.len();
                self.next = worker + 1;
                worker
            }
            RouterMode::Random => self.random.random_range(0..in_flight.len()),
            RouterMode::LeastLoaded => {
                (0..in_flight.len()).min_by_key(|&worker| in_flight[worker]).unwrap_or(0)
            }
        };
        WorkerId(worker as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(mode: RouterMode, seed: u64, in_flight: &[u32], n: usize) -> Vec<u32> {
        let mut router = Router::new(mode, seed, 0);
        (0..n).map(|_| router.pick(in_flight).0).collect()
    }

    #[test]
    fn round_robin_takes_workers_in_turn() {
        assert_eq!(picks(RouterMode::RoundRobin, 0, &[9, 0, 0], 5), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn the_least_loaded_worker_is_the_first_of_those_with_fewest_requests() {
        assert_eq!(picks(RouterMode::LeastLoaded, 0, &[3, 1, 1, 2], 2), [1, 1]);
    }

    #[test]
    fn random_picks_depend_on_the_seed_alone_and_reach_every_worker() {
        let first = picks(RouterMode::Random, 7, &[0; 4], 64);
        assert_eq!(first, picks(RouterMode::Random, 7, &[5, 0, 0, 0], 64));
        assert_ne!(first, picks(RouterMode::Random, 8, &[0; 4], 64));
        assert!((0..4).all(|worker| first.contains(&worker)));
    }
}
