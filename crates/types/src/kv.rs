//! KV events: how a router learns what workers have cached.

use crate::{HashRuns, SequenceHash};

/// What an engine tells a router about its prefix cache, in the order in which it happened.
///
/// Two physical blocks may hold the same content: each is announced and each is removed on its own, so a removal
/// can be seen while a duplicate lives on (as in vLLM).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvEvent {
    /// `blocks` can be hit from now on; they continue `parent`, or start a sequence.
    Stored {
        /// The block before the first of `blocks`.
        parent: Option<SequenceHash>,
        /// Consecutive blocks of one sequence.
        blocks: HashRuns,
    },
    /// `blocks` were evicted. vLLM sends an event a block; here those that go at once are one.
    Removed {
        /// The evicted blocks, in order.
        blocks: HashRuns,
    },
    /// The whole cache was dropped.
    Cleared,
}
