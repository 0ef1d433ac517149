//! Hash tables whose entries lie in the order of their keys, as far as keys are adjacent numbers.
//!
//! [`BlockHasher`](crate::BlockHasher) gives the blocks of one run of tokens consecutive identities, and their first one
//! is spread evenly already. Placing an identity by its low bits puts such blocks side by side, so that a table of
//! millions of blocks costs a miss of the processor's cache or two a run instead of one a block.

use std::hash::{BuildHasherDefault, Hasher};

use crate::SequenceHash;

/// A map by block identity.
#[expect(clippy::disallowed_types, reason = "it has a hasher without a seed")]
pub type NearMap<V> = std::collections::HashMap<SequenceHash, V, BuildHasherDefault<NearHasher>>;

/// The place of an identity in a table: adjacent ones have adjacent places.
///
/// The upper bits move the place too, so numbers that differ only there do not meet, and the topmost seven, by which a
/// table tells entries apart before it looks at their keys, differ among neighbours.
pub const fn place(identity: u64) -> u64 {
    const TAG: u64 = 0x7F << 57;
    let folded = identity ^ (identity >> 32);
    let folded = folded ^ ((folded >> 16) & 0xFFFF);
    (folded & !TAG) | (identity.wrapping_mul(0x9E37_79B9_7F4A_7C15) & TAG)
}

/// Hashes one identity by its [`place`].
#[derive(Debug, Clone, Copy, Default)]
pub struct NearHasher(u64);

impl Hasher for NearHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, identity: u64) {
        self.0 = place(self.0.rotate_left(5) ^ identity);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn adjacent_identities_have_adjacent_places_and_other_tags() {
        let first = 0x1234_5678_9ABC_DE40;
        let places: Vec<u64> = (first..first + 8).map(place).collect();
        let lows: BTreeSet<u64> = places.iter().map(|place| place & 0xFFFF_FFFF).collect();
        assert_eq!(lows.len(), 8);
        assert!(lows.last().unwrap() - lows.first().unwrap() == 7, "eight places in a row: {lows:?}");
        let tags: BTreeSet<u64> = places.iter().map(|place| place >> 57).collect();
        assert!(tags.len() >= 6, "{tags:?}");
    }

    #[test]
    fn numbers_that_differ_only_in_their_upper_bits_do_not_meet() {
        let low_bits: BTreeSet<u64> = (0..256).map(|number| place(number << 40) & 0xFFFF).collect();
        assert_eq!(low_bits.len(), 256);
    }
}
