//! One answer: its tokens, known when it begins, and how much of its text a client has.

use serde::Serialize;

use crate::request::{Served, Wanted};
use crate::text::{Word, answer};
use crate::tokenizer::END;

/// Why an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It has all the room that there is.
    Length,
    /// It ends by itself.
    End,
    /// It came to a text of the client's.
    Stop(String),
    /// It came to a token of the client's.
    StopToken(u32),
}

/// What a client is told of [`Finish`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Text(String),
    Token(u32),
}

impl Finish {
    pub(crate) fn name(&self) -> &'static str {
        if *self == Self::Length { "length" } else { "stop" }
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        match self {
            Self::Length | Self::End => None,
            Self::Stop(text) => Some(StopReason::Text(text.clone())),
            Self::StopToken(id) => Some(StopReason::Token(*id)),
        }
    }
}

/// An answer on its way.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Its tokens. That which ends it by itself has no text.
    words: Vec<Word>,
    finish: Finish,
    /// Tokens that are there.
    tokens: usize,
    /// Text of those.
    text: String,
    /// Bytes of it that the client has.
    sent: usize,
    /// Characters at its end that are held back, since they may be the beginning of a text to stop at.
    held: usize,
    /// What the text is cut down to at the end, in bytes.
    cut: Option<usize>,
}

/// What came with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Text that the client may have now.
    pub(crate) text: String,
    /// The token.
    pub(crate) word: Word,
    /// How many bytes of text were before it.
    pub(crate) offset: usize,
    /// Whether it is the last one.
    pub(crate) is_last: bool,
}

impl Choice {
    /// The answer number `index` to a prompt.
    pub(crate) fn new(wanted: &Wanted, prompt: &[u32], index: u32, seed: u64, served: &Served) -> Self {
        let room = wanted.room(prompt, served) as usize;
        let end = wanted.usual_end(served).map(|end| end as usize).filter(|&end| end <= room);
        let seed = wanted.seed.map_or(seed, |own| own as u64) ^ (u64::from(index) << 32);
        let mut choice = Self {
            words: Vec::with_capacity(end.unwrap_or(room)),
            finish: Finish::Length,
            tokens: 0,
            text: String::new(),
            sent: 0,
            held: 0,
            cut: None,
        };
        if !wanted.include_stop {
            let longest = wanted.stop.iter().map(|stop| stop.chars().count()).max();
            choice.held = longest.unwrap_or(0).saturating_sub(1);
        }
        choice.write(answer(prompt, seed), room, end, wanted);
        choice
    }

    /// Fixes what it will say.
    fn write(&mut self, words: impl Iterator<Item = Word>, room: usize, end: Option<usize>, wanted: &Wanted) {
        let longest = wanted.stop.iter().map(String::len).max().unwrap_or(0);
        let mut text = String::new();
        for mut word in words.take(room) {
            let number = self.words.len() + 1;
            if end == Some(number) {
                self.words.push(Word { id: END, text: "" });
                self.finish = Finish::End;
                return;
            }
            let may_stop = number > wanted.min_tokens as usize;
            if may_stop && wanted.stop_token_ids.contains(&word.id) {
                self.finish = Finish::StopToken(word.id);
                word.text = if wanted.include_stop { word.text } else { "" };
                self.words.push(word);
                return;
            }
            self.words.push(word);
            if longest == 0 {
                continue;
            }
            // A text to stop at may have begun before this token.
            let from = text.len().saturating_sub(longest);
            let from = (0..=from).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.push_str(word.text);
            let found =
                wanted.stop.iter().filter_map(|stop| Some((from + text[from..].find(stop.as_str())?, stop)));
            if let Some((at, stop)) = found.min_by_key(|&(at, _)| at).filter(|_| may_stop) {
                self.finish = Finish::Stop(stop.clone());
                self.cut = Some(if wanted.include_stop { at + stop.len() } else { at });
                return;
            }
        }
    }

    /// The ids of all its tokens.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.words.iter().map(|word| word.id).collect()
    }

    /// Why it ends.
    pub(crate) fn finish(&self) -> &Finish {
        &self.finish
    }

    /// Tokens that are there.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Its text as far as it is there; all of it at the end.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Takes one more token.
    pub(crate) fn advance(&mut self) -> Option<Delta> {
        let word = *self.words.get(self.tokens)?;
        let offset = self.text.len();
        self.tokens += 1;
        self.text.push_str(word.text);
        let is_last = self.tokens == self.words.len();
        let mut to = self.text.len();
        if is_last {
            self.text.truncate(self.cut.unwrap_or(to));
            to = self.text.len();
        } else if self.held > 0 {
            let held = self.text.char_indices().rev().nth(self.held - 1).map_or(0, |(at, _)| at);
            to = held.max(self.sent);
        }
        let from = self.sent.min(to);
        self.sent = to;
        Some(Delta { text: self.text[from..to].to_owned(), word, offset, is_last })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::Api;
    use crate::tokenizer::Tokenizer;

    const SERVED: (u32, u32) = (2048, 20);

    #[expect(clippy::needless_pass_by_value, reason = "a body is given as it stands")]
    fn choice(api: Api, more: serde_json::Value) -> Choice {
        let served = Served { model: "m".to_owned(), max_model_len: SERVED.0, usual_tokens: SERVED.1 };
        let mut body = json!({"prompt": "a prompt", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let wanted = Wanted::of(api, body.as_object().unwrap(), &served, &Tokenizer::default()).unwrap();
        Choice::new(&wanted, &wanted.prompts[0], 0, 1, &served)
    }

    /// The parts of an answer, and the whole.
    fn run(mut choice: Choice) -> (Vec<String>, String, usize) {
        let deltas: Vec<Delta> = std::iter::from_fn(|| choice.advance()).collect();
        assert!(deltas.iter().rev().enumerate().all(|(place, delta)| delta.is_last == (place == 0)));
        let texts: Vec<String> = deltas.into_iter().map(|delta| delta.text).collect();
        assert_eq!(texts.concat(), choice.text());
        (texts, choice.text().to_owned(), choice.tokens())
    }

    #[test]
    fn an_answer_has_as_many_tokens_as_were_asked_for() {
        let plain = choice(Api::Completions, json!({"max_tokens": 7}));
        assert_eq!((plain.ids().len(), plain.finish()), (7, &Finish::Length));
        let (texts, text, _) = run(plain);
        assert_eq!(texts.len(), 7);
        assert!(text.starts_with(' '));
    }

    #[test]
    fn an_open_answer_ends_by_itself() {
        let open = choice(Api::Chat, json!({}));
        assert_eq!((open.ids().len(), open.finish()), (20, &Finish::End));
        assert_eq!(open.ids()[19], END);
        assert_eq!(run(open).0[19], "");
    }

    #[test]
    fn an_answer_ends_before_a_text_to_stop_at() {
        let whole = run(choice(Api::Completions, json!({"max_tokens": 40}))).1;
        // Across two words.
        let (second, third) = {
            let mut words = whole.split(' ').skip(2);
            (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
        };
        let stop = format!("{} {}", &second[second.len() - 1..], &third[..1]);
        let stopped = choice(Api::Completions, json!({"max_tokens": 40, "stop": [stop]}));
        assert_eq!(stopped.finish(), &Finish::Stop(stop.clone()));
        let (texts, text, tokens) = run(stopped);
        assert_eq!((tokens, &text), (3, &whole[..whole.find(&stop).unwrap()].to_owned()));
        assert!(texts[0].len() < whole.split_inclusive(' ').nth(1).unwrap().len() + 1, "some is held back");
        let included = choice(
            Api::Completions,
            json!({"max_tokens": 40, "stop": stop, "include_stop_str_in_output": true}),
        );
        assert!(run(included).1.ends_with(&stop));
    }

    #[test]
    fn an_answer_ends_with_a_token_to_stop_at() {
        let id = choice(Api::Completions, json!({"max_tokens": 9})).ids()[4];
        let stopped = choice(Api::Completions, json!({"max_tokens": 9, "stop_token_ids": [id]}));
        let tokens = stopped.ids().len();
        assert!(tokens <= 5 && stopped.finish() == &Finish::StopToken(id));
        let late =
            choice(Api::Completions, json!({"max_tokens": 9, "stop_token_ids": [id], "min_tokens": 5}));
        assert!(late.ids().len() > 5);
    }
}
