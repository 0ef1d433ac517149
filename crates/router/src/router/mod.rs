//! The router itself: the public calls. [`admit`] has what happens between a request and its ticket.

mod admit;
mod inspect;
mod replica;

use std::fmt;
use std::sync::Arc;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use servecast_types::{Duration, HashRun, KvEvent, Rank, RequestId, SequenceHash, Time};

pub use self::inspect::Sizes;
use crate::index::{self, EventCounts, Index, IndexDump};
use crate::load::LoadModel;
use crate::queue::{Lane, Queue};
use crate::rank::{Entry, RankTable, Slot};
use crate::select::Candidate;
use crate::wire::IndexEventData;
use crate::{
    Admission, ApproximateIndex, Decision, EventError, QueuePolicy, Queued, RadixTree, RankInfo, RemovedRank,
    RouteError, RouterSettings, RoutingRequest,
};

/// Predicts how long the prefill of a prompt takes, for `router_prefill_load_model`.
pub trait PrefillModel: fmt::Debug + Send + Sync {
    /// Time to compute `new_tokens` behind `cached_tokens`, alone; none if there is no telling.
    fn predict(&self, new_tokens: u32, cached_tokens: u32) -> Option<Duration>;
}

/// Routes requests to ranks by what these have cached and how loaded they are.
///
/// A state machine: calls pass the time, state changes return the requests that they let out of the queue. Time never
/// runs back; a call with an earlier one happens at the latest seen. No order of calls panics.
#[derive(Debug, Clone)]
pub struct Router {
    settings: RouterSettings,
    block_size: u32,
    ranks: RankTable,
    index: Index,
    load: LoadModel,
    queue: Queue,
    random: Pcg64,
    prefill_model: Option<Arc<dyn PrefillModel>>,
    record_terms: bool,
    events: EventCounts,
    now: Time,
    scratch: Scratch,
}

/// Buffers that live from decision to decision.
#[derive(Debug, Clone, Default)]
struct Scratch {
    overlaps: Vec<u32>,
    shared: Vec<u32>,
    costs: Vec<f64>,
    /// The ranks that were judged, where these are not all.
    some: Vec<Entry>,
    candidates: Vec<Candidate>,
}

impl Router {
    /// A router without ranks. `block_size` is that of the engines, in tokens; `seed` is for ties and draws, from PCG64.
    ///
    /// # Panics
    /// If `block_size` is 0.
    pub fn new(settings: RouterSettings, block_size: u32, seed: u64) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        let index = if settings.use_kv_events() {
            Index::Events(RadixTree::new())
        } else {
            Index::Approximate(ApproximateIndex::new(settings.lifetime()))
        };
        Self {
            settings,
            block_size,
            ranks: RankTable::default(),
            index,
            load: LoadModel::default(),
            queue: Queue::default(),
            random: Pcg64::seed_from_u64(seed),
            prefill_model: None,
            record_terms: false,
            events: EventCounts::default(),
            now: Time::ZERO,
            scratch: Scratch::default(),
        }
    }

    /// Sets the model behind `router_prefill_load_model`; without one, no prefill shrinks by time.
    #[must_use]
    pub fn with_prefill_model(mut self, model: Arc<dyn PrefillModel>) -> Self {
        self.prefill_model = Some(model);
        self
    }

    /// Frees requests that made no progress for longer than this, measured from booking, the end of their prefill or
    /// reported output. By default none is: a driver that ends every request needs no expiry.
    #[must_use]
    pub fn with_request_expiry(mut self, expiry: Option<Duration>) -> Self {
        self.load.set_expiry(expiry);
        self
    }

    /// Makes admissions carry the terms of every candidate.
    #[must_use]
    pub fn record_terms(mut self) -> Self {
        self.record_terms = true;
        self
    }

    /// Registers a rank, or changes what is known about it. Returns the parked requests that it lets in.
    pub fn add_rank(&mut self, rank: Rank, info: RankInfo, now: Time) -> Vec<Admission> {
        self.change_ranks(&[(rank, info)], &[], now).admitted
    }

    /// Forgets a rank with everything that is known about it; nothing happens if it is not registered.
    pub fn remove_rank(&mut self, rank: Rank, now: Time) -> RemovedRank {
        self.change_ranks(&[], &[rank], now)
    }

    /// Registers ranks and forgets others in one step: no parked request is refused for one that is going if it could go
    /// to one that is coming, and none is admitted to one that is going.
    pub fn change_ranks(&mut self, coming: &[(Rank, RankInfo)], going: &[Rank], now: Time) -> RemovedRank {
        self.tick(now);
        let threshold = self.settings.queue_threshold();
        for &(rank, info) in coming {
            let busy_above =
                threshold.map_or(f64::INFINITY, |threshold| threshold * f64::from(info.batch_tokens()));
            let slot = self.ranks.insert(rank, busy_above);
            self.index.add_slot(slot);
            self.load.add_slot(slot);
        }
        let mut forgotten = Vec::new();
        for &rank in going {
            let Some(slot) = self.ranks.remove(rank) else { continue };
            forgotten.extend(self.load.forget_rank(slot, self.now));
            self.index.clear(slot);
        }
        let ranks = &self.ranks;
        let dead = |lane: &Lane| admit::eligible(ranks, lane).next().is_none();
        let refused = self.queue.remove_lanes(dead).into_iter().map(|waiting| waiting.id()).collect();
        RemovedRank { forgotten, refused, admitted: self.drain() }
    }

    /// Chooses a rank for a request and books it there, or parks the request.
    ///
    /// # Errors
    /// A request that no rank can serve, that contradicts itself, or whose id is in use. Nothing has changed then.
    pub fn route(&mut self, request: RoutingRequest, now: Time) -> Result<Decision, RouteError> {
        self.tick(now);
        let checked = self.check(request)?;
        let expired = !self.load.expire(self.now).is_empty();
        let must_wait = self.queue.waiting_in(&checked.lane) > 0
            || admit::busy(&self.ranks, &self.load, &checked.lane, self.now)
            // What expired may have been in the way of somebody who came before.
            || (expired && !self.queue.is_empty());
        if !must_wait {
            return Ok(Decision::Admit(self.admit(&checked, self.now)));
        }
        let lane = checked.lane.clone();
        let policy = self.settings.queue_policy();
        // A look-up, which the other policies do without.
        let uncached = if policy == QueuePolicy::Wspt { self.least_uncached(&checked) } else { 0 };
        self.queue.push(policy, checked, uncached, self.now);
        let released = self.drain();
        Ok(Decision::Queued(Queued { waiting: self.queue.waiting_in(&lane), released }))
    }

    /// Books a request on a rank that was chosen elsewhere, past the queue, on the terms that the router would use.
    ///
    /// # Errors
    /// As [`Router::route`] for a request pinned to `rank`.
    pub fn book(
        &mut self,
        mut request: RoutingRequest,
        rank: Rank,
        now: Time,
    ) -> Result<Admission, RouteError> {
        self.tick(now);
        request.pinned = Some(rank);
        let checked = self.check(request)?;
        Ok(self.admit(&checked, self.now))
    }

    /// What [`Router::route`] would decide if nobody waited: at once, without booking and without touching the
    /// generator. The admission always has its terms.
    ///
    /// # Errors
    /// As [`Router::route`], but an id that is in use is fine.
    pub fn peek(&mut self, request: RoutingRequest, now: Time) -> Result<Admission, RouteError> {
        self.tick(now);
        let checked = self.check_shape(request)?;
        let mut random = self.random.clone();
        let (ticket, _) = self.select(&checked, &mut random, true);
        Ok(Admission { ticket, queue_wait: Duration::ZERO, terms: self.terms(&checked.settings) })
    }

    /// The prompt of a request is computed.
    ///
    /// # Errors
    /// If the request is not booked: never routed, still parked, finished or expired.
    pub fn prefill_done(&mut self, id: RequestId, now: Time) -> Result<Vec<Admission>, RouteError> {
        self.tick(now);
        if !self.load.prefill_done(id, self.now) {
            return Err(RouteError::Unknown { id });
        }
        Ok(self.drain())
    }

    /// A request is over, or is given up while it waits. May be called again, and for ids that are unknown.
    pub fn finish(&mut self, id: RequestId, now: Time) -> Vec<Admission> {
        self.tick(now);
        if !self.load.release(id, self.now) {
            self.queue.remove(id);
        }
        self.drain()
    }

    /// A request has `generated` output tokens by now. Notes progress; under `router_track_output_blocks` also adds a
    /// block for each block boundary that was crossed since the last report.
    ///
    /// # Errors
    /// If the request is not booked.
    pub fn record_output(&mut self, id: RequestId, generated: u32, now: Time) -> Result<(), RouteError> {
        self.tick(now);
        let block_size = self.settings.track_output_blocks().then_some(self.block_size);
        if self.load.record_output(id, generated, block_size, self.now) {
            Ok(())
        } else {
            Err(RouteError::Unknown { id })
        }
    }

    /// Adds one output block to a request, for callers that count blocks themselves; only notes progress without
    /// `router_track_output_blocks`. With a weight, all blocks that the request holds alone count that much from now on.
    ///
    /// # Errors
    /// If the request is not booked, or the weight is not from 0 to 1.
    pub fn add_output_block(
        &mut self,
        id: RequestId,
        weight: Option<f64>,
        now: Time,
    ) -> Result<(), RouteError> {
        self.tick(now);
        if let Some(found) = weight.filter(|weight| !(0.0..=1.0).contains(weight)) {
            return Err(RouteError::Weight { id, found });
        }
        let known = if self.settings.track_output_blocks() {
            self.load.add_output_block(id, weight, self.now)
        } else {
            self.load.record_output(id, 0, None, self.now)
        };
        if known { Ok(()) } else { Err(RouteError::Unknown { id }) }
    }

    /// An engine reports a change of its prefix cache. Without `use_kv_events` it is passed over.
    ///
    /// # Errors
    /// What could not be applied; the index stays consistent, and [`Router::event_counts`] counts it.
    pub fn apply(&mut self, rank: Rank, event: &KvEvent, now: Time) -> Result<(), EventError> {
        match event {
            KvEvent::Stored { parent, blocks } => self.stored(rank, *parent, blocks.runs(), now),
            KvEvent::Removed { blocks } => self.removed(rank, blocks.runs(), now),
            KvEvent::Cleared => self.apply_to_tree(rank, now, |tree, slot| {
                tree.clear(slot);
                Ok(())
            }),
        }
    }

    /// [`Router::apply`] for [`KvEvent::Stored`].
    ///
    /// # Errors
    /// As [`Router::apply`].
    pub fn stored(
        &mut self,
        rank: Rank,
        parent: Option<SequenceHash>,
        blocks: impl Iterator<Item = HashRun>,
        now: Time,
    ) -> Result<(), EventError> {
        let parent = parent.map(|parent| parent.0);
        self.apply_to_tree(rank, now, |tree, slot| tree.store_hashes(slot, parent, blocks))
    }

    /// [`Router::apply`] for [`KvEvent::Removed`].
    ///
    /// # Errors
    /// As [`Router::apply`].
    pub fn removed(
        &mut self,
        rank: Rank,
        blocks: impl Iterator<Item = HashRun>,
        now: Time,
    ) -> Result<(), EventError> {
        self.apply_to_tree(rank, now, |tree, slot| tree.remove_all(slot, blocks))
    }

    /// As [`Router::apply`], for engines with names of their own for blocks. Which tier an event is about is the caller's
    /// concern: only the device's are hits.
    ///
    /// # Errors
    /// As [`Router::apply`].
    pub fn apply_index_event(
        &mut self,
        rank: Rank,
        event: &IndexEventData,
        now: Time,
    ) -> Result<(), EventError> {
        self.apply_to_tree(rank, now, |tree, slot| index::apply_index_event(tree, slot, event))
    }

    fn apply_to_tree(
        &mut self,
        rank: Rank,
        now: Time,
        apply: impl FnOnce(&mut RadixTree, Slot) -> Result<(), EventError>,
    ) -> Result<(), EventError> {
        self.tick(now);
        let outcome = match (self.ranks.get(rank), &mut self.index) {
            (None, _) => Err(EventError::UnknownRank { rank }),
            (Some(_), Index::Approximate(_)) => {
                self.events.ignored += 1;
                return Ok(());
            }
            (Some(entry), Index::Events(tree)) => apply(tree, entry.slot),
        };
        self.events.count(&outcome);
        outcome
    }

    /// Time passes: expires what is due and admits what the decay of prefill work let in.
    pub fn advance(&mut self, now: Time) -> Vec<Admission> {
        self.tick(now);
        self.load.expire(self.now);
        self.drain()
    }

    /// When time alone may let a parked request in; none if only an event can.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.queue.is_empty() {
            return None;
        }
        let ranks = self.queue.lanes().flat_map(|lane| admit::eligible(&self.ranks, lane));
        let decayed = ranks
            .filter_map(|entry| self.load.prefill_falls_to(entry.slot, entry.busy_above.floor() as u64))
            .min();
        let next = [decayed, self.load.next_expiry()].into_iter().flatten().min();
        next.map(|time| time.max(self.now))
    }

    /// Replaces the contents of the index; predictions of an index without events live from now on.
    ///
    /// # Errors
    /// A dump that contradicts itself or names ranks that are not registered; the index is as before then.
    pub fn restore(&mut self, dump: &IndexDump, now: Time) -> Result<(), EventError> {
        self.tick(now);
        let ranks = &self.ranks;
        let slot_of = |rank| ranks.get(rank).map(|entry| entry.slot);
        self.index.restore(dump, ranks.slots(), slot_of, self.now)
    }

    /// Every call begins here, so none sees predictions that are over.
    fn tick(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.index.expire(self.now);
    }

    /// Admits parked requests, in order, as long as there is room.
    fn drain(&mut self) -> Vec<Admission> {
        let mut admitted = Vec::new();
        while !self.queue.is_empty() {
            let (ranks, load, now) = (&self.ranks, &self.load, self.now);
            let Some(waiting) = self.queue.pop(|lane| !admit::busy(ranks, load, lane, now)) else { break };
            admitted.push(self.admit(&waiting.checked, waiting.since));
        }
        admitted
    }
}
