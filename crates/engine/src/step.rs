use servecast_latency::Batch;
use servecast_types::{RequestId, Time};

use crate::iteration::{Finished, Iteration, Requeue, Scheduled};
use crate::table::Slot;

/// An iteration in flight.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) iteration: Iteration,
    pub(crate) batch: Batch,
    /// One for each of `iteration.scheduled`, in the same order.
    pub(crate) entries: Vec<Entry>,
    /// Of the requests that [decoded besides](Iteration::decoded), those that ended.
    pub(crate) ended: Vec<Finished>,
    /// How many of `entries`, from the first on, compute prompts; only SGLang's batches are told apart.
    pub(crate) prefills: usize,
    /// Why each of `iteration.preempted` went back to the queue.
    pub(crate) requeued: Vec<Requeue>,
}

/// What a scheduler has to know of a scheduled request beyond what it reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    pub(crate) id: RequestId,
    /// Whether the iteration computes its last known token, so that a new one comes out.
    pub(crate) samples: bool,
    /// vLLM: where the request's blocks of this iteration start in its table.
    pub(crate) first_new_block: u32,
    /// SGLang: how often the request had gone back to the queue; if it does so again, its result is void.
    pub(crate) requeues: u32,
}

impl Step {
    /// Whether it computes anything, so that it takes time.
    pub(crate) fn computes(&self) -> bool {
        self.iteration.num_scheduled() > 0
    }

    /// Empties it for a decision at `now`.
    pub(crate) fn reset(&mut self, now: Time, kv_capacity_tokens: u64) {
        self.iteration.clear();
        self.iteration.scheduled_at = now;
        self.batch = Batch::new(kv_capacity_tokens);
        self.entries.clear();
        self.ended.clear();
        self.prefills = 0;
        self.requeued.clear();
    }

    /// Adds `scheduled` tokens of a request.
    pub(crate) fn push(&mut self, scheduled: Scheduled, entry: Entry) {
        debug_assert_eq!(scheduled.id, entry.id);
        self.iteration.scheduled.push(scheduled);
        self.entries.push(entry);
    }
}
