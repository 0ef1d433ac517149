//! A workload that somebody sends while time passes by itself.

use std::collections::{BTreeMap, BTreeSet};

use servecast_latency::Host;
use servecast_record::RequestStatus;
use servecast_types::{Duration, RequestId, Time};

use crate::drive::{Arrival, NewRequest, Source, Watches};
use crate::replay::Replay;

/// The least by which two instants differ.
const TICK: Duration = Duration::from_ns(1);

/// When a turn was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Its line in the trace.
    pub line: u64,
    /// By the clock that woke its user; of a turn that was not sent, since an earlier one of its session was not served, a
    /// time after that one's.
    pub at: Time,
}

/// Sends the turns of a workload when the clock says that they are due, which may be later than planned, and keeps the
/// times: replayed from them, every decision is the same.
///
/// What a turn has in front of the deployment takes its time from there on. What is found to be due in one look at the
/// clock is sent at one instant, in the order of lines; what follows from that instant is found in a later look.
#[derive(Debug)]
pub(crate) struct Stamped<F> {
    /// Says when turns are to be sent; nothing is in front of it.
    replay: Replay,
    /// What lies between users and deployment.
    host: Host,
    /// Whether users go away.
    stop: F,
    has_stopped: bool,
    /// What the clock said last.
    woke: Time,
    /// Nothing is sent before that.
    not_before: Time,
    /// Turns that were sent, by when they are at the deployment, line and number in the replay.
    on_the_way: BTreeMap<(Time, u64, RequestId), Arrival>,
    /// How many turns the replay has handed out or refused.
    handed_out: u32,
    /// By request of the deployment, its number in the replay.
    numbers: Vec<RequestId>,
    /// Requests at the deployment that have not ended.
    under_way: BTreeSet<RequestId>,
    stamps: Vec<Stamp>,
}

impl<F: FnMut() -> bool> Stamped<F> {
    /// A workload of which nothing has been sent. When `stop` says so, asked each time the clock wakes, nothing more is
    /// sent, and what is under way is taken back.
    pub(crate) fn new(mut replay: Replay, stop: F) -> Self {
        let host = replay.take_host();
        Self {
            replay,
            host,
            stop,
            has_stopped: false,
            woke: Time::ZERO,
            not_before: Time::ZERO,
            on_the_way: BTreeMap::new(),
            handed_out: 0,
            numbers: Vec::new(),
            under_way: BTreeSet::new(),
            stamps: Vec::new(),
        }
    }

    /// When each turn was sent that was.
    pub(crate) fn into_stamps(self) -> Vec<Stamp> {
        self.stamps
    }

    /// When something is sent next, if nobody stops that.
    fn next_sent(&self) -> Option<Time> {
        self.replay.next().filter(|_| !self.has_stopped).map(|at| at.max(self.woke).max(self.not_before))
    }

    /// Sends what is due.
    fn send(&mut self, now: Time) {
        while let Some(arrival) = self.replay.pop_due(now) {
            let number = self.hand_out();
            let line = arrival.origin.line;
            self.stamps.push(Stamp { line, at: now });
            let due = now + self.host.front_end(arrival.origin.input_tokens);
            self.on_the_way.insert((due, line, number), arrival);
        }
    }

    /// The next number of the replay.
    fn hand_out(&mut self) -> RequestId {
        let number = RequestId(self.handed_out);
        self.replay.arrived(number);
        self.handed_out += 1;
        number
    }
}

impl<F: FnMut() -> bool> Source for Stamped<F> {
    fn next(&self) -> Option<Time> {
        let arrives = self.on_the_way.keys().next().map(|&(due, ..)| due);
        let goes_away = (self.has_stopped && !self.under_way.is_empty()).then_some(self.woke);
        self.next_sent().into_iter().chain(arrives).chain(goes_away).min()
    }

    fn woke(&mut self, now: Time) {
        self.woke = now;
        self.has_stopped = self.has_stopped || (self.stop)();
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        if self.next_sent().is_some_and(|at| at <= now) {
            self.send(now);
        }
        // What follows from what happens at this instant comes after it, as it does when the times are replayed.
        self.not_before = self.not_before.max(now + TICK);
        let first = self.on_the_way.first_entry().filter(|first| first.key().0 <= now)?;
        let ((.., number), arrival) = first.remove_entry();
        self.under_way.insert(RequestId(self.numbers.len() as u32));
        self.numbers.push(number);
        Some(arrival)
    }

    fn arrived(&mut self, id: RequestId) {
        debug_assert_eq!(id.index() + 1, self.numbers.len());
    }

    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time) {
        self.under_way.remove(&id);
        // Nobody is there to go on.
        if !self.has_stopped {
            self.replay.ended(self.numbers[id.index()], status, at);
        }
    }

    fn pop_withdrawn(&mut self, _now: Time) -> Option<RequestId> {
        if self.has_stopped { self.under_way.pop_first() } else { None }
    }

    fn pop_refused(&mut self) -> Option<NewRequest> {
        let origin = self.replay.pop_refused()?;
        let number = self.hand_out();
        self.numbers.push(number);
        // Turns of a session go by their times.
        let at = origin.arrival + Duration::from_ns(1 + u64::from(origin.turn));
        self.stamps.push(Stamp { line: origin.line, at });
        Some(origin)
    }

    /// What its users see happens while they look, not when the last of them has been served.
    fn watches(&self) -> Watches {
        Watches::Ends
    }
}
