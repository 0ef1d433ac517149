//! The requests that decode as a [`Stretch`]: the first ones of the running list.
//!
//! An iteration decides and changes exactly what `schedule()` and `update()` would, if it asked request by request.

use servecast_types::{SequenceHash, Time};

use super::request::{Request, Status};
use super::scheduler::{Round, Scheduler};
use crate::decodes_on::{Ahead, Changes, DecodesOn};
use crate::iteration::{Finished, Scheduled};
use crate::step::{Entry, Step};
use crate::stretch::{Change, Crossing, Ended, Member, Stretch};
use crate::table::Slot;

impl Scheduler {
    /// How many of the running requests, from the first on, are members of the stretch.
    pub(super) fn num_members(&self) -> usize {
        self.stretch.members() as usize
    }

    /// Whether the settings allow for a stretch, and all that run fit into an iteration.
    fn may_stretch(&self) -> bool {
        let is_special = self.config.prefill_schedule_interval > 1;
        !is_special && self.running.len() < self.config.max_num_batched_tokens as usize
    }

    /// Whether the next iterations are nothing but a stretch, the first one being decided `now`.
    fn only_decodes(&mut self, now: Time) -> bool {
        let all_decode = self.stretch.requests() > 0 && self.num_members() == self.running.len();
        all_decode && !self.notices_at_decision(now) && self.waiting_goes_on()
    }

    /// Whether a decision `now` notices the end of a transfer.
    fn notices_at_decision(&self, now: Time) -> bool {
        !self.polls() && self.next_notice() <= now
    }

    /// Lets the running requests join that come next and decode from now on; the first ones begin the stretch.
    fn enlist(&mut self) {
        let most = self.config.max_model_len;
        if self.num_members() == 0 {
            let (requests, decided, lead) = (&self.requests, self.decided, self.stretch.lead());
            let members =
                self.running.iter().map_while(|&slot| requests[slot].joins(slot, decided, lead, most));
            self.stretch.begin(self.config.block_size, members);
            for &slot in &self.running[..self.num_members()] {
                self.requests[slot].joined = 0;
            }
        }
        while let Some(&slot) = self.running.get(self.num_members())
            && let request = &mut self.requests[slot]
            && let Some(member) = request.joins(slot, self.decided, self.stretch.lead(), most)
        {
            request.joined = self.stretch.done();
            self.stretch.join(member);
        }
    }

    /// Whether nobody can be admitted before a running request ends.
    fn waiting_goes_on(&mut self) -> bool {
        self.awaited = None;
        if self.running.len() >= self.config.max_num_seqs as usize {
            return true;
        }
        let has_arrived = self.loading.iter().any(|loading| loading.received);
        !has_arrived && self.waiting.peek().is_none_or(|slot| self.cannot_be_admitted(slot))
    }

    /// Whether all members get the blocks that they need next.
    fn has_room_for_members(&self) -> bool {
        self.stretch.num_opening() <= self.kv.pool.num_free()
    }

    /// Whether all running requests get the blocks that they need next.
    fn has_room_for_running(&self) -> bool {
        // How many tokens somebody gets does not depend on the time.
        let mut round = self.round(Time::ZERO);
        round.budget -= self.stretch.requests() as u32;
        let mut needed = self.stretch.num_opening();
        for &slot in &self.running[self.num_members()..] {
            let tokens = self.tokens_to_run(slot, &round);
            let request = &self.requests[slot];
            needed += self.kv.missing_blocks(request, request.computed + tokens);
            round.budget -= tokens;
        }
        needed <= self.kv.pool.num_free()
    }

    /// Gives the members of the stretch their next token, if there are any.
    pub(super) fn schedule_members(&mut self, round: &mut Round, step: &mut Step) {
        let members = self.stretch.requests();
        if members == 0 {
            return;
        }
        step.batch.add_decodes(self.stretch.work());
        step.iteration.decoded = members;
        round.budget -= members as u32;
        self.cross_blocks();
        // What comes after this iteration is not known yet.
        self.disturbed = true;
    }

    /// Gives members the blocks that they need in the next iteration, and lets others hit those that they fill, unless
    /// [nobody would](super::kv::KvCache::stores_at_end).
    fn cross_blocks(&mut self) {
        let (decided, lead) = (self.stretch.done() + 1, self.stretch.lead() as u32);
        for &Change { slot, crossing, .. } in self.stretch.take_crossings() {
            let request = &mut self.requests[slot];
            let end = request.tokens_in(decided);
            match crossing {
                Crossing::Opens => self.kv.extend(request, end),
                Crossing::Fills if self.kv.stores_at_end(request) => {}
                Crossing::Fills => self.kv.store(request, end - lead),
            }
        }
    }

    /// Whether a member's block is known to be full in the next iteration that the head of the waiting queue would hit next: that is
    /// admitted in the same iteration then, if there is room for it.
    #[inline]
    fn fills_awaited(&mut self) -> bool {
        self.awaited.is_some_and(|awaited| self.fills(awaited))
    }

    fn fills(&mut self, awaited: SequenceHash) -> bool {
        let known = self.stretch.done() + 1 - self.stretch.lead();
        self.stretch.filling().any(|slot| {
            let request = &mut self.requests[slot];
            let blocks = request.tokens_in(known) / self.config.block_size;
            // What nobody else names, nobody waits for.
            !request.has_private_output && request.hashes(blocks).get(blocks - 1) == Some(awaited)
        })
    }

    /// Lets others hit what members filled in the iteration before, where that has waited.
    fn tell_late_fills(&mut self) {
        let done = self.stretch.done();
        for &Change { slot, .. } in self.stretch.take_late_fills() {
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
        // There may be room now for those who wait: blocks and a place, or tokens of the next iterations.
        self.disturbed |= changed && self.num_waiting() > 0;
    }
}

/// A request as a member of a stretch.
impl Request {
    /// The member that it is from the next iteration on if nothing is left of it but to decode, `decided` iterations having
    /// been decided.
    fn joins(&self, slot: Slot, decided: u64, lead: u64, max_model_len: u32) -> Option<Member> {
        let in_flight = lead as u32;
        // It got a token in the iteration before, or gets it, and that is at least its second one.
        let decodes = self.outputs + in_flight >= 2
            && self.placeholders == in_flight
            && self.last_iteration == decided
            && !self.is_mid_prefill
            && self.computed + 1 == self.scheduled_to();
        if !decodes {
            return None;
        }
        let remaining = self.tokens_to_come(max_model_len).checked_sub(in_flight).filter(|&left| left > 0)?;
        Some(Member { slot, computed: self.computed, remaining, stops: self.stops_by_itself(max_model_len) })
    }

    /// Its tokens whose KV is there once `decided` iterations of the stretch have run.
    fn tokens_in(&self, decided: u64) -> u32 {
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
        self.preemptions_in_vain = 0;
        self.last_iteration = last;
        tokens
    }

    /// Its part of the iteration in flight, once it is up to date.
    fn in_flight(&self, slot: Slot) -> (Scheduled, Entry) {
        let id = self.id;
        let scheduled = Scheduled { id, tokens: 1, computed: self.computed - 1 };
        (scheduled, Entry { slot, id, samples: true, first_new_block: 0, requeues: 0 })
    }
}

impl DecodesOn for Scheduler {
    fn stretch(&self) -> &Stretch {
        &self.stretch
    }

    fn quiet_iterations(&self) -> u64 {
        self.stretch.uneventful()
    }

    fn skip_quiet(&mut self, iterations: u64) {
        self.stretch.skip(iterations);
        self.decided += iterations;
        self.ended += iterations;
    }

    fn goes_on(&self) -> bool {
        !self.disturbed && self.stretch.requests() > 0
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

    fn look_ahead(&mut self, now: Time, changes: &mut Changes) -> Ahead {
        self.tell_late_fills();
        if self.may_stretch() {
            self.enlist();
            let only_decodes = self.only_decodes(now);
            let has_room =
                if only_decodes { self.has_room_for_members() } else { self.has_room_for_running() };
            if has_room {
                if !only_decodes || self.fills_awaited() {
                    return Ahead::Other;
                }
                // Who waits for a block, and a router, have to know at once.
                self.stretch.let_fills_wait(self.awaited.is_none() && !self.kv.pool.has_events());
                self.disturbed = false;
                return Ahead::Decode;
            }
        }
        self.end_stretch(changes);
        Ahead::Other
    }

    fn decide_decode(&mut self, now: Time) -> bool {
        if !self.has_room_for_members() || self.fills_awaited() || self.notices_at_decision(now) {
            return false;
        }
        self.ended_since_schedule = false;
        self.decided += 1;
        self.cross_blocks();
        true
    }

    fn end_decode(&mut self, changes: &mut Changes) {
        debug_assert!(self.deferred.is_empty(), "what blocks wait for is not a mere decode");
        self.ended += 1;
        self.end_iteration_of_members(changes);
        self.kv.pool.take_events(&mut changes.kv_events);
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
