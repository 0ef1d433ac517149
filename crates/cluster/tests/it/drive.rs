//! Sources and clocks other than those of a simulation: requests that nobody knew of before, and time that passes by
//! itself.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use serde_json::json;
use servecast_cluster::{
    Arrival, Clock, Cluster, LoadMode, NewRequest, Placement, PoolEngine, Replay, Simulation,
    SimulationOptions, Source, Timer, Topology, VirtualClock, WallClock, Watches, drive,
};
use servecast_engine::{EngineArgs, KvTransferSharing};
use servecast_latency::Host;
use servecast_record::{RequestStatus, RunRecord};
use servecast_types::{Duration, Prompt, RequestId, Run, Time};
use servecast_workload::{
    Load, Session, TraceRow, Turn, TurnStart, Workload, read_mooncake, stamp_rows, write_mooncake,
};

use crate::properties::cases;
use crate::scenario::{Scenario, any_scenario, deployment, host_of};

/// A machine whose time passes only while somebody sleeps; it wakes late, or early when a request comes.
struct Machine<'a> {
    now: &'a Cell<Time>,
    /// When requests come from outside, first one in front.
    comes: VecDeque<Time>,
    late: Duration,
}

impl Timer for Machine<'_> {
    fn now(&mut self) -> Time {
        self.now.get()
    }

    fn sleep(&mut self, until: Option<Time>) {
        while self.comes.front().is_some_and(|&at| at <= self.now.get()) {
            self.comes.pop_front();
        }
        let wake = until.map(|until| until + self.late).into_iter().chain(self.comes.front().copied()).min();
        self.now.set(wake.expect("it never wakes"));
    }
}

/// Users of whom nothing is known before they send something.
struct Users<'a> {
    now: &'a Cell<Time>,
    requests: VecDeque<(Time, Sent)>,
    watches: Watches,
    /// When each request came to the deployment.
    log: Vec<(Time, Sent)>,
    under_way: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    first_token: u32,
    input_tokens: u32,
    output_tokens: u32,
}

impl Sent {
    fn prompt(self) -> Prompt {
        Prompt::new([Run::tokens(self.first_token, self.input_tokens)])
    }
}

impl Source for Users<'_> {
    fn next(&self) -> Option<Time> {
        self.requests.front().map(|&(at, _)| at).filter(|&at| at <= self.now.get())
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        self.next().filter(|&at| at <= now)?;
        let (_, sent) = self.requests.pop_front()?;
        let line = self.log.len() as u32;
        self.log.push((now, sent));
        self.under_way += 1;
        Some(Arrival {
            origin: NewRequest {
                session: line,
                turn: 0,
                line: u64::from(line),
                class: None,
                lora: None,
                grammar: None,
                arrival: now,
                input_tokens: sent.input_tokens,
                output_tokens: sent.output_tokens,
            },
            prompt: sent.prompt(),
            output: None,
            stop_after: None,
            priority: 0,
            placement: Placement::new(),
        })
    }

    fn arrived(&mut self, id: RequestId) {
        assert_eq!(id.index() + 1, self.log.len());
    }

    fn ended(&mut self, _: RequestId, _: RequestStatus, _: Time) {
        self.under_way -= 1;
    }

    fn watches(&self) -> Watches {
        self.watches
    }

    fn is_over(&self) -> bool {
        self.requests.is_empty()
    }
}

/// The recorded arrivals as a trace.
fn trace(log: &[(Time, Sent)]) -> Workload {
    let session = |(line, &(at, sent)): (usize, &(Time, Sent))| Session {
        name: None,
        turns: [Turn {
            line: line as u64,
            start: TurnStart::At(at),
            prompt: sent.prompt(),
            output_tokens: sent.output_tokens,
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
    Workload { sessions: log.iter().enumerate().map(session).collect(), ..Workload::default() }
}

fn run(scenario: &Scenario, source: &mut impl Source, clock: &mut impl Clock) -> RunRecord {
    run_as(scenario, false, source, clock)
}

fn run_as(scenario: &Scenario, plain: bool, source: &mut impl Source, clock: &mut impl Clock) -> RunRecord {
    let (topology, options) = deployment(scenario, plain);
    let mut cluster = Cluster::new(&topology, &options);
    let end = drive(&mut cluster, source, clock, &mut ()).unwrap_or_else(|error| panic!("{error}"));
    cluster.finish(end).unwrap()
}

/// A workload some of whose requests are taken back.
struct Impatient {
    replay: Replay,
    /// How long after its arrival each request is taken back, if it is.
    patience: Vec<Option<Duration>>,
    /// When requests are taken back, first one in front.
    due: BTreeSet<(Time, RequestId)>,
    arrived: Time,
    ended: Vec<(RequestId, RequestStatus)>,
}

impl Impatient {
    fn new(replay: Replay, patience: Vec<Option<Duration>>) -> Self {
        Self { replay, patience, due: BTreeSet::new(), arrived: Time::ZERO, ended: Vec::new() }
    }
}

impl Source for Impatient {
    fn next(&self) -> Option<Time> {
        self.replay.next().into_iter().chain(self.due.first().map(|&(at, _)| at)).min()
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        self.arrived = now;
        self.replay.pop_due(now)
    }

    fn arrived(&mut self, id: RequestId) {
        self.replay.arrived(id);
        let patience = self.patience[id.index() % self.patience.len()];
        self.due.extend(patience.map(|patience| (self.arrived + patience, id)));
    }

    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time) {
        self.ended.push((id, status));
        self.replay.ended(id, status, at);
    }

    fn pop_withdrawn(&mut self, now: Time) -> Option<RequestId> {
        self.due.first().filter(|&&(at, _)| at <= now)?;
        self.due.pop_first().map(|(_, id)| id)
    }

    fn pop_refused(&mut self) -> Option<NewRequest> {
        self.replay.pop_refused()
    }
}

fn withdrawn(record: &RunRecord) -> usize {
    record.requests.iter().filter(|request| request.status == RequestStatus::Withdrawn).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Wherever a request is when it is taken back, nothing of it is left, and the fast path ends like the plain one.
    #[test]
    fn requests_may_be_taken_back_at_any_time(
        scenario in any_scenario(),
        patience in prop::collection::vec(prop::option::of(0_u64..60_000), 1..12),
    ) {
        let patience: Vec<_> = patience
            .into_iter()
            .map(|us| us.map(|us| Duration::from_ns(us * 1_000)))
            .collect();
        let options = deployment(&scenario, false).1;
        let run = |plain| {
            let load = if scenario.concurrency.is_some() {
                Load::Closed
            } else {
                Load::Open { arrival_speedup_ratio: 1.0 }
            };
            let workload = Workload::from_rows(&scenario.rows, 6, load).unwrap();
            let front = host_of(&scenario.prefill);
            let replay = Replay::new(workload, options.load, front).unwrap();
            let mut source = Impatient::new(replay, patience.clone());
            let record = run_as(&scenario, plain, &mut source, &mut VirtualClock);
            (record, source.ended)
        };
        let ((fast, fast_ends), (plain, plain_ends)) = (run(false), run(true));
        prop_assert_eq!(fast.requests.len(), scenario.rows.len());
        for (fast, plain) in fast.requests.iter().zip(&plain.requests) {
            prop_assert_eq!(fast, plain);
        }
        prop_assert_eq!(fast_ends, plain_ends);
        prop_assert_eq!(fast.gaps, plain.gaps);
        prop_assert_eq!(fast.pools, plain.pools);
    }
}

/// Of line 2 of two equal requests of 100 and 50 tokens, taken back after so long.
fn taken_back(settings: &serde_json::Value, after_us: u64) -> RunRecord {
    let mut engine = json!({"block_size": 4, "num_gpu_blocks": 1000, "latency": "linear:1000,0,0"});
    engine.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let args = EngineArgs::from_json(engine).unwrap();
    let config = args.validate(None).unwrap();
    let topology = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap();
    let sent = |first_token| (Time::ZERO, Sent { first_token, input_tokens: 100, output_tokens: 50 });
    let replay = Replay::new(trace(&[sent(1), sent(1000)]), LoadMode::OpenLoop, Host::NONE).unwrap();
    let mut source = Impatient::new(replay, vec![None, Some(Duration::from_ns(after_us * 1_000))]);
    let options = SimulationOptions { check: true, ..SimulationOptions::default() };
    let mut cluster = Cluster::new(&topology, &options);
    let end = drive(&mut cluster, &mut source, &mut VirtualClock, &mut ()).unwrap();
    cluster.finish(end).unwrap()
}

/// Iterations of 1 ms; the first one computes both prompts, and each after it gives both a token.
#[test]
fn a_request_that_is_taken_back_ends_with_the_next_decision() {
    for (engine, after_us, tokens, ended_us) in [
        // In its eleventh iteration, whose token it gets before the engine looks again.
        (json!({}), 10_500, 11, 11_000),
        // Decided one ahead: what is in flight when the engine looks is lost.
        (json!({"async_scheduling": true}), 10_500, 11, 11_000),
        // SGLang lets it end with its next token.
        (json!({"engine_type": "sglang", "sglang": {"disable_overlap_schedule": true}}), 10_500, 12, 12_000),
        // While it waits for its place.
        (json!({"max_num_seqs": 1}), 10_500, 0, 11_000),
    ] {
        let record = taken_back(&engine, after_us);
        let [first, second] = &record.requests[..] else { panic!("two requests") };
        assert!(first.is_finished() && first.output_tokens == 50, "{engine}: the other one goes on");
        assert_eq!(withdrawn(&record), 1, "{engine}");
        let ended = Time::from_ns(ended_us * 1_000);
        assert_eq!(
            (second.status, second.output_tokens, second.ended),
            (RequestStatus::Withdrawn, tokens, ended),
            "{engine}"
        );
    }
}

#[test]
fn what_has_ended_is_not_taken_back() {
    let record = taken_back(&json!({}), 50_500);
    assert_eq!(withdrawn(&record), 0);
    assert!(record.requests[1].is_finished());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever the clock of the machine and whoever watches, the log of arrivals replays to the same run.
    #[test]
    fn what_came_from_outside_can_be_replayed(
        scenario in any_scenario(),
        requests in prop::collection::vec((0_u64..60_000, 0_u32..3, 1_u32..100, 1_u32..30), 1..30),
        late_us in prop_oneof![Just(0), 0_u64..5_000],
        watches in prop::sample::select(vec![Watches::Nothing, Watches::Ends]),
    ) {
        let mut requests: Vec<(Time, Sent)> = requests
            .into_iter()
            .map(|(us, first_token, input_tokens, output_tokens)| {
                (Time::from_ns(us * 1_000), Sent { first_token, input_tokens, output_tokens })
            })
            .collect();
        requests.sort_by_key(|&(at, _)| at);
        let now = Cell::new(Time::ZERO);
        let comes = requests.iter().map(|&(at, _)| at).collect();
        let mut users = Users {
            now: &now, requests: requests.into(), watches, log: Vec::new(), under_way: 0,
        };
        let late = Duration::from_ns(late_us * 1_000);
        let live = run(&scenario, &mut users, &mut WallClock::new(Machine { now: &now, comes, late }));
        prop_assert_eq!(users.under_way, 0);
        let mut replay = Replay::new(trace(&users.log), LoadMode::OpenLoop, Host::NONE).unwrap();
        let again = run(&scenario, &mut replay, &mut VirtualClock);
        prop_assert_eq!(&live.requests, &again.requests);
        prop_assert_eq!(&live.gaps, &again.gaps);
        prop_assert_eq!(&live.pools, &again.pools);
    }
}

/// Two prompts are computed by 1 ms, and their KV would be on its way for 10 ms alone. The second one is taken back at
/// 5 ms: as with the real engine, its KV goes on to the end, so that both have half of the port until 21 ms.
#[test]
fn what_is_taken_back_on_its_way_keeps_its_share_of_the_port() {
    let engine = |bytes: serde_json::Value| {
        let settings = json!({"block_size": 4, "num_gpu_blocks": 1000, "latency": "linear:1000,0,0",
                              "kv_bytes_per_token": bytes});
        let mut args = EngineArgs::from_json(settings).unwrap();
        args.kv_transfer_bandwidth = args.kv_bytes_per_token.map(|_| 1.0);
        args.kv_transfer_sharing = args.kv_bytes_per_token.map(|_| KvTransferSharing::Shared);
        let config = args.validate(None).unwrap();
        (args, config)
    };
    let (prefill, decode) = (engine(json!(100_000)), engine(json!(null)));
    let pool = |workers, (args, config)| PoolEngine { workers, args, config };
    let topology =
        Topology::disaggregated(pool(1, (&prefill.0, &prefill.1)), pool(2, (&decode.0, &decode.1))).unwrap();
    let sent = |first_token| (Time::ZERO, Sent { first_token, input_tokens: 100, output_tokens: 2 });
    let replay = Replay::new(trace(&[sent(1), sent(1000)]), LoadMode::OpenLoop, Host::NONE).unwrap();
    let mut source = Impatient::new(replay, vec![None, Some(Duration::from_ns(5_000_000))]);
    let options = SimulationOptions { check: true, ..SimulationOptions::default() };
    let mut cluster = Cluster::new(&topology, &options);
    let end = drive(&mut cluster, &mut source, &mut VirtualClock, &mut ()).unwrap();
    let record = cluster.finish(end).unwrap();
    let ms = |ms: u64| Time::from_ns(ms * 1_000_000);
    assert_eq!((record.requests[1].status, record.requests[1].ended), (RequestStatus::Withdrawn, ms(5)));
    let moved = [0, 1].map(|number| {
        let output = &record.requests[number].stages[1];
        (output.transfer_start.unwrap(), output.transfer_end.unwrap())
    });
    assert_eq!(moved, [(ms(1), ms(21)), (ms(1), ms(21))]);
}

/// Its prompt is computed from 0 to 1 ms, and its KV on its way until 11 ms; the token of the prefill stage comes with it.
#[test]
fn what_is_taken_back_on_its_way_to_a_decode_worker_of_sglang_ends_with_the_token_that_comes_along() {
    let engine = |bytes: serde_json::Value| {
        let settings = json!({"engine_type": "sglang", "block_size": 4, "num_gpu_blocks": 1000,
                              "latency": "linear:1000,0,0", "kv_bytes_per_token": bytes,
                              "sglang": {"disable_overlap_schedule": true}});
        let mut args = EngineArgs::from_json(settings).unwrap();
        args.kv_transfer_bandwidth = args.kv_bytes_per_token.map(|_| 1.0);
        let config = args.validate(None).unwrap();
        (args, config)
    };
    let (prefill, decode) = (engine(json!(100_000)), engine(json!(null)));
    let pool = |(args, config)| PoolEngine { workers: 1, args, config };
    let topology =
        Topology::disaggregated(pool((&prefill.0, &prefill.1)), pool((&decode.0, &decode.1))).unwrap();
    let sent = Sent { first_token: 1, input_tokens: 100, output_tokens: 50 };
    let replay = Replay::new(trace(&[(Time::ZERO, sent)]), LoadMode::OpenLoop, Host::NONE).unwrap();
    let mut source = Impatient::new(replay, vec![Some(Duration::from_ns(5_000_000))]);
    let options = SimulationOptions { check: true, ..SimulationOptions::default() };
    let mut cluster = Cluster::new(&topology, &options);
    let end = drive(&mut cluster, &mut source, &mut VirtualClock, &mut ()).unwrap();
    let record = cluster.finish(end).unwrap();
    let request = &record.requests[0];
    assert_eq!((request.status, request.output_tokens), (RequestStatus::Withdrawn, 1));
    assert_eq!(request.ended, Time::from_ns(11_000_000));
}

/// A machine that wakes late by one of these after the other.
struct Sleepy<'a> {
    now: Time,
    late_us: std::iter::Cycle<std::slice::Iter<'a, u64>>,
}

impl Timer for Sleepy<'_> {
    fn now(&mut self) -> Time {
        self.now
    }

    fn sleep(&mut self, until: Option<Time>) {
        let late = *self.late_us.next().expect("it goes on for ever");
        self.now = until.expect("something is always under way") + Duration::from_ns(late * 1_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// However late the clock is, a workload replayed from the times at which it was sent is served in the same way.
    #[test]
    fn what_was_sent_by_the_clock_can_be_replayed(
        scenario in any_scenario(),
        late_us in prop::collection::vec(prop_oneof![Just(0), 0_u64..20_000], 1..8),
        stops_after in prop::option::of(0_usize..200),
    ) {
        let load = match scenario.concurrency {
            Some(_) => Load::Closed,
            None => Load::Open { arrival_speedup_ratio: 1.0 },
        };
        let (topology, options) = deployment(&scenario, false);
        let simulation = |rows: &[TraceRow], load, mode| {
            let workload = Workload::from_rows(rows, 6, load).unwrap();
            Simulation::new(&topology, workload, &SimulationOptions { load: mode, ..options.clone() }).unwrap()
        };
        let timer = Sleepy { now: Time::ZERO, late_us: late_us.iter().cycle() };
        let mut looks = 0;
        let stop = || {
            looks += 1;
            stops_after.is_some_and(|most| looks > most)
        };
        let (live, stamps) = simulation(&scenario.rows, load, options.load)
            .run_online(timer, stop, &mut ())
            .unwrap();
        prop_assert_eq!(live.requests.len(), stamps.len());
        if withdrawn(&live) > 0 || stamps.len() < scenario.rows.len() {
            prop_assert!(stops_after.is_some());
            return Ok(());
        }
        let sent = stamps.iter().map(|stamp| (stamp.line, stamp.at));
        let mut file = Vec::new();
        write_mooncake(&stamp_rows(scenario.rows.clone(), 6, sent), &mut file).unwrap();
        let rows = read_mooncake(&file[..]).unwrap().rows;
        let open = Load::Open { arrival_speedup_ratio: 1.0 };
        let again = simulation(&rows, open, LoadMode::OpenLoop).run(&mut ()).unwrap();
        prop_assert_eq!(live.requests.len(), again.requests.len());
        for (live, again) in live.requests.iter().zip(&again.requests) {
            prop_assert_eq!(live, again);
        }
        prop_assert_eq!(&live.gaps, &again.gaps);
        prop_assert_eq!(&live.pools, &again.pools);
    }
}
