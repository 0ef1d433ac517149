//! The settings of an engine as users write them: one schema for command line, TOML, JSON and Python.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ConfigError;
use crate::error::{check_key, json_kind, rephrase};
use crate::sglang::SglangArgs;

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
    /// Order of the waiting queue, and whom a preemption hits.
    #[serde(alias = "policy")]
    pub scheduling_policy: SchedulingPolicy,
    /// Whom a preemption hits under the `fcfs` policy.
    pub preemption_mode: PreemptionMode,
    /// vLLM's role in KV transfer: with one, transfers are noticed when the real connector would notice them.
    pub kv_role: Option<KvRole>,
    /// What the worker is for; inferred from its pool when absent.
    pub worker_type: Option<WorkerType>,
    /// Old form of `worker_type: prefill`.
    pub is_prefill: Option<bool>,
    /// Old form of `worker_type: decode`.
    pub is_decode: Option<bool>,
    /// How long an iteration takes: `polynomial`, `linear:BASE_US,PER_TOKEN_US,PER_SEQ_US` or `grid:FILE.npz`.
    pub latency: Option<String>,
    /// Measured iteration times, an `.npz` file: old form of `latency: "grid:FILE"`.
    pub planner_profile_data: Option<String>,
    /// Divides all iteration times.
    pub speedup_ratio: f64,
    /// Divides decode times further.
    pub decode_speedup_ratio: f64,
    /// Bytes of KV cache a token, over all layers.
    #[serde(alias = "kv_transfer_bytes_per_token")]
    pub kv_bytes_per_token: Option<u64>,
    /// Bandwidth of the hand-off from prefill to decode, in 10⁹ bytes a second; absent or 0 for no delay.
    pub kv_transfer_bandwidth: Option<f64>,
    /// Whether a hand-off moves the whole prompt or only what the decode worker lacks.
    pub kv_transfer_timing_mode: KvTransferTimingMode,
    /// Data-parallel ranks of a worker; only 1 so far.
    pub dp_size: u32,
    /// Draft tokens an iteration; only 0 so far.
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
            block_size: 0,
            reserve_null_block: true,
            max_num_seqs: Some(256),
            max_num_batched_tokens: Some(8_192),
            max_model_len: None,
            enable_prefix_caching: true,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
            long_prefill_token_threshold_adaptive: false,
            scheduler_reserve_full_isl: true,
            watermark: 0.0,
            prefill_schedule_interval: 1,
            async_scheduling: false,
            scheduling_policy: SchedulingPolicy::Fcfs,
            preemption_mode: PreemptionMode::Lifo,
            kv_role: None,
            worker_type: None,
            is_prefill: None,
            is_decode: None,
            latency: None,
            planner_profile_data: None,
            speedup_ratio: 1.0,
            decode_speedup_ratio: 1.0,
            kv_bytes_per_token: None,
            kv_transfer_bandwidth: None,
            kv_transfer_timing_mode: KvTransferTimingMode::FullPrompt,
            dp_size: 1,
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

/// Other names of settings, each with the one that it stands for.
const ALIASES: [(&str, &str); 2] =
    [("policy", "scheduling_policy"), ("kv_transfer_bytes_per_token", "kv_bytes_per_token")];

/// Other names of settings of one engine, each with its section and the name that it stands for.
const SECTION_ALIASES: [(&str, &str, &str); 1] = [("sglang", "context_len", "context_length")];

/// The name of a setting that may be given by another one.
pub(crate) fn canonical_key(key: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name)
}

impl EngineArgs {
    /// Reads settings from a JSON object; unknown keys and values of the wrong type are errors.
    pub fn from_json(value: Value) -> Result<Self, ConfigError> {
        let Value::Object(settings) = value else {
            return Err(ConfigError::NoObject { found: json_kind(&value) });
        };
        let known = Self::keys();
        for (key, value) in &settings {
            check_key(key, &known)?;
            check_section(key, value)?;
            let name = canonical_key(key);
            if name != key && settings.contains_key(name) {
                return Err(ConfigError::Conflict(format!(
                    "`{key}` is another name of `{name}`: give one of them"
                )));
            }
        }
        Self::deserialize_settings(&settings).map_err(|(key, message)| {
            let found = at_path(&settings, &key).map_or_else(|| "absent".to_owned(), ToString::to_string);
            let unnamed = message.contains("expected string or map");
            let listing = unnamed.then(|| Self::message_with_names(settings.clone(), &key)).flatten();
            let message = listing.unwrap_or(message);
            ConfigError::WrongValue { key, found, problem: rephrase(&message) }
        })
    }

    /// All keys that [`EngineArgs::from_json`] knows, aliases included.
    pub fn keys() -> Vec<String> {
        let Ok(Value::Object(defaults)) = serde_json::to_value(Self::default()) else {
            unreachable!("settings are written as an object");
        };
        let names = defaults.into_iter().map(|(name, _)| name);
        names.chain(ALIASES.map(|(alias, _)| alias.to_owned())).collect()
    }

    /// The key of the first bad value, and what `serde` has to say of it.
    fn deserialize_settings(settings: &Map<String, Value>) -> Result<Self, (String, String)> {
        serde_path_to_error::deserialize(settings)
            .map_err(|error| (error.path().to_string(), error.into_inner().to_string()))
    }

    /// The keys within a setting that is an object of settings of one engine, aliases included; none for others.
    pub fn section_keys(key: &str) -> Vec<String> {
        let section = match key {
            "sglang" => serde_json::to_value(SglangArgs::default()),
            "trtllm" => serde_json::to_value(TrtllmArgs::default()),
            _ => return Vec::new(),
        };
        let Ok(Value::Object(section)) = section else { unreachable!("settings are written as an object") };
        let aliases = SECTION_ALIASES.iter().filter(|(section, ..)| *section == key);
        section
            .into_iter()
            .map(|(name, _)| name)
            .chain(aliases.map(|(_, alias, _)| (*alias).to_owned()))
            .collect()
    }

    /// The message for a setting with named values that is not even a string: it lists the names.
    fn message_with_names(mut settings: Map<String, Value>, key: &str) -> Option<String> {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let object = match section {
            "" => &mut settings,
            section => settings.get_mut(section)?.as_object_mut()?,
        };
        object.insert(name.to_owned(), "no such name".into());
        Self::deserialize_settings(&settings).err().map(|(_, message)| message)
    }
}

/// Refuses unknown keys within an object of settings of one engine.
fn check_section(section: &str, settings: &Value) -> Result<(), ConfigError> {
    let known = EngineArgs::section_keys(section);
    let Some(settings) = settings.as_object().filter(|_| !known.is_empty()) else { return Ok(()) };
    for key in settings.keys() {
        check_key(key, &known).map_err(|error| error.within(section))?;
        let name = SECTION_ALIASES.iter().find(|(of, alias, _)| *of == section && alias == key);
        if let Some((.., name)) = name.filter(|(.., name)| settings.contains_key(*name)) {
            return Err(ConfigError::Conflict(format!(
                "`{section}.{key}` is another name of `{section}.{name}`: give one of them"
            )));
        }
    }
    Ok(())
}

/// The value at a path of keys with dots between them.
fn at_path<'a>(settings: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => settings.get(path),
        Some((section, rest)) => at_path(settings.get(section)?.as_object()?, rest),
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
    /// TensorRT-LLM, with the capacity policy `GUARANTEED_NO_EVICT`.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrtllmArgs {
    /// When a request is admitted.
    pub capacity_scheduler_policy: CapacitySchedulerPolicy,
}

impl Default for TrtllmArgs {
    fn default() -> Self {
        Self { capacity_scheduler_policy: CapacitySchedulerPolicy::GuaranteedNoEvict }
    }
}

/// When TensorRT-LLM admits a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CapacitySchedulerPolicy {
    /// When it fits to completion, so that it is never evicted.
    GuaranteedNoEvict,
    /// When it fits now; not built.
    MaxUtilization,
    /// When the batch before is done; not built.
    StaticBatch,
}

/// Releases of vLLM that schedule differently.
///
/// | since | what changed |
/// |---|---|
/// | 0.19 | a request is admitted only when blocks for all its known tokens are free |
/// | 0.24 | freed blocks without content are reused first |
/// | 0.32 | a request that is alone may exceed `long_prefill_token_threshold`; under `kv_consumer` with asynchronous scheduling a request waits for blocks that are about to be freed instead of preempting |
/// | 0.33 | under the `priority` policy the scan goes on after a request has preempted itself |
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

/// What a worker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkerType {
    /// Prompt and output.
    Aggregated,
    /// Prompts.
    Prefill,
    /// Output.
    Decode,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(settings: Value, message: &str) {
        assert_eq!(EngineArgs::from_json(settings).unwrap_err().to_string(), message);
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        refused(json!([1]), r#"expected a JSON object such as {"block_size": 64}, found an array"#);
        refused(json!(null), r#"expected a JSON object such as {"block_size": 64}, found null"#);
        refused(json!({"blok_size": 16}), "unknown key `blok_size`, did you mean `block_size`?");
        refused(json!({"tensor_parallel": 2}), "unknown key `tensor_parallel`");
    }

    #[test]
    fn a_bad_value_is_named_with_what_would_be_right() {
        let whole = "expected a whole number from 0 to 4294967295";
        refused(json!({"block_size": "16"}), &format!("`block_size` is \"16\": {whole}"));
        refused(json!({"num_gpu_blocks": -1}), &format!("`num_gpu_blocks` is -1: {whole}"));
        refused(json!({"max_num_seqs": 1.5}), &format!("`max_num_seqs` is 1.5: {whole}"));
        refused(json!({"block_size": null}), &format!("`block_size` is null: {whole}"));
        refused(
            json!({"bootstrap_port": 70000}),
            "`bootstrap_port` is 70000: expected a whole number from 0 to 65535",
        );
        let whole = "expected a whole number from 0 to 18446744073709551615";
        refused(
            json!({"kv_transfer_bytes_per_token": -8}),
            &format!("`kv_transfer_bytes_per_token` is -8: {whole}"),
        );
        refused(json!({"watermark": "low"}), "`watermark` is \"low\": expected a number");
        refused(json!({"async_scheduling": 1}), "`async_scheduling` is 1: expected true or false");
        refused(json!({"latency": 3}), "`latency` is 3: expected a string");
        refused(json!({"reasoning": []}), "`reasoning` is []: expected an object");
    }

    #[test]
    fn settings_of_one_engine_are_named_by_their_paths() {
        refused(
            json!({"sglang": {"pag_size": 1}}),
            "unknown key `sglang.pag_size`, did you mean `sglang.page_size`?",
        );
        refused(json!({"trtllm": {"policy": 1}}), "unknown key `trtllm.policy`");
        refused(
            json!({"sglang": {"page_size": "a"}}),
            "`sglang.page_size` is \"a\": expected a whole number from 0 to 4294967295",
        );
        let policies = "expected one of `fcfs`, `fifo`, `lpm`, `lof`, `dfs-weight`, `random`";
        refused(
            json!({"sglang": {"schedule_policy": "x"}}),
            &format!("`sglang.schedule_policy` is \"x\": {policies}"),
        );
        refused(
            json!({"sglang": {"schedule_policy": 3}}),
            &format!("`sglang.schedule_policy` is 3: {policies}"),
        );
        refused(json!({"sglang": 5}), "`sglang` is 5: expected an object");
        refused(
            json!({"sglang": {"context_len": 1, "context_length": 1}}),
            "`sglang.context_len` is another name of `sglang.context_length`: give one of them",
        );
    }

    #[test]
    fn named_values_are_listed() {
        refused(json!({"policy": "lifo"}), "`policy` is \"lifo\": expected `fcfs` or `priority`");
        refused(
            json!({"kv_role": "kv_both"}),
            "`kv_role` is \"kv_both\": expected `kv_producer` or `kv_consumer`",
        );
        let versions = "expected one of `0.14`, `0.19`, `0.24`, `0.28`, `0.32`, `0.33`";
        refused(json!({"vllm_version": "0.30"}), &format!("`vllm_version` is \"0.30\": {versions}"));
        refused(json!({"vllm_version": 0.33}), &format!("`vllm_version` is 0.33: {versions}"));
        refused(
            json!({"engine_type": null}),
            "`engine_type` is null: expected one of `vllm`, `sglang`, `trtllm`",
        );
    }

    #[test]
    fn another_name_stands_for_a_setting_but_not_beside_it() {
        let args =
            EngineArgs::from_json(json!({"policy": "priority", "kv_transfer_bytes_per_token": 8})).unwrap();
        assert_eq!((args.scheduling_policy, args.kv_bytes_per_token), (SchedulingPolicy::Priority, Some(8)));
        refused(
            json!({"policy": "fcfs", "scheduling_policy": "fcfs"}),
            "`policy` is another name of `scheduling_policy`: give one of them",
        );
        refused(
            json!({"kv_bytes_per_token": 8, "kv_transfer_bytes_per_token": 8}),
            "`kv_transfer_bytes_per_token` is another name of `kv_bytes_per_token`: give one of them",
        );
    }

    #[test]
    fn null_lifts_a_limit_and_absence_is_the_default() {
        let args = EngineArgs::from_json(json!({"max_num_seqs": null})).unwrap();
        assert_eq!(args, EngineArgs { max_num_seqs: None, ..EngineArgs::default() });
        assert_eq!(EngineArgs::from_json(json!({})).unwrap(), EngineArgs::default());
    }

    #[test]
    fn settings_survive_a_round_trip() {
        let args = EngineArgs { vllm_version: VllmVersion::V0_24, watermark: 0.01, ..EngineArgs::default() };
        assert_eq!(EngineArgs::from_json(serde_json::to_value(&args).unwrap()).unwrap(), args);
    }
}
