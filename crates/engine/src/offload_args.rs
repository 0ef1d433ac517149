//! Settings of KV offload to the memory of the host, by the names of vLLM.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_latency::{Host, MOST_HOST_US};
use servecast_types::{Duration, Message, message};

use crate::args::{EngineArgs, EngineType, VllmVersion};
use crate::config::MAX_NUM_GPU_BLOCKS;
use crate::kv_groups::{GroupKind, KvGroups, RetentionInterval};
use crate::{ConfigError, EngineConfig};

/// What a `PCIe` 5.0 link of 16 lanes moves each way, in 10⁹ bytes a second: an assumption, some 85 % of 64.
pub(crate) const LINK_BANDWIDTH: f64 = 55.0;

/// What setting up a copy takes: an assumption.
pub(crate) const COPY_US: f64 = 20.0;

/// How KV is offloaded to the memory of the host. A key that is absent has the default that is given with it, which is vLLM's
/// where that has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvOffloadingArgs {
    /// Who does it, by the value of `--kv-offloading-backend`.
    pub backend: OffloadBackend,
    /// Which of vLLM's connectors does it: `offloading`, which `--kv-offloading-size` selects, or `simple`, which it selects
    /// with `VLLM_USE_SIMPLE_KV_OFFLOAD=1`.
    pub connector: OffloadConnector,
    /// `offloading`: KV blocks that are stored and loaded as one; 1.
    pub blocks_per_chunk: u32,
    /// `offloading`: what makes room in the memory of the host: `lru`, or `arc`.
    pub eviction_policy: OffloadEviction,
    /// `offloading`: how often a block has to be computed until it is stored; 0 and 1 are the first time.
    pub store_threshold: u32,
    /// `offloading`: whether only prompts are stored, not what is generated; absent: true, but false in releases up to 0.15,
    /// which know no such setting.
    pub offload_prompt_only: Option<bool>,
    /// `offloading`: bytes that an iteration may load while it waits for them; 0: loads never hold an iteration up.
    pub sync_load_budget_bytes: u64,
    /// `simple`: whether only what is about to be evicted from the GPU is stored.
    pub lazy_offload: bool,
    /// Bytes of a KV block on all GPUs together, where layers are groups, each of which takes such blocks; absent: what
    /// `kv_bytes_per_token` makes of it if all groups have as many layers.
    pub bytes_per_block: Option<u64>,
    /// Bandwidth from GPU to host, in 10⁹ bytes a second; absent: 55 for each GPU, as a `PCIe` 5.0 link of 16 lanes has.
    pub store_bandwidth: Option<f64>,
    /// Bandwidth from host to GPU, in 10⁹ bytes a second; absent: as from GPU to host by default.
    pub load_bandwidth: Option<f64>,
    /// Microseconds that a copy takes beside the time of its bytes; absent: 20.
    pub copy_us: Option<f64>,
}

impl Default for KvOffloadingArgs {
    fn default() -> Self {
        Self {
            backend: OffloadBackend::Native,
            connector: OffloadConnector::Offloading,
            blocks_per_chunk: 1,
            eviction_policy: OffloadEviction::Lru,
            store_threshold: 0,
            offload_prompt_only: None,
            sync_load_budget_bytes: 0,
            lazy_offload: false,
            bytes_per_block: None,
            store_bandwidth: None,
            load_bandwidth: None,
            copy_us: None,
        }
    }
}

/// Who offloads KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OffloadBackend {
    /// vLLM itself.
    Native,
}

/// vLLM's connectors to the memory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OffloadConnector {
    /// `OffloadingConnector`.
    Offloading,
    /// `SimpleCPUOffloadConnector`.
    Simple,
}

/// What makes room in the memory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OffloadEviction {
    /// The tail of the request that used its blocks longest ago goes first.
    Lru,
    /// Adaptive replacement: what was used once and what was used again share the memory by what is missed.
    Arc,
}

/// KV offload as it is set, checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct KvOffloading {
    pub(crate) connector: OffloadConnector,
    /// Whether `offloading` is that of releases up to 0.15.
    pub(crate) is_early: bool,
    /// Chunks that the host holds; with `simple` blocks, one of which is never handed out.
    pub(crate) chunks: u32,
    pub(crate) blocks_per_chunk: u32,
    pub(crate) eviction: OffloadEviction,
    pub(crate) store_threshold: u32,
    pub(crate) prompt_only: bool,
    pub(crate) sync_load_bytes: u64,
    pub(crate) lazy: bool,
    pub(crate) block_bytes: u64,
    /// Bytes a microsecond.
    store_rate: f64,
    load_rate: f64,
    copy: Duration,
}

impl KvOffloading {
    /// Whether a decoding request offers something new to the host only in iterations in which it fills a block, so that
    /// requests can decode together.
    pub(crate) fn goes_by_fills(&self) -> bool {
        // The others count what they look at, or look at a block an iteration later.
        self.connector == OffloadConnector::Offloading && !self.is_early
    }

    /// How long so many blocks are on their way, in whole microseconds beside what every copy takes.
    pub(crate) fn copy_time(&self, blocks: u64, loads: bool) -> Duration {
        let rate = if loads { self.load_rate } else { self.store_rate };
        let us = (blocks * self.block_bytes) as f64 / rate;
        self.copy + Duration::from_ns((us.ceil() as u64).saturating_mul(1000))
    }

    /// Bytes of so many tokens of the blocks.
    pub(crate) fn bytes_of(&self, tokens: u32, block_size: u32) -> u64 {
        u64::from(tokens) * self.block_bytes / u64::from(block_size)
    }
}

impl EngineArgs {
    /// KV offload as it is set, checked.
    pub(crate) fn offloading(&self, groups: Option<&KvGroups>) -> Result<Option<KvOffloading>, ConfigError> {
        let Some(size) = self.kv_offloading_size else {
            return match self.kv_offloading {
                Some(_) => Err(ConfigError::Conflict(message!(
                    "{kv_offloading} says how KV is offloaded, but {kv_offloading_size} is not given"
                ))),
                None => Ok(None),
            };
        };
        let given = self.kv_offloading.clone().unwrap_or_default();
        self.check_offloading_goes_with_others(&given)?;
        given.check_connector()?;
        given.check_beside(groups)?;
        let is_early = self.vllm_version == VllmVersion::V0_14;
        if is_early {
            given.check_early()?;
        }
        if !(size > 0.0 && size <= 1e9) {
            return Err(ConfigError::wrong("kv_offloading_size", size, "expected GiB above 0, at most 1e9"));
        }
        let block_bytes = self.block_bytes(&given, groups)?;
        let chunk_bytes = block_bytes.saturating_mul(given.blocks_per_chunk.into());
        let chunks = (size * f64::from(1 << 30) / chunk_bytes as f64).min(f64::from(u32::MAX)) as u32;
        let least = if given.connector == OffloadConnector::Simple { 2 } else { 1 };
        if !(least..=MAX_NUM_GPU_BLOCKS).contains(&chunks) {
            let problem = format!(
                "{chunk_bytes} bytes are the least that is stored, so that the host would hold {chunks} of them: expected \
                 {least} to {MAX_NUM_GPU_BLOCKS}"
            );
            return Err(ConfigError::wrong("kv_offloading_size", size, problem));
        }
        let gpus = self.tensor_parallel_size.unwrap_or(1).max(1);
        let default = LINK_BANDWIDTH * f64::from(gpus);
        Ok(Some(KvOffloading {
            connector: given.connector,
            is_early,
            chunks,
            blocks_per_chunk: given.blocks_per_chunk,
            eviction: given.eviction_policy,
            store_threshold: given.store_threshold,
            prompt_only: given.offload_prompt_only.unwrap_or(true),
            sync_load_bytes: given.sync_load_budget_bytes,
            lazy: given.lazy_offload,
            block_bytes,
            store_rate: rate("store_bandwidth", given.store_bandwidth.unwrap_or(default))?,
            load_rate: rate("load_bandwidth", given.load_bandwidth.unwrap_or(default))?,
            copy: copy_time(given.copy_us.unwrap_or(COPY_US))?,
        }))
    }

    /// Bytes of a KV block.
    fn block_bytes(&self, given: &KvOffloadingArgs, groups: Option<&KvGroups>) -> Result<u64, ConfigError> {
        if let Some(bytes) = given.bytes_per_block.filter(|_| groups.is_some()) {
            return if bytes > 0 {
                Ok(bytes)
            } else {
                Err(ConfigError::wrong("kv_offloading.bytes_per_block", 0, "expected at least 1"))
            };
        }
        let Some(token_bytes) = self.kv_bytes_per_token.filter(|&bytes| bytes > 0) else {
            return Err(ConfigError::Conflict(message!(
                "{kv_offloading_size} is given, but not {kv_bytes_per_token}, of which it is worked out how many blocks the \
                 host holds"
            )));
        };
        let Some(groups) = groups else {
            return Ok(token_bytes.saturating_mul(self.resolved_block_size().into()));
        };
        // All groups share out the bytes of a token, in blocks of as many bytes.
        let shares = groups.specs.iter().filter(|spec| !matches!(spec.kind, GroupKind::Mamba { .. }));
        let per_byte: f64 = shares.map(|spec| 1.0 / f64::from(spec.block_size)).sum();
        if per_byte == 0.0 {
            return Err(ConfigError::Conflict(message!(
                "{kv_offloading_size} is given, but not {kv_offloading.bytes_per_block}, which does not follow from \
                 {kv_bytes_per_token} where all {kv_groups} are states"
            )));
        }
        Ok(((token_bytes as f64 / per_byte) as u64).max(1))
    }

    /// Refuses what is not known, or not built, beside it.
    fn check_offloading_goes_with_others(&self, given: &KvOffloadingArgs) -> Result<(), ConfigError> {
        let is_built_beside_groups =
            given.connector == OffloadConnector::Offloading && self.vllm_version == VllmVersion::V0_33;
        if self.engine_type != EngineType::Vllm {
            return Err(ConfigError::Conflict(message!(
                "{kv_offloading_size} is a setting of vLLM, but {engine_type} is `{}`",
                self.engine_type.name()
            )));
        }
        let excluded = [
            ("pipeline_parallel_size", self.pipeline_parallel_size > 1),
            ("dp_size", self.dp_size > 1),
            ("kv_role", self.kv_role.is_some()),
            (
                "kv_groups",
                !is_built_beside_groups && self.kv_groups.as_ref().is_some_and(|groups| !groups.is_empty()),
            ),
            ("reserve_null_block", !self.reserve_null_block),
            ("vllm_version", ![VllmVersion::V0_14, VllmVersion::V0_33].contains(&self.vllm_version)),
        ];
        if let Some((key, _)) = excluded.into_iter().find(|(_, given)| *given) {
            return Err(ConfigError::Conflict(message!(
                "{kv_offloading_size} does not go together with this {} yet: leave one of them out",
                Message::key(key)
            )));
        }
        if !self.enable_prefix_caching {
            return Err(ConfigError::Conflict(message!(
                "{kv_offloading_size} is given, but {enable_prefix_caching} is false: blocks without identities cannot be \
                 found again"
            )));
        }
        Ok(())
    }
}

impl KvOffloadingArgs {
    /// Refuses what does not go together with groups of layers, or only with them.
    fn check_beside(&self, groups: Option<&KvGroups>) -> Result<(), ConfigError> {
        let Some(groups) = groups else {
            return match self.bytes_per_block {
                Some(_) => Err(ConfigError::Conflict(message!(
                    "{kv_offloading.bytes_per_block} is for groups of layers, but there are none: give {kv_bytes_per_token}"
                ))),
                None => Ok(()),
            };
        };
        let RetentionInterval::Tokens(interval) = groups.retention else { return Ok(()) };
        let chunks = groups.specs.iter().filter(|spec| spec.kind != GroupKind::Full);
        let chunks = chunks.map(|spec| spec.block_size.saturating_mul(self.blocks_per_chunk));
        match chunks.into_iter().find(|&tokens| tokens > 0 && !interval.is_multiple_of(tokens)) {
            Some(tokens) => Err(ConfigError::wrong(
                "prefix_cache_retention_interval",
                interval,
                format!(
                    "beside `kv_offloading_size`, expected `dense`, 0 or a multiple of the {tokens} tokens of a chunk, as vLLM \
                     does"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Refuses settings of the connector that was not chosen.
    fn check_connector(&self) -> Result<(), ConfigError> {
        let defaults = KvOffloadingArgs::default();
        let of_offloading = [
            ("kv_offloading.blocks_per_chunk", self.blocks_per_chunk != defaults.blocks_per_chunk),
            ("kv_offloading.eviction_policy", self.eviction_policy != defaults.eviction_policy),
            ("kv_offloading.store_threshold", self.store_threshold != defaults.store_threshold),
            ("kv_offloading.offload_prompt_only", self.offload_prompt_only.is_some()),
            ("kv_offloading.sync_load_budget_bytes", self.sync_load_budget_bytes > 0),
        ];
        let (wrong, is) = match self.connector {
            OffloadConnector::Simple => (of_offloading.into_iter().find(|(_, given)| *given), "simple"),
            OffloadConnector::Offloading => {
                (Some(("kv_offloading.lazy_offload", true)).filter(|_| self.lazy_offload), "offloading")
            }
        };
        if let Some((key, _)) = wrong {
            return Err(ConfigError::Conflict(message!(
                "{} is a setting of the other connector, but {kv_offloading.connector} is `{}`",
                Message::key(key),
                is
            )));
        }
        if self.blocks_per_chunk == 0 {
            return Err(ConfigError::wrong("kv_offloading.blocks_per_chunk", 0, "expected at least 1"));
        }
        Ok(())
    }
}

impl KvOffloadingArgs {
    /// Refuses what releases up to 0.15 do not have, or what of it is not known.
    fn check_early(&self) -> Result<(), ConfigError> {
        let defaults = KvOffloadingArgs::default();
        let later = [
            ("kv_offloading.connector", self.connector == OffloadConnector::Simple),
            ("kv_offloading.blocks_per_chunk", self.blocks_per_chunk != defaults.blocks_per_chunk),
            ("kv_offloading.eviction_policy", self.eviction_policy != defaults.eviction_policy),
            ("kv_offloading.store_threshold", self.store_threshold != defaults.store_threshold),
            ("kv_offloading.offload_prompt_only", self.offload_prompt_only == Some(true)),
            ("kv_offloading.sync_load_budget_bytes", self.sync_load_budget_bytes > 0),
        ];
        match later.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((key, _)) => Err(ConfigError::Conflict(message!(
                "{} is given, but {vllm_version} is 0.14, of whose KV offload it is not known: leave one of them out",
                Message::key(key)
            ))),
        }
    }
}

impl EngineArgs {
    /// Whether KV is offloaded to the memory of the host.
    pub fn offloads_kv(&self) -> bool {
        let hicache = self.sglang.as_ref().is_some_and(|sglang| sglang.enable_hierarchical_cache);
        self.kv_offloading_size.is_some() || hicache
    }
}

impl EngineConfig {
    /// What is assumed of the link to the memory of the host, where settings do not say it.
    pub fn assumed_host_link(&self, args: &EngineArgs) -> Option<String> {
        let (rates, key, is_given) = if let Some(offload) = &self.offload {
            let given = args.kv_offloading.clone().unwrap_or_default();
            let is_given = given.store_bandwidth.is_some() && given.load_bandwidth.is_some();
            ([offload.store_rate, offload.load_rate].map(|rate| rate / 1e3), "`kv_offloading` says", is_given)
        } else {
            self.sglang.as_ref()?.hicache.as_ref()?;
            let given = args.sglang.clone().unwrap_or_default();
            let is_given = given.hicache_write_bandwidth.is_some() && given.hicache_load_bandwidth.is_some();
            let key = "`sglang.hicache_write_bandwidth` and `sglang.hicache_load_bandwidth` say";
            (given.host_link(args), key, is_given)
        };
        (!is_given).then(|| {
            format!(
                "KV goes to the host at {} GB/s and comes back at {}, an assumption: {LINK_BANDWIDTH} GB/s for each GPU, as a \
                 PCIe 5.0 link of 16 lanes has; {key} otherwise",
                rates[0], rates[1]
            )
        })
    }

    /// Whether KV is offloaded to the memory of the host.
    pub fn offloads_kv(&self) -> bool {
        self.offload.is_some() || self.sglang.as_ref().is_some_and(|sglang| sglang.hicache.is_some())
    }
}

/// A bandwidth, in bytes a microsecond.
fn rate(key: &str, bandwidth: f64) -> Result<f64, ConfigError> {
    if (1e-6..=1e6).contains(&bandwidth) {
        return Ok(bandwidth * 1e3);
    }
    let problem = "expected 10⁹ bytes a second, from 1e-6 to 1e6";
    Err(ConfigError::wrong(&format!("kv_offloading.{key}"), bandwidth, problem))
}

fn copy_time(us: f64) -> Result<Duration, ConfigError> {
    let problem = format!("expected microseconds from 0 to {MOST_HOST_US:e}");
    let duration = Duration::from_ms(us / 1000.0).ok().filter(|_| Host::is_time(us));
    duration.ok_or_else(|| ConfigError::wrong("kv_offloading.copy_us", us, problem))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn build(changes: &Value) -> Result<KvOffloading, ConfigError> {
        let mut settings = json!({"block_size": 16, "kv_bytes_per_token": 4096, "kv_offloading_size": 1});
        settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let config = EngineArgs::from_json(settings)?.validate(None)?;
        Ok(config.offload.unwrap())
    }

    #[track_caller]
    fn refused(changes: &Value, message: &str) {
        assert_eq!(build(changes).unwrap_err().to_string(), message);
    }

    #[test]
    fn the_host_holds_as_many_chunks_as_fit() {
        assert_eq!(build(&json!({})).unwrap().chunks, 16_384);
        assert_eq!(build(&json!({"kv_offloading": {"blocks_per_chunk": 3}})).unwrap().chunks, 5_461);
        assert_eq!(build(&json!({"kv_offloading_size": 0.5})).unwrap().chunks, 8_192);
    }

    #[test]
    fn a_copy_takes_its_bytes_over_the_bandwidth_in_whole_microseconds() {
        let spec =
            build(&json!({"kv_offloading": {"store_bandwidth": 0.05, "load_bandwidth": 0.1, "copy_us": 7}}));
        let spec = spec.unwrap();
        assert_eq!(spec.copy_time(1, false), Duration::from_ns((7 + 1_311) * 1000));
        assert_eq!(spec.copy_time(2, true), Duration::from_ns((7 + 1_311) * 1000));
        let default = build(&json!({"tensor_parallel_size": 2, "latency": "polynomial"})).unwrap();
        assert_eq!(default.copy_time(100, true), Duration::from_ns((20 + 60) * 1000), "110 GB/s");
    }

    /// Of a release that stores generated blocks, too, and knows fewer settings.
    #[test]
    fn early_releases_have_fewer_settings() {
        let early = |own: Value| json!({"vllm_version": "0.14", "kv_offloading": own});
        assert!(build(&early(json!({"backend": "native", "copy_us": 7}))).unwrap().is_early);
        assert!(!build(&json!({})).unwrap().is_early);
        for (own, key) in [
            (json!({"connector": "simple"}), "connector"),
            (json!({"blocks_per_chunk": 2}), "blocks_per_chunk"),
            (json!({"eviction_policy": "arc"}), "eviction_policy"),
            (json!({"store_threshold": 2}), "store_threshold"),
            (json!({"offload_prompt_only": true}), "offload_prompt_only"),
            (json!({"sync_load_budget_bytes": 1}), "sync_load_budget_bytes"),
        ] {
            let message = format!(
                "`kv_offloading.{key}` is given, but `vllm_version` is 0.14, of whose KV offload it is not known: leave one of \
                 them out"
            );
            refused(&early(own), &message);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let none = json!({"kv_offloading_size": null, "kv_offloading": {}});
        refused(&none, "`kv_offloading` says how KV is offloaded, but `kv_offloading_size` is not given");
        for size in [0.0, -1.0, 2e9] {
            let message = format!("`kv_offloading_size` is {size}: expected GiB above 0, at most 1e9");
            refused(&json!({"kv_offloading_size": size}), &message);
        }
        let small = "`kv_offloading_size` is 0.00005: 65536 bytes are the least that is stored, so that the host would hold 0 \
                     of them: expected 1 to 16777216";
        refused(&json!({"kv_offloading_size": 0.00005}), small);
        refused(
            &json!({"kv_bytes_per_token": null}),
            "`kv_offloading_size` is given, but not `kv_bytes_per_token`, of which it is worked out how many blocks the host \
             holds",
        );
        refused(
            &json!({"enable_prefix_caching": false}),
            "`kv_offloading_size` is given, but `enable_prefix_caching` is false: blocks without identities cannot be found \
             again",
        );
        for changes in [
            json!({"pipeline_parallel_size": 2}),
            json!({"dp_size": 2}),
            json!({"kv_role": "kv_consumer"}),
            json!({"vllm_version": "0.32"}),
            json!({"vllm_version": "0.19"}),
            json!({"reserve_null_block": false}),
            json!({
                "kv_groups": [{"type": "full"}, {"type": "sliding_window", "sliding_window": 16}],
                "kv_offloading": {"connector": "simple"},
            }),
        ] {
            let key = changes.as_object().unwrap().keys().next().unwrap().clone();
            refused(
                &changes,
                &format!(
                    "`kv_offloading_size` does not go together with this `{key}` yet: leave one of them out"
                ),
            );
        }
        refused(
            &json!({"engine_type": "sglang", "block_size": 0}),
            "`kv_offloading_size` is a setting of vLLM, but `engine_type` is `sglang`",
        );
    }

    #[test]
    fn groups_share_blocks_of_as_many_bytes() {
        let window = json!({"type": "sliding_window", "sliding_window": 40});
        let host = |changes: Value| {
            let mut settings = json!({"kv_groups": [{"type": "full"}, window, window]});
            settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let found = build(&settings).unwrap();
            (found.block_bytes, found.chunks)
        };
        // A third of 4,096 bytes a token, in blocks of 16 tokens.
        assert_eq!(host(json!({})), (21_845, 49_152));
        let larger = json!([{"type": "full", "block_size": 32}, window, window]);
        assert_eq!(host(json!({"kv_groups": larger})).0, 26_214);
        assert_eq!(host(json!({"kv_offloading": {"bytes_per_block": 1 << 20}})), (1 << 20, 1 << 10));
        refused(
            &json!({"kv_offloading": {"bytes_per_block": 65536}}),
            "`kv_offloading.bytes_per_block` is for groups of layers, but there are none: give `kv_bytes_per_token`",
        );
        refused(
            &json!({"kv_groups": [{"type": "mamba"}]}),
            "`kv_offloading_size` is given, but not `kv_offloading.bytes_per_block`, which does not follow from \
             `kv_bytes_per_token` where all `kv_groups` are states",
        );
        refused(
            &json!({
                "kv_groups": [{"type": "full"}, window], "prefix_cache_retention_interval": 48,
                "kv_offloading": {"blocks_per_chunk": 2},
            }),
            "`prefix_cache_retention_interval` is 48: beside `kv_offloading_size`, expected `dense`, 0 or a multiple of the 32 \
             tokens of a chunk, as vLLM does",
        );
    }

    #[test]
    fn settings_of_the_other_connector_are_refused() {
        refused(
            &json!({"kv_offloading": {"connector": "simple", "eviction_policy": "arc"}}),
            "`kv_offloading.eviction_policy` is a setting of the other connector, but `kv_offloading.connector` is `simple`",
        );
        refused(
            &json!({"kv_offloading": {"lazy_offload": true}}),
            "`kv_offloading.lazy_offload` is a setting of the other connector, but `kv_offloading.connector` is `offloading`",
        );
        refused(
            &json!({"kv_offloading": {"blocks_per_chunk": 0}}),
            "`kv_offloading.blocks_per_chunk` is 0: expected at least 1",
        );
        refused(
            &json!({"kv_offloading": {"store_bandwidth": 0}}),
            "`kv_offloading.store_bandwidth` is 0: expected 10⁹ bytes a second, from 1e-6 to 1e6",
        );
        refused(
            &json!({"kv_offloading": {"copy_us": -1}}),
            "`kv_offloading.copy_us` is -1: expected microseconds from 0 to 3.6e9",
        );
        refused(
            &json!({"kv_offloading": {"copy": 1}}),
            "unknown key `kv_offloading.copy`, did you mean `kv_offloading.copy_us`?",
        );
    }
}
