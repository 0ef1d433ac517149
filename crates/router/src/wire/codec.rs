//! JSON and msgpack forms of index and replica events.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::WireError;

/// No message nests deeper than about ten levels; the reader's own limit would let a hostile one use the
/// stack up.
const MAX_DEPTH: usize = 64;

/// Reads one JSON value: an index event, a replica event, or a list of either.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| WireError::Json { path: error.path().to_string(), source: error.into_inner() })?;
    reader.end().map_err(|source| WireError::Json { path: ".".into(), source })?;
    Ok(value)
}

/// Writes one JSON value.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, WireError> {
    serde_json::to_string(value).map_err(WireError::WriteJson)
}

/// Reads one msgpack value: an index event, a replica event, or a list of either.
pub fn from_msgpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    read_msgpack(bytes)
}

/// Writes one msgpack value with named fields.
pub fn to_msgpack<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, WireError> {
    rmp_serde::to_vec_named(value).map_err(WireError::WriteMsgpack)
}

/// Reads one msgpack value that may borrow from `bytes`.
pub(super) fn read_msgpack<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(MAX_DEPTH);
    let value = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| WireError::Msgpack { path: error.path().to_string(), source: error.into_inner() })?;
    // The reader does not tell how far it got, but at the end of the input there is no marker left to read.
    match IgnoredAny::deserialize(&mut reader) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(WireError::TrailingBytes),
    }
}
