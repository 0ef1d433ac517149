//! What holds for any settings and any load: every request ends, nothing leaks, nothing stalls, and the same calls
//! give the same decisions.

use proptest::prelude::*;
use serde_json::{Value, json};
use servecast_engine::{Engine, EngineArgs, EngineRequest, EngineTracing, Iteration, Rejection};
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::load::{Submission, check_share_of_stretches, latency, load, run};

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_load_is_served_under_all_settings(settings in settings(), load in load(24)) {
        let first = run(&settings, &load);
        prop_assert_eq!(first, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn no_request_is_evicted_under_tensorrt_llm(
        settings in trtllm_settings(&["guaranteed_no_evict", "static_batch"]),
        load in load(24),
    ) {
        let iterations = run(&settings, &load);
        prop_assert!(iterations.iter().all(|iteration| iteration.preempted.is_empty()));
        prop_assert_eq!(iterations, run(&settings, &load), "two runs differ");
    }

    /// Beside that, nothing is rejected that has room alone.
    #[test]
    fn every_load_is_served_where_tensorrt_llm_pauses_requests(
        settings in trtllm_settings(&["max_utilization"]),
        load in load(24),
    ) {
        let iterations = run(&settings, &load);
        let in_vain = |reason: &Rejection| matches!(reason, Rejection::KvCapacity { .. });
        prop_assert!(!iterations.iter().flat_map(|iteration| &iteration.rejected).any(|(_, reason)| in_vain(reason)));
        prop_assert_eq!(iterations, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn every_load_is_served_by_groups_of_layers(settings in group_settings(), load in load(24)) {
        let first = run(&settings, &load);
        prop_assert_eq!(first, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn groups_of_layers_do_not_stall_in_pools_of_a_few_blocks(settings in group_settings(), blocks in 8_u32..24, load in load(4)) {
        let mut settings = settings;
        settings["num_gpu_blocks"] = blocks.into();
        run(&settings, &load);
    }

    #[test]
    fn every_load_is_served_with_kv_offload(settings in offload_settings(), load in load(24)) {
        let first = run(&settings, &load);
        prop_assert_eq!(first, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn every_load_is_served_with_the_kv_offload_of_early_releases(
        settings in early_offload_settings(),
        load in load(24),
    ) {
        // Nothing is fetched from other engines beside it.
        let alone = |one: Submission| Submission { transfer: None, reader: None, ..one };
        let load: Vec<Submission> = load.into_iter().map(alone).collect();
        let first = run(&settings, &load);
        prop_assert_eq!(first, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn pools_of_a_few_blocks_do_not_stall(settings in crowded_settings(), load in load(8)) {
        run(&settings, &load);
    }
}

#[test]
fn random_loads_decode_together() {
    for asynchronous in [false, true] {
        let with = |mut settings: Value| {
            settings["async_scheduling"] = asynchronous.into();
            settings
        };
        let check = |name: &str, settings: BoxedStrategy<Value>| {
            let name = format!("{name}, asynchronous: {asynchronous}");
            check_share_of_stretches(3, &name, settings.prop_map(with));
        };
        check("vLLM", settings().boxed());
        check("small pools", crowded_settings().boxed());
        check("TensorRT-LLM", trtllm_settings(&["guaranteed_no_evict"]).boxed());
        check("TensorRT-LLM, pausing", trtllm_settings(&["max_utilization"]).boxed());
        check("TensorRT-LLM, batches", trtllm_settings(&["static_batch"]).boxed());
        check("groups of layers", group_settings().boxed());
    }
}

/// Few in the default run; `SERVECAST_PROPERTY_CASES` asks for a long campaign.
pub(crate) fn cases() -> u32 {
    let given = std::env::var_os("SERVECAST_PROPERTY_CASES");
    given.map_or(256, |given| given.to_str().unwrap().parse().expect("SERVECAST_PROPERTY_CASES is a number"))
}

/// Values near the limits of their types, and what cannot be a request.
#[test]
fn limits_are_no_pitfalls() {
    let engine = |settings: Value| {
        Engine::new(
            EngineArgs::from_json(settings).unwrap().validate(None).unwrap(),
            EngineTracing::default(),
        )
    };
    let request = |prompt_tokens, max_tokens| {
        EngineRequest::new(RequestId(0), Prompt::new([Run::tokens(0, prompt_tokens)]), max_tokens, Time::ZERO)
    };
    let empty = |prompt_tokens, max_tokens| Err(Rejection::Empty { prompt_tokens, max_tokens });
    assert_eq!(engine(json!({})).submit(request(0, 1)), empty(0, 1));
    assert_eq!(engine(json!({})).submit(request(1, 0)), empty(1, 0));
    let no_block = json!({"num_gpu_blocks": 1});
    assert_eq!(
        engine(no_block).submit(request(1, 1)),
        Err(Rejection::PromptTooLong { tokens: 1, capacity: 0 })
    );

    let huge = json!({"block_size": 1_u32 << 31, "num_gpu_blocks": 1 << 24, "max_num_batched_tokens": null});
    let too_long = Rejection::MaxModelLen { tokens: u32::MAX, max_model_len: i32::MAX as u32 };
    assert_eq!(engine(huge.clone()).submit(request(u32::MAX, u32::MAX)), Err(too_long));
    for async_scheduling in [false, true] {
        let mut settings = huge.clone();
        settings["async_scheduling"] = async_scheduling.into();
        let load =
            [Submission { prefix_len: i32::MAX as u32 - 3, max_tokens: u32::MAX, ..Submission::default() }];
        let iterations = run(&settings, &load);
        assert_eq!(iterations.iter().map(Iteration::tokens_emitted).sum::<u64>(), 3);
    }
}

/// Requests that decode cross a boundary of blocks of 4,096 tokens, up to which they decode together, and of one more.
#[test]
fn requests_cross_boundaries_of_the_largest_blocks() {
    for block_size in [4096, 4097] {
        for async_scheduling in [false, true] {
            let settings = json!({
                "block_size": block_size, "num_gpu_blocks": 64, "async_scheduling": async_scheduling,
            });
            let request = |prefix_len| Submission { prefix_len, max_tokens: 40, ..Submission::default() };
            let iterations = run(&settings, &[request(4080), request(8170), request(10)]);
            assert_eq!(iterations.iter().map(Iteration::tokens_emitted).sum::<u64>(), 120);
        }
    }
}

/// Requests that each need the whole pool and grow side by side, with victims from the front of the running list.
#[test]
fn requests_do_not_evict_each_other_for_ever() {
    for policy in [json!({"preemption_mode": "fifo"}), json!({"scheduling_policy": "priority"})] {
        for threshold in 1..8 {
            let mut settings = json!({
                "block_size": 2, "num_gpu_blocks": 10, "reserve_null_block": false, "enable_prefix_caching": false,
                "long_prefill_token_threshold": threshold, "vllm_version": "0.14",
            });
            settings.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
            let request = Submission { prefix_len: 19, max_tokens: 1, ..Submission::default() };
            run(&settings, &[request.clone(), request.clone(), request]);
        }
    }
}

/// Requests that outgrow the pool, take turns at evicting each other, and compute their output again a token at a time.
#[test]
fn requests_that_wear_each_other_out_end_however_long_it_takes() {
    let settings = json!({
        "block_size": 150, "num_gpu_blocks": 40, "reserve_null_block": false, "enable_prefix_caching": false,
        "long_prefill_token_threshold": 1, "preemption_mode": "fifo", "scheduler_reserve_full_isl": false,
        "max_num_batched_tokens": null, "vllm_version": "0.14", "latency": "linear:100,10,20",
    });
    let request = Submission { max_tokens: u32::MAX, ..Submission::default() };
    let iterations = run(&settings, &[request.clone(), request.clone(), request]);
    assert!(iterations.len() > 200_000, "{} iterations", iterations.len());
}

/// Loads that left the scheduler waiting, or going round, in one way or another.
#[test]
fn every_way_to_get_stuck_ends() {
    let request =
        |own_len, max_tokens| Submission { prefix_len: 0, own_len, max_tokens, ..Submission::default() };
    let check = |changes: Value, load: &[Submission]| {
        let mut settings = json!({
            "block_size": 4, "num_gpu_blocks": 8, "reserve_null_block": false, "enable_prefix_caching": false,
            "async_scheduling": true, "scheduler_reserve_full_isl": false, "latency": "linear:100,10,20",
        });
        settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        run(&settings, load);
    };
    // Nothing else wakes the worker when the reader of held blocks is done.
    check(json!({}), &[Submission { reader: Some((0, 1)), ..request(1, 1) }]);
    // The request that outgrows the cache is given up in an empty iteration, with another one behind it.
    check(json!({"kv_role": "kv_consumer", "vllm_version": "0.32"}), &[request(8, 26), request(1, 12)]);
    // Its last token is dropped and computed again.
    check(json!({"kv_role": "kv_producer"}), &[request(8, 30)]);
    // Blocks become free only after everybody has been preempted for them.
    let late = json!({
        "kv_role": "kv_consumer", "vllm_version": "0.14", "block_size": 3, "num_gpu_blocks": 9,
        "long_prefill_token_threshold": 1,
    });
    check(late, &[request(4, 22), request(1, 10), request(1, 10)]);
    // A resumed request may not be cut and exceeds the budget.
    let whole = json!({"enable_chunked_prefill": false, "max_num_batched_tokens": 10});
    check(whole, &[request(8, 20), request(8, 20), request(8, 20)]);
}

fn settings() -> impl Strategy<Value = Value> {
    let blocks = prop_oneof![1_u32..4, 4_u32..20, 20_u32..150];
    let limit = |limits: std::ops::Range<u32>| prop::option::weighted(0.6, limits);
    let version = prop::sample::select(vec!["0.14", "0.19", "0.24", "0.28", "0.32", "0.33"]);
    let role = prop::sample::select(vec![None, None, Some("kv_producer"), Some("kv_consumer")]);
    let pool = (2_u32..33, blocks, any::<bool>(), prop_oneof![Just(0.0), 0.0..0.99]);
    let limits = (
        limit(1..12),
        limit(1..200),
        limit(1..250),
        prop_oneof![Just(0), 1_u32..64],
        any::<bool>(),
        prop_oneof![3 => Just(1_u32), 1 => 2_u32..5],
    );
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), latency());
    let policies =
        (prop::sample::select(vec!["fcfs", "priority"]), prop::sample::select(vec!["lifo", "fifo"]));
    let of_requests = (prop::option::weighted(0.25, speculation()), prop::option::weighted(0.25, lora()));
    (pool, limits, switches, policies, version, role, of_requests).prop_map(
        |(pool, limits, switches, policies, version, role, (speculation, lora))| {
            let mut settings = json!({
                "vllm_version": version,
                "block_size": pool.0,
                "num_gpu_blocks": pool.1 + u32::from(pool.2),
                "reserve_null_block": pool.2,
                "watermark": pool.3,
                "max_num_seqs": limits.0,
                "max_num_batched_tokens": limits.1,
                "max_model_len": limits.2,
                "long_prefill_token_threshold": limits.3,
                "long_prefill_token_threshold_adaptive": limits.4,
                "prefill_schedule_interval": limits.5,
                "scheduler_reserve_full_isl": switches.0,
                "enable_chunked_prefill": switches.1,
                "enable_prefix_caching": switches.2,
                "async_scheduling": switches.3,
                "scheduling_policy": policies.0,
                "preemption_mode": policies.1,
                "kv_role": role,
                "latency": switches.4,
            });
            settings["speculative_config"] = speculation.into();
            if let Some(Value::Object(lora)) = lora {
                settings.as_object_mut().unwrap().extend(lora);
            }
            without_drafts_that_do_not_fit(settings)
        },
    )
}

/// Settings, without speculative decoding if its drafts need more room than there is.
fn without_drafts_that_do_not_fit(mut settings: Value) -> Value {
    let mut of_some_time = settings.clone();
    of_some_time["latency"] = "linear:100,10,20".into();
    if EngineArgs::from_json(of_some_time).and_then(|args| args.validate(None)).is_err() {
        settings["speculative_config"] = Value::Null;
    }
    settings
}

/// Adapters, some of which take their time to be loaded, beside grammars, which may take theirs.
fn lora() -> impl Strategy<Value = Value> {
    let ms = || prop_oneof![Just(0.0), 0.0_f64..3.0];
    (1_u32..5, 0_u32..3, ms(), ms(), ms()).prop_map(|(max_loras, more, load, fetch, compile)| {
        json!({
            "grammar_compile_ms": compile,
            "enable_lora": true, "max_loras": max_loras, "max_cpu_loras": max_loras + more,
            "lora_load_ms": load, "lora_fetch_ms": fetch,
        })
    })
}

/// Speculative decoding of any kind.
fn speculation() -> impl Strategy<Value = Value> {
    let methods = [
        "ngram",
        "ngram_gpu",
        "suffix",
        "eagle",
        "eagle3",
        "mtp",
        "mtp",
        "draft_model",
        "draft_model",
        "dflash",
    ];
    let ranges = (1_u32..4, 0_u32..7, 4_u32..7, 0_u32..7);
    let given = (
        prop::sample::select(methods.to_vec()),
        prop::collection::vec(0.0..=1.0, 1..7),
        prop::option::weighted(0.5, 1_u32..9),
        prop::option::weighted(0.2, ranges),
        any::<[bool; 3]>(),
    );
    given.prop_map(|(method, rates, modules, ranges, [parallel, keeps_block, plain_hashes])| {
        let drafts = rates.len() as u32;
        let may_be_parallel = ["eagle", "eagle3", "draft_model"].contains(&method);
        let ranges = ranges
            .map(|(to, few, from, many)| vec![[1, to, few.min(drafts)], [from, from + 2, many.min(drafts)]]);
        json!({
            "method": method,
            "num_speculative_tokens": drafts,
            "num_speculative_tokens_per_batch_size": ranges,
            "num_nextn_predict_layers": modules.filter(|_| method == "mtp"),
            "parallel_drafting": parallel && may_be_parallel,
            "disable_eagle_block_drop": keeps_block,
            "disable_lookahead_block_hashes": plain_hashes,
            "conditional_acceptance_rates": rates,
        })
    })
}

/// Layers that keep everything, beside some that forget.
fn group_settings() -> impl Strategy<Value = Value> {
    let group = prop_oneof![
        (1_u32..60).prop_map(|window| json!({"type": "sliding_window", "sliding_window": window})),
        (1_u32..60).prop_map(|chunk| json!({"type": "chunked_local", "chunk": chunk})),
        Just(json!({"type": "mamba"})),
        Just(json!({"type": "full"})),
    ];
    let groups = (prop::collection::vec(group, 1..4), any::<bool>());
    let interval = prop_oneof![Just(json!(null)), Just(json!("dense")), (0_u32..4).prop_map(Value::from)];
    let sizes = (prop_oneof![3 => Just(1), 1 => 2_u32..4], 8_u32..200);
    (settings(), groups, interval, sizes).prop_map(|(mut settings, (mut groups, first), interval, sizes)| {
        let (multiple, num_gpu_blocks) = sizes;
        let block_size = settings["block_size"].as_u64().unwrap_or(2);
        groups.insert(if first { 0 } else { groups.len() }, json!({"type": "full"}));
        let of_type = |kind: &str| groups.iter().any(|group| group["type"] == kind);
        let (states, chunks, windows) =
            (of_type("mamba"), of_type("chunked_local"), of_type("sliding_window"));
        if !states && !chunks {
            groups[0]["block_size"] = (block_size * u64::from(multiple)).into();
        }
        if states && settings["enable_prefix_caching"] == true {
            settings["enable_chunked_prefill"] = true.into();
        }
        let unit = if states || chunks { block_size } else { block_size * u64::from(multiple) };
        if (states && settings["enable_prefix_caching"] == true) || windows {
            let tokens = interval.as_u64().map(|interval| json!(interval * unit));
            settings["prefix_cache_retention_interval"] = tokens.unwrap_or(interval);
        }
        settings["kv_groups"] = groups.into();
        settings["reserve_null_block"] = true.into();
        settings["num_gpu_blocks"] = num_gpu_blocks.into();
        settings["speculative_config"] = Value::Null;
        settings
    })
}

/// KV offload by either connector, to a host of little memory behind a slow link.
fn offload_settings() -> impl Strategy<Value = Value> {
    let rate = || prop_oneof![Just(1.0), 0.0001_f64..0.1];
    let sizes = (
        1_u32..60,
        prop_oneof![3 => Just(1_u32), 1 => 2_u32..4],
        prop_oneof![4 => Just(0_u64), 1 => 1_u64..2_000],
    );
    let of_chunks = (prop::sample::select(vec!["lru", "arc"]), 0_u32..4, any::<bool>());
    let link = (rate(), rate(), prop_oneof![Just(0.0), 0.0..500.0]);
    let settings =
        prop_oneof![4 => settings().boxed(), 1 => crowded_settings().boxed(), 2 => group_settings().boxed()];
    (settings, sizes, of_chunks, link, any::<[bool; 2]>()).prop_map(
        |(
            mut settings,
            (chunks, blocks, sync_bytes),
            (eviction, threshold, prompt_only),
            link,
            [simple, lazy],
        )| {
            settings["vllm_version"] = "0.33".into();
            settings["kv_role"] = Value::Null;
            settings["enable_prefix_caching"] = true.into();
            // The simple one knows no groups.
            let simple = simple && settings["kv_groups"].is_null();
            suit_groups(&mut settings, blocks);
            if settings["reserve_null_block"] == false {
                settings["reserve_null_block"] = true.into();
                settings["num_gpu_blocks"] = (settings["num_gpu_blocks"].as_u64().unwrap() + 1).into();
            }
            // A host with less than the GPU copies for ever when it is lazy.
            let least = settings["num_gpu_blocks"].as_u64().unwrap() as u32 + 2;
            let chunks = if simple && lazy { least + chunks } else { chunks + u32::from(simple) };
            let chunk_bytes =
                8 * settings["block_size"].as_u64().unwrap() * u64::from(if simple { 1 } else { blocks });
            settings["kv_bytes_per_token"] = 8.into();
            settings["kv_offloading_size"] =
                json!((u64::from(chunks) * chunk_bytes + 1) as f64 / f64::from(1 << 30));
            settings["kv_offloading"] = json!({
                "connector": if simple { "simple" } else { "offloading" },
                "store_bandwidth": link.0, "load_bandwidth": link.1, "copy_us": link.2,
            });
            let own = if simple {
                json!({"lazy_offload": lazy})
            } else {
                json!({
                    "blocks_per_chunk": blocks, "eviction_policy": eviction, "store_threshold": threshold,
                    "offload_prompt_only": prompt_only, "sync_load_budget_bytes": sync_bytes,
                })
            };
            settings["kv_offloading"].as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
            without_drafts_that_do_not_fit(settings)
        },
    )
}

/// What groups of layers, if there are any, need where prompts are cached and stored in chunks of so many blocks.
fn suit_groups(settings: &mut Value, blocks_per_chunk: u32) {
    let Some(groups) = settings["kv_groups"].as_array() else { return };
    if groups.iter().any(|group| group["type"] == "mamba") {
        settings["enable_chunked_prefill"] = true.into();
    }
    if let Some(tokens) = settings["prefix_cache_retention_interval"].as_u64() {
        settings["prefix_cache_retention_interval"] = (tokens * u64::from(blocks_per_chunk)).into();
    }
}

/// The same as up to 0.15.
fn early_offload_settings() -> impl Strategy<Value = Value> {
    offload_settings().prop_map(|mut settings| {
        settings["kv_groups"] = Value::Null;
        settings["prefix_cache_retention_interval"] = Value::Null;
        settings["vllm_version"] = "0.14".into();
        settings["speculative_config"] = Value::Null;
        settings["kv_offloading"]["connector"] = "offloading".into();
        settings["kv_offloading"].as_object_mut().unwrap().retain(|key, _| {
            ["connector", "store_bandwidth", "load_bandwidth", "copy_us"].contains(&key.as_str())
        });
        settings
    })
}

/// TensorRT-LLM with one of these capacity policies, under the limits of any load.
fn trtllm_settings(policies: &'static [&'static str]) -> impl Strategy<Value = Value> {
    (settings(), prop::sample::select(policies)).prop_map(|(mut settings, policy)| {
        settings["trtllm"] = json!({"capacity_scheduler_policy": policy});
        settings["engine_type"] = "trtllm".into();
        settings
            .as_object_mut()
            .unwrap()
            .retain(|key, _| !key.contains("lora") && key != "grammar_compile_ms");
        settings["speculative_config"] = Value::Null;
        settings["kv_role"] = Value::Null;
        settings
    })
}

/// Pools that two prompts hardly fit into together, without the gate that keeps them apart.
fn crowded_settings() -> impl Strategy<Value = Value> {
    (settings(), 1_u32..12).prop_map(|(mut settings, blocks)| {
        let null_block = u32::from(settings["reserve_null_block"] == true);
        settings["num_gpu_blocks"] = (blocks + null_block).into();
        settings["scheduler_reserve_full_isl"] = false.into();
        settings["enable_chunked_prefill"] = true.into();
        settings["max_model_len"] = Value::Null;
        without_drafts_that_do_not_fit(settings)
    })
}

/// A request that lost its place comes back with a part of its prompt from the host, and what it lacks is more than an
/// iteration computes, which cannot be cut.
#[test]
fn who_has_loaded_kv_and_never_fits_is_given_up() {
    let settings = json!({
        "vllm_version": "0.33", "block_size": 17, "num_gpu_blocks": 19, "async_scheduling": true,
        "enable_chunked_prefill": false, "long_prefill_token_threshold": 7, "max_num_batched_tokens": 67,
        "scheduler_reserve_full_isl": false, "latency": "linear:100,10,20", "kv_bytes_per_token": 8,
        "kv_offloading_size": 3.0 * 8.0 * 17.0 / f64::from(1 << 30),
        "kv_offloading": {"store_threshold": 2, "offload_prompt_only": true},
        "speculative_config": {
            "method": "eagle", "num_speculative_tokens": 2, "conditional_acceptance_rates": [0.47781, 0.0],
        },
    });
    let one = |own_len, gap_us| Submission {
        prefix_len: 0,
        own_len,
        max_tokens: u32::MAX,
        gap_us,
        ..Submission::default()
    };
    let rejected = |iteration: &Iteration| iteration.rejected.iter().map(|&(id, _)| id.0).collect::<Vec<_>>();
    let iterations = run(&settings, &[one(1, 0), one(17, 73)]);
    assert_eq!(iterations.iter().flat_map(rejected).collect::<Vec<_>>(), [0, 1]);
}
