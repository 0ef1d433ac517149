//! The scheduler's half of vLLM's `OffloadingConnector` in releases up to 0.15.
//!
//! It differs from the one of 0.33 in what is stored (generated blocks, too, if they are known when they are full: with
//! asynchronous scheduling they never are, and are not offered again), in what makes room (the block that was touched longest
//! ago: a look-up and a store touch all of a request's), and in when a block can be loaded: when its request has ended and
//! nothing of it is on its way any more, or when it was preempted. Until then an ended request keeps its blocks on the GPU, so
//! that no pass ever waits for a store but one that preempts. What is on its way counts as not there.

use rustc_hash::FxHashMap;
use servecast_types::{HashRun, KvEvent, RequestId, SequenceHash, ensure};

use super::copies::{Copies, Handed};
use super::lru::HostLru;
use crate::iteration::{OffloadCopy, Offloaded};
use crate::offload_args::KvOffloading;
use crate::vllm::Request;

/// Blocks at the host, and the requests that store and load them.
#[derive(Debug)]
pub(super) struct Early {
    host: HostLru,
    clients: FxHashMap<RequestId, Client>,
    /// Copies that are not done, by their number.
    jobs: FxHashMap<u64, Job>,
    next_job: u64,
    /// Loads of each block that are not done.
    loading: FxHashMap<SequenceHash, u32>,
    /// Requests that ended since the last decision and keep their blocks, and how many do in all.
    ended: Vec<RequestId>,
    num_ended: usize,
    block_size: u32,
    evicted_total: u64,
    refused_total: u64,
    events: Vec<KvEvent>,
}

/// A request that stores or loads.
#[derive(Debug, Default)]
struct Client {
    /// Blocks, from the first on, that were offered or loaded.
    offered: u32,
    /// Stored blocks that cannot be loaded yet.
    storing: Vec<SequenceHash>,
    /// Its stores that are not done.
    stores: Vec<u64>,
    state: ClientState,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ClientState {
    #[default]
    Lives,
    /// Was given up when it lost its blocks, for whose stores the pass still has to wait.
    GivenUp,
    /// Has ended, which its worker does not know yet.
    Ended,
    /// Has ended, which a pass that has ended as well told its worker.
    Told,
}

#[derive(Debug)]
struct Job {
    request: RequestId,
    loads: bool,
    keys: Vec<SequenceHash>,
}

impl Early {
    pub(super) fn new(spec: &KvOffloading, block_size: u32) -> Self {
        Self {
            host: HostLru::new(spec.chunks),
            clients: FxHashMap::default(),
            jobs: FxHashMap::default(),
            next_job: 0,
            loading: FxHashMap::default(),
            ended: Vec::new(),
            num_ended: 0,
            block_size,
            evicted_total: 0,
            refused_total: 0,
            events: Vec::new(),
        }
    }

    /// Whether a store is not done, or an ended request still has its blocks.
    pub(super) fn has_pending(&self) -> bool {
        self.num_ended > 0 || self.jobs.values().any(|job| !job.loads)
    }

    /// Whether a copy is not done.
    pub(super) fn has_copies(&self) -> bool {
        self.num_ended > 0 || !self.jobs.is_empty()
    }

    /// Tokens of a request behind the first `hit_tokens` that can be loaded; `None` while others load some of them.
    pub(super) fn find(&mut self, request: &mut Request, hit_tokens: u32) -> Option<u32> {
        let (first, end) = (hit_tokens / self.block_size, request.known() / self.block_size);
        let hashes = request.hashes(end);
        self.host.touch((0..end).rev().filter_map(|block| hashes.get(block)));
        let keys = (first..end).map_while(|block| hashes.get(block));
        let mut count = 0;
        for key in keys.take_while(|&key| self.host.is_ready(key)) {
            if self.loading.contains_key(&key) {
                return None;
            }
            count += 1;
        }
        Some(count * self.block_size)
    }

    /// Begins to load what was found of a request, up to `up_to` tokens, into blocks behind the first `hit_blocks`.
    pub(super) fn load(
        &mut self,
        request: &mut Request,
        hit_blocks: u32,
        up_to: u32,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) {
        let end = up_to / self.block_size;
        let hashes = request.hashes(end);
        let keys: Vec<SequenceHash> = (hit_blocks..end).map_while(|block| hashes.get(block)).collect();
        let chunks = keys.iter().map(|&key| self.host.begin_load(key)).collect();
        for &key in &keys {
            *self.loading.entry(key).or_default() += 1;
        }
        self.clients.entry(request.id).or_default().offered = end;
        let blocks = request.blocks[hit_blocks as usize..end as usize].to_vec();
        let job = self.number(request.id, true, keys);
        copies.loads.push(Handed { job, blocks: blocks.len() as u64 });
        log.loads.push(OffloadCopy { job, requests: vec![request.id], chunks, blocks });
    }

    fn number(&mut self, request: RequestId, loads: bool, keys: Vec<SequenceHash>) -> u64 {
        let job = self.next_job;
        self.next_job += 1;
        self.jobs.insert(job, Job { request, loads, keys });
        job
    }

    /// A request of the pass that is decided, after which the first `computed` of its tokens are computed, offers blocks.
    pub(super) fn offer(
        &mut self,
        request: &mut Request,
        computed: u32,
        copies: &mut Copies,
        log: &mut Offloaded,
    ) {
        let end = computed / self.block_size;
        let client = self.clients.entry(request.id).or_default();
        let first = client.offered;
        if first >= end {
            return;
        }
        // A block whose last token is in flight has no identity yet, and its turn passes.
        let known = end.min(request.known() / self.block_size);
        let id = request.id;
        let (blocks, hashes) = request.hashed_blocks(known);
        let missing: Vec<(u32, SequenceHash)> = (first..known)
            .map_while(|block| Some((block, hashes.get(block)?)))
            .filter(|&(_, key)| !self.host.contains(key))
            .collect();
        let Some(evicted) = self.host.make_room(missing.len()) else {
            self.refused_total += 1;
            return;
        };
        if !evicted.is_empty() {
            self.evicted_total += evicted.len() as u64;
            let blocks = evicted.into_iter().map(|key| HashRun::up(key, 1)).collect();
            self.events.push(KvEvent::Removed { blocks });
        }
        client.offered = end;
        if missing.is_empty() {
            return;
        }
        let chunks = missing.iter().map(|&(_, key)| self.host.insert(key)).collect();
        let keys: Vec<SequenceHash> = missing.iter().map(|&(_, key)| key).collect();
        let read: Vec<_> = missing.iter().map(|&(block, _)| blocks[block as usize]).collect();
        self.host.touch((0..known).rev().filter_map(|block| hashes.get(block)));
        client.storing.extend_from_slice(&keys);
        let job = self.number(id, false, keys);
        if let Some(client) = self.clients.get_mut(&id) {
            client.stores.push(job);
        }
        copies.later.push(Handed { job, blocks: read.len() as u64 });
        log.stores.push(OffloadCopy { job, requests: vec![id], chunks, blocks: read });
    }

    /// A request has ended; returns whether it keeps its blocks until its stores are done.
    pub(super) fn end(&mut self, id: RequestId) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        if client.storing.is_empty() {
            self.clients.remove(&id);
            return false;
        }
        client.state = ClientState::Ended;
        self.ended.push(id);
        self.num_ended += 1;
        true
    }

    /// A request that waits is given up.
    pub(super) fn give_up(&mut self, id: RequestId) {
        match self.clients.get_mut(&id) {
            Some(client) if !client.storing.is_empty() => client.state = ClientState::GivenUp,
            _ => drop(self.clients.remove(&id)),
        }
    }

    /// The pass that is decided tells its worker who has ended.
    pub(super) fn tell_ended(&mut self, log: &mut Offloaded) {
        log.ended.append(&mut self.ended);
    }

    /// A pass waits for the stores of requests that lose their blocks, which can be loaded from then on.
    pub(super) fn flush_requests(&mut self, preempted: &[RequestId], log: &mut Offloaded) {
        for id in preempted {
            let Some(client) = self.clients.get_mut(id) else { continue };
            log.flushed.extend(&client.stores);
            let stored = std::mem::take(&mut client.storing);
            if client.state == ClientState::GivenUp {
                self.clients.remove(id);
            }
            self.make_ready(&stored);
        }
        log.flushed.sort_unstable();
    }

    fn make_ready(&mut self, keys: &[SequenceHash]) {
        for &key in keys {
            self.host.make_ready(key);
            self.events.push(KvEvent::Stored { parent: None, blocks: HashRun::up(key, 1).into() });
        }
    }

    /// A copy is done; returns the request that waited for it.
    pub(super) fn done(&mut self, number: u64) -> Option<RequestId> {
        let job = self.jobs.remove(&number).expect("a copy is done once");
        if !job.loads {
            if let Some(client) = self.clients.get_mut(&job.request) {
                client.stores.retain(|&other| other != number);
            }
            return None;
        }
        for key in job.keys {
            self.host.end_load(key);
            let loads = self.loading.get_mut(&key).expect("it was being loaded");
            *loads -= 1;
            if *loads == 0 {
                self.loading.remove(&key);
            }
        }
        Some(job.request)
    }

    /// Those that have ended, which a pass that ends told, and whose stores are done: they lose their blocks.
    pub(super) fn settle_ended(&mut self, told: &[RequestId]) -> Vec<RequestId> {
        if self.num_ended == 0 {
            return Vec::new();
        }
        for id in told {
            if let Some(client) = self.clients.get_mut(id) {
                client.state = ClientState::Told;
            }
        }
        let is_over = |client: &Client| client.state == ClientState::Told && client.stores.is_empty();
        let mut over: Vec<RequestId> =
            self.clients.iter().filter(|(_, client)| is_over(client)).map(|(&id, _)| id).collect();
        over.sort_unstable();
        for id in &over {
            let client = self.clients.remove(id).expect("it was found");
            self.num_ended -= 1;
            self.make_ready(&client.storing);
        }
        over
    }

    /// Says what changed at the host.
    pub(super) fn report(&mut self, log: &mut Offloaded) {
        log.chunks_used = self.host.len();
        (log.evicted_total, log.refused_total) = (self.evicted_total, self.refused_total);
        log.events.append(&mut self.events);
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        let keeps = |client: &&Client| matches!(client.state, ClientState::Ended | ClientState::Told);
        let ended = self.clients.values().filter(keeps).count();
        ensure!(
            ended == self.num_ended,
            "{ended} ended requests keep their blocks, {} counted",
            self.num_ended
        );
        self.host.check()
    }
}
