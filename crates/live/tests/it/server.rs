//! A server of a test.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use servecast_cluster::{PoolEngine, SimulationOptions, Topology};
use servecast_engine::EngineArgs;
use servecast_live::{
    Dialect, Faults, LengthLaw, OutputLength, OutputText, ServeError, ServeOptions, Timeouts, Tokenizer,
    serve,
};
use servecast_types::Duration;
use tokio::sync::oneshot;

/// A server at work; it stops when it is dropped.
pub(crate) struct Server {
    /// The first of its ports.
    pub(crate) address: SocketAddr,
    pub(crate) ports: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

/// What the recorded server was started with, and iterations that take 1 ms.
pub(crate) fn recorded() -> Value {
    json!({
        "block_size": 32, "num_gpu_blocks": 200, "max_num_seqs": 8, "max_num_batched_tokens": 1024,
        "max_model_len": 2048, "latency": "linear:1000,0,0",
    })
}

/// The deployment of one engine.
pub(crate) fn topology(workers: u32, engine: &Value) -> Topology {
    let args = EngineArgs::from_json(engine.clone()).unwrap();
    let config = args.validate(None).unwrap();
    Topology::aggregated(PoolEngine { workers, args: &args, config: &config }).unwrap()
}

pub(crate) fn options(topology: Topology) -> ServeOptions {
    ServeOptions {
        address: Some(([127, 0, 0, 1], 0).into()),
        workers: None,
        dialect: Dialect::Vllm,
        topology,
        options: SimulationOptions { check: true, ..SimulationOptions::default() },
        model: "tiny".to_owned(),
        max_model_len: Some(2048),
        prefix_caching: true,
        tokenizer: Tokenizer::built_in(),
        output: OutputText::Lorem,
        output_length: OutputLength { tokens: 64, law: LengthLaw::Constant },
        speed: 1.0,
        api_key: None,
        dev_mode: false,
        timeouts: Timeouts::default(),
        configuration: "a test".to_owned(),
        log: None,
        record: None,
        kv_events: None,
        faults: Faults::default(),
        startup: Duration::ZERO,
        admin: None,
    }
}

impl Server {
    /// One engine like the recorded one.
    pub(crate) fn new() -> Self {
        Self::with(options(topology(1, &recorded())))
    }

    pub(crate) fn with(options: ServeOptions) -> Self {
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let ready = move |ports: &[SocketAddr]| ready.send(ports.to_vec()).unwrap();
            serve(options, ready, async move {
                let _ = stopped.await;
            })
        });
        let ports: Vec<SocketAddr> = is_ready.recv().expect("the server is ready");
        Self { address: ports[0], ports, stop: Some(stop), thread: Some(thread) }
    }

    /// Stops it, and says how that went.
    pub(crate) fn stop(mut self) -> Result<(), ServeError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), ServeError> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("the server does not panic"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end()
            && !std::thread::panicking()
        {
            panic!("{error}");
        }
    }
}

/// A file that others can look into.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Shared {
    pub(crate) fn content(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
