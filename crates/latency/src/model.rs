//! What a model is made of: how many numbers it has, which of them a token touches, and what its KV takes.

mod config;
mod known;

pub use config::ModelError;

/// The shape of a transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Transformer blocks.
    pub layers: u32,
    /// Width of the residual stream, in numbers.
    pub hidden_size: u32,
    /// Heads of queries.
    pub heads: u32,
    /// Numbers a head of queries and keys.
    pub head_size: u32,
    /// How keys and values are made and kept.
    pub attention: Attention,
    /// Width of the feed-forward part of a block without experts, in numbers.
    pub inner_size: u32,
    /// Whether the feed-forward part has a gate, and with it three matrices instead of two.
    pub gated: bool,
    /// Tokens that the model knows.
    pub vocabulary: u32,
    /// Whether the head is the embedding read the other way round.
    pub tied_embeddings: bool,
    /// Whether queries and keys are normalised in each block.
    pub qk_norm: bool,
    /// Norms of the residual stream in each block.
    pub norms: u32,
    /// Blocks whose attention looks back a limited way.
    pub window: Option<Window>,
    /// Experts, if the model has any.
    pub experts: Option<Experts>,
    /// How the weights are stored, if the model is published in another form than bf16.
    pub quantisation: Option<WeightType>,
}

/// A number of GPUs that the heads of a model cannot be shared out over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{gpus} GPUs cannot share {heads} heads{} evenly: it can be {}", kv_heads.map_or_else(String::new, |heads| format!(" ({heads} of keys and values)")), listed(possible))]
pub struct UnevenHeads {
    /// GPUs that were to share each layer.
    pub gpus: u32,
    /// Heads of queries.
    pub heads: u32,
    /// Heads of keys and values, if there are fewer.
    pub kv_heads: Option<u32>,
    /// The numbers of GPUs that can.
    pub possible: Vec<u32>,
}

/// Numbers in a sentence.
fn listed(numbers: &[u32]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

/// How keys and values are made and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Heads of keys and values, each shared by a group of heads of queries.
    Grouped {
        /// How many.
        kv_heads: u32,
    },
    /// One compressed vector a token for all heads (multi-head latent attention).
    Latent {
        /// Numbers of the compressed query; `None` if queries are not compressed.
        q_rank: Option<u32>,
        /// Numbers of the compressed key and value.
        kv_rank: u32,
        /// Numbers of a key that carry the position, kept beside the compressed ones.
        rope_size: u32,
        /// Numbers a head of values.
        value_size: u32,
    },
}

/// Blocks whose attention looks back a limited way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many tokens far.
    pub tokens: u32,
    /// How many blocks.
    pub layers: u32,
}

/// The experts of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts a block.
    pub count: u32,
    /// Experts that a token goes to.
    pub per_token: u32,
    /// Width of an expert, in numbers.
    pub inner_size: u32,
    /// Width of what all tokens go through beside the experts; 0 for nothing.
    pub shared_inner_size: u32,
    /// Blocks that have experts; the others have a plain feed-forward part.
    pub layers: u32,
}

/// How numbers are stored and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// 2 bytes; fp16 is the same.
    Bf16,
    /// 1 byte, multiplied as such where the GPU can; embedding and head stay bf16.
    Fp8,
    /// Half a byte and scales (AWQ, GPTQ), multiplied as bf16; embedding and head stay bf16.
    Int4,
    /// Half a byte and scales for the experts (for all layers of a model without), multiplied as bf16.
    Mxfp4,
}

impl WeightType {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("bf16", Self::Bf16),
        ("fp16", Self::Bf16),
        ("fp8", Self::Fp8),
        ("int4", Self::Int4),
        ("mxfp4", Self::Mxfp4),
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
            Self::Int4 => "int4",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Bytes of a number in the matrices of a block, and in those of its experts. Four-bit formats have a scale of 8
    /// bits for each 32 numbers (mxfp4), or of 16 for each 128 (int4).
    fn bytes(self, has_experts: bool) -> (f64, f64) {
        match self {
            Self::Bf16 => (2.0, 2.0),
            Self::Fp8 => (1.0, 1.0),
            Self::Int4 => (0.5 + 2.0 / 128.0, 0.5 + 2.0 / 128.0),
            Self::Mxfp4 if has_experts => (2.0, 0.5 + 1.0 / 32.0),
            Self::Mxfp4 => (0.5 + 1.0 / 32.0, 0.5 + 1.0 / 32.0),
        }
    }
}

/// Bytes of a bf16 or fp16 number.
pub(crate) const BF16_BYTES: f64 = 2.0;

impl ModelShape {
    /// The shape of a model by its name on the Hugging Face hub.
    pub fn by_name(name: &str) -> Option<Self> {
        known::shape(name)
    }

    /// The names of all models that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        known::names()
    }

    /// Reads the shape from the text of a Hugging Face `config.json`, or of a JSON object of those of its keys that the
    /// shape needs.
    pub fn from_config(text: &str) -> Result<Self, ModelError> {
        config::read(text)
    }

    /// Parameters of the attention of a block.
    pub fn attention_parameters(&self) -> u64 {
        let (hidden, heads, head) =
            (u64::from(self.hidden_size), u64::from(self.heads), u64::from(self.head_size));
        match self.attention {
            Attention::Grouped { kv_heads } => 2 * hidden * head * (heads + u64::from(kv_heads)),
            Attention::Latent { q_rank, kv_rank, rope_size, value_size } => {
                let (kv_rank, rope, value) =
                    (u64::from(kv_rank), u64::from(rope_size), u64::from(value_size));
                let query = match q_rank.map(u64::from) {
                    Some(rank) => hidden * rank + rank * heads * head,
                    None => hidden * heads * head,
                };
                let compressed = hidden * (kv_rank + rope);
                query + compressed + kv_rank * heads * (head - rope + value) + heads * value * hidden
            }
        }
    }

    /// Parameters of a feed-forward part of that width.
    fn feed_forward(&self, inner_size: u32) -> u64 {
        let matrices = if self.gated { 3 } else { 2 };
        matrices * u64::from(self.hidden_size) * u64::from(inner_size)
    }

    /// Parameters of an expert; 0 without any.
    pub fn expert_parameters(&self) -> u64 {
        self.experts.map_or(0, |experts| self.feed_forward(experts.inner_size))
    }

    /// Parameters of all blocks that every token goes through: attention, plain feed-forward parts, and what stands
    /// beside experts (the choice of experts among it).
    pub fn dense_parameters(&self) -> u64 {
        let layers = u64::from(self.layers);
        let attention = layers * self.attention_parameters();
        let Some(experts) = self.experts else {
            return attention + layers * self.feed_forward(self.inner_size);
        };
        let with = u64::from(experts.layers);
        let choice = u64::from(self.hidden_size) * u64::from(experts.count);
        attention
            + (layers - with) * self.feed_forward(self.inner_size)
            + with * (choice + self.feed_forward(experts.shared_inner_size))
    }

    /// Parameters of all experts of all blocks.
    pub fn all_expert_parameters(&self) -> u64 {
        self.experts.map_or(0, |experts| u64::from(experts.layers * experts.count) * self.expert_parameters())
    }

    /// Parameters of the embedding, or of the head.
    pub fn embedding_parameters(&self) -> u64 {
        u64::from(self.vocabulary) * u64::from(self.hidden_size)
    }

    /// All parameters but those of norms and biases, which are a ten-thousandth.
    pub fn parameters(&self) -> u64 {
        let embeddings = if self.tied_embeddings { 1 } else { 2 };
        embeddings * self.embedding_parameters() + self.dense_parameters() + self.all_expert_parameters()
    }

    /// Bytes of the matrices of all blocks that every token goes through, and of one expert of one block.
    pub(crate) fn block_bytes(&self, weights: WeightType) -> (f64, f64) {
        let (dense, experts) = weights.bytes(self.experts.is_some());
        (self.dense_parameters() as f64 * dense, self.expert_parameters() as f64 * experts)
    }

    /// Bytes of the weights of all blocks.
    pub fn weight_bytes_of_blocks(&self, weights: WeightType) -> f64 {
        let (dense, experts) = weights.bytes(self.experts.is_some());
        self.dense_parameters() as f64 * dense + self.all_expert_parameters() as f64 * experts
    }

    /// Bytes of embedding and head.
    pub fn weight_bytes_of_embeddings(&self) -> f64 {
        let matrices = if self.tied_embeddings { 1.0 } else { 2.0 };
        matrices * self.embedding_parameters() as f64 * BF16_BYTES
    }

    /// Numbers of KV cache that a token takes in a block on each of `gpus` GPUs that share a layer. Heads are not cut:
    /// with more GPUs than heads, several GPUs have the same one; a compressed vector is on all of them.
    pub fn kv_numbers(&self, gpus: u32) -> u32 {
        match self.attention {
            Attention::Grouped { kv_heads } => 2 * kv_heads.div_ceil(gpus.max(1)) * self.head_size,
            Attention::Latent { kv_rank, rope_size, .. } => kv_rank + rope_size,
        }
    }

    /// Whether so many GPUs can share each layer: heads of queries are shared out evenly, and so are those of keys and
    /// values unless there are more GPUs than heads, each of which then lies on as many GPUs as the others.
    ///
    /// # Errors
    /// They cannot, with the numbers that could.
    pub fn check_shared_by(&self, gpus: u32) -> Result<(), UnevenHeads> {
        let fits = |gpus: u32| {
            let of_keys = match self.attention {
                Attention::Grouped { kv_heads } => kv_heads.max(1),
                Attention::Latent { .. } => 1,
            };
            self.heads.is_multiple_of(gpus) && (of_keys.is_multiple_of(gpus) || gpus.is_multiple_of(of_keys))
        };
        if gpus > 0 && fits(gpus) {
            return Ok(());
        }
        let kv_heads = match self.attention {
            Attention::Grouped { kv_heads } if kv_heads != self.heads => Some(kv_heads),
            _ => None,
        };
        Err(UnevenHeads {
            gpus,
            heads: self.heads,
            kv_heads,
            possible: (1..=self.heads).filter(|&gpus| fits(gpus)).collect(),
        })
    }

    /// Bytes of KV cache that a token takes on each of `gpus` GPUs, over all blocks.
    pub fn kv_bytes_per_token(&self, gpus: u32, bytes_per_number: f64) -> f64 {
        f64::from(self.layers) * f64::from(self.kv_numbers(gpus)) * bytes_per_number
    }
}

impl Experts {
    /// Experts of a block on each of `gpus` GPUs, which share them out, that some token of so many goes to, by number of
    /// tokens: `count · (1 − (1 − per_token / count)ⁿ) / gpus`, the mean if tokens choose independently and evenly. The
    /// list ends when nearly all are.
    pub fn activated(&self, gpus: u32) -> Vec<f64> {
        let count = f64::from(self.count);
        let share = f64::from(gpus.max(1));
        let missed = 1.0 - f64::from(self.per_token) / count;
        let mut idle = 1.0;
        let mut activated = vec![0.0];
        // Products, not powers, whose last digit depends on the machine.
        while idle > 1e-6 && activated.len() < 1 << 16 {
            idle *= missed;
            activated.push(count * (1.0 - idle) / share);
        }
        activated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_shared_out_evenly() {
        let can = |name: &str, gpus: u32| ModelShape::by_name(name).unwrap().check_shared_by(gpus).is_ok();
        // 32 heads, 8 of keys and values.
        for gpus in [1, 2, 4, 8, 16, 32] {
            assert!(can("meta-llama/Llama-3.1-8B", gpus), "{gpus}");
        }
        for gpus in [0, 3, 5, 6, 7, 12, 64] {
            assert!(!can("meta-llama/Llama-3.1-8B", gpus), "{gpus}");
        }
        let error = ModelShape::by_name("meta-llama/Llama-3.1-8B").unwrap().check_shared_by(3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 GPUs cannot share 32 heads (8 of keys and values) evenly: it can be 1, 2, 4, 8, 16 or 32"
        );
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
        let model = ModelShape::by_name("meta-llama/Llama-3.1-8B").unwrap();
        assert!((model.kv_bytes_per_token(1, 2.0) - 131_072.0).abs() < 1e-9);
        assert!((model.kv_bytes_per_token(8, 2.0) - 16_384.0).abs() < 1e-9);
        assert!((model.kv_bytes_per_token(16, 2.0) - 16_384.0).abs() < 1e-9);
        let latent = ModelShape::by_name("deepseek-ai/DeepSeek-V3").unwrap();
        assert!((latent.kv_bytes_per_token(8, 2.0) - 61.0 * 576.0 * 2.0).abs() < 1e-9);
    }

    #[test]
    fn four_bits_are_for_experts_where_there_are_any() {
        let model = ModelShape::by_name("openai/gpt-oss-120b").unwrap();
        assert_eq!(model.quantisation, Some(WeightType::Mxfp4));
        let gib = (model.weight_bytes_of_blocks(WeightType::Mxfp4) + model.weight_bytes_of_embeddings())
            / 1024_f64.powi(3);
        // The checkpoint is published with 60.8 GiB.
        assert!((gib - 60.8).abs() < 0.5, "{gib}");
    }
}
