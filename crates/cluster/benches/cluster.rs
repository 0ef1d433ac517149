//! Whole replays of a small workload, a policy and a topology at a time: `cargo bench -p servecast-cluster`.
//!
//! The time of a replay is that of 2,000 requests of 1,024 + 128 tokens, half of each prompt shared in 16 groups, at
//! times that keep the workers busy. Making the workload and the report are no part of it.

use divan::Bencher;
use divan::counter::ItemsCount;
use serde_json::{Value, json};
use servecast_cluster::{PoolEngine, RouterMode, RouterOptions, Simulation, SimulationOptions, Topology};
use servecast_engine::EngineArgs;
use servecast_workload::{ArrivalProcess, Load, SyntheticSpec, Trace, Workload, generate};

const REQUESTS: u64 = 2_000;
const WORKERS: u32 = 8;
const BLOCK_SIZE: u32 = 64;

const MODES: [RouterMode; 6] = [
    RouterMode::RoundRobin,
    RouterMode::Random,
    RouterMode::LeastLoaded,
    RouterMode::PowerOfTwo,
    RouterMode::PrefixHash,
    RouterMode::KvRouter,
];

fn main() {
    divan::main();
}

/// Eight vLLM workers for prompts and output alike.
#[divan::bench(args = MODES, sample_count = 20)]
fn aggregated(bencher: Bencher, mode: RouterMode) {
    replay(bencher, &one_pool(json!({"block_size": BLOCK_SIZE})), mode);
}

/// Four vLLM workers for prompts and four for output.
#[divan::bench(args = [RouterMode::RoundRobin, RouterMode::KvRouter], sample_count = 20)]
fn disaggregated(bencher: Bencher, mode: RouterMode) {
    let args = EngineArgs::from_json(json!({"block_size": BLOCK_SIZE})).unwrap();
    let config = args.validate(None).unwrap();
    let pool = PoolEngine { workers: WORKERS / 2, args: &args, config: &config };
    replay(bencher, &Topology::disaggregated(pool, pool).unwrap(), mode);
}

/// Eight workers of other engines.
#[divan::bench(args = ["trtllm", "sglang"], sample_count = 20)]
fn engine(bencher: Bencher, engine: &str) {
    replay(
        bencher,
        &one_pool(json!({"engine_type": engine, "block_size": BLOCK_SIZE})),
        RouterMode::KvRouter,
    );
}

/// Eight vLLM workers whose KV caches hold a tenth of what they usually do.
#[divan::bench(sample_count = 20)]
fn memory_pressure(bencher: Bencher) {
    let settings = json!({"block_size": BLOCK_SIZE, "num_gpu_blocks": 1_600});
    replay(bencher, &one_pool(settings), RouterMode::KvRouter);
}

fn one_pool(settings: Value) -> Topology {
    let args = EngineArgs::from_json(settings).unwrap();
    let config = args.validate(None).unwrap();
    Topology::aggregated(PoolEngine { workers: WORKERS, args: &args, config: &config }).unwrap()
}

fn replay(bencher: Bencher, topology: &Topology, mode: RouterMode) {
    let workload = workload();
    let router = RouterOptions { mode, ..RouterOptions::default() };
    let options = SimulationOptions { router, ..SimulationOptions::default() };
    bencher
        .with_inputs(|| Simulation::new(topology, workload.clone(), &options).unwrap())
        .counter(ItemsCount::new(REQUESTS))
        .bench_local_values(|simulation| simulation.run(&mut ()).unwrap());
}

fn workload() -> Workload {
    let spec = SyntheticSpec {
        arrival_interval_ms: 12.0,
        arrival_process: ArrivalProcess::Poisson,
        shared_prefix_ratio: 0.5,
        num_prefix_groups: 16,
        trace_block_size: BLOCK_SIZE,
        ..SyntheticSpec::new(1_024, 128, REQUESTS)
    };
    let trace = Trace { rows: generate(&spec).unwrap(), ..Trace::default() };
    trace.workload(BLOCK_SIZE, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap()
}
