//! A run in the words of the tools that measure real deployments, by their definitions.

use std::io::{self, Write};

use servecast_record::{RequestRecord, RunRecord};
use servecast_types::Duration;

use crate::latency::tpot_ms;
use crate::report::Report;

mod aiperf;
mod bench;

/// Whose result a file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// `profile_export_aiperf.json` of AIPerf.
    Aiperf,
    /// `profile_export.jsonl` of AIPerf: a line a request.
    AiperfRecords,
    /// The JSON of `vllm bench serve --save-result --save-detailed`.
    VllmBench,
    /// The JSON line of `sglang.bench_serving`.
    SglangBench,
    /// A line a request, with a header.
    Csv,
}

impl ExportFormat {
    /// All formats by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("aiperf", Self::Aiperf),
        ("aiperf-records", Self::AiperfRecords),
        ("vllm-bench", Self::VllmBench),
        ("sglang-bench", Self::SglangBench),
        ("csv", Self::Csv),
    ];
}

impl ExportFormat {
    /// Whether it has the time of every single token, which a run only knows if it is told to keep them.
    pub fn needs_token_times(self) -> bool {
        self == Self::VllmBench
    }
}

/// Writes a run in the form of another tool, and with it what [needs the times of tokens](ExportFormat::needs_token_times) if it
/// has them. Of a run of which a part is measured, that part is written.
pub fn export(format: ExportFormat, run: &RunRecord, report: &Report, mut out: impl Write) -> io::Result<()> {
    match format {
        ExportFormat::Aiperf => serde_json::to_writer_pretty(&mut out, &aiperf::summary(run, report))?,
        ExportFormat::AiperfRecords => return aiperf::records(run, out),
        ExportFormat::VllmBench => serde_json::to_writer_pretty(&mut out, &bench::vllm(run, report))?,
        ExportFormat::SglangBench => serde_json::to_writer(&mut out, &bench::sglang(run, report))?,
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
    use servecast_types::Time;

    use super::*;
    use crate::{SummaryOptions, fixture, summarize};

    /// What the run of the fixture is in a format, with the times of its tokens.
    pub(super) fn text(format: ExportFormat) -> String {
        let mut run = fixture::run();
        let times = |ms: &[u64]| ms.iter().map(|ms| Time::from_ns(ms * 1_000_000)).collect();
        run.token_times = Some(vec![times(&[30, 40, 50]), times(&[100, 110, 120, 140, 180])]);
        let report = summarize(&run, &SummaryOptions::default());
        let mut bytes = Vec::new();
        export(format, &run, &report, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
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
