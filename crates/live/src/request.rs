//! What a client asks for: the body of `/v1/completions` and `/v1/chat/completions`, checked in the order and the words of
//! vLLM.

mod prompts;

use serde_json::{Map, Value};

pub(crate) use self::prompts::{Message, Prompt, to_tokenize};
use self::prompts::{Prompts, messages, prompts};
use crate::error::ApiError;
use crate::length::OutputLength;
use crate::params::{Fields, Problem, float};
use crate::tokenizer::Tokenizer;

/// Most tokens that the answers to one request may have together, which keeps memory bounded.
const MOST_TOKENS: u64 = 1 << 22;

/// Most log-probabilities of a token.
const MOST_LOGPROBS: i64 = 20;

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
    /// `/generate` of SGLang; whether there is a list of answers.
    Generate { is_list: bool },
}

impl Api {
    /// Where requests to it come.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
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
    /// Log-probabilities, and of how many tokens beside each.
    pub(crate) logprobs: Option<u32>,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_ids: bool,
    pub(crate) priority: i32,
    pub(crate) seed: Option<i64>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
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
            Api::Chat => messages(&mut fields),
        };
        fields.checked()?;
        // SGLang serves its model under any name.
        let model = given.model.as_deref().filter(|_| served.dialect == Dialect::Vllm);
        if let Some(model) = model.filter(|&model| model != served.model) {
            return Err(ApiError::no_model(model, &served.model));
        }
        given.check(api, served)?;
        let is_text = !matches!(prompts, Prompts::Ids(_));
        let prompts = prompts.encode(api, given.special_tokens, tokenizer)?;
        let prompts = prompts.into_iter().map(|prompt| given.truncated(prompt)).collect();
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
            Api::Chat => left,
        };
        self.max_tokens.unwrap_or(default).min(left)
    }

    /// Tokens after which the answer with these random bits ends by itself, if it does before it has no room.
    pub(crate) fn own_end(&self, served: &Served, random: u64) -> Option<u32> {
        let is_open = self.max_tokens.is_none() && self.api == Api::Chat;
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

/// Fields of a body, each of its type.
#[derive(Debug, Default)]
struct Given {
    model: Option<String>,
    max_tokens: Option<i64>,
    min_tokens: Option<i64>,
    n: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stream: bool,
    has_stream_options: bool,
    include_usage: bool,
    continuous_usage: bool,
    stop: Vec<String>,
    stop_token_ids: Vec<u32>,
    include_stop: bool,
    allowed_token_ids: Vec<u32>,
    ignore_eos: bool,
    echo: bool,
    logprobs: Option<Logprobs>,
    /// Whether a chat is to choose among tools.
    chooses_tools: bool,
    return_token_ids: bool,
    tokens_as_ids: bool,
    special_tokens: bool,
    truncate: Option<i64>,
    priority: Option<i64>,
    seed: Option<i64>,
    request_id: Option<String>,
}

/// Log-probabilities that a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logprobs {
    /// Of each token, and of so many others.
    Of(i64),
    /// Of others, but none of the token itself.
    Top,
}

/// Whether there are tools, and nobody says that none or which one is to be used.
fn chooses_tools(fields: &Fields<'_>) -> bool {
    let has_tools = fields.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
    let choice = fields.get("tool_choice");
    has_tools && choice.is_none_or(|choice| choice == "auto")
}

impl Given {
    fn read(fields: &mut Fields<'_>, api: Api) -> Self {
        let max_completion = if api == Api::Chat { fields.int("max_completion_tokens") } else { None };
        let logprobs = match api {
            Api::Completions | Api::Generate { .. } => fields.int("logprobs").map(Logprobs::Of),
            Api::Chat => {
                let top = fields.int("top_logprobs");
                let wants = fields.bool("logprobs").unwrap_or(false);
                if top.is_some_and(|top| top > 0) && !wants {
                    Some(Logprobs::Top)
                } else {
                    wants.then(|| Logprobs::Of(top.unwrap_or(0)))
                }
            }
        };
        let mut given = Self {
            model: fields.text("model").map(str::to_owned),
            max_tokens: max_completion.or(fields.int("max_tokens")),
            min_tokens: fields.int("min_tokens"),
            n: fields.int("n"),
            temperature: fields.number("temperature"),
            top_p: fields.number("top_p"),
            stream: fields.bool("stream").unwrap_or(false),
            stop: fields.texts("stop"),
            stop_token_ids: fields.ids("stop_token_ids"),
            include_stop: fields.bool("include_stop_str_in_output").unwrap_or(false),
            allowed_token_ids: fields.ids("allowed_token_ids"),
            ignore_eos: fields.bool("ignore_eos").unwrap_or(false),
            echo: api == Api::Completions && fields.bool("echo").unwrap_or(false),
            logprobs,
            return_token_ids: fields.bool("return_token_ids").unwrap_or(false),
            tokens_as_ids: fields.bool("return_tokens_as_token_ids").unwrap_or(false),
            special_tokens: fields.bool("add_special_tokens").unwrap_or(api == Api::Completions),
            truncate: fields.int("truncate_prompt_tokens"),
            priority: fields.int("priority"),
            seed: fields.int("seed"),
            request_id: fields.text("request_id").map(str::to_owned),
            chooses_tools: api == Api::Chat && chooses_tools(fields),
            ..Self::default()
        };
        match fields.get("stream_options") {
            Some(Value::Object(options)) => {
                let mut options = Fields::within(options, "body.stream_options");
                given.has_stream_options = true;
                given.include_usage = options.bool("include_usage").unwrap_or(false);
                given.continuous_usage = options.bool("continuous_usage_stats").unwrap_or(false);
            }
            Some(other) => {
                let msg = "Input should be a valid dictionary or object to extract fields from";
                fields.wrong(Problem::new("model_attributes_type", "body.stream_options", msg, other));
            }
            None => {}
        }
        given
    }

    fn check(&self, api: Api, served: &Served) -> Result<(), ApiError> {
        if self.has_stream_options && !self.stream {
            let message = "Stream options can only be defined when `stream=True`.";
            return Err(ApiError::of("stream_options", message, None));
        }
        if self.chooses_tools {
            return Err(ApiError::bad_request(
                "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set",
            ));
        }
        if self.logprobs == Some(Logprobs::Top) {
            let message = "when using `top_logprobs`, `logprobs` must be set to true.";
            return Err(ApiError::of("top_logprobs", message, None));
        }
        if let Some(Logprobs::Of(logprobs)) = self.logprobs {
            let param = if api == Api::Chat { "top_logprobs" } else { "logprobs" };
            let value = logprobs.to_string();
            if logprobs < 0 && logprobs != -1 {
                let message = format!("`{param}` must be a positive value or -1.");
                return Err(ApiError::of(param, message, Some(&value)));
            }
            if logprobs > MOST_LOGPROBS {
                let message = format!(
                    "Requested sample logprobs of {logprobs}, which is greater than max allowed: {MOST_LOGPROBS}"
                );
                return Err(ApiError::of("logprobs", message, Some(&value)));
            }
        }
        if let Some(max_tokens) = self.max_tokens {
            if max_tokens < 1 {
                return Err(too_few_tokens(max_tokens));
            }
            let limit = served.max_model_len;
            if max_tokens > i64::from(limit) && served.dialect == Dialect::Vllm {
                let message = format!(
                    "max_tokens={max_tokens} cannot be greater than max_model_len={limit}. Please request fewer output \
                     tokens."
                );
                return Err(ApiError::of("max_tokens", message, Some(&max_tokens.to_string())));
            }
        }
        self.check_sampling()
    }

    fn check_sampling(&self) -> Result<(), ApiError> {
        let n = self.n.unwrap_or(1);
        if n < 1 {
            return Err(ApiError::bad_request(format!("n must be at least 1, got {n}.")));
        }
        if n > i64::from(u16::MAX) {
            return Err(ApiError::bad_request(format!("n must be at most {}, got {n}.", u16::MAX)));
        }
        if let Some(temperature) =
            self.temperature.filter(|temperature| *temperature < 0.0 || temperature.is_nan())
        {
            let value = float(temperature);
            let message = format!("temperature must be non-negative, got {value}.");
            return Err(ApiError::of("temperature", message, Some(&value)));
        }
        if let Some(top_p) = self.top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
            let value = float(top_p);
            let message = format!("top_p must be in (0, 1], got {value}.");
            return Err(ApiError::of("top_p", message, Some(&value)));
        }
        if let (Some(min_tokens), Some(max_tokens)) = (self.min_tokens, self.max_tokens)
            && min_tokens > max_tokens
        {
            return Err(ApiError::bad_request(format!(
                "min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
            )));
        }
        if let Some(min_tokens) = self.min_tokens.filter(|min_tokens| *min_tokens < 0) {
            return Err(ApiError::bad_request(format!(
                "min_tokens must be greater than or equal to 0, got {min_tokens}."
            )));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(ApiError::bad_request("stop cannot contain an empty string."));
        }
        if self.temperature.is_some_and(|temperature| temperature < 1e-5) && n > 1 {
            return Err(ApiError::bad_request(format!("n must be 1 when using greedy sampling, got {n}.")));
        }
        Ok(())
    }

    /// The last tokens of a prompt, as many as the client wants of it.
    fn truncated(&self, mut prompt: Prompt) -> Prompt {
        if let Some(most) = self.truncate.and_then(|most| usize::try_from(most).ok()).filter(|&most| most > 0)
        {
            prompt.keep_last(most);
        }
        prompt
    }

    fn wanted(self, api: Api, prompts: Vec<Prompt>) -> Wanted {
        let least = |number: i64| number.clamp(0, i64::from(u32::MAX)) as u32;
        Wanted {
            api,
            prompts,
            is_text: false,
            n: least(self.n.unwrap_or(1)),
            max_tokens: self.max_tokens.map(least),
            min_tokens: self.min_tokens.map_or(0, least),
            ignore_eos: self.ignore_eos,
            stop: self.stop,
            stop_token_ids: self.stop_token_ids,
            include_stop: self.include_stop,
            allowed_token_ids: self.allowed_token_ids,
            echo: self.echo,
            logprobs: match self.logprobs {
                Some(Logprobs::Of(most)) => Some(least(most)),
                Some(Logprobs::Top) | None => None,
            },
            return_token_ids: self.return_token_ids,
            tokens_as_ids: self.tokens_as_ids,
            priority: self
                .priority
                .map_or(0, |priority| priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32),
            seed: self.seed,
            stream: self.stream,
            include_usage: self.include_usage,
            continuous_usage: self.include_usage && self.continuous_usage,
            request_id: self.request_id,
        }
    }
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
    fn what_makes_no_sense_is_refused() {
        for (more, message) in [
            (json!({"n": 0}), "n must be at least 1, got 0."),
            (json!({"n": 2, "temperature": 0}), "n must be 1 when using greedy sampling, got 2."),
            (
                json!({"max_tokens": 0}),
                "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            ),
            (json!({"stop": ["a", ""]}), "stop cannot contain an empty string."),
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
