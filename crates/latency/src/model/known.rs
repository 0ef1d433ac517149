//! Shapes of models by the name that they have on the Hugging Face hub, from the `config.json` of that repository.

use super::{
    Attention, Experts, FourBit, LinearKind, LinearLayers, ModelShape, SparseIndex, WeightType, Window,
};

/// Heads of queries, heads of keys and values, numbers a head.
type Heads = (u32, u32, u32);

const LLAMA_8B: ModelShape = dense(32, 4096, 14336, (32, 8, 128), 128_256);
const LLAMA_70B: ModelShape = dense(80, 8192, 28672, (64, 8, 128), 128_256);
const LLAMA_405B: ModelShape = dense(126, 16384, 53248, (128, 8, 128), 128_256);
const MIXTRAL_8X7B: ModelShape = dense(32, 4096, 14336, (32, 8, 128), 32000).experts(8, 2, 14336);
const MIXTRAL_8X22B: ModelShape = dense(56, 6144, 16384, (48, 8, 128), 32768).experts(8, 2, 16384);
const QWEN3_30B: ModelShape = qwen3(48, 2048, 6144, (32, 4, 128)).experts(128, 8, 768);
const DEEPSEEK_V3: ModelShape = dense(61, 7168, 18432, (128, 128, 192), 129_280)
    .latent(1536, 128)
    .experts(256, 8, 2048)
    .shared(2048)
    .after(3)
    .four_bit(FourBit::FeedForward)
    .in_block_fp8();
const DEEPSEEK_V32: ModelShape = DEEPSEEK_V3.sparse(64);
const KIMI_K2: ModelShape = dense(61, 7168, 18432, (64, 64, 192), 163_840)
    .latent(1536, 128)
    .experts(384, 8, 2048)
    .shared(2048)
    .after(1)
    .four_bit(FourBit::Experts)
    .in_block_fp8();
const KIMI_K2_INT4: ModelShape = ModelShape { int4_group: 32, ..KIMI_K2.stored(WeightType::Int4) };
const MINIMAX_M2: ModelShape = dense(62, 3072, 1536, (48, 8, 128), 200_064)
    .normed()
    .experts(256, 8, 1536)
    .four_bit(FourBit::Experts)
    .in_block_fp8();
const GLM_4: ModelShape =
    dense(92, 5120, 12288, (96, 8, 128), 151_552).normed().experts(160, 8, 1536).shared(1536).after(3);
const GLM_5: ModelShape = dense(78, 6144, 12288, (64, 64, 256), 154_880)
    .latent(2048, 256)
    .sparse(32)
    .experts(256, 8, 2048)
    .shared(2048)
    .after(3)
    .four_bit(FourBit::Experts)
    .block_fp8();
const LLAMA_4_SCOUT: ModelShape = dense(48, 5120, 16384, (40, 8, 128), 202_048)
    .normed()
    .experts(16, 1, 8192)
    .shared(8192)
    .chunks(8192, 36)
    .four_bit(FourBit::Experts);
const LLAMA_4_MAVERICK: ModelShape = dense(48, 5120, 16384, (40, 8, 128), 202_048)
    .experts(128, 1, 8192)
    .shared(8192)
    .after(24)
    .chunks(8192, 36)
    .four_bit(FourBit::Experts);

/// All that are known, the first name of a shape first.
pub(super) static MODELS: [(&str, ModelShape); 79] = [
    ("meta-llama/Llama-2-7b-hf", dense(32, 4096, 11008, (32, 32, 128), 32000)),
    ("meta-llama/Llama-2-13b-hf", dense(40, 5120, 13824, (40, 40, 128), 32000)),
    ("meta-llama/Llama-2-70b-hf", dense(80, 8192, 28672, (64, 8, 128), 32000)),
    ("meta-llama/Meta-Llama-3-8B", LLAMA_8B),
    ("meta-llama/Meta-Llama-3-70B", LLAMA_70B),
    ("meta-llama/Llama-3.1-8B", LLAMA_8B),
    ("meta-llama/Llama-3.1-70B", LLAMA_70B),
    ("meta-llama/Llama-3.1-405B", LLAMA_405B),
    ("meta-llama/Llama-3.2-1B", dense(16, 2048, 8192, (32, 8, 64), 128_256).tied()),
    ("meta-llama/Llama-3.2-3B", dense(28, 3072, 8192, (24, 8, 128), 128_256).tied()),
    ("meta-llama/Llama-3.3-70B", LLAMA_70B),
    ("meta-llama/Llama-4-Scout-17B-16E", LLAMA_4_SCOUT),
    ("meta-llama/Llama-4-Maverick-17B-128E", LLAMA_4_MAVERICK),
    ("mistralai/Mistral-7B-v0.3", dense(32, 4096, 14336, (32, 8, 128), 32768)),
    ("mistralai/Mistral-Small-24B-2501", dense(40, 5120, 32768, (32, 8, 128), 131_072)),
    ("mistralai/Mistral-Large-2407", dense(88, 12288, 28672, (96, 8, 128), 32768)),
    ("mistralai/Mixtral-8x7B-v0.1", MIXTRAL_8X7B),
    ("mistralai/Mixtral-8x22B-v0.1", MIXTRAL_8X22B),
    ("Qwen/Qwen2.5-0.5B", dense(24, 896, 4864, (14, 2, 64), 151_936).tied()),
    ("Qwen/Qwen2.5-1.5B", dense(28, 1536, 8960, (12, 2, 128), 151_936).tied()),
    ("Qwen/Qwen2.5-3B", dense(36, 2048, 11008, (16, 2, 128), 151_936).tied()),
    ("Qwen/Qwen2.5-7B", dense(28, 3584, 18944, (28, 4, 128), 152_064)),
    ("Qwen/Qwen2.5-14B", dense(48, 5120, 13824, (40, 8, 128), 152_064)),
    ("Qwen/Qwen2.5-32B", dense(64, 5120, 27648, (40, 8, 128), 152_064)),
    ("Qwen/Qwen2.5-72B", dense(80, 8192, 29568, (64, 8, 128), 152_064)),
    ("Qwen/Qwen2.5-Coder-7B", dense(28, 3584, 18944, (28, 4, 128), 152_064)),
    ("Qwen/Qwen2.5-Coder-32B", dense(64, 5120, 27648, (40, 8, 128), 152_064)),
    ("Qwen/QwQ-32B", dense(64, 5120, 27648, (40, 8, 128), 152_064)),
    ("Qwen/Qwen3-0.6B", qwen3(28, 1024, 3072, (16, 8, 128)).tied()),
    ("Qwen/Qwen3-1.7B", qwen3(28, 2048, 6144, (16, 8, 128)).tied()),
    ("Qwen/Qwen3-4B", qwen3(36, 2560, 9728, (32, 8, 128)).tied()),
    ("Qwen/Qwen3-8B", qwen3(36, 4096, 12288, (32, 8, 128))),
    ("Qwen/Qwen3-14B", qwen3(40, 5120, 17408, (40, 8, 128))),
    ("Qwen/Qwen3-32B", qwen3(64, 5120, 25600, (64, 8, 128))),
    ("Qwen/Qwen3-30B-A3B", QWEN3_30B),
    ("Qwen/Qwen3-Coder-30B-A3B", QWEN3_30B),
    ("Qwen/Qwen3-235B-A22B", qwen3(94, 4096, 12288, (64, 4, 128)).experts(128, 8, 1536)),
    ("Qwen/Qwen3-Coder-480B-A35B", qwen3(62, 6144, 8192, (96, 8, 128)).experts(160, 8, 2560)),
    (
        "Qwen/Qwen3-Next-80B-A3B",
        qwen_hybrid((48, 2048, 5120), (16, 2), 32, 151_936)
            .cached_in_bf16()
            .experts(512, 10, 512)
            .shared(512),
    ),
    ("Qwen/Qwen3.5-27B", qwen_hybrid((64, 5120, 17408), (24, 4), 48, 248_320)),
    (
        "Qwen/Qwen3.5-35B-A3B",
        qwen_hybrid((40, 2048, 512), (16, 2), 32, 248_320).experts(256, 8, 512).shared(512),
    ),
    (
        "Qwen/Qwen3.5-122B-A10B",
        qwen_hybrid((48, 3072, 1024), (32, 2), 64, 248_320).experts(256, 8, 1024).shared(1024),
    ),
    (
        "Qwen/Qwen3.5-397B-A17B",
        qwen_hybrid((60, 4096, 1024), (32, 2), 64, 248_320).experts(512, 10, 1024).shared(1024),
    ),
    (
        "deepseek-ai/DeepSeek-V2-Lite",
        dense(27, 2048, 10944, (16, 16, 192), 102_400)
            .latent(0, 128)
            .experts(64, 6, 1408)
            .shared(2816)
            .after(1),
    ),
    ("deepseek-ai/DeepSeek-V3", DEEPSEEK_V3),
    ("deepseek-ai/DeepSeek-R1", DEEPSEEK_V3),
    ("deepseek-ai/DeepSeek-V3.1", DEEPSEEK_V3),
    ("deepseek-ai/DeepSeek-V3.2", DEEPSEEK_V32),
    ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", LLAMA_8B),
    ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", LLAMA_70B),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", dense(28, 3584, 18944, (28, 4, 128), 152_064)),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", dense(48, 5120, 13824, (40, 8, 128), 152_064)),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", dense(64, 5120, 27648, (40, 8, 128), 152_064)),
    ("moonshotai/Kimi-K2", KIMI_K2),
    ("moonshotai/Kimi-K2-Thinking", KIMI_K2_INT4),
    ("moonshotai/Kimi-K2.5", KIMI_K2_INT4),
    ("moonshotai/Kimi-K2.6", KIMI_K2_INT4),
    ("openai/gpt-oss-20b", gpt_oss(24, 32)),
    ("openai/gpt-oss-120b", gpt_oss(36, 128)),
    ("MiniMaxAI/MiniMax-M2", MINIMAX_M2),
    ("MiniMaxAI/MiniMax-M2.1", MINIMAX_M2),
    ("MiniMaxAI/MiniMax-M2.5", MINIMAX_M2),
    (
        "zai-org/GLM-4.5-Air",
        dense(46, 4096, 10944, (96, 8, 128), 151_552).experts(128, 8, 1408).shared(1408).after(1),
    ),
    ("zai-org/GLM-4.5", GLM_4),
    ("zai-org/GLM-4.6", GLM_4),
    ("zai-org/GLM-4.7", GLM_4),
    ("zai-org/GLM-5", GLM_5),
    ("zai-org/GLM-5.1", GLM_5),
    ("stepfun-ai/Step-3.5-Flash", step()),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", nemotron_nano()),
    ("nvidia/Llama-3.1-Nemotron-70B", LLAMA_70B),
    ("google/gemma-2-9b", gemma(42, 3584, 14336, (16, 8, 256), 256_000).window(4096, 21)),
    ("google/gemma-2-27b", gemma(46, 4608, 36864, (32, 16, 128), 256_000).window(4096, 23)),
    ("google/gemma-3-12b-it", gemma(48, 3840, 15360, (16, 8, 256), 262_208).normed().window(1024, 40)),
    ("google/gemma-3-27b-it", gemma(62, 5376, 21504, (32, 16, 128), 262_208).normed().window(1024, 52)),
    ("microsoft/Phi-3.5-MoE", dense(32, 4096, 6400, (32, 8, 128), 32064).experts(16, 2, 6400)),
    ("microsoft/phi-4", dense(40, 5120, 17920, (40, 10, 128), 100_352)),
    ("microsoft/Phi-3.5-mini-instruct", dense(32, 3072, 8192, (32, 32, 96), 32064)),
    ("microsoft/Phi-3-mini-4k-instruct", dense(32, 3072, 8192, (32, 32, 96), 32064)),
];

/// A model of plain blocks: layers, width, width of the feed-forward part, heads, vocabulary.
const fn dense(
    layers: u32,
    hidden_size: u32,
    inner_size: u32,
    (heads, kv_heads, head_size): Heads,
    vocabulary: u32,
) -> ModelShape {
    ModelShape {
        layers,
        attention_layers: layers,
        linear: None,
        feed_forward_layers: layers,
        hidden_size,
        heads,
        head_size,
        attention: Attention::Grouped { kv_heads },
        sparse: None,
        output_gate: 0,
        inner_size,
        gated: true,
        vocabulary,
        context: None,
        tied_embeddings: false,
        qk_norm: false,
        norms: 2,
        window: None,
        experts: None,
        quantisation: None,
        block_fp8: false,
        four_bit: FourBit::Everywhere,
        int4_group: 128,
    }
}

const fn qwen3(layers: u32, hidden_size: u32, inner_size: u32, heads: Heads) -> ModelShape {
    dense(layers, hidden_size, inner_size, heads, 151_936).normed().block_fp8()
}

/// Three blocks with a gated delta rule, then one with gated attention, and so on: (layers, width, feed-forward width),
/// (heads, heads of keys and values), value heads of the delta rule, vocabulary.
const fn qwen_hybrid(
    (layers, hidden_size, inner_size): (u32, u32, u32),
    (heads, kv_heads): (u32, u32),
    value_heads: u32,
    vocabulary: u32,
) -> ModelShape {
    let linear = LinearLayers {
        layers: layers - layers / 4,
        kind: LinearKind::GatedDelta,
        key_heads: 16,
        key_size: 128,
        value_heads,
        value_size: 128,
        convolution: 4,
        cached_number_bytes: 4,
    };
    let attention_layers = layers / 4;
    let plain =
        dense(layers, hidden_size, inner_size, (heads, kv_heads, 256), vocabulary).normed().block_fp8();
    ModelShape {
        attention_layers,
        linear: Some(linear),
        output_gate: 256,
        four_bit: FourBit::FeedForward,
        ..plain
    }
}

const fn gpt_oss(layers: u32, experts: u32) -> ModelShape {
    dense(layers, 2880, 2880, (64, 8, 64), 201_088)
        .experts(experts, 4, 2880)
        .window(128, layers / 2)
        .four_bit(FourBit::Experts)
        .stored(WeightType::Mxfp4)
}

const fn gemma(layers: u32, hidden_size: u32, inner_size: u32, heads: Heads, vocabulary: u32) -> ModelShape {
    ModelShape { norms: 4, ..dense(layers, hidden_size, inner_size, heads, vocabulary).tied() }
}

/// Blocks with a window have 96 heads of queries instead of 64, which are left out: they are 0.6 % of its parameters.
const fn step() -> ModelShape {
    let plain = dense(45, 4096, 11264, (64, 8, 128), 128_896).normed().block_fp8();
    let experts = plain.experts(288, 8, 1280).shared(1280).after(3).four_bit(FourBit::Experts);
    // The first block looks back all the way, then three do not.
    let window = Window { tokens: 512, layers: 33, chunked: false, after_full: true };
    ModelShape { output_gate: 1, window: Some(window), ..experts }
}

/// 23 blocks of Mamba 2, 23 of experts and 6 of attention.
const fn nemotron_nano() -> ModelShape {
    let linear = LinearLayers {
        layers: 23,
        kind: LinearKind::Mamba2,
        key_heads: 8,
        key_size: 128,
        value_heads: 64,
        value_size: 64,
        convolution: 4,
        cached_number_bytes: 4,
    };
    let plain = dense(52, 2688, 1856, (32, 2, 128), 131_072).experts(128, 6, 1856).shared(3712).after(29);
    ModelShape {
        attention_layers: 6,
        linear: Some(linear),
        feed_forward_layers: 23,
        gated: false,
        norms: 1,
        four_bit: FourBit::Experts,
        ..plain
    }
}

impl ModelShape {
    /// The head is the embedding.
    const fn tied(self) -> Self {
        Self { tied_embeddings: true, ..self }
    }

    /// Queries and keys are normalised.
    const fn normed(self) -> Self {
        Self { qk_norm: true, ..self }
    }

    /// Experts in all blocks: how many, how many a token goes to, and their width.
    const fn experts(self, count: u32, per_token: u32, inner_size: u32) -> Self {
        let experts = Experts { count, per_token, inner_size, shared_inner_size: 0, layers: self.layers };
        Self { experts: Some(experts), ..self }
    }

    /// Something beside the experts that all tokens go through.
    const fn shared(self, shared_inner_size: u32) -> Self {
        let experts = match self.experts {
            Some(experts) => Some(Experts { shared_inner_size, ..experts }),
            None => None,
        };
        Self { experts, ..self }
    }

    /// So many blocks have no experts.
    const fn after(self, plain: u32) -> Self {
        let experts = match self.experts {
            Some(experts) => Some(Experts { layers: self.layers - plain, ..experts }),
            None => None,
        };
        Self { experts, ..self }
    }

    const fn window(self, tokens: u32, layers: u32) -> Self {
        Self { window: Some(Window { tokens, layers, chunked: false, after_full: false }), ..self }
    }

    /// Blocks look back to the last multiple of so many tokens.
    const fn chunks(self, tokens: u32, layers: u32) -> Self {
        Self { window: Some(Window { tokens, layers, chunked: true, after_full: false }), ..self }
    }

    /// States of sequences are kept in 16 bits.
    const fn cached_in_bf16(self) -> Self {
        let linear = match self.linear {
            Some(linear) => Some(LinearLayers { cached_number_bytes: 2, ..linear }),
            None => None,
        };
        Self { linear, ..self }
    }

    /// Latent attention with keys and values of 512 numbers and 64 for the position; 0 for queries that are not compressed.
    const fn latent(self, q_rank: u32, value_size: u32) -> Self {
        let q_rank = if q_rank == 0 { None } else { Some(q_rank) };
        Self { attention: Attention::Latent { q_rank, kv_rank: 512, rope_size: 64, value_size }, ..self }
    }

    /// Sparse attention to 2,048 tokens, whose index has so many heads of 128 numbers.
    const fn sparse(self, heads: u32) -> Self {
        Self { sparse: Some(SparseIndex { heads, head_size: 128, top_k: 2048 }), ..self }
    }

    const fn stored(self, weights: WeightType) -> Self {
        Self { quantisation: Some(weights), ..self }
    }

    /// Repositories of it with fp8 weights have scales for blocks.
    const fn block_fp8(self) -> Self {
        Self { block_fp8: true, ..self }
    }

    /// It is published in fp8 with scales for blocks.
    const fn in_block_fp8(self) -> Self {
        self.stored(WeightType::Fp8Block).block_fp8()
    }

    const fn four_bit(self, four_bit: FourBit) -> Self {
        Self { four_bit, ..self }
    }
}
