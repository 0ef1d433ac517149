//! Refusals as Python exceptions.

use pyo3::prelude::*;
use pyo3::types::PyString;
use servecast::{Refusal, RefusalKind};

/// The exception for a refusal.
pub(crate) fn exception(py: Python<'_>, refusal: &Refusal) -> PyErr {
    let class = match refusal.kind {
        RefusalKind::Config => "ConfigError",
        RefusalKind::Trace => "TraceError",
        RefusalKind::Run | RefusalKind::Interrupted => "ReplayError",
    };
    let made = make(py, class, &refusal.message, refusal.hint.as_deref());
    made.map_or_else(|error| error, PyErr::from_value)
}

/// The exception for a setting that cannot be used.
pub(crate) fn config(py: Python<'_>, message: &str) -> PyErr {
    let refusal = Refusal { kind: RefusalKind::Config, message: message.to_owned(), hint: None };
    exception(py, &refusal)
}

/// The exception for what a router refuses.
pub(crate) fn router(py: Python<'_>, message: &str) -> PyErr {
    make(py, "RouterError", message, None).map_or_else(|error| error, PyErr::from_value)
}

fn make<'py>(py: Python<'py>, class: &str, message: &str, hint: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import("servecast._errors")?.getattr(PyString::new(py, class))?;
    class.call1((message, hint))
}
