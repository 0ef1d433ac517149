//! The page of recorded runs beside their simulations.

use serde::Serialize;

use crate::page::{COMMON, DISTRIBUTION, skeleton};

const SCRIPT: &str = include_str!("../page/validate.js");

/// A recorded run beside its simulation, for the page.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ValidatedRun {
    /// What it is called.
    pub name: String,
    /// What was run, in short sentences.
    pub about: Vec<String>,
    /// What the columns of `rows` are called.
    pub head: Vec<String>,
    /// Figures as text, the name of each first.
    pub rows: Vec<Vec<String>>,
    /// Distributions of both.
    pub distributions: Vec<DistributionPair>,
    /// What happened over time in both.
    pub charts: Vec<CurvePair>,
}

/// A distribution in the recording and in the simulation: quantiles at equal distances, in ms.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DistributionPair {
    /// Of what.
    pub name: String,
    /// As recorded.
    pub real: Vec<f64>,
    /// As simulated.
    pub ours: Vec<f64>,
    /// Samples of each.
    pub samples: [usize; 2],
    /// The mean of each, if it has a sample.
    pub means: [Option<f64>; 2],
}

/// Averages over equal parts of the time, in the recording and in the simulation.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CurvePair {
    /// Of what.
    pub name: String,
    /// Length of a part, in s.
    pub bin_s: f64,
    /// As recorded.
    pub real: Vec<f64>,
    /// As simulated.
    pub ours: Vec<f64>,
}

/// Renders one page of all runs, which needs no other file.
pub fn render_validation(title: &str, runs: &[ValidatedRun]) -> String {
    #[derive(Serialize)]
    struct Page<'a> {
        title: &'a str,
        validated: &'a [ValidatedRun],
    }
    skeleton("servecast validation", &[COMMON, DISTRIBUTION, SCRIPT], &Page { title, validated: runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_all_runs_are_in_one_file() {
        let run = ValidatedRun { name: "</script>".to_owned(), ..ValidatedRun::default() };
        let page = render_validation("two runs", &[run.clone(), run]);
        assert_eq!(page.matches("\\u003c/script>").count(), 2);
        assert!(!page.contains("/*DATA*/") && !page.contains("/*SCRIPT*/"));
        assert!(!page.contains("http://") || !page.contains("src=\"http"), "it loads nothing");
    }
}
