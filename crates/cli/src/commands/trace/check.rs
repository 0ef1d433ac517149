//! `servecast trace check`: what a file was taken for, and what is odd about it.

use std::fmt::Write as _;

use serde::Serialize;
use servecast_workload::{Load, Trace, Turns, stats};

use super::input::TraceInput;
use super::stats::duration;
use crate::config::Format;
use crate::error::Failure;
use crate::files;

/// Say what a trace is, what was inferred and what is odd, with line numbers
///
/// What cannot be read is an error, as in a replay.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    input: TraceInput,
    /// What is printed: text for people, or JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

/// What is known of a file.
#[derive(Debug, Serialize)]
struct Found {
    form: String,
    requests: u64,
    sessions: u64,
    input_tokens: u64,
    output_tokens: u64,
    /// Tokens that an id stands for; 1 where every token has one.
    block_size: u32,
    /// What the rows of sessions hold.
    turns: Turns,
    /// From the first arrival to the last; none without times.
    span_ms: Option<f64>,
    request_rate_per_s: Option<f64>,
    /// What was inferred, and what is odd.
    notes: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let (trace, cut) = args.input.read()?;
    let (workload, load) = args.input.workload(&trace, cut)?;
    let stats = stats(&workload, cut.block_size);
    let has_times = matches!(load, Load::Open { .. });
    let mut notes = workload.notes.sentences();
    let repeated = trace.repeated_ids();
    if repeated.rows > 0 {
        let (rows, line) = (repeated.rows, repeated.first_line);
        let have = if rows == 1 { "row has" } else { "rows have" };
        let first = if rows > 1 { " first" } else { "" };
        notes.push(format!("{rows} {have} an id twice in one prompt (line {line}{first})"));
    }
    let found = Found {
        form: form(&trace),
        requests: stats.requests,
        sessions: stats.sessions,
        input_tokens: stats.input_tokens.total,
        output_tokens: stats.output_tokens.total,
        block_size: if trace.token_ids { 1 } else { cut.block_size },
        turns: cut.turns,
        span_ms: Some(stats.span_ms).filter(|_| has_times),
        request_rate_per_s: stats.request_rate_per_s.filter(|_| has_times),
        notes,
    };
    files::print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&found).expect("a check is plain data") + "\n",
        Format::Table => render(&found),
    })
}

/// What the file was taken for.
fn form(trace: &Trace) -> String {
    trace.format.map_or_else(
        || "rows of requests, by what was said of them".to_owned(),
        |format| format.name().to_string(),
    )
}

fn render(found: &Found) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("Form", found.form.clone());
    let turns = match found.turns {
        Turns::Whole => "",
        Turns::Delta => ", whose rows hold what is new in a turn",
    };
    line("Requests", format!("{} in {} sessions{turns}", found.requests, found.sessions));
    line("Tokens", format!("{} of prompts, {} of outputs", found.input_tokens, found.output_tokens));
    line(
        "Content",
        match found.block_size {
            1 => "an id for each token".to_owned(),
            size => format!("an id for each {size} tokens"),
        },
    );
    line(
        "Times",
        match (found.span_ms, found.request_rate_per_s) {
            (None, _) => "none: --replay-concurrency N replays it in a closed loop".to_owned(),
            (Some(_), None) => "all requests at once".to_owned(),
            (Some(span_ms), Some(rate)) => format!("{}, {rate:.3} requests/sec", duration(span_ms)),
        },
    );
    if found.notes.is_empty() {
        text.push_str("\nNothing odd was found.\n");
    } else {
        text.push('\n');
        for note in &found.notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    text
}
