use serde_json::{Value, json};

use super::*;

fn build(settings: Value) -> Result<EngineConfig, ConfigError> {
    let Value::Object(mut settings) = settings else { panic!("settings are an object") };
    settings.entry("engine_type").or_insert("sglang".into());
    EngineArgs::from_json(settings.into())?.validate(None)
}

#[track_caller]
fn refused(settings: Value, message: &str) {
    assert_eq!(build(settings).unwrap_err().to_string(), message);
}

#[track_caller]
fn refused_own(own: &Value, message: &str) {
    refused(json!({"sglang": own}), message);
}

#[test]
fn values_out_of_range_are_refused() {
    for key in [
        "page_size",
        "max_total_tokens",
        "max_running_requests",
        "context_length",
        "max_prefill_tokens",
        "clip_max_new_tokens",
        "scheduler_recv_interval",
        "prefill_max_requests",
    ] {
        refused_own(&json!({key: 0}), &format!("`sglang.{key}` is 0: expected at least 1"));
    }
    refused_own(
        &json!({"schedule_conservativeness": -0.5}),
        "`sglang.schedule_conservativeness` is -0.5: expected a finite number of at least 0",
    );
    let own = SglangArgs { schedule_conservativeness: f64::NAN, ..SglangArgs::default() };
    let args =
        EngineArgs { engine_type: crate::EngineType::Sglang, sglang: Some(own), ..EngineArgs::default() };
    assert_eq!(
        args.validate(None).unwrap_err().to_string(),
        "`sglang.schedule_conservativeness` is NaN: expected a finite number of at least 0"
    );
}

#[test]
fn a_chunk_is_whole_pages_or_absent() {
    let size = |own: Value| build(json!({"sglang": own})).unwrap().sglang.unwrap().chunked_prefill_size;
    assert_eq!(size(json!({"page_size": 48})), Some(8_192), "the default stands");
    assert_eq!(size(json!({"page_size": 16, "chunked_prefill_size": 64})), Some(64));
    assert_eq!(size(json!({"page_size": 16, "chunked_prefill_size": -1})), None);
    for size in [0, -2] {
        refused_own(
            &json!({"chunked_prefill_size": size}),
            &format!(
                "`sglang.chunked_prefill_size` is {size}: expected at least 1, or -1 to compute prompts as a whole"
            ),
        );
    }
    refused_own(
        &json!({"page_size": 16, "chunked_prefill_size": 100}),
        "`sglang.chunked_prefill_size` is 100: expected a multiple of the page size, 16",
    );
    refused_own(
        &json!({"page_size": 10_000}),
        "`sglang.chunked_prefill_size` is 8192: expected a multiple of the page size, 10000",
    );
    refused_own(
        &json!({"chunked_prefill_size": -1, "enable_mixed_chunk": true}),
        "`sglang.enable_mixed_chunk` needs `sglang.chunked_prefill_size` above 0",
    );
}

#[test]
fn the_pool_is_given_in_pages_or_in_tokens() {
    let pages = |settings| build(settings).unwrap().num_gpu_blocks;
    assert_eq!(pages(json!({"num_gpu_blocks": 7})), 7);
    assert_eq!(pages(json!({"block_size": 16, "sglang": {"max_total_tokens": 100}})), 6);
    refused_own(
        &json!({"page_size": 16, "max_total_tokens": 15}),
        "`sglang.max_total_tokens` is 15: expected at least a page, 16 tokens",
    );
    refused_own(
        &json!({"max_total_tokens": 16_777_217}),
        "`sglang.max_total_tokens` is 16777217: expected at most 16777216 pages of 1 tokens",
    );
    refused(
        json!({"num_gpu_blocks": 7, "sglang": {"max_total_tokens": 7}}),
        "`num_gpu_blocks` and `sglang.max_total_tokens` both give the size of the pool: give one of them",
    );
}

#[test]
fn a_setting_with_two_names_has_one_value() {
    for (own, general) in [
        ("page_size", "block_size"),
        ("max_running_requests", "max_num_seqs"),
        ("context_length", "max_model_len"),
    ] {
        build(json!({general: 64, "sglang": {own: 64}})).unwrap();
        refused(
            json!({general: 32, "sglang": {own: 64}}),
            &format!(
                "`sglang.{own}` is 64 and `{general}` is 32, but they are one setting: give one of them"
            ),
        );
    }
    let config = build(json!({"max_num_seqs": null, "sglang": {"max_running_requests": 5}})).unwrap();
    assert_eq!((config.block_size, config.max_num_seqs, config.max_model_len), (1, 5, MAX_SEQUENCE_TOKENS));
}

#[test]
fn priorities_need_a_policy_that_keeps_them() {
    for policy in ["fcfs", "lof"] {
        build(json!({"sglang": {"enable_priority_scheduling": true, "schedule_policy": policy}})).unwrap();
    }
    for policy in ["lpm", "dfs-weight", "random", "hrrn", "shortest-prefill-first", "routing-key"] {
        refused_own(
            &json!({"enable_priority_scheduling": true, "schedule_policy": policy}),
            "`sglang.enable_priority_scheduling` needs `sglang.schedule_policy` `fcfs` or `lof`: others put \
             requests in order without regard to priorities",
        );
    }
}

#[test]
fn settings_that_need_others_say_so() {
    refused_own(
        &json!({"retraction_policy": "priority"}),
        "`sglang.retraction_policy` `priority` needs `sglang.enable_priority_scheduling`",
    );
    refused_own(
        &json!({"prefill_decode_interval_min_bs": 2}),
        "`sglang.prefill_decode_interval_min_bs` needs `sglang.prefill_decode_interval` above 0",
    );
    refused_own(
        &json!({"schedule_policy": "shortest-prefill-first", "disable_radix_cache": true}),
        "`sglang.schedule_policy` `shortest-prefill-first` goes by what is cached: leave the prefix cache on",
    );
}

#[test]
fn a_pool_of_windows_is_checked() {
    let tokens = |own: Value| {
        let config = build(json!({"sglang": own})).unwrap();
        config.sglang.unwrap().swa.map(|swa| (swa.window, swa.tokens))
    };
    let pool = |more: Value| {
        let mut own = json!({"max_total_tokens": 600, "sliding_window_size": 32});
        more.as_object().unwrap().iter().for_each(|(key, value)| own[key] = value.clone());
        own
    };
    assert_eq!(tokens(pool(json!({}))), Some((32, 480)));
    assert_eq!(
        tokens(pool(json!({"swa_full_tokens_ratio": 0.07, "max_total_tokens": 2_000}))),
        Some((32, 140))
    );
    assert_eq!(tokens(pool(json!({"swa_full_tokens_ratio": 0.25, "page_size": 16}))), Some((32, 144)));
    assert_eq!(tokens(pool(json!({"disable_hybrid_swa_memory": true}))), None);
    let needs = "needs `sglang.sliding_window_size`: give the tokens that a window of the model spans";
    let ratio = "`sglang.swa_full_tokens_ratio`";
    let range = "expected a number above 0, and at most 1";
    let window = "`sglang.sliding_window_size`";
    for (own, message) in [
        (json!({"swa_full_tokens_ratio": 0.5}), format!("{ratio} {needs}")),
        (json!({"disable_hybrid_swa_memory": true}), format!("`sglang.disable_hybrid_swa_memory` {needs}")),
        (json!({"sliding_window_size": 0}), format!("{window} is 0: expected at least 1")),
        (pool(json!({"swa_full_tokens_ratio": 0.0})), format!("{ratio} is 0: {range}")),
        (pool(json!({"swa_full_tokens_ratio": 1.5})), format!("{ratio} is 1.5: {range}")),
        (
            pool(json!({"swa_full_tokens_ratio": 0.05})),
            format!(
                "{ratio} is 0.05: that leaves windows 30 tokens, but one of 32 with the pages at its ends needs 34"
            ),
        ),
        (
            pool(json!({"swa_full_tokens_ratio": 0.5, "disable_hybrid_swa_memory": true})),
            format!(
                "{ratio} is given, but with `sglang.disable_hybrid_swa_memory` there is one pool for all layers: leave \
                 one of them out"
            ),
        ),
        (
            pool(json!({"disable_radix_cache": true})),
            format!(
                "{window} needs the prefix cache: leave that on, or set `sglang.disable_hybrid_swa_memory`"
            ),
        ),
    ] {
        refused_own(&own, &message);
    }
    refused(
        json!({"kv_bytes_per_token": 1_000, "sglang": pool(json!({"enable_hierarchical_cache": true}))}),
        "`sglang.sliding_window_size` does not go together with `sglang.enable_hierarchical_cache` yet: leave one of them \
         out",
    );
}

#[test]
fn speculation_is_checked() {
    let with = |own: Value, accepted: Value| json!({"sglang": own, "speculative_config": accepted});
    let accepted = || json!({"acceptance_length": 2.0});
    let eagle = |more: Value| {
        let mut own = json!({"speculative_algorithm": "EAGLE", "speculative_num_draft_tokens": 4});
        more.as_object().unwrap().iter().for_each(|(key, value)| own[key] = value.clone());
        own
    };
    build(with(eagle(json!({})), accepted())).unwrap();
    for (own, message) in [
        (
            json!({"speculative_num_steps": 3}),
            "`sglang.speculative_num_steps` is 3: it needs `sglang.speculative_algorithm`",
        ),
        (
            json!({"speculative_algorithm": "STANDALONE"}),
            "`sglang.speculative_algorithm` needs `sglang.speculative_num_draft_tokens`: how many tokens a pass verifies",
        ),
        (
            eagle(json!({"speculative_eagle_topk": 2})),
            "`sglang.speculative_eagle_topk` is 2: only a drafter that follows one branch is simulated: make it 1",
        ),
        (
            eagle(json!({"speculative_num_draft_tokens": 1})),
            "`sglang.speculative_num_draft_tokens` is 1: expected a number from 2 to 256",
        ),
        (
            eagle(json!({"enable_mixed_chunk": true})),
            "`sglang.enable_mixed_chunk` is true, but with `sglang.speculative_algorithm` decodes do not ride along in \
             prefill batches: leave it out",
        ),
        (
            eagle(json!({"max_total_tokens": 8})),
            "`sglang.speculative_num_draft_tokens` is 4: a request needs memory for 9 tokens to verify them, but the KV \
             pool holds 8",
        ),
    ] {
        refused(with(own, accepted()), message);
    }
    refused(
        json!({"speculative_config": {"acceptance_length": 2.0}}),
        "`speculative_config` needs `sglang.speculative_algorithm`",
    );
    refused(
        with(eagle(json!({})), json!({"method": "eagle", "acceptance_length": 2.0})),
        "`speculative_config` holds settings of vLLM: for SGLang give `sglang.speculative_algorithm` and \
         `sglang.speculative_num_draft_tokens`, and here only how many drafts are accepted",
    );
}

#[test]
fn settings_of_another_engine_are_refused_with_what_to_use_instead() {
    let chunk = "use `sglang.chunked_prefill_size`";
    let careful = "use `sglang.schedule_conservativeness`";
    for (key, value, instead) in [
        ("vllm_version", json!("0.24"), "SGLang 0.5.23 is simulated"),
        (
            "max_num_batched_tokens",
            json!(100),
            "use `sglang.max_prefill_tokens` and `sglang.chunked_prefill_size`",
        ),
        ("enable_chunked_prefill", json!(false), "use `sglang.chunked_prefill_size`, -1 for no chunks"),
        ("long_prefill_token_threshold", json!(5), chunk),
        ("long_prefill_token_threshold_adaptive", json!(true), chunk),
        ("scheduler_reserve_full_isl", json!(false), careful),
        ("watermark", json!(0.1), careful),
        ("prefill_schedule_interval", json!(2), "leave it out"),
        ("async_scheduling", json!(true), "use `sglang.disable_overlap_schedule`"),
        (
            "scheduling_policy",
            json!("priority"),
            "use `sglang.schedule_policy` and `sglang.enable_priority_scheduling`",
        ),
        ("preemption_mode", json!("fifo"), "leave it out"),
        ("kv_role", json!("kv_consumer"), "leave it out"),
    ] {
        refused(
            json!({key: value}),
            &format!("`{key}` is a setting of vLLM, but `engine_type` is `sglang`: {instead}"),
        );
    }
    refused(
        json!({"engine_type": "vllm", "sglang": {}}),
        "`sglang` holds settings of SGLang, but `engine_type` is `vllm`",
    );
    refused(json!({"trtllm": {}}), "`trtllm` holds settings of TensorRT-LLM, but `engine_type` is `sglang`");
}

/// Checked against `max_req_input_len` of SGLang 0.5.23.
#[test]
fn a_prompt_is_refused_from_six_tokens_below_context_and_pool_on() {
    let longest = |settings| {
        let config = build(settings).unwrap();
        let taken = |tokens: &u32| check_request(&config, *tokens).is_ok();
        let longest = (1..200).take_while(taken).last().unwrap_or(0);
        (longest, check_request(&config, longest + 1).unwrap_err().to_string())
    };
    let context = |length: u32, longest: u32| {
        (longest, format!("the prompt has {} tokens, too many for `max_model_len` {length}", longest + 1))
    };
    let pool = |capacity: u32, longest: u32| {
        (
            longest,
            format!("the prompt has {} tokens, too many for a KV cache of {capacity} tokens", longest + 1),
        )
    };
    assert_eq!(longest(json!({"sglang": {"context_length": 16}})), context(16, 9));
    assert_eq!(longest(json!({"sglang": {"context_length": 80}})), context(80, 73));
    assert_eq!(longest(json!({"sglang": {"max_total_tokens": 64}})), pool(64, 57));
    assert_eq!(longest(json!({"sglang": {"max_total_tokens": 106}})), pool(106, 99));
    let pages = json!({"page_size": 16, "max_total_tokens": 110, "context_length": 200});
    assert_eq!(longest(json!({"sglang": pages})), pool(96, 89));
    assert_eq!(longest(json!({"sglang": {"max_total_tokens": 7}})), pool(7, 0));
}

#[test]
fn output_is_cut_to_context_and_pool() {
    let config = build(json!({"block_size": 4, "num_gpu_blocks": 4, "max_model_len": 20})).unwrap();
    let room = |tokens| output_room(&config, tokens);
    assert_eq!((room(1), room(4), room(5), room(9)), (7, 7, 3, 0), "a page is left for the prompt's end");
    let short = build(json!({"max_model_len": 20})).unwrap();
    assert_eq!((output_room(&short, 10), output_room(&short, 13)), (8, 5));
}

#[test]
fn settings_of_prefill_and_decode_workers_are_checked() {
    let stage = |own: Value| build(json!({"sglang": own})).unwrap().paired_stage();
    assert_eq!(stage(json!({})), None);
    assert_eq!(stage(json!({"disaggregation_mode": null})), None);
    assert_eq!(stage(json!({"disaggregation_mode": "null"})), None);
    assert_eq!(stage(json!({"disaggregation_mode": "prefill"})), Some(servecast_types::Role::Prefill));
    let decode = json!({"disaggregation_mode": "decode"});
    assert_eq!(stage(decode.clone()), Some(servecast_types::Role::Decode));
    let caches = |own: &Value| build(json!({"sglang": own})).unwrap().enable_prefix_caching;
    assert!(!caches(&decode), "as the real one by default");
    assert!(caches(&json!({
        "disaggregation_mode": "decode", "disaggregation_decode_enable_radix_cache": true,
    })));
    let own_queues = "does not go together with SGLang's own queues for disaggregation yet: leave it out, or set \
                      `sglang.disaggregation_mode` to `null`, where a prompt is computed before a decode worker has memory \
                      for it";
    let sides = "is for prefill and decode workers with SGLang's own queues: `sglang.disaggregation_mode` says which of the two \
                 a worker is";
    for (own, message) in [
        (
            json!({"disaggregation_mode": "decode", "disaggregation_decode_polling_interval": 0}),
            "`sglang.disaggregation_decode_polling_interval` is 0: expected at least 1".to_owned(),
        ),
        (
            json!({"disaggregation_mode": "decode", "disaggregation_handshake_us": -1.0}),
            "`sglang.disaggregation_handshake_us` is -1: expected microseconds from 0 to 3.6e9".to_owned(),
        ),
        (json!({"num_reserved_decode_tokens": 9}), format!("`sglang.num_reserved_decode_tokens` {sides}")),
        (json!({"disaggregation_bootstrap_us": 9}), format!("`sglang.disaggregation_bootstrap_us` {sides}")),
    ] {
        refused_own(&own, &message);
    }
    let tiers = json!({"disaggregation_mode": "prefill", "enable_hierarchical_cache": true});
    refused(
        json!({"kv_bytes_per_token": 1_000, "sglang": tiers}),
        &format!("`sglang.enable_hierarchical_cache` {own_queues}"),
    );
    let windows = |mode: &str| json!({"disaggregation_mode": mode, "sliding_window_size": 32});
    let drafts = json!({
        "disaggregation_mode": "decode", "disaggregation_decode_enable_radix_cache": true,
        "speculative_algorithm": "NGRAM",
    });
    refused(
        json!({"speculative_config": {"acceptance_length": 2.0}, "sglang": drafts}),
        "`sglang.disaggregation_decode_enable_radix_cache` is true, but beside it `sglang.speculative_algorithm` can only be \
         `EAGLE` or `EAGLE3`: leave one of them out",
    );
    // With pages of one token a decode worker takes slots of windows for all of a prompt.
    for (mode, page, longest) in [("prefill", 1, 993), ("decode", 1, 100), ("decode", 4, 993)] {
        let mut own = windows(mode);
        own["page_size"] = json!(page);
        own["max_total_tokens"] = json!(1_000);
        own["swa_full_tokens_ratio"] = json!(0.1);
        let config = build(json!({"sglang": own})).unwrap();
        let is_taken = |tokens: u32| config.check_request(tokens).is_ok();
        assert!(is_taken(longest) && !is_taken(longest + 1), "{mode}, pages of {page}");
    }
}

#[test]
fn what_bounds_a_server_is_shared_out_among_its_ranks() {
    let of = |own: Value| build(json!({"dp_size": 4, "max_num_seqs": 100, "sglang": own}));
    let ranks = |own: Value| {
        let config = of(own).unwrap();
        let own = config.sglang.unwrap();
        (config.max_num_seqs, own.chunked_prefill_size, own.max_prefill_tokens, own.schedule_conservativeness)
    };
    let dp = |more: Value| {
        let mut own = json!({"enable_dp_attention": true});
        more.as_object().unwrap().iter().for_each(|(key, value)| own[key] = value.clone());
        own
    };
    assert_eq!(ranks(dp(json!({}))), (100, Some(2_048), 16_384, 0.3));
    assert_eq!(ranks(dp(json!({"chunked_prefill_size": -1}))), (100, None, 16_384, 0.3));
    let config = build(json!({"dp_size": 4, "sglang": dp(json!({"max_running_requests": 10}))})).unwrap();
    assert_eq!((config.max_num_seqs, config.num_ranks()), (2, 4));
    for (own, message) in [
        (
            json!({}),
            "`dp_size` is 4, but `sglang.enable_dp_attention` is off: switch that on for ranks that compute every pass \
             together, or use more workers, which have nothing to do with each other",
        ),
        (
            dp(json!({"max_running_requests": 3})),
            "`sglang.max_running_requests` is 3: expected at least 1 for each of 4 ranks",
        ),
        (
            dp(json!({"page_size": 16, "chunked_prefill_size": 96})),
            "`sglang.chunked_prefill_size` is 96: expected a multiple of the page size, 16, for each of 4 ranks",
        ),
        (
            dp(json!({"disaggregation_mode": "decode"})),
            "`sglang.disaggregation_mode` does not go together with `sglang.enable_dp_attention` yet: leave one of them out",
        ),
    ] {
        let settings = json!({"dp_size": 4, "sglang": own});
        refused(settings, message);
    }
    refused_own(
        &json!({"load_balance_method": "total_tokens"}),
        "`sglang.load_balance_method` is for several ranks, but there is one: give `data_parallel_size`",
    );
    refused(
        json!({"dp_size": 4, "dp_dummy_us": 1.0, "sglang": dp(json!({}))}),
        "`dp_dummy_us` is a setting of vLLM, but `engine_type` is `sglang`: its ranks compute nothing without work",
    );
}
