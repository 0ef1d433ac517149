//! A simulated deployment behind the HTTP API of a real one.
//!
//! ```text
//!  clients ──HTTP──▶ http ──Command──▶ deployment: a thread that drives a Cluster by the clock
//!     ▲               │                     │
//!     └── frames ── generate ◀───Event──────┘
//! ```
//!
//! Handlers run in a few asynchronous threads, the deployment in one of its own; what they share are channels. Prompts that
//! take long to cut into tokens have threads beside these, so that the streams of others go on. The simulation is
//! that of a replay, and knows nothing of sockets: a request is stamped when the deployment takes it, so that a run can be
//! recorded and replayed.

mod admin;
mod answer;
mod app;
mod blocking;
mod choice;
mod clock;
mod content;
mod deployment;
mod error;
mod events;
mod faults;
mod generate;
mod http;
mod length;
mod log;
mod metrics;
mod output;
mod params;
mod patience;
mod pieces;
mod ports;
mod record;
mod request;
mod responses;
mod sglang;
mod tokenizer;
mod traffic;

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use servecast_cluster::{RunError, SimulationOptions, Topology};
use servecast_engine::EngineConfig;
use servecast_types::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::app::{App, Front};
use crate::deployment::{Command, DeploymentError, Letter, Setting};
use crate::events::{Feed, Source};
use crate::metrics::Metrics;
use crate::output::Output;
use crate::ports::{Doors, listen};
use crate::record::Log;
use crate::request::Served;

pub use crate::events::{EventFormat, HashAlgorithm, KvEventsConfig, KvEventsError};
pub use crate::faults::{Fail, FaultError, Faults, MaxQueue, Stall};
pub use crate::http::Timeouts;
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
    /// Tokens of prompt and answer together, as far as settings or the model say so; no more than the KV cache of each worker
    /// holds.
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
    /// Whether there are routes that change the server, as vLLM has them in its development mode.
    pub dev_mode: bool,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// All settings as text, whose hash clients get as `system_fingerprint`.
    pub configuration: String,
    /// Where a line for each request is written.
    pub log: Option<RequestLog>,
    /// Where requests are recorded, as a trace.
    pub record: Option<Box<dyn Write + Send>>,
    /// How workers tell of their KV caches, if they do.
    pub kv_events: Option<KvEventsConfig>,
    /// What goes wrong on purpose.
    pub faults: Faults,
    /// How long workers take to start; until then nobody is listening.
    pub startup: Duration,
    /// The port where workers are failed and started again, if there is one.
    pub admin: Option<SocketAddr>,
}

/// The longest that a server takes to start, in seconds of the machine: a year.
const LONGEST_STARTUP: f64 = 365.0 * 86400.0;

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

/// Threads for connections, where there are as many processors: the tokens of a pass are due together, so that the last one
/// waits until all others are sent.
const MOST_THREADS: usize = 4;

/// Serves until `stop` says so: then the port closes at once, and what is under way is taken back. `ready` is told when
/// clients may come, with all ports.
pub fn serve(
    options: ServeOptions,
    ready: impl FnOnce(&[SocketAddr]),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).max_blocking_threads(blocking::MOST_THREADS);
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(ServeError::Start)?;
    let outcome = runtime.block_on(serve_on(options, ready, stop));
    // Nobody waits for prompts that are being cut into tokens.
    runtime.shutdown_background();
    outcome
}

/// Lets workers start, who serve nobody meanwhile; returns whether the server was stopped before they had.
async fn is_stopped_at_startup(
    options: &ServeOptions,
    stop: impl Future<Output = ()>,
) -> Result<bool, ServeError> {
    // What cannot be had is found out before anybody waits.
    drop(listen(options)?);
    let seconds = (options.startup.as_secs() / options.speed).min(LONGEST_STARTUP);
    let startup = std::time::Duration::from_secs_f64(seconds);
    Ok(tokio::time::timeout(startup, stop).await.is_ok())
}

/// Tokens that the KV cache of every worker holds.
pub fn least_capacity(topology: &Topology) -> u32 {
    let tokens = |engine: &EngineConfig| u64::from(engine.usable_blocks()) * u64::from(engine.block_size());
    let least = topology.groups().map(|(_, _, engine)| tokens(engine)).min();
    u32::try_from(least.unwrap_or(0)).unwrap_or(u32::MAX)
}

async fn serve_on(
    mut options: ServeOptions,
    ready: impl FnOnce(&[SocketAddr]),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut stop = std::pin::pin!(stop);
    if options.startup > Duration::ZERO && is_stopped_at_startup(&options, stop.as_mut()).await? {
        return Ok(());
    }
    let ports = listen(&options)?;
    let admin = match options.admin {
        None => None,
        Some(address) => Some(ports::bind(address)?),
    };
    let events = publish(&mut options)?;
    // Nobody asks for a report, and a server may go on for weeks.
    options.options.keep_ended = false;
    let tokenizer = Arc::new(options.tokenizer);
    let output = Arc::new(Output::new(&options.output, &tokenizer).map_err(ServeError::Output)?);
    let max_model_len = options.max_model_len.unwrap_or(u32::MAX).min(least_capacity(&options.topology));
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
    let (lives, mut changes) = mpsc::unbounded_channel();
    let (letters, posted) = mpsc::unbounded_channel();
    let setting = Setting {
        topology: options.topology,
        options: options.options,
        speed: options.speed,
        metrics,
        log: options.record.map(Log::new),
        events,
        startup: options.startup,
        lives,
        letters,
    };
    tokio::spawn(hand_on(posted));
    let (stopped, mut has_stopped) = oneshot::channel();
    let (commands, thread) = deployment::start(setting, stopped).map_err(ServeError::Start)?;
    let hash = xxhash_rust::xxh3::xxh3_64(options.configuration.as_bytes()) as u32;
    let fingerprint = format!("vllm-{}-{hash:08x}", http::VLLM_VERSION);
    let (api_key, dev_mode, timeouts) = (options.api_key, options.dev_mode, options.timeouts);
    let faults = options.faults;
    let of_front = commands.clone();
    let front = Front {
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
        commands: of_front,
    };
    let mut addresses: Vec<SocketAddr> = ports.iter().map(|port| port.address).collect();
    addresses.extend(admin.as_ref().map(|(_, address)| *address));
    let numbers = Arc::default();
    let mut doors = Doors::open(ports, |worker| App::new(front.clone(), worker, Arc::clone(&numbers)));
    let mut admins = JoinSet::new();
    if let Some((listener, _)) = admin {
        let commands = commands.clone();
        admins.spawn(http::serve_by(listener, timeouts, move |request| {
            admin::answer(request, commands.clone())
        }));
    }
    ready(&addresses);
    let outcome = std::future::poll_fn(|context| {
        if let Poll::Ready(outcome) = Pin::new(&mut has_stopped).poll(context) {
            return Poll::Ready(Some(outcome));
        }
        while let Poll::Ready(Some((worker, is_up))) = changes.poll_recv(context) {
            doors.worker_changed(worker, is_up);
        }
        stop.as_mut().poll(context).map(|()| None)
    })
    .await;
    doors.close().await;
    admins.shutdown().await;
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

/// Hands on what the deployment posts.
async fn hand_on(mut posted: mpsc::UnboundedReceiver<Vec<Letter>>) {
    while let Some(letters) = posted.recv().await {
        letters.into_iter().for_each(Letter::deliver);
    }
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
