//! How the numbers of a model are stored and multiplied.

use super::ModelShape;

/// Bytes of a bf16 number.
pub(crate) const BF16_BYTES: f64 = 2.0;

/// How numbers are stored and multiplied. Embedding and head are bf16 with all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// 2 bytes; fp16 is the same.
    Bf16,
    /// 1 byte and a scale for each matrix or row of it, multiplied as such where the GPU can.
    Fp8,
    /// 1 byte and a scale for each block of 128 × 128 numbers, as DeepSeek publishes its models; multiplied as such where
    /// the GPU can.
    Fp8Block,
    /// Half a byte and a scale for each group (AWQ, GPTQ), multiplied as bf16.
    Int4,
    /// Half a byte and a scale of 8 bits for each 32 numbers, multiplied as bf16.
    Mxfp4,
    /// Half a byte and a scale of 8 bits for each 16 numbers, multiplied as such; only NVIDIA's Blackwell can.
    Nvfp4,
}

/// Which matrices of the blocks have four bits in published checkpoints that are stored so; the others stay bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FourBit {
    /// All: dense models, and Qwen3 with experts (`nvidia/Llama-3.3-70B-Instruct-FP4`, `nvidia/Qwen3-235B-A22B-FP4`).
    Everywhere,
    /// The feed-forward parts, but not attention (`nvidia/DeepSeek-R1-0528-FP4`).
    FeedForward,
    /// The experts that tokens are sent to, but not those that all go through (`openai/gpt-oss-120b`,
    /// `moonshotai/Kimi-K2.5`, `nvidia/Kimi-K2.5-NVFP4`, `nvidia/MiniMax-M2.5-NVFP4`).
    Experts,
}

/// How the parts of a model are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAs {
    /// Attention, of either kind.
    pub attention: WeightType,
    /// Plain feed-forward parts, and experts that all tokens go through.
    pub feed_forward: WeightType,
    /// Experts that tokens are sent to.
    pub experts: WeightType,
}

impl WeightType {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 7] = [
        ("bf16", Self::Bf16),
        ("fp16", Self::Bf16),
        ("fp8", Self::Fp8),
        ("fp8_block", Self::Fp8Block),
        ("int4", Self::Int4),
        ("mxfp4", Self::Mxfp4),
        ("nvfp4", Self::Nvfp4),
    ];

    /// The one of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Fp8Block => "fp8_block",
            Self::Int4 => "int4",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// Whether a number takes four bits.
    pub fn is_four_bit(self) -> bool {
        matches!(self, Self::Int4 | Self::Mxfp4 | Self::Nvfp4)
    }
}

impl ModelShape {
    /// Bytes of a number of a matrix that is stored so, its part of the scales included.
    pub fn bytes_of(&self, weights: WeightType) -> f64 {
        match weights {
            WeightType::Bf16 => BF16_BYTES,
            WeightType::Fp8 => 1.0,
            WeightType::Fp8Block => 1.0 + 4.0 / (128.0 * 128.0),
            WeightType::Int4 => 0.5 + 2.0 / f64::from(self.int4_group),
            WeightType::Mxfp4 => 0.5 + 1.0 / 32.0,
            WeightType::Nvfp4 => 0.5 + 1.0 / 16.0,
        }
    }

    /// How weights are stored if `asked` is what somebody asks for: as the model is published without that, and fp8 with
    /// scales for blocks where the publisher of the model stores fp8 so.
    pub fn weights(&self, asked: Option<WeightType>) -> WeightType {
        match asked.or(self.quantisation).unwrap_or(WeightType::Bf16) {
            WeightType::Fp8 if asked.is_some() && self.block_fp8 => WeightType::Fp8Block,
            weights => weights,
        }
    }

    /// How the parts of the model are stored if its weights are `weights`.
    pub fn stored_as(&self, weights: WeightType) -> StoredAs {
        let four_bit = match self.four_bit {
            // gpt-oss came first with mxfp4, and all others of its kind leave attention alone.
            FourBit::Everywhere if weights == WeightType::Mxfp4 && self.experts.is_some() => FourBit::Experts,
            four_bit => four_bit,
        };
        let (attention, feed_forward) = match four_bit {
            _ if !weights.is_four_bit() => (weights, weights),
            FourBit::Everywhere => (weights, weights),
            FourBit::FeedForward => (WeightType::Bf16, weights),
            FourBit::Experts => (WeightType::Bf16, WeightType::Bf16),
        };
        StoredAs { attention, feed_forward, experts: weights }
    }
}
