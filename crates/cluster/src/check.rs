//! When the invariants of an engine are checked in a checked run.
//!
//! A check looks at all blocks that a worker has used, however little happens in an iteration. So it is made only when the
//! work since the last one has paid for it, and a run takes a few times as long with checks as without, whatever the size
//! of its pools.

/// What a check may look at for each report of an iteration: to look at a block takes a small part of the time of an
/// iteration.
const LOOKED_AT_PER_REPORT: u64 = 16;

/// The checks of one engine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checks {
    /// What the last check looked at and nothing has paid for yet.
    unpaid: u64,
}

impl Checks {
    /// Whether the next check is due after so many further reports of iterations.
    pub(crate) fn are_due(&mut self, reports: u64) -> bool {
        self.unpaid = self.unpaid.saturating_sub(reports.saturating_mul(LOOKED_AT_PER_REPORT));
        reports > 0 && self.unpaid == 0
    }

    /// A check was made.
    pub(crate) fn made(&mut self, looked_at: u64) {
        self.unpaid = looked_at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many checks are made in that many reports, if each looks at `size` blocks.
    fn checks(reports: u64, size: u64) -> u64 {
        let mut checks = Checks::default();
        let is_checked = |_: &u64| {
            let are_due = checks.are_due(1);
            if are_due {
                checks.made(size);
            }
            are_due
        };
        (0..reports).filter(is_checked).count() as u64
    }

    #[test]
    fn what_checks_look_at_grows_with_what_happens_and_not_with_the_pool() {
        let reports = 10_000;
        for size in [0, 10, 16, 100, 1_000, 16_384, 1_000_000] {
            let looked_at = checks(reports, size) * size;
            assert!(looked_at <= reports * LOOKED_AT_PER_REPORT + size, "{size} blocks: {looked_at}");
        }
        assert_eq!(
            (checks(reports, 0), checks(reports, 16)),
            (reports, reports),
            "small pools are always checked"
        );
        assert_eq!(checks(reports, 1_000_000), 1, "large ones at least once");
    }

    #[test]
    fn nothing_is_checked_before_something_happens() {
        assert!(!Checks::default().are_due(0));
    }
}
