//! What a single request may ask for, and what then holds for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use servecast_types::foreign;

use super::field::kind_of;
use super::settings::{RouterSettings, not_negative};
use crate::ConfigError;

/// Settings of one request that replace those of the router; absent ones stay.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfigOverride {
    /// Replaces `overlap_score_weight`; at least 0.
    pub overlap_score_weight: Option<f64>,
    /// Replaces `router_temperature`; at least 0.
    pub router_temperature: Option<f64>,
    /// Replaces `router_assume_kv_reuse`.
    pub assume_kv_reuse: Option<bool>,
    /// Replaces `router_track_prefill_tokens`.
    pub track_prefill_tokens: Option<bool>,
}

impl RouterConfigOverride {
    /// What holds for the decode stage of a disaggregated request, whatever the request itself asks for: its prompt
    /// is computed elsewhere, so only the blocks count that it will occupy.
    pub const DECODE_STAGE: Self = Self {
        overlap_score_weight: Some(0.0),
        router_temperature: None,
        assume_kv_reuse: Some(false),
        track_prefill_tokens: Some(false),
    };

    /// The overrides in a JSON object; those that are absent or null are none.
    pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
        let object =
            value.as_object().ok_or_else(|| ConfigError::NoObject { found: kind_of(value).to_owned() })?;
        let mut overrides = Self::default();
        for (key, found) in object.iter().filter(|(_, value)| !value.is_null()) {
            let number = || found.as_f64().ok_or_else(|| ConfigError::wrong(key, found, "expected a number"));
            let boolean =
                || found.as_bool().ok_or_else(|| ConfigError::wrong(key, found, "expected true or false"));
            match key.as_str() {
                "overlap_score_weight" => overrides.overlap_score_weight = Some(number()?),
                "router_temperature" => overrides.router_temperature = Some(number()?),
                "assume_kv_reuse" => overrides.assume_kv_reuse = Some(boolean()?),
                "track_prefill_tokens" => overrides.track_prefill_tokens = Some(boolean()?),
                _ => return Err(Self::unknown(key)),
            }
        }
        overrides.check()?;
        Ok(overrides)
    }

    fn unknown(key: &str) -> ConfigError {
        const KEYS: [&str; 4] =
            ["overlap_score_weight", "router_temperature", "assume_kv_reuse", "track_prefill_tokens"];
        let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(key, known);
        let similar = KEYS.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let similar = similar.filter(|known| likeness(known) > 0.5 && foreign(key).is_none());
        let similar = similar.map(str::to_owned);
        ConfigError::UnknownKey { key: key.to_owned(), similar }
    }

    /// These overrides with those of `top` in front.
    #[must_use]
    pub fn under(self, top: Self) -> Self {
        Self {
            overlap_score_weight: top.overlap_score_weight.or(self.overlap_score_weight),
            router_temperature: top.router_temperature.or(self.router_temperature),
            assume_kv_reuse: top.assume_kv_reuse.or(self.assume_kv_reuse),
            track_prefill_tokens: top.track_prefill_tokens.or(self.track_prefill_tokens),
        }
    }

    /// Checks the ranges.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let number = |key, value: Option<f64>| value.map_or(Ok(()), |value| not_negative(key, value));
        number("overlap_score_weight", self.overlap_score_weight)?;
        number("router_temperature", self.router_temperature)
    }
}

/// What holds for one request: the router's settings with the request's overrides. Taken once, when the request
/// comes in, and used from projection to booking.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EffectiveSettings {
    /// Weight of the prefill term.
    pub overlap_score_weight: f64,
    /// Randomness of the choice.
    pub router_temperature: f64,
    /// Whether tracked blocks are shared with other requests.
    pub assume_kv_reuse: bool,
    /// Whether uncached prompt tokens count as load.
    pub track_prefill_tokens: bool,
}

impl EffectiveSettings {
    pub(crate) fn new(settings: &RouterSettings, overrides: RouterConfigOverride) -> Self {
        Self {
            overlap_score_weight: overrides.overlap_score_weight.unwrap_or(settings.overlap_score_weight()),
            router_temperature: overrides.router_temperature.unwrap_or(settings.router_temperature()),
            assume_kv_reuse: overrides.assume_kv_reuse.unwrap_or(settings.assume_kv_reuse()),
            track_prefill_tokens: overrides.track_prefill_tokens.unwrap_or(settings.track_prefill_tokens()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overrides_are_read_from_json() {
        let overrides = RouterConfigOverride::from_json(&json!({
            "overlap_score_weight": 2, "assume_kv_reuse": false, "router_temperature": null
        }));
        let expected = RouterConfigOverride {
            overlap_score_weight: Some(2.0),
            assume_kv_reuse: Some(false),
            ..RouterConfigOverride::default()
        };
        assert_eq!(overrides, Ok(expected));
        for (value, message) in [
            (
                json!({"router_temperatur": 1}),
                "unknown router setting `router_temperatur`, did you mean `router_temperature`?",
            ),
            (json!({"x": 1}), "unknown router setting `x`"),
            (json!({"assume_kv_reuse": 1}), "`assume_kv_reuse` is 1: expected true or false"),
            (
                json!({"router_temperature": -1}),
                "`router_temperature` is -1: expected a number of at least 0",
            ),
            (json!(3), "expected a JSON object such as {\"router_temperature\": 0.5}, found a number"),
        ] {
            assert_eq!(RouterConfigOverride::from_json(&value).unwrap_err().to_string(), message);
        }
    }
}
