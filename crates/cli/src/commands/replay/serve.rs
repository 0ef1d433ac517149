//! `servecast serve`: a deployment on the clock, behind the HTTP API of a real one.

mod answers;
mod events;
mod faults;

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Command, ValueHint};
use servecast_engine::{EngineArgs, EngineType};
use servecast_live::{
    Dialect, LogFormat, RequestLog, ServeError, ServeOptions, Timeouts, least_capacity, serve, told_to_stop,
};
use servecast_report::printable;
use servecast_types::{Message, message};
use servecast_workload::TraceNotes;

use self::answers::AnswerArgs;
use self::events::KvEventsArgs;
use self::faults::FaultArgs;
use super::{BesideArgs, ReplayArgs, unused};
use crate::config::{
    DeploymentConfig, EngineShortcuts, Layers, ReplayConfig, ReplayMode, SglangShortcuts, TraceConfig, finite,
};
use crate::error::{Failure, chain};
use crate::files::{self, note};
use crate::latency;
use crate::plan::Plan;
use crate::resolved::resolved;
use crate::source::Source;

/// Answer clients as a deployment would, by HTTP and in real time
///
/// An OpenAI-compatible server with the endpoints, errors and metrics of vLLM, in front of simulated workers and their
/// router: clients, gateways, load generators and autoscalers can be tried against it without a GPU. What it says is
/// made up, when it says it is the simulation's. The deployment has the settings of `replay`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on; whoever can reach it can use the server
    #[arg(long = "host", value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = "Server")]
    address: IpAddr,
    /// Port of the whole deployment, whose router chooses workers; 0 takes any that is free [default: 8000]
    #[arg(long, value_name = "PORT", help_heading = "Server")]
    port: Option<u16>,
    /// Port of the first worker, others follow: each is a server of its own, for somebody else's router
    ///
    /// With --port too, there are both. For aggregated deployments.
    #[arg(long, value_name = "PORT", help_heading = "Server")]
    worker_port: Option<u16>,
    /// Name by which clients ask for the model; without it that of --model, or servecast
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    served_model_name: Option<String>,
    /// Key that clients have to send for paths that begin with /v1
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    api_key: Option<String>,
    /// Have the route `/reset_prefix_cache`, as vLLM has with `VLLM_SERVER_DEV_MODE=1`
    #[arg(long, help_heading = "Server")]
    server_dev_mode: bool,
    /// How many times as fast as the clock of the machine the deployment goes
    #[arg(long, value_name = "FACTOR", help_heading = "Server", allow_negative_numbers = true, value_parser = finite)]
    speed: Option<f64>,
    /// Write what comes in, with times, as a trace that `replay` takes
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    record: Option<PathBuf>,
    /// Root of all random numbers, and of what answers say
    #[arg(long, value_name = "N", help_heading = "Server")]
    seed: Option<u64>,
    /// Write a line to standard error for each request: what it was and how long it took
    #[arg(long, help_heading = "Server")]
    log_requests: bool,
    /// How lines on standard error are written: for people, or a JSON object each
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Server")]
    log: LogForm,
    /// Show no notes
    #[arg(long, short, help_heading = "Server")]
    quiet: bool,
    #[command(flatten)]
    answers: AnswerArgs,
    #[command(flatten)]
    kv_events: KvEventsArgs,
    #[command(flatten)]
    faults: FaultArgs,
    #[command(flatten)]
    deployment: DeploymentConfig,
    #[command(flatten)]
    engine: EngineShortcuts,
    #[command(flatten)]
    sglang: SglangShortcuts,
    #[command(flatten)]
    besides: BesideArgs,
}

/// How lines on standard error are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum LogForm {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl LogForm {
    /// Says something.
    fn tell(self, text: &str) {
        match self {
            Self::Text => note(text),
            Self::Json => write_line("info", text, None),
        }
    }

    /// Says what the server's user may not have wanted.
    fn tell_note(self, text: &str) {
        match self {
            Self::Text => note(&format!("note: {text}")),
            Self::Json => write_line("warning", text, None),
        }
    }

    /// Says why there is no server, or none any more.
    fn tell_failure(self, failure: Failure) {
        match self {
            Self::Text => files::tell(&crate::text(failure)),
            Self::Json => {
                let (message, hint) = failure.into_parts();
                write_line("error", &message.to_string(), hint.map(|hint| hint.to_string()).as_deref());
            }
        }
    }
}

/// A JSON object on a line of its own.
fn write_line(level: &str, message: &str, hint: Option<&str>) {
    let mut line = serde_json::json!({"level": level, "message": message, "time": servecast_live::now()});
    if let Some(hint) = hint {
        line["hint"] = hint.into();
    }
    note(&line.to_string());
}

impl ServeArgs {
    /// The deployment, as a replay by the clock has it.
    fn plan(&self) -> Result<Plan, Failure> {
        let given = self.clone();
        let trace = TraceConfig {
            replay_mode: Some(ReplayMode::Online),
            speed: given.speed,
            seed: given.seed,
            ..TraceConfig::default()
        };
        let (deployment, engine, sglang) = (given.deployment, given.engine, given.sglang);
        let replay = ReplayArgs {
            config: ReplayConfig { trace, deployment, engine, sglang, ..ReplayConfig::default() },
            besides: given.besides,
        };
        let plan = Plan::new(replay.over(Layers::default().with_flag("host", ENGINE_HOST))?)?;
        check(&plan)?;
        Ok(plan)
    }
}

/// Refuses settings of what a server does not have: a load of its own, and results.
fn check(plan: &Plan) -> Result<(), Failure> {
    let config = &plan.config;
    let refused = |what: Message| {
        Err(plan.layers.refused(message!("{} for a replay: a server has the load of its clients", what)))
    };
    match &plan.source {
        Source::Trace { .. } => return refused(message!("{trace_file} is a load")),
        Source::Synthetic { .. } => return refused(message!("{input_tokens} and the like are a load")),
        Source::Sample { .. } if !plan.source.is_as_written() => {
            return refused(message!("what is made of a load, as {--request_rate},"));
        }
        Source::Sample { .. } => {}
    }
    if config.trace.replay_concurrency.is_some() {
        return refused(message!("{replay_concurrency} is the load"));
    }
    if config.deployment.router_session_affinity_ttl_secs.is_some() {
        return Err(plan.layers.refused(message!(
            "{router_session_affinity_ttl_secs} is for a replay: what clients send to a server has no sessions"
        )));
    }
    if let Some(key) = config.output.result() {
        return Err(plan.layers.refused(message!(
            "{} names a result of a replay, which a server does not have",
            Message::key(key)
        )));
    }
    Ok(())
}

/// The flags of the command: what takes time on the host beside the GPU has another name, since --host is the address.
pub(crate) fn flags(command: Command) -> Command {
    command.mut_arg("host", |arg| arg.long(ENGINE_HOST.trim_start_matches('-')))
}

/// The flag of what takes time on the host.
const ENGINE_HOST: &str = "--engine-host";

/// The port of a deployment, unless somebody says otherwise.
const DEFAULT_PORT: u16 = 8000;

/// Refuses ports of workers that there cannot be.
fn check_workers(args: &ServeArgs, port: Option<u16>, plan: &Plan) -> Result<(), Failure> {
    let Some(first) = args.worker_port else { return Ok(()) };
    let [_] = plan.pools[..] else {
        return Err(plan.layers.refused(message!(
            "{--worker_port} is for aggregated deployments: of a split one, no worker serves a request by itself"
        )));
    };
    let workers: u32 = plan.topology.groups().map(|(_, workers, _)| workers).sum();
    let last = u32::from(first) + workers - 1;
    if first != 0 && last > u32::from(u16::MAX) {
        return Err(Failure::user(message!(
            "{--worker_port} is {}, so that the last of {} workers has port {}, but the largest is {}",
            u32::from(first),
            workers,
            last,
            u32::from(u16::MAX)
        )));
    }
    if let Some(port) = port.filter(|&port| port != 0 && (u32::from(first)..=last).contains(&u32::from(port)))
    {
        return Err(Failure::user(message!(
            "{--port} is {}, which is the port of a worker, too: with {--worker_port} {} they have {} to {}",
            u32::from(port),
            u32::from(first),
            u32::from(first),
            last
        )));
    }
    Ok(())
}

impl From<LogForm> for LogFormat {
    fn from(form: LogForm) -> Self {
        match form {
            LogForm::Text => Self::Text,
            LogForm::Json => Self::Json,
        }
    }
}

/// Whose API clients find: that of the engines, which is vLLM's for those without one of their own.
fn dialect<'a>(engines: impl Iterator<Item = &'a EngineArgs>) -> Dialect {
    let mut engines = engines.peekable();
    let is_sglang =
        engines.peek().is_some() && engines.all(|engine| engine.engine_type == EngineType::Sglang);
    if is_sglang { Dialect::Sglang } else { Dialect::Vllm }
}

/// Tokens of a sequence that the model of an engine is published for, if that is known.
fn context(engine: &EngineArgs) -> Option<u32> {
    latency::context(&engine.latency_spec().ok()?)
}

/// The engines of all pools.
fn engines(plan: &Plan) -> impl Iterator<Item = &EngineArgs> {
    plan.pools.iter().flat_map(|pool| pool.groups.iter().map(|(_, engine)| engine))
}

/// How long a sequence may be, and what to say where the KV cache of a worker holds less.
fn max_model_len(plan: &Plan) -> (Option<u32>, Option<String>) {
    let given = engines(plan).filter_map(|engine| engine.max_model_len).min();
    let of_all = engines(plan).filter_map(|engine| engine.max_model_len.or_else(|| context(engine)));
    let Some(tokens) = of_all.min() else {
        return (None, None);
    };
    let note =
        too_long(tokens, least_capacity(&plan.topology), given == Some(tokens), dialect(engines(plan)));
    (Some(tokens), note)
}

/// Says that the KV cache of a worker holds less than a sequence of so many tokens, if so.
fn too_long(tokens: u32, capacity: u32, is_given: bool, dialect: Dialect) -> Option<String> {
    let whose = if is_given { "--max-model-len says" } else { "the model is made for" };
    let remedy = match dialect {
        Dialect::Vllm => format!(": vLLM would not start, but with --max-model-len {capacity}"),
        Dialect::Sglang => String::new(),
    };
    (tokens > capacity).then(|| {
        format!(
            "prompt and answer have {capacity} tokens at most, which is what the KV cache of a worker holds, and not the \
             {tokens} that {whose}{remedy}"
        )
    })
}

impl ServeArgs {
    /// Says why it ended.
    pub(crate) fn tell_failure(&self, failure: Failure) {
        self.log.tell_failure(failure);
    }
}

/// What to do about an address that cannot be had.
fn other_address(reason: std::io::ErrorKind) -> Message {
    match reason {
        std::io::ErrorKind::AddrNotAvailable => {
            message!("{--host} is an address of this machine, 0.0.0.0 all of them")
        }
        std::io::ErrorKind::PermissionDenied => {
            message!("ports below 1024 are for administrators: {--port} names another one")
        }
        _ => message!(
            "{--port}, {--worker_port}, {--admin_port} and {--kv_events_config} name others, {--port} 0 any that is free"
        ),
    }
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let plan = args.plan()?;
    let output_length = args.answers.length()?;
    let output = args.answers.output()?;
    let tokenizer = args.answers.tokenizer()?;
    if !args.quiet {
        plan.derived.iter().for_each(|derived| args.log.tell_note(derived));
        let mut groups = plan.pools.iter().flat_map(|pool| &pool.groups);
        let compiles = groups.any(|(_, args)| args.grammar_compile_ms.is_some());
        let of_rows = compiles.then(|| {
            message!(
                "{grammar_compile_ms} is for rows of a trace that name a `grammar`: a server compiles none"
            )
        });
        for reason in unused(plan.unused.iter().cloned().chain(of_rows)) {
            args.log.tell_note(&reason);
        }
    }
    let port = args.port.or_else(|| args.worker_port.is_none().then_some(DEFAULT_PORT));
    check_workers(args, port, &plan)?;
    if args.api_key.as_deref() == Some("") {
        return Err(Failure::user(message!("{--api_key} is empty: leave it out to ask for no key")));
    }
    let kv_events = args.kv_events.config()?;
    let startup = args.faults.startup()?;
    let record = args.record.as_deref().map(|path| {
        files::check_output(path)?;
        File::create(path).map_err(|error| Failure::write(crate::error::quoted(path), &error))
    });
    let record = record.transpose()?;
    let model = args.served_model_name.clone().or_else(|| plan.config.engine.model.clone());
    let model = model.unwrap_or_else(|| "servecast".to_owned());
    let (max_model_len, note) = max_model_len(&plan);
    if let Some(note) = note.filter(|_| !args.quiet) {
        args.log.tell_note(&note);
    }
    let options = ServeOptions {
        address: port.map(|port| SocketAddr::new(args.address, port)),
        workers: args.worker_port.map(|port| SocketAddr::new(args.address, port)),
        model: model.clone(),
        max_model_len,
        prefix_caching: engines(&plan).all(|engine| engine.enable_prefix_caching),
        tokenizer,
        output,
        output_length,
        speed: plan.online.unwrap_or(1.0),
        api_key: args.api_key.clone(),
        dev_mode: args.server_dev_mode,
        timeouts: Timeouts::default(),
        configuration: resolved(&plan, &TraceNotes::default())?,
        record: record.map(|file| Box::new(file) as _),
        kv_events,
        faults: args.faults.faults(),
        startup,
        admin: args.faults.admin(args.address),
        options: plan.options(),
        topology: plan.topology.clone(),
        dialect: dialect(engines(&plan)),
        log: args.log_requests.then(|| RequestLog::new(args.log.into(), Box::new(std::io::stderr()))),
    };
    let (quiet, log) = (args.quiet, args.log);
    let has_admin = options.admin.is_some();
    let ready = move |ports: &[SocketAddr]| {
        if quiet {
            return;
        }
        let mut ports = ports.iter();
        if has_admin && let Some(address) = ports.next_back() {
            log.tell(&format!("workers are listed, failed and started at http://{address}/workers"));
        }
        if port.is_some()
            && let Some(address) = ports.next()
        {
            log.tell(&format!("serving {} at http://{address}/v1", printable(&model)));
        }
        for (worker, address) in ports.enumerate() {
            log.tell(&format!("serving {} on worker {worker} at http://{address}/v1", printable(&model)));
        }
    };
    serve(options, ready, told_to_stop()).map_err(|error| {
        let message = chain(&error);
        match error {
            ServeError::Listen { source, .. } => {
                Failure::user(message).with_hint(other_address(source.kind()))
            }
            ServeError::KvEvents(_) => Failure::user(message!("{--kv_events_config}: {}", message)),
            _ => Failure::run(message),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_too_little_memory_is_told_what_fits() {
        let note = |is_given, dialect| too_long(131_072, 16_000, is_given, dialect).unwrap();
        assert_eq!(
            note(true, Dialect::Vllm),
            "prompt and answer have 16000 tokens at most, which is what the KV cache of a worker holds, and not the 131072 \
             that --max-model-len says: vLLM would not start, but with --max-model-len 16000"
        );
        assert!(note(false, Dialect::Sglang).ends_with("and not the 131072 that the model is made for"));
        assert_eq!(too_long(16_000, 16_000, true, Dialect::Vllm), None);
    }
}
