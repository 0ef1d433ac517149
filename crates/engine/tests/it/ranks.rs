//! What follows from lock step, whatever the load.

use proptest::prelude::*;
use serde_json::json;
use servecast_engine::{Engine, EngineArgs, EngineRequest, EngineState, EngineTracing};
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::served::{Asked, Seen, load, serve};

fn engine(ranks: u32, asynchronous: bool) -> Engine {
    let settings = json!({
        "block_size": 4, "num_gpu_blocks": 60, "max_num_seqs": 6, "max_num_batched_tokens": 48,
        "async_scheduling": asynchronous, "dp_size": ranks, "latency": "linear:500,10,3",
    });
    Engine::new(EngineArgs::from_json(settings).unwrap().validate(None).unwrap(), EngineTracing::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Every request gets its tokens, a pass is one for all ranks, and a run can be repeated.
    #[test]
    fn passes_are_of_all_ranks(asked in load(), ranks in 2_u32..5, asynchronous: bool) {
        let run = || serve(engine(ranks, asynchronous), &asked, |_| None);
        let (seen, end) = run();
        for (number, asked) in asked.iter().enumerate() {
            let tokens = seen.tokens.iter().filter(|(id, _)| id.index() == number).count();
            prop_assert_eq!(tokens, asked.2 as usize, "request {}", number);
        }
        let mut passes: Vec<(Time, Time)> = seen
            .iterations
            .iter()
            .filter(|iteration| !iteration.scheduled.is_empty())
            .map(|iteration| (iteration.start, iteration.end))
            .collect();
        passes.sort_unstable();
        passes.dedup();
        for pair in passes.windows(2) {
            prop_assert!(pair[0].1 <= pair[1].0, "{:?} overlap", pair);
        }
        prop_assert_eq!((seen, end), run());
    }

    /// Ranks that have the same to do at the same time do it as an engine by itself. With asynchronous scheduling they would
    /// run a dummy where that has nothing to compute before it knows a last token.
    #[test]
    fn ranks_with_equal_work_are_as_one_engine(
        asked in prop::collection::vec((Just(0_u64), 1_u32..100, 1_u32..30), 1..15),
        ranks in 2_u32..5,
    ) {
        let (alone, _) = serve(engine(1, false), &asked, |_| None);
        // Requests 0, 1, … of each rank have the shapes of requests 0, 1, … of the one engine, and contents of their own.
        let repeated: Vec<Asked> = asked.iter().flat_map(|&asked| vec![asked; ranks as usize]).collect();
        let (together, _) = serve(engine(ranks, false), &repeated, |number| Some(number as u32 % ranks));
        for rank in 0..ranks {
            let of_rank = together.tokens.iter().filter(|(id, _)| id.0 % ranks == rank);
            let of_rank: Vec<_> = of_rank.map(|&(id, at)| (RequestId(id.0 / ranks), at)).collect();
            prop_assert_eq!(&of_rank, &alone.tokens, "rank {}", rank);
        }
    }
}

/// A rank without work makes the others wait for nothing but the length of a dummy.
#[test]
fn a_rank_without_work_takes_part_with_dummies() {
    let (seen, end) = serve(engine(2, false), &[(0, 10, 3)], |_| Some(1));
    // 500 + 10 · 10 + 3 µs, then twice 500 + 10 + 3; the wave ends after 16 passes, of which 13 are dummies of 510 + 3 µs.
    let ms = |us: u64| Time::from_ns(us * 1000);
    let tokens: Vec<Time> = seen.tokens.iter().map(|&(_, at)| at).collect();
    assert_eq!(tokens, [ms(603), ms(1116), ms(1629)]);
    assert_eq!(end, ms(603 + 15 * 513));
}

/// Where dummies take no time, ranks wait for KV instead of computing them; with a connector that notices its end only when an
/// iteration is over, the request starts with the iteration after that.
#[test]
fn a_request_whose_kv_is_noticed_late_starts_where_dummies_take_no_time() {
    for asynchronous in [false, true] {
        let settings = json!({
            "dp_size": 2, "dp_dummy_us": 0, "kv_role": "kv_consumer", "async_scheduling": asynchronous,
            "latency": "linear:500,10,3",
        });
        let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
        let mut engine = Engine::new(config, EngineTracing::default());
        let request = EngineRequest::new(RequestId(0), Prompt::new([Run::tokens(0, 10)]), 2, Time::ZERO);
        engine.submit(EngineRequest { remote_prefill: true, ..request }).unwrap();
        let (mut now, mut seen) = (Time::ZERO, Seen::default());
        loop {
            match engine.run(now, &mut seen).unwrap() {
                EngineState::Busy { until } => {
                    now = until;
                    engine.end_iteration(now, &mut seen);
                }
                EngineState::Idle { wake: Some(wake) } => now = wake,
                EngineState::Idle { wake: None } => break,
            }
        }
        // 1 ms on its way, then a token in 513 µs each.
        let us = |us: u64| (RequestId(0), Time::from_ns(us * 1000));
        assert_eq!(seen.tokens, [us(1513), us(2026)], "asynchronous scheduling: {asynchronous}");
        assert!(engine.is_empty());
    }
}
