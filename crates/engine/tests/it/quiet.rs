//! Nobody outside has to learn of anything before an engine says that it may have something to tell.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use servecast_engine::{
    Begun, Decodes, Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Fetch, Finished,
    Iteration, IterationSink, Joined, LastIteration, Links,
};
use servecast_types::{KvEvent, Prompt, RequestId, Run, Time};

use crate::properties::cases;

/// A request: when it comes, in tenths of a millisecond, tokens of its prompt and of its output, after how many it stops.
type Asked = (u64, u32, u32, Option<u32>);

/// Holds an engine to what it said.
#[derive(Debug, Default)]
struct Listener {
    /// Before when it said that it has nothing to tell.
    quiet_until: Time,
    has_first_token: BTreeSet<RequestId>,
    /// Whether others may hit what its requests generate.
    shares_output: bool,
    told: u32,
}

impl Listener {
    fn news(&mut self, what: &str, at: Time) {
        assert!(at >= self.quiet_until, "{what} at {at}, but it was to be quiet until {}", self.quiet_until);
        self.told += 1;
    }

    fn cache(&mut self, events: &[KvEvent], at: Time) {
        let is_stored = |event: &KvEvent| matches!(event, KvEvent::Stored { .. });
        if self.shares_output && events.iter().any(is_stored) {
            self.news("contents that others may hit", at);
        }
    }
}

impl Links for Listener {
    fn begin(&mut self, fetch: Fetch, _: Time) -> Begun {
        unreachable!("{fetch:?}, but nothing is handed over")
    }
}

impl IterationSink for Listener {
    fn joined(&mut self, joined: Joined, _: Time) {
        unreachable!("{joined:?}, but nothing is handed over")
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        for emitted in &iteration.emitted {
            if self.has_first_token.insert(emitted.id) {
                self.news("a first token", iteration.end);
            }
        }
        if !iteration.finished.is_empty() {
            self.news("an end", iteration.end);
        }
        self.cache(&iteration.kv_events, iteration.end);
    }

    fn decoded(&mut self, _: &Decodes) {}

    fn finished_decoding(&mut self, _: Finished, end: Time, _: LastIteration) {
        self.news("an end", end);
    }

    fn cache_changed(&mut self, events: &[KvEvent], end: Time) {
        self.cache(events, end);
    }

    fn caught_up(&mut self, _: RequestId, _: u32, _: Time) {}
}

fn settings() -> impl Strategy<Value = Value> {
    let vllm =
        (any::<bool>(), 2_u32..20, 20_u32..200, 1_u32..10).prop_map(|(asynchronous, size, blocks, seqs)| {
            json!({"block_size": size, "num_gpu_blocks": blocks.max(200 / size + 2), "max_num_seqs": seqs,
            "max_num_batched_tokens": 64, "enable_chunked_prefill": true, "async_scheduling": asynchronous})
        });
    let sglang = (prop::sample::select(vec![1_u32, 4, 16]), 200_u32..900, any::<bool>()).prop_map(
        |(page, tokens, overlap)| {
            json!({"engine_type": "sglang", "block_size": page, "num_gpu_blocks": tokens.div_ceil(page),
                "sglang": {"chunked_prefill_size": 64, "disable_overlap_schedule": !overlap}})
        },
    );
    prop_oneof![vllm, sglang]
}

fn load() -> impl Strategy<Value = Vec<Asked>> {
    let asked = (0_u64..2_000, 1_u32..100, 1_u32..80, prop::option::weighted(0.2, 1_u32..80));
    prop::collection::vec(asked, 1..12)
}

/// Serves requests; `shares_output`: what they generate has names that others may know. Returns how often the engine said that it would be quiet beyond its iteration in flight.
fn serve(settings: &Value, asked: &[Asked], shares_output: bool) -> u32 {
    let config = EngineArgs::from_json(settings.clone()).unwrap().validate(None).unwrap();
    let tracing = EngineTracing { kv_events: true, stretches: true, ..EngineTracing::default() };
    let mut engine = Engine::new(config, tracing);
    let at = |asked: &Asked| Time::from_ns(asked.0 * 100_000);
    let mut requests: Vec<(usize, &Asked)> = asked.iter().enumerate().collect();
    requests.sort_by_key(|(_, asked)| asked.0);
    let mut coming = requests.into_iter().peekable();
    let mut listener = Listener { shares_output, ..Listener::default() };
    let (mut now, mut promises) = (Time::ZERO, 0);
    loop {
        while let Some((number, &asked)) = coming.next_if(|(_, asked)| at(asked) <= now) {
            let (_, prompt, output, stop_after) = asked;
            let tokens = |first: u32, count| Prompt::new([Run::tokens(1_000_000 * first, count)]);
            let request = EngineRequest::new(
                RequestId(number as u32),
                tokens(1 + number as u32, prompt),
                output,
                at(&asked),
            );
            let named = shares_output.then(|| Box::new(tokens(2_000 + number as u32, output)));
            let request = EngineRequest {
                stop_after: stop_after.map(|stop| stop.min(output)),
                output: named,
                ..request
            };
            if engine.submit(request).is_ok() {
                listener.quiet_until = Time::ZERO;
            }
        }
        let next = coming.peek().map(|(_, asked)| at(asked));
        match engine.run(now, &mut listener).unwrap() {
            EngineState::Busy { until } => {
                let quiet_until = engine.quiet_until(until);
                assert!(quiet_until >= until, "nothing is told within an iteration");
                promises += u32::from(quiet_until > until);
                listener.quiet_until = listener.quiet_until.max(quiet_until);
                if next.is_some_and(|next| next < until) {
                    now = next.unwrap();
                } else {
                    now = until;
                    engine.end_iteration(now, &mut listener);
                }
            }
            EngineState::Idle { .. } => match next {
                Some(next) => now = next,
                None => break,
            },
        }
    }
    assert!(listener.told > 0 || asked.len() < 2, "requests had tokens");
    promises
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_told_before_the_engine_said_so(settings in settings(), load in load(), shares_output: bool) {
        serve(&settings, &load, shares_output);
    }
}

#[test]
fn what_only_decodes_is_quiet_until_the_first_may_end() {
    let settings = json!({"block_size": 16, "num_gpu_blocks": 100});
    let load = [(0, 10, 40, None), (0, 20, 60, None)];
    assert!(serve(&settings, &load, false) > 40, "it says so in most iterations");
    assert_eq!(serve(&settings, &load, true), 0, "a block may fill that others hit");
}
