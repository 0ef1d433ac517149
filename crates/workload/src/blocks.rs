//! From the ids of a row to its prompt.

use servecast_types::{ContentNames, Interner, Prompt, Run};

use crate::row::{MAX_INPUT_TOKENS, TraceRow, tokens_up_to};
use crate::{TraceError, TraceNotes};

/// Makes prompts out of hash ids.
pub(crate) struct Blocks {
    size: u32,
    interner: Interner,
    /// Blocks of prompts that share nothing if they are numbered as ids are, or pieces of content of which nothing is
    /// known, so far.
    own: u64,
    /// Whether prompts that share nothing have blocks with numbers.
    numbered: bool,
}

impl Blocks {
    /// For `rows` whose ids stand for `size` tokens each.
    pub(crate) fn of(rows: &[TraceRow], size: u32) -> Self {
        // Numbers of ids are free for what has none only if no row has any, and blocks of a token are many.
        let has_ids = |row: &TraceRow| !(row.hash_ids.is_empty() && row.hash_runs.is_empty());
        let numbered = size > 1 && !rows.iter().any(has_ids);
        Self { size, interner: Interner::new(), own: 0, numbered }
    }

    /// What ids are called.
    pub(crate) fn into_names(self) -> ContentNames {
        self.interner.into_names(self.size)
    }

    pub(crate) fn prompt(&mut self, row: &TraceRow, notes: &mut TraceNotes) -> Result<Prompt, TraceError> {
        if let (true, Some(tokens)) = (row.shares_nothing, row.input_length) {
            notes.without_content += 1;
            return Ok(self.own(tokens as u32));
        }
        if !row.hash_runs.is_empty() {
            return self.of_runs(row, notes);
        }
        let covered = row.hash_ids.len() as u64 * u64::from(self.size);
        let tokens = row.input_length.unwrap_or(covered);
        let needed = tokens.div_ceil(u64::from(self.size));
        if tokens == 0 {
            return Err(TraceError::EmptyPrompt { line: row.line });
        }
        if tokens > covered {
            return Err(TraceError::BlockCount {
                line: row.line,
                input_length: tokens,
                hash_ids: row.hash_ids.len() as u64,
                block_size: self.size,
                covered,
                needed,
            });
        }
        if tokens > MAX_INPUT_TOKENS {
            return Err(too_long(row, covered));
        }
        notes.inferred_input_length += u64::from(row.input_length.is_none());
        notes.surplus_hash_ids += u64::from((row.hash_ids.len() as u64) > needed);
        let ids = row.hash_ids[..needed as usize].iter().map(|id| self.interner.intern(*id));
        Ok(Prompt::from_blocks(ids, self.size, tokens as u32))
    }

    /// Content of which nothing is known.
    fn own(&mut self, tokens: u32) -> Prompt {
        let first = self.own;
        if !self.numbered {
            self.own += 1;
            return Prompt::new([Run::unique(first as u32, tokens)]);
        }
        self.own += u64::from(tokens).div_ceil(u64::from(self.size));
        let ids = (first..self.own).map(|id| self.interner.intern(id));
        Prompt::from_blocks(ids, self.size, tokens)
    }

    /// A prompt whose ids are ranges; what they do not cover is its own.
    fn of_runs(&mut self, row: &TraceRow, notes: &mut TraceNotes) -> Result<Prompt, TraceError> {
        let size = u64::from(self.size);
        let ids: u64 = row.hash_runs.iter().map(|run| (run.end() - run.start()).saturating_add(1)).sum();
        let tokens = row.input_length.unwrap_or(ids.saturating_mul(size));
        if tokens == 0 {
            return Err(TraceError::EmptyPrompt { line: row.line });
        }
        if tokens > MAX_INPUT_TOKENS {
            return Err(too_long(row, tokens));
        }
        let needed = tokens.div_ceil(size);
        notes.surplus_hash_ids += u64::from(ids > needed);
        if ids < tokens / size {
            notes.uncovered.add(row.line);
        }
        let ids = row.hash_runs.iter().cloned().flatten().take(needed as usize);
        let ids = ids.map(|id| self.interner.intern(id));
        let mut prompt = Prompt::from_blocks(ids, self.size, tokens as u32);
        let rest = tokens as u32 - prompt.tokens();
        if rest > 0 {
            prompt.push(Run::unique(self.own as u32, rest));
            self.own += 1;
        }
        Ok(prompt)
    }

    /// What a row says its output consists of.
    pub(crate) fn output(&mut self, row: &TraceRow, notes: &mut TraceNotes) -> Option<Box<Prompt>> {
        if row.output_ids.is_empty() {
            return None;
        }
        let size = u64::from(self.size);
        if row.output_ids.len() as u64 != row.output_length.div_ceil(size) {
            notes.other_output_ids.add(row.line);
        }
        let named = row.output_length.min(row.output_ids.len() as u64 * size);
        let ids = row.output_ids.iter().take(named.div_ceil(size) as usize);
        let ids = ids.map(|id| self.interner.intern(*id));
        Some(Box::new(Prompt::from_blocks(ids, self.size, named as u32)))
    }
}

fn too_long(row: &TraceRow, tokens: u64) -> TraceError {
    TraceError::Value {
        line: row.line,
        field: "hash_ids".into(),
        found: format!("a list that covers {tokens} tokens"),
        expected: format!("one that covers {}", tokens_up_to(MAX_INPUT_TOKENS)),
    }
}
