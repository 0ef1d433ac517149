//! Whether the requests of a worker take memory from each other and none gets any further.

use servecast_engine::Iteration;
use servecast_types::Time;

/// Iterations in a row that preempt requests while nobody gets a token, after which a run is given up.
///
/// A preemption makes room for another request, which gets a token unless it is preempted itself. The schedulers give up a
/// request to which that happens again and again, vLLM's after 128 times, so that as many as thousands of requests side by side
/// come to less than this.
const MOST_FRUITLESS_PREEMPTIONS: u32 = 1_000_000;

/// One at the instant of the one before counts so much less: a deployment that stays at one instant, since passes take no time, is
/// [given up for that](crate::RunError::Endless) before.
const PER_INSTANT: u32 = 10;

/// What one worker has done for nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Livelock {
    /// Iterations that preempted requests since a request got any further, by how much they count.
    preempting: u32,
    /// When the last of them ended.
    last: Time,
}

impl Livelock {
    /// Somebody got a token.
    pub(crate) fn progressed(&mut self) {
        self.preempting = 0;
    }

    pub(crate) fn iteration_ended(&mut self, iteration: &Iteration) {
        let Iteration { emitted, decoded, joined, rejected, finished, preempted, .. } = iteration;
        if !emitted.is_empty() || *decoded > 0 {
            self.progressed();
        } else if !preempted.is_empty() {
            // Who begins to decode has its token, who ends makes room for good.
            let progressed = !(joined.is_empty() && rejected.is_empty() && finished.is_empty());
            let counts = if self.last < iteration.end { PER_INSTANT } else { 1 };
            self.preempting = if progressed { 0 } else { self.preempting.saturating_add(counts) };
            self.last = iteration.end;
        }
    }

    /// After how many iterations it is clear that this goes on for ever, if it is.
    pub(crate) fn found(&self) -> Option<u32> {
        let iterations = self.preempting / PER_INSTANT;
        (iterations >= MOST_FRUITLESS_PREEMPTIONS).then_some(iterations)
    }
}

#[cfg(test)]
mod tests {
    use servecast_engine::Emitted;
    use servecast_types::RequestId;

    use super::*;

    /// Iterations that preempt until a livelock is found, if one in the middle emits tokens, and if all end at one instant.
    fn found_after(emits: bool, at_once: bool) -> u32 {
        let preempted = vec![RequestId(0)];
        let mut preempts = Iteration { preempted, ..Iteration::default() };
        let computes = Iteration::default();
        let emitted = vec![Emitted { id: RequestId(1), tokens: 1 }];
        let sends = Iteration { emitted, ..preempts.clone() };
        let (mut livelock, mut iterations) = (Livelock::default(), 0);
        while livelock.found().is_none() {
            iterations += 1;
            preempts.end = if at_once { Time::ZERO } else { Time::from_ns(iterations.into()) };
            livelock.iteration_ended(&preempts);
            livelock.iteration_ended(if emits && iterations == 1_000 { &sends } else { &computes });
        }
        iterations
    }

    #[test]
    fn preemptions_without_a_token_in_between_are_a_livelock() {
        let most = MOST_FRUITLESS_PREEMPTIONS;
        assert_eq!(found_after(false, false), most);
        assert_eq!(found_after(true, false), most + 1_000, "a token is progress");
        assert_eq!(found_after(false, true), most * PER_INSTANT, "at one instant");
    }
}
