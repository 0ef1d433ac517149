//! Blocks at the host in the order in which they were touched, the one that makes room first in front.

use rustc_hash::FxHashMap;
use servecast_types::{SequenceHash, ensure};

/// Stands for both ends of the list.
const ENDS: u32 = 0;

/// The blocks of the host; their numbers count from 1 on.
#[derive(Debug)]
pub(super) struct HostLru {
    capacity: u32,
    blocks: Vec<HostBlock>,
    free: Vec<u32>,
    numbers: FxHashMap<SequenceHash, u32>,
}

#[derive(Debug, Clone, Copy)]
struct HostBlock {
    key: SequenceHash,
    /// Loads that read it.
    readers: u32,
    is_ready: bool,
    previous: u32,
    next: u32,
}

impl HostLru {
    pub(super) fn new(capacity: u32) -> Self {
        let ends =
            HostBlock { key: SequenceHash(0), readers: 0, is_ready: false, previous: ENDS, next: ENDS };
        Self { capacity, blocks: vec![ends], free: Vec::new(), numbers: FxHashMap::default() }
    }

    /// Blocks that are there or on their way.
    pub(super) fn len(&self) -> u32 {
        self.numbers.len() as u32
    }

    pub(super) fn contains(&self, key: SequenceHash) -> bool {
        self.numbers.contains_key(&key)
    }

    /// Whether a block can be loaded.
    pub(super) fn is_ready(&self, key: SequenceHash) -> bool {
        self.numbers.get(&key).is_some_and(|&number| self.blocks[number as usize].is_ready)
    }

    /// Moves those of the blocks that are there to the end, in order.
    pub(super) fn touch(&mut self, keys: impl Iterator<Item = SequenceHash>) {
        for key in keys {
            if let Some(&number) = self.numbers.get(&key) {
                self.unlink(number);
                self.link_last(number);
            }
        }
    }

    /// Takes as many blocks away as it takes to store so many; `None`, and nothing changes, if too few may go.
    pub(super) fn make_room(&mut self, blocks: usize) -> Option<Vec<SequenceHash>> {
        let room = (self.capacity - self.len()) as usize;
        let lacking = blocks.saturating_sub(room);
        let mut victims = Vec::with_capacity(lacking);
        let mut at = self.blocks[ENDS as usize].next;
        while victims.len() < lacking {
            if at == ENDS {
                return None;
            }
            let block = &self.blocks[at as usize];
            if block.is_ready && block.readers == 0 {
                victims.push(at);
            }
            at = block.next;
        }
        Some(victims.into_iter().map(|number| self.remove(number)).collect())
    }

    fn remove(&mut self, number: u32) -> SequenceHash {
        self.unlink(number);
        self.free.push(number);
        let key = self.blocks[number as usize].key;
        self.numbers.remove(&key);
        key
    }

    /// Takes a block in that is on its way; returns its place.
    pub(super) fn insert(&mut self, key: SequenceHash) -> u32 {
        assert!(self.len() < self.capacity, "there is room");
        let block = HostBlock { key, readers: 0, is_ready: false, previous: ENDS, next: ENDS };
        // New places first; then those that became free, the last one first.
        let number = if self.blocks.len() as u32 <= self.capacity {
            self.blocks.push(block);
            self.blocks.len() as u32 - 1
        } else {
            let number = self.free.pop().expect("there is room");
            self.blocks[number as usize] = block;
            number
        };
        self.numbers.insert(key, number);
        self.link_last(number);
        number - 1
    }

    /// The store of a block is done.
    pub(super) fn make_ready(&mut self, key: SequenceHash) {
        self.get_mut(key).is_ready = true;
    }

    /// A load reads a block from now on; returns its place.
    pub(super) fn begin_load(&mut self, key: SequenceHash) -> u32 {
        self.get_mut(key).readers += 1;
        self.numbers[&key] - 1
    }

    pub(super) fn end_load(&mut self, key: SequenceHash) {
        self.get_mut(key).readers -= 1;
    }

    fn get_mut(&mut self, key: SequenceHash) -> &mut HostBlock {
        let number = self.numbers.get(&key).expect("what is copied stays");
        &mut self.blocks[*number as usize]
    }

    fn unlink(&mut self, number: u32) {
        let HostBlock { previous, next, .. } = self.blocks[number as usize];
        self.blocks[previous as usize].next = next;
        self.blocks[next as usize].previous = previous;
    }

    fn link_last(&mut self, number: u32) {
        let last = self.blocks[ENDS as usize].previous;
        let block = &mut self.blocks[number as usize];
        (block.previous, block.next) = (last, ENDS);
        self.blocks[last as usize].next = number;
        self.blocks[ENDS as usize].previous = number;
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        let (mut at, mut listed) = (self.blocks[ENDS as usize].next, 0);
        while at != ENDS {
            listed += 1;
            at = self.blocks[at as usize].next;
        }
        let there = self.len();
        ensure!(listed == there, "{listed} blocks at the host are listed, {there} are there");
        ensure!(there <= self.capacity, "{there} blocks at the host, which holds {}", self.capacity);
        Ok(there.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: impl IntoIterator<Item = u64>) -> Vec<SequenceHash> {
        numbers.into_iter().map(SequenceHash).collect()
    }

    /// What vLLM 0.15 was seen to do: a host of four blocks.
    #[test]
    fn what_was_touched_longest_ago_makes_room() {
        let mut host = HostLru::new(4);
        let store = |host: &mut HostLru, numbers: &[u64]| {
            let evicted = host.make_room(numbers.len())?;
            for key in keys(numbers.iter().copied()) {
                host.insert(key);
                host.make_ready(key);
            }
            Some(evicted)
        };
        assert_eq!(store(&mut host, &[1, 2, 3]), Some(vec![]));
        assert_eq!(store(&mut host, &[4, 5]), Some(keys([1])));
        host.touch(keys([2, 3]).into_iter().rev());
        assert_eq!(store(&mut host, &[6, 7]), Some(keys([4, 5])));
        assert_eq!(store(&mut host, &[8]), Some(keys([3])));
        assert_eq!((host.len(), host.check()), (4, Ok(4)));
    }

    #[test]
    fn what_is_copied_makes_no_room() {
        let mut host = HostLru::new(2);
        let places: Vec<u32> = keys([1, 2]).into_iter().map(|key| host.insert(key)).collect();
        assert_eq!((places, host.make_room(1)), (vec![0, 1], None));
        for key in keys([1, 2]) {
            host.make_ready(key);
        }
        assert_eq!(host.begin_load(SequenceHash(1)), 0);
        assert_eq!((host.make_room(2), host.make_room(1)), (None, Some(keys([2]))));
        host.end_load(SequenceHash(1));
        assert_eq!(host.make_room(2), Some(keys([1])));
    }
}
