//! `servecast validate`, and the latency model `profile`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::sandbox::Sandbox;

fn figure(outcome: &Value, name: &str) -> f64 {
    let figures = outcome["figures"].as_array().unwrap();
    let row = figures.iter().find(|row| row["figure"] == name).unwrap();
    row["error_percent"].as_f64().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

#[test]
fn recorded_runs_are_met() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    let run = |name: &str| {
        let path = folder.join("real").join(name);
        let text = sandbox.run(&["validate", path.to_str().unwrap(), "--format", "json"]).success();
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    };
    let single = run("rtx4090_llama8b");
    for time in ["ttft", "tpot", "e2e"] {
        assert!(figure(&single, &format!("mean_{time}_ms")).abs() < 1.0, "{single}");
        assert!(figure(&single, &format!("p99_{time}_ms")).abs() < 1.5, "{single}");
    }
    assert!(figure(&single, "e2e_mape") < 0.8, "{single}");
    let preemptions = single["preemptions"].as_u64().unwrap();
    assert!((170..210).contains(&preemptions), "{preemptions}");
    let parallel = run("rtxpro6000_qwen32b_tp2");
    assert!(figure(&parallel, "mean_e2e_ms").abs() < 2.0, "{parallel}");
    assert!(figure(&parallel, "e2e_mape") < 3.0, "{parallel}");
}

#[test]
fn the_page_lays_curves_over_each_other() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let path = folder.join("real/rtx4090_llama8b");
    let sandbox = Sandbox::new();
    let arguments = ["validate", path.to_str().unwrap(), "--html", "page.html", "--format", "json"];
    let text = sandbox.run(&arguments).success();
    let outcome = serde_json::from_str::<Value>(&text).unwrap()[0].clone();
    assert!(figure(&outcome, "gen_throughput_over_time") < 8.0, "{outcome}");
    assert!(figure(&outcome, "kv_use_over_time") < 4.0, "{outcome}");
    let page = sandbox.read("page.html");
    let data = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap().1;
    let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let run = &data["validated"][0];
    assert_eq!(run["distributions"].as_array().unwrap().len(), 3);
    let charts: Vec<&str> =
        run["charts"].as_array().unwrap().iter().map(|chart| chart["name"].as_str().unwrap()).collect();
    assert_eq!(charts.len(), 5, "{charts:?}");
    assert!(
        run["charts"].as_array().unwrap().iter().all(|chart| chart["real"].as_array().unwrap().len() == 184)
    );
    let bad = sandbox.run(&["validate", path.to_str().unwrap(), "--html", "no/page.html"]);
    bad.is_refused(&["the folder `no` does not exist"]);
    assert_eq!(sandbox.files(), ["page.html", "t.jsonl"]);
}

#[test]
fn a_condition_on_an_error_that_holds_is_status_3() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    copy(&folder.join("real/rtx4090_llama8b"), &sandbox.path("run"));
    fs::remove_file(sandbox.path("run/timeseries.csv")).unwrap();
    let validate = |condition: &str| sandbox.run(&["validate", "run", "--fail-if", condition]);
    let text = sandbox.run(&["validate", "run", "--format", "json"]).success();
    let outcome = serde_json::from_str::<Value>(&text).unwrap()[0].clone();
    // The limit without a sign is for errors either way, one with a sign for the error as it is: +0.29 %.
    let error = figure(&outcome, "mean_e2e_ms");
    assert!((0.1..0.9).contains(&error), "{error}");
    for condition in ["mean_e2e_ms>0.1%", "mean_e2e_ms >= 0.1 %", "mean_e2e_ms>+0.1%", "mean_e2e_ms>-1%"] {
        let broken = validate(condition);
        assert_eq!(broken.code, Some(3), "{condition}: {broken:?}");
        assert!(broken.stderr.contains(&format!(": off by {error:+.2}% in run")), "{broken:?}");
    }
    for condition in ["mean_e2e_ms>1%", "mean_e2e_ms<-0.1%", "mean_e2e_ms>+1%"] {
        validate(condition).success();
    }
    assert_eq!(validate("e2e_mape>0.01%").code, Some(3));
    // What was not recorded was not compared, and that is no success.
    let nothing = validate("kv_use_over_time>90%");
    assert_eq!(nothing.code, Some(3), "{nothing:?}");
    assert!(nothing.stderr.contains("nothing to compare for `kv_use_over_time`"), "{nothing:?}");
    // Neither is what the simulation does not serve.
    let few = sandbox.run(&["validate", "run", "--num-gpu-blocks", "40", "--fail-if", "p50_ttft_ms>100000%"]);
    assert_eq!(few.code, Some(3), "{few:?}");
    assert!(few.stderr.contains("requests of run are not served by the simulation"), "{few:?}");
    assert!(few.stdout.contains("assumed: num_gpu_blocks 40 in place of the recorded 2588"), "{few:?}");
}

#[test]
fn a_condition_on_an_error_needs_a_percentage() {
    let sandbox = Sandbox::new();
    let refused = |condition: &str, words: &[&str]| {
        sandbox.run(&["validate", "run", "--fail-if", condition]).is_refused(words);
    };
    refused("mean_e2e_ms>1", &["mean_e2e_ms>1: ", "the limit has no `%`", "`mean_e2e_ms>1%` fails if"]);
    refused("e2e_mape>+0.8", &["the limit has no `%`", "`e2e_mape>0.8%`"]);
    refused("mean_e2e_ms<1%", &["small is no failure", "`mean_e2e_ms>1%`"]);
    refused("mean_e2e_m>1%", &["did you mean `mean_e2e_ms`?", "figures are mean_ttft_ms, "]);
    refused("mean_e2e_ms", &["`mean_e2e_ms` is no condition: it has no `>` and no `<`"]);
}

#[test]
fn a_profile_serves_a_replay_and_a_bad_one_is_refused() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    copy(&folder.join("real/rtx4090_llama8b"), &sandbox.path("run"));
    let replay = |spec: &str| sandbox.run(&["replay", "t.jsonl", "--latency", spec, "--format", "json"]);
    let report: Value = serde_json::from_str(&replay("profile:run/profile").success()).unwrap();
    assert_eq!(report["completed_requests"], 4);
    let long = r#"{"timestamp": 0, "input_length": 5000, "output_length": 2, "hash_ids": [1]}"#;
    sandbox.write("long.jsonl", long);
    let long = ["long.jsonl", "--trace-block-size", "5000", "--latency", "profile:run", "--format", "json"];
    let outcome = sandbox.run(&[&["replay"], &long[..]].concat());
    assert!(outcome.stderr.contains("of the iterations is extrapolated"), "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.success()).unwrap();
    assert!((report["latency_extrapolated_ratio"].as_f64().unwrap() - 0.5).abs() < 1e-9, "{report}");
    let refused = |spec: &str, message: &str| {
        let outcome = replay(spec);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    };
    refused("profile:nowhere", "nowhere: there is no dense.csv");
    refused("profile:run/profile,model=a/b", "the shape of the model `a/b` is not known");
    refused("profile:run/profile,speed=3", "unknown key");
    refused(
        "profile:run/profile,tp=2",
        "the layers were measured with tensor_parallel_size 1: measure them with 2",
    );
    let manifest = |text: &str| sandbox.write("run/profile/profile.json", text);
    manifest(r#"{"model": "meta-llama/Llama-3.1-8B", "time_unit": "ms"}"#);
    refused("profile:run/profile", "`time_unit` is `ms`, but must be `us`");
    manifest(r#"{"model": "meta-llama/Llama-3.1-8B", "tensor_parallel": 2}"#);
    refused("profile:run/profile", "unknown field `tensor_parallel`");
    manifest(r#"{"model": "Qwen/Qwen3-30B-A3B"}"#);
    refused("profile:run/profile", "layer `qk_norm` is missing, which the model runs in every pass");
    manifest(
        r#"{"schema_version": 1, "model": "meta-llama/Llama-3.1-8B", "tensor_parallel_size": 2, "gpu": "RTX-4090",
            "engine": "vllm", "engine_version": "0.19.0", "time_unit": "us"}"#,
    );
    sandbox.write("run/profile/all_reduce.csv", "gpus,bytes,time_us\n4,1024,5\n4,65536,9\n");
    refused("profile:run/profile", "all_reduce.csv: fewer than two sizes were measured with 2 GPUs");
    sandbox.write("run/profile/all_reduce.csv", "gpus,bytes,time_us\n2,8192,50000\n2,65536,50000\n");
    let report: Value = serde_json::from_str(&replay("profile:run/profile").success()).unwrap();
    // Two exchanges of 50 ms in each of 32 blocks.
    assert!(report["min_itl_ms"].as_f64().unwrap() > 3200.0, "{report}");
    let ring: Value = serde_json::from_str(&replay("profile:run/profile,all_reduce=ring").success()).unwrap();
    assert!(ring["min_itl_ms"].as_f64().unwrap() < 100.0, "{ring}");
    fs::write(sandbox.path("run/profile/config.json"), r#"{"model_type": "mamba"}"#).unwrap();
    refused("profile:run/profile", "`model_type` is `mamba`");
}

#[test]
fn a_profile_of_a_model_with_experts_needs_their_times() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    copy(&folder.join("real/rtx4090_llama8b/profile"), &sandbox.path("moe"));
    let dense = sandbox.read("moe/dense.csv");
    sandbox.write("moe/dense.csv", dense + "qk_norm,1,2\nqk_norm,2048,2\n");
    sandbox.write(
        "moe/config.json",
        r#"{"model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "intermediate_size": 6144,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
            "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}"#,
    );
    let replay = |spec: &str| sandbox.run(&["replay", "t.jsonl", "--latency", spec, "--format", "json"]);
    let missing = replay("profile:moe");
    assert_eq!(missing.code, Some(2), "{missing:?}");
    let message = "moe: moe.csv is missing, but the model has 128 experts a block";
    assert!(missing.stderr.contains(message), "{}", missing.stderr);
    let of_experts = |us: u32| {
        sandbox.write(
            "moe/moe.csv",
            format!("ep,tokens,activated_experts,time_us\n1,1,8,{us}\n1,2048,128,{us}\n"),
        );
        let report: Value = serde_json::from_str(&replay("profile:moe").success()).unwrap();
        report["min_itl_ms"].as_f64().unwrap()
    };
    // 48 blocks, each a millisecond slower; requests meet at other times, so contexts are not quite the same.
    let more = of_experts(2000) - of_experts(1000);
    assert!((more - 48.0).abs() < 0.1, "{more}");
    // What one GPU takes says what each of four does; what two take does not.
    replay("profile:moe,ep=4").success();
    sandbox.write("moe/moe.csv", "ep,tokens,activated_experts,time_us\n2,1,8,9\n2,2048,128,9\n");
    let shared = replay("profile:moe,ep=4");
    assert!(shared.stderr.contains("experts were measured with expert_parallel_size 2, not 4"), "{shared:?}");
}

/// A model of one block with experts, on two GPUs: what a token of an expert takes is all that takes long.
fn write_experts_on_ranks(sandbox: &Sandbox, share_out: bool, prompts: &[u32]) {
    fs::create_dir_all(sandbox.path("ranks/profile")).unwrap();
    let meta = serde_json::json!({
        "schema_version": 1, "model": "small", "vllm_version": "0.19.0", "engine_kwargs": {
            "tensor_parallel_size": 1, "data_parallel_size": 2, "enable_expert_parallel": share_out, "max_num_seqs": 8,
            "max_num_batched_tokens": 64, "block_size": 16,
        }, "kv_cache": {"num_gpu_blocks": 100, "block_size": 16, "enable_prefix_caching": true},
    });
    sandbox.write("ranks/meta.json", meta.to_string());
    let config = serde_json::json!({
        "model_type": "qwen3_moe", "num_hidden_layers": 1, "hidden_size": 1000, "intermediate_size": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 1, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 1,
    });
    sandbox.write("ranks/profile/config.json", config.to_string());
    let table = |head: &str, rows: &[String]| format!("{head}\n{}\n", rows.join("\n"));
    let layers = "embedding final_layernorm layernorm qkv_proj rotary_emb o_proj qk_norm gate_up_proj act_fn down_proj";
    let constant = |layer: &str| format!("{layer},1,1\n{layer},64,1");
    let rows: Vec<String> = layers.split(' ').map(constant).collect();
    sandbox.write("ranks/profile/dense.csv", table("layer,tokens,time_us", &rows));
    let rows: Vec<String> = ["lm_head", "sampler"].map(constant).into();
    sandbox.write("ranks/profile/per_sequence.csv", table("layer,sequences,time_us", &rows));
    let mut rows = Vec::new();
    for (chunk, before) in [(0, 0), (1, 0), (1, 64), (64, 0), (64, 64)] {
        for (decodes, context) in [(0, 0), (1, 1), (1, 64), (8, 1), (8, 64)] {
            if chunk + decodes > 0 {
                rows.push(format!("{chunk},{before},{decodes},{context},1"));
            }
        }
    }
    let head = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us";
    sandbox.write("ranks/profile/attention.csv", table(head, &rows));
    // A millisecond a token, measured on one GPU.
    sandbox.write("ranks/profile/moe.csv", "tokens,activated_experts,time_us\n1,2,1000\n64,2,64000\n");
    let line =
        |tokens: &u32| format!("{{\"input_toks\": {tokens}, \"output_toks\": 1, \"arrival_time_ns\": 0}}\n");
    sandbox.write("ranks/workload.jsonl", prompts.iter().map(line).collect::<String>());
    let request = |number: usize| {
        format!(
            "{{\"request_id\": \"bench-{number}\", \"output_toks\": 1, \"queued_ts\": 0, \"first_token_ts\": 1, \
             \"last_token_ts\": 1}}\n"
        )
    };
    sandbox.write("ranks/requests.jsonl", (0..prompts.len()).map(request).collect::<String>());
}

/// Ranks that share out experts compute each pass together: as long as the slowest, with the tokens of both for the experts,
/// of which each GPU has half, and with what they exchange. Without experts that are shared out, they are two servers.
#[test]
fn experts_of_data_parallel_ranks_have_the_tokens_of_all() {
    let sandbox = Sandbox::new();
    let ttft = |share_out: bool, prompts: &[u32]| {
        write_experts_on_ranks(&sandbox, share_out, prompts);
        let text = sandbox.run(&["validate", "ranks", "--format", "json"]).success();
        let outcome = serde_json::from_str::<Value>(&text).unwrap()[0].clone();
        let figures = outcome["figures"].as_array().unwrap().clone();
        figures.iter().find(|row| row["figure"] == "mean_ttft_ms").unwrap()["servecast"].as_f64().unwrap()
    };
    // (8 + 24) / 2 tokens at a millisecond each, two steps of 20 µs and as many bytes, and some layers of 1 µs.
    let together = ttft(true, &[8, 24]);
    assert!((16.04..16.08).contains(&together), "{together}");
    // The other rank computes a dummy of one token.
    let alone = ttft(true, &[8]);
    assert!((4.5..4.6).contains(&alone), "{alone}");
    let apart = ttft(false, &[8, 24]);
    assert!((16.0..16.03).contains(&apart), "8 and 24 ms: {apart}");
    let apart = ttft(false, &[8]);
    assert!((8.0..8.03).contains(&apart), "{apart}");
    let meta =
        sandbox.read("ranks/meta.json").replace("\"data_parallel_size\":2", "\"data_parallel_size\":0");
    sandbox.write("ranks/meta.json", meta);
    sandbox.run(&["validate", "ranks"]).is_refused(&["`data_parallel_size` is 0", "from 1 to 1024"]);
}
