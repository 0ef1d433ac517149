//! `Scheduler.schedule()`: which request gets how many tokens in the next iteration.

use std::collections::VecDeque;

use servecast_latency::Batch;
use servecast_types::{BlockId, RequestId, Time};

use super::kv::KvCache;
use super::queue::WaitingQueue;
use super::request::{Request, Slot, Status};
use crate::args::{KvRole, PreemptionMode, SchedulingPolicy, VllmVersion};
use crate::iteration::{Admitted, Iteration, Scheduled, Transfer};
use crate::{EngineConfig, EngineRequest, Rejection};

/// The scheduler of one worker, with its KV cache.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) config: EngineConfig,
    pub(super) kv: KvCache,
    pub(super) requests: Vec<Option<Request>>,
    free_slots: Vec<Slot>,
    pub(super) running: Vec<Slot>,
    pub(super) waiting: WaitingQueue,
    /// Requests that have blocks but do not run yet, since KV is on its way; they go before `waiting`.
    pub(super) loading: VecDeque<Loading>,
    /// Ended requests whose blocks a reader still needs, with the time at which it is done if that is known.
    pub(super) held: Vec<(Slot, Option<Time>)>,
    /// Blocks that become free when the iteration of that number ends; see [`Scheduler::free_blocks`].
    pub(super) deferred: VecDeque<(u64, Vec<BlockId>)>,
    /// Iterations decided so far.
    pub(super) decided: u64,
    /// Iterations ended so far.
    pub(super) ended: u64,
    /// Number of the last iteration that computed prompts.
    last_prefill: u64,
    /// Whether `prefill_schedule_interval` holds nothing back for now.
    interval_released: bool,
    /// Whether a request ended that vLLM's workers are told of in the next iteration, even if it is empty.
    pub(super) ended_since_schedule: bool,
    hits: Vec<BlockId>,
    pub(super) trace_blocks: bool,
}

/// A request whose KV is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loading {
    pub(super) slot: Slot,
    pub(super) end: Time,
    /// Whether the scheduler knows that the transfer ended.
    pub(super) received: bool,
}

/// An iteration in flight.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) iteration: Iteration,
    pub(crate) batch: Batch,
    pub(super) entries: Vec<Entry>,
}

/// A scheduled request of a [`Step`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    pub(super) id: RequestId,
    /// Whether the iteration computes its last known token, so that a new one comes out.
    pub(super) samples: bool,
    /// Where the request's blocks of this iteration start in its table.
    first_new_block: u32,
}

impl Step {
    fn clear(&mut self) {
        self.iteration.clear();
        self.entries.clear();
    }
}

impl Scheduler {
    pub(crate) fn new(config: EngineConfig, capture_events: bool, trace_blocks: bool) -> Self {
        Self {
            kv: KvCache::new(&config, capture_events),
            requests: Vec::new(),
            free_slots: Vec::new(),
            running: Vec::new(),
            waiting: WaitingQueue::new(config.scheduling_policy),
            loading: VecDeque::new(),
            held: Vec::new(),
            deferred: VecDeque::new(),
            decided: 0,
            ended: 0,
            last_prefill: 0,
            interval_released: false,
            ended_since_schedule: false,
            hits: Vec::new(),
            trace_blocks,
            config,
        }
    }

    /// Puts a request into the waiting queue, or says why it can never run.
    pub(crate) fn add(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        self.config.check_request(request.prompt.tokens())?;
        let request = Request::new(request, self.config.block_size);
        let key = request.key;
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.requests.push(None);
            Slot(self.requests.len() as u32 - 1)
        });
        self.requests[slot.0 as usize] = Some(request);
        self.waiting.push(slot, key);
        Ok(())
    }

    /// Whether an iteration, be it an empty one, has something to do.
    pub(crate) fn has_requests(&self) -> bool {
        let polls_for_readers = self.polls() && !self.held.is_empty();
        self.has_unfinished_requests() || self.ended_since_schedule || polls_for_readers
    }

    pub(crate) fn has_unfinished_requests(&self) -> bool {
        !self.running.is_empty() || self.num_waiting() > 0
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len() + self.loading.len()
    }

    pub(crate) fn running_len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn request(&mut self, slot: Slot) -> &mut Request {
        self.requests[slot.0 as usize].as_mut().expect("a slot in a queue is occupied")
    }

    /// Decides the next iteration.
    pub(crate) fn schedule(&mut self, now: Time, step: &mut Step) {
        step.clear();
        step.iteration.scheduled_at = now;
        step.batch = Batch::new(self.config.kv_capacity_tokens());
        if self.config.kv_role.is_none() {
            self.notice_transfers(now, &mut step.iteration);
        }
        let mut budget = self.config.max_num_batched_tokens;
        let cap = self.long_prefill_cap();
        let held = self.holds_prefill();
        self.schedule_running(&mut budget, cap, held, step);
        if step.iteration.preempted.is_empty() && self.admit_loaded(&mut budget, cap, step) {
            self.admit_waiting(now, &mut budget, cap, held, step);
        }
        if !held {
            self.interval_released = self.num_waiting() > 0;
        }
        self.ended_since_schedule = false;
        self.decided += 1;
        self.commit(step);
    }

    /// Most tokens of one request in this iteration.
    fn long_prefill_cap(&self) -> u32 {
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

    /// Whether `prefill_schedule_interval` keeps prompts out of this iteration: too few iterations have passed since the
    /// last one with prompts, and somebody decodes. Once an iteration with prompts could not drain the queue there is
    /// no more holding back.
    fn holds_prefill(&self) -> bool {
        let interval = u64::from(self.config.prefill_schedule_interval);
        if interval <= 1 || self.interval_released || self.decided + 1 - self.last_prefill >= interval {
            return false;
        }
        let request = |slot: &Slot| self.requests[slot.0 as usize].as_ref();
        self.running.iter().filter_map(request).any(|request| !request.is_prefilling())
    }

    /// Running requests in order: each gets what it still has to compute, within the budget.
    fn schedule_running(&mut self, budget: &mut u32, cap: u32, prefill_held: bool, step: &mut Step) {
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let slot = self.running[index];
            let max_model_len = self.config.max_model_len;
            let request = self.request(slot);
            let room = max_model_len.saturating_sub(1).saturating_sub(request.computed);
            let tokens = (request.scheduled_to() - request.computed).min(cap).min(*budget).min(room);
            if tokens == 0 || request.ends_in_flight() || (prefill_held && request.is_prefilling()) {
                index += 1;
                continue;
            }
            match self.make_room(slot, tokens, budget, &mut index, step) {
                Room::Made => {
                    self.extend(slot, tokens, step);
                    *budget -= tokens;
                    index += 1;
                }
                Room::PreemptedItself if self.scan_goes_on() => {}
                Room::PreemptedItself | Room::Wait => break,
            }
        }
    }

    fn scan_goes_on(&self) -> bool {
        self.config.scheduling_policy == SchedulingPolicy::Priority && self.config.vllm_version >= VllmVersion::V0_33
    }

    /// Preempts until the next `tokens` tokens of a running request have blocks.
    fn make_room(&mut self, slot: Slot, tokens: u32, budget: &mut u32, index: &mut usize, step: &mut Step) -> Room {
        loop {
            let request = self.requests[slot.0 as usize].as_ref().expect("a running request");
            let blocks = self.kv.blocks_for(request.computed + tokens);
            let needed = blocks.saturating_sub(request.blocks.len() as u32);
            if needed <= self.kv.pool.num_free() {
                return Room::Made;
            }
            let position = self.victim();
            if self.config.vllm_version >= VllmVersion::V0_32 && self.defers_free(self.running[position]) {
                return Room::Wait;
            }
            let victim = self.running.remove(position);
            // A victim that already has tokens in this iteration gives them back.
            if let Some(entry) = step.entries.iter().position(|entry| entry.slot == victim) {
                step.entries.remove(entry);
                *budget += step.iteration.scheduled.remove(entry).tokens;
                *index -= 1;
            }
            self.preempt(victim, &mut step.iteration);
            if victim == slot {
                return Room::PreemptedItself;
            }
        }
    }

    /// Position in the running list of the request that a preemption hits.
    fn victim(&self) -> usize {
        let last = self.running.len() - 1;
        match (self.config.scheduling_policy, self.config.preemption_mode) {
            (SchedulingPolicy::Priority, _) => {
                let rank = |slot: Slot| self.requests[slot.0 as usize].as_ref().map(|request| request.key.rank());
                // Of equals, the one that was admitted first.
                (0..=last).rev().max_by_key(|&position| rank(self.running[position])).unwrap_or(last)
            }
            (SchedulingPolicy::Fcfs, PreemptionMode::Lifo) => last,
            (SchedulingPolicy::Fcfs, PreemptionMode::Fifo) => 0,
        }
    }

    /// Takes the blocks of a request that was running and puts it back into the waiting queue.
    fn preempt(&mut self, slot: Slot, iteration: &mut Iteration) {
        self.free_blocks(slot);
        let drops_output = self.config.kv_role == Some(KvRole::KvProducer);
        let request = self.requests[slot.0 as usize].as_mut().expect("a running request");
        request.status = Status::Preempted;
        request.computed = 0;
        let in_flight = std::mem::take(&mut request.placeholders);
        if drops_output {
            request.dropped += in_flight;
        } else {
            request.stale += in_flight;
        }
        request.preemptions += 1;
        request.prompt_was_transferred = false;
        iteration.preempted.push(request.id);
        let (key, known) = (request.key, request.known());
        self.waiting.push_preempted(slot, key);
        if self.kv.blocks_for(known) > self.config.usable_blocks() {
            self.give_up(slot, Rejection::KvCapacity { tokens: known }, iteration);
        }
    }

    /// Removes a request that waits and can never be served.
    fn give_up(&mut self, slot: Slot, reason: Rejection, iteration: &mut Iteration) {
        self.waiting.remove(slot);
        iteration.rejected.push((self.request(slot).id, reason));
        self.remove(slot);
    }

    /// Forgets a request that is in no queue and has no blocks.
    pub(super) fn remove(&mut self, slot: Slot) {
        debug_assert!(self.request(slot).blocks.is_empty());
        self.requests[slot.0 as usize] = None;
        self.free_slots.push(slot);
    }

    /// Requests whose KV has arrived, in order; those that still wait for it are passed over.
    ///
    /// Returns whether all of them were admitted, so that the waiting queue comes next.
    fn admit_loaded(&mut self, budget: &mut u32, cap: u32, step: &mut Step) -> bool {
        let mut position = 0;
        while position < self.loading.len() && self.may_admit(*budget) {
            let Loading { slot, received, .. } = self.loading[position];
            if !received {
                position += 1;
                continue;
            }
            let watermark = self.watermark();
            let request = self.requests[slot.0 as usize].as_mut().expect("a loading request");
            self.kv.store(request, request.computed);
            // At least one token is computed here, or none would come out.
            request.computed = request.computed.min(request.known() - 1);
            let tokens = (request.known() - request.computed).min(cap).min(*budget);
            let blocks = self.kv.blocks_for(request.computed + tokens);
            let needed = blocks.saturating_sub(request.blocks.len() as u32);
            if needed + watermark > self.kv.pool.num_free() {
                return false;
            }
            self.loading.remove(position);
            let cached_tokens = request.computed;
            self.admit(slot, tokens, cached_tokens, 0, step);
            *budget -= tokens;
        }
        true
    }

    fn may_admit(&self, budget: u32) -> bool {
        budget > 0 && self.running.len() < self.config.max_num_seqs as usize
    }

    /// Waiting requests in order, until one does not fit.
    fn admit_waiting(&mut self, now: Time, budget: &mut u32, cap: u32, prefill_held: bool, step: &mut Step) {
        while self.may_admit(*budget) {
            let Some(slot) = self.waiting.peek() else { return };
            let mut hits = std::mem::take(&mut self.hits);
            let admission = self.try_admit(slot, now, &mut hits, budget, cap, prefill_held, step);
            self.hits = hits;
            if !admission {
                return;
            }
        }
    }

    fn try_admit(
        &mut self,
        slot: Slot,
        now: Time,
        hits: &mut Vec<BlockId>,
        budget: &mut u32,
        cap: u32,
        prefill_held: bool,
        step: &mut Step,
    ) -> bool {
        let request = self.requests[slot.0 as usize].as_mut().expect("a waiting request");
        if request.stale > 0 {
            return false;
        }
        let known = request.known();
        if self.kv.blocks_for(known) > self.config.usable_blocks() {
            self.give_up(slot, Rejection::KvCapacity { tokens: known }, &mut step.iteration);
            return true;
        }
        self.kv.find_hits(request, hits);
        let hit_tokens = hits.len() as u32 * self.config.block_size;
        let free_hits = self.kv.count_free(hits);
        let free = self.kv.pool.num_free();
        let whole = self.kv.blocks_for(known) - hits.len() as u32 + free_hits;

        if let Some(transfer) = request.remote_prefill {
            if whole + self.reserved_blocks() + self.watermark() > free {
                return false;
            }
            let missing = known - hit_tokens;
            let request = self.requests[slot.0 as usize].as_mut().expect("a waiting request");
            let end = now + transfer.for_tokens(missing, known);
            self.kv.allocate(request, hits, self.kv.blocks_for(known));
            request.remote_prefill = None;
            request.prompt_was_transferred = true;
            request.computed = known;
            request.status = Status::Loading;
            step.iteration.transfers.push(Transfer { id: request.id, tokens: missing, end });
            self.waiting.pop();
            let received = self.config.kv_role.is_none() && end <= now;
            let position = self.loading_position(slot);
            self.loading.insert(position, Loading { slot, end, received });
            if received {
                step.iteration.received.push(self.request(slot).id);
                self.admit_loaded(budget, cap, step);
            }
            return true;
        }

        if prefill_held && known - hit_tokens > 1 {
            return false;
        }
        let mut tokens = (known - hit_tokens).min(cap);
        if !self.config.enable_chunked_prefill && tokens > *budget {
            return false;
        }
        tokens = tokens.min(*budget);
        let blocks = self.kv.blocks_for(hit_tokens + tokens);
        let needed = if self.config.scheduler_reserve_full_isl {
            whole
        } else {
            blocks - hits.len() as u32 + free_hits
        };
        if needed + self.watermark() > free {
            return false;
        }
        self.waiting.pop();
        let request = self.requests[slot.0 as usize].as_mut().expect("a waiting request");
        self.kv.allocate(request, hits, hits.len() as u32);
        request.computed = hit_tokens;
        self.admit(slot, tokens, hit_tokens, 0, step);
        *budget -= tokens;
        true
    }

    /// Where a request goes among those whose KV is on its way: in order of the policy.
    fn loading_position(&self, slot: Slot) -> usize {
        let key = |slot: Slot| self.requests[slot.0 as usize].as_ref().map(|request| request.key);
        match self.config.scheduling_policy {
            SchedulingPolicy::Fcfs => self.loading.len(),
            SchedulingPolicy::Priority => self.loading.partition_point(|other| key(other.slot) < key(slot)),
        }
    }

    /// Blocks that an admission leaves free.
    fn watermark(&self) -> u32 {
        if self.running.is_empty() { 0 } else { self.config.watermark_blocks }
    }

    /// Blocks that requests in flight will still take for what they already know.
    fn reserved_blocks(&self) -> u32 {
        let request = |slot: &Slot| self.requests[slot.0 as usize].as_ref();
        let remaining = |request: &Request| {
            self.kv.blocks_for(request.known()).saturating_sub(request.blocks.len() as u32)
        };
        self.running.iter().filter_map(request).map(remaining).sum()
    }

    /// Moves a request to the running list and gives it its first tokens.
    fn admit(&mut self, slot: Slot, tokens: u32, cached_tokens: u32, first_new_block: u32, step: &mut Step) {
        self.running.push(slot);
        let request = self.request(slot);
        request.status = Status::Running;
        let (id, resumed) = (request.id, request.preemptions > 0);
        step.iteration.admitted.push(Admitted { id, cached_tokens, resumed });
        self.extend_from(slot, tokens, first_new_block, step);
    }

    fn extend(&mut self, slot: Slot, tokens: u32, step: &mut Step) {
        let first_new_block = self.request(slot).blocks.len() as u32;
        self.extend_from(slot, tokens, first_new_block, step);
    }

    /// Gives a running request blocks for its next `tokens` tokens and an entry in the iteration.
    fn extend_from(&mut self, slot: Slot, tokens: u32, first_new_block: u32, step: &mut Step) {
        let request = self.requests[slot.0 as usize].as_mut().expect("a running request");
        let end = request.computed + tokens;
        let blocks = self.kv.blocks_for(end).max(request.blocks.len() as u32);
        self.kv.allocate(request, &[], blocks);
        self.kv.store(request, end.min(request.known()));
        let samples = end == request.scheduled_to();
        step.iteration.scheduled.push(Scheduled { id: request.id, tokens, computed: request.computed });
        step.entries.push(Entry { slot, id: request.id, samples, first_new_block });
    }

    /// Counts what was scheduled as computed, and describes it to the latency model.
    fn commit(&mut self, step: &mut Step) {
        let Step { iteration, batch, entries } = step;
        for (entry, scheduled) in entries.iter().zip(&iteration.scheduled) {
            let request = self.requests[entry.slot.0 as usize].as_mut().expect("a scheduled request");
            let (start, end) = (scheduled.computed, scheduled.computed + scheduled.tokens);
            batch.add_tokens(start.into(), end.into());
            if start < request.prompt_tokens && !request.prompt_was_transferred {
                batch.add_prompt(start.into(), end.min(request.prompt_tokens).into());
            }
            let produced = request.outputs + request.placeholders;
            if entry.samples && (produced > 0 || request.prompt_was_transferred) {
                batch.add_decode(end.into());
            }
            request.computed = end;
            request.last_iteration = self.decided;
            if start + 1 < request.scheduled_to() {
                self.last_prefill = self.decided;
            }
            if entry.samples {
                request.placeholders += 1;
            }
            if self.trace_blocks {
                iteration.block_ids.extend_from_slice(&request.blocks[entry.first_new_block as usize..]);
            }
        }
        iteration.num_running = self.running.len() as u32;
        iteration.num_waiting = self.num_waiting() as u32;
        iteration.free_blocks_after_schedule = self.kv.pool.num_free();
    }

    /// Gives up the head of the queue if nothing that is under way could ever make room for it.
    ///
    /// Returns whether there was one.
    pub(crate) fn give_up_if_stuck(&mut self, iteration: &mut Iteration) -> bool {
        let stuck = self.running.is_empty() && self.loading.is_empty() && self.held.is_empty();
        let Some(slot) = self.waiting.peek().filter(|_| stuck) else { return false };
        let tokens = self.request(slot).known();
        let budget = self.config.max_num_batched_tokens;
        let unchunkable = !self.config.enable_chunked_prefill && tokens > budget;
        let reason =
            if unchunkable { Rejection::Unchunkable { tokens, budget } } else { Rejection::KvCapacity { tokens } };
        self.give_up(slot, reason, iteration);
        true
    }

    /// The next time at which a transfer ends.
    pub(crate) fn next_transfer_end(&self, now: Time) -> Option<Time> {
        let loading = self.loading.iter().filter(|loading| !loading.received).map(|loading| loading.end);
        let held = self.held.iter().filter_map(|&(_, end)| end);
        loading.chain(held).filter(|&end| end > now).min()
    }

    /// Whether a transfer has ended that no iteration has noticed yet.
    pub(crate) fn has_news(&self, now: Time) -> bool {
        let received = self.loading.iter().any(|loading| !loading.received && loading.end <= now);
        received || self.held.iter().any(|&(_, end)| end.is_some_and(|end| end <= now))
    }

    /// Takes the blocks of a request away; they are free at once, or when what is in flight has run.
    pub(super) fn free_blocks(&mut self, slot: Slot) {
        let defers = self.defers_free(slot);
        let request = self.requests[slot.0 as usize].as_mut().expect("a request with blocks");
        if defers {
            self.deferred.push_back((request.last_iteration, std::mem::take(&mut request.blocks)));
            request.stored = 0;
        } else {
            self.kv.free(request);
        }
    }

    /// Whether blocks of a request that are freed now may still be written to by an iteration in flight: a consumer
    /// of remote KV under asynchronous scheduling frees them only when that has ended.
    fn defers_free(&self, slot: Slot) -> bool {
        let in_flight = self.requests[slot.0 as usize].as_ref().is_some_and(|request| request.last_iteration > self.ended);
        in_flight && self.config.async_scheduling && self.config.kv_role == Some(KvRole::KvConsumer)
    }

    /// Whether the real connector's poll is simulated, which notices transfers late.
    pub(crate) fn polls(&self) -> bool {
        matches!(self.config.kv_role, Some(KvRole::KvConsumer | KvRole::KvProducer))
    }
}

enum Room {
    Made,
    PreemptedItself,
    /// Blocks are about to be freed: neither run nor preempt.
    Wait,
}
