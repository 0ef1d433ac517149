//! What is in the KV blocks of workers, as far as events tell of it.
//!
//! The simulation names a block by what it makes of its content; events have the token ids and a digest. Those are known
//! for the blocks of requests that have not ended, which are the only ones that can be stored. Of what is stored, the number
//! is kept until it is removed.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use servecast_types::{BlockHasher, HashRuns, KvEvent, Prompt, RequestId, SequenceHash, Time};

use super::hash::{BlockDigests, Digest, published};
use super::wire::BlockEvent;
use crate::content::{Salt, content};

/// The contents of the blocks of all workers.
#[derive(Debug)]
pub(super) struct Contents {
    digests: BlockDigests,
    /// Blocks of requests that have not ended, by size.
    sizes: Vec<Blocks>,
    live: FxHashMap<RequestId, Live>,
    workers: Vec<Worker>,
}

/// Blocks of one size.
#[derive(Debug)]
struct Blocks {
    block_size: u32,
    known: FxHashMap<SequenceHash, Known>,
}

/// A block of requests that have not ended.
#[derive(Debug)]
struct Known {
    digest: Digest,
    tokens: Box<[u32]>,
    /// Of the first of a salted sequence.
    salt: Option<Salt>,
    /// How many of them have it.
    requests: u32,
}

/// A request that has not ended, or not long ago.
#[derive(Debug)]
struct Live {
    /// By size of blocks.
    blocks: Vec<Vec<SequenceHash>>,
    /// The worker that took it last.
    worker: Option<usize>,
}

/// What a worker has stored.
#[derive(Debug)]
struct Worker {
    /// Place of its size of blocks.
    size: usize,
    /// By block, its number and how many copies there are.
    stored: FxHashMap<SequenceHash, (u64, u32)>,
    /// Requests that have ended, and when: passes that were decided before may still tell of their blocks.
    ended: VecDeque<(Time, RequestId)>,
}

impl Contents {
    /// Nothing is there yet. The workers have blocks of so many tokens each.
    pub(super) fn new(digests: BlockDigests, block_sizes: &[u32]) -> Self {
        let mut sizes = block_sizes.to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let worker = |size: &u32| Worker {
            size: sizes.partition_point(|other| other < size),
            stored: FxHashMap::default(),
            ended: VecDeque::new(),
        };
        let workers = block_sizes.iter().map(worker).collect();
        let blocks = |&block_size: &u32| Blocks { block_size, known: FxHashMap::default() };
        Self { digests, sizes: sizes.iter().map(blocks).collect(), live: FxHashMap::default(), workers }
    }

    /// A request came that has these tokens in the end.
    pub(super) fn arrived(&mut self, id: RequestId, tokens: &[u32], salt: Option<&Salt>) {
        let content = content(tokens, salt);
        let digests = &self.digests;
        let blocks = self.sizes.iter_mut().map(|size| size.add(&content, tokens, salt, digests)).collect();
        self.live.insert(id, Live { blocks, worker: None });
    }

    /// A worker took a request.
    pub(super) fn admitted(&mut self, worker: usize, id: RequestId) {
        if let Some(live) = self.live.get_mut(&id) {
            live.worker = Some(worker);
        }
    }

    /// A request has ended.
    pub(super) fn ended(&mut self, id: RequestId, at: Time) {
        match self.live.get(&id).and_then(|live| live.worker) {
            Some(worker) => self.workers[worker].ended.push_back((at, id)),
            None => self.forget(id),
        }
    }

    /// A worker has told of a pass that was decided then, and so of all before it.
    pub(super) fn passed(&mut self, worker: usize, decided: Time) {
        while let Some(&(_, id)) = self.workers[worker].ended.front().filter(|(at, _)| *at <= decided) {
            self.workers[worker].ended.pop_front();
            self.forget(id);
        }
    }

    /// A worker has lost all that it had, and tells of nothing more.
    pub(super) fn lost(&mut self, worker: usize) {
        self.workers[worker].stored.clear();
        self.passed(worker, Time::MAX);
    }

    fn forget(&mut self, id: RequestId) {
        let Some(live) = self.live.remove(&id) else { return };
        for (size, blocks) in self.sizes.iter_mut().zip(live.blocks) {
            size.remove(&blocks);
        }
    }

    /// What a worker tells of its cache, as it is published.
    pub(super) fn events(&mut self, worker: usize, events: &[KvEvent]) -> Vec<BlockEvent> {
        let Worker { size, stored, .. } = &mut self.workers[worker];
        let size = &self.sizes[*size];
        let mut published = Vec::new();
        for event in events {
            match event {
                KvEvent::Stored { parent, blocks } => {
                    published.extend(size.store(*parent, blocks, stored));
                }
                KvEvent::Removed { blocks } => {
                    published.extend(blocks.iter().filter_map(|block| remove(stored, block)));
                }
                KvEvent::Cleared => {
                    stored.clear();
                    published.push(BlockEvent::Cleared);
                }
            }
        }
        published
    }

    /// Requests and blocks that are known.
    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        (self.live.len(), self.sizes.iter().map(|size| size.known.len()).sum())
    }
}

impl Blocks {
    fn add(
        &mut self,
        content: &Prompt,
        tokens: &[u32],
        salt: Option<&Salt>,
        digests: &BlockDigests,
    ) -> Vec<SequenceHash> {
        let blocks = BlockHasher::all(content, self.block_size);
        let mut parent = None;
        for (&block, tokens) in blocks.iter().zip(tokens.chunks_exact(self.block_size as usize)) {
            // It goes into the first block, and with that into all others.
            let salt = salt.filter(|_| parent.is_none());
            let known = self.known.entry(block).or_insert_with(|| Known {
                digest: digests.block(parent.as_ref(), tokens, salt.map(|salt| &**salt)),
                tokens: tokens.into(),
                salt: salt.cloned(),
                requests: 0,
            });
            known.requests += 1;
            parent = Some(known.digest);
        }
        blocks
    }

    fn remove(&mut self, blocks: &[SequenceHash]) {
        for block in blocks {
            if let Some(known) = self.known.get_mut(block) {
                known.requests -= 1;
                if known.requests == 0 {
                    self.known.remove(block);
                }
            }
        }
    }

    /// Blocks of a request were stored. Who stores has not ended, so they are known; what follows one that is not cannot be
    /// told of.
    fn store(
        &self,
        parent: Option<SequenceHash>,
        blocks: &HashRuns,
        stored: &mut FxHashMap<SequenceHash, (u64, u32)>,
    ) -> Option<BlockEvent> {
        let number = |block| self.known.get(&block).map(|known| published(&known.digest));
        let parent = match parent {
            None => None,
            Some(parent) => Some(number(parent)?),
        };
        let (mut hashes, mut tokens, mut salt) = (Vec::new(), Vec::new(), None);
        for block in blocks.iter() {
            let Some(known) = self.known.get(&block) else { break };
            if let Some(its) = &known.salt {
                salt = Some(Salt::clone(its));
            }
            let number = published(&known.digest);
            hashes.push(number);
            tokens.extend(&known.tokens);
            stored.entry(block).or_insert((number, 0)).1 += 1;
        }
        (!hashes.is_empty()).then_some(BlockEvent::Stored {
            parent,
            hashes,
            tokens,
            block_size: self.block_size,
            salt,
        })
    }
}

/// A copy of a block was evicted.
fn remove(stored: &mut FxHashMap<SequenceHash, (u64, u32)>, block: SequenceHash) -> Option<BlockEvent> {
    let (number, copies) = stored.get_mut(&block)?;
    let number = *number;
    *copies -= 1;
    if *copies == 0 {
        stored.remove(&block);
    }
    Some(BlockEvent::Removed(number))
}

#[cfg(test)]
mod tests {
    use servecast_types::HashRun;

    use super::*;
    use crate::events::hash::HashAlgorithm;

    fn contents() -> Contents {
        Contents::new(BlockDigests::new(HashAlgorithm::Sha256, "0"), &[4, 4])
    }

    fn blocks(tokens: &[u32]) -> Vec<SequenceHash> {
        BlockHasher::all(&content(tokens, None), 4)
    }

    fn stored(parent: Option<SequenceHash>, blocks: &[SequenceHash]) -> KvEvent {
        KvEvent::Stored { parent, blocks: blocks.iter().map(|&block| HashRun::up(block, 1)).collect() }
    }

    #[test]
    fn blocks_are_told_of_with_their_tokens() {
        let mut contents = contents();
        let tokens = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
        contents.arrived(RequestId(0), &tokens, None);
        let blocks = blocks(&tokens);
        let told = contents.events(0, &[stored(None, &blocks[..1]), stored(Some(blocks[0]), &blocks[1..])]);
        let [
            BlockEvent::Stored { parent: None, hashes: first, .. },
            BlockEvent::Stored { parent, hashes, tokens, .. },
        ] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((parent, &tokens[..]), (&Some(first[0]), &[5, 4, 3, 2][..]));
        // The tail goes first, and each block by itself.
        let removed = KvEvent::Removed {
            blocks: [blocks[1], blocks[0]].map(|block| HashRun::up(block, 1)).into_iter().collect(),
        };
        assert_eq!(
            contents.events(0, std::slice::from_ref(&removed)),
            [BlockEvent::Removed(hashes[0]), BlockEvent::Removed(first[0])]
        );
        // The other worker never had them.
        assert_eq!(contents.events(1, &[removed]), []);
    }

    #[test]
    fn the_first_block_of_a_salted_prompt_is_told_of_with_its_salt() {
        let mut contents = contents();
        let (tokens, salt) = ([1, 2, 3, 4, 5, 6, 7, 8], Salt::from("pepper"));
        contents.arrived(RequestId(0), &tokens, Some(&salt));
        contents.arrived(RequestId(1), &tokens, None);
        let salted = BlockHasher::all(&content(&tokens, Some(&salt)), 4);
        let plain = blocks(&tokens);
        let told = contents
            .events(0, &[stored(None, &salted), stored(None, &plain), stored(Some(salted[0]), &salted[1..])]);
        let salts = told.iter().map(|event| match event {
            BlockEvent::Stored { salt, hashes, .. } => (salt.as_deref(), hashes.clone()),
            other => panic!("{other:?}"),
        });
        let told: Vec<_> = salts.collect();
        assert_eq!([told[0].0, told[1].0, told[2].0], [Some("pepper"), None, None]);
        let digests = BlockDigests::new(HashAlgorithm::Sha256, "0");
        let first = digests.block(None, &tokens[..4], Some("pepper"));
        let second = digests.block(Some(&first), &tokens[4..], None);
        assert_eq!(told[0].1, [first, second].map(|digest| published(&digest)));
        assert!(told[0].1.iter().all(|hash| !told[1].1.contains(hash)));
    }

    #[test]
    fn each_copy_is_removed_by_itself() {
        let mut contents = contents();
        let blocks = blocks(&[1, 2, 3, 4]);
        let removed = || KvEvent::Removed { blocks: HashRun::up(blocks[0], 1).into() };
        for id in [0, 1].map(RequestId) {
            contents.arrived(id, &[1, 2, 3, 4], None);
            contents.admitted(0, id);
            contents.events(0, &[stored(None, &blocks)]);
            contents.ended(id, Time::from_ns(5));
        }
        contents.passed(0, Time::from_ns(5));
        assert_eq!(contents.len(), (0, 0));
        // What is stored can be removed when nobody has it any more.
        assert_eq!([1, 1, 0].map(|_| contents.events(0, &[removed()]).len()), [1, 1, 0]);
    }

    #[test]
    fn what_has_ended_is_known_as_long_as_passes_may_tell_of_it() {
        let mut contents = contents();
        contents.arrived(RequestId(0), &[1, 2, 3, 4, 5, 6, 7, 8], None);
        contents.arrived(RequestId(1), &[1, 2, 3, 4], None);
        contents.admitted(1, RequestId(0));
        assert_eq!(contents.len(), (2, 2));
        // It never was with a worker.
        contents.ended(RequestId(1), Time::from_ns(3));
        contents.ended(RequestId(0), Time::from_ns(10));
        contents.passed(1, Time::from_ns(9));
        contents.passed(0, Time::from_ns(20));
        assert_eq!(contents.len(), (1, 2));
        let blocks = blocks(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(contents.events(1, &[stored(None, &blocks)]).len(), 1);
        contents.passed(1, Time::from_ns(10));
        assert_eq!(contents.len(), (0, 0));
        assert_eq!(contents.events(1, &[KvEvent::Cleared]), [BlockEvent::Cleared]);
    }
}
