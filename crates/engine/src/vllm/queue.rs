//! The waiting queue of vLLM's scheduler under its two policies.

use std::collections::{BTreeMap, VecDeque};

use super::request::PriorityKey;
use crate::args::SchedulingPolicy;
use crate::table::Slot;

/// Requests that wait for their admission.
#[derive(Debug)]
pub(crate) enum WaitingQueue {
    /// In order of arrival; preempted requests go to the front.
    Fcfs(VecDeque<Slot>),
    /// By priority and arrival, preempted or not.
    Priority(BTreeMap<PriorityKey, Slot>),
}

impl WaitingQueue {
    pub(crate) fn new(policy: SchedulingPolicy) -> Self {
        match policy {
            SchedulingPolicy::Fcfs => Self::Fcfs(VecDeque::new()),
            SchedulingPolicy::Priority => Self::Priority(BTreeMap::new()),
        }
    }

    pub(crate) fn push(&mut self, slot: Slot, key: PriorityKey) {
        match self {
            Self::Fcfs(queue) => queue.push_back(slot),
            Self::Priority(queue) => _ = queue.insert(key, slot),
        }
    }

    /// Puts a preempted request where it is resumed next.
    pub(crate) fn push_preempted(&mut self, slot: Slot, key: PriorityKey) {
        match self {
            Self::Fcfs(queue) => queue.push_front(slot),
            Self::Priority(queue) => _ = queue.insert(key, slot),
        }
    }

    pub(crate) fn peek(&self) -> Option<Slot> {
        match self {
            Self::Fcfs(queue) => queue.front().copied(),
            Self::Priority(queue) => queue.values().next().copied(),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Slot> {
        match self {
            Self::Fcfs(queue) => queue.pop_front(),
            Self::Priority(queue) => queue.pop_first().map(|(_, slot)| slot),
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        match self {
            Self::Fcfs(queue) => queue.retain(|&other| other != slot),
            Self::Priority(queue) => queue.retain(|_, &mut other| other != slot),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> {
        let (fcfs, priority) = match self {
            Self::Fcfs(queue) => (Some(queue.iter()), None),
            Self::Priority(queue) => (None, Some(queue.values())),
        };
        fcfs.into_iter().flatten().chain(priority.into_iter().flatten()).copied()
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Fcfs(queue) => queue.len(),
            Self::Priority(queue) => queue.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::Time;

    use super::*;

    /// Pushes slots 0, 1, ... by their priority and arrival, then preempted ones; gives the order in which they come.
    fn order(policy: SchedulingPolicy, waiting: &[(i32, u64)], preempted: &[(i32, u64)]) -> Vec<u32> {
        let mut queue = WaitingQueue::new(policy);
        let keys = waiting.iter().chain(preempted).enumerate();
        for (slot, &(priority, arrival)) in keys {
            let key = PriorityKey::new(priority, Time::from_ns(arrival), slot as u64);
            let slot = Slot(slot as u32);
            if (slot.0 as usize) < waiting.len() {
                queue.push(slot, key);
            } else {
                queue.push_preempted(slot, key);
            }
        }
        assert_eq!(queue.len(), waiting.len() + preempted.len());
        let pop = || {
            let first = queue.peek();
            assert_eq!(queue.pop(), first);
            first.map(|slot| slot.0)
        };
        std::iter::from_fn(pop).collect()
    }

    #[test]
    fn fcfs_goes_by_push_and_preempted_requests_come_first_the_last_one_before_the_others() {
        assert_eq!(order(SchedulingPolicy::Fcfs, &[(0, 5), (-1, 1)], &[(9, 9), (9, 9)]), [3, 2, 0, 1]);
    }

    #[test]
    fn priority_goes_by_priority_then_arrival_then_tie_break_preempted_or_not() {
        let waiting = [(1, 0), (0, 7), (0, 3), (0, 3)];
        assert_eq!(order(SchedulingPolicy::Priority, &waiting, &[(0, 1), (2, 0)]), [4, 2, 3, 1, 0, 5]);
    }

    #[test]
    fn what_is_removed_does_not_come() {
        for policy in [SchedulingPolicy::Fcfs, SchedulingPolicy::Priority] {
            let mut queue = WaitingQueue::new(policy);
            (0..3).for_each(|slot| queue.push(Slot(slot), PriorityKey::new(0, Time::ZERO, slot.into())));
            queue.remove(Slot(1));
            assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(Slot(0)), Some(Slot(2)), None));
        }
    }
}
