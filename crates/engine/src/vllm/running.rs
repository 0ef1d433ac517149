//! The first half of `Scheduler.schedule()`: tokens for the running requests, and preemption when blocks run out.

use super::request::{Request, Status};
use super::scheduler::{Round, Scheduler};
use crate::Rejection;
use crate::args::{KvRole, PreemptionMode, SchedulingPolicy, VllmVersion};
use crate::iteration::Iteration;
use crate::step::Step;
use crate::table::Slot;

/// As `STARVED_AFTER`, in the peer's `fifo` mode, where requests evict each other all the time.
const SPARED_AFTER: u32 = 8;

/// How the search for free blocks ended.
enum Room {
    Made,
    PreemptedItself,
    /// Blocks are about to be freed: neither run nor preempt.
    Wait,
}

impl Scheduler {
    /// Running requests in order, behind those of a stretch: each gets what it still has to compute, within the budget.
    pub(super) fn schedule_running(&mut self, round: &mut Round, step: &mut Step) {
        let mut index = self.num_members();
        while index < self.running.len() && round.left() > 0 {
            let slot = self.running[index];
            let tokens = self.tokens_to_run(slot, round);
            if tokens == 0 {
                index += 1;
                continue;
            }
            match self.make_room(&mut index, tokens, round, step) {
                Room::Made => {
                    let first_new_block = self.requests[slot].blocks.len() as u32;
                    round.prefill_runs |= self.requests[slot].is_mid_prefill;
                    self.schedule_tokens(slot, tokens, first_new_block, step);
                    round.spend(tokens);
                    index += 1;
                }
                Room::PreemptedItself if self.scan_continues() => {}
                Room::PreemptedItself | Room::Wait => break,
            }
        }
    }

    /// Tokens that a running request computes in this iteration; none if it has to be passed over.
    pub(super) fn tokens_to_run(&self, slot: Slot, round: &Round) -> u32 {
        let request = &self.requests[slot];
        if request.ends_in_flight()
            || (round.prefill_held && request.is_mid_prefill)
            || (self.config.pipeline.stages > 1 && self.config.async_scheduling && self.is_under_way(request))
        {
            return 0;
        }
        let room = (self.config.max_model_len - 1).saturating_sub(request.computed);
        // In a pipeline that is not decided ahead, what was computed last may be drafts that are not verified yet.
        let wanted = (request.scheduled_to() + u32::from(request.drafts)).saturating_sub(request.computed);
        let tokens = wanted.min(round.cap).min(round.left()).min(room);
        self.leaving_lookahead(request, self.align_chunk(slot, request.computed, tokens))
    }

    /// Whether a request that decodes has to wait for as many decisions as there are stages, where they are made ahead;
    /// chunks of a prompt follow each other.
    #[inline(never)]
    fn is_under_way(&self, request: &Request) -> bool {
        let eligible = request.last_iteration + u64::from(self.config.pipeline.stages);
        !request.is_mid_prefill && self.decided + 1 < eligible
    }

    /// Whether results come when later iterations have been decided, and yet nothing counts on them: a pipeline without
    /// asynchronous scheduling. A request then waits for its tokens since it wants none, and its drafts come with them.
    pub(super) fn awaits_results(&self) -> bool {
        self.config.pipeline.stages > 1 && !self.config.async_scheduling
    }

    /// Cuts the next `tokens` tokens of a request, of which `computed` are computed or hit, where a state is to be kept.
    pub(super) fn align_chunk(&self, slot: Slot, computed: u32, tokens: u32) -> u32 {
        let Some(groups) = &self.kv.groups else { return tokens };
        let threshold = self.config.long_prefill_token_threshold;
        let limit = if threshold > 0 { threshold } else { u32::MAX };
        let limit = limit.min(self.config.max_num_batched_tokens);
        groups.align_chunk(&self.requests[slot], computed, tokens, limit)
    }

    fn preempts_oldest(&self) -> bool {
        self.config.scheduling_policy == SchedulingPolicy::Fcfs
            && self.config.preemption_mode == PreemptionMode::Fifo
    }

    fn scan_continues(&self) -> bool {
        self.config.scheduling_policy == SchedulingPolicy::Priority
            && self.config.vllm_version >= VllmVersion::V0_33
    }

    /// Preempts until the next `tokens` tokens of a running request have blocks.
    ///
    /// `index` is its position in the running list, and follows it.
    fn make_room(&mut self, index: &mut usize, tokens: u32, round: &mut Round, step: &mut Step) -> Room {
        let slot = self.running[*index];
        let end = self.requests[slot].computed + tokens;
        let needed = self.kv.make_way(&mut self.requests[slot], end, 0);
        while needed > self.kv.num_free() {
            assert!(self.config.no_evict.is_none(), "what was promised at admission is free");
            let position = self.victim();
            let victim = self.running[position];
            if self.defers_free(victim) && self.waits_for_deferred(victim) {
                return Room::Wait;
            }
            self.running.remove(position);
            self.vacate_adapter(victim);
            // As in the peer's `fifo` mode, a victim there does not set the scan back.
            if position < *index && !self.preempts_oldest() {
                *index -= 1;
            }
            // A victim that already has tokens in this iteration gives them back.
            if let Some(entry) = step.entries.iter().position(|entry| entry.slot == victim) {
                step.entries.remove(entry);
                round.take_back(step.iteration.scheduled.remove(entry).tokens);
            }
            self.preempt(victim, &mut step.iteration);
            if victim == slot {
                return Room::PreemptedItself;
            }
        }
        Room::Made
    }

    /// Whether a request waits for blocks rather than preempt `victim`, whose blocks would be freed late.
    ///
    /// Before 0.32 it does not, so that everybody may be preempted at once; but not for ever.
    fn waits_for_deferred(&self, victim: Slot) -> bool {
        self.config.vllm_version >= VllmVersion::V0_32 || self.requests[victim].is_starved()
    }

    /// Position in the running list of the request that a preemption hits.
    ///
    /// Where that is not the last one, requests could evict each other for ever before any of them gets a token, so
    /// a starved one is spared as long as there is another.
    fn victim(&self) -> usize {
        let last = self.running.len() - 1;
        let request = |position: usize| -> &Request { &self.requests[self.running[position]] };
        match (self.config.scheduling_policy, self.config.preemption_mode) {
            (SchedulingPolicy::Priority, _) => {
                // Of equals, the one that was admitted first.
                let rank = (0..=last).map(|position| request(position).key.rank()).max();
                let of_rank = || (0..=last).filter(|&position| Some(request(position).key.rank()) == rank);
                let not_starved = of_rank().find(|&position| !request(position).is_starved());
                not_starved.or_else(|| of_rank().next_back()).unwrap_or(last)
            }
            (SchedulingPolicy::Fcfs, PreemptionMode::Lifo) => last,
            (SchedulingPolicy::Fcfs, PreemptionMode::Fifo) => {
                let is_spared = |position: usize| request(position).preemptions_in_vain >= SPARED_AFTER;
                (0..=last).find(|&position| !is_spared(position)).unwrap_or(last)
            }
        }
    }

    /// Takes the blocks of a request that has left the running list, or those with its KV, and puts it back into the waiting
    /// queue.
    pub(super) fn preempt(&mut self, slot: Slot, iteration: &mut Iteration) {
        self.free_blocks(slot);
        let drops_output = self.config.kv_role == Some(KvRole::KvProducer);
        let request = &mut self.requests[slot];
        request.status = Status::Preempted;
        request.computed = 0;
        request.placeholders = 0;
        request.is_mid_prefill = false;
        (request.drafts, request.real_drafts) = (0, 0);
        let in_flight = u32::from(std::mem::take(&mut request.sampling));
        // A request that is about to outgrow the cache would compute dropped tokens again and again.
        if drops_output && !request.is_starved() {
            request.dropped += in_flight;
        } else {
            request.stale += in_flight;
        }
        request.preemptions += 1;
        request.preemptions_in_vain += 1;
        request.prompt_was_here = false;
        request.host_tokens = 0;
        iteration.preempted.push(request.id);
        let (place, known) = (request.place(), request.known());
        self.waiting.push_preempted(slot, place);
        if !self.kv.holds(known, &self.config) || self.is_in_its_own_way(slot) {
            self.give_up(slot, Rejection::KvCapacity { tokens: known }, iteration);
        }
    }

    /// Whether a request that was just preempted has all memory to itself, again and again, and it is not enough: groups of
    /// layers can hold more between two iterations than all its tokens need in the end. The real scheduler goes round for
    /// ever.
    fn is_in_its_own_way(&self, slot: Slot) -> bool {
        let request = &self.requests[slot];
        request.is_hopeless() && self.running.is_empty() && self.kv.num_free() == self.config.usable_blocks()
    }
}
