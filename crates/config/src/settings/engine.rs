//! Engine settings that have a flag of their own, and which setting of the engine each stands for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use servecast_engine::{
    DisaggregationMode, EngineArgs, EngineType, HicacheWritePolicy, HostArgs, KvOffloadingArgs,
    KvTransferSharing, LoadBalanceMethod, OffloadBackend, RetentionInterval, RetractionBackup,
    RetractionPolicy, SchedulePolicy, SglangArgs, SpeculativeAlgorithm, SpeculativeArgs,
};
use servecast_latency::Host;

use super::keys::keys_of;
use super::value::{boolean, choice, finite, settings};

/// Engine settings that have a flag of their own.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Engine, in every pool")]
pub struct EngineShortcuts {
    /// Engine that is simulated
    #[arg(long, value_name = "ENGINE", value_parser = choice::<EngineType>("engine", &["vllm", "sglang", "trtllm"]))]
    pub engine: Option<EngineType>,
    /// Model that is served: its name on the Hugging Face hub, or the path of its config.json
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// GPU that it is served on, such as H100-SXM or B200, or the path of a data sheet
    #[arg(long, value_name = "NAME")]
    pub gpu: Option<String>,
    /// GPUs that share each layer
    #[arg(long, value_name = "N", visible_alias = "tp")]
    pub tensor_parallel_size: Option<u32>,
    /// Stages of a pipeline over which the layers are spread, of as many GPUs each
    #[arg(long, value_name = "N", visible_alias = "pp")]
    pub pipeline_parallel_size: Option<u32>,
    /// Groups of such GPUs that share experts, each with requests of its own; priced as one engine
    #[arg(long, value_name = "N", visible_alias = "dp")]
    pub data_parallel_size: Option<u32>,
    /// GPUs over which whole experts are shared out; without it, each expert is cut over all GPUs
    #[arg(long, value_name = "N", visible_alias = "ep")]
    pub expert_parallel_size: Option<u32>,
    /// How weights are stored: bf16, fp8, `fp8_block`, int4, mxfp4 or nvfp4; as the model is published without it
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<String>,
    /// How the KV cache is stored: auto, bf16 or fp8
    #[arg(long, value_name = "TYPE")]
    pub kv_cache_dtype: Option<String>,
    /// Record no pass as a graph, as vLLM does then
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enforce_eager: Option<bool>,
    /// Tokens of passes that vLLM records as CUDA graphs, with a comma between two; others are padded to the next
    #[arg(long, value_name = "TOKENS,TOKENS", value_delimiter = ',')]
    pub cudagraph_capture_sizes: Option<Vec<u32>>,
    /// Largest pass that vLLM records as a CUDA graph
    #[arg(long, value_name = "TOKENS")]
    pub max_cudagraph_capture_size: Option<u32>,
    /// Whose kernels attention runs: auto, what the engine takes by itself, or flashinfer, that library's own
    #[arg(long, value_name = "NAME")]
    pub attention_backend: Option<String>,
    /// Version of the engine, for the choice of measured operators; the newest that was measured without it
    #[arg(long, value_name = "VERSION")]
    pub engine_version: Option<String>,
    /// Start from the defaults of a release, such as vllm-0.33 or sglang-0.5
    #[arg(long, value_name = "NAME")]
    pub engine_preset: Option<String>,
    /// Tokens a KV block
    #[arg(long, value_name = "TOKENS")]
    pub block_size: Option<u32>,
    /// KV blocks of a worker; worked out where the latency model knows model and GPU
    #[arg(long, value_name = "N")]
    pub num_gpu_blocks: Option<u32>,
    /// Share of a GPU's memory that the engine takes, for working out --num-gpu-blocks
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    pub gpu_memory_utilization: Option<f64>,
    /// Most requests that run at a time
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<u32>,
    /// Most tokens that one iteration computes
    #[arg(long, value_name = "TOKENS")]
    pub max_num_batched_tokens: Option<u32>,
    /// Longest sequence, prompt and output together; without it there is no limit
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<u32>,
    /// Divide all iteration times by this
    #[arg(long, value_name = "RATIO", value_parser = finite)]
    pub speedup_ratio: Option<f64>,
    /// Share KV blocks of equal content between requests
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enable_prefix_caching: Option<bool>,
    /// Cut prompts to fit the token budget of an iteration
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enable_chunked_prefill: Option<bool>,
    /// Schedule an iteration while the one before it runs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub async_scheduling: Option<bool>,
    /// Tokens from one prefix to the next for which layers with a window or a state keep what a later request needs: 0 for the
    /// longest of each prompt alone, dense for all
    #[arg(long, value_name = "TOKENS|dense", value_parser = retention)]
    pub prefix_cache_retention_interval: Option<RetentionInterval>,
    /// Keep all tokens in layers with a window, in one group with the others
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub disable_hybrid_kv_cache_manager: Option<bool>,
    /// Take requests for LoRA adapters, which rows of a trace name (`lora`)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enable_lora: Option<bool>,
    /// LoRA adapters of the requests that run at a time [default: 1]
    #[arg(long, value_name = "N")]
    pub max_loras: Option<u32>,
    /// LoRA adapters in the memory of the host, those on the GPU among them; as many as may run without it
    #[arg(long, value_name = "N")]
    pub max_cpu_loras: Option<u32>,
    /// Time by which an iteration takes longer for each adapter that is not on the GPU
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub lora_load_ms: Option<f64>,
    /// Time more for an adapter that is not in the memory of the host either
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub lora_fetch_ms: Option<f64>,
    /// Time to compile the grammar of a request's structured output, which rows of a trace name (`grammar`)
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub grammar_compile_ms: Option<f64>,
    /// How long an iteration takes: `polynomial`, `linear:BASE_US,PER_TOKEN_US,PER_SEQ_US`, `grid:FILE`,
    /// `profile:DIR`, `step:FILE.toml`, `roofline:OPTIONS`, `ops:OPTIONS` or `auto`; `auto`, which is `ops` of --model and
    /// --gpu, where they are given
    #[arg(long, value_name = "SPEC")]
    pub latency: Option<String>,
    /// What hosts take besides iterations, a JSON object or @FILE.json; --gap-us and those below it set one each
    #[arg(long, value_name = "JSON", value_parser = settings)]
    #[schemars(with = "Option<HostArgs>")]
    pub host: Option<Map<String, Value>>,
    /// Time from the end of a pass to when the next one can begin
    #[arg(long, value_name = "US", value_parser = finite)]
    pub gap_us: Option<f64>,
    /// The same, for each request in the pass that ended
    #[arg(long, value_name = "US", value_parser = finite)]
    pub gap_us_per_request: Option<f64>,
    /// Time from sending a request to when it is at the engine
    #[arg(long, value_name = "US", value_parser = finite)]
    pub front_end_us: Option<f64>,
    /// The same, for each 1,000 tokens of its prompt
    #[arg(long, value_name = "US", value_parser = finite)]
    pub front_end_us_per_1k_prompt_tokens: Option<f64>,
    /// Time from the end of a pass to when clients have its tokens, while the engine goes on
    #[arg(long, value_name = "US", value_parser = finite)]
    pub delivery_us: Option<f64>,
    /// The same, for each request in the pass
    #[arg(long, value_name = "US", value_parser = finite)]
    pub delivery_us_per_request: Option<f64>,
    /// Speculative decoding of vLLM, a JSON object or @FILE.json, such as `{"method": "eagle3", "num_speculative_tokens": 3,
    /// "acceptance_rates": [0.67, 0.42, 0.26]}`
    #[arg(long, value_name = "JSON", value_parser = settings)]
    #[schemars(with = "Option<SpeculativeArgs>")]
    pub speculative_config: Option<Map<String, Value>>,
    /// Memory of the host to which vLLM offloads KV, of all GPUs of an engine together
    #[arg(long, value_name = "GIB", value_parser = finite)]
    pub kv_offloading_size: Option<f64>,
    /// Who offloads KV: `native`, vLLM's own connector
    #[arg(long, value_name = "BACKEND", value_parser = choice::<OffloadBackend>("kv_offloading_backend", &["native"]))]
    pub kv_offloading_backend: Option<OffloadBackend>,
    /// How KV is offloaded, a JSON object or @FILE.json, such as `{"eviction_policy": "arc"}`
    #[arg(long, value_name = "JSON", value_parser = settings)]
    #[schemars(with = "Option<KvOffloadingArgs>")]
    pub kv_offloading: Option<Map<String, Value>>,
    /// Bandwidth of the hand-off from prefill to decode, in GB/s; without it the hand-off takes no time
    #[arg(long, value_name = "GB_PER_S", value_parser = finite)]
    pub kv_transfer_bandwidth: Option<f64>,
    /// Whether transfers share the bandwidth: `dedicated`, each takes as long as if it were alone; `shared`, those out of one
    /// worker, or into one, at the same time take equal parts
    #[arg(long, value_name = "HOW", value_parser = choice::<KvTransferSharing>("kv_transfer_sharing", &["dedicated", "shared"]))]
    pub kv_transfer_sharing: Option<KvTransferSharing>,
    /// Bytes of KV cache a token, over all layers
    #[arg(long, value_name = "BYTES")]
    pub kv_bytes_per_token: Option<u64>,
}

/// Settings of SGLang that have a flag of their own, by the names of its server's arguments.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "SGLang, in every pool that runs it")]
pub struct SglangShortcuts {
    /// Tokens a page of the KV pool, the same as --block-size
    #[arg(long, value_name = "TOKENS")]
    pub page_size: Option<u32>,
    /// Tokens of the KV pool; without it there are --num-gpu-blocks pages
    #[arg(long, value_name = "TOKENS")]
    pub max_total_tokens: Option<u32>,
    /// Most requests that run at a time, the same as --max-num-seqs
    #[arg(long, value_name = "N")]
    pub max_running_requests: Option<u32>,
    /// Longest sequence, prompt and output together, the same as --max-model-len
    #[arg(long, value_name = "TOKENS")]
    pub context_length: Option<u32>,
    /// Most prompt tokens of a prefill batch; a single prompt may exceed it
    #[arg(long, value_name = "TOKENS")]
    pub max_prefill_tokens: Option<u32>,
    /// Most prompt tokens of a prefill batch, beyond which a prompt is cut; -1 to cut none
    #[arg(long, value_name = "TOKENS")]
    pub chunked_prefill_size: Option<i64>,
    /// Most requests of a prefill batch; without it there is no limit
    #[arg(long, value_name = "N")]
    pub prefill_max_requests: Option<u32>,
    /// Decode batches after a prefill batch before the next one is tried
    #[arg(long, value_name = "N")]
    pub prefill_decode_interval: Option<u32>,
    /// Running requests below which --prefill-decode-interval does not hold
    #[arg(long, value_name = "N")]
    pub prefill_decode_interval_min_bs: Option<u32>,
    /// Decode batches from one look at new requests to the next
    #[arg(long, value_name = "N")]
    pub scheduler_recv_interval: Option<u32>,
    /// Order of the waiting queue
    #[arg(long, value_name = "POLICY", value_parser = choice::<SchedulePolicy>("schedule_policy", SCHEDULE_POLICIES))]
    pub schedule_policy: Option<SchedulePolicy>,
    /// How much output running requests are expected to produce: more is more careful
    #[arg(long, value_name = "RATIO", value_parser = finite)]
    pub schedule_conservativeness: Option<f64>,
    /// Share nothing between requests, the opposite of --enable-prefix-caching
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub disable_radix_cache: Option<bool>,
    /// Let decodes ride along in prefill batches
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enable_mixed_chunk: Option<bool>,
    /// Plan an iteration only when the one before it has ended; `=false` overlaps them, as SGLang does by default
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub disable_overlap_schedule: Option<bool>,
    /// Go by the priorities of requests
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enable_priority_scheduling: Option<bool>,
    /// Take low priority values for important ones
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub schedule_low_priority_values_first: Option<bool>,
    /// Difference in priority above which a waiting request displaces a running one
    #[arg(long, value_name = "N")]
    pub priority_scheduling_preemption_threshold: Option<u32>,
    /// Who goes back to the queue when memory runs out: short outputs, or the least important first
    #[arg(long, value_name = "POLICY", value_parser = choice::<RetractionPolicy>("retraction_policy", RETRACTION_POLICIES))]
    pub retraction_policy: Option<RetractionPolicy>,
    /// Who proposes tokens that decodes verify; --speculative-config says how many are accepted
    #[arg(long, value_name = "ALGORITHM", value_parser = choice::<SpeculativeAlgorithm>("speculative_algorithm", SPECULATIVE_ALGORITHMS))]
    pub speculative_algorithm: Option<SpeculativeAlgorithm>,
    /// Steps of the drafter for a batch
    #[arg(long, value_name = "N")]
    pub speculative_num_steps: Option<u32>,
    /// Tokens that a batch verifies for each request, the known one among them
    #[arg(long, value_name = "N")]
    pub speculative_num_draft_tokens: Option<u32>,
    /// Keep cached KV in the memory of the host, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enable_hierarchical_cache: Option<bool>,
    /// Tokens that the host has room for, over those of the KV pool [default: 2]
    #[arg(long, value_name = "RATIO", value_parser = finite)]
    pub hicache_ratio: Option<f64>,
    /// Memory of the host for KV instead, of all GPUs of an engine together
    #[arg(long, value_name = "GB", value_parser = finite)]
    pub hicache_size: Option<f64>,
    /// When cached KV is copied to the host
    #[arg(long, value_name = "POLICY", value_parser = choice::<HicacheWritePolicy>("hicache_write_policy", WRITE_POLICIES))]
    pub hicache_write_policy: Option<HicacheWritePolicy>,
    /// Tokens that a sliding window of the model spans: layers with one have a KV pool of their own
    #[arg(long, value_name = "TOKENS")]
    pub sliding_window_size: Option<u32>,
    /// Tokens of that pool, over those of the other [default: 0.8]
    #[arg(long, value_name = "RATIO", value_parser = finite)]
    pub swa_full_tokens_ratio: Option<f64>,
    /// Keep all tokens in layers with a sliding window, in one pool
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub disable_hybrid_swa_memory: Option<bool>,
    /// Spread attention over `data_parallel_size` ranks, which share out the GPUs and compute every pass together, each with
    /// queues and a KV pool of its own
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub enable_dp_attention: Option<bool>,
    /// Which of these ranks gets a request [default: auto, in turn]
    #[arg(long, value_name = "METHOD", value_parser = choice::<LoadBalanceMethod>("load_balance_method", LOAD_BALANCE_METHODS))]
    pub load_balance_method: Option<LoadBalanceMethod>,
    /// Which stage workers have, with SGLang's own queues between the two; `null` computes prompts before memory is reserved
    #[arg(long, value_name = "MODE", value_parser = choice::<DisaggregationMode>("disaggregation_mode", DISAGGREGATION_MODES))]
    pub disaggregation_mode: Option<DisaggregationMode>,
    /// Tokens of output that every request of a decode worker has in reserve when others get memory [default: 512]
    #[arg(long, value_name = "TOKENS")]
    pub num_reserved_decode_tokens: Option<u32>,
    /// Let prompts on decode workers share what is cached
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub disaggregation_decode_enable_radix_cache: Option<bool>,
    /// Passes of a decode worker from one look at memory for newcomers, and at KV that has arrived, to the next [default: 1]
    #[arg(long, value_name = "N")]
    pub disaggregation_decode_polling_interval: Option<u32>,
    /// Requests of a decode worker that have memory at a time, beyond those that may run
    #[arg(long, value_name = "N")]
    pub disaggregation_decode_extra_slots: Option<u32>,
    /// Where the KV of requests of a decode worker goes that lose their memory [default: `cpu_tensor`]
    #[arg(long, value_name = "WHERE", value_parser = choice::<RetractionBackup>("disaggregation_decode_retraction_backup", RETRACTION_BACKUPS))]
    pub disaggregation_decode_retraction_backup: Option<RetractionBackup>,
    /// Batches of decodes that are recorded as CUDA graphs, with a comma between two; others are padded to the next
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    pub cuda_graph_bs: Option<Vec<u32>>,
    /// Largest batch of decodes that is recorded as a CUDA graph; by the GPU's memory without it
    #[arg(long, value_name = "N")]
    pub cuda_graph_max_bs: Option<u32>,
    /// Record no pass as a CUDA graph
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub disable_cuda_graph: Option<bool>,
    /// Run only batches as graphs that are recorded, without padding to them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub disable_cuda_graph_padding: Option<bool>,
}

/// The orders of the waiting queue that can be chosen.
const SCHEDULE_POLICIES: &[&str] =
    &["fcfs", "lpm", "lof", "dfs-weight", "random", "hrrn", "shortest-prefill-first", "routing-key"];
/// When cached KV may be copied to the host.
const WRITE_POLICIES: &[&str] = &["write_through", "write_through_selective", "write_back"];
/// How requests may be shared out among ranks.
const LOAD_BALANCE_METHODS: &[&str] = &["auto", "round_robin", "total_requests", "total_tokens"];
/// The stages that a worker may have.
const DISAGGREGATION_MODES: &[&str] = &["null", "prefill", "decode"];
/// Where KV may go that loses its memory.
const RETRACTION_BACKUPS: &[&str] = &["cpu_tensor", "host_pool", "none"];
/// Who may propose tokens.
const SPECULATIVE_ALGORITHMS: &[&str] = &["EAGLE", "EAGLE3", "STANDALONE", "NGRAM"];
/// Who may go back to the queue first.
const RETRACTION_POLICIES: &[&str] = &["length", "priority"];

/// Engines that a setting is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engines {
    /// All of them.
    Any,
    /// Those with vLLM's scheduler: vLLM and TensorRT-LLM.
    Vllm,
    /// SGLang alone.
    Sglang,
}

impl Engines {
    /// Whether `engine` is one of them.
    pub fn include(self, engine: EngineType) -> bool {
        match self {
            Self::Any => true,
            Self::Vllm => engine != EngineType::Sglang,
            Self::Sglang => engine == EngineType::Sglang,
        }
    }
}

/// A setting of the engine that was given by a key of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortcut {
    /// The key.
    pub key: String,
    /// The setting; one of SGLang is `sglang.NAME`.
    pub path: String,
    /// The value of the setting.
    pub value: Value,
    /// Engines that have the setting.
    pub engines: Engines,
}

/// Settings that only vLLM's scheduler has.
const OF_VLLM: [&str; 17] = [
    "pipeline_parallel_size",
    "cudagraph_capture_sizes",
    "max_cudagraph_capture_size",
    "max_num_batched_tokens",
    "enable_chunked_prefill",
    "async_scheduling",
    "prefix_cache_retention_interval",
    "disable_hybrid_kv_cache_manager",
    "enable_lora",
    "max_loras",
    "max_cpu_loras",
    "lora_load_ms",
    "lora_fetch_ms",
    "grammar_compile_ms",
    "kv_offloading_size",
    "kv_offloading_backend",
    "kv_offloading",
];

fn retention(text: &str) -> Result<RetentionInterval, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected a whole number of tokens or `dense`".to_owned())
}

/// The setting that a key for all engines stands for, by its path: that of its own name, or of the host.
fn general_path(key: &str) -> String {
    match key {
        "engine" => "engine_type".to_owned(),
        "kv_offloading_backend" => "kv_offloading.backend".to_owned(),
        key if Host::KEYS.contains(&key) => format!("host.{key}"),
        key => key.to_owned(),
    }
}

/// Those of the keys of `shortcuts` that have values.
fn given(shortcuts: &impl Serialize) -> Vec<(String, Value)> {
    let Ok(Value::Object(keys)) = serde_json::to_value(shortcuts) else {
        unreachable!("settings are plain data");
    };
    let mut given: Vec<_> = keys.into_iter().filter(|(_, value)| !value.is_null()).collect();
    // The order of keys must not depend on the features of serde_json that other crates switch on.
    given.sort_by(|(one, _), (other, _)| one.cmp(other));
    given
}

impl EngineShortcuts {
    /// Those that were given; a preset is no setting.
    pub fn given(&self) -> Vec<Shortcut> {
        let given = given(self).into_iter().filter(|(key, _)| key != "engine_preset");
        given
            .map(|(key, value)| {
                let engines = if OF_VLLM.contains(&key.as_str()) { Engines::Vllm } else { Engines::Any };
                Shortcut { path: general_path(&key), key, value, engines }
            })
            .collect()
    }
}

impl SglangShortcuts {
    /// Those that were given.
    pub fn given(&self) -> Vec<Shortcut> {
        let given = given(self).into_iter();
        given
            .map(|(key, value)| Shortcut {
                path: format!("sglang.{key}"),
                key,
                value,
                engines: Engines::Sglang,
            })
            .collect()
    }
}

/// What an engine takes for keys that are not given, as far as that is a value.
pub(super) fn default_settings() -> Map<String, Value> {
    let (all, sglang) = (json!(EngineArgs::default()), json!(SglangArgs::default()));
    let general = keys_of::<EngineShortcuts>().into_iter().map(|key| {
        let default = all.get(general_path(&key)).cloned();
        (key, default)
    });
    let own = keys_of::<SglangShortcuts>().into_iter().map(|key| {
        let default = sglang.get(&key).cloned();
        (key, default)
    });
    let given =
        |(key, default): (String, Option<Value>)| Some((key, default.filter(|value| !value.is_null())?));
    general.chain(own).filter_map(given).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shortcut_is_a_setting_of_the_engine() {
        let all = |keys: &Map<String, Value>| -> Map<String, Value> {
            let value = |key: &str| match key {
                "engine" => json!("sglang"),
                "engine_preset" | "latency" | "model" | "gpu" | "dtype" | "kv_cache_dtype"
                | "engine_version" => {
                    json!("x")
                }
                "attention_backend" => json!("flashinfer"),
                "host" => json!({"gap_us": 1}),
                "speculative_config" => json!({"method": "ngram"}),
                "kv_offloading" => json!({"connector": "simple"}),
                "kv_transfer_sharing" => json!("shared"),
                "schedule_policy" => json!("lpm"),
                "retraction_policy" => json!("length"),
                "hicache_write_policy" => json!("write_back"),
                "load_balance_method" => json!("total_tokens"),
                "disaggregation_mode" => json!("null"),
                "disaggregation_decode_retraction_backup" => json!("none"),
                "kv_offloading_backend" => json!("native"),
                "speculative_algorithm" => json!("EAGLE"),
                "cudagraph_capture_sizes" | "cuda_graph_bs" => json!([1]),
                key if ["enable", "disable", "enforce"].iter().any(|verb| key.starts_with(verb))
                    || key.contains("_enable_") =>
                {
                    json!(true)
                }
                "async_scheduling" | "schedule_low_priority_values_first" => json!(true),
                _ => json!(1),
            };
            keys.keys().map(|key| (key.clone(), value(key))).collect()
        };
        let keys = |settings: Value| settings.as_object().cloned().unwrap();
        let general = all(&keys(json!(EngineShortcuts::default())));
        let sglang = all(&keys(json!(SglangShortcuts::default())));
        let given: EngineShortcuts = serde_json::from_value(general.clone().into()).unwrap();
        let given = given.given();
        assert_eq!(given.len(), general.len() - 1, "all but the preset");
        let known = EngineArgs::keys();
        let of_host = EngineArgs::section_keys("host");
        assert!(given.iter().all(|shortcut| match shortcut.path.strip_prefix("host.") {
            Some(path) => path == shortcut.key && of_host.iter().any(|key| key == path),
            None => known.contains(&shortcut.path) || shortcut.path == "kv_offloading.backend",
        }));
        let given: SglangShortcuts = serde_json::from_value(sglang.clone().into()).unwrap();
        let given = given.given();
        assert_eq!(given.len(), sglang.len());
        let known = EngineArgs::section_keys("sglang");
        for Shortcut { key, path, .. } in given {
            assert_eq!(path, format!("sglang.{key}"));
            assert!(known.contains(&key), "{key}");
        }
    }
}
