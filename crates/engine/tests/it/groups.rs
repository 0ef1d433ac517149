//! What recordings say of groups of layers: the settings of an engine, vLLM's plan, events by group.

use serde_json::{Value, json};
use servecast_engine::GroupEvent;
use servecast_latency::{KvGroup, KvKind, KvLayer, KvPlan, KvPlanSetup};

use crate::recording::{HashNumbers, Recording};

/// Whether a recording is of an engine whose layers are groups.
pub(crate) fn has_groups(case: &Recording) -> bool {
    !case.expected["kv_cache"].is_null()
}

/// The groups of a recording as settings, and its settings without what only the recorder knows of them.
///
/// # Errors
/// vLLM planned otherwise for its layers than we do.
pub(crate) fn settle(case: &Recording, settings: &mut Value) -> Result<(), String> {
    let lone = settings["kv_groups"].as_array().is_some_and(|groups| groups.len() == 1);
    if lone {
        // The recorder sets an interval only where there are several.
        settings["prefix_cache_retention_interval"] = "dense".into();
    }
    if settings["kv_layers"].is_null() {
        return Ok(());
    }
    let plan = plan(settings);
    let recorded = &case.expected["kv_cache"]["plan"];
    let found = describe(&plan, settings, recorded["num_gpu_blocks"].as_u64().unwrap());
    let recorded = [("groups", 0), ("bytes_per_block", 1), ("num_gpu_blocks", 2), ("capacity_tokens", 3)];
    for (key, at) in recorded {
        let recorded = &case.expected["kv_cache"]["plan"][key];
        if found[at] != *recorded {
            return Err(format!("`{key}` of the plan is {}, recorded {recorded}", found[at]));
        }
    }
    settings["kv_groups"] = plan.groups.iter().map(setting).collect();
    let keys = settings.as_object_mut().unwrap();
    for key in ["kv_layers", "kv_layers_repeat", "kv_available_bytes"] {
        keys.remove(key);
    }
    Ok(())
}

fn plan(settings: &Value) -> KvPlan {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let layer = |given: &Value| {
        let kind = match given["type"].as_str().unwrap() {
            "full" | "mla" => KvKind::Full,
            "sliding_window" => KvKind::SlidingWindow(number(&given["sliding_window"]) as u32),
            "chunked_local" => KvKind::ChunkedLocal(number(&given["chunk"]) as u32),
            "mamba" => KvKind::State(number(&given["state_bytes"])),
            other => panic!("unknown layers: {other}"),
        };
        let block_size = given["block_size"].as_u64().or(settings["block_size"].as_u64()).unwrap();
        let (kv_heads, head_size) =
            (given["num_kv_heads"].as_u64().unwrap_or(1), given["head_size"].as_u64().unwrap_or(64));
        let bytes = match given["dtype"].as_str() {
            Some("fp8") => 1,
            Some("fp32") => 4,
            _ => 2,
        };
        let latent = given["type"] == "mla";
        let layer = KvLayer {
            kind,
            block_size: block_size as u32,
            kv_heads: kv_heads as u32,
            head_size: head_size as u32,
            token_bytes: (if latent { 1 } else { 2 }) * kv_heads * head_size * bytes,
            latent,
            padded_to: given["page_size_padded"].as_u64(),
        };
        vec![layer; given["count"].as_u64().unwrap_or(1) as usize]
    };
    let once: Vec<KvLayer> = settings["kv_layers"].as_array().unwrap().iter().flat_map(layer).collect();
    let repeat = settings["kv_layers_repeat"].as_u64().unwrap_or(1) as usize;
    let batches = if settings["async_scheduling"] == true { 2 } else { 1 };
    let setup = KvPlanSetup {
        disable_hybrid: settings["disable_hybrid_kv_cache_manager"] == true,
        in_flight_tokens: batches * number(&settings["max_num_batched_tokens"]),
        keeps_states: settings["mamba_cache_mode"] == "align",
    };
    let layers: Vec<KvLayer> = once.iter().copied().cycle().take(once.len() * repeat).collect();
    KvPlan::new(&layers, setup).unwrap()
}

/// A plan in the words of the recorder.
fn describe(plan: &KvPlan, settings: &Value, recorded_blocks: u64) -> [Value; 4] {
    let longest = settings["max_model_len"].as_u64().unwrap();
    let names = ["FullAttentionSpec", "SlidingWindowSpec", "ChunkedLocalAttentionSpec", "MambaSpec"];
    let group = |(group, blocks): (&KvGroup, u64)| {
        let name = match group.layer.kind {
            KvKind::Full if group.layer.latent => "MLAAttentionSpec",
            KvKind::Full => names[0],
            KvKind::SlidingWindow(_) => names[1],
            KvKind::ChunkedLocal(_) => names[2],
            KvKind::State(_) => names[3],
        };
        let layers: Vec<String> = group.layers.iter().map(|layer| format!("L{layer}")).collect();
        json!({
            "layers": layers,
            "type": name,
            "block_size": group.layer.block_size,
            "page_bytes": group.page_bytes,
            "blocks_per_max_len_request": blocks,
        })
    };
    let blocks =
        settings["kv_available_bytes"].as_u64().map_or(recorded_blocks, |bytes| plan.num_gpu_blocks(bytes));
    let groups: Value = plan.groups.iter().zip(plan.blocks_of_sequence(longest)).map(group).collect();
    let tokens = (plan.max_concurrency(blocks, longest) * longest as f64) as u64;
    [groups, json!(plan.bytes_per_block), json!(blocks), json!(tokens)]
}

fn setting(group: &KvGroup) -> Value {
    let block_size = group.layer.block_size;
    match group.layer.kind {
        KvKind::Full => json!({"type": "full", "block_size": block_size}),
        KvKind::SlidingWindow(window) => {
            json!({"type": "sliding_window", "sliding_window": window, "block_size": block_size})
        }
        KvKind::ChunkedLocal(chunk) => {
            json!({"type": "chunked_local", "chunk": chunk, "block_size": block_size})
        }
        KvKind::State(_) => json!({"type": "mamba", "block_size": block_size}),
    }
}

/// The events of groups in the words of the recorder.
pub(crate) fn events(events: &[GroupEvent], numbers: &mut HashNumbers) -> Vec<Value> {
    let event = |event: &GroupEvent| {
        let mut found = numbers.canonical(&event.event, 1);
        found["group"] = event.group.into();
        if found["type"] == "stored" {
            found["block_size"] = event.block_size.into();
            found["num_tokens"] = event.tokens.into();
        }
        found
    };
    events.iter().map(event).collect()
}
