//! The virtual-clock driver: runs a workload on a deployment, as fast as it can.

use std::ops::ControlFlow;

use rustc_hash::FxHashMap;
use servecast_engine::{Decodes, Iteration};
use servecast_types::{Time, WorkerId};
use servecast_workload::Workload;

use crate::admission::{Admission, LoadMode, TurnId};
use crate::cluster::{Arrival, Cluster, Placement, Routed};
use crate::config::{SimulationOptions, Topology};
use crate::record::{PoolRole, RequestRecord, RequestStatus, RunRecord, TokenGaps};
use crate::recorder::NewRequest;
use crate::{ClusterError, RunError};

/// Follows a run while it goes on.
pub trait Observer {
    /// An iteration of a worker ended. Requests are numbered in order of arrival.
    fn iteration(&mut self, _pool: PoolRole, _worker: WorkerId, _iteration: &Iteration) {}

    /// Iterations of a worker ended in which each running request got a token. Unless a run is
    /// [plain](SimulationOptions::plain), such iterations are told of here and not in [`Observer::iteration`], and what
    /// decodes beside prompts is only [counted](Iteration::decoded) there.
    fn decoded(&mut self, _pool: PoolRole, _worker: WorkerId, _decodes: &Decodes) {}

    /// A KV-aware router sent a request to a worker.
    fn routed(&mut self, _routed: &Routed) {}

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

/// What a run has recorded while it goes on.
#[derive(Debug, Clone, Copy)]
pub struct SoFar<'a> {
    /// The requests that have arrived. Of one that has not ended only what is before its first token is settled, and that.
    pub requests: &'a [RequestRecord],
    /// Whether each of them has ended.
    pub ended: &'a [bool],
    /// Gaps between tokens; a few of the latest may be missing.
    pub gaps: &'a TokenGaps,
}

/// An observer that looks away.
impl Observer for () {}

/// A deployment and the load on it.
#[derive(Debug)]
pub struct Simulation {
    cluster: Cluster,
    admission: Admission,
    /// The turn that each request is.
    turns: Vec<TurnId>,
    placements: FxHashMap<TurnId, Placement>,
    ended: u64,
}

impl Simulation {
    /// Puts a workload in front of a deployment.
    pub fn new(
        topology: &Topology,
        mut workload: Workload,
        options: &SimulationOptions,
    ) -> Result<Self, ClusterError> {
        let names = std::mem::take(&mut workload.names);
        let goes_on = workload.sessions.iter().any(|session| session.turns.len() > 1);
        let ends_matter = goes_on || options.load != LoadMode::OpenLoop;
        let admission = Admission::new(workload, options.load, topology.front_host())?;
        let mut cluster = Cluster::new(topology, options, ends_matter);
        cluster.name_contents(names);
        Ok(Self { cluster, admission, turns: Vec::new(), placements: FxHashMap::default(), ended: 0 })
    }

    /// Fixes which worker of each pool serves a turn of a session, whatever the router says: to replay recorded
    /// decisions.
    ///
    /// # Panics
    /// When the run comes to it and there is no such worker.
    pub fn force_placement(&mut self, session: u32, turn: u32, workers: impl IntoIterator<Item = WorkerId>) {
        self.placements.insert(TurnId { session, turn }, workers.into_iter().collect());
    }

    /// Runs until every request has ended.
    ///
    /// # Panics
    /// If servecast has a bug that leaves it no other way out. Invariants that do not hold are errors; a
    /// [checked](SimulationOptions::check) run looks for more of them.
    pub fn run(mut self, observer: &mut impl Observer) -> Result<RunRecord, RunError> {
        let mut now = Time::ZERO;
        while let Some(next) =
            self.admission.next_arrival().into_iter().chain(self.cluster.next_deadline()).min()
        {
            assert!(next >= now, "time never runs back");
            within_time(next, now)?;
            now = next;
            self.cluster.advance(now, observer)?;
            self.follow_ended();
            while let Some(turn) = self.admission.pop_due(now) {
                self.arrive(turn, now, observer)?;
                self.follow_ended();
            }
            self.cluster.start(now, observer)?;
            self.follow_ended();
            self.cluster.take_routed().iter().for_each(|routed| observer.routed(routed));
            self.stay_in_control(now, observer)?;
        }
        for place in self.cluster.places() {
            while !self.cluster.drain(place, observer)? {
                self.follow_ended();
                self.stay_in_control(now, observer)?;
            }
            self.follow_ended();
        }
        self.stay_in_control(now, observer)?;
        self.cluster.finish(now)
    }

    fn stay_in_control(&mut self, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        self.cluster.holds()?;
        if self.is_to_end(now, observer) { Err(RunError::Interrupted { at: now }) } else { Ok(()) }
    }

    fn is_to_end(&self, now: Time, observer: &mut impl Observer) -> bool {
        observer.progress(now, self.ended).is_break()
            || observer.recorded(&self.cluster.so_far(), self.ended).is_break()
    }

    fn arrive(&mut self, turn: TurnId, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        let origin = self.origin(turn, self.admission.sent(turn, now));
        let (prompt, output) = self.admission.take_content(turn);
        let source = &self.admission.session(turn.session).turns[turn.turn as usize];
        let arrival = Arrival {
            origin,
            prompt,
            output,
            stop_after: source.stop_after,
            priority: source.priority,
            placement: self.placements.remove(&turn).unwrap_or_default(),
        };
        let id = self.cluster.arrive(arrival, now, observer)?;
        debug_assert_eq!(id.index(), self.turns.len());
        self.turns.push(turn);
        Ok(())
    }

    fn origin(&self, turn: TurnId, arrival: Time) -> NewRequest {
        let source = &self.admission.session(turn.session).turns[turn.turn as usize];
        NewRequest {
            session: turn.session,
            turn: turn.turn,
            line: source.line,
            arrival,
            input_tokens: source.prompt.tokens(),
            output_tokens: source.output_tokens,
        }
    }

    /// Lets sessions go on whose turn has ended, at the time at which their clients have its end.
    fn follow_ended(&mut self) {
        while let Some((id, status, at)) = self.cluster.pop_ended() {
            self.ended += 1;
            let turn = self
                .turns
                .get(id.index())
                .copied()
                .unwrap_or_else(|| unreachable!("request {id} has arrived"));
            match status {
                RequestStatus::Finished => self.admission.turn_ended(turn, at),
                RequestStatus::Rejected(_) => self.reject_rest(turn, at),
            }
        }
    }

    /// Turns after a rejected one are rejected with it, since their prompts build on it.
    fn reject_rest(&mut self, rejected: TurnId, now: Time) {
        let turns = self.admission.session(rejected.session).turns.len() as u32;
        for turn in rejected.turn + 1..turns {
            let turn = TurnId { turn, ..rejected };
            self.cluster.arrive_rejected(self.origin(turn, now), now);
            self.turns.push(turn);
            self.ended += 1;
        }
        self.admission.session_ended(now);
    }
}

/// An error if what comes next is so far away that sums of times have saturated.
pub(crate) fn within_time(next: Time, now: Time) -> Result<(), RunError> {
    if next == Time::MAX { Err(RunError::TimeOverflow { at: now }) } else { Ok(()) }
}
