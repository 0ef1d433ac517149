//! What functions of Python raise while a run calls them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

/// The first exception of any function of a run. What a run calls cannot refuse, so it goes on without functions until
/// whoever follows it sees this and ends it.
#[derive(Debug, Default)]
pub(crate) struct Raised(Mutex<Option<PyErr>>);

impl Raised {
    /// Locks it.
    fn first(&self) -> MutexGuard<'_, Option<PyErr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is one.
    pub(crate) fn is_some(&self) -> bool {
        self.first().is_some()
    }

    /// Takes it out.
    pub(crate) fn take(&self) -> Option<PyErr> {
        self.first().take()
    }

    /// What a function answers; none once one has raised an exception.
    pub(crate) fn ask<T>(&self, call: impl FnOnce(Python<'_>) -> PyResult<T>) -> Option<T> {
        // An answer that comes after an exception must not hide it.
        if self.is_some() {
            return None;
        }
        match Python::attach(call) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.first().get_or_insert(error);
                None
            }
        }
    }
}
