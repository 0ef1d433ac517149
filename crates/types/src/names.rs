//! Identities of content that do not depend on what else there is.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

use crate::prompt::{FIRST_NUMBERED, FIRST_REPLY, FIRST_TRACE};
use crate::{Prompt, Run};

/// What the numbered content of a workload is called where it comes from.
///
/// Large ids of a trace, and replies, have numbers in the order in which they turned up (see
/// [`Interner`](crate::Interner)). Who goes by the content of a prompt rather than by which prompts are equal, as
/// consistent hashing does, must not see that order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContentNames {
    block_tokens: u32,
    /// The large ids, by number.
    large: Vec<u64>,
    /// Names of the replies, by number.
    replies: Vec<u64>,
}

impl ContentNames {
    /// The names of large ids of `block_tokens` tokens each, by their numbers.
    pub(crate) fn new(block_tokens: u32, large: Vec<u64>) -> Self {
        Self { block_tokens, large, replies: Vec::new() }
    }

    /// Names the next reply, which is to one turn of a session.
    pub fn add_reply(&mut self, session: &str, turn: usize) {
        let name = [session.as_bytes(), b"\0", &(turn as u64).to_le_bytes()].concat();
        self.replies.push(xxh3_64(&name));
    }

    /// A prompt with the same content as `prompt` has in its first `tokens` tokens, whose identities follow from the
    /// names alone.
    ///
    /// Identities of different content may meet, if only with the probability of a hash of 63 bits.
    pub fn canonical<'a>(&self, prompt: &'a Prompt, tokens: u32) -> Cow<'a, Prompt> {
        let first = FIRST_TRACE + u64::from(FIRST_NUMBERED) * u64::from(self.block_tokens);
        let is_numbered = |run: &Run| run.start + u64::from(run.len) > first;
        if (self.large.is_empty() && self.replies.is_empty()) || !prompt.runs().iter().any(is_numbered) {
            return Cow::Borrowed(prompt);
        }
        let runs = prompt.range(0..tokens);
        Cow::Owned(Prompt::new(runs.flat_map(|run| self.renamed(run))))
    }

    /// The parts of a run by their names.
    fn renamed(&self, mut run: Run) -> Vec<Run> {
        if run.start >= FIRST_REPLY {
            let (number, position) = ((run.start - FIRST_REPLY) >> 32, run.start & u64::from(u32::MAX));
            let name = self.replies.get(number as usize);
            return vec![name.map_or(run, |name| Run { start: (name >> 1) + position, len: run.len })];
        }
        let size = u64::from(self.block_tokens.max(1));
        let first = FIRST_TRACE + u64::from(FIRST_NUMBERED) * size;
        let mut parts = Vec::new();
        // What stands for itself goes on as far as it does.
        let own = first.saturating_sub(run.start).min(u64::from(run.len)) as u32;
        if own > 0 {
            parts.push(run.part(0..own));
            run = run.part(own..run.len);
        }
        while !run.is_empty() {
            let (number, within) = ((run.start - first) / size, (run.start - first) % size);
            let Some(name) = self.large.get(number as usize) else {
                parts.push(run);
                break;
            };
            let len = u64::from(run.len).min(size - within) as u32;
            parts.push(Run { start: (xxh3_64(&name.to_le_bytes()) >> 1) + within, len });
            run = run.part(len..run.len);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockHasher, Interner};

    /// Identities of the blocks of a prompt after these ids were seen.
    fn identities(seen: &[u64], ids: &[u64]) -> Vec<crate::SequenceHash> {
        let mut interner = Interner::new();
        for id in seen {
            interner.intern(*id);
        }
        let ids: Vec<_> = ids.iter().map(|id| interner.intern(*id)).collect();
        let tokens = ids.len() as u32 * 10 - 3;
        let prompt = Prompt::from_blocks(ids, 10, tokens);
        let names = interner.into_names(10);
        BlockHasher::all(&names.canonical(&prompt, tokens), 4)
    }

    #[test]
    fn a_token_is_named_as_that_of_a_trace_is() {
        let ids = [5, 6, (1 << 30) - 1, 1 << 40, u64::MAX, 9];
        let mut interner = Interner::new();
        let of_trace = Prompt::from_blocks(ids.map(|id| interner.intern(id)), 1, 6);
        let named = Prompt::new(ids.map(crate::Run::token_named));
        let names = interner.into_names(1);
        assert_eq!(*names.canonical(&of_trace, 6), named);
        assert_eq!(of_trace.runs()[0], named.runs()[0].part(0..2));
    }

    #[test]
    fn identities_do_not_depend_on_what_was_seen_before() {
        let (a, b, c) = (1 << 40, (1 << 40) + 1, u64::MAX);
        let ids = [7, 8, (1 << 30) - 1, a, b, 9, c];
        let alone = identities(&[], &ids);
        for seen in [&[c, b, a][..], &[b], &[1 << 50, 1 << 51, c]] {
            assert_eq!(identities(seen, &ids), alone, "{seen:?}");
        }
        let other = identities(&[], &[7, 8, (1 << 30) - 1, b, a, 9, c]);
        assert_eq!(other[..7], alone[..7], "30 common tokens hold 7 blocks of 4");
        assert!(other[8..].iter().zip(&alone[8..]).all(|(one, other)| one != other));
    }

    #[test]
    fn replies_are_called_by_session_and_turn() {
        let prompt = |number| Prompt::new([Run::tokens(0, 5), Run::reply(number, 20)]);
        let names = |replies: &[(&str, usize)]| {
            let mut names = ContentNames::new(1, Vec::new());
            for &(session, turn) in replies {
                names.add_reply(session, turn);
            }
            names
        };
        let first = names(&[("a", 0), ("b", 0)]);
        let second = names(&[("b", 0), ("a", 0)]);
        assert_eq!(first.canonical(&prompt(0), 25), second.canonical(&prompt(1), 25));
        assert_ne!(first.canonical(&prompt(0), 25), first.canonical(&prompt(1), 25));
    }

    #[test]
    fn what_stands_for_itself_stays_as_it_is() {
        let mut interner = Interner::new();
        let prompt = Prompt::from_blocks([3, 4].map(|id| interner.intern(id)), 10, 20);
        let _ = interner.intern(1 << 40);
        assert_eq!(*interner.into_names(10).canonical(&prompt, 20), prompt);
    }
}
