//! What follows from a pipeline, whatever the load.

use proptest::prelude::*;
use serde_json::{Value, json};
use servecast_engine::{Engine, EngineArgs, EngineRequest, EngineTracing, Iteration};
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::recording::Log;
use crate::rules_offload::serve_until;
use crate::served::{load, serve};

fn engine(stages: u32, asynchronous: bool, more: &Value) -> Engine {
    engine_with(EngineTracing::default(), stages, asynchronous, more)
}

/// One that tells of its blocks, too.
fn engine_that_tells(stages: u32, asynchronous: bool, more: &Value) -> Engine {
    let tracing = EngineTracing { kv_events: true, ..EngineTracing::default() };
    engine_with(tracing, stages, asynchronous, more)
}

fn engine_with(tracing: EngineTracing, stages: u32, asynchronous: bool, more: &Value) -> Engine {
    let mut settings = json!({
        "block_size": 4, "num_gpu_blocks": 60, "max_num_seqs": 6, "max_num_batched_tokens": 48,
        "async_scheduling": asynchronous, "pipeline_parallel_size": stages, "latency": "linear:6000,120,0",
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Engine::new(EngineArgs::from_json(settings).unwrap().validate(None).unwrap(), tracing)
}

fn us(us: u64) -> Time {
    Time::from_ns(us * 1000)
}

/// What computes something: when it begins, when it ends, and the tokens of each request.
fn batches(iterations: &[Iteration]) -> Vec<(Time, Time, Vec<u32>)> {
    let computing = iterations.iter().filter(|iteration| !iteration.scheduled.is_empty());
    let tokens = |iteration: &Iteration| iteration.scheduled.iter().map(|one| one.tokens).collect();
    computing.map(|iteration| (iteration.start, iteration.end, tokens(iteration))).collect()
}

/// Three stages, each of which takes 2,000 µs and 40 more a token. Without asynchronous scheduling a decode waits for its
/// token; the chunks of a prompt follow each other, each a stage behind the one before.
#[test]
fn chunks_follow_each_other_and_decodes_wait_for_their_tokens() {
    let no_sleep = json!({"pipeline_idle_sleep_us": 0});
    let (seen, end) = serve(engine(3, false, &no_sleep), &[(0, 70, 3)], |_| None);
    // 48 tokens take 3,920 µs a stage, 22 take 2,880: the second chunk is in a stage when the first has left it.
    let [first, second] = [3 * 3920, 3 * 3920 + 2880];
    let expected = [
        (us(0), us(first), vec![48]),
        (us(3920), us(second), vec![22]),
        (us(second), us(second + 3 * 2040), vec![1]),
        (us(second + 3 * 2040), us(second + 6 * 2040), vec![1]),
    ];
    assert_eq!(batches(&seen.iterations), expected);
    assert_eq!(end, us(second + 6 * 2040));
    // In stages 2 and 3 the second chunk waits for 1,040 µs each.
    let waited: Vec<u64> = seen.iterations.iter().map(|iteration| iteration.waited.as_ns() / 1000).collect();
    assert_eq!(waited, [0, 2 * 1040, 0, 0]);
}

/// Without asynchronous scheduling, a request that loses its blocks while a batch of it is under way keeps the drafts that
/// come with that: when it runs again, it verifies them in the batch behind its first one, before that has ended.
#[test]
fn drafts_that_come_after_a_preemption_are_verified_behind_the_first_batch() {
    let more = json!({
        "num_gpu_blocks": 24, "pipeline_idle_sleep_us": 0,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "acceptance_rates": [0.9, 0.8]},
    });
    let mut seen_so_often = 0;
    for prompt in 20..44 {
        let (seen, _) = serve(engine(2, false, &more), &[(0, prompt, 20), (40, prompt, 20)], |_| None);
        let batches: Vec<&Iteration> = seen.iterations.iter().filter(|it| !it.scheduled.is_empty()).collect();
        for pair in batches.windows(2) {
            let again = pair[0].admitted.iter().filter(|admitted| admitted.resumed);
            let goes_on = |id| pair[1].verified.iter().any(|verified| verified.id == id);
            let is_early = pair[1].scheduled_at < pair[0].end;
            seen_so_often += again.filter(|admitted| is_early && goes_on(admitted.id)).count();
        }
    }
    assert!(seen_so_often > 0);
}

/// A request that comes while a batch that does nothing is in the queue waits for the oldest batch, though the first stage is
/// free; and an engine that found nothing to compute sleeps.
#[test]
fn empty_batches_and_sleep_hold_requests_back() {
    // Two stages of 3,000 µs and 60 more a token: the prompt of 10 takes 7,200. The request of 100 µs comes at once after
    // that, or when the engine has slept for a millisecond.
    for (sleep_us, start) in [(0, 7200), (1000, 8200)] {
        let sleep = json!({"pipeline_idle_sleep_us": sleep_us});
        let (seen, _) = serve(engine(2, false, &sleep), &[(0, 10, 1), (1, 10, 1)], |_| None);
        let starts: Vec<Time> = batches(&seen.iterations).iter().map(|batch| batch.0).collect();
        assert_eq!(starts, [us(0), us(start)], "{sleep_us}");
    }
}

/// While everybody waits for a grammar, the engine sleeps again and again and looks at what has come when it wakes up: it has a
/// grammar of 6,500 µs, or a request without one, at 7,000. Batches of nothing stay in the queue, so that the first results
/// come with the first of these, the blocks of the prompt among them.
#[test]
fn who_waits_for_a_grammar_is_seen_when_the_engine_wakes_up() {
    for (sleep_us, start) in [(0, 6500), (1000, 7000)] {
        for (arrival, ready) in [(0, 6500), (6500, 0)] {
            let sleep = json!({"pipeline_idle_sleep_us": sleep_us});
            let request = |number, at: u64, ready: u64| EngineRequest {
                grammar_ready: Some(us(ready)),
                ..EngineRequest::new(RequestId(number), Prompt::new([Run::tokens(0, 8)]), 1, us(at))
            };
            let requests = [request(0, 0, 20_000), request(1, arrival, ready)];
            let mut log = Log::default();
            let engine = engine_that_tells(2, true, &sleep);
            serve_until(engine, &requests, &mut log);
            assert_eq!(batches(&log.ended)[0].0, us(start), "sleep {sleep_us}, ready {ready}");
            let stored = log.ended.iter().find(|iteration| !iteration.kv_events.is_empty()).unwrap();
            assert_eq!(
                (stored.end, stored.scheduled.len()),
                (us(start), 0),
                "sleep {sleep_us}, ready {ready}"
            );
        }
    }
}

/// With asynchronous scheduling a request decodes in every second batch of two stages, so that two batches take turns.
#[test]
fn two_batches_take_turns_under_asynchronous_scheduling() {
    let no_sleep = json!({"pipeline_idle_sleep_us": 0});
    let (seen, _) = serve(engine(2, true, &no_sleep), &[(0, 40, 6), (0, 40, 6)], |_| None);
    // 40 and 8 tokens fit the first batch, so that the second prompt ends in the second.
    let ids = |iteration: &Iteration| iteration.scheduled.iter().map(|one| one.id.0).collect::<Vec<_>>();
    let computing = seen.iterations.iter().filter(|iteration| !iteration.scheduled.is_empty());
    let order: Vec<Vec<u32>> = computing.map(ids).collect();
    let expected: Vec<Vec<u32>> =
        [&[0, 1][..], &[1], &[0], &[1], &[0], &[1], &[0], &[1], &[0], &[1], &[0], &[1]]
            .map(<[u32]>::to_vec)
            .into();
    assert_eq!(order, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Every request gets its tokens one after the other, no more batches are under way than the queue holds, each with a
    /// number of its own, and a run can
    /// be repeated.
    #[test]
    fn requests_are_served_whatever_the_stages(
        asked in load(),
        stages in 2_u32..6,
        asynchronous: bool,
        sleeps: bool,
        draft in prop::option::of(1_u32..4),
    ) {
        let mut more = json!({"pipeline_idle_sleep_us": if sleeps { 1000 } else { 0 }});
        if let Some(drafts) = draft {
            more["speculative_config"] =
                json!({"method": "ngram", "num_speculative_tokens": drafts, "acceptance_rates": vec![0.5; drafts as usize]});
        }
        let run = || serve(engine(stages, asynchronous, &more), &asked, |_| None);
        let (seen, end) = run();
        for (number, asked) in asked.iter().enumerate() {
            let of_request = seen.iterations.iter().flat_map(|iteration| &iteration.emitted);
            let tokens: u32 = of_request.filter(|one| one.id.index() == number).map(|one| one.tokens).sum();
            prop_assert_eq!(tokens, asked.2, "request {}", number);
        }
        let computing: Vec<&Iteration> =
            seen.iterations.iter().filter(|iteration| !iteration.scheduled.is_empty()).collect();
        let depth = stages as usize + usize::from(asynchronous);
        for (number, batch) in computing.iter().enumerate() {
            let others: Vec<&&Iteration> =
                computing[..number].iter().filter(|other| other.end > batch.start).collect();
            prop_assert!(others.len() < depth, "{} are under way at {}", others.len() + 1, batch.start);
            prop_assert!(others.iter().all(|other| other.micro_batch != batch.micro_batch));
        }
        prop_assert_eq!((seen, end), run());
    }
}
