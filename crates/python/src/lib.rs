//! `servecast._native`: what the Python package `servecast` is a coat for.
//!
//! Settings and results cross as JSON, so that Python reads, checks and shows what the command line does. Exceptions
//! are classes of `servecast._errors`. The interpreter is released while a replay runs.

mod columns;
mod errors;
mod hashes;
mod latency;
mod policy;
mod raised;
mod recommend;
mod replay;
mod router;
mod settings;

use std::ffi::OsString;

use pyo3::prelude::*;

/// The native half of servecast.
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::hashes::{block_hashes, sequence_hashes};
    #[pymodule_export]
    use super::latency::Batch;
    #[pymodule_export]
    use super::main;
    #[pymodule_export]
    use super::policy::{Candidate, RoutedRequest, WaitingRequest};
    #[pymodule_export]
    use super::recommend::{Answer, find, similar_argument, simulate};
    #[pymodule_export]
    use super::replay::{Compared, Outcome, differences, load_rows, run, run_many};
    #[pymodule_export]
    use super::router::Router;
    #[pymodule_export]
    use super::settings::{check_settings, default_settings};

    /// The release of servecast.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "this is its name in Python")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}

/// Runs the command line; returns its exit code.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| servecast_cli::run_to_code(arguments))
}
