//! The load model against plain lists, over random streams of bookings.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt;
use rand_pcg::Pcg64;
use servecast_router::{
    KvRouterConfig, PrefillLoadModel, PrefillModel, RankInfo, Router, RouterConfigOverride, RoutingRequest,
    Sizes,
};
use servecast_types::{Duration, Rank, RequestId, SequenceHash, Time, WorkerId};

use crate::support::{operations, random};

const RANKS: u32 = 3;
const BLOCK_SIZE: u32 = 4;

/// Some prompts have a prediction, and some of these take no time.
#[derive(Debug)]
struct Odd;

impl Odd {
    fn duration(tokens: u32) -> Option<Duration> {
        match tokens % 5 {
            0 => None,
            1 => Some(Duration::ZERO),
            _ => Some(Duration::from_ns(u64::from(tokens) * 7 + 3)),
        }
    }
}

impl PrefillModel for Odd {
    fn predict(&self, new_tokens: u32, _: u32) -> Option<Duration> {
        Self::duration(new_tokens)
    }
}

/// A request as a plain list of what it holds; blocks of its own have numbers that nobody else has.
struct Booked {
    rank: u32,
    blocks: Vec<u64>,
    isl: u32,
    output_blocks: u32,
    expected: Option<u32>,
    /// In 2⁻³².
    weight: u64,
}

struct Prefill {
    id: u32,
    tokens: u32,
    duration: Option<u64>,
    given: u64,
}

#[derive(Default)]
struct Model {
    requests: BTreeMap<u32, Booked>,
    prefills: BTreeMap<u32, Vec<Prefill>>,
    now: u64,
    private: u64,
}

impl Model {
    /// Time is given to the oldest prefill, then to the one behind it; what none can use is lost.
    fn pass(&mut self, time: u64) {
        self.now += time;
        for queue in self.prefills.values_mut() {
            let mut left = time;
            for prefill in queue {
                let Some(duration) = prefill.duration else { break };
                let given = left.min(duration - prefill.given);
                prefill.given += given;
                left -= given;
            }
        }
    }

    fn prefill_tokens(&self, rank: u32) -> u64 {
        let left = |prefill: &Prefill| match prefill.duration {
            None => u64::from(prefill.tokens),
            Some(0) => 0,
            Some(duration) => {
                u64::from(prefill.tokens) - u64::from(prefill.tokens) * prefill.given / duration
            }
        };
        let Some(queue) = self.prefills.get(&rank) else { return 0 };
        // Behind one that has no prediction or is under way nothing shrinks, not even what takes no time.
        let mut sum = 0;
        let mut whole = false;
        for prefill in queue {
            sum += if whole { u64::from(prefill.tokens) } else { left(prefill) };
            whole |= prefill.duration.is_none_or(|duration| prefill.given < duration);
        }
        sum
    }

    fn users(&self, rank: u32) -> BTreeMap<u64, Vec<u32>> {
        let mut users: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (&id, request) in self.requests.iter().filter(|(_, request)| request.rank == rank) {
            for &block in &request.blocks {
                users.entry(block).or_default().push(id);
            }
        }
        users
    }

    fn active_blocks(&self, rank: u32) -> u64 {
        let weights = self.users(rank).into_values().map(|users| match users[..] {
            [only] => u128::from(self.requests[&only].weight),
            _ => 1 << 32,
        });
        ((weights.sum::<u128>() + (1 << 31)) >> 32) as u64
    }

    fn shared(&self, rank: u32, blocks: &[u64]) -> u64 {
        let users = self.users(rank);
        blocks.iter().take_while(|block| users.contains_key(block)).count() as u64
    }

    fn end_prefill(&mut self, id: u32) {
        for queue in self.prefills.values_mut() {
            queue.retain(|prefill| prefill.id != id);
        }
    }
}

/// Numbers of a chain: each determines all before it.
fn chain(random: &mut Pcg64) -> Vec<u64> {
    let mut at = 0;
    (0..random.random_range(0..12))
        .map(|_| {
            let branches = if random.random_bool(0.2) { 3 } else { 1 };
            at = at * 3 + random.random_range(1..=branches);
            at
        })
        .collect()
}

struct Pair {
    router: Router,
    model: Model,
    next: u32,
}

impl Pair {
    fn new() -> Self {
        let config = KvRouterConfig {
            router_prefill_load_model: PrefillLoadModel::Aic,
            router_track_output_blocks: true,
            router_queue_threshold: None,
            ..KvRouterConfig::default()
        };
        let mut router =
            Router::new(config.validate().unwrap(), BLOCK_SIZE, 0).with_prefill_model(Arc::new(Odd));
        for worker in 0..RANKS {
            router.add_rank(Rank::of_worker(WorkerId(worker)), RankInfo::default(), Time::ZERO);
        }
        Self { router, model: Model::default(), next: 0 }
    }

    fn now(&self) -> Time {
        Time::from_ns(self.model.now)
    }

    fn step(&mut self, random: &mut Pcg64) {
        let some = self.model.requests.keys().copied().nth(random.random_range(0..12));
        match random.random_range(0..12) {
            0..3 if self.model.requests.len() < 12 => self.book(random),
            3..5 => self.model.pass(random.random_range(0..400)),
            5..7 => {
                let id = some.unwrap_or(u32::MAX);
                let outcome = self.router.prefill_done(RequestId(id), self.now());
                assert_eq!(outcome.is_ok(), some.is_some());
                self.model.end_prefill(id);
            }
            7..9 => {
                if let Some(id) = some {
                    self.output(id, random.random_range(0..40));
                }
            }
            9 if random.random_bool(0.01) => self.remove_rank(random.random_range(0..RANKS)),
            _ => {
                let id = some.unwrap_or(u32::MAX);
                assert!(self.router.finish(RequestId(id), self.now()).is_empty());
                self.model.requests.remove(&id);
                self.model.end_prefill(id);
            }
        }
    }

    fn book(&mut self, random: &mut Pcg64) {
        let chain = chain(random);
        let isl = chain.len() as u32 * BLOCK_SIZE + random.random_range(0..BLOCK_SIZE);
        let (reuse, track) = (random.random_bool(0.8), random.random_bool(0.8));
        let rank = random.random_range(0..RANKS);
        self.next += 1;
        let request = RoutingRequest {
            overrides: RouterConfigOverride {
                assume_kv_reuse: Some(reuse),
                track_prefill_tokens: Some(track),
                ..RouterConfigOverride::default()
            },
            expected_output_tokens: random.random_bool(0.5).then_some(30),
            ..RoutingRequest::new(
                RequestId(self.next),
                isl,
                chain.iter().map(|&block| SequenceHash(block)).collect::<Vec<_>>(),
            )
        };
        let expected = request.expected_output_tokens;
        self.check_projection(&request, &chain, reuse, track);
        let blocks = if reuse { chain } else { self.private(chain.len() as u32) };
        let admission = self.router.book(request, Rank::of_worker(WorkerId(rank)), self.now()).unwrap();
        assert_eq!(admission.ticket.prefill_tokens, if track { isl } else { 0 });
        let booked = Booked { rank, blocks, isl, output_blocks: 0, expected, weight: 1 << 32 };
        self.model.requests.insert(self.next, booked);
        if track && isl > 0 {
            let duration = Odd::duration(isl).map(Duration::as_ns);
            let prefill = Prefill { id: self.next, tokens: isl, duration, given: 0 };
            self.model.prefills.entry(rank).or_default().push(prefill);
        }
    }

    fn private(&mut self, count: u32) -> Vec<u64> {
        (0..count)
            .map(|_| {
                self.model.private += 1;
                1 << 60 | self.model.private
            })
            .collect()
    }

    fn output(&mut self, id: u32, generated: u32) {
        self.router.record_output(RequestId(id), generated, self.now()).unwrap();
        let request = &self.model.requests[&id];
        let begun = (request.isl + generated).div_ceil(BLOCK_SIZE) - request.isl.div_ceil(BLOCK_SIZE);
        let fresh = begun.saturating_sub(request.output_blocks);
        let blocks = self.private(fresh);
        let request = self.model.requests.get_mut(&id).unwrap();
        request.output_blocks += fresh;
        request.blocks.extend(blocks);
        if fresh > 0
            && let Some(expected) = request.expected
        {
            let left = u64::from(expected.saturating_sub(generated)) << 32;
            request.weight = (left + u64::from(expected) / 2) / u64::from(expected);
        }
    }

    fn remove_rank(&mut self, worker: u32) {
        let gone: Vec<u32> = self
            .model
            .requests
            .iter()
            .filter(|(_, request)| request.rank == worker)
            .map(|(&id, _)| id)
            .collect();
        let removed = self.router.remove_rank(Rank::of_worker(WorkerId(worker)), self.now());
        assert_eq!(removed.forgotten.iter().map(|id| id.0).collect::<Vec<_>>(), gone);
        self.router.add_rank(Rank::of_worker(WorkerId(worker)), RankInfo::default(), self.now());
        self.model.requests.retain(|_, request| request.rank != worker);
        self.model.prefills.remove(&worker);
    }

    fn check_projection(&self, request: &RoutingRequest, chain: &[u64], reuse: bool, track: bool) {
        let loads = self.router.potential_loads(request.clone(), self.now()).unwrap();
        for load in loads {
            let rank = load.rank.worker.0;
            let shared = if reuse { self.model.shared(rank, chain) } else { 0 };
            assert_eq!(load.decode_blocks, self.model.active_blocks(rank) + chain.len() as u64 - shared);
            let prompt = if track { u64::from(request.isl_tokens) } else { 0 };
            assert_eq!(load.prefill_tokens, self.model.prefill_tokens(rank) + prompt);
        }
    }

    fn check(&self) {
        for worker in 0..RANKS {
            let rank = Rank::of_worker(WorkerId(worker));
            assert_eq!(self.router.active_blocks(rank), Some(self.model.active_blocks(worker)), "{rank}");
            let tokens = self.router.prefill_tokens(rank, self.now());
            assert_eq!(tokens, Some(self.model.prefill_tokens(worker)), "{rank}");
        }
    }
}

#[test]
fn random_bookings_weigh_what_plain_lists_say() {
    let total = operations();
    let rounds = 20;
    for seed in 0..rounds {
        let mut random = random(seed);
        let mut pair = Pair::new();
        for _ in 0..total / rounds as u32 {
            pair.step(&mut random);
            pair.check();
        }
        let left: Vec<u32> = pair.model.requests.keys().copied().collect();
        for id in left {
            pair.router.finish(RequestId(id), pair.now());
        }
        assert_eq!(pair.router.sizes(), Sizes::default(), "seed {seed}");
    }
}
