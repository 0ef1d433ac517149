//! Block hashes as engines and routers exchange them: XXH3-64 with seed 1337.
//!
//! A **block hash** stands for the content of one block wherever it occurs; a **sequence hash** chains block
//! hashes, so it stands for a block *and everything before it*. The scheme and its constants are those of the
//! Dynamo KV router, so that events and lookups of either side can be mixed.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Seed of every hash here.
pub const SEED: u64 = 1337;

/// Content of one block, independent of its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub u64);

/// Content of one block and of all blocks before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceHash(pub u64);

/// What keeps the caches of different tenants apart: equal tokens under different salts are different blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Salt<'a> {
    /// Name of the LoRA adapter; an empty name is no adapter.
    pub lora: &'a str,
    /// Cache namespace; an empty name is the common one.
    pub namespace: &'a str,
}

impl Salt<'_> {
    /// The seed under which the blocks of this adapter and namespace are hashed.
    pub fn seed(self) -> u64 {
        let part =
            |name: &str, seed| if name.is_empty() { 0 } else { xxh3_64_with_seed(name.as_bytes(), seed) };
        SEED.wrapping_add(part(self.lora, 0)).wrapping_add(part(self.namespace, 1))
    }
}

/// Hash of one block of `tokens`, with the hashes of the multimodal objects that touch it (in any order).
pub fn block_hash(tokens: &[u32], mm_hashes: &[u64], seed: u64) -> BlockHash {
    let mut bytes = Vec::with_capacity(tokens.len() * 4 + mm_hashes.len() * 8);
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes());
    }
    let mut objects = mm_hashes.to_vec();
    objects.sort_unstable();
    for object in objects {
        bytes.extend_from_slice(&object.to_le_bytes());
    }
    BlockHash(xxh3_64_with_seed(&bytes, seed))
}

/// Hashes of the complete blocks of `tokens`; a trailing partial block has none, and neither has a block size of 0.
pub fn block_hashes(tokens: &[u32], block_size: usize, salt: Salt<'_>) -> Vec<BlockHash> {
    let seed = salt.seed();
    match block_size {
        0 => Vec::new(),
        size => tokens.chunks_exact(size).map(|block| block_hash(block, &[], seed)).collect(),
    }
}

/// Block hashes for EAGLE drafting, whose blocks look one token ahead: windows of `block_size + 1` tokens, a
/// block apart.
pub fn eagle_block_hashes(tokens: &[u32], block_size: usize, salt: Salt<'_>) -> Vec<BlockHash> {
    let seed = salt.seed();
    match block_size {
        0 => Vec::new(),
        size => tokens.windows(size + 1).step_by(size).map(|window| block_hash(window, &[], seed)).collect(),
    }
}

/// Chains block hashes into sequence hashes: the first stands for itself, each later one covers its parent too.
pub fn sequence_hashes(blocks: &[BlockHash]) -> Vec<SequenceHash> {
    let mut parent = None;
    blocks
        .iter()
        .map(|&block| {
            let hash = extend(parent, block);
            parent = Some(hash);
            hash
        })
        .collect()
}

/// The sequence hash of `block` after `parent`.
pub fn extend(parent: Option<SequenceHash>, block: BlockHash) -> SequenceHash {
    let Some(parent) = parent else { return SequenceHash(block.0) };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&parent.0.to_le_bytes());
    bytes[8..].copy_from_slice(&block.0.to_le_bytes());
    SequenceHash(xxh3_64_with_seed(&bytes, SEED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locals(hashes: &[BlockHash]) -> Vec<u64> {
        hashes.iter().map(|hash| hash.0).collect()
    }

    fn chained(hashes: &[BlockHash]) -> Vec<u64> {
        sequence_hashes(hashes).iter().map(|hash| hash.0).collect()
    }

    #[test]
    fn bytes_and_token_blocks_match_the_golden_vectors() {
        assert_eq!(xxh3_64_with_seed(b"test data", SEED), 13226331709069118873);

        let tokens: Vec<u32> = (1..=12).collect();
        let blocks = block_hashes(&tokens, 4, Salt::default());
        assert_eq!(locals(&blocks), [14643705804678351452, 16777012769546811212, 483935686894639516]);
        assert_eq!(chained(&blocks), [14643705804678351452, 4945711292740353085, 12583592247330656132]);

        let blocks = block_hashes(&[0, 1, 2, 3, 4, 5, 6, 7], 4, Salt::default());
        assert_eq!(locals(&blocks), [9143094415614847814, 12124091508212882195]);
        assert_eq!(chained(&blocks)[1], 9510318385840434533);
        assert_eq!(block_hash(&[7; 64], &[], SEED).0, 17903371052352623343);
    }

    #[test]
    fn adapters_and_namespaces_have_hashes_of_their_own() {
        let salt = Salt { lora: "adapter-a", namespace: "" };
        assert_eq!(salt.seed(), 8842669519798868182);
        let blocks = block_hashes(&[1, 2, 3, 4, 5, 6, 7, 8], 4, salt);
        assert_eq!(locals(&blocks), [11381080598872079209, 5698110331184095209]);
        assert_eq!(chained(&blocks)[1], 17518568667535815909);

        let salt = Salt { lora: "", namespace: "tenant-1" };
        assert_eq!(salt.seed(), 13131544620552358486);
        assert_eq!(locals(&block_hashes(&[1, 2, 3, 4], 4, salt)), [12236259103925738072]);
        assert_eq!(Salt::default().seed(), SEED);
    }

    #[test]
    fn multimodal_objects_are_part_of_a_block_in_any_order() {
        assert_eq!(block_hash(&[1, 2], &[], SEED).0, 10773075109927122010);
        assert_eq!(block_hash(&[1, 2], &[42], SEED).0, 8042846820486697486);
        assert_eq!(block_hash(&[1, 2], &[7, 42], SEED), block_hash(&[1, 2], &[42, 7], SEED));
    }

    #[test]
    fn eagle_blocks_look_one_token_ahead() {
        let blocks = eagle_block_hashes(&[0, 1, 2, 3, 4], 2, Salt::default());
        assert_eq!(locals(&blocks), [11646242937812223497, 9948816348502404300]);
        assert_eq!(eagle_block_hashes(&[0, 1, 2, 3], 2, Salt::default()).len(), 1);
        assert!(eagle_block_hashes(&[], 2, Salt::default()).is_empty());
    }

    #[test]
    fn replayed_trace_blocks_repeat_their_id() {
        let tokens: Vec<u32> = (0..3).flat_map(|id| [id; 16]).collect();
        let blocks = block_hashes(&tokens, 16, Salt::default());
        assert_eq!(locals(&blocks), [5523182284766269584, 13518392937921988335, 4954898952464910565]);
        assert_eq!(chained(&blocks), [5523182284766269584, 18334666815488455025, 719632925788506753]);
    }

    #[test]
    fn partial_blocks_and_a_block_size_of_zero_give_nothing() {
        assert!(block_hashes(&[1, 2, 3], 4, Salt::default()).is_empty());
        assert!(block_hashes(&[1, 2, 3], 0, Salt::default()).is_empty());
        assert!(eagle_block_hashes(&[1, 2, 3], 0, Salt::default()).is_empty());
    }
}
