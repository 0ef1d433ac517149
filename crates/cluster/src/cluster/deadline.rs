//! What is due in a deployment, and in which order.

use std::cmp::Ordering;

use servecast_types::Time;

use super::Place;

/// What is due, in the order in which it happens: by time, then by class of event, then by worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Time,
    /// The class of the event above the worker: within one instant, each is there once.
    rank: u64,
    pub(super) event: Event,
}

impl Deadline {
    /// `order`: the number of the worker, below 2⁶².
    pub(super) fn new(at: Time, class: Class, order: u64, event: Event) -> Self {
        Self { at, rank: (class as u64) << 62 | order, event }
    }

    /// Whether an iteration of a worker ends.
    pub(super) fn ends_iteration_of(&self, worker: Place) -> bool {
        matches!(self.event, Event::IterationEnd(place) if place == worker)
    }

    /// Whether a worker is ready.
    pub(super) fn starts(&self, worker: Place) -> bool {
        matches!(self.event, Event::Ready(place) if place == worker)
    }

    pub(super) fn key(&self) -> (Time, u64) {
        (self.at, self.rank)
    }
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Deadline {}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// The oldest iteration in flight of a worker ends.
    IterationEnd(Place),
    /// A copy to or from the memory of a worker's host ends.
    CopyEnd(Place),
    /// A worker takes requests from now on.
    Ready(Place),
}

/// Which events come first within one instant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Class {
    /// What decode workers have done, so that their router knows of it when prompts are handed off.
    LaterStage,
    FirstStage,
    Copies,
    Ready,
}
