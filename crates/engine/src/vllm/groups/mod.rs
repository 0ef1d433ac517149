//! The KV cache of a worker whose layers keep different things of a sequence, as vLLM's `HybridKVCacheCoordinator` and its
//! managers keep it.
//!
//! Layers that keep the same are a group with a table of blocks for each request. All groups draw from one pool. Full
//! attention keeps every block of a sequence; a sliding window, a chunk and a state let go of those that the next token
//! does not look back at, and have the null block in their place.
//!
//! - `pool`: blocks and contents. `table`: the blocks of a request.
//! - `hits`: what a prompt finds. `store`: what it leaves to be found. `retention`: which blocks are worth that.
//! - `needs`: how many blocks a request takes.
//! - `states`: what groups of states do otherwise.
//! - `phases`: when the blocks of a request that decodes change.
//!
//! What the scheduler calls is not inlined: an engine without groups would have it among its hot code, which already is
//! more than an instruction cache holds.

mod hits;
mod needs;
mod phases;
mod pool;
mod retention;
mod states;
mod store;
mod table;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_types::{BlockId, KvEvent, RequestId, SequenceHash};

pub(crate) use self::needs::Need;
use self::pool::{Content, GroupPool, NULL};
use self::table::Table;
pub(crate) use self::table::Tables;
use super::request::Request;
use crate::EngineConfig;
use crate::args::VllmVersion;
use crate::iteration::GroupEvent;
use crate::kv_groups::{GroupKind, GroupSpec, KvGroups};

/// The KV cache of a worker.
#[derive(Debug)]
pub(crate) struct GroupedKv {
    pub(super) groups: Arc<KvGroups>,
    pool: GroupPool,
    caching: bool,
    max_model_len: u32,
    /// What the request being admitted hits in each group.
    hits: Vec<Vec<BlockId>>,
    /// Groups that keep the same, those of full attention first.
    kinds: Vec<Kind>,
    /// In which iteration each state was stored that cannot be hit yet.
    fresh_states: FxHashMap<Content, u64>,
    iteration: u64,
    /// What a router learns.
    events: Option<Vec<KvEvent>>,
    /// The same of each group, as vLLM sends it.
    group_events: Option<Vec<GroupEvent>>,
    /// States that can be hit from now on, where somebody stores them elsewhere.
    state_offers: Option<Vec<StateOffer>>,
    /// Blocks on their way from one place to another; kept for its memory.
    moved: Vec<BlockId>,
}

/// A state that can be hit, for somebody who stores it elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateOffer {
    /// Whose it is.
    pub(crate) id: RequestId,
    pub(crate) group: u32,
    pub(crate) block: BlockId,
    /// Tokens that it comes after, and their identity.
    pub(crate) tokens: u32,
    pub(crate) hash: SequenceHash,
    pub(crate) prompt_tokens: u32,
}

/// Groups that keep the same.
#[derive(Debug)]
struct Kind {
    spec: GroupSpec,
    groups: Vec<usize>,
}

impl GroupedKv {
    pub(super) fn new(
        groups: Arc<KvGroups>,
        config: &EngineConfig,
        capture_events: bool,
        trace_groups: bool,
    ) -> Self {
        let mut kinds: Vec<Kind> = Vec::new();
        for (number, &spec) in groups.specs.iter().enumerate() {
            match kinds.iter_mut().find(|kind| kind.spec == spec) {
                Some(kind) => kind.groups.push(number),
                None => kinds.push(Kind { spec, groups: vec![number] }),
            }
        }
        kinds.sort_by_key(|kind| kind.spec.kind != GroupKind::Full);
        let caching = config.enable_prefix_caching;
        Self {
            pool: GroupPool::new(
                config.num_gpu_blocks,
                groups.specs.len() as u32,
                config.vllm_version >= VllmVersion::V0_24,
            ),
            caching,
            max_model_len: config.max_model_len,
            hits: vec![Vec::new(); groups.specs.len()],
            kinds,
            fresh_states: FxHashMap::default(),
            iteration: 0,
            events: (capture_events && caching).then(Vec::new),
            group_events: (trace_groups && caching).then(Vec::new),
            state_offers: (config.offload.is_some() && groups.aligns_states()).then(Vec::new),
            moved: Vec::new(),
            groups,
        }
    }

    /// Forgets all contents; no block is in use.
    pub(super) fn reset(&mut self) {
        self.pool.reset();
        self.fresh_states.clear();
        if let Some(events) = &mut self.events {
            events.push(KvEvent::Cleared);
        }
    }

    /// Tokens that an identity of contents is of.
    pub(super) fn hash_unit(&self) -> u32 {
        self.groups.hash_unit
    }

    pub(super) fn num_free(&self) -> u32 {
        self.pool.num_free()
    }

    pub(super) fn num_cached(&self) -> u32 {
        self.pool.num_cached()
    }

    pub(super) fn free_list(&self) -> impl Iterator<Item = BlockId> {
        self.pool.free_list()
    }

    pub(super) fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// Whether there are events since they were last taken.
    pub(super) fn has_news(&self) -> bool {
        self.events.as_ref().is_some_and(|events| !events.is_empty())
    }

    #[inline(never)]
    pub(super) fn take_events(&mut self, sink: &mut Vec<KvEvent>) {
        if let Some(events) = &mut self.events {
            sink.append(events);
        }
    }

    pub(super) fn take_group_events(&mut self, sink: &mut Vec<GroupEvent>) {
        if let Some(events) = &mut self.group_events {
            sink.append(events);
        }
    }

    pub(super) fn check(&self, references: impl Iterator<Item = BlockId>) -> Result<u64, String> {
        self.pool.check(references)
    }

    /// An iteration is about to be decided.
    #[inline(never)]
    pub(super) fn begin_iteration(&mut self) {
        self.iteration += 1;
        self.drop_hittable();
    }

    /// Forgets the fresh states that can be hit from now on.
    fn drop_hittable(&mut self) {
        let (now, delay) = (self.iteration, self.groups.state_delay);
        if !self.fresh_states.is_empty() {
            self.fresh_states.retain(|_, &mut stored| stored + delay > now);
        }
    }

    /// The tables of a request, which are put back when they have been changed; new ones if it has no blocks yet.
    #[expect(clippy::unnecessary_box_returns, reason = "it is the box that the request has them in")]
    #[inline(never)]
    pub(super) fn tables(&self, request: &mut Request) -> Box<Tables> {
        request.tables.take().unwrap_or_else(|| {
            let groups = self.groups.specs.iter().map(|_| Table::default()).collect();
            Box::new(Tables { groups, ..Tables::default() })
        })
    }

    /// Lets go of what the next token of a request does not look back at.
    #[inline(never)]
    pub(super) fn forget(&mut self, request: &mut Request) {
        let mut tables = self.tables(request);
        let in_flight = if self.groups.waits_for_results { tables.in_flight } else { 0 };
        self.forget_before(&mut tables, request.computed.saturating_sub(in_flight));
        request.tables = Some(tables);
    }

    fn forget_before(&mut self, tables: &mut Tables, settled: u32) {
        for number in 0..self.groups.specs.len() {
            let spec = self.groups.specs[number];
            let table = &mut tables.groups[number];
            let past = (spec.skipped(settled) / spec.block_size).min(table.len());
            if spec.aligns_states() {
                self.forget_states(table, past, settled.div_ceil(spec.block_size));
                continue;
            }
            // What is before the first that is gone, is gone as well.
            let gone = |place: &u32| table.blocks[*place as usize] == NULL;
            let first = (0..past).rev().find(gone).map_or(0, |place| place + 1);
            self.moved.clear();
            self.moved.extend((first..past).rev().map(|place| table.clear(place)));
            self.pool.release(self.moved.iter().copied());
        }
    }

    /// Gives a request what it hit, and blocks for tokens that are fetched, so that the first `computed` are there; `hit` of
    /// them were found here.
    ///
    /// The caller has checked that enough blocks are free.
    #[inline(never)]
    pub(super) fn adopt(&mut self, request: &mut Request, hit: u32, computed: u32) {
        let mut tables = self.tables(request);
        let groups = Arc::clone(&self.groups);
        for (number, &spec) in groups.specs.iter().enumerate() {
            let table = &mut tables.groups[number];
            debug_assert!(table.blocks.is_empty(), "only a request without blocks can hit some");
            let skipped = spec.skipped(computed) / spec.block_size;
            let hits = self.hits[number].get(skipped as usize..).unwrap_or(&[]);
            self.pool.touch(hits);
            table.blocks.resize(skipped as usize, NULL);
            table.blocks.extend_from_slice(hits);
            table.stored = Some(table.len());
        }
        for (number, &spec) in groups.specs.iter().enumerate() {
            if computed > hit && spec.skipped(computed) < computed {
                let table = &mut tables.groups[number];
                let missing = computed.div_ceil(spec.block_size).saturating_sub(table.len());
                self.take(missing, table);
            }
        }
        tables.is_new = true;
        request.tables = Some(tables);
    }

    /// Gives a request what it hit, and blocks for its first `computed` tokens, which are fetched before it runs.
    ///
    /// The caller has checked that enough blocks are free.
    #[inline(never)]
    pub(super) fn fetch(&mut self, request: &mut Request, hit: u32, computed: u32) {
        self.adopt(request, hit, computed);
        self.extend_by(request, computed, 0);
        if let Some(tables) = &mut request.tables {
            tables.is_new = true;
        }
    }

    /// Gives a request the blocks that it still needs to compute its first `tokens` tokens.
    ///
    /// The caller has checked that they are free.
    #[inline(never)]
    pub(super) fn extend(&mut self, request: &mut Request, tokens: u32) {
        self.extend_by(request, tokens, self.groups.lookahead);
    }

    /// The same with slots for `ahead` tokens behind them.
    fn extend_by(&mut self, request: &mut Request, tokens: u32, ahead: u32) {
        let mut tables = self.tables(request);
        for number in 0..self.groups.specs.len() {
            let spec = self.groups.specs[number];
            let missing = self.required(spec, tokens, ahead);
            let table = &mut tables.groups[number];
            table.before = if tables.is_new { 0 } else { table.blocks.len() };
            if let GroupKind::Mamba { align: true, drafts } = spec.kind {
                self.extend_states(spec, table, tokens, drafts);
            } else {
                self.take(missing.saturating_sub(table.len()), table);
            }
        }
        tables.is_new = false;
        request.tables = Some(tables);
    }

    /// Takes blocks from the head of the free list, evicting their contents.
    fn take(&mut self, count: u32, table: &mut Table) {
        let Self { pool, events, group_events, groups, .. } = self;
        for _ in 0..count {
            let block = pool.take(|content, name| {
                if let (Some(events), Some(name)) = (&mut *events, name)
                    && content.group == groups.reported
                {
                    events.push(KvEvent::Removed { blocks: std::iter::once(name).collect() });
                }
                if let Some(events) = group_events {
                    let event = KvEvent::Removed { blocks: std::iter::once(content.hash).collect() };
                    events.push(GroupEvent { group: content.group, block_size: 0, tokens: 0, event });
                }
            });
            table.blocks.push(block);
        }
    }

    /// Takes all blocks away from a request.
    #[inline(never)]
    pub(super) fn free(&mut self, request: &mut Request) {
        self.withdraw_states(request.id);
        if let Some(tables) = &mut request.tables {
            for table in &mut tables.groups {
                self.pool.release(table.blocks.iter().rev().copied());
                *table = Table::default();
            }
        }
    }

    /// Takes all blocks away from a request, which somebody may still write to; [`GroupedKv::release`] frees them.
    pub(super) fn detach(&mut self, request: &mut Request) -> Vec<BlockId> {
        self.withdraw_states(request.id);
        let Some(tables) = &mut request.tables else { return Vec::new() };
        let blocks = tables.blocks().filter(|&block| block != NULL).collect();
        tables.groups.iter_mut().for_each(|table| *table = Table::default());
        blocks
    }

    #[inline(never)]
    pub(super) fn release(&mut self, blocks: &[BlockId]) {
        self.pool.release(blocks.iter().rev().copied());
    }

    /// Tokens for which tables have places in every group that keeps tokens.
    pub(super) fn covered(&self, tables: &Tables) -> u64 {
        let groups = self.groups.specs.iter().zip(&tables.groups);
        let of_tokens =
            groups.filter(|(spec, _)| !matches!(spec.kind, GroupKind::Mamba { align: false, .. }));
        let covered = of_tokens.map(|(spec, table)| u64::from(table.len()) * u64::from(spec.block_size));
        covered.min().unwrap_or(u64::MAX)
    }
}

impl Request {
    /// Counts tokens of an iteration that was decided, or that ended.
    #[inline(never)]
    pub(crate) fn count_in_flight(&mut self, tokens: i64) {
        if let Some(tables) = &mut self.tables {
            tables.in_flight = (i64::from(tables.in_flight) + tokens).max(0) as u32;
        }
    }
}
