//! Rules about how requests come: more than can be served, for a time or to the end, and such that cannot be served.

use servecast_record::{RejectReason, RequestStatus, RunRecord};
use servecast_types::Role;

use super::facts::{Facts, Main};
use super::finding::{Finding, FindingKind, WhatIf};
use super::what_if::Given;
use crate::report::Report;
use crate::saturation::render_overload;
use crate::table::{count, grouped};

/// Equal parts of the run in which the queue is looked at.
const BINS: usize = 400;

/// A queue of this share of its largest is as good as empty.
const EMPTY: f64 = 0.1;

/// How many times as fast as it is served a peak comes, and the rest comes at most.
const PEAK: f64 = 1.25;
const REST: f64 = 0.9;

/// How unlikely a peak is by chance: by a factor of e to this power less than its rate. The largest queue is one of many
/// stretches of the run, so that much is asked.
const SURE: f64 = 12.0;

/// Share of the requests that come outside a peak at least.
const OUTSIDE: f64 = 0.2;

/// Requests that were turned away or given up.
pub(super) fn rejections(run: &RunRecord, report: &Report) -> Option<Finding> {
    let (rejected, all) = (report.rejected_requests, report.num_requests);
    // Those that follow a request which was not served follow its reason.
    let follows = crate::summary::name(RejectReason::PreviousTurn);
    let by_itself = report.rejected_by_reason.iter().filter(|(reason, _)| **reason != follows);
    let (reason, most) = by_itself.max_by_key(|(_, count)| **count)?;
    let given = Given::new(report.settings.as_ref());
    let role = run.pools.first()?.role;
    let longest = run
        .requests
        .iter()
        .filter(|request| matches!(request.status, RequestStatus::Rejected(_)))
        .map(|request| u64::from(request.input_tokens) + u64::from(request.requested_output_tokens))
        .max()?;
    let is = |other: RejectReason| *reason == crate::summary::name(other);
    let what_if = if is(RejectReason::MaxModelLen) {
        given.longer_context(role, longest)
    } else if is(RejectReason::Unchunkable) {
        given.half_the_chunk(role)
    } else {
        let last = run.pools.last().map_or(role, |pool| pool.role);
        given.twice_the_kv(if is(RejectReason::KvCapacity) { last } else { role })
    };
    let share = 100.0 * rejected as f64 / all.max(1) as f64;
    let reasons = match report.rejected_by_reason.get(&follows) {
        None => format!("most of them ({}) as {reason}", count(*most)),
        Some(&following) => {
            format!("{} as {reason}, and {} that follow such ones", count(*most), count(following))
        }
    };
    let sentence = format!(
        "Rejections: {} of {} requests ({share:.1} %) were not served, {reasons}; the longest of them would have {} tokens with \
         its output",
        count(rejected),
        count(all),
        count(longest)
    );
    let finding = Finding::new(FindingKind::Rejections, sentence)
        .with("rejected_requests", rejected as f64, "requests")
        .with("rejected_share", share / 100.0, "share")
        .with("longest_rejected_sequence", longest as f64, "tokens");
    Some(finding.tested_by(what_if))
}

/// More requests than could be served, until the last of them.
pub(super) fn overloaded(facts: &Facts<'_>, main: Option<&Main>) -> Option<Finding> {
    let overload = facts.overload.as_ref()?;
    let pool = facts.pool(main.map_or(0, |main| main.pool));
    let workers = pool.workers.len() as f64;
    // What is served now, times as many workers as that takes.
    let served = (overload.arrival_rps - overload.growth_rps).max(overload.arrival_rps / 100.0);
    let more = (workers * overload.arrival_rps / served).ceil() - workers;
    let finding = Finding::new(FindingKind::Overloaded, render_overload(overload))
        .with("from", overload.from_ms, "ms")
        .with("queue_growth", overload.growth_rps, "requests/s")
        .with("arrivals", overload.arrival_rps, "requests/s")
        .with("backlog_at_the_end", overload.backlog as f64, "requests");
    Some(finding.tested_by(facts.given.more_workers(pool.role, (more as u64).max(1))))
}

/// The largest queue of a pool, and how requests came to it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Peak {
    from_ms: f64,
    largest_at_ms: f64,
    until_ms: f64,
    waiting: f64,
    /// Requests a second: while the queue grew, otherwise, and admitted while there was one.
    came: f64,
    otherwise: f64,
    served: f64,
}

/// More requests than could be served, for a time.
pub(super) fn queue_at_peak(facts: &Facts<'_>, main: &Main) -> Option<Finding> {
    if facts.overload.is_some() || facts.given.is_closed_loop() {
        return None;
    }
    let role = facts.pool(main.pool).role;
    let peak = peak(facts.run, role)?;
    let second = |ms: f64| grouped(ms / 1000.0, if peak.until_ms < 10_000.0 { 2 } else { 0 });
    let sentence = format!(
        "Waiting at a peak: from second {} to {} came {} requests/s, of which {} could be admitted ({} came otherwise); up to {} \
         waited, and it took until second {} to work that off",
        second(peak.from_ms),
        second(peak.largest_at_ms),
        grouped(peak.came, 1),
        grouped(peak.served, 1),
        grouped(peak.otherwise, 1),
        grouped(peak.waiting, 0),
        second(peak.until_ms)
    );
    let finding = Finding::new(FindingKind::QueueAtPeak, sentence)
        .with("from", peak.from_ms, "ms")
        .with("largest_queue_at", peak.largest_at_ms, "ms")
        .with("until", peak.until_ms, "ms")
        .with("largest_queue", peak.waiting, "requests")
        .with("arrivals_at_the_peak", peak.came, "requests/s")
        .with("arrivals_otherwise", peak.otherwise, "requests/s")
        .with("admitted_meanwhile", peak.served, "requests/s");
    let more = (peak.came / peak.served.max(1e-9)).ceil().clamp(2.0, 8.0) as u64 - 1;
    let workers = facts.pool(main.pool).workers.len() as u64;
    Some(finding.tested_by(facts.given.more_workers(role, more * workers)))
}

fn peak(run: &RunRecord, role: Role) -> Option<Peak> {
    let stages =
        || run.requests.iter().flat_map(|request| &request.stages).filter(|stage| stage.pool == role);
    let first = stages().map(|stage| stage.arrived).min()?.as_ms();
    let last = stages().map(|stage| stage.admitted.unwrap_or(stage.queued)).max()?.as_ms();
    let bin_ms = (last - first) / BINS as f64;
    if bin_ms <= 0.0 {
        return None;
    }
    let bin = |ms: f64| (((ms - first) / bin_ms) as usize).min(BINS - 1);
    let (mut came, mut admitted) = ([0_u64; BINS], [0_u64; BINS]);
    for stage in stages() {
        came[bin(stage.arrived.as_ms())] += 1;
        if let Some(at) = stage.admitted {
            admitted[bin(at.as_ms())] += 1;
        }
    }
    // Who waits at the end of each part.
    let mut waiting = 0_i64;
    let waiting: Vec<f64> = came
        .iter()
        .zip(&admitted)
        .map(|(came, admitted)| {
            waiting += came.cast_signed() - admitted.cast_signed();
            waiting.max(0) as f64
        })
        .collect();
    let top =
        (0..BINS).max_by(|&one, &other| waiting[one].total_cmp(&waiting[other]).then(other.cmp(&one)))?;
    let is_empty = |&bin: &usize| waiting[bin] <= EMPTY * waiting[top];
    let from = (0..top).rev().find(is_empty).map_or(0, |bin| bin + 1);
    let until = (top..BINS).find(is_empty).unwrap_or(BINS - 1);
    let sum = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
    let last_arrival = (0..BINS).rev().find(|&bin| came[bin] > 0)?;
    let seconds = |bins: usize| bins as f64 * bin_ms / 1000.0;
    let (inside, all) = (sum(&came[from..=top]), sum(&came));
    let (long, outside) =
        (seconds(top - from + 1), seconds((last_arrival + 1).saturating_sub(top - from + 1)));
    if outside <= 0.0 || all - inside < OUTSIDE * all || waiting[top] <= 0.0 {
        return None;
    }
    let peak = Peak {
        from_ms: first + from as f64 * bin_ms,
        largest_at_ms: first + (top + 1) as f64 * bin_ms,
        until_ms: first + (until + 1) as f64 * bin_ms,
        waiting: waiting[top],
        came: inside / long,
        otherwise: (all - inside) / outside,
        served: sum(&admitted[from..=until]) / seconds(until - from + 1),
    };
    // The ratio of likelihoods of a Poisson process with the rate of the peak, and of one with that of the rest.
    let expected = (peak.otherwise * long).max(1e-9);
    let is_sure = inside * (inside / expected).ln() - (inside - expected) >= SURE;
    (is_sure && peak.came >= PEAK * peak.served && peak.otherwise <= REST * peak.served).then_some(peak)
}

/// One more worker in a pool.
pub(super) fn one_more(facts: &Facts<'_>, pool: usize) -> Option<WhatIf> {
    facts.given.more_workers(facts.pool(pool).role, 1)
}
