//! The main figures of some requests of a run: of all where others are measured, of a class of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::{RunRecord, TokenGaps};

use crate::measured::Measured;
use crate::sla::Sla;
use crate::slo::{Slo, SloOutcome};
use crate::stats::Stats;
use crate::summary::gap_stats;
use crate::tally::Tally;

/// What requests are held against.
#[derive(Debug, Clone, Copy)]
pub struct Judges<'a> {
    /// Limits for the goodput.
    pub sla: Option<Sla>,
    /// Objectives.
    pub slo: &'a [Slo],
    /// Whether a request that was not served counts as infinite in latencies.
    pub count_rejected: bool,
}

/// The main figures of some requests of a run, as the keys of the report of these names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    /// Requests that arrived.
    pub num_requests: u64,
    /// Requests served to the end.
    pub completed_requests: u64,
    /// Requests turned away or given up.
    pub rejected_requests: u64,
    /// Prompt tokens of completed requests.
    pub total_input_tokens: u64,
    /// Tokens produced for completed requests.
    pub total_output_tokens: u64,
    /// Share of the prompt tokens of completed requests that was found in the prefix cache; null without any.
    pub prefix_cache_reused_ratio: Option<f64>,
    /// Time to first token, in ms; null without a sample.
    pub ttft_ms: Option<Percentiles>,
    /// Time per output token, in ms; null without a sample.
    pub tpot_ms: Option<Percentiles>,
    /// Gaps between tokens, pooled over these requests, in ms; null without a sample.
    pub itl_ms: Option<Percentiles>,
    /// Request latency, in ms; null without a sample.
    pub e2e_latency_ms: Option<Percentiles>,
    /// Completed requests that kept all limits of `sla`; absent without limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goodput_completed_requests: Option<u64>,
    /// What became of each objective over these requests; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<Vec<SloOutcome>>,
}

/// Statistics of a latency; null where they are infinite, since requests that were not served count (`count_rejected`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Percentiles {
    /// Mean.
    pub mean: Option<f64>,
    /// 50th percentile.
    pub median: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Maximum.
    pub max: Option<f64>,
}

impl From<Stats> for Percentiles {
    fn from(stats: Stats) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        Self {
            mean: finite(stats.mean),
            median: finite(stats.median),
            p90: finite(stats.p90),
            p95: finite(stats.p95),
            p99: finite(stats.p99),
            max: finite(stats.max),
        }
    }
}

/// A name, and how what it means is found.
type Named<Of, What> = (&'static str, fn(&Of) -> Option<What>);

/// The statistics of a latency, by the beginnings of their names.
const STATISTICS: [Named<Percentiles, f64>; 6] = [
    ("mean", |of| of.mean),
    ("median", |of| of.median),
    ("p90", |of| of.p90),
    ("p95", |of| of.p95),
    ("p99", |of| of.p99),
    ("max", |of| of.max),
];

const LATENCIES: [Named<Figures, Percentiles>; 4] = [
    ("ttft_ms", |of| of.ttft_ms),
    ("tpot_ms", |of| of.tpot_ms),
    ("itl_ms", |of| of.itl_ms),
    ("e2e_latency_ms", |of| of.e2e_latency_ms),
];

const OTHERS: [Named<Figures, f64>; 7] = [
    ("num_requests", |of| Some(of.num_requests as f64)),
    ("completed_requests", |of| Some(of.completed_requests as f64)),
    ("rejected_requests", |of| Some(of.rejected_requests as f64)),
    ("total_input_tokens", |of| Some(of.total_input_tokens as f64)),
    ("total_output_tokens", |of| Some(of.total_output_tokens as f64)),
    ("prefix_cache_reused_ratio", |of| of.prefix_cache_reused_ratio),
    ("goodput_completed_requests", |of| of.goodput_completed_requests.map(|count| count as f64)),
];

impl Figures {
    /// The names of the figures, as a report has them: `p99_ttft_ms`.
    pub(crate) fn names() -> Vec<String> {
        let of_latency =
            |(latency, _): &Named<Self, Percentiles>| STATISTICS.map(|(name, _)| format!("{name}_{latency}"));
        let others = OTHERS.iter().map(|(name, _)| (*name).to_owned());
        others.chain(LATENCIES.iter().flat_map(of_latency)).collect()
    }

    /// The figure of a name; `None` without a sample, and where there is no such figure.
    pub(crate) fn named(&self, name: &str) -> Option<f64> {
        if let Some((_, of)) = OTHERS.iter().find(|(other, _)| *other == name) {
            return of(self);
        }
        let (statistic, latency) = name.split_once('_')?;
        let (_, of_latency) = LATENCIES.iter().find(|(name, _)| *name == latency)?;
        let (_, of) = STATISTICS.iter().find(|(name, _)| *name == statistic)?;
        of(&of_latency(self)?)
    }

    /// The figures of all requests of `run`, which may be a [part](RunRecord::part) of another.
    pub fn of(run: &RunRecord, judges: &Judges<'_>) -> Self {
        Self::of_tally(&Tally::of(run, judges), &run.gaps)
    }

    /// The figures of requests, with the gaps between their tokens.
    pub(crate) fn of_tally(tally: &Tally, gaps: &TokenGaps) -> Self {
        let percentiles = |stats: Measured<Stats>| stats.map(Percentiles::from);
        let outcomes = tally.outcomes(gaps);
        Self {
            num_requests: tally.requests,
            completed_requests: tally.completed.requests,
            rejected_requests: tally.rejected.requests,
            total_input_tokens: tally.completed.input_tokens,
            total_output_tokens: tally.completed.output_tokens,
            prefix_cache_reused_ratio: tally.reused_ratio(),
            ttft_ms: percentiles(tally.stats(&tally.ttft)),
            tpot_ms: percentiles(tally.stats_of_gaps(&tally.tpot)),
            itl_ms: percentiles(gap_stats(gaps).0),
            e2e_latency_ms: percentiles(tally.stats(&tally.e2e)),
            goodput_completed_requests: tally.good().map(|good| good.requests),
            slo: (!outcomes.is_empty()).then_some(outcomes),
        }
    }
}
