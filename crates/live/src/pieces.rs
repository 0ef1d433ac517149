//! Tokens with their texts.

/// A list of tokens and the text that they make together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pieces {
    ids: Vec<u32>,
    text: String,
    /// Where the text of each token ends, in bytes.
    ends: Vec<u32>,
}

impl Pieces {
    /// None yet, with space for so many.
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        Self { ids: Vec::with_capacity(tokens), text: String::new(), ends: Vec::with_capacity(tokens) }
    }

    /// One more token, which may have no text.
    pub(crate) fn push(&mut self, id: u32, text: &str) {
        self.ids.push(id);
        self.text.push_str(text);
        self.ends.push(self.text.len() as u32);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Their ids.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The text of the first ones.
    pub(crate) fn text(&self, tokens: usize) -> &str {
        &self.text[..self.start(tokens)]
    }

    /// Where the text of a token begins, in bytes.
    pub(crate) fn start(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    /// A token and its text.
    pub(crate) fn get(&self, place: usize) -> (u32, &str) {
        (self.ids[place], &self.text[self.start(place)..self.ends[place] as usize])
    }

    /// All tokens in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.len()).map(|place| self.get(place))
    }
}
