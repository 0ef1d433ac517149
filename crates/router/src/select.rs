//! The choice among candidates.
//!
//! ```text
//!  cost = weight · prefill tokens / block size + decode blocks            prompt tokens tracked
//!  cost = max(0, decode blocks − weight · overlap blocks)                 not tracked
//! ```
//!
//! Lower is better. Prefill tokens are those outstanding on the rank plus what this prompt lacks there; decode blocks
//! are those that its requests would hold with this one. The weight multiplies everything still to be computed, other
//! requests' prompts included.
//!
//! At temperature 0 the lowest cost wins; of equal ones the larger overlap, where the weight lets overlap count; of
//! equal ones again a uniform draw over the candidates in order of rank. Above 0 a candidate is drawn with probability
//! ∝ exp(−(cost − lowest) / (range · temperature)), so only the position within the range matters.

use std::cmp::Ordering;

use rand::{Rng, RngExt};
use servecast_types::Rank;

use crate::EffectiveSettings;
use crate::rank::Slot;

/// What is known about a rank, with the request on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) rank: Rank,
    pub(crate) slot: Slot,
    pub(crate) terms: Terms,
    pub(crate) cost: f64,
}

/// Prefill tokens in blocks, as they enter the cost.
#[inline]
pub(crate) fn prefill_blocks(prefill_tokens: u64, block_size: u32, settings: &EffectiveSettings) -> f64 {
    // A signed number is converted by one instruction.
    if settings.track_prefill_tokens {
        prefill_tokens.cast_signed() as f64 / f64::from(block_size)
    } else {
        0.0
    }
}

/// What makes a cost, but for the settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) overlap_blocks: u32,
    /// Below 2⁶³, as all counts of tokens.
    pub(crate) prefill_tokens: u64,
    /// Below 2⁶³, too.
    pub(crate) decode_blocks: u64,
}

/// The cost of a candidate; finite and not negative.
#[inline]
pub(crate) fn cost(terms: Terms, block_size: u32, settings: &EffectiveSettings) -> f64 {
    let weight = settings.overlap_score_weight;
    let decode = terms.decode_blocks.cast_signed() as f64;
    let cost = if settings.track_prefill_tokens {
        weight * prefill_blocks(terms.prefill_tokens, block_size, settings) + decode
    } else {
        (decode - weight * f64::from(terms.overlap_blocks)).max(0.0)
    };
    finite(cost)
}

/// A weight near the largest float must not make costs incomparable.
#[inline]
pub(crate) fn finite(cost: f64) -> f64 {
    if cost < f64::MAX { cost } else { f64::MAX }
}

/// Which of the candidates with these costs is chosen; there is one at least, and they are in order of rank. `overlap`
/// says how many blocks one has cached.
pub(crate) fn choose(
    costs: &[f64],
    overlap: impl Fn(usize) -> u32,
    settings: &EffectiveSettings,
    random: &mut impl Rng,
) -> usize {
    match costs {
        [_] => 0,
        _ if settings.router_temperature > 0.0 => draw(costs, settings.router_temperature, random.random()),
        _ if settings.overlap_score_weight > 0.0 => lowest(costs, overlap, random),
        _ => lowest(costs, |_| 0, random),
    }
}

/// Costs are neither negative nor NaN, so that they compare as numbers do.
fn lowest(costs: &[f64], overlap: impl Fn(usize) -> u32, random: &mut impl Rng) -> usize {
    let least = least_of(costs);
    let (mut first, mut ties, mut most) = (0, 0_usize, 0);
    visit_up_to(costs, least, |index| {
        let overlap = overlap(index);
        match overlap.cmp(&most) {
            Ordering::Greater => (first, ties, most) = (index, 1, overlap),
            Ordering::Equal if ties == 0 => (first, ties) = (index, 1),
            Ordering::Equal => ties += 1,
            Ordering::Less => {}
        }
    });
    if ties == 1 {
        return first;
    }
    let (mut left, mut chosen) = (random.random_range(0..ties), None);
    visit_up_to(costs, least, |index| {
        if chosen.is_none() && overlap(index) == most {
            chosen = if left == 0 { Some(index) } else { None };
            left = left.saturating_sub(1);
        }
    });
    chosen.unwrap_or(first)
}

/// So many costs are looked at at once.
const LANES: usize = 16;

#[inline]
fn less(one: f64, other: f64) -> f64 {
    if one < other { one } else { other }
}

/// The least of some costs, by halves, so that several are compared with one instruction.
#[inline]
fn least_of_lanes(costs: &[f64; LANES]) -> f64 {
    let half: [f64; LANES / 2] = std::array::from_fn(|lane| less(costs[lane], costs[lane + LANES / 2]));
    let [a, b, c, d]: [f64; LANES / 4] = std::array::from_fn(|lane| less(half[lane], half[lane + LANES / 4]));
    less(less(a, c), less(b, d))
}

fn least_of(costs: &[f64]) -> f64 {
    let (chunks, rest) = costs.as_chunks();
    let of_chunks = chunks.iter().map(least_of_lanes).fold(f64::INFINITY, less);
    rest.iter().copied().fold(of_chunks, less)
}

/// Visits the places of the costs that are no more than `least`, in order.
fn visit_up_to(costs: &[f64], least: f64, mut visit: impl FnMut(usize)) {
    let (chunks, rest) = costs.as_chunks();
    let mut visit_some = |from: usize, some: &[f64]| {
        for (index, &cost) in (from..).zip(some) {
            if cost <= least {
                visit(index);
            }
        }
    };
    for (number, chunk) in chunks.iter().enumerate() {
        if least_of_lanes(chunk) <= least {
            visit_some(number * LANES, chunk);
        }
    }
    visit_some(costs.len() - rest.len(), rest);
}

/// The candidate in whose part of the unit interval `u` falls; the parts are in order of rank.
fn draw(costs: &[f64], temperature: f64, u: f64) -> usize {
    let (weights, sum) = softmax(costs, temperature);
    let mut cumulative = 0.0;
    for (index, weight) in weights.iter().enumerate() {
        cumulative += weight;
        if u * sum < cumulative {
            return index;
        }
    }
    // Rounding can leave `u` just beyond the end.
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}

/// Unnormalised probabilities and their sum.
fn softmax(costs: &[f64], temperature: f64) -> (Vec<f64>, f64) {
    let costs = || costs.iter().copied();
    let lowest = costs().fold(f64::INFINITY, f64::min);
    let range = costs().fold(0.0, f64::max) - lowest;
    let weight = |cost: f64| if range > 0.0 { (-(cost - lowest) / range / temperature).exp() } else { 1.0 };
    let weights: Vec<f64> = costs().map(weight).collect();
    let sum = weights.iter().sum();
    (weights, sum)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;

    #[test]
    fn the_lowest_costs_are_found_wherever_they_are() {
        for len in 1..70_usize {
            for at in 0..len {
                let mut costs = vec![2.0; len];
                (costs[at], costs[len - 1 - at]) = (1.5, 1.5);
                let expected: Vec<usize> = (0..len).filter(|&index| costs[index] < 2.0).collect();
                let mut found = Vec::new();
                visit_up_to(&costs, 1.5, |index| found.push(index));
                assert_eq!((least_of(&costs), found), (1.5, expected), "{len} {at}");
            }
        }
    }

    #[test]
    fn probabilities_depend_on_the_place_within_the_range() {
        for (costs, temperature, expected) in [
            ([10.0, 12.0, 20.0], 0.1, [0.8808, 0.1192, 0.0000]),
            ([10.0, 12.0, 20.0], 0.5, [0.5538, 0.3712, 0.0750]),
            ([10.0, 12.0, 20.0], 1.0, [0.4573, 0.3744, 0.1682]),
            ([0.0, 3.0, 9.0], 1.0, [0.4798, 0.3438, 0.1765]),
            ([5.0, 5.0, 5.0], 1.0, [0.3333, 0.3333, 0.3333]),
            ([0.0, f64::MAX, f64::MAX], f64::MIN_POSITIVE, [1.0, 0.0, 0.0]),
        ] {
            let (weights, sum) = softmax(&costs, temperature);
            for (weight, expected) in weights.iter().zip(expected) {
                assert!((weight / sum - expected).abs() < 0.000_06, "{costs:?} at {temperature}: {weight}");
            }
        }
    }

    #[test]
    fn a_draw_takes_the_part_of_the_interval_that_it_falls_into() {
        let costs = [10.0, 12.0, 20.0];
        for (u, expected) in
            [(0.0, 0), (0.45, 0), (0.4574, 1), (0.8316, 1), (0.8318, 2), (1.0 - f64::EPSILON, 2)]
        {
            assert_eq!(draw(&costs, 1.0, u), expected, "{u}");
        }
        let (weights, sum) = softmax(&costs, 1.0);
        assert!(weights[0] / sum > 0.45, "{}", weights[0] / sum);
    }

    #[test]
    fn of_equal_costs_the_larger_overlap_wins_and_then_a_seeded_draw() {
        let settings = EffectiveSettings {
            overlap_score_weight: 1.0,
            router_temperature: 0.0,
            assume_kv_reuse: true,
            track_prefill_tokens: true,
        };
        let unweighted = EffectiveSettings { overlap_score_weight: 0.0, ..settings };
        let (costs, overlaps) = ([8.0, 9.0, 8.0, 8.0], [1, 0, 0, 3]);
        let choices = |settings, seed| {
            let mut random = Pcg64::seed_from_u64(seed);
            let mut pick = || choose(&costs, |index| overlaps[index], settings, &mut random);
            (0..60).map(|_| pick()).collect::<Vec<_>>()
        };
        assert_eq!(choices(&settings, 1), [3; 60]);
        let drawn = choices(&unweighted, 1);
        assert!([0, 2, 3].iter().all(|index| drawn.contains(index)) && !drawn.contains(&1));
        assert_eq!(drawn, choices(&unweighted, 1));
        assert_ne!(drawn, choices(&unweighted, 2));
    }
}
