use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_engine::{EngineConfig, EngineRequest, EngineTracing, Rejection};
use servecast_router::Admission;
use servecast_types::{ContentNames, KvEvent, RequestId, Role, Seed, Time, WorkerId};
use smallvec::{SmallVec, smallvec};

use crate::config::{PoolConfig, SimulationOptions};
use crate::routing::{self, Candidate, KvRouting, Pick, RouterMode};
use crate::worker::Worker;

/// The workers of one stage and what chooses among them.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) workers: Vec<Worker>,
    tracing: EngineTracing,
    /// Its workers as a policy sees them.
    candidates: Vec<Candidate>,
    /// The engine of each of its groups of equal workers.
    kinds: Vec<EngineConfig>,
    pub(crate) routing: Routing,
    /// Whether others act on whatever its workers do, as soon as they do it.
    pub(crate) always_watched: bool,
    /// Where a pool is read, the workers that lag, by when their iterations in flight end; some entries are out of date.
    pub(crate) lagging: BinaryHeap<Reverse<(Time, WorkerId)>>,
    /// Whether a worker may lag.
    pub(crate) some_lag: bool,
}

/// What chooses among the workers of a pool.
#[derive(Debug)]
pub(crate) enum Routing {
    Policy(Box<dyn Pick>),
    /// With the requests that the router parked, and when they came.
    Kv(Box<KvRouting>, FxHashMap<RequestId, (EngineRequest, Time)>),
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
    /// Takes note of what an iteration changed in the cache of a worker.
    pub(crate) fn report(&mut self, worker: WorkerId, events: &[KvEvent], end: Time) {
        if let Self::Kv(router, _) = self {
            router.report(worker, events, end);
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
            let router = KvRouting::new(&options.router.kv, config, seed, options.record_routing);
            Routing::Kv(Box::new(router), FxHashMap::default())
        } else {
            Routing::Policy(routing::policy(&options.router, block_size, seed))
        };
        // Decode routers do not look at caches.
        let kv_events = matches!(routing, Routing::Kv(..)) && config.role != Role::Decode;
        let candidate = |worker| Candidate { worker: WorkerId(worker), in_flight: 0 };
        let tracing = EngineTracing {
            kv_events: options.tracing.kv_events || kv_events,
            stretches: !(options.plain || routing.counts_tokens()),
            ..options.tracing
        };
        let mut pool = Self {
            name: config.name.clone(),
            role: config.role,
            workers: config.engines().map(|engine| Worker::new(engine.clone(), tracing)).collect(),
            tracing,
            candidates: (0..).zip(config.engines()).map(|(worker, _)| candidate(worker)).collect(),
            kinds: config.groups.iter().map(|group| group.engine.clone()).collect(),
            always_watched: options.plain || routing.counts_tokens(),
            routing,
            lagging: BinaryHeap::new(),
            some_lag: false,
        };
        if let Routing::Policy(policy) = &mut pool.routing {
            policy.workers_changed(&pool.candidates);
        }
        pool
    }

    /// Lets workers, to which nothing has come yet, decide and tell of each iteration by itself, and when it ends.
    pub(crate) fn tell_each_iteration(&mut self) {
        self.always_watched = true;
        self.tracing.stretches = false;
        for worker in &mut self.workers {
            *worker = Worker::new(worker.engine.config().clone(), self.tracing);
        }
    }

    /// Puts another policy in front of it.
    pub(crate) fn set_policy(&mut self, mut policy: Box<dyn Pick>, names: &Arc<ContentNames>) {
        policy.workers_changed(&self.candidates);
        policy.name_contents(names);
        self.routing = Routing::Policy(policy);
    }

    /// Says what the content of prompts is called.
    pub(crate) fn name_contents(&mut self, names: &Arc<ContentNames>) {
        if let Routing::Policy(policy) = &mut self.routing {
            policy.name_contents(names);
        }
    }

    /// Why none of its workers can ever serve a prompt of so many tokens, if that is so.
    pub(crate) fn check_request(&self, tokens: u32) -> Result<(), Rejection> {
        let mut checks = self.kinds.iter().map(|kind| kind.check_request(tokens));
        let first = checks.next().unwrap_or(Ok(()));
        if first.is_ok() || checks.any(|check| check.is_ok()) { Ok(()) } else { first }
    }

    /// The workers that can serve a prompt of so many tokens, if not all of them can.
    fn some_workers(&self, tokens: u32) -> Option<Vec<WorkerId>> {
        if self.kinds.len() == 1 || self.kinds.iter().all(|kind| kind.check_request(tokens).is_ok()) {
            return None;
        }
        let fits = |worker: &Worker| worker.engine.config().check_request(tokens).is_ok();
        let workers = (0..).map(WorkerId).zip(&self.workers);
        Some(workers.filter(|(_, worker)| fits(worker)).map(|(number, _)| number).collect())
    }

    /// Takes a request in and chooses its worker, unless it has to wait; `forced` overrules the choice.
    pub(crate) fn route(
        &mut self,
        request: EngineRequest,
        forced: Option<WorkerId>,
        now: Time,
    ) -> Dispatches {
        let some = self.some_workers(request.prompt.tokens());
        let forced = forced.filter(|worker| some.as_ref().is_none_or(|some| some.contains(worker)));
        match &mut self.routing {
            Routing::Policy(policy) => {
                let picked = match some {
                    None => self.candidates[policy.pick(&request.prompt, &self.candidates)].worker,
                    Some(workers) => {
                        let of = |worker: &WorkerId| self.candidates[worker.index()];
                        let some: Vec<Candidate> = workers.iter().map(of).collect();
                        some[policy.pick(&request.prompt, &some)].worker
                    }
                };
                let worker = forced.unwrap_or(picked);
                self.candidates[worker.index()].in_flight += 1;
                smallvec![Dispatch { request, worker, arrived: now, admission: None }]
            }
            Routing::Kv(router, parked) => {
                let mut description = router.describe(&request);
                description.allowed = some.map(|workers| workers.iter().map(|worker| worker.0).collect());
                parked.insert(request.id, (request, now));
                let admitted = router.route(description, forced, now);
                self.unpark(admitted)
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
        self.candidates[worker.index()].in_flight -= 1;
        if let Routing::Kv(router, _) = &mut self.routing {
            router.finish(request, worker, now);
        }
        self.release_parked()
    }

    /// Forgets a request that the router has parked; returns those that go to a worker in its place.
    pub(crate) fn withdraw_parked(&mut self, request: RequestId, now: Time) -> Dispatches {
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

    fn unpark(&mut self, admitted: Vec<Admission>) -> Dispatches {
        let Routing::Kv(_, parked) = &mut self.routing else { return Dispatches::new() };
        let mut dispatches = Dispatches::new();
        for admission in admitted {
            let (request, arrived) =
                parked.remove(&admission.ticket.id).expect("an admitted request was parked");
            let worker = admission.ticket.rank.worker;
            self.candidates[worker.index()].in_flight += 1;
            dispatches.push(Dispatch { request, worker, arrived, admission: Some(admission) });
        }
        dispatches
    }
}
