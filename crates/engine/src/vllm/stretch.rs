//! Iterations in which all that happens is that every running request gets a token, as a [`Stretch`].
//!
//! Each of them decides and changes exactly what `schedule()` and `update()` would.

use super::request::Status;
use super::scheduler::Scheduler;
use crate::iteration::Finished;
use crate::stretch::{Change, Changes, Crossing, DecodesOn, Member, Stretch};
use crate::table::Slot;

impl Scheduler {
    /// Begins a stretch if the next iterations are nothing but decodes; requests that wait have to go on waiting.
    pub(crate) fn begin_stretch(&mut self) -> bool {
        if !self.may_stretch() {
            return false;
        }
        let members = self.running.iter().map(|&slot| {
            let request = &self.requests[slot];
            let remaining = request.tokens_to_come(self.config.max_model_len);
            Member { slot, computed: request.computed, remaining }
        });
        // Who waits for a block, and a router, have to know at once.
        let fills_wait = self.awaited.is_none() && !self.kv.pool.has_events();
        self.stretch.begin(self.config.block_size, fills_wait, members);
        self.stretches = true;
        self.disturbed = false;
        true
    }

    fn may_stretch(&mut self) -> bool {
        let special = self.config.async_scheduling
            || self.config.prefill_schedule_interval > 1
            || self.polls()
            || !self.loading.is_empty()
            || !self.held.is_empty()
            || !self.deferred.is_empty();
        let fits = self.running.len() < self.config.max_num_batched_tokens as usize;
        if special || self.running.is_empty() || !fits {
            return false;
        }
        let decodes = |&slot: &Slot| {
            let request = &self.requests[slot];
            // It got a token in the iteration before and has got its second one.
            request.outputs >= 2
                && request.last_iteration == self.decided
                && !request.is_mid_prefill
                && request.computed + 1 == request.known()
        };
        // Those that still compute their prompts came last.
        self.running.iter().rev().all(decodes) && self.waiting_goes_on()
    }

    /// Whether nobody can be admitted before a running request ends.
    fn waiting_goes_on(&mut self) -> bool {
        self.awaited = None;
        let Some(slot) = self.waiting.peek() else { return true };
        self.running.len() >= self.config.max_num_seqs as usize || self.cannot_be_admitted(slot)
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
    }

    fn goes_on(&self) -> bool {
        self.stretches && !self.disturbed && self.stretch.requests() > 0
    }

    fn decide_decode(&mut self) -> bool {
        if self.stretch.num_opening() > self.kv.pool.num_free() {
            return false;
        }
        let done = self.stretch.done();
        for &Change { slot, crossing, .. } in self.stretch.take_crossings() {
            let request = &mut self.requests[slot];
            let end = request.computed + done + 1;
            match crossing {
                Crossing::Opens => self.kv.extend(request, end),
                Crossing::Fills => {
                    self.kv.store(request, end);
                    self.disturbed |= self.awaited.is_some() && request.last_stored() == self.awaited;
                }
            }
        }
        true
    }

    fn end_decode(&mut self, changes: &mut Changes) {
        self.stretch.end_iteration();
        let done = self.stretch.done();
        while let Some(slot) = self.stretch.pop_ended() {
            let request = &mut self.requests[slot];
            request.computed += done;
            request.outputs += done;
            request.last_iteration = self.decided + u64::from(done);
            changes.finished.push(Finished { id: request.id, output_tokens: request.outputs });
            self.running.retain(|&other| other != slot);
            self.finish(slot);
            // There may be room now for those who wait.
            self.disturbed |= self.waiting.len() > 0;
        }
        self.kv.pool.take_events(&mut changes.kv_events);
    }

    fn end_stretch(&mut self, changes: &mut Changes) {
        if !std::mem::take(&mut self.stretches) {
            return;
        }
        let done = self.stretch.done();
        self.decided += u64::from(done);
        self.ended += u64::from(done);
        if done == 0 {
            return;
        }
        for &slot in &self.running {
            let request = &mut self.requests[slot];
            debug_assert_eq!(request.status, Status::Running);
            request.computed += done;
            request.outputs += done;
            // A block that was filled in the last iteration.
            self.kv.store(request, request.computed);
            request.preemptions_in_vain = 0;
            request.last_iteration = self.decided;
            changes.caught_up.push((request.id, request.outputs));
        }
    }
}
