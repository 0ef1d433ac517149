//! What a router can tell about its state.

use servecast_types::{Rank, RequestId, Time};

use super::Router;
use crate::index::{EventCounts, IndexDump};
use crate::ticket::PotentialLoad;
use crate::{RouteError, RouterSettings, RoutingRequest};

/// Sizes of everything that grows with requests and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Requests that are booked.
    pub booked_requests: usize,
    /// Requests that wait.
    pub queued_requests: usize,
    /// Outstanding prefills.
    pub prefills: usize,
    /// Runs of active blocks with the same owners.
    pub block_runs: usize,
    /// Distinct blocks in the index.
    pub index_blocks: usize,
    /// Copies, names and orphans in the index beyond that.
    pub index_extras: usize,
}

impl Router {
    /// The settings.
    pub fn settings(&self) -> &RouterSettings {
        &self.settings
    }

    /// Tokens a block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The registered ranks, sorted.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> + '_ {
        self.ranks.entries().iter().map(|entry| entry.rank)
    }

    /// Requests that wait.
    pub fn queued_requests(&self) -> usize {
        self.queue.len()
    }

    /// Prompt tokens of the requests that wait.
    pub fn queued_isl_tokens(&self) -> u64 {
        self.queue.isl_tokens()
    }

    /// Requests that are booked on a rank.
    pub fn active_requests(&self, rank: Rank) -> Option<u32> {
        self.ranks.get(rank).map(|entry| self.load.requests_on(entry.slot))
    }

    /// The rank on which a request is booked.
    pub fn rank_of(&self, id: RequestId) -> Option<Rank> {
        let slot = self.load.slot_of(id)?;
        self.ranks.entries().iter().find(|entry| entry.slot == slot).map(|entry| entry.rank)
    }

    /// Active blocks of a rank.
    pub fn active_blocks(&self, rank: Rank) -> Option<u64> {
        self.ranks.get(rank).map(|entry| self.load.sums(entry.slot, self.now).active_blocks)
    }

    /// Outstanding prefill tokens of a rank.
    pub fn prefill_tokens(&self, rank: Rank, now: Time) -> Option<u64> {
        self.ranks.get(rank).map(|entry| self.load.prefill_tokens(entry.slot, now))
    }

    /// Distinct blocks that the index believes a rank to hold.
    pub fn tree_size(&self, rank: Rank) -> Option<u32> {
        self.ranks.get(rank).map(|entry| self.index.tree().size(entry.slot))
    }

    /// Leading blocks of a prompt that each rank has cached, in order of rank.
    pub fn overlaps(&self, request: &RoutingRequest) -> Vec<(Rank, u32)> {
        let mut depths = Vec::new();
        request.look_up(self.index.tree(), &mut depths);
        self.ranks.entries().iter().map(|entry| (entry.rank, depths[entry.slot as usize])).collect()
    }

    /// The load that every rank would have with a request on it, under the settings that hold for the request, in
    /// order of rank: active blocks plus those of the prompt that no request of the rank holds, and outstanding prefill
    /// plus the uncached prompt tokens if they are tracked.
    ///
    /// # Errors
    /// A request that contradicts itself or that no rank can serve.
    pub fn potential_loads(
        &self,
        request: RoutingRequest,
        now: Time,
    ) -> Result<Vec<PotentialLoad>, RouteError> {
        let candidates = self.judged(&self.check_shape(request)?, now.max(self.now));
        let loads = candidates.iter().map(|candidate| PotentialLoad {
            rank: candidate.rank,
            prefill_tokens: candidate.terms.prefill_tokens,
            decode_blocks: candidate.terms.decode_blocks,
        });
        Ok(loads.collect())
    }

    /// How KV events fared.
    pub fn event_counts(&self) -> EventCounts {
        self.events
    }

    /// Everything that the index knows.
    pub fn dump(&self) -> IndexDump {
        let rank_of =
            |slot| self.ranks.entries().iter().find(|entry| entry.slot == slot).map(|entry| entry.rank);
        self.index.dump(rank_of)
    }

    /// How much the router remembers; all but the index is empty when every request was finished.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            booked_requests: self.load.num_requests(),
            queued_requests: self.queue.len(),
            prefills: self.load.num_prefills(),
            block_runs: self.load.num_runs(),
            index_blocks: self.index.tree().num_blocks(),
            index_extras: self.index.tree().num_extras(),
        }
    }
}
