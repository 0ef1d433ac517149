//! SGLang's scheduler and radix cache, decision for decision.
//!
//! One iteration is a prefill batch or a decode batch, never both unless `enable_mixed_chunk` lets decodes ride along;
//! prefill goes first whenever a batch can be formed. With the overlap schedule the next iteration is planned while one
//! runs, by what was known before that.
//!
//! - `scheduler`: the state of a worker, `get_next_batch_to_run` and `get_new_batch_prefill`.
//! - `adder`: the budgets of a prefill batch (`PrefillAdder`).
//! - `policy`: the order of the waiting queue (`SchedulePolicy`).
//! - `decode`: the next tokens, retraction, preemption (`update_running_batch`).
//! - `update`: what becomes known at the end of an iteration (`process_batch_result`), KV of other workers.
//! - `cache`, `tree`: KV memory and the radix tree of shared prefixes.
//! - `stretch`: iterations that only decode, at the cost of what changes in them.
//! - `settings`: its settings by their real names.
//! - `ratio`: how much output running requests are expected to produce.

mod adder;
mod cache;
mod decode;
mod policy;
mod ratio;
mod request;
mod scheduler;
mod settings;
mod stretch;
mod tree;
mod update;

pub(crate) use scheduler::Scheduler;
pub use settings::{RadixEvictionPolicy, SchedulePolicy, SglangArgs};
pub(crate) use settings::{SglangConfig, check_request, settle};
