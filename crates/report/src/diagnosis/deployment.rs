//! Rules about how a deployment is put together: reuse, the balance of workers and of pools, the link.

use servecast_types::Role;

use super::engine::with_prompts;
use super::facts::{Cause, Facts, Main, ROOM, rounded_percent};
use super::finding::{Finding, FindingKind};
use crate::latency::tpot_ms;
use crate::slo::Metric;
use crate::table::grouped;

/// Share of the computed prompt tokens that a prefix cache without end would have spared from which reuse is poor: half as
/// much again is computed as need be.
const SPARED: f64 = 1.0 / 3.0;

/// Share of the TTFT that prompts have to take for that to matter, and of waiting that balance would have spared.
const MOST: f64 = 0.5;

/// Prompts were computed again although an earlier request had their beginning.
pub(super) fn poor_reuse(facts: &Facts<'_>) -> Option<Finding> {
    let (ideal, found) = (facts.ideal_reuse?, (*facts.report.prefix_cache_reused_ratio)?);
    let spared = (ideal - found) / (1.0 - found).max(1e-9);
    let index = facts.run.pools.iter().position(|pool| pool.role != Role::Decode)?;
    let of = &facts.causes.pools[index];
    let share = facts.causes.share(of.prompts + of.beside + of.own);
    if spared < SPARED || share < MOST || facts.targets.are_met() {
        return None;
    }
    let sentence = format!(
        "Poor reuse: {} of the prompt tokens were found in the prefix cache, and {} could have been; without end it would spare {} \
         of what is computed of prompts, which is {} of the TTFT of {}",
        rounded_percent(found),
        rounded_percent(ideal),
        rounded_percent(spared),
        rounded_percent(share),
        facts.causes.who()
    );
    let finding = Finding::new(FindingKind::PoorReuse, sentence)
        .with("reused", found, "share")
        .with("ideal", ideal, "share")
        .with("spared_by_the_ideal", spared, "share")
        .with("ttft_for_prompts", share, "share");
    let pool = facts.pool(index);
    Some(finding.tested_by(facts.given.more_reuse(pool.role, pool.workers.len())))
}

/// Requests a worker below which its load is chance.
const FEWEST: u64 = 10;

/// One worker was busy, or had tokens, so many times as much as the mean that this is alarming if so much of a TTFT is waiting for it.
const HOT: f64 = 1.5;
const WAITING_FOR_IT: f64 = 1.0 / 3.0;

/// The same where waiting is not alarming by itself: a worker has far more to do than others, and balance would spare a
/// third of the TTFT.
pub(super) fn persistent_imbalance(facts: &Facts<'_>) -> Option<Finding> {
    if facts.targets.are_met() {
        return None;
    }
    facts.run.pools.iter().enumerate().find_map(|(index, pool)| {
        let is_hot = |loads: &[f64]| {
            let mean = loads.iter().sum::<f64>() / loads.len().max(1) as f64;
            loads.iter().copied().fold(0.0, f64::max) >= HOT * mean && mean > 0.0
        };
        let busy: Vec<f64> = pool.workers.iter().map(|worker| worker.busy_ns as f64).collect();
        let is_hot = is_hot(&busy) || is_hot(&tokens_of_workers(facts, index));
        let spared = facts.causes.share(facts.causes.pools[index].avoidable) >= WAITING_FOR_IT;
        (is_hot && spared).then(|| worker_imbalance(facts, index)).flatten()
    })
}

/// Tokens that each worker of a pool had to compute.
fn tokens_of_workers(facts: &Facts<'_>, index: usize) -> Vec<f64> {
    let pool = facts.pool(index);
    let mut tokens = vec![0.0; pool.workers.len()];
    for request in &facts.run.requests {
        for stage in request.stages.iter().filter(|stage| stage.pool == pool.role) {
            let prompt = request.input_tokens.saturating_sub(stage.reused_tokens);
            tokens[stage.worker.index()] += f64::from(prompt) + f64::from(request.output_tokens);
        }
    }
    tokens
}

/// Requests waited for one worker while another one had nothing to wait for.
pub(super) fn worker_imbalance(facts: &Facts<'_>, index: usize) -> Option<Finding> {
    let (pool, of) = (facts.pool(index), &facts.causes.pools[index]);
    let count = pool.workers.len();
    let avoidable = of.avoidable / of.queue().max(1e-9);
    let all: u64 = pool.workers.iter().map(|worker| worker.requests).sum();
    if count < 2 || all < FEWEST * count as u64 || avoidable < MOST {
        return None;
    }
    let mut waited = vec![0.0; count];
    let mut requests = vec![0_u64; count];
    for stage in facts.run.requests.iter().flat_map(|request| &request.stages) {
        if stage.pool == pool.role {
            waited[stage.worker.index()] +=
                stage.admitted.unwrap_or(stage.queued).since(stage.queued).as_ms();
            requests[stage.worker.index()] += 1;
        }
    }
    // As many workers as if those who make requests wait did so equally.
    let (sum, squares) = waited.iter().fold((0.0, 0.0), |(sum, squares), ms| (sum + ms, squares + ms * ms));
    let effective = sum * sum / squares.max(1e-9);
    if effective > f64::midpoint(count as f64, 1.0) {
        return None;
    }
    let hot = (0..count).max_by(|&one, &other| waited[one].total_cmp(&waited[other]))?;
    let share = waited[hot] / sum.max(1e-9);
    let busy = |worker: usize| pool.workers[worker].busy_ns as f64;
    let mean_busy = (0..count).map(busy).sum::<f64>() / count as f64;
    let ratio = busy(hot) / mean_busy.max(1.0);
    let sentence = format!(
        "Imbalance: {} of all waiting was for {} worker {hot} of {count}, which got {} requests (mean {}) and was busy {} times as \
         long as the mean; for {} of the time that {} waited, another worker would have taken them at once",
        rounded_percent(share),
        pool.role,
        requests[hot],
        grouped(requests.iter().sum::<u64>() as f64 / count as f64, 0),
        grouped(ratio, 1),
        rounded_percent(avoidable.min(1.0)),
        facts.causes.who()
    );
    let finding = Finding::new(FindingKind::WorkerImbalance, sentence)
        .with("waiting_for_the_hottest", share, "share")
        .with("hottest_worker", hot as f64, "worker")
        .with("requests_of_the_hottest", requests[hot] as f64, "requests")
        .with("busy_against_the_mean", ratio, "ratio")
        .with("avoidable_waiting", avoidable.min(1.0), "share")
        .with("workers_that_make_wait", effective, "workers");
    Some(finding.tested_by(facts.given.other_router()))
}

/// What a worker does beside others that decode.
#[derive(Debug, Clone, Copy, Default)]
struct Decoding {
    /// Requests, and how many of them get their tokens later than is asked for.
    requests: u64,
    late: u64,
    /// Time between their tokens, in ms, and how many gaps that is.
    ms: f64,
    gaps: u64,
}

impl Decoding {
    fn gap_ms(&self) -> f64 {
        self.ms / self.gaps.max(1) as f64
    }
}

/// Tokens came late on some workers, and would not have with as much to decode on each.
pub(super) fn uneven_tokens(facts: &Facts<'_>) -> Option<Finding> {
    let limits = [Metric::Itl, Metric::Tpot].into_iter().filter_map(|metric| facts.targets.missed(metric));
    let limit_ms = limits.reduce(f64::min)?;
    let index = facts.run.pools.iter().rposition(|pool| pool.role != Role::Prefill)?;
    let pool = facts.pool(index);
    let count = pool.workers.len();
    let mut workers = vec![Decoding::default(); count];
    for request in facts.run.requests.iter().filter(|request| request.is_finished()) {
        let Some((stage, ms)) = request.stages.last().zip(tpot_ms(request)) else { continue };
        let of = &mut workers[stage.worker.index()];
        let gaps = u64::from(request.output_tokens.saturating_sub(1));
        of.requests += 1;
        of.late += u64::from(ms > limit_ms);
        of.ms += ms * gaps as f64;
        of.gaps += gaps;
    }
    let sum = |of: fn(&Decoding) -> f64| workers.iter().map(of).sum::<f64>();
    let (requests, late) = (sum(|one| one.requests as f64), sum(|one| one.late as f64));
    let (decoding_ms, even_ms) = (sum(|one| one.ms) / count as f64, sum(Decoding::gap_ms) / count as f64);
    if count < 2 || requests < (FEWEST * count as u64) as f64 || late <= 0.0 || even_ms > limit_ms {
        return None;
    }
    let effective = late * late / sum(|one| (one.late * one.late) as f64);
    let hot = (0..count).max_by(|&one, &other| workers[one].ms.total_cmp(&workers[other].ms))?;
    let ratio = workers[hot].ms / decoding_ms.max(1e-9);
    if effective > f64::midpoint(count as f64, 1.0) || ratio < HOT || workers[hot].late == 0 {
        return None;
    }
    let share = workers[hot].late as f64 / late;
    let sentence = format!(
        "Imbalance: {} of the {} requests whose tokens come more than {} ms apart were on {} worker {hot} of {count}, which \
         decoded {} times as much as the mean; its tokens come {} ms apart, and {} ms on the mean worker",
        rounded_percent(share),
        grouped(late, 0),
        grouped(limit_ms, 1),
        pool.role,
        grouped(ratio, 1),
        grouped(workers[hot].gap_ms(), 1),
        grouped(even_ms, 1),
    );
    let finding = Finding::new(FindingKind::WorkerImbalance, sentence)
        .with("late_on_the_hottest", share, "share")
        .with("hottest_worker", hot as f64, "worker")
        .with("requests_of_the_hottest", workers[hot].requests as f64, "requests")
        .with("decoding_against_the_mean", ratio, "ratio")
        .with("gap_on_the_hottest", workers[hot].gap_ms(), "ms")
        .with("gap_on_the_mean_worker", even_ms, "ms");
    Some(finding.tested_by(facts.given.other_router()))
}

/// One pool had too much to do and the other one could spare a worker.
pub(super) fn pool_ratio(facts: &Facts<'_>, main: &Main) -> Option<Finding> {
    let found = pool_ratio_of(facts, main.pool)?;
    Some(found.with("waiting_for_the_full_pool", facts.causes.share(main.ms), "share"))
}

/// The same of a pool that has too much to do, whatever shows it.
pub(super) fn pool_ratio_of(facts: &Facts<'_>, full: usize) -> Option<Finding> {
    let role = facts.pool(full).role;
    let other = facts.run.pools.iter().position(|pool| pool.role != role)?;
    let idle = facts.pool(other);
    let usage = usage_of(facts, other);
    let workers = idle.workers.len() as f64;
    // With a worker less, the other pool would still have room.
    if workers < 2.0 || usage * workers / (workers - 1.0) > ROOM {
        return None;
    }
    let own = usage_of(facts, full);
    let sentence = format!(
        "Prefill/decode ratio: requests wait for the {role} pool ({}, {} in use) while the {} pool ({}) uses {} of \
         what it has, and would have room with one worker less",
        number_of_workers(facts.pool(full).workers.len()),
        rounded_percent(own),
        idle.role,
        number_of_workers(idle.workers.len()),
        rounded_percent(usage)
    );
    let finding = Finding::new(FindingKind::PoolRatio, sentence)
        .with("usage_of_the_full_pool", own, "share")
        .with("usage_of_the_other_pool", usage, "share")
        .with("workers_of_the_full_pool", facts.pool(full).workers.len() as f64, "workers")
        .with("workers_of_the_other_pool", workers, "workers");
    Some(finding.tested_by(facts.given.moved_worker(idle.role, role)))
}

/// `1 worker`, `2 workers`.
fn number_of_workers(workers: usize) -> String {
    format!("{workers} worker{}", if workers == 1 { "" } else { "s" })
}

/// How much of a pool is in use: the time with prompts of one that computes them, otherwise seats or KV over the run.
fn usage_of(facts: &Facts<'_>, pool: usize) -> f64 {
    if facts.pool(pool).role == Role::Prefill {
        return with_prompts(facts, pool);
    }
    let report = &facts.report.pools[pool];
    let full = report.batch_occupancy.unwrap_or(0.0).max(report.kv_usage.unwrap_or(0.0));
    full * report.utilization.unwrap_or(0.0)
}

/// The first token waited for KV on its way.
pub(super) fn link_bound(facts: &Facts<'_>, main: &Main) -> Finding {
    let transfers = || {
        facts.run.requests.iter().flat_map(|request| {
            let times =
                request.stages.iter().filter_map(|stage| stage.transfer_start.zip(stage.transfer_end));
            times.map(|(start, end)| (end.since(start).as_ms(), f64::from(request.input_tokens)))
        })
    };
    let (ms, tokens) = transfers().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let mean_ms = ms / transfers().count().max(1) as f64;
    let sentence = format!(
        "Hand-off bound by the link: {} of the TTFT of {} (mean {}) is KV on its way or waiting for it; a transfer takes {} ms on \
         average, {} ms for each 1,000 prompt tokens",
        facts.share_text(main.ms),
        facts.causes.who(),
        facts.mean_ttft(),
        grouped(mean_ms, 1),
        grouped(ms / (tokens / 1000.0).max(1e-9), 1)
    );
    let finding = Finding::new(FindingKind::LinkBound, sentence)
        .with("mean_ttft", facts.causes.mean_ttft_ms(), "ms")
        .with("on_the_link", facts.causes.share(main.ms), "share")
        .with("mean_transfer", mean_ms, "ms");
    debug_assert!(main.cause == Cause::Link, "it is asked for this cause only");
    finding.tested_by(facts.given.infinite_link())
}
