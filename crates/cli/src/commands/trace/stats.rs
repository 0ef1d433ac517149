//! `servecast trace stats`: what a trace looks like before anything runs it.

use std::fmt::Write as _;

use servecast_workload::{LengthStats, TraceStats, stats};

use super::input::TraceInput;
use crate::config::Format;
use crate::error::Failure;
use crate::files::{self, note};

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
}

/// Runs the command.
pub(crate) fn run(args: &StatsArgs) -> Result<(), Failure> {
    let (trace, cut) = args.input.read()?;
    let (workload, _) = args.input.workload(&trace, cut)?;
    workload.notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    let stats = stats(&workload, cut.block_size);
    files::print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&stats).expect("statistics are plain data") + "\n",
        Format::Table => render(&stats),
    })
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
