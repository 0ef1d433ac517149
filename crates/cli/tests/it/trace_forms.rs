//! What a trace may say otherwise than rows of whole prompts in milliseconds, and what becomes of it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Rows of requests, sorted by line, and what the run says on standard error.
fn rows(sandbox: &Sandbox, arguments: &[&str]) -> (Vec<Value>, String) {
    let fixed = ["replay", "--requests-jsonl", "rows.jsonl", "--format", "json", "--check"];
    let outcome = sandbox.run(&[&fixed, arguments].concat());
    let notes = outcome.stderr.clone();
    outcome.success();
    let text = sandbox.read("rows.jsonl");
    let mut rows: Vec<Value> = text.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    rows.sort_by_key(|row| row["line"].as_u64());
    (rows, notes)
}

fn column(rows: &[Value], key: &str) -> Vec<f64> {
    rows.iter().map(|row| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"))).collect()
}

fn list(ids: impl IntoIterator<Item = u64>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    format!("[{}]", ids.join(", "))
}

/// Tokens of prompts that were in the cache.
fn reused(sandbox: &Sandbox, arguments: &[&str]) -> u64 {
    rows(sandbox, arguments).0.iter().map(|row| row["reused_tokens"].as_u64().unwrap()).sum()
}

#[test]
fn generated_tokens_with_ids_are_hit_but_for_the_last_one() {
    let sandbox = Sandbox::new();
    let row = |time: u64, input: String, output: String, tokens: u64| {
        format!(
            "{{\"arrival_time_ns\": {time}, \"output_toks\": {tokens}, \"input_tok_ids\": {input}, \"output_tok_ids\": \
             {output}}}\n"
        )
    };
    let first = row(0, list(1000..1064), list(5000..5064), 64);
    let content = (1000..1064).chain(5000..5064).chain(9000..9032);
    let second = row(10_000_000_000, list(content), list(6000..6008), 8);
    sandbox.write("t.jsonl", first + &second);
    // 64 tokens of prompt and 63 generated ones have KV: 7 blocks of 16.
    assert_eq!(reused(&sandbox, &["t.jsonl", "--engine-preset", "vllm-0.33"]), 112);
    assert_eq!(reused(&sandbox, &["t.jsonl", "--engine-preset", "sglang-0.5", "--page-size", "16"]), 112);
    assert_eq!(reused(&sandbox, &["t.jsonl", "--engine", "trtllm", "--block-size", "16"]), 112);
    // The prompt worker has only the prompt; the worker that generated the reply does not prefill.
    let split = ["--prefill-workers", "1", "--decode-workers", "1", "--block-size", "16"];
    assert_eq!(reused(&sandbox, &[&["t.jsonl"], &split[..]].concat()), 64);
}

#[test]
fn a_reply_is_hit_by_the_turn_whose_ids_cover_it() {
    let sandbox = Sandbox::new();
    let first = r#"{"session_id": "a", "timestamp": 0, "input_length": 128, "output_length": 128, "hash_ids": [1, 2]}"#;
    let second = r#"{"session_id": "a", "delay": 1000, "input_length": 320, "output_length": 4, "hash_ids": [1, 2, 3, 4, 5]}"#;
    sandbox.write("t.jsonl", format!("{first}\n{second}\n"));
    let arguments = ["t.jsonl", "--trace-block-size", "64", "--block-size", "64"];
    for engine in [["--engine-preset", "vllm-0.33"], ["--engine", "trtllm"], ["--router-mode", "kv_router"]] {
        assert_eq!(reused(&sandbox, &[&arguments[..], &engine].concat()), 192, "{engine:?}");
    }
    let sglang = ["t.jsonl", "--trace-block-size", "64", "--engine", "sglang", "--page-size", "64"];
    assert_eq!(reused(&sandbox, &sglang), 192);
    let stats = sandbox.run(&["trace", "stats", "t.jsonl", "--trace-block-size", "64", "--format", "json"]);
    let stats: Value = serde_json::from_str(&stats.success()).unwrap();
    assert_eq!(stats["reusable_blocks"], 3);
}

#[test]
fn ids_of_another_number_than_generated_tokens_are_noted() {
    let sandbox = Sandbox::new();
    let row = r#"{"arrival_time_ns": 0, "output_toks": 3, "input_tok_ids": [1], "output_tok_ids": [5, 6]}"#;
    sandbox.write("t.jsonl", row);
    let (_, notes) = rows(&sandbox, &["t.jsonl"]);
    assert!(notes.contains("note: 1 row has ids of generated tokens for another length"), "{notes}");
    assert!(notes.contains("(line 1)"), "{notes}");
    assert_eq!(sandbox.report(&["t.jsonl"])["trace_notes"], serde_json::json!({"other_output_ids": 1}));
}

#[test]
fn times_are_in_the_unit_that_is_given() {
    let sandbox = Sandbox::new();
    let mut text = String::new();
    for (time, tokens, output, ids) in
        [("0.0", 10, 5, "[0]"), ("0.2", 20, 8, "[0, 1]"), ("0.4", 15, 6, "[2]")]
    {
        let _ = writeln!(
            text,
            "{{\"timestamp\": {time}, \"input_length\": {tokens}, \"output_length\": {output}, \"hash_ids\": {ids}}}"
        );
    }
    sandbox.write("t.jsonl", &text);
    let (seconds, notes) = rows(&sandbox, &["t.jsonl", "--time-unit", "s"]);
    assert_eq!(column(&seconds, "arrival_ms"), [0.0, 200.0, 400.0]);
    assert_eq!(notes, "note: 1 row has more `hash_ids` than the prompt needs\n");
    let (milliseconds, notes) = rows(&sandbox, &["t.jsonl"]);
    assert_eq!(column(&milliseconds, "arrival_ms"), [0.0, 0.2, 0.4]);
    assert!(notes.contains("make 5000 requests a second: --time-unit s"), "{notes}");

    sandbox.write("config.toml", "time_unit = \"s\"\nturns = \"whole\"\n");
    let (configured, _) = rows(&sandbox, &["t.jsonl", "--config", "config.toml"]);
    assert_eq!(configured, seconds);
    let stats = sandbox.run(&["trace", "stats", "t.jsonl", "--time-unit", "s", "--format", "json"]).success();
    assert!(stats.contains("\"span_ms\": 400.0"), "{stats}");
    let runs = sandbox.run(&["replay", "t.jsonl", "--vary", "time_unit=s,ms", "--format", "json"]).success();
    let runs: Value = serde_json::from_str(&runs).unwrap();
    let spans = [0, 1].map(|run: usize| runs["runs"][run]["report"]["duration_ms"].as_f64().unwrap() > 400.0);
    assert_eq!(spans, [true, false]);
}

#[test]
fn seconds_since_1970_and_rows_of_chats_are_recognised() {
    let sandbox = Sandbox::new();
    let row = |time: &str| {
        format!("{{\"timestamp\": {time}, \"input_length\": 100, \"output_length\": 5, \"hash_ids\": [1]}}\n")
    };
    sandbox.write("epoch.jsonl", row("1767225600.25") + &row("1767225660.75"));
    for unit in [&[][..], &["--time-unit", "s"]] {
        let (rows, notes) = rows(&sandbox, &[&["epoch.jsonl"], unit].concat());
        assert_eq!(column(&rows, "arrival_ms"), [0.0, 60_500.0]);
        assert_eq!(notes.contains("are seconds since 1970"), unit.is_empty(), "{notes}");
    }

    let mut text = String::new();
    for request in 0..50_u64 {
        let ids = list(request * 125..request * 125 + 125);
        let time = 0.114 + request as f64;
        let _ = writeln!(
            text,
            "{{\"chat_id\": {request}, \"parent_chat_id\": -1, \"timestamp\": {time}, \"input_length\": 2000, \
             \"output_length\": 50, \"type\": \"text\", \"turn\": 1, \"hash_ids\": {ids}}}"
        );
    }
    sandbox.write("chats.jsonl", text);
    for block_size in [&[][..], &["--trace-block-size", "16"]] {
        let arguments = [&["chats.jsonl", "--output-dir", "run", "--overwrite"], block_size].concat();
        let report = sandbox.report(&arguments);
        let ttft = report["mean_ttft_ms"].as_f64().unwrap();
        assert!((ttft - 48.552).abs() < 0.001, "{ttft}");
        assert!(sandbox.read("run/config.toml").contains("trace_block_size = 16\n"));
    }
    let again = sandbox.report(&["--config", "run/config.toml"]);
    assert!((again["mean_ttft_ms"].as_f64().unwrap() - 48.552).abs() < 0.001);
}

#[test]
fn turns_that_hold_what_is_new_are_whole_on_demand() {
    let sandbox = Sandbox::new();
    let first = r#"{"session_id":"a","timestamp":0,"input_length":4190,"output_length":592,"hash_ids":[1,2,3,4,5,6,7,8,9]}"#;
    let second =
        r#"{"session_id":"a","delay":1000,"input_length":592,"output_length":16,"hash_ids":[10,11]}"#;
    sandbox.write("t.jsonl", format!("{first}\n{second}\n"));
    let (whole, notes) = rows(&sandbox, &["t.jsonl"]);
    assert_eq!(column(&whole, "input_length"), [4190.0, 592.0]);
    assert!(
        notes.contains("note: 1 row has nothing in common with the turn before it: --turns delta"),
        "{notes}"
    );
    let (delta, notes) = rows(&sandbox, &["t.jsonl", "--turns", "delta"]);
    assert_eq!(column(&delta, "input_length"), [4190.0, 5374.0]);
    assert_eq!(notes, "");
    // 4,190 + 591 tokens have KV: 74 blocks of 64.
    assert_eq!(reused(&sandbox, &["t.jsonl", "--turns", "delta"]), 4736);
    sandbox.write("config.toml", "turns = \"delta\"\n");
    assert_eq!(rows(&sandbox, &["t.jsonl", "--config", "config.toml"]).0, delta);
    let stats = sandbox.run(&["trace", "stats", "t.jsonl", "--turns", "delta", "--format", "json"]).success();
    assert!(stats.contains("\"max\": 5374"), "{stats}");
}

#[test]
fn turns_go_by_their_timestamps() {
    let sandbox = Sandbox::new();
    let row = |session: &str, time: u64, tokens: u64, id: u64| {
        format!(
            "{{\"session_id\": \"{session}\", \"timestamp\": {time}, \"input_length\": {tokens}, \"output_length\": 5, \
             \"hash_ids\": [{id}]}}\n"
        )
    };
    sandbox
        .write("t.jsonl", [row("a", 5000, 100, 1), row("a", 1000, 200, 1), row("b", 3000, 100, 7)].concat());
    let (rows, notes) = rows(&sandbox, &["t.jsonl"]);
    assert_eq!(column(&rows, "arrival_ms"), [4000.0, 0.0, 2000.0]);
    assert_eq!(column(&rows, "input_length"), [100.0, 200.0, 100.0]);
    assert_eq!(
        notes,
        "note: 1 row has a timestamp before that of an earlier row of its session: turns go by their timestamps (line 2)\n"
    );
}

#[test]
fn the_order_of_lines_does_not_matter() {
    let sandbox = Sandbox::new();
    // Large ids are numbered in the order in which they turn up.
    let family = |request: u64| (1 << 40) + (request * request % 7) * 977_777;
    let mut lines: Vec<String> = (0..60)
        .map(|request| {
            let ids = list([family(request), family(request) + 5, (1 << 50) + request, request]);
            format!(
                "{{\"timestamp\": {}, \"input_length\": {}, \"output_length\": {}, \"hash_ids\": {ids}}}",
                request * 7,
                450 + request,
                1 + request % 13
            )
        })
        .collect();
    sandbox.write("t.jsonl", lines.join("\n"));
    lines.sort_by_key(|line| {
        line.bytes().map(u64::from).rev().fold(0, |hash, byte| (hash * 31 + byte) % 1009)
    });
    sandbox.write("shuffled.jsonl", lines.join("\n"));
    let run = |trace: &str, arguments: &[&str]| {
        let (mut rows, _) = rows(&sandbox, &[&[trace, "--trace-block-size", "128"], arguments].concat());
        for row in &mut rows {
            row.as_object_mut().unwrap().remove("line");
            row.as_object_mut().unwrap().remove("session");
        }
        rows.sort_by_key(|row| row["arrival_ms"].as_f64().unwrap() as u64);
        rows
    };
    let modes = ["round_robin", "random", "least_loaded", "power_of_two", "prefix_hash", "kv_router"];
    for mode in modes {
        for engine in ["vllm", "sglang", "trtllm"] {
            let arguments =
                ["--router-mode", mode, "--engine", engine, "--workers", "4", "--num-gpu-blocks", "60"];
            let arguments = [&arguments[..], &["--block-size", "16"]].concat();
            assert_eq!(run("t.jsonl", &arguments), run("shuffled.jsonl", &arguments), "{mode} {engine}");
        }
    }
}

#[test]
fn a_line_without_an_end_is_refused_packed_or_not() {
    let sandbox = Sandbox::new();
    // 300 MiB of the same byte, in a few kilobytes.
    let long = || io::repeat(b'7').take(300 << 20);
    sandbox.write("bomb.zst", zstd::encode_all(long(), 1).unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::copy(&mut long(), &mut gzip).unwrap();
    sandbox.write("bomb.gz", gzip.finish().unwrap());
    sandbox.run(&["replay", "--output-dir", "run", "t.jsonl"]).success();
    fs::create_dir(sandbox.path("recorded")).unwrap();
    sandbox
        .write("recorded/meta.json", "{\"vllm_version\": \"0.19\", \"kv_cache\": {\"num_gpu_blocks\": 9}}");
    fs::copy(sandbox.path("bomb.zst"), sandbox.path("recorded/requests.jsonl")).unwrap();
    sandbox.write("recorded/workload.jsonl", "");
    let refused = |arguments: &[&str], name: &str| {
        sandbox.run(arguments).is_refused(&[name, "line 1 has more than 256 MiB"]);
    };
    refused(&["replay", "bomb.zst"], "bomb.zst");
    refused(&["replay", "bomb.gz"], "bomb.gz");
    refused(&["trace", "stats", "bomb.zst"], "bomb.zst");
    refused(&["calibrate", "bomb.zst"], "bomb.zst");
    refused(&["validate", "recorded"], "requests.jsonl");
    refused(
        &[
            "compare",
            "run/report.json",
            "run/report.json",
            "--requests",
            "bomb.zst",
            "--requests",
            "run/requests.jsonl",
        ],
        "bomb.zst",
    );
}

#[test]
fn how_a_trace_is_read_is_refused_where_there_is_none() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["replay", "--time-unit", "s"])
        .is_refused(&["`time_unit` says how a trace is read, but there is none"]);
    let synthetic = ["--input-tokens", "10", "--output-tokens", "2", "--request-count", "1"];
    let delta = [&["replay", "--turns", "delta"], &synthetic[..]].concat();
    sandbox.run(&delta).is_refused(&["`turns` says how a trace is read, but there is none"]);
    sandbox
        .run(&["replay", "t.jsonl", "--time-unit", "min"])
        .is_refused(&["[possible values: s, ms, us, ns]"]);
}

#[test]
fn texts_are_cut_by_the_tokenizer_of_a_model() {
    let sandbox = Sandbox::new();
    let tokenizer = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null, "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "hello": 1}, "unk_token": "[UNK]"}}"#;
    fs::create_dir(sandbox.path("model")).unwrap();
    sandbox.write("model/tokenizer.json", tokenizer);
    let talk = r#"[{"conversations": [{"from": "human", "value": "hello hello again"}, {"from": "gpt", "value": "hi"}]}]"#;
    sandbox.write("talk.json", talk);
    let load = |more: &[&str]| {
        let report = sandbox.report(&[&["talk.json", "--replay-concurrency", "1"], more].concat());
        (report["total_input_tokens"].as_u64().unwrap(), report["total_output_tokens"].as_u64().unwrap())
    };
    assert_eq!(load(&[]), (5, 1));
    // By a folder, by the file, and from a configuration file, which a folder of results repeats.
    for path in ["model", "model/tokenizer.json"] {
        assert_eq!(load(&["--tokenizer", path, "--output-dir", "out", "--overwrite"]), (3, 1), "{path}");
    }
    let again = sandbox.report(&["--config", "out/config.toml"]);
    assert_eq!(again["total_input_tokens"], 3);
    let stats =
        sandbox.run(&["trace", "stats", "talk.json", "--tokenizer", "model", "--format", "json"]).success();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["input_tokens"]["mean"], 3.0);
    let refused = |arguments: &[&str], words: &[&str]| {
        let closed = ["--replay-concurrency", "1"];
        sandbox.run(&[&["replay"], arguments, &closed].concat()).is_refused(words);
    };
    refused(&["talk.json", "--tokenizer", "none"], &["cannot read `none`"]);
    sandbox.write("bad.json", "{\"model\": 1}");
    refused(
        &["talk.json", "--tokenizer", "bad.json"],
        &["bad.json", "--tokenizer names the tokenizer.json of a model"],
    );
    sandbox.write(
        "ids.jsonl",
        "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 2, \"hash_ids\": [1]}\n",
    );
    refused(&["ids.jsonl", "--tokenizer", "model"], &["ids.jsonl: `tokenizer` cuts the texts of a trace"]);
    let stream = sandbox.run(&["replay", "ids.jsonl", "--tokenizer", "model", "--stream"]);
    stream.is_refused(&["ids.jsonl: `tokenizer` cuts the texts of a trace"]);
    refused(&["--tokenizer", "model"], &["tokenizer` says how a trace is read, but there is none"]);
    let over = ["talk.json", "--tokenizer", "model", "--report-json", "model/tokenizer.json"];
    refused(&over, &["`report_json` and `tokenizer` are the same file"]);
}
