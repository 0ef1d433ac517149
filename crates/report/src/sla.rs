//! Service-level limits, and which requests keep them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_cluster::record::RequestRecord;
use servecast_types::Duration;

use crate::latency::tpot_ms;

/// Limits that a request must keep to count towards goodput; a limit not given is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sla {
    /// Longest time to first token, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub ttft_ms: Option<f64>,
    /// Longest mean gap between the tokens of a request, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub itl_ms: Option<f64>,
    /// Longest time from arrival to the last token, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub e2e_ms: Option<f64>,
}

/// Why limits make no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SlaError {
    /// A limit that no request, or every request, would keep by definition.
    #[error("`{flag}` must be a finite number of milliseconds above 0, not {value}")]
    Limit {
        /// The command-line flag of the limit.
        flag: &'static str,
        /// What was given.
        value: f64,
    },
}

impl Sla {
    /// Whether no limit is given.
    pub fn is_empty(&self) -> bool {
        self.limits().iter().all(|limit| limit.value.is_none())
    }

    /// Checks that every given limit is finite and above 0.
    pub fn validate(&self) -> Result<(), SlaError> {
        for Limit { flag, value, .. } in self.limits() {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(SlaError::Limit { flag, value });
            }
        }
        Ok(())
    }

    /// Whether `request` was finished within all limits. One token has no gaps, so it keeps any ITL limit.
    pub fn is_met_by(&self, request: &RequestRecord) -> bool {
        let keeps = |limit: Option<f64>, value: Option<f64>| {
            limit.zip(value).is_none_or(|(limit, value)| value <= limit)
        };
        request.is_finished()
            && keeps(self.ttft_ms, request.ttft().map(Duration::as_ms))
            && keeps(self.itl_ms, tpot_ms(request))
            && keeps(self.e2e_ms, request.e2e().map(Duration::as_ms))
    }

    /// The limits with the names that users know them by.
    pub(crate) fn limits(&self) -> [Limit; 3] {
        [
            Limit { name: "TTFT", flag: "--sla-ttft-ms", value: self.ttft_ms },
            Limit { name: "ITL", flag: "--sla-itl-ms", value: self.itl_ms },
            Limit { name: "E2E", flag: "--sla-e2e-ms", value: self.e2e_ms },
        ]
    }
}

pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) flag: &'static str,
    pub(crate) value: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const NONE: Sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: None };

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
        check(Sla { itl_ms: Some(20.0), ..NONE }, [true, true, false, false]);
        check(Sla { itl_ms: Some(10.0), ..NONE }, [true, false, false, false]);
        check(Sla { e2e_ms: Some(40.0), ..NONE }, [true, false, false, false]);
        check(Sla { ttft_ms: Some(80.0), itl_ms: Some(20.0), e2e_ms: Some(39.0) }, [false; 4]);
    }

    #[test]
    fn one_token_keeps_any_limit_on_gaps() {
        let mut request = fixture::run().requests.swap_remove(0);
        request.output_tokens = 1;
        request.last_token = request.first_token;
        assert!(Sla { itl_ms: Some(1e-9), ..NONE }.is_met_by(&request));
    }

    #[test]
    fn limits_are_finite_and_above_zero() {
        assert_eq!(NONE.validate(), Ok(()));
        assert_eq!(Sla { ttft_ms: Some(1e-9), itl_ms: Some(5.0), e2e_ms: Some(1e12) }.validate(), Ok(()));
        for value in [0.0, -0.0, -1.0, f64::INFINITY, f64::NAN] {
            for (flag, sla) in [
                ("--sla-ttft-ms", Sla { ttft_ms: Some(value), ..NONE }),
                ("--sla-itl-ms", Sla { itl_ms: Some(value), ..NONE }),
                ("--sla-e2e-ms", Sla { e2e_ms: Some(value), ..NONE }),
            ] {
                let error = sla.validate().unwrap_err().to_string();
                assert_eq!(
                    error,
                    format!("`{flag}` must be a finite number of milliseconds above 0, not {value}")
                );
            }
        }
    }
}
