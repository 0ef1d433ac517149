//! The records of requests: of all, for a report, or only of those that are under way.

use rustc_hash::FxHashMap;
use servecast_record::{RequestRecord, RequestStatus};
use servecast_types::{RequestId, Time};

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
        }
    }

    /// The record of a request; `None` if it has ended and is not kept.
    #[inline]
    pub(super) fn get(&self, id: RequestId) -> Option<&RequestRecord> {
        match self {
            Self::All { requests, .. } => Some(&requests[id.index()]),
            Self::UnderWay { requests, .. } => requests.get(&id),
        }
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut RequestRecord> {
        match self {
            Self::All { requests, .. } => Some(&mut requests[id.index()]),
            Self::UnderWay { requests, .. } => requests.get_mut(&id),
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
        }
    }

    /// All records, and whether each has ended; none if only some are kept.
    pub(super) fn all(&self) -> (&[RequestRecord], &[bool]) {
        match self {
            Self::All { requests, ended } => (requests, ended),
            Self::UnderWay { .. } => (&[], &[]),
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
        }
    }
}
