//! Stretches: requests that decode, one token in every iteration, until they end.
//!
//! What a request does from then on is known when it joins the stretch: when it fills a block and needs another one, and
//! when it ends. So an iteration costs what *changes* in it, however many requests run: nothing but a sum in most of
//! them, a block or two now and then, a request that ends. The members of a stretch are brought up to date when it is
//! over, each by the iterations since it joined.
//!
//! Most iterations of a stretch do nothing else, and those in which nothing changes are skipped in one go. vLLM computes
//! prompts beside its decodes: there the stretch goes on, and an iteration costs what the prompts cost and what changes.
//!
//! A request with `computed` tokens and blocks of `b` needs a block after −computed (mod b) iterations and every b
//! iterations from there, and fills one in those before them.
//!
//! **Lead.** An engine may decide an iteration while the one before it runs. Then a stretch counts decisions: it is one
//! ahead of the results, and three things come one iteration later than they would. A block is known to be full when the
//! next one is opened, so both are one change. A request whose last token is foreseen, since it was asked for no more, gets
//! nothing in the decision after that token's, but is there until the result: it *leaves*, and ends an iteration later. One
//! that stops by itself is decided for once more, in vain.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use servecast_latency::StepWork;

use crate::table::Slot;

/// Blocks of so many tokens at most are ordered by counting even when there are fewer requests.
const MOST_COUNTS: usize = 64;

/// A request that joins a stretch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) slot: Slot,
    /// Tokens whose KV is there once what is in flight has run.
    pub(crate) computed: u32,
    /// Tokens that it still generates beyond those in flight.
    pub(crate) remaining: u32,
    /// Whether the last of them is one that nobody foresees.
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
    /// Whether that was in the iteration before.
    is_late: bool,
    place: u32,
    pub(crate) slot: Slot,
    pub(crate) crossing: Crossing,
}

/// What a request of a stretch does in an iteration beyond computing a token.
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
    /// Number of the next iteration to be decided, or in flight since; those before `done - lead` have ended.
    done: u64,
    /// Whether it is decided.
    in_flight: bool,
    block_size: u64,
    /// Whether filled blocks may be told of an iteration late.
    fills_wait: bool,
    /// The members with the tokens whose KV is there before the next iteration.
    held: StepWork,
    /// Place of the next member among all that there were.
    next_place: u32,
    /// By when they open blocks, then by place.
    phases: Vec<Phase>,
    opening: Cursor,
    filling: Cursor,
    /// The first to end is on top; of those, the one that joined first.
    endings: BinaryHeap<Reverse<Ending>>,
    /// Number of the last iteration of the next request that ends or leaves.
    next_end: u64,
    /// Those whose last token is in flight, in order of the running list.
    leaving: Vec<Ended>,
    /// Those that ended with the last iteration, the first in the running list at the end; only with a lead.
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
    /// It opens a block in the iterations whose number is this one modulo the block size.
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
    /// Tokens that it had, or would have had, when the stretch began.
    at_start: i64,
    stops: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Length {
    at_start: i64,
    last: u64,
}

/// Which of the phases is next, and in which round through them.
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

    /// Begins a stretch of `members`, in order of the running list; with blocks of one token it has no crossings.
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

    /// Lets a request join that comes behind the others in the running list; filled blocks have all been told of.
    pub(crate) fn join(&mut self, member: Member) {
        debug_assert!(!self.in_flight && self.next_filling() >= self.done, "it joins between iterations");
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
        debug_assert!(self.ended.is_empty(), "who has ended was told of");
    }

    /// Whether a filled block may be told of together with the opening of the next one, an iteration later: half as many
    /// iterations have something in them. What was not told of when the stretch ends is the caller's to see to.
    pub(crate) fn let_fills_wait(&mut self, fills_wait: bool) {
        debug_assert!(self.next_filling() >= self.done, "what waited was told of");
        self.fills_wait = fills_wait;
    }

    /// See [`Stretch::new`].
    pub(crate) fn lead(&self) -> u64 {
        self.lead
    }

    /// Iterations before the one that is decided next.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Iterations that have ended when one is decided next.
    pub(crate) fn known(&self) -> u64 {
        self.done.saturating_sub(self.lead)
    }

    /// Tokens that the members, who all began it, have memory for by now and had not when they did.
    pub(crate) fn tokens_taken(&self) -> u64 {
        let decided = self.done + u64::from(self.in_flight);
        // Nothing was decided for those who leave since they do.
        self.held.requests * decided + self.leaving.len() as u64 * self.done
    }

    /// Requests that the next iteration computes something for.
    pub(crate) fn requests(&self) -> u64 {
        self.held.requests
    }

    /// Requests that have not ended: those, and who [leaves](self).
    pub(crate) fn members(&self) -> u64 {
        self.held.requests + self.leaving.len() as u64
    }

    /// Who [leaves](self).
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

    /// How many iterations from the next one on change no block and end nobody.
    pub(crate) fn uneventful(&self) -> u64 {
        if !self.leaving.is_empty() {
            return 0;
        }
        let next_filling = if self.fills_wait { u64::MAX } else { self.next_filling() };
        self.next_end.min(self.next_opening()).min(next_filling) - self.done
    }

    /// `iterations` of the next ones have ended in which nothing changed.
    pub(crate) fn skip(&mut self, iterations: u64) {
        debug_assert!(iterations <= self.uneventful());
        self.pass(iterations);
    }

    fn pass(&mut self, iterations: u64) {
        self.done += iterations;
        self.held = self.held.after(iterations);
    }

    /// Whose block is known to be full with the next iteration, in no order.
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

    /// Who crosses a block boundary in the next iteration, in order of the running list, behind those who filled a block in
    /// the one before and were not told of; asked once an iteration.
    pub(crate) fn take_crossings(&mut self) -> &[Change] {
        self.in_flight = true;
        self.changes.clear();
        while self.next_opening() == self.done {
            let Phase { place, slot, .. } = self.phases[self.opening.index];
            self.changes.push(Change { is_late: false, place, slot, crossing: Crossing::Opens });
            if self.lead > 0 {
                self.changes.push(Change { is_late: false, place, slot, crossing: Crossing::Fills });
            }
            self.opening.step(self.phases.len(), self.block_size);
        }
        self.collect_fills(self.done);
        self.changes.sort_unstable_by_key(|change| (!change.is_late, change.place, change.crossing));
        &self.changes
    }

    /// Who filled a block in the iteration before and was not told of, in order of the running list.
    pub(crate) fn take_late_fills(&mut self) -> &[Change] {
        self.changes.clear();
        if let Some(before) = self.done.checked_sub(1) {
            self.collect_fills(before);
        }
        &self.changes
    }

    /// Adds those to the changes who have filled a block by the end of iteration `until` and were not told of.
    fn collect_fills(&mut self, until: u64) {
        while self.next_filling() <= until {
            let is_late = self.next_filling() < self.done;
            let Phase { place, slot, .. } = self.phases[self.filling.index];
            self.changes.push(Change { is_late, place, slot, crossing: Crossing::Fills });
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

    /// Finds out who ended with the last iteration, and who leaves, with a lead.
    fn settle(&mut self) {
        debug_assert!(self.ended.is_empty(), "who has ended was told of");
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

    /// Takes a request out for which no further iteration computes anything, the first one in the running list.
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

    /// Puts the phases, which are in order of place, in order of their iterations too.
    ///
    /// They are counted rather than compared where that is cheaper, since it is most of what a short stretch costs.
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

    /// Lets both cursors point at what comes next, everything before the next iteration having been told of.
    fn seek(&mut self) {
        self.opening = self.cursor_at(self.done);
        // Who opens a block next filled the one before already.
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
            // It is told of with the opening of the next one.
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
