//! What the rest of the deployment learns from an engine that does something.

use servecast_engine::{
    Begun, Decodes, Emitted, Fetch, Finished, Iteration, IterationSink, Joined, LastIteration, Rejection,
};
use servecast_types::{KvEvent, Rank, RequestId, Role, Time};

use crate::cluster::Place;
use crate::links::Links;
use crate::livelock::Livelock;
use crate::pool::Routing;
use crate::recorder::Recorder;
use crate::{CaughtUp, Observer};

/// What an engine did during one call, as far as others have to act on it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Requests whose KV it begins to fetch.
    pub(crate) fetches: Vec<(Fetch, Time)>,
    /// In the order in which the iteration emitted tokens.
    pub(crate) signals: Vec<(RequestId, Signal, Time)>,
    pub(crate) rejected: Vec<(RequestId, Rejection, Time)>,
    pub(crate) withdrawn: Vec<(RequestId, Time)>,
    /// When the first KV events were told.
    pub(crate) first_events: Option<Time>,
    /// Calls of the sink that reported iterations: one, or several that were taken together.
    pub(crate) reports: u64,
}

impl Outcome {
    /// Empties it for reuse, keeping its memory.
    pub(crate) fn clear(&mut self) {
        self.fetches.clear();
        self.signals.clear();
        self.rejected.clear();
        self.withdrawn.clear();
        self.first_events = None;
        self.reports = 0;
    }
}

/// What a token means to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The request is done with this stage.
    Finished,
    /// Its prompt is computed, and it goes on.
    FirstToken,
    /// It has one token more.
    Token,
}

/// Hands what an engine does to the recorder and the observer.
pub(crate) struct Sink<'a, O> {
    pub(crate) place: Place,
    pub(crate) pool: Role,
    pub(crate) routing: &'a mut Routing,
    pub(crate) links: &'a mut Links,
    pub(crate) recorder: &'a mut Recorder,
    pub(crate) livelock: &'a mut Livelock,
    pub(crate) observer: &'a mut O,
    pub(crate) outcome: Outcome,
}

impl<O: Observer> Sink<'_, O> {
    fn tell_caught_up(&mut self, caught_up: CaughtUp) {
        self.observer.caught_up(self.pool, self.place.worker, caught_up);
    }

    fn report(&mut self, rank: Rank, events: &[KvEvent], at: Time) {
        if !events.is_empty() {
            self.routing.report(rank, events, at);
            self.outcome.first_events.get_or_insert(at);
        }
    }

    /// Tells others of tokens of a request, which the recorder does not know yet.
    fn signal(&mut self, Emitted { id, tokens }: Emitted, is_finished: bool, at: Time) {
        let signals = &mut self.outcome.signals;
        if is_finished {
            signals.push((id, Signal::Finished, at));
            return;
        }
        if self.routing.awaits_first_tokens() && self.recorder.awaits_first_token(id, self.place.pool) {
            signals.push((id, Signal::FirstToken, at));
        }
        if self.routing.counts_tokens() {
            signals.extend((0..tokens).map(|_| (id, Signal::Token, at)));
        }
    }
}

impl<O: Observer> servecast_engine::Links for Sink<'_, O> {
    fn begin(&mut self, fetch: Fetch, now: Time) -> Begun {
        let begun = self.links.begin(fetch, self.place, now);
        if self.links.is_ahead(fetch.id) {
            self.recorder.reserved(self.place.pool, fetch, now);
        } else {
            self.recorder.transfer_started(self.place.pool, fetch, begun, now);
        }
        self.outcome.fetches.push((fetch, now));
        begun
    }
}

impl<O: Observer> IterationSink for Sink<'_, O> {
    fn joined(&mut self, joined: Joined, now: Time) {
        self.signal(Emitted { id: joined.id, tokens: 1 }, joined.is_finished, now);
        self.recorder.joined(joined.id, self.place.pool, now);
        self.observer.joined(self.pool, self.place.worker, joined, now);
    }

    fn withdrawn(&mut self, request: RequestId, now: Time) {
        self.outcome.withdrawn.push((request, now));
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        for part in &iteration.parts {
            self.links.part_sent(part.id, part.tokens, part.at);
        }
        let rank = Rank { worker: self.place.worker, dp: iteration.dp_rank };
        self.report(rank, &iteration.kv_events, iteration.end);
        let mut finished = iteration.finished.iter().map(|finished| finished.id).peekable();
        for &emitted in &iteration.emitted {
            let is_finished = finished.next_if_eq(&emitted.id).is_some();
            self.signal(emitted, is_finished, iteration.end);
        }
        debug_assert!(finished.next().is_none(), "a request finishes with a token");
        self.livelock.iteration_ended(iteration);
        self.recorder.iteration_ended(self.place.pool, self.place.worker, iteration);
        let rejected = iteration.rejected.iter().map(|&(id, reason)| (id, reason, iteration.end));
        self.outcome.rejected.extend(rejected);
        self.outcome.reports += 1;
        self.observer.iteration(self.pool, self.place.worker, iteration);
    }

    fn decoded(&mut self, decodes: &Decodes) {
        let Place { pool, worker } = self.place;
        self.livelock.progressed();
        self.recorder.decoded(pool, worker, decodes);
        self.observer.decoded(self.pool, worker, decodes);
        self.outcome.reports += 1;
    }

    fn finished_decoding(&mut self, finished: Finished, end: Time, with: LastIteration) {
        self.recorder.caught_up(finished.id, self.place.pool, finished.output_tokens, end, with);
        let ends_next = with == LastIteration::Next;
        self.tell_caught_up(CaughtUp { id: finished.id, output_tokens: finished.output_tokens, ends_next });
        self.outcome.signals.push((finished.id, Signal::Finished, end));
    }

    fn cache_changed(&mut self, events: &[KvEvent], end: Time) {
        // Ranks in lock step report iteration by iteration.
        self.report(Rank::of_worker(self.place.worker), events, end);
    }

    fn caught_up(&mut self, request: RequestId, output_tokens: u32, last_token: Time) {
        let with = LastIteration::Reported;
        self.recorder.caught_up(request, self.place.pool, output_tokens, last_token, with);
        self.tell_caught_up(CaughtUp { id: request, output_tokens, ends_next: false });
    }
}
