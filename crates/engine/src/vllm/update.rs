//! `Scheduler.update_from_output()`: what becomes known at the end of an iteration.

use servecast_types::{RequestId, Time};

use super::request::Status;
use super::scheduler::{Held, Loading, Scheduler};
use crate::iteration::{Emitted, Finished, Iteration};
use crate::step::{Entry, Step};
use crate::stretch_scheduler::Changes;
use crate::table::Slot;

impl Scheduler {
    /// Applies the results of an iteration at its end.
    pub(crate) fn update(&mut self, step: &mut Step, changes: &mut Changes) {
        let Step { iteration, entries, proposals, .. } = step;
        self.ended += 1;
        self.release_deferred();
        if self.num_members() > 0 {
            self.end_iteration_of_members(changes);
        }
        if self.kv.groups.is_some() {
            for (entry, scheduled) in entries.iter().zip(&iteration.scheduled) {
                if self.holds(entry.slot, entry.id) {
                    self.requests[entry.slot].count_in_flight(-i64::from(scheduled.tokens));
                }
            }
        }
        if self.awaits_results() {
            for (entry, scheduled) in entries.iter().zip(&iteration.scheduled) {
                if self.holds(entry.slot, entry.id) {
                    self.requests[entry.slot].unsettled -= scheduled.tokens;
                }
            }
        }
        for &entry in entries.iter().filter(|entry| entry.samples) {
            self.deliver(entry, proposals.drafts, iteration);
        }
        if !iteration.finished.is_empty() {
            let (requests, mut members) = (&self.requests, self.num_members());
            let runs =
                |slot: Slot| requests.get(slot).is_some_and(|request| request.status == Status::Running);
            // Members that ended have left the list already, and looking at the others costs a cache miss each.
            self.running.retain(|&slot| {
                let is_member = members > 0;
                members = members.saturating_sub(1);
                is_member || runs(slot)
            });
        }
        if self.polls() {
            self.notice_transfers(iteration.start, self.ended, iteration);
        }
        if self.offload.is_some() {
            self.notice_copies(iteration);
        }
        self.kv.take_events(&mut iteration.kv_events);
        iteration.free_blocks = self.kv.num_free();
        iteration.cached_blocks = self.kv.num_cached();
        if self.trace_blocks {
            iteration.free_list.extend(self.kv.free_list());
            if let Some(groups) = &mut self.kv.groups {
                groups.take_group_events(&mut iteration.group_events);
            }
        }
    }

    /// Frees the blocks that had to wait for the iteration that has ended.
    fn release_deferred(&mut self) {
        while let Some((number, blocks)) = self.deferred.front()
            && *number <= self.ended
        {
            self.kv.release(blocks);
            self.deferred.pop_front();
            // There may be room now for those who wait.
            self.must_replan = true;
        }
    }

    /// A token of a request is known now, unless the request is gone or gave it up; `proposed` drafts come with it.
    fn deliver(&mut self, entry: Entry, proposed: u32, iteration: &mut Iteration) {
        if !self.holds(entry.slot, entry.id) {
            return;
        }
        let awaits_results = self.awaits_results();
        let request = &mut self.requests[entry.slot];
        if request.status == Status::Held {
            return;
        }
        if request.dropped > 0 {
            request.dropped -= 1;
            return;
        }
        let (drafted, accepted) = (u32::from(entry.drafted), u32::from(entry.accepted));
        // One after the other; what follows the one that ends it is lost.
        let tokens = (1 + accepted).min(request.tokens_to_come(self.config.max_model_len));
        if request.stale > 0 {
            request.stale -= 1;
        } else {
            request.sampling -= 1;
            request.placeholders -= if awaits_results { 0 } else { 1 + drafted };
            // Of what was computed, as many tokens are settled as came out.
            request.computed -= 1 + drafted - tokens;
        }
        request.outputs += tokens;
        request.preemptions_in_vain = 0;
        if awaits_results {
            // It keeps them even if it has lost its blocks meanwhile.
            request.drafts = proposed as u8;
        }
        iteration.emitted.push(Emitted { id: request.id, tokens });
        if request.status == Status::Running && self.stores_at_end {
            self.kv.store(request, request.computed - request.placeholders - request.unsettled);
        }
        if request.is_complete(self.config.max_model_len) {
            iteration.finished.push(Finished { id: request.id, output_tokens: request.outputs });
            self.finish(entry.slot);
        }
    }

    pub(super) fn finish(&mut self, slot: Slot) {
        self.ended_since_schedule = true;
        // Whoever stores or sends its KV is told of what it still looks back at.
        if let Some(groups) = &mut self.kv.groups
            && (self.offload.is_some() || self.config.kv_role.is_some())
        {
            groups.forget(&mut self.requests[slot]);
        }
        let is_stored = self.end_at_host(slot);
        match self.requests[slot].status {
            Status::Preempted => self.waiting.remove(slot),
            Status::Running => self.vacate_adapter(slot),
            _ => {}
        }
        let request = &mut self.requests[slot];
        if request.hold_kv || is_stored {
            request.status = Status::Held;
            self.held.push(Held { slot, end: None });
        } else {
            self.free_blocks(slot);
            self.requests.remove(slot);
        }
    }

    /// Lets go of the blocks of an ended request once `end` has come.
    pub(crate) fn release(&mut self, id: RequestId, end: Time, now: Time) {
        self.must_replan = true;
        let Some(position) = self.held.iter().position(|held| self.holds(held.slot, id)) else {
            return;
        };
        if self.polls() || end > now {
            self.held[position].end = Some((end, self.decided + 1));
        } else {
            self.drop_held(position);
        }
    }

    /// The KV of a request is here, which may have been withdrawn on the way.
    pub(crate) fn fetched(&mut self, id: RequestId, now: Time) {
        let requests = &self.requests;
        let is_it = |slot: Slot| requests[slot].id == id;
        if let Some(loading) = self.loading.iter_mut().find(|loading| is_it(loading.slot)) {
            loading.end = now;
        } else if let Some(Held { end: Some((end, _)), .. }) =
            self.held.iter_mut().find(|held| is_it(held.slot))
        {
            *end = now;
        }
    }

    /// Frees the blocks of a held request and forgets it; returns its id.
    pub(super) fn drop_held(&mut self, position: usize) -> RequestId {
        let Held { slot, .. } = self.held.remove(position);
        let request = &mut self.requests[slot];
        let id = request.id;
        self.kv.free(request);
        self.requests.remove(slot);
        id
    }

    /// Marks the transfers that ended by `now`: to this worker as received, from it as sent.
    ///
    /// Iteration `number` notices only what was under way when it was decided.
    pub(super) fn notice_transfers(&mut self, now: Time, number: u64, iteration: &mut Iteration) {
        let ended =
            |loading: &&mut Loading| !loading.received && loading.from <= number && loading.end <= now;
        for loading in self.loading.iter_mut().filter(ended) {
            loading.received = true;
            iteration.received.push(self.requests[loading.slot].id);
            self.must_replan = true;
        }
        while let Some(position) = self.next_sent(now, number) {
            self.must_replan = true;
            let id = self.drop_held(position);
            iteration.sent.push(id);
        }
    }

    /// Of the held requests whose transfer ended by `now`, the one whose transfer ended first.
    fn next_sent(&self, now: Time, number: u64) -> Option<usize> {
        let due = |end: Option<(Time, u64)>| {
            end.filter(|&(end, from)| from <= number && end <= now).map(|(end, _)| end)
        };
        let ended = self.held.iter().enumerate().filter_map(|(position, held)| {
            Some((due(held.end)?, self.requests[held.slot].key.tie_break(), position))
        });
        ended.min().map(|(.., position)| position)
    }
}
