//! A random load, and a driver that serves it and checks all along.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;
use servecast_engine::{
    Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, EngineType, Iteration, IterationSink,
    Rejection, Transfer, TransferTime,
};
use servecast_types::{Duration, KvEvent, Prompt, RequestId, Run, SequenceHash, Time};

use crate::observed::Observed;

/// A run of these sizes in which nobody gets a token for longer than this makes no progress.
///
/// Tokens are kept through preemptions and their number is limited by the pool, so each of them is progress.
const MOST_FRUITLESS_ITERATIONS: u32 = 100_000;

/// A request of a random load.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    /// Requests of one group share their prefix, as far as both are that long.
    pub(crate) group: u32,
    pub(crate) prefix_len: u32,
    pub(crate) own_len: u32,
    /// Its own tokens are those of this earlier request, as far as both have that many.
    pub(crate) repeats: Option<u32>,
    pub(crate) max_tokens: u32,
    pub(crate) stop_after: Option<u32>,
    pub(crate) priority: i32,
    pub(crate) ignore_eos: bool,
    /// Since the request before it.
    pub(crate) gap_us: u64,
    pub(crate) remote_prefill: Option<TransferTime>,
    /// For a request whose blocks are held: how long after its end the transfer is known, and how long that takes.
    pub(crate) reader: Option<(u64, u64)>,
}

impl Submission {
    /// The prompt of the `index`th request of a load.
    pub(crate) fn prompt(&self, index: usize) -> Prompt {
        let own = self.repeats.unwrap_or(index as u32);
        Prompt::new([
            Run::tokens(self.group << 30, self.prefix_len),
            Run::tokens((3 << 30) + own * 1000, self.own_len),
        ])
    }
}

impl Default for Submission {
    fn default() -> Self {
        Self {
            group: 0,
            prefix_len: 1,
            own_len: 0,
            repeats: None,
            max_tokens: 1,
            stop_after: None,
            priority: 0,
            ignore_eos: false,
            gap_us: 0,
            remote_prefill: None,
            reader: None,
        }
    }
}

pub(crate) fn load(most: usize) -> impl Strategy<Value = Vec<Submission>> {
    let duration = || (0_u64..3_000).prop_map(|us| Duration::from_ns(us * 1000));
    let transfer = prop_oneof![
        duration().prop_map(TransferTime::Fixed),
        duration().prop_map(|full_prompt| TransferTime::Missing { full_prompt }),
    ];
    let max_tokens = prop_oneof![8 => 1_u32..40, 2 => Just(1), 1 => Just(u32::MAX)];
    let submission = (
        (
            0_u32..3,
            prop_oneof![0_u32..20, 0_u32..150],
            1_u32..60,
            prop::option::weighted(0.2, 0..most as u32),
        ),
        (max_tokens, prop::option::weighted(0.3, 1_u32..30), -1_i32..2, prop::bool::weighted(0.2)),
        prop_oneof![Just(0), 0_u64..5_000],
        (prop::option::weighted(0.25, transfer), prop::option::weighted(0.25, (0_u64..4_000, 0_u64..4_000))),
    );
    let submission = submission.prop_map(|(prompt, output, gap_us, (remote_prefill, reader))| {
        let ((group, prefix_len, own_len, repeats), (max_tokens, stop_after, priority, ignore_eos)) =
            (prompt, output);
        Submission {
            group,
            prefix_len,
            own_len,
            repeats,
            max_tokens,
            stop_after: stop_after.filter(|_| !ignore_eos),
            priority,
            ignore_eos,
            gap_us,
            remote_prefill,
            reader,
        }
    });
    prop::collection::vec(submission, 1..most)
}

/// Serves a load to its end, checking all along; returns what the engine did.
pub(crate) fn run(settings: &Value, load: &[Submission]) -> Vec<Iteration> {
    let args = EngineArgs::from_json(settings.clone()).unwrap();
    let log = Log { args: args.clone(), ..Log::default() };
    let tracing = EngineTracing { kv_events: true, block_ids: true, ..EngineTracing::default() };
    let mut driver = Driver::new(&args, load, tracing, log);
    driver.run();
    driver.check_outcome();
    driver.log.iterations
}

/// Serves a load to its end with SGLang; returns what is seen of that with or without stretches.
pub(crate) fn observe(settings: &Value, load: &[Submission], stretches: bool) -> Observed {
    let args = EngineArgs::from_json(settings.clone()).unwrap();
    let tracing = EngineTracing { kv_events: true, stretches, ..EngineTracing::default() };
    let mut driver = Driver::new(&args, load, tracing, Observed::default());
    driver.run();
    driver.log
}

/// A sink that says what ended.
trait Watch: IterationSink {
    /// How many iterations ended.
    fn count(&self) -> usize;

    /// The requests that ended with an iteration, and when that was.
    fn ended(&self, iteration: usize) -> (Vec<RequestId>, Time);

    /// Iterations since the last one that gave somebody a token or ended a request.
    fn fruitless(&self) -> u32 {
        0
    }
}

impl Watch for Log {
    fn count(&self) -> usize {
        self.iterations.len()
    }

    fn ended(&self, iteration: usize) -> (Vec<RequestId>, Time) {
        let iteration = &self.iterations[iteration];
        (iteration.finished.iter().map(|finished| finished.id).collect(), iteration.end)
    }

    fn fruitless(&self) -> u32 {
        self.fruitless
    }
}

impl Watch for Observed {
    fn count(&self) -> usize {
        self.iterations.len()
    }

    fn ended(&self, iteration: usize) -> (Vec<RequestId>, Time) {
        let seen = &self.iterations[iteration];
        (seen.finished.iter().map(|&(id, _)| id).collect(), seen.end)
    }
}

struct Driver<'a, W> {
    load: &'a [Submission],
    engine: Engine,
    log: W,
    arrivals: Vec<Time>,
    /// Releases that are due, by time and request; the value is the end of the transfer.
    releases: BTreeMap<(Time, RequestId), Time>,
    refused: FxHashMap<RequestId, Rejection>,
    iterations_seen: usize,
}

impl<'a, W: Watch> Driver<'a, W> {
    fn new(args: &EngineArgs, load: &'a [Submission], tracing: EngineTracing, log: W) -> Self {
        let mut arrival = Time::ZERO;
        let arrivals = load.iter().map(|submission| {
            arrival = arrival + Duration::from_ns(submission.gap_us * 1000);
            arrival
        });
        Self {
            load,
            log,
            arrivals: arrivals.collect(),
            engine: Engine::new(args.validate(None).unwrap(), tracing),
            releases: BTreeMap::new(),
            refused: FxHashMap::default(),
            iterations_seen: 0,
        }
    }

    fn run(&mut self) {
        let (mut now, mut submitted) = (Time::ZERO, 0);
        loop {
            while self.arrivals.get(submitted).is_some_and(|&arrival| arrival <= now) {
                let request = self.request(submitted);
                let id = request.id;
                if let Err(reason) = self.engine.submit(request) {
                    self.refused.insert(id, reason);
                }
                submitted += 1;
                self.engine.check().unwrap();
            }
            while let Some(entry) = self.releases.first_entry().filter(|entry| entry.key().0 <= now) {
                let ((_, id), end) = entry.remove_entry();
                self.engine.release(id, end, now);
                self.engine.check().unwrap();
            }
            let state = self.engine.run(now, &mut self.log).unwrap();
            self.follow();
            let input = self.releases.keys().map(|&(at, _)| at).next().into_iter();
            let input = input.chain(self.arrivals.get(submitted).copied()).min();
            let (next, ends) = match (state, input) {
                (EngineState::Busy { until }, Some(input)) if input < until => (input, false),
                (EngineState::Busy { until }, _) => (until, true),
                (EngineState::Idle { wake }, input) => match wake.into_iter().chain(input).min() {
                    Some(next) => (next, false),
                    None => return,
                },
            };
            assert!(next > now || ends || !self.releases.is_empty(), "the engine asks to be woken at once");
            assert!(next >= now, "time runs back");
            now = next;
            if ends {
                self.engine.end_iteration(now, &mut self.log);
                self.follow();
            }
        }
    }

    fn request(&self, index: usize) -> EngineRequest {
        let submission = &self.load[index];
        EngineRequest {
            stop_after: submission.stop_after,
            priority: submission.priority,
            ignore_eos: submission.ignore_eos,
            remote_prefill: submission.remote_prefill,
            hold_kv: submission.reader.is_some(),
            ..EngineRequest::new(
                RequestId(index as u32),
                submission.prompt(index),
                submission.max_tokens,
                self.arrivals[index],
            )
        }
    }

    /// After a call: invariants, and the readers of what has ended.
    fn follow(&mut self) {
        self.engine.check().unwrap();
        assert!(self.log.fruitless() <= MOST_FRUITLESS_ITERATIONS, "no progress");
        for iteration in self.iterations_seen..self.log.count() {
            let (ended, end) = self.log.ended(iteration);
            for id in ended {
                if let Some((after, takes)) = self.load[id.index()].reader {
                    let start = end + Duration::from_ns(after * 1000);
                    self.releases.insert((start, id), start + Duration::from_ns(takes * 1000));
                }
            }
        }
        self.iterations_seen = self.log.count();
    }
}

impl Driver<'_, Log> {
    fn check_outcome(&self) {
        let config = self.engine.config();
        assert_eq!(
            (self.engine.num_running(), self.engine.num_waiting()),
            (0, 0),
            "requests are left behind"
        );
        assert!(self.engine.is_empty(), "something is left in flight");
        assert_eq!(self.engine.num_free_blocks(), config.usable_blocks(), "blocks are left behind");
        let capacity = u64::from(config.usable_blocks()) * u64::from(config.block_size());
        for (index, submission) in self.load.iter().enumerate() {
            let id = RequestId(index as u32);
            let prompt_tokens = submission.prefix_len + submission.own_len;
            let emitted = self.log.emitted.get(&id).copied().unwrap_or(0);
            match (self.refused.get(&id), self.log.rejected.get(&id), self.log.finished.get(&id)) {
                (Some(_), None, None) => assert_eq!(emitted, 0, "request {index} was refused"),
                (None, Some(Rejection::KvCapacity { tokens }), None) => {
                    let cut = self.log.args.engine_type == EngineType::Sglang;
                    assert!(!cut, "the output of request {index} was cut to the pool");
                    assert!(
                        u64::from(*tokens) > capacity,
                        "request {index} of {tokens} tokens would have fit"
                    );
                    assert_eq!(*tokens, prompt_tokens + emitted, "request {index}");
                }
                (None, Some(Rejection::Unchunkable { tokens, budget }), None) => {
                    assert!(!self.log.args.enable_chunked_prefill && tokens > budget, "request {index}");
                }
                (None, None, Some(&output_tokens)) => {
                    let stop = submission.stop_after.unwrap_or(u32::MAX).min(submission.max_tokens);
                    let stop = u64::from(stop).min(self.output_room(prompt_tokens.into()));
                    assert_eq!(u64::from(output_tokens), stop, "tokens of request {index}");
                    assert_eq!(output_tokens, emitted, "tokens of request {index}");
                }
                outcome => panic!("request {index} ended as {outcome:?}"),
            }
        }
    }
}

impl Driver<'_, Log> {
    /// Output that a prompt leaves room for, in the context and where the engine cuts it to the pool.
    fn output_room(&self, prompt: u64) -> u64 {
        let config = self.engine.config();
        let (pages, page) = (u64::from(config.usable_blocks()), u64::from(config.block_size()));
        let context = u64::from(self.log.args.max_model_len.unwrap_or(i32::MAX as u32));
        match self.log.args.engine_type {
            EngineType::Vllm => context - prompt,
            EngineType::Trtllm => context.min(pages * page) - prompt,
            EngineType::Sglang => {
                let pool = (pages - prompt.div_ceil(page)).saturating_sub(1) * page;
                context.saturating_sub(prompt + 2).min(pool.saturating_sub(1)).max(1)
            }
        }
    }
}

/// Checks each iteration as it comes.
#[derive(Default)]
struct Log {
    args: EngineArgs,
    iterations: Vec<Iteration>,
    last_end: Time,
    /// Iterations since the last one that gave somebody a token or ended a request.
    fruitless: u32,
    emitted: FxHashMap<RequestId, u32>,
    finished: FxHashMap<RequestId, u32>,
    rejected: FxHashMap<RequestId, Rejection>,
    /// How many blocks have each content, by the events.
    contents: FxHashMap<SequenceHash, u32>,
}

impl IterationSink for Log {
    fn transfer_started(&mut self, transfer: &Transfer, now: Time) {
        assert!(transfer.end >= now && transfer.tokens > 0);
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        assert!(iteration.scheduled_at <= iteration.start && iteration.start <= iteration.end);
        assert!(self.last_end <= iteration.end, "iterations end in order");
        self.last_end = iteration.end;
        let sglang = self.args.engine_type == EngineType::Sglang;
        let budget = self.args.max_num_batched_tokens.filter(|_| !sglang).unwrap_or(u32::MAX);
        assert!(iteration.total_tokens() <= budget.into(), "more tokens than the budget");
        assert!(iteration.num_running <= self.args.max_num_seqs.unwrap_or(u32::MAX), "too many requests");
        let scheduled: FxHashSet<RequestId> =
            iteration.scheduled.iter().map(|scheduled| scheduled.id).collect();
        assert_eq!(scheduled.len(), iteration.scheduled.len(), "a request is scheduled twice");
        assert!(iteration.scheduled.iter().all(|scheduled| scheduled.tokens > 0));
        assert!(!iteration.preempted.iter().any(|id| scheduled.contains(id)), "a preempted request runs");
        // Under SGLang those whose prompt came from elsewhere wait for the next decode iteration.
        assert!(sglang || iteration.admitted.iter().all(|admitted| scheduled.contains(&admitted.id)));
        let is_fruitful = !iteration.emitted.is_empty() || !iteration.rejected.is_empty();
        self.fruitless = if is_fruitful { 0 } else { self.fruitless + 1 };
        for &id in &iteration.emitted {
            assert!(scheduled.contains(&id), "a token without computation");
            *self.emitted.entry(id).or_default() += 1;
        }
        for finished in &iteration.finished {
            assert!(iteration.emitted.contains(&finished.id), "a request ends with its last token");
            assert_eq!(self.finished.insert(finished.id, finished.output_tokens), None, "ended twice");
        }
        for &(id, reason) in &iteration.rejected {
            assert_eq!(self.rejected.insert(id, reason), None, "given up twice");
        }
        self.follow_events(&iteration.kv_events);
        // What an iteration of SGLang without work changes is told by the next one.
        if self.args.enable_prefix_caching && !(sglang && iteration.scheduled.is_empty()) {
            assert_eq!(iteration.cached_blocks, self.contents.len() as u32, "events tell what is cached");
        }
        self.iterations.push(iteration.clone());
    }
}

impl Log {
    fn follow_events(&mut self, events: &[KvEvent]) {
        for event in events {
            match event {
                KvEvent::Stored { parent, blocks } => {
                    let known = parent.is_none_or(|parent| self.contents.contains_key(&parent));
                    assert!(known, "a block is stored after what precedes it");
                    for hash in blocks.iter() {
                        *self.contents.entry(hash).or_default() += 1;
                    }
                }
                KvEvent::Removed { blocks } => {
                    for hash in blocks.iter() {
                        let count = self.contents.get_mut(&hash).expect("what is removed was stored");
                        *count -= 1;
                        if *count == 0 {
                            self.contents.remove(&hash);
                        }
                    }
                }
                KvEvent::Cleared => self.contents.clear(),
            }
        }
    }
}
