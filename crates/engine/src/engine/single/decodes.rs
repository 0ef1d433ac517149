//! Pure decode iterations of a stretch: one by one, or many at a time while nothing changes.

use servecast_latency::{Batch, LatencyError, MOST_DECODES, StepWork};
use servecast_types::{Duration, Time};

use super::Single;
use crate::EngineConfig;
use crate::iteration::{Decodes, IterationSink, LastIteration};
use crate::step::{DecodePass, Pass, Step};
use crate::stretch_scheduler::StretchScheduler;

impl Single {
    /// Starts the next iteration if it is a pure decode of a stretch; ends a stretch that cannot continue.
    pub(super) fn start_stretch_pass(
        &mut self,
        now: Time,
        sink: &mut impl IterationSink,
    ) -> Result<bool, LatencyError> {
        if self.scheduler.continues() && self.start_decode(now)? {
            return Ok(true);
        }
        let is_decode = self.scheduler.plan_next(now, &mut self.changes);
        self.tell_of_caught_up(sink);
        if !is_decode {
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
        let decided = self.scheduler.decide_decode(now);
        if decided {
            self.clock = now;
            let stretch = self.scheduler.stretch();
            let batch = self.decode_batch(stretch.work());
            let start = now.max(self.next_pass);
            let end = start + self.config().latency.iteration(&batch)?;
            self.extrapolated += u64::from(self.config().latency.extrapolates(&batch));
            let (num_running, num_waiting) = self.num_requests();
            self.in_flight.push(Pass::Decodes(DecodePass {
                scheduled_at: now,
                start,
                end,
                requests: batch.requests,
                free_blocks: self.scheduler.num_free_blocks(),
                num_running,
                num_waiting,
            }));
            self.device_free = end;
            self.next_pass = end + self.config().host.gap(batch.requests);
        }
        Ok(decided)
    }

    /// Before when others learn nothing from it if nothing comes to it: the end of the iteration in flight, or of one of those
    /// behind it; `None` if nothing is in flight.
    pub(in crate::engine) fn next_news(&self) -> Option<Time> {
        let first = self.in_flight.first()?;
        let untold = match first {
            Pass::Decodes(_) if self.depth == 1 && !self.withdraws() => self.scheduler.untold_iterations(),
            Pass::Decodes(_) | Pass::Step(_) => 0,
        };
        if untold == 0 {
            return Some(first.end());
        }
        let config = self.config();
        let next = self.scheduler.stretch().work().after(1);
        let mut durations = [Duration::ZERO; MOST_DECODES];
        let durations = &mut durations[..MOST_DECODES.min(untold as usize)];
        let timed = config.latency.decode_iterations(next, config.kv_capacity_tokens(), durations);
        let gap = config.host.gap(next.requests);
        Some(durations[..timed].iter().fold(first.end(), |end, &duration| end + gap + duration))
    }

    /// Requests that run and that wait.
    fn num_requests(&self) -> (u32, u32) {
        (self.num_running() as u32, self.num_waiting() as u32)
    }

    fn decode_batch(&self, work: StepWork) -> Batch {
        Batch::of_decodes(work, self.config().kv_capacity_tokens())
    }

    pub(super) fn end_decode(&mut self, pass: DecodePass, sink: &mut impl IterationSink) {
        let DecodePass { start, end, requests, free_blocks, .. } = pass;
        self.scheduler.end_decode(&mut self.changes);
        self.put_back();
        self.last_decode_end = end;
        let gap = Duration::ZERO;
        sink.decoded(&Decodes { start, ends: &[end], gap, requests, free_blocks, taken_blocks: 0 });
        if !self.changes.kv_events.is_empty() {
            sink.cache_changed(&self.changes.kv_events, end);
            self.changes.kv_events.clear();
        }
        for finished in self.changes.finished.drain(..) {
            sink.finished_decoding(finished, end, LastIteration::Reported);
        }
    }

    /// Lists former members of the stretch in the iteration in flight, one by one.
    #[inline]
    pub(super) fn put_back(&mut self) {
        if !self.changes.put_back.is_empty() {
            self.put_members_back();
        }
    }

    fn put_members_back(&mut self) {
        let mut step = match self.in_flight.pop_last().expect("they are in flight") {
            Pass::Step(step) => step,
            Pass::Decodes(pass) => self.step_of(&pass),
        };
        step.put_back(self.changes.put_back.drain(..));
        self.in_flight.push(Pass::Step(step));
    }

    /// A pure decode pass as a step that can list requests.
    pub(super) fn step_of(&mut self, pass: &DecodePass) -> Box<Step> {
        let mut step = self.spare.pop().unwrap_or_default();
        step.stand_for(pass);
        step
    }

    /// Tells of the requests of a stretch that is over.
    pub(super) fn tell_of_caught_up(&mut self, sink: &mut impl IterationSink) {
        self.put_back();
        for (request, output_tokens) in self.changes.caught_up.drain(..) {
            sink.caught_up(request, output_tokens, self.last_decode_end);
        }
    }

    /// Takes together the next iterations of a stretch in which nothing changes: at most `most`, and only those that end
    /// before `horizon`. Returns when the last one ended and their number. The iteration before them took `length`.
    ///
    /// Where iterations are decided ahead, the one in flight ends with the decision of the next but one, and so on.
    pub(super) fn glide(
        &mut self,
        now: Time,
        length: Duration,
        most: u64,
        horizon: Time,
        sink: &mut impl IterationSink,
    ) -> (Time, u64) {
        let Some(mut glide) = Glide::begin(self, now, length) else { return (now, 0) };
        let mut quiet = self.scheduler.quiet_iterations().min(most);
        let mut ended = 0;
        while quiet > 0 && glide.start < horizon {
            let most = quiet.min(glide.fitting(horizon)).min(MOST_DECODES as u64) as usize;
            let before = glide.work;
            let count = match glide.ahead {
                None => glide.go_on::<false>(self.config(), most, horizon, sink),
                Some(_) => glide.go_on::<true>(self.config(), most, horizon, sink),
            };
            if count == 0 {
                break;
            }
            let (latency, capacity) = (&self.config().latency, glide.capacity);
            self.extrapolated += latency.extrapolated_decodes(before, capacity, count);
            ended += count as u64;
            quiet = if count < most { 0 } else { quiet - count as u64 };
        }
        self.next_pass = self.next_pass.max(glide.start);
        if let Some(pass) = glide.ahead {
            self.device_free = pass.end;
            self.in_flight.pop_first();
            self.in_flight.push(Pass::Decodes(pass));
        }
        self.scheduler.skip_quiet(ended);
        self.last_decode_end = glide.last_end;
        self.clock = glide.last_end;
        (glide.last_end, ended)
    }
}

/// Iterations in which nothing changes, one after the other.
#[derive(Debug)]
struct Glide {
    /// What the next one computes.
    work: StepWork,
    capacity: u64,
    /// From the end of one to the start of the next.
    gap: Duration,
    /// KV blocks that each of them takes, and that are free before the next one.
    taken_blocks: u32,
    free_blocks: u32,
    /// The one in flight, if they are decided ahead.
    ahead: Option<DecodePass>,
    /// Requests that run and that wait then.
    num_requests: (u32, u32),
    /// When the last one ended.
    last_end: Time,
    /// When the next one begins.
    start: Time,
    /// How long the last one took.
    length: Duration,
    /// None that begins at this time or later is like the others.
    notice: Time,
}

impl Glide {
    /// From `now` on, when an iteration ended that took `length`; none if the one in flight is not like those to come.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the compiler declines, for a hundredth of a run")]
    fn begin(engine: &Single, now: Time, length: Duration) -> Option<Self> {
        let work = engine.scheduler.stretch().work();
        let free_blocks = engine.scheduler.num_free_blocks();
        let ahead = match engine.in_flight.first() {
            None => None,
            Some(&Pass::Decodes(pass))
                if (pass.requests, pass.free_blocks) == (work.requests, free_blocks) =>
            {
                Some(pass)
            }
            Some(_) => return None,
        };
        let config = engine.config();
        Some(Self {
            work,
            capacity: config.kv_capacity_tokens(),
            gap: config.host.gap(work.requests),
            // With blocks of one token every token takes one.
            taken_blocks: if config.block_size() == 1 { work.requests as u32 } else { 0 },
            free_blocks,
            ahead,
            num_requests: ahead.map_or((0, 0), |_| engine.num_requests()),
            last_end: now,
            start: now.max(engine.next_pass),
            length,
            notice: engine.scheduler.next_notice(),
        })
    }

    /// About so many fit before the horizon, as they take about as long as the one before.
    fn fitting(&self, horizon: Time) -> u64 {
        let each = (self.length + self.gap).as_ns().max(1);
        (horizon.since(self.start).as_ns() / each).saturating_add(1)
    }

    /// Decides iterations and ends as many, `most` at most and as far as these end before `horizon`; returns how many.
    /// `AHEAD`: whether one is in flight.
    #[inline]
    fn go_on<const AHEAD: bool>(
        &mut self,
        config: &EngineConfig,
        most: usize,
        horizon: Time,
        sink: &mut impl IterationSink,
    ) -> usize {
        let (lead, gap) = (usize::from(AHEAD), self.gap);
        let (mut durations, mut ends) = ([Duration::ZERO; MOST_DECODES], [Time::ZERO; MOST_DECODES + 1]);
        let timed = config.latency.decode_iterations(self.work, self.capacity, &mut durations[..most]);
        ends[0] = self.ahead.map_or(Time::ZERO, |pass| pass.end);
        let (mut count, mut begin, mut before) = (0, self.start, ends[0]);
        for (duration, slot) in durations[..timed].iter().zip(&mut ends[lead..]) {
            let end = begin + *duration;
            let ending = if AHEAD { before } else { end };
            if ending >= horizon {
                break;
            }
            (*slot, before, begin) = (end, end, end + gap);
            count += 1;
        }
        if self.notice < Time::MAX {
            let starts = std::iter::once(self.start).chain(ends[lead..].iter().map(|&end| end + gap));
            count = starts.take(count).take_while(|&start| start < self.notice).count();
        }
        let Some(&last) = ends[..count].last() else { return 0 };
        sink.decoded(&Decodes {
            start: self.ahead.map_or(self.start, |pass| pass.start),
            ends: &ends[..count],
            gap,
            requests: self.work.requests,
            free_blocks: self.free_blocks.saturating_sub(if AHEAD { 0 } else { self.taken_blocks }),
            taken_blocks: self.taken_blocks,
        });
        self.free_blocks = self.free_blocks.saturating_sub(count as u32 * self.taken_blocks);
        if let Some(pass) = &mut self.ahead {
            pass.scheduled_at = if count > 1 { ends[count - 2] } else { self.last_end };
            (pass.start, pass.end, pass.free_blocks) = (last + gap, ends[count], self.free_blocks);
            (pass.num_running, pass.num_waiting) = self.num_requests;
        }
        (self.last_end, self.start) = (last, ends[lead + count - 1] + gap);
        self.length = durations[count - 1];
        self.work = self.work.after(count as u64);
        count
    }
}
