//! Workers that wait for copies to and from the memory of their hosts.

use servecast_types::Time;

use super::deadline::{Class, Event};
use super::{Cluster, Place};
use crate::control::WorkerState;

impl Cluster {
    /// A worker that idles goes on when a copy to or from the memory of its host ends.
    pub(super) fn wake_at_copy_end(&mut self, place: Place, wake: Option<Time>) {
        let worker = self.worker(place);
        let Some(at) = wake.filter(|_| worker.engine.config().offloads_kv()) else { return };
        if worker.copy_end.is_none_or(|known| at < known) {
            worker.copy_end = Some(at);
            self.copy_ends += 1;
            self.schedule(at, Class::Copies, place.worker.0.into(), Event::CopyEnd(place));
        }
    }

    pub(super) fn copy_ended(&mut self, place: Place) {
        self.copy_ends -= 1;
        let worker = self.worker(place);
        worker.copy_end = None;
        if !matches!(worker.state, WorkerState::Down { .. }) {
            self.wake(place);
        }
    }
}
