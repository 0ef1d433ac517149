//! How often new requests are looked at: `--scheduler-recv-interval`.

use std::collections::VecDeque;

use crate::table::Slot;

/// What a batch of prompts counts for, where a decode batch counts for 1: after it the scheduler looks at once, unless
/// the interval is longer still. The default of `SGLANG_SCHEDULER_RECV_SKIPPER_WEIGHT_DEFAULT`.
const PROMPTS: u32 = 1000;

/// Requests that have come to the worker and that its scheduler has not looked at yet.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Decode batches from one look to the next.
    interval: u32,
    /// What the batches since the last look count for; below the interval.
    passed: u32,
    /// Whether the last decision was a batch of prompts.
    prompts: bool,
    requests: VecDeque<Slot>,
}

impl Inbox {
    pub(super) fn new(interval: u32) -> Self {
        Self { interval, passed: 0, prompts: false, requests: VecDeque::new() }
    }

    /// Whether the scheduler looks before every decision.
    pub(super) fn is_open(&self) -> bool {
        self.interval == 1
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.requests.push_back(slot);
    }

    /// Takes a request out; `false` if it is not there.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        let before = self.requests.len();
        self.requests.retain(|&other| other != slot);
        self.requests.len() < before
    }

    pub(super) fn pop(&mut self) -> Option<Slot> {
        self.requests.pop_front()
    }

    /// Whether the scheduler looks before this decision; one without anything to compute looks all the time.
    pub(super) fn looks(&mut self, is_idle: bool) -> bool {
        let weight = if self.prompts { PROMPTS } else { 1 };
        self.passed = self.passed.saturating_add(weight);
        let looks = is_idle || self.passed >= self.interval;
        if looks {
            self.passed = 0;
        }
        looks
    }

    /// What was decided.
    pub(super) fn decided(&mut self, prompts: bool) {
        self.prompts = prompts;
    }

    /// Decisions after a decode batch that find nobody: the next one after them looks and finds somebody.
    pub(super) fn quiet(&self) -> u64 {
        if self.requests.is_empty() { u64::MAX } else { u64::from(self.interval - 1 - self.passed) }
    }

    /// So many such decisions were made.
    pub(super) fn skip(&mut self, decisions: u64) {
        debug_assert!(decisions <= self.quiet() && !self.prompts);
        self.passed = ((u64::from(self.passed) + decisions) % u64::from(self.interval)) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_decode_after_the_other_is_as_many_at_once() {
        let (mut one, mut many) = (Inbox::new(7), Inbox::new(7));
        for decodes in [3, 1, 9, 0, 25] {
            (0..decodes).for_each(|_| {
                one.looks(false);
            });
            many.skip(decodes);
            assert_eq!(one.passed, many.passed);
        }
        one.push(Slot(0));
        let quiet = one.quiet();
        assert!((0..quiet).all(|_| !one.looks(false)) && one.looks(false));
    }

    #[test]
    fn a_batch_of_prompts_and_an_idle_worker_let_it_look() {
        let mut inbox = Inbox::new(30);
        assert!(!inbox.looks(false) && inbox.looks(true));
        inbox.decided(true);
        assert!(inbox.looks(false));
        inbox.decided(false);
        assert!(!inbox.looks(false));
    }
}
