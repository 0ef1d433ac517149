//! Figures that a run may have no sample of.

use std::ops::Deref;

/// A figure, or nothing where the run has no sample of it: null in JSON, `N/A` in tables, and never 0, which would
/// read as a good latency.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measured<T = f64>(pub Option<T>);

impl<T> Deref for Measured<T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.0
    }
}

impl<T> From<T> for Measured<T> {
    fn from(figure: T) -> Self {
        Self(Some(figure))
    }
}
