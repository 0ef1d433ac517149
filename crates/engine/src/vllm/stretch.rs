//! The requests that decode as a [`Stretch`]: the first ones of the running list.
//!
//! An iteration decides and changes exactly what `schedule()` and `update()` would, if it asked request by request.

use servecast_latency::MOST_DECODES;
use servecast_types::{SequenceHash, Time};

use super::admission::Fit;
use super::request::{Request, Status};
use super::scheduler::{Round, Scheduler};
use crate::EngineConfig;
use crate::iteration::{Finished, Scheduled};
use crate::step::{Entry, Step};
use crate::stretch::{Change, Crossing, Ended, Member, Stretch};
use crate::stretch_scheduler::{Changes, StretchScheduler};
use crate::table::Slot;

/// An empty stretch of an engine, and the block size that it goes by, if requests of that can decode together.
pub(super) fn new_stretch(config: &EngineConfig) -> (Option<u32>, Stretch) {
    let lead = u32::from(config.async_scheduling);
    let Some(groups) = &config.kv_groups else {
        // With drafts nobody knows how many tokens an iteration gives.
        let period = Some(config.block_size).filter(|_| config.speculation.is_none());
        return (period, Stretch::new(lead.into()));
    };
    // What the host gets of groups is looked at in each iteration.
    let together = config.speculation.is_none() && config.offload.is_none();
    match groups.decode_phases(lead).filter(|_| together) {
        Some(phases) => (Some(phases.period), Stretch::with_phases(lead.into(), phases.phases)),
        None => (None, Stretch::new(lead.into())),
    }
}

impl Scheduler {
    /// How many of the running requests, from the first on, are members of the stretch.
    pub(super) fn num_members(&self) -> usize {
        self.stretch.members() as usize
    }

    /// Whether the settings allow for a stretch, and all that run fit into an iteration.
    fn may_stretch(&self) -> bool {
        let is_special = self.config.prefill_schedule_interval > 1
            || self.stretch_period.is_none()
            || !self.grammars.is_empty();
        !is_special && self.running.len() < self.config.max_num_batched_tokens as usize
    }

    /// Whether the next iterations are pure decode iterations of the stretch, the first of them decided `now`.
    fn only_decodes(&mut self, now: Time) -> bool {
        let all_decode = self.stretch.requests() > 0 && self.num_members() == self.running.len();
        all_decode && !self.notices_at_decision(now) && !self.may_make_way() && self.nobody_is_admitted()
    }

    /// Whether the next iteration may change what a waiting request finds, beside free blocks that are taken: where layers are
    /// groups, their members let go of blocks, and states that were stored can be hit some iterations later.
    fn may_make_way(&self) -> bool {
        self.waiting.len() > 0
            && (self.kv.groups.as_ref())
                .is_some_and(|groups| self.stretch.before_move() == 0 || groups.has_fresh_states())
    }

    /// Whether a decision `now` notices the end of a transfer.
    fn notices_at_decision(&self, now: Time) -> bool {
        !self.polls() && self.next_notice() <= now
    }

    /// Adds running requests that only decode from now on, in order of the running list, up to the first that does not. If
    /// there is no stretch, they begin one.
    fn enlist(&mut self) {
        let most = self.config.max_model_len;
        let Some(period) = self.stretch_period else { return };
        if self.num_members() == 0 {
            let (requests, decided, lead) = (&self.requests, self.decided, self.stretch.lead());
            let members =
                self.running.iter().map_while(|&slot| requests[slot].joins(slot, decided, lead, most));
            self.stretch.begin(period, members);
            self.members_told_of = 0;
            for &slot in &self.running[..self.num_members()] {
                let request = &mut self.requests[slot];
                request.joined = 0;
                self.members_told_of += u32::from(!request.has_private_output);
            }
        }
        while let Some(&slot) = self.running.get(self.num_members())
            && let request = &mut self.requests[slot]
            && let Some(member) = request.joins(slot, self.decided, self.stretch.lead(), most)
        {
            request.joined = self.stretch.done();
            self.members_told_of += u32::from(!request.has_private_output);
            self.stretch.join(member);
        }
    }

    /// Whether no waiting request can be admitted before a running one ends.
    fn nobody_is_admitted(&mut self) -> bool {
        self.first_missing = None;
        if self.running.len() >= self.config.max_num_seqs as usize || self.batch_is_closed() {
            return true;
        }
        let has_arrived = self.loading.iter().any(|loading| loading.received);
        if self.config.changing_order().is_some() {
            // Who is looked at next may be another one in each iteration.
            return !has_arrived && self.waiting.len() == 0;
        }
        // Adapters of running requests change only when one ends.
        let first = self.waiting.iter().find(|&slot| !self.lacks_adapter(slot));
        !has_arrived && first.is_none_or(|slot| self.cannot_be_admitted(slot))
    }

    /// Whether the head of the waiting queue cannot be admitted, however many iterations pass in which requests only
    /// decode and none of them stores [`Scheduler::first_missing`].
    ///
    /// Blocks are only taken in such iterations and contents only evicted. Each block that is taken makes one less free, and
    /// at most one of its hits, if that was free and there is a copy in use, cost nothing: it finds no more room than now.
    fn cannot_be_admitted(&mut self, slot: Slot) -> bool {
        let request = &mut self.requests[slot];
        let known = request.known();
        if request.stale > 0 || !self.kv.holds(known, &self.config) {
            return false;
        }
        let hittable = if self.config.trtllm.is_some() { known } else { known - 1 };
        let found = self.kv.find_hits(request, hittable, &mut self.hits);
        if self.kv.groups.is_some() {
            return self.has_no_room_in_groups(slot, known, found);
        }
        let hits = self.hits.len();
        let blocks = hittable / self.config.block_size;
        self.first_missing = (hits < blocks).then(|| request.hashes(blocks).get(hits)).flatten();
        if self.config.trtllm.is_some() && request.remote_prefill {
            self.hits.clear();
        }
        let hit_blocks = self.hits.len();
        let hit_tokens = hit_blocks * self.config.block_size;
        let fit = Fit { known, hit_tokens, hit_blocks, free_hits: self.hits.free, host_tokens: 0 };
        if self.requests[slot].remote_prefill {
            if self.config.no_evict.is_some() {
                return !self.has_room_for_transfer(slot, fit, ([].as_slice(), [].as_slice()));
            }
            // What members take until then is not added: they have it when the request is looked at. And a block that they
            // take may be one that it hits, of whose content somebody who runs has a copy, which it then hits for nothing.
            return self.blocks_to_take(fit, known) + self.watermark() > self.kv.num_free();
        }
        let budget = self.config.max_num_batched_tokens - self.stretch.requests() as u32;
        let tokens = (known - hit_tokens).max(1).min(self.long_prefill_cap());
        let may_not_be_cut = !self.config.enable_chunked_prefill && tokens > budget;
        if may_not_be_cut {
            return true;
        }
        if let Some(no_evict) = self.config.no_evict {
            // A free block that it hits may be evicted, and somebody who runs has a copy of it, which costs nothing.
            let outstanding = self.promised_blocks(no_evict);
            return !no_evict.fits(&self.requests[slot], hit_blocks, outstanding, self.kv.num_free());
        }
        // Under TensorRT-LLM's rule it may hit all that is known, of which one token is computed again.
        !self.has_room(slot, fit, hit_tokens.min(known - 1) + tokens.min(budget))
    }

    /// The same where layers are groups, of which it hits `hit_tokens` tokens: as long as their blocks do not change.
    fn has_no_room_in_groups(&self, slot: Slot, known: u32, hit_tokens: u32) -> bool {
        let fit = Fit { known, hit_tokens, hit_blocks: 0, free_hits: 0, host_tokens: 0 };
        if self.requests[slot].remote_prefill {
            return !self.has_room_for_transfer(slot, fit, ([].as_slice(), [].as_slice()));
        }
        let budget = self.config.max_num_batched_tokens - self.stretch.requests() as u32;
        let computed = hit_tokens.min(known - 1);
        let tokens = (known - hit_tokens).max(1).min(self.long_prefill_cap());
        let may_not_be_cut = !self.config.enable_chunked_prefill && tokens > budget;
        if may_not_be_cut {
            return true;
        }
        let tokens = self.align_chunk(slot, computed, tokens.min(budget));
        tokens == 0 || !self.has_room(slot, fit, computed + tokens)
    }

    /// Whether enough blocks are free for what the members need in the next iteration.
    fn has_room_for_members(&self) -> bool {
        self.kv.most_taken(self.stretch.num_opening()) <= self.kv.num_free()
    }

    /// Whether enough blocks are free for what all running requests need in the next iteration.
    fn has_room_for_running(&self) -> bool {
        // The number of scheduled tokens does not depend on the time.
        let mut round = self.round(Time::ZERO);
        round.spend(self.stretch.requests() as u32);
        let mut needed = self.kv.most_taken(self.stretch.num_opening());
        for &slot in &self.running[self.num_members()..] {
            let tokens = self.tokens_to_run(slot, &round);
            let request = &self.requests[slot];
            needed = needed.saturating_add(self.kv.blocks_to_run(request, request.computed + tokens));
            round.spend(tokens);
        }
        needed <= self.kv.num_free()
    }

    /// Gives the members of the stretch their next token, if there are any.
    pub(super) fn schedule_members(&mut self, round: &mut Round, step: &mut Step) {
        let members = self.stretch.requests();
        if members == 0 {
            return;
        }
        step.batch.add_decodes(self.stretch.work());
        step.iteration.decoded = members;
        round.spend(members as u32);
        self.cross_blocks();
        // The iteration after this one is to be planned anew.
        self.must_replan = true;
    }

    /// Allocates the blocks that members need in the next iteration, and puts those that they fill into the prefix cache,
    /// unless [nobody could hit them](super::kv::KvCache::stores_at_end).
    fn cross_blocks(&mut self) {
        let (decided, lead) = (self.stretch.done() + 1, self.stretch.lead() as u32);
        for &Change { slot, crossing, .. } in self.stretch.take_crossings() {
            let request = &mut self.requests[slot];
            let end = request.tokens_in(decided);
            match (crossing, &mut self.offload) {
                (Crossing::Moves, _) => {
                    let groups = self.kv.groups.as_mut().expect("only groups of layers move");
                    groups.decode(request, end, lead);
                }
                (Crossing::Opens, None) => self.kv.extend(request, end),
                (Crossing::Fills, None) if self.kv.stores_at_end(request) => {}
                (Crossing::Fills, None) => self.kv.store(request, end - lead),
                (Crossing::Opens, Some(offload)) => {
                    self.kv.extend(request, end);
                    offload.crosses(slot, request.blocks.last().copied());
                }
                (Crossing::Fills, Some(offload)) => {
                    if !self.kv.stores_at_end(request) {
                        self.kv.store(request, end - lead);
                    }
                    offload.crosses(slot, None);
                }
            }
        }
    }

    /// Whether a member fills, with the next iteration, the block that the head of the waiting queue would hit next. Then
    /// that request may be admitted in the same iteration.
    #[inline]
    fn fills_first_missing(&mut self) -> bool {
        self.first_missing.is_some_and(|first_missing| self.fills(first_missing))
    }

    fn fills(&mut self, first_missing: SequenceHash) -> bool {
        let known = self.stretch.done() + 1 - self.stretch.lead();
        self.stretch.filling().any(|slot| {
            let request = &mut self.requests[slot];
            let blocks = request.tokens_in(known) / self.config.block_size;
            // Output with an identity of its own is no part of any other prompt.
            !request.has_private_output && request.hashes(blocks).get(blocks - 1) == Some(first_missing)
        })
    }

    /// Puts the blocks into the prefix cache that members filled in the iteration before, where that was deferred.
    fn flush_fills(&mut self) {
        let done = self.stretch.done();
        for &Change { slot, .. } in self.stretch.take_deferred_fills() {
            let request = &mut self.requests[slot];
            if !self.kv.stores_at_end(request) {
                let end = request.tokens_in(done);
                self.kv.store(request, end);
            }
        }
    }

    /// Ends an iteration for the members of the stretch.
    pub(super) fn end_iteration_of_members(&mut self, changes: &mut Changes) {
        let before = self.stretch.requests();
        self.stretch.end_iteration();
        let mut changed = self.stretch.requests() < before;
        while let Some(Ended { slot, in_vain, .. }) = self.stretch.pop_ended() {
            changed = true;
            let decided = if in_vain { self.stretch.done() } else { self.stretch.known() };
            let last = if in_vain { self.decided } else { self.ended };
            let request = &mut self.requests[slot];
            self.members_told_of -= u32::from(!request.has_private_output);
            request.catch_up(decided, self.stretch.known(), last);
            if in_vain {
                changes.put_back.push(request.in_flight(slot));
            }
            self.kv.store(request, request.computed - request.placeholders);
            changes.finished.push(Finished { id: request.id, output_tokens: request.outputs });
            let position = self.running.iter().position(|&other| other == slot);
            self.running.remove(position.expect("a member runs"));
            self.finish(slot);
        }
        // A waiting request may fit now: there are free blocks, a free seat, and tokens in the budget.
        self.must_replan |= changed && self.num_waiting() > 0;
    }
}

/// A request as a member of a stretch.
impl Request {
    /// Itself as a member from the next iteration on, if it only decodes from now on; `decided` iterations have been decided.
    fn joins(&self, slot: Slot, decided: u64, lead: u64, max_model_len: u32) -> Option<Member> {
        let in_flight = lead as u32;
        // It has decoded in the iteration before, or in the one in flight: that token is its second at least.
        let decodes = self.outputs + in_flight >= 2
            && self.placeholders == in_flight
            && self.last_iteration == decided
            && !self.is_mid_prefill
            && self.computed + 1 == self.scheduled_to()
            // One that computes its tokens again after a preemption has more of them in flight, which its windows wait for.
            && self.tables.as_ref().is_none_or(|tables| tables.in_flight() == in_flight);
        if !decodes {
            return None;
        }
        let remaining = self.tokens_to_come(max_model_len).checked_sub(in_flight).filter(|&left| left > 0)?;
        Some(Member { slot, computed: self.computed, remaining, stops: self.stops_by_itself(max_model_len) })
    }

    /// Its tokens whose KV is there once `decided` iterations of the stretch have run.
    pub(super) fn tokens_in(&self, decided: u64) -> u32 {
        self.computed + (decided - self.joined) as u32
    }

    /// Counts the tokens that it got in the stretch, in which `decided` iterations were decided for it and `known` have
    /// ended, its last one being iteration `last` of the engine; returns how many.
    fn catch_up(&mut self, decided: u64, known: u64, last: u64) -> u32 {
        debug_assert_eq!(self.status, Status::Running);
        let (computed, tokens) = ((decided - self.joined) as u32, known.saturating_sub(self.joined) as u32);
        self.computed += computed;
        self.outputs += tokens;
        self.placeholders += computed - tokens;
        self.count_in_flight((computed - tokens).into());
        self.sampling += (computed - tokens) as u8;
        self.preemptions_in_vain = 0;
        self.last_iteration = last;
        tokens
    }

    /// Its part of the iteration in flight, once it is up to date.
    fn in_flight(&self, slot: Slot) -> (Scheduled, Entry) {
        let id = self.id;
        let scheduled = Scheduled { id, tokens: 1, computed: self.computed - 1 };
        (
            scheduled,
            Entry { slot, id, samples: true, first_new_block: 0, drafted: 0, accepted: 0, requeues: 0 },
        )
    }
}

impl StretchScheduler for Scheduler {
    fn stretch(&self) -> &Stretch {
        &self.stretch
    }

    fn quiet_iterations(&self) -> u64 {
        let fresh_states = self.kv.groups.as_ref().is_some_and(|groups| groups.has_fresh_states());
        if fresh_states && self.waiting.len() > 0 { 0 } else { self.stretch.uneventful() }
    }

    fn untold_iterations(&self) -> u64 {
        // Whoever waits, loads or is read may change what comes next.
        let only_decodes = self.continues()
            && self.num_members() == self.running.len()
            && (self.waiting.len(), self.loading.len(), self.held.len()) == (0, 0, 0)
            && self.stretch.lead() == 0
            && !self.kv.has_news();
        if !only_decodes {
            return 0;
        }
        let tells = self.kv.has_events();
        let mut untold = self.stretch.before_end().min(MOST_DECODES as u64);
        // Where blocks run out, somebody is preempted in the iteration that opens one, which is shorter then.
        let free = self.kv.num_free();
        let runs_out = u64::from(self.kv.most_taken(self.stretch.requests() as u32) > free);
        if self.kv.groups.is_some() {
            return untold.min(self.stretch.before_move().saturating_sub(runs_out));
        }
        if tells && (self.kv.tells_all() || self.members_told_of > 0) {
            untold = untold.min(self.stretch.before_filling());
        }
        // Each member opens one block at most in as many iterations as a block has tokens.
        let openings = self.stretch.requests() * untold.div_ceil(self.config.block_size.into());
        let room = if tells { self.kv.num_fresh() } else { free };
        if openings > u64::from(room) {
            untold = untold.min(self.stretch.before_opening().saturating_sub(runs_out));
        }
        untold
    }

    fn skip_quiet(&mut self, iterations: u64) {
        self.stretch.skip(iterations);
        if let Some(groups) = &mut self.kv.groups {
            groups.pass(iterations);
        }
        self.decided += iterations;
        self.ended += iterations;
    }

    fn continues(&self) -> bool {
        // Copies are handed over and noticed pass by pass.
        self.offload.is_none() && !self.must_replan && self.stretch.requests() > 0
    }

    fn next_notice(&self) -> Time {
        if self.loading.is_empty() && self.held.is_empty() {
            return Time::MAX;
        }
        let loading = self.loading.iter().filter(|loading| !loading.received).map(|loading| loading.end);
        let held = self.held.iter().filter_map(|held| held.end.map(|(end, _)| end));
        loading.chain(held).min().unwrap_or(Time::MAX)
    }

    fn notices_at_end(&self, start: Time) -> bool {
        self.polls() && self.next_notice() <= start
    }

    fn plan_next(&mut self, now: Time, changes: &mut Changes) -> bool {
        self.flush_fills();
        if self.may_stretch() {
            self.enlist();
            let only_decodes = self.only_decodes(now);
            let has_room =
                if only_decodes { self.has_room_for_members() } else { self.has_room_for_running() };
            if has_room {
                if !only_decodes || self.offload.is_some() || self.fills_first_missing() {
                    return false;
                }
                // A waiting request that would hit the block, and a router, have to know at once.
                let is_told = self.kv.tells_all() || (self.kv.has_events() && self.members_told_of > 0);
                self.stretch.defer_fills(self.first_missing.is_none() && !is_told);
                self.must_replan = false;
                return true;
            }
        }
        self.end_stretch(changes);
        false
    }

    fn decide_decode(&mut self, now: Time) -> bool {
        let is_mere_decode = self.has_room_for_members()
            && !self.fills_first_missing()
            && !self.notices_at_decision(now)
            && !self.may_make_way();
        if !is_mere_decode {
            return false;
        }
        self.ended_since_schedule = false;
        self.decided += 1;
        if let Some(groups) = &mut self.kv.groups {
            groups.begin_iteration();
        }
        self.cross_blocks();
        true
    }

    fn end_decode(&mut self, changes: &mut Changes) {
        debug_assert!(self.deferred.is_empty(), "what blocks wait for is not a mere decode");
        self.ended += 1;
        self.end_iteration_of_members(changes);
        self.kv.take_events(&mut changes.kv_events);
    }

    fn end_stretch(&mut self, changes: &mut Changes) {
        let (decided, known) = (self.stretch.done(), self.stretch.known());
        for &slot in &self.running[..self.num_members()] {
            let request = &mut self.requests[slot];
            if request.joined < decided {
                let tokens = request.catch_up(decided, known, self.decided);
                // Blocks that were filled in the last iteration, or that nobody else could hit.
                self.kv.store(request, request.computed - request.placeholders);
                if tokens > 0 {
                    changes.caught_up.push((request.id, request.outputs));
                }
                if self.stretch.lead() > 0 {
                    changes.put_back.push(request.in_flight(slot));
                }
            }
        }
        self.stretch.clear();
    }
}
