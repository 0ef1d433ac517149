//! What was measured, of whatever form it is.

use std::path::Path;

use serde_json::{Map, Value, json};
use servecast_calibrate::{PassRun, RequestRun};
use servecast_engine::{ConfigError, EngineArgs, EnginePreset, merge};
use servecast_types::{Role, message};
use servecast_workload::{FormatKind, KnownFormat, TraceFormat, known_format};

use super::{CalibrateArgs, passes, requests};
use crate::commands::validate::recording::Recording;
use crate::error::Failure;
use crate::files;
use crate::latency::text;

/// What an input holds.
pub(super) enum Input {
    Passes(PassRun),
    Requests(Box<RequestRun>),
}

/// Reads a file or a folder, whatever it holds.
pub(super) fn read(path: &Path, args: &CalibrateArgs) -> Result<Input, Failure> {
    if path.is_dir() {
        return recorded(path, args).map(|run| Input::Requests(Box::new(run)));
    }
    let text = text(path)?;
    let kind = kind(&text);
    if matches!(kind, Kind::OfClient(_)) && args.time_unit.is_some() && !args.quiet {
        let path = path.display();
        files::note(&format!("note: --time-unit has no effect on {path}, which has units of its own"));
    }
    let measured = match kind {
        Kind::Empty => return Err(Failure::user(format!("{}: the file is empty", path.display()))),
        Kind::OwnIterations => return passes::own(path, &text).map(Input::Passes),
        Kind::VllmLog => return passes::vllm_log(path, &text).map(Input::Passes),
        Kind::IterationTable => return passes::table(path, &text).map(Input::Passes),
        Kind::OfClient(format) => requests::of_client(path, &text, format),
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
    /// What a client measured, in the form of its own.
    OfClient(TraceFormat),
    /// JSON Lines of requests.
    Rows,
    /// CSV of requests.
    Table,
}

fn kind(text: &str) -> Kind {
    let Some(first) = text.lines().find(|line| !line.trim().is_empty()) else { return Kind::Empty };
    let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
    let of_client = known_format(text.as_bytes()).filter(|format| format.kind == FormatKind::Measured);
    if let Some(format) = of_client.and_then(KnownFormat::trace) {
        return Kind::OfClient(format);
    }
    match object(first).or_else(|| object(text)) {
        Some(object) if object.contains_key("scheduled") => Kind::OwnIterations,
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

/// The times of the first requests of each run by arrival; the others are part of the load.
pub(super) fn first_times(runs: &[RequestRun], first: usize) -> Result<Vec<RequestRun>, Failure> {
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
pub(super) fn first_requests(runs: &[RequestRun], first: usize) -> Result<Vec<RequestRun>, Failure> {
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
