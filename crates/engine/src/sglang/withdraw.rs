//! `Scheduler.abort_request()`: a request is given up from outside.

use servecast_types::RequestId;

use super::request::Status;
use super::scheduler::Scheduler;
use crate::table::Slot;

impl Scheduler {
    /// Takes a request away between iterations, when no stretch is under way, if it waits; returns whether that was so. One
    /// that is served ends with its next token.
    pub(crate) fn withdraw(&mut self, id: RequestId) -> bool {
        let Some(slot) = self.requests.find(|request| request.id == id) else { return false };
        // A decode worker has one that has just come in two places.
        let has_lost_memory = self.decode_side.as_mut().is_some_and(|side| side.remove(slot));
        let waits = has_lost_memory
            || self.inbox.remove(slot)
            || self.waiting.remove(slot)
            || self.fetching.remove(slot)
            || self.prefill_side.as_mut().is_some_and(|side| side.remove(slot))
            || self.stop_loading(slot);
        if waits {
            debug_assert_eq!(self.requests[slot].allocated, 0, "who waits has no memory");
            self.requests.remove(slot);
        } else if self.requests[slot].status != Status::Held {
            // The token of one whose KV is on its way is known, and out when it joins.
            let has_token = self.requests[slot].status == Status::Loading && self.requests[slot].outputs > 0;
            self.requests[slot].stop_with_next_token(has_token);
        }
        self.must_replan = true;
        waits
    }

    /// Drops a request of a decode worker that waits for KV, whatever becomes of that: `KVReceiver.abort()`.
    fn stop_loading(&mut self, slot: Slot) -> bool {
        if self.decode_side.is_none() {
            return false;
        }
        let Some(position) = self.loading.iter().position(|&(other, _)| other == slot) else { return false };
        self.loading.remove(position);
        self.cache.release(&mut self.requests[slot]);
        true
    }
}
