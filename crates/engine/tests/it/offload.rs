//! Recordings of vLLM with KV offload: what is particular to their settings, and to what they say of a step.

use serde_json::{Map, Value, json};
use servecast_engine::{Iteration, OffloadCopy, Offloaded};
use servecast_types::KvEvent;

use crate::recording::{HashNumbers, Recording};

/// What the recorder takes where a case does not say otherwise.
const DEFAULTS: &str = r#"{
    "cpu_chunks": 64, "blocks_per_chunk": 1, "eviction_policy": "lru", "store_threshold": 0, "offload_prompt_only": true,
    "sync_load_budget_bytes": 0, "bytes_per_block": 65536, "store_bytes_per_us": 50, "load_bytes_per_us": 50,
    "fixed_us": 20, "connector": "offloading", "lazy": false
}"#;

fn settings(case: &Recording) -> Option<Map<String, Value>> {
    let given = case.config("offload").as_object()?;
    let mut settings: Map<String, Value> = serde_json::from_str(DEFAULTS).unwrap();
    settings.extend(given.clone());
    Some(settings)
}

pub(crate) fn offloads(case: &Recording) -> bool {
    settings(case).is_some()
}

/// Puts the offload of a case among the settings of the engine, in place of the recorder's.
pub(crate) fn settle(case: &Recording, config: &mut Value) {
    let Some(given) = settings(case) else { return };
    let figure = |key: &str| given[key].as_f64().unwrap();
    let block_size = config["block_size"].as_f64().unwrap();
    let simple = given["connector"] == "simple";
    let bytes = figure("cpu_chunks") * figure("bytes_per_block") * figure("blocks_per_chunk");
    let has_groups = config["kv_groups"].is_array();
    let sizes: Vec<f64> = config["kv_groups"].as_array().map_or_else(Vec::new, |groups| {
        groups.iter().map(|group| group["block_size"].as_f64().unwrap_or(block_size)).collect()
    });
    let keys = config.as_object_mut().unwrap();
    keys.remove("offload");
    keys.insert("kv_offloading_size".to_owned(), json!(bytes / f64::from(1 << 30)));
    if !has_groups {
        keys.insert("kv_bytes_per_token".to_owned(), json!((figure("bytes_per_block") / block_size) as u64));
    }
    let mut offloading = json!({
        "connector": given["connector"],
        "lazy_offload": given["lazy"],
        "store_bandwidth": figure("store_bytes_per_us") / 1000.0,
        "load_bandwidth": figure("load_bytes_per_us") / 1000.0,
        "copy_us": given["fixed_us"],
    });
    let of_chunks = [
        "blocks_per_chunk",
        "eviction_policy",
        "store_threshold",
        "offload_prompt_only",
        "sync_load_budget_bytes",
    ];
    for key in of_chunks.into_iter().filter(|_| !simple) {
        offloading[key] = given[key].clone();
    }
    if has_groups {
        offloading["bytes_per_block"] = given["bytes_per_block"].clone();
        // The recorder's groups have tokens of 256 bytes, whatever a block takes to copy.
        let recorded = 256.0 * sizes.len() as f64;
        let ours: f64 = sizes.iter().map(|size| (figure("bytes_per_block") / size).floor()).sum();
        let budget = figure("sync_load_budget_bytes") * ours / recorded;
        offloading["sync_load_budget_bytes"] = json!(budget as u64);
    }
    keys.insert("kv_offloading".to_owned(), offloading);
}

/// What the recorder says of the copies of a step.
pub(crate) fn describe(
    case: &Recording,
    iteration: &Iteration,
    is_compact: bool,
) -> [(&'static str, Value); 3] {
    let log = iteration.offload.as_deref().unwrap();
    let simple = settings(case).unwrap()["connector"] == "simple";
    let list = |numbers: Vec<u32>| if is_compact { json!(numbers.len()) } else { json!(numbers) };
    let copy = |copy: &OffloadCopy, loads: bool| {
        let names = case.names(&copy.requests);
        let whose = match (simple, loads) {
            (true, true) => json!(names),
            (true, false) => Value::Null,
            (false, _) => json!(names[0]),
        };
        let blocks = copy.blocks.iter().map(|block| block.0).collect();
        json!([copy.job, whose, list(copy.chunks.clone()), list(blocks)])
    };
    let done = |&(job, loads): &(u64, bool)| {
        if simple { json!([job, if loads { "load" } else { "store" }]) } else { json!(job) }
    };
    let offload = json!({
        "loads": log.loads.iter().map(|load| copy(load, true)).collect::<Vec<_>>(),
        "stores": log.stores.iter().map(|store| copy(store, false)).collect::<Vec<_>>(),
        "flush": if log.flushes_all { json!(["all"]) } else { json!(log.flushed) },
        "done": log.done.iter().map(done).collect::<Vec<_>>(),
        "cpu_chunks_used": log.chunks_used,
        "evicted_total": log.evicted_total,
        "refused_total": log.refused_total,
    });
    let started = log.started.iter().map(|&(id, tokens)| json!([case.name(id), tokens])).collect();
    let mut received = case.names(&log.received);
    received.sort_unstable();
    [
        ("offload", offload),
        ("remote_loads_started", started),
        ("transfers_done", json!({"recv": received, "send": []})),
    ]
}

/// The same where layers are groups.
fn group_events(log: &Offloaded, numbers: &mut HashNumbers) -> Vec<Value> {
    let mut events = crate::groups::events(&log.group_events, numbers);
    for event in &mut events {
        event["medium"] = json!("CPU");
    }
    for run in events.chunk_by_mut(|a, b| a["type"] == b["type"]) {
        if run[0]["type"] == "stored" {
            run.sort_by_key(|event| (event["hashes"][0].as_u64(), event["group"].as_u64()));
        }
    }
    events
}

/// Events of the host, as the recorder sorts them: what was stored at once has no order.
pub(crate) fn events(
    case: &Recording,
    log: &Offloaded,
    numbers: &mut HashNumbers,
    block_size: u32,
) -> Vec<Value> {
    let given = settings(case).unwrap();
    let tells_tokens = given["connector"] == "simple" && given["lazy"] == false;
    if !log.group_events.is_empty() {
        return group_events(log, numbers);
    }
    let mut events: Vec<Value> =
        log.events.iter().map(|event| numbers.canonical(event, block_size)).collect();
    for event in &mut events {
        event["medium"] = json!("CPU");
        if event["type"] == "stored" && !tells_tokens {
            event["num_tokens"] = json!(0);
        }
    }
    let is_stored = |event: &KvEvent| matches!(event, KvEvent::Stored { .. });
    let mut start = 0;
    for run in log.events.chunk_by(|a, b| is_stored(a) == is_stored(b)) {
        let end = start + run.len();
        if is_stored(&run[0]) {
            events[start..end].sort_by_key(|event| event["hashes"][0].as_u64());
        }
        start = end;
    }
    events
}
