//! Attention in data-parallel ranks: schedulers with queues and memory of their own that compute every pass together.
//!
//! Ranks plan by themselves and begin together; a pass lasts as long as the slowest of them. If any has something to
//! compute, those without compute nothing beside it. A prefill batch of one counts for all where decodes come between them,
//! and with speculative decoding the others do not decode beside it.

use std::collections::VecDeque;

use servecast_latency::LatencyError;
use servecast_types::Time;

use super::scheduler::Scheduler;
use crate::engine::{EngineState, EngineTracing};
use crate::iteration::Iteration;
use crate::step::Step;
use crate::{Begun, EngineConfig, EngineRequest, Fetch, Links, Rejection};

/// The ranks of one SGLang worker. Each has the limits and the memory that the settings say.
#[derive(Debug)]
pub struct SglangRanks {
    config: EngineConfig,
    ranks: Vec<Scheduler>,
    /// Passes in flight, oldest first.
    in_flight: VecDeque<Pass>,
    depth: usize,
    /// When the last pass in flight ends.
    free: Time,
    /// Whether the next decision has to wait for the end of the oldest pass in flight.
    blocked: bool,
}

/// A pass of all ranks.
#[derive(Debug)]
struct Pass {
    /// One for each rank.
    steps: Vec<Step>,
    end: Time,
}

/// Ranks fetch nothing from other workers.
struct NoLinks;

impl Links for NoLinks {
    fn begin(&mut self, fetch: Fetch, _: Time) -> Begun {
        unreachable!("{fetch:?}, which is not computed here")
    }
}

impl SglangRanks {
    /// Ranks without requests. `None` for another engine.
    pub fn new(config: EngineConfig, ranks: u32, tracing: EngineTracing) -> Option<Self> {
        let own = config.sglang.clone()?;
        let scheduler =
            |_| Scheduler::new(config.clone(), own.clone(), tracing.kv_events, tracing.sglang_state);
        Some(Self {
            ranks: (0..ranks).map(scheduler).collect(),
            in_flight: VecDeque::new(),
            depth: if config.async_scheduling { 2 } else { 1 },
            free: Time::ZERO,
            blocked: false,
            config,
        })
    }

    /// Puts a request into the queue of a rank, or says why it can never be served.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn submit(&mut self, rank: u32, request: EngineRequest) -> Result<(), Rejection> {
        self.ranks[rank as usize].add(request)
    }

    /// Starts what can be started at `now`; tells of iterations that end with that, by rank.
    pub fn run(
        &mut self,
        now: Time,
        mut tell: impl FnMut(u32, &Iteration),
    ) -> Result<EngineState, LatencyError> {
        while !self.blocked && self.in_flight.len() < self.depth {
            let mut steps = self.plan(now);
            if steps.iter().any(Step::computes) {
                self.launch(steps, now)?;
                continue;
            }
            self.blocked = !self.in_flight.is_empty();
            if !self.blocked && !steps.iter().any(|step| step.iteration.is_eventful()) {
                let mut given_up = false;
                for (rank, step) in self.ranks.iter_mut().zip(&mut steps) {
                    rank.give_up_if_stuck(&mut step.iteration);
                    given_up |= !step.iteration.rejected.is_empty();
                    rank.idle();
                }
                if !given_up && !self.ranks.iter().any(Scheduler::waits_for_interval) {
                    return Ok(EngineState::Idle { wake: None });
                }
            }
            for (rank, step) in (0..).zip(&steps) {
                if step.iteration.is_eventful() {
                    tell(rank, &step.iteration);
                }
            }
        }
        Ok(self
            .in_flight
            .front()
            .map_or(EngineState::Idle { wake: None }, |pass| EngineState::Busy { until: pass.end }))
    }

    /// Ends the oldest pass in flight, which is due; tells of the iterations of all ranks.
    pub fn end_pass(&mut self, mut tell: impl FnMut(u32, &Iteration)) {
        let Some(mut pass) = self.in_flight.pop_front() else { return };
        self.blocked = false;
        for ((number, rank), step) in (0..).zip(&mut self.ranks).zip(&mut pass.steps) {
            rank.update(step, &mut crate::stretch_scheduler::Changes::default());
            tell(number, &step.iteration);
        }
    }

    /// Checks the invariants of all ranks; says which is broken, or how much it looked at.
    pub fn check(&self) -> Result<u64, String> {
        self.ranks.iter().map(Scheduler::check).sum()
    }

    /// Decides the next pass of every rank.
    fn plan(&mut self, now: Time) -> Vec<Step> {
        let mut steps: Vec<Step> = self.ranks.iter().map(|_| Step::default()).collect();
        let planned = self.ranks.iter_mut().zip(&mut steps);
        let adders: Vec<_> = planned.map(|(rank, step)| rank.try_prefill(now, step, &mut NoLinks)).collect();
        let any_prefill = steps.iter().any(|step| step.prefills > 0);
        let speculates = self.config.sglang.as_ref().is_some_and(|own| own.speculation.is_some());
        for ((rank, step), adder) in self.ranks.iter_mut().zip(&mut steps).zip(&adders) {
            rank.decide_rank(step, adder.as_ref(), !(any_prefill && speculates));
            if any_prefill {
                rank.interval.prefilled();
            }
        }
        steps
    }

    /// Puts a pass in flight.
    fn launch(&mut self, mut steps: Vec<Step>, now: Time) -> Result<(), LatencyError> {
        let start = now.max(self.free);
        let mut end = start;
        for step in steps.iter().filter(|step| step.computes()) {
            end = end.max(start + self.config.latency.iteration(&step.batch)?);
        }
        for step in &mut steps {
            (step.iteration.start, step.iteration.end) = (start, end);
        }
        self.free = end;
        self.in_flight.push_back(Pass { steps, end });
        Ok(())
    }
}
