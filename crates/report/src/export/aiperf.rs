//! The results of AIPerf: the summary of a run, and a record a request.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use servecast_record::{RequestRecord, RequestStatus, RunRecord};
use servecast_types::Duration;

use super::{e2e_ms, samples, ttft_ms};
use crate::latency::{tpot_ms, ttst};
use crate::report::Report;
use crate::stats::{Stats, percentile};

/// AIPerf's inter-token latency is a figure of a request, our TPOT; our ITL is its inter-chunk latency.
pub(super) fn summary(run: &RunRecord, report: &Report) -> Value {
    let tokens = |of: fn(&RequestRecord) -> u32| samples(run, move |request| Some(f64::from(of(request))));
    let rate = |request: &RequestRecord| Some(1000.0 / tpot_ms(request).filter(|&ms| ms > 0.0)?);
    let metrics = [
        ("time_to_first_token", "ms", samples(run, ttft_ms)),
        ("time_to_second_token", "ms", samples(run, |request| ttst(request).map(Duration::as_ms))),
        ("inter_token_latency", "ms", samples(run, tpot_ms)),
        ("request_latency", "ms", samples(run, e2e_ms)),
        ("output_token_throughput_per_user", "tokens/sec/user", samples(run, rate)),
        ("input_sequence_length", "tokens", tokens(|request| request.input_tokens)),
        ("output_sequence_length", "tokens", tokens(|request| request.output_tokens)),
    ];
    let gaps: Vec<(f64, u64)> =
        run.gaps.sorted().into_iter().map(|(gap, times)| (gap.as_ms(), times)).collect();
    let mut object = Map::new();
    object.insert("schema_version".to_owned(), json!("1.4"));
    for (name, unit, samples) in metrics {
        object.insert(name.to_owned(), metric(unit, &counted(samples)));
    }
    object.insert("inter_chunk_latency".to_owned(), metric("ms", &gaps));
    let singles = [
        ("request_throughput", "requests/sec", report.request_throughput_rps.unwrap_or(0.0)),
        ("output_token_throughput", "tokens/sec", report.output_throughput_tok_s.unwrap_or(0.0)),
        ("request_count", "requests", report.completed_requests as f64),
        ("error_request_count", "requests", report.rejected_requests as f64),
    ];
    let good = report.goodput_completed_requests.map(|good| ("good_request_count", "requests", good as f64));
    let goodput =
        report.goodput_request_throughput_rps.map(|rps| ("goodput", "requests/sec", rps.unwrap_or(0.0)));
    for (name, unit, value) in singles.into_iter().chain(good).chain(goodput) {
        object.insert(name.to_owned(), json!({ "unit": unit, "avg": value }));
    }
    Value::Object(object)
}

/// Samples in ascending order, each once.
fn counted(samples: Vec<f64>) -> Vec<(f64, u64)> {
    let mut samples: Vec<(f64, u64)> = samples.into_iter().map(|sample| (sample, 1)).collect();
    samples.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    samples
}

/// The statistics of values that ascend, each with how often it is there.
fn metric(unit: &str, values: &[(f64, u64)]) -> Value {
    // A metric without samples is 0 there.
    let [mean, min, max, std] =
        Stats::of_counted(values).map_or([0.0; 4], |stats| [stats.mean, stats.min, stats.max, stats.std]);
    let mut up_to = Vec::with_capacity(values.len());
    let (mut count, mut sum) = (0, 0.0);
    for (value, times) in values {
        (count, sum) = (count + times, sum + value * *times as f64);
        up_to.push(count);
    }
    let mut metric =
        json!({ "unit": unit, "avg": mean, "min": min, "max": max, "std": std, "count": count, "sum": sum });
    let at = |rank: u64| values[up_to.partition_point(|&up_to| up_to <= rank)].0;
    for percent in [1, 5, 10, 25, 50, 75, 90, 95, 99] {
        let value = if count == 0 { 0.0 } else { percentile(count, f64::from(percent), at) };
        metric[format!("p{percent}")] = json!(value);
    }
    metric
}

/// A line a request: when it was sent and ended, and its own metrics; one that was rejected has an error instead.
pub(super) fn records(run: &RunRecord, mut out: impl Write) -> io::Result<()> {
    for (number, request) in run.requests.iter().enumerate() {
        serde_json::to_writer(&mut out, &record(number, request))?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn record(number: usize, request: &RequestRecord) -> Value {
    let metadata = json!({
        "session_num": number,
        "x_request_id": format!("request-{number}"),
        "conversation_id": format!("session-{}", request.session),
        "turn_index": request.turn,
        "request_start_ns": request.arrival.as_ns(),
        "request_end_ns": request.ended.as_ns(),
        "worker_id": request.stages.last().map(|stage| format!("{}-{}", stage.pool.name(), stage.worker.0)),
        "benchmark_phase": "profiling",
        "was_cancelled": request.status == RequestStatus::Withdrawn,
    });
    let error = match request.status {
        RequestStatus::Rejected(reason) => Some(json!({ "type": "rejected", "message": reason })),
        RequestStatus::Failed => Some(json!({ "type": "failed", "message": "its worker failed" })),
        RequestStatus::Finished | RequestStatus::Withdrawn => None,
    };
    if let Some(error) = error {
        return json!({ "metadata": metadata, "metrics": {}, "error": error });
    }
    let tokens = |count: u32| Some(f64::from(count));
    let tpot = tpot_ms(request);
    let metrics = [
        ("time_to_first_token", "ms", ttft_ms(request)),
        ("time_to_second_token", "ms", ttst(request).map(Duration::as_ms)),
        ("inter_token_latency", "ms", tpot),
        ("request_latency", "ms", e2e_ms(request)),
        (
            "output_token_throughput_per_user",
            "tokens/sec/user",
            tpot.filter(|&ms| ms > 0.0).map(|ms| 1000.0 / ms),
        ),
        ("input_sequence_length", "tokens", tokens(request.input_tokens)),
        ("output_sequence_length", "tokens", tokens(request.output_tokens)),
    ];
    let metrics: Map<String, Value> = metrics
        .into_iter()
        .filter_map(|(tag, unit, value)| Some((tag.to_owned(), json!({ "value": value?, "unit": unit }))))
        .collect();
    json!({ "metadata": metadata, "metrics": metrics, "error": null })
}

#[cfg(test)]
mod tests {
    use super::super::tests::text;
    use super::*;
    use crate::ExportFormat;

    #[test]
    fn the_inter_token_latency_of_aiperf_is_that_of_a_request() {
        let result = serde_json::from_str::<Value>(&text(ExportFormat::Aiperf)).unwrap();
        let metric = &result["inter_token_latency"];
        assert_eq!(
            (&metric["min"], &metric["max"], &metric["avg"]),
            (&json!(10.0), &json!(20.0), &json!(15.0))
        );
        assert_eq!(
            (&metric["count"], &metric["p50"], &metric["unit"]),
            (&json!(2), &json!(15.0), &json!("ms"))
        );
        assert_eq!(result["request_count"], json!({ "unit": "requests", "avg": 2.0 }));
        let chunks = &result["inter_chunk_latency"];
        assert_eq!(
            (&chunks["count"], &chunks["p50"], &chunks["max"]),
            (&json!(7), &json!(10.0), &json!(40.0))
        );
    }

    #[test]
    fn a_record_has_the_metrics_of_its_request() {
        let text = text(ExportFormat::AiperfRecords);
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 4);
        let one = &records[1];
        assert_eq!(one["metadata"]["request_start_ns"], 20_000_000);
        assert_eq!(one["metadata"]["request_end_ns"], 180_000_000);
        assert_eq!(one["metadata"]["worker_id"], "decode-1");
        assert_eq!(one["metrics"]["time_to_first_token"], json!({ "value": 80.0, "unit": "ms" }));
        assert_eq!(one["metrics"]["inter_token_latency"]["value"], 20.0);
        assert_eq!((&one["error"], &records[2]["metrics"]), (&Value::Null, &json!({})));
        assert_eq!(records[2]["error"]["message"], "prompt_too_long");
    }
}
