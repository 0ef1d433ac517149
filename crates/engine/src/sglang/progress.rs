//! What the engine counts as computed, by which `hrrn` tells how long requests have waited.

/// Tokens that batches have had so far.
///
/// As in the real engine (0.5.23), a decode batch counts as many tokens as the prefill batch did that it grew out of: the first
/// one that its requests came from when nobody else ran.
#[derive(Debug, Default)]
pub(super) struct Progress {
    tokens: u64,
    /// Tokens of the last prefill batch, decodes that rode along among them.
    last_prefill: u64,
    each_decode: u64,
    /// Whether somebody of the running batch has ended since the last decision, up to which it still counts as one that runs.
    left: bool,
}

impl Progress {
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// A prefill batch was decided.
    pub(super) fn prefilled(&mut self, tokens: u64) {
        self.tokens += tokens;
        self.last_prefill = tokens;
    }

    /// So many decode batches were decided.
    pub(super) fn decoded(&mut self, batches: u64) {
        self.tokens += batches * self.each_decode;
        self.left = false;
    }

    /// A running request has ended.
    pub(super) fn left(&mut self) {
        self.left = true;
    }

    /// A decision begins, with what the last prefill batch computed. `begins`: whether these requests run from now on, and nobody
    /// else does.
    pub(super) fn merged(&mut self, begins: bool) {
        if begins && !self.left {
            self.each_decode = self.last_prefill;
        }
        self.left = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decode_counts_as_much_as_the_prompts_that_its_batch_began_with() {
        let mut progress = Progress::default();
        progress.prefilled(226);
        progress.merged(true);
        progress.decoded(3);
        assert_eq!(progress.tokens(), 4 * 226);
        progress.prefilled(10);
        progress.merged(false);
        progress.decoded(1);
        assert_eq!(progress.tokens(), 5 * 226 + 10);
    }

    #[test]
    fn a_batch_goes_on_with_newcomers_if_its_last_request_ended_only_just_now() {
        for (ended, each) in [(false, 10), (true, 226)] {
            let mut progress = Progress::default();
            progress.prefilled(226);
            progress.merged(true);
            progress.prefilled(10);
            if ended {
                progress.left();
            }
            progress.merged(true);
            progress.decoded(1);
            assert_eq!(progress.tokens(), 236 + each);
        }
    }
}
