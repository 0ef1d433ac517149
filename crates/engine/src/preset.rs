//! Named sets of defaults: what a release of a real engine does when it is simply started.

use serde_json::{Map, Value, json};

use crate::ConfigError;
use crate::args::{KvRole, VllmVersion, WorkerType};
use crate::args_json::canonical_key;

/// The defaults of one release of an engine, which a user's own settings override.
///
/// They are those of `vllm serve` on a large GPU: blocks of 16 tokens, 8,192 tokens and 1,024 requests an iteration,
/// asynchronous scheduling, prefix caching, and vLLM's role in KV transfer if the worker is part of a disaggregated
/// deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnginePreset {
    version: VllmVersion,
}

const PRESETS: [(&str, VllmVersion); 6] = [
    ("vllm-0.14", VllmVersion::V0_14),
    ("vllm-0.19", VllmVersion::V0_19),
    ("vllm-0.24", VllmVersion::V0_24),
    ("vllm-0.28", VllmVersion::V0_28),
    ("vllm-0.32", VllmVersion::V0_32),
    ("vllm-0.33", VllmVersion::V0_33),
];

impl EnginePreset {
    /// The preset of that name, such as `vllm-0.33`.
    pub fn by_name(name: &str) -> Result<Self, ConfigError> {
        if name == "sglang-0.5" {
            let instead = "use a preset of vLLM, such as `vllm-0.33`";
            return Err(ConfigError::Unsupported {
                key: "engine_preset",
                found: format!("`{name}`"),
                instead,
            });
        }
        let known = PRESETS.iter().find(|(known, _)| *known == name);
        known.map(|&(_, version)| Self { version }).ok_or_else(|| {
            let problem = format!("expected one of `{}`", Self::names().collect::<Vec<_>>().join("`, `"));
            ConfigError::wrong("engine_preset", format!("`{name}`"), problem)
        })
    }

    /// The names of all presets, oldest release first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// The keys that it sets for a worker, with their values.
    pub fn settings(&self, worker_type: WorkerType) -> Map<String, Value> {
        let settings = json!({
            "vllm_version": self.version,
            "block_size": 16,
            "max_num_batched_tokens": 8192,
            "max_num_seqs": 1024,
            "async_scheduling": true,
            "enable_prefix_caching": true,
            "scheduler_reserve_full_isl": self.version >= VllmVersion::V0_19,
            "watermark": 0.0,
        });
        let Value::Object(mut settings) = settings else { unreachable!("settings are written as an object") };
        let role = match worker_type {
            WorkerType::Aggregated => None,
            WorkerType::Prefill => Some(KvRole::KvProducer),
            WorkerType::Decode => Some(KvRole::KvConsumer),
        };
        settings.extend(role.map(|role| ("kv_role".to_owned(), json!(role))));
        settings
    }
}

/// The user's settings over those of a preset: a key that the user gives, by whatever name, wins.
///
/// What is not an object is handed back as it is, for [`EngineArgs::from_json`](crate::EngineArgs::from_json) to
/// refuse.
pub fn merge(preset: Map<String, Value>, user: Value) -> Value {
    let Value::Object(user) = user else { return user };
    let mut merged = preset;
    merged.retain(|key, _| !user.keys().any(|given| canonical_key(given) == canonical_key(key)));
    merged.extend(user);
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineArgs;

    #[test]
    fn every_preset_gives_settings_that_an_engine_takes() {
        for name in EnginePreset::names() {
            let preset = EnginePreset::by_name(name).unwrap();
            for worker_type in [WorkerType::Aggregated, WorkerType::Prefill, WorkerType::Decode] {
                let args = EngineArgs::from_json(Value::Object(preset.settings(worker_type))).unwrap();
                assert_eq!(args.validate(None).unwrap().block_size(), 16);
                assert_eq!(args.kv_role.is_some(), worker_type != WorkerType::Aggregated);
                assert_eq!(args.scheduler_reserve_full_isl, name != "vllm-0.14");
                assert_eq!(format!("vllm-{}", json!(args.vllm_version).as_str().unwrap()), name);
            }
        }
    }

    #[test]
    fn unknown_presets_are_refused_with_the_list() {
        assert_eq!(
            EnginePreset::by_name("vllm-1.0").unwrap_err().to_string(),
            "`engine_preset` is `vllm-1.0`: expected one of `vllm-0.14`, `vllm-0.19`, `vllm-0.24`, `vllm-0.28`, \
             `vllm-0.32`, `vllm-0.33`"
        );
        assert_eq!(
            EnginePreset::by_name("sglang-0.5").unwrap_err().to_string(),
            "`engine_preset` is `sglang-0.5`, which is not supported yet: use a preset of vLLM, such as `vllm-0.33`"
        );
    }

    #[test]
    fn the_users_keys_win_by_whatever_name() {
        let preset = json!({"block_size": 16, "max_num_seqs": 1024, "scheduling_policy": "fcfs"});
        let user = json!({"policy": "priority", "max_num_seqs": null});
        let merged = merge(preset.as_object().unwrap().clone(), user);
        assert_eq!(merged, json!({"block_size": 16, "max_num_seqs": null, "policy": "priority"}));
        EngineArgs::from_json(merged).unwrap();
        assert_eq!(merge(Map::new(), json!(3)), json!(3));
    }
}
