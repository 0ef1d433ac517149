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
    /// The worker with the fewest requests in flight.
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
    LeastLoaded,
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
            RouterMode::LeastLoaded => Self::LeastLoaded,
            RouterMode::PowerOfTwo => Self::PowerOfTwo(PowerOfTwo::new(generator())),
            RouterMode::PrefixHash => {
                Self::PrefixHash(PrefixHash::new(workers, options.prefix_hash_blocks, block_size))
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
            Self::LeastLoaded => least_loaded::pick(in_flight),
            Self::PowerOfTwo(policy) => policy.pick(in_flight),
            Self::PrefixHash(policy) => policy.pick(prompt, in_flight),
        }
    }
}
