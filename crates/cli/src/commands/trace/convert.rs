//! `servecast trace convert`: writes a trace of any form as rows of Mooncake.

use std::path::PathBuf;

use clap::ValueHint;
use servecast_workload::TraceRow;

use super::input::TraceInput;
use super::output;
use crate::error::Failure;
use crate::files::{self, note};
use crate::interrupt::Interrupt;

/// Tokens of a block where every token has an id.
pub(super) const TOKENS_PER_BLOCK: u32 = 16;

/// Write a trace of any form as Mooncake JSON Lines
///
/// Ids stand for as many tokens as in the trace; where every token has one of its own, for 16, or what
/// --trace-block-size says: 1 keeps exactly what prompts share.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    input: TraceInput,
    /// File to write, packed if named .gz or .zst; `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    output: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    if !files::is_standard_stream(&args.output) {
        let inputs = args.input.form.tokenizer_file().into_iter().chain([args.input.trace_file.clone()]);
        files::check_output_beside(&args.output, "--output", inputs)?;
    }
    let interrupt = Interrupt::install()?;
    let (trace, cut) = args.input.read()?;
    let (workload, load) = args.input.workload(&trace, cut)?;
    workload.notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    let block_size = match args.input.form.trace_block_size {
        None if trace.token_ids => TOKENS_PER_BLOCK,
        _ => cut.block_size,
    };
    let rows: Vec<TraceRow> = workload.mooncake_rows(block_size, load).collect();
    output::write(&rows, block_size, &args.output, &interrupt)
}
