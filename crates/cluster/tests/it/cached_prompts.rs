//! Prompts that others have computed before, or compute at the same time: what they wait for and what they cost.

use serde_json::{Value, json};
use servecast_cluster::{PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::EngineArgs;
use servecast_workload::{Load, TraceRow, Workload};

/// TTFT in ms of requests on one worker: when they come in ms, tokens in and out, and ids of blocks of `block` tokens.
fn ttfts(engine: &Value, block: u32, requests: &[(f64, u64, u64, &[u64])]) -> Vec<f64> {
    let row =
        |(line, &(timestamp_ms, input, output_length, hash_ids)): (u64, &(f64, u64, u64, &[u64]))| TraceRow {
            line,
            timestamp_ms: Some(timestamp_ms),
            input_length: Some(input),
            output_length,
            hash_ids: hash_ids.to_vec(),
            ..TraceRow::default()
        };
    let rows: Vec<TraceRow> = (1..).zip(requests).map(row).collect();
    let args = EngineArgs::from_json(engine.clone()).unwrap();
    let config = args.validate(None).unwrap();
    let topology = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap();
    let run = |plain| {
        let workload = Workload::from_rows(&rows, block, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
        let options = SimulationOptions { check: true, plain, ..SimulationOptions::default() };
        let record = Simulation::new(&topology, workload, &options).unwrap().run(&mut ()).unwrap();
        let ttft = |request: &servecast_record::RequestRecord| request.ttft().unwrap().as_ns() as f64 / 1e6;
        record.requests.iter().map(ttft).collect::<Vec<f64>>()
    };
    assert_eq!(run(false), run(true), "one by one and together");
    run(true)
}

#[track_caller]
fn near(found: &[f64], expected: &[f64]) {
    let close = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.005);
    assert!(close, "{found:?}, expected {expected:?}");
}

/// The prompt takes 11.34 ms; the next iteration computes one token for each of the three, at 0.33 ms beyond the first.
#[test]
fn equal_prompts_of_one_iteration_are_put_off_and_hit_in_the_next_under_tensorrt_llm() {
    let settings = json!({"engine_type": "trtllm", "block_size": 32, "latency": "linear:1000,10,100"});
    let equal: (f64, u64, u64, &[u64]) = (0.0, 1024, 4, &[1, 2]);
    near(&ttfts(&settings, 512, &[equal; 3]), &[11.34, 12.67, 12.67]);
    // In two chunks: it is put off until all of the prompt is there, and another prompt is not.
    let chunked = json!({
        "engine_type": "trtllm", "block_size": 32, "latency": "linear:1000,10,100", "max_num_batched_tokens": 560,
    });
    let other: (f64, u64, u64, &[u64]) = (0.0, 32, 1, &[3]);
    // 560 tokens of the first; the other 464, and all 32 of the last; one token each of the first two.
    let expected = [6.7 + 6.16, 12.86 + 1.22, 12.86];
    near(&ttfts(&chunked, 512, &[equal, equal, other]), &expected);
}

#[test]
fn prompts_that_share_no_block_to_come_are_not_put_off() {
    let settings = |caching: bool| {
        json!({
            "engine_type": "trtllm", "block_size": 32, "latency": "linear:1000,10,100",
            "enable_prefix_caching": caching,
        })
    };
    // The second begins like the first for less than a block.
    let short: [(f64, u64, u64, &[u64]); 2] = [(0.0, 31, 1, &[1]), (0.0, 31, 1, &[1])];
    near(&ttfts(&settings(true), 512, &short), &[1.82, 1.82]);
    // Nothing can be hit.
    let equal: [(f64, u64, u64, &[u64]); 2] = [(0.0, 64, 1, &[1]), (0.0, 64, 1, &[1])];
    near(&ttfts(&settings(false), 512, &equal), &[2.48, 2.48]);
    near(&ttfts(&settings(true), 512, &equal), &[1.74, 2.85]);
}

/// With one place in the batch nobody behind the one that is put off is looked at, since it keeps the second place.
#[test]
fn who_is_put_off_keeps_its_place() {
    let settings = json!({
        "engine_type": "trtllm", "block_size": 32, "latency": "linear:1000,10,100", "max_num_seqs": 2,
    });
    let requests: [(f64, u64, u64, &[u64]); 3] = [(0.0, 64, 1, &[1]), (0.0, 64, 1, &[1]), (0.0, 32, 1, &[2])];
    near(&ttfts(&settings, 512, &requests), &[1.74, 1.74 + 1.53, 1.74 + 1.53]);
}

/// A prompt that is cached to its last token computes that one, as a prefill of one token and not as a decode.
#[test]
fn a_prompt_that_is_wholly_cached_costs_what_one_that_is_almost_cached_costs() {
    let requests: [(f64, u64, u64, &[u64]); 4] = [
        (0.0, 64, 2, &[1, 2, 3, 4]),
        (5_000.0, 64, 2, &[1, 2, 3, 4]),
        (10_000.0, 65, 2, &[1, 2, 3, 4, 5]),
        (15_000.0, 63, 2, &[1, 2, 3, 4]),
    ];
    for (engine, page) in [("trtllm", 16), ("vllm", 16), ("sglang", 16), ("sglang", 1)] {
        let settings = json!({"engine_type": engine, "block_size": page});
        let found = ttfts(&settings, 16, &requests);
        let cached = &found[1..];
        assert!(
            cached.iter().all(|ttft| (16.3..17.0).contains(ttft)),
            "{engine}, pages of {page}: {found:?}"
        );
        let spread = cached.iter().fold(0.0_f64, |most, ttft| most.max((ttft - cached[0]).abs()));
        assert!(spread < 0.5, "{engine}, pages of {page}: {found:?}");
    }
}
