//! Decode batches of all running requests as a [`Stretch`].
//!
//! Each iteration decides and changes exactly what one decode batch would.

use servecast_types::Time;

use super::decode_side::DecodeSide;
use super::request::{Request, Status};
use super::scheduler::{Scheduler, entry};
use crate::iteration::{Finished, Scheduled};
use crate::step::Entry;
use crate::stretch::{Change, Crossing, Ended, Member, Stretch};
use crate::stretch_scheduler::{Changes, StretchScheduler};
use crate::table::Slot;

impl Scheduler {
    fn begin_stretch(&mut self) {
        let members = self.running.iter().map(|&slot| {
            let request = &self.requests[slot];
            let remaining = request.tokens_to_come() - request.in_flight;
            Member { slot, computed: request.computed, remaining, stops: request.stops_by_itself() }
        });
        // The output of a request enters the prefix tree when it ends, so nobody needs to know that a page is full.
        self.stretch.begin(self.config.block_size, members);
        self.stretch.defer_fills(true);
        self.stretches = true;
        self.must_replan = false;
    }

    /// Whether the next iterations are decode batches of the running requests, and nobody is admitted meanwhile.
    fn may_stretch(&self, now: Time) -> bool {
        let waits =
            self.waiting.is_empty() || (self.batch_is_full && !self.sglang.enable_priority_scheduling);
        let special = self.chunked.is_some() || !self.last_prefill.is_empty() || self.next_notice() <= now;
        // Each has decoded in the iteration before, or in the one in flight: that token is its second at least.
        let in_flight = self.stretch.lead() as u32;
        let decodes = |&slot: &Slot| {
            let request = &self.requests[slot];
            request.in_flight == in_flight
                && request.outputs + in_flight >= 2
                && request.tokens_to_come() > in_flight
        };
        waits
            && self.sglang.speculation.is_none()
            // Copies to the host and back are looked at in each decision.
            && self.cache.host.is_none()
            // Windows give slots back as they move.
            && self.cache.windows.is_none()
            && !special
            && !self.running.is_empty()
            && (in_flight > 0 || self.decoded_last == self.running.len())
            && self.fetching.is_empty()
            && self.decode_side.as_ref().is_none_or(DecodeSide::is_quiet)
            && self.inbox.quiet() > 0
            && self.running.iter().all(decodes)
    }

    fn page_size(&self) -> u64 {
        u64::from(self.config.block_size)
    }
}

impl StretchScheduler for Scheduler {
    fn stretch(&self) -> &Stretch {
        &self.stretch
    }

    fn quiet_iterations(&self) -> u64 {
        let (requests, available) = (self.stretch.requests(), self.cache.available());
        // The decision after them looks for new requests.
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
        self.interval.skip(iterations, self.stretch.requests());
        self.progress.decoded(iterations);
        if let Some(side) = &mut self.decode_side {
            side.skip(iterations);
        }
        (0..iterations).for_each(|_| self.ratio.decay());
    }

    fn continues(&self) -> bool {
        self.stretches && !self.must_replan && self.stretch.requests() > 0 && self.inbox.quiet() > 0
    }

    fn next_notice(&self) -> Time {
        if self.loading.is_empty() && self.held.is_empty() {
            return Time::MAX;
        }
        let loading = self.loading.iter().map(|&(_, end)| end);
        let held = self.held.iter().filter_map(|&(_, end)| end);
        loading.chain(held).min().unwrap_or(Time::MAX)
    }

    fn notices_at_end(&self, _: Time) -> bool {
        false
    }

    fn plan_next(&mut self, now: Time, changes: &mut Changes) -> bool {
        self.end_stretch(changes);
        if !self.may_stretch(now) {
            return false;
        }
        self.begin_stretch();
        true
    }

    fn decide_decode(&mut self, now: Time) -> bool {
        if self.next_notice() <= now {
            return false;
        }
        let pages = u64::from(self.stretch.num_opening());
        let needed = pages * self.page_size();
        self.cache.make_available(needed);
        if self.cache.available() < needed {
            return false;
        }
        self.ratio.decay();
        self.inbox.skip(1);
        self.interval.skip(1, self.running.len() as u64);
        self.progress.decoded(1);
        if let Some(side) = &mut self.decode_side {
            side.skip(1);
        }
        self.cache.make_available(self.stretch.requests() * self.page_size());
        self.cache.take(needed);
        for &Change { slot, crossing, .. } in self.stretch.take_crossings() {
            if crossing == Crossing::Opens {
                self.requests[slot].allocated += self.config.block_size;
            }
        }
        if self.stretch.leaving().next().is_some() {
            self.running.retain(|&slot| self.stretch.leaving().all(|leaving| leaving != slot));
            self.batch_is_full = false;
            self.must_replan |= !self.waiting.is_empty();
        }
        true
    }

    fn end_decode(&mut self, changes: &mut Changes) {
        self.end_iteration_of_members(changes);
        self.cache.take_events(&mut changes.kv_events);
    }

    fn end_stretch(&mut self, changes: &mut Changes) {
        if !std::mem::take(&mut self.stretches) {
            return;
        }
        let (decided, known) = (self.stretch.done(), self.stretch.known());
        if decided == 0 {
            return;
        }
        for position in 0..self.running.len() {
            let slot = self.running[position];
            self.catch_up(slot, decided, known);
            let request = &self.requests[slot];
            if known > 0 {
                changes.caught_up.push((request.id, request.outputs));
            }
            if self.stretch.lead() > 0 {
                changes.put_back.push(in_flight(slot, request));
            }
        }
        self.decoded_last = self.running.len();
    }

    fn abandon(&mut self, changes: &mut Changes) {
        // Once the iteration after its last one is decided, who leaves does not run any more.
        let left = self.stretch.leaving().filter(|slot| !self.running.contains(slot));
        let left: Vec<Slot> = left.collect();
        self.running.extend(left);
        self.end_stretch(changes);
        changes.put_back.clear();
    }
}

impl Scheduler {
    /// Ends an iteration for the members of the stretch.
    pub(super) fn end_iteration_of_members(&mut self, changes: &mut Changes) {
        self.stretch.end_iteration();
        let known = self.stretch.known();
        while let Some(Ended { slot, in_vain, .. }) = self.stretch.pop_ended() {
            self.catch_up(slot, if in_vain { self.stretch.done() } else { known }, known);
            let request = &self.requests[slot];
            changes.finished.push(Finished { id: request.id, output_tokens: request.outputs });
            if in_vain {
                changes.put_back.push(in_flight(slot, request));
            }
            self.finish(slot);
            // There may be room now for those who wait.
            self.must_replan |= !self.waiting.is_empty();
        }
    }

    /// Brings a request up to date, for which `decided` iterations of the stretch were decided and `known` have ended.
    fn catch_up(&mut self, slot: Slot, decided: u64, known: u64) {
        let request = &mut self.requests[slot];
        debug_assert_eq!(request.status, Status::Active);
        request.computed += decided as u32;
        request.outputs += known as u32;
        request.in_flight += (decided - known) as u32;
        if self.config.block_size == 1 {
            request.allocated = request.computed;
        }
    }
}

/// The part of a request, which is up to date, in the iteration in flight.
fn in_flight(slot: Slot, request: &Request) -> (Scheduled, Entry) {
    let scheduled = Scheduled { id: request.id, tokens: 1, computed: request.computed - 1 };
    (scheduled, entry(slot, request, true))
}
