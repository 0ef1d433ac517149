//! The results of `vllm bench serve` and `sglang.bench_serving`, which have most of their words in common.

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use servecast_record::{RequestRecord, RunRecord};
use servecast_types::Time;

use super::{e2e_ms, finished, samples, ttft_ms};
use crate::report::Report;

/// Figures of both benchmarks that go by the same name and definition; lengths of time are seconds. What there is no
/// sample of is 0, as there.
fn bench(report: &Report, e2e: &str) -> Map<String, Value> {
    let mut object = Map::new();
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("duration", json!(report.duration_ms.unwrap_or(0.0) / 1000.0));
    add("completed", json!(report.completed_requests));
    add("total_input_tokens", json!(report.total_input_tokens));
    add("total_output_tokens", json!(report.total_output_tokens));
    add("request_throughput", json!(report.request_throughput_rps.unwrap_or(0.0)));
    add("output_throughput", json!(report.output_throughput_tok_s.unwrap_or(0.0)));
    let metrics = [
        ("ttft", report.ttft_ms),
        ("tpot", report.tpot_ms),
        ("itl", report.itl_ms),
        (e2e, report.e2e_latency_ms),
    ];
    for (name, stats) in metrics {
        let figures = stats.map(|stats| [stats.mean, stats.median, stats.std, stats.p99]).unwrap_or_default();
        for (statistic, figure) in ["mean", "median", "std", "p99"].iter().zip(figures) {
            add(&format!("{statistic}_{name}_ms"), json!(figure));
        }
    }
    object
}

pub(super) fn vllm(run: &RunRecord, report: &Report) -> Value {
    let mut object = bench(report, "e2el");
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("backend", json!("servecast"));
    add("num_prompts", json!(report.num_requests));
    add("failed", json!(report.rejected_requests));
    add("total_token_throughput", json!(report.total_throughput_tok_s.unwrap_or(0.0)));
    if let Some(goodput) = report.goodput_request_throughput_rps {
        add("request_goodput", json!(goodput.unwrap_or(0.0)));
    }
    // One entry a request that was sent; those that failed have 0, as there.
    let all = |of: &dyn Fn(&RequestRecord) -> f64| json!(run.requests.iter().map(of).collect::<Vec<_>>());
    let if_finished = |request: &RequestRecord, value: f64| if request.is_finished() { value } else { 0.0 };
    add("input_lens", json!(run.requests.iter().map(|request| request.input_tokens).collect::<Vec<_>>()));
    let output = |request: &RequestRecord| if request.is_finished() { request.output_tokens } else { 0 };
    add("output_lens", json!(run.requests.iter().map(output).collect::<Vec<_>>()));
    add("ttfts", all(&|request| if_finished(request, ttft_ms(request).unwrap_or(0.0) / 1000.0)));
    add("latencies", all(&|request| if_finished(request, e2e_ms(request).unwrap_or(0.0) / 1000.0)));
    add("start_times", all(&|request| request.arrival.as_ms() / 1000.0));
    let error = |request: &RequestRecord| if request.is_finished() { "" } else { "rejected" };
    add("max_concurrent_requests", json!(most_under_way(run)));
    if let Some(tokens) = &run.token_times {
        add("itls", json!(itls(run, tokens)));
        add("max_output_tokens_per_s", json!(most_tokens_a_second(run, tokens)));
    }
    add("errors", json!(run.requests.iter().map(error).collect::<Vec<_>>()));
    Value::Object(object)
}

/// The gaps between the tokens of each request, in seconds; of those that failed none.
fn itls(run: &RunRecord, tokens: &[Vec<Time>]) -> Vec<Vec<f64>> {
    let gaps =
        |times: &[Time]| times.windows(2).map(|pair| pair[1].since(pair[0]).as_ms() / 1000.0).collect();
    let of = |(number, request): (usize, &RequestRecord)| {
        if request.is_finished() {
            tokens.get(number).map_or_else(Vec::new, |times| gaps(times))
        } else {
            Vec::new()
        }
    };
    run.requests.iter().enumerate().map(of).collect()
}

/// In which second since the first arrival something happens.
fn second_of(run: &RunRecord) -> impl Fn(Time) -> u64 {
    let first = run.requests.iter().map(|request| request.arrival).min().unwrap_or(Time::ZERO);
    move |time| time.since(first).as_ns() / 1_000_000_000
}

/// The most finished requests that one second of the clock has to do with.
fn most_under_way(run: &RunRecord) -> u64 {
    let second = second_of(run);
    // What begins in a second counts from it on, what ends in it up to the next.
    let mut changes: Vec<(u64, i64)> = finished(run)
        .flat_map(|request| [(second(request.arrival), 1), (second(request.ended) + 1, -1)])
        .collect();
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    most as u64
}

/// The most tokens that came within one second of the clock.
fn most_tokens_a_second(run: &RunRecord, tokens: &[Vec<Time>]) -> u64 {
    let mut counts: FxHashMap<u64, u64> = FxHashMap::default();
    let second = second_of(run);
    for (number, request) in run.requests.iter().enumerate() {
        for time in tokens.get(number).into_iter().flatten().filter(|_| request.is_finished()) {
            *counts.entry(second(*time)).or_insert(0) += 1;
        }
    }
    counts.into_values().max().unwrap_or(0)
}

pub(super) fn sglang(run: &RunRecord, report: &Report) -> Value {
    let mut object = bench(report, "e2e_latency");
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("backend", json!("servecast"));
    add("input_throughput", json!(report.input_throughput_tok_s.unwrap_or(0.0)));
    add("total_throughput", json!(report.total_throughput_tok_s.unwrap_or(0.0)));
    add("p95_itl_ms", json!(report.itl_ms.map_or(0.0, |stats| stats.p95)));
    add("max_itl_ms", json!(report.itl_ms.map_or(0.0, |stats| stats.max)));
    // Nothing is speculated, and tokens are counted as they are.
    add("accept_length", Value::Null);
    add("total_output_tokens_retokenized", json!(report.total_output_tokens));
    // Requests under way on average.
    let under_way: f64 = samples(run, e2e_ms).iter().sum();
    add("concurrency", json!(under_way / report.duration_ms.unwrap_or(0.0).max(1e-6)));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::super::tests::text;
    use super::*;
    use crate::ExportFormat;

    #[test]
    fn vllm_counts_seconds_and_a_failure_as_zero() {
        let result = serde_json::from_str::<Value>(&text(ExportFormat::VllmBench)).unwrap();
        assert_eq!((&result["duration"], &result["failed"]), (&json!(0.17), &json!(2)));
        assert_eq!(result["ttfts"], json!([0.02, 0.08, 0.0, 0.0]));
        assert_eq!(result["output_lens"], json!([3, 5, 0, 0]));
        assert_eq!((&result["mean_ttft_ms"], &result["mean_e2el_ms"]), (&json!(50.0), &json!(100.0)));
    }

    #[test]
    fn gaps_and_maxima_of_vllm_are_those_of_single_tokens() {
        let result = serde_json::from_str::<Value>(&text(ExportFormat::VllmBench)).unwrap();
        assert_eq!(result["itls"], json!([[0.01, 0.01], [0.01, 0.01, 0.02, 0.04], [], []]));
        assert_eq!(
            (&result["max_concurrent_requests"], &result["max_output_tokens_per_s"]),
            (&json!(2), &json!(8))
        );
        let seconds =
            |array: &Value| array.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).sum::<f64>();
        for number in 0..2 {
            let rest =
                result["latencies"][number].as_f64().unwrap() - result["ttfts"][number].as_f64().unwrap();
            assert!(
                (seconds(&result["itls"][number]) - rest).abs() < 1e-12,
                "gaps add up to the decode time"
            );
        }
    }

    #[test]
    fn sglang_knows_how_many_requests_are_under_way() {
        let text = text(ExportFormat::SglangBench);
        assert_eq!(text.lines().count(), 1);
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(result["concurrency"].as_f64().unwrap(), 200.0 / 170.0);
        assert_eq!((&result["mean_e2e_latency_ms"], &result["max_itl_ms"]), (&json!(100.0), &json!(40.0)));
    }
}
