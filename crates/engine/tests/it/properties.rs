//! What holds for any settings and any load: every request ends, nothing leaks, nothing stalls, and the same calls
//! give the same decisions.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::{Value, json};
use servecast_engine::{
    Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, EngineType, Iteration, IterationSink,
    Rejection, Transfer, TransferTime,
};
use servecast_types::{Duration, KvEvent, Prompt, RequestId, Run, SequenceHash, Time};

/// A run of these sizes in which nobody gets a token for longer than this makes no progress.
///
/// Tokens are kept through preemptions and their number is limited by the pool, so each of them is progress.
const MOST_FRUITLESS_ITERATIONS: u32 = 100_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_load_is_served_under_all_settings(settings in settings(), load in load(24)) {
        let first = run(&settings, &load);
        prop_assert_eq!(first, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn no_request_is_evicted_under_tensorrt_llm(settings in trtllm_settings(), load in load(24)) {
        let iterations = run(&settings, &load);
        prop_assert!(iterations.iter().all(|iteration| iteration.preempted.is_empty()));
        prop_assert_eq!(iterations, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn pools_of_a_few_blocks_do_not_stall(settings in crowded_settings(), load in load(8)) {
        run(&settings, &load);
    }
}

/// Few in the default run; `SERVECAST_PROPERTY_CASES` asks for a long campaign.
fn cases() -> u32 {
    let given = std::env::var_os("SERVECAST_PROPERTY_CASES");
    given.map_or(256, |given| given.to_str().unwrap().parse().expect("SERVECAST_PROPERTY_CASES is a number"))
}

/// Values near the limits of their types, and what cannot be a request.
#[test]
fn limits_are_no_pitfalls() {
    let engine = |settings: Value| {
        Engine::new(
            EngineArgs::from_json(settings).unwrap().validate(None).unwrap(),
            EngineTracing::default(),
        )
    };
    let request = |prompt_tokens, max_tokens| {
        EngineRequest::new(RequestId(0), Prompt::new([Run::tokens(0, prompt_tokens)]), max_tokens, Time::ZERO)
    };
    let empty = |prompt_tokens, max_tokens| Err(Rejection::Empty { prompt_tokens, max_tokens });
    assert_eq!(engine(json!({})).submit(request(0, 1)), empty(0, 1));
    assert_eq!(engine(json!({})).submit(request(1, 0)), empty(1, 0));
    let no_block = json!({"num_gpu_blocks": 1});
    assert_eq!(
        engine(no_block).submit(request(1, 1)),
        Err(Rejection::PromptTooLong { needed: 1, usable: 0 })
    );

    let huge = json!({"block_size": 1_u32 << 31, "num_gpu_blocks": 1 << 24, "max_num_batched_tokens": null});
    let too_long = Rejection::MaxModelLen { tokens: u32::MAX, max_model_len: i32::MAX as u32 };
    assert_eq!(engine(huge.clone()).submit(request(u32::MAX, u32::MAX)), Err(too_long));
    for async_scheduling in [false, true] {
        let mut settings = huge.clone();
        settings["async_scheduling"] = async_scheduling.into();
        let load =
            [Submission { prefix_len: i32::MAX as u32 - 3, max_tokens: u32::MAX, ..Submission::default() }];
        let iterations = run(&settings, &load);
        assert_eq!(iterations.iter().map(|iteration| iteration.emitted.len()).sum::<usize>(), 3);
    }
}

/// Requests that each need the whole pool and grow side by side, with victims from the front of the running list.
#[test]
fn requests_do_not_evict_each_other_for_ever() {
    for policy in [json!({"preemption_mode": "fifo"}), json!({"scheduling_policy": "priority"})] {
        for threshold in 1..8 {
            let mut settings = json!({
                "block_size": 2, "num_gpu_blocks": 10, "reserve_null_block": false, "enable_prefix_caching": false,
                "long_prefill_token_threshold": threshold, "vllm_version": "0.14",
            });
            settings.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
            let request = Submission { prefix_len: 19, max_tokens: 1, ..Submission::default() };
            run(&settings, &[request.clone(), request.clone(), request]);
        }
    }
}

/// Requests that outgrow the pool, take turns at evicting each other, and compute their output again a token at a time.
#[test]
fn requests_that_wear_each_other_out_end_however_long_it_takes() {
    let settings = json!({
        "block_size": 150, "num_gpu_blocks": 40, "reserve_null_block": false, "enable_prefix_caching": false,
        "long_prefill_token_threshold": 1, "preemption_mode": "fifo", "scheduler_reserve_full_isl": false,
        "max_num_batched_tokens": null, "vllm_version": "0.14", "latency": "linear:100,10,20",
    });
    let request = Submission { max_tokens: u32::MAX, ..Submission::default() };
    let iterations = run(&settings, &[request.clone(), request.clone(), request]);
    assert!(iterations.len() > 200_000, "{} iterations", iterations.len());
}

/// Loads that left the scheduler waiting, or going round, in one way or another.
#[test]
fn every_way_to_get_stuck_ends() {
    let request =
        |own_len, max_tokens| Submission { prefix_len: 0, own_len, max_tokens, ..Submission::default() };
    let check = |changes: Value, load: &[Submission]| {
        let mut settings = json!({
            "block_size": 4, "num_gpu_blocks": 8, "reserve_null_block": false, "enable_prefix_caching": false,
            "async_scheduling": true, "scheduler_reserve_full_isl": false, "latency": "linear:100,10,20",
        });
        settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        run(&settings, load);
    };
    // Nothing else wakes the worker when the reader of held blocks is done.
    check(json!({}), &[Submission { reader: Some((0, 1)), ..request(1, 1) }]);
    // The request that outgrows the cache is given up in an empty iteration, with another one behind it.
    check(json!({"kv_role": "kv_consumer", "vllm_version": "0.32"}), &[request(8, 26), request(1, 12)]);
    // Its last token is dropped and computed again.
    check(json!({"kv_role": "kv_producer"}), &[request(8, 30)]);
    // Blocks become free only after everybody has been preempted for them.
    let late = json!({
        "kv_role": "kv_consumer", "vllm_version": "0.14", "block_size": 3, "num_gpu_blocks": 9,
        "long_prefill_token_threshold": 1,
    });
    check(late, &[request(4, 22), request(1, 10), request(1, 10)]);
    // A resumed request may not be cut and exceeds the budget.
    let whole = json!({"enable_chunked_prefill": false, "max_num_batched_tokens": 10});
    check(whole, &[request(8, 20), request(8, 20), request(8, 20)]);
}

/// A request of a random load.
#[derive(Debug, Clone)]
struct Submission {
    /// Requests of one group share their prefix, as far as both are that long.
    group: u32,
    prefix_len: u32,
    own_len: u32,
    max_tokens: u32,
    stop_after: Option<u32>,
    priority: i32,
    /// Since the request before it.
    gap_us: u64,
    remote_prefill: Option<TransferTime>,
    /// For a request whose blocks are held: how long after its end the transfer is known, and how long that takes.
    reader: Option<(u64, u64)>,
}

impl Default for Submission {
    fn default() -> Self {
        Self {
            group: 0,
            prefix_len: 1,
            own_len: 0,
            max_tokens: 1,
            stop_after: None,
            priority: 0,
            gap_us: 0,
            remote_prefill: None,
            reader: None,
        }
    }
}

fn load(most: usize) -> impl Strategy<Value = Vec<Submission>> {
    let duration = || (0_u64..3_000).prop_map(|us| Duration::from_ns(us * 1000));
    let transfer = prop_oneof![
        duration().prop_map(TransferTime::Fixed),
        duration().prop_map(|full_prompt| TransferTime::Missing { full_prompt }),
    ];
    let max_tokens = prop_oneof![8 => 1_u32..40, 2 => Just(1), 1 => Just(u32::MAX)];
    let submission = (
        (0_u32..3, prop_oneof![0_u32..20, 0_u32..150], 1_u32..60),
        (max_tokens, prop::option::weighted(0.3, 1_u32..30), -1_i32..2),
        prop_oneof![Just(0), 0_u64..5_000],
        (prop::option::weighted(0.25, transfer), prop::option::weighted(0.25, (0_u64..4_000, 0_u64..4_000))),
    );
    let submission = submission.prop_map(|(prompt, output, gap_us, (remote_prefill, reader))| {
        let ((group, prefix_len, own_len), (max_tokens, stop_after, priority)) = (prompt, output);
        Submission {
            group,
            prefix_len,
            own_len,
            max_tokens,
            stop_after,
            priority,
            gap_us,
            remote_prefill,
            reader,
        }
    });
    prop::collection::vec(submission, 1..most)
}

fn settings() -> impl Strategy<Value = Value> {
    let blocks = prop_oneof![1_u32..4, 4_u32..20, 20_u32..150];
    let limit = |limits: std::ops::Range<u32>| prop::option::weighted(0.6, limits);
    let version = prop::sample::select(vec!["0.14", "0.19", "0.24", "0.28", "0.32", "0.33"]);
    let role = prop::sample::select(vec![None, None, Some("kv_producer"), Some("kv_consumer")]);
    let pool = (2_u32..33, blocks, any::<bool>(), prop_oneof![Just(0.0), 0.0..0.99]);
    let limits = (
        limit(1..12),
        limit(1..200),
        limit(1..250),
        prop_oneof![Just(0), 1_u32..64],
        any::<bool>(),
        1_u32..5,
    );
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let policies =
        (prop::sample::select(vec!["fcfs", "priority"]), prop::sample::select(vec!["lifo", "fifo"]));
    (pool, limits, switches, policies, version, role).prop_map(
        |(pool, limits, switches, policies, version, role)| {
            json!({
                "vllm_version": version,
                "block_size": pool.0,
                "num_gpu_blocks": pool.1 + u32::from(pool.2),
                "reserve_null_block": pool.2,
                "watermark": pool.3,
                "max_num_seqs": limits.0,
                "max_num_batched_tokens": limits.1,
                "max_model_len": limits.2,
                "long_prefill_token_threshold": limits.3,
                "long_prefill_token_threshold_adaptive": limits.4,
                "prefill_schedule_interval": limits.5,
                "scheduler_reserve_full_isl": switches.0,
                "enable_chunked_prefill": switches.1,
                "enable_prefix_caching": switches.2,
                "async_scheduling": switches.3,
                "scheduling_policy": policies.0,
                "preemption_mode": policies.1,
                "kv_role": role,
                "latency": "linear:100,10,20",
            })
        },
    )
}

/// TensorRT-LLM under the limits of any load: its capacity policy admits only what fits to completion.
fn trtllm_settings() -> impl Strategy<Value = Value> {
    settings().prop_map(|mut settings| {
        settings["engine_type"] = "trtllm".into();
        settings["kv_role"] = Value::Null;
        settings
    })
}

/// Pools that two prompts hardly fit into together, without the gate that keeps them apart.
fn crowded_settings() -> impl Strategy<Value = Value> {
    (settings(), 1_u32..12).prop_map(|(mut settings, blocks)| {
        let null_block = u32::from(settings["reserve_null_block"] == true);
        settings["num_gpu_blocks"] = (blocks + null_block).into();
        settings["scheduler_reserve_full_isl"] = false.into();
        settings["enable_chunked_prefill"] = true.into();
        settings["max_model_len"] = Value::Null;
        settings
    })
}

/// Serves a load to its end, checking all along; returns what the engine did.
fn run(settings: &Value, load: &[Submission]) -> Vec<Iteration> {
    let mut driver = Driver::new(settings, load);
    driver.run();
    driver.check_outcome();
    driver.log.iterations
}

struct Driver<'a> {
    load: &'a [Submission],
    engine: Engine,
    log: Log,
    arrivals: Vec<Time>,
    /// Releases that are due, by time and request; the value is the end of the transfer.
    releases: BTreeMap<(Time, RequestId), Time>,
    refused: FxHashMap<RequestId, Rejection>,
    iterations_seen: usize,
}

impl<'a> Driver<'a> {
    fn new(settings: &Value, load: &'a [Submission]) -> Self {
        let args = EngineArgs::from_json(settings.clone()).unwrap();
        let log = Log { args: args.clone(), ..Log::default() };
        let mut arrival = Time::ZERO;
        let arrivals = load.iter().map(|submission| {
            arrival = arrival + Duration::from_ns(submission.gap_us * 1000);
            arrival
        });
        Self {
            load,
            log,
            arrivals: arrivals.collect(),
            engine: Engine::new(
                args.validate(None).unwrap(),
                EngineTracing { kv_events: true, block_ids: true, ..EngineTracing::default() },
            ),
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
                self.engine.check();
            }
            while let Some(entry) = self.releases.first_entry().filter(|entry| entry.key().0 <= now) {
                let ((_, id), end) = entry.remove_entry();
                self.engine.release(id, end, now);
                self.engine.check();
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
        let prefix = Run::tokens(submission.group << 30, submission.prefix_len);
        let own = Run::tokens((3 << 30) + index as u32 * 1000, submission.own_len);
        EngineRequest {
            stop_after: submission.stop_after,
            priority: submission.priority,
            remote_prefill: submission.remote_prefill,
            hold_kv: submission.reader.is_some(),
            ..EngineRequest::new(
                RequestId(index as u32),
                Prompt::new([prefix, own]),
                submission.max_tokens,
                self.arrivals[index],
            )
        }
    }

    /// After a call: invariants, and the readers of what has ended.
    fn follow(&mut self) {
        self.engine.check();
        assert!(self.log.fruitless <= MOST_FRUITLESS_ITERATIONS, "no progress");
        for iteration in &self.log.iterations[self.iterations_seen..] {
            for finished in &iteration.finished {
                if let Some((after, takes)) = self.load[finished.id.index()].reader {
                    let start = iteration.end + Duration::from_ns(after * 1000);
                    self.releases.insert((start, finished.id), start + Duration::from_ns(takes * 1000));
                }
            }
        }
        self.iterations_seen = self.log.iterations.len();
    }

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
                    let mut room = u64::from(self.log.args.max_model_len.unwrap_or(i32::MAX as u32));
                    if self.log.args.engine_type == EngineType::Trtllm {
                        room = room.min(capacity);
                    }
                    let stop = u64::from(stop).min(room - u64::from(prompt_tokens));
                    assert_eq!(u64::from(output_tokens), stop, "tokens of request {index}");
                    assert_eq!(output_tokens, emitted, "tokens of request {index}");
                }
                outcome => panic!("request {index} ended as {outcome:?}"),
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
        let budget = self.args.max_num_batched_tokens.unwrap_or(u32::MAX);
        assert!(iteration.total_tokens() <= budget.into(), "more tokens than the budget");
        assert!(iteration.num_running <= self.args.max_num_seqs.unwrap_or(u32::MAX), "too many requests");
        let scheduled: FxHashSet<RequestId> =
            iteration.scheduled.iter().map(|scheduled| scheduled.id).collect();
        assert_eq!(scheduled.len(), iteration.scheduled.len(), "a request is scheduled twice");
        assert!(iteration.scheduled.iter().all(|scheduled| scheduled.tokens > 0));
        assert!(!iteration.preempted.iter().any(|id| scheduled.contains(id)), "a preempted request runs");
        assert!(iteration.admitted.iter().all(|admitted| scheduled.contains(&admitted.id)));
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
        if self.args.enable_prefix_caching {
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
                    for &hash in blocks {
                        *self.contents.entry(hash).or_default() += 1;
                    }
                }
                KvEvent::Removed { blocks } => {
                    for hash in blocks {
                        let count = self.contents.get_mut(hash).expect("what is removed was stored");
                        *count -= 1;
                        if *count == 0 {
                            self.contents.remove(hash);
                        }
                    }
                }
                KvEvent::Cleared => self.contents.clear(),
            }
        }
    }
}
