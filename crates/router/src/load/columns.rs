//! The load of all ranks in columns, so that the compiler judges several ranks with one instruction.
//!
//! A decision asks for the cost of every rank, which with many of them is most of what it does. Sums are whole numbers, and
//! floats hold those exactly below 2⁵³, so that costs are the same to the last bit as those of [`select::cost`].

use super::Sums;
use crate::EffectiveSettings;
use crate::rank::Slot;
use crate::select;

/// Beyond this a sum with what a request adds, which is below 2³³, might not be exact.
const MOST: u64 = 1 << 52;

/// What a request brings along, and what it meets on each rank by slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met<'a> {
    pub(crate) isl_tokens: u32,
    /// Blocks that it would hold.
    pub(crate) tracked: u32,
    /// Blocks of its prompt that are cached.
    pub(crate) overlaps: &'a [u32],
    /// Blocks of its prompt that running requests hold.
    pub(crate) shared: &'a [u32],
}

/// The sums of each rank by slot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Columns {
    prefill_tokens: Vec<f64>,
    active_blocks: Vec<f64>,
    /// Whether a sum was too large, at any time.
    overflowed: bool,
}

impl Columns {
    pub(super) fn resize(&mut self, slots: usize) {
        self.prefill_tokens.resize(slots, 0.0);
        self.active_blocks.resize(slots, 0.0);
    }

    pub(super) fn set(&mut self, slot: Slot, sums: Sums) {
        self.overflowed |= sums.prefill_tokens.max(sums.active_blocks) > MOST;
        self.prefill_tokens[slot as usize] = sums.prefill_tokens as f64;
        self.active_blocks[slot as usize] = sums.active_blocks as f64;
    }

    pub(super) fn is_exact(&self) -> bool {
        !self.overflowed
    }

    /// The costs of the first `ranks` slots.
    pub(crate) fn costs(
        &self,
        ranks: usize,
        met: Met<'_>,
        (block_size, settings): (u32, &EffectiveSettings),
        costs: &mut Vec<f64>,
    ) {
        let (prefill, active) = (&self.prefill_tokens[..ranks], &self.active_blocks[..ranks]);
        let (overlaps, shared) = (&met.overlaps[..ranks], &met.shared[..ranks]);
        let (block, isl, tracked) =
            (f64::from(block_size), f64::from(met.isl_tokens), f64::from(met.tracked));
        let weight = settings.overlap_score_weight;
        let blocks = active.iter().zip(shared).map(|(&active, &shared)| active + tracked - f64::from(shared));
        let load = prefill.iter().zip(blocks).zip(overlaps);
        costs.clear();
        if settings.track_prefill_tokens {
            costs.extend(load.map(|((&prefill, blocks), &overlap)| {
                let lacking = isl - f64::from(overlap) * block;
                let lacking = if lacking > 0.0 { lacking } else { 0.0 };
                select::finite(weight * ((prefill + lacking) / block) + blocks)
            }));
        } else {
            costs.extend(load.map(|((_, blocks), &overlap)| {
                select::finite((blocks - weight * f64::from(overlap)).max(0.0))
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    use super::*;
    use crate::select::Terms;

    /// A number of some size: small ones, and ones up to `most`.
    fn number(random: &mut Pcg64, most: u64) -> u64 {
        let bits = random.random_range(0..=64 - most.leading_zeros());
        (random.random::<u64>() >> (64 - bits.max(1))).min(most)
    }

    #[test]
    fn costs_are_those_of_one_rank_after_the_other_to_the_last_bit() {
        let mut random = Pcg64::seed_from_u64(1);
        let mut costs = Vec::new();
        for round in 0..3_000 {
            let ranks = random.random_range(1..40);
            let any = number(&mut random, u64::from(u32::MAX)).max(1) as u32;
            let block_size = if round % 2 == 0 { any } else { 1 << random.random_range(0..32) };
            let isl_tokens = number(&mut random, u64::from(u32::MAX)) as u32;
            let tracked = number(&mut random, u64::from(u32::MAX)) as u32;
            let settings = EffectiveSettings {
                overlap_score_weight: [0.0, 0.3, 1.0, 7e300, f64::MAX][round % 5],
                router_temperature: 0.0,
                assume_kv_reuse: true,
                track_prefill_tokens: random.random_bool(0.7),
            };
            let some = |random: &mut Pcg64, most: u32| -> Vec<u32> {
                (0..ranks).map(|_| number(random, most.into()) as u32).collect()
            };
            let (overlaps, shared) = (some(&mut random, u32::MAX), some(&mut random, tracked));
            let mut columns = Columns::default();
            columns.resize(ranks);
            let sums: Vec<Sums> = (0..ranks)
                .map(|_| Sums {
                    prefill_tokens: number(&mut random, MOST),
                    active_blocks: number(&mut random, MOST),
                })
                .collect();
            (0..).zip(&sums).for_each(|(slot, &sums)| columns.set(slot, sums));
            assert!(columns.is_exact());
            let met = Met { isl_tokens, tracked, overlaps: &overlaps, shared: &shared };
            columns.costs(ranks, met, (block_size, &settings), &mut costs);
            for (rank, &cost) in costs.iter().enumerate() {
                let lacking = isl_tokens.saturating_sub(overlaps[rank].saturating_mul(block_size));
                let terms = Terms {
                    overlap_blocks: overlaps[rank],
                    prefill_tokens: sums[rank].prefill_tokens + u64::from(lacking),
                    decode_blocks: sums[rank].active_blocks + u64::from(tracked) - u64::from(shared[rank]),
                };
                let expected = select::cost(terms, block_size, &settings);
                assert_eq!(cost.to_bits(), expected.to_bits(), "{terms:?}, {settings:?}: {cost}, {expected}");
            }
        }
    }

    #[test]
    fn sums_that_floats_do_not_hold_are_noticed() {
        for (tokens, is_exact) in [(MOST, true), (MOST + 1, false)] {
            let mut columns = Columns::default();
            columns.resize(1);
            columns.set(0, Sums { prefill_tokens: tokens, active_blocks: 0 });
            assert_eq!(columns.is_exact(), is_exact);
        }
    }
}
