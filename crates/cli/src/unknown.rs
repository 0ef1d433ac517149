//! What is said of an option that a command does not have: what there is for it, or which one was probably meant.

use std::ffi::OsString;

use clap::Command;
use clap::builder::Arg;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use servecast_engine::EngineArgs;
use servecast_router::FIELDS;
use servecast_types::{foreign, similar};

use crate::error::Failure;

/// The command that has most settings.
const REPLAY: &str = "replay";

/// The refusal of an unknown option, if that is what `error` is about; other errors are clap's own.
pub(crate) fn option(error: &clap::Error, whole: &Command, arguments: &[OsString]) -> Option<Failure> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return None };
    // `-o` is how many programs call the file that they write.
    let name = match given.strip_prefix('-')?.strip_prefix('-') {
        Some(name) if !name.is_empty() => name,
        None if given == "-o" => "output",
        _ => return None,
    };
    let (command, path) = addressed(whole, arguments);
    let message = format!("`{path}` has no option `{given}`");
    let failure = match remedy(name, command, whole) {
        Some(remedy) => Failure::user(format!("{message}{remedy}")),
        None => Failure::user(message).with_hint(format!("`{path} --help` lists those that there are")),
    };
    Some(failure)
}

/// The command that arguments are for, and how it is called.
fn addressed<'a>(whole: &'a Command, arguments: &[OsString]) -> (&'a Command, String) {
    let (mut command, mut path) = (whole, whole.get_name().to_owned());
    for argument in arguments.iter().skip(1) {
        let Some(next) = argument.to_str().and_then(|name| command.find_subcommand(name)) else { break };
        path = format!("{path} {}", next.get_name());
        command = next;
    }
    (command, path)
}

/// What to do instead, as the end of a sentence.
fn remedy(name: &str, command: &Command, whole: &Command) -> Option<String> {
    let key = name.replace('-', "_");
    // vLLM's way to give a part of a JSON object.
    if let Some((object, part)) = key.split_once('.')
        && let Some(option) = setting_of(object, command)
    {
        return Some(format!(": it is the key `{part}` of {option}"));
    }
    if let Some(foreign) = foreign(name) {
        let is_here = |setting: &str| setting_of(setting, command).is_some();
        let (of, prefix) = if foreign.settings().next().is_none() || foreign.settings().any(is_here) {
            (command, "")
        } else {
            (whole.find_subcommand(REPLAY).unwrap_or(whole), ", but for `servecast replay`")
        };
        let named = |setting: &str| setting_of(setting, of).unwrap_or_else(|| format!("`{setting}`"));
        return Some(format!("{prefix}: {}", foreign.sentence(named)));
    }
    if let Some(setting) = setting_of(&key, command) {
        return Some(format!(": it is {setting}"));
    }
    let visible: Vec<&str> = visible(command).collect();
    let others: Vec<String> = commands_with(name, whole, "servecast");
    if !others.is_empty() {
        return Some(format!(", but {} {}", listed(&others), if others.len() == 1 { "has" } else { "have" }));
    }
    let mut meant = with_all_words(name, &visible);
    if meant.is_empty() || meant.len() > MOST_SUGGESTED {
        meant = similar(name, visible).into_iter().collect();
    }
    let meant: Vec<String> = meant.iter().map(|name| format!("`--{name}`")).collect();
    (!meant.is_empty()).then(|| format!(", did you mean {}?", meant.join(" or ")))
}

/// Most options that are suggested at a time.
const MOST_SUGGESTED: usize = 3;

/// Those of `known` that have all the words of `name`: whoever writes `--ttft` means `--sla-ttft-ms`.
fn with_all_words<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let has_all = |known: &&&str| name.split('-').all(|word| known.split('-').any(|other| other == word));
    known.iter().filter(has_all).copied().collect()
}

/// How a setting is given to a command: by an option of its own, or within another one.
fn setting_of(key: &str, command: &Command) -> Option<String> {
    let by_id = |id: &str| command.get_arguments().find(|arg| arg.get_id() == id && !arg.is_hide_set());
    if let Some(arg) = by_id(key) {
        let name = || arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        return Some(match arg.get_long() {
            Some(long) => format!("--{long}"),
            None => format!("the argument {}", name().unwrap_or_default()),
        });
    }
    let within = |id: &str, path: &str| {
        let long = by_id(id).and_then(Arg::get_long);
        long.map(|long| format!("the key `{path}` of --{long}"))
    };
    if FIELDS.iter().any(|field| field.key == key) {
        return within("router_config", key);
    }
    if EngineArgs::keys().iter().any(|known| known == key) {
        return within("engine_args", key);
    }
    let section = EngineArgs::sections().into_iter().find(|(_, keys)| keys.iter().any(|known| known == key));
    let (section, _) = section?;
    within(section, key).or_else(|| within("engine_args", &format!("{section}.{key}")))
}

/// The long names of a command's options that help shows.
fn visible(command: &Command) -> impl Iterator<Item = &str> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default())
}

/// The commands below `command` that have an option, by how they are called.
fn commands_with(name: &str, command: &Command, path: &str) -> Vec<String> {
    let below = command.get_subcommands().flat_map(|sub| {
        let path = format!("{path} {}", sub.get_name());
        let own = visible(sub).any(|known| known == name).then(|| format!("`{path}`"));
        own.into_iter().chain(commands_with(name, sub, &path))
    });
    below.collect()
}

/// Several things in a sentence.
fn listed(things: &[String]) -> String {
    match things {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => things.concat(),
    }
}
