//! What changes a deployment while it runs: an autoscaler, failures.

use servecast_types::{PoolId, Role, Time, WorkerId};

use crate::Cluster;
use crate::config::MAX_WORKERS;

/// Changes a deployment while it runs. The [driver](crate::drive_with) calls it.
///
/// When it acts, all workers are up to date, so it may look at them ([`Cluster::workers`]). What it asks for
/// ([`Cluster::add_worker`] and those beside it) takes effect when it is done, at that instant, before workers start what
/// comes next. A run ends when its source is over and no request is under way, whatever a control still has in mind.
///
/// ```
/// use servecast_cluster::{
///     Cluster, Control, LoadMode, PoolEngine, Replay, SimulationOptions, Topology, VirtualClock, WorkerState, drive_with,
/// };
/// use servecast_engine::EngineArgs;
/// use servecast_latency::Host;
/// use servecast_types::{Duration, Prompt, Run, Time};
/// use servecast_workload::{Session, Turn, TurnStart, Workload};
///
/// /// Every second adds a worker if more requests wait than there are workers; it serves after ten seconds.
/// struct Scaler {
///     next: Time,
/// }
///
/// impl Control for Scaler {
///     fn next(&self) -> Option<Time> {
///         Some(self.next)
///     }
///
///     fn act(&mut self, now: Time, cluster: &mut Cluster) {
///         let pool = cluster.pool("aggregated").unwrap();
///         let waiting: usize = cluster.workers(pool).map(|worker| worker.waiting).sum();
///         if waiting > cluster.workers(pool).count() {
///             cluster.add_worker(pool, 0, now + Duration::from_ns(10_000_000_000)).unwrap();
///         }
///         self.next = now + Duration::from_ns(1_000_000_000);
///     }
/// }
///
/// // 200 requests at once, of which a worker serves 16 at a time, each for 10 s.
/// let args = EngineArgs { max_num_seqs: Some(16), latency: Some("linear:100000,0,0".to_owned()), ..EngineArgs::default() };
/// let config = args.validate(None).unwrap();
/// let topology = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap();
/// let turn = |line| Turn {
///     line,
///     start: TurnStart::At(Time::ZERO),
///     prompt: Prompt::new([Run::tokens(1000 * line as u32, 100)]),
///     output_tokens: 100,
///     priority: 0,
///     stop_after: None,
///     output: None,
///     class: None,
///     lora: None,
///     grammar: None,
/// };
/// let sessions = (1..=200).map(|line| Session { turns: [turn(line)].into(), ..Session::default() }).collect();
/// let workload = Workload { sessions, ..Workload::default() };
/// let mut source = Replay::new(workload, LoadMode::OpenLoop, Host::NONE).unwrap();
///
/// let mut cluster = Cluster::new(&topology, &SimulationOptions::default());
/// let mut scaler = Scaler { next: Time::ZERO };
/// let end = drive_with(&mut cluster, &mut source, &mut VirtualClock, &mut scaler, &mut ()).unwrap();
///
/// let pool = cluster.pool("aggregated").unwrap();
/// assert!(cluster.workers(pool).any(|worker| worker.group == 0 && worker.state == WorkerState::Serving));
/// let record = cluster.finish(end).unwrap();
/// assert!(record.pools[0].workers.len() > 1);
/// assert!(record.requests.iter().all(|request| request.is_finished()));
/// ```
pub trait Control {
    /// When it acts next, as far as is known yet; after it has acted, that is later. As long as a request waits for a
    /// worker that never comes, a control that always wants to act again lets a run go on.
    fn next(&self) -> Option<Time>;

    /// Acts, at a time that it asked for or, where the clock is late, later.
    fn act(&mut self, now: Time, cluster: &mut Cluster);
}

/// A control that leaves everything as it is.
impl Control for () {
    fn next(&self) -> Option<Time> {
        None
    }

    fn act(&mut self, _now: Time, _cluster: &mut Cluster) {}
}

/// Where a worker is in its life.
///
/// ```text
///  add ──▶ Starting ──▶ Serving ──drain──▶ Draining ──▶ Gone
///             ▲            │                  │
///             └──restart── Down ◀────fail─────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// It takes requests from then on.
    Starting {
        /// When it is ready.
        until: Time,
    },
    /// It takes requests.
    Serving,
    /// It takes no more requests and ends those that it has.
    Draining,
    /// It has failed and lost what it had. It may be started again.
    Down {
        /// When it failed.
        since: Time,
    },
    /// It was drained and has ended its last request. Its number is not used again.
    Gone {
        /// When that was.
        since: Time,
    },
}

impl WorkerState {
    /// The name of the state.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Down { .. } => "down",
            Self::Gone { .. } => "gone",
        }
    }
}

/// A worker of a deployment, as a control sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerView {
    /// Its number within its pool.
    pub worker: WorkerId,
    /// The group of equal workers of the pool that it belongs to.
    pub group: usize,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Requests that run on it.
    pub running: usize,
    /// Requests that wait on it.
    pub waiting: usize,
}

/// A worker has come to another state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerChange {
    /// What its pool is for.
    pub pool: Role,
    /// Its number within its pool; a new one has the next.
    pub worker: WorkerId,
    /// The group of equal workers of the pool that it belongs to.
    pub group: usize,
    /// Where it is in its life from now on.
    pub state: WorkerState,
    /// When that came; an observer may hear of it later.
    pub at: Time,
}

/// Why a deployment cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// There is no such pool.
    #[error("there is no pool {pool}: the deployment has {pools}, numbered from 0")]
    Pool {
        /// The number.
        pool: PoolId,
        /// How many there are.
        pools: usize,
    },
    /// There is no such group of equal workers.
    #[error("the pool {pool} has no group {group}, but {groups}, numbered from 0")]
    Group {
        /// The name of the pool.
        pool: String,
        /// The number.
        group: usize,
        /// How many there are.
        groups: usize,
    },
    /// There is no such worker.
    #[error("the pool {pool} has no worker {worker}, but {workers}, numbered from 0")]
    Worker {
        /// The name of the pool.
        pool: String,
        /// The number.
        worker: WorkerId,
        /// How many there are, those that are gone among them.
        workers: usize,
    },
    /// The pool has had as many workers as can be.
    #[error("the pool {pool} has had {MAX_WORKERS} workers, which is the most")]
    TooManyWorkers {
        /// The name of the pool.
        pool: String,
    },
    /// The worker is not in a state for that.
    #[error("the {pool} worker {worker} is {}, so it cannot {what}", state.name())]
    State {
        /// The name of the pool.
        pool: String,
        /// The number.
        worker: WorkerId,
        /// Where it is in its life.
        state: WorkerState,
        /// What it was to do.
        what: &'static str,
    },
}
