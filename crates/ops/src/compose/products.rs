//! Matrix products of each token, and the head.

use servecast_latency::{Attention, LinearKind, WeightType};

use super::{Part, Workbench};
use crate::grid::Grid;
use crate::library::Found;
use crate::pack::PackError;
use crate::roof::{Roof, Stored};
use crate::setup::EngineName;

/// m × k numbers with k × n weights, in so many blocks.
#[derive(Debug)]
struct Product {
    part: Part,
    count: f64,
    n: f64,
    k: f64,
    stored: Stored,
    /// Measured products over m.
    grid: Option<Grid>,
    roof: Roof,
}

impl Product {
    fn us(&self, m: f64) -> f64 {
        let measured = self.grid.as_ref().and_then(|grid| grid.us(&[m]));
        self.count * measured.unwrap_or_else(|| self.roof.product_us(m, self.n, self.k, self.stored))
    }
}

/// All matrix products of a model but those of experts.
#[derive(Debug)]
pub(super) struct Products {
    of_tokens: Vec<Product>,
    head: Product,
}

impl Products {
    /// All but those of attention `with_attention` is false for.
    pub(super) fn new(bench: &mut Workbench<'_>, with_attention: bool) -> Result<Self, PackError> {
        let mut of_tokens = if with_attention { attention(bench)? } else { Vec::new() };
        of_tokens.extend(linear(bench)?);
        of_tokens.extend(feed_forward(bench)?);
        let model = bench.model();
        let (vocabulary, hidden) = (model.vocabulary, model.hidden_size);
        let shards = bench.shards();
        let head = product(bench, Part::Head, 1, (vocabulary.div_ceil(shards), hidden), WeightType::Bf16)?;
        Ok(Self { of_tokens, head })
    }

    pub(super) fn token_parts_us(&self, tokens: f64) -> Vec<(Part, f64)> {
        self.of_tokens.iter().map(|product| (product.part, product.us(tokens))).collect()
    }

    pub(super) fn head_us(&self, requests: f64) -> f64 {
        self.head.us(requests)
    }
}

/// Queries, keys and values, and what comes out of attention.
fn attention(bench: &mut Workbench<'_>) -> Result<Vec<Product>, PackError> {
    let model = bench.model();
    let shards = bench.shards();
    let (hidden, heads, head) = (model.hidden_size, model.heads.div_ceil(shards), model.head_size);
    let (layers, gate) = (model.attention_layers, model.output_gate);
    let weights = model.stored_as(bench.setup.weights).attention;
    let part = Part::AttentionProducts;
    let shapes = match model.attention {
        Attention::Grouped { kv_heads } => {
            let keys_and_values = 2 * kv_heads.div_ceil(shards) * head;
            vec![(heads * (head + gate) + keys_and_values, hidden), (hidden, heads * head)]
        }
        Attention::Latent { q_rank, kv_rank, rope_size, value_size } => {
            let compressed = kv_rank + rope_size;
            let mut shapes = match q_rank {
                // Both compressions are one product.
                Some(rank) => vec![(rank + compressed, hidden), (heads * head, rank)],
                None => vec![(heads * head, hidden), (compressed, hidden)],
            };
            shapes.push((hidden, heads * value_size));
            shapes
        }
    };
    shapes.into_iter().map(|shape| product(bench, part, layers, shape, weights)).collect()
}

/// What linear attention is made from, and what comes out of it.
fn linear(bench: &mut Workbench<'_>) -> Result<Vec<Product>, PackError> {
    let model = bench.model();
    let Some(linear) = model.linear else { return Ok(Vec::new()) };
    let shards = bench.shards();
    let hidden = model.hidden_size;
    let weights = model.stored_as(bench.setup.weights).attention;
    let keys = linear.key_heads.div_ceil(shards) * linear.key_size;
    let heads = linear.value_heads.div_ceil(shards);
    let values = heads * linear.value_size;
    let inputs = match linear.kind {
        // Queries, keys, values and the gate; two numbers a head besides.
        LinearKind::GatedDelta => 2 * keys + 2 * values + 2 * heads,
        // Both groups of the state, values, the gate, and a step a head.
        LinearKind::Mamba2 => 2 * keys + 2 * values + heads,
    };
    let shapes = [(inputs, hidden), (hidden, values)];
    shapes
        .into_iter()
        .map(|shape| product(bench, Part::AttentionProducts, linear.layers, shape, weights))
        .collect()
}

/// Plain feed-forward parts, experts that all tokens go through, and the choice of the others.
fn feed_forward(bench: &mut Workbench<'_>) -> Result<Vec<Product>, PackError> {
    let model = bench.model();
    let weights = model.stored_as(bench.setup.weights).feed_forward;
    let (hidden, plain) = (model.hidden_size, model.inner_size);
    let experts = model.experts;
    let matrices = if model.gated { 2 } else { 1 };
    let with_experts = experts.map_or(0, |experts| experts.layers);
    let without = model.feed_forward_layers - with_experts;
    let mut products = Vec::new();
    let inner_sizes =
        [(without, plain), (with_experts, experts.map_or(0, |experts| experts.shared_inner_size))];
    for (layers, inner) in inner_sizes {
        if layers > 0 && inner > 0 {
            let inner = inner.div_ceil(bench.shards());
            for shape in [(matrices * inner, hidden), (hidden, inner)] {
                products.push(product(bench, Part::FeedForward, layers, shape, weights)?);
            }
        }
    }
    if let Some(experts) = experts {
        let choice = (experts.count, hidden);
        products.push(product(bench, Part::Experts, experts.layers, choice, WeightType::Bf16)?);
    }
    Ok(products)
}

fn product(
    bench: &mut Workbench<'_>,
    part: Part,
    layers: u32,
    (n, k): (u32, u32),
    weights: WeightType,
) -> Result<Product, PackError> {
    let found = measured(bench, weights)?;
    if let Some(found) = &found {
        bench.origins.measured(part, found.source.clone());
    } else {
        let rule = format!("{} matrix products: the data sheet, for want of a table", weights.name());
        bench.origins.estimated(part, rule);
    }
    let (count, n, k) = (f64::from(layers), f64::from(n), f64::from(k));
    let grid = found.map(|found| found.grid.along(&[n, k]));
    Ok(Product { part, count, n, k, stored: Stored::of(bench.model(), weights), grid, roof: bench.roof })
}

fn measured(bench: &mut Workbench<'_>, weights: WeightType) -> Result<Option<Found<()>>, PackError> {
    let name = weights.name();
    // TensorRT-LLM's own rows of these count the quantisation of activations, which its models do in the norm before.
    let is_padded = matches!(weights, WeightType::Fp8 | WeightType::Nvfp4);
    let engine = match bench.setup.engine {
        EngineName::Trtllm if is_padded => EngineName::Vllm,
        engine => engine,
    };
    bench.library.find_of("gemm", engine, |key| (key.text("dtype") == name).then_some((0.0, ())))
}
