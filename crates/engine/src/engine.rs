//! One worker, from iteration to iteration: a scheduler by itself (`single`), one that feeds the stages of a pipeline
//! (`pipeline`), or several in lock step (`lockstep`, and `sglang/ranks` for those of SGLang).

mod front_end;
mod lockstep;
mod pipeline;
mod single;

use std::sync::Arc;

use servecast_latency::LatencyError;
use servecast_types::{RequestId, Time};

use self::lockstep::Lockstep;
use self::pipeline::Pipeline;
use self::single::Single;
use crate::iteration::IterationSink;
use crate::sglang::DpRanks;
use crate::{EngineConfig, EngineRequest, Rejection};

/// One worker: schedulers, their KV caches, and the iterations in flight. It has one scheduler, or one for each of its
/// [data-parallel ranks](crate::EngineArgs::dp_size); several iterations are under way at a time in a
/// [pipeline](crate::EngineArgs::pipeline_parallel_size).
///
/// The driver passes time in. At one instant it first ends the iterations that are due
/// ([`Engine::end_iteration`]), then submits what arrives, then lets the engine start ([`Engine::run`]).
#[derive(Debug)]
pub struct Engine(Kind);

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every engine is the large one, which costs no indirection"
)]
enum Kind {
    Single(Single),
    Lockstep(Box<Lockstep>),
    Pipeline(Box<Pipeline>),
    DpRanks(Box<DpRanks>),
}

/// Passes a call on to whichever engine it is.
macro_rules! each {
    ($engine:expr, $name:ident => $call:expr) => {
        match $engine {
            Engine(Kind::Single($name)) => $call,
            Engine(Kind::Lockstep($name)) => $call,
            Engine(Kind::Pipeline($name)) => $call,
            Engine(Kind::DpRanks($name)) => $call,
        }
    };
}

/// What an engine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// An iteration runs until then.
    Busy {
        /// When [`Engine::end_iteration`] is due: an iteration ends, or (SGLang) the copies to the host that a decision waits
        /// for do.
        until: Time,
    },
    /// Nothing to do until something is submitted or released, or until `wake`.
    Idle {
        /// When a KV transfer ends that it waits for, or a copy to or from the memory of its host, as far as that is known.
        wake: Option<Time>,
    },
}

/// What an engine records beyond what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineTracing {
    /// Keep the KV events of each iteration.
    pub kv_events: bool,
    /// Leave out of the KV events what a request generates that nobody else [names](crate::EngineRequest::output): no prompt
    /// hits it, so a router never looks for it. It is put into the prefix cache when its request loses its blocks. Engines of
    /// vLLM and TensorRT-LLM whose layers all keep everything do so, others keep all events.
    pub skip_own_output: bool,
    /// Keep the block ids of each iteration.
    pub block_ids: bool,
    /// Keep what SGLang's scheduler went by, of each iteration that is reported [by
    /// itself](IterationSink::iteration_ended).
    pub sglang_state: bool,
    /// Move the clock as the recorder of the real engine does: where that spins while it polls for KV transfers, the
    /// recorder continues with the next input before it ends an empty iteration.
    pub recorder_clock: bool,
    /// Take requests that decode together and report only what changes, by [`IterationSink::decoded`] and what stands
    /// with it, and by [`Iteration::decoded`](crate::Iteration::decoded): the same decisions at a fraction of the cost.
    /// Not together with `block_ids`, nor with `recorder_clock` where KV comes from other engines.
    pub stretches: bool,
}

impl Engine {
    /// An engine without requests. Engines of equal settings can share these, which keeps them in the processor's cache.
    pub fn new(config: impl Into<Arc<EngineConfig>>, tracing: EngineTracing) -> Self {
        let config = config.into();
        Self(match (config.num_ranks(), config.num_stages()) {
            (1, 1) => Kind::Single(Single::new(config, tracing)),
            (1, _) => Kind::Pipeline(Box::new(Pipeline::new(config, tracing))),
            _ => match DpRanks::new(&config, tracing) {
                Some(ranks) => Kind::DpRanks(Box::new(ranks)),
                None => Kind::Lockstep(Box::new(Lockstep::new(&config, tracing))),
            },
        })
    }

    /// The settings of the engine, those of one rank where it has several.
    pub fn config(&self) -> &EngineConfig {
        each!(self, engine => engine.config())
    }

    /// Puts a request into the waiting queue, or says why it can never be served.
    pub fn submit(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        each!(self, engine => engine.submit(request))
    }

    /// Lets go of the KV blocks of an ended request with `hold_kv` once the transfer from here ends at `end`.
    pub fn release(&mut self, request: RequestId, end: Time, now: Time) {
        each!(self, engine => engine.release(request, end, now));
    }

    /// A decode worker has memory for a request whose prompt is computed here, and `held` tokens of that in its cache.
    /// Only prefill workers of SGLang wait for that.
    pub fn preallocated(&mut self, request: RequestId, held: u32, now: Time) {
        if let Self(Kind::Single(engine)) = self {
            engine.preallocated(request, held, now);
        }
    }

    /// KV that it fetches is here; when that would be was [not known](crate::Begun::Open) when the fetch began.
    pub fn fetched(&mut self, request: RequestId, now: Time) {
        each!(self, engine => engine.fetched(request, now));
    }

    /// Takes a request away with the next decision, as the real engines do, which look at what has come between
    /// iterations; nothing if it has ended by then.
    ///
    /// vLLM and TensorRT-LLM drop it, whatever it is doing: tokens of it in flight are lost, its blocks are free, or, if
    /// KV is on its way to them, when that is there; the sink is [told](IterationSink::withdrawn). SGLang drops it while it
    /// waits; later it ends with its next token, as if it had been asked for no more.
    ///
    /// # Source
    /// vLLM 0.33 `Scheduler.finish_requests`, SGLang 0.5.23 `Scheduler.abort_request`, as documented.
    pub fn withdraw(&mut self, request: RequestId) {
        each!(self, engine => engine.withdraw(request));
    }

    /// Forgets all contents that can be hit; says whether it did, which it does only where nothing holds or will hold KV: it
    /// [has no request](Engine::is_empty) and [awaits no KV](Engine::awaits_kv). With its next iteration it
    /// [tells](servecast_types::KvEvent::Cleared) that it has nothing any more.
    ///
    /// # Source
    /// vLLM 0.33 `BlockPool.reset_prefix_cache`, SGLang 0.5.23 `Scheduler.flush_cache`.
    pub fn reset_prefix_cache(&mut self) -> bool {
        let is_idle = self.is_empty() && !self.awaits_kv() && !self.copies_kv();
        if is_idle {
            each!(self, engine => engine.reset_prefix_cache());
        }
        is_idle
    }

    /// Tells how far the requests have come that have been decoding together. The engine is lost with all that it has, its
    /// iterations in flight among them, and is not to be called again.
    pub fn abandon(&mut self, sink: &mut impl IterationSink) {
        if let Self(Kind::Single(engine)) = self {
            engine.abandon(sink);
        }
    }

    /// Starts what can be started at `now` and says what happens next.
    pub fn run(&mut self, now: Time, sink: &mut impl IterationSink) -> Result<EngineState, LatencyError> {
        each!(self, engine => engine.run(now, sink))
    }

    /// Continues by itself, ending iterations and starting others as [`Engine::run`] and [`Engine::end_iteration`] would,
    /// until an iteration would end at `horizon` or later; nothing can come to the engine before that. `now` is when the
    /// iteration in flight was started.
    pub fn run_on(
        &mut self,
        now: Time,
        horizon: Time,
        sink: &mut impl IterationSink,
    ) -> Result<EngineState, LatencyError> {
        each!(self, engine => engine.run_on(now, horizon, sink))
    }

    /// Ends the oldest iteration in flight, which is due.
    pub fn end_iteration(&mut self, now: Time, sink: &mut impl IterationSink) {
        each!(self, engine => engine.end_iteration(now, sink));
    }

    /// How far it has come: when it last decided or ended an iteration. Nothing may come to it before.
    pub fn clock(&self) -> Time {
        each!(self, engine => engine.clock())
    }

    /// Before when others learn nothing from it if nothing comes to it: no request gets its first token or ends, and no KV
    /// event is told. At least the end of the iteration in flight, `until`; later where requests decode by themselves.
    pub fn next_news(&self, until: Time) -> Time {
        match self {
            Self(Kind::Single(engine)) => engine.next_news().unwrap_or(until),
            Self(Kind::Pipeline(_) | Kind::DpRanks(_) | Kind::Lockstep(_)) => until,
        }
    }

    /// When the oldest iteration in flight began.
    pub fn started_at(&self) -> Time {
        each!(self, engine => engine.started_at())
    }

    /// Whether KV is fetched from elsewhere, or will be, or is held for others.
    pub fn awaits_kv(&self) -> bool {
        each!(self, engine => engine.awaits_kv())
    }

    /// Whether somebody waits for a grammar to be compiled.
    pub fn awaits_grammar(&self) -> bool {
        match self {
            Self(Kind::Single(engine)) => engine.awaits_grammar(),
            Self(Kind::Pipeline(engine)) => engine.awaits_grammar(),
            Self(Kind::Lockstep(engine)) => engine.awaits_grammar(),
            Self(Kind::DpRanks(_)) => false,
        }
    }

    /// Whether KV is being copied to the memory of its host or back, which may hold blocks although it has no request.
    pub fn copies_kv(&self) -> bool {
        match self {
            Self(Kind::Single(engine)) => engine.copies_kv(),
            Self(Kind::Pipeline(_) | Kind::Lockstep(_) | Kind::DpRanks(_)) => false,
        }
    }

    /// Whether it holds no request at all, and nothing is in flight.
    pub fn is_empty(&self) -> bool {
        each!(self, engine => engine.is_empty())
    }

    /// Iterations that are decided but not ended.
    pub fn num_in_flight(&self) -> usize {
        each!(self, engine => engine.num_in_flight())
    }

    /// Iterations whose time lies outside what the latency model was measured on.
    pub fn num_extrapolated(&self) -> u64 {
        each!(self, engine => engine.num_extrapolated())
    }

    /// What the times of its iterations are estimated from, if nothing of them was measured.
    pub fn latency_estimate(&self) -> Option<&str> {
        self.config().latency.estimate()
    }

    /// Requests that run now.
    pub fn num_running(&self) -> usize {
        each!(self, engine => engine.num_running())
    }

    /// Requests that wait now.
    pub fn num_waiting(&self) -> usize {
        each!(self, engine => engine.num_waiting())
    }

    /// KV blocks that are free now, with or without content that can be hit.
    pub fn num_free_blocks(&self) -> u32 {
        each!(self, engine => engine.num_free_blocks())
    }

    /// Passes that ranks without work took part in, so that the others could go on; 0 where nothing is in lock step.
    /// SGLang's compute nothing in them.
    pub fn num_dummies(&self) -> u64 {
        match self {
            Self(Kind::Single(_) | Kind::Pipeline(_)) => 0,
            Self(Kind::Lockstep(engine)) => engine.num_dummies(),
            Self(Kind::DpRanks(engine)) => engine.num_idle(),
        }
    }

    /// Checks the engine's invariants, which takes a walk over all its requests and the blocks that it has used; says which
    /// is broken, or how much it looked at.
    pub fn check(&self) -> Result<u64, String> {
        each!(self, engine => engine.check())
    }
}
