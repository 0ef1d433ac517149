//! What a deployment comes to under loads of several seeds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Figures;

/// Quantiles of Student's t, 97.5 %, by degrees of freedom from 1.
const T: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/// The targets over loads that differ in their seed alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OverSeeds {
    /// The seeds, that of the load first.
    pub seeds: Vec<u64>,
    /// With how many of them all targets are met.
    pub met: u64,
    /// The figure of each target, in the unit of its outcome; null where one of them is infinite or has no sample.
    pub targets: Vec<Option<Interval>>,
}

/// A mean, and where it lies with a probability of 95 % (Student's t).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// Mean of the runs.
    pub mean: f64,
    /// Lower end of the interval; nothing that is measured is below 0.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl OverSeeds {
    /// What runs came to, each with its seed; `None` of fewer than two runs, and of more than ten.
    pub fn of(runs: &[(u64, Figures)]) -> Option<Self> {
        let first = &runs.first()?.1;
        let t = *T.get(runs.len().checked_sub(2)?)?;
        let target = |place: usize| {
            let values: Option<Vec<f64>> =
                runs.iter().map(|(_, figures)| figures.slo.get(place)?.value).collect();
            Interval::of(&values?, t)
        };
        Some(Self {
            seeds: runs.iter().map(|(seed, _)| *seed).collect(),
            met: runs.iter().filter(|(_, figures)| figures.is_met()).count() as u64,
            targets: (0..first.slo.len()).map(target).collect(),
        })
    }
}

impl Interval {
    fn of(values: &[f64], t: f64) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let half = t * (squares / (count - 1.0) / count).sqrt();
        half.is_finite().then_some(Self { mean, low: (mean - half).max(0.0), high: mean + half })
    }
}

#[cfg(test)]
mod tests {
    use servecast_report::SloOutcome;

    use super::*;

    fn run(value: Option<f64>) -> Figures {
        let slo = SloOutcome {
            objective: "p95 ttft <= 1s".to_owned(),
            met: value.is_some_and(|value| value <= 1000.0),
            value,
            limit: 1000.0,
            margin: None,
            samples: 10,
            misses: 0,
            unserved: 0,
        };
        Figures {
            slo: vec![slo],
            duration_ms: 1.0,
            requests: 10,
            good_requests: 10,
            input_tokens: 1,
            output_tokens: 1,
            overload: None,
            headroom: None,
        }
    }

    #[test]
    fn the_interval_is_that_of_student() {
        let runs = [(1, run(Some(900.0))), (2, run(Some(1000.0))), (7, run(Some(1100.0)))];
        let found = OverSeeds::of(&runs).unwrap();
        assert_eq!((found.seeds.as_slice(), found.met), (&[1, 2, 7][..], 2));
        let interval = found.targets[0].unwrap();
        // The standard error is 100 / √3, and the quantile of two degrees of freedom 4.303.
        assert!((interval.mean - 1000.0).abs() < 1e-9);
        assert!((interval.high - 1000.0 - 4.303 * 100.0 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert!((interval.high + interval.low - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn one_run_says_nothing_and_an_infinite_figure_has_no_mean() {
        assert_eq!(OverSeeds::of(&[(1, run(Some(1.0)))]), None);
        let found = OverSeeds::of(&[(1, run(Some(1.0))), (2, run(None))]).unwrap();
        assert_eq!((found.met, found.targets), (1, vec![None]));
    }
}
