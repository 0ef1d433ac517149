//! The search: candidates by their bounds, in waves.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::goal::{Figures, Goal, Load};

/// A deployment that may be the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What tells it from the others, for people.
    pub name: String,
    /// The settings that make it, by key, over those that all have in common.
    pub settings: Vec<(String, Value)>,
    /// GPUs that it takes, spare ones and the rest of nodes included; at least 1.
    pub gpus: u32,
    /// What these cost an hour, if prices are known.
    pub price_per_hour: Option<f64>,
}

/// What came of a candidate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It was simulated to the end.
    Ran(Box<Figures>),
    /// Its run was ended when a target could not be met any more.
    CutOff {
        /// Which target, and when.
        reason: String,
        /// Requests that had arrived by then: the more, the nearer it came.
        arrived: u64,
    },
    /// No engine takes such settings.
    Refused(String),
    /// Somebody stopped the search.
    Stopped,
}

/// Whoever tries candidates.
pub trait Evaluate {
    /// What comes of each of them, in their order; all at once, so that they may run side by side.
    ///
    /// What comes of one must not depend on which others are asked for with it.
    fn all(&self, candidates: &[&Candidate]) -> Vec<Outcome>;
}

/// What is known of a candidate in the end.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It was tried.
    Tried(Outcome),
    /// It cannot be better than another one, which is named by its place among the candidates.
    ProvedWorse {
        /// The better one.
        than: usize,
    },
}

/// A place of the ranking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The candidate that stands for it.
    pub first: usize,
    /// Others that come to the same.
    pub same: Vec<usize>,
}

/// How many candidates had which fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
pub struct Tally {
    /// Candidates in all.
    pub candidates: u64,
    /// Simulated, those that were cut off included.
    pub simulated: u64,
    /// Simulated until a target could not be met any more.
    pub cut_off: u64,
    /// Simulated to the end, with all targets met.
    pub met: u64,
    /// Proved to be no better than another one, without a run.
    pub proved_worse: u64,
    /// Settings that no engine takes.
    pub refused: u64,
    /// Not reached before the search was stopped.
    pub not_reached: u64,
}

/// A search and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// What was asked for.
    pub goal: Goal,
    /// The candidates.
    pub candidates: Vec<Candidate>,
    /// What is known of each.
    pub verdicts: Vec<Verdict>,
}

impl Search {
    /// Finds the best of the candidates: the same one as if all of them were tried.
    ///
    /// Those with the best bound come first, all with the same bound in one wave. As soon as one keeps its targets,
    /// whoever has a bound worse than its score is proved worse. Ties of the score are all tried.
    ///
    /// # Panics
    /// If the evaluator returns another number of outcomes than it was given candidates.
    pub fn run(goal: Goal, candidates: Vec<Candidate>, load: Load, evaluator: &impl Evaluate) -> Self {
        let bounds: Vec<f64> = candidates.iter().map(|candidate| goal.bound(candidate, load)).collect();
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_unstable_by(|&one, &other| bounds[one].total_cmp(&bounds[other]).then(one.cmp(&other)));
        let mut verdicts = vec![Verdict::Tried(Outcome::Stopped); candidates.len()];
        // The best so far, by score.
        let mut best: Option<(f64, usize)> = None;
        let mut rest = order.as_slice();
        while let Some(&first) = rest.first() {
            let bound = bounds[first];
            if let Some((_, than)) = best.filter(|&(score, _)| bound > score) {
                // Bounds ascend: it holds for all that are left.
                for &index in rest {
                    verdicts[index] = Verdict::ProvedWorse { than };
                }
                break;
            }
            let length = rest.partition_point(|&index| bounds[index].total_cmp(&bound) == Ordering::Equal);
            let (wave, after) = rest.split_at(length);
            rest = after;
            let asked: Vec<&Candidate> = wave.iter().map(|&index| &candidates[index]).collect();
            let outcomes = evaluator.all(&asked);
            assert_eq!(outcomes.len(), wave.len(), "each candidate has an outcome");
            let is_stopped = outcomes.contains(&Outcome::Stopped);
            for (&index, outcome) in wave.iter().zip(outcomes) {
                if let Outcome::Ran(figures) = &outcome
                    && figures.is_met()
                {
                    let score = goal.score(&candidates[index], figures);
                    debug_assert!(score >= bound, "a bound holds: {score} is below {bound}");
                    if best.is_none_or(|(found, _)| score < found) {
                        best = Some((score, index));
                    }
                }
                verdicts[index] = Verdict::Tried(outcome);
            }
            if is_stopped {
                break;
            }
        }
        Self { goal, candidates, verdicts }
    }

    /// What a run of a candidate came to, if it was simulated to the end.
    pub fn figures(&self, index: usize) -> Option<&Figures> {
        match &self.verdicts[index] {
            Verdict::Tried(Outcome::Ran(figures)) => Some(figures),
            _ => None,
        }
    }

    /// The candidates that were cut off, those that came furthest first, fewer GPUs before more.
    pub fn furthest(&self) -> Vec<usize> {
        let mut keyed: Vec<(std::cmp::Reverse<u64>, u32, usize)> = Vec::new();
        for (index, verdict) in self.verdicts.iter().enumerate() {
            if let Verdict::Tried(Outcome::CutOff { arrived, .. }) = verdict {
                keyed.push((std::cmp::Reverse(*arrived), self.candidates[index].gpus, index));
            }
        }
        keyed.sort_unstable();
        keyed.into_iter().map(|(.., index)| index).collect()
    }

    /// Puts what a run to the end came to in the place of one that was cut off.
    pub fn complete(&mut self, index: usize, figures: Figures) {
        self.verdicts[index] = Verdict::Tried(Outcome::Ran(Box::new(figures)));
    }

    /// Adds how much more load a candidate takes, which was looked for behind the search.
    pub fn set_headroom(&mut self, index: usize, factor: f64) {
        if let Verdict::Tried(Outcome::Ran(figures)) = &mut self.verdicts[index] {
            figures.headroom = Some(factor);
        }
    }

    /// The candidates that keep all targets, the best first; equal ones by GPUs, then by their least margin, then in
    /// their order.
    pub fn ranking(&self) -> Vec<usize> {
        self.ranked(Figures::is_met, |index, figures| self.goal.score(&self.candidates[index], figures))
    }

    /// The candidates that were simulated to the end and miss a target, the nearest first.
    pub fn nearest(&self) -> Vec<usize> {
        self.ranked(|figures| !figures.is_met(), |_, figures| -figures.least_margin())
    }

    fn ranked(
        &self,
        wanted: impl Fn(&Figures) -> bool,
        score: impl Fn(usize, &Figures) -> f64,
    ) -> Vec<usize> {
        let keyed = (0..self.candidates.len()).filter_map(|index| {
            let figures = self.figures(index).filter(|figures| wanted(figures))?;
            Some((score(index, figures), self.candidates[index].gpus, -figures.least_margin(), index))
        });
        let mut keyed: Vec<(f64, u32, f64, usize)> = keyed.collect();
        keyed.sort_by(|one, other| {
            let scores = one.0.total_cmp(&other.0).then(one.1.cmp(&other.1));
            scores.then(one.2.total_cmp(&other.2)).then(one.3.cmp(&other.3))
        });
        keyed.into_iter().map(|(.., index)| index).collect()
    }

    /// Deployments in their order, with one place for all that come to the same: those that take as many GPUs, at the
    /// same price, and whose runs had the same figures.
    ///
    /// Headroom is one of the figures where it was looked for with all of them, as `with_headroom` says.
    ///
    /// # Panics
    /// If one of them did not run to the end.
    pub fn places(&self, order: &[usize], with_headroom: bool) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for &index in order {
            let mut figures = self.figures(index).expect("who has a place ran").clone();
            if !with_headroom {
                figures.headroom = None;
            }
            let candidate = &self.candidates[index];
            let come_to = json!([candidate.gpus, candidate.price_per_hour, figures]).to_string();
            match known.entry(come_to) {
                Entry::Occupied(place) => places[*place.get()].same.push(index),
                Entry::Vacant(new) => {
                    new.insert(places.len());
                    places.push(Place { first: index, same: Vec::new() });
                }
            }
        }
        places
    }

    /// All that were simulated to the end, the nearest to their targets first.
    pub fn simulated(&self) -> Vec<usize> {
        self.ranked(|_| true, |_, figures| -figures.least_margin())
    }

    /// Those of the ranking that no other one beats in both goals, by the first.
    ///
    /// # Panics
    /// Never: who is ranked ran.
    pub fn pareto(&self, first: Goal, second: Goal) -> Vec<usize> {
        let scores = |index: usize| {
            let figures = self.figures(index).expect("who is ranked ran");
            let candidate = &self.candidates[index];
            (first.score(candidate, figures), second.score(candidate, figures))
        };
        let ranking = self.ranking();
        let is_beaten = |&index: &usize| {
            let own = scores(index);
            ranking.iter().any(|&other| {
                let theirs = scores(other);
                theirs.0 <= own.0 && theirs.1 <= own.1 && theirs != own
            })
        };
        let mut left: Vec<usize> = ranking.iter().copied().filter(|index| !is_beaten(index)).collect();
        left.sort_unstable_by(|&one, &other| scores(one).0.total_cmp(&scores(other).0).then(one.cmp(&other)));
        left
    }

    /// How many candidates had which fate.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally { candidates: self.candidates.len() as u64, ..Tally::default() };
        for verdict in &self.verdicts {
            match verdict {
                Verdict::ProvedWorse { .. } => tally.proved_worse += 1,
                Verdict::Tried(Outcome::Refused(_)) => tally.refused += 1,
                Verdict::Tried(Outcome::Stopped) => tally.not_reached += 1,
                Verdict::Tried(Outcome::CutOff { .. }) => {
                    tally.simulated += 1;
                    tally.cut_off += 1;
                }
                Verdict::Tried(Outcome::Ran(figures)) => {
                    tally.simulated += 1;
                    tally.met += u64::from(figures.is_met());
                }
            }
        }
        tally
    }
}
