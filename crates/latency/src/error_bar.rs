//! How far off times are, as far as that was measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far off TPOT and TTFT are on real servers whose runs were measured, as shares of what was measured: 0.13 is 13 %.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorBar {
    /// What nine of ten runs do not exceed, either way: TPOT.
    pub tpot_p90: Option<f64>,
    /// The same of TTFT.
    pub ttft_p90: Option<f64>,
    /// Mean of the errors without their signs: TPOT.
    pub tpot_mape: Option<f64>,
    /// The same of TTFT.
    pub ttft_mape: Option<f64>,
    /// How many runs.
    pub n: Option<u64>,
    /// Which runs they were, none of which was fitted to; why nothing is known where there is none.
    pub basis: String,
}

impl ErrorBar {
    /// Nothing is known, for this reason.
    pub fn unknown(reason: &str) -> Self {
        Self { basis: reason.to_owned(), ..Self::default() }
    }

    /// Its figures by name, as far as there are any.
    pub fn shares(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let shares = [
            ("tpot_p90", self.tpot_p90),
            ("ttft_p90", self.ttft_p90),
            ("tpot_mape", self.tpot_mape),
            ("ttft_mape", self.ttft_mape),
        ];
        shares.into_iter().filter_map(|(name, share)| Some((name, share?)))
    }

    /// The first figure that is no share of a time, if there is one.
    pub fn problem(&self) -> Option<(&'static str, f64)> {
        self.shares().find(|(_, share)| !(share.is_finite() && *share >= 0.0))
    }
}
