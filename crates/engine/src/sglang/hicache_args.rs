//! Settings of SGLang's second tier in the memory of the host (`HiCache`), by its own names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_latency::MOST_HOST_US;
use servecast_types::{Duration, Message, message};

use super::settings::{SglangArgs, SglangConfig};
use crate::offload_args::{COPY_US, LINK_BANDWIDTH};
use crate::{ConfigError, EngineArgs, EngineConfig};

/// When cached KV is copied to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HicacheWritePolicy {
    /// When it comes to be.
    WriteThrough,
    /// When it is hit: inserted by a second request.
    WriteThroughSelective,
    /// When it is evicted, which waits for that.
    WriteBack,
}

/// The second tier as it is set, checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct HicacheConfig {
    pub(crate) write_policy: HicacheWritePolicy,
    pub(crate) host_tokens: u64,
    pub(crate) write: Duration,
    pub(crate) write_token_ns: u64,
    pub(crate) load: Duration,
    pub(crate) load_token_ns: u64,
}

impl SglangArgs {
    /// The second tier of a pool, if there is one; `config` has the pool and everything else of SGLang.
    pub(super) fn hicache(
        &self,
        args: &EngineArgs,
        config: &EngineConfig,
        own: &SglangConfig,
    ) -> Result<Option<HicacheConfig>, ConfigError> {
        let default = Self::default();
        if !self.enable_hierarchical_cache {
            let given = [
                ("sglang.hicache_ratio", self.hicache_ratio.is_some()),
                ("sglang.hicache_size", self.hicache_size.is_some()),
                ("sglang.hicache_write_policy", self.hicache_write_policy != default.hicache_write_policy),
                ("sglang.hicache_write_bandwidth", self.hicache_write_bandwidth.is_some()),
                ("sglang.hicache_load_bandwidth", self.hicache_load_bandwidth.is_some()),
                ("sglang.hicache_write_us", self.hicache_write_us.is_some()),
                ("sglang.hicache_load_us", self.hicache_load_us.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(ConfigError::Conflict(message!(
                    "{} needs {sglang.enable_hierarchical_cache}: switch that on",
                    Message::key(key)
                ))),
                None => Ok(None),
            };
        }
        if !config.enable_prefix_caching {
            return Err(ConfigError::Conflict(message!(
                "{sglang.enable_hierarchical_cache} needs the prefix cache: leave that on"
            )));
        }
        if own.speculation.is_some() {
            return Err(ConfigError::Conflict(message!(
                "{sglang.enable_hierarchical_cache} does not go together with {sglang.speculative_algorithm} yet: leave one of \
                 them out"
            )));
        }
        let Some(bytes) = args.kv_bytes_per_token.filter(|&bytes| bytes > 0) else {
            return Err(ConfigError::Conflict(message!(
                "{sglang.enable_hierarchical_cache} is given, but not {kv_bytes_per_token}, of which it is worked out how long \
                 copies take"
            )));
        };
        let token_ns = |key: &'static str, bandwidth: f64| {
            if !(1e-6..=1e6).contains(&bandwidth) {
                let problem = "expected 10⁹ bytes a second, from 1e-6 to 1e6";
                return Err(ConfigError::wrong(key, bandwidth, problem));
            }
            Ok((bytes as f64 / bandwidth).round() as u64)
        };
        let fixed = |key: &'static str, given: Option<f64>| {
            let us = given.unwrap_or(COPY_US);
            if !(0.0..=MOST_HOST_US).contains(&us) {
                let problem = format!("expected microseconds from 0 to {MOST_HOST_US:e}");
                return Err(ConfigError::wrong(key, us, problem));
            }
            Ok(Duration::from_ns((us * 1e3).round() as u64))
        };
        let [write_bandwidth, load_bandwidth] = self.host_link(args);
        Ok(Some(HicacheConfig {
            write_policy: self.hicache_write_policy,
            host_tokens: self.host_tokens(config, bytes)?,
            write: fixed("sglang.hicache_write_us", self.hicache_write_us)?,
            write_token_ns: token_ns("sglang.hicache_write_bandwidth", write_bandwidth)?,
            load: fixed("sglang.hicache_load_us", self.hicache_load_us)?,
            load_token_ns: token_ns("sglang.hicache_load_bandwidth", load_bandwidth)?,
        }))
    }

    /// How fast KV goes to the host and comes back, in 10⁹ bytes a second; a link of each GPU, where nobody says.
    pub(crate) fn host_link(&self, args: &EngineArgs) -> [f64; 2] {
        let all_links = LINK_BANDWIDTH * f64::from(args.tensor_parallel_size.unwrap_or(1).max(1));
        [self.hicache_write_bandwidth, self.hicache_load_bandwidth].map(|given| given.unwrap_or(all_links))
    }

    /// Tokens that the host has room for.
    fn host_tokens(&self, config: &EngineConfig, token_bytes: u64) -> Result<u64, ConfigError> {
        let page = u64::from(config.block_size);
        let (key, given, tokens) = match (self.hicache_size, self.hicache_ratio) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Conflict(message!(
                    "{sglang.hicache_size} and {sglang.hicache_ratio} both say how much the host holds: give one of them"
                )));
            }
            (Some(size), None) => ("sglang.hicache_size", size, size * 1e9 / token_bytes as f64),
            (None, ratio) => {
                let ratio = ratio.unwrap_or(DEFAULT_RATIO);
                ("sglang.hicache_ratio", ratio, ratio * config.kv_capacity_tokens() as f64)
            }
        };
        // Rounded where a product of decimals falls short of a whole number.
        let tokens = (tokens + 1e-6).floor();
        if !(page as f64..=MOST_HOST_TOKENS).contains(&tokens) {
            let problem = format!(
                "expected room for at least a page of {page} tokens, and at most {MOST_HOST_TOKENS:e} tokens"
            );
            return Err(ConfigError::wrong(key, given, problem));
        }
        Ok(tokens as u64)
    }
}

/// SGLang's `hicache_ratio`: the host holds so many times what the GPU does.
const DEFAULT_RATIO: f64 = 2.0;

/// More than any host holds.
const MOST_HOST_TOKENS: f64 = 1e12;
