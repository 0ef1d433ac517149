//! Block allocation for requests, as vLLM's `KVCacheManager` does it: all or nothing, prefix hits first.

use servecast_types::{BlockHasher, BlockId, KvEvent};

use super::groups::{GroupedKv, Need, Tables};
use super::pool::{BlockPool, Contents, Hits};
use super::request::Request;
use super::segment::Told;
use crate::EngineConfig;
use crate::args::VllmVersion;
use crate::engine::EngineTracing;
use crate::speculation::Speculation;

/// The KV cache of a worker.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// The blocks of an engine whose layers all keep everything; empty for others.
    pub(super) pool: BlockPool,
    /// Those of others.
    pub(super) groups: Option<Box<GroupedKv>>,
    pub(crate) block_size: u32,
    caching: bool,
    /// Whether nobody is told of output that its request alone can hit.
    skips_own_output: bool,
    /// Slots that a drafter needs behind the tokens of an iteration, up to `most_slots` of a request.
    lookahead: u32,
    most_slots: u32,
    /// Tokens behind a block that its identity covers, so that they have to be known.
    hash_lookahead: u32,
    /// The last computed tokens, whose draft KV may be written again.
    unsettled: u32,
    /// Whether the last block of a hit is not used.
    drops_last_hit: bool,
}

impl KvCache {
    pub(crate) fn new(config: &EngineConfig, tracing: EngineTracing) -> Self {
        let unhashed_to_head = config.vllm_version >= VllmVersion::V0_24;
        let capture_events = tracing.kv_events && config.enable_prefix_caching;
        let groups = config.kv_groups.clone();
        let groups = groups.map(|groups| GroupedKv::new(groups, config, capture_events, tracing.block_ids));
        let pool = BlockPool::new(
            if groups.is_some() { 0 } else { config.num_gpu_blocks },
            config.reserve_null_block,
            unhashed_to_head,
            capture_events,
        );
        let speculation = config.speculation.as_deref();
        let figure = |of: fn(&Speculation) -> u32| speculation.map_or(0, of);
        Self {
            pool,
            skips_own_output: tracing.skip_own_output && groups.is_none(),
            groups: groups.map(Box::new),
            block_size: config.block_size,
            caching: config.enable_prefix_caching,
            lookahead: figure(|speculation| speculation.lookahead),
            most_slots: config.max_model_len,
            hash_lookahead: figure(|speculation| speculation.hash_lookahead),
            unsettled: figure(|speculation| speculation.prefill_lookahead.saturating_sub(1)),
            drops_last_hit: speculation.is_some_and(|speculation| speculation.drops_last_hit),
        }
    }

    /// Forgets all contents that can be hit; no block is in use.
    pub(crate) fn reset(&mut self) {
        match &mut self.groups {
            Some(groups) => groups.reset(),
            None => self.pool.reset(),
        }
    }

    /// A hasher for the content of a request.
    pub(crate) fn hasher(&self) -> BlockHasher {
        let size = self.groups.as_ref().map_or(self.block_size, |groups| groups.hash_unit());
        BlockHasher::looking_ahead(size, self.hash_lookahead)
    }

    /// Tokens that need KV slots when the first `tokens` tokens of a request are computed: a drafter's among them.
    pub(super) fn slots(&self, tokens: u32) -> u32 {
        if self.lookahead == 0 { tokens } else { (tokens + self.lookahead).min(self.most_slots) }
    }

    pub(crate) fn num_free(&self) -> u32 {
        self.groups.as_ref().map_or_else(|| self.pool.num_free(), |groups| groups.num_free())
    }

    /// Number of distinct contents that can be hit.
    pub(crate) fn num_cached(&self) -> u32 {
        self.groups.as_ref().map_or_else(|| self.pool.num_cached(), |groups| groups.num_cached())
    }

    /// The free list from head to tail.
    pub(crate) fn free_list(&self) -> Vec<BlockId> {
        match &self.groups {
            Some(groups) => groups.free_list().collect(),
            None => self.pool.free_list().collect(),
        }
    }

    /// Whether somebody wants to know what is stored and removed.
    pub(crate) fn has_events(&self) -> bool {
        self.groups.as_ref().map_or_else(|| self.pool.has_events(), |groups| groups.has_events())
    }

    /// Whether there are events that nobody has been told yet.
    pub(crate) fn has_news(&self) -> bool {
        self.groups.as_ref().map_or_else(|| self.pool.has_news(), |groups| groups.has_news())
    }

    /// Blocks that are taken next and have had no content yet, so that nothing is evicted; of groups of layers none is known.
    pub(crate) fn num_fresh(&self) -> u32 {
        if self.groups.is_some() { 0 } else { self.pool.num_fresh() }
    }

    /// Moves the events since the last call to the end of `sink`.
    pub(crate) fn take_events(&mut self, sink: &mut Vec<KvEvent>) {
        match &mut self.groups {
            Some(groups) => groups.take_events(sink),
            None => self.pool.take_events(sink),
        }
    }

    /// Blocks that hold `tokens` tokens.
    pub(crate) fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_size)
    }

    /// Whether a request of so many tokens can have its blocks if nobody else has any.
    pub(crate) fn holds(&self, tokens: u32, config: &EngineConfig) -> bool {
        let blocks = match &config.kv_groups {
            Some(groups) => groups.most_blocks(tokens, config.max_model_len),
            None => self.blocks_for(self.slots(tokens)),
        };
        blocks <= config.usable_blocks()
    }

    /// Blocks that a running request takes out of what is free to compute its first `tokens` tokens, once it has let go of
    /// those that it does not look back at; not fewer than for `known` tokens.
    pub(crate) fn make_way(&mut self, request: &mut Request, tokens: u32, known: u32) -> u32 {
        let Some(groups) = &mut self.groups else {
            return self.missing_blocks(request, self.slots(tokens).max(known));
        };
        let gate =
            if known > 0 { groups.needed(request, known, request.computed, Need::Admission) } else { 0 };
        groups.forget(request);
        groups.needed(request, tokens, request.computed, Need::Iteration).max(gate)
    }

    /// Blocks that a running request takes to compute its first `tokens` tokens.
    pub(crate) fn blocks_to_run(&self, request: &Request, tokens: u32) -> u32 {
        match &self.groups {
            // Those that it lets go of before that are none that it would take.
            Some(groups) => groups.needed(request, tokens, request.computed, Need::Iteration),
            None => self.missing_blocks(request, tokens),
        }
    }

    /// Blocks at most that so many requests take that decode and are at the beginning of a block.
    pub(crate) fn most_taken(&self, opening: u32) -> u32 {
        self.groups.as_ref().map_or(opening, |groups| groups.most_taken(opening))
    }

    /// Blocks that a request still needs for its first `tokens` tokens.
    pub(crate) fn missing_blocks(&self, request: &Request, tokens: u32) -> u32 {
        let blocks = request.blocks.len();
        // A product is cheaper than a division, and most tokens need no block.
        let is_covered = u64::from(tokens) <= blocks as u64 * u64::from(self.block_size);
        if is_covered { 0 } else { self.blocks_for(tokens).saturating_sub(blocks as u32) }
    }

    /// Gives a request the blocks that it still needs to compute its first `tokens` tokens; the caller has checked that they
    /// are free.
    pub(crate) fn extend(&mut self, request: &mut Request, tokens: u32) {
        if let Some(groups) = &mut self.groups {
            return groups.extend(request, tokens);
        }
        let missing = self.missing_blocks(request, self.slots(tokens));
        if missing > 0 {
            self.pool.take(missing, &mut request.blocks);
        }
    }

    /// The longest chain of cached blocks that the first `tokens` tokens of `request` begin with; returns the tokens in it.
    ///
    /// What groups of layers have of it, they keep themselves.
    pub(crate) fn find_hits(&mut self, request: &mut Request, tokens: u32, hits: &mut Hits) -> u32 {
        hits.clear();
        let hashed = tokens.min(request.known().saturating_sub(self.hash_lookahead));
        if let Some(groups) = &mut self.groups {
            return groups.find(request, hashed);
        }
        if !self.caching {
            return 0;
        }
        let blocks = hashed / self.block_size;
        self.find_first_hits(request, blocks, hits);
        if self.drops_last_hit && hits.len() > 0 {
            let kept = hits.len() - 1;
            hits.clear();
            self.find_first_hits(request, kept, hits);
        }
        hits.len() * self.block_size
    }

    /// The cached ones of the first `blocks` blocks of `request`, up to the first that is not.
    fn find_first_hits(&self, request: &mut Request, blocks: u32, hits: &mut Hits) {
        let mut runs = request.hashes(blocks).range(0..blocks);
        while runs.next().is_some_and(|run| self.pool.find_hits(run, hits)) {}
    }

    /// Gives a request the blocks that it hit, and new ones so that it has `blocks` in all.
    ///
    /// The caller has checked that enough blocks are free.
    pub(crate) fn allocate(&mut self, request: &mut Request, hits: &[BlockId], blocks: u32) {
        // At once what it will take, rather than moved several times as it grows.
        let most = self.blocks_for(request.most_tokens()).min(self.pool.num_blocks());
        request.blocks.reserve_exact((most as usize).saturating_sub(request.blocks.len()));
        if !hits.is_empty() {
            debug_assert!(request.blocks.is_empty(), "only a request without blocks can hit some");
            self.pool.touch(hits);
            request.blocks.extend_from_slice(hits);
            request.stored = hits.len() as u32;
        }
        let new = blocks.saturating_sub(request.blocks.len() as u32);
        if new > 0 {
            self.pool.take(new, &mut request.blocks);
        }
    }

    /// Lets others hit the full blocks within the first `tokens` tokens of a request.
    #[inline]
    pub(crate) fn store(&mut self, request: &mut Request, tokens: u32) {
        // What a member of a stretch knows is not up to date, but then identities cover nothing behind a block.
        let ahead = self.hash_lookahead;
        if let Some(groups) = &mut self.groups {
            let known = if ahead == 0 { tokens.max(request.prompt_tokens) } else { request.known() };
            return groups.store(request, tokens, known.saturating_sub(ahead));
        }
        let tokens = tokens.saturating_sub(self.unsettled);
        // Most tokens fill no block.
        let fills_one = u64::from(tokens) >= (u64::from(request.stored) + 1) * u64::from(self.block_size);
        if fills_one && self.caching {
            let hashed = if ahead == 0 { tokens } else { tokens.min(request.known().saturating_sub(ahead)) };
            self.store_blocks(request, hashed / self.block_size);
        }
    }

    /// Whether it is soon enough to store what a request generates when it loses its blocks: nobody else can hit it, and
    /// it is not reported.
    pub(crate) fn stores_at_end(&self, request: &Request) -> bool {
        request.has_private_output && !self.tells_all()
    }

    /// Whether somebody wants to know of everything that is stored.
    pub(crate) fn tells_all(&self) -> bool {
        self.has_events() && !self.skips_own_output
    }

    fn store_blocks(&mut self, request: &mut Request, full: u32) {
        let stored = request.stored;
        if full <= stored {
            return;
        }
        // Of what it generates itself, nobody has stored anything, unless it was here before.
        let is_new = request.has_private_output
            && request.preemptions == 0
            && stored >= request.prompt_tokens / self.block_size;
        // What it generates begins in the block behind the full ones of its prompt.
        let skips = self.skips_own_output && request.has_private_output;
        let told = if skips { full.min(request.prompt_tokens / self.block_size).max(stored) } else { full };
        let (blocks, hashes) = request.hashed_blocks(full);
        if stored < told {
            let contents = Contents { hashes, is_new, told: Told::Yes };
            self.pool.store(&blocks[..told as usize], stored, contents);
        }
        if told < full {
            let contents = Contents { hashes, is_new, told: Told::No };
            self.pool.store(&blocks[..full as usize], told, contents);
        }
        request.stored = full;
    }

    /// Takes all blocks away from a request.
    pub(crate) fn free(&mut self, request: &mut Request) {
        if let Some(groups) = &mut self.groups {
            return groups.free(request);
        }
        self.pool.release(&request.blocks);
        request.blocks.clear();
        request.stored = 0;
    }

    /// Takes all blocks away from a request, to be [released](Self::release) later.
    pub(crate) fn detach(&mut self, request: &mut Request) -> Vec<BlockId> {
        request.stored = 0;
        match &mut self.groups {
            Some(groups) => groups.detach(request),
            None => std::mem::take(&mut request.blocks),
        }
    }

    pub(crate) fn release(&mut self, blocks: &[BlockId]) {
        match &mut self.groups {
            Some(groups) => groups.release(blocks),
            None => self.pool.release(blocks),
        }
    }

    /// Checks that requests hold what the pool says, `detached` blocks beside them; says what does not hold.
    pub(crate) fn check<'a>(
        &self,
        requests: impl Iterator<Item = &'a Request>,
        detached: impl Iterator<Item = BlockId>,
    ) -> Result<u64, String> {
        match &self.groups {
            Some(groups) => {
                let tables = requests.filter_map(|request| request.tables.as_deref());
                groups.check(tables.flat_map(Tables::blocks).chain(detached))
            }
            None => {
                self.pool.check(requests.flat_map(|request| request.blocks.iter().copied()).chain(detached))
            }
        }
    }
}
