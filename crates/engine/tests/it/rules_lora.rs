//! Adapters that are loaded before a pass, in schedules that can be worked out by hand.

use serde_json::{Value, json};
use servecast_engine::{Engine, EngineArgs, EngineRequest, EngineTracing};
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::rules::serve;
use crate::served::Seen;

const MS: u64 = 1_000_000;

/// Serves requests given as adapter, output length and arrival in milliseconds, by passes of 1 ms; in how many milliseconds
/// each iteration is computed, and of whom.
#[track_caller]
fn check(changes: &Value, requests: &[(Option<u32>, u32, u64)], expected: &[(u64, &[u32])]) {
    let mut settings = json!({
        "latency": "linear:1000,0,0", "enable_lora": true, "max_loras": 2, "lora_load_ms": 3, "lora_fetch_ms": 20,
    });
    settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
    let requests = (0..).zip(requests).map(|(number, &(lora, max_tokens, at))| {
        let prompt = Prompt::new([Run::tokens(1000 * number, 10)]);
        let request = EngineRequest::new(RequestId(number), prompt, max_tokens, Time::from_ns(at * MS));
        EngineRequest { lora, ..request }
    });
    let mut seen = Seen::default();
    serve(&mut Engine::new(config, EngineTracing::default()), requests.collect(), &mut seen);
    let computing = seen.iterations.iter().filter(|iteration| !iteration.scheduled.is_empty());
    let found: Vec<(u64, Vec<u32>)> = computing
        .map(|iteration| {
            let length = iteration.end.since(iteration.start).as_ns() / MS;
            (length, iteration.scheduled.iter().map(|one| one.id.0).collect())
        })
        .collect();
    let found: Vec<(u64, &[u32])> = found.iter().map(|(length, ids)| (*length, &ids[..])).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_iteration_takes_longer_by_what_it_loads_before_it() {
    // Both adapters of the first iteration come from elsewhere; request 2 finds that of request 0, request 3 needs none.
    let requests = [(Some(7), 3, 0), (Some(8), 1, 0), (Some(7), 2, 1), (None, 1, 1)];
    let [first, then, last] = [(1 + 2 * 23, &[0, 1][..]), (1, &[0, 2, 3][..]), (1, &[0, 2][..])];
    check(&json!({}), &requests, &[first, then, last]);
    check(&json!({"lora_load_ms": 0, "lora_fetch_ms": 0}), &requests, &[(1, first.1), then, last]);
    check(&json!({"speedup_ratio": 0.5}), &requests, &[(2 + 2 * 23, first.1), (2, then.1), (2, last.1)]);
}

/// One adapter on the GPU: 8 takes the place of 7, and whether the host still has that when request 2 needs it depends on how
/// many it keeps.
#[test]
fn what_the_gpu_gave_up_comes_from_the_host_if_that_has_it() {
    let requests = [(Some(7), 1, 0), (Some(8), 1, 0), (Some(7), 1, 0)];
    let one = json!({"max_loras": 1, "enable_prefix_caching": false});
    // Request 2 has the adapter that runs, so that it passes request 1.
    check(&one, &requests, &[(24, &[0, 2]), (24, &[1])]);
    let later = [(Some(7), 1, 0), (Some(8), 1, 0), (Some(7), 1, 24)];
    check(&one, &later, &[(24, &[0]), (24, &[1]), (24, &[2])]);
    let two = json!({"max_loras": 1, "max_cpu_loras": 2});
    check(&two, &later, &[(24, &[0]), (24, &[1]), (4, &[2])]);
}

#[test]
fn ranks_wait_for_the_one_that_loads() {
    let ranks = json!({"dp_size": 2, "lora_fetch_ms": 0});
    check(&ranks, &[(Some(7), 2, 0), (None, 2, 0)], &[(4, &[0]), (4, &[1]), (1, &[0]), (1, &[1])]);
}

/// A stage loads its half: 12 ms in each, and 1 ms of the pass.
#[test]
fn each_stage_of_a_pipeline_loads_its_share() {
    let stages = json!({"pipeline_parallel_size": 2, "latency": "linear:2000,0,0", "lora_load_ms": 4});
    check(&stages, &[(Some(7), 2, 0)], &[(2 * (1 + 12), &[0]), (2, &[0])]);
}
