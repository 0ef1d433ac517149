//! When every token of a run reached its user, from passes in which requests that decode are only counted.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use servecast_engine::{Decodes, Iteration, Joined};
use servecast_latency::Host;
use servecast_record::{EndedRequest, SoFar};
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

    /// With the times of its tokens, which are forgotten then.
    fn ended(&mut self, ended: &EndedRequest<'_>) {
        let Some(log) = &mut self.log else { return self.observer.ended(ended) };
        let tokens = log.take(ended.id);
        assert_eq!(tokens.len(), ended.record.output_tokens as usize, "a token is out at one time");
        self.observer.ended(&EndedRequest { tokens: Some(&tokens), ..*ended });
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
    times: Times,
}

/// When tokens reached their users, by request.
#[derive(Debug, Default)]
struct Times {
    /// Requests before the first one here were [taken](TokenLog::take).
    taken: usize,
    of: VecDeque<Vec<Time>>,
}

#[derive(Debug, Clone)]
struct WorkerLog {
    delivery: Delivery,
    /// When the tokens of each pass were out in which requests were decoded, without the first ones, which nobody needs.
    passes: VecDeque<Time>,
    /// How many these were.
    dropped: usize,
    /// Requests that got their first token here, in order, with the passes until then.
    since: VecDeque<(RequestId, usize)>,
    /// Requests whose last token comes with the next pass, with the tokens that they have then.
    ending: Vec<(RequestId, u32)>,
}

impl TokenLog {
    /// For a run of a deployment.
    pub fn new(topology: &Topology) -> Self {
        let last = topology.last_pool();
        let workers = last.engines().map(|engine| WorkerLog::new(engine.host())).collect();
        let hosts = last.groups.iter().map(|group| group.engine.host()).collect();
        Self { workers, hosts, times: Times::default() }
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
            log.of(&mut self.times, joined.id).push(out);
        }
        if iteration.num_scheduled() == 0 {
            return;
        }
        let out = log.delivery.pass(iteration.end, iteration.num_scheduled());
        if iteration.decoded > 0 {
            log.pass(out, &mut self.times);
        }
        for emitted in &iteration.emitted {
            let times = log.of(&mut self.times, emitted.id);
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
            let out = log.delivery.pass(end, decodes.requests);
            log.pass(out, &mut self.times);
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

    /// When each token of a request reached its user, which is forgotten; requests are taken in order, when they have ended.
    ///
    /// # Panics
    /// If it is not the turn of this request.
    pub fn take(&mut self, id: RequestId) -> Vec<Time> {
        assert_eq!(id.index(), self.times.taken, "requests are taken in order");
        self.times.taken += 1;
        self.times.of.pop_front().unwrap_or_default()
    }

    /// By request, when each of its tokens reached its user.
    ///
    /// # Panics
    /// If times of requests were taken.
    pub fn into_times(self) -> Vec<Vec<Time>> {
        assert_eq!(self.times.taken, 0, "all requests are there");
        self.times.of.into()
    }
}

impl Times {
    fn of(&mut self, id: RequestId) -> &mut Vec<Time> {
        let place = id.index() - self.taken;
        if self.of.len() <= place {
            self.of.resize(place + 1, Vec::new());
        }
        &mut self.of[place]
    }
}

impl WorkerLog {
    /// Passes that are kept in any case.
    const FEWEST_PASSES: usize = 1024;

    fn new(host: Host) -> Self {
        Self {
            delivery: Delivery::new(host),
            passes: VecDeque::new(),
            dropped: 0,
            since: VecDeque::new(),
            ending: Vec::new(),
        }
    }

    /// The times of a request, of which the worker has a token now.
    fn of<'a>(&mut self, times: &'a mut Times, id: RequestId) -> &'a mut Vec<Time> {
        let of = times.of(id);
        if of.is_empty() {
            self.since.push_back((id, self.dropped + self.passes.len()));
        }
        of
    }

    /// A pass in which requests were decoded.
    fn pass(&mut self, out: Time, times: &mut Times) {
        if self.passes.len() >= Self::FEWEST_PASSES && self.passes.len() == self.passes.capacity() {
            self.forget(times);
        }
        self.passes.push_back(out);
        self.end_requests(times);
    }

    /// Drops the passes before the first token of every request that is still here.
    fn forget(&mut self, times: &Times) {
        while self.since.front().is_some_and(|(id, _)| id.index() < times.taken) {
            self.since.pop_front();
        }
        let needed = self.since.front().map_or(usize::MAX, |(_, passes)| passes - self.dropped);
        let dropped = needed.min(self.passes.len());
        self.passes.drain(..dropped);
        self.dropped += dropped;
    }

    fn end_requests(&mut self, times: &mut Times) {
        while let Some((id, output_tokens)) = self.ending.pop() {
            self.catch_up(times, id, output_tokens);
        }
    }

    /// The tokens of a request that are not noted yet came with the last passes.
    fn catch_up(&self, times: &mut Times, id: RequestId, output_tokens: u32) {
        let times = times.of(id);
        let missing = (output_tokens as usize).saturating_sub(times.len());
        times.extend(self.passes.range(self.passes.len() - missing..));
    }
}
