//! When the turns of sessions become requests.

mod progress;
mod to_start;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use servecast_latency::Host;
use servecast_record::RequestStatus;
use servecast_types::{Duration, RequestId, Time};
use servecast_workload::{Session, Turn, TurnStart, Workload};

use self::progress::Progress;
use self::to_start::ToStart;
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
    /// Sessions that have not started.
    to_start: ToStart,
    /// Sessions that have started, while a turn of theirs is still to be sent or ends.
    under_way: FxHashMap<u32, Session>,
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
    /// The turn that each request is, where sessions have several.
    turns: Vec<TurnId>,
    /// Turns whose workers were fixed beforehand.
    placements: FxHashMap<TurnId, Placement>,
    /// Sessions under way whose turns wait for others than the one before them.
    graphs: FxHashMap<u32, Progress>,
    /// Turns that are not sent, last one first.
    refused: Vec<(TurnId, NewRequest)>,
}

impl Replay {
    /// A workload with `host` between its users and the deployment.
    pub fn new(workload: Workload, mode: LoadMode, host: Host) -> Result<Self, ClusterError> {
        let order = match mode {
            LoadMode::OpenLoop => workload.arrival_order(),
            LoadMode::ClosedLoop { concurrency: 0 } => return Err(ClusterError::NoConcurrency),
            LoadMode::ClosedLoop { .. } => (0..workload.sessions.len()).collect(),
        };
        let free_places = match mode {
            LoadMode::OpenLoop => None,
            LoadMode::ClosedLoop { concurrency } => {
                Some(vec![Reverse(Time::ZERO); (concurrency as usize).min(order.len())].into())
            }
        };
        let goes_on = workload.sessions.iter().any(|session| session.turns.len() > 1);
        let mut replay = Self {
            to_start: ToStart::new(workload.sessions, &order),
            under_way: FxHashMap::default(),
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

    /// A turn of a session that is under way.
    fn turn(&self, id: TurnId) -> &Turn {
        &self.under_way[&id.session].turns[id.turn as usize]
    }

    /// A turn to be sent. Its prompt, and its output as far as it is named, are handed out: they are needed once.
    fn take_turn(&mut self, id: TurnId) -> Turn {
        let Entry::Occupied(mut session) = self.under_way.entry(id.session) else {
            unreachable!("{id:?} is sent, and its session is not under way")
        };
        let turns = &mut session.get_mut().turns;
        let turn = taken(&mut turns[id.turn as usize]);
        if turns.len() == 1 {
            session.remove();
        }
        turn
    }

    /// How long a turn is on its way.
    fn front_end(&self, turn: &Turn) -> Duration {
        self.host.front_end(turn.prompt.tokens())
    }

    /// When a turn was sent that is due now.
    fn sent(&self, turn: &Turn, now: Time) -> Time {
        Time::from_ns(now.since(Time::ZERO + self.front_end(turn)).as_ns())
    }

    /// The request of a turn that is due now.
    fn send(&mut self, id: TurnId, turn: Turn, now: Time) -> Arrival {
        Arrival {
            origin: origin(id, &turn, self.sent(&turn, now)),
            prompt: turn.prompt,
            output: turn.output,
            stop_after: turn.stop_after,
            priority: turn.priority,
            placement: self.placements.remove(&id).unwrap_or_default(),
        }
    }

    /// Finds out when the next turn is due, after what is known has changed.
    fn plan_next(&mut self) {
        let start = self.next_start().map(|(sent, ..)| sent + self.shortest_front_end);
        let due = self.on_the_way.peek().map(|Reverse((due, ..))| *due);
        self.next_arrival = start.into_iter().chain(due).min();
    }

    /// The next turn that is due by `now`.
    #[inline]
    fn pop_turn(&mut self, now: Time) -> Option<(TurnId, Turn)> {
        self.next_arrival.filter(|&at| at <= now)?;
        let due = self.find_due(now);
        self.plan_next();
        due
    }

    fn find_due(&mut self, now: Time) -> Option<(TurnId, Turn)> {
        while let Some((sent, line)) = self.next_start()
            && sent + self.shortest_front_end <= now
        {
            let (number, mut session) = self.to_start.pop()?;
            let id = TurnId { session: number, turn: 0 };
            let due = sent + self.front_end(&session.turns[0]);
            let is_next = self.on_the_way.peek().is_none_or(|Reverse(first)| (due, line, id) < *first);
            // Where nothing overtakes anything, a start needs no place among others.
            let first = (due <= now && is_next).then(|| taken(&mut session.turns[0]));
            if first.is_none() {
                self.on_the_way.push(Reverse((due, line, id)));
            }
            self.free_places.as_mut().map(BinaryHeap::pop);
            if first.is_none() || session.turns.len() > 1 {
                self.under_way.insert(number, session);
                self.begin(number, sent);
            }
            if let Some(turn) = first {
                return Some((id, turn));
            }
        }
        self.on_the_way.peek().filter(|Reverse((due, ..))| *due <= now)?;
        let Reverse((.., id)) = self.on_the_way.pop()?;
        Some((id, self.take_turn(id)))
    }

    /// The first turn of a session is sent: so are others that wait for none.
    fn begin(&mut self, session: u32, sent: Time) {
        let Some(waits) = &self.under_way[&session].waits else { return };
        let progress = Progress::of(waits);
        let roots: Vec<u32> =
            (1..).zip(waits.iter().skip(1)).filter(|(_, of)| of.is_empty()).map(|(turn, _)| turn).collect();
        self.graphs.insert(session, progress);
        for turn in roots {
            self.send_after(TurnId { session, turn }, sent);
        }
    }

    /// A turn is sent that waits for nothing more since `ready`.
    fn send_after(&mut self, id: TurnId, ready: Time) {
        let turn = self.turn(id);
        let sent = match turn.start {
            TurnStart::AfterPrevious(delay) => ready + delay,
            TurnStart::NotBefore(time) | TurnStart::At(time) => time.max(ready),
        };
        let (due, line) = (sent + self.front_end(turn), turn.line);
        self.on_the_way.push(Reverse((due, line, id)));
    }

    /// How many turns a session has that is under way. One with a single turn is not, once that is sent.
    fn turns_of(&self, session: u32) -> u32 {
        self.under_way.get(&session).map_or(1, |session| session.turns.len() as u32)
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
        if next.turn == self.turns_of(session) {
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
            None => ((turn + 1..self.turns_of(session)).collect(), true),
        };
        for turn in refused.into_iter().rev() {
            let id = TurnId { session, turn };
            self.refused.push((id, origin(id, self.turn(id), now)));
        }
        if is_over {
            self.session_ended(session, now);
        }
    }

    /// A session will have no more turns: another takes its place.
    fn session_ended(&mut self, session: u32, now: Time) {
        self.under_way.remove(&session);
        self.graphs.remove(&session);
        self.place_freed(now);
    }

    /// Another session may start in a closed loop.
    fn place_freed(&mut self, now: Time) {
        if let Some(places) = &mut self.free_places {
            places.push(Reverse(now));
            self.plan_next();
        }
    }

    /// When the next session starts, and the line of its first turn.
    fn next_start(&self) -> Option<(Time, u64)> {
        let first = self.to_start.first_turn()?;
        let time = match (&self.free_places, first.start) {
            (Some(places), _) => places.peek()?.0,
            (None, TurnStart::At(time) | TurnStart::NotBefore(time)) => time,
            (None, TurnStart::AfterPrevious(delay)) => Time::ZERO + delay,
        };
        Some((time, first.line))
    }
}

/// What there is to know of a turn that its user sent at `sent`.
fn origin(id: TurnId, turn: &Turn, sent: Time) -> NewRequest {
    NewRequest {
        session: id.session,
        turn: id.turn,
        line: turn.line,
        class: turn.class,
        lora: turn.lora,
        grammar: turn.grammar,
        arrival: sent,
        input_tokens: turn.prompt.tokens(),
        output_tokens: turn.output_tokens,
    }
}

/// A turn with its content, which it loses.
fn taken(turn: &mut Turn) -> Turn {
    Turn { prompt: std::mem::take(&mut turn.prompt), output: turn.output.take(), ..*turn }
}

impl Source for Replay {
    #[inline]
    fn next(&self) -> Option<Time> {
        self.next_arrival
    }

    #[inline]
    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        let (id, turn) = self.pop_turn(now)?;
        if self.goes_on {
            self.turns.push(id);
        }
        Some(self.send(id, turn, now))
    }

    fn arrived(&mut self, id: RequestId) {
        debug_assert!(!self.goes_on || id.index() + 1 == self.turns.len());
    }

    /// Its session continues. Turns that wait for one that was not served are rejected, since their prompts build on it.
    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time) {
        if !self.goes_on {
            return self.place_freed(at);
        }
        let turn = self.turns[id.index()];
        match status {
            RequestStatus::Finished => self.turn_ended(turn, at),
            RequestStatus::Rejected(_) | RequestStatus::Withdrawn | RequestStatus::Failed => {
                self.turn_lost(turn, at);
            }
        }
    }

    fn pop_refused(&mut self) -> Option<NewRequest> {
        let (turn, request) = self.refused.pop()?;
        self.turns.push(turn);
        Some(request)
    }

    fn watches(&self) -> Watches {
        if self.goes_on || self.free_places.is_some() { Watches::Ends } else { Watches::Nothing }
    }
}

#[cfg(test)]
mod tests;
