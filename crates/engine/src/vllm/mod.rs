//! vLLM's V1 scheduler and KV cache, decision for decision.
//!
//! - [`scheduler`]: what `Scheduler.schedule()` and `update_from_output()` do, with and without asynchronous
//!   scheduling.
//! - [`kv`]: block allocation, prefix hits, storing of full blocks (`KVCacheManager`).
//! - [`pool`]: blocks, free list, contents (`BlockPool`).
//! - [`queue`]: the waiting queue of either policy.
//! - [`request`]: a request with its counters.

mod kv;
mod pool;
mod queue;
mod request;
mod scheduler;
mod update;

pub(crate) use scheduler::{Scheduler, Step};
