//! Stretches: decode batches whose members get one token in every iteration until they end.
//!
//! The future of a member is known when it joins: in which iterations it fills a block and needs another one, and in
//! which it ends. So the cost of an iteration does not grow with the batch but with what *changes* in it: in most
//! iterations only sums, now and then a block or the end of a request. The members' own counters are brought up to date
//! when the stretch ends, each by the number of iterations since it joined.
//!
//! Consecutive iterations in which nothing changes are skipped in one call. vLLM computes prompts beside decodes: then the
//! stretch continues, and an iteration costs what its prompts cost and what changes among the members.
//!
//! A request with `computed` tokens and blocks of `b` needs a block after −computed (mod b) iterations and every b
//! iterations from there, and fills one in those before them.
//!
//! **Groups of layers.** Blocks of several sizes and kinds go at other times than in full attention: a window lets go of one
//! behind it. All of these times recur with the block size, so that a member *moves* at some *phases* of it, counted from the
//! iteration in which it opens a block; in others nothing of it changes. In its first iteration it moves in any case, since it
//! may have to let go of what the iterations before that left behind.
//!
//! **Lead.** Under asynchronous scheduling an iteration is decided while the one before it runs. Then a stretch counts
//! decisions, which are one ahead of results, and three things happen one iteration later. A block is known to be full
//! when the next one is opened, so both are one change. A request that reaches its `max_tokens` is not scheduled after its
//! last token, but stays until the result is there: it *leaves*, and ends an iteration later. A request that stops by
//! itself is scheduled once more, in vain.

mod wheel;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use servecast_latency::StepWork;
use smallvec::SmallVec;

pub(crate) use self::wheel::LARGEST_WHEEL;
use self::wheel::{Opener, Wheel};
use crate::table::Slot;

/// A request that joins a stretch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) slot: Slot,
    /// Tokens whose KV is computed once the iteration in flight has ended.
    pub(crate) computed: u32,
    /// Tokens that it generates after those in flight.
    pub(crate) remaining: u32,
    /// Whether it stops by itself, which the scheduler does not know in advance.
    pub(crate) stops: bool,
}

/// A request that has its last token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    place: u32,
    pub(crate) slot: Slot,
    /// Whether the iteration in flight computes something for it, in vain.
    pub(crate) in_vain: bool,
}

/// A request that crosses a block boundary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// Whether it is of the iteration before, and was deferred.
    is_deferred: bool,
    place: u32,
    pub(crate) slot: Slot,
    pub(crate) crossing: Crossing,
}

/// How a member crosses a block boundary in an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Crossing {
    /// Its token is the first of a block.
    Opens,
    /// Its token is the last of a block.
    Fills,
    /// Its groups of layers may take a block, store one or let go of one.
    Moves,
}

/// The iterations of a stretch.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    /// Iterations whose result is not known yet when one is decided: none, or the one before.
    lead: u64,
    /// Number of the iteration that is decided next, or is in flight; those before `done - lead` have ended.
    done: u64,
    /// Whether it is decided.
    in_flight: bool,
    block_size: u64,
    /// Whether filled blocks may be reported one iteration later.
    defers_fills: bool,
    /// The [phases](self) at which a member moves, each below the block size; none where layers are no groups.
    phases: SmallVec<[u32; 4]>,
    /// Members that joined before the next iteration, if members move.
    joined: Vec<Opener>,
    /// Sums over the members, with the tokens whose KV is computed before the next iteration.
    held: StepWork,
    /// Sequence number of the next member; members compare in running-list order.
    next_place: u32,
    /// Who opens a block in which iteration; empty with blocks of one token, where everybody opens one in each.
    wheel: Wheel,
    /// Blocks that are followed by one opened in this iteration or before have been told of as full.
    filled_before: u64,
    /// The next to end is on top; of several, the one that joined first.
    endings: BinaryHeap<Reverse<Ending>>,
    /// Number of the last iteration of the request that ends or leaves next.
    next_end: u64,
    /// Members whose last token is in flight, in running-list order.
    leaving: Vec<Ended>,
    /// Members that ended with the last iteration, in reverse running-list order; only with a lead.
    ended: Vec<Ended>,
    /// The longest is on top, unless it has ended.
    longest: BinaryHeap<Length>,
    /// The changes of one iteration; kept for its memory.
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ending {
    /// Number of its last iteration.
    last: u64,
    place: u32,
    slot: Slot,
    /// Tokens that it had, or would have had, before iteration 0 of the stretch.
    at_start: i64,
    stops: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Length {
    at_start: i64,
    last: u64,
}

impl Stretch {
    /// No stretch, in an engine that has `lead` iterations in flight, 0 or 1, when it decides another one.
    pub(crate) fn new(lead: u64) -> Self {
        Self { lead, ..Self::default() }
    }

    /// One whose members move at some [phases](self), 0 among them, instead of opening and filling blocks; the same as
    /// [`Stretch::new`] without any.
    pub(crate) fn with_phases(lead: u64, phases: SmallVec<[u32; 4]>) -> Self {
        Self { lead, phases, ..Self::default() }
    }

    /// Begins a stretch of `members`, in running-list order. With blocks of one token there are no crossings; blocks have
    /// [`LARGEST_WHEEL`] tokens at most.
    pub(crate) fn begin(&mut self, block_size: u32, members: impl Iterator<Item = Member>) {
        self.clear();
        self.block_size = u64::from(block_size);
        self.wheel.resize(if block_size > 1 { block_size } else { 0 });
        let mut endings = std::mem::take(&mut self.endings).into_vec();
        let mut longest = std::mem::take(&mut self.longest).into_vec();
        for member in members {
            let ending = self.add(member);
            longest.push(Length { at_start: ending.at_start, last: ending.last });
            endings.push(Reverse(ending));
        }
        (self.endings, self.longest) = (endings.into(), longest.into());
    }

    /// Adds a request that comes after all members in the running list; no filled block may be deferred.
    pub(crate) fn join(&mut self, member: Member) {
        debug_assert!(
            !self.in_flight && self.next_filling() >= self.done,
            "requests join between iterations"
        );
        let ending = self.add(member);
        // A member that opens a block next has filled the one before.
        self.filled_before = self.done;
        self.longest.push(Length { at_start: ending.at_start, last: ending.last });
        self.endings.push(Reverse(ending));
    }

    /// Counts a member.
    fn add(&mut self, member: Member) -> Ending {
        let Member { slot, computed, remaining, stops } = member;
        debug_assert!(remaining > 0, "a request that is complete does not run");
        let (place, tokens) = (self.next_place, u64::from(computed));
        self.next_place += 1;
        self.held.requests += 1;
        self.held.context_tokens += tokens;
        self.held.longest_context_tokens = self.held.longest_context_tokens.max(tokens);
        self.held.squared_context_tokens += u128::from(tokens).pow(2);
        let in_vain = if stops { self.lead } else { 0 };
        let last = self.done + u64::from(remaining) - 1 + in_vain;
        self.next_end = self.next_end.min(last);
        if self.block_size > 1 {
            self.wheel.add(self.opens(tokens), Opener { place, slot });
        }
        if self.moves() {
            self.joined.push(Opener { place, slot });
        }
        Ending { last, place, slot, at_start: tokens.cast_signed() - self.done.cast_signed(), stops }
    }

    /// The next iteration in which a request that has `tokens` tokens now opens a block.
    fn opens(&self, tokens: u64) -> u64 {
        self.done + tokens.next_multiple_of(self.block_size) - tokens
    }

    /// Forgets the members.
    pub(crate) fn clear(&mut self) {
        (self.done, self.in_flight, self.next_place) = (0, false, 0);
        (self.held, self.next_end) = (StepWork::default(), u64::MAX);
        self.filled_before = 0;
        self.wheel.clear();
        self.joined.clear();
        self.endings.clear();
        self.longest.clear();
        self.leaving.clear();
        debug_assert!(self.ended.is_empty(), "every end has been taken");
    }

    /// Whether a filled block may be reported with the opening of the next one, an iteration later, which halves the number
    /// of iterations in which something changes. The caller sees to deferred blocks when the stretch ends.
    pub(crate) fn defer_fills(&mut self, defers_fills: bool) {
        debug_assert!(self.next_filling() >= self.done, "what was deferred has been reported");
        self.defers_fills = defers_fills;
    }

    /// See [`Stretch::new`].
    pub(crate) fn lead(&self) -> u64 {
        self.lead
    }

    /// Number of the iteration that is decided next.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Number of iterations that have ended when the next one is decided.
    pub(crate) fn known(&self) -> u64 {
        self.done.saturating_sub(self.lead)
    }

    /// Tokens of KV that the members have taken since the stretch began, if all of them began it.
    pub(crate) fn tokens_taken(&self) -> u64 {
        let decided = self.done + u64::from(self.in_flight);
        // Nothing is decided for a member that leaves.
        self.held.requests * decided + self.leaving.len() as u64 * self.done
    }

    /// Requests that compute a token in the next iteration.
    pub(crate) fn requests(&self) -> u64 {
        self.held.requests
    }

    /// Requests that have not ended: those, and the ones that [leave](self).
    pub(crate) fn members(&self) -> u64 {
        self.held.requests + self.leaving.len() as u64
    }

    /// Members that [leave](self).
    pub(crate) fn leaving(&self) -> impl Iterator<Item = Slot> {
        self.leaving.iter().map(|leaving| leaving.slot)
    }

    /// What the next iteration computes.
    pub(crate) fn work(&self) -> StepWork {
        self.held.after(1)
    }

    /// Requests that need a block in the next iteration.
    pub(crate) fn num_opening(&self) -> u32 {
        if self.block_size == 1 {
            return self.requests() as u32;
        }
        if self.in_flight { 0 } else { self.wheel.opening(self.done).len() as u32 }
    }

    /// Number of iterations, from the next one on, that change no block and end no request.
    pub(crate) fn uneventful(&self) -> u64 {
        if !self.leaving.is_empty() {
            return 0;
        }
        let next_filling = if self.defers_fills { u64::MAX } else { self.next_filling() };
        let next_change = if self.moves() { self.next_move() } else { self.next_opening().min(next_filling) };
        self.next_end.min(next_change) - self.done
    }

    /// Number of iterations, from the one in flight on, before the one in which the next request ends.
    pub(crate) fn before_end(&self) -> u64 {
        self.next_end.saturating_sub(self.done)
    }

    /// The same before the one in which the next block is opened, of those that are not decided.
    pub(crate) fn before_opening(&self) -> u64 {
        self.next_opening().saturating_sub(self.done)
    }

    /// The same before the one in which the next block is filled, of those that are not reported.
    pub(crate) fn before_filling(&self) -> u64 {
        self.next_filling().saturating_sub(self.done)
    }

    /// The same before the one in which a member moves, of those that are not decided.
    pub(crate) fn before_move(&self) -> u64 {
        self.next_move().saturating_sub(self.done)
    }

    /// Counts the next `iterations`, in which nothing changes.
    pub(crate) fn skip(&mut self, iterations: u64) {
        debug_assert!(iterations <= self.uneventful());
        self.pass(iterations);
    }

    fn pass(&mut self, iterations: u64) {
        self.done += iterations;
        self.held = self.held.after(iterations);
    }

    /// Members whose block is known to be full with the next iteration, in no order.
    pub(crate) fn filling(&self) -> impl Iterator<Item = Slot> {
        let first = if self.lead == 0 { self.filled_before + 1 } else { self.undecided() };
        let last = self.done + 1 - self.lead;
        self.wheel.openings(first..=last).map(|opener| opener.slot)
    }

    /// Members that cross a block boundary in the next iteration, in running-list order, after those whose filled block was
    /// deferred. Called once per iteration.
    pub(crate) fn take_crossings(&mut self) -> &[Change] {
        self.changes.clear();
        if self.moves() {
            return self.take_moves();
        }
        if !self.in_flight {
            for &Opener { place, slot } in self.wheel.opening(self.done) {
                let change = |crossing| Change { is_deferred: false, place, slot, crossing };
                self.changes.push(change(Crossing::Opens));
                if self.lead > 0 {
                    self.changes.push(change(Crossing::Fills));
                }
            }
        }
        self.in_flight = true;
        self.collect_fills(self.done);
        self.changes.sort_unstable_by_key(|change| (!change.is_deferred, change.place, change.crossing));
        &self.changes
    }

    /// Members that move in the next iteration, in running-list order.
    fn take_moves(&mut self) -> &[Change] {
        if !self.in_flight {
            let (wheel, done, size) = (&self.wheel, self.done, self.block_size);
            let at = |&phase: &u32| wheel.opening(done + size - u64::from(phase));
            let moving = self.joined.iter().chain(self.phases.iter().flat_map(at));
            self.changes.extend(moving.map(|&Opener { place, slot }| Change {
                is_deferred: false,
                place,
                slot,
                crossing: Crossing::Moves,
            }));
            self.changes.sort_unstable_by_key(|change| change.place);
            self.changes.dedup_by_key(|change| change.place);
        }
        self.joined.clear();
        self.in_flight = true;
        &self.changes
    }

    /// Members that filled a block in the iteration before and were deferred, in running-list order.
    pub(crate) fn take_deferred_fills(&mut self) -> &[Change] {
        self.changes.clear();
        if let Some(before) = self.done.checked_sub(1) {
            self.collect_fills(before);
        }
        &self.changes
    }

    /// Adds to the changes the members that fill a block by the end of iteration `until` and were not reported.
    fn collect_fills(&mut self, until: u64) {
        loop {
            let filled = self.next_filling();
            if filled > until {
                return;
            }
            self.filled_before = filled + 1;
            let is_deferred = filled < self.done;
            let change =
                |&Opener { place, slot }| Change { is_deferred, place, slot, crossing: Crossing::Fills };
            self.changes.extend(self.wheel.opening(filled + 1).iter().map(change));
        }
    }

    /// The oldest iteration in flight has ended.
    #[inline]
    pub(crate) fn end_iteration(&mut self) {
        self.in_flight = false;
        self.pass(1);
        if self.lead > 0 {
            self.settle();
        }
    }

    /// Finds out which members ended with the last iteration, and which leave; only with a lead.
    fn settle(&mut self) {
        debug_assert!(self.ended.is_empty(), "every end has been taken");
        std::mem::swap(&mut self.ended, &mut self.leaving);
        while let Some(Ending { place, slot, stops, .. }) = self.pop_last() {
            let list = if stops { &mut self.ended } else { &mut self.leaving };
            list.push(Ended { place, slot, in_vain: stops });
        }
        if self.ended.len() > 1 {
            self.ended.sort_unstable_by_key(|ended| Reverse(ended.place));
        }
    }

    /// The next request that ended with the last iteration, in order of the running list.
    pub(crate) fn pop_ended(&mut self) -> Option<Ended> {
        if self.lead > 0 {
            return self.ended.pop();
        }
        self.pop_last().map(|Ending { place, slot, .. }| Ended { place, slot, in_vain: false })
    }

    /// Removes the next request that no further iteration computes, in running-list order.
    fn pop_last(&mut self) -> Option<Ending> {
        if self.next_end >= self.done {
            return None;
        }
        let Reverse(ending) = self.endings.pop()?;
        let Ending { place, at_start, .. } = ending;
        self.next_end = self.endings.peek().map_or(u64::MAX, |Reverse(ending)| ending.last);
        let tokens = self.tokens(at_start);
        self.held.requests -= 1;
        self.held.context_tokens -= tokens;
        self.held.squared_context_tokens -= u128::from(tokens).pow(2);
        while self.longest.peek().is_some_and(|length| length.last < self.done) {
            self.longest.pop();
        }
        self.held.longest_context_tokens =
            self.longest.peek().map_or(0, |length| self.tokens(length.at_start));
        if self.block_size > 1 {
            self.wheel.remove(self.opens(tokens), place);
            self.filled_before = self.done;
        }
        Some(ending)
    }

    /// Tokens that a member has now.
    fn tokens(&self, at_start: i64) -> u64 {
        self.done.wrapping_add_signed(at_start)
    }

    /// The first iteration of which nothing has been decided.
    fn undecided(&self) -> u64 {
        self.done + u64::from(self.in_flight)
    }

    fn next_opening(&self) -> u64 {
        self.wheel.next_opening(self.undecided()).unwrap_or(u64::MAX)
    }

    /// Whether members move, instead of opening and filling blocks.
    fn moves(&self) -> bool {
        !self.phases.is_empty()
    }

    fn next_move(&self) -> u64 {
        if !self.joined.is_empty() {
            return self.done;
        }
        let next = |&phase: &u32| {
            let ahead = self.block_size - u64::from(phase);
            self.wheel.next_opening(self.undecided() + ahead).map(|opening| opening - ahead)
        };
        self.phases.iter().filter_map(next).min().unwrap_or(u64::MAX)
    }

    /// A block is filled in the iteration before the one that opens the next.
    fn next_filling(&self) -> u64 {
        if self.lead > 0 || self.moves() {
            // It is reported with the opening of the next one, or it is a move.
            return u64::MAX;
        }
        self.wheel.next_opening(self.filled_before + 1).map_or(u64::MAX, |opening| opening - 1)
    }
}

#[cfg(test)]
mod tests;
