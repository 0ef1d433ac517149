//! The settings of a router: one table for JSON, TOML, flags and environment.
//!
//! ```text
//!  KvRouterConfig (what was written) ── validate ──▶ RouterSettings (what holds)
//! ```
//!
//! [`FIELDS`] has a row for every field of [`KvRouterConfig`] with all its names; both come from one macro call, so
//! neither can have a field that the other lacks. Names, defaults and ranges are those of Dynamo's KV router 1.1.1.

mod env;
mod field;
mod overrides;
mod settings;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub use env::{EnvSetting, env_settings};
pub use field::{Field, Kind};
pub use overrides::{EffectiveSettings, RouterConfigOverride};
pub use settings::RouterSettings;

use crate::ConfigError;

/// Order in which parked requests are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueuePolicy {
    /// First come, first served; a priority jump counts as that many seconds earlier.
    #[default]
    Fcfs,
    /// Last come, first served.
    Lcfs,
    /// Weighted shortest processing time: the request with the fewest uncached prompt tokens first.
    Wspt,
}

/// Whether outstanding prefill work is taken to shrink as time goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefillLoadModel {
    /// A prompt counts in full until its prefill is reported as done.
    #[default]
    None,
    /// A prompt counts less and less over its predicted duration.
    Aic,
}

/// Declares [`KvRouterConfig`], its defaults and [`FIELDS`] from one list.
macro_rules! router_config {
    ($(
        #[doc = $doc:literal]
        $(#[$attribute:meta])*
        $key:ident: $kind:ident $type:ty = $default:expr,
        flags [$($flag:literal),*] no [$($no:literal),*] env [$($env:literal),*];
    )*) => {
        /// Settings of a KV router as users write them. A key that is absent has its default.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct KvRouterConfig {
            $(#[doc = $doc] $(#[$attribute])* pub $key: $type,)*
        }

        impl Default for KvRouterConfig {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        /// Every setting with all its names, in the order of [`KvRouterConfig`].
        pub const FIELDS: &[Field] = &[$(Field {
            key: stringify!($key),
            kind: Kind::$kind,
            flags: &[$($flag),*],
            no_flags: &[$($no),*],
            env: &[$($env),*],
            doc: $doc,
        },)*];
    };
}

router_config! {
    #[doc = "Weight of the prefill term of the cost, and of cached blocks where prompt tokens are not tracked; 0 ignores both"]
    overlap_score_weight: Number f64 = 1.0,
    flags ["--router-kv-overlap-score-weight", "--kv-overlap-score-weight"] no []
    env ["SERVECAST_ROUTER_KV_OVERLAP_SCORE_WEIGHT", "DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT", "DYN_OVERLAP_SCORE_WEIGHT"];

    #[doc = "Randomness of the choice: 0 takes the lowest cost, more draws from a softmax over the costs"]
    router_temperature: Number f64 = 0.0,
    flags ["--router-temperature"] no []
    env ["SERVECAST_ROUTER_TEMPERATURE", "DYN_ROUTER_TEMPERATURE"];

    #[doc = "Learn what workers have cached from their KV events; without, predict it from own decisions"]
    use_kv_events: Bool bool = true,
    flags ["--router-kv-events", "--kv-events"] no ["--no-router-kv-events", "--no-kv-events"]
    env ["SERVECAST_ROUTER_USE_KV_EVENTS", "DYN_ROUTER_USE_KV_EVENTS", "DYN_USE_KV_EVENTS"];

    #[doc = "Receive KV events over a durable transport; no effect on the router itself"]
    durable_kv_events: Bool bool = false,
    flags ["--router-durable-kv-events"] no ["--no-router-durable-kv-events"]
    env ["SERVECAST_ROUTER_DURABLE_KV_EVENTS", "DYN_ROUTER_DURABLE_KV_EVENTS"];

    #[doc = "Tell other replicas of the router what was routed; no effect on the router itself"]
    router_replica_sync: Bool bool = false,
    flags ["--router-replica-sync"] no ["--no-router-replica-sync"]
    env ["SERVECAST_ROUTER_REPLICA_SYNC", "DYN_ROUTER_REPLICA_SYNC"];

    #[doc = "Count the blocks of running prompts as load"]
    router_track_active_blocks: Bool bool = true,
    flags ["--router-track-active-blocks"] no ["--no-router-track-active-blocks"]
    env ["SERVECAST_ROUTER_TRACK_ACTIVE_BLOCKS", "DYN_ROUTER_TRACK_ACTIVE_BLOCKS"];

    #[doc = "Count generated blocks as load too, as they are reported"]
    router_track_output_blocks: Bool bool = false,
    flags ["--router-track-output-blocks"] no ["--no-router-track-output-blocks"]
    env ["SERVECAST_ROUTER_TRACK_OUTPUT_BLOCKS", "DYN_ROUTER_TRACK_OUTPUT_BLOCKS"];

    #[doc = "Count blocks that running requests share once; without, every request has blocks of its own"]
    router_assume_kv_reuse: Bool bool = true,
    flags ["--router-assume-kv-reuse"] no ["--no-router-assume-kv-reuse"]
    env ["SERVECAST_ROUTER_ASSUME_KV_REUSE", "DYN_ROUTER_ASSUME_KV_REUSE"];

    #[doc = "Count uncached prompt tokens as load until their prefill is done"]
    router_track_prefill_tokens: Bool bool = true,
    flags ["--router-track-prefill-tokens"] no ["--no-router-track-prefill-tokens"]
    env ["SERVECAST_ROUTER_TRACK_PREFILL_TOKENS", "DYN_ROUTER_TRACK_PREFILL_TOKENS"];

    #[doc = "Let outstanding prefill work shrink over its predicted duration"]
    router_prefill_load_model: Choice PrefillLoadModel = PrefillLoadModel::None,
    flags ["--router-prefill-load-model"] no []
    env ["SERVECAST_ROUTER_PREFILL_LOAD_MODEL", "DYN_ROUTER_PREFILL_LOAD_MODEL"];

    #[doc = "Messages between snapshots of a durable transport; no effect on the router itself"]
    #[serde(deserialize_with = "number_or_none")]
    #[schemars(with = "Option<u64>")]
    router_snapshot_threshold: OptionalInteger Option<u64> = Some(1_000_000),
    flags ["--router-snapshot-threshold"] no []
    env ["SERVECAST_ROUTER_SNAPSHOT_THRESHOLD", "DYN_ROUTER_SNAPSHOT_THRESHOLD"];

    #[doc = "Forget the state of a durable transport at start; no effect on the router itself"]
    router_reset_states: Bool bool = false,
    flags ["--router-reset-states"] no ["--no-router-reset-states"]
    env ["SERVECAST_ROUTER_RESET_STATES", "DYN_ROUTER_RESET_STATES"];

    #[doc = "Without KV events: seconds for which a routed prompt is taken to be cached"]
    router_ttl_secs: Number f64 = 120.0,
    flags ["--router-ttl-secs"] no []
    env ["SERVECAST_ROUTER_TTL_SECS", "DYN_ROUTER_TTL_SECS"];

    #[doc = "Without KV events: predicted blocks, over all ranks, above which the oldest are dropped"]
    router_max_tree_size: Integer u64 = 1_048_576,
    flags ["--router-max-tree-size"] no []
    env ["SERVECAST_ROUTER_MAX_TREE_SIZE", "DYN_ROUTER_MAX_TREE_SIZE"];

    #[doc = "Without KV events: share of the maximum that is left after dropping, from 0 to 1"]
    router_prune_target_ratio: Number f64 = 0.8,
    flags ["--router-prune-target-ratio"] no []
    env ["SERVECAST_ROUTER_PRUNE_TARGET_RATIO", "DYN_ROUTER_PRUNE_TARGET_RATIO"];

    #[doc = "Park requests while every rank has more prefill tokens outstanding than this many of its largest batches; none never parks"]
    #[serde(deserialize_with = "number_or_none")]
    #[schemars(with = "Option<f64>")]
    router_queue_threshold: OptionalNumber Option<f64> = Some(4.0),
    flags ["--router-queue-threshold"] no []
    env ["SERVECAST_ROUTER_QUEUE_THRESHOLD", "DYN_ROUTER_QUEUE_THRESHOLD"];

    #[doc = "Threads that apply KV events in a live router; no effect on decisions"]
    router_event_threads: Integer u64 = 4,
    flags ["--router-event-threads"] no []
    env ["SERVECAST_ROUTER_EVENT_THREADS", "DYN_ROUTER_EVENT_THREADS"];

    #[doc = "Route before any worker is known; no effect on the router itself"]
    skip_initial_worker_wait: Bool bool = false,
    flags [] no []
    env [];

    #[doc = "Order in which parked requests are admitted"]
    router_queue_policy: Choice QueuePolicy = QueuePolicy::Fcfs,
    flags ["--router-queue-policy"] no []
    env ["SERVECAST_ROUTER_QUEUE_POLICY", "DYN_ROUTER_QUEUE_POLICY"];

    #[doc = "Ask another process for overlaps; no effect on the router itself"]
    use_remote_indexer: Bool bool = false,
    flags ["--use-remote-indexer"] no ["--no-use-remote-indexer"]
    env ["SERVECAST_ROUTER_USE_REMOTE_INDEXER", "DYN_USE_REMOTE_INDEXER"];

    #[doc = "Answer other processes' questions for overlaps; no effect on the router itself"]
    serve_indexer: Bool bool = false,
    flags ["--serve-indexer"] no ["--no-serve-indexer"]
    env ["SERVECAST_ROUTER_SERVE_INDEXER", "DYN_SERVE_INDEXER"];
}

/// `null` and `"none"` both switch a limit off: the first in files, the second where only text can be written.
fn number_or_none<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) if text == "none" || text == "null" => Ok(None),
        value => T::deserialize(value).map(Some).map_err(serde::de::Error::custom),
    }
}

impl KvRouterConfig {
    /// The settings in a JSON object; keys that are absent have their defaults.
    pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
        let object = value
            .as_object()
            .ok_or_else(|| ConfigError::NoObject { found: field::kind_of(value).to_owned() })?;
        Self::from_object(object)
    }

    fn from_object(object: &Map<String, Value>) -> Result<Self, ConfigError> {
        for key in object.keys() {
            Field::by_key(key)?;
        }
        serde_path_to_error::deserialize(Value::Object(object.clone())).map_err(|error| {
            let key = error.path().to_string();
            let found = object.get(&key).unwrap_or(&Value::Null);
            let expected = Field::by_key(&key).map_or_else(|_| error.inner().to_string(), Field::expectation);
            ConfigError::wrong(&key, found, expected)
        })
    }

    /// Checks every range and every pair of settings.
    pub fn validate(&self) -> Result<RouterSettings, ConfigError> {
        settings::validate(self)
    }
}
