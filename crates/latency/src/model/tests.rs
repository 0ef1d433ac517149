//! Shapes against what is published of the models.

use super::*;

#[track_caller]
fn named(name: &str) -> ModelShape {
    ModelShape::by_name(name).unwrap_or_else(|| panic!("{name} is not known"))
}

/// Parameters in billions as the cards of the models have them. Cards of models that see count what sees as well, and some
/// a draft model; language models alone are given here.
const PARAMETERS: [(&str, f64); 41] = [
    ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
    ("meta-llama/Llama-3.1-70B", 70.6),
    ("meta-llama/Llama-3.1-405B", 405.9),
    ("meta-llama/Llama-3.2-1B", 1.24),
    ("meta-llama/Llama-3.2-3B", 3.21),
    ("meta-llama/Llama-2-7b-chat-hf", 6.74),
    ("meta-llama/Llama-4-Scout-17B-16E", 107.8),
    ("meta-llama/Llama-4-Maverick-17B-128E", 400.7),
    ("mistralai/Mistral-7B-v0.3", 7.25),
    ("mistralai/Mistral-Small-24B-2501", 23.6),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7),
    ("mistralai/Mixtral-8x22B-v0.1", 140.6),
    ("Qwen/Qwen2.5-0.5B", 0.494),
    ("Qwen/Qwen2.5-7B-Instruct", 7.62),
    ("Qwen/Qwen2.5-32B", 32.8),
    ("Qwen/Qwen2.5-72B", 72.7),
    ("Qwen/Qwen3-0.6B", 0.596),
    ("Qwen/Qwen3-8B", 8.19),
    ("Qwen/Qwen3-32B", 32.8),
    ("Qwen/Qwen3-30B-A3B-Instruct-2507", 30.5),
    ("Qwen/Qwen3-235B-A22B", 235.1),
    ("Qwen/Qwen3-Coder-480B-A35B", 480.2),
    ("Qwen/Qwen3-Next-80B-A3B", 79.7),
    ("Qwen/Qwen3.5-27B", 26.9),
    ("Qwen/Qwen3.5-35B-A3B", 34.7),
    ("Qwen/Qwen3.5-122B-A10B", 122.1),
    ("Qwen/Qwen3.5-397B-A17B", 396.3),
    ("deepseek-ai/DeepSeek-V2-Lite", 15.7),
    ("deepseek-ai/DeepSeek-V3", 671.0),
    ("deepseek-ai/DeepSeek-V3.2", 671.9),
    ("moonshotai/Kimi-K2.5", 1026.0),
    ("MiniMaxAI/MiniMax-M2.5", 228.7),
    ("zai-org/GLM-4.5-Air", 106.9),
    ("zai-org/GLM-4.6", 352.8),
    ("zai-org/GLM-5", 743.9),
    ("stepfun-ai/Step-3.5-Flash", 196.0),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", 31.6),
    ("openai/gpt-oss-20b", 20.9),
    ("openai/gpt-oss-120b", 116.8),
    ("google/gemma-3-12b-it", 11.8),
    ("google/gemma-3-27b-it", 27.0),
];

#[test]
fn models_have_as_many_parameters_as_is_published() {
    for (name, expected) in PARAMETERS {
        let found = named(name).parameters() as f64 / 1e9;
        assert!((found / expected - 1.0).abs() < 0.006, "{name}: {found}, not {expected}");
    }
}

#[test]
fn tokens_go_through_as_many_parameters_as_is_published() {
    for (name, expected) in [
        ("mistralai/Mixtral-8x7B-v0.1", 12.9),
        ("mistralai/Mixtral-8x22B-v0.1", 39.1),
        ("Qwen/Qwen3-235B-A22B", 22.0),
        ("Qwen/Qwen3-Coder-480B-A35B", 35.0),
        ("Qwen/Qwen3.5-397B-A17B", 17.0),
        ("deepseek-ai/DeepSeek-V3", 37.0),
        ("moonshotai/Kimi-K2.5", 32.0),
        ("MiniMaxAI/MiniMax-M2.5", 10.0),
        ("zai-org/GLM-4.6", 32.0),
        ("zai-org/GLM-5", 40.0),
        ("openai/gpt-oss-20b", 3.6),
        ("openai/gpt-oss-120b", 5.1),
    ] {
        let found = named(name).active_parameters() as f64 / 1e9;
        assert!((found / expected - 1.0).abs() < 0.06, "{name}: {found}, not {expected}");
    }
}

#[test]
fn tokens_take_as_much_of_the_kv_cache_as_is_published() {
    // Bytes of a token in bf16, and in fp8. The first three are in "Insights into DeepSeek-V3" (2025).
    for (name, bf16, fp8) in [
        ("deepseek-ai/DeepSeek-V3", 70_272.0, 35_136.0),
        ("Qwen/Qwen2.5-72B", 327_680.0, 163_840.0),
        ("meta-llama/Llama-3.1-405B", 516_096.0, 258_048.0),
        ("meta-llama/Llama-3.1-8B", 131_072.0, 65_536.0),
        ("openai/gpt-oss-120b", 73_728.0, 36_864.0),
        // A quarter of 60 blocks, with 2 heads of 256 keys and values.
        ("Qwen/Qwen3.5-397B-A17B", 30_720.0, 15_360.0),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", 6144.0, 3072.0),
        // 1,152 or 656 bytes of a token and an index key of 132.
        ("deepseek-ai/DeepSeek-V3.2", 61.0 * 1284.0, 61.0 * 788.0),
        ("zai-org/GLM-5", 78.0 * 1284.0, 78.0 * 788.0),
    ] {
        let shape = named(name);
        let found = [2.0, 1.0].map(|bytes| shape.kv_bytes_per_token(1, bytes));
        assert!((found[0] - bf16).abs() < 1e-6 && (found[1] - fp8).abs() < 1e-6, "{name}: {found:?}");
    }
}

#[test]
fn linear_blocks_keep_a_state_of_a_sequence() {
    // 45 blocks with 64 heads of 128 × 128 numbers in 32 bits, and 3 tokens of 12,288 numbers in 16.
    let state = named("Qwen/Qwen3.5-397B-A17B").state_bytes_per_sequence(1);
    let expected = 45.0 * (64.0 * 128.0 * 128.0 * 4.0 + 3.0 * 12_288.0 * 2.0);
    assert!((state - expected).abs() < 1e-6, "{state}");
    assert!((named("Qwen/Qwen3.5-397B-A17B").state_bytes_per_sequence(4) - expected / 4.0).abs() < 1e-6);
    assert!(named("Qwen/Qwen3-32B").state_bytes_per_sequence(1).abs() < 1e-12);
}

#[test]
fn checkpoints_are_as_large_as_is_published() {
    // GB (10⁹ bytes) of the weights, without draft models and what sees.
    for (name, gb) in [
        ("openai/gpt-oss-120b", 65.3),
        ("deepseek-ai/DeepSeek-R1", 672.9),
        ("nvidia/Kimi-K2.5-NVFP4", 593.0),
        ("moonshotai/Kimi-K2.5", 594.0),
        ("nvidia/Qwen3.5-397B-A17B-NVFP4", 234.0),
        ("nvidia/MiniMax-M2.5-NVFP4", 134.0),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", 42.7),
        ("nvidia/DeepSeek-R1-0528-FP4", 397.0),
    ] {
        let shape = named(name);
        let weights = shape.weights(None);
        let found = (shape.weight_bytes_of_blocks(weights) + shape.weight_bytes_of_embeddings()) / 1e9;
        assert!((found / gb - 1.0).abs() < 0.02, "{name}: {found} GB, not {gb}");
    }
}

#[test]
fn fp8_that_is_asked_for_is_what_the_publisher_of_the_model_stores() {
    let weights = |name: &str, asked| named(name).weights(asked);
    assert_eq!(weights("deepseek-ai/DeepSeek-R1", None), WeightType::Fp8Block);
    assert_eq!(weights("deepseek-ai/DeepSeek-R1", Some(WeightType::Fp8)), WeightType::Fp8Block);
    assert_eq!(weights("Qwen/Qwen3-235B-A22B", Some(WeightType::Fp8)), WeightType::Fp8Block);
    assert_eq!(weights("meta-llama/Llama-3.1-70B", Some(WeightType::Fp8)), WeightType::Fp8);
    assert_eq!(weights("RedHatAI/Qwen3-32B-FP8-dynamic", None), WeightType::Fp8);
    assert_eq!(weights("RedHatAI/Qwen3-32B-FP8-dynamic", Some(WeightType::Fp8)), WeightType::Fp8);
    assert_eq!(weights("Qwen/Qwen3-32B", None), WeightType::Bf16);
}

#[test]
fn parts_keep_the_form_that_published_checkpoints_have() {
    use WeightType::{Bf16, Fp8Block, Int4, Mxfp4, Nvfp4};
    let stored = |name: &str, weights| {
        let stored = named(name).stored_as(weights);
        [stored.attention, stored.feed_forward, stored.experts]
    };
    assert_eq!(stored("meta-llama/Llama-3.3-70B", Nvfp4), [Nvfp4; 3]);
    assert_eq!(stored("deepseek-ai/DeepSeek-R1", Nvfp4), [Bf16, Nvfp4, Nvfp4]);
    assert_eq!(stored("deepseek-ai/DeepSeek-R1", Fp8Block), [Fp8Block; 3]);
    assert_eq!(stored("moonshotai/Kimi-K2.5", Int4), [Bf16, Bf16, Int4]);
    assert_eq!(stored("openai/gpt-oss-20b", Mxfp4), [Bf16, Bf16, Mxfp4]);
}

#[test]
fn heads_are_shared_out_evenly() {
    let can = |name: &str, gpus: u32| named(name).check_shared_by(gpus).is_ok();
    // 32 heads, 8 of keys and values.
    for gpus in [1, 2, 4, 8, 16, 32] {
        assert!(can("meta-llama/Llama-3.1-8B", gpus), "{gpus}");
    }
    for gpus in [0, 3, 5, 6, 7, 12, 64] {
        assert!(!can("meta-llama/Llama-3.1-8B", gpus), "{gpus}");
    }
    let error = named("meta-llama/Llama-3.1-8B").check_shared_by(3).unwrap_err();
    assert_eq!(
        error.to_string(),
        "3 GPUs cannot share 32 heads (8 of keys and values) evenly: it can be 1, 2, 4, 8, 16 or 32"
    );
    // Its linear blocks have 16 heads of keys and 32 of values.
    assert!(can("Qwen/Qwen3-Next-80B-A3B", 16));
    assert!(!can("Qwen/Qwen3-Next-80B-A3B", 32));
}

#[test]
fn experts_are_shared_out_evenly() {
    let shape = named("Qwen/Qwen3-Coder-480B-A35B");
    for gpus in [1, 2, 4, 5, 8, 10, 16, 32, 40, 160] {
        assert_eq!(shape.check_experts_shared_by(gpus), Ok(()), "{gpus}");
    }
    let error = named("mistralai/Mixtral-8x7B-v0.1").check_experts_shared_by(3).unwrap_err();
    assert_eq!(error.to_string(), "3 GPUs cannot share 8 experts evenly: it can be 1, 2, 4 or 8");
    let none = named("Qwen/Qwen3-32B");
    assert_eq!(none.check_experts_shared_by(1), Ok(()));
    let error = none.check_experts_shared_by(2).unwrap_err();
    assert_eq!(error.to_string(), "2 GPUs cannot share the experts of a model that has none: it can be 1");
}

#[test]
fn tokens_share_experts_more_the_more_they_are() {
    let experts = Experts { count: 8, per_token: 2, inner_size: 1, shared_inner_size: 0, layers: 1 };
    let activated = experts.activated(1);
    assert!((activated[1] - 2.0).abs() < 1e-12);
    assert!((activated[2] - 3.5).abs() < 1e-12);
    assert!((activated[activated.len() - 1] - 8.0).abs() < 1e-5);
    assert!((experts.activated(2)[2] - 1.75).abs() < 1e-12);
}

#[test]
fn kv_heads_are_not_cut() {
    let model = named("meta-llama/Llama-3.1-8B");
    assert!((model.kv_bytes_per_token(1, 2.0) - 131_072.0).abs() < 1e-9);
    assert!((model.kv_bytes_per_token(8, 2.0) - 16_384.0).abs() < 1e-9);
    assert!((model.kv_bytes_per_token(16, 2.0) - 16_384.0).abs() < 1e-9);
    let latent = named("deepseek-ai/DeepSeek-V3");
    assert!((latent.kv_bytes_per_token(8, 2.0) - 61.0 * 576.0 * 2.0).abs() < 1e-9);
}
