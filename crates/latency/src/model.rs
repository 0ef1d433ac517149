//! What a model is made of: how many numbers it has, which of them a token touches, and what its KV takes.

mod config;
mod context;
mod count;
mod known;
mod mtp;
mod names;
mod share;
mod weights;

pub use config::ModelError;
pub use share::{UnevenExperts, UnevenHeads};
pub(crate) use weights::BF16_BYTES;
pub use weights::{FourBit, StoredAs, WeightType};

use crate::kv_plan::KvKind;

/// The shape of a transformer, or of a hybrid of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Blocks.
    pub layers: u32,
    /// Blocks with attention that keeps keys and values of each token: all of them in a plain transformer.
    pub attention_layers: u32,
    /// Blocks with linear attention, if the model has any.
    pub linear: Option<LinearLayers>,
    /// Blocks with a feed-forward part, experts or not: all of them unless a block is either that or attention.
    pub feed_forward_layers: u32,
    /// Width of the residual stream, in numbers.
    pub hidden_size: u32,
    /// Heads of queries.
    pub heads: u32,
    /// Numbers a head of queries and keys.
    pub head_size: u32,
    /// How keys and values are made and kept.
    pub attention: Attention,
    /// What chooses the tokens that are attended to, where that is not all of them.
    pub sparse: Option<SparseIndex>,
    /// Numbers a head of a gate on what attention gives: as many as a head has, 1 for the whole head, 0 for no gate.
    pub output_gate: u32,
    /// Width of the feed-forward part of a block without experts, in numbers.
    pub inner_size: u32,
    /// Whether the feed-forward part has a gate, and with it three matrices instead of two.
    pub gated: bool,
    /// Tokens that the model knows.
    pub vocabulary: u32,
    /// Tokens of a sequence that the model is published for (`max_position_embeddings`), where that is known.
    pub context: Option<u32>,
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
    /// Whether the publisher of the model stores fp8 with scales for blocks.
    pub block_fp8: bool,
    /// What is stored in four bits where the weights are.
    pub four_bit: FourBit,
    /// Numbers that have a scale in common where weights are int4.
    pub int4_group: u32,
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
    /// Whether that is no further than the last multiple of so many tokens (chunked local attention), rather than the last
    /// so many.
    pub chunked: bool,
    /// Whether the first block looks back all the way.
    pub after_full: bool,
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

/// What chooses the tokens that a query attends to (DeepSeek's sparse attention): each query is compared with an index key
/// of all tokens before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseIndex {
    /// Heads of the index.
    pub heads: u32,
    /// Numbers a head.
    pub head_size: u32,
    /// Tokens that are attended to at most.
    pub top_k: u32,
}

/// Blocks with linear attention, which keep a state of a sequence instead of keys and values of each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearLayers {
    /// How many blocks.
    pub layers: u32,
    /// Of which kind.
    pub kind: LinearKind,
    /// Heads of keys; of Mamba 2 its groups.
    pub key_heads: u32,
    /// Numbers a head of keys; of Mamba 2 the size of its state.
    pub key_size: u32,
    /// Heads of values.
    pub value_heads: u32,
    /// Numbers a head of values.
    pub value_size: u32,
    /// Tokens that the convolution before it sees.
    pub convolution: u32,
    /// Bytes of a number of the state where an engine keeps it between passes.
    pub cached_number_bytes: u32,
}

/// Kinds of linear attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearKind {
    /// A gated delta rule (Qwen3-Next, Qwen3.5).
    GatedDelta,
    /// Mamba 2 (Nemotron).
    Mamba2,
}

impl ModelShape {
    /// The shape of a model by its name on the Hugging Face hub.
    pub fn by_name(name: &str) -> Option<Self> {
        names::shape(name)
    }

    /// The name of the known model that is meant by `name`, if one is near enough to be.
    pub fn suggestion(name: &str) -> Option<&'static str> {
        names::suggestion(name)
    }

    /// The names of all models that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        names::names()
    }

    /// Reads the shape from the text of a Hugging Face `config.json`, or of a JSON object of those of its keys that the
    /// shape needs.
    pub fn from_config(text: &str) -> Result<Self, ModelError> {
        config::read(text)
    }
}

impl Window {
    /// What a block with it keeps of a sequence.
    pub fn kv_kind(self) -> KvKind {
        if self.chunked { KvKind::ChunkedLocal(self.tokens) } else { KvKind::SlidingWindow(self.tokens) }
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
mod tests;
