//! Which worker of a pool gets a request: one policy a file.

mod affinity;
mod kv_router;
mod least_loaded;
mod power_of_two;
mod prefix_hash;
mod random;
mod reports;
mod round_robin;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_engine::EngineRequest;
use servecast_router::KvRouterConfig;
use servecast_types::{ClassId, ContentNames, Duration, Prompt, RequestId, Seed, Time, WorkerId};

pub(crate) use affinity::SessionAffinity;
pub use kv_router::CandidateLoad;
pub use kv_router::KvRouterOptions;
pub(crate) use kv_router::KvRouting;
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
    /// The worker with the fewest requests in flight for its capacity; of equals, one drawn at random.
    LeastLoaded,
    /// The one with fewer requests in flight for its capacity of two workers drawn at random.
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
    /// For how long a request of a session goes to the worker that had the one before, whatever the mode; where prompts are
    /// computed alone.
    pub session_affinity: Option<Duration>,
}

impl Default for RouterOptions {
    fn default() -> Self {
        let settings = KvRouterConfig::default().validate().expect("the default settings hold together");
        Self {
            mode: RouterMode::default(),
            prefix_hash_blocks: DEFAULT_PREFIX_HASH_BLOCKS,
            kv: KvRouterOptions { settings, event_delay: Duration::ZERO },
            session_affinity: None,
        }
    }
}

/// A worker that a request may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its number within its pool, which no other worker gets.
    pub worker: WorkerId,
    /// Requests that it has.
    pub in_flight: u32,
    /// KV blocks that it has for them; blocks are of one size in a pool.
    pub capacity: u32,
}

impl Candidate {
    /// A worker without requests.
    pub(crate) fn new(worker: WorkerId, capacity: u32) -> Self {
        Self { worker, in_flight: 0, capacity }
    }

    /// Which of two has fewer requests for its capacity. Of equal workers, that is who has fewer.
    pub fn cmp_load(&self, other: &Self) -> Ordering {
        let product = |one: &Self, other: &Self| u64::from(one.in_flight) * u64::from(other.capacity);
        product(self, other).cmp(&product(other, self))
    }
}

/// What a policy may know of a request.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RoutedRequest<'a> {
    /// Its content.
    pub prompt: &'a Prompt,
    /// Its id.
    pub id: RequestId,
    /// When it is routed.
    pub now: Time,
    /// When it came to the deployment.
    pub arrival: Time,
    /// Most tokens that it generates; 1 in a prefill pool.
    pub max_tokens: u32,
    /// Its priority in the load.
    pub priority: i32,
    /// The number of its session, where it has one.
    pub session: Option<u32>,
    /// Its class, where the load tells classes apart.
    pub class: Option<ClassId>,
    /// Number of its LoRA adapter.
    pub lora: Option<u32>,
    /// What each candidate has to do and has cached, in their order; empty unless the policy
    /// [reads that](Pick::reads_loads).
    pub loads: &'a [CandidateLoad],
}

impl<'a> RoutedRequest<'a> {
    /// A request for one token of which nothing is known but its prompt, for tests of a policy.
    pub fn of(prompt: &'a Prompt) -> Self {
        let (now, arrival) = (Time::ZERO, Time::ZERO);
        let (class, lora, loads) = (None, None, &[][..]);
        Self {
            prompt,
            id: RequestId(0),
            now,
            arrival,
            max_tokens: 1,
            priority: 0,
            session: None,
            class,
            lora,
            loads,
        }
    }

    pub(crate) fn new(request: &'a EngineRequest, now: Time, loads: &'a [CandidateLoad]) -> Self {
        let &EngineRequest { ref prompt, id, arrival, max_tokens, priority, class, lora, .. } = request;
        let session = request.routing_key;
        Self { prompt, id, now, arrival, max_tokens, priority, session, class, lora, loads }
    }
}

/// A routing policy: it picks a worker for each request, at once.
///
/// It is called in the order in which requests are routed, which is that of simulated time. The same calls give the same
/// picks: whoever draws at random does so from a seed of its own. It shows what a router could know, never how long an output
/// will be.
pub trait Pick: fmt::Debug + Send {
    /// The position among `candidates` of the worker for the next request. Candidates are in order of their numbers, and
    /// there is one at least; who does not [serve](crate::WorkerState::Serving) is none, and of workers that differ only
    /// those are that can serve the request.
    fn pick(&mut self, request: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize;

    /// Other workers serve than before; called before the first pick, too. There may be none, which then is not asked for
    /// a pick.
    fn workers_changed(&mut self, _workers: &[Candidate]) {}

    /// Whether it looks at what candidates have to do. Workers behind one that does not [lag](crate::Cluster) more, which
    /// costs less.
    fn reads_workers(&self) -> bool {
        true
    }

    /// Whether it wants to know what candidates have to do and have cached ([`RoutedRequest::loads`]). The pool then has what
    /// a KV-aware router has, an index of cached blocks fed by KV events and a model of the load, which costs as much as one.
    /// Asked once, when the policy is put in front of its pool.
    fn reads_loads(&self) -> bool {
        false
    }

    /// Says what the content of prompts is called, for a policy whose picks depend on content and not only on what is
    /// equal.
    fn name_contents(&mut self, _names: &Arc<ContentNames>) {}
}

/// Where a worker is among candidates, if it is one: mostly all workers are, and at the position of their number.
pub(crate) fn position(candidates: &[Candidate], worker: WorkerId) -> Option<usize> {
    match candidates.get(worker.index()) {
        Some(candidate) if candidate.worker == worker => Some(worker.index()),
        _ => candidates.binary_search_by_key(&worker, |candidate| candidate.worker).ok(),
    }
}

/// The policy of a mode, for workers of `block_size` tokens a block.
///
/// # Panics
/// If the mode is `kv_router`, which does more than pick workers.
pub(crate) fn policy(options: &RouterOptions, block_size: u32, seed: Seed) -> Box<dyn Pick> {
    let generator = || Pcg64::seed_from_u64(seed.0);
    match options.mode {
        RouterMode::RoundRobin => Box::new(RoundRobin::default()),
        RouterMode::Random => Box::new(Random::new(generator())),
        RouterMode::LeastLoaded => Box::new(LeastLoaded::new(generator())),
        RouterMode::PowerOfTwo => Box::new(PowerOfTwo::new(generator())),
        RouterMode::PrefixHash => {
            let fallback = LeastLoaded::new(generator());
            Box::new(PrefixHash::new(options.prefix_hash_blocks, block_size, fallback))
        }
        RouterMode::KvRouter => unreachable!("the KV router is set up by its pool"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks by χ² that `workers` were picked equally often, and nobody else.
    ///
    /// Even draws pass with a probability of 99.9 %; a test draws from a fixed seed, so it passes always or never.
    pub(super) fn assert_even(picks: &[u32], workers: &[u32]) {
        // The 99.9 % quantiles of χ² with 1, 2, … degrees of freedom.
        const LIMITS: [f64; 7] = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32];
        let count = |worker| picks.iter().filter(|&&pick| pick == worker).count();
        let counts: Vec<usize> = workers.iter().map(|&worker| count(worker)).collect();
        assert_eq!(counts.iter().sum::<usize>(), picks.len(), "only of {workers:?}");
        let expected = picks.len() as f64 / workers.len() as f64;
        let deviation: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        assert!(deviation < LIMITS[workers.len() - 2], "χ² of {counts:?} is {deviation:.1}");
    }

    /// Workers 0, 1, … with so many requests each.
    pub(super) fn candidates(in_flight: &[u32]) -> Vec<Candidate> {
        let candidate =
            |(worker, &in_flight)| Candidate { worker: WorkerId(worker), in_flight, capacity: 100 };
        (0..).zip(in_flight).map(candidate).collect()
    }

    /// Which of workers with so many requests each a policy picks for a prompt that it does not look at.
    pub(super) fn pick(policy: &mut impl Pick, in_flight: &[u32]) -> u32 {
        policy.pick(&RoutedRequest::of(&Prompt::default()), &candidates(in_flight)) as u32
    }

    fn picks(mode: RouterMode, prompt: &Prompt, in_flight: &[u32]) -> Vec<u32> {
        let options = RouterOptions { mode, ..RouterOptions::default() };
        let mut policy = policy(&options, 16, Seed(3));
        let candidates = candidates(in_flight);
        policy.workers_changed(&candidates);
        (0..8_000).map(|_| policy.pick(&RoutedRequest::of(prompt), &candidates) as u32).collect()
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
                let named = picks.iter().map(|&pick| (pick as usize + rotation) % loads.len());
                let idle: Vec<u32> =
                    named.filter(|&worker| loads[worker] == 0).map(|worker| worker as u32).collect();
                assert_even(&idle, &[1, 3]);
                let share = idle.len() as f64 / picks.len() as f64;
                // Of two workers drawn of five, at least one is idle in 7 of 10 cases.
                let expected = if mode == RouterMode::PowerOfTwo { 0.7 } else { 1.0 };
                assert!((share - expected).abs() < 0.02, "{mode:?} rotated by {rotation}: {share}");
            }
        }
    }
}
