//! The KV memory of a worker: free pages, the pages that single requests own, and the radix tree of shared ones.
//!
//! Only sizes are kept, in tokens: which page of the pool something lies in makes no difference to any decision. A
//! request's KV is a locked prefix in the tree (`protected` tokens) and whole pages of its own behind that.

use servecast_types::{HashRun, HashRuns, KvEvent, SequenceHash, ensure};

use super::host::HostTier;
use super::request::Request;
use super::settings::SglangConfig;
use super::tree::{Evicted, Found, Key, NodeId, Prefix, RadixTree};
use super::windows::WindowPool;
use crate::EngineConfig;
use crate::iteration::SglangState;

#[derive(Debug)]
pub(super) struct KvCache {
    pub(super) page_size: u32,
    /// Tokens of the pool.
    capacity: u64,
    /// Tokens of free pages.
    available: u64,
    pub(super) tree: RadixTree,
    /// Whether requests share prefixes.
    pub(super) shares: bool,
    /// Whether prefixes are told apart by pairs of tokens, so that so many tokens are one pair less.
    pub(super) by_pairs: bool,
    events: Option<Vec<KvEvent>>,
    /// The memory of the host as a second tier.
    pub(super) host: Option<Box<HostTier>>,
    /// The pool of layers with a sliding window, where they have one.
    pub(super) windows: Option<WindowPool>,
}

impl KvCache {
    pub(super) fn new(config: &EngineConfig, capture_events: bool) -> Self {
        let shares = config.enable_prefix_caching;
        let capacity = config.kv_capacity_tokens();
        let windows = WindowPool::new(config);
        let host = Self::host_tier(config, capture_events);
        Self {
            page_size: config.block_size,
            capacity,
            available: capacity,
            tree: Self::empty_tree(
                config.block_size,
                windows.as_ref(),
                host.as_ref().is_some_and(|host| host.writes_back()),
            ),
            shares,
            by_pairs: config.sglang.as_ref().is_some_and(SglangConfig::tells_by_pairs),
            // The first event of a worker says that it has nothing.
            events: (capture_events && shares).then(|| vec![KvEvent::Cleared]),
            host,
            windows,
        }
    }

    fn empty_tree(page_size: u32, windows: Option<&WindowPool>, keeps_duplicates: bool) -> RadixTree {
        let tree = RadixTree::new(page_size);
        match windows {
            Some(windows) => tree.with_windows(windows.window),
            None if keeps_duplicates => tree.with_duplicates(),
            None => tree,
        }
    }

    fn host_tier(config: &EngineConfig, capture_events: bool) -> Option<Box<HostTier>> {
        let given = config.sglang.as_ref()?.hicache?;
        Some(Box::new(HostTier::new(given, capture_events).emptied()))
    }

    /// Forgets all that is shared; no request has any of it.
    pub(super) fn reset(&mut self) {
        // What is being copied is not needed any more.
        self.drop_copies();
        let cached = self.tree.evictable_tokens();
        assert_eq!(self.available + cached, self.capacity, "a cache that is in use cannot be emptied");
        let writes_back = self.host.as_ref().is_some_and(|host| host.writes_back());
        self.tree = Self::empty_tree(self.page_size, self.windows.as_ref(), writes_back);
        self.available = self.capacity;
        if let Some(windows) = &mut self.windows {
            windows.reset();
        }
        if let Some(events) = &mut self.events {
            events.push(KvEvent::Cleared);
        }
    }

    /// Tokens that are free, in each pool where there are two.
    pub(super) fn available(&self) -> u64 {
        self.windows.as_ref().map_or(self.available, |windows| self.available.min(windows.available))
    }

    /// Tokens that are free in the pool of all layers that see everything.
    pub(super) fn full_available(&self) -> u64 {
        self.available
    }

    /// Tokens that can be had, cached ones that nobody uses included.
    pub(super) fn obtainable(&self) -> u64 {
        self.available + self.tree.evictable_tokens()
    }

    /// By how much a prompt of `tokens` tokens, with the page and the token that an admission keeps in reserve, exceeds
    /// the pool: it needs no more than that, since its one token of output takes no memory.
    pub(super) fn excess(&self, tokens: u32) -> f64 {
        let reserve = u64::from(tokens) + u64::from(self.page_size) + 1;
        reserve.saturating_sub(self.capacity) as f64
    }

    /// Tokens of the pool.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// `tokens`, rounded up to whole pages.
    pub(super) fn ceil_page(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.page_size) * self.page_size
    }

    /// `tokens`, rounded down to whole pages.
    pub(super) fn floor_page(&self, tokens: u32) -> u32 {
        tokens / self.page_size * self.page_size
    }

    /// What the first `tokens` tokens of a request are told apart by: as many tokens or one pair less.
    pub(super) fn keys(&self, tokens: u32) -> u32 {
        if self.by_pairs { tokens.saturating_sub(1) } else { tokens }
    }

    /// The longest prefix within the first `tokens` tokens of a request that is cached on the device.
    pub(super) fn find(&mut self, request: &mut Request, tokens: u32) -> Prefix {
        self.find_tiers(request, tokens).device
    }

    /// The same, and with what is cached on the host.
    pub(super) fn find_tiers(&mut self, request: &mut Request, tokens: u32) -> Found {
        if !self.shares {
            return Found::NOTHING;
        }
        let tokens = self.keys(tokens);
        let key = Key { content: request.sequence.content(), tokens, hashes: None };
        self.tree.find(key)
    }

    /// Evicts until at least `tokens` tokens are free, if they are not and as far as that is possible.
    pub(super) fn make_available(&mut self, tokens: u64) {
        let in_window = self.windows.as_ref().map_or(0, |windows| tokens.saturating_sub(windows.available));
        let evicted_of_window = self.evict(tokens.saturating_sub(self.available));
        self.evict_windows(in_window.saturating_sub(evicted_of_window));
    }

    /// Evicts at least `tokens` tokens, as far as there are that many; returns how many slots of windows these had.
    pub(super) fn evict(&mut self, tokens: u64) -> u64 {
        let (mut evicted, mut in_window) = (0, 0);
        while evicted < tokens {
            let Some(leaf) = self.tree.oldest_leaf() else { break };
            self.write_back(leaf);
            // To make room on the host may have made another one the oldest.
            let gone = self.evict_leaf(leaf);
            evicted += u64::from(gone.0);
            in_window += u64::from(gone.1);
        }
        in_window
    }

    /// Evicts a leaf; returns its tokens, and those of them that had slots in the window's pool.
    pub(super) fn evict_leaf(&mut self, leaf: NodeId) -> (u32, u32) {
        let Evicted { tokens, in_window, hashes } = self.tree.evict(leaf);
        self.available += u64::from(tokens);
        if let Some(windows) = &mut self.windows {
            windows.available += u64::from(in_window);
        }
        if let Some(events) = &mut self.events {
            if let Some(host) = &mut self.host {
                host.renounce(false, hashes.clone());
            }
            renounce(events, hashes);
        }
        (tokens, in_window)
    }

    /// Takes `tokens` tokens of pages for requests that will own them; the caller has made them available.
    pub(super) fn take(&mut self, tokens: u64) {
        self.available -= tokens;
    }

    /// Whether memory can be had for `tokens` more tokens of a request.
    pub(super) fn has_room(&self, request: &Request, tokens: u32) -> bool {
        let pages = self.ceil_page(request.computed + tokens);
        let more = u64::from(pages.saturating_sub(request.allocated));
        more <= self.obtainable() && more <= self.window_obtainable()
    }

    /// Gives a request pages so that it can hold `tokens` tokens; the caller has made them available.
    pub(super) fn allocate(&mut self, request: &mut Request, tokens: u32) {
        let pages = self.ceil_page(tokens);
        if pages > request.allocated {
            let more = u64::from(pages - request.allocated);
            assert!(more <= self.available(), "KV memory is made available before it is allocated");
            self.available -= more;
            if let Some(windows) = &mut self.windows {
                windows.available -= more;
            }
            request.allocated = pages;
        }
    }

    /// Starts a request on a prefix that it found: it is locked and need not be computed.
    pub(super) fn adopt(&mut self, request: &mut Request, found: Prefix) {
        debug_assert_eq!(request.allocated, 0, "only a request without KV can adopt some");
        self.tree.lock(found.node);
        request.window.locked_from = self.tree.lock_window(found);
        request.shared = found;
        request.allocated = found.tokens;
        request.computed = found.tokens;
    }

    /// Shares the whole pages within the first `tokens` tokens of a request that continues.
    pub(super) fn share(&mut self, request: &mut Request, tokens: u32) {
        self.share_chunk(request, tokens);
        request.window.cached = None;
    }

    /// The same of a request whose prompt is not computed yet.
    pub(super) fn share_chunk(&mut self, request: &mut Request, tokens: u32) {
        if !self.shares {
            return;
        }
        let prefix = if self.windows.is_some() {
            self.insert_with_window(request, tokens)
        } else {
            self.insert(request, self.floor_page(self.keys(tokens)))
        };
        self.tree.lock_below(request.shared.node, prefix.node);
        request.shared = prefix;
    }

    /// Shares the whole pages within the first `tokens` tokens of a request, and takes all its KV away.
    pub(super) fn share_and_release(&mut self, request: &mut Request, tokens: u32) {
        let mut shared = request.shared.tokens;
        if self.shares {
            shared = self.floor_page(request.shareable(self.keys(tokens)));
            self.insert(request, shared);
        }
        self.release_behind(request, shared);
    }

    /// Takes all KV of a request away; what is in the tree stays there.
    pub(super) fn release(&mut self, request: &mut Request) {
        self.release_behind(request, request.shared.tokens);
    }

    /// Takes all KV of a request away, of which the first `shared` tokens are in the tree.
    fn release_behind(&mut self, request: &mut Request, shared: u32) {
        self.available += u64::from(request.allocated - shared);
        self.release_window(request, shared);
        self.tree.unlock(request.shared.node);
        request.shared = Prefix::EMPTY;
        request.allocated = 0;
        request.computed = 0;
        request.has_reserve = false;
    }

    /// Moves pages of a request into the tree; those that are there already become free.
    pub(super) fn insert(&mut self, request: &mut Request, tokens: u32) -> Prefix {
        let pages = if self.events.is_some() { tokens / self.page_size } else { 0 };
        let (content, hashes) = request.sequence.content_and_hashes(pages);
        let known = request.shared;
        let key = Key { content, tokens, hashes: (pages > 0).then_some(hashes) };
        let prefix = match &mut self.windows {
            None => {
                let begun = self.tree.begin_insert(known, key);
                let (existing, whole) = (begun.existing, begun.whole);
                self.available += u64::from(existing - known.tokens);
                self.announce_pages(hashes, existing, whole.tokens);
                // Copies of what was there come before what is new.
                self.count_hits(whole, request.counted);
                let prefix = self.tree.end_insert(begun);
                self.announce_pages(hashes, whole.tokens, tokens);
                self.count_hits(prefix, request.counted.max(whole.tokens));
                request.counted = request.counted.max(prefix.tokens);
                prefix
            }
            Some(windows) => {
                let first = request.window.freed.max(known.tokens);
                let inserted = self.tree.insert_with_window(known, key, request.window.freed);
                // Slots of what was there before are free.
                windows.available += u64::from(tokens.saturating_sub(first) - inserted.in_window);
                self.available += u64::from(inserted.existing - known.tokens);
                self.announce_pages(hashes, inserted.existing, tokens);
                inserted.prefix
            }
        };
        // The prompt is a node of its own, and counts as used once more.
        let prompt = request.prompt_tokens - u32::from(self.by_pairs);
        if tokens > prompt && self.windows.is_none() {
            let known = if known.tokens <= prompt { known } else { Prefix::EMPTY };
            self.tree.insert(known, Key { tokens: prompt, content, hashes: None });
        }
        prefix
    }

    /// Tells that the pages from `from` to `to` tokens, whose identities `hashes` are, can be hit on the device.
    fn announce_pages(&mut self, hashes: &HashRuns, from: u32, to: u32) {
        if from == to || self.events.is_none() {
            return;
        }
        let old = from / self.page_size;
        let parent = old.checked_sub(1).and_then(|last| hashes.get(last));
        self.announce(parent, &hashes.range(old..to / self.page_size).collect());
    }

    /// Tells that pages can be hit on the device.
    pub(super) fn announce(&mut self, parent: Option<SequenceHash>, hashes: &HashRuns) {
        let Some(events) = &mut self.events else { return };
        if let Some(host) = &mut self.host {
            host.announce(false, parent, hashes.clone());
        }
        announce(events, parent, hashes.runs());
    }

    /// Notes how much memory is free at the end of an iteration.
    pub(super) fn note_end(&self, state: &mut SglangState) {
        state.available_end = self.available();
        state.windows_end = self.window_slots();
        state.evictable_end = self.tree.evictable_tokens();
        state.protected_end = self.tree.protected_tokens();
    }

    /// Moves the events since the last call to the end of `sink`.
    pub(super) fn take_events(&mut self, sink: &mut Vec<KvEvent>) {
        if let Some(events) = &mut self.events {
            sink.append(events);
        }
    }

    /// Checks that every token of the pool is free, in the tree, owned by one of `requests` or `taken` for them.
    pub(super) fn check<'a>(
        &self,
        requests: impl Iterator<Item = &'a Request> + Clone,
        taken: u64,
    ) -> Result<u64, String> {
        let owned: u64 =
            requests.clone().map(|request| u64::from(request.allocated - request.shared.tokens)).sum();
        let cached = self.tree.evictable_tokens() + self.tree.protected_tokens();
        let accounted = self.available + cached + owned + taken;
        ensure!(
            accounted == self.capacity,
            "{accounted} tokens of KV are accounted for, of {}",
            self.capacity
        );
        self.check_windows(requests.clone())?;
        let copied = self.host.iter().flat_map(|host| host.nodes());
        let locked = requests.clone().map(|request| request.shared.node).chain(copied);
        let looked_at = self.tree.check(locked)?;
        for request in requests {
            let (id, computed, allocated) = (request.id, request.computed, request.allocated);
            ensure!(computed <= allocated, "request {id} computed {computed} tokens in KV of {allocated}");
        }
        Ok(looked_at)
    }
}

/// Tells that pages can be hit; what continues the event before it becomes part of that.
fn announce(events: &mut Vec<KvEvent>, parent: Option<SequenceHash>, pages: impl Iterator<Item = HashRun>) {
    match events.last_mut() {
        Some(KvEvent::Stored { blocks, .. }) if parent.is_some() && blocks.last() == parent => {
            blocks.extend(pages);
        }
        _ => events.push(KvEvent::Stored { parent, blocks: pages.collect() }),
    }
}

/// Tells that pages are gone, together with those of the event before if it tells the same.
fn renounce(events: &mut Vec<KvEvent>, pages: HashRuns) {
    match events.last_mut() {
        Some(KvEvent::Removed { blocks }) => blocks.extend(pages.runs()),
        _ => events.push(KvEvent::Removed { blocks: pages }),
    }
}
