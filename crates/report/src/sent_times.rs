//! When the requests of a run were sent, as far as a [window](Window) asks, while the run goes on.
//!
//! Which requests a window leaves out goes by when they were sent, and of those that were sent at one time by their numbers.
//! At the beginning that is known of a request when it ends; at the end, when so much was sent behind it.

use std::collections::VecDeque;

use servecast_types::Time;

use crate::window::{Margin, Window};

/// When requests were sent; told in order of time, of each before it ends.
#[derive(Debug)]
pub struct SentTimes {
    window: Window,
    count: u64,
    first: Time,
    latest: Time,
    /// How many were sent before `latest`.
    before_latest: u64,
    /// Of the last one that a number at the beginning leaves out, when it was sent, and how many were sent before that.
    warmup: Option<(Time, u64)>,
    /// The same of the latest ones, as many as a number at the end leaves out.
    cooldown: VecDeque<(Time, u64)>,
    /// When the last one was sent of those that were [found](SentTimes::is_in_warmup) to be left out at the beginning, and how
    /// many of these were sent then.
    found_before: (Time, u64),
    /// Requests that were sent with the first one that is left out at the end, and are not.
    kept_at_end: u64,
}

impl SentTimes {
    /// No requests yet.
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            count: 0,
            first: Time::ZERO,
            latest: Time::ZERO,
            before_latest: 0,
            warmup: None,
            cooldown: VecDeque::new(),
            found_before: (Time::ZERO, 0),
            kept_at_end: 0,
        }
    }

    /// A request is sent.
    ///
    /// # Panics
    /// If one was sent later.
    pub fn add(&mut self, at: Time) {
        assert!(at >= self.latest, "requests are sent in order of time");
        if self.count == 0 {
            self.first = at;
        }
        if at > self.latest {
            (self.latest, self.before_latest) = (at, self.count);
        }
        self.count += 1;
        if self.window.warmup == Some(Margin::Requests(self.count)) {
            self.warmup = Some((at, self.before_latest));
        }
        if let Some(Margin::Requests(number)) = self.window.cooldown {
            self.cooldown.push_back((at, self.before_latest));
            while self.cooldown.len() as u64 > number {
                self.cooldown.pop_front();
            }
        }
    }

    /// Whether a request is left out at the beginning; asked once of each that has ended, in order of their numbers.
    pub(crate) fn is_in_warmup(&mut self, arrival: Time) -> bool {
        let (last, number) = self.found_before;
        let found_at_once = if last == arrival { number } else { 0 };
        let is_before = match self.window.warmup {
            Some(Margin::Time(time)) => arrival.since(self.first) < time,
            Some(Margin::Requests(0) | Margin::Unsteady) | None => false,
            Some(Margin::Requests(number)) => match self.warmup {
                // So many were not sent yet, so it is one of them.
                None => true,
                Some((boundary, before)) => {
                    arrival < boundary || (arrival == boundary && found_at_once < number - before)
                }
            },
        };
        if is_before && arrival >= last {
            self.found_before = (arrival, found_at_once + 1);
        }
        is_before
    }

    /// Whether a request may be left out at the end, for all that is known so far.
    pub(crate) fn may_be_in_cooldown(&self, arrival: Time) -> bool {
        match self.window.cooldown {
            Some(Margin::Time(time)) => self.latest.since(arrival) < time,
            Some(Margin::Requests(0) | Margin::Unsteady) | None => false,
            Some(Margin::Requests(number)) => match self.cooldown.front() {
                Some((boundary, _)) if self.cooldown.len() as u64 == number => arrival >= *boundary,
                _ => true,
            },
        }
    }

    /// Whether a request that may be left out at the end is, when all were sent; asked once of each of them, in order of their
    /// numbers.
    pub(crate) fn is_in_cooldown(&mut self, arrival: Time) -> bool {
        let Some(Margin::Requests(number)) = self.window.cooldown else { return true };
        let Some(&(boundary, before)) = self.cooldown.front() else { return true };
        if arrival > boundary || (self.cooldown.len() as u64) < number {
            return true;
        }
        let kept = self.count - number - before;
        self.kept_at_end += 1;
        self.kept_at_end > kept
    }
}
