//! Settings: one table for JSON, flags and environment.

use serde_json::{Value, json};
use servecast_router::{ConfigError, FIELDS, Field, Kind, KvRouterConfig, PrefillLoadModel, QueuePolicy};

fn message(config: &Value) -> String {
    KvRouterConfig::from_json(config).and_then(|config| config.validate()).unwrap_err().to_string()
}

#[test]
fn every_key_of_the_schema_has_a_row_and_the_defaults_hold_together() {
    let defaults = serde_json::to_value(KvRouterConfig::default()).unwrap();
    let mut keys: Vec<&str> = FIELDS.iter().map(|field| field.key).collect();
    keys.sort_unstable();
    let mut written: Vec<&str> = defaults.as_object().unwrap().keys().map(String::as_str).collect();
    written.sort_unstable();
    assert_eq!(keys, written);
    assert_eq!(KvRouterConfig::from_json(&defaults).unwrap(), KvRouterConfig::default());
    KvRouterConfig::default().validate().unwrap();

    let schema = schemars::schema_for!(KvRouterConfig).to_value();
    let properties = schema["properties"].as_object().unwrap();
    for field in FIELDS {
        assert_eq!(properties[field.key]["description"], field.doc, "{}", field.key);
    }
}

#[test]
fn defaults_are_those_that_users_know() {
    assert_eq!(
        serde_json::to_value(KvRouterConfig::default()).unwrap(),
        json!({
            "overlap_score_weight": 1.0, "router_temperature": 0.0, "use_kv_events": true,
            "durable_kv_events": false, "router_replica_sync": false, "router_track_active_blocks": true,
            "router_track_output_blocks": false, "router_assume_kv_reuse": true,
            "router_track_prefill_tokens": true, "router_prefill_load_model": "none",
            "router_snapshot_threshold": 1_000_000, "router_reset_states": false, "router_ttl_secs": 120.0,
            "router_max_tree_size": 1_048_576, "router_prune_target_ratio": 0.8,
            "router_queue_threshold": 4.0, "router_event_threads": 4, "skip_initial_worker_wait": false,
            "router_queue_policy": "fcfs", "use_remote_indexer": false, "serve_indexer": false,
        })
    );
}

#[test]
fn names_are_unique_and_follow_one_pattern() {
    let all = |names: fn(&Field) -> Vec<&'static str>| {
        let mut all: Vec<&str> = FIELDS.iter().flat_map(names).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        all
    };
    let flags = all(|field| [field.flags, field.no_flags].concat());
    for flag in [
        "--router-track-prefill-tokens",
        "--no-router-track-prefill-tokens",
        "--router-kv-overlap-score-weight",
        "--kv-overlap-score-weight",
        "--no-router-kv-events",
        "--router-queue-policy",
    ] {
        assert!(flags.contains(&flag), "{flag}");
    }
    all(|field| field.env.to_vec());
    for field in FIELDS {
        assert_eq!(field.no_flags.len(), if field.kind == Kind::Bool { field.flags.len() } else { 0 });
        let ours = field.env.iter().filter(|name| name.starts_with("SERVECAST_ROUTER_"));
        assert_eq!(ours.count(), usize::from(!field.env.is_empty()), "{}", field.key);
        assert!(field.env.first().is_none_or(|name| name.starts_with("SERVECAST_")), "ours wins");
    }
}

#[test]
fn json_is_refused_with_key_value_and_what_would_be_right() {
    for (config, expected) in [
        (json!([]), "expected a JSON object such as {\"router_temperature\": 0.5}, found an array"),
        (
            json!({"router_temprature": 1}),
            "unknown router setting `router_temprature`, did you mean `router_temperature`?",
        ),
        (
            json!({"temperature": 1}),
            "unknown router setting `temperature`, did you mean `router_temperature`?",
        ),
        (json!({"banana": 1}), "unknown router setting `banana`"),
        (json!({"router_temperature": "hot"}), "`router_temperature` is \"hot\": expected a number"),
        (json!({"router_temperature": -1}), "`router_temperature` is -1: expected a number of at least 0"),
        (
            json!({"overlap_score_weight": -0.5}),
            "`overlap_score_weight` is -0.5: expected a number of at least 0",
        ),
        (json!({"use_kv_events": 1}), "`use_kv_events` is 1: expected true or false"),
        (
            json!({"router_queue_policy": "sjf"}),
            "`router_queue_policy` is \"sjf\": expected one of fcfs, lcfs, wspt",
        ),
        (
            json!({"router_queue_threshold": "some"}),
            "`router_queue_threshold` is \"some\": expected a number, or null or \"none\" to switch it off",
        ),
        (json!({"router_max_tree_size": 0}), "`router_max_tree_size` is 0: expected at least 1"),
        (json!({"router_event_threads": 0}), "`router_event_threads` is 0: expected at least 1"),
        (json!({"router_snapshot_threshold": 0}), "`router_snapshot_threshold` is 0: expected at least 1"),
        (
            json!({"router_event_threads": -1}),
            "`router_event_threads` is -1: expected a whole number, not negative",
        ),
        (
            json!({"router_prune_target_ratio": 1.5}),
            "`router_prune_target_ratio` is 1.5: expected a number from 0 to 1",
        ),
        (json!({"router_ttl_secs": -1}), "`router_ttl_secs` is -1: expected seconds from 0 to 1.8e10"),
    ] {
        assert_eq!(message(&config), expected);
    }
}

#[test]
fn settings_that_exclude_each_other_are_refused_by_name() {
    for (config, keys) in [
        (json!({"durable_kv_events": true, "use_kv_events": false}), ["durable_kv_events", "use_kv_events"]),
        (
            json!({"router_track_output_blocks": true, "router_track_active_blocks": false}),
            ["router_track_output_blocks", "router_track_active_blocks"],
        ),
        (
            json!({"router_prefill_load_model": "aic", "router_track_prefill_tokens": false}),
            ["router_prefill_load_model", "router_track_prefill_tokens"],
        ),
        (
            json!({"router_prefill_load_model": "aic", "router_queue_policy": "wspt"}),
            ["router_prefill_load_model", "router_queue_policy"],
        ),
        (json!({"serve_indexer": true, "use_remote_indexer": true}), ["serve_indexer", "use_remote_indexer"]),
        (
            json!({"serve_indexer": true, "overlap_score_weight": 0}),
            ["serve_indexer", "overlap_score_weight"],
        ),
    ] {
        let message = message(&config);
        assert!(keys.iter().all(|key| message.contains(key)), "{message}");
    }
}

#[test]
fn a_threshold_can_be_switched_off_wherever_it_is_written() {
    for off in [json!(null), json!("none")] {
        let config = KvRouterConfig::from_json(&json!({"router_queue_threshold": off})).unwrap();
        assert_eq!(config.router_queue_threshold, None);
    }
    let config = KvRouterConfig::from_env([("DYN_ROUTER_QUEUE_THRESHOLD", "none")]).unwrap();
    assert_eq!(config.router_queue_threshold, None);
    let zero = KvRouterConfig::from_json(&json!({"router_queue_threshold": 0})).unwrap();
    assert_eq!(zero.validate().unwrap().queue_threshold(), Some(0.0));
}

#[test]
fn the_environment_uses_the_same_table_and_our_names_win() {
    let config = KvRouterConfig::from_env([
        ("PATH", "/bin"),
        ("SERVECAST_ROUTER_TEMPERATURE", "0.5"),
        ("DYN_ROUTER_TEMPERATURE", "0.7"),
        ("DYN_ROUTER_TRACK_PREFILL_TOKENS", "off"),
        ("DYN_OVERLAP_SCORE_WEIGHT", "3"),
        ("DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT", "2"),
        ("DYN_ROUTER_QUEUE_POLICY", "LCFS"),
        ("SERVECAST_ROUTER_PREFILL_LOAD_MODEL", "none"),
        ("DYN_ROUTER_USE_KV_EVENTS", "Yes"),
    ]);
    let expected = KvRouterConfig {
        router_temperature: 0.5,
        router_track_prefill_tokens: false,
        overlap_score_weight: 2.0,
        router_queue_policy: QueuePolicy::Lcfs,
        router_prefill_load_model: PrefillLoadModel::None,
        ..KvRouterConfig::default()
    };
    assert_eq!(config, Ok(expected));
}

#[test]
fn a_bad_value_in_the_environment_is_an_error_even_where_another_name_wins() {
    for (variables, expected) in [
        (
            vec![("SERVECAST_ROUTER_TEMPERATURE", "1"), ("DYN_ROUTER_TEMPERATURE", "warm")],
            "`DYN_ROUTER_TEMPERATURE` is `warm`: expected a number",
        ),
        (
            vec![("DYN_ROUTER_TRACK_ACTIVE_BLOCKS", "2")],
            "`DYN_ROUTER_TRACK_ACTIVE_BLOCKS` is `2`: expected true, 1, yes or on, or false, 0, no or off",
        ),
        (
            vec![("DYN_ROUTER_QUEUE_POLICY", "best")],
            "`DYN_ROUTER_QUEUE_POLICY` is `best`: expected one of fcfs, lcfs, wspt",
        ),
        (vec![("DYN_ROUTER_TTL_SECS", "nan")], "`DYN_ROUTER_TTL_SECS` is `nan`: expected a number"),
    ] {
        assert_eq!(KvRouterConfig::from_env(variables).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_variable_with_all_settings_lies_between_our_single_ones_and_those_of_others() {
    let whole = ("SERVECAST_ROUTER_CONFIG", r#"{"router_temperature": 0.5, "router_ttl_secs": 3}"#);
    let config = KvRouterConfig::from_env([
        whole,
        ("DYN_ROUTER_TEMPERATURE", "0.7"),
        ("SERVECAST_ROUTER_TTL_SECS", "3.0"),
        ("SERVECAST_ROUTER_QUEUE_THRESHOLD", "2"),
        ("SERVECAST_ROUTER_USE_KV_EVENTS", ""),
        ("SERVECAST_ROUTER_MODE", "random"),
        ("SERVECAST_NUM_WORKERS", "3"),
    ]);
    let expected = KvRouterConfig {
        router_temperature: 0.5,
        router_ttl_secs: 3.0,
        router_queue_threshold: Some(2.0),
        ..KvRouterConfig::default()
    };
    assert_eq!(config, Ok(expected));
    for (variables, expected) in [
        (
            vec![whole, ("SERVECAST_ROUTER_TTL_SECS", "4")],
            "`SERVECAST_ROUTER_TTL_SECS` is 4.0, but `SERVECAST_ROUTER_CONFIG` has `router_ttl_secs` 3: give it once",
        ),
        (
            vec![("SERVECAST_ROUTER_CONFIG", "[1]")],
            "`SERVECAST_ROUTER_CONFIG` is `[1]`: expected a JSON object with settings",
        ),
        (
            vec![("SERVECAST_ROUTER_CONFIG", r#"{"router_ttl_sec": 1}"#)],
            "unknown router setting `router_ttl_sec`, did you mean `router_ttl_secs`?",
        ),
        (
            vec![("SERVECAST_ROUTER_TEMPERATUR", "1")],
            "unknown environment variable `SERVECAST_ROUTER_TEMPERATUR`, did you mean `SERVECAST_ROUTER_TEMPERATURE`?",
        ),
        (
            vec![("servecast_router_ttl_secs", "1")],
            "unknown environment variable `servecast_router_ttl_secs`, did you mean `SERVECAST_ROUTER_TTL_SECS`?",
        ),
        (
            vec![("SERVECAST_ROUTER_ON_THE_MOON", "1")],
            "unknown environment variable `SERVECAST_ROUTER_ON_THE_MOON`",
        ),
    ] {
        assert_eq!(KvRouterConfig::from_env(variables).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_router_of_a_prefill_pool_tracks_no_blocks_at_all() {
    let config = KvRouterConfig { router_track_output_blocks: true, ..KvRouterConfig::default() };
    let prefill = config.validate().unwrap().for_prefill_pool();
    assert!(!prefill.config().router_track_active_blocks && !prefill.config().router_track_output_blocks);
    prefill.config().validate().unwrap();
}

#[test]
fn the_queue_is_rechecked_often_only_where_time_alone_frees_it() {
    for (model, threshold, ms) in [
        (PrefillLoadModel::None, Some(4.0), 60_000.0),
        (PrefillLoadModel::Aic, None, 60_000.0),
        (PrefillLoadModel::Aic, Some(4.0), 100.0),
    ] {
        let config = KvRouterConfig {
            router_prefill_load_model: model,
            router_queue_threshold: threshold,
            ..KvRouterConfig::default()
        };
        assert!((config.validate().unwrap().recheck_interval().as_ms() - ms).abs() < 1e-9);
    }
}

#[test]
fn an_error_can_be_told_apart_by_kind() {
    let error = KvRouterConfig::from_json(&json!({"router_ttl_sec": 1})).unwrap_err();
    assert!(matches!(error, ConfigError::UnknownKey { similar: Some(key), .. } if key == "router_ttl_secs"));
}
