//! Named sets of defaults: what a release of a real engine does when it is simply started.

use serde_json::{Map, Value, json};
use servecast_types::Role;

use crate::args::{EngineType, KvRole, VllmVersion};
use crate::args_json::canonical_key;
use crate::{ConfigError, DisaggregationMode};

/// The defaults of one release of an engine on a large GPU, which a user's own settings override.
///
/// Those of vLLM are blocks of 16 tokens, 8,192 tokens and 1,024 requests an iteration, asynchronous scheduling, prefix
/// caching, and vLLM's role in KV transfer if the worker is part of a disaggregated deployment. Those of SGLang are
/// pages of 1 token, chunks of 8,192 and prefill batches of 16,384 tokens, 2,048 requests, the policy `fcfs`, the overlap
/// schedule, and the side that a worker of a disaggregated deployment is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnginePreset {
    release: Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    Vllm(VllmVersion),
    Sglang,
}

const PRESETS: [(&str, Release); 7] = [
    ("vllm-0.14", Release::Vllm(VllmVersion::V0_14)),
    ("vllm-0.19", Release::Vllm(VllmVersion::V0_19)),
    ("vllm-0.24", Release::Vllm(VllmVersion::V0_24)),
    ("vllm-0.28", Release::Vllm(VllmVersion::V0_28)),
    ("vllm-0.32", Release::Vllm(VllmVersion::V0_32)),
    ("vllm-0.33", Release::Vllm(VllmVersion::V0_33)),
    ("sglang-0.5", Release::Sglang),
];

/// Settings of SGLang that are other names of settings of all engines.
const SGLANG_NAMES: [(&str, &str); 4] = [
    ("page_size", "block_size"),
    ("max_running_requests", "max_num_seqs"),
    ("context_length", "max_model_len"),
    ("context_len", "max_model_len"),
];

impl EnginePreset {
    /// The preset of that name, such as `vllm-0.33`.
    pub fn by_name(name: &str) -> Result<Self, ConfigError> {
        let known = PRESETS.iter().find(|(known, _)| *known == name);
        known.map(|&(_, release)| Self { release }).ok_or_else(|| {
            let problem = format!("expected one of `{}`", Self::names().collect::<Vec<_>>().join("`, `"));
            ConfigError::wrong("engine_preset", format!("`{name}`"), problem)
        })
    }

    /// The engine whose release it is.
    pub fn engine_type(&self) -> EngineType {
        match self.release {
            Release::Vllm(_) => EngineType::Vllm,
            Release::Sglang => EngineType::Sglang,
        }
    }

    /// The names of all presets, by engine, oldest release first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// The keys that it sets for a worker, with their values.
    pub fn settings(&self, worker_type: Role) -> Map<String, Value> {
        let settings = match self.release {
            Release::Vllm(version) => vllm(version, worker_type),
            Release::Sglang => sglang(worker_type),
        };
        let Value::Object(settings) = settings else { unreachable!("settings are written as an object") };
        settings
    }
}

fn vllm(version: VllmVersion, worker_type: Role) -> Value {
    let mut settings = json!({
        "vllm_version": version,
        "block_size": 16,
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 1024,
        "async_scheduling": true,
        "enable_prefix_caching": true,
        "scheduler_reserve_full_isl": version >= VllmVersion::V0_19,
        "watermark": 0.0,
    });
    let role = match worker_type {
        Role::Aggregated => return settings,
        Role::Prefill => KvRole::KvProducer,
        Role::Decode => KvRole::KvConsumer,
    };
    settings["kv_role"] = json!(role);
    settings
}

fn sglang(worker_type: Role) -> Value {
    let mode = match worker_type {
        Role::Aggregated => None,
        Role::Prefill => Some(DisaggregationMode::Prefill),
        Role::Decode => Some(DisaggregationMode::Decode),
    };
    json!({
        "engine_type": EngineType::Sglang,
        "block_size": 1,
        "max_num_seqs": 2048,
        "enable_prefix_caching": true,
        "sglang": {
            "max_prefill_tokens": 16384,
            "chunked_prefill_size": 8192,
            "schedule_policy": "fcfs",
            "schedule_conservativeness": 1.0,
            "enable_mixed_chunk": false,
            "disable_overlap_schedule": false,
            "disaggregation_mode": mode,
        },
    })
}

/// The user's settings over those of a preset: a key that the user gives, by whatever name, wins, and so does one
/// within an object of settings.
///
/// What is not an object is handed back as it is, for [`EngineArgs::from_json`](crate::EngineArgs::from_json) to
/// refuse.
pub fn merge(preset: Map<String, Value>, user: Value) -> Value {
    let Value::Object(user) = user else { return user };
    let section = user.get("sglang").and_then(Value::as_object);
    let names_of_section = SGLANG_NAMES
        .iter()
        .filter(|(name, _)| section.is_some_and(|section| section.contains_key(*name)))
        .map(|(_, general)| *general);
    let given: Vec<&str> = user.keys().map(|key| canonical_key(key)).chain(names_of_section).collect();
    let mut merged = preset;
    merged.retain(|key, value| value.is_object() || !given.contains(&canonical_key(key)));
    lay_over(&mut merged, user);
    Value::Object(merged)
}

/// Lays settings over others, key by key, and so on within objects.
pub fn lay_over(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineArgs;

    #[test]
    fn every_preset_gives_settings_that_an_engine_takes() {
        for name in EnginePreset::names().filter(|name| name.starts_with("vllm")) {
            let preset = EnginePreset::by_name(name).unwrap();
            for worker_type in [Role::Aggregated, Role::Prefill, Role::Decode] {
                let args = EngineArgs::from_json(Value::Object(preset.settings(worker_type))).unwrap();
                assert_eq!(args.validate(None).unwrap().block_size(), 16);
                assert_eq!(args.kv_role.is_some(), worker_type != Role::Aggregated);
                assert_eq!(args.scheduler_reserve_full_isl, name != "vllm-0.14");
                assert_eq!(format!("vllm-{}", json!(args.vllm_version).as_str().unwrap()), name);
            }
        }
    }

    #[test]
    fn the_preset_of_sglang_is_laid_under_settings_by_either_name() {
        let preset = EnginePreset::by_name("sglang-0.5").unwrap();
        assert_eq!(preset.engine_type(), EngineType::Sglang);
        for worker_type in [Role::Aggregated, Role::Prefill, Role::Decode] {
            let build = |user: Value| {
                let args = EngineArgs::from_json(merge(preset.settings(worker_type), user)).unwrap();
                args.validate(None).unwrap()
            };
            let config = build(json!({}));
            assert_eq!((config.block_size(), config.max_num_seqs), (1, 2048));
            // SGLang keeps no prefixes on decode workers.
            assert_eq!(config.enable_prefix_caching, worker_type != Role::Decode);
            assert_eq!(config.paired_stage(), Some(worker_type).filter(|&role| role != Role::Aggregated));
            assert!(config.async_scheduling);
            let sglang = config.sglang.as_ref().unwrap();
            assert_eq!((sglang.max_prefill_tokens, sglang.chunked_prefill_size), (16_384, Some(8_192)));
            for user in [
                json!({"block_size": 16, "max_num_seqs": 4}),
                json!({"sglang": {"page_size": 16, "max_running_requests": 4}}),
            ] {
                let config = build(user);
                assert_eq!((config.block_size(), config.max_num_seqs), (16, 4));
                assert!(config.async_scheduling, "the rest of the preset holds");
            }
        }
    }

    #[test]
    fn unknown_presets_are_refused_with_the_list() {
        assert_eq!(
            EnginePreset::by_name("vllm-1.0").unwrap_err().to_string(),
            "`engine_preset` is `vllm-1.0`: expected one of `vllm-0.14`, `vllm-0.19`, `vllm-0.24`, `vllm-0.28`, \
             `vllm-0.32`, `vllm-0.33`, `sglang-0.5`"
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
