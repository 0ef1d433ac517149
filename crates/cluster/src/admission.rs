//! When the turns of sessions become requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use servecast_latency::Host;
use servecast_types::{Duration, Prompt, Time};
use servecast_workload::{Session, TurnStart, Workload};

use crate::ClusterError;

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

/// Releases turns when they are due.
///
/// Turns that are due at the same time are released in order of their line in the trace.
#[derive(Debug)]
pub(crate) struct Admission {
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
}

impl Admission {
    pub(crate) fn new(workload: Workload, mode: LoadMode, host: Host) -> Result<Self, ClusterError> {
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
        let mut admission = Self {
            sessions: workload.sessions,
            order,
            started: 0,
            on_the_way: BinaryHeap::new(),
            free_places,
            host,
            shortest_front_end: host.front_end(0),
            next_arrival: None,
        };
        admission.look_ahead();
        Ok(admission)
    }

    /// When a turn was sent that is due now and whose content is still here.
    pub(crate) fn sent(&self, turn: TurnId, now: Time) -> Time {
        Time::from_ns(now.since(Time::ZERO + self.front_end(turn)).as_ns())
    }

    /// How long a turn is on its way.
    fn front_end(&self, turn: TurnId) -> Duration {
        self.host.front_end(self.session(turn.session).turns[turn.turn as usize].prompt.tokens())
    }

    /// Hands the prompt of a turn out, and its output as far as it is named: they are needed once.
    pub(crate) fn take_content(&mut self, turn: TurnId) -> (Prompt, Option<Box<Prompt>>) {
        let turn = &mut self.sessions[turn.session as usize].turns[turn.turn as usize];
        (std::mem::take(&mut turn.prompt), turn.output.take())
    }

    pub(crate) fn session(&self, session: u32) -> &Session {
        &self.sessions[session as usize]
    }

    /// No turn is due before that, as far as is known yet; `None` if none will be.
    #[inline]
    pub(crate) fn next_arrival(&self) -> Option<Time> {
        self.next_arrival
    }

    /// Finds out when the next turn is due, after what is known has changed.
    fn look_ahead(&mut self) {
        let start = self.next_start().map(|(sent, ..)| sent + self.shortest_front_end);
        let due = self.on_the_way.peek().map(|Reverse((due, ..))| *due);
        self.next_arrival = start.into_iter().chain(due).min();
    }

    /// The next turn that is due by `now`.
    #[inline]
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<TurnId> {
        self.next_arrival.filter(|&at| at <= now)?;
        let due = self.find_due(now);
        self.look_ahead();
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
            if due <= now && is_next {
                return Some(turn);
            }
        }
        self.on_the_way.peek().filter(|Reverse((due, ..))| *due <= now)?;
        self.on_the_way.pop().map(|Reverse((.., turn))| turn)
    }

    /// A turn has ended: its session goes on.
    pub(crate) fn turn_ended(&mut self, ended: TurnId, now: Time) {
        let next = TurnId { turn: ended.turn + 1, ..ended };
        let Some(turn) = self.session(next.session).turns.get(next.turn as usize) else {
            return self.session_ended(now);
        };
        let due = match turn.start {
            TurnStart::AfterPrevious(delay) => now + delay,
            TurnStart::NotBefore(time) | TurnStart::At(time) => time.max(now),
        };
        let line = turn.line;
        self.on_the_way.push(Reverse((due + self.front_end(next), line, next)));
        self.look_ahead();
    }

    /// A session will have no more turns: another takes its place.
    pub(crate) fn session_ended(&mut self, now: Time) {
        if let Some(places) = &mut self.free_places {
            places.push(Reverse(now));
            self.look_ahead();
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

#[cfg(test)]
mod tests {
    use servecast_types::{Prompt, Run};
    use servecast_workload::Turn;

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
        };
        Session { name: None, turns: starts.iter().enumerate().map(turn).collect() }
    }

    fn admission(sessions: Vec<Session>, mode: LoadMode) -> Admission {
        Admission::new(Workload { sessions, ..Workload::default() }, mode, Host::NONE).unwrap()
    }

    fn due(admission: &mut Admission, now: Time) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| admission.pop_due(now)).map(|turn| (turn.session, turn.turn)).collect()
    }

    fn delay(ms: u64) -> TurnStart {
        TurnStart::AfterPrevious(Duration::from_ns(ms * 1_000_000))
    }

    #[test]
    fn an_open_loop_follows_the_clock_and_then_the_lines() {
        let at = |time| [TurnStart::At(ms(time))];
        let sessions = vec![session(1, &at(5)), session(2, &at(0)), session(3, &at(5))];
        let mut admission = admission(sessions, LoadMode::OpenLoop);
        assert_eq!(admission.next_arrival(), Some(ms(0)));
        assert_eq!(due(&mut admission, ms(4)), [(1, 0)]);
        assert_eq!(due(&mut admission, ms(5)), [(0, 0), (2, 0)]);
        assert_eq!(admission.next_arrival(), None);
    }

    #[test]
    fn later_turns_wait_for_their_delay_or_their_time() {
        let turns =
            [TurnStart::At(ms(0)), delay(10), TurnStart::NotBefore(ms(100)), TurnStart::NotBefore(ms(20))];
        let mut admission = admission(vec![session(1, &turns)], LoadMode::OpenLoop);
        let mut ends = [30, 50, 130].into_iter();
        let mut arrivals = Vec::new();
        while let Some(time) = admission.next_arrival() {
            let turn = admission.pop_due(time).unwrap();
            arrivals.push(time);
            if let Some(end) = ends.next() {
                admission.turn_ended(turn, ms(end));
            }
        }
        assert_eq!(arrivals, [0, 40, 100, 130].map(ms));
    }

    #[test]
    fn a_closed_loop_gives_a_place_to_the_next_session_when_one_has_ended() {
        let at = TurnStart::At(Time::ZERO);
        let sessions = vec![session(1, &[at, delay(100)]), session(3, &[at]), session(4, &[at])];
        let mut admission = admission(sessions, LoadMode::ClosedLoop { concurrency: 2 });
        assert_eq!(due(&mut admission, ms(0)), [(0, 0), (1, 0)]);
        assert_eq!(admission.next_arrival(), None);
        admission.turn_ended(TurnId { session: 0, turn: 0 }, ms(10));
        assert_eq!(admission.next_arrival(), Some(ms(110)), "the session thinks and keeps its place");
        admission.turn_ended(TurnId { session: 1, turn: 0 }, ms(20));
        assert_eq!(admission.next_arrival(), Some(ms(20)));
        assert_eq!(due(&mut admission, ms(20)), [(2, 0)]);
        assert_eq!(due(&mut admission, ms(110)), [(0, 1)]);
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
        let mut admission = Admission::new(workload, LoadMode::OpenLoop, host).unwrap();
        assert_eq!(admission.next_arrival(), Some(ms(7)));
        assert_eq!(due(&mut admission, ms(6)), []);
        assert_eq!(due(&mut admission, ms(7)), [(0, 0)]);
        assert_eq!(admission.sent(TurnId { session: 0, turn: 0 }, ms(7)), ms(5));
        admission.turn_ended(TurnId { session: 0, turn: 0 }, ms(20));
        assert_eq!(due(&mut admission, ms(31)), [(1, 0)]);
        assert_eq!(admission.next_arrival(), Some(ms(32)));
    }

    #[test]
    fn a_start_in_the_front_end_is_not_put_off_by_a_later_end() {
        let at = TurnStart::At(Time::ZERO);
        let workload =
            Workload { sessions: (1..=4).map(|line| session(line, &[at])).collect(), ..Workload::default() };
        let mode = LoadMode::ClosedLoop { concurrency: 2 };
        let host = Host { front_end_us: 200_000.0, ..Host::NONE };
        let mut admission = Admission::new(workload, mode, host).unwrap();
        assert_eq!(due(&mut admission, ms(200)), [(0, 0), (1, 0)]);
        admission.turn_ended(TurnId { session: 0, turn: 0 }, ms(300));
        admission.turn_ended(TurnId { session: 1, turn: 0 }, ms(400));
        assert_eq!(admission.next_arrival(), Some(ms(500)));
        assert_eq!(due(&mut admission, ms(500)), [(2, 0)]);
        assert_eq!(admission.sent(TurnId { session: 2, turn: 0 }, ms(500)), ms(300));
        assert_eq!(due(&mut admission, ms(600)), [(3, 0)]);
    }

    #[test]
    fn a_closed_loop_needs_somebody_in_it() {
        let mode = LoadMode::ClosedLoop { concurrency: 0 };
        let error = Admission::new(Workload::default(), mode, Host::NONE).unwrap_err();
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
            let mut admission = Admission::new(workload, mode, host).unwrap();
            let (mut arrivals, mut sent) = (Vec::new(), Vec::new());
            while let Some(now) = admission.next_arrival() {
                while let Some(turn) = admission.pop_due(now) {
                    arrivals.push((now, turn.session));
                    sent.push(admission.sent(turn, now));
                    // Its end is known before it comes.
                    admission.session_ended(now + Duration::from_ns(100_000_000));
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
        let mut admission = admission(sessions, LoadMode::ClosedLoop { concurrency: 2 });
        assert_eq!(due(&mut admission, ms(0)), [(0, 0), (1, 0)]);
        admission.session_ended(ms(30));
        admission.session_ended(ms(20));
        assert_eq!(admission.next_arrival(), Some(ms(20)));
        assert_eq!(due(&mut admission, ms(20)), [(2, 0)]);
        assert_eq!(due(&mut admission, ms(30)), [(3, 0)]);
    }
}
