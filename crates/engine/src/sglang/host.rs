//! The memory of the host as a second tier of the cache: SGLang's `HiCache`.
//!
//! Nodes of the tree are copied there when they come to be (`write_through`), when they are hit again
//! (`write_through_selective`) or when they are evicted (`write_back`), and loaded back when a request that hits them is
//! admitted. Copies of one direction follow one another; those of one result or one decision are one transfer.

use std::collections::VecDeque;

use servecast_types::{Duration, HashRuns, KvEvent, SequenceHash, Time};

use super::cache::KvCache;
use super::hicache_args::{HicacheConfig, HicacheWritePolicy};
use super::tree::{Evicted, Found, NodeId, Prefix};
use crate::iteration::HostCopies;

/// Fewer tokens than that are not worth loading: they are computed again.
const LEAST_LOAD: u32 = 10;

/// A copy of a node to the host.
#[derive(Debug)]
struct Write {
    node: NodeId,
    end: Time,
    tokens: u32,
    parent: Option<SequenceHash>,
    hashes: HashRuns,
}

/// KV in the memory of the host.
#[derive(Debug)]
pub(super) struct HostTier {
    config: HicacheConfig,
    /// Tokens that are free.
    available: u64,
    /// When the decision that is being made goes on: later than it began if it waited for copies.
    now: Time,
    /// When the last copy in either direction ends.
    writes_end: Time,
    loads_end: Time,
    /// Copies under way; those at the end from `begun` on are begun with the result that is being applied.
    writes: VecDeque<Write>,
    begun: usize,
    /// Ends of loads under way, and to where they go; those of the decision being made come last, `planned` tokens each.
    loads: VecDeque<(Time, NodeId)>,
    planned: Vec<u32>,
    /// What is being loaded, and not to be evicted for it.
    kept: Option<NodeId>,
    /// What is told of a decision or a result.
    log: HostCopies,
    /// Events of device and host in their order, as the real cache sends them; the host's are `true`.
    events: Option<Vec<(bool, KvEvent)>>,
}

impl HostTier {
    pub(super) fn new(config: HicacheConfig, capture_events: bool) -> Self {
        Self {
            available: config.host_tokens,
            config,
            now: Time::ZERO,
            writes_end: Time::ZERO,
            loads_end: Time::ZERO,
            writes: VecDeque::new(),
            begun: 0,
            loads: VecDeque::new(),
            planned: Vec::new(),
            kept: None,
            log: HostCopies::default(),
            events: capture_events.then(Vec::new),
        }
    }

    /// When a decision is made that began at the time of the last [`KvCache::begin_decision`]: it may have waited for copies.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// The next end of a copy that a decision could be waiting for.
    pub(super) fn next_end(&self) -> Option<Time> {
        let writes = self.writes.iter().map(|write| write.end);
        writes.chain(self.loads.iter().map(|&(end, _)| end)).min()
    }

    /// The same without anything in it.
    pub(super) fn emptied(&self) -> Self {
        let mut host = Self::new(self.config, self.events.is_some());
        host.now = self.now;
        host.note(false, KvEvent::Cleared);
        host
    }

    pub(super) fn note(&mut self, is_host: bool, event: KvEvent) {
        if let Some(events) = &mut self.events {
            events.push((is_host, event));
        }
    }

    /// Adds what is stored on the device, or on the host, which may continue the event before.
    pub(super) fn announce(&mut self, is_host: bool, parent: Option<SequenceHash>, pages: HashRuns) {
        match self.events.as_mut().and_then(|events| events.last_mut()) {
            Some((of_host, KvEvent::Stored { blocks, .. }))
                if *of_host == is_host && parent.is_some() && blocks.last() == parent =>
            {
                blocks.extend(pages.runs());
            }
            _ => self.note(is_host, KvEvent::Stored { parent, blocks: pages }),
        }
    }

    /// Adds what is gone, which may continue the event before.
    pub(super) fn renounce(&mut self, is_host: bool, pages: HashRuns) {
        match self.events.as_mut().and_then(|events| events.last_mut()) {
            Some((of_host, KvEvent::Removed { blocks })) if *of_host == is_host => {
                blocks.extend(pages.runs());
            }
            _ => self.note(is_host, KvEvent::Removed { blocks: pages }),
        }
    }

    /// Whether what is evicted is copied here before.
    pub(super) fn writes_back(&self) -> bool {
        self.config.write_policy == HicacheWritePolicy::WriteBack
    }

    /// KV is not here any more.
    fn gone(&mut self, gone: Vec<Evicted>) {
        for Evicted { tokens, hashes, .. } in gone {
            self.available += u64::from(tokens);
            if !hashes.is_empty() {
                self.renounce(true, hashes);
            }
        }
    }

    /// Nodes that copies keep locked.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.writes.iter().map(|write| write.node).chain(self.loads.iter().map(|&(_, node)| node))
    }

    fn write_time(&self, tokens: u32) -> Duration {
        self.config.write + Duration::from_ns(self.config.write_token_ns.saturating_mul(tokens.into()))
    }

    fn load_time(&self, tokens: u32) -> Duration {
        self.config.load + Duration::from_ns(self.config.load_token_ns.saturating_mul(tokens.into()))
    }

    fn noted(&mut self) -> HostCopies {
        let log = std::mem::take(&mut self.log);
        HostCopies { available: self.available, writing: self.writes.len(), loading: self.loads.len(), ..log }
    }
}

/// What the cache does with its second tier.
impl KvCache {
    /// A decision is about to be made `now`: copies that have ended by then are seen, those to the host first.
    pub(super) fn begin_decision(&mut self, now: Time) {
        let Some(host) = &mut self.host else { return };
        // Not before the last one was made, which may have waited.
        host.now = host.now.max(now);
        let now = host.now;
        while host.writes.front().is_some_and(|write| write.end <= now) {
            let Some(Write { node, parent, hashes, .. }) = host.writes.pop_front() else { break };
            self.tree.unlock(node);
            if !hashes.is_empty() {
                host.announce(true, parent, hashes);
            }
        }
        while host.loads.front().is_some_and(|&(end, _)| end <= now) {
            let Some((_, node)) = host.loads.pop_front() else { break };
            self.tree.unlock(node);
            self.tree.end_load(node);
        }
    }

    /// Drops all copies, which nobody needs any more.
    pub(super) fn drop_copies(&mut self) {
        let Some(host) = &mut self.host else { return };
        let nodes: Vec<NodeId> = host.nodes().collect();
        **host = host.emptied();
        for node in nodes {
            self.tree.unlock(node);
        }
    }

    /// A decision is made. Returns when all that is loaded is here, if it is anything.
    pub(super) fn end_decision(&mut self) -> Option<Time> {
        self.begin_loads();
        self.host.as_ref()?.loads.back().map(|&(end, _)| end)
    }

    /// Who is admitted is decided: what that loads is on its way, before others make room for what is computed.
    pub(super) fn begin_loads(&mut self) {
        let Some(host) = self.host.as_mut().filter(|host| !host.planned.is_empty()) else { return };
        let planned = std::mem::take(&mut host.planned);
        let end = host.now.max(host.loads_end) + host.load_time(planned.iter().sum());
        host.loads_end = end;
        let first = host.loads.len() - planned.len();
        host.loads.range_mut(first..).for_each(|load| load.0 = end);
        host.log.transfers.push((false, planned, end));
    }

    /// A result was applied `now`: what is to be copied to the host for it is on its way.
    pub(super) fn end_result(&mut self, now: Time) {
        let Some(host) = self.host.as_mut().filter(|host| host.begun > 0) else { return };
        let first = host.writes.len() - std::mem::take(&mut host.begun);
        let tokens: Vec<u32> = host.writes.range(first..).map(|write| write.tokens).collect();
        let end = now.max(host.writes_end) + host.write_time(tokens.iter().sum());
        host.writes_end = end;
        host.writes.range_mut(first..).for_each(|write| write.end = end);
        host.log.transfers.push((true, tokens, end));
    }

    /// Keeps no events of both tiers.
    pub(super) fn tells_no_tiers(&mut self) {
        if let Some(host) = &mut self.host {
            host.events = None;
        }
    }

    /// What became of copies since the last time.
    pub(super) fn host_copies(&mut self) -> Option<HostCopies> {
        self.host.as_mut().map(|host| host.noted())
    }

    /// Events of both tiers since the last time.
    pub(super) fn take_tiered_events(&mut self) -> Vec<(bool, KvEvent)> {
        self.host.as_mut().and_then(|host| host.events.as_mut()).map(std::mem::take).unwrap_or_default()
    }

    /// An insertion that goes to the end of `prefix` is a hit of what its request has not counted for yet, which is all but its
    /// first `counted` tokens: nodes that are hit often enough are copied to the host, with what is above them.
    pub(super) fn count_hits(&mut self, prefix: Prefix, counted: u32) {
        let Some(host) = &self.host else { return };
        let threshold = match host.config.write_policy {
            HicacheWritePolicy::WriteBack => return,
            HicacheWritePolicy::WriteThrough => 1,
            HicacheWritePolicy::WriteThroughSelective => 2,
        };
        let above = self.tree.ancestor_at(prefix.node, prefix.tokens, counted);
        for node in self.tree.path(above, prefix.node) {
            if self.tree.hit(node) >= threshold && !self.tree.is_on_host(node) {
                self.copy_to_host(node);
            }
        }
    }

    /// Copies a node to the host, and those above it that are not there, from the top; as far as there is room.
    fn copy_to_host(&mut self, node: NodeId) {
        let mut above = node;
        while !self.tree.is_on_host(above) {
            above = self.tree.parent(above);
        }
        for node in self.tree.path(above, node) {
            if !self.reserve_on_host(node) {
                return;
            }
            let (parent, hashes) = self.tree.names(node);
            let tokens = self.tree.tokens(node);
            self.tree.lock(node);
            let host = self.host.as_mut().expect("it was there");
            host.writes.push_back(Write { node, end: Time::MAX, tokens, parent, hashes });
            host.begun += 1;
        }
    }

    /// Makes room on the host for a node, if there can be enough, and as far as there can be.
    fn reserve_on_host(&mut self, node: NodeId) -> bool {
        let tokens = u64::from(self.tree.tokens(node));
        let Some(host) = &mut self.host else { return false };
        let missing = tokens.saturating_sub(host.available);
        if missing > 0 {
            let gone = self.tree.evict_from_host(missing, host.kept);
            host.gone(gone);
        }
        let fits = host.available >= tokens;
        if fits {
            host.available -= tokens;
            self.tree.keep_on_host(node);
        }
        fits
    }

    /// Under `write_back`, the leaf that is evicted next is copied to the host before, for which the decision waits. Without room
    /// it is lost, with what only the host has below it.
    pub(super) fn write_back(&mut self, leaf: NodeId) {
        let Some(host) = &self.host else { return };
        let is_wanted = host.writes_back() && !self.tree.is_on_host(leaf);
        if !is_wanted {
            return;
        }
        if !self.reserve_on_host(leaf) {
            let lost = self.tree.drop_below(leaf);
            if let Some(host) = &mut self.host {
                host.gone(lost);
            }
            return;
        }
        let (tokens, (parent, hashes)) = (self.tree.tokens(leaf), self.tree.names(leaf));
        let host = self.host.as_mut().expect("it was there");
        let end = host.now.max(host.writes_end) + host.write_time(tokens);
        (host.now, host.writes_end) = (end, end);
        host.log.transfers.push((true, vec![tokens], end));
        if !hashes.is_empty() {
            host.announce(true, parent, hashes);
        }
        self.tree.track_duplicate(leaf);
    }

    /// Loads what a request hits on the host, if that is worth it and there is memory; returns what it hits on the device then.
    pub(super) fn load_back(&mut self, found: Found) -> Prefix {
        let tokens = found.whole.tokens - found.device.tokens;
        if self.host.is_none() || tokens < LEAST_LOAD {
            return found.device;
        }
        self.tree.lock(found.device.node);
        if let Some(host) = &mut self.host {
            host.kept = Some(found.whole.node);
        }
        self.make_available(tokens.into());
        self.tree.unlock(found.device.node);
        let Some(host) = &mut self.host else { return found.device };
        host.kept = None;
        if self.available() < u64::from(tokens) {
            return found.device;
        }
        self.take(tokens.into());
        self.tree.begin_load(found.device.node, found.whole.node);
        self.tree.bring_up(found.whole.node);
        self.tree.lock(found.whole.node);
        self.announce_loaded(found);
        let host = self.host.as_mut().expect("it was there");
        host.loads.push_back((Time::MAX, found.whole.node));
        host.planned.push(tokens);
        found.whole
    }

    /// Tells of what is on the device again, node by node.
    fn announce_loaded(&mut self, found: Found) {
        for node in self.tree.path(found.device.node, found.whole.node) {
            let (parent, hashes) = self.tree.names(node);
            if !hashes.is_empty() {
                self.announce(parent, &hashes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::{Fixture, config};
    use super::*;

    /// A pool of 100 tokens beside a host of 20.
    fn fixture(policy: &str) -> Fixture {
        let own: Value = json!({
            "enable_hierarchical_cache": true, "hicache_ratio": 0.2, "hicache_write_policy": policy,
            "hicache_write_bandwidth": 1.0, "hicache_write_us": 0,
        });
        let mut fixture = Fixture::new(100, &own);
        fixture.cache = KvCache::new(&config(100, &own), true);
        fixture
    }

    /// Tokens of the copies that begin with what was cached since the last time.
    fn copied(fixture: &mut Fixture, now: u64) -> Vec<u32> {
        fixture.cache.end_result(Time::from_ns(now));
        let copies = fixture.cache.host_copies().unwrap().transfers;
        copies.into_iter().flat_map(|(_, tokens, _)| tokens).collect()
    }

    #[test]
    fn what_did_not_fit_goes_with_what_comes_below_it() {
        let mut fixture = fixture("write_through");
        // Locked until its copy is done, so that there is no room for anything else.
        fixture.cache_prompt(&[(0, 15)]);
        assert_eq!(copied(&mut fixture, 0), [15]);
        fixture.cache_prompt(&[(100, 6)]);
        assert!(copied(&mut fixture, 1).is_empty());
        fixture.cache.begin_decision(Time::from_ns(20_000));
        fixture.cache.make_available(94);
        fixture.cache_prompt(&[(100, 6), (200, 7)]);
        assert_eq!(copied(&mut fixture, 20_000), [6, 7]);
    }

    #[test]
    fn room_on_the_host_is_made_before_a_leaf_is_told_of() {
        let mut fixture = fixture("write_through");
        fixture.cache_prompt(&[(0, 15)]);
        copied(&mut fixture, 0);
        fixture.cache_prompt(&[(100, 6)]);
        fixture.cache.begin_decision(Time::from_ns(20_000));
        fixture.cache.make_available(94);
        fixture.cache.take_tiered_events();
        fixture.cache_prompt(&[(100, 6), (200, 7)]);
        let events = fixture.cache.take_tiered_events();
        let told = events.iter().map(|(is_host, event)| (*is_host, matches!(event, KvEvent::Removed { .. })));
        assert_eq!(told.collect::<Vec<_>>(), [(true, true), (false, false)]);
    }

    #[test]
    fn a_node_is_copied_whole_before_it_is_cut_where_the_prompt_ends() {
        let mut fixture = fixture("write_through");
        let slot = fixture.add(&[(0, 8)], 5);
        let request = &mut fixture.requests[slot];
        request.outputs = 3;
        fixture.cache.allocate(request, 11);
        fixture.cache.share_and_release(request, 11);
        assert_eq!(copied(&mut fixture, 0), [11]);
    }
}
