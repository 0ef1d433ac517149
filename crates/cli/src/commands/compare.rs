//! `servecast compare`: how runs differ from the first of them.

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use clap::ValueHint;
use servecast_report::{
    ComparedPage, Differences, FailIf, MatchedRequests, NamedFigures, Report, RequestFigures, RunDifference,
    SchemaVersion, failures, matched_requests, paired_changes, read_request_figures, render_differences,
    render_differences_markdown, render_differences_page, render_junit,
};
use servecast_workload::FormatKind;

use self::gate::Gate;
use super::replay::{REPORT, ROWS, json, table_options};
use crate::config::{DEFAULT_SEED, ReportFormat};
use servecast_types::message;

use crate::error::{Failure, quoted};
use crate::files::{self, OutputFile, note};

mod gate;
pub(super) mod measured;

/// Compare runs, simulated or measured, with the first of them
///
/// A run is a file of `replay --report-json`, a folder of `replay --output-dir` with its report and its rows, or what was
/// measured: a result of `vllm bench serve --save-detailed` or `sglang.bench_serving --output-details`,
/// `profile_export.jsonl` of AIPerf, or a report of GuideLLM. Runs of the same requests that have rows are also compared
/// request by request. Exit status 3 tells that a condition of --fail-if holds.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompareArgs {
    /// Reports, folders of --output-dir or measured results; the first is the baseline
    #[arg(value_name = "RUN", required = true, num_args = 2.., value_hint = ValueHint::AnyPath)]
    runs: Vec<PathBuf>,
    /// Rows of requests of the runs, one file for each that was not measured, in their order (can be repeated)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    requests: Vec<PathBuf>,
    /// Exit with status 3 if this holds for a run, as in `p99_ttft_ms>+5%` (can be repeated)
    ///
    /// The figure is any number at the top of the report. A limit of `+5%` or `-5%` is a change beside the first run, `+20` one in the
    /// unit of the figure, `200` the figure itself, `5%` the same as `+5%`.
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<FailIf>,
    /// Let a run pass --fail-if that completed fewer requests than the first
    #[arg(long)]
    allow_fewer: bool,
    /// Let --fail-if judge runs of different workloads
    #[arg(long)]
    different_workloads: bool,
    /// Write a page with charts, for a browser: one file that loads nothing from elsewhere
    #[arg(long, visible_alias = "report-html", value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Root of the random numbers of confidence intervals
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SEED)]
    seed: u64,
    /// What is printed: a table, JSON, or for CI Markdown, or what came of --fail-if as JUnit XML
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ReportFormat,
}

/// A run as it was read.
pub(super) struct Run {
    pub(super) figures: NamedFigures,
    pub(super) rows: Option<Vec<RequestFigures>>,
    /// Whether requests waited for others before they were sent.
    is_limited: bool,
    /// What the client was told of when to send requests, if one measured the run.
    pub(super) sending: Sending,
}

/// When a client sends requests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sending {
    /// The most that it has under way.
    pub(super) concurrency: Option<u64>,
    /// How many it sends a second; infinite if all are sent at once.
    pub(super) rate: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &CompareArgs) -> Result<(), Failure> {
    if args.format == ReportFormat::Junit && args.fail_if.is_empty() {
        let message =
            message!("{--format} is `junit`, which has a test case for each {--fail_if}, but there is none");
        return Err(Failure::user(message).with_hint("--fail-if 'p99_ttft_ms>+5%' gives a limit"));
    }
    if let Some(path) = &args.html {
        check_page(path, args)?;
    }
    let runs = read_runs(args)?;
    let Some((baseline, others)) = runs.split_first() else { unreachable!("there are two runs at least") };
    let known: Vec<String> = baseline.figures.figures.keys().cloned().collect();
    let conditions = args.fail_if.iter().map(|condition| {
        let refused = |error| Failure::input(&error).about(format!("--fail-if {condition}"));
        condition.clone().on_one_of(&known).map_err(refused)
    });
    let conditions: Vec<FailIf> = conditions.collect::<Result<_, _>>()?;
    let differences = Differences {
        schema_version: SchemaVersion::V1,
        baseline: baseline.figures.clone(),
        runs: others.iter().map(|run| difference(baseline, run, args.seed)).collect(),
    };
    let Gate { checks, refusal } = Gate::new(args, &runs, &differences, &conditions);
    let broken = failures(&checks);
    let printed = match args.format {
        ReportFormat::Json => json(&differences),
        ReportFormat::Table => render_differences(&differences, table_options()),
        ReportFormat::Markdown => render_differences_markdown(&differences, &checks),
        ReportFormat::Junit => render_junit("servecast compare", &checks),
    };
    if let Some(refusal) = refusal {
        // Who reads these sees no error message.
        if matches!(args.format, ReportFormat::Markdown | ReportFormat::Junit) {
            files::print(&printed)?;
        }
        return Err(refusal);
    }
    if let Some(path) = &args.html {
        let requests: Vec<_> = runs.iter().map(|run| run.rows.as_deref()).collect();
        let conditions = conditions.iter().map(ToString::to_string).collect();
        let figures: Vec<NamedFigures> = runs.iter().map(|run| run.figures.clone()).collect();
        let page = ComparedPage {
            differences: &differences,
            runs: &figures,
            requests: &requests,
            conditions,
            broken: broken.clone(),
        };
        write_page(path, &page)?;
    }
    files::print(&printed)?;
    if broken.is_empty() { Ok(()) } else { Err(Failure::condition(broken.join("\n       "))) }
}

/// Refuses a page that cannot be written or would take the place of what is compared.
fn check_page(path: &Path, args: &CompareArgs) -> Result<(), Failure> {
    let runs = args.runs.iter().flat_map(|run| [run.clone(), run.join(REPORT), run.join(ROWS)]);
    files::check_output_beside(path, "--html", runs.chain(args.requests.iter().cloned()))
}

fn write_page(path: &Path, page: &ComparedPage<'_>) -> Result<(), Failure> {
    let mut file = OutputFile::create(path)?;
    file.write_all(render_differences_page(page).as_bytes()).map_err(|error| file.failure(&error))?;
    file.commit()
}

fn read_runs(args: &CompareArgs) -> Result<Vec<Run>, Failure> {
    let formats: Vec<_> = args.runs.iter().map(|path| measured::format(path)).collect();
    let (files, simulated) = (args.requests.len(), formats.iter().filter(|format| format.is_none()).count());
    if files > 0 && files != simulated {
        let which = if simulated == formats.len() { "" } else { " that were not measured" };
        return Err(Failure::user(format!(
            "--requests is given {files} times, but there are {simulated} runs{which}"
        )));
    }
    let mut rows = args.requests.iter();
    let runs = args.runs.iter().zip(formats).map(|(path, format)| match format {
        Some(format) => measured::read(path, format),
        None => read_run(path, rows.next().map(PathBuf::as_path)),
    });
    runs.collect()
}

fn read_run(path: &Path, rows: Option<&Path>) -> Result<Run, Failure> {
    let in_folder = |name: &str| path.is_dir().then(|| path.join(name));
    let report_path = in_folder(REPORT).unwrap_or_else(|| path.to_owned());
    let rows_path = rows.map(Path::to_owned).or_else(|| in_folder(ROWS).filter(|path| path.exists()));
    let report: Report = serde_json::from_reader(files::open(&report_path)?)
        .map_err(|error| no_report(&report_path, &error))?;
    let rows = rows_path.map(|path| {
        read_request_figures(BufReader::new(files::open(&path)?))
            .map_err(|error| Failure::input(&error).about(path.display().to_string()))
    });
    if let Some(estimate) = &report.latency_estimate {
        let name = path.display();
        note(&format!("note: iteration times of {name} are an estimate, nothing was measured: {estimate}"));
    }
    let figures = NamedFigures::of(path.display().to_string(), &report);
    let rows = rows.transpose()?;
    if let Some(rows) = &rows {
        check_rows(rows, &report, path)?;
    }
    let settings = figures.settings.as_ref();
    let is_limited = settings
        .and_then(|settings| settings.get("replay_concurrency"))
        .is_some_and(|value| !value.is_null())
        || rows.iter().flatten().any(|request| request.turn > 0);
    Ok(Run { figures, rows, is_limited, sending: Sending::default() })
}

/// Refuses rows that are not those of a report: the rest of a run that was interrupted, or of another one.
fn check_rows(rows: &[RequestFigures], report: &Report, path: &Path) -> Result<(), Failure> {
    let served = rows.iter().filter(|row| row.measured && row.status == "finished").count() as u64;
    if served == report.completed_requests {
        return Ok(());
    }
    let problem = message!(
        "the report of {} counts {} completed requests, but its rows have {}",
        quoted(path),
        report.completed_requests,
        served
    );
    Err(Failure::user(problem)
        .with_hint("give a report and the rows of the same run: `replay --output-dir DIR` writes both"))
}

/// A file that is no report, by what it is.
fn no_report(path: &Path, problem: &serde_json::Error) -> Failure {
    let name = quoted(path);
    let Some(format) = files::format_of(path).filter(|format| format.kind != FormatKind::Report) else {
        return Failure::input(problem)
            .about(format!("{name} is no report of a run"))
            .with_hint("`servecast replay --report-json FILE` writes one");
    };
    let hint = match format.kind {
        FormatKind::Trace => {
            format!("`servecast replay {} --report-json FILE` writes a report of it", path.display())
        }
        FormatKind::Result => {
            "give each run's own report: `servecast replay --report-json FILE` without --vary".to_owned()
        }
        FormatKind::Measured => {
            "rows of requests go with their report: --requests FILE, one for each run".to_owned()
        }
        _ => "`servecast replay --report-json FILE` writes a report".to_owned(),
    };
    Failure::user(message!("{} holds {}, no report of a run", name, format.name())).with_hint(hint)
}

fn difference(baseline: &Run, run: &Run, seed: u64) -> RunDifference {
    let mut difference = RunDifference::of(&baseline.figures, &run.figures);
    if is_measured(baseline, run) {
        let matched = match_requests(baseline, run);
        difference.paired = matched.as_ref().ok().map(|matched| matched.changes(seed));
        difference.requests = Some(match matched {
            Ok(matched) => matched.sentence(),
            Err(problem) => format!("requests are not paired: {problem}"),
        });
        return difference;
    }
    if let (Some(before), Some(after)) = (&baseline.rows, &run.rows) {
        difference.paired = paired_changes(before, after, seed);
        if difference.paired.is_none() {
            let (one, other) = (&baseline.figures.name, &run.figures.name);
            note(&format!("note: {other} did not run the requests of {one}, so they are not paired"));
        }
    }
    difference
}

/// Whether a client measured one of two runs.
fn is_measured(baseline: &Run, run: &Run) -> bool {
    [baseline, run].iter().any(|run| run.figures.measured.is_some())
}

/// The requests of two runs, one of which was measured, one by one.
fn match_requests<'a>(baseline: &'a Run, run: &'a Run) -> Result<MatchedRequests<'a>, String> {
    let rows = |run: &'a Run| {
        let without = || {
            format!(
                "{} has no rows of requests (a folder of --output-dir has them, --requests names them)",
                run.figures.name
            )
        };
        run.rows.as_deref().ok_or_else(without)
    };
    matched_requests(rows(baseline)?, rows(run)?)
}
