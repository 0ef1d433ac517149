//! What becomes known at the end of an iteration, and KV that comes from or goes to another worker.

use servecast_types::{RequestId, Time};

use super::request::Status;
use super::scheduler::Scheduler;
use crate::iteration::{Admitted, Emitted, Finished, Iteration, Joined, Scheduled, Transfer};
use crate::step::{Entry, Step};
use crate::stretch_scheduler::Changes;
use crate::table::Slot;
use crate::{Fetch, Links};

impl Scheduler {
    /// Applies the results of an iteration at its end: `process_batch_result`.
    #[inline(never)]
    pub(crate) fn update(&mut self, step: &mut Step, changes: &mut Changes) {
        let Step { iteration, entries, prefills, .. } = step;
        self.decoded_last = if *prefills == 0 { entries.len() } else { 0 };
        if self.stretches {
            self.end_iteration_of_members(changes);
        }
        for (position, entry) in entries.iter().enumerate() {
            if entry.samples && self.holds(entry) {
                let Scheduled { tokens, computed, .. } = iteration.scheduled[position];
                let prompt_end = (position < *prefills).then_some(computed + tokens);
                self.deliver(entry, prompt_end, iteration);
            }
            self.computed_on_prefill_side(entry, iteration.scheduled[position], iteration.end);
        }
        self.cache.end_result(iteration.end);
        // What an iteration without work changed is told by the next one with work.
        if !entries.is_empty() {
            self.cache.take_events(&mut iteration.kv_events);
        }
        iteration.free_blocks = self.num_free_blocks();
        let page_size = u64::from(self.config.block_size);
        let cached = self.cache.tree.evictable_tokens() + self.cache.tree.protected_tokens();
        iteration.cached_blocks = (cached / page_size) as u32;
        if let Some(state) = &mut iteration.sglang {
            state.requeued.clone_from(&step.requeued);
            state.host_end = self.cache.host_copies();
            if !entries.is_empty() {
                state.tiered_events = self.cache.take_tiered_events();
            }
            // A prefill worker is done with a pass only once it has looked at what has arrived.
            if self.prefill_side.is_none() {
                self.cache.note_end(state);
            }
        }
        if let Some(side) = self.prefill_side.as_mut().filter(|_| !entries.is_empty()) {
            side.tell_sent(iteration);
        }
    }

    /// A token of a request is known now; `prompt_end` is where the prompt ends that it came with.
    fn deliver(&mut self, entry: &Entry, prompt_end: Option<u32>, iteration: &mut Iteration) {
        let request = &mut self.requests[entry.slot];
        if request.status != Status::Active {
            return;
        }
        if entry.drafted > 0 {
            self.deliver_verified(entry, iteration);
            self.finish_if_complete(entry.slot, iteration);
            return;
        }
        request.in_flight -= 1;
        request.outputs += 1;
        if let Some(reason) = request.refused {
            iteration.rejected.push((request.id, reason));
            self.finish(entry.slot);
            return;
        }
        iteration.emitted.push(Emitted { id: request.id, tokens: 1 });
        if !self.finish_if_complete(entry.slot, iteration)
            && let Some(end) = prompt_end
        {
            self.cache.share(&mut self.requests[entry.slot], end);
        }
    }

    fn finish_if_complete(&mut self, slot: Slot, iteration: &mut Iteration) -> bool {
        let request = &self.requests[slot];
        let is_complete = request.is_complete();
        if is_complete {
            iteration.finished.push(Finished { id: request.id, output_tokens: request.outputs });
            self.finish(slot);
        }
        is_complete
    }

    /// The KV of a finished request is shared. That of its last token came to be only if the iteration in flight
    /// computes it, since nobody knew that the request would stop.
    pub(super) fn finish(&mut self, slot: Slot) {
        if self.decode_side.is_some() && self.running.contains(&slot) {
            let counted = self.counted(&self.requests[slot]);
            if let Some(side) = &mut self.decode_side {
                side.ended(counted);
            }
        }
        let request = &mut self.requests[slot];
        // Drafts may have been accepted beyond where it ends.
        let computed = request.computed.min(request.known());
        if request.hold_kv {
            self.cache.share(request, computed);
            request.status = Status::Held;
            self.held.push((slot, None));
        } else {
            self.cache.share_and_release(request, computed);
            self.requests.remove(slot);
        }
        let left = |list: &mut Vec<Slot>| {
            let before = list.len();
            list.retain(|&other| other != slot);
            list.len() < before
        };
        let ran = left(&mut self.running);
        if ran {
            self.progress.left();
        }
        if ran | left(&mut self.last_prefill) {
            self.batch_is_full = false;
        }
    }

    /// Lets go of the KV of an ended request once `end` has come.
    pub(crate) fn release(&mut self, id: RequestId, end: Time, now: Time) {
        self.must_replan = true;
        let is_held = |&(slot, _): &(Slot, Option<Time>)| self.requests[slot].id == id;
        let Some(position) = self.held.iter().position(is_held) else { return };
        if end > now {
            self.held[position].1 = Some(end);
        } else {
            self.drop_held(position);
        }
    }

    /// The KV of a request is here.
    pub(crate) fn fetched(&mut self, id: RequestId, now: Time) {
        let requests = &self.requests;
        if let Some((_, end)) = self.loading.iter_mut().find(|(slot, _)| requests[*slot].id == id) {
            *end = now;
        }
    }

    fn drop_held(&mut self, position: usize) -> RequestId {
        let (slot, _) = self.held.remove(position);
        let request = &mut self.requests[slot];
        let computed = request.computed;
        self.cache.share_and_release(request, computed);
        self.requests.remove(slot).id
    }

    /// Drops held KV whose reader is done.
    pub(super) fn drop_sent(&mut self, now: Time, iteration: &mut Iteration) {
        while let Some(position) = self.held.iter().position(|&(_, end)| end.is_some_and(|end| end <= now)) {
            let id = self.drop_held(position);
            iteration.sent.push(id);
        }
    }

    /// Gives requests whose prompt was computed elsewhere pages for it, in order as far as there is room beside what
    /// the running ones will need, and begins to fetch what they do not hit.
    pub(super) fn start_transfers(&mut self, now: Time, iteration: &mut Iteration, links: &mut dyn Links) {
        if self.fetching.is_empty() {
            return;
        }
        self.policy.order_fetching(&mut self.fetching, &mut self.requests, now);
        while let Some(slot) = self.fetching.front() {
            if !self.has_room_for_transfer(slot) {
                return;
            }
            self.fetching.pop_front();
            let request = &mut self.requests[slot];
            let prompt = request.prompt_tokens;
            let found = self.cache.find(request, prompt);
            self.cache.adopt(request, found);
            let missing = prompt - found.tokens;
            self.cache.make_available(u64::from(self.cache.ceil_page(missing)));
            self.cache.allocate(request, prompt);
            // The first token comes with the KV of the prompt, so that nothing of that is computed here.
            request.computed = prompt;
            request.outputs = 1;
            request.status = Status::Loading;
            request.remote_prefill = false;
            let id = request.id;
            let begun = links.begin(Fetch { id, tokens: missing, of_tokens: prompt }, now);
            iteration.transfers.push(Transfer { id, tokens: missing, end: begun.end() });
            self.loading.push_back((slot, begun.end_or_max()));
        }
    }

    /// Whether a prompt from elsewhere fits now, with what the requests in flight will need.
    fn has_room_for_transfer(&mut self, slot: Slot) -> bool {
        let (ratio, clip) = (self.ratio.current(), self.sglang.clip_max_new_tokens);
        let loading = self.loading.iter().map(|(slot, _)| slot);
        let in_flight = self.running.iter().chain(&self.last_prefill).chain(loading);
        let mut reserved: f64 =
            in_flight.map(|&slot| f64::from(self.requests[slot].remaining().min(clip)) * ratio).sum();
        if let Some(request) = self.chunked.map(|slot| &self.requests[slot]) {
            let prompt = self.cache.ceil_page(request.known() - request.computed);
            reserved += f64::from(prompt) + f64::from(request.remaining().min(clip));
        }
        let request = &mut self.requests[slot];
        let found = self.cache.find(request, request.prompt_tokens);
        let held = self.cache.hold(found);
        let room = self.cache.obtainable() as f64 - reserved;
        let windows = self.cache.window_obtainable();
        self.cache.let_go(found, held);
        let request = &self.requests[slot];
        let missing = request.prompt_tokens - found.tokens;
        let output = request.max_new_tokens.min(clip);
        let excess = self.cache.excess(request.prompt_tokens);
        // Windows give slots back only later, so that the whole prompt has to have some.
        f64::from(missing) + f64::from(output) + f64::from(self.config.block_size) - excess < room
            && u64::from(self.cache.ceil_page(missing)) <= windows
    }

    /// Requests whose KV has arrived have their first token and run from now on, unless it is their last one.
    pub(super) fn admit_loaded(&mut self, now: Time, iteration: &mut Iteration) {
        // Who ends at once takes a place in the batch all the same.
        let (mut position, mut taken) = (0, usize::from(self.chunked.is_some()));
        while position < self.loading.len() && self.room_to_run() > taken {
            let (slot, end) = self.loading[position];
            if end > now {
                position += 1;
                continue;
            }
            self.loading.remove(position);
            let request = &mut self.requests[slot];
            request.status = Status::Active;
            let prompt = request.prompt_tokens;
            let (id, cached_tokens, is_finished) = (request.id, request.shared.tokens, request.is_complete());
            iteration.received.push(id);
            iteration.joined.push(Joined { id, is_finished });
            if is_finished {
                self.finish(slot);
                taken += 1;
            } else {
                iteration.admitted.push(Admitted {
                    id,
                    cached_tokens,
                    host_cached_tokens: 0,
                    resumed: false,
                });
                self.cache.share(request, prompt);
                self.running.push(slot);
            }
        }
    }
}
