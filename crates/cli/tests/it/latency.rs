//! Which latency models can be named, and how.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;

const PROMPTS: &str = r#"{"prefill_isl": [128, 4096], "prefill_ttft": [10, 100]}"#;
const DECODES: &str = r#"{"x_kv_usage": [0.1, 0.9, 0.1, 0.9], "y_context_length": [128, 128, 4096, 4096],
    "z_itl": [5, 10, 8, 20], "max_kv_tokens": [65536]}"#;

#[test]
fn a_profilers_folder_is_a_grid() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("h100")).unwrap();
    sandbox.write("h100/prefill_raw_data.json", PROMPTS);
    let by_key = ["replay", "t.jsonl", "--engine-args", r#"{"planner_profile_data": "h100"}"#];
    let half = sandbox.run(&by_key);
    assert_eq!(half.code, Some(2), "{half:?}");
    assert!(half.stderr.contains("there are three forms: an .npz file; a folder with"), "{}", half.stderr);
    sandbox.write("h100/decode_raw_data.json", DECODES);
    let report = |arguments: &[&str]| {
        let mut report = sandbox.report(&[&["t.jsonl"], arguments].concat());
        report.as_object_mut().unwrap().remove("wall_time_ms");
        report
    };
    let by_key = report(&by_key[2..]);
    assert_eq!(by_key, report(&["--latency", "grid:h100"]));
    assert!(by_key["mean_ttft_ms"].as_f64().unwrap() > 10.0, "{by_key}");
    sandbox.write("h100/decode_raw_data.json", DECODES.replace("z_itl", "itl"));
    let bad = sandbox.run(&["replay", "t.jsonl", "--latency", "grid:h100"]);
    assert_eq!(bad.code, Some(2));
    assert!(bad.stderr.contains("h100: array `z_itl` is missing"), "{}", bad.stderr);
}

#[test]
fn each_pool_may_have_a_model_of_its_own() {
    let sandbox = Sandbox::new();
    let config = r#"
        trace_file = "t.jsonl"
        [prefill_engine_args]
        latency = "linear:1000,0,0"
        [decode_engine_args]
        latency = "linear:7000,0,0"
    "#;
    sandbox.write("pools.toml", config);
    let by_file = sandbox.report(&["--config", "pools.toml"]);
    let by_flags = sandbox.report(&[
        "t.jsonl",
        "--prefill-engine-args",
        r#"{"latency": "linear:1000,0,0"}"#,
        "--decode-engine-args",
        r#"{"latency": "linear:7000,0,0"}"#,
    ]);
    for report in [&by_file, &by_flags] {
        let figure = |key: &str| report[key].as_f64().unwrap();
        // An iteration of each pool.
        assert!((figure("min_ttft_ms") - 8.0).abs() < 1e-9, "{report}");
        assert!((figure("min_itl_ms") - 7.0).abs() < 1e-9, "{report}");
    }
    let twice = sandbox.run(&["replay", "--config", "pools.toml", "--latency", "polynomial"]);
    assert_eq!(twice.code, Some(2));
    assert!(twice.stderr.contains("`latency` is \"polynomial\""), "{}", twice.stderr);
}

/// A report without what differs from run to run.
fn report(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let mut report = sandbox.report(arguments);
    report.as_object_mut().unwrap().remove("wall_time_ms");
    report
}

const ROOFLINE: &str = "roofline:model=meta-llama/Llama-3.1-8B,gpu=H100-SXM";

#[test]
fn a_roofline_is_labelled_as_an_estimate_in_every_output() {
    let sandbox = Sandbox::new();
    let label = "roofline of meta-llama/Llama-3.1-8B on 1 H100-SXM";
    let arguments = ["replay", "t.jsonl", "--latency", ROOFLINE, "--report-html", "page.html"];
    let outcome = sandbox.run(&arguments);
    assert!(
        outcome
            .stderr
            .contains(&format!("note: iteration times are an estimate, nothing was measured: {label}"))
    );
    let table = outcome.success();
    assert!(
        table.contains(&format!("Iteration times are an estimate, nothing was measured: {label}")),
        "{table}"
    );
    assert!(sandbox.read("page.html").contains(&format!("\"latency_estimate\":\"{label}\"")));
    let estimate = report(&sandbox, &["t.jsonl", "--latency", ROOFLINE]);
    assert_eq!(estimate["latency_estimate"], label);
    // A decode step of a lone request reads 15 GB of weights at 0.85 of 3.35 TB/s, and waits for its host and kernels.
    let itl = estimate["min_itl_ms"].as_f64().unwrap();
    assert!((6.0..7.5).contains(&itl), "{itl}");
    assert_eq!(report(&sandbox, &["t.jsonl"]).get("latency_estimate"), None);
}

#[test]
fn the_fast_path_of_a_roofline_gives_the_same_bytes() {
    let sandbox = Sandbox::new();
    let arguments = [
        "--input-tokens",
        "600",
        "--output-tokens",
        "150",
        "--request-count",
        "60",
        "--arrival-interval-ms",
        "9",
    ];
    for spec in [ROOFLINE, "roofline:model=Qwen/Qwen3-30B-A3B,gpu=A100-80GB,tp=2"] {
        let arguments = [&arguments[..], &["--latency", spec]].concat();
        let plain = [&arguments[..], &["--plain"]].concat();
        assert_eq!(report(&sandbox, &arguments), report(&sandbox, &plain), "{spec}");
    }
}

#[test]
fn models_and_gpus_may_be_described_by_files() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "config.json",
        r#"{"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}"#,
    );
    let gpu = "name = \"mine\"\nmemory_mib = 81559\nmemory_gb_per_s = 3350\nbf16_tflops = 989.4\nlink = \"nvlink4\"\n";
    sandbox.write("gpu.toml", gpu);
    let mut own = report(&sandbox, &["t.jsonl", "--latency", "roofline:model=config.json,gpu=gpu.toml"]);
    assert_eq!(own["latency_estimate"], "roofline of config.json on 1 mine");
    let mut known = report(&sandbox, &["t.jsonl", "--latency", ROOFLINE]);
    for report in [&mut own, &mut known] {
        for named in ["latency_estimate", "latency_source", "settings"] {
            assert!(report.as_object_mut().unwrap().remove(named).is_some(), "{named}");
        }
    }
    assert_eq!(own, known);
    let refused = |spec: &str, message: &str| {
        let outcome = sandbox.run(&["replay", "t.jsonl", "--latency", spec]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(message), "{spec}: {}", outcome.stderr);
    };
    refused("roofline:gpu=L4", "`latency`: roofline needs `model`: roofline:model=NAME,gpu=NAME,tp=N");
    refused("roofline:model=config.json", "`latency`: roofline needs `gpu`");
    refused("roofline:model=config.json,gpu=TPU", "the GPU `TPU` is not known");
    refused("roofline:model=a/b,gpu=L4", "the shape of the model `a/b` is not known");
    refused(
        "roofline:model=meta-lama/Llama-3.1-8,gpu=L4",
        "is not known: did you mean `meta-llama/Llama-3.1-8B`?",
    );
    refused(
        "roofline:model=config.json,gpu=H100SMX",
        "the GPU `H100SMX` is not known: did you mean `H100-SXM`?",
    );
    refused(
        "roofline:model=config.json,gpu=H100-SXM,dtype=nvfp4",
        "roofline option `dtype=nvfp4`: H100-SXM has no matrices of NVFP4",
    );
    refused(
        "roofline:model=nvidia/Llama-3.3-70B-Instruct-FP4,gpu=H200,tp=2",
        "roofline option `dtype=nvfp4`: H200 has no matrices of NVFP4",
    );
    refused(
        "roofline:model=config.json,gpu=H100-SXM,tp=16",
        "roofline option `tp=16`: 16 H100-SXM cannot share a layer: 8 of them are connected by nvlink4",
    );
    refused(
        "roofline:model=config.json,gpu=L4,dtype=fp6",
        "expected one of bf16, fp16, fp8, fp8_block, int4",
    );
    refused(
        "roofline:model=config.json,gpu=L4,speed=3",
        "`latency`: roofline option `speed=3`: unknown key; there are model, gpu",
    );
    refused("roofline:model=config.json,gpu=L4,host_us=-1", "expected µs of at least 0");
    refused(
        "roofline:model=config.json,gpu=L4,memory_efficiency=2",
        "expected a share above 0 and at most 1",
    );
    sandbox.write("gpu.toml", gpu.replace("3350", "-1"));
    refused(
        "roofline:model=config.json,gpu=gpu.toml",
        "gpu.toml: `memory_gb_per_s` is -1, but must be a number above 0",
    );
    sandbox.write("gpu.toml", gpu.replace("bf16_tflops", "tflops"));
    refused("roofline:model=config.json,gpu=gpu.toml", "unknown field `tflops`");
    sandbox.write("config.json", r#"{"model_type": "mamba"}"#);
    refused(
        "roofline:model=config.json,gpu=L4",
        "config.json: `model_type` is `mamba`, whose blocks are not known",
    );
}

#[test]
fn the_capacity_follows_from_model_and_gpu() {
    let sandbox = Sandbox::new();
    let explain = |arguments: &[&str]| sandbox.run(&[&["explain", "capacity"], arguments].concat());
    let llama =
        ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--block-size", "16", "--format", "json"];
    let found: Value = serde_json::from_str(&explain(&llama).success()).unwrap();
    let blocks = found["num_gpu_blocks"].as_u64().unwrap();
    // 71 GiB less 15 GiB of weights and some GiB of the rest, over 2 MiB a block.
    assert!((26_000..28_500).contains(&blocks), "{found}");
    let note = |arguments: &[&str]| {
        let arguments =
            [&["replay", "t.jsonl", "--block-size", "16", "--latency", ROOFLINE], arguments].concat();
        let outcome = sandbox.run(&arguments);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stderr
    };
    let derived = format!("note: `num_gpu_blocks` is {blocks}, worked out from the memory of the GPU");
    assert!(note(&[]).contains(&derived), "{}", note(&[]));
    assert!(!note(&["--num-gpu-blocks", "500"]).contains("worked out"));
    let unused = note(&["--num-gpu-blocks", "500", "--gpu-memory-utilization", "0.5"]);
    assert!(unused.contains("a setting has no effect: `gpu_memory_utilization`"), "{unused}");
    let less = note(&["--gpu-memory-utilization", "0.5"]);
    assert!(less.contains("worked out") && !less.contains(&derived), "{less}");

    let large = explain(&["--model", "meta-llama/Llama-3.1-70B", "--gpu", "H100-SXM"]);
    assert_eq!(large.code, Some(2), "{large:?}");
    let message = "the model is too large for its GPUs by 62.";
    assert!(large.stderr.contains(message) && large.stderr.contains("GiB a GPU"), "{}", large.stderr);
    let large = "roofline:model=meta-llama/Llama-3.1-70B,gpu=H100-SXM";
    let large = sandbox.run(&["replay", "t.jsonl", "--latency", large]);
    assert_eq!(large.code, Some(2), "{large:?}");
    assert!(large.stderr.contains(message), "{}", large.stderr);
    let table = explain(&[
        "--model",
        "Qwen/Qwen3-32B",
        "--gpu",
        "H200",
        "--tp",
        "2",
        "--pp",
        "2",
        "--kv-cache-dtype",
        "fp8",
    ]);
    let table = table.success();
    assert!(
        table.contains("32768 B     KV of a token on each GPU: 32 layers × 1024 numbers × 1 B (fp8)"),
        "{table}"
    );
    assert!(table.contains("131072 B     KV of a token in all, each number once"), "{table}");
    let nothing = explain(&["--model", "Qwen/Qwen3-32B"]);
    assert_eq!(nothing.code, Some(2));
}

#[test]
fn layers_that_keep_different_things_are_shown_as_groups() {
    let sandbox = Sandbox::new();
    let explain = |arguments: &[&str]| sandbox.run(&[&["explain", "kv"], arguments].concat());
    let of = |model: &str| -> Value {
        let preset = ["--engine-preset", "vllm-0.33", "--kv-cache-memory-bytes", "21474836480"];
        let arguments = [&["--model", model, "--format", "json"], &preset[..]].concat();
        serde_json::from_str(&explain(&arguments).success()).unwrap()
    };
    let gemma = of("google/gemma-3-27b-it");
    assert_eq!(
        (gemma["num_gpu_blocks"].as_u64(), gemma["bytes_per_block"].as_u64()),
        (Some(16_384), Some(1_310_720))
    );
    let layers: Vec<u64> =
        gemma["groups"].as_array().unwrap().iter().map(|group| group["layers"].as_u64().unwrap()).collect();
    assert_eq!(layers, [9, 9, 9, 9, 8, 8, 10]);
    let long = &gemma["requests"][3];
    assert_eq!(
        (&long["tokens"], &long["blocks"][0], &long["blocks"][6]),
        (&131_072.into(), &1089.into(), &8192.into())
    );
    let plain = of("meta-llama/Llama-3.1-8B");
    assert_eq!((plain["groups"].as_array().unwrap().len(), &plain["num_gpu_blocks"]), (1, &10_240.into()));
    let table =
        explain(&["--model", "openai/gpt-oss-20b", "--gpu", "H100-SXM", "--tokens", "1024"]).success();
    let words = "openai/gpt-oss-20b, tensor parallel 1, pipeline parallel 1: 2 groups of layers";
    assert!(table.contains(words) && table.contains("the last 128 tokens"), "{table}");
    assert!(table.contains("requests of 1024 tokens, each of 16 + 16 blocks"), "{table}");

    let scout = ["--model", "meta-llama/Llama-4-Scout-17B-16E", "--gpu", "H200", "--tp", "8"];
    let whole = explain(&[&scout[..], &["--disable-hybrid-kv-cache-manager"]].concat()).success();
    assert!(whole.contains(": 1 group of layers"), "{whole}");
    let states = ["--model", "Qwen/Qwen3-Next-80B-A3B", "--gpu", "H200", "--disable-hybrid-kv-cache-manager"];
    explain(&states).is_refused(&["layers with states cannot do without groups of their own"]);
    explain(&["--model", "openai/gpt-oss-20b"]).is_refused(&["nothing says how much memory the GPU has"]);
    explain(&[&scout[..], &["--engine", "sglang"]].concat())
        .is_refused(&["engine sglang does not share out"]);
}

#[test]
fn the_capacity_is_that_of_a_replay() {
    let sandbox = Sandbox::new();
    let llama = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM"];
    for engine in [
        &[][..],
        &["--engine-preset", "vllm-0.33"],
        &["--engine-preset", "vllm-0.33", "--max-num-seqs", "2000"],
        &["--engine-preset", "sglang-0.5"],
        &["--engine", "trtllm", "--max-num-batched-tokens", "100000"],
    ] {
        let explain = [&["explain", "capacity", "--format", "json"], &llama[..], engine].concat();
        let found: Value = serde_json::from_str(&sandbox.run(&explain).success()).unwrap();
        let replay = [&["replay", "t.jsonl", "--latency", ROOFLINE], engine].concat();
        let outcome = sandbox.run(&replay);
        let note = format!("note: `num_gpu_blocks` is {}, worked out", found["num_gpu_blocks"]);
        assert!(outcome.stderr.contains(&note), "{engine:?}: {note} {outcome:?}");
    }
}

#[test]
fn kv_bytes_are_those_of_all_gpus_or_of_one() {
    let sandbox = Sandbox::new();
    let explain = |arguments: &[&str]| -> Value {
        let arguments = [&["explain", "capacity", "--gpu", "H200", "--format", "json"], arguments].concat();
        serde_json::from_str(&sandbox.run(&arguments).success()).unwrap()
    };
    // 80 layers, 8 heads of 128 numbers each of keys and values, 2 bytes.
    let whole = 80.0 * 2.0 * 8.0 * 128.0 * 2.0;
    for (tp, share) in [("2", 2.0), ("8", 8.0), ("16", 8.0)] {
        let found = explain(&["--model", "meta-llama/Llama-3.1-70B", "--tp", tp]);
        assert_eq!(found["kv_bytes_per_token"], whole, "{found}");
        assert_eq!(found["kv_bytes_per_token_per_gpu"], whole / share, "{found}");
    }
}

#[test]
fn gpus_that_cannot_share_the_heads_are_refused() {
    let sandbox = Sandbox::new();
    let words = "meta-llama/Llama-3.1-8B: 3 GPUs cannot share 32 heads (8 of keys and values) evenly: it can be 1, 2, 4, 8, \
                 16 or 32";
    let spec = "roofline:model=meta-llama/Llama-3.1-8B,gpu=H100-SXM,tp=3";
    sandbox.run(&["replay", "t.jsonl", "--latency", spec]).is_refused(&["roofline option `tp=3`: ", words]);
    let explain =
        ["explain", "capacity", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--tp", "3"];
    sandbox.run(&explain).is_refused(&["--tensor-parallel-size is 3: ", words]);
}
