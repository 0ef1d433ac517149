//! What others learn from an engine, they do not learn before it said that they might.

use proptest::prelude::*;
use serde_json::json;
use servecast_engine::{
    Begun, Decodes, Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Fetch, Finished,
    Iteration, IterationSink, Joined, LastIteration, Links,
};
use servecast_types::{KvEvent, Prompt, RequestId, Run, Time};

use crate::properties::cases;

const BLOCK_SIZE: u32 = 4;

/// When it told others of something: a first token, an end, or what it stored or evicted.
#[derive(Debug, Default)]
struct Told {
    at: Vec<Time>,
    has_token: Vec<bool>,
}

impl Links for Told {
    fn begin(&mut self, fetch: Fetch, _: Time) -> Begun {
        unreachable!("{fetch:?}: nothing comes from elsewhere");
    }
}

impl IterationSink for Told {
    fn joined(&mut self, joined: Joined, _: Time) {
        unreachable!("{joined:?}: nothing comes from elsewhere");
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        let first = iteration
            .emitted
            .iter()
            .any(|emitted| !std::mem::replace(&mut self.has_token[emitted.id.index()], true));
        let others = !(iteration.finished.is_empty() && iteration.rejected.is_empty());
        if first || others || !iteration.kv_events.is_empty() {
            self.at.push(iteration.end);
        }
    }

    fn decoded(&mut self, _: &Decodes) {}

    fn finished_decoding(&mut self, _: Finished, end: Time, _: LastIteration) {
        self.at.push(end);
    }

    fn cache_changed(&mut self, _: &[KvEvent], end: Time) {
        self.at.push(end);
    }

    fn caught_up(&mut self, _: RequestId, _: u32, _: Time) {}
}

/// Prompt and output tokens of a request, whether others name what it generates, and milliseconds since the one before.
type Request = (u32, u32, bool, u64);

/// Serves requests on an engine with so many blocks and says how often it promised that there would be no news with the
/// iteration in flight.
fn serve(blocks: u32, tells: bool, requests: &[Request]) -> u64 {
    // 1 ms, and 5 ms for each token, so that an iteration with one request less is much shorter.
    let settings =
        json!({"num_gpu_blocks": blocks, "block_size": BLOCK_SIZE, "latency": "linear:1000,5000,0"});
    let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
    let tracing = EngineTracing {
        kv_events: tells,
        skip_own_output: true,
        stretches: true,
        ..EngineTracing::default()
    };
    let mut engine = Engine::new(config, tracing);
    let mut told = Told { has_token: vec![false; requests.len()], ..Told::default() };
    let mut arrivals = (0..).zip(requests).scan(0, |clock, (number, &(prompt, output, is_named, gap_ms))| {
        *clock += gap_ms * 1_000_000;
        let content = Prompt::new([Run::tokens(number * 1000, prompt)]);
        let request = EngineRequest {
            output: is_named.then(|| Prompt::new([Run::tokens((number + 500) * 1000, output)]).into()),
            ..EngineRequest::new(RequestId(number), content, output, Time::from_ns(*clock))
        };
        Some(request)
    });
    let (mut next, mut promised, mut promises) = (arrivals.next(), Time::ZERO, 0);
    let mut now = Time::ZERO;
    loop {
        let state = engine.run(now, &mut told).unwrap();
        if let EngineState::Busy { until } = state {
            let news = engine.next_news(until);
            assert!(news >= until, "{news} is before the end of the iteration in flight at {until}");
            promises += u64::from(news > until);
            promised = promised.max(news);
        }
        let arrival = next.as_ref().map(|request| request.arrival);
        now = match state {
            EngineState::Busy { until } if arrival.is_none_or(|arrival| until <= arrival) => {
                engine.end_iteration(until, &mut told);
                for at in told.at.drain(..) {
                    assert!(at >= promised, "there is news at {at}, before {promised}");
                }
                until
            }
            _ => match arrival {
                Some(arrival) => arrival,
                None => return promises,
            },
        };
        while let Some(request) = next.take_if(|request| request.arrival <= now) {
            engine.submit(request).unwrap();
            next = arrivals.next();
            // What comes may change what was to be.
            promised = now;
        }
    }
}

/// Two requests fill the pool, and one has to give its blocks up when the other needs one more.
#[test]
fn who_is_preempted_makes_the_iteration_shorter() {
    for blocks in 10..30 {
        let promises = serve(blocks, true, &[(4, 30, false, 0), (4, 30, false, 0)]);
        assert!(promises > 0, "{blocks} blocks");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn there_is_no_news_before_it_was_said_that_there_might_be(
        blocks in 16_u32..60,
        tells in any::<bool>(),
        requests in prop::collection::vec((1_u32..20, 1_u32..40, prop::bool::weighted(0.2), 0_u64..200), 1..16),
    ) {
        serve(blocks, tells, &requests);
    }
}
