//! Settings from files, variables and flags.

use crate::sandbox::Sandbox;

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let sandbox =
        Sandbox::new().with_variable("SERVECAST_NUM_WORKERS", "3").with_variable("SERVECAST_SEED", "");
    sandbox.write("d.toml", "trace_file = \"t.jsonl\"\nnum_workers = 2\nrouter_mode = \"random\"\n[engine_args]\nblock_size = 16\n");
    sandbox.write(
        "d.json",
        r#"{"trace_file": "t.jsonl", "workers": 2, "extra_engine_args": {"block_size": 16}}"#,
    );
    let workers = |arguments: &[&str]| sandbox.report(arguments)["pools"][0]["workers"].clone();
    for file in ["d.toml", "d.json"] {
        assert_eq!(workers(&["--config", file]), 3);
        assert_eq!(workers(&["--config", file, "--workers", "4"]), 4);
        let plain = Sandbox::new();
        plain.write(file, sandbox.read(file));
        assert_eq!(plain.report(&["--config", file])["pools"][0]["workers"], 2);
    }
}

#[test]
fn engine_settings_come_as_json_as_files_and_as_flags() {
    let sandbox = Sandbox::new();
    sandbox.write("engine.json", r#"{"block_size": 512, "num_gpu_blocks": 100}"#);
    let inline = r#"{"block_size": 512, "num_gpu_blocks": 100}"#;
    let with = |arguments: &[&str]| {
        sandbox.report(&[&["t.jsonl"], arguments].concat())["prefix_cache_reused_ratio"].clone()
    };
    let expected = with(&["--block-size", "512", "--num-gpu-blocks", "100"]);
    assert_eq!(with(&["--extra-engine-args", inline]), expected);
    assert_eq!(with(&["--extra-engine-args", "@engine.json"]), expected);
    assert_eq!(
        with(&["--engine-args", r#"{"block_size": 512}"#, "--block-size", "512", "--num-gpu-blocks", "100"]),
        expected
    );
    // A block of 4096 tokens is in no prompt as a whole.
    assert_eq!(with(&["--block-size", "4096"]), 0.0);
}

#[test]
fn engine_settings_of_a_flag_go_key_by_key_over_those_of_a_file() {
    let sandbox = Sandbox::new();
    sandbox.write("d.toml", "[engine_args]\nnum_gpu_blocks = 22\nblock_size = 64\n");
    let run = |arguments: &[&str]| sandbox.report(&[&["t.jsonl", "--config", "d.toml"], arguments].concat());
    assert_eq!(run(&[])["rejected_requests"], 1);
    assert_eq!(run(&["--engine-args", r#"{"num_gpu_blocks": 200}"#])["rejected_requests"], 0);
    assert_eq!(run(&["--engine-args", r#"{"block_size": 16}"#])["rejected_requests"], 3);
}

#[test]
fn shortcuts_hold_for_every_pool() {
    let sandbox = Sandbox::new();
    let report = sandbox.report(&[
        "t.jsonl",
        "--prefill-workers",
        "1",
        "--decode-workers",
        "1",
        "--block-size",
        "16",
        "--num-gpu-blocks",
        "60",
    ]);
    assert_eq!(report["rejected_requests"], 3);
}

#[test]
fn presets_lie_under_everything_else() {
    let sandbox = Sandbox::new();
    let rejected = |arguments: &[&str]| {
        sandbox.report(
            &[&["t.jsonl", "--engine-preset", "vllm-0.33", "--num-gpu-blocks", "60"], arguments].concat(),
        )["rejected_requests"]
            .clone()
    };
    assert_eq!(rejected(&[]), 3, "its blocks have 16 tokens");
    assert_eq!(rejected(&["--block-size", "64"]), 0);
    assert_eq!(rejected(&["--engine-args", r#"{"block_size": 64}"#]), 0);
    assert_eq!(rejected(&["--prefill-workers", "1", "--decode-workers", "1"]), 3);
}

#[test]
fn variables_that_are_no_settings_are_refused() {
    for (name, words) in [
        (
            "SERVECAST_NUM_WORKER",
            &["unknown environment variable `SERVECAST_NUM_WORKER`", "did you mean `SERVECAST_NUM_WORKERS`?"]
                [..],
        ),
        ("SERVECAST_ROUTER_CONFIG", &["`router_config`", "not valid JSON", "from SERVECAST_ROUTER_CONFIG"]),
        ("SERVECAST_ROUTER_TEMPERATURE", &["`SERVECAST_ROUTER_TEMPERATURE` is `x`: expected a number"]),
        ("SERVECAST_NUM_WORKERS", &["`num_workers` is \"x\"", "from SERVECAST_NUM_WORKERS"]),
        ("SERVECAST_ENGINE_ARGS", &["`engine_args`", "not valid JSON", "from SERVECAST_ENGINE_ARGS"]),
        ("SERVECAST_ROUTER_MODE", &["`router_mode` is \"x\"", "`round_robin`"]),
        ("SERVECAST_CHECK", &["`check` is \"x\", but must be true or false", "from SERVECAST_CHECK"]),
        ("SERVECAST_FORMAT", &["`format` is \"x\"", "one of `table`, `json`, `markdown`, `junit`"]),
    ] {
        Sandbox::new().with_variable(name, "x").run(&["replay", "t.jsonl"]).is_refused(words);
    }
    let sandbox = Sandbox::new().with_variable("SERVECAST_ORACLE", "x").with_variable("SERVECAST_DATA", "y");
    sandbox.report(&["t.jsonl"]);
}

#[test]
fn yes_and_no_have_the_same_words_everywhere() {
    for word in ["1", "on", "Yes", "true"] {
        let sandbox = Sandbox::new().with_variable("SERVECAST_QUIET", word);
        assert_eq!(sandbox.run(&["replay"]).stderr, "", "{word}");
        let off = sandbox.run(&["replay", "--quiet=off", &format!("--check={word}")]);
        assert!(off.stderr.contains("built-in sample"), "{off:?}");
    }
    Sandbox::new().run(&["replay", "--check=maybe"]).is_refused(&["'maybe'", "--check", "expected true, 1"]);
}

#[test]
fn bad_files_are_refused_by_name_and_key() {
    let sandbox = Sandbox::new();
    for (content, words) in [
        ("num_worker = 2", &["c.toml: unknown key `num_worker`, did you mean `num_workers`?"][..]),
        ("num_workers = \"2\"", &["`num_workers` is \"2\", but must be a whole number", "(from c.toml)"]),
        ("num_workers = -2", &["`num_workers` is -2, but must be a whole number"]),
        ("num_workers = 0", &["`num_workers` is 0", "(from c.toml)"]),
        ("num_workers = 1\nworkers = 2", &["c.toml: `num_workers` is given by two names"]),
        ("num_workers = 1\nnum_workers = 2", &["c.toml: line 2: duplicate key"]),
        ("seed = 1\nx =", &["c.toml: line 2: "]),
        ("aic_system = \"x\"", &["c.toml: unknown key `aic_system`: not there yet, `latency` chooses"]),
        (
            "watermark = 0.1",
            &["c.toml: `watermark` is a setting of the engine: it belongs into `engine_args`"],
        ),
        ("router_config = 1", &["`router_config` is 1, but must be an object with the settings of a router"]),
        ("router_temperature = 1", &["c.toml: `router_temperature` is a setting", "into `router_config`"]),
        ("page_size = 64", &["`page_size` is a setting of SGLang, but the engine is vllm (from c.toml)"]),
        (
            "[engine_args]\nengine_type = \"sglang\"\nsglang.page_size = 0",
            &["`sglang.page_size` is 0: expected at least 1 (from c.toml)"],
        ),
        (
            "sla_itl_ms = 0",
            &["`sla_tpot_ms` must be a finite number of milliseconds above 0, not 0 (from c.toml)"],
        ),
        ("sla_itl_ms = nan", &["c.toml: `sla_itl_ms` is NaN, but must be a finite number"]),
        ("engine_args = 1", &["`engine_args` is 1, but must be an object"]),
        (
            "[engine_args]\nblok_size = 1",
            &["unknown key `blok_size`, did you mean `block_size`? (from c.toml)"],
        ),
        (
            "[prefill_engine_args]\nblock_size = 1.5\n[decode_engine_args]",
            &["prefill engine: `block_size` is 1.5", "(from c.toml)"],
        ),
    ] {
        sandbox.write("c.toml", content);
        sandbox.run(&["replay", "t.jsonl", "--config", "c.toml"]).is_refused(words);
    }
    sandbox.write("c.json", r#"{"seed": 1, "seed": 2}"#);
    sandbox
        .run(&["replay", "--config", "c.json"])
        .is_refused(&["c.json: not valid JSON: `seed` is given twice"]);
    sandbox.write("c.json", "[]");
    sandbox.run(&["replay", "--config", "c.json"]).is_refused(&["c.json: expected a JSON object"]);
    sandbox.run(&["replay", "--config", "none.toml"]).is_refused(&["cannot read `none.toml`: No such file"]);
}

#[test]
fn origins_are_of_settings_and_not_of_words() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("p")).unwrap();
    sandbox.write("p/profile.json", r#"{"tensor_parallel_size": 2000}"#);
    let told = |file: &str, content: &str, arguments: &[&str]| {
        sandbox.write(file, content);
        let outcome = sandbox.run(&[&["replay", "t.jsonl", "--config", file], arguments].concat());
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        outcome.stderr
    };
    // The name of the file is a word of the message.
    assert_eq!(
        told("is", "num_workers = 0", &[]),
        "error: `num_workers` is 0, but a pool needs at least 1 worker (from is)\n"
    );
    // A value looks like a setting.
    let value = told("c.toml", "seed = 1\nlatency = '`seed`'", &["--quiet"]);
    assert!(value.starts_with("error: `latency` is ``seed``: expected auto"), "{value}");
    assert!(value.trim_end().ends_with("ops:OPTIONS (from c.toml)"), "{value}");
    // What there is instead of a key is given, too.
    let instead = told("c.toml", "[engine_args]\nmax_batch_size = 3", &["--max-num-seqs", "5"]);
    assert_eq!(
        instead,
        "error: unknown key `max_batch_size`: `max_num_seqs` is how many requests run at a time (from c.toml)\n"
    );
    // Another file has a key of that name.
    assert_eq!(
        told("c.toml", "latency = 'profile:p'", &["--tp", "2"]),
        "error: p/profile.json: `tensor_parallel_size` is 2000, but must be from 1 to 1024\n"
    );
    // Items of a list come from where the list does.
    assert_eq!(
        told("c.toml", "slo = ['p95 ttft <= 1s', 3]", &[]),
        "error: `slo[1]` is 3, but must be a string (from c.toml)\n"
    );
    assert_eq!(
        told("c.toml", "cudagraph_capture_sizes = 8", &[]),
        "error: `cudagraph_capture_sizes` is 8, but must be a list of whole numbers (from c.toml)\n"
    );
}

#[test]
fn engine_settings_without_effect_are_noted() {
    let sandbox = Sandbox::new();
    let notes = |arguments: &[&str]| {
        let outcome = sandbox.run(&[&["replay", "t.jsonl"], arguments].concat());
        let notes = outcome.stderr.clone();
        outcome.success();
        notes
    };
    let live = r#"{"zmq_kv_events_port": 5557, "bootstrap_port": null, "enable_local_indexer": false}"#;
    assert_eq!(
        notes(&["--engine-args", live, "--kv-transfer-bandwidth", "5"]),
        "note: a setting has no effect: `zmq_kv_events_port` is for live workers (from --engine-args)\n\
         note: a setting has no effect: `kv_transfer_bandwidth` is for prefill and decode workers (from \
         --kv-transfer-bandwidth)\n"
    );
    assert_eq!(
        notes(&[
            "--prefill-engine-args",
            r#"{"startup_time": 5, "kv_transfer_bandwidth": 0}"#,
            "--decode-engine-args",
            "{}"
        ]),
        "note: a setting has no effect: prefill engine: `startup_time` is for workers that are started while \
         others serve (from --prefill-engine-args)\n"
    );
    assert_eq!(notes(&["--engine-args", live, "--quiet"]), "");
}

#[test]
fn a_setting_beside_one_that_takes_it_for_nothing_is_noted() {
    let sandbox = Sandbox::new();
    let synthetic = ["replay", "--input-tokens", "9", "--output-tokens", "2", "--request-count", "3"];
    for (given, note) in [
        (&["--inter-turn-delay-ms", "5"][..], "`inter_turn_delay_ms` is for sessions of several turns"),
        (&["--num-prefix-groups", "2"], "`num_prefix_groups` is for prompts that share something"),
        (&["--overwrite"], "`overwrite` is for `output_dir`"),
        (&["--kv-bytes-per-token", "5"], "`kv_bytes_per_token` is for prefill and decode workers"),
        (&["--kv-transfer-sharing", "shared"], "`kv_transfer_sharing` is for prefill and decode workers"),
    ] {
        let outcome = sandbox.run(&[&synthetic[..], given].concat());
        let note = format!("note: a setting has no effect: {note}");
        assert!(outcome.stderr.contains(&note) && outcome.stderr.lines().count() == 1, "{outcome:?}");
    }
}

#[test]
fn a_hand_off_without_a_bandwidth_is_said_to_be_free() {
    let sandbox = Sandbox::new();
    let notes = |arguments: &[&str]| {
        let staged = ["replay", "t.jsonl", "--prefill-workers", "1", "--decode-workers", "1"];
        let outcome = sandbox.run(&[&staged[..], arguments].concat());
        let notes = outcome.stderr.clone();
        outcome.success();
        notes
    };
    let free = "the hand-off of KV from prefill to decode workers takes no time";
    assert_eq!(notes(&[]).matches(free).count(), 1);
    assert_eq!(notes(&["--kv-bytes-per-token", "131072"]).matches(free).count(), 1);
    assert_eq!(notes(&["--vary", "seed=1,2"]).matches(free).count(), 1);
    assert_eq!(notes(&["--kv-bytes-per-token", "131072", "--kv-transfer-bandwidth", "25"]), "");
    assert_eq!(notes(&["--kv-transfer-bandwidth", "0"]), "", "who says 0 knows it");
    let aggregated = sandbox.run(&["replay", "t.jsonl", "--workers", "2"]);
    assert_eq!(aggregated.stderr, "");
    // The report says so too.
    let pools = ["t.jsonl", "--prefill-workers", "1", "--decode-workers", "1", "--quiet"];
    let report = sandbox.report(&pools);
    assert!(report["notes"][0].as_str().unwrap().starts_with(free), "{report}");
    assert_eq!(sandbox.report(&["t.jsonl", "--workers", "2"])["notes"], serde_json::Value::Null);
}

/// vLLM puts groups together while it plans them, which nobody does where they are given.
#[test]
fn groups_that_are_given_are_not_put_together() {
    let settings = r#"{"kv_groups": [{"type": "full"}, {"type": "sliding_window", "sliding_window": 8}],
                       "disable_hybrid_kv_cache_manager": true}"#;
    let outcome = Sandbox::new().run(&["replay", "t.jsonl", "--engine-args", settings]);
    let message = "`disable_hybrid_kv_cache_manager` is for groups of layers that follow from the model, but `kv_groups` says";
    assert!(outcome.stderr.contains(message), "{outcome:?}");
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}
