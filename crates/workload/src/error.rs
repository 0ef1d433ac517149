//! Why a trace cannot be read or used.

use std::io;

use std::borrow::Cow;

use servecast_types::{Message, message, settings_error};

use crate::KnownFormat;

/// Why a trace cannot be replayed.
///
/// Lines count from 1 and include blank ones. Nothing of a trace is used once one of its rows is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The source failed while this line was read.
    #[error("line {line}: cannot read")]
    Read {
        /// The line.
        line: u64,
        /// What the source said.
        #[source]
        source: io::Error,
    },
    /// The first bytes are those of an archive or another binary format.
    #[error("line 1: this is {format}, not text: {remedy}")]
    NotText {
        /// The format that the bytes are known for.
        format: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The file is known to hold something else.
    #[error("the file holds {}, which cannot be replayed", format.name())]
    OtherFormat {
        /// What it is.
        format: KnownFormat,
    },
    /// The line holds bytes that are no UTF-8.
    #[error("line {line}: byte {byte} is not UTF-8: a trace is JSON Lines text in UTF-8")]
    NotUtf8 {
        /// The line.
        line: u64,
        /// The first such byte, from 1.
        byte: usize,
    },
    /// A table has no column of that name.
    #[error("line 1: there is no column `{column}`: the table has {found}")]
    NoColumn {
        /// The column that is needed.
        column: String,
        /// Those that there are.
        found: String,
    },
    /// The line is no JSON.
    #[error("line {line}, column {column}: not valid JSON: {problem}")]
    NotJson {
        /// The line.
        line: u64,
        /// The byte within the line, from 1.
        column: usize,
        /// What stands there and what should.
        problem: String,
    },
    /// The line is JSON, but no object.
    #[error(
        "line {line}: the row is {found}, but every line must be one JSON object such as {{\"timestamp\": 0, …}}"
    )]
    NotObject {
        /// The line.
        line: u64,
        /// What the line is instead.
        found: String,
    },
    /// A key occurs twice in one row.
    #[error("line {line}: `{key}` is given twice: keep one of them")]
    DuplicateKey {
        /// The line.
        line: u64,
        /// The key.
        key: &'static str,
    },
    /// A row has two keys that mean the same.
    #[error("line {line}: `{first}` and `{second}` mean the same: keep one of them")]
    BothNames {
        /// The line.
        line: u64,
        /// The usual name.
        first: &'static str,
        /// The other name.
        second: &'static str,
    },
    /// Some rows have token ids, others hash ids.
    #[error(
        "line {line}: the row has {}, but the rows before it have {}: keep them in files of their own",
        kind(!token_ids), kind(*token_ids)
    )]
    OtherKind {
        /// The line.
        line: u64,
        /// Whether the rows before it have token ids.
        token_ids: bool,
    },
    /// Some timestamps are dates, others numbers.
    #[error("line {line}: some timestamps are dates and others numbers: write all of them in one way")]
    MixedTimes {
        /// The line.
        line: u64,
    },
    /// Times since 1970 are in several units.
    #[error(
        "line {line}: by its size the timestamp is in another unit since 1970 than those before it: write all of them in one"
    )]
    MixedUnits {
        /// The line.
        line: u64,
    },
    /// The replies of a session make a prompt too long.
    #[error(
        "line {line}: with all that came before it in its session the prompt has {tokens} tokens, but must have a whole \
         number of tokens from 1 to {max}", max = crate::MAX_INPUT_TOKENS
    )]
    SessionTooLong {
        /// The line.
        line: u64,
        /// Tokens of the prompt.
        tokens: u64,
    },
    /// A key means nothing but looks like a misspelt one.
    #[error("line {line}: `{key}` is no known key: did you mean `{suggestion}`?")]
    MisspeltKey {
        /// The line.
        line: u64,
        /// The key as it stands there.
        key: String,
        /// The key that was probably meant.
        suggestion: &'static str,
    },
    /// A row lacks a key that it must have.
    #[error("line {line}: `{field}` is missing or null: give {expected}")]
    Missing {
        /// The line.
        line: u64,
        /// The key, with what leads to it within a row.
        field: Cow<'static, str>,
        /// What its value would be.
        expected: &'static str,
    },
    /// A value has the wrong type or lies outside its range.
    #[error("line {line}: `{field}` is {found}, but must be {expected}")]
    Value {
        /// The line.
        line: u64,
        /// The key, with an index within a list.
        field: String,
        /// The type of the value and its beginning.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// The prompt is longer than its blocks.
    #[error(
        "line {line}: `input_length` is {input_length}, but {hash_ids} `hash_ids` of {block_size} tokens cover only \
         {covered}: it needs {needed} of them, or another trace block size"
    )]
    BlockCount {
        /// The line.
        line: u64,
        /// Prompt length in tokens.
        input_length: u64,
        /// How many ids the row has.
        hash_ids: u64,
        /// Tokens per id.
        block_size: u32,
        /// Tokens that the ids stand for.
        covered: u64,
        /// How many ids the prompt needs.
        needed: u64,
    },
    /// Neither a length nor blocks: the prompt would be empty.
    #[error(
        "line {line}: `hash_ids` is empty and there is no `input_length`, but a prompt has at least 1 token"
    )]
    EmptyPrompt {
        /// The line.
        line: u64,
    },
    /// The first turn of a session waits for a turn before it.
    #[error(
        "line {line}: `delay` is {delay_ms} on the first turn of {session}, but a delay counts from the end of the \
         turn before: leave it out, or give 0"
    )]
    FirstTurnDelay {
        /// The line.
        line: u64,
        /// The delay in milliseconds.
        delay_ms: f64,
        /// The session in words.
        session: String,
    },
    /// Nothing says when a session starts, and the load is open.
    #[error(
        "line {line}: `timestamp` is missing on the first turn of {session}: an open-loop run needs the time in \
         milliseconds at which it arrives (a closed loop does not)"
    )]
    NoTimestamp {
        /// The line.
        line: u64,
        /// The session in words.
        session: String,
    },
    /// Two rows have the name of one request.
    #[error("line {line}: `request_id` is `{id}`, as in line {first}: give each request a name of its own")]
    SameRequest {
        /// The line.
        line: u64,
        /// The name.
        id: String,
        /// The line that has it already.
        first: u64,
    },
    /// A row names a request that is not in the file.
    #[error("line {line}: `{field}` names `{id}`, but no row has this `request_id`")]
    UnknownRequest {
        /// The line.
        line: u64,
        /// The key.
        field: &'static str,
        /// The name.
        id: String,
    },
    /// Requests wait for one another.
    #[error("line {line}: {cycle}: requests that wait for one another in a cycle are never sent")]
    CircularWait {
        /// The first line of the cycle.
        line: u64,
        /// The cycle in words.
        cycle: String,
    },
    /// The rows of a session hold what is new in a turn, but a turn waits for others than the one before it.
    #[error(
        "line {line}: the request waits for others than the one before it in its session, so that nobody can say what its \
         prompt goes on from: give whole prompts"
    )]
    DeltaGraph {
        /// The line.
        line: u64,
    },
    /// There are more classes than figures are told apart for.
    #[error(
        "line {line}: `class` is {class}, one more than the {most} that figures are told apart for: give \
         fewer, or leave `class` out"
    )]
    TooManyClasses {
        /// The line.
        line: u64,
        /// The class.
        class: String,
        /// The most classes.
        most: usize,
    },
    /// A time does not fit 64-bit nanoseconds once counted from the first arrival and divided by the speed-up.
    #[error(
        "line {line}: `{field}` comes to {ms:e} ms from the first arrival at a speed-up of {ratio}, but must be at \
         most {max:e} ms", max = crate::MAX_TIME_MS
    )]
    TimeSpan {
        /// The line.
        line: u64,
        /// The key.
        field: &'static str,
        /// The time in milliseconds.
        ms: f64,
        /// The speed-up ratio.
        ratio: f64,
    },
    /// There is no row at all.
    #[error("the trace has no rows: every request is a line with one JSON object, or a line of a table")]
    NoRows,
    /// An id of a trace cannot stand for no tokens.
    #[error("{}", block_size())]
    BlockSize,
    /// The file says itself what an id of it stands for.
    #[error("{}", other_block_size(*stated, *given))]
    OtherBlockSize {
        /// Tokens by the file.
        stated: u32,
        /// Tokens by somebody else.
        given: u32,
    },
    /// The file ends in the midst of something.
    #[error("line {line}: the file ends within {within}: it is cut off")]
    CutOff {
        /// The last line.
        line: u64,
        /// Within what.
        within: String,
    },
    /// A row of a table has more cells than its header.
    #[error(
        "line {line}: the cell `{cell}` stands behind the last of the {width} columns: a value with a separator in it stands in \
         double quotes, and a decimal point is a point"
    )]
    ExtraCell {
        /// The line.
        line: u64,
        /// The first cell without a column.
        cell: String,
        /// How many columns there are.
        width: usize,
    },
    /// A tokenizer cannot cut a text.
    #[error("line {line}: the tokenizer cannot cut a text of the row: {problem}")]
    UncutText {
        /// The line.
        line: u64,
        /// Why.
        problem: String,
    },
    /// There is a tokenizer, and no text.
    #[error("{}", no_texts())]
    NoTexts,
    /// There is more text than can be told apart.
    #[error("line {line}: the texts of the file have more than {tokens} distinct tokens: split it")]
    TooMuchText {
        /// The line.
        line: u64,
        /// The most distinct tokens.
        tokens: u64,
    },
    /// What a row says depends on others, so that a trace cannot be used as it is read.
    #[error("{}", not_streamed(*line, problem))]
    NotStreamed {
        /// The line.
        line: u64,
        /// What it depends on, in words that follow the line.
        problem: &'static str,
    },
    /// The file is of a form that is read as a whole.
    #[error("{}", streamed_form())]
    StreamedForm,
    /// A row comes too long before one above it for a trace to be used as it is read.
    #[error("{}", unsorted(*line, *by_ms, *window_ms))]
    Unsorted {
        /// The line.
        line: u64,
        /// How long before, in milliseconds.
        by_ms: f64,
        /// How long it may be.
        window_ms: f64,
    },
    /// The speed-up of arrivals is no positive number.
    #[error("{}", speedup_ratio(*ratio))]
    SpeedupRatio {
        /// The ratio.
        ratio: f64,
    },
}

impl TraceError {
    /// Whether all is well with the trace if it is read as a whole, as far as is known.
    pub fn is_of_streaming(&self) -> bool {
        matches!(self, Self::NotStreamed { .. } | Self::StreamedForm | Self::Unsorted { .. })
    }
}

fn not_streamed(line: u64, problem: &str) -> Message {
    message!("line {}: {}, so the trace cannot be used as it is read ({stream})", line, problem.to_owned())
}

fn streamed_form() -> Message {
    message!("a file of this form is read as a whole, so {stream} has no effect on it")
}

fn unsorted(line: u64, by_ms: f64, window_ms: f64) -> Message {
    message!(
        "line {}: the row comes {} s before one above it, but {sort_window} is {} s: give a longer one",
        line,
        by_ms / 1e3,
        window_ms / 1e3
    )
}

fn no_texts() -> Message {
    message!("{tokenizer} cuts the texts of a trace into tokens, but this one has none: leave it out")
}

fn block_size() -> Message {
    message!("{trace_block_size} is 0, but every hash id must stand for at least 1 token")
}

fn other_block_size(stated: u32, given: u32) -> Message {
    message!(
        "{trace_block_size} is {}, but the file says that its ids stand for {} tokens: leave it out",
        given,
        stated
    )
}

fn speedup_ratio(ratio: f64) -> Message {
    message!("{arrival_speedup_ratio} is {}, but must be a finite number above 0", ratio)
}

impl From<TraceError> for Message {
    fn from(error: TraceError) -> Self {
        Self::from(&error)
    }
}

impl From<&TraceError> for Message {
    fn from(error: &TraceError) -> Self {
        match *error {
            TraceError::BlockSize => block_size(),
            TraceError::NotStreamed { line, problem } => not_streamed(line, problem),
            TraceError::StreamedForm => streamed_form(),
            TraceError::NoTexts => no_texts(),
            TraceError::Unsorted { line, by_ms, window_ms } => unsorted(line, by_ms, window_ms),
            TraceError::SpeedupRatio { ratio } => speedup_ratio(ratio),
            TraceError::OtherBlockSize { stated, given } => other_block_size(stated, given),
            TraceError::OtherFormat { format } => {
                message!("the file holds {}, which cannot be replayed", format.name())
            }
            // The rest is about rows of a trace.
            ref error => error.to_string().into(),
        }
    }
}

/// Why a synthetic workload cannot be generated.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SyntheticError {
    /// A number lies outside its range.
    OutOfRange {
        /// The option.
        field: &'static str,
        /// Its value.
        found: String,
        /// Its range.
        allowed: String,
    },
    /// Prompts are to share prefixes, but there is no group to share them in.
    NoPrefixGroups {
        /// The ratio.
        ratio: f64,
    },
    /// Lengths that are all equal cannot spread.
    SpreadOfConstant {
        /// The spread.
        spread: f64,
    },
    /// The workload would have more turns than the limit.
    TooManyTurns {
        /// How many there would be.
        turns: u64,
        /// How many there may be.
        max: u64,
    },
    /// The workload would have more blocks than the limit.
    TooManyBlocks {
        /// How many there would be.
        blocks: u64,
        /// How many there may be.
        max: u64,
    },
}

settings_error!(SyntheticError);

impl From<&SyntheticError> for Message {
    fn from(error: &SyntheticError) -> Self {
        match error {
            SyntheticError::OutOfRange { field, found, allowed } => {
                message!("{} is {}, but must be {}", Self::key(*field), found, allowed)
            }
            SyntheticError::NoPrefixGroups { ratio } => message!(
                "{shared_prefix_ratio} is {}, but {num_prefix_groups} is 0: it must be at least 1 for prompts to share a \
                 prefix",
                *ratio
            ),
            SyntheticError::SpreadOfConstant { spread } => message!(
                "{length_spread} is {}, but must be 0 unless {length_distribution} is uniform or lognormal",
                *spread
            ),
            SyntheticError::TooManyTurns { turns, max } => message!(
                "{request_count} × {turns_per_session} is {} requests, but must be at most {}",
                *turns,
                *max
            ),
            SyntheticError::TooManyBlocks { blocks, max } => message!(
                "the prompts have {} blocks of {trace_block_size} tokens in all, but must have at most {}: use fewer \
                 requests or larger blocks",
                *blocks,
                *max
            ),
        }
    }
}

/// What rows are made of.
fn kind(token_ids: bool) -> &'static str {
    if token_ids { "`input_tok_ids`" } else { "`hash_ids`" }
}
