//! A random load, and a driver that serves it and checks all along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;
use servecast_engine::{
    Begun, Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, EngineType, Fetch, Grammar,
    Iteration, IterationSink, Joined, Links, Rejection,
};
use servecast_latency::{Batch, LatencyModel, PassTime};
use servecast_types::{BlockHasher, Duration, KvEvent, Prompt, RequestId, Run, SequenceHash, Time};

use crate::expand::{Expander, UNKNOWN, as_far_as_known};

/// A run of these sizes in which nobody gets a token for longer than this makes no progress.
///
/// Tokens are kept through preemptions and their number is limited by the pool, so each of them is progress. A request
/// starves after 64 preemptions, behind each of which it computes at most the whole pool again: 4,800 tokens here, one an
/// iteration if the budget is 1.
const MOST_FRUITLESS_ITERATIONS: u32 = 64 * 4_800;

/// The model of engines with `profile:uneven`: it looks at how contexts are spread, as a profile does, and extrapolates.
#[derive(Debug)]
struct Uneven;

impl LatencyModel for Uneven {
    fn pass(&self, batch: &Batch) -> PassTime {
        let steps = batch.steps;
        let squares = steps.squared_context_tokens as f64;
        let us = steps.context_tokens as f64 + 7.0 * steps.longest_context_tokens as f64 + squares / 11.0;
        PassTime { prompt_ms: 0.1, decode_ms: (us + 13.0 * batch.tokens as f64) / 1000.0 }
    }

    fn extrapolates(&self, batch: &Batch) -> bool {
        batch.steps.longest_context_tokens > 40
    }
}

/// Names of latency models for the settings of a random load.
pub(crate) fn latency() -> impl Strategy<Value = &'static str> {
    prop_oneof![2 => Just("linear:100,10,20"), 1 => Just("profile:uneven")]
}

/// How long KV is on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TransferTime {
    Fixed(Duration),
    /// For the whole prompt; less in proportion to what is here.
    Missing(Duration),
}

impl TransferTime {
    fn of(self, fetch: Fetch) -> Duration {
        match self {
            Self::Fixed(duration) => duration,
            Self::Missing(full_prompt) => {
                let ns = full_prompt.as_ns() * u64::from(fetch.tokens);
                Duration::from_ns(ns.div_ceil(fetch.of_tokens.into()))
            }
        }
    }
}

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
    /// How long its KV is on its way, if it comes from elsewhere.
    pub(crate) transfer: Option<TransferTime>,
    /// For a request whose blocks are held: how long after its end the transfer is known, and how long that takes.
    pub(crate) reader: Option<(u64, u64)>,
    /// The adapter that it needs, where the settings have any.
    pub(crate) lora: Option<u32>,
    /// The grammar of its output.
    pub(crate) grammar: Option<u32>,
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
            transfer: None,
            reader: None,
            lora: None,
            grammar: None,
        }
    }
}

pub(crate) fn load(most: usize) -> impl Strategy<Value = Vec<Submission>> {
    let duration = || (0_u64..3_000).prop_map(|us| Duration::from_ns(us * 1000));
    let transfer =
        prop_oneof![duration().prop_map(TransferTime::Fixed), duration().prop_map(TransferTime::Missing),];
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
    let submission = submission.prop_map(|(prompt, output, gap_us, (transfer, reader))| {
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
            transfer,
            reader,
            lora: Some(own_len % 7).filter(|lora| *lora < 5),
            grammar: Some(own_len % 5).filter(|grammar| *grammar < 2),
        }
    });
    prop::collection::vec(submission, 1..most)
}

/// Serves a load to its end, checking all along; returns what the engine did.
///
/// An engine that takes decodes together, and goes on by itself where nothing can come to it, has to do the same.
pub(crate) fn run(settings: &Value, load: &[Submission]) -> Vec<Iteration> {
    let plain = serve(settings, load, Mode::OneByOne, false);
    let mut without_own = plain.iterations.clone();
    for iteration in &mut without_own {
        leave_out(&mut iteration.kv_events, &plain.own_output);
    }
    for (kv_events, are_open) in
        [(Told::All, false), (Told::Nothing, false), (Told::All, true), (Told::NoOwnOutput, false)]
    {
        let together = serve(settings, load, Mode::Together { kv_events }, are_open);
        assert_eq!(together.extrapolated, plain.extrapolated, "iterations that are extrapolated");
        let all = if kv_events == Told::NoOwnOutput { &without_own } else { &plain.iterations };
        // One that only has events is not told of where nobody wants these.
        let told = |iteration: &&Iteration| {
            kv_events == Told::All
                || iteration.is_eventful()
                || (kv_events == Told::NoOwnOutput && !iteration.kv_events.is_empty())
        };
        let expected: Vec<&Iteration> = all.iter().filter(told).collect();
        for (number, (seen, expected)) in together.iterations.iter().zip(&expected).enumerate() {
            let mut expected = as_far_as_known(expected, seen);
            if are_open {
                let transfers = expected.transfers.iter_mut().zip(&seen.transfers);
                transfers
                    .for_each(|(expected, seen)| expected.end = expected.end.filter(|_| seen.end.is_some()));
            }
            if kv_events == Told::Nothing {
                expected.kv_events.clear();
                if let Some(state) = &mut expected.sglang {
                    state.tiered_events.clear();
                }
            }
            if kv_events != Told::All {
                // What nobody else can hit is not looked up either before its request loses it.
                expected.cached_blocks = seen.cached_blocks;
            }
            let mode = format!("KV events: {kv_events:?}, ends of transfers are told: {are_open}");
            assert_eq!(seen, &expected, "iteration {number}, {mode}");
        }
        assert_eq!(together.iterations.len(), expected.len(), "iterations, KV events: {kv_events:?}");
    }
    plain.iterations
}

/// How many of the tokens of a load are reported together, and how many there are.
fn share_of_stretches(settings: &Value, load: &[Submission]) -> (u64, u64) {
    let mut driver = Driver::new(settings, load, Mode::Together { kv_events: Told::All }, false);
    driver.run();
    (driver.log.together, driver.log.sink.iterations.iter().map(Iteration::tokens_emitted).sum())
}

/// Checks that of the tokens of random loads at least every `part`th one is reported together: properties that compare
/// the two ways would say little if it were not so.
#[track_caller]
pub(crate) fn check_share_of_stretches(part: u64, name: &str, settings: impl Strategy<Value = Value>) {
    let mut runner = TestRunner::deterministic();
    let (mut together, mut tokens) = (0, 0);
    for _ in 0..300 {
        let mut draw = || {
            let (settings, load) = (settings.new_tree(&mut runner).unwrap(), load(24).new_tree(&mut runner));
            (settings.current(), load.unwrap().current())
        };
        let (settings, load) = draw();
        let (of_load, all) = share_of_stretches(&settings, &load);
        (together, tokens) = (together + of_load, tokens + all);
    }
    assert!(part * together >= tokens, "{name}: {together} of {tokens} tokens");
}

/// How an engine takes decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneByOne,
    Together { kv_events: Told },
}

/// Of which KV events an engine tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// All but those of output that no other request can hit.
    NoOwnOutput,
    All,
}

/// Leaves the events of some contents out.
fn leave_out(events: &mut Vec<KvEvent>, contents: &FxHashSet<SequenceHash>) {
    events.retain_mut(|event| {
        let (KvEvent::Stored { blocks, .. } | KvEvent::Removed { blocks }) = event else { return true };
        *blocks = blocks.iter().filter(|hash| !contents.contains(hash)).collect();
        !blocks.is_empty()
    });
}

/// What came of a load.
struct Served {
    iterations: Vec<Iteration>,
    extrapolated: u64,
    /// Contents that an engine may leave out of its events.
    own_output: FxHashSet<SequenceHash>,
}

fn serve(settings: &Value, load: &[Submission], mode: Mode, are_open: bool) -> Served {
    let mut driver = Driver::new(settings, load, mode, are_open);
    driver.run();
    driver.check_outcome();
    Served {
        extrapolated: driver.engine.num_extrapolated(),
        own_output: driver.own_output(),
        iterations: driver.log.sink.iterations,
    }
}

struct Driver<'a> {
    load: &'a [Submission],
    mode: Mode,
    engine: Engine,
    log: Expander<Log>,
    arrivals: Vec<Time>,
    /// Releases that are due, by time and request; the value is the end of the transfer.
    releases: BTreeMap<(Time, RequestId), Time>,
    /// Ended requests with readers.
    read: FxHashSet<RequestId>,
    refused: FxHashMap<RequestId, Rejection>,
    iterations_seen: usize,
}

impl<'a> Driver<'a> {
    fn new(settings: &Value, load: &'a [Submission], mode: Mode, are_open: bool) -> Self {
        let args = EngineArgs::from_json(settings.clone()).unwrap();
        let kv_events = mode != Mode::Together { kv_events: Told::Nothing };
        let skip_own_output = mode == Mode::Together { kv_events: Told::NoOwnOutput };
        let times = load.iter().map(|submission| submission.transfer).collect();
        let transfers = Transfers { times, are_open, ..Transfers::default() };
        let tells_all = kv_events && !skip_own_output;
        let log = Log { args: args.clone(), transfers, tells_all, ..Log::default() };
        let tracing = match mode {
            Mode::OneByOne => {
                EngineTracing { kv_events, block_ids: true, sglang_state: true, ..EngineTracing::default() }
            }
            Mode::Together { .. } => EngineTracing {
                kv_events,
                skip_own_output,
                sglang_state: true,
                stretches: true,
                ..EngineTracing::default()
            },
        };
        let model = (args.latency.as_deref() == Some("profile:uneven"))
            .then(|| Arc::new(Uneven) as Arc<dyn LatencyModel>);
        let mut arrival = Time::ZERO;
        let arrivals = load.iter().map(|submission| {
            arrival = arrival + Duration::from_ns(submission.gap_us * 1000);
            arrival
        });
        Self {
            load,
            mode,
            log: Expander::new(log, &args),
            arrivals: arrivals.collect(),
            engine: Engine::new(args.validate(model).unwrap(), tracing),
            releases: BTreeMap::new(),
            read: FxHashSet::default(),
            refused: FxHashMap::default(),
            iterations_seen: 0,
        }
    }

    fn run(&mut self) {
        let (mut now, mut submitted) = (Time::ZERO, 0);
        loop {
            while self.next_fetched().is_some_and(|end| end <= now)
                && let Some((_, id)) = self.log.sink.transfers.under_way.pop_first()
            {
                self.engine.fetched(id, now);
            }
            while self.arrivals.get(submitted).is_some_and(|&arrival| arrival <= now) {
                let request = self.request(submitted);
                let id = request.id;
                self.log.submitted(id, request.prompt.tokens());
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
            let mut state = self.engine.run(now, &mut self.log).unwrap();
            self.follow();
            if self.may_run_ahead(submitted) {
                let arrival = self.arrivals.get(submitted).copied().into_iter();
                let horizon = arrival.chain(self.next_fetched()).min().unwrap_or(Time::MAX);
                state = self.engine.run_on(now, horizon, &mut self.log).unwrap();
                self.follow();
            }
            let input = self.releases.keys().map(|&(at, _)| at).next().into_iter();
            let input = input.chain(self.arrivals.get(submitted).copied()).chain(self.next_fetched()).min();
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

    /// When KV is here that the engine does not expect then.
    fn next_fetched(&self) -> Option<Time> {
        self.log.sink.transfers.under_way.first().map(|&(end, _)| end)
    }

    /// Whether nothing comes to the engine before the next arrival or the end of a transfer that it does not know: no KV is
    /// held for a reader, nor will be, and no such transfer begins.
    fn may_run_ahead(&self, submitted: usize) -> bool {
        let id = |index: usize| RequestId(index as u32);
        let is_given_up = |index: usize| {
            let id = id(index);
            self.log.sink.rejected.contains_key(&id) || self.refused.contains_key(&id)
        };
        let is_read = |index: usize| self.load[index].reader.is_none() || self.read.contains(&id(index));
        let Transfers { times, are_open, begun, .. } = &self.log.sink.transfers;
        let has_begun = |index: usize| !are_open || times[index].is_none() || begun.contains(&id(index));
        let is_over = |index: usize| is_given_up(index) || (is_read(index) && has_begun(index));
        self.mode != Mode::OneByOne && (0..submitted).all(is_over) && self.releases.is_empty()
    }

    /// What the requests of the load generate, which nobody else names, where the engine can leave that out of its events.
    fn own_output(&self) -> FxHashSet<SequenceHash> {
        // More than any pool of these loads holds.
        const MOST_OUTPUT: u32 = 20_000;
        let config = self.engine.config();
        let args = &self.log.sink.args;
        if args.engine_type == EngineType::Sglang || args.kv_groups.is_some() {
            return FxHashSet::default();
        }
        let hasher = || BlockHasher::looking_ahead(config.block_size(), config.hash_lookahead());
        let of = |index: usize| {
            let prompt = self.load[index].prompt(index);
            let full = prompt.tokens() / config.block_size();
            let content = Prompt::new(
                prompt.runs().iter().copied().chain([Run::output_of(RequestId(index as u32), MOST_OUTPUT)]),
            );
            hasher().runs_of(&content).iter().skip(full as usize).collect::<Vec<_>>()
        };
        (0..self.load.len()).flat_map(of).collect()
    }

    fn request(&self, index: usize) -> EngineRequest {
        let submission = &self.load[index];
        EngineRequest {
            stop_after: submission.stop_after,
            priority: submission.priority,
            ignore_eos: submission.ignore_eos,
            remote_prefill: submission.transfer.is_some(),
            hold_kv: submission.reader.is_some(),
            lora: submission.lora,
            grammar: submission.grammar.map(|number| Grammar { number, submitted: self.arrivals[index] }),
            routing_key: (submission.group > 0).then_some(submission.group),
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
        self.log.flush();
        self.engine.check().unwrap();
        assert!(self.log.sink.fruitless <= MOST_FRUITLESS_ITERATIONS, "no progress");
        let mut ended = |id: RequestId, end: Time| {
            if let Some((after, takes)) = self.load[id.index()].reader {
                let start = end + Duration::from_ns(after * 1000);
                self.releases.insert((start, id), start + Duration::from_ns(takes * 1000));
                self.read.insert(id);
            }
        };
        for iteration in &self.log.sink.iterations[self.iterations_seen..] {
            for finished in &iteration.finished {
                ended(finished.id, iteration.end);
            }
            for joined in iteration.joined.iter().filter(|joined| joined.is_finished) {
                ended(joined.id, iteration.end);
            }
        }
        self.iterations_seen = self.log.sink.iterations.len();
    }

    fn check_outcome(&self) {
        let config = self.engine.config();
        assert_eq!(
            (self.engine.num_running(), self.engine.num_waiting()),
            (0, 0),
            "requests are left behind"
        );
        assert!(self.engine.is_empty(), "something is left in flight");
        // What SGLang was copying to the host is locked until its next decision.
        if !has_tiers(&self.log.sink.args) {
            assert_eq!(self.engine.num_free_blocks(), config.usable_blocks(), "blocks are left behind");
        }
        let capacity = u64::from(config.usable_blocks()) * u64::from(config.block_size());
        for (index, submission) in self.load.iter().enumerate() {
            let id = RequestId(index as u32);
            let prompt_tokens = submission.prefix_len + submission.own_len;
            let log = &self.log.sink;
            let emitted = log.emitted.get(&id).copied().unwrap_or(0);
            match (self.refused.get(&id), log.rejected.get(&id), log.finished.get(&id)) {
                (Some(_), None, None) => assert_eq!(emitted, 0, "request {index} was refused"),
                (None, Some(Rejection::KvCapacity { tokens }), None)
                    if log.args.engine_type == EngineType::Sglang =>
                {
                    // Its output was cut to the pool, so that it had room alone.
                    if !log.given_up_last.contains(&id) {
                        check_given_up_for_window(&log.args, *tokens);
                    }
                    assert_eq!(*tokens, prompt_tokens + emitted, "request {index}");
                }
                (None, Some(Rejection::KvCapacity { tokens }), None) => {
                    // Drafts and what their drafter looks ahead need slots, too, and KV that is fetched leaves blocks for them.
                    let speculation = log.args.speculative_config.as_ref();
                    let drafts = speculation.and_then(|given| given.num_speculative_tokens).unwrap_or(0);
                    let fetched = if submission.transfer.is_some() { config.block_size() } else { 0 };
                    let slots = if drafts > 0 { u64::from(2 * (drafts + 1) + fetched) } else { 0 };
                    assert!(
                        u64::from(*tokens) + slots > capacity || log.args.kv_groups.is_some(),
                        "request {index} of {tokens} tokens would have fit"
                    );
                    assert_eq!(*tokens, prompt_tokens + emitted, "request {index}");
                }
                (None, Some(Rejection::Unchunkable { tokens, budget }), None) => {
                    assert!(!log.args.enable_chunked_prefill && tokens > budget, "request {index}");
                }
                (None, Some(Rejection::PromptTooLong { .. } | Rejection::MaxModelLen { .. }), None) => {
                    // Its stub was computed.
                    assert!(config.check_request(prompt_tokens).is_err(), "request {index} fits");
                    assert!(log.args.engine_type == EngineType::Sglang && emitted == 0, "request {index}");
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

impl Driver<'_> {
    /// Output that a prompt leaves room for, in the context and where the engine cuts it to the pool.
    fn output_room(&self, prompt: u64) -> u64 {
        let config = self.engine.config();
        let (pages, page) = (u64::from(config.usable_blocks()), u64::from(config.block_size()));
        let context = u64::from(self.log.sink.args.max_model_len.unwrap_or(i32::MAX as u32));
        match self.log.sink.args.engine_type {
            EngineType::Vllm => context - prompt,
            EngineType::Trtllm => context.min(pages * page) - prompt,
            EngineType::Sglang => {
                let pool = (pages - prompt.div_ceil(page)).saturating_sub(1) * page;
                context.saturating_sub(prompt + 2).min(pool.saturating_sub(1)).max(1)
            }
        }
    }
}

/// KV that comes from elsewhere.
#[derive(Default)]
struct Transfers {
    /// By request, if that fetches something.
    times: Vec<Option<TransferTime>>,
    /// Whether the engine is told of an end only when that has come.
    are_open: bool,
    begun: FxHashSet<RequestId>,
    /// By their ends, which the engine does not know.
    under_way: BTreeSet<(Time, RequestId)>,
}

/// Checks each iteration as it comes.
#[derive(Default)]
struct Log {
    args: EngineArgs,
    transfers: Transfers,
    /// Whether the events tell of all that is cached.
    tells_all: bool,
    iterations: Vec<Iteration>,
    last_end: Time,
    /// Iterations since the last one that gave somebody a token or ended a request.
    fruitless: u32,
    emitted: FxHashMap<RequestId, u32>,
    finished: FxHashMap<RequestId, u32>,
    rejected: FxHashMap<RequestId, Rejection>,
    /// Those of SGLang that were given up as the last that ran, without memory for their next token.
    given_up_last: FxHashSet<RequestId>,
    /// Who joined in iterations that have not ended, and when.
    joined: Vec<(Joined, Time)>,
    /// How many blocks have each content, by the events.
    contents: FxHashMap<SequenceHash, u32>,
}

impl Links for Log {
    fn begin(&mut self, fetch: Fetch, now: Time) -> Begun {
        // SGLang can have all of a prompt already, since nothing of it has to be computed.
        let all_here = self.args.engine_type == EngineType::Sglang;
        assert!(fetch.tokens > 0 || all_here);
        let Transfers { times, are_open, begun, under_way } = &mut self.transfers;
        assert!(begun.insert(fetch.id), "KV is fetched once");
        let end = now + times[fetch.id.index()].expect("its KV comes from elsewhere").of(fetch);
        if *are_open && end > now {
            under_way.insert((end, fetch.id));
            Begun::Open
        } else {
            Begun::At(end)
        }
    }
}

/// Whether layers with a sliding window have a pool of their own in SGLang.
fn has_windows(args: &EngineArgs) -> bool {
    args.sglang.as_ref().is_some_and(|own| own.sliding_window_size.is_some())
}

/// A request is given up only where the pool of windows is too small for its tokens beside the windows at both ends of what it
/// hits.
fn check_given_up_for_window(args: &EngineArgs, tokens: u32) {
    let own = args.sglang.clone().unwrap();
    let window = own.sliding_window_size.expect("without windows only the last that runs is given up");
    let page = own.page_size.unwrap();
    let pages = (own.swa_full_tokens_ratio.unwrap() * f64::from(args.num_gpu_blocks) + 1e-6) as u32;
    let (needed, capacity) = (tokens + 2 * (window + page), pages * page);
    assert!(needed > capacity, "{tokens} tokens would have fit: {needed} of {capacity}");
}

/// Whether an engine keeps cached KV on the host, too.
fn has_tiers(args: &EngineArgs) -> bool {
    args.sglang.as_ref().is_some_and(|own| own.enable_hierarchical_cache)
}

impl IterationSink for Log {
    fn joined(&mut self, joined: Joined, now: Time) {
        assert!(self.args.engine_type != EngineType::Vllm, "vLLM computes the first token");
        assert!(!self.emitted.contains_key(&joined.id), "the token that is handed over is the first");
        self.emitted.insert(joined.id, 1);
        if joined.is_finished {
            assert_eq!(self.finished.insert(joined.id, 1), None, "ended twice");
        }
        self.joined.push((joined, now));
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
        let joined = self.joined.drain(..iteration.joined.len());
        // A decision may wait for copies to the host after that.
        let late = has_tiers(&self.args);
        let is_told = |(found, &expected): ((Joined, Time), &Joined)| {
            found.0 == expected
                && (found.1 == iteration.scheduled_at || (late && found.1 < iteration.scheduled_at))
        };
        assert!(joined.zip(&iteration.joined).all(is_told), "who joined is told of when it does");
        assert!(!iteration.joined.iter().any(|joined| joined.is_finished && scheduled.contains(&joined.id)));
        let is_fruitful =
            !iteration.joined.is_empty() || !iteration.emitted.is_empty() || !iteration.rejected.is_empty();
        self.fruitless = if is_fruitful { 0 } else { self.fruitless + 1 };
        for emitted in &iteration.emitted {
            assert!(scheduled.contains(&emitted.id) && emitted.tokens > 0, "a token without computation");
            *self.emitted.entry(emitted.id).or_default() += emitted.tokens;
        }
        for finished in &iteration.finished {
            assert!(
                iteration.emitted.iter().any(|emitted| emitted.id == finished.id),
                "a request ends with its last token"
            );
            assert_eq!(self.finished.insert(finished.id, finished.output_tokens), None, "ended twice");
        }
        for &(id, reason) in &iteration.rejected {
            if sglang && matches!(reason, Rejection::KvCapacity { .. }) && self.holds_all(iteration) {
                self.given_up_last.insert(id);
            }
            assert_eq!(self.rejected.insert(id, reason), None, "given up twice");
        }
        self.follow_events(&iteration.kv_events);
        // What an iteration of SGLang without work changes is told by the next one.
        // Of groups of layers, events tell one.
        let is_told = self.tells_all && iteration.cached_blocks != UNKNOWN && self.args.kv_groups.is_none();
        if is_told && self.args.enable_prefix_caching && !(sglang && iteration.scheduled.is_empty()) {
            assert_eq!(iteration.cached_blocks, self.contents.len() as u32, "events tell what is cached");
        }
        self.iterations.push(iteration.clone());
    }
}

impl Log {
    /// Whether nobody runs on after an iteration of SGLang, and what cannot be taken away there has the memory: a prompt that is
    /// computed in chunks, windows of what is cached, or what is being copied to the host.
    fn holds_all(&self, iteration: &Iteration) -> bool {
        let state = iteration.sglang.as_deref().unwrap();
        let holds = state.chunked.is_some() || has_windows(&self.args) || has_tiers(&self.args);
        state.running.is_empty() && iteration.scheduled.is_empty() && holds
    }

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
