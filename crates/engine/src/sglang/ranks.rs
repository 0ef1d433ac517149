//! Attention in data-parallel ranks: schedulers with queues and memory of their own that compute every pass together.
//!
//! Ranks plan by themselves and begin together; a pass lasts as long as the slowest of them. If any has something to
//! compute, those without compute nothing beside it. A prefill batch of one counts for all where decodes come between them,
//! and with speculative decoding the others do not decode beside it.
//!
//! Decodes are not taken together here: an iteration costs what its batch costs.
//!
//! # Source
//! SGLang 0.5.23, by recordings of its scheduler; which rank gets a request is read from `DataParallelController`.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_latency::LatencyError;
use servecast_types::{RequestId, Time};

use super::load_balance::LoadBalance;
use super::scheduler::Scheduler;
use crate::engine::{EngineState, EngineTracing};
use crate::iteration::{Iteration, IterationSink};
use crate::step::Step;
use crate::stretch_scheduler::Changes;
use crate::{EngineConfig, EngineRequest, Rejection};

/// Passes that [`DpRanks::run_on`] ends in one call at most, so that a driver stays in control.
const MOST_PASSES: u64 = 1 << 12;

/// The ranks of one SGLang worker. Each has the limits and the memory that the settings say.
#[derive(Debug)]
pub(crate) struct DpRanks {
    config: Arc<EngineConfig>,
    ranks: Vec<Scheduler>,
    /// Where requests are.
    places: FxHashMap<RequestId, Place>,
    balance: LoadBalance,
    /// By rank, prompt tokens of the requests that wait.
    waiting_tokens: Vec<u64>,
    /// Passes in flight, oldest first.
    in_flight: VecDeque<Pass>,
    depth: usize,
    /// When the last pass in flight ends, and before when the next one cannot begin: the host works until then.
    device_free: Time,
    next_pass: Time,
    /// When it last decided or ended a pass.
    clock: Time,
    /// Whether the next decision has to wait for the end of the oldest pass in flight.
    blocked: bool,
    /// Whether passes are told of for each rank, whatever it did in them.
    tells_all: bool,
    /// Requests that are to be taken away with the next decision.
    withdrawals: Vec<RequestId>,
    /// Parts of passes whose time lies outside what was measured, and of ranks that had nothing to compute.
    extrapolated: u64,
    idle: u64,
    /// Passes that have ended, whose memory the next ones take over.
    spare: Vec<Vec<Step>>,
    /// Kept for its memory; nothing is taken together.
    changes: Changes,
}

/// Where a request is, or its KV.
#[derive(Debug, Clone, Copy)]
struct Place {
    rank: usize,
    holds_kv: bool,
    prompt_tokens: u32,
    /// Whether it waits to be computed.
    waits: bool,
}

/// A pass of all ranks.
#[derive(Debug)]
struct Pass {
    /// One for each rank.
    steps: Vec<Step>,
    start: Time,
    end: Time,
}

impl DpRanks {
    /// Ranks without requests; `None` for another engine.
    pub(crate) fn new(config: &Arc<EngineConfig>, tracing: EngineTracing) -> Option<Self> {
        let own = config.sglang.clone()?;
        let ranks = config.num_ranks() as usize;
        let scheduler =
            |_| Scheduler::new(Arc::clone(config), own.clone(), tracing.kv_events, tracing.sglang_state);
        Some(Self {
            ranks: (0..ranks).map(scheduler).collect(),
            places: FxHashMap::default(),
            balance: LoadBalance::new(own.load_balance_method, ranks),
            waiting_tokens: vec![0; ranks],
            in_flight: VecDeque::new(),
            depth: if config.async_scheduling { 2 } else { 1 },
            device_free: Time::ZERO,
            next_pass: Time::ZERO,
            clock: Time::ZERO,
            blocked: false,
            tells_all: tracing.sglang_state,
            withdrawals: Vec::new(),
            extrapolated: 0,
            idle: 0,
            spare: Vec::new(),
            changes: Changes::default(),
            config: Arc::clone(config),
        })
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Puts a request into the queue of its rank, or of the one that is chosen for it.
    ///
    /// # Panics
    /// If there is no such rank.
    pub(crate) fn submit(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        let rank = request.dp_rank.map(|rank| rank as usize);
        if let Some(rank) = rank {
            assert!(rank < self.ranks.len(), "request {} is for rank {rank}", request.id);
        }
        let (id, prompt_tokens, holds_kv) = (request.id, request.prompt.tokens(), request.hold_kv);
        let rank = rank.unwrap_or_else(|| self.balance.choose());
        self.ranks[rank].add(request)?;
        self.balance.sent(rank, prompt_tokens);
        self.waiting_tokens[rank] += u64::from(prompt_tokens);
        self.places.insert(id, Place { rank, holds_kv, prompt_tokens, waits: true });
        Ok(())
    }

    pub(crate) fn release(&mut self, request: RequestId, end: Time, now: Time) {
        if let Some(place) = self.places.remove(&request) {
            self.ranks[place.rank].release(request, end, now);
        }
    }

    pub(crate) fn fetched(&mut self, request: RequestId, now: Time) {
        if let Some(place) = self.places.get(&request) {
            self.ranks[place.rank].fetched(request, now);
        }
    }

    /// Forgets all contents that can be hit; nothing holds KV.
    pub(crate) fn reset_prefix_cache(&mut self) {
        self.ranks.iter_mut().for_each(Scheduler::reset_prefix_cache);
    }

    /// Takes a request away with the next decision.
    pub(crate) fn withdraw(&mut self, request: RequestId) {
        self.withdrawals.push(request);
    }

    /// Starts what can be started at `now` and says what happens next.
    pub(crate) fn run(
        &mut self,
        now: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        while !self.blocked && self.in_flight.len() < self.depth {
            self.apply_withdrawals(now, sink);
            if !self.ranks.iter().any(|rank| rank.has_work(now)) && self.in_flight.is_empty() {
                self.ranks.iter_mut().for_each(Scheduler::idle);
                break;
            }
            let steps = self.plan(now, sink);
            if steps.iter().any(Step::computes) {
                self.launch(steps, now)?;
            } else if !self.conclude(steps, now, sink) {
                break;
            }
        }
        Ok(self.state(now))
    }

    /// Continues by itself until a pass would end at `horizon` or later; nothing can come to the ranks before that.
    pub(crate) fn run_on(
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

    /// Ends the oldest pass in flight, which is due.
    pub(crate) fn end_iteration(&mut self, now: Time, sink: &mut impl IterationSink) {
        self.clock = now;
        let Some(pass) = self.in_flight.pop_front() else { return };
        self.blocked = false;
        self.apply(pass.steps, self.tells_all, sink);
        let loads = self.ranks.iter().zip(&self.waiting_tokens).map(|(rank, waiting)| {
            let used = u64::from(self.config.num_gpu_blocks - rank.num_free_blocks());
            let tokens = used * u64::from(self.config.block_size) + waiting;
            ((rank.num_running() + rank.num_waiting()) as u64, tokens)
        });
        self.balance.reported(loads);
    }

    /// Whether the pass under way ends, or nothing does.
    fn state(&self, now: Time) -> EngineState {
        let wake = || self.ranks.iter().filter_map(|rank| rank.next_transfer_end(now)).min();
        let busy = self.in_flight.front().map(|pass| EngineState::Busy { until: pass.end });
        busy.unwrap_or_else(|| EngineState::Idle { wake: wake() })
    }

    fn apply_withdrawals(&mut self, now: Time, sink: &mut impl IterationSink) {
        for request in std::mem::take(&mut self.withdrawals) {
            self.clock = now;
            let Some(place) = self.places.get(&request) else { continue };
            if self.ranks[place.rank].withdraw(request) {
                self.leave(request);
                sink.withdrawn(request, now);
            }
        }
    }

    /// Decides the next pass of every rank.
    fn plan(&mut self, now: Time, sink: &mut impl IterationSink) -> Vec<Step> {
        self.clock = now;
        let mut steps = self.spare.pop().unwrap_or_default();
        steps.resize_with(self.ranks.len(), Step::default);
        let mut adders = Vec::with_capacity(self.ranks.len());
        for (number, (rank, step)) in self.ranks.iter_mut().zip(&mut steps).enumerate() {
            step.follows_another = self.in_flight.iter().any(|pass| pass.steps[number].computes());
            adders.push(rank.try_prefill(now, step, sink));
        }
        let any_prefill = steps.iter().any(|step| step.prefills > 0);
        let speculates = self.config.sglang.as_ref().is_some_and(|own| own.speculation.is_some());
        for ((rank, step), adder) in self.ranks.iter_mut().zip(&mut steps).zip(&adders) {
            rank.decide_rank(step, adder.as_ref(), !(any_prefill && speculates));
            if any_prefill {
                rank.interval.prefilled();
            }
        }
        for (number, step) in (0..).zip(&mut steps) {
            step.iteration.dp_rank = number;
            let Iteration { joined, admitted, preempted, .. } = &step.iteration;
            for &joined in joined {
                sink.joined(joined, now);
            }
            for admitted in admitted {
                self.note_wait(admitted.id, false);
            }
            for &request in preempted {
                self.note_wait(request, true);
            }
        }
        steps
    }

    /// A request waits to be computed, or waits no more.
    fn note_wait(&mut self, request: RequestId, waits: bool) {
        let Some(place) = self.places.get_mut(&request) else { return };
        let waited = std::mem::replace(&mut place.waits, waits);
        let (tokens, waiting) = (u64::from(place.prompt_tokens), &mut self.waiting_tokens[place.rank]);
        match (waited, waits) {
            (true, false) => *waiting -= tokens,
            (false, true) => *waiting += tokens,
            _ => {}
        }
    }

    /// Puts a pass in flight.
    fn launch(&mut self, mut steps: Vec<Step>, now: Time) -> Result<(), LatencyError> {
        let start = now.max(self.device_free).max(self.next_pass);
        let mut end = start;
        let computing = || steps.iter().filter(|step| step.computes());
        let tokens = computing().map(|step| step.batch.tokens).sum();
        for step in computing() {
            end = end.max(start + self.config.latency.iteration_of_ranks(&step.batch, tokens)?);
            self.extrapolated += u64::from(self.config.latency.extrapolates(&step.batch));
        }
        self.idle += steps.iter().filter(|step| !step.computes()).count() as u64;
        let requests = computing().map(|step| step.batch.requests).max().unwrap_or(0);
        for step in &mut steps {
            (step.iteration.start, step.iteration.end) = (start, end);
        }
        self.device_free = end;
        self.next_pass = end + self.config.host.gap(requests);
        self.in_flight.push_back(Pass { steps, start, end });
        Ok(())
    }

    /// Takes what was decided without computing anything; returns whether there may be more to decide.
    fn conclude(&mut self, mut steps: Vec<Step>, now: Time, sink: &mut impl IterationSink) -> bool {
        self.blocked = !self.in_flight.is_empty();
        let mut happened = steps.iter().any(|step| step.iteration.is_eventful());
        if !self.blocked && !happened {
            for (rank, step) in self.ranks.iter_mut().zip(&mut steps) {
                rank.give_up_if_stuck(&mut step.iteration);
                happened |= !step.iteration.rejected.is_empty();
                rank.idle();
            }
        }
        for step in &mut steps {
            (step.iteration.start, step.iteration.end) = (now, now);
        }
        self.apply(steps, false, sink);
        happened || (!self.blocked && self.ranks.iter().any(Scheduler::waits_for_interval))
    }

    /// Applies the results of a pass, or of decisions without one, and tells of what happened, or of all.
    fn apply(&mut self, mut steps: Vec<Step>, all: bool, sink: &mut impl IterationSink) {
        for (rank, step) in (0..).zip(&mut steps) {
            debug_assert_eq!(step.iteration.dp_rank, rank, "iterations say whose they are");
            self.ranks[rank as usize].update(step, &mut self.changes);
            let iteration = &step.iteration;
            self.note_ends(iteration);
            if all || iteration.is_eventful() || !iteration.kv_events.is_empty() {
                sink.iteration_ended(iteration);
            }
        }
        self.spare.push(steps);
    }

    /// Notes who has left.
    fn note_ends(&mut self, iteration: &Iteration) {
        for joined in iteration.joined.iter().filter(|joined| joined.is_finished) {
            self.leave(joined.id);
        }
        for finished in &iteration.finished {
            if self.places.get(&finished.id).is_some_and(|place| !place.holds_kv) {
                self.leave(finished.id);
            }
        }
        for &(rejected, _) in &iteration.rejected {
            self.leave(rejected);
        }
    }

    /// Nothing of a request is left on its rank.
    fn leave(&mut self, request: RequestId) {
        self.note_wait(request, false);
        self.places.remove(&request);
    }

    pub(crate) fn clock(&self) -> Time {
        self.clock
    }

    pub(crate) fn started_at(&self) -> Time {
        self.in_flight.front().map_or(self.clock, |pass| pass.start)
    }

    pub(crate) fn awaits_kv(&self) -> bool {
        self.ranks.iter().any(Scheduler::awaits_kv)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && !self.ranks.iter().any(Scheduler::has_unfinished_requests)
    }

    pub(crate) fn num_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn num_extrapolated(&self) -> u64 {
        self.extrapolated
    }

    /// Parts of passes of ranks that had nothing to compute.
    pub(crate) fn num_idle(&self) -> u64 {
        self.idle
    }

    pub(crate) fn num_running(&self) -> usize {
        self.ranks.iter().map(Scheduler::num_running).sum()
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.ranks.iter().map(Scheduler::num_waiting).sum()
    }

    pub(crate) fn num_free_blocks(&self) -> u32 {
        self.ranks.iter().map(Scheduler::num_free_blocks).sum()
    }

    /// Checks the invariants of all ranks; says which is broken, or how much it looked at.
    pub(crate) fn check(&self) -> Result<u64, String> {
        let mut looked_at = 0;
        for (number, rank) in self.ranks.iter().enumerate() {
            looked_at += rank.check().map_err(|problem| format!("rank {number}: {problem}"))?;
        }
        Ok(looked_at)
    }
}
