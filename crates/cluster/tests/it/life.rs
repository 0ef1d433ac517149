//! Workers that come and go: who gets requests then, what becomes of those that they have, and that nothing is lost.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use servecast_cluster::{
    CaughtUp, ChangeError, Cluster, Control, Detail, LoadMode, Observer, PoolEngine, Replay, RouterMode,
    RouterOptions, RunError, SimulationOptions, TokenLog, Topology, VirtualClock, WorkerChange, WorkerState,
    WorkerView, drive_with,
};
use servecast_engine::{Decodes, EngineArgs, Iteration};
use servecast_latency::Host;
use servecast_record::{RequestStatus, RunRecord};
use servecast_types::{PoolId, Prompt, RequestId, Role, Run, Time, WorkerId};
use servecast_workload::{Load, Session, Turn, TurnStart, Workload};

use crate::properties::cases;
use crate::scenario::{Scenario, any_scenario, config_of, deployment, host_of};

fn ms(ms: u64) -> Time {
    Time::from_ns(ms * 1_000_000)
}

#[derive(Debug, Clone, Copy)]
enum Command {
    /// One of this group, to be ready so many milliseconds later.
    Add(usize, u64),
    Drain(u32),
    Fail(u32),
    Restart(u32, u64),
    /// Its prefix cache is emptied, if it has nothing to do.
    Reset(u32),
}

/// Changes at fixed times, first one in front; of a pool that has a worker of that number.
#[derive(Debug, Clone, Default)]
struct Timetable {
    changes: Vec<(Time, PoolId, Command)>,
    /// What was refused.
    refused: Vec<ChangeError>,
    /// Whether caches were emptied.
    resets: Vec<bool>,
}

impl Control for Timetable {
    fn next(&self) -> Option<Time> {
        self.changes.first().map(|&(at, ..)| at)
    }

    fn act(&mut self, now: Time, cluster: &mut Cluster) {
        while self.next().is_some_and(|at| at <= now) {
            let (_, pool, command) = self.changes.remove(0);
            let delayed = |ms: u64| now + servecast_types::Duration::from_ns(ms * 1_000_000);
            let done = match command {
                Command::Add(group, delay) => cluster.add_worker(pool, group, delayed(delay)).map(|_| ()),
                Command::Drain(worker) => cluster.drain_worker(pool, WorkerId(worker)),
                Command::Fail(worker) => cluster.fail_worker(pool, WorkerId(worker)),
                Command::Restart(worker, delay) => {
                    cluster.restart_worker(pool, WorkerId(worker), delayed(delay))
                }
                Command::Reset(worker) => {
                    let reset = cluster.reset_prefix_cache(pool, WorkerId(worker));
                    reset.map(|is_reset| self.resets.push(is_reset))
                }
            };
            self.refused.extend(done.err());
        }
    }
}

/// Notes what workers go through, and when every token came.
#[derive(Debug)]
struct Lives {
    changes: Vec<WorkerChange>,
    tokens: TokenLog,
}

impl Observer for Lives {
    fn detail(&self) -> Detail {
        Detail::Tokens
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.tokens.iteration(pool, worker, iteration);
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        self.tokens.decoded(pool, worker, decodes);
    }

    fn caught_up(&mut self, pool: Role, worker: WorkerId, caught_up: CaughtUp) {
        self.tokens.caught_up(pool, worker, caught_up);
    }

    fn worker_changed(&mut self, change: &WorkerChange) {
        self.tokens.worker_changed(change);
        self.changes.push(*change);
    }
}

impl Lives {
    fn new(topology: &Topology) -> Self {
        Self { changes: Vec::new(), tokens: TokenLog::new(topology) }
    }

    /// The states of a worker, with when it came to each, the first one not among them.
    fn of(&self, pool: Role, worker: u32) -> Vec<(WorkerState, Time)> {
        let is_of = |change: &&WorkerChange| (change.pool, change.worker) == (pool, WorkerId(worker));
        self.changes.iter().filter(is_of).map(|change| (change.state, change.at)).collect()
    }
}

/// Requests of so many tokens each; those of one family begin alike.
fn workload(requests: &[(u64, u32, u32, u32)]) -> Workload {
    let session = |(line, &(at, family, input, output)): (usize, &(u64, u32, u32, u32))| Session {
        name: None,
        turns: [Turn {
            line: line as u64 + 1,
            start: TurnStart::At(ms(at)),
            prompt: Prompt::new([Run::tokens(family * 10_000, input)]),
            output_tokens: output,
            priority: 0,
            stop_after: None,
            output: None,
            class: None,
            lora: None,
            grammar: None,
        }]
        .into(),
        waits: None,
    };
    Workload { sessions: requests.iter().enumerate().map(session).collect(), ..Workload::default() }
}

fn engine(settings: &serde_json::Value) -> EngineArgs {
    let mut engine = json!({"block_size": 4, "num_gpu_blocks": 1000, "latency": "linear:1000,0,0"});
    engine.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    EngineArgs::from_json(engine).unwrap()
}

fn aggregated(workers: u32) -> Topology {
    let args = engine(&json!({}));
    let config = args.validate(None).unwrap();
    Topology::aggregated(PoolEngine { workers, args: &args, config: &config }).unwrap()
}

fn routed_by(mode: RouterMode) -> SimulationOptions {
    let router = RouterOptions { mode, prefix_hash_blocks: 2, ..RouterOptions::default() };
    SimulationOptions { router, check: true, ..SimulationOptions::default() }
}

/// Runs requests on a deployment that changes, and also request by request, which must give the same.
fn run(
    topology: &Topology,
    options: &SimulationOptions,
    requests: &[(u64, u32, u32, u32)],
    changes: &[(u64, u16, Command)],
) -> Result<(RunRecord, Lives, Timetable), RunError> {
    let run = |plain| {
        let options = SimulationOptions { plain, ..options.clone() };
        let mut cluster = Cluster::new(topology, &options);
        let mut source = Replay::new(workload(requests), LoadMode::OpenLoop, Host::NONE).unwrap();
        let changes = changes.iter().map(|&(at, pool, command)| (ms(at), PoolId(pool), command)).collect();
        let mut timetable = Timetable { changes, ..Timetable::default() };
        let mut lives = Lives::new(topology);
        let end = drive_with(&mut cluster, &mut source, &mut VirtualClock, &mut timetable, &mut lives)?;
        Ok((cluster.finish(end)?, lives, timetable))
    };
    let (fast, plain) = (run(false), run(true));
    if let (Ok((fast, ..)), Ok((plain, ..))) = (&fast, &plain) {
        assert_eq!(fast.requests, plain.requests);
        assert_eq!(fast.pools, plain.pools);
    }
    fast
}

fn workers_of(record: &RunRecord) -> Vec<u32> {
    let last = |request: &servecast_record::RequestRecord| request.stages.last().map(|stage| stage.worker.0);
    record.requests.iter().filter_map(last).collect()
}

/// One every 2 ms, each of 5 tokens, so that it is done after 5 ms.
fn a_stream(requests: u64) -> Vec<(u64, u32, u32, u32)> {
    (0..requests).map(|number| (2 * number, number as u32, 8, 5)).collect()
}

const MODES: [RouterMode; 6] = [
    RouterMode::RoundRobin,
    RouterMode::Random,
    RouterMode::LeastLoaded,
    RouterMode::PowerOfTwo,
    RouterMode::PrefixHash,
    RouterMode::KvRouter,
];

#[test]
fn a_worker_that_drains_ends_what_it_has_and_gets_nothing_more() {
    for mode in MODES {
        let changes = [(101, 0, Command::Drain(1))];
        let (record, lives, _) = run(&aggregated(3), &routed_by(mode), &a_stream(100), &changes).unwrap();
        assert!(record.requests.iter().all(servecast_record::RequestRecord::is_finished), "{mode:?}");
        let workers = workers_of(&record);
        // The 52nd request is the first one after that.
        assert!(workers[..51].contains(&1) && !workers[51..].contains(&1), "{mode:?}: {workers:?}");
        assert!([0, 2].iter().all(|worker| workers[51..].contains(worker)), "{mode:?}: {workers:?}");
        let of_it = record.requests.iter().zip(&workers).filter(|&(_, &worker)| worker == 1);
        let last = of_it.map(|(request, _)| request.ended).max().unwrap().max(ms(101));
        let states = [(WorkerState::Draining, ms(101)), (WorkerState::Gone { since: last }, last)];
        assert_eq!(lives.of(Role::Aggregated, 1), states, "{mode:?}");
    }
}

#[test]
fn a_worker_that_is_added_gets_requests_when_it_is_ready() {
    for mode in MODES {
        let changes = [(50, 0, Command::Add(0, 51))];
        let (record, lives, _) = run(&aggregated(2), &routed_by(mode), &a_stream(150), &changes).unwrap();
        assert!(record.requests.iter().all(servecast_record::RequestRecord::is_finished), "{mode:?}");
        let workers = workers_of(&record);
        assert!(!workers[..51].contains(&2) && workers[51..].contains(&2), "{mode:?}: {workers:?}");
        let states = [(WorkerState::Starting { until: ms(101) }, ms(50)), (WorkerState::Serving, ms(101))];
        assert_eq!(lives.of(Role::Aggregated, 2), states, "{mode:?}");
        assert_eq!(record.pools[0].workers.len(), 3);
        let got = workers.iter().filter(|&&worker| worker == 2).count() as u64;
        assert_eq!(record.pools[0].workers[2].requests, got);
    }
}

#[test]
fn a_worker_that_fails_takes_its_requests_with_it_and_comes_back_empty_under_its_number() {
    for mode in MODES {
        let changes = [(101, 0, Command::Fail(0)), (121, 0, Command::Restart(0, 20))];
        let (record, lives, _) = run(&aggregated(2), &routed_by(mode), &a_stream(200), &changes).unwrap();
        let workers = workers_of(&record);
        let failed: Vec<usize> =
            (0..200).filter(|&number| record.requests[number].status == RequestStatus::Failed).collect();
        assert!(!failed.is_empty() && failed.len() < 4, "{mode:?}: {failed:?}");
        for number in failed {
            let request = &record.requests[number];
            assert_eq!((workers[number], request.ended), (0, ms(101)), "{mode:?}");
            assert!(request.arrival <= ms(101) && request.output_tokens < 5);
        }
        assert!(!workers[51..71].contains(&0), "{mode:?}: {workers:?}");
        assert!(workers[71..].contains(&0), "{mode:?}: {workers:?}");
        let states = [
            (WorkerState::Down { since: ms(101) }, ms(101)),
            (WorkerState::Starting { until: ms(141) }, ms(121)),
            (WorkerState::Serving, ms(141)),
        ];
        assert_eq!(lives.of(Role::Aggregated, 0), states, "{mode:?}");
    }
}

#[test]
fn requests_wait_while_nobody_serves() {
    for mode in MODES {
        let changes = [(11, 0, Command::Drain(0)), (11, 0, Command::Add(0, 39))];
        let (record, ..) = run(&aggregated(1), &routed_by(mode), &a_stream(20), &changes).unwrap();
        let workers = workers_of(&record);
        assert_eq!(workers, [vec![0; 6], vec![1; 14]].concat(), "{mode:?}");
        for request in &record.requests[6..] {
            let stage = &request.stages[0];
            assert_eq!(
                (stage.arrived, stage.queued),
                (request.arrival, request.arrival.max(ms(50))),
                "{mode:?}"
            );
        }
    }
}

#[test]
fn requests_for_which_nobody_ever_serves_are_said_to_be_stuck() {
    let error =
        run(&aggregated(1), &routed_by(RouterMode::RoundRobin), &a_stream(3), &[(1, 0, Command::Fail(0))]);
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(error.ends_with("2 requests are unfinished, the first of them request 1 waiting for a worker of the aggregated pool"), "{error}");
}

#[test]
fn what_a_router_knows_of_a_worker_goes_with_it() {
    // The third and the fourth begin like the first one.
    let requests = [(0, 1, 400, 2), (0, 2, 400, 2), (20, 1, 400, 2), (60, 1, 400, 2)];
    let changes = [(30, 0, Command::Fail(0)), (31, 0, Command::Restart(0, 1))];
    let options = routed_by(RouterMode::KvRouter);
    let (without, ..) = run(&aggregated(2), &options, &requests, &[]).unwrap();
    let first = workers_of(&without)[0];
    assert_eq!(workers_of(&without), [first, 1 - first, first, first]);
    assert_eq!(without.requests[3].reused_tokens(), 396);
    let of_first = changes.map(|(at, pool, command)| match command {
        Command::Fail(_) => (at, pool, Command::Fail(first)),
        _ => (at, pool, Command::Restart(first, 1)),
    });
    let options = SimulationOptions { record_routing: true, ..options };
    let (with, ..) = run(&aggregated(2), &options, &requests, &of_first).unwrap();
    assert_eq!(with.requests[3].reused_tokens(), 0, "it is nowhere any more");
}

#[test]
fn a_cache_is_emptied_that_nobody_uses() {
    let requests = [(0, 1, 400, 4), (20, 1, 400, 2), (60, 1, 400, 2)];
    let groups = json!({"block_size": 16, "kv_groups": [{"type": "full"}, {"type": "sliding_window", "sliding_window": 64}]});
    for settings in [json!({}), json!({"engine_type": "sglang"}), groups] {
        let args = engine(&settings);
        let config = args.validate(None).unwrap();
        let topology = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap();
        let reused = |at| {
            let options = routed_by(RouterMode::KvRouter);
            let (record, _, Timetable { resets, .. }) =
                run(&topology, &options, &requests, &[(at, 0, Command::Reset(0))]).unwrap();
            (resets, [1, 2].map(|number| record.requests[number].reused_tokens() > 0))
        };
        assert_eq!(reused(1), (vec![false], [true, true]), "{settings}: it runs");
        assert_eq!(reused(10), (vec![true], [false, true]), "{settings}");
        assert_eq!(reused(50), (vec![true], [true, false]), "{settings}");
    }
}

/// A prompt is computed until 1 ms, and its KV on its way until 11 ms.
fn disaggregated() -> Topology {
    disaggregated_with("dedicated")
}

fn disaggregated_with(sharing: &str) -> Topology {
    let prefill = engine(&json!({
        "kv_bytes_per_token": 100_000, "kv_transfer_bandwidth": 1.0, "kv_transfer_sharing": sharing,
    }));
    let decode = engine(&json!({}));
    let (one, other) = (prefill.validate(None).unwrap(), decode.validate(None).unwrap());
    let pool = |args, config| PoolEngine { workers: 2, args, config };
    Topology::disaggregated(pool(&prefill, &one), pool(&decode, &other)).unwrap()
}

#[test]
fn kv_is_lost_with_the_worker_that_holds_it() {
    let requests = [(0, 1, 100, 30), (0, 2, 100, 30)];
    let options = routed_by(RouterMode::RoundRobin);
    for at in [0, 5] {
        let (record, ..) = run(&disaggregated(), &options, &requests, &[(at, 0, Command::Fail(0))]).unwrap();
        let [lost, other] = &record.requests[..] else { panic!("two requests") };
        assert_eq!(lost.status, RequestStatus::Failed, "{at}");
        assert!(lost.ended <= ms(11), "{at}");
        assert!(other.is_finished());
    }
    let (record, ..) = run(&disaggregated(), &options, &requests, &[(12, 0, Command::Fail(0))]).unwrap();
    assert!(record.requests.iter().all(servecast_record::RequestRecord::is_finished), "it has been fetched");
}

/// Prompts 0 and 2 have half of the port of their prefill worker each from 1 ms on, and a small one of the other prefill
/// worker does not change that. When the decode worker of prompt 2 fails at 11 ms, 5 of the 10 ms of each are moved: the
/// one is broken off, and the other ends at 16 ms.
#[test]
fn a_transfer_that_is_broken_off_gives_its_share_to_another() {
    let requests = [(0, 1, 100, 30), (0, 2, 4, 30), (0, 3, 100, 30)];
    let (options, topology) = (routed_by(RouterMode::RoundRobin), disaggregated_with("shared"));
    for (changes, ends, failed) in [
        (&[][..], [21, 21], [false, false]),
        (&[(11, 1, Command::Fail(1))], [16, 11], [false, true]),
        (&[(11, 0, Command::Fail(0))], [11, 11], [true, true]),
    ] {
        let (record, ..) = run(&topology, &options, &requests, changes).unwrap();
        let of = [0, 2].map(|number: usize| &record.requests[number]);
        assert_eq!(of.map(|request| request.stages[1].transfer_end), ends.map(|end| Some(ms(end))));
        assert_eq!(of.map(|request| request.status == RequestStatus::Failed), failed);
    }
}

#[test]
fn a_prefill_worker_that_drains_stays_until_its_kv_has_been_fetched() {
    let requests = [(0, 1, 100, 30)];
    let options = routed_by(RouterMode::RoundRobin);
    let (record, lives, _) =
        run(&disaggregated(), &options, &requests, &[(5, 0, Command::Drain(0))]).unwrap();
    assert!(record.requests[0].is_finished());
    let states = [(WorkerState::Draining, ms(5)), (WorkerState::Gone { since: ms(11) }, ms(11))];
    assert_eq!(lives.of(Role::Prefill, 0), states);
}

#[test]
fn what_cannot_be_is_refused() {
    let changes = [
        (1, 3, Command::Add(0, 0)),
        (1, 0, Command::Add(1, 0)),
        (1, 0, Command::Drain(7)),
        (1, 0, Command::Restart(0, 0)),
        (2, 0, Command::Drain(1)),
        (3, 0, Command::Drain(1)),
        (4, 0, Command::Fail(1)),
    ];
    let (.., timetable) =
        run(&aggregated(2), &routed_by(RouterMode::RoundRobin), &a_stream(10), &changes).unwrap();
    let refused: Vec<String> = timetable.refused.iter().map(ToString::to_string).collect();
    assert_eq!(
        refused,
        [
            "there is no pool 3: the deployment has 1, numbered from 0",
            "the pool aggregated has no group 1, but 1, numbered from 0",
            "the pool aggregated has no worker 7, but 2, numbered from 0",
            "the aggregated worker 0 is serving, so it cannot be started again",
            "the aggregated worker 1 is draining, so it cannot be drained",
        ]
    );
}

/// Changes at random times, after the last of which every group has a worker that serves.
fn changes() -> impl Strategy<Value = Vec<(Time, PoolId, Command)>> {
    let worker = 0_u32..4;
    let command = prop_oneof![
        2 => (0_usize..2, 0_u64..20).prop_map(|(group, delay)| Command::Add(group, delay)),
        2 => worker.clone().prop_map(Command::Drain),
        2 => worker.clone().prop_map(Command::Fail),
        1 => (worker.clone(), 0_u64..10).prop_map(|(worker, delay)| Command::Restart(worker, delay)),
        2 => worker.prop_map(Command::Reset),
    ];
    let at = prop_oneof![3 => 0_u64..60_000, 1 => (0_u64..60).prop_map(|ms| 1000 * ms)];
    let change = (at, 0_u16..2, command);
    prop::collection::vec(change, 0..12).prop_map(|changes| {
        let change =
            |(us, pool, command): (u64, u16, Command)| (Time::from_ns(us * 1_000), PoolId(pool), command);
        let mut changes: Vec<_> = changes.into_iter().map(change).collect();
        changes.sort_by_key(|&(at, ..)| at);
        let all = [(0, 0), (0, 1), (1, 0)];
        changes.extend(all.map(|(pool, group)| (ms(70), PoolId(pool), Command::Add(group, 0))));
        changes
    })
}

/// A pool of two kinds of workers, the other one with room for longer sequences, or the pools of a scenario.
fn topology_of(scenario: &Scenario, is_mixed: bool) -> Topology {
    if !is_mixed {
        return deployment(scenario, false).0;
    }
    let other = EngineArgs {
        num_gpu_blocks: 2 * scenario.prefill.num_gpu_blocks,
        max_model_len: None,
        ..scenario.prefill.clone()
    };
    let (one, two) = (config_of(&scenario.prefill), config_of(&other));
    let group = |args, config, workers| PoolEngine { workers, args, config };
    Topology::mixed(&[
        group(&scenario.prefill, &one, scenario.workers.0),
        group(&other, &two, scenario.workers.1),
    ])
    .unwrap()
}

/// What comes of a scenario, and how its workers end.
fn run_scenario(
    scenario: &Scenario,
    is_mixed: bool,
    changes: &[(Time, PoolId, Command)],
    plain: bool,
) -> (RunRecord, Lives, Vec<WorkerView>) {
    let options = deployment(scenario, plain).1;
    let topology = topology_of(scenario, is_mixed);
    let is_closed = scenario.concurrency.is_some();
    let load = if is_closed { Load::Closed } else { Load::Open { arrival_speedup_ratio: 1.0 } };
    let workload = Workload::from_rows(&scenario.rows, 6, load).unwrap();
    let mut source = Replay::new(workload, options.load, host_of(&scenario.prefill)).unwrap();
    let mut cluster = Cluster::new(&topology, &options);
    let mut timetable = Timetable { changes: changes.to_vec(), ..Timetable::default() };
    let mut lives = Lives::new(&topology);
    let end = drive_with(&mut cluster, &mut source, &mut VirtualClock, &mut timetable, &mut lives)
        .unwrap_or_else(|error| panic!("{error}"));
    let workers = [0, 1].map(PoolId).iter().flat_map(|&pool| cluster.workers(pool)).collect();
    (cluster.finish(end).unwrap(), lives, workers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever comes and goes: every request ends once, none goes to a worker that does not serve, only those fail whose
    /// worker did, and the fast path ends like the plain one.
    #[test]
    fn nothing_is_lost_when_workers_come_and_go(
        scenario in any_scenario(), is_mixed in any::<bool>(), changes in changes(),
    ) {
        let is_mixed = is_mixed && !scenario.is_paired();
        let (fast, lives, workers) = run_scenario(&scenario, is_mixed, &changes, false);
        let (plain, other, plain_workers) = run_scenario(&scenario, is_mixed, &changes, true);
        for (fast, plain) in fast.requests.iter().zip(&plain.requests) {
            prop_assert_eq!(fast, plain);
        }
        prop_assert_eq!(&fast.gaps, &plain.gaps);
        prop_assert_eq!(&fast.pools, &plain.pools);
        prop_assert_eq!(workers, plain_workers);
        prop_assert_eq!(fast.requests.len(), scenario.rows.len());
        check_lives(&scenario, is_mixed, &fast, &lives)?;
        prop_assert_eq!(lives.tokens.into_times(), other.tokens.into_times());
    }
}

/// Checks that requests go to workers that serve, and fail with those that do.
fn check_lives(
    scenario: &Scenario,
    is_mixed: bool,
    record: &RunRecord,
    lives: &Lives,
) -> Result<(), TestCaseError> {
    let mut serving: BTreeMap<(Role, WorkerId), Vec<(Time, bool)>> = BTreeMap::new();
    let mut failures: Vec<(Role, WorkerId, Time)> = Vec::new();
    for change in &lives.changes {
        let is_serving = change.state == WorkerState::Serving;
        serving.entry((change.pool, change.worker)).or_default().push((change.at, is_serving));
        if let WorkerState::Down { since } = change.state {
            failures.push((change.pool, change.worker, since));
        }
    }
    let (one, other) = scenario.workers;
    let initial = |pool, worker: WorkerId| match pool {
        Role::Aggregated if is_mixed => worker.0 < one + other,
        Role::Aggregated | Role::Prefill => worker.0 < one,
        Role::Decode => worker.0 < other,
    };
    for (id, request) in (0..).map(RequestId).zip(&record.requests) {
        for stage in &request.stages {
            let changes = serving.get(&(stage.pool, stage.worker));
            // At the instant of a change it may be before or after that.
            let mut states = vec![(Time::ZERO, initial(stage.pool, stage.worker))];
            states.extend(changes.into_iter().flatten());
            let before = states.iter().rfind(|&&(at, _)| at < stage.queued || at == Time::ZERO);
            let at_once = states.iter().filter(|&&(at, _)| at == stage.queued);
            let serves = before.into_iter().chain(at_once).any(|&(_, serves)| serves);
            prop_assert!(serves, "{id} came to {:?} {} at {}", stage.pool, stage.worker, stage.queued);
        }
        if request.status == RequestStatus::Failed {
            let failed = failures.iter().any(|&(pool, worker, at)| {
                let of = |stage: &servecast_record::StageRecord| (stage.pool, stage.worker) == (pool, worker);
                at <= request.ended && request.stages.iter().any(of)
            });
            prop_assert!(failed, "no worker of {id} failed");
        }
    }
    Ok(())
}
