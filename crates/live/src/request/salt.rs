//! The salts of prompts: equal prompts with different ones share nothing of the prefix cache.

use serde_json::Value;

use super::{Dialect, Prompt};
use crate::content::Salt;
use crate::error::ApiError;
use crate::params::Fields;

/// Most characters of a salt.
const MOST_CHARACTERS: usize = 128;

/// Salts prompts as the body says.
pub(crate) fn salt(prompts: &mut [Prompt], fields: &Fields<'_>, dialect: Dialect) -> Result<(), ApiError> {
    match dialect {
        Dialect::Vllm => {
            let salt = of_vllm(fields.get("cache_salt"))?;
            for prompt in prompts {
                prompt.salt.clone_from(&salt);
            }
        }
        Dialect::Sglang => {
            let keys = of_sglang(fields, "extra_key", prompts.len())?;
            let salts = of_sglang(fields, "cache_salt", prompts.len())?;
            for (prompt, parts) in prompts.iter_mut().zip(keys.into_iter().zip(salts)) {
                prompt.salt = match parts {
                    (None, None) => None,
                    (None, Some(one)) | (Some(one), None) => Some(one.into()),
                    // No text that anybody chooses begins so.
                    (Some(key), Some(salt)) => Some(format!("\0{}\0{key}{salt}", key.len()).into()),
                };
            }
        }
    }
    Ok(())
}

fn of_vllm(value: Option<&Value>) -> Result<Option<Salt>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let wrong = |message: &str| ApiError::of("cache_salt", message, None);
    let Some(text) = value.as_str().filter(|text| !text.is_empty()) else {
        return Err(wrong("Parameter 'cache_salt' must be a non-empty string if provided."));
    };
    if text.chars().count() > MOST_CHARACTERS || text.contains(['@', '/', '\\', '\0']) {
        return Err(wrong(
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL.",
        ));
    }
    Ok(Some(text.into()))
}

/// One for each prompt: a text for all, or a list of them. An empty one is none.
fn of_sglang<'a>(fields: &Fields<'a>, key: &str, prompts: usize) -> Result<Vec<Option<&'a str>>, ApiError> {
    let text = |value: &'a Value| value.as_str().map(|text| Some(text).filter(|text| !text.is_empty()));
    let wrong = |what: &str| Err(ApiError::bad_request(format!("{key} {what}")));
    match fields.get(key) {
        None => Ok(vec![None; prompts]),
        Some(Value::Array(values)) if values.len() != prompts => {
            wrong(&format!("has {} texts, but there are {prompts} prompts", values.len()))
        }
        Some(Value::Array(values)) => match values.iter().map(text).collect() {
            Some(texts) => Ok(texts),
            None => wrong("has to be a text or a list of texts"),
        },
        Some(value) => match text(value) {
            Some(text) => Ok(vec![text; prompts]),
            None => wrong("has to be a text or a list of texts"),
        },
    }
}
