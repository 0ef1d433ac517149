//! The committed header is that of the code.

use std::fs;
use std::path::Path;

/// Files with functions and types, in the order in which the header has them.
const SOURCES: [&str; 7] =
    ["types.rs", "status.rs", "router.rs", "workers.rs", "events.rs", "requests.rs", "inspect.rs"];

#[test]
fn the_header_is_that_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    let builder =
        SOURCES.iter().fold(builder, |builder, source| builder.with_src(root.join("src").join(source)));
    let mut generated = Vec::new();
    builder.generate().unwrap().write(&mut generated);
    let generated = String::from_utf8(generated).unwrap();

    let committed = root.join("include/servecast_router.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&committed, &generated).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&committed).unwrap_or_default(),
        generated,
        "{} is not what cbindgen makes: UPDATE_HEADER=1 cargo test -p servecast-capi --lib header",
        committed.display()
    );
}

#[test]
fn every_function_is_in_a_source_of_the_header() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in fs::read_dir(&source).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if file.path().is_file() && fs::read_to_string(file.path()).unwrap().contains("no_mangle") {
            assert!(SOURCES.contains(&name.as_str()), "{name} is missing");
        }
    }
}
