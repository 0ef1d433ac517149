//! How far off times are, as far as that was measured.

/// How far off the times that users see are on servers whose times were measured, as shares of the measured ones.
#[derive(Debug, Clone, PartialEq, Default)]
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
    /// Which runs they were, or why nothing is known.
    pub basis: String,
}

impl ErrorBar {
    /// Nothing is known, for this reason.
    pub fn unknown(reason: &str) -> Self {
        Self { basis: reason.to_owned(), ..Self::default() }
    }
}
