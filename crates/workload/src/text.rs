//! What cuts the texts of a trace into tokens.

use std::fmt;
use std::sync::Arc;

/// Cuts a text into the ids of its tokens, or says why it cannot.
type Encode = dyn Fn(&str) -> Result<Vec<u32>, String> + Send + Sync;

/// A tokenizer for the texts of traces. Where text that is equal stands, its tokens have to be equal.
#[derive(Clone)]
pub struct TextTokenizer(Arc<Encode>);

impl TextTokenizer {
    /// A tokenizer that gives the ids of the tokens of a text, without those that begin and end prompts.
    pub fn new(encode: impl Fn(&str) -> Result<Vec<u32>, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(encode))
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        (self.0)(text)
    }
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTokenizer").finish_non_exhaustive()
    }
}

/// They are equal if they are the same.
impl PartialEq for TextTokenizer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TextTokenizer {}
