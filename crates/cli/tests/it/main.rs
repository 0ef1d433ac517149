//! The `servecast` binary, from outside.

mod bad_input;
mod help;
mod interrupt;
mod oracle_bad;
mod output;
mod replay;
mod sandbox;
mod settings;
mod trace;

/// A test file that nobody declares would never run.
#[test]
fn no_file_is_forgotten() {
    let declared = include_str!("main.rs");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(name == "main" || declared.contains(&format!("mod {name};")), "{name}");
    }
}
