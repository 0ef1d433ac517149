//! Runs a workload on a deployment: as fast as it can, or by a clock.

use std::sync::Arc;

use servecast_engine::{EngineConfig, Order};
use servecast_record::RunRecord;
use servecast_types::{Role, WorkerId};
use servecast_workload::{Turn, Workload};

use crate::cluster::Cluster;
use crate::config::{PoolConfig, SimulationOptions, Topology};
use crate::drive::{Timer, VirtualClock, WallClock, drive};
use crate::observer::Dynamic;
use crate::replay::Replay;
use crate::stamped::{Stamp, Stamped};
use crate::streamed::Streamed;
use crate::{ClusterError, Observer, Pick, RunError};

/// A deployment and the load on it.
#[derive(Debug)]
pub struct Simulation {
    cluster: Cluster,
    replay: Replay,
    /// Names of the classes of requests.
    classes: Vec<Box<str>>,
    /// Names of the adapters that they ask for.
    loras: Vec<Box<str>>,
}

impl Simulation {
    /// Puts a workload in front of a deployment.
    pub fn new(
        topology: &Topology,
        mut workload: Workload,
        options: &SimulationOptions,
    ) -> Result<Self, ClusterError> {
        takes_loras(topology, &workload)?;
        let names = std::mem::take(&mut workload.names);
        let (classes, loras) = (std::mem::take(&mut workload.classes), std::mem::take(&mut workload.loras));
        let replay = Replay::new(workload, options.load, topology.front_host())?;
        let mut cluster = Cluster::new(topology, options);
        cluster.name_contents(names);
        Ok(Self { cluster, replay, classes, loras })
    }

    /// Puts a policy of one's own in front of each pool, which `make` gives for its role; a router that the options name is
    /// not used then.
    #[must_use]
    pub fn with_policy(mut self, make: impl FnMut(Role) -> Box<dyn Pick>) -> Self {
        self.cluster.set_policies(make);
        self
    }

    /// Puts an order of one's own before the waiting requests of each worker of a pool, which `make` gives for its role;
    /// `None` leaves the pool with the order of its engine.
    #[must_use]
    pub fn with_order(mut self, make: impl FnMut(Role) -> Option<Arc<dyn Order>>) -> Self {
        self.cluster.set_orders(make);
        self
    }

    /// Names of the classes of requests, by their numbers.
    pub fn classes(&self) -> &[Box<str>] {
        &self.classes
    }

    /// Whether the workload tells classes of requests apart.
    pub fn has_classes(&self) -> bool {
        !self.classes.is_empty()
    }

    /// Fixes which worker of each pool serves a turn of a session, whatever the router says: to replay recorded
    /// decisions. A worker that cannot serve the prompt, where others of its pool can, is not taken.
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
        Ok(RunRecord { classes: self.classes, loras: self.loras, ..self.cluster.finish(end)? })
    }

    /// [`Simulation::run`] with an observer of any type. `run` is compiled anew for each type, some 80 kB of code, and a little
    /// quicker.
    ///
    /// # Panics
    /// As [`Simulation::run`].
    pub fn run_dyn(self, observer: &mut dyn Observer) -> Result<RunRecord, RunError> {
        self.run(&mut Dynamic(observer))
    }

    /// Runs requests as they come from `feed`, each a session of its own at its time, with the number of the session: in
    /// order of their times, and of their lines where those are equal. What [`Simulation::run`] makes of them as a workload
    /// comes of it, but memory goes with the requests that are under way: the record has none of them, and `observer` is
    /// [told](Observer::ended) of each when it has ended.
    ///
    /// The load of the options is not looked at.
    ///
    /// # Panics
    /// As [`Simulation::run`].
    pub fn run_streamed(
        topology: &Topology,
        options: &SimulationOptions,
        feed: impl Iterator<Item = (u32, Turn)>,
        observer: &mut impl Observer,
    ) -> Result<RunRecord, RunError> {
        let mut cluster = Cluster::new(topology, options);
        cluster.hand_out();
        let mut source = Streamed::new(feed, topology.front_host());
        let end = drive(&mut cluster, &mut source, &mut VirtualClock, &mut Dynamic(observer))?;
        cluster.finish(end)
    }

    /// Runs by the clock of `timer`: a turn is sent when the clock wakes for it, which is said with the record. When `stop`
    /// says so, asked each time it wakes, nothing more is sent, and what is under way is taken back.
    ///
    /// Replayed from the stamps, whoever watches, every request is served as it was here.
    ///
    /// # Panics
    /// As [`Simulation::run`].
    pub fn run_online(
        mut self,
        timer: impl Timer,
        stop: impl FnMut() -> bool,
        observer: &mut impl Observer,
    ) -> Result<(RunRecord, Vec<Stamp>), RunError> {
        let mut source = Stamped::new(self.replay, stop);
        let end = drive(&mut self.cluster, &mut source, &mut WallClock::new(timer), &mut Dynamic(observer))?;
        let record = RunRecord { classes: self.classes, loras: self.loras, ..self.cluster.finish(end)? };
        Ok((record, source.into_stamps()))
    }
}

/// Refuses requests for adapters that a worker, to whom they may come, takes none of.
fn takes_loras(topology: &Topology, workload: &Workload) -> Result<(), ClusterError> {
    let Some(lora) = workload.loras.first() else { return Ok(()) };
    let takes = |pool: &&PoolConfig| pool.engines().all(EngineConfig::takes_loras);
    match topology.pools.iter().find(|pool| !takes(pool)) {
        Some(pool) => Err(ClusterError::NoLoras { lora: lora.to_string(), pool: pool.role }),
        None => Ok(()),
    }
}
