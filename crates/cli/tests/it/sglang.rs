//! SGLang through the binary: its settings, its shows, deployments with it.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// What a replay of the small trace did, iteration by iteration.
#[track_caller]
fn iterations(sandbox: &Sandbox, arguments: &[&str]) -> Vec<Value> {
    sandbox.report(&[&["t.jsonl", "--iterations-jsonl", "rows.jsonl"], arguments].concat());
    sandbox.read("rows.jsonl").lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

/// One worker for each stage.
const STAGED: [&str; 4] = ["--prefill-workers", "1", "--decode-workers", "1"];

#[test]
fn flags_files_variables_and_engine_arguments_mean_the_same() {
    let flags = "--engine sglang --page-size 16 --max-total-tokens 4096 --max-running-requests 2 \
                 --context-length 2000 --max-prefill-tokens 1024 --chunked-prefill-size 256 \
                 --prefill-max-requests 1 --scheduler-recv-interval 3 --schedule-policy lof --schedule-conservativeness 0.5 \
                 --enable-mixed-chunk --disable-overlap-schedule=false --enable-priority-scheduling \
                 --schedule-low-priority-values-first --priority-scheduling-preemption-threshold 3";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let settings = json!({
        "page_size": 16, "max_total_tokens": 4096, "max_running_requests": 2, "context_length": 2000,
        "max_prefill_tokens": 1024, "chunked_prefill_size": 256, "prefill_max_requests": 1,
        "scheduler_recv_interval": 3, "schedule_policy": "lof", "schedule_conservativeness": 0.5, "enable_mixed_chunk": true,
        "disable_overlap_schedule": false, "enable_priority_scheduling": true,
        "schedule_low_priority_values_first": true, "priority_scheduling_preemption_threshold": 3,
    });
    let settings = settings.as_object().unwrap();
    let plain = Sandbox::new();
    let expected = iterations(&plain, &flags);
    assert!(expected.len() > 20 && expected != iterations(&plain, &["--engine", "sglang"]));

    let engine_args = json!({"engine_type": "sglang", "sglang": settings}).to_string();
    assert_eq!(iterations(&plain, &["--extra-engine-args", &engine_args]), expected);
    let mut toml: toml::Table =
        settings.iter().map(|(key, value)| (key.clone(), toml::Value::try_from(value).unwrap())).collect();
    toml.insert("engine".to_owned(), "sglang".into());
    plain.write("c.toml", toml.to_string());
    assert_eq!(iterations(&plain, &["--config", "c.toml"]), expected);
    let mut sandbox = Sandbox::new().with_variable("SERVECAST_ENGINE", "sglang");
    for (key, value) in settings {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        sandbox = sandbox.with_variable(&format!("SERVECAST_{}", key.to_uppercase()), &text);
    }
    assert_eq!(iterations(&sandbox, &[]), expected);
}

#[test]
fn settings_are_laid_over_one_another_key_by_key() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "c.toml",
        "[engine_args]\nengine_type = \"sglang\"\n[engine_args.sglang]\npage_size = 16\nchunked_prefill_size = 512\n",
    );
    let expected =
        iterations(&sandbox, &["--engine", "sglang", "--page-size", "16", "--chunked-prefill-size", "256"]);
    for arguments in [
        &["--config", "c.toml", "--engine-args", r#"{"sglang": {"chunked_prefill_size": 256}}"#][..],
        &[
            "--engine",
            "sglang",
            "--page-size",
            "16",
            "--engine-args",
            r#"{"sglang": {"chunked_prefill_size": 256}}"#,
        ],
    ] {
        assert_eq!(iterations(&sandbox, arguments), expected);
    }
    sandbox.run(&["replay", "t.jsonl", "--config", "c.toml", "--page-size", "64"]).is_refused(&[
        "`page_size` is 64, but `engine_args` has `sglang.page_size` 16: give it once",
        "c.toml",
    ]);
    sandbox
        .run(&[
            "replay",
            "t.jsonl",
            "--config",
            "c.toml",
            "--engine-args",
            r#"{"sglang": {"page_size": 48}}"#,
        ])
        .is_refused(&[
            "`sglang.chunked_prefill_size` is 512: expected a multiple of the page size, 48 (from c.toml)",
        ]);
}

#[test]
fn the_preset_is_the_real_engines_defaults() {
    let sandbox = Sandbox::new();
    let preset = iterations(&sandbox, &["--engine-preset", "sglang-0.5", "--num-gpu-blocks", "100000"]);
    let overlap = ["--engine", "sglang", "--disable-overlap-schedule=false", "--max-total-tokens", "100000"];
    assert_eq!(preset, iterations(&sandbox, &overlap));
    assert_ne!(preset, iterations(&sandbox, &["--engine", "sglang", "--num-gpu-blocks", "100000"]));
    let paged = ["--engine-preset", "sglang-0.5", "--page-size", "64"];
    let generic = ["--engine-preset", "sglang-0.5", "--block-size", "64"];
    assert_eq!(iterations(&sandbox, &paged), iterations(&sandbox, &generic));
}

#[test]
fn iterations_count_pages_and_keep_prefill_and_decode_apart() {
    let sandbox = Sandbox::new();
    let rows = iterations(&sandbox, &["--engine", "sglang", "--page-size", "64", "--num-gpu-blocks", "100"]);
    assert_eq!(rows[0]["scheduled"], json!([[0, 1200, 0]]));
    assert_eq!(rows[0]["cached_blocks"], 18, "whole pages of the prompt");
    // What is cached and not in use counts as free, so all but the 19 pages of the request are.
    assert_eq!(rows[0]["free_blocks"], 81);
    for row in &rows {
        let scheduled = row["scheduled"].as_array().unwrap();
        let decodes = scheduled.iter().filter(|one| one[1] == 1).count();
        assert!(decodes == 0 || decodes == scheduled.len(), "{row}");
    }
    let last = rows.last().unwrap();
    assert_eq!((last["free_blocks"].clone(), last["num_waiting"].clone()), (100.into(), 0.into()));
}

#[test]
fn no_pool_however_small_stalls_a_run() {
    let sandbox = Sandbox::new();
    let arguments = "t.jsonl --engine sglang --chunked-prefill-size 256";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    for page in [1, 16, 256] {
        let sizes = [page, 10 * page, 300, 301, 302, 1100, 1199, 1200, 1201, 1230, 1536, 1537, 1800];
        for tokens in sizes.map(|tokens: u32| tokens.next_multiple_of(page)) {
            let pool = format!("--page-size {page} --max-total-tokens {tokens}");
            let pool: Vec<&str> = pool.split(' ').collect();
            for deployment in [&[][..], &STAGED, &["--disable-radix-cache"]] {
                let report = sandbox.report(&[&arguments[..], &pool, deployment].concat());
                // A prompt leaves room for 6 tokens.
                let too_long = [1200, 1100, 1536, 300].iter().filter(|&&prompt| prompt + 6 >= tokens).count();
                let rejected = report["rejected_by_reason"]["prompt_too_long"].as_u64().unwrap_or(0);
                assert_eq!(rejected, too_long as u64, "{pool:?} {deployment:?}");
                assert_eq!(report["num_requests"], 4);
            }
        }
    }
    // The longest prompt that a context takes leaves room for 5 tokens of output.
    for (context, rejected, output_tokens) in [("306", 4, 0), ("307", 3, 5)] {
        for deployment in [&[][..], &STAGED] {
            let context =
                [&["t.jsonl", "--engine", "sglang", "--context-length", context], deployment].concat();
            let report = sandbox.report(&context);
            assert_eq!(report["rejected_by_reason"], json!({"max_model_len": rejected}));
            assert_eq!(report["total_output_tokens"], output_tokens);
        }
    }
}

#[test]
fn engines_are_mixed_across_pools() {
    let sandbox = Sandbox::new();
    let vllm = r#"{"engine_type": "vllm"}"#;
    let sglang = r#"{"engine_type": "sglang"}"#;
    let run = |prefill: &str, decode: &str, arguments: &[&str]| {
        let pools =
            ["t.jsonl", "--prefill-engine-args", prefill, "--decode-engine-args", decode, "--router-mode"];
        sandbox.report(&[&pools[..], &["kv_router", "--block-size", "64"], arguments].concat())
    };
    for (prefill, decode) in [(vllm, sglang), (sglang, vllm), (sglang, sglang)] {
        let report = run(prefill, decode, &["--kv-bytes-per-token", "1000", "--kv-transfer-bandwidth", "10"]);
        assert_eq!(report["completed_requests"], 4);
        assert_eq!(report["total_output_tokens"], 36);
        assert!(report["prefix_cache_reused_ratio"].as_f64().unwrap() > 0.4);
    }
    // Flags of one engine are for the pools that run it.
    let arguments = ["--chunked-prefill-size", "128", "--max-num-batched-tokens", "512"];
    let report = run(sglang, vllm, &arguments);
    assert_eq!(report["pools"][0]["iterations"], (10 + 1 + 4 + 3), "chunks of 128 tokens");
    assert_eq!(
        run(vllm, sglang, &arguments)["pools"][0]["iterations"],
        (3 + 1 + 1 + 1),
        "chunks of 512 tokens"
    );
    let preset = ["--engine-preset", "sglang-0.5"];
    assert_eq!(run(vllm, sglang, &preset)["completed_requests"], 4);
    let refused = |prefill: &str, decode: &str, arguments: &[&str], words: &[&str]| {
        let pools = ["replay", "t.jsonl", "--prefill-engine-args", prefill, "--decode-engine-args", decode];
        sandbox.run(&[&pools[..], arguments].concat()).is_refused(words);
    };
    refused(vllm, sglang, &[], &["64", "1", "block_size"]);
    refused(
        vllm,
        vllm,
        &["--page-size", "64"],
        &["`page_size` is a setting of SGLang, but the engine is vllm"],
    );
    refused(
        vllm,
        r#"{"engine_type": "sglang", "sglang": {"page_sise": 1}}"#,
        &[],
        &[
            "decode engine: unknown key `sglang.page_sise`, did you mean `sglang.page_size`? (from --decode-engine-args)",
        ],
    );
}

#[test]
fn settings_without_effect_are_noted() {
    let sandbox = Sandbox::new();
    let notes = |arguments: &[&str]| {
        let outcome = sandbox.run(&[&["replay", "t.jsonl", "--engine", "sglang"], arguments].concat());
        let notes = outcome.stderr.clone();
        outcome.success();
        notes
    };
    for (arguments, note) in [
        (
            &["--max-num-batched-tokens", "8192"][..],
            "`max_num_batched_tokens` is a setting of vLLM (from --max-",
        ),
        (
            &["--schedule-low-priority-values-first"],
            "`sglang.schedule_low_priority_values_first` needs `sglang.enable_priority_scheduling` (from --sched",
        ),
        (
            &["--engine-args", r#"{"sglang": {"random_seed": 1}}"#],
            "`sglang.random_seed` is for the policy `random` (from --engine-args)",
        ),
        (
            &["--schedule-policy", "lpm", "--disable-radix-cache"],
            "`sglang.schedule_policy` goes by what is cached, but nothing is (from --schedule-policy)",
        ),
    ] {
        assert!(
            notes(arguments).contains(&format!("note: a setting has no effect: {note}")),
            "{arguments:?}"
        );
        assert_eq!(notes(&[arguments, &["--quiet"]].concat()), "");
    }
    assert_eq!(notes(&["--schedule-policy", "lof", "--enable-priority-scheduling"]), "");
}

#[test]
fn a_drafter_that_takes_no_time_is_noted() {
    let sandbox = Sandbox::new();
    let notes = |algorithm: &str| {
        let given = ["--speculative-algorithm", algorithm, "--speculative-num-draft-tokens", "3"];
        let accepted = ["--speculative-config", r#"{"acceptance_length": 2}"#];
        sandbox.run(&[&["replay", "t.jsonl", "--engine", "sglang"], &given[..], &accepted].concat()).stderr
    };
    assert_eq!(notes("EAGLE3"), "note: the drafter takes no time: that of SGLang's is left out\n");
    assert_eq!(notes("NGRAM"), "", "it has no network");
}

/// The conversation trace, if it is there.
fn conversation() -> Option<String> {
    let folder = testkit::outside(testkit::DATA)?;
    Some(folder.join("traces/mooncake_conversation.jsonl").to_str().unwrap().to_owned())
}

#[test]
fn it_reuses_as_much_as_vllm() {
    let Some(trace) = conversation() else { return };
    let sandbox = Sandbox::new();
    let reuse = |engine: &[&str]| {
        let arguments =
            ["replay", "--quiet", "--format", "json", "--workers", "8", "--router-mode", "kv_router"];
        let child =
            sandbox.command(&[&arguments[..], &[&trace, "--engine"], engine].concat()).spawn().unwrap();
        move || {
            let output = child.wait_with_output().unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["completed_requests"], 12_031);
            report["prefix_cache_reused_ratio"].as_f64().unwrap()
        }
    };
    let (sglang, vllm) = (reuse(&["sglang", "--page-size", "64"]), reuse(&["vllm"]));
    let (sglang, vllm) = (sglang(), vllm());
    assert!((sglang - vllm).abs() < 0.02, "{sglang} and {vllm}");
}

#[test]
fn prompts_that_are_longer_than_the_pool_are_counted() {
    let Some(trace) = conversation() else { return };
    let sandbox = Sandbox::new();
    let arguments = ["replay", &trace, "--engine", "sglang", "--workers", "8", "--format", "json"];
    let outcome = sandbox.run(&arguments);
    assert_eq!(outcome.stderr, "note: 2734 of 12031 requests were rejected: prompt_too_long 2734\n");
    let report: Value = serde_json::from_str(&outcome.success()).unwrap();
    assert_eq!(report["rejected_by_reason"], json!({"prompt_too_long": 2734}));
    assert_eq!(report["completed_requests"], 12_031 - 2_734);
}

/// Rows of requests of these lengths with content of their own, a second apart.
fn prompts(lengths: &[u32]) -> String {
    let row = |(number, &length): (usize, &u32)| {
        let ids: Vec<u32> = (0..length).map(|token| 1_000 * number as u32 + token).collect();
        json!({"timestamp": 1_000 * number, "input_length": length, "output_length": 1, "hash_ids": ids})
            .to_string()
            + "\n"
    };
    lengths.iter().enumerate().map(row).collect()
}

#[test]
fn prompts_near_the_context_or_the_pool_are_refused() {
    let sandbox = Sandbox::new();
    for (setting, size, served) in [("--context-length", 16, 9), ("--max-total-tokens", 64, 57)] {
        sandbox.write("p.jsonl", prompts(&[served, served + 1, served + 2]));
        let size = size.to_string();
        let report =
            sandbox.report(&["p.jsonl", "--trace-block-size", "1", "--engine", "sglang", setting, &size]);
        assert_eq!((&report["completed_requests"], &report["rejected_requests"]), (&json!(1), &json!(2)));
    }
}

/// A deep queue costs nothing, nor does what a prompt computed before: each of these took most of a minute or more.
#[test]
fn time_does_not_grow_with_the_square_of_queues_and_chunks() {
    let sandbox = Sandbox::new();
    let run = |arguments: &str| {
        let start = std::time::Instant::now();
        sandbox.report(&arguments.split_whitespace().collect::<Vec<_>>());
        let elapsed = start.elapsed();
        assert!(elapsed.as_secs() < 30, "{arguments}: {elapsed:?}");
    };
    let queue = "--engine sglang --input-tokens 800 --output-tokens 20 --request-count 80000 --arrival-interval-ms 0 \
                 --shared-prefix-ratio 0.5 --num-prefix-groups 50";
    for policy in ["fcfs", "lpm", "lof", "random"] {
        run(&format!("{queue} --page-size 16 --schedule-policy {policy}"));
    }
    run(&format!("{queue} --page-size 1 --max-total-tokens 262144"));
    run(
        "--engine sglang --page-size 64 --num-gpu-blocks 16777216 --input-tokens 1000000000 --output-tokens 1 \
         --request-count 1",
    );
}

/// Rows of requests of the small trace on one worker for each stage.
fn staged_rows(sandbox: &Sandbox, arguments: &[&str]) -> Vec<Value> {
    let common = ["t.jsonl", "--requests-jsonl", "requests.jsonl", "--engine-preset", "sglang-0.5"];
    sandbox.report(&[&common[..], &STAGED, arguments].concat());
    sandbox.read("requests.jsonl").lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

#[test]
fn workers_of_both_stages_have_sglangs_own_queues() {
    let sandbox = Sandbox::new();
    let own = staged_rows(&sandbox, &[]);
    let others = staged_rows(&sandbox, &["--disaggregation-mode", "null"]);
    assert_eq!((own.len(), others.len()), (4, 4));
    for (own, other) in own.iter().zip(&others) {
        // It comes to both workers at once, or to one after the other.
        assert_eq!(own["stages"][1]["arrived_ms"], own["stages"][0]["arrived_ms"], "{own}");
        assert_eq!(other["stages"][1]["arrived_ms"], other["stages"][0]["last_token_ms"], "{other}");
        assert!(own["status"] == "finished" && other["status"] == "finished");
        let parts = own["ttft_breakdown"].as_object().unwrap().values().map(|part| part.as_f64().unwrap());
        assert!((parts.sum::<f64>() - own["ttft_ms"].as_f64().unwrap()).abs() < 1e-6, "{own}");
    }
    // Beside 16,000 tokens in reserve, nobody has memory while another has.
    let alone = staged_rows(&sandbox, &["--num-reserved-decode-tokens", "16000"]);
    let waits = |rows: &[Value]| -> f64 {
        rows.iter().map(|row| row["ttft_breakdown"]["decode_wait_ms"].as_f64().unwrap()).sum()
    };
    assert!(waits(&alone) > waits(&own) + 10.0, "{} {}", waits(&alone), waits(&own));
    let outcome =
        sandbox.run(&[&["replay", "t.jsonl", "--engine-preset", "sglang-0.5"][..], &STAGED].concat());
    assert!(outcome.stderr.contains("SGLang's own queues hand requests over"), "{}", outcome.stderr);
    outcome.success();
    // What a run leaves behind repeats it.
    let folder = ["t.jsonl", "--engine-preset", "sglang-0.5", "--output-dir", "out"];
    let first = sandbox.report(&[&folder[..], &STAGED].concat());
    let again = sandbox.report(&["--config", "out/config.toml"]);
    assert_eq!(first["mean_ttft_ms"], again["mean_ttft_ms"]);
}

#[test]
fn one_of_sglangs_two_sides_is_refused() {
    let sandbox = Sandbox::new();
    let refused = |arguments: &[&str], words: &[&str]| {
        sandbox.run(&[&["replay", "t.jsonl", "--engine", "sglang"], arguments].concat()).is_refused(words);
    };
    refused(
        &["--disaggregation-mode", "decode"],
        &[
            "`sglang.disaggregation_mode` is decode, but there are no prefill and decode workers",
            "--num-prefill-workers",
        ],
    );
    refused(
        &["--num-reserved-decode-tokens", "5"],
        &[
            "`sglang.num_reserved_decode_tokens` is for prefill and decode workers",
            "`sglang.disaggregation_mode`",
        ],
    );
    let prefill = r#"{"sglang": {"disaggregation_mode": "prefill"}}"#;
    let pools = ["--prefill-engine-args", prefill, "--decode-engine-args", "{}"];
    refused(&pools, &["is set for workers of the prefill pool, but not for all of the decode pool"]);
    let decode = r#"{"sglang": {"disaggregation_mode": "decode"}}"#;
    let pools = ["--prefill-engine-args", decode, "--decode-engine-args", decode];
    refused(&pools, &["the prefill engine has", "disaggregation_mode", "make it prefill"]);
    let tiers =
        ["--engine-preset", "sglang-0.5", "--kv-bytes-per-token", "1000", "--enable-hierarchical-cache"];
    refused(
        &[&tiers[..], &STAGED].concat(),
        &[
            "`sglang.enable_hierarchical_cache` does not go together with SGLang's own queues",
            "`sglang.disaggregation_mode` to `null`",
        ],
    );
}
