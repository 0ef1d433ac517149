//! What vLLM's `/metrics` says of its engines, by the names, labels, types and buckets of version 0.32.
//!
//! Each worker is an engine, in the order of pools. Times are those that clients see, in seconds of the machine.

mod page;
mod sglang;

use rustc_hash::FxHashMap;
use servecast_cluster::Topology;
use servecast_engine::{EngineConfig, Iteration};
use servecast_record::RequestStatus;
use servecast_types::{RequestId, Role, Time, WorkerId};

pub(crate) use self::sglang::Snapshot;
use self::sglang::{Counts, Ended};
use crate::deployment::{Asked, Request};
use crate::request::Dialect;

/// What a deployment has measured since it started.
#[derive(Debug)]
pub(crate) struct Metrics {
    dialect: Dialect,
    /// Tokens of prompt and answer together.
    context: u32,
    model: String,
    speed: f64,
    /// Unix time of the start, in seconds.
    created: f64,
    engines: Vec<Engine>,
    /// Role, first engine and size of each pool.
    pools: Vec<(Role, usize)>,
    /// Requests that have not ended, by their numbers until they are in the deployment.
    sent: FxHashMap<u64, Live>,
    /// Those that are.
    live: FxHashMap<RequestId, Live>,
}

/// One engine.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) block_size: u32,
    pub(crate) blocks: u32,
    /// Requests that it takes at a time.
    pub(crate) max_running: u32,
    pub(crate) prefix_caching: bool,
    /// Of its last iteration.
    pub(crate) waiting: u64,
    pub(crate) kv_usage: f64,
    pub(crate) prefix_queries: u64,
    pub(crate) prefix_hits: u64,
    pub(crate) received_tokens: u64,
    pub(crate) preemptions: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_prompt_tokens: u64,
    pub(crate) generation_tokens: u64,
    pub(crate) stopped: u64,
    pub(crate) full_length: u64,
    pub(crate) request_prompt_tokens: Histogram,
    pub(crate) request_generation_tokens: Histogram,
    pub(crate) iteration_tokens: Histogram,
    pub(crate) params_n: Histogram,
    pub(crate) params_max_tokens: Histogram,
    pub(crate) ttft: Histogram,
    pub(crate) itl: Histogram,
    pub(crate) tpot: Histogram,
    pub(crate) e2e: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) inference: Histogram,
    pub(crate) prefill: Histogram,
    pub(crate) decode: Histogram,
    pub(crate) num_preemptions: Histogram,
    pub(crate) computed_tokens: Histogram,
    pub(crate) sglang: Counts,
}

/// A request that has not ended.
#[derive(Debug, Clone, Copy)]
struct Live {
    arrived: Time,
    prompt_tokens: u32,
    stops: bool,
    asked: Asked,
    cached_tokens: Option<u32>,
    scheduled: Option<Time>,
    first_token: Option<Time>,
    last_token: Option<Time>,
    tokens: u32,
    preemptions: u32,
    engine: usize,
    /// Whether it is in the batch of that engine.
    is_running: bool,
}

/// Counts of values by size.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    /// Upper bounds, smallest first.
    pub(crate) bounds: Vec<f64>,
    /// How many values are in each bucket; one more for those beyond the last bound.
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: f64,
}

const ITERATION_TOKENS: [f64; 13] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const CHOICES: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];
const TTFT: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const TOKEN: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const PREEMPTIONS: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];

/// 1, 2, 5, 10, …, no larger than the context.
fn lengths(max_model_len: u32) -> Vec<f64> {
    let decades = (0..).map(|decade| 10_f64.powi(decade));
    let bounds = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * decade));
    bounds.take_while(|&bound| bound <= f64::from(max_model_len)).collect()
}

impl Histogram {
    fn new(bounds: &[f64]) -> Self {
        Self { bounds: bounds.to_vec(), counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn add(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }
}

impl Engine {
    fn new(engine: &EngineConfig, prefix_caching: bool, max_model_len: u32) -> Self {
        let lengths = lengths(max_model_len);
        let lengths = || Histogram::new(&lengths);
        let request = || Histogram::new(&REQUEST);
        Self {
            block_size: engine.block_size(),
            blocks: engine.usable_blocks(),
            max_running: engine.max_num_seqs().unwrap_or(0),
            prefix_caching,
            waiting: 0,
            kv_usage: 0.0,
            prefix_queries: 0,
            prefix_hits: 0,
            received_tokens: 0,
            preemptions: 0,
            prompt_tokens: 0,
            cached_prompt_tokens: 0,
            generation_tokens: 0,
            stopped: 0,
            full_length: 0,
            request_prompt_tokens: lengths(),
            request_generation_tokens: lengths(),
            iteration_tokens: Histogram::new(&ITERATION_TOKENS),
            params_n: Histogram::new(&CHOICES),
            params_max_tokens: lengths(),
            ttft: Histogram::new(&TTFT),
            itl: Histogram::new(&TOKEN),
            tpot: Histogram::new(&TOKEN),
            e2e: request(),
            queue: request(),
            inference: request(),
            prefill: request(),
            decode: request(),
            num_preemptions: Histogram::new(&PREEMPTIONS),
            computed_tokens: lengths(),
            sglang: Counts::new(),
        }
    }
}

impl Metrics {
    /// Of a deployment that starts at `created`, in seconds of Unix time.
    pub(crate) fn new(
        dialect: Dialect,
        topology: &Topology,
        model: String,
        prefix_caching: bool,
        max_model_len: u32,
        speed: f64,
        created: f64,
    ) -> Self {
        let mut pools: Vec<(Role, usize)> = Vec::new();
        let mut engines = Vec::new();
        for (role, workers, engine) in topology.groups() {
            if pools.last().is_none_or(|(last, _)| *last != role) {
                pools.push((role, engines.len()));
            }
            engines.extend((0..workers).map(|_| Engine::new(engine, prefix_caching, max_model_len)));
        }
        let (sent, live) = (FxHashMap::default(), FxHashMap::default());
        Self { dialect, context: max_model_len, model, speed, created, engines, pools, sent, live }
    }

    pub(crate) fn engine(&self, pool: Role, worker: WorkerId) -> usize {
        let first = self.pools.iter().find(|(role, _)| *role == pool).map_or(0, |(_, first)| *first);
        first + worker.index()
    }

    /// How many seconds of the machine a client waited.
    fn seconds(&self, from: Time, to: Time) -> f64 {
        to.since(from).as_secs() / self.speed
    }

    /// A client sent a request.
    pub(crate) fn arrived(&mut self, request: &Request, now: Time) {
        let live = Live {
            arrived: now,
            prompt_tokens: request.prompt.len() as u32,
            stops: (request.output.len() as u32) < request.max_tokens,
            asked: request.asked,
            cached_tokens: None,
            scheduled: None,
            first_token: None,
            last_token: None,
            tokens: 0,
            preemptions: 0,
            engine: 0,
            is_running: false,
        };
        self.sent.insert(request.number, live);
    }

    /// It is in the deployment.
    pub(crate) fn entered(&mut self, id: RequestId, number: u64) {
        if let Some(live) = self.sent.remove(&number) {
            self.live.insert(id, live);
        }
    }

    /// Requests in the batches of engines, by engine.
    fn running(&self) -> Vec<u64> {
        let mut running = vec![0; self.engines.len()];
        for live in self.live.values().filter(|live| live.is_running) {
            running[live.engine] += 1;
        }
        running
    }

    /// It was taken back before.
    pub(crate) fn forgotten(&mut self, number: u64) {
        self.sent.remove(&number);
    }

    /// A worker did something.
    pub(crate) fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        let at = self.engine(pool, worker);
        let engine = &mut self.engines[at];
        engine.waiting = u64::from(iteration.num_waiting);
        engine.kv_usage = 1.0 - f64::from(iteration.free_blocks) / f64::from(engine.blocks.max(1));
        let at_seconds = iteration.end.since(Time::ZERO).as_secs() / self.speed;
        let (mut prompts, mut cached) = (0, 0);
        let tokens = iteration.total_tokens();
        if tokens > 0 {
            engine.iteration_tokens.add(tokens as f64);
        }
        engine.generation_tokens += iteration.tokens_emitted();
        engine.received_tokens +=
            iteration.transfers.iter().map(|transfer| u64::from(transfer.tokens)).sum::<u64>();
        let gone = iteration.preempted.iter().chain(iteration.finished.iter().map(|finished| &finished.id));
        for id in gone {
            if let Some(live) = self.live.get_mut(id) {
                live.is_running = false;
            }
        }
        // With their first token, from a prefill worker.
        for joined in iteration.joined.iter().filter(|joined| !joined.is_finished) {
            if let Some(live) = self.live.get_mut(&joined.id) {
                live.scheduled.get_or_insert(iteration.scheduled_at);
                (live.engine, live.is_running) = (at, true);
            }
        }
        for admitted in &iteration.admitted {
            let Some(live) = self.live.get_mut(&admitted.id) else { continue };
            live.scheduled.get_or_insert(iteration.start);
            (live.engine, live.is_running) = (at, true);
            // A request that lost its blocks counts when it runs again, and its second look-up does not.
            if admitted.resumed {
                live.preemptions += 1;
                engine.preemptions += 1;
            } else {
                engine.prefix_queries += u64::from(live.prompt_tokens);
                engine.prefix_hits += u64::from(admitted.cached_tokens);
                prompts += u64::from(live.prompt_tokens);
                cached += u64::from(admitted.cached_tokens);
                live.cached_tokens.get_or_insert(admitted.cached_tokens);
            }
        }
        let emitted = iteration.emitted.len() as u64;
        let counts = &mut self.engines[at].sglang;
        counts.passed(emitted, at_seconds);
        counts.admitted(prompts, cached);
    }

    /// A client has a token more, from a worker of the last pool.
    pub(crate) fn token(&mut self, worker: WorkerId, id: RequestId, at: Time) {
        let (speed, first) = (self.speed, self.pools.last().map_or(0, |(_, first)| *first));
        let place = first + worker.index();
        let (Some(live), Some(engine)) = (self.live.get_mut(&id), self.engines.get_mut(place)) else {
            return;
        };
        let since = |from: Time| at.since(from).as_secs() / speed;
        match live.last_token {
            None => {
                live.first_token = Some(at);
                engine.ttft.add(since(live.arrived));
                engine.sglang.first_token(live.asked.stream, since(live.arrived));
                engine.prompt_tokens += u64::from(live.prompt_tokens);
                engine.cached_prompt_tokens += u64::from(live.cached_tokens.unwrap_or(0));
            }
            Some(last) => {
                engine.itl.add(since(last));
                engine.sglang.next_token(since(last));
            }
        }
        live.last_token = Some(at);
        live.tokens += 1;
        live.engine = place;
    }

    /// A request has ended. What was taken back leaves no more.
    pub(crate) fn ended(&mut self, id: RequestId, status: RequestStatus) {
        let Some(live) = self.live.remove(&id) else { return };
        if status != RequestStatus::Finished {
            self.engines[live.engine].sglang.aborted();
            return;
        }
        let (Some(first), Some(last)) = (live.first_token, live.last_token) else { return };
        let scheduled = live.scheduled.unwrap_or(first);
        let times = [
            self.seconds(live.arrived, last),
            self.seconds(live.arrived, scheduled),
            self.seconds(scheduled, last),
            self.seconds(scheduled, first),
            self.seconds(first, last),
        ];
        let engine = &mut self.engines[live.engine];
        let [e2e, queue, inference, prefill, decode] = times;
        engine.sglang.ended(Ended {
            stream: live.asked.stream,
            prompt_tokens: live.prompt_tokens.into(),
            cached_tokens: live.cached_tokens.unwrap_or(0).into(),
            tokens: live.tokens.into(),
            queue,
            decode,
            e2e,
        });
        engine.e2e.add(e2e);
        engine.queue.add(queue);
        engine.inference.add(inference);
        engine.prefill.add(prefill);
        engine.decode.add(decode);
        if live.tokens > 1 {
            engine.tpot.add(decode / f64::from(live.tokens - 1));
        }
        engine.request_prompt_tokens.add(f64::from(live.prompt_tokens));
        engine.request_generation_tokens.add(f64::from(live.tokens));
        engine.params_n.add(f64::from(live.asked.n));
        if let Some(max_tokens) = live.asked.max_tokens {
            engine.params_max_tokens.add(f64::from(max_tokens));
        }
        engine.num_preemptions.add(f64::from(live.preemptions));
        engine.computed_tokens.add(f64::from(live.prompt_tokens - live.cached_tokens.unwrap_or(0)));
        if live.stops {
            engine.stopped += 1;
        } else {
            engine.full_length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_go_up_to_the_context() {
        assert_eq!(lengths(2048), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]);
        assert_eq!(lengths(1), [1.0]);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 9.0] {
            histogram.add(value);
        }
        assert_eq!((histogram.counts, histogram.sum), (vec![2, 2, 1], 14.0));
    }
}
