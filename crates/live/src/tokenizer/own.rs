//! A tokenizer of the user's, from files of the form that Hugging Face has.

use std::path::Path;

use serde_json::Value;

use super::{NoTokens, TokenizerError};
use crate::output::LOREM;
use crate::pieces::Pieces;

/// Names that tokens at the end of an answer have, where no file says which it is.
const ENDS: [&str; 7] =
    ["</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<eos>", "<|end|>"];

/// A tokenizer of the user's.
pub(super) struct Own {
    inner: tokenizers::Tokenizer,
    /// Ids are below this.
    pub(super) vocabulary: u32,
    /// The token that a chat begins with.
    pub(super) begin: Option<u32>,
    /// The token that an answer ends with.
    pub(super) end: u32,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}

impl Own {
    pub(super) fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer.json");
        let wrong = |reason: String| TokenizerError { path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| wrong(error.to_string()))?;
        // Prompts are neither cut nor filled up.
        inner.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        inner.with_padding(None);
        let config = config(&dir.join("tokenizer_config.json"))?;
        let named = |key: &str| match config.get(key) {
            Some(Value::String(name)) => Some(name.clone()),
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        let id_of = |key: &str| match named(key) {
            None => Ok(None),
            Some(name) => match inner.token_to_id(&name) {
                Some(id) => Ok(Some(id)),
                None => {
                    Err(wrong(format!("has no token {name}, which tokenizer_config.json names as {key}")))
                }
            },
        };
        let begin = id_of("bos_token")?;
        let end = match id_of("eos_token")? {
            Some(end) => Some(end),
            None => ENDS.iter().find_map(|name| inner.token_to_id(name)),
        };
        let end = end.ok_or_else(|| {
            wrong(format!(
                "has no token with which answers end: name it as eos_token in a tokenizer_config.json, unless it is \
                 one of {}",
                ENDS.join(" ")
            ))
        })?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        let own = Self { inner, vocabulary: largest + 1, begin, end };
        own.check().map_err(|NoTokens(reason)| wrong(reason))?;
        Ok(own)
    }

    /// Whether it can cut what the server itself says.
    fn check(&self) -> Result<(), NoTokens> {
        for text in LOREM.iter().copied().chain(["user\n", "assistant\n", "a"]) {
            if self.encode(text, false)?.is_empty() {
                return Err(NoTokens(format!("makes no token of {text:?}")));
            }
        }
        Ok(())
    }

    pub(super) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, NoTokens> {
        let encoding = self.inner.encode_fast(text, special);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| NoTokens(error.to_string()))
    }

    /// Ids that stand for nothing have no text.
    pub(super) fn decode(&self, ids: &[u32], special: bool) -> String {
        self.inner.decode(ids, !special).unwrap_or_default()
    }

    pub(super) fn name(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// A character of several tokens comes with the last of them.
    pub(super) fn pieces(&self, ids: &[u32]) -> Pieces {
        let mut pieces = Pieces::with_capacity(ids.len());
        let mut stream = self.inner.decode_stream(true);
        for &id in ids {
            let text = stream.step(id).ok().flatten().unwrap_or_default();
            pieces.push(id, &text);
        }
        pieces
    }
}

/// What a `tokenizer_config.json` says; nothing if there is none.
fn config(path: &Path) -> Result<Value, TokenizerError> {
    let wrong = |reason: String| TokenizerError { path: path.to_owned(), reason };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(error) => return Err(wrong(error.to_string())),
    };
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}
