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
    pub(crate) fn engines(&self) -> impl Iterator<Item = &EngineConfig> {
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

impl Topology {
    /// One pool whose workers do prompt and output.
    pub fn aggregated(engine: PoolEngine<'_>) -> Result<Self, ClusterError> {
        Self::mixed(&[engine])
    }

    /// One pool of several groups of workers that do prompt and output: different GPUs, or settings.
    ///
    /// All have the same `block_size`, by which routers know what is cached, and the same front end, which a request
    /// passes before its worker is chosen.
    pub fn mixed(engines: &[PoolEngine<'_>]) -> Result<Self, ClusterError> {
        let pool = pool(Role::Aggregated, "num_workers", engines)?;
        Ok(Self { pools: vec![pool], route: Route::through(1), handoff: None })
    }

    /// A pool for prompts, a pool for output, and a hand-off between them.
    pub fn disaggregated(prefill: PoolEngine<'_>, decode: PoolEngine<'_>) -> Result<Self, ClusterError> {
        let (prefill_size, decode_size) = (prefill.config.block_size(), decode.config.block_size());
        if prefill_size != decode_size {
            return Err(ClusterError::BlockSize { prefill: prefill_size, decode: decode_size });
        }
        let handoff = Handoff::new(prefill.args, decode.args)?;
        let pools = vec![
            pool(Role::Prefill, "num_prefill_workers", &[prefill])?,
            pool(Role::Decode, "num_decode_workers", &[decode])?,
        ];
        Ok(Self { pools, route: Route::through(2), handoff: Some(handoff) })
    }

    /// The pool whose tokens reach users.
    pub(crate) fn last_pool(&self) -> &PoolConfig {
        &self.pools[self.route.last().index()]
    }

    /// The host of the first pool, which requests come to.
    pub(crate) fn front_host(&self) -> Host {
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

fn pool(role: Role, key: &'static str, engines: &[PoolEngine<'_>]) -> Result<PoolConfig, ClusterError> {
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
    Ok(PoolConfig { name: role.name().to_owned(), role, groups: engines.iter().map(group).collect() })
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
            plain: false,
        }
    }
}
