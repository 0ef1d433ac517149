//! The scheduler's half of vLLM's `SimpleCPUOffloadConnector`.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::{BlockId, HashRun, KvEvent, RequestId, SequenceHash};

use super::copies::{Copies, Handed};
use super::pool::HostPool;
use crate::EngineConfig;
use crate::iteration::{OffloadCopy, Offloaded};
use crate::offload_args::KvOffloading;
use crate::vllm::Request;
use crate::vllm::pool::BlockPool;

/// Blocks at the host, and what is copied there and back.
#[derive(Debug)]
pub(super) struct Simple {
    pool: HostPool,
    /// Blocks of each running request, from the first on, that need not be looked at again.
    visited: FxHashMap<RequestId, u32>,
    /// Blocks at the host that a waiting request was promised.
    promised: FxHashMap<RequestId, Vec<u32>>,
    /// What the decided pass stores and loads; what requests that have ended left to store.
    to_store: Vec<Stored>,
    left: Vec<Stored>,
    /// Blocks of the GPU that are being stored.
    storing: FxHashSet<BlockId>,
    to_load: OffloadCopy,
    stores: FxHashMap<u64, Vec<Stored>>,
    loads: FxHashMap<u64, OffloadCopy>,
    next_store: u64,
    next_load: u64,
    lazy: Option<Lazy>,
    block_size: u32,
    /// Whether the last block of what is found is computed again, as the last one of a hit is.
    drops_last_hit: bool,
    /// The last computed tokens, whose draft KV may be written again.
    unsettled: u32,
}

/// A block on its way to the host.
#[derive(Debug, Clone, Copy)]
struct Stored {
    gpu: BlockId,
    host: u32,
    content: SequenceHash,
    parent: Option<SequenceHash>,
}

/// How far the free list of the GPU has been looked through.
#[derive(Debug)]
struct Lazy {
    /// Blocks that a decision looks at.
    most: u32,
    cursor: Option<BlockId>,
}

impl Simple {
    pub(super) fn new(spec: &KvOffloading, config: &EngineConfig) -> Self {
        let most = config.max_num_batched_tokens.div_ceil(config.block_size).saturating_mul(2);
        let speculation = config.speculation.as_deref();
        Self {
            pool: HostPool::new(spec.chunks),
            visited: FxHashMap::default(),
            promised: FxHashMap::default(),
            to_store: Vec::new(),
            left: Vec::new(),
            storing: FxHashSet::default(),
            to_load: OffloadCopy::default(),
            stores: FxHashMap::default(),
            loads: FxHashMap::default(),
            next_store: 0,
            next_load: 0,
            lazy: spec.lazy.then_some(Lazy { most, cursor: None }),
            block_size: config.block_size,
            drops_last_hit: speculation.is_some_and(|speculation| speculation.drops_last_hit),
            unsettled: speculation.map_or(0, |speculation| speculation.prefill_lookahead.saturating_sub(1)),
        }
    }

    /// Whether a store is not done.
    pub(super) fn has_pending(&self) -> bool {
        !self.stores.is_empty() || !self.left.is_empty()
    }

    /// Whether a copy is not done.
    pub(super) fn has_copies(&self) -> bool {
        self.has_pending() || !self.loads.is_empty()
    }

    /// Blocks of the GPU that stores hold.
    pub(super) fn pinned(&self) -> impl Iterator<Item = BlockId> {
        self.stores.values().flatten().chain(&self.left).map(|stored| stored.gpu)
    }

    /// Tokens of a request behind the first `hit_tokens` that are loaded; its last token is always computed. They are kept
    /// for it.
    pub(super) fn find(&mut self, request: &mut Request, hit_tokens: u32) -> u32 {
        self.forget_promise(request.id);
        let (first, end) =
            (hit_tokens / self.block_size, request.known().saturating_sub(1) / self.block_size);
        if first >= end {
            return 0;
        }
        let hashes = request.hashes(end);
        let contents = (first..end).map_while(|block| hashes.get(block));
        let mut found: Vec<u32> = contents.map_while(|content| self.pool.get(content)).collect();
        if self.drops_last_hit {
            found.pop();
        }
        for &block in &found {
            self.pool.touch(block);
        }
        let tokens = found.len() as u32 * self.block_size;
        if tokens > 0 {
            self.promised.insert(request.id, found);
        }
        tokens
    }

    fn forget_promise(&mut self, id: RequestId) {
        for block in self.promised.remove(&id).into_iter().flatten() {
            self.pool.release(block);
        }
    }

    /// Loads what was promised to a request, up to `up_to` tokens, behind the first `hit_blocks` of its blocks.
    pub(super) fn load(&mut self, request: &Request, hit_blocks: u32, up_to: u32) {
        let chunks = self.promised.remove(&request.id).expect("what is loaded was found");
        let blocks = &request.blocks[hit_blocks as usize..(up_to / self.block_size) as usize];
        debug_assert_eq!(chunks.len(), blocks.len());
        self.to_load.requests.push(request.id);
        self.to_load.chunks.extend(chunks);
        self.to_load.blocks.extend_from_slice(blocks);
    }

    /// A request has ended, and is about to lose its blocks: what of it is not stored is kept for that.
    pub(super) fn end(&mut self, request: &mut Request, gpu: &mut BlockPool) {
        let mut new = self.unstored(request, request.computed);
        self.take_for(&mut new, gpu);
        self.left.append(&mut new);
        self.forget(request.id);
    }

    /// A request has lost its blocks, or is gone.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.forget_promise(id);
        self.visited.remove(&id);
    }

    /// Stores what a request of the decided pass had computed before, as far as the host does not hold it.
    pub(super) fn visit(&mut self, request: &mut Request, computed: u32, gpu: &mut BlockPool) {
        let mut new = self.unstored(request, computed);
        self.take_for(&mut new, gpu);
        self.to_store.append(&mut new);
    }

    /// The blocks of a request that the host does not hold, of the first `computed` tokens, as far as there is room.
    fn unstored(&mut self, request: &mut Request, computed: u32) -> Vec<Stored> {
        let mut new = Vec::new();
        let settled = computed.saturating_sub(request.placeholders + self.unsettled);
        let end = (settled / self.block_size).min(request.stored);
        let first = self.visited.get(&request.id).copied().unwrap_or(0);
        let mut room = self.pool.num_free();
        // Without room nothing is looked at, not even what is there or on its way.
        if self.lazy.is_some() || first >= end || room == 0 {
            return new;
        }
        let (blocks, hashes) = request.hashed_blocks(end);
        let mut at = first;
        while at < end {
            let (block, content) = (blocks[at as usize], hashes.get(at).expect("its tokens are known"));
            if !self.storing.contains(&block) && self.pool.get(content).is_none() {
                if room == 0 {
                    break;
                }
                room -= 1;
                let parent = at.checked_sub(1).and_then(|before| hashes.get(before));
                new.push(Stored { gpu: block, host: 0, content, parent });
            }
            at += 1;
        }
        self.visited.insert(request.id, at);
        new
    }

    /// Holds the blocks that are stored; what makes room for them is gone when all are chosen.
    fn take_for(&mut self, new: &mut [Stored], gpu: &mut BlockPool) {
        for stored in &mut *new {
            stored.host = self.pool.take();
        }
        let blocks: Vec<BlockId> = new.iter().map(|stored| stored.gpu).collect();
        self.storing.extend(&blocks);
        gpu.pin(&blocks);
    }

    /// Hands over what the decided pass copies.
    pub(super) fn hand_over(&mut self, gpu: &mut BlockPool, copies: &mut Copies, log: &mut Offloaded) {
        self.visit_free_list(gpu);
        self.to_store.append(&mut self.left);
        if !self.to_load.requests.is_empty() {
            let load = OffloadCopy { job: self.next_load, ..std::mem::take(&mut self.to_load) };
            self.next_load += 1;
            copies.loads.push(Handed { job: load.job, blocks: load.blocks.len() as u64 });
            log.loads.push(load.clone());
            self.loads.insert(load.job, load);
        }
        if !self.to_store.is_empty() {
            let stored = std::mem::take(&mut self.to_store);
            let job = self.next_store;
            self.next_store += 1;
            copies.later.push(Handed { job, blocks: stored.len() as u64 });
            let (chunks, blocks) = stored.iter().map(|stored| (stored.host, stored.gpu)).unzip();
            log.stores.push(OffloadCopy { job, requests: Vec::new(), chunks, blocks });
            self.stores.insert(job, stored);
        }
    }

    /// Stores what is about to be evicted, as far as the host does not hold it.
    fn visit_free_list(&mut self, gpu: &mut BlockPool) {
        let Some(lazy) = &mut self.lazy else { return };
        lazy.cursor = lazy.cursor.filter(|&cursor| gpu.is_free(cursor));
        let mut room = self.pool.num_free();
        let mut new = Vec::new();
        for (block, content) in gpu.free_after(lazy.cursor).take(lazy.most as usize) {
            if room == 0 {
                break;
            }
            lazy.cursor = Some(block);
            let Some(content) = content.filter(|&content| self.pool.get(content).is_none()) else { continue };
            room -= 1;
            new.push(Stored { gpu: block, host: 0, content, parent: None });
        }
        self.take_for(&mut new, gpu);
        self.to_store.append(&mut new);
    }

    /// A copy is done; returns the requests that waited for it.
    pub(super) fn done(&mut self, job: u64, loads: bool, gpu: &mut BlockPool) -> Vec<RequestId> {
        if loads {
            let load = self.loads.remove(&job).expect("a load is done once");
            load.chunks.iter().for_each(|&block| self.pool.release(block));
            return load.requests;
        }
        let stored = self.stores.remove(&job).expect("a store is done once");
        for &Stored { host, content, parent, .. } in &stored {
            self.pool.store(host, content);
            self.pool.events.push(KvEvent::Stored { parent, blocks: HashRun::up(content, 1).into() });
        }
        for stored in &stored {
            self.pool.release(stored.host);
        }
        let pinned: Vec<BlockId> = stored.iter().map(|stored| stored.gpu).collect();
        for block in &pinned {
            self.storing.remove(block);
        }
        gpu.unpin(&pinned);
        Vec::new()
    }

    /// Says what changed at the host.
    pub(super) fn report(&mut self, log: &mut Offloaded) {
        log.chunks_used = self.pool.num_cached();
        log.events.append(&mut self.pool.events);
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        let loading: usize = self.loads.values().map(|load| load.chunks.len()).sum();
        let storing = self.stores.values().map(Vec::len).sum::<usize>() + self.left.len();
        let promised: usize = self.promised.values().map(Vec::len).sum();
        self.pool.check((loading + storing + promised) as u64)
    }
}
