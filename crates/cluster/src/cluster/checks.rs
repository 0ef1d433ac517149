//! What a run asserts about its workers (`docs/invariants.md`); what does not hold ends the run with an error.

use servecast_types::Time;

use super::{Cluster, Place};
use crate::RunError;

impl Cluster {
    /// Walks over all requests and blocks of a worker.
    pub(super) fn check_worker(&mut self, place: Place) {
        let worker = self.worker(place);
        let (at, checked) = (worker.engine.clock(), worker.engine.check());
        match checked {
            Ok(looked_at) => worker.checks.made(looked_at),
            Err(what) => self.break_invariant(place, at, what),
        }
    }

    /// Notes that a worker is not as it must be; the driver ends the run.
    fn break_invariant(&mut self, place: Place, at: Time, what: String) {
        let place = format!("{} worker {}", self.pools[place.pool.index()].name, place.worker);
        self.broken.get_or_insert_with(|| Box::new(RunError::Invariant { at, place, what }));
    }

    /// Notes that requests of a worker only take memory from each other; the driver ends the run.
    pub(super) fn break_livelock(&mut self, place: Place, iterations: u32) {
        let at = self.worker(place).engine.clock();
        let place = format!("{} worker {}", self.pools[place.pool.index()].name, place.worker);
        self.broken.get_or_insert_with(|| Box::new(RunError::Livelock { at, place, iterations }));
    }

    /// An error if an invariant was found broken.
    pub(crate) fn holds(&mut self) -> Result<(), RunError> {
        self.broken.take().map_or(Ok(()), |error| Err(*error))
    }

    /// In a checked run, a worker that has nothing to do has no request, unless KV is on its way to it or held there.
    pub(super) fn check_work_is_conserved(&mut self, place: Place) {
        let engine = &self.pools[place.pool.index()].workers[place.worker.index()].engine;
        let (running, waiting) = (engine.num_running(), engine.num_waiting());
        if self.check
            && running + waiting > 0
            && !engine.awaits_kv()
            && !engine.copies_kv()
            && !engine.awaits_grammar()
        {
            let what = format!("it idles, but {running} requests run and {waiting} wait");
            self.break_invariant(place, engine.clock(), what);
        }
    }

    /// A worker that is told something at `now` has not gone beyond that by itself.
    pub(super) fn check_causality(&mut self, place: Place, now: Time) {
        let clock = self.worker(place).engine.clock();
        if now < clock {
            self.break_invariant(
                place,
                now,
                format!("it is reached by something, but has gone on to {clock}"),
            );
        }
    }

    /// What a worker did at `at` was known when its pool was last read, if it was done by then.
    pub(super) fn check_told(&mut self, place: Place, at: Time) {
        let read_at = self.pools[place.pool.index()].read_at;
        if at < read_at {
            self.break_invariant(place, at, format!("a choice was made without it at {read_at}"));
        }
    }

    /// What a worker did at `at` and others act on reaches them in time: they have not gone beyond that.
    pub(super) fn check_emission(&mut self, place: Place, at: Time) {
        if at < self.now {
            let what = format!("others act on what it did, but have gone on to {}", self.now);
            self.break_invariant(place, at, what);
        }
    }
}
