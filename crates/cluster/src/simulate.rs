//! The virtual-clock driver: runs a workload on a deployment, as fast as it can.

use std::ops::ControlFlow;

use servecast_engine::{Decodes, Iteration};
use servecast_record::{RunRecord, SoFar};
use servecast_types::{Role, Time, WorkerId};
use servecast_workload::Workload;

use crate::cluster::{Cluster, Routed};
use crate::config::{SimulationOptions, Topology};
use crate::drive::{VirtualClock, drive};
use crate::replay::Replay;
use crate::{ClusterError, Pick, RunError};

/// Follows a run while it goes on.
pub trait Observer {
    /// An iteration of a worker ended. Requests are numbered in order of arrival.
    fn iteration(&mut self, _pool: Role, _worker: WorkerId, _iteration: &Iteration) {}

    /// Iterations of a worker ended in which each running request got a token. Unless a run is
    /// [plain](SimulationOptions::plain), such iterations are told of here and not in [`Observer::iteration`], and what
    /// decodes beside prompts is only [counted](Iteration::decoded) there.
    fn decoded(&mut self, _pool: Role, _worker: WorkerId, _decodes: &Decodes) {}

    /// A KV-aware router sent a request to a worker.
    fn routed(&mut self, _routed: &Routed) {}

    /// Whether the run is to end at once; asked each time a worker has gone some way by itself.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// What is recorded when `ended` requests have ended, asked beside [`Observer::progress`]; `Break` ends the run.
    fn recorded(&mut self, _so_far: &SoFar<'_>, _ended: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// The clock moved on and `ended` requests have ended so far; `Break` ends the run.
    fn progress(&mut self, _now: Time, _ended: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// An observer that looks away.
impl Observer for () {}

/// A deployment and the load on it.
#[derive(Debug)]
pub struct Simulation {
    cluster: Cluster,
    replay: Replay,
}

impl Simulation {
    /// Puts a workload in front of a deployment.
    pub fn new(
        topology: &Topology,
        mut workload: Workload,
        options: &SimulationOptions,
    ) -> Result<Self, ClusterError> {
        let names = std::mem::take(&mut workload.names);
        let replay = Replay::new(workload, options.load, topology.front_host())?;
        let mut cluster = Cluster::new(topology, options);
        cluster.name_contents(names);
        Ok(Self { cluster, replay })
    }

    /// Puts a policy of one's own in front of each pool, which `make` gives for its role; a router that the options name is
    /// not used then.
    #[must_use]
    pub fn with_policy(mut self, make: impl FnMut(Role) -> Box<dyn Pick>) -> Self {
        self.cluster.set_policies(make);
        self
    }

    /// Fixes which worker of each pool serves a turn of a session, whatever the router says: to replay recorded
    /// decisions.
    ///
    /// # Panics
    /// When the run comes to it and there is no such worker.
    pub fn force_placement(&mut self, session: u32, turn: u32, workers: impl IntoIterator<Item = WorkerId>) {
        self.replay.force_placement(session, turn, workers.into_iter().collect());
    }

    /// Runs until every request has ended.
    ///
    /// # Panics
    /// If servecast has a bug that leaves it no other way out. Invariants that do not hold are errors; a
    /// [checked](SimulationOptions::check) run looks for more of them.
    pub fn run(mut self, observer: &mut impl Observer) -> Result<RunRecord, RunError> {
        let end = drive(&mut self.cluster, &mut self.replay, &mut VirtualClock, observer)?;
        self.cluster.finish(end)
    }
}
