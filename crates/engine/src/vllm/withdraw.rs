//! `Scheduler.finish_requests()`: a request is given up from outside.

use servecast_types::RequestId;

use super::request::Status;
use super::scheduler::{Held, Scheduler};

impl Scheduler {
    /// Takes a request away between iterations, when no stretch is under way; `false` if it has ended. What is in flight of
    /// it is void.
    pub(crate) fn withdraw(&mut self, id: RequestId) -> bool {
        let Some(slot) = self.requests.find(|request| request.id == id) else { return false };
        let status = self.requests[slot].status;
        let is_stored = status != Status::Held && self.end_at_host(slot);
        match status {
            Status::Held => return false,
            Status::Waiting | Status::Preempted => self.waiting.remove(slot),
            Status::Running => {
                self.running.retain(|&other| other != slot);
                self.vacate_adapter(slot);
            }
            Status::Loading => {
                let is_it = self.loading.iter().position(|loading| loading.slot == slot);
                let loading = is_it.and_then(|position| self.loading.remove(position));
                if let Some(loading) = loading.filter(|loading| !loading.received) {
                    // KV is still being written to its blocks.
                    self.requests[slot].status = Status::Held;
                    let end = Some((loading.end, loading.from)).filter(|_| self.offload.is_none());
                    self.held.push(Held { slot, end });
                    self.must_replan = true;
                    return true;
                }
            }
        }
        self.ended_since_schedule = true;
        self.must_replan = true;
        if is_stored {
            self.requests[slot].status = Status::Held;
            self.held.push(Held { slot, end: None });
            return true;
        }
        self.free_blocks(slot);
        self.requests.remove(slot);
        true
    }
}
