//! Every recording of the real vLLM scheduler is reproduced step by step.
//!
//! A recording is a case (settings and requests) and what vLLM decided in each step. The test takes whatever cases lie
//! under `$SERVECAST_ORACLE/vllm`; the ones that cannot hold are in [`EXCEPTIONS`], as predicates over their settings.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::{Value, json};
use servecast_engine::{
    Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Iteration, IterationSink, Transfer,
    TransferTime,
};
use servecast_types::{Duration, KvEvent, Prompt, RequestId, Run, SequenceHash, Time};

/// A property of a recording's settings.
type Predicate = fn(&Value) -> bool;

/// Recordings that are known to differ: what they have in common, and why.
const EXCEPTIONS: &[(&str, Predicate)] = &[("speculative decoding is not simulated yet", |config| {
    config["num_speculative_tokens"].as_u64() > Some(0)
})];

#[test]
#[expect(clippy::print_stdout, reason = "says how many recordings there were")]
fn oracle_vllm() {
    let Some(folder) = oracle_folder() else { return };
    let mut report = String::new();
    let (mut same, mut excepted) = (0, 0);
    for path in recordings(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().replace(".expected.json", "");
        let recording = Recording::read(&path);
        let exception = EXCEPTIONS.iter().find(|(_, holds)| holds(&recording.expected["config"]));
        match (recording.replay(), exception) {
            (Ok(()), None) => same += 1,
            (Err(_), Some(_)) => excepted += 1,
            (Err(difference), None) => _ = writeln!(report, "{name}: {difference}"),
            (Ok(()), Some((cause, _))) => {
                _ = writeln!(report, "{name}: agrees, so the exception has to go: {cause}");
            }
        }
    }
    println!("{same} recordings reproduced, {excepted} excepted");
    assert!(report.is_empty(), "{same} recordings agree, but:\n{report}");
    assert!(same > 0, "no recordings in {}", folder.display());
}

/// `$SERVECAST_ORACLE/vllm`; without it the test is skipped, unless `SERVECAST_REQUIRE_ORACLE` is set.
#[expect(clippy::print_stdout, reason = "says that nothing was compared")]
fn oracle_folder() -> Option<PathBuf> {
    if let Some(root) = std::env::var_os("SERVECAST_ORACLE") {
        return Some(Path::new(&root).join("vllm"));
    }
    assert!(
        std::env::var_os("SERVECAST_REQUIRE_ORACLE").is_none(),
        "SERVECAST_ORACLE is not set, but required"
    );
    println!("skipped: SERVECAST_ORACLE is not set");
    None
}

fn recordings(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".expected.json"));
    paths.sort();
    paths
}

#[derive(Deserialize)]
struct CaseRequest {
    id: String,
    #[serde(default)]
    arrival_us: u64,
    #[serde(default)]
    prompt_spans: Vec<(u32, u32)>,
    prompt_token_ids: Option<Vec<u32>>,
    max_tokens: u32,
    #[serde(default)]
    priority: i32,
    eos_after: Option<u32>,
    output_base: Option<u64>,
    #[serde(default)]
    do_remote_prefill: bool,
    #[serde(default)]
    do_remote_decode: bool,
    #[serde(default = "transfer_us")]
    kv_recv_us: u64,
    #[serde(default = "transfer_us")]
    kv_send_us: u64,
}

fn transfer_us() -> u64 {
    5_000
}

struct Recording {
    requests: Vec<CaseRequest>,
    expected: Value,
}

impl Recording {
    #[expect(clippy::disallowed_methods, reason = "recordings are files")]
    fn read(path: &Path) -> Self {
        let json = |path: &str| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let path = path.to_str().unwrap();
        let mut case = json(&path.replace(".expected.json", ".case.json"));
        Self { requests: serde_json::from_value(case["requests"].take()).unwrap(), expected: json(path) }
    }

    /// Runs the case and compares it with what was recorded; says where they first part.
    fn replay(&self) -> Result<(), String> {
        let mut driver = Driver::new(self);
        driver.run();
        let steps = self.expected["steps"].as_array().unwrap();
        for (number, (expected, found)) in steps.iter().zip(&driver.steps).enumerate() {
            for (key, found) in found {
                let expected = match (&expected[*key], *key) {
                    (Value::Null, "free_queue_fnv") => continue,
                    (expected, _) => expected,
                };
                let expected = &without_first_tokens(expected);
                if expected != found {
                    return Err(format!("step {number}: `{key}` is {found}, recorded {expected}"));
                }
            }
        }
        if steps.len() != driver.steps.len() {
            return Err(format!("{} steps, recorded {}", driver.steps.len(), steps.len()));
        }
        let requests = driver.requests();
        if requests != self.expected["requests"] {
            return Err(format!("requests are {requests}, recorded {}", self.expected["requests"]));
        }
        Ok(())
    }
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
    engine: Engine,
    log: Log,
    steps: Vec<BTreeMap<&'static str, Value>>,
    arrivals: VecDeque<usize>,
    hash_numbers: FxHashMap<SequenceHash, u32>,
    lives: Vec<Life>,
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

#[derive(Default)]
struct Log {
    ended: Vec<Iteration>,
}

impl IterationSink for Log {
    fn transfer_started(&mut self, _: &Transfer, _: Time) {}

    fn iteration_ended(&mut self, iteration: &Iteration) {
        self.ended.push(iteration.clone());
    }
}

fn us(time: Time) -> u64 {
    assert_eq!(time.as_ns() % 1000, 0, "recorded times are whole microseconds");
    time.as_ns() / 1000
}

fn from_us(us: u64) -> Time {
    Time::from_ns(us * 1000)
}

impl<'a> Driver<'a> {
    fn new(case: &'a Recording) -> Self {
        let mut config = case.expected["config"].clone();
        let keys = config.as_object_mut().unwrap();
        for only_the_recorder_knows in
            ["enable_kv_cache_events", "num_lookahead_tokens", "num_speculative_tokens"]
        {
            keys.remove(only_the_recorder_knows);
        }
        let term = |key: &str| case.expected["latency"][key].as_f64().unwrap();
        let latency = format!("linear:{},{},{}", term("base_us"), term("per_token_us"), term("per_seq_us"));
        keys.insert("latency".to_owned(), latency.into());
        let args = EngineArgs::from_json(config).unwrap();
        let tracing = EngineTracing { kv_events: true, block_ids: true, recorder_clock: true };
        let engine = Engine::new(args.validate(None).unwrap(), tracing);
        let mut arrivals: Vec<usize> = (0..case.requests.len()).collect();
        arrivals.sort_by_key(|&request| case.requests[request].arrival_us);
        let lives = vec![Life::default(); case.requests.len()];
        let (log, arrivals) = (Log::default(), arrivals.into());
        Self { case, engine, log, steps: Vec::new(), arrivals, hash_numbers: FxHashMap::default(), lives }
    }

    fn run(&mut self) {
        let (mut now, mut spins) = (Time::ZERO, 0);
        loop {
            while let Some(&request) = self.arrivals.front()
                && from_us(self.case.requests[request].arrival_us) <= now
            {
                self.arrivals.pop_front();
                self.engine.submit(self.request(request)).unwrap();
            }
            let state = self.engine.run(now, &mut self.log).unwrap();
            self.take_steps(now);
            self.engine.check();
            let arrival =
                self.arrivals.front().map(|&request| from_us(self.case.requests[request].arrival_us));
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
        let runs = case.prompt_spans.iter().map(|&(first, len)| Run::tokens(first, len));
        let tokens = case.prompt_token_ids.iter().flatten().map(|&token| Run::tokens(token, 1));
        let earlier_ids = self.case.requests.iter().filter(|other| other.id < case.id).count();
        let arrival = from_us(case.arrival_us);
        let transfer = || TransferTime::Fixed(Duration::from_ns(case.kv_recv_us * 1000));
        EngineRequest {
            output: Some(case.output_base.unwrap_or(1_000_000 + 100_000 * index as u64)),
            stop_after: case.eos_after,
            priority: case.priority,
            tie_break: earlier_ids as u64,
            remote_prefill: case.do_remote_prefill.then(transfer),
            hold_kv: case.do_remote_decode,
            ..EngineRequest::new(
                RequestId(index as u32),
                Prompt::new(runs.chain(tokens)),
                case.max_tokens,
                arrival,
            )
        }
    }

    fn take_steps(&mut self, now: Time) {
        for iteration in std::mem::take(&mut self.log.ended) {
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
        for id in &iteration.emitted {
            let life = &mut self.lives[id.index()];
            life.output_tokens += 1;
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
        let name = |id: RequestId| self.case.requests[id.index()].id.as_str();
        let names = |ids: &[RequestId]| ids.iter().map(|&id| name(id)).collect::<Vec<_>>();
        let sorted = |mut names: Vec<&'a str>| {
            names.sort_unstable();
            names
        };
        let admitted = |resumed: bool| {
            let of_kind = iteration.admitted.iter().filter(move |admitted| admitted.resumed == resumed);
            of_kind
                .map(|admitted| self.case.requests[admitted.id.index()].id.as_str())
                .collect::<Vec<&'a str>>()
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
            ("emitted", json!(names(&iteration.emitted))),
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
        let events: Vec<Value> = iteration.kv_events.iter().map(|event| self.canonical(event)).collect();
        let compact = self.case.expected["steps"][0].get("kv_events_fnv").is_some();
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
        step
    }

    /// An event with its hashes numbered by first appearance.
    fn canonical(&mut self, event: &KvEvent) -> Value {
        let mut number = |hash: SequenceHash| {
            let next = self.hash_numbers.len() as u32;
            *self.hash_numbers.entry(hash).or_insert(next)
        };
        match event {
            KvEvent::Stored { parent, blocks } => {
                let parent = parent.map(&mut number);
                let hashes: Vec<u32> = blocks.iter().map(|&hash| number(hash)).collect();
                let tokens = hashes.len() as u64 * u64::from(self.engine.config().block_size());
                json!({"type": "stored", "parent": parent, "hashes": hashes, "num_tokens": tokens})
            }
            KvEvent::Removed { blocks } => {
                json!({"type": "removed", "hashes": blocks.iter().map(|&hash| number(hash)).collect::<Vec<_>>()})
            }
            KvEvent::Cleared => json!({"type": "cleared", "hashes": []}),
        }
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

/// FNV-1a over whole 64-bit words, in hexadecimal.
fn fnv(words: impl Iterator<Item = u64>) -> Value {
    let hash = words.fold(0xCBF29CE484222325_u64, |hash, word| (hash ^ word).wrapping_mul(0x100000001B3));
    format!("{hash:016x}").into()
}
