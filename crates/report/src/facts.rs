//! What a report says in lines: the facts that have no place in the columns of its table.

use servecast_record::MOST_DISTINCT_GAPS;

use crate::measured::Measured;
use crate::pool::{PoolReport, Spread};
use crate::report::Report;
use crate::saturation::render_overload;
use crate::sessions::render_sessions;
use crate::slo::render_slo;
use crate::table::{count, grouped, or_none, percent, share};
use crate::window::render_measured;

/// The lines below the table.
pub(crate) fn facts(report: &Report) -> Vec<String> {
    let (completed, rejected) = (count(report.completed_requests), count(report.rejected_requests));
    let mut facts: Vec<String> = report.measured.iter().flat_map(render_measured).collect();
    facts.extend([
        format!(
            "Prefix cache reuse: {} of prompt tokens{}",
            share(*report.prefix_cache_reused_ratio),
            tiers(report)
        ),
        format!("Requests: {completed} completed, {rejected} rejected"),
    ]);
    for (reason, &requests) in &report.rejected_by_reason {
        facts.push(format!("  rejected as {reason}: {}", count(requests)));
    }
    if let Some(withdrawn) = report.withdrawn_requests {
        facts.push(format!("  taken back by their clients: {}", count(withdrawn)));
    }
    if let Some(infinite) = report.counted_as_infinite {
        facts.push(format!("  not served, counted as infinite in latencies: {}", count(infinite)));
    }
    if let Some(error) = report.percentile_relative_error {
        facts.push(format!("Percentiles of latencies: within {}, means exact (--stream)", percent(error)));
    }
    if report.itl_relative_error > 0.0 {
        facts.push(format!(
            "Percentiles of inter token latency: within {}, for more than {} distinct gaps",
            percent(report.itl_relative_error),
            count(MOST_DISTINCT_GAPS as u64)
        ));
    }
    facts.extend(report.sessions.iter().flat_map(render_sessions));
    facts.push(format!("Preemptions: {}", count(report.total_preemptions)));
    facts.extend(drafts(report));
    report.pools.iter().for_each(|pool| facts.extend(pool_facts(pool)));
    facts.extend(goodput(report).into_iter().flatten());
    if let (Some(within), Some(limit)) =
        (report.pooled_itl_within_sla_ratio, report.sla.and_then(|sla| sla.pooled_itl_ms))
    {
        facts.push(format!("Gaps between tokens, of all requests, within {limit} ms: {}", share(*within)));
    }
    facts.extend(report.slo.iter().flatten().map(render_slo));
    facts.extend(report.overload.as_ref().map(render_overload));
    for (note, &times) in report.trace_notes.iter().flatten() {
        facts.push(format!("Trace: {note}: {}", count(times)));
    }
    if let Some(ratio) = report.latency_extrapolated_ratio {
        facts.push(format!("Iteration times extrapolated beyond the measurements: {}", percent(ratio)));
    }
    facts.extend(latency_source(report));
    facts.extend(error_bars(report));
    let duration = or_none(report.duration_ms.map(|ms| format!("{} ms", grouped(ms, 2))));
    facts.push(format!("Simulated duration: {duration}"));
    facts.push(format!("Wall time: {} ms", grouped(report.wall_time_ms, 2)));
    if let (Some(speed), Some(p50), Some(p99), Some(max)) = (
        report.wall_speed,
        report.wall_lateness_p50_ms,
        report.wall_lateness_p99_ms,
        report.wall_lateness_max_ms,
    ) {
        let [p50, p99, max] = [p50, p99, max].map(|ms| grouped(ms, 3));
        facts.push(format!(
            "Online at {speed} times the clock of the machine: events handled late by p50 {p50} ms, p99 {p99} ms, \
             at most {max} ms"
        ));
    }
    facts
}

/// Where what was reused came from.
fn tiers(report: &Report) -> String {
    match (report.gpu_cache_reused_ratio, report.host_cache_reused_ratio) {
        (Some(gpu), Some(host)) => format!(" (GPU {}, host {})", share(Some(gpu)), share(Some(host))),
        _ => String::new(),
    }
}

/// What became of drafts.
fn drafts(report: &Report) -> Option<String> {
    let (drafted, rate) = (report.spec_decode_num_draft_tokens?, report.spec_decode_acceptance_rate?);
    let (verifications, length) =
        (report.spec_decode_num_drafts?, report.spec_decode_mean_acceptance_length?);
    Some(format!(
        "Speculative decoding: {} of {} proposed tokens accepted, {} tokens from each of {} verifications",
        percent(rate),
        count(drafted),
        grouped(length, 2),
        count(verifications)
    ))
}

/// Where the iteration times come from; with a warning if nothing of them was measured.
pub(crate) fn latency_source(report: &Report) -> Option<String> {
    match (&report.latency_estimate, &report.latency_source) {
        // Those of pools may come from several.
        (Some(_), Some(sources)) if sources.starts_with("prefill: ") => {
            Some(format!("Iteration times are an estimate in part: {sources}"))
        }
        (Some(estimate), _) => {
            Some(format!("Iteration times are an estimate, nothing was measured: {estimate}"))
        }
        (None, Some(source)) => Some(format!("Iteration times: {source}")),
        (None, None) => None,
    }
}

/// TPOT and TTFT with how far off they may be, if that is known.
fn error_bars(report: &Report) -> Option<String> {
    let error = report.latency_error.as_ref()?;
    let bar = |name, value: Option<f64>, share: Option<f64>| {
        Some(format!("{name} {} ms (±{:.0} %)", grouped(value?, 2), share? * 100.0))
    };
    let tpot = bar("TPOT", report.tpot_ms.map(|stats| stats.mean), error.tpot_p90);
    let ttft = bar("TTFT", report.ttft_ms.map(|stats| stats.mean), error.ttft_p90);
    let bars: Vec<String> = tpot.into_iter().chain(ttft).collect();
    (!bars.is_empty()).then(|| format!("{}: nine of ten of {}", bars.join(", "), error.basis))
}

/// How far off TPOT and TTFT may be, without the figures.
pub(crate) fn error_of_source(report: &Report) -> Option<String> {
    let error = report.latency_error.as_ref()?;
    let (tpot, ttft) = (error.tpot_p90? * 100.0, error.ttft_p90? * 100.0);
    Some(format!("TPOT ±{tpot:.0} %, TTFT ±{ttft:.0} %: nine of ten of {}", error.basis))
}

/// How full the batches and the KV cache of a pool were, how long it was in iterations and, with several workers, how
/// evenly.
fn pool_facts(report: &PoolReport) -> Vec<String> {
    let PoolReport { pool, workers, utilization, .. } = report;
    let noun = if *workers == 1 { "worker" } else { "workers" };
    let full = report.mean_batch_size.map_or_else(String::new, |size| {
        let size = grouped(size, 2);
        let batch = match (report.batch_occupancy, report.max_num_seqs) {
            (Some(occupancy), Some(most)) => {
                format!("batch occupancy {} ({size} of {} requests)", percent(occupancy), count(most.into()))
            }
            // Workers differ in how many they may have.
            (Some(occupancy), None) => format!("batch occupancy {} ({size} requests)", percent(occupancy)),
            _ => format!("{size} requests in a batch, without a limit"),
        };
        let (mean, most) = (share(report.kv_usage), share(report.peak_kv_usage));
        format!(", {batch}, KV in use {mean}, at most {most}")
    });
    let mut facts = vec![
        format!("Pool {pool}: {workers} {noun}{full}"),
        format!("  in an iteration, however small its batch: {} of the time", share(*utilization)),
    ];
    if *workers > 1 {
        let range = |spread: Spread| format!("{} to {}", grouped(spread.min, 0), grouped(spread.max, 0));
        let shares = |spread: Option<Spread>| {
            or_none(spread.map(|spread| format!("{} to {}", percent(spread.min), percent(spread.max))))
        };
        let batch = report.mean_batch_size_per_worker;
        let batch = batch.map(|spread| format!("{} to {}", grouped(spread.min, 2), grouped(spread.max, 2)));
        facts.push(format!(
            "  a worker: {} requests, {} tokens reused",
            range(report.requests_per_worker),
            range(report.reused_tokens_per_worker)
        ));
        facts.push(format!(
            "    in an iteration {} of the time, {} requests in it, KV in use {}",
            shares(report.utilization_per_worker),
            or_none(batch),
            shares(report.kv_usage_per_worker)
        ));
    }
    facts
}

/// The goodput and the limits that it is for, when there are any.
fn goodput(report: &Report) -> Option<[String; 2]> {
    let rate = |rate: Measured| or_none(rate.map(|rate| grouped(rate, 2)));
    let rps = rate(report.goodput_request_throughput_rps?);
    let tok_s = rate(report.goodput_output_throughput_tok_s?);
    let good = grouped(report.goodput_completed_requests? as f64, 0);
    let all = grouped(report.num_requests as f64, 0);
    let limits: Vec<String> = report
        .sla?
        .limits()
        .iter()
        .filter(|limit| limit.name != "ITL")
        .filter_map(|limit| Some(format!("{} ≤ {} ms", limit.name, limit.value?)))
        .collect();
    Some([
        format!("Goodput: {rps} requests/sec, {tok_s} tokens/sec"),
        format!("  {good} of {all} requests within {}", limits.join(", ")),
    ])
}
