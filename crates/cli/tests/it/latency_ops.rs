//! Times composed of measured operators, by model and GPU alone.

use serde_json::Value;

use crate::sandbox::Sandbox;

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
        &["`tensor_parallel_size` is 3: ", "it can be 1, 2, 4, 8", "(from --tp)"],
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
fn times_of_a_model_that_does_not_fit_are_said_to_be_that() {
    let sandbox = Sandbox::new();
    let explain = ["explain", "latency", "--model", "meta-llama/Llama-3.3-70B", "--gpu", "H100-SXM", "--tp"];
    let notes = |gpus| {
        let run = sandbox.run(&[&explain[..], &[gpus]].concat());
        let notes = run.stderr.clone();
        run.success();
        notes
    };
    assert!(notes("1").contains("such an engine does not run: the model is too large for its GPUs by"));
    assert_eq!(notes("4"), "");
}

#[test]
fn the_kernels_of_attention_can_be_chosen() {
    let sandbox = Sandbox::new();
    let explain = ["explain", "latency", "--model", "meta-llama/Llama-3.3-70B", "--gpu", "B200"];
    let run = |more: &[&str]| sandbox.run(&[&explain[..], more].concat());
    let decode_of_32 = |more: &[&str]| {
        let text = run(&[&["--kv-cache-dtype", "fp8", "--format", "json"], more].concat()).success();
        let told: Value = serde_json::from_str(&text).unwrap();
        told["passes"][1]["ms"].as_f64().unwrap()
    };
    let usual = decode_of_32(&["--attention-backend", "auto"]);
    assert!((usual - decode_of_32(&[])).abs() < 1e-12);
    // FlashInfer's own kernels are slower there than TensorRT-LLM's.
    assert!(decode_of_32(&["--attention-backend", "flashinfer"]) > usual);
    run(&["--attention-backend", "fa3"]).is_refused(&["--attention-backend", "expected auto or flashinfer"]);
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
