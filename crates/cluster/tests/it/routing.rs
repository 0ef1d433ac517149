//! Which worker gets a request: what ties and what happens at one instant have to do with it.

use serde_json::json;
use servecast_cluster::record::RunRecord;
use servecast_cluster::{PoolEngine, RouterMode, RouterOptions, Simulation, SimulationOptions, Topology};
use servecast_engine::{EngineArgs, EngineConfig};
use servecast_workload::{Load, TraceRow, Workload};

const BLOCK_SIZE: u32 = 64;

/// An iteration takes 1 ms and 10 µs a token.
fn engine() -> (EngineArgs, EngineConfig) {
    let settings = json!({"latency": "linear:1000,10,0", "block_size": BLOCK_SIZE, "num_gpu_blocks": 680});
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
