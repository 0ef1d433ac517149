//! Cuts prompts into blocks and identifies them.

use smallvec::{SmallVec, smallvec};
use xxhash_rust::xxh3::xxh3_64;

use crate::{HashRun, HashRuns, Prompt, SequenceHash};

/// Cuts a prompt into blocks of `block_size` tokens and gives each full one its identity.
///
/// The identity is chained: it covers the block and all before it, so equal identities mean equal prefixes. A block
/// that goes on where the one before it stops, in the same run of tokens, follows from that one, so its identity is the
/// next number; any other costs one hash of a few words, whatever the block size. Blocks that live and die together
/// thus have consecutive identities, and are handled as one [`HashRun`].
#[derive(Debug, Clone)]
pub struct BlockHasher {
    block_size: u32,
    /// Tokens that the next block adds: more than a block for the first one, if identities cover what follows.
    next_tokens: u32,
    run: usize,
    used: u32,
    parent: Option<SequenceHash>,
}

impl BlockHasher {
    /// A hasher that stands at the start of a prompt.
    ///
    /// # Panics
    /// If `block_size` is 0.
    pub fn new(block_size: u32) -> Self {
        Self::looking_ahead(block_size, 0)
    }

    /// The same with identities that cover the `lookahead` tokens behind a block, too.
    ///
    /// # Panics
    /// If `block_size` is 0.
    pub fn looking_ahead(block_size: u32, lookahead: u32) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        Self { block_size, next_tokens: block_size + lookahead, run: 0, used: 0, parent: None }
    }

    /// Identity of the next block of `content`, or `None` if less than a block is left.
    ///
    /// `content` must be the same at each call, or a longer one that begins with it.
    pub fn next(&mut self, content: &Prompt) -> Option<SequenceHash> {
        let current = content.runs().get(self.run)?;
        let parent = self.parent.map_or(0, |parent| parent.0);
        let hash = if current.len - self.used >= self.next_tokens {
            let used = self.used;
            self.used += self.next_tokens;
            match used {
                0 => hash_words([parent, current.start, u64::from(self.next_tokens)]),
                // The last token of the parent is the one before this block.
                _ => parent.wrapping_add(1),
            }
        } else {
            self.across_runs(content, parent)?
        };
        self.next_tokens = self.block_size;
        self.parent = Some(SequenceHash(hash));
        self.parent
    }

    /// Identities of the next blocks of `content` as far as they are consecutive, `most` of them at most, or `None` if
    /// less than a block is left.
    ///
    /// `most` is at least 1; `content` as for [`BlockHasher::next`].
    #[inline]
    pub fn next_run(&mut self, content: &Prompt, most: u32) -> Option<HashRun> {
        let first = self.next(content)?;
        let more = ((content.runs()[self.run].len - self.used) / self.block_size).min(most - 1);
        self.used += more * self.block_size;
        let run = HashRun::up(first, 1 + more);
        self.parent = Some(run.last());
        Some(run)
    }

    /// As [`BlockHasher::next`] for a block of several runs, or one that begins where a run ends.
    fn across_runs(&mut self, content: &Prompt, parent: u64) -> Option<u64> {
        let mut words: SmallVec<[u64; 15]> = smallvec![parent];
        let mut filled = 0;
        let (mut run, mut used) = (self.run, self.used);
        while filled < self.next_tokens {
            let current = content.runs().get(run)?;
            let take = (current.len - used).min(self.next_tokens - filled);
            if take > 0 {
                words.extend([current.start + u64::from(used), u64::from(take)]);
            }
            filled += take;
            used += take;
            // A run that is used up is left only when more is needed: the last run may still grow.
            if filled < self.next_tokens {
                run += 1;
                used = 0;
            }
        }
        (self.run, self.used) = (run, used);
        Some(match words[..] {
            [parent, start, len] => hash_words([parent, start, len]),
            _ => xxh3_64(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<SmallVec<[u8; 128]>>()),
        })
    }

    /// Identities of all further blocks of `content`, as runs.
    pub fn runs_of(mut self, content: &Prompt) -> HashRuns {
        std::iter::from_fn(|| self.next_run(content, u32::MAX)).collect()
    }

    /// Identities of all full blocks of `content`.
    pub fn all(content: &Prompt, block_size: u32) -> Vec<SequenceHash> {
        let mut hasher = Self::new(block_size);
        let mut hashes = Vec::with_capacity((content.tokens() / block_size) as usize);
        while let Some(hash) = hasher.next(content) {
            hashes.push(hash);
        }
        hashes
    }
}

/// The hash of a few words, such as those of a block within one run.
pub(crate) fn hash_words(words: [u64; 3]) -> u64 {
    let mut bytes = [0; 24];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&bytes)
}
