//! Workers that wait for copies to and from the memory of their hosts, for grammars to be compiled, or for the worker of the
//! other stage of a request to be known.

use servecast_types::Time;

use super::deadline::{Class, Event};
use super::{Cluster, Place};
use crate::control::WorkerState;
use crate::{Observer, RunError};

impl Cluster {
    /// A worker that idles goes on by itself when a copy to or from the memory of its host ends, or a request is known to have
    /// its other worker.
    pub(super) fn wake_at_copy_end(&mut self, place: Place, wake: Option<Time>) {
        let worker = self.worker(place);
        let engine = worker.engine.config();
        let goes_on = engine.wakes_by_itself() || engine.paired_stage().is_some();
        let Some(at) = wake.filter(|_| goes_on) else { return };
        if worker.copy_end.is_none_or(|known| at < known) {
            worker.copy_end = Some(at);
            self.copy_ends += 1;
            self.schedule(at, Class::Copies, place.worker.0.into(), Event::CopyEnd(place));
        }
    }

    /// A copy has ended; `sends_no_more` says that no request comes any more.
    pub(super) fn copy_ended(
        &mut self,
        place: Place,
        sends_no_more: bool,
        observer: &mut impl Observer,
    ) -> Result<(), RunError> {
        self.copy_ends -= 1;
        self.worker(place).copy_end = None;
        if sends_no_more && self.copy_ends == self.deadlines.len() {
            // Nothing but copies is scheduled. What is still to be served is with workers that lag: once they have served
            // it, nobody waits for copies.
            self.bring_all_up(observer)?;
            if self.live.is_empty() {
                return Ok(());
            }
        }
        if !matches!(self.worker(place).state, WorkerState::Down { .. }) {
            self.wake(place);
        }
        Ok(())
    }
}
