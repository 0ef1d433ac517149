//! The `servecast` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    servecast_cli::run(std::env::args_os())
}
