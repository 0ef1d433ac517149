//! Why a number is no time.

/// A number of milliseconds that is no time.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{ms} ms is not a time that fits 64-bit nanoseconds (0 to 1.8e13 ms)")]
pub struct TimeError {
    /// The offending number.
    pub ms: f64,
}
