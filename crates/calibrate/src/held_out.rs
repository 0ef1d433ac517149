//! What is held out of a fit, part by part, so that what it is judged by played no role in it.

use std::collections::BTreeSet;

use servecast_latency::ErrorBar;

use crate::fit::{self, HeldOut};
use crate::pairs::{self, Pair};
use crate::requests::{RequestRun, arrival_order, under_way};

/// Blocks of time that are held out one after the other.
const BLOCKS: usize = 5;

/// The parts: runs, if the others have two load levels at least, since one says nothing of what others cost; or else a fifth
/// of the time of each run.
pub(crate) struct Parts<'a> {
    runs: &'a [RequestRun],
    is_by_run: bool,
    /// By run and row: its place in the order of arrival.
    orders: Vec<Vec<usize>>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(runs: &'a [RequestRun]) -> Self {
        let levels = |run: &RequestRun| {
            under_way(run).into_iter().map(|(_, load)| fit::level_of(load)).collect::<BTreeSet<u32>>()
        };
        let levels: Vec<BTreeSet<u32>> = runs.iter().map(levels).collect();
        let others = |left_out: usize| {
            let kept = levels.iter().enumerate().filter(|(run, _)| *run != left_out);
            kept.flat_map(|(_, levels)| levels).collect::<BTreeSet<_>>().len()
        };
        let is_by_run = runs.len() > 1 && (0..runs.len()).all(|run| others(run) > 1);
        Self { runs, is_by_run, orders: runs.iter().map(arrival_order).collect() }
    }

    /// One for each fit.
    pub(crate) fn folds(&self) -> std::ops::Range<usize> {
        0..if self.is_by_run { self.runs.len() } else { BLOCKS }
    }

    /// Whether all of a run is held out.
    pub(crate) fn holds_run(&self, fold: usize, run: usize) -> bool {
        self.is_by_run && run == fold
    }

    /// Whether what comes after this share of a run is held out.
    pub(crate) fn holds_time(&self, fold: usize, run: usize, share: f64) -> bool {
        if self.is_by_run { run == fold } else { (share * BLOCKS as f64) as usize == fold }
    }

    /// Whether a request is held out.
    pub(crate) fn holds(&self, fold: usize, run: usize, row: usize) -> bool {
        let order = &self.orders[run];
        if self.is_by_run { run == fold } else { order[row] * BLOCKS / order.len() == fold }
    }

    /// How far off the requests are that were held out, by run.
    pub(crate) fn judge(&self, fold: usize, served: &[Vec<(usize, Pair)>]) -> Vec<HeldOut> {
        let of_run = |(number, run): (usize, &RequestRun)| {
            let held = served[number].iter().filter(|(row, _)| self.holds(fold, number, *row));
            let held: Vec<Pair> = held.map(|(_, pair)| *pair).collect();
            let part = match (self.is_by_run, self.runs.len()) {
                (true, _) => run.name.clone(),
                (false, 1) => format!("requests, part {} of {BLOCKS} by arrival", fold + 1),
                (false, _) => format!("{}, part {} of {BLOCKS}", run.name, fold + 1),
            };
            (!held.is_empty()).then(|| HeldOut { part, errors_percent: pairs::errors(&held) })
        };
        self.runs.iter().enumerate().filter_map(of_run).collect()
    }

    /// How far off the model is, by what was held out.
    pub(crate) fn error_bar(&self, held_out: &[HeldOut]) -> ErrorBar {
        let shares = |name: &str| {
            let share = |part: &HeldOut| {
                let found = part.errors_percent.iter().find(|(known, _)| *known == name);
                found.map(|(_, percent)| percent.abs() / 100.0)
            };
            let mut shares: Vec<f64> = held_out.iter().filter_map(share).collect();
            shares.sort_unstable_by(f64::total_cmp);
            shares
        };
        let (tpot, ttft) = (shares("mean_tpot"), shares("mean_ttft"));
        let mean =
            |shares: &[f64]| (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64);
        let basis = if self.is_by_run {
            format!("{} loads, each predicted from the others", held_out.len())
        } else {
            format!("{} parts of the measured time, each predicted from the rest", held_out.len())
        };
        ErrorBar {
            tpot_p90: p90(&tpot),
            ttft_p90: p90(&ttft),
            tpot_mape: mean(&tpot),
            ttft_mape: mean(&ttft),
            n: Some(held_out.len() as u64),
            basis,
        }
    }
}

/// The 90th percentile of sorted figures, linear between ranks.
fn p90(sorted: &[f64]) -> Option<f64> {
    let place = 0.9 * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use servecast_engine::EngineArgs;

    use super::*;
    use crate::requests::{RequestRow, RequestTimes};

    /// Requests that come so many ms apart and take 100 ms.
    fn run(apart_ms: f64) -> RequestRun {
        let row = |number: u32| RequestRow {
            arrival_s: f64::from(number) * apart_ms / 1e3,
            times: Some(RequestTimes { ttft_ms: 20.0, e2e_ms: 100.0 }),
            ..RequestRow::default()
        };
        RequestRun {
            name: format!("{apart_ms}"),
            rows: (0..10).map(row).collect(),
            engine: EngineArgs::default(),
            workers: 1,
        }
    }

    #[test]
    fn runs_are_held_out_unless_one_load_is_left() {
        let three = [run(200.0), run(40.0), run(10.0)];
        let parts = Parts::of(&three);
        assert_eq!(parts.folds(), 0..3);
        assert!(parts.holds(1, 1, 3) && !parts.holds(1, 0, 3) && parts.holds_run(1, 1));
        // What is left without the second run is one at a time.
        let two = [run(200.0), run(10.0)];
        let parts = Parts::of(&two);
        assert_eq!(parts.folds(), 0..BLOCKS);
        assert!(parts.holds(1, 0, 3) && parts.holds(1, 1, 2) && !parts.holds(1, 1, 4));
        assert!(parts.holds_time(1, 0, 0.25) && !parts.holds_time(1, 0, 0.45) && !parts.holds_run(1, 1));
    }

    #[test]
    fn an_error_bar_is_of_what_was_held_out() {
        let part = |ttft, tpot| HeldOut {
            part: String::new(),
            errors_percent: vec![("mean_ttft", ttft), ("mean_tpot", tpot)],
        };
        let runs = [run(200.0), run(40.0), run(10.0)];
        let bar = Parts::of(&runs).error_bar(&[part(-10.0, 1.0), part(20.0, 3.0), part(0.0, -2.0)]);
        let near = |share: Option<f64>, expected: f64| (share.unwrap() - expected).abs() < 1e-12;
        assert!(near(bar.ttft_p90, 0.18) && near(bar.ttft_mape, 0.1), "{bar:?}");
        assert!(near(bar.tpot_p90, 0.028) && near(bar.tpot_mape, 0.02), "{bar:?}");
        assert_eq!((bar.n, bar.basis.as_str()), (Some(3), "3 loads, each predicted from the others"));
        assert_eq!(Parts::of(&runs).error_bar(&[]).tpot_p90, None);
    }
}
