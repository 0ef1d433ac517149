//! Which worker of a pool gets a request: one policy a file.

mod kv_router;
mod least_loaded;
mod power_of_two;
mod prefix_hash;
mod random;
mod reports;
mod round_robin;

use std::sync::Arc;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_router::KvRouterConfig;
use servecast_types::{ContentNames, Duration, Prompt, WorkerId};

pub use kv_router::KvRouterOptions;
pub(crate) use kv_router::{KvPool, KvRouting};
use least_loaded::LeastLoaded;
use power_of_two::PowerOfTwo;
use prefix_hash::PrefixHash;
use random::Random;
use round_robin::RoundRobin;

/// Blocks that `prefix_hash` looks at, unless somebody says otherwise.
pub const DEFAULT_PREFIX_HASH_BLOCKS: u32 = 16;

/// A routing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouterMode {
    /// Workers in turn.
    #[default]
    RoundRobin,
    /// A worker drawn at random.
    Random,
    /// The worker with the fewest requests in flight; of equals, one drawn at random.
    LeastLoaded,
    /// The one with fewer requests in flight of two workers drawn at random.
    PowerOfTwo,
    /// Prompts that begin alike on one worker, as long as it has little more to do than the others.
    PrefixHash,
    /// By what workers have cached and how loaded they are.
    KvRouter,
}

/// A routing policy with what it needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterOptions {
    /// The policy.
    pub mode: RouterMode,
    /// How many blocks of a prompt `prefix_hash` goes by.
    pub prefix_hash_blocks: u32,
    /// How `kv_router` is set up.
    pub kv: KvRouterOptions,
}

impl Default for RouterOptions {
    fn default() -> Self {
        let settings = KvRouterConfig::default().validate().expect("the default settings hold together");
        Self {
            mode: RouterMode::default(),
            prefix_hash_blocks: DEFAULT_PREFIX_HASH_BLOCKS,
            kv: KvRouterOptions { settings, event_delay: Duration::ZERO },
        }
    }
}

/// A policy at work, in front of one pool.
#[derive(Debug)]
pub(crate) enum Policy {
    RoundRobin(RoundRobin),
    Random(Random),
    LeastLoaded(LeastLoaded),
    PowerOfTwo(PowerOfTwo),
    PrefixHash(PrefixHash),
}

impl Policy {
    /// A policy for `workers` workers of `block_size` tokens a block.
    ///
    /// # Panics
    /// If the mode is `kv_router`, which does more than pick workers.
    pub(crate) fn new(options: &RouterOptions, workers: usize, block_size: u32, seed: u64) -> Self {
        let generator = || Pcg64::seed_from_u64(seed);
        match options.mode {
            RouterMode::RoundRobin => Self::RoundRobin(RoundRobin::default()),
            RouterMode::Random => Self::Random(Random::new(generator())),
            RouterMode::LeastLoaded => Self::LeastLoaded(LeastLoaded::new(generator())),
            RouterMode::PowerOfTwo => Self::PowerOfTwo(PowerOfTwo::new(generator())),
            RouterMode::PrefixHash => {
                let fallback = LeastLoaded::new(generator());
                Self::PrefixHash(PrefixHash::new(workers, options.prefix_hash_blocks, block_size, fallback))
            }
            RouterMode::KvRouter => unreachable!("the KV router is set up by its pool"),
        }
    }

    /// Says what the content of prompts is called, for those that go by it.
    pub(crate) fn name_contents(&mut self, names: &Arc<ContentNames>) {
        if let Self::PrefixHash(policy) = self {
            policy.name_contents(Arc::clone(names));
        }
    }

    /// Whether it picks without looking at what workers have to do.
    pub(crate) fn is_blind(&self) -> bool {
        matches!(self, Self::RoundRobin(_) | Self::Random(_))
    }

    /// The worker for the next request; `in_flight` has the number of requests of each.
    pub(crate) fn pick(&mut self, prompt: &Prompt, in_flight: &[u32]) -> WorkerId {
        match self {
            Self::RoundRobin(policy) => policy.pick(in_flight),
            Self::Random(policy) => policy.pick(in_flight),
            Self::LeastLoaded(policy) => policy.pick(in_flight),
            Self::PowerOfTwo(policy) => policy.pick(in_flight),
            Self::PrefixHash(policy) => policy.pick(prompt, in_flight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks by χ² that `workers` were picked equally often, and nobody else.
    ///
    /// Even draws pass with a probability of 99.9 %; a test draws from a fixed seed, so it passes always or never.
    pub(super) fn assert_even(picks: &[WorkerId], workers: &[u32]) {
        // The 99.9 % quantiles of χ² with 1, 2, … degrees of freedom.
        const LIMITS: [f64; 7] = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32];
        let count = |worker| picks.iter().filter(|&&pick| pick == WorkerId(worker)).count();
        let counts: Vec<usize> = workers.iter().map(|&worker| count(worker)).collect();
        assert_eq!(counts.iter().sum::<usize>(), picks.len(), "only of {workers:?}");
        let expected = picks.len() as f64 / workers.len() as f64;
        let deviation: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        assert!(deviation < LIMITS[workers.len() - 2], "χ² of {counts:?} is {deviation:.1}");
    }

    fn picks(mode: RouterMode, prompt: &Prompt, in_flight: &[u32]) -> Vec<WorkerId> {
        let options = RouterOptions { mode, ..RouterOptions::default() };
        let mut policy = Policy::new(&options, in_flight.len(), 16, 3);
        (0..8_000).map(|_| policy.pick(prompt, in_flight)).collect()
    }

    #[test]
    fn no_policy_prefers_one_of_equally_loaded_workers() {
        let short = Prompt::new([servecast_types::Run::tokens(5, 15)]);
        for mode in [
            RouterMode::RoundRobin,
            RouterMode::Random,
            RouterMode::LeastLoaded,
            RouterMode::PowerOfTwo,
            RouterMode::PrefixHash,
        ] {
            for workers in 2..=8 {
                let all: Vec<u32> = (0..workers).collect();
                assert_even(&picks(mode, &short, &vec![2; workers as usize]), &all);
            }
        }
    }

    /// What a worker is called does not change how often it is picked.
    #[test]
    fn picks_go_by_load_and_not_by_the_order_of_workers() {
        let short = Prompt::new([servecast_types::Run::tokens(5, 15)]);
        for mode in [RouterMode::LeastLoaded, RouterMode::PowerOfTwo, RouterMode::PrefixHash] {
            let loads = [4, 0, 2, 0, 7];
            for rotation in 0..loads.len() {
                let mut rotated = loads;
                rotated.rotate_left(rotation);
                let picks = picks(mode, &short, &rotated);
                // Back to the names that workers have without the rotation; the two idle ones are alike.
                let named = picks.iter().map(|pick| (pick.0 as usize + rotation) % loads.len());
                let idle: Vec<WorkerId> = named
                    .filter(|&worker| loads[worker] == 0)
                    .map(|worker| WorkerId(worker as u32))
                    .collect();
                assert_even(&idle, &[1, 3]);
                let share = idle.len() as f64 / picks.len() as f64;
                // Of two workers drawn of five, at least one is idle in 7 of 10 cases.
                let expected = if mode == RouterMode::PowerOfTwo { 0.7 } else { 1.0 };
                assert!((share - expected).abs() < 0.02, "{mode:?} rotated by {rotation}: {share}");
            }
        }
    }
}
