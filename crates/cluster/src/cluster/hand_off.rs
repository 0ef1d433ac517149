//! From the prefill stage of a request to its decode stage: the KV of its prompt is held where it was computed until it has
//! been fetched.

use servecast_engine::EngineRequest;
use servecast_types::{RequestId, Time};

use super::{Cluster, Place};
use crate::links::Moved;
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

    /// The KV of a request is where it goes, or goes on no more.
    pub(super) fn transfer_ended(
        &mut self,
        moved: Moved,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let Moved { request, from, to, end, was_open } = moved;
        assert!(end == now, "the driver stops at every end of a transfer");
        self.let_go(request, from, now, observer)?;
        self.catch_up(to, observer)?;
        if was_open {
            self.check_causality(to, now);
            self.recorder.transfer_ended(request, now);
            self.worker(to).engine.fetched(request, now);
        }
        self.wake(to);
        Ok(())
    }

    /// Nobody needs the KV of a request any more where its prompt was computed.
    pub(super) fn let_go(
        &mut self,
        id: RequestId,
        from: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.catch_up(from, observer)?;
        self.check_causality(from, now);
        self.worker(from).engine.release(id, now, now);
        self.wake(from);
        self.leave_if_drained(from, now, observer);
        Ok(())
    }
}
