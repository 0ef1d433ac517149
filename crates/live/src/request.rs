//! What a client asks for: the body of `/v1/completions` and `/v1/chat/completions`, checked in the order and the words of
//! vLLM.

mod form;
mod given;
mod prompts;
mod salt;
mod sampling;
mod vocabulary;

use serde_json::{Map, Value};

use self::given::Given;
pub(crate) use self::prompts::{Message, Prompt, content, to_tokenize};
use self::prompts::{Prompts, messages, prompts};
pub(crate) use self::salt::salt;
use crate::error::ApiError;
use crate::length::OutputLength;
use crate::params::Fields;
use crate::responses::Repeated;
use crate::tokenizer::Tokenizer;

/// Most tokens that the answers to one request may have together, which keeps memory bounded.
const MOST_TOKENS: u64 = 1 << 22;

/// Tokens of a completion if nobody says.
const DEFAULT_COMPLETION: u32 = 16;

/// Whose API a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// That of vLLM.
    #[default]
    Vllm,
    /// That of SGLang.
    Sglang,
}

/// What a server serves.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) dialect: Dialect,
    /// The name of the model.
    pub(crate) model: String,
    /// Tokens of prompt and answer together.
    pub(crate) max_model_len: u32,
    /// Tokens of answers that end by themselves.
    pub(crate) length: OutputLength,
}

/// Which API a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Api {
    /// `/v1/completions`.
    #[default]
    Completions,
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/responses` of vLLM.
    Responses,
    /// `/generate` of SGLang; whether there is a list of answers.
    Generate { is_list: bool },
}

impl Api {
    /// Where requests to it come.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Generate { .. } => "/generate",
        }
    }
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Wanted {
    pub(crate) api: Api,
    pub(crate) prompts: Vec<Prompt>,
    /// Whether they were cut into tokens here.
    pub(crate) is_text: bool,
    /// Answers to each.
    pub(crate) n: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: u32,
    pub(crate) ignore_eos: bool,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) include_stop: bool,
    /// The only tokens that answers have, if there are any.
    pub(crate) allowed_token_ids: Vec<u32>,
    /// Repeat the prompt before the answer.
    pub(crate) echo: bool,
    /// Repeat it and say nothing else.
    pub(crate) echo_only: bool,
    /// Log-probabilities, and of how many tokens beside each.
    pub(crate) logprobs: Option<u32>,
    /// The same of prompts.
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_ids: bool,
    pub(crate) priority: i32,
    pub(crate) seed: Option<i64>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
    /// What answers of `/v1/responses` repeat.
    pub(crate) repeated: Option<Repeated>,
    /// What takes the place of a request id of ours.
    pub(crate) request_id: Option<String>,
}

impl Wanted {
    /// Of the body of a request.
    pub(crate) fn of(
        api: Api,
        body: &Map<String, Value>,
        served: &Served,
        tokenizer: &Tokenizer,
    ) -> Result<Self, ApiError> {
        let mut fields = Fields::new(body);
        let given = Given::read(&mut fields, api);
        let prompts = match api {
            Api::Completions | Api::Generate { .. } => prompts(&mut fields),
            Api::Chat | Api::Responses => messages(&mut fields),
        };
        fields.checked()?;
        // SGLang serves its model under any name.
        let model = given.model.as_deref().filter(|_| served.dialect == Dialect::Vllm);
        if let Some(model) = model.filter(|&model| model != served.model) {
            return Err(ApiError::no_model(model, &served.model));
        }
        given.check(api, served, tokenizer.vocabulary())?;
        let is_text = !matches!(prompts, Prompts::Ids(_));
        let prompts = prompts.encode(api, given.special_tokens, tokenizer)?;
        let mut prompts: Vec<Prompt> = prompts.into_iter().map(|prompt| given.truncated(prompt)).collect();
        salt(&mut prompts, &fields, served.dialect)?;
        let wanted = Wanted { is_text, ..given.wanted(api, prompts) };
        if served.dialect == Dialect::Sglang {
            wanted.check_total(served)?;
        }
        wanted.check_lengths(served)?;
        Ok(wanted)
    }

    /// Refuses what has no room in the context, as SGLang does; vLLM cuts it.
    pub(crate) fn check_total(&self, served: &Served) -> Result<(), ApiError> {
        let Some(max_tokens) = self.max_tokens.map(u64::from) else { return Ok(()) };
        let limit = u64::from(served.max_model_len);
        match self
            .prompts
            .iter()
            .map(|prompt| prompt.ids.len() as u64)
            .find(|prompt| prompt + max_tokens > limit)
        {
            None => Ok(()),
            Some(prompt) => Err(ApiError::bad_request(format!(
                "The context has {limit} tokens, but {prompt} of the prompt and {max_tokens} of the answer are \
                 {} together",
                prompt + max_tokens
            ))),
        }
    }

    /// The most tokens that the answer to a prompt may have.
    pub(crate) fn room(&self, prompt: &[u32], served: &Served) -> u32 {
        let left = served.max_model_len.saturating_sub(prompt.len() as u32);
        let default = match self.api {
            Api::Completions | Api::Generate { .. } => DEFAULT_COMPLETION,
            Api::Chat | Api::Responses => left,
        };
        self.max_tokens.unwrap_or(default).min(left)
    }

    /// Tokens of all prompts and answers, as many as they may be.
    pub(crate) fn tokens(&self, served: &Served) -> usize {
        let answer = |prompt: &Prompt| prompt.ids.len() + self.room(&prompt.ids, served) as usize;
        self.prompts.iter().map(answer).sum::<usize>().saturating_mul(self.n as usize)
    }

    /// Tokens after which the answer with these random bits ends by itself, if it does before it has no room.
    pub(crate) fn own_end(&self, served: &Served, random: u64) -> Option<u32> {
        let is_open = self.max_tokens.is_none() && matches!(self.api, Api::Chat | Api::Responses);
        let ends = (is_open || served.length.is_drawn()) && !self.ignore_eos;
        ends.then(|| served.length.draw(random).max(self.min_tokens).max(1))
    }

    pub(crate) fn check_lengths(&self, served: &Served) -> Result<(), ApiError> {
        let limit = served.max_model_len;
        let mut tokens = 0;
        for prompt in &self.prompts {
            let length = prompt.ids.len() as u32;
            if length > limit {
                // Nobody counts further than that in a text.
                let (length, least) = if self.is_text { (limit + 1, "at least ") } else { (length, "") };
                let message = format!(
                    "This model's maximum context length is {limit} tokens. However, your prompt contains \
                     {least}{length} input tokens, which exceeds this limit even without any output tokens. Please \
                     reduce the length of the input prompt."
                );
                return Err(ApiError::of("input_tokens", message, Some(&length.to_string())));
            }
            let room = self.room(&prompt.ids, served);
            if room == 0 {
                return Err(too_few_tokens(0));
            }
            tokens += u64::from(room) * u64::from(self.n);
        }
        if tokens > MOST_TOKENS {
            return Err(ApiError::bad_request(format!(
                "All answers together may have {tokens} tokens, but this server takes at most {MOST_TOKENS} a request"
            )));
        }
        Ok(())
    }
}

fn too_few_tokens(found: i64) -> ApiError {
    let message = format!("max_tokens must be at least 1, got {found}.");
    ApiError::of("max_tokens", message, Some(&found.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn served() -> Served {
        let length = OutputLength { tokens: 30, law: crate::length::LengthLaw::Constant };
        Served { dialect: Dialect::Vllm, model: "m".to_owned(), max_model_len: 100, length }
    }

    fn read(api: Api, body: &Value) -> Result<Wanted, String> {
        let wanted = Wanted::of(api, body.as_object().unwrap(), &served(), &Tokenizer::built_in());
        wanted.map_err(|error| error.to_string())
    }

    #[test]
    fn prompts_are_texts_or_ids_or_lists_of_them() {
        let lengths = |prompt: Value| -> Vec<usize> {
            let wanted = read(Api::Completions, &json!({ "prompt": prompt })).unwrap();
            wanted.prompts.iter().map(|prompt| prompt.ids.len()).collect()
        };
        assert_eq!(lengths(json!("two words")), [3]);
        assert_eq!(lengths(json!(["two words", "one"])), [3, 2]);
        assert_eq!(lengths(json!([5, 6, 7])), [3]);
        assert_eq!(lengths(json!([[5, 6, 7], [8]])), [3, 1]);
    }

    #[test]
    fn an_answer_has_room_up_to_the_context() {
        let room = |api, body: Value| {
            let wanted = read(api, &body).unwrap();
            (wanted.room(&wanted.prompts[0].ids, &served()), wanted.own_end(&served(), 0))
        };
        assert_eq!(room(Api::Completions, json!({"prompt": [5, 6]})), (16, None));
        assert_eq!(room(Api::Completions, json!({"prompt": vec![5; 90], "max_tokens": 99})), (10, None));
        let chat = |more: Value| {
            let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            room(Api::Chat, body)
        };
        let (room, end) = chat(json!({}));
        assert!(room > 80 && end == Some(30));
        assert_eq!(chat(json!({"max_completion_tokens": 7, "max_tokens": 9})), (7, None));
        assert_eq!(chat(json!({"ignore_eos": true})).1, None);
        assert_eq!(chat(json!({"min_tokens": 50})).1, Some(50));
    }

    #[test]
    fn a_chat_goes_on_with_what_was_said() {
        let tokenizer = Tokenizer::built_in();
        let of = |messages: Value| {
            let body = json!({ "messages": messages });
            let body = body.as_object().unwrap();
            Wanted::of(Api::Chat, body, &served(), &tokenizer).unwrap().prompts.remove(0).ids
        };
        let first = of(json!([{"role": "user", "content": "hi"}]));
        let mut said = crate::pieces::Pieces::default();
        let output = crate::output::Output::new(&crate::output::OutputText::Lorem, &tokenizer).unwrap();
        let _ = output.say(&first, 0..0, 5, &tokenizer, &mut |id, text| {
            said.push(id, text);
            if said.len() == 9 {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        });
        let (reply, ids) = (said.text(9), said.ids());
        let next = of(json!([
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": reply}, {"role": "user", "content": "more"},
        ]));
        assert_eq!(next[..first.len() + 9], [&first, ids].concat());
    }

    #[test]
    fn what_the_real_one_takes_is_taken() {
        for more in [
            json!({"logit_bias": {"5": 300, " 7 ": "0.5"}}),
            json!({"logit_bias": {}}),
            json!({"stop": ["a", "b", "c", "d", "e", "f"]}),
            json!({"best_of": 5}),
            json!({"top_k": -1, "top_p": 1, "min_p": 0, "temperature": 2}),
            json!({"top_k": 0, "repetition_penalty": 30, "presence_penalty": -2, "frequency_penalty": 2}),
            json!({"truncate_prompt_tokens": -1}),
            json!({"response_format": {"type": "json_object"}}),
            json!({"response_format": {"type": "structural_tag", "format": {}}}),
            json!({"allowed_token_ids": null, "logprobs": -1, "prompt_logprobs": 20}),
        ] {
            let mut body = json!({"prompt": "x"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert!(read(Api::Completions, &body).is_ok(), "{more}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (more, message) in [
            (json!({"n": 0}), "n must be at least 1, got 0."),
            (json!({"n": 2, "temperature": 0}), "n must be 1 when using greedy sampling, got 2."),
            (
                json!({"max_tokens": 0}),
                "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            ),
            (json!({"logit_bias": {"5": 1, "x": 2}}), "invalid literal for int() with base 10: 'x'"),
            (
                json!({"logit_bias": {"5": 1, "131072": -300, "-1": 2}}),
                "token_id(s) [-1, 131072] in logit_bias contain out-of-vocab token ids. Vocabulary size: 131072 \
                 (parameter=logit_bias, value=[-1, 131072])",
            ),
            (
                json!({"allowed_token_ids": []}),
                "allowed_token_ids is not None and empty! (parameter=allowed_token_ids, value=[])",
            ),
            (
                json!({"allowed_token_ids": [5, 131_072]}),
                "allowed_token_ids contains out-of-vocab token id! (parameter=allowed_token_ids, value=[131072])",
            ),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "When response_format type is 'json_schema', the 'json_schema' field must be provided. \
                 (parameter=response_format)",
            ),
            (
                json!({"truncate_prompt_tokens": -2}),
                "1 validation error:\n  {'type': 'greater_than_equal', 'loc': 'body.truncate_prompt_tokens', 'msg': \
                 'Input should be greater than or equal to -1', 'input': '-2', 'ctx': {'ge': -1}}",
            ),
            (
                json!({"logit_bias": {"5": "many"}}),
                "1 validation error:\n  {'type': 'float_parsing', 'loc': 'body.logit_bias.5', 'msg': 'Input should be \
                 a valid number, unable to parse string as a number', 'input': 'many'}",
            ),
            (json!({"stop": ["a", ""]}), "stop cannot contain an empty string."),
            (json!({"bad_words": [""]}), "bad_words cannot contain an empty string."),
            (
                json!({"temperature": "nan"}),
                "temperature must be a finite number, got nan. (parameter=temperature, value=nan)",
            ),
            (
                json!({"temperature": 2.5}),
                "temperature must be in [0, 2], got 2.5. (parameter=temperature, value=2.5)",
            ),
            (json!({"top_k": -2}), "top_k must be 0 (disable), or at least 1, got -2."),
            (json!({"min_p": 1.5}), "min_p must be in [0, 1], got 1.5."),
            (json!({"presence_penalty": 3}), "presence_penalty must be in [-2, 2], got 3.0."),
            (json!({"repetition_penalty": 0}), "repetition_penalty must be greater than zero, got 0.0."),
            (
                json!({"prompt_logprobs": -7}),
                "`prompt_logprobs` must be a positive value or -1. (parameter=prompt_logprobs, value=-7)",
            ),
            (
                json!({"prompt_logprobs": 2, "stream": true}),
                "`prompt_logprobs` are not available when `stream=True`. (parameter=prompt_logprobs)",
            ),
            (json!({"model": "other"}), "The model `other` does not exist. Valid aliases: m."),
            (json!({"prompt": [5, 1_000_000]}), "Token id 1000000 is out of vocabulary"),
            (
                json!({"prompt": vec![5; 100]}),
                "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            ),
        ] {
            let mut body = json!({"prompt": "x"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(read(Api::Completions, &body), Err(message.to_owned()));
        }
    }
}
