//! `--vary`: several runs at once, a row of results each.
//!
//! ```text
//!  combinations ─▶ plans (all are checked first) ─▶ threads, each takes the next run ─▶ reports, in order
//! ```
//!
//! Nothing depends on the number of threads: each run is single-threaded and knows nothing of the others. If runs
//! fail, the failure of the first of them in order is told.

use std::io::Write;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use servecast_cluster::{Observer, Simulation, WithTokens};
use servecast_record::RunRecord;
use servecast_report::{
    Comparison, Curves, MOST_CURVES, Report, SummaryOptions, VariedPage, render_comparison,
    render_comparison_markdown, render_junit, render_varied_page, summarize,
};
use servecast_types::{Message, Time, message};
use servecast_workload::{Load, Trace, TraceForm, Workload};

use super::{introduce, json, outputs, table_options, tell_of_unused};
use crate::config::{Difference, Layers, OutputConfig, ReportFormat, combinations, described};
use crate::error::{Failure, chain};
use crate::files::{self, OutputFile, note};
use crate::interrupt::Interrupt;
use crate::plan::Plan;
use crate::progress::{RunProgress, RunsProgress};
use crate::source::{Source, read_trace};

/// Runs all combinations of the values of `texts`, each `KEY=VALUE,VALUE,...`.
pub(super) fn run(layers: &Layers, texts: &[String], threads: Option<u32>) -> Result<(), Failure> {
    if threads == Some(0) {
        return Err(layers.refused(message!("{threads} is 0, but there is at least 1")));
    }
    let origin = layers.origin("vary").map_or_else(|| "vary".to_owned(), ToString::to_string);
    let differences = combinations(texts).map_err(|problem| Failure::user(problem).about(origin))?;
    let plans = differences.iter().map(|difference| plan(layers, difference));
    let plans: Vec<Plan> = plans.collect::<Result<_, _>>()?;
    let Some(first) = plans.first() else { unreachable!("a product of values is not empty") };
    let output = first.config.output.clone();
    refuse_rows(&output, layers)?;
    let sources: Vec<&Source> = plans.iter().map(|plan| &plan.source).collect();
    outputs::check(&output, &[], &sources, layers)?;
    let quiet = output.quiet.unwrap_or(false);
    if !quiet {
        introduce(first);
        let mut derived: Vec<&String> = plans.iter().flat_map(|plan| &plan.derived).collect();
        derived.sort_unstable();
        derived.dedup();
        for derived in derived {
            note(&format!("note: {derived}"));
        }
        tell_of_unused(plans.iter().flat_map(|plan| plan.unused.iter().cloned()));
    }
    let interrupt = Interrupt::install()?;
    let jobs = jobs(&differences, plans)?;
    if !quiet {
        tell_of_notes(&jobs);
    }
    interrupt.defer()?;
    let threads = threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, NonZero::get),
        |threads| threads as usize,
    );
    let runs = Runs {
        next: AtomicUsize::new(0),
        failed: AtomicUsize::new(usize::MAX),
        progress: RunsProgress::new(jobs.len(), quiet),
        interrupt: interrupt.clone(),
        bins: output.report_html.as_ref().map(|_| Curves::bins(jobs.len())),
    };
    let (reports, curves): (Vec<Report>, Vec<Option<Curves>>) = runs.all(jobs, threads)?.into_iter().unzip();
    let comparison = Comparison::new(differences.iter().cloned().zip(reports));
    write(&output, &comparison, &curves, &interrupt)?;
    interrupt.resume()?;
    let mut checks = Vec::new();
    for (difference, run) in differences.iter().zip(&comparison.runs) {
        // The plan went with the run; that it can be made is known.
        checks.extend(plan(layers, difference)?.checks(&described(difference), &run.report));
    }
    files::print(&match output.format.unwrap_or_default() {
        ReportFormat::Json => json(&comparison),
        ReportFormat::Table => render_comparison(&comparison, table_options()),
        ReportFormat::Markdown => render_comparison_markdown(&comparison, &checks),
        ReportFormat::Junit => render_junit("servecast replay", &checks),
    })?;
    let failures = checks.iter().filter_map(|check| Some(format!("{}: {}", check.run, check.failure()?)));
    let failures: Vec<String> = failures.collect();
    if failures.is_empty() { Ok(()) } else { Err(Failure::condition(failures.join("\n       "))) }
}

/// Puts all files in place, or none of them if one cannot be written.
fn write(
    output: &OutputConfig,
    comparison: &Comparison,
    curves: &[Option<Curves>],
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let page = || render_varied_page(&VariedPage { comparison, curves });
    let texts = [
        output.report_html.as_ref().map(|path| (path, page())),
        output.report_json.as_ref().map(|path| (path, json(comparison))),
    ];
    let mut complete = Vec::new();
    for (path, text) in texts.into_iter().flatten() {
        let mut file = OutputFile::create(path)?;
        file.write_all(text.as_bytes()).map_err(|error| file.failure(&error))?;
        interrupt.check()?;
        complete.push(file);
    }
    outputs::put_in_place(complete)
}

fn plan(layers: &Layers, difference: &Difference) -> Result<Plan, Failure> {
    let mut layers = layers.clone();
    let plan = layers.vary(difference).and_then(|()| Plan::new(layers)).and_then(|plan| {
        plan.refuse_online(message!("{--vary} has several runs at once"))?;
        plan.refuse_streamed(message!("{--vary} has several runs of one load"))?;
        Ok(plan)
    });
    plan.map_err(|failure| failure.about(described(difference)))
}

/// Refuses files that have the rows, or all results, of one run, and what makes more runs of one.
fn refuse_rows(output: &OutputConfig, layers: &Layers) -> Result<(), Failure> {
    if output.diagnoses() {
        let message = message!("{diagnose} makes several runs of one, but {vary} has several already");
        return Err(layers.refused(message).with_hint(
            "--diagnosis says of each what is wrong; run the one that matters by itself with --diagnose",
        ));
    }
    let rows = [
        ("requests_jsonl", &output.requests_jsonl),
        ("iterations_jsonl", &output.iterations_jsonl),
        ("routing_jsonl", &output.routing_jsonl),
        ("timeline", &output.timeline),
        ("output_dir", &output.output_dir),
    ];
    let exports = output.export.as_ref().map(|_| "export");
    let given = rows.into_iter().filter(|(_, path)| path.is_some()).map(|(key, _)| key);
    match given.chain(exports).next() {
        None => Ok(()),
        Some(key) => {
            let what = if key.ends_with("jsonl") { "rows" } else { "results" };
            let message =
                message!("{} has the {} of one run, but {vary} makes several", Message::key(key), what);
            Err(layers.refused(message).with_hint(
                "--report-json and --report-html have the results of all; run the one that matters by itself for rows",
            ))
        }
    }
}

/// A run, and the workload that it shares with others.
struct Job {
    name: String,
    plan: Plan,
    workload: Arc<SharedWorkload>,
}

/// A workload of some runs. That of a trace is there before any of them begins, others are made when the first does.
struct SharedWorkload {
    source: Source,
    load: Load,
    /// Tokens a KV block, which the blocks of synthetic prompts may follow; 0 for a trace, which has its own.
    block_size: u32,
    workload: OnceLock<Workload>,
}

/// A trace as it was read: its file, and what somebody says of its form.
type ReadTrace = (PathBuf, TraceForm, Option<PathBuf>);

/// Prepares all runs. Each trace is read once, and cut into blocks once for each way of doing that.
fn jobs(differences: &[Difference], plans: Vec<Plan>) -> Result<Vec<Job>, Failure> {
    let mut traces: Vec<(ReadTrace, Trace)> = Vec::new();
    let mut shared: Vec<Arc<SharedWorkload>> = Vec::new();
    let mut jobs = Vec::new();
    for (difference, plan) in differences.iter().zip(plans) {
        let block_size = if let Source::Trace { .. } = plan.source { 0 } else { plan.block_size };
        let is_same = |other: &&Arc<SharedWorkload>| {
            other.source == plan.source && other.load == plan.load && other.block_size == block_size
        };
        let workload = if let Some(found) = shared.iter().find(is_same) {
            Arc::clone(found)
        } else {
            let name = |failure: Failure| failure.about(described(difference));
            let made = prepare(&plan, &mut traces).map_err(name)?;
            let workload = made.map_or_else(OnceLock::new, OnceLock::from);
            let (source, load) = (plan.source.clone(), plan.load);
            let workload = Arc::new(SharedWorkload { source, load, block_size, workload });
            shared.push(Arc::clone(&workload));
            workload
        };
        jobs.push(Job { name: described(difference), plan, workload });
    }
    Ok(jobs)
}

/// The workload if it is that of a trace; another is checked.
fn prepare(plan: &Plan, traces: &mut Vec<(ReadTrace, Trace)>) -> Result<Option<Workload>, Failure> {
    let Source::Trace { path, reading, .. } = &plan.source else {
        plan.source.check(plan.block_size, &plan.layers)?;
        return Ok(None);
    };
    let key = (path.clone(), reading.form.clone(), reading.tokenizer.clone());
    let position = if let Some(position) = traces.iter().position(|(known, _)| *known == key) {
        position
    } else {
        traces.push((key, read_trace(path, &reading.form()?)?));
        traces.len() - 1
    };
    let trace = traces[position].1.clone();
    plan.source.with_trace(path, trace, &plan.layers)?.into_workload(plan.load, &plan.layers).map(Some)
}

/// Says what is odd about traces, each once.
fn tell_of_notes(jobs: &[Job]) {
    let mut told = Vec::new();
    let made = jobs.iter().filter_map(|job| job.workload.workload.get());
    for sentence in made.flat_map(|workload| workload.notes.sentences()) {
        if !told.contains(&sentence) {
            note(&format!("note: {sentence}"));
            told.push(sentence);
        }
    }
}

/// Runs that threads take one by one.
struct Runs {
    /// The next that nobody has taken.
    next: AtomicUsize,
    /// The first that failed: those after it need not go on.
    failed: AtomicUsize,
    progress: RunsProgress,
    interrupt: Interrupt,
    /// Bins of the curves of each run, if there is a page.
    bins: Option<usize>,
}

/// What comes of a run: its report, and how it went over time, if that is wanted.
type Outcome = (Report, Option<Curves>);

impl Runs {
    /// What came of all runs in order, or the first failure.
    fn all(&self, jobs: Vec<Job>, threads: usize) -> Result<Vec<Outcome>, Failure> {
        let threads = threads.min(jobs.len());
        let jobs: Vec<Mutex<Option<Job>>> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
        let outcomes: Vec<OnceLock<Result<Outcome, Failure>>> =
            jobs.iter().map(|_| OnceLock::new()).collect();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work(&jobs, &outcomes));
            }
        });
        self.progress.finish();
        self.interrupt.check()?;
        outcomes.into_iter().map_while(OnceLock::into_inner).collect()
    }

    /// Takes runs until there are none, or none that matters.
    fn work(&self, jobs: &[Mutex<Option<Job>>], outcomes: &[OnceLock<Result<Outcome, Failure>>]) {
        loop {
            let position = self.next.fetch_add(1, Ordering::Relaxed);
            if position >= jobs.len() || self.is_over(position) {
                return;
            }
            // A lock is held for no longer than it takes to move a run out.
            let job = jobs[position].lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(job) = job else { continue };
            let outcome = self.one(position, job);
            if outcome.is_err() {
                self.failed.fetch_min(position, Ordering::Relaxed);
            }
            let _ = outcomes[position].set(outcome);
        }
    }

    /// Whether nobody will look at what comes of a run.
    fn is_over(&self, position: usize) -> bool {
        self.interrupt.is_requested() || self.failed.load(Ordering::Relaxed) < position
    }

    fn one(&self, position: usize, job: Job) -> Result<Outcome, Failure> {
        let Job { name, plan, workload } = job;
        let about = |failure: Failure| failure.about(&name);
        let workload = workload_of(workload, &plan).map_err(about)?;
        let options = plan.summary(&workload, plan.config.output.asks_for_diagnosis());
        let progress = self.progress.run(workload.requests() as u64);
        let mut follower = Follower { runs: self, position, progress };
        let simulation = Simulation::new(&plan.topology, workload, &plan.options())
            .map_err(|error| about(plan.layers.refused(error)))?;
        let mut observer =
            WithTokens::new(&plan.topology, plan.keeps_token_times(&simulation), &mut follower);
        let record = simulation.run_dyn(&mut observer).map_err(|error| about(Failure::run(chain(&error))))?;
        let record = RunRecord { token_times: observer.into_times(), ..record };
        let wall_time_ms = follower.progress.finish();
        let bins = self.bins.filter(|_| position < MOST_CURVES);
        let curves = bins.and_then(|bins| Curves::of(&record, bins));
        Ok((summarize(&record, &SummaryOptions { wall_time_ms, ..options }), curves))
    }
}

/// The workload of a run, made if it is not there yet, and copied if other runs need it too.
fn workload_of(shared: Arc<SharedWorkload>, plan: &Plan) -> Result<Workload, Failure> {
    if shared.workload.get().is_none() {
        // Two runs may both come here; they make the same, and one of them is kept.
        let workload = plan.source.load(plan.load, plan.block_size, &plan.layers)?;
        let _ = shared.workload.set(workload);
    }
    let workload = match Arc::try_unwrap(shared) {
        Ok(alone) => alone.workload.into_inner(),
        Err(shared) => shared.workload.get().cloned(),
    };
    Ok(workload.unwrap_or_else(|| unreachable!("it was made before")))
}

/// Follows one run of several, and ends it when nobody will look at what comes of it.
struct Follower<'a> {
    runs: &'a Runs,
    position: usize,
    progress: RunProgress<'a>,
}

impl Observer for Follower<'_> {
    fn progress(&mut self, _now: Time, ended: u64) -> ControlFlow<()> {
        self.progress.tick(ended);
        if self.runs.is_over(self.position) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
