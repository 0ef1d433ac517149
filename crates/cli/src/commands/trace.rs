//! `servecast trace`: looks at traces and makes them.

mod check;
mod convert;
mod fit;
mod generate;
mod input;
mod output;
mod stats;

use crate::error::Failure;

/// Look at traces and make them
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum TraceCommand {
    Stats(stats::StatsArgs),
    Check(check::CheckArgs),
    Convert(convert::ConvertArgs),
    Fit(fit::FitArgs),
    Generate(Box<generate::GenerateArgs>),
}

/// Runs the command.
pub(crate) fn run(args: &TraceArgs) -> Result<(), Failure> {
    match &args.command {
        TraceCommand::Stats(args) => stats::run(args),
        TraceCommand::Check(args) => check::run(args),
        TraceCommand::Convert(args) => convert::run(args),
        TraceCommand::Fit(args) => fit::run(args),
        TraceCommand::Generate(args) => generate::run(args),
    }
}
