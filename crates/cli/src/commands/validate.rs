//! `servecast validate`: replays recorded runs of real engines and says how far off the simulation is.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde::Serialize;
use servecast_cluster::{PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::{EngineArgs, EnginePreset, merge};
use servecast_record::RunRecord;
use servecast_report::{FailIf, Limit, Operator, PairedChange, ValidatedRun, render_validation};
use servecast_types::{Message, Role};

use self::curves::{Curves, Recorder};
use self::figures::{Figures, Row, UNSERVED};
use self::recording::Recording;
use crate::config::Format;
use crate::error::{Failure, chain};
use crate::files::OutputFile;
use crate::{files, latency};

mod client;
mod curves;
mod figures;
mod lookups;
pub(super) mod recording;
pub(super) mod server;
mod silicon;

/// Files of a recorded run.
const RECORDED: [&str; 4] = ["meta.json", "workload.jsonl", "workload.jsonl.gz", "requests.jsonl"];

/// Replay recorded runs of real engines and show how far off the simulation is
///
/// A recorded run is a folder of meta.json (settings), workload.jsonl (requests with token ids), requests.jsonl (what
/// the engine did, per request) and profile/ (measured times of the model's layers). Times of requests count from when
/// the engine queued them, in the recording and in the simulation.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ValidateArgs {
    /// Folders of recorded runs; with --config, files of runs of a server
    #[arg(value_name = "DIR", required_unless_present = "silicon", value_hint = ValueHint::DirPath)]
    folders: Vec<PathBuf>,
    /// Deployment that the results are of, a TOML file as for `replay --config`
    ///
    /// A result is what a client measured of each request, which is replayed with its lengths and times: of `vllm bench serve
    /// --save-detailed`, `sglang.bench_serving --output-details`, AIPerf (`profile_export.jsonl`) or `GuideLLM`. Or it is that
    /// of `vllm bench serve --save-result` (arrivals follow from its rate and burstiness; figures are means over 20 seeds), or
    /// a CSV file with a row a turn of a conversation and a column `client_id`: as many conversations are under way as there
    /// are clients. Of several deployment files the later ones go over those before.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["silicon", "num_gpu_blocks", "latency"])]
    config: Vec<PathBuf>,
    /// Table of measured runs to replay instead, a CSV file with a row a run
    ///
    /// A row has `model`, `gpu`, `engine`, `tp`, `isl`, `osl`, `concurrency`, `ttft_ms` and `tpot_ms`, and may have settings
    /// of the engine. It is replayed as a closed loop of `concurrency` requests, 10 for each, with lengths of 80 to 100 % of
    /// the nominal ones and no prefix caching. docs/accuracy.md has the columns and what is judged.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["folders", "html", "num_gpu_blocks"])]
    silicon: Option<PathBuf>,
    /// Replay only so many of the judged rows of the table, always the same ones
    #[arg(long, value_name = "ROWS")]
    sample: Option<u32>,
    /// Most rows of the table at a time; without it one for each core
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Replay each row of the table with constants that were fitted without it
    #[arg(long, value_name = "WHAT", value_enum)]
    cross_validate: Option<silicon::CrossValidate>,
    /// Simulate data-parallel ranks of the attention of vLLM and SGLang in lock step, in place of one engine for all of them
    ///
    /// The constants around operators were fitted with one engine.
    #[arg(long)]
    attention_ranks: bool,
    /// How long an iteration takes; by default the profile of the recorded run, or `ops` for a table
    ///
    /// Each row of a table has its own model and GPU: only the name of the latency model is given, and options for all
    /// rows behind a colon.
    #[arg(long, value_name = "SPEC")]
    latency: Option<String>,
    /// KV blocks of a worker, in place of what the recording states or of what fits its GPU
    #[arg(long, value_name = "BLOCKS")]
    num_gpu_blocks: Option<u32>,
    /// Exit with status 3 if this holds for a run, as in `mean_e2e_ms>1%` (can be repeated)
    ///
    /// For a table the condition is on a score of all judged rows, in percent, as in `tpot_mape>15`.
    ///
    /// A limit of `1%` is how far the figure may be off from the recorded one, either way; `+1%` and `-1%` are limits of
    /// the error with its sign.
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<FailIf>,
    /// Write a page with the curves of both laid over each other, for a browser: one file that loads nothing from elsewhere
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// How to print the figures
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
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
    /// How latencies differ over pairs of the same request, where a client measured requests one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    paired: Option<Vec<PairedChange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_extrapolated_ratio: Option<f64>,
    /// What iteration times are estimated from, where nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_estimate: Option<String>,
    /// What only the page shows.
    #[serde(skip)]
    page: ValidatedRun,
}

impl Outcome {
    fn title(&self) -> String {
        format!("{}: {}", self.run, self.what())
    }

    fn what(&self) -> String {
        let of = if self.model.starts_with("the deployment of ") { "; " } else { " on vLLM " };
        format!("{}{of}{}", self.model, self.engine_version)
    }
}

/// Runs the command.
pub(crate) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    if let Some(path) = &args.silicon {
        return silicon::run(args, path);
    }
    let of_table = [
        ("--cross-validate", args.cross_validate.is_some()),
        ("--sample", args.sample.is_some()),
        ("--threads", args.threads.is_some()),
        ("--attention-ranks", args.attention_ranks),
    ];
    if let Some((flag, _)) = of_table.into_iter().find(|(_, is_given)| *is_given) {
        return Err(Failure::user(format!("`{flag}` is for a table of measured runs: --silicon FILE")));
    }
    if let Some(path) = &args.html {
        let of_folder = |run: &PathBuf| RECORDED.map(|name| run.join(name));
        let inputs = args.folders.iter().flat_map(of_folder).chain(args.folders.iter().cloned());
        files::check_output_beside(path, "--html", inputs.chain(args.config.iter().cloned()))?;
    }
    let conditions: Vec<FailIf> = args.fail_if.iter().map(on_an_error).collect::<Result<_, _>>()?;
    let mut outcomes = Vec::new();
    for folder in &args.folders {
        outcomes.push(match args.config.as_slice() {
            [] => validate(folder, args)?,
            configs => of_server(folder, configs, args.html.is_some())?,
        });
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
    let broken: Vec<String> = outcomes.iter().flat_map(|outcome| broken(outcome, &conditions)).collect();
    if broken.is_empty() { Ok(()) } else { Err(Failure::condition(broken.join("\n       "))) }
}

/// A run of a server.
fn of_server(result: &Path, configs: &[PathBuf], has_page: bool) -> Result<Outcome, Failure> {
    let served = match client::format(result) {
        Some(format) => client::validate(result, format, configs, has_page)?,
        None => server::validate(result, configs)?,
    };
    let server::Served { figures, latency_source, latency_estimate, assumptions, preemptions, paired, page } =
        served;
    let names: Vec<String> = configs.iter().map(|config| config.display().to_string()).collect();
    Ok(Outcome {
        run: result.display().to_string(),
        model: format!("the deployment of {}", names.join(", ")),
        engine_version: latency_source,
        assumptions,
        figures,
        preemptions,
        paired,
        latency_extrapolated_ratio: None,
        latency_estimate,
        page,
    })
}

/// The condition, which has to be one on an error.
fn on_an_error(condition: &FailIf) -> Result<FailIf, Failure> {
    let about = |failure: Failure| failure.about(format!("--fail-if {condition}"));
    let condition = condition.clone().on_one_of(&Figures::names()).map_err(|error| {
        about(Failure::input(&error)).with_hint(format!("figures are {}", Figures::names().join(", ")))
    })?;
    let (share, problem) = match condition.limit {
        Limit::RelativeChange(_) => return Ok(condition),
        Limit::Share(_) if matches!(condition.operator, Operator::Above | Operator::AtLeast) => {
            return Ok(condition);
        }
        Limit::Share(share) => (share, "an error that is small is no failure"),
        Limit::Value(number) | Limit::Change(number) => {
            let problem =
                "how far a figure is off is in percent of the recorded one, and the limit has no `%`";
            (number.abs() / 100.0, problem)
        }
    };
    let meant = FailIf { operator: Operator::Above, limit: Limit::Share(share), ..condition };
    Err(about(Failure::user(problem))
        .with_hint(format!("`{meant}` fails if the figure is off by more, either way")))
}

fn validate(folder: &Path, args: &ValidateArgs) -> Result<Outcome, Failure> {
    let recording = Recording::read(folder, args.num_gpu_blocks, "--num-gpu-blocks states it")?;
    let refused = |problem: Message| Failure::user(problem).about(folder.display().to_string());
    let preset = EnginePreset::by_name(recording.preset).map_err(|error| refused(error.into()))?;
    let mut settings = recording.settings.clone();
    let spec = args.latency.clone().unwrap_or_else(|| format!("profile:{}", folder.display()));
    settings.insert("latency".to_owned(), spec.into());
    let engine = EngineArgs::from_json(merge(preset.settings(Role::Aggregated), settings.into()))
        .map_err(|error| refused(error.into()))?;
    let spec = engine.latency_spec().map_err(|error| refused(error.into()))?;
    let measured = latency::load(&spec, &latency::Models::new())?;
    let config = engine.validate(measured).map_err(|error| refused(error.into()))?;
    let pool = PoolEngine { workers: recording.workers, args: &engine, config: &config };
    let topology = Topology::aggregated(pool).map_err(|error| refused(error.into()))?;
    let workload = recording.workload();
    let simulation = Simulation::new(&topology, workload, &SimulationOptions::default())
        .map_err(|error| refused(error.into()))?;
    let mut recorder = Recorder::new(config.usable_blocks(), recording.workers, config.num_ranks());
    let record = simulation.run_dyn(&mut recorder).map_err(|error| Failure::run(chain(&error)))?;
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
        paired: None,
        latency_extrapolated_ratio: (extrapolated > 0)
            .then(|| extrapolated as f64 / iterations.max(1) as f64),
        latency_estimate: record.latency_estimates.first().cloned(),
        page,
    }
}

/// The same for the page.
fn page(outcome: &Outcome) -> ValidatedRun {
    let mut about = vec![outcome.what()];
    about.extend(outcome.assumptions.iter().map(|assumption| format!("assumed: {assumption}")));
    about.push(format!("{} preemptions", outcome.preemptions));
    // Few recordings have what another simulator came to.
    let has_other =
        outcome.figures.iter().any(|row| row.other.is_some() || row.other_error_percent.is_some());
    let columns = if has_other { HEAD.len() } else { HEAD.len() - 2 };
    ValidatedRun {
        name: outcome.run.clone(),
        about,
        head: HEAD.map(str::to_owned)[..columns].to_vec(),
        rows: outcome.figures.iter().map(|row| cells(row)[..columns].to_vec()).collect(),
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

/// The conditions that hold, each with the error for which it does. One on a figure without an error holds, since nothing
/// was compared; and where there are conditions at all, every request of the recording has to be in the figures.
fn broken(outcome: &Outcome, conditions: &[FailIf]) -> Vec<String> {
    let unserved = outcome.figures.iter().find(|row| row.figure == UNSERVED && !conditions.is_empty());
    let unserved = unserved.and_then(|row| row.servecast).map(|count| {
        format!("{count} requests of {} are not served by the simulation and are in no figure", outcome.run)
    });
    let broken = |condition: &FailIf| {
        let run = &outcome.run;
        let row = outcome.figures.iter().find(|row| row.figure == condition.metric);
        let Some(error) = row.and_then(|row| row.error_percent) else {
            return Some(format!("{condition}: {run} has nothing to compare for `{}`", condition.metric));
        };
        let (measured, limit) = match condition.limit {
            Limit::Share(share) => (error.abs(), share * 100.0),
            Limit::RelativeChange(share) => (error, share * 100.0),
            Limit::Value(_) | Limit::Change(_) => unreachable!("conditions were checked"),
        };
        let is_broken = condition.operator.holds(measured, limit);
        is_broken.then(|| format!("{condition}: off by {error:+.2}% in {run}"))
    };
    unserved.into_iter().chain(conditions.iter().filter_map(broken)).collect()
}

/// The figures beside each other, for a reader.
fn table(outcome: &Outcome) -> String {
    let line = |[figure, real, ours, error, other, other_error]: [String; 6]| {
        format!("{figure:<26}{real:>14}{ours:>14}{error:>11}{other:>14}{other_error:>11}")
    };
    let mut lines = vec![outcome.title()];
    lines.extend(outcome.assumptions.iter().map(|assumption| format!("assumed: {assumption}")));
    lines.extend(
        outcome
            .latency_estimate
            .iter()
            .map(|estimate| format!("iteration times are an estimate, nothing was measured: {estimate}")),
    );
    lines.push(line(HEAD.map(str::to_owned)));
    lines.extend(outcome.figures.iter().map(|row| line(cells(row))));
    if let Some(paired) = &outcome.paired {
        lines.push("request by request, with 95% confidence intervals:".to_owned());
        lines.extend(paired.iter().map(|change| format!("  {change}")));
    }
    lines.push(format!("preemptions: {}", outcome.preemptions));
    if let Some(ratio) = outcome.latency_extrapolated_ratio {
        lines.push(format!("iterations outside the measured grid: {:.2} %", ratio * 100.0));
    }
    lines.join("\n") + "\n"
}
