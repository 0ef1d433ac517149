//! `SchedulePolicy`: the order in which waiting requests are looked at.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rustc_hash::FxHashMap;

use super::cache::KvCache;
use super::request::Request;
use super::settings::{SchedulePolicy, SglangConfig};
use super::tree::{Key, NodeId, RadixTree};
use crate::table::{RequestTable, Slot};

/// Waiting requests beyond which the longest prefix match is not worth its time.
const LPM_MOST_WAITING: usize = 128;
/// Matches up to this long are checked for a prefix that another waiting request is about to cache.
const IN_BATCH_CHECK: u32 = 32;
/// Prefixes from this length on are worth waiting for.
const IN_BATCH_DEPRIORITIZE: u32 = 32;

#[derive(Debug)]
pub(super) struct Policy {
    order: SchedulePolicy,
    /// Order by priority first; `Some(true)` if low values come first.
    by_priority: Option<bool>,
    random: Pcg64Mcg,
    /// How often requests were put in order without regard to what is cached.
    unaware: u64,
}

/// How often the prefixes of waiting requests count as used where the order does not depend on them.
const REFRESH_EVERY: u64 = 32;

impl Policy {
    pub(super) fn new(config: &SglangConfig) -> Self {
        Self {
            order: config.schedule_policy,
            by_priority: config
                .enable_priority_scheduling
                .then_some(config.schedule_low_priority_values_first),
            random: Pcg64Mcg::seed_from_u64(config.random_seed),
            unaware: 0,
        }
    }

    /// Puts the waiting requests in order.
    pub(super) fn order(
        &mut self,
        waiting: &mut [Slot],
        requests: &mut RequestTable<Request>,
        cache: &mut KvCache,
    ) {
        let cache_aware =
            cache.shares && matches!(self.order, SchedulePolicy::Lpm | SchedulePolicy::DfsWeight);
        let too_many = self.order == SchedulePolicy::Lpm && waiting.len() > LPM_MOST_WAITING;
        if !cache_aware || too_many {
            self.refresh(waiting, requests, cache);
        }
        match self.order {
            SchedulePolicy::Lpm if cache_aware && !too_many => by_longest_prefix(waiting, requests, cache),
            SchedulePolicy::DfsWeight if cache_aware => by_subtree(waiting, requests, cache),
            SchedulePolicy::Lof => self.by_longest_output(waiting, requests),
            SchedulePolicy::Random => waiting.shuffle(&mut self.random),
            SchedulePolicy::Fcfs | SchedulePolicy::Lpm | SchedulePolicy::DfsWeight => {
                if let Some(low_first) = self.by_priority {
                    waiting.sort_by_key(|&slot| (rank(&requests[slot], low_first), requests[slot].entered));
                }
            }
        }
    }

    /// Now and then keeps what waiting requests would hit from being evicted before their turn.
    fn refresh(&mut self, waiting: &[Slot], requests: &mut RequestTable<Request>, cache: &mut KvCache) {
        if waiting.is_empty() {
            return;
        }
        if self.unaware.is_multiple_of(REFRESH_EVERY) {
            for &slot in waiting.iter().rev() {
                let request = &mut requests[slot];
                let tokens = request.known();
                cache.find(request, tokens);
            }
        }
        self.unaware += 1;
    }

    fn by_longest_output(&self, waiting: &mut [Slot], requests: &RequestTable<Request>) {
        let longest = |slot: Slot| std::cmp::Reverse(requests[slot].max_new_tokens);
        match self.by_priority {
            Some(low_first) => {
                waiting.sort_by_key(|&slot| (rank(&requests[slot], low_first), longest(slot)));
            }
            None => waiting.sort_by_key(|&slot| longest(slot)),
        }
    }
}

/// The lowest rank goes first.
pub(super) fn rank(request: &Request, low_first: bool) -> i64 {
    if low_first { i64::from(request.priority) } else { -i64::from(request.priority) }
}

/// Longest cached prefix first; requests that share one with an earlier waiting request go last, so that it is cached
/// when their turn comes.
fn by_longest_prefix(waiting: &mut [Slot], requests: &mut RequestTable<Request>, cache: &mut KvCache) {
    let mut about_to_be_cached = RadixTree::new(1);
    let mut order = FxHashMap::default();
    for &slot in &*waiting {
        let request = &mut requests[slot];
        let tokens = request.known();
        let matched = cache.find(request, tokens).tokens;
        // The last token is computed in any case.
        let mut key = i64::from(matched.min(tokens - 1));
        if matched <= IN_BATCH_CHECK {
            let content = Key { content: request.sequence.content(), tokens, hashes: &[] };
            if about_to_be_cached.find(content).tokens >= IN_BATCH_DEPRIORITIZE {
                key = -1;
            } else {
                about_to_be_cached.insert(content);
            }
        }
        order.insert(slot, -key);
    }
    waiting.sort_by_key(|slot| order[slot]);
}

/// Along the tree, depth first, subtrees with most waiting requests first.
fn by_subtree(waiting: &mut [Slot], requests: &mut RequestTable<Request>, cache: &mut KvCache) {
    let mut at_node: FxHashMap<NodeId, Vec<Slot>> = FxHashMap::default();
    let mut weight: FxHashMap<NodeId, usize> = FxHashMap::default();
    let ends: Vec<(Slot, NodeId)> = waiting
        .iter()
        .map(|&slot| {
            let request = &mut requests[slot];
            let tokens = request.known();
            (slot, cache.find(request, tokens).node)
        })
        .collect();
    let mut children: FxHashMap<NodeId, Vec<NodeId>> = FxHashMap::default();
    for (slot, end) in ends {
        at_node.entry(end).or_default().push(slot);
        let mut node = end;
        loop {
            let first_visit = !weight.contains_key(&node);
            *weight.entry(node).or_default() += 1;
            if node == NodeId::ROOT {
                break;
            }
            let parent = cache.tree.parent(node);
            if first_visit {
                children.entry(parent).or_default().push(node);
            }
            node = parent;
        }
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|&node| (std::cmp::Reverse(weight[&node]), cache.tree.order(node)));
    }
    // Requests of a node come after those below it, so the walk is done backwards.
    let (mut position, mut stack) = (waiting.len(), vec![NodeId::ROOT]);
    while let Some(node) = stack.pop() {
        for &slot in at_node.get(&node).into_iter().flatten().rev() {
            position -= 1;
            waiting[position] = slot;
        }
        stack.extend(children.get(&node).into_iter().flatten());
    }
}
