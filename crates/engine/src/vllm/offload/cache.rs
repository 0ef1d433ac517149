//! What the host holds: chunks of KV blocks, under the rules of vLLM's `CPUOffloadingManager`.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::{HashRun, HashRuns, KvEvent, SequenceHash, ensure};
use smallvec::SmallVec;

use super::recency::{Offered, Place, Recency, User};
use crate::offload_args::KvOffloading;
use crate::vllm::contents::{Contents, NONE, Prefix};

/// Chunks in the memory of the host.
#[derive(Debug)]
pub(super) struct ChunkCache {
    capacity: u32,
    /// Places that were used at least once, and those of them that are free, the last one first.
    used: u32,
    free: Vec<u32>,
    /// The number of each chunk that is there, on its way, or that a request came across; and those chunks.
    numbers: Contents,
    chunks: Vec<Chunk>,
    /// Numbers that stand for no chunk.
    free_numbers: Vec<u32>,
    recency: Recency,
    /// How often a chunk is offered until it is stored, and how often each was while it was not there.
    threshold: u32,
    offers: FxHashMap<ChunkKey, u32>,
    num_offers: u64,
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

#[derive(Debug, Clone, Copy)]
struct Chunk {
    key: ChunkKey,
    /// Requests that came across it and have not ended.
    users: u32,
    /// The last offer that it was part of.
    offer: u64,
    held: Option<Held>,
}

/// Of a chunk that is there, or on its way.
#[derive(Debug, Clone, Copy)]
struct Held {
    id: u32,
    /// Loads that read it.
    readers: u32,
    /// Whether its store is done.
    is_ready: bool,
    place: Place,
}

impl ChunkCache {
    /// One that is empty, for chunks of so many groups of layers.
    pub(super) fn new(spec: &KvOffloading, groups: usize) -> Self {
        Self {
            capacity: spec.chunks,
            used: 0,
            free: Vec::new(),
            numbers: Contents::new(groups),
            chunks: Vec::new(),
            free_numbers: Vec::new(),
            recency: Recency::new(spec.eviction, spec.chunks),
            threshold: spec.store_threshold,
            offers: FxHashMap::default(),
            num_offers: 0,
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
        let (number, _) = self.number(key, None)?;
        self.chunks[number as usize].held.map(|held| held.is_ready)
    }

    /// A request offers chunks, each with its position, the tokens up to its end; returns which of them are stored, and where.
    /// `None` if there is no room for all of them that are not there.
    pub(super) fn store(
        &mut self,
        offered: &[(ChunkKey, u32)],
        user: &mut User,
    ) -> Option<Vec<(ChunkKey, u32, u32)>> {
        self.num_offers += 1;
        let (mut missing, mut there, mut near) = (Vec::new(), Vec::new(), None);
        for &(key, position) in offered {
            let known = self.number(key, near);
            let is_there = known.is_some_and(|(number, _)| self.chunks[number as usize].held.is_some());
            if !is_there && !self.is_offered_enough(key) {
                continue;
            }
            let (number, place) = known.unwrap_or_else(|| self.take_number(key, near));
            near = Some(place);
            let list = if is_there { &mut there } else { &mut missing };
            list.push(Offered { number, key, position });
        }
        self.recency.miss(&missing, user);
        // All of it counts as seen, be the offer refused or not.
        for &chunk in &missing {
            let is_new = self.recency.want(chunk, user);
            self.chunks[chunk.number as usize].users += u32::from(is_new);
        }
        for &offered in &there {
            let chunk = &mut self.chunks[offered.number as usize];
            chunk.offer = self.num_offers;
            // What is still on its way for another request is that one's.
            if let Some(held) = chunk.held.filter(|held| held.is_ready) {
                chunk.users += u32::from(self.recency.find(offered, user, held.place));
            }
        }
        let room = self.capacity - self.num_used();
        let lacking = missing.len().saturating_sub(room as usize);
        if lacking > 0 && !self.evict(lacking) {
            self.refused_total += 1;
            return None;
        }
        let mut stored = Vec::with_capacity(missing.len());
        for chunk in missing {
            let id = self.take();
            let place = self.recency.insert(chunk, user);
            self.chunks[chunk.number as usize].held = Some(Held { id, readers: 0, is_ready: false, place });
            stored.push((chunk.key, chunk.position, id));
        }
        Some(stored)
    }

    /// The number of a chunk, if it has one, and where that is found; `near` is where that of another is, maybe of its sequence.
    fn number(&self, key: ChunkKey, near: Option<Prefix>) -> Option<(u32, Prefix)> {
        let place = self.numbers.find(key.hash, near)?;
        Some((self.numbers.first(place, key.group), place)).filter(|&(number, _)| number != NONE)
    }

    /// Gives a chunk a number.
    fn take_number(&mut self, key: ChunkKey, near: Option<Prefix>) -> (u32, Prefix) {
        let chunk = Chunk { key, users: 0, offer: 0, held: None };
        let number = self.free_numbers.pop().unwrap_or(self.chunks.len() as u32);
        match self.chunks.get_mut(number as usize) {
            Some(free) => *free = chunk,
            None => self.chunks.push(chunk),
        }
        let place = self.numbers.place(key.hash, near);
        self.numbers.set_first(place, key.group, number);
        (number, place)
    }

    /// Takes the number of a chunk back if nobody needs it any more.
    fn drop_unused(&mut self, number: u32) {
        let Chunk { key, users, held, .. } = self.chunks[number as usize];
        if users == 0 && held.is_none() {
            let place = self.numbers.find(key.hash, None).expect("it has a number");
            self.numbers.set_first(place, key.group, NONE);
            self.free_numbers.push(number);
        }
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
    fn evict(&mut self, count: usize) -> bool {
        let may_go = |number: u32| {
            let chunk = &self.chunks[number as usize];
            let is_idle = chunk.held.is_some_and(|held| held.is_ready && held.readers == 0);
            is_idle && chunk.offer != self.num_offers
        };
        let Some(victims) = self.recency.victims(count, may_go) else { return false };
        let mut removed: SmallVec<[(u32, HashRuns); 1]> = SmallVec::new();
        for number in victims {
            let chunk = &mut self.chunks[number as usize];
            let held = chunk.held.take().expect("who makes room is there");
            let group = chunk.key.group;
            let of_group = removed.iter().position(|&(other, _)| other == group).unwrap_or(removed.len());
            if of_group == removed.len() {
                removed.push((group, HashRuns::default()));
            }
            removed[of_group].1.push(chunk.key.hash);
            self.evicted_total += 1;
            self.recency.evict(chunk.key, held.place);
            self.free.push(held.id);
            self.drop_unused(number);
        }
        let events = removed.into_iter().map(|(group, blocks)| (group, KvEvent::Removed { blocks }));
        self.events.extend(events);
        true
    }

    /// Begins to load chunks, all of which are there; returns their places.
    pub(super) fn load(&mut self, keys: &[(ChunkKey, u32)], user: &mut User) -> Vec<u32> {
        let mut places = Vec::with_capacity(keys.len());
        let mut near = None;
        for &(key, position) in keys {
            let (number, place) = self.number(key, near).expect("what was found has a number");
            near = Some(place);
            let chunk = &mut self.chunks[number as usize];
            let held = chunk.held.as_mut().expect("what was found is there");
            held.readers += 1;
            places.push(held.id);
            let is_new = self.recency.find(Offered { number, key, position }, user, held.place);
            chunk.users += u32::from(is_new);
        }
        places
    }

    /// A load is done.
    pub(super) fn loaded(&mut self, keys: &[ChunkKey]) {
        let mut near = None;
        for &key in keys {
            self.held(key, &mut near).readers -= 1;
        }
    }

    /// A store is done.
    pub(super) fn stored(&mut self, keys: &[ChunkKey]) {
        let mut near = None;
        for &key in keys {
            self.held(key, &mut near).is_ready = true;
            let event = KvEvent::Stored { parent: None, blocks: HashRun::up(key.hash, 1).into() };
            self.events.push((key.group, event));
        }
    }

    /// A chunk that is being copied, and so stays; `near` as for its number.
    fn held(&mut self, key: ChunkKey, near: &mut Option<Prefix>) -> &mut Held {
        let (number, place) = self.number(key, *near).expect("what is copied has a number");
        *near = Some(place);
        self.chunks[number as usize].held.as_mut().expect("what is copied stays")
    }

    /// A request has ended, so that what it used is what was used last.
    pub(super) fn end(&mut self, user: &User) {
        let place = |number: u32| self.chunks[number as usize].held.map(|held| held.place);
        self.recency.settle(user, place);
        for used in user.used() {
            self.chunks[used.number as usize].users -= 1;
            self.drop_unused(used.number);
        }
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        ensure!(
            self.used <= self.capacity,
            "{} chunks at the host, which holds {}",
            self.used,
            self.capacity
        );
        let known = self.numbers.iter().map(|(.., number)| &self.chunks[number as usize]);
        let ids: Vec<u32> = known.filter_map(|chunk| chunk.held).map(|held| held.id).collect();
        let chunks = ids.len();
        let used = self.num_used() as usize;
        ensure!(used == chunks, "{used} places at the host hold {chunks} chunks");
        let listed = self.recency.len();
        ensure!(listed == chunks, "{listed} chunks are listed, {chunks} are there");
        let places = ids.into_iter().collect::<FxHashSet<u32>>().len();
        ensure!(places == chunks, "{chunks} chunks share {places} places");
        let numbers = self.numbers.len() as usize + self.free_numbers.len();
        ensure!(
            numbers == self.chunks.len(),
            "{numbers} of {} chunks are known or forgotten",
            self.chunks.len()
        );
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
        ChunkCache::new(&config.offload.unwrap(), 1)
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
        let is_held = |&number: &u64| host.is_ready(key(number)) == Some(true);
        host.num_used() as usize == numbers.len() && numbers.iter().all(is_held)
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
