//! Groups of layers that keep different things of a sequence, as settings and as checked.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use servecast_types::message;

use crate::ConfigError;
use crate::args::{EngineArgs, EngineType, VllmVersion};
use crate::config::MAX_SEQUENCE_TOKENS;
use crate::speculation::{MOST_DRAFTS, Speculation};

/// Layers that share a table of blocks, as vLLM's `KVCacheGroupSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvGroupArgs {
    /// What its layers keep of a sequence.
    #[serde(rename = "type")]
    pub kind: KvGroupType,
    /// Tokens a block; `block_size` of the engine where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// `sliding_window`: tokens that are kept, with the one being computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<u32>,
    /// `chunked_local`: tokens are kept since the last multiple of so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// `mamba`: states that drafts need beside the running one; absent, as many as drafts are proposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_speculative_blocks: Option<u32>,
}

/// What the layers of a group keep of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvGroupType {
    /// Keys and values of all tokens.
    Full,
    /// Those of the last tokens.
    SlidingWindow,
    /// Those of the chunk that the token being computed is in.
    ChunkedLocal,
    /// A state, however long the sequence is.
    Mamba,
}

/// Whether states of sequences are kept where other requests can go on from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MambaCacheMode {
    /// A request has one state.
    None,
    /// Iterations end at the ends of blocks, so that states of prefixes can be kept.
    Align,
}

/// Which prefixes of a prompt can be hit in layers that forget: the longest one that the same prompt can hit, and those of
/// each so many tokens; or all of them (`dense`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionInterval {
    /// Every prefix of whole blocks.
    Dense,
    /// One for each so many tokens; 0 for none of these.
    Tokens(u32),
}

impl Serialize for RetentionInterval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Dense => serializer.serialize_str("dense"),
            Self::Tokens(tokens) => serializer.serialize_u32(*tokens),
        }
    }
}

impl<'de> Deserialize<'de> for RetentionInterval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntervalVisitor)
    }
}

struct IntervalVisitor;

impl serde::de::Visitor<'_> for IntervalVisitor {
    type Value = RetentionInterval;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a whole number of tokens or `dense`")
    }

    fn visit_u64<E: serde::de::Error>(self, tokens: u64) -> Result<Self::Value, E> {
        let interval = u32::try_from(tokens).map(RetentionInterval::Tokens);
        interval.map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(tokens), &self))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match text {
            "dense" => Ok(RetentionInterval::Dense),
            // A flag of the command line.
            number => number
                .parse()
                .map(RetentionInterval::Tokens)
                .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for RetentionInterval {
    fn schema_name() -> Cow<'static, str> {
        "RetentionInterval".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "integer", "minimum": 0}, {"const": "dense"}]})
    }
}

/// What a group keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupKind {
    Full,
    SlidingWindow(u32),
    ChunkedLocal(u32),
    /// A state, and `drafts` more that drafts leave behind; `align` if others can hit states.
    Mamba {
        align: bool,
        drafts: u32,
    },
}

/// A group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupSpec {
    pub(crate) kind: GroupKind,
    pub(crate) block_size: u32,
}

/// The groups of an engine that has others than one that keeps everything, and what they go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvGroups {
    pub(crate) specs: Vec<GroupSpec>,
    /// What hits are multiples of, in tokens: a multiple of all block sizes.
    pub(crate) hit_unit: u32,
    /// Tokens that an identity is of: a divisor of all block sizes.
    pub(crate) hash_unit: u32,
    /// The group whose blocks a router learns of, each an identity of `block_size` tokens.
    pub(crate) reported: u32,
    pub(crate) retention: RetentionInterval,
    /// Tokens that can be in flight.
    pub(crate) most_in_flight: u64,
    /// Tokens of the longest request that all blocks hold.
    pub(crate) capacity_tokens: u64,
    /// Whether blocks are kept until the tokens beyond them are known to be computed; before 0.30, only until they are
    /// scheduled.
    pub(crate) waits_for_results: bool,
    /// Whether a chunk ends where the last state is that the same prompt can hit; before 0.30, where the last full block does.
    pub(crate) stops_before_end: bool,
    /// Iterations for which a state cannot be hit, that which computes it among them.
    pub(crate) state_delay: u64,
    /// Tokens at the end of a sequence that no hit covers, since they are computed again or identities cover them.
    pub(crate) never_hit: u32,
    /// Tokens behind those of an iteration for which a drafter needs KV of layers of attention.
    pub(crate) lookahead: u32,
    /// Whether the last block of a hit is not used, so that what is in front of it has to be there, too.
    pub(crate) drops_last_hit: bool,
    /// The last computed tokens, whose draft KV may be written again.
    pub(crate) unsettled: u32,
}

impl GroupSpec {
    /// How many of the first tokens the next token does not attend to, once `computed` tokens are computed.
    pub(crate) fn skipped(self, computed: u32) -> u32 {
        match self.kind {
            GroupKind::Full => 0,
            GroupKind::SlidingWindow(window) => (computed + 1).saturating_sub(window),
            GroupKind::ChunkedLocal(chunk) => computed / chunk * chunk,
            GroupKind::Mamba { .. } => computed.saturating_sub(1),
        }
    }

    /// Blocks that a request holds at most while its prompt is computed, as admission counts them.
    pub(crate) fn most_blocks(self, in_flight: u64, max_model_len: u32) -> u32 {
        let of = |tokens: u64| {
            let tokens = tokens.min(max_model_len.into());
            tokens.div_ceil(self.block_size.into()).min(u32::MAX.into()) as u32
        };
        match self.kind {
            GroupKind::Full | GroupKind::Mamba { .. } => u32::MAX,
            GroupKind::SlidingWindow(window) => of(u64::from(window) - 1 + in_flight).saturating_add(1),
            GroupKind::ChunkedLocal(chunk) => of(u64::from(chunk) + in_flight),
        }
    }

    /// Whether it has states that can be hit.
    pub(crate) fn aligns_states(&self) -> bool {
        matches!(self.kind, GroupKind::Mamba { align: true, .. })
    }

    /// Blocks before a place that a request needs there to go on from it.
    pub(crate) fn blocks_of_window(self, window: u32) -> u32 {
        (window - 1).div_ceil(self.block_size)
    }
}

impl KvGroups {
    /// Blocks that a request of so many tokens holds at most while they are computed.
    pub(crate) fn most_blocks(&self, tokens: u32, max_model_len: u32) -> u32 {
        let with_drafts = tokens.saturating_add(self.lookahead).min(max_model_len.max(tokens));
        let of = |spec: &GroupSpec| {
            if let GroupKind::Mamba { align, drafts } = spec.kind {
                // The running state, the one that it was copied from, and those of drafts.
                return tokens.div_ceil(spec.block_size).min(1 + u32::from(align)) + drafts;
            }
            let most = spec.most_blocks(self.most_in_flight, max_model_len);
            with_drafts.div_ceil(spec.block_size).min(most)
        };
        self.specs.iter().map(of).fold(0, u32::saturating_add)
    }

    /// Blocks that a request takes for its next verification.
    pub(crate) fn verification_blocks(&self, tokens: u32) -> u32 {
        self.specs.iter().map(|spec| tokens.div_ceil(spec.block_size)).sum()
    }

    /// The longest request that fits so many blocks, in tokens.
    pub(crate) fn capacity_of(&self, blocks: u32, max_model_len: u32) -> u64 {
        let (mut fits, mut too_long) = (0, u64::from(MAX_SEQUENCE_TOKENS) + 1);
        while too_long - fits > 1 {
            let middle = fits.midpoint(too_long);
            let needed = self.most_blocks(middle as u32, max_model_len);
            if needed <= blocks { fits = middle } else { too_long = middle }
        }
        fits
    }

    /// After how many of `tokens` tokens the last state is that the same tokens can hit, in units of `size` tokens.
    pub(crate) fn last_state(&self, tokens: u32, size: u32) -> u32 {
        if self.drops_last_hit {
            // What is dropped leaves tokens to compute.
            return (tokens / size * size).saturating_sub(size);
        }
        tokens.saturating_sub(self.never_hit) / size * size
    }

    /// Whether a group has states that can be hit, so that chunks end at the ends of blocks.
    pub(crate) fn aligns_states(&self) -> bool {
        self.specs.iter().any(GroupSpec::aligns_states)
    }
}

impl EngineArgs {
    /// The groups, if there are others than one that keeps everything.
    pub(crate) fn resolved_kv_groups(
        &self,
        speculation: Option<&Speculation>,
    ) -> Result<Option<KvGroups>, ConfigError> {
        self.check_group_settings()?;
        let Some(given) = self.kv_groups.as_deref().filter(|groups| !groups.is_empty()) else {
            self.check_retention(&[])?;
            return Ok(None);
        };
        let specs = given.iter().map(|group| self.group_spec(group)).collect::<Result<Vec<_>, _>>()?;
        if specs.iter().all(|spec| spec.kind == GroupKind::Full) && specs.len() == 1 {
            return Ok(None);
        }
        let of_tokens = |spec: &&GroupSpec| !matches!(spec.kind, GroupKind::Mamba { align: false, .. });
        let sizes = || specs.iter().filter(of_tokens).map(|spec| spec.block_size);
        let hit_unit = sizes().try_fold(1, least_common_multiple).ok_or_else(|| {
            let found = sizes().map(|size| size.to_string()).collect::<Vec<_>>().join(", ");
            ConfigError::wrong(
                "kv_groups",
                found,
                "blocks of these sizes have no multiple in common in reach",
            )
        })?;
        let full = specs.iter().position(|spec| spec.kind == GroupKind::Full);
        let mut groups = KvGroups {
            capacity_tokens: 0,
            hit_unit,
            hash_unit: if self.enable_prefix_caching {
                sizes().fold(0, greatest_common_divisor)
            } else {
                self.resolved_block_size()
            },
            reported: full.unwrap_or(0) as u32,
            retention: self.resolved_retention(hit_unit)?,
            most_in_flight: (u64::from(self.pipeline_parallel_size) + u64::from(self.async_scheduling))
                * u64::from(self.max_num_batched_tokens.unwrap_or(MAX_SEQUENCE_TOKENS)),
            waits_for_results: self.vllm_version > VllmVersion::V0_28,
            stops_before_end: self.vllm_version > VllmVersion::V0_28,
            state_delay: if self.vllm_version == VllmVersion::V0_32 { 2 } else { 1 },
            never_hit: speculation.map_or(1, |speculation| speculation.hash_lookahead.max(1)),
            lookahead: speculation.map_or(0, |speculation| speculation.lookahead),
            drops_last_hit: speculation.is_some_and(|speculation| speculation.drops_last_hit),
            unsettled: speculation.map_or(0, |speculation| speculation.prefill_lookahead.saturating_sub(1)),
            specs,
        };
        self.check_groups(&groups, speculation)?;
        self.check_retention(&groups.specs)?;
        let max_model_len = self.max_model_len.unwrap_or(MAX_SEQUENCE_TOKENS);
        groups.capacity_tokens = groups.capacity_of(self.num_gpu_blocks, max_model_len);
        Ok(Some(groups))
    }

    fn resolved_retention(&self, hit_unit: u32) -> Result<RetentionInterval, ConfigError> {
        let dense = self.vllm_version <= VllmVersion::V0_28;
        let default = if dense { RetentionInterval::Dense } else { RetentionInterval::Tokens(0) };
        let found = self.prefix_cache_retention_interval.unwrap_or(default);
        match found {
            RetentionInterval::Tokens(tokens) if !tokens.is_multiple_of(hit_unit) => Err(ConfigError::wrong(
                "prefix_cache_retention_interval",
                tokens,
                format!(
                    "expected `dense` or a multiple of {hit_unit}, which hits of these `kv_groups` are multiples of"
                ),
            )),
            _ => Ok(found),
        }
    }

    /// An interval without anything that it would be of, which vLLM refuses.
    fn check_retention(&self, specs: &[GroupSpec]) -> Result<(), ConfigError> {
        let sparse =
            |spec: &GroupSpec| matches!(spec.kind, GroupKind::SlidingWindow(_)) || spec.aligns_states();
        match self.prefix_cache_retention_interval {
            Some(RetentionInterval::Tokens(1..)) if !specs.iter().any(sparse) => {
                Err(ConfigError::Conflict(message!(
                    "{prefix_cache_retention_interval} is for layers with a window or with states that can be hit, but there \
                     are none: leave it out"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Settings of groups that are of no engine but vLLM, or of no use.
    fn check_group_settings(&self) -> Result<(), ConfigError> {
        let given = [
            ("kv_groups", self.kv_groups.is_some()),
            ("prefix_cache_retention_interval", self.prefix_cache_retention_interval.is_some()),
            ("mamba_cache_mode", self.mamba_cache_mode.is_some()),
            ("disable_hybrid_kv_cache_manager", self.disable_hybrid_kv_cache_manager.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) if self.engine_type != EngineType::Vllm => Err(ConfigError::Unsupported {
                key,
                found: "given".to_owned(),
                instead: "only vLLM has groups of layers: leave it out, or choose `engine_type` vllm",
            }),
            _ => Ok(()),
        }
    }

    fn group_spec(&self, group: &KvGroupArgs) -> Result<GroupSpec, ConfigError> {
        let wrong =
            |found: String, expected: &str| Err(ConfigError::wrong("kv_groups", found, expected.to_owned()));
        if group.num_speculative_blocks.is_some() && group.kind != KvGroupType::Mamba {
            return wrong(
                "a group with `num_speculative_blocks` of another type".to_owned(),
                "drafts have states of their own only in groups of type `mamba`",
            );
        }
        let kind = match (group.kind, group.sliding_window, group.chunk) {
            (KvGroupType::Full, None, None) => GroupKind::Full,
            (KvGroupType::SlidingWindow, Some(window), None) if window > 0 => {
                GroupKind::SlidingWindow(window)
            }
            (KvGroupType::SlidingWindow, window, None) => {
                let found = format!("a group with `sliding_window` {}", window.unwrap_or(0));
                return wrong(found, "a window holds at least 1 token: give `sliding_window`");
            }
            (KvGroupType::ChunkedLocal, None, Some(chunk)) if chunk > 0 => GroupKind::ChunkedLocal(chunk),
            (KvGroupType::ChunkedLocal, None, chunk) => {
                let found = format!("a group with `chunk` {}", chunk.unwrap_or(0));
                return wrong(found, "a chunk holds at least 1 token: give `chunk`");
            }
            (KvGroupType::Mamba, None, None) => {
                let proposed =
                    self.speculative_config.as_ref().and_then(|given| given.num_speculative_tokens);
                let drafts = group.num_speculative_blocks.or(proposed).unwrap_or(0);
                if drafts > MOST_DRAFTS {
                    return wrong(
                        format!("a group with `num_speculative_blocks` {drafts}"),
                        "no more than 255 drafts are proposed",
                    );
                }
                GroupKind::Mamba { align: self.aligns_states()?, drafts }
            }
            _ => {
                return wrong(
                    "a group with a size of another type".to_owned(),
                    "`sliding_window` is for that type, `chunk` for `chunked_local`",
                );
            }
        };
        let block_size = group.block_size.unwrap_or_else(|| self.resolved_block_size());
        if !(2..=MAX_SEQUENCE_TOKENS).contains(&block_size) {
            return wrong(
                format!("a group with `block_size` {block_size}"),
                "a block holds at least 2 tokens",
            );
        }
        // A state that nobody hits is one, however long a sequence is.
        let is_one = matches!(kind, GroupKind::Mamba { align: false, .. });
        let longest = self.max_model_len.unwrap_or(MAX_SEQUENCE_TOKENS);
        Ok(GroupSpec { kind, block_size: if is_one { block_size.max(longest) } else { block_size } })
    }

    /// Whether states can be hit, as vLLM decides where nothing says so.
    fn aligns_states(&self) -> Result<bool, ConfigError> {
        match self.mamba_cache_mode {
            Some(MambaCacheMode::None) if self.enable_prefix_caching => Err(ConfigError::wrong(
                "mamba_cache_mode",
                "`none`",
                "with `enable_prefix_caching`, expected `align`: vLLM chooses that, too",
            )),
            Some(MambaCacheMode::Align) if !self.enable_prefix_caching => Err(ConfigError::wrong(
                "mamba_cache_mode",
                "`align`",
                "without `enable_prefix_caching`, expected `none`: vLLM chooses that, too",
            )),
            _ => Ok(self.enable_prefix_caching),
        }
    }

    fn check_groups(&self, groups: &KvGroups, speculation: Option<&Speculation>) -> Result<(), ConfigError> {
        let wrong = |found: &str, expected: String| Err(ConfigError::wrong("kv_groups", found, expected));
        if let Some(speculation) = speculation {
            self.check_drafts_beside(groups, speculation)?;
        }
        if !self.reserve_null_block {
            let message = "with `kv_groups`, the null block stands where a request holds none: leave it on";
            return Err(ConfigError::wrong("reserve_null_block", false, message));
        }
        if groups.aligns_states() && groups.specs.iter().any(|spec| spec.block_size != groups.hit_unit) {
            let size = groups.hit_unit;
            return wrong(
                "a group of states in blocks of another size",
                format!(
                    "as vLLM makes them, they are of {size} tokens here, so that all groups have blocks as large"
                ),
            );
        }
        if groups.aligns_states() && !self.enable_chunked_prefill {
            return Err(ConfigError::wrong(
                "enable_chunked_prefill",
                false,
                "prefix caching of states ends chunks where states are kept: leave it on",
            ));
        }
        let chunks = groups.specs.iter().any(|spec| {
            matches!(spec.kind, GroupKind::ChunkedLocal(_)) && spec.block_size != groups.hit_unit
        });
        if chunks {
            return wrong(
                "a group of chunks in blocks of another size",
                format!(
                    "vLLM demands that they are of {} tokens here, a multiple of all others",
                    groups.hit_unit
                ),
            );
        }
        Ok(())
    }
}

impl EngineArgs {
    /// Refuses drafts beside groups where it is not known what the engine does, or where no request could verify any.
    fn check_drafts_beside(&self, groups: &KvGroups, speculation: &Speculation) -> Result<(), ConfigError> {
        let drops = speculation.drops_last_hit && self.enable_prefix_caching;
        let found = "given beside a drafter for which the last block of a prefix hit is computed again";
        if drops && self.vllm_version < VllmVersion::V0_33 {
            return Err(ConfigError::Unsupported {
                key: "kv_groups",
                found: found.to_owned(),
                instead: "use `vllm_version` 0.33, or another `speculative_config.method`",
            });
        }
        if drops && groups.specs.iter().any(|spec| matches!(spec.kind, GroupKind::ChunkedLocal(_))) {
            return Err(ConfigError::Unsupported {
                key: "kv_groups",
                found: format!("of type `chunked_local`, {found}"),
                instead: "vLLM fails with them: leave `kv_role`, `kv_offloading_size` and \
                          `disable_lookahead_block_hashes` out, or use another `speculative_config.method`",
            });
        }
        let rows = 1 + speculation.drafts;
        let longest = self.max_model_len.unwrap_or(MAX_SEQUENCE_TOKENS);
        let (needed, blocks) = (groups.most_blocks(rows, longest), self.num_gpu_blocks.saturating_sub(1));
        if needed > blocks {
            return Err(ConfigError::Conflict(message!(
                "{speculative_config.num_speculative_tokens} is {}: a request needs {} blocks of these {kv_groups} to verify \
                 its drafts, but the KV cache has {}",
                speculation.drafts,
                needed,
                blocks
            )));
        }
        Ok(())
    }
}

pub(crate) fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn least_common_multiple(a: u32, b: u32) -> Option<u32> {
    (a / greatest_common_divisor(a, b)).checked_mul(b).filter(|&multiple| multiple <= MAX_SEQUENCE_TOKENS)
}

#[cfg(test)]
mod tests;
