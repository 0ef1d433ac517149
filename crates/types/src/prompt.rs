//! What a prompt is made of, without its tokens.
//!
//! A simulation needs to know *which blocks are equal*, not what they say. Every token has a 64-bit identity, and
//! a prompt is a list of [`Run`]s of consecutive identities: one run for a trace block, for a span of real token
//! ids, for a request's output. The identities of different sources never meet:
//!
//! ```text
//!  0     .. 2³²    a real token: its id
//!  2³²   .. 2⁶³    a token of a trace block: the blocks' tokens one after another, in order of their numbers
//!                  (see `Interner`)
//!  2⁶³   .. 2⁶³+2⁶²  output that nobody else names: request number in bits 61..32, position in the rest
//!  2⁶³+2⁶² .. 2⁶⁴-2⁶¹  a reply that later turns of its session repeat: its number in bits 60..32, likewise
//!  2⁶⁴-2⁶¹ .. 2⁶⁴  content of which nothing is known but that it is its own: its number in bits 60..32, likewise
//! ```
//!
//! Trace blocks with consecutive ids, as new content mostly has, make one run.
//!
//! Two prompts then share exactly their longest common prefix, whatever the block sizes of trace and engine are.

use std::ops::Range;

use rustc_hash::FxHashMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::block_hasher::hash_words;
use crate::{ContentNames, RequestId};

/// `len` tokens with the identities `start`, `start + 1`, ….
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub(crate) start: u64,
    pub(crate) len: u32,
}

impl Run {
    /// Real token ids `first`, `first + 1`, ….
    pub const fn tokens(first: u32, len: u32) -> Self {
        Self { start: first as u64, len }
    }

    /// A token by an id alone: the same as that id of a trace has whose ids are of tokens, if below 2³⁰, and otherwise as
    /// [`ContentNames::canonical`] renames it.
    pub fn token_named(id: u64) -> Self {
        if id < u64::from(FIRST_NUMBERED) {
            return Self::content(ContentId(id as u32), 1, 1);
        }
        Self { start: xxh3_64(&id.to_le_bytes()) >> 1, len: 1 }
    }

    /// The first `len` tokens of a trace block, all of which have `block_tokens`.
    pub const fn content(id: ContentId, block_tokens: u32, len: u32) -> Self {
        // At most 2³¹ blocks, so that it stays below 2⁶³.
        Self { start: FIRST_TRACE + id.0 as u64 * block_tokens as u64, len }
    }

    /// Output of a request that no other request repeats; ids are below 2³⁰.
    pub const fn output_of(request: RequestId, len: u32) -> Self {
        debug_assert!(request.0 < 1 << 30, "request numbers have 30 bits");
        Self { start: 1 << 63 | (request.0 as u64) << 32, len }
    }

    /// A reply that nothing names but its number, which is below 2²⁹, for prompts that repeat it.
    pub const fn reply(number: u32, len: u32) -> Self {
        debug_assert!(number < 1 << 29, "numbers of replies have 29 bits");
        Self { start: FIRST_REPLY | (number as u64) << 32, len }
    }

    /// Content of which nothing is known but that it is shared only with what has the same number, which is below 2²⁹.
    pub const fn unique(number: u32, len: u32) -> Self {
        debug_assert!(number < 1 << 29, "numbers of unique content have 29 bits");
        Self { start: FIRST_UNIQUE | (number as u64) << 32, len }
    }

    /// Identity of the first token.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Number of tokens.
    pub const fn len(self) -> u32 {
        self.len
    }

    /// Whether it has no tokens.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Whether it is content of which nothing is known, see [`Run::unique`].
    pub const fn is_unique(self) -> bool {
        self.start >= FIRST_UNIQUE
    }

    /// Its tokens `at`, counted from 0.
    ///
    /// # Panics
    /// In debug builds if it does not have them.
    #[must_use]
    pub const fn part(self, at: Range<u32>) -> Self {
        debug_assert!(at.start <= at.end && at.end <= self.len, "a part of what is there");
        Self { start: self.start + at.start as u64, len: at.end - at.start }
    }

    const fn end(self) -> u64 {
        self.start + self.len as u64
    }
}

/// An interned trace block: equal ids of the trace, equal `ContentId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentId(u32);

/// Ids below this stand for themselves; larger ones are numbered from here.
pub(crate) const FIRST_NUMBERED: u32 = 1 << 30;

/// Identity of the first token of the trace block 0.
pub(crate) const FIRST_TRACE: u64 = 1 << 32;

/// Identity of the first token of the reply 0.
pub(crate) const FIRST_REPLY: u64 = 3 << 62;

/// Identity of the first token of the unique content 0.
const FIRST_UNIQUE: u64 = 7 << 61;

/// Gives every distinct 64-bit id of a trace a small number, so that none is truncated and none aliases another.
///
/// Small ids, which most traces have, are their own numbers: they take no memory, and consecutive ones stay so.
#[derive(Debug, Default)]
pub struct Interner {
    large: FxHashMap<u64, u32>,
}

impl Interner {
    /// An interner that has seen no id.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of `hash_id`, the same every time.
    ///
    /// # Panics
    /// With more than 2³⁰ distinct ids of 2³⁰ and above, which would need a trace of over 10 GB.
    pub fn intern(&mut self, hash_id: u64) -> ContentId {
        if hash_id < u64::from(FIRST_NUMBERED) {
            return ContentId(hash_id as u32);
        }
        let next = self.large.len() as u32;
        assert!(next < FIRST_NUMBERED, "more than 2^30 distinct large hash ids");
        ContentId(FIRST_NUMBERED + *self.large.entry(hash_id).or_insert(next))
    }

    /// What the numbers of large ids stand for, in blocks of so many tokens.
    pub fn into_names(self, block_tokens: u32) -> ContentNames {
        let mut large = vec![0; self.large.len()];
        for (id, number) in self.large {
            large[number as usize] = id;
        }
        ContentNames::new(block_tokens, large)
    }
}

/// The content of a request: runs of token identities, adjacent ones merged, so that equal content has one form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    runs: Vec<Run>,
    tokens: u32,
}

impl Prompt {
    /// A prompt of the given runs; empty runs are dropped.
    pub fn new(runs: impl IntoIterator<Item = Run>) -> Self {
        let mut prompt = Self::default();
        prompt.extend(runs);
        prompt
    }

    /// `tokens` tokens out of trace blocks of `block_tokens` each.
    ///
    /// Stops at the end of `blocks` if they hold fewer tokens: the caller checks for that.
    pub fn from_blocks(blocks: impl IntoIterator<Item = ContentId>, block_tokens: u32, tokens: u32) -> Self {
        let mut prompt = Self::default();
        for id in blocks {
            let len = block_tokens.min(tokens - prompt.tokens);
            prompt.push(Run::content(id, block_tokens, len));
        }
        prompt.runs.shrink_to_fit();
        prompt
    }

    /// Appends a run.
    #[inline]
    pub fn push(&mut self, run: Run) {
        if run.is_empty() {
            return;
        }
        self.tokens += run.len;
        match self.runs.last_mut() {
            Some(last) if last.end() == run.start => last.len += run.len,
            _ => self.runs.push(run),
        }
    }

    /// The same content told by pairs of neighbouring tokens, one less than there are tokens: what has so many tokens in
    /// common has as many pairs in common, less one.
    #[must_use]
    pub fn pairs(&self) -> Self {
        let mut pairs = Self::new([]);
        let following = self.runs.iter().skip(1).map(|run| Some(run.start)).chain([None]);
        for (run, next) in self.runs.iter().zip(following) {
            // Within a run the first token tells the second.
            pairs.push(run.part(0..run.len - 1));
            if let Some(next) = next {
                let across = hash_words([run.end() - 1, next, 2]) >> 3;
                pairs.push(Run { start: FIRST_REPLY + across, len: 1 });
            }
        }
        pairs
    }

    /// The same content as another LoRA adapter, or another tenant, has it: it begins with a token of its own, so that it
    /// shares nothing with what has another salt or none. Equal content under equal salts stays equal.
    #[must_use]
    pub fn salted(&self, salt: u64) -> Self {
        let Some(first) = self.runs.first() else { return self.clone() };
        // Hashed, as large ids of tokens are, see `Run::token_named`.
        let own = Run { start: hash_words([salt, first.start, 3]) >> 1, len: 1 };
        Self::new([own].into_iter().chain(self.range(1..self.tokens)))
    }

    /// Length in tokens.
    pub const fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The content, in order; no run continues the one before it.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Its tokens `range`, as far as it has them.
    pub fn range(&self, range: Range<u32>) -> impl Iterator<Item = Run> {
        let mut position = 0;
        self.runs.iter().filter_map(move |run| {
            let (start, end) = (position, position + run.len);
            position = end;
            let (from, to) = (range.start.max(start), range.end.min(end));
            (from < to).then(|| run.part(from - start..to - start))
        })
    }

    /// How many tokens it and `other` have in common from the first one on.
    pub fn common_prefix(&self, other: &Self) -> u32 {
        let mut tokens = 0;
        for (mine, theirs) in self.runs.iter().zip(&other.runs) {
            if mine.start == theirs.start {
                tokens += mine.len.min(theirs.len);
            }
            // Where one run is longer, the other prompt goes on with another token, or ends.
            if mine != theirs {
                break;
            }
        }
        tokens
    }
}

impl Extend<Run> for Prompt {
    fn extend<T: IntoIterator<Item = Run>>(&mut self, runs: T) {
        for run in runs {
            self.push(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{BlockHasher, HashRuns};

    #[test]
    fn pairs_in_common_are_one_less_than_tokens_in_common() {
        let prompt =
            |runs: &[(u32, u32)]| Prompt::new(runs.iter().map(|&(first, len)| Run::tokens(first, len)));
        let (one, other) = (prompt(&[(0, 5), (90, 4)]), prompt(&[(0, 5), (90, 2), (7, 3)]));
        assert_eq!((one.pairs().tokens(), other.pairs().tokens()), (8, 9));
        for (a, b) in [(&one, &other), (&one, &prompt(&[(0, 9)])), (&one, &prompt(&[(0, 5)])), (&one, &one)] {
            assert_eq!(a.pairs().common_prefix(&b.pairs()), a.common_prefix(b) - 1);
        }
        assert_eq!(prompt(&[]).pairs().tokens(), 0);
    }

    #[test]
    fn under_another_salt_nothing_is_shared() {
        let prompt = |len| Prompt::new([Run::tokens(5, len)]);
        let (one, longer) = (prompt(40).salted(1), prompt(60).salted(1));
        assert_eq!((one.tokens(), one.common_prefix(&longer), shared_blocks(&one, &longer, 8)), (40, 40, 5));
        for other in [prompt(40), prompt(40).salted(2)] {
            assert_eq!((one.common_prefix(&other), shared_blocks(&one, &other, 8)), (0, 0));
        }
        assert_eq!(prompt(0).salted(1), prompt(0));
    }

    fn shared_blocks(a: &Prompt, b: &Prompt, block_size: u32) -> usize {
        let (a, b) = (BlockHasher::all(a, block_size), BlockHasher::all(b, block_size));
        a.iter().zip(&b).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn an_identity_may_cover_what_follows_its_block() {
        let of = |tail: u32| {
            let content = Prompt::new([Run::tokens(0, 8), Run::tokens(tail, 3)]);
            BlockHasher::looking_ahead(4, 1).runs_of(&content).iter().collect::<Vec<_>>()
        };
        let (one, other) = (of(100), of(200));
        assert_eq!((one.len(), other.len()), (2, 2), "11 tokens: the second block needs the ninth");
        assert_eq!(one[0], other[0]);
        assert_ne!(one[1], other[1], "the token behind it is another");
        let whole = Prompt::new([Run::tokens(0, 8)]);
        assert_eq!(
            BlockHasher::looking_ahead(4, 1).runs_of(&whole).len(),
            1,
            "nothing is known behind the second"
        );
    }

    #[test]
    fn trace_blocks_need_not_be_a_multiple_of_engine_blocks() {
        let mut interner = Interner::new();
        let [a, b, c] = [1, 2, 1 << 40 | 2].map(|id| interner.intern(id));
        let first = Prompt::from_blocks([a, b], 100, 200);
        let second = Prompt::from_blocks([a, c], 100, 200);
        assert_eq!(shared_blocks(&first, &second, 16), 6, "100 common tokens hold 6 blocks of 16");
        assert_eq!(shared_blocks(&first, &first, 16), 12);
        assert_eq!(interner.intern(2), b);
        assert_eq!([a, b, c], [1, 2, FIRST_NUMBERED].map(ContentId));
    }

    #[test]
    fn consecutive_trace_blocks_are_one_run_and_their_blocks_have_consecutive_identities() {
        let mut interner = Interner::new();
        let prompt = Prompt::from_blocks([4, 5, 9].map(|id| interner.intern(id)), 100, 300);
        assert_eq!(prompt.runs().iter().map(|run| run.len).collect::<Vec<_>>(), [200, 100]);
        let hashes = BlockHasher::all(&prompt, 50);
        let adjacent: Vec<bool> =
            hashes.windows(2).map(|pair| pair[1].0 == pair[0].0.wrapping_add(1)).collect();
        assert_eq!(adjacent, [true, true, true, false, true]);
    }

    #[test]
    fn a_short_block_shares_what_it_has() {
        let mut interner = Interner::new();
        let id = interner.intern(5);
        let short = Prompt::from_blocks([id], 512, 300);
        let long = Prompt::from_blocks([id], 512, 512);
        assert_eq!(shared_blocks(&short, &long, 64) * 64, 256);
    }

    #[test]
    fn the_same_block_at_another_position_is_other_content() {
        let mut interner = Interner::new();
        let id = interner.intern(5);
        let hashes = BlockHasher::all(&Prompt::from_blocks([id, id], 64, 128), 64);
        assert_ne!(hashes[0], hashes[1]);
    }

    #[test]
    fn a_prompt_that_repeats_an_output_shares_it() {
        let output = Run::output_of(RequestId(3), 40);
        let first = Prompt::new([Run::tokens(10_000, 24), output]);
        let next = Prompt::new([Run::tokens(10_000, 24), output, Run::tokens(77, 16)]);
        assert_eq!(shared_blocks(&first, &next, 16), 4);
        let other = Prompt::new([Run::tokens(10_000, 24), Run::output_of(RequestId(4), 40)]);
        assert_eq!(shared_blocks(&first, &other, 16), 1);
    }

    #[test]
    fn a_growing_prompt_is_hashed_as_if_it_had_been_whole() {
        let mut hasher = BlockHasher::new(16);
        let mut growing = Prompt::new([Run::tokens(0, 20)]);
        let mut seen = vec![hasher.next(&growing).unwrap()];
        assert_eq!(hasher.next(&growing), None);
        growing.push(Run::tokens(20, 5));
        assert_eq!(hasher.next(&growing), None);
        growing.push(Run::tokens(900, 30));
        seen.extend(std::iter::from_fn(|| hasher.next(&growing)));
        assert_eq!(seen, BlockHasher::all(&growing, 16));
        assert_eq!(seen.len(), 3);
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        prop::collection::vec(
            (0_u32..4, 0_u32..30).prop_map(|(first, len)| Run::tokens(first * 10, len)),
            0..12,
        )
    }

    fn spelled_out(prompt: &Prompt) -> Vec<u64> {
        prompt.runs().iter().flat_map(|run| run.start..run.end()).collect()
    }

    proptest! {
        #[test]
        fn blocks_are_shared_exactly_up_to_the_common_prefix(a in runs(), b in runs(), block_size in 1_u32..20) {
            let (a, b) = (Prompt::new(a), Prompt::new(b));
            let common = spelled_out(&a).iter().zip(&spelled_out(&b)).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(shared_blocks(&a, &b, block_size), common / block_size as usize);
            prop_assert_eq!(BlockHasher::all(&a, block_size).len() as u32, a.tokens() / block_size);
        }

        #[test]
        fn a_part_and_a_common_prefix_are_those_of_the_tokens(a in runs(), b in runs(), from in 0_u32..80, len in 0_u32..80) {
            let (a, b) = (Prompt::new(a), Prompt::new(b));
            let (all, other) = (spelled_out(&a), spelled_out(&b));
            let part: Vec<u64> = all.iter().skip(from as usize).take(len as usize).copied().collect();
            prop_assert_eq!(spelled_out(&Prompt::new(a.range(from..from + len))), part);
            let common = all.iter().zip(&other).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(a.common_prefix(&b) as usize, common);
        }

        #[test]
        fn runs_of_identities_are_the_identities(content in runs(), block_size in 1_u32..20, most in 1_u32..5) {
            let content = Prompt::new(content);
            let all: HashRuns = BlockHasher::all(&content, block_size).into_iter().collect();
            prop_assert_eq!(&BlockHasher::new(block_size).runs_of(&content), &all);
            let mut hasher = BlockHasher::new(block_size);
            let piecemeal: HashRuns = std::iter::from_fn(|| hasher.next_run(&content, most)).collect();
            prop_assert_eq!(piecemeal, all);
        }

        #[test]
        fn the_form_of_a_prompt_does_not_depend_on_how_it_was_cut(a in runs(), cut in 0_u32..30) {
            let whole = Prompt::new(a.iter().copied());
            let pieces = Prompt::new(a.iter().flat_map(|run| {
                let head = cut.min(run.len);
                [run.part(0..head), run.part(head..run.len)]
            }));
            prop_assert_eq!(whole, pieces);
        }
    }
}
