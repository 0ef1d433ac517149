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

#[test]
fn a_model_and_a_gpu_are_enough() {
    let sandbox = Sandbox::new();
    let common = [
        "--input-tokens",
        "1000",
        "--output-tokens",
        "20",
        "--request-count",
        "8",
        "--replay-concurrency",
        "4",
    ];
    let served = ["--model", "meta-llama/Llama-3.1-70B", "--gpu", "H100-SXM", "--tp", "4"];
    let run = |more: &[&str]| sandbox.report(&[&common[..], &served, more].concat());
    let report = run(&[]);
    let source = report["latency_source"].as_str().unwrap();
    assert_eq!(source, "measured operators of meta-llama/Llama-3.1-70B (bf16) on 4 H100-SXM with vllm");
    // The engine of 4 GPUs reads 35 GB of weights a GPU at 3.35 TB/s at best: 10.5 ms.
    let tpot = report["mean_tpot_ms"].as_f64().unwrap();
    assert!((12.0..25.0).contains(&tpot), "{tpot}");
    assert!(report["latency_error"]["n"].as_u64().unwrap() >= 12, "{report}");
    assert!(report["settings"].to_string().contains("\"tensor_parallel_size\":4"), "{}", report["settings"]);
    // Outside of a graph, exchanges between GPUs take longer.
    let eager = run(&["--enforce-eager"])["mean_tpot_ms"].as_f64().unwrap();
    assert!(eager > tpot + 0.9, "{eager} and {tpot}");
}

#[test]
fn what_no_gpu_can_serve_is_refused_with_what_could_be() {
    let sandbox = Sandbox::new();
    let served = |arguments: &[&str], words: &[&str]| {
        let common = ["replay", "--input-tokens", "10", "--output-tokens", "2", "--request-count", "1"];
        sandbox.run(&[&common[..], arguments].concat()).is_refused(words);
    };
    let llama = "meta-llama/Llama-3.1-70B";
    served(
        &["--model", llama, "--gpu", "H100-SXM", "--tp", "3"],
        &["`tensor_parallel_size` is 3: ", "it can be 1, 2, 4, 8", "(from --tensor-parallel-size)"],
    );
    served(
        &["--model", llama, "--gpu", "H100-SXM", "--tp", "16"],
        &["`tensor_parallel_size` is 16: ", "8 of them are connected by nvlink4"],
    );
    served(&["--model", llama, "--gpu", "H100-SXM", "--tp", "1"], &["too large for its GPUs by"]);
    served(
        &["--model", llama, "--gpu", "H100-SXM", "--tp", "4", "--dtype", "nvfp4"],
        &["`dtype` is nvfp4: H100-SXM has no matrices", "(from --dtype)"],
    );
    served(
        &["--model", "meta-llama/Lama-3.1-70B", "--gpu", "H100-SXM"],
        &["did you mean `meta-llama/Llama-3.1-70B`?"],
    );
    let experts = ["--model", "Qwen/Qwen3-235B-A22B", "--gpu", "B200", "--tp", "4", "--ep"];
    served(&[&experts[..], &["3"]].concat(), &["`expert_parallel_size` is 3: ", "128 experts"]);
    served(&["--model", llama], &["`gpu` is missing", "--gpu NAME"]);
    served(&["--latency", "auto"], &["is missing", "--model NAME"]);
    let h200 = ["--model", llama, "--gpu", "H200", "--tp", "4"];
    served(
        &[&h200[..], &["--latency", "ops:dtype=nvfp4"]].concat(),
        &["ops option `dtype=nvfp4`", "(from --latency)"],
    );
    served(&[&h200[..], &["--engine-version", "newest"]].concat(), &["`engine_version` is newest", "0.25.0"]);
    served(&[&h200[..], &["--ops", "h200.ops"]].concat(), &["--latency: ops:pack=FILE"]);
    served(&["--model", llama, "--gpu", "H20O"], &["the GPU `H20O` is not known: did you mean `H20`?"]);
    let config =
        format!("model = \"{llama}\"\ngpu = \"H100-SXM\"\n[engine_args]\ntensor_parallel_size = 3\n");
    sandbox.write("c.toml", config);
    served(&["--config", "c.toml"], &["`tensor_parallel_size` is 3: ", "(from c.toml)"]);
    sandbox.write("bad.ops", "SVOP");
    let pack = ["--latency", "ops:pack=bad.ops", "--model", llama, "--gpu", "H200", "--tp", "4"];
    served(&pack, &["bad.ops", "truncated"]);
    sandbox.write("bad.ops", b"SVOP\x63\0\0\0\0\0\0\0\0\0\0\0");
    served(&pack, &["bad.ops", "it has schema 99"]);
    sandbox.write("bad.ops", "not a pack");
    served(&pack, &["bad.ops", "does not begin with SVOP"]);
}

#[test]
fn a_decode_is_padded_to_the_next_recorded_graph() {
    let sandbox = Sandbox::new();
    let explain = |engine: &str| {
        let args = [
            "explain",
            "latency",
            "--model",
            "meta-llama/Llama-3.1-8B",
            "--gpu",
            "H100-SXM",
            "--engine",
            engine,
        ];
        sandbox.run(&args).success()
    };
    let vllm = explain("vllm");
    assert!(vllm.contains("passes of up to 512 tokens, each padded to the next of 51 sizes"), "{vllm}");
    assert!(explain("trtllm").contains("if they are exactly one of 19 sizes"), "{}", explain("trtllm"));
    // 33 requests, who all decode at once: their prompts are short and come together.
    let load = [
        "--input-tokens",
        "16",
        "--output-tokens",
        "200",
        "--request-count",
        "33",
        "--replay-concurrency",
        "33",
    ];
    let served = ["--model", "meta-llama/Llama-3.1-70B", "--gpu", "H100-SXM", "--tp", "4"];
    let tpot = |more: &[&str]| {
        let report = sandbox.report(&[&load[..], &served, more].concat());
        report["mean_tpot_ms"].as_f64().unwrap()
    };
    let default = tpot(&[]);
    let exact = tpot(&["--cudagraph-capture-sizes", "1,33"]);
    let wide = tpot(&["--cudagraph-capture-sizes", "1,512"]);
    let none = tpot(&["--max-cudagraph-capture-size", "32"]);
    let eager = tpot(&["--enforce-eager"]);
    assert!(exact < default && default < wide, "{exact} {default} {wide}");
    assert!(none > exact + 0.5 && (none - eager).abs() < 0.1, "{none} {eager}");
    let sglang = |more: &[&str]| tpot(&[&["--engine", "sglang"], more].concat());
    let (default, wide) = (sglang(&[]), sglang(&["--cuda-graph-bs", "512"]));
    assert!(sglang(&["--disable-cuda-graph-padding"]) < default && default < wide, "{default} {wide}");
    assert!(sglang(&["--disable-cuda-graph"]) > default);
    let trtllm = |graphs: &str| {
        let args = format!(r#"{{"trtllm": {{"cuda_graph_config": {graphs}}}}}"#);
        tpot(&["--engine", "trtllm", "--extra-engine-args", &args])
    };
    assert!(trtllm(r#"{"enable_padding": true, "batch_sizes": [512]}"#) > trtllm("{}"));
}

#[test]
fn decodes_without_a_graph_are_said_to_lack_the_time_of_the_host() {
    let sandbox = Sandbox::new();
    let load = ["replay", "--input-tokens", "16", "--output-tokens", "2", "--request-count", "1"];
    let served = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM"];
    let said = |more: &[&str]| sandbox.run(&[&load[..], &served, more].concat()).stderr;
    let note = "decodes that are no recorded CUDA graph are without the host's time";
    assert!(!said(&[]).contains(note), "{}", said(&[]));
    assert!(said(&["--enforce-eager"]).contains(note));
    assert!(said(&["--max-cudagraph-capture-size", "64"]).contains("passes of up to 64 tokens"));
    assert!(
        said(&["--engine", "sglang", "--cuda-graph-max-bs", "64"]).contains("decodes of up to 64 requests")
    );
    let unused = said(&["--enforce-eager", "--cudagraph-capture-sizes", "1,2"]);
    assert!(
        unused.contains("`cudagraph_capture_sizes` says which graphs are recorded, but none are"),
        "{unused}"
    );
    let linear = sandbox.run(&[&load[..], &["--cudagraph-capture-sizes", "1"]].concat()).stderr;
    assert!(
        linear.contains("`cudagraph_capture_sizes` is for iteration times composed of operators"),
        "{linear}"
    );
}

#[test]
fn sizes_of_graphs_that_cannot_be_are_refused_wherever_they_are_given() {
    let sandbox = Sandbox::new();
    let refused = |arguments: &[&str], words: &[&str]| {
        sandbox.run(&[&["replay", "t.jsonl"], arguments].concat()).is_refused(words);
    };
    refused(
        &["--cudagraph-capture-sizes", "8,0"],
        &["--cudagraph-capture-sizes", "[8, 0]", "batches of 1 to 65536"],
    );
    refused(&["--cudagraph-capture-sizes", "8 16"], &["--cudagraph-capture-sizes", "8 16"]);
    refused(&["--engine", "sglang", "--cudagraph-capture-sizes", "8"], &["`sglang.cuda_graph_bs`"]);
    refused(&["--cuda-graph-bs", "8"], &["is a setting of SGLang, but the engine is vllm"]);
    refused(&["--cuda-graph-sizes", "512"], &["--max-cudagraph-capture-size", "vLLM records"]);
    refused(&["--cuda-graph-config", "{}"], &["`trtllm`", "cuda_graph_config"]);
    sandbox.write(
        "c.toml",
        "[engine_args]\nengine_type = \"trtllm\"\ntrtllm = {cuda_graph_config = {padding = true}}\n",
    );
    refused(&["--config", "c.toml"], &["cuda_graph_config", "padding", "enable_padding"]);
    let given = r#"{"cudagraph_capture_sizes": [8], "max_cudagraph_capture_size": 4}"#;
    refused(&["--extra-engine-args", given], &["`max_cudagraph_capture_size` is 4, but the largest"]);
}

#[test]
fn iteration_times_are_shown_on_a_page() {
    let sandbox = Sandbox::new();
    let explain = ["explain", "latency", "--model", "openai/gpt-oss-120b", "--gpu", "H200", "--tp", "2"];
    let run = |more: &[&str]| sandbox.run(&[&explain[..], more].concat());
    let told: Value =
        serde_json::from_str(&run(&["--format", "json", "--html", "p.html"]).success()).unwrap();
    let page = sandbox.read("p.html");
    let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    let decodes = &data["charts"][0];
    let place = decodes["sizes"].as_array().unwrap().iter().position(|size| size == 32).unwrap();
    // The page has what the table says of 32 requests.
    let close = |one: &Value, other: &Value| (one.as_f64().unwrap() - other.as_f64().unwrap()).abs() < 1e-5;
    let shown = &told["passes"][1];
    assert!(close(&decodes["pass_ms"][place], &shown["ms"]), "{decodes}");
    for (part, name) in data["parts"].as_array().unwrap().iter().enumerate() {
        let expected = &shown["parts_ms"][name.as_str().unwrap()];
        let expected = if expected.is_null() { &Value::from(0.0) } else { expected };
        assert!(close(&decodes["parts_ms"][part][place], expected), "{name}");
    }
    run(&["--html", "no/such/p.html"]).is_refused(&["no/such/p.html"]);
}

#[test]
fn what_was_not_measured_is_said_and_widens_the_error() {
    let sandbox = Sandbox::new();
    let load = ["--input-tokens", "10", "--output-tokens", "2", "--request-count", "1"];
    let run = |served: &[&str]| {
        let arguments = [&load[..], served].concat();
        let report = sandbox.report(&arguments);
        (report, sandbox.run(&[&["replay"], &arguments[..]].concat()).stderr)
    };
    let p90 = |report: &Value| report["latency_error"]["ttft_p90"].as_f64();
    let (known, notes) = run(&["--model", "Qwen/Qwen3-235B-A22B", "--gpu", "H200", "--tp", "8"]);
    assert!(!notes.contains("not measured"), "{notes}");
    // Its experts have no table of their own, and neither have those of its family.
    let (carried, notes) = run(&["--model", "zai-org/GLM-4.5", "--gpu", "H200", "--tp", "8"]);
    assert!(notes.contains("note: experts of this shape were not measured: moe of vllm"), "{notes}");
    assert!(p90(&carried) > p90(&known), "{carried}");
    assert!(carried["latency_source"].as_str().unwrap().ends_with("; estimated: experts"), "{carried}");
    let (nothing, _) = run(&["--model", "meta-llama/Llama-3.1-70B", "--gpu", "MI300X", "--tp", "4"]);
    assert_eq!(nothing["latency_error"]["basis"], "an estimate: no operator was measured on this GPU");
    assert_eq!(p90(&nothing), None);
    assert!(
        nothing["latency_source"].as_str().unwrap().ends_with("by the data sheet of the GPU"),
        "{nothing}"
    );
    let served = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H200", "--engine-version"];
    let (_, notes) = run(&[&served[..], &["9.9"]].concat());
    assert!(notes.contains("`engine_version` is 9.9, of which no operator was measured"), "{notes}");
    let (_, notes) = run(&[&served[..], &["0.25.0"]].concat());
    assert!(!notes.contains("engine_version"), "{notes}");
}

#[test]
fn auto_is_what_follows_from_model_and_gpu() {
    let sandbox = Sandbox::new();
    let load = ["--input-tokens", "10", "--output-tokens", "2", "--request-count", "1"];
    let served = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H200"];
    let report = |more: &[&str]| {
        let report = sandbox.report(&[&load[..], &served, more].concat());
        (report["mean_tpot_ms"].clone(), report["latency_source"].clone())
    };
    assert_eq!(report(&["--latency", "auto"]), report(&[]));
}
