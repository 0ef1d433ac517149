//! Recordings of a prefill and a decode scheduler of SGLang together, on one clock.
//!
//! The recorder let a pass of the prefill side go first at equal times. What one side learns of the other takes the times of
//! the case: a decode worker that has memory tells the prefill worker, which tells the decode worker when its last part is
//! sent.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};
use servecast_engine::{
    Begun, Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Fetch, Iteration, IterationSink,
    Joined, Links, Sent, SglangState,
};
use servecast_types::{RequestId, Time};

use crate::expand::{Expander, as_far_as_known};
use crate::oracle_sglang::{Told, accepted_drafts, describe, priority_of, settings};
use crate::recording::{Recording, from_us};

/// Runs the case and compares both sides with what was recorded, and with a run that takes decodes together; says where they
/// first part.
pub(crate) fn replay(case: &Recording) -> Result<(), String> {
    let mut pair = Pair::new(case, false)?;
    pair.run()?;
    let mut together = Pair::new(case, true)?;
    together.run()?;
    let differs = [pair.prefill.compare(case), pair.decode.compare(case)];
    let differs: Vec<String> = differs.into_iter().filter_map(Result::err).collect();
    if !differs.is_empty() {
        return Err(differs.join("; "));
    }
    pair.compare_with(&together)
}

/// More passes than a side needs for a few requests.
const MOST_PASSES: usize = 100_000;

/// What a side did.
#[derive(Default)]
struct Log {
    ended: Vec<Iteration>,
    begun: Vec<Fetch>,
}

impl Links for Log {
    fn begin(&mut self, fetch: Fetch, _: Time) -> Begun {
        self.begun.push(fetch);
        Begun::Open
    }
}

impl IterationSink for Log {
    fn joined(&mut self, _: Joined, _: Time) {}

    fn iteration_ended(&mut self, iteration: &Iteration) {
        assert!(self.ended.len() < MOST_PASSES, "it goes on for ever: {:#?}", &self.ended[MOST_PASSES - 4..]);
        self.ended.push(iteration.clone());
    }
}

struct Side {
    name: &'static str,
    config: Value,
    engine: Engine,
    log: Expander<Log>,
    arrivals: VecDeque<usize>,
    state: EngineState,
}

impl Side {
    fn new(case: &Recording, name: &'static str, together: bool) -> Result<Self, String> {
        let mut config = case.expected["config"].clone();
        let own = config.as_object_mut().unwrap();
        let mut pair = own.remove("disaggregation").unwrap();
        let overrides = pair[name].take();
        own.extend(overrides.as_object().unwrap().clone());
        own.remove("latency");
        let mut settings = settings(&config, &case.expected["latency"][name]);
        settings["sglang"].as_object_mut().unwrap().extend(side(&pair, name));
        let args = EngineArgs::from_json(settings).map_err(|error| error.to_string())?;
        let engine_config = args.validate(None).map_err(|error| error.to_string())?;
        let tracing = EngineTracing {
            kv_events: true,
            sglang_state: true,
            stretches: together,
            ..EngineTracing::default()
        };
        Ok(Self {
            name,
            config,
            engine: Engine::new(engine_config, tracing),
            log: Expander::new(Log::default(), &args),
            arrivals: case.arrivals(),
            state: EngineState::Idle { wake: None },
        })
    }

    fn next_arrival(&self, case: &Recording) -> Option<Time> {
        self.arrivals.front().map(|&next| from_us(case.requests[next].arrival_us))
    }

    /// When it has something to do next by itself or by what has come.
    fn next(&self, case: &Recording) -> Option<Time> {
        let own = match self.state {
            EngineState::Busy { until } => Some(until),
            EngineState::Idle { wake } => wake,
        };
        own.into_iter().chain(self.next_arrival(case)).min()
    }

    /// Does what is due at `now`.
    fn turn(&mut self, case: &Recording, now: Time) -> Result<(), String> {
        if self.state == (EngineState::Busy { until: now }) {
            self.engine.end_iteration(now, &mut self.log);
            self.log.flush();
        }
        while self.next_arrival(case).is_some_and(|next| next <= now)
            && let Some(index) = self.arrivals.pop_front()
        {
            let request = self.request(case, index);
            self.log.submitted(request.id, request.prompt.tokens());
            self.engine.submit(request).map_err(|reason| format!("{}: {reason}", case.requests[index].id))?;
        }
        self.start(now);
        self.engine.check().unwrap();
        Ok(())
    }

    fn start(&mut self, now: Time) {
        self.state = self.engine.run(now, &mut self.log).unwrap();
        self.log.flush();
    }

    /// Compares it with the same side of a run that takes decodes together.
    fn compare_with(&self, fast: &Self) -> Result<(), String> {
        let (plain, seen) = (&self.log.sink.ended, &fast.log.sink.ended);
        for (number, (plain, seen)) in plain.iter().zip(seen).enumerate() {
            let expected = as_far_as_known(plain, seen);
            if *seen != expected {
                return Err(format!(
                    "{} iteration {number} is {seen:?}\none by one: {expected:?}",
                    self.name
                ));
            }
        }
        if plain.len() != seen.len() {
            return Err(format!("{} {} iterations, one by one {}", seen.len(), self.name, plain.len()));
        }
        Ok(())
    }

    fn request(&self, case: &Recording, index: usize) -> EngineRequest {
        let request = case.request(index);
        let prefills = self.name == "prefill";
        EngineRequest {
            priority: priority_of(case, index),
            ignore_eos: case.requests[index].ignore_eos,
            accepted_drafts: accepted_drafts(case, index),
            hold_kv: prefills,
            remote_prefill: !prefills,
            ..request
        }
    }

    fn compare(&self, case: &Recording) -> Result<(), String> {
        let page_size = self.engine.config().block_size();
        let mut told = Told::default();
        let steps = case.expected["steps"].as_array().unwrap().iter();
        let steps: Vec<&Value> = steps.filter(|step| step["side"] == self.name).collect();
        let found: Vec<BTreeMap<&str, Value>> = self
            .log
            .sink
            .ended
            .iter()
            .map(|iteration| {
                let mut step = describe(case, &self.config, iteration, page_size, &mut told);
                self.describe_queues(case, iteration, &mut step);
                step
            })
            .collect();
        for (number, (expected, found)) in steps.iter().zip(&found).enumerate() {
            let differs = found.iter().filter(|(key, found)| expected[**key] != **found);
            let differs =
                differs.map(|(key, found)| format!("`{key}` is {found}, recorded {}", expected[*key]));
            let differs: Vec<String> = differs.collect();
            if !differs.is_empty() {
                return Err(format!("{} step {number}: {}", self.name, differs.join("; ")));
            }
        }
        if steps.len() != found.len() {
            return Err(format!("{} {} steps, recorded {}", found.len(), self.name, steps.len()));
        }
        Ok(())
    }

    fn describe_queues(
        &self,
        case: &Recording,
        iteration: &Iteration,
        step: &mut BTreeMap<&'static str, Value>,
    ) {
        let state: &SglangState = iteration.sglang.as_deref().unwrap();
        let queues = state.disaggregation.as_deref().unwrap();
        let sent = |sent: &[Sent]| -> Value {
            sent.iter().map(|sent| json!([case.name(sent.id), sent.tokens, sent.is_last])).collect()
        };
        let computes = !iteration.scheduled.is_empty();
        if self.name == "prefill" {
            for key in ["finished", "accepted", "swa_end"] {
                step.remove(key);
            }
            step.extend([
                ("bootstrap_queue", json!(case.names(&queues.bootstrap_queue))),
                ("inflight_queue", json!(case.names(&queues.inflight_queue))),
                ("transferred", json!(case.names(&iteration.sent))),
                ("available_end", json!(state.available_end)),
                ("evictable_end", json!(state.evictable_end)),
                ("protected_end", json!(state.protected_end)),
            ]);
            if computes {
                let (at_launch, later) = iteration.parts.split_at(queues.sent_at_launch);
                step.insert("sent_at_launch", sent(at_launch));
                step.insert("sent", sent(later));
            }
            return;
        }
        let preallocated = iteration.transfers.iter().map(|transfer| {
            let held = prompt_tokens(case, transfer.id) - transfer.tokens;
            let pages = transfer.tokens.div_ceil(self.engine.config().block_size());
            json!([case.name(transfer.id), held, pages])
        });
        let at_once = iteration.joined.iter().filter(|joined| joined.is_finished);
        step.extend([
            ("preallocated", preallocated.collect()),
            ("joined", json!(case.names(&queues.joined))),
            ("finished_at_once", at_once.map(|joined| json!(case.name(joined.id))).collect()),
            ("prealloc_queue", json!(case.names(&queues.prealloc_queue))),
            ("transfer_queue", json!(case.names(&queues.transfer_queue))),
            ("retracted_queue", json!(case.names(&queues.retracted_queue))),
        ]);
    }
}

/// The settings of a side.
fn side(pair: &Value, name: &str) -> Map<String, Value> {
    let own = if name == "prefill" {
        json!({"disaggregation_bootstrap_us": pair["bootstrap_us"]})
    } else {
        json!({
            "num_reserved_decode_tokens": pair["num_reserved_decode_tokens"],
            "disaggregation_decode_enable_radix_cache": pair["decode_enable_radix_cache"],
            "disaggregation_decode_extra_slots": pair["decode_extra_slots"],
            "disaggregation_decode_polling_interval": pair["decode_polling_interval"],
            "disaggregation_decode_retraction_backup": pair["retraction_backup"],
            "disaggregation_handshake_us": pair["handshake_us"],
        })
    };
    let Value::Object(mut own) = own else { unreachable!("it is written as an object") };
    own.insert("disaggregation_mode".to_owned(), json!(name));
    own
}

fn prompt_tokens(case: &Recording, id: RequestId) -> u32 {
    case.request(id.index()).prompt.tokens()
}

/// Both sides of a case.
pub(crate) struct Pair<'a> {
    case: &'a Recording,
    prefill: Side,
    decode: Side,
    transfer_us: u64,
    /// KV on its way, with its end; in order.
    moving: VecDeque<(Time, RequestId)>,
    /// Prompts of the prefill side whose last part was looked at.
    seen: usize,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(case: &'a Recording, together: bool) -> Result<Self, String> {
        let transfer_us = case.expected["config"]["disaggregation"]["transfer_us"].as_u64().unwrap();
        let (prefill, decode) = (Side::new(case, "prefill", together)?, Side::new(case, "decode", together)?);
        Ok(Self { case, prefill, decode, transfer_us, moving: VecDeque::new(), seen: 0 })
    }

    /// Compares it with a run that takes decodes together.
    pub(crate) fn compare_with(&self, fast: &Self) -> Result<(), String> {
        self.prefill.compare_with(&fast.prefill)?;
        self.decode.compare_with(&fast.decode)
    }

    /// Checks that every request has ended once and left nothing behind.
    pub(crate) fn check_outcome(&self) {
        for side in [&self.prefill, &self.decode] {
            let (engine, name) = (&side.engine, side.name);
            assert!(engine.is_empty() && !engine.awaits_kv(), "something is left on the {name} side");
            assert_eq!(
                engine.num_free_blocks(),
                engine.config().usable_blocks(),
                "memory of the {name} side"
            );
        }
        let ended = self.decode.log.sink.ended.iter().flat_map(|iteration| {
            let at_once = iteration.joined.iter().filter(|joined| joined.is_finished).map(|joined| joined.id);
            let finished = iteration.finished.iter().map(|finished| finished.id);
            finished.chain(at_once).chain(iteration.rejected.iter().map(|&(id, _)| id))
        });
        let mut ended: Vec<RequestId> = ended.collect();
        ended.sort_unstable();
        let all: Vec<RequestId> = (0..self.case.requests.len() as u32).map(RequestId).collect();
        assert_eq!(ended, all, "every request ends once");
    }

    pub(crate) fn run(&mut self) -> Result<(), String> {
        let mut now = Time::ZERO;
        let mut passes_left = 1_000;
        loop {
            self.prefill.turn(self.case, now)?;
            self.follow_prefill(now);
            while self.moving.front().is_some_and(|&(end, _)| end <= now)
                && let Some((_, id)) = self.moving.pop_front()
            {
                self.decode.engine.fetched(id, now);
            }
            self.decode.turn(self.case, now)?;
            for fetch in std::mem::take(&mut self.decode.log.sink.begun) {
                self.prefill.engine.preallocated(fetch.id, fetch.of_tokens - fetch.tokens, now);
            }
            self.prefill.start(now);
            self.follow_prefill(now);
            let moving = self.moving.front().map(|&(end, _)| end);
            let next = [self.prefill.next(self.case), self.decode.next(self.case), moving];
            match next.into_iter().flatten().min() {
                Some(next) if next >= now => now = next,
                Some(_) => return Err("time runs back".to_owned()),
                // The real workers look all the time, and the pass after an end still counts that request.
                None if passes_left > 0 && !self.is_done() => passes_left -= 1,
                None => return Ok(()),
            }
        }
    }

    fn is_done(&self) -> bool {
        self.prefill.engine.is_empty() && self.decode.engine.is_empty()
    }

    /// KV of prompts that were computed is on its way.
    fn follow_prefill(&mut self, now: Time) {
        for iteration in &self.prefill.log.sink.ended[self.seen..] {
            for finished in &iteration.finished {
                let end = from_us(iteration.end.as_ns() / 1_000 + self.transfer_us);
                self.prefill.engine.release(finished.id, end, now);
                self.moving.push_back((end, finished.id));
            }
        }
        self.seen = self.prefill.log.sink.ended.len();
    }
}
