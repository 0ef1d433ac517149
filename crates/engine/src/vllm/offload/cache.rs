//! What the host holds: chunks of KV blocks, under the rules of vLLM's `CPUOffloadingManager`.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::{HashRun, KvEvent, SequenceHash, ensure};

use super::recency::{Place, Recency, User};
use crate::offload_args::KvOffloading;

/// Chunks in the memory of the host.
#[derive(Debug)]
pub(super) struct ChunkCache {
    capacity: u32,
    /// Places that were used at least once, and those of them that are free, the last one first.
    used: u32,
    free: Vec<u32>,
    chunks: FxHashMap<SequenceHash, Chunk>,
    recency: Recency,
    /// How often a chunk is offered until it is stored, and how often those were that are not.
    threshold: u32,
    offers: FxHashMap<SequenceHash, u32>,
    pub(super) evicted_total: u64,
    pub(super) refused_total: u64,
    pub(super) events: Vec<KvEvent>,
}

/// A chunk that is there, or on its way.
#[derive(Debug)]
struct Chunk {
    id: u32,
    /// Loads that read it.
    readers: u32,
    /// Whether its store is done.
    is_ready: bool,
    place: Place,
}

/// What a request finds at the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Chunks(u32),
    /// Some of it is on its way.
    Pending,
}

impl ChunkCache {
    pub(super) fn new(spec: &KvOffloading) -> Self {
        Self {
            capacity: spec.chunks,
            used: 0,
            free: Vec::new(),
            chunks: FxHashMap::default(),
            recency: Recency::new(spec.eviction, spec.chunks),
            threshold: spec.store_threshold,
            offers: FxHashMap::default(),
            evicted_total: 0,
            refused_total: 0,
            events: Vec::new(),
        }
    }

    /// Chunks that are there or on their way.
    pub(super) fn num_used(&self) -> u32 {
        self.used - self.free.len() as u32
    }

    /// How many of the chunks are there, up to the first that is not.
    pub(super) fn find(&self, keys: impl Iterator<Item = SequenceHash>) -> Found {
        let (mut count, mut pending) = (0, false);
        for chunk in keys.map_while(|key| self.chunks.get(&key)) {
            count += 1;
            pending |= !chunk.is_ready;
        }
        if pending { Found::Pending } else { Found::Chunks(count) }
    }

    /// A request offers chunks, each with its position; returns which of them are stored, and where. `None` if there is no
    /// room for all of them that are not there.
    pub(super) fn store(
        &mut self,
        offered: &[(SequenceHash, u32)],
        user: &mut User,
    ) -> Option<Vec<(SequenceHash, u32, u32)>> {
        self.recency.rank(user);
        let mut missing = Vec::new();
        for &(key, position) in offered {
            if !self.chunks.contains_key(&key) && self.is_offered_enough(key) {
                missing.push((key, position));
                self.recency.miss(key, position, user);
            }
        }
        let room = self.capacity - self.num_used();
        let lacking = missing.len().saturating_sub(room as usize);
        if lacking > 0 && !self.evict(lacking, offered) {
            self.refused_total += 1;
            return None;
        }
        for &(key, position) in offered {
            // What is still on its way for another request is that one's.
            if let Some(chunk) = self.chunks.get_mut(&key).filter(|chunk| chunk.is_ready) {
                self.recency.find(key, position, user, &mut chunk.place);
            }
        }
        let mut stored = Vec::with_capacity(missing.len());
        for (key, position) in missing {
            let id = self.take();
            let place = self.recency.insert(key, position, user);
            self.chunks.insert(key, Chunk { id, readers: 0, is_ready: false, place });
            self.offers.remove(&key);
            stored.push((key, position, id));
        }
        Some(stored)
    }

    fn is_offered_enough(&mut self, key: SequenceHash) -> bool {
        if self.threshold < 2 {
            return true;
        }
        let offers = self.offers.entry(key).or_default();
        *offers += 1;
        *offers >= self.threshold
    }

    /// New places first, in order; then those that became free, the last one first.
    fn take(&mut self) -> u32 {
        if self.used < self.capacity {
            self.used += 1;
            return self.used - 1;
        }
        self.free.pop().expect("there is room")
    }

    /// Makes room for so many chunks; those that are offered stay.
    fn evict(&mut self, count: usize, offered: &[(SequenceHash, u32)]) -> bool {
        let offered: FxHashSet<SequenceHash> = offered.iter().map(|&(key, _)| key).collect();
        let may_go = |key: SequenceHash| {
            let chunk = &self.chunks[&key];
            chunk.is_ready && chunk.readers == 0 && !offered.contains(&key)
        };
        let Some(victims) = self.recency.victims(count, may_go) else { return false };
        for &key in &victims {
            let chunk = self.chunks.remove(&key).expect("who makes room is there");
            self.recency.evict(key, chunk.place);
            self.free.push(chunk.id);
        }
        self.evicted_total += victims.len() as u64;
        let blocks = victims.into_iter().map(|key| HashRun::up(key, 1)).collect();
        self.events.push(KvEvent::Removed { blocks });
        true
    }

    /// Begins to load chunks, all of which are there; returns their places.
    pub(super) fn load(&mut self, keys: &[(SequenceHash, u32)], user: &mut User) -> Vec<u32> {
        let mut places = Vec::with_capacity(keys.len());
        for &(key, position) in keys {
            let chunk = self.chunks.get_mut(&key).expect("what was found is there");
            chunk.readers += 1;
            self.recency.find(key, position, user, &mut chunk.place);
            places.push(chunk.id);
        }
        places
    }

    /// A load is done.
    pub(super) fn loaded(&mut self, keys: &[SequenceHash]) {
        for key in keys {
            self.chunks.get_mut(key).expect("what is read stays").readers -= 1;
        }
    }

    /// A store is done.
    pub(super) fn stored(&mut self, keys: &[SequenceHash]) {
        for &key in keys {
            self.chunks.get_mut(&key).expect("what is stored stays").is_ready = true;
            self.events.push(KvEvent::Stored { parent: None, blocks: HashRun::up(key, 1).into() });
        }
    }

    /// A request has ended, so that what it used is what was used last.
    pub(super) fn end(&mut self, user: &User) {
        let rank = self.recency.next_rank();
        for used in user.used() {
            if let Some(chunk) = self.chunks.get_mut(&used.key) {
                self.recency.settle(used, rank, chunk.is_ready, &mut chunk.place);
            }
        }
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        let chunks = self.chunks.len();
        ensure!(
            self.used <= self.capacity,
            "{} chunks at the host, which holds {}",
            self.used,
            self.capacity
        );
        let used = self.num_used() as usize;
        ensure!(used == chunks, "{used} places at the host hold {chunks} chunks");
        let listed = self.recency.len();
        ensure!(listed == chunks, "{listed} chunks are listed, {chunks} are there");
        let ids: FxHashSet<u32> = self.chunks.values().map(|chunk| chunk.id).collect();
        ensure!(ids.len() == chunks, "{chunks} chunks share {} places", ids.len());
        Ok(chunks as u64)
    }
}
