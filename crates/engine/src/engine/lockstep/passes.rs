//! Passes that all ranks make together: when each begins and how long it takes.

use std::collections::VecDeque;

use servecast_latency::{Batch, LatencyError, StepWork};
use servecast_types::{Duration, Time};
use smallvec::SmallVec;

use crate::EngineConfig;

/// The passes that somebody still has to do with, by number.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// Oldest first, and the number of the first.
    shared: VecDeque<SharedPass>,
    first: u64,
    /// When the last pass that has begun ends, and before when the next one cannot begin: the host works until then.
    device_free: Time,
    next_pass: Time,
    /// Dummy batches so far, each of one rank, and parts of passes whose time lies outside what was measured.
    dummies: u64,
    extrapolated: u64,
    /// A pass that has no length, which ends the run.
    failed: Option<LatencyError>,
}

/// What a rank computes in a pass, and how long it loads adapters before that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) batch: Batch,
    pub(super) loading: Duration,
}

/// A pass of all ranks.
#[derive(Debug, Default)]
struct SharedPass {
    /// How many ranks have dispatched it, and when the last of them did.
    dispatched: u32,
    from: Time,
    /// What they compute, but for dummies whose time is given.
    parts: SmallVec<[Part; 4]>,
    /// When it begins and ends, once all have dispatched it.
    span: Option<(Time, Time)>,
}

impl Passes {
    /// A rank has dispatched its part of a pass, which begins with the last one.
    pub(super) fn dispatch(&mut self, pass: u64, now: Time, part: Part, config: &EngineConfig) {
        self.dispatch_some(pass, now, Some(part), config);
    }

    /// A rank takes part in a pass without work of its own.
    pub(super) fn dispatch_dummy(&mut self, pass: u64, now: Time, config: &EngineConfig) {
        self.dummies += 1;
        let dummy = || Part { batch: dummy_batch(config), loading: Duration::ZERO };
        let part = config.dp.dummy.is_none().then(dummy);
        self.dispatch_some(pass, now, part, config);
    }

    fn dispatch_some(&mut self, pass: u64, now: Time, part: Option<Part>, config: &EngineConfig) {
        let index = (pass - self.first) as usize;
        if index == self.shared.len() {
            self.shared.push_back(SharedPass::default());
        }
        let shared = &mut self.shared[index];
        shared.dispatched += 1;
        shared.from = shared.from.max(now);
        shared.parts.extend(part);
        if shared.dispatched == config.num_ranks() {
            self.begin(index, config);
        }
    }

    /// All ranks have dispatched a pass: it takes as long as the slowest of them.
    fn begin(&mut self, index: usize, config: &EngineConfig) {
        let SharedPass { from, parts, dispatched, span } = &mut self.shared[index];
        let tokens = parts.iter().map(|part| part.batch.tokens).sum();
        let given = config.dp.dummy.filter(|_| parts.len() < *dispatched as usize);
        let mut length = given.unwrap_or_default();
        for part in &*parts {
            match config.latency.iteration_of_ranks(&part.batch, tokens) {
                Ok(own) => length = length.max(own + part.loading),
                Err(error) => self.failed = Some(error),
            }
            self.extrapolated += u64::from(config.latency.extrapolates(&part.batch));
        }
        let requests = parts.iter().map(|part| part.batch.requests).max().unwrap_or(0);
        let begin = (*from).max(self.device_free).max(self.next_pass);
        let end = begin + length;
        *span = Some((begin, end));
        self.device_free = end;
        self.next_pass = end + config.host.gap(requests);
    }

    /// When a pass begins and ends, once that is known.
    pub(super) fn span(&self, pass: u64) -> Option<(Time, Time)> {
        self.shared.get((pass - self.first) as usize)?.span
    }

    pub(super) fn has_ended(&self, pass: u64, now: Time) -> bool {
        self.span(pass).is_some_and(|(_, end)| end <= now)
    }

    /// Drops the passes before one, with which nobody has to do any more.
    pub(super) fn forget_before(&mut self, oldest: u64) {
        while self.first < oldest && self.shared.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// The error of a pass that has no length.
    pub(super) fn take_failed(&mut self) -> Result<(), LatencyError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    pub(super) fn num_dummies(&self) -> u64 {
        self.dummies
    }

    pub(super) fn num_extrapolated(&self) -> u64 {
        self.extrapolated
    }
}

/// What a rank without work computes: one token.
fn dummy_batch(config: &EngineConfig) -> Batch {
    let one =
        StepWork { requests: 1, context_tokens: 1, longest_context_tokens: 1, squared_context_tokens: 1 };
    Batch::of_decodes(one, config.kv_capacity_tokens())
}

/// Whether a pass of nothing but dummies takes no time.
pub(super) fn dummies_take_no_time(config: &EngineConfig) -> Result<bool, LatencyError> {
    let dummy = match config.dp.dummy {
        Some(dummy) => dummy,
        None => config.latency.iteration_of_ranks(&dummy_batch(config), config.num_ranks().into())?,
    };
    Ok(dummy == Duration::ZERO)
}
