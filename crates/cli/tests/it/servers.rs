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
