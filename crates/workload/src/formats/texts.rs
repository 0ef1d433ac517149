//! Text as tokens: those of a tokenizer, or four characters each, so that prompts that begin alike have their first tokens in common.

use std::ops::Range;

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{TextTokenizer, TraceError};

const CHARACTERS_PER_TOKEN: usize = 4;
/// Tokens that are looked up together: where texts part within so many, none of these is shared.
const TOKENS_PER_PIECE: usize = 16;
/// Distinct tokens that have small ids.
const MOST_TOKENS: u64 = 1 << 30;

/// Numbers the tokens of all texts of a file: a piece of text has the same numbers wherever all before it is the same.
pub(super) struct Texts<'a> {
    tokenizer: Option<&'a TextTokenizer>,
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

impl<'a> Texts<'a> {
    /// No texts yet, which will be cut by a tokenizer if there is one.
    pub(super) fn new(tokenizer: Option<&'a TextTokenizer>) -> Self {
        Self { tokenizer, pieces: FxHashMap::default(), next: 0 }
    }

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
        let Some(tokenizer) = self.tokenizer else { return self.add_characters(prompt, text, line) };
        let tokens = tokenizer.encode(text).map_err(|problem| TraceError::UncutText { line, problem })?;
        let mut bytes = [0; 4 * TOKENS_PER_PIECE];
        for piece in tokens.chunks(TOKENS_PER_PIECE) {
            for (bytes, token) in bytes.chunks_exact_mut(4).zip(piece) {
                bytes.copy_from_slice(&token.to_le_bytes());
            }
            self.add_piece(prompt, &bytes[..4 * piece.len()], piece.len() as u64, line)?;
        }
        Ok(())
    }

    fn add_characters(&mut self, prompt: &mut Prompt, text: &str, line: u64) -> Result<(), TraceError> {
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(CHARACTERS_PER_TOKEN * TOKENS_PER_PIECE);
            let (piece, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            rest = after;
            let tokens = piece.chars().count().div_ceil(CHARACTERS_PER_TOKEN) as u64;
            self.add_piece(prompt, piece.as_bytes(), tokens, line)?;
        }
        Ok(())
    }

    /// Adds so many tokens, which are equal to others where `piece`, and all before it, is.
    fn add_piece(
        &mut self,
        prompt: &mut Prompt,
        piece: &[u8],
        tokens: u64,
        line: u64,
    ) -> Result<(), TraceError> {
        prompt.before = xxh3_64_with_seed(piece, prompt.before);
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
        Ok(())
    }
}
