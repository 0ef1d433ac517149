//! Workers come and go: they start, serve, drain, fail, and may start again.
//!
//! Numbers are never used twice, so that whatever is kept by worker stays valid; who is not serving is no candidate for a
//! request, and a request for which there is no candidate waits in its pool.

use servecast_record::RequestStatus;
use servecast_types::{PoolId, RequestId, Time, WorkerId};

use super::deadline::{Class, Event};
use super::{Cluster, Place};
use crate::control::{ChangeError, WorkerChange, WorkerState, WorkerView};
use crate::{Observer, RunError};

/// What is to change at this instant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// A worker is to be ready then.
    Start(Place, Time),
    Drain(Place),
    Fail(Place),
}

impl Cluster {
    /// The pool of a name.
    pub fn pool(&self, name: &str) -> Option<PoolId> {
        (0..).map(PoolId).zip(&self.pools).find_map(|(number, pool)| (pool.name == name).then_some(number))
    }

    /// All workers that a pool has had, by number; none if there is no such pool.
    pub fn workers(&self, pool: PoolId) -> impl Iterator<Item = WorkerView> {
        let workers = self.pools.get(pool.index()).map_or(&[][..], |pool| &pool.workers);
        (0..).map(WorkerId).zip(workers).map(|(number, worker)| worker.view(number))
    }

    /// Requests that wait in a pool because none of its workers serves that could take them.
    pub fn without_worker(&self, pool: PoolId) -> usize {
        self.pools.get(pool.index()).map_or(0, |pool| pool.waiting.len())
    }

    /// Adds a worker to a pool, equal to those of one of its groups, which takes requests from `ready_at` on; returns its
    /// number.
    pub fn add_worker(
        &mut self,
        pool: PoolId,
        group: usize,
        ready_at: Time,
    ) -> Result<WorkerId, ChangeError> {
        let pools = self.pools.len();
        let of = self.pools.get_mut(pool.index()).ok_or(ChangeError::Pool { pool, pools })?;
        let worker = of.add_worker(group, ready_at)?;
        let engine = of.workers[worker.index()].engine.config();
        self.recorder.add_worker(pool, engine);
        self.changes.push(Change::Start(Place { pool, worker }, ready_at));
        Ok(worker)
    }

    /// Lets a worker end the requests that it has and take no more.
    ///
    /// The KV of prompts that it has computed stays until it has been fetched.
    pub fn drain_worker(&mut self, pool: PoolId, worker: WorkerId) -> Result<(), ChangeError> {
        let is_up = |state| matches!(state, WorkerState::Starting { .. } | WorkerState::Serving);
        self.change(pool, worker, "be drained", is_up, Change::Drain)
    }

    /// Lets a worker fail: what it has is lost, its requests end as [failed](RequestStatus::Failed), and so do those whose
    /// KV it holds for the next stage.
    pub fn fail_worker(&mut self, pool: PoolId, worker: WorkerId) -> Result<(), ChangeError> {
        let is_there = |state| !matches!(state, WorkerState::Down { .. } | WorkerState::Gone { .. });
        self.change(pool, worker, "fail", is_there, Change::Fail)
    }

    /// Starts a worker again that has failed. It is as empty as a new one, and takes requests from `ready_at` on.
    pub fn restart_worker(
        &mut self,
        pool: PoolId,
        worker: WorkerId,
        ready_at: Time,
    ) -> Result<(), ChangeError> {
        let is_down = |state| matches!(state, WorkerState::Down { .. });
        self.change(pool, worker, "be started again", is_down, |place| Change::Start(place, ready_at))
    }

    /// Empties the prefix cache of a worker at once; says whether it did: not while it has a request, or KV for others.
    pub fn reset_prefix_cache(&mut self, pool: PoolId, worker: WorkerId) -> Result<bool, ChangeError> {
        let pools = self.pools.len();
        let of = self.pools.get_mut(pool.index()).ok_or(ChangeError::Pool { pool, pools })?;
        let (name, workers) = (of.name.clone(), of.workers.len());
        let found = of.workers.get_mut(worker.index());
        let found = found.ok_or(ChangeError::Worker { pool: name, worker, workers })?;
        Ok(found.has_nothing() && found.engine.reset_prefix_cache())
    }

    fn change(
        &mut self,
        pool: PoolId,
        worker: WorkerId,
        what: &'static str,
        is_possible: impl FnOnce(WorkerState) -> bool,
        change: impl FnOnce(Place) -> Change,
    ) -> Result<(), ChangeError> {
        let pools = self.pools.len();
        let of = self.pools.get(pool.index()).ok_or(ChangeError::Pool { pool, pools })?;
        let (name, workers) = (|| of.name.clone(), of.workers.len());
        let found = of.workers.get(worker.index());
        let state = found.ok_or_else(|| ChangeError::Worker { pool: name(), worker, workers })?.state;
        if !is_possible(state) {
            return Err(ChangeError::State { pool: name(), worker, state, what });
        }
        self.changes.push(change(Place { pool, worker }));
        Ok(())
    }

    /// Brings all workers to this instant, for somebody who looks at them.
    pub(crate) fn bring_all_up(&mut self, observer: &mut impl Observer) -> Result<(), RunError> {
        self.places().into_iter().try_for_each(|place| self.bring_up(place, observer))
    }

    /// Lets happen what was asked for; all workers are up to date.
    pub(crate) fn apply_changes(&mut self, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::Start(place, ready_at) => {
                    let until = ready_at.max(now);
                    let order = u64::from(place.pool.0) << 32 | u64::from(place.worker.0);
                    self.schedule(until, Class::Ready, order, Event::Ready(place));
                    self.set_state(place, WorkerState::Starting { until }, now, observer);
                }
                Change::Drain(place) => self.drain_now(place, now, observer)?,
                Change::Fail(place) => self.fail_now(place, now, observer)?,
            }
        }
        Ok(())
    }

    /// A worker takes requests from now on.
    pub(super) fn ready(
        &mut self,
        place: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.set_state(place, WorkerState::Serving, now, observer);
        self.read(place.pool, observer)?;
        let released = self.pools[place.pool.index()].enlist(place.worker, now);
        self.dispatch(place.pool, released, now, observer)?;
        self.watch(place.pool, observer)
    }

    fn drain_now(&mut self, place: Place, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        // It may have failed at the same instant.
        if matches!(self.worker(place).state, WorkerState::Starting { .. } | WorkerState::Serving) {
            self.unschedule_start(place);
            self.set_state(place, WorkerState::Draining, now, observer);
            self.dismiss(place, now, observer)?;
            self.leave_if_drained(place, now, observer);
        }
        Ok(())
    }

    /// A worker that drains is gone when it has nothing left.
    pub(super) fn leave_if_drained(&mut self, place: Place, at: Time, observer: &mut impl Observer) {
        if self.worker(place).state == WorkerState::Draining && self.worker(place).has_nothing() {
            self.set_state(place, WorkerState::Gone { since: at }, at, observer);
        }
    }

    fn fail_now(&mut self, place: Place, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        if matches!(self.worker(place).state, WorkerState::Down { .. } | WorkerState::Gone { .. }) {
            return Ok(());
        }
        self.unschedule_start(place);
        self.set_state(place, WorkerState::Down { since: now }, now, observer);
        self.dismiss(place, now, observer)?;
        let ((), outcome) = self.with_engine(place, observer, |engine, sink| engine.abandon(sink));
        self.apply(place, outcome, observer)?;
        for id in self.lost_with(place) {
            self.fail_request(id, place, now, observer)?;
        }
        self.deadlines.retain(|std::cmp::Reverse(deadline)| !deadline.ends_iteration_of(place));
        self.extrapolated += self.worker(place).engine.num_extrapolated();
        self.pools[place.pool.index()].replace(place.worker);
        while let Some(moved) = self.links.break_off(place, now) {
            self.transfer_ended(moved, now, observer)?;
        }
        Ok(())
    }

    /// Requests that a worker has, and those whose KV it holds, in order of arrival.
    fn lost_with(&self, failed: Place) -> Vec<RequestId> {
        let there = self.live.iter().filter(|(_, live)| live.place == Some(failed)).map(|(&id, _)| id);
        let mut lost: Vec<RequestId> = there.chain(self.links.held_by(failed)).collect();
        lost.sort_unstable();
        lost
    }

    /// Ends a request that was lost with a worker: at once if it was there, else as soon as it can be taken from where it
    /// waits for its KV.
    fn fail_request(
        &mut self,
        id: RequestId,
        failed: Place,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        let status = *live.taken_back.get_or_insert(RequestStatus::Failed);
        match live.place {
            None => self.take_from_pool(id, now, observer),
            Some(place) if place == failed => self.end(id, status, now, observer),
            Some(place) => self.take_from_worker(id, place, observer),
        }
    }

    /// No request goes to a worker any more.
    fn dismiss(&mut self, place: Place, now: Time, observer: &mut impl Observer) -> Result<(), RunError> {
        let released = self.pools[place.pool.index()].dismiss(place.worker, now);
        self.dispatch(place.pool, released, now, observer)?;
        self.watch(place.pool, observer)
    }

    fn unschedule_start(&mut self, place: Place) {
        if matches!(self.worker(place).state, WorkerState::Starting { .. }) {
            self.deadlines.retain(|std::cmp::Reverse(deadline)| !deadline.starts(place));
        }
    }

    fn set_state(&mut self, place: Place, state: WorkerState, at: Time, observer: &mut impl Observer) {
        let worker = self.worker(place);
        worker.state = state;
        let group = worker.group;
        let pool = self.pools[place.pool.index()].role;
        observer.worker_changed(&WorkerChange { pool, worker: place.worker, group, state, at });
    }
}
