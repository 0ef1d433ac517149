//! Small schedules with KV offload that can be worked out by hand.

use serde_json::{Value, json};
use servecast_engine::{Engine, EngineArgs, EngineRequest, EngineTracing, OffloadCopy};
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::recording::Log;
use crate::rules::serve;

/// Bytes of a block of 4 tokens.
const BLOCK_BYTES: u32 = 4096;

/// Every iteration takes a millisecond, and so does a copy of one block.
fn engine(host_blocks: u32, own: &Value) -> Engine {
    let mut offloading = json!({"store_bandwidth": 0.004096, "load_bandwidth": 0.004096, "copy_us": 0});
    offloading.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    let settings = json!({
        "block_size": 4, "num_gpu_blocks": 64, "latency": "linear:1000,0,0", "kv_bytes_per_token": BLOCK_BYTES / 4,
        "kv_offloading_size": f64::from(host_blocks * BLOCK_BYTES) / f64::from(1 << 30), "kv_offloading": offloading,
    });
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
