//! What the engine asks the scheduler between iterations: what there is to do, what it waits for, how much it has.

use servecast_types::{RequestId, Time, ensure};

use super::request::Request;
use super::scheduler::Scheduler;
use crate::table::Slot;

impl Scheduler {
    /// Whether a slot still has the request that had it when `id` was noted.
    pub(super) fn holds(&self, slot: Slot, id: RequestId) -> bool {
        self.requests.get(slot).is_some_and(|request| request.id == id)
    }

    /// Whether there is anything to decide at `now`: something to compute, or a transfer whose end is to be noticed.
    pub(crate) fn has_work(&self, now: Time) -> bool {
        self.has_requests() || self.has_news(now)
    }

    /// Whether an iteration, be it an empty one, has something to do.
    pub(crate) fn has_requests(&self) -> bool {
        let polls_for_readers = self.polls() && !self.held.is_empty();
        let copies = || self.offload.as_ref().is_some_and(|offload| offload.has_pending());
        self.has_unfinished_requests() || self.ended_since_schedule || polls_for_readers || copies()
    }

    /// Whether KV is fetched from elsewhere, or will be, or is held for others.
    pub(crate) fn awaits_kv(&self) -> bool {
        let fetches = |slot: Slot| self.requests[slot].remote_prefill;
        !self.loading.is_empty() || !self.held.is_empty() || self.waiting.iter().any(fetches)
    }

    /// Whether KV is being copied to the memory of the host or back.
    pub(crate) fn copies_kv(&self) -> bool {
        self.offload.as_ref().is_some_and(|offload| offload.has_copies())
    }

    /// Forgets all contents that can be hit; nothing holds KV.
    pub(crate) fn reset_prefix_cache(&mut self) {
        self.kv.reset();
    }

    pub(crate) fn has_unfinished_requests(&self) -> bool {
        self.num_running() + self.num_waiting() > 0
    }

    pub(crate) fn num_running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len() + self.loading.len()
    }

    pub(crate) fn num_free_blocks(&self) -> u32 {
        self.kv.num_free()
    }

    /// Whether the real connector's poll is simulated, which notices transfers late.
    pub(crate) fn polls(&self) -> bool {
        self.config.kv_role.is_some()
    }

    /// Whether a transfer has ended that no iteration has noticed yet.
    pub(crate) fn has_news(&self, now: Time) -> bool {
        let received = self.loading.iter().any(|loading| !loading.received && loading.end <= now);
        let copied = || self.offload.as_ref().is_some_and(|offload| offload.has_news(now));
        let compiled = self.next_grammar().is_some_and(|ready| ready <= now);
        compiled
            || received
            || self.held.iter().any(|held| held.end.is_some_and(|(end, _)| end <= now))
            || copied()
    }

    /// The next time at which a transfer ends, as far as is known.
    pub(crate) fn next_transfer_end(&self, now: Time) -> Option<Time> {
        let loading = self.loading.iter().filter(|loading| !loading.received).map(|loading| loading.end);
        let held = self.held.iter().filter_map(|held| held.end.map(|(end, _)| end));
        let copies = self.offload.as_ref().and_then(|offload| offload.next_end());
        let others = copies.into_iter().chain(self.next_grammar());
        loading.chain(held).chain(others).filter(|&end| now < end && end < Time::MAX).min()
    }

    /// Checks that blocks are conserved and every request is in exactly one place; says what does not hold.
    pub(crate) fn check(&self) -> Result<u64, String> {
        let live = || self.requests.iter();
        let deferred = self.deferred.iter().flat_map(|(_, blocks)| blocks.iter().copied());
        let pinned = self.offload.iter().flat_map(|offload| offload.pinned());
        let mut looked_at = self.kv.check(live(), deferred.chain(pinned))?;
        if let Some(offload) = &self.offload {
            looked_at += offload.check()?;
        }
        let places = self.num_running() + self.num_waiting() + self.held.len();
        let requests = live().count();
        ensure!(requests == places, "{requests} requests are in {places} places");
        let (running, most) = (self.num_running(), self.config.max_num_seqs);
        ensure!(running <= most as usize, "{running} requests run, of {most} at most");
        if let Some(adapters) = &self.adapters {
            adapters
                .check(self.running.iter().filter(|&&slot| self.requests[slot].lora.is_some()).count())?;
        }
        for request in live() {
            let covered = match (&request.tables, &self.kv.groups) {
                (Some(tables), Some(groups)) => groups.covered(tables),
                _ => request.blocks.len() as u64 * u64::from(self.config.block_size),
            };
            let Request { id, computed, outputs, max_tokens, .. } = *request;
            ensure!(
                u64::from(computed) <= covered,
                "request {id} computed {computed} tokens, but its blocks hold {covered}"
            );
            ensure!(outputs <= max_tokens, "request {id} produced {outputs} tokens of {max_tokens} at most");
        }
        Ok(looked_at + requests as u64)
    }
}
