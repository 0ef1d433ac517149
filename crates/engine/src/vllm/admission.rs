//! The second half of `Scheduler.schedule()`: which waiting requests start to run, and which are given up.

use servecast_types::Time;

use super::offload::AtHost;
use super::request::Status;
use super::scheduler::{Round, Scheduler};
use crate::iteration::{Admitted, Iteration};
use crate::step::{Entry, Step};
use crate::table::Slot;
use crate::trtllm::NoEvict;
use crate::{Links, Rejection};

/// What became of the head of the waiting queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// It left the queue.
    Gone,
    /// What it needs next is being computed, so that it waits, and others may go before it.
    PutOff,
    /// There is no room, and nobody else is looked at.
    Stays,
}

impl Tried {
    fn gone_if(is_gone: bool) -> Self {
        if is_gone { Self::Gone } else { Self::Stays }
    }
}

/// What the head of the waiting queue would find in the KV cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit {
    /// Tokens that are known: prompt and output so far.
    pub(super) known: u32,
    /// Tokens that it hits.
    pub(super) hit_tokens: u32,
    /// Blocks that it hits, where layers are no groups.
    pub(super) hit_blocks: u32,
    /// Those of them that are free now, so that hitting them takes them out of what can be allocated.
    pub(super) free_hits: u32,
    /// Tokens behind those that it hits which are loaded from the host before it runs.
    pub(super) host_tokens: u32,
}

/// Entries of the iteration being decided: of requests that ran or whose KV has arrived, and of those from the queue.
pub(super) type Decided<'a> = (&'a [Entry], &'a [Entry]);

impl Round {
    pub(super) fn split<'a>(&self, step: &'a Step) -> Decided<'a> {
        step.entries.split_at(self.queue_from)
    }
}

impl Scheduler {
    /// Waiting requests in order, until one does not fit.
    pub(super) fn admit_waiting(&mut self, round: &mut Round, step: &mut Step, links: &mut dyn Links) {
        if self.may_admit(round) {
            self.arrange_waiting(round.now);
        }
        while self.may_admit(round) {
            let Some(slot) = self.waiting.peek() else { break };
            match self.try_admit(slot, round, step, links) {
                Tried::Gone => {}
                Tried::PutOff => {
                    self.waiting.pop();
                    self.requests[slot].is_passed_over = true;
                    self.put_off.push(slot);
                }
                Tried::Stays => break,
            }
        }
        while let Some(slot) = self.put_off.pop() {
            self.waiting.push_preempted(slot, self.requests[slot].place());
        }
    }

    /// Puts the waiting requests in the order that a program has for them `now`, if they may change places.
    fn arrange_waiting(&mut self, now: Time) {
        let Some(order) = self.config.changing_order() else { return };
        let requests = &mut self.requests;
        self.waiting.arrange(|slot| {
            let request = &mut requests[slot];
            request.ask(order, now);
            request.place()
        });
    }

    /// Under TensorRT-LLM, who is put off keeps the place that it would have taken, so that no more are looked at than could
    /// run.
    pub(super) fn may_admit(&self, round: &Round) -> bool {
        let held = if self.config.trtllm.is_some() { self.put_off.len() } else { 0 };
        !round.batch_is_closed
            && round.left() > 0
            && self.running.len() + held < self.config.max_num_seqs as usize
    }

    /// Takes the head of the waiting queue out of it if that is possible now.
    fn try_admit(&mut self, slot: Slot, round: &mut Round, step: &mut Step, links: &mut dyn Links) -> Tried {
        if self.is_passed_over(slot, round.now) {
            return Tried::PutOff;
        }
        let request = &mut self.requests[slot];
        let known = request.known();
        if !self.kv.holds(known, &self.config) {
            self.give_up(slot, Rejection::KvCapacity { tokens: known }, &mut step.iteration);
            return Tried::Gone;
        }
        // vLLM leaves the last token to compute; under TensorRT-LLM's rule a whole prompt can be hit.
        let hittable = if self.config.trtllm.is_some() { known } else { known - 1 };
        let mut hit_tokens = self.kv.find_hits(request, hittable, &mut self.hits);
        if self.config.trtllm.is_some() && request.remote_prefill {
            // What is transferred goes into fresh blocks.
            self.hits.clear();
            hit_tokens = 0;
        }
        let (hit_blocks, free_hits) = (self.hits.len(), self.hits.free);
        let fit = Fit { known, hit_tokens, hit_blocks, free_hits, host_tokens: 0 };
        if self.requests[slot].remote_prefill && self.fetched_tokens(known) > hit_tokens {
            Tried::gone_if(self.start_transfer(slot, fit, round, step, links))
        } else if self.requests[slot].remote_prefill {
            self.admit_all_but_its_end(slot, fit, round, step, links)
        } else if self.is_coming(slot, fit.hit_blocks) {
            Tried::PutOff
        } else {
            match self.find_at_host(slot, hit_tokens) {
                AtHost::Nothing => self.admit_local(slot, fit, round, step),
                AtHost::Pending => Tried::PutOff,
                AtHost::Now(host_tokens) => self.admit_local(slot, Fit { host_tokens, ..fit }, round, step),
                AtHost::Tokens(tokens) => Tried::gone_if(self.start_load(slot, fit, tokens, round, step)),
            }
        }
    }

    /// Whether the block that a waiting request would compute first is being computed for another one.
    fn is_coming(&mut self, slot: Slot, hit_blocks: u32) -> bool {
        let request = &mut self.requests[slot];
        !self.coming.is_empty()
            && hit_blocks < request.prompt_tokens / self.config.block_size
            && request.hashes(hit_blocks + 1).get(hit_blocks).is_some_and(|next| self.coming.contains(&next))
    }

    /// Admits a request that computes what it does not hit, and what is not loaded before that.
    pub(super) fn admit_local(&mut self, slot: Slot, fit: Fit, round: &mut Round, step: &mut Step) -> Tried {
        let host_tokens = fit.host_tokens;
        let hit_tokens = fit.hit_tokens + host_tokens;
        let missing = (fit.known - hit_tokens).max(1);
        if round.prefill_held && missing > 1 {
            return Tried::Stays;
        }
        let computed = hit_tokens.min(fit.known - 1);
        let Some(tokens) = self.first_tokens(computed, missing, round) else {
            return Tried::Stays;
        };
        let tokens = self.align_chunk(slot, computed, tokens);
        if tokens == 0 {
            return Tried::Stays;
        }
        let tokens = self.first_leaving_lookahead(&self.requests[slot], computed, tokens, round);
        if tokens == 0 {
            return Tried::PutOff;
        }
        if !self.has_room(slot, fit, computed + tokens) {
            return Tried::Stays;
        }
        self.waiting.pop();
        let request = &mut self.requests[slot];
        match &mut self.kv.groups {
            Some(groups) => groups.adopt(request, fit.hit_tokens, hit_tokens),
            None => self.kv.allocate(request, &self.hits.blocks, fit.hit_blocks),
        }
        request.computed = computed;
        request.host_tokens = host_tokens;
        self.admit(slot, tokens, round, step);
        if let Some(offload) = self.offload.as_mut().filter(|_| host_tokens > 0) {
            offload.load(&mut self.requests[slot], fit.hit_tokens, hit_tokens, true, &mut step.iteration);
        }
        Tried::Gone
    }

    /// Whether a waiting request can start, its first tokens being those up to `up_to`.
    pub(super) fn has_room(&self, slot: Slot, fit: Fit, up_to: u32) -> bool {
        if let Some(no_evict) = self.config.no_evict {
            let in_use = self.hits.in_use();
            let outstanding = self.promised_blocks(no_evict);
            return no_evict.fits(&self.requests[slot], in_use, outstanding, self.kv.num_free());
        }
        let reserves = self.config.scheduler_reserve_full_isl || self.is_crowded_out(slot);
        if let Some(groups) = &self.kv.groups {
            let known = if reserves { fit.known } else { up_to };
            let first = (up_to, fit.hit_tokens + fit.host_tokens, fit.host_tokens);
            return groups.has_room(&self.requests[slot], known, first, self.watermark());
        }
        let tokens = self.kv.slots(up_to).max(if reserves { fit.known } else { 0 });
        self.blocks_to_take(fit, tokens) + self.watermark() <= self.kv.num_free()
    }

    /// Blocks that requests in flight were promised and have not taken yet.
    pub(super) fn promised_blocks(&self, no_evict: NoEvict) -> u32 {
        let loading = self.loading.iter().map(|loading| &loading.slot);
        let in_flight = self.running.iter().chain(loading);
        in_flight.map(|&slot| no_evict.outstanding(&self.requests[slot])).sum()
    }

    /// Whether a request was preempted although nobody else runs, since blocks wait for transfers.
    ///
    /// Without the admission gate it would start and preempt itself again and again until a transfer ends, which
    /// under a latency model that may give no time at all is never.
    fn is_crowded_out(&self, slot: Slot) -> bool {
        let blocks_wait = !self.held.is_empty() || !self.loading.is_empty();
        blocks_wait && !self.polls() && self.running.is_empty() && self.requests[slot].preemptions > 0
    }

    /// Moves a request to the running list and gives it its first tokens.
    pub(super) fn admit(&mut self, slot: Slot, tokens: u32, round: &mut Round, step: &mut Step) {
        self.running.push(slot);
        self.occupy_adapter(slot, step);
        let request = &mut self.requests[slot];
        request.status = Status::Running;
        request.is_passed_over = false;
        let resumed = request.preemptions > 0;
        let host_cached_tokens = std::mem::take(&mut request.host_tokens);
        let (id, cached_tokens) = (request.id, request.computed);
        // Drafts that came after it had lost its blocks are left for its next iteration.
        let drafts = request.drafts;
        step.iteration.admitted.push(Admitted { id, cached_tokens, host_cached_tokens, resumed });
        self.schedule_tokens(slot, tokens, 0, step);
        if step.entries.last().is_some_and(|entry| entry.drafted == 0) {
            self.requests[slot].drafts = drafts;
        }
        round.spend(tokens);
    }

    /// Free blocks that a waiting request takes when it gets room for its first `tokens` tokens.
    pub(super) fn blocks_to_take(&self, fit: Fit, tokens: u32) -> u32 {
        self.kv.blocks_for(tokens) - fit.hit_blocks + fit.free_hits
    }

    /// Blocks that an admission leaves free.
    pub(super) fn watermark(&self) -> u32 {
        if self.running.is_empty() { 0 } else { self.config.watermark_blocks }
    }

    /// Removes a request that waits, with or without KV that has arrived, and can never be served.
    pub(super) fn give_up(&mut self, slot: Slot, reason: Rejection, iteration: &mut Iteration) {
        self.give_up_at_host(slot);
        if let Some(position) = self.loading.iter().position(|loading| loading.slot == slot) {
            self.loading.remove(position);
            self.free_blocks(slot);
        } else {
            self.waiting.remove(slot);
        }
        iteration.rejected.push((self.requests[slot].id, reason));
        self.requests.remove(slot);
    }

    /// Gives up the first request that waits if nothing that is under way could ever make room for it. One whose KV has
    /// arrived comes before the head of the queue: what it lacks may be too much for an iteration.
    pub(crate) fn give_up_if_stuck(&mut self, iteration: &mut Iteration) {
        let stuck = self.running.is_empty() && !self.awaits_blocks() && self.grammars.is_empty();
        let arrived = self.loading.front().map(|loading| loading.slot);
        let Some(slot) = arrived.or_else(|| self.waiting.peek()).filter(|_| stuck) else { return };
        let tokens = self.requests[slot].known();
        let budget = self.config.request_budget();
        let unchunkable = !self.config.enable_chunked_prefill && tokens > budget;
        let reason = if unchunkable {
            Rejection::Unchunkable { tokens, budget }
        } else {
            Rejection::KvCapacity { tokens }
        };
        self.give_up(slot, reason, iteration);
    }
}
