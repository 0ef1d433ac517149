//! What makes one deployment better than another, and the best that a deployment can be without running it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_report::{Overload, SloOutcome};

use crate::Candidate;

/// What is asked for among the deployments that keep the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The fewest GPUs.
    Gpus,
    /// The lowest cost of serving the load.
    Cost,
    /// The most requests within all targets, a second and GPU.
    GoodputPerGpu,
    /// The most room between figures and targets: the largest smallest margin.
    Latency,
    /// The largest factor of the load at which the targets hold.
    Headroom,
}

/// What one GPU costs an hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Price {
    /// The GPU.
    pub gpu: String,
    /// In any currency.
    pub per_hour: f64,
}

/// What is known of a load before anything runs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Requests that arrive.
    pub requests: u64,
    /// A time that the last arrival is not before, in ms from the first; 0 where that is not known.
    pub span_ms: f64,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    /// What became of each target.
    pub slo: Vec<SloOutcome>,
    /// From the first arrival to the last token or the last arrival, whichever is later, in ms.
    pub duration_ms: f64,
    /// Requests that arrived.
    pub requests: u64,
    /// Requests that were served within every target that judges requests, or served at all if none does.
    pub good_requests: u64,
    /// Prompt tokens of completed requests.
    pub input_tokens: u64,
    /// Output tokens of completed requests.
    pub output_tokens: u64,
    /// That the backlog grew until the last arrival.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,
    /// The largest factor of the load at which the targets hold, where it was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom: Option<f64>,
}

impl Figures {
    /// Whether all targets are met.
    pub fn is_met(&self) -> bool {
        self.slo.iter().all(|slo| slo.met)
    }

    /// The least of what is left of any target, as a share of it; -∞ where a figure is infinite or has no sample.
    pub fn least_margin(&self) -> f64 {
        let margins = self.slo.iter().map(|slo| slo.margin.unwrap_or(f64::NEG_INFINITY));
        margins.fold(f64::INFINITY, f64::min)
    }

    /// The cost of the load on a deployment, in the currency of its price.
    pub fn cost(&self, candidate: &Candidate) -> Option<f64> {
        Some(candidate.price_per_hour? * self.duration_ms / 3.6e6)
    }
}

impl Goal {
    /// All, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("gpus", Self::Gpus),
        ("cost", Self::Cost),
        ("goodput_per_gpu", Self::GoodputPerGpu),
        ("latency", Self::Latency),
        ("headroom", Self::Headroom),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, goal)| *goal == self).map_or("", |(name, _)| name)
    }

    /// Its name in a sentence: the best is the one with …
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Gpus => "the fewest GPUs",
            Self::Cost => "the lowest cost",
            Self::GoodputPerGpu => "the most goodput per GPU",
            Self::Latency => "the most room below its targets",
            Self::Headroom => "the largest headroom",
        }
    }

    /// How good a run was: the lower the better.
    ///
    /// Costs count to three digits. A deployment is paid for until its last token, so two that serve the same load on
    /// the same GPUs differ by the seconds in which their last requests end, and that says nothing of either.
    pub fn score(self, candidate: &Candidate, figures: &Figures) -> f64 {
        match self {
            Self::Gpus => f64::from(candidate.gpus),
            Self::Cost => figures.cost(candidate).map_or(f64::INFINITY, to_three_digits),
            Self::GoodputPerGpu if figures.duration_ms > 0.0 => {
                -(figures.good_requests as f64 / figures.duration_ms / f64::from(candidate.gpus))
            }
            Self::GoodputPerGpu => f64::INFINITY,
            Self::Latency => -figures.least_margin(),
            Self::Headroom => -figures.headroom.unwrap_or(0.0),
        }
    }

    /// A score that no run of a candidate can fall below, whatever happens in it.
    ///
    /// GPUs are known. A run lasts at least until its last arrival, which bounds cost from below and goodput, of at most
    /// all requests, from above. Of margins and headroom nothing is known.
    pub fn bound(self, candidate: &Candidate, load: Load) -> f64 {
        match self {
            Self::Gpus => f64::from(candidate.gpus),
            Self::Cost => {
                let least = |price: f64| to_three_digits(price * load.span_ms / 3.6e6);
                candidate.price_per_hour.map_or(f64::NEG_INFINITY, least)
            }
            Self::GoodputPerGpu if load.span_ms > 0.0 => {
                -(load.requests as f64 / load.span_ms / f64::from(candidate.gpus))
            }
            Self::GoodputPerGpu | Self::Latency | Self::Headroom => f64::NEG_INFINITY,
        }
    }
}

/// A number rounded to three significant digits: larger numbers never become smaller ones.
fn to_three_digits(number: f64) -> f64 {
    format!("{number:.2e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn costs_count_to_three_digits() {
        for (cost, counts) in [(41.949_9, 41.9), (0.001_239, 0.001_24), (999.6, 1000.0), (0.0, 0.0)] {
            assert!((to_three_digits(cost) - counts).abs() < 1e-12, "{cost}");
        }
    }

    proptest! {
        #[test]
        fn rounding_keeps_the_order(one in 0.0..1e9_f64, other in 0.0..1e9_f64) {
            let (low, high) = (one.min(other), one.max(other));
            prop_assert!(to_three_digits(low) <= to_three_digits(high));
        }
    }
}
