//! Why something cannot be done, and who has to do something about it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

/// Who has to do something about a failure; decides the exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A flag, a setting or a file that the user gave: 2.
    User,
    /// A run that cannot go on: 1.
    Run,
    /// A condition that the user watches for holds: 3.
    Condition,
    /// Ctrl-C: 130.
    Interrupted,
    /// Nobody reads standard output any more, which is no error: 0.
    OutputClosed,
}

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    kind: FailureKind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Something that the user gave cannot be used.
    pub fn user(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::User, message: message.to_string(), hint: None }
    }

    /// The run cannot go on.
    pub fn run(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Run, message: message.to_string(), hint: None }
    }

    /// A condition that the user watches for holds.
    pub fn condition(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Condition, message: message.to_string(), hint: None }
    }

    /// The user stopped the run.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Interrupted, message: message.to_string(), hint: None }
    }

    /// Something could not be written while or after the run went on.
    pub fn write(what: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { kind: FailureKind::OutputClosed, message: String::new(), hint: None };
        }
        Self::run(format!("cannot write {what}: {}", reason(error)))
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says in front of the message what it is about.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same in other words.
    #[must_use]
    pub fn reworded(self, words: impl FnOnce(&str) -> String) -> Self {
        Self { message: words(&self.message), ..self }
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Who has to do something about it.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// What went wrong, and what the user can do about it.
    pub fn into_parts(self) -> (String, Option<String>) {
        (self.message, self.hint)
    }
}

/// The message of an error and of all that caused it, each once: some messages include their cause.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {message}");
        }
        cause = error.source();
    }
    text
}

/// An I/O error in words, without the number that the system gives it.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A path between backticks.
pub fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_come_in_words() {
        assert_eq!(reason(&io::Error::from_raw_os_error(2)), "No such file or directory");
        assert_eq!(reason(&io::Error::other("odd")), "odd");
    }
}
