//! A worker of a pool: its engine, and how far it is behind the deployment.

use std::collections::VecDeque;
use std::sync::Arc;

use servecast_engine::{Engine, EngineConfig, EngineRequest, EngineTracing};
use servecast_types::{Time, WorkerId};

use crate::check::Checks;
use crate::control::{WorkerState, WorkerView};
use crate::livelock::Livelock;
use crate::routing::Candidate;

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) engine: Engine,
    /// Which of the groups of equal workers of its pool it belongs to.
    pub(crate) group: usize,
    /// Where it is in its life.
    pub(crate) state: WorkerState,
    pub(crate) progress: Progress,
    /// Requests that it takes in when it catches up, each at its arrival.
    pub(crate) inbox: VecDeque<EngineRequest>,
    /// Its requests whose KV is still where the prompt was computed, and not on its way.
    pub(crate) queued_fetches: u32,
    /// When a copy to or from the memory of its host ends that is among the deadlines.
    pub(crate) copy_end: Option<Time>,
    pub(crate) livelock: Livelock,
    /// In a checked run.
    pub(crate) checks: Checks,
}

/// What a worker is in, seen from the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has no iteration in flight, and has come as far as the deployment, or, but for its inbox, would have nothing to
    /// do until then.
    Idle,
    /// It has come as far as the deployment; when its iteration in flight ends is among the deadlines.
    InFlight,
    /// Its iteration in flight ends then. Nobody acts on that, so the worker continues when somebody needs to know.
    Lags {
        /// When the iteration ends.
        until: Time,
        /// Before when those who read its pool learn nothing from it.
        news: Time,
    },
}

impl Worker {
    /// Everything that it ended before that has been reported, the deployment being at `now`.
    pub(crate) fn settled(&self, now: Time) -> Time {
        let lags = if let Progress::Lags { until, .. } = self.progress { until } else { now };
        let taken_in = self.inbox.front().map_or(now, |request| request.arrival);
        lags.min(taken_in).min(now)
    }

    /// A worker that serves and has no request yet.
    pub(crate) fn new(config: Arc<EngineConfig>, group: usize, tracing: EngineTracing) -> Self {
        Self {
            engine: Engine::new(config, tracing),
            group,
            state: WorkerState::Serving,
            progress: Progress::Idle,
            inbox: VecDeque::new(),
            queued_fetches: 0,
            copy_end: None,
            livelock: Livelock::default(),
            checks: Checks::default(),
        }
    }

    /// Whether it has no request and no KV for others, and does nothing.
    pub(crate) fn has_nothing(&self) -> bool {
        self.inbox.is_empty() && self.engine.is_empty() && !self.engine.awaits_kv()
    }

    /// What policies see of it, by its number, while it has no request.
    pub(crate) fn candidate(&self, worker: WorkerId) -> Candidate {
        let engine = self.engine.config();
        Candidate::new(worker, engine.usable_blocks().saturating_mul(engine.num_ranks()))
    }

    /// What it is like, by its number.
    pub(crate) fn view(&self, worker: WorkerId) -> WorkerView {
        WorkerView {
            worker,
            group: self.group,
            state: self.state,
            running: self.engine.num_running(),
            waiting: self.engine.num_waiting() + self.inbox.len(),
        }
    }
}
