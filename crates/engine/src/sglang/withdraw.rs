//! `Scheduler.abort_request()`: a request is given up from outside.

use servecast_types::RequestId;

use super::request::Status;
use super::scheduler::Scheduler;

impl Scheduler {
    /// Takes a request away between iterations, when no stretch is under way, if it waits; returns whether that was so. One
    /// that is served ends with its next token.
    pub(crate) fn withdraw(&mut self, id: RequestId) -> bool {
        let Some(slot) = self.requests.find(|request| request.id == id) else { return false };
        let waits = self.inbox.remove(slot) || self.waiting.remove(slot) || self.fetching.remove(slot);
        if waits {
            debug_assert_eq!(self.requests[slot].allocated, 0, "who waits has no memory");
            self.requests.remove(slot);
        } else if self.requests[slot].status != Status::Held {
            // The token of one whose KV is on its way is known, and out when it joins.
            let is_loading = self.loading.iter().any(|&(loading, _)| loading == slot);
            self.requests[slot].stop_with_next_token(is_loading);
        }
        self.must_replan = true;
        waits
    }
}
