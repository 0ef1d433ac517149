//! Results of clients that have the times of each request: the load is replayed request for request on a deployment, and
//! the figures of both are made in the same way.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use servecast_cluster::Simulation;
use servecast_report::{
    AbsoluteError, MatchedRequests, NamedFigures, RequestFigures, ValidatedRun, matched_requests, summarize,
    under_way,
};
use servecast_types::{Message, message};
use servecast_workload::{KnownFormat, TraceFormat};

use super::figures::{Row, UNSERVED, distribution, sorted};
use super::server::{Served, layers_of, refuse_results};
use crate::commands::compare::{Sending, measured};
use crate::config::{DEFAULT_SEED, Layers, ReplayConfig};
use crate::error::{Failure, chain, quoted};
use crate::plan::Plan;

/// Figures by the keys of reports.
const TIMES: [&str; 4] = ["ttft", "tpot", "itl", "e2e_latency"];
const STATISTICS: [&str; 4] = ["mean", "median", "p90", "p99"];
const OTHERS: [&str; 3] = ["request_throughput_rps", "output_throughput_tok_s", "duration_ms"];

/// What a latency is called, and where rows have it.
type Latency = (&'static str, fn(&RequestFigures) -> Option<f64>);
const LATENCIES: [Latency; 3] =
    [("TTFT", |row| row.ttft_ms), ("TPOT", |row| row.tpot_ms), ("E2E", |row| row.e2e_latency_ms)];

/// What a file with requests that a client measured is, if it is one.
pub(super) fn format(result: &Path) -> Option<(KnownFormat, TraceFormat)> {
    measured::format(result)
}

/// Replays the requests of a file on the deployment of others; what only a page shows is made if there is one.
pub(super) fn validate(
    result: &Path,
    format: (KnownFormat, TraceFormat),
    configs: &[PathBuf],
    has_page: bool,
) -> Result<Served, Failure> {
    let about = |failure: Failure| failure.about(result.display().to_string());
    let real = measured::read(result, format)?;
    let rows = real.rows.unwrap_or_default();
    if rows.is_empty() {
        return Err(about(Failure::user("no request was served, so there is nothing to compare")));
    }
    let Sent { layers, how, draw } = load(layers_of(configs)?, result, &rows, real.sending)?;
    let plan = Plan::new(layers)?;
    plan.refuse_online("a measured load is replayed in virtual time")?;
    plan.refuse_streamed("the requests of a measured load are kept")?;
    let workload = plan.source.load(plan.load, plan.block_size, &plan.layers)?;
    let options = plan.summary(&workload, false);
    let simulation = Simulation::new(&plan.topology, workload, &plan.options())
        .map_err(|error| plan.layers.refused(error))?;
    let record = simulation.run_dyn(&mut ()).map_err(|error| Failure::run(chain(&error)))?;
    let report = summarize(&record, &options);
    let ours = NamedFigures::of("servecast", &report);
    let simulated = RequestFigures::of_run(&record, options.window);
    let matched = match draw {
        Some(seed) => Err(format!("when each of them arrives is one draw, of seed {seed}")),
        None => matched_requests(&rows, &simulated),
    };
    refuse_cut(&simulated, result, &plan)?;
    let errors: Vec<AbsoluteError> =
        matched.as_ref().ok().map(MatchedRequests::absolute_errors).into_iter().flatten().collect();
    let mut figures = both(&real.figures, &ours);
    figures.extend(
        errors
            .iter()
            .filter_map(|error| Some(Row::error(&format!("{}_mape", error.latency), error.mean? * 100.0))),
    );
    let unserved = simulated.iter().filter(|row| row.status != "finished").count();
    figures.extend((unserved > 0).then(|| Row::only_ours(UNSERVED, unserved as f64)));
    let mut assumptions = real.figures.measured.map(|run| run.notes).unwrap_or_default();
    assumptions.push(how);
    assumptions.push(match &matched {
        Ok(matched) => matched.sentence(),
        Err(problem) => format!("requests are not paired: {problem}"),
    });
    assumptions.extend(errors.iter().filter(|error| error.left_out > 0).map(|error| {
        let AbsoluteError { latency, left_out, .. } = error;
        format!("`{latency}_mape` is without {left_out} requests whose {latency} was measured as 0")
    }));
    assumptions.extend(plan.derived.iter().cloned());
    Ok(Served {
        figures,
        latency_source: plan.latency_source().to_owned(),
        latency_estimate: record.latency_estimates.first().cloned(),
        assumptions,
        preemptions: report.total_preemptions,
        paired: matched.ok().map(|matched| matched.changes(DEFAULT_SEED)),
        page: if has_page { page(&rows, &simulated) } else { ValidatedRun::default() },
    })
}

/// A replay of what a client measured.
struct Sent {
    layers: Layers,
    /// How its requests are sent, in words.
    how: String,
    /// The seed, where they arrive at random.
    draw: Option<u64>,
}

/// The settings of a replay of the file on a deployment, and how its requests are sent.
fn load(
    mut layers: Layers,
    result: &Path,
    rows: &[RequestFigures],
    Sending { concurrency, rate }: Sending,
) -> Result<Sent, Failure> {
    let given = layers.parse()?;
    refuse_load(&given, &layers, result)?;
    refuse_results(&given, &layers)?;
    let seed = given.trace.seed.unwrap_or(DEFAULT_SEED);
    let mut add = |key: &str, value: Value| layers.vary(&vec![(key.to_owned(), value)]);
    add("trace_file", json!(result))?;
    let is_timed = rows.iter().all(|row| row.arrival_ms.is_some());
    let concurrency = concurrency.filter(|sessions| *sessions > 0);
    // Beside a rate, a limit says what a client must not exceed, not what it keeps up.
    let (rate, is_at_once) = (rate.filter(|rate| rate.is_finite()), rate.is_some_and(f64::is_infinite));
    let mut draw = None;
    let how = if given.trace.replay_concurrency.is_some() || given.trace.request_rate.is_some() {
        draw = given.trace.request_rate.map(|_| seed);
        "requests are sent as the deployment file says".to_owned()
    } else {
        match (concurrency, rate) {
            (Some(sessions), None) => {
                add("replay_concurrency", json!(sessions))?;
                format!("closed loop of {sessions} requests at a time, as the client had")
            }
            _ if is_timed => "requests are sent when the client sent them".to_owned(),
            (Some(sessions), Some(_)) => {
                let problem = format!(
                    "`max_concurrency` is {sessions}, but must be null, or a number of requests beside a `request_rate` of \
                     \"inf\": when requests were sent is not in the file"
                );
                return Err(Failure::user(problem).about(result.display().to_string()).with_hint(
                    "`replay_concurrency` or `request_rate` in the deployment file say how they are sent",
                ));
            }
            (None, Some(rate)) => {
                add("request_rate", json!(rate))?;
                draw = Some(seed);
                format!(
                    "when requests were sent is not in the file: they arrive at random, {rate} a second, as the client was \
                     told; figures are of one draw, of seed {seed}"
                )
            }
            (None, None) if is_at_once => {
                add("replay_concurrency", json!(rows.len()))?;
                "all requests are sent at once, as the client was told".to_owned()
            }
            // Replaying it is refused, with what may be said.
            (None, None) => String::new(),
        }
    };
    Ok(Sent { layers, how, draw })
}

/// Settings of a load beside those that say how the requests of a client are sent.
const OF_LOAD: [&str; 5] = ["replay_concurrency", "request_rate", "seed", "replay_mode", "speed"];

/// Refuses what would make another load of the requests of a client, or leave some of them out of figures.
fn refuse_load(given: &ReplayConfig, layers: &Layers, result: &Path) -> Result<(), Failure> {
    if given.trace.trace_file.is_some() {
        let message = message!("{trace_file} names another load than {}", quoted(result));
        return Err(layers.refused(message).with_hint("a deployment file for `validate` has no load"));
    }
    let settings = [json!(given.trace), json!(given.measured)];
    let settings = settings.iter().filter_map(Value::as_object).flatten();
    let shapes_rate = |key: &str| key == "burstiness" && given.trace.request_rate.is_some();
    let refused = settings
        .filter(|(_, value)| !value.is_null())
        .find(|(key, _)| !OF_LOAD.contains(&key.as_str()) && !shapes_rate(key));
    let Some((key, value)) = refused else { return Ok(()) };
    let message = message!(
        "{} is {}, but all requests of {} are replayed as they are and measured",
        Message::key(key),
        value.to_string(),
        quoted(result)
    );
    let hint = "leave it out; `replay_concurrency` or `request_rate` in the deployment file say how requests are sent";
    Err(layers.refused(message).with_hint(hint))
}

/// The figures that were measured beside ours.
fn both(real: &NamedFigures, ours: &NamedFigures) -> Vec<Row> {
    let times = TIMES.iter().flat_map(|time| STATISTICS.map(|statistic| format!("{statistic}_{time}_ms")));
    let keys = times.chain(OTHERS.map(str::to_owned));
    let row = |key: String| {
        let real = *real.figures.get(&key)?;
        let ours = ours.figures.get(&key).copied().flatten();
        Some(Row::new(key.replace("_e2e_latency_", "_e2e_"), (real, ours), None))
    };
    keys.filter_map(row).collect()
}

/// Refuses a deployment that generates less than the client got: figures of the two would be of different requests.
fn refuse_cut(simulated: &[RequestFigures], result: &Path, plan: &Plan) -> Result<(), Failure> {
    let is_cut =
        |row: &&RequestFigures| row.status == "finished" && row.output_length < row.requested_output_length;
    let Some(row) = simulated.iter().find(is_cut) else { return Ok(()) };
    let problem = message!(
        "{max_model_len} of the deployment ends a request after {} of the {} tokens that {} has of it (number {}, a prompt of \
         {} tokens)",
        row.output_length,
        row.requested_output_length,
        quoted(result),
        row.line,
        row.input_length
    );
    Err(plan.layers.refused(problem).with_hint("give the `max_model_len` that the server had"))
}

/// What only the page shows.
fn page(real: &[RequestFigures], ours: &[RequestFigures]) -> ValidatedRun {
    let pair = |&(name, of): &Latency| {
        let values = |rows: &[RequestFigures]| {
            sorted(rows.iter().filter(|row| row.status == "finished").filter_map(of))
        };
        distribution(name.to_owned(), &values(real), &values(ours))
    };
    ValidatedRun {
        distributions: LATENCIES.iter().map(pair).filter(|pair| !pair.real.is_empty()).collect(),
        charts: under_way(real, ours).into_iter().collect(),
        ..ValidatedRun::default()
    }
}
