//! The prompt that is computed in chunks: its next one, and what becomes of it when there is no memory for that.

use super::adder::PrefillAdder;
use super::scheduler::Scheduler;
use crate::iteration::Requeue;
use crate::step::Step;
use crate::table::Slot;

impl Scheduler {
    /// Shares what the last chunk of the chunked request computed.
    pub(super) fn stash_chunk(&mut self) {
        // One that found no room in the last batch has nothing new; a prefill worker does not go by that.
        let is_new = |slot: &Slot| self.prefill_side.is_some() || self.last_prefill.contains(slot);
        if let Some(slot) = self.chunked.filter(is_new) {
            let request = &mut self.requests[slot];
            let computed = request.computed;
            self.cache.share_chunk(request, computed);
        }
    }

    /// Takes the next chunk of the prompt that is computed in chunks, if there is one and memory for it. Returns whether others may
    /// be admitted beside it: not when it has just lost what it had.
    pub(super) fn continue_chunked(&mut self, adder: &mut PrefillAdder, step: &mut Step) -> bool {
        let Some(slot) = self.chunked else { return true };
        let request = &self.requests[slot];
        let rem_chunk = adder.rem_chunk.unwrap_or(0);
        let page_size = self.config.block_size;
        let limit = self.policy.chunk_limit(request, &self.waiting, &self.requests, rem_chunk, page_size);
        let tokens = adder.next_chunk(request, &self.cache, limit);
        let has_room = self.cache.has_room(request, tokens);
        if has_room && tokens > 0 {
            let more = adder.add_chunked(slot, request, tokens, &self.cache);
            self.chunked = Some(slot).filter(|_| more);
            return true;
        }
        let is_alone = self.running.is_empty();
        let waits = if is_alone { step.follows_another || self.memory_comes_free() } else { has_room };
        if !waits {
            self.part_with_chunked(slot, is_alone, step);
        }
        waits
    }

    /// Whether memory becomes free by itself though nobody runs: KV that is under way has it.
    fn memory_comes_free(&self) -> bool {
        // Who comes with KV needs a seat beside the prompt.
        let joins = !self.loading.is_empty() && self.room_to_run() > 1;
        joins || !self.held.is_empty() || self.copies_to_host()
    }

    /// Sends the request whose prompt is computed in chunks back to the queue; what it computed stays in the tree as long as there
    /// is room. One that `is_alone`, so that nobody else could have more memory for it, is given up unless it has come further than
    /// the last time: prompts that take turns would do so for ever.
    fn part_with_chunked(&mut self, slot: Slot, is_alone: bool, step: &mut Step) {
        self.chunked = None;
        self.batch_is_full = false;
        if is_alone && self.loading.is_empty() {
            let request = &mut self.requests[slot];
            let reached = (request.outputs, request.computed);
            if reached <= request.stuck_at {
                self.give_up(slot, 0, step);
                return;
            }
            request.stuck_at = reached;
        }
        self.release_for_requeue(slot, self.running.len(), Requeue::Retracted, step);
        self.requeue(slot);
    }
}
