//! vLLM's V1 scheduler and KV cache, decision for decision.
//!
//! One iteration has two halves, as in vLLM: `schedule()` decides it and allocates its blocks, `update()` applies what
//! it produced. Under asynchronous scheduling the next `schedule()` comes before the `update()` of the iteration that
//! runs, so that tokens in flight are counted on before they are known.
//!
//! - `scheduler`: the state of a worker, the frame of `schedule()`. `status`: what the engine asks in between.
//! - `running`: its first half: tokens for the running requests, preemption.
//! - `admission`: its second half: the waiting requests. `fetch`: those whose KV comes from elsewhere.
//! - `drafts`: what speculative decoding adds to both.
//! - `adapters`: LoRA adapters, on the GPU and in the memory of the host.
//! - `passed_over`: who waits for an adapter's place or for its grammar, while others pass.
//! - `update`: what becomes known at the end of an iteration.
//! - `stretch`: requests that decode, at the cost of what changes.
//! - `kv`: block allocation, prefix hits, storing of full blocks (`KVCacheManager`).
//! - `contents`: what is found by the identities of blocks.
//! - `groups`: the same where layers keep different things of a sequence.
//! - `pool`: blocks, free list, contents (`BlockPool`); `segment`: blocks that it handles as one.
//! - `offload`: KV in the memory of the host.
//! - `queue`: the waiting queue of either policy, or in an order of a program.
//! - `request`: a request with its counters.
//!
//! vLLM goes round for ever in some corners: requests that preempt each other before any gets a token, a producer
//! whose request has outgrown the cache, a prompt that may not be cut, loaded requests that wait for each other's blocks.
//! Here every request ends: see `Request::is_starved`, `Scheduler::give_up`, `Scheduler::give_up_if_stuck` and
//! `Scheduler::free_loaded_unless_others_will`.

mod adapters;
mod admission;
mod contents;
mod drafts;
mod fetch;
mod groups;
mod kv;
mod offload;
mod passed_over;
mod pool;
mod queue;
mod request;
mod running;
mod scheduler;
mod segment;
mod status;
mod stretch;
mod update;
mod withdraw;

pub(crate) use request::Request;
pub(crate) use scheduler::Scheduler;
