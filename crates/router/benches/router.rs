//! Look-ups, events and whole decisions: `cargo bench -p servecast-router`.
//!
//! Every rank has four prompts of its own in its cache and eight requests running. All prompts share their first tenth,
//! which every rank has cached. `chain` is the yardstick: dependent look-ups in a bare hash map with as many entries as
//! the index of `decision` over 16 ranks.

use std::sync::Arc;

use divan::Bencher;
use rustc_hash::FxHashMap;
use servecast_router::{Decision, KvRouterConfig, RankInfo, Router, RoutingRequest};
use servecast_types::{KvEvent, Rank, RequestId, SequenceHash, Time, WorkerId};

const RANKS: [u32; 4] = [1, 16, 256, 1_024];
const BLOCKS: [usize; 3] = [10, 250, 2_000];
const BLOCK_SIZE: u32 = 16;
const PROMPTS_PER_RANK: u32 = 4;
const RUNNING_PER_RANK: u32 = 8;
/// Keeps the largest index below a gigabyte.
const MOST_BLOCKS: usize = 4_000_000;

fn main() {
    divan::main();
}

/// How many leading blocks of a prompt each rank has cached.
#[divan::bench(args = RANKS, consts = BLOCKS)]
fn look_up<const N: usize>(bencher: Bencher, ranks: u32) {
    let mut load = Load::new(ranks, N);
    bencher.bench_local(|| {
        let request = load.next_request();
        load.router.overlaps(&request)
    });
}

/// A prompt is stored, and removed again from its end, a block at a time.
#[divan::bench(args = RANKS, consts = BLOCKS)]
fn apply<const N: usize>(bencher: Bencher, ranks: u32) {
    let mut load = Load::new(ranks, N);
    let blocks = prompt(u64::MAX, N);
    let stored = KvEvent::Stored { parent: None, blocks: blocks.iter().copied().collect() };
    let removed: Vec<_> = blocks
        .iter()
        .rev()
        .map(|&block| KvEvent::Removed { blocks: [block].into_iter().collect() })
        .collect();
    bencher.bench_local(|| {
        for event in std::iter::once(&stored).chain(&removed) {
            load.router.apply(Rank::of_worker(WorkerId(0)), event, Time::ZERO).unwrap();
        }
    });
}

/// A request is routed and booked, its prefill ends, it ends.
#[divan::bench(args = RANKS, consts = BLOCKS)]
fn decision<const N: usize>(bencher: Bencher, ranks: u32) {
    let mut load = Load::new(ranks, N);
    bencher.bench_local(|| {
        let request = load.next_request();
        let id = request.id;
        let decision = load.router.route(request, Time::ZERO).unwrap();
        assert!(matches!(decision, Decision::Admit(_)));
        load.router.prefill_done(id, Time::ZERO).unwrap();
        load.router.finish(id, Time::ZERO)
    });
}

/// Dependent look-ups in a hash map, one for each block of a prompt.
#[divan::bench(consts = BLOCKS)]
fn chain<const N: usize>(bencher: Bencher) {
    let load = Load::new(16, N);
    let mut map = FxHashMap::default();
    let mut starts = Vec::new();
    for prompt in &load.prompts {
        // Hashes of a shared prefix have several successors; a number a prompt keeps the chains apart.
        let tagged = |block: SequenceHash| block.0 ^ starts.len() as u64;
        map.extend(prompt.windows(2).map(|pair| (tagged(pair[0]), tagged(pair[1]))));
        starts.push(prompt[0].0 ^ starts.len() as u64);
    }
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % starts.len();
        let mut at = starts[next];
        for _ in 1..N {
            at = map[&at];
        }
        at
    });
}

struct Load {
    router: Router,
    prompts: Vec<Arc<[SequenceHash]>>,
    next: u32,
}

impl Load {
    fn new(ranks: u32, blocks: usize) -> Self {
        let settings = KvRouterConfig { router_queue_threshold: None, ..KvRouterConfig::default() };
        let mut router = Router::new(settings.validate().unwrap(), BLOCK_SIZE, 7);
        let count = (ranks * PROMPTS_PER_RANK).min((MOST_BLOCKS / blocks) as u32).max(1);
        let prompts: Vec<_> = (0..count).map(|number| prompt(u64::from(number), blocks)).collect();
        for worker in 0..ranks {
            router.add_rank(Rank::of_worker(WorkerId(worker)), RankInfo::default(), Time::ZERO);
        }
        for worker in 0..ranks {
            for own in 0..PROMPTS_PER_RANK {
                let prompt = &prompts[(worker * PROMPTS_PER_RANK + own) as usize % prompts.len()];
                let event = KvEvent::Stored { parent: None, blocks: prompt.iter().copied().collect() };
                router.apply(Rank::of_worker(WorkerId(worker)), &event, Time::ZERO).unwrap();
            }
        }
        let mut load = Self { router, prompts, next: 0 };
        for request in 0..ranks * RUNNING_PER_RANK {
            let rank = Rank::of_worker(WorkerId(request % ranks));
            let request = load.next_request();
            load.router.book(request, rank, Time::ZERO).unwrap();
        }
        load
    }

    fn next_request(&mut self) -> RoutingRequest {
        self.next += 1;
        let blocks = &self.prompts[self.next as usize % self.prompts.len()];
        RoutingRequest::new(RequestId(self.next), blocks.len() as u32 * BLOCK_SIZE + 5, Arc::clone(blocks))
    }
}

/// A prompt that shares its first tenth with all others.
fn prompt(number: u64, blocks: usize) -> Arc<[SequenceHash]> {
    let mixed = |value: u64| {
        let value = (value ^ value >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        SequenceHash(value ^ value >> 29)
    };
    let shared = blocks / 10;
    (0..blocks)
        .map(|at| {
            let owner = if at < shared { 0 } else { number.wrapping_add(1) };
            mixed(owner.wrapping_mul(1 << 20).wrapping_add(at as u64))
        })
        .collect()
}
