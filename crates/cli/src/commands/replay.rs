//! `servecast replay`: simulates a deployment under a workload and reports what came of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use servecast_cluster::{Detail, LoadMode, Observer, Routed, RunError, Simulation, WithTokens};
use servecast_engine::{Decodes, Iteration};
use servecast_record::{EndedRequest, RunRecord};
use servecast_report::{
    Activity, FoundBy, Report, TableOptions, failures, render_charts, render_junit, render_markdown,
    render_table, summarize,
};
use servecast_types::{Message, Role, Time, WorkerId, message};
use servecast_workload::{Workload, write_in_lines};

use crate::config::{
    DEFAULT_TRACE_BLOCK_SIZE, EXAMPLE, Layers, Origin, ReplayConfig, ReportFormat, RouterFlags, RouterGiven,
    add_router,
};
use crate::error::{Failure, chain, quoted};
use crate::files::{self, OutputFile, note};
use crate::interrupt::Interrupt;
use crate::iterations::IterationRows;
use crate::online::{OnlineRun, run_online};
use crate::page;
use crate::plan::Plan;
use crate::progress::{Progress, TestsProgress};
use crate::routing::Row;
use crate::rows::Rows;
use crate::second_names;
use crate::source::{LoadRows, Source};
use crate::timeline::Timeline;

pub(super) use servecast::replay::json;
use servecast::what_if::test_findings;

pub(super) use self::outputs::{REPORT, ROWS};
use self::streamed::Requests;

mod compare;
mod folder;
mod outputs;
pub(crate) mod recommend;
pub(crate) mod serve;
mod streamed;

/// Simulate a deployment under a trace, a synthetic workload or a built-in sample
///
/// Workers are aggregated, or split into a prefill and a decode pool if any of the prefill or decode options is given.
/// Every option is also a key of the configuration file, in `snake_case` (`num_workers` for --num-workers), and an
/// environment variable (`SERVECAST_NUM_WORKERS`); flags win over variables, and variables over the file. The settings
/// of the KV router are keys of the table `router_config`; their variables are `SERVECAST_ROUTER_TEMPERATURE` and so on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    config: ReplayConfig,
    #[command(flatten)]
    besides: BesideArgs,
}

/// Flags of a deployment that are no settings of their own.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct BesideArgs {
    /// Start every prompt from nothing, the same as --enable-prefix-caching=false
    #[arg(long, conflicts_with = "enable_prefix_caching", help_heading = "Engine, in every pool")]
    no_enable_prefix_caching: bool,
    /// Schedule prompts as a whole, the same as --enable-chunked-prefill=false
    #[arg(long, conflicts_with = "enable_chunked_prefill", help_heading = "Engine, in every pool")]
    no_enable_chunked_prefill: bool,
    /// Take settings from a TOML or .json file with the names of the flags as keys
    #[arg(long = "config", value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = None::<&str>)]
    config_file: Option<PathBuf>,
    #[command(flatten)]
    router: RouterFlags,
}

impl ReplayArgs {
    /// All settings that hold for the run, with their origins.
    fn layers(self) -> Result<Layers, Failure> {
        self.over(Layers::default())
    }

    /// The same, laid over others.
    fn over(mut self, layers: Layers) -> Result<Layers, Failure> {
        let mut layers = second_names::as_typed(layers, std::env::args_os());
        let BesideArgs { no_enable_prefix_caching, no_enable_chunked_prefill, config_file, router } =
            self.besides;
        if let Some(path) = &config_file {
            layers.add_file(path)?;
        }
        let variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        layers.add_environment(variables.clone())?;
        let engine = &mut self.config.engine;
        if no_enable_prefix_caching {
            engine.enable_prefix_caching = Some(false);
        }
        if no_enable_chunked_prefill {
            engine.enable_chunked_prefill = Some(false);
        }
        let router_config = self.config.deployment.router_config.take();
        layers.add_flags(&self.config)?;
        add_router(&mut layers, RouterGiven { variables, config: router_config, flags: router })?;
        Ok(layers)
    }
}

/// Runs the command.
pub(crate) fn run(args: ReplayArgs) -> Result<(), Failure> {
    let layers = args.layers()?;
    let several = layers.parse()?.several;
    match several.vary {
        Some(texts) if !texts.is_empty() => compare::run(&layers, &texts, several.threads),
        _ => run_one(layers),
    }
}

fn run_one(layers: Layers) -> Result<(), Failure> {
    let plan = Plan::new(layers)?;
    let Plan { config, layers, source, .. } = &plan;
    outputs::check(&config.output, &[], &[source], layers)?;
    let quiet = config.output.quiet.unwrap_or(false);
    if !quiet {
        introduce(&plan);
        plan.derived.iter().for_each(|derived| note(&format!("note: {derived}")));
        let threads = config.several.threads.map(|_| message!("{threads} is for the runs of {--vary}"));
        tell_of_unused(plan.unused.iter().cloned().chain(threads.map(|reason| layers.explained(reason))));
    }
    let interrupt = Interrupt::install()?;
    if let Some(sort_window) = plan.streamed {
        return streamed::run(&plan, sort_window, quiet, &interrupt);
    }

    let rows = source.rows(plan.block_size, layers)?;
    // What was sent has the rows of what was to be sent.
    let kept = config.output.log_arrivals.is_some().then(|| rows.clone());
    let workload = rows.into_workload(plan.load, layers)?;
    let mut options = plan.summary(&workload, config.output.has_diagnosis());
    let requests = workload.requests();
    // What tests the findings has the load once more.
    let for_tests = config.output.diagnoses().then(|| workload.clone());
    let notes = workload.notes.clone();
    if !quiet {
        notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    }
    interrupt.defer()?;
    let folder = outputs::claim(&config.output)?;
    let mut follower = Follower::new(&plan, Some(workload.requests() as u64), quiet, &interrupt)?;
    let simulation =
        Simulation::new(&plan.topology, workload, &plan.options()).map_err(|error| layers.refused(error))?;
    let outcome = run_by_clock(simulation, &plan, &interrupt, &mut follower);
    let timeline = follower.timeline.take();
    let activity = follower.activity.take();
    let (wall_time_ms, mut complete) = follower.finish(outcome.as_ref().err())?;
    let (record, online) = outcome.map_err(|error| Failure::run(chain(&error)))?;
    if let Some((timeline, path)) = timeline.zip(config.output.timeline.as_deref()) {
        complete.push(timeline.finish(&record).map_err(|error| Failure::write(quoted(path), &error))?);
    }
    options.wall_time_ms = wall_time_ms;
    let ended_early = online.as_ref().filter(|online| online.was_stopped).map(|_| record.requests.len());
    if let Some((online, path)) = online.as_ref().zip(config.output.log_arrivals.as_deref()) {
        complete.push(log_arrivals(online, kept, path, quiet)?);
    }
    options.online = online.map(|online| online.clock);
    let mut report = summarize(&record, &options);
    // Of a run that is over the results are written although Ctrl-C ends what would test them.
    let untested =
        for_tests.and_then(|workload| diagnose(&plan, &workload, &mut report, quiet, &interrupt).err());
    if untested.is_some() {
        interrupt.take();
    }
    let run = outputs::Run {
        record: &record,
        report: &report,
        activity: activity.as_ref(),
        options: &options,
        notes: &notes,
    };
    outputs::write(&plan, run, complete, &interrupt)?;
    drop(folder);
    interrupt.resume()?;
    show(&plan, &report, &record, quiet)?;
    if let Some(failure) = untested {
        return Err(failure);
    }
    if let Some(sent) = ended_early {
        return Err(Failure::interrupted(format!(
            "interrupted when {sent} of {requests} requests had been sent; the report is of those"
        )));
    }
    fail_if(&plan, &report)
}

/// Runs what tests the findings of a report.
fn diagnose(
    plan: &Plan,
    workload: &Workload,
    report: &mut Report,
    quiet: bool,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let mut progress = TestsProgress::new(quiet);
    let outcome = test_findings(plan, workload, report, &mut |reached| {
        progress.tick(reached);
        if interrupt.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.finish();
    outcome.map_err(|error| {
        Failure::interrupted(format!(
            "{error} while the diagnosis was tested; the report is of the run itself"
        ))
    })
}

/// Fails if a condition of the plan holds.
fn fail_if(plan: &Plan, report: &Report) -> Result<(), Failure> {
    let failures = failures(&plan.checks(&plan.source.name(), report));
    if failures.is_empty() { Ok(()) } else { Err(Failure::condition(failures.join("\n       "))) }
}

/// Prints a report, behind what its reader has to know of it.
fn show(plan: &Plan, report: &Report, record: &RunRecord, quiet: bool) -> Result<(), Failure> {
    if !quiet {
        tell_of_rejected(report);
        tell_of_measured(report);
        tell_of_extrapolated(report);
        tell_of_estimate(report);
    }
    let checks = || plan.checks(&plan.source.name(), report);
    files::print(&match plan.config.output.format.unwrap_or_default() {
        ReportFormat::Json => json(report),
        ReportFormat::Table => {
            render_table(report, table_options()) + &render_charts(record, table_options())
        }
        ReportFormat::Markdown => render_markdown(report, &checks()),
        ReportFormat::Junit => render_junit("servecast replay", &checks()),
    })
}

/// Runs in virtual time or by the clock of the machine, in which Ctrl-C ends it with what was done.
fn run_by_clock(
    simulation: Simulation,
    plan: &Plan,
    interrupt: &Interrupt,
    follower: &mut Follower,
) -> Result<(RunRecord, Option<OnlineRun>), RunError> {
    let mut follower = WithTokens::new(&plan.topology, plan.keeps_token_times(&simulation), follower);
    let (record, run) = match plan.online {
        None => (simulation.run_dyn(&mut follower)?, None),
        Some(speed) => {
            let mut run = run_online(simulation, speed, || interrupt.take(), &mut follower)?;
            (std::mem::take(&mut run.record), Some(run))
        }
    };
    Ok((RunRecord { token_times: follower.into_times(), ..record }, run))
}

/// Writes what was sent, and says how it is replayed.
fn log_arrivals(
    online: &OnlineRun,
    rows: Option<LoadRows>,
    path: &Path,
    quiet: bool,
) -> Result<OutputFile, Failure> {
    let mut file = OutputFile::create(path)?;
    let rows = rows.expect("they are kept for a log");
    let block_size = rows.block_size();
    let sent = online.stamped(rows.into_rows(), block_size);
    write_in_lines(&sent, &mut file).map_err(|error| file.failure(&error))?;
    if !quiet && block_size != DEFAULT_TRACE_BLOCK_SIZE {
        note(&format!("note: the trace of --log-arrivals is replayed with --trace-block-size {block_size}"));
    }
    Ok(file)
}

/// Says what is replayed if the user did not, and what of the load has no effect.
fn introduce(plan: &Plan) {
    let Plan { source, config, mode, .. } = plan;
    if let Source::Sample { seed, .. } = source {
        let is_example = plan.layers.origin("model") == Some(&Origin::Example);
        let [(_, model), (_, gpu), (_, preset)] = EXAMPLE;
        let deployment = format!(", on {model}, {gpu} and {preset}");
        note(&format!(
            "note: no trace is given, so this replays a built-in sample: a minute of chat sessions (seed {seed}){}",
            if is_example { &deployment } else { "" }
        ));
        note(
            "      try `servecast replay TRACE`, `servecast replay --workers 2`, or `servecast replay --help`",
        );
    }
    if let (Source::Synthetic { .. }, LoadMode::ClosedLoop { .. }) = (source, mode) {
        let synthetic = &config.synthetic;
        if synthetic.arrival_interval_ms.is_some() || synthetic.arrival_process.is_some() {
            note("note: a closed loop has no arrival times, so their interval and process have no effect");
        }
    }
}

/// Says what was given but has no effect.
fn tell_of_unused(reasons: impl Iterator<Item = Message>) {
    for reason in unused(reasons) {
        note(&format!("note: {reason}"));
    }
}

/// What was given but has no effect, each once.
fn unused(reasons: impl Iterator<Item = Message>) -> Vec<String> {
    let mut told = Vec::new();
    for reason in reasons {
        let text = format!("a setting has no effect: {reason}");
        if !told.contains(&text) {
            told.push(text);
        }
    }
    told
}

/// Follows a run: shows how far it has come, writes what happens along the way, and ends it on Ctrl-C.
struct Follower {
    progress: Progress,
    interrupt: Interrupt,
    iterations: Option<IterationRows<OutputFile>>,
    routing: Option<Rows<OutputFile>>,
    timeline: Option<Timeline<OutputFile>>,
    /// What the page shows of workers, if there is one.
    activity: Option<Activity>,
    /// What comes of requests, of which none is kept.
    requests: Option<Requests>,
    /// Why rows cannot be written any more.
    failure: Option<Failure>,
    /// Whether Ctrl-C lets the run end by itself.
    is_online: bool,
}

impl Follower {
    /// A follower of a run of so many requests, if that is known.
    fn new(plan: &Plan, requests: Option<u64>, quiet: bool, interrupt: &Interrupt) -> Result<Self, Failure> {
        let output = &plan.config.output;
        let create = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::create).transpose();
        Ok(Self {
            progress: Progress::new(requests, quiet, plan.online.is_some()),
            interrupt: interrupt.clone(),
            iterations: create(&output.iterations_jsonl)?.map(IterationRows::new),
            routing: create(&output.routing_jsonl)?.map(Rows::new),
            timeline: create(&output.timeline)?.map(|file| Timeline::new(file, plan.timeline)),
            activity: output.has_page().then(|| page::watch(&plan.topology)),
            requests: None,
            failure: None,
            is_online: plan.online.is_some(),
        })
    }

    /// Wall time of the run in milliseconds and the files of rows, unless the run was ended for a reason of ours.
    fn finish(self, error: Option<&RunError>) -> Result<(f64, Vec<OutputFile>), Failure> {
        let wall_time_ms = self.progress.finish();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let iterations = self.iterations.map(IterationRows::into_inner);
        let files = iterations.into_iter().chain(self.routing.map(Rows::into_inner)).collect();
        if let Some(error @ RunError::Interrupted { .. }) = error {
            return Err(Failure::interrupted(error.to_string()));
        }
        Ok((wall_time_ms, files))
    }
}

impl Observer for Follower {
    fn detail(&self) -> Detail {
        if self.iterations.is_some() { Detail::Iterations } else { Detail::Passes }
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        if let Some(activity) = &mut self.activity {
            activity.add(pool, worker, &page::span_of(iteration));
        }
        if self.failure.is_none()
            && let Some(rows) = &mut self.iterations
        {
            self.failure =
                rows.write(pool, worker, iteration).map_err(|error| rows.out().failure(&error)).err();
        }
        if self.failure.is_none()
            && let Some(timeline) = &mut self.timeline
        {
            let written = timeline.iteration(pool, worker, iteration);
            self.failure = written.map_err(|error| timeline.out().failure(&error)).err();
        }
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        if let Some(activity) = &mut self.activity {
            activity.add(pool, worker, &page::span_of_decodes(decodes));
        }
        if self.failure.is_none()
            && let Some(timeline) = &mut self.timeline
        {
            let written = timeline.decoded(pool, worker, decodes);
            self.failure = written.map_err(|error| timeline.out().failure(&error)).err();
        }
    }

    fn routed(&mut self, routed: &Routed) {
        if self.failure.is_none()
            && let Some(rows) = &mut self.routing
        {
            self.failure = rows.write(&Row::new(routed)).map_err(|error| rows.out().failure(&error)).err();
        }
    }

    fn ended(&mut self, ended: &EndedRequest<'_>) {
        if self.failure.is_none()
            && let Some(requests) = &mut self.requests
        {
            self.failure = requests.add(ended).err();
        }
    }

    fn is_interrupted(&self) -> bool {
        (!self.is_online && self.interrupt.is_requested()) || self.failure.is_some()
    }

    fn progress(&mut self, now: Time, ended: u64) -> ControlFlow<()> {
        self.progress.tick(now, ended);
        if self.is_interrupted() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

fn tell_of_rejected(report: &Report) {
    if report.rejected_requests == 0 {
        return;
    }
    let reasons: Vec<String> =
        report.rejected_by_reason.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let (rejected, all) = (report.rejected_requests, report.num_requests);
    note(&format!("note: {rejected} of {all} requests were rejected: {}", reasons.join(", ")));
}

/// Says where figures are not of what was asked for, or of nothing.
fn tell_of_measured(report: &Report) {
    let Some(measured) = &report.measured else { return };
    if measured.found_by == FoundBy::NoSteadyState {
        note("note: no steady state was found in the TTFT (MSER-5), so no request is left out as warm-up");
    }
    if measured.requests == 0 {
        note("note: no request is measured: warm-up and cool-down leave all of them out");
    }
}

/// Says how much of the run lies outside what the latency model was measured on.
fn tell_of_extrapolated(report: &Report) {
    if let Some(ratio) = report.latency_extrapolated_ratio {
        let percent = ratio * 100.0;
        note(&format!(
            "note: the time of {percent:.2} % of the iterations is extrapolated beyond the measurements"
        ));
    }
}

/// Says that nothing of the iteration times was measured.
fn tell_of_estimate(report: &Report) {
    if let Some(estimate) = &report.latency_estimate {
        note(&format!("note: iteration times are an estimate, nothing was measured: {estimate}"));
    }
}

/// What standard output can show.
pub(super) fn table_options() -> TableOptions {
    if !io::stdout().is_terminal() {
        return TableOptions::default();
    }
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    TableOptions {
        width: terminal_size::terminal_size().map(|(width, _)| width.0),
        color: !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
    }
}
