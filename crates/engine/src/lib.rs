//! One inference worker: scheduler, KV cache and iterations, for vLLM.
//!
//! [`Engine`] is a state machine with explicit time. It decides exactly what the real scheduler decides (which
//! request gets how many tokens in which iteration, what is preempted, which KV blocks are hit, allocated, freed and
//! evicted, in what order), and a latency model says how long each iteration takes.
//!
//! **Invariant:** the engine knows nothing of routers, other workers, files or clocks; the same calls give the same
//! decisions.

mod args;
mod config;
mod engine;
mod iteration;
mod request;
mod vllm;

pub use args::{
    EngineArgs, EngineType, KvRole, KvTransferTimingMode, PreemptionMode, SchedulingPolicy, VllmVersion, WorkerType,
};
pub use config::{ConfigError, EngineConfig, KvTransfer, LatencySpec, MAX_NUM_GPU_BLOCKS, MsPerToken, check_key};
pub use engine::{Engine, EngineState, EngineTracing};
pub use iteration::{Admitted, Finished, Iteration, IterationSink, Scheduled, Transfer};
pub use request::{EngineRequest, Rejection, TransferTime};
