//! Whether a run can still meet its targets.
//!
//! A target is lost when too many samples have missed already, whatever becomes of the rest:
//!
//! - The percentile p of n samples lies at or above the sample of rank r = ⌊(n - 1) p / 100⌋, counted from 0, so it misses
//!   as soon as n - r samples do. Of TTFT and E2E there are as many samples as requests arrive, rejected ones included.
//!   Of TPOT and ITL there are at most as many as the lengths that are asked for allow; n - r does not fall with n, so the
//!   most that there can be is what counts (and one sample more, since p is no exact number).
//! - A maximum is lost with one sample, a mean when the sum of what there is exceeds the limit of all there can be.
//! - Goodput is lost when the requests that have not missed a limit are too few.
//!
//! A first token that is late is a miss whatever follows, and so is a request that was turned away. Gaps are counted only
//! where they are above the limit by more than what [`TokenGaps`] may merge.

use servecast_record::{RequestRecord, SoFar, TokenGaps};
use servecast_report::{LatencyLimit, Metric, Slo, Statistic, is_share};
use servecast_types::Duration;
use servecast_workload::Workload;

/// Looks at a run as it goes on.
#[derive(Debug, Clone)]
pub struct Cutoff {
    targets: Vec<Target>,
    /// Requests that will have arrived in the end.
    requests: u64,
    /// Requests that have arrived and may still miss a target, by number.
    open: Vec<u32>,
    /// Requests that were looked at.
    seen: usize,
    /// Requests that have to have ended before the next look.
    next_look: u64,
}

/// The target that a run has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Its place among the targets.
    pub target: usize,
    /// Samples that had missed it.
    pub misses: u64,
    /// Requests that had arrived by then.
    pub arrived: u64,
}

#[derive(Debug, Clone)]
struct Target {
    slo: Slo,
    /// The most samples that there can be.
    samples: u64,
    /// Samples that have missed it so far.
    misses: u64,
    /// The sum of those that are known, in ms.
    sum_ms: f64,
    /// By request: whether it was counted.
    counted: Vec<bool>,
}

impl Cutoff {
    /// For runs of a workload.
    pub fn new(slo: &[Slo], workload: &Workload) -> Self {
        let requests = workload.requests() as u64;
        let several = workload.turns().filter(|turn| turn.output_tokens > 1).count() as u64;
        let gaps = workload.turns().map(|turn| u64::from(turn.output_tokens.saturating_sub(1))).sum();
        let target = |slo: &Slo| {
            let samples = match slo {
                Slo::Latency { limit, .. } => match limit.metric {
                    Metric::Tpot => several,
                    Metric::Itl => gaps,
                    Metric::Ttft | Metric::E2e => requests,
                },
                Slo::Goodput { .. } => requests,
            };
            Target {
                slo: slo.clone(),
                samples,
                misses: 0,
                sum_ms: 0.0,
                counted: vec![false; requests as usize],
            }
        };
        let targets = slo.iter().map(target).collect();
        Self { targets, requests, open: Vec::new(), seen: 0, next_look: 0 }
    }

    /// The target that cannot be met any more, if there is one, with so many requests ended. Looks only now and then.
    pub fn lost(&mut self, so_far: &SoFar<'_>, ended: u64) -> Option<Lost> {
        if ended < self.next_look {
            return None;
        }
        self.next_look = ended + (self.requests / 200).max(16);
        self.look(so_far)
    }

    fn look(&mut self, so_far: &SoFar<'_>) -> Option<Lost> {
        let arrived = so_far.requests.len();
        self.open.extend((self.seen..arrived).map(|number| number as u32));
        self.seen = arrived;
        let targets = &mut self.targets;
        self.open.retain(|&number| {
            let number = number as usize;
            let (request, has_ended) = (&so_far.requests[number], so_far.ended[number]);
            for target in &mut *targets {
                target.count(number, request, has_ended);
            }
            !has_ended
        });
        let lost = |target: &Target| target.is_lost(so_far.gaps);
        let target = self.targets.iter().position(lost)?;
        let misses = self.targets[target].misses_with(so_far.gaps);
        Some(Lost { target, misses, arrived: arrived as u64 })
    }
}

impl Target {
    /// Counts a request if it is known what becomes of it.
    fn count(&mut self, number: usize, request: &RequestRecord, has_ended: bool) {
        if self.counted[number] {
            return;
        }
        match &self.slo {
            Slo::Latency { limit, .. } => {
                if let Some(ms) = sample(limit.metric, request, has_ended) {
                    self.counted[number] = true;
                    self.sum_ms += ms;
                    self.misses += u64::from(!limit.is_kept_by(ms));
                }
            }
            Slo::Goodput { limits, .. } => {
                let misses = |limit: &LatencyLimit| {
                    sample(limit.metric, request, has_ended).is_some_and(|ms| !limit.is_kept_by(ms))
                };
                if (has_ended && !request.is_finished()) || limits.iter().any(misses) {
                    self.counted[number] = true;
                    self.misses += 1;
                }
            }
        }
    }

    fn misses_with(&self, gaps: &TokenGaps) -> u64 {
        match &self.slo {
            Slo::Latency { limit, .. } if limit.metric == Metric::Itl => gaps.surely_above(beyond(*limit)),
            _ => self.misses,
        }
    }

    fn is_lost(&self, gaps: &TokenGaps) -> bool {
        let misses = self.misses_with(gaps);
        match &self.slo {
            Slo::Goodput { share, is_strict, .. } => {
                !is_share(self.samples - misses, self.samples, *share, *is_strict)
            }
            Slo::Latency { .. } if self.samples == 0 => false,
            Slo::Latency { statistic: Statistic::Max, .. } => misses > 0,
            Slo::Latency { statistic: Statistic::Mean, limit } => {
                let sum_ms = if limit.metric == Metric::Itl { gaps.sum_ms() } else { self.sum_ms };
                // What is lost in rounding must not decide.
                sum_ms > limit.ms * self.samples as f64 * (1.0 + 1e-9)
            }
            Slo::Latency { statistic: Statistic::Percentile(percent), limit } => {
                let is_known = matches!(limit.metric, Metric::Ttft | Metric::E2e);
                let rank = ((self.samples - 1) as f64 * (percent / 100.0)).floor() as u64;
                misses >= self.samples - rank + u64::from(!is_known)
            }
        }
    }
}

/// A latency of a request as far as it is settled: nothing that follows makes it a smaller one.
fn sample(metric: Metric, request: &RequestRecord, has_ended: bool) -> Option<f64> {
    if has_ended {
        return metric.of(request);
    }
    match metric {
        Metric::Ttft => request.ttft().map(Duration::as_ms),
        Metric::Tpot | Metric::Itl | Metric::E2e => None,
    }
}

/// The longest gap that keeps a limit.
fn beyond(limit: LatencyLimit) -> Duration {
    Duration::from_ns((limit.ms * 1e6).ceil() as u64)
}
