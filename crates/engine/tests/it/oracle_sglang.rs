//! Every recording of the real SGLang scheduler is reproduced step by step, and again with decodes taken together.
//!
//! The test takes the cases of the repository and whatever cases lie in [`FOLDERS`] under `$SERVECAST_ORACLE`; those that
//! cannot hold are in [`EXCEPTIONS`], as predicates over their settings. Which slot of the pool a token lies in is not
//! simulated, since it makes no difference to any decision.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use servecast_engine::{
    Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, HostCopies, Iteration, Requeue,
    SglangState, WindowSlots,
};
use servecast_types::{KvEvent, RequestId, Time};

use crate::expand::{Expander, as_far_as_known};
use crate::recording::{
    HashNumbers, Lack, Log, Mode, Predicate, Recording, from_us, latency, replay_most, us,
};
use crate::{oracle_sglang_dp, oracle_sglang_pd};

/// Folders of recordings; one may be all that somebody has.
const FOLDERS: &[&str] = &[
    "sglang",
    "sglang-2/sglang",
    "sglang-2/sglang-policies",
    "sglang-2/sglang-pd",
    "sglang-2/sglang-spec",
    "sglang-2/sglang-hicache-swa",
    "sglang-2/sglang-dp",
];

/// Recordings of what is not simulated: what they have in common, and why.
const SKIPPED: &[(&str, Lack)] = &[];

/// Recordings that are known to differ: what they have in common, and why.
const EXCEPTIONS: &[(&str, Predicate)] =
    &[("the policy `random` draws from another generator", |config| config["schedule_policy"] == "random")];

#[test]
fn oracle_sglang() {
    replay_most("sglang", FOLDERS, SKIPPED, EXCEPTIONS, |case| {
        if case.expected["config"]["disaggregation"].is_object() {
            oracle_sglang_pd::replay(case)
        } else if case.expected["config"]["dp_size"].is_number() {
            oracle_sglang_dp::replay(case)
        } else {
            replay(case)
        }
    });
}

/// Runs the case and compares it with what was recorded, and with runs that take decodes together; says where they first
/// part.
fn replay(case: &Recording) -> Result<(), String> {
    let plain = Driver::new(case, Mode::OneByOne)?.run()?;
    let mut told = Told::default();
    let config = &case.expected["config"];
    let found = plain.iterations.iter().map(|each| describe(case, config, each, plain.page_size, &mut told));
    let found: Vec<_> = found.collect();
    let steps = case.expected["steps"].as_array().unwrap();
    for (number, (expected, found)) in steps.iter().zip(&found).enumerate() {
        let differs = found.iter().filter(|(key, found)| expected[**key] != **found);
        let differs = differs.map(|(key, found)| format!("`{key}` is {found}, recorded {}", expected[*key]));
        let differs: Vec<String> = differs.collect();
        if !differs.is_empty() {
            return Err(format!("step {number}: {}", differs.join("; ")));
        }
    }
    if steps.len() != found.len() {
        return Err(format!("{} steps, recorded {}", found.len(), steps.len()));
    }
    for mode in [Mode::Together, Mode::Ahead] {
        compare(&plain, &Driver::new(case, mode)?.run()?)
            .map_err(|difference| format!("{mode:?}: {difference}"))?;
    }
    Ok(())
}

/// Compares runs of a case with and without stretches.
fn compare(plain: &Run, fast: &Run) -> Result<(), String> {
    for (number, (seen, plain)) in fast.iterations.iter().zip(&plain.iterations).enumerate() {
        let expected = as_far_as_known(plain, seen);
        if *seen != expected {
            return Err(format!("iteration {number} is {seen:?}\nwithout stretches: {expected:?}"));
        }
    }
    for (seen, plain) in fast.loads.iter().zip(&plain.loads) {
        if seen != plain {
            return Err(format!("an arrival meets {seen:?}\nwithout stretches: {plain:?}"));
        }
    }
    let counts = |run: &Run| (run.iterations.len(), run.loads.len());
    if counts(fast) != counts(plain) {
        let (fast, plain) = (counts(fast), counts(plain));
        return Err(format!("{fast:?} iterations and instants of arrivals, without stretches {plain:?}"));
    }
    Ok(())
}

/// What an engine did.
struct Run {
    iterations: Vec<Iteration>,
    /// What requests met that arrived.
    loads: Vec<Load>,
    page_size: u32,
}

/// What an engine holds before requests arrive.
#[derive(Debug, PartialEq)]
struct Load {
    at: Time,
    running: usize,
    waiting: usize,
    free_blocks: u32,
}

/// Feeds an engine as the recorder fed SGLang: integer microseconds, arrivals between iterations.
struct Driver<'a> {
    case: &'a Recording,
    mode: Mode,
    engine: Engine,
    log: Expander<Log>,
    arrivals: VecDeque<usize>,
    loads: Vec<Load>,
}

impl<'a> Driver<'a> {
    fn new(case: &'a Recording, mode: Mode) -> Result<Self, String> {
        let settings = settings(&case.expected["config"], &case.expected["latency"]);
        let args = EngineArgs::from_json(settings).unwrap();
        let config = args.validate(None).map_err(|error| error.to_string())?;
        let plain = mode == Mode::OneByOne;
        let tracing = EngineTracing {
            kv_events: true,
            sglang_state: true,
            // Nothing is taken together beside a second tier or a pool of windows.
            recorder_clock: plain || case.config("hicache").is_object() || case.config("swa").is_object(),
            stretches: !plain,
            ..EngineTracing::default()
        };
        let (engine, log) = (Engine::new(config, tracing), Expander::new(Log::default(), &args));
        Ok(Self { case, mode, engine, log, arrivals: case.arrivals(), loads: Vec::new() })
    }

    /// Serves the case to its end.
    fn run(mut self) -> Result<Run, String> {
        let mut now = Time::ZERO;
        loop {
            self.submit(now)?;
            let next = self.next_arrival();
            let mut state = self.engine.run(now, &mut self.log).unwrap();
            if self.mode == Mode::Ahead {
                state = self.engine.run_on(now, next.unwrap_or(Time::MAX), &mut self.log).unwrap();
            }
            self.log.flush();
            self.engine.check()?;
            match (state, next) {
                (EngineState::Busy { until }, _) => {
                    now = until;
                    self.engine.end_iteration(now, &mut self.log);
                    self.log.flush();
                }
                (EngineState::Idle { .. }, Some(next)) => now = now.max(next),
                (EngineState::Idle { .. }, None) => {
                    let page_size = self.engine.config().block_size();
                    return Ok(Run { iterations: self.log.sink.ended, loads: self.loads, page_size });
                }
            }
        }
    }

    fn next_arrival(&self) -> Option<Time> {
        self.arrivals.front().map(|&next| from_us(self.case.requests[next].arrival_us))
    }

    /// Submits what has arrived.
    fn submit(&mut self, now: Time) -> Result<(), String> {
        if self.next_arrival().is_some_and(|next| next <= now) {
            self.loads.push(Load {
                at: now,
                running: self.engine.num_running(),
                waiting: self.engine.num_waiting(),
                free_blocks: self.engine.num_free_blocks(),
            });
        }
        while self.next_arrival().is_some_and(|next| next <= now)
            && let Some(request) = self.arrivals.pop_front()
        {
            let submission = self.request(request);
            self.log.submitted(submission.id, submission.prompt.tokens());
            let submitted = self.engine.submit(submission);
            submitted.map_err(|reason| format!("{}: {reason}", self.case.requests[request].id))?;
        }
        Ok(())
    }

    fn request(&self, index: usize) -> EngineRequest {
        let case = &self.case.requests[index];
        EngineRequest {
            priority: priority_of(self.case, index),
            tie_break: self.case.tie_break(index),
            accepted_drafts: accepted_drafts(self.case, index),
            ignore_eos: case.ignore_eos,
            ..self.case.request(index)
        }
    }
}

/// What was told of the iterations before.
#[derive(Default)]
pub(crate) struct Told {
    hash_numbers: HashNumbers,
    /// Tokens that were last loaded from the host for a request.
    loaded: BTreeMap<RequestId, u32>,
}

/// An iteration in the words of the recorder.
pub(crate) fn describe(
    case: &Recording,
    config: &Value,
    iteration: &Iteration,
    page_size: u32,
    told: &mut Told,
) -> BTreeMap<&'static str, Value> {
    let full = case.expected["steps"][0]["running"].is_array();
    let state: &SglangState = iteration.sglang.as_deref().unwrap();
    let list = |ids| if full { json!(case.names(ids)) } else { json!(ids.len()) };
    let scheduled = iteration.scheduled.iter();
    let requeued = iteration.preempted.iter().zip(&state.requeued).map(|(&id, how)| {
        let how = match how {
            Requeue::Retracted => "retracted",
            Requeue::Preempted => "preempted",
        };
        json!([case.name(id), how])
    });
    // A stub ends with its token, like others.
    let (stubs, aborted): (Vec<_>, Vec<_>) = iteration
        .rejected
        .iter()
        .map(|&(id, _)| id)
        .partition(|&id| iteration.scheduled.iter().any(|each| each.id == id));
    let mut step = BTreeMap::from([
        ("t_schedule_us", json!(us(iteration.scheduled_at))),
        (
            "scheduled",
            scheduled.map(|each| json!([case.name(each.id), each.tokens, each.computed])).collect(),
        ),
        ("requeued", requeued.collect()),
        ("aborted", aborted.iter().map(|&id| json!(case.name(id))).collect()),
        ("chunked_req", json!(state.chunked.map(|id| case.name(id)))),
        ("running", list(&state.running)),
        ("waiting", list(&state.waiting)),
        ("batch_is_full", json!(state.batch_is_full)),
        ("new_token_ratio", rounded(state.new_token_ratio, 6)),
        ("available", json!(state.available)),
        ("evictable", json!(state.evictable)),
        ("protected", json!(state.protected)),
    ]);
    if let (Some(rem_input), Some(rem_total)) = (state.rem_input, state.rem_total) {
        let budgets = json!({
            "rem_input": rem_input, "rem_chunk": state.rem_chunk, "rem_total": rounded(rem_total, 3),
        });
        step.insert("adder", budgets);
    }
    if let Some(host) = &state.host {
        let mut copies = host_copies(host);
        if state.prefills > 0 {
            copies["loaded"] = loaded(case, iteration, told);
        }
        step.insert("hicache", copies);
    }
    if let Some(windows) = &state.windows {
        step.insert("swa", window_slots(windows, state.evictable));
    }
    if iteration.scheduled.is_empty() {
        return step;
    }
    if let Some(windows) = &state.windows_end {
        step.insert("swa_end", window_slots(windows, state.evictable_end));
    }
    if let Some(host) = &state.host_end {
        step.insert("hicache_end", host_copies(host));
    }
    // Stubs stand where they stand in the batch.
    let in_batch = |told: &[RequestId]| -> Vec<RequestId> {
        let ids = iteration.scheduled.iter().map(|each| each.id);
        ids.filter(|id| told.contains(id) || stubs.contains(id)).collect()
    };
    let emitted: Vec<_> = iteration.emitted.iter().map(|each| each.id).collect();
    let emitted = in_batch(&emitted);
    let finished: Vec<_> = iteration.finished.iter().map(|each| each.id).collect();
    let finished = in_batch(&finished);
    let events: Vec<Value> = if config["hicache"].is_object() {
        state.tiered_events.iter().map(|event| tiered(event, page_size, &mut told.hash_numbers)).collect()
    } else {
        iteration.kv_events.iter().map(|event| told.hash_numbers.canonical(event, page_size)).collect()
    };
    step.extend([
        ("mode", json!(mode(iteration))),
        ("t_start_us", json!(us(iteration.start))),
        ("t_end_us", json!(us(iteration.end))),
        ("emitted", json!(case.names(&emitted))),
        ("finished", json!(case.names(&finished))),
        ("available_end", json!(state.available_end)),
        ("evictable_end", json!(state.evictable_end)),
        ("protected_end", json!(state.protected_end)),
    ]);
    if config["speculative_algorithm"].is_string() {
        step.insert("kv_allocated", json!(state.kv_allocated));
        let tokens = |id| iteration.emitted.iter().find(|each| each.id == id).map_or(1, |each| each.tokens);
        let accepted = emitted.iter().map(|&id| json!([case.name(id), tokens(id)]));
        step.insert("accepted", accepted.collect());
    }
    if config["enable_kv_cache_events"] == true {
        if full {
            step.insert("kv_events", events.iter().map(in_runs).collect());
        } else {
            let hashes = |kind| {
                let events = events.iter().filter(move |event| event["type"] == kind);
                events.map(|event| event["hashes"].as_array().unwrap().len()).sum::<usize>()
            };
            step.insert("kv_events_stored_removed", json!([hashes("stored"), hashes("removed")]));
        }
    }
    step
}

/// What was loaded for the requests of a batch: the recorder tells of the last load whenever a request is in one.
fn loaded(case: &Recording, iteration: &Iteration, told: &mut Told) -> Value {
    let loaded = iteration.admitted.iter().filter(|each| each.host_cached_tokens > 0);
    told.loaded.extend(loaded.map(|each| (each.id, each.host_cached_tokens)));
    let in_batch = iteration.scheduled.iter().filter_map(|each| told.loaded.get_key_value(&each.id));
    in_batch.map(|(&id, tokens)| json!([case.name(id), tokens])).collect()
}

/// An event of a cache with two tiers.
fn tiered((is_host, event): &(bool, KvEvent), page_size: u32, hash_numbers: &mut HashNumbers) -> Value {
    let mut event = hash_numbers.canonical(event, page_size);
    if event["type"] != "cleared" {
        event["medium"] = json!(if *is_host { "CPU_PINNED" } else { "GPU" });
    }
    event
}

fn window_slots(windows: &WindowSlots, evictable: u64) -> Value {
    json!({
        "full_available": windows.full_available,
        "full_evictable": evictable,
        "swa_available": windows.available,
        "swa_evictable": windows.evictable,
        "swa_protected": windows.protected,
    })
}

fn host_copies(host: &HostCopies) -> Value {
    let transfer = |(writes, tokens, end): &(bool, Vec<u32>, Time)| {
        json!([if *writes { "write" } else { "load" }, tokens, us(*end)])
    };
    json!({
        "transfers": host.transfers.iter().map(transfer).collect::<Vec<_>>(),
        "host_available": host.available,
        "writing": host.writing,
        "loading": host.loading,
    })
}

/// The host tier of a recording by our names: a token has 1,000 bytes, so that bandwidths give the times that are recorded.
fn set_hicache(keys: &mut Map<String, Value>) -> Option<u64> {
    let given = keys.remove("hicache")?;
    let figure = |key: &str| given[key].as_f64().unwrap();
    let pool = keys["max_total_tokens"].as_f64().unwrap();
    keys.insert("enable_hierarchical_cache".to_owned(), json!(true));
    keys.insert("hicache_ratio".to_owned(), json!(figure("host_tokens") / pool));
    keys.insert("hicache_write_policy".to_owned(), given["policy"].clone());
    for direction in ["write", "load"] {
        keys.insert(format!("hicache_{direction}_us"), json!(figure(&format!("{direction}_us"))));
        let bandwidth = 1.0 / figure(&format!("{direction}_us_per_token"));
        keys.insert(format!("hicache_{direction}_bandwidth"), json!(bandwidth));
    }
    Some(1_000)
}

/// The pool of windows of a recording by our names.
fn set_windows(keys: &mut Map<String, Value>) {
    let Some(given) = keys.remove("swa") else { return };
    let pool = keys["max_total_tokens"].as_f64().unwrap();
    keys.insert("sliding_window_size".to_owned(), given["window"].clone());
    keys.insert("swa_full_tokens_ratio".to_owned(), json!(given["swa_tokens"].as_f64().unwrap() / pool));
}

/// The priority of a request: without one it is the least important.
pub(crate) fn priority_of(case: &Recording, index: usize) -> i32 {
    let low_first = case.expected["config"]["schedule_low_priority_values_first"] == true;
    case.requests[index].priority.unwrap_or(if low_first { i32::MAX } else { i32::MIN })
}

/// What is accepted of the drafts of a request: a case counts the model's own token of each verification, too.
pub(crate) fn accepted_drafts(case: &Recording, index: usize) -> Option<Arc<[u32]>> {
    let tokens = case.requests[index].accept.as_ref()?;
    Some(tokens.iter().map(|tokens| tokens - 1).collect())
}

/// The settings of a recording by our names.
pub(crate) fn settings(config: &Value, terms: &Value) -> Value {
    let mut own = config.clone();
    let keys = own.as_object_mut().unwrap();
    keys.remove("enable_kv_cache_events");
    // What the engine does by itself; where it was off, no prompt is that long.
    keys.remove("validate_input_length");
    let overlap = keys.remove("overlap").unwrap() == true;
    keys.insert("disable_overlap_schedule".to_owned(), (!overlap).into());
    if keys["chunked_prefill_size"].is_null() {
        keys["chunked_prefill_size"] = json!(-1);
    }
    // The recorder has no steps for n-grams, and cases say what is accepted.
    if keys.get("speculative_algorithm").is_some_and(|algorithm| algorithm == "NGRAM") {
        keys.remove("speculative_num_steps");
    }
    let speculates = keys.get("speculative_algorithm").is_some_and(Value::is_string);
    let accepted = speculates.then(|| json!({"acceptance_length": 1.0}));
    let token_bytes = set_hicache(keys);
    set_windows(keys);
    json!({
        "engine_type": "sglang", "speculative_config": accepted, "kv_bytes_per_token": token_bytes, "sglang": own,
        "latency": latency(terms),
    })
}

fn mode(iteration: &Iteration) -> &'static str {
    let state = iteration.sglang.as_deref().unwrap();
    match (state.prefills, iteration.scheduled.len()) {
        (0, _) => "decode",
        (prefills, all) if prefills < all => "mixed",
        _ => "prefill",
    }
}

/// A number with that many decimals, as the recorder rounded it.
fn rounded(value: f64, decimals: usize) -> Value {
    json!(format!("{value:.decimals$}").parse::<f64>().unwrap())
}

/// An event with its hashes as runs of consecutive numbers.
fn in_runs(event: &Value) -> Value {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for hash in event["hashes"].as_array().unwrap() {
        let hash = hash.as_u64().unwrap();
        match runs.last_mut() {
            Some((first, len)) if *first + *len == hash => *len += 1,
            _ => runs.push((hash, 1)),
        }
    }
    let mut event = event.clone();
    event["hashes"] = json!(runs);
    event
}
