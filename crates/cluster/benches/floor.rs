//! What no replay can do without, on its own: `cargo bench -p servecast-cluster --bench floor`.
//!
//! A replay reads its trace, looks every block of a prompt up and stores it, and goes from event to event. The sum of
//! these is the floor that `docs/performance.md` compares replays with.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use rustc_hash::FxHashMap;
use servecast_workload::{Load, SyntheticSpec, Trace, generate, read_mooncake, write_mooncake};

const WORKERS: usize = 8;

fn main() {
    divan::main();
}

/// Reading 1,000 rows of 24 blocks and making a workload of them.
#[divan::bench]
fn trace(bencher: Bencher) {
    const ROWS: u64 = 1_000;
    const TOKENS_PER_ID: u32 = 512;
    let length = 24 * u64::from(TOKENS_PER_ID);
    let spec = SyntheticSpec { trace_block_size: TOKENS_PER_ID, ..SyntheticSpec::new(length, 343, ROWS) };
    let mut text = Vec::new();
    write_mooncake(&generate(&spec).unwrap(), &mut text).unwrap();
    bencher.counter(ItemsCount::new(ROWS)).counter(BytesCount::of_slice(&text)).bench_local(|| {
        let trace: Trace = read_mooncake(text.as_slice()).unwrap();
        trace.workload(TOKENS_PER_ID, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap()
    });
}

/// One look-up, one insertion and, since caches are full, one removal a block, in the caches of eight workers of
/// `blocks` blocks each: 2,048 is the default cache in blocks of a trace, 16,384 in those of an engine.
#[divan::bench(args = [2_048, 16_384])]
fn block(bencher: Bencher, blocks: u64) {
    const BATCH: u64 = 10_000;
    let mut next = 0;
    let mut fresh = || {
        next += 1;
        mixed(next)
    };
    let mut caches: Vec<(FxHashMap<u64, u32>, VecDeque<u64>)> = Vec::new();
    for _ in 0..WORKERS {
        let order: VecDeque<u64> = (0..blocks).map(|_| fresh()).collect();
        caches.push((order.iter().copied().zip(0..).collect(), order));
    }
    let mut turn = 0;
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let mut hits = 0;
        for at in 0..BATCH {
            // A prompt of 192 blocks goes to one worker, the next prompt to the next one.
            turn += usize::from(at % 192 == 0);
            let (cache, order) = &mut caches[turn % WORKERS];
            let hash = fresh();
            hits += u64::from(cache.contains_key(&hash));
            cache.insert(hash, at as u32);
            order.push_back(hash);
            hits += u64::from(order.pop_front().is_some_and(|oldest| cache.remove(&oldest).is_none()));
        }
        hits
    });
}

/// Taking the next event from a heap and putting one back, with an event under way for every worker.
#[divan::bench(args = [8, 64, 1_024])]
fn event(bencher: Bencher, workers: u64) {
    const BATCH: u64 = 10_000;
    let mut events: BinaryHeap<_> =
        (0..workers).map(|worker| Reverse((mixed(worker) >> 44, worker))).collect();
    let mut sequence = workers;
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for _ in 0..BATCH {
            let Reverse((time, _)) = events.pop().expect("as many go in as come out");
            sequence += 1;
            events.push(Reverse((time + (mixed(sequence) >> 44), sequence)));
        }
    });
}

/// A number that looks random.
fn mixed(value: u64) -> u64 {
    let value = (value ^ value >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (value ^ value >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}
