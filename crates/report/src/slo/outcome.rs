//! Whether a run keeps its objectives, and by how much.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::{RunRecord, TokenGaps};

use super::{LatencyLimit, Slo, Statistic};
use crate::part::Judges;
use crate::stats::percentile;
use crate::table::{grouped, percent};
use crate::tally::Tally;

/// What became of an objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SloOutcome {
    /// The objective.
    pub objective: String,
    /// Whether the run keeps it. A figure without a sample keeps nothing.
    pub met: bool,
    /// The figure, not rounded: ms, or the share of requests from 0 to 1 for goodput. Null without a sample, and where
    /// it is infinite, since requests that were not served count.
    pub value: Option<f64>,
    /// What it is held against, in the same unit.
    pub limit: f64,
    /// What is left of the limit: `(limit - value) / limit` of a latency, `value - limit` of goodput; negative where it
    /// is missed, null where there is no value.
    pub margin: Option<f64>,
    /// How many samples there are: requests that arrived (with two tokens or more for TPOT), gaps for ITL.
    pub samples: u64,
    /// How many of them are beyond the limit; those that were not served are.
    pub misses: u64,
    /// Requests that arrived and were not served to the end.
    pub unserved: u64,
}

/// Samples of a latency.
pub(crate) struct SloSamples {
    /// Each with how often it occurs, smallest first.
    pub(crate) sorted: Vec<(f64, u64)>,
    /// How many are within the limit.
    pub(crate) kept: u64,
    /// Their mean; `None` without any.
    pub(crate) mean: Option<f64>,
}

impl SloSamples {
    /// Gaps between tokens.
    pub(crate) fn of_gaps(gaps: &TokenGaps, limit: LatencyLimit) -> Self {
        let sorted: Vec<(f64, u64)> =
            gaps.sorted().into_iter().map(|(gap, times)| (gap.as_ms(), times)).collect();
        let within = sorted.partition_point(|&(ms, _)| limit.is_kept_by(ms));
        let kept = sorted[..within].iter().map(|&(_, times)| times).sum();
        // Of gaps that share buckets the mean is known better than from these.
        Self { kept, mean: (!sorted.is_empty()).then(|| gaps.mean_ms()), sorted }
    }
}

impl Slo {
    /// What became of it in a run.
    ///
    /// # Panics
    /// As [`Tally::add`].
    pub fn judge(&self, run: &RunRecord) -> SloOutcome {
        let judges = Judges { sla: None, slo: std::slice::from_ref(self), count_rejected: false };
        Tally::of(run, &judges).outcomes(&run.gaps).remove(0)
    }

    /// What became of a share, where so many of all requests are good.
    pub(crate) fn judge_share(&self, good: u64, samples: u64, unserved: u64) -> SloOutcome {
        let Self::Goodput { share, is_strict, .. } = self else { unreachable!("it is a share") };
        let value = (samples > 0).then(|| good as f64 / samples as f64);
        SloOutcome {
            objective: self.to_string(),
            met: value.is_some() && is_share(good, samples, *share, *is_strict),
            value,
            limit: *share,
            margin: value.map(|value| value - share),
            samples,
            misses: samples - good,
            unserved,
        }
    }

    /// What became of a statistic of these samples.
    pub(crate) fn judge_latency(
        &self,
        statistic: Statistic,
        limit: LatencyLimit,
        samples: &SloSamples,
        unserved: u64,
    ) -> SloOutcome {
        let number: u64 = samples.sorted.iter().map(|&(_, times)| times).sum();
        let value = samples.mean.map(|mean| statistic.of(&samples.sorted, number, mean));
        let finite = value.filter(|value| value.is_finite());
        SloOutcome {
            objective: self.to_string(),
            met: value.is_some_and(|value| limit.is_kept_by(value)),
            value: finite,
            limit: limit.ms,
            margin: finite.map(|value| (limit.ms - value) / limit.ms),
            samples: number,
            misses: number - samples.kept,
            unserved,
        }
    }
}

impl Statistic {
    /// The statistic of samples that ascend, each with how often it occurs; `number` in all, at least one.
    fn of(self, samples: &[(f64, u64)], number: u64, mean: f64) -> f64 {
        match self {
            Self::Mean => mean,
            Self::Max => samples.last().map_or(0.0, |&(value, _)| value),
            Self::Percentile(percent) => {
                let ends: Vec<u64> = samples
                    .iter()
                    .scan(0, |end, &(_, times)| {
                        *end += times;
                        Some(*end)
                    })
                    .collect();
                let at = |rank: u64| samples[ends.partition_point(|&end| end <= rank)].0;
                percentile(number, percent, at)
            }
        }
    }
}

/// Whether so many of all are at least the share that is wanted, or more than it; in whole numbers where the share is a whole
/// number of them, since 0.07 · 100 is none.
pub fn is_share(good: u64, all: u64, share: f64, is_strict: bool) -> bool {
    let wanted = share * all as f64;
    let nearest = wanted.round();
    let wanted = if (wanted - nearest).abs() <= 1e-9 * nearest.max(1.0) { nearest } else { wanted };
    if is_strict { good as f64 > wanted } else { good as f64 >= wanted }
}

/// An objective with ✓ or ✗, what came of it, and by how much, for people.
pub fn render_slo(outcome: &SloOutcome) -> String {
    let mark = if outcome.met { '✓' } else { '✗' };
    let objective = &outcome.objective;
    let is_goodput = objective.starts_with("goodput");
    let found = match (outcome.value, outcome.margin) {
        (Some(value), Some(margin)) if is_goodput => {
            let side = if margin < 0.0 { "below" } else { "above" };
            let points = margin.abs() * 100.0;
            let (misses, samples) = (grouped(outcome.misses as f64, 0), grouped(outcome.samples as f64, 0));
            format!("{}, {points:.2} points {side}; {misses} of {samples} requests miss", percent(value))
        }
        (Some(value), Some(0.0)) => format!("{} ms, at the limit", grouped(value, 2)),
        (Some(value), Some(margin)) => {
            let side = if margin < 0.0 { "above" } else { "below" };
            format!("{} ms, {:.1} % {side}", grouped(value, 2), margin.abs() * 100.0)
        }
        _ if outcome.samples == 0 => "there is no sample of it".to_owned(),
        _ => format!("infinite, since {} requests were not served", grouped(outcome.unserved as f64, 0)),
    };
    format!("{mark} {objective}: {found}")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use servecast_record::{RejectReason, RequestStatus, TokenGaps};
    use servecast_types::{Duration, Time};

    use super::*;
    use crate::fixture;

    #[track_caller]
    fn judged(objective: &str, run: &RunRecord) -> SloOutcome {
        objective.parse::<Slo>().unwrap().judge(run)
    }

    /// Requests that arrive at 0, with their TTFT in ms, or rejected; one token each.
    fn requests(ttfts: &[Option<u64>]) -> RunRecord {
        let mut run = fixture::run();
        let sample = run.requests[0].clone();
        run.requests = ttfts
            .iter()
            .map(|ttft| {
                let mut request = sample.clone();
                request.arrival = Time::ZERO;
                match ttft {
                    Some(ms) => request.first_token = Some(Time::from_ns(ms * 1_000_000)),
                    None => request.status = RequestStatus::Rejected(RejectReason::KvCapacity),
                }
                request
            })
            .collect();
        run
    }

    /// TTFTs of 20 and 80 ms, and two that were not served.
    #[test]
    fn whoever_is_not_served_waits_forever() {
        let run = fixture::run();
        for (objective, met, value) in [
            ("p0 ttft <= 20ms", true, Some(20.0)),
            ("p0 ttft < 20ms", false, Some(20.0)),
            // (4 - 1) / 3 is a rank of its own: no infinity is in it.
            ("p33.333333333333336 ttft <= 80ms", true, Some(80.0)),
            ("p50 ttft <= 1m", false, None),
            ("max ttft <= 1m", false, None),
            ("mean ttft <= 1m", false, None),
            ("p0 e2e <= 40ms", true, Some(40.0)),
            // Both that were not served had been asked for two tokens or more.
            ("p50 tpot <= 1m", false, None),
            ("max itl <= 40ms", true, Some(40.0)),
            ("mean itl < 15.8ms", true, Some(110.0 / 7.0)),
        ] {
            let outcome = judged(objective, &run);
            assert_eq!((outcome.met, outcome.value), (met, value), "{objective}");
        }
        let outcome = judged("p50 ttft <= 79ms", &run);
        assert_eq!((outcome.samples, outcome.misses, outcome.unserved), (4, 3, 2));
        assert_eq!(render_slo(&outcome), "✗ p50 ttft <= 79ms: infinite, since 2 requests were not served");
    }

    #[test]
    fn goodput_is_a_share_of_those_that_arrived() {
        let run = fixture::run();
        for (objective, met, misses) in [
            ("goodput >= 50% (ttft <= 80ms)", true, 2),
            ("goodput > 50% (ttft <= 80ms)", false, 2),
            ("goodput >= 25% (ttft <= 80ms, tpot <= 10ms)", true, 3),
            ("goodput >= 25% (ttft < 80ms, tpot < 10ms)", false, 4),
            ("goodput >= 0% (e2e <= 1ms)", true, 4),
        ] {
            let outcome = judged(objective, &run);
            assert_eq!((outcome.met, outcome.misses), (met, misses), "{objective}");
        }
        let outcome = judged("goodput >= 60% (ttft <= 80ms)", &run);
        let text = "✗ goodput >= 60% (ttft <= 80ms): 50.00%, 10.00 points below; 2 of 4 requests miss";
        assert_eq!(render_slo(&outcome), text);
    }

    /// 0.07 · 100 is above 7 in floating point, and 0.29 · 100 below 29.
    #[test]
    fn shares_are_whole_numbers_of_requests() {
        for percent in 0..=100_u64 {
            let share = format!("{percent}e-2").parse::<f64>().unwrap();
            assert!(
                is_share(percent, 100, share, false) && !is_share(percent, 100, share, true),
                "{percent}"
            );
            assert!(percent == 0 || !is_share(percent - 1, 100, share, false), "{percent}");
        }
    }

    #[test]
    fn without_a_sample_nothing_is_kept() {
        let run = RunRecord::default();
        for objective in ["p95 ttft <= 1s", "max itl <= 1s", "mean tpot <= 1s", "goodput >= 0% (ttft <= 1s)"]
        {
            let outcome = judged(objective, &run);
            assert_eq!((outcome.met, outcome.value, outcome.samples), (false, None, 0), "{objective}");
            assert!(render_slo(&outcome).ends_with("there is no sample of it"));
        }
    }

    #[test]
    fn figures_are_not_rounded() {
        let mut run = fixture::run();
        run.gaps = TokenGaps::default();
        run.gaps.add(Duration::from_ns(40_000_001), 1);
        assert!(!judged("max itl <= 40ms", &run).met);
        run.gaps = TokenGaps::default();
        run.gaps.add(Duration::from_ns(39_999_999), 1);
        assert!(judged("max itl < 40ms", &run).met);
        let text = render_slo(&judged("max itl < 50ms", &run));
        assert_eq!(text, "✓ max itl < 50ms: 40.00 ms, 20.0 % below");
    }

    proptest! {
        /// A percentile that is kept leaves no more misses than its rank allows, whoever is rejected.
        #[test]
        fn misses_and_percentiles_agree(
            ttfts in vec(prop::option::weighted(0.9, 1_u64..100), 1..60),
            percent in 0_u32..=100,
            limit in 1_u64..100,
        ) {
            let outcome = judged(&format!("p{percent} ttft <= {limit}ms"), &requests(&ttfts));
            let misses = ttfts.iter().filter(|ttft| ttft.is_none_or(|ms| ms > limit)).count() as u64;
            prop_assert_eq!(outcome.misses, misses);
            let rank = ((outcome.samples - 1) as f64 * (f64::from(percent) / 100.0)).floor() as u64;
            // All samples from that rank on are misses: the percentile lies among them.
            if misses >= outcome.samples - rank {
                prop_assert!(!outcome.met);
            }
            if misses == 0 {
                prop_assert!(outcome.met);
            }
        }
    }
}
