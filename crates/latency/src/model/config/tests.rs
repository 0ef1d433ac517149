//! Descriptions are read as the list of models has them.

use serde_json::json;

use super::*;

fn of(config: &Value) -> ModelShape {
    read(&config.to_string()).unwrap_or_else(|error| panic!("{config}: {error}"))
}

/// A description by a few keys is what stands in the list of models.
#[track_caller]
fn same(name: &str, config: &Value) {
    let listed = ModelShape::by_name(name).unwrap();
    assert_eq!(of(config), ModelShape { context: None, ..listed }, "{name}");
}

fn keys(family: &str, layers: u32, hidden: u32, inner: u32, heads: (u32, u32), vocabulary: u32) -> Value {
    json!({
        "model_type": family, "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads.0, "num_key_value_heads": heads.1, "vocab_size": vocabulary,
    })
}

fn with(mut config: Value, more: &Value) -> Value {
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn plain_families_are_read() {
    same("meta-llama/Llama-3.1-8B", &keys("llama", 32, 4096, 14336, (32, 8), 128_256));
    same(
        "mistralai/Mistral-7B-v0.3",
        &with(keys("mistral", 32, 4096, 14336, (32, 8), 32768), &json!({"sliding_window": null})),
    );
    let sliding = json!({"sliding_window": 131_072, "use_sliding_window": false, "max_window_layers": 28});
    same("Qwen/Qwen2.5-7B", &with(keys("qwen2", 28, 3584, 18944, (28, 4), 152_064), &sliding));
    let tied = json!({"head_dim": 128, "tie_word_embeddings": true});
    same("Qwen/Qwen3-0.6B", &with(keys("qwen3", 28, 1024, 3072, (16, 8), 151_936), &tied));
    same("microsoft/phi-4", &keys("phi3", 40, 5120, 17920, (40, 10), 100_352));
    let phi = of(&keys("phi", 32, 2560, 10240, (32, 32), 51200));
    let billions = phi.parameters() as f64 / 1e9;
    assert!((billions - 2.78).abs() < 0.01, "phi-2 is published with 2.78 billion, not {billions}");
    let first = of(&with(keys("mistral", 32, 4096, 14336, (32, 8), 32000), &json!({"sliding_window": 4096})));
    assert_eq!(first.window, Some(Window { tokens: 4096, layers: 32, chunked: false, after_full: false }));
}

#[test]
fn the_context_is_read_where_it_is_a_number_of_tokens() {
    let config = keys("llama", 32, 4096, 14336, (32, 8), 128_256);
    for (given, context) in [(json!(131_072), Some(131_072)), (json!("long"), None), (json!(0), None)] {
        assert_eq!(of(&with(config.clone(), &json!({"max_position_embeddings": given}))).context, context);
    }
}

#[test]
fn families_with_experts_are_read() {
    let local = json!({"num_local_experts": 8, "num_experts_per_tok": 2});
    same("mistralai/Mixtral-8x7B-v0.1", &with(keys("mixtral", 32, 4096, 14336, (32, 8), 32000), &local));
    let qwen = json!({
        "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "sliding_window": null,
    });
    same("Qwen/Qwen3-30B-A3B", &with(keys("qwen3_moe", 48, 2048, 6144, (32, 4), 151_936), &qwen));
    let shared = json!({
        "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    });
    let billions =
        of(&with(keys("qwen2_moe", 24, 2048, 5632, (16, 16), 151_936), &shared)).parameters() as f64 / 1e9;
    assert!(
        (billions - 14.3).abs() < 0.05,
        "Qwen1.5-MoE-A2.7B is published with 14.3 billion, not {billions}"
    );
    let latent = json!({
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    });
    same(
        "deepseek-ai/DeepSeek-V3",
        &with(keys("deepseek_v3", 61, 7168, 18432, (128, 128), 129_280), &latent),
    );
    let lite = json!({
        "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
        "first_k_dense_replace": 1, "q_lora_rank": null, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128,
    });
    let billions =
        of(&with(keys("deepseek_v2", 27, 2048, 10944, (16, 16), 102_400), &lite)).parameters() as f64 / 1e9;
    assert!(
        (billions - 15.7).abs() < 0.05,
        "DeepSeek-V2-Lite is published with 15.7 billion, not {billions}"
    );
    let gpt_oss = json!({
        "head_dim": 64, "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
        "quantization_config": {"quant_method": "mxfp4"},
    });
    same("openai/gpt-oss-120b", &with(keys("gpt_oss", 36, 2880, 2880, (64, 8), 201_088), &gpt_oss));
}

/// The keys of a model with latent attention that are the same for all.
fn latent_keys(q_rank: u32, nope: u32, value: u32) -> Value {
    json!({
        "q_lora_rank": q_rank, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": nope,
        "v_head_dim": value, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
    })
}

#[test]
fn families_with_sparse_attention_are_read() {
    let blocks = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}});
    let deepseek = json!({
        "n_routed_experts": 256, "first_k_dense_replace": 3, "index_n_heads": 64, "index_head_dim": 128,
        "index_topk": 2048,
    });
    let plain =
        with(keys("deepseek_v32", 61, 7168, 18432, (128, 128), 129_280), &latent_keys(1536, 128, 128));
    same("deepseek-ai/DeepSeek-V3.2", &with(with(plain, &deepseek), &blocks));
    let glm = json!({
        "n_routed_experts": 256, "first_k_dense_replace": 3, "index_n_heads": 32, "index_head_dim": 128,
        "index_topk": 2048, "head_dim": 64,
    });
    let plain = with(keys("glm_moe_dsa", 78, 6144, 12288, (64, 64), 154_880), &latent_keys(2048, 192, 256));
    same("zai-org/GLM-5", &with(plain, &glm));
}

#[test]
fn kimis_are_read() {
    let more = json!({"n_routed_experts": 384, "first_k_dense_replace": 1});
    let plain = |family: &str| {
        let plain = with(keys(family, 61, 7168, 18432, (64, 64), 163_840), &latent_keys(1536, 128, 128));
        with(plain, &more)
    };
    let blocks = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}});
    same("moonshotai/Kimi-K2", &with(plain("kimi_k2"), &blocks));
    let packed = json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"],
    }});
    let text = with(plain("deepseek_v3"), &packed);
    same("moonshotai/Kimi-K2.5", &json!({"model_type": "kimi_k25", "text_config": text}));
}

#[test]
fn hybrids_are_read() {
    let linear = |values: u32| {
        json!({
            "head_dim": 256, "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
            "linear_num_value_heads": values, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        })
    };
    let experts = |count: u32, per_token: u32, inner: u32| {
        json!({
            "num_experts": count, "num_experts_per_tok": per_token, "moe_intermediate_size": inner,
            "shared_expert_intermediate_size": inner,
        })
    };
    let next =
        with(with(keys("qwen3_next", 48, 2048, 5120, (16, 2), 151_936), &linear(32)), &experts(512, 10, 512));
    same("Qwen/Qwen3-Next-80B-A3B", &next);
    let mut text = with(
        with(keys("qwen3_5_moe_text", 60, 4096, 0, (32, 2), 248_320), &linear(64)),
        &experts(512, 10, 1024),
    );
    text.as_object_mut().unwrap().remove("intermediate_size");
    same("Qwen/Qwen3.5-397B-A17B", &json!({"model_type": "qwen3_5_moe", "text_config": text}));
    same("Qwen/Qwen3.5-27B", &with(keys("qwen3_5", 64, 5120, 17408, (24, 4), 248_320), &linear(48)));
    let pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME";
    let nemotron = json!({
        "hybrid_override_pattern": pattern, "head_dim": 128, "n_routed_experts": 128, "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_groups": 8,
        "ssm_state_size": 128, "mamba_num_heads": 64, "mamba_head_dim": 64, "conv_kernel": 4,
    });
    let nano = with(keys("nemotron_h", 52, 2688, 1856, (32, 2), 131_072), &nemotron);
    same("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", &nano);
    refused(
        &with(nano, &json!({"hybrid_override_pattern": "M*E"})),
        "`hybrid_override_pattern` is \"M*E\", but must be a letter M, *, E or - for each of `num_hidden_layers` blocks",
    );
}

#[test]
fn other_families_with_experts_are_read() {
    let minimax = json!({
        "head_dim": 128, "num_local_experts": 256, "num_experts_per_tok": 8, "use_qk_norm": true,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    });
    same("MiniMaxAI/MiniMax-M2.5", &with(keys("minimax_m2", 62, 3072, 1536, (48, 8), 200_064), &minimax));
    let llama4 = |experts: u32, step: u32, norm: bool| {
        let text = json!({
            "head_dim": 128, "num_local_experts": experts, "num_experts_per_tok": 1, "intermediate_size_mlp": 16384,
            "interleave_moe_layer_step": step, "attention_chunk_size": 8192, "use_qk_norm": norm,
        });
        let text = with(keys("llama4_text", 48, 5120, 8192, (40, 8), 202_048), &text);
        json!({"model_type": "llama4", "text_config": text})
    };
    same("meta-llama/Llama-4-Scout-17B-16E", &llama4(16, 1, true));
    same("meta-llama/Llama-4-Maverick-17B-128E", &llama4(128, 2, false));
    let layers: Vec<String> = (3..45).map(|layer| layer.to_string()).collect();
    let cycle = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"];
    let kinds: Vec<&str> = cycle.into_iter().cycle().take(48).collect();
    let step = json!({
        "num_attention_groups": 8, "head_dim": 128, "moe_num_experts": 288, "moe_top_k": 8,
        "moe_intermediate_size": 1280, "share_expert_dim": 1280, "moe_layers_enum": layers.join(","),
        "sliding_window": 512, "layer_types": kinds, "num_key_value_heads": null,
    });
    same("stepfun-ai/Step-3.5-Flash", &with(keys("step3p5", 45, 4096, 11264, (64, 8), 128_896), &step));
}

#[test]
fn quantised_repositories_are_read() {
    let stored = |quantisation: Value| {
        let llama = keys("llama", 32, 4096, 14336, (32, 8), 128_256);
        let shape = of(&with(llama, &json!({ "quantization_config": quantisation })));
        (shape.quantisation, shape.four_bit)
    };
    let nvfp4 = (Some(WeightType::Nvfp4), FourBit::Everywhere);
    assert_eq!(
        stored(json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]})),
        nvfp4
    );
    assert_eq!(
        stored(json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"})),
        nvfp4
    );
    assert_eq!(stored(json!({"quant_method": "modelopt", "quant_algo": "FP8"})).0, Some(WeightType::Fp8));
    let rows = json!({
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "channel"}}},
    });
    assert_eq!(stored(rows).0, Some(WeightType::Fp8));
    assert_eq!(stored(json!({})).0, None);
    let quark = json!({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}});
    assert_eq!(stored(quark).0, Some(WeightType::Mxfp4));
    let llama = keys("llama", 32, 4096, 14336, (32, 8), 128_256);
    let eight = with(llama, &json!({"quantization_config": {"quant_method": "gptq", "bits": 8}}));
    let message = read(&eight.to_string()).unwrap_err().to_string();
    assert!(
        message.starts_with("`quantization_config` is gptq, but must be a known form of weights"),
        "{message}"
    );
    let attention =
        json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.0.self_attn*"]});
    assert_eq!(stored(attention), (Some(WeightType::Nvfp4), FourBit::FeedForward));
}

#[test]
fn what_blocks_keep_is_read() {
    let llama4 = keys("llama4_text", 8, 64, 64, (2, 1), 10);
    let chunks = of(&with(
        llama4,
        &json!({
            "intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1,
            "attention_chunk_size": 32, "no_rope_layers": [],
        }),
    ));
    assert_eq!(chunks.window, Some(Window { tokens: 32, layers: 6, chunked: true, after_full: false }));
    let later = json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1});
    let later = of(&with(keys("qwen2", 4, 64, 64, (2, 1), 10), &later));
    assert_eq!(later.window, Some(Window { tokens: 8, layers: 3, chunked: false, after_full: true }));
    let hybrid = |more: Value| {
        let linear = json!({
            "linear_num_key_heads": 2, "linear_key_head_dim": 4, "linear_num_value_heads": 2,
            "linear_value_head_dim": 4, "linear_conv_kernel_dim": 4,
        });
        with(with(keys("qwen3_5", 4, 64, 64, (2, 1), 10), &linear), &more)
    };
    let bytes = |more: Value| of(&hybrid(more)).linear.map(|linear| linear.cached_number_bytes);
    assert_eq!(bytes(json!({})), Some(4));
    assert_eq!(bytes(json!({"mamba_ssm_dtype": "bfloat16"})), Some(2));
    let error = read(&hybrid(json!({"mamba_ssm_dtype": "fp8"})).to_string()).unwrap_err();
    let words = "`mamba_ssm_dtype` is \"fp8\", but must be `float32`, `bfloat16` or `float16`";
    assert_eq!(error.to_string(), words);
}

#[test]
fn gemmas_are_read() {
    let gemma2 = json!({"head_dim": 256, "sliding_window": 4096});
    same("google/gemma-2-9b", &with(keys("gemma2", 42, 3584, 14336, (16, 8), 256_000), &gemma2));
    let gemma3 = with(
        keys("gemma3_text", 48, 3840, 15360, (16, 8), 262_208),
        &json!({"head_dim": 256, "sliding_window": 1024, "sliding_window_pattern": 6}),
    );
    same("google/gemma-3-12b-it", &json!({"model_type": "gemma3", "text_config": gemma3}));
    let kinds: Vec<&str> = [["sliding_attention"; 5].as_slice(), &["full_attention"]].concat();
    let listed = of(&with(
        keys("gemma3_text", 6, 64, 64, (2, 1), 10),
        &json!({"sliding_window": 8, "layer_types": kinds}),
    ));
    assert_eq!(listed.window, Some(Window { tokens: 8, layers: 5, chunked: false, after_full: false }));
    let first = of(&with(keys("gemma", 28, 3072, 24576, (16, 16), 256_000), &json!({"head_dim": 256})));
    let billions = first.parameters() as f64 / 1e9;
    assert!((billions - 8.54).abs() < 0.01, "gemma-7b is published with 8.54 billion, not {billions}");
}

#[track_caller]
fn refused(config: &Value, message: &str) {
    assert_eq!(read(&config.to_string()).unwrap_err().to_string(), message);
}

#[test]
fn what_is_not_known_is_refused_with_what_to_do() {
    let unknown = read(r#"{"model_type": "mamba"}"#).unwrap_err().to_string();
    assert!(
        unknown.starts_with("`model_type` is `mamba`, whose blocks are not known; known are llama, "),
        "{unknown}"
    );
    assert!(unknown.ends_with("name that one in a copy of the file"), "{unknown}");
    assert!(read("{}").unwrap_err().to_string().starts_with("`model_type` is absent"));
    assert!(matches!(read("[]").unwrap_err(), ModelError::Json(_)));
    let llama = keys("llama", 2, 64, 64, (4, 2), 10);
    refused(
        &with(llama.clone(), &json!({"hidden_size": "wide"})),
        "`hidden_size` is \"wide\", but must be a whole number of at least 1",
    );
    refused(
        &with(llama.clone(), &json!({"num_key_value_heads": 3})),
        "`num_key_value_heads` is 3, but must be a divisor of `num_attention_heads`",
    );
    refused(
        &with(llama.clone(), &json!({"vocab_size": null})),
        "`vocab_size` is absent, but must be a whole number of at least 1",
    );
    refused(
        &with(llama, &json!({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3})),
        "`num_experts_per_tok` is 3, but must be no more than there are experts",
    );
}
