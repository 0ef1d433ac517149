//! `servecast schema`: prints the contracts of files that programs read and write.

use crate::config::config_schema;
use crate::error::Failure;
use crate::files;

/// Print a JSON Schema
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SchemaArgs {
    /// What it describes
    #[arg(value_enum)]
    of: SchemaOf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SchemaOf {
    /// The report of a replay
    Report,
    /// The results of several runs, of `--vary`
    Comparison,
    /// How runs differ, of `servecast compare --format json`
    Differences,
    /// The answer of `servecast recommend`
    Recommendation,
    /// The configuration file of a replay
    Config,
}

/// Runs the command.
pub(crate) fn run(args: &SchemaArgs) -> Result<(), Failure> {
    match args.of {
        SchemaOf::Comparison => files::print(servecast_report::COMPARISON_SCHEMA),
        SchemaOf::Differences => files::print(servecast_report::DIFFERENCES_SCHEMA),
        SchemaOf::Recommendation => files::print(servecast_recommend::RECOMMENDATION_SCHEMA),
        SchemaOf::Report => files::print(servecast_report::REPORT_SCHEMA),
        SchemaOf::Config => {
            let schema = serde_json::to_string_pretty(&config_schema()).expect("a schema is plain data");
            files::print(&(schema + "\n"))
        }
    }
}
