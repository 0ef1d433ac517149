//! One JSON line a decision of the KV router.

use serde::Serialize;
use servecast_cluster::Routed;
use servecast_router::{CandidateTerms, EffectiveSettings};
use servecast_types::Role;

/// Requests are numbered in order of arrival, as in the rows of requests.
#[derive(Serialize)]
pub struct Row {
    pool: Role,
    request: u32,
    worker: u32,
    /// When the request came to the pool.
    arrived_ms: f64,
    /// When it was sent to the worker.
    at_ms: f64,
    queue_wait_ms: f64,
    isl_tokens: u32,
    /// Blocks of the prompt that the router takes the worker to have.
    overlap_blocks: u32,
    required_blocks: u32,
    settings: EffectiveSettings,
    /// Every worker of the pool, in order.
    candidates: Vec<Candidate>,
}

/// How a worker was judged, with the request on it.
#[derive(Serialize)]
struct Candidate {
    worker: u32,
    overlap_blocks: u32,
    prefill_tokens: u64,
    prefill_blocks: f64,
    decode_blocks: u64,
    cost: f64,
    tree_size: u32,
}

impl Row {
    /// The row of a decision.
    pub fn new(routed: &Routed) -> Self {
        let Routed { pool, arrived, at, admission } = routed;
        let ticket = &admission.ticket;
        Self {
            pool: *pool,
            request: ticket.id.0,
            worker: ticket.rank.worker.0,
            arrived_ms: arrived.as_ms(),
            at_ms: at.as_ms(),
            queue_wait_ms: admission.queue_wait.as_ms(),
            isl_tokens: ticket.isl_tokens,
            overlap_blocks: ticket.overlap_blocks,
            required_blocks: ticket.required_blocks,
            settings: ticket.settings,
            candidates: admission.terms.iter().map(Candidate::new).collect(),
        }
    }
}

impl Candidate {
    fn new(terms: &CandidateTerms) -> Self {
        Self {
            worker: terms.rank.worker.0,
            overlap_blocks: terms.overlap_blocks,
            prefill_tokens: terms.prefill_tokens,
            prefill_blocks: terms.prefill_blocks,
            decode_blocks: terms.decode_blocks,
            cost: terms.cost,
            tree_size: terms.tree_size,
        }
    }
}
