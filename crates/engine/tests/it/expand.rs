//! What an engine does that takes decodes together, iteration by iteration and request by request.

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_engine::{
    Begun, Decodes, Emitted, EngineArgs, EngineType, Fetch, Finished, Iteration, IterationSink, Joined,
    LastIteration, Links, Scheduled,
};
use servecast_types::{KvEvent, RequestId, Time};

/// A figure that is not reported of iterations that only decode.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// Hands iterations on as an engine would report them that takes nothing together.
///
/// The last of several is known only when the next thing is reported, or by [`Expander::flush`].
pub(crate) struct Expander<S> {
    pub(crate) sink: S,
    /// Whether an iteration is decided while the one before it runs.
    is_ahead: bool,
    /// vLLM's running list keeps its order, and requests whose last token is in flight.
    is_vllm: bool,
    prompt_tokens: FxHashMap<RequestId, u32>,
    /// Tokens of each request, and when it got the last one.
    outputs: FxHashMap<RequestId, (u32, Time)>,
    /// Requests that computed something in the iteration before, in order of the running list.
    before: Vec<RequestId>,
    /// When that began.
    start_before: Time,
    /// Requests that have ended, and how many of them did with the iteration before.
    ended: FxHashSet<RequestId>,
    ended_before: u32,
    /// An iteration that may still end requests.
    held: Option<Iteration>,
    /// Requests that end with the next iteration.
    finished: Vec<Finished>,
    /// Tokens that were reported together.
    pub(crate) together: u64,
}

impl<S: IterationSink> Expander<S> {
    pub(crate) fn new(sink: S, args: &EngineArgs) -> Self {
        let is_sglang = args.engine_type == EngineType::Sglang;
        let overlaps = || args.sglang.as_ref().is_some_and(|own| !own.disable_overlap_schedule);
        Self {
            sink,
            is_ahead: if is_sglang { overlaps() } else { args.async_scheduling },
            is_vllm: !is_sglang,
            prompt_tokens: FxHashMap::default(),
            outputs: FxHashMap::default(),
            before: Vec::new(),
            start_before: Time::ZERO,
            ended: FxHashSet::default(),
            ended_before: 0,
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
            self.ended_before = iteration.finished.len() as u32;
            self.ended.extend(iteration.finished.iter().map(|finished| finished.id));
            self.ended.extend(iteration.rejected.iter().map(|&(id, _)| id));
            self.sink.iteration_ended(&iteration);
        }
    }

    /// Requests of the iteration before that have not ended and are not among those that are scheduled by themselves.
    fn running(&self, scheduled: &[Scheduled]) -> Vec<RequestId> {
        let runs = |id: &&RequestId| {
            !self.ended.contains(*id) && !scheduled.iter().any(|scheduled| scheduled.id == **id)
        };
        self.before.iter().filter(runs).copied().collect()
    }

    /// The next token of each of these requests.
    fn decodes(&self, requests: &[RequestId]) -> Vec<Scheduled> {
        let scheduled = |&id: &RequestId| {
            let (outputs, _) = self.outputs[&id];
            Scheduled { id, tokens: 1, computed: self.prompt_tokens[&id] + outputs - 1 }
        };
        requests.iter().map(scheduled).collect()
    }

    /// Who had ended already when the iteration ran, and computed something in vain, was in its place in the running list.
    fn place_those_in_vain(&self, scheduled: &mut Vec<Scheduled>) {
        let (in_vain, others) = scheduled.drain(..).partition(|scheduled| self.ended.contains(&scheduled.id));
        *scheduled = others;
        let place = |id: RequestId| self.before.iter().position(|&before| before == id);
        let mut in_vain: Vec<Scheduled> = in_vain;
        in_vain.sort_by_key(|scheduled| place(scheduled.id));
        for each in in_vain {
            let place = place(each.id).expect("it was computed in the iteration before");
            let precedes = |other: &Scheduled| self.before[..place].contains(&other.id);
            let position = scheduled.iter().rposition(precedes).map_or(0, |position| position + 1);
            scheduled.insert(position, each);
        }
    }

    fn tokens(&mut self, emitted: Emitted, at: Time) {
        let (outputs, last) = self.outputs.entry(emitted.id).or_default();
        *outputs += emitted.tokens;
        *last = at;
    }

    fn check_outputs(&self, finished: Finished) {
        assert_eq!(self.outputs[&finished.id].0, finished.output_tokens, "tokens of {}", finished.id);
    }
}

impl<S: IterationSink> Links for Expander<S> {
    fn begin(&mut self, fetch: Fetch, now: Time) -> Begun {
        self.sink.begin(fetch, now)
    }
}

impl<S: IterationSink> IterationSink for Expander<S> {
    fn joined(&mut self, joined: Joined, now: Time) {
        self.flush();
        self.tokens(Emitted { id: joined.id, tokens: 1 }, now);
        self.sink.joined(joined, now);
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        self.flush();
        let mut whole = iteration.clone();
        whole.decoded = 0;
        self.together += iteration.decoded;
        let mut members = self.running(&iteration.scheduled);
        assert!(members.len() as u64 >= iteration.decoded, "{iteration:?} beside {members:?}");
        members.truncate(iteration.decoded as usize);
        whole.scheduled.splice(..0, self.decodes(&members));
        if self.together > 0 && self.is_vllm {
            self.place_those_in_vain(&mut whole.scheduled);
        }
        whole.emitted.splice(..0, members.into_iter().map(|id| Emitted { id, tokens: 1 }));
        whole.finished.splice(..0, self.finished.drain(..));
        whole.emitted.iter().for_each(|&emitted| self.tokens(emitted, whole.end));
        whole.finished.iter().for_each(|&finished| self.check_outputs(finished));
        if !whole.scheduled.is_empty() {
            self.before = whole.scheduled.iter().map(|scheduled| scheduled.id).collect();
            self.start_before = whole.start;
        }
        self.held = Some(whole);
        self.flush();
    }

    fn decoded(&mut self, decodes: &Decodes) {
        self.together += decodes.count() * decodes.requests;
        let mut start = decodes.start;
        for (&end, number) in decodes.ends.iter().zip(0..) {
            self.flush();
            assert!(end > start, "an iteration takes time: {decodes:?}");
            let running = self.running(&[]);
            assert_eq!(running.len() as u64, decodes.requests, "all that run decode");
            let scheduled = self.decodes(&running);
            let emitted: Vec<_> = running.iter().map(|&id| Emitted { id, tokens: 1 }).collect();
            self.before = running;
            // One iteration ahead, it was decided when the one before began.
            let before = std::mem::replace(&mut self.start_before, start);
            let scheduled_at = if self.is_ahead { before } else { start };
            // Those that ended with the iteration before were there when this one was decided.
            let ended = if self.is_ahead && self.is_vllm { self.ended_before } else { 0 };
            for &each in &emitted {
                self.tokens(each, end);
            }
            self.held = Some(Iteration {
                scheduled_at,
                start,
                end,
                scheduled,
                emitted,
                num_running: decodes.requests as u32 + ended,
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
    // Where those are in the list that computed a token in vain, as they had ended, is not known.
    let others = |iteration: &Iteration| -> Vec<Scheduled> {
        let counts = |each: &&Scheduled| {
            each.tokens > 1 || iteration.emitted.iter().any(|emitted| emitted.id == each.id)
        };
        iteration.scheduled.iter().filter(counts).copied().collect()
    };
    let same = |other: &&Scheduled| iteration.scheduled.contains(other);
    let is_same = iteration.scheduled.len() == seen.scheduled.len()
        && seen.scheduled.iter().filter(same).count() == seen.scheduled.len()
        && others(iteration) == others(seen);
    let scheduled = if is_same { &seen.scheduled } else { &iteration.scheduled };
    Iteration {
        scheduled: scheduled.clone(),
        num_waiting: if_known(seen.num_waiting, iteration.num_waiting),
        free_blocks: if_known(seen.free_blocks, iteration.free_blocks),
        cached_blocks: if_known(seen.cached_blocks, iteration.cached_blocks),
        block_ids: Vec::new(),
        free_list: Vec::new(),
        group_events: Vec::new(),
        // Those that only decode say nothing of it.
        sglang: iteration.sglang.clone().filter(|_| seen.sglang.is_some()),
        ..iteration.clone()
    }
}
