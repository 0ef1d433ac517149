//! `servecast calibrate`: fits a step model to what was measured.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::ValueHint;
use serde_json::{Map, Value};
use servecast_calibrate::{CalibrateError, Experts, Options, Phases, fit_both, fit_passes, fit_requests};
use servecast_engine::EngineType;
use servecast_workload::TimeUnit;

use self::input::Input;
use crate::config::{Format, TIME_UNITS, choice, settings};
use crate::error::Failure;
use crate::files;
use crate::progress::FitProgress;

mod host;
mod input;
mod output;
mod passes;
mod requests;
mod server;

/// Fit a step model to measured iterations or requests
///
/// Inputs are files of iterations (--iterations-jsonl of a replay, or a log of vLLM with --enable-logging-iteration-details)
/// or of requests (rows of arrival, lengths, TTFT and E2E as JSON Lines or CSV, the JSON of `vllm bench serve
/// --save-detailed`, `profile_export.jsonl` of AIPerf, a report of GuideLLM, or a folder of a recorded run). Each file of
/// requests is one run. Measure at two load levels at least.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CalibrateArgs {
    /// What was measured
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::AnyPath)]
    inputs: Vec<PathBuf>,
    /// Write the model, for `--latency step:FILE`
    #[arg(long, short, value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Fit only what the host takes besides passes, whose times are those of this latency model, such as profile:DIR
    #[arg(long, value_name = "SPEC")]
    base: Option<String>,
    /// Deployment that served the runs, as for `validate --config` (can be repeated): fit how much longer its passes take
    /// than its latency model says, and the front end
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["base", "first_requests", "experts", "engine", "engine_preset", "engine_args", "num_workers", "time_unit"])]
    config: Vec<PathBuf>,
    /// Fit to the first requests of each run by arrival, and say how well the others are predicted
    #[arg(long, value_name = "N")]
    first_requests: Option<usize>,
    /// Whether passes that only decode have prices of their own (two) or not (one); auto if that explains much more
    #[arg(long, value_name = "PHASES", value_parser = phases, default_value = "auto")]
    phases: Phases,
    /// Experts of the model, and how many of them a token activates
    #[arg(long, value_name = "COUNT,PER_TOKEN", value_parser = experts)]
    experts: Option<Experts>,
    /// Engine that served the requests
    #[arg(long, value_name = "ENGINE", value_parser = engine)]
    engine: Option<EngineType>,
    /// Release of the engine, as for a replay
    #[arg(long, value_name = "PRESET")]
    engine_preset: Option<String>,
    /// Settings of the engine, a JSON object or @FILE.json
    #[arg(long = "extra-engine-args", visible_alias = "engine-args", value_name = "JSON", value_parser = settings)]
    engine_args: Option<Map<String, Value>>,
    /// Engines that served the requests, in turn
    #[arg(long, visible_alias = "workers", value_name = "N")]
    num_workers: Option<u32>,
    /// Unit of times of requests whose keys have none, such as `ttft` for `ttft_ms`
    #[arg(long, value_name = "UNIT", value_parser = choice::<TimeUnit>("time_unit", TIME_UNITS))]
    time_unit: Option<TimeUnit>,
    /// How to print the result
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
    /// Show no progress and no notes
    #[arg(long, short)]
    quiet: bool,
}

fn phases(text: &str) -> Result<Phases, String> {
    match text {
        "auto" => Ok(Phases::Auto),
        "one" => Ok(Phases::One),
        "two" => Ok(Phases::Two),
        _ => Err("expected auto, one or two".to_owned()),
    }
}

fn engine(text: &str) -> Result<EngineType, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected vllm, sglang or trtllm".to_owned())
}

fn experts(text: &str) -> Result<Experts, String> {
    let numbers: Option<Vec<u32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[count, per_token]) if (1..=count).contains(&per_token) && count <= 1 << 20 => {
            Ok(Experts { count, per_token })
        }
        _ => Err("expected COUNT,PER_TOKEN, such as 128,8".to_owned()),
    }
}

/// Runs the command.
pub(crate) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    if let Some(path) = &args.output {
        files::check_output_beside(path, "--output", args.inputs.iter().chain(&args.config))?;
    }
    if !args.config.is_empty() {
        return server::run(args);
    }
    let (mut passes, mut runs) = (Vec::new(), Vec::new());
    for path in &args.inputs {
        match input::read(path, args)? {
            Input::Passes(run) => passes.push(run),
            Input::Requests(run) => runs.push(*run),
        }
    }
    if let Some(spec) = &args.base {
        return host::run(spec, &passes, &runs, args);
    }
    let options = Options { phases: args.phases, experts: args.experts };
    let (fit, what) = match (passes.is_empty(), runs.is_empty()) {
        (false, false) => {
            if args.first_requests.is_some() {
                return Err(Failure::user(
                    "--first-requests is for requests alone, but some inputs are iterations",
                ));
            }
            let iterations: usize = passes.iter().map(|run| run.rows.len()).sum();
            let requests: usize = runs.iter().map(|run| run.rows.len()).sum();
            let fit = fit_both(&passes, &runs, options).map_err(refused)?;
            (fit, format!("{iterations} iterations and {requests} requests"))
        }
        (false, true) => {
            check_unused(args)?;
            let iterations: usize = passes.iter().map(|run| run.rows.len()).sum();
            (fit_passes(&passes, options).map_err(refused)?, format!("{iterations} iterations"))
        }
        _ => {
            let whole = runs.clone();
            let kept = args.first_requests.map_or(Ok(runs), |first| input::first_requests(&whole, first))?;
            let progress = FitProgress::new(args.quiet);
            let fit = fit_requests(&kept, options, &mut |loss| progress.tick(loss));
            progress.finish();
            let mut fit = fit.map_err(refused)?;
            if let Some(first) = args.first_requests {
                fit.held_out.push(servecast_calibrate::predict(&whole, &fit.step, first).map_err(refused)?);
            }
            let requests: usize =
                kept.iter().map(|run| run.rows.iter().filter(|row| row.times.is_some()).count()).sum();
            (fit, format!("{requests} requests"))
        }
    };
    if let Some(path) = &args.output {
        output::write(path, &fit, &what, args)?;
    }
    files::print(&match args.format {
        Format::Json => output::json_text(&fit),
        Format::Table => {
            let held_out: &[_] = &fit.held_out;
            let mut text = output::table(&fit, "Step model", &what, &[(output::HELD_OUT, held_out)]);
            if let Some(path) = &args.output {
                let _ = writeln!(text, "\nreplay with `servecast replay --latency step:{}`", path.display());
            }
            text
        }
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn refused(error: CalibrateError) -> Failure {
    match &error {
        CalibrateError::Interrupted => Failure::interrupted(error.to_string()),
        CalibrateError::Simulation { .. } => Failure::input(&error)
            .with_hint("--engine, --engine-preset, --extra-engine-args and --num-workers state the settings"),
        _ => Failure::input(&error),
    }
}

/// Refuses what only means something for requests.
fn check_unused(args: &CalibrateArgs) -> Result<(), Failure> {
    let given = [
        ("--first-requests", args.first_requests.is_some()),
        ("--engine", args.engine.is_some()),
        ("--engine-preset", args.engine_preset.is_some()),
        ("--extra-engine-args", args.engine_args.is_some()),
        ("--num-workers", args.num_workers.is_some()),
        ("--time-unit", args.time_unit.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Failure::user(format!(
            "{flag} is for requests, which are simulated, but the inputs are iterations"
        ))),
        None => Ok(()),
    }
}
