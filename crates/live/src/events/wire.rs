//! Messages of KV events: msgpack, as vLLM writes it.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeTuple, Serializer};

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFormat {
    /// As maps with their type under `type`, as of vLLM 0.32.
    #[default]
    Map,
    /// As arrays that begin with their type, as of earlier releases.
    Array,
}

/// What has become of blocks, by the numbers that stand for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlockEvent {
    /// They can be hit now; they continue `parent`, or begin a sequence.
    Stored {
        parent: Option<u64>,
        hashes: Vec<u64>,
        /// Of all of them, one after the other.
        tokens: Vec<u32>,
        block_size: u32,
        /// What the first of them was salted with.
        salt: Option<Arc<str>>,
    },
    /// One was evicted.
    Removed(u64),
    /// All are gone.
    Cleared,
}

/// The payload of a message: what happened at `time`, in seconds, on the worker of a rank.
pub(crate) fn payload(time: f64, events: &[BlockEvent], rank: u32, format: EventFormat) -> Vec<u8> {
    let events: Vec<Formatted<'_>> = events.iter().map(|event| Formatted { event, format }).collect();
    let mut out = Vec::new();
    let mut serializer = rmp_serde::Serializer::new(&mut out).with_struct_map();
    (time, events, rank).serialize(&mut serializer).expect("there is memory");
    out
}

struct Formatted<'a> {
    event: &'a BlockEvent,
    format: EventFormat,
}

const MEDIUM: &str = "GPU";

#[derive(serde::Serialize)]
struct Stored<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    block_hashes: &'a [u64],
    parent_block_hash: Option<u64>,
    token_ids: &'a [u32],
    block_size: u32,
    lora_id: Option<u32>,
    medium: &'static str,
    lora_name: Option<&'static str>,
    /// One a block.
    extra_keys: Vec<Option<[&'a str; 1]>>,
    group_idx: u32,
    kv_cache_spec_kind: &'static str,
}

#[derive(serde::Serialize)]
struct Removed {
    #[serde(rename = "type")]
    kind: &'static str,
    block_hashes: [u64; 1],
    medium: &'static str,
    group_idx: u32,
}

#[derive(serde::Serialize)]
struct Cleared {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl Serialize for Formatted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_map = self.format == EventFormat::Map;
        match self.event {
            BlockEvent::Stored { parent, hashes, tokens, block_size, salt } => {
                let mut extra_keys = vec![None; hashes.len()];
                if let (Some(first), Some(salt)) = (extra_keys.first_mut(), salt) {
                    *first = Some([&**salt]);
                }
                let stored = Stored {
                    kind: "BlockStored",
                    block_hashes: hashes,
                    parent_block_hash: *parent,
                    token_ids: tokens,
                    block_size: *block_size,
                    lora_id: None,
                    medium: MEDIUM,
                    lora_name: None,
                    extra_keys,
                    group_idx: 0,
                    kv_cache_spec_kind: "full_attention",
                };
                if is_map { stored.serialize(serializer) } else { stored.as_array(serializer) }
            }
            BlockEvent::Removed(hash) => {
                let (kind, block_hashes) = ("BlockRemoved", [*hash]);
                if is_map {
                    Removed { kind, block_hashes, medium: MEDIUM, group_idx: 0 }.serialize(serializer)
                } else {
                    (kind, block_hashes, MEDIUM).serialize(serializer)
                }
            }
            BlockEvent::Cleared => {
                let kind = "AllBlocksCleared";
                if is_map { Cleared { kind }.serialize(serializer) } else { (kind,).serialize(serializer) }
            }
        }
    }
}

impl Stored<'_> {
    /// As earlier releases have it, without the group and its kind.
    fn as_array<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut array = serializer.serialize_tuple(9)?;
        array.serialize_element(self.kind)?;
        array.serialize_element(self.block_hashes)?;
        array.serialize_element(&self.parent_block_hash)?;
        array.serialize_element(self.token_ids)?;
        array.serialize_element(&self.block_size)?;
        array.serialize_element(&self.lora_id)?;
        array.serialize_element(self.medium)?;
        array.serialize_element(&self.lora_name)?;
        array.serialize_element(&self.extra_keys)?;
        array.end()
    }
}
