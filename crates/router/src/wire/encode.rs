//! From events to the frames of an engine message, as vLLM and SGLang write them.

use servecast_types::SequenceHash;

use super::engine::{BlockRemoved, BlockStored, EngineEvent, EventBatch, ExtraKey, TokenIds};
use super::value::Value;
use super::{BlockMmInfo, MmObject, WireError, to_msgpack};

/// How events are written. The batch around them is `[ts, events, data_parallel_rank]` in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventForm {
    /// An array that starts with the type: SGLang, and vLLM for most of its life.
    Positional,
    /// A map with the type under `type`: vLLM since 2026.
    Named,
}

/// Writes the three frames of an engine message.
pub fn encode_frames(
    topic: &[u8],
    sequence: u64,
    batch: &EventBatch,
    form: EventForm,
) -> Result<[Vec<u8>; 3], WireError> {
    Ok([topic.to_vec(), sequence.to_be_bytes().to_vec(), encode_batch(batch, form)?])
}

/// Writes the payload of an engine message. Hashes are written as unsigned integers.
pub fn encode_batch(batch: &EventBatch, form: EventForm) -> Result<Vec<u8>, WireError> {
    let events = batch
        .events
        .iter()
        .enumerate()
        .map(|(index, event)| match form {
            EventForm::Named => Ok(named(event)),
            EventForm::Positional => positional(event).ok_or(WireError::NotPositional { index }),
        })
        .collect::<Result<_, _>>()?;
    let rank = Value::optional(batch.data_parallel_rank, |rank| Value::Unsigned(rank.into()));
    to_msgpack(&Value::Array(vec![Value::Float(batch.ts), Value::Array(events), rank]))
}

/// Fields that had no default from the start are always written; later ones only when they are set, as vLLM
/// does.
fn named(event: &EngineEvent) -> Value<'_> {
    let (tag, fields): (_, Vec<(&str, Value<'_>)>) = match event {
        EngineEvent::BlockStored(event) => {
            let late = [
                ("extra_keys", extra_keys(event)),
                ("block_mm_infos", mm_infos(event)),
                ("group_idx", group_idx(event.group_idx)),
                ("kv_cache_spec_kind", text(event.kv_cache_spec_kind.as_ref())),
            ];
            let names = [
                "block_hashes",
                "parent_block_hash",
                "token_ids",
                "block_size",
                "lora_id",
                "medium",
                "lora_name",
            ];
            let late = late.into_iter().filter(|(_, value)| *value != Value::Nil);
            ("BlockStored", names.into_iter().zip(first_fields(event)).chain(late).collect())
        }
        EngineEvent::BlockRemoved(event) => {
            let [block_hashes, medium, group] = removed_fields(event);
            let group = Some(("group_idx", group)).filter(|(_, value)| *value != Value::Nil);
            let fields = [("block_hashes", block_hashes), ("medium", medium)];
            ("BlockRemoved", fields.into_iter().chain(group).collect())
        }
        EngineEvent::AllBlocksCleared => ("AllBlocksCleared", Vec::new()),
    };
    let tag = ("type", Value::text(tag));
    Value::Map(std::iter::once(tag).chain(fields).map(|(name, value)| (Value::text(name), value)).collect())
}

/// `None` if two of the fields would need the same place. Places at the end with nothing in them are left
/// out, but only the late ones.
fn positional(event: &EngineEvent) -> Option<Value<'_>> {
    let fields = match event {
        EngineEvent::BlockStored(event) => {
            let has_group = event.group_idx.is_some() || event.kv_cache_spec_kind.is_some();
            let [ninth, tenth] = match &event.block_mm_infos {
                Some(_) if has_group => return None,
                Some(_) => [mm_infos(event), Value::Nil],
                None => [group_idx(event.group_idx), text(event.kv_cache_spec_kind.as_ref())],
            };
            let mut fields = vec![Value::text("BlockStored")];
            fields.extend(first_fields(event));
            let required = fields.len();
            fields.extend([extra_keys(event), ninth, tenth]);
            while fields.len() > required && fields.last() == Some(Value::NIL) {
                fields.pop();
            }
            fields
        }
        EngineEvent::BlockRemoved(event) => {
            let [block_hashes, medium, group] = removed_fields(event);
            let group = Some(group).filter(|group| *group != Value::Nil);
            [Value::text("BlockRemoved"), block_hashes, medium].into_iter().chain(group).collect()
        }
        EngineEvent::AllBlocksCleared => vec![Value::text("AllBlocksCleared")],
    };
    Some(Value::Array(fields))
}

fn first_fields(event: &BlockStored) -> [Value<'_>; 7] {
    [
        hashes(&event.block_hashes),
        Value::optional(event.parent_block_hash, |hash| Value::Unsigned(hash.0)),
        token_ids(&event.token_ids),
        Value::Unsigned(event.block_size.into()),
        Value::optional(event.lora_id, Value::signed),
        text(event.medium.as_ref()),
        text(event.lora_name.as_ref()),
    ]
}

fn removed_fields(event: &BlockRemoved) -> [Value<'_>; 3] {
    [hashes(&event.block_hashes), text(event.medium.as_ref()), group_idx(event.group_idx)]
}

fn group_idx(group: Option<u32>) -> Value<'static> {
    Value::optional(group, |group| Value::Unsigned(group.into()))
}

fn text(text: Option<&String>) -> Value<'_> {
    Value::optional(text, |text| Value::text(text))
}

fn hashes(hashes: &[SequenceHash]) -> Value<'static> {
    Value::Array(hashes.iter().map(|hash| Value::Unsigned(hash.0)).collect())
}

fn token_ids(tokens: &TokenIds) -> Value<'static> {
    let token = |&token: &u32| Value::Unsigned(token.into());
    Value::Array(match tokens {
        TokenIds::Flat(tokens) => tokens.iter().map(token).collect(),
        TokenIds::Bigrams(pairs) => {
            pairs.iter().map(|pair| Value::Array(pair.iter().map(token).collect())).collect()
        }
    })
}

fn extra_keys(event: &BlockStored) -> Value<'_> {
    per_block(event.extra_keys.as_deref(), |keys| Value::Array(keys.iter().map(extra_key).collect()))
}

fn mm_infos(event: &BlockStored) -> Value<'_> {
    per_block(event.block_mm_infos.as_deref(), mm_info)
}

fn per_block<'a, T>(blocks: Option<&'a [Option<T>]>, write: impl Fn(&'a T) -> Value<'a>) -> Value<'a> {
    Value::optional(blocks, |blocks| {
        Value::Array(blocks.iter().map(|block| Value::optional(block.as_ref(), &write)).collect())
    })
}

fn extra_key(key: &ExtraKey) -> Value<'_> {
    match key {
        ExtraKey::Text(text) => Value::text(text),
        ExtraKey::Placed { identifier, offset } => {
            Value::Array(vec![Value::text(identifier), Value::signed(*offset)])
        }
        ExtraKey::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
        ExtraKey::Unsigned(value) => Value::Unsigned(*value),
        ExtraKey::Negative(value) => Value::signed(*value),
        ExtraKey::Float(value) => Value::Float(*value),
        ExtraKey::Flag(value) => Value::Bool(*value),
    }
}

fn mm_info(info: &BlockMmInfo) -> Value<'_> {
    let objects = info.mm_objects.iter().map(mm_object).collect();
    Value::Map(vec![(Value::text("mm_objects"), Value::Array(objects))])
}

fn mm_object(object: &MmObject) -> Value<'static> {
    let range = |&(start, end): &(u64, u64)| Value::Array(vec![Value::Unsigned(start), Value::Unsigned(end)]);
    Value::Map(vec![
        (Value::text("mm_hash"), Value::Unsigned(object.mm_hash)),
        (Value::text("offsets"), Value::Array(object.offsets.iter().map(range).collect())),
    ])
}
