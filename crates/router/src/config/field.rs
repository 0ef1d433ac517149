//! One row of the table of settings.

use serde_json::{Number, Value};
use servecast_types::foreign;

use super::FIELDS;
use crate::ConfigError;

/// A setting with all its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Key in JSON and TOML.
    pub key: &'static str,
    /// What a value looks like.
    pub kind: Kind,
    /// Flags that set it, the current one first; a [`Kind::Bool`] flag stands alone, others take a value.
    pub flags: &'static [&'static str],
    /// Flags that switch it off.
    pub no_flags: &'static [&'static str],
    /// Environment variables that set it, in order of precedence.
    pub env: &'static [&'static str],
    /// What it does, for help texts and references.
    pub doc: &'static str,
}

/// What the value of a setting looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A number, or none.
    OptionalNumber,
    /// A whole number.
    Integer,
    /// A whole number, or none.
    OptionalInteger,
    /// One of a few words.
    Choice,
}

/// Settings of live routers, which change nothing here: there are no replicas, transports or threads.
const WITHOUT_EFFECT: [&str; 8] = [
    "durable_kv_events",
    "router_replica_sync",
    "router_snapshot_threshold",
    "router_reset_states",
    "router_event_threads",
    "skip_initial_worker_wait",
    "use_remote_indexer",
    "serve_indexer",
];

impl Field {
    /// Whether decisions depend on it; settings of live routers are accepted all the same.
    pub fn has_effect(&self) -> bool {
        !WITHOUT_EFFECT.contains(&self.key)
    }

    /// The field of a key, or an error that names the key most like it.
    pub fn by_key(key: &str) -> Result<&'static Self, ConfigError> {
        if let Some(field) = FIELDS.iter().find(|field| field.key == key) {
            return Ok(field);
        }
        // People leave the prefix off, or put it on; that is nearer than any other key.
        let stem = |key: &str| key.strip_prefix("router_").unwrap_or(key).to_owned();
        let distance = |field: &&Self| strsim::damerau_levenshtein(&stem(key), &stem(field.key));
        let shown = FIELDS.iter().filter(|field| field.has_effect());
        let similar = shown.min_by_key(distance).filter(|field| distance(field) <= 1 + key.len() / 3);
        let similar = similar.filter(|_| foreign(key).is_none());
        Err(ConfigError::UnknownKey {
            key: key.to_owned(),
            similar: similar.map(|field| field.key.to_owned()),
        })
    }

    /// The words that a [`Kind::Choice`] can be.
    pub fn choices(&self) -> &'static [&'static str] {
        match self.key {
            "router_queue_policy" => &["fcfs", "lcfs", "wspt"],
            "router_prefill_load_model" => &["none", "aic"],
            _ => &[],
        }
    }

    /// The JSON value of a text, as flags and environment variables have it; `name` is what errors call it.
    pub fn parse(&self, name: &str, text: &str) -> Result<Value, ConfigError> {
        let text = text.trim();
        let word = text.to_ascii_lowercase();
        let none = matches!(word.as_str(), "none" | "null");
        let number = || text.parse().ok().and_then(Number::from_f64).map(Value::Number);
        let integer = || text.parse::<u64>().ok().map(Value::from);
        let value = match self.kind {
            Kind::Bool => match word.as_str() {
                "true" | "1" | "yes" | "on" => Some(Value::Bool(true)),
                "false" | "0" | "no" | "off" => Some(Value::Bool(false)),
                _ => None,
            },
            Kind::OptionalNumber | Kind::OptionalInteger if none => Some(Value::Null),
            Kind::Number | Kind::OptionalNumber => number(),
            Kind::Integer | Kind::OptionalInteger => integer(),
            Kind::Choice => self.choices().contains(&word.as_str()).then_some(Value::String(word)),
        };
        value.ok_or_else(|| {
            let expected = match self.kind {
                Kind::Bool => "expected true, 1, yes or on, or false, 0, no or off".to_owned(),
                _ => self.expectation(),
            };
            ConfigError::wrong(name, format!("`{text}`"), expected)
        })
    }

    /// What a value should be, for messages.
    pub(super) fn expectation(&self) -> String {
        match self.kind {
            Kind::Bool => "expected true or false".to_owned(),
            Kind::Number => "expected a number".to_owned(),
            Kind::OptionalNumber => "expected a number, or null or \"none\" to switch it off".to_owned(),
            Kind::Integer => "expected a whole number, not negative".to_owned(),
            Kind::OptionalInteger => {
                "expected a whole number, not negative, or null or \"none\" to switch it off".to_owned()
            }
            Kind::Choice => format!("expected one of {}", self.choices().join(", ")),
        }
    }
}

/// What kind of JSON a value is, with its article.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_has_no_effect() {
        let without_effect = FIELDS.iter().filter(|field| field.doc.contains("no effect"));
        assert_eq!(without_effect.map(|field| field.key).collect::<Vec<_>>(), WITHOUT_EFFECT);
    }

    #[test]
    fn names_of_other_routers_are_answered_by_what_they_mean() {
        let error = |key| Field::by_key(key).unwrap_err().to_string();
        assert!(error("overlap_score_credit").contains("a cached block counts in full here"));
        assert!(error("prefill_load_scale").contains(": `overlap_score_weight` weighs what is left"));
        assert!(error("host_cache_hit_weight").contains("not simulated"));
        assert_eq!(
            error("router_temperatur"),
            "unknown router setting `router_temperatur`, did you mean `router_temperature`?"
        );
        assert_eq!(error("serve_indexr"), "unknown router setting `serve_indexr`");
    }
}
