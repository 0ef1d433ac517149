//! Why the router refuses something. Every refusal is a value; none is a panic.

use std::fmt;

use servecast_types::{Message, Rank, RequestId, foreign, message, settings_error};

/// Why router settings were refused.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Something else where an object is expected.
    NoObject {
        /// What was found.
        found: String,
    },
    /// A key that does not exist.
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that is most like it.
        similar: Option<String>,
    },
    /// A value of the wrong type or out of its range.
    WrongValue {
        /// The key, flag or environment variable.
        key: String,
        /// What was found.
        found: String,
        /// What would be right.
        problem: String,
    },
    /// Two settings that exclude each other.
    Conflict {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// With what it does not go together, and what to do.
        problem: Message,
    },
    /// An environment variable of servecast's that does not exist.
    UnknownVariable {
        /// The variable.
        name: String,
        /// The known variable that is most like it.
        similar: Option<String>,
    },
    /// An environment variable that is no text.
    NotUtf8 {
        /// The variable.
        name: String,
    },
    /// One setting with two values from places of the same rank.
    GivenTwice {
        /// Where it has one value.
        name: String,
        /// That value.
        value: String,
        /// Where it has another.
        other: String,
        /// The setting.
        key: &'static str,
        /// The other value.
        found: String,
    },
}

settings_error!(ConfigError);

impl From<&ConfigError> for Message {
    fn from(error: &ConfigError) -> Self {
        match error {
            ConfigError::NoObject { found } => {
                format!("expected a JSON object such as {{\"router_temperature\": 0.5}}, found {found}")
                    .into()
            }
            ConfigError::UnknownKey { key, similar } => {
                message!("unknown router setting {}{}", Self::key(key), instead(key, similar.as_deref()))
            }
            ConfigError::WrongValue { key, found, problem } => {
                message!("{} is {}: {}", Self::key(key), found, problem)
            }
            ConfigError::Conflict { key, found, problem } => {
                message!("{} is {}, which {}", Self::key(*key), found, problem)
            }
            ConfigError::UnknownVariable { name, similar } => {
                format!("unknown environment variable `{name}`{}", suggestion(similar.as_deref())).into()
            }
            ConfigError::NotUtf8 { name } => format!("the environment variable {name} is not UTF-8").into(),
            ConfigError::GivenTwice { name, value, other, key, found } => message!(
                "`{}` is {}, but `{}` has {} {}: give it once",
                name,
                value,
                other,
                Self::key(*key),
                found
            ),
        }
    }
}

/// What to do about an unknown key: what there is for a setting of another tool, or the key that was probably meant.
fn instead(key: &str, similar: Option<&str>) -> String {
    match foreign(key) {
        Some(foreign) => format!(": {}", foreign.sentence(|setting| format!("`{setting}`"))),
        None => suggestion(similar),
    }
}

fn suggestion(similar: Option<&str>) -> String {
    similar.map_or_else(String::new, |key| format!(", did you mean `{key}`?"))
}

impl ConfigError {
    pub(crate) fn wrong(key: &str, found: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self::WrongValue { key: key.to_owned(), found: found.to_string(), problem: problem.into() }
    }
}

/// Why a request was not routed, or a call about a request had no effect.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// There is no rank to choose from.
    #[error("request {id}: no rank {}", .among.as_ref().map_or("is registered".to_owned(), |set| format!("of the allowed workers {set:?} is registered")))]
    NoRanks {
        /// The request.
        id: RequestId,
        /// The workers that the request allows, if it names any.
        among: Option<Vec<u32>>,
    },
    /// The request is pinned to a rank that is not registered.
    #[error("request {id} is pinned to {rank}, which is not registered")]
    PinMissing {
        /// The request.
        id: RequestId,
        /// The pin.
        rank: Rank,
    },
    /// The request is pinned to a worker outside its own allowed set.
    #[error("request {id} is pinned to {rank}, but allows only the workers {allowed:?}")]
    PinNotAllowed {
        /// The request.
        id: RequestId,
        /// The pin.
        rank: Rank,
        /// The workers that the request allows.
        allowed: Vec<u32>,
    },
    /// A request of this id is waiting or booked.
    #[error("request {id} is routed already; finish it before its id is used again")]
    Duplicate {
        /// The request.
        id: RequestId,
    },
    /// No request of this id is booked.
    #[error("request {id} is not booked on any rank")]
    Unknown {
        /// The request.
        id: RequestId,
    },
    /// More block identities than the prompt has full blocks.
    #[error("request {id} names {found} blocks, but {isl_tokens} tokens hold only {most} of {block_size}")]
    TooManyBlocks {
        /// The request.
        id: RequestId,
        /// Identities given.
        found: usize,
        /// Prompt length.
        isl_tokens: u32,
        /// Full blocks that it holds.
        most: u32,
        /// Tokens a block.
        block_size: u32,
    },
    /// Block hashes and sequence hashes of a request differ in number.
    #[error("request {id} has {block_hashes} block hashes for {blocks} blocks; give one for each")]
    UnevenHashes {
        /// The request.
        id: RequestId,
        /// Sequence hashes given.
        blocks: usize,
        /// Block hashes given.
        block_hashes: usize,
    },
    /// A per-request override out of its range.
    #[error("request {id}: {source}")]
    Override {
        /// The request.
        id: RequestId,
        /// What is wrong with the override.
        source: ConfigError,
    },
    /// A fraction that is none.
    #[error("request {id}: the weight of its blocks is {found}; it has to be a number from 0 to 1")]
    Weight {
        /// The request.
        id: RequestId,
        /// What was found.
        found: f64,
    },
}

/// Why a KV event was not applied, or only in part. Never fatal: the index stays consistent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event comes from a rank that is not registered.
    #[error("KV event of {rank}, which is not registered")]
    UnknownRank {
        /// The rank.
        rank: Rank,
    },
    /// Stored blocks continue a block that this rank does not hold. Nothing was stored.
    #[error("stored blocks continue block {parent:#x}, which the rank does not hold")]
    ParentNotFound {
        /// External hash of the parent.
        parent: u64,
    },
    /// A block that the rank holds in another place. The blocks before it were stored, it and the rest were not.
    #[error("block {external:#x} is stored again in another place; remove it there first")]
    MovedBlock {
        /// External hash of the block.
        external: u64,
    },
    /// Removed blocks that the rank does not hold. The other blocks of the event were removed.
    #[error("{count} removed blocks are not held by the rank, the first is {first:#x}")]
    BlockNotFound {
        /// External hash of the first one.
        first: u64,
        /// How many of the event's blocks.
        count: usize,
    },
}
