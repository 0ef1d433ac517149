//! From the events of an engine to those of the index.

use std::num::NonZeroU32;

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::hash::{Salt, block_hash};

use super::engine::{BlockRemoved, BlockStored, DecodedBatch, EngineEvent};
use super::{
    BlockMmInfo, EventError, IndexEvent, IndexEventData, MmObject, RemovedBlocks, RouterEvent, StorageTier,
    StoredBlock, StoredBlocks,
};

/// Kinds of cache group whose blocks hold everything before them, so that a hit is a hit of the whole prefix.
const WHOLE_PREFIX: [&str; 3] = ["full_attention", "mla_attention", "sink_full_attention"];

/// Turns the batches of one worker's engine into index events.
///
/// It remembers between batches which cache groups do not hold whole prefixes, since engines say so only when
/// they store blocks, not when they remove them.
#[derive(Debug, Clone)]
pub struct EventConverter {
    worker_id: u64,
    dp_rank: u32,
    block_size: NonZeroU32,
    /// Kind of each group that does not hold whole prefixes.
    partial_groups: FxHashMap<u32, String>,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Converted {
    /// What the index should apply, in order.
    pub events: Vec<RouterEvent>,
    /// What could not be used, in order: to be counted, by kind.
    pub problems: Vec<EventProblem>,
}

/// One event of a batch that was not used, or not wholly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {index}: {reason}")]
pub struct EventProblem {
    /// Position in the batch, from 0.
    pub index: usize,
    /// What is wrong.
    pub reason: EventError,
}

impl EventConverter {
    /// A converter for the engine of `worker_id`, whose batches are about `dp_rank` unless they say
    /// otherwise, into a router with blocks of `block_size` tokens.
    pub fn new(worker_id: u64, dp_rank: u32, block_size: NonZeroU32) -> Self {
        Self { worker_id, dp_rank, block_size, partial_groups: FxHashMap::default() }
    }

    /// Converts the batch with number `sequence`, which all its index events get as their id. An event about
    /// no blocks gives nothing.
    pub fn convert(&mut self, sequence: u64, batch: &DecodedBatch) -> Converted {
        let dp_rank = batch.data_parallel_rank.unwrap_or(self.dp_rank);
        let mut converted = Converted::default();
        for (index, event) in batch.events.iter().enumerate() {
            let change = event.as_ref().map_err(EventError::clone).and_then(|event| self.change(event));
            let problem = match change {
                Ok(Change { storage_tier, data, problem }) => {
                    if !is_empty(&data) {
                        let event = IndexEvent { event_id: sequence, data, dp_rank };
                        converted.events.push(RouterEvent { worker_id: self.worker_id, storage_tier, event });
                    }
                    problem
                }
                Err(reason) => Some(reason),
            };
            converted.problems.extend(problem.map(|reason| EventProblem { index, reason }));
        }
        converted
    }

    fn change(&mut self, event: &EngineEvent) -> Result<Change, EventError> {
        match event {
            EngineEvent::BlockStored(event) => self.stored(event),
            EngineEvent::BlockRemoved(event) => self.removed(event),
            // Engines announce this of the device only, whatever else the message may say.
            EngineEvent::AllBlocksCleared => {
                Ok(Change { storage_tier: StorageTier::Device, data: IndexEventData::Cleared, problem: None })
            }
        }
    }

    fn stored(&mut self, event: &BlockStored) -> Result<Change, EventError> {
        self.learn_group(event)?;
        let storage_tier = tier(event.medium.as_ref())?;
        if event.block_size != self.block_size.get() {
            return Err(EventError::BlockSize { found: event.block_size, expected: self.block_size.get() });
        }
        let mut seen: FxHashSet<_> = event.parent_block_hash.into_iter().collect();
        if let Some(hash) = event.block_hashes.iter().find(|hash| !seen.insert(**hash)) {
            return Err(EventError::RepeatedHash { hash: hash.0 });
        }

        let blocks = stored_blocks(event);
        let (filled, named) = (blocks.len(), event.block_hashes.len());
        debug_assert!(filled <= named, "every indexed block has a hash of the engine");
        Ok(Change {
            storage_tier,
            data: IndexEventData::Stored(StoredBlocks { parent_hash: event.parent_block_hash, blocks }),
            problem: (filled < named).then_some(EventError::TooFewTokens { filled, named }),
        })
    }

    fn removed(&self, event: &BlockRemoved) -> Result<Change, EventError> {
        if let Some(kind) = event.group_idx.and_then(|group| self.partial_groups.get(&group)) {
            return Err(EventError::CacheGroup { group: event.group_idx, kind: kind.clone() });
        }
        Ok(Change {
            storage_tier: tier(event.medium.as_ref())?,
            data: IndexEventData::Removed(RemovedBlocks { block_hashes: event.block_hashes.clone() }),
            problem: None,
        })
    }

    fn learn_group(&mut self, event: &BlockStored) -> Result<(), EventError> {
        let Some(kind) = &event.kv_cache_spec_kind else { return Ok(()) };
        if WHOLE_PREFIX.contains(&kind.as_str()) {
            if let Some(group) = event.group_idx {
                self.partial_groups.remove(&group);
            }
            return Ok(());
        }
        if let Some(group) = event.group_idx {
            self.partial_groups.insert(group, kind.clone());
        }
        Err(EventError::CacheGroup { group: event.group_idx, kind: kind.clone() })
    }
}

/// What one event does to the index, and what of it is not there.
struct Change {
    storage_tier: StorageTier,
    data: IndexEventData,
    problem: Option<EventError>,
}

/// The blocks that the event's tokens fill.
fn stored_blocks(event: &BlockStored) -> Vec<StoredBlock> {
    let size = event.block_size as usize;
    let seed = Salt { lora: event.lora_name.as_deref().unwrap_or_default(), ..Salt::default() }.seed();
    let tokens = event.token_ids.sequence();
    tokens
        .windows(size + event.token_ids.lookahead())
        .step_by(size)
        .zip(&event.block_hashes)
        .enumerate()
        .map(|(at, (block, &hash))| {
            let mm_extra_info = mm_info(event, at);
            let objects = mm_extra_info.as_ref().map_or(&[][..], |info| &info.mm_objects);
            let mm_hashes: Vec<u64> = objects.iter().map(|object| object.mm_hash).collect();
            StoredBlock { block_hash: hash, tokens_hash: block_hash(block, &mm_hashes, seed), mm_extra_info }
        })
        .collect()
}

/// The multimodal objects of the block `at` this place of the event.
fn mm_info(event: &BlockStored, at: usize) -> Option<BlockMmInfo> {
    if let Some(infos) = &event.block_mm_infos {
        return infos.get(at)?.clone();
    }
    let keys = event.extra_keys.as_ref()?.get(at)?.as_ref()?;
    let object = |mm_hash| MmObject { mm_hash, offsets: Vec::new() };
    let mm_objects: Vec<_> = keys.iter().filter_map(|key| key.mm_hash().map(object)).collect();
    (!mm_objects.is_empty()).then_some(BlockMmInfo { mm_objects })
}

fn tier(medium: Option<&String>) -> Result<StorageTier, EventError> {
    StorageTier::from_medium(medium.map(String::as_str))
        .ok_or_else(|| EventError::UnknownMedium { found: medium.cloned().unwrap_or_default() })
}

fn is_empty(data: &IndexEventData) -> bool {
    match data {
        IndexEventData::Stored(stored) => stored.blocks.is_empty(),
        IndexEventData::Removed(removed) => removed.block_hashes.is_empty(),
        IndexEventData::Cleared => false,
    }
}
