//! The shape of the workspace: who may depend on whom, and no test file that nobody runs.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates in the order of `ARCHITECTURE.md`: each may depend on those before it.
const ORDER: &[&str] = &[
    "types",
    "latency",
    "ops",
    "engine",
    "router",
    "workload",
    "record",
    "cluster",
    "calibrate",
    "report",
    "recommend",
    "config",
    "servecast",
    "live",
    "cli",
    "python",
    "capi",
    "testkit",
];

/// Crates that must not know each other although one stands before the other.
const STRANGERS: &[(&str, &str)] = &[
    ("router", "engine"),
    ("router", "latency"),
    ("workload", "engine"),
    ("report", "cluster"),
    ("recommend", "cluster"),
];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn crates_depend_only_on_those_above_them() {
    for entry in fs::read_dir(crates()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let manifest = fs::read_to_string(crates().join(&name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let position = ORDER.iter().position(|known| *known == name);
        let position =
            position.unwrap_or_else(|| panic!("crate {name} is missing in ARCHITECTURE.md's order"));
        for dependency in manifest["dependencies"].as_table().unwrap().keys() {
            // The facade is called as its folder is; others have it in front of theirs.
            let dependency = dependency.strip_prefix("servecast-").unwrap_or(dependency);
            if !ORDER.contains(&dependency) {
                continue;
            }
            assert!(ORDER[..position].contains(&dependency), "{name} must not depend on {dependency}");
            assert!(!STRANGERS.contains(&(&name, dependency)), "{name} must not know {dependency}");
        }
    }
}

/// The wheel brings the command line along; what Python calls as a library does not go through it.
#[test]
fn python_calls_the_command_line_for_its_main_only() {
    let sources = crates().join("python/src");
    let mut calls = Vec::new();
    for entry in fs::read_dir(&sources).unwrap().chain(fs::read_dir(sources.join("router")).unwrap()) {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = fs::read_to_string(&path).unwrap();
            calls.extend(text.lines().filter(|line| line.contains("servecast_cli")).map(str::to_owned));
        }
    }
    assert_eq!(
        calls.iter().map(|line| line.trim()).collect::<Vec<_>>(),
        ["py.detach(|| servecast_cli::run_to_code(arguments))"]
    );
}

/// What an error says of settings would be lost in a text that is made of its text.
#[test]
fn failures_are_made_of_errors_and_not_of_their_texts() {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = ORDER.iter().map(|name| crates().join(name).join("src")).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    for path in sources {
        let source = fs::read_to_string(&path).unwrap();
        for (at, made) in source.match_indices("Failure::user(") {
            let made = &source[at + made.len()..];
            let made = &made[..made.find([';', '?']).unwrap_or(made.len())];
            for text in ["{error", "error.to_string()", "chain("] {
                assert!(!made.contains(text), "{}: Failure::user({made}", path.display());
            }
        }
    }
}

#[test]
fn every_test_file_is_run() {
    for entry in fs::read_dir(crates()).unwrap() {
        let tests = entry.unwrap().path().join("tests/it");
        let Ok(main) = fs::read_to_string(tests.join("main.rs")) else { continue };
        for file in fs::read_dir(&tests).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") else { continue };
            assert!(main.contains(&format!("mod {module};")), "{} does not run {name}", tests.display());
        }
    }
}

/// Who cites a release names the release that it is.
#[test]
fn the_citation_is_of_this_release() {
    let citation = fs::read_to_string(crates().parent().unwrap().join("CITATION.cff")).unwrap();
    let version = concat!("\nversion: ", env!("CARGO_PKG_VERSION"), "\n");
    assert!(citation.contains(version), "{version}: {citation}");
}
