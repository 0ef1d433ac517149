//! From the records of a run to its report.

use serde::Serialize;
use serde_json::Value;
use servecast_record::{
    DraftTotals, PoolRecord, PoolTotals, RunRecord, TokenGaps, WorkerLimits, WorkerTotals,
};
use servecast_types::Duration;

use crate::classes::figures_by_class;
use crate::diagnosis::diagnose;
use crate::measured::Measured;
use crate::part::Judges;
use crate::pool::{PoolReport, Spread};
use crate::report::{Counts, Provenance, Report, SchemaVersion};
use crate::sessions::SessionFigures;
use crate::sla::Sla;
use crate::slo::Slo;
use crate::stats::Stats;
use crate::tally::{Tally, Totals};
use crate::window::{MeasuredPart, Window};

/// What a report says that the run itself does not know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SummaryOptions {
    /// Limits for the goodput; without any, the report has no goodput.
    pub sla: Sla,
    /// Objectives of the run.
    pub slo: Vec<Slo>,
    /// What the simulation itself took, in ms of real time.
    pub wall_time_ms: f64,
    /// How well a run by the clock of the machine kept to it.
    pub online: Option<Online>,
    /// What was odd about the trace, as counts by kind.
    pub notes: Counts,
    /// What a reader should know, in sentences.
    pub sentences: Vec<String>,
    /// What was run.
    pub provenance: Provenance,
    /// What is left out at the ends of the run.
    pub window: Window,
    /// Whether a request that was not served counts as infinite in latencies.
    pub count_rejected: bool,
    /// Whether the report says what is wrong with the run, and what it needs for that.
    pub diagnosis: Option<DiagnosisOptions>,
}

/// What a [diagnosis](diagnose) needs to know beside the run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DiagnosisOptions {
    /// Share of the prompt tokens that a prefix cache without end finds, if that is known.
    pub ideal_reuse: Option<f64>,
}

impl SummaryOptions {
    /// What requests are held against.
    pub(crate) fn judges(&self) -> Judges<'_> {
        let sla = (!self.sla.is_empty()).then_some(self.sla);
        Judges { sla, slo: &self.slo, count_rejected: self.count_rejected }
    }

    /// The part of a run that is measured, and which it is; `None` if that is all of it.
    ///
    /// # Panics
    /// As [`RunRecord::part`].
    pub fn measured_part(&self, run: &RunRecord) -> Option<(RunRecord, MeasuredPart)> {
        self.window.of(run, &self.judges())
    }
}

/// How well a run by the clock of the machine kept to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Online {
    /// How many times as fast as that clock it went.
    pub speed: f64,
    /// By how much each instant at which something happened was handled late, in real time.
    pub lateness: TokenGaps,
}

impl Online {
    /// A percentile of the lateness, in ms.
    fn lateness_ms(&self, of: fn(&Stats) -> f64) -> Option<f64> {
        let lateness = self.lateness.sorted();
        let lateness: Vec<(f64, u64)> =
            lateness.into_iter().map(|(late, times)| (late.as_ms(), times)).collect();
        Stats::of_counted(&lateness).as_ref().map(of)
    }
}

/// Computes the report of `run`, or of the part of it that is measured.
///
/// Sums follow the order of the requests, and of the gaps by length, so equal runs give equal bytes.
///
/// # Panics
///
/// Panics when a request reused more tokens than its prompt has, which no sound run records, and where a part is measured
/// of a run without [times of tokens](RunRecord::token_times).
pub fn summarize(run: &RunRecord, options: &SummaryOptions) -> Report {
    let whole = Tally::of(run, &options.judges());
    let mut report = match options.measured_part(run) {
        Some((part, measured)) => {
            report(&Tally::of(&part, &options.judges()), &whole, &part, Some(measured), options)
        }
        None => report(&whole, &whole, run, None, options),
    };
    report.sessions = SessionFigures::of(run);
    report.diagnosis = options.diagnosis.map(|options| diagnose(run, &report, options.ideal_reuse));
    report
}

/// The report of the requests of `tally`, which are a part of `whole` or all of it, and of the gaps and pools of `run`.
pub(crate) fn report(
    tally: &Tally,
    whole: &Tally,
    run: &RunRecord,
    measured: Option<MeasuredPart>,
    options: &SummaryOptions,
) -> Report {
    let Totals { requests: completed, input_tokens, output_tokens } = tally.completed;
    let whole_duration = whole.duration();
    let duration = tally.duration();
    // Nothing can be said of a run without length.
    let seconds = duration.map(|duration| duration.as_ms() / 1000.0).filter(|&seconds| seconds > 0.0);
    let per_second = |count: u64| Measured(seconds.map(|seconds| count as f64 / seconds));
    let (itl_ms, output_token_throughput_per_user) = gap_stats(&run.gaps);
    let sla = options.judges().sla;
    let good = tally.good();
    let itl_limit = sla.and_then(|sla| sla.pooled_itl_ms);
    let provenance: Provenance = options.provenance.clone();
    let online = options.online.as_ref();
    let drafts = Some(drafts(run)).filter(|drafts| drafts.verifications > 0);
    let mut limits = run.pools.iter().flat_map(|pool| &pool.limits);
    let tiers = tally.reused_ratio_by_tier().filter(|_| limits.any(|limits| limits.offloads_kv));

    Report {
        schema_version: SchemaVersion::V1,
        servecast_version: provenance.servecast_version,
        workload_name: provenance.workload_name,
        workload_hash: provenance.workload_hash.map(|hash| format!("{hash:016x}")),
        seed: provenance.seed,
        settings: provenance.settings,
        measured,
        num_requests: tally.requests,
        completed_requests: completed,
        rejected_requests: tally.rejected.requests,
        rejected_by_reason: tally.rejected_by_reason(),
        withdrawn_requests: (tally.withdrawn > 0).then_some(tally.withdrawn),
        counted_as_infinite: options.count_rejected.then(|| tally.unserved()),
        total_input_tokens: input_tokens,
        total_output_tokens: output_tokens,
        rejected_input_tokens: tally.rejected.input_tokens,
        rejected_output_tokens: tally.rejected.output_tokens,
        duration_ms: Measured(duration.map(Duration::as_ms)),
        wall_time_ms: options.wall_time_ms,
        wall_speed: online.map(|online| online.speed),
        wall_lateness_p50_ms: online.and_then(|online| online.lateness_ms(|late| late.median)),
        wall_lateness_p99_ms: online.and_then(|online| online.lateness_ms(|late| late.p99)),
        wall_lateness_max_ms: online.and_then(|online| online.lateness_ms(|late| late.max)),
        request_throughput_rps: per_second(completed),
        input_throughput_tok_s: per_second(input_tokens),
        output_throughput_tok_s: per_second(output_tokens),
        total_throughput_tok_s: per_second(input_tokens + output_tokens),
        prefix_cache_reused_ratio: Measured(tally.reused_ratio()),
        gpu_cache_reused_ratio: tiers.map(|(gpu, _)| gpu),
        host_cache_reused_ratio: tiers.map(|(_, host)| host),
        ttft_ms: tally.stats(&tally.ttft),
        ttst_ms: tally.stats_of_gaps(&tally.ttst),
        tpot_ms: tally.stats_of_gaps(&tally.tpot),
        itl_ms,
        itl_relative_error: run.gaps.relative_error(),
        e2e_latency_ms: tally.stats(&tally.e2e),
        output_token_throughput_per_user,
        queue_time_ms: tally.stats(&tally.queue_time),
        percentile_relative_error: tally.relative_error(),
        total_preemptions: run.pools.iter().map(|pool| pool.totals.preemptions).sum(),
        total_iterations: iterations(run),
        spec_decode_num_drafts: drafts.map(|drafts| drafts.verifications),
        spec_decode_num_draft_tokens: drafts.map(|drafts| drafts.drafted),
        spec_decode_num_accepted_tokens: drafts.map(|drafts| drafts.accepted),
        spec_decode_acceptance_rate: drafts
            .map(|drafts| drafts.accepted as f64 / drafts.drafted.max(1) as f64),
        spec_decode_mean_acceptance_length: drafts
            .map(|drafts| 1.0 + drafts.accepted as f64 / drafts.verifications as f64),
        latency_source: provenance.latency_source,
        latency_error: provenance.latency_error,
        latency_extrapolated_ratio: extrapolated_ratio(run),
        latency_estimate: (!run.latency_estimates.is_empty()).then(|| run.latency_estimates.join(", ")),
        pools: run.pools.iter().map(|pool| pool_report(pool, whole_duration)).collect(),
        sla,
        goodput_completed_requests: good.map(|good| good.requests),
        goodput_request_throughput_rps: good.map(|good| per_second(good.requests)),
        goodput_output_throughput_tok_s: good.map(|good| per_second(good.output_tokens)),
        pooled_itl_within_sla_ratio: itl_limit.map(|limit| Measured(share_within(&run.gaps, limit))),
        slo: (!options.slo.is_empty()).then(|| tally.outcomes(&run.gaps)),
        classes: figures_by_class(run, &options.judges()),
        sessions: None,
        overload: whole.overload(),
        diagnosis: None,
        trace_notes: (!options.notes.is_empty()).then(|| options.notes.clone()),
        notes: (!options.sentences.is_empty()).then(|| options.sentences.clone()),
    }
}

fn iterations(run: &RunRecord) -> u64 {
    run.pools.iter().map(|pool| pool.totals.iterations).sum()
}

/// What became of the drafts of all pools.
fn drafts(run: &RunRecord) -> DraftTotals {
    run.pools.iter().fold(DraftTotals::default(), |sum, pool| {
        let DraftTotals { verifications, drafted, accepted } = pool.totals.drafts;
        DraftTotals {
            verifications: sum.verifications + verifications,
            drafted: sum.drafted + drafted,
            accepted: sum.accepted + accepted,
        }
    })
}

/// The share of iterations that lie outside what was measured, if any does.
fn extrapolated_ratio(run: &RunRecord) -> Option<f64> {
    let extrapolated = run.extrapolated_iterations;
    (extrapolated > 0).then(|| extrapolated as f64 / iterations(run).max(1) as f64)
}

/// Statistics of the gaps in ms, and of the token rates, in tokens a second, of those that are not zero.
pub(crate) fn gap_stats(gaps: &TokenGaps) -> (Measured<Stats>, Measured<Stats>) {
    let mean_ms = gaps.mean_ms();
    let gaps: Vec<(f64, u64)> = gaps.sorted().into_iter().map(|(gap, count)| (gap.as_ms(), count)).collect();
    // The longest gap is the lowest rate.
    let rates: Vec<(f64, u64)> = gaps
        .iter()
        .rev()
        .filter(|&&(gap_ms, _)| gap_ms > 0.0)
        .map(|&(gap_ms, count)| (1000.0 / gap_ms, count))
        .collect();
    let itl_ms = Stats::of_counted(&gaps).map(|stats| Stats { mean: mean_ms, ..stats });
    (Measured(itl_ms), Measured(Stats::of_counted(&rates)))
}

/// The share of the gaps that are no longer than so many ms, if there are any.
fn share_within(gaps: &TokenGaps, limit_ms: f64) -> Option<f64> {
    let gaps = gaps.sorted();
    let count = |gaps: &[(Duration, u64)]| gaps.iter().map(|&(_, times)| times).sum::<u64>();
    let within = gaps.partition_point(|(gap, _)| gap.as_ms() <= limit_ms);
    let all = count(&gaps);
    (all > 0).then(|| count(&gaps[..within]) as f64 / all as f64)
}

/// Requests that may run on a worker at a time, if there is a limit, which is the same for all.
fn seats_of_each(pool: &PoolRecord) -> Option<u32> {
    let first = pool.limits.first()?.max_num_seqs;
    pool.limits.iter().all(|limits| limits.max_num_seqs == first).then_some(first)?
}

fn pool_report(pool: &PoolRecord, duration: Option<Duration>) -> PoolReport {
    let PoolTotals { iterations, computed_tokens, preemptions, .. } = pool.totals;
    let duration_ns = duration.map(Duration::as_ns).filter(|&ns| ns > 0);
    let share = |busy_ns: u64, duration_ns: u64| busy_ns as f64 / duration_ns as f64;
    let spread = |of: &dyn Fn(&WorkerTotals) -> f64| {
        Spread::of(pool.workers.iter().map(of)).expect("a pool has workers")
    };
    let busy_ns: u64 = pool.workers.iter().map(|worker| worker.busy_ns).sum();
    // Averages over the time in iterations.
    let average = |sum_ns: u128, busy_ns: u64| (busy_ns > 0).then(|| sum_ns as f64 / busy_ns as f64);
    let all = |of: fn(&WorkerTotals) -> u128| average(pool.workers.iter().map(of).sum(), busy_ns);
    let workers = || pool.workers.iter().zip(&pool.limits);
    let blocks = |limits: &WorkerLimits| f64::from(limits.usable_blocks.max(1));
    let of_workers = |of: fn(&WorkerTotals) -> u128, unit: &dyn Fn(&WorkerLimits) -> f64| {
        Spread::of(workers().filter_map(|(worker, limits)| {
            average(of(worker), worker.busy_ns).map(|average| average / unit(limits))
        }))
    };
    let mean_batch_size = all(|worker| worker.request_ns);
    let has_seats = pool.limits.iter().all(|limits| limits.max_num_seqs.is_some());
    let seats = |limits: &WorkerLimits| limits.max_num_seqs.map_or(f64::INFINITY, f64::from);
    let peak = workers().map(|(worker, limits)| f64::from(worker.peak_blocks) / blocks(limits));
    PoolReport {
        pool: name(pool.role),
        workers: pool.workers.len() as u32,
        iterations,
        computed_tokens,
        preemptions,
        utilization: duration_ns.map(|ns| share(busy_ns, ns) / pool.workers.len().max(1) as f64),
        mean_batch_size,
        max_num_seqs: seats_of_each(pool),
        batch_occupancy: share_held(pool, |worker| worker.request_ns, &seats).filter(|_| has_seats),
        kv_usage: share_held(pool, |worker| worker.block_ns, &blocks),
        peak_kv_usage: (iterations > 0).then(|| peak.fold(0.0, f64::max)),
        requests_per_worker: spread(&|worker| worker.requests as f64),
        reused_tokens_per_worker: spread(&|worker| worker.reused_tokens as f64),
        utilization_per_worker: duration_ns.map(|ns| spread(&|worker| share(worker.busy_ns, ns))),
        mean_batch_size_per_worker: of_workers(|worker| worker.request_ns, &|_| 1.0),
        kv_usage_per_worker: of_workers(|worker| worker.block_ns, &blocks),
    }
}

/// How much of what workers can hold they held on average while they were in iterations; of workers that differ, the
/// share of all that they could have held then.
fn share_held(
    pool: &PoolRecord,
    held: fn(&WorkerTotals) -> u128,
    room: &dyn Fn(&WorkerLimits) -> f64,
) -> Option<f64> {
    let busy_ns: u64 = pool.workers.iter().map(|worker| worker.busy_ns).sum();
    let sum = pool.workers.iter().map(held).sum::<u128>() as f64;
    if busy_ns == 0 {
        return None;
    }
    if let Some(limits) = pool.common_limits() {
        return Some(sum / busy_ns as f64 / room(&limits));
    }
    let workers = pool.workers.iter().zip(&pool.limits);
    Some(sum / workers.map(|(worker, limits)| worker.busy_ns as f64 * room(limits)).sum::<f64>())
}

/// The name under which a unit variant is serialised. Reports hold names as text, so that one written by a
/// newer release, with a reason or a pool unknown here, can still be read.
pub(crate) fn name(variant: impl Serialize) -> String {
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
    fn check(stats: Measured<Stats>, expected_samples: &[f64]) {
        assert_eq!(*stats, Stats::of(expected_samples));
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
        assert_eq!(*report.itl_ms, Stats::of_counted(&[(10.0, 5), (20.0, 1), (40.0, 1)]));
        let rates = [(25.0, 1), (50.0, 1), (100.0, 5)];
        assert_eq!(*report.output_token_throughput_per_user, Stats::of_counted(&rates));
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
        assert_eq!(report.duration_ms, 170.0.into());
        assert_eq!(report.request_throughput_rps, (2.0 / 0.17).into());
        assert_eq!(report.input_throughput_tok_s, (400.0 / 0.17).into());
        assert_eq!(report.output_throughput_tok_s, (8.0 / 0.17).into());
        assert_eq!(report.total_throughput_tok_s, (408.0 / 0.17).into());
        let utilization: Vec<f64> = report.pools.iter().filter_map(|pool| pool.utilization).collect();
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
        assert_eq!(report(Sla::default()).prefix_cache_reused_ratio, (100.0 / 400.0).into());
    }

    #[test]
    fn goodput_counts_requests_within_all_limits() {
        let report = report(Sla { ttft_ms: Some(50.0), tpot_ms: Some(15.0), ..Sla::default() });
        assert_eq!(report.goodput_completed_requests, Some(1));
        assert_eq!(report.goodput_request_throughput_rps, Some((1.0 / 0.17).into()));
        assert_eq!(report.goodput_output_throughput_tok_s, Some((3.0 / 0.17).into()));
    }

    /// Of the gaps five are 10 ms, one is 20 and one 40.
    #[test]
    fn a_limit_of_pooled_gaps_judges_gaps_and_no_request() {
        let of = |ms| report(Sla { pooled_itl_ms: Some(ms), ..Sla::default() });
        for (ms, share) in [(9.9, 0.0), (10.0, 5.0 / 7.0), (39.0, 6.0 / 7.0), (40.0, 1.0)] {
            assert_eq!(of(ms).pooled_itl_within_sla_ratio, Some(share.into()), "{ms}");
        }
        assert_eq!((of(1.0).goodput_completed_requests, of(1.0).sla.is_some()), (None, true));
        let options =
            SummaryOptions { sla: Sla { pooled_itl_ms: Some(1.0), ..Sla::default() }, ..Default::default() };
        let empty = summarize(&RunRecord::default(), &options);
        assert_eq!(empty.pooled_itl_within_sla_ratio, Some(Measured(None)));
    }

    #[test]
    fn without_limits_there_is_no_goodput() {
        let report = report(Sla::default());
        assert_eq!((report.sla, report.goodput_completed_requests), (None, None));
    }

    #[test]
    fn a_run_without_length_has_no_rates() {
        let mut run = fixture::run();
        run.requests.truncate(1);
        run.requests[0].arrival = Time::from_ns(50_000_000);
        let report = summarize(&run, &SummaryOptions::default());
        assert_eq!((report.duration_ms, report.request_throughput_rps), (0.0.into(), Measured(None)));
        assert!(report.pools.iter().all(|pool| pool.utilization.is_none()));
    }

    /// A latency of 0 would be the best there is.
    #[test]
    fn a_run_that_served_nobody_has_null_for_every_figure_without_a_sample() {
        let mut run = fixture::run();
        run.requests.retain(|request| request.line == 3);
        run.gaps = TokenGaps::default();
        let sla = Sla { ttft_ms: Some(50.0), ..Sla::default() };
        let report = summarize(&run, &SummaryOptions { sla, ..SummaryOptions::default() });
        let report = serde_json::to_value(report).unwrap();
        let null = |key: &&String| report[key.as_str()].is_null();
        let nulls: Vec<&String> = report.as_object().unwrap().keys().filter(null).collect();
        assert_eq!(nulls.len(), 7 * 9 + 8, "{nulls:?}");
        for key in ["mean_ttft_ms", "p99_itl_ms", "duration_ms", "goodput_request_throughput_rps"] {
            assert!(nulls.contains(&&key.to_owned()), "{key}");
        }
        assert_eq!(report["completed_requests"], 0);
        assert_eq!(report["pools"][0]["utilization"], Value::Null);
    }
}
