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
    "cluster",
    "calibrate",
    "report",
    "cli",
    "python",
    "capi",
    "testkit",
];

/// Crates that must not know each other although one stands before the other.
const STRANGERS: &[(&str, &str)] = &[("router", "engine"), ("router", "latency"), ("workload", "engine")];

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
            let Some(dependency) = dependency.strip_prefix("servecast-") else { continue };
            assert!(ORDER[..position].contains(&dependency), "{name} must not depend on {dependency}");
            assert!(!STRANGERS.contains(&(&name, dependency)), "{name} must not know {dependency}");
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
