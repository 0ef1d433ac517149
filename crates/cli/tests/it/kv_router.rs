//! The KV-aware router, from outside.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Three chats in turn over two workers: by turns, each chat would change workers all the time.
fn chats() -> String {
    let mut trace = String::new();
    for round in 0..6 {
        for chat in 0..3 {
            let blocks: Vec<String> = (0..=round).map(|block| (chat * 100 + block).to_string()).collect();
            let (at, tokens) = (round * 900 + chat * 300, blocks.len() * 512);
            let blocks = blocks.join(", ");
            let row = format!(r#""timestamp": {at}, "input_length": {tokens}, "hash_ids": [{blocks}]"#);
            trace.extend(["{", &row, ", \"output_length\": 4}\n"]);
        }
    }
    trace
}

const REQUESTS: usize = 18;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("chats.jsonl", chats());
    sandbox
}

fn rows(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    sandbox.read(name).lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

fn cost(candidate: &Value) -> f64 {
    candidate["cost"].as_f64().unwrap()
}

#[test]
fn prompts_go_where_their_prefix_is() {
    let sandbox = sandbox();
    let reuse = |arguments: &[&str]| {
        let report = sandbox.report(&[&["chats.jsonl", "--workers", "2"], arguments].concat());
        assert_eq!(report["completed_requests"], REQUESTS);
        report["prefix_cache_reused_ratio"].as_f64().unwrap()
    };
    let kv_router = reuse(&["--router-mode", "kv_router"]);
    assert!(kv_router > 0.7 && kv_router > 1.2 * reuse(&[]), "{kv_router}");
    // Nothing is known of caches while events are on their way.
    let late = reuse(&["--router-mode", "kv_router", "--kv-event-delay-ms", "1e6"]);
    assert!(late < kv_router, "{late}");
    let predicted = reuse(&["--router-mode", "kv_router", "--no-router-kv-events"]);
    assert!(predicted > late, "{predicted}");
}

#[test]
fn decisions_of_an_aggregated_pool_are_written() {
    let sandbox = sandbox();
    sandbox.report(&[
        "chats.jsonl",
        "--workers",
        "2",
        "--router-mode",
        "kv_router",
        "--routing-jsonl",
        "r.jsonl",
        "--requests-jsonl",
        "q.jsonl",
    ]);
    let (rows, requests) = (rows(&sandbox, "r.jsonl"), rows(&sandbox, "q.jsonl"));
    assert_eq!(rows.len(), REQUESTS);
    for (ordinal, (row, request)) in rows.iter().zip(&requests).enumerate() {
        assert_eq!((&row["pool"], &row["request"]), (&"aggregated".into(), &ordinal.into()));
        assert_eq!(row["worker"], request["stages"][0]["worker"]);
        assert_eq!(row["isl_tokens"], request["input_length"]);
        assert_eq!(row["required_blocks"].as_u64().unwrap() * 64, row["isl_tokens"].as_u64().unwrap());
        assert_eq!((&row["arrived_ms"], &row["queue_wait_ms"]), (&request["arrival_ms"], &0.0.into()));
        assert_eq!(row["at_ms"], row["arrived_ms"]);
        assert_eq!(
            row["settings"],
            serde_json::json!({
                "overlap_score_weight": 1.0,
                "router_temperature": 0.0,
                "assume_kv_reuse": true,
                "track_prefill_tokens": true,
            })
        );
        let candidates = row["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 2);
        let chosen = &candidates[row["worker"].as_u64().unwrap() as usize];
        assert!(candidates.iter().all(|candidate| cost(chosen) <= cost(candidate)), "{row}");
        assert_eq!(chosen["overlap_blocks"], row["overlap_blocks"]);
        for key in ["worker", "prefill_tokens", "prefill_blocks", "decode_blocks", "tree_size"] {
            assert!(chosen[key].is_number(), "{key}");
        }
    }
    assert!(rows.iter().any(|row| row["overlap_blocks"].as_u64().unwrap() > 0));
}

#[test]
fn decisions_of_a_disaggregated_deployment_come_in_pairs() {
    let sandbox = sandbox();
    let deployment = ["--prefill-workers", "2", "--decode-workers", "2", "--router-mode", "kv_router"];
    let report =
        sandbox.report(&[&["chats.jsonl", "--routing-jsonl", "r.jsonl.zst"], &deployment[..]].concat());
    assert_eq!(report["completed_requests"], REQUESTS);
    assert!(report["prefix_cache_reused_ratio"].as_f64().unwrap() > 0.7);
    let packed = fs::File::open(sandbox.path("r.jsonl.zst")).unwrap();
    let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
    let rows: Vec<Value> = text.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 2 * REQUESTS);
    for request in 0..REQUESTS {
        let own: Vec<&Value> = rows.iter().filter(|row| row["request"] == request).collect();
        assert_eq!((&own[0]["pool"], &own[1]["pool"]), (&"prefill".into(), &"decode".into()));
        assert_eq!(own[1]["settings"]["overlap_score_weight"], 0.0);
        assert!(own[0]["at_ms"].as_f64() < own[1]["at_ms"].as_f64());
    }
}

#[test]
fn equal_runs_give_equal_bytes() {
    let sandbox = sandbox();
    let run = |name: &str| {
        let arguments = ["replay", "chats.jsonl", "--workers", "3", "--router-temperature", "0.5"];
        let files = ["--router-mode", "kv_router", "--routing-jsonl", name, "--requests-jsonl", "q.jsonl"];
        sandbox.run(&[&arguments[..], &files].concat()).success();
        (sandbox.read(name), sandbox.read("q.jsonl"))
    };
    assert!(run("one") == run("other"));
}

#[test]
fn settings_reach_the_router_from_everywhere() {
    let temperature = |sandbox: &Sandbox, arguments: &[&str]| {
        let always = ["t.jsonl", "--workers", "2", "--routing-jsonl", "r.jsonl", "--config", "c.toml"];
        sandbox.report(&[&always, arguments].concat());
        rows(sandbox, "r.jsonl")[0]["settings"]["router_temperature"].as_f64().unwrap()
    };
    let with_file = |sandbox: Sandbox| {
        sandbox.write("c.toml", "router_mode = \"kv_router\"\n[router_config]\nrouter_temperature = 1\n");
        sandbox.write("router.json", r#"{"router_temperature": 4}"#);
        sandbox
    };
    let sandbox = with_file(Sandbox::new());
    assert!((temperature(&sandbox, &[]) - 1.0).abs() < 1e-12);
    let sandbox = with_file(Sandbox::new().with_variable("DYN_ROUTER_TEMPERATURE", "2"));
    assert!((temperature(&sandbox, &[]) - 2.0).abs() < 1e-12);
    let sandbox = with_file(sandbox.with_variable("SERVECAST_ROUTER_TEMPERATURE", "3"));
    assert!((temperature(&sandbox, &[]) - 3.0).abs() < 1e-12);
    assert!((temperature(&sandbox, &["--router-config", "@router.json"]) - 4.0).abs() < 1e-12);
    assert!((temperature(&sandbox, &["--router-temperature", "5"]) - 5.0).abs() < 1e-12);
}

#[test]
fn the_engine_may_set_the_queue_policy() {
    let sandbox = Sandbox::new();
    let run = |arguments: &[&str]| {
        sandbox.run(&[&["replay", "t.jsonl", "--router-mode", "kv_router"], arguments].concat())
    };
    let wspt = ["--engine-args", r#"{"router_queue_policy": "wspt"}"#];
    run(&wspt).success();
    run(&[&wspt[..], &["--router-queue-policy", "wspt"]].concat()).success();
    run(&[&wspt[..], &["--router-queue-policy", "fcfs"]].concat()).is_refused(&[
        "`router_queue_policy` is \"wspt\" in the settings of the engine, but \"fcfs\" in those of the router",
        "--router-queue-policy",
    ]);
    run(&["--engine-args", r#"{"router_queue_policy": "fifo"}"#])
        .is_refused(&["`router_queue_policy` is `fifo`: expected one of fcfs, lcfs, wspt"]);
    let staged = ["--prefill-engine-args", "{}", "--decode-engine-args", wspt[1]];
    let outcome = run(&staged);
    assert!(outcome.stderr.contains("a setting has no effect: `router_queue_policy` of the decode engine"));
    outcome.success();
    let outcome = sandbox.run(&[&["replay", "t.jsonl"], &wspt[..]].concat());
    assert!(outcome.stderr.contains("`router_queue_policy` needs --router-mode kv_router"), "{outcome:?}");
    outcome.success();
}

#[test]
fn the_queue_parks_requests_and_lets_them_go() {
    let sandbox = Sandbox::new();
    let lengths = ["--input-tokens", "4096", "--output-tokens", "2", "--request-count", "40"];
    let load = ["--arrival-interval-ms", "1", "--workers", "2", "--max-num-batched-tokens", "1024"];
    let router = ["--router-mode", "kv_router", "--routing-jsonl", "r.jsonl"];
    let waits = |policy: &[&str]| -> Vec<f64> {
        let report = sandbox.report(&[&lengths[..], &load, &router, policy].concat());
        assert_eq!(report["completed_requests"], 40);
        rows(&sandbox, "r.jsonl").iter().map(|row| row["queue_wait_ms"].as_f64().unwrap()).collect()
    };
    assert!(waits(&[]).iter().any(|&wait| wait > 0.0));
    assert!(waits(&["--router-queue-threshold", "none"]).iter().all(|&wait| wait <= 0.0));
    for policy in ["fcfs", "lcfs", "wspt"] {
        assert_eq!(waits(&["--router-queue-policy", policy]).len(), 40);
    }
}

#[test]
fn what_has_no_effect_in_a_replay_is_noted() {
    let sandbox = Sandbox::new();
    let run = |arguments: &[&str]| {
        let outcome =
            sandbox.run(&[&["replay", "t.jsonl", "--router-mode", "kv_router"], arguments].concat());
        let notes = outcome.stderr.clone();
        outcome.success();
        notes
    };
    assert_eq!(run(&["--no-router-replica-sync", "--router-event-threads", "4"]), "");
    assert_eq!(
        run(&["--router-replica-sync", "--router-config", r#"{"skip_initial_worker_wait": true}"#]),
        "note: a setting has no effect: `router_replica_sync` is for live routers (from --router-replica-sync)\n\
         note: a setting has no effect: `skip_initial_worker_wait` is for live routers (from --router-config)\n"
    );
    assert_eq!(run(&["--router-replica-sync", "--quiet"]), "");
    assert!(
        run(&["--no-kv-events", "--kv-event-delay-ms", "5"])
            .contains("`kv_event_delay_ms` needs `use_kv_events`")
    );
}

#[test]
fn bad_settings_are_refused_by_name() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.json", "{");
    for (arguments, words) in [
        (
            &["--router-config", r#"{"temperature": 1}"#][..],
            &["unknown router setting `temperature`, did you mean `router_temperature`?", "--router-config"]
                [..],
        ),
        (&["--router-config", r#"{"router_ttl_secs": "x"}"#], &["`router_ttl_secs` is \"x\"", "a number"]),
        (
            &["--router-config", r#"{"router_ttl_secs": 1, "router_ttl_secs": 1}"#],
            &["`router_ttl_secs` is given twice"],
        ),
        (&["--router-config", "[]"], &["--router-config", "expected a JSON object"]),
        (&["--router-config", "@bad.json"], &["bad.json: not valid JSON"]),
        (&["--router-config", "@none.json"], &["cannot read `none.json`"]),
        (&["--router-temperature", "hot"], &["`--router-temperature` is `hot`: expected a number"]),
        (
            &["--router-temperature", "-1"],
            &["`router_temperature` is -1", "at least 0", "(from --router-temperature)"],
        ),
        (&["--router-temperature", "nan"], &["`--router-temperature` is `nan`: expected a number"]),
        (&["--router-max-tree-size", "0"], &["`router_max_tree_size` is 0", "at least 1"]),
        (&["--router-prune-target-ratio", "1.5"], &["`router_prune_target_ratio` is 1.5", "from 0 to 1"]),
        (&["--router-kv-events=maybe"], &["`--router-kv-events` is `maybe`", "expected true"]),
        (&["--router-kv-events", "--no-router-kv-events"], &["cannot be used with"]),
        (&["--router-queue-policy", "fifo"], &["'fifo'", "fcfs, lcfs, wspt"]),
        (
            &["--router-prefill-load-model", "aic"],
            &["`router_prefill_load_model` aic is not there yet", "(from --router-prefill-load-model)"],
        ),
        (
            &["--router-track-output-blocks", "--no-router-track-active-blocks"],
            &["`router_track_output_blocks` is true, which needs `router_track_active_blocks`"],
        ),
        (
            &["--router-config", r#"{"router_temperature": 1}"#, "--router-temperature", "2"],
            &[
                "`--router-temperature` is 2.0, but `--router-config` has `router_temperature` 1: give it once",
            ],
        ),
        (&["--kv-event-delay-ms", "-1"], &["`kv_event_delay_ms` is -1", "from --kv-event-delay-ms"]),
        (&["--kv-event-delay-ms", "inf"], &["'inf'", "--kv-event-delay-ms"]),
        (&["--routing-jsonl", "t.jsonl"], &["`routing_jsonl` and `trace_file` are the same file"]),
    ] {
        let arguments = [&["replay", "t.jsonl", "--router-mode", "kv_router"], arguments].concat();
        sandbox.run(&arguments).is_refused(words);
    }
}

#[test]
fn sessions_stay_where_they_are() {
    let sandbox = Sandbox::new();
    let row = |chat: usize, round: usize| {
        let blocks: Vec<String> = (0..=round).map(|block| (chat * 100 + block).to_string()).collect();
        let start =
            if round == 0 { format!("\"timestamp\": {}", chat * 300) } else { "\"delay\": 600".to_owned() };
        format!(
            "{{\"session_id\": \"{chat}\", {start}, \"input_length\": {}, \"output_length\": 4, \"hash_ids\": [{}]}}\n",
            blocks.len() * 512,
            blocks.join(", ")
        )
    };
    let rows = (0..3).flat_map(|chat| (0..6).map(move |round| row(chat, round)));
    sandbox.write("sessions.jsonl", rows.collect::<String>());
    let reuse = |arguments: &[&str]| {
        let report = sandbox.report(&[&["sessions.jsonl", "--workers", "2"], arguments].concat());
        report["prefix_cache_reused_ratio"].as_f64().unwrap()
    };
    // Of the 1 + 2 + … + 6 blocks of a session, 1 + … + 5 were there before.
    let most = 15.0 / 21.0;
    let stays = reuse(&["--router-session-affinity-ttl-secs", "60"]);
    assert!((stays - most).abs() < 1e-9 && reuse(&[]) < 0.8 * most, "{stays}");
    let by_router = reuse(&["--router-mode", "kv_router", "--router-session-affinity-ttl-secs", "60"]);
    assert!((by_router - most).abs() < 1e-9, "{by_router}");
    for (arguments, words) in [
        (&["0.5"][..], &["`router_session_affinity_ttl_secs` is 0.5", "from 1 to 31536000"][..]),
        (&["1e9"], &["from 1 to 31536000", "(from --router-session-affinity-ttl-secs)"]),
        (&["nan"], &["nan"]),
        (&["60", "--stream"], &["`router_session_affinity_ttl_secs`", "needs sessions"]),
    ] {
        let flag = "--router-session-affinity-ttl-secs";
        sandbox.run(&[&["replay", "sessions.jsonl", flag], arguments].concat()).is_refused(words);
    }
}

#[test]
fn other_routers_have_none_of_these_settings() {
    let sandbox = Sandbox::new();
    for (arguments, key) in [
        (&["--router-config", "{}"][..], "`router_config`"),
        (&["--router-config", r#"{"router_ttl_secs": 1}"#], "`router_ttl_secs`"),
        (&["--no-kv-events"], "`use_kv_events`"),
        (&["--kv-event-delay-ms", "0"], "`kv_event_delay_ms`"),
        (&["--routing-jsonl", "r.jsonl"], "`routing_jsonl`"),
    ] {
        let needed = format!("{key} needs --router-mode kv_router (from --");
        sandbox.run(&[&["replay", "t.jsonl"], arguments].concat()).is_refused(&[&needed]);
    }
    let variable = |name, value| Sandbox::new().with_variable(name, value).run(&["replay", "t.jsonl"]);
    variable("SERVECAST_ROUTER_TTL_SECS", "1")
        .is_refused(&["`router_ttl_secs` needs --router-mode kv_router (from SERVECAST_ROUTER_TTL_SECS)"]);
    variable("DYN_ROUTER_TTL_SECS", "long").success();
    assert_eq!(sandbox.files(), ["t.jsonl"]);
}

#[test]
fn the_blocks_of_prefix_hash_are_for_that_mode_and_not_none() {
    let sandbox = Sandbox::new();
    let run = |arguments: &[&str]| sandbox.run(&[&["replay", "t.jsonl"], arguments].concat());
    run(&["--prefix-hash-blocks", "3"])
        .is_refused(&["`prefix_hash_blocks` needs --router-mode prefix_hash (from --prefix-hash-blocks)"]);
    run(&["--router-mode", "prefix_hash", "--prefix-hash-blocks", "0"])
        .is_refused(&["`prefix_hash_blocks` is 0, but a prompt is sent by at least 1 of its blocks"]);
    run(&["--router-mode", "prefix_hash", "--prefix-hash-blocks", "1"]).success();
}
