//! Requests whose KV comes from elsewhere, from the memory of the host or from another worker: what they take while it is on
//! its way, and how they start when it is here.

use servecast_types::Time;

use super::admission::{Decided, Fit, Tried};
use super::groups::Need;
use super::request::{Request, Status};
use super::scheduler::{Loading, Round, Scheduler};
use crate::args::SchedulingPolicy;
use crate::iteration::{Iteration, Joined, Transfer};
use crate::step::{Entry, Step};
use crate::table::Slot;
use crate::{Fetch, Links};

impl Scheduler {
    /// Requests whose KV has arrived, in order; those that still wait for it are passed over.
    ///
    /// Returns whether all of them were admitted, so that the waiting queue comes next.
    pub(super) fn admit_loaded(&mut self, round: &mut Round, step: &mut Step) -> bool {
        let mut position = 0;
        while position < self.loading.len() && self.may_admit(round) {
            let Loading { slot, received, .. } = self.loading[position];
            if !received {
                position += 1;
                continue;
            }
            let request = &mut self.requests[slot];
            self.kv.store(request, request.computed);
            if self.lacks_adapter(slot) {
                position += 1;
                continue;
            }
            let request = &mut self.requests[slot];
            // At least one token is computed here, or none would come out.
            let loaded = request.computed;
            request.computed = loaded.min(request.known() - 1);
            request.host_tokens = request.host_tokens.saturating_sub(loaded - request.computed);
            let missing = request.known() - request.computed;
            // Of what was on its way, the host may have had a part only.
            if round.prefill_held && missing > 1 {
                return false;
            }
            let joins = self.config.trtllm.is_some();
            let ends = joins && request.is_complete(self.config.max_model_len);
            let joined = Joined { id: request.id, is_finished: ends };
            let request = &self.requests[slot];
            let Some(tokens) = self.first_tokens(request.computed, missing, round) else {
                return false;
            };
            let computed = request.computed;
            let tokens = self.align_chunk(slot, computed, tokens);
            if tokens == 0 {
                return false;
            }
            let tokens = self.first_leaving_lookahead(&self.requests[slot], computed, tokens, round);
            if tokens == 0 {
                position += 1;
                continue;
            }
            let end = computed + tokens;
            // Its host may have had a part of the prompt only, and the rest has to fit.
            let gated = self.config.scheduler_reserve_full_isl && missing > 1;
            let known = if gated { request.known() } else { 0 };
            let needed = self.kv.make_way(&mut self.requests[slot], end, known);
            if !ends && needed + self.watermark() > self.kv.num_free() {
                self.free_loaded_unless_others_will(position, &mut step.iteration);
                return false;
            }
            self.loading.remove(position);
            if joins {
                step.iteration.joined.push(joined);
            }
            if ends {
                self.finish(slot);
            } else {
                self.admit(slot, tokens, round, step);
            }
        }
        true
    }

    /// Takes the blocks of the last request whose KV is here but the one in `position`, which needs more, if nobody else can
    /// free any: each of them waits for the others' blocks, in the real scheduler for ever.
    fn free_loaded_unless_others_will(&mut self, position: usize, iteration: &mut Iteration) {
        if self.running.is_empty()
            && !self.awaits_blocks()
            && let Some(last) = (0..self.loading.len()).rev().find(|&other| other != position)
            && let Some(Loading { slot, .. }) = self.loading.remove(last)
        {
            self.preempt(slot, iteration);
        }
    }

    /// Whether blocks wait for transfers.
    pub(super) fn awaits_blocks(&self) -> bool {
        self.loading.iter().any(|loading| !loading.received) || !self.held.is_empty() || self.copies_kv()
    }

    /// How many of the first `known` tokens of a request are fetched. Several MTP modules read ahead of the prompt, and what
    /// they would read of the end is the first token of the side that decodes, which therefore computes it.
    pub(super) fn fetched_tokens(&self, known: u32) -> u32 {
        let speculation = self.config.speculation.as_ref().filter(|_| self.polls());
        let left = speculation.map_or(0, |speculation| speculation.prefill_lookahead.saturating_sub(1));
        if known > left { known - left } else { known }
    }

    /// Admits a request that hits all that would be fetched; the other side learns that it is done.
    pub(super) fn admit_all_but_its_end(
        &mut self,
        slot: Slot,
        fit: Fit,
        round: &mut Round,
        step: &mut Step,
        links: &mut dyn Links,
    ) -> Tried {
        let tried = self.admit_local(slot, fit, round, step);
        if tried == Tried::Gone {
            let request = &mut self.requests[slot];
            request.remote_prefill = false;
            links.begin(Fetch { id: request.id, tokens: 0, of_tokens: fit.known }, round.now);
        }
        tried
    }

    /// Gives a request blocks for what it hits and for `tokens` tokens that the host has, and begins to load these.
    pub(super) fn start_load(
        &mut self,
        slot: Slot,
        fit: Fit,
        tokens: u32,
        round: &Round,
        step: &mut Step,
    ) -> bool {
        let up_to = fit.hit_tokens + tokens;
        // What others were promised is left for what is taken now, not for what follows.
        // Up to 0.15 nothing is, which would leave those who are loaded waiting for each other if nobody else ran.
        let promises = self.offload.as_ref().is_some_and(|offload| offload.defers_free());
        let reserved =
            if promises || self.running.is_empty() { self.reserved_blocks(round.split(step)) } else { 0 };
        if !self.has_room_for_fetch(slot, fit, up_to, reserved) {
            return false;
        }
        self.take_blocks_of_fetch(slot, fit, up_to).host_tokens = tokens;
        let offload = self.offload.as_mut().expect("only it has tokens at the host");
        offload.load(&mut self.requests[slot], fit.hit_tokens, up_to, false, &mut step.iteration);
        self.await_transfer(slot, Time::MAX, round.now);
        true
    }

    /// Gives a request blocks for its whole prompt, and begins to fetch what it does not hit.
    pub(super) fn start_transfer(
        &mut self,
        slot: Slot,
        fit: Fit,
        round: &mut Round,
        step: &mut Step,
        links: &mut dyn Links,
    ) -> bool {
        if !self.has_room_for_transfer(slot, fit, round.split(step)) {
            return false;
        }
        let up_to = self.fetched_tokens(fit.known);
        let missing = up_to - fit.hit_tokens;
        let has_token = self.config.trtllm.is_some();
        let request = self.take_blocks_of_fetch(slot, fit, up_to);
        request.remote_prefill = false;
        request.prompt_was_here = true;
        if has_token {
            // It came with the prompt's KV.
            request.outputs = 1;
        }
        let id = request.id;
        let begun = links.begin(Fetch { id, tokens: missing, of_tokens: up_to }, round.now);
        let end = begun.end_or_max();
        step.iteration.transfers.push(Transfer { id, tokens: missing, end: begun.end() });
        self.await_transfer(slot, end, round.now);
        if !self.polls() && end <= round.now {
            step.iteration.received.push(id);
            self.admit_loaded(round, step);
        }
        true
    }

    /// The next request of the queue gets blocks for its first `up_to` tokens, and waits for those that it does not hit.
    fn take_blocks_of_fetch(&mut self, slot: Slot, fit: Fit, up_to: u32) -> &mut Request {
        self.waiting.pop();
        let room = self.room_of_transfer(up_to);
        let request = &mut self.requests[slot];
        match &mut self.kv.groups {
            Some(groups) => groups.fetch(request, fit.hit_tokens, up_to),
            None => self.kv.allocate(request, &self.hits.blocks, self.kv.blocks_for(room)),
        }
        request.computed = up_to;
        request.status = Status::Loading;
        request
    }

    pub(super) fn has_room_for_transfer(&self, slot: Slot, fit: Fit, decided: Decided<'_>) -> bool {
        if self.config.no_evict.is_some() {
            return self.has_room(slot, fit, fit.known);
        }
        self.has_room_for_fetch(slot, fit, self.fetched_tokens(fit.known), self.reserved_blocks(decided))
    }

    /// Whether a waiting request can get blocks for its first `up_to` tokens, which are hit or fetched, so that `reserved`
    /// others stay free; and for all that it knows, if that has to fit.
    fn has_room_for_fetch(&self, slot: Slot, fit: Fit, up_to: u32, reserved: u32) -> bool {
        let all = if self.config.scheduler_reserve_full_isl { fit.known.max(up_to) } else { up_to };
        let blocks = |tokens| self.blocks_to_take(fit, self.room_of_transfer(tokens));
        let (taken, in_all) = match &self.kv.groups {
            Some(groups) => {
                let needed = |tokens, need| groups.needed(&self.requests[slot], tokens, up_to, need);
                (needed(up_to, Need::Fetch), needed(all, Need::Admission))
            }
            None => (blocks(up_to), blocks(all)),
        };
        (taken + reserved).max(in_all) + self.watermark() <= self.kv.num_free()
    }

    /// Tokens for which a request gets blocks when `up_to` of it are fetched. Where a token comes with them and nothing was
    /// promised, that one's place is taken at once: those whose KV has arrived could wait for each other otherwise.
    fn room_of_transfer(&self, up_to: u32) -> u32 {
        up_to + u32::from(self.config.trtllm.is_some() && self.config.no_evict.is_none())
    }

    /// Puts a request among those whose KV is on its way, in order of the policy; where a program orders the queue, in that
    /// in which they left it.
    fn await_transfer(&mut self, slot: Slot, end: Time, now: Time) {
        let key = |slot: Slot| self.requests[slot].key;
        let by_priority =
            self.config.scheduling_policy == SchedulingPolicy::Priority && self.config.order.is_none();
        let position = if by_priority {
            self.loading.partition_point(|other| key(other.slot) < key(slot))
        } else {
            self.loading.len()
        };
        let received = !self.polls() && end <= now;
        self.loading.insert(position, Loading { slot, end, from: self.decided + 1, received });
    }

    /// Blocks that requests whose prompts are not computed yet will still take: for what they know, and for their first
    /// verification. What the iteration being decided computes is not there yet.
    fn reserved_blocks(&self, (before, fresh): Decided<'_>) -> u32 {
        let requests = self.running[self.num_members()..].iter().copied();
        let verification = self.verification_tokens();
        let of = |entries: &[Entry], slot| entries.iter().find(|entry| entry.slot == slot).copied();
        let prefills = |slot: Slot| match (of(before, slot), of(fresh, slot)) {
            (_, Some(entry)) => !entry.samples,
            // Its KV has arrived just now.
            (Some(entry), None) if entry.first_new_block == 0 => true,
            _ => self.requests[slot].is_mid_prefill,
        };
        let prefilling = requests.filter(|&slot| verification == 0 || prefills(slot));
        let loading = self.loading.iter().map(|loading| loading.slot);
        let loading = loading.filter(|_| verification > 0 || self.offload.is_some());
        let others: u32 = prefilling
            .chain(loading)
            .map(|slot| {
                let request = &self.requests[slot];
                if let Some(groups) = &self.kv.groups {
                    return groups.outstanding(request, verification);
                }
                let blocks = self.kv.blocks_for(request.known() + verification);
                blocks.saturating_sub(request.blocks.len() as u32)
            })
            .sum();
        // One iteration ahead, what a member knows is computed already, or in flight.
        let members = if self.stretch.lead() == 0 { self.stretch.num_opening() } else { 0 };
        members + others + self.verification_blocks()
    }
}
