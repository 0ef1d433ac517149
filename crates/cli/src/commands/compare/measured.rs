//! Results that clients measured, as runs beside simulated ones.

use std::path::Path;

use servecast_report::{ClientRequest, ClientRun, RequestFigures, figures_of_client};
use servecast_types::message;
use servecast_workload::{FormatKind, KnownFormat, Measured, MeasuredRequest, TraceFormat, read_measured};

use super::{Run, Sending};
use crate::error::Failure;
use crate::files;
use crate::source::unusable_trace;

/// What a file with requests that a client measured is, if it is one.
pub(in crate::commands) fn format(path: &Path) -> Option<(KnownFormat, TraceFormat)> {
    let format = files::format_of(path).filter(|format| format.kind == FormatKind::Measured)?;
    Some((format, format.trace()?))
}

/// Reads what a client measured.
pub(in crate::commands) fn read(path: &Path, format: (KnownFormat, TraceFormat)) -> Result<Run, Failure> {
    let (known, format) = format;
    let mut file = files::open(path)?;
    let measured =
        read_measured(&mut file, format).expect("files of requests that are traces, too, are of clients");
    let measured = measured.map_err(|error| unusable_trace(path, &error))?;
    let name = path.display().to_string();
    if measured.runs > 1 {
        let message =
            message!("{} holds {} runs, one after another, and is compared as one", name, measured.runs);
        return Err(Failure::user(message).with_hint("give each run a file of its own"));
    }
    let mut run = ClientRun::new(known.name().to_string());
    if measured.warmups.rows > 0 {
        run.notes.push(format!("requests of the warm-up, which are left out: {}", measured.warmups.rows));
    }
    let Measured { requests, failed, concurrency, request_rate: rate, duration_s, .. } = measured;
    let requests: Vec<ClientRequest> = requests.iter().map(request).collect();
    let duration_ms = duration_s.map(|seconds| seconds * 1e3);
    let figures = figures_of_client(name, run, &requests, failed.rows, duration_ms);
    let rows = requests.into_iter().map(|request| request.figures).collect();
    Ok(Run {
        figures,
        rows: Some(rows),
        is_limited: concurrency.is_some(),
        sending: Sending { concurrency, rate },
    })
}

fn request(request: &MeasuredRequest) -> ClientRequest {
    let ms = |seconds: f64| seconds * 1e3;
    let gaps = request.output_tokens - 1;
    let decode_s = request.e2e_s.zip(request.ttft_s).map(|(e2e_s, ttft_s)| e2e_s - ttft_s);
    // Those of a trace are below 2³⁰.
    let (input_length, output_length) = (request.input_tokens as u32, request.output_tokens as u32);
    let figures = RequestFigures {
        line: request.line,
        turn: 0,
        arrival_ms: request.sent_s.map(ms),
        input_length,
        requested_output_length: output_length,
        output_length,
        status: "finished".to_owned(),
        measured: true,
        ttft_ms: request.ttft_s.map(ms),
        tpot_ms: decode_s.filter(|_| gaps > 0).map(|seconds| ms(seconds) / gaps as f64),
        e2e_latency_ms: request.e2e_s.map(ms),
        ..RequestFigures::default()
    };
    ClientRequest { figures, gaps_ms: request.gaps_s.iter().copied().map(ms).collect() }
}
