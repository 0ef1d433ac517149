//! Workers that have nothing to do with one another: each runs by itself, through all that has come to it.

use servecast_engine::EngineState;
use servecast_types::{Time, WorkerId};

use super::{Cluster, Place, submit};
use crate::pool::Pool;
use crate::{Observer, RunError};

impl Cluster {
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
            let Pool { inboxes, engines, .. } = &mut self.pools[0];
            let inbox = &mut inboxes[worker.index()];
            // Whatever comes at one instant comes before the engine starts.
            while inbox.front().is_some_and(|request| request.arrival == until)
                && let Some(request) = inbox.pop_front()
            {
                submit(&mut engines[worker.index()], request);
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
            if state == Ok(EngineState::Busy { until }) {
                engine.end_iteration(until, sink);
            }
            (start, state)
        });
        self.apply(place, outcome)?;
        let next = match state.map_err(|source| RunError::Latency { at: start, source })? {
            EngineState::Busy { until } => until,
            EngineState::Idle { .. } => Time::MAX,
        };
        self.pools[place.pool].busy[place.worker.index()] = next != until && next != Time::MAX;
        Ok(next >= until)
    }
}
