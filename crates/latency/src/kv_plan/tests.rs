use super::*;

const GIB_20: u64 = 20 << 30;
const CONTEXT: u64 = 131_072;

/// As vLLM 0.33 has it with asynchronous scheduling and 8,192 tokens an iteration.
const SETUP: KvPlanSetup =
    KvPlanSetup { disable_hybrid: false, in_flight_tokens: 16_384, keeps_states: true };

fn layer(kind: KvKind, kv_heads: u32, head_size: u32) -> KvLayer {
    let token_bytes = 2 * 2 * u64::from(kv_heads) * u64::from(head_size);
    KvLayer { kind, block_size: 16, kv_heads, head_size, token_bytes, latent: false, padded_to: None }
}

fn repeat(layers: &[KvLayer], times: usize) -> Vec<KvLayer> {
    layers.iter().copied().cycle().take(layers.len() * times).collect()
}

/// The number of layers of each group, and its blocks for a sequence of the longest context.
fn shape(plan: &KvPlan) -> Vec<(usize, u64)> {
    plan.groups.iter().map(|group| group.layers.len()).zip(plan.blocks_of_sequence(CONTEXT)).collect()
}

#[test]
fn layers_with_and_without_a_window_have_a_group_each() {
    // gpt-oss-20b, as recorded.
    let [window, full] = [KvKind::SlidingWindow(128), KvKind::Full].map(|kind| layer(kind, 8, 64));
    let plan = KvPlan::new(&repeat(&[window, full], 12), SETUP).unwrap();
    assert_eq!(shape(&plan), [(12, 1033), (12, 8192)]);
    assert_eq!(plan.groups[0].layers, (0..24).step_by(2).collect::<Vec<_>>());
    assert_eq!((plan.bytes_per_block, plan.num_gpu_blocks(GIB_20)), (393_216, 54_613));
    let concurrency = plan.max_concurrency(54_613, CONTEXT);
    assert_eq!((concurrency * CONTEXT as f64) as u64, 775_960);
    assert!((concurrency - 5.920_108).abs() < 1e-6);
    assert_eq!(plan.blocks_of_request(1024), [64, 64]);
    // The layer of a drafter more makes the other group longer by padding, not a third group.
    let drafted = [repeat(&[window, full], 12), vec![full]].concat();
    let plan = KvPlan::new(&drafted, SETUP).unwrap();
    assert_eq!(shape(&plan), [(12, 1033), (13, 8192)]);
    assert_eq!((plan.bytes_per_block, plan.num_gpu_blocks(GIB_20)), (425_984, 50_412));
}

#[test]
fn the_more_frequent_layers_are_split() {
    // Gemma-3-27B, as recorded: five layers with a window, then one without, and two at the end.
    let [window, full] = [KvKind::SlidingWindow(1024), KvKind::Full].map(|kind| layer(kind, 16, 128));
    let layers = [repeat(&[window, window, window, window, window, full], 10), vec![window; 2]].concat();
    let plan = KvPlan::new(&layers, SETUP).unwrap();
    let windows = [9, 9, 9, 9, 8, 8].map(|layers| (layers, 1089));
    assert_eq!(shape(&plan), [windows.as_slice(), &[(10, 8192)]].concat());
    assert_eq!(plan.groups[4].layers, [4, 12, 19, 26, 33, 40, 48, 55]);
    assert_eq!((plan.bytes_per_block, plan.num_gpu_blocks(GIB_20)), (1_310_720, 16_384));
    assert!((plan.max_concurrency(16_384, CONTEXT) - 1.112_59).abs() < 1e-6);
}

#[test]
fn states_are_padded_to_the_blocks_of_attention() {
    // Qwen3-Next-80B on one GPU, as recorded.
    let full = KvLayer { block_size: 544, ..layer(KvKind::Full, 2, 256) };
    let state = KvLayer { kind: KvKind::State(1_097_728), padded_to: Some(1_114_112), ..full };
    let plan = KvPlan::new(&repeat(&[state, state, state, full], 12), SETUP).unwrap();
    assert_eq!(shape(&plan), [(12, 2), (12, 2), (12, 2), (12, 241)]);
    assert_eq!((plan.bytes_per_block, plan.num_gpu_blocks(GIB_20)), (13_369_344, 1606));
    assert_eq!((plan.max_concurrency(1606, CONTEXT) * CONTEXT as f64) as u64, 852_233);
    // Where nobody hits states, a request has one.
    let plan = KvPlan::new(&repeat(&[state, full], 12), KvPlanSetup { keeps_states: false, ..SETUP });
    assert_eq!(shape(&plan.unwrap()), [(12, 1), (12, 241)]);
}

#[test]
fn smaller_blocks_get_more_tokens_or_are_padded() {
    let full = layer(KvKind::Full, 8, 128);
    let half = layer(KvKind::SlidingWindow(512), 4, 128);
    let plan = KvPlan::new(&repeat(&[half, full], 8), SETUP).unwrap();
    let blocks: Vec<u32> = plan.groups.iter().map(|group| group.layer.block_size).collect();
    assert_eq!((blocks, plan.bytes_per_block), (vec![32, 16], 8 * 65_536));
    assert_eq!(plan.blocks_of_sequence(CONTEXT), [529, 8192]);
    let odd = layer(KvKind::SlidingWindow(512), 3, 128);
    let plan = KvPlan::new(&repeat(&[odd, full], 8), SETUP).unwrap();
    let padded: Vec<_> = plan.groups.iter().map(|group| group.layer.padded_to).collect();
    assert_eq!((padded, plan.bytes_per_block), (vec![Some(65_536), None], 8 * 65_536));
    let latent = KvLayer { latent: true, token_bytes: 1152, ..layer(KvKind::Full, 1, 576) };
    let chunk = layer(KvKind::ChunkedLocal(512), 8, 128);
    let error = KvPlan::new(&[latent, chunk], SETUP).unwrap_err();
    assert_eq!(error, KvPlanError::Page { layer: 0, page: 18_432, largest: 65_536 });
    let window = layer(KvKind::SlidingWindow(512), 8, 128);
    let plan = KvPlan::new(&[latent, window], SETUP).unwrap();
    assert_eq!((shape(&plan), plan.bytes_per_block), (vec![(2, 8192)], 18_432 + 65_536));
}

#[test]
fn one_kind_of_layers_is_one_group() {
    // However many heads each has.
    let layers = [layer(KvKind::Full, 8, 128), layer(KvKind::Full, 2, 128)];
    let plan = KvPlan::new(&layers, SETUP).unwrap();
    assert_eq!((shape(&plan), plan.bytes_per_block), (vec![(2, 8192)], 65_536 + 16_384));
    assert!(plan.is_plain());
    let windows = vec![layer(KvKind::SlidingWindow(4096), 8, 128); 32];
    let plan = KvPlan::new(&windows, SETUP).unwrap();
    assert_eq!((shape(&plan), plan.is_plain()), (vec![(32, 1281)], false));
}

#[test]
fn stages_of_a_pipeline_have_some_layers_of_each_group() {
    let [window, full] = [KvKind::SlidingWindow(128), KvKind::Full].map(|kind| layer(kind, 8, 64));
    let plan = KvPlan::new(&repeat(&[window, full], 9), SETUP).unwrap().of_stage(2);
    assert_eq!((shape(&plan), plan.bytes_per_block), (vec![(5, 1033), (5, 8192)], 5 * 32_768));
}

#[test]
fn without_groups_a_window_saves_nothing() {
    let [chunk, full] = [KvKind::ChunkedLocal(8192), KvKind::Full].map(|kind| layer(kind, 8, 128));
    let layers = repeat(&[chunk, chunk, chunk, full], 12);
    let plan = KvPlan::new(&layers, SETUP).unwrap();
    assert_eq!(shape(&plan), [(12, 1536), (12, 1536), (12, 1536), (12, 8192)]);
    let setup = KvPlanSetup { disable_hybrid: true, ..SETUP };
    let plan = KvPlan::new(&layers, setup).unwrap();
    assert_eq!((shape(&plan), plan.bytes_per_block), (vec![(48, 8192)], 48 * 65_536));
    let state = KvLayer { kind: KvKind::State(1 << 16), ..full };
    assert_eq!(KvPlan::new(&[state, full], setup), Err(KvPlanError::NeedsGroups));
}

/// What vLLM 0.33's own planner makes of the layers of more models: GPUs, bytes of a block, blocks of 20 GiB, and tokens of
/// KV cache in requests of the longest context, in bf16.
#[test]
fn plans_of_more_models_are_those_of_vllm() {
    for (model, gpus, block_bytes, blocks, tokens) in [
        ("google/gemma-3-12b-it", 1, 1_048_576, 20_480, 196_843),
        ("google/gemma-3-27b-it", 2, 655_360, 32_768, 291_658),
        ("meta-llama/Llama-4-Scout-17B-16E", 8, 98_304, 218_453, 2_236_958),
        ("meta-llama/Llama-4-Maverick-17B-128E", 8, 98_304, 218_453, 2_236_958),
        ("openai/gpt-oss-120b", 1, 589_824, 36_408, 517_297),
        ("google/gemma-2-9b", 1, 2_752_512, 7_801, 107_937),
        ("google/gemma-2-27b", 2, 1_507_328, 14_246, 197_113),
        ("Qwen/Qwen3-Next-80B-A3B", 2, 6_684_672, 3_212, 1_704_466),
        ("Qwen/Qwen3.5-27B", 1, 51_380_224, 417, 314_120),
        ("Qwen/Qwen3.5-35B-A3B", 1, 21_626_880, 992, 992_545),
        ("Qwen/Qwen3.5-122B-A10B", 4, 12_976_128, 1_654, 1_654_909),
        ("Qwen/Qwen3.5-397B-A17B", 4, 16_220_160, 1_323, 1_323_727),
        ("meta-llama/Llama-3.1-70B", 4, 1_310_720, 16_384, 262_144),
    ] {
        let layers = ModelShape::by_name(model).unwrap().kv_layers(gpus, 2.0, 16);
        let plan = KvPlan::new(&layers, SETUP).unwrap();
        assert_eq!((plan.bytes_per_block, plan.num_gpu_blocks(GIB_20)), (block_bytes, blocks), "{model}");
        let found = plan.max_concurrency(blocks, CONTEXT) * CONTEXT as f64;
        assert_eq!(found as u64, tokens, "{model}");
    }
}

#[test]
fn sizes_of_nothing_are_refused() {
    let refused = |layers: &[KvLayer]| KvPlan::new(layers, SETUP).unwrap_err().to_string();
    let zero = layer(KvKind::SlidingWindow(0), 8, 128);
    let full = layer(KvKind::Full, 8, 128);
    assert_eq!(refused(&[full, zero]), "the sliding window of layer 1 is 0: it must be at least 1");
    let unsized_block = KvLayer { block_size: 0, ..full };
    assert_eq!(refused(&[unsized_block]), "the size of a block of layer 0 is 0: it must be at least 1");
    assert!(refused(&[]).starts_with("no layer keeps anything"));
}

#[test]
fn models_say_what_their_layers_keep() {
    let plan = |name: &str, gpus: u32| {
        let shape = ModelShape::by_name(name).unwrap();
        KvPlan::new(&shape.kv_layers(gpus, 2.0, 16), SETUP).unwrap()
    };
    let blocks = |plan: &KvPlan| plan.num_gpu_blocks(GIB_20);
    assert_eq!(blocks(&plan("openai/gpt-oss-20b", 1)), 54_613);
    assert_eq!(shape(&plan("openai/gpt-oss-120b", 2)), [(18, 1033), (18, 8192)]);
    let gemma = plan("google/gemma-3-27b-it", 1);
    assert_eq!((gemma.groups.len(), blocks(&gemma)), (7, 16_384));
    let smaller = plan("google/gemma-3-12b-it", 1);
    assert_eq!(shape(&smaller), [vec![(8, 1089); 5], vec![(8, 8192)]].concat());
    let scout = plan("meta-llama/Llama-4-Scout-17B-16E", 8);
    assert_eq!(shape(&scout), [(12, 1536), (12, 1536), (12, 1536), (12, 8192)]);
    let next = plan("Qwen/Qwen3-Next-80B-A3B", 1);
    assert_eq!((next.groups[0].layer.block_size, blocks(&next)), (544, 1606));
    // Its states of 32 bits are nearly twice as large; half of the blocks of Step look back all the way first.
    assert_eq!(plan("Qwen/Qwen3.5-35B-A3B", 1).groups[0].layer.block_size, 1056);
    assert_eq!(plan("stepfun-ai/Step-3.5-Flash", 8).groups[0].layer.kind, KvKind::Full);
    let llama = plan("meta-llama/Llama-3.1-8B", 1);
    assert!(llama.is_plain() && llama.bytes_per_block == 16 * 131_072, "{llama:?}");
    assert!(plan("deepseek-ai/DeepSeek-V3.2", 8).is_plain());
}
