//! KV offload to the memory of the host, from the command line.

use crate::sandbox::Sandbox;

/// Four prompts of 2,048 tokens that come three times each, one after the other.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let row = |number: u64| {
        let first = number % 4 * 4;
        let ids: Vec<String> = (first..first + 4).map(|id| id.to_string()).collect();
        let at = number * 1000;
        format!(
            "{{\"timestamp\": {at}, \"input_length\": 2048, \"output_length\": 4, \"hash_ids\": [{}]}}\n",
            ids.join(", ")
        )
    };
    sandbox.write("repeated.jsonl", (0..12).map(row).collect::<String>());
    sandbox
}

const ENGINE: [&str; 9] = [
    "repeated.jsonl",
    "--latency",
    "linear:1000,50,0",
    "--block-size",
    "16",
    "--num-gpu-blocks",
    "300",
    "--kv-bytes-per-token",
    "100000",
];

#[test]
fn a_prompt_that_the_gpu_has_lost_comes_from_the_host() {
    let sandbox = sandbox();
    let with = |more: &[&str]| sandbox.report(&[&ENGINE, more].concat());
    let alone = with(&[]);
    assert_eq!(alone["prefix_cache_reused_ratio"], 0.0, "the GPU holds two of four prompts");
    for connector in ["offloading", "simple"] {
        let how = format!("{{\"connector\": \"{connector}\"}}");
        let offloaded = with(&["--kv-offloading-size", "4", "--kv-offloading", &how]);
        let reused = offloaded["prefix_cache_reused_ratio"].as_f64().unwrap();
        assert!((0.6..0.7).contains(&reused), "{connector}: two of three times: {reused}");
        let mean = |report: &serde_json::Value| report["mean_ttft_ms"].as_f64().unwrap();
        assert!(mean(&offloaded) < 0.6 * mean(&alone), "{connector}: a copy is faster than computing");
    }
    // Most of a prompt does not fit a host of four megabytes.
    let small = with(&["--kv-offloading-size", "0.004"]);
    assert!(small["prefix_cache_reused_ratio"].as_f64().unwrap() < 0.1);
}

#[test]
fn offload_that_cannot_be_is_refused() {
    let sandbox = sandbox();
    let refused = |more: &[&str], words: &[&str]| {
        sandbox.run(&[&["replay"], &ENGINE[..], more].concat()).is_refused(words);
    };
    let size = ["--kv-offloading-size", "1"];
    refused(&["--kv-offloading-size", "0"], &["--kv-offloading-size", "is 0", "expected GiB above 0"]);
    refused(&["--kv-offloading-size", "1e-9"], &["the host would hold 0 of them"]);
    refused(&["--kv-offloading", "{}"], &["`kv_offloading_size` is not given", "--kv-offloading"]);
    refused(
        &[&size[..], &["--kv-offloading", "{\"evict\": 1}"]].concat(),
        &["unknown key `kv_offloading.evict`", "did you mean"],
    );
    refused(
        &[&size[..], &["--extra-engine-args", "{\"enable_prefix_caching\": false}"]].concat(),
        &["enable_prefix_caching", "is false"],
    );
    refused(
        &[&size[..], &["--extra-engine-args", "{\"pipeline_parallel_size\": 2}"]].concat(),
        &["does not go together with", "pipeline_parallel_size"],
    );
    refused(
        &[&size[..], &["--num-prefill-workers", "1", "--num-decode-workers", "1"]].concat(),
        &["does not go together with prefill and decode workers"],
    );
}

/// What a token takes follows from the model, and how fast it moves is said to be assumed.
#[test]
fn hicache_takes_the_size_of_kv_from_the_model() {
    let sandbox = sandbox();
    let arguments = [
        "replay",
        "repeated.jsonl",
        "--engine-preset",
        "sglang-0.5",
        "--model",
        "meta-llama/Llama-3.1-8B",
        "--gpu",
        "H100-SXM",
        "--enable-hierarchical-cache",
    ];
    let derived = sandbox.run(&arguments);
    assert_eq!(derived.code, Some(0), "{derived:?}");
    for words in
        ["`kv_bytes_per_token` is 131072", "55 GB/s for each GPU", "`sglang.hicache_write_bandwidth`"]
    {
        assert!(derived.stderr.contains(words), "{}", derived.stderr);
    }
    let given = sandbox.run(&[&arguments[..], &["--kv-bytes-per-token", "131072"]].concat());
    assert!(!given.stderr.contains("has no effect"), "{}", given.stderr);
    assert_eq!(
        given.stdout.lines().find(|line| line.contains("Time to First")),
        derived.stdout.lines().find(|line| line.contains("Time to First"))
    );
}
