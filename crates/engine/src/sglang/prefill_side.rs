//! The prefill side of disaggregated serving: `PrefillBootstrapQueue`, and prompts whose KV is on its way.
//!
//! A request waits until its decode worker has memory for it, without any here and out of the order of the waiting queue.
//! Then its prompt is computed as anywhere else, chunk by chunk, and each chunk is sent when it is there. All of it stays
//! locked until the decode worker has it; that is looked at after each pass.

use std::collections::VecDeque;

use servecast_types::{Duration, RequestId, Time};

use super::adder::PrefillAdder;
use super::disaggregation::Disaggregation;
use super::scheduler::Scheduler;
use super::settings::SglangConfig;
use crate::EngineConfig;
use crate::iteration::{Iteration, Scheduled, Sent};
use crate::step::{Entry, Step};
use crate::table::Slot;

/// What only a prefill worker has.
#[derive(Debug)]
pub(super) struct PrefillSide {
    /// From when a decode worker has memory to when that is known here.
    bootstrap: Duration,
    /// Requests that may be under way at a time once their decode workers have memory.
    buffers: usize,
    /// Requests whose decode workers are not known to have memory.
    bootstrapping: VecDeque<Slot>,
    /// Requests that have seats.
    seated: usize,
    /// What was sent and is not among the [parts](Iteration::parts) of an iteration yet.
    sent: Vec<Sent>,
}

impl PrefillSide {
    /// None on another worker.
    pub(super) fn new(config: &EngineConfig, sglang: &SglangConfig) -> Option<Self> {
        let Some(Disaggregation::Prefill { bootstrap }) = sglang.disaggregation else { return None };
        Some(Self {
            bootstrap,
            buffers: (config.max_num_seqs as usize).saturating_mul(2),
            bootstrapping: VecDeque::new(),
            seated: 0,
            sent: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.bootstrapping.push_back(slot);
    }

    /// Takes a request out; `false` if it is not there.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        let before = self.bootstrapping.len();
        self.bootstrapping.retain(|&other| other != slot);
        self.bootstrapping.len() < before
    }

    /// Those that wait for their decode workers.
    pub(super) fn bootstrapping(&self) -> impl Iterator<Item = Slot> {
        self.bootstrapping.iter().copied()
    }

    pub(super) fn num_bootstrapping(&self) -> usize {
        self.bootstrapping.len()
    }

    /// Requests that have seats, which they keep until their KV is where it goes.
    pub(super) fn seated(&self) -> usize {
        self.seated
    }

    /// Tells what was sent since the last call.
    pub(super) fn tell_sent(&mut self, iteration: &mut Iteration) {
        iteration.parts.append(&mut self.sent);
    }
}

/// One pass of a prefill worker.
impl Scheduler {
    /// A decode worker has memory for a request since `now`, and `held` tokens of its prompt in its cache.
    pub(crate) fn preallocated(&mut self, id: RequestId, held: u32, now: Time) {
        let Some(side) = &self.prefill_side else { return };
        let known_at = now + side.bootstrap;
        if let Some(slot) = side.bootstrapping().find(|&slot| self.requests[slot].id == id) {
            let request = &mut self.requests[slot];
            (request.known_at, request.sent) = (known_at, held);
        }
    }

    /// Decides the next iteration of a prefill worker: `get_next_disagg_prefill_batch_to_run`.
    pub(super) fn schedule_prefill_side(&mut self, now: Time, step: &mut Step) -> Option<PrefillAdder> {
        self.admit_bootstrapped(now);
        self.batch_is_full = false;
        self.stash_chunk();
        if let Some(slot) = self.chunked.filter(|_| !self.config.async_scheduling) {
            let computed = self.requests[slot].computed;
            self.send(slot, computed, false, now);
        }
        // Nobody runs on: those that were computed are sent.
        self.last_prefill.clear();
        let unseated = self.waiting.len() + self.inbox.len();
        let requests = self.requests.len();
        if let Some(side) = &mut self.prefill_side {
            side.seated = requests - unseated - side.bootstrapping.len();
        }
        self.plan_prefill(step)
    }

    /// What the batch found in the cache is sent before it is computed.
    pub(super) fn send_cached(&mut self, step: &mut Step) {
        let Some(side) = &mut self.prefill_side else { return };
        let before = side.sent.len();
        let now = step.iteration.scheduled_at;
        for (entry, scheduled) in step.entries.iter().zip(&step.iteration.scheduled) {
            let cached = scheduled.computed;
            let is_new = cached > self.requests[entry.slot].sent;
            if is_new && cached.is_multiple_of(self.config.block_size) {
                self.send(entry.slot, cached, false, now);
            }
        }
        if let Some(side) = &mut self.prefill_side {
            step.iteration.parts.extend(side.sent.drain(before..));
        }
    }

    /// Requests whose decode workers have memory wait for their turn, as far as there are buffers.
    fn admit_bootstrapped(&mut self, now: Time) {
        let Some(side) = &mut self.prefill_side else { return };
        let under_way = self.requests.len() - side.bootstrapping.len() - self.inbox.len();
        let mut free = side.buffers.saturating_sub(under_way);
        let mut admitted = Vec::new();
        let requests = &self.requests;
        side.bootstrapping.retain(|&slot| {
            let is_admitted = requests[slot].known_at <= now && free > 0;
            if is_admitted {
                free -= 1;
                admitted.push(slot);
            }
            !is_admitted
        });
        for slot in admitted {
            self.enter_waiting(slot);
        }
    }

    /// A part of a prompt was computed by `now`.
    pub(super) fn computed_on_prefill_side(&mut self, entry: &Entry, scheduled: Scheduled, now: Time) {
        let end = scheduled.computed + scheduled.tokens;
        if self.prefill_side.is_some() && self.holds(entry) && (entry.samples || self.config.async_scheduling)
        {
            self.send(entry.slot, end, entry.samples, now);
        }
    }

    /// Sends a prompt up to `end`, in whole pages unless that `is_last`.
    fn send(&mut self, slot: Slot, end: u32, is_last: bool, at: Time) {
        let end = if is_last { end } else { self.cache.floor_page(end) };
        let request = &mut self.requests[slot];
        if end < request.sent {
            return;
        }
        let tokens = end - request.sent;
        request.sent = end;
        if let Some(side) = self.prefill_side.as_mut().filter(|_| tokens > 0 || is_last) {
            side.sent.push(Sent { id: request.id, tokens, is_last, at });
        }
    }

    /// Looks after a pass whether KV has arrived, which need not be locked any longer.
    pub(crate) fn poll_sent(&mut self, now: Time, iteration: &mut Iteration) {
        if self.prefill_side.is_none() {
            return;
        }
        self.drop_sent(now, iteration);
        if let Some(state) = &mut iteration.sglang {
            self.cache.note_end(state);
        }
    }
}
