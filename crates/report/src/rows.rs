//! One JSON line a request, for those who compute figures of their own.

use std::convert::Infallible;
use std::io::{self, Write};

use serde::Serialize;
use servecast_record::{RejectReason, RequestRecord, RequestStatus, RunRecord, StageRecord, TtftBreakdown};
use servecast_types::{Duration, Role, Time};

use crate::columns::Columns;
use crate::latency::{tpot_ms, ttst};
use crate::streamed::SettledRequest;
use crate::window::Window;

/// Writes one JSON object a line for each request of `run`, in order of arrival.
///
/// A time or latency that does not exist is `null`: the second token of a request with one token, say.
/// Rows of requests with a class, and of those that ask for a LoRA adapter, say which.
/// Rejected requests have those of the tokens that they got, so filter by `status` before averaging. Where a part of the run is
/// measured, rows say by `measured` whether they belong to it.
pub fn write_request_rows(run: &RunRecord, window: Window, mut out: impl Write) -> io::Result<()> {
    request_rows(run, window, |row| write_row(row, &mut out))?;
    out.flush()
}

/// The same as columns.
pub fn request_columns(run: &RunRecord, window: Window) -> Columns {
    let mut columns = Columns::default();
    let added: Result<(), Infallible> = request_rows(run, window, |row| {
        columns.push(row);
        Ok(())
    });
    added.unwrap_or_else(|none| match none {});
    columns
}

/// Calls `take` with the row of each request.
fn request_rows<E>(
    run: &RunRecord,
    window: Window,
    mut take: impl FnMut(&RequestRow<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let measured = (!window.is_whole()).then(|| window.is_measured(run));
    for ordinal in 0..run.requests.len() {
        let measured = measured.as_ref().map(|measured| measured[ordinal]);
        let request = &run.requests[ordinal];
        let class = request.class.and_then(|class| run.classes.get(class.index())).map(AsRef::as_ref);
        let lora = request.lora.and_then(|lora| run.loras.get(lora as usize)).map(AsRef::as_ref);
        let row = RequestRow::new(ordinal, request, run.ttft_breakdown(ordinal));
        take(&RequestRow { class, lora, measured, ..row })?;
    }
    Ok(())
}

/// Writes the row of a request of a run that keeps none.
pub fn write_request_row(request: &SettledRequest, out: impl Write) -> io::Result<()> {
    let row = RequestRow::new(request.id.index(), &request.record, request.ttft_breakdown);
    write_row(&RequestRow { measured: request.is_measured, ..row }, out)
}

fn write_row(row: &RequestRow<'_>, mut out: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut out, row)?;
    out.write_all(b"\n")
}

/// What rows call what became of a request.
pub(crate) fn status_name(status: RequestStatus) -> &'static str {
    match status {
        RequestStatus::Finished => "finished",
        RequestStatus::Rejected(_) => "rejected",
        RequestStatus::Withdrawn => "withdrawn",
        RequestStatus::Failed => "failed",
    }
}

#[derive(Serialize)]
struct RequestRow<'a> {
    request: usize,
    session: u32,
    turn: u32,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<&'a str>,
    arrival_ms: f64,
    input_length: u32,
    requested_output_length: u32,
    output_length: u32,
    status: &'static str,
    reject_reason: Option<RejectReason>,
    first_token_ms: Option<f64>,
    second_token_ms: Option<f64>,
    last_token_ms: Option<f64>,
    ended_ms: f64,
    ttft_ms: Option<f64>,
    ttft_breakdown: Option<BreakdownRow>,
    ttst_ms: Option<f64>,
    tpot_ms: Option<f64>,
    e2e_latency_ms: Option<f64>,
    reused_tokens: u32,
    preemptions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<bool>,
    stages: Vec<StageRow>,
}

/// The parts of a TTFT, which add up to it to the nanosecond.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "these are the keys of the row")]
struct BreakdownRow {
    front_end_ms: f64,
    router_queue_ms: f64,
    engine_queue_ms: f64,
    prefill_compute_ms: f64,
    kv_transfer_ms: f64,
    decode_wait_ms: f64,
    preemption_loss_ms: f64,
}

#[derive(Serialize)]
struct StageRow {
    pool: Role,
    worker: u32,
    arrived_ms: f64,
    queued_ms: f64,
    admitted_ms: Option<f64>,
    reused_tokens: u32,
    transfer_start_ms: Option<f64>,
    transfer_end_ms: Option<f64>,
    first_token_ms: Option<f64>,
    last_token_ms: Option<f64>,
    preemptions: u32,
}

impl RequestRow<'_> {
    fn new(ordinal: usize, request: &RequestRecord, breakdown: Option<TtftBreakdown>) -> Self {
        let reject_reason = match request.status {
            RequestStatus::Rejected(reason) => Some(reason),
            RequestStatus::Finished | RequestStatus::Withdrawn | RequestStatus::Failed => None,
        };
        Self {
            request: ordinal,
            session: request.session,
            turn: request.turn,
            line: request.line,
            class: None,
            lora: None,
            arrival_ms: request.arrival.as_ms(),
            input_length: request.input_tokens,
            requested_output_length: request.requested_output_tokens,
            output_length: request.output_tokens,
            status: status_name(request.status),
            reject_reason,
            first_token_ms: request.first_token.map(Time::as_ms),
            second_token_ms: request.second_token.map(Time::as_ms),
            last_token_ms: request.last_token.map(Time::as_ms),
            ended_ms: request.ended.as_ms(),
            ttft_ms: request.ttft().map(Duration::as_ms),
            ttft_breakdown: breakdown.map(BreakdownRow::new),
            ttst_ms: ttst(request).map(Duration::as_ms),
            tpot_ms: tpot_ms(request),
            e2e_latency_ms: request.e2e().map(Duration::as_ms),
            reused_tokens: request.reused_tokens(),
            preemptions: request.stages.iter().map(|stage| stage.preemptions).sum(),
            measured: None,
            stages: request.stages.iter().map(StageRow::new).collect(),
        }
    }
}

impl BreakdownRow {
    fn new(breakdown: TtftBreakdown) -> Self {
        let [
            front_end_ms,
            router_queue_ms,
            engine_queue_ms,
            prefill_compute_ms,
            kv_transfer_ms,
            decode_wait_ms,
            preemption_loss_ms,
        ] = breakdown.parts().map(Duration::as_ms);
        Self {
            front_end_ms,
            router_queue_ms,
            engine_queue_ms,
            prefill_compute_ms,
            kv_transfer_ms,
            decode_wait_ms,
            preemption_loss_ms,
        }
    }
}

impl StageRow {
    fn new(stage: &StageRecord) -> Self {
        Self {
            pool: stage.pool,
            worker: stage.worker.0,
            arrived_ms: stage.arrived.as_ms(),
            queued_ms: stage.queued.as_ms(),
            admitted_ms: stage.admitted.map(Time::as_ms),
            reused_tokens: stage.reused_tokens,
            transfer_start_ms: stage.transfer_start.map(Time::as_ms),
            transfer_end_ms: stage.transfer_end.map(Time::as_ms),
            first_token_ms: stage.first_token.map(Time::as_ms),
            last_token_ms: stage.last_token.map(Time::as_ms),
            preemptions: stage.preemptions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn lines() -> Vec<String> {
        let mut bytes = Vec::new();
        write_request_rows(&fixture::run(), Window::default(), &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_finished_request_has_all_its_times() {
        insta::assert_snapshot!(lines()[1], @r#"{"request":1,"session":1,"turn":0,"line":2,"arrival_ms":20.0,"input_length":300,"requested_output_length":5,"output_length":5,"status":"finished","reject_reason":null,"first_token_ms":100.0,"second_token_ms":110.0,"last_token_ms":180.0,"ended_ms":180.0,"ttft_ms":80.0,"ttft_breakdown":{"front_end_ms":0.0,"router_queue_ms":0.0,"engine_queue_ms":4.0,"prefill_compute_ms":56.0,"kv_transfer_ms":15.75,"decode_wait_ms":4.25,"preemption_loss_ms":0.0},"ttst_ms":10.0,"tpot_ms":20.0,"e2e_latency_ms":160.0,"reused_tokens":100,"preemptions":1,"stages":[{"pool":"prefill","worker":0,"arrived_ms":20.0,"queued_ms":20.0,"admitted_ms":24.0,"reused_tokens":100,"transfer_start_ms":null,"transfer_end_ms":null,"first_token_ms":60.0,"last_token_ms":60.0,"preemptions":0},{"pool":"decode","worker":1,"arrived_ms":60.0,"queued_ms":60.0,"admitted_ms":80.0,"reused_tokens":299,"transfer_start_ms":62.5,"transfer_end_ms":78.25,"first_token_ms":100.0,"last_token_ms":180.0,"preemptions":1}]}"#);
    }

    #[test]
    fn a_request_rejected_on_arrival_has_none() {
        insta::assert_snapshot!(lines()[2], @r#"{"request":2,"session":2,"turn":0,"line":3,"arrival_ms":30.0,"input_length":9000,"requested_output_length":10,"output_length":0,"status":"rejected","reject_reason":"prompt_too_long","first_token_ms":null,"second_token_ms":null,"last_token_ms":null,"ended_ms":30.0,"ttft_ms":null,"ttft_breakdown":null,"ttst_ms":null,"tpot_ms":null,"e2e_latency_ms":null,"reused_tokens":0,"preemptions":0,"stages":[]}"#);
    }

    #[test]
    fn there_is_a_line_a_request_in_order_of_arrival() {
        let ordinals: Vec<u64> = lines()
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["request"].as_u64().unwrap())
            .collect();
        assert_eq!(ordinals, [0, 1, 2, 3]);
    }
}
