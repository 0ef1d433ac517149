//! The waiting queue of vLLM's scheduler, under its two policies or in an order of a program.

use std::collections::{BTreeMap, VecDeque};

use super::request::Place;
use crate::EngineConfig;
use crate::args::SchedulingPolicy;
use crate::table::Slot;

/// Requests that wait for their admission.
#[derive(Debug)]
pub(crate) enum WaitingQueue {
    /// In order of arrival; preempted requests go to the front.
    Fcfs(VecDeque<Slot>),
    /// By priority, or by the keys of an order of a program, and arrival, preempted or not.
    Ordered(BTreeMap<Place, Slot>),
}

impl WaitingQueue {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        if config.order.is_none() && config.scheduling_policy == SchedulingPolicy::Fcfs {
            Self::Fcfs(VecDeque::new())
        } else {
            Self::Ordered(BTreeMap::new())
        }
    }

    pub(crate) fn push(&mut self, slot: Slot, place: Place) {
        match self {
            Self::Fcfs(queue) => queue.push_back(slot),
            Self::Ordered(queue) => _ = queue.insert(place, slot),
        }
    }

    /// Puts a preempted request where it is resumed next.
    pub(crate) fn push_preempted(&mut self, slot: Slot, place: Place) {
        match self {
            Self::Fcfs(queue) => queue.push_front(slot),
            Self::Ordered(queue) => _ = queue.insert(place, slot),
        }
    }

    /// Puts all of them, in a queue that goes by places, where they belong now.
    pub(crate) fn arrange(&mut self, mut place: impl FnMut(Slot) -> Place) {
        if let Self::Ordered(queue) = self {
            *queue = queue.values().map(|&slot| (place(slot), slot)).collect();
        }
    }

    pub(crate) fn peek(&self) -> Option<Slot> {
        match self {
            Self::Fcfs(queue) => queue.front().copied(),
            Self::Ordered(queue) => queue.values().next().copied(),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Slot> {
        match self {
            Self::Fcfs(queue) => queue.pop_front(),
            Self::Ordered(queue) => queue.pop_first().map(|(_, slot)| slot),
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        match self {
            Self::Fcfs(queue) => queue.retain(|&other| other != slot),
            Self::Ordered(queue) => queue.retain(|_, &mut other| other != slot),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> {
        let (fcfs, ordered) = match self {
            Self::Fcfs(queue) => (Some(queue.iter()), None),
            Self::Ordered(queue) => (None, Some(queue.values())),
        };
        fcfs.into_iter().flatten().chain(ordered.into_iter().flatten()).copied()
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Fcfs(queue) => queue.len(),
            Self::Ordered(queue) => queue.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::Time;

    use super::super::request::PriorityKey;
    use super::*;

    fn place(priority: i32, arrival: u64, slot: u32) -> Place {
        PriorityKey::new(priority, Time::from_ns(arrival), slot.into()).place(None)
    }

    fn fcfs() -> WaitingQueue {
        WaitingQueue::Fcfs(VecDeque::new())
    }

    fn ordered() -> WaitingQueue {
        WaitingQueue::Ordered(BTreeMap::new())
    }

    /// The slots of a queue in the order in which they come.
    fn slots(mut queue: WaitingQueue) -> Vec<u32> {
        let pop = || {
            let first = queue.peek();
            assert_eq!(queue.pop(), first);
            first.map(|slot| slot.0)
        };
        std::iter::from_fn(pop).collect()
    }

    /// Pushes slots 0, 1, ... by their priority and arrival, then preempted ones; gives the order in which they come.
    fn order(mut queue: WaitingQueue, waiting: &[(i32, u64)], preempted: &[(i32, u64)]) -> Vec<u32> {
        for (slot, &(priority, arrival)) in (0..).zip(waiting.iter().chain(preempted)) {
            let place = place(priority, arrival, slot);
            if (slot as usize) < waiting.len() {
                queue.push(Slot(slot), place);
            } else {
                queue.push_preempted(Slot(slot), place);
            }
        }
        assert_eq!(queue.len(), waiting.len() + preempted.len());
        slots(queue)
    }

    #[test]
    fn fcfs_goes_by_push_and_preempted_requests_come_first_the_last_one_before_the_others() {
        assert_eq!(order(fcfs(), &[(0, 5), (-1, 1)], &[(9, 9), (9, 9)]), [3, 2, 0, 1]);
    }

    #[test]
    fn priority_goes_by_priority_then_arrival_then_tie_break_preempted_or_not() {
        let waiting = [(1, 0), (0, 7), (0, 3), (0, 3)];
        assert_eq!(order(ordered(), &waiting, &[(0, 1), (2, 0)]), [4, 2, 3, 1, 0, 5]);
    }

    #[test]
    fn an_order_that_changes_moves_all_of_them() {
        let mut queue = ordered();
        (0..4).for_each(|slot| queue.push(Slot(slot), place(0, slot.into(), slot)));
        queue.arrange(|Slot(slot)| place(i32::from(slot % 2 == 1), 10 - u64::from(slot), slot));
        assert_eq!(slots(queue), [2, 0, 3, 1]);
    }

    #[test]
    fn what_is_removed_does_not_come() {
        for mut queue in [fcfs(), ordered()] {
            (0..3).for_each(|slot| queue.push(Slot(slot), place(0, 0, slot)));
            queue.remove(Slot(1));
            assert_eq!(slots(queue), [0, 2]);
        }
    }
}
