//! A request on its way into an engine, and why one is turned away.

use std::sync::Arc;

use servecast_types::{ClassId, Prompt, RequestId, Time};

use crate::EngineConfig;

/// A request as an engine gets it.
#[derive(Debug, Clone)]
pub struct EngineRequest {
    /// Its id; ids of requests that are in an engine at the same time differ.
    pub id: RequestId,
    /// Its content, at least one token.
    pub prompt: Prompt,
    /// What it generates, from the first token on, as far as somebody else names it; `None`: nobody does.
    pub output: Option<Box<Prompt>>,
    /// Most tokens that it generates, at least 1; the scheduler knows this.
    pub max_tokens: u32,
    /// Number of tokens after which it stops by itself, which the scheduler does not know in advance; it generates at
    /// least one.
    pub stop_after: Option<u32>,
    /// Whether it never stops by itself; SGLang reserves memory for its whole output.
    pub ignore_eos: bool,
    /// vLLM with speculative decoding: drafts that are accepted in its verifications one after the other, again from the
    /// start when they are used up; absent, they are drawn.
    pub accepted_drafts: Option<Arc<[u32]>>,
    /// Lower is more important; ignored unless the policy is `priority`.
    pub priority: i32,
    /// When it came, for ties of priority.
    pub arrival: Time,
    /// Its key in a [fixed order](crate::Order::is_fixed) that the engine was given, if that was
    /// [asked for](EngineConfig::ask_order).
    pub order_key: Option<f64>,
    /// Decides between requests of equal priority and arrival, and for SGLang's policy `hrrn` between equals: lower goes
    /// first.
    pub tie_break: u64,
    /// Who it belongs with, for SGLang's policy `routing-key`; `None`: to nobody.
    pub routing_key: Option<u32>,
    /// vLLM: the LoRA adapter that it needs, if any. What keeps the caches of adapters apart is the content of prompts, see
    /// [`Prompt::salted`].
    pub lora: Option<u32>,
    /// Its class in the load, which no engine looks at.
    pub class: Option<ClassId>,
    /// vLLM: the grammar of its structured output, if it has one, which the engine compiles unless it has done so before.
    pub grammar: Option<Grammar>,
    /// vLLM: when that is compiled at the earliest, if somebody knows; the request waits until then, and others pass it.
    pub grammar_ready: Option<Time>,
    /// The KV of its prompt is computed elsewhere and fetched over [links](crate::Links) first.
    pub remote_prefill: bool,
    /// Its KV blocks stay after it ends, until [`Engine::release`](crate::Engine::release).
    pub hold_kv: bool,
    /// The data-parallel rank of the worker that serves it, where that is not the choice of the worker's front end.
    pub dp_rank: Option<u32>,
}

/// The grammar of a request's structured output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grammar {
    /// Equal grammars have the same number.
    pub number: u32,
    /// When the request comes to the engine, which begins to compile it then.
    pub submitted: Time,
}

impl EngineRequest {
    /// A plain request of priority 0.
    pub fn new(id: RequestId, prompt: Prompt, max_tokens: u32, arrival: Time) -> Self {
        Self {
            id,
            prompt,
            output: None,
            max_tokens,
            stop_after: None,
            ignore_eos: false,
            accepted_drafts: None,
            priority: 0,
            arrival,
            order_key: None,
            tie_break: u64::from(id.0),
            routing_key: None,
            lora: None,
            class: None,
            grammar: None,
            grammar_ready: None,
            remote_prefill: false,
            hold_kv: false,
            dp_rank: None,
        }
    }

    /// Whether an engine of these settings can ever serve it.
    pub(crate) fn check(&self, config: &EngineConfig) -> Result<(), Rejection> {
        let (prompt_tokens, max_tokens) = (self.prompt.tokens(), self.max_tokens);
        if prompt_tokens == 0 || max_tokens == 0 {
            return Err(Rejection::Empty { prompt_tokens, max_tokens });
        }
        config.check_request(prompt_tokens)
    }
}

/// Why an engine does not take a request, or gives it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is nothing to compute or nothing to generate.
    #[error(
        "the request has {prompt_tokens} prompt tokens and `max_tokens` {max_tokens}, both must be at least 1"
    )]
    Empty {
        /// Prompt length.
        prompt_tokens: u32,
        /// Most tokens to generate.
        max_tokens: u32,
    },
    /// The prompt is too long for the KV cache.
    #[error("the prompt has {tokens} tokens, too many for a KV cache of {capacity} tokens")]
    PromptTooLong {
        /// Prompt length.
        tokens: u32,
        /// Tokens that the KV cache holds.
        capacity: u64,
    },
    /// The prompt is too long for the context.
    #[error("the prompt has {tokens} tokens, too many for `max_model_len` {max_model_len}")]
    MaxModelLen {
        /// Prompt length.
        tokens: u32,
        /// Longest sequence.
        max_model_len: u32,
    },
    /// The sequence exceeds the token budget of an iteration and may not be cut.
    #[error(
        "{tokens} tokens cannot be scheduled at once: `max_num_batched_tokens` is {budget} and chunked prefill is off"
    )]
    Unchunkable {
        /// Tokens to compute.
        tokens: u32,
        /// Most tokens of an iteration.
        budget: u32,
    },
    /// The request outgrew the KV cache that it had for itself.
    #[error("{tokens} tokens outgrew the KV cache")]
    KvCapacity {
        /// Its length when it was given up.
        tokens: u32,
    },
}
