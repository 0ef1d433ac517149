//! What a client of `/generate` asks for.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::params::{Fields, float, token_id};
use crate::request::{Api, Prompt, Served, Wanted, salt};
use crate::tokenizer::Tokenizer;

/// Tokens of an answer if nobody says.
const DEFAULT_TOKENS: i64 = 128;

/// Of the body of a request.
pub(super) fn wanted(
    body: &Map<String, Value>,
    served: &Served,
    tokenizer: &Tokenizer,
) -> Result<Wanted, ApiError> {
    let mut fields = Fields::new(body);
    if fields.bool("return_logprob").unwrap_or(false) {
        return Err(ApiError::bad_request("return_logprob is not there: log-probabilities are for /v1 only"));
    }
    let stream = fields.bool("stream").unwrap_or(false);
    let request_id = fields.text("rid").map(str::to_owned);
    let none = Map::new();
    let sampling = match fields.get("sampling_params") {
        None => &none,
        Some(Value::Object(sampling)) => sampling,
        Some(_) => {
            return Err(ApiError::bad_request(
                "sampling_params has to be an object, the same for all prompts",
            ));
        }
    };
    fields.checked()?;
    let (mut prompts, is_list) = prompts(&fields, tokenizer)?;
    salt(&mut prompts, &fields, served.dialect)?;
    let mut sampling = Fields::within(sampling, "sampling_params");
    let max_tokens = sampling.int("max_new_tokens").unwrap_or(DEFAULT_TOKENS);
    let min_tokens = sampling.int("min_new_tokens").unwrap_or(0);
    let n = sampling.int("n").unwrap_or(1);
    let temperature = sampling.number("temperature").unwrap_or(1.0);
    let top_p = sampling.number("top_p").unwrap_or(1.0);
    let wanted = Wanted {
        api: Api::Generate { is_list: is_list || n > 1 },
        is_text: true,
        prompts,
        n: n.clamp(0, 65535) as u32,
        max_tokens: Some(max_tokens.clamp(0, i64::from(u32::MAX)) as u32),
        min_tokens: min_tokens.clamp(0, i64::from(u32::MAX)) as u32,
        ignore_eos: sampling.bool("ignore_eos").unwrap_or(false),
        stop: sampling.texts("stop"),
        stop_token_ids: sampling.ids("stop_token_ids"),
        include_stop: sampling.bool("no_stop_trim").unwrap_or(false),
        seed: sampling.int("sampling_seed"),
        stream,
        request_id,
        ..Wanted::default()
    };
    sampling.checked()?;
    let refused = |message: String| Err(ApiError::bad_request(message));
    if max_tokens < 1 {
        return refused(format!("max_new_tokens is {max_tokens}, but has to be 1 at least"));
    }
    if min_tokens < 0 || min_tokens > max_tokens {
        return refused(format!("min_new_tokens is {min_tokens}, but has to be from 0 to max_new_tokens"));
    }
    if !(1..=65535).contains(&n) {
        return refused(format!("n is {n}, but has to be from 1 to 65535"));
    }
    if temperature.is_nan() || temperature < 0.0 {
        return refused(format!("temperature is {}, but cannot be negative", float(temperature)));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return refused(format!("top_p is {}, but has to be above 0 and at most 1", float(top_p)));
    }
    wanted.check_total(served)?;
    wanted.check_lengths(served)?;
    Ok(wanted)
}

/// The prompts, and whether they are a list.
fn prompts(fields: &Fields<'_>, tokenizer: &Tokenizer) -> Result<(Vec<Prompt>, bool), ApiError> {
    let wrong = |what: &str| Err(ApiError::bad_request(what.to_owned()));
    let cut = |text: &str| Ok::<_, ApiError>(Prompt::whole(tokenizer.encode(text, true)?));
    let ids = |value: &Value| -> Option<Vec<u32>> {
        value.as_array()?.iter().map(|id| token_id(id).ok()).collect()
    };
    let (prompts, is_list) = match (fields.get("text"), fields.get("input_ids")) {
        (Some(Value::String(text)), None) => (vec![cut(text)?], false),
        (Some(Value::Array(texts)), None) => {
            let texts: Option<Vec<&str>> = texts.iter().map(Value::as_str).collect();
            let Some(texts) = texts else { return wrong("text has to be a text or a list of texts") };
            (texts.into_iter().map(cut).collect::<Result<_, _>>()?, true)
        }
        (None, Some(value)) => {
            let lists = || value.as_array()?.iter().map(ids).collect::<Option<Vec<_>>>();
            match (ids(value), lists()) {
                (Some(ids), _) => (vec![Prompt::whole(ids)], false),
                (None, Some(lists)) => (lists.into_iter().map(Prompt::whole).collect(), true),
                (None, None) => return wrong("input_ids has to be a list of ids, or a list of those"),
            }
        }
        (None, None) => return wrong("there is no prompt: give text or input_ids"),
        (Some(_), None) => return wrong("text has to be a text or a list of texts"),
        (Some(_), Some(_)) => return wrong("there are two prompts: give text or input_ids"),
    };
    if prompts.is_empty() || prompts.iter().any(|prompt| prompt.ids.is_empty()) {
        return wrong("a prompt is empty");
    }
    if let Some(id) = prompts.iter().flat_map(|prompt| &prompt.ids).find(|&&id| id >= tokenizer.vocabulary())
    {
        return wrong(&format!("the token id {id} is not in the vocabulary"));
    }
    Ok((prompts, is_list))
}
