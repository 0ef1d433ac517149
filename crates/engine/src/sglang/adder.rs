//! `PrefillAdder`: which waiting requests a prefill batch takes, within its budgets.

use super::cache::KvCache;
use super::request::{Request, Status};
use super::settings::SglangConfig;
use super::tree::Found;
use crate::table::{RequestTable, Slot};

/// The budgets of one prefill batch, and what it has taken.
#[derive(Debug)]
pub(super) struct PrefillAdder {
    /// Prompt tokens that the batch may still take; may go below 0.
    pub(super) rem_input: i64,
    /// Tokens that are left of the chunk; `None` without chunking.
    pub(super) rem_chunk: Option<i64>,
    /// Tokens of memory that running requests and those taken will need in time.
    total_offset: f64,
    /// Tokens of memory that those taken need now.
    current_offset: i64,
    /// Slots of the window's pool that those taken need.
    window_offset: i64,
    new_token_ratio: f64,
    clip_max_new_tokens: u32,
    page_size: u32,
    ignores_eos_specially: bool,
    /// What the requests so far will still need and what they hold, in order of the former; see
    /// [`PrefillAdder::fits_without_eos`].
    states: Option<Vec<(f64, u32)>>,
    pub(super) taken: Vec<Taken>,
    /// The request that was cut to fit the chunk.
    pub(super) new_chunked: Option<Slot>,
}

/// A request of a prefill batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) slot: Slot,
    /// Tokens to compute.
    pub(super) tokens: u32,
    /// Tokens that are loaded from the host for it.
    pub(super) loaded: u32,
}

/// Whether the batch can take more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddResult {
    Continue,
    /// Memory is short.
    NoToken,
    /// Another budget is used up.
    Other,
}

/// Tokens that every request keeps in reserve where outputs are known to be as long as asked for.
const IGNORE_EOS_RESERVE: f64 = 1.0;

impl PrefillAdder {
    /// `mixed`: decode requests that ride in the batch.
    pub(super) fn new(
        config: &SglangConfig,
        cache: &KvCache,
        new_token_ratio: f64,
        mixed: u32,
        running: impl Iterator<Item = impl std::ops::Deref<Target = Request>>,
    ) -> Self {
        let mixed = i64::from(mixed);
        let mut adder = Self {
            rem_input: i64::from(config.max_prefill_tokens) - mixed,
            rem_chunk: config.chunked_prefill_size.map(|chunk| i64::from(chunk) - mixed),
            total_offset: mixed as f64,
            current_offset: mixed,
            window_offset: 0,
            new_token_ratio,
            clip_max_new_tokens: config.clip_max_new_tokens,
            page_size: cache.page_size,
            ignores_eos_specially: !cache.shares,
            states: None,
            taken: Vec::new(),
            new_chunked: None,
        };
        let reserved: f64 = running.map(|request| adder.reservation(&request)).sum();
        adder.total_offset += reserved;
        adder
    }

    /// Memory that a running request will still need.
    pub(super) fn reservation(&self, request: &Request) -> f64 {
        let ratio = if request.ignore_eos { 1.0 } else { self.new_token_ratio };
        f64::from(request.remaining().min(self.clip_max_new_tokens)) * ratio
    }

    /// Memory that is left when all are served to the end.
    pub(super) fn rem_total(&self, cache: &KvCache) -> f64 {
        cache.obtainable() as f64 - self.total_offset
    }

    fn rem_now(&self, cache: &KvCache) -> i64 {
        cache.obtainable().cast_signed() - self.current_offset
    }

    /// Slots that are left of the window's pool; without one there is no limit.
    fn rem_window(&self, cache: &KvCache) -> i64 {
        i64::try_from(cache.window_obtainable()).map_or(i64::MAX, |slots| slots - self.window_offset)
    }

    /// Slots of the window's pool that a request needs to compute `extend` tokens and then `output`; 0 without that pool.
    fn window_needs(&self, cache: &KvCache, extend: u32, output: u32) -> i64 {
        let Some(windows) = &cache.windows else { return 0 };
        let window = i64::from(windows.window);
        let (extend, output) = (i64::from(cache.ceil_page(extend)), i64::from(output));
        let now = extend.min(self.rem_chunk.unwrap_or(i64::MAX));
        (now - window).max(0) + (extend + output).min(window) + i64::from(self.page_size)
    }

    /// Most tokens of a prompt that a batch can take for the window's pool, with `output` tokens behind it: less than all
    /// only if that pool could not even take it when it is empty. `None` if it has to wait.
    fn window_limit(&self, cache: &KvCache, extend: u32, output: u32) -> Option<u32> {
        let Some(windows) = &cache.windows else { return Some(extend) };
        let (needs, left) = (self.window_needs(cache, extend, output), self.rem_window(cache));
        if needs < windows.capacity.cast_signed() {
            return (needs < left).then_some(extend);
        }
        let room = left - i64::from(output.min(windows.window)) - i64::from(self.page_size);
        let room = u32::try_from(room).map_or(0, |room| cache.floor_page(room));
        (room > 0).then(|| room.min(extend))
    }

    /// Tokens of the next chunk of the chunked request, at most `limit`: one at least, but where a pool of windows has no slots.
    pub(super) fn next_chunk(&self, request: &Request, cache: &KvCache, limit: Option<u32>) -> u32 {
        let extend = request.known() - request.computed;
        let chunk = self.rem_chunk.unwrap_or(i64::MAX);
        let mut room = chunk.min(self.rem_total(cache).trunc() as i64);
        if room <= 0 {
            room = chunk;
        }
        if room <= 0 {
            // The decodes that ride along are more than a chunk has tokens.
            room = self.page_size.into();
        }
        let in_window = self.rem_window(cache).saturating_sub(self.page_size.into()).max(0);
        i64::from(extend).min(room).min(in_window).min(limit.map_or(i64::MAX, i64::from)) as u32
    }

    /// Takes `tokens` more of the chunked request; returns whether more of it is left.
    pub(super) fn add_chunked(
        &mut self,
        slot: Slot,
        request: &Request,
        tokens: u32,
        cache: &KvCache,
    ) -> bool {
        let cut = tokens < request.known() - request.computed;
        self.taken.push(Taken { slot, tokens, loaded: 0 });
        let output = if cut { 0 } else { request.max_new_tokens.min(self.clip_max_new_tokens) };
        self.window_offset += self.window_needs(cache, tokens, output);
        self.charge(tokens, output);
        cut
    }

    /// Takes a waiting request whose cached prefix was just looked up, or a part of it, if the budgets allow.
    ///
    /// `adopt` locks its prefix. `cuts`: whether it may be cut, which one request at a time is.
    pub(super) fn add(
        &mut self,
        slot: Slot,
        requests: &mut RequestTable<Request>,
        running: &[Slot],
        found: Found,
        cache: &mut KvCache,
        cuts: bool,
    ) -> AddResult {
        let request = &mut requests[slot];
        // What the host has of it is reckoned as if it were to be computed, but for the input.
        let Found { device, whole, .. } = found;
        let extend = request.known() - device.tokens;
        let foreseen = request.ignore_eos && self.ignores_eos_specially;
        let mut in_window = None;
        if foreseen {
            if !self.fits_without_eos(slot, extend, requests, running, cache) {
                return AddResult::NoToken;
            }
        } else {
            let output = request.remaining().min(self.clip_max_new_tokens);
            let excess = cache.excess(request.prompt_tokens);
            let total = f64::from(extend) + f64::from(output) + f64::from(self.page_size) - excess;
            if total >= self.rem_total(cache) {
                return AddResult::NoToken;
            }
            // What it locks can no longer be evicted for it.
            let held = cache.hold(device);
            let fits = total < self.rem_total(cache);
            in_window = self.window_limit(cache, extend, output);
            cache.let_go(device, held);
            if !fits || in_window.is_none() {
                return AddResult::NoToken;
            }
            if self.exceeds_input(cache, request.known() - whole.tokens) {
                return AddResult::Other;
            }
        }
        let whole_extend = requests[slot].known() - whole.tokens;
        let tokens = |adder: &Self, cache: &KvCache, extend| {
            adder.tokens_of(cache, extend, in_window, foreseen).filter(|&tokens| {
                // One prompt a batch is cut: what is left of a page behind it goes to nobody.
                tokens == extend || (adder.new_chunked.is_none() && cuts)
            })
        };
        // Nothing is loaded for a prompt that the chunk has no room for.
        if tokens(self, cache, whole_extend).is_none() {
            return AddResult::Other;
        }
        let found = cache.load_back(found);
        let request = &mut requests[slot];
        let loaded = found.tokens - device.tokens;
        let extend = request.known() - found.tokens;
        if !foreseen && self.exceeds_input(cache, extend) {
            return AddResult::Other;
        }
        let Some(tokens) = tokens(self, cache, extend) else { return AddResult::Other };
        cache.adopt(request, found);
        request.status = Status::Active;
        self.taken.push(Taken { slot, tokens, loaded });
        let output = request.max_new_tokens.min(self.clip_max_new_tokens);
        self.window_offset += self.window_needs(cache, tokens, output);
        if tokens == extend {
            self.charge(tokens, output);
        } else {
            self.new_chunked = Some(slot);
            self.charge(tokens, 0);
        }
        self.state(cache)
    }

    /// Tokens of a prompt of which `extend` are to be computed that the batch takes; `in_window`: at most so many for the window's
    /// pool. `None` if there is no room in the chunk.
    fn tokens_of(&self, cache: &KvCache, extend: u32, in_window: Option<u32>, foreseen: bool) -> Option<u32> {
        let whole = self.rem_chunk.is_none_or(|chunk| i64::from(cache.ceil_page(extend)) <= chunk);
        let tokens = match self.rem_chunk {
            Some(chunk) if !whole && foreseen => chunk.clamp(0, extend.into()) as u32,
            Some(chunk) if !whole => cache.floor_page(chunk.max(0) as u32),
            _ => extend,
        };
        Some(tokens.min(in_window.unwrap_or(extend))).filter(|&tokens| tokens > 0)
    }

    /// Whether a prompt that may not be cut exceeds what is left of the input, beside others. Where prompts are cut, the one that
    /// exceeds this budget is taken and is the last.
    fn exceeds_input(&self, cache: &KvCache, extend: u32) -> bool {
        let exceeds = self.rem_chunk.is_none() && i64::from(cache.ceil_page(extend)) >= self.rem_input;
        exceeds && !self.taken.is_empty()
    }

    /// Without a stop token and without sharing, what everybody will need can be foreseen: whether memory suffices at
    /// each point at which a request ends and frees what it holds.
    fn fits_without_eos(
        &mut self,
        slot: Slot,
        extend: u32,
        requests: &RequestTable<Request>,
        running: &[Slot],
        cache: &KvCache,
    ) -> bool {
        let needed = i64::from(cache.ceil_page(extend));
        // A prompt that fills the pool has nothing in reserve.
        let least = (needed + i64::from(self.page_size)).min(cache.capacity().cast_signed());
        if least as f64 > (self.rem_now(cache) as f64).min(self.rem_total(cache)) {
            return false;
        }
        let state = |request: &Request, ratio: f64| {
            let ratio = if request.ignore_eos { 1.0 } else { ratio };
            let left = f64::from(request.max_new_tokens) * ratio - f64::from(request.outputs);
            (left > 0.0).then(|| (left, request.known()))
        };
        let ratio = self.new_token_ratio;
        let newcomer = state(&requests[slot], ratio);
        if let Some(states) = &mut self.states {
            if let Some(newcomer) = newcomer {
                let place = states
                    .iter()
                    .position(|other| newcomer.0 <= other.0)
                    .unwrap_or(states.len().saturating_sub(1));
                states.insert(place, newcomer);
            }
        } else {
            let others = running.iter().copied().chain(self.taken.iter().map(|taken| taken.slot));
            let others = others.filter_map(|slot| state(&requests[slot], ratio));
            let mut states: Vec<_> = newcomer.into_iter().chain(others).collect();
            states.sort_by(|a, b| a.0.total_cmp(&b.0));
            self.states = Some(states);
        }
        let states = self.states.as_deref().unwrap_or_default();
        // A page on top counts too. With nobody else, a request may take the last one: here every request makes progress.
        let is_alone = running.is_empty() && self.taken.is_empty();
        let taken = if is_alone { needed } else { least };
        let now = (self.rem_now(cache) - taken) as f64;
        let mut freed = 0.0;
        states.iter().enumerate().all(|(position, &(left, held))| {
            let requests = (states.len() - position) as f64;
            let free = now + freed - left * requests;
            freed += f64::from(held);
            free > IGNORE_EOS_RESERVE * requests
        })
    }

    /// Books what a request takes: `tokens` now and `output` in time, and a page on top for its next token.
    fn charge(&mut self, tokens: u32, output: u32) {
        let tokens = i64::from(tokens.div_ceil(self.page_size)) * i64::from(self.page_size);
        let page = i64::from(self.page_size);
        self.total_offset += (tokens + i64::from(output) + page) as f64;
        self.current_offset += tokens + page;
        self.rem_input -= tokens;
        if let Some(chunk) = &mut self.rem_chunk {
            *chunk -= tokens;
        }
    }

    /// Gives back what was reserved for running requests that make room.
    pub(super) fn unreserve(&mut self, tokens: f64) {
        self.total_offset -= tokens;
    }

    /// Whether more can be taken.
    pub(super) fn state(&self, cache: &KvCache) -> AddResult {
        if self.rem_total(cache) <= 0.0 || self.rem_now(cache) <= 0 || self.rem_window(cache) <= 0 {
            AddResult::NoToken
        } else if self.rem_input <= 0 || self.rem_chunk.is_some_and(|chunk| chunk <= 0) {
            AddResult::Other
        } else {
            AddResult::Continue
        }
    }
}

#[cfg(test)]
mod tests;
