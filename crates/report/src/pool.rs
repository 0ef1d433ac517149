//! What a report says of a pool of workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Totals of one pool of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolReport {
    /// What the pool is for: `aggregated`, `prefill` or `decode`.
    pub pool: String,
    /// Number of workers.
    pub workers: u32,
    /// Engine iterations that ran.
    pub iterations: u64,
    /// Tokens computed, recomputed ones included.
    pub computed_tokens: u64,
    /// How often a request lost its KV blocks to others.
    pub preemptions: u64,
    /// Share of the workers' time that was spent in some iteration, full or nearly empty: busy time / (workers *
    /// `duration_ms`). Not how much load a worker has room for: that is in `batch_occupancy` and `kv_usage`. Null
    /// without a token.
    pub utilization: Option<f64>,
    /// Requests that an iteration computed something for, averaged over the time in iterations; null without one.
    #[serde(default)]
    pub mean_batch_size: Option<f64>,
    /// Most requests that may run on a worker at a time; null without a limit, or where workers differ in it.
    #[serde(default)]
    pub max_num_seqs: Option<u32>,
    /// How full batches were while workers were in iterations: `mean_batch_size / max_num_seqs` where that is the same
    /// for all; null without a limit or an iteration.
    #[serde(default)]
    pub batch_occupancy: Option<f64>,
    /// Share of the KV blocks that requests held, averaged over the time in iterations; what only the prefix cache
    /// holds is free. Null without an iteration.
    #[serde(default)]
    pub kv_usage: Option<f64>,
    /// The largest share of its KV blocks that requests held on any worker in an iteration; null without one.
    #[serde(default)]
    pub peak_kv_usage: Option<f64>,
    /// How many requests a worker got.
    pub requests_per_worker: Spread,
    /// How many prompt tokens a worker found in its prefix cache.
    pub reused_tokens_per_worker: Spread,
    /// Share of its time that a worker spent in some iteration.
    pub utilization_per_worker: Option<Spread>,
    /// `mean_batch_size` of workers that had an iteration.
    #[serde(default)]
    pub mean_batch_size_per_worker: Option<Spread>,
    /// `kv_usage` of workers that had an iteration.
    #[serde(default)]
    pub kv_usage_per_worker: Option<Spread>,
}

/// How unevenly something is spread over the workers of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// The least of any worker.
    pub min: f64,
    /// The mean of all workers.
    pub mean: f64,
    /// The most of any worker.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`, one a worker, if there are any.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut min, mut max, mut sum, mut count) = (f64::INFINITY, 0.0_f64, 0.0, 0_u32);
        for value in values {
            (min, max) = (min.min(value), max.max(value));
            sum += value;
            count += 1;
        }
        (count > 0).then(|| Self { min, mean: sum / f64::from(count), max })
    }
}
