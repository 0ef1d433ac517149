//! Rules about gaps between tokens that miss a target.

use servecast_record::RequestRecord;
use servecast_types::Role;

use super::deployment::pool_ratio_of;
use super::facts::{Facts, rounded_percent};
use super::finding::{Finding, FindingKind};
use super::load::one_more;
use crate::latency::tpot_ms;
use crate::slo::Metric;
use crate::table::grouped;

/// Share of the time between tokens in which prompts are computed from which on these are what is slow.
const BESIDE_PROMPTS: f64 = 0.5;

/// How many times as long as the fastest a token takes that is slow without a target.
const SLOW: f64 = 5.0;

/// What makes tokens slow, where a target on them is missed.
pub(super) fn slow_tokens(facts: &Facts<'_>) -> Option<Finding> {
    let limit = facts.targets.missed(Metric::Tpot);
    let of_gaps = facts.targets.missed(Metric::Itl);
    let of_all = facts.targets.missed(Metric::E2e).filter(|_| !facts.misses_first_tokens());
    let misses = limit.or(of_gaps).or(of_all).is_some();
    if facts.targets.are_met() {
        return None;
    }
    let is_slow = |request: &&RequestRecord| match limit {
        Some(limit) => tpot_ms(request).is_some_and(|ms| ms > limit),
        None => request.output_tokens > 1,
    };
    let slow = || facts.run.requests.iter().filter(|request| request.is_finished()).filter(is_slow);
    let pool = facts.run.pools.iter().rposition(|pool| pool.role != Role::Prefill)?;
    let (mut all_ns, mut beside_ns) = (0.0, 0.0);
    for request in slow() {
        let Some((from, to)) = request.first_token.zip(request.last_token) else { continue };
        let Some(stage) = request.stages.last() else { continue };
        all_ns += to.since(from).as_ns() as f64;
        beside_ns += facts.states[pool].with_prompts(stage.worker.index(), from, to);
    }
    if all_ns <= 0.0 {
        return None;
    }
    let (share, count) = (beside_ns / all_ns, slow().count());
    let mean_ms = slow().filter_map(tpot_ms).sum::<f64>() / count.max(1) as f64;
    let role = facts.pool(pool).role;
    let prompts = share >= BESIDE_PROMPTS && role == Role::Aggregated;
    // Without a target, tokens that take five times as long as the fastest are alarming, if prompts are why.
    let fastest_ms = facts.run.gaps.sorted().iter().map(|(gap, _)| gap.as_ms()).find(|&ms| ms > 0.0);
    let are_slow = fastest_ms.is_some_and(|fastest_ms| mean_ms >= SLOW * fastest_ms);
    if !(misses || prompts && are_slow) {
        return None;
    }
    if !prompts && let Some(found) = pool_ratio_of(facts, pool) {
        return Some(found);
    }
    let batch = facts.report.pools[pool].mean_batch_size;
    let who = if misses { "that miss a target" } else { "of the run" };
    let tokens = format!("the {count} requests {who} get a token every {} ms", grouped(mean_ms, 1));
    let beside = format!("prompts are computed beside them {} of the time", rounded_percent(share));
    let (kind, sentence, what_if) = if prompts {
        let text = format!("Prefill-bound: {tokens}, and {beside}");
        (FindingKind::PrefillBound, text, facts.given.half_the_chunk(role))
    } else {
        let others = grouped((batch.unwrap_or(1.0) - 1.0).max(0.0), 1);
        let text = format!(
            "Decode-bound by the batch: {tokens}, since {others} others are in their passes on average; {beside}"
        );
        (FindingKind::DecodeBoundBatch, text, one_more(facts, pool))
    };
    let finding = Finding::new(kind, sentence)
        .with("mean_tpot", mean_ms, "ms")
        .with("beside_prompts", share, "share")
        .with("mean_batch_size", batch.unwrap_or(f64::NAN), "requests");
    Some(finding.tested_by(what_if))
}
