//! Decodes between prefill batches: `--prefill-decode-interval`.

/// After a prefill batch, so many decisions try no prefill: they decode, or do nothing if nobody runs.
#[derive(Debug)]
pub(super) struct PrefillInterval {
    decodes: u32,
    /// Running requests below which it does not hold.
    least_running: u32,
    /// Decisions that are left.
    left: u32,
}

impl PrefillInterval {
    pub(super) fn new(decodes: u32, least_running: u32) -> Self {
        Self { decodes, least_running, left: 0 }
    }

    /// Whether this decision tries no prefill.
    pub(super) fn holds(&mut self, running: usize) -> bool {
        let held = self.left;
        self.skip(1, running as u64);
        held > 0 && running >= self.least_running as usize
    }

    /// Whether the next decision may be one that tries none.
    pub(super) fn is_open(&self) -> bool {
        self.left == 0
    }

    /// A prefill batch was formed.
    pub(super) fn prefilled(&mut self) {
        self.left = self.decodes;
    }

    /// All decisions that are left have been made.
    pub(super) fn end(&mut self) {
        self.left = 0;
    }

    /// So many decisions were decodes of `running` requests each.
    pub(super) fn skip(&mut self, decisions: u64, running: u64) {
        let passed = if running < u64::from(self.least_running) { u64::MAX } else { decisions };
        self.left -= passed.min(self.left.into()) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefills_wait_for_so_many_decodes_while_enough_requests_run() {
        let mut interval = PrefillInterval::new(3, 2);
        assert!(!interval.holds(5), "nothing was computed yet");
        interval.prefilled();
        assert!(interval.holds(2) && interval.holds(3));
        assert!(!interval.holds(1), "too few run");
        assert!(!interval.holds(2), "and it starts with the next prefill only");
        interval.prefilled();
        interval.skip(2, 2);
        assert!(interval.holds(2) && !interval.holds(2));
    }
}
