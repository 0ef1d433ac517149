//! Iterations of engines, from their logs.

use std::path::Path;

use serde::Deserialize;
use servecast_calibrate::{LogLine, PassRow, PassRun};
use servecast_latency::{Batch, StepFeatures};

use crate::error::Failure;

/// A row of `--iterations-jsonl`, as far as it matters here.
#[derive(Deserialize)]
struct OwnRow {
    start_ms: f64,
    end_ms: f64,
    /// Request, tokens, tokens computed or hit before.
    scheduled: Vec<(u64, u64, u64)>,
}

/// The iterations of a file that `servecast replay --iterations-jsonl` wrote.
pub(super) fn own(path: &Path, text: &str) -> Result<PassRun, Failure> {
    let mut rows = Vec::new();
    for (line, number) in text.lines().zip(1_u64..).filter(|(line, _)| !line.trim().is_empty()) {
        let wrong = |problem: String| Failure::user(problem).at_line(path, number);
        let row: OwnRow =
            serde_json::from_str(line).map_err(|error| Failure::input(&error).at_line(path, number))?;
        if row.scheduled.is_empty() {
            continue;
        }
        let ordered = row.start_ms >= 0.0 && row.end_ms > row.start_ms;
        if !ordered {
            let (start, end) = (row.start_ms, row.end_ms);
            return Err(wrong(format!(
                "`start_ms` is {start} and `end_ms` {end}, but an iteration ends after it starts, at 0 or later"
            )));
        }
        let mut batch = Batch::new(0);
        for (_, tokens, computed) in row.scheduled {
            if tokens == 0 || tokens > MOST_TOKENS || computed > MOST_TOKENS {
                return Err(wrong(format!(
                    "`scheduled` has {tokens} tokens after {computed}, but a request computes from 1 to {MOST_TOKENS}"
                )));
            }
            batch.add_tokens(computed, computed + tokens);
        }
        let us = (row.end_ms - row.start_ms) * 1e3;
        rows.push(PassRow { features: StepFeatures::of(&batch), us, line: None });
    }
    Ok(PassRun { name: path.display().to_string(), rows, knows_contexts: true })
}

/// The longest sequence that is believed.
const MOST_TOKENS: u64 = 1 << 30;

/// What starts the part of a line that vLLM writes for an iteration.
const VLLM: &str = "Iteration(";

/// Whether a text is a log of vLLM with its iterations.
pub(super) fn is_vllm_log(text: &str) -> bool {
    text.contains(VLLM)
}

/// The iterations in a log of vLLM with `--enable-logging-iteration-details`:
/// `Iteration(7): 1 context requests, 512 context tokens, 20 generation requests, 20 generation tokens, iteration elapsed
/// time: 10.99 ms`. Other lines are not looked at.
pub(super) fn vllm_log(path: &Path, text: &str) -> Result<PassRun, Failure> {
    let mut rows = Vec::new();
    for (line, number) in text.lines().zip(1_u64..) {
        let Some(details) = line.find(VLLM).map(|start| &line[start..]) else { continue };
        let wrong = |problem: String| Failure::user(problem).at_line(path, number);
        let counted = |what: &str| {
            let before = details.find(what).map(|end| details[..end].trim_end());
            let word = before.and_then(|before| before.rsplit([' ', ':']).next());
            let count = word.and_then(|word| word.parse::<u64>().ok()).filter(|count| *count <= MOST_TOKENS);
            count.ok_or_else(|| wrong(format!("there is no whole number before `{what}`")))
        };
        let contexts = counted("context requests")?;
        let context_tokens = counted("context tokens")?;
        let generations = counted("generation requests")?;
        let generation_tokens = counted("generation tokens")?;
        let elapsed = details.split_once("elapsed time:").map(|(_, rest)| rest.trim_start());
        let elapsed = elapsed.and_then(|rest| rest.split_once(' '));
        let (number, unit) =
            elapsed.ok_or_else(|| wrong("there is no `iteration elapsed time: N ms`".to_owned()))?;
        let ms = number.parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms >= 0.0);
        let ms = ms.filter(|_| {
            unit.trim_end_matches([',', '.'])
                .split_whitespace()
                .next()
                .is_some_and(|unit| unit.trim_end_matches(',') == "ms")
        });
        let ms = ms.ok_or_else(|| {
            wrong(format!("the elapsed time is `{number} {unit}`, but must be a number of ms from 0"))
        })?;
        let line = LogLine { context_requests: contexts, context_tokens, generation_requests: generations };
        rows.extend(logged(line, generation_tokens, ms));
    }
    Ok(PassRun { name: path.display().to_string(), rows, knows_contexts: false })
}

/// A line of a log, unless nothing was computed.
fn logged(line: LogLine, generation_tokens: u64, ms: f64) -> Option<PassRow> {
    let sequences = line.context_requests + line.generation_requests;
    let features = StepFeatures {
        prefill_tokens: line.context_tokens as f64,
        sequences: sequences as f64,
        tokens: (line.context_tokens + generation_tokens) as f64,
        ..StepFeatures::default()
    };
    (sequences > 0 && ms > 0.0).then_some(PassRow { features, us: ms * 1e3, line: Some(line) })
}

/// Columns of a table of the iterations of vLLM's log.
const LOGGED: [&str; 5] =
    ["context_requests", "context_tokens", "generation_requests", "generation_tokens", "elapsed_ms"];
/// Columns of a table of passes of which contexts are known.
const KNOWN: [&str; 5] = ["prefill_tokens", "requests", "context_tokens", "attention_pairs", "took_ms"];

/// Whether the first line of a text is the header of a table of iterations.
pub(super) fn is_table(header: &str) -> bool {
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    [LOGGED, KNOWN].iter().any(|columns| columns.iter().all(|column| names.contains(column)))
}

/// The iterations in a table: a column for each number of a line of vLLM's log, or for what a step model prices. Other
/// columns are not looked at.
pub(super) fn table(path: &Path, text: &str) -> Result<PassRun, Failure> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let problem = |error: csv::Error| Failure::input(&error).about(path.display().to_string());
    let header = reader.headers().map_err(problem)?.clone();
    let place = |name: &str| header.iter().position(|column| column == name);
    let is_log = LOGGED.iter().all(|column| place(column).is_some());
    let columns = if is_log { LOGGED } else { KNOWN };
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(problem)?;
        let line = record.position().map_or(0, csv::Position::line);
        let mut values = [0.0; 5];
        for (value, column) in values.iter_mut().zip(columns) {
            let found = place(column).and_then(|place| record.get(place)).unwrap_or("");
            let number = found.parse::<f64>().ok().filter(|number| (0.0..=1e18).contains(number));
            let whole = number.filter(|number| column.ends_with("_ms") || number.fract() == 0.0);
            *value = whole.ok_or_else(|| {
                let path = path.display();
                Failure::user(format!(
                    "{path}, line {line}: `{column}` is `{found}`, but must be a number from 0"
                ))
            })?;
        }
        let [first, second, third, fourth, ms] = values;
        if is_log {
            let line = LogLine {
                context_requests: first as u64,
                context_tokens: second as u64,
                generation_requests: third as u64,
            };
            rows.extend(logged(line, fourth as u64, ms));
        } else if second > 0.0 && ms > 0.0 {
            let steps = if first > 0.0 { second - 1.0 } else { second };
            let features = StepFeatures {
                prefill_tokens: first,
                sequences: second,
                context_tokens: third,
                attention_pairs: fourth,
                // All but those of prompts compute one each; how many prompts there are is not said, mostly one.
                tokens: first + steps,
            };
            rows.push(PassRow { features, us: ms * 1e3, line: None });
        }
    }
    Ok(PassRun { name: path.display().to_string(), rows, knows_contexts: !is_log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_vllm_are_iterations() {
        let text = "INFO 12-22 21:44:39 [core.py:1] Starting\n\
                    (EngineCore_DP0 pid=2) INFO 12-22 21:44:40 [core.py:349] Iteration(515): 1 context requests, 512 \
                    context tokens, 20 generation requests, 20 generation tokens, iteration elapsed time: 10.99 ms\n\
                    Iteration(516): 0 context requests, 0 context tokens, 0 generation requests, 0 generation tokens, \
                    iteration elapsed time: 0.01 ms, GPU KV cache usage: 3.0%\n";
        let run = vllm_log(Path::new("log"), text).unwrap();
        let expected =
            StepFeatures { prefill_tokens: 512.0, sequences: 21.0, tokens: 532.0, ..StepFeatures::default() };
        let line = LogLine { context_requests: 1, context_tokens: 512, generation_requests: 20 };
        assert_eq!(run.rows, [PassRow { features: expected, us: 10_990.0, line: Some(line) }]);
        let cut = text.replace("20 generation tokens", "many generation tokens");
        let error = vllm_log(Path::new("log"), &cut).unwrap_err();
        assert_eq!(
            error.message().to_string(),
            "log, line 2: there is no whole number before `generation tokens`"
        );
    }
}
