//! Values that users of similar tools will try and servecast does not have yet: refused by name, never ignored.

use serde_json::{Map, Value};
use servecast_types::{Message, message};

use crate::error::Failure;

/// Values without a meaning yet, each with what there is instead.
const VALUES: [(&str, &str, &str); 1] =
    [("router_prefill_load_model", "aic", "a replay does not predict how long a prefill takes: use none")];

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
            .map_err(|problem| Failure::user(problem.with_origins([(key.as_str(), origin(key))])))?;
    }
    Ok(())
}

/// Refuses a value without a meaning yet.
pub fn refuse_value(key: &str, value: &Value) -> Result<(), Message> {
    match value.as_str().and_then(|value| instead_of(key, value).map(|instead| (value, instead))) {
        Some((value, instead)) => {
            Err(message!("{} {} is not there yet: {}", Message::key(key), value, instead))
        }
        None => Ok(()),
    }
}
