//! Attention that keeps keys and values of each token.

use servecast_latency::Attention;

use super::{Part, Split, Workbench};
use crate::grid::Grid;
use crate::library::{Found, Key};
use crate::pack::PackError;
use crate::roof::Roof;
use crate::setup::AttentionKernels;

/// Blocks with the same attention.
#[derive(Debug)]
pub(super) struct AttentionPart {
    layers: f64,
    decode: Kernel,
    prompt: Kernel,
    /// Products with the compressed keys and values, which latent attention does for decodes.
    absorbed: Vec<Scaled>,
    /// What makes keys and values of prompts from their compressed form: a product, over its tokens.
    expanded: Option<Grid>,
    /// Whether the kernels have the matrix products of their blocks in them.
    pub(super) has_products: bool,
    work: Work,
    roof: Roof,
    /// How the decode kernel shares sequences out, if that is known.
    pub(super) split: Option<Split>,
}

/// A measured kernel, or none.
type Kernel = Option<Scaled>;

/// A table that is of another number of heads.
#[derive(Debug)]
struct Scaled {
    grid: Grid,
    /// Heads over those of the table.
    ratio: f64,
}

impl Scaled {
    /// For prompts without a context, by what there are for axes.
    fn prompt_us(&self, requests: f64, length: f64) -> Option<f64> {
        if self.grid.dimensions() == 3 {
            self.us(&[requests, 0.0, length])
        } else {
            self.us(&[requests, length])
        }
    }

    fn us(&self, point: &[f64]) -> Option<f64> {
        self.grid.us(point).map(|us| us * self.ratio)
    }
}

/// What attention computes and reads in a block.
#[derive(Debug, Clone, Copy)]
struct Work {
    /// Operations a query-key pair of a prompt, and a token that a decode attends to.
    pair_flop: [f64; 2],
    /// Bytes of KV a token.
    token_bytes: f64,
    /// Tokens that are attended to at most.
    window: f64,
}

impl AttentionPart {
    pub(super) fn decode_us(&self, requests: f64, context: f64) -> f64 {
        let measured = self.decode.as_ref().and_then(|kernel| kernel.us(&[requests, context]));
        let kernel = measured.unwrap_or_else(|| {
            let tokens = requests * context.min(self.work.window);
            self.roof.attention_us(tokens * self.work.pair_flop[1], tokens * self.work.token_bytes)
        });
        let absorbed: f64 = self.absorbed.iter().filter_map(|product| product.us(&[requests])).sum();
        self.layers * (kernel + absorbed)
    }

    pub(super) fn prompt_us(&self, requests: f64, length: f64) -> f64 {
        let measured = self.prompt.as_ref().and_then(|kernel| kernel.prompt_us(requests, length));
        let kernel = measured.unwrap_or_else(|| {
            let seen = (length / 2.0).min(self.work.window);
            let pairs = requests * length * seen;
            self.roof.attention_us(pairs * self.work.pair_flop[0], requests * length * self.work.token_bytes)
        });
        let expanded = self.expanded.as_ref().and_then(|grid| grid.us(&[requests * length]));
        self.layers * (kernel + expanded.unwrap_or(0.0))
    }
}

/// The kinds of attention of a model: with a window and without.
pub(super) fn parts(bench: &mut Workbench<'_>) -> Result<Vec<AttentionPart>, PackError> {
    let model = bench.model();
    let windowed = model.window.map_or((0, 0), |window| (window.layers, window.tokens));
    let whole = model.attention_layers - windowed.0;
    let kinds = [(whole, 0), windowed];
    if model.sparse.is_some()
        && let Some(part) = of_chosen_tokens(bench)?
    {
        return Ok(vec![part]);
    }
    let model = bench.model();
    let latent = matches!(model.attention, Attention::Latent { .. });
    let kinds = kinds.into_iter().filter(|(layers, _)| *layers > 0);
    kinds
        .map(
            |(layers, window)| {
                if latent { of_latent(bench, layers) } else { of_heads(bench, layers, window) }
            },
        )
        .collect()
}

fn kv_name(bench: &Workbench<'_>) -> &'static str {
    if bench.setup.kv_bytes < 1.5 { "fp8" } else { "bf16" }
}

/// Heads of keys and values, each for a group of queries.
fn of_heads(bench: &mut Workbench<'_>, layers: u32, window: u32) -> Result<AttentionPart, PackError> {
    let model = bench.model();
    let shards = bench.shards();
    let Attention::Grouped { kv_heads } = model.attention else {
        unreachable!("of heads of keys and values")
    };
    let (heads, kv_heads) = (model.heads.div_ceil(shards), kv_heads.div_ceil(shards));
    let head_size = model.head_size;
    let flop = 4.0 * f64::from(heads * head_size);
    let work = Work {
        pair_flop: [flop, flop],
        token_bytes: f64::from(2 * kv_heads * head_size) * bench.setup.kv_bytes,
        window: if window == 0 { f64::INFINITY } else { f64::from(window) },
    };
    let wanted = Heads { queries: heads, keys: kv_heads, head_size, window, kv_dtype: kv_name(bench) };
    let decode = kernel(bench, Part::DecodeAttention, "decode_attention", &wanted)?;
    let prompt = kernel(bench, Part::PromptAttention, "context_attention", &wanted)?;
    let (layers, is_own) = (f64::from(layers), bench.setup.attention == AttentionKernels::FlashInfer);
    let split = match &decode {
        Some(decode) if is_own && window == 0 => {
            Split::of(&bench.setup.gpu, kv_heads, |n, context| decode.us(&[n, context]))
        }
        _ => None,
    };
    Ok(AttentionPart {
        layers,
        decode,
        prompt,
        absorbed: Vec::new(),
        expanded: None,
        has_products: false,
        work,
        roof: bench.roof,
        split: split.map(|split| split.of_layers(layers)),
    })
}

/// Heads on one GPU.
#[derive(Debug)]
struct Heads {
    queries: u32,
    keys: u32,
    head_size: u32,
    window: u32,
    kv_dtype: &'static str,
}

impl Heads {
    /// How far a measured kernel is from this one: 0 if it is the same.
    fn far_from(&self, key: Key<'_>) -> Option<(f64, u32)> {
        let (heads, kv_heads) = (key.number("heads"), key.number("kv_heads"));
        if key.number("head_dim") != self.head_size || heads == 0 || kv_heads == 0 {
            return None;
        }
        let unlike = |one: u32, other: u32| (f64::from(one) / f64::from(other)).ln().abs();
        let window = match (key.number("window"), self.window) {
            (measured, wanted) if measured == wanted => 0.0,
            (0, _) | (_, 0) => 20.0,
            (measured, wanted) => 5.0 * unlike(measured, wanted),
        };
        let precision = if key.text("kv_dtype") == self.kv_dtype { 0.0 } else { 10.0 };
        let group = 2.0 * unlike(heads * self.keys, kv_heads * self.queries);
        Some((unlike(heads, self.queries) + group + window + precision, heads))
    }

    fn name(&self) -> String {
        let window = if self.window == 0 { String::new() } else { format!(", window {}", self.window) };
        format!("{} heads, {} of keys, of {}{window}", self.queries, self.keys, self.head_size)
    }
}

fn kernel(bench: &mut Workbench<'_>, part: Part, op: &str, wanted: &Heads) -> Result<Kernel, PackError> {
    let mut find = |op: &str| {
        bench.library.find(op, |key| {
            let (far, heads) = wanted.far_from(key)?;
            Some((far, (far, heads)))
        })
    };
    let own = match bench.setup.attention {
        AttentionKernels::Usual => None,
        AttentionKernels::FlashInfer => find(&format!("{op}_flashinfer"))?,
    };
    let stands_in = bench.setup.attention == AttentionKernels::FlashInfer && own.is_none();
    let found = match own {
        Some(own) => Some(own),
        None => find(op)?,
    };
    let Some(Found { grid, key: (far, heads), source }) = found else {
        bench.origins.estimated(part, format!("{}: the data sheet, for want of a table", wanted.name()));
        return Ok(None);
    };
    if far > 0.0 {
        bench
            .origins
            .estimated(part, format!("{source}, carried over from {heads} heads to {}", wanted.name()));
    } else if stands_in {
        bench.origins.estimated(part, format!("{source}, for want of one of FlashInfer's own kernel"));
    } else {
        bench.origins.measured(part, source);
    }
    Ok(Some(Scaled { grid, ratio: f64::from(wanted.queries) / f64::from(heads) }))
}

/// One compressed vector a token for all heads: decodes work on it, prompts expand it.
fn of_latent(bench: &mut Workbench<'_>, layers: u32) -> Result<AttentionPart, PackError> {
    let model = bench.model();
    let Attention::Latent { kv_rank, rope_size, value_size, .. } = model.attention else {
        unreachable!("of latent attention")
    };
    let heads = model.heads.div_ceil(bench.shards());
    let key_size = model.head_size;
    let weights = model.stored_as(bench.setup.weights).attention;
    let work = Work {
        pair_flop: [
            2.0 * f64::from(heads * (key_size + value_size)),
            2.0 * f64::from(heads * (2 * kv_rank + rope_size)),
        ],
        token_bytes: f64::from(kv_rank + rope_size) * bench.setup.kv_bytes,
        window: f64::INFINITY,
    };
    let decode = latent_kernel(bench, Part::DecodeAttention, "decode_mla", heads)?;
    let prompt = latent_kernel(bench, Part::PromptAttention, "context_mla", heads)?;
    let mut absorbed = Vec::new();
    for name in ["mla_gen_pre", "mla_gen_post"] {
        let found = bench.library.find("mla_bmm", |key| {
            let measured = key.number("heads");
            let fits = key.text("part") == name && measured > 0 && key.text("dtype") == "bf16";
            fits.then(|| ((f64::from(measured) / f64::from(heads)).ln().abs(), measured))
        })?;
        if let Some(Found { grid, key, source }) = found {
            bench.origins.measured(Part::DecodeAttention, source);
            absorbed.push(Scaled { grid, ratio: f64::from(heads) / f64::from(key) });
        }
    }
    // Keys without their position, and values, from the compressed vector.
    let shape = [f64::from(heads * (key_size - rope_size + value_size)), f64::from(kv_rank)];
    let expanded = bench
        .library
        .find("gemm", |key| (key.text("dtype") == weights.name()).then_some((0.0, ())))?
        .map(|found| found.grid.along(&shape));
    Ok(AttentionPart {
        layers: f64::from(layers),
        decode,
        prompt,
        absorbed,
        expanded,
        has_products: false,
        work,
        roof: bench.roof,
        split: None,
    })
}

fn latent_kernel(bench: &mut Workbench<'_>, part: Part, op: &str, heads: u32) -> Result<Kernel, PackError> {
    let kv = kv_name(bench);
    let found = bench.library.find(op, |key| {
        let measured = key.number("heads");
        let precision = if key.text("kv_dtype") == kv { 0.0 } else { 10.0 };
        (measured > 0).then(|| {
            let far = (f64::from(measured) / f64::from(heads)).ln().abs() + precision;
            (far, (far, measured))
        })
    })?;
    let Some(Found { grid, key: (far, measured), source }) = found else {
        bench.origins.estimated(
            part,
            format!("latent attention of {heads} heads: the data sheet, for want of a table"),
        );
        return Ok(None);
    };
    if far > 0.0 {
        bench.origins.estimated(part, format!("{source}, carried over from {measured} heads to {heads}"));
    } else {
        bench.origins.measured(part, source);
    }
    Ok(Some(Scaled { grid, ratio: f64::from(heads) / f64::from(measured) }))
}

/// Latent attention to tokens that an index chooses, which is measured with all that is in its block.
fn of_chosen_tokens(bench: &mut Workbench<'_>) -> Result<Option<AttentionPart>, PackError> {
    let model = bench.model();
    let Attention::Latent { kv_rank, rope_size, .. } = model.attention else { return Ok(None) };
    let (hidden, layers) = (model.hidden_size, model.attention_layers);
    let heads = model.heads.div_ceil(bench.shards());
    let weights = model.stored_as(bench.setup.weights).attention.name();
    let kv = kv_name(bench);
    let mut find = |part: Part, op: &str| {
        let found = bench.library.find(op, |key| {
            let measured = key.number("heads");
            // Tables are of DeepSeek-V3.2 and GLM-5, which differ in their width.
            let of = match key.text("model") {
                "DeepSeek-V3.2" => 7168,
                "GLM-5" => 6144,
                _ => return None,
            };
            let fits = of == hidden && key.text("indexer") == "full" && measured > 0;
            let precision = if key.text("kv_dtype") == kv { 0.0 } else { 10.0 };
            let stored = if key.text("dtype") == weights { 0.0 } else { 5.0 };
            fits.then(|| {
                let far = (f64::from(measured) / f64::from(heads)).ln().abs() + precision + stored;
                (far, (far, measured))
            })
        })?;
        let Some(Found { grid, key: (far, measured), source }) = found else { return Ok(None) };
        if far > 0.0 {
            let rule =
                format!("{source}, carried over from {measured} heads to {heads}, or from another precision");
            bench.origins.estimated(part, rule);
        } else {
            bench.origins.measured(part, source);
        }
        Ok(Some(Scaled { grid, ratio: f64::from(heads) / f64::from(measured) }))
    };
    let decode = find(Part::DecodeAttention, "dsa_decode")?;
    let prompt = find(Part::PromptAttention, "dsa_context")?;
    if decode.is_none() || prompt.is_none() {
        return Ok(None);
    }
    let work = Work {
        pair_flop: [0.0; 2],
        token_bytes: f64::from(kv_rank + rope_size) * bench.setup.kv_bytes,
        window: f64::INFINITY,
    };
    Ok(Some(AttentionPart {
        layers: f64::from(layers),
        decode,
        prompt,
        absorbed: Vec::new(),
        expanded: None,
        has_products: true,
        work,
        roof: bench.roof,
        split: None,
    }))
}
