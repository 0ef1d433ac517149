//! Kernels that no table has: too short to be bound by anything, or bound by reading what the one before wrote.

use super::Workbench;
use crate::roof::BF16_BYTES;

/// A kernel that does next to nothing, as it runs within a recorded graph, in µs.
const SHORT_KERNEL_US: f64 = 2.0;
/// Such kernels in a block: norms, rotary embedding, what writes the KV cache, the activation.
const IN_BLOCK: f64 = 6.0;
/// The same with experts, whose choice, sorting and sum are some more.
const IN_BLOCK_WITH_EXPERTS: f64 = 9.0;
/// Share of the memory bandwidth that they reach.
const MEMORY_SHARE: f64 = 0.8;
/// Sampling, whatever the batch, in µs.
const SAMPLER_US: f64 = 30.0;
/// Bytes a logit while tokens are chosen: read in bf16, written and read in 32 bits.
const SAMPLER_BYTES: f64 = 10.0;

/// Short kernels of a model.
#[derive(Debug)]
pub(super) struct Small {
    fixed_us: f64,
    us_per_token: f64,
    sampler_us_per_request: f64,
}

impl Small {
    pub(super) fn new(bench: &Workbench<'_>) -> Self {
        let model = bench.model();
        let shards = f64::from(bench.shards());
        let with_experts = f64::from(model.experts.map_or(0, |experts| experts.layers));
        let layers = f64::from(model.layers);
        let kernels = IN_BLOCK * (layers - with_experts) + IN_BLOCK_WITH_EXPERTS * with_experts;
        let inner = match model.experts {
            Some(experts) => f64::from(experts.per_token * experts.inner_size + experts.shared_inner_size),
            None => f64::from(model.inner_size),
        };
        // The residual stream at each norm is read and written with what is added to it; the activation reads two and
        // writes one.
        let numbers = layers * (12.0 * f64::from(model.hidden_size) + 3.0 * inner / shards);
        let bytes_per_us = bench.setup.gpu.memory_gb_per_s * 1e3 * MEMORY_SHARE;
        Self {
            fixed_us: kernels * SHORT_KERNEL_US,
            us_per_token: numbers * BF16_BYTES / bytes_per_us,
            sampler_us_per_request: f64::from(model.vocabulary) * SAMPLER_BYTES / bytes_per_us,
        }
    }

    pub(super) fn us(&self, tokens: f64) -> f64 {
        self.fixed_us + tokens * self.us_per_token
    }

    pub(super) fn sampler_us(&self, requests: f64) -> f64 {
        SAMPLER_US + requests * self.sampler_us_per_request
    }
}
