//! How far a worker goes by itself, without the event loop: up to when something may come to it, or, where workers have
//! nothing to do with one another, through all that has come to it.

use std::cmp::Reverse;

use servecast_engine::EngineState;
use servecast_types::{Time, WorkerId};

use super::{Cluster, Event, Place};
use crate::simulate::within_time;
use crate::{Observer, RunError};

impl Cluster {
    /// Lets a worker go on by itself until something may come to it or others have to act on what it does.
    pub(super) fn run_ahead(
        &mut self,
        place: Place,
        now: Time,
        next_arrival: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let horizon = self.horizon(place, now, next_arrival);
        let ((state, begun), outcome) = self.with_engine(place, observer, |engine, sink| {
            let state = engine.run_on(now, horizon, sink);
            (state, engine.started_at())
        });
        match state.map_err(|source| RunError::Latency { at: now, source })? {
            EngineState::Busy { until } => {
                let order = (place.pool, u64::from(place.worker.0));
                self.schedule(until, begun, order, Event::IterationEnd(place));
            }
            EngineState::Idle { .. } => self.pools[place.pool].busy[place.worker.index()] = false,
        }
        self.apply(place, outcome)
    }

    /// Whether a worker may go on by itself at all: nobody waits for what it does, and it waits for nobody.
    pub(super) fn may_run_ahead(&self, place: Place) -> bool {
        let hands_off = place.pool + 1 < self.pools.len();
        let pool = &self.pools[place.pool];
        let fetches = || place.pool > 0 && pool.engines[place.worker.index()].awaits_kv();
        !(self.plain || self.ends_matter || hands_off || pool.is_watched() || fetches())
    }

    /// Until when a worker may go on by itself: nothing can reach it before.
    ///
    /// What reaches a worker of the first pool is an arrival. What reaches a decode worker is a hand-off, at the end of
    /// a prefill iteration. One is in flight, and so among the deadlines, or an arrival starts it, or prompts wait on an
    /// idle worker for memory. That is held until KV has been fetched: from the end of a transfer on, if it has started,
    /// or else not before a decode worker that waits to fetch decides its next iteration.
    fn horizon(&self, place: Place, now: Time, next_arrival: Time) -> Time {
        if !self.may_run_ahead(place) {
            return now;
        }
        if place.pool == 0 {
            return next_arrival;
        }
        let waits = self.waiting_transfers > 0;
        let heaps = [Some(&self.deadlines), Some(&self.decode_deadlines).filter(|_| waits)];
        let next = heaps.into_iter().flatten().filter_map(|heap| heap.peek().map(|Reverse(due)| due.at));
        next.min().map_or(next_arrival, |next| next.min(next_arrival))
    }

    /// The number of workers if none has to do with another: what comes to each is known beforehand, and nobody acts on
    /// what it does. Then requests may [arrive](Cluster::arrive) ahead of time, and [wait](Cluster::run_worker) for it.
    pub(crate) fn workers_apart(&self) -> Option<u32> {
        self.are_apart.then(|| self.pools[0].engines.len() as u32)
    }

    /// Lets a worker do what is to do until it has taken in all that has arrived; then to its end if `is_last`. Returns
    /// whether it is done; otherwise there is more, and it only stopped so that its driver stays in control.
    pub(crate) fn run_worker(
        &mut self,
        worker: WorkerId,
        is_last: bool,
        observer: &mut impl Observer,
    ) -> Result<bool, RunError> {
        let place = Place { pool: 0, worker };
        loop {
            let next = self.pools[0].inboxes[worker.index()].front().map(|request| request.arrival);
            let Some(until) = next.or(is_last.then_some(Time::MAX)) else { return Ok(true) };
            if !self.run_until(place, until, observer)? {
                return Ok(false);
            }
            if next.is_none() {
                return Ok(true);
            }
            // Whatever comes at one instant comes before the engine starts.
            let inbox = |cluster: &mut Self| {
                let inbox = &mut cluster.pools[0].inboxes[worker.index()];
                let is_due = inbox.front().is_some_and(|request| request.arrival == until);
                if is_due { inbox.pop_front() } else { None }
            };
            while let Some(request) = inbox(self) {
                self.submit(place, request, until);
            }
            self.start_worker(place, until, observer)?;
        }
    }

    /// Lets a worker end all iterations that are due by `until` and start those that begin before; returns whether it came
    /// that far.
    fn run_until(
        &mut self,
        place: Place,
        until: Time,
        observer: &mut impl Observer,
    ) -> Result<bool, RunError> {
        if !self.pools[place.pool].busy[place.worker.index()] {
            return Ok(true);
        }
        let ((start, state), outcome) = self.with_engine(place, observer, |engine, sink| {
            let start = engine.started_at();
            let state = engine.run_on(start, until, sink);
            if state == Ok(EngineState::Busy { until }) && until < Time::MAX {
                engine.end_iteration(until, sink);
            }
            (start, state)
        });
        self.apply(place, outcome)?;
        let next = match state.map_err(|source| RunError::Latency { at: start, source })? {
            EngineState::Busy { until } => {
                within_time(until, self.pools[place.pool].engines[place.worker.index()].clock())?;
                until
            }
            EngineState::Idle { .. } => Time::MAX,
        };
        self.pools[place.pool].busy[place.worker.index()] = next != until && next != Time::MAX;
        Ok(next >= until)
    }
}
