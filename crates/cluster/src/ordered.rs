//! What all workers do, in one order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::ControlFlow;

use servecast_engine::{Decodes, Iteration, Joined};
use servecast_record::{EndedRequest, SoFar};
use servecast_types::{Duration, Role, Time, WorkerId};

use crate::{CaughtUp, Detail, Observer, Routed, WorkerChange};

/// Tells an observer of iterations in order of their ends, whichever worker runs them; of one end in the order in which it
/// heard of them. It holds back what is not [settled](Observer::settled) yet.
#[derive(Debug)]
pub struct Ordered<O> {
    observer: O,
    /// By end, then in order.
    held: BinaryHeap<Reverse<Held>>,
    heard: u64,
    /// When the last iteration of each worker ended that was heard of.
    last: BTreeMap<(Role, WorkerId), Time>,
}

#[derive(Debug)]
struct Held {
    at: (Time, u64),
    pool: Role,
    worker: WorkerId,
    what: What,
}

#[derive(Debug)]
enum What {
    Iteration(Box<Iteration>),
    /// One iteration of decodes, with when it began, its requests and the free blocks.
    Decode(Time, u64, u32),
    CaughtUp(CaughtUp),
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl<O: Observer> Ordered<O> {
    /// Puts the iterations that are reported to an observer in order.
    pub fn new(observer: O) -> Self {
        Self { observer, held: BinaryHeap::new(), heard: 0, last: BTreeMap::new() }
    }

    /// The observer, to which everything has been reported when the run is over.
    pub fn into_inner(self) -> O {
        self.observer
    }

    fn hold(&mut self, end: Time, pool: Role, worker: WorkerId, what: What) {
        self.heard += 1;
        self.last.insert((pool, worker), end);
        self.held.push(Reverse(Held { at: (end, self.heard), pool, worker, what }));
    }

    fn tell(&mut self, held: Held) {
        let Held { at: (end, _), pool, worker, what } = held;
        match what {
            What::Iteration(iteration) => self.observer.iteration(pool, worker, &iteration),
            What::Decode(start, requests, free_blocks) => {
                let (ends, gap) = (&[end], Duration::ZERO);
                let decodes = Decodes { start, ends, gap, requests, free_blocks, taken_blocks: 0 };
                self.observer.decoded(pool, worker, &decodes);
            }
            What::CaughtUp(caught_up) => self.observer.caught_up(pool, worker, caught_up),
        }
    }
}

impl<O: Observer> Observer for Ordered<O> {
    fn detail(&self) -> Detail {
        self.observer.detail()
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.hold(iteration.end, pool, worker, What::Iteration(Box::new(iteration.clone())));
    }

    /// At once, before the iteration that has it, which is told when it has ended.
    fn joined(&mut self, pool: Role, worker: WorkerId, joined: Joined, now: Time) {
        self.observer.joined(pool, worker, joined, now);
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        let (mut start, mut free_blocks) = (decodes.start, decodes.free_blocks);
        for &end in decodes.ends {
            self.hold(end, pool, worker, What::Decode(start, decodes.requests, free_blocks));
            start = end + decodes.gap;
            free_blocks = free_blocks.saturating_sub(decodes.taken_blocks);
        }
    }

    fn caught_up(&mut self, pool: Role, worker: WorkerId, caught_up: CaughtUp) {
        // Behind the iteration of this worker that was heard of last.
        let end = self.last.get(&(pool, worker)).copied().unwrap_or(Time::ZERO);
        self.hold(end, pool, worker, What::CaughtUp(caught_up));
    }

    fn settled(&mut self, until: Time) {
        while self.held.peek().is_some_and(|Reverse(held)| held.at.0 < until)
            && let Some(Reverse(held)) = self.held.pop()
        {
            self.tell(held);
        }
        self.observer.settled(until);
    }

    fn ended(&mut self, ended: &EndedRequest<'_>) {
        self.observer.ended(ended);
    }

    fn routed(&mut self, routed: &Routed) {
        self.observer.routed(routed);
    }

    fn worker_changed(&mut self, change: &WorkerChange) {
        self.observer.worker_changed(change);
    }

    fn is_interrupted(&self) -> bool {
        self.observer.is_interrupted()
    }

    fn recorded(&mut self, so_far: &SoFar<'_>, ended: u64) -> ControlFlow<()> {
        self.observer.recorded(so_far, ended)
    }

    fn progress(&mut self, now: Time, ended: u64) -> ControlFlow<()> {
        self.observer.progress(now, ended)
    }
}
