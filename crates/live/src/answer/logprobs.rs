//! Log-probabilities, made up: the same for the same token.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::choice::Delta;
use crate::request::{Api, Wanted};
use crate::text::{Word, answer};

/// Tokens with their log-probabilities, as an object in their order.
struct Ranked(Vec<(String, f64)>);

impl Serialize for Ranked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (token, logprob) in &self.0 {
            object.serialize_entry(token, logprob)?;
        }
        object.end()
    }
}

#[derive(serde::Serialize)]
struct OfCompletion {
    text_offset: Vec<usize>,
    token_logprobs: Vec<f64>,
    tokens: Vec<String>,
    top_logprobs: Vec<Ranked>,
}

#[derive(serde::Serialize)]
struct OfChat {
    content: Vec<OfToken>,
}

#[derive(serde::Serialize)]
struct OfToken {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
    top_logprobs: Vec<Other>,
}

#[derive(serde::Serialize)]
struct Other {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

/// The log-probabilities of tokens, and of those that could have been there.
pub(super) fn logprobs(wanted: &Wanted, deltas: &[Delta]) -> Box<RawValue> {
    let most = wanted.logprobs.unwrap_or(0) as usize;
    let name = |word: Word| match (wanted.tokens_as_ids, word.text) {
        (true, _) => format!("token_id:{}", word.id),
        (false, "") => "</s>".to_owned(),
        (false, text) => text.to_owned(),
    };
    let json = match wanted.api {
        Api::Completions => to_raw_value(&OfCompletion {
            text_offset: deltas.iter().map(|delta| delta.offset).collect(),
            token_logprobs: deltas.iter().map(|delta| logprob(delta.word)).collect(),
            tokens: deltas.iter().map(|delta| name(delta.word)).collect(),
            top_logprobs: deltas
                .iter()
                .map(|delta| {
                    let ranked = ranked(delta.word, most.max(1));
                    Ranked(ranked.into_iter().map(|(word, logprob)| (name(word), logprob)).collect())
                })
                .collect(),
        }),
        Api::Chat => to_raw_value(&OfChat {
            content: deltas
                .iter()
                .map(|delta| OfToken {
                    token: name(delta.word),
                    logprob: logprob(delta.word),
                    bytes: delta.word.text.into(),
                    top_logprobs: ranked(delta.word, most)
                        .into_iter()
                        .map(|(word, logprob)| Other { token: name(word), logprob, bytes: word.text.into() })
                        .collect(),
                })
                .collect(),
        }),
    };
    json.expect("texts and numbers are JSON")
}

/// Of a token: between -0.5 and -4.5.
fn logprob(word: Word) -> f64 {
    -0.5 - f64::from(word.id % 4096) / 1024.0
}

/// A token and the next ones after it in rank.
fn ranked(word: Word, most: usize) -> Vec<(Word, f64)> {
    let mut ranked = vec![(word, logprob(word))];
    let others = answer(&[word.id], 0);
    for other in others.take(8 * most.max(1)) {
        if ranked.len() >= most {
            break;
        }
        if ranked.iter().all(|(known, _)| *known != other) {
            ranked.push((other, logprob(word) - 0.125 * ranked.len() as f64));
        }
    }
    ranked.truncate(most);
    ranked
}
