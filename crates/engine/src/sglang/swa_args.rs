//! Settings of the pool that SGLang gives layers with a sliding window (hybrid SWA memory), by its own names.

use servecast_types::{Message, message};

use super::disaggregation::Disaggregation;
use super::settings::{SglangArgs, SglangConfig};
use crate::{ConfigError, EngineConfig};

/// The pool as it is set, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SwaConfig {
    /// Tokens that a window spans.
    pub(crate) window: u32,
    /// Tokens of the pool, whole pages.
    pub(crate) tokens: u64,
}

/// SGLang's `swa_full_tokens_ratio`.
const DEFAULT_RATIO: f64 = 0.8;

impl EngineConfig {
    /// The pool of windows, where prompts of other workers have to fit into it as a whole: with pages of one token.
    pub(super) fn slots_of_arriving_prompts(&self) -> Option<u64> {
        let sglang = self.sglang.as_ref().filter(|_| self.block_size == 1)?;
        let decodes = matches!(sglang.disaggregation, Some(Disaggregation::Decode(_)));
        sglang.swa.filter(|_| decodes).map(|swa| swa.tokens)
    }
}

impl SglangArgs {
    /// The pool of sliding windows, if there is one; `config` has the other pool and everything else of SGLang.
    pub(super) fn swa(
        &self,
        config: &EngineConfig,
        own: &SglangConfig,
    ) -> Result<Option<SwaConfig>, ConfigError> {
        let Some(window) = self.sliding_window_size else {
            let given = [
                ("sglang.swa_full_tokens_ratio", self.swa_full_tokens_ratio.is_some()),
                ("sglang.disable_hybrid_swa_memory", self.disable_hybrid_swa_memory),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(ConfigError::Conflict(message!(
                    "{} needs {sglang.sliding_window_size}: give the tokens that a window of the model spans",
                    Message::key(key)
                ))),
                None => Ok(None),
            };
        };
        if window == 0 {
            return Err(ConfigError::wrong("sglang.sliding_window_size", window, "expected at least 1"));
        }
        if self.disable_hybrid_swa_memory {
            return match self.swa_full_tokens_ratio {
                Some(_) => Err(ConfigError::Conflict(message!(
                    "{sglang.swa_full_tokens_ratio} is given, but with {sglang.disable_hybrid_swa_memory} there is one pool \
                     for all layers: leave one of them out"
                ))),
                None => Ok(None),
            };
        }
        if !config.enable_prefix_caching {
            return Err(ConfigError::Conflict(message!(
                "{sglang.sliding_window_size} needs the prefix cache: leave that on, or set \
                 {sglang.disable_hybrid_swa_memory}"
            )));
        }
        if own.speculation.is_some() {
            return Err(ConfigError::Conflict(message!(
                "{sglang.sliding_window_size} does not go together with {sglang.speculative_algorithm} yet: leave one of them \
                 out"
            )));
        }
        if own.hicache.is_some() {
            return Err(ConfigError::Conflict(message!(
                "{sglang.sliding_window_size} does not go together with {sglang.enable_hierarchical_cache} yet: leave one of \
                 them out"
            )));
        }
        self.window_pool(config, window).map(Some)
    }

    fn window_pool(&self, config: &EngineConfig, window: u32) -> Result<SwaConfig, ConfigError> {
        let key = "sglang.swa_full_tokens_ratio";
        let ratio = self.swa_full_tokens_ratio.unwrap_or(DEFAULT_RATIO);
        if !(ratio > 0.0 && ratio <= 1.0) {
            return Err(ConfigError::wrong(key, ratio, "expected a number above 0, and at most 1"));
        }
        let page = u64::from(config.block_size);
        // Rounded where a product of decimals falls short of a whole number.
        let tokens = (ratio * config.kv_capacity_tokens() as f64 + 1e-6).floor() as u64 / page * page;
        let least = u64::from(window) + 2 * page;
        if tokens < least {
            let problem = format!(
                "that leaves windows {tokens} tokens, but one of {window} with the pages at its ends needs {least}"
            );
            return Err(ConfigError::wrong(key, ratio, problem));
        }
        Ok(SwaConfig { window, tokens })
    }
}
