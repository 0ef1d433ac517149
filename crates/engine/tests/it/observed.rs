//! What an engine did, in one form whether it took decodes together or not.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use servecast_engine::{
    Admitted, Decodes, Finished, Iteration, IterationSink, Rejection, Scheduled, Transfer,
};
use servecast_types::{KvEvent, RequestId, Time};

/// What is known of an iteration in both modes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    start: Time,
    pub(crate) end: Time,
    /// In order of ids, since a stretch does not say in which order its requests run.
    scheduled: Vec<(RequestId, u32, u32)>,
    emitted: Vec<RequestId>,
    pub(crate) finished: Vec<(RequestId, u32)>,
    admitted: Vec<Admitted>,
    preempted: Vec<RequestId>,
    rejected: Vec<(RequestId, Rejection)>,
    transfers: Vec<(RequestId, u32, Time)>,
    received: Vec<RequestId>,
    sent: Vec<RequestId>,
    free_blocks: u32,
    kv_events: Vec<KvEvent>,
}

/// Writes out what is told of a stretch, iteration by iteration and request by request.
///
/// That is possible where all that runs is in it, as with SGLang.
#[derive(Default)]
pub(crate) struct Observed {
    pub(crate) iterations: Vec<Seen>,
    /// Requests that run, with the tokens that they have computed.
    running: BTreeMap<RequestId, u32>,
    /// Tokens that requests have generated.
    outputs: FxHashMap<RequestId, u32>,
    /// Iterations that were told of as parts of stretches.
    pub(crate) in_stretches: usize,
}

impl Observed {
    fn last(&mut self, end: Time) -> &mut Seen {
        let last = self.iterations.last_mut().expect("something was told of before");
        assert_eq!(last.end, end, "it belongs to the last iteration");
        last
    }
}

impl IterationSink for Observed {
    fn transfer_started(&mut self, _: &Transfer, _: Time) {}

    fn iteration_ended(&mut self, iteration: &Iteration) {
        assert_eq!(iteration.decoded, 0, "SGLang computes prompts alone");
        iteration.preempted.iter().for_each(|id| _ = self.running.remove(id));
        for &Scheduled { id, tokens, computed } in &iteration.scheduled {
            self.running.insert(id, computed + tokens);
        }
        for id in &iteration.emitted {
            *self.outputs.entry(*id).or_default() += 1;
        }
        iteration.finished.iter().for_each(|finished| _ = self.running.remove(&finished.id));
        let scheduled = iteration.scheduled.iter().map(|each| (each.id, each.tokens, each.computed));
        let mut seen = Seen {
            start: iteration.start,
            end: iteration.end,
            scheduled: scheduled.collect(),
            emitted: iteration.emitted.clone(),
            finished: iteration.finished.iter().map(|each| (each.id, each.output_tokens)).collect(),
            admitted: iteration.admitted.clone(),
            preempted: iteration.preempted.clone(),
            rejected: iteration.rejected.clone(),
            transfers: iteration.transfers.iter().map(|each| (each.id, each.tokens, each.end)).collect(),
            received: iteration.received.clone(),
            sent: iteration.sent.clone(),
            free_blocks: iteration.free_blocks_after_schedule,
            kv_events: iteration.kv_events.clone(),
        };
        seen.scheduled.sort_unstable();
        seen.emitted.sort_unstable();
        self.iterations.push(seen);
    }

    fn decoded(&mut self, decodes: &Decodes) {
        assert_eq!(decodes.requests, self.running.len() as u64, "all that runs is in the stretch");
        let (mut start, mut free_blocks) = (decodes.start, decodes.free_blocks);
        for &end in decodes.ends {
            let scheduled = self.running.iter().map(|(&id, &computed)| (id, 1, computed)).collect();
            let emitted: Vec<RequestId> = self.running.keys().copied().collect();
            self.running.values_mut().for_each(|computed| *computed += 1);
            emitted.iter().for_each(|&id| *self.outputs.entry(id).or_default() += 1);
            self.iterations.push(Seen { start, end, scheduled, emitted, free_blocks, ..Seen::default() });
            start = end;
            free_blocks -= decodes.taken_blocks.min(free_blocks);
        }
        self.in_stretches += decodes.ends.len();
    }

    fn finished_decoding(&mut self, finished: Finished, end: Time) {
        assert!(self.running.remove(&finished.id).is_some(), "{} runs", finished.id);
        assert_eq!(self.outputs[&finished.id], finished.output_tokens, "tokens of {}", finished.id);
        self.last(end).finished.push((finished.id, finished.output_tokens));
    }

    fn cache_changed(&mut self, events: &[KvEvent], end: Time) {
        self.last(end).kv_events.extend_from_slice(events);
    }

    fn caught_up(&mut self, request: RequestId, output_tokens: u32, last_token: Time) {
        self.last(last_token);
        assert_eq!(self.outputs[&request], output_tokens, "tokens of {request}");
    }
}

/// Says where two runs first part.
pub(crate) fn difference(plain: &Observed, fast: &Observed) -> Option<String> {
    let both = plain.iterations.iter().zip(&fast.iterations);
    let parted = both.enumerate().find(|(_, (plain, fast))| plain != fast);
    if let Some((number, (plain, fast))) = parted {
        return Some(format!("iteration {number} with stretches: {fast:?}\nwithout: {plain:?}"));
    }
    let (plain, fast) = (plain.iterations.len(), fast.iterations.len());
    (plain != fast).then(|| format!("{fast} iterations with stretches, {plain} without"))
}
