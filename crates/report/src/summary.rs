//! From the records of a run to its report.

use serde::Serialize;
use serde_json::Value;
use servecast_cluster::record::{
    PoolRecord, PoolTotals, RequestRecord, RequestStatus, RunRecord, TokenGaps, WorkerTotals,
};
use servecast_types::Duration;

use crate::latency::{queue_time, tpot_ms, ttst};
use crate::report::{Counts, PoolReport, Report, SchemaVersion, Spread};
use crate::sla::Sla;
use crate::stats::Stats;

/// Shortest duration that throughputs are divided by, so that a run of no length has finite ones.
const MIN_DURATION_S: f64 = 1e-9;

/// What a report says that the run itself does not know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SummaryOptions {
    /// Limits for the goodput; without any, the report has no goodput.
    pub sla: Sla,
    /// What the simulation itself took, in ms of real time.
    pub wall_time_ms: f64,
    /// What was odd about the trace, as counts by kind.
    pub notes: Counts,
}

/// Computes the report of `run`.
///
/// Sums follow the order of the requests, and of the gaps by length, so equal runs give equal bytes.
///
/// # Panics
///
/// Panics when a request reused more tokens than its prompt has, which no sound run records.
pub fn summarize(run: &RunRecord, options: &SummaryOptions) -> Report {
    let completed: Vec<&RequestRecord> =
        run.requests.iter().filter(|request| request.is_finished()).collect();
    let rejected: Vec<&RequestRecord> =
        run.requests.iter().filter(|request| !request.is_finished()).collect();
    let total_input_tokens = sum(&completed, |request| request.input_tokens);
    let total_output_tokens = sum(&completed, |request| request.output_tokens);
    let reused_tokens = sum(&completed, |request| {
        assert!(request.reused_tokens() <= request.input_tokens, "only prompt tokens can be reused");
        request.reused_tokens()
    });

    let duration = duration(&run.requests);
    let per_second = |count: u64| count as f64 / (duration.as_ms() / 1000.0).max(MIN_DURATION_S);
    let stats = |of: &dyn Fn(&RequestRecord) -> Option<f64>| {
        Stats::of(&completed.iter().filter_map(|request| of(request)).collect::<Vec<f64>>())
    };
    let (itl_ms, output_token_throughput_per_user) = gap_stats(&run.gaps);
    let sla = (!options.sla.is_empty()).then_some(options.sla);
    let good = sla.map(|sla| Good::of(&completed, sla));

    Report {
        schema_version: SchemaVersion::V1,
        num_requests: run.requests.len() as u64,
        completed_requests: completed.len() as u64,
        rejected_requests: rejected.len() as u64,
        rejected_by_reason: by_reason(&rejected),
        total_input_tokens,
        total_output_tokens,
        rejected_input_tokens: sum(&rejected, |request| request.input_tokens),
        rejected_output_tokens: sum(&rejected, |request| request.output_tokens),
        duration_ms: duration.as_ms(),
        wall_time_ms: options.wall_time_ms,
        request_throughput_rps: per_second(completed.len() as u64),
        input_throughput_tok_s: per_second(total_input_tokens),
        output_throughput_tok_s: per_second(total_output_tokens),
        total_throughput_tok_s: per_second(total_input_tokens + total_output_tokens),
        prefix_cache_reused_ratio: reused_tokens as f64 / total_input_tokens.max(1) as f64,
        ttft_ms: stats(&|request| Some(request.ttft()?.as_ms())),
        ttst_ms: stats(&|request| Some(ttst(request)?.as_ms())),
        tpot_ms: stats(&tpot_ms),
        itl_ms,
        itl_relative_error: run.gaps.relative_error(),
        e2e_latency_ms: stats(&|request| Some(request.e2e()?.as_ms())),
        output_token_throughput_per_user,
        queue_time_ms: stats(&|request| Some(queue_time(request)?.as_ms())),
        total_preemptions: run.pools.iter().map(|pool| pool.totals.preemptions).sum(),
        total_iterations: run.pools.iter().map(|pool| pool.totals.iterations).sum(),
        latency_extrapolated_ratio: (run.extrapolated_iterations > 0).then(|| {
            let iterations: u64 = run.pools.iter().map(|pool| pool.totals.iterations).sum();
            run.extrapolated_iterations as f64 / iterations.max(1) as f64
        }),
        latency_estimate: (!run.latency_estimates.is_empty()).then(|| run.latency_estimates.join(", ")),
        pools: run.pools.iter().map(|pool| pool_report(pool, duration)).collect(),
        sla,
        goodput_completed_requests: good.map(|good| good.requests),
        goodput_request_throughput_rps: good.map(|good| per_second(good.requests)),
        goodput_output_throughput_tok_s: good.map(|good| per_second(good.output_tokens)),
        trace_notes: (!options.notes.is_empty()).then(|| options.notes.clone()),
    }
}

/// The requests that kept all limits.
#[derive(Clone, Copy)]
struct Good {
    requests: u64,
    output_tokens: u64,
}

impl Good {
    fn of(completed: &[&RequestRecord], sla: Sla) -> Self {
        let good: Vec<&RequestRecord> =
            completed.iter().copied().filter(|request| sla.is_met_by(request)).collect();
        Self { requests: good.len() as u64, output_tokens: sum(&good, |request| request.output_tokens) }
    }
}

fn sum(requests: &[&RequestRecord], tokens: impl Fn(&RequestRecord) -> u32) -> u64 {
    requests.iter().map(|request| u64::from(tokens(request))).sum()
}

/// From the first arrival to the last token of any request; zero when there was no token.
fn duration(requests: &[RequestRecord]) -> Duration {
    let first_arrival = requests.iter().map(|request| request.arrival).min();
    let last_token = requests.iter().filter_map(|request| request.last_token).max();
    first_arrival.zip(last_token).map_or(Duration::ZERO, |(first, last)| last.since(first))
}

/// Statistics of the gaps in ms, and of the token rates, in tokens a second, of those that are not zero.
fn gap_stats(gaps: &TokenGaps) -> (Stats, Stats) {
    let mean_ms = gaps.mean_ms();
    let gaps: Vec<(f64, u64)> = gaps.sorted().into_iter().map(|(gap, count)| (gap.as_ms(), count)).collect();
    // The longest gap is the lowest rate.
    let rates: Vec<(f64, u64)> = gaps
        .iter()
        .rev()
        .filter(|&&(gap_ms, _)| gap_ms > 0.0)
        .map(|&(gap_ms, count)| (1000.0 / gap_ms, count))
        .collect();
    let itl_ms = Stats { mean: mean_ms, ..Stats::of_counted(&gaps) };
    (itl_ms, Stats::of_counted(&rates))
}

fn by_reason(rejected: &[&RequestRecord]) -> Counts {
    let mut counts = Counts::new();
    for request in rejected {
        if let RequestStatus::Rejected(reason) = request.status {
            *counts.entry(name(reason)).or_insert(0) += 1;
        }
    }
    counts
}

fn pool_report(pool: &PoolRecord, duration: Duration) -> PoolReport {
    let PoolTotals { iterations, computed_tokens, preemptions } = pool.totals;
    let share = |busy_ns: u64| match duration.as_ns() {
        0 => 0.0,
        duration_ns => busy_ns as f64 / duration_ns as f64,
    };
    let spread = |of: &dyn Fn(&WorkerTotals) -> f64| Spread::of(pool.workers.iter().map(of));
    let busy_ns: u64 = pool.workers.iter().map(|worker| worker.busy_ns).sum();
    PoolReport {
        pool: name(pool.role),
        workers: pool.workers.len() as u32,
        iterations,
        computed_tokens,
        preemptions,
        utilization: share(busy_ns) / pool.workers.len().max(1) as f64,
        requests_per_worker: spread(&|worker| worker.requests as f64),
        reused_tokens_per_worker: spread(&|worker| worker.reused_tokens as f64),
        utilization_per_worker: spread(&|worker| share(worker.busy_ns)),
    }
}

/// The name under which a unit variant is serialised. Reports hold names as text, so that one written by a
/// newer release, with a reason or a pool unknown here, can still be read.
fn name(variant: impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(Value::String(name)) => name,
        other => unreachable!("a unit variant is serialised as its name, not as {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::Time;

    use super::*;
    use crate::fixture;

    fn report(sla: Sla) -> Report {
        summarize(&fixture::run(), &SummaryOptions { sla, ..SummaryOptions::default() })
    }

    #[track_caller]
    fn check(stats: Stats, expected_samples: &[f64]) {
        assert_eq!(stats, Stats::of(expected_samples));
    }

    #[test]
    fn samples_are_those_of_completed_requests() {
        let report = report(Sla::default());
        check(report.ttft_ms, &[20.0, 80.0]);
        check(report.ttst_ms, &[10.0, 10.0]);
        check(report.tpot_ms, &[10.0, 20.0]);
        check(report.e2e_latency_ms, &[40.0, 160.0]);
        check(report.queue_time_ms, &[2.0, 4.0]);
    }

    #[test]
    fn gaps_are_pooled_over_all_requests() {
        let report = report(Sla::default());
        assert_eq!(report.itl_ms, Stats::of_counted(&[(10.0, 5), (20.0, 1), (40.0, 1)]));
        let rates = [(25.0, 1), (50.0, 1), (100.0, 5)];
        assert_eq!(report.output_token_throughput_per_user, Stats::of_counted(&rates));
    }

    #[test]
    fn a_gap_of_zero_has_no_rate() {
        let mut run = fixture::run();
        run.gaps = TokenGaps::default();
        run.gaps.add(Duration::ZERO, 2);
        run.gaps.add(Duration::from_ns(4_000_000), 1);
        let report = summarize(&run, &SummaryOptions::default());
        check(report.itl_ms, &[0.0, 0.0, 4.0]);
        check(report.output_token_throughput_per_user, &[250.0]);
    }

    #[test]
    fn rates_are_over_the_time_from_the_first_arrival_to_the_last_token() {
        let report = report(Sla::default());
        assert_eq!(report.duration_ms, 170.0);
        assert_eq!(report.request_throughput_rps, 2.0 / 0.17);
        assert_eq!(report.input_throughput_tok_s, 400.0 / 0.17);
        assert_eq!(report.output_throughput_tok_s, 8.0 / 0.17);
        assert_eq!(report.total_throughput_tok_s, 408.0 / 0.17);
        let utilization: Vec<f64> = report.pools.iter().map(|pool| pool.utilization).collect();
        assert_eq!(utilization, [0.5, 0.2, 0.3]);
    }

    #[test]
    fn requests_and_tokens_are_conserved() {
        let report = report(Sla::default());
        assert_eq!(report.num_requests, report.completed_requests + report.rejected_requests);
        assert_eq!(report.rejected_requests, report.rejected_by_reason.values().sum::<u64>());
        assert_eq!([report.total_input_tokens, report.rejected_input_tokens], [400, 9400]);
        assert_eq!([report.total_output_tokens, report.rejected_output_tokens], [8, 2]);
        assert_eq!([report.total_preemptions, report.total_iterations], [2, 12]);
    }

    /// What the decode stage takes over from the prefill stage is no reuse, nor is that of rejected requests.
    #[test]
    fn reuse_counts_once_and_only_where_it_served() {
        assert_eq!(report(Sla::default()).prefix_cache_reused_ratio, 100.0 / 400.0);
    }

    #[test]
    fn goodput_counts_requests_within_all_limits() {
        let report = report(Sla { ttft_ms: Some(50.0), itl_ms: Some(15.0), e2e_ms: None });
        assert_eq!(report.goodput_completed_requests, Some(1));
        assert_eq!(report.goodput_request_throughput_rps, Some(1.0 / 0.17));
        assert_eq!(report.goodput_output_throughput_tok_s, Some(3.0 / 0.17));
    }

    #[test]
    fn without_limits_there_is_no_goodput() {
        let report = report(Sla::default());
        assert_eq!((report.sla, report.goodput_completed_requests), (None, None));
    }

    #[test]
    fn a_run_without_length_has_finite_rates() {
        let mut run = fixture::run();
        run.requests.truncate(1);
        run.requests[0].arrival = Time::from_ns(50_000_000);
        let report = summarize(&run, &SummaryOptions::default());
        assert_eq!((report.duration_ms, report.request_throughput_rps), (0.0, 1.0 / MIN_DURATION_S));
        assert!(report.pools.iter().all(|pool| pool.utilization == 0.0));
    }
}
