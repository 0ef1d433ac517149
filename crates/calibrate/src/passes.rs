//! Prices from iterations whose content and length are known.

use std::collections::BTreeSet;

use servecast_latency::{ErrorBar, Step, StepFeatures};

use crate::error::CalibrateError;
use crate::fit::{self, Fit, HeldOut, Level};
use crate::log::LogLine;
use crate::requests::Options;
use crate::solve::Problem;
use crate::terms::{Term, Terms};

/// An iteration of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassRow {
    /// What it computed; contexts and pairs are 0 where they are not known.
    pub features: StepFeatures,
    /// How long it took, in µs; above 0.
    pub us: f64,
    /// What the log says, if contexts are not known.
    pub line: Option<LogLine>,
}

/// The iterations of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct PassRun {
    /// What it is called.
    pub name: String,
    /// In order of time.
    pub rows: Vec<PassRow>,
    /// Whether contexts and query-key pairs are known.
    pub knows_contexts: bool,
}

/// Parts that are held out one after the other.
const PARTS: usize = 5;
/// Relative errors up to this count in full at first.
const DELTA: f64 = 0.05;

/// Fits prices to iterations; errors count in proportion to their length.
///
/// # Errors
/// Without iterations, with those of one load level only, and with fewer situations than prices.
pub fn fit_passes(runs: &[PassRun], options: Options) -> Result<Fit, CalibrateError> {
    let rows: Vec<PassRow> = runs.iter().flat_map(|run| run.rows.iter().copied()).collect();
    let mut terms = Terms::new(options.phases, options.experts, false);
    let knows_contexts = runs.iter().all(|run| run.knows_contexts);
    if !knows_contexts {
        let context = [Term::ContextToken, Term::AttentionPair, Term::DecodeContextToken];
        terms.retain(|term| !context.contains(&term));
    }
    check(&rows, &terms)?;
    let problem = problem(&terms, rows.iter());
    let (prices, delta) = problem.solve_robustly(DELTA);
    let (coefficients, mut warnings) = fit::judge(&problem, &terms, &prices, delta);
    if !knows_contexts {
        let what = "the log does not say how long contexts are, so nothing is paid for them: times of contexts other \
                    than these will be off";
        warnings.push(what.to_owned());
    }
    let held_out = (0..PARTS).map(|part| {
        let bounds = part * rows.len() / PARTS..(part + 1) * rows.len() / PARTS;
        let others = rows.iter().enumerate().filter(|(index, _)| !bounds.contains(index));
        let (prices, _) = crate::passes::problem(&terms, others.map(|(_, row)| row)).solve_robustly(DELTA);
        let part_name = format!("iterations {} to {}", bounds.start + 1, bounds.end);
        HeldOut { part: part_name, errors_percent: errors(&terms, &prices, &rows[bounds]) }
    });
    let unknown =
        "fitted to iterations alone: times of requests, and what lies between iterations, were not measured";
    Ok(Fit {
        step: Step { error: Some(ErrorBar::unknown(unknown)), ..terms.step(&prices) },
        coefficients,
        levels: levels(&terms, &prices, &rows),
        held_out: held_out.collect(),
        warnings,
    })
}

fn problem<'a>(terms: &Terms, rows: impl Iterator<Item = &'a PassRow>) -> Problem {
    let mut problem = Problem::new(terms.len());
    for row in rows {
        problem.push(&terms.columns(&row.features), row.us, row.us);
    }
    problem
}

fn check(rows: &[PassRow], terms: &Terms) -> Result<(), CalibrateError> {
    let level = |row: &PassRow| fit::level_of(row.features.sequences);
    let levels: BTreeSet<u32> = rows.iter().map(level).collect();
    let Some(&only) = levels.first() else {
        let remedy = "`servecast replay --iterations-jsonl FILE` records them, and vLLM with --enable-logging-iteration-details";
        return Err(CalibrateError::Nothing { what: "iterations", remedy });
    };
    if levels.len() < 2 {
        let level = fit::level_name(only);
        return Err(CalibrateError::OneLevel { samples: rows.len(), what: "iterations", level });
    }
    let point = |row: &PassRow| {
        let StepFeatures { sequences, prefill_tokens, context_tokens, .. } = row.features;
        [sequences, prefill_tokens, context_tokens / sequences.max(1.0)].map(fit::level_of)
    };
    let points = rows.iter().map(point).collect::<BTreeSet<_>>().len();
    if points < terms.len() {
        return Err(CalibrateError::TooFew { points, prices: terms.len() });
    }
    Ok(())
}

fn errors(terms: &Terms, prices: &[f64], rows: &[PassRow]) -> Vec<(&'static str, f64)> {
    let pair = |row: &PassRow| {
        let columns = terms.columns(&row.features);
        (row.us, columns.iter().zip(prices).map(|(column, price)| column * price).sum())
    };
    let pairs = || rows.iter().map(pair);
    let named = [("mean_iteration", fit::error_of_means(pairs())), ("iteration_mape", fit::mape(pairs()))];
    named.into_iter().filter_map(|(name, error)| Some((name, error?))).collect()
}

fn levels(terms: &Terms, prices: &[f64], rows: &[PassRow]) -> Vec<Level> {
    let of = |row: &PassRow| fit::level_of(row.features.sequences);
    let levels: BTreeSet<u32> = rows.iter().map(of).collect();
    let level = |level: u32| {
        let rows: Vec<PassRow> = rows.iter().filter(|row| of(row) == level).copied().collect();
        Level {
            under_way: fit::level_name(level),
            samples: rows.len(),
            errors_percent: errors(terms, prices, &rows),
        }
    };
    levels.into_iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use servecast_latency::{Batch, LatencyModel, PassTime};

    use super::*;
    use crate::terms::Phases;

    fn truth() -> Step {
        let text = "[prefill]\nbase_us = 9000.0\nper_prefill_token_us = 60.0\nper_sequence_us = 30.0\n\
                    per_context_token_us = 0.25\nper_attention_pair_us = 0.004\n[decode]\nbase_us = 7000.0\n\
                    per_sequence_us = 40.0\nper_context_token_us = 0.3\n";
        Step::from_toml(text).unwrap()
    }

    /// Iterations of 1 to 30 requests, every third of which computes a prompt; one in fifty takes thrice as long.
    fn rows() -> Vec<PassRow> {
        let row = |number: u64| {
            let mut batch = Batch::new(0);
            for request in 0..=(number * 7) % 30 {
                let context = 100 + (request * 131 + number * 17) % 1500;
                batch.add_tokens(context, context + 1);
            }
            if number.is_multiple_of(3) {
                batch.add_tokens((number * 64) % 640, (number * 64) % 640 + 50 + (number * 37) % 900);
            }
            let PassTime { prompt_ms, decode_ms } = truth().pass(&batch);
            let slow = if number % 50 == 49 { 3.0 } else { 1.0 };
            let us = (prompt_ms + decode_ms) * 1000.0 * slow;
            PassRow { features: StepFeatures::of(&batch), us, line: None }
        };
        (0..400).map(row).collect()
    }

    fn run(rows: Vec<PassRow>) -> [PassRun; 1] {
        [PassRun { name: "run".to_owned(), rows, knows_contexts: true }]
    }

    #[test]
    fn known_prices_are_found_again_in_spite_of_outliers() {
        let fit = fit_passes(&run(rows()), Options::default()).unwrap();
        let (found, truth) = (fit.step.to_toml(), truth().to_toml());
        for (found, truth) in found.lines().zip(truth.lines()).filter(|(_, truth)| truth.contains('=')) {
            let value = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
            assert!((value(found) - value(truth)).abs() <= 0.02 * value(truth), "{found} for {truth}");
        }
        // From 2 requests, since one alone always has a prompt beside it, to 31.
        assert_eq!((fit.held_out.len(), fit.levels.len()), (PARTS, 4));
        assert_eq!(fit.warnings, Vec::<String>::new());
    }

    #[test]
    fn one_phase_has_one_set_of_prices() {
        let options = Options { phases: Phases::One, ..Options::default() };
        let step = fit_passes(&run(rows()), options).unwrap().step;
        assert!((step.prefill.base_us - step.decode.base_us).abs() < 1e-9);
    }

    #[test]
    fn what_was_measured_decides_what_can_be_fitted() {
        let fitted = |rows: Vec<PassRow>| fit_passes(&run(rows), Options::default());
        assert!(matches!(fitted(Vec::new()).unwrap_err(), CalibrateError::Nothing { .. }));
        let few = |row: &PassRow| fit::level_of(row.features.sequences) == 1;
        let alone = rows().into_iter().filter(few).collect();
        assert!(matches!(fitted(alone).unwrap_err(), CalibrateError::OneLevel { .. }));
        // Of 8 and of 29 requests.
        let few = vec![rows()[1], rows()[4]];
        assert!(matches!(fitted(few).unwrap_err(), CalibrateError::TooFew { .. }));
        let decodes = rows().into_iter().filter(|row| !row.features.computes_prompts()).collect();
        let fit = fitted(decodes).unwrap();
        assert!(fit.warnings.iter().any(|warning| warning.contains("`prefill.base_us` is 0")), "{fit:?}");
    }
}
