//! Hashes of blocks, as engines and routers exchange them.

#![expect(clippy::needless_pass_by_value, reason = "arguments from Python are values")]

use pyo3::prelude::*;
use servecast_types::BlockHash;
use servecast_types::hash::{self, Salt};

/// Hashes of the content of the full blocks of a prompt.
#[pyfunction]
pub(crate) fn block_hashes(
    tokens: Vec<u32>,
    block_size: u32,
    lora_name: &str,
    namespace: &str,
    eagle: bool,
) -> Vec<u64> {
    let salt = Salt { lora: lora_name, namespace };
    let hashes = if eagle { hash::eagle_block_hashes } else { hash::block_hashes };
    hashes(&tokens, block_size as usize, salt).into_iter().map(|hash| hash.0).collect()
}

/// Chains hashes of content into hashes that cover all blocks before them.
#[pyfunction]
pub(crate) fn sequence_hashes(block_hashes: Vec<u64>) -> Vec<u64> {
    let blocks: Vec<BlockHash> = block_hashes.into_iter().map(BlockHash).collect();
    hash::sequence_hashes(&blocks).into_iter().map(|hash| hash.0).collect()
}
