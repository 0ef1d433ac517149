use serde_json::{Value, json};

use super::*;

fn groups(settings: Value) -> Result<Option<KvGroups>, ConfigError> {
    let args = EngineArgs::from_json(settings)?;
    args.resolved_kv_groups(args.speculation()?.as_ref())
}

#[track_caller]
fn refused(settings: Value, message: &str) {
    assert_eq!(groups(settings).unwrap_err().to_string(), message);
}

fn with_full(other: &Value) -> Value {
    json!({"block_size": 16, "kv_groups": [other, {"type": "full"}]})
}

#[test]
fn one_group_that_keeps_everything_is_none() {
    assert_eq!(groups(json!({})).unwrap(), None);
    assert_eq!(groups(json!({"kv_groups": []})).unwrap(), None);
    assert_eq!(groups(json!({"kv_groups": [{"type": "full"}]})).unwrap(), None);
}

#[test]
fn hits_are_multiples_of_all_blocks_and_identities_of_a_common_part() {
    let window = json!({"type": "sliding_window", "sliding_window": 100, "block_size": 24});
    let found = groups(with_full(&window)).unwrap().unwrap();
    assert_eq!((found.hit_unit, found.hash_unit, found.reported), (48, 8, 1));
    assert_eq!(found.retention, RetentionInterval::Tokens(0));
    let mut before = with_full(&json!({"type": "mamba"}));
    before["vllm_version"] = "0.28".into();
    let before = groups(before).unwrap().unwrap();
    assert_eq!((before.retention, before.waits_for_results), (RetentionInterval::Dense, false));
}

#[test]
fn a_request_holds_a_window_and_what_can_be_in_flight() {
    let window = json!({"type": "sliding_window", "sliding_window": 128});
    let mut settings = with_full(&window);
    settings["max_num_batched_tokens"] = 256.into();
    let found = groups(settings.clone()).unwrap().unwrap();
    // 25 blocks instead of 63, as recorded, beside all 63.
    assert_eq!(found.most_blocks(1000, 4096), 25 + 63);
    assert_eq!(found.most_blocks(100, 4096), 7 + 7);
    assert_eq!(found.capacity_of(88, 4096), 1008);
    settings["async_scheduling"] = true.into();
    assert_eq!(groups(settings).unwrap().unwrap().most_blocks(1000, 4096), 41 + 63);
}

#[test]
fn what_is_no_group_is_refused() {
    let size = "`kv_groups` is a group with `sliding_window` 0: a window holds at least 1 token: give `sliding_window`";
    refused(with_full(&json!({"type": "sliding_window", "sliding_window": 0})), size);
    refused(with_full(&json!({"type": "sliding_window"})), size);
    refused(
        with_full(&json!({"type": "chunked_local", "chunk": 0})),
        "`kv_groups` is a group with `chunk` 0: a chunk holds at least 1 token: give `chunk`",
    );
    refused(
        with_full(&json!({"type": "full", "chunk": 3})),
        "`kv_groups` is a group with a size of another type: `sliding_window` is for that type, `chunk` for \
         `chunked_local`",
    );
    refused(
        with_full(&json!({"type": "full", "block_size": 1})),
        "`kv_groups` is a group with `block_size` 1: a block holds at least 2 tokens",
    );
    refused(
        with_full(&json!({"type": "mamba", "block_size": 8})),
        "`kv_groups` is a group of states in blocks of another size: as vLLM makes them, they are of 16 tokens here, so \
         that all groups have blocks as large",
    );
    refused(
        with_full(&json!({"type": "chunked_local", "chunk": 64, "block_size": 8})),
        "`kv_groups` is a group of chunks in blocks of another size: vLLM demands that they are of 16 tokens here, a multiple \
         of all others",
    );
}

#[test]
fn what_does_not_go_with_groups_is_refused() {
    let with = |key: &str, value: Value, other: &str| {
        let mut settings = with_full(&match other {
            "mamba" => json!({"type": "mamba"}),
            chunk => json!({"type": chunk, "chunk": 64}),
        });
        settings[key] = value;
        groups(settings).unwrap_err().to_string()
    };
    let found = with("reserve_null_block", false.into(), "mamba");
    assert!(found.contains("the null block stands where a request holds none"), "{found}");
    let found = with("enable_chunked_prefill", false.into(), "mamba");
    assert!(found.contains("prefix caching of states ends chunks"), "{found}");
    let found = with("prefix_cache_retention_interval", 8.into(), "mamba");
    assert!(found.contains("expected `dense` or a multiple of 16"), "{found}");
    let found = with("prefix_cache_retention_interval", 16.into(), "chunked_local");
    assert!(found.contains("for layers with a window or with states"), "{found}");
    let found = with("mamba_cache_mode", "none".into(), "mamba");
    assert!(found.contains("expected `align`"), "{found}");
    let found = with("engine_type", "sglang".into(), "mamba");
    assert!(found.contains("only vLLM has groups of layers"), "{found}");
}

#[test]
fn an_interval_is_a_number_or_dense() {
    let read = |value: Value| serde_json::from_value::<RetentionInterval>(value);
    assert_eq!(read(json!(512)).unwrap(), RetentionInterval::Tokens(512));
    assert_eq!(read(json!("512")).unwrap(), RetentionInterval::Tokens(512));
    assert_eq!(read(json!("dense")).unwrap(), RetentionInterval::Dense);
    assert!(read(json!(-1)).is_err() && read(json!("sparse")).is_err());
    for interval in [RetentionInterval::Dense, RetentionInterval::Tokens(3)] {
        assert_eq!(read(json!(interval)).unwrap(), interval);
    }
}
