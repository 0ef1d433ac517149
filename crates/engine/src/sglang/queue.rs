//! The waiting queue: requests in the order in which they are looked at.
//!
//! Requests are taken from the front and come in at the back, so that an iteration costs what it looks at, however many
//! wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use servecast_types::Time;

use super::request::Request;
use crate::table::Slot;

/// Place in an order by what requests are: the lowest goes first, of equals the one that entered first or, where a program
/// says the order, that arrived first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) rank: i64,
    pub(super) output: Reverse<u32>,
    pub(super) arrival: Time,
    pub(super) entered: u64,
}

impl Place {
    /// That of a request by what an order of a program last said of it.
    ///
    /// # Panics
    /// If no such order was asked.
    pub(super) fn asked(request: &Request) -> Self {
        let asked = request.asked.as_ref().expect("an order is asked for every request of its engine");
        let (rank, arrival) = (asked.key.0, asked.request.arrival);
        Self { rank, output: Reverse(0), arrival, entered: request.tie_break }
    }
}

#[derive(Debug, Default)]
pub(super) struct WaitingQueue {
    /// Those that were put in order by their places; they go first.
    placed: BTreeMap<Place, Slot>,
    /// All others, in order.
    list: VecDeque<Slot>,
    /// So many at the front of `list` were drawn at random.
    drawn: usize,
}

impl WaitingQueue {
    pub(super) fn len(&self) -> usize {
        self.placed.len() + self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty() && self.list.is_empty()
    }

    pub(super) fn front(&self) -> Option<Slot> {
        self.iter().next()
    }

    pub(super) fn pop_front(&mut self) -> Option<Slot> {
        if let Some((_, slot)) = self.placed.pop_first() {
            return Some(slot);
        }
        self.drawn = self.drawn.saturating_sub(1);
        self.list.pop_front()
    }

    /// Takes a request out; `false` if it is not there.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        let before = self.len();
        self.placed.retain(|_, &mut other| other != slot);
        if let Some(position) = self.list.iter().position(|&other| other == slot) {
            self.list.remove(position);
            self.drawn -= usize::from(position < self.drawn);
        }
        self.len() < before
    }

    pub(super) fn push_back(&mut self, slot: Slot) {
        self.list.push_back(slot);
    }

    /// From the front.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + Clone {
        self.placed.values().chain(&self.list).copied()
    }

    /// Puts those that came since the last time where they belong; all of the queue is ordered by places, or nothing.
    pub(super) fn place(&mut self, place: impl Fn(Slot) -> Place) {
        self.placed.extend(self.list.drain(..).map(|slot| (place(slot), slot)));
    }

    /// Puts all of the queue where it belongs now.
    pub(super) fn place_anew(&mut self, mut place: impl FnMut(Slot) -> Place) {
        self.placed = self.iter().map(|slot| (place(slot), slot)).collect();
        self.list.clear();
    }

    /// Those in the queue, to be put in another order.
    pub(super) fn as_mut_slice(&mut self) -> &mut [Slot] {
        debug_assert!(self.placed.is_empty(), "an order by places stays as it is");
        self.list.make_contiguous()
    }

    /// Forgets what was drawn.
    pub(super) fn shuffle(&mut self) {
        self.drawn = 0;
    }

    /// Draws the first `most` requests from all that wait, as far as that was not done since they were shuffled: the front
    /// of a queue in random order, without the cost of the rest.
    pub(super) fn draw(&mut self, most: usize, random: &mut Pcg64Mcg) {
        let last = self.list.len();
        while self.drawn < most.min(last) {
            let chosen = random.random_range(self.drawn..last);
            self.list.swap(self.drawn, chosen);
            self.drawn += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn slots(queue: &WaitingQueue) -> Vec<u32> {
        queue.iter().map(|slot| slot.0).collect()
    }

    fn queue(slots: impl IntoIterator<Item = u32>) -> WaitingQueue {
        let mut queue = WaitingQueue::default();
        slots.into_iter().for_each(|slot| queue.push_back(Slot(slot)));
        queue
    }

    #[test]
    fn newcomers_wait_at_the_back_until_the_queue_is_put_in_order() {
        let place = |Slot(slot): Slot| Place {
            rank: 0,
            output: Reverse(slot % 10),
            arrival: Time::ZERO,
            entered: slot.into(),
        };
        let mut queue = queue([11, 25, 35]);
        queue.place(place);
        queue.push_back(Slot(47));
        assert_eq!(slots(&queue), [25, 35, 11, 47]);
        queue.place(place);
        assert_eq!(slots(&queue), [47, 25, 35, 11]);
        assert_eq!((queue.pop_front(), queue.front(), queue.len()), (Some(Slot(47)), Some(Slot(25)), 3));
        queue.push_back(Slot(51));
        queue.place_anew(|slot| Place { output: Reverse(0), ..place(slot) });
        assert_eq!(slots(&queue), [11, 25, 35, 51]);
    }

    #[test]
    fn every_request_is_drawn_as_often_as_any_other() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut first = [0_u32; 5];
        let mut queue = queue(0..5);
        for _ in 0..5_000 {
            queue.shuffle();
            queue.draw(2, &mut random);
            let drawn = queue.front();
            queue.draw(2, &mut random);
            assert_eq!(queue.front(), drawn, "they are drawn once");
            first[drawn.unwrap().0 as usize] += 1;
        }
        assert!(first.iter().all(|times| (900..1_100).contains(times)), "{first:?}");
        let mut all = slots(&queue);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }
}
