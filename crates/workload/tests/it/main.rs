//! What the crate promises to those who use it, one file per behaviour.

mod benchmarks;
mod damaged;
mod documented;
mod formats;
mod graph;
mod lengths;
mod malformed;
mod mutations;
mod properties;
mod recorded;
mod resemblance;
mod streamed;
mod texts_and_lengths;
mod turns;
mod units;

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
