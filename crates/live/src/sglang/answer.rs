//! Bodies of answers, with the keys of SGLang.

use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::{Head, OfPrompt, Opening, Tokens, event, to_json};
use crate::choice::{Choice, Delta, Finish, StopReason};
use crate::request::{Api, Wanted};

type Null = Option<()>;

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Details,
    reasoning_tokens: u64,
    completion_tokens_details: Null,
}

#[derive(Serialize)]
struct Details {
    cached_tokens: u64,
}

impl Usage {
    fn of(Tokens { prompt, completion, cached }: Tokens) -> Self {
        Self {
            prompt_tokens: prompt,
            total_tokens: prompt + completion,
            completion_tokens: completion,
            prompt_tokens_details: Details { cached_tokens: cached },
            reasoning_tokens: 0,
            completion_tokens_details: None,
        }
    }
}

/// An answer below `/v1`, or a chunk of one.
#[derive(Serialize)]
struct Body<'a, C> {
    #[serde(flatten)]
    opening: Opening<'a>,
    choices: Vec<C>,
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

#[derive(Serialize)]
struct Metadata {
    weight_version: &'static str,
}

#[derive(Serialize)]
struct Completion {
    index: usize,
    text: String,
    logprobs: Null,
    finish_reason: Option<&'static str>,
    matched_stop: Option<StopReason>,
}

#[derive(Serialize)]
struct Chat {
    index: usize,
    message: Message,
    logprobs: Null,
    finish_reason: &'static str,
    matched_stop: Option<StopReason>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    reasoning_content: Null,
    tool_calls: Null,
}

#[derive(Serialize)]
struct ChatDelta {
    index: usize,
    delta: Said,
    logprobs: Null,
    finish_reason: Option<&'static str>,
    matched_stop: Option<StopReason>,
}

#[derive(Serialize)]
struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    reasoning_content: Null,
}

/// What an answer came to: of one that ended by itself, the token.
fn matched(finish: &Finish, end: u32) -> Option<StopReason> {
    match finish {
        Finish::End => Some(StopReason::Token(end)),
        other => other.reason(),
    }
}

/// The answer to a prompt so far, as `/generate` has it.
fn native(
    head: &Head,
    wanted: &Wanted,
    (index, choice): (usize, &Choice),
    cached: u64,
    seconds: f64,
) -> Value {
    let is_over = choice.tokens() == choice.pieces().len();
    let finish = match (is_over, choice.finish()) {
        (false, _) => Value::Null,
        (true, Finish::Length) => json!({"type": "length", "length": choice.tokens()}),
        (true, finish) => json!({"type": "stop", "matched": matched(finish, head.end)}),
    };
    let prompt = &wanted.prompts[index / wanted.n as usize].ids;
    let mut meta = json!({
        "id": head.id, "finish_reason": finish, "prompt_tokens": prompt.len(), "weight_version": "default",
        "num_retractions": 0, "reasoning_tokens": 0, "completion_tokens": choice.tokens(), "cached_tokens": cached,
        "dp_rank": null,
    });
    if is_over {
        meta["e2e_latency"] = json!(seconds);
    }
    let mut said = json!({
        "text": choice.text(), "output_ids": &choice.pieces().ids()[..choice.tokens()], "meta_info": meta,
    });
    if wanted.api == (Api::Generate { is_list: true }) {
        said["index"] = json!(index);
    }
    said
}

/// A request and how far it is.
pub(crate) struct State<'a> {
    pub(crate) head: &'a Head,
    pub(crate) wanted: &'a Wanted,
    pub(crate) choices: &'a [Choice],
    /// Tokens of the prompt of each answer that were cached.
    pub(crate) cached: &'a [u64],
    pub(crate) tokens: Tokens,
    /// Since it came, of the machine.
    pub(crate) seconds: f64,
}

impl State<'_> {
    fn body<C>(&self, object: &'static str, choices: Vec<C>, usage: Option<Usage>) -> Body<'_, C> {
        Body { opening: self.head.opening(object), choices, usage, metadata: None }
    }

    /// An answer without a stream; `prompts` is what is said of each prompt.
    pub(crate) fn whole(&self, prompts: &[OfPrompt]) -> String {
        let numbered = || self.choices.iter().enumerate();
        let metadata = Some(Metadata { weight_version: "default" });
        let usage = Some(Usage::of(self.tokens));
        match self.wanted.api {
            Api::Generate { is_list } => {
                let one = |(index, choice)| {
                    native(self.head, self.wanted, (index, choice), self.cached[index], self.seconds)
                };
                let mut all: Vec<Value> = numbered().map(one).collect();
                if is_list { Value::Array(all).to_string() } else { all.swap_remove(0).to_string() }
            }
            Api::Completions | Api::Responses => {
                let one = |(index, choice): (usize, &Choice)| Completion {
                    index,
                    text: prompts[index / self.wanted.n as usize].text.clone().unwrap_or_default()
                        + choice.text(),
                    logprobs: None,
                    finish_reason: Some(choice.finish().name()),
                    matched_stop: matched(choice.finish(), self.head.end),
                };
                to_json(&Body {
                    metadata,
                    ..self.body("text_completion", numbered().map(one).collect(), usage)
                })
            }
            Api::Chat => {
                let one = |(index, choice): (usize, &Choice)| Chat {
                    index,
                    message: Message {
                        role: "assistant",
                        content: choice.text().to_owned(),
                        reasoning_content: None,
                        tool_calls: None,
                    },
                    logprobs: None,
                    finish_reason: choice.finish().name(),
                    matched_stop: matched(choice.finish(), self.head.end),
                };
                to_json(&Body {
                    metadata,
                    ..self.body("chat.completion", numbered().map(one).collect(), usage)
                })
            }
        }
    }

    fn usage(&self) -> Option<Usage> {
        self.wanted.continuous_usage.then(|| Usage::of(self.tokens))
    }

    fn delta(&self, index: usize, said: Said, finish: Option<&Finish>) -> String {
        let delta = ChatDelta {
            index,
            delta: said,
            logprobs: None,
            finish_reason: finish.map(Finish::name),
            matched_stop: finish.and_then(|finish| matched(finish, self.head.end)),
        };
        event(&self.body("chat.completion.chunk", vec![delta], self.usage()))
    }

    /// Who says what follows, before the first token of a chat.
    pub(crate) fn role(&self, index: usize) -> String {
        let said = Said { role: Some("assistant"), content: Some(String::new()), reasoning_content: None };
        self.delta(index, said, None)
    }

    /// A token of an answer, and what follows the last one; `echoed` is the prompt before the first one.
    pub(crate) fn token(&self, index: usize, delta: Delta, echoed: Option<&str>) -> Vec<String> {
        let choice = &self.choices[index];
        match self.wanted.api {
            Api::Generate { .. } => {
                let said = native(self.head, self.wanted, (index, choice), self.cached[index], self.seconds);
                vec![event(&said)]
            }
            Api::Completions | Api::Responses => {
                let finish = delta.is_last.then(|| choice.finish());
                let said = Completion {
                    index,
                    text: echoed.unwrap_or_default().to_owned() + &delta.text,
                    logprobs: None,
                    finish_reason: finish.map(Finish::name),
                    matched_stop: finish.and_then(|finish| matched(finish, self.head.end)),
                };
                vec![event(&self.body("text_completion", vec![said], self.usage()))]
            }
            Api::Chat => {
                let said = Said { role: None, content: Some(delta.text), reasoning_content: None };
                let mut chunks = vec![self.delta(index, said, None)];
                if delta.is_last {
                    let nothing = Said { role: None, content: None, reasoning_content: None };
                    chunks.push(self.delta(index, nothing, Some(choice.finish())));
                }
                chunks
            }
        }
    }

    /// What was used, at the end, if the client wants to know.
    pub(crate) fn end(&self) -> String {
        let object = match self.wanted.api {
            Api::Completions | Api::Generate { .. } | Api::Responses => "text_completion",
            Api::Chat => "chat.completion.chunk",
        };
        event(&self.body::<Completion>(object, Vec::new(), Some(Usage::of(self.tokens))))
    }
}
