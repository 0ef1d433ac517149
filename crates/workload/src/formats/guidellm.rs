//! The JSON report of GuideLLM: benchmarks, one after another, with the requests of each by how they ended. Start times
//! are seconds since 1970.

use std::io::BufRead;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::{Fields, Items};
use super::measured::{Measured, MeasuredRequest, ends_too_early};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS};
use crate::{TimeUnit, TraceError};

#[derive(Deserialize)]
struct Report {
    benchmarks: Vec<Benchmark>,
}

#[derive(Deserialize)]
struct Benchmark {
    requests: Requests,
}

/// What else there is by how it ended did not end, or not well.
#[derive(Deserialize)]
struct Requests {
    successful: Option<Vec<Map<String, Value>>>,
    incomplete: Option<Vec<serde::de::IgnoredAny>>,
    errored: Option<Vec<serde::de::IgnoredAny>>,
}

/// Reads the requests of all benchmarks of a report.
pub(super) fn read(input: &mut dyn BufRead) -> Result<Measured, TraceError> {
    let mut measured = Measured::default();
    let mut items = Items::new(input);
    let mut entries = 0;
    while let Some(item) = items.next()? {
        let report: Report = item.parse()?;
        measured.runs += report.benchmarks.len() as u64;
        for (place, benchmark) in report.benchmarks.into_iter().enumerate() {
            let Requests { successful, incomplete, errored } = benchmark.requests;
            for (index, object) in successful.unwrap_or_default().iter().enumerate() {
                entries += 1;
                let path = format!("benchmarks[{place}].requests.successful[{index}]");
                let request = request(&Fields::new(item.line, object).within(&path), entries)?;
                if request.input_tokens == 0 || request.output_tokens == 0 {
                    measured.failed.add(entries);
                } else {
                    measured.requests.push(request);
                }
            }
            for _ in [incomplete, errored].into_iter().flatten().flatten() {
                entries += 1;
                measured.failed.add(entries);
            }
        }
    }
    Ok(measured)
}

fn request(entry: &Fields, number: u64) -> Result<MeasuredRequest, TraceError> {
    let info = entry.object("info")?;
    let sent_ms = entry.time_ms("request_start_time", TimeUnit::S)?;
    let sent_ms = sent_ms.ok_or_else(|| entry.missing("request_start_time", "when the request was sent"))?;
    // Turns of a conversation name it; so may single requests.
    let session = info.map(|info| info.name("conversation_id")).transpose()?.flatten();
    let seconds = |key, unit| Ok::<_, TraceError>(entry.duration_ms(key, unit)?.map(|ms| ms / 1e3));
    let ttft_s = seconds("time_to_first_token_ms", TimeUnit::Ms)?;
    let e2e_s = seconds("request_latency", TimeUnit::S)?;
    if let Some(expected) = ends_too_early(ttft_s, e2e_s)
        && let Some(value) = entry.get("request_latency")
    {
        return Err(entry.wrong("request_latency", value, expected));
    }
    Ok(MeasuredRequest {
        line: number,
        session,
        sent_s: Some(sent_ms / 1e3),
        input_tokens: entry.needed_tokens("prompt_tokens", MAX_INPUT_TOKENS)?,
        output_tokens: entry.needed_tokens("output_tokens", MAX_OUTPUT_TOKENS)?,
        ttft_s,
        e2e_s,
        gaps_s: Vec::new(),
    })
}
