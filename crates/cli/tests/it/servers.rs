//! `servecast validate RESULT --config`: runs of servers of which only the load and what clients saw were recorded.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

const DEPLOYMENT: &str = "latency = \"linear:10000,0,0\"\nmax_num_batched_tokens = 4096\nnum_workers = 1\n";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("deployment.toml", DEPLOYMENT);
    sandbox
}

fn validate(sandbox: &Sandbox, result: &str) -> Value {
    let text =
        sandbox.run(&["validate", result, "--config", "deployment.toml", "--format", "json"]).success();
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

fn figure(outcome: &Value, name: &str, side: &str) -> f64 {
    let figures = outcome["figures"].as_array().unwrap();
    let row = figures.iter().find(|row| row["figure"] == name).unwrap_or_else(|| panic!("{name}: {outcome}"));
    row[side].as_f64().unwrap()
}

fn bench() -> Value {
    json!({
        "num_prompts": 50, "total_input_tokens": 5000, "total_output_tokens": 500, "request_rate": 2.0,
        "burstiness": 100.0, "max_concurrency": null, "mean_ttft_ms": 8.0, "mean_tpot_ms": 10.0, "p99_itl_ms": 10.0,
        "mean_e2el_ms": 100.0, "request_throughput": 2.0, "std_ttft_ms": 1.0,
    })
}

/// Every pass takes 10 ms, requests are half a second apart, and each has ten tokens.
#[test]
fn a_result_of_vllm_bench_is_replayed_with_its_rate() {
    let sandbox = sandbox();
    sandbox.write("result.json", bench().to_string());
    let outcome = validate(&sandbox, "result.json");
    assert!((figure(&outcome, "mean_ttft_ms", "servecast") - 10.0).abs() < 1e-6, "{outcome}");
    assert!((figure(&outcome, "mean_ttft_ms", "error_percent") - 25.0).abs() < 1e-6, "{outcome}");
    assert!((figure(&outcome, "mean_e2e_ms", "servecast") - 100.0).abs() < 1e-6, "{outcome}");
    // The mean of 20 seeds, of 49 gaps and a request each.
    let rate = figure(&outcome, "request_throughput_rps", "servecast");
    assert!((rate / (50.0 / 24.6) - 1.0).abs() < 0.02, "{rate}");
    let gate = |condition: &str| {
        sandbox.run(&["validate", "result.json", "--config", "deployment.toml", "--fail-if", condition]).code
    };
    assert_eq!((gate("mean_ttft_ms>26%"), gate("mean_ttft_ms>24%")), (Some(0), Some(3)));
    // All at once, a few at a time.
    let mut closed = bench();
    closed["request_rate"] = "inf".into();
    closed["max_concurrency"] = 5.into();
    sandbox.write("closed.json", closed.to_string());
    let rate = figure(&validate(&sandbox, "closed.json"), "request_throughput_rps", "servecast");
    assert!((rate - 50.0).abs() < 1e-6, "{rate}");
}

/// Two clients and three conversations, the first of two turns: its second prompt is the first with its reply and 20 tokens.
#[test]
fn conversations_have_as_many_under_way_as_there_are_clients() {
    let sandbox = sandbox();
    let rows = "start_time_ms,ttft_ms,tpot_ms,latency_ms,input_num_tokens,output_num_tokens,conversation_id,client_id\n\
                1000,10,10,100,100,10,a,0\n1000,10,10,100,100,10,b,1\n1100,10,10,100,130,10,a,0\n\
                1100,10,10,100,100,10,c,1\n";
    sandbox.write("rows.csv", rows);
    let outcome = validate(&sandbox, "rows.csv");
    for (name, expected) in [
        ("mean_ttft_ms", 10.0),
        ("mean_tpot_ms", 10.0),
        ("request_throughput_rps", 20.0),
        ("mean_e2e_ms", 100.0),
    ] {
        for side in ["real", "servecast"] {
            let found = figure(&outcome, name, side);
            assert!((found - expected).abs() < 1e-6, "{name} {side}: {found}");
        }
    }
}

#[test]
fn results_that_cannot_be_meant_are_refused() {
    let sandbox = sandbox();
    let refused = |text: &str, words: &[&str]| {
        sandbox.write("r", text);
        sandbox.run(&["validate", "r", "--config", "deployment.toml"]).is_refused(words);
    };
    refused("{}", &["r: `num_prompts` is absent", "`vllm bench serve --save-result` writes such a file"]);
    let mut wrong = bench();
    wrong["request_rate"] = 0.into();
    refused(&wrong.to_string(), &["r: `request_rate` is 0, but must be requests a second"]);
    let mut wrong = bench();
    wrong["max_concurrency"] = 3.into();
    refused(&wrong.to_string(), &["`max_concurrency` is 3, but must be null, or a number"]);
    refused("a,b\n1,2\n", &["r: ", "rows of conversations have start_time_ms"]);
    sandbox.write("r", bench().to_string());
    sandbox.run(&["validate", "r", "--config", "none.toml"]).is_refused(&["none.toml"]);
}

/// Two real vLLM servers on an H100 each, three times, with nothing fitted to them.
#[test]
fn two_replicas_on_h100_are_met() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    sandbox.write(
        "deployment.toml",
        "engine_preset = \"vllm-0.14\"\nasync_scheduling = false\nmodel = \"meta-llama/Llama-3.1-8B-Instruct\"\n\
         gpu = \"H100-SXM\"\ntensor_parallel_size = 1\nnum_workers = 2\nrouter_mode = \"random\"\n",
    );
    let mut results: Vec<_> = std::fs::read_dir(folder.join("real/h100_llama8b_pd/2replicas"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    results.sort();
    assert_eq!(results.len(), 3);
    for result in results {
        let outcome = validate(&sandbox, result.to_str().unwrap());
        let error = |name: &str| figure(&outcome, name, "error_percent").abs();
        assert!(error("p99_itl_ms") < 15.0 && error("mean_ttft_ms") < 12.0, "{outcome}");
        // The repeats themselves are 8 % apart.
        assert!(error("mean_tpot_ms") < 16.0, "{outcome}");
    }
}

/// A real vLLM 0.15 on a B200 whose attention is `FlashInfer`'s own: conversations of 16, 64 and 256 clients.
const MULTI_TURN: &str = "engine_preset = \"vllm-0.14\"\nmodel = \"nvidia/Llama-3.3-70B-Instruct-FP4\"\ngpu = \"B200\"\n\
                          tensor_parallel_size = 1\nkv_cache_dtype = \"fp8\"\nengine_version = \"0.15.0\"\n\
                          attention_backend = \"flashinfer\"\nmax_num_seqs = 256\nmax_num_batched_tokens = 8192\n";

fn multi_turn(clients: u32) -> Option<String> {
    recorded_on_b200(clients, "off")
}

fn recorded_on_b200(clients: u32, offload: &str) -> Option<String> {
    let folder = testkit::outside(testkit::DATA)?.join("real/b200_llama70b_multiturn");
    let file = folder.join(format!("tp1_bs{clients}_offload{offload}/requests.csv.gz"));
    Some(file.to_str().unwrap().to_owned())
}

#[track_caller]
fn is_within(outcome: &Value, percent: f64) {
    for name in ["request_throughput_rps", "mean_tpot_ms"] {
        let error = figure(outcome, name, "error_percent");
        assert!(error.abs() < percent, "{name}: {error} %\n{outcome}");
    }
}

#[test]
fn long_conversations_on_b200_are_met_with_nothing_fitted() {
    let sandbox = Sandbox::new();
    sandbox.write("deployment.toml", MULTI_TURN);
    for clients in [16, 64, 256] {
        let Some(result) = multi_turn(clients) else { return };
        is_within(&validate(&sandbox, &result), 20.0);
    }
    // TensorRT-LLM's kernels, of which the usual tables are, do not wait for the longest conversation.
    sandbox.write("deployment.toml", MULTI_TURN.replace("\"flashinfer\"", "\"auto\""));
    let usual = validate(&sandbox, &multi_turn(64).unwrap());
    assert!(figure(&usual, "mean_tpot_ms", "error_percent") < -40.0, "{usual}");
}

#[test]
fn a_host_fitted_to_few_clients_holds_for_many() {
    let Some(few) = multi_turn(16) else { return };
    let sandbox = Sandbox::new();
    sandbox.write("deployment.toml", MULTI_TURN);
    let fit = ["calibrate", &few, "--config", "deployment.toml", "--output", "host.toml", "--format", "json"];
    let fitted: Value = serde_json::from_str(&sandbox.run(&fit).success()).unwrap();
    assert!((1_000.0..5_000.0).contains(&fitted["gap_us"].as_f64().unwrap()), "{fitted}");
    for (clients, percent) in [(16, 1.0), (64, 8.0), (256, 12.0)] {
        let result = multi_turn(clients).unwrap();
        let run =
            ["validate", &result, "--config", "deployment.toml", "--config", "host.toml", "--format", "json"];
        let outcomes: Value = serde_json::from_str(&sandbox.run(&run).success()).unwrap();
        is_within(&outcomes[0], percent);
        let [real, ours] = ["real", "servecast"].map(|side| figure(&outcomes[0], "prefix_hit_percent", side));
        assert!((ours - real).abs() < 5.0, "{ours} %, not {real} %\n{outcomes}");
    }
}

/// The same server with 300 GiB of its host for KV, whose connector stores what 0.15 does.
#[test]
fn kv_offload_of_a_host_fitted_without_it_is_met() {
    let Some(few) = multi_turn(16) else { return };
    let sandbox = Sandbox::new();
    sandbox.write("deployment.toml", MULTI_TURN);
    sandbox.run(&["calibrate", &few, "--config", "deployment.toml", "--output", "host.toml"]).success();
    sandbox.write("offload.toml", "kv_offloading_size = 300\nkv_offloading_backend = \"native\"\n");
    for clients in [64, 256] {
        let result = recorded_on_b200(clients, "on").unwrap();
        let configs = ["deployment.toml", "offload.toml", "host.toml"].map(|config| ["--config", config]);
        let run = [&["validate", &result, "--format", "json"], configs.as_flattened()].concat();
        let outcomes: Value = serde_json::from_str(&sandbox.run(&run).success()).unwrap();
        let outcome = &outcomes[0];
        for (name, percent) in
            [("request_throughput_rps", 12.0), ("mean_ttft_ms", 20.0), ("mean_tpot_ms", 12.0)]
        {
            let error = figure(outcome, name, "error_percent");
            assert!(error.abs() < percent, "{clients} clients, {name}: {error} %\n{outcome}");
        }
        for name in ["prefix_hit_percent", "host_hit_percent"] {
            let [real, ours] = ["real", "servecast"].map(|side| figure(outcome, name, side));
            assert!((ours - real).abs() < 5.0, "{clients} clients, {name}: {ours}, not {real}\n{outcome}");
        }
        let [real, ours] = ["real", "servecast"].map(|side| figure(outcome, "preemptions", side));
        assert!(
            (ours - real).abs() <= 0.3 * real,
            "{clients} clients: {ours} preemptions, not {real}\n{outcome}"
        );
    }
}

/// A server whose passes take 2.5 ms longer than its latency model says, and 3 ms of front end.
#[test]
fn the_host_of_a_server_is_found_again() {
    let sandbox = sandbox();
    let result = |ttft: f64, tpot: f64| {
        let mut bench = bench();
        bench["mean_ttft_ms"] = ttft.into();
        bench["mean_tpot_ms"] = tpot.into();
        bench["mean_e2el_ms"] = (ttft + 9.0 * tpot).into();
        sandbox.write("result.json", bench.to_string());
        let run = [
            "calibrate",
            "result.json",
            "--config",
            "deployment.toml",
            "-o",
            "host.toml",
            "--format",
            "json",
        ];
        serde_json::from_str::<Value>(&sandbox.run(&run).success()).unwrap()
    };
    let fitted = result(13.0, 12.5);
    let near = |fitted: &Value, name: &str, expected: f64, by: f64| {
        let found = fitted[name].as_f64().unwrap();
        assert!((found - expected).abs() < by, "{name}: {found}, not {expected}\n{fitted}");
    };
    near(&fitted, "gap_us", 2500.0, 5.0);
    near(&fitted, "front_end_us", 3000.0, 20.0);
    let run = [
        "validate",
        "result.json",
        "--config",
        "deployment.toml",
        "--config",
        "host.toml",
        "--format",
        "json",
    ];
    let outcomes: Value = serde_json::from_str(&sandbox.run(&run).success()).unwrap();
    assert!(figure(&outcomes[0], "mean_tpot_ms", "error_percent").abs() < 0.1, "{outcomes}");
    // No gap makes passes shorter.
    let fitted = result(8.0, 8.0);
    near(&fitted, "gap_us", 0.0, 1e-9);
    near(&fitted, "speedup_ratio", 1.25, 0.01);
    // Two kinds of workers have two kinds of passes.
    sandbox.write(
        "two.toml",
        "num_prefill_workers = 1\nnum_decode_workers = 1\n[prefill_engine_args]\nblock_size = 16\n",
    );
    sandbox.run(&["calibrate", "result.json", "--config", "two.toml"]).is_refused(&["`prefill_engine_args`"]);
}

/// Other latency models have other kernels, and other names are refused.
#[test]
fn kernels_of_attention_are_named() {
    let sandbox = Sandbox::new();
    let load = ["--request-count", "2", "--input-tokens", "8", "--output-tokens", "2"];
    let linear = ["replay", "--latency", "linear:1000,0,0", "--attention-backend", "flashinfer"];
    let note = sandbox.run(&[&linear[..], &load[..]].concat()).stderr;
    assert!(note.contains("`attention_backend` is for iteration times composed of operators"), "{note}");
    let on = |model: &str, gpu: &str, kernels: &str| {
        let model = ["replay", "--model", model, "--gpu", gpu, "--attention-backend", kernels];
        sandbox.run(&[&model[..], &load[..]].concat())
    };
    on("meta-llama/Llama-3.1-70B", "B200", "fa9").is_refused(&["expected auto or flashinfer"]);
    // Where none were measured, others stand in, which is said.
    let estimated = "with vllm; estimated: decode attention, prompt attention";
    assert!(on("meta-llama/Llama-3.1-8B", "H100-SXM", "FLASHINFER").success().contains(estimated));
    assert!(!on("meta-llama/Llama-3.1-70B", "B200", "flashinfer").success().contains("estimated"));
}
