//! From the prefill stage of a request to its decode stage: the KV of its prompt is held where it was computed until it has
//! been fetched.

use servecast_engine::EngineRequest;
use servecast_types::{RequestId, Time};

use super::{Cluster, Place};
use crate::{Observer, RunError};

impl Cluster {
    /// Passes a request whose prompt is computed on to the pool of its next stage.
    pub(super) fn hand_off(
        &mut self,
        id: RequestId,
        request: EngineRequest,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let live = self.live.get_mut(&id).expect("a request that is handed off has not ended");
        let from = live.place.take().expect("a worker has computed the prompt");
        live.pool = self.route.after(live.pool).expect("there is a further stage");
        let (pool, forced) = (live.pool, live.placement.get(self.route.stage(live.pool)).copied());
        self.links.hold(id, from, request.prompt.tokens(), now)?;
        self.enter(pool, EngineRequest { remote_prefill: true, ..request }, forced, now, observer)
    }

    /// The KV of a request is where it goes, or is to go nowhere: its source lets go of it.
    pub(super) fn transfer_ended(
        &mut self,
        id: RequestId,
        from: Place,
        to: Option<Place>,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.catch_up(from, observer)?;
        self.check_causality(from, now);
        self.worker(from).engine.release(id, now, now);
        self.wake(from);
        self.leave_if_drained(from, now, observer);
        if let Some(to) = to {
            self.catch_up(to, observer)?;
            self.wake(to);
        }
        Ok(())
    }
}
