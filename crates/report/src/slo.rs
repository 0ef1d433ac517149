//! Service-level objectives: what a run has to keep, as people write it, and whether it does.
//!
//! ```text
//! p95 ttft <= 1s          p99.9 itl < 40ms          mean e2e <= 2m          max tpot <= 80ms
//! goodput >= 99% (ttft <= 2s, tpot <= 50ms)
//! ```
//!
//! Objectives are over the requests that *arrived*: one that was rejected or given up has an infinite TTFT and E2E, an
//! infinite TPOT if two tokens or more were asked for, and is a miss. Figures are compared as they are, not rounded.

use std::fmt;
use std::str::FromStr;

use servecast_record::RequestRecord;
use servecast_types::Duration;

pub(crate) use self::outcome::SloSamples;
pub use self::outcome::{SloOutcome, is_share, render_slo};
pub use self::parse::SloError;
use crate::latency::tpot_ms;

mod outcome;
mod parse;

/// What a run has to keep.
#[derive(Debug, Clone, PartialEq)]
pub enum Slo {
    /// A statistic of a latency is within a limit.
    Latency {
        /// The statistic.
        statistic: Statistic,
        /// The latency, and what its statistic has to keep.
        limit: LatencyLimit,
    },
    /// A share of the requests that arrived keeps all limits.
    Goodput {
        /// The least share, from 0 to 1.
        share: f64,
        /// Whether the share has to be larger than that.
        is_strict: bool,
        /// What each of these requests keeps.
        limits: Vec<LatencyLimit>,
    },
}

/// A statistic of many samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistic {
    /// A percentile from 0 to 100, interpolated as in reports.
    Percentile(f64),
    /// Their sum over their number.
    Mean,
    /// The largest.
    Max,
}

/// A latency that an objective is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// From arrival to the first token.
    Ttft,
    /// The mean gap between the tokens of a request with two tokens or more.
    Tpot,
    /// All gaps between tokens, pooled over all requests.
    Itl,
    /// From arrival to the last token.
    E2e,
}

/// The most that a latency may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyLimit {
    /// The latency.
    pub metric: Metric,
    /// In ms, finite and above 0.
    pub ms: f64,
    /// Whether the limit itself is too much.
    pub is_strict: bool,
}

impl Metric {
    /// All, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::Ttft, Self::Tpot, Self::Itl, Self::E2e];

    /// Its name in objectives.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::E2e => "e2e",
        }
    }

    /// What it was for a request that has ended, in ms; infinite where it was not served, `None` where there is no
    /// sample. Gaps belong to no request.
    pub fn of(self, request: &RequestRecord) -> Option<f64> {
        if self == Self::Itl || (self == Self::Tpot && request.requested_output_tokens < 2) {
            return None;
        }
        if !request.is_finished() {
            return Some(f64::INFINITY);
        }
        match self {
            Self::Ttft => request.ttft().map(Duration::as_ms),
            Self::E2e => request.e2e().map(Duration::as_ms),
            Self::Tpot => tpot_ms(request),
            Self::Itl => None,
        }
    }
}

impl LatencyLimit {
    /// Whether a latency keeps it.
    pub fn is_kept_by(&self, ms: f64) -> bool {
        if self.is_strict { ms < self.ms } else { ms <= self.ms }
    }

    /// Whether a request that has ended keeps it. One without a gap keeps any limit on gaps.
    pub fn is_kept_by_request(&self, request: &RequestRecord) -> bool {
        request.is_finished() && self.metric.of(request).is_none_or(|ms| self.is_kept_by(ms))
    }
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        parse::parse(text)
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency { statistic, limit } => write!(f, "{statistic} {limit}"),
            Self::Goodput { share, is_strict, limits } => {
                let sign = if *is_strict { ">" } else { ">=" };
                let limits: Vec<String> = limits.iter().map(ToString::to_string).collect();
                write!(f, "goodput {sign} {}% ({})", in_percent(*share), limits.join(", "))
            }
        }
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percentile(percent) => write!(f, "p{percent}"),
            Self::Mean => f.write_str("mean"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl fmt::Display for LatencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_strict { "<" } else { "<=" };
        let (number, unit) = match self.ms {
            ms if ms >= 1000.0 => (ms / 1000.0, "s"),
            ms if ms < 1.0 => (ms * 1000.0, "us"),
            ms => (ms, "ms"),
        };
        // In the other units the number may have digits that nobody wrote.
        let rounded = (number * 1e6).round() / 1e6;
        write!(f, "{} {sign} {rounded}{unit}", self.metric.name())
    }
}

/// A share in percent, rounded, since 0.07 · 100 is no whole number.
fn in_percent(share: f64) -> f64 {
    (share * 1e11).round() / 1e9
}
