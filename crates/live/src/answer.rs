//! Bodies of answers, with the keys of vLLM 0.32 in their order.

#![expect(clippy::option_option, reason = "a key may be absent, null or have a value")]

pub(crate) mod logprobs;

use serde::Serialize;
use serde_json::value::RawValue;

use self::logprobs::logprobs;
use crate::choice::{Choice, Delta, StopReason};
use crate::output::Output;
use crate::pieces::Pieces;
use crate::request::{Api, Wanted};

/// What all that is sent to a client begins with.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    /// The token with which an answer ends by itself.
    pub(crate) end: u32,
}

/// The keys that all that is sent to a client begins with, whoever's API it is.
#[derive(Serialize)]
pub(crate) struct Opening<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
}

impl Head {
    /// Of an object of this kind.
    pub(crate) fn opening(&self, object: &'static str) -> Opening<'_> {
        Opening { id: &self.id, object, created: self.created, model: &self.model }
    }
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
    pub(crate) cached: u64,
}

/// A key whose value is always null.
type Null = Option<()>;

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: UsageDetails,
    completion_tokens_details: Null,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "these are the keys")]
struct UsageDetails {
    cached_tokens: u64,
    created_cache_tokens: Option<u64>,
    multimodal_tokens: Null,
}

#[derive(Serialize)]
struct ChunkUsage {
    prompt_tokens: u64,
    total_tokens: u64,
    completion_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<ChunkUsageDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<Null>,
}

#[derive(Serialize)]
struct ChunkUsageDetails {
    cached_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_cache_tokens: Option<u64>,
}

impl Tokens {
    fn usage(self, api: Api) -> Usage {
        let Self { prompt, completion, cached } = self;
        let created_cache_tokens = (api == Api::Chat).then_some(0);
        Usage {
            prompt_tokens: prompt,
            total_tokens: prompt + completion,
            completion_tokens: completion,
            prompt_tokens_details: UsageDetails {
                cached_tokens: cached,
                created_cache_tokens,
                multimodal_tokens: None,
            },
            completion_tokens_details: None,
        }
    }

    /// In a chunk: only the last one has details of the prompt.
    fn in_chunk(self, api: Api, is_last: bool) -> ChunkUsage {
        let Self { prompt, completion, cached } = self;
        let created_cache_tokens = (api == Api::Chat).then_some(0);
        let details = ChunkUsageDetails { cached_tokens: cached, created_cache_tokens };
        ChunkUsage {
            prompt_tokens: prompt,
            total_tokens: prompt + completion,
            completion_tokens: completion,
            prompt_tokens_details: is_last.then_some(details),
            completion_tokens_details: (api == Api::Chat && !is_last).then_some(None),
        }
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    #[serde(flatten)]
    opening: Opening<'a>,
    choices: Vec<CompletionChoice<'a>>,
    service_tier: Null,
    system_fingerprint: &'a str,
    usage: Usage,
    kv_transfer_params: Null,
    ec_transfer_params: Null,
    metrics: Null,
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: usize,
    text: String,
    logprobs: Option<Box<RawValue>>,
    finish_reason: &'static str,
    stop_reason: Option<StopReason>,
    token_ids: Option<Vec<u32>>,
    prompt_logprobs: Option<&'a RawValue>,
    prompt_token_ids: Option<&'a [u32]>,
    routed_experts: Null,
}

#[derive(Serialize)]
struct Chat<'a> {
    #[serde(flatten)]
    opening: Opening<'a>,
    choices: Vec<ChatChoice>,
    service_tier: Null,
    system_fingerprint: &'a str,
    usage: Usage,
    prompt_logprobs: Option<&'a RawValue>,
    prompt_token_ids: Option<&'a [u32]>,
    prompt_text: Null,
    kv_transfer_params: Null,
    ec_transfer_params: Null,
    metrics: Null,
}

#[derive(Serialize)]
struct ChatChoice {
    index: usize,
    message: Message,
    logprobs: Option<Box<RawValue>>,
    finish_reason: &'static str,
    stop_reason: Option<StopReason>,
    token_ids: Option<Vec<u32>>,
    routed_experts: Null,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Null,
    annotations: Null,
    audio: Null,
    function_call: Null,
    reasoning: Null,
}

/// Of a prompt, what answers say of it.
#[derive(Debug, Default)]
pub(crate) struct OfPrompt {
    /// Its text, if it is repeated.
    pub(crate) text: Option<String>,
    /// Its tokens, if it is repeated with their log-probabilities.
    pub(crate) pieces: Option<Pieces>,
    /// Log-probabilities of its tokens, if they are wanted.
    pub(crate) logprobs: Option<Box<RawValue>>,
}

/// An answer without a stream, which is complete.
pub(crate) struct Whole<'a> {
    pub(crate) head: &'a Head,
    pub(crate) wanted: &'a Wanted,
    pub(crate) choices: &'a [Choice],
    pub(crate) output: &'a Output,
    /// What is said of each prompt.
    pub(crate) prompts: &'a [OfPrompt],
    pub(crate) tokens: Tokens,
}

impl Whole<'_> {
    /// Its body.
    pub(crate) fn json(&self) -> String {
        match self.wanted.api {
            Api::Completions | Api::Generate { .. } | Api::Responses => to_json(&self.completion()),
            Api::Chat => to_json(&self.chat()),
        }
    }

    /// The place of the prompt of an answer.
    fn place(&self, index: usize) -> usize {
        index / self.wanted.n as usize
    }

    /// The ids of a prompt, if they are wanted.
    fn prompt_ids(&self, index: usize) -> Option<&[u32]> {
        self.wanted.return_token_ids.then(|| &self.wanted.prompts[self.place(index)].ids[..])
    }

    fn ids(&self, choice: &Choice) -> Option<Vec<u32>> {
        self.wanted.return_token_ids.then(|| choice.pieces().ids().to_vec())
    }

    fn logprobs(&self, index: usize, choice: &Choice) -> Option<Box<RawValue>> {
        let places = if self.wanted.echo_only { 0..0 } else { 0..choice.tokens() };
        let echoed = self.prompts[self.place(index)].pieces.as_ref();
        self.wanted.logprobs.map(|_| logprobs(self.wanted, echoed, choice.pieces(), places, self.output))
    }

    fn completion(&self) -> Completion<'_> {
        let choice = |(index, choice): (usize, &Choice)| {
            let of_prompt = &self.prompts[self.place(index)];
            CompletionChoice {
                index,
                text: of_prompt.text.clone().unwrap_or_default()
                    + if self.wanted.echo_only { "" } else { choice.text() },
                logprobs: self.logprobs(index, choice),
                finish_reason: choice.finish().name(),
                stop_reason: choice.finish().reason(),
                token_ids: self.ids(choice),
                prompt_logprobs: of_prompt.logprobs.as_deref(),
                prompt_token_ids: self.prompt_ids(index),
                routed_experts: None,
            }
        };
        Completion {
            opening: self.head.opening("text_completion"),
            choices: self.choices.iter().enumerate().map(choice).collect(),
            service_tier: None,
            system_fingerprint: &self.head.fingerprint,
            usage: self.tokens.usage(self.wanted.api),
            kv_transfer_params: None,
            ec_transfer_params: None,
            metrics: None,
        }
    }

    fn chat(&self) -> Chat<'_> {
        let choice = |(index, choice): (usize, &Choice)| ChatChoice {
            index,
            message: Message {
                role: "assistant",
                content: choice.text().to_owned(),
                refusal: None,
                annotations: None,
                audio: None,
                function_call: None,
                reasoning: None,
            },
            logprobs: self.logprobs(index, choice),
            finish_reason: choice.finish().name(),
            stop_reason: choice.finish().reason(),
            token_ids: self.ids(choice),
            routed_experts: None,
        };
        Chat {
            opening: self.head.opening("chat.completion"),
            choices: self.choices.iter().enumerate().map(choice).collect(),
            service_tier: None,
            system_fingerprint: &self.head.fingerprint,
            usage: self.tokens.usage(self.wanted.api),
            prompt_logprobs: self.prompts[0].logprobs.as_deref(),
            prompt_token_ids: self.prompt_ids(0),
            prompt_text: None,
            kv_transfer_params: None,
            ec_transfer_params: None,
            metrics: None,
        }
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers are JSON")
}

#[derive(Serialize)]
struct Chunk<'a, C> {
    // Those of an opening: to flatten one costs a third of writing a chunk.
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<ChunkUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a str>,
    /// Of the first chunk of a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Option<&'a [u32]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_text: Option<Null>,
}

#[derive(Serialize)]
struct CompletionDelta<'a> {
    index: usize,
    text: String,
    logprobs: Option<Box<RawValue>>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<StopReason>,
    prompt_token_ids: Option<&'a [u32]>,
    token_ids: Option<[u32; 1]>,
}

#[derive(Serialize)]
struct RoleDelta {
    index: usize,
    delta: Role,
    logprobs: Null,
    finish_reason: Null,
}

#[derive(Serialize)]
struct Role {
    role: &'static str,
    content: &'static str,
}

#[derive(Serialize)]
struct ChatDelta {
    index: usize,
    delta: Content,
    logprobs: Option<Box<RawValue>>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Option<StopReason>>,
    token_ids: Option<[u32; 1]>,
}

#[derive(Serialize)]
struct Content {
    content: String,
}

/// Messages of a stream of server-sent events.
pub(crate) struct Stream<'a> {
    pub(crate) head: &'a Head,
    pub(crate) wanted: &'a Wanted,
    pub(crate) output: &'a Output,
}

impl Stream<'_> {
    fn chunk<C: Serialize>(&self, choices: &[C], usage: Option<ChunkUsage>, more: More<'_>) -> String {
        let object = match self.wanted.api {
            Api::Completions | Api::Generate { .. } | Api::Responses => "text_completion",
            Api::Chat => "chat.completion.chunk",
        };
        let (is_last, prompt) = match more {
            More::Nothing => (false, None),
            More::Last => (true, None),
            More::Prompt(ids) => (false, Some(ids)),
        };
        let Head { id, created, model, .. } = self.head;
        event(&Chunk {
            id,
            object,
            created: *created,
            model,
            choices,
            usage,
            system_fingerprint: is_last.then_some(&self.head.fingerprint[..]),
            prompt_token_ids: prompt,
            prompt_text: prompt.map(|_| None),
        })
    }

    fn usage(&self, tokens: Tokens) -> Option<ChunkUsage> {
        self.wanted.continuous_usage.then(|| tokens.in_chunk(self.wanted.api, false))
    }

    /// Who says what follows; before the first token of a chat.
    pub(crate) fn role(&self, index: usize, tokens: Tokens) -> String {
        let delta = Role { role: "assistant", content: "" };
        let role = RoleDelta { index, delta, logprobs: None, finish_reason: None };
        let ids = self.wanted.return_token_ids.then(|| &self.wanted.prompts[0].ids[..]);
        self.chunk(&[role], self.usage(tokens), More::Prompt(ids))
    }

    /// A token of an answer; `echoed` is the prompt before the first one.
    pub(crate) fn token(
        &self,
        index: usize,
        choice: &Choice,
        delta: Delta,
        echoed: Option<&str>,
        tokens: Tokens,
    ) -> String {
        let wanted = self.wanted;
        // The last chunk of all says which server it was.
        let more = if delta.is_last && !wanted.include_usage { More::Last } else { More::Nothing };
        let place = choice.tokens() - 1;
        let said =
            wanted.logprobs.map(|_| logprobs(wanted, None, choice.pieces(), place..place + 1, self.output));
        let finish = delta.is_last.then(|| choice.finish());
        let finish_reason = finish.map(super::choice::Finish::name);
        let token_ids = wanted.return_token_ids.then(|| [choice.pieces().ids()[place]]);
        let usage = self.usage(tokens);
        match wanted.api {
            Api::Completions | Api::Generate { .. } | Api::Responses => {
                let shows_prompt = choice.tokens() == 1 && (wanted.return_token_ids || echoed.is_some());
                let delta = CompletionDelta {
                    index,
                    text: match echoed {
                        None => delta.text,
                        Some(echoed) => echoed.to_owned() + &delta.text,
                    },
                    logprobs: said,
                    finish_reason,
                    stop_reason: finish.and_then(super::choice::Finish::reason),
                    prompt_token_ids: shows_prompt
                        .then(|| &wanted.prompts[index / wanted.n as usize].ids[..]),
                    token_ids,
                };
                self.chunk(&[delta], usage, more)
            }
            Api::Chat => {
                let delta = ChatDelta {
                    index,
                    delta: Content { content: delta.text },
                    logprobs: said,
                    finish_reason,
                    stop_reason: finish.map(super::choice::Finish::reason),
                    token_ids,
                };
                self.chunk(&[delta], usage, more)
            }
        }
    }

    /// What was used, at the end, if the client wants to know.
    pub(crate) fn end(&self, tokens: Tokens) -> String {
        let usage = tokens.in_chunk(self.wanted.api, true);
        self.chunk::<()>(&[], Some(usage), More::Last)
    }
}

/// What a chunk has besides.
#[derive(Clone, Copy)]
enum More<'a> {
    Nothing,
    /// The fingerprint of the server.
    Last,
    /// The prompt, if the client wants it.
    Prompt(Option<&'a [u32]>),
}

/// A message of a stream, which holds an object.
pub(crate) fn event(data: &impl Serialize) -> String {
    /// Bytes of most messages.
    const USUAL: usize = 384;
    let mut message = Vec::with_capacity(USUAL);
    message.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut message, data).expect("texts and numbers are JSON");
    message.extend_from_slice(b"\n\n");
    String::from_utf8(message).expect("JSON is text")
}

/// The same of JSON that is written.
pub(crate) fn event_of(json: &str) -> String {
    format!("data: {json}\n\n")
}

/// The last message of a stream.
pub(crate) const DONE: &str = "data: [DONE]\n\n";
