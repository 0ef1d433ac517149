//! The settings of the KV router: flags, variables and keys come from one table.
//!
//! ```text
//!  defaults < [router_config] of the file < variables < --router-config < flags of single settings
//! ```

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde_json::{Map, Value, json};
use servecast_router::{EnvSetting, FIELDS, Field, Kind, KvRouterConfig, env_settings};
use servecast_types::{Message, message};

use super::keys::PREFIX;
use super::layers::{Layers, Origin};
use super::{KV_ROUTER, not_yet};
use crate::error::Failure;

/// The key that holds all of them.
const KEY: &str = "router_config";

/// What says something about single settings, or comes after variables that do.
#[derive(Debug)]
pub struct RouterGiven {
    /// The environment.
    pub variables: BTreeMap<OsString, OsString>,
    /// `--router-config`.
    pub config: Option<Map<String, Value>>,
    /// The flags of single settings.
    pub flags: RouterFlags,
}

/// Lays settings of the KV router over those of a file; the mode of the router has to be there already.
pub fn add_router(layers: &mut Layers, given: RouterGiven) -> Result<(), Failure> {
    add_variables(layers, &given.variables)?;
    let whole = Origin::flag(KEY);
    layers.add(KEY, given.config.map_or(Value::Null, Value::Object), &whole)?;
    for Typed { field, flag, text } in given.flags.0 {
        let value = field.parse(flag, &text).map_err(Failure::user)?;
        let is_in_config = layers.origin(&path(field)) == Some(&whole);
        add(layers, field, value, &Origin::Flag(flag.to_owned()), is_in_config)?;
    }
    Ok(())
}

/// Adds variables: our own over others. Others are meant for another program unless there is a KV router.
fn add_variables(layers: &mut Layers, variables: &BTreeMap<OsString, OsString>) -> Result<(), Failure> {
    let is_kv_router = layers.value("router_mode") == Some(&json!("kv_router"));
    let is_meant = |name: &str| is_kv_router || name.starts_with(PREFIX);
    let variable =
        |name: &str| variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|_| is_meant(name));
    for setting in env_settings(variable).map_err(Failure::user)? {
        let is_own = setting.is_own();
        let EnvSetting { field, name, value } = setting;
        let is_given = matches!(layers.origin(&path(field)), Some(Origin::Variable(_)));
        if is_own || !is_given {
            add(layers, field, value, &Origin::Variable(name.to_owned()), is_given)?;
        }
    }
    Ok(())
}

/// Lays a setting over what is there, which has to be the same if it comes from the same place.
fn add(
    layers: &mut Layers,
    field: &Field,
    value: Value,
    origin: &Origin,
    must_agree: bool,
) -> Result<(), Failure> {
    let object = |value: Value| Value::Object(Map::from_iter([(field.key.to_owned(), value)]));
    let found = layers.value(KEY).and_then(|config| config.get(field.key));
    if let (true, Some(found)) = (must_agree, found) {
        let meaning = |value: &Value| {
            KvRouterConfig::from_json(&object(value.clone())).map_err(|error| layers.refused(error))
        };
        if meaning(found)? != meaning(&value)? {
            let other = layers.origin(&path(field)).unwrap_or(origin);
            return Err(Failure::user(message!(
                "`{}` is {}, but `{}` has {} {}: give it once",
                origin.to_string(),
                value,
                other.to_string(),
                Message::key(field.key),
                found
            )));
        }
    }
    layers.add(KEY, object(value), origin)
}

/// Where [`Layers`] have the origin of a setting.
fn path(field: &Field) -> String {
    format!("{KEY}.{}", field.key)
}

/// Whether a key is that of a setting of the KV router.
pub(super) fn is_setting(key: &str) -> bool {
    FIELDS.iter().any(|field| field.key == key)
}

/// Whether a variable is that of a single setting of the KV router.
pub(super) fn is_variable(name: &str) -> bool {
    FIELDS.iter().any(|field| field.env.contains(&name))
}

/// Our own variables of single settings.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().flat_map(|field| field.env).copied().filter(|name| name.starts_with(PREFIX))
}

/// What settings are that are not given.
pub(super) fn default_settings() -> Map<String, Value> {
    match serde_json::to_value(KvRouterConfig::default()) {
        Ok(Value::Object(defaults)) => defaults,
        other => unreachable!("settings are plain data in an object: {other:?}"),
    }
}

/// The flags of single settings, as far as they were given.
#[derive(Debug, Clone, Default)]
pub struct RouterFlags(Vec<Typed>);

#[derive(Debug, Clone)]
struct Typed {
    field: &'static Field,
    flag: &'static str,
    text: String,
}

impl clap::Args for RouterFlags {
    fn augment_args(command: Command) -> Command {
        FIELDS.iter().fold(command, |command, field| command.args(on(field)).args(off(field)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RouterFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for field in FIELDS {
            if let Some(&flag) = field.flags.first()
                && let Some(text) = matches.get_one::<String>(field.key)
            {
                given.push(Typed { field, flag, text: text.clone() });
            }
            if let Some(&flag) = field.no_flags.first()
                && matches.get_flag(flag)
            {
                given.push(Typed { field, flag, text: "false".to_owned() });
            }
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag that sets a field, if it has one.
fn on(field: &'static Field) -> Option<Arg> {
    let arg = named(Arg::new(field.key), field.flags)?.help(field.doc);
    let arg = arg.hide(!field.has_effect());
    Some(match field.kind {
        Kind::Bool => {
            arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
        }
        Kind::Number => arg.value_name("NUMBER"),
        Kind::OptionalNumber => arg.value_name("NUMBER|none"),
        Kind::Integer => arg.value_name("N"),
        Kind::OptionalInteger => arg.value_name("N|none"),
        Kind::Choice => {
            let value = |name: &&'static str| {
                PossibleValue::new(*name).hide(not_yet::instead_of(field.key, name).is_some())
            };
            arg.value_name("NAME")
                .value_parser(PossibleValuesParser::new(field.choices().iter().map(value)))
                .ignore_case(true)
        }
    })
}

/// The flag that switches a field off, if it has one.
fn off(field: &'static Field) -> Option<Arg> {
    let (&flag, &on) = (field.no_flags.first()?, field.flags.first()?);
    let arg = named(Arg::new(flag), field.no_flags)?.help(format!("The same as {on}=false"));
    let arg = arg.action(ArgAction::SetTrue).conflicts_with(field.key);
    Some(arg.hide_short_help(true).hide(!field.has_effect()))
}

fn named(arg: Arg, flags: &'static [&'static str]) -> Option<Arg> {
    let long = |flag: &'static str| flag.trim_start_matches('-');
    let (first, others) = flags.split_first()?;
    Some(arg.long(long(first)).visible_aliases(others.iter().map(|flag| long(flag))).help_heading(KV_ROUTER))
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::super::value::json_object;
    use super::*;

    /// What a setting is after a file, variables, `--router-config` and flags.
    struct Case<'a> {
        file: &'a str,
        variables: &'a [(&'a str, &'a str)],
        config: &'a str,
        flags: &'a [&'a str],
    }

    const NOTHING: Case<'_> = Case { file: "{}", variables: &[], config: "", flags: &[] };

    fn flags(arguments: &[&str]) -> Result<RouterFlags, clap::Error> {
        let command = RouterFlags::augment_args(Command::new("test"));
        let matches = command.try_get_matches_from([&["test"], arguments].concat())?;
        RouterFlags::from_arg_matches(&matches)
    }

    fn layers(mode: &str, case: &Case<'_>) -> Result<Layers, String> {
        let mut layers = Layers::default();
        let file = Origin::File("a.toml".into());
        layers.add("router_mode", mode.into(), &file).unwrap();
        layers.add(KEY, json_object(case.file).unwrap().into(), &file).unwrap();
        let variables: Vec<(OsString, OsString)> =
            case.variables.iter().map(|(name, text)| (name.into(), text.into())).collect();
        let told = |failure: Failure| failure.message().to_string();
        layers.add_environment(variables.clone()).map_err(told)?;
        let given = RouterGiven {
            variables: variables.into_iter().collect(),
            config: Some(case.config).filter(|text| !text.is_empty()).map(|text| json_object(text).unwrap()),
            flags: flags(case.flags).unwrap(),
        };
        add_router(&mut layers, given).map_err(told)?;
        Ok(layers)
    }

    #[test]
    fn the_most_specific_place_wins() {
        const OURS: (&str, &str) = ("SERVECAST_ROUTER_TEMPERATURE", "0.2");
        const THEIRS: (&str, &str) = ("DYN_ROUTER_TEMPERATURE", "0.3");
        const WHOLE: (&str, &str) = ("SERVECAST_ROUTER_CONFIG", "{\"router_temperature\": 0.4}");
        let file = r#"{"router_temperature": 0.1}"#;
        let config = r#"{"router_temperature": 0.5}"#;
        let flags = &["--router-temperature", "0.6"][..];
        for (expected, origin, case) in [
            (0.1, "a.toml", Case { file, ..NOTHING }),
            (0.3, THEIRS.0, Case { file, variables: &[THEIRS], ..NOTHING }),
            (0.2, OURS.0, Case { file, variables: &[THEIRS, OURS], ..NOTHING }),
            (0.4, WHOLE.0, Case { file, variables: &[THEIRS, WHOLE], ..NOTHING }),
            (0.5, "--router-config", Case { file, variables: &[OURS], config, ..NOTHING }),
            (0.6, flags[0], Case { file, variables: &[OURS, THEIRS], flags, ..NOTHING }),
            (0.6, flags[0], Case { config: r#"{"router_temperature": 6e-1}"#, flags, ..NOTHING }),
        ] {
            let layers = layers("kv_router", &case).unwrap();
            assert_eq!(layers.value(KEY).unwrap()["router_temperature"], expected);
            assert_eq!(layers.origin("router_config.router_temperature").unwrap().to_string(), origin);
        }
        for (expected, case) in [
            (
                "`--router-temperature` is 0.6, but `--router-config` has `router_temperature` 0.5: give it once",
                Case { file, config, flags, ..NOTHING },
            ),
            (
                "`SERVECAST_ROUTER_TEMPERATURE` is 0.2, but `SERVECAST_ROUTER_CONFIG` has `router_temperature` 0.4: give it once",
                Case { variables: &[OURS, WHOLE], ..NOTHING },
            ),
        ] {
            assert_eq!(layers("kv_router", &case).unwrap_err(), expected);
        }
    }

    #[test]
    fn settings_of_several_places_are_laid_over_one_another_key_by_key() {
        let case = Case {
            file: r#"{"router_temperature": 0.1, "router_queue_threshold": 2}"#,
            variables: &[("DYN_USE_KV_EVENTS", "off"), ("DYN_OVERLAP_SCORE_WEIGHT", "")],
            config: r#"{"router_queue_policy": "lcfs"}"#,
            flags: &["--router-queue-threshold", "none", "--no-router-assume-kv-reuse"],
        };
        assert_eq!(
            layers("kv_router", &case).unwrap().value(KEY).unwrap(),
            &json!({
                "router_temperature": 0.1,
                "router_queue_threshold": null,
                "use_kv_events": false,
                "router_queue_policy": "lcfs",
                "router_assume_kv_reuse": false,
            })
        );
    }

    #[test]
    fn variables_of_others_are_theirs_without_a_kv_router() {
        let variables =
            &[("DYN_ROUTER_TEMPERATURE", "hot"), ("SERVECAST_ROUTER_TTL_SECS", "3"), ("DYN_X", "1")][..];
        let case = Case { variables, ..NOTHING };
        let config = layers("random", &case).unwrap();
        assert_eq!(config.value(KEY).unwrap(), &json!({"router_ttl_secs": 3.0}));
        assert_eq!(
            layers("kv_router", &case).unwrap_err(),
            "`DYN_ROUTER_TEMPERATURE` is `hot`: expected a number"
        );
    }

    #[test]
    fn every_field_has_its_flags_and_variables() {
        for field in FIELDS {
            let text = match field.kind {
                Kind::Bool => "false",
                Kind::Choice => field.choices()[0],
                _ => "1",
            };
            let value = field.parse(field.key, text).unwrap();
            let set =
                |case: &Case<'_>| layers("kv_router", case).unwrap().value(KEY).unwrap()[field.key].clone();
            for flag in field.flags {
                assert_eq!(set(&Case { flags: &[&format!("{flag}={text}")], ..NOTHING }), value, "{flag}");
                let typed: &[&str] = if field.kind == Kind::Bool { &[flag] } else { &[flag, text] };
                let expected = if field.kind == Kind::Bool { json!(true) } else { value.clone() };
                assert_eq!(set(&Case { flags: typed, ..NOTHING }), expected, "{flag}");
                for no_flag in field.no_flags {
                    assert!(flags(&[flag, no_flag]).is_err(), "{flag} {no_flag}");
                }
            }
            for flag in field.no_flags {
                assert_eq!(set(&Case { flags: &[flag], ..NOTHING }), false, "{flag}");
            }
            for &name in field.env {
                assert_eq!(set(&Case { variables: &[(name, text)], ..NOTHING }), value, "{name}");
                let case = Case { variables: &[(name, "?")], ..NOTHING };
                assert!(layers("kv_router", &case).unwrap_err().starts_with(&format!("`{name}` is `?`: ")));
            }
        }
    }

    #[test]
    fn misspelt_variables_are_refused() {
        let error = |name| layers("kv_router", &Case { variables: &[(name, "1")], ..NOTHING }).unwrap_err();
        for name in ["SERVECAST_ROUTER_TEMPERATUR", "SERVECAST_router_temperature"] {
            assert_eq!(
                error(name),
                format!(
                    "unknown environment variable `{name}`, did you mean `SERVECAST_ROUTER_TEMPERATURE`?"
                )
            );
        }
    }
}
