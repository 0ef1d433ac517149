//! Rules about what a worker has to do: prompts, a full batch, full KV, preemptions.

use servecast_record::{PoolRecord, RunRecord};
use servecast_types::Time;

use super::facts::{Cause, Facts, Main, rounded_percent};
use super::finding::{Finding, FindingKind};
use super::load::one_more;
use crate::table::{count, grouped};

/// Preemptions a request from which they are a storm, whatever they cost.
const STORM: f64 = 0.75;

/// Share of all computed tokens that is computed again from which fewer are a storm, too, and how many these are at least.
const AGAIN: f64 = 0.2;
const FEWER: f64 = 0.1;

/// Share of the run in which workers compute prompts from which on waiting for them is more than that some came at once.
const MUCH_OF_THE_TIME: f64 = 0.5;

/// Whether the main cause is more than that requests came at once, after which there was nothing to wait for.
pub(super) fn lasts(facts: &Facts<'_>, main: &Main) -> bool {
    let is_asked = facts.misses_first_tokens() || facts.overload.is_some();
    is_asked || main.cause != Cause::Prompts || with_prompts(facts, main.pool) >= MUCH_OF_THE_TIME
}

/// What the main cause is by itself.
pub(super) fn bound(facts: &Facts<'_>, main: &Main) -> Finding {
    match main.cause {
        Cause::Seats => full_batch(facts, main),
        Cause::Kv => full_kv(facts, main),
        Cause::Prompts | Cause::Link => prefill_bound(facts, main),
    }
}

/// What of the TTFT of whom the main cause is.
fn part(facts: &Facts<'_>, main: &Main) -> String {
    format!(
        "{} of the TTFT of {} (mean {})",
        facts.share_text(main.ms),
        facts.causes.who(),
        facts.mean_ttft()
    )
}

fn prefill_bound(facts: &Facts<'_>, main: &Main) -> Finding {
    let (pool, of) = (facts.pool(main.pool), &facts.causes.pools[main.pool]);
    let (busy, others) = (with_prompts(facts, main.pool), of.prompts + of.beside);
    let sentence = format!(
        "Prefill-bound: {} is for prompts: {} those of others, {} their own; {} workers compute prompts {} of \
         the time",
        part(facts, &Main { ms: others + of.own, ..*main }),
        facts.share_text(others),
        facts.share_text(of.own),
        pool.role,
        rounded_percent(busy)
    );
    Finding::new(FindingKind::PrefillBound, sentence)
        .with("mean_ttft", facts.causes.mean_ttft_ms(), "ms")
        .with("behind_other_prompts", facts.causes.share(others), "share")
        .with("own_prompt", facts.causes.share(of.own), "share")
        .with("time_with_prompts", busy, "share")
        .tested_by(if others < of.own {
            // No worker more computes a prompt faster.
            facts.given.twice_as_fast(pool.role)
        } else {
            one_more(facts, main.pool)
        })
}

fn full_batch(facts: &Facts<'_>, main: &Main) -> Finding {
    let report = &facts.report.pools[main.pool];
    let seats = report.max_num_seqs.map_or_else(String::new, |seats| format!(" ({seats} requests)"));
    let sentence = format!(
        "Decode-bound by the batch: {} is waiting for a place among the requests that may run at a time{seats}; batches \
         are {} full, KV is {} full",
        part(facts, main),
        report.batch_occupancy.map_or_else(|| "as".to_owned(), rounded_percent),
        report.kv_usage.map_or_else(|| "0 %".to_owned(), rounded_percent)
    );
    Finding::new(FindingKind::DecodeBoundBatch, sentence)
        .with("mean_ttft", facts.causes.mean_ttft_ms(), "ms")
        .with("waiting_for_a_seat", facts.causes.share(main.ms), "share")
        .with("batch_occupancy", report.batch_occupancy.unwrap_or(f64::NAN), "share")
        .with("kv_usage", report.kv_usage.unwrap_or(f64::NAN), "share")
        .with("max_num_seqs", report.max_num_seqs.map_or(f64::NAN, f64::from), "requests")
        .tested_by(facts.given.twice_the_seats(facts.pool(main.pool).role))
}

fn full_kv(facts: &Facts<'_>, main: &Main) -> Finding {
    let report = &facts.report.pools[main.pool];
    let usage = |share: Option<f64>| share.map_or_else(|| "0 %".to_owned(), rounded_percent);
    let sentence = format!(
        "Decode-bound by KV: {} is waiting for KV blocks, with places in the batch to spare; KV is {} full on average and {} \
         at most",
        part(facts, main),
        usage(report.kv_usage),
        usage(report.peak_kv_usage)
    );
    Finding::new(FindingKind::DecodeBoundKv, sentence)
        .with("mean_ttft", facts.causes.mean_ttft_ms(), "ms")
        .with("waiting_for_kv", facts.causes.share(main.ms), "share")
        .with("kv_usage", report.kv_usage.unwrap_or(f64::NAN), "share")
        .with("peak_kv_usage", report.peak_kv_usage.unwrap_or(f64::NAN), "share")
        .with("batch_occupancy", report.batch_occupancy.unwrap_or(f64::NAN), "share")
        .with("usable_blocks", f64::from(facts.pool(main.pool).limits[0].usable_blocks), "blocks")
        .tested_by(facts.given.twice_the_kv(facts.pool(main.pool).role))
}

/// Requests that lost their blocks to others again and again.
pub(super) fn preemption_storm(facts: &Facts<'_>) -> Option<Finding> {
    let Facts { run, report, .. } = facts;
    let (index, pool) = run.pools.iter().enumerate().max_by_key(|(_, pool)| pool.totals.preemptions)?;
    let preemptions = pool.totals.preemptions as f64;
    let a_request = preemptions / report.num_requests.max(1) as f64;
    let again = computed_again(run);
    if a_request < STORM && !(a_request >= FEWER && again >= AGAIN) {
        return None;
    }
    let usage = &report.pools[index];
    let hit = run
        .requests
        .iter()
        .filter(|request| request.stages.iter().any(|stage| stage.preemptions > 0))
        .count() as f64;
    let sentence = format!(
        "Preemption storm: {} preemptions of {} requests, {} of which were hit; {} of the tokens were computed again, and KV \
         is {} full on average",
        count(pool.totals.preemptions),
        count(report.num_requests),
        grouped(hit, 0),
        rounded_percent(again),
        usage.kv_usage.map_or_else(|| "0 %".to_owned(), rounded_percent)
    );
    let finding = Finding::new(FindingKind::PreemptionStorm, sentence)
        .with("preemptions", preemptions, "count")
        .with("preemptions_a_request", a_request, "count")
        .with("requests_hit", hit, "requests")
        .with("computed_again", again, "share")
        .with("kv_usage", usage.kv_usage.unwrap_or(f64::NAN), "share");
    Some(finding.tested_by(facts.given.twice_the_kv(pool.role)))
}

/// Share of the computed tokens that would not have been computed without preemptions.
fn computed_again(run: &RunRecord) -> f64 {
    let computed: u64 = run.pools.iter().map(|pool| pool.totals.computed_tokens).sum();
    let once: u64 = run
        .requests
        .iter()
        .filter(|request| !request.stages.is_empty())
        .map(|request| {
            let prompt = u64::from(request.input_tokens - request.reused_tokens().min(request.input_tokens));
            // The last token is not computed; on a decode worker of vLLM the last prompt token is once more.
            prompt + u64::from(request.output_tokens) + request.stages.len() as u64
        })
        .sum();
    let drafted: u64 = run.pools.iter().map(|pool| pool.totals.drafts.drafted).sum();
    computed.saturating_sub(once + drafted) as f64 / computed.max(1) as f64
}

/// For which share of the run workers of a pool computed prompts.
pub(super) fn with_prompts(facts: &Facts<'_>, pool: usize) -> f64 {
    let (sum, all) = times_with_prompts(facts, pool);
    if all > 0.0 { sum / all } else { 0.0 }
}

/// For how many ns workers of a pool computed prompts, and for how many they could have.
pub(super) fn times_with_prompts(facts: &Facts<'_>, pool: usize) -> (f64, f64) {
    let requests = &facts.run.requests;
    let first = requests.iter().map(|request| request.arrival).min().unwrap_or(Time::ZERO);
    let last = requests.iter().map(|request| request.ended).max().unwrap_or(Time::ZERO);
    let PoolRecord { workers, .. } = facts.pool(pool);
    let sum: f64 =
        (0..workers.len()).map(|worker| facts.states[pool].with_prompts(worker, first, last)).sum();
    (sum, last.since(first).as_ns() as f64 * workers.len() as f64)
}
