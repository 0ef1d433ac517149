//! Why a message cannot be read or written.

use thiserror::Error;

/// Why a message could not be read or written at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not the frames of an engine message.
    #[error("an engine message has 3 frames (topic, sequence number, payload), found {found}")]
    FrameCount {
        /// How many frames came.
        found: usize,
    },
    /// The second frame is not a sequence number.
    #[error("frame 1 (sequence number): expected 8 bytes, big-endian, found {found} bytes")]
    SequenceLength {
        /// How long the frame is.
        found: usize,
    },
    /// An engine payload that is msgpack, but not a batch of events.
    #[error("frame 2 (payload): `{field}` must be {expected}, found {found}")]
    Batch {
        /// Which part of the batch.
        field: &'static str,
        /// What is there.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// Not msgpack, or not of the expected shape.
    #[error("cannot read msgpack at `{path}`")]
    Msgpack {
        /// The field, from the outermost value; `.` is that value itself.
        path: String,
        /// What the reader found.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// A complete msgpack value with something after it.
    #[error("bytes after the end of the msgpack value: a message is exactly one value")]
    TrailingBytes,
    /// Not JSON, or not of the expected shape.
    #[error("cannot read JSON at `{path}`")]
    Json {
        /// The field, from the outermost value; `.` is that value itself.
        path: String,
        /// What the reader found.
        #[source]
        source: serde_json::Error,
    },
    /// A value that JSON cannot hold.
    #[error("cannot write JSON")]
    WriteJson(#[source] serde_json::Error),
    /// A value that msgpack cannot hold.
    #[error("cannot write msgpack")]
    WriteMsgpack(#[source] rmp_serde::encode::Error),
    /// The positional form has one place for two fields that are both set.
    #[error(
        "event {index}: the positional form cannot hold `block_mm_infos` together with `group_idx` or \
         `kv_cache_spec_kind`; write named fields"
    )]
    NotPositional {
        /// Position of the event in its batch.
        index: usize,
    },
}

/// Why one event of an engine batch was not used, or ([`TooFewTokens`](Self::TooFewTokens)) not wholly.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EventError {
    /// Neither form of an event.
    #[error(
        "expected a map with the key `type` or an array that starts with the event's type, found {found}"
    )]
    NotAnEvent {
        /// What is there.
        found: String,
    },
    /// An event that is not known, perhaps of a newer engine.
    #[error("unknown event type {found}: known are BlockStored, BlockRemoved, AllBlocksCleared")]
    UnknownType {
        /// The type as it came.
        found: String,
    },
    /// A field that must be there is not.
    #[error("{event}: `{field}` is missing: it must be {expected}")]
    MissingField {
        /// Type of the event.
        event: &'static str,
        /// Name of the field.
        field: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("{event}: `{field}` must be {expected}, found {found}")]
    Field {
        /// Type of the event.
        event: &'static str,
        /// The field, with the index of the element if it is a list.
        field: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// The engine's blocks are not the router's: every hash and overlap would be wrong.
    #[error(
        "BlockStored: `block_size` is {found}, but the router's is {expected}: set both to the same value"
    )]
    BlockSize {
        /// Block size of the event.
        found: u32,
        /// Block size of the router.
        expected: u32,
    },
    /// A chain that meets itself.
    #[error(
        "BlockStored: hash {hash} occurs twice among `parent_block_hash` and `block_hashes`, which must differ"
    )]
    RepeatedHash {
        /// The hash.
        hash: u64,
    },
    /// The content of some blocks is not there, so they cannot be found by content. Those before are used.
    #[error("BlockStored: `token_ids` fills {filled} blocks, but `block_hashes` names {named}")]
    TooFewTokens {
        /// Blocks that the tokens fill.
        filled: usize,
        /// Blocks that the event names.
        named: usize,
    },
    /// A medium that no storage tier is known for. It is *not* taken for the device.
    #[error("unknown `medium` {found:?}: the blocks are in no storage tier that the index knows")]
    UnknownMedium {
        /// The medium as it came.
        found: String,
    },
    /// Blocks of layers that keep only part of the prefix (a sliding window, a recurrent state): a hit on
    /// them says nothing about the prefix.
    #[error("cache group {group:?} is of kind {kind:?}, which does not hold whole prefixes")]
    CacheGroup {
        /// `group_idx` of the event.
        group: Option<u32>,
        /// `kv_cache_spec_kind` of the group.
        kind: String,
    },
}
