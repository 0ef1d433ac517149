use std::collections::VecDeque;

use servecast_latency::{Batch, LatencyError, MOST_DECODES, StepWork};
use servecast_types::{Duration, RequestId, Time};

use crate::iteration::{Decodes, IterationSink, LastIteration};
use crate::scheduler::Scheduler;
use crate::step::Step;
use crate::stretch::{Ahead, Changes, DecodesOn};
use crate::{EngineConfig, EngineRequest, Rejection};

/// Iterations that [`Engine::run_on`] ends in one call at most, so that a driver stays in control; those that it glides
/// through cost a small part of one.
const MOST_ITERATIONS: u64 = 1 << 12;
const GLIDED_PER_ITERATION: u64 = 16;

/// One worker: a scheduler, its KV cache, and the iterations in flight.
///
/// The driver passes time in. At one instant it first ends the iterations that are due
/// ([`Engine::end_iteration`]), then submits what arrives, then lets the engine start ([`Engine::run`]).
#[derive(Debug)]
pub struct Engine {
    scheduler: Scheduler,
    /// Oldest first; two under asynchronous scheduling, which decides an iteration while the one before it runs.
    in_flight: VecDeque<Box<Step>>,
    depth: usize,
    /// When the last iteration in flight ends.
    device_free: Time,
    /// Before when no pass can begin: that of the host's work after the last one.
    next_pass: Time,
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
    /// The iteration of a stretch in flight.
    decode: Option<Decode>,
    /// When the last iteration of the stretch ended.
    last_decode_end: Time,
    /// What a stretch changed; kept for its memory.
    changes: Changes,
    /// Iterations whose time lies outside what the latency model was measured on.
    extrapolated: u64,
}

/// An iteration of a stretch in flight.
#[derive(Debug, Clone, Copy)]
struct Decode {
    start: Time,
    end: Time,
    /// KV blocks that are free once it is decided; a release while it runs adds to those of the next.
    free_blocks: u32,
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
    /// Take requests that decode together and report only what changes, by [`IterationSink::decoded`] and what stands
    /// with it, and by [`Iteration::decoded`](crate::Iteration::decoded): the same decisions at a fraction of the cost.
    /// Not together with `block_ids` or `recorder_clock`.
    pub stretches: bool,
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
            next_pass: Time::ZERO,
            clock: Time::ZERO,
            blocked: false,
            recorder_clock: tracing.recorder_clock,
            spare: Vec::new(),
            stretches: tracing.stretches && !(tracing.block_ids || tracing.recorder_clock),
            decode: None,
            last_decode_end: Time::ZERO,
            changes: Changes::default(),
            extrapolated: 0,
        }
    }

    /// The settings of the engine.
    pub fn config(&self) -> &EngineConfig {
        self.scheduler.config()
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
        if self.decode.is_some() || self.decodes_on(now, sink)? {
            return Ok(self.state(now));
        }
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
            if self.in_flight.front().is_none_or(|step| step.computes()) {
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
        polls && self.in_flight.back().is_some_and(|step| uneventful(step))
    }

    /// Whether there is nothing to do until the next input, after an iteration in which nothing happened.
    fn idles(&self, now: Time) -> bool {
        let pending = |step: &Step| step.computes() || (!self.recorder_clock && step.iteration.is_eventful());
        let skips_news = self.recorder_clock && self.scheduler.has_unfinished_requests();
        let waits = self.scheduler.has_requests() && !self.in_flight.iter().any(|step| pending(step));
        waits && (skips_news || !self.scheduler.has_news(now))
    }

    /// Goes on by itself, ending iterations and starting others as [`Engine::run`] and [`Engine::end_iteration`] would,
    /// until an iteration would end at `horizon` or later; nothing can come to the engine before that. `now` is when the
    /// iteration in flight was started.
    pub fn run_on(
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
            if self.scheduler.goes_on() {
                let ended;
                (now, ended) = self.glide(until, length, left, horizon, sink);
                left -= ended;
            }
            self.run(now, sink)?;
        }
        Ok(self.state(now))
    }

    /// Ends the oldest iteration in flight, which is due.
    pub fn end_iteration(&mut self, now: Time, sink: &mut impl IterationSink) {
        self.clock = now;
        if let Some(decode) = self.decode.take() {
            debug_assert_eq!(decode.end, now);
            self.end_decode(decode, sink);
            return;
        }
        debug_assert_eq!(self.in_flight.front().map(|step| step.iteration.end), Some(now));
        self.end_oldest(now, sink);
        self.blocked = false;
    }

    /// Starts the next iteration of a stretch, if nothing else happens in it; a stretch that cannot go on is over.
    fn decodes_on(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<bool, LatencyError> {
        if !self.stretches || !self.in_flight.is_empty() {
            return Ok(false);
        }
        if self.scheduler.goes_on() && self.start_decode(now)? {
            return Ok(true);
        }
        let ahead = self.scheduler.look_ahead(&mut self.changes);
        self.tell_of_caught_up(sink);
        if ahead == Ahead::Other {
            return Ok(false);
        }
        let decodes = self.start_decode(now)?;
        if !decodes {
            self.scheduler.end_stretch(&mut self.changes);
            self.tell_of_caught_up(sink);
        }
        Ok(decodes)
    }

    fn start_decode(&mut self, now: Time) -> Result<bool, LatencyError> {
        let decided = self.scheduler.decide_decode();
        if decided {
            self.clock = now;
            let stretch = self.scheduler.stretch();
            let batch = self.decode_batch(stretch.work());
            let start = now.max(self.next_pass);
            let end = start + self.config().latency.iteration(&batch)?;
            self.extrapolated += u64::from(self.config().latency.extrapolates(&batch));
            let free_blocks = self.scheduler.num_free_blocks();
            self.decode = Some(Decode { start, end, free_blocks });
            self.device_free = end;
            self.next_pass = end + self.config().host.gap(batch.requests);
        }
        Ok(decided)
    }

    fn decode_batch(&self, work: StepWork) -> Batch {
        Batch::of_decodes(work, self.config().kv_capacity_tokens())
    }

    fn end_decode(&mut self, decode: Decode, sink: &mut impl IterationSink) {
        let Decode { start, end, free_blocks } = decode;
        let requests = self.scheduler.stretch().requests();
        self.scheduler.end_decode(&mut self.changes);
        self.last_decode_end = end;
        let gap = Duration::ZERO;
        sink.decoded(&Decodes { start, ends: &[end], gap, requests, free_blocks, taken_blocks: 0 });
        if !self.changes.kv_events.is_empty() {
            sink.cache_changed(&self.changes.kv_events, end);
            self.changes.kv_events.clear();
        }
        for finished in self.changes.finished.drain(..) {
            sink.finished_decoding(finished, end, LastIteration::Told);
        }
    }

    /// Tells of the requests of a stretch that is over.
    fn tell_of_caught_up(&mut self, sink: &mut impl IterationSink) {
        for (request, output_tokens) in self.changes.caught_up.drain(..) {
            sink.caught_up(request, output_tokens, self.last_decode_end);
        }
    }

    /// Goes through the iterations of a stretch in which nothing changes, `most` at most and as far as they end before
    /// `horizon`; returns when the last one ended and how many they were. The iteration before them took `length`.
    fn glide(
        &mut self,
        now: Time,
        length: Duration,
        most: u64,
        horizon: Time,
        sink: &mut impl IterationSink,
    ) -> (Time, u64) {
        let capacity = self.config().kv_capacity_tokens();
        let mut work = self.scheduler.stretch().work();
        // With blocks of one token every token takes one.
        let taken_blocks = if self.config().block_size() == 1 { work.requests as u32 } else { 0 };
        let mut free_blocks = self.scheduler.num_free_blocks();
        let gap = self.config().host.gap(work.requests);
        let (mut last_end, mut start) = (now, now.max(self.next_pass));
        let (mut length, mut ended) = (length, 0);
        let mut quiet = self.scheduler.quiet_iterations().min(most);
        while quiet > 0 && start < horizon {
            // About so many fit before the horizon, as they take about as long as the one before.
            let each = (length + gap).as_ns().max(1);
            let fitting = (horizon.since(start).as_ns() / each).saturating_add(1);
            let (mut durations, mut ends) = ([Duration::ZERO; MOST_DECODES], [Time::ZERO; MOST_DECODES]);
            let most = quiet.min(fitting).min(MOST_DECODES as u64) as usize;
            let timed = self.config().latency.decode_iterations(work, capacity, &mut durations[..most]);
            let (mut count, mut begin) = (0, start);
            for (duration, slot) in durations[..timed].iter().zip(&mut ends) {
                let end = begin + *duration;
                if end >= horizon {
                    break;
                }
                *slot = end;
                begin = end + gap;
                count += 1;
            }
            let Some(&last) = ends[..count].last() else { break };
            let decodes = Decodes {
                start,
                ends: &ends[..count],
                gap,
                requests: work.requests,
                free_blocks: free_blocks.saturating_sub(taken_blocks),
                taken_blocks,
            };
            sink.decoded(&decodes);
            self.extrapolated += self.config().latency.extrapolated_decodes(work, capacity, count);
            free_blocks = decodes.free_blocks_after();
            (last_end, start, length) = (last, last + gap, durations[count - 1]);
            self.next_pass = start;
            work = work.after(count as u64);
            ended += count as u64;
            quiet = if count < most { 0 } else { quiet - count as u64 };
        }
        self.scheduler.skip_quiet(ended);
        self.last_decode_end = last_end;
        self.clock = last_end;
        (last_end, ended)
    }

    /// Decides an iteration and puts it in flight; returns whether it computes anything.
    fn start(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<bool, LatencyError> {
        self.clock = now;
        let mut step = self.spare.pop().unwrap_or_default();
        self.scheduler.schedule(now, &mut step);
        if !step.iteration.is_eventful() && !self.in_flight.iter().any(|step| step.computes()) {
            self.scheduler.give_up_if_stuck(&mut step.iteration);
        }
        for transfer in &step.iteration.transfers {
            sink.transfer_started(transfer, now);
        }
        for &joined in &step.iteration.joined {
            sink.joined(joined, now);
        }
        let computes = step.computes();
        step.iteration.start = now.max(self.device_free);
        step.iteration.end = step.iteration.start;
        if computes {
            step.iteration.start = step.iteration.start.max(self.next_pass);
            step.iteration.end = step.iteration.start + self.config().latency.iteration(&step.batch)?;
            self.next_pass = step.iteration.end + self.config().host.gap(step.batch.requests);
            self.extrapolated += u64::from(self.config().latency.extrapolates(&step.batch));
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
        if !step.computes() {
            // It may have been in flight since long before; no pass ran.
            step.iteration.start = step.iteration.end;
        }
        if step.iteration.decoded > 0 {
            self.last_decode_end = step.iteration.end;
        }
        for finished in step.ended.drain(..) {
            sink.finished_decoding(finished, step.iteration.end, LastIteration::Next);
        }
        let eventful = step.iteration.is_eventful();
        if eventful || !step.iteration.kv_events.is_empty() {
            sink.iteration_ended(&step.iteration);
        }
        self.spare.push(step);
        eventful
    }

    fn state(&mut self, now: Time) -> EngineState {
        if let Some(decode) = self.decode {
            return EngineState::Busy { until: decode.end };
        }
        match self.in_flight.front() {
            Some(step) if step.computes() => EngineState::Busy { until: step.iteration.end },
            _ => {
                self.scheduler.idle();
                EngineState::Idle { wake: self.scheduler.next_transfer_end(now) }
            }
        }
    }

    /// How far it has come: when it last decided or ended an iteration. Nothing may come to it before.
    pub fn clock(&self) -> Time {
        self.clock
    }

    /// When the oldest iteration in flight began.
    pub fn started_at(&self) -> Time {
        let step = self.in_flight.front().map(|step| step.iteration.start);
        self.decode.map(|decode| decode.start).or(step).unwrap_or(Time::ZERO)
    }

    /// Whether KV is fetched from elsewhere, or will be, or is held for others.
    pub fn awaits_kv(&self) -> bool {
        self.scheduler.awaits_kv()
    }

    /// Whether it holds no request at all.
    pub fn is_empty(&self) -> bool {
        !self.scheduler.has_unfinished_requests() && self.num_in_flight() == 0
    }

    /// Iterations that are decided but not ended.
    pub fn num_in_flight(&self) -> usize {
        self.in_flight.len() + usize::from(self.decode.is_some())
    }

    /// Iterations whose time lies outside what the latency model was measured on.
    pub fn num_extrapolated(&self) -> u64 {
        self.extrapolated
    }

    /// What the times of its iterations are estimated from, if nothing of them was measured.
    pub fn latency_estimate(&self) -> Option<&str> {
        self.config().latency.estimate()
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

    /// Checks the engine's invariants, which takes a walk over all its requests and the blocks that it has used; says which
    /// is broken, or how much it looked at.
    pub fn check(&self) -> Result<u64, String> {
        self.scheduler.check()
    }
}
