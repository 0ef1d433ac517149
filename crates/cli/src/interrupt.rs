//! Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Failure, chain};

/// The exit code of an interrupted command.
const EXIT_CODE: i32 = 130;

/// Whether the user asked to stop.
///
/// While input is read nothing needs care, and a read may block, so Ctrl-C ends the process at once. From
/// [`Interrupt::defer`] on there are temporary files to take away, so it only leaves a mark until
/// [`Interrupt::resume`]. A second Ctrl-C ends the process whatever is going on: a write to a pipe that nobody reads
/// never comes to the mark.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    requested: AtomicBool,
    deferred: AtomicBool,
}

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn install() -> Result<Self, Failure> {
        let interrupt = Self::default();
        let state = Arc::clone(&interrupt.0);
        let handler = move || {
            let is_repeated = state.requested.swap(true, Ordering::SeqCst);
            if is_repeated || !state.deferred.load(Ordering::SeqCst) {
                std::process::exit(EXIT_CODE);
            }
        };
        ctrlc::set_handler(handler)
            .map_err(|error| Failure::run(chain(&error)).about("cannot listen for Ctrl-C"))?;
        Ok(interrupt)
    }

    /// From now on Ctrl-C waits until somebody asks.
    pub(crate) fn defer(&self) -> Result<(), Failure> {
        // The handler sets the one and reads the other in the opposite order, so one of the two notices.
        self.0.deferred.store(true, Ordering::SeqCst);
        self.check()
    }

    /// From now on Ctrl-C ends the process at once again.
    pub(crate) fn resume(&self) -> Result<(), Failure> {
        self.0.deferred.store(false, Ordering::SeqCst);
        self.check()
    }

    /// Whether Ctrl-C came.
    pub(crate) fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Relaxed)
    }

    /// Whether Ctrl-C came; what comes after that is another one.
    pub(crate) fn take(&self) -> bool {
        self.0.requested.swap(false, Ordering::SeqCst)
    }

    /// Fails if Ctrl-C came.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.0.requested.load(Ordering::SeqCst) {
            Err(Failure::interrupted("interrupted"))
        } else {
            Ok(())
        }
    }
}
