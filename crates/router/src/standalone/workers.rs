//! Ids of workers and the numbers under which routers know them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_types::{Rank, WorkerId};

use super::{StandaloneError, WorkerInfo, WorkerRank, WorkerRole};

/// The registered workers.
#[derive(Debug, Clone, Default)]
pub(super) struct Workers {
    by_id: BTreeMap<u64, Worker>,
    /// Id of each number.
    ids: FxHashMap<u32, u64>,
    /// A parked request may still allow the number of a worker that is gone, so none is given twice.
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct Worker {
    number: u32,
    info: WorkerInfo,
}

impl Worker {
    fn ranks(&self) -> impl Iterator<Item = Rank> + use<> {
        let worker = WorkerId(self.number);
        self.info.dp_ranks().map(move |dp| Rank { worker, dp })
    }
}

/// What a registration means to the worker's router.
#[derive(Debug)]
pub(super) struct Registered {
    /// The worker's number.
    pub(super) number: u32,
    /// Ranks that it has no longer.
    pub(super) gone: Vec<Rank>,
}

impl Workers {
    pub(super) fn register(
        &mut self,
        worker_id: u64,
        info: WorkerInfo,
    ) -> Result<Registered, StandaloneError> {
        let WorkerInfo { role, dp_rank_start, dp_size, .. } = info;
        if !(1..=WorkerInfo::MAX_DP_SIZE).contains(&dp_size) || dp_rank_start.checked_add(dp_size).is_none() {
            return Err(StandaloneError::Ranks { worker_id, dp_rank_start, dp_size });
        }
        if let Some(known) = self.by_id.get_mut(&worker_id) {
            if known.info.role != role {
                let problem = "remove it before it becomes another";
                return Err(StandaloneError::Role { worker_id, role: known.info.role, problem });
            }
            let gone = known.ranks().filter(|rank| !info.dp_ranks().contains(&rank.dp)).collect();
            known.info = info;
            return Ok(Registered { number: known.number, gone });
        }
        while self.ids.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.ids.insert(number, worker_id);
        self.by_id.insert(worker_id, Worker { number, info });
        Ok(Registered { number, gone: Vec::new() })
    }

    /// The role of a worker and its ranks.
    pub(super) fn ranks_of(&self, worker_id: u64) -> Result<(WorkerRole, Vec<Rank>), StandaloneError> {
        let worker = self.by_id.get(&worker_id).ok_or(StandaloneError::UnknownWorker { worker_id })?;
        Ok((worker.info.role, worker.ranks().collect()))
    }

    pub(super) fn remove(&mut self, worker_id: u64) {
        if let Some(worker) = self.by_id.remove(&worker_id) {
            self.ids.remove(&worker.number);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, WorkerInfo)> + '_ {
        self.by_id.iter().map(|(&id, worker)| (id, worker.info))
    }

    /// The role of a rank's worker, and the rank by its number.
    pub(super) fn find(&self, rank: WorkerRank) -> Result<(WorkerRole, Rank), StandaloneError> {
        let WorkerRank { worker_id, dp_rank } = rank;
        let worker = self.by_id.get(&worker_id).ok_or(StandaloneError::UnknownWorker { worker_id })?;
        let ranks = worker.info.dp_ranks();
        if !ranks.contains(&dp_rank) {
            return Err(StandaloneError::UnknownRank { rank, first: ranks.start, last: ranks.end - 1 });
        }
        Ok((worker.info.role, Rank { worker: WorkerId(worker.number), dp: dp_rank }))
    }

    /// The numbers of those workers that are registered with a role, sorted.
    pub(super) fn numbers(&self, role: WorkerRole, worker_ids: &[u64]) -> Arc<[u32]> {
        let known = worker_ids.iter().filter_map(|id| self.by_id.get(id));
        let mut numbers: Vec<u32> =
            known.filter(|worker| worker.info.role == role).map(|worker| worker.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into()
    }

    /// The name of a rank that is registered.
    pub(super) fn name(&self, rank: Rank) -> WorkerRank {
        let id = self.ids.get(&rank.worker.0).copied();
        debug_assert!(id.is_some(), "worker {} is registered", rank.worker);
        WorkerRank { worker_id: id.unwrap_or(u64::MAX), dp_rank: rank.dp }
    }
}
