//! From the frames of an engine message to its events: msgpack, event by event, so that one that is wrong does not lose the
//! others.

use servecast_types::SequenceHash;

use super::codec::read_msgpack;
use super::engine::{
    BlockRemoved, BlockStored, DecodedBatch, DecodedMessage, EngineEvent, ExtraKey, TokenIds,
};
use super::value::Value;
use super::{BlockMmInfo, EventError, MmObject, WireError};

const HASH: &str = "an integer or bytes";
const TOKEN: &str = "a token id (0 to 4294967295), or in every place a pair of them";
const LIST: &str = "a list";

/// Reads the frames of one engine message: topic, sequence number (8 bytes, big-endian), payload.
pub fn decode_frames<F: AsRef<[u8]>>(frames: &[F]) -> Result<DecodedMessage, WireError> {
    let [topic, sequence, payload] = frames else {
        return Err(WireError::FrameCount { found: frames.len() });
    };
    let sequence = sequence.as_ref();
    let sequence = sequence.try_into().map_err(|_| WireError::SequenceLength { found: sequence.len() })?;
    Ok(DecodedMessage {
        topic: topic.as_ref().to_vec(),
        sequence: u64::from_be_bytes(sequence),
        batch: decode_batch(payload.as_ref())?,
    })
}

/// Reads the payload of an engine message: `[ts, events, data_parallel_rank]`, where the rank may be missing
/// and anything may follow, or a map with these names. Each event is a map with its type under `type`, or an
/// array that starts with the type.
pub fn decode_batch(payload: &[u8]) -> Result<DecodedBatch, WireError> {
    let batch: Value<'_> = read_msgpack(payload)?;
    let fields = match &batch {
        Value::Array(items) => Fields::Positional(items),
        Value::Map(entries) => Fields::Named(entries),
        other => {
            return Err(wrong("batch", other, "an array [ts, events, data_parallel_rank] or a map of these"));
        }
    };
    let ts = fields.get("ts", 0).unwrap_or(Value::NIL);
    let events = fields.get("events", 1).unwrap_or(Value::NIL);
    let rank = fields.get("data_parallel_rank", 2).unwrap_or(Value::NIL);

    let ts = ts.as_number().ok_or_else(|| wrong("ts", ts, "a number of seconds"))?;
    let Value::Array(events) = events else { return Err(wrong("events", events, LIST)) };
    let data_parallel_rank = match rank {
        Value::Nil => None,
        rank => Some(
            rank.as_u32()
                .ok_or_else(|| wrong("data_parallel_rank", rank, "nil or an integer from 0 to 4294967295"))?,
        ),
    };
    Ok(DecodedBatch { ts, events: events.iter().map(event).collect(), data_parallel_rank })
}

fn wrong(field: &'static str, found: &Value<'_>, expected: &'static str) -> WireError {
    WireError::Batch { field, found: found.describe(), expected }
}

/// The fields of a record in either form.
#[derive(Clone, Copy)]
enum Fields<'v> {
    Named(&'v [(Value<'v>, Value<'v>)]),
    Positional(&'v [Value<'v>]),
}

impl<'v> Fields<'v> {
    /// The field with this name, or at this position. The last of equal names counts, as in most readers.
    fn get(self, name: &str, position: usize) -> Option<&'v Value<'v>> {
        match self {
            Self::Named(entries) => {
                entries.iter().rev().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
            }
            Self::Positional(items) => items.get(position),
        }
    }
}

fn event(value: &Value<'_>) -> Result<EngineEvent, EventError> {
    let (tag, fields) = match value {
        Value::Map(entries) => (Fields::Named(entries).get("type", 0), Fields::Named(entries)),
        Value::Array(items) => (items.first(), Fields::Positional(items.get(1..).unwrap_or_default())),
        _ => (None, Fields::Positional(&[])),
    };
    let tag = tag.ok_or_else(|| EventError::NotAnEvent { found: value.describe() })?;
    match tag.as_text() {
        Some("BlockStored") => stored(Reader { event: "BlockStored", fields }).map(EngineEvent::BlockStored),
        Some("BlockRemoved") => {
            removed(Reader { event: "BlockRemoved", fields }).map(EngineEvent::BlockRemoved)
        }
        Some("AllBlocksCleared") => Ok(EngineEvent::AllBlocksCleared),
        _ => Err(EventError::UnknownType { found: tag.describe() }),
    }
}

fn stored(reader: Reader<'_>) -> Result<BlockStored, EventError> {
    let (mm_infos, group_idx, kind) = match reader.fields {
        Fields::Named(_) => (
            reader.optional("block_mm_infos", 8),
            reader.optional("group_idx", 9),
            reader.optional("kv_cache_spec_kind", 10),
        ),
        // The engines disagree about what comes after the eighth place: a list is `block_mm_infos`, an
        // integer `group_idx` with its kind behind it, and anything else nothing that matters here.
        Fields::Positional(items) => {
            let ninth = items.get(8).unwrap_or(Value::NIL);
            let tenth = items.get(9).filter(|value| value.as_text().is_some());
            match ninth {
                Value::Array(_) => (Some(ninth), None, None),
                _ => (None, Some(ninth).filter(|value| value.as_u32().is_some()), tenth),
            }
        }
    };
    let block_size = reader.required("block_size", 3, "a positive integer")?;
    Ok(BlockStored {
        block_hashes: reader.hashes(0)?,
        parent_block_hash: reader
            .optional("parent_block_hash", 1)
            .map(|value| hash(value).ok_or_else(|| reader.wrong("parent_block_hash", value, HASH)))
            .transpose()?,
        token_ids: reader.token_ids(2)?,
        block_size: block_size
            .as_u32()
            .filter(|&size| size > 0)
            .ok_or_else(|| reader.wrong("block_size", block_size, "a positive integer"))?,
        lora_id: reader.optional("lora_id", 4).and_then(Value::as_i64),
        medium: reader.text("medium", reader.optional("medium", 5))?,
        lora_name: reader.text("lora_name", reader.optional("lora_name", 6))?,
        extra_keys: reader.per_block("extra_keys", reader.optional("extra_keys", 7), extra_keys)?,
        block_mm_infos: reader.per_block("block_mm_infos", mm_infos, mm_info)?,
        group_idx: reader.group_idx(group_idx)?,
        kv_cache_spec_kind: reader.text("kv_cache_spec_kind", kind)?,
    })
}

fn removed(reader: Reader<'_>) -> Result<BlockRemoved, EventError> {
    let group_idx = reader.optional("group_idx", 2);
    let group_idx = match reader.fields {
        Fields::Named(_) => group_idx,
        Fields::Positional(_) => group_idx.filter(|value| value.as_u32().is_some()),
    };
    Ok(BlockRemoved {
        block_hashes: reader.hashes(0)?,
        medium: reader.text("medium", reader.optional("medium", 1))?,
        group_idx: reader.group_idx(group_idx)?,
    })
}

/// Reads the fields of one event and knows what to say about a bad one.
#[derive(Clone, Copy)]
struct Reader<'v> {
    event: &'static str,
    fields: Fields<'v>,
}

impl<'v> Reader<'v> {
    fn wrong(self, field: impl Into<String>, found: &Value<'_>, expected: &'static str) -> EventError {
        EventError::Field { event: self.event, field: field.into(), found: found.describe(), expected }
    }

    fn required(
        self,
        name: &'static str,
        position: usize,
        expected: &'static str,
    ) -> Result<&'v Value<'v>, EventError> {
        self.fields.get(name, position).ok_or(EventError::MissingField {
            event: self.event,
            field: name,
            expected,
        })
    }

    fn optional(self, name: &'static str, position: usize) -> Option<&'v Value<'v>> {
        self.fields.get(name, position).filter(|value| **value != Value::Nil)
    }

    fn list(self, name: &'static str, value: &'v Value<'v>) -> Result<&'v [Value<'v>], EventError> {
        match value {
            Value::Array(items) => Ok(items),
            other => Err(self.wrong(name, other, LIST)),
        }
    }

    fn text(self, name: &'static str, value: Option<&Value<'_>>) -> Result<Option<String>, EventError> {
        value
            .map(|value| {
                value.as_text().map(str::to_owned).ok_or_else(|| self.wrong(name, value, "nil or a text"))
            })
            .transpose()
    }

    fn group_idx(self, value: Option<&Value<'_>>) -> Result<Option<u32>, EventError> {
        value
            .map(|value| {
                value.as_u32().ok_or_else(|| self.wrong("group_idx", value, "nil or a small integer"))
            })
            .transpose()
    }

    fn hashes(self, position: usize) -> Result<Vec<SequenceHash>, EventError> {
        const NAME: &str = "block_hashes";
        self.list(NAME, self.required(NAME, position, LIST)?)?
            .iter()
            .enumerate()
            .map(|(at, value)| hash(value).ok_or_else(|| self.wrong(element(NAME, at), value, HASH)))
            .collect()
    }

    fn token_ids(self, position: usize) -> Result<TokenIds, EventError> {
        const NAME: &str = "token_ids";
        let items = self.list(NAME, self.required(NAME, position, LIST)?)?;
        let bad = |at: usize| self.wrong(element(NAME, at), &items[at], TOKEN);
        if let Some(Value::Array(_)) = items.first() {
            let pairs = items.iter().enumerate().map(|(at, item)| pair(item).ok_or_else(|| bad(at)));
            return pairs.collect::<Result<_, _>>().map(TokenIds::Bigrams);
        }
        let tokens = items.iter().enumerate().map(|(at, item)| item.as_u32().ok_or_else(|| bad(at)));
        tokens.collect::<Result<_, _>>().map(TokenIds::Flat)
    }

    /// A list with nil or something for each block.
    fn per_block<T>(
        self,
        name: &'static str,
        value: Option<&'v Value<'v>>,
        read: impl Fn(&Value<'_>) -> Result<T, &'static str>,
    ) -> Result<Option<Vec<Option<T>>>, EventError> {
        let Some(value) = value else { return Ok(None) };
        let blocks = self.list(name, value)?.iter().enumerate().map(|(at, block)| match block {
            Value::Nil => Ok(None),
            block => read(block).map(Some).map_err(|expected| self.wrong(element(name, at), block, expected)),
        });
        blocks.collect::<Result<_, _>>().map(Some)
    }
}

fn element(name: &str, at: usize) -> String {
    format!("{name}[{at}]")
}

/// See [`BlockStored`] for what bytes mean.
fn hash(value: &Value<'_>) -> Option<SequenceHash> {
    let bits = match value {
        Value::Bytes(bytes) if bytes.is_empty() => return None,
        Value::Bytes(bytes) => {
            let tail = &bytes[bytes.len().saturating_sub(8)..];
            tail.iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte))
        }
        value => value.as_bits()?,
    };
    Some(SequenceHash(bits))
}

fn pair(value: &Value<'_>) -> Option<[u32; 2]> {
    match value {
        Value::Array(items) => match items.as_slice() {
            [first, second] => Some([first.as_u32()?, second.as_u32()?]),
            _ => None,
        },
        _ => None,
    }
}

fn extra_keys(block: &Value<'_>) -> Result<Vec<ExtraKey>, &'static str> {
    const KEYS: &str = "nil or a list of texts, [text, integer] pairs, bytes, numbers and booleans";
    let Value::Array(keys) = block else { return Err(KEYS) };
    keys.iter().map(extra_key).collect::<Option<_>>().ok_or(KEYS)
}

fn extra_key(key: &Value<'_>) -> Option<ExtraKey> {
    Some(match key {
        Value::Text(text) => ExtraKey::Text(text.to_string()),
        Value::Bytes(bytes) => ExtraKey::Bytes(bytes.to_vec()),
        Value::Unsigned(value) => ExtraKey::Unsigned(*value),
        Value::Negative(value) => ExtraKey::Negative(*value),
        Value::Float(value) => ExtraKey::Float(*value),
        Value::Bool(value) => ExtraKey::Flag(*value),
        Value::Array(items) => match items.as_slice() {
            [identifier, offset] => {
                ExtraKey::Placed { identifier: identifier.as_text()?.to_owned(), offset: offset.as_i64()? }
            }
            _ => return None,
        },
        Value::Nil | Value::Map(_) | Value::Extension => return None,
    })
}

fn mm_info(block: &Value<'_>) -> Result<BlockMmInfo, &'static str> {
    const INFO: &str = "nil or {mm_objects: [{mm_hash, offsets: [[start, end], …]}, …]}";
    let objects = || {
        let Value::Array(objects) = record(block)?.get("mm_objects", 0)? else { return None };
        objects.iter().map(mm_object).collect()
    };
    objects().map(|mm_objects| BlockMmInfo { mm_objects }).ok_or(INFO)
}

fn mm_object(object: &Value<'_>) -> Option<MmObject> {
    let fields = record(object)?;
    let mm_hash = fields.get("mm_hash", 0)?.as_bits()?;
    let offsets = match fields.get("offsets", 1).unwrap_or(Value::NIL) {
        Value::Nil => Vec::new(),
        Value::Array(ranges) => ranges.iter().map(range).collect::<Option<_>>()?,
        _ => return None,
    };
    Some(MmObject { mm_hash, offsets })
}

fn record<'v>(value: &'v Value<'v>) -> Option<Fields<'v>> {
    match value {
        Value::Map(entries) => Some(Fields::Named(entries)),
        Value::Array(items) => Some(Fields::Positional(items)),
        _ => None,
    }
}

fn range(value: &Value<'_>) -> Option<(u64, u64)> {
    match value {
        Value::Array(ends) => match ends.as_slice() {
            [start, end] => Some((start.as_u64()?, end.as_u64()?)),
            _ => None,
        },
        _ => None,
    }
}
