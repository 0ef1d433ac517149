//! The settings of SGLang, by its own names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::{Message, message};

use super::disaggregation::{Disaggregation, DisaggregationMode, RetractionBackup};
use super::hicache_args::{HicacheConfig, HicacheWritePolicy};
use super::load_balance::LoadBalanceMethod;
use super::speculation::{SglangSpeculation, SpeculativeAlgorithm};
use super::swa_args::SwaConfig;
use crate::args::{EngineArgs, PreemptionMode, SchedulingPolicy};
use crate::{ConfigError, EngineConfig, MAX_NUM_GPU_BLOCKS, MAX_SEQUENCE_TOKENS, Rejection};

/// Settings of SGLang. A key that is absent has the default that is given with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SglangArgs {
    /// Tokens a page, another name of `block_size`; 1 unless either is given.
    pub page_size: Option<u32>,
    /// Tokens of the KV pool, rounded down to whole pages, instead of `num_gpu_blocks` pages.
    pub max_total_tokens: Option<u32>,
    /// Most requests that run at a time, another name of `max_num_seqs`.
    pub max_running_requests: Option<u32>,
    /// Longest sequence, another name of `max_model_len`.
    #[serde(alias = "context_len")]
    pub context_length: Option<u32>,
    /// Most prompt tokens of a prefill batch; a single request may exceed it.
    pub max_prefill_tokens: u32,
    /// Most prompt tokens of a prefill batch, beyond which a request is cut; -1 for no cutting.
    pub chunked_prefill_size: i64,
    /// Output for which a request reserves memory at most.
    pub clip_max_new_tokens: u32,
    /// Decode batches from one look at new requests to the next; a worker that computes nothing, or has computed a prefill
    /// batch, looks at once.
    pub scheduler_recv_interval: u32,
    /// Order of the waiting queue.
    pub schedule_policy: SchedulePolicy,
    /// How much output running requests are expected to produce: more is more careful.
    pub schedule_conservativeness: f64,
    /// Whether decodes ride along in prefill batches.
    pub enable_mixed_chunk: bool,
    /// Whether requests share nothing, the opposite of `enable_prefix_caching`.
    pub disable_radix_cache: bool,
    /// Whether an iteration is planned only when the one before it has ended.
    ///
    /// The real engine overlaps by default; here only `--engine-preset sglang-0.5` does, for numbers that compare.
    pub disable_overlap_schedule: bool,
    /// Whether requests have priorities.
    pub enable_priority_scheduling: bool,
    /// Whether a low priority value is important; otherwise a high one is.
    pub schedule_low_priority_values_first: bool,
    /// Difference in priority above which a waiting request displaces a running one.
    pub priority_scheduling_preemption_threshold: u32,
    /// Most requests of a prefill batch; null for no limit.
    pub prefill_max_requests: Option<u32>,
    /// Decode batches after a prefill batch before the next one is tried, chunks included; 0 for none.
    pub prefill_decode_interval: u32,
    /// Running requests below which that does not hold.
    pub prefill_decode_interval_min_bs: u32,
    /// Who goes back to the queue when memory runs out.
    pub retraction_policy: RetractionPolicy,
    /// Which cached prefixes go first; only `lru`.
    pub radix_eviction_policy: RadixEvictionPolicy,
    /// Who proposes tokens that a decode batch verifies; null for nobody. How many of them are accepted is said by
    /// `speculative_config`.
    pub speculative_algorithm: Option<SpeculativeAlgorithm>,
    /// Steps of the drafter for a batch; one less than it verifies tokens unless given.
    pub speculative_num_steps: Option<u32>,
    /// Tokens that a batch verifies for each request, the known one among them; one more than the drafter has steps unless
    /// given.
    pub speculative_num_draft_tokens: Option<u32>,
    /// Branches that the drafter follows; only 1.
    pub speculative_eagle_topk: Option<u32>,
    /// Whether cached KV is kept in the memory of the host, too (`HiCache`).
    pub enable_hierarchical_cache: bool,
    /// Tokens that the host has room for, over those of the pool; 2 unless it or `hicache_size` is given.
    pub hicache_ratio: Option<f64>,
    /// Memory of the host instead, in 10⁹ bytes, of all GPUs of the engine together.
    pub hicache_size: Option<f64>,
    /// When KV is copied to the host.
    pub hicache_write_policy: HicacheWritePolicy,
    /// Bandwidth from GPU to host, in 10⁹ bytes a second; absent: 55 for each GPU, as a `PCIe` 5.0 link of 16 lanes has.
    pub hicache_write_bandwidth: Option<f64>,
    /// Bandwidth from host to GPU, in 10⁹ bytes a second; absent: as from GPU to host by default.
    pub hicache_load_bandwidth: Option<f64>,
    /// Microseconds that a copy to the host takes beside the time of its bytes; absent: 20.
    pub hicache_write_us: Option<f64>,
    /// Microseconds that a copy from the host takes beside the time of its bytes; absent: 20.
    pub hicache_load_us: Option<f64>,
    /// Tokens that a sliding window of the model spans; null for a model without.
    pub sliding_window_size: Option<u32>,
    /// Tokens of the pool of layers with such a window, over those of all other layers; 0.8 unless given.
    pub swa_full_tokens_ratio: Option<f64>,
    /// Whether all layers have one pool, so that those with a window keep what they do not see any more.
    pub disable_hybrid_swa_memory: bool,
    /// Whether attention is spread over `dp_size` ranks, each with queues and a pool of its own.
    pub enable_dp_attention: bool,
    /// Which of these ranks gets a request; `auto` unless given.
    pub load_balance_method: Option<LoadBalanceMethod>,
    /// Which stage of disaggregated serving a worker has, with SGLang's own queues between the two; null or `null` for none.
    pub disaggregation_mode: Option<DisaggregationMode>,
    /// Decode workers: tokens of output that every request has in reserve when others get memory; 512 unless given.
    pub num_reserved_decode_tokens: Option<u32>,
    /// Decode workers: whether prompts share what is cached; nothing is kept otherwise.
    pub disaggregation_decode_enable_radix_cache: bool,
    /// Decode workers: passes from one look at memory for newcomers, and at KV that has arrived, to the next; 1 unless
    /// given.
    pub disaggregation_decode_polling_interval: Option<u32>,
    /// Decode workers: requests beyond those that may run that have memory at a time; twice as many as may run unless
    /// given, if these are at most 32, otherwise none.
    pub disaggregation_decode_extra_slots: Option<u32>,
    /// Decode workers: where the KV of requests goes that lose their memory; `cpu_tensor` unless given.
    pub disaggregation_decode_retraction_backup: Option<RetractionBackup>,
    /// Decode workers: microseconds from when a request is seen to when its prefill worker is known; 0 unless given.
    pub disaggregation_handshake_us: Option<f64>,
    /// Prefill workers: microseconds from when a decode worker has memory to when that is known; 0 unless given.
    pub disaggregation_bootstrap_us: Option<f64>,
    /// Seed of the policy `random`.
    pub random_seed: u64,
    /// Batches of decodes that are recorded as CUDA graphs; a batch between two of them is padded to the next. Absent, they
    /// are 1, 2, 4, 8, 12, multiples of 8 to 256, of 16 to 512 and of 32 beyond, to `cuda_graph_max_bs`.
    pub cuda_graph_bs: Option<Vec<u32>>,
    /// The largest of them; absent, it goes by the memory of the GPU: 8 to 512.
    pub cuda_graph_max_bs: Option<u32>,
    /// Whether no pass is a recorded graph.
    pub disable_cuda_graph: bool,
    /// Whether only batches that are recorded run as graphs, which are all up to `cuda_graph_max_bs` without a list of them.
    pub disable_cuda_graph_padding: bool,
}

impl Default for SglangArgs {
    fn default() -> Self {
        Self {
            page_size: None,
            max_total_tokens: None,
            max_running_requests: None,
            context_length: None,
            max_prefill_tokens: 16_384,
            chunked_prefill_size: 8_192,
            clip_max_new_tokens: 4_096,
            scheduler_recv_interval: 1,
            schedule_policy: SchedulePolicy::Fcfs,
            schedule_conservativeness: 1.0,
            enable_mixed_chunk: false,
            disable_radix_cache: false,
            disable_overlap_schedule: true,
            enable_priority_scheduling: false,
            schedule_low_priority_values_first: false,
            priority_scheduling_preemption_threshold: 10,
            prefill_max_requests: None,
            prefill_decode_interval: 0,
            prefill_decode_interval_min_bs: 0,
            retraction_policy: RetractionPolicy::Length,
            radix_eviction_policy: RadixEvictionPolicy::Lru,
            speculative_algorithm: None,
            speculative_num_steps: None,
            speculative_num_draft_tokens: None,
            speculative_eagle_topk: None,
            enable_hierarchical_cache: false,
            hicache_ratio: None,
            hicache_size: None,
            hicache_write_policy: HicacheWritePolicy::WriteThrough,
            hicache_write_bandwidth: None,
            hicache_load_bandwidth: None,
            hicache_write_us: None,
            hicache_load_us: None,
            sliding_window_size: None,
            swa_full_tokens_ratio: None,
            disable_hybrid_swa_memory: false,
            enable_dp_attention: false,
            load_balance_method: None,
            disaggregation_mode: None,
            num_reserved_decode_tokens: None,
            disaggregation_decode_enable_radix_cache: false,
            disaggregation_decode_polling_interval: None,
            disaggregation_decode_extra_slots: None,
            disaggregation_decode_retraction_backup: None,
            disaggregation_handshake_us: None,
            disaggregation_bootstrap_us: None,
            random_seed: 42,
            cuda_graph_bs: None,
            cuda_graph_max_bs: None,
            disable_cuda_graph: false,
            disable_cuda_graph_padding: false,
        }
    }
}

/// Order of SGLang's waiting queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulePolicy {
    /// First come, first served.
    #[serde(alias = "fifo")]
    Fcfs,
    /// Longest cached prefix first.
    Lpm,
    /// Longest output first.
    Lof,
    /// Depth first along the radix tree, subtrees with most waiting requests first.
    DfsWeight,
    /// At random.
    Random,
    /// Highest response ratio next: the prompt tokens that were computed while a request waited, over those that it needs.
    Hrrn,
    /// Fewest uncached tokens first; a prompt that is cut leaves room for shorter ones.
    ShortestPrefillFirst,
    /// Those first whose routing key most running requests have.
    RoutingKey,
}

impl SchedulePolicy {
    /// Whether the order depends on what is cached.
    pub fn goes_by_cache(self) -> bool {
        match self {
            Self::Lpm | Self::DfsWeight | Self::Hrrn | Self::ShortestPrefillFirst => true,
            Self::Fcfs | Self::Lof | Self::Random | Self::RoutingKey => false,
        }
    }
}

/// Who goes back to SGLang's queue first when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetractionPolicy {
    /// The request with the shortest output, of equals the one with the longest prompt.
    Length,
    /// The least important one, then as before.
    Priority,
}

/// Which cached prefixes SGLang evicts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RadixEvictionPolicy {
    /// Those that were not used for longest.
    Lru,
}

/// Checked settings of SGLang, beyond those that all engines have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SglangConfig {
    pub(crate) max_prefill_tokens: u32,
    pub(crate) chunked_prefill_size: Option<u32>,
    pub(crate) clip_max_new_tokens: u32,
    pub(crate) scheduler_recv_interval: u32,
    pub(crate) schedule_policy: SchedulePolicy,
    pub(crate) schedule_conservativeness: f64,
    pub(crate) enable_mixed_chunk: bool,
    pub(crate) enable_priority_scheduling: bool,
    pub(crate) schedule_low_priority_values_first: bool,
    pub(crate) priority_scheduling_preemption_threshold: u32,
    pub(crate) prefill_max_requests: Option<u32>,
    pub(crate) prefill_decode_interval: u32,
    pub(crate) prefill_decode_interval_min_bs: u32,
    pub(crate) retraction_policy: RetractionPolicy,
    pub(crate) disaggregation: Option<Disaggregation>,
    pub(crate) load_balance_method: LoadBalanceMethod,
    pub(crate) speculation: Option<SglangSpeculation>,
    pub(crate) hicache: Option<HicacheConfig>,
    pub(crate) swa: Option<SwaConfig>,
    pub(crate) random_seed: u64,
}

impl SglangConfig {
    /// Whether cached prefixes are told apart by pairs of tokens.
    pub(super) fn tells_by_pairs(&self) -> bool {
        self.speculation.as_ref().is_some_and(|speculation| speculation.by_pairs)
    }
}

impl SglangArgs {
    /// The settings that only SGLang has, for pages of `page_size` tokens.
    fn resolve(&self, page_size: u32) -> Result<SglangConfig, ConfigError> {
        let chunk = self.chunk(page_size)?;
        if self.enable_mixed_chunk && chunk.is_none() {
            return Err(ConfigError::Conflict(message!(
                "{sglang.enable_mixed_chunk} needs {sglang.chunked_prefill_size} above 0"
            )));
        }
        self.check_policies()?;
        Ok(SglangConfig {
            max_prefill_tokens: self.max_prefill_tokens,
            chunked_prefill_size: chunk,
            clip_max_new_tokens: self.clip_max_new_tokens,
            scheduler_recv_interval: self.scheduler_recv_interval,
            schedule_policy: self.schedule_policy,
            schedule_conservativeness: self.schedule_conservativeness,
            enable_mixed_chunk: self.enable_mixed_chunk,
            enable_priority_scheduling: self.enable_priority_scheduling,
            schedule_low_priority_values_first: self.schedule_low_priority_values_first,
            priority_scheduling_preemption_threshold: self.priority_scheduling_preemption_threshold,
            prefill_max_requests: self.prefill_max_requests,
            prefill_decode_interval: self.prefill_decode_interval,
            prefill_decode_interval_min_bs: self.prefill_decode_interval_min_bs,
            retraction_policy: self.retraction_policy,
            disaggregation: None,
            load_balance_method: self.load_balance_method.unwrap_or(LoadBalanceMethod::Auto),
            speculation: None,
            hicache: None,
            swa: None,
            random_seed: self.random_seed,
        })
    }

    fn check_policies(&self) -> Result<(), ConfigError> {
        let keeps_priorities = matches!(self.schedule_policy, SchedulePolicy::Fcfs | SchedulePolicy::Lof);
        if self.enable_priority_scheduling && !keeps_priorities {
            return Err(ConfigError::Conflict(message!(
                "{sglang.enable_priority_scheduling} needs {sglang.schedule_policy} `fcfs` or `lof`: others put \
                 requests in order without regard to priorities"
            )));
        }
        if self.retraction_policy == RetractionPolicy::Priority && !self.enable_priority_scheduling {
            return Err(ConfigError::Conflict(message!(
                "{sglang.retraction_policy} `priority` needs {sglang.enable_priority_scheduling}"
            )));
        }
        if self.prefill_decode_interval_min_bs > 0 && self.prefill_decode_interval == 0 {
            return Err(ConfigError::Conflict(message!(
                "{sglang.prefill_decode_interval_min_bs} needs {sglang.prefill_decode_interval} above 0"
            )));
        }
        Ok(())
    }

    /// The size of a chunk, if prompts are cut.
    fn chunk(&self, page_size: u32) -> Result<Option<u32>, ConfigError> {
        let (key, given) = ("sglang.chunked_prefill_size", self.chunked_prefill_size);
        if given == -1 {
            return Ok(None);
        }
        let chunk = u32::try_from(given).ok().filter(|&chunk| chunk > 0);
        let chunk = chunk.ok_or_else(|| {
            ConfigError::wrong(key, given, "expected at least 1, or -1 to compute prompts as a whole")
        })?;
        // As in the real engine, the default is not measured against the page, as long as it holds one.
        let default = given == Self::default().chunked_prefill_size && chunk >= page_size;
        if !chunk.is_multiple_of(page_size) && !default {
            let problem = format!("expected a multiple of the page size, {page_size}");
            return Err(ConfigError::wrong(key, given, problem));
        }
        Ok(Some(chunk))
    }

    /// Pages of the pool.
    fn pages(&self, args: &EngineArgs, page_size: u32) -> Result<u32, ConfigError> {
        match self.max_total_tokens {
            None => Ok(args.num_gpu_blocks),
            Some(tokens) if tokens < page_size => {
                let problem = format!("expected at least a page, {page_size} tokens");
                Err(ConfigError::wrong("sglang.max_total_tokens", tokens, problem))
            }
            Some(_) if args.num_gpu_blocks != EngineArgs::default().num_gpu_blocks => {
                Err(ConfigError::Conflict(message!(
                    "{num_gpu_blocks} and {sglang.max_total_tokens} both give the size of the pool: give one of them"
                )))
            }
            // As in the real engine, the rest that fills no page is left out.
            Some(tokens) if tokens / page_size <= MAX_NUM_GPU_BLOCKS => Ok(tokens / page_size),
            Some(tokens) => {
                let problem = format!("expected at most {MAX_NUM_GPU_BLOCKS} pages of {page_size} tokens");
                Err(ConfigError::wrong("sglang.max_total_tokens", tokens, problem))
            }
        }
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("sglang.page_size", self.page_size),
            ("sglang.max_total_tokens", self.max_total_tokens),
            ("sglang.max_running_requests", self.max_running_requests),
            ("sglang.context_length", self.context_length),
            ("sglang.max_prefill_tokens", Some(self.max_prefill_tokens)),
            ("sglang.clip_max_new_tokens", Some(self.clip_max_new_tokens)),
            ("sglang.scheduler_recv_interval", Some(self.scheduler_recv_interval)),
            ("sglang.prefill_max_requests", self.prefill_max_requests),
            ("sglang.disaggregation_decode_polling_interval", self.disaggregation_decode_polling_interval),
        ];
        if let Some((key, _)) = at_least_one.into_iter().find(|(_, value)| *value == Some(0)) {
            return Err(ConfigError::wrong(key, 0, "expected at least 1"));
        }
        let ratio = self.schedule_conservativeness;
        if !(ratio.is_finite() && ratio >= 0.0) {
            let problem = "expected a finite number of at least 0";
            return Err(ConfigError::wrong("sglang.schedule_conservativeness", ratio, problem));
        }
        Ok(())
    }
}

/// Checks the settings of an SGLang engine and resolves those that have two names.
pub(crate) fn settle(args: &EngineArgs, config: &mut EngineConfig) -> Result<(), ConfigError> {
    refuse_settings_of_vllm(args)?;
    let own = args.sglang.clone().unwrap_or_default();
    own.check_ranges()?;
    let own = own.of_rank(args)?;
    let default = EngineArgs::default();
    let given_block_size = Some(args.block_size).filter(|&size| size > 0);
    let page_size = one_of("page_size", own.page_size, "block_size", given_block_size)?.unwrap_or(1);
    let given_seqs = args.max_num_seqs.filter(|_| args.max_num_seqs != default.max_num_seqs);
    let seqs = one_of("max_running_requests", own.max_running_requests, "max_num_seqs", given_seqs)?;
    let context = one_of("context_length", own.context_length, "max_model_len", args.max_model_len)?;
    let mut sglang = own.resolve(page_size)?;
    sglang.speculation = own.speculation(args)?;
    config.block_size = page_size;
    config.num_gpu_blocks = own.pages(args, page_size)?;
    config.reserve_null_block = false;
    config.max_num_seqs = seqs.or(args.max_num_seqs).unwrap_or(u32::MAX);
    config.max_model_len = context.unwrap_or(MAX_SEQUENCE_TOKENS).min(MAX_SEQUENCE_TOKENS);
    config.max_num_batched_tokens = sglang.chunked_prefill_size.unwrap_or(sglang.max_prefill_tokens);
    if let Some(speculation) = &sglang.speculation {
        speculation.check_pool(config)?;
    }
    config.enable_prefix_caching = args.enable_prefix_caching && !own.disable_radix_cache;
    config.async_scheduling = !own.disable_overlap_schedule;
    if sglang.schedule_policy == SchedulePolicy::ShortestPrefillFirst && !config.enable_prefix_caching {
        return Err(ConfigError::Conflict(message!(
            "{sglang.schedule_policy} `shortest-prefill-first` goes by what is cached: leave the prefix cache on"
        )));
    }
    sglang.hicache = own.hicache(args, config, &sglang)?;
    sglang.swa = own.swa(config, &sglang)?;
    sglang.disaggregation = own.disaggregation(&sglang)?;
    if let Some(Disaggregation::Decode(side)) = sglang.disaggregation {
        config.enable_prefix_caching &= side.keeps_prefixes();
    }
    config.sglang = Some(sglang);
    Ok(())
}

/// Output that a prompt leaves room for, in the model's context and in the pool.
pub(crate) fn output_room(config: &EngineConfig, prompt_tokens: u32) -> u32 {
    let context = config.max_model_len.saturating_sub(prompt_tokens + 2);
    let prompt_pages = prompt_tokens.div_ceil(config.block_size);
    let pages = config.num_gpu_blocks.saturating_sub(prompt_pages + 1);
    let pool = u64::from(pages) * u64::from(config.block_size);
    context.min(u32::try_from(pool).unwrap_or(u32::MAX).saturating_sub(1))
}

/// By how much the longest prompt is shorter than context and pool: a token for the output, and what the real server
/// (0.5.23, `max_req_input_len`) keeps back besides.
const INPUT_RESERVE: u64 = 1 + 5;

/// Whether a prompt of this length, which is not taken, goes through the scheduler as a [stub](super::request::Request::stub):
/// what stands before that refuses it only if it leaves no room for output in the context.
pub(crate) fn leaves_stub(config: &EngineConfig, prompt_tokens: u32) -> bool {
    prompt_tokens < config.max_model_len && check_request(config, prompt_tokens).is_err()
}

/// Whether a prompt of this length is taken: what stands in front of the real scheduler refuses those that come near to
/// context or pool.
///
/// A prompt that leaves no page for output gets one token all the same, which comes with the prompt and needs no memory.
pub(crate) fn check_request(config: &EngineConfig, prompt_tokens: u32) -> Result<(), Rejection> {
    let too_long = |room: u64| u64::from(prompt_tokens) + INPUT_RESERVE >= room;
    let (max_model_len, capacity) = (config.max_model_len, config.kv_capacity_tokens());
    if too_long(max_model_len.into()) {
        return Err(Rejection::MaxModelLen { tokens: prompt_tokens, max_model_len });
    }
    if too_long(capacity) {
        return Err(Rejection::PromptTooLong { tokens: prompt_tokens, capacity });
    }
    match config.slots_of_arriving_prompts() {
        Some(capacity) if u64::from(prompt_tokens) > capacity => {
            Err(Rejection::PromptTooLong { tokens: prompt_tokens, capacity })
        }
        _ => Ok(()),
    }
}

/// A setting that has a name of SGLang's and one that all engines have.
fn one_of(
    name: &str,
    own: Option<u32>,
    general: &str,
    given: Option<u32>,
) -> Result<Option<u32>, ConfigError> {
    match (own, given) {
        (Some(own), Some(given)) if own != given => Err(ConfigError::Conflict(message!(
            "{} is {} and {} is {}, but they are one setting: give one of them",
            Message::key(format!("sglang.{name}")),
            own,
            Message::key(general),
            given
        ))),
        (own, given) => Ok(own.or(given)),
    }
}

/// Refuses settings that only vLLM's scheduler has.
fn refuse_settings_of_vllm(args: &EngineArgs) -> Result<(), ConfigError> {
    let default = EngineArgs::default();
    let given = [
        ("vllm_version", args.vllm_version != default.vllm_version, "SGLang 0.5.23 is simulated"),
        (
            "max_num_batched_tokens",
            args.max_num_batched_tokens != default.max_num_batched_tokens,
            "use `sglang.max_prefill_tokens` and `sglang.chunked_prefill_size`",
        ),
        (
            "enable_chunked_prefill",
            args.enable_chunked_prefill != default.enable_chunked_prefill,
            "use `sglang.chunked_prefill_size`, -1 for no chunks",
        ),
        (
            "long_prefill_token_threshold",
            args.long_prefill_token_threshold != 0,
            "use `sglang.chunked_prefill_size`",
        ),
        (
            "long_prefill_token_threshold_adaptive",
            args.long_prefill_token_threshold_adaptive,
            "use `sglang.chunked_prefill_size`",
        ),
        (
            "scheduler_reserve_full_isl",
            args.scheduler_reserve_full_isl != default.scheduler_reserve_full_isl,
            "use `sglang.schedule_conservativeness`",
        ),
        ("watermark", args.watermark > 0.0, "use `sglang.schedule_conservativeness`"),
        ("prefill_schedule_interval", args.prefill_schedule_interval != 1, "leave it out"),
        ("dp_sync_interval", args.dp_sync_interval.is_some(), "its ranks agree on every pass"),
        ("dp_dummy_us", args.dp_dummy_us.is_some(), "its ranks compute nothing without work"),
        ("dp_wave_delay_us", args.dp_wave_delay_us.is_some(), "its ranks begin together"),
        ("async_scheduling", args.async_scheduling, "use `sglang.disable_overlap_schedule`"),
        (
            "scheduling_policy",
            args.scheduling_policy != SchedulingPolicy::Fcfs,
            "use `sglang.schedule_policy` and `sglang.enable_priority_scheduling`",
        ),
        ("preemption_mode", args.preemption_mode != PreemptionMode::Lifo, "leave it out"),
        ("kv_role", args.kv_role.is_some(), "leave it out"),
    ];
    match given.into_iter().find(|(_, given, _)| *given) {
        Some((key, _, instead)) => Err(ConfigError::Conflict(message!(
            "{} is a setting of vLLM, but {engine_type} is `sglang`: {}",
            Message::key(key),
            instead
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
