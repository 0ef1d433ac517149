//! A pool: its workers, and the router or policy that chooses among them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_engine::{Engine, EngineConfig, EngineRequest, EngineTracing, Order, Rejection};
use servecast_router::Admission;
use servecast_types::{ContentNames, KvEvent, Rank, RequestId, Role, Seed, Time, WorkerId};
use smallvec::{SmallVec, smallvec};

use crate::config::{MAX_WORKERS, PoolConfig, SimulationOptions};
use crate::control::{ChangeError, WorkerState};
use crate::routing::{
    self, Candidate, KvRouterOptions, KvRouting, Pick, RoutedRequest, RouterMode, SessionAffinity, position,
};
use crate::worker::Worker;

/// The workers of one stage and what chooses among them.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// All that it has had, by number.
    pub(crate) workers: Vec<Worker>,
    tracing: EngineTracing,
    /// Its workers that serve, as a policy sees them, in order of their numbers.
    candidates: Vec<Candidate>,
    /// The engine of each of its groups of equal workers, who share it.
    kinds: Vec<Arc<EngineConfig>>,
    pub(crate) routing: Routing,
    /// What a router that tells a policy of workers goes by.
    loads: LoadSettings,
    /// Which worker a session stays on, if sessions do.
    affinity: Option<SessionAffinity>,
    /// Requests for which none of its workers serves, in the order in which they came.
    pub(crate) waiting: VecDeque<Queued>,
    /// Whether others act on whatever its workers do, as soon as they do it.
    pub(crate) always_watched: bool,
    /// Where a pool is read, the workers that lag, by when their iterations in flight end; some entries are out of date.
    pub(crate) lagging: BinaryHeap<Reverse<(Time, WorkerId)>>,
    /// Whether a worker may lag.
    pub(crate) some_lag: bool,
    /// When it was last read; what its workers have done before is known.
    pub(crate) read_at: Time,
}

/// What a router that tells a [policy](Pick::reads_loads) of workers goes by.
#[derive(Debug)]
struct LoadSettings {
    options: KvRouterOptions,
    seed: Seed,
    record_terms: bool,
}

/// What chooses among the workers of a pool.
#[derive(Debug)]
pub(crate) enum Routing {
    Policy(Box<dyn Pick>),
    /// With the requests that the router parked.
    Kv(Box<KvRouting>, FxHashMap<RequestId, Queued>),
}

/// A request that has come to a pool and is to go to one of its workers.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) request: EngineRequest,
    /// A worker that overrules what chooses among them.
    pub(crate) forced: Option<WorkerId>,
    /// When it came to the pool.
    pub(crate) arrived: Time,
}

/// A request that goes to a worker now.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) request: EngineRequest,
    pub(crate) worker: WorkerId,
    /// When it came to the pool.
    pub(crate) arrived: Time,
    /// The decision of a KV-aware router.
    pub(crate) admission: Option<Admission>,
}

/// Mostly one, or none.
pub(crate) type Dispatches = SmallVec<[Dispatch; 1]>;

impl Routing {
    /// Takes note of what an iteration changed in the cache of a rank.
    pub(crate) fn report(&mut self, rank: Rank, events: &[KvEvent], end: Time) {
        if let Self::Kv(router, _) = self {
            router.report(rank, events, end);
        }
    }

    /// Who picks workers, if that is not a KV-aware router.
    fn policy(&mut self) -> Option<&mut dyn Pick> {
        match self {
            Self::Policy(policy) => Some(&mut **policy),
            Self::Kv(router, _) => router.policy(),
        }
    }

    /// Whether the first tokens of requests matter to it.
    pub(crate) fn awaits_first_tokens(&self) -> bool {
        matches!(self, Self::Kv(..))
    }

    /// Whether all tokens of requests matter to it.
    pub(crate) fn counts_tokens(&self) -> bool {
        matches!(self, Self::Kv(router, _) if router.tracks_output())
    }
}

impl Pool {
    /// `number` keeps the random streams of pools apart.
    pub(crate) fn new(config: &PoolConfig, number: u64, options: &SimulationOptions) -> Self {
        let block_size = config.block_size();
        let seed = Seed(options.seed).stream(number + 1);
        let routing = if options.router.mode == RouterMode::KvRouter {
            let engines = config.engines();
            let router =
                KvRouting::new(&options.router.kv, config.role, engines, seed, options.record_routing);
            Routing::Kv(Box::new(router), FxHashMap::default())
        } else {
            Routing::Policy(routing::policy(&options.router, block_size, seed))
        };
        // Decode routers do not look at caches, and one that goes by its own decisions has no use for events.
        let kv_events = matches!(routing, Routing::Kv(..))
            && config.role != Role::Decode
            && options.router.kv.settings.use_kv_events();
        // No prompt hits output that nobody names, but a record of decisions says how much a router knows of.
        let skip_own_output = !(options.tracing.kv_events || options.record_routing || options.plain);
        let tracing = EngineTracing {
            kv_events: options.tracing.kv_events || kv_events,
            skip_own_output,
            stretches: !(options.plain || routing.counts_tokens()),
            ..options.tracing
        };
        let affinity = options.router.session_affinity.filter(|_| config.role != Role::Decode);
        let mut pool = Self {
            name: config.name.clone(),
            role: config.role,
            workers: Vec::new(),
            tracing,
            candidates: Vec::new(),
            kinds: config.groups.iter().map(|group| Arc::new(group.engine.clone())).collect(),
            waiting: VecDeque::new(),
            always_watched: options.plain || routing.counts_tokens(),
            routing,
            loads: LoadSettings {
                options: options.router.kv.clone(),
                seed,
                record_terms: options.record_routing,
            },
            affinity: affinity.map(SessionAffinity::new),
            lagging: BinaryHeap::new(),
            some_lag: false,
            read_at: Time::ZERO,
        };
        for (number, (group, kind)) in config.groups.iter().zip(&pool.kinds).enumerate() {
            let worker = |_| Worker::new(Arc::clone(kind), number, tracing);
            pool.workers.extend((0..group.workers).map(worker));
        }
        let workers = (0..).map(WorkerId).zip(&pool.workers);
        pool.candidates = workers.map(|(number, worker)| worker.candidate(number)).collect();
        if let Routing::Policy(policy) = &mut pool.routing {
            policy.workers_changed(&pool.candidates);
        }
        pool
    }

    /// Lets workers, to which nothing has come yet, decide and report each iteration by itself, and when it ends.
    pub(crate) fn tell_each_iteration(&mut self) {
        self.always_watched = true;
        self.tracing.stretches = false;
        self.renew_engines();
    }

    /// Adds a worker of a group that starts; returns its number.
    pub(crate) fn add_worker(&mut self, group: usize, until: Time) -> Result<WorkerId, ChangeError> {
        let (groups, workers) = (self.kinds.len(), self.workers.len());
        let unknown = || ChangeError::Group { pool: self.name.clone(), group, groups };
        let kind = self.kinds.get(group).ok_or_else(unknown)?;
        if workers >= MAX_WORKERS as usize {
            return Err(ChangeError::TooManyWorkers { pool: self.name.clone() });
        }
        let state = WorkerState::Starting { until };
        self.workers.push(Worker { state, ..Worker::new(Arc::clone(kind), group, self.tracing) });
        Ok(WorkerId(workers as u32))
    }

    /// Puts an empty worker in the place of one that is down.
    pub(crate) fn replace(&mut self, worker: WorkerId) {
        let Worker { group, state, .. } = self.workers[worker.index()];
        self.workers[worker.index()] =
            Worker { state, ..Worker::new(Arc::clone(&self.kinds[group]), group, self.tracing) };
    }

    /// Requests may be sent to a worker from now on; returns those that are.
    pub(crate) fn enlist(&mut self, worker: WorkerId, now: Time) -> Dispatches {
        let at = self.candidates.partition_point(|candidate| candidate.worker < worker);
        self.candidates.insert(at, self.workers[worker.index()].candidate(worker));
        let admitted = match &mut self.routing {
            Routing::Policy(policy) => {
                policy.workers_changed(&self.candidates);
                Vec::new()
            }
            Routing::Kv(router, _) => {
                if let Some(policy) = router.policy() {
                    policy.workers_changed(&self.candidates);
                }
                router.add(worker, self.workers[worker.index()].engine.config(), now)
            }
        };
        let mut dispatches = self.unpark(admitted);
        dispatches.extend(self.take_back_choosy(now));
        for queued in std::mem::take(&mut self.waiting) {
            dispatches.extend(self.route(queued, now));
        }
        dispatches
    }

    /// Takes the requests from the router that it parked for some of the workers, which were fixed then.
    fn take_back_choosy(&mut self, now: Time) -> Dispatches {
        let Routing::Kv(router, parked) = &mut self.routing else { return Dispatches::new() };
        let fits_all = |queued: &Queued| are_alike(&self.kinds, queued.request.prompt.tokens());
        let mut choosy: Vec<RequestId> =
            parked.iter().filter(|(_, queued)| !fits_all(queued)).map(|(&id, _)| id).collect();
        choosy.sort_unstable();
        let mut admitted = Vec::new();
        for id in choosy {
            self.waiting.extend(parked.remove(&id));
            admitted.extend(router.forget(id, now));
        }
        self.unpark(admitted)
    }

    /// No request is to be sent to a worker from now on; returns those that go to others by that.
    pub(crate) fn dismiss(&mut self, worker: WorkerId, now: Time) -> Dispatches {
        if let Some(at) = position(&self.candidates, worker) {
            self.candidates.remove(at);
            if let Some(policy) = self.routing.policy() {
                policy.workers_changed(&self.candidates);
            }
        }
        let Routing::Kv(router, parked) = &mut self.routing else { return Dispatches::new() };
        let engine = self.workers[worker.index()].engine.config();
        let (admitted, refused) = router.remove(worker, engine, now);
        let refused: Vec<Queued> = refused.iter().filter_map(|id| parked.remove(id)).collect();
        let mut dispatches = self.unpark(admitted);
        // Others may serve what waited for this one alone, to which its session had been sent before.
        for queued in refused {
            dispatches.extend(self.route(queued, now));
        }
        dispatches
    }

    /// Puts another policy in front of it.
    pub(crate) fn set_policy(&mut self, mut policy: Box<dyn Pick>, names: &Arc<ContentNames>) {
        policy.workers_changed(&self.candidates);
        policy.name_contents(names);
        if !policy.reads_loads() {
            self.routing = Routing::Policy(policy);
            return;
        }
        let LoadSettings { options, seed, record_terms } = &self.loads;
        let engines = self.workers.iter().map(|worker| worker.engine.config());
        let router = KvRouting::for_policy(policy, options, self.role, engines, *seed, *record_terms);
        let counts_tokens = router.tracks_output();
        self.routing = Routing::Kv(Box::new(router), FxHashMap::default());
        self.tracing.kv_events |= self.role != Role::Decode;
        self.tracing.stretches &= !counts_tokens;
        self.always_watched |= counts_tokens;
        self.renew_engines();
    }

    /// Makes its engines anew, to which nothing has come yet.
    fn renew_engines(&mut self) {
        for worker in &mut self.workers {
            worker.engine = Engine::new(Arc::clone(&self.kinds[worker.group]), self.tracing);
        }
    }

    /// Gives its engines, to which nothing has come yet, another order of their waiting queues.
    pub(crate) fn set_order(&mut self, order: &Arc<dyn Order>) {
        for kind in &mut self.kinds {
            *kind = Arc::new(EngineConfig::clone(kind).with_order(Arc::clone(order)));
        }
        self.renew_engines();
    }

    /// Says what the content of prompts is called.
    pub(crate) fn name_contents(&mut self, names: &Arc<ContentNames>) {
        if let Some(policy) = self.routing.policy() {
            policy.name_contents(names);
        }
    }

    /// Why none of its workers can ever serve a prompt of so many tokens, if that is so.
    pub(crate) fn check_request(&self, tokens: u32) -> Result<(), Rejection> {
        let mut checks = self.kinds.iter().map(|kind| kind.check_request(tokens));
        let first = checks.next().unwrap_or(Ok(()));
        if first.is_ok() || checks.any(|check| check.is_ok()) { Ok(()) } else { first }
    }

    /// Whether a prompt that none of its workers can serve goes to one all the same, which refuses it there.
    pub(crate) fn leaves_stub(&self, tokens: u32) -> bool {
        self.kinds.iter().all(|kind| kind.leaves_stub(tokens))
    }

    /// The candidates that can serve a prompt of so many tokens, if not workers of all groups can.
    fn some_candidates(&self, tokens: u32) -> Option<Vec<Candidate>> {
        if self.kinds.len() == 1 || are_alike(&self.kinds, tokens) {
            return None;
        }
        let engine = |candidate: &Candidate| self.workers[candidate.worker.index()].engine.config();
        let fits = |candidate: &&Candidate| engine(candidate).check_request(tokens).is_ok();
        Some(self.candidates.iter().filter(fits).copied().collect())
    }

    /// Takes a request in and chooses its worker, unless it has to wait.
    pub(crate) fn route(&mut self, queued: Queued, now: Time) -> Dispatches {
        let some = self.some_candidates(queued.request.prompt.tokens());
        let candidates = some.as_deref().unwrap_or(&self.candidates);
        if candidates.is_empty() {
            self.waiting.push_back(queued);
            return Dispatches::new();
        }
        let is_candidate = |worker: &WorkerId| position(candidates, *worker).is_some();
        let forced = queued.forced.filter(is_candidate);
        let session = queued.request.routing_key;
        let affinity = self.affinity.as_mut().zip(session).filter(|_| forced.is_none());
        let home = affinity.and_then(|(affinity, session)| affinity.worker_of(session, now));
        let home = home.filter(is_candidate);
        match &mut self.routing {
            Routing::Policy(policy) => {
                let routed = RoutedRequest::new(&queued.request, now, &[]);
                let pick = || candidates[policy.pick(&routed, candidates)].worker;
                let picked = home.unwrap_or_else(pick);
                let worker = forced.unwrap_or(picked);
                if let Some((affinity, session)) = self.affinity.as_mut().zip(session) {
                    affinity.sent(session, worker, now);
                }
                let at = position(&self.candidates, worker).expect("only candidates get requests");
                self.candidates[at].in_flight += 1;
                let Queued { request, arrived, .. } = queued;
                smallvec![Dispatch { request, worker, arrived, admission: None }]
            }
            Routing::Kv(router, _) => {
                let mut description = router.describe(&queued.request);
                description.allowed =
                    some.as_ref().map(|some| some.iter().map(|candidate| candidate.worker.0).collect());
                if let Some(worker) = home {
                    description.allowed = Some([worker.0].into());
                }
                let is_open = forced.is_none() && home.is_none();
                let mut pick = || router.pick(&queued.request, &description, candidates, &self.workers, now);
                let forced = if is_open { pick() } else { forced };
                // The router chooses among the ranks of a worker that is fixed.
                let is_one =
                    |worker: &WorkerId| self.workers[worker.index()].engine.config().num_ranks() == 1;
                let steered = forced.filter(is_one).map(Rank::of_worker);
                if let Some(worker) = forced.filter(|_| steered.is_none()) {
                    description.allowed = Some([worker.0].into());
                }
                let admitted = router.route(description, steered, now);
                self.dispatch(admitted, Some(queued))
            }
        }
    }

    /// A request of the pool has got its first token and goes on.
    pub(crate) fn first_token(&mut self, request: RequestId, worker: WorkerId, now: Time) -> Dispatches {
        if let Routing::Kv(router, _) = &mut self.routing {
            router.prefill_done(request, worker, now);
        }
        self.release_parked()
    }

    /// A request has left its worker.
    pub(crate) fn leave(&mut self, request: RequestId, worker: WorkerId, now: Time) -> Dispatches {
        // Who serves no more is none.
        if let Some(at) = position(&self.candidates, worker) {
            self.candidates[at].in_flight -= 1;
        }
        if let Routing::Kv(router, _) = &mut self.routing {
            router.finish(request, worker, now);
        }
        self.release_parked()
    }

    /// Forgets a request that waits in the pool; returns those that go to a worker in its place.
    pub(crate) fn withdraw_parked(&mut self, request: RequestId, now: Time) -> Dispatches {
        self.waiting.retain(|queued| queued.request.id != request);
        let Routing::Kv(router, parked) = &mut self.routing else { return Dispatches::new() };
        parked.remove(&request);
        let admitted = router.forget(request, now);
        self.unpark(admitted)
    }

    /// Sends parked requests on for which there is room now.
    pub(crate) fn release_parked(&mut self) -> Dispatches {
        match &mut self.routing {
            Routing::Kv(router, parked) if !parked.is_empty() => {
                let admitted = router.act_on_notes();
                self.unpark(admitted)
            }
            _ => Dispatches::new(),
        }
    }

    /// Whether what chooses among its workers looks at what they have done.
    pub(crate) fn is_read(&self) -> bool {
        !matches!(&self.routing, Routing::Policy(policy) if !policy.reads_workers())
    }

    /// Whether others act on what its workers do, as soon as they do it.
    pub(crate) fn is_watched(&self) -> bool {
        self.always_watched || matches!(&self.routing, Routing::Kv(_, parked) if !parked.is_empty())
    }

    /// A request has `generated` tokens by now.
    pub(crate) fn record_output(&mut self, request: RequestId, generated: u32, now: Time) {
        if let Routing::Kv(router, _) = &mut self.routing {
            router.record_output(request, generated, now);
        }
    }

    /// Sends parked requests on that were admitted.
    fn unpark(&mut self, admitted: Vec<Admission>) -> Dispatches {
        self.dispatch(admitted, None)
    }

    /// Sends requests on that were admitted: parked ones, and `new`, which is parked if it is not among them.
    fn dispatch(&mut self, admitted: Vec<Admission>, mut new: Option<Queued>) -> Dispatches {
        let Routing::Kv(_, parked) = &mut self.routing else { return Dispatches::new() };
        let mut dispatches = Dispatches::new();
        for admission in admitted {
            let id = admission.ticket.id;
            let queued = new.take_if(|new| new.request.id == id).or_else(|| parked.remove(&id));
            let Queued { mut request, arrived, .. } = queued.expect("an admitted request was parked");
            let Rank { worker, dp } = admission.ticket.rank;
            request.dp_rank = Some(dp);
            if let Some((affinity, session)) = self.affinity.as_mut().zip(request.routing_key) {
                affinity.sent(session, worker, admission.ticket.admitted_at);
            }
            let at = position(&self.candidates, worker).expect("only candidates get requests");
            self.candidates[at].in_flight += 1;
            dispatches.push(Dispatch { request, worker, arrived, admission: Some(admission) });
        }
        if let Some(new) = new {
            parked.insert(new.request.id, new);
        }
        dispatches
    }
}

/// Whether it makes no difference to a prompt of so many tokens which of these engines it goes to.
fn are_alike(kinds: &[Arc<EngineConfig>], tokens: u32) -> bool {
    let all = |is: fn(&EngineConfig, u32) -> bool| kinds.iter().all(|kind| is(kind, tokens));
    all(|kind, tokens| kind.check_request(tokens).is_ok()) || all(EngineConfig::leaves_stub)
}
