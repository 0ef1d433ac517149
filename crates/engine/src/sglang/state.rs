//! What the engine asks between iterations, and what is noted of a decision.

use servecast_types::{Time, ensure};

use super::adder::PrefillAdder;
use super::decode_side::DecodeSide;
use super::prefill_side::PrefillSide;
use super::request::Status;
use super::scheduler::Scheduler;
use crate::Rejection;
use crate::iteration::{DisaggregationState, Iteration, SglangState};
use crate::step::{Entry, Step};
use crate::table::Slot;

/// What is noted of a decision.
impl Scheduler {
    /// Notes what the iteration leaves behind.
    pub(super) fn describe(&mut self, step: &mut Step, adder: Option<&PrefillAdder>) {
        let host = self.cache.host_copies();
        let iteration = &mut step.iteration;
        iteration.num_running = self.running.len() as u32;
        iteration.num_waiting = self.num_waiting() as u32;
        iteration.free_blocks_after_schedule = self.num_free_blocks();
        if !self.traces_state {
            return;
        }
        let kv_allocated = self.allocated(&step.entries, step.prefills);
        let iteration = &mut step.iteration;
        let id = |slot: &Slot| self.requests[*slot].id;
        let arrived = self.decode_side.iter().flat_map(DecodeSide::arrived);
        let fetching = self.fetching.iter().filter(|_| self.decode_side.is_none());
        let waiting = self.waiting.iter().chain(fetching).chain(arrived);
        iteration.sglang = Some(Box::new(SglangState {
            prefills: step.prefills,
            chunked: self.chunked.as_ref().map(id),
            running: self.running.iter().map(id).collect(),
            waiting: waiting.map(|slot| id(&slot)).collect(),
            batch_is_full: self.batch_is_full,
            new_token_ratio: self.ratio.current(),
            available: self.cache.available(),
            evictable: self.cache.tree.evictable_tokens(),
            protected: self.cache.tree.protected_tokens(),
            rem_input: adder.map(|adder| adder.rem_input),
            rem_chunk: adder.and_then(|adder| adder.rem_chunk),
            rem_total: adder.map(|adder| adder.rem_total(&self.cache)),
            kv_allocated,
            host,
            windows: self.cache.window_slots(),
            disaggregation: self.queues(iteration.parts.len()).map(Box::new),
            ..SglangState::default()
        }));
    }
}

impl Scheduler {
    /// Memory of the requests of a batch, of which the first ones compute prompts.
    fn allocated(&self, entries: &[Entry], prefills: usize) -> Vec<u32> {
        if self.sglang.speculation.is_none() {
            return Vec::new();
        }
        let of = |(position, entry): (usize, &Entry)| {
            let request = &self.requests[entry.slot];
            if position < prefills { request.computed } else { request.allocated }
        };
        entries.iter().enumerate().map(of).collect()
    }

    /// The queues of a worker of one stage.
    fn queues(&self, sent_at_launch: usize) -> Option<DisaggregationState> {
        if self.prefill_side.is_none() && self.decode_side.is_none() {
            return None;
        }
        let id = |slot: Slot| self.requests[slot].id;
        let (prefill, decode) = (self.prefill_side.as_ref(), self.decode_side.as_ref());
        let bootstrapping = prefill.into_iter().flat_map(PrefillSide::bootstrapping);
        let retracted = decode.into_iter().flat_map(|side| side.retracted.iter().copied());
        Some(DisaggregationState {
            bootstrap_queue: bootstrapping.map(id).collect(),
            inflight_queue: self.held.iter().map(|&(slot, _)| id(slot)).collect(),
            sent_at_launch,
            prealloc_queue: self.fetching.iter().map(id).collect(),
            transfer_queue: self.loading.iter().map(|&(slot, _)| id(slot)).collect(),
            retracted_queue: retracted.map(id).collect(),
            joined: decode.map(|side| side.joined.clone()).unwrap_or_default(),
        })
    }
}

/// What the engine asks between iterations.
impl Scheduler {
    /// When a pass can begin that could do so at `start`, as its decision waited for copies to the host.
    pub(crate) fn wait_for_copies(&self, start: Time, step: &mut Step) -> Time {
        let Some(host) = &self.cache.host else { return start };
        step.iteration.scheduled_at = host.now();
        start.max(host.now())
    }

    /// Whether there is anything to decide at `now`.
    pub(crate) fn has_work(&self, now: Time) -> bool {
        self.has_unfinished_requests() || self.has_news(now)
    }

    /// Whether KV is fetched from elsewhere, or will be, or is held for others.
    pub(crate) fn awaits_kv(&self) -> bool {
        !self.loading.is_empty() || !self.held.is_empty() || !self.fetching.is_empty()
    }

    pub(crate) fn has_unfinished_requests(&self) -> bool {
        self.num_running() + self.num_waiting() > 0
    }

    /// Requests that are being computed.
    pub(crate) fn num_running(&self) -> usize {
        let chunked = self.chunked.filter(|slot| !self.last_prefill.contains(slot));
        self.running.len() + self.last_prefill.len() + usize::from(chunked.is_some())
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.inbox.len()
            + self.waiting.len()
            + self.fetching.len()
            + self.loading.len()
            + self.decode_side.as_ref().map_or(0, DecodeSide::num_waiting)
            + self.prefill_side.as_ref().map_or(0, PrefillSide::num_bootstrapping)
    }

    pub(crate) fn num_free_blocks(&self) -> u32 {
        (self.cache.obtainable() / u64::from(self.config.block_size)) as u32
    }

    /// Whether the next decision may differ though nothing came: a transfer has ended that no iteration has noticed yet, or
    /// requests that ended count as running no more.
    pub(crate) fn has_news(&self, now: Time) -> bool {
        self.decode_side.as_ref().is_some_and(|side| side.counted_left)
            || self.held.iter().any(|&(_, end)| end.is_some_and(|end| end <= now))
    }

    /// The next time at which a transfer ends, as far as is known.
    pub(crate) fn next_transfer_end(&self, now: Time) -> Option<Time> {
        let loading = self.loading.iter().map(|&(_, end)| end);
        let held = self.held.iter().filter_map(|&(_, end)| end);
        // The other stage of a request becomes known.
        let bootstrapping = self.prefill_side.iter().flat_map(PrefillSide::bootstrapping);
        let fetching = self.fetching.iter().filter(|_| self.decode_side.is_some());
        let known = bootstrapping.chain(fetching).map(|slot| self.requests[slot].known_at);
        // What is being copied is locked, so that somebody may wait for it.
        let waits = self.has_unfinished_requests();
        let copies = self.cache.host.iter().filter(|_| waits).filter_map(|host| host.next_end());
        loading.chain(held).chain(known).chain(copies).filter(|&end| now < end && end < Time::MAX).min()
    }

    /// Whether copies to the memory of the host or from it are under way.
    pub(super) fn copies_to_host(&self) -> bool {
        self.cache.host.iter().any(|host| host.next_end().is_some())
    }

    /// Gives up the head of the queue if nothing that is under way could ever make room for it.
    pub(crate) fn give_up_if_stuck(&mut self, iteration: &mut Iteration) {
        let under_way = !self.loading.is_empty() || !self.held.is_empty() || self.copies_to_host();
        let computing = self.num_running() > 0 || under_way;
        // On a decode worker nobody waits alone.
        if computing || self.decode_side.is_some() {
            return;
        }
        if let Some(slot) = self.waiting.pop_front().or_else(|| self.fetching.pop_front()) {
            let request = self.requests.remove(slot);
            let tokens = request.known();
            let reason = request.refused.unwrap_or(Rejection::KvCapacity { tokens });
            iteration.rejected.push((request.id, reason));
        }
    }

    /// Whether a slot still has the request that had it when `entry` was made, and its result still counts.
    pub(super) fn holds(&self, entry: &Entry) -> bool {
        self.requests
            .get(entry.slot)
            .is_some_and(|request| request.id == entry.id && request.requeues == entry.requeues)
    }

    /// Whether it has prompts to compute and tries none of them yet.
    pub(super) fn waits_for_interval(&self) -> bool {
        !self.interval.is_open() && !self.waiting.is_empty()
    }

    /// Forgets all contents that can be hit; nothing holds KV.
    pub(crate) fn reset_prefix_cache(&mut self) {
        self.cache.reset();
    }

    /// The worker is idle.
    pub(crate) fn idle(&mut self) {
        // As recorded; on a decode worker nobody is admitted by it.
        if !self.has_unfinished_requests() && self.decode_side.is_none() {
            self.ratio.reset();
        }
    }

    /// Panics unless KV memory is conserved and every request is in exactly one place.
    pub(crate) fn check(&self) -> Result<u64, String> {
        // In a stretch with pages of one token, what requests took is not booked on them yet.
        let takes = self.stretches && self.config.block_size == 1;
        let taken = if takes { self.stretch.tokens_taken() } else { 0 };
        let looked_at = self.cache.check(self.requests.iter(), taken)?;
        let lists = self.num_running() + self.num_waiting() + self.held.len();
        let finishing =
            self.requests.iter().filter(|request| request.status == Status::Active && request.is_finishing());
        let leaving = if self.stretches { self.stretch.leaving().count() } else { 0 };
        let places = lists..=lists + finishing.count() + leaving;
        let requests = self.requests.iter().count();
        ensure!(places.contains(&requests), "{requests} requests are in {places:?} places");
        let (running, most) = (self.running.len(), self.config.max_num_seqs);
        ensure!(running <= most as usize, "{running} requests run, of {most} at most");
        Ok(looked_at + requests as u64)
    }
}
