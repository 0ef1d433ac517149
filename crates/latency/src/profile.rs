//! Iteration times from the measured times of a model's layers.

use std::collections::BTreeMap;

use self::attention::Attention;
use self::skew::Skew;
use self::table::Curve;
use crate::{Batch, LatencyModel, PassTime};

mod attention;
mod error;
mod shape;
mod skew;
mod table;
#[cfg(test)]
mod tests;

pub use error::ProfileError;
pub use shape::{AllReduce, ModelShape};

const DENSE: &str = "dense.csv";
const PER_SEQUENCE: &str = "per_sequence.csv";
/// Layers that run once a pass, by tokens.
const ONCE: [&str; 2] = ["embedding", "final_layernorm"];
/// Layers of every block, by tokens, and how often they run in it.
const BLOCK: [(&str, f64); 7] = [
    ("layernorm", 2.0),
    ("qkv_proj", 1.0),
    ("rotary_emb", 1.0),
    ("o_proj", 1.0),
    ("gate_up_proj", 1.0),
    ("act_fn", 1.0),
    ("down_proj", 1.0),
];
const QK_NORM: &str = "qk_norm";
/// Layers that run once a pass, by sequences.
const HEAD: [&str; 2] = ["lm_head", "sampler"];
/// The longest axes that are stored point by point.
const MOST_POINTS: f64 = (1 << 20) as f64;

/// Which passes pay for uneven contexts of their decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SkewUse {
    /// Those with prompts and decodes.
    #[default]
    Mixed,
    /// Those of decodes alone as well.
    All,
    /// None.
    Nowhere,
}

/// The content of the files of a profile folder.
#[derive(Debug, Clone, Copy)]
pub struct ProfileTables<'a> {
    /// `layer,tokens,time_us`.
    pub dense: &'a str,
    /// `layer,sequences,time_us`.
    pub per_sequence: &'a str,
    /// `prefill_chunk,kv_prefill,n_decode,kv_decode,time_us`.
    pub attention: &'a str,
    /// `pc,n,kv_mean,kv_big,t_mean_us,t_max_us,t_skew_us` and more; without it, uneven contexts cost what even ones do.
    pub skew: Option<&'a str>,
}

/// A pass as the sum of its layers, each measured on the GPU, with prompts and decodes in one pass.
///
/// Layers that work token by token are looked up by tokens, those of the head by sequences, attention by prompt tokens,
/// the KV before them, requests that decode and their contexts. Several prompts count as one with as many query-key
/// pairs. Uneven contexts of decodes
/// cost more than even ones by the measured skew, in the passes that [`SkewUse`] names.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    layers: f64,
    /// µs of everything that goes by tokens, all-reduces included, by tokens.
    by_tokens: Vec<f64>,
    /// µs of the head by sequences.
    by_sequences: Vec<f64>,
    attention: Attention,
    skew: Skew,
    skew_use: SkewUse,
}

impl Profile {
    /// Makes a model of measured times; `all_reduce` follows attention and the feed-forward part of every block.
    pub fn new(
        tables: &ProfileTables<'_>,
        shape: ModelShape,
        all_reduce: Option<AllReduce>,
        bytes_per_number: f64,
    ) -> Result<Self, ProfileError> {
        let layers = f64::from(shape.layers);
        let dense = curves(DENSE, tables.dense, "tokens")?;
        let mut parts: Vec<(&'static str, f64)> = ONCE.map(|name| (name, 1.0)).to_vec();
        parts.extend(BLOCK.map(|(name, times)| (name, times * layers)));
        if shape.qk_norm || dense.contains_key(QK_NORM) {
            parts.push((QK_NORM, layers));
        }
        let mut by_tokens = summed(DENSE, &dense, &parts)?;
        if let Some(all_reduce) = all_reduce {
            let bytes_per_token = f64::from(shape.hidden_size) * bytes_per_number;
            for (tokens, us) in by_tokens.iter_mut().enumerate().skip(1) {
                *us += 2.0 * layers * all_reduce.time_us(tokens as f64 * bytes_per_token);
            }
        }
        let head = curves(PER_SEQUENCE, tables.per_sequence, "sequences")?;
        let by_sequences = summed(PER_SEQUENCE, &head, &HEAD.map(|name| (name, 1.0)))?;
        let skew = tables.skew.map(Skew::read).transpose()?.unwrap_or_default();
        let attention = Attention::read(tables.attention)?;
        Ok(Self { layers, by_tokens, by_sequences, attention, skew, skew_use: SkewUse::default() })
    }

    /// The same with uneven contexts priced in other passes.
    #[must_use]
    pub fn with_skew(self, skew_use: SkewUse) -> Self {
        Self { skew_use, ..self }
    }

    fn attention_us(&self, batch: &Batch) -> f64 {
        let [chunk, before, n, mean] = attention_point(batch);
        let at_mean = self.attention.us([chunk, before.max(0.0), n, mean]);
        let longest = batch.steps.longest_context_tokens as f64;
        let is_priced = match self.skew_use {
            SkewUse::Mixed => chunk > 0.0,
            SkewUse::All => true,
            SkewUse::Nowhere => false,
        };
        let us = if is_priced && n > 0.0 && longest > mean {
            let variance = batch.steps.squared_context_tokens as f64 / n - mean * mean;
            let alpha = self.skew.alpha(chunk, n, long_share(mean, longest, variance));
            let at_longest = self.attention.us([chunk, before.max(0.0), n, longest]);
            at_mean + alpha * (at_longest - at_mean).max(0.0)
        } else {
            at_mean
        };
        if before >= 0.0 {
            return us;
        }
        // Several prompts have fewer pairs than one of their length: less by what as many more would cost.
        let more = self.attention.us([chunk, -before, n, mean]) - at_mean;
        (us - more.max(0.0)).max(us / 2.0)
    }
}

impl LatencyModel for Profile {
    fn pass(&self, batch: &Batch) -> PassTime {
        if batch.requests == 0 {
            return PassTime::default();
        }
        let us = at(&self.by_tokens, batch.tokens)
            + at(&self.by_sequences, batch.requests)
            + self.layers * self.attention_us(batch);
        PassTime::whole(batch, us / 1000.0)
    }

    fn extrapolates(&self, batch: &Batch) -> bool {
        let [chunk, before, n, mean] = attention_point(batch);
        batch.tokens >= self.by_tokens.len() as u64
            || batch.requests >= self.by_sequences.len() as u64
            || self.attention.is_outside([chunk, before.max(0.0), n, mean])
    }
}

/// Prompt tokens, the KV before them, requests that decode and their mean context.
///
/// All requests with more than one new token count as one whose attention covers as many pairs; the KV before it is
/// negative if it would cover more even without any.
fn attention_point(batch: &Batch) -> attention::Point {
    let steps = batch.steps;
    let chunk = (batch.tokens - steps.requests) as f64;
    let pairs = (batch.attention_pairs - steps.context_tokens) as f64;
    let before = if chunk > 0.0 { pairs / chunk - f64::midpoint(chunk, 1.0) } else { 0.0 };
    let n = steps.requests as f64;
    [chunk, before, n, steps.context_tokens as f64 / n.max(1.0)]
}

/// The share of long contexts among two lengths that have this mean, this maximum and this variance: how contexts are
/// laid out where unevenness is measured.
fn long_share(mean: f64, longest: f64, variance: f64) -> f64 {
    let above = longest - mean;
    if above <= 0.0 {
        return 1.0;
    }
    let q = variance.max(0.0) / (above * above);
    q / (1.0 + q)
}

/// The value at an index, beyond the last one in proportion.
fn at(values: &[f64], index: u64) -> f64 {
    let last = values.len() - 1;
    match values.get(index as usize) {
        Some(value) => *value,
        None => values[last] * index as f64 / last as f64,
    }
}

/// The measured curves of a file by layer.
fn curves(
    file: &'static str,
    text: &str,
    axis: &'static str,
) -> Result<BTreeMap<String, Curve>, ProfileError> {
    let mut curves = BTreeMap::<String, Curve>::new();
    for row in table::read(file, text, true, &[axis, "time_us"])?.rows {
        if row.values[0] < 1.0 || row.values[0] > MOST_POINTS {
            return Err(ProfileError::Value {
                file,
                line: row.line,
                column: axis.to_owned(),
                found: row.values[0].to_string(),
                expected: "from 1 to 1048576",
            });
        }
        curves.entry(row.layer.clone()).or_default().add(file, &row)?;
    }
    Ok(curves)
}

/// Σ of the parts at every whole number up to the last one at which all were measured, with index 0 for nothing.
fn summed(
    file: &'static str,
    curves: &BTreeMap<String, Curve>,
    parts: &[(&'static str, f64)],
) -> Result<Vec<f64>, ProfileError> {
    let expected = || parts.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if let Some(layer) = curves.keys().find(|layer| parts.iter().all(|(name, _)| name != layer)) {
        return Err(ProfileError::UnknownLayer { file, layer: layer.clone(), expected: expected() });
    }
    let mut chosen = Vec::new();
    for &(layer, times) in parts {
        let curve = curves.get(layer).ok_or(ProfileError::MissingLayer { file, layer })?;
        chosen.push((curve, times));
    }
    let last = chosen.iter().map(|(curve, _)| curve.last()).fold(f64::INFINITY, f64::min) as u64;
    let sum = |x: u64| chosen.iter().map(|(curve, times)| times * curve.at(x as f64)).sum();
    Ok(std::iter::once(0.0).chain((1..=last).map(sum)).collect())
}
