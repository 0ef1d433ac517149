//! `servecast validate`: replays recorded runs of real engines and says how far off the simulation is.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde::Serialize;
use servecast_cluster::record::RunRecord;
use servecast_cluster::{PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::{EngineArgs, EnginePreset, WorkerType, merge};
use servecast_report::{ValidatedRun, render_validation};

use self::curves::{Curves, Recorder};
use self::figures::{Figures, Row};
use self::recording::Recording;
use crate::config::Format;
use crate::error::{Failure, chain};
use crate::files::OutputFile;
use crate::{files, latency};

mod curves;
mod figures;
pub(super) mod recording;

/// Replay recorded runs of real engines and show how far off the simulation is
///
/// A recorded run is a folder of meta.json (settings), workload.jsonl (requests with token ids), requests.jsonl (what
/// the engine did, per request) and profile/ (measured times of the model's layers). Times of requests count from when
/// the engine queued them, in the recording and in the simulation.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ValidateArgs {
    /// Folders of recorded runs
    #[arg(value_name = "DIR", required = true, value_hint = ValueHint::DirPath)]
    folders: Vec<PathBuf>,
    /// How long an iteration takes; by default the profile of the recorded run
    #[arg(long, value_name = "SPEC")]
    latency: Option<String>,
    /// KV blocks of a worker, where the recording does not state them
    #[arg(long, value_name = "BLOCKS")]
    num_gpu_blocks: Option<u32>,
    /// Exit with 1 if a figure is off by more than a limit in percent, such as `mean_e2e_ms>1` or `e2e_mape>0.8`; repeat
    /// it for more
    #[arg(long, value_name = "FIGURE>PERCENT", value_parser = limit)]
    fail_if: Vec<Limit>,
    /// Write a page with the curves of both laid over each other, for a browser: one file that loads nothing from elsewhere
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// How to print the figures
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

/// The largest error that a figure may have.
#[derive(Debug, Clone, PartialEq)]
struct Limit {
    figure: String,
    percent: f64,
}

fn limit(text: &str) -> Result<Limit, String> {
    let expected = || format!("expected FIGURE>PERCENT with a figure of {}", Figures::names().join(", "));
    let (figure, percent) = text.split_once('>').ok_or_else(expected)?;
    let figure = figure.trim().to_owned();
    if !Figures::names().contains(&figure) {
        return Err(format!("there is no figure `{figure}`; {}", expected()));
    }
    let percent = percent.trim().trim_end_matches('%').parse().ok();
    let percent = percent.filter(|percent: &f64| percent.is_finite() && *percent >= 0.0);
    Ok(Limit { figure, percent: percent.ok_or_else(expected)? })
}

/// What one recorded run came to.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The folder.
    run: String,
    model: String,
    engine_version: String,
    /// What the simulation assumed because the recording does not state it.
    assumptions: Vec<String>,
    figures: Vec<Row>,
    preemptions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_extrapolated_ratio: Option<f64>,
    /// What iteration times are estimated from, where nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_estimate: Option<String>,
    /// What only the page shows.
    #[serde(skip)]
    page: ValidatedRun,
}

/// Runs the command.
pub(crate) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    if let Some(path) = &args.html {
        files::check_output(path)?;
    }
    let mut outcomes = Vec::new();
    for folder in &args.folders {
        outcomes.push(validate(folder, args)?);
    }
    let text = match args.format {
        Format::Json => serde_json::to_string_pretty(&outcomes).expect("figures are plain data") + "\n",
        Format::Table => outcomes.iter().map(table).collect::<Vec<_>>().join("\n"),
    };
    if let Some(path) = &args.html {
        let pages: Vec<ValidatedRun> = outcomes.iter().map(page).collect();
        let mut file = OutputFile::create(path)?;
        let html = render_validation("Recorded runs beside their simulations", &pages);
        file.write_all(html.as_bytes()).map_err(|error| file.failure(&error))?;
        file.commit()?;
    }
    files::print(&text)?;
    let broken: Vec<String> =
        outcomes.iter().flat_map(|outcome| broken_limits(outcome, &args.fail_if)).collect();
    if broken.is_empty() { Ok(()) } else { Err(Failure::run(broken.join("\n"))) }
}

fn validate(folder: &Path, args: &ValidateArgs) -> Result<Outcome, Failure> {
    let recording = Recording::read(folder, args.num_gpu_blocks)?;
    let refused = |problem: &str| Failure::user(format!("{}: {problem}", folder.display()));
    let preset = EnginePreset::by_name(recording.preset).map_err(|error| refused(&error.to_string()))?;
    let mut settings = recording.settings.clone();
    let spec = args.latency.clone().unwrap_or_else(|| format!("profile:{}", folder.display()));
    settings.insert("latency".to_owned(), spec.into());
    let engine = EngineArgs::from_json(merge(preset.settings(WorkerType::Aggregated), settings.into()))
        .map_err(|error| refused(&error.to_string()))?;
    let spec = engine.latency_spec().map_err(|error| refused(&error.to_string()))?;
    let measured = latency::load(&spec, &latency::Models::new())?;
    let config = engine.validate(measured).map_err(|error| refused(&error.to_string()))?;
    let pool = PoolEngine { workers: recording.workers, args: &engine, config: &config };
    let topology = Topology::aggregated(pool).map_err(|error| refused(&error.to_string()))?;
    let workload = recording.workload();
    // Every iteration is looked at.
    let options = SimulationOptions { plain: true, ..SimulationOptions::default() };
    let simulation =
        Simulation::new(&topology, workload, &options).map_err(|error| refused(&error.to_string()))?;
    let mut recorder = Recorder::new(config.usable_blocks(), recording.workers);
    let record = simulation.run(&mut recorder).map_err(|error| Failure::run(chain(&error)))?;
    let recorded = Curves::recorded(folder)?.unwrap_or_default();
    Ok(outcome(folder, &recording, &record, (&recorded, &recorder.into_curves())))
}

fn outcome(
    folder: &Path,
    recording: &Recording,
    record: &RunRecord,
    (recorded, simulated): (&Curves, &Curves),
) -> Outcome {
    let both = Figures::of(recording, record);
    let mut figures = both.rows(recording.other.as_deref());
    figures.extend(recorded.errors(simulated).into_iter().map(|(name, error)| Row::error(name, error)));
    let page = ValidatedRun {
        distributions: both.distributions(),
        charts: recorded.beside(simulated),
        ..ValidatedRun::default()
    };
    let iterations: u64 = record.pools.iter().map(|pool| pool.totals.iterations).sum();
    let extrapolated = record.extrapolated_iterations;
    Outcome {
        run: folder.display().to_string(),
        model: recording.model.clone(),
        engine_version: recording.engine_version.clone(),
        assumptions: recording.assumptions.clone(),
        figures,
        preemptions: record.pools.iter().map(|pool| pool.totals.preemptions).sum(),
        latency_extrapolated_ratio: (extrapolated > 0)
            .then(|| extrapolated as f64 / iterations.max(1) as f64),
        latency_estimate: record.latency_estimates.first().cloned(),
        page,
    }
}

/// The same for the page.
fn page(outcome: &Outcome) -> ValidatedRun {
    let mut about = vec![format!("{} on vLLM {}", outcome.model, outcome.engine_version)];
    about.extend(outcome.assumptions.iter().map(|assumption| format!("assumed: {assumption}")));
    about.push(format!("{} preemptions", outcome.preemptions));
    ValidatedRun {
        name: outcome.run.clone(),
        about,
        head: HEAD.map(str::to_owned).to_vec(),
        rows: outcome.figures.iter().map(|row| cells(row).to_vec()).collect(),
        ..outcome.page.clone()
    }
}

const HEAD: [&str; 6] = ["figure", "real", "servecast", "error", "other", "error"];

/// A figure as text, under [`HEAD`].
fn cells(row: &Row) -> [String; 6] {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:+.2} %"));
    [
        row.figure.clone(),
        number(row.real),
        number(row.servecast),
        percent(row.error_percent),
        number(row.other),
        percent(row.other_error_percent),
    ]
}

fn broken_limits(outcome: &Outcome, limits: &[Limit]) -> Vec<String> {
    let row = |limit: &Limit| outcome.figures.iter().find(|row| row.figure == limit.figure);
    let broken = |limit: &Limit| {
        let error = row(limit)?.error_percent?;
        (error.abs() > limit.percent).then(|| {
            let Limit { figure, percent } = limit;
            format!("{}: `{figure}` is off by {error:.2} %, more than {percent} %", outcome.run)
        })
    };
    limits.iter().filter_map(broken).collect()
}

/// The figures beside each other, for a reader.
fn table(outcome: &Outcome) -> String {
    let line = |[figure, real, ours, error, other, other_error]: [String; 6]| {
        format!("{figure:<26}{real:>14}{ours:>14}{error:>11}{other:>14}{other_error:>11}")
    };
    let mut lines = vec![format!("{}: {} on vLLM {}", outcome.run, outcome.model, outcome.engine_version)];
    lines.extend(outcome.assumptions.iter().map(|assumption| format!("assumed: {assumption}")));
    lines.extend(
        outcome
            .latency_estimate
            .iter()
            .map(|estimate| format!("iteration times are an estimate, nothing was measured: {estimate}")),
    );
    lines.push(line(HEAD.map(str::to_owned)));
    lines.extend(outcome.figures.iter().map(|row| line(cells(row))));
    lines.push(format!("preemptions: {}", outcome.preemptions));
    if let Some(ratio) = outcome.latency_extrapolated_ratio {
        lines.push(format!("iterations outside the measured grid: {:.2} %", ratio * 100.0));
    }
    lines.join("\n") + "\n"
}
