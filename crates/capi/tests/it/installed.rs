//! An installation of the library, and programs that are built with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// How a program has the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linked {
    Shared,
    Static,
}

pub(crate) const LINKED: [Linked; 2] = [Linked::Shared, Linked::Static];

pub(crate) fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Where `install.sh` has installed the library, once for all tests.
pub(crate) fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = scratch().join("capi");
        let mut install = Command::new(crate_dir().join("install.sh"));
        let told = succeeded(install.args(["--profile", "dev", "--prefix"]).arg(&prefix));
        assert_eq!(
            told,
            format!("installed servecast-router {} in {}\n", env!("CARGO_PKG_VERSION"), prefix.display())
        );
        prefix
    })
}

/// What pkg-config says about the installed library.
pub(crate) fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(arguments).arg("servecast-router");
    command.env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig"));
    succeeded(&mut command).split_whitespace().map(str::to_owned).collect()
}

/// Builds a program with every warning an error.
pub(crate) fn build(source: &Path, linked: Linked) -> PathBuf {
    let name = source.file_stem().unwrap().to_str().unwrap();
    let program = scratch().join(format!("{name}-{linked:?}"));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-O1", "-pthread"]);
    cc.args(pkg_config(&["--cflags"])).arg(source).arg("-o").arg(&program);
    match linked {
        Linked::Shared => cc.args(pkg_config(&["--libs"])),
        Linked::Static => {
            let libraries = pkg_config(&["--libs", "--static"]).into_iter();
            cc.args(libraries.map(|each| {
                if each == "-lservecast_router" { "-l:libservecast_router.a".to_owned() } else { each }
            }))
        }
    };
    succeeded(&mut cc);
    program
}

/// A command that runs a program with the installed library and without anything about routers in its environment.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("SERVECAST_") || text.starts_with("DYN_") {
            command.env_remove(&name);
        }
    }
    command.env("LD_LIBRARY_PATH", prefix().join("lib"));
    command
}

/// The output of a command that has to succeed.
pub(crate) fn succeeded(command: &mut Command) -> String {
    let output: Output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Whether the tools of a test are there; they have to be where everything is required.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn has(tools: &[&str]) -> bool {
    let runs = |tool: &&&str| {
        Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let Some(missing) = tools.iter().find(|tool| !runs(tool)) else { return true };
    assert!(
        env::var_os("SERVECAST_REQUIRE_ORACLE").is_none_or(|value| value != "1"),
        "no {missing}, which SERVECAST_REQUIRE_ORACLE=1 requires"
    );
    eprintln!("skipped: no {missing}");
    false
}

/// What it takes to build programs.
pub(crate) const BUILD: [&str; 2] = ["cc", "pkg-config"];
