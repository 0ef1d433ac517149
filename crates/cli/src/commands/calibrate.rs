//! `servecast calibrate`: fits a step model to what was measured.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::{Map, Value, json};
use servecast_calibrate::{
    CalibrateError, Experts, Fit, HostFit, Level, Options, PassRun, Phases, RequestRun, fit_both, fit_host,
    fit_passes, fit_requests,
};
use servecast_engine::{ConfigError, EngineArgs, EnginePreset, EngineType, merge};
use servecast_latency::{ErrorBar, Step};
use servecast_types::{Role, message};
use servecast_workload::{FormatKind, TimeUnit, known_format};

use crate::commands::validate::recording::Recording;
use crate::config::{Format, TIME_UNITS, choice, settings};
use crate::error::Failure;
use crate::files::{self, OutputFile};
use crate::latency::{self, Models, text};
use crate::progress::FitProgress;

mod passes;
mod requests;
mod server;

/// Fit a step model to measured iterations or requests
///
/// Inputs are files of iterations (--iterations-jsonl of a replay, or a log of vLLM with --enable-logging-iteration-details)
/// or of requests (rows of arrival, lengths, TTFT and E2E as JSON Lines or CSV, the JSON of `vllm bench serve
/// --save-detailed`, `profile_export.jsonl` of AIPerf, or a folder of a recorded run). Each file of requests is one run.
/// Measure at two load levels at least.
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

/// What an input holds.
enum Input {
    Passes(PassRun),
    Requests(Box<RequestRun>),
}

/// Runs the command.
pub(crate) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    if let Some(path) = &args.output {
        files::check_output(path)?;
    }
    if !args.config.is_empty() {
        return server::run(args);
    }
    let (mut passes, mut runs) = (Vec::new(), Vec::new());
    for path in &args.inputs {
        match read(path, args)? {
            Input::Passes(run) => passes.push(run),
            Input::Requests(run) => runs.push(*run),
        }
    }
    if let Some(spec) = &args.base {
        return host(spec, &passes, &runs, args);
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
            let kept = args.first_requests.map_or(Ok(runs), |first| first_requests(&whole, first))?;
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
        write(path, &fit, &what, args)?;
    }
    files::print(&match args.format {
        Format::Json => json_text(&fit),
        Format::Table => {
            let mut text = table(&fit, "Step model", &what, "held out of the fit");
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

/// Fits the host that goes with a latency model.
fn host(spec: &str, passes: &[PassRun], runs: &[RequestRun], args: &CalibrateArgs) -> Result<(), Failure> {
    if !passes.is_empty() {
        return Err(Failure::user(
            "--base has the times of passes: fit the host to requests, without iterations",
        ));
    }
    let named = EngineArgs { latency: Some(spec.to_owned()), ..EngineArgs::default() };
    let parsed = named.latency_spec().map_err(Failure::user)?;
    let model = latency::load(&parsed, &Models::new())?.ok_or_else(|| {
        Failure::user(format!("--base is `{spec}`, which is no model of a GPU"))
            .with_hint("profile:DIR, roofline:OPTIONS, grid:FILE and step:FILE.toml are")
    })?;
    let kept = args.first_requests.map_or_else(|| Ok(runs.to_vec()), |first| first_times(runs, first))?;
    let progress = FitProgress::new(args.quiet);
    let fit = fit_host(&kept, &model, &mut |loss| progress.tick(loss));
    progress.finish();
    let fit = fit.map_err(refused)?;
    let requests: usize =
        kept.iter().map(|run| run.rows.iter().filter(|row| row.times.is_some()).count()).sum();
    let what = format!("{requests} requests, over {spec}");
    if let Some(path) = &args.output {
        let mut file = OutputFile::create(path)?;
        let text = format!(
            "# Fitted by `servecast calibrate --base {spec}` to {requests} requests.\n\n[host]\n{}",
            host_lines(&fit)
        );
        file.write_all(text.as_bytes()).map_err(|error| file.failure(&error))?;
        file.commit()?;
    }
    files::print(&match args.format {
        Format::Json => host_json(&fit),
        Format::Table => host_table(&fit, &what, args),
    })
}

/// The keys of the host that were fitted.
fn host_lines(fit: &HostFit) -> String {
    let line = |one: &servecast_calibrate::Coefficient| format!("{} = {:?}\n", one.name, one.value_us);
    fit.coefficients.iter().map(line).collect()
}

fn host_json(fit: &HostFit) -> String {
    let levels = fit.levels.iter().map(level_json);
    let result = json!({
        "coefficients": fit.coefficients,
        "levels": levels.collect::<Vec<_>>(),
        "all": errors_json(&fit.all.errors_percent),
        "warnings": fit.warnings,
    });
    serde_json::to_string_pretty(&result).expect("figures are plain data") + "\n"
}

fn host_table(fit: &HostFit, what: &str, args: &CalibrateArgs) -> String {
    let as_fit = Fit {
        step: Step::default(),
        coefficients: fit.coefficients.clone(),
        levels: fit.levels.clone(),
        held_out: vec![fit.all.clone()],
        warnings: fit.warnings.clone(),
    };
    let mut text = table(&as_fit, "Host", what, "of the fit itself");
    if let Some(path) = &args.output {
        let _ = writeln!(text, "\nreplay with `servecast replay --config {}`", path.display());
    }
    text
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

/// The times of the first requests of each run by arrival; the others are part of the load.
fn first_times(runs: &[RequestRun], first: usize) -> Result<Vec<RequestRun>, Failure> {
    let kept = first_requests(runs, first)?;
    let last = |run: &RequestRun| run.rows.iter().map(|row| row.arrival_s).fold(f64::NEG_INFINITY, f64::max);
    let until = |(run, kept): (&RequestRun, &RequestRun)| {
        let (mut run, last) = (run.clone(), last(kept));
        run.rows.iter_mut().filter(|row| row.arrival_s > last).for_each(|row| row.times = None);
        run
    };
    Ok(runs.iter().zip(&kept).map(until).collect())
}

/// The first requests of each run by arrival.
fn first_requests(runs: &[RequestRun], first: usize) -> Result<Vec<RequestRun>, Failure> {
    let cut = |run: &RequestRun| {
        let mut kept = run.clone();
        kept.rows.sort_by(|left, right| left.arrival_s.total_cmp(&right.arrival_s));
        if first == 0 || kept.rows.len() <= first {
            return Err(Failure::user(format!(
                "--first-requests is {first}, but {} has {} requests: give a number from 1 to {}",
                run.name,
                kept.rows.len(),
                kept.rows.len().saturating_sub(1)
            )));
        }
        kept.rows.truncate(first);
        Ok(kept)
    };
    runs.iter().map(cut).collect()
}

fn read(path: &Path, args: &CalibrateArgs) -> Result<Input, Failure> {
    if path.is_dir() {
        return recorded(path, args).map(|run| Input::Requests(Box::new(run)));
    }
    let text = text(path)?;
    let kind = kind(&text);
    if matches!(kind, Kind::VllmBench(_) | Kind::Aiperf) && args.time_unit.is_some() && !args.quiet {
        let path = path.display();
        files::note(&format!("note: --time-unit has no effect on {path}, which has units of its own"));
    }
    let measured = match kind {
        Kind::Empty => return Err(Failure::user(format!("{}: the file is empty", path.display()))),
        Kind::OwnIterations => return passes::own(path, &text).map(Input::Passes),
        Kind::VllmLog => return passes::vllm_log(path, &text).map(Input::Passes),
        Kind::IterationTable => return passes::table(path, &text).map(Input::Passes),
        Kind::VllmBench(object) => requests::vllm_bench(path, &object),
        Kind::Aiperf => requests::aiperf(path, &text),
        Kind::Rows => requests::json_lines(path, &text, args.time_unit),
        Kind::Table => requests::table(path, &text, args.time_unit),
    };
    let measured = match measured {
        Ok(measured) if measured.rows.is_empty() => match without_times(path, &text) {
            Some(failure) => return Err(failure),
            None => measured,
        },
        measured => measured.map_err(|failure| without_times(path, &text).unwrap_or(failure))?,
    };
    let left_out = [(measured.failed, "were not served"), (measured.warmups, "are warm-up")];
    for (count, why) in left_out.into_iter().filter(|(count, _)| *count > 0 && !args.quiet) {
        files::note(&format!("note: {}: {count} requests {why} and are left out", path.display()));
    }
    let name = path.display().to_string();
    let engine = engine_args(args, &name, Value::Null)?;
    let workers = args.num_workers.unwrap_or(1);
    Ok(Input::Requests(Box::new(RequestRun { name, rows: measured.rows, engine, workers })))
}

/// The refusal of a file that is known to hold something else than measured times.
fn without_times(path: &Path, text: &str) -> Option<Failure> {
    let format = known_format(text.as_bytes()).filter(|format| format.kind != FormatKind::Measured)?;
    let message = message!("the file holds {}, which has no times of single requests", format.name());
    Some(Failure::user(message).about(path.display().to_string()).with_hint(
        "a fit needs when each request was sent and when its first and last token came, or the length of iterations: \
         `servecast calibrate --help` lists the forms",
    ))
}

/// What a file is, by its content.
enum Kind {
    Empty,
    OwnIterations,
    VllmLog,
    /// CSV of iterations.
    IterationTable,
    VllmBench(Map<String, Value>),
    Aiperf,
    /// JSON Lines of requests.
    Rows,
    /// CSV of requests.
    Table,
}

fn kind(text: &str) -> Kind {
    let Some(first) = text.lines().find(|line| !line.trim().is_empty()) else { return Kind::Empty };
    let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
    let is_bench =
        |object: &Map<String, Value>| object.contains_key("input_lens") || object.contains_key("ttfts");
    match object(first).or_else(|| object(text)) {
        Some(object) if is_bench(&object) => Kind::VllmBench(object),
        Some(object) if object.contains_key("scheduled") => Kind::OwnIterations,
        Some(object) if object.contains_key("metrics") => Kind::Aiperf,
        Some(_) => Kind::Rows,
        None if passes::is_vllm_log(text) => Kind::VllmLog,
        None if first.trim_start().starts_with('{') => Kind::Rows,
        None if passes::is_table(first) => Kind::IterationTable,
        None => Kind::Table,
    }
}

/// A folder as `servecast validate` takes it: its own settings, and those of the command line over them.
fn recorded(folder: &Path, args: &CalibrateArgs) -> Result<RequestRun, Failure> {
    let given = args.engine_args.as_ref().and_then(|settings| settings.get("num_gpu_blocks"));
    let blocks = given.and_then(Value::as_u64).map(|blocks| blocks as u32);
    let hint = "--extra-engine-args '{\"num_gpu_blocks\": N}' states it";
    let recording = Recording::read(folder, blocks, hint)?;
    if !args.quiet {
        for assumption in &recording.assumptions {
            files::note(&format!("note: {}: assumed {assumption}", folder.display()));
        }
    }
    let name = folder.display().to_string();
    let preset = args.engine_preset.clone().unwrap_or_else(|| recording.preset.to_owned());
    let args = CalibrateArgs { engine_preset: Some(preset), ..args.clone() };
    let engine = engine_args(&args, &name, recording.settings.clone().into())?;
    let workers = args.num_workers.unwrap_or(recording.workers);
    Ok(RequestRun { name, rows: recording.rows(), engine, workers })
}

/// The settings of the engine, over those of the run.
fn engine_args(args: &CalibrateArgs, name: &str, of_run: Value) -> Result<EngineArgs, Failure> {
    let refused = |error: ConfigError| Failure::user(error).about(name);
    if args.engine_args.as_ref().is_some_and(|settings| settings.contains_key("latency")) {
        return Err(Failure::user("`latency` is what is fitted: leave it out of --extra-engine-args"));
    }
    let preset = args.engine_preset.as_deref().map(EnginePreset::by_name).transpose();
    let preset = preset.map_err(refused)?;
    let mut all = preset.map_or_else(Map::new, |preset| preset.settings(Role::Aggregated));
    if let Some(engine) = args.engine {
        all.insert("engine_type".to_owned(), engine.name().into());
    }
    for settings in [of_run, args.engine_args.clone().unwrap_or_default().into()] {
        if let Value::Object(merged) =
            merge(all.clone(), if settings.is_null() { json!({}) } else { settings })
        {
            all = merged;
        }
    }
    all.insert("latency".to_owned(), "step:calibrated.toml".into());
    EngineArgs::from_json(all.into()).map_err(refused)
}

fn write(path: &Path, fit: &Fit, what: &str, args: &CalibrateArgs) -> Result<(), Failure> {
    let mut file = OutputFile::create(path)?;
    let inputs: Vec<String> = args.inputs.iter().map(|path| path.display().to_string()).collect();
    let text = format!(
        "# Fitted by `servecast calibrate` to {what} of {}.\n# All prices are in microseconds.\n\n{}",
        inputs.join(", "),
        fit.step.to_toml()
    );
    file.write_all(text.as_bytes()).map_err(|error| file.failure(&error))?;
    file.commit()
}

fn errors_json(errors: &[(&str, f64)]) -> Map<String, Value> {
    errors.iter().map(|(name, error)| ((*name).to_owned(), json!(error))).collect()
}

fn level_json(level: &Level) -> Value {
    let errors = errors_json(&level.errors_percent);
    json!({"under_way": level.under_way, "samples": level.samples, "errors_percent": errors})
}

fn json_text(fit: &Fit) -> String {
    let levels = fit.levels.iter().map(level_json);
    let held_out = fit
        .held_out
        .iter()
        .map(|part| json!({"part": part.part, "errors_percent": errors_json(&part.errors_percent)}));
    let result = json!({
        "coefficients": fit.coefficients,
        "intervals": INTERVALS.join(" "),
        "levels": levels.collect::<Vec<_>>(),
        "held_out": held_out.collect::<Vec<_>>(),
        "latency_error": fit.step.error,
        "warnings": fit.warnings,
    });
    serde_json::to_string_pretty(&result).expect("figures are plain data") + "\n"
}

/// What the intervals of prices are, and are not.
const INTERVALS: [&str; 2] = [
    "± is the 95 % interval of a price over other data of the same kind: how far it moves when each twentieth of the rows \
     is left out.",
    "It is no error of predictions: for that, see what was held out of the fit.",
];

/// The fit, for a reader.
fn table(fit: &Fit, model: &str, what: &str, judged: &str) -> String {
    let mut text = format!("{model} fitted to {what}\n\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<32}{:>14}{:>14}", "price", "µs", "± (95 %)");
    for coefficient in &fit.coefficients {
        let (value, width) = (number(coefficient.value_us), number(coefficient.half_width_us));
        let _ = writeln!(text, "{:<32}{value:>14}{width:>14}", coefficient.name);
    }
    let _ = writeln!(text, "{}", INTERVALS.join("\n"));
    let most = fit.levels.iter().map(|level| &level.errors_percent).max_by_key(|errors| errors.len());
    let names: Vec<&str> = most.into_iter().flatten().map(|(name, _)| *name).collect();
    let mut header = String::new();
    for name in &names {
        let _ = write!(header, "{:>16}", name.replace('_', " "));
    }
    let cells = |errors: &[(&str, f64)]| -> String {
        let of = |name: &&str| errors.iter().find(|(known, _)| known == name);
        names
            .iter()
            .map(|name| match of(name) {
                Some((name, error)) if name.ends_with("mape") => format!("{:>16}", format!("{error:.2} %")),
                Some((_, error)) => format!("{:>16}", format!("{error:+.2} %")),
                None => format!("{:>16}", "-"),
            })
            .collect()
    };
    let _ = writeln!(text, "\n{:<32}{:>10}{header}", "under way at a time", "samples");
    for level in &fit.levels {
        let _ =
            writeln!(text, "{:<32}{:>10}{}", level.under_way, level.samples, cells(&level.errors_percent));
    }
    if !fit.held_out.is_empty() {
        let _ = writeln!(text, "\n{judged:<42}{header}");
    }
    for part in &fit.held_out {
        let _ = writeln!(text, "{:<42}{}", part.part, cells(&part.errors_percent));
    }
    if let Some(error) = &fit.step.error {
        let _ = writeln!(text, "{}", error_line(error));
    }
    for warning in &fit.warnings {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    text
}

/// What a file of the model says of its error.
fn error_line(error: &ErrorBar) -> String {
    match (error.tpot_p90, error.ttft_p90) {
        (Some(tpot), Some(ttft)) => format!(
            "in the file: TPOT ±{:.1} %, TTFT ±{:.1} %, nine of ten of {}",
            tpot * 100.0,
            ttft * 100.0,
            error.basis
        ),
        _ => format!("in the file: no error, {}", error.basis),
    }
}

/// Six digits, whatever the size.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
