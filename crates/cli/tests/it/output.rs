//! What is written, and where.

use std::fs;
use std::io::Read;

use serde_json::Value;

use crate::sandbox::{Outcome, Sandbox};

#[test]
fn a_table_is_printed() {
    let sandbox = Sandbox::new();
    let table = sandbox.run(&["replay", "t.jsonl", "--workers", "2", "--sla-ttft-ms", "30"]).success();
    let (table, rest) = table.trim_end().split_once("\nWall time: ").unwrap();
    let (_, diagnosis) = rest.split_once('\n').unwrap();
    insta::assert_snapshot!(diagnosis, @"
    Diagnosis:
      1. Prefill-bound: 100 % of the TTFT of the 2 requests that miss a target (mean 35 ms) is for prompts: 0 % those of others, 100 % their own; aggregated workers compute prompts 12 % of the time
         to test it: iterations twice as fast (--vary engine_args.speedup_ratio=1.0,2.0)
    ");
    insta::assert_snapshot!(table, @r"
                                                           servecast | LLM Metrics
    ┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━┓
    ┃ Metric                                             ┃    avg ┃    min ┃    max ┃    p99 ┃    p95 ┃    p90 ┃    p75 ┃    p50 ┃   std ┃
    ┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━┩
    │ Time to First Token (ms)                           │  28.63 │  21.09 │  35.33 │  35.28 │  35.09 │  34.84 │  34.12 │  29.05 │  6.03 │
    │ Time to Second Token (ms)                          │   5.78 │   5.76 │   5.80 │   5.80 │   5.80 │   5.80 │   5.80 │   5.80 │  0.02 │
    │ Request Latency (ms)                               │  74.94 │  24.39 │ 145.57 │ 143.39 │ 134.67 │ 123.77 │  91.06 │  64.90 │ 44.37 │
    │ Inter Token Latency (ms)                           │   5.79 │   5.76 │   5.80 │   5.80 │   5.80 │   5.80 │   5.80 │   5.80 │  0.02 │
    │ Time per Output Token (ms)                         │   5.78 │   5.76 │   5.80 │   5.80 │   5.80 │   5.80 │   5.80 │   5.80 │  0.02 │
    │ Output Token Throughput Per User (tokens/sec/user) │ 172.76 │ 172.33 │ 173.75 │ 173.75 │ 173.74 │ 173.74 │ 173.73 │ 172.36 │  0.62 │
    │ Output Token Throughput (tokens/sec)               │  76.05 │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │   N/A │
    │ Request Throughput (requests/sec)                  │   8.45 │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │   N/A │
    │ Request Count (requests)                           │   4.00 │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │   N/A │
    └────────────────────────────────────────────────────┴────────┴────────┴────────┴────────┴────────┴────────┴────────┴────────┴───────┘
    Prefix cache reuse: 24.76% of prompt tokens
    Requests: 4 completed, 0 rejected
    Preemptions: 0
    Pool aggregated: 2 workers, batch occupancy 0.39% (1.00 of 256 requests), KV in use 0.10%, at most 0.15%
      in an iteration, however small its batch: 31.66% of the time
      a worker: 2 to 2 requests, 0 to 1,024 tokens reused
        in an iteration 27.42% to 35.90% of the time, 1.00 to 1.00 requests in it, KV in use 0.07% to 0.12%
    Goodput: 4.22 requests/sec, 23.24 tokens/sec
      2 of 4 requests within TTFT ≤ 30 ms
    Iteration times: polynomial, of no particular GPU: the constants of Dynamo's mocker
    Simulated duration: 473.40 ms
    ");
}

#[test]
fn the_report_is_the_same_wherever_it_goes() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["replay", "t.jsonl", "--format", "json", "--report-json", "r.json"]);
    assert_eq!(outcome.success(), sandbox.read("r.json"));
    assert_eq!(sandbox.files(), ["r.json", "t.jsonl"]);
    let table = sandbox.run(&["replay", "t.jsonl", "--report-json", "r.json"]).success();
    assert!(table.contains("Request Count"));
    sandbox.run(&["replay", "t.jsonl"]).success();
    assert_eq!(sandbox.files(), ["r.json", "t.jsonl"], "files are written only where asked");
}

#[test]
fn files_are_packed_by_their_names() {
    let sandbox = Sandbox::new();
    let files =
        ["--requests-jsonl", "q.jsonl.gz", "--iterations-jsonl", "i.jsonl.zst", "--report-json", "r.json"];
    sandbox.run(&[&["replay", "t.jsonl"], &files[..]].concat()).success();
    let mut requests = String::new();
    let file = fs::File::open(sandbox.path("q.jsonl.gz")).unwrap();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut requests).unwrap();
    assert_eq!(requests.lines().count(), 4);
    let iterations = zstd::decode_all(fs::File::open(sandbox.path("i.jsonl.zst")).unwrap()).unwrap();
    for line in String::from_utf8(iterations).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(row["total_tokens"].is_u64());
    }
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let sandbox = Sandbox::new();
    sandbox.write("r.json", "old");
    sandbox.run(&["replay", "t.jsonl", "--report-json", "r.json", "--num-workers", "0"]).is_refused(&[]);
    assert_eq!(sandbox.read("r.json"), "old");
    sandbox.run(&["replay", "t.jsonl", "--report-json", "r.json"]).success();
    assert!(sandbox.read("r.json").starts_with('{') && sandbox.read("r.json").ends_with("}\n"));
}

#[cfg(unix)]
#[test]
fn links_and_permissions_stay_and_devices_are_written() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let sandbox = Sandbox::new();
    sandbox.write("target", "old");
    fs::set_permissions(sandbox.path("target"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("target", sandbox.path("link")).unwrap();
    sandbox.run(&["replay", "t.jsonl", "--report-json", "link", "--requests-jsonl", "new"]).success();
    assert!(fs::symlink_metadata(sandbox.path("link")).unwrap().is_symlink());
    assert!(sandbox.read("target").contains("mean_ttft_ms"));
    let mode = |name| fs::metadata(sandbox.path(name)).unwrap().permissions().mode() & 0o777;
    fs::write(sandbox.path("plain"), "").unwrap();
    assert_eq!((mode("target"), mode("new")), (0o600, mode("plain")));

    let outcome = sandbox.run(&[
        "replay",
        "t.jsonl",
        "--report-json",
        "/dev/null",
        "--requests-jsonl",
        "/dev/stdout",
        "--format",
        "json",
    ]);
    assert!(outcome.success().starts_with("{\"request\":0,"));
}

/// As a shell does when it writes to one.
#[cfg(unix)]
#[test]
fn a_link_to_what_is_not_there_yet_is_followed() {
    use std::os::unix::fs::symlink;
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("there")).unwrap();
    symlink("second", sandbox.path("link")).unwrap();
    symlink("there/new.json", sandbox.path("second")).unwrap();
    sandbox.run(&["replay", "t.jsonl", "--report-json", "link"]).success();
    assert!(
        ["link", "second"].iter().all(|name| fs::symlink_metadata(sandbox.path(name)).unwrap().is_symlink())
    );
    assert!(sandbox.read("there/new.json").contains("mean_ttft_ms"));

    symlink("there/rows", sandbox.path("rows")).unwrap();
    let same = ["replay", "t.jsonl", "--report-json", "rows", "--requests-jsonl", "there/rows"];
    sandbox.run(&same).is_refused(&["`requests_jsonl` and `report_json` are the same file"]);
    symlink("none/x", sandbox.path("astray")).unwrap();
    symlink("round", sandbox.path("round")).unwrap();
    for (link, words) in [
        ("astray", "cannot write `astray`: the folder `none` does not exist"),
        ("round", "cannot write `round`: too many symbolic links"),
    ] {
        sandbox.run(&["replay", "t.jsonl", "--report-json", link]).is_refused(&[words]);
    }
}

/// One that is refused touches nothing of the other's.
#[cfg(target_os = "linux")]
#[test]
fn two_runs_do_not_share_a_folder() {
    let sandbox = Sandbox::new();
    let load =
        ["--input-tokens", "100", "--output-tokens", "900000", "--request-count", "50", "--workers=50"];
    let mut first =
        sandbox.command(&[&["replay", "--output-dir", "out"], &load[..]].concat()).spawn().unwrap();
    let start = std::time::Instant::now();
    while !sandbox.path("out").exists() {
        assert!(start.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for overwrite in ["--overwrite", "--overwrite=false"] {
        let refused = sandbox.run(&["replay", "t.jsonl", "--output-dir", "out", overwrite]);
        refused.is_refused(&["cannot write into `out`: another run is writing into it"]);
    }
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 0);
    first.kill().unwrap();
    first.wait().unwrap();
    // A run that was killed keeps nobody from it.
    sandbox.run(&["replay", "t.jsonl", "--output-dir", "out"]).success();
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 4);
}

#[test]
fn a_folder_of_a_run_that_failed_goes_away() {
    let sandbox = Sandbox::new();
    let fails = ["replay", "t.jsonl", "--output-dir", "out", "--report-json", "/dev/full"];
    let outcome = sandbox.run(&fails);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(sandbox.files(), ["t.jsonl"]);
}

#[test]
fn paths_that_cannot_be_written_are_refused_before_the_run() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("folder")).unwrap();
    for flag in
        ["--report-json", "--requests-jsonl", "--iterations-jsonl", "--routing-jsonl", "--report-html"]
    {
        let refused = |path: &str, words: &[&str]| {
            // The trace is bad too, but nobody gets that far.
            let arguments = ["replay", "none.jsonl", "--router-mode", "kv_router", flag, path];
            sandbox.run(&arguments).is_refused(words);
        };
        refused("folder", &["cannot write `folder`: it is a directory"]);
        refused("folder/", &["it is a directory"]);
        refused("new/", &["it is a directory"]);
        refused(
            "none/x.json",
            &["cannot write `none/x.json`: the folder `none` does not exist", "mkdir -p none"],
        );
        refused("t.jsonl/x", &["cannot write `t.jsonl/x`"]);
        refused("/proc/x", &["cannot write `/proc/x`"]);
        refused("-", &["`-` is no path of an output file"]);
        refused("", &["a value is required"]);
    }
    sandbox
        .run(&["replay", "t.jsonl", "--report-json", "./t.jsonl"])
        .is_refused(&["`report_json` and `trace_file` are the same file"]);
    let same = ["replay", "t.jsonl", "--report-json", "x", "--requests-jsonl", "folder/../x"];
    sandbox.run(&same).is_refused(&["`requests_jsonl` and `report_json` are the same file"]);
    assert_eq!(sandbox.files(), ["folder", "t.jsonl"]);
    sandbox.write("d.toml", "num_workers = 2\n");
    for more in [&[][..], &["--vary", "max_num_seqs=1,2"]] {
        let over = [&["replay", "t.jsonl", "--config", "d.toml", "--report-html", "./d.toml"], more].concat();
        sandbox.run(&over).is_refused(&["`report_html` and `config` are the same file"]);
    }
    sandbox
        .run(&["trace", "convert", "t.jsonl", "-o", "./t.jsonl"])
        .is_refused(&["--output is `./t.jsonl`, which is read"]);
    assert_eq!(sandbox.read("d.toml"), "num_workers = 2\n");
}

#[test]
fn a_folder_has_all_results_and_what_repeats_the_run() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "c.toml",
        "num_prefill_workers = 2\nnum_decode_workers = 1\n[prefill_engine_args]\nmax_num_seqs = 3\n[decode_engine_args]\n",
    );
    let run = ["replay", "t.jsonl", "--config", "c.toml", "--block-size", "16", "--quiet", "--output-dir"];
    sandbox.run(&[&run[..], &["one"]].concat()).success();
    let of = |folder: &str, name: &str| sandbox.read(&format!("{folder}/{name}"));
    sandbox.run(&["replay", "--config", "one/config.toml", "--output-dir", "two", "--seed", "42"]).success();
    for name in ["requests.jsonl", "config.toml"] {
        assert_eq!(of("one", name), of("two", name), "{name}");
    }
    let report = |folder| {
        let mut report: Value = serde_json::from_str(&of(folder, "report.json")).unwrap();
        report["wall_time_ms"] = 0.into();
        report
    };
    assert_eq!(report("one"), report("two"));
    assert!(of("one", "report.html").starts_with("<!doctype html>"));
    assert!(!of("one", "config.toml").contains("output_dir"));
    let table = sandbox.run(&["compare", "one", "two", "--fail-if", "mean_ttft_ms>+0"]).success();
    assert!(table.contains("two, request by request"), "a folder has rows: {table}");
}

/// What a report says of a run for which the number of blocks was worked out.
const WORKED_OUT: &str = ",\n  \"notes\": [\n    \"`num_gpu_blocks` is 27597, worked out from the memory of the GPU: \
                          53.90 GiB for the KV cache, blocks of 16 tokens\"\n  ]";

#[test]
fn a_configuration_has_every_setting_and_repeats_the_run_from_anywhere() {
    let limits = r#"{"max_num_seqs": null, "max_num_batched_tokens": null}"#;
    for arguments in [
        &["t.jsonl"][..],
        &["t.jsonl", "--extra-engine-args", limits, "--sla-ttft-ms", "30"],
        &[
            "t.jsonl",
            "--engine-preset",
            "vllm-0.24",
            "--prefill-workers",
            "2",
            "--decode-workers",
            "1",
            "--kv-bytes-per-token",
            "1000",
        ],
        &["t.jsonl", "--workers", "2", "--router-mode", "kv_router", "--router-queue-threshold", "none"],
        &["t.jsonl", "--workers", "2", "--router-mode", "prefix_hash", "--replay-concurrency", "2"],
        &["t.jsonl", "--engine", "sglang", "--page-size", "16", "--max-total-tokens", "20000"],
        &["t.jsonl", "--engine-preset", "sglang-0.5", "--schedule-policy", "random", "--max-num-seqs", "3"],
        &["t.jsonl", "--engine", "trtllm", "--latency", "linear:1000,1,5"],
        &[
            "--input-tokens",
            "90",
            "--output-tokens",
            "9",
            "--request-count",
            "9",
            "--arrival-process",
            "poisson",
        ],
        &["--seed", "7"],
        &["--seed", "7", "--latency", "polynomial"],
    ] {
        let sandbox = Sandbox::new();
        let output = ["--quiet", "--output-dir", "one"];
        sandbox.run(&[&["replay"], arguments, &output[..]].concat()).success();
        let again = ["replay", "--config", "../one/config.toml", "--output-dir", "../two"];
        std::fs::create_dir(sandbox.path("elsewhere")).unwrap();
        let mut command = sandbox.command(&again);
        let outcome = Outcome::of(command.current_dir(sandbox.path("elsewhere")).output().unwrap());
        assert!(!outcome.stderr.contains("no effect"), "{arguments:?}: {}", outcome.stderr);
        outcome.success();
        let text = |folder: &str, name: &str| {
            let text = sandbox.read(&format!("{folder}/{name}"));
            // What was worked out is given in the file, so that nothing is worked out any more.
            let given = text.replace(WORKED_OUT, "");
            given.lines().filter(|line| !line.contains("\"wall_time_ms\"")).collect::<Vec<_>>().join("\n")
        };
        for name in ["report.json", "requests.jsonl", "config.toml"] {
            assert_eq!(text("one", name), text("two", name), "{name} of {arguments:?}");
        }
        let config = sandbox.read("one/config.toml");
        for key in ["seed = ", "router_mode = ", "num_gpu_blocks = ", "latency = ", "speedup_ratio = "] {
            let other = match key {
                "num_gpu_blocks = " => config.contains("max_total_tokens"),
                "latency = " => config.contains("model = ") && config.contains("gpu = "),
                _ => false,
            };
            assert!(config.contains(key) || other, "{key} is missing in {config}");
        }
    }
}

#[test]
fn a_configuration_shows_the_defaults() {
    let sandbox = Sandbox::new();
    sandbox.run(&["replay", "t.jsonl", "--quiet", "--output-dir", "out"]).success();
    let config = sandbox.read("out/config.toml");
    let folder = sandbox.path("").canonicalize().unwrap();
    let config = config
        .replace(folder.to_str().unwrap(), "/FOLDER")
        .replace(concat!("servecast ", env!("CARGO_PKG_VERSION")), "servecast VERSION");
    insta::assert_snapshot!(config, @r#"
    # Every setting of a run of servecast VERSION; to repeat it: servecast replay --config config.toml
    trace_file = "/FOLDER/t.jsonl"
    trace_block_size = 512
    turns = "whole"
    arrival_speedup_ratio = 1.0
    replay_mode = "offline"
    seed = 42
    num_workers = 1
    router_mode = "round_robin"

    [engine_args]
    async_scheduling = false
    block_size = 64
    decode_speedup_ratio = 1.0
    dp_size = 1
    enable_chunked_prefill = true
    enable_lora = false
    enable_prefix_caching = true
    engine_type = "vllm"
    kv_transfer_timing_mode = "full_prompt"
    latency = "polynomial"
    long_prefill_token_threshold = 0
    long_prefill_token_threshold_adaptive = false
    max_num_batched_tokens = 8192
    max_num_seqs = 256
    num_gpu_blocks = 16384
    num_speculative_tokens = 0
    pipeline_parallel_size = 1
    preemption_mode = "lifo"
    prefill_schedule_interval = 1
    reserve_null_block = true
    scheduler_reserve_full_isl = true
    scheduling_policy = "fcfs"
    speedup_ratio = 1.0
    vllm_version = "0.33"
    watermark = 0.0
    "#);
}

#[test]
fn a_folder_with_results_is_kept_unless_told_otherwise() {
    let sandbox = Sandbox::new();
    let run = |more: &[&str]| sandbox.run(&[&["replay", "t.jsonl", "--output-dir", "out"], more].concat());
    run(&[]).success();
    let before = sandbox.read("out/report.json");
    run(&["--workers", "2"]).is_refused(&["it has a report.json already", "--overwrite"]);
    assert_eq!(sandbox.read("out/report.json"), before);
    run(&["--workers", "2", "--overwrite"]).success();
    assert_ne!(sandbox.read("out/report.json"), before);
    let refused = |folder: &str, words: &[&str]| {
        sandbox.run(&["replay", "t.jsonl", "--output-dir", folder]).is_refused(words);
    };
    refused("t.jsonl", &["cannot write into `t.jsonl`: it is no directory"]);
    refused("none/out", &["the folder `none` does not exist", "mkdir -p none"]);
}

#[test]
fn a_page_does_not_change_the_report() {
    let sandbox = Sandbox::new();
    let report = |files: &[&str]| {
        let mut report = sandbox.report(&[&["t.jsonl"], files].concat());
        report["wall_time_ms"] = 0.into();
        report
    };
    assert_eq!(report(&["--report-html", "r.html"]), report(&[]));
    assert!(sandbox.read("r.html").contains("\"num_requests\":4"));
}

#[test]
fn a_page_is_small_whatever_it_shows() {
    let sandbox = Sandbox::new();
    let load = [
        "--input-tokens",
        "900",
        "--output-tokens",
        "9",
        "--request-count",
        "6000",
        "--arrival-interval-ms",
        "3",
    ];
    let pools = ["--prefill-workers", "130", "--decode-workers", "900", "--quiet", "--report-html", "r.html"];
    sandbox.run(&[&["replay"], &load[..], &pools].concat()).success();
    assert!(sandbox.read("r.html").len() < 1_000_000, "{}", sandbox.read("r.html").len());
    if let Some(data) = testkit::outside(testkit::DATA) {
        let trace = data.join("traces/mooncake_conversation.jsonl");
        let arguments =
            ["replay", trace.to_str().unwrap(), "--workers", "8", "--quiet", "--report-html", "c.html"];
        sandbox.run(&arguments).success();
        assert!(sandbox.read("c.html").len() < 1_000_000, "{}", sandbox.read("c.html").len());
    }
}

#[test]
fn results_come_in_the_forms_of_other_tools() {
    let sandbox = Sandbox::new();
    let exports =
        ["--export", "vllm-bench=v.json", "--export", "csv=r.csv", "--export", "aiperf-records=a.jsonl.gz"];
    let report = sandbox.report(&[&["t.jsonl"], &exports[..]].concat());
    let result: Value = serde_json::from_str(&sandbox.read("v.json")).unwrap();
    assert_eq!(result["p99_ttft_ms"], report["p99_ttft_ms"]);
    assert_eq!(sandbox.read("r.csv").lines().count(), 5);
    // Gaps are of single tokens: pooled, their mean is that of the report.
    let gaps = result["itls"].as_array().unwrap().iter().flat_map(|gaps| gaps.as_array().unwrap());
    let gaps: Vec<f64> = gaps.map(|gap| gap.as_f64().unwrap() * 1000.0).collect();
    assert_eq!(gaps.len() as u64, report["total_output_tokens"].as_u64().unwrap() - 4);
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!((mean - report["mean_itl_ms"].as_f64().unwrap()).abs() < 1e-9);
    let refused = |export: &str, words: &[&str]| {
        sandbox.run(&["replay", "t.jsonl", "--export", export]).is_refused(words);
    };
    refused("x.json", &["`export` is \"x.json\", but must be FORMAT=FILE"]);
    refused("xml=x", &["must name one of aiperf, aiperf-records, vllm-bench, sglang-bench, csv"]);
    refused("csv=t.jsonl", &["`export` and `trace_file` are the same file"]);
}
