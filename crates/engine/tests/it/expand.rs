//! What an engine does that takes decodes together, iteration by iteration and request by request.

use rustc_hash::FxHashMap;
use servecast_engine::{
    Decodes, Finished, Iteration, IterationSink, Joined, LastIteration, Scheduled, Transfer,
};
use servecast_types::{KvEvent, RequestId, Time};

/// A figure that is not reported of iterations that only decode.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// Hands iterations on as an engine would report them that takes nothing together.
///
/// The last of several is known only when the next thing is reported, or by [`Expander::flush`].
pub(crate) struct Expander<S> {
    pub(crate) sink: S,
    prompt_tokens: FxHashMap<RequestId, u32>,
    /// Tokens of each request, and when it got the last one.
    outputs: FxHashMap<RequestId, (u32, Time)>,
    /// Requests that computed something in the iteration before and run on, in order of the running list.
    running: Vec<RequestId>,
    /// An iteration that may still end requests.
    held: Option<Iteration>,
    /// Requests that end with the next iteration.
    finished: Vec<Finished>,
    /// Iterations that were reported together.
    pub(crate) together: u64,
}

impl<S: IterationSink> Expander<S> {
    pub(crate) fn new(sink: S) -> Self {
        Self {
            sink,
            prompt_tokens: FxHashMap::default(),
            outputs: FxHashMap::default(),
            running: Vec::new(),
            held: None,
            finished: Vec::new(),
            together: 0,
        }
    }

    /// A request that the engine gets.
    pub(crate) fn submitted(&mut self, id: RequestId, prompt_tokens: u32) {
        self.prompt_tokens.insert(id, prompt_tokens);
    }

    /// Hands on what is held back, after a call of the engine.
    pub(crate) fn flush(&mut self) {
        if let Some(iteration) = self.held.take() {
            self.running.retain(|id| !iteration.finished.iter().any(|finished| finished.id == *id));
            self.sink.iteration_ended(&iteration);
        }
    }

    /// The next token of each of the first `count` running requests.
    fn decodes(&self, count: u64) -> Vec<Scheduled> {
        assert!(self.running.len() as u64 >= count, "{count} requests decode, {:?} run", self.running);
        let scheduled = |&id: &RequestId| {
            let (outputs, _) = self.outputs[&id];
            Scheduled { id, tokens: 1, computed: self.prompt_tokens[&id] + outputs - 1 }
        };
        self.running[..count as usize].iter().map(scheduled).collect()
    }

    fn token(&mut self, id: RequestId, at: Time) {
        let (outputs, last) = self.outputs.entry(id).or_default();
        *outputs += 1;
        *last = at;
    }

    fn check_outputs(&self, finished: Finished) {
        assert_eq!(self.outputs[&finished.id].0, finished.output_tokens, "tokens of {}", finished.id);
    }
}

impl<S: IterationSink> IterationSink for Expander<S> {
    fn transfer_started(&mut self, transfer: &Transfer, now: Time) {
        self.flush();
        self.sink.transfer_started(transfer, now);
    }

    fn joined(&mut self, joined: Joined, now: Time) {
        self.flush();
        self.token(joined.id, now);
        self.sink.joined(joined, now);
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        self.flush();
        let mut whole = iteration.clone();
        whole.decoded = 0;
        whole.scheduled.splice(..0, self.decodes(iteration.decoded));
        whole.emitted.splice(..0, self.running[..iteration.decoded as usize].iter().copied());
        whole.finished.splice(..0, self.finished.drain(..));
        whole.emitted.iter().for_each(|&id| self.token(id, whole.end));
        whole.finished.iter().for_each(|&finished| self.check_outputs(finished));
        if !whole.scheduled.is_empty() {
            self.running = whole.scheduled.iter().map(|scheduled| scheduled.id).collect();
        }
        self.held = Some(whole);
        self.flush();
    }

    fn decoded(&mut self, decodes: &Decodes) {
        self.together += decodes.count();
        let mut start = decodes.start;
        for (&end, number) in decodes.ends.iter().zip(0..) {
            self.flush();
            assert!(end > start, "an iteration takes time");
            assert_eq!(self.running.len() as u64, decodes.requests, "all that run decode");
            let scheduled = self.decodes(decodes.requests);
            let emitted = self.running.clone();
            for &id in &emitted {
                self.token(id, end);
            }
            self.held = Some(Iteration {
                scheduled_at: start,
                start,
                end,
                scheduled,
                emitted,
                num_running: decodes.requests as u32,
                num_waiting: UNKNOWN,
                free_blocks_after_schedule: decodes.free_blocks - number * decodes.taken_blocks,
                free_blocks: UNKNOWN,
                cached_blocks: UNKNOWN,
                ..Iteration::default()
            });
            start = end;
        }
    }

    fn finished_decoding(&mut self, finished: Finished, end: Time, _: LastIteration) {
        match &mut self.held {
            Some(iteration) if iteration.end == end => {
                iteration.finished.push(finished);
                self.check_outputs(finished);
            }
            // The iteration that is reported next did more.
            _ => self.finished.push(finished),
        }
    }

    fn cache_changed(&mut self, events: &[KvEvent], end: Time) {
        let iteration = self.held.as_mut().expect("events are those of an iteration");
        assert_eq!(iteration.end, end);
        iteration.kv_events.extend_from_slice(events);
    }

    fn caught_up(&mut self, request: RequestId, output_tokens: u32, last_token: Time) {
        assert_eq!(
            self.outputs[&request],
            (output_tokens, last_token),
            "tokens of {request}, and its last one"
        );
    }
}

/// An iteration of an engine that takes nothing together, without what `seen` does not say.
pub(crate) fn as_far_as_known(iteration: &Iteration, seen: &Iteration) -> Iteration {
    let if_known = |seen, figure| if seen == UNKNOWN { UNKNOWN } else { figure };
    Iteration {
        num_waiting: if_known(seen.num_waiting, iteration.num_waiting),
        free_blocks: if_known(seen.free_blocks, iteration.free_blocks),
        cached_blocks: if_known(seen.cached_blocks, iteration.cached_blocks),
        block_ids: Vec::new(),
        free_list: Vec::new(),
        sglang: None,
        ..iteration.clone()
    }
}
