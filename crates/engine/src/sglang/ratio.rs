//! How much memory SGLang reserves for the output of running requests.

/// What share of their remaining output running requests are expected to produce, by which admission reserves memory
/// for them.
///
/// It starts high, decays with every decode iteration, and is set anew when memory ran out all the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NewTokenRatio {
    current: f64,
    initial: f64,
    least: f64,
    decay: f64,
}

/// Share at the start, for a conservativeness of 1.
const INITIAL: f64 = 0.7;
/// Least share, in terms of the one at the start.
const LEAST: f64 = 0.14;
/// Decode iterations from the one to the other.
const DECAY_STEPS: f64 = 600.0;
/// Tokens that every request is expected to produce before memory runs out again.
const RETRACT_STEPS: u64 = 20;

impl NewTokenRatio {
    pub(super) fn new(schedule_conservativeness: f64) -> Self {
        let initial = (INITIAL * schedule_conservativeness).min(1.0);
        let least = (initial * LEAST).min(1.0);
        Self { current: initial, initial, least, decay: (initial - least) / DECAY_STEPS }
    }

    pub(super) fn current(self) -> f64 {
        self.current
    }

    /// A decode iteration found enough memory.
    pub(super) fn decay(&mut self) {
        self.current = (self.current - self.decay).max(self.least);
    }

    /// The worker is idle.
    pub(super) fn reset(&mut self) {
        self.current = self.initial;
    }

    /// Memory ran out; `requests` are left, which have generated `outputs` tokens of at most `max_new_tokens`.
    pub(super) fn estimate(&mut self, requests: u64, outputs: u64, max_new_tokens: u64) {
        let estimate = (outputs + RETRACT_STEPS * requests) as f64 / (max_new_tokens + 1) as f64;
        self.current = estimate.min(1.0);
    }

    /// Tokens that a retraction leaves free for `requests` requests that go on.
    pub(super) fn headroom(requests: usize) -> u64 {
        RETRACT_STEPS * requests as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_decays_to_a_floor_and_starts_over_when_idle() {
        let mut ratio = NewTokenRatio::new(1.0);
        assert!((ratio.current() - 0.7).abs() < 1e-15);
        ratio.decay();
        assert!((ratio.current() - 0.698_996_666_666_666_6).abs() < 1e-15);
        (0..1000).for_each(|_| ratio.decay());
        assert!((ratio.current() - 0.098).abs() < 1e-12);
        ratio.reset();
        assert!((ratio.current() - 0.7).abs() < 1e-15);
        assert!((NewTokenRatio::new(5.0).current() - 1.0).abs() < 1e-15);
    }

    #[test]
    fn a_retraction_sets_it_by_what_is_left() {
        let mut ratio = NewTokenRatio::new(0.1);
        ratio.estimate(2, 100, 279);
        assert!((ratio.current() - 0.5).abs() < 1e-15);
        ratio.estimate(2, 300, 279);
        assert!((ratio.current() - 1.0).abs() < 1e-15);
    }
}
