//! How much more load a deployment takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Figures;

/// Nobody plans for more than this.
const MOST: f64 = 64.0;

/// How close the factor is found: within 5 %.
const CLOSE: f64 = 1.05;

/// The largest factor of the load at which the targets hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Headroom {
    /// The largest factor that was tried below every one at which a target was missed; 0 if there is none.
    pub factor: f64,
    /// The least factor at which a target was missed, at most 5 % above; absent if there was none up to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_at: Option<f64>,
    /// Whether targets that are missed at one factor are missed at every larger one that was tried.
    pub is_monotone: bool,
    /// Everything that was tried, by factor.
    pub tried: Vec<Probe>,
}

/// A factor, and what came of the targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// Of the load.
    pub factor: f64,
    /// Whether all targets were met.
    pub met: bool,
    /// The figure of each target, in the unit of its outcome; null where it is infinite or has no sample. Empty where
    /// the run was ended when a target was lost.
    pub values: Vec<Option<f64>>,
}

/// What became of the targets at a factor of the load.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Whether all of them were met.
    pub met: bool,
    /// The figure of each; empty where the run was cut off.
    pub values: Vec<Option<f64>>,
}

impl Held {
    /// What became of them in a run to the end.
    pub fn of(figures: &Figures) -> Self {
        Self { met: figures.is_met(), values: figures.slo.iter().map(|slo| slo.value).collect() }
    }

    /// A run that was ended, since one of them was lost.
    pub fn lost() -> Self {
        Self { met: false, values: Vec::new() }
    }
}

/// Finds the headroom by bisection to 5 %; `holds` says what becomes of the targets at a factor, `None` ends the search.
///
/// Both ends of the bracket are simulated. That targets are harder to meet under more load need not be so, so a factor
/// half-way below the bracket and one a quarter above it are tried besides.
pub fn find_headroom(mut holds: impl FnMut(f64) -> Option<Held>) -> Option<Headroom> {
    let mut tried: Vec<Probe> = Vec::new();
    let mut probe = |factor: f64| -> Option<bool> {
        if let Some(known) = tried.iter().find(|probe| probe.factor.total_cmp(&factor).is_eq()) {
            return Some(known.met);
        }
        let Held { met, values } = holds(factor)?;
        tried.push(Probe { factor, met, values });
        Some(met)
    };
    let (mut low, mut high) = (0.0, None);
    if probe(1.0)? {
        low = 1.0;
        while high.is_none() && low < MOST {
            let next = low * 2.0;
            if probe(next)? { low = next } else { high = Some(next) }
        }
    } else {
        let mut next = 1.0;
        while low <= 0.0 && next > 1.0 / MOST {
            high = Some(next);
            next /= 2.0;
            if probe(next)? {
                low = next;
            }
        }
    }
    while let Some(above) = high.filter(|above| low > 0.0 && above / low > CLOSE) {
        let middle = (low * above).sqrt();
        if probe(middle)? { low = middle } else { high = Some(middle) }
    }
    if let Some(above) = high {
        probe(above * 1.25)?;
        if low > 0.0 {
            probe(low.sqrt().min(low / 1.25))?;
        }
    }
    tried.sort_by(|one, other| one.factor.total_cmp(&other.factor));
    let missed_at = tried.iter().find(|probe| !probe.met).map(|probe| probe.factor);
    let below = tried.iter().take_while(|probe| probe.met).last();
    let is_monotone = tried.is_sorted_by(|one, other| one.met >= other.met);
    Some(Headroom { factor: below.map_or(0.0, |probe| probe.factor), missed_at, is_monotone, tried })
}

/// The headroom of several deployments at once.
///
/// `hold` is asked in rounds: for each deployment that is still looked at, by its number, a factor. It says in their order
/// what becomes of the targets, or `None`, which ends the search for that one. What is found is what [`find_headroom`] finds.
pub fn find_headrooms(
    deployments: usize,
    mut hold: impl FnMut(&[(usize, f64)]) -> Vec<Option<Held>>,
) -> Vec<Option<Headroom>> {
    let mut known: Vec<Vec<Probe>> = vec![Vec::new(); deployments];
    let mut found: Vec<Option<Headroom>> = vec![None; deployments];
    let mut open: Vec<usize> = (0..deployments).collect();
    while !open.is_empty() {
        let mut asked = Vec::new();
        for index in open.drain(..) {
            let mut missing = None;
            found[index] = find_headroom(|factor| {
                let probe = known[index].iter().find(|probe| probe.factor.total_cmp(&factor).is_eq());
                missing = probe.is_none().then_some(factor);
                probe.map(|probe| Held { met: probe.met, values: probe.values.clone() })
            });
            asked.extend(missing.map(|factor| (index, factor)));
        }
        if asked.is_empty() {
            break;
        }
        for ((index, factor), held) in asked.iter().copied().zip(hold(&asked)) {
            if let Some(Held { met, values }) = held {
                known[index].push(Probe { factor, met, values });
                open.push(index);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figure is the factor itself.
    fn held(met: bool, factor: f64) -> Held {
        if met { Held { met, values: vec![Some(factor)] } } else { Held::lost() }
    }

    #[test]
    fn the_factor_is_found_within_five_percent_from_either_side() {
        for limit in [0.02, 0.3, 0.999, 1.0, 1.04, 1.5, 7.3, 63.0] {
            let mut runs = 0;
            let found = find_headroom(|factor| {
                runs += 1;
                Some(held(factor <= limit, factor))
            });
            let found = found.unwrap();
            assert!(found.factor <= limit && found.missed_at.unwrap() > limit, "{limit}: {found:?}");
            assert!(found.missed_at.unwrap() / found.factor <= 1.05, "{limit}: {found:?}");
            assert!(found.is_monotone && runs <= 18 && runs == found.tried.len(), "{limit}: {runs}");
            for probe in &found.tried {
                let values = if probe.met { vec![Some(probe.factor)] } else { Vec::new() };
                assert_eq!(probe.values, values, "{limit}: a run that was cut off has no figures");
            }
        }
    }

    #[test]
    fn there_may_be_no_end_to_it_and_nothing_of_it() {
        let all = find_headroom(|factor| Some(held(true, factor))).unwrap();
        assert_eq!((all.factor, all.missed_at), (64.0, None));
        let none = find_headroom(|factor| Some(held(false, factor))).unwrap();
        assert_eq!((none.factor, none.is_monotone), (0.0, true));
    }

    #[test]
    fn a_load_that_is_not_monotone_is_said() {
        // Missed between 1.6 and 1.9, kept up to 3: the factor half-way below the bracket is one that is missed.
        let found = find_headroom(|factor| Some(held(!(1.6..1.9).contains(&factor) && factor < 3.0, factor)))
            .unwrap();
        assert!(!found.is_monotone && found.factor < 1.6 && found.missed_at < Some(1.9), "{found:?}");
    }

    #[test]
    fn it_can_be_stopped() {
        assert_eq!(find_headroom(|factor| (factor < 4.0).then(|| held(true, factor))), None);
    }

    #[test]
    fn several_are_found_in_rounds_as_each_is_alone() {
        let limits = [0.3, 1.5, 0.0, 7.3, 100.0];
        let mut rounds = 0;
        let together = find_headrooms(limits.len() + 1, |asked| {
            rounds += 1;
            assert!(asked.is_sorted_by_key(|(index, _)| *index), "{asked:?}");
            asked.iter().map(|&(index, factor)| Some(held(factor <= *limits.get(index)?, factor))).collect()
        });
        let alone = limits.map(|limit| find_headroom(|factor| Some(held(factor <= limit, factor))));
        assert_eq!(together[..limits.len()], alone);
        assert_eq!(together[limits.len()], None, "it was ended");
        let longest = alone.iter().flatten().map(|headroom| headroom.tried.len()).max();
        assert_eq!(Some(rounds), longest, "a round asks for all that are open");
    }
}
