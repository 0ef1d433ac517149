//! Latencies of one request beyond those that its record computes itself.

use servecast_record::RequestRecord;
use servecast_types::Duration;

/// Time to second token: from the first to the second token; none for fewer than two tokens.
pub(crate) fn ttst(request: &RequestRecord) -> Option<Duration> {
    Some(request.second_token?.since(request.first_token?))
}

/// Mean gap between the tokens in ms: `(last - first) / (tokens - 1)`; none for fewer than two tokens.
pub(crate) fn tpot_ms(request: &RequestRecord) -> Option<f64> {
    let gaps = request.output_tokens.checked_sub(1).filter(|&gaps| gaps > 0)?;
    Some(request.last_token?.since(request.first_token?).as_ms() / f64::from(gaps))
}

/// From arrival to the start of the first iteration that computed something for the request.
pub(crate) fn queue_time(request: &RequestRecord) -> Option<Duration> {
    Some(request.stages.first()?.admitted?.since(request.arrival))
}
