//! Reads [`EngineArgs`] from JSON, with errors that name the key, what was found and what would be right.

use serde::Serialize;
use serde_json::{Map, Value};
use servecast_types::{Message, Mistyped, message, typed};

use crate::args::{EngineArgs, TrtllmArgs};
use crate::error::{check_key, json_kind};
use crate::{ConfigError, HostArgs, KvOffloadingArgs, SglangArgs, SpeculativeArgs};

/// Other names of settings, each with the one that it stands for.
const ALIASES: [(&str, &str); 3] = [
    ("policy", "scheduling_policy"),
    ("kv_transfer_bytes_per_token", "kv_bytes_per_token"),
    ("sglang.context_len", "sglang.context_length"),
];

impl EngineArgs {
    /// Reads settings from a JSON object; unknown keys and values of the wrong type are errors.
    pub fn from_json(value: Value) -> Result<Self, ConfigError> {
        let Value::Object(settings) = value else {
            return Err(ConfigError::NoObject { found: json_kind(&value) });
        };
        check_keys("", &settings, &Self::keys())?;
        for (section, own) in Self::sections() {
            match settings.get(section) {
                Some(Value::Object(given)) => {
                    let prefix = format!("{section}.");
                    let known = own.iter().map(|name| prefix.clone() + name).collect::<Vec<_>>();
                    check_keys(&prefix, given, &known)?;
                }
                None | Some(Value::Null) => {}
                Some(other) => return Err(ConfigError::wrong(section, other, "expected an object")),
            }
        }
        let settings = Value::Object(settings);
        typed(&settings).map_err(|mistyped: Mistyped| {
            let found = mistyped.found(&settings).map_or_else(|| "absent".to_owned(), Value::to_string);
            ConfigError::wrong(&mistyped.path, found, format!("expected {}", mistyped.expected))
        })
    }

    /// All keys that [`EngineArgs::from_json`] knows, aliases included.
    pub fn keys() -> Vec<String> {
        let aliases = ALIASES.map(|(alias, _)| alias.to_owned()).into_iter();
        names(Self::default()).chain(aliases.filter(|alias| !alias.contains('.'))).collect()
    }

    /// The keys within a setting that is an object of its own, aliases included; none for others.
    pub fn section_keys(key: &str) -> Vec<String> {
        Self::sections()
            .into_iter()
            .find(|(section, _)| *section == key)
            .map_or_else(Vec::new, |(_, keys)| keys)
    }

    /// The settings that are objects of their own, with the keys of each.
    pub fn sections() -> [(&'static str, Vec<String>); 5] {
        let sglang = names(SglangArgs::default()).chain(["context_len".to_owned()]);
        let trtllm = names(TrtllmArgs::default());
        let host = names(HostArgs::default());
        let speculative = names(SpeculativeArgs::default());
        let offloading = names(KvOffloadingArgs::default());
        [
            ("sglang", sglang.collect()),
            ("trtllm", trtllm.collect()),
            ("host", host.collect()),
            ("speculative_config", speculative.collect()),
            ("kv_offloading", offloading.collect()),
        ]
    }
}

/// The names of the settings in an object.
fn names(defaults: impl Serialize) -> impl Iterator<Item = String> {
    let Ok(Value::Object(defaults)) = serde_json::to_value(defaults) else {
        unreachable!("settings are written as an object");
    };
    defaults.into_iter().map(|(name, _)| name)
}

/// Refuses keys that are unknown or given by two names; `prefix` is that of the section.
fn check_keys(prefix: &str, settings: &Map<String, Value>, known: &[String]) -> Result<(), ConfigError> {
    for key in settings.keys() {
        let key = format!("{prefix}{key}");
        check_key(&key, known)?;
        let name = canonical_key(&key);
        if name != key && settings.contains_key(&name[prefix.len()..]) {
            return Err(ConfigError::Conflict(message!(
                "{} is another name of {}: give one of them",
                Message::key(&key),
                Message::key(name)
            )));
        }
    }
    Ok(())
}

/// The name of a setting that may be given by another one.
pub(crate) fn canonical_key(key: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{SchedulingPolicy, VllmVersion};

    #[track_caller]
    fn refused(settings: Value, message: &str) {
        assert_eq!(EngineArgs::from_json(settings).unwrap_err().to_string(), message);
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        refused(json!([1]), r#"expected a JSON object such as {"block_size": 64}, found an array"#);
        refused(json!(null), r#"expected a JSON object such as {"block_size": 64}, found null"#);
        refused(json!({"blok_size": 16}), "unknown key `blok_size`, did you mean `block_size`?");
        refused(json!({"no_such_thing": 2}), "unknown key `no_such_thing`");
        refused(json!({"aic_tp": 2}), "unknown key `aic_tp`");
    }

    #[test]
    fn settings_of_other_tools_are_answered_by_what_they_mean() {
        for (key, sentence) in [
            ("tp_size", "`tensor_parallel_size` how many GPUs share each layer"),
            ("num_g2_blocks", "KV cache outside the GPU"),
            ("max_batch_size", "`max_num_seqs` is how many requests run at a time"),
        ] {
            let error = EngineArgs::from_json(json!({key: 1})).unwrap_err().to_string();
            assert!(error.starts_with(&format!("unknown key `{key}`: ")), "{error}");
            assert!(error.contains(sentence) && !error.contains("did you mean"), "{error}");
        }
        let error = EngineArgs::from_json(json!({"sglang": {"mem_fraction_static": 0.8}})).unwrap_err();
        assert!(error.to_string().contains("`gpu_memory_utilization` is the share"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named_with_what_would_be_right() {
        let whole = "expected a whole number from 0 to 4294967295";
        refused(json!({"block_size": "16"}), &format!("`block_size` is \"16\": {whole}"));
        refused(json!({"num_gpu_blocks": -1}), &format!("`num_gpu_blocks` is -1: {whole}"));
        refused(json!({"max_num_seqs": 1.5}), &format!("`max_num_seqs` is 1.5: {whole}"));
        refused(json!({"block_size": null}), &format!("`block_size` is null: {whole}"));
        refused(
            json!({"bootstrap_port": 70000}),
            "`bootstrap_port` is 70000: expected a whole number from 0 to 65535",
        );
        let whole = "expected a whole number from 0 to 18446744073709551615";
        refused(
            json!({"kv_transfer_bytes_per_token": -8}),
            &format!("`kv_transfer_bytes_per_token` is -8: {whole}"),
        );
        refused(json!({"watermark": "low"}), "`watermark` is \"low\": expected a number");
        refused(json!({"async_scheduling": 1}), "`async_scheduling` is 1: expected true or false");
        refused(json!({"latency": 3}), "`latency` is 3: expected a string");
        refused(json!({"reasoning": []}), "`reasoning` is []: expected an object");
    }

    #[test]
    fn settings_of_a_section_are_named_with_it() {
        refused(json!({"sglang": 3}), "`sglang` is 3: expected an object");
        refused(json!({"trtllm": []}), "`trtllm` is []: expected an object");
        refused(
            json!({"sglang": {"pagesize": 3}}),
            "unknown key `sglang.pagesize`, did you mean `sglang.page_size`?",
        );
        refused(
            json!({"trtllm": {"capacity_scheduler": 1}}),
            "unknown key `trtllm.capacity_scheduler`, did you mean `trtllm.capacity_scheduler_policy`?",
        );
        refused(
            json!({"sglang": {"page_size": -1}}),
            "`sglang.page_size` is -1: expected a whole number from 0 to 4294967295",
        );
        refused(
            json!({"sglang": {"chunked_prefill_size": "8k"}}),
            "`sglang.chunked_prefill_size` is \"8k\": expected a whole number",
        );
        refused(
            json!({"sglang": {"enable_mixed_chunk": "yes"}}),
            "`sglang.enable_mixed_chunk` is \"yes\": expected true or false",
        );
        let policies = "expected one of `fcfs`, `fifo`, `lpm`, `lof`, `dfs-weight`, `random`, `hrrn`, \
                 `shortest-prefill-first`, `routing-key`";
        for policy in [json!("sjf"), json!(3), json!(null)] {
            let message = format!("`sglang.schedule_policy` is {policy}: {policies}");
            refused(json!({"sglang": {"schedule_policy": policy}}), &message);
        }
        refused(
            json!({"sglang": {"radix_eviction_policy": "lfu"}}),
            "`sglang.radix_eviction_policy` is \"lfu\": expected `lru`",
        );
        refused(
            json!({"trtllm": {"capacity_scheduler_policy": true}}),
            "`trtllm.capacity_scheduler_policy` is true: expected one of `guaranteed_no_evict`, \
             `max_utilization`, `static_batch`",
        );
        refused(
            json!({"sglang": {"context_len": 5, "context_length": 5}}),
            "`sglang.context_len` is another name of `sglang.context_length`: give one of them",
        );
        let args = EngineArgs::from_json(json!({"sglang": {"context_len": 5}})).unwrap();
        assert_eq!(args.sglang.unwrap().context_length, Some(5));
    }

    #[test]
    fn named_values_are_listed() {
        refused(json!({"policy": "lifo"}), "`policy` is \"lifo\": expected `fcfs` or `priority`");
        refused(
            json!({"kv_role": "kv_both"}),
            "`kv_role` is \"kv_both\": expected `kv_producer` or `kv_consumer`",
        );
        let versions = "expected one of `0.14`, `0.19`, `0.24`, `0.28`, `0.32`, `0.33`";
        refused(json!({"vllm_version": "0.30"}), &format!("`vllm_version` is \"0.30\": {versions}"));
        refused(json!({"vllm_version": 0.33}), &format!("`vllm_version` is 0.33: {versions}"));
        refused(
            json!({"engine_type": null}),
            "`engine_type` is null: expected one of `vllm`, `sglang`, `trtllm`",
        );
    }

    #[test]
    fn another_name_stands_for_a_setting_but_not_beside_it() {
        let args =
            EngineArgs::from_json(json!({"policy": "priority", "kv_transfer_bytes_per_token": 8})).unwrap();
        assert_eq!((args.scheduling_policy, args.kv_bytes_per_token), (SchedulingPolicy::Priority, Some(8)));
        refused(
            json!({"policy": "fcfs", "scheduling_policy": "fcfs"}),
            "`policy` is another name of `scheduling_policy`: give one of them",
        );
        refused(
            json!({"kv_bytes_per_token": 8, "kv_transfer_bytes_per_token": 8}),
            "`kv_transfer_bytes_per_token` is another name of `kv_bytes_per_token`: give one of them",
        );
    }

    #[test]
    fn null_lifts_a_limit_and_absence_is_the_default() {
        let args = EngineArgs::from_json(json!({"max_num_seqs": null})).unwrap();
        assert_eq!(args, EngineArgs { max_num_seqs: None, ..EngineArgs::default() });
        assert_eq!(EngineArgs::from_json(json!({})).unwrap(), EngineArgs::default());
    }

    #[test]
    fn settings_survive_a_round_trip() {
        let args = EngineArgs { vllm_version: VllmVersion::V0_24, watermark: 0.01, ..EngineArgs::default() };
        assert_eq!(EngineArgs::from_json(serde_json::to_value(&args).unwrap()).unwrap(), args);
    }
}
