//! Replays that go well.

use std::io::Write;

use serde_json::Value;

use crate::sandbox::{Sandbox, TRACE};

/// A figure of the report.
fn figure(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"))
}

#[test]
fn one_request_takes_what_the_polynomial_says() {
    let sandbox = Sandbox::new();
    sandbox
        .write("one.jsonl", r#"{"timestamp": 0, "input_length": 128, "output_length": 10, "hash_ids": [1]}"#);
    for arguments in [&[][..], &["--no-enable-prefix-caching"], &["--no-enable-chunked-prefill"]] {
        let report = sandbox.report(&[&["one.jsonl"], arguments].concat());
        assert!((figure(&report, "mean_ttft_ms") - 18.451798).abs() < 1e-9);
        assert!((figure(&report, "mean_ttst_ms") - 5.746644).abs() < 1e-9);
    }
    let report = sandbox.report(&["one.jsonl", "--speedup-ratio", "2"]);
    assert!((figure(&report, "mean_ttft_ms") - 9.225899).abs() < 1e-9);
    let report = sandbox.report(&["one.jsonl", "--latency", "linear:1000,10,5"]);
    assert!((figure(&report, "mean_ttft_ms") - 2.285).abs() < 1e-9);
}

#[test]
fn an_aggregated_deployment_serves_a_trace() {
    let sandbox = Sandbox::new();
    let report = sandbox.report(&["t.jsonl"]);
    assert_eq!((report["num_requests"].clone(), report["completed_requests"].clone()), (4.into(), 4.into()));
    assert_eq!(report["total_input_tokens"], 1200 + 1100 + 1536 + 300);
    assert_eq!(report["total_output_tokens"], 20 + 5 + 1 + 10);
    // Two requests find the two blocks that the first has computed.
    assert!((figure(&report, "prefix_cache_reused_ratio") - 2048.0 / 4136.0).abs() < 1e-12);
    assert_eq!(report["pools"][0]["workers"], 1);

    let report =
        sandbox.report(&["t.jsonl", "--workers", "4", "--router-mode", "least_loaded", "--seed", "7"]);
    assert_eq!(report["pools"][0]["workers"], 4);
    let report = sandbox.report(&["t.jsonl", "--no-enable-prefix-caching"]);
    assert_eq!(report["prefix_cache_reused_ratio"], 0.0);
}

#[test]
fn a_disaggregated_deployment_serves_a_trace() {
    let sandbox = Sandbox::new();
    let staged = [
        "--prefill-engine-args",
        r#"{"worker_type":"prefill"}"#,
        "--decode-engine-args",
        r#"{"worker_type":"decode"}"#,
    ];
    let long =
        [&["t.jsonl", "--num-prefill-workers", "2", "--num-decode-workers", "1"], &staged[..]].concat();
    for arguments in [&long[..], &["t.jsonl", "--prefill-workers", "2", "--decode-workers", "1"]] {
        let report = sandbox.report(arguments);
        assert_eq!(report["completed_requests"], 4);
        assert_eq!(report["pools"][0]["pool"], "prefill");
        assert_eq!(report["pools"][0]["workers"], 2);
        assert_eq!(report["pools"][1]["pool"], "decode");
        assert_eq!(report["pools"][1]["workers"], 1);
    }
    let fast = figure(
        &sandbox.report(&["t.jsonl", "--prefill-workers", "1", "--decode-workers", "1"]),
        "mean_ttft_ms",
    );
    let transfer = ["--kv-bytes-per-token", "1000000", "--kv-transfer-bandwidth", "10"];
    let slow = sandbox
        .report(&[&["t.jsonl", "--prefill-workers", "1", "--decode-workers", "1"], &transfer[..]].concat());
    assert!(figure(&slow, "mean_ttft_ms") > fast + 29.0, "the shortest prompt takes 30 ms to transfer");
}

#[test]
fn a_load_may_be_cut_off_after_its_first_requests() {
    let sandbox = Sandbox::new();
    sandbox.write("head.jsonl", TRACE.lines().take(2).collect::<Vec<_>>().join("\n"));
    let cut = sandbox.report(&["t.jsonl", "--max-requests", "2"]);
    let head = sandbox.report(&["head.jsonl"]);
    assert_eq!(cut["num_requests"], 2);
    for key in ["workload_hash", "mean_ttft_ms", "duration_ms", "total_input_tokens"] {
        assert_eq!(cut[key], head[key], "{key}");
    }
    assert_eq!(cut["settings"]["max_requests"], 2);
    let all = sandbox.report(&["t.jsonl", "--max-requests", "1000"]);
    assert_eq!(all["num_requests"], 4, "it has no more");
    // Lines that are not replayed may need a larger block.
    let more = r#"{"timestamp": 9, "input_length": 9999, "output_length": 1, "hash_ids": [1]}"#;
    sandbox.write("more.jsonl", format!("{}\n{more}", TRACE.trim_end()));
    sandbox.run(&["replay", "more.jsonl"]).is_refused(&["line 5"]);
    assert_eq!(sandbox.report(&["more.jsonl", "--max-requests", "4"])["num_requests"], 4);
    let made =
        ["--input-tokens", "100", "--output-tokens", "5", "--request-count", "9", "--turns-per-session", "2"];
    assert_eq!(sandbox.report(&[&made[..], &["--max-requests", "7"]].concat())["num_requests"], 7);
    assert_eq!(sandbox.report(&["--max-requests", "3"])["num_requests"], 3, "of the sample");
}

#[test]
fn an_online_replay_is_repeated_offline_from_what_it_sent() {
    let sandbox = Sandbox::new();
    let aggregated = ["--workers", "2"];
    let split = ["--prefill-workers", "2", "--decode-workers", "2"];
    for (pools, router) in [
        (&aggregated[..], "kv_router"),
        (&aggregated, "round_robin"),
        (&split, "kv_router"),
        (&split, "round_robin"),
    ] {
        let deployment = [pools, &["--router-mode", router]].concat();
        let sent = ["--log-arrivals", "sent.jsonl", "--requests-jsonl", "online.jsonl"];
        let online = ["t.jsonl", "--replay-mode", "online", "--speed", "5", "--report-json", "r.json"];
        let printed = sandbox.run(&[&["replay"], &online[..], &deployment, &sent].concat()).success();
        assert!(printed.contains("Online at 5 times the clock of the machine: events handled late by p50"));
        let report: Value = serde_json::from_str(&sandbox.read("r.json")).unwrap();
        let settings = &report["settings"]["replay_mode"];
        assert_eq!((&report["wall_speed"], settings), (&5.0.into(), &"online".into()));
        assert!(figure(&report, "wall_time_ms") >= figure(&report, "duration_ms") / 5.0);
        assert!(figure(&report, "wall_lateness_p99_ms") >= figure(&report, "wall_lateness_p50_ms"));
        let again = ["replay", "sent.jsonl", "--requests-jsonl", "offline.jsonl"];
        sandbox.run(&[&again[..], &deployment].concat()).success();
        assert_eq!(sandbox.read("online.jsonl"), sandbox.read("offline.jsonl"), "{deployment:?}");
    }
}

#[test]
fn a_closed_loop_follows_completions() {
    let sandbox = Sandbox::new();
    sandbox.write("closed.jsonl", TRACE.replace("\"timestamp\": 100, ", ""));
    let report = sandbox.report(&["closed.jsonl", "--replay-concurrency", "1"]);
    assert_eq!(report["completed_requests"], 4);
    assert_eq!(report["total_iterations"], 36, "one request at a time, a token an iteration");
}

#[test]
fn sessions_wait_for_their_turns() {
    let sandbox = Sandbox::new();
    let turn = r#""input_length": 100, "output_length": 2, "hash_ids": [1]}"#;
    sandbox.write(
        "sessions.jsonl",
        format!(
            "{{\"session_id\": \"a\", \"timestamp\": 0, {turn}\n{{\"session_id\": \"a\", \"delay\": 1000, {turn}\n\
             {{\"session_id\": \"b\", \"timestamp\": 5, {turn}\n"
        ),
    );
    sandbox.report(&["sessions.jsonl", "--requests-jsonl", "rows.jsonl"]);
    let rows: Vec<Value> =
        sandbox.read("rows.jsonl").lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let by_line = |line: u64| rows.iter().find(|row| row["line"] == line).unwrap();
    let gap = figure(by_line(2), "arrival_ms") - figure(by_line(1), "last_token_ms");
    assert!((gap - 1000.0).abs() < 1e-6, "{gap}");
    assert_eq!(by_line(3)["arrival_ms"], 5.0);
    let sped_up = sandbox.report(&["sessions.jsonl", "--arrival-speedup-ratio", "10"]);
    assert!(figure(&sped_up, "duration_ms") < 200.0);
}

#[test]
fn synthetic_workloads_need_no_file() {
    let sandbox = Sandbox::new();
    let lengths = ["--input-tokens", "256", "--output-tokens", "8", "--request-count", "20"];
    let run = |arguments: &[&str]| sandbox.report(&[&lengths, arguments].concat());
    let report = run(&[]);
    assert_eq!(
        (report["completed_requests"].clone(), report["total_input_tokens"].clone()),
        (20.into(), 5120.into())
    );
    let shared =
        run(&["--shared-prefix-ratio", "0.5", "--num-prefix-groups", "1", "--arrival-interval-ms", "200"]);
    // The prefix is half of four blocks of the engine.
    assert!((figure(&shared, "prefix_cache_reused_ratio") - 19.0 * 128.0 / 5120.0).abs() < 1e-12);
    let turns =
        run(&["--turns-per-session", "3", "--inter-turn-delay-ms", "10", "--replay-concurrency", "4"]);
    assert_eq!(turns["completed_requests"], 60);
    let random =
        ["--arrival-process", "poisson", "--length-distribution", "lognormal", "--length-spread", "0.5"];
    let one = run(&[&random[..], &["--seed", "1"]].concat());
    let other = run(&[&random[..], &["--seed", "2"]].concat());
    assert_ne!(one["total_input_tokens"], other["total_input_tokens"]);
}

#[test]
fn without_anything_there_is_a_sample() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["replay"]);
    assert!(outcome.stderr.contains("built-in sample") && outcome.stderr.contains("servecast replay TRACE"));
    assert!(outcome.stderr.contains(", on meta-llama/Llama-3.1-8B, H100-SXM and vllm-0.33"));
    assert!(outcome.success().contains("Request Count"));
    let outcome = sandbox.run(&["replay", "--quiet", "--prefill-workers", "2", "--decode-workers", "1"]);
    assert_eq!(outcome.stderr, "");
    assert!(outcome.success().contains("Pool decode: "));
}

#[test]
fn a_hand_off_between_known_gpus_has_a_price() {
    let sandbox = Sandbox::new();
    let settings = |more: &[&str]| {
        let is_given = more.contains(&"--prefill-workers");
        let pools = ["--decode-workers", "1", "--model", "Qwen/Qwen3-32B", "--prefill-workers", "1"];
        let pools = if is_given { &pools[..4] } else { &pools[..] };
        let outcome = sandbox.run(&[&["replay", "t.jsonl", "--format", "json"], pools, more].concat());
        let notes = outcome.stderr.clone();
        let report: serde_json::Value = serde_json::from_str(&outcome.success()).unwrap();
        let prefill = &report["settings"]["prefill_engine_args"];
        ((prefill["kv_bytes_per_token"].as_u64(), prefill["kv_transfer_bandwidth"].as_f64()), notes)
    };
    // 64 layers of 8 heads of 128 keys and as many values, in 2 bytes.
    let bytes = Some(64 * 8 * 128 * 2 * 2);
    let h100 = ["--gpu", "H100-SXM", "--tp", "2"];
    let (worked_out, notes) = settings(&h100);
    assert_eq!(worked_out, (bytes, Some(2.0 * 265.0)), "four GPUs are on one link");
    // Eight more are not.
    let many = [&h100[..], &["--prefill-workers", "5"]].concat();
    assert_eq!(settings(&many).0, (bytes, Some(2.0 * 50.0)));
    assert!(
        notes.contains("hand-off: `kv_bytes_per_token` is 262144") && notes.contains("an assumption"),
        "{notes}"
    );
    assert_eq!(settings(&[&h100[..], &["--kv-transfer-bandwidth", "25"]].concat()).0, (bytes, Some(25.0)));
    assert_eq!(settings(&[&h100[..], &["--kv-bytes-per-token", "7"]].concat()).0, (Some(7), Some(530.0)));
    assert_eq!(settings(&[&h100[..], &["--kv-transfer-bandwidth", "0"]].concat()).0, (None, Some(0.0)));
    // The side with less of a network decides.
    let [two, four] = [2, 4].map(|gpus| format!("{{\"tensor_parallel_size\": {gpus}}}"));
    let uneven = ["--gpu", "H100-SXM", "--prefill-engine-args", &four, "--decode-engine-args", &two];
    assert_eq!(settings(&uneven).0, (bytes, Some(530.0)));
    let (none, notes) = settings(&["--gpu", "L40S", "--tp", "4"]);
    assert_eq!(none, (None, None));
    assert!(notes.contains("the hand-off of KV from prefill to decode workers takes no time"), "{notes}");
}

#[test]
fn without_load_and_deployment_an_example_runs_and_with_either_it_does_not() {
    let sandbox = Sandbox::new();
    let source = |arguments: &[&str]| sandbox.report(arguments)["latency_source"].clone();
    let example = "measured operators of meta-llama/Llama-3.1-8B (bf16) on 1 H100-SXM with vllm";
    for arguments in [&[][..], &["--workers", "2", "--router-mode", "kv_router"], &["--max-num-seqs", "8"]] {
        assert_eq!(source(arguments), example, "{arguments:?}");
    }
    let synthetic = ["--input-tokens", "10", "--output-tokens", "2", "--request-count", "3"];
    for arguments in [&["t.jsonl"][..], &synthetic, &["--engine", "sglang"], &["--engine-args", "{}"]] {
        let found = source(arguments);
        assert!(
            found.as_str().unwrap().starts_with("polynomial, of no particular GPU"),
            "{arguments:?}: {found}"
        );
    }
    assert!(source(&["--model", "Qwen/Qwen3-32B", "--gpu", "H200"]).as_str().unwrap().contains("Qwen3-32B"));
}

#[test]
fn input_may_be_packed_or_piped() {
    let sandbox = Sandbox::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(TRACE.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstandard = zstd::encode_all(TRACE.as_bytes(), 1).unwrap();
    // The name does not matter, and a file may have several parts.
    sandbox.write("a.gz", &gzip);
    sandbox.write("b", &zstandard);
    let plain = sandbox.report(&["t.jsonl"]);
    for name in ["a.gz", "b"] {
        assert_eq!(sandbox.report(&[name])["duration_ms"], plain["duration_ms"], "{name}");
    }
    sandbox.write("twice.gz", [&gzip[..], &gzip[..]].concat());
    assert_eq!(sandbox.report(&["twice.gz"])["completed_requests"], 8);
    for input in [TRACE.as_bytes(), &gzip, &zstandard] {
        let report = sandbox.run_with_input(&["replay", "-", "--format", "json"], input).success();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["duration_ms"], plain["duration_ms"]);
    }
}

#[test]
fn equal_runs_give_equal_bytes() {
    let sandbox = Sandbox::new();
    let without_wall_time = |text: &str| -> String {
        text.lines()
            .filter(|line| !line.contains("wall_time_ms"))
            .map(|line| line.to_owned() + "\n")
            .collect()
    };
    for deployment in [
        &["--workers", "3", "--router-mode", "random"][..],
        &["--prefill-workers", "2", "--decode-workers", "1", "--engine-preset", "vllm-0.33"],
    ] {
        let run = |name: &str| {
            let files = [
                "--requests-jsonl",
                &format!("{name}.requests"),
                "--iterations-jsonl",
                &format!("{name}.iterations"),
            ];
            let outcome =
                sandbox.run(&[&["replay", "--quiet", "--format", "json"], &files[..], deployment].concat());
            let report = without_wall_time(&outcome.success());
            (report, sandbox.read(files[1]), sandbox.read(files[3]))
        };
        let (one, other) = (run("one"), run("other"));
        assert!(one == other, "{deployment:?}");
        assert!(
            one.0.contains("mean_ttft_ms") && one.1.lines().count() == 235 && one.2.lines().count() > 1000
        );
    }
}

#[test]
fn what_cannot_be_served_is_counted() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["replay", "t.jsonl", "--num-gpu-blocks", "22", "--format", "json"]);
    assert!(outcome.stderr.contains("note: 1 of 4 requests were rejected: prompt_too_long 1"), "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.success()).unwrap();
    assert_eq!(
        (report["completed_requests"].clone(), report["rejected_requests"].clone()),
        (3.into(), 1.into())
    );
    assert_eq!(report["rejected_by_reason"]["prompt_too_long"], 1);
}

#[test]
fn goodput_counts_requests_within_limits() {
    let sandbox = Sandbox::new();
    let report =
        sandbox.report(&["t.jsonl", "--sla-ttft-ms", "25", "--sla-itl-ms", "100", "--sla-e2e-ms", "10000"]);
    assert_eq!(report["sla"]["ttft_ms"], 25.0);
    assert!(report["goodput_completed_requests"].as_u64().unwrap() < 4);
    assert!(sandbox.report(&["t.jsonl"]).get("goodput_completed_requests").is_none());
}

#[test]
fn odd_rows_are_noted_and_counted() {
    let sandbox = Sandbox::new();
    let row = r#"{"timestamp": 0, "output_length": 2, "hash_ids": [1, 2], "model": "m"}"#;
    sandbox.write("odd.jsonl", row);
    let outcome = sandbox.run(&["replay", "odd.jsonl", "--format", "json"]);
    assert!(outcome.stderr.contains("note: 1 row has keys that are ignored: `model`\n"), "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.success()).unwrap();
    assert_eq!(report["trace_notes"], serde_json::json!({"ignored_keys": 1, "inferred_input_length": 1}));
}

#[test]
fn iterations_say_what_a_worker_did() {
    let sandbox = Sandbox::new();
    sandbox.report(&["t.jsonl", "--workers", "2", "--iterations-jsonl", "rows.jsonl"]);
    let rows: Vec<Value> =
        sandbox.read("rows.jsonl").lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let first = &rows[0];
    assert_eq!((first["pool"].as_str(), first["worker"].as_u64()), (Some("aggregated"), Some(0)));
    assert_eq!(first["scheduled"], serde_json::json!([[0, 1200, 0]]));
    assert_eq!(first["admitted"], serde_json::json!([[0, 0]]));
    assert_eq!((first["total_tokens"].as_u64(), first["num_running"].as_u64()), (Some(1200), Some(1)));
    assert_eq!((first["start_ms"].as_f64(), first["emitted"].clone()), (Some(0.0), serde_json::json!([0])));
    for worker in 0..2 {
        let own: Vec<&Value> = rows.iter().filter(|row| row["worker"] == worker).collect();
        assert!(own.iter().enumerate().all(|(ordinal, row)| row["iteration"] == ordinal));
        assert!(own.windows(2).all(|pair| figure(pair[0], "end_ms") <= figure(pair[1], "end_ms")));
    }
    let tokens: u64 = rows.iter().map(|row| row["emitted"].as_array().unwrap().len() as u64).sum();
    assert_eq!(tokens, 36);
}

/// The first token is out when its request is admitted, not at the end of the iteration.
#[test]
fn iterations_say_when_a_token_was_handed_over() {
    let sandbox = Sandbox::new();
    let args =
        ["--engine", "sglang", "--block-size", "64", "--prefill-workers", "1", "--decode-workers", "1"];
    let rows = ["--requests-jsonl", "requests.jsonl", "--iterations-jsonl", "rows.jsonl"];
    let report =
        sandbox.report(&[&["t.jsonl", "--latency", "linear:1000,10,100"], &args[..], &rows[..]].concat());
    let read = |name: &str| -> Vec<Value> {
        sandbox.read(name).lines().map(|row| serde_json::from_str(row).unwrap()).collect()
    };
    let requests = read("requests.jsonl");
    let decodes: Vec<Value> = read("rows.jsonl").into_iter().filter(|row| row["pool"] == "decode").collect();
    let out_with = |number: u64, list: &str, time: &str| -> Vec<f64> {
        let rows = decodes.iter().filter(|row| row[list].as_array().unwrap().contains(&number.into()));
        rows.map(|row| figure(row, time)).collect()
    };
    for (number, request) in (0..).zip(&requests) {
        let first = out_with(number, "joined", "scheduled_at_ms");
        assert_eq!(first, [figure(request, "first_token_ms")], "request {number}");
        let others = out_with(number, "emitted", "end_ms");
        assert_eq!(others.len() as u64 + 1, request["output_length"].as_u64().unwrap());
        let last = others.last().unwrap_or(&first[0]);
        assert!(last.total_cmp(&figure(request, "last_token_ms")).is_eq(), "request {number}: {last}");
    }
    assert_eq!(out_with(2, "finished_at_once", "scheduled_at_ms"), out_with(2, "joined", "scheduled_at_ms"));
    assert_eq!(report["total_output_tokens"], 36);
}

#[test]
fn the_example_deployment_runs() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/disaggregated.toml");
    let report = Sandbox::new().report(&["t.jsonl", "--config", example]);
    assert_eq!(report["completed_requests"], 4);
    assert_eq!(report["pools"][1]["workers"], 4);
    assert_eq!(report["sla"]["ttft_ms"], 2000.0);
}

#[test]
fn the_example_of_workers_that_differ_runs() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/mixed.toml");
    let report = Sandbox::new().report(&["t.jsonl", "--config", example]);
    assert_eq!((&report["completed_requests"], &report["pools"][0]["workers"]), (&4.into(), &6.into()));
    let source = report["latency_source"].as_str().unwrap();
    assert!(source.contains("H100-SXM") && source.contains("B200"), "{source}");
}

#[test]
fn a_run_that_outlasts_virtual_time_ends_with_an_error() {
    let sandbox = Sandbox::new();
    for arguments in
        [&[][..], &["--replay-concurrency", "4"], &["--workers", "2", "--router-mode", "kv_router"]]
    {
        let arguments = [&["replay", "--speedup-ratio", "1e-9"], arguments].concat();
        let outcome = sandbox.run(&arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains("where virtual time ends"), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_closed_loop_behind_a_front_end_sends_a_request_when_another_ends() {
    let sandbox = Sandbox::new();
    sandbox.write("fe.toml", "front_end_us = 200000.0\n[prefill]\nbase_us = 10000.0\n");
    let row = |output, id| {
        format!(
            "{{\"timestamp\": 0, \"input_length\": 100, \"output_length\": {output}, \"hash_ids\": [{id}]}}\n"
        )
    };
    let rows: String = [10, 20, 5, 5].iter().zip(1..).map(|(output, id)| row(*output, id)).collect();
    sandbox.write("loop.jsonl", rows);
    let arguments = ["loop.jsonl", "--replay-concurrency", "2", "--latency", "step:fe.toml"];
    sandbox.report(&[&arguments[..], &["--requests-jsonl", "rows.jsonl"]].concat());
    let rows = sandbox.read("rows.jsonl");
    let arrivals: Vec<f64> =
        rows.lines().map(|row| figure(&serde_json::from_str(row).unwrap(), "arrival_ms")).collect();
    assert_eq!(arrivals, [0.0, 0.0, 300.0, 400.0], "when lines 1 and 2 end");
}

#[test]
fn a_consumer_of_kv_that_waits_for_memory_is_served_in_order() {
    let sandbox = Sandbox::new();
    let row = |timestamp, output| {
        format!(
            "{{\"timestamp\": {timestamp}, \"input_length\": 1, \"output_length\": {output}, \"hash_ids\": [0]}}\n"
        )
    };
    sandbox.write("tight.jsonl", [row(0, 6), row(0, 7), row(1, 1), row(0, 1)].concat());
    let report = sandbox.report(&[
        "tight.jsonl",
        "--prefill-workers",
        "1",
        "--decode-workers",
        "2",
        "--engine-preset",
        "vllm-0.33",
        "--num-gpu-blocks",
        "2",
        "--kv-transfer-bandwidth",
        "0.0001",
        "--kv-bytes-per-token",
        "1000",
    ]);
    assert_eq!(report["completed_requests"], 4);
}

#[test]
fn an_idle_worker_is_not_utilized_whatever_its_router_listens_to() {
    let sandbox = Sandbox::new();
    let utilization = |router| {
        let report = sandbox.report(&[
            "--engine-preset",
            "vllm-0.33",
            "--prefill-workers",
            "1",
            "--decode-workers",
            "1",
            "--kv-transfer-bandwidth",
            "1",
            "--kv-bytes-per-token",
            "131072",
            "--input-tokens",
            "1000",
            "--output-tokens",
            "200",
            "--request-count",
            "60",
            "--length-distribution",
            "uniform",
            "--length-spread",
            "0.8",
            "--arrival-interval-ms",
            "60",
            "--arrival-process",
            "poisson",
            "--router-mode",
            router,
        ]);
        let pools = report["pools"].as_array().unwrap().iter();
        pools.map(|pool| figure(pool, "utilization")).collect::<Vec<_>>()
    };
    assert_eq!(utilization("round_robin"), utilization("kv_router"));
}
