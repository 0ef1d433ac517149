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

    /// Tokens of the next chunk of the chunked request, which always gets on; at most `limit`.
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
        i64::from(extend).min(room).min(limit.map_or(i64::MAX, i64::from)) as u32
    }

    /// Takes `tokens` more of the chunked request; returns whether more of it is left.
    pub(super) fn add_chunked(&mut self, slot: Slot, request: &Request, tokens: u32) -> bool {
        let cut = tokens < request.known() - request.computed;
        self.taken.push(Taken { slot, tokens, loaded: 0 });
        let output = if cut { 0 } else { request.max_new_tokens.min(self.clip_max_new_tokens) };
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
        let Found { device, whole } = found;
        let extend = request.known() - device.tokens;
        let foreseen = request.ignore_eos && self.ignores_eos_specially;
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
            cache.tree.lock(device.node);
            let fits = total < self.rem_total(cache);
            cache.tree.unlock(device.node);
            if !fits {
                return AddResult::NoToken;
            }
            if self.exceeds_input(cache, request.known() - whole.tokens) {
                return AddResult::Other;
            }
        }
        let found = cache.load_back(found);
        let request = &mut requests[slot];
        let loaded = found.tokens - device.tokens;
        let extend = request.known() - found.tokens;
        if !foreseen && self.exceeds_input(cache, extend) {
            return AddResult::Other;
        }
        let whole = self.rem_chunk.is_none_or(|chunk| i64::from(cache.ceil_page(extend)) <= chunk);
        let tokens = match self.rem_chunk {
            Some(chunk) if !whole && foreseen => chunk.clamp(0, extend.into()) as u32,
            Some(chunk) if !whole => cache.floor_page(chunk.max(0) as u32),
            _ => extend,
        };
        // One prompt a batch is cut: what is left of a page behind it goes to nobody.
        if tokens == 0 || (tokens < extend && (self.new_chunked.is_some() || !cuts)) {
            return AddResult::Other;
        }
        cache.adopt(request, found);
        request.status = Status::Active;
        self.taken.push(Taken { slot, tokens, loaded });
        let output = request.max_new_tokens.min(self.clip_max_new_tokens);
        if tokens == extend {
            self.charge(tokens, output);
        } else {
            self.new_chunked = Some(slot);
            self.charge(tokens, 0);
        }
        self.state(cache)
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
        if self.rem_total(cache) <= 0.0 || self.rem_now(cache) <= 0 {
            AddResult::NoToken
        } else if self.rem_input <= 0 || self.rem_chunk.is_some_and(|chunk| chunk <= 0) {
            AddResult::Other
        } else {
            AddResult::Continue
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::Fixture;
    use super::*;

    /// Offers requests, given as prompt and output length, to a batch; the tokens of those that it takes, and how it
    /// answered to each.
    fn offer(pages: u32, own: &Value, requests: &[(u32, u32)]) -> (Vec<u32>, Vec<AddResult>) {
        let mut fixture = Fixture::new(pages, own);
        let mut adder = adder(&fixture, 0, &[]);
        let answers = requests.iter().enumerate().map(|(number, &(prompt, output))| {
            let slot = fixture.add(&[(1_000 * number as u32, prompt)], output);
            add(&mut adder, &mut fixture, slot)
        });
        let answers = answers.collect();
        (adder.taken.iter().map(|taken| taken.tokens).collect(), answers)
    }

    /// A batch beside running requests, `mixed` of which ride along.
    fn adder(fixture: &Fixture, mixed: u32, running: &[Slot]) -> PrefillAdder {
        let running = running.iter().map(|&slot| &fixture.requests[slot]);
        PrefillAdder::new(&fixture.sglang(), &fixture.cache, 0.5, mixed, running)
    }

    fn add(adder: &mut PrefillAdder, fixture: &mut Fixture, slot: Slot) -> AddResult {
        let Fixture { cache, requests, .. } = fixture;
        let known = requests[slot].known();
        let found = cache.find_tiers(&mut requests[slot], known - 1);
        adder.add(slot, requests, &[], found, cache, true)
    }

    use AddResult::{Continue, NoToken, Other};

    #[test]
    fn memory_is_kept_for_the_whole_output_and_a_page_of_each() {
        let own = json!({});
        let all = offer(100, &own, &[(40, 10), (30, 10), (1, 5)]);
        assert_eq!(all, (vec![40, 30, 1], vec![Continue, Continue, Continue]));
        // 100 - (40 + 10 + 1) - (30 + 10 + 1) leaves 8, of which one token has to stay.
        let two = offer(100, &own, &[(40, 10), (30, 10), (1, 6)]);
        assert_eq!(two, (vec![40, 30], vec![Continue, Continue, NoToken]));
        let clipped = offer(100, &json!({"clip_max_new_tokens": 5}), &[(40, 500), (45, 500)]);
        assert_eq!(clipped, (vec![40, 45], vec![Continue, Continue]));
        let pages = offer(6, &json!({"page_size": 16}), &[(33, 1), (14, 1)]);
        assert_eq!(pages, (vec![33], vec![Continue, NoToken]), "33 tokens take 48, and a page more");
    }

    #[test]
    fn a_page_on_top_counts_where_outputs_are_known_to_be_as_long_as_asked_for() {
        let own = json!({"page_size": 16, "disable_radix_cache": true, "chunked_prefill_size": -1});
        let answer = |output| {
            let mut fixture = Fixture::new(8, &own);
            let slots = [(11, 1), (43, output)].map(|(prompt, output)| fixture.add(&[(0, prompt)], output));
            for slot in slots {
                fixture.requests[slot].ignore_eos = true;
            }
            let mut adder = adder(&fixture, 0, &[]);
            slots.map(|slot| add(&mut adder, &mut fixture, slot))
        };
        // 128 - (16 + 16) - (48 + 16) leaves 32 for the output of two, of which a token of each has to stay.
        assert_eq!(answer(15), [Continue, NoToken]);
        assert_ne!(answer(14)[1], NoToken);
    }

    #[test]
    fn a_request_is_not_alone_beside_one_that_outran_what_was_foreseen() {
        let own = json!({"page_size": 16, "disable_radix_cache": true, "chunked_prefill_size": -1});
        let is_admitted = |running: usize| {
            let mut fixture = Fixture::new(7, &own);
            let [other, newcomer] =
                [(16, 100), (43, 62)].map(|(prompt, output)| fixture.add(&[(0, prompt)], output));
            // Half of 100 was foreseen, 60 are there already: of its output nothing is left to be foreseen.
            fixture.requests[other].outputs = 60;
            fixture.requests[newcomer].ignore_eos = true;
            let running = &[other][..running];
            let mut adder = adder(&fixture, 0, running);
            let Fixture { cache, requests, .. } = &mut fixture;
            let known = requests[newcomer].known();
            let found = cache.find_tiers(&mut requests[newcomer], known - 1);
            adder.add(newcomer, requests, running, found, cache, true);
            !adder.taken.is_empty()
        };
        // 112 - 48 - 62 leaves 2, of which one token has to stay; a page on top is too much.
        assert!(is_admitted(0));
        assert!(!is_admitted(1));
    }

    #[test]
    fn a_prompt_that_would_use_up_the_input_waits_unless_it_is_the_first() {
        let own = json!({"max_prefill_tokens": 50, "chunked_prefill_size": -1});
        assert_eq!(offer(1_000, &own, &[(60, 1)]), (vec![60], vec![Other]));
        assert_eq!(offer(1_000, &own, &[(20, 1), (30, 1)]), (vec![20], vec![Continue, Other]));
        assert_eq!(offer(1_000, &own, &[(20, 1), (29, 1)]), (vec![20, 29], vec![Continue, Continue]));
    }

    #[test]
    fn memory_that_a_prefix_locks_is_missed_before_the_input_is() {
        let own = json!({"max_prefill_tokens": 20, "chunked_prefill_size": -1});
        let mut fixture = Fixture::new(40, &own);
        fixture.cache_prompt(&[(0, 20)]);
        let (first, other) = (fixture.add(&[(500, 10)], 1), fixture.add(&[(0, 31)], 1));
        let mut adder = adder(&fixture, 0, &[]);
        assert_eq!(add(&mut adder, &mut fixture, first), Continue);
        // 40 - (10 + 1 + 1) leaves 28 for its 11 + 1 + 1, and 8 behind the lock; of the input 10 are left.
        assert_eq!(add(&mut adder, &mut fixture, other), NoToken);
    }

    #[test]
    fn where_prompts_are_cut_the_one_that_exceeds_the_input_is_the_last_of_the_batch() {
        let own = json!({"max_prefill_tokens": 64, "chunked_prefill_size": 256});
        let requests = [(15, 1), (39, 1), (44, 1)];
        assert_eq!(offer(1_000, &own, &requests), (vec![15, 39, 44], vec![Continue, Continue, Other]));
    }

    #[test]
    fn the_last_prompt_is_cut_to_whole_pages_of_what_is_left_of_the_chunk() {
        let own = json!({"page_size": 8, "chunked_prefill_size": 32});
        assert_eq!(offer(100, &own, &[(20, 1), (8, 1)]), (vec![20, 8], vec![Continue, Other]));
        assert_eq!(offer(100, &own, &[(12, 1), (20, 1)]), (vec![12, 16], vec![Continue, Other]));
        let mut fixture = Fixture::new(100, &own);
        let mut adder = adder(&fixture, 25, &[]);
        let slot = fixture.add(&[(0, 20)], 1);
        assert_eq!(add(&mut adder, &mut fixture, slot), Other, "25 decodes leave no page of the chunk");
        assert!(adder.taken.is_empty() && adder.new_chunked.is_none());
    }

    #[test]
    fn a_cached_prefix_costs_nothing_but_the_memory_that_it_locks() {
        let mut fixture = Fixture::new(20, &json!({"max_prefill_tokens": 4}));
        fixture.cache_prompt(&[(0, 10)]);
        let (long, other) = (fixture.add(&[(0, 12)], 2), fixture.add(&[(50, 3)], 2));
        let mut adder = adder(&fixture, 0, &[]);
        assert_eq!(add(&mut adder, &mut fixture, long), Continue);
        assert_eq!(adder.taken[0].tokens, 2);
        assert!((adder.rem_total(&fixture.cache) - 5.0).abs() < 1e-9, "20 - 10 locked - (2 + 2 + 1)");
        assert_eq!(add(&mut adder, &mut fixture, other), NoToken, "it needs 3 + 2 + 1");
    }

    #[test]
    fn running_requests_reserve_their_share_and_decodes_that_ride_along_a_token() {
        let mut fixture =
            Fixture::new(1_000, &json!({"chunked_prefill_size": 64, "clip_max_new_tokens": 50}));
        let (one, endless) = (fixture.add(&[(0, 1)], 20), fixture.add(&[(0, 1)], 500));
        fixture.requests[one].outputs = 4;
        fixture.requests[endless].ignore_eos = true;
        let adder = adder(&fixture, 2, &[one, endless]);
        let left = 1_000.0 - 16.0 * 0.5 - 50.0 - 2.0;
        assert!((adder.rem_total(&fixture.cache) - left).abs() < 1e-9);
        assert_eq!((adder.rem_input, adder.rem_chunk), (16_382, Some(62)));
    }

    #[test]
    fn a_chunk_that_continues_always_gets_on() {
        let mut fixture = Fixture::new(100, &json!({"page_size": 8, "chunked_prefill_size": 32}));
        let slot = fixture.add(&[(0, 100)], 1);
        let running = fixture.add(&[(500, 1)], 10_000);
        let next = |adder: &PrefillAdder| adder.next_chunk(&fixture.requests[slot], &fixture.cache, None);
        assert_eq!(next(&adder(&fixture, 0, &[])), 32);
        assert_eq!(next(&adder(&fixture, 3, &[])), 29);
        let crowded = adder(&fixture, 0, &[running]);
        assert!(crowded.rem_total(&fixture.cache) < 0.0);
        assert_eq!(next(&crowded), 32, "even if the memory is promised to others");
        assert_eq!(
            next(&adder(&fixture, 40, &[])),
            8,
            "even if there are more decodes than a chunk has tokens"
        );
        let mut adder = adder(&fixture, 0, &[]);
        assert!(adder.add_chunked(slot, &fixture.requests[slot], 32), "more is left");
        assert_eq!(adder.state(&fixture.cache), Other);
    }

    #[test]
    fn without_end_and_without_sharing_it_is_foreseen_when_memory_becomes_free() {
        let own = json!({"disable_radix_cache": true, "chunked_prefill_size": 64});
        let mut answers = Vec::new();
        for ignore_eos in [false, true] {
            let mut fixture = Fixture::new(100, &own);
            let slots = [fixture.add(&[(0, 40)], 20), fixture.add(&[(500, 30)], 10)];
            for slot in slots {
                fixture.requests[slot].ignore_eos = ignore_eos;
            }
            let mut adder = adder(&fixture, 0, &[]);
            answers.extend(slots.map(|slot| add(&mut adder, &mut fixture, slot)));
            if ignore_eos {
                // 40 of the chunk are used, and pages are single tokens, so that 24 are left.
                assert_eq!(adder.taken[1].tokens, 24);
            }
        }
        assert_eq!(answers, [Continue, NoToken, Continue, Other]);
    }
}
