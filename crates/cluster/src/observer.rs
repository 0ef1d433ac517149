//! Who follows a run, and in what detail.

use std::ops::ControlFlow;

use servecast_engine::{Decodes, Iteration, Joined};
use servecast_record::{EndedRequest, SoFar};
use servecast_types::{RequestId, Role, Time, WorkerId};

use crate::cluster::Routed;
use crate::control::WorkerChange;

/// What an observer wants to know of what workers do. Each level has all of those before it, and costs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Detail {
    /// Passes and their sums. Requests that decode are taken together: passes of nothing else come as one [`Decodes`], and
    /// what decodes beside prompts is only [counted](Iteration::decoded).
    #[default]
    Passes,
    /// The same, and with [`Observer::caught_up`] which requests those were, when they stop decoding: enough for the time
    /// of every token ([`TokenLog`](crate::TokenLog)).
    Tokens,
    /// Each iteration by itself, with all its requests. They are decided one by one, which takes several times as long.
    Iterations,
}

/// Follows a run while it lasts.
///
/// What one worker does is told in order of time. Workers are not at the same time, so what several of them do is not:
/// [`Observer::settled`] says how far all of them are, and [`Ordered`](crate::Ordered) puts it in order.
pub trait Observer {
    /// What it wants to know; asked once, before the run.
    fn detail(&self) -> Detail {
        Detail::default()
    }

    /// An iteration of a worker ended. Requests are numbered in order of arrival.
    fn iteration(&mut self, _pool: Role, _worker: WorkerId, _iteration: &Iteration) {}

    /// A request has its first token, which was handed over with its KV. The iteration that was decided then comes later, and
    /// has it among [`Iteration::joined`].
    fn joined(&mut self, _pool: Role, _worker: WorkerId, _joined: Joined, _now: Time) {}

    /// Iterations of a worker ended in which the same requests got a token each; told here and not in
    /// [`Observer::iteration`], unless the observer wants [each of them](Detail::Iterations).
    fn decoded(&mut self, _pool: Role, _worker: WorkerId, _decodes: &Decodes) {}

    /// A request has been decoding: it got the last of its tokens so far in consecutive passes in which requests were
    /// [decoded](Observer::decoded) or [counted as such](Iteration::decoded). Told when it ends or is listed in an
    /// iteration again.
    fn caught_up(&mut self, _pool: Role, _worker: WorkerId, _caught_up: CaughtUp) {}

    /// All that workers ended before `until` has been told. Called now and then, and with [`Time::MAX`] when the run is over.
    fn settled(&mut self, _until: Time) {}

    /// A request has ended, and nothing more happens to its record. Told in order of arrival, and only in a run that
    /// [keeps no records](crate::Simulation::run_streamed).
    fn ended(&mut self, _ended: &EndedRequest<'_>) {}

    /// A KV-aware router sent a request to a worker.
    fn routed(&mut self, _routed: &Routed) {}

    /// A worker has come to another state of its life, or is new.
    fn worker_changed(&mut self, _change: &WorkerChange) {}

    /// Whether the run is to end at once; asked each time a worker has gone some way by itself.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// What is recorded when `ended` requests have ended, asked beside [`Observer::progress`]; `Break` ends the run.
    fn recorded(&mut self, _so_far: &SoFar<'_>, _ended: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// The clock moved on and `ended` requests have ended so far; `Break` ends the run.
    fn progress(&mut self, _now: Time, _ended: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// An observer that looks away.
impl Observer for () {}

/// An observer of any type, so that one copy of the simulation is for all of them.
pub(crate) struct Dynamic<'a>(pub(crate) &'a mut dyn Observer);

impl Observer for Dynamic<'_> {
    fn detail(&self) -> Detail {
        self.0.detail()
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.0.iteration(pool, worker, iteration);
    }

    fn joined(&mut self, pool: Role, worker: WorkerId, joined: Joined, now: Time) {
        self.0.joined(pool, worker, joined, now);
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        self.0.decoded(pool, worker, decodes);
    }

    fn caught_up(&mut self, pool: Role, worker: WorkerId, caught_up: CaughtUp) {
        self.0.caught_up(pool, worker, caught_up);
    }

    fn settled(&mut self, until: Time) {
        self.0.settled(until);
    }

    fn ended(&mut self, ended: &EndedRequest<'_>) {
        self.0.ended(ended);
    }

    fn routed(&mut self, routed: &Routed) {
        self.0.routed(routed);
    }

    fn worker_changed(&mut self, change: &WorkerChange) {
        self.0.worker_changed(change);
    }

    fn is_interrupted(&self) -> bool {
        self.0.is_interrupted()
    }

    fn recorded(&mut self, so_far: &SoFar<'_>, ended: u64) -> ControlFlow<()> {
        self.0.recorded(so_far, ended)
    }

    fn progress(&mut self, now: Time, ended: u64) -> ControlFlow<()> {
        self.0.progress(now, ended)
    }
}

/// A request that has been decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaughtUp {
    /// The request.
    pub id: RequestId,
    /// Tokens that it has generated in its stage by now.
    pub output_tokens: u32,
    /// Whether the last of them comes with the next pass to be reported, not with the one reported last.
    pub ends_next: bool,
}
