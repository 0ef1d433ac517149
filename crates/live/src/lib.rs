//! A simulated deployment behind the HTTP API of a real one.
//!
//! ```text
//!  clients ──HTTP──▶ http ──Command──▶ deployment: a thread that drives a Cluster by the clock
//!     ▲               │                     │
//!     └── frames ── generate ◀───Event──────┘
//! ```
//!
//! Handlers run in one asynchronous thread, the deployment in another; what they share are channels. The simulation is
//! that of a replay, and knows nothing of sockets: a request is stamped when the deployment takes it, so that a run can be
//! recorded and replayed.

mod answer;
mod app;
mod choice;
mod clock;
mod deployment;
mod error;
mod events;
mod generate;
mod http;
mod length;
mod log;
mod metrics;
mod output;
mod params;
mod pieces;
mod record;
mod request;
mod responses;
mod sglang;
mod tokenizer;
mod traffic;

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use servecast_cluster::{RunError, SimulationOptions, Topology};
use servecast_types::WorkerId;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::app::{App, Front};
use crate::deployment::{Command, DeploymentError, Setting};
use crate::events::{Feed, Source};
use crate::metrics::Metrics;
use crate::output::Output;
use crate::record::Log;
use crate::request::Served;

pub use crate::events::{EventFormat, HashAlgorithm, KvEventsConfig, KvEventsError};
pub use crate::length::{LengthLaw, OutputLength};
pub use crate::log::{LogFormat, RequestLog};
pub use crate::output::OutputText;
pub use crate::request::Dialect;
pub use crate::tokenizer::{Tokenizer, TokenizerError};

/// What is served, and where.
pub struct ServeOptions {
    /// The port of the whole deployment, where its router chooses workers.
    pub address: Option<SocketAddr>,
    /// The port of the first worker; others follow. Each is like a server of its own. For aggregated deployments.
    pub workers: Option<SocketAddr>,
    /// Whose API it has.
    pub dialect: Dialect,
    /// The pools of the deployment.
    pub topology: Topology,
    /// How they are simulated.
    pub options: SimulationOptions,
    /// The name by which clients ask for the model.
    pub model: String,
    /// Tokens of prompt and answer together, as far as the engine says so.
    pub max_model_len: Option<u32>,
    /// Whether engines look prompts up in their prefix caches.
    pub prefix_caching: bool,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// What answers say.
    pub output: OutputText,
    /// How long answers are that end by themselves.
    pub output_length: OutputLength,
    /// How many times as fast as the clock of the machine the deployment goes.
    pub speed: f64,
    /// What clients have to send to use the API.
    pub api_key: Option<String>,
    /// All settings as text, whose hash clients get as `system_fingerprint`.
    pub configuration: String,
    /// Where a line for each request is written.
    pub log: Option<RequestLog>,
    /// Where requests are recorded, as a trace.
    pub record: Option<Box<dyn Write + Send>>,
    /// How workers tell of their KV caches, if they do.
    pub kv_events: Option<KvEventsConfig>,
}

/// Why a server has stopped that nobody told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its port cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The port.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// What answers are to say cannot be cut into tokens.
    #[error("the text of answers cannot be cut into tokens: {0}")]
    Output(String),
    /// Workers cannot tell of their KV caches as they are to.
    #[error("KV events cannot be published")]
    KvEvents(#[source] KvEventsError),
    /// The machine gives it no thread or no sockets.
    #[error("cannot start the server")]
    Start(#[source] io::Error),
    /// The simulation cannot go on.
    #[error(transparent)]
    Run(RunError),
    /// The record of requests cannot be written.
    #[error("the record of requests cannot be written")]
    Record(#[source] io::Error),
}

impl From<DeploymentError> for ServeError {
    fn from(error: DeploymentError) -> Self {
        match error {
            DeploymentError::Run(error) => Self::Run(error),
            DeploymentError::Log(error) => Self::Record(error),
        }
    }
}

/// Serves until `stop` says so: then the port closes at once, and what is under way is taken back. `ready` is told when
/// clients may come, with all ports.
pub fn serve(
    options: ServeOptions,
    ready: impl FnOnce(&[SocketAddr]),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Start)?;
    runtime.block_on(serve_on(options, ready, stop))
}

async fn serve_on(
    mut options: ServeOptions,
    ready: impl FnOnce(&[SocketAddr]),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let ports = listen(&options).await?;
    let events = publish(&mut options)?;
    // Nobody asks for a report, and a server may go on for weeks.
    options.options.keep_ended = false;
    let tokenizer = Arc::new(options.tokenizer);
    let output = Arc::new(Output::new(&options.output, &tokenizer).map_err(ServeError::Output)?);
    let capacity = options
        .topology
        .groups()
        .map(|(_, _, engine)| u64::from(engine.usable_blocks()) * u64::from(engine.block_size()));
    let capacity = u32::try_from(capacity.min().unwrap_or(0)).unwrap_or(u32::MAX);
    let max_model_len = options.max_model_len.unwrap_or(u32::MAX).min(capacity);
    let dialect = options.dialect;
    let log = options.log.map(Arc::new);
    let served =
        Served { dialect, model: options.model.clone(), max_model_len, length: options.output_length };
    let created = clock::unix_time().as_secs_f64();
    let metrics = Metrics::new(
        dialect,
        &options.topology,
        options.model,
        options.prefix_caching,
        max_model_len,
        options.speed,
        created,
    );
    let seed = options.options.seed;
    let setting = Setting {
        topology: options.topology,
        options: options.options,
        speed: options.speed,
        metrics,
        log: options.record.map(Log::new),
        events,
    };
    let (stopped, mut has_stopped) = oneshot::channel();
    let (commands, thread) = deployment::start(setting, stopped).map_err(ServeError::Start)?;
    let hash = xxhash_rust::xxh3::xxh3_64(options.configuration.as_bytes()) as u32;
    let fingerprint = format!("vllm-{}-{hash:08x}", http::VLLM_VERSION);
    let api_key = options.api_key;
    let front =
        Front { served, fingerprint, api_key, seed, tokenizer, output, log, commands: commands.clone() };
    let addresses: Vec<SocketAddr> = ports.iter().map(|port| port.address).collect();
    let numbers = Arc::default();
    let open = |Port { listener, worker, .. }: Port| {
        let app = App::new(front.clone(), worker, Arc::clone(&numbers));
        tokio::spawn(http::serve(listener, Arc::new(app)))
    };
    let connections: Vec<_> = ports.into_iter().map(open).collect();
    ready(&addresses);
    let mut stop = std::pin::pin!(stop);
    let outcome = std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(outcome) = std::pin::Pin::new(&mut has_stopped).poll(context) {
            return std::task::Poll::Ready(Some(outcome));
        }
        stop.as_mut().poll(context).map(|()| None)
    })
    .await;
    connections.iter().for_each(tokio::task::JoinHandle::abort);
    let outcome = if let Some(outcome) = outcome {
        outcome
    } else {
        // It may have ended by itself meanwhile.
        let _ = commands.send(Command::Close);
        has_stopped.await
    };
    // A thread that has said why it ends ends; one that panicked has told of it.
    let _ = thread.join();
    match outcome {
        Ok(outcome) => outcome.map_err(ServeError::from),
        Err(_) => Err(ServeError::Start(io::Error::other("the deployment stopped at a bug of servecast"))),
    }
}

/// A port that is open.
struct Port {
    listener: TcpListener,
    address: SocketAddr,
    /// The worker behind it, if it is just one.
    worker: Option<WorkerId>,
}

/// Opens all ports.
async fn listen(options: &ServeOptions) -> Result<Vec<Port>, ServeError> {
    let mut wanted: Vec<_> = options.address.into_iter().map(|address| (address, None)).collect();
    if let Some(first) = options.workers {
        let workers: u32 = options.topology.groups().map(|(_, workers, _)| workers).sum();
        for worker in 0..workers {
            // Port 0 is any free one, for each of them.
            let offset = if first.port() == 0 { 0 } else { worker };
            let port = u16::try_from(u32::from(first.port()).saturating_add(offset));
            let none = |_| ServeError::Listen {
                address: first,
                source: io::Error::other("there are not that many ports"),
            };
            wanted.push((SocketAddr::new(first.ip(), port.map_err(none)?), Some(WorkerId(worker))));
        }
    }
    let mut ports = Vec::new();
    for (address, worker) in wanted {
        let failed = |source| ServeError::Listen { address, source };
        let listener = http::listen(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        ports.push(Port { listener, address, worker });
    }
    Ok(ports)
}

/// The time of now, as RFC 3339 has it.
pub fn now() -> String {
    clock::rfc3339(clock::unix_time())
}

/// Opens the sockets of KV events, and begins to publish what workers tell.
fn publish(options: &mut ServeOptions) -> Result<Option<Feed>, ServeError> {
    let Some(config) = options.kv_events.take() else { return Ok(None) };
    options.options.tracing.kv_events = true;
    let sizes =
        options.topology.groups().flat_map(|(_, workers, engine)| (0..workers).map(|_| engine.block_size()));
    let sizes: Vec<u32> = sizes.collect();
    let channels = config.channels(sizes.len() as u32).map_err(ServeError::KvEvents)?;
    // Behind one port workers are ranks of one server; with ports of their own, each is a server.
    let is_server = options.workers.is_some();
    let sources = channels.into_iter().zip(sizes).zip(0..).map(|((channel, block_size), worker)| {
        let opened = channel.open().map_err(|(address, source)| ServeError::Listen { address, source })?;
        Ok(Source { channel, opened, block_size, rank: if is_server { 0 } else { worker } })
    });
    let sources = sources.collect::<Result<Vec<Source>, ServeError>>()?;
    Feed::start(&config, sources).map(Some).map_err(ServeError::Start)
}

/// Ends when the process is told to: by Ctrl-C, or by `kill`.
pub async fn told_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return std::future::pending().await;
        };
        std::future::poll_fn(|context| {
            if interrupt.poll_recv(context).is_ready() || terminate.poll_recv(context).is_ready() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
