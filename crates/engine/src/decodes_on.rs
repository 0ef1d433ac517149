//! What an engine asks of a scheduler whose decodes run as a [`Stretch`].

use servecast_types::{KvEvent, RequestId, Time};

use crate::iteration::{Finished, Scheduled};
use crate::step::Entry;
use crate::stretch::Stretch;

/// A scheduler whose decodes run as a stretch.
///
/// An iteration of nothing but a stretch is decided ([`DecodesOn::decide_decode`]) and ended ([`DecodesOn::end_decode`])
/// like any other; those in which nothing changes are skipped in one go.
pub(crate) trait DecodesOn {
    /// The stretch that is under way.
    fn stretch(&self) -> &Stretch;

    /// Iterations from the next one on that need no decision and end nobody.
    fn quiet_iterations(&self) -> u64;

    /// So many quiet iterations have ended.
    fn skip_quiet(&mut self, iterations: u64);

    /// Whether a stretch of all that runs is under way and nothing has come that might end it.
    fn goes_on(&self) -> bool;

    /// When a transfer ends that the scheduler has to notice: an iteration that is decided before that, and begins before
    /// that, does not.
    fn next_notice(&self) -> Time;

    /// Whether an iteration that began then notices the end of a transfer at its own end.
    fn notices_at_end(&self, start: Time) -> bool;

    /// Finds out what the iteration is that is decided `now`; begins a stretch if it can, and ends the one under way if it
    /// must.
    fn look_ahead(&mut self, now: Time, changes: &mut Changes) -> Ahead;

    /// Decides the next iteration `now`; returns false, with nothing changed, if that is no mere decode.
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

/// What the next iteration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// A decode of all that runs, as a stretch.
    Decode,
    /// Anything; if a stretch is under way, it goes on in it.
    Other,
}

/// What others have to know of a stretch.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Requests that ended with an iteration.
    pub(crate) finished: Vec<Finished>,
    /// What a router learns at the end of an iteration.
    pub(crate) kv_events: Vec<KvEvent>,
    /// Requests that run on when a stretch is over, with the tokens that they have generated.
    pub(crate) caught_up: Vec<(RequestId, u32)>,
    /// Members of the iteration in flight that are members no more, in order of the running list: its result is to be
    /// applied to each by itself.
    pub(crate) put_back: Vec<(Scheduled, Entry)>,
}
