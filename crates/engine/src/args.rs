//! The settings of an engine as users write them: one schema for command line, TOML, JSON and Python.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use servecast_types::Role;

use crate::graphs::CudaGraphConfig;
use crate::host::HostArgs;
use crate::kv_groups::{KvGroupArgs, MambaCacheMode, RetentionInterval};
use crate::offload_args::KvOffloadingArgs;
use crate::sglang::SglangArgs;
use crate::speculation::SpeculativeArgs;

/// Settings of one engine, by the names of vLLM and of Dynamo's `MockEngineArgs`. A key that is absent has the
/// default that is given with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EngineArgs {
    /// The engine that is simulated.
    pub engine_type: EngineType,
    /// The release of vLLM whose scheduling decisions are made.
    pub vllm_version: VllmVersion,
    /// KV cache blocks of a worker, with the null block.
    pub num_gpu_blocks: u32,
    /// Share of the memory of a GPU that the engine takes, from which `num_gpu_blocks` is worked out where it is not given
    /// and the latency model knows model and GPU.
    pub gpu_memory_utilization: f64,
    /// Tokens a KV block; 0 is the default of the engine (vLLM 64, TensorRT-LLM 32, SGLang 1).
    pub block_size: u32,
    /// vLLM keeps one block that it never hands out; `false` makes all of `num_gpu_blocks` usable.
    pub reserve_null_block: bool,
    /// Most requests that run at a time; null for no limit.
    pub max_num_seqs: Option<u32>,
    /// Most tokens that one iteration computes; null for no limit.
    pub max_num_batched_tokens: Option<u32>,
    /// Longest sequence, prompt and output together; null for no limit.
    pub max_model_len: Option<u32>,
    /// Whether requests share KV blocks of equal content.
    pub enable_prefix_caching: bool,
    /// vLLM: groups of layers that keep different things of a sequence, each with blocks of its own from one pool. Absent,
    /// they follow from the model where `num_gpu_blocks` is worked out, and are one group that keeps everything otherwise.
    pub kv_groups: Option<Vec<KvGroupArgs>>,
    /// vLLM: in layers that forget, for which prefixes of a prompt what a later request needs is kept: one for each so many
    /// tokens, or `dense` for all, besides the longest that the same prompt can hit. 0 by default, before 0.29 `dense`.
    pub prefix_cache_retention_interval: Option<RetentionInterval>,
    /// vLLM: whether states of prefixes are kept for other requests: `align` with prefix caching, `none` without it.
    pub mamba_cache_mode: Option<MambaCacheMode>,
    /// vLLM: layers with a window keep all tokens, in one group with those that do.
    pub disable_hybrid_kv_cache_manager: Option<bool>,
    /// Whether a prompt may be cut to fit the token budget of an iteration.
    pub enable_chunked_prefill: bool,
    /// Most tokens of one request in an iteration while others are there; 0 for no limit.
    pub long_prefill_token_threshold: u32,
    /// Raises that limit to an equal share of `max_num_batched_tokens`.
    pub long_prefill_token_threshold_adaptive: bool,
    /// Whether a request is admitted only when blocks for all its known tokens are free.
    pub scheduler_reserve_full_isl: bool,
    /// Share of the blocks that an admission leaves free while others run.
    pub watermark: f64,
    /// Iterations from one that computes prompts to the next, while requests decode; 1 for no pause.
    pub prefill_schedule_interval: u32,
    /// Whether an iteration is scheduled while the one before it runs.
    pub async_scheduling: bool,
    /// vLLM: whether requests may have LoRA adapters.
    pub enable_lora: bool,
    /// vLLM: most adapters of the requests that run at a time; absent, 1. A waiting request with another one is passed over.
    pub max_loras: Option<u32>,
    /// vLLM: most adapters in the memory of the host, those on the GPU among them; absent, `max_loras`.
    pub max_cpu_loras: Option<u32>,
    /// vLLM: milliseconds by which an iteration takes longer for each adapter that is not on the GPU; absent, 0. No speedup
    /// divides them.
    pub lora_load_ms: Option<f64>,
    /// vLLM: milliseconds more for an adapter that is not in the memory of the host either; absent, 0.
    pub lora_fetch_ms: Option<f64>,
    /// vLLM: milliseconds that it takes to compile the grammar of a request's structured output, which waits for that; equal
    /// grammars are compiled once. Absent, 0.
    pub grammar_compile_ms: Option<f64>,
    /// Order of the waiting queue, and whom a preemption hits.
    #[serde(alias = "policy")]
    pub scheduling_policy: SchedulingPolicy,
    /// Whom a preemption hits under the `fcfs` policy.
    pub preemption_mode: PreemptionMode,
    /// vLLM's role in KV transfer: with one, transfers are noticed when the real connector would notice them.
    pub kv_role: Option<KvRole>,
    /// What the worker is for; inferred from its pool when absent.
    pub worker_type: Option<Role>,
    /// Old form of `worker_type: prefill`.
    pub is_prefill: Option<bool>,
    /// Old form of `worker_type: decode`.
    pub is_decode: Option<bool>,
    /// How long an iteration takes: `polynomial`, `linear:BASE_US,PER_TOKEN_US,PER_SEQ_US`, `grid:FILE`,
    /// `profile:DIR`, `step:FILE.toml`, `roofline:OPTIONS`, `ops:OPTIONS` or `auto`, which is `ops` of `model` and `gpu`.
    /// Absent, it is `auto` where they are given, and `polynomial` otherwise.
    pub latency: Option<String>,
    /// The model that is served: its name on the Hugging Face hub, or the path of its `config.json`.
    pub model: Option<String>,
    /// The GPU that it is served on: the name of a data sheet, or the path of one.
    pub gpu: Option<String>,
    /// GPUs that share each layer.
    pub tensor_parallel_size: Option<u32>,
    /// Groups of such GPUs that share experts, each with requests of its own; priced as one engine.
    pub data_parallel_size: Option<u32>,
    /// GPUs over which whole experts are shared out.
    pub expert_parallel_size: Option<u32>,
    /// How weights are stored: `bf16`, `fp8`, `fp8_block`, `int4`, `mxfp4` or `nvfp4`.
    pub dtype: Option<String>,
    /// How the KV cache is stored: `auto`, `bf16` or `fp8`.
    pub kv_cache_dtype: Option<String>,
    /// Whether no pass is a recorded graph.
    pub enforce_eager: bool,
    /// vLLM: tokens of passes that are recorded as CUDA graphs; a pass between two of them is padded to the next. Absent, they
    /// are 1, 2, 4, multiples of 8 to 256 and of 16 beyond, to `max_cudagraph_capture_size`.
    pub cudagraph_capture_sizes: Option<Vec<u32>>,
    /// vLLM: the largest of them; absent, twice `max_num_seqs`, 512 at most.
    pub max_cudagraph_capture_size: Option<u32>,
    /// Whose kernels attention runs: `auto`, what the engine takes by itself, or `flashinfer`, that library's own.
    pub attention_backend: Option<String>,
    /// The engine's version, for the choice of measured operators.
    pub engine_version: Option<String>,
    /// Measured iteration times, an `.npz` file or a profiler's folder: old form of `latency: "grid:FILE"`.
    pub planner_profile_data: Option<String>,
    /// Divides all iteration times.
    pub speedup_ratio: f64,
    /// Divides decode times further.
    pub decode_speedup_ratio: f64,
    /// What the host takes besides passes, over what the latency model says of it.
    pub host: Option<HostArgs>,
    /// Bytes of KV cache a token, over all layers.
    #[serde(alias = "kv_transfer_bytes_per_token")]
    pub kv_bytes_per_token: Option<u64>,
    /// vLLM: memory of the host to which KV is offloaded, in GiB, of all GPUs of the engine together; absent, there is none.
    pub kv_offloading_size: Option<f64>,
    /// vLLM: how KV is offloaded, as an object such as `{"eviction_policy": "arc"}`.
    pub kv_offloading: Option<KvOffloadingArgs>,
    /// Bandwidth of the hand-off from prefill to decode, in 10⁹ bytes a second; absent or 0 for no delay.
    pub kv_transfer_bandwidth: Option<f64>,
    /// Whether a hand-off moves the whole prompt or only what the decode worker lacks.
    pub kv_transfer_timing_mode: KvTransferTimingMode,
    /// Whether transfers share the bandwidth: `dedicated`, the default, moves each as if it were alone; `shared` divides
    /// the network port of a worker, out of it and into it, among the transfers there at the same time.
    pub kv_transfer_sharing: Option<KvTransferSharing>,
    /// Data-parallel ranks of a worker, which compute every pass in lock step, as vLLM serves mixture-of-experts models;
    /// each has the KV blocks and the limits of these settings for itself. Ranks of a dense model have nothing to do with
    /// each other: they are workers.
    pub dp_size: u32,
    /// Passes after which ranks find out together whether any of them has work left, and until which they go on without;
    /// absent, as of the version: 16, up to vLLM 0.28 32.
    pub dp_sync_interval: Option<u32>,
    /// Microseconds that the pass of a rank without work takes, before any speedup; absent: as long as one of a single token.
    pub dp_dummy_us: Option<f64>,
    /// Microseconds until the other ranks begin when one of them has got a request; absent: 0.
    pub dp_wave_delay_us: Option<f64>,
    /// vLLM: stages of a pipeline over which the layers of the model are spread. A stage takes an even share of the time that
    /// the latency model gives for all layers; what a batch takes from one to the next is not counted.
    pub pipeline_parallel_size: u32,
    /// Microseconds that an engine with a pipeline sleeps when all its requests are under way; absent: 1,000, as vLLM does.
    pub pipeline_idle_sleep_us: Option<f64>,
    /// vLLM: speculative decoding, as an object such as `{"method": "eagle3", "num_speculative_tokens": 3,
    /// "acceptance_rates": [0.67, 0.42, 0.26]}`; absent, every step of a request gives one token.
    pub speculative_config: Option<SpeculativeArgs>,
    /// Old name of a part of `speculative_config`; only 0.
    pub num_speculative_tokens: u32,
    /// Seconds until a worker that is started serves; no worker is started during a replay.
    pub startup_time: Option<f64>,
    /// Router queue policy that goes with this engine.
    pub router_queue_policy: Option<String>,
    /// Settings of TensorRT-LLM.
    pub trtllm: Option<TrtllmArgs>,
    /// Settings of SGLang.
    pub sglang: Option<SglangArgs>,
    /// Thinking tokens of a reasoning model: token ids only, no effect on times.
    pub reasoning: Option<Map<String, Value>>,
    /// Setting of live workers, without effect on a replay.
    pub enable_local_indexer: bool,
    /// Setting of live workers, without effect on a replay.
    pub bootstrap_port: Option<u16>,
    /// Setting of live workers, without effect on a replay.
    pub zmq_kv_events_port: Option<u16>,
    /// Setting of live workers, without effect on a replay.
    pub zmq_replay_port: Option<u16>,
    /// Accepted and ignored, as elsewhere.
    pub has_perf_model: Option<bool>,
    /// External latency model; refused.
    pub aic_backend: Option<String>,
    /// External latency model; refused.
    pub aic_system: Option<String>,
    /// External latency model; refused.
    pub aic_backend_version: Option<String>,
    /// External latency model; refused.
    pub aic_model_path: Option<String>,
    /// External latency model; refused.
    pub aic_tp_size: Option<u32>,
    /// External latency model; refused.
    pub aic_moe_tp_size: Option<u32>,
    /// External latency model; refused.
    pub aic_moe_ep_size: Option<u32>,
    /// External latency model; refused.
    pub aic_attention_dp_size: Option<u32>,
}

impl Default for EngineArgs {
    fn default() -> Self {
        Self {
            engine_type: EngineType::Vllm,
            vllm_version: VllmVersion::V0_33,
            num_gpu_blocks: 16_384,
            gpu_memory_utilization: 0.9,
            block_size: 0,
            reserve_null_block: true,
            max_num_seqs: Some(256),
            max_num_batched_tokens: Some(8_192),
            max_model_len: None,
            enable_prefix_caching: true,
            kv_groups: None,
            prefix_cache_retention_interval: None,
            mamba_cache_mode: None,
            disable_hybrid_kv_cache_manager: None,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
            long_prefill_token_threshold_adaptive: false,
            scheduler_reserve_full_isl: true,
            watermark: 0.0,
            prefill_schedule_interval: 1,
            async_scheduling: false,
            enable_lora: false,
            max_loras: None,
            max_cpu_loras: None,
            lora_load_ms: None,
            lora_fetch_ms: None,
            grammar_compile_ms: None,
            scheduling_policy: SchedulingPolicy::Fcfs,
            preemption_mode: PreemptionMode::Lifo,
            kv_role: None,
            worker_type: None,
            is_prefill: None,
            is_decode: None,
            latency: None,
            model: None,
            gpu: None,
            tensor_parallel_size: None,
            data_parallel_size: None,
            expert_parallel_size: None,
            dtype: None,
            kv_cache_dtype: None,
            enforce_eager: false,
            cudagraph_capture_sizes: None,
            max_cudagraph_capture_size: None,
            attention_backend: None,
            engine_version: None,
            planner_profile_data: None,
            speedup_ratio: 1.0,
            decode_speedup_ratio: 1.0,
            host: None,
            kv_bytes_per_token: None,
            kv_offloading_size: None,
            kv_offloading: None,
            kv_transfer_bandwidth: None,
            kv_transfer_timing_mode: KvTransferTimingMode::FullPrompt,
            kv_transfer_sharing: None,
            dp_size: 1,
            pipeline_parallel_size: 1,
            pipeline_idle_sleep_us: None,
            speculative_config: None,
            dp_sync_interval: None,
            dp_dummy_us: None,
            dp_wave_delay_us: None,
            num_speculative_tokens: 0,
            startup_time: None,
            router_queue_policy: None,
            trtllm: None,
            sglang: None,
            reasoning: None,
            enable_local_indexer: false,
            bootstrap_port: None,
            zmq_kv_events_port: None,
            zmq_replay_port: None,
            has_perf_model: None,
            aic_backend: None,
            aic_system: None,
            aic_backend_version: None,
            aic_model_path: None,
            aic_tp_size: None,
            aic_moe_tp_size: None,
            aic_moe_ep_size: None,
            aic_attention_dp_size: None,
        }
    }
}

/// An inference engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineType {
    /// vLLM, V1 scheduler.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM, with the capacity policy `GUARANTEED_NO_EVICT` unless another one is chosen.
    Trtllm,
}

impl EngineType {
    /// The name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
        }
    }
}

/// Settings of TensorRT-LLM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrtllmArgs {
    /// When a request is admitted.
    pub capacity_scheduler_policy: CapacitySchedulerPolicy,
    /// Which decodes are recorded as CUDA graphs; null for none.
    pub cuda_graph_config: Option<CudaGraphConfig>,
}

impl Default for TrtllmArgs {
    fn default() -> Self {
        Self {
            capacity_scheduler_policy: CapacitySchedulerPolicy::GuaranteedNoEvict,
            cuda_graph_config: Some(CudaGraphConfig::default()),
        }
    }
}

/// When TensorRT-LLM admits a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CapacitySchedulerPolicy {
    /// When it fits to completion, so that it is never evicted.
    GuaranteedNoEvict,
    /// When it fits now; the one that was started last is paused when a block is lacking.
    MaxUtilization,
    /// When it fits to completion, and all that were admitted before are done.
    StaticBatch,
}

/// Releases of vLLM that schedule differently.
///
/// | since | what changed |
/// |---|---|
/// | 0.19 | a request is admitted only when blocks for all its known tokens are free |
/// | 0.24 | freed blocks without content are reused first |
/// | 0.32 | a request that is alone may exceed `long_prefill_token_threshold`; under `kv_consumer` with asynchronous scheduling a request waits for blocks that are about to be freed instead of preempting |
/// | 0.33 | under the `priority` policy the scan continues after a request has preempted itself |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum VllmVersion {
    /// 0.14
    #[serde(rename = "0.14")]
    V0_14,
    /// 0.19
    #[serde(rename = "0.19")]
    V0_19,
    /// 0.24
    #[serde(rename = "0.24")]
    V0_24,
    /// 0.28
    #[serde(rename = "0.28")]
    V0_28,
    /// 0.32
    #[serde(rename = "0.32")]
    V0_32,
    /// 0.33
    #[serde(rename = "0.33")]
    V0_33,
}

/// Order of the waiting queue, and whom a preemption hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingPolicy {
    /// First come, first served.
    Fcfs,
    /// By priority, then arrival.
    Priority,
}

/// Whom a preemption hits under the `fcfs` policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PreemptionMode {
    /// The request that was admitted last, as vLLM does.
    Lifo,
    /// The request that was admitted first.
    Fifo,
}

/// vLLM's `kv_role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvRole {
    /// Computes prompts that others fetch.
    KvProducer,
    /// Fetches prompts.
    KvConsumer,
}

/// What a hand-off from prefill to decode moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvTransferTimingMode {
    /// The whole prompt.
    FullPrompt,
    /// What the decode worker does not have in its prefix cache.
    DestinationMissing,
}

/// Whether transfers that are under way at the same time share the bandwidth of a worker's network port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvTransferSharing {
    /// Each has all of it.
    Dedicated,
    /// Each has an equal part.
    Shared,
}

impl KvTransferSharing {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dedicated => "dedicated",
            Self::Shared => "shared",
        }
    }
}

impl fmt::Display for KvTransferSharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
