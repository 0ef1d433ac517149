//! Why settings were refused, in words that name the key, what was found and what would be right.

use serde_json::Value;
use servecast_latency::LatencyError;
use servecast_types::{foreign, similar};

/// Why settings were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Something else where an object is expected.
    #[error("expected a JSON object such as {{\"block_size\": 64}}, found {found}")]
    NoObject {
        /// What was found.
        found: &'static str,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}`{}", suggestion(key, .similar.as_deref()))]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that is most like it.
        similar: Option<String>,
    },
    /// A value of the wrong type or out of its range.
    #[error("`{key}` is {found}: {problem}")]
    WrongValue {
        /// The key.
        key: String,
        /// Its value, as JSON.
        found: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Conflict(String),
    /// Something that servecast does not do yet.
    #[error("`{key}` is {found}, which is not supported yet: {instead}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// Speedups that are no positive numbers.
    #[error(transparent)]
    Latency(#[from] LatencyError),
}

/// What to do about an unknown key: what there is for a setting of another tool, or the key that was probably meant.
fn suggestion(key: &str, similar: Option<&str>) -> String {
    if let Some(foreign) = foreign(key) {
        return format!(": {}", foreign.sentence(|setting| format!("`{setting}`")));
    }
    similar.map_or_else(String::new, |key| format!(", did you mean `{key}`?"))
}

impl ConfigError {
    /// A value that is refused, with what would be right.
    pub(crate) fn wrong(key: &str, found: impl std::fmt::Display, problem: impl Into<String>) -> Self {
        Self::WrongValue { key: key.to_owned(), found: format!("{found}"), problem: problem.into() }
    }
}

/// Refuses a key that is not among `known`, naming what there is for it, or the one most like it.
pub fn check_key(key: &str, known: &[String]) -> Result<(), ConfigError> {
    if known.iter().any(|other| other == key) {
        return Ok(());
    }
    let shown = known.iter().map(String::as_str).filter(|known| !is_refused(known));
    let similar = similar(key, shown).filter(|_| foreign(key).is_none());
    Err(ConfigError::UnknownKey { key: key.to_owned(), similar: similar.map(str::to_owned) })
}

/// Whether a key is there only to be refused or passed over, so that nobody is pointed to it.
fn is_refused(key: &str) -> bool {
    key.starts_with("aic_") || key == "has_perf_model"
}

/// The problem of a value that `serde` refused, from its message.
pub(crate) fn rephrase(message: &str) -> String {
    let expected = message.rsplit_once("expected ").map_or(message, |(_, expected)| expected);
    match expected {
        "u16" => format!("expected a whole number from 0 to {}", u16::MAX),
        "u32" => format!("expected a whole number from 0 to {}", u32::MAX),
        "u64" => format!("expected a whole number from 0 to {}", u64::MAX),
        "i64" => "expected a whole number".to_owned(),
        "f64" => "expected a number".to_owned(),
        "a boolean" => "expected true or false".to_owned(),
        "a map" => "expected an object".to_owned(),
        "a sequence" => "expected a list".to_owned(),
        other if other.starts_with("struct ") => "expected an object".to_owned(),
        other => format!("expected {other}"),
    }
}

/// What kind of JSON a value is, with its article.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
