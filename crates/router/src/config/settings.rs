//! Settings that were checked.

use servecast_types::{Duration, message};

use super::{KvRouterConfig, PrefillLoadModel, QueuePolicy};
use crate::ConfigError;
use crate::index::Lifetime;

/// Settings of a router that hold together. Made by [`KvRouterConfig::validate`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterSettings {
    config: KvRouterConfig,
    lifetime: Lifetime,
}

pub(super) fn validate(config: &KvRouterConfig) -> Result<RouterSettings, ConfigError> {
    not_negative("overlap_score_weight", config.overlap_score_weight)?;
    not_negative("router_temperature", config.router_temperature)?;
    if let Some(threshold) = config.router_queue_threshold {
        not_negative("router_queue_threshold", threshold)?;
    }
    let ratio = config.router_prune_target_ratio;
    if !(0.0..=1.0).contains(&ratio) {
        return Err(ConfigError::wrong("router_prune_target_ratio", ratio, "expected a number from 0 to 1"));
    }
    for (key, value) in [
        ("router_snapshot_threshold", config.router_snapshot_threshold.unwrap_or(1)),
        ("router_max_tree_size", config.router_max_tree_size),
        ("router_event_threads", config.router_event_threads),
    ] {
        if value == 0 {
            return Err(ConfigError::wrong(key, 0, "expected at least 1"));
        }
    }
    let ttl = Duration::from_secs(config.router_ttl_secs).map_err(|_| {
        ConfigError::wrong("router_ttl_secs", config.router_ttl_secs, "expected seconds from 0 to 1.8e10")
    })?;
    check_pairs(config)?;
    let max_entries = usize::try_from(config.router_max_tree_size).unwrap_or(usize::MAX);
    let pruned_entries = (config.router_max_tree_size as f64 * ratio).floor() as usize;
    Ok(RouterSettings { config: config.clone(), lifetime: Lifetime { ttl, max_entries, pruned_entries } })
}

fn check_pairs(config: &KvRouterConfig) -> Result<(), ConfigError> {
    let conflict = |wrong: bool, key, found: &str, problem| {
        let error = ConfigError::Conflict { key, found: found.to_owned(), problem };
        if wrong { Err(error) } else { Ok(()) }
    };
    conflict(
        config.durable_kv_events && !config.use_kv_events,
        "durable_kv_events",
        "true",
        message!("needs {use_kv_events}: set that to true too"),
    )?;
    conflict(
        config.router_track_output_blocks && !config.router_track_active_blocks,
        "router_track_output_blocks",
        "true",
        message!("needs {router_track_active_blocks}: set that to true too"),
    )?;
    let modelled = config.router_prefill_load_model == PrefillLoadModel::Aic;
    conflict(
        modelled && !config.router_track_prefill_tokens,
        "router_prefill_load_model",
        "aic",
        message!("needs {router_track_prefill_tokens}: set that to true too"),
    )?;
    conflict(
        modelled && config.router_queue_policy != QueuePolicy::Fcfs,
        "router_prefill_load_model",
        "aic",
        message!("needs {router_queue_policy} fcfs"),
    )?;
    conflict(
        config.serve_indexer && config.use_remote_indexer,
        "serve_indexer",
        "true",
        message!("excludes {use_remote_indexer}: an index is either here or elsewhere"),
    )?;
    conflict(
        config.serve_indexer && config.overlap_score_weight == 0.0,
        "serve_indexer",
        "true",
        message!("needs an {overlap_score_weight} above 0"),
    )
}

pub(super) fn not_negative(key: &str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(ConfigError::wrong(key, value, "expected a number of at least 0"))
}

impl RouterSettings {
    /// The settings of the router in front of a prefill pool: prompts leave nothing behind there that decodes, so
    /// blocks are not tracked, neither those of prompts nor those of outputs.
    #[must_use]
    pub fn for_prefill_pool(&self) -> Self {
        let config = KvRouterConfig {
            router_track_active_blocks: false,
            router_track_output_blocks: false,
            ..self.config.clone()
        };
        Self { config, lifetime: self.lifetime }
    }

    /// The settings of a router that parks no request, whatever there is to do.
    #[must_use]
    pub fn without_queue(&self) -> Self {
        let config = KvRouterConfig { router_queue_threshold: None, ..self.config.clone() };
        Self { config, lifetime: self.lifetime }
    }

    /// What was checked.
    pub fn config(&self) -> &KvRouterConfig {
        &self.config
    }

    /// Weight of the prefill term of the cost.
    pub fn overlap_score_weight(&self) -> f64 {
        self.config.overlap_score_weight
    }

    /// Randomness of the choice.
    pub fn router_temperature(&self) -> f64 {
        self.config.router_temperature
    }

    /// Whether overlaps come from KV events.
    pub fn use_kv_events(&self) -> bool {
        self.config.use_kv_events
    }

    /// Whether blocks of running prompts count as load.
    pub fn track_active_blocks(&self) -> bool {
        self.config.router_track_active_blocks
    }

    /// Whether generated blocks count as load.
    pub fn track_output_blocks(&self) -> bool {
        self.config.router_track_output_blocks
    }

    /// Whether tracked blocks are shared between requests.
    pub fn assume_kv_reuse(&self) -> bool {
        self.config.router_assume_kv_reuse
    }

    /// Whether uncached prompt tokens count as load.
    pub fn track_prefill_tokens(&self) -> bool {
        self.config.router_track_prefill_tokens
    }

    /// Whether outstanding prefill work shrinks over its predicted duration.
    pub fn prefill_load_model(&self) -> PrefillLoadModel {
        self.config.router_prefill_load_model
    }

    /// How many of its largest batches a rank may have outstanding before it counts as busy; none never parks a request.
    pub fn queue_threshold(&self) -> Option<f64> {
        self.config.router_queue_threshold
    }

    /// Order of parked requests.
    pub fn queue_policy(&self) -> QueuePolicy {
        self.config.router_queue_policy
    }

    /// Life of predictions in an index without events.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// How often a driver that cannot wait for [`crate::Router::next_deadline`] should call
    /// [`crate::Router::advance`]: every 100 ms where parked requests can be freed by time alone, else every 60 s.
    pub fn recheck_interval(&self) -> Duration {
        const MS: u64 = 1_000_000;
        let by_time = self.prefill_load_model() == PrefillLoadModel::Aic && self.queue_threshold().is_some();
        Duration::from_ns(if by_time { 100 * MS } else { 60_000 * MS })
    }
}
