//! What was asked of a run, and what of it the run misses.

use servecast_record::{RequestRecord, RunRecord};

use crate::report::Report;
use crate::slo::{Metric, Slo};

/// Share of all requests that have to keep a limit of the goodput, as in the verdict of the page.
const WANTED: f64 = 0.99;

/// The limits of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Targets {
    /// Whether there are any.
    pub(super) are_given: bool,
    /// A latency whose limit is missed, and the least limit of it, in ms.
    missed: Vec<(Metric, f64)>,
    /// The objectives that are missed, as they were written.
    pub(super) texts: Vec<String>,
}

impl Targets {
    pub(super) fn new(run: &RunRecord, report: &Report) -> Self {
        let mut targets = Self::default();
        let all = run.requests.len().max(1) as f64;
        let kept = |metric: Metric, limit: f64| {
            let keeps = |request: &&RequestRecord| {
                request.is_finished() && metric.of(request).is_none_or(|ms| ms <= limit)
            };
            run.requests.iter().filter(keeps).count() as f64 / all
        };
        if let Some(sla) = report.sla {
            targets.are_given = true;
            for (metric, limit) in
                [(Metric::Ttft, sla.ttft_ms), (Metric::Tpot, sla.tpot_ms), (Metric::E2e, sla.e2e_ms)]
            {
                if let Some(limit) = limit.filter(|&limit| kept(metric, limit) < WANTED) {
                    targets.miss(metric, limit, format!("{} ≤ {limit} ms", metric.name().to_uppercase()));
                }
            }
            if let (Some(limit), Some(within)) = (sla.pooled_itl_ms, report.pooled_itl_within_sla_ratio)
                && within.is_some_and(|within| within < WANTED)
            {
                targets.miss(Metric::Itl, limit, format!("ITL ≤ {limit} ms"));
            }
        }
        for outcome in report.slo.iter().flatten() {
            targets.are_given = true;
            let Some(slo) = outcome.objective.parse::<Slo>().ok().filter(|_| !outcome.met) else { continue };
            let limits = match slo {
                Slo::Latency { limit, .. } => vec![limit],
                Slo::Goodput { limits, share, .. } => {
                    limits.into_iter().filter(|limit| kept(limit.metric, limit.ms) < share).collect()
                }
            };
            for limit in limits {
                targets.miss(limit.metric, limit.ms, outcome.objective.clone());
            }
        }
        targets
    }

    fn miss(&mut self, metric: Metric, limit: f64, text: String) {
        match self.missed.iter_mut().find(|(known, _)| *known == metric) {
            Some((_, known)) => *known = known.min(limit),
            None => self.missed.push((metric, limit)),
        }
        if !self.texts.contains(&text) {
            self.texts.push(text);
        }
    }

    /// The limit of a latency that the run misses, in ms.
    pub(super) fn missed(&self, metric: Metric) -> Option<f64> {
        self.missed.iter().find(|(known, _)| *known == metric).map(|&(_, limit)| limit)
    }

    /// Whether all that was asked for is kept.
    pub(super) fn are_met(&self) -> bool {
        self.are_given && self.missed.is_empty()
    }
}
