//! What a terminal shows, and a pipe does not.

#![cfg(unix)]

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use nix::pty::{Winsize, openpty};

use crate::sandbox::Sandbox;

/// What a replay prints on a terminal of so many columns.
fn on_terminal(columns: u16, sandbox: &Sandbox) -> String {
    let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let mut command = sandbox.command(&["replay", "t.jsonl", "--quiet"]);
    let mut child = command.stdout(Stdio::from(pty.slave)).spawn().unwrap();
    drop(command);
    let mut bytes = Vec::new();
    // The terminal ends with an error when nobody holds its other end any more.
    let _ = File::from(pty.master).read_to_end(&mut bytes);
    assert!(child.wait().unwrap().success());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_terminal_has_charts_if_it_is_wide_enough() {
    let sandbox = Sandbox::new();
    let wide = on_terminal(100, &sandbox);
    assert!(wide.contains("\x1b[1mTTFT (ms)\x1b[0m") && wide.contains("  running "), "{wide}");
    assert!(wide.lines().all(|line| line.trim_end().chars().count() <= 110), "{wide}");
    let narrow = on_terminal(50, &sandbox);
    assert!(narrow.contains("Request Count") && !narrow.contains("Over time"), "{narrow}");
    let pipe = sandbox.run(&["replay", "t.jsonl", "--quiet"]).success();
    assert!(!pipe.contains("Over time") && !pipe.contains('\x1b'), "{pipe}");
}

#[test]
fn no_color_leaves_the_blocks() {
    let sandbox = Sandbox::new().with_variable("NO_COLOR", "1");
    let text = on_terminal(100, &sandbox);
    assert!(text.contains("Over time") && text.contains('█') && !text.contains('\x1b'), "{text}");
}

/// Whether a text commands a terminal.
fn commands(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}

/// A colour and a title for the window, in seven and in eight bits.
const EVIL: &str = "\x1b[31mred\x1b]0;title\x07\u{9b}5m";

#[test]
fn nothing_that_comes_from_elsewhere_commands_the_terminal() {
    let sandbox = Sandbox::new();
    let json = serde_json::to_string(EVIL).unwrap();
    let name = format!("{EVIL}.jsonl");
    sandbox.write(&name, crate::sandbox::TRACE);
    sandbox.write("key.jsonl", format!("{{\"output_length\": 2, \"hash_ids\": [1], {json}: 1}}"));
    sandbox.write("value.jsonl", format!("{{\"output_length\": {json}, \"hash_ids\": [1]}}"));
    sandbox.write("text.jsonl", EVIL);
    sandbox.write("key.toml", format!("{json} = 1\n"));
    sandbox.write("value.toml", format!("router_mode = {json}\n"));
    sandbox.write("value.json", format!("{{\"engine_args\": {{\"latency\": {json}}}}}"));
    let missing = format!("none{EVIL}");
    let varied = format!("num_workers={EVIL}");
    let condition = format!("{EVIL}>1");
    for arguments in [
        &["replay", &name][..],
        &["replay", &missing],
        &["replay", "key.jsonl"],
        &["replay", "value.jsonl"],
        &["replay", "text.jsonl"],
        &["replay", "--config", "key.toml"],
        &["replay", "--config", "value.toml"],
        &["replay", "--config", "value.json"],
        &["replay", "--router-mode", EVIL],
        &["replay", EVIL, EVIL],
        &[EVIL],
        &["replay", "--vary", &varied],
        &["replay", "t.jsonl", "--report-json", &missing],
        &["replay", "t.jsonl", "--export", EVIL],
        &["trace", "stats", &name],
        &["trace", "stats", "key.jsonl"],
        &["compare", &missing, "t.jsonl"],
        &["compare", "t.jsonl", "t.jsonl", "--fail-if", &condition],
        &["validate", &missing],
        &["calibrate", "text.jsonl", "--output", "c.toml"],
        &["explain", "capacity", "--model", EVIL, "--gpu", EVIL],
    ] {
        for format in ["table", "json", "markdown", "junit"] {
            let takes_format = ["replay", "compare"].contains(&arguments[0]);
            let format = if takes_format { &["--format", format][..] } else { &[] };
            let outcome = sandbox.run(&[arguments, format].concat());
            assert!(!commands(&outcome.stdout) && !commands(&outcome.stderr), "{arguments:?}: {outcome:?}");
        }
    }
}

#[test]
fn a_comparison_shows_names_and_settings_without_their_commands() {
    let sandbox = Sandbox::new();
    let name = format!("{EVIL}.jsonl");
    sandbox.write(&name, crate::sandbox::TRACE);
    let report = format!("{EVIL}.json");
    sandbox.run(&["replay", &name, "--report-json", &report]).success();
    let mut other: serde_json::Value = serde_json::from_str(&sandbox.read(&report)).unwrap();
    other["settings"][EVIL] = EVIL.into();
    other["rejected_by_reason"][EVIL] = 1.into();
    other["workload_name"] = EVIL.into();
    other["workload_hash"] = EVIL.into();
    other["latency_estimate"] = EVIL.into();
    sandbox.write("o.json", other.to_string());
    for format in ["table", "json"] {
        let outcome = sandbox.run(&["compare", &report, "o.json", "--format", format]);
        assert!(!commands(&outcome.stdout) && !commands(&outcome.stderr), "{outcome:?}");
        assert!(outcome.success().contains("\\u001b[31mred"));
    }
    for format in ["markdown", "junit"] {
        let limit = ["--fail-if", "total_preemptions>5"];
        let outcome =
            sandbox.run(&[&["compare", &report, "o.json", "--format", format], &limit[..]].concat());
        assert_eq!(outcome.code, Some(2), "another workload: {outcome:?}");
        assert!(!commands(&outcome.stdout) && !commands(&outcome.stderr), "{outcome:?}");
        assert!(outcome.stdout.contains("u001b"), "{outcome:?}");
    }
    for format in ["markdown", "junit"] {
        let limit = ["--fail-if", "total_preemptions>5"];
        let outcome = sandbox.run(&[&["replay", &name, "-q", "--format", format], &limit[..]].concat());
        assert!(!commands(&outcome.success()), "{format}");
    }
}

#[test]
fn bold_headings_stay_on_a_terminal_and_nothing_else() {
    let sandbox = Sandbox::new();
    let bold = sandbox.run(&["replay", "t.jsonl", "--quiet"]).success();
    let shown = on_terminal(100, &sandbox);
    assert!(!bold.contains('\x1b') && shown.contains("\x1b[1m"));
    let rest = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").replace('\r', "");
    assert!(!commands(&rest), "{rest:?}");
}
