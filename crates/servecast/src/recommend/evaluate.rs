//! Tries deployments, as many at a time as there are cores.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use servecast_cluster::record::RunRecord;
use servecast_cluster::{LoadMode, Observer, RunError, Simulation, SoFar};
use servecast_recommend::{
    Candidate, Cutoff, Evaluate, Figures, Headroom, Lost, Outcome, find_headroom, grown, grown_concurrency,
};
use servecast_report::{LatencyLimit, Metric, Slo, overload};
use servecast_types::Time;
use servecast_workload::Workload;

use super::Watch;
use super::journal::Journal;
use crate::plan::Plan;
use servecast_config::error::{Failure, chain};
use servecast_config::settings::{Layers, described};
use servecast_config::source::Source;

/// Tries deployments under one load.
pub(super) struct Runner<'a> {
    pub(super) layers: &'a Layers,
    pub(super) slo: &'a [Slo],
    pub(super) threads: usize,
    pub(super) workloads: &'a Workloads,
    pub(super) journal: &'a Journal,
    pub(super) watch: &'a dyn Watch,
    /// Of the load.
    pub(super) factor: f64,
    /// Iteration times are multiplied by this.
    pub(super) slowdown: f64,
    /// Whether runs go on when a target is lost.
    pub(super) to_the_end: bool,
}

/// Loads by the block size that synthetic prompts follow and by their factor, each made once.
#[derive(Default)]
pub(super) struct Workloads(Mutex<BTreeMap<(u32, u64), Arc<Workload>>>);

impl Workloads {
    /// The load of a run.
    pub(super) fn of(&self, plan: &Plan, factor: f64) -> Result<Arc<Workload>, Failure> {
        let is_trace = matches!(plan.source, Source::Trace { .. });
        let block_size = if is_trace { 0 } else { plan.block_size };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (block_size, 1.0_f64.to_bits());
        let as_given = if let Some(found) = known.get(&key) {
            Arc::clone(found)
        } else {
            let made = Arc::new(plan.source.load(plan.load, plan.block_size, &plan.layers)?);
            known.insert(key, Arc::clone(&made));
            made
        };
        // In a closed loop there are more sessions at a time instead.
        if is_one(factor) || plan.mode != LoadMode::OpenLoop {
            return Ok(as_given);
        }
        let of_factor = known.entry((block_size, factor.to_bits()));
        Ok(Arc::clone(of_factor.or_insert_with(|| Arc::new(grown(&as_given, factor)))))
    }
}

impl Evaluate for Runner<'_> {
    fn all(&self, candidates: &[&Candidate]) -> Vec<Outcome> {
        let outcomes = side_by_side(self.threads, candidates, |candidate| self.one(candidate, self.factor));
        let outcomes: Vec<Outcome> =
            outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Stopped)).collect();
        let is_kept = |outcome: &&Outcome| matches!(outcome, Outcome::Ran(figures) if figures.is_met());
        if let Some(first) = outcomes.iter().position(|outcome| is_kept(&outcome)) {
            self.watch.found(outcomes.iter().filter(is_kept).count(), &candidates[first].name);
        }
        outcomes
    }
}

/// What comes of each, several at a time.
fn side_by_side<T: Sync, R: Send + Sync>(
    threads: usize,
    all: &[T],
    one: impl Fn(&T) -> R + Sync,
) -> Vec<Option<R>> {
    let next = AtomicUsize::new(0);
    let found: Vec<OnceLock<R>> = all.iter().map(|_| OnceLock::new()).collect();
    let work = || {
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(found)) = (all.get(position), found.get(position)) else { return };
            let _ = found.set(one(item));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(all.len()) {
            scope.spawn(work);
        }
    });
    found.into_iter().map(OnceLock::into_inner).collect()
}

impl Runner<'_> {
    /// How much more load each of some deployments takes.
    pub(super) fn headrooms(&self, candidates: &[&Candidate]) -> Vec<Option<Headroom>> {
        let found = side_by_side(self.threads, candidates, |candidate| {
            find_headroom(|factor| match self.one(candidate, self.factor * factor) {
                Outcome::Ran(figures) => Some(figures.is_met()),
                Outcome::CutOff { .. } => Some(false),
                Outcome::Refused(_) | Outcome::Stopped => None,
            })
        });
        found.into_iter().map(Option::flatten).collect()
    }

    fn one(&self, candidate: &Candidate, factor: f64) -> Outcome {
        if self.watch.is_stopped() {
            return Outcome::Stopped;
        }
        let key = json!([described(&candidate.settings), factor, self.slowdown, self.to_the_end]).to_string();
        if let Some(known) = self.journal.get(&key) {
            self.watch.ran();
            return known;
        }
        let outcome = self
            .simulate(candidate, factor)
            .unwrap_or_else(|failure| Outcome::Refused(failure.message().to_string()));
        if outcome != Outcome::Stopped {
            self.journal.add(&key, &outcome);
            self.watch.ran();
        }
        outcome
    }

    /// The plan of a deployment.
    pub(super) fn plan(&self, candidate: &Candidate) -> Result<Plan, Failure> {
        plan(self.layers, candidate, self.slowdown)
    }

    fn simulate(&self, candidate: &Candidate, factor: f64) -> Result<Outcome, Failure> {
        let plan = self.plan(candidate)?;
        let workload = self.workloads.of(&plan, factor)?;
        let mut options = plan.options();
        if let LoadMode::ClosedLoop { concurrency } = &mut options.load {
            *concurrency = grown_concurrency(*concurrency, factor);
        }
        let cutoff = (!self.to_the_end).then(|| Cutoff::new(self.slo, &workload));
        let mut watcher = Watcher { cutoff, lost: None, watch: self.watch };
        let span_ms = span_ms(&workload);
        let simulation = Simulation::new(&plan.topology, Workload::clone(&workload), &options)
            .map_err(|error| plan.layers.refused(error))?;
        Ok(match (simulation.run(&mut watcher), watcher.lost) {
            (Ok(record), _) => Outcome::Ran(Box::new(figures(&record, self.slo, span_ms))),
            (Err(RunError::Interrupted { .. }), Some(lost)) => {
                Outcome::CutOff { reason: self.reason(lost), arrived: lost.arrived }
            }
            (Err(RunError::Interrupted { .. }), None) => Outcome::Stopped,
            (Err(error), _) => return Err(Failure::run(chain(&error))),
        })
    }

    fn reason(&self, lost: Lost) -> String {
        let Lost { target, misses, arrived } = lost;
        format!("{}: lost with {misses} misses when {arrived} requests had arrived", self.slo[target])
    }
}

/// The plan of a deployment whose iterations take `slowdown` times as long.
pub(super) fn plan(layers: &Layers, candidate: &Candidate, slowdown: f64) -> Result<Plan, Failure> {
    let mut layers = layers.clone();
    layers.vary(&candidate.settings)?;
    if !is_one(slowdown) {
        let given = layers.parse()?.engine.speedup_ratio.unwrap_or(1.0);
        layers.vary(&vec![("speedup_ratio".to_owned(), json!(given / slowdown))])?;
    }
    Plan::new(layers)
}

/// A time that the last arrival is not before, in ms.
pub(super) fn span_ms(workload: &Workload) -> f64 {
    let order = workload.arrival_order();
    let last = order.last().and_then(|&index| workload.sessions[index].turns.first());
    last.map_or(0.0, |turn| match turn.start {
        servecast_workload::TurnStart::At(at) => at.as_ms(),
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
    let tokens = |of: fn(&servecast_cluster::record::RequestRecord) -> u32| {
        served.clone().map(|request| u64::from(of(request))).sum()
    };
    let good = served.clone().filter(|request| limits.iter().all(|limit| limit.is_kept_by_request(request)));
    Figures {
        slo: slo.iter().map(|slo| slo.judge(record)).collect(),
        duration_ms: last.map_or(0.0, |last| last.since(first).as_ms()).max(span_ms),
        requests: record.requests.len() as u64,
        good_requests: good.count() as u64,
        input_tokens: tokens(|request| request.input_tokens),
        output_tokens: tokens(|request| request.output_tokens),
        overload: overload(record),
        headroom: None,
    }
}

/// Ends a run that has lost a target.
struct Watcher<'a> {
    cutoff: Option<Cutoff>,
    lost: Option<Lost>,
    watch: &'a dyn Watch,
}

impl Observer for Watcher<'_> {
    fn recorded(&mut self, so_far: &SoFar<'_>, ended: u64) -> ControlFlow<()> {
        self.lost = self.cutoff.as_mut().and_then(|cutoff| cutoff.lost(so_far, ended));
        if self.lost.is_some() || self.watch.is_stopped() {
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
