//! A line for each request, for whoever runs the server.

use std::fmt;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::clock::{rfc3339, unix_time};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Where lines go.
pub struct RequestLog {
    format: LogFormat,
    out: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for RequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestLog").field("format", &self.format).finish_non_exhaustive()
    }
}

/// What became of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) id: &'a str,
    pub(crate) path: &'a str,
    pub(crate) stream: bool,
    /// `finished`, `aborted` by the client, or `failed`.
    pub(crate) status: &'static str,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    /// Until the first token, in milliseconds of the machine; there may have been none.
    pub(crate) ttft_ms: Option<f64>,
    /// Until the end.
    pub(crate) e2e_ms: f64,
}

#[derive(Serialize)]
struct Stamped<'a> {
    time: String,
    level: &'static str,
    message: &'static str,
    #[serde(flatten)]
    line: &'a Line<'a>,
}

impl RequestLog {
    /// Lines of this form.
    pub fn new(format: LogFormat, out: Box<dyn Write + Send>) -> Self {
        Self { format, out: Mutex::new(out) }
    }

    /// Writes a line. A log that cannot be written holds up nobody.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let time = rfc3339(unix_time());
        let text = match self.format {
            LogFormat::Json => {
                let stamped = Stamped { time, level: "info", message: "request", line };
                serde_json::to_string(&stamped).expect("texts and numbers are JSON")
            }
            LogFormat::Text => {
                let Line {
                    id, path, status, prompt_tokens, cached_tokens, completion_tokens, e2e_ms, ..
                } = line;
                let ttft = line.ttft_ms.map_or_else(|| "-".to_owned(), |ttft| format!("{ttft:.1} ms"));
                format!(
                    "{time} {path} {} {status}: {prompt_tokens} tokens in, {cached_tokens} cached, \
                     {completion_tokens} out, TTFT {ttft}, E2E {e2e_ms:.1} ms",
                    id.escape_debug()
                )
            }
        };
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "{text}");
    }
}
