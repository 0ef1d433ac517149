//! The index against a map of what every rank holds, over random streams of events.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand_pcg::Pcg64;
use servecast_router::wire::IndexEventData;
use servecast_router::{EventError, KvRouterConfig, RankInfo, Router, RoutingRequest};
use servecast_types::{Rank, Time, WorkerId};

use crate::support::{index_removed, index_stored, operations, random, request};

const RANKS: u32 = 7;
const PATHS: usize = 120;
const NOW: Time = Time::ZERO;

/// A random forest: blocks with a local hash that is unique among siblings only.
struct Forest {
    parents: Vec<Option<usize>>,
    locals: Vec<u64>,
}

impl Forest {
    fn new(random: &mut Pcg64) -> Self {
        let mut children: BTreeMap<Option<usize>, u64> = BTreeMap::new();
        let mut forest = Self { parents: Vec::new(), locals: Vec::new() };
        for block in 0..PATHS {
            // Mostly chains, sometimes a branch.
            let parent = match random.random_range(0..10) {
                0 => None,
                1 | 2 => random.random_range(0..=block).checked_sub(1),
                _ => block.checked_sub(1),
            };
            let siblings = children.entry(parent).or_insert(0);
            // An only child mostly continues its parent, as the blocks of a prompt do.
            let next = parent.map_or(0, |parent| forest.locals[parent] + 1);
            let apart = if random.random_bool(0.8) { 0 } else { 500 };
            forest.parents.push(parent);
            forest.locals.push(next + apart + *siblings * 1000);
            *siblings += 1;
        }
        forest
    }

    fn chain(&self, leaf: usize) -> Vec<usize> {
        let mut chain = vec![leaf];
        while let Some(parent) = self.parents[chain[chain.len() - 1]] {
            chain.push(parent);
        }
        chain.reverse();
        chain
    }

    fn is_behind(&self, mut block: usize, before: usize) -> bool {
        while let Some(parent) = self.parents[block] {
            if parent == before {
                return true;
            }
            block = parent;
        }
        false
    }
}

/// Some ranks have names of their own, and every rank has two for each block.
fn name(rank: u32, block: usize, second: bool) -> u64 {
    let own = if rank.is_multiple_of(3) { 0 } else { 1000 * u64::from(rank % 3) };
    // Shifted, so that a name of one rank is another block's at another.
    block as u64 + own / 1000 * 5 + if second { 5000 + own } else { 0 }
}

/// What one rank holds: copies by block and name.
#[derive(Default, Clone)]
struct Held {
    copies: BTreeMap<(usize, u64), u32>,
    orphans: BTreeMap<u64, u32>,
}

impl Held {
    fn blocks(&self) -> BTreeSet<usize> {
        self.copies.keys().map(|&(block, _)| block).collect()
    }

    fn store(&mut self, block: usize, name: u64) {
        *self.copies.entry((block, name)).or_insert_with(|| self.orphans.remove(&name).unwrap_or(0)) += 1;
    }

    fn remove(&mut self, forest: &Forest, block: usize, name: u64) -> bool {
        let Some(copies) = self.copies.get_mut(&(block, name)) else {
            let Some(copies) = self.orphans.get_mut(&name) else { return false };
            *copies -= 1;
            self.orphans.retain(|_, copies| *copies > 0);
            return true;
        };
        *copies -= 1;
        self.copies.retain(|_, copies| *copies > 0);
        if !self.blocks().contains(&block) {
            let lost: Vec<_> =
                self.copies.keys().copied().filter(|&(other, _)| forest.is_behind(other, block)).collect();
            for key in lost {
                let copies = self.copies.remove(&key).unwrap();
                *self.orphans.entry(key.1).or_insert(0) += copies;
            }
        }
        true
    }
}

struct Model {
    forest: Forest,
    /// Whether ranks store what they do not hold yet, under common names, and evict several blocks from the end of a chain:
    /// then the tree has runs, where otherwise copies and names cut it into single blocks.
    like_engines: bool,
    router: Router,
    held: Vec<Held>,
}

impl Model {
    fn new(like_engines: bool, random: &mut Pcg64) -> Self {
        let forest = Forest::new(random);
        let mut router = Router::new(KvRouterConfig::default().validate().unwrap(), 1, 0);
        for worker in 0..RANKS {
            router.add_rank(Rank::of_worker(WorkerId(worker)), RankInfo::default(), NOW);
        }
        Self { forest, like_engines, router, held: vec![Held::default(); RANKS as usize] }
    }

    fn apply(&mut self, rank: u32, event: &IndexEventData) -> Result<(), EventError> {
        self.router.apply_index_event(Rank::of_worker(WorkerId(rank)), event, NOW)
    }

    fn step(&mut self, random: &mut Pcg64) {
        let rank = random.random_range(0..RANKS);
        let block = random.random_range(0..PATHS);
        let second = random.random_bool(0.2);
        match random.random_range(0..1000) {
            0..400 if self.like_engines => self.store_missing(rank, block),
            400..998 if self.like_engines => self.evict(rank, block, false, random),
            900..998 => self.evict(rank, block, second, random),
            0..500 => self.store(rank, block, second, random),
            500..998 => self.remove(rank, block, second),
            998 => {
                self.apply(rank, &IndexEventData::Cleared).unwrap();
                self.held[rank as usize] = Held::default();
            }
            _ => {
                let removed = self.router.remove_rank(Rank::of_worker(WorkerId(rank)), NOW);
                assert!(removed.forgotten.is_empty());
                self.router.add_rank(Rank::of_worker(WorkerId(rank)), RankInfo::default(), NOW);
                self.held[rank as usize] = Held::default();
            }
        }
    }

    /// Stores a part of a chain, behind its parent or from the start.
    fn store(&mut self, rank: u32, leaf: usize, second: bool, random: &mut Pcg64) {
        let chain = self.forest.chain(leaf);
        let from = if random.random_bool(0.5) { 0 } else { random.random_range(0..chain.len()) };
        let held = &mut self.held[rank as usize];
        let parent = from.checked_sub(1).map(|before| (chain[before], name(rank, chain[before], second)));
        let known = parent.is_none_or(|key| held.copies.contains_key(&key));
        let blocks: Vec<_> = chain[from..]
            .iter()
            .map(|&block| (self.forest.locals[block], name(rank, block, second)))
            .collect();
        let event = index_stored(parent.map(|(_, name)| name), &blocks);
        if known {
            for &block in &chain[from..] {
                held.store(block, name(rank, block, second));
            }
            self.apply(rank, &event).unwrap();
        } else {
            let parent = parent.unwrap().1;
            assert_eq!(self.apply(rank, &event), Err(EventError::ParentNotFound { parent }));
        }
    }

    /// Stores what a rank does not hold of a chain.
    fn store_missing(&mut self, rank: u32, leaf: usize) {
        let chain = self.forest.chain(leaf);
        let held = self.held[rank as usize].blocks();
        let from = chain.iter().take_while(|block| held.contains(block)).count();
        let blocks: Vec<_> =
            chain[from..].iter().map(|&block| (self.forest.locals[block], block as u64)).collect();
        let parent = from.checked_sub(1).map(|before| chain[before] as u64);
        self.apply(rank, &index_stored(parent, &blocks)).unwrap();
        for &block in &chain[from..] {
            self.held[rank as usize].store(block, block as u64);
        }
    }

    /// Removes blocks from the end of a chain, or from somewhere in it, in either order.
    fn evict(&mut self, rank: u32, leaf: usize, second: bool, random: &mut Pcg64) {
        let chain = self.forest.chain(leaf);
        let held = self.held[rank as usize].blocks();
        let depth = chain.iter().take_while(|block| held.contains(block)).count();
        let end = if random.random_bool(0.9) { depth } else { chain.len() };
        let start = end.saturating_sub(random.random_range(0..12));
        let name = |block| if self.like_engines { block as u64 } else { name(rank, block, second) };
        let mut blocks: Vec<_> = chain[start..end].iter().map(|&block| (block, name(block))).collect();
        if random.random_bool(0.7) {
            blocks.reverse();
        }
        let names: Vec<_> = blocks.iter().map(|&(_, name)| name).collect();
        let held = &mut self.held[rank as usize];
        let missing: Vec<_> =
            blocks.iter().filter(|&&(block, name)| !held.remove(&self.forest, block, name)).collect();
        let not_found =
            |&&(_, first): &&(usize, u64)| EventError::BlockNotFound { first, count: missing.len() };
        let expected = missing.first().map_or(Ok(()), |first| Err(not_found(first)));
        assert_eq!(self.apply(rank, &index_removed(&names)), expected);
    }

    /// Removes a leaf more often than a block in the middle, as engines do.
    fn remove(&mut self, rank: u32, block: usize, second: bool) {
        let held = &self.held[rank as usize];
        let behind = held.blocks().into_iter().rfind(|&other| self.forest.is_behind(other, block));
        let block = behind.filter(|_| !block.is_multiple_of(8)).unwrap_or(block);
        let name = name(rank, block, second);
        let known = self.held[rank as usize].remove(&self.forest, block, name);
        let outcome = self.apply(rank, &index_removed(&[name]));
        assert_eq!(outcome.is_ok(), known);
    }

    fn request(&self, leaf: usize) -> RoutingRequest {
        let chain = self.forest.chain(leaf);
        let locals: Vec<_> =
            chain.iter().map(|&block| servecast_types::BlockHash(self.forest.locals[block])).collect();
        let request = request(0, 1000, chain.iter().map(|&block| block as u64));
        RoutingRequest { block_hashes: Some(locals.into()), ..request }
    }

    fn check(&self, leaf: usize) {
        let chain = self.forest.chain(leaf);
        let depths = self.router.overlaps(&self.request(leaf));
        for (held, (rank, depth)) in self.held.iter().zip(depths) {
            let blocks = held.blocks();
            let expected = chain.iter().take_while(|block| blocks.contains(block)).count();
            assert_eq!(depth as usize, expected, "{rank}");
            assert_eq!(self.router.tree_size(rank), Some(blocks.len() as u32), "{rank}");
        }
    }

    fn check_dump(&self) {
        let dump = self.router.dump();
        let mut copy = Router::new(KvRouterConfig::default().validate().unwrap(), 1, 0);
        for worker in (0..RANKS).rev() {
            copy.add_rank(Rank::of_worker(WorkerId(worker)), RankInfo::default(), NOW);
        }
        copy.restore(&dump, NOW).unwrap();
        for leaf in 0..PATHS {
            assert_eq!(copy.overlaps(&self.request(leaf)), self.router.overlaps(&self.request(leaf)));
        }
        for worker in 0..RANKS {
            let rank = Rank::of_worker(WorkerId(worker));
            assert_eq!(copy.tree_size(rank), self.router.tree_size(rank));
        }
        let distinct: BTreeSet<usize> = self.held.iter().flat_map(Held::blocks).collect();
        assert_eq!(self.router.sizes().index_blocks, distinct.len(), "memory is for distinct blocks");
        assert_eq!(copy.sizes().index_blocks, distinct.len());
    }
}

#[test]
fn random_events_leave_what_a_map_would_hold() {
    check_random_events(false);
}

#[test]
fn events_as_engines_send_them_leave_what_a_map_would_hold() {
    check_random_events(true);
}

fn check_random_events(like_engines: bool) {
    let total = operations();
    let rounds = 20;
    for seed in 0..rounds {
        let mut random = random(seed);
        let mut model = Model::new(like_engines, &mut random);
        for step in 0..total / rounds as u32 {
            model.step(&mut random);
            model.check(random.random_range(0..PATHS));
            if step % 1000 == 999 {
                model.check_dump();
            }
        }
        for worker in 0..RANKS {
            model.apply(worker, &IndexEventData::Cleared).unwrap();
        }
        let sizes = model.router.sizes();
        assert_eq!((sizes.index_blocks, sizes.index_extras), (0, 0), "seed {seed}");
    }
}
