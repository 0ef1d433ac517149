//! Decode-only stretches: iterations in which every running request gets one token and nobody joins.
//!
//! What happens in a stretch is known when it begins: when each request fills a block and needs another one, and when it
//! ends. So an iteration costs what *changes* in it, however many requests run: nothing but a sum in most of them, a
//! block or two now and then, a request that ends. The requests themselves are brought up to date when the stretch is
//! over ([`Stretch::done`] tokens each).
//!
//! With `computed` tokens at the start and blocks of `b`, a request needs a block in the iterations whose number is
//! ≡ −computed (mod b), and fills one in those before them.

use servecast_latency::StepWork;
use servecast_types::{KvEvent, RequestId};

use crate::iteration::Finished;
use crate::table::Slot;

/// A scheduler whose decode-only iterations run as a stretch.
///
/// A stretch iteration is decided ([`DecodesOn::decide_decode`]) and ended ([`DecodesOn::end_decode`]) like any other;
/// those in which nothing changes are skipped in one go.
pub(crate) trait DecodesOn {
    /// The stretch that is under way.
    fn stretch(&self) -> &Stretch;

    /// Iterations from the next one on that need no decision and end nobody.
    fn quiet_iterations(&self) -> u64;

    /// So many quiet iterations have ended.
    fn skip_quiet(&mut self, iterations: u64);

    /// Whether a stretch is under way and nothing has come that might end it.
    fn goes_on(&self) -> bool;

    /// Decides the next iteration; returns false, with nothing changed, if that is no mere decode.
    fn decide_decode(&mut self) -> bool;

    /// Applies an iteration at its end.
    fn end_decode(&mut self, changes: &mut Changes);

    /// Brings the requests up to date with the stretch, which is over.
    fn end_stretch(&mut self, changes: &mut Changes);
}

/// Blocks of so many tokens at most are ordered by counting even when there are fewer requests.
const MOST_COUNTS: usize = 64;

/// What others have to know of a stretch.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Requests that ended with an iteration.
    pub(crate) finished: Vec<Finished>,
    /// What a router learns at the end of an iteration.
    pub(crate) kv_events: Vec<KvEvent>,
    /// Requests that run on when a stretch is over, with the tokens that they have generated.
    pub(crate) caught_up: Vec<(RequestId, u32)>,
}

/// A request of a stretch, as it is when that begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) slot: Slot,
    /// Tokens whose KV is there.
    pub(crate) computed: u32,
    /// Tokens that it still generates.
    pub(crate) remaining: u32,
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
    /// Iterations that have ended.
    done: u64,
    /// Whether the next one is decided.
    in_flight: bool,
    block_size: u64,
    /// Whether filled blocks may be told of an iteration late.
    fills_wait: bool,
    requests: u64,
    /// Σ of the tokens whose KV is there before the next iteration.
    computed: u64,
    /// By the first iteration in which they open a block, then by place among the running requests.
    phases: Vec<Phase>,
    opening: Cursor,
    filling: Cursor,
    /// By last iteration, then by place, once the first one has ended; those before `next_ending` are over.
    endings: Vec<Ending>,
    next_ending: usize,
    /// Number of the iteration in which the next request ends.
    next_end: u64,
    /// Σ over the running requests of the squares of the tokens that they had at the start.
    squares: u128,
    /// The most tokens that a running request had at the start.
    longest: u32,
    /// The same of `endings[i..]`, once these are in order.
    longest_of_rest: Vec<u32>,
    /// Where the phases of each first iteration begin, and the phases in order; both kept for their memory.
    starts: Vec<u32>,
    ordered: Vec<Phase>,
    /// The changes of one iteration; kept for its memory.
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Phase {
    /// Number of the iteration in which it first opens a block.
    first: u64,
    place: u32,
    slot: Slot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ending {
    /// Number of its last iteration.
    last: u64,
    place: u32,
    slot: Slot,
    computed: u32,
}

/// Which of the phases is next, and in which round through them.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    index: usize,
    /// Added to the `first` of a phase.
    base: u64,
}

impl Stretch {
    /// Begins a stretch of `members`, in order of the running list; with blocks of one token it has no crossings.
    ///
    /// With `fills_wait`, who fills a block is told of together with the opening of the next one, an iteration later: half
    /// as many iterations have something in them. What was not told of when the stretch ends is the caller's to see to.
    pub(crate) fn begin(&mut self, block_size: u32, fills_wait: bool, members: impl Iterator<Item = Member>) {
        let size = u64::from(block_size);
        (self.done, self.block_size, self.requests, self.computed) = (0, size, 0, 0);
        (self.in_flight, self.fills_wait) = (false, fills_wait);
        (self.squares, self.longest) = (0, 0);
        self.phases.clear();
        self.endings.clear();
        self.longest_of_rest.clear();
        (self.next_ending, self.next_end) = (0, u64::MAX);
        for (member, place) in members.zip(0..) {
            let Member { slot, computed, remaining } = member;
            debug_assert!(remaining > 0, "a request that is complete does not run");
            self.requests += 1;
            self.computed += u64::from(computed);
            self.squares += u128::from(computed).pow(2);
            self.longest = self.longest.max(computed);
            // With one token a block everybody opens one in every iteration.
            if size > 1 {
                self.phases.push(Phase { first: (size - u64::from(computed) % size) % size, place, slot });
            }
            let last = u64::from(remaining) - 1;
            self.next_end = self.next_end.min(last);
            self.endings.push(Ending { last, place, slot, computed });
        }
        self.order_phases();
        self.opening = Cursor::default();
        // Who opens a block in the first iteration filled the one before already.
        let filled = self.phases.iter().take_while(|phase| phase.first == 0).count();
        self.filling = Cursor { index: filled, base: 0 };
        self.filling.wrap(self.phases.len(), size);
    }

    /// Iterations that have ended, and so tokens that each running request got.
    pub(crate) fn done(&self) -> u32 {
        self.done as u32
    }

    /// Iterations that were decided, ended or not, and so tokens for which each running request has memory.
    pub(crate) fn decided(&self) -> u32 {
        (self.done + u64::from(self.in_flight)) as u32
    }

    /// Requests that run.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// The most tokens that a running request has before the next iteration: all of them grow alike.
    fn longest(&self) -> u64 {
        u64::from(self.longest) + self.done
    }

    /// What the next iteration computes.
    pub(crate) fn work(&self) -> StepWork {
        let (requests, next) = (u128::from(self.requests), u128::from(self.done) + 1);
        // All requests that run have grown by as much.
        let at_start = u128::from(self.computed - self.done * self.requests);
        StepWork {
            requests: self.requests,
            context_tokens: self.computed + self.requests,
            longest_context_tokens: if self.requests == 0 { 0 } else { self.longest() + 1 },
            squared_context_tokens: self.squares + 2 * next * at_start + next * next * requests,
        }
    }

    /// Requests that need a block in the next iteration.
    pub(crate) fn num_opening(&self) -> u32 {
        if self.block_size == 1 {
            return self.requests as u32;
        }
        if self.next_opening() > self.done {
            return 0;
        }
        let due = self.done - self.opening.base;
        self.phases[self.opening.index..].iter().take_while(|phase| phase.first == due).count() as u32
    }

    /// How many iterations from the next one on change no block and end nobody.
    pub(crate) fn uneventful(&self) -> u64 {
        let next_filling = if self.fills_wait { u64::MAX } else { self.next_filling() };
        self.next_end.min(self.next_opening()).min(next_filling) - self.done
    }

    /// `iterations` of the next ones have ended in which nothing changed.
    pub(crate) fn skip(&mut self, iterations: u64) {
        debug_assert!(iterations <= self.uneventful());
        self.done += iterations;
        self.computed += iterations * self.requests;
    }

    /// Who crosses a block boundary in the next iteration, in order of the running list, behind those who filled a block in
    /// the one before and were not told of; asked once an iteration.
    pub(crate) fn take_crossings(&mut self) -> &[Change] {
        self.in_flight = true;
        self.changes.clear();
        while self.next_opening() == self.done {
            let Phase { place, slot, .. } = self.phases[self.opening.index];
            self.changes.push(Change { is_late: false, place, slot, crossing: Crossing::Opens });
            self.opening.step(self.phases.len(), self.block_size);
        }
        while self.next_filling() <= self.done {
            let is_late = self.next_filling() < self.done;
            let Phase { place, slot, .. } = self.phases[self.filling.index];
            self.changes.push(Change { is_late, place, slot, crossing: Crossing::Fills });
            self.filling.step(self.phases.len(), self.block_size);
        }
        self.changes.sort_unstable_by_key(|change| (!change.is_late, change.place, change.crossing));
        &self.changes
    }

    /// The next iteration has ended.
    pub(crate) fn end_iteration(&mut self) {
        self.in_flight = false;
        self.done += 1;
        self.computed += self.requests;
    }

    /// The next request that ended with the last iteration, in order of the running list.
    pub(crate) fn pop_ended(&mut self) -> Option<Slot> {
        if self.next_end >= self.done {
            return None;
        }
        if self.next_ending == 0 {
            self.order_endings();
        }
        let ending = self.endings[self.next_ending];
        self.next_ending += 1;
        self.next_end = self.endings.get(self.next_ending).map_or(u64::MAX, |ending| ending.last);
        self.longest = self.longest_of_rest.get(self.next_ending).copied().unwrap_or(0);
        self.requests -= 1;
        self.computed -= u64::from(ending.computed) + self.done;
        self.squares -= u128::from(ending.computed).pow(2);
        if let Some(position) = self.phases.iter().position(|phase| phase.slot == ending.slot) {
            self.phases.remove(position);
            for cursor in [&mut self.opening, &mut self.filling] {
                cursor.removed(position, self.phases.len(), self.block_size);
            }
        }
        Some(ending.slot)
    }

    /// Puts the phases, which are in order of place, in order of their first iterations too.
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
            self.starts[phase.first as usize + 1] += 1;
        }
        for at in 1..size {
            self.starts[at] += self.starts[at - 1];
        }
        self.ordered.clone_from(&self.phases);
        for &phase in &self.phases {
            let place = &mut self.starts[phase.first as usize];
            self.ordered[*place as usize] = phase;
            *place += 1;
        }
        std::mem::swap(&mut self.phases, &mut self.ordered);
    }

    /// Puts the endings in order; a stretch that is over before the first of them goes without.
    fn order_endings(&mut self) {
        self.endings.sort_unstable();
        self.longest_of_rest.resize(self.endings.len(), 0);
        let mut longest = 0;
        for (ending, slot) in self.endings.iter().zip(&mut self.longest_of_rest).rev() {
            longest = ending.computed.max(longest);
            *slot = longest;
        }
    }

    fn next_opening(&self) -> u64 {
        self.phases.get(self.opening.index).map_or(u64::MAX, |phase| self.opening.base + phase.first)
    }

    fn next_filling(&self) -> u64 {
        self.phases.get(self.filling.index).map_or(u64::MAX, |phase| self.filling.base + phase.first - 1)
    }
}

impl Cursor {
    fn step(&mut self, len: usize, block_size: u64) {
        self.index += 1;
        self.wrap(len, block_size);
    }

    fn removed(&mut self, position: usize, len: usize, block_size: u64) {
        if position < self.index {
            self.index -= 1;
        }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens in an iteration: who opens and fills a block, and who ends.
    type Events = (Vec<(u32, Crossing)>, Vec<u32>);

    /// What happens in each iteration of a stretch; what is told of late, where it happened.
    fn follow(block_size: u32, fills_wait: bool, members: &[(u32, u32)]) -> Vec<Events> {
        let mut stretch = Stretch::default();
        let members = members.iter().zip(0..).map(|(&(computed, remaining), slot)| Member {
            slot: Slot(slot),
            computed,
            remaining,
        });
        stretch.begin(block_size, fills_wait, members);
        let mut log: Vec<Events> = Vec::new();
        while stretch.requests() > 0 {
            let quiet = stretch.uneventful();
            for _ in 0..quiet {
                assert_eq!(stretch.num_opening(), 0);
                log.push((Vec::new(), Vec::new()));
            }
            stretch.skip(quiet);
            let opening = stretch.num_opening();
            let changes = stretch.take_crossings().iter();
            let (late, crossings): (Vec<Change>, Vec<Change>) =
                changes.copied().partition(|change| change.is_late);
            assert!(late.is_empty() || fills_wait);
            let of = |change: Change| (change.slot.0, change.crossing);
            if let Some((before, _)) = log.last_mut() {
                before.extend(late.into_iter().map(of));
                before.sort_unstable();
            }
            let crossings: Vec<_> = crossings.into_iter().map(of).collect();
            let opened = crossings.iter().filter(|(_, what)| *what == Crossing::Opens).count();
            assert_eq!(opened, opening as usize);
            stretch.end_iteration();
            let ended = std::iter::from_fn(|| stretch.pop_ended()).map(|slot| slot.0).collect();
            log.push((crossings, ended));
        }
        log
    }

    /// The same, request by request and token by token.
    fn spelled_out(block_size: u32, members: &[(u32, u32)]) -> Vec<Events> {
        let iterations = members.iter().map(|&(_, remaining)| remaining).max().unwrap_or(0);
        let iteration = |number: u32| {
            let (mut crossings, mut ended) = (Vec::new(), Vec::new());
            for (slot, &(computed, remaining)) in (0..).zip(members) {
                if number >= remaining {
                    continue;
                }
                let at = computed + number;
                if at.is_multiple_of(block_size) {
                    crossings.push((slot, Crossing::Opens));
                }
                if (at + 1).is_multiple_of(block_size) {
                    crossings.push((slot, Crossing::Fills));
                }
                if number + 1 == remaining {
                    ended.push(slot);
                }
            }
            (crossings, ended)
        };
        (0..iterations).map(iteration).collect()
    }

    proptest! {
        #[test]
        fn it_is_what_happens_token_by_token(
            block_size in 2_u32..9,
            members in prop::collection::vec((0_u32..40, 1_u32..60), 1..12),
        ) {
            for fills_wait in [false, true] {
                prop_assert_eq!(follow(block_size, fills_wait, &members), spelled_out(block_size, &members));
            }
        }
    }

    #[test]
    fn the_sum_of_contexts_follows_who_runs() {
        let mut stretch = Stretch::default();
        let members = [(10, 2), (20, 5)].into_iter().zip(0..);
        stretch.begin(
            16,
            false,
            members.map(|((computed, remaining), slot)| Member { slot: Slot(slot), computed, remaining }),
        );
        assert_eq!((stretch.requests(), stretch.computed, stretch.longest()), (2, 30, 20));
        stretch.end_iteration();
        stretch.end_iteration();
        assert_eq!(stretch.computed, 34);
        assert_eq!(stretch.pop_ended(), Some(Slot(0)));
        assert_eq!((stretch.requests(), stretch.computed, stretch.done()), (1, 22, 2));
        assert_eq!(stretch.pop_ended(), None);
    }
}
