//! What sequences of tokens consist of, for the deployment and for its record.

use std::sync::Arc;

use servecast_types::{Prompt, Run};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What keeps prompts of one client apart from equal ones of others.
pub(crate) type Salt = Arc<str>;

/// Sequences share what they begin with, so it is enough that the first token is another one for each salt. It has an id
/// that no token has, and that follows from salt and token.
pub(crate) fn ids<'a>(tokens: &'a [u32], salt: Option<&Salt>) -> impl Iterator<Item = u64> + use<'a> {
    let salted = tokens.first().zip(salt).map(|(&first, salt)| salted(first, salt));
    let rest = &tokens[usize::from(salted.is_some())..];
    salted.into_iter().chain(rest.iter().map(|&token| u64::from(token)))
}

fn salted(token: u32, salt: &str) -> u64 {
    xxh3_64_with_seed(salt.as_bytes(), token.into()) | 1 << 63
}

/// The content of tokens, as a replay of the record has it.
pub(crate) fn content(tokens: &[u32], salt: Option<&Salt>) -> Prompt {
    Prompt::new(ids(tokens, salt).map(Run::token_named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_same_salt_is_shared() {
        let [salt, other] = ["salt", "other"].map(Salt::from);
        let of = |salt| content(&[7, 8, 9], salt);
        assert_eq!(of(Some(&salt)).common_prefix(&content(&[7, 8, 5], Some(&salt))), 2);
        assert_eq!(of(Some(&salt)).common_prefix(&content(&[6, 8, 9], Some(&salt))), 0);
        for one in [of(Some(&other)), of(None)] {
            assert_eq!(of(Some(&salt)).common_prefix(&one), 0);
        }
        assert_eq!(of(Some(&salt)).tokens(), 3);
        assert!(content(&[], Some(&salt)).runs().is_empty());
    }
}
