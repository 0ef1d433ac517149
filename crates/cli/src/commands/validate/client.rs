//! Results of clients that have the times of each request: the load is replayed request for request on a deployment, and
//! the figures of both are made in the same way.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use servecast_cluster::Simulation;
use servecast_record::RunRecord;
use servecast_report::{
    CurvePair, DistributionPair, MatchedRequests, NamedFigures, RequestFigures, ValidatedRun,
    matched_requests, summarize,
};
use servecast_types::message;
use servecast_workload::{KnownFormat, TraceFormat};

use super::figures::{QUANTILES, Row, UNSERVED, rank, sorted};
use super::server::{Served, layers_of};
use crate::commands::compare::measured;
use crate::config::{DEFAULT_SEED, Layers};
use crate::error::{Failure, chain, quoted};
use crate::files;
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

/// Replays the requests of a file on the deployment of others.
pub(super) fn validate(
    result: &Path,
    format: (KnownFormat, TraceFormat),
    configs: &[PathBuf],
) -> Result<Served, Failure> {
    let about = |failure: Failure| failure.about(result.display().to_string());
    let real = measured::read(result, format)?;
    let rows = real.rows.unwrap_or_default();
    if rows.is_empty() {
        return Err(about(Failure::user("no request was served, so there is nothing to compare")));
    }
    let (layers, how) = load(layers_of(configs)?, result, &rows)?;
    let plan = Plan::new(layers)?;
    plan.refuse_online("a measured load is replayed in virtual time")?;
    plan.refuse_streamed("the requests of a measured load are kept")?;
    let workload = plan.source.load(plan.load, plan.block_size, &plan.layers)?;
    let options = plan.summary(&workload, false);
    let simulation = Simulation::new(&plan.topology, workload, &plan.options())
        .map_err(|error| plan.layers.refused(error))?;
    let record = simulation.run(&mut ()).map_err(|error| Failure::run(chain(&error)))?;
    let report = summarize(&record, &options);
    let ours = NamedFigures::of("servecast", &report);
    let simulated = RequestFigures::of_run(&record);
    let matched = matched_requests(&rows, &simulated);
    let mut figures = both(&real.figures, &ours);
    figures.extend(errors(matched.as_ref().ok()));
    let unserved = simulated.iter().filter(|row| row.status != "finished").count();
    figures.extend((unserved > 0).then(|| Row::only_ours(UNSERVED, unserved as f64)));
    let mut assumptions = real.figures.measured.map(|run| run.notes).unwrap_or_default();
    assumptions.push(how);
    assumptions.push(match &matched {
        Ok(matched) => matched.sentence(),
        Err(problem) => format!("requests are not paired: {problem}"),
    });
    assumptions.extend(plan.derived.iter().cloned());
    Ok(Served {
        figures,
        latency_source: plan.latency_source().to_owned(),
        latency_estimate: record.latency_estimates.first().cloned(),
        assumptions,
        preemptions: report.total_preemptions,
        paired: matched.ok().map(|matched| matched.changes(DEFAULT_SEED)),
        page: page(&rows, &simulated, &record),
    })
}

/// The settings of a replay of the file on a deployment, and how its requests are sent.
fn load(mut layers: Layers, result: &Path, rows: &[RequestFigures]) -> Result<(Layers, String), Failure> {
    let given = layers.parse()?.trace;
    if given.trace_file.is_some() {
        let message = message!("{trace_file} names another load than {}", quoted(result));
        return Err(layers.refused(message).with_hint("a deployment file for `validate` has no load"));
    }
    let mut add = |key: &str, value: Value| layers.vary(&vec![(key.to_owned(), value)]);
    add("trace_file", json!(result))?;
    let limited = |sessions: u64| format!("closed loop of {sessions} requests at a time, as the client had");
    let own = (given.replay_concurrency.is_some(), given.request_rate.is_some());
    let is_timed = rows.iter().all(|row| row.arrival_ms.is_some());
    let client = Client::read(result)?;
    let how = match (own, client) {
        ((true, _) | (_, true), _) => "requests are sent as the deployment file says".to_owned(),
        (_, Client { concurrency: Some(sessions), .. }) => {
            add("replay_concurrency", json!(sessions))?;
            limited(sessions)
        }
        _ if is_timed => "requests are sent when the client sent them".to_owned(),
        (_, Client { rate: Some(rate), .. }) if rate.is_finite() => {
            add("request_rate", json!(rate))?;
            format!(
                "when requests were sent is not in the file: they arrive at random, {rate} a second, as the client was told"
            )
        }
        (_, Client { rate: Some(_), .. }) => {
            add("replay_concurrency", json!(rows.len()))?;
            "all requests are sent at once, as the client was told".to_owned()
        }
        // Replaying it is refused, with what may be said.
        _ => String::new(),
    };
    Ok((layers, how))
}

/// How a client was told to send requests, as far as the result of a serving benchmark says.
#[derive(Debug, Default)]
struct Client {
    concurrency: Option<u64>,
    /// Requests a second; infinite if all are sent at once.
    rate: Option<f64>,
}

impl Client {
    fn read(result: &Path) -> Result<Self, Failure> {
        let text = files::read_unpacked_text(result)?;
        // Only results of benchmarks say it; of other files the first value has no such keys.
        let Some(Ok(Value::Object(result))) = serde_json::Deserializer::from_str(&text).into_iter().next()
        else {
            return Ok(Self::default());
        };
        let rate = result.get("request_rate");
        let infinite = || rate.and_then(Value::as_str).filter(|text| *text == "inf").map(|_| f64::INFINITY);
        Ok(Self {
            concurrency: result
                .get("max_concurrency")
                .and_then(Value::as_u64)
                .filter(|sessions| *sessions > 0),
            rate: rate.and_then(Value::as_f64).filter(|rate| *rate > 0.0).or_else(infinite),
        })
    }
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

/// Mean absolute errors over pairs of requests.
fn errors(matched: Option<&MatchedRequests<'_>>) -> Vec<Row> {
    let errors = matched.map(MatchedRequests::absolute_errors).into_iter().flatten();
    errors.filter_map(|(name, error)| Some(Row::error(&format!("{name}_mape"), error? * 100.0))).collect()
}

/// What only the page shows.
fn page(real: &[RequestFigures], ours: &[RequestFigures], record: &RunRecord) -> ValidatedRun {
    let distribution = |&(name, of): &Latency| {
        let values = |rows: &[RequestFigures]| {
            sorted(rows.iter().filter(|row| row.status == "finished").filter_map(of))
        };
        let (real, ours) = (values(real), values(ours));
        let quantiles = |values: &[f64]| {
            let at = |number: usize| rank(values, 100.0 * number as f64 / QUANTILES as f64);
            (0..=QUANTILES).filter_map(at).map(|ms| (ms * 1e3).round() / 1e3).collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        DistributionPair {
            name: name.to_owned(),
            real: quantiles(&real),
            ours: quantiles(&ours),
            samples: real.len(),
            means: [mean(&real), mean(&ours)],
        }
    };
    let distributions: Vec<DistributionPair> = LATENCIES.iter().map(distribution).collect();
    let spans = |rows: &[RequestFigures]| {
        let span = |row: &RequestFigures| {
            let sent = row.arrival_ms?;
            Some((sent, row.ended_ms.or(row.e2e_latency_ms.map(|ms| sent + ms))?))
        };
        rows.iter().map(span).collect::<Option<Vec<_>>>()
    };
    let under_way = spans(real).zip(spans(ours)).filter(|_| !record.requests.is_empty());
    let charts = under_way.map(|(real, ours)| CurvePair {
        name: "Requests under way".to_owned(),
        real: by_second(&real),
        ours: by_second(&ours),
    });
    ValidatedRun {
        distributions: distributions.into_iter().filter(|pair| !pair.real.is_empty()).collect(),
        charts: charts.into_iter().collect(),
        ..ValidatedRun::default()
    }
}

/// The mean number of spans (ms) that are under way in each second, from the first on; of long runs, in fewer parts than
/// there are seconds.
fn by_second(spans: &[(f64, f64)]) -> Vec<f64> {
    let start = spans.iter().map(|span| span.0).fold(f64::INFINITY, f64::min);
    let end = spans.iter().map(|span| span.1).fold(start, f64::max);
    let mut seconds = vec![0.0; ((end - start) / 1e3).ceil().max(1.0) as usize];
    let last = seconds.len() - 1;
    for (from, to) in spans.iter().map(|(from, to)| ((from - start) / 1e3, (to - start) / 1e3)) {
        for (second, sum) in
            seconds.iter_mut().enumerate().take(to as usize + 1).skip((from as usize).min(last))
        {
            *sum += (to.min(second as f64 + 1.0) - from.max(second as f64)).max(0.0);
        }
    }
    seconds.into_iter().map(|value: f64| (value * 100.0).round() / 100.0).collect()
}
