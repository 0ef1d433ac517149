//! The index events that routers and indexers exchange.

use serde::{Deserialize, Serialize};
use servecast_types::{BlockHash, KvEvent, SequenceHash};

use super::hashes;

/// One change of one worker's cache, as routers and indexers pass it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterEvent {
    /// The worker whose cache changed.
    pub worker_id: u64,
    /// Where the blocks are; the device if the field is absent.
    #[serde(default)]
    pub storage_tier: StorageTier,
    /// What changed.
    pub event: IndexEvent,
}

/// What changed in the cache of one data-parallel rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEvent {
    /// Rises with every event of a worker; events that came in one engine batch share the batch's number.
    pub event_id: u64,
    /// The change.
    pub data: IndexEventData,
    /// The rank; 0 if the field is absent.
    #[serde(default)]
    pub dp_rank: u32,
}

/// The change itself: `{"stored": {…}}`, `{"removed": {…}}` or `"cleared"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexEventData {
    /// Blocks can be hit from now on.
    Stored(StoredBlocks),
    /// Blocks are gone.
    Removed(RemovedBlocks),
    /// The rank's whole cache is gone.
    Cleared,
}

/// Consecutive blocks of one sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlocks {
    /// External hash of the block before the first one; none at the start of a sequence.
    #[serde(default, with = "hashes::optional")]
    pub parent_hash: Option<SequenceHash>,
    /// The blocks, in order.
    pub blocks: Vec<StoredBlock>,
}

/// One block under its two names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlock {
    /// The external hash: how the engine will name the block as a parent or when it removes it. Opaque,
    /// except that it stands for the block and everything before it.
    #[serde(with = "hashes::one")]
    pub block_hash: SequenceHash,
    /// Hash of the content, which is what a request is looked up by.
    #[serde(with = "hashes::one")]
    pub tokens_hash: BlockHash,
    /// Multimodal objects in the block; they are part of `tokens_hash` already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mm_extra_info: Option<BlockMmInfo>,
}

/// Blocks that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedBlocks {
    /// Their external hashes.
    #[serde(with = "hashes::many")]
    pub block_hashes: Vec<SequenceHash>,
}

/// The multimodal objects of one block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockMmInfo {
    /// The objects, in any order.
    pub mm_objects: Vec<MmObject>,
}

/// One multimodal object, as far as it lies in one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmObject {
    /// Identifies the object.
    pub mm_hash: u64,
    /// First and one-past-last token of the object within the block, once for each time it occurs; may be
    /// unknown.
    pub offsets: Vec<(u64, u64)>,
}

/// Where a block is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageTier {
    /// Memory of the accelerator: the only tier that can be hit without a transfer.
    #[default]
    Device,
    /// Memory of the host.
    HostPinned,
    /// A local disk.
    Disk,
    /// Storage shared with others.
    External,
}

impl StorageTier {
    /// The tier that an engine's `medium` means, whatever its case. No medium is the device, since engines
    /// with one tier leave it out. An unknown medium is no tier: taken for the device, it would promise hits
    /// that do not happen.
    pub fn from_medium(medium: Option<&str>) -> Option<Self> {
        let Some(medium) = medium else { return Some(Self::Device) };
        Some(match medium.to_ascii_uppercase().as_str() {
            "GPU" | "DEVICE" => Self::Device,
            "CPU" | "CPU_PINNED" | "CPU_TIER1" => Self::HostPinned,
            "CPU_TIER2" | "DISK" | "NVME" | "FS" | "STORAGE" => Self::Disk,
            "EXTERNAL" | "NETWORK" | "REMOTE" | "SHARED" | "OBJ" => Self::External,
            _ => return None,
        })
    }
}

impl From<&KvEvent> for IndexEventData {
    /// The simulator's engines name a block by one hash, so it stands for the content as well.
    fn from(event: &KvEvent) -> Self {
        match event {
            KvEvent::Stored { parent, blocks } => Self::Stored(StoredBlocks {
                parent_hash: *parent,
                blocks: blocks
                    .iter()
                    .map(|hash| StoredBlock {
                        block_hash: hash,
                        tokens_hash: BlockHash(hash.0),
                        mm_extra_info: None,
                    })
                    .collect(),
            }),
            KvEvent::Removed { blocks } => {
                Self::Removed(RemovedBlocks { block_hashes: blocks.iter().collect() })
            }
            KvEvent::Cleared => Self::Cleared,
        }
    }
}
