//! What is asked of a standalone router, and what it answers.

use std::sync::Arc;

use serde::Serialize;
use servecast_types::hash::Salt;
use servecast_types::{BlockHash, RequestId, Role, SequenceHash};

use super::{StandaloneError, WorkerRole};
use crate::{EffectiveSettings, RouteError, RouterConfigOverride, RoutingRequest, Stage};

/// One data-parallel rank of a worker, by the ids that its deployment uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct WorkerRank {
    /// The worker.
    pub worker_id: u64,
    /// Its data-parallel rank.
    pub dp_rank: u32,
}

/// What a standalone router has to know about a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerInfo {
    /// What it does.
    pub role: WorkerRole,
    /// The first of its data-parallel ranks.
    pub dp_rank_start: u32,
    /// How many ranks it has, from 1 to [`WorkerInfo::MAX_DP_SIZE`].
    pub dp_size: u32,
    /// Tokens that its engine computes in an iteration at most, which is the unit of `router_queue_threshold`;
    /// without it the worker is never busy in practice.
    pub max_num_batched_tokens: Option<u32>,
}

impl WorkerInfo {
    /// More ranks than any engine has: a number beyond it is a mistake.
    pub const MAX_DP_SIZE: u32 = 4096;

    /// A worker of one rank.
    pub const fn new(role: WorkerRole) -> Self {
        Self { role, dp_rank_start: 0, dp_size: 1, max_num_batched_tokens: None }
    }

    pub(super) fn dp_ranks(&self) -> std::ops::Range<u32> {
        self.dp_rank_start..self.dp_rank_start + self.dp_size
    }
}

/// A prompt as the router sees it: its length and the hashes of its full blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptBlocks {
    isl_tokens: u32,
    blocks: Arc<[SequenceHash]>,
    block_hashes: Option<Arc<[BlockHash]>>,
    full_blocks: Option<u32>,
}

impl PromptBlocks {
    /// A prompt of token ids, hashed as engines and routers do on the wire; of more than `u32::MAX` tokens the rest is
    /// left out.
    pub fn from_tokens(tokens: &[u32], block_size: u32, salt: Salt<'_>) -> Self {
        Self::of(RoutingRequest::from_tokens(RequestId(0), tokens, block_size, salt))
    }

    /// A prompt to an engine with EAGLE drafting, whose blocks look one token ahead.
    pub fn from_eagle_tokens(tokens: &[u32], block_size: u32, salt: Salt<'_>) -> Self {
        Self::of(RoutingRequest::from_eagle_tokens(RequestId(0), tokens, block_size, salt))
    }

    /// A prompt whose blocks were hashed by the caller: by content (`block_hashes`), from which the identities of
    /// prefixes are chained.
    pub fn from_block_hashes(isl_tokens: u32, block_hashes: &[BlockHash]) -> Self {
        Self {
            isl_tokens,
            blocks: servecast_types::hash::sequence_hashes(block_hashes).into(),
            block_hashes: Some(block_hashes.into()),
            full_blocks: None,
        }
    }

    fn of(request: RoutingRequest) -> Self {
        let RoutingRequest { isl_tokens, blocks, block_hashes, full_blocks, .. } = request;
        Self { isl_tokens, blocks, block_hashes, full_blocks }
    }

    /// Prompt length in tokens.
    pub fn isl_tokens(&self) -> u32 {
        self.isl_tokens
    }
}

/// A request to be routed in one phase.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseRequest {
    /// What its caller calls it; unique within a phase among requests that wait or are booked.
    pub id: String,
    /// Which part of it is to be routed: all of it for one worker, its prefill or its decode. For the decode
    /// [`RouterConfigOverride::DECODE_STAGE`] holds, from selection to booking, and for no other part.
    pub phase: Role,
    /// Its prompt.
    pub prompt: PromptBlocks,
    /// How long the output is expected to be, in tokens: generated blocks weigh less towards its end.
    pub expected_output_tokens: Option<u32>,
    /// Settings of this request; those of the decode phase win.
    pub overrides: RouterConfigOverride,
    /// The rank that must serve it.
    pub pinned: Option<WorkerRank>,
    /// The workers that may serve it; all if absent. Those that are not registered, or serve other phases, cannot.
    pub allowed: Option<Vec<u64>>,
    /// Seconds by which it counts as earlier (or later, or heavier) in the queue; negative ones count as 0.
    pub priority_jump: f64,
}

impl PhaseRequest {
    /// A request without wishes of its own.
    pub fn new(id: impl Into<String>, phase: Role, prompt: PromptBlocks) -> Self {
        Self {
            id: id.into(),
            phase,
            prompt,
            expected_output_tokens: None,
            overrides: RouterConfigOverride::default(),
            pinned: None,
            allowed: None,
            priority_jump: 0.0,
        }
    }

    pub(super) fn routing(&self, id: RequestId) -> RoutingRequest {
        let PromptBlocks { isl_tokens, blocks, block_hashes, full_blocks } = &self.prompt;
        RoutingRequest {
            block_hashes: block_hashes.clone(),
            full_blocks: *full_blocks,
            expected_output_tokens: self.expected_output_tokens,
            overrides: self.overrides,
            stage: Stage::of(self.phase),
            priority_jump: self.priority_jump,
            ..RoutingRequest::new(id, *isl_tokens, Arc::clone(blocks))
        }
    }

    /// What its router said about it, with its own name.
    pub(super) fn refused(&self, error: RouteError) -> StandaloneError {
        StandaloneError::of_request(&self.id, self.phase, self.allowed.is_some(), error)
    }
}

/// A request in one phase, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PhaseId {
    /// What its caller calls it.
    #[serde(serialize_with = "as_text")]
    pub id: Arc<str>,
    /// The phase.
    pub phase: Role,
}

/// Where a request goes, and on which terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Selection {
    /// The request.
    #[serde(flatten)]
    pub request: PhaseId,
    /// The rank that was chosen for it.
    #[serde(flatten)]
    pub rank: WorkerRank,
    /// Leading blocks of the prompt that the rank has cached, as far as the index knows.
    pub overlap_blocks: u32,
    /// Blocks that the prompt needs, the partial one included.
    pub required_blocks: u32,
    /// Prompt tokens that count as outstanding prefill; 0 where they are not tracked.
    pub prefill_tokens: u32,
    /// Prompt blocks that count as active; 0 where they are not tracked.
    pub tracked_blocks: u32,
    /// The settings under which it was chosen, which booking uses as well.
    pub settings: EffectiveSettings,
    /// How long it waited in the queue, in ns.
    pub queue_wait_ns: u64,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Routed {
    /// It goes to a rank, booked there.
    Admitted(Selection),
    /// It waits until a rank has room, and is among the admitted requests of a later call.
    Queued {
        /// Requests that wait for the same ranks, this one among them.
        waiting: usize,
        /// Requests that were admitted in the same call.
        admitted: Vec<Selection>,
    },
}

/// The load that a rank would have with a request on it, and what that would cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WorkerLoad {
    /// The rank.
    #[serde(flatten)]
    pub rank: WorkerRank,
    /// Leading blocks of the prompt that it has cached.
    pub overlap_blocks: u32,
    /// Outstanding prefill tokens.
    pub prefill_tokens: u64,
    /// Active blocks.
    pub decode_blocks: u64,
    /// The cost; the lowest is chosen.
    pub cost: f64,
}

/// What a change of the workers did to requests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WorkersChanged {
    /// Requests that were booked on ranks that are gone. Later calls about them find nothing.
    pub forgotten: Vec<PhaseId>,
    /// Parked requests that no rank can serve any more. Later calls about them find nothing.
    pub refused: Vec<PhaseId>,
    /// Parked requests that were admitted.
    pub admitted: Vec<Selection>,
}

/// Blocks of a KV event, by their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBlocks<'a> {
    /// The engine's name of the block before the first one; none at the start of a sequence.
    pub parent: Option<SequenceHash>,
    /// The tokens; a partial block at their end is left out.
    pub tokens: &'a [u32],
    /// The engine's name of each full block, by which it will be removed. Absent, they are the chained hashes of
    /// [`servecast_types::hash::sequence_hashes`].
    pub names: Option<&'a [SequenceHash]>,
    /// Adapter and namespace.
    pub salt: Salt<'a>,
}
