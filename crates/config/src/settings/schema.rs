//! The JSON Schema of the settings, and their defaults in schema and help.

use std::sync::LazyLock;

use clap::Command;
use serde_json::{Map, Value, json};
use servecast_cluster::{DEFAULT_PREFIX_HASH_BLOCKS, RouterMode};
use servecast_engine::{EngineArgs, KvTransferSharing};
use servecast_workload::{SyntheticSpec, Turns};

use super::{DEFAULT_SEED, DEFAULT_TRACE_BLOCK_SIZE, Format, ReplayConfig, ReplayMode, engine, router};

/// What keys mean that are not given, as far as that is a value. Made once: a command asks for each of its flags.
static DEFAULTS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let synthetic = SyntheticSpec::new(1, 1, 1);
    let own = [
        ("trace_block_size", json!(DEFAULT_TRACE_BLOCK_SIZE)),
        ("turns", json!(Turns::default())),
        ("arrival_speedup_ratio", json!(1.0)),
        ("replay_mode", json!(ReplayMode::Offline)),
        ("speed", json!(1.0)),
        ("seed", json!(DEFAULT_SEED)),
        ("arrival_interval_ms", json!(synthetic.arrival_interval_ms)),
        ("arrival_process", json!(synthetic.arrival_process)),
        ("turns_per_session", json!(synthetic.turns_per_session)),
        ("inter_turn_delay_ms", json!(synthetic.inter_turn_delay_ms)),
        ("shared_prefix_ratio", json!(synthetic.shared_prefix_ratio)),
        ("num_prefix_groups", json!(synthetic.num_prefix_groups)),
        ("length_distribution", json!(synthetic.length_distribution)),
        ("length_spread", json!(synthetic.length_spread)),
        ("num_workers", json!(1)),
        ("page_size", json!(1)),
        ("router_mode", json!(RouterMode::default())),
        ("prefix_hash_blocks", json!(DEFAULT_PREFIX_HASH_BLOCKS)),
        ("block_size", json!(EngineArgs::default().resolved_block_size())),
        ("max_running_requests", json!(EngineArgs::default().max_num_seqs)),
        ("latency", json!("polynomial")),
        ("kv_transfer_sharing", json!(KvTransferSharing::Dedicated)),
        ("format", json!(Format::default())),
        ("kv_event_delay_ms", json!(0.0)),
        ("quiet", json!(false)),
        ("check", json!(false)),
        ("overwrite", json!(false)),
    ];
    let mut defaults = router::default_settings();
    defaults.extend(engine::default_settings());
    defaults.extend(own.map(|(key, value)| (key.to_owned(), value)));
    defaults
});

/// The schema of a configuration file.
pub fn config_schema() -> Value {
    let mut schema = schemars::schema_for!(ReplayConfig).to_value();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (key, property) in properties {
            if let (Some(property), Some(default)) = (property.as_object_mut(), DEFAULTS.get(key)) {
                property.insert("default".to_owned(), default.clone());
            }
        }
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("unevaluatedProperties");
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    // The order of keys must not depend on the features of serde_json that other crates switch on.
    schema.sort_all_objects();
    schema
}

/// Adds the defaults to the help of a command's flags, but to those that say what theirs is.
pub fn with_defaults(command: Command) -> Command {
    command.mut_args(|arg| {
        let Some(default) = DEFAULTS.get(arg.get_id().as_str()) else { return arg };
        let default = default.as_str().map_or_else(|| default.to_string(), ToOwned::to_owned);
        match arg.get_help().map(ToString::to_string) {
            Some(help) if !help.contains("[default: ") => arg.help(format!("{help} [default: {default}]")),
            _ => arg,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::keys::keys;
    use super::*;

    #[test]
    fn the_schema_describes_every_key() {
        let schema = config_schema();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(
            properties.keys().cloned().collect::<std::collections::BTreeSet<_>>(),
            keys().into_iter().collect()
        );
        for (key, property) in properties {
            assert!(property["description"].is_string(), "{key}");
        }
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn defaults_are_those_of_the_engines() {
        for (key, default) in [
            ("engine", json!("vllm")),
            ("gpu_memory_utilization", json!(0.9)),
            ("num_gpu_blocks", json!(EngineArgs::default().num_gpu_blocks)),
            ("speedup_ratio", json!(1.0)),
            ("schedule_policy", json!("fcfs")),
            ("chunked_prefill_size", json!(8192)),
            ("router_temperature", json!(0.0)),
        ] {
            assert_eq!(DEFAULTS.get(key), Some(&default), "{key}");
        }
        for key in ["model", "max_model_len", "gap_us", "context_length", "dp_size", "trace_file"] {
            assert_eq!(DEFAULTS.get(key), None, "{key}");
        }
    }
}
