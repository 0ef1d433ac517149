//! The deployment as a state machine: pools of workers, hand-offs between them, and the life of each request.

mod checks;
mod copies;
mod deadline;
mod hand_off;
mod lag;
mod life;
mod outcome;
mod withdraw;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_engine::{Engine, EngineRequest, EngineState, Grammar, Order};
use servecast_record::{RejectReason, RequestStatus, RunRecord, SoFar};
use servecast_router::Admission;
use servecast_types::{ContentNames, PoolId, RequestId, Role, Time, WorkerId};

use self::deadline::{Class, Deadline, Event};
use self::life::Change;
use self::outcome::reject_reason;
use crate::config::{SimulationOptions, Topology};
use crate::drive::{Arrival, NewRequest, Placement, Watches};
use crate::links::Links;
use crate::pool::{Dispatch, Dispatches, Pool, Queued};
use crate::recorder::Recorder;
use crate::route::Route;
use crate::sink::{Outcome, Sink};
use crate::worker::{Progress, Worker};
use crate::{Detail, Observer, Pick, RunError};

/// A deployment at work: a state machine with explicit time, which [`drive`](crate::drive) puts behind a source of requests
/// and a clock.
///
/// At one instant its driver first lets everything due happen (`advance`), then hands in arrivals (`arrive`), and when
/// nothing more is due at that instant starts the engines (`start`). Workers on whose iterations nobody acts lag behind and
/// catch up when it matters.
#[derive(Debug)]
pub struct Cluster {
    pools: Vec<Pool>,
    route: Route,
    links: Links,
    /// Whether a request comes to a decode worker as soon as its prefill worker is chosen, not when its prompt is computed.
    paired: bool,
    /// What others act on at once when it is due.
    deadlines: BinaryHeap<Reverse<Deadline>>,
    /// How many of them are ends of copies to and from the memory of a host.
    copy_ends: usize,
    /// The instant at which the deployment is. No worker is ahead of it; some [lag](lag).
    now: Time,
    /// How often the deployment has been at this instant: what takes no time makes it come back.
    round: u32,
    /// How often it has been there since a request got any further, and what was recorded of requests by then.
    idle_rounds: u32,
    news: u64,
    /// The first invariant that was found broken.
    broken: Option<Box<RunError>>,
    /// Workers without an iteration in flight that may have something to start, in order of pool and number; some twice.
    ready: BinaryHeap<Reverse<Place>>,
    live: FxHashMap<RequestId, Live>,
    /// What is to change about workers.
    changes: Vec<Change>,
    /// Iterations of workers that have failed whose time lies outside what their latency model was measured on.
    extrapolated: u64,
    recorder: Recorder,
    /// With when their clients know.
    ended: VecDeque<(RequestId, RequestStatus, Time)>,
    /// What engines did when they were called; kept for their memory.
    spare: Vec<Outcome>,
    check: bool,
    record_routing: bool,
    routed: Vec<Routed>,
    /// What the content of prompts is called.
    names: Arc<ContentNames>,
}

/// Rounds at one instant in which no request gets any further after which a run is given up: a prompt may be computed in
/// many parts that take no time.
const MOST_IDLE_ROUNDS: u32 = 5_000_000;

/// A decision of a KV-aware router.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The pool.
    pub pool: Role,
    /// When the request came to the pool.
    pub arrived: Time,
    /// When it was sent to a worker.
    pub at: Time,
    /// Which worker, and how all were judged.
    pub admission: Admission,
}

/// A worker of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) pool: PoolId,
    pub(crate) worker: WorkerId,
}

/// A request that has not ended.
#[derive(Debug)]
struct Live {
    /// The pool of the stage in which it is.
    pool: PoolId,
    /// The worker that serves it, unless it waits in its pool.
    place: Option<Place>,
    /// What the next stage will get, if there is one.
    next_stage: Option<EngineRequest>,
    placement: Placement,
    /// How it ends as soon as it can be taken from where it is: its client has taken it back, or what it needs is lost.
    taken_back: Option<RequestStatus>,
}

impl Cluster {
    /// A deployment without requests.
    pub fn new(topology: &Topology, options: &SimulationOptions) -> Self {
        let pools = topology.pools.iter().zip(0..);
        let pools: Vec<Pool> = pools.map(|(config, number)| Pool::new(config, number, options)).collect();
        let recorder = Recorder::new(topology, options.keep_ended);
        Self {
            pools,
            route: topology.route.clone(),
            links: Links::new(topology.handoff),
            paired: topology.paired,
            deadlines: BinaryHeap::new(),
            copy_ends: 0,
            now: Time::ZERO,
            round: 0,
            idle_rounds: 0,
            news: 0,
            broken: None,
            ready: BinaryHeap::new(),
            live: FxHashMap::default(),
            changes: Vec::new(),
            extrapolated: 0,
            recorder,
            ended: VecDeque::new(),
            spare: Vec::new(),
            check: options.check,
            record_routing: options.record_routing,
            routed: Vec::new(),
            names: Arc::default(),
        }
    }

    /// Says what others act on at once, before the first request.
    pub(crate) fn watch_for(&mut self, watches: Watches) {
        for (number, pool) in (0..).map(PoolId).zip(&mut self.pools) {
            // The end of an earlier stage is a hand-off.
            let ends_matter = self.route.after(number).is_some() || watches >= Watches::Ends;
            pool.always_watched |= ends_matter;
        }
    }

    /// Lets workers tell as much as an observer wants to know, before the first request.
    pub(crate) fn tell(&mut self, detail: Detail) {
        if detail == Detail::Iterations {
            self.pools.iter_mut().for_each(Pool::tell_each_iteration);
        }
    }

    /// Puts a policy in front of each pool, before the first request.
    pub fn set_policies(&mut self, mut make: impl FnMut(Role) -> Box<dyn Pick>) {
        for pool in &mut self.pools {
            let policy = make(pool.role);
            pool.set_policy(policy, &self.names);
        }
    }

    /// Puts an order of one's own before the waiting requests of each worker of a pool, before the first request; `None`
    /// leaves a pool as it is. Workers that are added later have it, too.
    pub fn set_orders(&mut self, mut make: impl FnMut(Role) -> Option<Arc<dyn Order>>) {
        for pool in &mut self.pools {
            if let Some(order) = make(pool.role) {
                pool.set_order(&order);
            }
        }
    }

    /// Says what the content of prompts is called, for policies that go by it.
    pub fn name_contents(&mut self, names: ContentNames) {
        self.names = Arc::new(names);
        self.pools.iter_mut().for_each(|pool| pool.name_contents(&self.names));
    }

    /// When something happens next that others act on at once.
    pub(crate) fn next_deadline(&self, is_over: bool) -> Option<Time> {
        // Copies of requests that have ended go on, which nobody waits for when no request comes any more.
        if is_over && self.live.is_empty() && self.copy_ends == self.deadlines.len() {
            return self.links.next_end();
        }
        let deadline = self.deadlines.peek().map(|Reverse(deadline)| deadline.at);
        deadline.into_iter().chain(self.links.next_end()).min()
    }

    fn pop_due(&mut self, now: Time) -> Option<Deadline> {
        self.deadlines.peek().filter(|Reverse(deadline)| deadline.at <= now)?;
        self.deadlines.pop().map(|Reverse(deadline)| deadline)
    }

    /// Takes a request in; it may be rejected at once.
    pub(crate) fn arrive(
        &mut self,
        arrival: Arrival,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<RequestId, RunError> {
        let id = self.recorder.arrive(arrival.origin, now);
        let tokens = arrival.prompt.tokens();
        let refused = self.pools.iter().find_map(|pool| pool.check_request(tokens).err());
        let leaves_stub = self.pools.len() == 1 && self.pools.iter().all(|pool| pool.leaves_stub(tokens));
        if let Some(reason) = refused.filter(|_| !leaves_stub) {
            self.end(id, RequestStatus::Rejected(reject_reason(reason)), now, observer)?;
            return Ok(id);
        }
        let request = EngineRequest {
            output: arrival.output,
            stop_after: arrival.stop_after,
            priority: arrival.priority,
            lora: arrival.origin.lora,
            grammar: arrival.origin.grammar.map(|number| Grammar { number, submitted: now }),
            class: arrival.origin.class,
            routing_key: Some(arrival.origin.session),
            ..EngineRequest::new(id, arrival.prompt, arrival.origin.output_tokens, now)
        };
        let pool = self.route.first();
        // The token of a stage that is not the last is not shown before the next one has it, or computes it again.
        let (first_stage, next_stage) = if self.route.after(pool).is_some() {
            let first = EngineRequest { max_tokens: 1, stop_after: None, hold_kv: true, ..request.clone() };
            (first, Some(request))
        } else {
            (request, None)
        };
        let placement = arrival.placement;
        let forced = placement.get(self.route.stage(pool)).copied();
        let live = Live { pool, place: None, next_stage, placement, taken_back: None };
        self.live.insert(id, live);
        self.enter(pool, first_stage, forced, now, observer)?;
        Ok(id)
    }

    /// Records a request that is not sent because an earlier turn of its session was not served.
    pub(crate) fn refuse(&mut self, origin: NewRequest) -> RequestId {
        let id = self.recorder.arrive(origin, origin.arrival);
        self.recorder.end(id, RequestStatus::Rejected(RejectReason::PreviousTurn), origin.arrival);
        id
    }

    /// Goes on to `now` and lets everything happen that is due then. `sends_no_more` says that no request comes any more, whoever
    /// ends.
    pub(crate) fn advance(
        &mut self,
        now: Time,
        sends_no_more: bool,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let news = self.recorder.news();
        if now != self.now || news != self.news {
            self.idle_rounds = 0;
        } else if self.idle_rounds == MOST_IDLE_ROUNDS {
            return Err(RunError::Endless { at: now, rounds: self.idle_rounds });
        }
        self.idle_rounds += 1;
        self.round = if now == self.now { self.round + 1 } else { 1 };
        (self.now, self.news) = (now, news);
        loop {
            if let Some(deadline) = self.pop_due(now) {
                assert!(deadline.at == now, "the driver stops at every deadline");
                match deadline.event {
                    Event::IterationEnd(place) => self.iteration_ended(place, now, observer)?,
                    Event::CopyEnd(place) => self.copy_ended(place, sends_no_more, observer)?,
                    Event::Ready(place) => self.ready(place, now, observer)?,
                }
            } else if let Some(moved) = self.links.pop_ended(now) {
                self.transfer_ended(moved, now, observer)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Starts every engine that has something to start.
    pub(crate) fn start(&mut self, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        while let Some(Reverse(place)) = self.ready.pop() {
            while self.ready.peek() == Some(&Reverse(place)) {
                self.ready.pop();
            }
            self.start_worker(place, now, observer)?;
        }
        Ok(())
    }

    /// Lets a worker start what it can.
    fn start_worker(
        &mut self,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.take_in(place, now);
        match self.run_engine(place, now, observer)? {
            EngineState::Busy { until } => self.started(place, until),
            EngineState::Idle { wake } => self.wake_at_copy_end(place, wake),
        }
        Ok(())
    }

    /// Lets an engine start what it can; the caller says who is to end what is in flight then.
    fn run_engine(
        &mut self,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<EngineState, RunError> {
        let (state, outcome) = self.with_engine(place, observer, |engine, sink| engine.run(now, sink));
        let state = state.map_err(|source| RunError::Latency { at: now, source })?;
        if matches!(state, EngineState::Busy { .. }) {
            self.worker(place).progress = Progress::InFlight;
        }
        self.apply(place, outcome, observer)?;
        Ok(state)
    }

    fn iteration_ended(
        &mut self,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.worker(place).progress = Progress::Idle;
        self.ready.push(Reverse(place));
        let ((), outcome) = self.with_engine(place, observer, |engine, sink| {
            engine.end_iteration(now, sink);
        });
        self.apply(place, outcome, observer)
    }

    /// All workers, in order.
    pub(crate) fn places(&self) -> Vec<Place> {
        let workers =
            |(pool, of): (PoolId, &Pool)| (0..of.workers.len() as u32).map(move |worker| (pool, worker));
        let places = (0..).map(PoolId).zip(&self.pools).flat_map(workers);
        places.map(|(pool, worker)| Place { pool, worker: WorkerId(worker) }).collect()
    }

    /// How many workers there are.
    pub(crate) fn num_workers(&self) -> usize {
        self.pools.iter().map(|pool| pool.workers.len()).sum()
    }

    /// Whether no request is under way, as far as is known yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Everything that ended before that has been reported.
    pub(crate) fn settled(&self) -> Time {
        let workers = self.pools.iter().flat_map(|pool| &pool.workers);
        workers.map(|worker| worker.settled(self.now)).min().unwrap_or(self.now)
    }

    /// From now on, before the first request, hands each record out when it is complete, in place of keeping it.
    pub(crate) fn hand_out(&mut self) {
        self.recorder.hand_out();
    }

    /// Whether records are handed out.
    pub(crate) fn hands_out(&self) -> bool {
        self.recorder.hands_out()
    }

    /// Hands out the records of requests to which nothing more happens, in order of arrival.
    pub(crate) fn hand_out_ended(&mut self, observer: &mut impl Observer) -> Result<(), RunError> {
        let mut until = self.now;
        for (number, pool) in (0..).map(PoolId).zip(&self.pools) {
            for (worker, of) in (0..).map(WorkerId).zip(&pool.workers) {
                until = until.min(of.settled(self.now));
                if of.engine.num_in_flight() > 0 {
                    until = self.recorder.last_pass(number, worker).map_or(until, |pass| until.min(pass));
                }
            }
        }
        self.recorder.hand_out_ended(until, self.check, |ended| observer.ended(ended))
    }

    /// Hands out the records that are left when the run is over.
    pub(crate) fn hand_out_rest(&mut self, observer: &mut impl Observer) -> Result<(), RunError> {
        self.recorder.hand_out_ended(Time::MAX, self.check, |ended| observer.ended(ended))
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
    pub fn finish(mut self, now: Time) -> Result<RunRecord, RunError> {
        if let Some((&first, live)) = self.live.iter().min_by_key(|(id, _)| **id) {
            let place = match live.place {
                Some(Place { pool, worker }) => {
                    format!("on the {} worker {worker}", self.pools[pool.index()].name)
                }
                None if self.pools[live.pool.index()].waiting.is_empty() => "parked by a router".to_owned(),
                None => format!("waiting for a worker of the {} pool", self.pools[live.pool.index()].name),
            };
            return Err(RunError::Stuck { at: now, unfinished: self.live.len(), first: first.0, place });
        }
        if self.check {
            self.places().into_iter().for_each(|place| self.check_worker(place));
        }
        self.holds()?;
        let engines = self.pools.iter().flat_map(|pool| &pool.workers).map(|worker| &worker.engine);
        let extrapolated = engines.clone().map(Engine::num_extrapolated).sum::<u64>();
        let extrapolated_iterations = self.extrapolated + extrapolated;
        let mut latency_estimates: Vec<String> =
            engines.filter_map(|engine| engine.latency_estimate().map(str::to_owned)).collect();
        latency_estimates.dedup();
        Ok(RunRecord { extrapolated_iterations, latency_estimates, ..self.recorder.take(self.check)? })
    }

    /// Gives a request to a pool, whose router sends it on at once or later.
    fn enter(
        &mut self,
        pool: PoolId,
        request: EngineRequest,
        forced: Option<WorkerId>,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.read(pool, observer)?;
        let queued = Queued { request, forced, arrived: now };
        let dispatches = self.pools[pool.index()].route(queued, now);
        self.dispatch(pool, dispatches, now, observer)?;
        self.watch(pool, observer)
    }

    /// Gives requests to the workers that were chosen for them.
    fn dispatch(
        &mut self,
        pool: PoolId,
        dispatches: Dispatches,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        for Dispatch { request, worker, arrived, admission } in dispatches {
            let id = request.id;
            self.recorder.queued(id, pool, worker, arrived, now);
            let place = Place { pool, worker };
            if let Some(live) = self.live.get_mut(&id) {
                live.place = Some(place);
            }
            if let Some(admission) = admission.filter(|_| self.record_routing) {
                self.routed.push(Routed { pool: self.pools[pool.index()].role, arrived, at: now, admission });
            }
            self.deliver(place, request, now, observer)?;
            if self.paired && pool == self.route.first() {
                self.pair(id, place, now, observer)?;
            }
        }
        Ok(())
    }

    fn worker(&mut self, place: Place) -> &mut Worker {
        &mut self.pools[place.pool.index()].workers[place.worker.index()]
    }

    /// Lets a worker start what it can, unless an iteration is in flight, at whose end it does so anyway.
    fn wake(&mut self, place: Place) {
        if self.worker(place).progress == Progress::Idle {
            self.ready.push(Reverse(place));
        }
    }

    fn schedule(&mut self, at: Time, class: Class, order: u64, event: Event) {
        self.deadlines.push(Reverse(Deadline::new(at, class, order, event)));
    }

    /// The iteration in flight of a worker ends then, and others act on that.
    fn schedule_end(&mut self, place: Place, until: Time) {
        let is_first = place.pool == self.route.first();
        let class = if is_first { Class::FirstStage } else { Class::LaterStage };
        self.worker(place).progress = Progress::InFlight;
        self.schedule(until, class, place.worker.0.into(), Event::IterationEnd(place));
    }

    /// Calls an engine and collects what others have to act on.
    fn with_engine<O: Observer, T>(
        &mut self,
        place: Place,
        observer: &mut O,
        call: impl FnOnce(&mut Engine, &mut Sink<'_, O>) -> T,
    ) -> (T, Outcome) {
        let Pool { role, workers, routing, .. } = &mut self.pools[place.pool.index()];
        let Worker { engine, livelock, .. } = &mut workers[place.worker.index()];
        let (links, recorder) = (&mut self.links, &mut self.recorder);
        let outcome = self.spare.pop().unwrap_or_default();
        let mut sink = Sink { place, pool: *role, routing, links, recorder, livelock, observer, outcome };
        let result = call(engine, &mut sink);
        let outcome = sink.outcome;
        if let Some(iterations) = livelock.found() {
            self.break_livelock(place, iterations);
        }
        if self.check && self.worker(place).checks.are_due(outcome.reports) {
            self.check_worker(place);
        }
        (result, outcome)
    }
}
