//! `servecast explain models` and `servecast explain gpus`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::sandbox::Sandbox;

fn listed(sandbox: &Sandbox, what: &[&str]) -> Vec<Value> {
    let text = sandbox.run(&[&["explain"], what, &["--format", "json"]].concat()).success();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_is_known_is_listed() {
    let sandbox = Sandbox::new();
    let models = sandbox.run(&["explain", "models"]).success();
    assert!(models.lines().count() > 60, "{models}");
    let line = |name: &str| models.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
    let words = |name: &str| line(name).split_whitespace().collect::<Vec<_>>().join(" ");
    let begins = |name: &str, expected: &str| {
        let found = words(name);
        assert!(found.starts_with(expected), "{found}");
        found[expected.len()..].trim_start().to_owned()
    };
    begins(
        "Qwen/Qwen3.5-397B-A17B",
        "Qwen/Qwen3.5-397B-A17B 396.35 B 16.33 B bf16 30720 B 262144 15 × 32 heads, 2 KV, 45 × gated delta rule 60 × 10 of 512",
    );
    begins(
        "zai-org/GLM-5",
        "zai-org/GLM-5 743.91 B 40.83 B bf16 100152 B 202752 78 × 64 heads, MLA with sparse index 75 × 8 of 256",
    );
    // Behind the shape: which operators have tables, and how far off times are.
    let llama = begins("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B 70.55 B 69.50 B bf16 327680 B");
    assert!(
        llama.contains(" - all TPOT ±") && llama.ends_with("of the same family, engine and GPU generation)"),
        "{llama}"
    );
    let gpus = sandbox.run(&["explain", "gpus"]).success();
    assert!(gpus.lines().count() > 15 && gpus.contains("GB300") && gpus.contains("data sheet"), "{gpus}");
    let [gpu] = &listed(&sandbox, &["gpus", "nvidia b200"])[..] else { panic!("one GPU") };
    assert_eq!(gpu["dtypes"].as_array().unwrap().len(), 7, "{gpu}");
    assert_eq!((&gpu["gpu"], &gpu["domain"]), (&"B200".into(), &8.into()));
    let tables = gpu["operator_tables"].as_str().unwrap();
    assert!(["vllm ", "sglang ", "trtllm "].iter().all(|engine| tables.contains(engine)), "{tables}");
    let [gpu] = &listed(&sandbox, &["gpus", "MI300X"])[..] else { panic!("one GPU") };
    assert!(gpu["operator_tables"].is_null(), "{gpu}");
    sandbox.run(&["explain", "gpus", "B201"]).is_refused(&["did you mean `B200`?"]);
    sandbox.run(&["explain", "models", "Qwen/Qwen3-31B"]).is_refused(&["did you mean `Qwen/Qwen3-32B`?"]);
}

#[test]
fn what_tables_cover_of_a_model_depends_on_the_gpu_and_the_engine() {
    let sandbox = Sandbox::new();
    let of = |model: &str, gpu: &str, engine: &str| {
        let [found] = &listed(&sandbox, &["models", model, "--gpu", gpu, "--engine", engine])[..] else {
            panic!("one model")
        };
        found.clone()
    };
    let parts = |found: &Value, kind: &str| -> BTreeSet<String> {
        let listed = found["operator_tables"][kind].as_array().unwrap().iter();
        listed.map(|origin| origin["part"].as_str().unwrap().to_owned()).collect()
    };
    let known = of("openai/gpt-oss-120b", "H100-SXM", "vllm");
    assert!(
        parts(&known, "measured").contains("experts") && parts(&known, "estimated").is_empty(),
        "{known}"
    );
    assert!(known["error"]["n"].as_u64().unwrap() >= 12 && known["error"]["tpot_p90"].is_number(), "{known}");
    // No AMD GPU was measured: everything is by the data sheet.
    let unknown = of("openai/gpt-oss-120b", "MI300X", "vllm");
    assert!(
        parts(&unknown, "measured").is_empty() && parts(&unknown, "estimated").contains("experts"),
        "{unknown}"
    );
    // The GPU has no such numbers.
    let never = of("nvidia/DeepSeek-R1-0528-FP4", "H100-SXM", "vllm");
    assert!(never["operator_tables"]["problem"].as_str().unwrap().contains("nvfp4"), "{never}");
    assert!(never["error"].is_null(), "{never}");
    let [gpu] = &listed(&sandbox, &["gpus", "H200"])[..] else { panic!("one GPU") };
    assert!(gpu["error"]["n"].as_u64().unwrap() >= 12, "{gpu}");
    let [gpu] = &listed(&sandbox, &["gpus", "A100-SXM"])[..] else { panic!("one GPU") };
    assert_eq!(gpu["error"]["basis"], "no run on it was compared");
    sandbox.run(&["explain", "models", "--engine", "tgi"]).is_refused(&["vllm, sglang or trtllm"]);
    sandbox.run(&["explain", "models", "--gpu", "H10"]).is_refused(&["H100"]);
}

#[test]
fn a_quantised_repository_says_how_weights_are_stored() {
    let sandbox = Sandbox::new();
    let [model] = &listed(&sandbox, &["models", "nvidia/DeepSeek-R1-0528-FP4"])[..] else {
        panic!("one model")
    };
    assert_eq!((&model["weights"], &model["attention_weights"]), (&"nvfp4".into(), &"bf16".into()));
}

#[test]
fn the_index_of_sparse_attention_takes_memory() {
    let sandbox = Sandbox::new();
    let arguments = [
        "explain",
        "capacity",
        "--model",
        "nvidia/DeepSeek-V3.2-NVFP4",
        "--gpu",
        "B200",
        "--tp",
        "8",
        "--kv-dtype",
        "fp8",
    ];
    let table = sandbox.run(&arguments).success();
    let line = "48068 B     KV of a token on each GPU: 61 layers × (656 B of 576 numbers and 132 B of its index) (fp8)";
    assert!(table.contains(line), "{table}");
}

#[test]
fn every_model_and_gpu_that_was_measured_is_known() {
    let Some(data) = testkit::outside(testkit::DATA) else { return };
    let packed = fs::read(data.join("silicon/visible.csv.gz")).unwrap();
    let mut table = String::new();
    MultiGzDecoder::new(&packed[..]).read_to_string(&mut table).unwrap();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|title| *title == name).unwrap();
    let (model, gpu, dtype) = (column("model"), column("gpu"), column("dtype"));
    let rows: BTreeSet<[String; 3]> = lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            [model, gpu, dtype].map(|column| cells[column].to_owned())
        })
        .collect();
    assert!(rows.len() > 20, "{rows:?}");
    let sandbox = Sandbox::new();
    for [model, gpu, dtype] in &rows {
        // Enough GPUs for any of them.
        let arguments = [
            "explain",
            "capacity",
            "--model",
            model,
            "--gpu",
            gpu,
            "--dtype",
            dtype,
            "--tp",
            "8",
            "--max-num-seqs",
            "64",
        ];
        sandbox.run(&arguments).success();
    }
    for run in fs::read_dir(data.join("real")).unwrap() {
        let Ok(meta) = fs::read_to_string(run.unwrap().path().join("meta.json")) else { continue };
        let meta: Value = serde_json::from_str(&meta).unwrap();
        sandbox.run(&["explain", "models", meta["model"].as_str().unwrap()]).success();
    }
    for name in ["nvidia/Llama-3.3-70B-Instruct-FP4", "meta-llama/Llama-3.1-8B-Instruct"] {
        sandbox.run(&["explain", "models", name]).success();
    }
}
