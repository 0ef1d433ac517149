//! Files of known tools, by how they begin: so that each is read as what it is, and one given in the wrong place called
//! what it is.

mod aiperf;
mod bench;
pub(crate) mod columns;
mod dynamo;
mod guidellm;
pub(crate) mod json;
pub(crate) mod measured;
mod otel;
pub(crate) mod rows;
mod sharegpt;
mod sub_requests;
pub(crate) mod table;
mod text;
mod texts;
mod turn_lengths;
mod weka;

use std::io::BufRead;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::{Message, message};

use crate::{TimeUnit, Trace, TraceError, TraceForm};

/// Bytes from the start of a file that tell what it is.
pub const TELLING_BYTES: usize = 1 << 16;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFormat {
    /// The template of its name.
    name: &'static str,
    /// What it is good for.
    pub kind: FormatKind,
    /// The trace that it can be read as.
    trace: Option<TraceFormat>,
}

/// A form in which requests are written, one that can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceFormat {
    /// JSON Lines with one request per line: Mooncake's, the Bailian (Qwen) traces, workloads with token ids.
    #[serde(rename = "mooncake")]
    Rows,
    /// A table of times and lengths: Azure's, BurstGPT's, Vidur's, BLIS', ServeGen's.
    Table,
    /// The result of `vllm bench serve --save-detailed`.
    VllmBench,
    /// The results of `sglang.bench_serving --output-details`.
    SglangBench,
    /// `profile_export.jsonl` of AIPerf.
    Aiperf,
    /// The JSON report of GuideLLM.
    #[serde(rename = "guidellm")]
    GuideLlm,
    /// WEKA's agentic traces.
    Weka,
    /// Request traces of Dynamo (`dynamo.request.trace.v1`).
    Dynamo,
    /// OpenTelemetry spans of calls to models.
    Otel,
    /// Conversations in the form of ShareGPT.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// Rows with the text of prompts: `text_input`, `prompt` or `messages`.
    Text,
    /// Agentic workloads of LLMServingSim: `sub_requests`.
    SubRequests,
    /// Agentic sessions as lengths of turns.
    TurnLengths,
}

/// Reads a trace of a known form.
pub(crate) fn read(
    format: TraceFormat,
    mut input: impl BufRead,
    form: &TraceForm,
) -> Result<Trace, TraceError> {
    if form.tokenizer.is_some() && !matches!(format, TraceFormat::ShareGpt | TraceFormat::Text) {
        return Err(TraceError::NoTexts);
    }
    match format {
        TraceFormat::Rows | TraceFormat::Table => rows::read(&mut input, form),
        TraceFormat::VllmBench | TraceFormat::SglangBench => measured::trace(bench::read(&mut input)?),
        TraceFormat::Aiperf => measured::trace(aiperf::read(&mut input)?),
        TraceFormat::GuideLlm => measured::trace(guidellm::read(&mut input)?),
        TraceFormat::Otel => {
            let (measured, others) = otel::read(&mut input)?;
            let mut trace = measured::trace(measured)?;
            trace.notes.other_records = others;
            Ok(trace)
        }
        TraceFormat::Weka => weka::read(&mut input, form),
        TraceFormat::Dynamo => dynamo::read(&mut input, form),
        TraceFormat::ShareGpt => sharegpt::read(&mut input, form),
        TraceFormat::Text => text::read(&mut input, form),
        TraceFormat::SubRequests => sub_requests::read(&mut input, form),
        TraceFormat::TurnLengths => turn_lengths::read(&mut input, form),
    }
}

/// What a known file is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatKind {
    /// A trace that can be replayed.
    Trace,
    /// The report of one run.
    Report,
    /// Another result of servecast.
    Result,
    /// Requests with their times, to calibrate on.
    Measured,
    /// Requests, in a form that cannot be read.
    Requests,
    /// Something else.
    Other,
}

impl KnownFormat {
    /// What it is called, with its article: `an Azure LLM inference trace (CSV)`.
    pub fn name(self) -> Message {
        Message::template(self.name)
    }

    /// What it can be read as where a trace is expected.
    pub fn trace(self) -> Option<TraceFormat> {
        self.trace
    }

    /// What to do with the file where a trace is expected; `None` where it is one.
    pub fn instead_of_a_trace(self) -> Option<Message> {
        if self.trace.is_some() {
            return None;
        }
        Some(match self.kind {
            FormatKind::Report | FormatKind::Result => {
                message!("name the trace that was replayed; `servecast compare` takes reports")
            }
            FormatKind::Measured | FormatKind::Requests => message!(
                "{--columns} time=NAME,input=NAME,output=NAME replays its requests by the columns or keys that it has, if it \
                 has those of requests"
            ),
            FormatKind::Trace | FormatKind::Other => {
                message!("docs/traces.md lists the files that can be replayed")
            }
        })
    }
}

/// What the beginning of a file, unpacked, says that it is; up to [`TELLING_BYTES`] of it are looked at.
pub fn known_format(start: &[u8]) -> Option<KnownFormat> {
    let start = &start[..start.len().min(TELLING_BYTES)];
    if let Some((_, name)) = BINARIES.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(KnownFormat { name, kind: FormatKind::Other, trace: None });
    }
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let (_, format) = if is_json(start) {
        // Where rows are lines, one of them tells, and the others may hold anything.
        let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        let is_row = line.starts_with(b"{") && line.ends_with(b"}");
        let text = String::from_utf8_lossy(if is_row { line } else { start });
        JSON.iter().find(|(keys, _)| keys.iter().all(|key| has(&text, key)))?
    } else {
        let text = String::from_utf8_lossy(start);
        let columns = columns(&text);
        TABLES.iter().find(|(names, _)| names.iter().all(|name| columns.contains(name)))?
    };
    Some(*format)
}

/// Whether a text is JSON by how it begins.
pub(crate) fn is_json(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    matches!(start.first(), Some(b'{' | b'['))
}

/// Whether a JSON text has a key; one that is a whole value stands between quotes in the table.
fn has(text: &str, key: &str) -> bool {
    if key.starts_with('"') {
        return text.contains(key);
    }
    let quoted = format!("\"{key}\"");
    text.match_indices(&quoted).any(|(at, _)| text[at + quoted.len()..].trim_start().starts_with(':'))
}

/// Binary formats by their first bytes.
const BINARIES: &[(&[u8], &str)] = &[
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"BZh", "bzip2 data"),
    (b"SQLite format 3\0", "an SQLite database"),
];

const LENGTHS: &str = "an agentic workload of turn lengths";
const MOONCAKE: &str = "a trace in Mooncake JSON Lines";
const SPANS: &str = "an export of OpenTelemetry spans";
const TIMELINE: &str = "a timeline of trace events";

/// A trace.
const fn trace(name: &'static str, trace: TraceFormat) -> KnownFormat {
    KnownFormat { name, kind: FormatKind::Trace, trace: Some(trace) }
}

/// Requests that were measured, which are a load to repeat, too.
const fn measured(name: &'static str, trace: TraceFormat) -> KnownFormat {
    KnownFormat { name, kind: FormatKind::Measured, trace: Some(trace) }
}

/// What is no trace.
const fn other(name: &'static str, kind: FormatKind) -> KnownFormat {
    KnownFormat { name, kind, trace: None }
}

/// Keys that a JSON text has, the first match counting, and what it is.
const JSON: &[(&[&str], KnownFormat)] = &[
    // The most frequent ones first.
    (&["hash_ids", "output_length"], trace(MOONCAKE, TraceFormat::Rows)),
    (&["hash_ids", "output_tokens"], trace(MOONCAKE, TraceFormat::Rows)),
    // Some have token ids.
    (&["sub_requests"], trace("an agentic workload of LLMServingSim", TraceFormat::SubRequests)),
    (&["input_tok_ids"], trace("a workload with token ids", TraceFormat::Rows)),
    (
        &["\"dynamo.request.trace.v1\""],
        trace("a request trace of Dynamo (dynamo.request.trace.v1)", TraceFormat::Dynamo),
    ),
    (&["resourceSpans"], trace(SPANS, TraceFormat::Otel)),
    (&["traceId", "spanId"], trace(SPANS, TraceFormat::Otel)),
    (&["traceEvents"], other(TIMELINE, FormatKind::Other)),
    (&["ph", "ts", "pid"], other(TIMELINE, FormatKind::Other)),
    (&["conversations", "from"], trace("conversations in the form of ShareGPT", TraceFormat::ShareGpt)),
    (
        &["input_lens", "start_times"],
        measured("a result of `vllm bench serve --save-detailed`", TraceFormat::VllmBench),
    ),
    (
        &["input_lens"],
        measured("a result of a serving benchmark (vLLM's or SGLang's)", TraceFormat::SglangBench),
    ),
    (
        &["total_input_tokens", "request_throughput"],
        other("the summary of a serving benchmark", FormatKind::Other),
    ),
    (&["metadata", "metrics"], measured("records of AIPerf (profile_export.jsonl)", TraceFormat::Aiperf)),
    (&["time_to_first_token", "unit"], other("a summary of AIPerf", FormatKind::Other)),
    (&["benchmarks", "guidellm_version"], measured("a report of GuideLLM", TraceFormat::GuideLlm)),
    (&["benchmarks", "requests"], measured("a report of GuideLLM", TraceFormat::GuideLlm)),
    (&["requests", "hash_id_scope"], trace("WEKA agentic traces", TraceFormat::Weka)),
    (&["requests", "block_size", "models"], trace("WEKA agentic traces", TraceFormat::Weka)),
    (&["num_turns", "input_prompt_length"], trace(LENGTHS, TraceFormat::TurnLengths)),
    (
        &["schema_version", "baseline", "runs"],
        other("what `servecast compare --format json` prints", FormatKind::Result),
    ),
    (&["schema_version", "runs"], other("a comparison of several runs ({--vary})", FormatKind::Result)),
    (&["schema_version", "mean_ttft_ms"], other("a report of servecast", FormatKind::Report)),
    (&["ttft_breakdown", "stages"], other("rows of requests ({--requests_jsonl})", FormatKind::Measured)),
    (
        &["scheduled", "start_ms", "end_ms"],
        other("rows of iterations ({--iterations_jsonl})", FormatKind::Measured),
    ),
    (
        &["candidates", "overlap_blocks"],
        other("rows of routing decisions ({--routing_jsonl})", FormatKind::Result),
    ),
    (&["model_type", "num_hidden_layers"], other("the config.json of a model", FormatKind::Other)),
    (&["arrival_time_ns", "input_toks"], trace("a workload of lengths in tokens", TraceFormat::Rows)),
    (&["messages"], trace("requests with text", TraceFormat::Text)),
    (&["text_input"], trace("requests with text", TraceFormat::Text)),
    (&["prompt"], trace("requests with text", TraceFormat::Text)),
    (&["input_length", "output_length"], trace(MOONCAKE, TraceFormat::Rows)),
    (&["timestamp", "input_tokens", "output_tokens"], trace(MOONCAKE, TraceFormat::Rows)),
];

/// Columns that a table has, the first match counting, and what it is.
const TABLES: &[(&[&str], KnownFormat)] = &[
    (&["ContextTokens", "GeneratedTokens"], trace("an Azure LLM inference trace (CSV)", TraceFormat::Table)),
    (&["Request tokens", "Response tokens"], trace("a BurstGPT trace (CSV)", TraceFormat::Table)),
    (&["arrived_at", "num_prefill_tokens"], trace("a trace of Vidur (CSV)", TraceFormat::Table)),
    (&["arrived_at", "prefill_tokens"], trace("a trace of BLIS (CSV)", TraceFormat::Table)),
    (&["client_id", "prefix_group"], other("a trace of BLIS (CSV)", FormatKind::Requests)),
    (&["request_id", "timestamp", "input_tokens"], trace("a trace of ServeGen (CSV)", TraceFormat::Table)),
    (
        &["arrival_ms", "ttft_ms", "e2e_latency_ms"],
        other("requests of a replay ({--export} csv)", FormatKind::Measured),
    ),
];

/// A table of a known tool with a row a request, which has lengths and no content.
pub(crate) struct LengthsTable {
    /// When a request came, tokens of its prompt, tokens of its output.
    pub(crate) columns: [&'static str; 3],
    /// Unit of times that are numbers.
    pub(crate) unit: TimeUnit,
}

/// Such tables, as their tools describe them; times are numbers of seconds, or dates.
const LENGTHS_TABLES: &[[&str; 3]] = &[
    ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
    ["Timestamp", "Request tokens", "Response tokens"],
    ["arrived_at", "num_prefill_tokens", "num_decode_tokens"],
    ["arrived_at", "prefill_tokens", "decode_tokens"],
    ["timestamp", "input_tokens", "output_tokens"],
];

/// The table whose header this is, or which it would be with one column more.
pub(crate) fn lengths_table(header: &str) -> Option<LengthsTable> {
    let names = columns(header);
    let found = |wanted: &[&str; 3]| wanted.iter().filter(|name| names.contains(name)).count();
    let with = |least: usize| LENGTHS_TABLES.iter().find(|wanted| found(wanted) >= least);
    let columns = with(3).or_else(|| with(2))?;
    Some(LengthsTable { columns: *columns, unit: TimeUnit::S })
}

/// The names in the header of a table.
fn columns(text: &str) -> Vec<&str> {
    let header = text.lines().next().unwrap_or_default();
    header.split(table::SEPARATORS.map(char::from)).map(|name| name.trim().trim_matches('"')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(start: &str, name: &'static str, kind: FormatKind) {
        let found = known_format(start.as_bytes()).unwrap();
        assert_eq!((found.name, found.kind), (name, kind));
    }

    #[test]
    fn files_are_known_by_their_keys() {
        let requests = FormatKind::Trace;
        check(
            r#"[{"id": "c1", "conversations": [{"from": "human", "value": "hello"}]}]"#,
            "conversations in the form of ShareGPT",
            requests,
        );
        check(
            r#"{"id":"t1","models":["m"],"block_size":64,"hash_id_scope":"local","requests":[]}"#,
            "WEKA agentic traces",
            requests,
        );
        check(
            "{\n  \"input_lens\": [3],\n  \"ttfts\" : [0.1], \"start_times\": [0]}",
            "a result of `vllm bench serve --save-detailed`",
            FormatKind::Measured,
        );
        check(
            r#"{"metadata": {"request_start_ns": 1}, "metrics": {}}"#,
            "records of AIPerf (profile_export.jsonl)",
            FormatKind::Measured,
        );
        check(
            r#"{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]}"#,
            "a trace in Mooncake JSON Lines",
            FormatKind::Trace,
        );
        // A value is no key.
        assert_eq!(known_format(br#"{"a": "conversations", "b": "from"}"#), None);
    }

    #[test]
    fn tables_are_known_by_their_columns() {
        check(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n",
            "an Azure LLM inference trace (CSV)",
            FormatKind::Trace,
        );
        check(
            "\u{feff}Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\r\n5,GPT,1,2,3,API\r\n",
            "a BurstGPT trace (CSV)",
            FormatKind::Trace,
        );
        check(
            "arrived_at,num_prefill_tokens,num_decode_tokens\n",
            "a trace of Vidur (CSV)",
            FormatKind::Trace,
        );
        assert_eq!(known_format(b"hello"), None);
        assert_eq!(known_format(b""), None);
    }

    #[test]
    fn binary_files_are_known_by_their_first_bytes() {
        check("PAR1\u{0}", "a Parquet file", FormatKind::Other);
    }

    #[test]
    fn what_is_no_trace_has_a_way_to_one() {
        for (_, format) in JSON.iter().chain(TABLES) {
            assert_eq!(format.instead_of_a_trace().is_none(), format.trace.is_some(), "{}", format.name);
            assert!(format.kind != FormatKind::Trace || format.trace.is_some(), "{}", format.name);
        }
    }
}
