use servecast_engine::{Engine, EngineTracing};
use servecast_types::{Prompt, WorkerId};

use crate::config::PoolConfig;
use crate::record::PoolRole;
use crate::routing::{Router, RouterOptions};

/// The workers of one stage and the router in front of them.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) role: PoolRole,
    pub(crate) engines: Vec<Engine>,
    /// Requests that each worker has.
    pub(crate) in_flight: Vec<u32>,
    /// Whether each worker has an iteration in flight.
    pub(crate) busy: Vec<bool>,
    router: Router,
}

impl Pool {
    pub(crate) fn new(
        config: &PoolConfig,
        number: u64,
        router: RouterOptions,
        seed: u64,
        tracing: EngineTracing,
    ) -> Self {
        let workers = config.workers as usize;
        Self {
            role: config.role,
            engines: (0..workers).map(|_| Engine::new(config.engine.clone(), tracing)).collect(),
            in_flight: vec![0; workers],
            busy: vec![false; workers],
            router: Router::new(router, workers, config.engine.block_size(), seed, number),
        }
    }

    /// Chooses the worker of the next request, which is in flight there from now on; `forced` overrules the router.
    pub(crate) fn assign(&mut self, prompt: &Prompt, forced: Option<WorkerId>) -> WorkerId {
        let choice = self.router.pick(prompt, &self.in_flight);
        let worker = forced.unwrap_or(choice);
        self.in_flight[worker.index()] += 1;
        worker
    }

    /// A request has left a worker.
    pub(crate) fn leave(&mut self, worker: WorkerId) {
        self.in_flight[worker.index()] -= 1;
    }
}
