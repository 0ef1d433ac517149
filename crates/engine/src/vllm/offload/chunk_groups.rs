//! What groups of layers need of the host, as vLLM's `OffloadingConnectorScheduler` has it: which chunks a request looks for,
//! and which it stores.
//!
//! A chunk is of one group. Full attention needs all chunks of a prefix; layers that forget need those before the place from
//! which a request goes on, and store no others.

use std::ops::Range;

use servecast_types::{BlockId, HashRuns};

use super::cache::ChunkKey;
use crate::EngineConfig;
use crate::kv_groups::{GroupKind, GroupSpec, RetentionInterval};
use crate::offload_args::KvOffloading;

/// The groups of an engine; one that keeps everything where layers are no groups.
#[derive(Debug)]
pub(super) struct ChunkGroups {
    pub(super) groups: Vec<ChunkGroup>,
    /// In which order they are looked at: those that need all chunks first, then those that need more before those that need
    /// fewer.
    order: Vec<usize>,
    /// Of `order`, those that do not need all chunks.
    windows: Vec<usize>,
    pub(super) blocks_per_chunk: u32,
    hash_unit: u32,
    /// Tokens that loads end at multiples of, as groups that need all chunks have it; none if they differ.
    alignment: Option<u32>,
    retention: RetentionInterval,
    /// Tokens of a chunk that holds a state.
    state_chunk: Option<u32>,
}

/// A group.
#[derive(Debug)]
pub(super) struct ChunkGroup {
    pub(super) spec: GroupSpec,
    /// Tokens of a chunk.
    pub(super) tokens: u32,
    /// Chunks that are needed before the place from which a request goes on; all of them if it is absent.
    window: Option<u32>,
}

/// Chunks of a group that a request offers, with the blocks that they are in.
#[derive(Debug, Default)]
pub(super) struct GroupOffer {
    pub(super) group: usize,
    /// The first of the chunks, and the first that was not offered before.
    pub(super) first: u32,
    pub(super) fresh: u32,
    pub(super) keys: Vec<ChunkKey>,
    pub(super) blocks: Vec<BlockId>,
}

impl GroupOffer {
    pub(super) fn end(&self) -> u32 {
        self.first + self.keys.len() as u32
    }
}

/// What of its prompt tells which chunks of a request others can go on from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boundaries {
    pub(super) prompt_tokens: u32,
    /// Tokens that it was seen to share with others, or 0.
    pub(super) junction: u32,
    /// Whether the request has ended.
    pub(super) has_ended: bool,
}

impl ChunkGroup {
    fn new(spec: GroupSpec, blocks_per_chunk: u32) -> Self {
        let tokens = spec.block_size.saturating_mul(blocks_per_chunk);
        let window = match spec.kind {
            GroupKind::Full => None,
            GroupKind::SlidingWindow(window) => Some(window.div_ceil(tokens)),
            GroupKind::ChunkedLocal(chunk) => Some(chunk.div_ceil(tokens)),
            GroupKind::Mamba { .. } => Some(1),
        };
        Self { spec, tokens, window }
    }

    /// Whether its blocks are told by their places in a sequence, and may be given away before the request ends.
    pub(super) fn forgets_places(&self) -> bool {
        self.window.is_some() && !self.spec.aligns_states()
    }

    /// Chunks that are needed before the first `tokens` tokens end, which may be within a chunk.
    fn window_at(&self, tokens: u32) -> Option<u32> {
        let window = self.window?;
        let GroupKind::SlidingWindow(attended) = self.spec.kind else { return Some(window) };
        let behind = tokens.next_multiple_of(self.tokens) - tokens;
        Some(window.max((attended - 1 + behind).div_ceil(self.tokens)))
    }

    /// The identity of a chunk, by those of units of `hash_unit` tokens.
    fn key(&self, group: usize, chunk: u32, hashes: &HashRuns, hash_unit: u32) -> ChunkKey {
        let units = self.tokens / hash_unit;
        let hash = hashes.get((chunk + 1) * units - 1).expect("its tokens are known");
        ChunkKey { hash, group: group as u32 }
    }
}

impl ChunkGroups {
    pub(super) fn new(config: &EngineConfig, spec: &KvOffloading) -> Self {
        let alone = [GroupSpec { kind: GroupKind::Full, block_size: config.block_size }];
        let given = config.kv_groups.as_deref();
        let specs = given.map_or(&alone[..], |groups| &groups.specs);
        let of_spec = |&group: &GroupSpec| ChunkGroup::new(group, spec.blocks_per_chunk);
        let groups: Vec<ChunkGroup> = specs.iter().map(of_spec).collect();
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|&number| groups[number].window.map_or(0, |chunks| u32::MAX - chunks));
        let windows = order.iter().copied().filter(|&number| groups[number].window.is_some()).collect();
        let of_full = || groups.iter().filter(|group| group.window.is_none()).map(|group| group.tokens);
        let alignment = match of_full().next() {
            Some(first) => of_full().all(|tokens| tokens == first).then_some(first),
            None => groups.iter().map(|group| group.tokens).max(),
        };
        let state = groups.iter().find(|group| group.spec.aligns_states());
        Self {
            order,
            windows,
            blocks_per_chunk: spec.blocks_per_chunk,
            hash_unit: given.map_or(config.block_size, |groups| groups.hash_unit),
            alignment,
            retention: given.map_or(RetentionInterval::Dense, |groups| groups.retention),
            state_chunk: state.map(|group| group.tokens),
            groups,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether groups have blocks that requests give away before they end.
    pub(super) fn forget_places(&self) -> bool {
        self.groups.iter().any(ChunkGroup::forgets_places)
    }

    /// Units of identities in so many tokens.
    pub(super) fn hash_units(&self, tokens: u32) -> u32 {
        tokens / self.hash_unit
    }

    pub(super) fn key(&self, group: usize, chunk: u32, hashes: &HashRuns) -> ChunkKey {
        self.groups[group].key(group, chunk, hashes, self.hash_unit)
    }

    /// Tokens behind the first `local` of `known` tokens that all groups can load, if `is_ready` says of a chunk whether it
    /// can be loaded, and nothing if it is not there; `None` if that is not known yet.
    ///
    /// Each group may shorten what those before it have, which are then asked again.
    pub(super) fn find(
        &self,
        hashes: &HashRuns,
        known: u32,
        local: u32,
        is_ready: impl Fn(ChunkKey) -> Option<bool>,
    ) -> Option<u32> {
        let mut most = known;
        if !self.windows.is_empty() {
            // Layers that forget need the last token computed.
            most -= 1;
            most = self.state_chunk.map_or(most, |tokens| most / tokens * tokens);
        }
        let (mut found, mut is_deferred) = (0, false);
        let mut next = &self.order[..];
        while !next.is_empty() {
            let mut saw_window = false;
            for &number in std::mem::take(&mut next) {
                let group = &self.groups[number];
                most = most.min(known / group.tokens * group.tokens);
                // Less than a chunk is not worth it.
                if most < local + group.tokens {
                    return Some(0);
                }
                let (start, end) = (local / group.tokens, most.div_ceil(group.tokens));
                let state = |chunk: u32| is_ready(self.key(number, chunk, hashes));
                let count = match group.window {
                    None => count_from_start(start..end, state),
                    Some(window) => {
                        let first = group.window_at(most.min(end * group.tokens)).unwrap_or(window);
                        last_run(start..end, [first, window], state)
                    }
                };
                match count {
                    Some(0) => return Some(0),
                    Some(chunks) => most = most.min(group.tokens * (start + chunks)),
                    None => is_deferred = true,
                }
                if most < local + group.tokens {
                    return Some(0);
                }
                let tokens = most - local;
                if tokens < found {
                    if is_deferred {
                        is_deferred = false;
                        next = &self.order;
                    } else if saw_window && next.is_empty() {
                        next = &self.windows;
                    }
                }
                saw_window |= group.window.is_some();
                found = tokens;
            }
        }
        (!is_deferred).then_some(found)
    }

    /// The chunks of which the first `tokens` tokens of a request consist, behind those of the first `local`, as far as each
    /// group needs them.
    pub(super) fn needed(&self, hashes: &HashRuns, local: u32, tokens: u32) -> Vec<ChunkKey> {
        let mut needed = Vec::new();
        for (number, group) in self.groups.iter().enumerate() {
            let (start, end) = (local / group.tokens, tokens.div_ceil(group.tokens));
            let first = group.window_at(tokens).map_or(start, |window| start.max(end.saturating_sub(window)));
            needed.extend((first..end).map(|chunk| self.key(number, chunk, hashes)));
        }
        needed
    }

    /// Where the last stretch of whole alignments begins, in chunks, of a sliding window whose first `end` chunks are stored:
    /// what is behind it is looked at once more when the request has ended.
    fn last_alignment(&self, group: &ChunkGroup, end: u32) -> Option<u32> {
        let alignment = self.alignment?;
        let size = group.spec.block_size;
        if !matches!(group.spec.kind, GroupKind::SlidingWindow(_)) || !alignment.is_multiple_of(size) {
            return None;
        }
        let (per, blocks) = (alignment / size, end * self.blocks_per_chunk);
        Some((blocks - blocks % per) / self.blocks_per_chunk)
    }

    /// The first chunk of a group that a request looks at when it offers those up to `end`, of which the first `offered` were
    /// offered before.
    pub(super) fn first_looked_at(&self, number: usize, offered: u32, end: u32, its: Boundaries) -> u32 {
        match self.looks_again(number, end, its) {
            Some(first) => offered.min(first),
            None => offered,
        }
    }

    /// From which chunk on those that were offered before are looked at once more, if some are: where everything is kept, the
    /// end of a request is a place to go on from, which was not known before.
    fn looks_again(&self, number: usize, end: u32, its: Boundaries) -> Option<u32> {
        let group = &self.groups[number];
        let goes_beyond = end != its.prompt_tokens / group.tokens;
        let again = its.has_ended && goes_beyond && self.retention == RetentionInterval::Dense;
        self.last_alignment(group, end).filter(|_| again)
    }

    /// Those of the offered chunks that are worth storing, each with its position.
    pub(super) fn worth_storing(&self, offers: &[GroupOffer], its: Boundaries) -> Vec<(ChunkKey, u32)> {
        let mut worth = Vec::new();
        for offer in offers {
            let group = &self.groups[offer.group];
            // States are stored one by one.
            if group.spec.aligns_states() {
                continue;
            }
            let in_prompt = its.prompt_tokens / group.tokens;
            let horizon = match self.retention {
                RetentionInterval::Tokens(_) => None,
                RetentionInterval::Dense if its.has_ended => Some(offer.end()),
                RetentionInterval::Dense => (offer.end() <= in_prompt).then_some(in_prompt),
            };
            for (chunk, &key) in (offer.first..).zip(&offer.keys) {
                let was_worth_it = || self.is_reachable(group, chunk, Some(in_prompt), its);
                if self.is_whole(offer, chunk, horizon, its)
                    && self.is_reachable(group, chunk, horizon, its)
                    && !(chunk < offer.fresh && was_worth_it())
                {
                    worth.push((key, (chunk + 1) * group.tokens));
                }
            }
        }
        worth
    }

    /// Whether a chunk has a block at its end, and blocks wherever others can go on from.
    fn is_whole(&self, offer: &GroupOffer, chunk: u32, horizon: Option<u32>, its: Boundaries) -> bool {
        let blocks = offer.blocks_of(chunk, self.blocks_per_chunk);
        let group = &self.groups[offer.group];
        let first = chunk * self.blocks_per_chunk;
        let is_there = |place: u32| blocks[(place - first) as usize].0 != 0;
        let mut places = first..first + self.blocks_per_chunk;
        is_there(first + self.blocks_per_chunk - 1)
            && places.all(|place| is_there(place) || !self.block_is_reachable(group, place, horizon, its))
    }

    fn is_reachable(&self, group: &ChunkGroup, chunk: u32, horizon: Option<u32>, its: Boundaries) -> bool {
        let first = chunk * self.blocks_per_chunk;
        let mut places = first..first + self.blocks_per_chunk;
        places.any(|place| self.block_is_reachable(group, place, horizon, its))
    }

    /// Whether a later request can go on from where it needs the block at a place; `horizon`: chunks of the request in all,
    /// where its end is such a place.
    fn block_is_reachable(
        &self,
        group: &ChunkGroup,
        place: u32,
        horizon: Option<u32>,
        its: Boundaries,
    ) -> bool {
        let (GroupKind::SlidingWindow(window), Some(alignment)) = (group.spec.kind, self.alignment) else {
            return true;
        };
        let size = group.spec.block_size;
        if !alignment.is_multiple_of(size) {
            return true;
        }
        let needed = group.spec.blocks_of_window(window);
        let interval = match self.retention {
            RetentionInterval::Dense => alignment,
            RetentionInterval::Tokens(tokens) => tokens,
        };
        let per_segment = interval / size;
        if per_segment > 0 {
            if needed >= per_segment || place % per_segment >= per_segment - needed {
                return true;
            }
            let end = horizon.map_or(0, |chunks| chunks * self.blocks_per_chunk);
            let last = end - end % per_segment;
            if last < end && (last.max(end.saturating_sub(needed))..end).contains(&place) {
                return true;
            }
        }
        let ends = [its.prompt_tokens - 1, its.junction].map(|tokens| tokens / alignment * alignment / size);
        self.retention != RetentionInterval::Dense
            && ends.into_iter().any(|end| place < end && place + needed >= end)
    }
}

impl GroupOffer {
    /// The blocks of a chunk.
    pub(super) fn blocks_of(&self, chunk: u32, blocks_per_chunk: u32) -> &[BlockId] {
        let start = ((chunk - self.first) * blocks_per_chunk) as usize;
        &self.blocks[start..start + blocks_per_chunk as usize]
    }
}

/// How many chunks in a row are there from the first on; `None` if one of them is on its way.
fn count_from_start(chunks: Range<u32>, state: impl Fn(u32) -> Option<bool>) -> Option<u32> {
    let (mut count, mut all_ready) = (0, true);
    for is_ready in chunks.map_while(state) {
        count += 1;
        all_ready &= is_ready;
    }
    all_ready.then_some(count)
}

/// The end of the last `needed` chunks in a row that are there, counted from the first of the range on, or of those at its
/// beginning, however few; `None` if one of them is on its way. Where the range ends, the first of `needed` holds.
fn last_run(chunks: Range<u32>, needed: [u32; 2], state: impl Fn(u32) -> Option<bool>) -> Option<u32> {
    let ([mut needed, later], start) = (needed, chunks.start);
    let (mut run, mut all_ready) = (0, true);
    for chunk in chunks.rev() {
        if let Some(is_ready) = state(chunk) {
            run += 1;
            all_ready &= is_ready;
        } else {
            (run, all_ready, needed) = (0, true, later);
        }
        if run == needed {
            return all_ready.then_some(chunk - start + run);
        }
    }
    all_ready.then_some(run)
}
