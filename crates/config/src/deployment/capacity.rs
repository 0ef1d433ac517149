//! What fits the memory of the GPUs: KV blocks, groups of layers, the bytes of a token.

use servecast_engine::{EngineArgs, EngineType, KvGroupArgs, KvGroupType, LatencySpec, MAX_NUM_GPU_BLOCKS};
use servecast_latency::{Capacity, CapacitySetup, GIB, KvGroup, KvKind, KvPlanSetup};
use servecast_types::message;

use crate::error::Failure;
use crate::latency;

/// What is served where, with what the engine takes of it.
pub fn capacity_setup(args: &EngineArgs, setup: &CapacitySetup) -> CapacitySetup {
    let page_size = args.sglang.as_ref().and_then(|sglang| sglang.page_size);
    CapacitySetup {
        // What is out of range is refused with the other settings.
        gpu_memory_utilization: args.gpu_memory_utilization.clamp(0.01, 1.0),
        block_size: page_size.unwrap_or_else(|| args.resolved_block_size()),
        pipeline_parallel_size: setup.pipeline_parallel_size.max(args.pipeline_parallel_size),
        max_num_batched_tokens: args.max_num_batched_tokens.unwrap_or(setup.max_num_batched_tokens),
        max_num_seqs: args.max_num_seqs.unwrap_or(setup.max_num_seqs),
        // The layers of a drafter, which would be among the groups, are not planned.
        groups: (args.engine_type == EngineType::Vllm && args.speculative_config.is_none())
            .then(|| kv_plan_setup(args, setup)),
        ..setup.clone()
    }
}

/// What vLLM's plan of groups of layers goes by.
pub fn kv_plan_setup(args: &EngineArgs, setup: &CapacitySetup) -> KvPlanSetup {
    let stages = setup.pipeline_parallel_size.max(args.pipeline_parallel_size);
    let batches = u64::from(stages) + u64::from(args.async_scheduling);
    let tokens = args.max_num_batched_tokens.unwrap_or(setup.max_num_batched_tokens);
    KvPlanSetup {
        disable_hybrid: args.disable_hybrid_kv_cache_manager == Some(true),
        in_flight_tokens: batches * u64::from(tokens),
        keeps_states: args.enable_prefix_caching,
    }
}

/// Gives an engine the blocks that fit, which so many ranks share out, and the groups that its layers are in.
fn take_capacity(args: &mut EngineArgs, capacity: &Capacity, ranks: u32) {
    let blocks = capacity.num_gpu_blocks / u64::from(ranks);
    args.num_gpu_blocks = blocks.min(u64::from(MAX_NUM_GPU_BLOCKS)) as u32;
    let Some(plan) = &capacity.plan else { return };
    let setting = |group: &KvGroup| {
        let (kind, sliding_window, chunk) = match group.layer.kind {
            KvKind::Full => (KvGroupType::Full, None, None),
            KvKind::SlidingWindow(window) => (KvGroupType::SlidingWindow, Some(window), None),
            KvKind::ChunkedLocal(chunk) => (KvGroupType::ChunkedLocal, None, Some(chunk)),
            KvKind::State(_) => (KvGroupType::Mamba, None, None),
        };
        KvGroupArgs {
            kind,
            block_size: Some(group.layer.block_size),
            sliding_window,
            chunk,
            num_speculative_blocks: None,
        }
    };
    args.kv_groups = Some(plan.groups.iter().map(setting).collect());
    let full = plan.groups.iter().find(|group| group.layer.kind == KvKind::Full);
    args.block_size = full.or(plan.groups.first()).map_or(args.block_size, |group| group.layer.block_size);
}

/// Works out how many KV blocks fit the GPU, and says so.
pub(super) fn work_out_blocks(args: &mut EngineArgs, setup: &CapacitySetup) -> Result<String, Failure> {
    if args.kv_groups.is_some() {
        return Err(Failure::user(message!(
            "{kv_groups} is given, so that the number of blocks does not follow from the model"
        ))
        .with_hint(message!("give {--num_gpu_blocks}, or leave {kv_groups} to the model")));
    }
    let setup = capacity_setup(args, setup);
    let capacity = setup.capacity().map_err(|error| {
        Failure::input(&error).with_hint(message!(
            "more GPUs (tp=N), fewer bytes a weight (dtype=fp8) or a larger {--gpu_memory_utilization} make room; \
             {--num_gpu_blocks} sets the capacity regardless"
        ))
    })?;
    let each = if args.dp_size > 1 { " of each rank" } else { "" };
    // The arithmetic is of all ranks that it knows of.
    let ranks = if args.dp_size > 1 { setup.attention_ranks.max(1) } else { 1 };
    take_capacity(args, &capacity, ranks);
    let blocks = args.num_gpu_blocks;
    if let Some(plan) = &capacity.plan {
        if args.kv_offloading_size.is_some() && plan.groups.len() > 1 {
            let of_all = plan.bytes_per_block * u64::from(setup.tensor_parallel_size);
            args.kv_offloading.get_or_insert_default().bytes_per_block.get_or_insert(of_all);
        }
        return Ok(format!(
            "`num_gpu_blocks` is {blocks}, worked out from the memory of the GPU: {:.2} GiB for the KV cache{each}, which {} groups of \
             layers share (`servecast explain kv` shows them)",
            capacity.kv_cache / GIB,
            plan.groups.len()
        ));
    }
    Ok(format!(
        "`num_gpu_blocks` is {blocks}, worked out from the memory of the GPU: {:.2} GiB for the KV cache{each}, blocks of \
         {} tokens",
        capacity.kv_cache / GIB,
        setup.block_size
    ))
}

/// Gives an engine with KV in the memory of its host the bytes of a token, if the model has to say them, and says so.
pub(super) fn take_kv_bytes(args: &mut EngineArgs, spec: &LatencySpec) -> Result<Option<String>, Failure> {
    if !args.offloads_kv() || args.kv_bytes_per_token.is_some() {
        return Ok(None);
    }
    args.kv_bytes_per_token = latency::transfer(spec)?.map(|transfer| transfer.bytes_per_token);
    Ok(args
        .kv_bytes_per_token
        .map(|bytes| format!("`kv_bytes_per_token` is {bytes}, the KV cache of the model")))
}
