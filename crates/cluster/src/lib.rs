//! A whole serving deployment as a state machine with explicit time, and its virtual-clock driver.
//!
//! ```text
//!  sessions ──▶  source   ──▶ pool 0 ──hand-off──▶ pool 1 ──▶ recorder
//!               open / closed  router + engines     (decode)
//! ```
//!
//! Aggregated serving is one pool; disaggregated serving is a prefill and a decode pool with a hand-off between them.
//! There is one event loop for both. Within one instant the order is: iteration ends (of those that began earlier
//! first), transfer ends, arrivals, then engines that can start. A worker on whose iterations nobody acts lags behind
//! the loop and catches up when it matters (`cluster/lag.rs`).
//!
//! **Invariant:** no files, no clock, no threads; the same input gives the same records.

mod check;
mod cluster;
mod config;
mod control;
mod delivery;
mod drive;
mod error;
mod handoff;
mod links;
mod livelock;
mod observer;
mod ordered;
mod pool;
mod recorder;
mod replay;
mod route;
mod routing;
mod simulate;
mod sink;
mod stamped;
mod streamed;
mod tokens;
mod worker;

pub use cluster::{Cluster, Routed};
pub use config::{MAX_WORKERS, PoolEngine, PoolSpec, SimulationOptions, Topology};
pub use control::{ChangeError, Control, WorkerChange, WorkerState, WorkerView};
pub use delivery::Delivery;
pub use drive::{
    Arrival, Clock, NewRequest, Placement, Source, Timer, VirtualClock, WallClock, Watches, drive, drive_with,
};
pub use error::{ClusterError, RunError};
pub use observer::{CaughtUp, Detail, Observer};
pub use ordered::Ordered;
pub use replay::{LoadMode, Replay};
pub use routing::{
    Candidate, CandidateLoad, DEFAULT_PREFIX_HASH_BLOCKS, KvRouterOptions, Pick, RoutedRequest, RouterMode,
    RouterOptions,
};
pub use simulate::Simulation;
pub use stamped::Stamp;
pub use tokens::{TokenLog, WithTokens};
