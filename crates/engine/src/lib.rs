//! One inference worker: scheduler, KV cache and iterations, for vLLM, SGLang and TensorRT-LLM.
//!
//! [`Engine`] is a state machine with explicit time. It decides exactly what the real scheduler decides (which
//! request gets how many tokens in which iteration, what is preempted, which KV blocks are hit, allocated, freed and
//! evicted, in what order), and a latency model says how long each iteration takes.
//!
//! ```
//! use servecast_engine::{
//!     Begun, Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Fetch, Iteration, IterationSink, Joined, Links,
//! };
//! use servecast_types::{Prompt, RequestId, Run, Time};
//!
//! struct Tokens(usize);
//!
//! impl Links for Tokens {
//!     fn begin(&mut self, _: Fetch, now: Time) -> Begun {
//!         Begun::At(now)
//!     }
//! }
//!
//! impl IterationSink for Tokens {
//!     fn joined(&mut self, _: Joined, _: Time) {
//!         self.0 += 1;
//!     }
//!
//!     fn iteration_ended(&mut self, iteration: &Iteration) {
//!         self.0 += iteration.tokens_emitted() as usize;
//!     }
//! }
//!
//! let settings = serde_json::json!({"block_size": 16, "latency": "linear:5000,20,50"});
//! let config = EngineArgs::from_json(settings)?.validate(None)?;
//! let mut engine = Engine::new(config, EngineTracing::default());
//! let prompt = Prompt::new([Run::tokens(0, 100)]);
//! engine.submit(EngineRequest::new(RequestId(0), prompt, 3, Time::ZERO))?;
//! let (mut now, mut tokens) = (Time::ZERO, Tokens(0));
//! while let EngineState::Busy { until } = engine.run(now, &mut tokens)? {
//!     now = until;
//!     engine.end_iteration(now, &mut tokens);
//! }
//! assert_eq!((tokens.0, now), (3, Time::from_ns(17_190_000)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Invariant:** the engine knows nothing of routers, other workers, files or clocks; the same calls give the same
//! decisions.

mod args;
mod args_json;
mod config;
mod engine;
mod error;
mod graphs;
mod host;
mod iteration;
mod kv_groups;
mod latency_spec;
mod links;
mod lora;
mod offload_args;
mod order;
mod preset;
mod request;
mod scheduler;
mod sequence;
mod sglang;
mod speculation;
mod step;
mod stretch;
mod stretch_scheduler;
mod table;
mod trtllm;
mod vllm;

pub use args::{
    CapacitySchedulerPolicy, EngineArgs, EngineType, KvRole, KvTransferSharing, KvTransferTimingMode,
    PreemptionMode, SchedulingPolicy, TrtllmArgs, VllmVersion,
};
pub use config::{EngineConfig, MAX_NUM_GPU_BLOCKS, MAX_SEQUENCE_TOKENS};
pub use engine::{Engine, EngineState, EngineTracing};
pub use error::{ConfigError, check_key};
pub use graphs::CudaGraphConfig;
pub use host::HostArgs;
pub use iteration::{
    Admitted, Decodes, DisaggregationState, Emitted, Finished, GroupEvent, HostCopies, Iteration,
    IterationSink, Joined, LastIteration, OffloadCopy, Offloaded, Requeue, Scheduled, Sent, SglangState,
    Transfer, Verified, WindowSlots,
};
pub use kv_groups::{KvGroupArgs, KvGroupType, MambaCacheMode, RetentionInterval};
pub use latency_spec::LatencySpec;
pub use links::{Begun, Fetch, Links};
pub use offload_args::{KvOffloadingArgs, OffloadBackend, OffloadConnector, OffloadEviction};
pub use order::{Order, WaitingRequest};
pub use preset::{EnginePreset, lay_over, merge};
pub use request::{EngineRequest, Grammar, Rejection};
pub use sglang::{
    DisaggregationMode, HicacheWritePolicy, LoadBalanceMethod, RadixEvictionPolicy, RetractionBackup,
    RetractionPolicy, SchedulePolicy, SglangArgs, SpeculativeAlgorithm,
};
pub use speculation::{SpeculativeArgs, SpeculativeMethod};
