//! The main figures of some requests of a run: of all where others are measured, of a class of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::{RequestRecord, RequestStatus, RunRecord};
use servecast_types::Duration;

use crate::latency::tpot_ms;
use crate::sla::Sla;
use crate::slo::{Slo, SloOutcome};
use crate::stats::Stats;
use crate::summary::{Good, gap_stats, reused_ratio, sum};

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

impl Figures {
    /// The figures of all requests of `run`, which may be a [part](RunRecord::part) of another.
    pub fn of(run: &RunRecord, judges: &Judges<'_>) -> Self {
        let completed: Vec<&RequestRecord> =
            run.requests.iter().filter(|request| request.is_finished()).collect();
        let rejected =
            run.requests.iter().filter(|request| matches!(request.status, RequestStatus::Rejected(_)));
        let total_input_tokens = sum(&completed, |request| request.input_tokens);
        let stats = |asks: u32, of: &dyn Fn(&RequestRecord) -> Option<f64>| {
            judges.stats(run, asks, of).map(Percentiles::from)
        };
        let sla = judges.sla.filter(Sla::judges_requests);
        Self {
            num_requests: run.requests.len() as u64,
            completed_requests: completed.len() as u64,
            rejected_requests: rejected.count() as u64,
            total_input_tokens,
            total_output_tokens: sum(&completed, |request| request.output_tokens),
            prefix_cache_reused_ratio: reused_ratio(&completed, total_input_tokens),
            ttft_ms: stats(1, &|request| Some(request.ttft()?.as_ms())),
            tpot_ms: stats(2, &tpot_ms),
            itl_ms: gap_stats(&run.gaps).0.map(Percentiles::from),
            e2e_latency_ms: stats(1, &|request| request.e2e().map(Duration::as_ms)),
            goodput_completed_requests: sla.map(|sla| Good::of(&completed, sla).requests),
            slo: (!judges.slo.is_empty()).then(|| judges.slo.iter().map(|slo| slo.judge(run)).collect()),
        }
    }
}

impl Judges<'_> {
    /// Statistics of a latency of completed requests; if those that were not served count, they are infinite where they
    /// asked for `asks` tokens or more.
    pub(crate) fn stats(
        &self,
        run: &RunRecord,
        asks: u32,
        of: &dyn Fn(&RequestRecord) -> Option<f64>,
    ) -> Option<Stats> {
        let sample = |request: &RequestRecord| {
            if request.is_finished() {
                of(request)
            } else {
                (self.count_rejected && request.requested_output_tokens >= asks).then_some(f64::INFINITY)
            }
        };
        Stats::of(&run.requests.iter().filter_map(sample).collect::<Vec<f64>>())
    }
}
