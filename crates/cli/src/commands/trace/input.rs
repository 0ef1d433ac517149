//! The trace that a command looks at.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use servecast_workload::{
    Columns, Cut, Load, StreamOptions, TimeUnit, Trace, TraceError, TraceForm, TraceFormat, TraceStream,
    Turns, Workload,
};

use crate::config::{TIME_UNITS, TRACE_FORMATS, TURNS, choice};
use crate::error::Failure;
use crate::files::{self, note};
use crate::source::{Reading, read_trace, unusable_trace};

/// A trace as it is read, and what a hash id of its rows stands for.
pub(super) type Streamed = (TraceStream<Box<dyn BufRead>>, u32);

/// A file, and how it is read.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TraceInput {
    /// Trace of any form (docs/traces.md); plain, gzip or Zstandard; `-` for standard input
    #[arg(value_name = "TRACE", value_hint = ValueHint::FilePath)]
    pub(super) trace_file: PathBuf,
    #[command(flatten)]
    pub(super) form: InputForm,
}

/// How a trace is read.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = None::<&str>)]
pub(super) struct InputForm {
    /// Tokens that one hash id stands for, and that a block has when prefix reuse is counted [default: 512]
    #[arg(long, value_name = "TOKENS")]
    pub(super) trace_block_size: Option<u32>,
    /// What the trace is, if its content is not to tell
    #[arg(long, value_name = "FORMAT", value_parser = choice::<TraceFormat>("trace_format", TRACE_FORMATS))]
    trace_format: Option<TraceFormat>,
    /// Unit of timestamps and delays; without it that of the format, or what they are beyond doubt
    #[arg(long, value_name = "UNIT", value_parser = choice::<TimeUnit>("time_unit", TIME_UNITS))]
    time_unit: Option<TimeUnit>,
    /// Columns of a table of requests, as `time=arrived,input=prompt_tokens,output=completion_tokens`
    #[arg(long, value_name = "time=,input=,output=", conflicts_with = "trace_format")]
    columns: Option<Columns>,
    /// What the rows of a session hold: the whole prompt of a turn, or what is new in it (delta) [default: whole]
    #[arg(long, value_name = "WHAT", value_parser = choice::<Turns>("turns", TURNS))]
    turns: Option<Turns>,
    /// Cut the texts of a trace by this tokenizer.json of a model, or the one in this folder; else a token is 4 characters
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    tokenizer: Option<PathBuf>,
}

impl InputForm {
    /// The same of a trace whose ids stand for what its form says.
    pub(super) fn without_block_size(&self) -> Self {
        Self { trace_block_size: None, ..self.clone() }
    }
}

impl TraceInput {
    /// The trace, and what its rows stand for.
    pub(super) fn read(&self) -> Result<(Trace, Cut), Failure> {
        self.form.read(&self.trace_file)
    }

    /// The trace as it is read, and what a hash id of its rows stands for.
    pub(super) fn stream(&self, options: StreamOptions) -> Result<Result<Streamed, TraceError>, Failure> {
        let reading = self.form.reading()?;
        let mut block_size = 0;
        let cut = |trace: &Trace| {
            let cut = reading.cut(trace);
            block_size = cut.block_size;
            cut
        };
        let stream = TraceStream::new(files::open(&self.trace_file)?, &reading.form()?, cut, options);
        Ok(stream.map(|stream| (stream, block_size)))
    }

    /// Whether it cannot be read twice.
    pub(super) fn is_standard_input(&self) -> bool {
        files::is_standard_stream(&self.trace_file)
    }

    /// Why it cannot be used, by its name.
    pub(super) fn unusable(&self, error: &TraceError) -> Failure {
        unusable_trace(&self.trace_file, error)
    }

    /// The requests of the trace, at their times, or with a note in a closed loop if it has none.
    pub(super) fn workload(&self, trace: &Trace, cut: Cut) -> Result<(Workload, Load), Failure> {
        workload(&self.trace_file, trace, cut)
    }
}

impl InputForm {
    /// A trace, and what its rows stand for.
    pub(super) fn read(&self, path: &Path) -> Result<(Trace, Cut), Failure> {
        let reading = self.reading()?;
        let trace = read_trace(path, &reading.form()?)?;
        let cut = reading.cut(&trace);
        Ok((trace, cut))
    }

    /// The file of the tokenizer, which is read beside the trace.
    pub(super) fn tokenizer_file(&self) -> Option<PathBuf> {
        let reading = Reading { tokenizer: self.tokenizer.clone(), ..Reading::default() };
        reading.tokenizer_file()
    }

    fn reading(&self) -> Result<Reading, Failure> {
        if self.trace_block_size == Some(0) {
            return Err(Failure::user(TraceError::BlockSize));
        }
        let form = TraceForm {
            unit: self.time_unit,
            columns: self.columns.clone(),
            format: self.trace_format,
            ..TraceForm::default()
        };
        let tokenizer = self.tokenizer.clone();
        Ok(Reading { block_size: self.trace_block_size, form, turns: self.turns, tokenizer })
    }

    /// The first given key that is for reading alone.
    pub(super) fn first_key(&self) -> Option<&'static str> {
        [
            ("trace_format", self.trace_format.is_some()),
            ("time_unit", self.time_unit.is_some()),
            ("columns", self.columns.is_some()),
            ("turns", self.turns.is_some()),
            ("tokenizer", self.tokenizer.is_some()),
        ]
        .into_iter()
        .find_map(|(key, is_given)| is_given.then_some(key))
    }
}

/// The requests of a trace, at their times, or with a note in a closed loop if it has none.
pub(super) fn workload(path: &Path, trace: &Trace, cut: Cut) -> Result<(Workload, Load), Failure> {
    let open = Load::Open { arrival_speedup_ratio: 1.0 };
    let outcome = match trace.workload(cut, open) {
        Err(TraceError::NoTimestamp { .. }) => {
            note("note: sessions without a timestamp: their arrivals count as simultaneous");
            trace.workload(cut, Load::Closed).map(|workload| (workload, Load::Closed))
        }
        outcome => outcome.map(|workload| (workload, open)),
    };
    outcome.map_err(|error| unusable_trace(path, &error))
}
