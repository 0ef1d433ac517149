//! Orders of the waiting queue that go by what is cached, or by who runs.

use std::cmp::Reverse;

use rustc_hash::{FxHashMap, FxHashSet};

use super::cache::KvCache;
use super::request::Request;
use super::tree::{Key, NodeId, Prefix, RadixTree};
use crate::table::{RequestTable, Slot};

/// Matches up to this long are checked for a prefix that another waiting request is about to cache.
const IN_BATCH_CHECK: u32 = 32;
/// Prefixes from this length on are worth waiting for.
const IN_BATCH_DEPRIORITIZE: u32 = 32;

/// Looks all waiting requests up, in order; returns those that share a prefix with an earlier one and go last for that, so
/// that it is cached when their turn comes.
fn look_up(waiting: &[Slot], requests: &mut RequestTable<Request>, cache: &mut KvCache) -> FxHashSet<Slot> {
    let mut about_to_be_cached = RadixTree::new(1);
    let mut put_off = FxHashSet::default();
    for &slot in waiting {
        let request = &mut requests[slot];
        let tokens = request.known();
        let found = cache.find_tiers(request, tokens);
        let matched = found.whole.tokens;
        // The last token is computed in any case.
        request.matched = matched.min(tokens - 1);
        // What only the host has does not count here.
        if found.device.tokens <= IN_BATCH_CHECK {
            let content =
                Key { content: request.sequence.content(), tokens: cache.keys(tokens), hashes: None };
            let shared = about_to_be_cached.find(content).whole.tokens + u32::from(cache.by_pairs);
            if shared >= IN_BATCH_DEPRIORITIZE {
                put_off.insert(slot);
            } else {
                about_to_be_cached.insert(Prefix::EMPTY, content);
            }
        }
    }
    put_off
}

/// Longest cached prefix first.
pub(super) fn by_longest_prefix(
    waiting: &mut [Slot],
    requests: &mut RequestTable<Request>,
    cache: &mut KvCache,
) {
    let put_off = look_up(waiting, requests, cache);
    waiting.sort_by_key(|slot| {
        let put_off = put_off.contains(slot);
        (put_off, Reverse(if put_off { 0 } else { requests[*slot].matched }))
    });
}

/// Fewest tokens to compute first; of equals the one that came first.
pub(super) fn by_uncached_tokens(
    waiting: &mut [Slot],
    requests: &mut RequestTable<Request>,
    cache: &mut KvCache,
) {
    let put_off = look_up(waiting, requests, cache);
    waiting.sort_by_key(|slot| {
        let request = &requests[*slot];
        (put_off.contains(slot), request.uncached(), request.entered)
    });
}

/// Those first that have waited longest for what they are: by the prompt tokens that the engine has computed meanwhile, of
/// `computed` in all, over those that they need.
pub(super) fn by_response_ratio(
    waiting: &mut [Slot],
    requests: &mut RequestTable<Request>,
    cache: &mut KvCache,
    computed: u64,
) {
    let put_off = look_up(waiting, requests, cache);
    let ratio = |slot: Slot| {
        let request = &requests[slot];
        if put_off.contains(&slot) {
            return f64::NEG_INFINITY;
        }
        let needed = request.prompt_tokens.saturating_sub(request.matched);
        if needed == 0 {
            return f64::INFINITY;
        }
        (computed - request.computed_before) as f64 / f64::from(needed)
    };
    waiting.sort_by(|&a, &b| {
        let ties = || requests[a].tie_break.cmp(&requests[b].tie_break);
        ratio(b).total_cmp(&ratio(a)).then_with(ties)
    });
}

/// Those first whose routing key most running requests have, then by key; nobody, then, whose key does not run. All stay as
/// they are if no key runs.
pub(super) fn by_routing_key(waiting: &mut [Slot], requests: &RequestTable<Request>, running: &[Slot]) {
    let mut counts: FxHashMap<u32, usize> = FxHashMap::default();
    for key in running.iter().filter_map(|&slot| requests[slot].routing_key) {
        *counts.entry(key).or_default() += 1;
    }
    if counts.is_empty() {
        return;
    }
    waiting.sort_by_key(|&slot| {
        let key = requests[slot].routing_key;
        let count = key.and_then(|key| counts.get(&key)).copied().unwrap_or(0);
        (Reverse(count), key)
    });
}

/// Along the tree, depth first, subtrees with most waiting requests first.
pub(super) fn by_subtree(waiting: &mut [Slot], requests: &mut RequestTable<Request>, cache: &mut KvCache) {
    let mut at_node: FxHashMap<NodeId, Vec<Slot>> = FxHashMap::default();
    let mut weight: FxHashMap<NodeId, usize> = FxHashMap::default();
    let ends: Vec<(Slot, NodeId)> = waiting
        .iter()
        .map(|&slot| {
            let request = &mut requests[slot];
            let tokens = request.known();
            // Where it ends on the device: what only the host has does not count.
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
        siblings.sort_by_key(|&node| (Reverse(weight[&node]), cache.tree.order(node)));
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
