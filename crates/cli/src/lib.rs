//! The `servecast` command line: reads flags, files and the environment, runs what they ask for, and writes what came
//! of it.
//!
//! Results go to standard output; progress, notes and errors to standard error. Files appear when they are complete.
//! Exit codes: 0 for success, 2 for everything that the user gave and can put right, 1 for a run that cannot go on,
//! 3 for a condition of `--fail-if` that holds, 130 for Ctrl-C. A reader that closes standard output is no error.

mod commands;
mod files;
mod interrupt;
mod progress;
mod second_names;
mod unknown;

use servecast::{iterations, online, page, plan, resolved, routing, rows, timeline};
use servecast_config::{deployment, error, latency, router, settings as config, source};

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    calibrate, compare, completions, explain, man, replay as replay_command, schema, trace, validate,
};
use crate::error::{Failure, FailureKind};

/// Simulate serving deployments of large language models
///
/// servecast replays traces of requests through simulated inference engines and reports latency, throughput and cache
/// reuse.
#[derive(Debug, Parser)]
#[command(name = "servecast", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    Replay(Box<replay_command::ReplayArgs>),
    Recommend(Box<replay_command::recommend::RecommendArgs>),
    Serve(Box<replay_command::serve::ServeArgs>),
    Compare(compare::CompareArgs),
    Validate(validate::ValidateArgs),
    Calibrate(calibrate::CalibrateArgs),
    Explain(explain::ExplainArgs),
    Trace(trace::TraceArgs),
    Schema(schema::SchemaArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Runs the command line `arguments`, the first of which is the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(run_to_code(arguments))
}

/// [`run`], with the exit code as a number: 1 for a panic, which is a bug.
pub fn run_to_code(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    panic::catch_unwind(AssertUnwindSafe(|| run_subcommand(arguments))).unwrap_or_else(|_| {
        finish(Err(Failure::run("servecast stopped at a bug of its own, which is described above")
            .with_hint("please report it, with the command and its input")))
    })
}

fn run_subcommand(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match arguments.get(1).and_then(|name| parse(alone(name.to_str()?)?, &arguments).ok()) {
        Some(cli) => Ok(cli),
        None => parse(command(), &arguments),
    };
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => {
            return match unknown::option(&error, &command(), &arguments) {
                Some(failure) => finish(Err(failure)),
                None => print(&error),
            };
        }
    };
    let outcome = match cli.command {
        Subcommands::Replay(args) => replay_command::run(*args),
        Subcommands::Recommend(args) => replay_command::recommend::run(*args),
        Subcommands::Serve(args) => {
            return finish_by(replay_command::serve::run(&args), |failure| args.tell_failure(failure));
        }
        Subcommands::Compare(args) => compare::run(&args),
        Subcommands::Validate(args) => validate::run(&args),
        Subcommands::Calibrate(args) => calibrate::run(&args),
        Subcommands::Explain(args) => explain::run(&args),
        Subcommands::Trace(args) => trace::run(&args),
        Subcommands::Schema(args) => schema::run(&args),
        Subcommands::Completions(args) => completions::run(&args),
        Subcommands::Man(args) => man::run(&args),
    };
    finish(outcome)
}

fn parse(command: Command, arguments: &[OsString]) -> clap::error::Result<Cli> {
    command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches))
}

/// Prints help, or what is wrong with the arguments.
fn print(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        // Without colour, in which what was typed could hide.
        files::tell(&error.render().to_string());
        return u8::try_from(error.exit_code()).unwrap_or(2);
    }
    let printed = error.print().and_then(|()| io::stdout().flush());
    finish(printed.map_err(|error| Failure::write("standard output", &error)))
}

/// Tells of a failure, and what the shell learns of it.
fn finish(outcome: Result<(), Failure>) -> u8 {
    finish_by(outcome, |failure| files::tell(&text(failure)))
}

/// The same, with somebody else who tells.
fn finish_by(outcome: Result<(), Failure>, tell: impl FnOnce(Failure)) -> u8 {
    let Err(failure) = outcome else { return 0 };
    let code = match failure.kind() {
        FailureKind::OutputClosed => return 0,
        FailureKind::Run => 1,
        FailureKind::User => 2,
        FailureKind::Condition => 3,
        FailureKind::Interrupted => 130,
    };
    tell(failure);
    code
}

/// What goes to standard error.
fn text(failure: Failure) -> String {
    match failure.into_parts() {
        (message, Some(hint)) => format!("error: {message}\n\nhint: {hint}\n"),
        (message, None) => format!("error: {message}\n"),
    }
}

/// The command line with all that help and completions show.
fn command() -> Command {
    let complete = |command: Command| with_settings(config::with_defaults(command));
    Cli::command()
        .mut_subcommand("replay", complete)
        .mut_subcommand("recommend", complete)
        .mut_subcommand("serve", complete)
        .mut_subcommand("trace", |command| {
            command.mut_subcommand("stats", numbers).mut_subcommand("generate", complete)
        })
}

/// The command line of the subcommand `name` alone, without what only help shows. All subcommands together have hundreds of
/// flags, which take longer to set up than a short trace to replay. So what this cannot parse, and help, go by [`command`].
fn alone(name: &str) -> Option<Command> {
    let subcommand = match name {
        "replay" => replay_command::ReplayArgs::augment_args(Command::new("replay")),
        "recommend" => replay_command::recommend::RecommendArgs::augment_args(Command::new("recommend")),
        "serve" => replay_command::serve::ServeArgs::augment_args(Command::new("serve")),
        _ => return None,
    };
    Some(Command::new("servecast").subcommand(with_settings(subcommand)))
}

/// A subcommand that has settings, with what holds for them on every command line.
fn with_settings(command: Command) -> Command {
    let command = numbers(command);
    if command.get_name() == "serve" { replay_command::serve::flags(command) } else { command }
}

/// Numbers below 0 are refused as values, with the name of their flag, not as unknown flags.
fn numbers(command: Command) -> Command {
    command.mut_args(|arg| {
        let takes_value = arg.get_action().takes_values();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_after_a_blank_line() {
        let failure = Failure::user("no such file").with_hint("look elsewhere");
        assert_eq!(text(failure), "error: no such file\n\nhint: look elsewhere\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        assert_eq!(finish(Err(Failure::write("x", &io::ErrorKind::BrokenPipe.into()))), 0);
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_subcommand_alone_takes_what_it_takes_among_the_others() {
        let whole = command();
        for name in ["replay", "recommend", "serve"] {
            let flags = |command: &Command| {
                let subcommand = command.find_subcommand(name).unwrap();
                // Help is what it goes without.
                let bare = subcommand.get_arguments().map(|arg| arg.clone().help(None::<&str>));
                bare.map(|arg| format!("{arg:?}")).collect::<Vec<_>>()
            };
            assert_eq!(flags(&alone(name).unwrap()), flags(&whole), "{name}");
        }
        assert!(alone("trace").is_none());
    }

    #[test]
    fn every_command_and_flag_has_help() {
        fn check(command: &Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{name}: {}", arg.get_id());
                assert!(!help.ends_with('.'), "{name}: {}: {help}", arg.get_id());
                assert!(help.matches("[default: ").count() <= 1, "{name}: {}: {help}", arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
