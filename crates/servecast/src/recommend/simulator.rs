//! One run of a search: a deployment under a load.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use servecast_cluster::{LoadMode, Observer, RunError, Simulation, SimulationOptions};
use servecast_config::error::{Failure, chain};
use servecast_config::settings::{Difference, Layers, described};
use servecast_recommend::{Cutoff, Figures, Lost, Outcome, grown_concurrency};
use servecast_record::{RequestRecord, RunRecord, SoFar};
use servecast_report::{Curves, Judges, LatencyLimit, Metric, Slo, Tally};
use servecast_types::Time;
use servecast_workload::{TurnStart, Workload};

use super::loads::Loads;
use crate::plan::Plan;

/// A run that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What tells the deployment from others, over the settings that all have in common.
    pub settings: Difference,
    /// Of the load.
    pub factor: f64,
    /// Iteration times are multiplied by this.
    pub slowdown: f64,
    /// Whether the run goes on when a target is lost.
    pub to_the_end: bool,
}

impl Trial {
    /// What tells it from other trials of a search.
    pub(super) fn key(&self) -> String {
        json!([described(&self.settings), self.factor, self.slowdown, self.to_the_end]).to_string()
    }
}

/// Simulates deployments of a question, in this process or for another one.
#[derive(Debug)]
pub struct Simulator {
    layers: Layers,
    slo: Vec<Slo>,
    loads: Loads,
}

/// What another process needs to make the same simulator.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    servecast_version: String,
    settings: Map<String, Value>,
    /// A deployment that can be built.
    first: Difference,
    /// The hash of its load.
    workload_hash: String,
}

impl Simulator {
    /// For deployments that have these settings in common.
    pub(super) fn new(layers: &Layers, slo: Vec<Slo>, loads: Loads) -> Self {
        // Why settings are refused does not depend on where they came from, which the process of a worker does not know.
        Self { layers: layers.without_origins(), slo, loads }
    }

    /// The trace that is no file, if there is one.
    pub(super) fn trace(&self) -> Option<&[u8]> {
        self.loads.trace()
    }

    /// What [`Self::from_json`] needs in another process, beside the trace where that is no file.
    pub(super) fn to_json(&self, first: &Difference, fingerprint: u64) -> String {
        let sent = Sent {
            servecast_version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.layers.values().clone(),
            first: first.clone(),
            workload_hash: hash(fingerprint),
        };
        serde_json::to_string(&sent).expect("settings are plain data")
    }

    /// The simulator of a search in another process, which sees the same load or is refused.
    pub fn from_json(text: &str, trace: Option<Vec<u8>>) -> Result<Self, Failure> {
        let sent: Sent = serde_json::from_str(text)
            .map_err(|error| Failure::run(format!("a worker was sent no question: {error}")))?;
        let own = env!("CARGO_PKG_VERSION");
        if sent.servecast_version != own {
            let message =
                format!("a worker has servecast {own}, but the search is one of {}", sent.servecast_version);
            return Err(Failure::run(message).with_hint("install the same release everywhere"));
        }
        let layers = Layers::of_values(sent.settings);
        let first = plan(&layers, &sent.first, 1.0)?;
        let loads = Loads::new(trace);
        let found = hash(loads.of(&first, 1.0)?.fingerprint());
        if found != sent.workload_hash {
            let message = format!(
                "a worker sees another load: {} has the hash {found} there, but {} where the search is",
                first.source.name(),
                sent.workload_hash
            );
            return Err(Failure::run(message).with_hint("the path has to lead to the same file everywhere"));
        }
        Ok(Self { layers, slo: first.slo, loads })
    }

    /// What comes of a run, which ends when `is_stopped`.
    pub fn simulate(&self, trial: &Trial, is_stopped: &dyn Fn() -> bool) -> Outcome {
        if is_stopped() {
            return Outcome::Stopped;
        }
        let outcome = self.try_to_simulate(trial, is_stopped);
        outcome.unwrap_or_else(|failure| Outcome::Refused(failure.message().to_string()))
    }

    fn try_to_simulate(&self, trial: &Trial, is_stopped: &dyn Fn() -> bool) -> Result<Outcome, Failure> {
        let (plan, workload, options) = self.prepare(trial)?;
        let cutoff = (!trial.to_the_end).then(|| Cutoff::new(&self.slo, &workload));
        let mut watcher = Watcher { cutoff, lost: None, is_stopped };
        let span_ms = span_ms(&workload);
        let simulation = Simulation::new(&plan.topology, Workload::clone(&workload), &options)
            .map_err(|error| plan.layers.refused(error))?;
        Ok(match (simulation.run_dyn(&mut watcher), watcher.lost) {
            (Ok(record), _) => Outcome::Ran(Box::new(figures(&record, &self.slo, span_ms))),
            (Err(RunError::Interrupted { .. }), Some(lost)) => {
                Outcome::CutOff { reason: self.reason(lost), arrived: lost.arrived }
            }
            (Err(RunError::Interrupted { .. }), None) => Outcome::Stopped,
            (Err(error), _) => return Err(Failure::run(chain(&error))),
        })
    }

    /// How a run goes over time.
    ///
    /// # Errors
    /// Why it cannot be made or has no curves, and that it was stopped.
    pub(super) fn curves(
        &self,
        trial: &Trial,
        bins: usize,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Curves, String> {
        let problem = |failure: Failure| failure.message().to_string();
        let (plan, workload, options) = self.prepare(trial).map_err(problem)?;
        let mut watcher = Watcher { cutoff: None, lost: None, is_stopped };
        let simulation = Simulation::new(&plan.topology, Workload::clone(&workload), &options)
            .map_err(|error| problem(plan.layers.refused(error)))?;
        let record = simulation.run_dyn(&mut watcher).map_err(|error| chain(&error))?;
        Curves::of(&record, bins).ok_or_else(|| "its run takes no time".to_owned())
    }

    fn prepare(&self, trial: &Trial) -> Result<(Plan, Arc<Workload>, SimulationOptions), Failure> {
        let plan = plan(&self.layers, &trial.settings, trial.slowdown)?;
        let workload = self.loads.of(&plan, trial.factor)?;
        let mut options = plan.options();
        if let LoadMode::ClosedLoop { concurrency } = &mut options.load {
            *concurrency = grown_concurrency(*concurrency, trial.factor);
        }
        Ok((plan, workload, options))
    }

    fn reason(&self, lost: Lost) -> String {
        let Lost { target, misses, arrived } = lost;
        format!("{}: lost with {misses} misses when {arrived} requests had arrived", self.slo[target])
    }
}

/// The hash of a load, as answers have it.
pub(super) fn hash(fingerprint: u64) -> String {
    format!("{fingerprint:016x}")
}
/// The plan of a deployment whose iterations take `slowdown` times as long.
pub(super) fn plan(layers: &Layers, settings: &Difference, slowdown: f64) -> Result<Plan, Failure> {
    let mut layers = layers.clone();
    layers.vary(settings)?;
    if !is_one(slowdown) {
        let given = layers.parse()?.engine.speedup_ratio.unwrap_or(1.0);
        layers.vary(&vec![("speedup_ratio".to_owned(), json!(given / slowdown))])?;
    }
    let plan = Plan::new(layers)?;
    plan.refuse_online("a search runs in virtual time")?;
    plan.refuse_streamed("a search has many runs of one load")?;
    Ok(plan)
}

/// A time that the last arrival is not before, in ms.
pub(super) fn span_ms(workload: &Workload) -> f64 {
    let order = workload.arrival_order();
    let last = order.last().and_then(|&index| workload.sessions[index].turns.first());
    last.map_or(0.0, |turn| match turn.start {
        TurnStart::At(at) => at.as_ms(),
        _ => 0.0,
    })
}

fn figures(record: &RunRecord, slo: &[Slo], span_ms: f64) -> Figures {
    let limits: Vec<LatencyLimit> = slo
        .iter()
        .flat_map(|slo| match slo {
            Slo::Latency { limit, .. } => vec![*limit],
            Slo::Goodput { limits, .. } => limits.clone(),
        })
        .filter(|limit| limit.metric != Metric::Itl)
        .collect();
    let served = record.requests.iter().filter(|request| request.is_finished());
    let first = record.requests.iter().map(|request| request.arrival).min().unwrap_or(Time::ZERO);
    let last = record.requests.iter().filter_map(|request| request.last_token).max();
    let tokens = |of: fn(&RequestRecord) -> u32| served.clone().map(|request| u64::from(of(request))).sum();
    let good = served.clone().filter(|request| limits.iter().all(|limit| limit.is_kept_by_request(request)));
    let tally = Tally::of(record, &Judges { sla: None, slo, count_rejected: false });
    Figures {
        slo: tally.outcomes(&record.gaps),
        duration_ms: last.map_or(0.0, |last| last.since(first).as_ms()).max(span_ms),
        requests: record.requests.len() as u64,
        good_requests: good.count() as u64,
        input_tokens: tokens(|request| request.input_tokens),
        output_tokens: tokens(|request| request.output_tokens),
        overload: tally.overload(),
        headroom: None,
    }
}

/// Ends a run that has lost a target, or that nobody waits for.
struct Watcher<'a> {
    cutoff: Option<Cutoff>,
    lost: Option<Lost>,
    is_stopped: &'a dyn Fn() -> bool,
}

impl Observer for Watcher<'_> {
    fn recorded(&mut self, so_far: &SoFar<'_>, ended: u64) -> ControlFlow<()> {
        self.lost = self.cutoff.as_mut().and_then(|cutoff| cutoff.lost(so_far, ended));
        if self.lost.is_some() || (self.is_stopped)() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// Whether a factor changes nothing.
pub(super) fn is_one(factor: f64) -> bool {
    (factor - 1.0).abs() < f64::EPSILON
}

/// Settings as an object.
pub(super) fn object(settings: &[(String, Value)]) -> BTreeMap<String, Value> {
    settings.iter().cloned().collect()
}
