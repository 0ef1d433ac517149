//! What a deployment consists of ([`Topology`]) and how it is simulated ([`SimulationOptions`]).

use servecast_engine::{EngineArgs, EngineConfig, EngineTracing};
use servecast_latency::Host;
use servecast_types::Role;

use crate::handoff::Handoff;
use crate::route::Route;
use crate::routing::RouterOptions;
use crate::{ClusterError, LoadMode};

/// Most workers of a pool.
pub const MAX_WORKERS: u32 = 100_000;

/// A pool of workers.
#[derive(Debug, Clone)]
pub(crate) struct PoolConfig {
    /// What it is called; no other pool is.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) role: Role,
    /// Its workers, in order of their numbers; there is one group at least.
    pub(crate) groups: Vec<WorkerGroup>,
}

/// Equal workers of a pool.
#[derive(Debug, Clone)]
pub(crate) struct WorkerGroup {
    /// How many.
    pub(crate) workers: u32,
    /// Each of them.
    pub(crate) engine: EngineConfig,
}

impl PoolConfig {
    /// The engine of each worker.
    pub(crate) fn engines(&self) -> impl Iterator<Item = &EngineConfig> + Clone {
        self.groups.iter().flat_map(|group| (0..group.workers).map(|_| &group.engine))
    }

    /// Tokens of a KV block, of all workers.
    pub(crate) fn block_size(&self) -> u32 {
        self.groups[0].engine.block_size()
    }
}

/// The pools of a deployment, and the way of a request through them.
#[derive(Debug, Clone)]
pub struct Topology {
    /// By number.
    pub(crate) pools: Vec<PoolConfig>,
    /// The pool of each stage of a request.
    pub(crate) route: Route,
    /// From one stage to the next, where there are two.
    pub(crate) handoff: Option<Handoff>,
    /// Whether a request comes to both pools at once: SGLang's own hand-over.
    pub(crate) paired: bool,
}

/// The engine of a pool: its settings as given, and checked.
#[derive(Debug, Clone, Copy)]
pub struct PoolEngine<'a> {
    /// How many workers.
    pub workers: u32,
    /// The settings.
    pub args: &'a EngineArgs,
    /// The same settings, checked.
    pub config: &'a EngineConfig,
}

/// A pool of workers of one kind or of several.
#[derive(Debug, Clone)]
pub struct PoolSpec<'a> {
    /// What it is called; no other pool is.
    pub name: &'a str,
    /// What it is for.
    pub role: Role,
    /// Its groups of equal workers, in order of their numbers; at least one.
    pub groups: Vec<PoolEngine<'a>>,
}

impl<'a> PoolSpec<'a> {
    /// A pool that is called by its role.
    pub fn of(role: Role, groups: &[PoolEngine<'a>]) -> Self {
        Self { name: role.name(), role, groups: groups.to_vec() }
    }
}

impl Topology {
    /// One pool whose workers do prompt and output.
    pub fn aggregated(engine: PoolEngine<'_>) -> Result<Self, ClusterError> {
        Self::mixed(&[engine])
    }

    /// One pool of several groups of workers that do prompt and output: different GPUs, or settings.
    pub fn mixed(engines: &[PoolEngine<'_>]) -> Result<Self, ClusterError> {
        Self::new(&[PoolSpec::of(Role::Aggregated, engines)])
    }

    /// A pool for prompts, a pool for output, and a hand-off between them.
    pub fn disaggregated(prefill: PoolEngine<'_>, decode: PoolEngine<'_>) -> Result<Self, ClusterError> {
        Self::new(&[PoolSpec::of(Role::Prefill, &[prefill]), PoolSpec::of(Role::Decode, &[decode])])
    }

    /// One pool that does prompt and output, or one for prompts and one for output, which requests meet in that order.
    ///
    /// All workers have the same `block_size`, by which routers know what is cached and KV is handed over; those of a pool
    /// have the same front end, which a request passes before its worker is chosen; and a hand-off costs the same between
    /// all of them.
    pub fn new(specs: &[PoolSpec<'_>]) -> Result<Self, ClusterError> {
        let roles: Vec<Role> = specs.iter().map(|spec| spec.role).collect();
        let (route, handoff) = match specs {
            [_] if roles == [Role::Aggregated] => (Route::through(1), None),
            [prefill, decode] if roles == [Role::Prefill, Role::Decode] => {
                let sizes =
                    [prefill, decode].map(|pool| pool.groups.first().map(|group| group.config.block_size()));
                if let [Some(prefill), Some(decode)] = sizes
                    && prefill != decode
                {
                    return Err(ClusterError::BlockSize { prefill, decode });
                }
                (Route::through(2), handoff(prefill, decode)?)
            }
            _ => return Err(ClusterError::NoRoute { roles }),
        };
        let pools: Vec<PoolConfig> = specs.iter().map(pool).collect::<Result<_, _>>()?;
        if let [one, other] = &pools[..]
            && one.name == other.name
        {
            return Err(ClusterError::PoolName { name: one.name.clone() });
        }
        let paired = is_paired(&pools)?;
        Ok(Self { pools, route, handoff, paired })
    }

    /// The pool whose tokens reach users.
    pub(crate) fn last_pool(&self) -> &PoolConfig {
        &self.pools[self.route.last().index()]
    }

    /// Whether a request comes to a worker of each pool at once, which hand it over as SGLang's do: the decode worker reserves
    /// memory for the prompt before that is computed.
    pub fn is_paired(&self) -> bool {
        self.paired
    }

    /// The host of the first pool, which requests come to.
    pub fn front_host(&self) -> Host {
        self.pools[self.route.first().index()].groups[0].engine.host()
    }

    /// Role, number of workers and engine of each group of workers, in the order in which a request meets them.
    pub fn groups(&self) -> impl Iterator<Item = (Role, u32, &EngineConfig)> {
        let groups = self.pools.iter().flat_map(move |pool| {
            let role = pool.role;
            pool.groups.iter().map(move |group| (role, group))
        });
        groups.map(|(role, group)| (role, group.workers, &group.engine))
    }
}

/// Whether requests are handed over as SGLang does, by queues of its own; an error unless all workers do so, or none.
fn is_paired(pools: &[PoolConfig]) -> Result<bool, ClusterError> {
    for pool in pools {
        let others = pool.groups.iter().filter_map(|group| group.engine.paired_stage());
        if let Some(found) = others.into_iter().find(|&stage| stage != pool.role) {
            return Err(ClusterError::WrongSide { pool: pool.role, found });
        }
    }
    let groups = || pools.iter().flat_map(|pool| pool.groups.iter().map(move |group| (pool.role, group)));
    let takes_part = |(_, group): &(Role, &WorkerGroup)| group.engine.paired_stage().is_some();
    match (groups().find(takes_part), groups().find(|group| !takes_part(group))) {
        (Some((pool, _)), Some((without, _))) => Err(ClusterError::OneSide { pool, without }),
        (paired, _) => Ok(paired.is_some()),
    }
}

/// What a hand-off costs, between whichever workers.
fn handoff(prefill: &PoolSpec<'_>, decode: &PoolSpec<'_>) -> Result<Option<Handoff>, ClusterError> {
    let pairs = prefill.groups.iter().flat_map(|one| decode.groups.iter().map(move |other| (one, other)));
    let mut handoffs = pairs.map(|(one, other)| Handoff::new(one.args, other.args));
    let first = handoffs.next().transpose()?;
    for other in handoffs {
        if Some(other?) != first {
            return Err(ClusterError::MixedHandoffs);
        }
    }
    Ok(first)
}

fn pool(spec: &PoolSpec<'_>) -> Result<PoolConfig, ClusterError> {
    let (role, engines) = (spec.role, &spec.groups);
    let key = match role {
        Role::Aggregated => "num_workers",
        Role::Prefill => "num_prefill_workers",
        Role::Decode => "num_decode_workers",
    };
    let workers = engines.iter().fold(0, |sum: u32, engine| sum.saturating_add(engine.workers));
    if workers == 0 || engines.iter().any(|engine| engine.workers == 0) {
        return Err(ClusterError::NoWorkers { key });
    }
    if workers > MAX_WORKERS {
        return Err(ClusterError::TooManyWorkers { key, workers, most: MAX_WORKERS });
    }
    let first = engines[0].config;
    for PoolEngine { config, .. } in engines {
        if let Some(found) = config.worker_type().filter(|&found| found != role) {
            return Err(ClusterError::WorkerType { pool: role, found });
        }
        let sizes = [first.block_size(), config.block_size()];
        if sizes[0] != sizes[1] {
            return Err(ClusterError::MixedBlockSizes { sizes });
        }
        let (one, other) = (first.host(), config.host());
        if (one.front_end_us, one.front_end_us_per_1k_prompt_tokens)
            != (other.front_end_us, other.front_end_us_per_1k_prompt_tokens)
        {
            return Err(ClusterError::MixedFrontEnds);
        }
    }
    let group =
        |engine: &PoolEngine<'_>| WorkerGroup { workers: engine.workers, engine: engine.config.clone() };
    Ok(PoolConfig { name: spec.name.to_owned(), role, groups: engines.iter().map(group).collect() })
}

/// How a deployment is simulated.
#[derive(Debug, Clone)]
pub struct SimulationOptions {
    /// How requests enter.
    pub load: LoadMode,
    /// Which worker gets them.
    pub router: RouterOptions,
    /// Root of all random numbers of the deployment.
    pub seed: u64,
    /// Check invariants along the way, and end with [`RunError::Invariant`](crate::RunError::Invariant) if one is
    /// broken.
    pub check: bool,
    /// Tell the observer of every decision of a KV-aware router.
    pub record_routing: bool,
    /// What engines record for the observer.
    pub tracing: EngineTracing,
    /// Keep the records of requests that have ended, for a report. Without them a run may last for ever: what it takes
    /// depends on the requests that are under way.
    pub keep_ended: bool,
    /// For tests: decide each iteration request by request, and let no worker lag. Otherwise requests that decode are taken
    /// together, and workers catch up when it matters, at a fraction of the cost and with the same results. What an
    /// observer is told of is for it to say ([`Observer::detail`](crate::Observer::detail)).
    pub plain: bool,
}

impl Default for SimulationOptions {
    fn default() -> Self {
        Self {
            load: LoadMode::OpenLoop,
            router: RouterOptions::default(),
            seed: 42,
            check: false,
            record_routing: false,
            tracing: EngineTracing::default(),
            keep_ended: true,
            plain: false,
        }
    }
}
