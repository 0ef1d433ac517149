//! Prices from passes that are known: by the times of single tokens, by the log of the engine, or by both.
//!
//! A log knows how long passes took, clients how long it is from one to the next. Together they tell what passes cost from
//! what the host does between them.

use servecast_latency::{Step, StepFeatures};

use self::row::{Row, Source};
use self::solution::Solution;
use crate::ahead;
use crate::error::CalibrateError;
use crate::fit::Fit;
use crate::held_out::Parts;
use crate::log::align;
use crate::pairs;
use crate::passes::PassRun;
use crate::requests::{Options, RequestRun};
use crate::timeline::{Timeline, timeline};

mod price;
mod row;
mod solution;

/// Passes from which on something is fitted to them.
const FEWEST_PASSES: usize = 50;

/// Everything that is known of passes.
struct Data {
    /// By run of requests.
    rows: Vec<Vec<Row>>,
    /// Of logs, and of which run each is, if that is known.
    logged: Vec<(Option<usize>, Vec<Row>)>,
    timelines: Vec<Timeline>,
    has_log: bool,
    options: Options,
}

/// Whether runs say when each of their tokens came, or logs of some are there.
pub(crate) fn is_observed(runs: &[RequestRun]) -> bool {
    let known: Vec<Timeline> = runs.iter().filter_map(timeline).collect();
    known.len() == runs.len() && known.iter().map(|one| one.intervals.len()).sum::<usize>() >= FEWEST_PASSES
}

/// Fits prices to the passes of runs whose tokens are known one by one, and of logs of these runs.
///
/// # Errors
/// For a log that is of none of the runs, and for requests that the simulated engine does not serve.
pub(crate) fn fit_observed(
    logs: &[PassRun],
    runs: &[RequestRun],
    options: Options,
) -> Result<Fit, CalibrateError> {
    let data = Data::new(logs, runs, options)?;
    let solution = Solution::of(&data, |_, _| true);
    let (coefficients, mut warnings) = solution.judged(&data);
    let step = solution.step(&data, |_| true);
    let served = runs.iter().map(|run| pairs::predicted(run, &step)).collect::<Result<Vec<_>, _>>()?;
    let levels = pairs::levels_of(runs, &served);
    // Passes are what they are; when requests come into them shows how they are scheduled.
    if let Some(others) = ahead::one_at_a_time(runs) {
        let after = others.iter().map(|run| pairs::predicted(run, &step)).collect::<Result<Vec<_>, _>>()?;
        let [ahead, after] = [served, after].map(|pairs| pairs::ttft_off(&pairs.concat()));
        if after < ahead::LOOKS_LIKE * ahead {
            warnings.push(ahead::looks_synchronous(ahead, after));
        }
    }
    let parts = Parts::of(runs);
    let mut held_out = Vec::new();
    for fold in parts.folds() {
        let kept = |run: usize, share: f64| !parts.holds_time(fold, run, share);
        let step = Solution::of(&data, kept).step(&data, |run| !parts.holds_run(fold, run));
        let served = runs.iter().map(|run| pairs::predicted(run, &step)).collect::<Result<Vec<_>, _>>()?;
        held_out.extend(parts.judge(fold, &served));
    }
    let step = Step { error: Some(parts.error_bar(&held_out)), ..step };
    Ok(Fit { step, coefficients, levels, held_out, warnings })
}

impl Data {
    fn new(logs: &[PassRun], runs: &[RequestRun], options: Options) -> Result<Self, CalibrateError> {
        let mut logged = Vec::new();
        for log in logs {
            let (run, found): (Option<usize>, Vec<(StepFeatures, f64)>) = if log.knows_contexts {
                (None, log.rows.iter().map(|row| (row.features, row.us)).collect())
            } else {
                let lines: Vec<_> = log.rows.iter().filter_map(|row| row.line).collect();
                let aligned = runs.iter().enumerate().find_map(|(at, run)| Some((at, align(&lines, run)?)));
                let (run, aligned) =
                    aligned.ok_or_else(|| CalibrateError::OtherRun { log: log.name.clone() })?;
                let known = aligned.into_iter().zip(&log.rows);
                (Some(run), known.filter_map(|(features, row)| Some((features?, row.us))).collect())
            };
            let row =
                |(features, us): &(StepFeatures, f64)| Row::of_pass(features, *us, Source::Log, options);
            logged.push((run, found.iter().map(row).collect()));
        }
        let has_log = !logged.is_empty();
        let timelines: Vec<Timeline> = runs.iter().map(|run| timeline(run).unwrap_or_default()).collect();
        let rows = timelines.iter().map(|one| row::of_clients(one, has_log, options)).collect();
        Ok(Self { rows, logged, timelines, has_log, options })
    }
}
