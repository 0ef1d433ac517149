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
    chunks: FxHashMap<ChunkKey, Chunk>,
    recency: Recency,
    /// How often a chunk is offered until it is stored, and how often each was while it was not there.
    threshold: u32,
    offers: FxHashMap<ChunkKey, u32>,
    pub(super) evicted_total: u64,
    pub(super) refused_total: u64,
    /// What changed, and in which group of layers.
    pub(super) events: Vec<(u32, KvEvent)>,
}

/// What a chunk holds: a part of a prefix, of a group of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChunkKey {
    /// Of the prefix that ends with it.
    pub(super) hash: SequenceHash,
    pub(super) group: u32,
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

    /// Whether a chunk is there and can be loaded; `None` if it is not there.
    pub(super) fn is_ready(&self, key: ChunkKey) -> Option<bool> {
        self.chunks.get(&key).map(|chunk| chunk.is_ready)
    }

    /// A request offers chunks, each with its position, the tokens up to its end; returns which of them are stored, and where.
    /// `None` if there is no room for all of them that are not there.
    pub(super) fn store(
        &mut self,
        offered: &[(ChunkKey, u32)],
        user: &mut User,
    ) -> Option<Vec<(ChunkKey, u32, u32)>> {
        let mut missing = Vec::new();
        for &(key, position) in offered {
            if !self.chunks.contains_key(&key) && self.is_offered_enough(key) {
                missing.push((key, position));
            }
        }
        self.recency.miss(missing.iter().map(|&(key, _)| key), user);
        // All of it counts as seen, be the offer refused or not.
        for &(key, position) in &missing {
            self.recency.want(key, position, user);
        }
        for &(key, position) in offered {
            // What is still on its way for another request is that one's.
            if let Some(chunk) = self.chunks.get_mut(&key).filter(|chunk| chunk.is_ready) {
                self.recency.find(key, position, user, &mut chunk.place);
            }
        }
        let room = self.capacity - self.num_used();
        let lacking = missing.len().saturating_sub(room as usize);
        if lacking > 0 && !self.evict(lacking, offered) {
            self.refused_total += 1;
            return None;
        }
        let mut stored = Vec::with_capacity(missing.len());
        for (key, position) in missing {
            let id = self.take();
            let place = self.recency.insert(key, position, user);
            self.chunks.insert(key, Chunk { id, readers: 0, is_ready: false, place });
            stored.push((key, position, id));
        }
        Some(stored)
    }

    fn is_offered_enough(&mut self, key: ChunkKey) -> bool {
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
    fn evict(&mut self, count: usize, offered: &[(ChunkKey, u32)]) -> bool {
        let offered: FxHashSet<ChunkKey> = offered.iter().map(|&(key, _)| key).collect();
        let may_go = |key: ChunkKey| {
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
        let mut groups: Vec<u32> = Vec::new();
        for key in &victims {
            if !groups.contains(&key.group) {
                groups.push(key.group);
            }
        }
        for group in groups {
            let of_group = victims.iter().filter(|key| key.group == group);
            let blocks = of_group.map(|key| HashRun::up(key.hash, 1)).collect();
            self.events.push((group, KvEvent::Removed { blocks }));
        }
        true
    }

    /// Begins to load chunks, all of which are there; returns their places.
    pub(super) fn load(&mut self, keys: &[(ChunkKey, u32)], user: &mut User) -> Vec<u32> {
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
    pub(super) fn loaded(&mut self, keys: &[ChunkKey]) {
        for key in keys {
            self.chunks.get_mut(key).expect("what is read stays").readers -= 1;
        }
    }

    /// A store is done.
    pub(super) fn stored(&mut self, keys: &[ChunkKey]) {
        for &key in keys {
            self.chunks.get_mut(&key).expect("what is stored stays").is_ready = true;
            let event = KvEvent::Stored { parent: None, blocks: HashRun::up(key.hash, 1).into() };
            self.events.push((key.group, event));
        }
    }

    /// A request has ended, so that what it used is what was used last.
    pub(super) fn end(&mut self, user: &User) {
        let rank = self.recency.next_rank();
        for used in user.used() {
            if let Some(chunk) = self.chunks.get_mut(&used.key) {
                self.recency.settle(used, rank, &mut chunk.place);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::EngineArgs;

    fn host(chunks: u32, store_threshold: u32) -> ChunkCache {
        let size = f64::from(chunks * 4096) / f64::from(1 << 30);
        let settings = json!({
            "block_size": 4, "kv_bytes_per_token": 1024, "kv_offloading_size": size,
            "kv_offloading": {"store_threshold": store_threshold},
        });
        let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
        ChunkCache::new(&config.offload.unwrap())
    }

    fn key(number: u64) -> ChunkKey {
        ChunkKey { hash: SequenceHash(number), group: 0 }
    }

    /// A request offers chunks, the number of each being its identity; returns those that are stored, which are there then.
    fn offer(host: &mut ChunkCache, user: &mut User, numbers: &[u64]) -> Option<Vec<u64>> {
        let offered: Vec<_> = (0..).zip(numbers).map(|(at, &number)| (key(number), at)).collect();
        let stored: Vec<_> = host.store(&offered, user)?.into_iter().map(|(key, ..)| key).collect();
        host.stored(&stored);
        Some(stored.into_iter().map(|key| key.hash.0).collect())
    }

    fn holds(host: &ChunkCache, numbers: &[u64]) -> bool {
        host.chunks.len() == numbers.len()
            && numbers.iter().all(|&number| host.chunks.contains_key(&key(number)))
    }

    #[test]
    fn an_offer_that_is_refused_counts_as_a_use() {
        let mut host = host(2, 0);
        let mut first = User::default();
        offer(&mut host, &mut first, &[1, 2]);
        host.end(&first);
        assert_eq!(
            offer(&mut host, &mut User::default(), &[2, 3, 4]),
            None,
            "2 is offered, so that it stays"
        );
        // The tail of the request that has ended would go first, but for that.
        assert_eq!(offer(&mut host, &mut User::default(), &[5]), Some(vec![5]));
        assert!(holds(&host, &[2, 5]));
        assert_eq!(host.check(), Ok(2));
    }

    #[test]
    fn a_chunk_that_a_request_could_not_store_does_not_become_newer_when_another_has_stored_it() {
        let mut host = host(2, 0);
        let (mut first, mut second, mut third) = (User::default(), User::default(), User::default());
        offer(&mut host, &mut first, &[1]);
        offer(&mut host, &mut second, &[2]);
        assert_eq!(offer(&mut host, &mut third, &[1, 2, 3]), None);
        // Another one makes room for 3 in place of 1, which the third has seen last.
        host.end(&first);
        host.end(&second);
        offer(&mut host, &mut User::default(), &[3]);
        assert!(holds(&host, &[2, 3]));
        offer(&mut host, &mut third, &[3]);
        offer(&mut host, &mut User::default(), &[4]);
        assert!(holds(&host, &[3, 4]));
        // At its end, what it has seen is what was used last.
        host.end(&third);
        offer(&mut host, &mut User::default(), &[5]);
        assert!(holds(&host, &[3, 5]));
    }

    #[test]
    fn a_use_by_an_earlier_request_makes_no_chunk_older() {
        let mut host = host(2, 0);
        let (mut early, mut late) = (User::default(), User::default());
        offer(&mut host, &mut early, &[1]);
        offer(&mut host, &mut late, &[2]);
        host.end(&late);
        offer(&mut host, &mut early, &[1, 2]);
        offer(&mut host, &mut User::default(), &[3]);
        assert!(holds(&host, &[2, 3]));
    }

    #[test]
    fn a_chunk_that_was_offered_often_enough_is_stored_at_once_ever_after() {
        let mut host = host(1, 2);
        let mut offered = |number| offer(&mut host, &mut User::default(), &[number]).unwrap().len();
        assert_eq!([1, 1, 2, 2, 1, 3].map(&mut offered), [0, 1, 0, 1, 1, 0]);
    }
}
