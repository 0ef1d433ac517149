//! What was tried, in a file, so that an interrupted search goes on where it was.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use servecast_recommend::Outcome;
use servecast_types::message;

use servecast_config::error::{Failure, quoted};

/// What is known, and where more of it goes.
#[derive(Default)]
pub struct Journal {
    known: BTreeMap<String, Outcome>,
    file: Option<Mutex<File>>,
}

/// One line: a deployment under a load, and what came of it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    of: String,
    came: Outcome,
}

impl Journal {
    /// Opens the journal of a search that `of` describes; a file that is not there yet is begun.
    pub fn open(path: &Path, of: &Value) -> Result<Self, Failure> {
        let failed = |error: &std::io::Error| Failure::input(error).about(quoted(path));
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = file.map_err(|error| failed(&error))?;
        let mut known = BTreeMap::new();
        let (mut is_new, mut ends) = (true, true);
        for line in BufReader::new(&file).lines() {
            let line = line.map_err(|error| failed(&error))?;
            if is_new {
                is_new = false;
                if serde_json::from_str::<Value>(&line).ok().as_ref() != Some(of) {
                    return Err(Failure::user(format!("{} is of another search", quoted(path))).with_hint(
                        message!("{--resume} goes on with the search that began it: same load, settings, targets and release"),
                    ));
                }
                continue;
            }
            // One that was cut off with the search is tried again.
            ends = line.ends_with('}');
            known.extend(serde_json::from_str::<Line>(&line).ok().map(|line| (line.of, line.came)));
        }
        if !ends {
            writeln!(file).map_err(|error| failed(&error))?;
        }
        if is_new {
            writeln!(file, "{of}").map_err(|error| failed(&error))?;
        }
        Ok(Self { known, file: Some(Mutex::new(file)) })
    }

    /// What came of it, if that is known.
    pub fn get(&self, key: &str) -> Option<Outcome> {
        self.known.get(key).cloned()
    }

    /// Adds what came of it. A disk that is full costs the journal, not the search.
    ///
    /// # Panics
    /// Never: figures are plain data.
    pub fn add(&self, key: &str, outcome: &Outcome) {
        let Some(file) = &self.file else { return };
        if *outcome == Outcome::Stopped {
            return;
        }
        let line = Line { of: key.to_owned(), came: outcome.clone() };
        let text = serde_json::to_string(&line).expect("figures are plain data") + "\n";
        let _ = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
    }
}
