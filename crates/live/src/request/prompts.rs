//! What prompts are made of: texts, token ids, or the messages of a chat.

use std::ops::Range;

use serde_json::{Map, Value};

use super::Api;
use crate::content::Salt;
use crate::error::ApiError;
use crate::params::{Fields, NotAnId, Problem, invalid, not_an_id, token_id};
use crate::tokenizer::{NoTokens, Tokenizer};

/// Prompts before they are tokens.
#[derive(Debug)]
pub(crate) enum Prompts {
    /// None was given.
    Missing,
    /// An empty list.
    Empty,
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
    Chat(Vec<Message>),
}

/// A message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
}

/// A prompt in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// Which of them an answer repeats that is to be an echo: of a chat, its last message.
    pub(crate) heard: Range<usize>,
    /// What keeps it apart from equal ones, if anything does.
    pub(crate) salt: Option<Salt>,
}

impl Prompt {
    /// All of which is repeated.
    pub(crate) fn whole(ids: Vec<u32>) -> Self {
        Self { heard: 0..ids.len(), ids, salt: None }
    }

    /// Leaves the last tokens, at most so many.
    pub(crate) fn keep_last(&mut self, most: usize) {
        let gone = self.ids.len().saturating_sub(most);
        self.ids.drain(..gone);
        self.heard = self.heard.start.saturating_sub(gone)..self.heard.end.saturating_sub(gone);
    }
}

impl From<NoTokens> for ApiError {
    fn from(NoTokens(reason): NoTokens) -> Self {
        Self::bad_request(format!("The tokenizer cannot cut the prompt: {reason}"))
    }
}

impl Prompts {
    pub(crate) fn encode(
        self,
        api: Api,
        special_tokens: bool,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Prompt>, ApiError> {
        let special = special_tokens && api == Api::Completions;
        let prompts = match self {
            Self::Missing => {
                let message = "Either prompt or prompt_embeds must be provided and non-empty.";
                return Err(ApiError::of("prompt", message, None));
            }
            Self::Empty => return Err(ApiError::bad_request("You must pass at least one prompt")),
            Self::Texts(texts) => {
                let prompt = |text: &String| tokenizer.encode(text, special).map(Prompt::whole);
                texts.iter().map(prompt).collect::<Result<Vec<_>, _>>()?
            }
            Self::Ids(prompts) => {
                if let Some(id) = prompts.iter().flatten().find(|&&id| id >= tokenizer.vocabulary()) {
                    return Err(ApiError::bad_request(format!("Token id {id} is out of vocabulary")));
                }
                prompts.into_iter().map(Prompt::whole).collect()
            }
            Self::Chat(messages) if messages.is_empty() => {
                return Err(ApiError::bad_request(
                    "Cannot apply chat template to an empty conversation. Provide at least one message.",
                ));
            }
            Self::Chat(messages) => {
                let (ids, heard) = tokenizer.conversation(&messages)?;
                vec![Prompt { ids, heard, salt: None }]
            }
        };
        if prompts.iter().any(|prompt| prompt.ids.is_empty()) {
            return Err(ApiError::bad_request("The decoder prompt cannot be empty"));
        }
        Ok(prompts)
    }
}

/// The prompts of a completion: a text, ids, or a list of either.
pub(crate) fn prompts(fields: &mut Fields<'_>) -> Prompts {
    let Some(value) = fields.get("prompt") else { return Prompts::Missing };
    match value {
        Value::String(text) if text.is_empty() => Prompts::Missing,
        Value::String(text) => Prompts::Texts(vec![text.clone()]),
        Value::Array(items) if items.is_empty() => Prompts::Empty,
        Value::Array(items) => list_of_prompts(fields, value, items),
        _ => {
            let list = || Problem::new("list_type", "body.prompt", "Input should be a valid list", value);
            let text = Problem::new("string_type", "body.prompt", "Input should be a valid string", value);
            for problem in [list(), list(), text, list()] {
                fields.wrong(problem);
            }
            Prompts::Missing
        }
    }
}

fn list_of_prompts(fields: &mut Fields<'_>, value: &Value, items: &[Value]) -> Prompts {
    if let Some(texts) = items.iter().map(|item| item.as_str().map(str::to_owned)).collect() {
        return Prompts::Texts(texts);
    }
    if let Ok(ids) = items.iter().map(token_id).collect() {
        return Prompts::Ids(vec![ids]);
    }
    let list =
        |item: &Value| item.as_array().and_then(|ids| ids.iter().map(|id| token_id(id).ok()).collect());
    if let Some(lists) = items.iter().map(list).collect() {
        return Prompts::Ids(lists);
    }
    // It is none of four things, and what it is not of each is told, as a schema with a choice does.
    let places = || items.iter().enumerate().map(|(place, item)| (format!("body.prompt.{place}"), item));
    for (loc, item) in places() {
        if let Err(why @ (NotAnId::Negative | NotAnId::Type)) = token_id(item) {
            fields.wrong(not_an_id(why, loc, item));
        }
    }
    for (loc, item) in places().filter(|(_, item)| !item.is_array()) {
        fields.wrong(Problem::new("list_type", loc, "Input should be a valid list", item));
    }
    fields.wrong(Problem::new("string_type", "body.prompt", "Input should be a valid string", value));
    for (loc, item) in places().filter(|(_, item)| !item.is_string()) {
        fields.wrong(Problem::new("string_type", loc, "Input should be a valid string", item));
    }
    Prompts::Missing
}

/// The messages of a chat.
pub(crate) fn messages(fields: &mut Fields<'_>) -> Prompts {
    let Some(value) = fields.get("messages") else {
        let problem = Problem::missing("body.messages", fields.object());
        fields.wrong(problem);
        return Prompts::Missing;
    };
    let Some(items) = value.as_array() else {
        fields.wrong(Problem::new("list_type", "body.messages", "Input should be a valid list", value));
        return Prompts::Missing;
    };
    let mut messages = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let loc = format!("body.messages.{place}");
        let Some(message) = item.as_object() else {
            fields.wrong(Problem::new("dict_type", loc, "Input should be a valid dictionary", item));
            continue;
        };
        let Some(role) = message.get("role").and_then(Value::as_str) else {
            for problem in no_kind_of_message(&loc, message) {
                fields.wrong(problem);
            }
            continue;
        };
        let content = message.get("content").map_or_else(String::new, content);
        messages.push(Message { role: role.to_owned(), content });
    }
    Prompts::Chat(messages)
}

/// What the kinds of messages that there are miss in one without a role, in the order in which they are tried.
fn no_kind_of_message(loc: &str, message: &Map<String, Value>) -> Vec<Problem> {
    const WANTED: [(&str, &str); 11] = [
        ("ChatCompletionDeveloperMessageParam", "role"),
        ("ChatCompletionSystemMessageParam", "role"),
        ("ChatCompletionUserMessageParam", "role"),
        ("ChatCompletionAssistantMessageParam", "role"),
        ("ChatCompletionToolMessageParam", "role"),
        ("ChatCompletionToolMessageParam", "tool_call_id"),
        ("ChatCompletionFunctionMessageParam", "name"),
        ("ChatCompletionFunctionMessageParam", "role"),
        ("CustomChatCompletionMessageParam", "role"),
        ("Message", "author"),
        ("Message", "role"),
    ];
    let missing = WANTED.into_iter().filter(|(_, key)| !message.contains_key(*key));
    missing.map(|(kind, key)| Problem::missing(&format!("{loc}.{kind}.{key}"), message)).collect()
}

/// The text of a message: itself, or its parts one after the other.
pub(crate) fn content(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts
                .iter()
                .filter_map(|part| part.as_str().or_else(|| part.get("text").and_then(Value::as_str)));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// What `/tokenize` is to cut into tokens.
pub(crate) fn to_tokenize(body: &Map<String, Value>, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
    let mut fields = Fields::new(body);
    let special_tokens = fields.bool("add_special_tokens").unwrap_or(true);
    let (api, prompts) = if fields.get("prompt").is_some() {
        let text = fields.text("prompt").unwrap_or_default();
        (Api::Completions, Prompts::Texts(vec![text.to_owned()]))
    } else if fields.get("messages").is_some() {
        (Api::Chat, messages(&mut fields))
    } else {
        let missing = ["body.prompt", "body.messages"].map(|loc| Problem::missing(loc, body));
        return Err(invalid(&missing));
    };
    fields.checked()?;
    Ok(prompts.encode(api, special_tokens, tokenizer)?.swap_remove(0).ids)
}
