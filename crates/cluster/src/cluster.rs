//! The deployment as a state machine: pools of workers, hand-offs between them, and the life of each request.

mod ahead;
mod checks;
mod deadline;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_engine::{Engine, EngineRequest, EngineState, Rejection};
use servecast_router::Admission;
use servecast_types::{ContentNames, Prompt, RequestId, Time, WorkerId};
use smallvec::SmallVec;

use self::deadline::{Deadline, Event};
use crate::config::{SimulationOptions, Topology};
use crate::handoff::Handoff;
use crate::pool::{Dispatch, Dispatches, Pool};
use crate::record::{PoolRole, RejectReason, RequestStatus, RunRecord};
use crate::recorder::{NewRequest, Recorder};
use crate::sink::{Outcome, Signal, Sink};
use crate::{Observer, RunError, SoFar};

/// A request as it arrives at the deployment.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) origin: NewRequest,
    pub(crate) prompt: Prompt,
    /// What it generates as far as somebody else names it.
    pub(crate) output: Option<Box<Prompt>>,
    /// Number of tokens after which it stops by itself.
    pub(crate) stop_after: Option<u32>,
    /// Lower is more important.
    pub(crate) priority: i32,
    /// The worker of each stage, where that is not the router's choice.
    pub(crate) placement: Placement,
}

/// Workers of a request's stages that were fixed beforehand.
pub(crate) type Placement = SmallVec<[WorkerId; 2]>;

/// A deployment at work.
///
/// At one instant the driver first lets everything due happen ([`Cluster::advance`]), then hands in arrivals
/// ([`Cluster::arrive`]), and when nothing more is due at that instant starts the engines ([`Cluster::start`]).
#[derive(Debug)]
pub(crate) struct Cluster {
    pools: Vec<Pool>,
    handoff: Option<Handoff>,
    /// What is due, but for the iteration ends of a decode pool.
    deadlines: BinaryHeap<Reverse<Deadline>>,
    /// Iteration ends of a decode pool, which concern nobody else.
    decode_deadlines: BinaryHeap<Reverse<Deadline>>,
    /// Hand-offs so far.
    hand_offs: u64,
    /// Workers that have started an iteration at this instant, which may go on by themselves.
    started: Vec<Place>,
    /// Hand-offs whose KV transfer has not started: a decode worker has no room for them yet, or is in an iteration.
    waiting_transfers: usize,
    /// Whether every worker stops at the end of each iteration, whatever could reach it.
    plain: bool,
    /// The first invariant that was found broken.
    broken: Option<Box<RunError>>,
    /// Whether somebody acts on the end of a request at once: a session that goes on, a closed loop.
    ends_matter: bool,
    /// Whether no worker has to do with another.
    are_apart: bool,
    /// Workers without an iteration in flight that may have something to start, in order of pool and number; some twice.
    ready: BinaryHeap<Reverse<Place>>,
    live: FxHashMap<RequestId, Live>,
    recorder: Recorder,
    /// With when their clients know.
    ended: VecDeque<(RequestId, RequestStatus, Time)>,
    /// What the last engine that was called did; kept for its memory.
    outcome: Outcome,
    check: bool,
    record_routing: bool,
    routed: Vec<Routed>,
}

/// A decision of a KV-aware router.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The pool.
    pub pool: PoolRole,
    /// When the request came to the pool.
    pub arrived: Time,
    /// When it was sent to a worker.
    pub at: Time,
    /// Which worker, and how all were judged.
    pub admission: Admission,
}

/// A worker of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) pool: usize,
    pub(crate) worker: WorkerId,
}

/// A request that has not ended.
#[derive(Debug)]
struct Live {
    /// The worker that serves it, unless a router has parked it.
    place: Option<Place>,
    /// Where the KV of its prompt is held until the transfer ends.
    source: Option<Source>,
    /// What the decode stage will get.
    decode_stage: Option<EngineRequest>,
    placement: Placement,
}

/// The prefill worker that holds the KV of a prompt for a decode worker.
#[derive(Debug, Clone, Copy)]
struct Source {
    place: Place,
    /// Which hand-off of the run this is.
    order: u64,
    /// Whether the transfer has started.
    is_moving: bool,
}

impl Cluster {
    /// `ends_matter`: whether somebody acts on the end of a request at once.
    ///
    /// In a plain run workers are never taken to be [apart](Cluster::workers_apart).
    pub(crate) fn new(topology: &Topology, options: &SimulationOptions, ends_matter: bool) -> Self {
        let pools = topology.pools.iter().zip(0..);
        let pools: Vec<Pool> = pools.map(|(config, number)| Pool::new(config, number, options)).collect();
        let blind = pools.len() == 1 && pools[0].routes_blindly();
        // Of passes that take no time, several may be at one instant, and who joins which of them is not the same when
        // workers run one by one. Only what the host takes for each request of a pass would show it.
        let shows_passes = topology.pools.iter().any(|config| {
            let host = config.engine.host();
            host.gap_us_per_request > 0.0 || host.delivery_us_per_request > 0.0
        });
        let recorder = Recorder::new(topology.pools.iter());
        Self {
            pools,
            handoff: topology.handoff,
            deadlines: BinaryHeap::new(),
            decode_deadlines: BinaryHeap::new(),
            hand_offs: 0,
            started: Vec::new(),
            waiting_transfers: 0,
            plain: options.plain,
            broken: None,
            ends_matter,
            are_apart: blind && !ends_matter && !shows_passes && !options.plain,
            ready: BinaryHeap::new(),
            live: FxHashMap::default(),
            recorder,
            ended: VecDeque::new(),
            outcome: Outcome::default(),
            check: options.check,
            record_routing: options.record_routing,
            routed: Vec::new(),
        }
    }

    /// Says what the content of prompts is called.
    pub(crate) fn name_contents(&mut self, names: ContentNames) {
        let names = Arc::new(names);
        self.pools.iter_mut().for_each(|pool| pool.name_contents(&names));
    }

    /// When something happens by itself next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let heaps = [&self.deadlines, &self.decode_deadlines];
        heaps.into_iter().filter_map(|heap| heap.peek().map(|Reverse(deadline)| deadline.at)).min()
    }

    fn pop_due(&mut self, now: Time) -> Option<Deadline> {
        let due = |heap: &BinaryHeap<Reverse<Deadline>>| {
            heap.peek().map(|Reverse(deadline)| deadline.key()).filter(|&(at, _)| at <= now)
        };
        let heap = match (due(&self.deadlines), due(&self.decode_deadlines)) {
            (None, None) => return None,
            (Some(other), Some(decode)) if other < decode => &mut self.deadlines,
            (Some(_), None) => &mut self.deadlines,
            (_, Some(_)) => &mut self.decode_deadlines,
        };
        heap.pop().map(|Reverse(deadline)| deadline)
    }

    /// Takes a request in; it may be rejected at once.
    pub(crate) fn arrive(&mut self, arrival: Arrival, now: Time) -> RequestId {
        let id = self.recorder.arrive(arrival.origin, now);
        let tokens = arrival.prompt.tokens();
        let refused = self.pools.iter().find_map(|pool| pool.engines[0].config().check_request(tokens).err());
        if let Some(reason) = refused {
            self.end(id, RequestStatus::Rejected(reject_reason(reason)), now);
            return id;
        }
        let request = EngineRequest {
            output: arrival.output,
            stop_after: arrival.stop_after,
            priority: arrival.priority,
            ..EngineRequest::new(id, arrival.prompt, arrival.origin.output_tokens, now)
        };
        // The token of the prefill stage is not shown before the decode stage has it, or computes it again.
        let (first_stage, decode_stage) = if self.handoff.is_some() {
            let first = EngineRequest { max_tokens: 1, stop_after: None, hold_kv: true, ..request.clone() };
            (first, Some(request))
        } else {
            (request, None)
        };
        let placement = arrival.placement;
        let forced = placement.first().copied();
        self.live.insert(id, Live { place: None, source: None, decode_stage, placement });
        self.enter(0, first_stage, forced, now);
        id
    }

    /// Turns a request away because an earlier turn of its session was not served.
    pub(crate) fn arrive_rejected(&mut self, origin: NewRequest, now: Time) {
        let id = self.recorder.arrive(origin, now);
        self.recorder.end(id, RequestStatus::Rejected(RejectReason::PreviousTurn), now);
    }

    /// Lets everything happen that is due at `now`.
    pub(crate) fn advance(&mut self, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        while let Some(deadline) = self.pop_due(now) {
            assert!(deadline.at == now, "the driver stops at every deadline");
            match deadline.event {
                Event::IterationEnd(place) => self.iteration_ended(place, now, observer)?,
                Event::TransferEnd(source, request) => self.transfer_ended(request, source, now),
            }
        }
        Ok(())
    }

    /// Starts every engine that has something to start, and lets those run ahead that nothing can come to for a while.
    /// Nothing arrives before `next_arrival`.
    pub(crate) fn start(
        &mut self,
        now: Time,
        next_arrival: Option<Time>,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        while let Some(Reverse(place)) = self.ready.pop() {
            while self.ready.peek() == Some(&Reverse(place)) {
                self.ready.pop();
            }
            if self.start_worker(place, now, observer)? {
                self.started.push(place);
            }
        }
        let mut started = std::mem::take(&mut self.started);
        // How far a worker runs ahead depends on when those may act that do not run ahead: their deadlines come first.
        started.sort_unstable_by_key(|&place| (self.may_run_ahead(place), place));
        for &place in &started {
            self.run_ahead(place, now, next_arrival.unwrap_or(Time::MAX), observer)?;
            if observer.is_interrupted() {
                return Err(RunError::Interrupted { at: now });
            }
        }
        started.clear();
        self.started = started;
        Ok(())
    }

    /// Lets a worker start what it can; returns whether an iteration is in flight then.
    fn start_worker(
        &mut self,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<bool, RunError> {
        let (state, outcome) = self.with_engine(place, observer, |engine, sink| engine.run(now, sink));
        let state = state.map_err(|source| RunError::Latency { at: now, source })?;
        let is_busy = matches!(state, EngineState::Busy { .. });
        self.pools[place.pool].busy[place.worker.index()] |= is_busy;
        self.apply(place, outcome)?;
        Ok(is_busy)
    }

    fn iteration_ended(
        &mut self,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.pools[place.pool].busy[place.worker.index()] = false;
        self.ready.push(Reverse(place));
        let ((), outcome) = self.with_engine(place, observer, |engine, sink| {
            engine.end_iteration(now, sink);
        });
        self.apply(place, outcome)
    }

    /// What is recorded so far.
    pub(crate) fn so_far(&self) -> SoFar<'_> {
        self.recorder.so_far()
    }

    /// Decisions of KV-aware routers since the last call, in order; none unless they are recorded.
    pub(crate) fn take_routed(&mut self) -> Vec<Routed> {
        std::mem::take(&mut self.routed)
    }

    /// The next of the requests that have ended, in order, and when its client knows.
    pub(crate) fn pop_ended(&mut self) -> Option<(RequestId, RequestStatus, Time)> {
        self.ended.pop_front()
    }

    /// Ends the run, in which nothing can happen any more.
    pub(crate) fn finish(mut self, now: Time) -> Result<RunRecord, RunError> {
        if let Some((&first, live)) = self.live.iter().min_by_key(|(id, _)| **id) {
            let place = match live.place {
                Some(Place { pool, worker }) => {
                    format!("on the {} worker {worker}", self.pools[pool].role.name())
                }
                None => "parked by a router".to_owned(),
            };
            return Err(RunError::Stuck { at: now, unfinished: self.live.len(), first: first.0, place });
        }
        if self.check {
            let workers =
                |(pool, of): (usize, &Pool)| (0..of.engines.len() as u32).map(move |worker| (pool, worker));
            let places: Vec<_> = self.pools.iter().enumerate().flat_map(workers).collect();
            for (pool, worker) in places {
                self.check_worker(Place { pool, worker: WorkerId(worker) });
            }
        }
        self.holds()?;
        let engines = self.pools.iter().flat_map(|pool| &pool.engines);
        let extrapolated_iterations = engines.clone().map(Engine::num_extrapolated).sum();
        let mut latency_estimates: Vec<String> =
            engines.filter_map(|engine| engine.latency_estimate().map(str::to_owned)).collect();
        latency_estimates.dedup();
        Ok(RunRecord { extrapolated_iterations, latency_estimates, ..self.recorder.take(self.check)? })
    }

    /// Gives a request to a pool, whose router sends it on at once or later.
    fn enter(&mut self, pool: usize, request: EngineRequest, forced: Option<WorkerId>, now: Time) {
        let dispatches = self.pools[pool].route(request, forced, now);
        self.dispatch(pool, dispatches, now);
    }

    /// Gives requests to the workers that were chosen for them.
    fn dispatch(&mut self, pool: usize, dispatches: Dispatches, now: Time) {
        for Dispatch { request, worker, arrived, admission } in dispatches {
            let id = request.id;
            let place = Place { pool, worker };
            if self.are_apart {
                self.pools[pool].inboxes[worker.index()].push_back(request);
            } else {
                self.submit(place, request, now);
                self.wake(place);
            }
            self.recorder.queued(id, pool, worker, arrived, now);
            if let Some(live) = self.live.get_mut(&id) {
                live.place = Some(place);
            }
            if let Some(admission) = admission.filter(|_| self.record_routing) {
                self.routed.push(Routed { pool: self.pools[pool].role, arrived, at: now, admission });
            }
        }
    }

    fn submit(&mut self, place: Place, request: EngineRequest, now: Time) {
        self.check_causality(place, now);
        let id = request.id;
        let accepted = self.pools[place.pool].engines[place.worker.index()].submit(request);
        assert!(accepted.is_ok(), "request {id} was checked against every pool when it arrived");
    }

    /// Lets a worker start what it can, unless an iteration is in flight, at whose end it does so anyway.
    fn wake(&mut self, place: Place) {
        if !self.pools[place.pool].busy[place.worker.index()] {
            self.ready.push(Reverse(place));
        }
    }

    fn schedule(&mut self, at: Time, order: u64, event: Event) {
        let heap = match event {
            Event::IterationEnd(Place { pool: 1.., .. }) => &mut self.decode_deadlines,
            _ => &mut self.deadlines,
        };
        heap.push(Reverse(Deadline::new(at, order, event)));
    }

    /// Calls an engine and collects what others have to act on.
    fn with_engine<O: Observer, T>(
        &mut self,
        place: Place,
        observer: &mut O,
        call: impl FnOnce(&mut Engine, &mut Sink<'_, O>) -> T,
    ) -> (T, Outcome) {
        let last_stage = place.pool + 1 == self.pools.len();
        let Pool { role, engines, routing, .. } = &mut self.pools[place.pool];
        let engine = &mut engines[place.worker.index()];
        let recorder = &mut self.recorder;
        let outcome = std::mem::take(&mut self.outcome);
        let mut sink = Sink { place, pool: *role, last_stage, routing, recorder, observer, outcome };
        let result = call(engine, &mut sink);
        let outcome = sink.outcome;
        if self.check {
            let checks = &mut self.pools[place.pool].checks[place.worker.index()];
            if checks.are_due(outcome.reports) {
                self.check_worker(place);
            }
        }
        (result, outcome)
    }

    /// Acts on what an engine did.
    fn apply(&mut self, place: Place, mut outcome: Outcome) -> Result<(), RunError> {
        for (transfer, now) in &outcome.transfers {
            let Some(source) = self.transfer_started(transfer.id) else { continue };
            let event = Event::TransferEnd(source.place, transfer.id);
            self.schedule(transfer.end.max(*now), source.order, event);
        }
        for &(id, signal, now) in &outcome.signals {
            match signal {
                Signal::Finished => self.stage_finished(id, place, now)?,
                Signal::FirstToken => {
                    let released = self.pools[place.pool].first_token(id, place.worker, now);
                    self.dispatch(place.pool, released, now);
                }
                Signal::Token => {
                    let generated = self.recorder.output_tokens(id);
                    self.pools[place.pool].record_output(id, generated, now);
                }
            }
        }
        for &(id, reason, now) in &outcome.rejected {
            self.leave(id, place, now);
            self.end(id, RequestStatus::Rejected(reject_reason(reason)), now);
        }
        outcome.clear();
        self.outcome = outcome;
        Ok(())
    }

    fn stage_finished(&mut self, id: RequestId, place: Place, now: Time) -> Result<(), RunError> {
        self.leave(id, place, now);
        if let Some(request) = self.live.get_mut(&id).and_then(|live| live.decode_stage.take()) {
            return self.hand_off(id, request, now);
        }
        self.end(id, RequestStatus::Finished, now);
        Ok(())
    }

    /// A request has left a worker, which may make room for others.
    fn leave(&mut self, id: RequestId, place: Place, now: Time) {
        let released = self.pools[place.pool].leave(id, place.worker, now);
        self.dispatch(place.pool, released, now);
    }

    /// Passes a request whose prompt is computed on to the next pool.
    fn hand_off(&mut self, id: RequestId, request: EngineRequest, now: Time) -> Result<(), RunError> {
        let handoff = self.handoff.as_ref().expect("a decode stage exists only with a hand-off");
        let remote_prefill = Some(handoff.transfer_time(request.prompt.tokens(), now)?);
        let live = self.live.get_mut(&id).expect("a request that is handed off has not ended");
        self.hand_offs += 1;
        let order = self.hand_offs;
        live.source = live.place.take().map(|place| Source { place, order, is_moving: false });
        self.waiting_transfers += usize::from(live.source.is_some());
        let forced = live.placement.get(1).copied();
        self.enter(1, EngineRequest { remote_prefill, ..request }, forced, now);
        Ok(())
    }

    /// The KV of a request is on its way; returns where from.
    fn transfer_started(&mut self, id: RequestId) -> Option<Source> {
        let source = self.live.get_mut(&id)?.source.as_mut()?;
        self.waiting_transfers -= usize::from(!source.is_moving);
        source.is_moving = true;
        Some(*source)
    }

    /// The KV of a request is where it goes: its source lets go of it.
    fn transfer_ended(&mut self, id: RequestId, source: Place, now: Time) {
        self.check_causality(source, now);
        self.pools[source.pool].engines[source.worker.index()].release(id, now, now);
        self.wake(source);
        if let Some(live) = self.live.get_mut(&id) {
            live.source = None;
            if let Some(destination) = live.place {
                self.wake(destination);
            }
        }
    }

    fn end(&mut self, id: RequestId, status: RequestStatus, now: Time) {
        // A request that is given up before its transfer began leaves KV behind.
        if let Some(source) = self.live.remove(&id).and_then(|live| live.source) {
            self.waiting_transfers -= usize::from(!source.is_moving);
            self.transfer_ended(id, source.place, now);
        }
        let known = match status {
            RequestStatus::Finished => self.recorder.last_token(id).unwrap_or(now),
            RequestStatus::Rejected(_) => now,
        };
        self.recorder.end(id, status, known);
        self.ended.push_back((id, status, known));
    }
}

fn reject_reason(rejection: Rejection) -> RejectReason {
    match rejection {
        Rejection::PromptTooLong { .. } => RejectReason::PromptTooLong,
        Rejection::MaxModelLen { .. } => RejectReason::MaxModelLen,
        Rejection::Unchunkable { .. } => RejectReason::Unchunkable,
        Rejection::KvCapacity { .. } => RejectReason::KvCapacity,
        Rejection::Empty { .. } => RejectReason::Empty,
    }
}
