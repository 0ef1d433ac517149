//! What answers say: words of no meaning, the same for the same prompt.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::tokenizer::id_of;

/// Each is one token.
const WORDS: [&str; 64] = [
    " lorem", " ipsum", " dolor", " sit", " amet", " elit", " sed", " do", " ut", " magna", " enim", " ad",
    " minim", " quis", " nisi", " ex", " ea", " duis", " aute", " irure", " in", " velit", " esse", " fuga",
    " nulla", " sint", " non", " sunt", " culpa", " qui", " molli", " anim", " id", " est", " at", " vero",
    " eos", " et", " odio", " dicta", " ipsa", " quae", " ab", " illo", " beata", " nemo", " ipsam", " quia",
    " aut", " odit", " sequi", " porro", " modi", " eius", " nam", " iusto", " quo", " cum", " solut",
    " nobis", " omnis", " totam", " rem", " aper",
];

/// A token of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its id.
    pub(crate) id: u32,
    /// Its text.
    pub(crate) text: &'static str,
}

/// An answer without end to a prompt: the same for the same `seed`.
pub(crate) fn answer(prompt: &[u32], seed: u64) -> impl Iterator<Item = Word> + use<> {
    let bytes: Vec<u8> = prompt.iter().flat_map(|token| token.to_le_bytes()).collect();
    let mut state = xxh3_64_with_seed(&bytes, seed);
    std::iter::repeat_with(move || {
        // The generator of SplitMix64, whose increment makes all states come up.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let text = WORDS[((mixed ^ (mixed >> 31)) % WORDS.len() as u64) as usize];
        Word { id: id_of(text), text }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{Tokenizer, tokens};

    #[test]
    fn an_answer_has_the_tokens_of_its_text() {
        let words: Vec<Word> = answer(&[1, 2, 3], 7).take(200).collect();
        let text: String = words.iter().map(|word| word.text).collect();
        assert!(tokens(&text).eq(words.iter().map(|word| word.text)));
        assert_eq!(Tokenizer::default().encode(&text), words.iter().map(|word| word.id).collect::<Vec<_>>());
    }

    #[test]
    fn answers_depend_on_prompt_and_seed() {
        let of = |prompt: &[u32], seed| answer(prompt, seed).take(20).collect::<Vec<_>>();
        assert_eq!(of(&[1, 2], 3), of(&[1, 2], 3));
        assert!(of(&[1, 2], 3) != of(&[1, 2], 4) && of(&[1, 2], 3) != of(&[2, 1], 3));
    }
}
