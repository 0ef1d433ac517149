//! The messages of engines, as they are read.

use std::borrow::Cow;

use servecast_types::SequenceHash;

use super::{BlockMmInfo, EventError};

/// One message of an engine, read.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedMessage {
    /// The first frame: what subscribers filter by. Often empty.
    pub topic: Vec<u8>,
    /// The second frame: number of the batch, without gaps as long as none is lost.
    pub sequence: u64,
    /// The third frame.
    pub batch: DecodedBatch,
}

/// A batch of events as it could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedBatch {
    /// The engine's clock when it published the batch, in seconds. Nothing is derived from it.
    pub ts: f64,
    /// Every event in order, or why it could not be read.
    pub events: Vec<Result<EngineEvent, EventError>>,
    /// The rank whose cache changed, if the engine says so.
    pub data_parallel_rank: Option<u32>,
}

/// A batch of events to be written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventBatch {
    /// The engine's clock, in seconds.
    pub ts: f64,
    /// The events, in the order in which they happened.
    pub events: Vec<EngineEvent>,
    /// The rank whose cache changed.
    pub data_parallel_rank: Option<u32>,
}

impl From<EventBatch> for DecodedBatch {
    fn from(batch: EventBatch) -> Self {
        Self {
            ts: batch.ts,
            events: batch.events.into_iter().map(Ok).collect(),
            data_parallel_rank: batch.data_parallel_rank,
        }
    }
}

/// One change of an engine's cache.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// Blocks were filled.
    BlockStored(BlockStored),
    /// Blocks were evicted.
    BlockRemoved(BlockRemoved),
    /// The whole cache was dropped.
    AllBlocksCleared,
}

/// Consecutive blocks of one sequence that were filled.
///
/// Hashes of engines come as unsigned integers, as negative ones (taken as the unsigned number of the same
/// bits), or as bytes. Of bytes the last eight count, read big-endian: that is the number that vLLM itself
/// sends for the same digest when it is told to send integers, so both settings give the same hash; shorter
/// ones are padded with zeros in front, and none at all are an error.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BlockStored {
    /// One hash a block.
    pub block_hashes: Vec<SequenceHash>,
    /// Hash of the block before the first one; none at the start of a sequence.
    pub parent_block_hash: Option<SequenceHash>,
    /// The tokens of all the blocks.
    pub token_ids: TokenIds,
    /// Tokens in a block; positive.
    pub block_size: u32,
    /// Number of the LoRA adapter in the engine, which means nothing outside it: never used. What is not an
    /// integer is read as none.
    pub lora_id: Option<i64>,
    /// Where the blocks are, in the engine's words.
    pub medium: Option<String>,
    /// Name of the LoRA adapter.
    pub lora_name: Option<String>,
    /// What the engine hashed besides the tokens, for each block.
    pub extra_keys: Option<Vec<Option<Vec<ExtraKey>>>>,
    /// Multimodal objects of each block; wins over `extra_keys`.
    pub block_mm_infos: Option<Vec<Option<BlockMmInfo>>>,
    /// The group of layers whose cache this is, in models that mix kinds of attention.
    pub group_idx: Option<u32>,
    /// What the group keeps, such as `full_attention` or `sliding_window`.
    pub kv_cache_spec_kind: Option<String>,
}

/// Blocks that were evicted. For the hashes see [`BlockStored`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BlockRemoved {
    /// One hash a block.
    pub block_hashes: Vec<SequenceHash>,
    /// Where the blocks were.
    pub medium: Option<String>,
    /// The group of layers whose cache this was.
    pub group_idx: Option<u32>,
}

/// The tokens of some blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenIds {
    /// One id a token. An empty list is always this.
    Flat(Vec<u32>),
    /// Each token with its successor: EAGLE drafting, whose blocks look one token ahead.
    Bigrams(Vec<[u32; 2]>),
}

impl Default for TokenIds {
    fn default() -> Self {
        Self::Flat(Vec::new())
    }
}

impl TokenIds {
    /// The tokens as one sequence; with the one after the last block if they came in pairs.
    pub fn sequence(&self) -> Cow<'_, [u32]> {
        match self {
            Self::Flat(tokens) => Cow::Borrowed(tokens),
            Self::Bigrams(pairs) => {
                let last = pairs.last().map(|pair| pair[1]);
                Cow::Owned(pairs.iter().map(|pair| pair[0]).chain(last).collect())
            }
        }
    }

    /// How many tokens beyond its own a block's hash covers.
    pub fn lookahead(&self) -> usize {
        match self {
            Self::Flat(_) => 0,
            Self::Bigrams(_) => 1,
        }
    }
}

/// Something that an engine hashed into a block besides its tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum ExtraKey {
    /// An adapter's name, a cache salt, or a multimodal object's identifier.
    Text(String),
    /// A multimodal object's identifier and where in the block it begins.
    Placed {
        /// The identifier.
        identifier: String,
        /// The offset; negative if the object began in an earlier block.
        offset: i64,
    },
    /// A digest, such as one of prompt embeddings.
    Bytes(Vec<u8>),
    /// An integer of 0 or more.
    Unsigned(u64),
    /// An integer below 0.
    Negative(i64),
    /// A number.
    Float(f64),
    /// A switch.
    Flag(bool),
}

impl ExtraKey {
    /// The multimodal object that the key stands for: only a text of exactly 64 hexadecimal digits is one,
    /// and its first 16 are the hash.
    pub fn mm_hash(&self) -> Option<u64> {
        let (Self::Text(identifier) | Self::Placed { identifier, .. }) = self else { return None };
        let is_digest = identifier.len() == 64 && identifier.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| u64::from_str_radix(&identifier[..16], 16).ok()).flatten()
    }
}
