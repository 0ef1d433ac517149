//! Text as tokens: four characters each, so that prompts that begin alike have their first tokens in common.

use std::ops::Range;

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::TraceError;

const CHARACTERS_PER_TOKEN: usize = 4;
/// Tokens that are looked up together: where texts part within so many, none of these is shared.
const TOKENS_PER_PIECE: usize = 16;
/// Distinct tokens that have small ids.
const MOST_TOKENS: u64 = 1 << 30;

/// Numbers the tokens of all texts of a file: a piece of text has the same numbers wherever all before it is the same.
#[derive(Default)]
pub(super) struct Texts {
    /// The first token of each piece, by a hash of it and of all before.
    pieces: FxHashMap<u64, u64>,
    next: u64,
}

/// A prompt, or the rest of one, as messages are added to it.
#[derive(Default)]
pub(super) struct Prompt {
    /// A hash of all its text.
    before: u64,
    /// Its tokens since they were taken.
    pub(super) runs: Vec<Range<u64>>,
}

impl Prompt {
    /// How many tokens there are.
    pub(super) fn tokens(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }
}

impl Texts {
    /// Adds a message of `role` to a prompt; it begins with a token of its own.
    pub(super) fn add(
        &mut self,
        prompt: &mut Prompt,
        role: &str,
        text: &str,
        line: u64,
    ) -> Result<(), TraceError> {
        if text.is_empty() {
            return Ok(());
        }
        prompt.before = xxh3_64_with_seed(role.as_bytes(), prompt.before);
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(CHARACTERS_PER_TOKEN * TOKENS_PER_PIECE);
            let (piece, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            rest = after;
            prompt.before = xxh3_64_with_seed(piece.as_bytes(), prompt.before);
            let tokens = piece.chars().count().div_ceil(CHARACTERS_PER_TOKEN) as u64;
            let start = *self.pieces.entry(prompt.before).or_insert_with(|| {
                self.next += tokens;
                self.next - tokens
            });
            if self.next > MOST_TOKENS {
                return Err(TraceError::TooMuchText { line, tokens: MOST_TOKENS });
            }
            match prompt.runs.last_mut() {
                Some(last) if last.end == start => last.end += tokens,
                _ => prompt.runs.push(start..start + tokens),
            }
        }
        Ok(())
    }
}
