//! The programs in `tests/c`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::installed::{
    BUILD, LINKED, Linked, build, command, crate_dir, has, pkg_config, prefix, succeeded,
};

/// The programs with either library, built once for all tests.
pub(crate) fn programs() -> &'static [PathBuf] {
    static PROGRAMS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let files = fs::read_dir(crate_dir().join("tests/c")).unwrap().map(|file| file.unwrap().path());
        let mut sources: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|end| end == "c")).collect();
        sources.sort();
        assert!(sources.len() >= 6, "{sources:?}");
        sources.iter().flat_map(|source| LINKED.map(|linked| build(source, linked))).collect()
    })
}

/// What the program about the environment expects to find there.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("SERVECAST_ROUTER_TEMPERATURE", "0.5"),
    ("DYN_ROUTER_TEMPERATURE", "0.75"),
    ("DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT", "2"),
];

#[test]
fn programs_run_with_either_library() {
    if !has(&BUILD) {
        return;
    }
    for program in programs() {
        succeeded(command(program).envs(ENVIRONMENT));
    }
}

#[test]
fn valgrind_finds_no_error_and_no_leak() {
    if !has(&[&BUILD[..], &["valgrind"]].concat()) {
        return;
    }
    for program in programs() {
        let mut valgrind = command("valgrind");
        valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=all"]);
        valgrind.args(["--errors-for-leak-kinds=all", "--track-origins=yes"]);
        succeeded(valgrind.arg(program).envs(ENVIRONMENT));
    }
}

#[test]
fn valgrind_would_find_a_leak() {
    if !has(&[&BUILD[..], &["valgrind"]].concat()) {
        return;
    }
    let source = crate_dir().join("tests/c/leak/leak.c");
    let mut valgrind = command("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    let output = valgrind.arg(build(&source, Linked::Shared)).output().unwrap();
    assert_eq!(output.status.code(), Some(99), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_header_is_c_and_cpp() {
    if !has(&[&BUILD[..], &["c++"]].concat()) {
        return;
    }
    let source = crate_dir().join("tests/c/header.cpp");
    for (compiler, language, standard) in [("c++", "c++", "-std=c++11"), ("cc", "c", "-std=c11")] {
        let mut compile = Command::new(compiler);
        compile.args(["-x", language, standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]);
        succeeded(compile.args(pkg_config(&["--cflags"])).arg(&source));
    }
}

#[test]
fn what_is_installed_says_its_version() {
    if !has(&[&BUILD[..], &["nm", "readelf"]].concat()) {
        return;
    }
    assert_eq!(pkg_config(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let lib = prefix().join("lib");
    assert_eq!(pkg_config(&["--variable=libdir"]), [lib.to_str().unwrap()]);
    let wanted = fs::canonicalize(lib.join("libservecast_router.so")).unwrap();
    assert!(wanted.ends_with(format!("libservecast_router.so.{}", env!("CARGO_PKG_VERSION"))), "{wanted:?}");
    let dynamic = succeeded(Command::new("readelf").arg("-d").arg(&wanted));
    let exported = succeeded(Command::new("nm").args(["-D", "--defined-only"]).arg(&wanted));
    let exported: Vec<&str> = exported.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let header = fs::read_to_string(prefix().join("include/servecast_router.h")).unwrap();
    assert!(exported.contains(&"servecast_router_new"), "{exported:?}");
    for name in exported {
        assert!(header.contains(&format!("{name}(")), "{name} is exported, but not in the header");
    }
    assert!(dynamic.contains("Library soname: [libservecast_router.so.0]"), "{dynamic}");
}

#[test]
fn mistakes_in_the_arguments_of_the_installation_are_told() {
    for (arguments, expected) in [
        (&["--prefx", "/x"][..], "unknown argument `--prefx`: expected --prefix DIR or --profile NAME"),
        (&["--prefix"], "--prefix needs a value"),
    ] {
        let output = Command::new(crate_dir().join("install.sh")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("install.sh: {expected}\n"));
    }
}
