//! SGLang's scheduler and radix cache, decision for decision.
//!
//! One iteration is a prefill batch or a decode batch, never both unless `enable_mixed_chunk` lets decodes ride along;
//! prefill goes first whenever a batch can be formed. With the overlap schedule the next iteration is planned while one
//! runs, by what was known before that.
//!
//! In a few corners the real engine runs out of memory, aborts a request or waits for ever. Here every request makes progress:
//!
//! - A prompt that fits the pool, but not with the page and the token that an admission keeps in reserve, is served all the
//!   same and gets one token, which needs no memory; the real queue may wait behind it for ever.
//! - A chunk that continues takes its tokens even if the running requests have reserved them. If there are not that many
//!   at all, the request goes back to the queue as a retracted one; what it computed can be hit as long as it is cached.
//!   When it has the pool to itself and comes no further than the last time, it is given up: the real one waits for ever.
//! - Decodes ride along in a prefill batch only if that leaves pages for all of them, and wait otherwise. Where they are
//!   more than a chunk has tokens, a chunk that continues takes a page.
//! - The last running request that has no page is given up as in the real engine, but where KV under way to or from other
//!   workers has the memory and the real engine knows nothing of these (`disaggregation_mode` `null`): then it goes back to
//!   the queue like the others.
//! - Requests that were preempted for one that is not admitted after all go back to the queue too.
//! - One prompt of a batch is cut. The real engine may cut a second one, without end or for the pool of windows, and then takes
//!   what it computed of the first for its whole prompt.
//! - A request without end whose last page is larger than what is left of the chunk is computed whole.
//!
//! KV of other workers goes by the same rules: a transfer starts when the prompt and its output would be admitted beside
//! what runs. In the first decision after it the request joins the running batch with its first token, which comes with
//! the KV, and decodes from there; one that asks for no more has ended.
//!
//! - `scheduler`: the state of a worker, `get_next_batch_to_run` and `get_new_batch_prefill`.
//! - `adder`: the budgets of a prefill batch (`PrefillAdder`).
//! - `policy`: the order of the waiting queue (`SchedulePolicy`); `order`: those orders that go by what is cached or runs.
//! - `queue`: the waiting queue itself.
//! - `chunked`: the prompt that is computed in chunks.
//! - `interval`: decodes between prefill batches (`prefill_decode_interval`).
//! - `progress`: how much has been computed since a request came (`processed_tokens_counter`).
//! - `inbox`: requests that the scheduler has not looked at yet (`scheduler_recv_interval`).
//! - `decode`: the next tokens, retraction, preemption (`update_running_batch`).
//! - `update`: what becomes known at the end of an iteration (`process_batch_result`), KV of other workers.
//! - `prefill_side`, `decode_side`: the queues of disaggregated serving.
//! - `state`: what the engine asks between iterations.
//! - `cache`, `tree`: KV memory and the radix tree of shared prefixes.
//! - `host`: the memory of the host as a second tier of the cache (`HiCache`); `hicache_args`: its settings.
//! - `windows`: the pool of layers with a sliding window (hybrid SWA memory); `swa_args`: its settings.
//! - `stretch`: iterations that only decode, at the cost of what changes in them.
//! - `settings`: its settings by their real names.
//! - `speculation`: passes that verify drafts.
//! - `ranks`: data-parallel ranks that compute together.
//! - `ratio`: how much output running requests are expected to produce.

mod adder;
mod cache;
mod chunked;
mod cursor;
mod decode;
mod decode_side;
mod disaggregation;
mod dp_args;
#[cfg(test)]
mod fixture;
mod hicache_args;
mod host;
mod inbox;
mod interval;
mod load_balance;
mod order;
mod policy;
mod prefill_side;
mod progress;
mod queue;
mod ranks;
mod ratio;
mod request;
mod scheduler;
mod settings;
mod speculation;
mod state;
mod stretch;
mod swa_args;
mod tree;
mod update;
mod windows;
mod withdraw;

pub use disaggregation::{DisaggregationMode, RetractionBackup};
pub use hicache_args::HicacheWritePolicy;
pub use load_balance::LoadBalanceMethod;
pub(crate) use ranks::DpRanks;
pub(crate) use scheduler::Scheduler;
pub use settings::{RadixEvictionPolicy, RetractionPolicy, SchedulePolicy, SglangArgs};
pub(crate) use settings::{SglangConfig, check_request, leaves_stub, settle};
pub use speculation::SpeculativeAlgorithm;
