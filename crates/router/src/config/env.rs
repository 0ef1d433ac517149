//! Settings from environment variables.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use serde_json::{Map, Value};

use super::{FIELDS, Field, KvRouterConfig};
use crate::ConfigError;

/// Variables of the router that are servecast's own begin with this.
const OWN: &str = "SERVECAST_ROUTER_";
/// The variable with all settings as one JSON object.
const WHOLE: &str = "SERVECAST_ROUTER_CONFIG";
/// A variable of the command line's with the same beginning.
const MODE: &str = "SERVECAST_ROUTER_MODE";

/// A setting that a variable has.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvSetting {
    /// The setting.
    pub field: &'static Field,
    /// The variable.
    pub name: &'static str,
    /// Its value, checked.
    pub value: Value,
}

impl EnvSetting {
    /// Whether the variable is servecast's own, and not one that it accepts from users of others.
    pub fn is_own(&self) -> bool {
        self.name.starts_with(OWN)
    }
}

/// The settings that an environment has, in the order of [`FIELDS`] and, of one setting, of precedence. `variable` looks
/// a variable up; an empty one counts as absent.
///
/// # Errors
/// A value that is no value of its setting, even if it loses against another: nobody wants to find it bad later.
pub fn env_settings<'a>(
    variable: impl Fn(&str) -> Option<&'a OsStr>,
) -> Result<Vec<EnvSetting>, ConfigError> {
    let mut settings = Vec::new();
    for field in FIELDS {
        for &name in field.env {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else { continue };
            settings.push(EnvSetting { field, name, value: field.parse(name, utf8(name, text)?)? });
        }
    }
    Ok(settings)
}

fn utf8<'a>(name: &str, text: &'a OsStr) -> Result<&'a str, ConfigError> {
    text.to_str().ok_or_else(|| ConfigError::NotUtf8 { name: name.to_owned() })
}

impl KvRouterConfig {
    /// The settings in an environment, given as names and values; other variables are passed over.
    ///
    /// Of several names of one setting servecast's own wins, then `SERVECAST_ROUTER_CONFIG` with an object of settings,
    /// then the first in [`FIELDS`].
    ///
    /// # Errors
    /// Bad values, variables of servecast's that are no settings, and a setting that two of them have differently.
    pub fn from_env<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        let variables: BTreeMap<OsString, OsString> = variables
            .into_iter()
            .map(|(name, text)| (name.as_ref().to_owned(), text.as_ref().to_owned()))
            .collect();
        let variable = |name: &str| variables.get(OsStr::new(name)).map(OsString::as_os_str);
        refuse_unknown(variables.keys())?;
        let mut object = match variable(WHOLE).filter(|text| !text.is_empty()) {
            Some(text) => whole(utf8(WHOLE, text)?)?,
            None => Map::new(),
        };
        for EnvSetting { field, name, value } in env_settings(variable)? {
            match object.get(field.key) {
                None => _ = object.insert(field.key.to_owned(), value),
                Some(found) if name.starts_with(OWN) && !same(field, found, &value)? => {
                    return Err(ConfigError::GivenTwice {
                        name: name.to_owned(),
                        value: value.to_string(),
                        other: WHOLE.to_owned(),
                        key: field.key,
                        found: found.to_string(),
                    });
                }
                Some(_) => {}
            }
        }
        Self::from_object(&object)
    }
}

fn whole(text: &str) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(ConfigError::wrong(WHOLE, format!("`{text}`"), "expected a JSON object with settings")),
    }
}

/// Whether two values of a setting mean the same.
fn same(field: &Field, one: &Value, other: &Value) -> Result<bool, ConfigError> {
    let meaning =
        |value: &Value| KvRouterConfig::from_object(&Map::from_iter([(field.key.to_owned(), value.clone())]));
    Ok(meaning(one)? == meaning(other)?)
}

/// Refuses variables that look like settings and are none.
fn refuse_unknown<'a>(names: impl Iterator<Item = &'a OsString>) -> Result<(), ConfigError> {
    let of = |fields: Vec<&'static Field>| {
        fields.into_iter().flat_map(|field| field.env).copied().filter(|name| name.starts_with(OWN))
    };
    let known = || of(FIELDS.iter().collect());
    let shown = || of(FIELDS.iter().filter(|field| field.has_effect()).collect());
    for name in names.filter_map(|name| name.to_str()) {
        let upper = name.to_ascii_uppercase();
        if !upper.starts_with(OWN) || [WHOLE, MODE].contains(&name) || known().any(|known| known == name) {
            continue;
        }
        let distance = |other: &&str| strsim::damerau_levenshtein(&upper, other);
        let similar = shown().chain([WHOLE]).min_by_key(distance).filter(|other| distance(other) <= 4);
        return Err(ConfigError::UnknownVariable {
            name: name.to_owned(),
            similar: similar.map(str::to_owned),
        });
    }
    Ok(())
}
