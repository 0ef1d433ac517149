//! `servecast trace fit`: the parameters of a synthetic load that resembles a trace.

use std::fmt::Write as _;

use servecast_workload::{Fit, LengthDistribution, LengthStats, fit};

use super::input::TraceInput;
use crate::config::Format;
use crate::error::Failure;
use crate::files::{self, note};

/// Print the parameters of a synthetic load that resembles a trace: arrivals, lengths and sharing
///
/// `trace generate --like TRACE` makes a load that is nearer to it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FitArgs {
    #[command(flatten)]
    input: TraceInput,
    /// What is printed: text for people, or JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

/// Runs the command.
pub(crate) fn run(args: &FitArgs) -> Result<(), Failure> {
    let (trace, cut) = args.input.read()?;
    let (workload, load) = args.input.workload(&trace, cut)?;
    workload.notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    let fit = fit(&workload, cut.block_size, load);
    files::print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&fit).expect("parameters are plain data") + "\n",
        Format::Table => render(&fit),
    })
}

fn render(fit: &Fit) -> String {
    let stats = &fit.stats;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<15}{value}");
    };
    line("Requests", format!("{} in {} sessions", stats.requests, stats.sessions));
    line(
        "Arrivals",
        match (fit.session_rate_per_s, fit.burstiness) {
            (None, _) => "all at once".to_owned(),
            (Some(rate), None) => format!("{rate:.4} sessions/sec, at equal distances"),
            (Some(rate), Some(burstiness)) => {
                format!("{rate:.4} sessions/sec, burstiness {burstiness:.3} (1 is a Poisson process)")
            }
        },
    );
    let lengths = |lengths: &LengthStats, spread: f64| {
        let LengthStats { mean, p50, p90, p99, .. } = lengths;
        format!("mean {mean:.0}, spread {spread:.2}, p50 {p50:.0}, p90 {p90:.0}, p99 {p99:.0}")
    };
    line("Input tokens", lengths(&stats.input_tokens, fit.input_spread));
    line("Output tokens", lengths(&stats.output_tokens, fit.output_spread));
    line(
        "Sharing",
        format!(
            "{:.2}% of prompt tokens: {} families of {:.2} requests, {} common blocks of {} tokens",
            stats.token_reuse_ratio * 100.0,
            fit.families,
            stats.requests as f64 / fit.families.max(1) as f64,
            fit.common_blocks,
            stats.block_size
        ),
    );
    text + "\nA synthetic load with these means, in which nothing depends on anything else:\n\n  servecast replay "
        + &flags(fit).join(" \\\n      ")
        + "\n"
}

/// How `replay` makes the synthetic load.
fn flags(fit: &Fit) -> Vec<String> {
    let spec = &fit.synthetic;
    let mut flags = vec![format!(
        "--request-count {} --input-tokens {} --output-tokens {}",
        spec.request_count, spec.input_tokens, spec.output_tokens
    )];
    if spec.turns_per_session > 1 {
        flags.push(format!("--turns-per-session {}", spec.turns_per_session));
    }
    if spec.length_distribution == LengthDistribution::Lognormal {
        flags.push(format!("--length-distribution lognormal --length-spread {}", spec.length_spread));
    }
    if spec.num_prefix_groups > 0 {
        flags.push(format!(
            "--shared-prefix-ratio {} --num-prefix-groups {} --trace-block-size {}",
            spec.shared_prefix_ratio, spec.num_prefix_groups, spec.trace_block_size
        ));
    }
    flags.push(match (fit.session_rate_per_s, fit.burstiness) {
        (None, _) => "--arrival-interval-ms 0".to_owned(),
        (Some(rate), None) => format!("--arrival-interval-ms {:.3}", 1000.0 / rate),
        (Some(rate), Some(burstiness)) => format!("--request-rate {rate:.4} --burstiness {burstiness:.3}"),
    });
    flags
}
