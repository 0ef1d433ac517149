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
