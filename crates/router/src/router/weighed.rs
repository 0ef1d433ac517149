//! A decision in two steps, for callers that know less than they could of some ranks: first what each rank would cost, then,
//! once they have looked at those that matter, the choice.

use servecast_types::{Rank, Time};

use super::{Router, Scratch, admit};
use crate::queue::{Checked, Lane};
use crate::rank::Slot;
use crate::select;
use crate::ticket::TrackedBlocks;
use crate::{Admission, RoutingRequest};

/// A request whose cost on every rank is in the router's buffers.
#[derive(Debug, Clone)]
pub(super) struct Weighed {
    checked: Checked,
    blocks: TrackedBlocks,
}

impl Router {
    /// Weighs a request that may go to any rank: what [`Router::route`] would go by. Returns false, with nothing changed, if it
    /// would wait or is in error, or if more than the lowest cost matters to the choice.
    ///
    /// The caller may then tell more of the [contenders](Router::contenders), [weigh](Router::reweigh) them again, and
    /// [admit](Router::admit_weighed) the request. If it changes anything else, it has to weigh anew.
    pub fn weigh(&mut self, request: RoutingRequest, now: Time) -> bool {
        self.tick(now);
        self.weighed = None;
        let goes_by_cost = !self.record_terms && self.queue.is_empty() && self.load.next_expiry().is_none();
        let Some(checked) = goes_by_cost.then(|| self.check(request).ok()).flatten() else { return false };
        let is_free = checked.lane == Lane::Any
            && checked.request.steered.is_none()
            && checked.settings.router_temperature == 0.0
            && !admit::busy(&self.ranks, &self.load, &checked.lane, self.now);
        if !is_free {
            return false;
        }
        let blocks = self.tracked_blocks(&checked);
        self.judge_all(&checked, &blocks);
        self.weighed = Some(Weighed { checked, blocks });
        true
    }

    /// The ranks among which one is chosen for the weighed request, in order: those that cost least, and of these the ones that
    /// have cached most if that counts. None if none is weighed.
    pub fn contenders(&self) -> impl Iterator<Item = Rank> {
        let Scratch { costs, overlaps, .. } = &self.scratch;
        let entries = self.ranks.entries();
        let best = self.weighed.iter().flat_map(|Weighed { checked, .. }| {
            let counts = checked.settings.overlap_score_weight > 0.0;
            select::best(costs, |index| if counts { overlaps[entries[index].slot as usize] } else { 0 })
        });
        best.map(|index| entries[index].rank)
    }

    /// Weighs the request again on a rank whose cache has lost something since.
    pub fn reweigh(&mut self, rank: Rank) {
        let Some(Weighed { checked, blocks }) = &self.weighed else { return };
        let Ok(at) = self.ranks.position(rank) else { return };
        let slot: Slot = self.ranks.entries()[at].slot;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.overlaps[slot as usize] = checked.request.overlap(self.index.tree(), slot);
        scratch.costs[at] = self.judged_by(checked, blocks, &scratch).cost(slot);
        self.scratch = scratch;
    }

    /// Chooses a rank for the weighed request and books it there; nothing if none is weighed.
    pub fn admit_weighed(&mut self, now: Time) -> Option<Admission> {
        self.tick(now);
        let Weighed { checked, blocks } = self.weighed.take()?;
        debug_assert!(self.is_weighed_right(&checked, &blocks), "only what was weighed again has changed");
        Some(self.admit_judged(&checked, blocks, self.now))
    }

    /// Whether what is in the buffers is what a request meets now, on the ranks among which one is chosen at least.
    fn is_weighed_right(&self, checked: &Checked, blocks: &TrackedBlocks) -> bool {
        let mut fresh = self.clone();
        fresh.judge_all(checked, blocks);
        let (costs, now) = (&self.scratch.costs, &fresh.scratch.costs);
        let least = select::least(costs);
        let agrees = |(before, now): (&f64, &f64)| {
            if *before <= least { before.total_cmp(now).is_eq() } else { *now > least }
        };
        costs.iter().zip(now).all(agrees)
    }
}
