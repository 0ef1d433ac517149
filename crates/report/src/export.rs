//! A run in the words of the tools that measure real deployments, by their definitions.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use servecast_cluster::record::{RequestRecord, RunRecord};
use servecast_types::Duration;

use crate::latency::{tpot_ms, ttst};
use crate::report::Report;
use crate::stats::{Stats, percentile};

/// Whose result a file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// `profile_export_aiperf.json` of AIPerf.
    Aiperf,
    /// The JSON of `vllm bench serve --save-result --save-detailed`.
    VllmBench,
    /// The JSON line of `sglang.bench_serving`.
    SglangBench,
    /// A line a request, with a header.
    Csv,
}

impl ExportFormat {
    /// All formats by name.
    pub const ALL: [(&'static str, Self); 4] = [
        ("aiperf", Self::Aiperf),
        ("vllm-bench", Self::VllmBench),
        ("sglang-bench", Self::SglangBench),
        ("csv", Self::Csv),
    ];
}

/// Writes a run in the form of another tool.
pub fn export(format: ExportFormat, run: &RunRecord, report: &Report, mut out: impl Write) -> io::Result<()> {
    match format {
        ExportFormat::Aiperf => serde_json::to_writer_pretty(&mut out, &aiperf(run, report))?,
        ExportFormat::VllmBench => serde_json::to_writer_pretty(&mut out, &vllm_bench(run, report))?,
        ExportFormat::SglangBench => serde_json::to_writer(&mut out, &sglang_bench(run, report))?,
        ExportFormat::Csv => return csv(run, out),
    }
    out.write_all(b"\n")
}

fn finished(run: &RunRecord) -> impl Iterator<Item = &RequestRecord> {
    run.requests.iter().filter(|request| request.is_finished())
}

fn samples(run: &RunRecord, of: impl Fn(&RequestRecord) -> Option<f64>) -> Vec<f64> {
    finished(run).filter_map(of).collect()
}

fn ttft_ms(request: &RequestRecord) -> Option<f64> {
    request.ttft().map(Duration::as_ms)
}

fn e2e_ms(request: &RequestRecord) -> Option<f64> {
    request.e2e().map(Duration::as_ms)
}

/// Figures of both benchmarks that go by the same name and definition; lengths of time are seconds.
fn bench(report: &Report, e2e: &str) -> Map<String, Value> {
    let mut object = Map::new();
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("duration", json!(report.duration_ms / 1000.0));
    add("completed", json!(report.completed_requests));
    add("total_input_tokens", json!(report.total_input_tokens));
    add("total_output_tokens", json!(report.total_output_tokens));
    add("request_throughput", json!(report.request_throughput_rps));
    add("output_throughput", json!(report.output_throughput_tok_s));
    let metrics = [
        ("ttft", report.ttft_ms),
        ("tpot", report.tpot_ms),
        ("itl", report.itl_ms),
        (e2e, report.e2e_latency_ms),
    ];
    for (name, stats) in metrics {
        let Stats { mean, median, std, p99, .. } = stats;
        for (statistic, value) in [("mean", mean), ("median", median), ("std", std), ("p99", p99)] {
            add(&format!("{statistic}_{name}_ms"), json!(value));
        }
    }
    object
}

fn vllm_bench(run: &RunRecord, report: &Report) -> Value {
    let mut object = bench(report, "e2el");
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("failed", json!(report.rejected_requests));
    add("total_token_throughput", json!(report.total_throughput_tok_s));
    if let Some(goodput) = report.goodput_request_throughput_rps {
        add("request_goodput", json!(goodput));
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
    add("errors", json!(run.requests.iter().map(error).collect::<Vec<_>>()));
    Value::Object(object)
}

fn sglang_bench(run: &RunRecord, report: &Report) -> Value {
    let mut object = bench(report, "e2e_latency");
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("backend", json!("servecast"));
    add("input_throughput", json!(report.input_throughput_tok_s));
    add("total_throughput", json!(report.total_throughput_tok_s));
    add("p95_itl_ms", json!(report.itl_ms.p95));
    add("max_itl_ms", json!(report.itl_ms.max));
    // Requests under way on average.
    let under_way: f64 = samples(run, e2e_ms).iter().sum();
    add("concurrency", json!(under_way / report.duration_ms.max(1e-6)));
    Value::Object(object)
}

/// AIPerf's inter-token latency is a figure of a request, our TPOT; our ITL is its inter-chunk latency.
fn aiperf(run: &RunRecord, report: &Report) -> Value {
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
    let mut object = Map::new();
    object.insert("schema_version".to_owned(), json!("1.4"));
    for (name, unit, samples) in metrics {
        object.insert(name.to_owned(), aiperf_metric(unit, samples));
    }
    let singles = [
        ("request_throughput", "requests/sec", report.request_throughput_rps),
        ("output_token_throughput", "tokens/sec", report.output_throughput_tok_s),
        ("request_count", "requests", report.completed_requests as f64),
        ("error_request_count", "requests", report.rejected_requests as f64),
    ];
    let good = report.goodput_completed_requests.map(|good| ("good_request_count", "requests", good as f64));
    let goodput = report.goodput_request_throughput_rps.map(|rps| ("goodput", "requests/sec", rps));
    for (name, unit, value) in singles.into_iter().chain(good).chain(goodput) {
        object.insert(name.to_owned(), json!({ "unit": unit, "avg": value }));
    }
    Value::Object(object)
}

fn aiperf_metric(unit: &str, mut samples: Vec<f64>) -> Value {
    let Stats { mean, min, max, std, .. } = Stats::of(&samples);
    let (count, sum) = (samples.len() as u64, samples.iter().sum::<f64>());
    let mut metric =
        json!({ "unit": unit, "avg": mean, "min": min, "max": max, "std": std, "count": count, "sum": sum });
    samples.sort_unstable_by(f64::total_cmp);
    for percent in [1, 5, 10, 25, 50, 75, 90, 95, 99] {
        let value = if count == 0 {
            0.0
        } else {
            percentile(count, f64::from(percent), |rank| samples[rank as usize])
        };
        metric[format!("p{percent}")] = json!(value);
    }
    metric
}

fn csv(run: &RunRecord, mut out: impl Write) -> io::Result<()> {
    let head = "request,session,turn,line,status,arrival_ms,input_length,output_length,reused_tokens,ttft_ms,tpot_ms,e2e_latency_ms";
    writeln!(out, "{head}")?;
    for (ordinal, request) in run.requests.iter().enumerate() {
        let RequestRecord { session, turn, line, input_tokens, output_tokens, .. } = request;
        let status = if request.is_finished() { "finished" } else { "rejected" };
        let [ttft, tpot, e2e] = [ttft_ms(request), tpot_ms(request), e2e_ms(request)]
            .map(|ms| ms.map_or_else(String::new, |ms| ms.to_string()));
        let (arrival, reused) = (request.arrival.as_ms(), request.reused_tokens());
        writeln!(
            out,
            "{ordinal},{session},{turn},{line},{status},{arrival},{input_tokens},{output_tokens},{reused},{ttft},{tpot},{e2e}"
        )?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SummaryOptions, fixture, summarize};

    fn text(format: ExportFormat) -> String {
        let run = fixture::run();
        let mut bytes = Vec::new();
        export(format, &run, &summarize(&run, &SummaryOptions::default()), &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn object(format: ExportFormat) -> Value {
        serde_json::from_str(&text(format)).unwrap()
    }

    #[test]
    fn vllm_counts_seconds_and_a_failure_as_zero() {
        let result = object(ExportFormat::VllmBench);
        assert_eq!((&result["duration"], &result["failed"]), (&json!(0.17), &json!(2)));
        assert_eq!(result["ttfts"], json!([0.02, 0.08, 0.0, 0.0]));
        assert_eq!(result["output_lens"], json!([3, 5, 0, 0]));
        assert_eq!((&result["mean_ttft_ms"], &result["mean_e2el_ms"]), (&json!(50.0), &json!(100.0)));
    }

    #[test]
    fn sglang_knows_how_many_requests_are_under_way() {
        let text = text(ExportFormat::SglangBench);
        assert_eq!(text.lines().count(), 1);
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(result["concurrency"].as_f64().unwrap(), 200.0 / 170.0);
        assert_eq!((&result["mean_e2e_latency_ms"], &result["max_itl_ms"]), (&json!(100.0), &json!(40.0)));
    }

    #[test]
    fn the_inter_token_latency_of_aiperf_is_that_of_a_request() {
        let result = object(ExportFormat::Aiperf);
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
    }

    #[test]
    fn a_table_has_a_line_a_request() {
        let text = text(ExportFormat::Csv);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[1], "0,0,0,1,finished,10,100,3,0,20,10,40");
        assert_eq!(lines[3], "2,2,0,3,rejected,30,9000,0,0,,,");
        assert!(lines.iter().all(|line| line.matches(',').count() == 11));
    }
}
