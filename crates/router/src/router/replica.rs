//! Replicas of a router tell each other what they book, so that all see the same load.

use std::sync::Arc;

use servecast_types::{BlockHash, Rank, RequestId, SequenceHash, Time, hash};

use super::Router;
use crate::load::NewBooking;
use crate::ticket::TrackedBlocks;
use crate::wire::{PrefillLoadHint, ReplicaEventData};
use crate::{Admission, RouteError, Ticket};

impl Ticket {
    /// What other replicas have to know to book the same.
    ///
    /// Blocks that nobody shares need names that nobody else has: they are hashed from the request's id and `nonce`,
    /// which should differ from replica to replica.
    pub fn replica_event(&self, nonce: u64) -> ReplicaEventData {
        let token_sequence = match &self.blocks {
            TrackedBlocks::None => None,
            TrackedBlocks::Shared(blocks) => Some(blocks.to_vec()),
            TrackedBlocks::Private(count) => {
                let first = hash::extend(Some(SequenceHash(nonce)), BlockHash(self.id.0.into()));
                let next = |&at: &SequenceHash| Some(hash::extend(Some(at), BlockHash(nonce)));
                Some(std::iter::successors(Some(first), next).take(*count as usize).collect())
            }
        };
        ReplicaEventData::AddRequest {
            token_sequence,
            isl: self.isl_tokens.into(),
            overlap: self.overlap_blocks,
            track_prefill_tokens: self.settings.track_prefill_tokens,
            expected_output_tokens: self.expected_output_tokens,
            prefill_load_hint: self.prefill_duration.map(|duration| PrefillLoadHint {
                initial_effective_prefill_tokens: self.prefill_tokens.into(),
                expected_prefill_duration: Some(duration),
            }),
        }
    }
}

impl Router {
    /// Another replica books, marks or frees a request on a rank; `id` is what this router calls it. It is booked with
    /// the sender's flag and prediction, whose clock starts now.
    ///
    /// # Errors
    /// A rank that is not registered, an id that is in use, or the end of a prefill of an unknown request.
    pub fn apply_replica(
        &mut self,
        id: RequestId,
        rank: Rank,
        event: &ReplicaEventData,
        now: Time,
    ) -> Result<Vec<Admission>, RouteError> {
        self.tick(now);
        match event {
            ReplicaEventData::MarkPrefillCompleted => self.prefill_done(id, now),
            ReplicaEventData::Free => Ok(self.finish(id, now)),
            ReplicaEventData::AddRequest { .. } => {
                let entry = self.ranks.get(rank).ok_or(RouteError::PinMissing { id, rank })?;
                if self.load.contains(id) || self.queue.contains(id) {
                    return Err(RouteError::Duplicate { id });
                }
                self.book_as_told(id, entry.slot, event);
                Ok(Vec::new())
            }
        }
    }

    fn book_as_told(&mut self, id: RequestId, slot: u32, event: &ReplicaEventData) {
        let ReplicaEventData::AddRequest {
            token_sequence,
            isl,
            overlap,
            track_prefill_tokens,
            expected_output_tokens,
            prefill_load_hint,
        } = event
        else {
            return;
        };
        let cached = u64::from(*overlap) * u64::from(self.block_size);
        let hint = prefill_load_hint.as_ref();
        let uncached = hint.map_or(isl.saturating_sub(cached), |hint| hint.initial_effective_prefill_tokens);
        let shared = |blocks: &Vec<SequenceHash>| TrackedBlocks::Shared(Arc::from(blocks.as_slice()));
        let saturated = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        self.load.book(
            &NewBooking {
                id,
                slot,
                isl_tokens: saturated(*isl),
                blocks: &token_sequence.as_ref().map_or(TrackedBlocks::None, shared),
                prefill_tokens: if *track_prefill_tokens { saturated(uncached) } else { 0 },
                prefill_duration: hint.and_then(|hint| hint.expected_prefill_duration),
                expected_output_tokens: *expected_output_tokens,
            },
            self.now,
        );
    }
}
