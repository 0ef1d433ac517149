//! In which order chunks in the memory of the host make room: vLLM's policies `lru` and `arc`.
//!
//! Both go by requests: when one ends, all chunks that it stored, loaded or found get a new rank, later positions in front of
//! earlier ones, so that it is the tail of the request that ended first that goes first. Until then, they have a rank of their
//! own under `lru`, and are in the order in which they were stored under `arc`. Chunks of several groups of layers that end at
//! one position follow each other: as the groups do until the request ends, and the other way round from then on.

use std::collections::BTreeMap;

use crate::offload_args::OffloadEviction;
use rustc_hash::{FxHashMap, FxHashSet};

use super::cache::ChunkKey;

/// What a request did with chunks.
#[derive(Debug, Default)]
pub(super) struct User {
    rank: Option<u64>,
    /// Chunks that it stored, would have stored, loaded or found there, in the order in which it came across them.
    used: Vec<Use>,
    /// The place in `used` of each.
    seen: FxHashMap<ChunkKey, usize>,
    /// Chunks that it missed, of which `arc` takes each into account once.
    missed: FxHashSet<ChunkKey>,
}

/// A chunk that a request came across.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    pub(super) key: ChunkKey,
    /// Tokens up to its end.
    position: u32,
    /// Whether it was there before the request stored it, if it ever did.
    was_there: bool,
    is_stored: bool,
}

/// Where a chunk stands: in which list, and where in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    list: usize,
    at: At,
}

/// Where a chunk stands in a list: by rank, from the tail on, then by group.
type At = (u64, u32, u32);

fn at(rank: u64, position: u32, group: u32) -> At {
    (rank, u32::MAX - position, group)
}

/// The order of the chunks.
#[derive(Debug)]
pub(super) struct Recency {
    /// Chunks that were used once, and again, which `lru` does not tell apart; each by rank, and from the tail on.
    lists: [BTreeMap<At, ChunkKey>; 2],
    next_rank: u64,
    adaptive: Option<Adaptive>,
}

/// What `arc` has beside.
#[derive(Debug)]
struct Adaptive {
    capacity: usize,
    /// How many chunks of the first list are left alone.
    target: f64,
    /// What was evicted from either list, oldest first.
    ghosts: [Ghosts; 2],
}

#[derive(Debug, Default)]
struct Ghosts {
    order: BTreeMap<u64, ChunkKey>,
    numbers: FxHashMap<ChunkKey, u64>,
    next: u64,
}

impl User {
    /// It comes across a chunk; returns whether for the first time.
    fn sees(&mut self, key: ChunkKey, position: u32) -> bool {
        let place = self.used.len();
        let is_new = *self.seen.entry(key).or_insert(place) == place;
        if is_new {
            self.used.push(Use { key, position, was_there: false, is_stored: false });
        }
        is_new
    }

    /// It found a chunk there. One that it had stored itself does not count.
    fn finds(&mut self, key: ChunkKey) {
        let used = &mut self.used[self.seen[&key]];
        used.was_there |= !used.is_stored;
    }

    /// What it came across, in order.
    pub(super) fn used(&self) -> impl Iterator<Item = &Use> {
        self.used.iter()
    }
}

impl Recency {
    pub(super) fn new(eviction: OffloadEviction, capacity: u32) -> Self {
        let adaptive = (eviction == OffloadEviction::Arc).then(|| Adaptive {
            capacity: capacity as usize,
            target: 0.0,
            ghosts: Default::default(),
        });
        Self { lists: Default::default(), next_rank: 0, adaptive }
    }

    /// The rank of a request that uses the host, from the first time on that it does.
    pub(super) fn rank(&mut self, user: &mut User) -> u64 {
        let rank = user.rank.unwrap_or_else(|| self.next_rank());
        user.rank = Some(rank);
        rank
    }

    /// A chunk that a request stores, which it has come across.
    pub(super) fn insert(&mut self, key: ChunkKey, position: u32, user: &mut User) -> Place {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.ghosts.iter_mut().for_each(|ghosts| ghosts.remove(key));
        }
        user.sees(key, position);
        user.used[user.seen[&key]].is_stored = true;
        let at = match self.adaptive {
            None => at(self.rank(user), position, key.group),
            Some(_) => (self.next_rank(), 0, 0),
        };
        let place = Place { list: 0, at };
        self.lists[0].insert(place.at, key);
        place
    }

    /// A request comes across a chunk that it would store, be there room for it or not.
    pub(super) fn want(&mut self, key: ChunkKey, position: u32, user: &mut User) {
        if user.sees(key, position) && self.adaptive.is_none() {
            self.rank(user);
        }
    }

    /// A request finds a chunk there, which it loads or would have stored.
    pub(super) fn find(&mut self, key: ChunkKey, position: u32, user: &mut User, place: &mut Place) {
        // Only the first time makes it newer, and one that a later request used stays where that put it.
        if user.sees(key, position) && self.adaptive.is_none() {
            let at = at(self.rank(user), position, key.group).max(place.at);
            self.move_to(key, Place { list: 0, at }, place);
        }
        user.finds(key);
    }

    /// A request would store chunks that are not there, in order.
    pub(super) fn miss(&mut self, keys: impl DoubleEndedIterator<Item = ChunkKey>, user: &mut User) {
        let Some(adaptive) = &mut self.adaptive else { return };
        for key in keys.rev().filter(|&key| user.missed.insert(key)) {
            adaptive.miss(key);
        }
    }

    /// A rank behind all others.
    pub(super) fn next_rank(&mut self) -> u64 {
        self.next_rank += 1;
        self.next_rank
    }

    /// A request has ended that came across a chunk, which gets a new rank; `arc` tells apart what it found, and leaves alone
    /// what it would have stored.
    pub(super) fn settle(&mut self, used: &Use, rank: u64, place: &mut Place) {
        let list = match self.adaptive {
            None => place.list,
            Some(_) if used.was_there => 1,
            Some(_) if used.is_stored => place.list,
            Some(_) => return,
        };
        let at = at(rank, used.position, u32::MAX - used.key.group);
        self.move_to(used.key, Place { list, at }, place);
    }

    fn move_to(&mut self, key: ChunkKey, to: Place, place: &mut Place) {
        self.lists[place.list].remove(&place.at);
        self.lists[to.list].insert(to.at, key);
        *place = to;
    }

    /// The first `count` chunks to make room among those that may; `None` if there are too few.
    pub(super) fn victims(&self, count: usize, may_go: impl Fn(ChunkKey) -> bool) -> Option<Vec<ChunkKey>> {
        let mut lists =
            self.lists.each_ref().map(|list| list.values().copied().filter(|&key| may_go(key)).peekable());
        let mut first = self.lists[0].len();
        let target = self.adaptive.as_ref().map_or(0, |adaptive| adaptive.target as usize);
        let mut victims = Vec::with_capacity(count);
        while victims.len() < count {
            let [once, again] = &mut lists;
            let prefers_once = first >= target.max(1);
            let from_once = once.peek().is_some() && (prefers_once || again.peek().is_none());
            first -= usize::from(from_once);
            victims.push(if from_once { once.next()? } else { again.next()? });
        }
        Some(victims)
    }

    /// A chunk makes room.
    pub(super) fn evict(&mut self, key: ChunkKey, place: Place) {
        self.lists[place.list].remove(&place.at);
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.ghosts[place.list].add(key, adaptive.capacity);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lists.iter().map(BTreeMap::len).sum()
    }
}

impl Adaptive {
    /// What was evicted too soon moves the border between the lists, and is remembered longer.
    fn miss(&mut self, key: ChunkKey) {
        let [once, again] = self.ghosts.each_ref().map(|ghosts| ghosts.order.len() as f64);
        if self.ghosts[0].numbers.contains_key(&key) {
            self.target = (self.target + (again / once).max(1.0)).min(self.capacity as f64);
            self.ghosts[0].renew(key);
        } else if self.ghosts[1].numbers.contains_key(&key) {
            self.target = (self.target - (once / again).max(1.0)).max(0.0);
            self.ghosts[1].renew(key);
        }
    }
}

impl Ghosts {
    /// A chunk is the newest of them.
    fn renew(&mut self, key: ChunkKey) {
        self.remove(key);
        self.next += 1;
        self.order.insert(self.next, key);
        self.numbers.insert(key, self.next);
    }

    fn add(&mut self, key: ChunkKey, most: usize) {
        self.renew(key);
        if self.order.len() > most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.numbers.remove(&oldest);
        }
    }

    fn remove(&mut self, key: ChunkKey) {
        if let Some(number) = self.numbers.remove(&key) {
            self.order.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::SequenceHash;

    use super::*;

    fn key(number: u64) -> ChunkKey {
        ChunkKey { hash: SequenceHash(number), group: 0 }
    }

    /// The policy `arc`, after a request has stored chunks 1 to 3, the first two of which have made room.
    fn with_two_ghosts() -> Recency {
        let mut recency = Recency::new(OffloadEviction::Arc, 4);
        let mut user = User::default();
        let places = [1, 2, 3].map(|number| recency.insert(key(number), number as u32, &mut user));
        recency.evict(key(1), places[0]);
        recency.evict(key(2), places[1]);
        recency
    }

    fn target_and_ghosts(recency: &Recency) -> (f64, Vec<u64>) {
        let adaptive = recency.adaptive.as_ref().unwrap();
        (adaptive.target, adaptive.ghosts[0].order.values().map(|key| key.hash.0).collect())
    }

    #[test]
    fn a_request_misses_a_chunk_once_and_renews_what_is_remembered_of_it_tail_first() {
        let mut recency = with_two_ghosts();
        assert_eq!(target_and_ghosts(&recency), (0.0, vec![1, 2]));
        let (mut one, mut other) = (User::default(), User::default());
        recency.miss([key(1), key(2), key(4)].into_iter(), &mut one);
        assert_eq!(target_and_ghosts(&recency), (2.0, vec![2, 1]));
        recency.miss([key(1), key(2), key(4)].into_iter(), &mut one);
        assert_eq!(target_and_ghosts(&recency), (2.0, vec![2, 1]));
        // Another one, or one that it did not miss before, counts.
        recency.miss([key(2)].into_iter(), &mut other);
        assert_eq!(target_and_ghosts(&recency), (3.0, vec![1, 2]));
    }

    #[test]
    fn what_a_request_stored_itself_is_not_used_again_when_it_finds_it() {
        let mut recency = Recency::new(OffloadEviction::Arc, 4);
        let (mut one, mut other) = (User::default(), User::default());
        let mut place = recency.insert(key(1), 0, &mut one);
        recency.find(key(1), 0, &mut one, &mut place);
        let settle = |recency: &mut Recency, user: &User, place: &mut Place| {
            let rank = recency.next_rank();
            user.used().for_each(|used| recency.settle(used, rank, place));
            place.list
        };
        assert_eq!(settle(&mut recency, &one, &mut place), 0);
        recency.find(key(1), 0, &mut other, &mut place);
        assert_eq!(settle(&mut recency, &other, &mut place), 1);
    }

    #[test]
    fn what_a_request_would_have_stored_has_its_rank_only_at_its_end_and_under_lru() {
        let ranks = |eviction| {
            let mut recency = Recency::new(eviction, 4);
            let (mut one, mut other, mut late) = (User::default(), User::default(), User::default());
            recency.want(key(1), 0, &mut one);
            let mut place = recency.insert(key(1), 0, &mut other);
            let _ = recency.insert(key(2), 0, &mut late);
            // It is there when it is offered again, but has been seen.
            let first = place;
            recency.find(key(1), 0, &mut late, &mut place);
            let by_late = place;
            recency.want(key(1), 0, &mut one);
            assert_eq!(place, by_late);
            let rank = recency.next_rank();
            one.used().for_each(|used| recency.settle(used, rank, &mut place));
            (first != by_late, place != by_late)
        };
        assert_eq!(ranks(OffloadEviction::Lru), (true, true));
        assert_eq!(ranks(OffloadEviction::Arc), (false, false));
    }
}
