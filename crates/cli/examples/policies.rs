//! Compares the routing policies on a trace: a Markdown table on standard output.
//!
//! ```console
//! cargo run --release -p servecast-cli --example policies -- TRACE [WORKERS]
//! ```

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::error::Error;
use std::fs::File;
use std::io::BufReader;

use servecast_cluster::{PoolEngine, RouterMode, RouterOptions, Simulation, SimulationOptions, Topology};
use servecast_engine::EngineArgs;
use servecast_report::{Report, SummaryOptions, summarize};
use servecast_workload::{Load, Workload, read_mooncake};

const TRACE_BLOCK_SIZE: u32 = 512;

const MODES: [(&str, RouterMode); 6] = [
    ("kv_router", RouterMode::KvRouter),
    ("prefix_hash", RouterMode::PrefixHash),
    ("least_loaded", RouterMode::LeastLoaded),
    ("power_of_two", RouterMode::PowerOfTwo),
    ("round_robin", RouterMode::RoundRobin),
    ("random", RouterMode::Random),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let trace = arguments.next().ok_or("usage: policies TRACE [WORKERS]")?;
    let workers = arguments.next().map_or(Ok(8), |workers| workers.parse())?;
    let trace = read_mooncake(BufReader::new(File::open(trace)?))?;
    let workload = trace.workload(TRACE_BLOCK_SIZE, Load::Open { arrival_speedup_ratio: 1.0 })?;
    println!("| policy | mean TTFT (ms) | p99 TTFT (ms) | mean ITL (ms) | reuse | requests a worker |");
    println!("|---|--:|--:|--:|--:|--:|");
    for (name, mode) in MODES {
        let report = run(&workload, workers, mode)?;
        let spread = report.pools[0].requests_per_worker;
        let (Some(ttft), Some(itl)) = (*report.ttft_ms, *report.itl_ms) else {
            return Err("no request was served".into());
        };
        println!(
            "| `{name}` | {:.1} | {:.1} | {:.2} | {:.1} % | {} to {} |",
            ttft.mean,
            ttft.p99,
            itl.mean,
            report.prefix_cache_reused_ratio.unwrap_or(0.0) * 100.0,
            spread.min,
            spread.max
        );
    }
    Ok(())
}

fn run(workload: &Workload, workers: u32, mode: RouterMode) -> Result<Report, Box<dyn Error>> {
    let args = EngineArgs::default();
    let config = args.validate(None)?;
    let topology = Topology::aggregated(PoolEngine { workers, args: &args, config: &config })?;
    let router = RouterOptions { mode, ..RouterOptions::default() };
    let options = SimulationOptions { router, ..SimulationOptions::default() };
    let record = Simulation::new(&topology, workload.clone(), &options)?.run(&mut ())?;
    Ok(summarize(&record, &SummaryOptions::default()))
}
