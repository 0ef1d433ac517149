//! What routers and engines say to each other, as bytes. No sockets here: frames and texts go in and out.
//!
//! - **Index events** ([`RouterEvent`]): which blocks a worker's cache gained or lost. JSON and msgpack.
//! - **Replica events** ([`ReplicaEvent`]): what one router tells its replicas about the requests that it
//!   books. JSON and msgpack.
//! - **Engine batches** ([`decode_frames`], [`encode_frames`]): the three-frame messages that vLLM and SGLang
//!   publish, in the positional form and in the one with named fields.
//! - **Conversion** ([`EventConverter`]): engine batches to index events, with the blocks' contents hashed.
//!
//! Index and replica events are always *written* with named fields ([`to_json`], [`to_msgpack`]), since only
//! then can a field be added and default when an older peer leaves it out; fields that are not known are
//! ignored.
//!
//! An engine batch is read as far as it can be: an event that cannot be read, is of an unknown type, or
//! cannot be indexed is reported with its position and an [`EventError`], and the others are used. What
//! leaves the meaning of the whole batch open (frames, sequence number, a payload that is not msgpack, the
//! rank) is a [`WireError`].
//!
//! **Invariant:** no input makes this module panic, recurse without bound, or allocate far more than its
//! size.

mod codec;
mod convert;
mod decode;
mod encode;
mod engine;
mod error;
mod hashes;
mod index;
mod replica;
mod value;

pub use codec::{from_json, from_msgpack, to_json, to_msgpack};
pub use convert::{Converted, EventConverter, EventProblem};
pub use decode::{decode_batch, decode_frames};
pub use encode::{EventForm, encode_batch, encode_frames};
pub use engine::{
    BlockRemoved, BlockStored, DecodedBatch, DecodedMessage, EngineEvent, EventBatch, ExtraKey, TokenIds,
};
pub use error::{EventError, WireError};
pub use index::{
    BlockMmInfo, IndexEvent, IndexEventData, MmObject, RemovedBlocks, RouterEvent, StorageTier, StoredBlock,
    StoredBlocks,
};
pub use replica::{PrefillLoadHint, ReplicaEvent, ReplicaEventData, ReplicaWorker};
