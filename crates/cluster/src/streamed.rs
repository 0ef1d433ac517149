//! Requests that are sent at their times while the trace they stand in is being read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use servecast_latency::Host;
use servecast_record::RequestStatus;
use servecast_types::{Duration, RequestId, Time};
use servecast_workload::{Turn, TurnStart};

use crate::drive::{Arrival, NewRequest, Placement, Source, Watches};

/// Sends requests, each a session of its own, as they come from an iterator: with the number of the session, in order of
/// their times, and of their lines where those are equal. It holds what is on the way to the deployment, and the next one.
#[derive(Debug)]
pub(crate) struct Streamed<I> {
    feed: I,
    /// The next one, and when it is sent.
    next: Option<(Time, u32, Turn)>,
    /// Requests that were sent, by when they are at the deployment and line.
    on_the_way: BinaryHeap<Reverse<OnTheWay>>,
    /// What lies between users and the deployment.
    host: Host,
    /// How long every request is on its way at least.
    shortest_front_end: Duration,
}

/// A request on its way.
#[derive(Debug)]
struct OnTheWay {
    due: Time,
    sent: Time,
    session: u32,
    turn: Turn,
}

impl OnTheWay {
    fn key(&self) -> (Time, u64) {
        (self.due, self.turn.line)
    }
}

impl PartialEq for OnTheWay {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for OnTheWay {}

impl PartialOrd for OnTheWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OnTheWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<I: Iterator<Item = (u32, Turn)>> Streamed<I> {
    pub(crate) fn new(feed: I, host: Host) -> Self {
        let mut streamed = Self {
            feed,
            next: None,
            on_the_way: BinaryHeap::new(),
            host,
            shortest_front_end: host.front_end(0),
        };
        streamed.read_next();
        streamed
    }

    fn read_next(&mut self) {
        self.next = self.feed.next().map(|(session, turn)| {
            let sent = match turn.start {
                TurnStart::At(time) | TurnStart::NotBefore(time) => time,
                TurnStart::AfterPrevious(delay) => Time::ZERO + delay,
            };
            (sent, session, turn)
        });
    }
}

impl<I: Iterator<Item = (u32, Turn)>> Source for Streamed<I> {
    fn next(&self) -> Option<Time> {
        let sent = self.next.as_ref().map(|(sent, ..)| *sent + self.shortest_front_end);
        let due = self.on_the_way.peek().map(|Reverse(first)| first.due);
        sent.into_iter().chain(due).min()
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        while self.next.as_ref().is_some_and(|(sent, ..)| *sent + self.shortest_front_end <= now) {
            let (sent, session, turn) = self.next.take()?;
            let due = sent + self.host.front_end(turn.prompt.tokens());
            self.on_the_way.push(Reverse(OnTheWay { due, sent, session, turn }));
            self.read_next();
        }
        self.on_the_way.peek().filter(|Reverse(first)| first.due <= now)?;
        let Reverse(OnTheWay { sent, session, turn, .. }) = self.on_the_way.pop()?;
        let origin = NewRequest {
            session,
            turn: 0,
            line: turn.line,
            class: turn.class,
            lora: turn.lora,
            grammar: turn.grammar,
            arrival: sent,
            input_tokens: turn.prompt.tokens(),
            output_tokens: turn.output_tokens,
        };
        Some(Arrival {
            origin,
            prompt: turn.prompt,
            output: turn.output,
            stop_after: turn.stop_after,
            priority: turn.priority,
            placement: Placement::new(),
        })
    }

    fn arrived(&mut self, _id: RequestId) {}

    fn ended(&mut self, _id: RequestId, _status: RequestStatus, _at: Time) {}

    fn watches(&self) -> Watches {
        Watches::Nothing
    }
}
