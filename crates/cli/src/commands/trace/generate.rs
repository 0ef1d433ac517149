//! `servecast trace generate`: writes a synthetic workload, the sample, or a load like that of a trace, as a trace.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use servecast_workload::{
    ClientMix, SAMPLE_BLOCK_SIZE, TraceRow, generate, resembling, sample_chat_sessions,
};

use super::convert::TOKENS_PER_BLOCK;
use super::input::{InputForm, workload};
use super::output;
use crate::config::{
    DEFAULT_SEED, DEFAULT_TRACE_BLOCK_SIZE, Layers, ReplayConfig, SyntheticConfig, TraceConfig,
};
use servecast_types::{Message, message};

use crate::error::{Failure, quoted};
use crate::files::{self, note};
use crate::interrupt::Interrupt;
use crate::source::{Source, first_synthetic_key};

/// Write a synthetic workload, or more of a trace without its content, as Mooncake JSON Lines
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    synthetic: SyntheticConfig,
    /// Make a load that resembles this trace (docs/traces.md), with as many requests or --request-count of them
    ///
    /// Arrivals, lengths and what prompts share are those of the trace but for --seed; its content and its names are not
    /// in it. The options below say how the trace is read.
    #[arg(long, help_heading = None::<&str>, value_name = "TRACE", value_hint = ValueHint::FilePath)]
    like: Option<PathBuf>,
    /// Make a load that several kinds of clients make together, with --request-count sessions: a TOML file (docs/traces.md)
    #[arg(long, help_heading = None::<&str>, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["like", "sample"])]
    clients: Option<PathBuf>,
    #[command(flatten)]
    form: InputForm,
    /// Root of all random numbers
    #[arg(long, help_heading = None::<&str>, value_name = "N")]
    seed: Option<u64>,
    /// Write the built-in sample of chat sessions instead, with 64 tokens a hash id
    #[arg(long, help_heading = None::<&str>)]
    sample: bool,
    /// File to write, packed if named .gz or .zst; `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath, help_heading = None::<&str>)]
    output: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    if !files::is_standard_stream(&args.output) {
        files::check_output(&args.output)?;
    }
    let interrupt = Interrupt::install()?;
    let (rows, block_size) = rows(args)?;
    output::write(&rows, block_size, &args.output, &interrupt)
}

/// The requests, and how many tokens a hash id stands for.
fn rows(args: &GenerateArgs) -> Result<(Vec<TraceRow>, u32), Failure> {
    if let Some(path) = &args.like {
        return like(args, path);
    }
    if let Some(path) = &args.clients {
        return of_clients(args, path);
    }
    if let Some(key) = args.form.first_key() {
        let message = message!("{} says how a trace is read, but there is none", Message::flag(key));
        return Err(Failure::user(message).with_hint("--like TRACE makes more of a trace"));
    }
    if args.sample {
        let given = args.form.trace_block_size.map(|_| "trace_block_size");
        return match given.or(first_synthetic_key(&args.synthetic)) {
            Some(key) => Err(Failure::user(message!("{} has no effect on the sample", Message::flag(key)))
                .with_hint("leave it or --sample out")),
            None => Ok((sample_chat_sessions(args.seed.unwrap_or(DEFAULT_SEED)), SAMPLE_BLOCK_SIZE)),
        };
    }
    let config = ReplayConfig {
        trace: TraceConfig { seed: args.seed, ..TraceConfig::default() },
        synthetic: args.synthetic.clone(),
        ..ReplayConfig::default()
    };
    let mut layers = Layers::default();
    layers.add_flags(&config)?;
    let Source::Synthetic { mut spec, .. } = Source::of(&config, &layers)? else {
        return Err(Failure::user("nothing says what to generate").with_hint(
            "describe a workload with --input-tokens, --output-tokens and --request-count, or give --like TRACE, --clients FILE or --sample",
        ));
    };
    spec.trace_block_size = args.form.trace_block_size.unwrap_or(DEFAULT_TRACE_BLOCK_SIZE);
    let rows = generate(&spec).map_err(|error| layers.refused(error))?;
    Ok((rows, spec.trace_block_size))
}

/// Requests like those of a trace.
fn like(args: &GenerateArgs, path: &Path) -> Result<(Vec<TraceRow>, u32), Failure> {
    let others = SyntheticConfig { request_count: None, ..args.synthetic.clone() };
    if args.sample || first_synthetic_key(&others).is_some() {
        let what = first_synthetic_key(&others).map_or_else(|| "--sample".into(), Message::flag);
        return Err(Failure::user(message!(
            "{} cannot be combined with --like, which goes by a trace",
            what
        ))
        .with_hint("leave one of the two out"));
    }
    if args.synthetic.request_count == Some(0) {
        return Err(Failure::user(message!("{request_count} is 0, but must be at least 1")));
    }
    let (trace, cut) = args.form.read(path)?;
    let (workload, load) = workload(path, &trace, cut)?;
    workload.notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    if workload.forks() {
        return Err(Failure::user(message!(
            "{}: requests wait for others than the one before them in their session (`wait_for`, `branches`), which \
             --like does not make more of",
            path.display().to_string()
        ))
        .with_hint("`servecast replay --repeat N` sends such a trace again"));
    }
    let block_size = if trace.token_ids { TOKENS_PER_BLOCK } else { cut.block_size };
    let requests = args.synthetic.request_count.map_or(workload.requests(), |count| count as usize);
    if requests > MOST_REQUESTS {
        return Err(Failure::user(message!(
            "{request_count} is {}, but must be at most {}",
            requests,
            MOST_REQUESTS
        )));
    }
    let rows = resembling(&workload, block_size, load, requests, args.seed.unwrap_or(DEFAULT_SEED));
    Ok((rows, block_size))
}

/// Requests of several kinds of clients.
fn of_clients(args: &GenerateArgs, path: &Path) -> Result<(Vec<TraceRow>, u32), Failure> {
    let others = SyntheticConfig { request_count: None, ..args.synthetic.clone() };
    if let Some(key) = first_synthetic_key(&others) {
        return Err(Failure::user(message!(
            "{} cannot be combined with --clients, whose file says it of each client",
            Message::flag(key)
        ))
        .with_hint("leave one of the two out"));
    }
    let sessions = args.synthetic.request_count.unwrap_or(0);
    if !(1..=MOST_REQUESTS as u64).contains(&sessions) {
        return Err(Failure::user(message!(
            "{request_count} says how many sessions the clients begin, and must be from 1 to {} with --clients",
            MOST_REQUESTS
        )));
    }
    let block_size = args.form.trace_block_size.unwrap_or(DEFAULT_TRACE_BLOCK_SIZE);
    if block_size == 0 {
        return Err(Failure::user(message!(
            "{trace_block_size} is 0, but every hash id must stand for at least 1 token"
        )));
    }
    let about = |problem: Message| Failure::user(problem).about(quoted(path));
    let mix: ClientMix = files::read_toml(path)?;
    mix.validate().map_err(about)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let lengths = mix.client.iter().map(|client| match &client.lengths_of {
        Some(trace) => lengths_of(args, &folder.join(trace)),
        None => Ok(Vec::new()),
    });
    let lengths = lengths.collect::<Result<Vec<_>, _>>()?;
    let seed = args.seed.unwrap_or(DEFAULT_SEED);
    let rows = mix.generate(&lengths, sessions, block_size, seed).map_err(about)?;
    Ok((rows, block_size))
}

/// The prompt and output lengths of a trace.
fn lengths_of(args: &GenerateArgs, path: &Path) -> Result<Vec<(u64, u64)>, Failure> {
    let (trace, cut) = args.form.without_block_size().read(path)?;
    let (workload, _) = workload(path, &trace, cut)?;
    let lengths = workload.turns().map(|turn| (turn.prompt.tokens().into(), turn.generated().into()));
    Ok(lengths.collect())
}

/// As many as a synthetic workload may have.
const MOST_REQUESTS: usize = 10_000_000;
