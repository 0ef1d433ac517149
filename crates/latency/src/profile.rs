//! Iteration times from the measured times of a model's layers.

use std::collections::BTreeMap;

use self::attention::Attention;
use self::experts::ExpertTimes;
use self::skew::Skew;
use crate::{
    AllReduce, Batch, ErrorBar, Experts, Host, LatencyModel, ModelShape, PassTime, StepWork, one_by_one,
};

mod attention;
mod error;
mod experts;
mod skew;
mod table;
#[cfg(test)]
mod tests;

pub use error::ProfileError;
pub(crate) use table::{Curve, read as read_table};

const DENSE: &str = "dense.csv";
const PER_SEQUENCE: &str = "per_sequence.csv";
/// Layers that run once a pass, by tokens.
const ONCE: [&str; 2] = ["embedding", "final_layernorm"];
const NORM: &str = "layernorm";
/// Layers of the attention of every block, by tokens.
const BLOCK: [&str; 3] = ["qkv_proj", "rotary_emb", "o_proj"];
/// Layers of every block without experts, by tokens.
const FEED_FORWARD: [&str; 3] = ["gate_up_proj", "act_fn", "down_proj"];
const QK_NORM: &str = "qk_norm";
/// Layers that run once a pass, by sequences.
const HEAD: [&str; 2] = ["lm_head", "sampler"];
/// The longest axes that are stored point by point.
const MOST_POINTS: f64 = (1 << 20) as f64;

/// Which passes pay for uneven contexts of their decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SkewUse {
    /// Those with prompts and decodes.
    Mixed,
    /// Those of decodes alone as well.
    All,
    /// None.
    #[default]
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
    /// `tokens,activated_experts,time_us`, with a column `ep` where several groups of GPUs were measured: choosing experts
    /// and running them, in a block. A model with experts needs it.
    pub experts: Option<&'a str>,
    /// `pc,n,kv_mean,kv_big,t_mean_us,t_max_us,t_skew_us` and more; without it, uneven contexts cost what even ones do.
    pub skew: Option<&'a str>,
}

/// How often layers of `dense.csv` run in a pass, by name, for models that have others than a llama.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layers {
    /// Times in each block.
    pub block: BTreeMap<String, f64>,
    /// Times in the pass.
    pub pass: BTreeMap<String, f64>,
}

/// What has to be known of a profile beside its tables.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileSetup {
    /// The model.
    pub shape: ModelShape,
    /// What follows attention and the feed-forward part of every block.
    pub all_reduce: Option<AllReduce>,
    /// Bytes of a number that is exchanged.
    pub bytes_per_number: f64,
    /// GPUs that share out the experts of a block.
    pub expert_parallel_size: u32,
    /// Data-parallel ranks of the attention; 1 without.
    pub ranks: u32,
    /// With several ranks: an all-reduce over the GPUs that share out the experts, which takes as long as gathering the tokens
    /// of all ranks before the experts of a block and giving each rank its own back behind them.
    pub exchange: Option<AllReduce>,
    /// The layers of a pass, if not those of a llama with what the shape says.
    pub layers: Option<Layers>,
}

/// A pass as the sum of its layers, each measured on the GPU, with prompts and decodes in one pass.
///
/// Layers that work token by token are looked up by tokens, those of the head by sequences, experts by tokens and how many
/// of them some token goes to, attention by prompt tokens, the KV before them, requests that decode and their contexts.
/// Several prompts count as one with as many query-key pairs. Uneven contexts of decodes cost more than even ones by the
/// measured skew, in the passes that [`SkewUse`] names.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    layers: f64,
    /// µs of everything that goes by tokens, all-reduces included, but for the experts, by tokens.
    by_tokens: Vec<f64>,
    /// µs of the experts of all blocks, and of exchanging tokens with other ranks for them, by tokens of all ranks.
    experts: Vec<f64>,
    ranks: u64,
    /// The most tokens at which all of that was measured.
    most_tokens: u64,
    /// µs of the head by sequences.
    by_sequences: Vec<f64>,
    attention: Attention,
    skew: Skew,
    skew_use: SkewUse,
    host: Host,
    error: Option<ErrorBar>,
}

impl Profile {
    /// Makes a model of measured times.
    pub fn new(tables: &ProfileTables<'_>, setup: &ProfileSetup) -> Result<Self, ProfileError> {
        if let Some(linear) = setup.shape.linear {
            let problem = format!(
                "the model has {} blocks with linear attention, whose times no file has",
                linear.layers
            );
            return Err(ProfileError::Points { file: "attention.csv", problem });
        }
        let layers = f64::from(setup.shape.layers);
        let dense = curves(DENSE, tables.dense, "tokens")?;
        let parts = parts(setup, &dense);
        let mut by_tokens = summed(DENSE, &dense, &parts)?;
        let mut most_tokens = by_tokens.len() as u64 - 1;
        if let Some(all_reduce) = &setup.all_reduce {
            let bytes_per_token = f64::from(setup.shape.hidden_size) * setup.bytes_per_number;
            for (tokens, us) in by_tokens.iter_mut().enumerate().skip(1) {
                *us += f64::from(setup.shape.all_reduces())
                    * all_reduce.time_us(tokens as f64 * bytes_per_token);
            }
            most_tokens = most_tokens.min((all_reduce.most_bytes() / bytes_per_token) as u64);
        }
        let ranks = setup.ranks.max(1);
        let mut experts = vec![0.0; 2];
        if let Some(of_shape) = setup.shape.experts {
            let text = tables.experts.ok_or(ProfileError::NoExperts { count: of_shape.count })?;
            let times = ExpertTimes::read(text, setup.expert_parallel_size)?;
            experts = expert_times(&times, of_shape, setup, (by_tokens.len() - 1) * ranks as usize);
            most_tokens = most_tokens.min(times.most_tokens() as u64 / u64::from(ranks));
        }
        let head = curves(PER_SEQUENCE, tables.per_sequence, "sequences")?;
        let by_sequences = summed(PER_SEQUENCE, &head, &HEAD.map(|name| (name.to_owned(), 1.0)))?;
        let skew = tables.skew.map(Skew::read).transpose()?.unwrap_or_default();
        let attention = Attention::read(tables.attention)?;
        Ok(Self {
            layers,
            by_tokens,
            experts,
            ranks: ranks.into(),
            most_tokens,
            by_sequences,
            attention,
            skew,
            skew_use: SkewUse::default(),
            host: Host::NONE,
            error: None,
        })
    }

    /// The same with uneven contexts priced in other passes.
    #[must_use]
    pub fn with_skew(self, skew_use: SkewUse) -> Self {
        Self { skew_use, ..self }
    }

    /// The same on a host that takes something besides passes.
    #[must_use]
    pub fn with_host(self, host: Host) -> Self {
        Self { host, ..self }
    }

    /// The same, whose times are so far off.
    #[must_use]
    pub fn with_error(self, error: Option<ErrorBar>) -> Self {
        Self { error, ..self }
    }

    /// ms of a pass whose experts have so many tokens.
    fn priced(&self, batch: &Batch, tokens_of_experts: u64) -> PassTime {
        if batch.requests == 0 {
            return PassTime::default();
        }
        let us = at(&self.by_tokens, batch.tokens)
            + at(&self.experts, tokens_of_experts)
            + at(&self.by_sequences, batch.sampled_rows())
            + self.layers * self.attention_us(batch);
        PassTime::whole(batch, us / 1000.0)
    }

    fn attention_us(&self, batch: &Batch) -> f64 {
        let steps = batch.steps;
        if batch.chunk_tokens() == 0 && self.skew_use != SkewUse::All {
            let mean = steps.context_tokens as f64 / steps.requests.max(1) as f64;
            return self.attention.decodes(steps.requests, mean).us(mean);
        }
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
    fn host(&self) -> Host {
        self.host
    }

    fn error_bar(&self) -> Option<ErrorBar> {
        self.error.clone()
    }

    fn pass(&self, batch: &Batch) -> PassTime {
        self.priced(batch, batch.tokens)
    }

    /// Passes without prompts are recorded graphs, for which each rank pads its tokens to the most of one.
    fn pass_of_ranks(&self, own: &Batch, tokens: u64) -> PassTime {
        let padded = if own.chunk_tokens() == 0 { own.tokens * self.ranks } else { 0 };
        self.priced(own, tokens.max(padded))
    }

    fn decode_passes(&self, first: StepWork, kv_capacity_tokens: u64, passes: &mut [PassTime]) {
        let n = first.requests;
        if n == 0 || self.skew_use == SkewUse::All {
            return one_by_one(self, first, kv_capacity_tokens, passes);
        }
        let other_us = at(&self.by_tokens, n) + at(&self.experts, n) + at(&self.by_sequences, n);
        let mean = |context_tokens: u64| context_tokens as f64 / n as f64;
        let mut attention = self.attention.decodes(n, mean(first.context_tokens));
        let contexts = (0..).map(|later| first.context_tokens + later * n);
        for (pass, context_tokens) in passes.iter_mut().zip(contexts) {
            let us = other_us + self.layers * attention.us(mean(context_tokens));
            *pass = PassTime { prompt_ms: 0.0, decode_ms: us / 1000.0 };
        }
    }

    fn extrapolated_decodes(&self, first: StepWork, _kv_capacity_tokens: u64, passes: usize) -> u64 {
        let n = first.requests;
        if n > self.most_tokens || n >= self.by_sequences.len() as u64 {
            return passes as u64;
        }
        let contexts = (0..passes as u64).map(|later| first.context_tokens + later * n);
        contexts.filter(|&context| self.attention.are_decodes_outside(n, context)).count() as u64
    }

    fn extrapolates(&self, batch: &Batch) -> bool {
        if batch.tokens > self.most_tokens || batch.sampled_rows() >= self.by_sequences.len() as u64 {
            return true;
        }
        let steps = batch.steps;
        if batch.chunk_tokens() == 0 {
            return self.attention.are_decodes_outside(steps.requests, steps.context_tokens);
        }
        let [chunk, before, n, mean] = attention_point(batch);
        self.attention.is_outside([chunk, before.max(0.0), n, mean])
    }
}

/// Prompt tokens, the KV before them, requests that decode and their mean context.
///
/// All requests with more than one new token count as one whose attention covers as many pairs; the KV before it is
/// negative if it would cover more even without any.
fn attention_point(batch: &Batch) -> attention::Point {
    let steps = batch.steps;
    let chunk = batch.chunk_tokens() as f64;
    let pairs = batch.chunk_pairs() as f64;
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

/// µs of the experts of all blocks, and of what is exchanged for them, by tokens of all ranks up to `most`.
fn expert_times(times: &ExpertTimes, experts: Experts, setup: &ProfileSetup, most: usize) -> Vec<f64> {
    let activated = experts.activated(setup.expert_parallel_size);
    let bytes_per_token = f64::from(setup.shape.hidden_size) * setup.bytes_per_number;
    let exchange = setup.exchange.as_ref().filter(|_| setup.ranks > 1);
    let us = |tokens: usize| {
        let exchanged = exchange.map_or(0.0, |all| all.time_us(tokens as f64 * bytes_per_token));
        let activated = activated[tokens.min(activated.len() - 1)];
        f64::from(experts.layers) * (times.us(tokens as f64, activated) + exchanged)
    };
    (0..=most).map(|tokens| if tokens == 0 { 0.0 } else { us(tokens) }).collect()
}

/// The layers of a pass, with how often each runs in it.
fn parts(setup: &ProfileSetup, measured: &BTreeMap<String, Curve>) -> Vec<(String, f64)> {
    let shape = &setup.shape;
    let layers = f64::from(shape.layers);
    if let Some(given) = &setup.layers {
        let pass = given.pass.iter().map(|(name, times)| (name.clone(), *times));
        return pass.chain(given.block.iter().map(|(name, times)| (name.clone(), times * layers))).collect();
    }
    let plain = layers - shape.experts.map_or(0.0, |experts| f64::from(experts.layers));
    let mut parts: Vec<(&str, f64)> = ONCE.map(|name| (name, 1.0)).to_vec();
    parts.push((NORM, layers * f64::from(shape.norms)));
    parts.extend(BLOCK.map(|name| (name, layers)));
    if plain > 0.0 {
        parts.extend(FEED_FORWARD.map(|name| (name, plain)));
    }
    if shape.qk_norm || measured.contains_key(QK_NORM) {
        parts.push((QK_NORM, layers));
    }
    parts.into_iter().map(|(name, times)| (name.to_owned(), times)).collect()
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
    parts: &[(String, f64)],
) -> Result<Vec<f64>, ProfileError> {
    let expected = || parts.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    // A model whose blocks all have experts has no other feed-forward part; it may have been measured all the same.
    let is_known = |layer: &str| FEED_FORWARD.contains(&layer) || parts.iter().any(|(name, _)| name == layer);
    if let Some(layer) = curves.keys().find(|layer| !is_known(layer)) {
        return Err(ProfileError::UnknownLayer { file, layer: layer.clone(), expected: expected() });
    }
    let mut chosen = Vec::new();
    for (layer, times) in parts {
        let missing = || ProfileError::MissingLayer { file, layer: layer.clone() };
        chosen.push((curves.get(layer).ok_or_else(missing)?, *times));
    }
    let last = chosen.iter().map(|(curve, _)| curve.last()).fold(f64::INFINITY, f64::min) as u64;
    let sum = |x: u64| chosen.iter().map(|(curve, times)| times * curve.at(x as f64)).sum();
    Ok(std::iter::once(0.0).chain((1..=last).map(sum)).collect())
}
