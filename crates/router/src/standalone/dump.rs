//! The state of a standalone router as plain data.

use serde::Serialize;
use servecast_types::{BlockHash, Role, SequenceHash, Time};

use super::{StandaloneRouter, WorkerInfo, WorkerRank, WorkerRole};
use crate::wire::{IndexEvent, IndexEventData, RouterEvent, StorageTier, StoredBlock, StoredBlocks};

/// Everything that a standalone router knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StandaloneDump {
    /// Tokens a block.
    pub block_size: u32,
    /// The ranks of the registered workers, in order of worker and rank.
    pub ranks: Vec<WorkerDump>,
    /// Requests that are booked, in order of id and phase.
    pub booked: Vec<RequestDump>,
    /// Requests that wait, in order of id and phase.
    pub queued: Vec<RequestDump>,
    /// What workers have cached, as the events that say so: applied in this order to another router with the same
    /// workers, they give it the same hits.
    pub events: Vec<RouterEvent>,
}

/// A rank and its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WorkerDump {
    /// The rank.
    #[serde(flatten)]
    pub rank: WorkerRank,
    /// What its worker does.
    pub role: WorkerRole,
    /// The limit of its worker, in tokens.
    pub max_num_batched_tokens: Option<u32>,
    /// Requests that are booked on it.
    pub active_requests: u32,
    /// Active blocks.
    pub active_blocks: u64,
    /// Outstanding prefill tokens.
    pub prefill_tokens: u64,
    /// Distinct blocks that it has cached, as far as the index knows.
    pub cached_blocks: u32,
}

/// A request, and where it is booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestDump {
    /// What its caller calls it.
    pub id: String,
    /// The phase.
    pub phase: Role,
    /// The rank on which it is booked; none while it waits.
    pub rank: Option<WorkerRank>,
}

pub(super) fn dump(router: &StandaloneRouter, now: Time) -> StandaloneDump {
    let requests = router.bookings.sorted().into_iter().map(|(name, number)| RequestDump {
        id: name.id.to_string(),
        phase: name.phase,
        rank: router
            .pool(WorkerRole::serving(name.phase))
            .rank_of(number)
            .map(|rank| router.workers.name(rank)),
    });
    let (booked, queued) = requests.partition(|request| request.rank.is_some());
    let mut events = Vec::new();
    for role in [WorkerRole::Decode, WorkerRole::Prefill] {
        add_events(router, role, &mut events);
    }
    StandaloneDump { block_size: router.block_size(), ranks: ranks(router, now), booked, queued, events }
}

fn ranks(router: &StandaloneRouter, now: Time) -> Vec<WorkerDump> {
    let of_worker = |(worker_id, info): (u64, WorkerInfo)| {
        info.dp_ranks().filter_map(move |dp_rank| {
            let rank = WorkerRank { worker_id, dp_rank };
            let (role, inner) = router.workers.find(rank).ok()?;
            let pool = router.pool(role);
            Some(WorkerDump {
                rank,
                role,
                max_num_batched_tokens: info.max_num_batched_tokens,
                active_requests: pool.active_requests(inner)?,
                active_blocks: pool.active_blocks(inner)?,
                prefill_tokens: pool.prefill_tokens(inner, now)?,
                cached_blocks: pool.tree_size(inner)?,
            })
        })
    };
    router.workers().flat_map(of_worker).collect()
}

fn add_events(router: &StandaloneRouter, role: WorkerRole, events: &mut Vec<RouterEvent>) {
    for block in router.pool(role).dump().blocks {
        let WorkerRank { worker_id, dp_rank } = router.workers.name(block.rank);
        let stored = StoredBlock {
            block_hash: SequenceHash(block.external),
            tokens_hash: BlockHash(block.local),
            mm_extra_info: None,
        };
        for _ in 0..block.copies {
            let parent_hash = block.parent.map(SequenceHash);
            let data = IndexEventData::Stored(StoredBlocks { parent_hash, blocks: vec![stored.clone()] });
            let event = IndexEvent { event_id: events.len() as u64, data, dp_rank };
            events.push(RouterEvent { worker_id, storage_tier: StorageTier::Device, event });
        }
    }
}
