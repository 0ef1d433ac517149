//! Why a command ended early, and what the shell learns of it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

/// Who has to do something about a failure; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
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
pub(crate) struct Failure {
    kind: FailureKind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Something that the user gave cannot be used.
    pub(crate) fn user(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::User, message: message.to_string(), hint: None }
    }

    /// The run cannot go on.
    pub(crate) fn run(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Run, message: message.to_string(), hint: None }
    }

    /// A condition that the user watches for holds.
    pub(crate) fn condition(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Condition, message: message.to_string(), hint: None }
    }

    /// The user stopped the run.
    pub(crate) fn interrupted(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Interrupted, message: message.to_string(), hint: None }
    }

    /// Something could not be written while or after the run went on.
    pub(crate) fn write(what: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { kind: FailureKind::OutputClosed, message: String::new(), hint: None };
        }
        Self::run(format!("cannot write {what}: {}", reason(error)))
    }

    /// Adds what the user can do about it.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says in front of the message what it is about.
    pub(crate) fn about(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// What went wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Who has to do something about it.
    pub(crate) fn kind(&self) -> FailureKind {
        self.kind
    }

    /// What went wrong, and what the user can do about it.
    pub(crate) fn into_parts(self) -> (String, Option<String>) {
        (self.message, self.hint)
    }

    /// What goes to standard error; nothing if there is nothing to say.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if self.kind == FailureKind::OutputClosed {
            return text;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "error: {}", self.message);
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "\nhint: {hint}");
        }
        text
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            FailureKind::OutputClosed => 0,
            FailureKind::Run => 1,
            FailureKind::User => 2,
            FailureKind::Condition => 3,
            FailureKind::Interrupted => 130,
        }
    }
}

/// The message of an error and of all that caused it, each once: some messages include their cause.
pub(crate) fn chain(error: &dyn Error) -> String {
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
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A path between backticks.
pub(crate) fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_after_a_blank_line() {
        let failure = Failure::user("no such file").with_hint("look elsewhere");
        assert_eq!(failure.text(), "error: no such file\n\nhint: look elsewhere\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let failure = Failure::write("x", &io::ErrorKind::BrokenPipe.into());
        assert_eq!((failure.text(), failure.exit_code()), (String::new(), 0));
    }

    #[test]
    fn system_errors_come_in_words() {
        assert_eq!(reason(&io::Error::from_raw_os_error(2)), "No such file or directory");
        assert_eq!(reason(&io::Error::other("odd")), "odd");
    }
}
