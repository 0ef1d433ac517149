//! Where requests come from: trace files, generators, and the sessions that both turn into.
//!
//! ```text
//!  files of tools ── read_trace ─┐                                            ┌── stats
//!  SyntheticSpec ── generate ────┼── [TraceRow] ── Workload::from_rows ── Workload
//!  a seed ── sample_chat_sessions┘        └── write_mooncake ── JSON Lines    └── mooncake_rows ── [TraceRow]
//! ```
//!
//! A [`TraceRow`] is what one line of a trace says, with the units of the file. A [`Workload`] is what a
//! simulation replays: sessions of turns with virtual times and prompts made of interned blocks. Every row is
//! checked on its way from the one to the other, so a workload can be replayed as it is.
//!
//! **Invariant:** nothing here opens a file, and nothing knows of engines, routers or caches.

mod assemble;
mod bench;
mod blocks;
mod clients;
mod clock;
mod continuation;
mod convert;
mod error;
mod fields;
mod fingerprint;
mod fit;
mod formats;
mod freeing;
mod graph;
mod labels;
mod merge;
mod notes;
mod order;
mod random;
mod rate;
mod reader;
mod resemble;
mod row;
mod sample;
mod shape;
mod stamped;
mod stats;
mod stream;
mod synthetic;
mod text;
mod unit;
mod workload;

pub use bench::bench_arrivals_ms;
pub use clients::{Client, ClientMix, Histogram, Lengths, Lognormal, Uniform};
pub use error::{SyntheticError, TraceError};
pub use fit::{Fit, fit};
pub use formats::measured::{Measured, MeasuredRequest, read_measured};
pub use formats::table::Columns;
pub use formats::{FormatKind, KnownFormat, TELLING_BYTES, TraceFormat, known_format};
pub use freeing::FreeingIter;
pub use graph::{Links, Waits};
pub use notes::{Noted, TraceNotes};
pub use rate::{RateProfile, RateSegment, RateState};
pub use reader::{Trace, TraceForm, read_mooncake, read_trace};
pub use resemble::resembling;
pub use row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, MAX_TIME_MS, TraceRow, write_mooncake};
pub use sample::{SAMPLE_BLOCK_SIZE, sample_chat_sessions};
pub use shape::{Shape, ShapeError, interleave};
pub use stamped::{stamp_rows, write_in_lines};
pub use stats::{LengthStats, TraceStats, ideal_reuse, stats, stream_stats};
pub use stream::{StreamOptions, TraceStream};
pub use synthetic::{ArrivalProcess, LengthDistribution, SyntheticSpec, generate};
pub use text::TextTokenizer;
pub use unit::{Recognised, TimeUnit};
pub use workload::{Cut, Load, Session, Turn, TurnStart, Turns, Workload};
