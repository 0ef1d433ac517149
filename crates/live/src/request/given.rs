//! Fields of a request's body, and what is wrong with their values.

use serde_json::Value;

use super::form::Form;
use super::sampling::Sampling;
use super::vocabulary::Vocabulary;
use super::{Api, Dialect, Prompt, Served, Wanted, too_few_tokens};
use crate::error::ApiError;
use crate::params::{Fields, Problem};

/// Most log-probabilities of a token.
const MOST_LOGPROBS: i64 = 20;

/// Most answers to a prompt, as vLLM has it.
const MOST_ANSWERS: i64 = 16384;

/// Fields of a body, each of its type.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) model: Option<String>,
    max_tokens: Option<i64>,
    min_tokens: Option<i64>,
    n: Option<i64>,
    sampling: Sampling,
    stream: bool,
    has_stream_options: bool,
    include_usage: bool,
    continuous_usage: bool,
    stop: Vec<String>,
    stop_token_ids: Vec<u32>,
    include_stop: bool,
    vocabulary: Vocabulary,
    form: Form,
    ignore_eos: bool,
    echo: bool,
    /// Of a chat, which only says something of the prompt's tokens.
    echo_chat: bool,
    logprobs: Option<Logprobs>,
    prompt_logprobs: Option<i64>,
    /// Whether a chat is to choose among tools.
    chooses_tools: bool,
    return_token_ids: bool,
    tokens_as_ids: bool,
    pub(super) special_tokens: bool,
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
    pub(super) fn read(fields: &mut Fields<'_>, api: Api) -> Self {
        let max_completion = if api == Api::Chat { fields.int("max_completion_tokens") } else { None };
        let logprobs = match api {
            Api::Completions | Api::Generate { .. } => fields.int("logprobs").map(Logprobs::Of),
            Api::Chat | Api::Responses => {
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
            sampling: Sampling::read(fields),
            stream: fields.bool("stream").unwrap_or(false),
            stop: fields.texts("stop"),
            stop_token_ids: fields.ids("stop_token_ids"),
            include_stop: fields.bool("include_stop_str_in_output").unwrap_or(false),
            vocabulary: Vocabulary::read(fields),
            form: Form::read(fields),
            ignore_eos: fields.bool("ignore_eos").unwrap_or(false),
            echo: api == Api::Completions && fields.bool("echo").unwrap_or(false),
            echo_chat: api == Api::Chat && fields.bool("echo").unwrap_or(false),
            logprobs,
            prompt_logprobs: fields.int("prompt_logprobs"),
            return_token_ids: fields.bool("return_token_ids").unwrap_or(false),
            tokens_as_ids: fields.bool("return_tokens_as_token_ids").unwrap_or(false),
            special_tokens: fields.bool("add_special_tokens").unwrap_or(api == Api::Completions),
            truncate: fields.int_from("truncate_prompt_tokens", -1),
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

    /// In the order of vLLM, with a vocabulary of so many tokens.
    pub(super) fn check(&self, api: Api, served: &Served, vocabulary: u32) -> Result<(), ApiError> {
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
        self.form.check()?;
        self.check_prompt_logprobs()?;
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
            if max_tokens < 1 && !self.only_echoes() {
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
        self.check_sampling(served.dialect)?;
        // SGLang has no such fields, or clamps what they say.
        if served.dialect == Dialect::Vllm { self.vocabulary.check(vocabulary) } else { Ok(()) }
    }

    /// Log-probabilities of prompts come with a whole answer.
    fn check_prompt_logprobs(&self) -> Result<(), ApiError> {
        let Some(most) = self.prompt_logprobs else { return Ok(()) };
        if self.stream && (most > 0 || most == -1) {
            let message = "`prompt_logprobs` are not available when `stream=True`.";
            return Err(ApiError::of("prompt_logprobs", message, None));
        }
        let value = most.to_string();
        if most < -1 {
            let message = "`prompt_logprobs` must be a positive value or -1.";
            return Err(ApiError::of("prompt_logprobs", message, Some(&value)));
        }
        if most > MOST_LOGPROBS {
            let message = format!(
                "Requested prompt logprobs of {most}, which is greater than max allowed: {MOST_LOGPROBS}"
            );
            return Err(ApiError::of("prompt_logprobs", message, Some(&value)));
        }
        Ok(())
    }

    fn check_sampling(&self, dialect: Dialect) -> Result<(), ApiError> {
        let n = self.n.unwrap_or(1);
        if n < 1 {
            return Err(ApiError::bad_request(format!("n must be at least 1, got {n}.")));
        }
        if n > MOST_ANSWERS {
            return Err(ApiError::bad_request(format!("n must be at most {MOST_ANSWERS}, got {n}.")));
        }
        self.sampling.check(dialect)?;
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
        self.sampling.check_words()?;
        if self.sampling.temperature.is_some_and(|temperature| temperature < 1e-5) && n > 1 {
            return Err(ApiError::bad_request(format!("n must be 1 when using greedy sampling, got {n}.")));
        }
        Ok(())
    }

    /// Whether the answer is the prompt and nothing else.
    fn only_echoes(&self) -> bool {
        self.echo && self.max_tokens == Some(0)
    }

    /// The last tokens of a prompt, as many as the client wants of it.
    pub(super) fn truncated(&self, mut prompt: Prompt) -> Prompt {
        if let Some(most) = self.truncate.and_then(|most| usize::try_from(most).ok()).filter(|&most| most > 0)
        {
            prompt.keep_last(most);
        }
        prompt
    }

    pub(super) fn wanted(self, api: Api, prompts: Vec<Prompt>) -> Wanted {
        let least = |number: i64| number.clamp(0, i64::from(u32::MAX)) as u32;
        let echo_only = self.only_echoes();
        let logprobs = match self.logprobs {
            Some(Logprobs::Of(most)) => Some(least(most)),
            Some(Logprobs::Top) | None => None,
        };
        // Whoever wants the prompt again wants to know of its tokens what it wants of others.
        let of_echo = if api == Api::Chat { self.echo_chat.then(|| logprobs.unwrap_or(0)) } else { logprobs };
        let prompt_logprobs =
            self.prompt_logprobs.map(least).or(of_echo.filter(|_| self.echo || self.echo_chat));
        Wanted {
            api,
            prompts,
            is_text: false,
            n: least(self.n.unwrap_or(1)),
            max_tokens: self.max_tokens.map(|most| if echo_only { 1 } else { least(most) }),
            min_tokens: self.min_tokens.map_or(0, least),
            ignore_eos: self.ignore_eos,
            stop: self.stop,
            stop_token_ids: self.stop_token_ids,
            include_stop: self.include_stop,
            allowed_token_ids: self.vocabulary.allowed.unwrap_or_default(),
            echo: self.echo,
            echo_only,
            logprobs,
            prompt_logprobs,
            return_token_ids: self.return_token_ids,
            tokens_as_ids: self.tokens_as_ids,
            priority: self
                .priority
                .map_or(0, |priority| priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32),
            seed: self.seed,
            stream: self.stream,
            include_usage: self.include_usage,
            continuous_usage: self.include_usage && self.continuous_usage,
            repeated: None,
            request_id: self.request_id,
        }
    }
}
