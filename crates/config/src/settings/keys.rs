//! The names of settings: keys of files, their other names, and the variables of the environment.

use serde::Serialize;
use servecast_engine::EngineArgs;
use servecast_types::{foreign, similar};

use super::{ReplayConfig, router};
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

/// Keys that nobody is pointed to.
const HIDDEN: [&str; 1] = ["plain"];

/// A key that no configuration has, and the one that it is most like.
pub(super) struct UnknownKey {
    pub(super) message: String,
    similar: Option<String>,
}

/// Whether a configuration may have a key of this name.
pub fn is_key(name: &str) -> bool {
    known_key(name).is_ok()
}

/// The name of a key that may be given by another one.
pub(super) fn known_key(key: &str) -> Result<String, UnknownKey> {
    if let Some((_, canonical)) = ALIASES.iter().find(|(alias, _)| *alias == key) {
        return Ok((*canonical).to_owned());
    }
    let known = keys();
    if known.iter().any(|known| known == key) {
        return Ok(key.to_owned());
    }
    let message = |end: &str| Err(UnknownKey { message: format!("`{key}` {end}"), similar: None });
    if router::is_setting(key) {
        return message("is a setting of the KV router: it belongs into `router_config`");
    }
    if let Some(foreign) = foreign(key) {
        let message =
            format!("unknown key `{key}`: {}", foreign.sentence(|setting| located(setting, &known)));
        return Err(UnknownKey { message, similar: None });
    }
    if EngineArgs::keys().iter().any(|known| known == key) {
        return message(
            "is a setting of the engine: it belongs into `engine_args`, or into `prefill_engine_args` and \
             `decode_engine_args`",
        );
    }
    let similar = similar_key(key, &known);
    let suggestion = similar.as_deref().map_or_else(String::new, |key| format!(", did you mean `{key}`?"));
    Err(UnknownKey { message: format!("unknown key `{key}`{suggestion}"), similar })
}

/// Where a setting stands in a configuration.
fn located(setting: &str, known: &[String]) -> String {
    if known.iter().any(|known| known == setting) {
        format!("`{setting}`")
    } else if router::is_setting(setting) {
        format!("`{setting}` of `router_config`")
    } else {
        format!("`{setting}` of `engine_args`")
    }
}

fn similar_key(key: &str, known: &[String]) -> Option<String> {
    let shown = known.iter().map(String::as_str).filter(|known| !HIDDEN.contains(known));
    similar(key, shown).map(str::to_owned)
}

/// The key that an environment variable is for.
pub(super) fn variable_key(name: &str) -> Result<String, Failure> {
    let key = name[PREFIX.len()..].to_ascii_lowercase();
    let similar = match known_key(&key) {
        Ok(known) if name == variable(&key) => return Ok(known),
        Ok(_) => Some(key),
        Err(error) => {
            if let Some(foreign) = foreign(&key) {
                let sentence = foreign.sentence(variable);
                return Err(Failure::user(format!("unknown environment variable `{name}`: {sentence}")));
            }
            let of_router = router::variables().map(|name| name[PREFIX.len()..].to_ascii_lowercase());
            let known: Vec<String> = keys().into_iter().chain(of_router).collect();
            let is_known = known.contains(&key);
            if is_known { Some(key) } else { error.similar.or_else(|| similar_key(&key, &known)) }
        }
    };
    let suggestion = similar.map_or_else(String::new, |key| format!(", did you mean `{}`?", variable(&key)));
    Err(Failure::user(format!("unknown environment variable `{name}`{suggestion}")))
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}
