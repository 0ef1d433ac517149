//! Waiting requests that others pass: those whose LoRA adapter finds no place, and those whose grammar is not compiled.
//!
//! As vLLM 0.33 does it: they keep their place in the queue, and take nothing while they wait.

use std::cmp::Reverse;

use servecast_types::{Duration, Time};

use super::scheduler::Scheduler;
use crate::request::{EngineRequest, Grammar};
use crate::step::Step;
use crate::table::Slot;

impl Scheduler {
    /// Whether others pass a waiting request, whatever room there is.
    pub(super) fn is_passed_over(&self, slot: Slot, now: Time) -> bool {
        let request = &self.requests[slot];
        // One that was preempted does not come back before its tokens in flight are there.
        // In a pipeline, a chunk of a prompt may still be under way that was taken from its request meanwhile.
        let is_on_its_way =
            self.config.pipeline.stages > 1 && request.preemptions > 0 && request.last_iteration > self.ended;
        request.stale > 0 || is_on_its_way || request.grammar_ready > now || self.lacks_adapter(slot)
    }

    /// Whether a request needs an adapter that would be one too many beside those of the running requests, be they scheduled
    /// or not.
    pub(super) fn lacks_adapter(&self, slot: Slot) -> bool {
        let adapter = self.requests[slot].lora;
        self.adapters.as_ref().zip(adapter).is_some_and(|(adapters, adapter)| adapters.lack(adapter))
    }

    /// A request runs from the iteration on that is being decided, and its adapter with it, which is loaded first.
    pub(super) fn occupy_adapter(&mut self, slot: Slot, step: &mut Step) {
        if let (Some(adapters), Some(adapter)) = (&mut self.adapters, self.requests[slot].lora) {
            step.adapters_loaded += adapters.occupy(adapter, self.decided);
        }
    }

    /// A request does not run any more.
    pub(super) fn vacate_adapter(&mut self, slot: Slot) {
        if let (Some(adapters), Some(adapter)) = (&mut self.adapters, self.requests[slot].lora)
            && adapters.vacate(adapter, self.ended)
        {
            self.must_replan = true;
        }
    }

    /// Lets the grammar of a request that comes be compiled, unless an equal one was, or is being compiled.
    pub(super) fn compile_grammar(&mut self, request: &mut EngineRequest) {
        let Some(Grammar { number, submitted }) = request.grammar else { return };
        let compile = self.config.grammar_compile;
        if compile > Duration::ZERO {
            let ready = *self.compiled.entry(number).or_insert(submitted + compile);
            if ready > submitted {
                request.grammar_ready = request.grammar_ready.max(Some(ready));
            }
        }
    }

    /// Forgets the grammars that are compiled by `now`.
    pub(super) fn notice_grammars(&mut self, now: Time) {
        while self.grammars.peek().is_some_and(|&Reverse(ready)| ready <= now) {
            self.grammars.pop();
            self.must_replan = true;
        }
    }

    /// When the next grammar is compiled that somebody waits for.
    pub(crate) fn next_grammar(&self) -> Option<Time> {
        self.grammars.peek().map(|&Reverse(ready)| ready)
    }
}
