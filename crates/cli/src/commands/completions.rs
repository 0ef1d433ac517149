//! `servecast completions`: prints what a shell needs to complete our commands.

use clap_complete::Shell;

use crate::error::Failure;
use crate::files;

/// Print a completion script for a shell
///
/// For bash: servecast completions bash > ~/.local/share/bash-completion/completions/servecast
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// Shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "servecast", &mut script);
    files::print(&String::from_utf8_lossy(&script))
}
