//! Iterations in which all that happens is that every running request gets a token, as a [`Stretch`].
//!
//! Each of them decides and changes exactly what a decode batch would.

use super::request::Status;
use super::scheduler::Scheduler;
use crate::iteration::Finished;
use crate::stretch::{Ahead, Change, Changes, Crossing, DecodesOn, Member, Stretch};
use crate::table::Slot;

impl Scheduler {
    fn begin_stretch(&mut self) {
        let members = self.running.iter().map(|&slot| {
            let request = &self.requests[slot];
            Member { slot, computed: request.computed, remaining: request.tokens_to_come() }
        });
        // What a request generates can be hit only when it has ended, so that a page is full matters to nobody.
        self.stretch.begin(self.config.block_size, members);
        self.stretch.let_fills_wait(true);
        self.stretches = true;
        self.disturbed = false;
    }

    /// Whether the next iterations are decode batches of the running requests; those that wait have to go on waiting.
    fn may_stretch(&self) -> bool {
        let waits =
            self.waiting.is_empty() || (self.batch_is_full && !self.sglang.enable_priority_scheduling);
        let special = self.config.async_scheduling
            || self.chunked.is_some()
            || !self.last_prefill.is_empty()
            || !self.loading.is_empty()
            || !self.held.is_empty();
        // Everybody got a token in the iteration before and has got a second one.
        let decodes = |&slot: &Slot| self.requests[slot].outputs >= 2;
        waits
            && !special
            && !self.running.is_empty()
            && self.decoded_last == self.running.len()
            && self.fetching.is_empty()
            && self.inbox.quiet() > 0
            && self.running.iter().all(decodes)
    }

    fn page_size(&self) -> u64 {
        u64::from(self.config.block_size)
    }
}

impl DecodesOn for Scheduler {
    fn stretch(&self) -> &Stretch {
        &self.stretch
    }

    fn quiet_iterations(&self) -> u64 {
        let (requests, available) = (self.stretch.requests(), self.cache.available());
        // The decision after them may find new requests.
        let quiet = self.stretch.uneventful().min(self.inbox.quiet());
        if self.page_size() == 1 {
            // Every token takes a page.
            quiet.min(available / requests.max(1))
        } else if available >= requests * self.page_size() {
            quiet
        } else {
            // Every iteration evicts what it can.
            0
        }
    }

    fn skip_quiet(&mut self, iterations: u64) {
        if self.page_size() == 1 {
            self.cache.take(iterations * self.stretch.requests());
        }
        self.stretch.skip(iterations);
        self.inbox.skip(iterations);
        (0..iterations).for_each(|_| self.ratio.decay());
    }

    fn goes_on(&self) -> bool {
        self.stretches && !self.disturbed && self.stretch.requests() > 0 && self.inbox.quiet() > 0
    }

    fn look_ahead(&mut self, changes: &mut Changes) -> Ahead {
        self.end_stretch(changes);
        if !self.may_stretch() {
            return Ahead::Other;
        }
        self.begin_stretch();
        Ahead::Decode
    }

    fn decide_decode(&mut self) -> bool {
        let pages = u64::from(self.stretch.num_opening());
        let needed = pages * self.page_size();
        self.cache.make_available(needed);
        if self.cache.available() < needed {
            return false;
        }
        self.ratio.decay();
        self.inbox.skip(1);
        self.cache.make_available(self.stretch.requests() * self.page_size());
        self.cache.take(needed);
        for &Change { slot, crossing, .. } in self.stretch.take_crossings() {
            if crossing == Crossing::Opens {
                self.requests[slot].allocated += self.config.block_size;
            }
        }
        true
    }

    fn end_decode(&mut self, changes: &mut Changes) {
        self.stretch.end_iteration();
        let done = self.stretch.done() as u32;
        while let Some(slot) = self.stretch.pop_ended() {
            self.catch_up(slot, done);
            let request = &self.requests[slot];
            changes.finished.push(Finished { id: request.id, output_tokens: request.outputs });
            self.finish(slot);
            // There may be room now for those who wait.
            self.disturbed |= !self.waiting.is_empty();
        }
        self.cache.take_events(&mut changes.kv_events);
    }

    fn end_stretch(&mut self, changes: &mut Changes) {
        if !std::mem::take(&mut self.stretches) {
            return;
        }
        let done = self.stretch.done() as u32;
        if done == 0 {
            return;
        }
        for position in 0..self.running.len() {
            let slot = self.running[position];
            self.catch_up(slot, done);
            let request = &self.requests[slot];
            changes.caught_up.push((request.id, request.outputs));
        }
        self.decoded_last = self.running.len();
    }
}

impl Scheduler {
    /// Brings a request up to date after `done` iterations.
    fn catch_up(&mut self, slot: Slot, done: u32) {
        let request = &mut self.requests[slot];
        debug_assert_eq!(request.status, Status::Active);
        request.computed += done;
        request.outputs += done;
        if self.config.block_size == 1 {
            request.allocated = request.computed;
        }
    }
}
