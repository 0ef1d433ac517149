//! How loaded each rank is with the requests that were sent to it.
//!
//! - **Active blocks**: KV blocks that running requests hold, shared ones once ([`blocks`]).
//! - **Outstanding prefill tokens**: uncached prompt tokens that are not computed yet ([`prefill`]).

mod blocks;
mod columns;
mod prefill;

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use servecast_types::{Duration, RequestId, Time};

use self::blocks::{BookingId, Change, Segments, SharedBlocks};
pub(crate) use self::columns::{Columns, Met};
use self::prefill::PrefillQueue;
use crate::rank::Slot;
use crate::ticket::TrackedBlocks;

/// Weights of blocks are multiples of 2⁻³², so that sums of them are exact whatever their order.
const ONE: u64 = 1 << 32;

/// A booking to be made.
#[derive(Debug)]
pub(crate) struct NewBooking<'a> {
    pub(crate) id: RequestId,
    pub(crate) slot: Slot,
    pub(crate) isl_tokens: u32,
    pub(crate) blocks: &'a TrackedBlocks,
    /// 0 for no prefill entry.
    pub(crate) prefill_tokens: u32,
    pub(crate) prefill_duration: Option<Duration>,
    pub(crate) expected_output_tokens: Option<u32>,
}

#[derive(Debug, Clone)]
struct Booking {
    id: RequestId,
    slot: Slot,
    isl_tokens: u32,
    expected_output_tokens: Option<u32>,
    segments: Segments,
    /// Blocks that nobody can share: prompt blocks without reuse, and output.
    private: u64,
    /// Shareable blocks that no other request of the rank holds.
    exclusive: u64,
    /// Weight of the blocks that it holds alone.
    weight: u64,
    /// Output blocks that were added because of reported tokens.
    output_blocks: u64,
    last_progress: Time,
    /// When it is next looked at for expiry.
    check_at: Time,
}

#[derive(Debug, Clone, Default)]
struct RankLoad {
    blocks: u64,
    /// What light blocks weigh less than full ones, in 2⁻³².
    discount: u128,
    prefill: PrefillQueue,
    decays: bool,
    requests: u32,
}

impl RankLoad {
    /// Active blocks, rounded half up.
    fn active_blocks(&self) -> u64 {
        if self.discount == 0 {
            return self.blocks;
        }
        let weight = u128::from(self.blocks) * u128::from(ONE) - self.discount;
        ((weight + u128::from(ONE / 2)) / u128::from(ONE)) as u64
    }
}

/// What every decision asks of a rank: kept apart, so that it stays in the processor's cache.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    /// Outstanding prefill tokens.
    pub(crate) prefill_tokens: u64,
    /// Active blocks, rounded half up.
    pub(crate) active_blocks: u64,
}

/// The load of every rank.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoadModel {
    ranks: Vec<RankLoad>,
    /// With prefill tokens that do not decay.
    sums: Vec<Sums>,
    /// The same, for decisions among all ranks.
    columns: Columns,
    /// Ranks whose outstanding prefill tokens decay.
    decaying: usize,
    shared: SharedBlocks,
    bookings: Vec<Option<Booking>>,
    free: Vec<BookingId>,
    by_id: FxHashMap<RequestId, BookingId>,
    /// Time without progress after which a request is taken to be lost.
    expiry: Option<Duration>,
    by_check: BTreeSet<(Time, RequestId)>,
}

impl LoadModel {
    pub(crate) fn set_expiry(&mut self, expiry: Option<Duration>) {
        self.expiry = expiry;
        self.by_check.clear();
        let expiry = expiry.unwrap_or(Duration::ZERO);
        for booking in self.bookings.iter_mut().flatten() {
            booking.check_at = booking.last_progress + expiry;
            if self.expiry.is_some() {
                self.by_check.insert((booking.check_at, booking.id));
            }
        }
    }

    pub(crate) fn add_slot(&mut self, slot: Slot) {
        if self.ranks.len() <= slot as usize {
            self.ranks.resize_with(slot as usize + 1, RankLoad::default);
            self.sums.resize(slot as usize + 1, Sums::default());
            self.columns.resize(slot as usize + 1);
        }
    }

    pub(crate) fn contains(&self, id: RequestId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Where a request is booked.
    pub(crate) fn slot_of(&self, id: RequestId) -> Option<Slot> {
        let &number = self.by_id.get(&id)?;
        self.bookings[number as usize].as_ref().map(|booking| booking.slot)
    }

    pub(crate) fn num_requests(&self) -> usize {
        self.by_id.len()
    }

    /// Requests booked on a rank.
    pub(crate) fn requests_on(&self, slot: Slot) -> u32 {
        self.ranks[slot as usize].requests
    }

    /// Number of runs of equal ownership; 0 when nothing is booked.
    pub(crate) fn num_runs(&self) -> usize {
        self.shared.num_runs()
    }

    /// Entries of all prefill queues.
    pub(crate) fn num_prefills(&self) -> usize {
        self.ranks.iter().map(|rank| rank.prefill.len()).sum()
    }

    /// The load of each rank by slot, if it is the same at any time.
    pub(crate) fn settled(&self) -> Option<&Columns> {
        (self.decaying == 0 && self.columns.is_exact()).then_some(&self.columns)
    }

    /// The load of a rank.
    pub(crate) fn sums(&self, slot: Slot, now: Time) -> Sums {
        Sums { prefill_tokens: self.prefill_tokens(slot, now), ..self.sums[slot as usize] }
    }

    /// Outstanding prefill tokens.
    #[inline]
    pub(crate) fn prefill_tokens(&self, slot: Slot, now: Time) -> u64 {
        if self.decaying == 0 {
            self.sums[slot as usize].prefill_tokens
        } else {
            self.ranks[slot as usize].prefill.outstanding(now)
        }
    }

    /// Sums up a rank whose load has changed.
    fn sum_up(&mut self, slot: Slot) {
        let rank = &mut self.ranks[slot as usize];
        let decays = rank.prefill.decays();
        self.decaying -= usize::from(std::mem::replace(&mut rank.decays, decays));
        self.decaying += usize::from(decays);
        let (prefill_tokens, active_blocks) = (rank.prefill.tokens(), rank.active_blocks());
        let sums = Sums { prefill_tokens, active_blocks };
        self.sums[slot as usize] = sums;
        self.columns.set(slot, sums);
    }

    /// When a rank's outstanding tokens are down to `limit` by decay alone.
    pub(crate) fn prefill_falls_to(&self, slot: Slot, limit: u64) -> Option<Time> {
        self.ranks[slot as usize].prefill.falls_to(limit)
    }

    /// Leading blocks of a prompt that running requests of each rank hold, by slot.
    pub(crate) fn shared_prefix(&self, blocks: &TrackedBlocks, depths: &mut Vec<u32>) {
        depths.clear();
        depths.resize(self.ranks.len(), 0);
        if let TrackedBlocks::Shared(chain) = blocks {
            self.shared.shared_prefix(chain, depths);
        }
    }

    /// Books a request; its id must not be booked.
    pub(crate) fn book(&mut self, new: &NewBooking<'_>, now: Time) {
        debug_assert!(!self.contains(new.id), "an id is booked once");
        let check_at = self.expiry.map_or(Time::MAX, |expiry| now + expiry);
        let number = self.free.pop().unwrap_or_else(|| {
            self.bookings.push(None);
            self.bookings.len() as BookingId - 1
        });
        let (segments, change, private) = match new.blocks {
            TrackedBlocks::None => (Segments::new(), Change::default(), 0),
            TrackedBlocks::Private(count) => (Segments::new(), Change::default(), u64::from(*count)),
            TrackedBlocks::Shared(chain) => {
                let (segments, change) = self.shared.take(new.slot, number, chain);
                (segments, change, 0)
            }
        };
        self.bookings[number as usize] = Some(Booking {
            id: new.id,
            slot: new.slot,
            isl_tokens: new.isl_tokens,
            expected_output_tokens: new.expected_output_tokens,
            segments,
            private,
            exclusive: 0,
            weight: ONE,
            output_blocks: 0,
            last_progress: now,
            check_at,
        });
        self.by_id.insert(new.id, number);
        if self.expiry.is_some() {
            self.by_check.insert((check_at, new.id));
        }
        let rank = &mut self.ranks[new.slot as usize];
        rank.requests += 1;
        rank.blocks += u64::from(change.blocks) + private;
        if new.prefill_tokens > 0 {
            rank.prefill.push(number, new.prefill_tokens, new.prefill_duration, now);
        }
        self.apply_exclusive(&change);
        self.sum_up(new.slot);
    }

    /// The prefill of a request is done; `false` for an unknown request.
    pub(crate) fn prefill_done(&mut self, id: RequestId, now: Time) -> bool {
        let Some(&number) = self.by_id.get(&id) else { return false };
        let Some(booking) = &mut self.bookings[number as usize] else { return false };
        booking.last_progress = now;
        let slot = booking.slot;
        self.ranks[slot as usize].prefill.remove(number, now);
        self.sum_up(slot);
        true
    }

    /// A request is over; `false` for an unknown request.
    pub(crate) fn release(&mut self, id: RequestId, now: Time) -> bool {
        let Some(number) = self.by_id.remove(&id) else { return false };
        self.set_weight(number, ONE);
        let Some(booking) = self.bookings[number as usize].take() else { return false };
        self.by_check.remove(&(booking.check_at, id));
        let change = self.shared.give_back(booking.slot, number, &booking.segments);
        let rank = &mut self.ranks[booking.slot as usize];
        rank.requests -= 1;
        rank.blocks -= u64::from(change.blocks) + booking.private;
        rank.prefill.remove(number, now);
        self.apply_exclusive(&change);
        self.sum_up(booking.slot);
        self.free.push(number);
        true
    }

    /// Forgets all requests of a rank and says which, in order of id.
    pub(crate) fn forget_rank(&mut self, slot: Slot, now: Time) -> Vec<RequestId> {
        let mut ids: Vec<_> = self
            .bookings
            .iter()
            .flatten()
            .filter(|booking| booking.slot == slot)
            .map(|booking| booking.id)
            .collect();
        ids.sort_unstable();
        for &id in &ids {
            self.release(id, now);
        }
        ids
    }

    /// Output tokens so far: notes progress and, if asked to, adds the blocks that were begun since.
    ///
    /// Blocks that a request holds alone weigh less the nearer it is to its expected end.
    pub(crate) fn record_output(
        &mut self,
        id: RequestId,
        generated: u32,
        tracked_block_size: Option<u32>,
        now: Time,
    ) -> bool {
        let Some(&number) = self.by_id.get(&id) else { return false };
        let Some(booking) = &mut self.bookings[number as usize] else { return false };
        booking.last_progress = now;
        let Some(block_size) = tracked_block_size else { return true };
        let length = u64::from(booking.isl_tokens) + u64::from(generated);
        let begun = length.div_ceil(u64::from(block_size))
            - u64::from(booking.isl_tokens).div_ceil(u64::from(block_size));
        let fresh = begun.saturating_sub(booking.output_blocks);
        if fresh > 0 {
            let weight = booking.expected_output_tokens.map(|expected| remaining_share(generated, expected));
            booking.output_blocks += fresh;
            self.add_private(number, fresh);
            if let Some(weight) = weight {
                self.set_weight(number, weight);
            }
        }
        true
    }

    /// Adds one output block; a weight then holds for all blocks that the request holds alone.
    pub(crate) fn add_output_block(&mut self, id: RequestId, weight: Option<f64>, now: Time) -> bool {
        let Some(&number) = self.by_id.get(&id) else { return false };
        let Some(booking) = &mut self.bookings[number as usize] else { return false };
        booking.last_progress = now;
        booking.output_blocks += 1;
        self.add_private(number, 1);
        if let Some(weight) = weight {
            self.set_weight(number, (weight * ONE as f64).round() as u64);
        }
        true
    }

    /// Frees requests without progress for longer than the expiry; says which.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<RequestId> {
        let mut expired = Vec::new();
        let Some(expiry) = self.expiry else { return expired };
        while let Some(&(check_at, id)) = self.by_check.first()
            && check_at < now
        {
            self.by_check.pop_first();
            let number = self.by_id.get(&id).copied();
            let Some(booking) = number.and_then(|number| self.bookings[number as usize].as_mut()) else {
                continue;
            };
            booking.check_at = booking.last_progress + expiry;
            if booking.check_at < now {
                expired.push(id);
                self.release(id, now);
            } else {
                self.by_check.insert((booking.check_at, id));
            }
        }
        expired
    }

    /// The first moment at which a request may expire.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.by_check.first().map(|&(check_at, _)| check_at + Duration::from_ns(1))
    }

    fn add_private(&mut self, number: BookingId, count: u64) {
        let Some(booking) = &mut self.bookings[number as usize] else { return };
        booking.private += count;
        let rank = &mut self.ranks[booking.slot as usize];
        rank.blocks += count;
        rank.discount += u128::from(count) * u128::from(ONE - booking.weight);
        let slot = booking.slot;
        self.sum_up(slot);
    }

    fn set_weight(&mut self, number: BookingId, weight: u64) {
        let Some(booking) = &mut self.bookings[number as usize] else { return };
        let alone = u128::from(booking.exclusive + booking.private);
        let rank = &mut self.ranks[booking.slot as usize];
        rank.discount -= alone * u128::from(ONE - booking.weight);
        booking.weight = weight;
        rank.discount += alone * u128::from(ONE - weight);
        let slot = booking.slot;
        self.sum_up(slot);
    }

    /// All requests are on the rank whose blocks changed, which the caller sums up.
    fn apply_exclusive(&mut self, change: &Change) {
        for &(number, blocks) in &change.exclusive {
            // A request that is being released has no weight any more.
            let Some(booking) = &mut self.bookings[number as usize] else { continue };
            booking.exclusive = booking.exclusive.wrapping_add_signed(blocks);
            let discount = i128::from(blocks) * i128::from(ONE - booking.weight);
            let rank = &mut self.ranks[booking.slot as usize];
            rank.discount = rank.discount.wrapping_add_signed(discount);
        }
    }
}

/// Share of the expected output that is still to come, in 2⁻³².
fn remaining_share(generated: u32, expected: u32) -> u64 {
    let expected = u64::from(expected.max(1));
    let left = expected.saturating_sub(u64::from(generated));
    (left * ONE + expected / 2) / expected
}
