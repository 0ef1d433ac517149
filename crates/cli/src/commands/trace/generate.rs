//! `servecast trace generate`: writes a synthetic workload, or the sample, as a trace.

use std::path::PathBuf;

use clap::ValueHint;
use servecast_workload::{SAMPLE_BLOCK_SIZE, TraceRow, generate, sample_chat_sessions};

use super::output;
use crate::config::{
    DEFAULT_SEED, DEFAULT_TRACE_BLOCK_SIZE, Layers, ReplayConfig, SyntheticConfig, TraceConfig,
};
use servecast_types::{Message, message};

use crate::error::Failure;
use crate::files;
use crate::interrupt::Interrupt;
use crate::source::{Source, first_synthetic_key};

/// Write a synthetic workload as a trace in Mooncake JSON Lines
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    synthetic: SyntheticConfig,
    /// Tokens that one hash id stands for
    #[arg(long, help_heading = None::<&str>, value_name = "TOKENS")]
    trace_block_size: Option<u32>,
    /// Root of all random numbers
    #[arg(long, help_heading = None::<&str>, value_name = "N")]
    seed: Option<u64>,
    /// Write the built-in sample of chat sessions instead, with 64 tokens a hash id
    #[arg(long, help_heading = None::<&str>)]
    sample: bool,
    /// File to write, packed if named .gz or .zst; `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath, help_heading = None::<&str>)]
    output: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    if !files::is_standard_stream(&args.output) {
        files::check_output(&args.output)?;
    }
    let interrupt = Interrupt::install()?;
    let (rows, block_size) = rows(args)?;
    output::write(&rows, block_size, &args.output, &interrupt)
}

/// The requests, and how many tokens a hash id stands for.
fn rows(args: &GenerateArgs) -> Result<(Vec<TraceRow>, u32), Failure> {
    if args.sample {
        let given = args.trace_block_size.map(|_| "trace_block_size");
        return match given.or(first_synthetic_key(&args.synthetic)) {
            Some(key) => Err(Failure::user(message!("{} has no effect on the sample", Message::flag(key)))
                .with_hint("leave it or --sample out")),
            None => Ok((sample_chat_sessions(args.seed.unwrap_or(DEFAULT_SEED)), SAMPLE_BLOCK_SIZE)),
        };
    }
    let config = ReplayConfig {
        trace: TraceConfig { seed: args.seed, ..TraceConfig::default() },
        synthetic: args.synthetic.clone(),
        ..ReplayConfig::default()
    };
    let mut layers = Layers::default();
    layers.add_flags(&config)?;
    let Source::Synthetic { mut spec, .. } = Source::of(&config, &layers)? else {
        return Err(Failure::user("nothing says what to generate").with_hint(
            "describe a workload with --input-tokens, --output-tokens and --request-count, or give --sample",
        ));
    };
    spec.trace_block_size = args.trace_block_size.unwrap_or(DEFAULT_TRACE_BLOCK_SIZE);
    let rows = generate(&spec).map_err(|error| layers.refused(error))?;
    Ok((rows, spec.trace_block_size))
}
