//! Runs of real servers of which only the load and what clients saw were recorded: a deployment file says what ran.
//! Results with the times of each request are [replayed one by one](super::client); here are those without.
//!
//! - The result file of `vllm bench serve` without them: figures over all requests. Arrivals follow from rate and burstiness; figures are
//!   means over several seeds.
//! - Rows of conversations, each of a client: as many conversations are under way as there are clients, and their turns are
//!   sent one after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use servecast_cluster::{LoadMode, Simulation, SimulationOptions};
use servecast_report::{PairedChange, Report, SummaryOptions, ValidatedRun, summarize};
use servecast_types::{Duration, Message, Prompt, Run, Time, message};
use servecast_workload::{Session, Turn, TurnStart, Workload, bench_arrivals_ms};

use super::figures::Row;
use super::lookups::{self, Counted, Ends};
use crate::config::{Layers, ReplayConfig};
use crate::deployment::{self, Deployment};
use crate::error::{Failure, chain};
use crate::{files, router};

/// Seeds over which figures of random arrivals are averaged.
const SEEDS: u64 = 20;
/// Most tokens of a prompt or an output.
const MOST_TOKENS: f64 = 1e6;
const MOST_REQUESTS: f64 = 1e6;

/// What a recorded run and its simulation came to.
pub(super) struct Served {
    pub(super) figures: Vec<Row>,
    pub(super) latency_source: String,
    /// What iteration times are estimated from, where nothing was measured.
    pub(super) latency_estimate: Option<String>,
    pub(super) assumptions: Vec<String>,
    pub(super) preemptions: u64,
    /// How latencies differ over pairs of the same request, where the result has requests.
    pub(super) paired: Option<Vec<PairedChange>>,
    /// What only the page shows.
    pub(super) page: ValidatedRun,
}

/// Figures by name, in order.
type Figures = Vec<(String, f64)>;

/// A load, for a seed, and what it came to.
pub(crate) struct Recorded {
    workload: Box<dyn Fn(u64) -> Workload>,
    load: LoadMode,
    seeds: u64,
    figures: Figures,
    assumptions: Vec<String>,
}

/// What a recorded load comes to on a deployment.
struct Simulated {
    /// Figures by name, means over the seeds.
    figures: BTreeMap<String, f64>,
    preemptions: u64,
}

impl Recorded {
    /// Reads the recorded run of a file.
    pub(crate) fn read(result: &Path) -> Result<Self, Failure> {
        let text = files::read_unpacked_text(result)?;
        let recorded = if text.trim_start().starts_with('{') { bench(&text) } else { conversations(&text) };
        let mut recorded = recorded.map_err(|failure| failure.about(result.display().to_string()))?;
        let counted = lookups::recorded(result)?;
        recorded.figures.extend(counted.figures().map(|(name, value)| (name.to_owned(), value)));
        Ok(recorded)
    }

    /// A figure as recorded.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(figure, _)| figure == name).map(|(_, value)| *value)
    }

    /// The recorded figures that a deployment comes to.
    pub(crate) fn simulated(&self, layers: &Layers) -> Result<BTreeMap<String, f64>, Failure> {
        let settings = layers.parse()?;
        Ok(self.on(&deployment::build(&settings, layers)?, layers)?.figures)
    }

    fn on(&self, deployment: &Deployment, layers: &Layers) -> Result<Simulated, Failure> {
        let routing = router::build(&layers.parse()?, layers, &deployment.queue_policies)?;
        let mut sums: BTreeMap<String, (f64, u32)> = BTreeMap::new();
        let mut preemptions = 0;
        for seed in 0..self.seeds {
            let options = SimulationOptions {
                load: self.load,
                router: routing.options.clone(),
                seed,
                ..SimulationOptions::default()
            };
            let (report, counted) = simulate(deployment, (self.workload)(seed), &options)?;
            preemptions += report.total_preemptions;
            if report.completed_requests < report.num_requests {
                let left = report.num_requests - report.completed_requests;
                return Err(Failure::user(format!(
                    "the simulated deployment does not serve {left} of {} requests",
                    report.num_requests
                )));
            }
            let Ok(Value::Object(report)) = serde_json::to_value(&report) else {
                unreachable!("a report is an object")
            };
            let counted: BTreeMap<&str, f64> = counted.figures().collect();
            for (name, _) in &self.figures {
                let value = counted.get(name.as_str()).copied();
                if let Some(value) = value.or_else(|| report.get(name)?.as_f64()) {
                    let sum = sums.entry(name.clone()).or_default();
                    *sum = (sum.0 + value, sum.1 + 1);
                }
            }
        }
        let figures = sums.into_iter().map(|(name, (sum, count))| (name, sum / f64::from(count)));
        Ok(Simulated { figures: figures.collect(), preemptions: preemptions / self.seeds })
    }
}

/// Deployment files laid over each other.
pub(crate) fn layers_of(configs: &[PathBuf]) -> Result<Layers, Failure> {
    let mut layers = Layers::default();
    for config in configs {
        layers.add_file(config)?;
    }
    Ok(layers)
}

/// Refuses results of a replay, which the file of a deployment may name and nobody would write.
pub(super) fn refuse_results(given: &ReplayConfig, layers: &Layers) -> Result<(), Failure> {
    let Some(key) = given.output.result() else { return Ok(()) };
    let message =
        message!("{} names a result of a replay, and `validate` prints what it finds", Message::key(key));
    Err(layers.refused(message).with_hint("leave it out; --html writes a page"))
}

/// Replays the recorded run of a file on the deployment of others.
pub(super) fn validate(result: &Path, configs: &[PathBuf]) -> Result<Served, Failure> {
    let recorded = Recorded::read(result)?;
    let layers = layers_of(configs)?;
    let given = layers.parse()?;
    refuse_results(&given, &layers)?;
    let deployment = deployment::build(&given, &layers)?;
    let simulated =
        recorded.on(&deployment, &layers).map_err(|failure| failure.about(result.display().to_string()))?;
    let row = |(name, real): &(String, f64)| {
        let ours = *simulated.figures.get(name)?;
        Some(Row::new(name.replace("_e2e_latency_", "_e2e_"), (Some(*real), Some(ours)), None))
    };
    Ok(Served {
        figures: recorded.figures.iter().filter_map(row).collect(),
        latency_source: deployment.latency_source.clone(),
        latency_estimate: None,
        assumptions: recorded.assumptions.into_iter().chain(deployment.derived).collect(),
        preemptions: simulated.preemptions,
        paired: None,
        page: ValidatedRun::default(),
    })
}

fn simulate(
    deployment: &Deployment,
    workload: Workload,
    options: &SimulationOptions,
) -> Result<(Report, Counted), Failure> {
    let simulation = Simulation::new(&deployment.topology, workload, options).map_err(Failure::user)?;
    let mut ends = Ends::default();
    let record = simulation.run_dyn(&mut ends).map_err(|error| Failure::run(chain(&error)))?;
    let counted = ends.counted(&record);
    Ok((summarize(&record, &SummaryOptions::default()), counted))
}

/// A prompt that is shared with nobody, from a token of its own on.
fn own_tokens(session: usize, from: u32, tokens: u32) -> Prompt {
    Prompt::new([Run::unique(session as u32, from + tokens).part(from..from + tokens)])
}

/// The result file of `vllm bench serve`.
fn bench(text: &str) -> Result<Recorded, Failure> {
    let first = serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>().next();
    let result = first.transpose().map_err(|error| Failure::input(&error))?.unwrap_or_default();
    let refused = |key: &str, problem: &str| {
        let found = result.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        Failure::user(format!("`{key}` is {found}, but must be {problem}"))
            .with_hint("`vllm bench serve --save-result` writes such a file")
    };
    let number = |key: &str, most: f64| {
        let number = result.get(key).and_then(Value::as_f64).filter(|number| (1.0..=most).contains(number));
        number.ok_or_else(|| refused(key, "a number of at least 1"))
    };
    let requests = number("num_prompts", MOST_REQUESTS)?;
    let mean = |key: &str| {
        let tokens = (number(key, 1e15)? / requests).round();
        if (1.0..=MOST_TOKENS).contains(&tokens) {
            Ok(tokens as u32)
        } else {
            Err(refused(key, "tokens of all"))
        }
    };
    let (input, output) = (mean("total_input_tokens")?, mean("total_output_tokens")?);
    let rate = match result.get("request_rate") {
        Some(Value::String(text)) if text == "inf" => f64::INFINITY,
        rate => rate.and_then(Value::as_f64).unwrap_or(f64::NAN),
    };
    let burstiness = result.get("burstiness").and_then(Value::as_f64).unwrap_or(1.0);
    let requests = requests as usize;
    if bench_arrivals_ms(rate, burstiness, 1, 0).is_none() {
        return Err(refused("request_rate", "requests a second, or \"inf\", with a `burstiness` above 0"));
    }
    let load = match result.get("max_concurrency") {
        None | Some(Value::Null) => LoadMode::OpenLoop,
        Some(slots) => {
            let slots = slots.as_u64().filter(|slots| (1..=1 << 20).contains(slots) && rate == f64::INFINITY);
            let slots = slots.ok_or_else(|| {
                refused("max_concurrency", "null, or a number of requests beside a `request_rate` of \"inf\"")
            })?;
            LoadMode::ClosedLoop { concurrency: slots as u32 }
        }
    };
    let workload = move |seed| {
        let arrivals = bench_arrivals_ms(rate, burstiness, requests, seed).unwrap_or_default();
        let session = |(number, at): (usize, f64)| {
            let start = TurnStart::At(Time::ZERO + Duration::from_ms(at).unwrap_or(Duration::ZERO));
            let prompt = own_tokens(number, 0, input);
            session_of([turn(number as u64 + 1, start, prompt, output, None)])
        };
        Workload { sessions: arrivals.into_iter().enumerate().map(session).collect(), ..Workload::default() }
    };
    Ok(Recorded {
        workload: Box::new(workload),
        load,
        seeds: if rate == f64::INFINITY { 1 } else { SEEDS },
        figures: figures_of_bench(&result),
        assumptions: vec![format!("all prompts have {input} tokens and all outputs {output}")],
    })
}

/// The figures of a result file, by the names of reports.
fn figures_of_bench(result: &Map<String, Value>) -> Figures {
    let times = [("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "e2e_latency")];
    let statistics = ["mean", "median", "p90", "p95", "p99"];
    let names = times.into_iter().flat_map(|(theirs, ours)| {
        statistics.map(|statistic| (format!("{statistic}_{theirs}_ms"), format!("{statistic}_{ours}_ms")))
    });
    let rates =
        [("request_throughput", "request_throughput_rps"), ("output_throughput", "output_throughput_tok_s")];
    let rates = rates.into_iter().map(|(theirs, ours)| (theirs.to_owned(), ours.to_owned()));
    names.chain(rates).filter_map(|(theirs, ours)| Some((ours, result.get(&theirs)?.as_f64()?))).collect()
}

fn turn(
    line: u64,
    start: TurnStart,
    prompt: Prompt,
    output_tokens: u32,
    output: Option<Box<Prompt>>,
) -> Turn {
    Turn {
        line,
        start,
        prompt,
        output_tokens,
        priority: 0,
        stop_after: None,
        output,
        class: None,
        lora: None,
        grammar: None,
    }
}

fn session_of(turns: impl IntoIterator<Item = Turn>) -> Session {
    Session { turns: turns.into_iter().collect(), ..Session::default() }
}

/// A row of a conversation.
#[derive(serde::Deserialize)]
struct ConversationRow {
    start_time_ms: f64,
    ttft_ms: f64,
    tpot_ms: f64,
    latency_ms: f64,
    input_num_tokens: u32,
    output_num_tokens: u32,
    conversation_id: String,
    client_id: String,
}

/// Rows of turns with their conversations and clients.
fn conversations(text: &str) -> Result<Recorded, Failure> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let rows: Result<Vec<ConversationRow>, csv::Error> = reader.deserialize().collect();
    let mut rows = rows.map_err(|error| {
        Failure::input(&error).with_hint(
            "rows of conversations have start_time_ms, ttft_ms, tpot_ms, latency_ms, input_num_tokens, output_num_tokens, \
             conversation_id and client_id",
        )
    })?;
    rows.retain(|row| row.output_num_tokens > 0 && row.input_num_tokens > 0);
    if rows.is_empty() {
        return Err(Failure::user("there are no rows"));
    }
    rows.sort_by(|one, other| one.start_time_ms.total_cmp(&other.start_time_ms));
    let clients: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.client_id.as_str()).collect();
    let concurrency = clients.len() as u32;
    let figures = figures_of_conversations(&rows);
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sessions: Vec<Session> = Vec::new();
    for (row, line) in rows.iter().zip(1..) {
        let number = *places.entry(&row.conversation_id).or_insert(sessions.len());
        let is_first = number == sessions.len();
        if is_first {
            sessions.push(Session::default());
        }
        let start =
            if is_first { TurnStart::At(Time::ZERO) } else { TurnStart::AfterPrevious(Duration::ZERO) };
        let (input, output) = (row.input_num_tokens, row.output_num_tokens);
        let reply = Some(Box::new(own_tokens(number, input, output)));
        sessions[number].turns.push(turn(line, start, own_tokens(number, 0, input), output, reply));
    }
    let workload = Workload { sessions, ..Workload::default() };
    Ok(Recorded {
        workload: Box::new(move |_| workload.clone()),
        load: LoadMode::ClosedLoop { concurrency },
        seeds: 1,
        figures,
        assumptions: vec![format!(
            "{concurrency} clients, each with one conversation at a time; a prompt is the conversation so far, and \
             conversations share nothing"
        )],
    })
}

fn figures_of_conversations(rows: &[ConversationRow]) -> Figures {
    let mean = |of: &dyn Fn(&ConversationRow) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
    let first = rows.iter().map(|row| row.start_time_ms).fold(f64::INFINITY, f64::min);
    let last = rows.iter().map(|row| row.start_time_ms + row.latency_ms).fold(0.0, f64::max);
    let several: Vec<&ConversationRow> = rows.iter().filter(|row| row.output_num_tokens > 1).collect();
    let tpot = several.iter().map(|row| row.tpot_ms).sum::<f64>() / several.len().max(1) as f64;
    [
        ("request_throughput_rps", rows.len() as f64 / ((last - first) / 1000.0)),
        ("mean_ttft_ms", mean(&|row| row.ttft_ms)),
        ("mean_tpot_ms", tpot),
        ("mean_e2e_latency_ms", mean(&|row| row.latency_ms)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
