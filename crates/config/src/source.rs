//! From settings to a workload: a trace, a synthetic workload, or the built-in sample.

mod rows;
mod shape;
mod tokenizer;

use std::io::BufRead;
use std::path::{Path, PathBuf};

use servecast_workload::{
    Cut, Load, SAMPLE_BLOCK_SIZE, Shape, StreamOptions, SyntheticError, SyntheticSpec, Trace, TraceError,
    TraceForm, TraceStream, Turns, Workload, generate, sample_chat_sessions,
};

use servecast_types::{Duration, Message, message};

use crate::error::Failure;
use crate::files;
use crate::lines::LongLine;
use crate::settings::{
    DEFAULT_SEED, DEFAULT_SORT_WINDOW_S, DEFAULT_TRACE_BLOCK_SIZE, Layers, ReplayConfig, SyntheticConfig,
    TraceConfig,
};

pub use rows::LoadRows;

/// How a trace is to be read, as far as somebody says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// Tokens that a hash id stands for.
    pub block_size: Option<u32>,
    /// Unit of its times, and columns of a table; without a tokenizer.
    pub form: TraceForm,
    /// What rows of sessions hold.
    pub turns: Option<Turns>,
    /// The `tokenizer.json` by which texts are cut into tokens, or a folder with one.
    pub tokenizer: Option<PathBuf>,
}

impl Reading {
    /// The form, with the tokenizer, which is read for that.
    ///
    /// # Errors
    /// If it cannot be read or is none.
    pub fn form(&self) -> Result<TraceForm, Failure> {
        let tokenizer = self.tokenizer.as_deref().map(tokenizer::load).transpose()?;
        Ok(TraceForm { tokenizer, ..self.form.clone() })
    }

    /// The file of the tokenizer, if there is one.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        self.tokenizer.as_deref().map(tokenizer::file)
    }

    /// What the rows of `trace` stand for.
    pub fn cut(&self, trace: &Trace) -> Cut {
        let known = trace.stated_block_size.or(trace.block_size);
        let block_size = self.block_size.or(known).unwrap_or(DEFAULT_TRACE_BLOCK_SIZE);
        let turns = self.turns.or(trace.turns).unwrap_or_default();
        Cut { block_size, turns, max_requests: None }
    }
}

/// Where the requests of a replay come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A trace.
    Trace {
        /// Its file, `-` for standard input.
        path: PathBuf,
        /// Traces that are sent at the same time.
        merged: Vec<PathBuf>,
        /// How they are read.
        reading: Reading,
        /// What is made of it.
        shape: Shape,
    },
    /// A synthetic workload, cut into blocks of so many tokens, or of the engine's.
    Synthetic {
        /// What it is like; its block size is that below.
        spec: SyntheticSpec,
        /// Tokens a block.
        block_size: Option<u32>,
        /// What is made of it.
        shape: Shape,
    },
    /// The built-in sample.
    Sample {
        /// The root of its random numbers.
        seed: u64,
        /// What is made of it.
        shape: Shape,
    },
}

impl Source {
    /// What the settings ask for.
    pub fn of(config: &ReplayConfig, layers: &Layers) -> Result<Self, Failure> {
        let TraceConfig {
            trace_file,
            trace_block_size,
            trace_format,
            time_unit,
            columns,
            turns,
            tokenizer,
            seed,
            ..
        } = &config.trace;
        if *trace_block_size == Some(0) {
            return Err(layers.refused(&TraceError::BlockSize));
        }
        let shape = shape::of(config, layers)?;
        let synthetic = first_synthetic_key(&config.synthetic);
        match (trace_file, synthetic) {
            (Some(_), Some(key)) => Err(layers
                .refused(message!(
                    "{trace_file} and {} cannot be combined: replay a trace or a synthetic workload",
                    Message::key(key)
                ))
                .with_hint("a trace says itself when its requests arrive and how long they are")),
            (Some(path), None) => {
                let columns = columns.as_deref().map(str::parse).transpose();
                let columns =
                    columns.map_err(|problem: String| layers.refused(message!("{columns} {}", problem)))?;
                if columns.is_some() && trace_format.is_some() {
                    return Err(layers.refused(message!(
                        "{columns} and {trace_format} cannot be combined: columns are those of a form without a name"
                    )));
                }
                let form =
                    TraceForm { unit: *time_unit, columns, format: *trace_format, ..TraceForm::default() };
                let reading = Reading {
                    block_size: *trace_block_size,
                    form,
                    turns: *turns,
                    tokenizer: tokenizer.clone(),
                };
                let merged = config.trace.merge.clone().unwrap_or_default();
                Ok(Self::Trace { path: path.clone(), merged, reading, shape })
            }
            (None, _) if let Some(key) = key_of_traces(&config.trace) => Err(layers
                .refused(message!("{} says how a trace is read, but there is none", Message::key(key)))
                .with_hint("name a TRACE")),
            (None, _) if config.trace.merge.is_some() => Err(layers
                .refused(message!("{merge} is sent beside a trace, but there is none"))
                .with_hint("name a TRACE")),
            (None, Some(key)) => {
                shape::refuse_two_arrivals(config, layers)?;
                Ok(Self::Synthetic {
                    spec: synthetic_spec(config, key).map_err(|problem| layers.refused(problem))?,
                    block_size: *trace_block_size,
                    shape,
                })
            }
            (None, None) if trace_block_size.is_some() => Err(layers
                .refused(message!("{trace_block_size} has no effect on the built-in sample"))
                .with_hint(trace_or_synthetic())),
            (None, None) => Ok(Self::Sample { seed: seed.unwrap_or(DEFAULT_SEED), shape }),
        }
    }

    /// What it is called, wherever it lies.
    pub fn name(&self) -> String {
        match self {
            Self::Trace { path, merged, .. } => {
                let name = |path: &PathBuf| match path.file_name() {
                    _ if files::is_standard_stream(path) => "a trace from standard input".to_owned(),
                    name => name.unwrap_or_default().to_string_lossy().into_owned(),
                };
                std::iter::once(path).chain(merged).map(name).collect::<Vec<_>>().join(" + ")
            }
            Self::Synthetic { .. } => "a synthetic workload".to_owned(),
            Self::Sample { .. } => "the built-in sample".to_owned(),
        }
    }

    /// Refuses a synthetic workload that cannot be made.
    pub fn check(&self, engine_block_size: u32, layers: &Layers) -> Result<(), Failure> {
        let Self::Synthetic { spec, block_size, .. } = self else { return Ok(()) };
        let spec =
            SyntheticSpec { trace_block_size: block_size.unwrap_or(engine_block_size), ..spec.clone() };
        spec.validate().map_err(|error| layers.refused(error))
    }

    /// Reads or makes the workload.
    pub fn load(&self, load: Load, engine_block_size: u32, layers: &Layers) -> Result<Workload, Failure> {
        self.rows(engine_block_size, layers)?.into_workload(load, layers)
    }

    /// Reads or makes the rows of the workload.
    pub fn rows(&self, engine_block_size: u32, layers: &Layers) -> Result<LoadRows, Failure> {
        Ok(match self {
            Self::Trace { path, reading, .. } => {
                self.with_trace(path, read_trace(path, &reading.form()?)?, layers)?
            }
            Self::Synthetic { spec, block_size, shape } => {
                let trace_block_size = block_size.unwrap_or(engine_block_size);
                let spec = SyntheticSpec { trace_block_size, ..spec.clone() };
                let rows = generate(&spec).map_err(|error: SyntheticError| layers.refused(error))?;
                LoadRows::made(rows, trace_block_size, shape.clone())
            }
            Self::Sample { seed, shape } => {
                LoadRows::made(sample_chat_sessions(*seed), SAMPLE_BLOCK_SIZE, shape.clone())
            }
        })
    }

    /// The rows of the workload with a trace that was read already, by the name of `path`.
    ///
    /// # Panics
    /// If it is not the source of a trace.
    pub fn with_trace(&self, path: &Path, trace: Trace, layers: &Layers) -> Result<LoadRows, Failure> {
        let Self::Trace { merged, reading, shape, .. } = self else { unreachable!("its trace was read") };
        let cut = reading.cut(&trace);
        let mut rows = LoadRows::of_trace(path, trace, cut, shape.clone());
        for (path, number) in merged.iter().zip(2..) {
            rows.merge(path, reading, number, layers)?;
        }
        Ok(rows)
    }

    /// The requests of the trace as they are read, at their times.
    ///
    /// # Panics
    /// If it is not the source of a trace.
    pub fn stream(
        &self,
        ratio: f64,
        sort_window: Duration,
    ) -> Result<TraceStream<Box<dyn BufRead>>, Failure> {
        let Self::Trace { path, reading, shape, .. } = self else { unreachable!("a trace is streamed") };
        let options =
            StreamOptions { arrival_speedup_ratio: ratio, max_requests: shape.max_requests, sort_window };
        TraceStream::new(files::open(path)?, &reading.form()?, |trace| reading.cut(trace), options)
            .map_err(|error| self.not_streamed(&error))
    }

    /// Why a trace cannot be used as it is read.
    ///
    /// # Panics
    /// If it is not the source of a trace.
    pub fn not_streamed(&self, error: &TraceError) -> Failure {
        let Self::Trace { path, .. } = self else { unreachable!("a trace is streamed") };
        let failure = unusable_trace(path, error);
        if error.is_of_streaming() {
            return failure.with_hint(message!("leave {--stream} out: all of the trace is read then"));
        }
        failure
    }

    /// What is made of the load.
    pub fn shape(&self) -> &Shape {
        match self {
            Self::Trace { shape, .. } | Self::Synthetic { shape, .. } | Self::Sample { shape, .. } => shape,
        }
    }

    /// Whether its requests are those of one trace or generator, in its rows and at its times.
    pub fn is_as_written(&self) -> bool {
        self.shape().is_plain() && !matches!(self, Self::Trace { merged, .. } if !merged.is_empty())
    }
}

/// The first given setting of how traces are read.
fn key_of_traces(given: &TraceConfig) -> Option<&'static str> {
    [
        ("trace_format", given.trace_format.is_some()),
        ("time_unit", given.time_unit.is_some()),
        ("columns", given.columns.is_some()),
        ("turns", given.turns.is_some()),
        ("tokenizer", given.tokenizer.is_some()),
    ]
    .into_iter()
    .find_map(|(key, is_given)| is_given.then_some(key))
}

/// What a user can do who gave neither.
fn trace_or_synthetic() -> Message {
    message!(
        "name a TRACE, or describe a workload with {--input_tokens}, {--output_tokens} and {--request_count}"
    )
}

/// How long a row of a streamed trace may come before one above it.
pub fn sort_window(seconds: Option<f64>) -> Result<Duration, Message> {
    let seconds = seconds.unwrap_or(DEFAULT_SORT_WINDOW_S);
    let window = Some(seconds).filter(|seconds| *seconds >= 0.0);
    window
        .and_then(|seconds| Duration::from_ms(seconds * 1e3).ok())
        .ok_or_else(|| message!("{--sort_window} is {}, but must be a number of seconds from 0 on", seconds))
}

/// Reads a trace.
pub fn read_trace(path: &Path, form: &TraceForm) -> Result<Trace, Failure> {
    servecast_workload::read_trace(files::open(path)?, form).map_err(|error| unusable_trace(path, &error))
}

/// A trace that cannot be replayed, by its name.
pub fn unusable_trace(path: &Path, error: &TraceError) -> Failure {
    if let TraceError::Read { source, .. } = error
        && source.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<LongLine>)
    {
        return Failure::input(source).about(files::input_name(path));
    }
    let failure = match error {
        TraceError::BlockSize
        | TraceError::OtherBlockSize { .. }
        | TraceError::SpeedupRatio { .. }
        | TraceError::NoTexts
        | TraceError::OtherFormat { .. } => Failure::user(error),
        error => Failure::input(error),
    };
    let failure = failure.about(files::input_name(path));
    match error {
        TraceError::OtherFormat { format } => match format.instead_of_a_trace() {
            Some(instead) => failure.with_hint(instead),
            None => failure,
        },
        TraceError::BlockCount { .. } => {
            failure.with_hint(message!("{--trace_block_size} says how many tokens a hash id stands for"))
        }
        TraceError::NoColumn { .. } | TraceError::NotJson { line: 1, column: 1, .. } => failure.with_hint(message!(
            "{--columns} time=NAME,input=NAME,output=NAME says which columns of a table have the times, prompt tokens and \
             output tokens of requests"
        )),
        TraceError::NoTimestamp { .. } => failure.with_hint(message!(
            "{--replay_concurrency} N replays sessions in a closed loop, without timestamps; {--request_rate} R has R of \
             them arrive in a second"
        )),
        _ => failure,
    }
}

/// The first given setting of a synthetic workload.
pub fn first_synthetic_key(config: &SyntheticConfig) -> Option<&'static str> {
    let SyntheticConfig {
        input_tokens,
        output_tokens,
        request_count,
        arrival_interval_ms,
        arrival_process,
        turns_per_session,
        inter_turn_delay_ms,
        shared_prefix_ratio,
        num_prefix_groups,
        length_distribution,
        length_spread,
    } = config;
    [
        ("input_tokens", input_tokens.is_some()),
        ("output_tokens", output_tokens.is_some()),
        ("request_count", request_count.is_some()),
        ("arrival_interval_ms", arrival_interval_ms.is_some()),
        ("arrival_process", arrival_process.is_some()),
        ("turns_per_session", turns_per_session.is_some()),
        ("inter_turn_delay_ms", inter_turn_delay_ms.is_some()),
        ("shared_prefix_ratio", shared_prefix_ratio.is_some()),
        ("num_prefix_groups", num_prefix_groups.is_some()),
        ("length_distribution", length_distribution.is_some()),
        ("length_spread", length_spread.is_some()),
    ]
    .into_iter()
    .find_map(|(key, is_given)| is_given.then_some(key))
}

/// The synthetic workload of which `key` is a setting, or what is missing of it.
fn synthetic_spec(config: &ReplayConfig, key: &str) -> Result<SyntheticSpec, Message> {
    let given = &config.synthetic;
    let (Some(input_tokens), Some(output_tokens), Some(request_count)) =
        (given.input_tokens, given.output_tokens, given.request_count)
    else {
        let missing: Vec<Message> = [
            ("input_tokens", given.input_tokens),
            ("output_tokens", given.output_tokens),
            ("request_count", given.request_count),
        ]
        .into_iter()
        .filter(|(_, value)| value.is_none())
        .map(|(key, _)| Message::flag(key))
        .collect();
        let is = if missing.len() == 1 { "is" } else { "are" };
        return Err(message!(
            "{} asks for a synthetic workload, but {} {} missing",
            Message::key(key),
            Message::joined(missing, ", "),
            is
        ));
    };
    let defaults = SyntheticSpec::new(input_tokens, output_tokens, request_count);
    Ok(SyntheticSpec {
        arrival_interval_ms: given.arrival_interval_ms.unwrap_or(defaults.arrival_interval_ms),
        arrival_process: given.arrival_process.unwrap_or(defaults.arrival_process),
        turns_per_session: given.turns_per_session.unwrap_or(defaults.turns_per_session),
        inter_turn_delay_ms: given.inter_turn_delay_ms.unwrap_or(defaults.inter_turn_delay_ms),
        shared_prefix_ratio: given.shared_prefix_ratio.unwrap_or(defaults.shared_prefix_ratio),
        num_prefix_groups: given.num_prefix_groups.unwrap_or(defaults.num_prefix_groups),
        length_distribution: given.length_distribution.unwrap_or(defaults.length_distribution),
        length_spread: given.length_spread.unwrap_or(defaults.length_spread),
        seed: config.trace.seed.unwrap_or(DEFAULT_SEED),
        ..defaults
    })
}
