//! One run and what it cost.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use servecast_cluster::{
    LoadMode, PoolEngine, RouterMode, RouterOptions, Simulation, SimulationOptions, Topology,
};
use servecast_engine::EngineArgs;
use servecast_report::{SummaryOptions, summarize};
use servecast_workload::{Load, SyntheticSpec, Trace, Workload, generate, read_mooncake};

use crate::usage::usage;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Point {
    /// What the first column of the table calls it.
    pub(crate) label: String,
    /// What grows from point to point.
    pub(crate) size: f64,
    pub(crate) source: Source,
    pub(crate) workers: u32,
    pub(crate) router_mode: RouterMode,
    /// Engine settings.
    pub(crate) engine: Value,
}

/// Where its requests come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Source {
    /// Made, arriving at its times.
    Open(SyntheticSpec),
    /// Made, so many at a time.
    Closed(SyntheticSpec, u32),
    /// Read, with so many tokens a hash id.
    Trace(PathBuf, u32),
}

/// What a run did and what it cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) iterations: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    /// CPU time of the whole process: workload, simulation and report.
    pub(crate) cpu_s: f64,
    /// CPU time of the simulation alone.
    pub(crate) simulation_cpu_s: f64,
    pub(crate) peak_mb: f64,
}

impl Point {
    /// Runs it in this process.
    pub(crate) fn run(&self) -> Result<Figures, Box<dyn Error>> {
        let args = EngineArgs::from_json(self.engine.clone())?;
        let config = args.validate(None)?;
        let pool = PoolEngine { workers: self.workers, args: &args, config: &config };
        let topology = Topology::aggregated(pool)?;
        let (workload, load) = self.source.workload()?;
        let router = RouterOptions { mode: self.router_mode, ..RouterOptions::default() };
        let options = SimulationOptions { load, router, ..SimulationOptions::default() };
        let before = usage()?;
        let record = Simulation::new(&topology, workload, &options)?.run(&mut ())?;
        let simulated = usage()?;
        let report = summarize(&record, &SummaryOptions::default());
        let after = usage()?;
        if report.rejected_requests > 0 {
            return Err(format!("{} requests were rejected", report.rejected_requests).into());
        }
        Ok(Figures {
            requests: report.completed_requests,
            iterations: report.total_iterations,
            prompt_tokens: report.total_input_tokens,
            output_tokens: report.total_output_tokens,
            cpu_s: after.cpu_s,
            simulation_cpu_s: simulated.cpu_s - before.cpu_s,
            peak_mb: after.peak_mb,
        })
    }
}

impl Source {
    fn workload(&self) -> Result<(Workload, LoadMode), Box<dyn Error>> {
        let open = Load::Open { arrival_speedup_ratio: 1.0 };
        let made = |spec: &SyntheticSpec| -> Result<Trace, Box<dyn Error>> {
            Ok(Trace { rows: generate(spec)?, ..Trace::default() })
        };
        Ok(match self {
            Self::Open(spec) => (made(spec)?.into_workload(spec.trace_block_size, open)?, LoadMode::OpenLoop),
            Self::Closed(spec, concurrency) => {
                let mode = LoadMode::ClosedLoop { concurrency: *concurrency };
                (made(spec)?.into_workload(spec.trace_block_size, Load::Closed)?, mode)
            }
            Self::Trace(path, block_size) => {
                let trace = read_mooncake(BufReader::new(File::open(path)?))?;
                (trace.into_workload(*block_size, open)?, LoadMode::OpenLoop)
            }
        })
    }
}

impl Figures {
    /// The run in the middle by each cost; what a point does is the same in all of its runs.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let middle = |cost: fn(&Self) -> f64| {
            let mut costs: Vec<f64> = runs.iter().map(cost).collect();
            costs.sort_by(f64::total_cmp);
            costs[costs.len() / 2]
        };
        Self {
            cpu_s: middle(|run| run.cpu_s),
            simulation_cpu_s: middle(|run| run.simulation_cpu_s),
            peak_mb: middle(|run| run.peak_mb),
            ..runs[0]
        }
    }
}
