//! The state of vLLM's scheduler, and the order in which it decides an iteration: first the running requests, then, if none
//! was preempted, the waiting ones, as far as tokens, seats and blocks last.
//!
//! The parts have files of their own: `running` and `admission` (the two halves of a decision), `update` (results), `kv` and
//! `pool` (blocks), `stretch` (decoding requests that are taken together).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::{BlockId, SequenceHash, Time};

use super::adapters::Adapters;
use super::kv::KvCache;
use super::offload::Offload;
use super::pool::Hits;
use super::queue::WaitingQueue;
use super::request::Request;
use super::stretch::new_stretch;
use crate::args::{CapacitySchedulerPolicy, KvRole, SchedulingPolicy, VllmVersion};
use crate::engine::EngineTracing;
use crate::iteration::Scheduled;
use crate::step::{Entry, Step};
use crate::stretch::Stretch;
use crate::table::{RequestTable, Slot};
use crate::trtllm::NoEvict;
use crate::{EngineConfig, EngineRequest, Links, Rejection};

/// The scheduler of one worker, with its KV cache.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) config: Arc<EngineConfig>,
    pub(super) kv: KvCache,
    pub(super) requests: RequestTable<Request>,
    pub(super) running: Vec<Slot>,
    pub(super) waiting: WaitingQueue,
    /// Requests that have blocks but do not run yet, since KV is on its way; they go before `waiting`.
    pub(super) loading: VecDeque<Loading>,
    /// Ended requests whose blocks a transfer still reads or writes.
    pub(super) held: Vec<Held>,
    /// Blocks that become free when the iteration of that number ends; see [`Scheduler::free_blocks`].
    pub(super) deferred: VecDeque<(u64, Vec<BlockId>)>,
    /// Iterations decided so far.
    pub(super) decided: u64,
    /// Iterations ended so far.
    pub(super) ended: u64,
    /// Iterations that computed something since the last one that computed prompts, if there was one.
    since_prefill: Option<u32>,
    /// Whether `prefill_schedule_interval` holds nothing back for now.
    interval_released: bool,
    /// Whether the ranks hold prompts back in this iteration, which go by their common count of passes; `None` for an
    /// engine by itself.
    ranks_hold_prefill: Option<bool>,
    /// Whether a request ended that vLLM's workers learn of in the next iteration, even if it is empty.
    pub(super) ended_since_schedule: bool,
    /// The blocks that the request being admitted hits; kept for its memory.
    pub(super) hits: Hits,
    /// TensorRT-LLM: the next block of each prompt that is computed in the iteration being decided.
    pub(super) coming: FxHashSet<SequenceHash>,
    /// TensorRT-LLM: who waits for one of those, in order; kept for its memory.
    pub(super) put_off: Vec<Slot>,
    pub(super) trace_blocks: bool,
    /// Whether blocks are put into the prefix cache with results, not only with decisions.
    pub(super) stores_at_end: bool,
    /// Running requests that decode: so many of `running` from the first on as it has members, which are not up to date.
    pub(super) stretch: Stretch,
    /// The block size that it goes by; `None` if requests of this engine decode one by one.
    pub(super) stretch_period: Option<u32>,
    /// Members of it whose output is not their own alone, so that a router has to know of it.
    pub(super) members_told_of: u32,
    /// Whether something came that may end the stretch.
    pub(super) must_replan: bool,
    /// Whether a request of the iteration being decided can use drafts that are proposed after it.
    pub(super) drafts_are_needed: bool,
    /// The block that the head of the waiting queue would hit next if it were stored.
    pub(super) first_missing: Option<SequenceHash>,
    /// KV in the memory of the host.
    pub(super) offload: Option<Box<Offload>>,
    /// LoRA adapters, if requests may have any.
    pub(super) adapters: Option<Adapters>,
    /// When the grammars are compiled that were not when the scheduler last looked.
    pub(super) grammars: BinaryHeap<Reverse<Time>>,
    /// When each grammar is compiled that the engine has got.
    pub(super) compiled: FxHashMap<u32, Time>,
}

/// A request whose KV is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loading {
    pub(super) slot: Slot,
    /// [`Time::MAX`] as long as nobody knows.
    pub(super) end: Time,
    /// Number of the first iteration that can notice the end.
    pub(super) from: u64,
    /// Whether the scheduler knows that the transfer ended.
    pub(super) received: bool,
}

/// An ended request whose blocks a reader still needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) slot: Slot,
    /// When the reader is done, if that is known, and the first iteration that can notice it.
    pub(super) end: Option<(Time, u64)>,
}

/// What the decisions of one iteration go by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) now: Time,
    /// Tokens that can still be given.
    budget: u32,
    /// Slots of the batch that are left, of which a request takes `slots` beside one for each of its tokens.
    input: u32,
    slots: u32,
    /// Most tokens of one request.
    pub(super) cap: u32,
    /// Whether prompts have to wait for another iteration.
    pub(super) prefill_held: bool,
    /// Whether nobody is admitted, since a batch is not done.
    pub(super) batch_is_closed: bool,
    /// Whether a running request computes its prompt, and whether any running request is scheduled.
    pub(super) prefill_runs: bool,
    pub(super) any_runs: bool,
    /// Where the entries of requests from the queue begin.
    pub(super) queue_from: usize,
}

impl Round {
    /// Tokens that the next request can get.
    pub(super) fn left(&self) -> u32 {
        self.budget.min(self.input.saturating_sub(self.slots))
    }

    /// A request got `tokens` tokens, 1 at least; or so many requests got one each, who take nothing beside.
    pub(super) fn spend(&mut self, tokens: u32) {
        self.budget -= tokens;
        self.input -= tokens + self.slots;
    }

    /// A request gave its tokens back.
    pub(super) fn take_back(&mut self, tokens: u32) {
        self.budget += tokens;
        self.input += tokens + self.slots;
    }
}

impl Scheduler {
    pub(crate) fn new(config: Arc<EngineConfig>, tracing: EngineTracing) -> Self {
        let (stretch_period, stretch) = new_stretch(&config);
        Self {
            kv: KvCache::new(&config, tracing),
            requests: RequestTable::default(),
            running: Vec::new(),
            waiting: WaitingQueue::new(&config),
            loading: VecDeque::new(),
            held: Vec::new(),
            deferred: VecDeque::new(),
            decided: 0,
            ended: 0,
            since_prefill: None,
            interval_released: false,
            ranks_hold_prefill: None,
            ended_since_schedule: false,
            hits: Hits::default(),
            coming: FxHashSet::default(),
            put_off: Vec::new(),
            trace_blocks: tracing.block_ids,
            stores_at_end: config.async_scheduling
                || config.speculation.as_ref().is_some_and(|speculation| speculation.stores_verified),
            stretch,
            stretch_period,
            members_told_of: 0,
            must_replan: false,
            drafts_are_needed: false,
            first_missing: None,
            offload: Offload::new(&config),
            adapters: config.lora.map(Adapters::new),
            grammars: BinaryHeap::new(),
            compiled: FxHashMap::default(),
            config,
        }
    }

    /// Puts a request into the waiting queue, or says why it can never run.
    pub(crate) fn add(&mut self, mut request: EngineRequest) -> Result<(), Rejection> {
        request.check(&self.config)?;
        let asked = self.config.asked(&request);
        self.compile_grammar(&mut request);
        if self.config.trtllm.is_some() {
            let (prompt_tokens, max_tokens) = (request.prompt.tokens(), request.max_tokens);
            let capacity = u64::from(self.config.usable_blocks()) * u64::from(self.config.block_size);
            request.max_tokens =
                NoEvict::clamp_output(prompt_tokens, max_tokens, self.config.max_model_len, capacity);
        }
        // Behind a head that has to go on waiting, nobody of the same policy is looked at; but the more wait, the less of
        // a prompt may be computed at a time.
        self.must_replan |= self.waiting.len() == 0
            || self.config.scheduling_policy != SchedulingPolicy::Fcfs
            || self.config.order.is_some()
            || self.config.lora.is_some()
            || request.grammar_ready.is_some()
            || self.config.long_prefill_token_threshold_adaptive;
        self.grammars.extend(request.grammar_ready.map(Reverse));
        let mut request = Request::new(request, self.kv.hasher());
        request.asked = asked;
        let place = request.place();
        self.waiting.push(self.requests.insert(request), place);
        Ok(())
    }

    /// Decides the next iteration.
    pub(crate) fn schedule(&mut self, now: Time, step: &mut Step, links: &mut dyn Links) {
        step.reset(now, self.config.kv_capacity_tokens());
        self.notice_grammars(now);
        if !self.polls() {
            self.notice_transfers(now, self.decided + 1, &mut step.iteration);
        }
        if let Some(offload) = &mut self.offload {
            offload.begin(&mut step.iteration);
        }
        let mut round = self.round(now);
        if let Some(groups) = &mut self.kv.groups {
            groups.begin_iteration();
        }
        self.coming.clear();
        self.drafts_are_needed = false;
        self.schedule_members(&mut round, step);
        self.schedule_running(&mut round, step);
        round.any_runs = !step.entries.is_empty();
        // Nobody is admitted in an iteration that had to preempt.
        if step.iteration.preempted.is_empty() && self.admit_loaded(&mut round, step) {
            round.queue_from = step.entries.len();
            self.admit_waiting(&mut round, step, links);
        }
        if !round.prefill_held && step.iteration.preempted.is_empty() {
            self.interval_released = self.config.prefill_schedule_interval > 1 && self.leaves_some_waiting();
        }
        self.ended_since_schedule = false;
        self.hand_over_copies(step);
        self.decided += 1;
        self.commit(step);
    }

    /// What an iteration that is decided `now` goes by.
    pub(super) fn round(&self, now: Time) -> Round {
        let budget = self.config.max_num_batched_tokens;
        let slots = self.config.speculation.as_ref().map_or(0, |speculation| speculation.input_slots);
        let (cap, prefill_held) = (self.long_prefill_cap(), self.holds_prefill());
        Round {
            now,
            budget,
            input: budget,
            slots,
            cap,
            prefill_held,
            batch_is_closed: self.batch_is_closed(),
            prefill_runs: false,
            any_runs: false,
            queue_from: 0,
        }
    }

    /// Whether requests are admitted only when all that run are done, and some run.
    pub(super) fn batch_is_closed(&self) -> bool {
        self.config.trtllm == Some(CapacitySchedulerPolicy::StaticBatch) && !self.running.is_empty()
    }

    /// Most tokens of one request in this iteration.
    pub(super) fn long_prefill_cap(&self) -> u32 {
        let threshold = self.config.long_prefill_token_threshold;
        let requests = self.running.len() + self.num_waiting();
        let alone = requests == 1 && self.config.vllm_version >= VllmVersion::V0_32;
        if threshold == 0 || alone {
            return u32::MAX;
        }
        if self.config.long_prefill_token_threshold_adaptive {
            threshold.max(self.config.max_num_batched_tokens / requests.max(1) as u32)
        } else {
            threshold
        }
    }

    /// Whether `prefill_schedule_interval` keeps prompts out of this iteration: too few iterations have computed
    /// something since the last one with prompts, and somebody decodes. Once an iteration with prompts could not
    /// drain the queue there is no more holding back; KV on its way is not in the queue, nor is who was passed over.
    fn holds_prefill(&self) -> bool {
        let interval = self.config.prefill_schedule_interval;
        let since_prefill = || self.since_prefill.is_some_and(|iterations| iterations + 1 < interval);
        let is_early = self.ranks_hold_prefill.unwrap_or_else(since_prefill);
        is_early
            && !self.interval_released
            && self.running.iter().any(|&slot| !self.requests[slot].is_mid_prefill)
    }

    /// Whether somebody waits who was not passed over.
    fn leaves_some_waiting(&self) -> bool {
        self.waiting.iter().any(|slot| !self.requests[slot].is_passed_over)
    }

    /// Says whether the ranks hold prompts back in the next iteration.
    pub(crate) fn hold_prefill(&mut self, holds: bool) {
        self.ranks_hold_prefill = Some(holds);
    }

    /// Gives a running request blocks for its next `tokens` tokens and an entry in the iteration.
    ///
    /// The caller has checked that enough blocks are free.
    pub(super) fn schedule_tokens(&mut self, slot: Slot, tokens: u32, first_new_block: u32, step: &mut Step) {
        let drafted = self.drafts_in(slot, tokens);
        let request = &mut self.requests[slot];
        let end = request.computed + tokens;
        self.kv.extend(request, end);
        if self.config.trtllm.is_some() && request.computes_prompt() {
            // Others hit it from the next iteration on, and are put off until then.
            if self.config.enable_prefix_caching {
                self.coming.extend(request.next_prompt_block(self.config.block_size));
            }
        } else {
            self.kv.store(request, end.min(request.known()));
        }
        let samples = end >= request.scheduled_to();
        let Request { id, computed, .. } = *request;
        step.push(
            Scheduled { id, tokens, computed },
            Entry { slot, id, samples, first_new_block, drafted, accepted: 0, requeues: 0 },
        );
    }

    /// Counts what was scheduled as computed, and describes it to the latency model.
    fn commit(&mut self, step: &mut Step) {
        let Step { iteration, batch, entries, proposals, .. } = step;
        if self.config.speculation.is_some() {
            self.commit_drafts(entries, iteration, proposals);
        }
        let awaits_results = self.awaits_results();
        let mut computes_prompts = false;
        for (entry, scheduled) in entries.iter().zip(&iteration.scheduled) {
            let request = &mut self.requests[entry.slot];
            let (start, end) = (scheduled.computed, scheduled.computed + scheduled.tokens);
            if entry.drafted > 0 {
                batch.add_verification(start.into(), (scheduled.tokens - 1).into());
            } else {
                batch.add_tokens(start.into(), end.into());
            }
            if self.config.trtllm.is_some() && request.computes_prompt() {
                self.kv.store(request, end.min(request.known()));
            }
            if start < request.prompt_tokens && !request.prompt_was_here {
                batch.add_prompt(start.into(), end.min(request.prompt_tokens).into());
            }
            // A first token pays no decode step, unless only the last token of a prompt that was transferred is computed.
            let produced = request.outputs + request.placeholders;
            if entry.samples && (produced > 0 || request.prompt_was_here) {
                batch.add_decode((end - u32::from(entry.drafted)).into());
            }
            request.computed = end;
            request.last_iteration = self.decided;
            if start + 1 < request.scheduled_to() || request.is_mid_prefill {
                computes_prompts = true;
            }
            request.is_mid_prefill = !entry.samples;
            if entry.samples {
                request.placeholders += if awaits_results { 0 } else { 1 + u32::from(entry.drafted) };
                request.sampling += 1;
            }
            if awaits_results {
                request.unsettled += scheduled.tokens;
            }
            if self.kv.groups.is_some() {
                request.count_in_flight(scheduled.tokens.into());
            }
            if self.trace_blocks {
                iteration.block_ids.extend_from_slice(&request.blocks[entry.first_new_block as usize..]);
                iteration.block_ids.extend(request.tables.iter().flat_map(|tables| tables.new_blocks()));
            }
        }
        if computes_prompts {
            self.since_prefill = Some(0);
        } else if !entries.is_empty() {
            self.since_prefill = self.since_prefill.map(|iterations| iterations.saturating_add(1));
        }
        iteration.num_running = self.running.len() as u32;
        iteration.num_waiting = self.num_waiting() as u32;
        iteration.free_blocks_after_schedule = self.kv.num_free();
    }

    /// Takes the blocks of a request away; they are free at once, or when what is in flight has run.
    pub(super) fn free_blocks(&mut self, slot: Slot) {
        let defers = self.defers_free(slot);
        let request = &mut self.requests[slot];
        if defers {
            self.deferred.push_back((request.last_iteration, self.kv.detach(request)));
        } else {
            self.kv.free(request);
        }
    }

    /// Whether blocks of a request that are freed now may still be written to by an iteration in flight: a consumer
    /// of remote KV under asynchronous scheduling frees them only when that has ended.
    pub(super) fn defers_free(&self, slot: Slot) -> bool {
        let in_flight = self.requests[slot].last_iteration > self.ended;
        let consumes = self.config.kv_role == Some(KvRole::KvConsumer)
            || self.offload.as_ref().is_some_and(|offload| offload.defers_free());
        in_flight && self.config.async_scheduling && consumes
    }
}
