//! Help, completions and schemas.

use serde_json::Value;

use crate::sandbox::Sandbox;

#[test]
fn every_command_explains_itself() {
    let sandbox = Sandbox::new();
    for command in [
        &[][..],
        &["replay"],
        &["compare"],
        &["trace"],
        &["trace", "stats"],
        &["trace", "generate"],
        &["schema"],
        &["completions"],
    ] {
        for flag in ["-h", "--help"] {
            let help = sandbox.run(&[command, &[flag]].concat()).success();
            assert!(help.contains("Usage: servecast"), "{command:?}");
        }
    }
    let version = sandbox.run(&["--version"]).success();
    assert_eq!(version, format!("servecast {}\n", env!("CARGO_PKG_VERSION")));
    sandbox.run(&["replai"]).is_refused(&["replay"]);
}

#[test]
fn help_names_defaults_and_hides_what_is_not_there() {
    let help = Sandbox::new().run(&["replay", "--help"]).success();
    for text in [
        "[default: 512]",
        "[default: round_robin]",
        "--workers",
        "Deployment:",
        "Goodput:",
        "[default: 16384]",
        "KV router:",
        "--router-temperature <NUMBER>",
        "[default: 0.0]",
        "--no-router-kv-events",
        "[alias: --kv-overlap-score-weight]",
    ] {
        assert!(help.contains(text), "{text}");
    }
    // Long lists are wrapped.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        "Several runs:",
        "--vary <KEY=VALUE,...>",
        "SGLang, in every pool that runs it:",
        "--page-size <TOKENS>",
        "[possible values: vllm, sglang, trtllm]",
        "[possible values: fcfs, lpm, lof, dfs-weight, random, hrrn, shortest-prefill-first, routing-key]",
        "[default: 16384]",
    ] {
        assert!(help.contains(text), "{text}");
    }
    for text in ["--aic", "--planner-config", "none, aic", "no effect", "--serve-indexer"] {
        assert!(!help.contains(text), "{text}");
    }
}

#[test]
fn completions_know_commands_and_flags() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.run(&["completions", shell]).success();
        assert!(
            ["router-mode", "generate", "chunked-prefill-size"].iter().all(|word| script.contains(word)),
            "{shell}"
        );
    }
    sandbox.run(&["completions", "dos"]).is_refused(&["bash", "zsh", "fish"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let sandbox = Sandbox::new();
    let replay = sandbox.run(&["man", "replay"]).success();
    for text in [
        ".TH servecast-replay 1",
        "servecast\\-replay \\- ",
        "\\fBservecast replay\\fR [OPTIONS] [TRACE]",
        ".SH \"KV ROUTER\"",
        "\\-\\-router\\-mode",
    ] {
        assert!(replay.contains(text), "{text}");
    }
    assert!(sandbox.run(&["man"]).success().contains("servecast\\-replay(1)"));
    assert!(sandbox.run(&["man", "trace", "stats"]).success().contains(".TH servecast-trace-stats 1"));
    sandbox.run(&["man", "replai"]).is_refused(&["`servecast`", "replai", "replay"]);
    sandbox.run(&["man", "trace", "zzzzzzzz"]).is_refused(&[
        "`servecast trace`",
        "zzzzzzzz",
        "stats",
        "generate",
    ]);
    sandbox.run(&["man", "schema", "zzzzzzzz"]).is_refused(&["`servecast schema`", "zzzzzzzz"]);
    sandbox.run(&["man", "replay", "--output-dir", "man"]).is_refused(&["--output-dir"]);

    sandbox.run(&["man", "--output-dir", "share/man1"]).success();
    assert_eq!(sandbox.read("share/man1/servecast-replay.1"), replay);
    let pages = std::fs::read_dir(sandbox.path("share/man1")).unwrap().count();
    let help = sandbox.run(&["--help"]).success();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands =
        commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.contains(" help ")).count();
    assert!(
        pages > commands,
        "{pages} pages of {commands} commands, and of those below `trace` and `explain`"
    );
    sandbox.write("file", "");
    sandbox.run(&["man", "--output-dir", "file/man"]).is_refused(&["cannot write"]);
}

#[test]
fn schemas_are_json() {
    let sandbox = Sandbox::new();
    let report: Value = serde_json::from_str(&sandbox.run(&["schema", "report"]).success()).unwrap();
    assert!(report["properties"]["mean_ttft_ms"].is_object());
    let comparison: Value = serde_json::from_str(&sandbox.run(&["schema", "comparison"]).success()).unwrap();
    assert!(comparison["$defs"]["Report"]["properties"]["mean_ttft_ms"].is_object());
    let config: Value = serde_json::from_str(&sandbox.run(&["schema", "config"]).success()).unwrap();
    assert_eq!(config["properties"]["num_workers"]["default"], 1);
    assert!(config["properties"]["engine_args"].is_object());
    assert_eq!(config["properties"]["max_prefill_tokens"]["default"], 16_384);
    assert!(config["$defs"]["SglangArgs"]["properties"]["page_size"].is_object());
    assert!(config["properties"]["router_config"].is_object());
    assert!(config["$defs"]["KvRouterConfig"]["properties"]["router_temperature"].is_object());
}
