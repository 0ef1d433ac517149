//! In which order chunks in the memory of the host make room: vLLM's policies `lru` and `arc`.
//!
//! Both go by requests: when one ends, all chunks that it stored, loaded or found get a new rank, later positions in front of
//! earlier ones, so that it is the tail of the request that ended first that goes first. Until then, they have a rank of their
//! own under `lru`, and are in the order in which they were stored under `arc`. Chunks of several groups of layers that end at
//! one position follow each other: as the groups do until the request ends, and the other way round from then on.
//!
//! Chunks are known by numbers, and are in lists. A rank to which chunks come one by one begins with a mark: as they come in
//! the order of their positions, group by group, most have their place beside the one before.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::cache::ChunkKey;
use crate::offload_args::OffloadEviction;

/// Stands for nothing.
const NONE: u32 = u32::MAX;

/// What a request did with chunks.
#[derive(Debug, Default)]
pub(super) struct User {
    rank: Option<Rank>,
    /// Chunks that it stored, would have stored, loaded or found there, in the order in which it came across them.
    used: Vec<Use>,
    /// The place in `used` of each, by its number.
    seen: FxHashMap<u32, u32>,
    /// Chunks that it missed, of which `arc` takes each into account once.
    missed: FxHashSet<u32>,
}

/// A chunk that a request came across.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    pub(super) number: u32,
    /// Tokens up to its end.
    position: u32,
    group: u32,
    /// Whether it was there before the request stored it, if it ever did.
    was_there: bool,
    is_stored: bool,
}

/// A chunk of a request: its number, and where in the sequence it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offered {
    pub(super) number: u32,
    pub(super) key: ChunkKey,
    pub(super) position: u32,
}

/// A rank to which chunks come one by one.
#[derive(Debug, Clone, Copy)]
struct Rank {
    number: u64,
    /// Its mark, and the chunk that came last, if that is still there.
    mark: u32,
    last: u32,
}

/// Where a chunk stands in a list: by rank, from the tail of the request on, then by group; marks are in front.
type At = (u64, u32, u32);

fn from_tail(rank: u64, position: u32, group: u32) -> At {
    (rank, u32::MAX - position, group)
}

/// Where a chunk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// The order of the chunks.
#[derive(Debug)]
pub(super) struct Recency {
    /// Of chunks and marks; the first ones are the ends of lists.
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Chunks that were used once, and again, which `lru` does not tell apart.
    lens: [usize; 2],
    next_rank: u64,
    adaptive: Option<Adaptive>,
}

/// A chunk in a list, or a mark.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// The number of the chunk; none of a mark.
    chunk: u32,
    list: u32,
    at: At,
    previous: u32,
    next: u32,
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
    /// It comes across a chunk; returns what it did with it, and whether this is the first time.
    fn sees(&mut self, Offered { number, position, key }: Offered) -> (&mut Use, bool) {
        let new = self.used.len() as u32;
        let place = *self.seen.entry(number).or_insert(new);
        if place == new {
            self.used.push(Use { number, position, group: key.group, was_there: false, is_stored: false });
        }
        (&mut self.used[place as usize], place == new)
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
        let ends = |list| Node { chunk: NONE, list, at: (0, 0, 0), previous: list, next: list };
        Self { nodes: [0, 1].map(ends).to_vec(), free: Vec::new(), lens: [0; 2], next_rank: 0, adaptive }
    }

    /// A rank behind all others.
    fn next_rank(&mut self) -> u64 {
        self.next_rank += 1;
        self.next_rank
    }

    /// Puts the mark of a rank behind all others at the end of a list.
    fn begin(&mut self, list: u32, number: u64) -> Rank {
        let mark = self.add(Node { chunk: NONE, list, at: (number, 0, 0), previous: NONE, next: NONE }, list);
        Rank { number, mark, last: mark }
    }

    /// The rank of a request that uses the host, from the first time on that it does.
    fn rank<'a>(&mut self, user: &'a mut User) -> &'a mut Rank {
        user.rank.get_or_insert_with(|| {
            let number = self.next_rank();
            self.begin(0, number)
        })
    }

    /// A chunk that a request stores, which it has come across.
    pub(super) fn insert(&mut self, chunk: Offered, user: &mut User) -> Place {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.ghosts.iter_mut().for_each(|ghosts| ghosts.remove(chunk.key));
        }
        user.sees(chunk).0.is_stored = true;
        self.lens[0] += 1;
        let node = |at| Node { chunk: chunk.number, list: 0, at, previous: NONE, next: NONE };
        if self.adaptive.is_some() {
            let at = (self.next_rank(), 0, 0);
            return Place(self.add(node(at), 0));
        }
        let rank = self.rank(user);
        let at = from_tail(rank.number, chunk.position, chunk.key.group);
        let next = self.next_in(*rank, at);
        rank.last = self.add(node(at), next);
        Place(rank.last)
    }

    /// A request comes across a chunk that it would store, be there room for it or not; returns whether for the first time.
    pub(super) fn want(&mut self, chunk: Offered, user: &mut User) -> bool {
        let (_, is_new) = user.sees(chunk);
        if is_new && self.adaptive.is_none() {
            self.rank(user);
        }
        is_new
    }

    /// A request finds a chunk there, which it loads or would have stored; returns whether it comes across it for the first
    /// time.
    pub(super) fn find(&mut self, chunk: Offered, user: &mut User, place: Place) -> bool {
        let (used, is_new) = user.sees(chunk);
        // One that it had stored itself does not count.
        used.was_there |= !used.is_stored;
        // Only the first time makes it newer, and one that a later request used stays where that put it.
        if is_new && self.adaptive.is_none() {
            let rank = self.rank(user);
            let at = from_tail(rank.number, chunk.position, chunk.key.group);
            if at > self.nodes[place.0 as usize].at {
                self.move_into(rank, at, place);
            }
        }
        is_new
    }

    /// A request would store chunks that are not there, in order.
    pub(super) fn miss(&mut self, chunks: &[Offered], user: &mut User) {
        let Some(adaptive) = &mut self.adaptive else { return };
        for chunk in chunks.iter().rev().filter(|chunk| user.missed.insert(chunk.number)) {
            adaptive.miss(chunk.key);
        }
    }

    /// A request has ended: what it came across and is there, of which `place` says where, gets a new rank. `arc` tells apart
    /// what it found, and leaves alone what it would have stored.
    pub(super) fn settle(&mut self, user: &User, place: impl Fn(u32) -> Option<Place>) {
        let number = self.next_rank();
        let mut ranks = [0, 1].map(|list| self.begin(list, number));
        for used in &user.used {
            let Some(place) = place(used.number) else { continue };
            let list = match self.adaptive {
                None => self.nodes[place.0 as usize].list,
                Some(_) if used.was_there => 1,
                Some(_) if used.is_stored => self.nodes[place.0 as usize].list,
                Some(_) => continue,
            };
            let at = from_tail(number, used.position, u32::MAX - used.group);
            self.move_into(&mut ranks[list as usize], at, place);
        }
        for rank in ranks.into_iter().chain(user.rank) {
            self.remove(rank.mark);
        }
    }

    /// The first `count` chunks to make room among those that may; `None` if there are too few.
    pub(super) fn victims(&self, count: usize, may_go: impl Fn(u32) -> bool) -> Option<Vec<u32>> {
        let of_list = |list: u32| {
            let next = move |&node: &u32| Some(self.nodes[node as usize].next).filter(|&next| next != list);
            let chunks = std::iter::successors(next(&list), next).map(|node| self.nodes[node as usize].chunk);
            chunks.filter(|&chunk| chunk != NONE && may_go(chunk)).peekable()
        };
        let (mut once, mut again) = (of_list(0), of_list(1));
        let mut first = self.lens[0];
        let target = self.adaptive.as_ref().map_or(0, |adaptive| adaptive.target as usize);
        let mut victims = Vec::with_capacity(count);
        while victims.len() < count {
            let prefers_once = first >= target.max(1);
            let from_once = once.peek().is_some() && (prefers_once || again.peek().is_none());
            first -= usize::from(from_once);
            victims.push(if from_once { once.next()? } else { again.next()? });
        }
        Some(victims)
    }

    /// A chunk makes room.
    pub(super) fn evict(&mut self, key: ChunkKey, Place(node): Place) {
        let list = self.nodes[node as usize].list as usize;
        self.lens[list] -= 1;
        self.remove(node);
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.ghosts[list].add(key, adaptive.capacity);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lens.iter().sum()
    }
}

/// The lists.
impl Recency {
    /// In front of what a chunk of a rank belongs: it is looked for from the one on that came last.
    fn next_in(&self, Rank { number, mark, last }: Rank, at: At) -> u32 {
        let node = |number: u32| &self.nodes[number as usize];
        let is_in_rank = node(last).at.0 == number && node(last).list == node(mark).list;
        let mut next = node(if is_in_rank { last } else { mark }).next;
        // An end of a list has no rank.
        while next > 1 && node(next).at < at {
            next = node(next).next;
        }
        // The mark comes before all chunks.
        while node(node(next).previous).at > at {
            next = node(next).previous;
        }
        next
    }

    fn move_into(&mut self, rank: &mut Rank, at: At, Place(node): Place) {
        self.unlink(node);
        if rank.last == node {
            rank.last = rank.mark;
        }
        let next = self.next_in(*rank, at);
        rank.last = node;
        let (from, to) = (self.nodes[node as usize].list, self.nodes[rank.mark as usize].list);
        self.lens[from as usize] -= 1;
        self.lens[to as usize] += 1;
        (self.nodes[node as usize].list, self.nodes[node as usize].at) = (to, at);
        self.link(node, next);
    }

    fn add(&mut self, node: Node, next: u32) -> u32 {
        let number = self.free.pop().unwrap_or(self.nodes.len() as u32);
        if number as usize == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[number as usize] = node;
        }
        self.link(number, next);
        number
    }

    fn remove(&mut self, node: u32) {
        self.unlink(node);
        // Nobody takes it for one of its rank.
        self.nodes[node as usize].at = (0, 0, 0);
        self.free.push(node);
    }

    fn link(&mut self, node: u32, next: u32) {
        let previous = std::mem::replace(&mut self.nodes[next as usize].previous, node);
        self.nodes[previous as usize].next = node;
        (self.nodes[node as usize].previous, self.nodes[node as usize].next) = (previous, next);
    }

    fn unlink(&mut self, node: u32) {
        let Node { previous, next, .. } = self.nodes[node as usize];
        self.nodes[previous as usize].next = next;
        self.nodes[next as usize].previous = previous;
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

    /// A chunk whose identity and position are its number.
    fn chunk(number: u32) -> Offered {
        Offered { number, key: key(number.into()), position: number }
    }

    /// The policy `arc`, after a request has stored chunks 1 to 3, the first two of which have made room.
    fn with_two_ghosts() -> Recency {
        let mut recency = Recency::new(OffloadEviction::Arc, 4);
        let mut user = User::default();
        let places = [1, 2, 3].map(|number| recency.insert(chunk(number), &mut user));
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
        let missing = [1, 2, 4].map(chunk);
        recency.miss(&missing, &mut one);
        assert_eq!(target_and_ghosts(&recency), (2.0, vec![2, 1]));
        recency.miss(&missing, &mut one);
        assert_eq!(target_and_ghosts(&recency), (2.0, vec![2, 1]));
        // Another one, or one that it did not miss before, counts.
        recency.miss(&[chunk(2)], &mut other);
        assert_eq!(target_and_ghosts(&recency), (3.0, vec![1, 2]));
    }

    #[test]
    fn what_a_request_stored_itself_is_not_used_again_when_it_finds_it() {
        let mut recency = Recency::new(OffloadEviction::Arc, 4);
        let (mut one, mut other) = (User::default(), User::default());
        let place = recency.insert(chunk(1), &mut one);
        recency.find(chunk(1), &mut one, place);
        let settle = |recency: &mut Recency, user: &User| {
            recency.settle(user, |_| Some(place));
            recency.lens
        };
        assert_eq!(settle(&mut recency, &one), [1, 0]);
        recency.find(chunk(1), &mut other, place);
        assert_eq!(settle(&mut recency, &other), [0, 1]);
    }

    #[test]
    fn what_a_request_would_have_stored_has_its_rank_only_at_its_end_and_under_lru() {
        let ranks = |eviction| {
            let mut recency = Recency::new(eviction, 4);
            let (mut one, mut other, mut late) = (User::default(), User::default(), User::default());
            recency.want(chunk(1), &mut one);
            let place = recency.insert(chunk(1), &mut other);
            recency.insert(chunk(2), &mut late);
            let at = |recency: &Recency| recency.nodes[place.0 as usize].at;
            // It is there when it is offered again, but has been seen.
            let first = at(&recency);
            recency.find(chunk(1), &mut late, place);
            let by_late = at(&recency);
            recency.want(chunk(1), &mut one);
            assert_eq!(at(&recency), by_late);
            recency.settle(&one, |_| Some(place));
            (first != by_late, at(&recency) != by_late)
        };
        assert_eq!(ranks(OffloadEviction::Lru), (true, true));
        assert_eq!(ranks(OffloadEviction::Arc), (false, false));
    }
}
