//! The requests that decode as a [`Stretch`]: the first ones of the running list.
//!
//! An iteration decides and changes exactly what `schedule()` and `update()` would, if it asked request by request.

use servecast_types::Time;

use super::request::{Request, Status};
use super::scheduler::{Round, Scheduler};
use crate::iteration::Finished;
use crate::step::Step;
use crate::stretch::{Ahead, Change, Changes, Crossing, DecodesOn, Member, Stretch};
use crate::table::Slot;

impl Scheduler {
    /// How many of the running requests, from the first on, are members of the stretch.
    pub(super) fn num_members(&self) -> usize {
        self.stretch.requests() as usize
    }

    /// Whether the settings allow for a stretch, and all that run fit into an iteration.
    fn may_stretch(&self) -> bool {
        let special =
            self.config.async_scheduling || self.config.prefill_schedule_interval > 1 || self.polls();
        !special && self.running.len() < self.config.max_num_batched_tokens as usize
    }

    /// Whether the next iterations are nothing but a stretch.
    fn only_decodes(&mut self) -> bool {
        let transfers = !self.loading.is_empty() || !self.held.is_empty();
        let members = self.num_members();
        members > 0 && members == self.running.len() && !transfers && self.waiting_goes_on()
    }

    /// Lets the running requests join that come next and decode from now on; the first ones begin the stretch.
    fn enlist(&mut self) {
        if self.num_members() == 0 {
            let (requests, decided) = (&self.requests, self.decided);
            let decoding = self.running.iter().take_while(|&&slot| requests[slot].decodes(decided));
            let members = decoding.map(|&slot| member(slot, &requests[slot], self.config.max_model_len));
            self.stretch.begin(self.config.block_size, members);
            for &slot in &self.running[..self.num_members()] {
                self.requests[slot].joined = 0;
            }
        }
        while let Some(&slot) = self.running.get(self.num_members())
            && self.requests[slot].decodes(self.decided)
        {
            let request = &mut self.requests[slot];
            request.joined = self.stretch.done();
            self.stretch.join(member(slot, request, self.config.max_model_len));
        }
    }

    /// Whether nobody can be admitted before a running request ends.
    fn waiting_goes_on(&mut self) -> bool {
        self.awaited = None;
        let Some(slot) = self.waiting.peek() else { return true };
        self.running.len() >= self.config.max_num_seqs as usize || self.cannot_be_admitted(slot)
    }

    /// Whether all running requests get the blocks that they need next.
    fn has_room_for_running(&self) -> bool {
        // How many tokens somebody gets does not depend on the time.
        let mut round = self.round(Time::ZERO);
        round.budget -= self.num_members() as u32;
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
        let decided = self.stretch.done() + 1;
        for &Change { slot, crossing, .. } in self.stretch.take_crossings() {
            let request = &mut self.requests[slot];
            let end = request.tokens_in(decided);
            match crossing {
                Crossing::Opens => self.kv.extend(request, end),
                Crossing::Fills if self.kv.stores_at_end(request) => {}
                Crossing::Fills => self.kv.store(request, end),
            }
        }
    }

    /// Whether a member fills the block in the next iteration that the head of the waiting queue would hit next: that is
    /// admitted in the same iteration then, if there is room for it.
    fn fills_awaited(&mut self) -> bool {
        let Some(awaited) = self.awaited else { return false };
        let decided = self.stretch.done() + 1;
        self.stretch.filling().any(|slot| {
            let request = &mut self.requests[slot];
            let blocks = request.tokens_in(decided) / self.config.block_size;
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
    pub(super) fn end_iteration_of_members(&mut self, finished: &mut Vec<Finished>) {
        self.stretch.end_iteration();
        while let Some(slot) = self.stretch.pop_ended() {
            let request = &mut self.requests[slot];
            request.catch_up(self.stretch.done(), self.decided);
            self.kv.store(request, request.computed);
            finished.push(Finished { id: request.id, output_tokens: request.outputs });
            let position = self.running.iter().position(|&other| other == slot);
            self.running.remove(position.expect("a member runs"));
            self.finish(slot);
            // There may be room now for those who wait.
            self.disturbed |= self.waiting.len() > 0;
        }
    }
}

fn member(slot: Slot, request: &Request, max_model_len: u32) -> Member {
    Member { slot, computed: request.computed, remaining: request.tokens_to_come(max_model_len) }
}

/// A request as a member of a stretch.
impl Request {
    /// Whether nothing is left of it but to decode, `decided` iterations having been decided.
    fn decodes(&self, decided: u64) -> bool {
        // It got a token in the iteration before and has got its second one.
        self.outputs >= 2
            && self.last_iteration == decided
            && !self.is_mid_prefill
            && self.computed + 1 == self.known()
    }

    /// Its tokens whose KV is there after `done` iterations of the stretch.
    fn tokens_in(&self, done: u64) -> u32 {
        self.computed + (done - self.joined) as u32
    }

    /// Counts the tokens that it got in the stretch, in which `done` iterations have ended; returns how many.
    fn catch_up(&mut self, done: u64, decided: u64) -> u32 {
        debug_assert_eq!(self.status, Status::Running);
        let tokens = (done - self.joined) as u32;
        self.computed += tokens;
        self.outputs += tokens;
        self.preemptions_in_vain = 0;
        self.last_iteration = decided;
        tokens
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
        !self.disturbed && self.num_members() > 0
    }

    fn look_ahead(&mut self, changes: &mut Changes) -> Ahead {
        self.tell_late_fills();
        if self.may_stretch() {
            self.enlist();
            if self.only_decodes() {
                // Who waits for a block, and a router, have to know at once.
                self.stretch.let_fills_wait(self.awaited.is_none() && !self.kv.pool.has_events());
                self.disturbed = false;
                return Ahead::Decode;
            }
            if self.has_room_for_running() {
                return Ahead::Other;
            }
        }
        self.end_stretch(changes);
        Ahead::Other
    }

    fn decide_decode(&mut self) -> bool {
        if self.stretch.num_opening() > self.kv.pool.num_free() || self.fills_awaited() {
            return false;
        }
        self.decided += 1;
        self.cross_blocks();
        true
    }

    fn end_decode(&mut self, changes: &mut Changes) {
        self.ended += 1;
        self.end_iteration_of_members(&mut changes.finished);
        self.kv.pool.take_events(&mut changes.kv_events);
    }

    fn end_stretch(&mut self, changes: &mut Changes) {
        let done = self.stretch.done();
        for &slot in &self.running[..self.num_members()] {
            let request = &mut self.requests[slot];
            if request.catch_up(done, self.decided) > 0 {
                // Blocks that were filled in the last iteration, or that nobody else could hit.
                self.kv.store(request, request.computed);
                changes.caught_up.push((request.id, request.outputs));
            }
        }
        self.stretch.clear();
    }
}
