//! A client takes its request back, wherever that is: parked by a router, waiting, running, on its way to a decode worker.

use servecast_record::RequestStatus;
use servecast_types::{RequestId, Time};

use super::{Cluster, Place};
use crate::{Observer, RunError};

impl Cluster {
    /// Takes a request back. It ends as [withdrawn](RequestStatus::Withdrawn): at once if a router has parked it, else with
    /// its worker's next decision, under SGLang with its next token once it is served. It may be rejected before. Nothing
    /// if it has ended.
    ///
    /// # Panics
    /// If the source acts on [nothing](crate::Watches::Nothing), since workers may lag then.
    pub(crate) fn withdraw(
        &mut self,
        id: RequestId,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        assert!(
            self.pools.iter().all(|pool| pool.always_watched),
            "who withdraws requests watches their ends"
        );
        let Some(live) = self.live.get_mut(&id).filter(|live| !live.is_withdrawn) else { return Ok(()) };
        live.is_withdrawn = true;
        if live.place.is_none() {
            // Its router may have room for it by now.
            let pool = live.pool;
            let released = self.pools[pool.index()].release_parked();
            self.dispatch(pool, released, now, observer)?;
            if self.live.get(&id).is_some_and(|live| live.place.is_none()) {
                let released = self.pools[pool.index()].withdraw_parked(id, now);
                self.end(id, RequestStatus::Withdrawn, now, observer)?;
                return self.dispatch(pool, released, now, observer);
            }
        }
        if let Some(place) = self.live.get(&id).and_then(|live| live.place) {
            self.worker(place).engine.withdraw(id);
            self.wake(place);
        }
        Ok(())
    }

    /// A stage of a withdrawn request was done before its worker heard of it.
    pub(super) fn end_withdrawn(
        &mut self,
        id: RequestId,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        if self.route.after(place.pool).is_some() {
            // Nobody will fetch what it holds.
            self.worker(place).engine.release(id, now, now);
            self.wake(place);
        }
        self.end(id, RequestStatus::Withdrawn, now, observer)
    }
}
