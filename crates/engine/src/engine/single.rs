//! A scheduler by itself, from iteration to iteration.

mod decodes;

use std::sync::Arc;

use servecast_latency::LatencyError;
use servecast_types::{RequestId, Time};

use super::{EngineState, EngineTracing};
use crate::iteration::{IterationSink, LastIteration};
use crate::scheduler::Scheduler;
use crate::step::{InFlight, Pass, Step};
use crate::stretch::LARGEST_WHEEL;
use crate::stretch_scheduler::{Changes, StretchScheduler};
use crate::{EngineConfig, EngineRequest, Rejection};

/// Iterations that [`Single::run_on`] ends in one call at most, so that a driver stays in control; those that it glides
/// through cost a small part of one.
const MOST_ITERATIONS: u64 = 1 << 12;
const GLIDED_PER_ITERATION: u64 = 16;

/// A scheduler, its KV cache, and the iterations in flight: what [`Engine`](crate::Engine) is where nothing is in lock step.
#[derive(Debug)]
pub(super) struct Single {
    scheduler: Scheduler,
    /// Oldest first; two under asynchronous scheduling, which decides an iteration while the one before it runs.
    in_flight: InFlight,
    depth: usize,
    /// When the last iteration in flight ends.
    device_free: Time,
    /// Before when no pass can begin: that of the host's work after the last one.
    next_pass: Time,
    /// Until when the last decision waited for copies; nothing is decided and no result is looked at before that.
    decides_until: Time,
    /// When it last decided or ended an iteration.
    clock: Time,
    /// Whether the next decision has to wait for the end of the oldest iteration in flight.
    blocked: bool,
    recorder_clock: bool,
    /// Ended iterations, whose memory the next ones take over.
    #[expect(clippy::vec_box, reason = "steps are moved between here and the flight, by their pointers")]
    spare: Vec<Box<Step>>,
    /// Whether requests that decode may do so as a stretch.
    stretches: bool,
    /// When the last iteration of the stretch ended.
    last_decode_end: Time,
    /// What a stretch changed; kept for its memory.
    changes: Changes,
    /// Requests that are to be taken away with the next decision.
    withdrawals: Vec<RequestId>,
    /// Iterations whose time lies outside what the latency model was measured on.
    extrapolated: u64,
}

impl Single {
    /// An engine without requests.
    pub(super) fn new(config: Arc<EngineConfig>, tracing: EngineTracing) -> Self {
        let depth = if config.async_scheduling { 2 } else { 1 };
        let polls = tracing.recorder_clock && config.offload.is_none();
        let visits = config.offload.is_some_and(|offload| !offload.goes_by_fills());
        let one_by_one = tracing.block_ids || polls || visits;
        let stretches = tracing.stretches && !one_by_one && config.block_size <= LARGEST_WHEEL;
        Self {
            scheduler: Scheduler::new(config, tracing),
            in_flight: InFlight::default(),
            depth,
            device_free: Time::ZERO,
            next_pass: Time::ZERO,
            decides_until: Time::ZERO,
            clock: Time::ZERO,
            blocked: false,
            recorder_clock: tracing.recorder_clock,
            spare: Vec::new(),
            stretches,
            last_decode_end: Time::ZERO,
            changes: Changes::default(),
            withdrawals: Vec::new(),
            extrapolated: 0,
        }
    }

    /// The settings of the engine.
    pub(super) fn config(&self) -> &EngineConfig {
        self.scheduler.config()
    }

    /// Puts a request into the waiting queue, or says why it can never be served.
    pub(super) fn submit(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        self.scheduler.add(request)
    }

    /// Lets go of the KV blocks of an ended request with `hold_kv` once the transfer from here ends at `end`.
    pub(super) fn release(&mut self, request: RequestId, end: Time, now: Time) {
        self.scheduler.release(request, end, now);
    }

    /// A decode worker has memory for a request whose prompt is computed here, and `held` tokens of that in its cache.
    pub(super) fn preallocated(&mut self, request: RequestId, held: u32, now: Time) {
        self.scheduler.preallocated(request, held, now);
    }

    /// KV that it fetches is here; when that would be was [not known](crate::Begun::Open) when the fetch began.
    pub(super) fn fetched(&mut self, request: RequestId, now: Time) {
        self.scheduler.fetched(request, now);
    }

    /// Takes a request away with the next decision.
    pub(super) fn withdraw(&mut self, request: RequestId) {
        self.withdrawals.push(request);
    }

    /// Forgets all contents that can be hit; nothing holds KV.
    pub(super) fn reset_prefix_cache(&mut self) {
        self.scheduler.reset_prefix_cache();
    }

    /// Tells how far the requests have come that have been decoding together. The engine is lost with all that it has, its
    /// iterations in flight among them, and is not to be called again.
    pub(super) fn abandon(&mut self, sink: &mut impl IterationSink) {
        self.scheduler.abandon(&mut self.changes);
        self.tell_of_caught_up(sink);
    }

    /// Whether a request is to be withdrawn with the next decision.
    fn withdraws(&self) -> bool {
        !self.withdrawals.is_empty()
    }

    /// Starts what can be started at `now` and says what happens next.
    pub(super) fn run(
        &mut self,
        now: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        while !self.blocked && !self.still_decides(now) {
            if self.in_flight.len() < self.depth
                && self.decide(now, sink)?
                && self.in_flight.len() < self.depth
            {
                if self.in_flight.last().is_some_and(Pass::takes_time) {
                    continue;
                }
                if self.leaves_pending() {
                    break;
                }
            }
            if self.in_flight.first().is_none_or(Pass::takes_time) {
                self.blocked = !self.in_flight.is_empty();
                break;
            }
            let progressed = self.end_oldest(now, sink);
            if !progressed && self.idles(now) {
                break;
            }
        }
        Ok(self.state(now))
    }

    /// Whether the decision in flight waits for copies, so that the next one cannot be made yet.
    fn still_decides(&self, now: Time) -> bool {
        self.decides_until > now && self.in_flight.len() < self.depth
    }

    /// Whether an iteration that computes nothing stays in flight until the next input.
    fn leaves_pending(&self) -> bool {
        let uneventful = |step: &Step| {
            step.iteration.preempted.is_empty()
                && step.iteration.rejected.is_empty()
                && !step.carries_copies()
        };
        let waits = self.scheduler.polls() || self.scheduler.awaits_grammar();
        let spins = waits || self.scheduler.config().offload.is_some();
        let polls = self.recorder_clock && spins && self.scheduler.has_requests();
        polls && matches!(self.in_flight.last(), Some(Pass::Step(step)) if uneventful(step))
    }

    /// Whether there is nothing to do until the next input, after an iteration in which nothing happened.
    fn idles(&self, now: Time) -> bool {
        let pending = |pass: &Pass| match pass {
            Pass::Decodes(_) => true,
            Pass::Step(step) => {
                let is_eventful = !self.recorder_clock && step.iteration.is_eventful();
                step.computes() || step.stalls() || step.carries_copies() || is_eventful
            }
        };
        let polls = self.scheduler.config().offload.is_none();
        let skips_news = self.recorder_clock && polls && self.scheduler.has_unfinished_requests();
        let waits = self.scheduler.has_requests() && !self.in_flight.iter().any(pending);
        waits && (skips_news || !self.scheduler.has_news(now))
    }

    /// Continues by itself, ending iterations and starting others as [`Single::run`] and [`Single::end_iteration`] would,
    /// until an iteration would end at `horizon` or later; nothing can come to the engine before that. `now` is when the
    /// iteration in flight was started.
    pub(super) fn run_on(
        &mut self,
        now: Time,
        horizon: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        let mut now = now;
        let mut left = MOST_ITERATIONS * GLIDED_PER_ITERATION;
        while left > 0 {
            let EngineState::Busy { until } = self.state(now) else { break };
            if until >= horizon {
                break;
            }
            self.end_iteration(until, sink);
            left = left.saturating_sub(GLIDED_PER_ITERATION);
            let length = until.since(now);
            now = until;
            if !self.withdraws() && self.scheduler.continues() {
                let ended;
                (now, ended) = self.glide(until, length, left, horizon, sink);
                left -= ended;
            }
            self.run(now, sink)?;
        }
        Ok(self.state(now))
    }

    /// Ends the oldest iteration in flight, which is due.
    pub(super) fn end_iteration(&mut self, now: Time, sink: &mut impl IterationSink) {
        self.clock = now;
        self.blocked = false;
        if self.in_flight.first().is_some_and(|pass| pass.end() > now) {
            debug_assert_eq!(self.decides_until, now, "only a decision ends before the iteration");
            return;
        }
        debug_assert_eq!(self.in_flight.first().map(Pass::end), Some(now));
        self.end_oldest(now, sink);
    }

    /// Decides an iteration and puts it in flight, if there is anything to decide.
    fn decide(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<bool, LatencyError> {
        if self.withdraws() {
            self.apply_withdrawals(now, sink);
        }
        if self.stretches && self.start_stretch_pass(now, sink)? {
            return Ok(true);
        }
        let has_work = self.scheduler.has_work(now);
        if has_work {
            self.start(now, sink)?;
        }
        Ok(has_work)
    }

    fn apply_withdrawals(&mut self, now: Time, sink: &mut impl IterationSink) {
        self.clock = now;
        // Members of a stretch are not up to date.
        self.scheduler.end_stretch(&mut self.changes);
        self.tell_of_caught_up(sink);
        for request in std::mem::take(&mut self.withdrawals) {
            if self.scheduler.withdraw(request) {
                sink.withdrawn(request, now);
            }
        }
    }

    /// Decides an iteration request by request and puts it in flight.
    fn start(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<(), LatencyError> {
        self.clock = now;
        let mut step = self.spare.pop().unwrap_or_default();
        step.follows_another = self.in_flight.iter().any(Pass::computes);
        self.scheduler.schedule(now, &mut step, sink);
        if self.depth > 1 && self.in_flight.is_empty() {
            self.scheduler.poll_sent(now, &mut step);
        }
        if !step.iteration.is_eventful() && !self.in_flight.iter().any(Pass::computes) {
            self.scheduler.give_up_if_stuck(&mut step.iteration);
        }
        for &joined in &step.iteration.joined {
            sink.joined(joined, now);
        }
        let could_start = now.max(self.device_free);
        step.iteration.start = self.scheduler.wait_for_copies(could_start, &mut step);
        step.iteration.stalled = step.iteration.start.since(could_start);
        if step.computes() && step.iteration.scheduled_at > now {
            self.decides_until = step.iteration.scheduled_at;
            // What was in flight is looked at when the decision is made.
            self.in_flight.delay_ends(self.decides_until);
        }
        let waited = step.stalls();
        step.iteration.end = step.iteration.start;
        if step.computes() {
            step.iteration.start = step.iteration.start.max(self.next_pass);
            let pass = self.config().latency.iteration(&step.batch)?;
            step.iteration.end = step.iteration.start + step.adapters_loaded + pass;
            if let Some(drafter) = &self.config().drafter {
                step.iteration.end = step.iteration.end + drafter.time(&step.batch, &step.proposals)?;
            }
            if step.loaded_at > step.iteration.scheduled_at {
                // The recorder lets a pass last as long as what it loads, from when it was decided.
                let waits = step.loaded_at.since(step.iteration.scheduled_at);
                let least = if self.recorder_clock { step.iteration.start + waits } else { step.loaded_at };
                step.iteration.end = step.iteration.end.max(least);
            }
            self.next_pass = step.iteration.end + self.config().host.gap(step.batch.requests);
            self.extrapolated += u64::from(self.config().latency.extrapolates(&step.batch));
        }
        self.device_free = step.iteration.end;
        let span = (step.iteration.start, step.iteration.end);
        self.scheduler.begin_copies(now, span, waited, &mut step);
        self.in_flight.push(Pass::Step(step));
        Ok(())
    }

    /// Applies the oldest iteration in flight; returns whether anything happened in it.
    fn end_oldest(&mut self, now: Time, sink: &mut impl IterationSink) -> bool {
        let mut step = match self.in_flight.pop_first() {
            None => return false,
            Some(Pass::Step(step)) => step,
            Some(Pass::Decodes(pass)) if self.scheduler.notices_at_end(pass.start) => self.step_of(&pass),
            Some(Pass::Decodes(pass)) => {
                self.end_decode(pass, sink);
                return true;
            }
        };
        step.iteration.end = step.iteration.end.max(now);
        let step_end = step.iteration.end;
        self.scheduler.update(&mut step, &mut self.changes);
        self.put_back();
        let polling = self.in_flight.last_step().unwrap_or(&mut step);
        self.scheduler.poll_sent(step_end, polling);
        if !step.computes() && step.iteration.offload.is_none() && !self.recorder_clock {
            // It may have been in flight since long before; no pass ran.
            step.iteration.start = step.iteration.end;
        }
        if step.iteration.decoded > 0 {
            self.last_decode_end = step.iteration.end;
        }
        for finished in self.changes.finished.drain(..) {
            sink.finished_decoding(finished, step.iteration.end, LastIteration::Next);
        }
        let eventful = step.iteration.is_eventful();
        if eventful || !step.iteration.kv_events.is_empty() {
            sink.iteration_ended(&step.iteration);
        }
        self.spare.push(step);
        eventful
    }

    #[inline]
    fn state(&mut self, now: Time) -> EngineState {
        match self.in_flight.first() {
            Some(pass) if pass.takes_time() => {
                let until = if self.still_decides(now) { self.decides_until } else { pass.end() };
                EngineState::Busy { until }
            }
            _ => {
                self.scheduler.idle();
                EngineState::Idle { wake: self.scheduler.next_transfer_end(now) }
            }
        }
    }

    /// How far it has come: when it last decided or ended an iteration. Nothing may come to it before.
    pub(super) fn clock(&self) -> Time {
        self.clock
    }

    /// When the oldest iteration in flight began.
    pub(super) fn started_at(&self) -> Time {
        self.in_flight.first().map_or(Time::ZERO, Pass::start)
    }

    /// Whether KV is fetched from elsewhere, or will be, or is held for others.
    pub(super) fn awaits_kv(&self) -> bool {
        self.scheduler.awaits_kv()
    }

    /// Whether KV is being copied to the memory of the host or back.
    pub(super) fn copies_kv(&self) -> bool {
        self.scheduler.copies_kv()
    }

    /// Whether somebody waits for a grammar.
    pub(super) fn awaits_grammar(&self) -> bool {
        self.scheduler.awaits_grammar()
    }

    /// Whether it holds no request at all.
    pub(super) fn is_empty(&self) -> bool {
        !self.scheduler.has_unfinished_requests() && self.num_in_flight() == 0
    }

    /// Iterations that are decided but not ended.
    pub(super) fn num_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Iterations whose time lies outside what the latency model was measured on.
    pub(super) fn num_extrapolated(&self) -> u64 {
        self.extrapolated
    }

    /// Requests that run now.
    pub(super) fn num_running(&self) -> usize {
        self.scheduler.num_running()
    }

    /// Requests that wait now.
    pub(super) fn num_waiting(&self) -> usize {
        self.scheduler.num_waiting()
    }

    /// KV blocks that are free now, with or without content that can be hit.
    pub(super) fn num_free_blocks(&self) -> u32 {
        self.scheduler.num_free_blocks()
    }

    /// Checks the engine's invariants, which takes a walk over all its requests and the blocks that it has used; says which
    /// is broken, or how much it looked at.
    pub(super) fn check(&self) -> Result<u64, String> {
        self.scheduler.check()
    }
}
