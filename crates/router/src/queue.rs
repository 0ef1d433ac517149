//! Requests that wait until a rank has room for more prefill.
//!
//! A **lane** is what requests compete for: any rank, one pinned rank, one allowed set. Lanes do not hold each other
//! up; within one the policy orders, and equal keys leave in the order in which they came. Nobody overtakes: a
//! newcomer to a lane where somebody waits is put in and takes its place by the policy.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_types::{Rank, RequestId, Time};

use crate::{EffectiveSettings, QueuePolicy, RoutingRequest};

const NS_PER_S: f64 = 1e9;

/// What a request may be served by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Any,
    Allowed(Arc<[u32]>),
    Pinned(Rank),
}

impl Lane {
    pub(crate) fn of(request: &RoutingRequest) -> Self {
        match (&request.pinned, &request.allowed) {
            (Some(rank), _) => Self::Pinned(*rank),
            (None, Some(allowed)) => Self::Allowed(Arc::clone(allowed)),
            (None, None) => Self::Any,
        }
    }
}

/// Place in a lane: the greatest leaves first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Nanoseconds, or the bits of a positive float, which are ordered as it is.
    weight: i128,
    sequence: Reverse<u64>,
}

/// A request that makes sense, with what is fixed when it comes in.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) request: RoutingRequest,
    pub(crate) settings: EffectiveSettings,
    pub(crate) lane: Lane,
}

/// A request in the queue.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    /// Apart, since a heap moves its entries.
    pub(crate) checked: Box<Checked>,
    pub(crate) since: Time,
    key: Key,
}

impl Waiting {
    pub(crate) fn id(&self) -> RequestId {
        self.checked.request.id
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    lanes: BTreeMap<Lane, BinaryHeap<Waiting>>,
    lane_of: FxHashMap<RequestId, Lane>,
    isl_tokens: u64,
    sequence: u64,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.lane_of.is_empty()
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.lane_of.len()
    }

    /// Their prompt tokens together.
    pub(crate) fn isl_tokens(&self) -> u64 {
        self.isl_tokens
    }

    pub(crate) fn contains(&self, id: RequestId) -> bool {
        self.lane_of.contains_key(&id)
    }

    /// Requests that wait in a lane.
    pub(crate) fn waiting_in(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).map_or(0, BinaryHeap::len)
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.keys()
    }

    /// Puts a request in; `uncached_tokens` is what it would compute at best, for [`QueuePolicy::Wspt`].
    pub(crate) fn push(&mut self, policy: QueuePolicy, checked: Checked, uncached_tokens: u64, now: Time) {
        let request = &checked.request;
        let weight = weight(policy, request.priority_jump, now, uncached_tokens);
        let key = Key { weight, sequence: Reverse(self.sequence) };
        self.sequence += 1;
        self.isl_tokens += u64::from(request.isl_tokens);
        self.lane_of.insert(request.id, checked.lane.clone());
        let lane = self.lanes.entry(checked.lane.clone()).or_default();
        lane.push(Waiting { checked: Box::new(checked), since: now, key });
    }

    /// Takes out the request that leaves first among the heads of the lanes that `open` admits.
    pub(crate) fn pop(&mut self, mut open: impl FnMut(&Lane) -> bool) -> Option<Waiting> {
        let heads = self.lanes.iter().filter_map(|(lane, heap)| Some((heap.peek()?.key, lane)));
        let best = heads.filter(|(_, lane)| open(lane)).max_by_key(|&(key, _)| key);
        let lane = best?.1.clone();
        let heap = self.lanes.get_mut(&lane)?;
        let waiting = heap.pop()?;
        if heap.is_empty() {
            self.lanes.remove(&lane);
        }
        self.forget(&waiting);
        Some(waiting)
    }

    /// Takes out one request; `false` if it does not wait.
    pub(crate) fn remove(&mut self, id: RequestId) -> bool {
        let Some(lane) = self.lane_of.get(&id).cloned() else { return false };
        let Some(heap) = self.lanes.get_mut(&lane) else { return false };
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(heap).into_iter().partition(|waiting| waiting.id() == id);
        *heap = kept.into();
        if heap.is_empty() {
            self.lanes.remove(&lane);
        }
        for waiting in &gone {
            self.forget(waiting);
        }
        true
    }

    /// Takes out all requests of the lanes that `dead` names, in the order in which they came.
    pub(crate) fn remove_lanes(&mut self, mut dead: impl FnMut(&Lane) -> bool) -> Vec<Waiting> {
        let lanes: Vec<Lane> = self.lanes.keys().filter(|lane| dead(lane)).cloned().collect();
        let mut gone: Vec<Waiting> =
            lanes.iter().filter_map(|lane| self.lanes.remove(lane)).flatten().collect();
        gone.sort_unstable_by_key(|waiting| waiting.key.sequence.0);
        for waiting in &gone {
            self.forget(waiting);
        }
        gone
    }

    fn forget(&mut self, waiting: &Waiting) {
        self.lane_of.remove(&waiting.id());
        self.isl_tokens -= u64::from(waiting.checked.request.isl_tokens);
    }
}

fn weight(policy: QueuePolicy, priority_jump: f64, now: Time, uncached_tokens: u64) -> i128 {
    // `max` turns what is no number into 0.
    let jump = priority_jump.max(0.0);
    let jump_ns = i128::from((jump * NS_PER_S).round() as u64);
    let arrival_ns = i128::from(now.as_ns());
    match policy {
        QueuePolicy::Fcfs => jump_ns - arrival_ns,
        QueuePolicy::Lcfs => jump_ns + arrival_ns,
        QueuePolicy::Wspt => i128::from(((1.0 + jump) / uncached_tokens.max(1) as f64).to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering::{Equal, Greater, Less};

    use super::*;

    #[test]
    fn keys_are_those_of_the_policies() {
        let at = |secs: u64| Time::from_ns(secs * 1_000_000_000);
        let order = |policy, a: (f64, Time, u64), b: (f64, Time, u64)| {
            weight(policy, a.0, a.1, a.2).cmp(&weight(policy, b.0, b.1, b.2))
        };
        assert_eq!(order(QueuePolicy::Fcfs, (0.0, at(1), 9), (0.0, at(2), 1)), Greater);
        assert_eq!(order(QueuePolicy::Fcfs, (0.0, at(1), 9), (2.0, at(2), 1)), Less);
        assert_eq!(order(QueuePolicy::Fcfs, (-5.0, at(1), 9), (f64::NAN, at(1), 1)), Equal);
        assert_eq!(order(QueuePolicy::Lcfs, (0.0, at(1), 9), (0.0, at(2), 1)), Less);
        assert_eq!(order(QueuePolicy::Lcfs, (2.0, at(1), 9), (0.0, at(2), 1)), Greater);
        // Block size 16: 512 tokens with 30 blocks cached, 64 with none, 1,024 with none but 40 s ahead.
        let (first, second, third) = ((0.0, at(0), 32), (0.0, at(0), 64), (40.0, at(0), 1024));
        assert_eq!(order(QueuePolicy::Wspt, third, first), Greater);
        assert_eq!(order(QueuePolicy::Wspt, first, second), Greater);
        assert_eq!(order(QueuePolicy::Wspt, (f64::INFINITY, at(0), 1), first), Greater);
    }
}
