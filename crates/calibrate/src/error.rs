//! Why nothing can be fitted to what was measured.

/// Why no prices can be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// Everything was measured under one load.
    #[error(
        "all {samples} {what} were measured at one load level ({level} at a time), but prices of load need at least 2: \
         measure at another rate or concurrency as well"
    )]
    OneLevel {
        /// How many.
        samples: usize,
        /// Requests or iterations.
        what: &'static str,
        /// Requests under way.
        level: String,
    },
    /// Too few different situations.
    #[error(
        "there are {points} different load levels and lengths, but {prices} prices: measure at more load levels or with \
         other lengths, or fit fewer prices (--phases one)"
    )]
    TooFew {
        /// Combinations of load and lengths, each to a factor of two.
        points: usize,
        /// Prices to fit.
        prices: usize,
    },
    /// Nothing was measured.
    #[error("no {what} to fit prices to: {remedy}")]
    Nothing {
        /// Requests or iterations.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A log that cannot be of the requests.
    #[error(
        "{log}: the iterations are not of these requests: give the log with the requests of the same run, with every request \
         in them, or give it alone"
    )]
    OtherRun {
        /// What it is called.
        log: String,
    },
    /// Times of single tokens are missing.
    #[error(
        "{log}: iterations and requests together need the time of each token: rows with `gaps_ms` (or `itls`), of one engine \
         that computes prompts in order of arrival"
    )]
    NoTokenTimes {
        /// A log.
        log: String,
    },
    /// The simulated engine cannot do what the real one did.
    #[error("{run}: {problem}")]
    Simulation {
        /// What was simulated.
        run: String,
        /// Why it could not be.
        problem: String,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}
