//! Results of `vllm bench serve --save-detailed` and `sglang.bench_serving --output-details`: an object with lists, an
//! entry for each request. Times are seconds; SGLang's has no start times.

use std::io::BufRead;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::json::{Items, number, whole};
use super::measured::{Measured, MeasuredRequest, ends_too_early};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, delay_in, timestamp_in, tokens_up_to};
use crate::{TimeUnit, TraceError, fields};

/// The lists, and how the load was limited; what else there is describes the run.
#[derive(Deserialize)]
struct Lists {
    input_lens: Option<Vec<Value>>,
    output_lens: Option<Vec<Value>>,
    start_times: Option<Vec<Value>>,
    ttfts: Option<Vec<Value>>,
    latencies: Option<Vec<Value>>,
    itls: Option<Vec<Box<RawValue>>>,
    errors: Option<Vec<Value>>,
    max_concurrency: Option<Value>,
    request_rate: Option<Value>,
    duration: Option<Value>,
}

/// Reads the results of a file, one after another.
pub(super) fn read(input: &mut dyn BufRead) -> Result<Measured, TraceError> {
    let mut measured = Measured::default();
    let mut items = Items::new(input);
    while let Some(item) = items.next()? {
        item.parse::<Lists>()?.take(item.line, &mut measured)?;
        measured.runs += 1;
    }
    Ok(measured)
}

impl Lists {
    fn take(&self, line: u64, measured: &mut Measured) -> Result<(), TraceError> {
        let needed = "a list with a number for each request, which `--save-detailed` (vLLM) and `--output-details` \
                      (SGLang) write";
        let missing =
            |field: &'static str| TraceError::Missing { line, field: field.into(), expected: needed };
        let inputs = self.input_lens.as_ref().ok_or_else(|| missing("input_lens"))?;
        let outputs = self.output_lens.as_ref().ok_or_else(|| missing("output_lens"))?;
        let lengths = [
            ("output_lens", Some(outputs.len())),
            ("start_times", self.start_times.as_ref().map(Vec::len)),
            ("ttfts", self.ttfts.as_ref().map(Vec::len)),
            ("latencies", self.latencies.as_ref().map(Vec::len)),
            ("itls", self.itls.as_ref().map(Vec::len)),
            ("errors", self.errors.as_ref().map(Vec::len)),
        ];
        for (field, length) in lengths {
            if let Some(length) = length.filter(|length| *length != inputs.len()) {
                let expected = format!("one of {}, as many as `input_lens` has", inputs.len());
                let found = format!("a list of {length} entries");
                return Err(TraceError::Value { line, field: field.into(), found, expected });
            }
        }
        let wrong = |field: &'static str, value: &Value, expected: String| TraceError::Value {
            line,
            field: field.into(),
            found: fields::described(&value.to_string()),
            expected,
        };
        measured.duration_s = given(self.duration.as_ref())
            .map(|value| {
                let seconds = number(value).filter(|seconds| (0.0..=MOST_SECONDS).contains(seconds));
                seconds.ok_or_else(|| wrong("duration", value, delay_in(TimeUnit::S)))
            })
            .transpose()?;
        if let Some(value) = given(self.max_concurrency.as_ref()) {
            let number = whole(value).filter(|number| *number > 0);
            let expected = || "a whole number of requests, at least 1".to_owned();
            measured.concurrency = Some(number.ok_or_else(|| wrong("max_concurrency", value, expected()))?);
        }
        if let Some(value) = given(self.request_rate.as_ref()) {
            let expected = || "requests a second, above 0, or \"inf\"".to_owned();
            measured.request_rate =
                Some(rate(value).ok_or_else(|| wrong("request_rate", value, expected()))?);
        }
        for place in 0..inputs.len() {
            let entry = (measured.requests.len() as u64) + measured.failed.rows + 1;
            let at = Place { line, place };
            let failed = match self.errors.as_ref().map(|errors| &errors[place]) {
                None | Some(Value::Null) => false,
                Some(Value::String(error)) => !error.is_empty(),
                Some(other) => {
                    return Err(at.wrong(
                        "errors",
                        &other.to_string(),
                        "a string, empty if there was none".into(),
                    ));
                }
            } || [&inputs[place], &outputs[place]].map(whole).contains(&Some(0));
            if failed {
                measured.failed.add(entry);
            } else {
                let request = self.request(at, entry)?;
                measured.requests.push(request);
            }
        }
        Ok(())
    }

    fn request(&self, at: Place, entry: u64) -> Result<MeasuredRequest, TraceError> {
        let ttft_s = at.seconds("ttfts", self.ttfts.as_ref(), 0.0)?;
        let gaps_s = self.itls.as_ref().map(|gaps| at.gaps(&gaps[at.place])).transpose()?.unwrap_or_default();
        let e2e_s = match at.seconds("latencies", self.latencies.as_ref(), 0.0)? {
            None if self.itls.is_some() => ttft_s.map(|ttft_s| ttft_s + gaps_s.iter().sum::<f64>()),
            latency => latency,
        };
        if let Some(expected) = ends_too_early(ttft_s, e2e_s) {
            let value = self.latencies.as_ref().map_or(Value::Null, |list| list[at.place].clone());
            return Err(at.wrong("latencies", &value.to_string(), expected));
        }
        Ok(MeasuredRequest {
            line: entry,
            session: None,
            sent_s: at.seconds("start_times", self.start_times.as_ref(), -MOST_SECONDS)?,
            input_tokens: at.tokens("input_lens", self.input_lens.as_ref(), MAX_INPUT_TOKENS)?,
            output_tokens: at.tokens("output_lens", self.output_lens.as_ref(), MAX_OUTPUT_TOKENS)?,
            ttft_s,
            e2e_s,
            gaps_s,
        })
    }
}

/// What is there and not null.
fn given(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

/// Requests a second, as results say it.
fn rate(value: &Value) -> Option<f64> {
    let at_once = value.as_str().filter(|text| *text == "inf").map(|_| f64::INFINITY);
    at_once.or_else(|| number(value)).filter(|rate| *rate > 0.0)
}

const MOST_SECONDS: f64 = crate::row::MAX_TIME_MS / 1e3;

/// An entry of the lists of a result.
#[derive(Clone, Copy)]
struct Place {
    /// The line at which the result begins.
    line: u64,
    place: usize,
}

impl Place {
    fn wrong(self, list: &str, found: &str, expected: String) -> TraceError {
        let field = format!("{list}[{}]", self.place);
        TraceError::Value { line: self.line, field, found: fields::described(found), expected }
    }

    fn seconds(self, name: &str, list: Option<&Vec<Value>>, least: f64) -> Result<Option<f64>, TraceError> {
        let Some(value) = list.map(|list| &list[self.place]) else { return Ok(None) };
        let seconds = number(value).filter(|seconds| (least..=MOST_SECONDS).contains(seconds));
        let expected = if least < 0.0 { timestamp_in(TimeUnit::S) } else { delay_in(TimeUnit::S) };
        seconds.map(Some).ok_or_else(|| self.wrong(name, &value.to_string(), expected))
    }

    fn tokens(self, name: &str, list: Option<&Vec<Value>>, most: u64) -> Result<u64, TraceError> {
        let value = list.map_or(&Value::Null, |list| &list[self.place]);
        let tokens = whole(value).filter(|tokens| (1..=most).contains(tokens));
        tokens.ok_or_else(|| self.wrong(name, &value.to_string(), tokens_up_to(most)))
    }

    fn gaps(self, list: &RawValue) -> Result<Vec<f64>, TraceError> {
        let gaps = serde_json::from_str::<Vec<f64>>(list.get()).ok();
        let gaps = gaps.filter(|gaps| gaps.iter().all(|gap| (0.0..=MOST_SECONDS).contains(gap)));
        gaps.ok_or_else(|| {
            self.wrong("itls", list.get(), format!("a list, each of it {}", delay_in(TimeUnit::S)))
        })
    }
}
