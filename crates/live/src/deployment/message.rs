//! What handlers and the deployment tell each other.

use std::time::{Duration, Instant};

use servecast_record::RequestStatus;
use servecast_types::WorkerId;
use tokio::sync::{mpsc, oneshot};

use crate::admin::Order;
use crate::content::Salt;
use crate::faults::Waits;
use crate::metrics::Snapshot;

/// A request as it goes to the deployment.
#[derive(Debug)]
pub(crate) struct Request {
    /// Tells it from all others.
    pub(crate) number: u64,
    /// Which answer it is to its client.
    pub(crate) index: u32,
    /// What its prompt consists of, for the deployment.
    pub(crate) content: servecast_types::Prompt,
    /// Its tokens, one at least.
    pub(crate) prompt: Vec<u32>,
    /// What keeps it apart from equal ones, if anything does.
    pub(crate) salt: Option<Salt>,
    /// Tokens that it may generate, one at least.
    pub(crate) max_tokens: u32,
    /// What it will generate, no more than that; if it is less, it stops by itself.
    pub(crate) output: Vec<u32>,
    /// Lower is more important.
    pub(crate) priority: i32,
    /// The worker that is to serve it, if that is not the router's choice.
    pub(crate) worker: Option<WorkerId>,
    /// What a client asked for, for the metrics.
    pub(crate) asked: Asked,
    /// Where its events go. Nobody may listen any more.
    pub(crate) events: mpsc::UnboundedSender<(u32, Event)>,
    /// How much later than it is there its client sees a token.
    pub(crate) delay: Duration,
    /// It waits.
    pub(crate) waits: Waits,
}

/// Of the request of a client that made it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// How many answers there are to be.
    pub(crate) n: u32,
    /// Tokens that it asked for.
    pub(crate) max_tokens: Option<u32>,
    /// Whether it gets tokens as they come.
    pub(crate) stream: bool,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It has a token more.
    Token {
        /// When its client sees it.
        at: Instant,
        /// Tokens of its prompt that were cached.
        cached_tokens: u32,
    },
    /// It has ended.
    Ended(Ended),
}

/// An event on its way to whoever waits for a request.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) to: mpsc::UnboundedSender<(u32, Event)>,
    pub(crate) index: u32,
    pub(crate) event: Event,
}

impl Letter {
    /// Hands it over. Who has gone will be taken back.
    pub(crate) fn deliver(self) {
        let _ = self.to.send((self.index, self.event));
    }
}

/// Letters that are not sent yet.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::UnboundedSender<Vec<Letter>>,
    letters: Vec<Letter>,
}

impl Outbox {
    /// Letters that are sent at once, though there may be more of the same instant: whoever hands them on begins meanwhile.
    const MOST: usize = 256;

    pub(crate) fn new(sender: mpsc::UnboundedSender<Vec<Letter>>) -> Self {
        Self { sender, letters: Vec::new() }
    }

    pub(crate) fn push(&mut self, letter: Letter) {
        self.letters.push(letter);
        if self.letters.len() >= Self::MOST {
            self.send();
        }
    }

    /// Sends those that there are.
    pub(crate) fn send(&mut self) {
        if !self.letters.is_empty() {
            // Without connections nobody waits for any.
            let _ = self.sender.send(std::mem::take(&mut self.letters));
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Whether it got all that it was to get, was turned away, or was taken back.
    pub(crate) status: RequestStatus,
    /// Tokens of its prompt that were cached.
    pub(crate) cached_tokens: u32,
}

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client sent this.
    Submit(Request),
    /// The client of this request has gone away.
    Cancel(u64),
    /// Somebody wants to know the metrics, of a worker or of all, as text.
    Metrics(Option<WorkerId>, oneshot::Sender<String>),
    /// Somebody wants to know how a worker is, or all are.
    Snapshot(Option<WorkerId>, oneshot::Sender<Vec<Snapshot>>),
    /// Somebody wants to look at workers, or to change them.
    Order(Order),
    /// Nobody is served any more.
    Close,
}
