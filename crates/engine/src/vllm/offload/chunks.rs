//! The scheduler's half of vLLM's `OffloadingConnector`: what is stored and loaded, and which pass has to wait for it.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::{BlockId, RequestId, SequenceHash, ensure};
use smallvec::SmallVec;

use super::cache::{ChunkCache, Found};
use super::copies::{Copies, Handed};
use super::recency::User;
use crate::iteration::{OffloadCopy, Offloaded};
use crate::offload_args::KvOffloading;
use crate::vllm::Request;

/// Chunks at the host, and the requests that use them.
#[derive(Debug)]
pub(super) struct Chunks {
    pub(super) cache: ChunkCache,
    users: FxHashMap<RequestId, Client>,
    /// Copies that are not done, by their number.
    jobs: FxHashMap<u64, Job>,
    next_job: u64,
    /// The stores that read a block of requests that have ended.
    storing: FxHashMap<BlockId, SmallVec<[u64; 1]>>,
    /// Stores that are not done.
    num_stores: usize,
    /// Chunks that a request loads outside a pass.
    loading: FxHashSet<SequenceHash>,
    /// Requests that ended since the last decision.
    ended: Vec<Ended>,
    /// Requests whose last offer was refused, and who make it again with every pass.
    refused: FxHashSet<RequestId>,
    blocks_per_chunk: u32,
    chunk_tokens: u32,
    prompt_only: bool,
}

/// A request that uses chunks.
#[derive(Debug, Default)]
struct Client {
    user: User,
    /// Chunks that it has offered, or loaded.
    offered: u32,
    /// Copies of it that are not done.
    jobs: Vec<u64>,
}

#[derive(Debug)]
struct Job {
    request: RequestId,
    loads: bool,
    /// Whether a request waits for it outside a pass.
    wakes: bool,
    keys: Vec<SequenceHash>,
    blocks: Vec<BlockId>,
}

/// A request that has ended, with chunks that it has not offered yet.
#[derive(Debug)]
struct Ended {
    id: RequestId,
    keys: Vec<(SequenceHash, u32)>,
    /// The blocks of those.
    blocks: Vec<BlockId>,
}

impl Chunks {
    pub(super) fn new(spec: &KvOffloading, block_size: u32) -> Self {
        Self {
            cache: ChunkCache::new(spec),
            users: FxHashMap::default(),
            jobs: FxHashMap::default(),
            next_job: 0,
            storing: FxHashMap::default(),
            num_stores: 0,
            loading: FxHashSet::default(),
            ended: Vec::new(),
            refused: FxHashSet::default(),
            blocks_per_chunk: spec.blocks_per_chunk,
            chunk_tokens: spec.blocks_per_chunk.saturating_mul(block_size),
            prompt_only: spec.prompt_only,
        }
    }

    /// Whether a store is not done.
    pub(super) fn has_pending(&self) -> bool {
        self.num_stores > 0
    }

    /// Whether a copy is not done.
    pub(super) fn has_copies(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// The identities of so many chunks of a request from `first` on, with their positions.
    fn keys(&self, request: &mut Request, first: u32, end: u32) -> Vec<(SequenceHash, u32)> {
        let blocks = self.blocks_per_chunk;
        let hashes = request.hashes(end * blocks);
        let key = |chunk: u32| hashes.get((chunk + 1) * blocks - 1).expect("its tokens are known");
        (first..end).map(|chunk| (key(chunk), chunk)).collect()
    }

    /// Tokens of a request behind the first `hit_tokens` that can be loaded; `None` if that is not known yet.
    pub(super) fn find(&self, request: &mut Request, hit_tokens: u32) -> Option<u32> {
        if self.users.get(&request.id).is_some_and(|client| !client.jobs.is_empty()) {
            return None;
        }
        let (first, end) = (hit_tokens / self.chunk_tokens, request.known() / self.chunk_tokens);
        // Less than a chunk is not worth it.
        if end * self.chunk_tokens < hit_tokens + self.chunk_tokens {
            return Some(0);
        }
        let keys = self.keys(request, first, end);
        let Found::Chunks(found) = self.cache.find(keys.iter().map(|&(key, _)| key)) else { return None };
        if (first + found) * self.chunk_tokens < hit_tokens + self.chunk_tokens {
            return Some(0);
        }
        if keys[..found as usize].iter().any(|(key, _)| self.loading.contains(key)) {
            return None;
        }
        Some((first + found) * self.chunk_tokens - hit_tokens)
    }

    /// Begins to load what was found of a request, up to `up_to` tokens, into blocks behind the first `hit_blocks`.
    pub(super) fn load(
        &mut self,
        request: &mut Request,
        hit_blocks: u32,
        up_to: u32,
        is_sync: bool,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) {
        let (first, end) = (hit_blocks / self.blocks_per_chunk, up_to / self.chunk_tokens);
        let keys = self.keys(request, first, end);
        let blocks = request.blocks[hit_blocks as usize..(end * self.blocks_per_chunk) as usize].to_vec();
        let job = self.next_job;
        self.next_job += 1;
        let client = self.users.entry(request.id).or_default();
        client.offered = client.offered.max(end);
        client.jobs.push(job);
        let chunks = self.cache.load(&keys, &mut client.user);
        let keys: Vec<SequenceHash> = keys.into_iter().map(|(key, _)| key).collect();
        let handed = Handed { job, blocks: blocks.len() as u64 };
        if is_sync {
            // Nobody else waits for these: blocks are shared from the pass on that loads them.
            copies.sync_loads.push(handed);
        } else {
            self.loading.extend(&keys);
            copies.loads.push(handed);
        }
        log.loads.push(OffloadCopy { job, requests: vec![request.id], chunks, blocks });
        let job_of = Job { request: request.id, loads: true, wakes: !is_sync, keys, blocks: Vec::new() };
        self.jobs.insert(job, job_of);
    }

    /// Whether an offer was refused that is made again with every pass.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// A request of the pass that is decided, after which the first `computed` of its known tokens are computed, offers chunks.
    pub(super) fn offer(
        &mut self,
        request: &mut Request,
        computed: u32,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) {
        let end = self.storable(request, computed);
        let client = self.users.entry(request.id).or_default();
        let first = client.offered;
        if first >= end {
            return;
        }
        let keys = self.keys(request, first, end);
        let blocks = self.blocks_per_chunk as usize;
        let blocks = request.blocks[first as usize * blocks..end as usize * blocks].to_vec();
        if !self.store(request.id, &keys, &blocks, copies, log) {
            self.refused.insert(request.id);
        } else if let Some(client) = self.users.get_mut(&request.id) {
            client.offered = end;
            self.refused.remove(&request.id);
        }
    }

    /// Chunks of the first `tokens` tokens that may be stored.
    fn storable(&self, request: &Request, tokens: u32) -> u32 {
        let most = if self.prompt_only { request.prompt_tokens } else { u32::MAX };
        tokens.min(most) / self.chunk_tokens
    }

    /// Hands those of the chunks over that are not at the host; returns whether there was room.
    fn store(
        &mut self,
        id: RequestId,
        offered: &[(SequenceHash, u32)],
        blocks: &[BlockId],
        copies: &mut Copies,
        log: &mut Offloaded,
    ) -> bool {
        let client = self.users.entry(id).or_default();
        let Some(stored) = self.cache.store(offered, &mut client.user) else { return false };
        if stored.is_empty() {
            return true;
        }
        let job = self.next_job;
        self.next_job += 1;
        client.jobs.push(job);
        let first = offered.first().map_or(0, |&(_, position)| position);
        let of_chunk = |position: u32| {
            let start = ((position - first) * self.blocks_per_chunk) as usize;
            blocks[start..start + self.blocks_per_chunk as usize].iter().copied()
        };
        let read: Vec<BlockId> = stored.iter().flat_map(|&(_, position, _)| of_chunk(position)).collect();
        copies.later.push(Handed { job, blocks: read.len() as u64 });
        let chunks = stored.iter().map(|&(.., chunk)| chunk).collect();
        log.stores.push(OffloadCopy { job, requests: vec![id], chunks, blocks: read.clone() });
        let keys = stored.into_iter().map(|(key, ..)| key).collect();
        self.num_stores += 1;
        self.jobs.insert(job, Job { request: id, loads: false, wakes: false, keys, blocks: read });
        true
    }

    /// A request has ended, and is about to lose its blocks.
    pub(super) fn end(&mut self, request: &mut Request) {
        // The KV of its last token was never computed.
        let computed = request.computed.min(request.known().saturating_sub(1));
        let end = self.storable(request, computed);
        let first = self.users.get(&request.id).map_or(0, |client| client.offered).min(end);
        let keys = self.keys(request, first, end);
        let blocks = self.blocks_per_chunk as usize;
        let blocks = request.blocks[first as usize * blocks..end as usize * blocks].to_vec();
        let jobs = self.users.get(&request.id).map_or(&[][..], |client| &client.jobs);
        for &number in jobs {
            note_reads(&mut self.storing, &self.jobs[&number].blocks, number);
        }
        self.ended.push(Ended { id: request.id, keys, blocks });
    }

    /// Offers what is left of the requests that have ended, and forgets them.
    pub(super) fn settle_ended(&mut self, copies: &mut Copies, log: &mut Offloaded) {
        let ended = std::mem::take(&mut self.ended);
        for Ended { id, keys, blocks } in &ended {
            let id = *id;
            self.refused.remove(&id);
            let number = self.next_job;
            if !keys.is_empty() {
                self.store(id, keys, blocks, copies, log);
            }
            if let Some(job) = self.jobs.get(&number) {
                note_reads(&mut self.storing, &job.blocks, number);
            }
        }
        // What they used is newer only when all have stored.
        for Ended { id, .. } in ended {
            if let Some(client) = self.users.remove(&id) {
                self.cache.end(&client.user);
            }
        }
    }

    /// A pass waits for the stores that read blocks which it gives to a request.
    pub(super) fn flush_blocks(&self, given: &[BlockId], log: &mut Offloaded) {
        if !self.storing.is_empty() {
            log.flushed.extend(given.iter().filter_map(|block| self.storing.get(block)).flatten());
        }
    }

    /// It also waits for those of requests that lost their blocks, which offer everything anew.
    pub(super) fn flush_requests(&mut self, preempted: &[RequestId], log: &mut Offloaded) {
        for id in preempted {
            if let Some(client) = self.users.get_mut(id) {
                client.offered = 0;
                self.refused.remove(id);
            }
        }
        let jobs = preempted.iter().filter_map(|id| self.users.get(id)).flat_map(|client| &client.jobs);
        log.flushed.extend(jobs.filter(|job| !self.jobs[job].wakes));
        log.flushed.sort_unstable();
        log.flushed.dedup();
    }

    /// A copy is done; returns the request that waited for it.
    pub(super) fn done(&mut self, number: u64) -> Option<RequestId> {
        let job = self.jobs.remove(&number).expect("a copy is done once");
        if let Some(client) = self.users.get_mut(&job.request) {
            client.jobs.retain(|&other| other != number);
        }
        if !job.loads {
            self.num_stores -= 1;
            self.cache.stored(&job.keys);
            for block in job.blocks {
                let Some(stores) = self.storing.get_mut(&block) else { continue };
                stores.retain(|&mut other| other != number);
                if stores.is_empty() {
                    self.storing.remove(&block);
                }
            }
            return None;
        }
        self.cache.loaded(&job.keys);
        for key in &job.keys {
            self.loading.remove(key);
        }
        job.wakes.then_some(job.request)
    }

    /// Says what changed at the host.
    pub(super) fn report(&mut self, log: &mut Offloaded) {
        log.chunks_used = self.cache.num_used();
        (log.evicted_total, log.refused_total) = (self.cache.evicted_total, self.cache.refused_total);
        log.events.append(&mut self.cache.events);
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        let stores = self.jobs.values().filter(|job| !job.loads).count();
        ensure!(stores == self.num_stores, "{stores} stores are under way, {} counted", self.num_stores);
        self.cache.check()
    }
}

/// A store reads blocks of a request that has ended. Blocks that requests shared may be read by several.
fn note_reads(storing: &mut FxHashMap<BlockId, SmallVec<[u64; 1]>>, blocks: &[BlockId], number: u64) {
    for &block in blocks {
        storing.entry(block).or_default().push(number);
    }
}
