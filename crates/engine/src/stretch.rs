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
//! **Lead.** Under asynchronous scheduling an iteration is decided while the one before it runs. Then a stretch counts
//! decisions, which are one ahead of results, and three things happen one iteration later. A block is known to be full
//! when the next one is opened, so both are one change. A request that reaches its `max_tokens` is not scheduled after its
//! last token, but stays until the result is there: it *leaves*, and ends an iteration later. A request that stops by
//! itself is scheduled once more, in vain.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use servecast_latency::StepWork;

use crate::table::Slot;

/// Up to this block size phases are sorted by counting even when there are fewer requests.
const MOST_COUNTS: usize = 64;

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
    /// Sums over the members, with the tokens whose KV is computed before the next iteration.
    held: StepWork,
    /// Sequence number of the next member; members compare in running-list order.
    next_place: u32,
    /// Sorted by the iteration (mod block size) in which they open a block, then by sequence number.
    phases: Vec<Phase>,
    opening: Cursor,
    filling: Cursor,
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
    /// Where the phases of each first iteration begin, and the phases in order; both kept for their memory.
    starts: Vec<u32>,
    ordered: Vec<Phase>,
    /// The changes of one iteration; kept for its memory.
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Phase {
    /// It opens a block in iterations whose number, modulo the block size, is this.
    opens: u32,
    place: u32,
    slot: Slot,
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

/// The next phase, and the round through all phases in which it is.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    index: usize,
    /// Number of the iteration with which the round began, a multiple of the block size.
    base: u64,
}

impl Stretch {
    /// No stretch, in an engine that has `lead` iterations in flight, 0 or 1, when it decides another one.
    pub(crate) fn new(lead: u64) -> Self {
        Self { lead, ..Self::default() }
    }

    /// Begins a stretch of `members`, in running-list order. With blocks of one token there are no crossings.
    pub(crate) fn begin(&mut self, block_size: u32, members: impl Iterator<Item = Member>) {
        self.clear();
        self.block_size = u64::from(block_size);
        let mut endings = std::mem::take(&mut self.endings).into_vec();
        let mut longest = std::mem::take(&mut self.longest).into_vec();
        for member in members {
            let (phase, ending) = self.add(member);
            self.phases.extend(phase);
            longest.push(Length { at_start: ending.at_start, last: ending.last });
            endings.push(Reverse(ending));
        }
        (self.endings, self.longest) = (endings.into(), longest.into());
        self.order_phases();
        self.seek();
    }

    /// Adds a request that comes after all members in the running list; no filled block may be deferred.
    pub(crate) fn join(&mut self, member: Member) {
        debug_assert!(
            !self.in_flight && self.next_filling() >= self.done,
            "requests join between iterations"
        );
        let (phase, ending) = self.add(member);
        if let Some(phase) = phase {
            let position = self.phases.partition_point(|other| *other < phase);
            self.phases.insert(position, phase);
            self.seek();
        }
        self.longest.push(Length { at_start: ending.at_start, last: ending.last });
        self.endings.push(Reverse(ending));
    }

    /// Counts a member.
    fn add(&mut self, member: Member) -> (Option<Phase>, Ending) {
        let Member { slot, computed, remaining, stops } = member;
        debug_assert!(remaining > 0, "a request that is complete does not run");
        let (place, tokens, size) = (self.next_place, u64::from(computed), self.block_size);
        self.next_place += 1;
        self.held.requests += 1;
        self.held.context_tokens += tokens;
        self.held.longest_context_tokens = self.held.longest_context_tokens.max(tokens);
        self.held.squared_context_tokens += u128::from(tokens).pow(2);
        let in_vain = if stops { self.lead } else { 0 };
        let last = self.done + u64::from(remaining) - 1 + in_vain;
        self.next_end = self.next_end.min(last);
        // With one token a block everybody opens one in every iteration.
        let phase = (size > 1).then(|| Phase { opens: self.opens(tokens), place, slot });
        (phase, Ending { last, place, slot, at_start: tokens.cast_signed() - self.done.cast_signed(), stops })
    }

    /// When a request that has `tokens` tokens now opens blocks.
    fn opens(&self, tokens: u64) -> u32 {
        let (size, tokens) = (self.block_size, tokens % self.block_size);
        ((self.done + size - tokens) % size) as u32
    }

    /// Forgets the members.
    pub(crate) fn clear(&mut self) {
        (self.done, self.in_flight, self.next_place) = (0, false, 0);
        (self.held, self.next_end) = (StepWork::default(), u64::MAX);
        self.phases.clear();
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
        if self.next_opening() > self.done {
            return 0;
        }
        let due = self.done - self.opening.base;
        let due = self.phases[self.opening.index..].iter().take_while(|phase| u64::from(phase.opens) == due);
        due.count() as u32
    }

    /// Number of iterations, from the next one on, that change no block and end no request.
    pub(crate) fn uneventful(&self) -> u64 {
        if !self.leaving.is_empty() {
            return 0;
        }
        let next_filling = if self.defers_fills { u64::MAX } else { self.next_filling() };
        self.next_end.min(self.next_opening()).min(next_filling) - self.done
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
        let mut cursor = if self.lead == 0 { self.filling } else { self.opening };
        let last = self.done + 1 - self.lead;
        std::iter::from_fn(move || {
            let fills = self.at(cursor)? <= last;
            fills.then(|| {
                let slot = self.phases[cursor.index].slot;
                cursor.step(self.phases.len(), self.block_size);
                slot
            })
        })
    }

    /// Members that cross a block boundary in the next iteration, in running-list order, after those whose filled block was
    /// deferred. Called once per iteration.
    pub(crate) fn take_crossings(&mut self) -> &[Change] {
        self.in_flight = true;
        self.changes.clear();
        while self.next_opening() == self.done {
            let Phase { place, slot, .. } = self.phases[self.opening.index];
            self.changes.push(Change { is_deferred: false, place, slot, crossing: Crossing::Opens });
            if self.lead > 0 {
                self.changes.push(Change { is_deferred: false, place, slot, crossing: Crossing::Fills });
            }
            self.opening.step(self.phases.len(), self.block_size);
        }
        self.collect_fills(self.done);
        self.changes.sort_unstable_by_key(|change| (!change.is_deferred, change.place, change.crossing));
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
        while self.next_filling() <= until {
            let is_deferred = self.next_filling() < self.done;
            let Phase { place, slot, .. } = self.phases[self.filling.index];
            self.changes.push(Change { is_deferred, place, slot, crossing: Crossing::Fills });
            self.filling.step(self.phases.len(), self.block_size);
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
        let Ending { place, slot, at_start, .. } = ending;
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
            let phase = Phase { opens: self.opens(tokens), place, slot };
            let position = self.phases.binary_search(&phase).expect("a member has a phase");
            self.phases.remove(position);
            self.seek();
        }
        Some(ending)
    }

    /// Tokens that a member has now.
    fn tokens(&self, at_start: i64) -> u64 {
        self.done.wrapping_add_signed(at_start)
    }

    /// Sorts the phases, which are in order of place, by iteration and then by place.
    ///
    /// By counting where that is cheaper, since sorting is most of the cost of a short stretch.
    fn order_phases(&mut self) {
        let size = self.block_size as usize;
        if size > MOST_COUNTS.max(self.phases.len()) {
            self.phases.sort_unstable();
            return;
        }
        self.starts.clear();
        self.starts.resize(size + 1, 0);
        for phase in &self.phases {
            self.starts[phase.opens as usize + 1] += 1;
        }
        for at in 1..size {
            self.starts[at] += self.starts[at - 1];
        }
        self.ordered.clone_from(&self.phases);
        for &phase in &self.phases {
            let place = &mut self.starts[phase.opens as usize];
            self.ordered[*place as usize] = phase;
            *place += 1;
        }
        std::mem::swap(&mut self.phases, &mut self.ordered);
    }

    /// Sets both cursors to what comes next; everything before the next iteration has been reported.
    fn seek(&mut self) {
        self.opening = self.cursor_at(self.done);
        // A member that opens a block next has filled the one before.
        self.filling = self.cursor_at(self.done + 1);
    }

    /// The first opening in iteration `number` or later.
    fn cursor_at(&self, number: u64) -> Cursor {
        let offset = number % self.block_size;
        let index = self.phases.partition_point(|phase| u64::from(phase.opens) < offset);
        let mut cursor = Cursor { index, base: number - offset };
        cursor.wrap(self.phases.len(), self.block_size);
        cursor
    }

    fn next_opening(&self) -> u64 {
        self.at(self.opening).unwrap_or(u64::MAX)
    }

    /// A block is filled in the iteration before the one that opens the next.
    fn next_filling(&self) -> u64 {
        if self.lead > 0 {
            // It is reported with the opening of the next one.
            return u64::MAX;
        }
        self.at(self.filling).map_or(u64::MAX, |opening| opening - 1)
    }

    fn at(&self, cursor: Cursor) -> Option<u64> {
        self.phases.get(cursor.index).map(|phase| cursor.base + u64::from(phase.opens))
    }
}

impl Cursor {
    fn step(&mut self, len: usize, block_size: u64) {
        self.index += 1;
        self.wrap(len, block_size);
    }

    /// Starts over behind the last phase.
    fn wrap(&mut self, len: usize, block_size: u64) {
        if self.index >= len && len > 0 {
            self.index = 0;
            self.base += block_size;
        }
    }
}

#[cfg(test)]
mod tests;
