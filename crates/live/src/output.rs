//! What answers say: words of no meaning, their prompt again, or pieces of a text; the same for the same prompt and seed.

use std::ops::{ControlFlow, Range};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::pieces::Pieces;
use crate::tokenizer::Tokenizer;

/// What answers are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputText {
    /// Words of no meaning, in random order.
    Lorem,
    /// The prompt, or the last message of a chat, again and again.
    Echo,
    /// This text, from the beginning of one of its lines, again and again.
    Text(String),
}

/// Words of no meaning. Each is one token of the built-in rule.
pub(crate) const LOREM: [&str; 64] = [
    " lorem", " ipsum", " dolor", " sit", " amet", " elit", " sed", " do", " ut", " magna", " enim", " ad",
    " minim", " quis", " nisi", " ex", " ea", " duis", " aute", " irure", " in", " velit", " esse", " fuga",
    " nulla", " sint", " non", " sunt", " culpa", " qui", " molli", " anim", " id", " est", " at", " vero",
    " eos", " et", " odio", " dicta", " ipsa", " quae", " ab", " illo", " beata", " nemo", " ipsam", " quia",
    " aut", " odit", " sequi", " porro", " modi", " eius", " nam", " iusto", " quo", " cum", " solut",
    " nobis", " omnis", " totam", " rem", " aper",
];

/// What answers are made of, in tokens.
#[derive(Debug)]
pub(crate) struct Output {
    words: Vec<Pieces>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Lorem,
    Echo,
    Text {
        all: Pieces,
        /// Where lines begin.
        starts: Vec<usize>,
    },
}

/// Random bits of an answer: of its prompt, and the seed.
pub(crate) fn random(prompt: &[u32], seed: u64) -> u64 {
    let bytes: Vec<u8> = prompt.iter().flat_map(|token| token.to_le_bytes()).collect();
    xxh3_64_with_seed(&bytes, seed)
}

impl Output {
    /// In the tokens of this tokenizer.
    pub(crate) fn new(text: &OutputText, tokenizer: &Tokenizer) -> Result<Self, String> {
        let pieces = |text: &str| {
            let ids = tokenizer.encode(text, false).map_err(|error| error.0)?;
            Ok::<_, String>(tokenizer.pieces(&ids))
        };
        let words = LOREM.iter().map(|word| pieces(word)).collect::<Result<_, _>>()?;
        let kind = match text {
            OutputText::Lorem => Kind::Lorem,
            OutputText::Echo => Kind::Echo,
            OutputText::Text(text) => {
                let all = pieces(text)?;
                let mut starts = vec![0];
                for place in 1..all.len() {
                    if all.get(place - 1).1.ends_with('\n') && !all.get(place).1.starts_with('\n') {
                        starts.push(place);
                    }
                }
                Kind::Text { all, starts }
            }
        };
        Ok(Self { words, kind })
    }

    /// Says, token by token, what the answer with these random bits to a prompt is, until it is not taken. `heard` is what
    /// of the prompt is repeated, if anything is.
    pub(crate) fn say(
        &self,
        prompt: &[u32],
        heard: Range<usize>,
        mut random: u64,
        tokenizer: &Tokenizer,
        take: &mut dyn FnMut(u32, &str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match &self.kind {
            Kind::Text { all, starts } if all.len() > 0 => {
                let start = starts[(random % starts.len() as u64) as usize];
                return cycle(all, start, take);
            }
            Kind::Echo => {
                // What begins and ends texts is not said.
                let is_said = |&id: &u32| !tokenizer.decode(&[id], false).is_empty();
                let heard: Vec<u32> = prompt[heard].iter().copied().filter(is_said).collect();
                let heard = tokenizer.pieces(&heard);
                if heard.len() > 0 {
                    return cycle(&heard, 0, take);
                }
            }
            Kind::Lorem | Kind::Text { .. } => {}
        }
        loop {
            // The generator of SplitMix64, whose increment makes all states come up.
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let word = &self.words[((mixed ^ (mixed >> 31)) % self.words.len() as u64) as usize];
            word.iter().try_for_each(|(id, text)| take(id, text))?;
        }
    }

    /// A token that could be instead of others: the first of a word.
    pub(crate) fn alternative(&self, number: u32) -> (u32, &str) {
        self.words[number as usize % self.words.len()].get(0)
    }
}

fn cycle(
    pieces: &Pieces,
    start: usize,
    take: &mut dyn FnMut(u32, &str) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut place = start;
    loop {
        let (id, text) = pieces.get(place);
        take(id, text)?;
        place = (place + 1) % pieces.len();
    }
}
