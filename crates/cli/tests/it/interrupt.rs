//! Ctrl-C, and readers that go away.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sandbox::{Outcome, Sandbox};

/// A replay that takes minutes.
const LONG: [&str; 8] =
    ["replay", "--input-tokens", "100", "--output-tokens", "900000", "--request-count", "50", "--workers=50"];

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    for signal in ["INT", "TERM"] {
        let sandbox = Sandbox::new();
        let files = ["--iterations-jsonl", "i.jsonl", "--report-json", "r.json"];
        let child = sandbox.command(&[&LONG[..], &files].concat()).spawn().unwrap();
        // The temporary file is there when the run begins.
        wait_until(|| sandbox.files().iter().any(|name| name.starts_with(".servecast-")));
        send(signal, &child);
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(130), "{outcome:?}");
        assert!(outcome.stderr.starts_with("error: interrupted"), "{outcome:?}");
        assert_eq!(outcome.stdout, "");
        assert_eq!(sandbox.files(), ["t.jsonl"]);
    }
}

#[test]
fn an_interrupted_online_replay_reports_what_was_done() {
    let sandbox = Sandbox::new();
    let online = [
        "--replay-mode",
        "online",
        "--arrival-interval-ms",
        "100",
        "--report-json",
        "r.json",
        "--iterations-jsonl",
        "i.jsonl",
    ];
    let child = sandbox.command(&[&LONG[..], &online].concat()).spawn().unwrap();
    // The temporary file of iterations is there when the run begins.
    wait_until(|| sandbox.files().iter().any(|name| name.starts_with(".servecast-")));
    std::thread::sleep(Duration::from_millis(300));
    send("INT", &child);
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(outcome.stderr.contains("of 50 requests had been sent; the report is of those"), "{outcome:?}");
    let report: serde_json::Value = serde_json::from_str(&sandbox.read("r.json")).unwrap();
    assert_eq!(report["completed_requests"], 0);
    assert_eq!(report["num_requests"], report["withdrawn_requests"]);
}

/// Whether the process has a handler for Ctrl-C, by what Linux tells of it.
#[cfg(target_os = "linux")]
fn listens(child: &Child) -> bool {
    const INTERRUPT: u64 = 1 << 1;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & INTERRUPT != 0
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_a_read_that_would_wait() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["replay", "-", "--report-json", "r.json"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    wait_until(|| listens(&child));
    send("INT", &child);
    let mut status = None;
    wait_until(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(130));
    assert_eq!(sandbox.files(), ["t.jsonl"]);
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_all_of_several_runs() {
    let sandbox = Sandbox::new();
    let varied = ["--vary", "seed=1,2,3,4,5", "--threads", "2", "--report-json", "r.json"];
    let child = sandbox.command(&[&LONG[..], &varied].concat()).spawn().unwrap();
    wait_until(|| listens(&child));
    send("INT", &child);
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(130), ""), "{outcome:?}");
    assert_eq!(sandbox.files(), ["t.jsonl"]);
}

/// Rows go to a pipe that nobody reads any more, so no step of the run can look for a first Ctrl-C.
#[test]
fn a_second_interrupt_ends_a_write_that_would_wait() {
    let sandbox = Sandbox::new();
    let mut child =
        sandbox.command(&[&LONG[..], &["--iterations-jsonl", "/dev/stdout"]].concat()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let mut status = None;
    wait_until(|| {
        send("INT", &child);
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(130));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    for arguments in [
        &["replay", "t.jsonl", "--format", "json", "--report-json", "r.json"][..],
        &["replay", "t.jsonl"],
        &["replay", "--iterations-jsonl", "/dev/stdout"],
        &["trace", "stats", "t.jsonl"],
        &["trace", "generate", "--sample"],
        &["schema", "config"],
        &["completions", "zsh"],
        &["--help"],
        &["replay", "--help"],
    ] {
        let mut child = sandbox.command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        assert!(
            !outcome.stderr.contains("error") && !outcome.stderr.contains("panicked"),
            "{arguments:?}: {outcome:?}"
        );
    }
    // Files are complete before anything is printed.
    assert!(sandbox.read("r.json").contains("mean_ttft_ms"));
}

/// A full disk, as far as writers can tell.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_an_error() {
    let sandbox = Sandbox::new();
    for arguments in [&["replay", "t.jsonl", "--quiet"][..], &["--help"], &["trace", "generate", "--sample"]]
    {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let outcome = Outcome::of(sandbox.command(arguments).stdout(full).output().unwrap());
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stderr, "error: cannot write standard output: No space left on device\n");
    }
}
