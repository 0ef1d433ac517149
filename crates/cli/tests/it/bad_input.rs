//! Everything that users can get wrong: refused with exit code 2 and a message that helps.

use std::io::Write;

use crate::sandbox::Sandbox;

/// A row with one field changed or added; the later of two equal keys is left out by the caller.
fn row(fields: &str) -> String {
    let mut row = String::from("{");
    for (key, value) in
        [("timestamp", "0"), ("input_length", "1024"), ("output_length", "10"), ("hash_ids", "[1, 2]")]
    {
        if !fields.contains(&format!("\"{key}\"")) {
            row.extend(["\"", key, "\": ", value, ", "]);
        }
    }
    row + fields + "}\n"
}

#[test]
fn rows_are_refused_by_line_field_and_value() {
    let sandbox = Sandbox::new();
    for (fields, words) in [
        // Wrong types.
        (r#""timestamp": "x""#, &["line 2: `timestamp` is the string \"x\"", "milliseconds"][..]),
        (r#""input_length": "10""#, &["line 2: `input_length` is the string \"10\""]),
        (r#""input_length": 10.5"#, &["line 2: `input_length` is the number 10.5", "whole number"]),
        (r#""output_length": [1]"#, &["line 2: `output_length` is the list"]),
        (r#""hash_ids": 7"#, &["line 2: `hash_ids` is the number 7"]),
        (r#""hash_ids": ["a", 1]"#, &["line 2: `hash_ids[0]` is the string \"a\""]),
        (r#""session_id": {"a": 1}"#, &["line 2: `session_id` is the object"]),
        // Missing fields.
        (r#""hash_ids": null"#, &["line 2: `hash_ids` is missing or null"]),
        (r#""output_length": null"#, &["line 2: `output_length` is missing or null"]),
        (r#""timestamp": null"#, &["line 2: `timestamp` is missing", "--replay-concurrency"]),
        // Negative, NaN and huge numbers.
        (r#""input_length": -5"#, &["line 2: `input_length` is the number -5"]),
        (r#""output_length": -5"#, &["line 2: `output_length` is the number -5"]),
        (r#""hash_ids": [1, -2]"#, &["line 2: `hash_ids[1]` is the number -2"]),
        (r#""timestamp": NaN"#, &["line 2", "`timestamp` is NaN"]),
        (r#""timestamp": -Infinity"#, &["line 2", "`timestamp` is -Infinity"]),
        (r#""timestamp": 1e308"#, &["line 2: `timestamp` is the number 1e308"]),
        (r#""input_length": 1000000000000"#, &["line 2: `input_length` is the number 1000000000000"]),
        (
            r#""input_length": 1180591620717411303424"#,
            &["line 2: `input_length` is the number 1180591620717411303424"],
        ),
        (r#""output_length": 1000000"#, &["line 2: `output_length` is the number 1000000"]),
        (
            r#""hash_ids": [1, 36893488147419103232]"#,
            &["line 2: `hash_ids[1]` is the number 36893488147419103232"],
        ),
        // Zero lengths.
        (r#""input_length": 0"#, &["line 2: `input_length` is the number 0", "from 1"]),
        (r#""output_length": 0"#, &["line 2: `output_length` is the number 0", "from 1"]),
        (r#""hash_ids": []"#, &["line 2: `input_length` is 1024, but 0 `hash_ids`"]),
        // Keys twice, under two names, and misspelt.
        (r#""timestamp": 1, "created_time": 1"#, &["line 2: `timestamp` and `created_time` mean the same"]),
        (
            r#""input_length": 1024, "input_tokens": 1024"#,
            &["line 2: `input_length` and `input_tokens` mean the same"],
        ),
        (r#""timestamp": 1, "timestamp": 2"#, &["line 2: `timestamp` is given twice"]),
        (r#""outputlength": 3"#, &["line 2: `outputlength`", "did you mean `output_length`?"]),
        // Turns and blocks.
        (r#""session_id": "a", "delay": 10"#, &["line 2: `delay` is 10 on the first turn of session `a`"]),
        (r#""delay": 10"#, &["line 2: `delay` is 10 on the first turn"]),
        (r#""delay": -1"#, &["line 2: `delay` is the number -1"]),
        (
            r#""hash_ids": [1]"#,
            &[
                "line 2: `input_length` is 1024, but 1 `hash_ids` of 512 tokens cover only 512",
                "--trace-block-size",
            ],
        ),
    ] {
        sandbox.write("bad.jsonl", row("\"priority\": 0") + &row(fields));
        let words: Vec<&str> = std::iter::once("bad.jsonl: ").chain(words.iter().copied()).collect();
        sandbox.run(&["replay", "bad.jsonl"]).is_refused(&words);
    }
}

#[test]
fn what_is_no_trace_is_refused() {
    let sandbox = Sandbox::new();
    let refused = |name: &str, content: &[u8], words: &[&str]| {
        sandbox.write(name, content);
        sandbox.run(&["replay", name]).is_refused(words);
    };
    refused("empty.jsonl", b"", &["empty.jsonl: the trace has no rows"]);
    refused("blank.jsonl", b"\n \r\n\n", &["blank.jsonl: the trace has no rows"]);
    refused("text.jsonl", b"hello\n", &["text.jsonl: line 1", "found `hello`"]);
    refused("cut.jsonl", b"{\"timestamp\": 0, \"input_len", &["cut.jsonl: line 1", "ends within the row"]);
    refused("list.jsonl", b"[1]\n", &["list.jsonl: line 1", "must be one JSON object"]);
    refused("junk.jsonl", &[0x80, 0xff, 0x00, 0x12, 0x0a, 0xfe], &["junk.jsonl: line 1", "not UTF-8"]);
    refused("a.zip", b"PK\x03\x04rest", &["a.zip: line 1: this is a zip archive"]);
    refused("bad.gz", b"\x1f\x8b\x08\x00junk", &["bad.gz: line 1: cannot read"]);
    refused("bad.zst", b"\x28\xb5\x2f\xfdjunk", &["bad.zst: line 1: cannot read"]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(row("").repeat(50).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    refused("cut.gz", &packed[..packed.len() / 2], &["cut.gz: line ", "cannot read"]);
    sandbox
        .run(&["replay", "none.jsonl"])
        .is_refused(&["cannot read `none.jsonl`: No such file or directory", "the path is relative to"]);
    sandbox.run(&["replay", "."]).is_refused(&["cannot read `.`: it is a directory", "name a file in it"]);
    sandbox.run_with_input(&["replay", "-"], b"").is_refused(&["standard input: the trace has no rows"]);
}

#[test]
fn odd_but_sound_traces_are_replayed() {
    let sandbox = Sandbox::new();
    let unsorted = row("\"timestamp\": 30") + &row("\"timestamp\": -5") + &row("\"timestamp\": 2.5");
    sandbox.write("unsorted.jsonl", "\u{feff}".to_owned() + &unsorted.replace('\n', "\r\n\r\n"));
    let report = sandbox.report(&["unsorted.jsonl"]);
    assert_eq!(report["completed_requests"], 3);
}

/// Flags after the name of a sound trace, and what the message has.
const FLAGS: &[(&str, &[&str])] = &[
    ("--trace-block-size 0", &["`trace_block_size` is 0", "from --trace-block-size"]),
    ("--block-size 0", &["`block_size` is 0", "from --block-size"]),
    ("--block-size 1", &["`block_size` is 1", "at least 2 tokens", "from --block-size"]),
    ("--extra-engine-args {\"block_size\":0}", &["`block_size` is 0", "from --extra-engine-args"]),
    ("--extra-engine-args {\"block_size\":1}", &["`block_size` is 1", "from --extra-engine-args"]),
    ("--extra-engine-args {\"blok_size\":64}", &["unknown key `blok_size`, did you mean `block_size`?"]),
    ("--extra-engine-args {\"block_size\":\"64\"}", &["`block_size` is \"64\"", "whole number"]),
    ("--extra-engine-args {\"speedup_ratio\":0}", &["`speedup_ratio` is 0"]),
    ("--engine trtllm --extra-engine-args {\"dp_size\":2}", &["`dp_size` is 2", "not supported yet"]),
    ("--extra-engine-args {\"engine_type\":\"tgi\"}", &["`engine_type` is \"tgi\"", "`sglang`"]),
    (
        "--extra-engine-args {\"engine_type\":\"sglang\",\"sglang\":{\"pag_size\":1}}",
        &["unknown key `sglang.pag_size`, did you mean `sglang.page_size`? (from --extra-engine-args)"],
    ),
    (
        "--extra-engine-args {\"engine_type\":\"sglang\",\"sglang\":{\"page_size\":\"1\"}}",
        &["`sglang.page_size` is \"1\": expected a whole number"],
    ),
    ("--engine sglang --extra-engine-args {\"sglang\":1}", &["`sglang` is 1: expected an object"]),
    (
        "--engine sglang --extra-engine-args {\"sglang\":1} --page-size 1",
        &["`sglang` is 1: expected an object"],
    ),
    ("--extra-engine-args {\"worker_type\":\"prefill\"}", &["`worker_type` prefill"]),
    ("--extra-engine-args {\"block_size\":8,\"block_size\":16}", &["`block_size` is given twice"]),
    ("--extra-engine-args {", &["--extra-engine-args", "not valid JSON"]),
    ("--extra-engine-args []", &["--extra-engine-args", "expected a JSON object"]),
    ("--extra-engine-args @none.json", &["cannot read `none.json`"]),
    ("--extra-engine-args @t.jsonl", &["t.jsonl: not valid JSON"]),
    (
        "--extra-engine-args {\"block_size\":32} --block-size 16",
        &["`block_size` is 16, but `engine_args` has `block_size` 32"],
    ),
    (
        "--prefill-engine-args {\"block_size\":16} --decode-engine-args {\"block_size\":32}",
        &["`block_size` is 16 for prefill and 32 for decode"],
    ),
    (
        "--prefill-engine-args {\"worker_type\":\"decode\"} --decode-engine-args {}",
        &["the prefill engine has `worker_type` decode", "make it prefill"],
    ),
    (
        "--prefill-engine-args {} --decode-engine-args {\"worker_type\":\"aggregated\"}",
        &["the decode engine has `worker_type` aggregated"],
    ),
    (
        "--prefill-engine-args {} --decode-engine-args {\"blok_size\":1}",
        &["decode engine: unknown key `blok_size`", "from --decode-engine-args"],
    ),
    (
        "--prefill-engine-args {}",
        &["`prefill_engine_args` is given without `decode_engine_args`", "--decode-engine-args '{}'"],
    ),
    ("--decode-engine-args {}", &["`decode_engine_args` is given without `prefill_engine_args`"]),
    (
        "--extra-engine-args {} --prefill-engine-args {} --decode-engine-args {}",
        &["`engine_args` and `prefill_engine_args` cannot be combined"],
    ),
    (
        "--extra-engine-args {} --prefill-workers 2",
        &["`engine_args` and `num_prefill_workers` cannot be combined"],
    ),
    (
        "--num-workers 1 --prefill-engine-args {} --decode-engine-args {}",
        &["`num_workers` and `prefill_engine_args` cannot be combined", "--num-prefill-workers"],
    ),
    ("--num-workers 1 --decode-workers 2", &["`num_workers` and `num_decode_workers` cannot be combined"]),
    ("--num-workers 0", &["`num_workers` is 0", "at least 1 worker"]),
    ("--num-workers 100001", &["`num_workers` is 100001", "at most 100000"]),
    ("--num-workers -1", &["'-1'", "--num-workers"]),
    ("--num-workers two", &["'two'", "--num-workers"]),
    ("--prefill-workers 0 --decode-workers 1", &["`num_prefill_workers` is 0"]),
    (
        "--prefill-workers 2",
        &[
            "`num_prefill_workers` is given without `num_decode_workers`",
            "--num-decode-workers says how many",
        ],
    ),
    (
        "--decode-workers 2 --block-size 16",
        &["`num_decode_workers` is given without `num_prefill_workers`", "--num-workers makes an aggregated"],
    ),
    (
        "--prefill-engine-args {} --decode-engine-args {} --decode-workers 2",
        &["`num_decode_workers` is given without `num_prefill_workers`", "(from --decode-workers)"],
    ),
    ("--prefill-workers 1 --decode-workers 0", &["`num_decode_workers` is 0"]),
    ("--sla-ttft-ms", &["a value is required for '--sla-ttft-ms"]),
    (
        "--sla-ttft-ms 0",
        &["`sla_ttft_ms` must be a finite number of milliseconds above 0", "(from --sla-ttft-ms)"],
    ),
    ("--sla-itl-ms nan", &["'nan'", "--sla-tpot-ms", "finite"]),
    ("--sla-e2e-ms x", &["'x'", "--sla-e2e-ms"]),
    ("--arrival-speedup-ratio 0", &["`arrival_speedup_ratio` is 0"]),
    ("--arrival-speedup-ratio -1", &["`arrival_speedup_ratio` is -1"]),
    ("--arrival-speedup-ratio inf", &["'inf'", "--arrival-speedup-ratio"]),
    (
        "--arrival-speedup-ratio 2 --replay-concurrency 2",
        &["`arrival_speedup_ratio` is 2", "`replay_concurrency`"],
    ),
    ("--replay-concurrency 0", &["`replay_concurrency` is 0"]),
    ("--max-requests 0", &["`max_requests` is 0, but at least 1 request", "(from --max-requests)"]),
    ("--max-requests -1", &["'-1'", "--max-requests"]),
    ("--time-range 5", &["`time_range` is \"5\", but must be FROM..TO in seconds", "(from --time-range)"]),
    ("--time-range 5..5", &["`time_range` is \"5..5\""]),
    ("--time-range 1e6..", &["no session begins in `time_range`"]),
    ("--warmup 5x", &["`warmup` is \"5x\", but must be a time, as 60s", "(from --warmup)"]),
    ("--warmup -3", &["`warmup` is \"-3\"", "or a number of requests, as 100"]),
    ("--cooldown 1e99h", &["`cooldown` is \"1e99h\""]),
    ("--cooldown auto", &["`cooldown` is `auto`", "--warmup may be auto"]),
    ("--sample 0", &["`sample` is 0, but must be above 0 and at most 1"]),
    ("--sample 1.5", &["`sample` is 1.5"]),
    ("--repeat 0", &["`repeat` is 0, but a load is sent at least once"]),
    ("--repeat 100000000", &["`repeat` makes 400000000 requests, but there may be 10000000 at most"]),
    ("--request-rate 0", &["`request_rate` is 0, but must be above 0"]),
    ("--request-rate 1 --rate-profile x", &["`request_rate` and `rate_profile` cannot be combined"]),
    ("--request-rate 1 --burstiness 0", &["`burstiness` is 0, but must be above 0"]),
    (
        "--burstiness 1",
        &["`burstiness` is for arrivals by a rate", "--request-rate R or --rate-profile FILE"],
    ),
    ("--request-rate 1 --replay-concurrency 2", &["`request_rate` says when", "`replay_concurrency` makes"]),
    ("--rate-profile missing.toml", &["cannot read `missing.toml`"]),
    ("--merge missing.jsonl", &["cannot read `missing.jsonl`"]),
    ("--input-tokens 5", &["`trace_file` and `input_tokens` cannot be combined"]),
    ("--arrival-interval-ms 1", &["`trace_file` and `arrival_interval_ms` cannot be combined"]),
    ("--router-mode best", &["'best'", "least_loaded"]),
    ("--replay-mode live", &["'live'", "offline, online"]),
    ("--replay-mode online --speed 0", &["`speed` is 0, but must be above 0", "(from --speed)"]),
    ("--replay-mode online --speed -2", &["`speed` is -2, but must be above 0"]),
    ("--replay-mode online --speed nan", &["'nan'", "--speed"]),
    ("--replay-mode online --speed 1e9", &["`speed` is 1000000000", "at most 1000000"]),
    ("--speed 2", &["`speed` is for an online replay", "--replay-mode online"]),
    ("--log-arrivals x.jsonl", &["`log_arrivals` is for an online replay"]),
    ("--replay-mode online --log-arrivals t.jsonl", &["`log_arrivals` and `trace_file` are the same file"]),
    ("--replay-mode online --vary num_workers=1,2", &["`replay_mode` is online, but --vary has several"]),
    ("--engine tgi", &["'tgi'", "vllm, sglang, trtllm"]),
    ("--page-size 64", &["`page_size` is a setting of SGLang, but the engine is vllm", "--engine sglang"]),
    (
        "--engine trtllm --schedule-policy lpm",
        &["`schedule_policy` is a setting of SGLang", "engine is trtllm"],
    ),
    ("--engine sglang --page-size 0", &["`sglang.page_size` is 0: expected at least 1 (from --page-size)"]),
    ("--engine sglang --block-size 0", &["`block_size` is 0: a block holds at least 1 token"]),
    ("--engine sglang --schedule-policy best", &["'best'", "dfs-weight"]),
    ("--engine sglang --schedule-conservativeness -1", &["`sglang.schedule_conservativeness` is -1"]),
    ("--engine sglang --chunked-prefill-size 0", &["`sglang.chunked_prefill_size` is 0", "or -1"]),
    (
        "--engine sglang --page-size 64 --chunked-prefill-size 100",
        &[
            "`sglang.chunked_prefill_size` is 100",
            "multiple of the page size, 64",
            "from --chunked-prefill-size",
        ],
    ),
    (
        "--engine sglang --schedule-policy lpm --enable-priority-scheduling",
        &["`sglang.enable_priority_scheduling` needs `sglang.schedule_policy` `fcfs` or `lof`"],
    ),
    (
        "--engine sglang --page-size 64 --max-total-tokens 10",
        &["`sglang.max_total_tokens` is 10", "at least a page, 64 tokens", "from --max-total-tokens"],
    ),
    (
        "--engine sglang --enable-mixed-chunk --chunked-prefill-size -1",
        &["`sglang.enable_mixed_chunk` needs `sglang.chunked_prefill_size` above 0"],
    ),
    (
        "--engine sglang --page-size 64 --block-size 32",
        &["`sglang.page_size` is 64 and `block_size` is 32", "`block_size` from --block-size"],
    ),
    (
        "--engine sglang --max-running-requests 8 --max-num-seqs 256",
        &["`sglang.max_running_requests` is 8 and `max_num_seqs` is 256"],
    ),
    (
        "--engine sglang --disable-radix-cache --enable-prefix-caching",
        &["`sglang.disable_radix_cache` is true and `enable_prefix_caching` is true"],
    ),
    (
        "--engine sglang --max-total-tokens 64 --num-gpu-blocks 64",
        &["`sglang.max_total_tokens` is 64 and `num_gpu_blocks` is 64"],
    ),
    ("--engine sglang --async-scheduling", &["`async_scheduling` is a setting of vLLM", "overlap_schedule"]),
    (
        "--engine sglang --max-num-batched-tokens 512",
        &["`max_num_batched_tokens` is a setting of vLLM", "`sglang.chunked_prefill_size`"],
    ),
    (
        "--engine vllm --engine-preset sglang-0.5",
        &["`engine_preset` has the defaults of sglang, but the engine is vllm", "from --engine-preset"],
    ),
    ("--engine sglang --engine-preset vllm-0.33", &["`engine_preset` has the defaults of vllm"]),
    ("--planner-config x", &["no option `--planner-config`: not there yet"]),
    ("--aic-backend", &["no option `--aic-backend`: not there yet", "--latency"]),
    ("--aic-tp-size=2", &["no option `--aic-tp-size`: not there yet"]),
    ("--engine-preset vllm-9", &["`engine_preset` is `vllm-9`", "`vllm-0.33`"]),
    ("--latency cubic", &["`latency` is `cubic`", "polynomial", "from --latency"]),
    ("--latency linear:1,2", &["`latency` is `linear:1,2`", "three numbers"]),
    ("--latency grid:none.npz", &["cannot read `none.npz`"]),
    ("--latency grid:t.jsonl", &["t.jsonl: not a readable .npz archive"]),
    ("--kv-transfer-bandwidth -1", &["`kv_transfer_bandwidth` is -1"]),
    ("--kv-transfer-sharing fair", &["fair", "dedicated", "shared"]),
    (
        "--prefill-workers 1 --decode-workers 1 --kv-transfer-sharing shared",
        &["`kv_transfer_sharing` is shared", "take no time", "from --kv-transfer-sharing"],
    ),
    ("--workrs 2", &["no option `--workrs`, did you mean `--workers`?"]),
    ("second.jsonl", &["'second.jsonl'"]),
];

#[test]
fn flags_are_refused_with_their_values() {
    let sandbox = Sandbox::new();
    for (arguments, words) in FLAGS {
        let arguments: Vec<&str> = ["replay", "t.jsonl"].into_iter().chain(split(arguments)).collect();
        sandbox.run(&arguments).is_refused(words);
    }
}

#[test]
fn half_a_workload_is_refused() {
    let sandbox = Sandbox::new();
    let whole = "--input-tokens 5 --output-tokens 5 --request-count 5";
    for (arguments, words) in [
        (
            "--input-tokens 5",
            &[
                "`input_tokens` asks for a synthetic workload, but --output-tokens, --request-count are missing",
            ][..],
        ),
        ("--output-tokens 5 --request-count 5", &["but --input-tokens is missing"]),
        ("--arrival-interval-ms 5", &["`arrival_interval_ms` asks for a synthetic workload"]),
        (
            "--trace-block-size 5",
            &["`trace_block_size` has no effect on the built-in sample", "name a TRACE"],
        ),
        (
            &format!("{whole} --shared-prefix-ratio 2"),
            &["`shared_prefix_ratio` is 2", "from --shared-prefix-ratio"],
        ),
        (&format!("{whole} --shared-prefix-ratio 0.5"), &["`num_prefix_groups` is 0"]),
        (&format!("{whole} --turns-per-session 0"), &["`turns_per_session` is 0"]),
        (&format!("{whole} --arrival-interval-ms -1"), &["`arrival_interval_ms` is -1"]),
        (&format!("{whole} --inter-turn-delay-ms -1"), &["`inter_turn_delay_ms` is -1"]),
        (&format!("{whole} --length-spread 1"), &["`length_spread` is 1"]),
        (&format!("{whole} --trace-block-size 0"), &["`trace_block_size` is 0"]),
        ("--input-tokens 0 --output-tokens 5 --request-count 5", &["`input_tokens` is 0"]),
        ("--input-tokens 5 --output-tokens 0 --request-count 5", &["`output_tokens` is 0"]),
        ("--input-tokens 5 --output-tokens 5 --request-count 0", &["`request_count` is 0"]),
    ] {
        let arguments: Vec<&str> = std::iter::once("replay").chain(split(arguments)).collect();
        sandbox.run(&arguments).is_refused(words);
    }
}

fn split(arguments: &str) -> impl Iterator<Item = &str> {
    arguments.split(' ')
}

#[test]
fn engines_of_a_hand_off_have_the_role_of_their_own_side() {
    let sandbox = Sandbox::new();
    let pools = ["replay", "t.jsonl", "--prefill-workers", "1", "--decode-workers", "1"];
    let roles = |prefill: &str, decode: &str| {
        let [prefill, decode] = [prefill, decode].map(|role| format!(r#"{{"kv_role": "{role}"}}"#));
        sandbox.run(
            &[&pools[..], &["--prefill-engine-args", &prefill, "--decode-engine-args", &decode]].concat(),
        )
    };
    roles("kv_producer", "kv_consumer").success();
    roles("kv_consumer", "kv_consumer")
        .is_refused(&["the prefill engine has `kv_role` kv_consumer", "make it kv_producer"]);
    roles("kv_producer", "kv_producer")
        .is_refused(&["the decode engine has `kv_role` kv_producer", "make it kv_consumer"]);
}

#[test]
fn a_hand_off_without_end_is_the_fault_of_the_bandwidth() {
    let sandbox = Sandbox::new();
    let pools = ["replay", "t.jsonl", "--prefill-workers", "1", "--decode-workers", "1"];
    let transfer = ["--kv-bytes-per-token", "131072", "--kv-transfer-bandwidth", "1e-300"];
    let outcome = sandbox.run(&[&pools[..], &transfer[..]].concat());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let words = "`kv_transfer_bandwidth` 1e-300 GB/s with `kv_bytes_per_token` 131072";
    assert!(outcome.stderr.contains(words) && !outcome.stderr.contains("latency model"), "{outcome:?}");
}
