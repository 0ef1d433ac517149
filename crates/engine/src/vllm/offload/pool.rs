//! The blocks of the host under vLLM's simple connector, a second `BlockPool`: what is released goes to the tail of the free
//! list in order, so that the first blocks of a prompt make room first.

use rustc_hash::FxHashMap;
use servecast_types::{HashRun, KvEvent, SequenceHash, ensure};
use smallvec::SmallVec;

/// Stands for both ends of the free list; the block of that number is never handed out.
const ENDS: u32 = 0;

/// The blocks of the host.
#[derive(Debug)]
pub(super) struct HostPool {
    num_blocks: u32,
    /// Blocks that were taken at least once, by number.
    blocks: Vec<HostBlock>,
    num_free: u32,
    /// The blocks that hold a content, the one that got it first in front.
    cached: FxHashMap<SequenceHash, SmallVec<[u32; 1]>>,
    pub(super) events: Vec<KvEvent>,
}

#[derive(Debug, Clone, Copy, Default)]
struct HostBlock {
    content: Option<SequenceHash>,
    references: u32,
    previous: u32,
    next: u32,
}

impl HostPool {
    pub(super) fn new(num_blocks: u32) -> Self {
        Self {
            num_blocks,
            blocks: vec![HostBlock::default()],
            num_free: num_blocks - 1,
            cached: FxHashMap::default(),
            events: Vec::new(),
        }
    }

    pub(super) fn num_free(&self) -> u32 {
        self.num_free
    }

    /// Contents that can be loaded.
    pub(super) fn num_cached(&self) -> u32 {
        self.cached.len() as u32
    }

    /// The block that holds a content.
    pub(super) fn get(&self, content: SequenceHash) -> Option<u32> {
        self.cached.get(&content).map(|blocks| blocks[0])
    }

    /// Takes a free block, whose content is gone then.
    pub(super) fn take(&mut self) -> u32 {
        assert!(self.num_free > 0, "a block is taken only where one is free");
        self.num_free -= 1;
        if (self.blocks.len() as u32) < self.num_blocks {
            self.blocks.push(HostBlock { references: 1, ..HostBlock::default() });
            return self.blocks.len() as u32 - 1;
        }
        let id = self.blocks[ENDS as usize].next;
        self.unlink(id);
        let block = &mut self.blocks[id as usize];
        block.references = 1;
        if let Some(content) = block.content.take() {
            let same = self.cached.get_mut(&content).expect("what a block holds is found");
            same.retain(|&mut other| other != id);
            if same.is_empty() {
                self.cached.remove(&content);
            }
            self.events.push(KvEvent::Removed { blocks: HashRun::up(content, 1).into() });
        }
        id
    }

    /// A block that was taken holds a content from now on.
    pub(super) fn store(&mut self, id: u32, content: SequenceHash) {
        self.blocks[id as usize].content = Some(content);
        self.cached.entry(content).or_default().push(id);
    }

    pub(super) fn touch(&mut self, id: u32) {
        if self.blocks[id as usize].references == 0 {
            self.unlink(id);
            self.num_free -= 1;
        }
        self.blocks[id as usize].references += 1;
    }

    pub(super) fn release(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        assert!(block.references > 0, "block {id} of the host was released more often than taken");
        block.references -= 1;
        if block.references == 0 {
            self.num_free += 1;
            let last = self.blocks[ENDS as usize].previous;
            (self.blocks[id as usize].previous, self.blocks[id as usize].next) = (last, ENDS);
            self.blocks[last as usize].next = id;
            self.blocks[ENDS as usize].previous = id;
        }
    }

    fn unlink(&mut self, id: u32) {
        let HostBlock { previous, next, .. } = self.blocks[id as usize];
        self.blocks[previous as usize].next = next;
        self.blocks[next as usize].previous = previous;
    }

    /// Says what does not hold.
    pub(super) fn check(&self, references: u64) -> Result<u64, String> {
        let taken = &self.blocks[1..];
        let held = taken.iter().filter(|block| block.references > 0).count() as u32;
        ensure!(
            held + self.num_free + 1 == self.num_blocks,
            "{held} blocks of the host are held, {} free",
            self.num_free
        );
        let counted: u64 = taken.iter().map(|block| u64::from(block.references)).sum();
        ensure!(
            counted == references,
            "blocks of the host have {references} references, and count {counted}"
        );
        let with_content = taken.iter().filter(|block| block.content.is_some()).count();
        let found: usize = self.cached.values().map(SmallVec::len).sum();
        ensure!(with_content == found, "{with_content} blocks of the host have content, {found} are found");
        Ok(taken.len() as u64)
    }
}
