//! Sessions that stay on their worker.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use servecast_types::{Duration, Time, WorkerId};

/// Which worker had the latest request of each session, for as long as that counts.
///
/// Memory grows with the sessions that had a request within `ttl`.
#[derive(Debug)]
pub(crate) struct SessionAffinity {
    ttl: Duration,
    homes: FxHashMap<u32, Home>,
    /// When sessions had requests, in order; all but the latest of a session are out of date.
    requests: VecDeque<(Time, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Home {
    worker: WorkerId,
    /// When it was last given a request of the session.
    since: Time,
}

impl SessionAffinity {
    /// A worker counts as that of a session until the session had no request for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, homes: FxHashMap::default(), requests: VecDeque::new() }
    }

    /// The worker of a session, if it has one at `now`; time does not run back.
    pub(crate) fn worker_of(&mut self, session: u32, now: Time) -> Option<WorkerId> {
        while let Some(&(at, session)) = self.requests.front()
            && now.since(at) > self.ttl
        {
            self.requests.pop_front();
            if self.homes.get(&session).is_some_and(|home| home.since == at) {
                self.homes.remove(&session);
            }
        }
        self.homes.get(&session).map(|home| home.worker)
    }

    /// A request of a session goes to a worker at `now`.
    pub(crate) fn sent(&mut self, session: u32, worker: WorkerId, now: Time) {
        self.homes.insert(session, Home { worker, since: now });
        self.requests.push_back((now, session));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Time {
        Time::from_ns(secs * 1_000_000_000)
    }

    #[test]
    fn a_session_has_a_worker_until_it_had_no_request_for_long_enough() {
        let mut affinity = SessionAffinity::new(Duration::from_ns(10_000_000_000));
        assert_eq!(affinity.worker_of(7, at(0)), None);
        affinity.sent(7, WorkerId(2), at(0));
        affinity.sent(8, WorkerId(1), at(1));
        affinity.sent(7, WorkerId(3), at(8));
        assert_eq!(affinity.worker_of(7, at(9)), Some(WorkerId(3)));
        assert_eq!(affinity.worker_of(8, at(11)), Some(WorkerId(1)));
        assert_eq!(affinity.worker_of(8, at(12)), None);
        assert_eq!(affinity.worker_of(7, at(18)), Some(WorkerId(3)));
        assert_eq!(affinity.worker_of(7, at(19)), None);
        assert!(affinity.homes.is_empty() && affinity.requests.is_empty(), "nothing is kept of them");
    }
}
