//! Data-parallel ranks in lock step: each has a scheduler and a KV cache of its own, and all compute each pass together.
//!
//! Mixture-of-experts models are served like this: attention is done by each rank for its own requests, the experts by all
//! for all. So pass k of all ranks begins when the last of them has dispatched it, takes as long as the slowest, and a rank
//! without work takes part with a dummy batch. Whether anybody has work left they find out together, every so many passes;
//! until then they continue, all with dummies if need be. From the first request to such an end is a *wave*.
//!
//! Without asynchronous scheduling a rank decides when the pass before has ended. With it a rank decides a pass while the
//! one before it runs, but a dummy blocks its rank until it is over, so that a rank with little work loses that.
//!
//! Decodes are not taken together here: an iteration costs what its batch costs.
//!
//! # Source
//! vLLM 0.33 `DPEngineCoreProc`, by recordings of it.

mod passes;
mod rank;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_latency::LatencyError;
use servecast_types::{RequestId, Time};

use self::passes::{Part, Passes, dummies_take_no_time};
use self::rank::{Rank, Turn};
use super::front_end::FrontEnd;
use super::{EngineState, EngineTracing};
use crate::config::DataParallel;
use crate::iteration::{Iteration, IterationSink};
use crate::step::Step;
use crate::stretch_scheduler::Changes;
use crate::{EngineConfig, EngineRequest, Rejection};

/// Passes that [`Lockstep::run_on`] ends in one call at most, so that a driver stays in control.
const MOST_PASSES: u64 = 1 << 12;

/// The ranks of one worker.
#[derive(Debug)]
pub(super) struct Lockstep {
    ranks: Vec<Rank>,
    front_end: FrontEnd,
    /// Where requests are.
    places: FxHashMap<RequestId, Place>,
    passes: Passes,
    /// Whether a wave is under way, and the number of its first pass.
    running: bool,
    wave_begin: u64,
    /// The pass after which all ranks find out together whether anybody has work left.
    next_sync: u64,
    /// Whether dummies take no time; and whether all wait for KV or a grammar, which they then would bring no nearer.
    dummies_take_no_time: bool,
    parked: bool,
    /// When a rank last decided or ended a pass.
    clock: Time,
    #[expect(clippy::vec_box, reason = "steps are moved between here and the ranks, by their pointers")]
    spare: Vec<Box<Step>>,
    /// Kept for its memory; nothing is taken together.
    changes: Changes,
}

/// Where a request is, or its KV.
#[derive(Debug, Clone, Copy)]
struct Place {
    rank: usize,
    holds_kv: bool,
}

impl Lockstep {
    pub(super) fn new(config: &Arc<EngineConfig>, tracing: EngineTracing) -> Self {
        let ranks = config.num_ranks() as usize;
        Self {
            ranks: (0..ranks).map(|_| Rank::new(config, tracing)).collect(),
            front_end: FrontEnd::new(ranks),
            places: FxHashMap::default(),
            passes: Passes::default(),
            running: false,
            wave_begin: 0,
            next_sync: 0,
            dummies_take_no_time: false,
            parked: false,
            clock: Time::ZERO,
            spare: Vec::new(),
            changes: Changes::default(),
        }
    }

    pub(super) fn config(&self) -> &EngineConfig {
        self.ranks[0].scheduler.config()
    }

    /// Sends a request to its rank, or to the one that the front end chooses.
    ///
    /// # Panics
    /// If there is no such rank.
    pub(super) fn submit(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        request.check(self.config())?;
        let rank = if let Some(rank) = request.dp_rank {
            assert!((rank as usize) < self.ranks.len(), "request {} is for rank {rank}", request.id);
            rank as usize
        } else {
            let (ranks, blocks) = (&self.ranks, self.config().usable_blocks());
            self.front_end.choose(self.clock.max(request.arrival), |rank| ranks[rank].load(blocks))
        };
        self.front_end.sent(rank);
        self.places.insert(request.id, Place { rank, holds_kv: request.hold_kv });
        self.ranks[rank].inbox.push(request);
        Ok(())
    }

    pub(super) fn release(&mut self, request: RequestId, end: Time, now: Time) {
        if let Some(place) = self.places.remove(&request) {
            self.ranks[place.rank].scheduler.release(request, end, now);
        }
    }

    pub(super) fn fetched(&mut self, request: RequestId, now: Time) {
        if let Some(place) = self.places.get(&request) {
            self.ranks[place.rank].scheduler.fetched(request, now);
        }
    }

    /// Forgets all contents that can be hit; nothing holds KV.
    pub(super) fn reset_prefix_cache(&mut self) {
        self.ranks.iter_mut().for_each(|rank| rank.scheduler.reset_prefix_cache());
    }

    pub(super) fn withdraw(&mut self, request: RequestId) {
        if let Some(place) = self.places.get(&request) {
            self.ranks[place.rank].withdrawals.push(request);
        }
    }

    /// Lets every rank do what it can at `now` and says what happens next.
    #[inline(never)]
    pub(super) fn run(
        &mut self,
        now: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        if std::mem::take(&mut self.parked) {
            self.end_iteration(now, sink);
        }
        while self.running || self.begins_wave(now, sink)? {
            let mut moved = false;
            for rank in 0..self.ranks.len() {
                if self.ranks[rank].decides(now, self.next_sync) {
                    self.decide(rank, now, sink);
                    moved = true;
                }
            }
            let synchronised = self.synchronises(now);
            if !self.running {
                self.end_wave(now, sink);
            }
            if !(synchronised || moved) {
                break;
            }
        }
        self.forget_passes();
        self.passes.take_failed()?;
        self.parked = self.running && self.dummies_take_no_time && self.only_waits(now);
        Ok(self.state(now))
    }

    /// Whether nobody computes anything or will before KV comes or a grammar is compiled, for which somebody waits.
    fn only_waits(&self, now: Time) -> bool {
        let waits = |rank: &Rank| {
            let Rank { scheduler, decided, .. } = rank;
            let computes = scheduler.num_running() > 0 || decided.iter().any(|(_, step)| step.computes());
            let comes = scheduler.awaits_kv() || scheduler.awaits_grammar();
            let waits = !scheduler.has_unfinished_requests() || comes && !scheduler.has_news(now);
            let is_over = rank.turn == Turn::AwaitsEnd && self.passes.has_ended(rank.pass, now);
            is_over && rank.is_stalled && waits && !computes && rank.inbox.is_empty()
        };
        self.ranks.iter().all(waits) && self.ranks.iter().any(|rank| rank.scheduler.has_unfinished_requests())
    }

    /// Continues by itself until a pass would end at `horizon` or later; nothing can come to the ranks before that.
    #[inline(never)]
    pub(super) fn run_on(
        &mut self,
        now: Time,
        horizon: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        let mut now = now;
        for _ in 0..MOST_PASSES {
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

    /// Lets every rank see the end of the pass that it waits for, if that is now.
    #[inline(never)]
    pub(super) fn end_iteration(&mut self, now: Time, sink: &mut impl IterationSink) {
        self.clock = now;
        for rank in 0..self.ranks.len() {
            match self.ranks[rank].turn {
                Turn::AwaitsEnd if self.passes.has_ended(self.ranks[rank].pass, now) => {
                    if !self.config().async_scheduling {
                        self.take_results(rank, now, sink);
                    }
                    self.ranks[rank].end_turn(now);
                }
                Turn::AwaitsResults { computes } => self.await_results(rank, computes, now, sink),
                _ => {}
            }
        }
    }

    /// Starts a wave if anybody has work.
    fn begins_wave(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<bool, LatencyError> {
        let first = self.ranks.iter().position(Rank::has_requests);
        let Some(first) = first else {
            // KV that was held for others may be free by now, which takes no pass.
            for rank in 0..self.ranks.len() {
                if self.ranks[rank].scheduler.has_news(now) {
                    let step = self.schedule(rank, now, sink);
                    self.apply(rank, step, sink);
                }
            }
            return Ok(false);
        };
        let config = self.config();
        let DataParallel { wave_delay, synchronises_at_once: at_once, .. } = config.dp;
        self.dummies_take_no_time = dummies_take_no_time(config)?;
        self.running = true;
        self.wave_begin = self.ranks[first].pass;
        self.next_sync = if at_once { self.wave_begin } else { self.sync_after(self.wave_begin) };
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            rank.turn = Turn::Decides { from: if number == first { now } else { now + wave_delay } };
        }
        Ok(true)
    }

    /// The first pass from `pass` on after which the ranks synchronise because so many have gone by.
    fn sync_after(&self, pass: u64) -> u64 {
        let interval = self.config().dp.sync_interval;
        let gone_by = (pass - self.wave_begin) / interval;
        self.wave_begin + (gone_by + 1) * interval - 1
    }

    /// Lets all ranks find out whether anybody has work left, if all have come that far; returns whether they have.
    fn synchronises(&mut self, now: Time) -> bool {
        if !self.running || self.ranks.iter().any(|rank| rank.pass <= self.next_sync) {
            return false;
        }
        // What nobody has looked at yet begins the next wave.
        self.running = self.ranks.iter().any(|rank| rank.scheduler.has_unfinished_requests());
        self.next_sync = self.sync_after(self.next_sync + 1);
        for rank in &mut self.ranks {
            rank.turn = Turn::Decides { from: now };
        }
        true
    }

    /// Takes what ranks have decided without computing anything, such as to give a request up.
    fn end_wave(&mut self, now: Time, sink: &mut impl IterationSink) {
        for rank in 0..self.ranks.len() {
            while self.ranks[rank].decided.front().is_some_and(|(_, step)| !step.computes()) {
                self.take_results(rank, now, sink);
            }
        }
    }

    /// Lets a rank decide its pass.
    fn decide(&mut self, rank: usize, now: Time, sink: &mut impl IterationSink) {
        self.clock = now;
        self.take_in(rank, now, sink);
        let pass = self.ranks[rank].pass;
        let interval = u64::from(self.config().prefill_schedule_interval);
        let holds_prefill = !(pass - self.wave_begin).is_multiple_of(interval);
        self.ranks[rank].scheduler.hold_prefill(holds_prefill);
        self.ranks[rank].is_stalled = !holds_prefill;
        let step = self.ranks[rank].scheduler.has_work(now).then(|| self.schedule(rank, now, sink));
        let computes = step.as_ref().is_some_and(|step| step.computes());
        if let Some(step) = step.as_ref().filter(|step| step.computes()) {
            let Self { passes, ranks, .. } = self;
            let part = Part { batch: step.batch, loading: step.adapters_loaded };
            passes.dispatch(pass, now, part, ranks[rank].scheduler.config());
        }
        if !self.config().async_scheduling {
            match step {
                Some(step) if computes => self.ranks[rank].decided.push_back((pass, step)),
                Some(step) => self.apply(rank, step, sink),
                None => {}
            }
            if computes {
                self.ranks[rank].turn = Turn::AwaitsEnd;
            } else {
                self.dispatch_dummy(rank, now);
            }
            return;
        }
        let this = &mut self.ranks[rank];
        let decided = step.is_some();
        this.decided.extend(step.map(|step| (pass, step)));
        let decides_again = decided && this.decided.len() < 2 && (computes || this.scheduler.has_requests());
        if decides_again {
            self.finish_turn(rank, computes, now);
        } else {
            self.await_results(rank, computes, now, sink);
        }
    }

    /// Takes the results of the oldest pass that a rank has decided as soon as they are there, then ends its turn.
    fn await_results(&mut self, rank: usize, computes: bool, now: Time, sink: &mut impl IterationSink) {
        match self.ranks[rank].decided.front() {
            Some((pass, step)) if step.computes() && !self.passes.has_ended(*pass, now) => {
                self.ranks[rank].turn = Turn::AwaitsResults { computes };
            }
            oldest => {
                if oldest.is_some() {
                    self.take_results(rank, now, sink);
                }
                self.finish_turn(rank, computes, now);
            }
        }
    }

    /// A rank turns to its next pass, at once or after a dummy.
    fn finish_turn(&mut self, rank: usize, computes: bool, now: Time) {
        if computes {
            self.ranks[rank].end_turn(now);
        } else {
            self.dispatch_dummy(rank, now);
        }
    }

    /// A rank takes part in its pass without work of its own, and waits for the end.
    fn dispatch_dummy(&mut self, rank: usize, now: Time) {
        let Self { passes, ranks, .. } = self;
        passes.dispatch_dummy(ranks[rank].pass, now, ranks[rank].scheduler.config());
        self.ranks[rank].turn = Turn::AwaitsEnd;
    }

    /// Gives a rank what came to it.
    fn take_in(&mut self, rank: usize, now: Time, sink: &mut impl IterationSink) {
        let this = &mut self.ranks[rank];
        for request in this.inbox.drain(..) {
            let added = this.scheduler.add(request);
            debug_assert!(added.is_ok(), "it was checked when it came");
        }
        for request in std::mem::take(&mut this.withdrawals) {
            if self.ranks[rank].scheduler.withdraw(request) {
                self.leave(request);
                sink.withdrawn(request, now);
            }
        }
    }

    /// Decides request by request.
    fn schedule(&mut self, rank: usize, now: Time, sink: &mut impl IterationSink) -> Box<Step> {
        let mut step = self.spare.pop().unwrap_or_default();
        let this = &mut self.ranks[rank];
        this.scheduler.schedule(now, &mut step, sink);
        if !step.iteration.is_eventful() && !this.decided.iter().any(|(_, step)| step.computes()) {
            this.scheduler.give_up_if_stuck(&mut step.iteration);
        }
        step.iteration.dp_rank = rank as u32;
        (step.iteration.start, step.iteration.end) = (now, now);
        step
    }

    /// Applies the results of the oldest pass that a rank has decided.
    fn take_results(&mut self, rank: usize, now: Time, sink: &mut impl IterationSink) {
        let Some((pass, mut step)) = self.ranks[rank].decided.pop_front() else { return };
        let span = self.passes.span(pass).filter(|_| step.computes());
        let Iteration { start, end, .. } = &mut step.iteration;
        (*start, *end) = match span {
            Some((begin, ended)) => (begin, ended.max(now)),
            None => (now, now),
        };
        self.apply(rank, step, sink);
    }

    fn apply(&mut self, rank: usize, mut step: Box<Step>, sink: &mut impl IterationSink) {
        self.ranks[rank].scheduler.update(&mut step, &mut self.changes);
        let iteration = &step.iteration;
        for finished in &iteration.finished {
            self.finish(finished.id);
        }
        for &(rejected, _) in &iteration.rejected {
            self.leave(rejected);
        }
        if iteration.is_eventful() {
            self.ranks[rank].is_stalled = false;
        }
        if iteration.is_eventful() || !iteration.kv_events.is_empty() {
            sink.iteration_ended(iteration);
        }
        self.spare.push(step);
    }

    /// A request has ended with all its tokens; its KV may stay on the rank.
    fn finish(&mut self, request: RequestId) {
        match self.places.get(&request) {
            Some(place) if place.holds_kv => self.front_end.left(place.rank),
            _ => self.leave(request),
        }
    }

    /// Nothing of a request is left on its rank.
    fn leave(&mut self, request: RequestId) {
        if let Some(place) = self.places.remove(&request) {
            self.front_end.left(place.rank);
        }
    }

    /// Drops the passes that nobody has to do with any more.
    fn forget_passes(&mut self) {
        let oldest = |rank: &Rank| rank.decided.front().map_or(rank.pass, |&(pass, _)| pass.min(rank.pass));
        self.passes.forget_before(self.ranks.iter().map(oldest).min().unwrap_or(0));
    }

    fn state(&self, now: Time) -> EngineState {
        let wake = || self.ranks.iter().filter_map(|rank| rank.scheduler.next_transfer_end(now)).min();
        if !self.running || self.parked {
            return EngineState::Idle { wake: wake() };
        }
        let next = |rank: &Rank| match rank.turn {
            Turn::Decides { from } => Some(from).filter(|&from| from > now),
            Turn::AwaitsEnd => self.passes.span(rank.pass).map(|(_, end)| end),
            Turn::AwaitsResults { .. } => {
                rank.decided.front().and_then(|&(pass, _)| self.passes.span(pass)).map(|(_, end)| end)
            }
        };
        let until = self.ranks.iter().filter_map(next).min();
        EngineState::Busy { until: until.expect("the rank that is behind waits for what is under way") }
    }

    pub(super) fn clock(&self) -> Time {
        self.clock
    }

    pub(super) fn started_at(&self) -> Time {
        self.clock
    }

    pub(super) fn awaits_kv(&self) -> bool {
        self.ranks.iter().any(|rank| rank.scheduler.awaits_kv())
    }

    /// Whether somebody waits for a grammar.
    pub(super) fn awaits_grammar(&self) -> bool {
        self.ranks.iter().any(|rank| rank.scheduler.awaits_grammar())
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.running && !self.ranks.iter().any(Rank::has_requests)
    }

    pub(super) fn num_in_flight(&self) -> usize {
        self.ranks.iter().map(|rank| rank.decided.len()).sum()
    }

    pub(super) fn num_dummies(&self) -> u64 {
        self.passes.num_dummies()
    }

    pub(super) fn num_extrapolated(&self) -> u64 {
        self.passes.num_extrapolated()
    }

    pub(super) fn num_running(&self) -> usize {
        self.ranks.iter().map(|rank| rank.scheduler.num_running()).sum()
    }

    pub(super) fn num_waiting(&self) -> usize {
        self.ranks.iter().map(|rank| rank.scheduler.num_waiting() + rank.inbox.len()).sum()
    }

    pub(super) fn num_free_blocks(&self) -> u32 {
        self.ranks.iter().map(|rank| rank.scheduler.num_free_blocks()).sum()
    }

    pub(super) fn check(&self) -> Result<u64, String> {
        let mut looked_at = 0;
        for (number, rank) in self.ranks.iter().enumerate() {
            looked_at += rank.scheduler.check().map_err(|problem| format!("rank {number}: {problem}"))?;
        }
        Ok(looked_at)
    }
}
