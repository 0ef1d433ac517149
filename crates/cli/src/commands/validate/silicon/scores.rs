//! How far off the simulated runs are, over all of them and by what they have in common.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Outcome;

/// How far off TTFT or TPOT is over some runs, in percent of what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Score {
    /// Mean of the errors without their signs.
    pub(super) mape: f64,
    /// Median of the errors without their signs.
    pub(super) median: f64,
    /// The error without its sign that nine of ten runs do not exceed.
    pub(super) p90: f64,
    /// Mean of the errors with their signs.
    pub(super) bias: f64,
}

/// Both scores of a group of runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Group {
    /// What the runs have in common.
    pub(super) name: String,
    /// How many.
    pub(super) n: usize,
    pub(super) tpot: Score,
    pub(super) ttft: Score,
}

/// What a row has in common with others.
type OfRow = fn(&Outcome) -> String;

/// What runs are grouped by.
const KEYS: [(&str, OfRow); 10] = [
    ("engine", |row| row.engine.to_owned()),
    ("gpu", |row| row.gpu.clone()),
    ("family", |row| row.family.clone()),
    ("engine and gpu", |row| format!("{} {}", row.engine, row.gpu)),
    ("dtype", |row| row.dtype.clone().unwrap_or_else(|| "not given".to_owned())),
    ("tp", |row| row.tp.to_string()),
    ("ep", |row| if row.ep > 1 { "above 1" } else { "1" }.to_owned()),
    ("attention dp", |row| if row.attention_dp > 1 { "above 1" } else { "1" }.to_owned()),
    ("isl/osl", |row| format!("{}/{}", row.isl, row.osl)),
    ("concurrency", |row| format!("{:>4}", row.concurrency.next_power_of_two())),
];

impl Score {
    /// The score of errors in percent; `None` if there are none.
    pub(super) fn of(errors: &[f64]) -> Option<Self> {
        if errors.is_empty() {
            return None;
        }
        let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
        sizes.sort_unstable_by(f64::total_cmp);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        // Between the two ranks that it lies between.
        let percentile = |share: f64| {
            let rank = share * (sizes.len() - 1) as f64;
            let (low, high) = (sizes[rank.floor() as usize], sizes[rank.ceil() as usize]);
            low + (high - low) * rank.fract()
        };
        Some(Self { mape: mean(&sizes), median: percentile(0.5), p90: percentile(0.9), bias: mean(errors) })
    }
}

impl Group {
    /// The scores of those of `rows` that were simulated; `None` if there are none.
    pub(super) fn of<'a>(name: &str, rows: impl Iterator<Item = &'a Outcome>) -> Option<Self> {
        let errors: Vec<(f64, f64)> = rows.filter_map(Outcome::errors).collect();
        let (tpot, ttft): (Vec<f64>, Vec<f64>) = errors.into_iter().unzip();
        Some(Self { name: name.to_owned(), n: tpot.len(), tpot: Score::of(&tpot)?, ttft: Score::of(&ttft)? })
    }
}

/// The groups by each key, in order of their names.
pub(super) fn groups(rows: &[&Outcome]) -> Vec<(&'static str, Vec<Group>)> {
    let by = |(key, name): &(&'static str, fn(&Outcome) -> String)| {
        let mut members: BTreeMap<String, Vec<&Outcome>> = BTreeMap::new();
        for row in rows {
            members.entry(name(row)).or_default().push(row);
        }
        let groups = members.iter().filter_map(|(name, rows)| Group::of(name.trim(), rows.iter().copied()));
        (*key, groups.collect())
    };
    KEYS.iter().map(by).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_tells_size_from_direction() {
        let score = Score::of(&[-10.0, 20.0, -30.0]).unwrap();
        assert_eq!((score.median, score.p90), (20.0, 28.0));
        assert!((score.mape - 20.0).abs() < 1e-12 && (score.bias + 20.0 / 3.0).abs() < 1e-12, "{score:?}");
        assert_eq!(Score::of(&[]), None);
    }
}
