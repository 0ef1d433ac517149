//! Checks of invariants.

/// Ends a check with what is wrong, formatted as by [`format!`], unless a condition holds.
///
/// For functions that return a `Result<_, String>`: an invariant that does not hold becomes the error of a run, never a
/// panic.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
