//! What a run is, with everything checked that can be checked before it.

use std::path::PathBuf;

use servecast_cluster::{ClusterError, LoadMode, RouterOptions, Simulation, SimulationOptions, Topology};
use servecast_report::{
    Check, Counts, DiagnosisOptions, ErrorBar, ExportFormat, FailIf, FailIfError, Limit, Margin,
    NamedFigures, Provenance, Report, Sla, Slo, SummaryOptions, Verdict, Window as Measured, class_figure,
    render_slo,
};
use servecast_types::{Duration, Message, message};
use servecast_workload::{Load, TraceError, TraceNotes, Workload, ideal_reuse};

use crate::resolved::reported;
use crate::streamed::streamed;
use crate::timeline::{TimelineOptions, Window};
use servecast_config::deployment::{self, Deployment, PoolSettings};
use servecast_config::error::Failure;
use servecast_config::router::{self, Routing};
use servecast_config::settings::{
    DEFAULT_SEED, Layers, OutputConfig, ReplayConfig, ReplayMode, ReportFormat,
};
use servecast_config::source::Source;

/// A run that can begin.
pub struct Plan {
    /// The settings, each of its type.
    pub config: ReplayConfig,
    /// Where they came from.
    pub layers: Layers,
    /// Limits of goodput.
    pub sla: Sla,
    /// What the run has to keep.
    pub slo: Vec<Slo>,
    /// Limits of figures under which the command fails.
    pub conditions: Vec<FailIf>,
    /// What figures leave out at the ends of the run.
    pub measured: Measured,
    /// How requests enter the deployment.
    pub mode: LoadMode,
    /// The same, as the workload sees it.
    pub load: Load,
    /// In an online replay, how many times as fast as the clock of the machine it goes.
    pub online: Option<f64>,
    /// Of a trace that is used as it is read, how long a row may come before one above it.
    pub streamed: Option<Duration>,
    /// Where requests come from.
    pub source: Source,
    /// Pools, workers, engines, hand-off.
    pub topology: Topology,
    /// Tokens a KV block.
    pub block_size: u32,
    /// What the timeline shows of the run.
    pub timeline: TimelineOptions,
    /// The pools with their settings.
    pub pools: Vec<PoolSettings>,
    /// How requests are spread over workers.
    pub router: RouterOptions,
    /// The files of `--export`, with their formats.
    pub exports: Vec<(ExportFormat, PathBuf)>,
    /// What was given but has no effect, and why.
    pub unused: Vec<Message>,
    /// What was not given, but follows from the rest.
    pub derived: Vec<String>,
    /// Where iteration times come from.
    latency_source: String,
    /// How far off they are.
    latency_error: ErrorBar,
}

impl Plan {
    /// The run that the settings describe.
    pub fn new(mut layers: Layers) -> Result<Self, Failure> {
        layers.add_example()?;
        let config = layers.parse()?;
        let sla = limits(&config, &layers)?;
        let slo = objectives(&config, &layers)?;
        let conditions = conditions(&config, &layers)?;
        let measured = measured(&config, &layers)?;
        let (mode, load) = load(&config, &layers)?;
        let online = online(&config, &layers)?;
        let source = Source::of(&config, &layers)?;
        if config.output.log_arrivals.is_some() && !source.is_as_written() {
            return Err(layers
                .refused(message!(
                    "{log_arrivals} writes the rows of one trace, but this load is made of one or several"
                ))
                .with_hint(message!(
                    "leave out what changes the load, such as {--repeat} and {--request_rate}"
                )));
        }
        let streamed = streamed(&config, &layers, &source)?;
        check_diagnose(&config, &layers)?;
        let timeline = timeline(&config, &layers)?;
        let exports = exports(&config.output)?;
        let Deployment {
            topology,
            block_size,
            queue_policies,
            pools,
            mut unused,
            derived,
            latency_source,
            latency_error,
        } = deployment::build(&config, &layers)?;
        let Routing { options: router, unused: unused_by_router } =
            router::build(&config, &layers, &queue_policies)?;
        unused.extend(unused_by_router);
        unused.extend(without_effect(&config).map(|reason| layers.explained(reason)));
        Ok(Self {
            config,
            layers,
            sla,
            slo,
            conditions,
            measured,
            mode,
            load,
            online,
            streamed,
            source,
            topology,
            block_size,
            timeline,
            pools,
            router,
            exports,
            unused,
            derived,
            latency_source,
            latency_error,
        })
    }

    /// Refuses an online replay, since `why`.
    pub fn refuse_online(&self, why: impl Into<Message>) -> Result<(), Failure> {
        match self.online {
            Some(_) => Err(self
                .layers
                .refused(message!("{replay_mode} is online, but {}", why.into()))
                .with_hint(message!("leave {--replay_mode} out"))),
            None => Ok(()),
        }
    }

    /// Refuses a trace that is used as it is read, since `why`.
    pub fn refuse_streamed(&self, why: impl Into<Message>) -> Result<(), Failure> {
        match self.streamed {
            Some(_) => Err(self
                .layers
                .refused(message!("{stream} uses a trace as it is read, but {}", why.into()))
                .with_hint(message!("leave {--stream} out"))),
            None => Ok(()),
        }
    }

    /// Whether a run has to keep the time of every single token: for an export, or since figures are of a part of its
    /// requests.
    pub fn keeps_token_times(&self, run: &Simulation) -> bool {
        !self.measured.is_whole()
            || run.has_classes()
            || self.exports.iter().any(|(format, _)| format.needs_token_times())
    }

    /// Where iteration times come from.
    pub fn latency_source(&self) -> &str {
        &self.latency_source
    }

    /// How far off they are.
    pub fn latency_error(&self) -> &ErrorBar {
        &self.latency_error
    }

    /// What `fail_if` asks of a run with this report, and what came of it: objectives, limits of figures, of which there has
    /// to be a sample, and that anything was served. Nothing without conditions.
    pub fn checks(&self, name: &str, report: &Report) -> Vec<Check> {
        let given = self.config.output.fail_if.iter().flatten();
        let mut checks = Vec::new();
        if given.clone().any(|condition| condition.trim() == OBJECTIVES) {
            checks.extend(report.slo.iter().flatten().map(|outcome| {
                let told = render_slo(outcome);
                let verdict = if outcome.met { Verdict::Passed(Some(told)) } else { Verdict::Failed(told) };
                Check::new(name, &outcome.objective, verdict)
            }));
        }
        let figures = NamedFigures::of("", report).figures;
        for condition in &self.conditions {
            let figure = class_figure(report, &condition.metric)
                .unwrap_or_else(|| Ok(figures.get(&condition.metric).copied().flatten()));
            let verdict = match figure {
                Err(problem) => Verdict::Failed(format!("{condition}: {problem}")),
                Ok(None) => Verdict::Failed(format!("{condition}: the run has no sample of it")),
                Ok(Some(value)) if condition.is_broken_by(value, 0.0) => {
                    Verdict::Failed(format!("{condition}: it is {value}"))
                }
                Ok(Some(value)) => Verdict::Passed(Some(format!("it is {value}"))),
            };
            checks.push(Check::new(name, condition.to_string(), verdict));
        }
        if given.count() > 0 {
            let served = report.completed_requests > 0;
            let verdict = if served {
                Verdict::Passed(None)
            } else {
                Verdict::Failed("no request was served".to_owned())
            };
            checks.push(Check::new(name, "serves requests", verdict));
        }
        checks
    }

    /// What the report says beside what happened in the run, with a diagnosis or without; `wall_time_ms` is not known yet.
    pub fn summary(&self, workload: &Workload, diagnoses: bool) -> SummaryOptions {
        let diagnosis =
            diagnoses.then(|| DiagnosisOptions { ideal_reuse: ideal_reuse(workload, self.block_size) });
        SummaryOptions { diagnosis, ..self.summary_of(&workload.notes, Some(workload.fingerprint())) }
    }

    /// The same of a load with these notes and this hash, which one has of which all is known at once.
    pub fn summary_of(&self, notes: &TraceNotes, workload_hash: Option<u64>) -> SummaryOptions {
        SummaryOptions {
            sla: self.sla,
            slo: self.slo.clone(),
            wall_time_ms: 0.0,
            online: None,
            notes: counts(notes),
            window: self.measured,
            count_rejected: self.config.measured.count_rejected.unwrap_or(false),
            diagnosis: None,
            sentences: self.derived.clone(),
            provenance: Provenance {
                servecast_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                workload_name: Some(self.source.name()),
                workload_hash,
                seed: Some(self.seed()),
                settings: Some(reported(self, notes)),
                latency_source: Some(self.latency_source.clone()),
                latency_error: Some(self.latency_error.clone()),
            },
        }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.config.trace.seed.unwrap_or(DEFAULT_SEED)
    }

    /// How it is simulated.
    pub fn options(&self) -> SimulationOptions {
        SimulationOptions {
            load: self.mode,
            router: self.router.clone(),
            seed: self.seed(),
            check: self.config.output.check.unwrap_or(false),
            record_routing: self.config.output.routing_jsonl.is_some(),
            plain: self.config.output.plain.unwrap_or(false),
            ..SimulationOptions::default()
        }
    }
}

/// What was given beside settings that take it for nothing, each with the reason.
fn without_effect(config: &ReplayConfig) -> impl Iterator<Item = Message> {
    let (synthetic, output) = (&config.synthetic, &config.output);
    let has_turns = synthetic.turns_per_session.is_some_and(|turns| turns > 1);
    let shares = synthetic.shared_prefix_ratio.is_some_and(|share| share > 0.0);
    [
        (
            synthetic.inter_turn_delay_ms.is_some_and(|delay| delay > 0.0) && !has_turns,
            message!("{inter_turn_delay_ms} is for sessions of several turns ({turns_per_session})"),
        ),
        (
            synthetic.num_prefix_groups.is_some_and(|groups| groups > 0) && !shares,
            message!("{num_prefix_groups} is for prompts that share something ({shared_prefix_ratio})"),
        ),
        (
            output.overwrite == Some(true) && output.output_dir.is_none(),
            message!("{overwrite} is for `output_dir`"),
        ),
    ]
    .into_iter()
    .filter_map(|(is_unused, reason)| is_unused.then_some(reason))
}

fn timeline(config: &ReplayConfig, layers: &Layers) -> Result<TimelineOptions, Failure> {
    let output = &config.output;
    let window = output.timeline_window.as_deref().map_or(Ok(Window::default()), Window::parse);
    let window = window.map_err(|problem| layers.refused(problem))?;
    let sample = output.timeline_sample.unwrap_or(1);
    if sample == 0 {
        return Err(layers.refused(message!(
            "{timeline_sample} is 0, but must be at least 1: one request in so many is shown"
        )));
    }
    let given = [
        ("timeline_window", output.timeline_window.is_some()),
        ("timeline_sample", output.timeline_sample.is_some()),
    ];
    if let Some((key, _)) = given.iter().find(|(_, is_given)| *is_given && output.timeline.is_none()) {
        let message = message!("{} is for what a timeline shows, but there is none", Message::key(*key));
        return Err(layers.refused(message).with_hint(message!("{--timeline} FILE writes one")));
    }
    Ok(TimelineOptions { window, sample })
}

fn limits(config: &ReplayConfig, layers: &Layers) -> Result<Sla, Failure> {
    let limits = &config.limits;
    let sla = Sla {
        ttft_ms: limits.sla_ttft_ms,
        tpot_ms: limits.sla_tpot_ms,
        e2e_ms: limits.sla_e2e_ms,
        pooled_itl_ms: limits.sla_pooled_itl_ms,
    };
    sla.validate().map_err(|error| layers.refused(error))?;
    Ok(sla)
}

/// What figures leave out.
fn measured(config: &ReplayConfig, layers: &Layers) -> Result<Measured, Failure> {
    let margin = |key: &'static str, text: &Option<String>| {
        let margin = text.as_deref().map(str::parse::<Margin>).transpose();
        margin.map_err(|problem| layers.refused(message!("{} {}", Message::key(key), problem)))
    };
    let given = &config.measured;
    let measured =
        Measured { warmup: margin("warmup", &given.warmup)?, cooldown: margin("cooldown", &given.cooldown)? };
    if measured.cooldown == Some(Margin::Unsteady) {
        return Err(layers
            .refused(message!("{cooldown} is `auto`, but a steady state is looked for at the beginning only"))
            .with_hint(message!("give a time, as 60s, or a number of requests; {--warmup} may be auto")));
    }
    Ok(measured)
}

/// What the run has to keep, each once, and whether anybody asks for it.
pub(crate) fn objectives(config: &ReplayConfig, layers: &Layers) -> Result<Vec<Slo>, Failure> {
    let mut objectives: Vec<Slo> = Vec::new();
    for text in config.limits.slo.iter().flatten() {
        let objective = text.parse::<Slo>();
        let objective = objective.map_err(|error| Failure::user(layers.about("slo", error)))?;
        if !objectives.contains(&objective) {
            objectives.push(objective);
        }
    }
    let asks = |condition: &String| condition.trim() == OBJECTIVES;
    if objectives.is_empty() && config.output.fail_if.iter().flatten().any(asks) {
        let message = message!("{fail_if} is `slo`, but there is no objective that could be missed");
        return Err(layers.refused(message).with_hint(message!("{--slo} 'p95 ttft <= 1s' gives one")));
    }
    Ok(objectives)
}

/// The condition that an objective is missed.
const OBJECTIVES: &str = "slo";

/// The limits that figures of the run have to keep, beside the objectives.
fn conditions(config: &ReplayConfig, layers: &Layers) -> Result<Vec<FailIf>, Failure> {
    let is_gated = config.output.fail_if.iter().flatten().next().is_some();
    if config.output.format == Some(ReportFormat::Junit) && !is_gated {
        let message =
            message!("{format} is `junit`, which has a test case for each {--fail_if}, but there is none");
        return Err(layers
            .refused(message)
            .with_hint(message!("{--fail_if} 'p99_ttft_ms>2000' gives a limit")));
    }
    let given = config.output.fail_if.iter().flatten().filter(|condition| condition.trim() != OBJECTIVES);
    let condition = |text: &String| {
        let refused = |problem: String| {
            let hint = message!(
                "{--fail_if} 'p99_ttft_ms>2000' is a limit of a figure, {--fail_if} slo asks for objectives"
            );
            Failure::user(layers.about("fail_if", problem)).with_hint(hint)
        };
        let condition: FailIf = text.parse().map_err(|error: FailIfError| refused(error.to_string()))?;
        let condition = condition.on_report().map_err(|error| refused(format!("`{text}`: {error}")))?;
        if matches!(condition.limit, Limit::Value(_)) {
            return Ok(condition);
        }
        let message = message!("{fail_if} is `{}`, a change, but a run by itself has no baseline", text);
        Err(layers.refused(message).with_hint(
            "give the limit itself, as in `p99_ttft_ms>2000`; `servecast compare --fail-if` holds a run against another one",
        ))
    };
    given.map(condition).collect()
}

/// Refuses to test findings that there are not, or in a run that cannot be made again.
fn check_diagnose(config: &ReplayConfig, layers: &Layers) -> Result<(), Failure> {
    if !config.output.diagnoses() {
        return Ok(());
    }
    if config.output.diagnosis == Some(false) {
        let message = message!("{diagnose} runs what tests the findings of {diagnosis}, but that is false");
        return Err(layers.refused(message).with_hint("leave one of the two out"));
    }
    if config.trace.replay_mode == Some(ReplayMode::Online) {
        let message = message!(
            "{diagnose} runs the same load again in virtual time, but {replay_mode} is online, by the clock of the machine"
        );
        return Err(layers.refused(message).with_hint("leave one of the two out"));
    }
    Ok(())
}

/// How requests enter the deployment, as the cluster and as the workload see it.
pub(crate) fn load(config: &ReplayConfig, layers: &Layers) -> Result<(LoadMode, Load), Failure> {
    let ratio = config.trace.arrival_speedup_ratio.unwrap_or(1.0);
    if !(ratio.is_finite() && ratio > 0.0) {
        return Err(layers.refused(&TraceError::SpeedupRatio { ratio }));
    }
    match config.trace.replay_concurrency {
        None => Ok((LoadMode::OpenLoop, Load::Open { arrival_speedup_ratio: ratio })),
        Some(0) => Err(layers.refused(ClusterError::NoConcurrency)),
        Some(_) if (ratio - 1.0).abs() > 0.0 => {
            let message = message!(
                "{arrival_speedup_ratio} is {}, but {replay_concurrency} makes a closed loop, which has no arrival times",
                ratio
            );
            Err(layers.refused(message).with_hint("leave one of the two out"))
        }
        Some(concurrency) => Ok((LoadMode::ClosedLoop { concurrency }, Load::Closed)),
    }
}

/// The largest speed of an online replay, at which a millisecond of the machine is a quarter of an hour.
const MOST_SPEED: f64 = 1e6;

/// The speed of an online replay.
fn online(config: &ReplayConfig, layers: &Layers) -> Result<Option<f64>, Failure> {
    let given = &config.trace;
    if given.replay_mode != Some(ReplayMode::Online) {
        let keys = [("speed", given.speed.is_some()), ("log_arrivals", config.output.log_arrivals.is_some())];
        return match keys.into_iter().find(|(_, is_given)| *is_given) {
            Some((key, _)) => Err(layers
                .refused(message!("{} is for an online replay, but this one is offline", Message::key(key)))
                .with_hint(message!("{--replay_mode} online goes by the clock of the machine"))),
            None => Ok(None),
        };
    }
    let speed = given.speed.unwrap_or(1.0);
    if speed > 0.0 && speed <= MOST_SPEED {
        return Ok(Some(speed));
    }
    Err(layers.refused(message!(
        "{speed} is {}, but must be above 0 and at most {}: 10 is ten times as fast as the clock of the machine",
        speed,
        MOST_SPEED
    )))
}

/// The files of `--export`, with their formats.
pub fn exports(output: &OutputConfig) -> Result<Vec<(ExportFormat, PathBuf)>, Failure> {
    let one = |text: &String| {
        let (name, path) = text.split_once('=').filter(|(_, path)| !path.is_empty()).ok_or_else(|| {
            Failure::user(message!(
                "{export} is {}, but must be FORMAT=FILE, as vllm-bench=result.json",
                format!("{text:?}")
            ))
        })?;
        let names = ExportFormat::ALL.map(|(name, _)| name).join(", ");
        let found = ExportFormat::ALL.iter().find(|(known, _)| *known == name);
        let (_, format) = found.ok_or_else(|| {
            Failure::user(message!(
                "{export} names the format {}, but must name one of {}",
                format!("{name:?}"),
                &names
            ))
        })?;
        Ok((*format, PathBuf::from(path)))
    };
    output.export.iter().flatten().map(one).collect()
}

/// What was odd about the trace, as counts by kind.
fn counts(notes: &TraceNotes) -> Counts {
    notes.counts().map(|(name, count)| (name.to_owned(), count)).collect()
}
