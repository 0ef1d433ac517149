//! What the crate promises to those who use it, one file per behaviour.

mod malformed;
mod properties;
mod recorded;

use std::path::PathBuf;

/// A folder of recorded inputs that is not part of the repository.
///
/// `None` if the variable is not set, which skips the test unless `SERVECAST_REQUIRE_ORACLE` is 1.
#[expect(clippy::disallowed_methods, reason = "tests find recorded inputs through the environment")]
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
fn recordings(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var(variable).ok().map(PathBuf::from);
    if folder.is_none() {
        let required = std::env::var("SERVECAST_REQUIRE_ORACLE").is_ok_and(|value| value == "1");
        assert!(!required, "{variable} is not set, but SERVECAST_REQUIRE_ORACLE is 1");
        eprintln!("skipped: {variable} is not set");
    }
    folder
}

#[expect(clippy::disallowed_methods, reason = "tests read recorded inputs")]
fn read(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn no_file_of_tests_is_forgotten() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").expect("only sources are here");
        assert!(module == "main" || include_str!("main.rs").contains(&format!("mod {module};")), "{name}");
    }
}
