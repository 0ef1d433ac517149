//! A worker whose layers are spread over the stages of a pipeline: several batches are under way at a time, one in each
//! stage and one that is decided ahead under asynchronous scheduling.
//!
//! The engine decides batch after batch until its queue of them is full, and then waits for the oldest. A batch that finds
//! nothing to do, since the tokens of all requests are under way, takes a place in the queue like any other, so that a
//! request that comes meanwhile waits for the oldest batch though the first stage is free. The engine sleeps after a call
//! that computed nothing while there are requests.
//!
//! Which requests are in a batch follows from when they were admitted (`is_under_way` in `vllm/running.rs`); nothing evens
//! batches out. Decodes are not taken together here: an iteration costs what its batch costs.
//!
//! # Source
//! vLLM 0.33 `EngineCore.step_with_batch_queue`, by recordings of it.

use std::collections::VecDeque;
use std::sync::Arc;

use servecast_latency::LatencyError;
use servecast_types::{Duration, RequestId, Time};

use super::{EngineState, EngineTracing};
use crate::iteration::IterationSink;
use crate::scheduler::Scheduler;
use crate::step::Step;
use crate::stretch_scheduler::Changes;
use crate::{EngineConfig, EngineRequest, Rejection};

/// Batches that [`Pipeline::run_on`] ends in one call at most, so that a driver stays in control.
const MOST_BATCHES: u64 = 1 << 12;

/// A scheduler and the batches that it has decided.
#[derive(Debug)]
pub(super) struct Pipeline {
    scheduler: Scheduler,
    /// Oldest first.
    in_flight: VecDeque<Box<Step>>,
    /// Batches that it holds at most.
    depth: usize,
    /// When each stage can begin with another batch.
    stages: Vec<Time>,
    /// Whether it waits for the end of the oldest batch, and whether the batch that it decided last computes something.
    waits: bool,
    executed: bool,
    /// Until when it sleeps.
    asleep: Option<Time>,
    /// Since when it has had nothing to wait for.
    idle_since: Option<Time>,
    /// Batches since the last one in which something happened, with nothing under way.
    in_vain: usize,
    /// Batches decided so far that compute something.
    batches: u64,
    /// When it last decided or ended a batch.
    clock: Time,
    #[expect(clippy::vec_box, reason = "steps are moved between here and the queue, by their pointers")]
    spare: Vec<Box<Step>>,
    /// Kept for its memory; nothing is taken together.
    changes: Changes,
    /// Requests that are to be taken away with the next decision.
    withdrawals: Vec<RequestId>,
    /// Batches whose time lies outside what the latency model was measured on.
    extrapolated: u64,
}

impl Pipeline {
    pub(super) fn new(config: Arc<EngineConfig>, tracing: EngineTracing) -> Self {
        let stages = config.num_stages() as usize;
        Self {
            in_flight: VecDeque::new(),
            depth: stages + usize::from(config.async_scheduling),
            stages: vec![Time::ZERO; stages],
            waits: false,
            executed: false,
            asleep: None,
            idle_since: None,
            in_vain: 0,
            batches: 0,
            clock: Time::ZERO,
            spare: Vec::new(),
            changes: Changes::default(),
            withdrawals: Vec::new(),
            extrapolated: 0,
            scheduler: Scheduler::new(config, tracing),
        }
    }

    pub(super) fn config(&self) -> &EngineConfig {
        self.scheduler.config()
    }

    pub(super) fn submit(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        self.scheduler.add(request)
    }

    pub(super) fn release(&mut self, request: RequestId, end: Time, now: Time) {
        self.scheduler.release(request, end, now);
    }

    pub(super) fn fetched(&mut self, request: RequestId, now: Time) {
        self.scheduler.fetched(request, now);
    }

    /// Forgets all contents that can be hit; nothing holds KV.
    pub(super) fn reset_prefix_cache(&mut self) {
        self.scheduler.reset_prefix_cache();
    }

    pub(super) fn withdraw(&mut self, request: RequestId) {
        self.withdrawals.push(request);
    }

    /// Decides batches until the queue is full or there is nothing to decide.
    #[inline(never)]
    pub(super) fn run(
        &mut self,
        now: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        self.sleep_on(now);
        while self.asleep.is_none() && !self.waits {
            self.apply_withdrawals(now, sink);
            self.executed = false;
            if self.scheduler.has_work(now) {
                self.executed = self.schedule(now, sink)?;
                if self.has_nothing_to_wait_for(now) {
                    // While somebody waits, batches of nothing stay in the queue: the next results come behind them.
                    let left = if self.scheduler.has_unfinished_requests() { self.depth - 1 } else { 0 };
                    while self.in_flight.len() > left {
                        self.end_oldest(now, sink);
                    }
                    self.idle_since = Some(now);
                    break;
                }
                if self.in_flight.len() < self.depth {
                    self.sleep_unless_executed(now);
                    continue;
                }
            }
            let Some(oldest) = self.in_flight.front() else { break };
            self.waits = oldest.computes() && oldest.iteration.end > now;
            if !self.waits {
                self.end_oldest(now, sink);
                self.sleep_unless_executed(now);
            }
        }
        Ok(self.state(now))
    }

    /// Goes on by itself until a batch would end at `horizon` or later.
    #[inline(never)]
    pub(super) fn run_on(
        &mut self,
        now: Time,
        horizon: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        let mut now = now;
        for _ in 0..MOST_BATCHES {
            let EngineState::Busy { until } = self.state(now) else { break };
            if until >= horizon {
                break;
            }
            self.end_iteration(until, sink);
            now = until;
            self.run(now, sink)?;
        }
        Ok(self.state(now))
    }

    /// Ends the oldest batch, or its sleep, whichever is due.
    #[inline(never)]
    pub(super) fn end_iteration(&mut self, now: Time, sink: &mut impl IterationSink) {
        self.clock = now;
        if self.asleep.take().is_none() {
            self.waits = false;
            self.end_oldest(now, sink);
            self.sleep_unless_executed(now);
        }
    }

    fn apply_withdrawals(&mut self, now: Time, sink: &mut impl IterationSink) {
        for request in std::mem::take(&mut self.withdrawals) {
            self.clock = now;
            if self.scheduler.withdraw(request) {
                sink.withdrawn(request, now);
            }
        }
    }

    /// Decides a batch and puts it into the queue; returns whether it computes something.
    fn schedule(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<bool, LatencyError> {
        self.clock = now;
        let mut step = self.spare.pop().unwrap_or_default();
        step.follows_another = self.in_flight.iter().any(|step| step.computes());
        self.scheduler.schedule(now, &mut step, sink);
        if !step.iteration.is_eventful() && !step.follows_another && self.in_vain >= self.depth {
            self.scheduler.give_up_if_stuck(&mut step.iteration);
        }
        for &joined in &step.iteration.joined {
            sink.joined(joined, now);
        }
        (step.iteration.start, step.iteration.end) = (now.max(self.stages[0]), now);
        (step.iteration.waited, step.iteration.micro_batch) = (Duration::ZERO, 0);
        let executed = step.computes();
        if executed {
            self.pass_through_stages(now, &mut step)?;
            step.iteration.micro_batch = (self.batches % self.depth as u64) as u32;
            self.batches += 1;
        }
        let is_in_vain = !step.iteration.is_eventful() && !step.follows_another;
        self.in_vain = if is_in_vain { self.in_vain + 1 } else { 0 };
        self.in_flight.push_back(step);
        Ok(executed)
    }

    /// Finds out when each stage computes the batch: when the stage before is done with it, and it with the batch before.
    fn pass_through_stages(&mut self, now: Time, step: &mut Step) -> Result<(), LatencyError> {
        let config = self.scheduler.config();
        // A stage loads what adapters have for its layers.
        let whole = config.latency.iteration(&step.batch)? + step.adapters_loaded;
        let stage = Duration::from_ns(whole.as_ns().div_ceil(self.stages.len() as u64));
        let gap = config.host.gap(step.batch.requests);
        let drafter = match &config.drafter {
            Some(drafter) => drafter.time(&step.batch, &step.proposals)?,
            None => Duration::ZERO,
        };
        self.extrapolated += u64::from(config.latency.extrapolates(&step.batch));
        let start = now.max(self.stages[0]);
        let (mut end, mut waited) = (start, Duration::ZERO);
        let last = self.stages.len() - 1;
        for (number, free) in self.stages.iter_mut().enumerate() {
            let begin = end.max(*free);
            waited += begin.since(end);
            end = begin + stage;
            if number == last {
                end = end + drafter;
            }
            *free = end;
        }
        // The host decides for the first stage.
        self.stages[0] = self.stages[0] + gap;
        (step.iteration.start, step.iteration.end, step.iteration.waited) = (start, end, waited);
        Ok(())
    }

    /// Whether nothing is under way and nothing happens any more, so that only a request, or KV, changes that. A decode may
    /// have to wait for as many batches as there are stages.
    fn has_nothing_to_wait_for(&self, now: Time) -> bool {
        self.in_vain > self.depth && !self.scheduler.has_news(now)
    }

    /// Applies the results of the oldest batch, if there is one.
    fn end_oldest(&mut self, now: Time, sink: &mut impl IterationSink) -> bool {
        let Some(mut step) = self.in_flight.pop_front() else { return false };
        step.iteration.end = step.iteration.end.max(now);
        self.scheduler.update(&mut step, &mut self.changes);
        if !step.computes() {
            // It may have been in the queue for long.
            step.iteration.start = step.iteration.start.min(step.iteration.end);
            step.iteration.waited = step.iteration.end.since(step.iteration.start);
        }
        if step.iteration.is_eventful() || !step.iteration.kv_events.is_empty() {
            sink.iteration_ended(&step.iteration);
        }
        self.spare.push(step);
        true
    }

    /// After a call that computed nothing while there are requests, or while one has ended of which the workers do not know
    /// yet, it sleeps.
    fn sleep_unless_executed(&mut self, now: Time) {
        let sleep = self.config().pipeline.idle_sleep;
        if !self.executed && sleep > Duration::ZERO && self.scheduler.has_requests() {
            self.asleep = Some(now + sleep);
        }
    }

    /// Where it would have slept again and again since nothing happened any more, it looks at what has come when it wakes up.
    fn sleep_on(&mut self, now: Time) {
        let Some(since) = self.idle_since.take() else { return };
        let sleep = self.config().pipeline.idle_sleep.as_ns();
        let slept = if sleep == 0 { 0 } else { now.since(since).as_ns().next_multiple_of(sleep) };
        let woken = since + Duration::from_ns(slept);
        if woken > now {
            self.asleep = Some(woken);
        }
    }

    fn state(&self, now: Time) -> EngineState {
        let oldest = || self.in_flight.front().filter(|_| self.waits).map(|step| step.iteration.end);
        match self.asleep.or_else(oldest) {
            Some(until) => EngineState::Busy { until },
            None => EngineState::Idle { wake: self.scheduler.next_transfer_end(now) },
        }
    }

    pub(super) fn clock(&self) -> Time {
        self.clock
    }

    pub(super) fn started_at(&self) -> Time {
        self.clock
    }

    pub(super) fn awaits_kv(&self) -> bool {
        self.scheduler.awaits_kv()
    }

    /// Whether somebody waits for a grammar.
    pub(super) fn awaits_grammar(&self) -> bool {
        self.scheduler.awaits_grammar()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.scheduler.has_unfinished_requests() && self.in_flight.is_empty()
    }

    pub(super) fn num_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn num_extrapolated(&self) -> u64 {
        self.extrapolated
    }

    pub(super) fn num_running(&self) -> usize {
        self.scheduler.num_running()
    }

    pub(super) fn num_waiting(&self) -> usize {
        self.scheduler.num_waiting()
    }

    pub(super) fn num_free_blocks(&self) -> u32 {
        self.scheduler.num_free_blocks()
    }

    pub(super) fn check(&self) -> Result<u64, String> {
        self.scheduler.check()
    }
}
