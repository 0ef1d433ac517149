//! Requests as the clients that sent them measured them: a load to repeat, and times to calibrate on.

use std::io::BufRead;

use super::{TraceFormat, aiperf, bench, guidellm};
use crate::row::MAX_TIME_MS;
use crate::{Noted, Trace, TraceError, TraceRow};

/// The requests of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    /// Those that were served, in file order.
    pub requests: Vec<MeasuredRequest>,
    /// Those that were not, and are not among them.
    pub failed: Noted,
    /// Those that came before the measurement, and are not among them.
    pub warmups: Noted,
    /// The most requests that the client had under way, if it said so.
    pub concurrency: Option<u64>,
    /// Requests that the client was told to send a second, if it said so; infinite if all at once.
    pub request_rate: Option<f64>,
    /// Runs of the client that the file holds, one after another.
    pub runs: u64,
    /// Seconds that the last of them took, if the client said so.
    pub duration_s: Option<f64>,
}

/// A request as its client measured it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeasuredRequest {
    /// Line of the file, or number of the entry in its lists, from 1.
    pub line: u64,
    /// The session that this is the next turn of.
    pub session: Option<String>,
    /// When it was sent, in seconds from any origin.
    pub sent_s: Option<f64>,
    /// Tokens of its prompt, at least 1.
    pub input_tokens: u64,
    /// Tokens of its output, at least 1.
    pub output_tokens: u64,
    /// Seconds from then to its first token.
    pub ttft_s: Option<f64>,
    /// Seconds from then to its last token.
    pub e2e_s: Option<f64>,
    /// Seconds between what came and what came next, tokens or chunks of several.
    pub gaps_s: Vec<f64>,
}

/// What the latency of a request must be, in words, if it ended before its first token came.
pub(super) fn ends_too_early(ttft_s: Option<f64>, e2e_s: Option<f64>) -> Option<String> {
    // Sums of what a file has may be off in their last digits.
    let (ttft_s, _) = ttft_s.zip(e2e_s).filter(|(ttft_s, e2e_s)| e2e_s + 1e-6 < *ttft_s)?;
    Some(format!("at least the time to its first token, {ttft_s} s"))
}

/// Reads the requests of a file of the given form; `None` if such files have no times of requests.
///
/// # Errors
/// At the first entry that cannot be read.
pub fn read_measured(input: &mut dyn BufRead, format: TraceFormat) -> Option<Result<Measured, TraceError>> {
    match format {
        TraceFormat::VllmBench | TraceFormat::SglangBench => Some(bench::read(input)),
        TraceFormat::Aiperf => Some(aiperf::read(input)),
        TraceFormat::GuideLlm => Some(guidellm::read(input)),
        _ => None,
    }
}

/// The load that was measured: requests at the times at which they were sent, the turns of a session as long after the
/// one before had ended.
pub(super) fn trace(mut measured: Measured) -> Result<Trace, TraceError> {
    let mut trace = Trace::default();
    trace.notes.without_tokens = measured.failed;
    trace.notes.warmups = measured.warmups;
    trace.notes.concurrency = measured.concurrency;
    let sent = |request: &MeasuredRequest| request.sent_s.unwrap_or(f64::NEG_INFINITY);
    // Records are written as requests end.
    measured.requests.sort_by(|one, other| sent(one).total_cmp(&sent(other)));
    let mut ended = rustc_hash::FxHashMap::default();
    for request in measured.requests {
        let timestamp_ms = request.sent_s.map(|seconds| seconds * 1e3);
        let end_ms = timestamp_ms.zip(request.e2e_s).map(|(sent, seconds)| sent + seconds * 1e3);
        let before = request.session.clone().and_then(|name| ended.insert(name, end_ms)).flatten();
        if before.zip(timestamp_ms).is_some_and(|(end, sent): (f64, f64)| sent < end) {
            trace.notes.side_by_side.add(request.line);
        }
        let delay_ms = before.zip(timestamp_ms).map(|(end, sent): (f64, f64)| (sent - end).max(0.0));
        let row = TraceRow {
            line: request.line,
            session_id: request.session,
            timestamp_ms,
            delay_ms: delay_ms.map(|ms| ms.min(MAX_TIME_MS)),
            input_length: Some(request.input_tokens),
            output_length: request.output_tokens,
            shares_nothing: true,
            ..TraceRow::default()
        };
        row.check()?;
        trace.rows.push(row);
    }
    Ok(trace)
}
