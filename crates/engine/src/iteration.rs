//! What an engine reports: iterations one by one, or decode iterations taken together, to an [`IterationSink`].

use servecast_types::{BlockId, Duration, KvEvent, RequestId, Time};

use crate::{Links, Rejection};

/// What one engine iteration did; complete at its end.
///
/// Lists are in decision order. An iteration without scheduled tokens occurs when something else happened: a KV
/// transfer began or ended, a request was given up. The dummy batch
/// of a data-parallel rank without work is no iteration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Iteration {
    /// Which [data-parallel rank](crate::EngineArgs::dp_size) of the worker did it; 0 where there is one.
    pub dp_rank: u32,
    /// When the scheduler decided it.
    pub scheduled_at: Time,
    /// When the forward pass began: later than `scheduled_at` under asynchronous scheduling, and after a pass whose
    /// [gap](servecast_latency::Host::gap) was not over. `end` if nothing was computed.
    pub start: Time,
    /// When its results became visible.
    pub end: Time,
    /// Between `start` and `end`, how long the batch waited for a stage of a pipeline that had another; 0 without one.
    pub waited: Duration,
    /// Before `start`, how long the GPU was idle since the iteration waited for copies to or from the memory of the host.
    pub stalled: Duration,
    /// Of the batches that a pipeline can have under way at a time, which one it was; they take turns. 0 without one.
    pub micro_batch: u32,
    /// Requests that computed something.
    pub scheduled: Vec<Scheduled>,
    /// Number of requests that decoded one token in this iteration, as in the one before, and are in none of the lists.
    /// They precede the listed ones in the running list, unless a listed one was computed in the iteration before, too. 0
    /// unless the engine [takes decodes together](crate::EngineTracing::stretches).
    pub decoded: u64,
    /// Requests of `scheduled` that left the waiting queue, with the tokens that they did not have to compute.
    pub admitted: Vec<Admitted>,
    /// Requests that lost their KV blocks.
    pub preempted: Vec<RequestId>,
    /// Requests that joined with their first token, which was handed over with their KV: it is out at `scheduled_at`, not
    /// at the end. vLLM has none, since it computes that token itself.
    pub joined: Vec<Joined>,
    /// Drafts of the scheduled requests that were verified in it; empty without speculative decoding.
    pub verified: Vec<Verified>,
    /// Requests that got tokens at the end.
    pub emitted: Vec<Emitted>,
    /// Requests that ended at the end of the iteration.
    pub finished: Vec<Finished>,
    /// Requests that were given up: when it was scheduled, or at its end for those that SGLang refused, of which it computed
    /// a token for form's sake.
    pub rejected: Vec<(RequestId, Rejection)>,
    /// KV transfers that began when it was scheduled.
    pub transfers: Vec<Transfer>,
    /// Requests whose transfer to this worker was noticed as complete at the end.
    pub received: Vec<RequestId>,
    /// Requests whose held blocks were dropped at the end.
    pub sent: Vec<RequestId>,
    /// Parts of prompts that a prefill worker of SGLang sent since the iteration before, in order for each request. The last
    /// one of a request is out with the token that ends its prompt.
    pub parts: Vec<Sent>,
    /// Blocks allocated or hit for the scheduled requests: the whole table of an admitted request, what a running one
    /// gained. Only kept if the engine traces blocks.
    pub block_ids: Vec<BlockId>,
    /// The free list at the end. Only kept if the engine traces blocks.
    pub free_list: Vec<BlockId>,
    /// Running requests after scheduling.
    pub num_running: u32,
    /// Waiting requests after scheduling.
    pub num_waiting: u32,
    /// Free blocks after scheduling.
    pub free_blocks_after_schedule: u32,
    /// Free blocks at the end.
    pub free_blocks: u32,
    /// Distinct block contents that can be hit at the end.
    pub cached_blocks: u32,
    /// What a router learns at the end. Only kept if the engine captures KV events.
    pub kv_events: Vec<KvEvent>,
    /// The same of each group of layers, if there are several. Only kept if the engine traces blocks.
    pub group_events: Vec<GroupEvent>,
    /// What was copied between GPU and host; there if the engine offloads KV.
    pub offload: Option<Box<Offloaded>>,
    /// What SGLang's scheduler went by. Only kept if the engine [traces it](crate::EngineTracing::sglang_state).
    pub sglang: Option<Box<SglangState>>,
}

/// What an iteration had copied between GPU and host, and what of that was done.
///
/// Copies are numbered in the order in which they are handed over; with vLLM's simple connector, stores and loads have numbers
/// of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offloaded {
    /// Requests whose KV the host has, with the tokens that are loaded.
    pub started: Vec<(RequestId, u32)>,
    /// Copies from host to GPU.
    pub loads: Vec<OffloadCopy>,
    /// Copies from GPU to host.
    pub stores: Vec<OffloadCopy>,
    /// Stores for which the pass waited, since it writes to their blocks.
    pub flushed: Vec<u64>,
    /// Whether the pass waited for all copies.
    pub flushes_all: bool,
    /// Requests that had ended, of which the pass told the worker that stores their KV: they keep it until it is stored
    /// (vLLM up to 0.15).
    pub ended: Vec<RequestId>,
    /// Copies whose end was noticed at the end, with whether they were loads.
    pub done: Vec<(u64, bool)>,
    /// Requests whose KV was loaded by then, so that they can run.
    pub received: Vec<RequestId>,
    /// What the host holds at the end, in chunks: with the simple connector, what can be loaded.
    pub chunks_used: u32,
    /// Chunks that had to make room so far.
    pub evicted_total: u64,
    /// Stores so far for which there was no room.
    pub refused_total: u64,
    /// What changed in what the host holds, where layers are no groups.
    pub events: Vec<KvEvent>,
    /// The same where they are, by group.
    pub group_events: Vec<GroupEvent>,
}

/// A copy between GPU and host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffloadCopy {
    /// Its number.
    pub job: u64,
    /// Whose KV it is; nobody's with stores of the simple connector.
    pub requests: Vec<RequestId>,
    /// Places in the memory of the host, of a chunk each.
    pub chunks: Vec<u32>,
    /// KV blocks of the GPU.
    pub blocks: Vec<BlockId>,
}

impl Offloaded {
    /// Whether anything was handed over, waited for or noticed.
    pub fn is_active(&self) -> bool {
        self.flushes_all
            || !(self.loads.is_empty()
                && self.stores.is_empty()
                && self.flushed.is_empty()
                && self.ended.is_empty()
                && self.done.is_empty())
    }

    /// Empties the lists for reuse.
    pub(crate) fn clear(&mut self) {
        self.started.clear();
        self.loads.clear();
        self.stores.clear();
        self.flushed.clear();
        self.ended.clear();
        self.flushes_all = false;
        self.done.clear();
        self.received.clear();
        self.events.clear();
        self.group_events.clear();
    }
}

/// A change of what can be hit in a group of layers, as vLLM sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEvent {
    /// Number of the group.
    pub group: u32,
    /// Tokens a block; 0 of what is removed.
    pub block_size: u32,
    /// Tokens whose blocks were looked at; those that nobody is to hit are not among what is stored. 0 of what is removed.
    pub tokens: u32,
    /// What changed. The parent of what is stored may be a block that the group never stored.
    pub event: KvEvent,
}

/// The state of SGLang's scheduler after a decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SglangState {
    /// How many of [`Iteration::scheduled`], from the first on, compute prompts; the others decode.
    pub prefills: usize,
    /// The request whose prompt is computed in chunks.
    pub chunked: Option<RequestId>,
    /// The running batch.
    pub running: Vec<RequestId>,
    /// The waiting queue.
    pub waiting: Vec<RequestId>,
    /// Why each of [`Iteration::preempted`] went back to the queue.
    pub requeued: Vec<Requeue>,
    /// Whether nobody is admitted until a request leaves.
    pub batch_is_full: bool,
    /// Share of their remaining output for which running requests reserve memory.
    pub new_token_ratio: f64,
    /// Tokens of free pages.
    pub available: u64,
    /// Cached tokens that nobody uses.
    pub evictable: u64,
    /// Cached tokens in use.
    pub protected: u64,
    /// `available` at the end of the iteration.
    pub available_end: u64,
    /// `evictable` at the end of the iteration.
    pub evictable_end: u64,
    /// `protected` at the end of the iteration.
    pub protected_end: u64,
    /// Prompt tokens that the prefill batch could still take; `None` if none was tried.
    pub rem_input: Option<i64>,
    /// Tokens left of the chunk.
    pub rem_chunk: Option<i64>,
    /// Memory left when all requests are served to the end.
    pub rem_total: Option<f64>,
    /// Tokens of memory that each request of the batch has, with speculative decoding.
    pub kv_allocated: Vec<u32>,
    /// Copies to the memory of the host and back that the decision brought about, and that the result did.
    pub host: Option<HostCopies>,
    /// The same at the end of the iteration.
    pub host_end: Option<HostCopies>,
    /// With a second tier of the cache, the events of both in their order; those of the host are `true`.
    pub tiered_events: Vec<(bool, KvEvent)>,
    /// The two pools, if layers with a sliding window have one of their own.
    pub windows: Option<WindowSlots>,
    /// The same at the end of the iteration.
    pub windows_end: Option<WindowSlots>,
    /// Queues of a worker that serves one stage only.
    pub disaggregation: Option<Box<DisaggregationState>>,
}

/// What SGLang's two pools hold where layers with a sliding window have one of their own, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowSlots {
    /// Free in the pool of the other layers.
    pub full_available: u64,
    /// Free in the pool of windows.
    pub available: u64,
    /// Cached there and used by nobody.
    pub evictable: u64,
    /// Cached there and in use.
    pub protected: u64,
}

/// Copies between SGLang's cache and the memory of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostCopies {
    /// Transfers that were begun: whether they go to the host, tokens of each copy, when they end.
    pub transfers: Vec<(bool, Vec<u32>, Time)>,
    /// Tokens that the host has room for.
    pub available: u64,
    /// Copies to the host that were not seen to have ended.
    pub writing: usize,
    /// Copies back that were not seen to have ended.
    pub loading: usize,
}

/// The queues of one side of SGLang's disaggregation after a decision, and what it sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisaggregationState {
    /// Prefill: requests whose decode workers are not known to have memory.
    pub bootstrap_queue: Vec<RequestId>,
    /// Prefill: requests whose KV is on its way, in order.
    pub inflight_queue: Vec<RequestId>,
    /// Prefill: how many of [`Iteration::parts`], from the first on, the batch found in the cache, so that they were sent
    /// before it was computed.
    pub sent_at_launch: usize,
    /// Decode: requests that wait for memory.
    pub prealloc_queue: Vec<RequestId>,
    /// Decode: requests whose KV is on its way.
    pub transfer_queue: Vec<RequestId>,
    /// Decode: requests that lost their memory.
    pub retracted_queue: Vec<RequestId>,
    /// Decode: requests that joined the running batch, those that have lost their memory before among them.
    pub joined: Vec<RequestId>,
}

/// A part of a prompt's KV that was sent to a decode worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The request.
    pub id: RequestId,
    /// Its tokens.
    pub tokens: u32,
    /// Whether nothing more of it follows.
    pub is_last: bool,
    /// When.
    pub at: Time,
}

/// Why a request of SGLang went back to the waiting queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// Memory ran out.
    Retracted,
    /// A more important request took its place.
    Preempted,
}

/// Tokens of one request in an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// The request.
    pub id: RequestId,
    /// Tokens to compute.
    pub tokens: u32,
    /// Tokens of its sequence that were computed or hit before.
    pub computed: u32,
}

/// Drafts of one request that an iteration verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The request.
    pub id: RequestId,
    /// Tokens that were proposed for it and computed in the iteration.
    pub drafted: u32,
    /// How many of them, from the first on, are what the model itself would have generated.
    pub accepted: u32,
}

/// Tokens that a request got in an iteration, all of them at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// The request.
    pub id: RequestId,
    /// How many, at least 1; more than 1 only with speculative decoding.
    pub tokens: u32,
}

/// A request that left the waiting queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The request.
    pub id: RequestId,
    /// Tokens found in the prefix cache of this worker, or in the memory of its host.
    pub cached_tokens: u32,
    /// How many of them were in the memory of the host alone.
    pub host_cached_tokens: u32,
    /// Whether it had been preempted.
    pub resumed: bool,
}

/// A request that joined with its first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The request.
    pub id: RequestId,
    /// Whether that token was its last one, so that it has ended and nothing is computed for it.
    pub is_finished: bool,
}

/// A request that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The request.
    pub id: RequestId,
    /// Tokens that it generated.
    pub output_tokens: u32,
}

/// A KV transfer to this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The request.
    pub id: RequestId,
    /// Tokens that are transferred.
    pub tokens: u32,
    /// When the last of them is here, if that was known when it began.
    pub end: Option<Time>,
}

impl Iteration {
    /// Whether anything happened in it: KV events alone do not count, since they report another iteration.
    #[inline]
    pub fn is_eventful(&self) -> bool {
        !(self.num_scheduled() == 0
            && self.preempted.is_empty()
            && self.joined.is_empty()
            && self.finished.is_empty()
            && self.rejected.is_empty()
            && self.transfers.is_empty()
            && self.received.is_empty()
            && self.sent.is_empty()
            && !self.offload.as_ref().is_some_and(|offload| offload.is_active()))
    }

    /// How many requests computed something.
    pub fn num_scheduled(&self) -> u64 {
        self.scheduled.len() as u64 + self.decoded
    }

    /// Tokens computed by all requests together.
    pub fn total_tokens(&self) -> u64 {
        self.scheduled.iter().map(|scheduled| u64::from(scheduled.tokens)).sum::<u64>() + self.decoded
    }

    /// How long its stages computed, one after the other.
    pub fn busy(&self) -> Duration {
        self.end.since(self.start) - self.waited
    }

    /// Tokens that it gave to the requests in its lists and to those that [decoded](Iteration::decoded) besides.
    pub fn tokens_emitted(&self) -> u64 {
        self.emitted.iter().map(|emitted| u64::from(emitted.tokens)).sum::<u64>() + self.decoded
    }

    /// Empties the lists for reuse, keeping their memory; everything else is overwritten.
    pub(crate) fn clear(&mut self) {
        self.scheduled.clear();
        (self.decoded, self.stalled) = (0, Duration::ZERO);
        self.admitted.clear();
        self.preempted.clear();
        self.joined.clear();
        self.verified.clear();
        self.emitted.clear();
        self.finished.clear();
        self.rejected.clear();
        self.transfers.clear();
        self.received.clear();
        self.sent.clear();
        self.parts.clear();
        self.block_ids.clear();
        self.free_list.clear();
        self.kv_events.clear();
        self.group_events.clear();
        self.sglang = None;
        if let Some(offload) = &mut self.offload {
            offload.clear();
        }
    }
}

/// Iterations one after the other in which the same requests got a token each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decodes<'a> {
    /// When the first of them began.
    pub start: Time,
    /// When each of them ended; not empty.
    pub ends: &'a [Time],
    /// How long after the end of one the next one began.
    pub gap: Duration,
    /// Requests that got a token in each of them.
    pub requests: u64,
    /// KV blocks that were free while the first of them ran.
    pub free_blocks: u32,
    /// KV blocks that each of them after the first took from those.
    pub taken_blocks: u32,
}

impl Decodes<'_> {
    /// How many they are.
    pub fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// When the last of them ended.
    pub fn end(&self) -> Time {
        self.ends.last().copied().unwrap_or(self.start)
    }

    /// KV blocks that are free while the last of them runs, and after it unless a request ends with it.
    pub fn free_blocks_after(&self) -> u32 {
        self.free_blocks.saturating_sub((self.ends.len() as u32).saturating_sub(1) * self.taken_blocks)
    }

    /// How long all of them took, without what lies between them.
    pub fn length(&self) -> Duration {
        let between = self.gap.as_ns() * (self.ends.len() as u64).saturating_sub(1);
        Duration::from_ns(self.end().since(self.start).as_ns().saturating_sub(between))
    }

    /// Σ over them of the KV blocks that each took from those that were free while the first ran, times its nanoseconds.
    pub fn taken_block_ns(&self) -> u128 {
        if self.taken_blocks == 0 {
            return 0;
        }
        let mut before = self.start;
        let mut block_ns = 0;
        for (number, &end) in (0_u128..).zip(self.ends) {
            let taken = number * u128::from(self.taken_blocks);
            block_ns += taken * u128::from(end.since(before).as_ns());
            before = end + self.gap;
        }
        block_ns
    }
}

/// Which iteration a request ended with. Of iterations that take no time, several may end at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastIteration {
    /// The one reported last.
    Reported,
    /// The one that is reported next.
    Next,
}

/// Receives what an engine does, and moves KV for it.
pub trait IterationSink: Links {
    /// A request has its first token at `now`, which was handed over with its KV. The iteration that was decided then has
    /// it among [`Iteration::joined`].
    fn joined(&mut self, joined: Joined, now: Time);

    /// An iteration ended.
    fn iteration_ended(&mut self, iteration: &Iteration);

    /// A request was [withdrawn](crate::Engine::withdraw) at `now`.
    fn withdrawn(&mut self, request: RequestId, now: Time) {
        unreachable!("{request} at {now}, which nobody withdrew");
    }

    /// Iterations ended in which each running request got a token, as each did at their start.
    ///
    /// Only called, like the methods below, if the engine [takes such iterations
    /// together](crate::EngineTracing::stretches).
    fn decoded(&mut self, decodes: &Decodes) {
        unreachable!("{decodes:?}, which this sink did not ask for");
    }

    /// A request that was [decoded](IterationSink::decoded) finished at `end`, in the iteration reported by the preceding
    /// call of that; if prompts were computed in it too, in the one reported by the [next
    /// call](IterationSink::iteration_ended).
    fn finished_decoding(&mut self, finished: Finished, end: Time, with: LastIteration) {
        unreachable!("{finished:?} at {end} with the {with:?}, which this sink did not ask for");
    }

    /// The prefix cache changed with the [decoded](IterationSink::decoded) iteration reported last.
    fn cache_changed(&mut self, events: &[KvEvent], end: Time) {
        unreachable!("{events:?} at {end}, which this sink did not ask for");
    }

    /// A request that still runs has `output_tokens` tokens, the last of them since `last_token`, the end of the iteration
    /// reported last.
    ///
    /// Called when a request leaves the group of decoding requests; brings its token count up to date.
    fn caught_up(&mut self, request: RequestId, output_tokens: u32, last_token: Time) {
        unreachable!("{request} has {output_tokens} tokens at {last_token}, which this sink did not ask for");
    }
}
