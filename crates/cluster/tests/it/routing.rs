//! Which worker gets a request: what ties and what happens at one instant have to do with it.

use serde_json::json;
use servecast_cluster::{
    Candidate, Pick, PoolEngine, RoutedRequest, RouterMode, RouterOptions, Simulation, SimulationOptions,
    Topology,
};
use servecast_engine::{EngineArgs, EngineConfig};
use servecast_record::{RequestRecord, RunRecord};
use servecast_types::Time;
use servecast_workload::{Load, TraceRow, Workload};

const BLOCK_SIZE: u32 = 64;

/// An iteration takes 1 ms and 10 µs a token.
fn engine() -> (EngineArgs, EngineConfig) {
    engine_with(680)
}

fn engine_with(num_gpu_blocks: u32) -> (EngineArgs, EngineConfig) {
    let settings =
        json!({"latency": "linear:1000,10,0", "block_size": BLOCK_SIZE, "num_gpu_blocks": num_gpu_blocks});
    let args = EngineArgs::from_json(settings).unwrap();
    let config = args.validate(None).unwrap();
    (args, config)
}

fn row(line: u64, timestamp_ms: f64, first_id: u64, input: u64, output: u64) -> TraceRow {
    TraceRow {
        line,
        timestamp_ms: Some(timestamp_ms),
        input_length: Some(input),
        output_length: output,
        hash_ids: (first_id..first_id + input.div_ceil(BLOCK_SIZE.into())).collect(),
        ..TraceRow::default()
    }
}

fn run(topology: &Topology, rows: &[TraceRow], mode: RouterMode, seed: u64) -> RunRecord {
    run_with(topology, rows, &options(mode, seed))
}

fn options(mode: RouterMode, seed: u64) -> SimulationOptions {
    let router = RouterOptions { mode, ..RouterOptions::default() };
    SimulationOptions { router, seed, check: true, ..SimulationOptions::default() }
}

fn run_with(topology: &Topology, rows: &[TraceRow], options: &SimulationOptions) -> RunRecord {
    let workload = Workload::from_rows(rows, BLOCK_SIZE, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    Simulation::new(topology, workload, options).unwrap().run(&mut ()).unwrap()
}

fn aggregated(workers: u32) -> Topology {
    let (args, config) = engine();
    Topology::aggregated(PoolEngine { workers, args: &args, config: &config }).unwrap()
}

fn disaggregated(prefill: u32, decode: u32) -> Topology {
    let (args, config) = engine();
    let pool = |workers| PoolEngine { workers, args: &args, config: &config };
    Topology::disaggregated(pool(prefill), pool(decode)).unwrap()
}

/// Requests of each of four workers of a stage.
fn requests_per_worker(record: &RunRecord, stage: usize) -> [usize; 4] {
    let mut counts = [0; 4];
    record.requests.iter().for_each(|request| counts[request.stages[stage].worker.index()] += 1);
    counts
}

/// Whether the counts of four workers are those of even draws, by χ² with three degrees of freedom at 99.9 %.
fn is_even(counts: [usize; 4]) -> bool {
    let expected = counts.iter().sum::<usize>() as f64 / 4.0;
    counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum::<f64>() < 16.27
}

/// 64 prompts of 32 blocks in turn, 5 s apart: by then every worker is idle.
fn lone_requests(number: u64) -> Vec<TraceRow> {
    let row = |number| row(number + 1, 5_000.0 * number as f64, number % 64 * 32, 2_048, 2);
    (0..number).map(row).collect()
}

#[test]
fn idle_workers_get_as_many_requests_each_whatever_the_policy() {
    for mode in [
        RouterMode::RoundRobin,
        RouterMode::Random,
        RouterMode::LeastLoaded,
        RouterMode::PowerOfTwo,
        RouterMode::PrefixHash,
        RouterMode::KvRouter,
    ] {
        // Prompts of less than a block each, so that neither a prefix nor a cache says where they belong.
        let rows: Vec<TraceRow> =
            (0..400).map(|number| row(number + 1, 5_000.0 * number as f64, number, 63, 2)).collect();
        for seed in 0..3 {
            let counts = requests_per_worker(&run(&aggregated(4), &rows, mode, seed), 0);
            assert!(is_even(counts), "{mode:?}, seed {seed}: {counts:?}");
            let record = run(&disaggregated(4, 4), &rows, mode, seed);
            let counts = [0, 1].map(|stage| requests_per_worker(&record, stage));
            assert!(counts.into_iter().all(is_even), "{mode:?}, seed {seed}, two stages: {counts:?}");
        }
    }
}

#[test]
fn ties_go_by_the_seed() {
    let workers = |mode, seed| {
        let record = run(&aggregated(4), &lone_requests(64), mode, seed);
        record.requests.iter().map(|request| request.stages[0].worker.0).collect::<Vec<_>>()
    };
    for mode in [RouterMode::LeastLoaded, RouterMode::PowerOfTwo, RouterMode::KvRouter] {
        assert_eq!(workers(mode, 5), workers(mode, 5), "{mode:?}");
        assert_ne!(workers(mode, 5), workers(mode, 6), "{mode:?}");
    }
}

/// Every prompt comes twice. Its worker is the same again in one of four cases, and has it still unless more than 20 of
/// the 63 between were its own too: an eighth of all tokens but for the last block of each prompt. If one worker got all
/// requests, there would be nothing to reuse.
#[test]
fn least_loaded_spreads_lone_requests_and_their_reuse() {
    let mut ratios = 0.0;
    for seed in 0..16 {
        let record = run(&aggregated(4), &lone_requests(128), RouterMode::LeastLoaded, seed);
        let counts = requests_per_worker(&record, 0);
        assert!(is_even(counts), "seed {seed}: {counts:?}");
        let reused: u64 = record.requests.iter().map(|request| u64::from(request.reused_tokens())).sum();
        ratios += reused as f64 / (128.0 * 2_048.0);
    }
    let mean = ratios / 16.0;
    assert!((0.10..0.13).contains(&mean), "mean reuse {mean}");
}

/// Hand-offs of one instant go in the order of prefill workers, whichever began its iteration first.
#[test]
fn hand_offs_of_one_instant_go_in_order_of_their_workers() {
    // Worker 1 computes line 2 from 0 to 4 ms; worker 0 line 1 from 0 to 1.64 ms and line 3 from 2 to 4 ms.
    let rows = [row(1, 0.0, 0, 64, 1), row(2, 0.0, 10, 300, 1), row(3, 2.0, 20, 100, 1)];
    let record = run(&disaggregated(2, 3), &rows, RouterMode::RoundRobin, 0);
    let prefill = [0, 1, 2].map(|line: usize| record.requests[line].stages[0].last_token);
    assert_eq!(prefill, [1_640_000, 4_000_000, 4_000_000].map(|ns| Some(Time::from_ns(ns))));
    let workers = [0, 1, 2].map(|line: usize| record.requests[line].stages[1].worker.0);
    assert_eq!(workers, [0, 2, 1]);
}

/// A decode worker that ends a request at the instant of a hand-off does not have it any more.
#[test]
fn a_hand_off_sees_what_decode_workers_have_ended_at_its_instant() {
    // Lines 1 and 2, of 2 and 5 blocks, are handed off after 5.48 ms. The last of three decodes of line 2 goes from 7.5
    // to 8.51 ms, the prompt of line 3 from 6.23 to 8.51 ms.
    let rows = [row(1, 0.0, 0, 128, 20), row(2, 0.0, 10, 320, 3), row(3, 6.23, 20, 128, 1)];
    for plain in [false, true] {
        for seed in 0..4 {
            let options = SimulationOptions { plain, ..options(RouterMode::KvRouter, seed) };
            let record = run_with(&disaggregated(1, 2), &rows, &options);
            let (ended, handed_off) = (&record.requests[1], &record.requests[2].stages[0]);
            assert_eq!(ended.last_token, Some(Time::from_ns(8_510_000)));
            assert_eq!(handed_off.last_token, ended.last_token);
            let workers = [0, 1, 2].map(|line: usize| record.requests[line].stages[1].worker.0);
            assert_eq!(workers, [workers[0], 1 - workers[0], 1 - workers[0]], "plain: {plain}, seed {seed}");
        }
    }
}

/// What two decode workers fetch at one instant becomes free in the order of the hand-offs, not of these workers, and is
/// evicted in that order.
#[test]
fn kv_that_is_fetched_at_one_instant_becomes_free_in_order_of_hand_offs() {
    // Line 1 is fetched by decode worker 0. Lines 2 and 3, of 4 blocks each, are computed together and fetched by workers
    // 1 and 0. Of 12 blocks line 4 needs 4 of theirs, those of line 2; line 5 repeats line 3.
    let rows = [
        row(1, 0.0, 90, 63, 1),
        row(2, 10.0, 0, 256, 1),
        row(3, 10.0, 10, 256, 1),
        row(4, 100.0, 20, 512, 1),
        row(5, 200.0, 10, 256, 1),
    ];
    let topology = |num_gpu_blocks| {
        let (args, config) = engine_with(num_gpu_blocks);
        let pool = |workers| PoolEngine { workers, args: &args, config: &config };
        Topology::disaggregated(pool(1), pool(2)).unwrap()
    };
    for plain in [false, true] {
        let options = SimulationOptions { plain, ..options(RouterMode::RoundRobin, 0) };
        let record = run_with(&topology(13), &rows, &options);
        let fetched = [1, 2].map(|line: usize| record.requests[line].stages[1].transfer_end);
        assert_eq!(fetched, [Some(Time::from_ns(16_120_000)); 2]);
        let workers = [1, 2].map(|line: usize| record.requests[line].stages[1].worker.0);
        assert_eq!(workers, [1, 0]);
        assert_eq!(record.requests[4].reused_tokens(), 192, "three blocks, and the last is computed again");
    }
}

/// The fewest requests in flight; the last of equals.
#[derive(Debug)]
struct LastOfTheFewest;

impl Pick for LastOfTheFewest {
    fn pick(&mut self, _: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        let loads = candidates.iter().map(|candidate| candidate.in_flight);
        loads
            .enumerate()
            .min_by_key(|&(index, load)| (load, usize::MAX - index))
            .map_or(0, |(index, _)| index)
    }
}

/// It sees what is true when it picks, although nobody else looks at the workers of either pool.
#[test]
fn a_policy_of_ones_own_sees_who_has_what() {
    let rows: Vec<TraceRow> = [0.0, 0.0, 0.0, 1.4, 100.0]
        .into_iter()
        .zip(1..)
        .map(|(at, line)| row(line, at, 10 * line, 20 + 50 * u64::from(line == 2), 1))
        .collect();
    let workload = Workload::from_rows(&rows, BLOCK_SIZE, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    let options = options(RouterMode::RoundRobin, 0);
    let simulation = Simulation::new(&aggregated(3), workload, &options).unwrap();
    let record = simulation.with_policy(|_| Box::new(LastOfTheFewest)).run(&mut ()).unwrap();
    let workers: Vec<u32> = record.requests.iter().map(|request| request.stages[0].worker.0).collect();
    // The first three come to one worker each; line 2 takes 1.7 ms, the others 1.2, so two are free at 1.4 ms.
    assert_eq!(workers, [2, 1, 0, 2, 2]);
}

/// The lowest cost; of equals, who had the request in another run.
#[derive(Debug)]
struct Cheapest(Vec<u32>);

impl Pick for Cheapest {
    fn pick(&mut self, request: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        let least = request.loads.iter().map(|load| load.cost).fold(f64::INFINITY, f64::min);
        let worker = self.0[request.id.index()];
        let at = candidates.iter().position(|candidate| candidate.worker.0 == worker).unwrap();
        assert!(request.loads[at].cost <= least, "the router takes the cheapest");
        at
    }

    fn reads_loads(&self) -> bool {
        true
    }
}

/// What a policy is told of the load is what the KV-aware router goes by: it can stand in for that.
#[test]
fn a_policy_that_takes_the_cheapest_is_the_kv_router() {
    let rows: Vec<TraceRow> = (1..=60)
        .map(|line| row(line, 0.3 * line as f64, line % 5, 40 + 30 * (line % 7), 1 + line % 9))
        .collect();
    let run = |policy: Option<Cheapest>| {
        let workload =
            Workload::from_rows(&rows, BLOCK_SIZE, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
        let mode = if policy.is_some() { RouterMode::RoundRobin } else { RouterMode::KvRouter };
        let mut options = options(mode, 0);
        options.router.kv.settings = options.router.kv.settings.without_queue();
        let mut simulation = Simulation::new(&aggregated(3), workload, &options).unwrap();
        if let Some(policy) = policy {
            let mut policy = Some(policy);
            simulation = simulation.with_policy(|_| Box::new(policy.take().unwrap()));
        }
        simulation.run(&mut ()).unwrap()
    };
    let routed = run(None);
    let workers: Vec<u32> = routed.requests.iter().map(|request| request.stages[0].worker.0).collect();
    assert!((0..3).all(|worker| workers.iter().filter(|&&one| one == worker).count() > 10));
    let picked = run(Some(Cheapest(workers)));
    assert_eq!((picked.requests, picked.pools), (routed.requests, routed.pools));
}

/// A pool of two kinds of workers, 0 and 1 of which have 4 blocks and 2 has 40.
fn mixed() -> Topology {
    let (small, large) = (engine_with(4), engine_with(40));
    let group = |workers, (args, config): &(EngineArgs, EngineConfig)| -> PoolEngine<'static> {
        let (args, config) = (Box::leak(Box::new(args.clone())), Box::leak(Box::new(config.clone())));
        PoolEngine { workers, args, config }
    };
    Topology::mixed(&[group(2, &small), group(1, &large)]).unwrap()
}

#[test]
fn workers_of_one_pool_may_differ() {
    // Lines 2 and 4 fit the large worker only, line 6 no worker.
    let lengths = [100, 1000, 100, 1000, 100, 3000, 100];
    let rows: Vec<TraceRow> =
        (1..).zip(lengths).map(|(line, length)| row(line, line as f64, 100 * line, length, 2)).collect();
    for mode in [
        RouterMode::RoundRobin,
        RouterMode::Random,
        RouterMode::LeastLoaded,
        RouterMode::PowerOfTwo,
        RouterMode::PrefixHash,
        RouterMode::KvRouter,
    ] {
        let record = run(&mixed(), &rows, mode, 1);
        let served: Vec<bool> = record.requests.iter().map(RequestRecord::is_finished).collect();
        assert_eq!(served, [true, true, true, true, true, false, true], "{mode:?}");
        for line in [1, 3] {
            assert_eq!(record.requests[line].stages[0].worker.0, 2, "{mode:?}: only there it fits");
        }
        let [pool] = &record.pools[..] else { panic!("one pool") };
        let usable: Vec<u32> = pool.limits.iter().map(|limits| limits.usable_blocks).collect();
        // One block of vLLM's pool is never given out.
        assert_eq!((usable, pool.common_limits()), (vec![3, 3, 39], None));
        let peaks: Vec<u32> = pool.workers.iter().map(|worker| worker.peak_blocks).collect();
        assert!(peaks[0] <= 3 && peaks[1] <= 3 && peaks[2] >= 16, "{mode:?}: {peaks:?}");
    }
}

#[test]
fn workers_of_one_pool_have_blocks_of_one_size_and_one_front_end() {
    let kind = |settings: serde_json::Value| {
        let args = EngineArgs::from_json(settings).unwrap();
        let config = args.validate(None).unwrap();
        (args, config)
    };
    let refused = |settings| {
        let (one, other) = (kind(json!({"block_size": 64})), kind(settings));
        let group = |(args, config)| PoolEngine { workers: 1, args, config };
        Topology::mixed(&[group((&one.0, &one.1)), group((&other.0, &other.1))]).unwrap_err().to_string()
    };
    assert_eq!(
        refused(json!({"block_size": 16})),
        "`block_size` is 64 for some workers of a pool and 16 for others, but all need the same"
    );
    let front_end = refused(json!({"block_size": 64, "host": {"front_end_us": 5.0}}));
    assert!(front_end.contains("`front_end_us`"), "{front_end}");
}
