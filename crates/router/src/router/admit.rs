//! From a request to its ticket: check, judge, choose, book.
//!
//! Everything about one request happens at one time and under the settings that were fixed when it came in. It is
//! booked before the answer is given, so the next decision sees it.

use std::sync::Arc;

use rand_pcg::Pcg64;
use servecast_types::{Duration, Time};

use super::{Router, Scratch};
use crate::index::Index;
use crate::load::{LoadModel, Met, NewBooking};
use crate::queue::{Checked, Lane};
use crate::rank::{Entry, RankTable, Slot};
use crate::select::{self, Candidate, Terms};
use crate::ticket::TrackedBlocks;
use crate::{
    Admission, CandidateTerms, EffectiveSettings, PrefillLoadModel, RouteError, RoutingRequest, Ticket,
};

/// The ranks that a lane can use, in order.
pub(super) fn eligible<'a>(ranks: &'a RankTable, lane: &'a Lane) -> impl Iterator<Item = &'a Entry> + Clone {
    let (entries, allowed): (&[Entry], Option<&[u32]>) = match lane {
        Lane::Any => (ranks.entries(), None),
        Lane::Allowed(allowed) => (ranks.entries(), Some(allowed)),
        Lane::Pinned(rank) => (ranks.exactly(*rank), None),
    };
    entries.iter().filter(move |entry| {
        allowed.is_none_or(|allowed| allowed.binary_search(&entry.rank.worker.0).is_ok())
    })
}

/// Whether every rank of a lane has more outstanding prefill than its limit; not if there is none.
pub(super) fn busy(ranks: &RankTable, load: &LoadModel, lane: &Lane, now: Time) -> bool {
    let mut any = false;
    let all = eligible(ranks, lane).all(|entry| {
        any = true;
        load.prefill_tokens(entry.slot, now) as f64 > entry.busy_above
    });
    any && all
}

impl Router {
    /// Checks a request that is to be booked.
    pub(super) fn check(&self, request: RoutingRequest) -> Result<Checked, RouteError> {
        let id = request.id;
        if self.load.contains(id) || self.queue.contains(id) {
            return Err(RouteError::Duplicate { id });
        }
        self.check_shape(request)
    }

    /// Checks that a request makes sense and that somebody can serve it.
    pub(super) fn check_shape(&self, mut request: RoutingRequest) -> Result<Checked, RouteError> {
        let id = request.id;
        request.overrides.check().map_err(|source| RouteError::Override { id, source })?;
        let most = request.isl_tokens / self.block_size;
        if request.blocks.len() > most as usize {
            return Err(RouteError::TooManyBlocks {
                id,
                found: request.blocks.len(),
                isl_tokens: request.isl_tokens,
                most,
                block_size: self.block_size,
            });
        }
        if let Some(hashes) = &request.block_hashes
            && hashes.len() != request.blocks.len()
        {
            return Err(RouteError::UnevenHashes {
                id,
                blocks: request.blocks.len(),
                block_hashes: hashes.len(),
            });
        }
        if let Some(allowed) = &mut request.allowed
            && !allowed.is_sorted()
        {
            let mut sorted = allowed.to_vec();
            sorted.sort_unstable();
            *allowed = sorted.into();
        }
        self.check_ranks(&request)?;
        let settings = EffectiveSettings::new(&self.settings, request.overrides_of_stage());
        let lane = Lane::of(&request);
        Ok(Checked { request, settings, lane })
    }

    fn check_ranks(&self, request: &RoutingRequest) -> Result<(), RouteError> {
        let id = request.id;
        if let Some(rank) = request.pinned {
            if let Some(allowed) = &request.allowed
                && allowed.binary_search(&rank.worker.0).is_err()
            {
                return Err(RouteError::PinNotAllowed { id, rank, allowed: allowed.to_vec() });
            }
            return self.ranks.get(rank).map(|_| ()).ok_or(RouteError::PinMissing { id, rank });
        }
        let among = request.allowed.as_ref().map(|allowed| allowed.to_vec());
        let lane = Lane::of(request);
        eligible(&self.ranks, &lane).next().map(|_| ()).ok_or(RouteError::NoRanks { id, among })
    }

    /// Chooses among the ranks of a lane, of which there is one at least, and books.
    pub(super) fn admit(&mut self, checked: &Checked, since: Time) -> Admission {
        let mut random = self.random.clone();
        let (ticket, slot) = self.select(checked, &mut random, self.record_terms);
        self.random = random;
        self.load.book(
            &NewBooking {
                id: ticket.id,
                slot,
                isl_tokens: ticket.isl_tokens,
                blocks: &ticket.blocks,
                prefill_tokens: ticket.prefill_tokens,
                prefill_duration: ticket.prefill_duration,
                expected_output_tokens: ticket.expected_output_tokens,
            },
            self.now,
        );
        if let Index::Approximate(index) = &mut self.index {
            index.credit(slot, checked.request.index_blocks(), self.now);
        }
        let terms = if self.record_terms { self.terms(&checked.settings) } else { Vec::new() };
        Admission { ticket, queue_wait: self.now.since(since), terms }
    }

    /// Judges the ranks of a lane and chooses one; changes nothing but buffers. `keep`: how each was judged is in
    /// `scratch.candidates` then.
    pub(super) fn select(&mut self, checked: &Checked, random: &mut Pcg64, keep: bool) -> (Ticket, Slot) {
        let Checked { request, settings, lane } = checked;
        let blocks = self.tracked_blocks(checked);
        let mut scratch = std::mem::take(&mut self.scratch);
        let Scratch { overlaps, shared, costs, some, candidates } = &mut scratch;
        let judge = self.judge(checked, &blocks, self.now, overlaps, shared);
        let eligible = || eligible(&self.ranks, lane);
        some.clear();
        if *lane != Lane::Any {
            some.extend(eligible().copied());
        }
        let entries: &[Entry] = if *lane == Lane::Any { self.ranks.entries() } else { some };
        judge.costs(entries, lane, costs);
        let overlap = |index: usize| judge.overlaps[entries[index].slot as usize];
        let choice = select::choose(costs, overlap, settings, random);
        let steered = request.steered.and_then(|rank| eligible().find(|entry| entry.rank == rank));
        let chosen = judge.candidate(steered.unwrap_or(&entries[choice]));
        if keep {
            candidates.clear();
            candidates.extend(eligible().map(|entry| judge.candidate(entry)));
        }
        self.scratch = scratch;
        let uncached = self.uncached_tokens(request, chosen.terms.overlap_blocks);
        let prefill_tokens = if settings.track_prefill_tokens { uncached } else { 0 };
        let ticket = Ticket {
            id: request.id,
            rank: chosen.rank,
            settings: *settings,
            isl_tokens: request.isl_tokens,
            overlap_blocks: chosen.terms.overlap_blocks,
            required_blocks: request.isl_tokens.div_ceil(self.block_size),
            prefill_tokens,
            prefill_duration: self.predict(prefill_tokens, request.isl_tokens - uncached),
            blocks,
            expected_output_tokens: request.expected_output_tokens,
            admitted_at: self.now,
        };
        (ticket, chosen.slot)
    }

    /// What a request meets on the ranks at `now`.
    fn judge<'a>(
        &'a self,
        checked: &'a Checked,
        blocks: &TrackedBlocks,
        now: Time,
        overlaps: &'a mut Vec<u32>,
        shared: &'a mut Vec<u32>,
    ) -> Judge<'a> {
        let request = &checked.request;
        request.look_up(self.index.tree(), overlaps);
        self.load.shared_prefix(blocks, shared);
        let tracked = blocks.count();
        Judge { router: self, checked, now, overlaps, shared, tracked }
    }

    /// The ranks of a lane as they are judged at `now`, for queries.
    pub(super) fn judged(&self, checked: &Checked, now: Time) -> Vec<Candidate> {
        let Scratch { mut overlaps, mut shared, .. } = Scratch::default();
        let judge = self.judge(checked, &self.tracked_blocks(checked), now, &mut overlaps, &mut shared);
        eligible(&self.ranks, &checked.lane).map(|entry| judge.candidate(entry)).collect()
    }

    /// The blocks that the load model counts for a request.
    fn tracked_blocks(&self, checked: &Checked) -> TrackedBlocks {
        let request = &checked.request;
        if !self.settings.track_active_blocks() {
            TrackedBlocks::None
        } else if checked.settings.assume_kv_reuse {
            TrackedBlocks::Shared(Arc::clone(&request.blocks))
        } else {
            let full = request.full_blocks.unwrap_or(request.isl_tokens / self.block_size);
            TrackedBlocks::Private(full)
        }
    }

    fn uncached_tokens(&self, request: &RoutingRequest, overlap_blocks: u32) -> u32 {
        request.isl_tokens.saturating_sub(overlap_blocks.saturating_mul(self.block_size))
    }

    fn predict(&self, new_tokens: u32, cached_tokens: u32) -> Option<Duration> {
        if new_tokens == 0 || self.settings.prefill_load_model() == PrefillLoadModel::None {
            return None;
        }
        self.prefill_model.as_ref()?.predict(new_tokens, cached_tokens)
    }

    /// What a request would have to compute on the rank of its lane that has most of it.
    pub(super) fn least_uncached(&mut self, checked: &Checked) -> u64 {
        let Checked { request, lane, .. } = checked;
        let mut overlaps = std::mem::take(&mut self.scratch.overlaps);
        request.look_up(self.index.tree(), &mut overlaps);
        let most = eligible(&self.ranks, lane).map(|entry| overlaps[entry.slot as usize]).max();
        self.scratch.overlaps = overlaps;
        u64::from(self.uncached_tokens(request, most.unwrap_or(0)))
    }

    /// How the candidates of the latest selection were judged.
    pub(super) fn terms(&self, settings: &EffectiveSettings) -> Vec<CandidateTerms> {
        let terms = self.scratch.candidates.iter().map(|candidate| CandidateTerms {
            rank: candidate.rank,
            overlap_blocks: candidate.terms.overlap_blocks,
            prefill_tokens: candidate.terms.prefill_tokens,
            prefill_blocks: select::prefill_blocks(candidate.terms.prefill_tokens, self.block_size, settings),
            decode_blocks: candidate.terms.decode_blocks,
            cost: candidate.cost,
            tree_size: self.index.tree().size(candidate.slot),
        });
        terms.collect()
    }
}

/// A request and what it meets on the ranks.
struct Judge<'a> {
    router: &'a Router,
    checked: &'a Checked,
    now: Time,
    /// Blocks of the prompt that each rank has cached, by slot.
    overlaps: &'a [u32],
    /// Blocks of the prompt that running requests of each rank hold, by slot.
    shared: &'a [u32],
    /// Blocks that the request would hold.
    tracked: u32,
}

impl Judge<'_> {
    fn terms(&self, slot: Slot) -> Terms {
        let Checked { request, settings, .. } = self.checked;
        let load = self.router.load.sums(slot, self.now);
        let overlap_blocks = self.overlaps[slot as usize];
        let prompt = if settings.track_prefill_tokens {
            self.router.uncached_tokens(request, overlap_blocks)
        } else {
            0
        };
        Terms {
            overlap_blocks,
            prefill_tokens: load.prefill_tokens + u64::from(prompt),
            decode_blocks: load.active_blocks + u64::from(self.tracked)
                - u64::from(self.shared[slot as usize]),
        }
    }

    /// The cost of each of some ranks, which are those of a lane. Most decisions ask for those of all ranks.
    fn costs(&self, entries: &[Entry], lane: &Lane, costs: &mut Vec<f64>) {
        let (block_size, settings) = (self.router.block_size, &self.checked.settings);
        let in_columns = *lane == Lane::Any && self.router.ranks.are_in_order_of_slots();
        if let Some(columns) = self.router.load.settled().filter(|_| in_columns) {
            let met = Met {
                isl_tokens: self.checked.request.isl_tokens,
                tracked: self.tracked,
                overlaps: self.overlaps,
                shared: self.shared,
            };
            columns.costs(entries.len(), met, (block_size, settings), costs);
        } else {
            costs.clear();
            costs.extend(
                entries.iter().map(|entry| select::cost(self.terms(entry.slot), block_size, settings)),
            );
        }
    }

    fn candidate(&self, entry: &Entry) -> Candidate {
        let terms = self.terms(entry.slot);
        let cost = select::cost(terms, self.router.block_size, &self.checked.settings);
        Candidate { rank: entry.rank, slot: entry.slot, terms, cost }
    }
}
