use std::collections::{BTreeMap, VecDeque};

use super::request::{PriorityKey, Slot};
use crate::args::SchedulingPolicy;

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

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Fcfs(queue) => queue.len(),
            Self::Priority(queue) => queue.len(),
        }
    }

    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = Slot> + '_> {
        match self {
            Self::Fcfs(queue) => Box::new(queue.iter().copied()),
            Self::Priority(queue) => Box::new(queue.values().copied()),
        }
    }
}
