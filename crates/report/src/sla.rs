//! Service-level limits, and which requests keep them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::RequestRecord;
use servecast_types::{Duration, Message, message, settings_error};

use crate::latency::tpot_ms;

/// Limits that a request must keep to count towards goodput, and one for single gaps; a limit not given is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sla {
    /// Longest time to first token, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub ttft_ms: Option<f64>,
    /// Longest mean gap between the tokens of a request, in ms. Reports of older releases call it `itl_ms`.
    #[serde(default, alias = "itl_ms", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tpot_ms: Option<f64>,
    /// Longest time from arrival to the last token, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub e2e_ms: Option<f64>,
    /// Longest gap between two tokens, in ms. It judges the gaps of all requests together, and no request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub pooled_itl_ms: Option<f64>,
}

/// Why limits make no sense.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SlaError {
    /// A limit that no request, or every request, would keep by definition.
    Limit {
        /// The setting that gives the limit.
        key: &'static str,
        /// What was given.
        value: f64,
    },
}

settings_error!(SlaError);

impl From<&SlaError> for Message {
    fn from(error: &SlaError) -> Self {
        let SlaError::Limit { key, value } = *error;
        message!("{} must be a finite number of milliseconds above 0, not {}", Self::key(key), value)
    }
}

impl Sla {
    /// Whether no limit is given.
    pub fn is_empty(&self) -> bool {
        self.limits().iter().all(|limit| limit.value.is_none())
    }

    /// Whether a limit is given that requests have to keep.
    pub fn judges_requests(&self) -> bool {
        self.ttft_ms.or(self.tpot_ms).or(self.e2e_ms).is_some()
    }

    /// Checks that every given limit is finite and above 0.
    pub fn validate(&self) -> Result<(), SlaError> {
        for Limit { key, value, .. } in self.limits() {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(SlaError::Limit { key, value });
            }
        }
        Ok(())
    }

    /// Whether `request` was finished within all limits. One token has no gaps, so it keeps any TPOT limit.
    pub fn is_met_by(&self, request: &RequestRecord) -> bool {
        let keeps = |limit: Option<f64>, value: Option<f64>| {
            limit.zip(value).is_none_or(|(limit, value)| value <= limit)
        };
        request.is_finished()
            && keeps(self.ttft_ms, request.ttft().map(Duration::as_ms))
            && keeps(self.tpot_ms, tpot_ms(request))
            && keeps(self.e2e_ms, request.e2e().map(Duration::as_ms))
    }

    /// The limits with the names that users know them by.
    pub(crate) fn limits(&self) -> [Limit; 4] {
        [
            Limit { name: "TTFT", key: "sla_ttft_ms", value: self.ttft_ms },
            Limit { name: "TPOT", key: "sla_tpot_ms", value: self.tpot_ms },
            Limit { name: "E2E", key: "sla_e2e_ms", value: self.e2e_ms },
            Limit { name: "ITL", key: "sla_pooled_itl_ms", value: self.pooled_itl_ms },
        ]
    }
}

pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const NONE: Sla = Sla { ttft_ms: None, tpot_ms: None, e2e_ms: None, pooled_itl_ms: None };

    #[track_caller]
    fn check(sla: Sla, expected: [bool; 4]) {
        let met: Vec<bool> = fixture::run().requests.iter().map(|request| sla.is_met_by(request)).collect();
        assert_eq!(met, expected, "{sla:?}");
    }

    #[test]
    fn a_limit_is_the_longest_time_that_still_counts() {
        check(NONE, [true, true, false, false]);
        check(Sla { ttft_ms: Some(80.0), ..NONE }, [true, true, false, false]);
        check(Sla { ttft_ms: Some(79.9), ..NONE }, [true, false, false, false]);
        check(Sla { tpot_ms: Some(20.0), ..NONE }, [true, true, false, false]);
        check(Sla { tpot_ms: Some(10.0), ..NONE }, [true, false, false, false]);
        check(Sla { e2e_ms: Some(40.0), ..NONE }, [true, false, false, false]);
        check(Sla { ttft_ms: Some(80.0), tpot_ms: Some(20.0), e2e_ms: Some(39.0), ..NONE }, [false; 4]);
    }

    #[test]
    fn one_token_keeps_any_limit_on_gaps() {
        let mut request = fixture::run().requests.swap_remove(0);
        request.output_tokens = 1;
        request.last_token = request.first_token;
        assert!(Sla { tpot_ms: Some(1e-9), ..NONE }.is_met_by(&request));
    }

    #[test]
    fn limits_are_finite_and_above_zero() {
        assert_eq!(NONE.validate(), Ok(()));
        assert_eq!(
            Sla { ttft_ms: Some(1e-9), tpot_ms: Some(5.0), e2e_ms: Some(1e12), pooled_itl_ms: Some(1.0) }
                .validate(),
            Ok(())
        );
        for value in [0.0, -0.0, -1.0, f64::INFINITY, f64::NAN] {
            for (key, sla) in [
                ("sla_ttft_ms", Sla { ttft_ms: Some(value), ..NONE }),
                ("sla_tpot_ms", Sla { tpot_ms: Some(value), ..NONE }),
                ("sla_e2e_ms", Sla { e2e_ms: Some(value), ..NONE }),
                ("sla_pooled_itl_ms", Sla { pooled_itl_ms: Some(value), ..NONE }),
            ] {
                let error = sla.validate().unwrap_err().to_string();
                assert_eq!(
                    error,
                    format!("`{key}` must be a finite number of milliseconds above 0, not {value}")
                );
            }
        }
    }

    #[test]
    fn the_name_of_older_reports_is_read() {
        let sla: Sla = serde_json::from_str(r#"{"itl_ms": 25}"#).unwrap();
        assert_eq!(sla, Sla { tpot_ms: Some(25.0), ..NONE });
        assert_eq!(serde_json::to_string(&sla).unwrap(), r#"{"tpot_ms":25.0}"#);
    }
}
