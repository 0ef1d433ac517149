//! What C sees: codes, phases and structures, under C's names.
#![allow(non_camel_case_types, reason = "these are C's names")]

use std::ffi::c_char;

/// What a call returns: negative for an error, of which servecast_last_error() has the message.
pub type servecast_status = i32;

/// Done.
pub const SERVECAST_OK: servecast_status = 0;
/// The request waits for room; servecast_router_poll() will have it.
pub const SERVECAST_QUEUED: servecast_status = 1;
/// There is nothing to poll.
pub const SERVECAST_EMPTY: servecast_status = 2;
/// A request that waited was given up, since no worker is left that could serve it.
pub const SERVECAST_REFUSED: servecast_status = 3;
/// A null pointer, a length that cannot be, a text that is not UTF-8, a request that contradicts itself.
pub const SERVECAST_ERR_INVALID_ARGUMENT: servecast_status = -1;
/// Settings that are unknown, out of range or exclude each other.
pub const SERVECAST_ERR_CONFIG: servecast_status = -2;
/// A worker or rank that is not registered.
pub const SERVECAST_ERR_UNKNOWN_WORKER: servecast_status = -3;
/// No worker can serve the request.
pub const SERVECAST_ERR_NO_WORKERS: servecast_status = -4;
/// A request of this id is booked or waits in this phase.
pub const SERVECAST_ERR_DUPLICATE_REQUEST: servecast_status = -5;
/// No request of this id is booked.
pub const SERVECAST_ERR_UNKNOWN_REQUEST: servecast_status = -6;
/// A KV event was not applied, or only in part. Never fatal: the index stays consistent.
pub const SERVECAST_ERR_EVENT: servecast_status = -7;
/// The buffer is too small; the length that is needed was written, and nothing else.
pub const SERVECAST_ERR_BUFFER_TOO_SMALL: servecast_status = -8;
/// A defect of the library. The router must not be used any more, but to destroy it.
pub const SERVECAST_ERR_INTERNAL: servecast_status = -9;

/// Which part of a request is routed.
pub type servecast_phase = u32;

/// All of it, on one decode worker.
pub const SERVECAST_PHASE_AGGREGATED: servecast_phase = 0;
/// The prefill of a disaggregated request, on a prefill worker.
pub const SERVECAST_PHASE_PREFILL: servecast_phase = 1;
/// The decode of a disaggregated request, on a decode worker. Only blocks count for it, in selection and in booking:
/// overlap weight 0, no reuse, no prompt tokens.
pub const SERVECAST_PHASE_DECODE: servecast_phase = 2;
/// Every phase; for servecast_router_free_request() only.
pub const SERVECAST_PHASE_ALL: servecast_phase = 3;

/// What a worker does.
pub type servecast_role = u32;

/// Serves whole requests, and decodes what was prefilled elsewhere.
pub const SERVECAST_ROLE_DECODE: servecast_role = 0;
/// Prefills for others.
pub const SERVECAST_ROLE_PREFILL: servecast_role = 1;

/// For every `now_ns`: nanoseconds of a monotonic clock since the router was created. Other values are nanoseconds
/// since any fixed moment, of the caller's choice; a router is given either the one or the other.
pub const SERVECAST_NOW: u64 = u64::MAX;

/// For the flags of a request: its engine drafts with EAGLE, so its blocks look one token ahead.
pub const SERVECAST_REQUEST_EAGLE: u32 = 1;

/// A data-parallel rank of a worker.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct servecast_worker_rank {
    /// The worker.
    pub worker_id: u64,
    /// Its rank; 0 without data parallelism.
    pub dp_rank: u32,
}

/// What a router has to know about a worker.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct servecast_worker_info {
    /// SERVECAST_ROLE_DECODE or SERVECAST_ROLE_PREFILL.
    pub role: servecast_role,
    /// The first of its data-parallel ranks.
    pub dp_rank_start: u32,
    /// How many it has, from 1 to 4096; 0 counts as 1.
    pub dp_size: u32,
    /// Tokens that its engine computes in an iteration at most, the unit of router_queue_threshold; 0 if unknown, and
    /// then it is never busy in practice.
    pub max_num_batched_tokens: u32,
}

/// A request to be routed. Zero bytes are the default of every field but the id.
///
/// The prompt is given by its tokens, or by the hashes of its full blocks (servecast_block_hashes()) and its length.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct servecast_request {
    /// What the caller calls it: text, not empty, unique within a phase until it is freed.
    pub id: *const c_char,
    /// Which part of it is routed.
    pub phase: servecast_phase,
    /// 0 or SERVECAST_REQUEST_EAGLE.
    pub flags: u32,
    /// Token ids of the prompt.
    pub tokens: *const u32,
    /// How many.
    pub num_tokens: usize,
    /// Instead of tokens: hashes of the contents of the prompt's full blocks.
    pub block_hashes: *const u64,
    /// How many.
    pub num_block_hashes: usize,
    /// Prompt length in tokens, where no tokens are given.
    pub isl_tokens: u32,
    /// How many tokens the output is expected to have; 0 if unknown.
    pub expected_output_tokens: u32,
    /// Name of the LoRA adapter, for prompts by tokens; null for none.
    pub lora_name: *const c_char,
    /// Cache namespace, for prompts by tokens; null for the common one.
    pub cache_namespace: *const c_char,
    /// Settings of this request as JSON, such as {"router_temperature": 0.5}; null for none.
    pub overrides_json: *const c_char,
    /// The rank that must serve it; null for any.
    pub pinned: *const servecast_worker_rank,
    /// The workers that may serve it; null for all.
    pub allowed_workers: *const u64,
    /// How many.
    pub num_allowed_workers: usize,
    /// Seconds by which it counts as earlier in the queue; negative ones count as 0.
    pub priority_jump: f64,
}

/// Where a request goes, and on which terms.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct servecast_selection {
    /// The worker.
    pub worker_id: u64,
    /// Its data-parallel rank.
    pub dp_rank: u32,
    /// The phase.
    pub phase: servecast_phase,
    /// Leading blocks of the prompt that the rank has cached, as far as the router knows.
    pub overlap_blocks: u32,
    /// Blocks that the prompt needs, the partial one included.
    pub required_blocks: u32,
    /// Prompt tokens that count as outstanding prefill; 0 where they are not tracked.
    pub prefill_tokens: u32,
    /// Prompt blocks that count as active; 0 where they are not tracked.
    pub tracked_blocks: u32,
    /// How long the request waited.
    pub queue_wait_ns: u64,
    /// The overlap weight that was used.
    pub overlap_score_weight: f64,
    /// The temperature that was used.
    pub router_temperature: f64,
    /// 1 if the request's blocks count once with those of others, else 0.
    pub assume_kv_reuse: u32,
    /// 1 if its prompt tokens count as load, else 0.
    pub track_prefill_tokens: u32,
}

/// The load that a rank would have with a request on it, and what that would cost.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct servecast_load {
    /// The worker.
    pub worker_id: u64,
    /// Its data-parallel rank.
    pub dp_rank: u32,
    /// Leading blocks of the prompt that it has cached.
    pub overlap_blocks: u32,
    /// Outstanding prefill tokens.
    pub prefill_tokens: u64,
    /// Active blocks.
    pub decode_blocks: u64,
    /// The cost; the lowest is chosen.
    pub cost: f64,
}

/// Blocks that a worker has stored, by their tokens or by the hashes of their contents.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct servecast_stored_blocks {
    /// The worker's name of the block before the first one; null at the start of a sequence.
    pub parent: *const u64,
    /// Token ids; a partial block at their end is left out.
    pub tokens: *const u32,
    /// How many.
    pub num_tokens: usize,
    /// Instead of tokens: hashes of the contents of the blocks.
    pub tokens_hashes: *const u64,
    /// How many.
    pub num_tokens_hashes: usize,
    /// The worker's names of the blocks, by which it will remove them, one for each block; null if they are the chained
    /// hashes of the contents.
    pub block_hashes: *const u64,
    /// How many.
    pub num_block_hashes: usize,
    /// Name of the LoRA adapter, for blocks by tokens; null for none.
    pub lora_name: *const c_char,
    /// Cache namespace, for blocks by tokens; null for the common one.
    pub cache_namespace: *const c_char,
}
