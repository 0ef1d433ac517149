//! Why settings were refused, in words that name the key, what was found and what would be right.

use serde_json::Value;
use servecast_latency::LatencyError;
use servecast_types::{Message, foreign, message, settings_error, similar};

/// Why settings were refused.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Something else where an object is expected.
    NoObject {
        /// What was found.
        found: &'static str,
    },
    /// A key that does not exist.
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that is most like it.
        similar: Option<String>,
    },
    /// A value of the wrong type or out of its range.
    WrongValue {
        /// The key.
        key: String,
        /// Its value, as JSON.
        found: String,
        /// What is wrong with it and what would be right.
        problem: Message,
    },
    /// Values that do not go together.
    Conflict(Message),
    /// Something that servecast does not do yet.
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// Speedups that are no positive numbers.
    Latency(LatencyError),
}

settings_error!(ConfigError);

impl From<LatencyError> for ConfigError {
    fn from(error: LatencyError) -> Self {
        Self::Latency(error)
    }
}

impl From<&ConfigError> for Message {
    fn from(error: &ConfigError) -> Self {
        match error {
            ConfigError::NoObject { found } => {
                format!("expected a JSON object such as {{\"block_size\": 64}}, found {found}").into()
            }
            ConfigError::UnknownKey { key, similar } => {
                message!("unknown key {}{}", Self::key(key), suggestion(key, similar.as_deref()))
            }
            ConfigError::WrongValue { key, found, problem } => {
                message!("{} is {}: {}", Self::key(key), found, problem)
            }
            ConfigError::Conflict(problem) => problem.clone(),
            ConfigError::Unsupported { key, found, instead } => {
                message!("{} is {}, which is not supported yet: {}", Self::key(*key), found, *instead)
            }
            ConfigError::Latency(error) => error.into(),
        }
    }
}

/// What to do about an unknown key: what there is for a setting of another tool, or the key that was probably meant.
fn suggestion(key: &str, similar: Option<&str>) -> String {
    if let Some(foreign) = foreign(key) {
        return format!(": {}", foreign.sentence(|setting| format!("`{setting}`")));
    }
    similar.map_or_else(String::new, |key| format!(", did you mean `{key}`?"))
}

impl ConfigError {
    /// The same of a setting within others, whose path is `prefix`.
    #[must_use]
    pub fn within(self, prefix: &str) -> Self {
        let within = |key: String| format!("{prefix}.{key}");
        match self {
            Self::UnknownKey { key, similar } => {
                Self::UnknownKey { key: within(key), similar: similar.map(within) }
            }
            error => error,
        }
    }

    /// A value that is refused, with what would be right.
    pub(crate) fn wrong(key: &str, found: impl std::fmt::Display, problem: impl Into<Message>) -> Self {
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
