//! What the time to first token of the requests that matter was spent on, by cause.

use servecast_record::{RequestRecord, RunRecord, StageRecord};
use servecast_types::{Duration, RequestId, Role, Time};

use super::states::{Hindrance, PoolStates, Wait};
use super::targets::Targets;
use crate::slo::Metric;

const NS_PER_MS: f64 = 1e6;

/// Passes that a request waits for in any case: the one under way, and one that was decided already.
const PASSES: f64 = 2.0;

/// Where time goes in one pool, in ms, summed up over requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct PoolCauses {
    /// Until a seat was free (`max_num_seqs`).
    pub(super) seats: f64,
    /// Until there was room for KV.
    pub(super) kv: f64,
    /// While the worker computed prompts of others.
    pub(super) prompts: f64,
    /// For those that it computed beside its own.
    pub(super) beside: f64,
    /// For the pass under way.
    pub(super) pass: f64,
    /// The prompt itself, with what else is in its passes.
    pub(super) own: f64,
    /// Since KV was on its way from a worker, or to it.
    pub(super) link: f64,
    /// Work that a preemption threw away, and the wait for the next try.
    pub(super) preemption: f64,
    /// Of `seats`, `kv`, `prompts` and `beside`, what another worker of the pool would have spared.
    pub(super) avoidable: f64,
}

impl PoolCauses {
    /// Waiting for an engine that is busy with others.
    pub(super) fn queue(&self) -> f64 {
        self.seats + self.kv + self.prompts + self.beside
    }
}

/// What the requests that matter spent their TTFT on.
#[derive(Debug, Clone)]
pub(super) struct Causes {
    /// The requests, in order of arrival.
    pub(super) requests: Vec<usize>,
    /// Whether these are the ones that miss a target, or else the slowest tenth.
    pub(super) miss_a_target: bool,
    /// Sum of their TTFT, in ms.
    pub(super) ttft_ms: f64,
    /// By pool, in the order of the run.
    pub(super) pools: Vec<PoolCauses>,
}

impl Causes {
    pub(super) fn new(run: &RunRecord, states: &[PoolStates], targets: &Targets) -> Self {
        let (requests, miss_a_target) = judged(run, targets);
        let passes_ms: Vec<f64> = run
            .pools
            .iter()
            .map(|pool| {
                let busy: u64 = pool.workers.iter().map(|worker| worker.busy_ns).sum();
                busy as f64 / NS_PER_MS / pool.totals.iterations.max(1) as f64
            })
            .collect();
        let mut causes = Self {
            requests,
            miss_a_target,
            ttft_ms: 0.0,
            pools: vec![PoolCauses::default(); run.pools.len()],
        };
        for &ordinal in &causes.requests {
            let request = &run.requests[ordinal];
            causes.ttft_ms += request.ttft().map_or(0.0, Duration::as_ms);
            for (number, stage) in request.stages.iter().enumerate() {
                let Some(pool) = run.pools.iter().position(|pool| pool.role == stage.pool) else { continue };
                let of = &mut causes.pools[pool];
                add_waits(of, stage, request.could_begin(number), &states[pool], PASSES * passes_ms[pool]);
                add_work(of, run, ordinal, number, stage, &states[pool]);
            }
        }
        causes
    }

    /// The mean TTFT of these requests, in ms.
    pub(super) fn mean_ttft_ms(&self) -> f64 {
        self.ttft_ms / self.requests.len().max(1) as f64
    }

    /// What part of their TTFT so many ms are.
    pub(super) fn share(&self, ms: f64) -> f64 {
        if self.ttft_ms > 0.0 { ms / self.ttft_ms } else { 0.0 }
    }

    /// Who they are, in words.
    pub(super) fn who(&self) -> String {
        match (self.miss_a_target, self.requests.len()) {
            (true, 1) => "the request that misses a target".to_owned(),
            (true, count) => format!("the {count} requests that miss a target"),
            (false, 1) => "the slowest request".to_owned(),
            (false, count) => format!("the slowest {count} requests"),
        }
    }
}

/// Finished requests beyond a target that the run misses; without such a target, the tenth with the longest TTFT.
fn judged(run: &RunRecord, targets: &Targets) -> (Vec<usize>, bool) {
    let finished = run.requests.iter().enumerate().filter(|(_, request)| request.is_finished());
    let beyond = |request: &RequestRecord| {
        let misses = |metric: Metric| {
            let limit = targets.missed(metric);
            limit.zip(metric.of(request)).is_some_and(|(limit, ms)| ms > limit)
        };
        misses(Metric::Ttft) || misses(Metric::E2e)
    };
    let missing: Vec<usize> =
        finished.clone().filter(|(_, request)| beyond(request)).map(|(ordinal, _)| ordinal).collect();
    if !missing.is_empty() {
        return (missing, true);
    }
    let mut all: Vec<usize> = finished.map(|(ordinal, _)| ordinal).collect();
    all.sort_unstable_by_key(|&ordinal| (std::cmp::Reverse(run.requests[ordinal].ttft()), ordinal));
    all.truncate(all.len().div_ceil(10));
    all.sort_unstable();
    (all, false)
}

/// Adds the wait parked by a router, and that in the queue of a worker, which could begin with the request at `from`.
fn add_waits(of: &mut PoolCauses, stage: &StageRecord, from: Time, states: &PoolStates, passes_ms: f64) {
    let worker = stage.worker.index();
    let end = stage.admitted.unwrap_or(stage.queued);
    let mut add = |wait: Wait| {
        let ms = |what| wait.of(what) / NS_PER_MS;
        let (seats, prompts, room) = (ms(Hindrance::Seats), ms(Hindrance::Prompts), ms(Hindrance::Room));
        let pass = room.min(passes_ms);
        of.seats += seats;
        of.prompts += prompts;
        of.pass += pass;
        of.kv += room - pass;
        of.link += ms(Hindrance::Link);
        // Of the time in which another worker was free, what is none of the pass under way.
        of.avoidable += (wait.avoidable / NS_PER_MS).min(seats + prompts + room - pass);
    };
    if stage.queued > stage.arrived {
        add(states.wait_for_any(stage.arrived, stage.queued));
    }
    match (stage.transfer_start, stage.transfer_end) {
        (Some(start), done) => {
            let done = done.unwrap_or(start);
            add(states.wait(worker, from, stage.reserved.unwrap_or(start)));
            add(states.wait(worker, done, end));
            of.link += done.since(start).as_ms();
        }
        _ => add(states.wait(worker, from, end.max(from))),
    }
}

fn add_work(
    of: &mut PoolCauses,
    run: &RunRecord,
    ordinal: usize,
    number: usize,
    stage: &StageRecord,
    states: &PoolStates,
) {
    let Some((admitted, first_token)) = stage.admitted.zip(stage.first_token) else { return };
    let key = (RequestId(ordinal as u32), number as u8);
    let readmitted: Time = run.readmitted.get(&key).copied().unwrap_or(admitted);
    of.preemption += readmitted.since(admitted).as_ms();
    // The token of a stage that somebody goes on with is no token of the user, but the time for it is.
    if stage.pool != Role::Decode || number + 1 == run.requests[ordinal].stages.len() {
        let all_ms = first_token.since(readmitted).as_ms();
        let own_ms =
            (states.own_share(stage.worker.index(), readmitted, first_token) / NS_PER_MS).min(all_ms);
        of.own += own_ms;
        of.beside += all_ms - own_ms;
        let spare_ms = states.wait(stage.worker.index(), readmitted, first_token).avoidable / NS_PER_MS;
        of.avoidable += if all_ms > 0.0 { (all_ms - own_ms) * spare_ms / all_ms } else { 0.0 };
    }
}
