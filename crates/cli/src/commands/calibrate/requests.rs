//! Requests that were measured, from the files of tools that measure.

use std::path::Path;

use serde_json::{Map, Value};
use servecast_calibrate::{RequestRow, RequestTimes};
use servecast_workload::{MeasuredRequest, TimeUnit, TraceFormat, read_measured};

use crate::error::Failure;
use crate::source::unusable_trace;

/// Requests of a file, and those of it that were not served.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) rows: Vec<RequestRow>,
    pub(super) failed: usize,
    /// Those that came before the measurement.
    pub(super) warmups: usize,
}

/// What a request is, by the names that tools have for it.
const ARRIVAL: &[&str] = &["arrival", "arrival_time", "start_time", "start"];
const INPUT: &[&str] = &["input_tokens", "input_length", "input_toks", "prompt_tokens", "isl"];
const OUTPUT: &[&str] = &["output_tokens", "output_length", "output_toks", "completion_tokens", "osl"];
const TTFT: &[&str] = &["ttft", "time_to_first_token"];
const E2E: &[&str] = &["e2e", "e2e_latency", "request_latency", "latency"];
/// Lists of times between tokens, and what makes ms of them.
const GAPS: [(&str, f64); 4] = [("gaps_ms", 1.0), ("itls_ms", 1.0), ("itl_ms", 1.0), ("itls", 1e3)];
const CACHED: &[&str] = &["cached_tokens", "num_cached_tokens", "prompt_cached_tokens"];
/// Units in the order of [`TimeUnit`], and what makes seconds of them.
const UNITS: [(&str, f64); 4] = [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)];
/// A century.
const MOST_SECONDS: f64 = 4e9;

/// Rows with keys such as `arrival_ms`, `input_tokens`, `output_tokens`, `ttft_ms` and `e2e_ms`: JSON Lines. `unit` is
/// that of keys without one.
pub(super) fn json_lines(path: &Path, text: &str, unit: Option<TimeUnit>) -> Result<Measured, Failure> {
    let mut file = File { path, given: unit, unit: None, measured: Measured::default() };
    for (line, number) in text.lines().zip(1_u64..).filter(|(line, _)| !line.trim().is_empty()) {
        let row: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| Failure::input(&error).at_line(path, number))?;
        file.take(number, &row)?;
    }
    Ok(file.measured)
}

/// The same as comma-separated values with a header.
pub(super) fn table(path: &Path, text: &str, unit: Option<TimeUnit>) -> Result<Measured, Failure> {
    let mut file = File { path, given: unit, unit: None, measured: Measured::default() };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let problem = |error: csv::Error| Failure::input(&error).about(path.display().to_string());
    let header = reader.headers().map_err(problem)?.clone();
    for record in reader.records() {
        let record = record.map_err(problem)?;
        let number = record.position().map_or(0, csv::Position::line);
        let value = |text: &str| match text {
            "" => Value::Null,
            _ => serde_json::from_str(text)
                .ok()
                .filter(Value::is_number)
                .unwrap_or_else(|| Value::String(text.to_owned())),
        };
        let row = header.iter().map(str::to_owned).zip(record.iter().map(value)).collect();
        file.take(number, &row)?;
    }
    Ok(file.measured)
}

/// A file of rows, all of whose times have one unit.
struct File<'a> {
    path: &'a Path,
    /// The unit of times whose keys have none.
    given: Option<TimeUnit>,
    unit: Option<(&'static str, f64)>,
    measured: Measured,
}

impl File<'_> {
    fn wrong(&self, line: u64, problem: &str) -> Failure {
        Failure::user(problem).at_line(self.path, line)
    }

    fn take(&mut self, line: u64, row: &Map<String, Value>) -> Result<(), Failure> {
        let served = row
            .get("status")
            .and_then(Value::as_str)
            .is_none_or(|status| matches!(status, "finished" | "ok" | "success" | "completed"));
        if !served {
            self.measured.failed += 1;
            return Ok(());
        }
        let arrival = self.time(line, row, ARRIVAL, "arrival")?;
        let arrival_s =
            arrival.ok_or_else(|| self.missing(line, row, "arrival_ms, when the request was sent"))?;
        let input_tokens = self.tokens(line, row, INPUT)?;
        let output_tokens = self.tokens(line, row, OUTPUT)?;
        let ttft = self.time(line, row, TTFT, "ttft")?;
        let e2e = self.time(line, row, E2E, "e2e")?;
        let times = match (ttft, e2e) {
            (None, None) => None,
            (Some(ttft), Some(e2e)) => Some(self.checked(line, ttft, e2e)?),
            (Some(_), None) => return Err(self.missing(line, row, "e2e_ms, from arrival to the last token")),
            (None, Some(_)) => {
                return Err(self.missing(line, row, "ttft_ms, from arrival to the first token"));
            }
        };
        self.measured.rows.push(RequestRow {
            line,
            arrival_s,
            input_tokens,
            output_tokens,
            prompt: None,
            times,
            gaps_ms: self.gaps(line, row, output_tokens)?,
            cached_tokens: self.cached(line, row, input_tokens)?,
        });
        Ok(())
    }

    /// Times between tokens, if the row has them for each token: what else there is is one of chunks.
    fn gaps(&self, line: u64, row: &Map<String, Value>, output_tokens: u32) -> Result<Vec<f64>, Failure> {
        for (name, to_ms) in GAPS {
            let Some(value) = row.get(name).filter(|value| !value.is_null()) else { continue };
            let numbers = value.as_array().map(|list| list.iter().map(Value::as_f64));
            let is_gap = |gap: Option<f64>| gap.is_some_and(|gap| (0.0..=MOST_SECONDS).contains(&gap));
            if !numbers.is_some_and(|mut numbers| numbers.all(is_gap)) {
                let message = format!("`{name}` must be a list of times from 0, but is {value}");
                return Err(self.wrong(line, &message));
            }
            return Ok(list_of(Some(value), to_ms, u64::from(output_tokens)));
        }
        Ok(Vec::new())
    }

    fn cached(&self, line: u64, row: &Map<String, Value>, input_tokens: u32) -> Result<Option<u32>, Failure> {
        let found =
            CACHED.iter().find_map(|name| Some((name, row.get(*name).filter(|value| !value.is_null())?)));
        let Some((name, value)) = found else { return Ok(None) };
        let cached = value.as_u64().filter(|&cached| cached <= u64::from(input_tokens));
        let message = || {
            format!(
                "`{name}` is {value}, but must be a number of tokens of the prompt, which has {input_tokens}"
            )
        };
        cached.map(|cached| Some(cached as u32)).ok_or_else(|| self.wrong(line, &message()))
    }

    fn checked(&self, line: u64, ttft_s: f64, e2e_s: f64) -> Result<RequestTimes, Failure> {
        times_of(ttft_s, e2e_s).map_err(|problem| self.wrong(line, &problem))
    }

    fn missing(&self, line: u64, row: &Map<String, Value>, what: &str) -> Failure {
        let keys: Vec<&str> = row.keys().map(String::as_str).take(12).collect();
        self.wrong(line, &format!("there is no {what}")).with_hint(format!(
            "rows have arrival, ttft and e2e with a unit (_ms, _s, _us or _ns), input_tokens and output_tokens; this one \
             has {}",
            keys.join(", ")
        ))
    }

    /// A time in seconds, whatever its name's unit is; that of all of them must be one.
    fn time(
        &mut self,
        line: u64,
        row: &Map<String, Value>,
        names: &[&str],
        what: &str,
    ) -> Result<Option<f64>, Failure> {
        for name in names {
            for (unit, seconds) in UNITS {
                let key = format!("{name}_{unit}");
                let Some(value) = row.get(&key).filter(|value| !value.is_null()) else { continue };
                return self.time_in(line, &key, value, (unit, seconds), what).map(Some);
            }
            let Some(value) = row.get(*name).filter(|value| !value.is_null()) else { continue };
            let Some(given) = self.given else {
                let message = format!(
                    "`{name}` has no unit: call it {name}_ms, {name}_s, {name}_us or {name}_ns, or say --time-unit"
                );
                return Err(self.wrong(line, &message));
            };
            let unit = UNITS[given as usize];
            return self.time_in(line, name, value, unit, what).map(Some);
        }
        Ok(None)
    }

    /// The time that `key` has, in seconds.
    fn time_in(
        &mut self,
        line: u64,
        key: &str,
        value: &Value,
        (unit, seconds): (&'static str, f64),
        what: &str,
    ) -> Result<f64, Failure> {
        let first = *self.unit.get_or_insert((unit, seconds));
        if first.0 != unit {
            let message = format!(
                "`{key}` is in {unit}, but other times of the file are in {}: write all in one unit",
                first.0
            );
            return Err(self.wrong(line, &message));
        }
        let time = value.as_f64().map(|time| time * seconds);
        // When it was sent may count from anywhere.
        let lowest = if what == "arrival" { -MOST_SECONDS } else { 0.0 };
        let time = time.filter(|time| (lowest..=MOST_SECONDS).contains(time));
        time.ok_or_else(|| {
            self.wrong(line, &format!("`{key}` is {value}, but must be a time of at least 0 {unit}"))
        })
    }

    fn tokens(&self, line: u64, row: &Map<String, Value>, names: &[&str]) -> Result<u32, Failure> {
        let found =
            names.iter().find_map(|name| Some((name, row.get(*name).filter(|value| !value.is_null())?)));
        let (name, value) =
            found.ok_or_else(|| self.missing(line, row, &format!("{}, a number of tokens", names[0])))?;
        tokens(value).ok_or_else(|| {
            self.wrong(
                line,
                &format!("`{name}` is {value}, but must be a whole number of tokens from 1 to {MOST_TOKENS}"),
            )
        })
    }
}

/// The longest prompt or output that is believed.
const MOST_TOKENS: u64 = 1 << 24;

fn tokens(value: &Value) -> Option<u32> {
    let whole = value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
        Some(number as u64)
    });
    whole.filter(|tokens| (1..=MOST_TOKENS).contains(tokens)).map(|tokens| tokens as u32)
}

/// The times of a list in ms, if there is one between each token and the next.
fn list_of(list: Option<&Value>, to_ms: f64, output_tokens: u64) -> Vec<f64> {
    let list = list.and_then(Value::as_array).filter(|list| list.len() as u64 + 1 == output_tokens);
    let times = list.into_iter().flatten().filter_map(Value::as_f64);
    times.map(|time| time * to_ms).collect()
}

fn times_of(ttft_s: f64, e2e_s: f64) -> Result<RequestTimes, String> {
    if ttft_s <= 0.0 || e2e_s < ttft_s {
        return Err(format!(
            "the first token comes after {ttft_s} s and the last one after {e2e_s} s, but the first must come after 0 s \
             and not after the last"
        ));
    }
    Ok(RequestTimes { ttft_ms: ttft_s * 1e3, e2e_ms: e2e_s * 1e3 })
}

/// The requests that a client measured and wrote in the form of its own.
pub(super) fn of_client(path: &Path, text: &str, format: TraceFormat) -> Result<Measured, Failure> {
    let found = read_measured(&mut text.as_bytes(), format).expect("such files have measured requests");
    let found = found.map_err(|error| unusable_trace(path, &error))?;
    let row = |request: &MeasuredRequest| {
        let wrong = |problem: &str| {
            Failure::user(format!("request {}: {problem}", request.line)).about(path.display().to_string())
        };
        let needed = |time: Option<f64>, what: &str| {
            let hint = "`vllm bench serve --save-result --save-detailed` of a recent release writes all that is needed";
            time.ok_or_else(|| wrong(&format!("nothing says {what}")).with_hint(hint))
        };
        let (ttft_s, e2e_s) = (
            needed(request.ttft_s, "when its first token came")?,
            needed(request.e2e_s, "when its last token came")?,
        );
        let gaps = Some(&request.gaps_s).filter(|gaps| gaps.len() as u64 + 1 == request.output_tokens);
        Ok(RequestRow {
            line: request.line,
            arrival_s: needed(request.sent_s, "when it was sent")?,
            // Those of a trace are below 2³⁰.
            input_tokens: request.input_tokens as u32,
            output_tokens: request.output_tokens as u32,
            prompt: None,
            times: Some(times_of(ttft_s, e2e_s).map_err(|problem| wrong(&problem))?),
            gaps_ms: gaps.into_iter().flatten().map(|gap| gap * 1e3).collect(),
            cached_tokens: None,
        })
    };
    Ok(Measured {
        rows: found.requests.iter().map(row).collect::<Result<_, _>>()?,
        failed: found.failed.rows as usize,
        warmups: found.warmups.rows as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(measured: Result<Measured, Failure>) -> RequestRow {
        measured.map_err(|failure| failure.message().to_string()).unwrap().rows[0].clone()
    }

    fn expected() -> RequestRow {
        let times = Some(RequestTimes { ttft_ms: 250.0, e2e_ms: 1250.0 });
        RequestRow { arrival_s: 2.0, input_tokens: 100, output_tokens: 11, times, ..RequestRow::default() }
    }

    #[test]
    fn every_tool_has_its_words() {
        let path = Path::new("f");
        let lines = "{\"arrival_ms\": 2000, \"input_length\": 100, \"output_length\": 11, \"ttft_ms\": 250, \
                     \"e2e_latency_ms\": 1250, \"status\": \"finished\"}\n{\"status\": \"rejected\"}\n";
        assert_eq!(row(json_lines(path, lines, None)), RequestRow { line: 1, ..expected() });
        assert_eq!(json_lines(path, lines, None).unwrap().failed, 1);
        let text = "arrival_s,isl,osl,ttft_s,e2e_s\n2.0,100,11,0.25,1.25\n";
        assert_eq!(row(table(path, text, None)), RequestRow { line: 2, ..expected() });
        let lines =
            "{\"arrival\": 2, \"input_length\": 100, \"output_length\": 11, \"ttft\": 0.25, \"e2e\": 1.25}";
        assert_eq!(row(json_lines(path, lines, Some(TimeUnit::S))), RequestRow { line: 1, ..expected() });
        let text = "arrival,isl,osl,ttft,e2e\n2000000,100,11,250000,1250000\n";
        assert_eq!(row(table(path, text, Some(TimeUnit::Us))), RequestRow { line: 2, ..expected() });
        let bench = serde_json::json!({
            "input_lens": [100, 3], "output_lens": [11, 0], "ttfts": [0.25, 0.0], "itls": [[0.5, 0.5], []],
            "start_times": [2.0, 2.0], "errors": ["", "gone"],
        });
        let of_client = |text: &str, format| of_client(path, text, format);
        let bench = row(of_client(&bench.to_string(), TraceFormat::VllmBench));
        assert_eq!(bench, RequestRow { line: 1, ..expected() });
        let record = serde_json::json!({
            "metadata": {"request_start_ns": 2_000_000_000_u64, "benchmark_phase": "profiling"},
            "metrics": {
                "time_to_first_token": {"value": 250.0, "unit": "ms"}, "request_latency": {"value": 1.25, "unit": "s"},
                "input_sequence_length": {"value": 100, "unit": "tokens"},
                "output_sequence_length": {"value": 11, "unit": "tokens"},
            },
        });
        assert_eq!(
            row(of_client(&record.to_string(), TraceFormat::Aiperf)),
            RequestRow { line: 1, ..expected() }
        );
        let (mut warmup, mut cancelled) = (record.clone(), record.clone());
        warmup["metadata"]["benchmark_phase"] = "warmup".into();
        cancelled["metadata"]["was_cancelled"] = true.into();
        let lines = format!("{warmup}\n{warmup}\n{cancelled}\n{record}");
        let measured = of_client(&lines, TraceFormat::Aiperf).unwrap();
        assert_eq!((measured.rows.len(), measured.warmups, measured.failed), (1, 2, 1));
    }

    #[test]
    fn rows_that_cannot_be_meant_are_refused() {
        let check = |rest: &str, message: &str| {
            let line = format!("{{\"arrival_ms\": 0, \"input_tokens\": 9, \"output_tokens\": 2, {rest}}}");
            let error = json_lines(Path::new("f"), &line, None).unwrap_err();
            assert!(error.message().to_string().contains(message), "{}", error.message());
        };
        check(
            "\"ttft_ms\": -1, \"e2e_ms\": 2",
            "f, line 1: `ttft_ms` is -1, but must be a time of at least 0 ms",
        );
        check("\"ttft_s\": 1, \"e2e_ms\": 2", "`ttft_s` is in s, but other times of the file are in ms");
        check("\"ttft\": 1, \"e2e_ms\": 2", "`ttft` has no unit: call it ttft_ms");
        check(
            "\"ttft_ms\": 3, \"e2e_ms\": 2",
            "the first token comes after 0.003 s and the last one after 0.002 s",
        );
        check("\"ttft_ms\": 3", "there is no e2e_ms");
        check("\"ttft_ms\": 1, \"e2e_ms\": 2, \"input_tokens\": 0.5", "`input_tokens` is 0.5");
    }
}
