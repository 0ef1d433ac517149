//! What others do about what an engine did: requests go on to the next stage, leave, or end.

use servecast_engine::Rejection;
use servecast_record::{RejectReason, RequestStatus};
use servecast_types::{RequestId, Time};

use super::{Cluster, Place};
use crate::control::WorkerState;
use crate::sink::{Outcome, Signal};
use crate::{Observer, RunError};

impl Cluster {
    /// Acts on what an engine did.
    pub(super) fn apply(
        &mut self,
        place: Place,
        mut outcome: Outcome,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        for &(fetch, now) in &outcome.fetches {
            self.worker(place).queued_fetches -= 1;
            self.check_emission(place, now);
            self.memory_reserved(fetch, now);
        }
        let prefills = self.paired && place.pool == self.route.first();
        if !outcome.signals.is_empty() && self.pools[place.pool.index()].is_watched() {
            outcome.signals.iter().for_each(|&(_, _, at)| self.check_emission(place, at));
        }
        let told = outcome.signals.iter().map(|&(_, _, at)| at).chain(outcome.first_events);
        if let Some(first) = told.min() {
            self.check_told(place, first);
        }
        for &(id, signal, now) in &outcome.signals {
            match signal {
                Signal::Finished => self.stage_finished(id, place, now, observer)?,
                Signal::FirstToken => {
                    let released = self.pools[place.pool.index()].first_token(id, place.worker, now);
                    self.dispatch(place.pool, released, now, observer)?;
                }
                Signal::Token => {
                    let generated = self.recorder.output_tokens(id);
                    self.pools[place.pool.index()].record_output(id, generated, now);
                }
            }
        }
        for &(id, reason, now) in &outcome.rejected {
            self.leave(id, place, now, observer)?;
            let rejected = RequestStatus::Rejected(reject_reason(reason));
            if prefills {
                self.lost_by_prefill(id, rejected, now, observer)?;
                continue;
            }
            let taken_back = self.live.get(&id).and_then(|live| live.taken_back);
            self.end(id, taken_back.unwrap_or(rejected), now, observer)?;
        }
        for &(id, now) in &outcome.withdrawn {
            self.check_emission(place, now);
            self.leave(id, place, now, observer)?;
            if prefills {
                // It ends with its decode stage.
                continue;
            }
            let taken_back = self.live.get(&id).and_then(|live| live.taken_back);
            self.end(id, taken_back.unwrap_or(RequestStatus::Withdrawn), now, observer)?;
        }
        outcome.clear();
        self.spare.push(outcome);
        if self.worker(place).state == WorkerState::Draining {
            let at = self.worker(place).engine.clock();
            self.leave_if_drained(place, at, observer);
        }
        Ok(())
    }

    pub(super) fn stage_finished(
        &mut self,
        id: RequestId,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.leave(id, place, now, observer)?;
        if self.paired && place.pool == self.route.first() {
            return self.prompt_computed(id, place, now, observer);
        }
        if let Some(status) = self.live.get(&id).and_then(|live| live.taken_back) {
            return self.end_taken_back(id, status, place, now, observer);
        }
        if let Some(request) = self.live.get_mut(&id).and_then(|live| live.next_stage.take()) {
            return self.hand_off(id, request, now, observer);
        }
        self.end(id, RequestStatus::Finished, now, observer)
    }

    /// A request has left a worker, which may make room for others.
    pub(super) fn leave(
        &mut self,
        id: RequestId,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let released = self.pools[place.pool.index()].leave(id, place.worker, now);
        self.dispatch(place.pool, released, now, observer)
    }

    pub(super) fn end(
        &mut self,
        id: RequestId,
        status: RequestStatus,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        // A request that is given up before its transfer began leaves KV behind; one that has begun ends by itself.
        let live = self.live.remove(&id);
        if let Some(given_up) = self.links.give_up(id) {
            let place = live.and_then(|live| live.place);
            if let Some(place) = place.filter(|_| !given_up.has_memory) {
                self.worker(place).queued_fetches -= 1;
                self.check_emission(place, now);
            }
            if given_up.is_computed {
                self.let_go(id, given_up.from, now, observer)?;
            } else {
                self.take_from_worker(id, given_up.from, observer)?;
            }
        }
        let known = match status {
            RequestStatus::Finished => self.recorder.last_token(id).unwrap_or(now),
            RequestStatus::Rejected(_) | RequestStatus::Withdrawn | RequestStatus::Failed => now,
        };
        self.recorder.end(id, status, known);
        self.ended.push_back((id, status, known));
        Ok(())
    }
}

/// Why a request was turned away, in the words of a record.
pub(super) fn reject_reason(rejection: Rejection) -> RejectReason {
    match rejection {
        Rejection::PromptTooLong { .. } => RejectReason::PromptTooLong,
        Rejection::MaxModelLen { .. } => RejectReason::MaxModelLen,
        Rejection::Unchunkable { .. } => RejectReason::Unchunkable,
        Rejection::KvCapacity { .. } => RejectReason::KvCapacity,
        Rejection::Empty { .. } => RejectReason::Empty,
    }
}
