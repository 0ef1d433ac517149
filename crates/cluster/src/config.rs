use servecast_engine::{EngineArgs, EngineConfig, EngineTracing};
use servecast_latency::Host;
use servecast_types::Role;

use crate::handoff::Handoff;
use crate::routing::RouterOptions;
use crate::{ClusterError, LoadMode};

/// Most workers of a pool.
pub const MAX_WORKERS: u32 = 100_000;

/// A pool of equal workers.
#[derive(Debug, Clone)]
pub(crate) struct PoolConfig {
    /// What it is for.
    pub(crate) role: Role,
    /// How many workers it has.
    pub(crate) workers: u32,
    /// Each of them.
    pub(crate) engine: EngineConfig,
}

/// The pools of a deployment.
#[derive(Debug, Clone)]
pub struct Topology {
    /// In the order in which a request meets them.
    pub(crate) pools: Vec<PoolConfig>,
    /// From the first pool to the second.
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
        let pool = pool(Role::Aggregated, "num_workers", engine)?;
        Ok(Self { pools: vec![pool], handoff: None })
    }

    /// A pool for prompts, a pool for output, and a hand-off between them.
    pub fn disaggregated(prefill: PoolEngine<'_>, decode: PoolEngine<'_>) -> Result<Self, ClusterError> {
        let (prefill_size, decode_size) = (prefill.config.block_size(), decode.config.block_size());
        if prefill_size != decode_size {
            return Err(ClusterError::BlockSize { prefill: prefill_size, decode: decode_size });
        }
        let handoff = Handoff::new(prefill.args, decode.args)?;
        let pools = vec![
            pool(Role::Prefill, "num_prefill_workers", prefill)?,
            pool(Role::Decode, "num_decode_workers", decode)?,
        ];
        Ok(Self { pools, handoff: Some(handoff) })
    }

    /// The host of the first pool, which requests come to.
    pub(crate) fn front_host(&self) -> Host {
        self.pools.first().map_or(Host::NONE, |pool| pool.engine.host())
    }
}

impl Topology {
    /// Each pool's role, number of workers and engine, in the order in which a request meets them.
    pub fn pools(&self) -> impl Iterator<Item = (Role, u32, &EngineConfig)> {
        self.pools.iter().map(|pool| (pool.role, pool.workers, &pool.engine))
    }
}

fn pool(role: Role, key: &'static str, engine: PoolEngine<'_>) -> Result<PoolConfig, ClusterError> {
    let PoolEngine { workers, config, .. } = engine;
    if workers == 0 {
        return Err(ClusterError::NoWorkers { key });
    }
    if workers > MAX_WORKERS {
        return Err(ClusterError::TooManyWorkers { key, workers, most: MAX_WORKERS });
    }
    match config.worker_type() {
        Some(found) if found != role => Err(ClusterError::WorkerType { pool: role, found }),
        _ => Ok(PoolConfig { role, workers, engine: config.clone() }),
    }
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
