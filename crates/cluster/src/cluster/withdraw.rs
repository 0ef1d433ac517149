//! A client takes its request back, wherever that is: parked by a router, waiting, running, on its way to a decode worker.

use servecast_record::RequestStatus;
use servecast_types::{RequestId, Time};

use super::{Cluster, Live, Place};
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
        let Some(live) = self.live.get_mut(&id).filter(|live| live.taken_back.is_none()) else {
            return Ok(());
        };
        live.taken_back = Some(RequestStatus::Withdrawn);
        // Both of its workers are told.
        if let Some(from) = self.links.source(id).filter(|_| self.links.is_ahead(id)) {
            self.take_from_worker(id, from, observer)?;
        }
        self.take_from_pool_or_worker(id, now, observer)
    }

    /// Ends a request that has been taken back and waits in its pool, unless it goes to a worker at this instant.
    pub(super) fn take_from_pool(
        &mut self,
        id: RequestId,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let Some(live) = self.live.get(&id) else { return Ok(()) };
        let pool = live.pool;
        // Its router may have room for it by now.
        let released = self.pools[pool.index()].release_parked();
        self.dispatch(pool, released, now, observer)?;
        match self.live.get(&id) {
            None => Ok(()),
            // It has come to a prefill worker, and waits for its decode worker.
            Some(live) if live.pool != pool => self.take_from_pool_or_worker(id, now, observer),
            Some(Live { place: Some(place), .. }) => self.take_from_worker(id, *place, observer),
            Some(Live { place: None, taken_back, .. }) => {
                let status = taken_back.unwrap_or(RequestStatus::Withdrawn);
                let released = self.pools[pool.index()].withdraw_parked(id, now);
                self.end(id, status, now, observer)?;
                self.dispatch(pool, released, now, observer)
            }
        }
    }

    /// Ends a request that has been taken back, wherever its last stage is.
    pub(super) fn take_from_pool_or_worker(
        &mut self,
        id: RequestId,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        match self.live.get(&id).map(|live| live.place) {
            None => Ok(()),
            Some(None) => self.take_from_pool(id, now, observer),
            Some(Some(place)) => self.take_from_worker(id, place, observer),
        }
    }

    /// Lets a request that has been taken back end with the next decision of its worker.
    pub(super) fn take_from_worker(
        &mut self,
        id: RequestId,
        place: Place,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.bring_up(place, observer)?;
        self.worker(place).engine.withdraw(id);
        self.stop_lagging(place);
        self.wake(place);
        Ok(())
    }

    /// A stage of a request that was taken back was done before its worker heard of it.
    pub(super) fn end_taken_back(
        &mut self,
        id: RequestId,
        status: RequestStatus,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        if self.route.after(place.pool).is_some() {
            // Nobody will fetch what it holds.
            self.worker(place).engine.release(id, now, now);
            self.wake(place);
        }
        self.end(id, status, now, observer)
    }
}
