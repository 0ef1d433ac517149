//! Every recording of the real vLLM scheduler is reproduced step by step.
//!
//! A recording is a case (settings and requests) and what vLLM decided in each step. The test takes the cases of the
//! repository and whatever cases lie under `$SERVECAST_ORACLE/vllm` and `/vllm-2`; none is left out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use servecast_engine::{Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Iteration};
use servecast_types::{Duration, HashRun, KvEvent, Time};

use crate::expand::{Expander, UNKNOWN};
use crate::groups;
use crate::offload;
use crate::oracle_dp;
use crate::recording::{CaseRequest, HashNumbers, Log, Mode, Recording, from_us, replay_most, us};

/// What an engine that takes decodes together does not say of an iteration.
const ONLY_ONE_BY_ONE: [&str; 2] = ["block_ids_fnv", "free_queue_fnv"];

#[test]
fn oracle_vllm() {
    replay_most("vllm", &["vllm", "vllm-2"], &[], &[], |case| {
        if oracle_dp::is_dp(&case.expected["config"]) {
            return oracle_dp::replay(case);
        }
        for mode in [Mode::OneByOne, Mode::Together, Mode::Ahead] {
            replay(case, mode).map_err(|difference| format!("{mode:?}: {difference}"))?;
        }
        Ok(())
    });
}

/// Runs the case and compares it with what was recorded; says where they first part.
fn replay(case: &Recording, mode: Mode) -> Result<(), String> {
    let mut driver = Driver::new(case, mode)?;
    driver.run();
    let steps = case.expected["steps"].as_array().ok_or("no steps are recorded")?;
    for (number, (expected, found)) in steps.iter().zip(&driver.steps).enumerate() {
        let compared =
            found.iter().filter(|(key, _)| **key != "free_queue_fnv" || !expected[**key].is_null());
        let recorded = compared.map(|(key, found)| (key, found, without_first_tokens(&expected[*key])));
        let differs = recorded.filter(|(_, found, recorded)| recorded != *found);
        let differs =
            differs.map(|(key, found, recorded)| format!("`{key}` is {found}, recorded {recorded}"));
        let differs: Vec<String> = differs.collect();
        if !differs.is_empty() {
            return Err(format!("step {number}: {}", differs.join("; ")));
        }
    }
    if steps.len() != driver.steps.len() {
        return Err(format!("{} steps, recorded {}", driver.steps.len(), steps.len()));
    }
    let requests = driver.requests();
    if requests != case.expected["requests"] {
        return Err(format!("requests are {requests}, recorded {}", case.expected["requests"]));
    }
    Ok(())
}

/// Recorded events also name the first token of what they store, which a simulation does not know.
fn without_first_tokens(recorded: &Value) -> Value {
    let mut recorded = recorded.clone();
    for event in recorded.as_array_mut().into_iter().flatten() {
        if let Some(event) = event.as_object_mut() {
            event.remove("first_token");
        }
    }
    recorded
}

/// Feeds an engine as the recorder fed vLLM: integer microseconds, arrivals between steps.
struct Driver<'a> {
    case: &'a Recording,
    mode: Mode,
    engine: Engine,
    log: Expander<Log>,
    steps: Vec<BTreeMap<&'static str, Value>>,
    arrivals: VecDeque<usize>,
    hash_numbers: HashNumbers,
    lives: Vec<Life>,
    /// Whether the recorder looks for something from outside between two steps.
    polls: bool,
}

/// What became of a request.
#[derive(Default, Clone)]
struct Life {
    first_scheduled: Option<Time>,
    cached: u32,
    first_token: Option<Time>,
    finish: Option<Time>,
    output_tokens: u32,
    preemptions: u32,
}

impl<'a> Driver<'a> {
    fn new(case: &'a Recording, mode: Mode) -> Result<Self, String> {
        let mut config = settings(case)?;
        let keys = config.as_object_mut().unwrap();
        if let Some(sleep) = keys.remove("idle_sleep_us") {
            keys.insert("pipeline_idle_sleep_us".to_owned(), sleep);
        } else if keys.contains_key("pipeline_parallel_size") {
            keys.insert("pipeline_idle_sleep_us".to_owned(), 0.into());
        }
        keys.insert("latency".to_owned(), case.latency().into());
        let args = EngineArgs::from_json(config).map_err(|error| error.to_string())?;
        let together = mode != Mode::OneByOne;
        // The recorder's clock differs only where the connector polls or a grammar is waited for, and there nothing is taken
        // together.
        let polls = !case.expected["config"]["kv_role"].is_null()
            || case.requests.iter().any(|request| request.grammar_ready_us.is_some());
        let recorder_clock = !together || polls || offload::offloads(case);
        let tracing = EngineTracing {
            kv_events: true,
            block_ids: !together,
            recorder_clock,
            stretches: together,
            ..EngineTracing::default()
        };
        let config = args.validate(None).map_err(|error| error.to_string())?;
        let engine = Engine::new(config, tracing);
        let lives = vec![Life::default(); case.requests.len()];
        let receive = case.requests.iter().map(|request| Duration::from_ns(request.kv_recv_us * 1000));
        let log = Log { receive: receive.collect(), ..Log::default() };
        let (log, arrivals) = (Expander::new(log, &args), case.arrivals());
        Ok(Self {
            case,
            mode,
            engine,
            log,
            steps: Vec::new(),
            arrivals,
            hash_numbers: HashNumbers::default(),
            lives,
            polls,
        })
    }

    fn run(&mut self) {
        let (mut now, mut spins) = (Time::ZERO, 0);
        loop {
            while let Some(&request) = self.arrivals.front()
                && from_us(self.case.requests[request].arrival_us) <= now
            {
                self.arrivals.pop_front();
                let request = self.request(request);
                self.log.submitted(request.id, request.prompt.tokens());
                self.engine.submit(request).unwrap();
            }
            let arrival =
                self.arrivals.front().map(|&request| from_us(self.case.requests[request].arrival_us));
            let mut state = self.engine.run(now, &mut self.log).unwrap();
            if self.mode == Mode::Ahead && !self.polls {
                state = self.engine.run_on(now, arrival.unwrap_or(Time::MAX), &mut self.log).unwrap();
            }
            self.take_steps(now);
            self.engine.check().unwrap();
            match state {
                EngineState::Busy { until } => {
                    now = until;
                    self.engine.end_iteration(now, &mut self.log);
                    self.take_steps(now);
                }
                EngineState::Idle { wake } => match wake.into_iter().chain(arrival).min() {
                    Some(next) => now = next.max(now),
                    // What is still in flight is empty; the recorder spins a few times.
                    None if self.engine.num_in_flight() > 0 && spins < 9 => spins += 1,
                    None => return,
                },
            }
        }
    }

    fn request(&self, index: usize) -> EngineRequest {
        let case = &self.case.requests[index];
        EngineRequest {
            priority: case.priority.unwrap_or(0),
            tie_break: self.case.tie_break(index),
            remote_prefill: case.do_remote_prefill,
            hold_kv: case.do_remote_decode,
            accepted_drafts: self.accepted_drafts(case).map(Arc::from),
            ..self.case.request(index)
        }
    }

    /// How many drafts of a request are accepted, one verification after the other, if the case says so.
    fn accepted_drafts(&self, case: &CaseRequest) -> Option<Vec<u32>> {
        let config = &self.case.expected["config"];
        let drafts = config["num_speculative_tokens"].as_u64().filter(|&drafts| drafts > 0)?;
        if !config["spec_method"].is_null() {
            return case.accept.clone();
        }
        // The first recordings had a rule of their own: as many as there are tokens so far, modulo the rows.
        let mut outputs = 1;
        let mut accepted = Vec::new();
        while outputs < case.max_tokens {
            accepted.push(outputs % (drafts as u32 + 1));
            outputs += 1 + outputs % (drafts as u32 + 1);
        }
        Some(accepted)
    }

    fn take_steps(&mut self, now: Time) {
        self.log.flush();
        for iteration in std::mem::take(&mut self.log.sink.ended) {
            for finished in &iteration.finished {
                let send = Duration::from_ns(self.case.requests[finished.id.index()].kv_send_us * 1000);
                self.engine.release(finished.id, iteration.end + send, now);
            }
            self.follow(&iteration);
            let step = self.describe(&iteration);
            // The recorder drops steps without events of their own.
            if iteration.is_eventful() {
                self.steps.push(step);
            }
        }
    }

    fn follow(&mut self, iteration: &Iteration) {
        for scheduled in &iteration.scheduled {
            let life = &mut self.lives[scheduled.id.index()];
            if life.first_scheduled.is_none() {
                life.first_scheduled = Some(iteration.scheduled_at);
                life.cached = scheduled.computed;
            }
        }
        for emitted in &iteration.emitted {
            let life = &mut self.lives[emitted.id.index()];
            life.output_tokens += emitted.tokens;
            life.first_token.get_or_insert(iteration.end);
        }
        iteration.preempted.iter().for_each(|id| self.lives[id.index()].preemptions += 1);
        iteration
            .finished
            .iter()
            .for_each(|finished| self.lives[finished.id.index()].finish = Some(iteration.end));
    }

    /// An iteration in the words of the recorder.
    fn describe(&mut self, iteration: &Iteration) -> BTreeMap<&'static str, Value> {
        let case = self.case;
        let name = |id| case.name(id);
        let names = |ids| case.names(ids);
        let sorted = |mut names: Vec<&'a str>| {
            names.sort_unstable();
            names
        };
        let admitted = |resumed: bool| {
            let of_kind = iteration.admitted.iter().filter(move |admitted| admitted.resumed == resumed);
            of_kind.map(|admitted| case.name(admitted.id)).collect::<Vec<&'a str>>()
        };
        let scheduled = iteration.scheduled.iter();
        let mut step = BTreeMap::from([
            ("t_schedule_us", json!(us(iteration.scheduled_at))),
            ("t_start_us", json!(us(iteration.start))),
            ("t_end_us", json!(us(iteration.end))),
            ("scheduled", scheduled.map(|each| json!([name(each.id), each.tokens, each.computed])).collect()),
            ("total_tokens", json!(iteration.total_tokens())),
            ("new", json!(admitted(false))),
            ("resumed", json!(sorted(admitted(true)))),
            ("preempted", json!(names(&iteration.preempted))),
            ("emitted", iteration.emitted.iter().map(|emitted| json!(name(emitted.id))).collect()),
            ("finished", iteration.finished.iter().map(|finished| json!(name(finished.id))).collect()),
            ("num_running", json!(iteration.num_running)),
            ("num_waiting", json!(iteration.num_waiting)),
            ("free_blocks_after_schedule", json!(iteration.free_blocks_after_schedule)),
            ("free_blocks", json!(iteration.free_blocks)),
            ("cached_blocks", json!(iteration.cached_blocks)),
            ("block_ids_fnv", fnv(iteration.block_ids.iter().map(|block| u64::from(block.0)))),
            ("free_queue_fnv", fnv(iteration.free_list.iter().map(|block| u64::from(block.0)))),
        ]);
        if !self.case.expected["config"]["kv_role"].is_null() {
            let started = iteration.transfers.iter().map(|each| json!([name(each.id), each.tokens]));
            step.insert("remote_loads_started", started.collect());
            let done =
                json!({"recv": sorted(names(&iteration.received)), "send": sorted(names(&iteration.sent))});
            step.insert("transfers_done", done);
        }
        if !self.case.expected["config"]["spec_method"].is_null() {
            let verified = iteration.verified.iter();
            step.insert(
                "spec",
                verified.map(|each| json!([name(each.id), each.drafted, each.accepted])).collect(),
            );
            step.insert("emitted_tokens", iteration.emitted.iter().map(|each| json!(each.tokens)).collect());
            let sampled = |id| {
                let accepted =
                    iteration.verified.iter().find(|each| each.id == id).map_or(0, |each| each.accepted);
                let is_delivered = iteration.emitted.iter().any(|each| each.id == id);
                if is_delivered { 1 + accepted } else { 0 }
            };
            step.insert(
                "num_sampled",
                iteration.scheduled.iter().map(|each| json!(sampled(each.id))).collect(),
            );
        }
        let (numbers, block_size) = (&mut self.hash_numbers, self.engine.config().block_size());
        let compact = case.expected["steps"][0].get("kv_events_fnv").is_some();
        let mut events: Vec<Value> = if groups::has_groups(case) {
            groups::events(&iteration.group_events, numbers)
        } else {
            let events = one_by_one(&iteration.kv_events);
            events.iter().map(|event| numbers.canonical(event, block_size)).collect()
        };
        if let Some(log) = &iteration.offload {
            events.extend(offload::events(case, log, numbers, block_size));
            step.extend(offload::describe(case, iteration, compact));
        }
        let words = |event: &Value| {
            let kind = if event["type"] == "stored" { 1 } else { 2 };
            let parent = event["parent"].as_i64().unwrap_or(-1);
            let hashes = event["hashes"].as_array().unwrap().iter().map(|hash| hash.as_i64().unwrap());
            [kind, parent].into_iter().chain(hashes).map(|word| word as u64).collect::<Vec<_>>()
        };
        if compact {
            step.insert("kv_events_fnv", fnv(events.iter().flat_map(words)));
        } else if !self.case.expected["steps"][0]["kv_events"].is_null() {
            step.insert("kv_events", events.into());
        }
        if self.mode != Mode::OneByOne {
            for key in ONLY_ONE_BY_ONE {
                step.remove(key);
            }
            if groups::has_groups(case) {
                step.remove("kv_events");
                step.remove("kv_events_fnv");
            }
        }
        let figures = [
            ("num_waiting", iteration.num_waiting),
            ("free_blocks", iteration.free_blocks),
            ("cached_blocks", iteration.cached_blocks),
        ];
        for (key, figure) in figures {
            if figure == UNKNOWN {
                step.remove(key);
            }
        }
        step
    }

    fn requests(&self) -> Value {
        let describe = |(request, life): (&CaseRequest, &Life)| {
            let row = json!({
                "arrival_us": request.arrival_us,
                "first_scheduled_us": life.first_scheduled.map(us),
                "first_token_us": life.first_token.map(us),
                "finish_us": life.finish.map(us),
                "cached_tokens_at_first_schedule": life.cached,
                "output_tokens": life.output_tokens,
                "preemptions": life.preemptions,
            });
            (request.id.clone(), row)
        };
        Value::Object(self.case.requests.iter().zip(&self.lives).map(describe).collect())
    }
}

/// The settings of a recording, without what only the recorder knows of them.
///
/// # Errors
/// The layers of the recording have other groups than we plan.
pub(crate) fn settings(case: &Recording) -> Result<Value, String> {
    let mut config = case.expected["config"].clone();
    groups::settle(case, &mut config)?;
    offload::settle(case, &mut config);
    let keys = config.as_object_mut().unwrap();
    if let Some(speculation) = speculative_config(&case.expected["config"]) {
        keys.insert("speculative_config".to_owned(), speculation);
    }
    for only_the_recorder_knows in [
        "enable_kv_cache_events",
        "num_lookahead_tokens",
        "num_speculative_tokens",
        "num_speculative_tokens_per_batch_size",
        "spec_method",
        "spec_accept",
        "mtp_layers",
        "parallel_drafting",
        "disable_eagle_block_drop",
        "disable_lookahead_block_hashes",
    ] {
        keys.remove(only_the_recorder_knows);
    }
    if keys.contains_key("max_loras") {
        keys.insert("enable_lora".to_owned(), true.into());
    }
    Ok(config)
}

/// Speculative decoding as a setting, if the settings of a recording have it.
fn speculative_config(config: &Value) -> Option<Value> {
    let drafts = config["num_speculative_tokens"].as_u64().filter(|&drafts| drafts > 0)?;
    let millionths = config["spec_accept"]["ppm"].as_array();
    let rate = |position: usize| millionths.map_or(0.0, |rates| rates[position].as_f64().unwrap() / 1e6);
    let rates: Vec<f64> = (0..drafts as usize).map(rate).collect();
    let flag = |key: &str| config[key].as_bool().unwrap_or(false);
    Some(json!({
        "method": config["spec_method"].as_str().unwrap_or("ngram"),
        "num_speculative_tokens": drafts,
        "num_speculative_tokens_per_batch_size": config["num_speculative_tokens_per_batch_size"],
        "num_nextn_predict_layers": config["mtp_layers"],
        "parallel_drafting": flag("parallel_drafting"),
        "disable_eagle_block_drop": flag("disable_eagle_block_drop"),
        "disable_lookahead_block_hashes": flag("disable_lookahead_block_hashes"),
        "conditional_acceptance_rates": rates,
        "acceptance_seed": config["spec_accept"]["seed"].as_u64().unwrap_or(0),
    }))
}

/// FNV-1a over whole 64-bit words, in hexadecimal.
fn fnv(words: impl Iterator<Item = u64>) -> Value {
    let hash = words.fold(0xCBF29CE484222325_u64, |hash, word| (hash ^ word).wrapping_mul(0x100000001B3));
    format!("{hash:016x}").into()
}

/// The events with one for each block that was removed, as vLLM sends them.
fn one_by_one(events: &[KvEvent]) -> Vec<KvEvent> {
    let split = |event: &KvEvent| match event {
        KvEvent::Removed { blocks } => {
            blocks.iter().map(|hash| KvEvent::Removed { blocks: HashRun::up(hash, 1).into() }).collect()
        }
        event => vec![event.clone()],
    };
    events.iter().flat_map(split).collect()
}
