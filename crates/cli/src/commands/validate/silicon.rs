//! `servecast validate --silicon`: a table of measured runs, each replayed as a closed loop.
//!
//! ```text
//!  rows ─▶ engine and latency model of each ─▶ threads, each takes the next row ─▶ errors, by what rows have in common
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use serde_json::{Map, Value, json};
use servecast_ops::{Constants, LeftOut, constants_without, fold_of_scenario};
use servecast_report::{FailIf, Limit};

use self::replay::Simulated;
use self::scores::{Group, groups};
use self::table::{Measured, NotJudged};
use super::ValidateArgs;
use crate::config::Format;
use crate::error::Failure;
use crate::files::{self, note};
use crate::interrupt::Interrupt;
use crate::progress::RunsProgress;

mod engine;
mod replay;
mod scores;
mod table;
mod text;

/// The latency model, unless another is named.
const DEFAULT_LATENCY: &str = "ops";

/// What a row of the table came to.
#[derive(Debug, Serialize)]
struct Outcome {
    id: String,
    line: u64,
    model: String,
    family: String,
    gpu: String,
    generation: String,
    engine: &'static str,
    engine_version: Option<String>,
    dtype: Option<String>,
    kv_dtype: Option<String>,
    tp: u32,
    ep: u32,
    attention_dp: u32,
    isl: u32,
    osl: u32,
    concurrency: u32,
    scheduler_recv_interval: Option<u32>,
    judged: bool,
    /// Why it is not.
    not_judged: Option<NotJudged>,
    /// Why the measured times cannot be right.
    implausible: Option<String>,
    measured_ttft_ms: f64,
    measured_tpot_ms: f64,
    /// Whose scheduling decisions were made.
    release: Option<String>,
    latency: Option<String>,
    simulated: Option<Simulated>,
    ttft_error_percent: Option<f64>,
    tpot_error_percent: Option<f64>,
    /// Why it could not be simulated.
    reason: Option<String>,
}

impl Outcome {
    fn of(row: &Measured) -> Self {
        Self {
            id: row.id.clone(),
            line: row.line,
            model: row.model.clone(),
            family: servecast_ops::family(&row.model),
            gpu: row.gpu.clone(),
            generation: servecast_ops::generation(&row.gpu),
            engine: row.engine.name(),
            engine_version: row.engine_version.clone(),
            dtype: row.dtype.clone(),
            kv_dtype: row.kv_dtype.clone(),
            tp: row.tp,
            ep: row.ep,
            attention_dp: row.attention_dp,
            isl: row.isl,
            osl: row.osl,
            concurrency: row.concurrency,
            scheduler_recv_interval: row.scheduler_recv_interval,
            judged: row.is_judged(),
            not_judged: row.why_not_judged(),
            implausible: row.implausible.clone(),
            measured_ttft_ms: row.ttft_ms,
            measured_tpot_ms: row.tpot_ms,
            release: None,
            latency: None,
            simulated: None,
            ttft_error_percent: None,
            tpot_error_percent: None,
            reason: None,
        }
    }

    /// The errors of TPOT and TTFT in percent, if it was simulated.
    fn errors(&self) -> Option<(f64, f64)> {
        Some((self.tpot_error_percent?, self.ttft_error_percent?))
    }
}

/// How rows are simulated.
struct Job<'a> {
    latency: &'a str,
    /// Whether ranks of the attention are simulated one by one.
    ranks: bool,
    /// What each row is left out with.
    folds: Option<Folds>,
    interrupt: &'a Interrupt,
}

/// Runs that are left out of the fit of constants together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum CrossValidate {
    /// A fifth of the scenarios: model, GPU, engine, number format and lengths
    Scenario,
    /// A family of models
    Family,
    /// A GPU
    Gpu,
}

/// Constants that were fitted without some runs.
struct Folds {
    kind: CrossValidate,
    by_name: BTreeMap<String, Constants>,
}

impl Folds {
    fn new(kind: CrossValidate) -> Self {
        let left_out = match kind {
            CrossValidate::Scenario => LeftOut::Scenario,
            CrossValidate::Family => LeftOut::Family,
            CrossValidate::Gpu => LeftOut::Gpu,
        };
        Self { kind, by_name: constants_without(left_out) }
    }

    /// The constants that a row had no part in; `None` if it had no part in any.
    fn constants_for(&self, row: &Outcome) -> Option<&Constants> {
        let name = match self.kind {
            CrossValidate::Family => row.family.clone(),
            CrossValidate::Gpu => row.gpu.clone(),
            CrossValidate::Scenario => {
                let dtype = row.dtype.as_deref().unwrap_or("None");
                let lengths = format!("{}|{}", row.isl, row.osl);
                fold_of_scenario(&format!("{}|{}|{}|{dtype}|{lengths}", row.model, row.gpu, row.engine))
            }
        };
        self.by_name.get(&name)
    }
}

/// Everything that a table came to.
struct Results {
    latency: String,
    rows: Vec<Outcome>,
}

/// Runs the command.
pub(super) fn run(args: &ValidateArgs, path: &Path) -> Result<(), Failure> {
    let latency = args.latency.clone().unwrap_or_else(|| DEFAULT_LATENCY.to_owned());
    let conditions: Vec<FailIf> = args.fail_if.iter().map(on_a_score).collect::<Result<_, _>>()?;
    if args.threads == Some(0) {
        return Err(Failure::user("`--threads` is 0, but there is at least 1"));
    }
    if args.cross_validate.is_some() && !latency.starts_with("ops") {
        return Err(Failure::user(format!(
            "`--cross-validate` is for the constants around operators, but the latency model is `{latency}`"
        )));
    }
    if args.attention_ranks && !latency.starts_with("ops") {
        return Err(Failure::user(format!(
            "`--attention-ranks` is for `ops`, which prices the experts of all ranks, but the latency model is `{latency}`"
        )));
    }
    let table = table::read(path)?;
    if !table.unused.is_empty() {
        note(&format!("note: {}: nobody reads the columns {}", path.display(), table.unused.join(", ")));
    }
    let rows = match args.sample {
        Some(0) => return Err(Failure::user("`--sample` is 0, but there is at least 1 row")),
        Some(most) => sample(table.rows, most as usize),
        None => table.rows,
    };
    let interrupt = Interrupt::install()?;
    interrupt.defer()?;
    let job = Job {
        latency: &latency,
        folds: args.cross_validate.map(Folds::new),
        ranks: args.attention_ranks,
        interrupt: &interrupt,
    };
    let outcomes = all(&rows, &job, args.threads);
    interrupt.check()?;
    interrupt.resume()?;
    if let Some(reason) = nothing_ran(&outcomes) {
        return Err(Failure::user(format!(
            "{}: no row can be simulated; the first one: {reason}",
            path.display()
        )));
    }
    let results = Results { latency, rows: outcomes };
    files::print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&results.json()).expect("scores are plain data") + "\n",
        Format::Table => text::text(&results),
    })?;
    let broken: Vec<String> = conditions.iter().filter_map(|condition| results.broken(condition)).collect();
    if broken.is_empty() { Ok(()) } else { Err(Failure::condition(broken.join("\n       "))) }
}

/// Why nothing was simulated, if that is so.
fn nothing_ran(outcomes: &[Outcome]) -> Option<&str> {
    let first = outcomes.first()?.reason.as_deref()?;
    outcomes.iter().all(|outcome| outcome.reason.is_some()).then_some(first)
}

/// So many of the judged rows at most, those whose hashes are lowest; in the order of the table.
fn sample(rows: Vec<Measured>, most: usize) -> Vec<Measured> {
    let mut rows: Vec<Measured> = rows.into_iter().filter(Measured::is_judged).collect();
    rows.sort_by_key(|row| (row.hash, row.line));
    rows.truncate(most);
    rows.sort_by_key(|row| row.line);
    rows
}

/// Simulates all rows; the results do not depend on the number of threads.
fn all(rows: &[Measured], job: &Job<'_>, threads: Option<u32>) -> Vec<Outcome> {
    let threads = threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        |threads| threads as usize,
    );
    let progress = RunsProgress::new(rows.len(), false);
    let next = AtomicUsize::new(0);
    let outcomes: Vec<OnceLock<Outcome>> = rows.iter().map(|_| OnceLock::new()).collect();
    let work = || {
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(row) = rows.get(position).filter(|_| !job.interrupt.is_requested()) else { return };
            let shown = progress.run(1);
            let _ = outcomes[position].set(one(row, job));
            shown.finish();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(rows.len()) {
            scope.spawn(work);
        }
    });
    progress.finish();
    outcomes.into_iter().map_while(OnceLock::into_inner).collect()
}

/// Simulates a row, or says why that cannot be.
fn one(row: &Measured, job: &Job<'_>) -> Outcome {
    let mut outcome = Outcome::of(row);
    let constants = job.folds.as_ref().and_then(|folds| folds.constants_for(&outcome));
    let simulated = engine::of(row, job.latency, constants, job.ranks).and_then(|engine| {
        outcome.latency = Some(engine.latency.clone());
        outcome.release = Some(engine.release.clone());
        replay::simulate(row, &engine, job.interrupt)
    });
    match simulated {
        Ok(simulated) => {
            let error = |simulated: f64, measured: f64| (simulated / measured - 1.0) * 100.0;
            outcome.ttft_error_percent = Some(error(simulated.ttft_ms, row.ttft_ms));
            outcome.tpot_error_percent = Some(error(simulated.tpot_ms, row.tpot_ms));
            outcome.simulated = Some(simulated);
        }
        Err(failure) => outcome.reason = Some(failure.message().to_string()),
    }
    outcome
}

/// Scores that a condition can be on, in percent.
const SCORES: [&str; 9] = [
    "tpot_mape",
    "ttft_mape",
    "tpot_median",
    "ttft_median",
    "tpot_p90",
    "ttft_p90",
    "tpot_bias",
    "ttft_bias",
    "not_run",
];

/// The condition, which has to be one on a score.
fn on_a_score(condition: &FailIf) -> Result<FailIf, Failure> {
    let known = SCORES.map(str::to_owned);
    condition.clone().on_one_of(&known).map_err(|error| {
        Failure::input(&error)
            .about(format!("--fail-if {condition}"))
            .with_hint(format!("scores of a table, all in percent, are {}", SCORES.join(", ")))
    })
}

impl Results {
    fn judged(&self) -> Vec<&Outcome> {
        self.rows.iter().filter(|row| row.judged).collect()
    }

    fn others(&self) -> Vec<&Outcome> {
        self.rows.iter().filter(|row| !row.judged).collect()
    }

    /// The rows that are not judged for a reason.
    fn not_judged(&self, reason: NotJudged) -> Vec<&Outcome> {
        self.rows.iter().filter(|row| row.not_judged == Some(reason)).collect()
    }

    /// The score of all judged rows of that name, if any was simulated.
    fn score(&self, name: &str) -> Option<f64> {
        let judged = self.judged();
        if name == "not_run" {
            let not_run = judged.iter().filter(|row| row.reason.is_some()).count();
            return (!judged.is_empty()).then(|| not_run as f64 / judged.len() as f64 * 100.0);
        }
        let all = Group::of("all", judged.into_iter())?;
        let (time, statistic) = name.split_once('_')?;
        let score = if time == "tpot" { all.tpot } else { all.ttft };
        Some(match statistic {
            "mape" => score.mape,
            "median" => score.median,
            "p90" => score.p90,
            _ => score.bias,
        })
    }

    /// What is to be said if a condition holds, or nothing was compared.
    fn broken(&self, condition: &FailIf) -> Option<String> {
        let Some(score) = self.score(&condition.metric) else {
            return Some(format!(
                "{condition}: there is nothing to compare, since no judged row was simulated"
            ));
        };
        let limit = match condition.limit {
            Limit::Value(percent) | Limit::Change(percent) => percent,
            Limit::Share(share) | Limit::RelativeChange(share) => share * 100.0,
        };
        condition
            .operator
            .holds(score, limit)
            .then(|| format!("{condition}: `{}` is {score:.2} %", condition.metric))
    }

    fn json(&self) -> Value {
        let mut top = Map::new();
        for name in SCORES {
            top.insert(name.to_owned(), self.score(name).into());
        }
        let by = |rows: &[&Outcome]| {
            let groups =
                groups(rows).into_iter().map(|(key, groups)| (key.replace([' ', '/'], "_"), json!(groups)));
            Value::Object(groups.collect())
        };
        let (judged, others) = (self.judged(), self.others());
        top.insert("judged".to_owned(), judged.len().into());
        top.insert("latency".to_owned(), self.latency.clone().into());
        top.insert("groups".to_owned(), by(&judged));
        top.insert("not_judged".to_owned(), json!(Group::of("not judged", others.iter().copied())));
        top.insert("not_judged_groups".to_owned(), by(&others));
        let reasons = NotJudged::ALL.into_iter().filter_map(|reason| {
            let rows = self.not_judged(reason);
            let score = Group::of(reason.says(), rows.iter().copied());
            (!rows.is_empty())
                .then(|| (reason.name().to_owned(), json!({"rows": rows.len(), "score": score})))
        });
        top.insert("not_judged_reasons".to_owned(), Value::Object(reasons.collect()));
        top.insert("rows".to_owned(), json!(self.rows));
        Value::Object(top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_on_a_score_in_percent() {
        let on = |text: &str| on_a_score(&text.parse().unwrap());
        assert_eq!(on("tpot_mape>15%").unwrap().metric, "tpot_mape");
        let message = on("mean_tpot_ms>1%").unwrap_err().message().to_string();
        assert!(message.starts_with("--fail-if mean_tpot_ms>1%: there is no figure"), "{message}");
    }
}
