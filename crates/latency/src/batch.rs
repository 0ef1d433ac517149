//! What an iteration computes, as the sums that latency models need: the cost of an iteration does not grow with the number
//! of its requests.

/// What one iteration computes, as sums over its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Batch {
    /// Requests with at least one scheduled token.
    pub requests: u64,
    /// Scheduled tokens, whatever they are.
    pub tokens: u64,
    /// Query-key pairs that causal attention covers: Σ over requests of n·start + n·(n + 1)/2 for n new tokens.
    pub attention_pairs: u64,
    /// Requests that compute one token, or verify drafts, whose attention is bound by the KV that it reads.
    pub steps: StepWork,
    /// Drafts that some of those verify, beside a token each.
    pub drafts: DraftWork,
    /// Prompt tokens only: what a preempted request recomputes of its own output is not in here.
    pub prompt: PromptWork,
    /// Requests that get a token other than their first.
    pub decode: DecodeWork,
    /// Tokens that the KV cache can hold.
    pub kv_capacity_tokens: u64,
}

/// Drafts that are verified, as rows of the batch beside the one of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DraftWork {
    /// How many they are.
    pub tokens: u64,
    /// Query-key pairs of their requests beyond the context of each, which is read once for all rows of a request.
    pub attention_pairs: u64,
}

/// Requests that compute a single token each, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepWork {
    /// How many they are.
    pub requests: u64,
    /// Σ of the tokens that they attend to, their own included.
    pub context_tokens: u64,
    /// The most that one of them attends to.
    pub longest_context_tokens: u64,
    /// Σ of the squares of what they attend to.
    pub squared_context_tokens: u128,
}

/// The prompt part of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PromptWork {
    /// Requests that compute prompt tokens.
    pub requests: u64,
    /// Σ of the prompt positions at which their chunks start (cached prefix and earlier chunks).
    pub start_tokens: u64,
    /// Σ of the prompt positions at which their chunks end.
    pub end_tokens: u64,
}

/// The decode part of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeWork {
    /// Requests that decode.
    pub requests: u64,
    /// Σ of their contexts: prompt and all tokens produced so far.
    pub context_tokens: u64,
}

impl StepWork {
    /// Adds a request that attends to `context` tokens.
    pub fn add(&mut self, context: u64) {
        self.requests += 1;
        self.context_tokens += context;
        self.longest_context_tokens = self.longest_context_tokens.max(context);
        self.squared_context_tokens += u128::from(context) * u128::from(context);
    }

    /// The same requests `tokens` tokens later.
    #[must_use]
    pub fn after(self, tokens: u64) -> Self {
        let later = u128::from(tokens);
        Self {
            requests: self.requests,
            context_tokens: self.context_tokens + tokens * self.requests,
            longest_context_tokens: if self.requests == 0 { 0 } else { self.longest_context_tokens + tokens },
            squared_context_tokens: self.squared_context_tokens
                + later * (2 * u128::from(self.context_tokens) + later * u128::from(self.requests)),
        }
    }
}

impl Batch {
    /// An empty batch on an engine whose KV cache holds `kv_capacity_tokens`.
    pub fn new(kv_capacity_tokens: u64) -> Self {
        Self { kv_capacity_tokens, ..Self::default() }
    }

    /// Requests that compute one token each, all of which decode.
    pub fn of_decodes(steps: StepWork, kv_capacity_tokens: u64) -> Self {
        let mut batch = Self::new(kv_capacity_tokens);
        batch.add_decodes(steps);
        batch
    }

    /// As much on each of so many data-parallel ranks.
    #[must_use]
    pub fn on_ranks(&self, ranks: u32) -> Self {
        let (all, squares) = (u64::from(ranks), u128::from(ranks));
        let Self { steps, drafts, prompt, decode, .. } = *self;
        Self {
            requests: all * self.requests,
            tokens: all * self.tokens,
            attention_pairs: all * self.attention_pairs,
            steps: StepWork {
                requests: all * steps.requests,
                context_tokens: all * steps.context_tokens,
                longest_context_tokens: steps.longest_context_tokens,
                squared_context_tokens: squares * steps.squared_context_tokens,
            },
            drafts: DraftWork { tokens: all * drafts.tokens, attention_pairs: all * drafts.attention_pairs },
            prompt: PromptWork {
                requests: all * prompt.requests,
                start_tokens: all * prompt.start_tokens,
                end_tokens: all * prompt.end_tokens,
            },
            decode: DecodeWork {
                requests: all * decode.requests,
                context_tokens: all * decode.context_tokens,
            },
            kv_capacity_tokens: all * self.kv_capacity_tokens,
        }
    }

    /// Adds requests that compute one token each, all of which decode.
    pub fn add_decodes(&mut self, steps: StepWork) {
        let StepWork { requests, context_tokens: context, .. } = steps;
        self.requests += requests;
        self.tokens += requests;
        self.attention_pairs += context;
        self.steps.requests += requests;
        self.steps.context_tokens += context;
        self.steps.longest_context_tokens =
            self.steps.longest_context_tokens.max(steps.longest_context_tokens);
        self.steps.squared_context_tokens += steps.squared_context_tokens;
        self.decode.requests += requests;
        self.decode.context_tokens += context;
    }

    /// Adds a request that computes the tokens `start..end` of its sequence.
    #[inline]
    pub fn add_tokens(&mut self, start: u64, end: u64) {
        let new = end - start;
        self.requests += 1;
        self.tokens += new;
        self.attention_pairs += new * start + new * (new + 1) / 2;
        if new == 1 {
            self.steps.add(end);
        }
    }

    /// Adds a request that computes its next token after `start` others and, beside it, `drafts` tokens that were proposed.
    pub fn add_verification(&mut self, start: u64, drafts: u64) {
        let (new, end) = (1 + drafts, start + 1 + drafts);
        let pairs = new * start + new * (new + 1) / 2;
        self.requests += 1;
        self.tokens += new;
        self.attention_pairs += pairs;
        self.steps.add(end);
        self.drafts.tokens += drafts;
        self.drafts.attention_pairs += pairs - end;
    }

    /// Gives each of these requests `rows` rows more, beside what they compute.
    pub fn add_rows(&mut self, requests: StepWork, rows: u64) {
        self.tokens += rows * requests.requests;
        self.drafts.tokens += rows * requests.requests;
        self.attention_pairs += rows * requests.context_tokens;
        self.drafts.attention_pairs += rows * requests.context_tokens;
    }

    /// New tokens of requests that compute a chunk: more than one token, and no drafts.
    pub fn chunk_tokens(&self) -> u64 {
        self.tokens - self.steps.requests - self.drafts.tokens
    }

    /// Query-key pairs of those requests.
    pub fn chunk_pairs(&self) -> u64 {
        self.attention_pairs - self.steps.context_tokens - self.drafts.attention_pairs
    }

    /// Tokens of which the model says what may follow: one a request, and one a draft.
    pub fn sampled_rows(&self) -> u64 {
        self.requests + self.drafts.tokens
    }

    /// Notes that `start..end` of what a request computes are prompt tokens.
    pub fn add_prompt(&mut self, start: u64, end: u64) {
        self.prompt.requests += 1;
        self.prompt.start_tokens += start;
        self.prompt.end_tokens += end;
    }

    /// Notes that a request with `context` tokens decodes.
    pub fn add_decode(&mut self, context: u64) {
        self.decode.requests += 1;
        self.decode.context_tokens += context;
    }
}

impl PromptWork {
    /// New prompt tokens by the rule of Dynamo's models: requests × (mean end − mean start), both means truncated.
    ///
    /// Truncation loses tokens (prompts of 10 and 5 count as 14), but numbers are compared with theirs.
    pub(crate) fn tokens_by_truncated_means(&self) -> u64 {
        match self.requests {
            0 => 0,
            n => n * (self.end_tokens / n).saturating_sub(self.start_tokens / n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_means_lose_tokens_as_in_the_original() {
        let check = |chunks: &[(u64, u64)], tokens| {
            let mut batch = Batch::new(0);
            for &(start, end) in chunks {
                batch.add_prompt(start, end);
            }
            assert_eq!(batch.prompt.tokens_by_truncated_means(), tokens, "{chunks:?}");
        };
        check(&[], 0);
        check(&[(0, 10), (0, 5)], 14);
        check(&[(0, 8), (8, 10)], 10);
    }

    #[test]
    fn attention_covers_each_token_and_all_before_it() {
        let mut batch = Batch::new(0);
        batch.add_tokens(2, 5);
        assert_eq!(batch.attention_pairs, 3 + 4 + 5);
        assert_eq!((batch.requests, batch.tokens), (1, 3));
    }

    #[test]
    fn drafts_are_rows_of_a_step() {
        let mut batch = Batch::new(0);
        batch.add_tokens(0, 8);
        batch.add_verification(20, 3);
        assert_eq!((batch.requests, batch.tokens, batch.sampled_rows()), (2, 12, 5));
        assert_eq!((batch.chunk_tokens(), batch.chunk_pairs()), (8, 36));
        assert_eq!((batch.steps.requests, batch.steps.context_tokens), (1, 24));
        assert_eq!(batch.drafts, DraftWork { tokens: 3, attention_pairs: 21 + 22 + 23 });
    }

    #[test]
    fn requests_that_decode_count_the_same_together_and_one_by_one() {
        let (mut together, mut single) = (Batch::new(100), Batch::new(100));
        for batch in [&mut together, &mut single] {
            batch.add_tokens(3, 10);
        }
        for context in [7, 12] {
            single.add_tokens(context - 1, context);
            single.add_decode(context);
        }
        together.add_decodes(StepWork {
            requests: 2,
            context_tokens: 19,
            longest_context_tokens: 12,
            squared_context_tokens: 49 + 144,
        });
        assert_eq!(together, single);
    }
}
