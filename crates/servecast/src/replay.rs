//! A replay within another program: settings and perhaps a trace go in, a report and rows come out.
//!
//! What it refuses and computes is what `servecast replay` does; it reads no environment and prints nothing.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};
use servecast_cluster::{RunError, Simulation, WithTokens};
use servecast_config::error::{Failure, FailureKind, chain};
use servecast_config::latency::Models;
use servecast_config::settings::{Difference, Layers};
use servecast_config::source::{Source, unusable_trace};
use servecast_record::RunRecord;
use servecast_report::{Columns, Online, Report, SummaryOptions, Window, printable, summarize};
use servecast_types::{Message, Time};
use servecast_workload::{TraceNotes, Workload, read_trace};

use crate::iterations::IterationColumns;
use crate::kept::{Follower, Kept};
use crate::online::run_online;
use crate::own::Own;
use crate::page::{self, PageOf, REPEATED};
use crate::plan::Plan;
use crate::what_if::test_findings;

/// How often a run tells how far it has come.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// What messages call a trace that is not a file.
pub(crate) const TRACE: &str = "trace";

/// A report, or several, as files have it: indented JSON, the last line ended.
///
/// # Panics
/// For something that JSON cannot hold, which a report is not.
pub fn json(report: &impl Serialize) -> String {
    serde_json::to_string_pretty(report).expect("a report is plain data") + "\n"
}

/// What is to be replayed, and how.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// Settings by the keys of a configuration file, without those that say where output goes; `null` is not given.
    pub settings: Map<String, Value>,
    /// A trace in Mooncake JSON Lines, in place of the key `trace_file`.
    pub trace: Option<Vec<u8>>,
    /// Settings over the others, as a run of `--vary` has them.
    pub difference: Difference,
    /// Keep a row an iteration.
    pub iterations: bool,
    /// Latency models that settings may name as `callable:NAME`.
    pub models: Models,
    /// Routing policies and an order of waiting queues, which a [search](mod@crate::recommend) takes none of.
    pub own: Own,
}

/// What came of a replay.
#[derive(Debug)]
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// What happened to every request.
    pub record: RunRecord,
    /// What the report leaves out at the ends of the run.
    pub window: Window,
    /// A row an iteration, if asked for.
    pub iterations: Option<Columns>,
    /// What the user should know: what has no effect, what was odd about the trace.
    pub notes: Vec<String>,
    /// The page of a run by the clock of the machine, which cannot be made again for it.
    pub(crate) online_page: Option<String>,
}

impl Outcome {
    /// The report as `--report-json` writes it, its last line ended.
    pub fn json(&self) -> String {
        json(&self.report)
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// A setting.
    Config,
    /// The trace.
    Trace,
    /// The run cannot go on.
    Run,
    /// Whoever follows the run has ended it.
    Interrupted,
}

impl RefusalKind {
    /// What a load is about that cannot be read or made.
    pub(crate) fn of_load(source: &Source) -> Self {
        match source {
            Source::Trace { .. } => Self::Trace,
            Source::Synthetic { .. } | Source::Sample { .. } => Self::Config,
        }
    }
}

/// Why there is no report.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What it is about.
    pub kind: RefusalKind,
    /// What, where, and what would be right.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<String>,
}

impl Refusal {
    pub(crate) fn of(kind: RefusalKind, failure: Failure) -> Self {
        let kind = match failure.kind() {
            FailureKind::User | FailureKind::OutputClosed => kind,
            FailureKind::Run | FailureKind::Condition => RefusalKind::Run,
            FailureKind::Interrupted => RefusalKind::Interrupted,
        };
        let (message, hint) = failure.into_parts();
        Self { kind, message: Self::shown(&message), hint: hint.as_ref().map(Self::shown) }
    }

    /// A message in the words of a program. It may end up on a terminal.
    pub(crate) fn shown(message: &Message) -> String {
        printable(&with_arguments(message)).into_owned()
    }
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// Simulated time.
    pub now: Time,
    /// Requests that have ended.
    pub ended: u64,
    /// Requests of the workload.
    pub requests: u64,
}

/// Runs a replay, telling `watch` every 50 ms or so how far it is; `Break` ends it.
pub fn replay(
    replay: &Replay,
    watch: &mut dyn FnMut(Reached) -> ControlFlow<()>,
) -> Result<Outcome, Refusal> {
    let plan = plan(replay)?;
    let mut notes: Vec<String> = plan.derived.clone();
    for reason in &plan.unused {
        let note = format!("a setting has no effect: {}", with_arguments(reason));
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    let kept = Kept {
        activity: plan.online.map(|_| page::watch(&plan.topology)),
        iterations: replay.iterations.then(IterationColumns::default),
        timeline: None,
    };
    let output = &plan.config.output;
    // The page says what is wrong with a run, the report where that is asked for.
    let diagnoses = if plan.online.is_some() { output.has_diagnosis() } else { output.asks_for_diagnosis() };
    let run = simulate(replay, &plan, kept, diagnoses, watch)?;
    notes.extend(run.notes.messages().iter().map(with_arguments));
    let online_page = run.kept.activity.as_ref().map(|_| run.page(replay, &plan)).transpose();
    let online_page = online_page.map_err(|failure| Refusal::of(RefusalKind::Config, failure))?;
    let Simulated { mut report, record, options, kept, .. } = run;
    report.diagnosis = report.diagnosis.filter(|_| output.asks_for_diagnosis());
    let notes = notes.iter().map(|note| printable(note).into_owned()).collect();
    let iterations = kept.iterations.map(IterationColumns::into_columns);
    Ok(Outcome { report, record, window: options.window, iterations, notes, online_page })
}

/// What a replay is, with everything checked that can be checked before it.
pub(crate) fn plan(replay: &Replay) -> Result<Plan, Refusal> {
    let config = |failure| Refusal::of(RefusalKind::Config, failure);
    let plan = layers(replay).and_then(Plan::new).map_err(config)?;
    replay.own.check(&plan).map_err(config)?;
    Ok(plan)
}

/// A run that is over.
pub(crate) struct Simulated {
    pub(crate) report: Report,
    pub(crate) record: RunRecord,
    /// What the report was made with.
    pub(crate) options: SummaryOptions,
    pub(crate) kept: Kept,
    /// What was odd about the trace.
    pub(crate) notes: TraceNotes,
}

impl Simulated {
    /// Its page, of what it has kept.
    pub(crate) fn page(&self, replay: &Replay, plan: &Plan) -> Result<String, Failure> {
        let Self { report, record, options, kept, notes } = self;
        let is_named = replay.trace.is_none() && replay.models.is_empty() && replay.own.is_empty();
        let repeating =
            if is_named { REPEATED } else { "its trace or a function is of the program that ran it" };
        let config = page::config_text(plan, notes, repeating)?;
        let page = PageOf {
            plan,
            config: &config,
            record,
            activity: kept.activity.as_ref(),
            window: options.window,
        };
        Ok(page.render(report))
    }
}

/// Runs what a plan says, with a diagnosis or without, and keeps what is asked for.
pub(crate) fn simulate(
    replay: &Replay,
    plan: &Plan,
    kept: Kept,
    diagnoses: bool,
    watch: &mut dyn FnMut(Reached) -> ControlFlow<()>,
) -> Result<Simulated, Refusal> {
    let config = |failure| Refusal::of(RefusalKind::Config, failure);
    let workload = workload(replay.trace.as_deref(), plan)
        .map_err(|failure| Refusal::of(RefusalKind::of_load(&plan.source), failure))?;
    let notes = workload.notes.clone();
    let mut summary = plan.summary(&workload, diagnoses);
    replay.own.mark(&mut summary);
    let for_tests = (diagnoses && plan.config.output.diagnoses()).then(|| workload.clone());
    let requests = workload.requests() as u64;
    let simulation = Simulation::new(&plan.topology, workload, &plan.options())
        .map_err(|error| config(plan.layers.refused(error)))?;
    let simulation = replay.own.attach(plan, simulation);
    let started = wall_clock();
    let watch = Watch::new(watch, requests);
    let mut follower = Follower::new(&watch, kept);
    let outcome = run(simulation, plan, &watch, &mut follower);
    let wall_time_ms = started.elapsed().as_secs_f64() * 1000.0;
    let (record, online) = outcome.map_err(|error| ended(&error))?;
    let options = SummaryOptions { wall_time_ms, online, ..summary };
    let kept = follower.kept;
    let mut report = summarize(&record, &options);
    if let Some(workload) = for_tests {
        test_findings(plan, &workload, &mut report, &mut |_| watch.tell(false))
            .map_err(|error| ended(&error))?;
    }
    Ok(Simulated { report, record, options, kept, notes })
}

/// Why a run has ended before its time.
fn ended(error: &RunError) -> Refusal {
    let interrupted = matches!(error, RunError::Interrupted { .. });
    let kind = if interrupted { RefusalKind::Interrupted } else { RefusalKind::Run };
    Refusal { kind, message: printable(&chain(error)).into_owned(), hint: None }
}

/// Runs by the clock that there is. A run that `watch` ends has no record.
fn run(
    simulation: Simulation,
    plan: &Plan,
    watch: &Watch<'_>,
    follower: &mut Follower<'_>,
) -> Result<(RunRecord, Option<Online>), RunError> {
    let mut follower = WithTokens::new(&plan.topology, plan.keeps_token_times(&simulation), follower);
    let (record, online) = match plan.online {
        None => (simulation.run_dyn(&mut follower)?, None),
        Some(speed) => {
            let run = run_online(simulation, speed, || watch.has_ended(), &mut follower)?;
            if run.was_stopped {
                return Err(RunError::Interrupted { at: watch.reached.get().now });
            }
            (run.record, Some(run.clock))
        }
    };
    Ok((RunRecord { token_times: follower.into_times(), ..record }, online))
}

/// The deployment of a replay with its load in front, for whoever follows the run with an
/// [`Observer`](servecast_cluster::Observer) of their own.
pub fn simulation(replay: &Replay) -> Result<Simulation, Refusal> {
    let config = |failure| Refusal::of(RefusalKind::Config, failure);
    let plan = plan(replay)?;
    plan.refuse_online("whoever follows a run says by what clock it goes").map_err(config)?;
    let workload = workload(replay.trace.as_deref(), &plan)
        .map_err(|failure| Refusal::of(RefusalKind::of_load(&plan.source), failure))?;
    let simulation = Simulation::new(&plan.topology, workload, &plan.options());
    let simulation = simulation.map_err(|error| config(plan.layers.refused(error)))?;
    Ok(replay.own.attach(&plan, simulation))
}

/// The settings, each from the argument of its name.
pub(crate) fn layers(replay: &Replay) -> Result<Layers, Failure> {
    let mut layers = Layers::with_models(replay.models.clone());
    for (name, value) in &replay.settings {
        layers.add_argument(name, value.clone())?;
    }
    if replay.trace.is_some() {
        layers.add_argument("trace_file", TRACE.into())?;
    }
    layers.vary(&replay.difference)?;
    Ok(layers)
}

/// A message for a program, whose arguments are named like the keys of a file.
fn with_arguments(message: &Message) -> String {
    message.render(str::to_owned)
}

/// The workload of a plan, of a `trace` if that is no file.
pub(crate) fn workload(trace: Option<&[u8]>, plan: &Plan) -> Result<Workload, Failure> {
    match (trace, &plan.source) {
        (Some(text), Source::Trace { reading, .. }) => {
            let path = Path::new(TRACE);
            let trace = read_trace(text, &reading.form()?).map_err(|error| unusable_trace(path, &error))?;
            plan.source.with_trace(path, trace, &plan.layers)?.into_workload(plan.load, &plan.layers)
        }
        _ => plan.source.load(plan.load, plan.block_size, &plan.layers),
    }
}

/// What a run costs, and how often it is told of; nothing that is simulated depends on it.
#[expect(clippy::disallowed_methods, reason = "the time that a simulation takes")]
fn wall_clock() -> Instant {
    Instant::now()
}

/// Whoever is told how far a run has come.
pub(crate) struct Watch<'a> {
    told_to: RefCell<&'a mut dyn FnMut(Reached) -> ControlFlow<()>>,
    reached: Cell<Reached>,
    told: Cell<Instant>,
}

impl<'a> Watch<'a> {
    fn new(watch: &'a mut dyn FnMut(Reached) -> ControlFlow<()>, requests: u64) -> Self {
        let reached = Cell::new(Reached { now: Time::ZERO, ended: 0, requests });
        Self { told_to: RefCell::new(watch), reached, told: Cell::new(wall_clock()) }
    }

    /// The run has come so far.
    pub(crate) fn reached(&self, now: Time, ended: u64) -> ControlFlow<()> {
        let requests = self.reached.get().requests;
        self.reached.set(Reached { now, ended, requests });
        self.tell(ended == requests)
    }

    /// Whether the run is to end although nothing happens in it.
    fn has_ended(&self) -> bool {
        self.tell(false).is_break()
    }

    fn tell(&self, at_once: bool) -> ControlFlow<()> {
        // A worker that catches up does much within one instant, so the wall clock, which costs little, is read in each.
        let wall = wall_clock();
        if !at_once && wall.duration_since(self.told.get()) < TELL_EVERY {
            return ControlFlow::Continue(());
        }
        self.told.set(wall);
        (self.told_to.borrow_mut())(self.reached.get())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use servecast_latency::Linear;

    use super::*;

    fn settings(settings: Value) -> Replay {
        let Value::Object(settings) = settings else { panic!("an object") };
        Replay { settings, ..Replay::default() }
    }

    fn refusal(one: &Replay) -> (RefusalKind, String) {
        let refusal = replay(one, &mut |_| ControlFlow::Continue(())).unwrap_err();
        (refusal.kind, refusal.message)
    }

    #[test]
    fn a_refusal_says_what_it_is_about() {
        let synthetic = json!({"input_tokens": 10, "output_tokens": 2, "request_count": 1});
        for (one, kind, message) in [
            (
                settings(json!({"num_worker": 3})),
                RefusalKind::Config,
                "unknown key `num_worker`, did you mean `num_workers`?",
            ),
            (
                settings(json!({"report_json": "x"})),
                RefusalKind::Config,
                "`report_json` is for the command line only",
            ),
            (
                settings(json!({"num_workers": 2, "workers": 3})),
                RefusalKind::Config,
                "`num_workers` is given by two names: keep one of them",
            ),
            (
                Replay { trace: Some(b"{}".to_vec()), ..Replay::default() },
                RefusalKind::Trace,
                "trace: line 1: `output_length` is missing or null: give the number of tokens to generate, from 1 to \
                 999999",
            ),
        ] {
            assert_eq!(refusal(&one), (kind, message.to_owned()));
        }
        let stopped = replay(&settings(synthetic), &mut |_| ControlFlow::Break(())).unwrap_err();
        assert_eq!(stopped.kind, RefusalKind::Interrupted);
    }

    #[test]
    fn a_latency_model_may_be_brought_along() {
        let with = |latency: &str| {
            let size =
                json!({"input_tokens": 100, "output_tokens": 20, "request_count": 3, "latency": latency});
            settings(size)
        };
        let mut ours = with("callable:mine");
        let message = "`latency` is `callable:mine`, but no latency model of that name was brought along";
        assert_eq!(refusal(&ours), (RefusalKind::Config, message.to_owned()));
        let linear = Linear { base_us: 1000.0, per_token_us: 0.5, per_seq_us: 5.0 };
        ours.models.insert("mine".to_owned(), Arc::new(linear));
        let ttft = |one: &Replay| {
            let outcome = replay(one, &mut |_| ControlFlow::Continue(())).unwrap();
            serde_json::to_value(&outcome.report).unwrap()["max_ttft_ms"].clone()
        };
        assert_eq!(ttft(&ours), ttft(&with("linear:1000,0.5,5")));
    }

    #[test]
    fn rows_of_iterations_come_on_request_and_change_nothing() {
        let synthetic = json!({"input_tokens": 100, "output_tokens": 20, "request_count": 3});
        let plain = settings(synthetic);
        let asked = Replay { iterations: true, ..plain.clone() };
        let run = |one| replay(one, &mut |_| ControlFlow::Continue(())).unwrap();
        let (without, with) = (run(&plain), run(&asked));
        let rows = |outcome: &Outcome| {
            let mut rows = Vec::new();
            servecast_report::write_request_rows(&outcome.record, outcome.window, &mut rows).unwrap();
            rows
        };
        assert_eq!(rows(&without), rows(&with));
        assert!(without.iterations.is_none() && with.iterations.is_some_and(|rows| rows.rows() > 0));
    }
}
