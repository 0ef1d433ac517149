//! `servecast explain`: shows the arithmetic behind a figure, and what is known of models and GPUs.

mod capacity;
mod known;
mod kv;
mod latency;
mod latency_page;

use clap::Subcommand;

use crate::error::Failure;

/// Show the arithmetic behind a figure, and the models and GPUs that are known
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExplainArgs {
    #[command(subcommand)]
    of: ExplainOf,
}

#[derive(Debug, Clone, Subcommand)]
enum ExplainOf {
    Capacity(Box<capacity::CapacityArgs>),
    Kv(Box<kv::KvArgs>),
    Latency(Box<latency::LatencyArgs>),
    Models(known::ModelsArgs),
    Gpus(known::GpusArgs),
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    match &args.of {
        ExplainOf::Capacity(args) => capacity::run(args),
        ExplainOf::Kv(args) => kv::run(args),
        ExplainOf::Latency(args) => latency::run(args),
        ExplainOf::Models(args) => known::models(args),
        ExplainOf::Gpus(args) => known::gpus(args),
    }
}
