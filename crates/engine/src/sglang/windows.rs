//! The pool of layers with a sliding window: each token takes a slot there, too, but those that fell out of every window give
//! theirs back.
//!
//! A request's slots are those of its own tokens, but for the `freed` ones, and the nodes of the tree that its window locks.
//! When its prompt is shared, the slots before the window go, and what was cached without slots takes the request's.

use servecast_types::ensure;

use super::cache::KvCache;
use super::disaggregation::Disaggregation;
use super::request::{InWindow, Request};
use super::tree::{Found, Prefix, WindowVictim};
use crate::EngineConfig;
use crate::iteration::WindowSlots;

/// The sizes of the pool, in tokens.
#[derive(Debug)]
pub(super) struct WindowPool {
    pub(super) window: u32,
    pub(super) capacity: u64,
    pub(super) available: u64,
    /// Whether prompts come from another worker.
    is_decode_side: bool,
}

impl WindowPool {
    pub(super) fn new(config: &EngineConfig) -> Option<Self> {
        let sglang = config.sglang.as_ref()?;
        let swa = sglang.swa?;
        let is_decode_side = matches!(sglang.disaggregation, Some(Disaggregation::Decode(_)));
        Some(Self { window: swa.window, capacity: swa.tokens, available: swa.tokens, is_decode_side })
    }

    /// How many of the first `known` tokens the one after them does not see. One more stays than the window spans, and whole pages
    /// where a prefix is to be hit that ends there.
    fn behind(&self, known: u32, page_size: u32, shares: bool) -> u32 {
        let pages = self.window.div_ceil(page_size).saturating_mul(page_size);
        known.saturating_sub(if shares { pages } else { self.window }.saturating_add(1))
    }

    /// Nothing is in it.
    pub(super) fn reset(&mut self) {
        self.available = self.capacity;
    }
}

/// So many tokens have to be behind the window before a request that decodes gives their slots back.
const FREE_EVERY: u32 = 128;

/// What the cache does with the window's pool.
impl KvCache {
    /// Tokens of the window's pool that can be had; without one there is no limit.
    pub(super) fn window_obtainable(&self) -> u64 {
        self.windows.as_ref().map_or(u64::MAX, |windows| windows.available + self.tree.window_evictable())
    }

    /// What both pools hold.
    pub(super) fn window_slots(&self) -> Option<WindowSlots> {
        let windows = self.windows.as_ref()?;
        Some(WindowSlots {
            full_available: self.full_available(),
            available: windows.available,
            evictable: self.tree.window_evictable(),
            protected: self.tree.window_protected(),
        })
    }

    /// Evicts at least `tokens` tokens of the window's pool, as far as there are that many. What is above others stays
    /// cached for layers that see everything.
    pub(super) fn evict_windows(&mut self, tokens: u64) {
        let mut evicted = 0;
        while evicted < tokens {
            match self.tree.evict_window() {
                None => return,
                Some(WindowVictim::Leaf(leaf)) => evicted += u64::from(self.evict_leaf(leaf).1),
                Some(WindowVictim::Inner { tokens }) => {
                    evicted += u64::from(tokens);
                    if let Some(windows) = &mut self.windows {
                        windows.available += u64::from(tokens);
                    }
                }
            }
        }
    }

    /// Keeps a prefix from being evicted until [`KvCache::let_go`] is called with what this returns.
    pub(super) fn hold(&mut self, prefix: Prefix) -> u32 {
        self.tree.lock(prefix.node);
        self.tree.lock_window(prefix)
    }

    pub(super) fn let_go(&mut self, prefix: Prefix, held: u32) {
        self.tree.unlock(prefix.node);
        self.tree.unlock_window(prefix, held);
    }

    /// Notes how far what a request hits is cached.
    pub(super) fn note_cached(&self, request: &mut Request, found: Found) {
        let ends =
            Some(found.cached).filter(|&cached| self.windows.is_some() && cached > found.device.tokens);
        request.window.cached = ends;
    }

    /// Shares the first `tokens` tokens of a request; where more was cached than it could hit, no more than that, so that
    /// what was cached can be hit from now on.
    pub(super) fn insert_with_window(&mut self, request: &mut Request, tokens: u32) -> Prefix {
        let known = request.shareable(tokens);
        self.free_behind_window(request, request.shared.tokens, known);
        let prefix = self.insert(request, self.floor_page(known));
        if known < tokens {
            self.free_behind_window(request, prefix.tokens, tokens);
        }
        request.window.cached = request.window.cached.filter(|&cached| cached > tokens);
        self.tree.unlock_window(request.shared, request.window.locked_from);
        request.window.locked_from = self.tree.lock_window(prefix);
        prefix
    }

    /// Gives slots of a request back that the token after the first `known` ones does not see; those of its first `shared`
    /// tokens are the tree's.
    fn free_behind_window(&mut self, request: &mut Request, shared: u32, known: u32) {
        let Some(windows) = &mut self.windows else { return };
        let behind = windows.behind(known, self.page_size, self.shares);
        if behind <= request.window.freed {
            return;
        }
        let behind = behind / self.page_size * self.page_size;
        let first = request.window.freed.max(shared);
        windows.available += u64::from(behind.saturating_sub(first));
        // What is the tree's counts as given back.
        request.window.freed = first.max(behind);
    }

    /// The same before a request decodes: not the first time, and then whenever so many tokens are behind the window that it is
    /// worth it.
    pub(super) fn free_before_decode(&mut self, request: &mut Request) {
        let Some(windows) = &self.windows else { return };
        let is_first = !std::mem::replace(&mut request.window.decodes, true);
        // Unlike what is given back, this is not counted in whole pages.
        let behind = request.known().saturating_sub(windows.window.saturating_add(1));
        if !is_first && behind >= request.window.freed + FREE_EVERY {
            self.free_behind_window(request, request.shared.tokens, request.known());
        }
    }

    /// How many of `tokens` tokens that come from another worker get slots, from the last one on. With pages of several tokens
    /// these are whole pages from where the window of the next token begins, otherwise all.
    pub(super) fn arriving_in_window(&self, tokens: u32) -> u32 {
        match &self.windows {
            None => 0,
            Some(_) if self.page_size == 1 => tokens,
            // What is shared when it is here needs a window before the last token.
            Some(windows) if self.shares => {
                tokens - self.floor_page(tokens.saturating_sub(1 + windows.window.max(self.page_size)))
            }
            Some(windows) => tokens - self.floor_page(tokens.saturating_sub(windows.window)),
        }
    }

    /// Slots that so many tokens take in the window's pool when the first `shared` ones are in the tree.
    fn slots_of_arriving(&self, tokens: u32, shared: u32) -> u64 {
        let in_window = self.arriving_in_window(tokens);
        (if self.page_size == 1 { in_window.saturating_sub(shared) } else { self.ceil_page(in_window) })
            .into()
    }

    /// Whether there can be memory for tokens that come from another worker, of which a request hits the first `shared` ones.
    pub(super) fn has_room_for_arriving(&self, tokens: u32, shared: u32) -> bool {
        u64::from(self.ceil_page(tokens) - shared) <= self.obtainable()
            && self.slots_of_arriving(tokens, shared) <= self.window_obtainable()
    }

    /// Starts a request on a prefix of what comes from another worker, of which not even the window is needed here where its last
    /// tokens get slots of their own.
    pub(super) fn adopt_before_arrival(&mut self, request: &mut Request, found: Prefix) {
        self.adopt(request, found);
        if self.page_size > 1 {
            self.tree.unlock_window(found, request.window.locked_from);
            request.window.locked_from = found.tokens;
        }
    }

    /// Makes room for `tokens` tokens that come from another worker, beside `shared` ones that a request hits.
    pub(super) fn make_room_for_arriving(&mut self, tokens: u32, shared: u32) {
        let missing = u64::from(self.ceil_page(tokens) - shared);
        if self.windows.is_none() || self.page_size == 1 {
            self.make_available(missing);
        } else {
            self.evict(missing.saturating_sub(self.full_available()));
            self.make_room_for_arriving_in_window(tokens, shared);
        }
    }

    /// The same in the window's pool alone, where slots are counted apart. For one that comes for the first time this is done before.
    pub(super) fn make_room_for_arriving_in_window(&mut self, tokens: u32, shared: u32) {
        if self.page_size > 1
            && let Some(windows) = &self.windows
        {
            let slots = self.slots_of_arriving(tokens, shared);
            self.evict_windows(slots.saturating_sub(windows.available));
        }
    }

    /// Gives a request memory for `tokens` tokens that come from another worker; the caller has made room.
    pub(super) fn allocate_arriving(&mut self, request: &mut Request, tokens: u32) {
        let in_window = self.arriving_in_window(tokens);
        let Some(windows) = self.windows.as_mut().filter(|_| self.page_size > 1) else {
            return self.allocate(request, tokens);
        };
        let pages = tokens.div_ceil(self.page_size) * self.page_size;
        request.window.freed = tokens - in_window;
        windows.available -= u64::from(pages - request.window.freed);
        self.take(u64::from(pages - request.allocated));
        request.allocated = pages;
    }

    /// Takes all slots of a request away, of which those of its first `shared` tokens are the tree's.
    pub(super) fn release_window(&mut self, request: &mut Request, shared: u32) {
        let Some(windows) = &mut self.windows else { return };
        windows.available += own(request, shared);
        self.tree.unlock_window(request.shared, request.window.locked_from);
        request.window = InWindow::default();
    }

    /// Checks that every slot of the pool is free, in the tree or owned by one of `requests`.
    pub(super) fn check_windows<'a>(
        &self,
        requests: impl Iterator<Item = &'a Request> + Clone,
    ) -> Result<(), String> {
        let Some(windows) = &self.windows else { return Ok(()) };
        let owned: u64 = requests.clone().map(|request| own(request, request.shared.tokens)).sum();
        let cached = self.tree.window_evictable() + self.tree.window_protected();
        let accounted = windows.available + cached + owned;
        let capacity = windows.capacity;
        ensure!(accounted == capacity, "{accounted} slots of windows are accounted for, of {capacity}");
        let locked = requests.map(|request| (request.shared, request.window.locked_from));
        self.tree.check_windows(locked, windows.is_decode_side)
    }
}

/// Slots that a request owns, of whose tokens the first `shared` are in the tree.
fn own(request: &Request, shared: u32) -> u64 {
    request.allocated.saturating_sub(shared.max(request.window.freed)).into()
}
