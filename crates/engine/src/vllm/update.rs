//! `Scheduler.update_from_output()`: what becomes known at the end of an iteration.

use servecast_types::{RequestId, Time};

use super::request::{PriorityKey, Slot, Status};
use super::scheduler::{Entry, Scheduler, Step};
use crate::iteration::{Finished, Iteration};

impl Scheduler {
    /// Applies the results of an iteration at its end.
    pub(crate) fn update(&mut self, step: &mut Step) {
        let Step { iteration, entries, .. } = step;
        self.ended += 1;
        while let Some((_, blocks)) = self.deferred.pop_front_if(|(number, _)| *number <= self.ended) {
            self.kv.pool.release(&blocks);
        }
        for &entry in entries.iter() {
            if entry.samples {
                self.deliver(entry, iteration);
            }
        }
        if !iteration.finished.is_empty() {
            let requests = &self.requests;
            let runs = |slot: &Slot| {
                requests[slot.0 as usize].as_ref().is_some_and(|request| request.status == Status::Running)
            };
            self.running.retain(runs);
        }
        if self.polls() {
            self.notice_transfers(iteration.start, iteration);
        }
        self.kv.pool.take_events(&mut iteration.kv_events);
        iteration.free_blocks = self.kv.pool.num_free();
        iteration.cached_blocks = self.kv.pool.num_cached() as u32;
        if self.trace_blocks {
            iteration.free_list.extend(self.kv.pool.free_list());
        }
    }

    /// A token of a request is known now.
    fn deliver(&mut self, entry: Entry, iteration: &mut Iteration) {
        let Some(request) = self.requests[entry.slot.0 as usize].as_mut().filter(|request| request.id == entry.id) else {
            return;
        };
        if request.status == Status::Held {
            return;
        }
        if request.dropped > 0 {
            request.dropped -= 1;
            return;
        }
        if request.stale > 0 {
            request.stale -= 1;
        } else {
            request.placeholders -= 1;
        }
        request.outputs += 1;
        iteration.emitted.push(request.id);
        if request.status == Status::Running && self.config.async_scheduling {
            self.kv.store(request, request.computed - request.placeholders);
        }
        if request.is_complete(self.config.max_model_len) {
            iteration.finished.push(Finished { id: request.id, output_tokens: request.outputs });
            self.finish(entry.slot);
        }
    }

    fn finish(&mut self, slot: Slot) {
        let request = self.requests[slot.0 as usize].as_mut().expect("a request that finishes");
        self.ended_since_schedule = true;
        if request.status == Status::Preempted {
            self.waiting.remove(slot);
        }
        if request.hold_kv {
            request.status = Status::Held;
            self.held.push((slot, None));
        } else {
            self.free_blocks(slot);
            self.remove(slot);
        }
    }

    /// Lets go of the blocks of an ended request once `end` has come.
    pub(crate) fn release(&mut self, id: RequestId, end: Time, now: Time) {
        let requests = &self.requests;
        let is_it = |slot: Slot| requests[slot.0 as usize].as_ref().is_some_and(|request| request.id == id);
        let Some(position) = self.held.iter().position(|&(slot, _)| is_it(slot)) else { return };
        if self.polls() || end > now {
            self.held[position].1 = Some(end);
        } else {
            let (slot, _) = self.held.remove(position);
            self.drop_held(slot);
        }
    }

    fn drop_held(&mut self, slot: Slot) {
        let request = self.requests[slot.0 as usize].as_mut().expect("a held request");
        self.kv.free(request);
        self.remove(slot);
    }

    /// Marks the transfers that ended by `now`: to this worker as received, from it as sent.
    pub(super) fn notice_transfers(&mut self, now: Time, iteration: &mut Iteration) {
        for loading in self.loading.iter_mut().filter(|loading| !loading.received && loading.end <= now) {
            loading.received = true;
            let request = self.requests[loading.slot.0 as usize].as_ref().expect("a loading request");
            iteration.received.push(request.id);
        }
        while let Some(position) = self.next_sent(now) {
            let (slot, _) = self.held.remove(position);
            iteration.sent.push(self.request(slot).id);
            self.drop_held(slot);
        }
    }

    /// Of the held requests whose transfer ended by `now`, the one whose transfer ended first.
    fn next_sent(&self, now: Time) -> Option<usize> {
        let order = |slot: Slot| self.requests[slot.0 as usize].as_ref().map(|request| request.key);
        let ended = self.held.iter().enumerate().filter(|(_, (_, end))| end.is_some_and(|end| end <= now));
        ended.min_by_key(|&(_, &(slot, end))| (end, order(slot).map(PriorityKey::tie_break))).map(|(position, _)| position)
    }

    /// Panics unless blocks are conserved and every request is in exactly one place.
    pub(crate) fn check(&self) {
        let live = || self.requests.iter().flatten();
        let deferred = self.deferred.iter().flat_map(|(_, blocks)| blocks.iter().copied());
        self.kv.pool.check(live().flat_map(|request| request.blocks.iter().copied()).chain(deferred));
        let places = self.running.len() + self.num_waiting() + self.held.len();
        assert_eq!(live().count(), places, "every request is in one place");
        for request in live() {
            let covered = request.blocks.len() as u32 * self.config.block_size;
            assert!(request.computed <= covered, "request {} computed more than its blocks hold", request.id);
            assert!(request.outputs <= request.max_tokens, "request {} produced too many tokens", request.id);
        }
    }
}
