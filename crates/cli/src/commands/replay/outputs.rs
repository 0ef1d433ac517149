//! The files of a run: checked before it, put in place after it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use servecast_record::RunRecord;
use servecast_report::{Activity, Report, SummaryOptions, export, write_request_rows};
use servecast_workload::TraceNotes;

use super::folder::Folder;
use super::json;
use crate::config::{Layers, OutputConfig};
use crate::error::{Failure, quoted};
use crate::files::{self, OutputFile};
use crate::interrupt::Interrupt;
use crate::page::{PageOf, REPEATED, config_text};
use crate::plan::{Plan, exports};
use crate::source::Source;

/// Files of `--output-dir`.
pub(crate) const REPORT: &str = "report.json";
pub(crate) const ROWS: &str = "requests.jsonl";
const CONFIG: &str = "config.toml";
const PAGE: &str = "report.html";

/// Refuses output paths that cannot be written, that are the same, or that are the trace or a configuration file; `more` are
/// those of the command.
pub(super) fn check(
    output: &OutputConfig,
    more: &[(&'static str, &PathBuf)],
    sources: &[&Source],
    layers: &Layers,
) -> Result<(), Failure> {
    let files = layers.files().iter().filter_map(|path| Some(("config", files::identity(path)?)));
    let mut taken: Vec<_> = files.collect();
    for source in sources {
        if let Source::Trace { path, merged, reading, .. } = source {
            taken.extend(files::identity(path).map(|identity| ("trace_file", identity)));
            let tokenizer = reading.tokenizer_file().and_then(|path| files::identity(&path));
            taken.extend(tokenizer.map(|identity| ("tokenizer", identity)));
            taken.extend(merged.iter().filter_map(|path| Some(("merge", files::identity(path)?))));
        }
    }
    let outputs = [
        ("report_json", &output.report_json),
        ("requests_jsonl", &output.requests_jsonl),
        ("iterations_jsonl", &output.iterations_jsonl),
        ("routing_jsonl", &output.routing_jsonl),
        ("log_arrivals", &output.log_arrivals),
        ("report_html", &output.report_html),
        ("timeline", &output.timeline),
    ];
    let exports = exports(output)?;
    let exports = exports.iter().map(|(_, path)| ("export", path));
    let outputs = outputs.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?)));
    for (key, path) in outputs.chain(exports).chain(more.iter().copied()) {
        files::check_output(path)?;
        let Some(identity) = files::identity(path) else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, taken)| *taken == identity) {
            let message = format!("`{key}` and `{other}` are the same file, {}", quoted(path));
            return Err(Failure::user(message).with_hint("give each its own"));
        }
        taken.push((key, identity));
    }
    output
        .output_dir
        .as_deref()
        .map_or(Ok(()), |folder| check_folder(folder, output.overwrite.unwrap_or(false)))
}

/// Refuses a folder that cannot be made, or that has files of ours which may not be replaced.
fn check_folder(folder: &Path, overwrite: bool) -> Result<(), Failure> {
    let refused = |problem: &str| Failure::user(format!("cannot write into {}: {problem}", quoted(folder)));
    if !folder.exists() {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        return match parent.filter(|parent| !parent.is_dir()) {
            None => Ok(()),
            Some(parent) => Err(refused(&format!("the folder {} does not exist", quoted(parent)))
                .with_hint(format!("mkdir -p {}", parent.display()))),
        };
    }
    if !folder.is_dir() {
        return Err(refused("it is no directory"));
    }
    for name in [REPORT, ROWS, CONFIG, PAGE] {
        let path = folder.join(name);
        if path.exists() && !overwrite {
            return Err(refused(&format!("it has a {name} already"))
                .with_hint("--overwrite replaces it; or name another folder"));
        }
        files::check_output(&path)?;
    }
    Ok(())
}

/// Takes the folder of the results for this run, if there is one: what was said of it before may not hold any more.
pub(super) fn claim(output: &OutputConfig) -> Result<Option<Folder>, Failure> {
    let Some(path) = output.output_dir.as_deref() else { return Ok(None) };
    let folder = Folder::claim(path)?;
    check_folder(path, output.overwrite.unwrap_or(false))?;
    Ok(Some(folder))
}

/// A run that is over.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) record: &'a RunRecord,
    pub(super) report: &'a Report,
    /// What workers did over time, for the page.
    pub(super) activity: Option<&'a Activity>,
    /// What the report was made with.
    pub(super) options: &'a SummaryOptions,
    /// What was found out about the trace.
    pub(super) notes: &'a TraceNotes,
}

/// Puts all files in place, or none of them if one cannot be written.
pub(super) fn write(
    plan: &Plan,
    run: Run<'_>,
    mut complete: Vec<OutputFile>,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let Run { record, report, activity, options, notes } = run;
    let output = &plan.config.output;
    let mut write = |path: &Path, content: &dyn Fn(&mut OutputFile) -> io::Result<()>| {
        let mut file = OutputFile::create(path)?;
        content(&mut file).map_err(|error| file.failure(&error))?;
        interrupt.check()?;
        complete.push(file);
        Ok(())
    };
    let folder = output.output_dir.as_deref();
    let paths = |file: &Option<PathBuf>, name: &str| {
        file.clone().into_iter().chain(folder.map(|folder| folder.join(name))).collect::<Vec<_>>()
    };
    for path in paths(&output.requests_jsonl, ROWS) {
        write(&path, &|file| write_request_rows(record, options.window, file))?;
    }
    let exports = exports(output)?;
    // Another tool would have sent those that are left out for itself.
    let part = if exports.is_empty() { None } else { options.measured_part(record) };
    let exported = part.as_ref().map_or(record, |(part, _)| part);
    for (format, path) in exports {
        write(&path, &|file| export(format, exported, report, file))?;
    }
    let pages = paths(&output.report_html, PAGE);
    if !pages.is_empty() || folder.is_some() {
        let config = config_text(plan, notes, REPEATED)?;
        let page = PageOf { plan, config: &config, record, activity, window: options.window };
        let page = page.render(report);
        for path in pages {
            write(&path, &|file| file.write_all(page.as_bytes()))?;
        }
        if let Some(folder) = folder {
            write(&folder.join(CONFIG), &|file| file.write_all(config.as_bytes()))?;
        }
    }
    for path in paths(&output.report_json, REPORT) {
        write(&path, &|file| file.write_all(json(report).as_bytes()))?;
    }
    put_in_place(complete)
}

/// Puts files in place that are complete.
pub(super) fn put_in_place(mut complete: Vec<OutputFile>) -> Result<(), Failure> {
    // Devices and pipes first: if one of them takes no more, no file is in its place yet.
    complete.sort_by_key(|file| !file.is_in_place());
    complete.into_iter().try_for_each(OutputFile::commit)
}
