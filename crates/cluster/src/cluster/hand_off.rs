//! From the prefill stage of a request to its decode stage: the KV of its prompt is held where it was computed until it has
//! been fetched.
//!
//! Between two pools of SGLang a request comes to a decode worker as soon as its prefill worker is chosen. The decode worker
//! reserves memory for the prompt, the prefill worker is told and computes it, and its KV moves.

use servecast_engine::{EngineRequest, Fetch};
use servecast_record::RequestStatus;
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

    /// Sends a request that has come to a prefill worker to the pool of its decode stage, too.
    pub(super) fn pair(
        &mut self,
        id: RequestId,
        from: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let live = self.live.get_mut(&id).expect("a request that comes to a worker has not ended");
        let request = live.next_stage.take().expect("its decode stage is to come");
        live.place = None;
        live.pool = self.route.after(from.pool).expect("there is a further stage");
        let (pool, forced) = (live.pool, live.placement.get(self.route.stage(live.pool)).copied());
        self.links.hold_ahead(id, from, request.prompt.tokens(), now)?;
        self.enter(pool, EngineRequest { remote_prefill: true, ..request }, forced, now, observer)
    }

    /// A decode worker has memory for a prompt: its prefill worker, if it waits for that, learns of it.
    pub(super) fn memory_reserved(&mut self, fetch: Fetch, now: Time) {
        let Some(from) = self.links.source(fetch.id).filter(|_| self.links.is_ahead(fetch.id)) else {
            return;
        };
        self.check_causality(from, now);
        self.worker(from).engine.preallocated(fetch.id, fetch.of_tokens - fetch.tokens, now);
        self.wake(from);
    }

    /// A prompt is computed for which a decode worker has memory.
    pub(super) fn prompt_computed(
        &mut self,
        id: RequestId,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        match self.live.get(&id) {
            Some(live) if live.taken_back.is_none() => {
                self.recorder.left_for(id, live.pool, now);
                self.links.computed(id, now);
                Ok(())
            }
            // Nobody will fetch what it holds.
            _ => self.let_go(id, place, now, observer),
        }
    }

    /// A prefill worker has given up a request, whose decode worker is to do so, too.
    pub(super) fn lost_by_prefill(
        &mut self,
        id: RequestId,
        status: RequestStatus,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        live.taken_back.get_or_insert(status);
        self.take_from_pool_or_worker(id, now, observer)
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
            self.recorder.transfer_ended(request, to.pool, now);
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
