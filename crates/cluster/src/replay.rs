//! When the turns of sessions become requests.

mod progress;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;
use servecast_latency::Host;
use servecast_record::RequestStatus;
use servecast_types::{Duration, RequestId, Time};
use servecast_workload::{Session, Turn, TurnStart, Workload};

use self::progress::Progress;
use crate::ClusterError;
use crate::drive::{Arrival, NewRequest, Placement, Source, Watches};

/// How requests enter the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// At the times of the workload, whatever the deployment does.
    OpenLoop,
    /// So that this many sessions are under way at a time. A session keeps its place through its think times until
    /// its last turn ends; sessions start in order of appearance.
    ClosedLoop {
        /// Sessions at a time.
        concurrency: u32,
    },
}

/// A turn of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TurnId {
    pub(crate) session: u32,
    pub(crate) turn: u32,
}

/// A workload as a source of requests: it sends each turn when it is due.
///
/// Turns that are due at the same time are sent in order of their line in the trace.
#[derive(Debug)]
pub struct Replay {
    sessions: Vec<Session>,
    /// Sessions in the order in which they start.
    order: Vec<u32>,
    started: usize,
    /// Turns that are known to be sent, by when they are at the deployment.
    on_the_way: BinaryHeap<Reverse<(Time, u64, TurnId)>>,
    /// In a closed loop, when each free place became free, the first one in front; places of an open loop are endless.
    free_places: Option<BinaryHeap<Reverse<Time>>>,
    /// What lies between the user and the deployment: a turn is due there so much after it is sent.
    host: Host,
    /// How long every turn is on its way at least.
    shortest_front_end: Duration,
    /// No turn is due before that, as far as is known yet. It is asked for with every event, and changes with few.
    next_arrival: Option<Time>,
    /// Whether a session has several turns.
    goes_on: bool,
    /// The turn that each request is.
    turns: Vec<TurnId>,
    /// Turns whose workers were fixed beforehand.
    placements: FxHashMap<TurnId, Placement>,
    /// Sessions under way whose turns wait for others than the one before them.
    graphs: FxHashMap<u32, Progress>,
    /// Turns that are not sent, and since when that is known, last one first.
    refused: Vec<(TurnId, Time)>,
}

impl Replay {
    /// A workload with `host` between its users and the deployment.
    pub fn new(workload: Workload, mode: LoadMode, host: Host) -> Result<Self, ClusterError> {
        let order: Vec<u32> = match mode {
            LoadMode::OpenLoop => {
                workload.arrival_order().into_iter().map(|session| session as u32).collect()
            }
            LoadMode::ClosedLoop { concurrency: 0 } => return Err(ClusterError::NoConcurrency),
            LoadMode::ClosedLoop { .. } => (0..workload.sessions.len() as u32).collect(),
        };
        let free_places = match mode {
            LoadMode::OpenLoop => None,
            LoadMode::ClosedLoop { concurrency } => {
                Some(vec![Reverse(Time::ZERO); (concurrency as usize).min(order.len())].into())
            }
        };
        let goes_on = workload.sessions.iter().any(|session| session.turns.len() > 1);
        let mut replay = Self {
            sessions: workload.sessions,
            order,
            started: 0,
            on_the_way: BinaryHeap::new(),
            free_places,
            host,
            shortest_front_end: host.front_end(0),
            next_arrival: None,
            goes_on,
            turns: Vec::new(),
            placements: FxHashMap::default(),
            graphs: FxHashMap::default(),
            refused: Vec::new(),
        };
        replay.plan_next();
        Ok(replay)
    }

    /// Takes away what lies between users and deployment, before the first turn: from now on a turn is due when it is to
    /// be sent.
    pub(crate) fn take_host(&mut self) -> Host {
        let host = std::mem::replace(&mut self.host, Host::NONE);
        self.shortest_front_end = self.host.front_end(0);
        self.plan_next();
        host
    }

    /// Fixes the worker of each stage of a turn.
    pub(crate) fn force_placement(&mut self, session: u32, turn: u32, workers: Placement) {
        self.placements.insert(TurnId { session, turn }, workers);
    }

    /// What there is to know of a turn that its user sent at `sent`.
    fn origin(&self, turn: TurnId, sent: Time) -> NewRequest {
        let source = self.turn(turn);
        NewRequest {
            session: turn.session,
            turn: turn.turn,
            line: source.line,
            class: source.class,
            lora: source.lora,
            arrival: sent,
            input_tokens: source.prompt.tokens(),
            output_tokens: source.output_tokens,
        }
    }

    fn turn(&self, turn: TurnId) -> &Turn {
        &self.session(turn.session).turns[turn.turn as usize]
    }

    /// How long a turn is on its way.
    fn front_end(&self, turn: TurnId) -> Duration {
        self.host.front_end(self.turn(turn).prompt.tokens())
    }

    /// When a turn was sent that is due now and whose content is still here.
    fn sent(&self, turn: TurnId, now: Time) -> Time {
        Time::from_ns(now.since(Time::ZERO + self.front_end(turn)).as_ns())
    }

    /// The request of a turn that is due now. Its prompt, and its output as far as it is named, are handed out: they are
    /// needed once.
    fn send(&mut self, turn: TurnId, now: Time) -> Arrival {
        let origin = self.origin(turn, self.sent(turn, now));
        let placement = self.placements.remove(&turn).unwrap_or_default();
        let source = &mut self.sessions[turn.session as usize].turns[turn.turn as usize];
        Arrival {
            origin,
            prompt: std::mem::take(&mut source.prompt),
            output: source.output.take(),
            stop_after: source.stop_after,
            priority: source.priority,
            placement,
        }
    }

    fn session(&self, session: u32) -> &Session {
        &self.sessions[session as usize]
    }

    /// Finds out when the next turn is due, after what is known has changed.
    fn plan_next(&mut self) {
        let start = self.next_start().map(|(sent, ..)| sent + self.shortest_front_end);
        let due = self.on_the_way.peek().map(|Reverse((due, ..))| *due);
        self.next_arrival = start.into_iter().chain(due).min();
    }

    /// The next turn that is due by `now`.
    #[inline]
    fn pop_turn(&mut self, now: Time) -> Option<TurnId> {
        self.next_arrival.filter(|&at| at <= now)?;
        let due = self.find_due(now);
        self.plan_next();
        due
    }

    fn find_due(&mut self, now: Time) -> Option<TurnId> {
        let shortest = self.shortest_front_end;
        while let Some((sent, line, turn)) = self.next_start().filter(|(sent, ..)| *sent + shortest <= now) {
            let due = sent + self.front_end(turn);
            let is_next = self.on_the_way.peek().is_none_or(|Reverse(first)| (due, line, turn) < *first);
            // Where nothing overtakes anything, a start needs no place among others.
            if due > now || !is_next {
                self.on_the_way.push(Reverse((due, line, turn)));
            }
            self.started += 1;
            self.free_places.as_mut().map(BinaryHeap::pop);
            self.begin(turn.session, sent);
            if due <= now && is_next {
                return Some(turn);
            }
        }
        self.on_the_way.peek().filter(|Reverse((due, ..))| *due <= now)?;
        self.on_the_way.pop().map(|Reverse((.., turn))| turn)
    }

    /// The first turn of a session is sent: so are others that wait for none.
    fn begin(&mut self, session: u32, sent: Time) {
        let Some(waits) = &self.session(session).waits else { return };
        let progress = Progress::of(waits);
        let roots: Vec<u32> =
            (1..).zip(waits.iter().skip(1)).filter(|(_, of)| of.is_empty()).map(|(turn, _)| turn).collect();
        self.graphs.insert(session, progress);
        for turn in roots {
            self.send_after(TurnId { session, turn }, sent);
        }
    }

    /// A turn is sent that waits for nothing more since `ready`.
    fn send_after(&mut self, turn: TurnId, ready: Time) {
        let Turn { start, line, .. } = *self.turn(turn);
        let sent = match start {
            TurnStart::AfterPrevious(delay) => ready + delay,
            TurnStart::NotBefore(time) | TurnStart::At(time) => time.max(ready),
        };
        self.on_the_way.push(Reverse((sent + self.front_end(turn), line, turn)));
    }

    /// A turn has been served: its session continues.
    fn turn_ended(&mut self, ended: TurnId, now: Time) {
        let TurnId { session, turn } = ended;
        if let Some(progress) = self.graphs.get_mut(&session) {
            let ready = progress.served(turn, now);
            let is_over = progress.is_over();
            for (turn, ready) in ready {
                self.send_after(TurnId { session, turn }, ready);
            }
            return if is_over { self.session_ended(session, now) } else { self.plan_next() };
        }
        let next = TurnId { session, turn: turn + 1 };
        if next.turn as usize == self.session(session).turns.len() {
            return self.session_ended(session, now);
        }
        self.send_after(next, now);
        self.plan_next();
    }

    /// A turn has not been served: those that build on it are not sent.
    fn turn_lost(&mut self, lost: TurnId, now: Time) {
        let TurnId { session, turn } = lost;
        let (refused, is_over) = match self.graphs.get_mut(&session) {
            Some(progress) => (progress.lost(turn), progress.is_over()),
            None => ((turn + 1..self.session(session).turns.len() as u32).collect(), true),
        };
        self.refused.extend(refused.into_iter().rev().map(|turn| (TurnId { session, turn }, now)));
        if is_over {
            self.session_ended(session, now);
        }
    }

    /// A session will have no more turns: another takes its place.
    fn session_ended(&mut self, session: u32, now: Time) {
        self.graphs.remove(&session);
        if let Some(places) = &mut self.free_places {
            places.push(Reverse(now));
            self.plan_next();
        }
    }

    fn next_start(&self) -> Option<(Time, u64, TurnId)> {
        let session = *self.order.get(self.started)?;
        let first = self.session(session).turns.first()?;
        let time = match (&self.free_places, first.start) {
            (Some(places), _) => places.peek()?.0,
            (None, TurnStart::At(time) | TurnStart::NotBefore(time)) => time,
            (None, TurnStart::AfterPrevious(delay)) => Time::ZERO + delay,
        };
        Some((time, first.line, TurnId { session, turn: 0 }))
    }
}

impl Source for Replay {
    #[inline]
    fn next(&self) -> Option<Time> {
        self.next_arrival
    }

    #[inline]
    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        let turn = self.pop_turn(now)?;
        self.turns.push(turn);
        Some(self.send(turn, now))
    }

    fn arrived(&mut self, id: RequestId) {
        debug_assert_eq!(id.index() + 1, self.turns.len());
    }

    /// Its session continues. Turns that wait for one that was not served are rejected, since their prompts build on it.
    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time) {
        let turn = self.turns[id.index()];
        match status {
            RequestStatus::Finished => self.turn_ended(turn, at),
            RequestStatus::Rejected(_) | RequestStatus::Withdrawn | RequestStatus::Failed => {
                self.turn_lost(turn, at);
            }
        }
    }

    fn pop_refused(&mut self) -> Option<NewRequest> {
        let (turn, at) = self.refused.pop()?;
        self.turns.push(turn);
        Some(self.origin(turn, at))
    }

    fn watches(&self) -> Watches {
        if self.goes_on || self.free_places.is_some() { Watches::Ends } else { Watches::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::{Prompt, Run};

    use super::*;

    fn ms(ms: u64) -> Time {
        Time::from_ns(ms * 1_000_000)
    }

    fn session(first_line: u64, starts: &[TurnStart]) -> Session {
        let turn = |(index, &start): (usize, &TurnStart)| Turn {
            line: first_line + index as u64,
            start,
            prompt: Prompt::new([Run::tokens(0, 4)]),
            output_tokens: 1,
            priority: 0,
            stop_after: None,
            output: None,
            class: None,
            lora: None,
        };
        Session { turns: starts.iter().enumerate().map(turn).collect(), ..Session::default() }
    }

    fn replay(sessions: Vec<Session>, mode: LoadMode) -> Replay {
        Replay::new(Workload { sessions, ..Workload::default() }, mode, Host::NONE).unwrap()
    }

    fn due(replay: &mut Replay, now: Time) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| replay.pop_turn(now)).map(|turn| (turn.session, turn.turn)).collect()
    }

    fn delay(ms: u64) -> TurnStart {
        TurnStart::AfterPrevious(Duration::from_ns(ms * 1_000_000))
    }

    #[test]
    fn an_open_loop_follows_the_clock_and_then_the_lines() {
        let at = |time| [TurnStart::At(ms(time))];
        let sessions = vec![session(1, &at(5)), session(2, &at(0)), session(3, &at(5))];
        let mut replay = replay(sessions, LoadMode::OpenLoop);
        assert_eq!(replay.next(), Some(ms(0)));
        assert_eq!(due(&mut replay, ms(4)), [(1, 0)]);
        assert_eq!(due(&mut replay, ms(5)), [(0, 0), (2, 0)]);
        assert_eq!(replay.next(), None);
    }

    #[test]
    fn later_turns_wait_for_their_delay_or_their_time() {
        let turns =
            [TurnStart::At(ms(0)), delay(10), TurnStart::NotBefore(ms(100)), TurnStart::NotBefore(ms(20))];
        let mut replay = replay(vec![session(1, &turns)], LoadMode::OpenLoop);
        let mut ends = [30, 50, 130].into_iter();
        let mut arrivals = Vec::new();
        while let Some(time) = replay.next() {
            let turn = replay.pop_turn(time).unwrap();
            arrivals.push(time);
            if let Some(end) = ends.next() {
                replay.turn_ended(turn, ms(end));
            }
        }
        assert_eq!(arrivals, [0, 40, 100, 130].map(ms));
    }

    #[test]
    fn a_closed_loop_gives_a_place_to_the_next_session_when_one_has_ended() {
        let at = TurnStart::At(Time::ZERO);
        let sessions = vec![session(1, &[at, delay(100)]), session(3, &[at]), session(4, &[at])];
        let mut replay = replay(sessions, LoadMode::ClosedLoop { concurrency: 2 });
        assert_eq!(due(&mut replay, ms(0)), [(0, 0), (1, 0)]);
        assert_eq!(replay.next(), None);
        replay.turn_ended(TurnId { session: 0, turn: 0 }, ms(10));
        assert_eq!(replay.next(), Some(ms(110)), "the session thinks and keeps its place");
        replay.turn_ended(TurnId { session: 1, turn: 0 }, ms(20));
        assert_eq!(replay.next(), Some(ms(20)));
        assert_eq!(due(&mut replay, ms(20)), [(2, 0)]);
        assert_eq!(due(&mut replay, ms(110)), [(0, 1)]);
    }

    #[test]
    fn a_front_end_lies_between_sending_and_being_due() {
        let workload = Workload {
            sessions: vec![
                session(1, &[TurnStart::At(ms(5)), delay(10)]),
                session(3, &[TurnStart::At(ms(6))]),
            ],
            ..Workload::default()
        };
        let host = Host { front_end_us: 2000.0, ..Host::NONE };
        let mut replay = Replay::new(workload, LoadMode::OpenLoop, host).unwrap();
        assert_eq!(replay.next(), Some(ms(7)));
        assert_eq!(due(&mut replay, ms(6)), []);
        assert_eq!(due(&mut replay, ms(7)), [(0, 0)]);
        assert_eq!(replay.sent(TurnId { session: 0, turn: 0 }, ms(7)), ms(5));
        replay.turn_ended(TurnId { session: 0, turn: 0 }, ms(20));
        assert_eq!(due(&mut replay, ms(31)), [(1, 0)]);
        assert_eq!(replay.next(), Some(ms(32)));
    }

    #[test]
    fn a_start_in_the_front_end_is_not_put_off_by_a_later_end() {
        let at = TurnStart::At(Time::ZERO);
        let workload =
            Workload { sessions: (1..=4).map(|line| session(line, &[at])).collect(), ..Workload::default() };
        let mode = LoadMode::ClosedLoop { concurrency: 2 };
        let host = Host { front_end_us: 200_000.0, ..Host::NONE };
        let mut replay = Replay::new(workload, mode, host).unwrap();
        assert_eq!(due(&mut replay, ms(200)), [(0, 0), (1, 0)]);
        replay.turn_ended(TurnId { session: 0, turn: 0 }, ms(300));
        replay.turn_ended(TurnId { session: 1, turn: 0 }, ms(400));
        assert_eq!(replay.next(), Some(ms(500)));
        assert_eq!(due(&mut replay, ms(500)), [(2, 0)]);
        assert_eq!(replay.sent(TurnId { session: 2, turn: 0 }, ms(500)), ms(300));
        assert_eq!(due(&mut replay, ms(600)), [(3, 0)]);
    }

    #[test]
    fn a_closed_loop_needs_somebody_in_it() {
        let mode = LoadMode::ClosedLoop { concurrency: 0 };
        let error = Replay::new(Workload::default(), mode, Host::NONE).unwrap_err();
        assert_eq!(error, ClusterError::NoConcurrency);
    }

    /// A session of one turn with a prompt of so many tokens.
    fn prompt_of(tokens: u32, line: u64, at: u64) -> Session {
        let mut one = session(line, &[TurnStart::At(ms(at))]);
        one.turns[0].prompt = Prompt::new([Run::tokens(0, tokens)]);
        one
    }

    #[test]
    fn a_short_prompt_overtakes_a_long_one_on_the_way() {
        let host = Host { front_end_us: 1000.0, front_end_us_per_1k_prompt_tokens: 10_000.0, ..Host::NONE };
        let sessions = vec![prompt_of(1000, 1, 0), prompt_of(100, 2, 2), prompt_of(300, 3, 30)];
        for mode in [LoadMode::OpenLoop, LoadMode::ClosedLoop { concurrency: 2 }] {
            let workload = Workload { sessions: sessions.clone(), ..Workload::default() };
            let mut replay = Replay::new(workload, mode, host).unwrap();
            let (mut arrivals, mut sent) = (Vec::new(), Vec::new());
            while let Some(now) = replay.next() {
                while let Some(turn) = replay.pop_turn(now) {
                    arrivals.push((now, turn.session));
                    sent.push(replay.sent(turn, now));
                    // Its end is known before it comes.
                    replay.session_ended(turn.session, now + Duration::from_ns(100_000_000));
                }
            }
            if mode == LoadMode::OpenLoop {
                assert_eq!(arrivals, [(ms(4), 1), (ms(11), 0), (ms(34), 2)]);
                assert_eq!(sent, [ms(2), ms(0), ms(30)]);
            } else {
                assert_eq!(arrivals, [(ms(2), 1), (ms(11), 0), (ms(106), 2)]);
                assert_eq!(sent, [ms(0), ms(0), ms(102)]);
            }
        }
    }

    #[test]
    fn the_place_that_is_free_first_is_taken_first() {
        let at = TurnStart::At(Time::ZERO);
        let sessions = (1..=4).map(|line| session(line, &[at])).collect();
        let mut replay = replay(sessions, LoadMode::ClosedLoop { concurrency: 2 });
        assert_eq!(due(&mut replay, ms(0)), [(0, 0), (1, 0)]);
        replay.session_ended(0, ms(30));
        replay.session_ended(1, ms(20));
        assert_eq!(replay.next(), Some(ms(20)));
        assert_eq!(due(&mut replay, ms(20)), [(2, 0)]);
        assert_eq!(due(&mut replay, ms(30)), [(3, 0)]);
    }
}
