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

#[derive(Default, serde::Serialize)]
struct OfCompletion {
    text_offset: Vec<usize>,
    token_logprobs: Vec<Option<f64>>,
    tokens: Vec<String>,
    top_logprobs: Vec<Option<Ranked>>,
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

/// A token of a prompt.
#[derive(serde::Serialize)]
struct OfPrompt {
    logprob: f64,
    rank: usize,
    decoded_token: String,
}

/// The tokens of a place by their ids, in their order.
struct Candidates(Vec<(u32, OfPrompt)>);

impl Serialize for Candidates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (id, candidate) in &self.0 {
            object.serialize_entry(&id.to_string(), candidate)?;
        }
        object.end()
    }
}

/// The log-probabilities of the tokens of a prompt, of which the first has none, and of so many that could have been there.
pub(crate) fn of_prompt(prompt: &Pieces, most: u32, output: &Output) -> Box<RawValue> {
    let of = |(place, token): (usize, Token<'_>)| {
        let ranked = (place > 0).then(|| ranked(token, (most as usize).max(1), output))?;
        let one = |(place, ((id, text), logprob)): (usize, (Token<'_>, f64))| {
            (id, OfPrompt { logprob, rank: place + 1, decoded_token: text.to_owned() })
        };
        Some(Candidates(ranked.into_iter().enumerate().map(one).collect()))
    };
    let all: Vec<Option<Candidates>> = prompt.iter().enumerate().map(of).collect();
    to_raw_value(&all).expect("texts and numbers are JSON")
}

/// The log-probabilities of tokens of an answer, and of those that could have been there; with those of its prompt before,
/// if it is repeated.
pub(super) fn logprobs(
    wanted: &Wanted,
    echoed: Option<&Pieces>,
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
        Api::Completions | Api::Generate { .. } | Api::Responses => {
            // A prompt that is repeated comes before the answer; nothing is before its first token.
            let of_prompt = echoed.map_or(0, Pieces::len);
            let echoed = echoed.map(Pieces::iter).into_iter().flatten();
            let mut said = OfCompletion::default();
            let mut offset = 0;
            for (number, token) in echoed.chain(tokens()).enumerate() {
                let is_first = number == 0 && of_prompt > 0;
                let ranked = ranked(token, most.max(1), output);
                let ranked =
                    Ranked(ranked.into_iter().map(|(token, logprob)| (name(token), logprob)).collect());
                said.text_offset.push(offset + pieces.start(places.start));
                said.token_logprobs.push((!is_first).then(|| logprob(token)));
                said.tokens.push(name(token));
                said.top_logprobs.push((!is_first).then_some(ranked));
                offset += token.1.len();
            }
            to_raw_value(&said)
        }
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
