//! `servecast trace stats`: what a trace looks like before anything runs it.

use std::fmt::Write as _;

use servecast_workload::{LengthStats, StreamOptions, TraceError, TraceStats, stats, stream_stats};

use super::input::TraceInput;
use crate::config::Format;
use crate::error::Failure;
use crate::files::{self, note};
use crate::source::sort_window;

/// Widest bar of the chart, in characters.
const CHART_WIDTH: u64 = 50;

/// Describe a trace: requests, lengths, rate over time and ideal prefix reuse
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    input: TraceInput,
    /// What is printed: text for people, or JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
    /// Use the trace as it is read: memory goes with distinct blocks, not with requests
    ///
    /// A trace whose rows are not in order, or have sessions, is read as a whole all the same, which a note says.
    #[arg(long)]
    stream: bool,
    /// How long a row of a trace that is streamed may come before one above it, in seconds of its times [default: 1]
    #[arg(long, value_name = "SECONDS", requires = "stream")]
    sort_window: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &StatsArgs) -> Result<(), Failure> {
    let streamed = if args.stream { streamed(args)? } else { None };
    let stats = streamed.map_or_else(|| of_whole(args), Ok)?;
    files::print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&stats).expect("statistics are plain data") + "\n",
        Format::Table => render(&stats),
    })
}

/// What a trace looks like, all of which is read first.
fn of_whole(args: &StatsArgs) -> Result<TraceStats, Failure> {
    let (trace, cut) = args.input.read()?;
    let (workload, _) = args.input.workload(&trace, cut)?;
    workload.notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    Ok(stats(&workload, cut.block_size))
}

/// What a trace looks like that is used as it is read; `None` if it has to be read as a whole.
fn streamed(args: &StatsArgs) -> Result<Option<TraceStats>, Failure> {
    let sort_window = sort_window(args.sort_window).map_err(Failure::user)?;
    let options = StreamOptions { arrival_speedup_ratio: 1.0, max_requests: None, sort_window };
    let read_all = |error: &TraceError| {
        if args.input.is_standard_input() {
            return Err(args.input.unusable(error).with_hint("leave --stream out: all of it is read then"));
        }
        note(&format!("note: all of the trace is read: {error}"));
        Ok(None)
    };
    let (mut trace, block_size) = match args.input.stream(options)? {
        Err(error) if error.is_of_streaming() => return read_all(&error),
        Err(error) => return Err(args.input.unusable(&error)),
        Ok(stream) => stream,
    };
    let stats = stream_stats(trace.by_ref().map(|(_, turn)| turn), block_size);
    match trace.finish() {
        Err(error) if error.is_of_streaming() => read_all(&error),
        Err(error) => Err(args.input.unusable(&error)),
        Ok(notes) => {
            notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
            Ok(Some(stats))
        }
    }
}

fn render(stats: &TraceStats) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<16}{value}");
    };
    line("Requests", stats.requests.to_string());
    let mean = stats.turns_per_session_mean;
    let turns = format!("{mean:.2} turns on average, {} at most", stats.turns_per_session_max);
    line("Sessions", format!("{} of {turns}", stats.sessions));
    line("Span", duration(stats.span_ms));
    line(
        "Rate",
        stats
            .request_rate_per_s
            .map_or_else(|| "all at once".to_owned(), |rate| format!("{rate:.3} requests/sec")),
    );
    let (tokens, blocks) = (stats.token_reuse_ratio * 100.0, stats.block_reuse_ratio * 100.0);
    let counts = format!("{} of {}", stats.reusable_blocks, stats.blocks);
    line("Ideal reuse", format!("{tokens:.2}% of tokens, {blocks:.2}% of blocks ({counts})"));
    let size = stats.block_size;
    let distinct = format!("{} distinct full ones", stats.distinct_blocks);
    line("", format!("with blocks of {size} tokens ({distinct}) and a cache that forgets none"));
    text.push('\n');
    text += &lengths(stats);
    text.push('\n');
    text += &chart(stats);
    text
}

fn lengths(stats: &TraceStats) -> String {
    let header = ["mean", "min", "p50", "p90", "p95", "p99", "max", "total"];
    let row = |lengths: &LengthStats| {
        [
            format!("{:.1}", lengths.mean),
            lengths.min.to_string(),
            format!("{:.0}", lengths.p50),
            format!("{:.0}", lengths.p90),
            format!("{:.0}", lengths.p95),
            format!("{:.0}", lengths.p99),
            lengths.max.to_string(),
            lengths.total.to_string(),
        ]
    };
    let rows = [("Input tokens", row(&stats.input_tokens)), ("Output tokens", row(&stats.output_tokens))];
    let width = |column: usize| {
        rows.iter().map(|(_, cells)| cells[column].len()).max().unwrap_or(0).max(header[column].len())
    };
    let line = |name: &str, cells: &[String; 8]| {
        let mut text = format!("{name:<14}");
        for (column, cell) in cells.iter().enumerate() {
            let _ = write!(text, "  {cell:>width$}", width = width(column));
        }
        text + "\n"
    };
    let header = line("", &header.map(ToOwned::to_owned));
    rows.iter().fold(header, |text, (name, cells)| text + &line(name, cells))
}

/// Requests in each stretch of time, as bars.
fn chart(stats: &TraceStats) -> String {
    let most = stats.requests_per_bucket.iter().copied().max().unwrap_or(0).max(1);
    let digits = most.to_string().len();
    let labels: Vec<String> = (0..stats.requests_per_bucket.len())
        .map(|bucket| duration(bucket as f64 * stats.bucket_ms))
        .collect();
    let label_width = labels.iter().map(String::len).max().unwrap_or(0);
    let mut text = format!("Arrivals every {}\n", duration(stats.bucket_ms));
    for (label, &count) in labels.iter().zip(&stats.requests_per_bucket) {
        // A bar that stands for something is not empty.
        let length = (count * CHART_WIDTH / most).max(u64::from(count > 0)) as usize;
        let bar = "█".repeat(length);
        let _ = writeln!(text, "{}", format!("  {label:>label_width$}  {count:>digits$}  {bar}").trim_end());
    }
    text
}

/// A length of time in the unit that suits it.
pub(super) fn duration(ms: f64) -> String {
    let seconds = ms / 1000.0;
    let (value, unit) = match seconds {
        ..1.0 => (ms, "ms"),
        ..120.0 => (seconds, "s"),
        ..7200.0 => (seconds / 60.0, "min"),
        _ => (seconds / 3600.0, "h"),
    };
    let digits = format!("{value:.1}");
    format!("{} {unit}", digits.strip_suffix(".0").unwrap_or(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_units_that_suit_them() {
        for (ms, text) in
            [(0.0, "0 ms"), (500.0, "500 ms"), (2500.0, "2.5 s"), (180_000.0, "3 min"), (7.2e6, "2 h")]
        {
            assert_eq!(duration(ms), text);
        }
    }
}
