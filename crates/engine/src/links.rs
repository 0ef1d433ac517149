//! How KV comes from other workers: an engine says what it fetches, and whoever owns the links says when that is here.

use servecast_types::{RequestId, Time};

/// KV of a prompt that an engine begins to fetch, for which it has reserved blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The request.
    pub id: RequestId,
    /// Tokens that the engine does not have in its cache.
    pub tokens: u32,
    /// Tokens of the whole prompt.
    pub of_tokens: u32,
}

/// When a fetch that has begun ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Then, whatever else happens; not before it began. The decision that began a fetch of no time goes on with its KV
    /// here.
    At(Time),
    /// Later; that depends on what others fetch, and the engine is [told](crate::Engine::fetched).
    Open,
}

/// What brings KV to an engine.
pub trait Links {
    /// The engine begins to fetch KV with the decision that it makes `now`.
    fn begin(&mut self, fetch: Fetch, now: Time) -> Begun;
}

impl Begun {
    /// When the fetch ends, as far as is known yet.
    pub fn end(self) -> Option<Time> {
        match self {
            Self::At(end) => Some(end),
            Self::Open => None,
        }
    }

    /// When the fetch ends, later than anything if that is not known yet.
    pub(crate) fn end_or_max(self) -> Time {
        self.end().unwrap_or(Time::MAX)
    }
}
