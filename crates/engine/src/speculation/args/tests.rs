//! What settings of speculative decoding mean, and which are refused.

use serde_json::{Value, json};

use super::*;

fn checked(changes: Value, speculation: Value) -> Result<Option<Speculation>, ConfigError> {
    let mut settings = json!({"block_size": 16, "speculative_config": {
        "method": "eagle3", "num_speculative_tokens": 3, "acceptance_rates": [0.67, 0.42, 0.26],
    }});
    let lay_over = |target: &mut Value, changes: Value| {
        for (key, value) in changes.as_object().unwrap() {
            target[key] = value.clone();
        }
    };
    lay_over(&mut settings["speculative_config"], speculation);
    lay_over(&mut settings, changes);
    let args = EngineArgs::from_json(settings)?;
    args.validate(None)?;
    args.speculation()
}

#[track_caller]
fn refused(changes: Value, speculation: Value, message: &str) {
    assert_eq!(checked(changes, speculation).unwrap_err().to_string(), message);
}

#[test]
fn what_methods_take_is_as_in_vllm() {
    let check = |method: &str, more: Value, slots: [u32; 5], drops: bool| {
        let mut given = more;
        given["method"] = method.into();
        let found = checked(json!({}), given).unwrap().unwrap();
        let Speculation { lookahead, input_slots, hash_lookahead, prefill_lookahead, drafts, .. } = found;
        assert_eq!([drafts, lookahead, input_slots, hash_lookahead, prefill_lookahead], slots, "{method}");
        assert_eq!(found.drops_last_hit, drops, "{method}");
    };
    check("ngram", json!({}), [3, 0, 0, 0, 0], false);
    check("suffix", json!({}), [3, 0, 0, 0, 0], false);
    check("eagle", json!({}), [3, 3, 0, 1, 1], false);
    check("eagle3", json!({"parallel_drafting": true}), [3, 3, 2, 1, 1], false);
    check("eagle3", json!({"disable_lookahead_block_hashes": true}), [3, 3, 0, 0, 1], true);
    check("eagle3", json!({"disable_eagle_block_drop": true}), [3, 3, 0, 0, 1], false);
    check("mtp", json!({}), [3, 3, 0, 1, 1], false);
    check("mtp", json!({"num_nextn_predict_layers": 2}), [3, 3, 0, 3, 3], false);
    check("draft_model", json!({}), [3, 3, 1, 0, 0], false);
    check("draft_model", json!({"parallel_drafting": true}), [3, 3, 3, 0, 0], false);
    check("dflash", json!({}), [3, 4, 0, 0, 1], false);
}

#[test]
fn before_vllm_0_33_and_with_a_connector_the_last_block_of_a_hit_is_dropped() {
    for changes in [json!({"vllm_version": "0.32"}), json!({"kv_role": "kv_consumer"})] {
        let found = checked(changes, json!({})).unwrap().unwrap();
        assert!(found.drops_last_hit && found.hash_lookahead == 0);
    }
}

#[test]
fn ranges_hold_until_the_next_one() {
    let ranges = json!({"num_speculative_tokens_per_batch_size": [[8, 9, 0], [1, 2, 3]]});
    let found = checked(json!({}), ranges).unwrap().unwrap();
    let drafts = [1, 2, 5, 8, 9, 40].map(|requests| found.drafts_after(requests));
    assert_eq!(drafts, [3, 3, 3, 0, 0, 0]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let none = Value::Null;
    refused(
        json!({}),
        json!({"method": none}),
        "`speculative_config.method` is missing: it says who proposes tokens, such as `eagle3`",
    );
    refused(
        json!({}),
        json!({"num_speculative_tokens": none}),
        "`speculative_config.num_speculative_tokens` is missing: it says how many tokens are proposed",
    );
    refused(
        json!({}),
        json!({"num_speculative_tokens": 0}),
        "`speculative_config.num_speculative_tokens` is 0: expected 1 to 255 tokens",
    );
    refused(
        json!({}),
        json!({"acceptance_rates": none}),
        "`speculative_config.acceptance_rates` is missing: it says how many drafts are accepted, which nothing else \
         says, such as [0.67, 0.42, 0.26] (or give `acceptance_length`)",
    );
    refused(
        json!({}),
        json!({"acceptance_rates": [0.5, 0.4]}),
        "`speculative_config.acceptance_rates` is [0.5,0.4]: expected one rate for each of the 3 proposed tokens",
    );
    refused(
        json!({}),
        json!({"acceptance_rates": [0.5, 0.6, 0.1]}),
        "`speculative_config.acceptance_rates` is [0.5,0.6,0.1]: 0.6 follows 0.5, but a draft is accepted only if the one \
         before it is, so that rates do not rise; how often each is accepted if the one before it was are \
         `conditional_acceptance_rates`",
    );
    refused(
        json!({}),
        json!({"acceptance_rates": [1.5, 0.6, 0.1]}),
        "`speculative_config.acceptance_rates` is [1.5,0.6,0.1]: 1.5 is no share from 0 to 1",
    );
    refused(
        json!({}),
        json!({"acceptance_length": 2}),
        "`speculative_config.acceptance_rates` and `speculative_config.acceptance_length` both say how many drafts are \
         accepted: give one of them",
    );
    refused(
        json!({}),
        json!({"acceptance_rates": none, "acceptance_length": 4.5}),
        "`speculative_config.acceptance_length` is 4.5: expected a number from 1 (no draft is ever accepted) to 4 (all are)",
    );
    refused(
        json!({}),
        json!({"num_speculative_tokens_per_batch_size": [[1, 4, 3], [4, 8, 1]]}),
        "`speculative_config.num_speculative_tokens_per_batch_size` is [[1,4,3],[4,8,1]]: ranges overlap",
    );
    refused(
        json!({"max_num_batched_tokens": 3}),
        json!({}),
        "`max_num_batched_tokens` is 3, but a request that verifies 3 drafts takes 4: raise it or lower \
         `speculative_config.num_speculative_tokens`",
    );
    refused(
        json!({"num_gpu_blocks": 2, "block_size": 4}),
        json!({}),
        "`speculative_config.num_speculative_tokens` is 3: a request needs KV slots for 7 tokens to verify its drafts, \
         but the KV cache holds 4",
    );
    refused(
        json!({"block_size": 2}),
        json!({"method": "mtp", "num_nextn_predict_layers": 3}),
        "`block_size` is 2, but with prefix caching several MTP modules need blocks of at least \
         `speculative_config.num_speculative_tokens`, which is 3",
    );
    refused(
        json!({"engine_type": "trtllm"}),
        json!({}),
        "`speculative_config` is a setting of vLLM, but `engine_type` is `trtllm`",
    );
    refused(
        json!({}),
        json!({"acceptence_rates": [1]}),
        "unknown key `speculative_config.acceptence_rates`, did you mean `speculative_config.acceptance_rates`?",
    );
    let unknown = checked(json!({}), json!({"method": "eagle4"})).unwrap_err().to_string();
    assert!(unknown.starts_with("`speculative_config.method` is \"eagle4\": expected"), "{unknown}");
}

#[test]
fn a_drafter_has_a_shape_where_its_time_is_worked_out() {
    let of_drafter = |latency: &str, model: Value| {
        let settings = json!({"latency": latency, "speculative_config": {
            "method": "eagle3", "num_speculative_tokens": 1, "acceptance_rates": [0.5], "model": model,
        }});
        EngineArgs::from_json(settings).unwrap().of_drafter()
    };
    let of_mtp = |latency: Value| {
        let settings = json!({"latency": latency, "model": "a", "gpu": "L4", "dtype": "fp8", "speculative_config": {
            "method": "mtp", "num_speculative_tokens": 1, "acceptance_rates": [0.5],
        }});
        EngineArgs::from_json(settings)
            .unwrap()
            .of_drafter()
            .unwrap()
            .map(|drafter| drafter.latency_spec().unwrap())
    };
    let own = "model=a,gpu=L4,dtype=fp8,engine=vllm,";
    let shape = |spec: Option<LatencySpec>| match spec {
        Some(LatencySpec::Ops(options) | LatencySpec::Roofline(options)) => options,
        other => panic!("{other:?} has no options"),
    };
    for auto in [Value::Null, "auto".into()] {
        let found = shape(of_mtp(auto));
        assert!(found.starts_with(own) && found.ends_with(",part=mtp"), "{found}");
    }
    let found = shape(of_mtp("roofline:kernel_us=1".into()));
    assert_eq!(found, "model=a,gpu=L4,dtype=fp8,kernel_us=1,part=mtp");
    assert_eq!(of_mtp("polynomial".into()), None);
    let missing = of_drafter("roofline:model=a,gpu=L4", Value::Null).unwrap_err().to_string();
    assert!(missing.starts_with("`speculative_config.model` is missing: "), "{missing}");
    assert_eq!(of_drafter("polynomial", Value::Null), Ok(None));
    let found = of_drafter("roofline:model=a,gpu=L4,dtype=fp8", "b".into()).unwrap().unwrap();
    assert_eq!((found.latency.as_deref(), found.model.as_deref()), (Some("roofline:gpu=L4"), Some("b")));
}

#[test]
fn a_speedup_divides_the_passes_of_a_drafter() {
    let time = |changes: Value| {
        let mut settings = json!({"latency": "linear:0,0,0", "speculative_config": {
            "method": "eagle3", "num_speculative_tokens": 3, "acceptance_length": 2, "draft_pass_us": 60,
        }});
        settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
        let proposals = crate::speculation::Proposals { drafts: 3, ..Default::default() };
        let batch = servecast_latency::Batch::new(0);
        config.drafter.unwrap().time(&batch, &proposals).unwrap().as_ns() / 1000
    };
    assert_eq!(time(json!({})), 180);
    assert_eq!(time(json!({"speedup_ratio": 2})), 90);
    assert_eq!(time(json!({"speedup_ratio": 2, "decode_speedup_ratio": 3})), 30);
}

#[test]
fn gpus_of_a_drafter_are_some() {
    let problem = "expected a whole number from 1 to 1024";
    for gpus in [0, 1025] {
        let message = format!("`speculative_config.draft_tensor_parallel_size` is {gpus}: {problem}");
        refused(json!({}), json!({"draft_tensor_parallel_size": gpus}), &message);
    }
}
