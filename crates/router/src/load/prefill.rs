//! Prompt tokens that a rank still has to compute.

use std::collections::VecDeque;

use servecast_types::{Duration, Time};

use super::blocks::BookingId;

/// Outstanding prefills of a rank, in the order in which they were sent.
///
/// A prefill with a predicted duration shrinks while it is the engine's turn to compute it: the oldest first, then
/// the one behind it, each over its own duration. One without a prediction stays whole until it is reported as done,
/// and so does everything behind it. All in whole nanoseconds and tokens, rounded up.
///
/// ```text
///  outstanding = Σ tokens − Σ tokens of those whose turn is over − ⌊tokens · elapsed / duration⌋ of the one whose turn it is
/// ```
///
/// When a prefill ends, the time that it was given leaves with it, so nothing jumps: what the next one was given
/// already it keeps, and one whose turn had not come starts at that moment.
#[derive(Debug, Clone, Default)]
pub(super) struct PrefillQueue {
    entries: VecDeque<Prefill>,
    tokens: u64,
    /// When the turn of the oldest began.
    since: Time,
    without_prediction: usize,
}

#[derive(Debug, Clone, Copy)]
struct Prefill {
    booking: BookingId,
    tokens: u32,
    duration: Option<Duration>,
}

impl PrefillQueue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tokens of all of them, without any decay.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Whether the outstanding tokens become fewer by themselves: only if the oldest has a predicted duration.
    pub(super) fn decays(&self) -> bool {
        self.entries.front().is_some_and(|oldest| oldest.duration.is_some())
    }

    pub(super) fn push(&mut self, booking: BookingId, tokens: u32, duration: Option<Duration>, now: Time) {
        if self.entries.is_empty() {
            self.since = now;
        } else if self.without_prediction == 0 {
            // The engine may have run out of work in the meantime; idle time is nobody's progress.
            let all = self.time_before(self.entries.len()).unwrap_or(Duration::ZERO);
            if now.since(self.since) > all {
                self.since = Time::from_ns(now.as_ns() - all.as_ns());
            }
        }
        self.tokens += u64::from(tokens);
        self.without_prediction += usize::from(duration.is_none());
        self.entries.push_back(Prefill { booking, tokens, duration });
    }

    /// Takes a prefill out, done or not; `false` if it is not there.
    pub(super) fn remove(&mut self, booking: BookingId, now: Time) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.booking == booking) else { return false };
        let elapsed = now.since(self.since);
        let given = match (self.time_before(at), self.entries[at].duration) {
            (None, _) => Duration::ZERO,
            (Some(before), None) => elapsed - before,
            (Some(before), Some(duration)) => (elapsed - before).min(duration),
        };
        self.since = self.since + given;
        let entry = self.entries.remove(at).expect("its position was just found");
        self.tokens -= u64::from(entry.tokens);
        self.without_prediction -= usize::from(entry.duration.is_none());
        true
    }

    /// Time that the first `count` prefills take together; none if one of them has no prediction.
    fn time_before(&self, count: usize) -> Option<Duration> {
        self.entries.iter().take(count).try_fold(Duration::ZERO, |sum, entry| Some(sum + entry.duration?))
    }

    /// Tokens outstanding at `now`.
    pub(super) fn outstanding(&self, now: Time) -> u64 {
        let mut left = now.since(self.since);
        let mut done = 0;
        for entry in &self.entries {
            let Some(duration) = entry.duration else { break };
            if left < duration {
                let part = u128::from(entry.tokens) * u128::from(left.as_ns()) / u128::from(duration.as_ns());
                return self.tokens - done - part as u64;
            }
            left = left - duration;
            done += u64::from(entry.tokens);
        }
        self.tokens - done
    }

    /// The first moment at which at most `limit` tokens are outstanding by decay alone, if there is one.
    pub(super) fn falls_to(&self, limit: u64) -> Option<Time> {
        let mut excess = self.tokens.saturating_sub(limit);
        let mut at = self.since;
        for entry in &self.entries {
            if excess == 0 {
                break;
            }
            let duration = entry.duration?;
            if excess < u64::from(entry.tokens) {
                let time =
                    (u128::from(excess) * u128::from(duration.as_ns())).div_ceil(u128::from(entry.tokens));
                return Some(at + Duration::from_ns(time as u64));
            }
            at = at + duration;
            excess -= u64::from(entry.tokens);
        }
        (excess == 0).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(secs: u64) -> Time {
        Time::from_ns(secs * S)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_ns(secs * S)
    }

    fn outstanding(queue: &PrefillQueue, times: &[u64]) -> Vec<u64> {
        times.iter().map(|&time| queue.outstanding(at(time))).collect()
    }

    #[test]
    fn the_oldest_decays_first_and_then_the_next() {
        let mut queue = PrefillQueue::default();
        queue.push(1, 100, Some(secs(10)), at(0));
        queue.push(2, 60, Some(secs(6)), at(2));
        assert_eq!(outstanding(&queue, &[2, 5, 10, 12, 16, 60]), [140, 110, 60, 40, 0, 0]);
        assert_eq!(queue.falls_to(140), Some(at(2)));
        assert_eq!(queue.falls_to(60), Some(at(10)));
        assert_eq!(queue.falls_to(40), Some(at(12)));
        assert_eq!(queue.falls_to(0), Some(at(16)));
    }

    #[test]
    fn the_next_starts_when_the_oldest_is_done() {
        let mut queue = PrefillQueue::default();
        queue.push(1, 100, Some(secs(10)), at(0));
        queue.push(2, 40, Some(secs(8)), at(0));
        assert!(queue.remove(1, at(3)));
        assert_eq!(outstanding(&queue, &[3, 5, 11, 20]), [40, 30, 0, 0]);
        assert!(!queue.remove(1, at(3)), "a prefill ends once");
    }

    #[test]
    fn a_late_end_of_the_oldest_does_not_give_the_next_its_tokens_back() {
        let mut queue = PrefillQueue::default();
        queue.push(1, 100, Some(secs(10)), at(0));
        queue.push(2, 60, Some(secs(6)), at(2));
        assert!(queue.remove(1, at(12)));
        assert_eq!(outstanding(&queue, &[12, 14, 16]), [40, 20, 0]);
    }

    #[test]
    fn one_that_ends_out_of_order_takes_its_time_with_it() {
        let mut queue = PrefillQueue::default();
        queue.push(1, 100, Some(secs(10)), at(0));
        queue.push(2, 60, Some(secs(6)), at(0));
        queue.push(3, 30, Some(secs(3)), at(0));
        assert!(queue.remove(2, at(12)));
        assert_eq!(outstanding(&queue, &[12, 13, 15]), [30, 20, 0]);
    }

    #[test]
    fn whole_tokens_are_rounded_up_without_float_noise() {
        let mut queue = PrefillQueue::default();
        queue.push(1, 30, Some(secs(6)), at(0));
        assert_eq!(outstanding(&queue, &[2]), [20], "1 - 2/6 in floating point would give 21");
        assert_eq!(queue.outstanding(Time::from_ns(1)), 30);
    }

    #[test]
    fn without_a_prediction_nothing_shrinks_from_there_on() {
        let mut queue = PrefillQueue::default();
        queue.push(1, 100, Some(secs(10)), at(0));
        queue.push(2, 50, None, at(0));
        queue.push(3, 40, Some(secs(4)), at(0));
        assert_eq!(outstanding(&queue, &[5, 10, 100]), [140, 90, 90]);
        assert_eq!(queue.falls_to(89), None);
        assert!(queue.remove(2, at(100)));
        assert_eq!(outstanding(&queue, &[100, 102]), [40, 20], "its clock starts now");
    }

    #[test]
    fn idle_time_is_nobodys_progress() {
        let mut queue = PrefillQueue::default();
        queue.push(1, 100, Some(secs(10)), at(0));
        queue.push(2, 60, Some(secs(6)), at(20));
        assert_eq!(outstanding(&queue, &[20, 23, 26]), [60, 30, 0]);
        queue.push(3, 7, Some(secs(0)), at(30));
        assert_eq!(outstanding(&queue, &[30]), [0], "no time at all is over at once");
    }
}
