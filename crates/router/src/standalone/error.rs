//! Why a standalone router refuses a call.

use servecast_types::Role;

use super::{WorkerInfo, WorkerRank, WorkerRole};
use crate::wire::WireError;
use crate::{EventError, RouteError};

/// Why a standalone router refused a call. Nothing has changed then, but for KV events, which say what was applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StandaloneError {
    /// A worker that is not registered.
    #[error("worker {worker_id} is not registered")]
    UnknownWorker {
        /// The worker.
        worker_id: u64,
    },
    /// A rank that its worker does not have.
    #[error("worker {} has the ranks {first} to {last}, not {}", .rank.worker_id, .rank.dp_rank)]
    UnknownRank {
        /// The rank.
        rank: WorkerRank,
        /// The first rank of the worker.
        first: u32,
        /// The last.
        last: u32,
    },
    /// A worker that serves other phases, or is registered again as something else.
    #[error("worker {worker_id} is a {role} worker: {problem}")]
    Role {
        /// The worker.
        worker_id: u64,
        /// What it is.
        role: WorkerRole,
        /// What does not go with that.
        problem: &'static str,
    },
    /// A worker without ranks, or with more than there can be.
    #[error(
        "worker {worker_id} has {dp_size} ranks from {dp_rank_start}: expected 1 to {}, up to number {}",
        WorkerInfo::MAX_DP_SIZE,
        u32::MAX - 1
    )]
    Ranks {
        /// The worker.
        worker_id: u64,
        /// Its first rank.
        dp_rank_start: u32,
        /// How many were given.
        dp_size: u32,
    },
    /// Nobody serves the phase.
    #[error("request `{id}`: no {} worker {}", WorkerRole::serving(*.phase), if *.restricted { "among those that it allows is registered" } else { "is registered" })]
    NoWorkers {
        /// The request.
        id: String,
        /// Its phase.
        phase: Role,
        /// Whether it allows only some workers.
        restricted: bool,
    },
    /// The request waits or is booked in this phase.
    #[error("request `{id}` is routed already in the {phase} phase: free it before its id is used again")]
    DuplicateRequest {
        /// The request.
        id: String,
        /// The phase.
        phase: Role,
    },
    /// The request is booked nowhere.
    #[error("request `{id}` is not booked on any worker{}", if *.waits { ": it waits for one" } else { "" })]
    UnknownRequest {
        /// The request.
        id: String,
        /// Whether it waits.
        waits: bool,
    },
    /// A request that contradicts itself.
    #[error("request `{id}`: {problem}")]
    Request {
        /// The request.
        id: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Tokens and names of a KV event that do not fit each other.
    #[error("{names} names for {full_blocks} full blocks of {block_size} tokens: give one for each")]
    UnevenNames {
        /// Names given.
        names: usize,
        /// Blocks that the tokens fill.
        full_blocks: usize,
        /// Tokens a block.
        block_size: u32,
    },
    /// A KV event that was not applied, or only in part. Engines and routers part now and then; the index stays
    /// consistent.
    #[error("KV event of worker {} rank {}: {source}", .rank.worker_id, .rank.dp_rank)]
    Event {
        /// Where it comes from.
        rank: WorkerRank,
        /// What was not applied.
        source: EventError,
    },
    /// Text that is no KV event.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl StandaloneError {
    /// What a router said about a request, with the request's own name.
    pub(super) fn of_request(id: &str, phase: Role, restricted: bool, error: RouteError) -> Self {
        let id = id.to_owned();
        let request = |id, problem: String| Self::Request { id, problem };
        match error {
            RouteError::NoRanks { .. } | RouteError::PinMissing { .. } => {
                Self::NoWorkers { id, phase, restricted }
            }
            RouteError::Duplicate { .. } => Self::DuplicateRequest { id, phase },
            RouteError::Unknown { .. } => Self::UnknownRequest { id, waits: false },
            RouteError::PinNotAllowed { .. } => {
                request(id, "it is pinned to a worker that it does not allow".to_owned())
            }
            RouteError::Override { source, .. } => request(id, source.to_string()),
            RouteError::TooManyBlocks { found, isl_tokens, most, block_size, .. } => request(
                id,
                format!(
                    "{found} block hashes, but {isl_tokens} tokens hold only {most} blocks of {block_size}"
                ),
            ),
            other => request(id, other.to_string()),
        }
    }
}
