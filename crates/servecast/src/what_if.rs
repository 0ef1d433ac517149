//! `diagnose`: the runs that would test what a diagnosis found, run.
//!
//! ```text
//!  findings ─▶ their what-ifs, each once, at most three ─▶ the same load under changed settings ─▶ figures before and after
//! ```

use std::ops::ControlFlow;

use servecast_cluster::{Observer, RunError, Simulation, WithTokens};
use servecast_config::error::{Failure, chain};
use servecast_config::settings::{Difference, Layers};
use servecast_record::RunRecord;
use servecast_report::{Report, Settings, Tested, summarize};
use servecast_types::Time;
use servecast_workload::Workload;

use crate::plan::Plan;
use crate::resolved::values;

/// Runs at most, so that a diagnosis takes no longer than about four runs.
const MOST_RUNS: usize = 3;

/// How far the runs have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestProgress {
    /// Runs that are over.
    pub done: usize,
    /// All runs.
    pub runs: usize,
    /// Requests of the current one that have ended.
    pub ended: u64,
    /// Requests of each.
    pub requests: u64,
}

/// Runs the what-ifs of the first findings of a report, and adds to these findings what came of it.
///
/// The load is that of the run, request for request, and what is not changed is as in its `config.toml`, so each figure is
/// what the command of the finding gives. A change that cannot be made says why instead.
///
/// # Errors
/// `watch` has ended it.
pub fn test_findings(
    plan: &Plan,
    workload: &Workload,
    report: &mut Report,
    watch: &mut dyn FnMut(TestProgress) -> ControlFlow<()>,
) -> Result<(), RunError> {
    let mut tests: Vec<(Settings, Option<Tested>)> = Vec::new();
    for what_if in report.diagnosis.iter().flatten().filter_map(|finding| finding.what_if.as_ref()) {
        if tests.len() < MOST_RUNS && tests.iter().all(|(known, _)| *known != what_if.settings) {
            tests.push((what_if.settings.clone(), None));
        }
    }
    let runs = tests.len();
    for (done, (settings, tested)) in tests.iter_mut().enumerate() {
        let progress = TestProgress { done, runs, ended: 0, requests: workload.requests() as u64 };
        *tested = Some(
            match run(plan, workload, settings, &mut |ended| watch(TestProgress { ended, ..progress })) {
                Ok(after) => Tested::of(report, &after),
                Err(NoReport::Interrupted(error)) => return Err(error),
                Err(NoReport::Refused(reason)) => Tested::refused(reason),
            },
        );
    }
    for what_if in report.diagnosis.iter_mut().flatten().filter_map(|finding| finding.what_if.as_mut()) {
        let found = tests.iter().find(|(settings, _)| *settings == what_if.settings);
        what_if.tested = found.and_then(|(_, tested)| tested.clone());
    }
    Ok(())
}

/// Why a run has no report.
enum NoReport {
    Interrupted(RunError),
    Refused(String),
}

impl From<Failure> for NoReport {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure.message().to_string())
    }
}

/// The report of the same load under changed settings.
fn run(
    plan: &Plan,
    workload: &Workload,
    settings: &Settings,
    watch: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Report, NoReport> {
    let difference: Difference = settings.iter().map(|(path, value)| (path.clone(), value.clone())).collect();
    let plan = changed(plan, workload, &difference)?;
    let options = plan.summary(workload, false);
    let simulation = Simulation::new(&plan.topology, workload.clone(), &plan.options())
        .map_err(|error| plan.layers.refused(error))?;
    let mut follower = Follower { watch };
    let mut follower = WithTokens::new(&plan.topology, plan.keeps_token_times(&simulation), &mut follower);
    let record = simulation.run_dyn(&mut follower).map_err(|error| match error {
        RunError::Interrupted { .. } => NoReport::Interrupted(error),
        error => NoReport::Refused(chain(&error)),
    })?;
    let record = RunRecord { token_times: follower.into_times(), ..record };
    Ok(summarize(&record, &options))
}

/// The run with some settings changed; the others are resolved, as the what-if's command has them.
fn changed(plan: &Plan, workload: &Workload, difference: &Difference) -> Result<Plan, Failure> {
    let mut layers: Layers = plan.layers.with_values(values(plan, &workload.notes));
    layers.vary(difference)?;
    Plan::new(layers)
}

/// Tells how far a run has come.
struct Follower<'a> {
    watch: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl Observer for Follower<'_> {
    fn progress(&mut self, _now: Time, ended: u64) -> ControlFlow<()> {
        (self.watch)(ended)
    }
}
