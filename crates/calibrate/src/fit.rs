//! What a fit came to.

use serde::Serialize;
use servecast_latency::Step;

use crate::solve::Problem;
use crate::terms::Terms;

/// Prices, how sure they are, and how well they explain the measurements.
#[derive(Debug, Clone)]
pub struct Fit {
    /// The model.
    pub step: Step,
    /// Its prices.
    pub coefficients: Vec<Coefficient>,
    /// How far off it is, by load.
    pub levels: Vec<Level>,
    /// How far off prices are that were fitted without the part that they are judged by.
    pub held_out: Vec<HeldOut>,
    /// What the reader should know.
    pub warnings: Vec<String>,
}

/// A price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coefficient {
    /// What it is called in the file of the model.
    pub name: &'static str,
    /// In microseconds.
    pub value_us: f64,
    /// Half of the 95 % interval, in microseconds.
    pub half_width_us: f64,
}

/// How far off the model is at a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Level {
    /// Requests under way at the same time: `1`, `2-3`, `4-7`, ….
    pub under_way: String,
    /// Requests or iterations.
    pub samples: usize,
    /// By name: errors of means and mean absolute errors, in percent.
    pub errors_percent: Vec<(&'static str, f64)>,
}

/// How far off prices are for a part that played no role in them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldOut {
    /// The part.
    pub part: String,
    /// As in a [`Level`].
    pub errors_percent: Vec<(&'static str, f64)>,
}

/// The load level of so many requests under way: a factor of two is one.
pub(crate) fn level_of(under_way: f64) -> u32 {
    (under_way.max(1.0) as u64).ilog2()
}

pub(crate) fn level_name(level: u32) -> String {
    if level == 0 { "1".to_owned() } else { format!("{}-{}", 1_u64 << level, (2_u64 << level) - 1) }
}

/// Mean of `of` over both columns as an error of the second one in percent.
pub(crate) fn error_of_means(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (mut real, mut ours, mut count) = (0.0, 0.0, 0_u64);
    for (one, other) in pairs {
        real += one;
        ours += other;
        count += 1;
    }
    (count > 0 && real > 0.0).then(|| (ours / real - 1.0) * 100.0)
}

/// Mean absolute error in percent.
pub(crate) fn mape(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let errors: Vec<f64> =
        pairs.filter(|(real, _)| *real > 0.0).map(|(real, ours)| (ours / real - 1.0).abs() * 100.0).collect();
    (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
}

/// Errors of two prices that go together this much leave only a sum of both known.
pub(crate) const TOGETHER: f64 = 0.9;
/// An interval of this share of its price is worth a warning.
pub(crate) const UNSURE: f64 = 0.1;

/// What is said of two prices whose errors go together.
pub(crate) fn hardly_told_apart(left: &str, right: &str, correlation: f64) -> String {
    format!(
        "the data can hardly tell `{left}` and `{right}` apart (correlation {correlation:.2}): only what they come to \
         together is sure"
    )
}

/// The prices with their intervals, and what the rows do not say.
pub(crate) fn judge(
    problem: &Problem,
    terms: &Terms,
    prices: &[f64],
    delta: f64,
) -> (Vec<Coefficient>, Vec<String>) {
    let widths = problem.half_widths(prices, delta);
    let coefficient = |position: usize| Coefficient {
        name: terms.name(position),
        value_us: prices[position],
        half_width_us: widths[position],
    };
    let coefficients: Vec<Coefficient> = (0..terms.len()).map(coefficient).collect();
    let quoted = |position: usize| format!("`{}`", terms.name(position));
    let empty = problem.empty_columns();
    let mut warnings: Vec<String> = empty
        .iter()
        .map(|&position| format!("{} is 0: nothing was measured that pays it", quoted(position)))
        .collect();
    let inseparable = problem.inseparable();
    for set in &inseparable {
        let names: Vec<String> = set.iter().map(|&position| quoted(position)).collect();
        warnings.push(format!(
            "the data cannot tell {} apart: they always come in the same proportion; measure other lengths or loads",
            names.join(", ")
        ));
    }
    let unsure = |position: usize| widths[position] > UNSURE * prices[position];
    for left in 0..terms.len() {
        for right in left + 1..terms.len() {
            let known = inseparable.iter().any(|set| set.contains(&left) && set.contains(&right));
            if known || !(unsure(left) && unsure(right)) {
                continue;
            }
            let correlation = problem.correlation(left, right);
            if correlation.abs() > TOGETHER {
                warnings.push(hardly_told_apart(terms.name(left), terms.name(right), correlation));
            }
        }
    }
    (coefficients, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_powers_of_two() {
        let names: Vec<String> =
            [0.3, 1.9, 2.0, 3.9, 64.0, 127.9].map(|load| level_name(level_of(load))).to_vec();
        assert_eq!(names, ["1", "1", "2-3", "2-3", "64-127", "64-127"]);
    }

    #[test]
    fn errors_are_in_percent() {
        let pairs = [(10.0, 11.0), (30.0, 27.0)];
        assert!((error_of_means(pairs.into_iter()).unwrap() + 5.0).abs() < 1e-9);
        assert!((mape(pairs.into_iter()).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(mape(std::iter::empty()), None);
    }
}
