//! How many numbers a model has, and what its KV cache takes.

use super::{Attention, LinearKind, LinearLayers, ModelShape, WeightType};
use crate::model::weights::BF16_BYTES;

/// Bytes of the state that a linear block keeps between tokens, a number.
const STATE_BYTES: f64 = 4.0;
/// Bytes of the index key that sparse attention keeps of a token: fp8, and a scale of 32 bits for each 128 numbers.
const INDEX_SCALE_OF: u32 = 128;

impl ModelShape {
    /// Parameters of the attention of a block that keeps keys and values, its index and gate among them.
    pub fn attention_parameters(&self) -> u64 {
        let (hidden, heads, head) =
            (u64::from(self.hidden_size), u64::from(self.heads), u64::from(self.head_size));
        let gate = hidden * heads * u64::from(self.output_gate);
        match self.attention {
            Attention::Grouped { kv_heads } => 2 * hidden * head * (heads + u64::from(kv_heads)) + gate,
            Attention::Latent { q_rank, kv_rank, rope_size, value_size } => {
                let (kv_rank, rope, value) =
                    (u64::from(kv_rank), u64::from(rope_size), u64::from(value_size));
                let query = match q_rank.map(u64::from) {
                    Some(rank) => hidden * rank + rank * heads * head,
                    None => hidden * heads * head,
                };
                let compressed = hidden * (kv_rank + rope);
                let rest = kv_rank * heads * (head - rope + value) + heads * value * hidden;
                query + compressed + rest + gate + self.index_parameters(q_rank.map_or(hidden, u64::from))
            }
        }
    }

    /// Parameters of the index of a block with sparse attention, whose queries are made from `query_size` numbers.
    fn index_parameters(&self, query_size: u64) -> u64 {
        self.sparse.map_or(0, |index| {
            let (heads, size) = (u64::from(index.heads), u64::from(index.head_size));
            query_size * heads * size + u64::from(self.hidden_size) * (size + heads)
        })
    }

    /// Parameters of the attention of all blocks, of either kind.
    pub fn all_attention_parameters(&self) -> u64 {
        let linear =
            self.linear.map_or(0, |linear| u64::from(linear.layers) * linear.parameters(self.hidden_size));
        u64::from(self.attention_layers) * self.attention_parameters() + linear
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

    /// Blocks with a feed-forward part that is no expert's.
    pub fn plain_layers(&self) -> u32 {
        self.feed_forward_layers - self.experts.map_or(0, |experts| experts.layers)
    }

    /// Parameters of the feed-forward parts that every token goes through: those of blocks without experts, and what
    /// stands beside experts (the choice of experts among it).
    pub fn all_feed_forward_parameters(&self) -> u64 {
        let beside = self.experts.map_or(0, |experts| {
            let choice = u64::from(self.hidden_size) * u64::from(experts.count);
            u64::from(experts.layers) * (choice + self.feed_forward(experts.shared_inner_size))
        });
        u64::from(self.plain_layers()) * self.feed_forward(self.inner_size) + beside
    }

    /// Parameters of all blocks that every token goes through.
    pub fn dense_parameters(&self) -> u64 {
        self.all_attention_parameters() + self.all_feed_forward_parameters()
    }

    /// Parameters of all experts of all blocks.
    pub fn all_expert_parameters(&self) -> u64 {
        self.experts.map_or(0, |experts| {
            u64::from(experts.layers) * u64::from(experts.count) * self.expert_parameters()
        })
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

    /// Parameters that a token goes through, without the embedding, which is only looked up.
    pub fn active_parameters(&self) -> u64 {
        let experts =
            self.experts.map_or(0, |experts| u64::from(experts.layers) * u64::from(experts.per_token));
        self.embedding_parameters() + self.dense_parameters() + experts * self.expert_parameters()
    }

    /// Bytes of the weights of all blocks.
    pub fn weight_bytes_of_blocks(&self, weights: WeightType) -> f64 {
        let stored = self.stored_as(weights);
        self.all_attention_parameters() as f64 * self.bytes_of(stored.attention)
            + self.all_feed_forward_parameters() as f64 * self.bytes_of(stored.feed_forward)
            + self.all_expert_parameters() as f64 * self.bytes_of(stored.experts)
    }

    /// Bytes of the weights of the attention of all blocks, of either kind.
    pub fn weight_bytes_of_attention(&self, weights: WeightType) -> f64 {
        self.all_attention_parameters() as f64 * self.bytes_of(self.stored_as(weights).attention)
    }

    /// All-reduces of a pass where several GPUs share each layer: one after each attention and each feed-forward part.
    pub fn all_reduces(&self) -> u32 {
        let linear = self.linear.map_or(0, |linear| linear.layers);
        self.attention_layers + linear + self.feed_forward_layers
    }

    /// Bytes of embedding and head.
    pub fn weight_bytes_of_embeddings(&self) -> f64 {
        let matrices = if self.tied_embeddings { 1.0 } else { 2.0 };
        matrices * self.embedding_parameters() as f64 * BF16_BYTES
    }

    /// Numbers of KV cache that a token takes in a block with attention on each of `gpus` GPUs that share a layer. Heads
    /// are not cut: with more GPUs than heads, several GPUs have the same one; a compressed vector is on all of them.
    pub fn kv_numbers(&self, gpus: u32) -> u32 {
        match self.attention {
            Attention::Grouped { kv_heads } => 2 * kv_heads.div_ceil(gpus.max(1)) * self.head_size,
            Attention::Latent { kv_rank, rope_size, .. } => kv_rank + rope_size,
        }
    }

    /// Heads of keys and values on each of `gpus` GPUs, the numbers of a head, and whether that is a compressed vector for all
    /// heads.
    pub(crate) fn kv_heads(&self, gpus: u32) -> (u32, u32, bool) {
        match self.attention {
            Attention::Grouped { kv_heads } => (kv_heads.div_ceil(gpus.max(1)), self.head_size, false),
            Attention::Latent { kv_rank, rope_size, .. } => (1, kv_rank + rope_size, true),
        }
    }

    /// Bytes of KV cache that a token takes in a block with attention on each of `gpus` GPUs, without the key of an index.
    ///
    /// Kernels of sparse attention read 8-bit vectors with the part that carries the position in 16 bits, and a scale of
    /// 32 bits for each 128 numbers: 656 bytes of 576 numbers.
    pub fn kv_bytes_of_block(&self, gpus: u32, bytes_per_number: f64) -> f64 {
        match self.attention {
            Attention::Latent { kv_rank, rope_size, .. }
                if self.sparse.is_some() && bytes_per_number < BF16_BYTES =>
            {
                let (rank, rope) = (f64::from(kv_rank), f64::from(rope_size));
                rank * (bytes_per_number + 4.0 / f64::from(INDEX_SCALE_OF)) + rope * BF16_BYTES
            }
            _ => f64::from(self.kv_numbers(gpus)) * bytes_per_number,
        }
    }

    /// Bytes that the index of sparse attention keeps of a token in a block, on each GPU.
    pub fn index_bytes_of_block(&self) -> f64 {
        self.sparse.map_or(0.0, |index| {
            let scales = index.head_size.div_ceil(INDEX_SCALE_OF);
            f64::from(index.head_size) + 4.0 * f64::from(scales)
        })
    }

    /// Bytes of KV cache that a token takes on each of `gpus` GPUs, over all blocks. Blocks with linear attention keep
    /// nothing of a token.
    pub fn kv_bytes_per_token(&self, gpus: u32, bytes_per_number: f64) -> f64 {
        let block = self.kv_bytes_of_block(gpus, bytes_per_number) + self.index_bytes_of_block();
        f64::from(self.attention_layers) * block
    }

    /// Blocks that keep all tokens of a sequence: those with attention but without a window, unless all have one.
    pub fn layers_that_keep_all(&self) -> u32 {
        let windowed = self.window.map_or(0, |window| window.layers);
        if windowed < self.attention_layers {
            self.attention_layers - windowed
        } else {
            self.attention_layers
        }
    }

    /// Bytes that blocks with a window keep of a sequence that is longer than it, on each of `gpus` GPUs, where others
    /// keep all of it.
    pub fn window_bytes_per_sequence(&self, gpus: u32, bytes_per_number: f64) -> f64 {
        let window = self.window.filter(|window| window.layers < self.attention_layers);
        window.map_or(0.0, |window| {
            f64::from(window.layers)
                * f64::from(window.tokens)
                * self.kv_bytes_of_block(gpus, bytes_per_number)
        })
    }

    /// Bytes that linear blocks keep of a sequence, however long it is, on each of `gpus` GPUs.
    pub fn state_bytes_per_sequence(&self, gpus: u32) -> f64 {
        self.linear
            .map_or(0.0, |linear| f64::from(linear.layers) * linear.state_bytes() / f64::from(gpus.max(1)))
    }
}

impl LinearLayers {
    /// Numbers of all keys (or queries), and of all values of a token.
    fn widths(self) -> (u64, u64) {
        let keys = u64::from(self.key_heads) * u64::from(self.key_size);
        (keys, u64::from(self.value_heads) * u64::from(self.value_size))
    }

    /// Parameters of a block in a model of that width.
    fn parameters(self, hidden_size: u32) -> u64 {
        let (keys, values) = self.widths();
        // Queries, keys, values and their gate come in, with a decay (and, for a delta rule, a rate) for each head.
        let rates = match self.kind {
            LinearKind::GatedDelta => 2,
            LinearKind::Mamba2 => 1,
        };
        let width = 2 * keys + 2 * values + rates * u64::from(self.value_heads);
        let convolution = (2 * keys + values) * u64::from(self.convolution);
        u64::from(hidden_size) * (width + values) + convolution
    }

    /// Bytes of the state of a sequence in a block while it is computed: a matrix for each head, in 32 bits, and the last
    /// inputs of the convolution, in 16.
    fn state_bytes(self) -> f64 {
        let (matrices, inputs) = self.state_numbers();
        matrices as f64 * STATE_BYTES + inputs as f64 * BF16_BYTES
    }

    /// Bytes of the same on each of `gpus` GPUs as an engine keeps it between passes.
    pub(crate) fn cached_bytes(self, gpus: u32) -> u64 {
        let (matrices, inputs) = self.state_numbers();
        let gpus = u64::from(gpus.max(1));
        matrices.div_ceil(gpus) * u64::from(self.cached_number_bytes)
            + inputs.div_ceil(gpus) * BF16_BYTES as u64
    }

    /// Numbers of the state of a sequence in a block: of its matrices, and of the inputs of its convolution.
    fn state_numbers(self) -> (u64, u64) {
        let (keys, values) = self.widths();
        let matrices = u64::from(self.value_heads) * u64::from(self.key_size) * u64::from(self.value_size);
        (matrices, u64::from(self.convolution.saturating_sub(1)) * (2 * keys + values))
    }
}
