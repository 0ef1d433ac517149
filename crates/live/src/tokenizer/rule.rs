//! The built-in tokenizer: a rule of about four characters a token, for text of any language.
//!
//! A token is a word, or a part of one, of up to five letters or digits with the space in front of it; up to four spaces
//! or line ends; or a single character of any other kind. So tokens begin where words do, and what two texts begin with in
//! common are the same tokens, up to the last word. Its id is a hash of its text: the same on every server.

use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

/// Ids are below this.
pub(super) const VOCABULARY: u32 = 1 << 17;

/// Ids below this are of no text.
const SPECIAL: u32 = 256;

/// The token that a prompt begins with.
pub(super) const BEGIN: u32 = 1;

/// The token that an answer ends with.
pub(super) const END: u32 = 2;

/// The beginning of a message of a chat.
pub(super) const MESSAGE: u32 = 3;

/// Letters of a token.
const LETTERS: usize = 5;

/// Spaces of a token.
const SPACES: usize = 4;

/// Remembers what the ids that it gave stand for, the last text of each.
#[derive(Debug, Default)]
pub(super) struct Rule {
    texts: Mutex<FxHashMap<u32, Box<str>>>,
}

/// The id of a token.
pub(super) fn id_of(text: &str) -> u32 {
    SPECIAL + (xxh3_64(text.as_bytes()) % u64::from(VOCABULARY - SPECIAL)) as u32
}

/// The tokens of a text.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (token, after) = rest.split_at(first(rest)?);
        rest = after;
        Some(token)
    })
}

/// The length in bytes of the first token.
fn first(text: &str) -> Option<usize> {
    let head = text.chars().next()?;
    let word = |text: &str| {
        let letters = text.chars().take_while(|char| char.is_alphanumeric()).take(LETTERS);
        letters.map(char::len_utf8).sum::<usize>()
    };
    let length = match head {
        ' ' if word(&text[1..]) > 0 => 1 + word(&text[1..]),
        head if head.is_whitespace() => {
            let same = text.chars().take_while(|&char| char == head).count();
            // The last space belongs to the word behind it.
            let joins = head == ' ' && text[same..].chars().next().is_some_and(char::is_alphanumeric);
            (same - usize::from(joins && same > 1)).min(SPACES) * head.len_utf8()
        }
        head if head.is_alphanumeric() => word(text),
        head => head.len_utf8(),
    };
    Some(length)
}

impl Rule {
    /// The ids of a text.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut known = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let id = |token: &str| {
            let id = id_of(token);
            if known.get(&id).is_none_or(|text| &**text != token) {
                known.insert(id, token.into());
            }
            id
        };
        tokens(text).map(id).collect()
    }

    /// The text of an id, as far as somebody used it.
    pub(super) fn text(&self, id: u32) -> String {
        match id {
            BEGIN => return "<s>".to_owned(),
            END => return "</s>".to_owned(),
            MESSAGE => return "<|message|>".to_owned(),
            _ => {}
        }
        let known = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).map_or_else(|| format!(" t{id:x}"), ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> String {
        tokens(text).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn tokens_are_words_and_parts_of_them() {
        assert_eq!(split("The cat sat."), "The| cat| sat|.");
        assert_eq!(split("Internationale Übung"), "Inter|natio|nale| Übung");
        assert_eq!(split("a  b\n\n\n\n\n c"), "a| | b|\n\n\n\n|\n| c");
        assert_eq!(split("x=1; 你好🙂"), "x|=|1|;| 你好|🙂");
        assert_eq!(split(""), "");
    }

    #[test]
    fn english_has_about_four_characters_a_token() {
        let text = "Requests that decode are taken together: passes of nothing else come as one list, and what decodes \
                    beside prompts is only counted. It costs several times as much to decide them one by one.";
        let ratio = text.len() as f64 / tokens(text).count() as f64;
        assert!((3.5..5.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn ids_stand_for_their_texts() {
        let tokenizer = Rule::default();
        let text = "  Grüße,\t world 42\u{a0}\u{a0}!";
        let ids = tokenizer.encode(text);
        assert_eq!(ids.iter().map(|&id| tokenizer.text(id)).collect::<String>(), text);
        assert!(ids.iter().all(|id| (SPECIAL..VOCABULARY).contains(id)));
        assert_eq!(ids, Rule::default().encode(text));
        let longer = tokenizer.encode(&format!("{text} and more"));
        assert_eq!(longer[..ids.len()], ids);
    }
}
