//! What users of similar tools will try and servecast does not have yet: refused by name, never ignored.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde_json::{Map, Value};

use crate::error::Failure;

/// Flags without an effect yet, each with what there is instead.
const FLAGS: [(&str, &str); 6] = [
    ("planner-config", "the number of workers is fixed during a replay"),
    ("aic-backend", LATENCY),
    ("aic-system", LATENCY),
    ("aic-backend-version", LATENCY),
    ("aic-tp-size", LATENCY),
    ("aic-model-path", LATENCY),
];

const LATENCY: &str = "--latency chooses among the latency models that there are";

/// Values without a meaning yet, each with what there is instead.
const VALUES: [(&str, &str, &str); 2] = [
    ("replay_mode", "online", "a replay runs in virtual time: use offline"),
    ("router_prefill_load_model", "aic", "a replay does not predict how long a prefill takes: use none"),
];

/// Flags that are accepted only to be refused in a sentence.
#[derive(Debug, Clone, Default)]
pub(crate) struct NotYetArgs {
    /// The first of them that is there.
    given: Option<&'static str>,
}

impl NotYetArgs {
    /// Refuses the first of the flags that is there.
    pub(crate) fn refuse(&self) -> Result<(), Failure> {
        let refused = |flag: &str| refuse_key(&flag.replace('-', "_"), &format!("--{flag}"));
        self.given.map_or(Ok(()), refused).map_err(Failure::user)
    }
}

impl clap::Args for NotYetArgs {
    fn augment_args(command: Command) -> Command {
        let arg = |flag: &'static str| {
            Arg::new(flag)
                .long(flag)
                .hide(true)
                .num_args(0..=1)
                .action(ArgAction::Append)
                .help("Refused, since it is not there yet")
        };
        FLAGS.iter().fold(command, |command, (flag, _)| command.arg(arg(flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NotYetArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FLAGS.iter().map(|(flag, _)| *flag).find(|flag| matches.contains_id(flag));
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Refuses a key without an effect yet, by the name that the user gave it.
pub(super) fn refuse_key(key: &str, name: &str) -> Result<(), String> {
    match FLAGS.iter().find(|(flag, _)| flag.replace('-', "_") == key) {
        Some((_, instead)) => Err(format!("`{name}` is not there yet: {instead}")),
        None => Ok(()),
    }
}

/// What to use instead of a value without a meaning yet.
pub(super) fn instead_of(key: &str, value: &str) -> Option<&'static str> {
    VALUES.iter().find(|(known, name, _)| *known == key && *name == value).map(|(.., instead)| *instead)
}

/// Refuses values without a meaning yet.
pub(super) fn refuse_values(
    values: &Map<String, Value>,
    origin: impl Fn(&str) -> String,
) -> Result<(), Failure> {
    for (key, value) in values {
        refuse_value(key, value)
            .map_err(|problem| Failure::user(format!("{problem} (from {})", origin(key))))?;
    }
    Ok(())
}

/// Refuses a value without a meaning yet.
pub(crate) fn refuse_value(key: &str, value: &Value) -> Result<(), String> {
    match value.as_str().and_then(|value| instead_of(key, value).map(|instead| (value, instead))) {
        Some((value, instead)) => Err(format!("`{key}` {value} is not there yet: {instead}")),
        None => Ok(()),
    }
}
