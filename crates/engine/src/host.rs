//! Settings of the host of an engine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_latency::{Host, MOST_HOST_US};

use crate::ConfigError;

/// What the host of an engine takes besides passes, in microseconds. A key that is absent has the value of the latency
/// model, which is 0 where that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostArgs {
    /// From the end of a pass to when the next one can begin.
    pub gap_us: Option<f64>,
    /// The same, of each request in the pass that ended.
    pub gap_us_per_request: Option<f64>,
    /// From sending a request to when it is at the engine.
    pub front_end_us: Option<f64>,
    /// The same, of each 1,000 tokens of its prompt.
    pub front_end_us_per_1k_prompt_tokens: Option<f64>,
    /// From the end of a pass to when clients have its tokens; the engine continues meanwhile.
    pub delivery_us: Option<f64>,
    /// The same, of each request in the pass.
    pub delivery_us_per_request: Option<f64>,
}

impl HostArgs {
    /// The settings as they are given, in the order of [`Host::KEYS`].
    fn given(&self) -> [Option<f64>; 6] {
        [
            self.gap_us,
            self.gap_us_per_request,
            self.front_end_us,
            self.front_end_us_per_1k_prompt_tokens,
            self.delivery_us,
            self.delivery_us_per_request,
        ]
    }

    /// These settings over what is known of the host.
    ///
    /// # Errors
    /// For what is no time.
    pub(crate) fn over(&self, known: Host) -> Result<Host, ConfigError> {
        let mut host = known;
        for (key, us) in Host::KEYS.into_iter().zip(self.given()) {
            let (Some(us), Some(value)) = (us, host.value_mut(key)) else { continue };
            if !Host::is_time(us) {
                let problem = format!("expected microseconds from 0 to {MOST_HOST_US:e}");
                return Err(ConfigError::wrong(&format!("host.{key}"), us, problem));
            }
            *value = us;
        }
        Ok(host)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::EngineArgs;

    #[test]
    fn settings_go_over_what_the_model_says() {
        let known = Host { front_end_us: 2000.0, delivery_us: 10.0, ..Host::NONE };
        let given = HostArgs { front_end_us: Some(0.0), gap_us: Some(1300.0), ..HostArgs::default() };
        let host = given.over(known).unwrap();
        assert_eq!(host, Host { gap_us: 1300.0, delivery_us: 10.0, ..Host::NONE });
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let check = |settings, message: &str| {
            let error = EngineArgs::from_json(settings).and_then(|args| args.validate(None)).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        check(json!({"host": {"gap_us": -1}}), "`host.gap_us` is -1: expected microseconds from 0 to 3.6e9");
        check(json!({"host": {"gap_us": "1"}}), "`host.gap_us` is \"1\": expected a number");
        check(json!({"host": {"gap_ms": 1}}), "unknown key `host.gap_ms`, did you mean `host.gap_us`?");
        check(json!({"host": 3}), "`host` is 3: expected an object");
    }
}
