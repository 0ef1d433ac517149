//! No worker is ahead of the deployment, but it may lag: as long as nobody acts on what it does, it does nothing, and
//! catches up when something reaches it, when somebody reads its pool, or when its inbox is full.
//!
//! What others act on at once is declared: a pool is [watched](crate::pool::Pool::is_watched) where the ends of its
//! requests decide what comes next, and a worker that has KV to fetch begins to do so with its next decision, which frees
//! memory elsewhere. The iterations of such a worker end as events of the deployment, one by one. So a part of the
//! deployment that declares nothing is slow, never wrong; and what is declared wrongly is found, since every run checks
//! that nothing reaches a worker at a time that it has passed, and that nothing others act on is told late (INV-11).
//!
//! Who chooses among workers by what they have done learns of it before each choice. A worker says before when there is
//! nothing to learn ([`Engine::next_news`](servecast_engine::Engine::next_news)), so that many choices find it where it was;
//! that, too, is checked.
//!
//! A worker that lags does all at once what it would have done one by one, which keeps its state in the processor's cache.

use std::cmp::Reverse;

use servecast_engine::{EngineRequest, EngineState};
use servecast_types::{PoolId, Time, WorkerId};

use super::{Cluster, Place};
use crate::drive::within_time;
use crate::worker::Progress;
use crate::{Observer, RunError};

/// Requests that wait for a worker to catch up, at most.
const MOST_IN_INBOX: usize = 64;

impl Cluster {
    /// A worker has an iteration in flight: its end is a deadline if others act on it, or if it is at this instant.
    pub(super) fn started(&mut self, place: Place, until: Time) {
        let watched = self.pools[place.pool.index()].is_watched();
        let now = self.now;
        let worker = self.worker(place);
        // A worker that copies KV to its host, or waits for grammars, does not go on by itself: what it does next depends on
        // when that is done.
        let waits = worker.queued_fetches > 0 || worker.engine.config().wakes_by_itself();
        if watched || waits || until <= now {
            self.schedule_end(place, until);
        } else {
            self.lag(place, until);
        }
    }

    fn lag(&mut self, place: Place, until: Time) {
        let pool = &mut self.pools[place.pool.index()];
        let is_read = pool.is_read();
        let worker = &mut pool.workers[place.worker.index()];
        let news = if is_read { worker.engine.next_news(until) } else { until };
        worker.progress = Progress::Lags { until, news };
        pool.some_lag = true;
        if is_read {
            pool.lagging.push(Reverse((news, place.worker)));
        }
    }

    /// From now on the end of its iteration in flight is a deadline.
    pub(super) fn stop_lagging(&mut self, place: Place) {
        if let Progress::Lags { until, .. } = self.worker(place).progress {
            self.schedule_end(place, until);
        }
    }

    /// Lets no worker of a pool lag if others act on what they do.
    pub(super) fn watch(&mut self, pool: PoolId, observer: &mut impl Observer) -> Result<(), RunError> {
        if self.pools[pool.index()].some_lag && self.pools[pool.index()].is_watched() {
            self.pools[pool.index()].some_lag = false;
            self.pools[pool.index()].lagging.clear();
            for worker in 0..self.pools[pool.index()].workers.len() as u32 {
                let place = Place { pool, worker: WorkerId(worker) };
                self.catch_up(place, observer)?;
                self.stop_lagging(place);
            }
        }
        Ok(())
    }

    /// Brings the workers of a pool up to date from which what chooses among them learns something.
    pub(super) fn read(&mut self, pool: PoolId, observer: &mut impl Observer) -> Result<(), RunError> {
        while let Some(&Reverse((due, worker))) = self.pools[pool.index()].lagging.peek()
            && due <= self.now
        {
            self.pools[pool.index()].lagging.pop();
            let place = Place { pool, worker };
            if matches!(self.worker(place).progress, Progress::Lags { news, .. } if news == due) {
                self.catch_up(place, observer)?;
            }
        }
        if self.pools[pool.index()].is_read() {
            self.pools[pool.index()].read_at = self.now;
        }
        Ok(())
    }

    /// Gives a worker a request, now or when it catches up.
    pub(super) fn deliver(
        &mut self,
        place: Place,
        mut request: EngineRequest,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        let pool = &mut self.pools[place.pool.index()];
        let engine = pool.workers[place.worker.index()].engine.config();
        if let Some(grammar) = &mut request.grammar {
            grammar.submitted = now;
        }
        // In the order in which requests are sent, not in that in which workers catch up.
        engine.ask_order(&mut request);
        // What has waited for a worker comes later than it arrived.
        let comes_now = request.remote_prefill || request.arrival < now || engine.wakes_by_itself();
        if !(pool.is_read() || pool.is_watched() || comes_now) {
            let inbox = &mut pool.workers[place.worker.index()].inbox;
            inbox.push_back(request);
            if inbox.len() >= MOST_IN_INBOX {
                // More may come at this instant, which all comes before the engine starts.
                while !self.empty_inbox(place, now, observer)? {
                    self.stay_in_control(observer)?;
                }
            }
            return Ok(());
        }
        self.bring_up(place, observer)?;
        self.check_causality(place, now);
        if request.remote_prefill {
            self.worker(place).queued_fetches += 1;
            self.stop_lagging(place);
        }
        self.submit(place, request);
        // There is news as soon as it can act on that.
        if let Progress::Lags { until, news } = self.worker(place).progress
            && until < news
        {
            self.lag(place, until);
        }
        self.wake(place);
        Ok(())
    }

    fn submit(&mut self, place: Place, request: EngineRequest) {
        let id = request.id;
        let accepted = self.worker(place).engine.submit(request);
        assert!(accepted.is_ok(), "request {id} was checked against every pool when it arrived");
    }

    /// Brings a worker to where it would be at this instant if it had never lagged, with all that has come to it.
    pub(super) fn bring_up(&mut self, place: Place, observer: &mut impl Observer) -> Result<(), RunError> {
        let now = self.now;
        while !self.empty_inbox(place, now, observer)? {
            self.stay_in_control(observer)?;
        }
        self.catch_up(place, observer)?;
        if self.take_in(place, now) {
            self.wake(place);
        }
        Ok(())
    }

    /// Lets a worker take in what has come to it by `now`, where it is itself; returns whether that was anything.
    pub(super) fn take_in(&mut self, place: Place, now: Time) -> bool {
        let mut took = false;
        while self.worker(place).inbox.front().is_some_and(|request| request.arrival <= now)
            && let Some(request) = self.worker(place).inbox.pop_front()
        {
            self.submit(place, request);
            took = true;
        }
        took
    }

    /// Lets a worker that lags do what it would have done by now, in this round of this instant.
    pub(super) fn catch_up(&mut self, place: Place, observer: &mut impl Observer) -> Result<(), RunError> {
        let now = self.now;
        match self.worker(place).progress {
            Progress::Lags { until, .. } if until <= now => {}
            _ => return Ok(()),
        }
        loop {
            match self.run_until(place, now, observer)? {
                Stop::OnTheWay => self.stay_in_control(observer)?,
                Stop::Before => return Ok(()),
                Stop::AtAnEnd => return self.catch_up_rounds(place, observer),
            }
        }
    }

    /// An iteration of a worker ended with the first round of this instant: lets it do what it would have done since.
    fn catch_up_rounds(&mut self, place: Place, observer: &mut impl Observer) -> Result<(), RunError> {
        let now = self.now;
        for _ in 1..self.round {
            match self.run_engine(place, now, observer)? {
                EngineState::Busy { until } if until > now => {
                    self.started(place, until);
                    return Ok(());
                }
                EngineState::Busy { .. } => {
                    let ((), outcome) =
                        self.with_engine(place, observer, |engine, sink| engine.end_iteration(now, sink));
                    self.apply(place, outcome, observer)?;
                    self.worker(place).progress = Progress::Idle;
                }
                EngineState::Idle { .. } => return Ok(()),
            }
        }
        self.ready.push(Reverse(place));
        Ok(())
    }

    /// Lets a worker take in the requests of its inbox that came before a time; returns whether it has come that far.
    fn empty_inbox(
        &mut self,
        place: Place,
        before: Time,
        observer: &mut impl Observer,
    ) -> Result<bool, RunError> {
        loop {
            let next = self.worker(place).inbox.front().map(|request| request.arrival);
            let Some(at) = next.filter(|&at| at < before) else { return Ok(true) };
            if self.run_until(place, at, observer)? == Stop::OnTheWay {
                return Ok(false);
            }
            // Whatever comes at one instant comes before the engine starts.
            self.check_causality(place, at);
            self.take_in(place, at);
            // It may be in an iteration, at whose end it decides.
            if self.worker(place).progress == Progress::Idle
                && let EngineState::Busy { until } = self.run_engine(place, at, observer)?
            {
                self.lag(place, until);
            }
        }
    }

    /// Lets a worker do all that is left to do, when nothing can reach it any more; returns whether it is done, otherwise
    /// it only stopped so that its driver stays in control.
    pub(crate) fn drain(&mut self, place: Place, observer: &mut impl Observer) -> Result<bool, RunError> {
        Ok(self.empty_inbox(place, Time::MAX, observer)?
            && self.run_until(place, Time::MAX, observer)? != Stop::OnTheWay)
    }

    /// Lets a worker that lags end all iterations that end by `until` and start those that begin before.
    fn run_until(
        &mut self,
        place: Place,
        until: Time,
        observer: &mut impl Observer,
    ) -> Result<Stop, RunError> {
        if self.worker(place).progress == Progress::Idle {
            return Ok(Stop::Before);
        }
        let ((start, state), outcome) = self.with_engine(place, observer, |engine, sink| {
            let start = engine.started_at();
            let state = engine.run_on(start, until, sink);
            if state == Ok(EngineState::Busy { until }) && until < Time::MAX {
                engine.end_iteration(until, sink);
            }
            (start, state)
        });
        self.apply(place, outcome, observer)?;
        match state.map_err(|source| RunError::Latency { at: start, source })? {
            EngineState::Busy { until: end } if end == until => {
                within_time(end, self.worker(place).engine.clock())?;
                self.worker(place).progress = Progress::Idle;
                Ok(Stop::AtAnEnd)
            }
            EngineState::Busy { until: end } => {
                self.lag(place, end);
                Ok(if end < until { Stop::OnTheWay } else { Stop::Before })
            }
            EngineState::Idle { .. } => {
                self.worker(place).progress = Progress::Idle;
                self.check_work_is_conserved(place);
                Ok(Stop::Before)
            }
        }
    }

    fn stay_in_control(&mut self, observer: &mut impl Observer) -> Result<(), RunError> {
        self.holds()?;
        if observer.is_interrupted() { Err(RunError::Interrupted { at: self.now }) } else { Ok(()) }
    }
}

/// How far a worker came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// As far as it was to go, where an iteration ended and nothing has been started.
    AtAnEnd,
    /// As far as it was to go, where nothing ended.
    Before,
    /// Not as far, so that its driver stays in control.
    OnTheWay,
}
