//! One type for the schedulers of all engines, so that what follows from one iteration to the next is written once
//! (`engine/single.rs`, and `engine/lockstep.rs` for ranks).

use std::sync::Arc;

use servecast_types::{RequestId, Time};

use crate::engine::EngineTracing;
use crate::iteration::Iteration;
use crate::step::Step;
use crate::stretch::Stretch;
use crate::stretch_scheduler::{Changes, StretchScheduler};
use crate::{EngineConfig, EngineRequest, Links, Rejection, sglang, vllm};

/// What decides: the scheduler of one engine or the other, which share how iterations follow each other.
#[derive(Debug)]
pub(crate) enum Scheduler {
    /// TensorRT-LLM too.
    Vllm(Box<vllm::Scheduler>),
    /// SGLang.
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

impl Scheduler {
    pub(crate) fn config(&self) -> &EngineConfig {
        each!(self, scheduler => &scheduler.config)
    }

    pub(crate) fn new(config: Arc<EngineConfig>, tracing: EngineTracing) -> Self {
        let events = tracing.kv_events;
        match config.sglang.clone() {
            Some(own) => {
                Self::Sglang(Box::new(sglang::Scheduler::new(config, own, events, tracing.sglang_state)))
            }
            None => Self::Vllm(Box::new(vllm::Scheduler::new(config, tracing))),
        }
    }

    pub(crate) fn add(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        each!(self, scheduler => scheduler.add(request))
    }

    /// Says whether data-parallel ranks hold prompts back in the next iteration.
    pub(crate) fn hold_prefill(&mut self, holds: bool) {
        if let Self::Vllm(scheduler) = self {
            scheduler.hold_prefill(holds);
        }
    }

    pub(crate) fn schedule(&mut self, now: Time, step: &mut Step, links: &mut dyn Links) {
        each!(self, scheduler => scheduler.schedule(now, step, links));
    }

    /// Until when a decided pass waits for copies to and from the host before it computes, which it could do at `start`.
    pub(crate) fn wait_for_copies(&mut self, start: Time, step: &mut Step) -> Time {
        match self {
            Self::Vllm(scheduler) => scheduler.wait_for_copies(start, step),
            Self::Sglang(scheduler) => scheduler.wait_for_copies(start, step),
        }
    }

    /// Begins the copies of a pass that was decided `now` and takes that `span`; `waited` if it waited for some.
    pub(crate) fn begin_copies(&mut self, now: Time, span: (Time, Time), waited: bool, step: &mut Step) {
        if let Self::Vllm(scheduler) = self {
            scheduler.begin_copies(now, span, waited, step);
        }
    }

    pub(crate) fn update(&mut self, step: &mut Step, changes: &mut Changes) {
        each!(self, scheduler => scheduler.update(step, changes));
    }

    pub(crate) fn release(&mut self, request: RequestId, end: Time, now: Time) {
        each!(self, scheduler => scheduler.release(request, end, now));
    }

    pub(crate) fn preallocated(&mut self, request: RequestId, held: u32, now: Time) {
        if let Self::Sglang(scheduler) = self {
            scheduler.preallocated(request, held, now);
        }
    }

    /// After a pass of a prefill worker of SGLang: lets go of KV that has arrived; `step` was decided last.
    pub(crate) fn poll_sent(&mut self, now: Time, step: &mut Step) {
        if let Self::Sglang(scheduler) = self {
            scheduler.poll_sent(now, &mut step.iteration);
        }
    }

    pub(crate) fn fetched(&mut self, request: RequestId, now: Time) {
        each!(self, scheduler => scheduler.fetched(request, now));
    }

    /// Takes a request away; returns whether it is gone at once.
    pub(crate) fn withdraw(&mut self, request: RequestId) -> bool {
        each!(self, scheduler => scheduler.withdraw(request))
    }

    /// Forgets all contents that can be hit; nothing holds KV.
    pub(crate) fn reset_prefix_cache(&mut self) {
        each!(self, scheduler => scheduler.reset_prefix_cache());
    }

    pub(crate) fn give_up_if_stuck(&mut self, iteration: &mut Iteration) {
        each!(self, scheduler => scheduler.give_up_if_stuck(iteration));
    }

    /// Nothing is in flight and nothing can be started.
    pub(crate) fn idle(&mut self) {
        if let Self::Sglang(scheduler) = self {
            scheduler.idle();
        }
    }

    pub(crate) fn has_work(&self, now: Time) -> bool {
        each!(self, scheduler => scheduler.has_work(now))
    }

    /// Whether an iteration, be it an empty one, has something to do.
    pub(crate) fn has_requests(&self) -> bool {
        match self {
            Self::Vllm(scheduler) => scheduler.has_requests(),
            Self::Sglang(scheduler) => scheduler.has_unfinished_requests(),
        }
    }

    pub(crate) fn has_unfinished_requests(&self) -> bool {
        each!(self, scheduler => scheduler.has_unfinished_requests())
    }

    /// Whether the real connector's poll is simulated, which notices transfers late.
    pub(crate) fn polls(&self) -> bool {
        matches!(self, Self::Vllm(scheduler) if scheduler.polls())
    }

    /// Whether somebody waits for a grammar.
    pub(crate) fn awaits_grammar(&self) -> bool {
        matches!(self, Self::Vllm(scheduler) if scheduler.next_grammar().is_some())
    }

    pub(crate) fn has_news(&self, now: Time) -> bool {
        each!(self, scheduler => scheduler.has_news(now))
    }

    pub(crate) fn next_transfer_end(&self, now: Time) -> Option<Time> {
        each!(self, scheduler => scheduler.next_transfer_end(now))
    }

    pub(crate) fn num_running(&self) -> usize {
        each!(self, scheduler => scheduler.num_running())
    }

    pub(crate) fn num_waiting(&self) -> usize {
        each!(self, scheduler => scheduler.num_waiting())
    }

    pub(crate) fn num_free_blocks(&self) -> u32 {
        each!(self, scheduler => scheduler.num_free_blocks())
    }

    pub(crate) fn check(&self) -> Result<u64, String> {
        each!(self, scheduler => scheduler.check())
    }

    /// Whether KV is being copied to the memory of the host or back.
    pub(crate) fn copies_kv(&self) -> bool {
        // What SGLang copies, it forgets.
        matches!(self, Self::Vllm(scheduler) if scheduler.copies_kv())
    }

    /// Whether KV is fetched from elsewhere, or will be, or is held for others.
    pub(crate) fn awaits_kv(&self) -> bool {
        each!(self, scheduler => scheduler.awaits_kv())
    }
}

impl StretchScheduler for Scheduler {
    fn stretch(&self) -> &Stretch {
        each!(self, scheduler => scheduler.stretch())
    }

    fn quiet_iterations(&self) -> u64 {
        each!(self, scheduler => scheduler.quiet_iterations())
    }

    fn untold_iterations(&self) -> u64 {
        each!(self, scheduler => scheduler.untold_iterations())
    }

    fn skip_quiet(&mut self, iterations: u64) {
        each!(self, scheduler => scheduler.skip_quiet(iterations));
    }

    fn continues(&self) -> bool {
        each!(self, scheduler => scheduler.continues())
    }

    fn next_notice(&self) -> Time {
        each!(self, scheduler => scheduler.next_notice())
    }

    fn notices_at_end(&self, start: Time) -> bool {
        each!(self, scheduler => scheduler.notices_at_end(start))
    }

    fn plan_next(&mut self, now: Time, changes: &mut Changes) -> bool {
        each!(self, scheduler => scheduler.plan_next(now, changes))
    }

    fn decide_decode(&mut self, now: Time) -> bool {
        each!(self, scheduler => scheduler.decide_decode(now))
    }

    fn end_decode(&mut self, changes: &mut Changes) {
        each!(self, scheduler => scheduler.end_decode(changes));
    }

    fn end_stretch(&mut self, changes: &mut Changes) {
        each!(self, scheduler => scheduler.end_stretch(changes));
    }

    fn abandon(&mut self, changes: &mut Changes) {
        each!(self, scheduler => scheduler.abandon(changes));
    }
}
