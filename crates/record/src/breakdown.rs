//! Where the time to first token goes.

use rustc_hash::FxHashMap;
use servecast_types::{Duration, RequestId, Role, Time};

use crate::{RequestRecord, RunRecord};

/// The time to first token of a request in parts without gap or overlap: they add up to it exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TtftBreakdown {
    /// On the way to the deployment, and of the token from there.
    pub front_end: Duration,
    /// Parked by a router, over all stages.
    pub router_queue: Duration,
    /// In the queue of the first worker, until the iteration in which it was first computed.
    pub engine_queue: Duration,
    /// From the admission that led to the first token of a stage to that token, over all stages: the iterations that
    /// compute the prompt, with what else is in them. On a decode worker of vLLM that is the last prompt token, on
    /// others nothing, since the first token is handed over.
    pub prefill_compute: Duration,
    /// KV on its way to the decode worker.
    pub kv_transfer: Duration,
    /// On the decode worker: until the transfer began, for want of room, and from its end to admission. Where a decode worker
    /// reserves memory before the prompt is computed, the wait for that instead.
    pub decode_wait: Duration,
    /// From a first admission to the last one before the first token of the stage, over all stages: work that a
    /// preemption threw away, and the wait for the next try.
    pub preemption_loss: Duration,
}

impl TtftBreakdown {
    /// Names of the parts, in the order of [`TtftBreakdown::parts`].
    pub const NAMES: [&'static str; 7] = [
        "front_end",
        "router_queue",
        "engine_queue",
        "prefill_compute",
        "kv_transfer",
        "decode_wait",
        "preemption_loss",
    ];

    /// The parts in the order of [`TtftBreakdown::NAMES`].
    pub fn parts(&self) -> [Duration; 7] {
        let Self {
            front_end,
            router_queue,
            engine_queue,
            prefill_compute,
            kv_transfer,
            decode_wait,
            preemption_loss,
        } = *self;
        [front_end, router_queue, engine_queue, prefill_compute, kv_transfer, decode_wait, preemption_loss]
    }

    /// The time to first token.
    pub fn total(&self) -> Duration {
        self.parts().into_iter().fold(Duration::ZERO, |sum, part| sum + part)
    }
}

impl RunRecord {
    /// Where the time to first token of a request went; `None` for a request without a token.
    ///
    /// `ordinal` counts [`RunRecord::requests`] from 0.
    pub fn ttft_breakdown(&self, ordinal: usize) -> Option<TtftBreakdown> {
        self.ended(ordinal).ttft_breakdown()
    }

    /// A request with all that is recorded of it, by the same count.
    pub fn ended(&self, ordinal: usize) -> EndedRequest<'_> {
        let id = RequestId(ordinal as u32);
        let tokens = self.token_times.as_ref().and_then(|times| times.get(ordinal)).map(Vec::as_slice);
        EndedRequest { id, record: &self.requests[ordinal], readmitted: &self.readmitted, tokens }
    }
}

/// A request that has ended, with all that a run records of it.
#[derive(Debug, Clone, Copy)]
pub struct EndedRequest<'a> {
    /// Its number, in order of arrival.
    pub id: RequestId,
    /// What happened to it.
    pub record: &'a RequestRecord,
    /// As [`RunRecord::readmitted`], of this request and perhaps of others.
    pub readmitted: &'a FxHashMap<(RequestId, u8), Time>,
    /// When each of its tokens reached its user, if that was kept.
    pub tokens: Option<&'a [Time]>,
}

impl EndedRequest<'_> {
    /// Where the time to its first token went; `None` without a token.
    pub fn ttft_breakdown(&self) -> Option<TtftBreakdown> {
        let request = self.record;
        let seen = request.first_token?;
        let mut parts = TtftBreakdown::default();
        if let Some(first) = request.stages.first() {
            parts.front_end = first.arrived.since(request.arrival);
        }
        for (number, stage) in request.stages.iter().enumerate() {
            let (admitted, first_token) = (stage.admitted?, stage.first_token?);
            parts.router_queue += stage.queued.since(stage.arrived);
            if stage.pool == Role::Decode {
                // A hand-off that takes no time may leave no trace.
                let start = stage.transfer_start.unwrap_or(stage.queued);
                let end = stage.transfer_end.unwrap_or(start);
                parts.kv_transfer += end.since(start);
                // What came before the prompt was computed is the other stage's.
                let before = if stage.reserved.is_some() { start } else { stage.queued };
                parts.decode_wait += start.since(before) + admitted.since(end);
            } else {
                // It came to both of its workers at once, and was computed when there was memory for it.
                let ahead =
                    request.stages.get(number + 1).and_then(|next| Some((next.reserved?, next.queued)));
                let (reserved, found) = ahead.unwrap_or((stage.queued, stage.queued));
                parts.decode_wait += reserved.since(found);
                parts.engine_queue += admitted.since(reserved);
            }
            let key = (self.id, number as u8);
            let readmitted = self.readmitted.get(&key).copied().unwrap_or(admitted);
            parts.preemption_loss += readmitted.since(admitted);
            parts.prefill_compute += first_token.since(readmitted);
            if number + 1 == request.stages.len() {
                parts.front_end += seen.since(first_token);
            }
        }
        Some(parts)
    }
}
