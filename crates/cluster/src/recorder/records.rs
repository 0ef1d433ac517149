//! The records of requests: of all, for a report, only of those that are under way, or until somebody else has them.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use servecast_record::{RequestRecord, RequestStatus};
use servecast_types::{PoolId, RequestId, Time, WorkerId};

/// Records by request.
#[derive(Debug)]
pub(super) enum Records {
    /// Of all.
    All {
        requests: Vec<RequestRecord>,
        /// Whether each request has ended.
        ended: Vec<bool>,
    },
    /// Of those that are under way.
    UnderWay {
        requests: FxHashMap<RequestId, RequestRecord>,
        /// The number of the next one.
        next: RequestId,
    },
    /// From the first that has not been handed out on.
    HandedOut(Box<HandedOut>),
}

/// Records of a run that hands each out once nothing more can happen to it, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct HandedOut {
    /// How many have been handed out.
    first: u32,
    /// The others, and whether each has ended.
    requests: VecDeque<(RequestRecord, bool)>,
    /// By pool and worker, when the pass that it reported last was decided or began: whoever had ended before is in none
    /// that it has yet to report.
    passes: Vec<Vec<Time>>,
}

impl HandedOut {
    /// `None`: it has been handed out.
    fn get_mut(&mut self, id: RequestId) -> Option<&mut (RequestRecord, bool)> {
        self.requests.get_mut(id.0.checked_sub(self.first)? as usize)
    }

    /// The first request, if it ended before `until`.
    pub(super) fn pop_ended(&mut self, until: Time) -> Option<(RequestId, RequestRecord)> {
        self.requests.front().filter(|(record, has_ended)| *has_ended && record.ended < until)?;
        let (record, _) = self.requests.pop_front()?;
        self.first += 1;
        Some((RequestId(self.first - 1), record))
    }

    /// When the pass was decided, or began, that a worker reported last.
    pub(super) fn last_pass(&self, pool: PoolId, worker: WorkerId) -> Time {
        let of_pool = self.passes.get(pool.index());
        of_pool.and_then(|workers| workers.get(worker.index())).copied().unwrap_or(Time::ZERO)
    }

    fn reported(&mut self, pool: PoolId, worker: WorkerId, at: Time) {
        if self.passes.len() <= pool.index() {
            self.passes.resize(pool.index() + 1, Vec::new());
        }
        let workers = &mut self.passes[pool.index()];
        if workers.len() <= worker.index() {
            workers.resize(worker.index() + 1, Time::ZERO);
        }
        workers[worker.index()] = at;
    }
}

impl Records {
    pub(super) fn new(keeps_ended: bool) -> Self {
        if keeps_ended {
            Self::All { requests: Vec::new(), ended: Vec::new() }
        } else {
            Self::UnderWay { requests: FxHashMap::default(), next: RequestId(0) }
        }
    }

    /// Opens a record and numbers it.
    pub(super) fn add(&mut self, record: RequestRecord) -> RequestId {
        match self {
            Self::All { requests, ended } => {
                let id = RequestId(requests.len() as u32);
                requests.push(record);
                ended.push(false);
                id
            }
            Self::UnderWay { requests, next } => {
                let id = *next;
                next.0 += 1;
                requests.insert(id, record);
                id
            }
            Self::HandedOut(out) => {
                let id = RequestId(out.first + out.requests.len() as u32);
                out.requests.push_back((record, false));
                id
            }
        }
    }

    /// The record of a request; `None` if it has ended and is not kept.
    #[inline]
    pub(super) fn get(&self, id: RequestId) -> Option<&RequestRecord> {
        match self {
            Self::All { requests, .. } => Some(&requests[id.index()]),
            Self::UnderWay { requests, .. } => requests.get(&id),
            Self::HandedOut(out) => {
                out.requests.get(id.0.checked_sub(out.first)? as usize).map(|(record, _)| record)
            }
        }
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut RequestRecord> {
        match self {
            Self::All { requests, .. } => Some(&mut requests[id.index()]),
            Self::UnderWay { requests, .. } => requests.get_mut(&id),
            Self::HandedOut(out) => out.get_mut(id).map(|(record, _)| record),
        }
    }

    /// A request has ended. Returns its record if it is not kept.
    ///
    /// # Panics
    /// If it had ended already.
    pub(super) fn end(&mut self, id: RequestId, status: RequestStatus, now: Time) -> Option<RequestRecord> {
        match self {
            Self::All { requests, ended } => {
                let ended = std::mem::replace(&mut ended[id.index()], true);
                assert!(!ended, "request {id} ended twice");
                let record = &mut requests[id.index()];
                record.status = status;
                record.ended = now;
                None
            }
            Self::UnderWay { requests, .. } => {
                let record = requests.remove(&id);
                assert!(record.is_some(), "request {id} ended twice");
                record
            }
            Self::HandedOut(out) => {
                let (record, has_ended) = out.get_mut(id).expect("a request that has not ended is kept");
                assert!(!*has_ended, "request {id} ended twice");
                *has_ended = true;
                record.status = status;
                record.ended = now;
                None
            }
        }
    }

    /// All records, and whether each has ended; none if only some are kept.
    pub(super) fn all(&self) -> (&[RequestRecord], &[bool]) {
        match self {
            Self::All { requests, ended } => (requests, ended),
            Self::UnderWay { .. } | Self::HandedOut(_) => (&[], &[]),
        }
    }

    /// A worker has reported a pass that was decided, or began, then.
    #[inline]
    pub(super) fn reported(&mut self, pool: PoolId, worker: WorkerId, at: Time) {
        if let Self::HandedOut(out) = self {
            out.reported(pool, worker, at);
        }
    }

    /// All records, at the end of a run.
    ///
    /// # Panics
    /// If a request has not ended.
    pub(super) fn take(self) -> Vec<RequestRecord> {
        match self {
            Self::All { requests, ended } => {
                assert!(ended.iter().all(|&ended| ended), "every request ends");
                requests
            }
            Self::UnderWay { requests, .. } => {
                assert!(requests.is_empty(), "every request ends");
                Vec::new()
            }
            Self::HandedOut(out) => {
                assert!(out.requests.is_empty(), "every request ends and is handed out");
                Vec::new()
            }
        }
    }
}
