//! What the router answers.

use std::sync::Arc;

use servecast_types::{Duration, Rank, RequestId, SequenceHash, Time};

use crate::EffectiveSettings;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It goes to a rank at once.
    Admit(Admission),
    /// It went into the queue.
    Queued(Queued),
}

/// A request that was put into the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Queued {
    /// Requests that wait in the same lane, this one among them unless it is in `released`.
    pub waiting: usize,
    /// Requests that left the queue in the same call, in this order, perhaps this one among them. Empty for a driver
    /// that calls [`crate::Router::advance`] when [`crate::Router::next_deadline`] is due.
    pub released: Vec<Admission>,
}

/// A request that has a rank, booked there.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// Where it goes and on which terms.
    pub ticket: Ticket,
    /// How long it waited in the queue.
    pub queue_wait: Duration,
    /// How every candidate was judged, in order of rank; empty unless [`crate::Router::record_terms`] asked for it.
    pub terms: Vec<CandidateTerms>,
}

/// The terms on which a rank was chosen. They are frozen at selection: booking used them, and whoever tells other
/// replicas should too, so that selection and bookkeeping cannot disagree.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// The request.
    pub id: RequestId,
    /// Its rank.
    pub rank: Rank,
    /// The settings under which it was chosen and booked.
    pub settings: EffectiveSettings,
    /// Prompt length in tokens.
    pub isl_tokens: u32,
    /// Blocks of the prompt that the rank has cached, as far as the index knows.
    pub overlap_blocks: u32,
    /// Blocks that the prompt needs, the partial one included.
    pub required_blocks: u32,
    /// Prompt tokens that were booked as outstanding prefill; 0 where they are not tracked.
    pub prefill_tokens: u32,
    /// How long their prefill is predicted to take, if there is a model for it.
    pub prefill_duration: Option<Duration>,
    /// The prompt blocks that were booked.
    pub blocks: TrackedBlocks,
    /// Expected output length in tokens.
    pub expected_output_tokens: Option<u32>,
    /// When it was admitted.
    pub admitted_at: Time,
}

/// Which blocks of a prompt the load model counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackedBlocks {
    /// None, since blocks are not tracked.
    None,
    /// So many that nobody shares.
    Private(u32),
    /// These, counted once for all requests that have them.
    Shared(Arc<[SequenceHash]>),
}

impl TrackedBlocks {
    /// How many.
    pub fn count(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Private(count) => *count,
            Self::Shared(blocks) => blocks.len() as u32,
        }
    }
}

/// How one candidate was judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CandidateTerms {
    /// The candidate.
    pub rank: Rank,
    /// Blocks of the prompt that it has cached.
    pub overlap_blocks: u32,
    /// Outstanding prefill tokens with this request on it.
    pub prefill_tokens: u64,
    /// The same in blocks, as it enters the cost: 0 where the request's prompt tokens are not tracked.
    pub prefill_blocks: f64,
    /// Active blocks with this request on it.
    pub decode_blocks: u64,
    /// The cost; lower is better.
    pub cost: f64,
    /// Distinct blocks that the index believes it to hold.
    pub tree_size: u32,
}

/// The load that a rank would have with a request on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PotentialLoad {
    /// The rank.
    pub rank: Rank,
    /// Outstanding prefill tokens.
    pub prefill_tokens: u64,
    /// Active blocks.
    pub decode_blocks: u64,
}

/// What a change of the ranks did to requests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RemovedRank {
    /// Requests that were booked on ranks that are gone, rank by rank in order of id. Later calls about them find nothing.
    pub forgotten: Vec<RequestId>,
    /// Parked requests that no rank can serve any more, in the order in which they came.
    pub refused: Vec<RequestId>,
    /// Parked requests that were admitted.
    pub admitted: Vec<Admission>,
}
