//! Settings that were checked: what can be built from [`EngineArgs`], and why others cannot.

use std::sync::Arc;

use servecast_latency::{Host, Latency, LatencyModel, MOST_HOST_US, Polynomial, Speedup};
use servecast_types::{Duration, Message, Role, message};

use crate::args::{
    CapacitySchedulerPolicy, EngineArgs, EngineType, KvRole, PreemptionMode, SchedulingPolicy, VllmVersion,
};
use crate::kv_groups::KvGroups;
use crate::latency_spec::LatencySpec;
use crate::lora::Lora;
use crate::offload_args::KvOffloading;
use crate::order::OwnOrder;
use crate::sglang::{self, SglangConfig};
use crate::speculation::{Drafter, Speculation};
use crate::trtllm::NoEvict;
use crate::{ConfigError, Rejection};

/// Most blocks that an engine may have: more than any machine holds, and few enough to number in memory.
pub const MAX_NUM_GPU_BLOCKS: u32 = 1 << 24;

/// Longest sequence that an engine handles, in tokens: far beyond any model, and sums of a few such lengths fit `u32`.
pub const MAX_SEQUENCE_TOKENS: u32 = i32::MAX as u32;

/// Most data-parallel ranks of a worker.
pub(crate) const MAX_DP_SIZE: u32 = 1024;

/// Most stages of a pipeline.
pub(crate) const MAX_STAGES: u32 = 1024;

/// How long an engine sleeps that found nothing to compute: vLLM 0.33 `EngineCoreProc`.
const IDLE_SLEEP_US: f64 = 1000.0;

/// Data-parallel ranks in lock step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataParallel {
    pub(crate) ranks: u32,
    /// Passes after which ranks find out together whether anybody has work left.
    pub(crate) sync_interval: u64,
    /// Whether they also do so after the first pass.
    pub(crate) synchronises_at_once: bool,
    /// How long the pass of a rank without work takes; absent: as long as that of one token.
    pub(crate) dummy: Option<Duration>,
    /// How much later than the rank that wakes them the others begin.
    pub(crate) wave_delay: Duration,
}

/// Stages of a pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PipelineParallel {
    pub(crate) stages: u32,
    /// How long an engine sleeps that found nothing to compute while it has requests.
    pub(crate) idle_sleep: Duration,
}

/// Checked settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub(crate) vllm_version: VllmVersion,
    pub(crate) num_gpu_blocks: u32,
    pub(crate) block_size: u32,
    pub(crate) reserve_null_block: bool,
    pub(crate) max_num_seqs: u32,
    pub(crate) max_num_batched_tokens: u32,
    pub(crate) max_model_len: u32,
    pub(crate) enable_prefix_caching: bool,
    pub(crate) enable_chunked_prefill: bool,
    pub(crate) long_prefill_token_threshold: u32,
    pub(crate) long_prefill_token_threshold_adaptive: bool,
    pub(crate) scheduler_reserve_full_isl: bool,
    pub(crate) watermark_blocks: u32,
    pub(crate) prefill_schedule_interval: u32,
    pub(crate) async_scheduling: bool,
    pub(crate) scheduling_policy: SchedulingPolicy,
    pub(crate) preemption_mode: PreemptionMode,
    pub(crate) kv_role: Option<KvRole>,
    /// LoRA adapters, if requests may have any.
    pub(crate) lora: Option<Lora>,
    /// How long a grammar of structured output is compiled.
    pub(crate) grammar_compile: Duration,
    pub(crate) dp: DataParallel,
    pub(crate) pipeline: PipelineParallel,
    /// Groups of layers, if there are others than one that keeps everything.
    pub(crate) kv_groups: Option<Arc<KvGroups>>,
    /// TensorRT-LLM's rules instead of vLLM's, with this policy.
    pub(crate) trtllm: Option<CapacitySchedulerPolicy>,
    /// What requests are promised when they are admitted, so that nobody is preempted.
    pub(crate) no_evict: Option<NoEvict>,
    /// Speculative decoding of vLLM.
    pub(crate) speculation: Option<Arc<Speculation>>,
    /// Its drafter, if that takes time.
    pub(crate) drafter: Option<Drafter>,
    /// KV offload of vLLM.
    pub(crate) offload: Option<KvOffloading>,
    /// SGLang's own settings, if it is the engine.
    pub(crate) sglang: Option<SglangConfig>,
    pub(crate) latency: Latency,
    /// What the host takes besides passes.
    pub(crate) host: Host,
    /// The order of the waiting queue that a program brought along.
    pub(crate) order: Option<OwnOrder>,
    worker_type: Option<Role>,
}

impl EngineArgs {
    /// Checks the settings; `measured` is the model in the files that [`EngineArgs::latency_spec`] names, if it does.
    pub fn validate(&self, measured: Option<Arc<dyn LatencyModel>>) -> Result<EngineConfig, ConfigError> {
        self.refuse_what_is_not_built()?;
        self.check_ranges()?;
        self.check_graphs()?;
        let worker_type = self.resolved_worker_type()?;
        let speedup = Speedup::new(self.speedup_ratio, self.decode_speedup_ratio)?;
        let spec = self.latency_spec()?;
        let latency = match (spec, measured) {
            (LatencySpec::Linear(linear), _) => Latency::new(linear, speedup),
            (LatencySpec::Polynomial, _) => Latency::new(Polynomial, speedup),
            (_, Some(measured)) => Latency::shared(measured, speedup),
            (spec, None) => {
                let found = format!("`{}`", spec.source().unwrap_or_default());
                return Err(ConfigError::wrong("latency", found, "the file was not read"));
            }
        };
        if self.dp_size > 1 && ![1, self.dp_size].contains(&latency.ranks()) {
            return Err(ConfigError::Conflict(message!(
                "{dp_size} is {}, but {latency} spreads a pass over {} ranks",
                self.dp_size,
                latency.ranks()
            )));
        }
        let speculation = self.speculation()?;
        let host = self.host.unwrap_or_default().over(latency.host())?;
        let kv_groups = self.resolved_kv_groups(speculation.as_ref())?;
        let mut config = EngineConfig {
            vllm_version: self.vllm_version,
            num_gpu_blocks: self.num_gpu_blocks,
            block_size: self.resolved_block_size(),
            // The null block is vLLM's.
            reserve_null_block: self.reserve_null_block && self.engine_type == EngineType::Vllm,
            max_num_seqs: self.max_num_seqs.unwrap_or(u32::MAX),
            max_num_batched_tokens: self.max_num_batched_tokens.unwrap_or(u32::MAX),
            max_model_len: self.max_model_len.unwrap_or(MAX_SEQUENCE_TOKENS),
            enable_prefix_caching: self.enable_prefix_caching,
            enable_chunked_prefill: self.enable_chunked_prefill,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive: self.long_prefill_token_threshold_adaptive,
            scheduler_reserve_full_isl: self.scheduler_reserve_full_isl
                && self.vllm_version >= VllmVersion::V0_19,
            watermark_blocks: (self.watermark * f64::from(self.num_gpu_blocks)) as u32,
            prefill_schedule_interval: self.prefill_schedule_interval,
            async_scheduling: self.async_scheduling,
            scheduling_policy: self.scheduling_policy,
            preemption_mode: self.preemption_mode,
            kv_role: self.kv_role,
            lora: self.lora()?,
            grammar_compile: self.grammar_compile()?,
            dp: self.data_parallel(speedup)?,
            pipeline: self.pipeline_parallel()?,
            offload: self.offloading(kv_groups.as_ref())?,
            kv_groups: kv_groups.map(Arc::new),
            trtllm: self.capacity_policy(),
            no_evict: self
                .capacity_policy()
                .and_then(|policy| NoEvict::of(policy, self.resolved_block_size())),
            speculation: speculation.map(Arc::new),
            drafter: self.drafter(speedup)?,
            sglang: None,
            latency,
            host,
            order: None,
            worker_type,
        };
        if self.engine_type == EngineType::Sglang {
            sglang::settle(self, &mut config)?;
        }
        Ok(config)
    }

    fn data_parallel(&self, speedup: Speedup) -> Result<DataParallel, ConfigError> {
        let of_lockstep = [
            ("dp_sync_interval", self.dp_sync_interval.is_some()),
            ("dp_dummy_us", self.dp_dummy_us.is_some()),
            ("dp_wave_delay_us", self.dp_wave_delay_us.is_some()),
        ];
        if let Some((key, _)) = of_lockstep.into_iter().find(|(_, given)| *given && self.dp_size == 1) {
            let key = Message::key(key);
            return Err(ConfigError::Conflict(message!("{} is for several ranks, but {dp_size} is 1", key)));
        }
        let dummy = self.dp_dummy_us.map(|dummy| microseconds("dp_dummy_us", dummy)).transpose()?;
        // vLLM 0.28 synchronises every 32 passes, and not after the first.
        let is_old = self.vllm_version <= VllmVersion::V0_28;
        Ok(DataParallel {
            ranks: self.dp_size,
            sync_interval: self.dp_sync_interval.unwrap_or(if is_old { 32 } else { 16 }).into(),
            synchronises_at_once: !is_old,
            dummy: dummy.map(|dummy| speedup.of_decode(dummy)).transpose()?,
            wave_delay: microseconds("dp_wave_delay_us", self.dp_wave_delay_us.unwrap_or(0.0))?,
        })
    }

    fn pipeline_parallel(&self) -> Result<PipelineParallel, ConfigError> {
        let stages = self.pipeline_parallel_size;
        if self.pipeline_idle_sleep_us.is_some() && stages == 1 {
            return Err(ConfigError::Conflict(message!(
                "{pipeline_idle_sleep_us} is for pipelines, but {pipeline_parallel_size} is 1"
            )));
        }
        let excluded = [("dp_size", self.dp_size > 1), ("kv_role", self.kv_role.is_some())];
        if let Some((key, _)) = excluded.into_iter().find(|(_, given)| *given && stages > 1) {
            return Err(ConfigError::Conflict(message!(
                "{} does not go together with {pipeline_parallel_size}, which is {}: it is not known what the engine does then",
                Message::key(key),
                stages
            )));
        }
        let sleep = self.pipeline_idle_sleep_us.unwrap_or(IDLE_SLEEP_US);
        Ok(PipelineParallel { stages, idle_sleep: microseconds("pipeline_idle_sleep_us", sleep)? })
    }

    /// Tokens a KV block, 0 standing for the default of the engine.
    pub fn resolved_block_size(&self) -> u32 {
        match (self.block_size, self.engine_type) {
            (0, EngineType::Trtllm) => 32,
            (0, EngineType::Vllm) => 64,
            (0, EngineType::Sglang) => 1,
            (given, _) => given,
        }
    }

    /// When TensorRT-LLM admits requests, if it is the engine.
    fn capacity_policy(&self) -> Option<CapacitySchedulerPolicy> {
        let policy = self
            .trtllm
            .as_ref()
            .map_or(CapacitySchedulerPolicy::GuaranteedNoEvict, |own| own.capacity_scheduler_policy);
        (self.engine_type == EngineType::Trtllm).then_some(policy)
    }

    fn resolved_worker_type(&self) -> Result<Option<Role>, ConfigError> {
        match (self.worker_type, self.is_prefill, self.is_decode) {
            (None, Some(true), Some(true)) => {
                Err(ConfigError::Conflict(message!("{is_prefill} and {is_decode} cannot both be true")))
            }
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(ConfigError::Conflict(message!(
                "{worker_type} cannot be combined with {is_prefill} or {is_decode}: leave those out"
            ))),
            (Some(given), None, None) => Ok(Some(given)),
            (None, Some(true), _) => Ok(Some(Role::Prefill)),
            (None, _, Some(true)) => Ok(Some(Role::Decode)),
            (None, _, _) => Ok(None),
        }
    }

    /// Refuses the settings of another engine.
    fn check_engine_sections(&self) -> Result<(), ConfigError> {
        let name = self.engine_type.name();
        let conflict = |section, engine| {
            let section = Message::key(section);
            Err(ConfigError::Conflict(message!(
                "{} holds settings of {}, but {engine_type} is `{}`",
                section,
                engine,
                name
            )))
        };
        if self.sglang.is_some() && self.engine_type != EngineType::Sglang {
            return conflict("sglang", "SGLang");
        }
        let trtllm = self.engine_type == EngineType::Trtllm;
        match &self.trtllm {
            Some(_) if !trtllm => conflict("trtllm", "TensorRT-LLM"),
            _ if trtllm && self.kv_role.is_some() => conflict("kv_role", "vLLM"),
            _ => Ok(()),
        }
    }

    fn refuse_what_is_not_built(&self) -> Result<(), ConfigError> {
        let unsupported = |key, found: String, instead| Err(ConfigError::Unsupported { key, found, instead });
        self.check_engine_sections()?;
        if self.dp_size > 1 && self.engine_type == EngineType::Trtllm {
            return unsupported("dp_size", self.dp_size.to_string(), "use more workers with `dp_size` 1");
        }
        if self.pipeline_parallel_size > 1 && self.engine_type != EngineType::Vllm {
            let found = self.pipeline_parallel_size.to_string();
            return unsupported("pipeline_parallel_size", found, "use tensor parallelism, or vLLM");
        }
        let is_vllm = self.engine_type == EngineType::Vllm;
        if self.dp_size > 1 && is_vllm && self.speculative_config.is_some() {
            return Err(ConfigError::Conflict(message!(
                "{speculative_config} does not go together with {dp_size} yet, which is {}",
                self.dp_size
            )));
        }
        if self.num_speculative_tokens > 0 {
            return unsupported(
                "num_speculative_tokens",
                self.num_speculative_tokens.to_string(),
                "describe speculation by `speculative_config`",
            );
        }
        let aic = [
            ("aic_backend", self.aic_backend.is_some()),
            ("aic_system", self.aic_system.is_some()),
            ("aic_backend_version", self.aic_backend_version.is_some()),
            ("aic_model_path", self.aic_model_path.is_some()),
            ("aic_tp_size", self.aic_tp_size.is_some()),
            ("aic_moe_tp_size", self.aic_moe_tp_size.is_some()),
            ("aic_moe_ep_size", self.aic_moe_ep_size.is_some()),
            ("aic_attention_dp_size", self.aic_attention_dp_size.is_some()),
        ];
        match aic.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => unsupported(key, "given".into(), "use `latency` to choose a latency model"),
            None => Ok(()),
        }
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_NUM_GPU_BLOCKS).contains(&self.num_gpu_blocks) {
            let problem = format!("expected 1 to {MAX_NUM_GPU_BLOCKS} blocks");
            return Err(ConfigError::wrong("num_gpu_blocks", self.num_gpu_blocks, problem));
        }
        if !(self.gpu_memory_utilization > 0.0 && self.gpu_memory_utilization <= 1.0) {
            return Err(ConfigError::wrong(
                "gpu_memory_utilization",
                self.gpu_memory_utilization,
                "expected a share above 0 and at most 1",
            ));
        }
        if self.block_size == 1 && self.engine_type != EngineType::Sglang {
            return Err(ConfigError::wrong(
                "block_size",
                1,
                "a vLLM block holds at least 2 tokens (vLLM offers 8, 16, 32, 64, 128)",
            ));
        }
        let at_least_one = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_loras", self.max_loras),
            ("max_cpu_loras", self.max_cpu_loras),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("dp_size", Some(self.dp_size)),
            ("pipeline_parallel_size", Some(self.pipeline_parallel_size)),
            ("dp_sync_interval", self.dp_sync_interval),
            ("prefill_schedule_interval", Some(self.prefill_schedule_interval)),
        ];
        if let Some((key, _)) = at_least_one.into_iter().find(|(_, value)| *value == Some(0)) {
            return Err(ConfigError::wrong(key, 0, "expected at least 1"));
        }
        if self.dp_size > MAX_DP_SIZE {
            let problem = format!("expected at most {MAX_DP_SIZE} ranks");
            return Err(ConfigError::wrong("dp_size", self.dp_size, problem));
        }
        if self.pipeline_parallel_size > MAX_STAGES {
            let problem = format!("expected at most {MAX_STAGES} stages");
            return Err(ConfigError::wrong("pipeline_parallel_size", self.pipeline_parallel_size, problem));
        }
        if let Some(tokens) = self.max_model_len.filter(|&tokens| tokens > MAX_SEQUENCE_TOKENS) {
            let problem = format!("expected at most {MAX_SEQUENCE_TOKENS} tokens");
            return Err(ConfigError::wrong("max_model_len", tokens, problem));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(ConfigError::wrong(
                "watermark",
                self.watermark,
                "expected a share from 0 to below 1",
            ));
        }
        for (key, value) in
            [("kv_transfer_bandwidth", self.kv_transfer_bandwidth), ("startup_time", self.startup_time)]
        {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                return Err(ConfigError::wrong(key, value, "expected a finite number of at least 0"));
            }
        }
        Ok(())
    }
}

/// A time in microseconds, as the setting `key` has it.
pub(crate) fn microseconds(key: &str, us: f64) -> Result<Duration, ConfigError> {
    let problem = format!("expected microseconds from 0 to {MOST_HOST_US:e}");
    let duration = Duration::from_ms(us / 1000.0).ok().filter(|_| Host::is_time(us));
    duration.ok_or_else(|| ConfigError::wrong(key, us, problem))
}

impl EngineConfig {
    /// Whether requests may ask for a LoRA adapter.
    pub fn takes_loras(&self) -> bool {
        self.lora.is_some()
    }

    /// Whether a worker that idles may go on without anything that comes to it: when a copy to or from the memory of its host
    /// ends, or a grammar is compiled.
    pub fn wakes_by_itself(&self) -> bool {
        self.offloads_kv() || self.grammar_compile > Duration::ZERO
    }

    /// Data-parallel ranks of a worker, each with the KV blocks that the settings say.
    pub fn num_ranks(&self) -> u32 {
        self.dp.ranks
    }

    /// Stages of the pipeline over which the layers of the model are spread; 1 without one.
    pub fn num_stages(&self) -> u32 {
        self.pipeline.stages
    }

    /// What the host takes besides passes: that of the latency model, where no setting says otherwise.
    pub fn host(&self) -> Host {
        self.host
    }

    /// Tokens a KV block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Tokens behind a KV block that its identity covers, as its events have it: some of vLLM's drafters read so far ahead.
    pub fn hash_lookahead(&self) -> u32 {
        self.speculation.as_ref().map_or(0, |speculation| speculation.hash_lookahead)
    }

    /// Most tokens that one iteration computes, if there is a limit.
    pub fn max_num_batched_tokens(&self) -> Option<u32> {
        Some(self.max_num_batched_tokens).filter(|&tokens| tokens != u32::MAX)
    }

    /// Most requests that run at a time, if there is a limit.
    pub fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_num_seqs).filter(|&requests| requests != u32::MAX)
    }

    /// Blocks that requests can have.
    pub fn usable_blocks(&self) -> u32 {
        self.num_gpu_blocks - u32::from(self.reserve_null_block)
    }

    /// Whether a prompt of this length, which cannot be served, is refused only after a token of it was computed for form's
    /// sake, as by SGLang: the engine takes it and [gives it up](crate::Iteration::rejected) then.
    pub fn leaves_stub(&self, prompt_tokens: u32) -> bool {
        self.sglang.is_some() && sglang::leaves_stub(self, prompt_tokens)
    }

    /// Whether a prompt of this length can ever be served.
    pub fn check_request(&self, prompt_tokens: u32) -> Result<(), Rejection> {
        if self.sglang.is_some() {
            return sglang::check_request(self, prompt_tokens);
        }
        if prompt_tokens >= self.max_model_len {
            return Err(Rejection::MaxModelLen { tokens: prompt_tokens, max_model_len: self.max_model_len });
        }
        // Under TensorRT-LLM's rule the whole sequence has to fit, at least one token of output included.
        // A drafter needs KV slots behind it.
        let lookahead = self.speculation.as_ref().map_or(0, |speculation| speculation.lookahead);
        let least = prompt_tokens + u32::from(self.trtllm.is_some());
        let least = (least + lookahead).min(self.max_model_len);
        let capacity = self.capacity_of(self.usable_blocks());
        if u64::from(least) > capacity {
            return Err(Rejection::PromptTooLong { tokens: prompt_tokens, capacity });
        }
        if !self.enable_chunked_prefill && prompt_tokens > self.request_budget() {
            return Err(Rejection::Unchunkable { tokens: prompt_tokens, budget: self.request_budget() });
        }
        Ok(())
    }

    /// What the worker is for, if the settings say so.
    pub fn worker_type(&self) -> Option<Role> {
        self.worker_type
    }

    /// Most tokens of one request in an iteration, beside which its drafter may take slots of the batch.
    pub(crate) fn request_budget(&self) -> u32 {
        let slots = self.speculation.as_ref().map_or(0, |speculation| speculation.input_slots);
        self.max_num_batched_tokens.saturating_sub(slots)
    }

    /// Tokens that the KV cache holds.
    pub(crate) fn kv_capacity_tokens(&self) -> u64 {
        match &self.kv_groups {
            Some(groups) => groups.capacity_tokens,
            None => u64::from(self.num_gpu_blocks) * u64::from(self.block_size),
        }
    }

    /// Tokens of one request that so many blocks hold.
    fn capacity_of(&self, blocks: u32) -> u64 {
        match &self.kv_groups {
            Some(groups) => groups.capacity_of(blocks, self.max_model_len),
            None => u64::from(blocks) * u64::from(self.block_size),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn build(settings: Value) -> Result<EngineConfig, ConfigError> {
        EngineArgs::from_json(settings)?.validate(None)
    }

    #[track_caller]
    fn refused(settings: Value, message: &str) {
        assert_eq!(build(settings).unwrap_err().to_string(), message);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        refused(json!({"num_gpu_blocks": 0}), "`num_gpu_blocks` is 0: expected 1 to 16777216 blocks");
        refused(
            json!({"num_gpu_blocks": 16777217}),
            "`num_gpu_blocks` is 16777217: expected 1 to 16777216 blocks",
        );
        refused(
            json!({"block_size": 1}),
            "`block_size` is 1: a vLLM block holds at least 2 tokens (vLLM offers 8, 16, 32, 64, 128)",
        );
        refused(json!({"max_num_seqs": 0}), "`max_num_seqs` is 0: expected at least 1");
        refused(json!({"dp_size": 0}), "`dp_size` is 0: expected at least 1");
        refused(json!({"dp_size": 1025}), "`dp_size` is 1025: expected at most 1024 ranks");
        refused(json!({"dp_size": 2, "dp_sync_interval": 0}), "`dp_sync_interval` is 0: expected at least 1");
        let times = "expected microseconds from 0 to 3.6e9";
        for key in ["dp_dummy_us", "dp_wave_delay_us"] {
            refused(json!({"dp_size": 2, key: -1}), &format!("`{key}` is -1: {times}"));
        }
        refused(
            json!({"max_model_len": 1_u32 << 31}),
            "`max_model_len` is 2147483648: expected at most 2147483647 tokens",
        );
        refused(json!({"watermark": 1.0}), "`watermark` is 1: expected a share from 0 to below 1");
        let share = "expected a share above 0 and at most 1";
        for (given, shown) in [(json!(0), "0"), (json!(1.5), "1.5"), (json!(-0.5), "-0.5")] {
            refused(
                json!({"gpu_memory_utilization": given}),
                &format!("`gpu_memory_utilization` is {shown}: {share}"),
            );
        }
        refused(json!({"watermark": -1}), "`watermark` is -1: expected a share from 0 to below 1");
        let nan = EngineArgs { watermark: f64::NAN, ..EngineArgs::default() }.validate(None).unwrap_err();
        assert_eq!(nan.to_string(), "`watermark` is NaN: expected a share from 0 to below 1");
        refused(
            json!({"kv_transfer_bandwidth": -2.5}),
            "`kv_transfer_bandwidth` is -2.5: expected a finite number of at least 0",
        );
        let speedup = "must be a finite number above 0";
        refused(json!({"speedup_ratio": 0}), &format!("`speedup_ratio` is 0, but a speedup {speedup}"));
        refused(
            json!({"decode_speedup_ratio": -1}),
            &format!("`decode_speedup_ratio` is -1, but a speedup {speedup}"),
        );
    }

    #[test]
    fn what_is_not_built_is_refused_with_what_to_do_instead() {
        refused(
            json!({"trtllm": {}}),
            "`trtllm` holds settings of TensorRT-LLM, but `engine_type` is `vllm`",
        );
        refused(
            json!({"engine_type": "trtllm", "sglang": {}}),
            "`sglang` holds settings of SGLang, but `engine_type` is `trtllm`",
        );
        refused(
            json!({"engine_type": "trtllm", "kv_role": "kv_consumer"}),
            "`kv_role` holds settings of vLLM, but `engine_type` is `trtllm`",
        );
        refused(
            json!({"engine_type": "sglang", "dp_size": 2}),
            "`dp_size` is 2, but `sglang.enable_dp_attention` is off: switch that on for ranks that compute every pass together, \
             or use more workers, which have nothing to do with each other",
        );
        refused(
            json!({"engine_type": "trtllm", "dp_size": 2}),
            "`dp_size` is 2, which is not supported yet: use more workers with `dp_size` 1",
        );
        refused(
            json!({"num_speculative_tokens": 3}),
            "`num_speculative_tokens` is 3, which is not supported yet: describe speculation by `speculative_config`",
        );
        let instead = "is given, which is not supported yet: use `latency` to choose a latency model";
        for key in ["aic_backend", "aic_system", "aic_backend_version", "aic_model_path"] {
            refused(json!({key: "x"}), &format!("`{key}` {instead}"));
        }
        for key in ["aic_tp_size", "aic_moe_tp_size", "aic_moe_ep_size", "aic_attention_dp_size"] {
            refused(json!({key: 1}), &format!("`{key}` {instead}"));
        }
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        refused(
            json!({"is_prefill": true, "is_decode": true}),
            "`is_prefill` and `is_decode` cannot both be true",
        );
        refused(
            json!({"worker_type": "prefill", "is_prefill": true}),
            "`worker_type` cannot be combined with `is_prefill` or `is_decode`: leave those out",
        );
        refused(
            json!({"latency": "polynomial", "planner_profile_data": "h100.npz"}),
            "`latency` and `planner_profile_data` both name a latency model: give one of them",
        );
        refused(json!({"sglang": {}}), "`sglang` holds settings of SGLang, but `engine_type` is `vllm`");
    }

    #[test]
    fn settings_are_resolved() {
        let config = build(json!({"max_num_seqs": null, "max_model_len": null, "watermark": 0.01})).unwrap();
        assert_eq!((config.block_size(), config.usable_blocks(), config.watermark_blocks), (64, 16_383, 163));
        assert_eq!((config.max_num_seqs, config.max_model_len), (u32::MAX, MAX_SEQUENCE_TOKENS));
        assert!(config.scheduler_reserve_full_isl);
        assert!(
            !build(json!({"vllm_version": "0.14"})).unwrap().scheduler_reserve_full_isl,
            "it came with 0.19"
        );
        for (settings, worker_type) in [
            (json!({}), None),
            (json!({"is_prefill": false, "is_decode": false}), None),
            (json!({"is_prefill": true}), Some(Role::Prefill)),
            (json!({"is_decode": true}), Some(Role::Decode)),
            (json!({"worker_type": "aggregated"}), Some(Role::Aggregated)),
        ] {
            assert_eq!(build(settings).unwrap().worker_type(), worker_type);
        }
    }

    #[test]
    fn a_speedup_divides_the_passes_of_ranks_without_work() {
        let settings =
            json!({"dp_size": 2, "dp_dummy_us": 60, "speedup_ratio": 2, "decode_speedup_ratio": 3});
        assert_eq!(build(settings).unwrap().dp.dummy, Some(Duration::from_ns(10_000)));
    }

    #[test]
    fn prompts_that_can_never_be_served_are_told_apart() {
        let settings = json!({
            "block_size": 4, "num_gpu_blocks": 4, "max_model_len": 20, "max_num_batched_tokens": 10,
            "enable_chunked_prefill": false,
        });
        let check = |tokens| {
            build(settings.clone()).unwrap().check_request(tokens).map_err(|reason| reason.to_string())
        };
        assert_eq!(check(10), Ok(()));
        assert_eq!(
            check(11).unwrap_err(),
            "11 tokens cannot be scheduled at once: `max_num_batched_tokens` is 10 and chunked prefill is off"
        );
        assert_eq!(check(13).unwrap_err(), "the prompt has 13 tokens, too many for a KV cache of 12 tokens");
        assert_eq!(check(20).unwrap_err(), "the prompt has 20 tokens, too many for `max_model_len` 20");
    }
}
