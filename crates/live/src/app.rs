//! What all requests to a port share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use servecast_types::WorkerId;

use crate::choice::Author;
use crate::deployment::Command;
use crate::error::Shape;
use crate::faults;
use crate::http::Timeouts;
use crate::log::RequestLog;
use crate::output::Output;
use crate::request::{Api, Dialect, Served};
use crate::tokenizer::Tokenizer;
use crate::traffic::Traffic;

/// What all ports of a server have in common.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    pub(crate) served: Served,
    pub(crate) fingerprint: String,
    pub(crate) api_key: Option<String>,
    /// Whether there are routes for developers.
    pub(crate) dev_mode: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) seed: u64,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) output: Arc<Output>,
    pub(crate) log: Option<Arc<RequestLog>>,
    /// What goes wrong on purpose.
    pub(crate) faults: faults::Faults,
    pub(crate) commands: Sender<Command>,
}

/// A port of a server.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) served: Served,
    /// What the server says of its configuration.
    pub(crate) fingerprint: String,
    /// Where `/v1` asks for a key.
    pub(crate) api_key: Option<String>,
    /// Whether there are routes for developers.
    pub(crate) dev_mode: bool,
    /// How long clients may take.
    pub(crate) timeouts: Timeouts,
    /// The worker that serves whoever comes here; without one, that is the router's choice.
    pub(crate) worker: Option<WorkerId>,
    /// Root of what answers say.
    pub(crate) seed: u64,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// What answers say.
    pub(crate) output: Arc<Output>,
    /// Where requests are told of.
    pub(crate) log: Option<Arc<RequestLog>>,
    pub(crate) commands: Sender<Command>,
    /// What came to this port.
    pub(crate) traffic: Arc<Traffic>,
    /// What goes wrong at this port, and who waits behind it.
    pub(crate) faults: faults::Desk,
    /// Shared by all ports.
    numbers: Arc<AtomicU64>,
    under_way: AtomicI64,
}

impl App {
    /// Of a deployment that takes these commands.
    pub(crate) fn new(front: Front, worker: Option<WorkerId>, numbers: Arc<AtomicU64>) -> Self {
        let Front {
            served,
            fingerprint,
            api_key,
            dev_mode,
            timeouts,
            seed,
            tokenizer,
            output,
            log,
            faults,
            commands,
        } = front;
        let under_way = AtomicI64::new(0);
        let faults = faults::Desk::new(faults, seed);
        let traffic = Arc::default();
        Self {
            served,
            fingerprint,
            api_key,
            dev_mode,
            timeouts,
            worker,
            seed,
            tokenizer,
            output,
            log,
            commands,
            traffic,
            faults,
            numbers,
            under_way,
        }
    }

    /// A number that nothing else has.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// So many more requests of clients are under way.
    pub(crate) fn load(&self, more: i64) {
        self.under_way.fetch_add(more, Ordering::Relaxed);
    }

    /// Requests of clients that are under way.
    pub(crate) fn under_way(&self) -> i64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How errors of an API look.
    pub(crate) fn shape(&self, api: Api) -> Shape {
        match (self.served.dialect, api) {
            (Dialect::Vllm, _) => Shape::Nested,
            (Dialect::Sglang, Api::Generate { .. }) => Shape::Bare,
            (Dialect::Sglang, _) => Shape::Flat,
        }
    }

    /// What answers are made with.
    pub(crate) fn author(&self) -> Author<'_> {
        Author { output: &self.output, tokenizer: &self.tokenizer, seed: self.seed }
    }
}
