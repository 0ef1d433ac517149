//! Files of known tools, by how they begin: so that one given in the wrong place is called what it is.

use servecast_types::Message;

use crate::TimeUnit;

/// Bytes from the start of a file that tell what it is.
pub const TELLING_BYTES: usize = 1 << 16;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFormat {
    /// The template of its name.
    name: &'static str,
    /// What it is good for.
    pub kind: FormatKind,
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

    /// What to do with the file where a trace is expected; `None` where it is one.
    pub fn instead_of_a_trace(self) -> Option<&'static str> {
        match self.kind {
            FormatKind::Trace => None,
            FormatKind::Report | FormatKind::Result => {
                Some("name the trace that was replayed; `servecast compare` takes reports")
            }
            FormatKind::Measured => Some(
                "`servecast calibrate` fits a latency model to it; to replay its requests, write each as one JSON \
                      line with `timestamp` (ms), `input_length`, `output_length` and `hash_ids`",
            ),
            FormatKind::Requests => Some(
                "write each request as one JSON line with `timestamp` (ms), `input_length`, `output_length` and \
                      `hash_ids`, an id for every 512 prompt tokens, the same where prompts begin alike and one of its \
                      own elsewhere",
            ),
            FormatKind::Other => Some("a trace is JSON Lines, a request a line"),
        }
    }
}

/// What the beginning of a file, unpacked, says that it is; up to [`TELLING_BYTES`] of it are looked at.
pub fn known_format(start: &[u8]) -> Option<KnownFormat> {
    let start = &start[..start.len().min(TELLING_BYTES)];
    let binary = BINARIES.iter().find(|(magic, _)| start.starts_with(magic));
    if let Some((_, name)) = binary {
        return Some(KnownFormat { name, kind: FormatKind::Other });
    }
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let found = if text.starts_with(['{', '[']) {
        JSON.iter()
            .find(|(keys, ..)| keys.iter().all(|key| has(text, key)))
            .map(|(_, name, kind)| (name, kind))
    } else {
        let columns = columns(text);
        let known = TABLES.iter().find(|(names, ..)| names.iter().all(|name| columns.contains(name)));
        known.map(|(_, name, kind)| (name, kind))
    };
    let (&name, &kind) = found?;
    Some(KnownFormat { name, kind })
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

/// Keys that a JSON text has, the first match counting, and what it is.
const JSON: &[(&[&str], &str, FormatKind)] = &[
    (
        &["\"dynamo.request.trace.v1\""],
        "a request trace of Dynamo (dynamo.request.trace.v1)",
        FormatKind::Requests,
    ),
    (&["resourceSpans"], "an export of OpenTelemetry spans", FormatKind::Requests),
    (&["traceId", "spanId"], "an export of OpenTelemetry spans", FormatKind::Requests),
    (&["traceEvents"], "a timeline of trace events", FormatKind::Other),
    (&["ph", "ts", "pid"], "a timeline of trace events", FormatKind::Other),
    (&["conversations", "from"], "conversations in the form of ShareGPT", FormatKind::Requests),
    (
        &["input_lens", "ttfts", "start_times"],
        "a result of `vllm bench serve --save-detailed`",
        FormatKind::Measured,
    ),
    (&["input_lens", "ttfts"], "a result of a serving benchmark (vLLM's or SGLang's)", FormatKind::Measured),
    (&["total_input_tokens", "request_throughput"], "the summary of a serving benchmark", FormatKind::Other),
    (&["metadata", "metrics"], "records of AIPerf (profile_export.jsonl)", FormatKind::Measured),
    (&["time_to_first_token", "unit"], "a summary of AIPerf", FormatKind::Other),
    (&["benchmarks", "requests"], "a report of GuideLLM", FormatKind::Requests),
    (&["requests", "hash_id_scope"], "WEKA agentic traces", FormatKind::Requests),
    (&["requests", "block_size", "models"], "WEKA agentic traces", FormatKind::Requests),
    (&["sub_requests"], "an agentic workload of LLMServingSim", FormatKind::Requests),
    (&["num_turns", "input_prompt_length"], LENGTHS, FormatKind::Requests),
    (
        &["schema_version", "baseline", "runs"],
        "what `servecast compare --format json` prints",
        FormatKind::Result,
    ),
    (&["schema_version", "runs"], "a comparison of several runs ({--vary})", FormatKind::Result),
    (&["schema_version", "mean_ttft_ms"], "a report of servecast", FormatKind::Report),
    (&["ttft_breakdown", "stages"], "rows of requests ({--requests_jsonl})", FormatKind::Measured),
    (&["scheduled", "start_ms", "end_ms"], "rows of iterations ({--iterations_jsonl})", FormatKind::Measured),
    (&["candidates", "overlap_blocks"], "rows of routing decisions ({--routing_jsonl})", FormatKind::Result),
    (&["hash_ids", "output_length"], "a trace in Mooncake JSON Lines", FormatKind::Trace),
    (&["hash_ids", "output_tokens"], "a trace in Mooncake JSON Lines", FormatKind::Trace),
    (&["input_tok_ids"], "a workload with token ids", FormatKind::Trace),
    (&["model_type", "num_hidden_layers"], "the config.json of a model", FormatKind::Other),
    (&["messages"], "requests with text", FormatKind::Requests),
    (&["text_input"], "requests with text", FormatKind::Requests),
    (&["prompt"], "requests with text", FormatKind::Requests),
];

/// Columns that a table has, the first match counting, and what it is.
const TABLES: &[(&[&str], &str, FormatKind)] = &[
    (&["ContextTokens", "GeneratedTokens"], "an Azure LLM inference trace (CSV)", FormatKind::Trace),
    (&["Request tokens", "Response tokens"], "a BurstGPT trace (CSV)", FormatKind::Trace),
    (&["arrived_at", "num_prefill_tokens"], "a trace of Vidur (CSV)", FormatKind::Trace),
    (&["arrived_at", "prefill_tokens"], "a trace of BLIS (CSV)", FormatKind::Trace),
    (&["client_id", "prefix_group"], "a trace of BLIS (CSV)", FormatKind::Requests),
    (&["request_id", "timestamp", "input_tokens"], "a trace of ServeGen (CSV)", FormatKind::Trace),
    (
        &["arrival_ms", "ttft_ms", "e2e_latency_ms"],
        "requests of a replay ({--export} csv)",
        FormatKind::Measured,
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

/// The table whose header this is.
pub(crate) fn lengths_table(header: &str) -> Option<LengthsTable> {
    let names = columns(header);
    let columns = LENGTHS_TABLES.iter().find(|wanted| wanted.iter().all(|name| names.contains(name)))?;
    Some(LengthsTable { columns: *columns, unit: TimeUnit::S })
}

/// The names in the header of a table.
fn columns(text: &str) -> Vec<&str> {
    let header = text.lines().next().unwrap_or_default();
    header.split(',').map(|name| name.trim().trim_matches('"')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(start: &str, name: &'static str, kind: FormatKind) {
        assert_eq!(known_format(start.as_bytes()), Some(KnownFormat { name, kind }));
    }

    #[test]
    fn files_are_known_by_their_keys() {
        let requests = FormatKind::Requests;
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
        let tables = TABLES.iter().map(|(_, name, kind)| (name, kind));
        for (&name, &kind) in JSON.iter().map(|(_, name, kind)| (name, kind)).chain(tables) {
            let instead = KnownFormat { name, kind }.instead_of_a_trace();
            assert_eq!(instead.is_none(), kind == FormatKind::Trace, "{name}");
        }
    }
}
