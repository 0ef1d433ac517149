//! `servecast man`: the manual pages of our commands.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Command, ValueHint};
use clap_mangen::Man;
use servecast_types::similar;

use crate::error::Failure;
use crate::files::{self, OutputFile};

/// Print a manual page
///
/// To read one: servecast man replay | man -l -
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ManArgs {
    /// Command that it is of, as in `trace stats`; of servecast itself without one
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands into this folder instead, as `servecast-replay.1` and the like
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "command")]
    output_dir: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    let mut whole = crate::command().disable_help_subcommand(true);
    whole.build();
    match &args.output_dir {
        Some(folder) => {
            fs::create_dir_all(folder).map_err(|error| files::cannot_write(folder, &error))?;
            write_all(&whole, folder)
        }
        None => files::print(&String::from_utf8_lossy(&page(named(&whole, &args.command)?))),
    }
}

/// The command that the words say.
fn named<'a>(whole: &'a Command, words: &[String]) -> Result<&'a Command, Failure> {
    let mut command = whole;
    for word in words {
        command = command.find_subcommand(word).ok_or_else(|| unknown(command, word))?;
    }
    Ok(command)
}

fn unknown(command: &Command, word: &str) -> Failure {
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    let path = command.get_bin_name().unwrap_or("servecast");
    let failure = Failure::user(format!("`{path}` has no command {word:?}"));
    match similar(word, names.iter().copied()) {
        Some(meant) => failure.with_hint(format!("{meant:?} is one")),
        None if names.is_empty() => failure,
        None => failure.with_hint(format!("there are {}", names.join(", "))),
    }
}

/// Writes the page of a command and of those below it.
fn write_all(command: &Command, folder: &Path) -> Result<(), Failure> {
    let path = folder.join(format!("{}.1", name(command)));
    let mut file = OutputFile::create(&path)?;
    file.write_all(&page(command)).map_err(|error| file.failure(&error))?;
    file.commit()?;
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .try_for_each(|command| write_all(command, folder))
}

/// `servecast-trace-stats` for `servecast trace stats`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// A page in the format of man.
fn page(command: &Command) -> Vec<u8> {
    // Some commands have 200 options, which would all stand in the line that says how the command is called.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let mut text = Vec::new();
    Man::new(command.clone().override_usage(usage))
        .source(concat!("servecast ", env!("CARGO_PKG_VERSION")))
        .manual("servecast")
        .render(&mut text)
        .expect("a vector takes all that is written to it");
    text
}
