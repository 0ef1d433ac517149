//! How text becomes tokens, and tokens text: by a tokenizer of the user's, or by a rule that is built in.

mod own;
mod rule;

use std::ops::Range;
use std::path::PathBuf;

use self::rule::{BEGIN, END, MESSAGE, Rule, VOCABULARY};
use crate::pieces::Pieces;
use crate::request::Message;

/// How text becomes tokens.
#[derive(Debug)]
pub struct Tokenizer(Kind);

#[derive(Debug)]
enum Kind {
    BuiltIn(Rule),
    Own(Box<own::Own>),
}

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TokenizerError {
    /// The file in which something is wrong.
    pub path: PathBuf,
    /// What is.
    pub reason: String,
}

/// A text that a tokenizer cannot cut, and why.
#[derive(Debug)]
pub(crate) struct NoTokens(pub(crate) String);

impl Default for Tokenizer {
    fn default() -> Self {
        Self::built_in()
    }
}

impl Tokenizer {
    /// The rule of about four characters a token.
    pub fn built_in() -> Self {
        Self(Kind::BuiltIn(Rule::default()))
    }

    /// That of a folder with a `tokenizer.json`, and perhaps a `tokenizer_config.json` that names the tokens with which
    /// prompts begin and answers end.
    ///
    /// # Errors
    /// When a file cannot be read or is no tokenizer, or when it has no token with which answers could end.
    pub fn from_dir(dir: &std::path::Path) -> Result<Self, TokenizerError> {
        own::Own::from_dir(dir).map(|own| Self(Kind::Own(Box::new(own))))
    }

    /// The ids of a text; `special` adds the tokens with which a prompt begins.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, NoTokens> {
        match &self.0 {
            Kind::BuiltIn(rule) if special => Ok([vec![BEGIN], rule.encode(text)].concat()),
            Kind::BuiltIn(rule) => Ok(rule.encode(text)),
            Kind::Own(own) => own.encode(text, special),
        }
    }

    /// The text of tokens, with or without those that begin and end texts.
    pub(crate) fn decode(&self, ids: &[u32], special: bool) -> String {
        match &self.0 {
            Kind::BuiltIn(rule) => {
                let shown = |id: &&u32| special || ![BEGIN, END, MESSAGE].contains(id);
                ids.iter().filter(shown).map(|&id| rule.text(id)).collect()
            }
            Kind::Own(own) => own.decode(ids, special),
        }
    }

    /// What a token is called.
    pub(crate) fn name(&self, id: u32) -> String {
        match &self.0 {
            Kind::BuiltIn(rule) => rule.text(id),
            Kind::Own(own) => own.name(id),
        }
    }

    /// Tokens with the text that each adds to that of those before it; those that begin and end texts add none.
    pub(crate) fn pieces(&self, ids: &[u32]) -> Pieces {
        match &self.0 {
            Kind::BuiltIn(_) => {
                let mut pieces = Pieces::with_capacity(ids.len());
                for &id in ids {
                    pieces.push(id, &self.decode(&[id], false));
                }
                pieces
            }
            Kind::Own(own) => own.pieces(ids),
        }
    }

    /// Ids are below this.
    pub(crate) fn vocabulary(&self) -> u32 {
        match &self.0 {
            Kind::BuiltIn(_) => VOCABULARY,
            Kind::Own(own) => own.vocabulary,
        }
    }

    /// The token with which an answer ends by itself.
    pub(crate) fn end(&self) -> u32 {
        match &self.0 {
            Kind::BuiltIn(_) => END,
            Kind::Own(own) => own.end,
        }
    }

    /// The tokens of a chat, and where among them the content of its last message is. Each message is its role, a line
    /// end, what it says, and the token with which answers end; the built-in rule has one more in front of each.
    pub(crate) fn conversation(&self, messages: &[Message]) -> Result<(Vec<u32>, Range<usize>), NoTokens> {
        let (begin, message) = match &self.0 {
            Kind::BuiltIn(_) => (Some(BEGIN), Some(MESSAGE)),
            Kind::Own(own) => (own.begin, None),
        };
        let mut ids = Vec::from_iter(begin);
        let mut last = 0..0;
        for Message { role, content } in messages {
            ids.extend(message);
            ids.extend(self.encode(&format!("{role}\n"), false)?);
            let start = ids.len();
            ids.extend(self.encode(content, false)?);
            last = start..ids.len();
            ids.push(self.end());
        }
        ids.extend(message);
        ids.extend(self.encode("assistant\n", false)?);
        Ok((ids, last))
    }
}
