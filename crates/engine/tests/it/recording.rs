//! Recordings of real schedulers: a case (settings and requests) and what the scheduler decided in each step.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::{Value, json};
use servecast_engine::{Begun, EngineRequest, Fetch, Iteration, IterationSink, Joined, Links};
use servecast_types::{Duration, KvEvent, Prompt, RequestId, Run, SequenceHash, Time};

/// How an engine takes decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each by itself, with all that can be known of it.
    OneByOne,
    /// Together, an iteration at a time.
    Together,
    /// Together, and the engine goes on by itself until the next arrival.
    Ahead,
}

/// A property of a recording's settings.
pub(crate) type Predicate = fn(&Value) -> bool;

/// What a recording is about that an engine does not simulate yet.
pub(crate) type Lack = fn(&Recording) -> bool;

/// Replays every recording of an engine: those of the repository, and those in `folders` under `$SERVECAST_ORACLE`, but for
/// those that are `skipped`, since the engine does not have what they show.
///
/// Of those under an exception, if there are any, one has to differ at least (a short one may agree by chance); all others
/// have to agree.
pub(crate) fn replay_most(
    engine: &str,
    folders: &[&str],
    skipped: &[(&str, Lack)],
    exceptions: &[(&str, Predicate)],
    replay: impl Fn(&Recording) -> Result<(), String>,
) {
    let mut report = String::new();
    let (mut same, mut excepted, mut passed_over) = (0, 0, 0);
    // Those under each exception that agree and differ.
    let mut under = vec![(0, 0); exceptions.len()];
    let mut folders = testkit::recordings(engine, folders);
    if folders.iter().skip(1).any(|folder| folder.is_dir()) {
        // One of them may be all that somebody has.
        folders.retain(|folder| folder.is_dir());
    }
    for path in folders.iter().flat_map(|folder| recordings(folder)) {
        let name = path.file_name().unwrap().to_string_lossy().replace(".expected.json", "");
        let recording = Recording::read(&path);
        let config = &recording.expected["config"];
        if let Some((cause, _)) = skipped.iter().find(|(_, lacks)| lacks(&recording)) {
            tell(&format!("{name} is skipped: {cause}"));
            passed_over += 1;
            continue;
        }
        let exception = exceptions.iter().position(|(_, holds)| holds(config));
        // What a recording brings to a panic is told by its name, and the others are still looked at.
        let replayed = std::panic::catch_unwind(AssertUnwindSafe(|| replay(&recording)));
        let replayed = replayed.unwrap_or_else(|_| Err("the engine panics".to_owned()));
        match (replayed, exception) {
            (Ok(()), None) => same += 1,
            (Err(difference), None) => _ = writeln!(report, "{name}: {difference}"),
            (Ok(()), Some(exception)) => {
                same += 1;
                under[exception].0 += 1;
            }
            (Err(_), Some(exception)) => {
                excepted += 1;
                under[exception].1 += 1;
            }
        }
    }
    for ((cause, _), (agree, differ)) in exceptions.iter().zip(under) {
        if agree > 0 && differ == 0 {
            _ = writeln!(report, "{agree} recordings agree, so the exception has to go: {cause}");
        }
    }
    testkit::compared(same + excepted);
    tell(&format!("{same} recordings reproduced, {excepted} excepted, {passed_over} skipped"));
    assert!(report.is_empty(), "{same} recordings agree, {excepted} are excepted, but:\n{report}");
}

#[expect(clippy::print_stdout, reason = "`cargo test -- --nocapture` shows it")]
fn tell(line: &str) {
    println!("{line}");
}

/// The recordings of a folder, by name; there is at least one.
fn recordings(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".expected.json"));
    paths.sort();
    assert!(!paths.is_empty(), "no recordings in {}", folder.display());
    paths
}

#[derive(Deserialize)]
pub(crate) struct CaseRequest {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) arrival_us: u64,
    #[serde(default)]
    pub(crate) prompt_spans: Vec<(u32, u32)>,
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    pub(crate) max_tokens: u32,
    pub(crate) priority: Option<i32>,
    pub(crate) eos_after: Option<u32>,
    pub(crate) output_base: Option<u32>,
    pub(crate) routing_key: Option<String>,
    pub(crate) dp_rank: Option<u32>,
    #[serde(default)]
    pub(crate) ignore_eos: bool,
    #[serde(default)]
    pub(crate) do_remote_prefill: bool,
    #[serde(default)]
    pub(crate) do_remote_decode: bool,
    /// The data-parallel rank that gets it.
    #[serde(default)]
    pub(crate) rank: u32,
    #[serde(default = "transfer_us")]
    pub(crate) kv_recv_us: u64,
    #[serde(default = "transfer_us")]
    pub(crate) kv_send_us: u64,
    /// Drafts that are accepted in its verifications.
    pub(crate) accept: Option<Vec<u32>>,
    pub(crate) grammar_ready_us: Option<u64>,
    /// Its LoRA adapter.
    pub(crate) lora: Option<u32>,
}

fn transfer_us() -> u64 {
    5_000
}

/// A case and what was recorded of it.
pub(crate) struct Recording {
    pub(crate) requests: Vec<CaseRequest>,
    pub(crate) expected: Value,
}

impl Recording {
    #[expect(clippy::disallowed_methods, reason = "recordings are files")]
    fn read(path: &Path) -> Self {
        let json = |path: &str| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let path = path.to_str().unwrap();
        let mut case = json(&path.replace(".expected.json", ".case.json"));
        Self { requests: serde_json::from_value(case["requests"].take()).unwrap(), expected: json(path) }
    }

    /// Requests in order of arrival, by number.
    pub(crate) fn arrivals(&self) -> VecDeque<usize> {
        let mut arrivals: Vec<usize> = (0..self.requests.len()).collect();
        arrivals.sort_by_key(|&request| self.requests[request].arrival_us);
        arrivals.into()
    }

    /// A setting.
    pub(crate) fn config(&self, key: &str) -> &Value {
        &self.expected["config"][key]
    }

    /// The latency model of the recorder, as a setting: what a whole pass takes, where that of one stage is recorded.
    pub(crate) fn latency(&self) -> String {
        let stages = self.expected["config"]["pipeline_parallel_size"].as_f64().unwrap_or(1.0);
        latency_of_stages(&self.expected["latency"], stages)
    }

    /// A request without what only one engine knows.
    pub(crate) fn request(&self, index: usize) -> EngineRequest {
        let case = &self.requests[index];
        let runs = case.prompt_spans.iter().map(|&(first, len)| Run::tokens(first, len));
        let tokens = case.prompt_token_ids.iter().flatten().map(|&token| Run::tokens(token, 1));
        let prompt = Prompt::new(runs.chain(tokens));
        let prompt = case.lora.map_or(prompt.clone(), |adapter| prompt.salted(adapter.into()));
        let start = case.output_base.unwrap_or(1_000_000 + 100_000 * index as u32);
        let output = Prompt::new([Run::tokens(start, case.max_tokens)]);
        // Both are compared as strings.
        let keys = self.requests.iter().filter_map(|other| other.routing_key.as_ref());
        let rank = |key: &String| keys.filter(|other| *other < key).count() as u32;
        EngineRequest {
            output: Some(Box::new(output)),
            stop_after: case.eos_after,
            lora: case.lora,
            grammar_ready: case.grammar_ready_us.map(from_us),
            routing_key: case.routing_key.as_ref().map(rank),
            ..EngineRequest::new(RequestId(index as u32), prompt, case.max_tokens, from_us(case.arrival_us))
        }
    }

    /// What orders requests of equal priority and arrival: their ids, as strings.
    pub(crate) fn tie_break(&self, index: usize) -> u64 {
        self.requests.iter().filter(|other| other.id < self.requests[index].id).count() as u64
    }

    pub(crate) fn name(&self, id: RequestId) -> &str {
        &self.requests[id.index()].id
    }

    pub(crate) fn names(&self, ids: &[RequestId]) -> Vec<&str> {
        ids.iter().map(|&id| self.name(id)).collect()
    }
}

/// Keeps the iterations that ended.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) ended: Vec<Iteration>,
    /// How long the KV of each request is on its way.
    pub(crate) receive: Vec<Duration>,
}

impl Links for Log {
    fn begin(&mut self, fetch: Fetch, now: Time) -> Begun {
        Begun::At(now + self.receive[fetch.id.index()])
    }
}

impl IterationSink for Log {
    fn joined(&mut self, _: Joined, _: Time) {}

    fn iteration_ended(&mut self, iteration: &Iteration) {
        self.ended.push(iteration.clone());
    }
}

/// A latency model of the recorder, as a setting.
pub(crate) fn latency(terms: &Value) -> String {
    latency_of_stages(terms, 1.0)
}

fn latency_of_stages(terms: &Value, stages: f64) -> String {
    let term = |key: &str| stages * terms[key].as_f64().unwrap();
    format!("linear:{},{},{}", term("base_us"), term("per_token_us"), term("per_seq_us"))
}

pub(crate) fn us(time: Time) -> u64 {
    assert_eq!(time.as_ns() % 1000, 0, "recorded times are whole microseconds");
    time.as_ns() / 1000
}

pub(crate) fn from_us(us: u64) -> Time {
    Time::from_ns(us * 1000)
}

/// Numbers hashes by their first appearance, as recorders do.
#[derive(Default)]
pub(crate) struct HashNumbers(FxHashMap<SequenceHash, u32>);

impl HashNumbers {
    fn number(&mut self, hash: SequenceHash) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(hash).or_insert(next)
    }

    /// An event with its hashes numbered; `block_size` tokens a hash.
    pub(crate) fn canonical(&mut self, event: &KvEvent, block_size: u32) -> Value {
        match event {
            KvEvent::Stored { parent, blocks } => {
                let parent = parent.map(|parent| self.number(parent));
                let hashes: Vec<u32> = blocks.iter().map(|hash| self.number(hash)).collect();
                let tokens = hashes.len() as u64 * u64::from(block_size);
                json!({"type": "stored", "parent": parent, "hashes": hashes, "num_tokens": tokens})
            }
            KvEvent::Removed { blocks } => {
                let hashes: Vec<u32> = blocks.iter().map(|hash| self.number(hash)).collect();
                json!({"type": "removed", "hashes": hashes})
            }
            KvEvent::Cleared => json!({"type": "cleared", "hashes": []}),
        }
    }
}
