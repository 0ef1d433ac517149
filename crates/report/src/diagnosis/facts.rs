//! What the rules go by, and the cause on which most time was spent.

use servecast_record::{PoolRecord, RunRecord};
use servecast_types::Duration;

use super::causes::{Causes, PoolCauses};
use super::engine::with_prompts;
use super::states::PoolStates;
use super::targets::Targets;
use super::what_if::Given;
use crate::report::Report;
use crate::saturation::{Overload, overload_of_first_tokens};
use crate::slo::Metric;
use crate::table::{grouped, percent};

/// Share of the slowest requests' TTFT that is waiting from which on that is alarming without a target: they take five
/// times as long as they would alone.
const WAITING: f64 = 0.8;

/// The same of the time on the link, which is no waiting for others.
const ON_THE_LINK: f64 = 0.5;

/// Share of the TTFT that a main cause has at least.
const MAIN: f64 = 0.2;

/// Share of the waiting, for its share of the time, that is in the time without prompts if that makes no difference.
const THROUGHOUT: f64 = 0.5;

/// How much more a pool serves that is short of something, with twice as much of it.
const A_FIFTH_MORE: f64 = 1.2;

/// A pool below this share of its batch and its KV has room.
pub(super) const ROOM: f64 = 0.8;

/// What is known of a run.
pub(super) struct Facts<'a> {
    pub(super) run: &'a RunRecord,
    pub(super) report: &'a Report,
    pub(super) ideal_reuse: Option<f64>,
    pub(super) given: Given<'a>,
    pub(super) targets: Targets,
    /// Of all requests, or of those without a first token.
    pub(super) overload: Option<Overload>,
    /// By pool.
    pub(super) states: Vec<PoolStates>,
    pub(super) causes: Causes,
}

/// On what requests spend time before their first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Seats,
    Kv,
    Prompts,
    Link,
}

/// The cause on which the requests that matter spent most of their TTFT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Main {
    pub(super) cause: Cause,
    pub(super) pool: usize,
    pub(super) ms: f64,
}

/// What a run is judged by before anybody looks for causes.
pub(super) struct Judged<'a> {
    given: Given<'a>,
    targets: Targets,
    overload: Option<Overload>,
}

impl<'a> Judged<'a> {
    pub(super) fn new(run: &RunRecord, report: &'a Report) -> Self {
        let given = Given::new(report.settings.as_ref());
        let overload =
            report.overload.or_else(|| overload_of_first_tokens(run)).filter(|_| !given.is_closed_loop());
        Self { given, targets: Targets::new(run, report), overload }
    }

    /// Whether all targets are kept, the backlog does not grow, nobody is preempted, and there is room.
    pub(super) fn is_healthy(&self, report: &Report) -> bool {
        let has_room = |usage: Option<f64>| usage.is_none_or(|usage| usage < ROOM);
        self.targets.are_met()
            && self.overload.is_none()
            && report.total_preemptions == 0
            && report.pools.iter().all(|pool| has_room(pool.batch_occupancy) && has_room(pool.kv_usage))
    }
}

impl<'a> Facts<'a> {
    pub(super) fn new(
        run: &'a RunRecord,
        report: &'a Report,
        Judged { given, targets, overload }: Judged<'a>,
        ideal_reuse: Option<f64>,
    ) -> Self {
        let states: Vec<PoolStates> = run.pools.iter().map(|pool| PoolStates::new(run, pool)).collect();
        let causes = Causes::new(run, &states, &targets);
        Self { run, report, ideal_reuse, given, targets, overload, states, causes }
    }

    /// Whether a target on the time to first token is missed, alone or as a part of the whole time.
    pub(super) fn misses_first_tokens(&self) -> bool {
        self.causes.miss_a_target && {
            let e2e_ms = |&ordinal: &usize| self.run.requests[ordinal].e2e().map_or(0.0, Duration::as_ms);
            self.targets.missed(Metric::Ttft).is_some()
                || 2.0 * self.causes.ttft_ms >= self.causes.requests.iter().map(e2e_ms).sum::<f64>()
        }
    }

    /// Whether what is missed is how fast tokens come, and not when the first one does.
    pub(super) fn misses_only_tokens(&self) -> bool {
        let misses = |metric| self.targets.missed(metric).is_some();
        !self.misses_first_tokens() && [Metric::Tpot, Metric::Itl, Metric::E2e].into_iter().any(misses)
    }

    /// The main cause, if waiting is alarming.
    pub(super) fn main(&self) -> Option<Main> {
        let Causes { pools, .. } = &self.causes;
        let share = |ms| self.causes.share(ms);
        let misses = self.misses_first_tokens();
        let waiting: f64 = pools.iter().map(|pool| pool.queue() + pool.preemption).sum();
        let waits = misses || self.overload.is_some() || share(waiting) >= WAITING;
        let candidate = |(pool, of): (usize, &PoolCauses)| {
            // A prompt that takes too long by itself is one that has to be computed faster, too.
            let computed = of.beside + if misses { of.own } else { 0.0 };
            // What waits meanwhile waits for KV, if that is why it is not computed beside them.
            let (kv, prompts) = if self.is_short_of_kv(pool) { (of.prompts, 0.0) } else { (0.0, of.prompts) };
            [(Cause::Seats, of.seats), (Cause::Kv, of.kv + kv), (Cause::Prompts, prompts + computed)]
                .map(|(cause, ms)| Main { cause, pool, ms })
        };
        let of_engines = pools.iter().enumerate().flat_map(candidate).filter(|_| waits);
        let links = pools.iter().map(|of| of.link).sum::<f64>();
        let is_on_link = misses || share(links) >= ON_THE_LINK;
        let last = pools.len().saturating_sub(1);
        let link = is_on_link.then_some(Main { cause: Cause::Link, pool: last, ms: links });
        let main = of_engines.chain(link).max_by(|one, other| one.ms.total_cmp(&other.ms))?;
        (share(main.ms) >= MAIN).then_some(main)
    }

    /// Whether KV rather than the computation of prompts limits a pool: requests wait for it in the time without prompts, too,
    /// and with twice the KV, which halves that time, it would serve a fifth more.
    fn is_short_of_kv(&self, pool: usize) -> bool {
        let of = &self.causes.pools[pool];
        let prompts = with_prompts(self, pool);
        let without = 1.0 - prompts;
        let waits_throughout = of.kv >= THROUGHOUT * without * (of.kv + of.prompts);
        waits_throughout && of.kv > 0.0 && 1.0 / (prompts + without / 2.0) >= A_FIFTH_MORE
    }

    pub(super) fn pool(&self, pool: usize) -> &'a PoolRecord {
        &self.run.pools[pool]
    }

    /// The mean TTFT of the requests that matter, in words.
    pub(super) fn mean_ttft(&self) -> String {
        format!("{} ms", grouped(self.causes.mean_ttft_ms(), 0))
    }

    /// A part of their TTFT, in words.
    pub(super) fn share_text(&self, ms: f64) -> String {
        rounded_percent(self.causes.share(ms))
    }
}

/// A share without decimals.
pub(super) fn rounded_percent(share: f64) -> String {
    percent((share * 100.0).round() / 100.0).replace(".00%", " %")
}
