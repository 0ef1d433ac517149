//! `/v1/responses`: what a client asks for, and what it gets, with the keys of vLLM 0.32 in their order.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::answer::{Head, Tokens, to_json};
use crate::choice::{Choice, Delta, Finish};
use crate::error::ApiError;
use crate::params::{Fields, Problem};
use crate::request::{Api, Message, Prompt, Served, Wanted, salt};
use crate::tokenizer::Tokenizer;

type Null = Option<()>;

/// What answers repeat of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Repeated {
    instructions: Option<String>,
    temperature: f64,
    top_p: f64,
}

/// Of the body of a request.
pub(crate) fn wanted(
    body: &Map<String, Value>,
    served: &Served,
    tokenizer: &Tokenizer,
) -> Result<Wanted, ApiError> {
    let mut fields = Fields::new(body);
    let model = fields.text("model").map(str::to_owned);
    let instructions = fields.text("instructions").map(str::to_owned);
    let max_tokens = fields.int("max_output_tokens");
    let stream = fields.bool("stream").unwrap_or(false);
    let ignore_eos = fields.bool("ignore_eos").unwrap_or(false);
    let temperature = fields.number("temperature").unwrap_or(1.0);
    let top_p = fields.number("top_p").unwrap_or(1.0);
    let (seed, priority) = (fields.int("seed"), fields.int("priority").unwrap_or(0));
    let request_id = fields.text("request_id").map(str::to_owned);
    let mut messages = Vec::new();
    if let Some(content) = &instructions {
        messages.push(Message { role: "system".to_owned(), content: content.clone() });
    }
    input(&mut fields, &mut messages);
    fields.checked()?;
    if let Some(model) = model.filter(|model| *model != served.model) {
        return Err(ApiError::no_model(&model, &served.model));
    }
    if let Some(found) = max_tokens.filter(|&most| most < 1) {
        let message = format!("max_tokens must be at least 1, got {found}.");
        return Err(ApiError::of("max_tokens", message, Some(&found.to_string())));
    }
    if messages.is_empty() {
        return Err(ApiError::bad_request("There is no input: give a text or a list of messages"));
    }
    let (ids, heard) = tokenizer.conversation(&messages)?;
    let mut prompts = vec![Prompt { ids, heard, salt: None }];
    salt(&mut prompts, &fields, served.dialect)?;
    let wanted = Wanted {
        api: Api::Responses,
        is_text: true,
        prompts,
        n: 1,
        max_tokens: max_tokens.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        ignore_eos,
        priority: priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32,
        seed,
        stream,
        request_id,
        repeated: Some(Repeated { instructions, temperature, top_p }),
        ..Wanted::default()
    };
    wanted.check_lengths(served)?;
    Ok(wanted)
}

/// The messages of an input: a text, or a list of them.
fn input(fields: &mut Fields<'_>, messages: &mut Vec<Message>) {
    match fields.get("input") {
        None => fields.wrong(Problem::missing("body.input", fields.object())),
        Some(Value::String(text)) => {
            messages.push(Message { role: "user".to_owned(), content: text.clone() });
        }
        Some(Value::Array(items)) => {
            for (place, item) in items.iter().enumerate() {
                let Some(item) = item.as_object() else {
                    let loc = format!("body.input.{place}");
                    fields.wrong(Problem::new("dict_type", loc, "Input should be a valid dictionary", item));
                    continue;
                };
                let role = item.get("role").and_then(Value::as_str).unwrap_or("user").to_owned();
                let content = item.get("content").map_or_else(String::new, crate::request::content);
                messages.push(Message { role, content });
            }
        }
        Some(other) => {
            let loc = "body.input";
            fields.wrong(Problem::new("string_type", loc, "Input should be a valid string", other));
        }
    }
}

#[derive(Serialize)]
struct Response<'a> {
    id: &'a str,
    created_at: u64,
    incomplete_details: Option<Incomplete>,
    instructions: Option<&'a str>,
    metadata: Null,
    model: &'a str,
    object: &'static str,
    output: Vec<Item>,
    parallel_tool_calls: bool,
    temperature: f64,
    tool_choice: &'static str,
    tools: [(); 0],
    top_p: f64,
    background: bool,
    max_output_tokens: u32,
    max_tool_calls: Null,
    previous_response_id: Null,
    prompt: Null,
    reasoning: Null,
    service_tier: &'static str,
    status: &'static str,
    text: Null,
    top_logprobs: Null,
    truncation: &'static str,
    usage: Option<Usage>,
    user: Null,
    presence_penalty: f64,
    frequency_penalty: f64,
    kv_transfer_params: Null,
    ec_transfer_params: Null,
    input_messages: Null,
    output_messages: Null,
}

#[derive(Serialize)]
struct Incomplete {
    reason: &'static str,
}

#[derive(Serialize)]
struct Item {
    id: String,
    content: Vec<Part>,
    role: &'static str,
    status: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    phase: Null,
}

#[derive(Serialize)]
struct Part {
    annotations: [(); 0],
    text: String,
    #[serde(rename = "type")]
    kind: &'static str,
    logprobs: Option<[(); 0]>,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
    input_tokens_per_turn: [(); 0],
    cached_tokens_per_turn: [(); 0],
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
    tool_output_tokens: u64,
    output_tokens_per_turn: [(); 0],
    tool_output_tokens_per_turn: [(); 0],
}

#[derive(Serialize)]
struct OfResponse<'a> {
    response: Response<'a>,
    sequence_number: usize,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct OfItem {
    item: Item,
    output_index: usize,
    sequence_number: usize,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct OfPart {
    content_index: usize,
    item_id: String,
    output_index: usize,
    part: Part,
    sequence_number: usize,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct OfText {
    content_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<String>,
    item_id: String,
    logprobs: [(); 0],
    output_index: usize,
    sequence_number: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
}

fn part(text: &str, logprobs: Option<[(); 0]>) -> Part {
    Part { annotations: [], text: text.to_owned(), kind: "output_text", logprobs }
}

fn event(kind: &str, data: &impl Serialize) -> String {
    format!("event: {kind}\ndata: {}\n\n", to_json(data))
}

fn of_item(kind: &'static str, item: Item, sequence_number: usize) -> String {
    event(kind, &OfItem { item, output_index: 0, sequence_number, kind })
}

/// A request and how far it is.
pub(crate) struct State<'a> {
    pub(crate) head: &'a Head,
    pub(crate) wanted: &'a Wanted,
    pub(crate) choice: &'a Choice,
    pub(crate) tokens: Tokens,
    /// Tokens that the answer may have.
    pub(crate) room: u32,
}

impl State<'_> {
    fn item_id(&self) -> String {
        format!("msg_{:016x}", xxhash_rust::xxh3::xxh3_64(self.head.id.as_bytes()))
    }

    fn item(&self, content: Vec<Part>, status: &'static str) -> Item {
        Item { id: self.item_id(), content, role: "assistant", status, kind: "message", phase: None }
    }

    /// The response as it is when it begins, or ends.
    fn response(&self, is_over: bool) -> Response<'_> {
        let Head { id, created, model, .. } = self.head;
        let is_cut = is_over && *self.choice.finish() == Finish::Length;
        let Tokens { prompt, completion, cached } = self.tokens;
        let repeated = self.wanted.repeated.as_ref();
        Response {
            id,
            created_at: *created,
            incomplete_details: is_cut.then_some(Incomplete { reason: "max_output_tokens" }),
            instructions: repeated.and_then(|repeated| repeated.instructions.as_deref()),
            metadata: None,
            model,
            object: "response",
            output: if is_over {
                vec![self.item(vec![part(self.choice.text(), None)], "completed")]
            } else {
                Vec::new()
            },
            parallel_tool_calls: true,
            temperature: repeated.map_or(1.0, |repeated| repeated.temperature),
            tool_choice: "none",
            tools: [],
            top_p: repeated.map_or(1.0, |repeated| repeated.top_p),
            background: false,
            max_output_tokens: self.room,
            max_tool_calls: None,
            previous_response_id: None,
            prompt: None,
            reasoning: None,
            service_tier: "auto",
            status: match (is_over, is_cut) {
                (false, _) => "in_progress",
                (true, true) => "incomplete",
                (true, false) => "completed",
            },
            text: None,
            top_logprobs: None,
            truncation: "disabled",
            usage: is_over.then_some(Usage {
                input_tokens: prompt,
                input_tokens_details: InputDetails {
                    cached_tokens: cached,
                    cache_write_tokens: 0,
                    input_tokens_per_turn: [],
                    cached_tokens_per_turn: [],
                },
                output_tokens: completion,
                output_tokens_details: OutputDetails {
                    reasoning_tokens: 0,
                    tool_output_tokens: 0,
                    output_tokens_per_turn: [],
                    tool_output_tokens_per_turn: [],
                },
                total_tokens: prompt + completion,
            }),
            user: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            kv_transfer_params: None,
            ec_transfer_params: None,
            input_messages: None,
            output_messages: None,
        }
    }

    /// An answer without a stream.
    pub(crate) fn whole(&self) -> String {
        to_json(&self.response(true))
    }

    fn of_response(&self, kind: &'static str, is_over: bool, sequence_number: usize) -> String {
        event(kind, &OfResponse { response: self.response(is_over), sequence_number, kind })
    }

    /// What a stream begins with, before any token.
    pub(crate) fn begin(&self) -> [String; 2] {
        [("response.created", 0), ("response.in_progress", 1)]
            .map(|(kind, number)| self.of_response(kind, false, number))
    }

    fn of_part(&self, kind: &'static str, part: Part, sequence_number: usize) -> String {
        let item_id = self.item_id();
        event(kind, &OfPart { content_index: 0, item_id, output_index: 0, part, sequence_number, kind })
    }

    fn of_text(
        &self,
        kind: &'static str,
        delta: Option<String>,
        text: Option<&str>,
        number: usize,
    ) -> String {
        let text = text.map(str::to_owned);
        event(
            kind,
            &OfText {
                content_index: 0,
                delta,
                item_id: self.item_id(),
                logprobs: [],
                output_index: 0,
                sequence_number: number,
                text,
                kind,
            },
        )
    }

    /// A token, with what comes before the first one.
    pub(crate) fn token(&self, delta: Delta) -> Vec<String> {
        let mut events = Vec::new();
        let tokens = self.choice.tokens();
        if tokens == 1 {
            events.push(of_item("response.output_item.added", self.item(Vec::new(), "in_progress"), 2));
            events.push(self.of_part("response.content_part.added", part("", Some([])), 3));
        }
        events.push(self.of_text("response.output_text.delta", Some(delta.text), None, 3 + tokens));
        events
    }

    /// What a stream ends with.
    pub(crate) fn end(&self) -> [String; 4] {
        let (text, number) = (self.choice.text(), 4 + self.choice.tokens());
        let said = || part(text, None);
        [
            self.of_text("response.output_text.done", None, Some(text), number),
            self.of_part("response.content_part.done", said(), number + 1),
            of_item("response.output_item.done", self.item(vec![said()], "completed"), number + 2),
            self.of_response("response.completed", true, number + 3),
        ]
    }
}
