//! Codes and messages.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt::Display;

use servecast_router::ConfigError;
use servecast_router::standalone::StandaloneError;

use crate::types::*;

/// Why a call failed: a code and a message for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: servecast_status,
    message: String,
}

/// What a call gives: a code that is not an error, or a failure.
pub(crate) type Outcome = Result<servecast_status, Failure>;

impl Failure {
    pub(crate) fn new(code: servecast_status, message: impl Display) -> Self {
        Self { code, message: message.to_string() }
    }

    pub(crate) fn argument(message: impl Display) -> Self {
        Self::new(SERVECAST_ERR_INVALID_ARGUMENT, message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(SERVECAST_ERR_CONFIG, error)
    }
}

impl From<StandaloneError> for Failure {
    fn from(error: StandaloneError) -> Self {
        let code = match error {
            StandaloneError::UnknownWorker { .. } | StandaloneError::UnknownRank { .. } => {
                SERVECAST_ERR_UNKNOWN_WORKER
            }
            StandaloneError::NoWorkers { .. } => SERVECAST_ERR_NO_WORKERS,
            StandaloneError::DuplicateRequest { .. } => SERVECAST_ERR_DUPLICATE_REQUEST,
            StandaloneError::UnknownRequest { .. } => SERVECAST_ERR_UNKNOWN_REQUEST,
            StandaloneError::Event { .. } => SERVECAST_ERR_EVENT,
            _ => SERVECAST_ERR_INVALID_ARGUMENT,
        };
        Self::new(code, error)
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Keeps the message of a failure for this thread, and gives its code.
pub(crate) fn told(failure: Failure) -> servecast_status {
    let Failure { code, message } = failure;
    // A zero byte can only come from a text of the caller's; the message ends there.
    let text = message.split('\0').next().unwrap_or_default();
    let text = CString::new(text).unwrap_or_default();
    LAST_ERROR.with(|last| last.replace(text));
    code
}

/// The message of the last call on this thread that returned an error; empty if none did. It lives until the next
/// error on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn servecast_last_error() -> *const c_char {
    // The text itself stays where it is until it is replaced, which only this thread does.
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// The version of the library, such as "0.2.0".
#[unsafe(no_mangle)]
pub extern "C" fn servecast_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no zero byte"),
        };
    VERSION.as_ptr()
}
