//! KV on its way from one worker to another: whose it is, where it is held, and when it is there.
//!
//! A prompt that is handed off is held where it was computed. The engine that goes on with it begins to fetch it when it
//! has blocks for it ([`Links::begin`]), and the links say when it will be there. Where transfers share the network ports of
//! workers ([`Ports`]), that changes with every other one that begins or ends, so that they say it when it is there.

mod ports;

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use servecast_engine::{Begun, Fetch};
use servecast_types::{Duration, RequestId, Time};

use self::ports::Ports;
use crate::RunError;
use crate::cluster::Place;
use crate::handoff::{Handoff, TransferTime};

/// All links between the workers of a deployment.
#[derive(Debug)]
pub(crate) struct Links {
    /// `None`: there is nothing to move.
    handoff: Option<Handoff>,
    /// KV that is held for the next stage of a request, until it is there or the request is given up.
    held: FxHashMap<RequestId, Held>,
    /// Hand-offs so far.
    hand_offs: u64,
    ends: Ends,
    /// Where transfers share the ports of workers.
    ports: Option<Ports>,
}

/// Transfers that are under way, by their ends and then in order of hand-offs: what is held longest becomes free first,
/// whichever decode worker starts first.
type Ends = BTreeSet<(Time, u64, RequestId)>;

/// KV that a worker holds.
#[derive(Debug)]
struct Held {
    from: Place,
    /// Which hand-off of the run this is.
    order: u64,
    time: TransferTime,
    /// Where there is memory for it, once that is so; it is on its way there unless it is `ahead`.
    to: Option<Place>,
    /// Of a prompt that is to be computed once there is memory for it elsewhere.
    ahead: Option<Ahead>,
}

/// A prompt for which memory elsewhere comes first: its KV moves as it is computed, part by part.
#[derive(Debug)]
struct Ahead {
    /// Whether all of it is computed.
    is_computed: bool,
    /// Tokens of it that are fetched, and that were sent so far.
    missing: u32,
    sent: u32,
    /// When what was sent will have arrived.
    arrived: Time,
    of_tokens: u32,
}

/// KV that nobody fetches any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenUp {
    pub(crate) from: Place,
    /// Whether there was memory for it elsewhere.
    pub(crate) has_memory: bool,
    /// Whether it is there, and not still to be computed.
    pub(crate) is_computed: bool,
}

/// A transfer that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) request: RequestId,
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) end: Time,
    /// Whether nobody knew that when it began.
    pub(crate) was_open: bool,
}

impl Links {
    /// Links on which nothing moves yet.
    pub(crate) fn new(handoff: Option<Handoff>) -> Self {
        let ports = handoff.is_some_and(|handoff| handoff.is_shared()).then(Ports::default);
        Self { handoff, held: FxHashMap::default(), hand_offs: 0, ends: Ends::new(), ports }
    }

    /// A worker holds the KV of a prompt of so many tokens from `now` on.
    pub(crate) fn hold(
        &mut self,
        request: RequestId,
        from: Place,
        prompt_tokens: u32,
        now: Time,
    ) -> Result<(), RunError> {
        let handoff = self.handoff.as_ref().expect("there is no further stage without a hand-off");
        let time = handoff.transfer_time(prompt_tokens, now)?;
        self.hand_offs += 1;
        self.held.insert(request, Held { from, order: self.hand_offs, time, to: None, ahead: None });
        Ok(())
    }

    /// A worker is to compute a prompt of so many tokens once another one has memory for it.
    pub(crate) fn hold_ahead(
        &mut self,
        request: RequestId,
        from: Place,
        prompt_tokens: u32,
        now: Time,
    ) -> Result<(), RunError> {
        self.hold(request, from, prompt_tokens, now)?;
        let held = self.held.get_mut(&request).expect("it was put there");
        held.time = held.time.of_what_is_missing();
        held.ahead = Some(Ahead {
            is_computed: false,
            missing: prompt_tokens,
            sent: 0,
            arrived: now,
            of_tokens: prompt_tokens,
        });
        Ok(())
    }

    /// Whether the KV of a request is still to be computed, where there may be memory for it already.
    pub(crate) fn is_ahead(&self, request: RequestId) -> bool {
        let ahead = self.held.get(&request).and_then(|held| held.ahead.as_ref());
        ahead.is_some_and(|ahead| !ahead.is_computed)
    }

    /// Where the KV of a request is, or will be.
    pub(crate) fn source(&self, request: RequestId) -> Option<Place> {
        self.held.get(&request).map(|held| held.from)
    }

    /// A part of a prompt was computed, which follows the parts before it.
    pub(crate) fn part_sent(&mut self, request: RequestId, tokens: u32, at: Time) {
        let Some(held) = self.held.get_mut(&request) else { return };
        let time = held.time;
        let Some(ahead) = held.ahead.as_mut().filter(|ahead| !ahead.is_computed) else { return };
        let tokens = tokens.min(ahead.missing - ahead.sent);
        ahead.sent += tokens;
        let part = Fetch { id: request, tokens, of_tokens: ahead.of_tokens };
        ahead.arrived = ahead.arrived.max(at) + time.of(part);
    }

    /// All of a prompt is computed for which there is memory: what was not sent before is on its way.
    ///
    /// Where transfers share ports, the parts before it have had them for themselves.
    pub(crate) fn computed(&mut self, request: RequestId, now: Time) {
        let ahead = self.held.get(&request).and_then(|held| held.ahead.as_ref());
        let Some(left) = ahead.map(|ahead| ahead.missing - ahead.sent) else { return };
        self.part_sent(request, left, now);
        let Some(held) = self.held.get_mut(&request) else { return };
        let (Some(ahead), Some(to)) = (&mut held.ahead, held.to) else {
            unreachable!("a prompt is computed once there is memory for it elsewhere")
        };
        ahead.is_computed = true;
        self.hand_offs += 1;
        held.order = self.hand_offs;
        let (end, order, from) = (ahead.arrived.max(now), held.order, held.from);
        if let Some(ports) = self.ports.as_mut().filter(|_| end > now) {
            ports.begin(request, order, [from, to], end.since(now), now, &mut self.ends);
        } else {
            self.ends.insert((end, order, request));
        }
    }

    /// The KV of a request is on its way to a worker.
    pub(crate) fn begin(&mut self, fetch: Fetch, to: Place, now: Time) -> Begun {
        let held = self.held.get_mut(&fetch.id).expect("what is fetched is held");
        held.to = Some(to);
        if let Some(ahead) = &mut held.ahead {
            ahead.missing = fetch.tokens;
            return Begun::Open;
        }
        let (alone, order) = (held.time.of(fetch), held.order);
        if let Some(ports) = self.ports.as_mut().filter(|_| alone > Duration::ZERO) {
            ports.begin(fetch.id, order, [held.from, to], alone, now, &mut self.ends);
            return Begun::Open;
        }
        let end = now + alone;
        self.ends.insert((end, order, fetch.id));
        Begun::At(end)
    }

    /// Forgets KV that nobody will fetch, unless it is on its way already, which it then goes on to the end; returns what
    /// it was.
    pub(crate) fn give_up(&mut self, request: RequestId) -> Option<GivenUp> {
        let is_computed = !self.is_ahead(request);
        let held = self.held.get(&request).filter(|held| held.to.is_none() || !is_computed)?;
        let given_up = GivenUp { from: held.from, has_memory: held.to.is_some(), is_computed };
        self.held.remove(&request);
        Some(given_up)
    }

    /// Requests whose KV a worker holds, or will hold, in any order.
    pub(crate) fn held_by(&self, worker: Place) -> impl Iterator<Item = RequestId> {
        self.held.iter().filter(move |(_, held)| held.from == worker).map(|(&request, _)| request)
    }

    /// Breaks off transfers out of a worker and into it, so that others that share a port with them end earlier; returns
    /// one at a time. Those that share nothing go on to the ends that their workers know.
    pub(crate) fn break_off(&mut self, worker: Place, now: Time) -> Option<Moved> {
        let request = self.ports.as_ref()?.first_of(worker)?;
        self.ports.as_mut()?.stop(request, now, &mut self.ends);
        let Held { from, to, .. } = self.held.remove(&request)?;
        Some(Moved { request, from, to: to?, end: now, was_open: true })
    }

    /// When the next transfer ends, unless another one begins or ends before.
    pub(crate) fn next_end(&self) -> Option<Time> {
        self.ends.first().map(|&(end, ..)| end)
    }

    /// The next transfer that has ended by `now`.
    pub(crate) fn pop_ended(&mut self, now: Time) -> Option<Moved> {
        self.next_end().filter(|&end| end <= now)?;
        let (end, _, request) = self.ends.pop_first()?;
        let Held { from, to, ahead, .. } = self.held.remove(&request)?;
        let shared = self.ports.as_mut().is_some_and(|ports| ports.stop(request, now, &mut self.ends));
        Some(Moved { request, from, to: to?, end, was_open: shared || ahead.is_some() })
    }
}
