//! The names of settings: keys of files, their other names, and the variables of the environment.

use serde::Serialize;
use servecast_engine::{ConfigError, check_key};

use super::{ReplayConfig, not_yet, router};
use crate::error::Failure;

/// Environment variables that are settings begin with this.
pub(super) const PREFIX: &str = "SERVECAST_";

/// Other names of keys: those of flags, and an older one.
const ALIASES: [(&str, &str); 5] = [
    ("extra_engine_args", "engine_args"),
    ("workers", "num_workers"),
    ("prefill_workers", "num_prefill_workers"),
    ("decode_workers", "num_decode_workers"),
    ("sla_itl_ms", "sla_tpot_ms"),
];

/// The keys that a configuration may have.
pub(super) fn keys() -> Vec<String> {
    keys_of::<ReplayConfig>()
}

/// The keys of a part of the settings.
pub(super) fn keys_of<T: Default + Serialize>() -> Vec<String> {
    let defaults = serde_json::to_value(T::default()).expect("settings are plain data");
    defaults.as_object().expect("settings are an object").keys().cloned().collect()
}

/// A key that no configuration has, and the one that it is most like.
pub(super) struct UnknownKey {
    pub(super) message: String,
    similar: Option<String>,
}

/// The name of a key that may be given by another one.
pub(super) fn known_key(key: &str) -> Result<String, UnknownKey> {
    if let Some((_, canonical)) = ALIASES.iter().find(|(alias, _)| *alias == key) {
        return Ok((*canonical).to_owned());
    }
    if router::is_setting(key) {
        let message = format!("`{key}` is a setting of the KV router: it belongs into `router_config`");
        return Err(UnknownKey { message, similar: None });
    }
    similar_key(key, &keys()).map(|()| key.to_owned())
}

fn similar_key(key: &str, known: &[String]) -> Result<(), UnknownKey> {
    check_key(key, known).map_err(|error| UnknownKey {
        message: error.to_string(),
        similar: match error {
            ConfigError::UnknownKey { similar, .. } => similar,
            _ => None,
        },
    })
}

/// The key that an environment variable is for.
pub(super) fn variable_key(name: &str) -> Result<String, Failure> {
    let key = name[PREFIX.len()..].to_ascii_lowercase();
    not_yet::refuse_key(&key, name).map_err(Failure::user)?;
    let similar = match known_key(&key) {
        Ok(known) if name == variable(&key) => return Ok(known),
        Ok(_) => Some(key),
        Err(_) => {
            let of_router = router::variables().map(|name| name[PREFIX.len()..].to_ascii_lowercase());
            let known: Vec<String> = keys().into_iter().chain(of_router).collect();
            match similar_key(&key, &known) {
                Ok(()) => Some(key),
                Err(error) => error.similar,
            }
        }
    };
    let suggestion = similar.map_or_else(String::new, |key| format!(", did you mean `{}`?", variable(&key)));
    Err(Failure::user(format!("unknown environment variable `{name}`{suggestion}")))
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}
