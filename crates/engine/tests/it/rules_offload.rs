//! Small schedules with KV offload that can be worked out by hand.

use serde_json::{Value, json};
use servecast_engine::{
    Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Iteration, OffloadCopy,
};
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::recording::Log;
use crate::rules::serve;

/// Bytes of a block of 4 tokens.
const BLOCK_BYTES: u32 = 4096;

/// Every iteration takes a millisecond, and so does a copy of one block.
fn engine(host_blocks: u32, own: &Value) -> Engine {
    engine_with(host_blocks, own, &json!({}))
}

fn engine_with(host_blocks: u32, own: &Value, others: &Value) -> Engine {
    let mut offloading = json!({"store_bandwidth": 0.004096, "load_bandwidth": 0.004096, "copy_us": 0});
    offloading.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    let mut settings = json!({
        "block_size": 4, "num_gpu_blocks": 64, "latency": "linear:1000,0,0", "kv_bytes_per_token": BLOCK_BYTES / 4,
        "kv_offloading_size": f64::from(host_blocks * BLOCK_BYTES) / f64::from(1 << 30), "kv_offloading": offloading,
    });
    settings.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    Engine::new(EngineArgs::from_json(settings).unwrap().validate(None).unwrap(), EngineTracing::default())
}

/// A request of its number: runs of its prompt, output length and arrival in milliseconds.
fn request(number: u32, prompt: &[(u32, u32)], max_tokens: u32, at: u64) -> EngineRequest {
    let prompt = Prompt::new(prompt.iter().map(|&(first, len)| Run::tokens(first, len)));
    EngineRequest::new(RequestId(number), prompt, max_tokens, Time::from_ns(at * 1_000_000))
}

/// What is stored, in order.
fn stores(mut engine: Engine, requests: Vec<EngineRequest>) -> Vec<OffloadCopy> {
    let mut log = Log::default();
    serve(&mut engine, requests, &mut log);
    log.ended
        .into_iter()
        .filter_map(|iteration| iteration.offload)
        .flat_map(|offload| offload.stores)
        .collect()
}

/// The host has room for two blocks, both of which are on their way there when a second request that hits them is looked at.
/// It is looked at from its first block on when there is room: by then that block has made room for another one, so that it is
/// stored again.
#[test]
fn without_room_at_the_host_nothing_is_looked_at() {
    // Both blocks take three milliseconds, from the end of the second iteration on; the scheduler knows at 6 ms.
    let host = json!({"connector": "simple", "store_bandwidth": 0.002731});
    let requests = vec![request(0, &[(0, 8)], 16, 0), request(1, &[(0, 8), (100, 4)], 16, 2)];
    let stores = stores(engine(3, &host), requests);
    let blocks = |store: &OffloadCopy| store.blocks.iter().map(|block| block.0).collect::<Vec<u32>>();
    assert_eq!(blocks(&stores[0]), [1, 2]);
    assert_eq!(blocks(&stores[1]), [3, 1]);
}

/// Layers with a window store only the blocks that the same prompt, sent again, goes on from; all their chunks go over with
/// those of the other layers.
#[test]
fn layers_with_a_window_store_what_a_prompt_goes_on_from() {
    let groups = json!({"kv_groups": [{"type": "full"}, {"type": "sliding_window", "sliding_window": 8}]});
    let stored = |groups: &Value| {
        let stores = stores(engine_with(64, &json!({}), groups), vec![request(0, &[(0, 32)], 4, 0)]);
        let blocks = |store: &OffloadCopy| store.blocks.iter().map(|block| block.0).collect::<Vec<u32>>();
        stores.iter().map(blocks).collect::<Vec<_>>()
    };
    // Of the second group, which has blocks 9 to 16, the two that end at the last block before the last token.
    assert_eq!(stored(&groups), [vec![1, 2, 3, 4, 5, 6, 7, 8, 14, 15]]);
    let mut dense = groups.clone();
    dense["prefix_cache_retention_interval"] = "dense".into();
    assert_eq!(stored(&dense), [(1..17).collect::<Vec<u32>>()]);
}

/// A state is stored for itself, when the chunk that ends with it is computed.
#[test]
fn states_are_stored_one_by_one() {
    let groups = json!({"kv_groups": [{"type": "full"}, {"type": "mamba"}], "enable_chunked_prefill": true});
    let stores = stores(engine_with(64, &json!({}), &groups), vec![request(0, &[(0, 10)], 4, 0)]);
    let blocks = |store: &OffloadCopy| store.blocks.iter().map(|block| block.0).collect::<Vec<u32>>();
    // 8 tokens end with a state that the same prompt goes on from; behind them come the two blocks of attention.
    assert_eq!(stores.iter().map(blocks).collect::<Vec<_>>(), [vec![3], vec![1, 2]]);
}

/// Two requests share a block, but not the other one of its chunk, so that each stores it. When both have ended, who hits it
/// waits for both stores.
#[test]
fn a_block_waits_for_every_store_that_reads_it() {
    let host = json!({"blocks_per_chunk": 2, "store_bandwidth": 0.000064});
    let requests = [0, 100, 200].iter().enumerate().map(|(number, &second)| {
        // The first one still runs when the second one hits its block.
        let (second, max_tokens) = if number == 0 { ((4, 4), 2) } else { ((second, 4), 1) };
        request(number as u32, &[(0, 4), second], max_tokens, number as u64)
    });
    let mut log = Log::default();
    serve(&mut engine(64, &host), requests.collect(), &mut log);
    let offloads = log.ended.iter().filter_map(|iteration| iteration.offload.as_ref());
    let flushed: Vec<&[u64]> = offloads.map(|offload| offload.flushed.as_slice()).collect();
    assert_eq!(flushed[2], [0, 1]);
}

/// With a drafter that computes the last block of a hit again: the second and the third request hit two blocks of the first
/// one, so that both lack the second of these, which the host has.
fn who_lacks_the_last_block_of_a_hit(own: &Value) -> Vec<(Vec<OffloadCopy>, Vec<u32>)> {
    let drafter =
        json!({"method": "eagle3", "num_speculative_tokens": 1, "conditional_acceptance_rates": [0.0]});
    let engine = engine_with(64, own, &json!({"speculative_config": drafter}));
    let others = [100, 200].iter().zip(1..);
    let others = others.map(|(&last, number)| request(number, &[(0, 8), (last, 4)], 1, 20));
    let mut log = Log::default();
    let requests: Vec<_> = std::iter::once(request(0, &[(0, 8)], 1, 0)).chain(others).collect();
    serve_until(engine, &requests, &mut log);
    let late = log.ended.into_iter().filter(|iteration| iteration.scheduled_at >= Time::from_ns(20_000_000));
    late.map(|iteration| {
        let computed = iteration.scheduled.iter().map(|scheduled| scheduled.computed).collect();
        (iteration.offload.map(|offload| offload.loads).unwrap_or_default(), computed)
    })
    .collect()
}

/// Serves requests, in order of arrival, and waits for those that come when nothing is left to do.
pub(crate) fn serve_until(mut engine: Engine, requests: &[EngineRequest], log: &mut Log) {
    let (mut now, mut requests) = (Time::ZERO, requests.iter().peekable());
    loop {
        while let Some(request) = requests.next_if(|request| request.arrival <= now) {
            engine.submit(request.clone()).unwrap();
        }
        match engine.run(now, log).unwrap() {
            EngineState::Busy { until } => {
                now = until;
                engine.end_iteration(now, log);
            }
            EngineState::Idle { wake } => {
                let arrival = requests.peek().map(|request| request.arrival);
                let Some(next) = wake.into_iter().chain(arrival).min() else { break };
                now = next;
            }
        }
    }
}

/// A pass may wait for a copy, and another request of it for the same one.
#[test]
fn nobody_waits_for_a_chunk_that_a_pass_waits_for() {
    let passes = who_lacks_the_last_block_of_a_hit(&json!({"sync_load_budget_bytes": 1 << 20}));
    let (loads, computed) = &passes[0];
    let requests: Vec<u32> = loads.iter().map(|load| load.requests[0].0).collect();
    assert_eq!((requests, computed.as_slice()), (vec![1, 2], &[8, 8][..]));
}

/// Of what the host has, the last block is computed again as well, so that nothing is left of it.
#[test]
fn the_simple_connector_drops_the_last_block_of_what_it_finds_too() {
    let passes = who_lacks_the_last_block_of_a_hit(&json!({"connector": "simple"}));
    let (loads, computed) = &passes[0];
    assert_eq!((loads.len(), computed.as_slice()), (0, &[4, 4][..]));
}

/// Of the third request's prompt, a block comes from the host, after three milliseconds, and another one is still to be
/// computed, which waits for the end of the interval while the second request decodes.
#[test]
fn an_interval_holds_back_what_is_missing_of_a_prompt_that_was_loaded() {
    let others = json!({
        "speculative_config":
            {"method": "eagle3", "num_speculative_tokens": 1, "conditional_acceptance_rates": [0.0]},
        "prefill_schedule_interval": 6,
    });
    let requests = vec![
        request(0, &[(0, 8)], 1, 0),
        request(1, &[(300, 4)], 9, 20),
        request(2, &[(0, 8), (100, 4)], 1, 20),
    ];
    let mut log = Log::default();
    serve_until(engine_with(64, &json!({}), &others), &requests, &mut log);
    let runs = log.ended.iter().filter_map(|iteration| {
        let its = iteration.scheduled.iter().find(|scheduled| scheduled.id == RequestId(2))?;
        Some((iteration.scheduled_at, its.tokens, its.computed))
    });
    assert_eq!(runs.collect::<Vec<_>>(), [(Time::from_ns(26_000_000), 4, 8)]);
}

/// A prompt of two blocks, an output of one token that opens a third, and when it comes.
fn two_blocks(number: u32, first: u32, at: u64) -> EngineRequest {
    request(number, &[(first, 8), (1000 * (number + 1), 1)], 1, at)
}

/// Up to 0.15 nothing is left free for requests that are loaded while another one runs. Two have two blocks each when that one
/// has ended, and of the three others the first one needs four: the real scheduler waits for ever. Here the last one gives its
/// blocks back.
#[test]
fn who_was_loaded_last_gives_its_blocks_back_when_nobody_else_can() {
    let early = json!({"num_gpu_blocks": 8, "vllm_version": "0.14", "async_scheduling": false});
    let requests = vec![
        two_blocks(0, 0, 0),
        two_blocks(1, 100, 20),
        // Takes all seven blocks, so that the prompts before are at the host only.
        request(2, &[(200, 27)], 1, 40),
        request(3, &[(300, 8)], 4, 80),
        request(4, &[(0, 8), (600, 15)], 1, 81),
        two_blocks(5, 100, 81),
    ];
    let mut log = Log::default();
    serve_until(engine_with(64, &json!({}), &early), &requests, &mut log);
    let late = log.ended.iter().filter(|iteration| iteration.scheduled_at > Time::from_ns(80_000_000));
    let late: Vec<&Iteration> = late.collect();
    assert!(late.iter().all(|iteration| iteration.rejected.is_empty()));
    let preempted: Vec<u32> = late.iter().flat_map(|iteration| &iteration.preempted).map(|id| id.0).collect();
    assert_eq!(preempted, [5]);
    let computed = late.iter().flat_map(|iteration| &iteration.scheduled);
    let computed: Vec<(u32, u32)> = computed.map(|one| (one.id.0, one.computed)).collect();
    assert_eq!(computed, [(3, 8), (3, 9), (3, 10), (4, 8), (5, 8)]);
}

/// The host has a block and a state of the first prompt, and a pass waits for both when it comes again with another end. It takes
/// two blocks of attention, and one each for the state that is loaded and for the running one, which vLLM does not count and then
/// fails. While another request holds two blocks, it has to wait in a pool of five.
#[test]
fn a_loaded_state_has_a_block_beside_the_running_one() {
    let starts_at = |blocks: u32| {
        let others = json!({
            "kv_groups": [{"type": "full"}, {"type": "mamba"}], "enable_chunked_prefill": true,
            "num_gpu_blocks": 1 + blocks, "async_scheduling": false,
        });
        let host = json!({"sync_load_budget_bytes": 1 << 30});
        let requests = vec![
            request(0, &[(0, 4), (50, 1)], 1, 0),
            // Takes all blocks, so that the prompt before is at the host only.
            request(1, &[(200, 4 * (blocks - 2))], 1, 40),
            request(2, &[(300, 1)], 3, 80),
            request(3, &[(0, 4), (400, 1)], 1, 81),
        ];
        let mut log = Log::default();
        serve_until(engine_with(64, &host, &others), &requests, &mut log);
        let its =
            |iteration: &Iteration| iteration.scheduled.iter().find(|one| one.id == RequestId(3)).copied();
        let first = log.ended.iter().find_map(|iteration| Some((iteration.scheduled_at, its(iteration)?)));
        first.map(|(at, its)| (at.as_ns() / 1_000_000, its.computed))
    };
    assert_eq!(starts_at(5), Some((83, 4)));
    assert_eq!(starts_at(6), Some((81, 4)));
}
