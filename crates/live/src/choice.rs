//! One answer: its tokens, known when it begins, and how much of its text a client has.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::output::{Output, random};
use crate::pieces::Pieces;
use crate::request::{Prompt, Served, Wanted};
use crate::tokenizer::Tokenizer;

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
    pieces: Pieces,
    finish: Finish,
    /// Tokens that are there.
    tokens: usize,
    /// Bytes of its text that the client has.
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
    /// Whether it is the last one.
    pub(crate) is_last: bool,
}

/// What answers are made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author<'a> {
    pub(crate) output: &'a Output,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) seed: u64,
}

impl Choice {
    /// The answer number `index` to the prompt number `place` of a request.
    pub(crate) fn new(
        wanted: &Wanted,
        place: usize,
        index: u32,
        author: Author<'_>,
        served: &Served,
    ) -> Self {
        let prompt = &wanted.prompts[place].ids;
        let seed = wanted.seed.map_or(author.seed, |own| own as u64) ^ (u64::from(index) << 32);
        let random = random(prompt, seed);
        let room = wanted.room(prompt, served) as usize;
        let end = wanted.own_end(served, random).map(|end| end as usize).filter(|&end| end <= room);
        let mut choice = Self {
            pieces: Pieces::with_capacity(end.unwrap_or(room)),
            finish: Finish::Length,
            tokens: 0,
            sent: 0,
            held: 0,
            cut: None,
        };
        if !wanted.include_stop {
            let longest = wanted.stop.iter().map(|stop| stop.chars().count()).max();
            choice.held = longest.unwrap_or(0).saturating_sub(1);
        }
        choice.write(wanted, place, random, author, (room, end));
        choice
    }

    /// Fixes what it will say, in so much room and up to an end of its own.
    fn write(
        &mut self,
        wanted: &Wanted,
        place: usize,
        random: u64,
        author: Author<'_>,
        (room, end): (usize, Option<usize>),
    ) {
        let Author { output, tokenizer, .. } = author;
        let Prompt { ids, heard, .. } = &wanted.prompts[place];
        let allowed = &wanted.allowed_token_ids;
        // Which ends an answer before its time if there is no other.
        let others: Vec<u32> = allowed.iter().copied().filter(|&id| id != tokenizer.end()).collect();
        let may_end = !allowed.is_empty() && others.is_empty() && !wanted.ignore_eos;
        let mut take = |id: u32, text: &str| {
            let number = self.pieces.len() + 1;
            let ends = may_end && id == tokenizer.end() && number > wanted.min_tokens as usize;
            if ends || end == Some(number) {
                self.pieces.push(tokenizer.end(), "");
                self.finish = Finish::End;
                return ControlFlow::Break(());
            }
            self.take(id, text, wanted)?;
            if self.pieces.len() == room { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let _ = if allowed.is_empty() {
            output.say(ids, heard.clone(), random, tokenizer, &mut take)
        } else {
            let usable = if others.is_empty() { allowed } else { &others };
            let pieces: Vec<Pieces> = usable.iter().map(|&id| tokenizer.pieces(&[id])).collect();
            (0..).try_for_each(|turn: usize| {
                let place = random.wrapping_add(turn as u64) % pieces.len() as u64;
                let (id, text) = pieces[place as usize].get(0);
                take(id, text)
            })
        };
    }

    /// Takes a token, which may be the last one.
    fn take(&mut self, id: u32, text: &str, wanted: &Wanted) -> ControlFlow<()> {
        let may_stop = self.pieces.len() + 1 > wanted.min_tokens as usize;
        if may_stop && wanted.stop_token_ids.contains(&id) {
            self.finish = Finish::StopToken(id);
            self.pieces.push(id, if wanted.include_stop { text } else { "" });
            return ControlFlow::Break(());
        }
        let before = self.pieces.text(self.pieces.len()).len();
        self.pieces.push(id, text);
        let longest = wanted.stop.iter().map(String::len).max().unwrap_or(0);
        if longest == 0 {
            return ControlFlow::Continue(());
        }
        // A text to stop at may have begun before this token.
        let said = self.pieces.text(self.pieces.len());
        let from = before.saturating_sub(longest);
        let from = (0..=from).rev().find(|&at| said.is_char_boundary(at)).unwrap_or(0);
        let found =
            wanted.stop.iter().filter_map(|stop| Some((from + said[from..].find(stop.as_str())?, stop)));
        let Some((at, stop)) = found.min_by_key(|&(at, _)| at).filter(|_| may_stop) else {
            return ControlFlow::Continue(());
        };
        self.finish = Finish::Stop(stop.clone());
        self.cut = Some(if wanted.include_stop { at + stop.len() } else { at });
        ControlFlow::Break(())
    }

    /// All its tokens, those that are there and those that will be.
    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
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
        let text = self.pieces.text(self.tokens);
        let cut = self.cut.filter(|_| self.tokens == self.pieces.len());
        &text[..cut.unwrap_or(text.len())]
    }

    /// Takes one more token.
    pub(crate) fn advance(&mut self) -> Option<Delta> {
        if self.tokens == self.pieces.len() {
            return None;
        }
        self.tokens += 1;
        let is_last = self.tokens == self.pieces.len();
        let text = self.text();
        let mut to = text.len();
        if !is_last && self.held > 0 {
            let held = text.char_indices().rev().nth(self.held - 1).map_or(0, |(at, _)| at);
            to = held.max(self.sent);
        }
        let from = self.sent.min(to);
        let text = text[from..to].to_owned();
        self.sent = to;
        Some(Delta { text, is_last })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::length::{LengthLaw, OutputLength};
    use crate::output::OutputText;
    use crate::request::Api;

    #[expect(clippy::needless_pass_by_value, reason = "a body is given as it stands")]
    fn written(api: Api, more: serde_json::Value, text: &OutputText, law: LengthLaw) -> Choice {
        let length = OutputLength { tokens: 20, law };
        let served = Served {
            dialect: crate::request::Dialect::Vllm,
            model: "m".to_owned(),
            max_model_len: 2048,
            length,
        };
        let mut body = json!({"prompt": "a prompt", "messages": [{"role": "user", "content": "hi there"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let tokenizer = Tokenizer::built_in();
        let wanted = Wanted::of(api, body.as_object().unwrap(), &served, &tokenizer).unwrap();
        let output = Output::new(text, &tokenizer).unwrap();
        Choice::new(&wanted, 0, 0, Author { output: &output, tokenizer: &tokenizer, seed: 1 }, &served)
    }

    fn choice(api: Api, more: serde_json::Value) -> Choice {
        written(api, more, &OutputText::Lorem, LengthLaw::Constant)
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
        assert_eq!((plain.pieces().len(), plain.finish()), (7, &Finish::Length));
        let (texts, text, _) = run(plain);
        assert_eq!(texts.len(), 7);
        assert!(text.starts_with(' '));
    }

    #[test]
    fn an_open_answer_ends_by_itself() {
        let open = choice(Api::Chat, json!({}));
        assert_eq!((open.pieces().len(), open.finish()), (20, &Finish::End));
        assert_eq!(open.pieces().ids()[19], Tokenizer::built_in().end());
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
        let id = choice(Api::Completions, json!({"max_tokens": 9})).pieces().ids()[4];
        let stopped = choice(Api::Completions, json!({"max_tokens": 9, "stop_token_ids": [id]}));
        let tokens = stopped.pieces().len();
        assert!(tokens <= 5 && stopped.finish() == &Finish::StopToken(id));
        let late =
            choice(Api::Completions, json!({"max_tokens": 9, "stop_token_ids": [id], "min_tokens": 5}));
        assert!(late.pieces().len() > 5);
    }

    #[test]
    fn an_answer_says_its_prompt_or_a_text_over_and_over() {
        let echo =
            |api| run(written(api, json!({"max_tokens": 6}), &OutputText::Echo, LengthLaw::Constant)).1;
        // Three tokens each.
        assert_eq!(echo(Api::Completions), "a prompt".repeat(2));
        assert_eq!(echo(Api::Chat), "hi there".repeat(3));
        let text = OutputText::Text("one two\nthree four\n".to_owned());
        let said = run(written(Api::Completions, json!({"max_tokens": 9}), &text, LengthLaw::Constant)).1;
        assert!(
            "one two\nthree four\n".repeat(4).contains(&said)
                && (said.starts_with("one") || said.starts_with("three"))
        );
        let empty = OutputText::Text(String::new());
        let lorem = run(choice(Api::Completions, json!({"max_tokens": 9})));
        assert_eq!(
            run(written(Api::Completions, json!({"max_tokens": 9}), &empty, LengthLaw::Constant)),
            lorem
        );
    }

    #[test]
    fn a_drawn_length_is_that_of_all_answers_that_may_end() {
        let of = |more| written(Api::Completions, more, &OutputText::Lorem, LengthLaw::Uniform(0.5));
        let drawn = of(json!({"max_tokens": 1000}));
        assert!((10..=30).contains(&drawn.pieces().len()) && drawn.finish() == &Finish::End);
        assert_eq!(of(json!({"max_tokens": 5})).finish(), &Finish::Length);
        let exact = of(json!({"max_tokens": 1000, "ignore_eos": true}));
        assert_eq!((exact.pieces().len(), exact.finish()), (1000, &Finish::Length));
        assert!(of(json!({"max_tokens": 1000, "min_tokens": 500})).pieces().len() >= 500);
    }

    #[test]
    fn an_answer_keeps_to_the_tokens_allowed() {
        let only = choice(Api::Completions, json!({"max_tokens": 9, "allowed_token_ids": [500, 600]}));
        assert!(only.pieces().ids().iter().all(|id| [500, 600].contains(id)));
    }
}
