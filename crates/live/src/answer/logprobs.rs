//! Log-probabilities, made up: the same for the same token.

use std::ops::Range;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::output::Output;
use crate::pieces::Pieces;
use crate::request::{Api, Wanted};

/// A token: its id and its text.
type Token<'a> = (u32, &'a str);

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

/// The log-probabilities of tokens of an answer, and of those that could have been there.
pub(super) fn logprobs(
    wanted: &Wanted,
    pieces: &Pieces,
    places: Range<usize>,
    output: &Output,
) -> Box<RawValue> {
    let most = wanted.logprobs.unwrap_or(0) as usize;
    let name = |(id, text): Token<'_>| match (wanted.tokens_as_ids, text) {
        (true, _) => format!("token_id:{id}"),
        (false, "") => "</s>".to_owned(),
        (false, text) => text.to_owned(),
    };
    let tokens = || places.clone().map(|place| pieces.get(place));
    let json = match wanted.api {
        Api::Completions | Api::Generate { .. } => to_raw_value(&OfCompletion {
            text_offset: places.clone().map(|place| pieces.start(place)).collect(),
            token_logprobs: tokens().map(logprob).collect(),
            tokens: tokens().map(name).collect(),
            top_logprobs: tokens()
                .map(|token| {
                    let ranked = ranked(token, most.max(1), output);
                    Ranked(ranked.into_iter().map(|(token, logprob)| (name(token), logprob)).collect())
                })
                .collect(),
        }),
        Api::Chat => to_raw_value(&OfChat {
            content: tokens()
                .map(|token| OfToken {
                    token: name(token),
                    logprob: logprob(token),
                    bytes: token.1.into(),
                    top_logprobs: ranked(token, most, output)
                        .into_iter()
                        .map(|(token, logprob)| Other { token: name(token), logprob, bytes: token.1.into() })
                        .collect(),
                })
                .collect(),
        }),
    };
    json.expect("texts and numbers are JSON")
}

/// Of a token: between -0.5 and -4.5.
fn logprob((id, _): Token<'_>) -> f64 {
    -0.5 - f64::from(id % 4096) / 1024.0
}

/// A token and the next ones after it in rank.
fn ranked<'a>(token: Token<'a>, most: usize, output: &'a Output) -> Vec<(Token<'a>, f64)> {
    let mut ranked = vec![(token, logprob(token))];
    for number in 0..8 * most.max(1) as u32 {
        if ranked.len() >= most {
            break;
        }
        let other = output.alternative(token.0.wrapping_add(number));
        if ranked.iter().all(|(known, _)| *known != other) {
            ranked.push((other, logprob(token) - 0.125 * ranked.len() as f64));
        }
    }
    ranked.truncate(most);
    ranked
}
