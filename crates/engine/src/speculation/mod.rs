//! Speculative decoding, as a scheduler sees it: how many tokens are proposed for a request, what they take beside their
//! own rows, and how many of them are accepted.
//!
//! What a drafter proposes and whether the model agrees is no decision of a scheduler. It is drawn here, from rates that
//! are given, by a rule that depends on nothing but the request and how often it was verified: the same request is accepted
//! the same on any worker, under any policy.

mod acceptance;
mod args;
mod drafter;

pub(crate) use acceptance::Acceptance;
pub use args::{SpeculativeArgs, SpeculativeMethod};
pub(crate) use drafter::{Drafter, Proposals};

/// Most drafts of a verification.
pub(crate) const MOST_DRAFTS: u32 = 255;

/// Speculative decoding of a vLLM engine, worked out from its settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Speculation {
    /// Drafts that are proposed for a request, 1 at least.
    pub(crate) drafts: u32,
    /// The first number of scheduled requests from which on so many drafts are proposed, ascending and from 1 on; empty
    /// if it is always `drafts`.
    pub(crate) drafts_by_requests: Box<[(u32, u8)]>,
    /// Tokens past the scheduled ones for which the drafter needs KV slots.
    pub(crate) lookahead: u32,
    /// Slots of the batch that every scheduled request takes beside its tokens.
    pub(crate) input_slots: u32,
    /// Tokens behind a block that its hash covers.
    pub(crate) hash_lookahead: u32,
    /// Tokens of a prompt that a chunk leaves for the next one, if it leaves any: the drafter reads so far ahead.
    pub(crate) prefill_lookahead: u32,
    /// Whether the last block of a prefix hit is computed anew, for the hidden state that the drafter needs.
    pub(crate) drops_last_hit: bool,
    /// Whether blocks that accepted tokens fill can be hit once they are verified, and not with the next iteration.
    pub(crate) stores_verified: bool,
    /// Which drafts are accepted.
    pub(crate) acceptance: Acceptance,
}

impl Speculation {
    /// Drafts that are proposed after an iteration of so many requests.
    pub(crate) fn drafts_after(&self, requests: usize) -> u32 {
        let ranges = &self.drafts_by_requests;
        let at = ranges.partition_point(|&(from, _)| from as usize <= requests);
        at.checked_sub(1).map_or(self.drafts, |at| ranges[at].1.into())
    }

    /// Whether how many drafts are proposed depends on the batch.
    pub(crate) fn is_dynamic(&self) -> bool {
        !self.drafts_by_requests.is_empty()
    }

    /// Whether the drafter has a forward pass of its own, which is left out when nobody could use its drafts.
    pub(crate) fn skips_unused(&self) -> bool {
        self.lookahead > 0
    }
}
