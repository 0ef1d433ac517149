//! What workers do over time: how busy they are, what they compute, how much KV is in use.
//!
//! Kept while a run goes on, in bins of time that become longer as it does, so that its size is known beforehand.

use servecast_types::{Duration, Role, Time, WorkerId};

/// Bins of a worker, in a deployment of few and of many workers; all workers together have about `ALL_BINS`.
const MOST_BINS: usize = 4096;
const LEAST_BINS: usize = 512;
const ALL_BINS: usize = 1 << 17;

/// Length of a bin at the beginning, as a power of two in nanoseconds: about a millisecond.
const FIRST_SHIFT: u32 = 20;

/// Equal workers of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// What the pool is for.
    pub role: Role,
    /// How many of them it has.
    pub workers: u32,
    /// KV blocks that requests can have, of a worker or of each of its data-parallel ranks.
    pub blocks: u32,
    /// Data-parallel ranks of a worker, over which what it did is an average.
    pub ranks: u32,
    /// Stages of the pipeline of a worker, which is busy as long as an average one of them; 1 without one.
    pub stages: u32,
}

/// Iterations of a worker, one after the other and about equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusySpan {
    /// When the first of them began.
    pub start: Time,
    /// When the last of them ended.
    pub end: Time,
    /// How long they took, without what lies between them.
    pub busy: Duration,
    /// How many they are.
    pub iterations: u64,
    /// Tokens that they computed; without any the worker was not busy.
    pub tokens: u64,
    /// KV blocks that were free while they ran.
    pub free_blocks: u32,
    /// KV blocks that are free from their end on.
    pub free_blocks_after: u32,
}

/// What the workers of a run did over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Activity {
    shift: u32,
    bins: usize,
    pools: Vec<PoolActivity>,
}

#[derive(Debug, Clone, PartialEq)]
struct PoolActivity {
    role: Role,
    workers: Vec<WorkerActivity>,
}

#[derive(Debug, Clone, PartialEq)]
struct WorkerActivity {
    /// KV blocks that requests can have.
    blocks: u32,
    ranks: u32,
    stages: u32,
    bins: Vec<Bin>,
    /// Up to when the use of KV is known, and what it has been since.
    known_until: u64,
    used_blocks: u32,
}

/// What a worker did, in equal parts of a time.
#[derive(Debug)]
pub(crate) struct WorkerBins {
    /// KV blocks that requests can have.
    pub(crate) blocks: u32,
    pub(crate) bins: Vec<Bin>,
}

/// Sums over a stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Bin {
    /// Nanoseconds in iterations.
    pub(crate) busy: f64,
    /// Tokens computed.
    pub(crate) tokens: f64,
    /// Iterations; one that lies in two bins is shared between them.
    pub(crate) iterations: f64,
    /// Σ over the nanoseconds of the KV blocks in use.
    pub(crate) block_ns: f64,
}

impl Bin {
    fn add(&mut self, other: &Self, share: f64) {
        self.busy += other.busy * share;
        self.tokens += other.tokens * share;
        self.iterations += other.iterations * share;
        self.block_ns += other.block_ns * share;
    }
}

impl Activity {
    /// For these workers; those of a pool are in order of their numbers.
    pub fn new(groups: impl IntoIterator<Item = PoolSize>) -> Self {
        let sizes: Vec<PoolSize> = groups.into_iter().collect();
        let workers: usize = sizes.iter().map(|size| size.workers as usize).sum();
        let bins = (ALL_BINS / workers.max(1)).clamp(LEAST_BINS, MOST_BINS);
        let mut pools: Vec<PoolActivity> = Vec::new();
        for PoolSize { role, workers, blocks, ranks, stages } in sizes {
            let bins = vec![Bin::default(); bins];
            let worker = WorkerActivity { blocks, ranks, stages, bins, known_until: 0, used_blocks: 0 };
            let group = vec![worker; workers as usize];
            match pools.iter_mut().find(|pool| pool.role == role) {
                Some(pool) => pool.workers.extend(group),
                None => pools.push(PoolActivity { role, workers: group }),
            }
        }
        Self { shift: FIRST_SHIFT, bins, pools }
    }

    /// A worker ended iterations; those of one worker come in order of time.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn add(&mut self, pool: Role, worker: WorkerId, span: &BusySpan) {
        let (start, end) = (span.start.as_ns(), span.end.as_ns());
        while (end >> self.shift) as usize >= self.bins {
            self.fold();
        }
        let shift = self.shift;
        let pool = self.pools.iter_mut().find(|of| of.role == pool).expect("the pool is one of the run");
        let worker = &mut pool.workers[worker.index()];
        let (blocks, ranks) = (worker.blocks, f64::from(worker.ranks));
        if start > worker.known_until && worker.used_blocks > 0 {
            let idle = Bin { block_ns: 1.0, ..Bin::default() };
            worker.spread(shift, worker.known_until, start, &idle, f64::from(worker.used_blocks));
        }
        let used = f64::from(blocks.saturating_sub(span.free_blocks)) / ranks;
        if end > start && span.tokens > 0 {
            let length = (end - start) as f64;
            let (tokens, iterations) = (span.tokens as f64 / length, span.iterations as f64 / length);
            let busy = span.busy.as_ns() as f64 / length / ranks / f64::from(worker.stages);
            // Batches of a pipeline overlap, and each says how much of the one cache is used.
            let seen = if worker.stages > 1 { worker.known_until.clamp(start, end) } else { start };
            let whole = Bin { busy, tokens, iterations, block_ns: 0.0 };
            worker.spread(shift, start, end, &whole, 1.0);
            worker.spread(shift, seen, end, &Bin { block_ns: 1.0, ..Bin::default() }, used);
        }
        worker.known_until = end.max(worker.known_until);
        worker.used_blocks = blocks.saturating_sub(span.free_blocks_after);
    }

    /// Makes bins twice as long.
    fn fold(&mut self) {
        self.shift += 1;
        for worker in self.pools.iter_mut().flat_map(|pool| &mut pool.workers) {
            let half = worker.bins.len() / 2;
            for number in 0..half {
                let (mut both, second) = (worker.bins[2 * number], worker.bins[2 * number + 1]);
                both.add(&second, 1.0);
                worker.bins[number] = both;
            }
            worker.bins[half..].fill(Bin::default());
        }
    }

    /// What each worker of a pool did, over `bins` equal parts of a time.
    pub(crate) fn of_pool(&self, role: Role, span: (Time, Time), bins: usize) -> Option<Vec<WorkerBins>> {
        let pool = self.pools.iter().find(|pool| pool.role == role)?;
        let bins = |worker: &WorkerActivity| WorkerBins {
            blocks: worker.blocks,
            bins: worker.resampled(self.shift, span, bins),
        };
        Some(pool.workers.iter().map(bins).collect())
    }
}

impl WorkerActivity {
    /// Adds `density * factor` for each nanosecond between two times.
    fn spread(&mut self, shift: u32, start: u64, end: u64, density: &Bin, factor: f64) {
        let mut at = start;
        while at < end {
            let bin = at >> shift;
            let until = (bin + 1).saturating_mul(1 << shift).min(end);
            self.bins[bin as usize].add(density, (until - at) as f64 * factor);
            at = until;
        }
    }

    fn resampled(&self, shift: u32, (from, to): (Time, Time), bins: usize) -> Vec<Bin> {
        let (from, to, fine) = (from.as_ns() as f64, to.as_ns() as f64, (1_u64 << shift) as f64);
        let length = ((to - from) / bins as f64).max(1.0);
        let part = |number: usize| {
            let (start, end) = (from + number as f64 * length, from + (number + 1) as f64 * length);
            let mut sum = Bin::default();
            let last = ((end / fine).ceil() as usize).min(self.bins.len());
            for (bin, values) in self.bins.iter().enumerate().take(last).skip((start / fine) as usize) {
                // Nothing happens in the part of a bin that is before or behind the run.
                let (left, right) = ((bin as f64 * fine).max(from), ((bin + 1) as f64 * fine).min(to));
                let share = (right.min(end) - left.max(start)) / (right - left);
                if share > 0.0 {
                    sum.add(values, share);
                }
            }
            sum
        };
        (0..bins).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROLE: Role = Role::Aggregated;

    fn activity(spans: &[(u64, u64, u64, u32)]) -> Activity {
        let mut activity =
            Activity::new([PoolSize { role: ROLE, workers: 1, blocks: 100, ranks: 1, stages: 1 }]);
        for &(start, end, tokens, used) in spans {
            let free_blocks = 100 - used;
            let (start, end) = (Time::from_ns(start), Time::from_ns(end));
            let (busy, free_blocks_after) = (end.since(start), free_blocks);
            let span = BusySpan { start, end, busy, iterations: 1, tokens, free_blocks, free_blocks_after };
            activity.add(ROLE, WorkerId(0), &span);
        }
        activity
    }

    fn sum(bins: &[Bin]) -> Bin {
        bins.iter().fold(Bin::default(), |mut sum, bin| {
            sum.add(bin, 1.0);
            sum
        })
    }

    proptest! {
        #[test]
        fn sums_stay_what_they_are_however_long_a_run_is(
            spans in prop::collection::vec((0_u64..50_000_000_000, 1_u64..9_000_000_000, 1_u64..5000, 0_u32..100), 1..60),
        ) {
            let mut at = 0;
            let spans: Vec<_> = spans
                .into_iter()
                .map(|(pause, length, tokens, used)| {
                    let start = at + pause;
                    at = start + length;
                    (start, at, tokens, used)
                })
                .collect();
            let workers = activity(&spans).of_pool(ROLE, (Time::ZERO, Time::from_ns(at)), 300).unwrap();
            let found = sum(&workers[0].bins);
            let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-6;
            prop_assert!(near(found.busy, spans.iter().map(|span| (span.1 - span.0) as f64).sum()));
            prop_assert!(near(found.tokens, spans.iter().map(|span| span.2 as f64).sum()));
            prop_assert!(near(found.iterations, spans.len() as f64));
            let idle: f64 = spans.windows(2).map(|pair| (pair[1].0 - pair[0].1) as f64 * f64::from(pair[0].3)).sum();
            let busy: f64 = spans.iter().map(|span| (span.1 - span.0) as f64 * f64::from(span.3)).sum();
            prop_assert!((found.block_ns - idle - busy).abs() <= 1e-6 * (idle + busy));
        }
    }

    #[test]
    fn workers_of_a_pool_may_have_different_blocks() {
        let group = |workers, blocks| PoolSize { role: ROLE, workers, blocks, ranks: 1, stages: 1 };
        let mut activity = Activity::new([group(2, 100), group(1, 400)]);
        let (start, end) = (Time::ZERO, Time::from_ns(1000));
        let span = |free_blocks| BusySpan {
            start,
            end,
            busy: end.since(start),
            iterations: 1,
            tokens: 1,
            free_blocks,
            free_blocks_after: free_blocks,
        };
        activity.add(ROLE, WorkerId(1), &span(90));
        activity.add(ROLE, WorkerId(2), &span(90));
        let workers = activity.of_pool(ROLE, (start, end), 1).unwrap();
        let used = workers.iter().map(|worker| (worker.blocks, worker.bins[0].block_ns.round() as u64));
        assert_eq!(used.collect::<Vec<_>>(), [(100, 0), (100, 10_000), (400, 310_000)]);
    }

    #[test]
    fn blocks_stay_in_use_between_iterations() {
        let second = 1_000_000_000;
        let spans = [(0, second, 10, 40), (3 * second, 4 * second, 10, 20)];
        let workers = activity(&spans).of_pool(ROLE, (Time::ZERO, Time::from_ns(4 * second)), 4).unwrap();
        let WorkerBins { blocks, bins } = &workers[0];
        assert_eq!(*blocks, 100);
        let used: Vec<f64> = bins.iter().map(|bin| (bin.block_ns / second as f64).round()).collect();
        assert_eq!(used, [40.0, 40.0, 40.0, 20.0]);
        let busy: Vec<f64> = bins.iter().map(|bin| (bin.busy / second as f64).round()).collect();
        assert_eq!(busy, [1.0, 0.0, 0.0, 1.0]);
    }
}
