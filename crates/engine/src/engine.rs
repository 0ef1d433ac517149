use std::collections::VecDeque;

use servecast_latency::LatencyError;
use servecast_types::{RequestId, Time};

use crate::iteration::{Iteration, IterationSink};
use crate::step::Step;
use crate::{EngineConfig, EngineRequest, Rejection, sglang, vllm};

/// One worker: a scheduler, its KV cache, and the iterations in flight.
///
/// The driver passes time in. At one instant it first ends the iterations that are due
/// ([`Engine::end_iteration`]), then submits what arrives, then lets the engine start ([`Engine::run`]).
#[derive(Debug)]
pub struct Engine {
    scheduler: Scheduler,
    /// Oldest first; two under asynchronous scheduling, which decides an iteration while the one before it runs.
    in_flight: VecDeque<Step>,
    depth: usize,
    /// When the last iteration in flight ends.
    device_free: Time,
    /// Whether the next decision has to wait for the end of the oldest iteration in flight.
    blocked: bool,
    recorder_clock: bool,
    /// Ended iterations, whose memory the next ones take over.
    spare: Vec<Step>,
}

/// What decides: the scheduler of one engine or the other, which share how iterations follow each other.
#[derive(Debug)]
enum Scheduler {
    /// TensorRT-LLM too.
    Vllm(Box<vllm::Scheduler>),
    Sglang(Box<sglang::Scheduler>),
}

/// Passes a call on to whichever scheduler it is.
macro_rules! each {
    ($scheduler:expr, $name:ident => $call:expr) => {
        match $scheduler {
            Scheduler::Vllm($name) => $call,
            Scheduler::Sglang($name) => $call,
        }
    };
}

/// What an engine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// An iteration runs until then.
    Busy {
        /// When [`Engine::end_iteration`] is due.
        until: Time,
    },
    /// Nothing to do until something is submitted or released, or until `wake`.
    Idle {
        /// When a KV transfer ends that it waits for.
        wake: Option<Time>,
    },
}

/// What an engine records beyond what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineTracing {
    /// Keep the KV events of each iteration.
    pub kv_events: bool,
    /// Keep the block ids of each iteration.
    pub block_ids: bool,
    /// Move the clock as the recorder of the real engine does: where that spins while it polls for KV transfers, the
    /// recorder goes on to the next input before it ends an empty iteration.
    pub recorder_clock: bool,
}

impl Engine {
    /// An engine without requests.
    pub fn new(config: EngineConfig, tracing: EngineTracing) -> Self {
        let depth = if config.async_scheduling { 2 } else { 1 };
        Self {
            scheduler: Scheduler::new(config, tracing),
            in_flight: VecDeque::with_capacity(depth),
            depth,
            device_free: Time::ZERO,
            blocked: false,
            recorder_clock: tracing.recorder_clock,
            spare: Vec::new(),
        }
    }

    /// The settings of the engine.
    pub fn config(&self) -> &EngineConfig {
        each!(&self.scheduler, scheduler => &scheduler.config)
    }

    /// Puts a request into the waiting queue, or says why it can never be served.
    pub fn submit(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        self.scheduler.add(request)
    }

    /// Lets go of the KV blocks of an ended request with `hold_kv` once the transfer from here ends at `end`.
    pub fn release(&mut self, request: RequestId, end: Time, now: Time) {
        self.scheduler.release(request, end, now);
    }

    /// Starts what can be started at `now` and says what happens next.
    pub fn run(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<EngineState, LatencyError> {
        while !self.blocked {
            if self.in_flight.len() < self.depth && self.scheduler.has_work(now) {
                let computes = self.start(now, sink)?;
                if self.in_flight.len() < self.depth {
                    if computes {
                        continue;
                    }
                    if self.leaves_pending() {
                        break;
                    }
                }
            }
            if self.in_flight.front().is_none_or(Step::computes) {
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

    /// Whether an iteration that computes nothing stays in flight until the next input.
    fn leaves_pending(&self) -> bool {
        let uneventful =
            |step: &Step| step.iteration.preempted.is_empty() && step.iteration.rejected.is_empty();
        let polls = self.recorder_clock && self.scheduler.polls() && self.scheduler.has_requests();
        polls && self.in_flight.back().is_some_and(uneventful)
    }

    /// Whether there is nothing to do until the next input, after an iteration in which nothing happened.
    fn idles(&self, now: Time) -> bool {
        let pending = |step: &Step| step.computes() || (!self.recorder_clock && step.iteration.is_eventful());
        let skips_news = self.recorder_clock && self.scheduler.has_unfinished_requests();
        let waits = self.scheduler.has_requests() && !self.in_flight.iter().any(pending);
        waits && (skips_news || !self.scheduler.has_news(now))
    }

    /// Ends the oldest iteration in flight, which is due.
    pub fn end_iteration(&mut self, now: Time, sink: &mut impl IterationSink) {
        debug_assert_eq!(self.in_flight.front().map(|step| step.iteration.end), Some(now));
        self.end_oldest(now, sink);
        self.blocked = false;
    }

    /// Decides an iteration and puts it in flight; returns whether it computes anything.
    fn start(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<bool, LatencyError> {
        let mut step = self.spare.pop().unwrap_or_default();
        self.scheduler.schedule(now, &mut step);
        if !step.iteration.is_eventful() && !self.in_flight.iter().any(Step::computes) {
            self.scheduler.give_up_if_stuck(&mut step.iteration);
        }
        for transfer in &step.iteration.transfers {
            sink.transfer_started(transfer, now);
        }
        let computes = step.computes();
        step.iteration.start = now.max(self.device_free);
        step.iteration.end = step.iteration.start;
        if computes {
            step.iteration.end = step.iteration.start + self.config().latency.iteration(&step.batch)?;
        }
        self.device_free = step.iteration.end;
        self.in_flight.push_back(step);
        Ok(computes)
    }

    /// Applies the oldest iteration in flight; returns whether anything happened in it.
    fn end_oldest(&mut self, now: Time, sink: &mut impl IterationSink) -> bool {
        let Some(mut step) = self.in_flight.pop_front() else { return false };
        step.iteration.end = step.iteration.end.max(now);
        self.scheduler.update(&mut step);
        let eventful = step.iteration.is_eventful();
        if eventful || !step.iteration.kv_events.is_empty() {
            sink.iteration_ended(&step.iteration);
        }
        self.spare.push(step);
        eventful
    }

    fn state(&mut self, now: Time) -> EngineState {
        match self.in_flight.front() {
            Some(step) if step.computes() => EngineState::Busy { until: step.iteration.end },
            _ => {
                self.scheduler.idle();
                EngineState::Idle { wake: self.scheduler.next_transfer_end(now) }
            }
        }
    }

    /// Whether it holds no request at all.
    pub fn is_empty(&self) -> bool {
        !self.scheduler.has_unfinished_requests() && self.in_flight.is_empty()
    }

    /// Iterations that are decided but not ended.
    pub fn num_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Requests that run now.
    pub fn num_running(&self) -> usize {
        self.scheduler.num_running()
    }

    /// Requests that wait now.
    pub fn num_waiting(&self) -> usize {
        self.scheduler.num_waiting()
    }

    /// KV blocks that are free now, with or without content that can be hit.
    pub fn num_free_blocks(&self) -> u32 {
        self.scheduler.num_free_blocks()
    }

    /// Checks the engine's invariants.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check(&self) {
        self.scheduler.check();
    }
}

impl Scheduler {
    fn new(config: EngineConfig, tracing: EngineTracing) -> Self {
        let (events, traces) = (tracing.kv_events, tracing.block_ids);
        match config.sglang.clone() {
            Some(own) => Self::Sglang(Box::new(sglang::Scheduler::new(config, own, events, traces))),
            None => Self::Vllm(Box::new(vllm::Scheduler::new(config, events, traces))),
        }
    }

    fn add(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        each!(self, scheduler => scheduler.add(request))
    }

    fn schedule(&mut self, now: Time, step: &mut Step) {
        each!(self, scheduler => scheduler.schedule(now, step));
    }

    fn update(&mut self, step: &mut Step) {
        each!(self, scheduler => scheduler.update(step));
    }

    fn release(&mut self, request: RequestId, end: Time, now: Time) {
        each!(self, scheduler => scheduler.release(request, end, now));
    }

    fn give_up_if_stuck(&mut self, iteration: &mut Iteration) {
        each!(self, scheduler => scheduler.give_up_if_stuck(iteration));
    }

    /// Nothing is in flight and nothing can be started.
    fn idle(&mut self) {
        if let Self::Sglang(scheduler) = self {
            scheduler.idle();
        }
    }

    fn has_work(&self, now: Time) -> bool {
        each!(self, scheduler => scheduler.has_work(now))
    }

    /// Whether an iteration, be it an empty one, has something to do.
    fn has_requests(&self) -> bool {
        match self {
            Self::Vllm(scheduler) => scheduler.has_requests(),
            Self::Sglang(scheduler) => scheduler.has_unfinished_requests(),
        }
    }

    fn has_unfinished_requests(&self) -> bool {
        each!(self, scheduler => scheduler.has_unfinished_requests())
    }

    /// Whether the real connector's poll is simulated, which notices transfers late.
    fn polls(&self) -> bool {
        matches!(self, Self::Vllm(scheduler) if scheduler.polls())
    }

    fn has_news(&self, now: Time) -> bool {
        each!(self, scheduler => scheduler.has_news(now))
    }

    fn next_transfer_end(&self, now: Time) -> Option<Time> {
        each!(self, scheduler => scheduler.next_transfer_end(now))
    }

    fn num_running(&self) -> usize {
        each!(self, scheduler => scheduler.num_running())
    }

    fn num_waiting(&self) -> usize {
        each!(self, scheduler => scheduler.num_waiting())
    }

    fn num_free_blocks(&self) -> u32 {
        each!(self, scheduler => scheduler.num_free_blocks())
    }

    fn check(&self) {
        each!(self, scheduler => scheduler.check());
    }
}
