//! A run that is cut off would have missed its target, had it gone on.

use std::ops::ControlFlow;

use proptest::prelude::*;
use serde_json::json;
use servecast_cluster::{
    Observer, PoolEngine, RouterMode, RouterOptions, RunError, Simulation, SimulationOptions, Topology,
};
use servecast_engine::EngineArgs;
use servecast_recommend::{Cutoff, Lost};
use servecast_record::{RunRecord, SoFar};
use servecast_report::Slo;
use servecast_workload::{ArrivalProcess, LengthDistribution, Load, SyntheticSpec, Workload, generate};

struct Watcher {
    cutoff: Cutoff,
    lost: Option<Lost>,
    goes_on: bool,
}

impl Observer for Watcher {
    fn recorded(&mut self, so_far: &SoFar<'_>, ended: u64) -> ControlFlow<()> {
        if self.lost.is_none() {
            self.lost = self.cutoff.lost(so_far, ended);
        }
        if self.lost.is_some() && !self.goes_on { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A load that one worker is short of memory for: some requests do not fit, others wait.
fn workload(requests: u64, interval_ms: f64, seed: u64) -> Workload {
    let spec = SyntheticSpec {
        arrival_interval_ms: interval_ms,
        arrival_process: ArrivalProcess::Poisson,
        length_distribution: LengthDistribution::Lognormal,
        length_spread: 1.0,
        seed,
        ..SyntheticSpec::new(400, 12, requests)
    };
    let rows = generate(&spec).unwrap();
    Workload::from_rows(&rows, spec.trace_block_size, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap()
}

fn run(
    workload: &Workload,
    workers: u32,
    mode: RouterMode,
    watcher: &mut Watcher,
) -> Result<RunRecord, RunError> {
    let args = EngineArgs::from_json(json!({
        "num_gpu_blocks": 40, "max_num_seqs": 4, "max_num_batched_tokens": 512, "latency": "linear:4000,10,50",
    }))
    .unwrap();
    let config = args.validate(None).unwrap();
    let topology = Topology::aggregated(PoolEngine { workers, args: &args, config: &config }).unwrap();
    let options = SimulationOptions {
        router: RouterOptions { mode, ..RouterOptions::default() },
        ..SimulationOptions::default()
    };
    Simulation::new(&topology, workload.clone(), &options).unwrap().run(watcher)
}

fn objectives() -> impl Strategy<Value = String> {
    let percent = prop::sample::select(vec!["p0", "p50", "p90", "p95", "p99.5", "p100", "mean", "max"]);
    let limit = prop::sample::select(vec![5_u32, 12, 30, 100, 300, 1000, 5000]);
    let metric = prop::sample::select(vec!["ttft", "tpot", "itl", "e2e"]);
    let sign = prop::sample::select(vec!["<", "<="]);
    let latency = (percent, metric, sign, limit)
        .prop_map(|(p, metric, sign, limit)| format!("{p} {metric} {sign} {limit}ms"));
    let goodput = (0..=100_u32, 1..3000_u32, 5..60_u32)
        .prop_map(|(share, ttft, tpot)| format!("goodput >= {share}% (ttft <= {ttft}ms, tpot <= {tpot}ms)"));
    prop_oneof![3 => latency, 1 => goodput]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_target_that_is_lost_is_missed(
        text in objectives(),
        interval in 20_u32..400,
        workers in 1_u32..4,
        blind: bool,
        seed in 0_u64..1000,
    ) {
        let workload = workload(150, f64::from(interval), seed);
        let slo: Slo = text.parse().unwrap();
        let mode = if blind { RouterMode::RoundRobin } else { RouterMode::LeastLoaded };
        let cutoff = || Cutoff::new(std::slice::from_ref(&slo), &workload);
        let mut to_the_end = Watcher { cutoff: cutoff(), lost: None, goes_on: true };
        let record = run(&workload, workers, mode, &mut to_the_end).unwrap();
        let met = slo.judge(&record).met;
        prop_assert!(!(met && to_the_end.lost.is_some()), "{} was kept, but lost: {:?}", text, to_the_end.lost);
        let mut watcher = Watcher { cutoff: cutoff(), lost: None, goes_on: false };
        let ended = run(&workload, workers, mode, &mut watcher);
        prop_assert_eq!(ended.is_err(), to_the_end.lost.is_some());
    }
}

/// A target that nobody could keep is lost within the first part of the run.
#[test]
fn hopeless_runs_end_early() {
    let workload = workload(2000, 5.0, 1);
    let slo: Slo = "p95 ttft <= 50ms".parse().unwrap();
    let mut watcher = Watcher { cutoff: Cutoff::new(&[slo], &workload), lost: None, goes_on: false };
    assert!(run(&workload, 1, RouterMode::LeastLoaded, &mut watcher).is_err());
    let lost = watcher.lost.unwrap();
    assert!(lost.misses >= 100 && lost.arrived <= 2000, "{lost:?}");
    let kept: Slo = "p95 ttft <= 100s".parse().unwrap();
    let mut watcher = Watcher { cutoff: Cutoff::new(&[kept], &workload), lost: None, goes_on: false };
    assert!(run(&workload, 1, RouterMode::LeastLoaded, &mut watcher).is_ok() && watcher.lost.is_none());
}
