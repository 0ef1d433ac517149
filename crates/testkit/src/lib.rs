//! What tests of several crates share: recordings to compare with, and a tally of how many were compared.
//!
//! A sample of recordings lies in this crate's `recordings` and is always there. More are found through two
//! environment variables: `SERVECAST_ORACLE` (recorded decisions) and `SERVECAST_DATA` (real traces). Tests that go
//! without them say so by [`outside`], and the test binary `recordings` of this crate prints the sum as the last one
//! of a `cargo test`.

mod tally;

use std::path::{Path, PathBuf};

pub use tally::{Tally, compared};

/// The variable that names a folder of recorded decisions.
pub const ORACLE: &str = "SERVECAST_ORACLE";

/// The variable that names a folder of real traces and recorded runs.
pub const DATA: &str = "SERVECAST_DATA";

/// The recordings of the repository: a folder each for `vllm`, `sglang` and `peer`.
pub fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings")
}

/// The folder that a variable names, which is no part of the repository.
///
/// `None` skips a test, or limits it to the sample. That is counted for the closing line, and a failure if
/// `SERVECAST_REQUIRE_ORACLE` is set.
///
/// # Panics
///
/// If the variable is not set, but required.
pub fn outside(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    if folder.is_none() {
        assert!(!is_required(), "{variable} is not set, but SERVECAST_REQUIRE_ORACLE is");
        tally::skipped(variable);
    }
    folder
}

/// Folders with recordings of a kind: in the sample, and those of `names` under `$SERVECAST_ORACLE`.
pub fn recordings(kind: &str, names: &[&str]) -> Vec<PathBuf> {
    let outside = outside(ORACLE);
    let others = outside.iter().flat_map(|root| names.iter().map(|name| root.join(name)));
    std::iter::once(sample().join(kind)).chain(others).collect()
}

/// Whether tests without recordings fail.
pub fn is_required() -> bool {
    std::env::var_os("SERVECAST_REQUIRE_ORACLE").is_some_and(|value| !value.is_empty() && value != "0")
}
