//! How many recordings the tests of one `cargo test` compared, and how many tests went without some.
//!
//! Test binaries are processes of their own, so each appends lines to one file beside them. Its name has the process
//! that started the binary, which is the same `cargo` for all binaries of a run, so that runs do not mix.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

/// How the names of files with notes begin; test binaries have no dot in theirs.
const PREFIX: &str = "recordings.";

/// What tests noted so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cases that were compared.
    pub compared: u64,
    /// Tests that were skipped, or had nothing but the sample.
    pub skipped: u64,
    /// Variables that were not set.
    pub missing: BTreeSet<String>,
}

/// Notes that a test compared that many cases.
///
/// # Panics
///
/// If the note cannot be written.
pub fn compared(cases: usize) {
    note(&format!("compared {cases}"));
}

/// Notes that a test was skipped, or had nothing but the sample, since a variable is not set.
pub(crate) fn skipped(variable: &str) {
    note(&format!("skipped {variable}"));
}

fn note(line: &str) {
    let path = file();
    let mut file = OpenOptions::new().create(true).append(true).open(&path);
    // One write, which the kernel appends as a whole, whoever else writes.
    let written = file.as_mut().map(|file| file.write_all(format!("{line}\n").as_bytes()));
    assert!(matches!(written, Ok(Ok(()))), "cannot write {}", path.display());
}

fn file() -> PathBuf {
    let binary = std::env::current_exe().expect("a test binary knows where it lies");
    binary.with_file_name(format!("{PREFIX}{}", parent()))
}

/// Removes the notes of this run, and those of runs that came to no closing line.
fn remove_notes() {
    let binary = std::env::current_exe().expect("a test binary knows where it lies");
    let entries = binary.parent().and_then(|folder| fs::read_dir(folder).ok());
    for path in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_old = || {
            let age = path.metadata().and_then(|data| data.modified()).map(|time| time.elapsed());
            age.is_ok_and(|age| age.is_ok_and(|age| age.as_secs() > 3600))
        };
        if name.starts_with(PREFIX) && (path == file() || is_old()) {
            // If it is gone or not ours to remove, no later run is the worse for it: names differ.
            _ = fs::remove_file(&path);
        }
    }
}

#[cfg(unix)]
fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

#[cfg(not(unix))]
fn parent() -> u32 {
    0
}

impl Tally {
    /// What the tests of this run noted; forgets it.
    pub fn take() -> Self {
        let notes = fs::read_to_string(file()).unwrap_or_default();
        remove_notes();
        Self::of(&notes)
    }

    fn of(notes: &str) -> Self {
        let mut tally = Self::default();
        for line in notes.lines() {
            match line.split_once(' ') {
                Some(("compared", cases)) => {
                    tally.compared += cases.parse::<u64>().expect("a number of cases");
                }
                Some(("skipped", variable)) => {
                    tally.skipped += 1;
                    tally.missing.insert(variable.to_owned());
                }
                _ => panic!("not a note: {line:?}"),
            }
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recordings: {} compared", self.compared)?;
        if self.skipped > 0 {
            let missing: Vec<&str> = self.missing.iter().map(String::as_str).collect();
            let is = if missing.len() == 1 { "is" } else { "are" };
            let (tests, missing) = (self.skipped, missing.join(" and "));
            write!(f, ", {tests} tests skipped or cut down to the sample: {missing} {is} not set")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_add_up() {
        let tally =
            Tally::of("compared 10\nskipped SERVECAST_ORACLE\nskipped SERVECAST_ORACLE\ncompared 7\n");
        assert_eq!((tally.compared, tally.skipped), (17, 2));
        assert_eq!(
            tally.to_string(),
            "recordings: 17 compared, 2 tests skipped or cut down to the sample: SERVECAST_ORACLE is not set"
        );
        let tally = Tally::of("skipped SERVECAST_ORACLE\nskipped SERVECAST_DATA\n");
        let ending = "SERVECAST_DATA and SERVECAST_ORACLE are not set";
        assert!(tally.to_string().ends_with(ending), "{tally}");
        assert_eq!(Tally::of("compared 3").to_string(), "recordings: 3 compared");
    }
}
