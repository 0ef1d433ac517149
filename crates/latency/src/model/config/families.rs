//! How families of models differ from a llama, by the `model_type` of their `config.json`.

use super::super::FourBit;

/// Families whose blocks are known.
pub(super) const FAMILIES: [(&str, Family); 34] = [
    ("llama", Family::PLAIN),
    ("mistral", Family { windowed: Windowed::All, ..Family::PLAIN }),
    ("qwen2", Family { windowed: Windowed::IfUsed, ..Family::PLAIN }),
    ("qwen3", Family { qk_norm: true, block_fp8: true, windowed: Windowed::IfUsed, ..Family::PLAIN }),
    ("phi", Family { gated: false, norms: 1, ..Family::PLAIN }),
    ("phi3", Family { windowed: Windowed::All, ..Family::PLAIN }),
    ("phimoe", Family { experts: Some(ExpertKeys::LOCAL), ..Family::PLAIN }),
    ("mixtral", Family { experts: Some(ExpertKeys::LOCAL), windowed: Windowed::All, ..Family::PLAIN }),
    ("qwen2_moe", Family { experts: Some(ExpertKeys::QWEN), windowed: Windowed::IfUsed, ..Family::PLAIN }),
    (
        "qwen3_moe",
        Family {
            qk_norm: true,
            block_fp8: true,
            experts: Some(ExpertKeys::QWEN),
            windowed: Windowed::IfUsed,
            ..Family::PLAIN
        },
    ),
    ("qwen3_next", Family { experts: Some(ExpertKeys::QWEN), short_states: true, ..Family::QWEN_HYBRID }),
    ("qwen3_5", Family::QWEN_HYBRID),
    ("qwen3_5_text", Family::QWEN_HYBRID),
    ("qwen3_5_moe", Family { experts: Some(ExpertKeys::QWEN), ..Family::QWEN_HYBRID }),
    ("qwen3_5_moe_text", Family { experts: Some(ExpertKeys::QWEN), ..Family::QWEN_HYBRID }),
    ("deepseek_v2", Family { four_bit: FourBit::FeedForward, block_fp8: false, ..Family::DEEPSEEK }),
    ("deepseek_v3", Family::DEEPSEEK),
    ("deepseek_v32", Family::DEEPSEEK),
    ("kimi_k2", Family { four_bit: FourBit::Experts, ..Family::DEEPSEEK }),
    ("glm_moe_dsa", Family { four_bit: FourBit::Experts, ..Family::DEEPSEEK }),
    ("glm4_moe", Family { experts: Some(ExpertKeys::DEEPSEEK), ..Family::PLAIN }),
    (
        "minimax_m2",
        Family {
            qk_norm: true,
            block_fp8: true,
            experts: Some(ExpertKeys::LOCAL),
            four_bit: FourBit::Experts,
            ..Family::PLAIN
        },
    ),
    (
        "gpt_oss",
        Family {
            experts: Some(ExpertKeys::LOCAL),
            windowed: Windowed::Every(2),
            four_bit: FourBit::Experts,
            ..Family::PLAIN
        },
    ),
    ("llama4", Family::LLAMA4),
    ("llama4_text", Family::LLAMA4),
    (
        "step3p5",
        Family {
            qk_norm: true,
            block_fp8: true,
            head_gate: true,
            kv_heads: "num_attention_groups",
            experts: Some(ExpertKeys::STEP),
            four_bit: FourBit::Experts,
            ..Family::PLAIN
        },
    ),
    (
        "nemotron_h",
        Family {
            pattern: true,
            norms: 1,
            gated: false,
            experts: Some(ExpertKeys::NEMOTRON),
            four_bit: FourBit::Experts,
            ..Family::PLAIN
        },
    ),
    ("gemma", Family { tied: true, ..Family::PLAIN }),
    ("gemma2", Family { tied: true, norms: 4, windowed: Windowed::Every(2), ..Family::PLAIN }),
    ("gemma3", Family::GEMMA3),
    ("gemma3_text", Family::GEMMA3),
    ("ministral", Family { windowed: Windowed::All, ..Family::PLAIN }),
    ("mistral3", Family { windowed: Windowed::All, ..Family::PLAIN }),
    ("kimi_k25", Family { four_bit: FourBit::Experts, ..Family::DEEPSEEK }),
];

/// How the models of a family differ from a llama.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) qk_norm: bool,
    pub(super) gated: bool,
    pub(super) norms: u32,
    /// Whether the head is the embedding unless the file says otherwise.
    pub(super) tied: bool,
    pub(super) latent: bool,
    /// Whether blocks without full attention have a gated delta rule, and the others a gate.
    pub(super) hybrid: bool,
    /// Whether states of sequences are kept in 16 bits unless the file says otherwise.
    pub(super) short_states: bool,
    /// Whether each head of attention has a gate of one number.
    pub(super) head_gate: bool,
    /// Whether a pattern of letters says what each block is.
    pub(super) pattern: bool,
    pub(super) kv_heads: &'static str,
    pub(super) inner_size: &'static str,
    pub(super) windowed: Windowed,
    pub(super) experts: Option<ExpertKeys>,
    /// Whether its publisher stores fp8 with scales for blocks.
    pub(super) block_fp8: bool,
    pub(super) four_bit: FourBit,
}

impl Family {
    const PLAIN: Self = Self {
        qk_norm: false,
        gated: true,
        norms: 2,
        tied: false,
        latent: false,
        hybrid: false,
        short_states: false,
        head_gate: false,
        pattern: false,
        kv_heads: "num_key_value_heads",
        inner_size: "intermediate_size",
        windowed: Windowed::Never,
        experts: None,
        block_fp8: false,
        four_bit: FourBit::Everywhere,
    };
    const DEEPSEEK: Self = Self {
        latent: true,
        experts: Some(ExpertKeys::DEEPSEEK),
        block_fp8: true,
        four_bit: FourBit::FeedForward,
        ..Self::PLAIN
    };
    const GEMMA3: Self =
        Self { tied: true, norms: 4, qk_norm: true, windowed: Windowed::Pattern, ..Self::PLAIN };
    const QWEN_HYBRID: Self =
        Self { qk_norm: true, hybrid: true, block_fp8: true, four_bit: FourBit::FeedForward, ..Self::PLAIN };
    const LLAMA4: Self = Self {
        inner_size: "intermediate_size_mlp",
        windowed: Windowed::Chunks,
        experts: Some(ExpertKeys::LLAMA4),
        four_bit: FourBit::Experts,
        ..Self::PLAIN
    };
}

/// Which blocks look back no further than `sliding_window`, where `layer_types` does not say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Windowed {
    Never,
    All,
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    IfUsed,
    /// All but each n-th.
    Every(u32),
    /// All but each `sliding_window_pattern`-th.
    Pattern,
    /// Those with rotary embeddings, within chunks of `attention_chunk_size`; each fourth has none unless
    /// `no_rope_layers` says otherwise.
    Chunks,
}

/// Where the experts are described.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpertKeys {
    pub(super) count: &'static str,
    pub(super) per_token: &'static str,
    pub(super) inner_size: &'static str,
    /// Blocks before the first with experts.
    pub(super) first: Option<&'static str>,
    /// Each how many-th block has experts.
    pub(super) step: &'static str,
    /// How many experts all tokens go through.
    pub(super) shared_count: Option<&'static str>,
    /// How wide what all tokens go through is.
    pub(super) shared_inner_size: Option<&'static str>,
}

impl ExpertKeys {
    const LOCAL: Self = Self {
        count: "num_local_experts",
        per_token: "num_experts_per_tok",
        inner_size: "intermediate_size",
        first: None,
        step: "decoder_sparse_step",
        shared_count: None,
        shared_inner_size: None,
    };
    const QWEN: Self = Self {
        count: "num_experts",
        inner_size: "moe_intermediate_size",
        shared_inner_size: Some("shared_expert_intermediate_size"),
        ..Self::LOCAL
    };
    const DEEPSEEK: Self = Self {
        count: "n_routed_experts",
        inner_size: "moe_intermediate_size",
        first: Some("first_k_dense_replace"),
        shared_count: Some("n_shared_experts"),
        ..Self::LOCAL
    };
    const LLAMA4: Self = Self {
        step: "interleave_moe_layer_step",
        shared_inner_size: Some("intermediate_size"),
        ..Self::LOCAL
    };
    const STEP: Self = Self {
        count: "moe_num_experts",
        per_token: "moe_top_k",
        inner_size: "moe_intermediate_size",
        shared_inner_size: Some("share_expert_dim"),
        ..Self::LOCAL
    };
    const NEMOTRON: Self = Self {
        count: "n_routed_experts",
        inner_size: "moe_intermediate_size",
        shared_inner_size: Some("moe_shared_expert_intermediate_size"),
        ..Self::LOCAL
    };
}
