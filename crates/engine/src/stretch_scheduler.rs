//! What an engine asks of a scheduler that takes decoding requests together, as a [`Stretch`].

use servecast_types::{KvEvent, RequestId, Time};

use crate::iteration::{Finished, Scheduled};
use crate::step::Entry;
use crate::stretch::Stretch;

/// A scheduler that takes decoding requests together.
///
/// A pure decode iteration is decided ([`StretchScheduler::decide_decode`]) and ended ([`StretchScheduler::end_decode`])
/// like any other; consecutive ones in which nothing changes are skipped in one call.
pub(crate) trait StretchScheduler {
    /// The stretch that is under way.
    fn stretch(&self) -> &Stretch;

    /// Number of iterations, from the next one on, in which no request ends, no block is opened and nothing is reported.
    fn quiet_iterations(&self) -> u64;

    /// Number of iterations, from the one in flight on, of which others learn nothing if nothing comes to the engine: they only
    /// decode, no request ends in them, and a router is told of no block. A scheduler that does not say may tell with each.
    fn untold_iterations(&self) -> u64 {
        0
    }

    /// So many quiet iterations have ended.
    fn skip_quiet(&mut self, iterations: u64);

    /// Whether all running requests are members of a stretch, and nothing has happened that might end it.
    fn continues(&self) -> bool;

    /// The first end of a KV transfer that the scheduler has to notice. Iterations that are decided and begin before that do
    /// not notice it.
    fn next_notice(&self) -> Time;

    /// Whether an iteration that began at `start` notices the end of a transfer when it ends.
    fn notices_at_end(&self, start: Time) -> bool;

    /// Plans the iteration that is decided `now`: begins, extends or ends the stretch. Returns whether the iteration is a
    /// pure decode of all running requests; otherwise the members of a stretch, if there is one, decode in it beside
    /// others.
    fn plan_next(&mut self, now: Time, changes: &mut Changes) -> bool;

    /// Decides the next iteration `now`; returns false, with nothing changed, if it is no pure decode.
    fn decide_decode(&mut self, now: Time) -> bool;

    /// Applies an iteration at its end.
    fn end_decode(&mut self, changes: &mut Changes);

    /// Brings the requests up to date with the stretch, which is over.
    fn end_stretch(&mut self, changes: &mut Changes);

    /// Says how far the requests of the stretch have come, at any time; nothing is decided or ended after that.
    fn abandon(&mut self, changes: &mut Changes) {
        self.end_stretch(changes);
        changes.put_back.clear();
    }
}

/// What changed with an iteration of a stretch, for the engine to report.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Requests that ended with an iteration.
    pub(crate) finished: Vec<Finished>,
    /// What a router learns at the end of an iteration.
    pub(crate) kv_events: Vec<KvEvent>,
    /// Requests that still run when a stretch ends, with the tokens that they have generated.
    pub(crate) caught_up: Vec<(RequestId, u32)>,
    /// Former members in the iteration in flight, in order of the running list: its result is applied to each by itself.
    pub(crate) put_back: Vec<(Scheduled, Entry)>,
}
