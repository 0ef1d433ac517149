//! Why something cannot be done, and who has to do something about it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

use servecast_types::{Message, message};

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
    message: Message,
    hint: Option<Message>,
    option: Option<Box<RefusedOption>>,
}

/// An option of a latency model that cannot be.
#[derive(Debug)]
pub struct RefusedOption {
    /// What it is called.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: Message,
}

impl Failure {
    fn new(kind: FailureKind, message: impl Into<Message>) -> Self {
        Self { kind, message: message.into(), hint: None, option: None }
    }

    /// Something that the user gave cannot be used.
    pub fn user(message: impl Into<Message>) -> Self {
        Self::new(FailureKind::User, message)
    }

    /// Something that the user gave cannot be used, as a library says that knows no settings, with all that caused it.
    pub fn input(error: &dyn Error) -> Self {
        Self::user(chain(error))
    }

    /// The run cannot go on.
    pub fn run(message: impl Into<Message>) -> Self {
        Self::new(FailureKind::Run, message)
    }

    /// A condition that the user watches for holds.
    pub fn condition(message: impl Into<Message>) -> Self {
        Self::new(FailureKind::Condition, message)
    }

    /// The user stopped the run.
    pub fn interrupted(message: impl Into<Message>) -> Self {
        Self::new(FailureKind::Interrupted, message)
    }

    /// Something could not be written while or after the run went on.
    pub fn write(what: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(FailureKind::OutputClosed, "");
        }
        Self::run(format!("cannot write {what}: {}", reason(error)))
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<Message>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says in front of the message what it is about.
    #[must_use]
    pub fn about(self, what: impl Into<Message>) -> Self {
        Self { message: message!("{}: {}", what.into(), self.message), ..self }
    }

    /// Says in front of the message which line of a file it is about.
    #[must_use]
    pub fn at_line(self, path: &Path, line: u64) -> Self {
        self.about(format!("{}, line {line}", path.display()))
    }

    /// The same with another message.
    #[must_use]
    pub fn with_message(self, message: impl FnOnce(Message) -> Message) -> Self {
        Self { message: message(self.message), ..self }
    }

    /// The same of an option, which may be known to its user by another name.
    #[must_use]
    pub fn of_option(self, option: RefusedOption) -> Self {
        Self { option: Some(Box::new(option)), ..self }
    }

    /// The option that was refused, if it is one.
    pub fn option(&self) -> Option<&RefusedOption> {
        self.option.as_deref()
    }

    /// What went wrong.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Who has to do something about it.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// What went wrong, and what the user can do about it.
    pub fn into_parts(self) -> (Message, Option<Message>) {
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
