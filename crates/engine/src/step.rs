//! Iterations in flight.

use servecast_latency::Batch;
use servecast_types::{Duration, RequestId, Time};

use crate::iteration::{Iteration, Requeue, Scheduled};
use crate::speculation::Proposals;
use crate::table::Slot;

/// An iteration in flight.
#[derive(Debug)]
pub(crate) enum Pass {
    /// Nothing but a stretch.
    Decodes(DecodePass),
    Step(Box<Step>),
}

/// An iteration of nothing but a stretch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodePass {
    pub(crate) scheduled_at: Time,
    pub(crate) start: Time,
    pub(crate) end: Time,
    pub(crate) requests: u64,
    /// KV blocks that are free once it is decided; a release while it runs adds to those of the next.
    pub(crate) free_blocks: u32,
    pub(crate) num_running: u32,
    pub(crate) num_waiting: u32,
}

/// An iteration request by request, but for those that [decode besides](Iteration::decoded).
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) iteration: Iteration,
    pub(crate) batch: Batch,
    /// One for each of `iteration.scheduled`, in the same order.
    pub(crate) entries: Vec<Entry>,
    /// How many of `entries`, from the first on, compute prompts; only SGLang's batches are told apart.
    pub(crate) prefills: usize,
    /// Why each of `iteration.preempted` went back to the queue.
    pub(crate) requeued: Vec<Requeue>,
    /// Whether an iteration that computes something is in flight while this one is decided.
    pub(crate) follows_another: bool,
    /// What a drafter proposes after it, if that takes time.
    pub(crate) proposals: Proposals,
    /// Before when it does not end, since KV is loaded beside it.
    pub(crate) loaded_at: Time,
    /// By how much it takes longer, since adapters are loaded before it is computed.
    pub(crate) adapters_loaded: Duration,
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
    /// Drafts that it verifies, and how many of them are accepted, which is known at the end.
    pub(crate) drafted: u8,
    pub(crate) accepted: u8,
    /// SGLang: how often the request had gone back to the queue; if it does so again, its result is void.
    pub(crate) requeues: u32,
}

/// The iterations in flight, oldest first: two at most.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    first: Option<Pass>,
    /// None without a first one.
    second: Option<Pass>,
}

impl InFlight {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + usize::from(self.second.is_some())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn first(&self) -> Option<&Pass> {
        self.first.as_ref()
    }

    pub(crate) fn last(&self) -> Option<&Pass> {
        self.second.as_ref().or(self.first.as_ref())
    }

    /// The newest one, if it is known request by request.
    pub(crate) fn last_step(&mut self) -> Option<&mut Step> {
        match self.second.as_mut().or(self.first.as_mut()) {
            Some(Pass::Step(step)) => Some(step),
            Some(Pass::Decodes(_)) | None => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pass> {
        self.first.iter().chain(&self.second)
    }

    /// Iterations that compute end no earlier than `end`.
    pub(crate) fn delay_ends(&mut self, end: Time) {
        for pass in [&mut self.first, &mut self.second].into_iter().flatten() {
            if let Pass::Step(step) = pass
                && step.computes()
            {
                step.iteration.end = step.iteration.end.max(end);
            }
        }
    }

    pub(crate) fn push(&mut self, pass: Pass) {
        debug_assert!(self.second.is_none(), "two iterations are in flight at most");
        let place = if self.first.is_none() { &mut self.first } else { &mut self.second };
        *place = Some(pass);
    }

    pub(crate) fn pop_first(&mut self) -> Option<Pass> {
        std::mem::replace(&mut self.first, self.second.take())
    }

    pub(crate) fn pop_last(&mut self) -> Option<Pass> {
        self.second.take().or_else(|| self.first.take())
    }
}

impl Pass {
    /// Whether it computes anything, so that it takes time.
    pub(crate) fn computes(&self) -> bool {
        match self {
            Self::Decodes(_) => true,
            Self::Step(step) => step.computes(),
        }
    }

    /// Whether it takes time, be it that it waits for copies.
    pub(crate) fn takes_time(&self) -> bool {
        match self {
            Self::Decodes(_) => true,
            Self::Step(step) => step.computes() || step.stalls(),
        }
    }

    pub(crate) fn start(&self) -> Time {
        match self {
            Self::Decodes(pass) => pass.start,
            Self::Step(step) => step.iteration.start,
        }
    }

    pub(crate) fn end(&self) -> Time {
        match self {
            Self::Decodes(pass) => pass.end,
            Self::Step(step) => step.iteration.end,
        }
    }
}

impl Step {
    /// Whether it computes anything, so that it takes time.
    pub(crate) fn computes(&self) -> bool {
        self.iteration.num_scheduled() > 0
    }

    /// Whether it waits for copies to or from the host before it computes, and takes time even if it computes nothing.
    pub(crate) fn stalls(&self) -> bool {
        self.iteration.stalled > Duration::ZERO
    }

    /// Whether the scheduler learns with it that copies to or from the host have ended, or their worker that requests have.
    pub(crate) fn carries_copies(&self) -> bool {
        let offload = self.iteration.offload.as_ref();
        offload.is_some_and(|offload| !(offload.done.is_empty() && offload.ended.is_empty()))
    }

    /// Empties it for a decision at `now`.
    pub(crate) fn reset(&mut self, now: Time, kv_capacity_tokens: u64) {
        self.iteration.clear();
        self.iteration.scheduled_at = now;
        self.batch = Batch::new(kv_capacity_tokens);
        self.entries.clear();
        self.prefills = 0;
        self.requeued.clear();
        self.proposals = Proposals::default();
        self.loaded_at = Time::ZERO;
        self.adapters_loaded = Duration::ZERO;
    }

    /// Becomes `pass`, whose members all decode besides.
    pub(crate) fn stand_for(&mut self, pass: &DecodePass) {
        self.reset(pass.scheduled_at, 0);
        let iteration = &mut self.iteration;
        (iteration.start, iteration.end, iteration.decoded) = (pass.start, pass.end, pass.requests);
        (iteration.num_running, iteration.num_waiting) = (pass.num_running, pass.num_waiting);
        iteration.free_blocks_after_schedule = pass.free_blocks;
    }

    /// Adds `scheduled` tokens of a request.
    pub(crate) fn push(&mut self, scheduled: Scheduled, entry: Entry) {
        debug_assert_eq!(scheduled.id, entry.id);
        self.iteration.scheduled.push(scheduled);
        self.entries.push(entry);
    }

    /// Takes requests in by themselves that [decoded besides](Iteration::decoded) when it was decided.
    pub(crate) fn put_back(&mut self, requests: impl ExactSizeIterator<Item = (Scheduled, Entry)>) {
        self.iteration.decoded -= requests.len() as u64;
        let (scheduled, entries): (Vec<_>, Vec<_>) = requests.unzip();
        self.iteration.scheduled.splice(..0, scheduled);
        self.entries.splice(..0, entries);
    }
}
