//! The content of a request, prompt and output, and the identities of its blocks, worked out as far as they are needed.

use servecast_types::{BlockHasher, HashRuns, Prompt, RequestId, Run};

/// What a request consists of: its prompt and the output to come, with the identities of its blocks as far as somebody
/// asked for them.
#[derive(Debug)]
pub(crate) struct Sequence {
    content: Prompt,
    hasher: BlockHasher,
    hashes: HashRuns,
}

impl Sequence {
    /// `output`: what it generates first as far as somebody else names it; the rest is its own. `hasher` stands at the start.
    pub(crate) fn new(
        id: RequestId,
        mut prompt: Prompt,
        output: Option<&Prompt>,
        max_tokens: u32,
        hasher: BlockHasher,
    ) -> Self {
        let output_tokens = max_tokens.min(u32::MAX - prompt.tokens());
        let mut own = output_tokens;
        if let Some(named) = output {
            prompt.extend(named.range(0..output_tokens));
            own -= named.tokens().min(output_tokens);
        }
        prompt.push(Run::output_of(id, own));
        Self { content: prompt, hasher, hashes: HashRuns::default() }
    }

    /// The same, told by pairs of neighbouring tokens.
    pub(crate) fn pairs(self) -> Self {
        Self { content: self.content.pairs(), ..self }
    }

    /// The same in blocks of another size.
    pub(crate) fn in_blocks_of(&self, block_size: u32) -> Self {
        let hasher = BlockHasher::new(block_size);
        Self { content: self.content.clone(), hasher, hashes: HashRuns::default() }
    }

    /// Identities of blocks as far as somebody asked for them.
    pub(crate) fn known_hashes(&self) -> &HashRuns {
        &self.hashes
    }

    pub(crate) fn content(&self) -> &Prompt {
        &self.content
    }

    /// Its content with the identities of its first `blocks` blocks, and maybe of some more.
    pub(crate) fn content_and_hashes(&mut self, blocks: u32) -> (&Prompt, &HashRuns) {
        self.hashes(blocks);
        (&self.content, &self.hashes)
    }

    /// Identities of the first `blocks` blocks, whose tokens must be known, and maybe of some more.
    pub(crate) fn hashes(&mut self, blocks: u32) -> &HashRuns {
        while (self.hashes.len() as u32) < blocks {
            // As far as they are consecutive, all of them cost as much as one.
            let run = self.hasher.next_run(&self.content, u32::MAX);
            self.hashes.push_run(run.expect("known tokens are part of the content"));
        }
        &self.hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_blocks_cover_prompt_and_output() {
        let prompt = || Prompt::new([Run::tokens(0, 6)]);
        let mut whole = Sequence::new(RequestId(0), prompt(), None, u32::MAX, BlockHasher::new(4));
        let spelled_out = Prompt::new([Run::tokens(0, 6), Run::output_of(RequestId(0), 14)]);
        let first_five = whole.hashes(5).iter().take(5).collect::<Vec<_>>();
        assert_eq!(first_five, BlockHasher::all(&spelled_out, 4));
        let known = whole.hashes(5).clone();
        assert_eq!(whole.hashes(1), &known, "what is known stays");
    }

    #[test]
    fn an_output_may_be_named_in_part() {
        let prompt = || Prompt::new([Run::tokens(0, 6)]);
        let named = Prompt::new([Run::tokens(50, 3), Run::tokens(90, 4)]);
        let content = |max_tokens| {
            let hasher = BlockHasher::new(4);
            let sequence = Sequence::new(RequestId(1), prompt(), Some(&named), max_tokens, hasher);
            sequence.content().clone()
        };
        let longer = [Run::tokens(50, 3), Run::tokens(90, 4), Run::output_of(RequestId(1), 2)];
        assert_eq!(content(9), Prompt::new([Run::tokens(0, 6)].into_iter().chain(longer)));
        let shorter = [Run::tokens(0, 6), Run::tokens(50, 3), Run::tokens(90, 2)];
        assert_eq!(content(5), Prompt::new(shorter));
    }
}
