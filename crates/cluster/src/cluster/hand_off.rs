//! From the prefill stage of a request to its decode stage: the KV of its prompt is held where it was computed until it has
//! been fetched.

use servecast_engine::EngineRequest;
use servecast_types::{RequestId, Time};

use super::{Cluster, Place};
use crate::{Observer, RunError};

/// The prefill worker that holds the KV of a prompt for a decode worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) place: Place,
    /// Which hand-off of the run this is.
    pub(super) order: u64,
    /// Whether the transfer has started.
    pub(super) is_moving: bool,
}

impl Cluster {
    /// Passes a request whose prompt is computed on to the pool of its next stage.
    pub(super) fn hand_off(
        &mut self,
        id: RequestId,
        request: EngineRequest,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let handoff = self.handoff.as_ref().expect("there is no further stage without a hand-off");
        let remote_prefill = Some(handoff.transfer_time(request.prompt.tokens(), now)?);
        let live = self.live.get_mut(&id).expect("a request that is handed off has not ended");
        self.hand_offs += 1;
        let order = self.hand_offs;
        live.source = live.place.take().map(|place| Source { place, order, is_moving: false });
        live.pool = self.route.after(live.pool).expect("there is a further stage");
        let (pool, forced) = (live.pool, live.placement.get(self.route.stage(live.pool)).copied());
        self.enter(pool, EngineRequest { remote_prefill, ..request }, forced, now, observer)
    }

    /// The KV of a request is on its way to a worker; returns where from.
    pub(super) fn transfer_started(&mut self, id: RequestId, to: Place) -> Option<Source> {
        let source = self.live.get_mut(&id)?.source.as_mut()?;
        let begins = !std::mem::replace(&mut source.is_moving, true);
        let source = *source;
        self.worker(to).queued_fetches -= u32::from(begins);
        Some(source)
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
        if let Some(live) = self.live.get_mut(&id) {
            live.source = None;
        }
        if let Some(to) = to {
            self.catch_up(to, observer)?;
            self.wake(to);
        }
        Ok(())
    }
}
