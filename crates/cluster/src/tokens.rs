//! When every token of a run reached its user, from passes in which requests that decode are only counted.

use std::ops::ControlFlow;

use servecast_engine::{Decodes, Iteration, Joined};
use servecast_latency::Host;
use servecast_record::SoFar;
use servecast_types::{RequestId, Role, Time, WorkerId};

use crate::cluster::Routed;
use crate::{CaughtUp, Delivery, Detail, Observer, Topology, WorkerChange};

/// Keeps the times of tokens, if anybody wants them, for an observer that does not see to it.
#[derive(Debug)]
pub struct WithTokens<'a, O> {
    log: Option<TokenLog>,
    observer: &'a mut O,
}

impl<'a, O: Observer> WithTokens<'a, O> {
    /// For a run of a deployment; without `keeps` it hands everything on and nothing else.
    pub fn new(topology: &Topology, keeps: bool, observer: &'a mut O) -> Self {
        Self { log: keeps.then(|| TokenLog::new(topology)), observer }
    }

    /// By request, when each of its tokens reached its user, if they were kept.
    pub fn into_times(self) -> Option<Vec<Vec<Time>>> {
        self.log.map(TokenLog::into_times)
    }
}

impl<O: Observer> Observer for WithTokens<'_, O> {
    fn detail(&self) -> Detail {
        let own = if self.log.is_some() { Detail::Tokens } else { Detail::default() };
        own.max(self.observer.detail())
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        if let Some(log) = &mut self.log {
            log.iteration(pool, worker, iteration);
        }
        self.observer.iteration(pool, worker, iteration);
    }

    fn joined(&mut self, pool: Role, worker: WorkerId, joined: Joined, now: Time) {
        self.observer.joined(pool, worker, joined, now);
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        if let Some(log) = &mut self.log {
            log.decoded(pool, worker, decodes);
        }
        self.observer.decoded(pool, worker, decodes);
    }

    fn caught_up(&mut self, pool: Role, worker: WorkerId, caught_up: CaughtUp) {
        if let Some(log) = &mut self.log {
            log.caught_up(pool, worker, caught_up);
        }
        self.observer.caught_up(pool, worker, caught_up);
    }

    fn settled(&mut self, until: Time) {
        self.observer.settled(until);
    }

    fn routed(&mut self, routed: &Routed) {
        self.observer.routed(routed);
    }

    fn worker_changed(&mut self, change: &WorkerChange) {
        if let Some(log) = &mut self.log {
            log.worker_changed(change);
        }
        self.observer.worker_changed(change);
    }

    fn is_interrupted(&self) -> bool {
        self.observer.is_interrupted()
    }

    fn recorded(&mut self, so_far: &SoFar<'_>, ended: u64) -> ControlFlow<()> {
        self.observer.recorded(so_far, ended)
    }

    fn progress(&mut self, now: Time, ended: u64) -> ControlFlow<()> {
        self.observer.progress(now, ended)
    }
}

/// Notes when tokens reach users, for an observer that wants [`Detail::Tokens`](crate::Detail::Tokens) and hands on what
/// it is told of.
///
/// A request that decodes gets a token in each pass in which any are decoded. So passes are noted, and the tokens of a
/// request follow from how many it has when it stops.
#[derive(Debug)]
pub struct TokenLog {
    /// Of the workers whose tokens reach users.
    workers: Vec<WorkerLog>,
    /// By group of those workers.
    hosts: Vec<Host>,
    /// By request.
    times: Vec<Vec<Time>>,
}

#[derive(Debug, Clone)]
struct WorkerLog {
    delivery: Delivery,
    /// When the tokens of each pass were out in which requests were decoded.
    passes: Vec<Time>,
    /// Requests whose last token comes with the next of them, with the tokens that they have then.
    ending: Vec<(RequestId, u32)>,
}

impl TokenLog {
    /// For a run of a deployment.
    pub fn new(topology: &Topology) -> Self {
        let last = topology.last_pool();
        let workers = last.engines().map(|engine| WorkerLog::new(engine.host())).collect();
        let hosts = last.groups.iter().map(|group| group.engine.host()).collect();
        Self { workers, hosts, times: Vec::new() }
    }

    /// A worker has come to another state; there may be one more.
    pub fn worker_changed(&mut self, change: &WorkerChange) {
        let is_new = change.worker.index() == self.workers.len();
        if is_new && change.pool != Role::Prefill {
            self.workers.push(WorkerLog::new(self.hosts[change.group]));
        }
    }

    /// An iteration ended.
    pub fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        // Nobody sees the tokens of a prefill pool.
        if pool == Role::Prefill {
            return;
        }
        let log = &mut self.workers[worker.index()];
        for joined in &iteration.joined {
            let out = log.delivery.handed_over(iteration.scheduled_at);
            of(&mut self.times, joined.id).push(out);
        }
        if iteration.num_scheduled() == 0 {
            return;
        }
        let out = log.delivery.pass(iteration.end, iteration.num_scheduled());
        if iteration.decoded > 0 {
            log.passes.push(out);
            log.end_requests(&mut self.times);
        }
        for emitted in &iteration.emitted {
            let times = of(&mut self.times, emitted.id);
            times.resize(times.len() + emitted.tokens as usize, out);
        }
    }

    /// Iterations ended in which the same requests got a token each.
    pub fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        if pool == Role::Prefill {
            return;
        }
        let log = &mut self.workers[worker.index()];
        for &end in decodes.ends {
            log.passes.push(log.delivery.pass(end, decodes.requests));
            log.end_requests(&mut self.times);
        }
    }

    /// A request has been decoding.
    pub fn caught_up(&mut self, pool: Role, worker: WorkerId, caught_up: CaughtUp) {
        if pool == Role::Prefill {
            return;
        }
        let CaughtUp { id, output_tokens, ends_next } = caught_up;
        let log = &mut self.workers[worker.index()];
        if ends_next {
            log.ending.push((id, output_tokens));
        } else {
            log.catch_up(&mut self.times, id, output_tokens);
        }
    }

    /// By request, when each of its tokens reached its user.
    pub fn into_times(self) -> Vec<Vec<Time>> {
        self.times
    }
}

impl WorkerLog {
    fn new(host: Host) -> Self {
        Self { delivery: Delivery::new(host), passes: Vec::new(), ending: Vec::new() }
    }

    fn end_requests(&mut self, times: &mut Vec<Vec<Time>>) {
        while let Some((id, output_tokens)) = self.ending.pop() {
            self.catch_up(times, id, output_tokens);
        }
    }

    /// The tokens of a request that are not noted yet came with the last passes.
    fn catch_up(&self, times: &mut Vec<Vec<Time>>, id: RequestId, output_tokens: u32) {
        let times = of(times, id);
        let missing = (output_tokens as usize).saturating_sub(times.len());
        times.extend(&self.passes[self.passes.len() - missing..]);
    }
}

fn of(times: &mut Vec<Vec<Time>>, id: RequestId) -> &mut Vec<Time> {
    if times.len() <= id.index() {
        times.resize(id.index() + 1, Vec::new());
    }
    &mut times[id.index()]
}
