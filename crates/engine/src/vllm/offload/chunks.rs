//! The scheduler's half of vLLM's `OffloadingConnector`: what is stored and loaded, and which pass has to wait for it.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::{BlockId, RequestId, ensure};
use smallvec::SmallVec;

use super::cache::{ChunkCache, ChunkKey};
use super::chunk_groups::{Boundaries, ChunkGroup, ChunkGroups, GroupOffer};
use super::copies::{Copies, Handed};
use super::recency::User;
use crate::EngineConfig;
use crate::iteration::{GroupEvent, OffloadCopy, Offloaded};
use crate::offload_args::KvOffloading;
use crate::vllm::Request;
use crate::vllm::groups::StateOffer;

/// Stands where a request holds no block.
const NULL: BlockId = BlockId(0);

/// Chunks at the host, and the requests that use them.
#[derive(Debug)]
pub(super) struct Chunks {
    cache: ChunkCache,
    groups: ChunkGroups,
    has_groups: bool,
    users: FxHashMap<RequestId, Client>,
    /// Copies that are not done, by their number.
    jobs: FxHashMap<u64, Job>,
    next_job: u64,
    /// The stores that read a block which may be given to others before they are done: of requests that have ended, and of
    /// layers that forget.
    storing: FxHashMap<BlockId, SmallVec<[u64; 1]>>,
    /// Stores that are not done.
    num_stores: usize,
    /// Chunks that a request loads outside a pass.
    loading: FxHashSet<ChunkKey>,
    /// Requests that ended since the last decision.
    ended: Vec<Ended>,
    /// Requests whose last offer was refused, and who make it again with every pass.
    refused: FxHashSet<RequestId>,
    /// Blocks that the pass being decided gives to requests.
    given: Vec<BlockId>,
    prompt_only: bool,
}

/// A request that uses chunks.
#[derive(Debug, Default)]
struct Client {
    user: User,
    groups: SmallVec<[Progress; 1]>,
    /// Copies of it that are not done.
    jobs: Vec<u64>,
}

/// How far a request is in a group.
#[derive(Debug, Default)]
struct Progress {
    /// Chunks that it has offered, or loaded.
    offered: u32,
    /// In layers that forget, the blocks that it was given by place, as far as nobody else was given them since; and how many
    /// it had before the pass being decided.
    blocks: Vec<BlockId>,
    before: usize,
}

#[derive(Debug)]
struct Job {
    request: RequestId,
    loads: bool,
    /// Whether a request waits for it outside a pass.
    wakes: bool,
    keys: Vec<ChunkKey>,
    /// What it reads: blocks that the request keeps until it ends, and others.
    kept: Vec<BlockId>,
    others: Vec<BlockId>,
}

impl Job {
    /// A store that is yet without content.
    fn store_of(request: RequestId) -> Self {
        Self { request, loads: false, wakes: false, keys: Vec::new(), kept: Vec::new(), others: Vec::new() }
    }
}

/// A request that has ended, with chunks that it has not offered yet.
#[derive(Debug)]
struct Ended {
    id: RequestId,
    offers: Vec<GroupOffer>,
    its: Boundaries,
}

impl Chunks {
    pub(super) fn new(spec: &KvOffloading, config: &EngineConfig) -> Self {
        let groups = ChunkGroups::new(config, spec);
        Self {
            cache: ChunkCache::new(spec, groups.groups.len()),
            groups,
            has_groups: config.kv_groups.is_some(),
            users: FxHashMap::default(),
            jobs: FxHashMap::default(),
            next_job: 0,
            storing: FxHashMap::default(),
            num_stores: 0,
            loading: FxHashSet::default(),
            ended: Vec::new(),
            refused: FxHashSet::default(),
            given: Vec::new(),
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

    fn client(&mut self, id: RequestId) -> &mut Client {
        let groups = self.groups.len();
        self.users.entry(id).or_insert_with(|| Client {
            groups: (0..groups).map(|_| Progress::default()).collect(),
            ..Client::default()
        })
    }

    /// Tokens of a request behind the first `hit_tokens` that can be loaded; `None` if that is not known yet.
    pub(super) fn find(&self, request: &mut Request, hit_tokens: u32) -> Option<u32> {
        if self.users.get(&request.id).is_some_and(|client| !client.jobs.is_empty()) {
            return None;
        }
        let known = request.known();
        let hashes = request.hashes(self.groups.hash_units(known));
        let found = self.groups.find(hashes, known, hit_tokens, |key| self.cache.is_ready(key))?;
        let is_loading = |key: &ChunkKey| self.loading.contains(key);
        let waits = found > 0
            && !self.loading.is_empty()
            && self.groups.needed(hashes, hit_tokens, hit_tokens + found).iter().any(is_loading);
        (!waits).then_some(found)
    }

    /// Begins to load what was found of a request, up to `up_to` tokens, into blocks behind those of the first `hit_tokens`.
    pub(super) fn load(
        &mut self,
        request: &mut Request,
        hit_tokens: u32,
        up_to: u32,
        is_sync: bool,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) {
        let (mut keys, mut blocks) = (Vec::new(), Vec::new());
        let units = self.groups.hash_units(request.known());
        request.hashes(units);
        for (number, group) in self.groups.groups.iter().enumerate() {
            let (size, per_chunk) = (group.spec.block_size, self.groups.blocks_per_chunk);
            let end = up_to.div_ceil(size);
            let (table, hashes) = request.blocks_and_hashes(number);
            // Blocks that layers skip are not loaded.
            let is_held = |place: &u32| table[*place as usize] != NULL;
            let Some(start) = (hit_tokens.div_ceil(size)..end).find(is_held) else { continue };
            let chunks = start / per_chunk..up_to.div_ceil(group.tokens);
            keys.extend(
                chunks.map(|chunk| (self.groups.key(number, chunk, hashes), (chunk + 1) * group.tokens)),
            );
            blocks.extend_from_slice(&table[start as usize..end as usize]);
        }
        let job = self.next_job;
        self.next_job += 1;
        let ends: SmallVec<[u32; 1]> =
            self.groups.groups.iter().map(|group| up_to.div_ceil(group.tokens)).collect();
        let client = self.client(request.id);
        for (progress, end) in client.groups.iter_mut().zip(ends) {
            progress.offered = progress.offered.max(end);
        }
        client.jobs.push(job);
        let client = self.users.get_mut(&request.id).expect("it was just entered");
        let chunks = self.cache.load(&keys, &mut client.user);
        let keys: Vec<ChunkKey> = keys.into_iter().map(|(key, _)| key).collect();
        let handed = Handed { job, blocks: blocks.len() as u64 };
        if is_sync {
            // Nobody else waits for these: blocks are shared from the pass on that loads them.
            copies.sync_loads.push(handed);
        } else {
            self.loading.extend(&keys);
            copies.loads.push(handed);
        }
        log.loads.push(OffloadCopy { job, requests: vec![request.id], chunks, blocks });
        self.jobs.insert(job, Job { loads: true, wakes: !is_sync, keys, ..Job::store_of(request.id) });
    }

    /// Whether an offer was refused that is made again with every pass.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Whether it matters which blocks the pass being decided gives to requests.
    pub(super) fn minds_given(&self) -> bool {
        !self.storing.is_empty() || !self.ended.is_empty() || self.groups.forget_places()
    }

    /// The pass being decided gives blocks to requests.
    pub(super) fn give(&mut self, blocks: impl Iterator<Item = BlockId>) {
        self.given.extend(blocks.filter(|&block| block != NULL));
    }

    /// Notes the blocks that a request of the pass being decided has by now, in layers that forget; all of them are new to it
    /// if it was admitted.
    pub(super) fn note_places(&mut self, request: &Request) {
        if !self.groups.forget_places() {
            return;
        }
        let most = if self.prompt_only { request.prompt_tokens } else { u32::MAX };
        let limits: SmallVec<[usize; 4]> =
            self.groups.groups.iter().map(|group| (most / group.spec.block_size) as usize).collect();
        let forgets: SmallVec<[bool; 4]> =
            self.groups.groups.iter().map(ChunkGroup::forgets_places).collect();
        let client = self.client(request.id);
        for (number, progress) in client.groups.iter_mut().enumerate().filter(|(number, _)| forgets[*number])
        {
            let (table, is_new) = request.blocks_of(number);
            if is_new {
                progress.blocks.clear();
            }
            progress.before = progress.blocks.len();
            // Of what is never stored it makes no difference.
            let end = table.len().min(limits[number]);
            if let Some(new) = table.get(progress.before..end) {
                progress.blocks.extend_from_slice(new);
            }
        }
    }

    /// All blocks that are given are known: who could still store what was in them cannot any more. The pass waits for the
    /// stores that read them, and for those of requests that lost their blocks, which offer everything anew.
    pub(super) fn flush(&mut self, preempted: &[RequestId], log: &mut Offloaded) {
        if !self.storing.is_empty() {
            let storing = |block| self.storing.get(block);
            log.flushed.extend(self.given.iter().filter_map(storing).flatten());
        }
        if self.groups.forget_places() {
            self.forget_given();
        }
        for id in preempted {
            let Some(client) = self.users.get_mut(id) else { continue };
            for progress in &mut client.groups {
                *progress = Progress::default();
            }
            self.refused.remove(id);
            log.flushed.extend(client.jobs.iter().filter(|job| !self.jobs[job].wakes));
        }
    }

    /// Blocks that were let go of, and are given now, do not hold what they did.
    fn forget_given(&mut self) {
        let given: FxHashSet<BlockId> = self.given.iter().copied().collect();
        let per_chunk = self.groups.blocks_per_chunk;
        let forget = |blocks: &mut [BlockId]| {
            blocks.iter_mut().filter(|block| given.contains(block)).for_each(|block| *block = NULL);
        };
        for client in self.users.values_mut() {
            for progress in &mut client.groups {
                let (start, before) = ((progress.offered * per_chunk) as usize, progress.before);
                forget(progress.blocks.get_mut(start..before).unwrap_or_default());
                progress.before = progress.blocks.len();
            }
        }
        for offer in self.ended.iter_mut().flat_map(|ended| &mut ended.offers) {
            if self.groups.groups[offer.group].forgets_places() {
                let start = ((offer.fresh - offer.first) * per_chunk) as usize;
                forget(offer.blocks.get_mut(start..).unwrap_or_default());
            }
        }
    }

    /// Stores states that others can go on from, each for itself.
    pub(super) fn store_states(&mut self, offers: Vec<StateOffer>, copies: &mut Copies, log: &mut Offloaded) {
        for StateOffer { id, group, block, hash, tokens, prompt_tokens } in offers {
            let chunk = self.groups.groups[group as usize].tokens;
            if (self.prompt_only && tokens > prompt_tokens) || !tokens.is_multiple_of(chunk) {
                continue;
            }
            let key = ChunkKey { hash, group };
            let mut user = std::mem::take(&mut self.client(id).user);
            let stored = self.cache.store(&[(key, tokens)], &mut user);
            self.client(id).user = user;
            if let Some(&(.., place)) = stored.as_deref().and_then(|stored| stored.first()) {
                let job = Job { keys: vec![key], others: vec![block], ..Job::store_of(id) };
                self.start_store(job, vec![place], vec![block], copies, log);
            }
        }
    }

    /// Most tokens of a request, of which `tokens` are there, that are stored.
    pub(super) fn storable(&self, request: &Request, tokens: u32) -> u32 {
        if self.prompt_only { tokens.min(request.prompt_tokens) } else { tokens }
    }

    /// A request of the pass that is decided, after which the first `computed` of its known tokens are computed, offers chunks.
    pub(super) fn offer(
        &mut self,
        request: &mut Request,
        computed: u32,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) {
        let tokens = self.storable(request, computed);
        self.client(request.id);
        let client = &self.users[&request.id];
        let all = || client.groups.iter().zip(&self.groups.groups);
        if all().all(|(progress, group)| progress.offered >= tokens / group.tokens) {
            return;
        }
        let its = Boundaries::of(request, false);
        let offers = self.gather(request, tokens, its);
        if self.store(request.id, &offers, its, copies, log) {
            let client = self.client(request.id);
            for offer in &offers {
                let progress = &mut client.groups[offer.group];
                progress.offered = progress.offered.max(offer.end());
            }
            self.refused.remove(&request.id);
        } else {
            self.refused.insert(request.id);
        }
    }

    /// What a request has of the first `tokens` tokens that it has not offered yet.
    fn gather(&self, request: &mut Request, tokens: u32, its: Boundaries) -> Vec<GroupOffer> {
        let client = self.users.get(&request.id);
        request.hashes(self.groups.hash_units(tokens));
        let per_chunk = self.groups.blocks_per_chunk;
        let gather = |(number, group): (usize, &ChunkGroup)| {
            let progress = client.map(|client| &client.groups[number]);
            let (table, hashes) = request.blocks_and_hashes(number);
            let blocks = match progress {
                Some(progress) if group.forgets_places() => &progress.blocks[..],
                _ => table,
            };
            let end = (tokens / group.tokens).min(blocks.len() as u32 / per_chunk);
            let offered = progress.map_or(0, |progress| progress.offered).min(end);
            let first = self.groups.first_looked_at(number, offered, end, its);
            let keys = (first..end).map(|chunk| self.groups.key(number, chunk, hashes)).collect();
            let blocks = blocks[(first * per_chunk) as usize..(end * per_chunk) as usize].to_vec();
            GroupOffer { group: number, first, fresh: offered, keys, blocks }
        };
        self.groups.groups.iter().enumerate().map(gather).collect()
    }

    /// Hands those of the chunks over that are not at the host; returns whether there was room.
    fn store(
        &mut self,
        id: RequestId,
        offers: &[GroupOffer],
        its: Boundaries,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) -> bool {
        let worth = self.groups.worth_storing(offers, its);
        if worth.is_empty() {
            return true;
        }
        let mut user = std::mem::take(&mut self.client(id).user);
        let stored = self.cache.store(&worth, &mut user);
        self.client(id).user = user;
        let Some(stored) = stored else { return false };
        if stored.is_empty() {
            return true;
        }
        let mut job = Job::store_of(id);
        let (mut chunks, mut read) = (Vec::with_capacity(stored.len()), Vec::new());
        for (key, position, chunk) in stored {
            let group = &self.groups.groups[key.group as usize];
            let offer = &offers[key.group as usize];
            let blocks = offer.blocks_of(position / group.tokens - 1, self.groups.blocks_per_chunk);
            let blocks = blocks.iter().copied().filter(|&block| block != NULL);
            read.extend(blocks.clone());
            let list = if group.forgets_places() { &mut job.others } else { &mut job.kept };
            list.extend(blocks);
            job.keys.push(key);
            chunks.push(chunk);
        }
        self.start_store(job, chunks, read, copies, log);
        true
    }

    fn start_store(
        &mut self,
        job: Job,
        chunks: Vec<u32>,
        blocks: Vec<BlockId>,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) {
        let number = self.next_job;
        self.next_job += 1;
        self.num_stores += 1;
        self.client(job.request).jobs.push(number);
        note_reads(&mut self.storing, &job.others, number);
        copies.later.push(Handed { job: number, blocks: blocks.len() as u64 });
        log.stores.push(OffloadCopy { job: number, requests: vec![job.request], chunks, blocks });
        self.jobs.insert(number, job);
    }

    /// A request has ended, and is about to lose its blocks.
    pub(super) fn end(&mut self, request: &mut Request) {
        // The KV of its last token was never computed.
        let computed = request.computed.min(request.known().saturating_sub(1));
        let its = Boundaries::of(request, true);
        let offers = self.gather(request, self.storable(request, computed), its);
        let jobs = self.users.get(&request.id).map_or(&[][..], |client| &client.jobs);
        for &number in jobs {
            note_reads(&mut self.storing, &self.jobs[&number].kept, number);
        }
        self.ended.push(Ended { id: request.id, offers, its });
    }

    /// Offers what is left of the requests that have ended, and forgets them. The pass that is decided waits for what it
    /// gives to others.
    pub(super) fn settle_ended(&mut self, copies: &mut Copies, log: &mut Offloaded) {
        let ended = std::mem::take(&mut self.ended);
        let given: FxHashSet<BlockId> =
            if ended.is_empty() { FxHashSet::default() } else { self.given.iter().copied().collect() };
        for Ended { id, offers, its } in &ended {
            self.refused.remove(id);
            let number = self.next_job;
            self.store(*id, offers, *its, copies, log);
            if let Some(job) = self.jobs.get(&number) {
                note_reads(&mut self.storing, &job.kept, number);
                if job.kept.iter().any(|block| given.contains(block)) {
                    log.flushed.push(number);
                }
            }
        }
        // What they used is newer only when all have stored.
        for Ended { id, .. } in ended {
            if let Some(client) = self.users.remove(&id) {
                self.cache.end(&client.user);
            }
        }
        self.given.clear();
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
            for block in job.kept.into_iter().chain(job.others) {
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
        for (group, event) in self.cache.events.drain(..) {
            if self.has_groups {
                log.group_events.push(GroupEvent { group, block_size: 0, tokens: 0, event });
            } else {
                log.events.push(event);
            }
        }
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        let stores = self.jobs.values().filter(|job| !job.loads).count();
        ensure!(stores == self.num_stores, "{stores} stores are under way, {} counted", self.num_stores);
        self.cache.check()
    }
}

impl Boundaries {
    fn of(request: &Request, has_ended: bool) -> Self {
        Self { prompt_tokens: request.prompt_tokens, junction: request.junction(), has_ended }
    }
}

/// A store reads blocks of which the request does not hold back others. Blocks that requests shared may be read by several.
fn note_reads(storing: &mut FxHashMap<BlockId, SmallVec<[u64; 1]>>, blocks: &[BlockId], number: u64) {
    for &block in blocks {
        storing.entry(block).or_default().push(number);
    }
}
