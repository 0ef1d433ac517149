//! Replays by the clock of the machine: a run takes as long as it says, or a fraction of that.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::time::Instant;

use servecast_cluster::{
    CaughtUp, Detail, Observer, Routed, RunError, Simulation, Stamp, Timer, WorkerChange,
};
use servecast_engine::{Decodes, Iteration, Joined};
use servecast_record::{RunRecord, SoFar, TokenGaps};
use servecast_report::Online;
use servecast_types::{Duration, Role, Time, WorkerId};
use servecast_workload::{TraceRow, stamp_rows};

/// How long nobody looks whether the run is to end.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

/// What came of an online replay.
#[derive(Debug)]
pub struct OnlineRun {
    /// What happened to every request that was sent.
    pub record: RunRecord,
    /// How well it kept to the clock.
    pub clock: Online,
    /// When each turn was sent.
    pub stamps: Vec<Stamp>,
    /// Whether it was ended before everything was served.
    pub was_stopped: bool,
}

impl OnlineRun {
    /// The rows of the load as they were sent, for a trace.
    pub fn stamped(&self, rows: Vec<TraceRow>, block_size: u32) -> Vec<TraceRow> {
        stamp_rows(rows, block_size, self.stamps.iter().map(|stamp| (stamp.line, stamp.at)))
    }
}

/// Runs a simulation `speed` times as fast as the clock of the machine. When `stop` says so, asked every 20 ms or so,
/// nothing more is sent, and what is under way is taken back.
pub fn run_online(
    simulation: Simulation,
    speed: f64,
    stop: impl FnMut() -> bool,
    observer: &mut impl Observer,
) -> Result<OnlineRun, RunError> {
    let is_over = Cell::new(false);
    let stop = RefCell::new(stop);
    let look = || {
        is_over.set(is_over.get() || (stop.borrow_mut())());
        is_over.get()
    };
    let machine = Machine { started: Cell::new(None), speed };
    let timer = Sleeper { machine: &machine, stop: look };
    let mut timed = Timed { observer, machine: &machine, last: None, lateness: TokenGaps::default() };
    let (record, stamps) = simulation.run_online(timer, look, &mut timed)?;
    let clock = Online { speed, lateness: timed.lateness };
    Ok(OnlineRun { record, clock, stamps, was_stopped: is_over.get() })
}

/// The clock of the machine, from the first look at it on.
#[derive(Debug)]
struct Machine {
    started: Cell<Option<Instant>>,
    speed: f64,
}

impl Machine {
    /// The time of the run.
    fn now(&self) -> Time {
        let now = wall_clock();
        let started = self.started.get().unwrap_or_else(|| {
            self.started.set(Some(now));
            now
        });
        // Rounded to whole nanoseconds, which saturate.
        Time::from_ns((now.duration_since(started).as_secs_f64() * self.speed * 1e9) as u64)
    }

    /// How long a time of the run takes.
    fn real(&self, length: Duration) -> f64 {
        length.as_secs() / self.speed
    }
}

/// The only clock of a run that waits.
#[expect(clippy::disallowed_methods, reason = "an online replay goes by the clock of the machine")]
fn wall_clock() -> Instant {
    Instant::now()
}

/// Sleeps, and looks now and then whether the run is to end.
struct Sleeper<'a, F> {
    machine: &'a Machine,
    stop: F,
}

impl<F: FnMut() -> bool> Timer for Sleeper<'_, F> {
    fn now(&mut self) -> Time {
        self.machine.now()
    }

    #[expect(clippy::disallowed_methods, reason = "an online replay waits for its clock")]
    fn sleep(&mut self, until: Option<Time>) {
        loop {
            let left =
                until.map_or(f64::INFINITY, |until| self.machine.real(until.since(self.machine.now())));
            if left <= 0.0 || (self.stop)() {
                return;
            }
            std::thread::sleep(LOOK_EVERY.min(std::time::Duration::from_secs_f64(left.min(1.0))));
        }
    }
}

/// Measures how late things happen, and hands them on.
struct Timed<'a, O> {
    observer: &'a mut O,
    machine: &'a Machine,
    /// The last instant that was measured.
    last: Option<Time>,
    lateness: TokenGaps,
}

impl<O: Observer> Observer for Timed<'_, O> {
    fn detail(&self) -> Detail {
        self.observer.detail()
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.observer.iteration(pool, worker, iteration);
    }

    fn joined(&mut self, pool: Role, worker: WorkerId, joined: Joined, now: Time) {
        self.observer.joined(pool, worker, joined, now);
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        self.observer.decoded(pool, worker, decodes);
    }

    fn caught_up(&mut self, pool: Role, worker: WorkerId, caught_up: CaughtUp) {
        self.observer.caught_up(pool, worker, caught_up);
    }

    fn settled(&mut self, until: Time) {
        self.observer.settled(until);
    }

    fn routed(&mut self, routed: &Routed) {
        self.observer.routed(routed);
    }

    fn worker_changed(&mut self, change: &WorkerChange) {
        self.observer.worker_changed(change);
    }

    fn is_interrupted(&self) -> bool {
        self.observer.is_interrupted()
    }

    fn recorded(&mut self, so_far: &SoFar<'_>, ended: u64) -> ControlFlow<()> {
        self.observer.recorded(so_far, ended)
    }

    fn progress(&mut self, now: Time, ended: u64) -> ControlFlow<()> {
        if self.last.replace(now) != Some(now) {
            let late = self.machine.real(self.machine.now().since(now));
            self.lateness.add(Duration::from_secs(late).unwrap_or(Duration::from_ns(u64::MAX)), 1);
        }
        self.observer.progress(now, ended)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use servecast_cluster::LoadMode;
    use servecast_workload::{Load, Workload, read_mooncake, write_mooncake};

    use super::*;
    use crate::plan::Plan;
    use crate::replay::{Replay, layers};

    /// Six sessions of two turns each on two workers behind a KV router.
    fn plan(more: &serde_json::Value) -> Plan {
        let mut settings = json!({
            "num_workers": 2, "router_mode": "kv_router", "input_tokens": 300, "output_tokens": 20, "request_count": 6,
            "arrival_interval_ms": 5, "turns_per_session": 2, "inter_turn_delay_ms": 10, "num_prefix_groups": 2,
            "shared_prefix_ratio": 0.5, "replay_mode": "online", "speed": 20,
        });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let replay = Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() };
        Plan::new(layers(&replay).unwrap()).unwrap()
    }

    #[test]
    fn what_the_clock_of_the_machine_did_can_be_replayed() {
        for more in [
            json!({}),
            json!({"replay_concurrency": 3}),
            json!({"num_workers": null, "num_prefill_workers": 2, "num_decode_workers": 2, "router_mode": "round_robin"}),
        ] {
            let plan = plan(&more);
            let rows = plan.source.rows(plan.block_size, &plan.layers).unwrap();
            let (kept, block_size) = (rows.rows().to_vec(), rows.block_size());
            let workload = rows.into_workload(plan.load, &plan.layers).unwrap();
            let simulation = Simulation::new(&plan.topology, workload, &plan.options()).unwrap();
            let live = run_online(simulation, plan.online.unwrap(), || false, &mut ()).unwrap();
            assert!(!live.was_stopped && live.record.requests.len() == 12);
            assert!(live.clock.lateness.sum_ms() > 0.0);

            let mut log = Vec::new();
            write_mooncake(&live.stamped(kept, block_size), &mut log).unwrap();
            let open = Load::Open { arrival_speedup_ratio: 1.0 };
            let workload: Workload =
                read_mooncake(&log[..]).unwrap().into_workload(block_size, open).unwrap();
            let options = servecast_cluster::SimulationOptions { load: LoadMode::OpenLoop, ..plan.options() };
            let again = Simulation::new(&plan.topology, workload, &options).unwrap().run(&mut ()).unwrap();
            assert_eq!(live.record.requests, again.requests);
            assert_eq!(live.record.gaps, again.gaps);
            assert_eq!(live.record.pools, again.pools);
        }
    }

    #[test]
    fn a_run_that_is_stopped_takes_back_what_is_under_way() {
        let plan = plan(&json!({"arrival_interval_ms": 1000, "output_tokens": 5000, "speed": 1}));
        let workload = plan.source.load(plan.load, plan.block_size, &plan.layers).unwrap();
        let simulation = Simulation::new(&plan.topology, workload, &plan.options()).unwrap();
        let mut looks = 0;
        let stop = || {
            looks += 1;
            looks > 3
        };
        let live = run_online(simulation, 1.0, stop, &mut ()).unwrap();
        assert!(live.was_stopped);
        let report = servecast_report::summarize(&live.record, &servecast_report::SummaryOptions::default());
        assert_eq!((report.num_requests, report.withdrawn_requests), (1, Some(1)));
    }
}
