//! How the cost of a simulation grows: CPU time a request, an iteration and a token, and peak memory.
//!
//! ```console
//! cargo run --release -p servecast-cli --example growth                 # four dimensions, minutes
//! cargo run --release -p servecast-cli --example growth -- --quick      # the same, seconds
//! cargo run --release -p servecast-cli --example growth -- workers --router-mode kv_router
//! cargo run --release -p servecast-cli --example growth -- million output-cost
//! cargo run --release -p servecast-cli --example growth -- page-size --trace mooncake_conversation.jsonl
//! ```
//!
//! Every point runs in a process of its own, so that its peak memory is its own, and the points of a suite take turns
//! round by round, so that a machine that slows down slows all of them. Figures are medians. *Order* is the exponent
//! by which CPU time grew from the row above: 1 is linear, more is a super-linear term. `ns/output` and `ns/prompt` are
//! CPU time a token of output and of prompt; all costs but `ns/iteration` have reading or making the workload in them.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the tables are what it is for")]

mod point;
mod suite;
mod usage;

use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use clap::{Parser, ValueEnum};
use servecast_cluster::RouterMode;

use crate::point::{Figures, Point};
use crate::suite::{Scale, Suite};

/// Measure how the cost of a simulation grows
#[derive(Debug, Parser)]
struct Args {
    /// What to measure [default: the four dimensions]
    #[arg(value_enum)]
    suites: Vec<SuiteName>,
    /// Stop each dimension early and shrink the scenarios
    #[arg(long)]
    quick: bool,
    /// Runs of every point
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How requests are spread over workers in the four dimensions and in `page-size`
    #[arg(long, default_value = "round_robin", value_parser = router_mode)]
    router_mode: RouterMode,
    /// Trace in Mooncake JSON Lines, for `page-size`
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Run this point and print its figures
    #[arg(long, hide = true)]
    point: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SuiteName {
    /// 1,000 to 1,000,000 requests
    Requests,
    /// 1 to 1,024 workers at the same load per worker
    Workers,
    /// 10 to 10,000 output tokens
    Output,
    /// 100 to 100,000 prompt tokens
    Prompt,
    /// One million requests on 64 workers with `kv_router`
    Million,
    /// 100,000 requests with 2,000 output tokens against 100 of them
    OutputCost,
    /// SGLang with pages of 1 and of 64 tokens on a trace
    PageSize,
}

const DIMENSIONS: [SuiteName; 4] =
    [SuiteName::Requests, SuiteName::Workers, SuiteName::Output, SuiteName::Prompt];

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if let Some(point) = &args.point {
        let point: Point = serde_json::from_str(point)?;
        println!("{}", serde_json::to_string(&point.run()?)?);
        return Ok(());
    }
    let scale = if args.quick { Scale::Quick } else { Scale::Full };
    let names = if args.suites.is_empty() { &DIMENSIONS } else { args.suites.as_slice() };
    let suites: Vec<Suite> =
        names.iter().map(|&name| suite_of(name, scale, &args)).collect::<Result<_, _>>()?;
    for suite in &suites {
        suite.print(&measure(suite, args.rounds)?);
    }
    Ok(())
}

fn suite_of(name: SuiteName, scale: Scale, args: &Args) -> Result<Suite, Box<dyn Error>> {
    Ok(match name {
        SuiteName::Requests => suite::requests(scale, args.router_mode),
        SuiteName::Workers => suite::workers(scale, args.router_mode),
        SuiteName::Output => suite::output(scale, args.router_mode),
        SuiteName::Prompt => suite::prompt(scale, args.router_mode),
        SuiteName::Million => suite::million(scale),
        SuiteName::OutputCost => suite::output_cost(scale),
        SuiteName::PageSize => {
            suite::page_size(args.trace.as_deref().ok_or("`page-size` needs --trace FILE")?, args.router_mode)
        }
    })
}

/// The median figures of each point of a suite.
fn measure(suite: &Suite, rounds: u32) -> Result<Vec<Figures>, Box<dyn Error>> {
    let mut runs = vec![Vec::new(); suite.points.len()];
    for round in 1..=rounds {
        for (point, runs) in suite.points.iter().zip(&mut runs) {
            show_progress(&format!("{}: {}, round {round} of {rounds}", suite.name, point.label));
            runs.push(run_apart(point)?);
        }
    }
    show_progress("");
    Ok(runs.iter().map(|runs| Figures::median(runs)).collect())
}

fn show_progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}

/// Runs a point in a process of its own.
fn run_apart(point: &Point) -> Result<Figures, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .arg("--point")
        .arg(serde_json::to_string(point)?)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", point.label, output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A routing policy by the name that the command line gives it.
fn router_mode(name: &str) -> Result<RouterMode, serde_json::Error> {
    serde_json::from_value(name.into())
}
