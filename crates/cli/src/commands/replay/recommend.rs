//! `servecast recommend`: which deployment keeps its targets with the fewest GPUs, or at the lowest cost.

use std::path::PathBuf;

use clap::ValueHint;
use servecast::recommend::{self, Asked, Draft, Growth, Journal, Prepared, Question, Threads, Watch};
use servecast_recommend::Goal;
use servecast_types::{Message, message};

use super::{ReplayArgs, outputs};
use crate::config::{Layers, OutputConfig, ReportFormat};
use crate::error::Failure;
use crate::files::{self, note};
use crate::interrupt::Interrupt;
use crate::progress::SearchProgress;

mod write;

/// Recommend the deployment that keeps its targets with the fewest GPUs, or at the lowest cost
///
/// Takes the settings of `replay`: what is given is fixed, what is not is tried: GPUs a worker, workers, aggregated or
/// split, routers, batch limits and chunk sizes. The answer is that of trying them all. Runs end as soon as their targets
/// are lost, and what cannot be better is not run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RecommendArgs {
    #[command(flatten)]
    replay: ReplayArgs,
    /// What is best: gpus (the fewest), cost, `goodput_per_gpu`, latency (the most room) or headroom
    ///
    /// Two of them, as in `cost,latency`, ask for those that no other one beats in both. Without it, gpus, or cost if
    /// prices are given, or latency with --gpus.
    #[arg(long, value_name = "GOAL", help_heading = "Search")]
    objective: Option<String>,
    /// Look at deployments of up to this many GPUs
    #[arg(long, value_name = "N", help_heading = "Search", conflicts_with = "gpus")]
    max_gpus: Option<u32>,
    /// Make the best of so many GPUs
    #[arg(long, value_name = "N", help_heading = "Search")]
    gpus: Option<u32>,
    /// Take whole nodes of so many GPUs
    #[arg(long, value_name = "N", help_heading = "Search")]
    node_gpus: Option<u32>,
    /// Keep so many workers of each pool standing by
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Search")]
    spare: u32,
    /// Search for each of these factors of the load: arrivals that much faster, or that many more sessions at a time
    #[arg(long, value_name = "FACTOR,...", value_delimiter = ',', help_heading = "Search")]
    growth: Vec<f64>,
    /// Price of a GPU an hour, as in H100-SXM=2.50 (can be repeated)
    #[arg(long, value_name = "GPU=PRICE", help_heading = "Search")]
    gpu_hour: Vec<String>,
    /// List the space, and run nothing
    #[arg(long, help_heading = "Search")]
    dry_run: bool,
    /// Keep what was tried in this file, and go on with what is in it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Search")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    files: Files,
}

/// Files of an answer.
#[derive(Debug, Clone, clap::Args)]
struct Files {
    /// Write the ranking as CSV
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    csv: Option<PathBuf>,
    /// Write a page for a browser: cost against latency, targets over load, and the settings of every deployment (the same as
    /// --report-html)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    html: Option<PathBuf>,
}

impl Files {
    /// By key, those that are wanted.
    fn given(&self) -> Vec<(&'static str, &PathBuf)> {
        let files = [("csv", &self.csv), ("html", &self.html)];
        files.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?))).collect()
    }
}

/// Runs the command.
pub(crate) fn run(args: RecommendArgs) -> Result<(), Failure> {
    let RecommendArgs {
        replay,
        objective,
        max_gpus,
        gpus,
        node_gpus,
        spare,
        growth,
        gpu_hour,
        dry_run,
        resume,
        files,
    } = args;
    let layers = replay.layers()?;
    let output = layers.parse()?.output;
    refuse_rows(&output, &layers)?;
    let asked = Asked { objective, max_gpus, gpus, node_gpus, spare, growth, gpu_hour };
    let draft = Draft::new(Question::new(layers, asked)?)?;
    if !dry_run {
        draft.check_targets()?;
    }
    outputs::check(&output, &files.given(), &[&draft.first.source], &draft.first.layers)?;
    let interrupt = Interrupt::install()?;
    let prepared = draft.with_load(None)?;
    if dry_run {
        return files::print(&recommend::dry_run(&prepared.space, &prepared.question.limits));
    }
    let quiet = output.quiet.unwrap_or(false);
    if !quiet {
        introduce(&prepared);
    }
    prepared.check_prices()?;
    let journal = match &resume {
        Some(path) => Journal::open(path, &prepared.identity())?,
        None => Journal::default(),
    };
    interrupt.defer()?;
    let folder = outputs::claim(&output)?;
    let under = |&factor: &f64| {
        let progress = SearchProgress::new(prepared.space.candidates.len(), quiet);
        let watch = Watcher { progress: &progress, interrupt: &interrupt };
        let threads = Threads { threads: prepared.question.threads, watch: &watch };
        let growth = prepared.under(factor, &threads, &journal, &watch);
        progress.finish();
        growth
    };
    let growths: Vec<Growth> = prepared.question.factors.iter().map(under).collect();
    let answer = prepared.answer(&growths);
    let is_stopped = interrupt.is_requested();
    let progress = SearchProgress::of_page(quiet);
    write::files(
        &prepared,
        &answer,
        &growths,
        &files,
        &Watcher { progress: &progress, interrupt: &interrupt },
    )?;
    drop(folder);
    if is_stopped {
        return Err(Failure::interrupted("stopped: what is shown is what was known by then"));
    }
    interrupt.resume()?;
    match growths.iter().find(|growth| growth.search.ranking().is_empty()) {
        Some(growth) => Err(write::impossible(growth)),
        None => Ok(()),
    }
}

/// Says what is looked at, and what was taken for granted.
fn introduce(prepared: &Prepared) {
    let Prepared { question, first, workload, .. } = prepared;
    super::introduce(first);
    if let Some(preset) = &question.preset {
        note(&format!("note: {preset}"));
    }
    workload.notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    // What is worked out follows from the deployment: what is said once holds for all.
    if question.limits.prices.is_empty() && question.goals.contains(&Goal::Cost) {
        note("note: no price is given, so there is no cost: --gpu-hour GPU=PRICE");
    }
}

/// Somebody at a terminal.
struct Watcher<'a> {
    progress: &'a SearchProgress,
    interrupt: &'a Interrupt,
}

impl Watch for Watcher<'_> {
    fn is_stopped(&self) -> bool {
        self.interrupt.is_requested()
    }

    fn ran(&self) {
        self.progress.tick();
    }

    fn found(&self, kept: usize, name: &str) {
        self.progress.found(kept, name);
    }
}

/// Refuses files of one run.
fn refuse_rows(output: &OutputConfig, layers: &Layers) -> Result<(), Failure> {
    if output.stream == Some(true) {
        return Err(layers
            .refused(message!(
                "{stream} uses a trace as it is read, but `recommend` has many runs of one load"
            ))
            .with_hint(message!("leave {--stream} out")));
    }
    let for_ci = matches!(output.format, Some(ReportFormat::Markdown | ReportFormat::Junit));
    let given = [
        ("requests_jsonl", output.requests_jsonl.is_some()),
        ("iterations_jsonl", output.iterations_jsonl.is_some()),
        ("routing_jsonl", output.routing_jsonl.is_some()),
        ("timeline", output.timeline.is_some()),
        ("export", output.export.is_some()),
        ("fail_if", output.fail_if.is_some()),
    ];
    if for_ci {
        let message = message!(
            "{format} is for a run, or runs beside each other, but `recommend` prints a table or JSON"
        );
        return Err(layers.refused(message).with_hint(message!("{--format} json has all of the answer")));
    }
    match given.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((key, _)) => Err(layers.refused(message!("{} is of one run, but `recommend` makes many", Message::key(key)))
            .with_hint("--output-dir DIR writes 1.toml, with which `servecast replay --config` repeats the run of the best")),
    }
}
