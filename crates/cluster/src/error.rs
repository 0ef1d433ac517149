//! Why a deployment cannot be built, and why a run cannot continue.

use servecast_latency::LatencyError;
use servecast_types::{Message, Role, Time, message, settings_error};

/// Why a deployment cannot be built.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ClusterError {
    /// A pool without workers.
    NoWorkers {
        /// The setting.
        key: &'static str,
    },
    /// A pool larger than can be simulated.
    TooManyWorkers {
        /// The setting.
        key: &'static str,
        /// Its value.
        workers: u32,
        /// The limit.
        most: u32,
    },
    /// An engine that says it is for another pool.
    WorkerType {
        /// The pool.
        pool: Role,
        /// What the engine says.
        found: Role,
    },
    /// A worker of SGLang on the side of another stage.
    WrongSide {
        /// The pool.
        pool: Role,
        /// The stage that its engine is to serve.
        found: Role,
    },
    /// SGLang's own hand-over with only some of the workers.
    OneSide {
        /// A pool with workers that take part.
        pool: Role,
        /// One with workers that do not.
        without: Role,
    },
    /// Pools that cannot hand KV blocks to each other.
    BlockSize {
        /// Of the prefill engine.
        prefill: u32,
        /// Of the decode engine.
        decode: u32,
    },
    /// Workers of one pool whose blocks routers could not compare.
    MixedBlockSizes {
        /// Of two of them.
        sizes: [u32; 2],
    },
    /// Workers of one pool behind different front ends.
    MixedFrontEnds,
    /// Both engines say what a hand-off costs, and say different things.
    Handoff {
        /// The setting.
        key: &'static str,
        /// Of the prefill engine.
        prefill: String,
        /// Of the decode engine.
        decode: String,
    },
    /// Transfers that take no time are to share a bandwidth.
    NothingShared,
    /// A hand-off costs something else between other workers of the pools.
    MixedHandoffs,
    /// Pools that requests cannot go through.
    NoRoute {
        /// What they are for.
        roles: Vec<Role>,
    },
    /// Two pools of one name.
    PoolName {
        /// The name.
        name: String,
    },
    /// A request asks for a LoRA adapter, and a worker takes none.
    NoLoras {
        /// The adapter.
        lora: String,
        /// The pool of the worker.
        pool: Role,
    },
    /// A closed loop without anybody in it.
    NoConcurrency,
}

settings_error!(ClusterError);

impl From<&ClusterError> for Message {
    fn from(error: &ClusterError) -> Self {
        match error {
            ClusterError::NoWorkers { key } => {
                message!("{} is 0, but a pool needs at least 1 worker", Self::key(*key))
            }
            ClusterError::TooManyWorkers { key, workers, most } => {
                message!("{} is {}, but a pool has at most {} workers", Self::key(*key), *workers, *most)
            }
            ClusterError::WorkerType { pool, found } => {
                message!(
                    "the {} engine has {worker_type} {}: leave it out or make it {}",
                    pool.name(),
                    found.name(),
                    pool.name()
                )
            }
            ClusterError::WrongSide { pool: Role::Aggregated, found } => message!(
                "{sglang.disaggregation_mode} is {}, but there are no prefill and decode workers: leave it out, or give \
                 {--num_prefill_workers} and {--num_decode_workers}",
                found.name()
            ),
            ClusterError::WrongSide { pool, found } => message!(
                "the {} engine has {sglang.disaggregation_mode} {}: make it {}, or leave it out",
                pool.name(),
                found.name(),
                pool.name()
            ),
            ClusterError::OneSide { pool, without } => message!(
                "{sglang.disaggregation_mode} is set for workers of the {} pool, but not for all of the {} pool: SGLang's own \
                 queues need both, so set it to prefill and decode, or to null everywhere",
                pool.name(),
                without.name()
            ),
            ClusterError::BlockSize { prefill, decode } => message!(
                "{block_size} is {} for prefill and {} for decode, but both pools need the same",
                *prefill,
                *decode
            ),
            ClusterError::MixedBlockSizes { sizes: [one, other] } => message!(
                "{block_size} is {} for some workers of a pool and {} for others, but all need the same",
                *one,
                *other
            ),
            ClusterError::MixedFrontEnds => message!(
                "{front_end_us} or {front_end_us_per_1k_prompt_tokens} differ among the workers of a pool, but a \
                 request passes the front end before its worker is chosen: give {--front_end_us} and \
                 {--front_end_us_per_1k_prompt_tokens} for all of them"
            ),
            ClusterError::Handoff { key, prefill, decode } => message!(
                "{} is {} for prefill and {} for decode: give it once, or the same value twice",
                Self::key(*key),
                prefill,
                decode
            ),
            ClusterError::NothingShared => message!(
                "{kv_transfer_sharing} is shared, but transfers take no time: leave it out, or give \
                 {kv_transfer_bandwidth} above 0 and {kv_bytes_per_token}"
            ),
            ClusterError::MixedHandoffs => message!(
                "what a hand-off costs ({kv_bytes_per_token}, {kv_transfer_bandwidth}, {kv_transfer_timing_mode}, \
                 {kv_transfer_sharing}, {speedup_ratio} of prefill engines) differs among the workers of a pool"
            ),
            ClusterError::NoRoute { roles } => message!(
                "there are the pools {}, but requests go through one aggregated pool, or through a prefill pool and a decode \
                 pool after it",
                format!("{:?}", roles.iter().map(|role| role.name()).collect::<Vec<_>>())
            ),
            ClusterError::PoolName { name } => {
                message!("two pools are called `{}`: give each a name of its own", name)
            }
            ClusterError::NoLoras { lora, pool } => message!(
                "the trace asks for the LoRA adapter {}, but {enable_lora} is off for workers of the {} pool: {--enable_lora} \
                 switches it on, with {--max_loras} N (vLLM)",
                format!("`{lora}`"),
                pool.name()
            ),
            ClusterError::NoConcurrency => {
                message!("{replay_concurrency} is 0, but at least 1 session has to run at a time")
            }
        }
    }
}

/// Why a run could not go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// An iteration without a duration.
    #[error("an iteration at {at} has no duration")]
    Latency {
        /// When it began.
        at: Time,
        /// What the latency model said.
        source: LatencyError,
    },
    /// Virtual time does not reach as far as what comes next.
    #[error(
        "after {at} comes something more than 2^64 ns (584 years) from the start, where virtual time ends: an \
         iteration, a KV transfer or an arrival"
    )]
    TimeOverflow {
        /// How far the run had come.
        at: Time,
    },
    /// A hand-off that takes longer than virtual time can say.
    #[error(
        "the hand-off of {prompt_tokens} tokens at {at} does not end within 64-bit nanoseconds: `kv_transfer_bandwidth` \
         {gb_per_second:e} GB/s with `kv_bytes_per_token` {bytes_per_token} and a speedup of {speedup_ratio:e}; a larger \
         bandwidth takes less"
    )]
    Handoff {
        /// When it was to begin.
        at: Time,
        /// The prompt.
        prompt_tokens: u32,
        /// Bytes of KV of a token.
        bytes_per_token: u64,
        /// 10⁹ bytes a second.
        gb_per_second: f64,
        /// What divides it.
        speedup_ratio: f64,
    },
    /// Things keep happening at one instant, and no request gets any further.
    #[error(
        "at {at} iterations that take no time follow each other without end: {rounds} of them, and no request got any \
         further; with times above 0 the clock goes on"
    )]
    Endless {
        /// The instant.
        at: Time,
        /// How often it was the same instant again.
        rounds: u32,
    },
    /// Requests of a worker take memory from each other, and none gets any further.
    #[error(
        "{place} at {at}: {iterations} iterations preempted requests and none of these got a token, so that they would do so \
         for ever; this is a bug of servecast, which more KV memory or fewer requests at a time (`max_num_seqs`) may avoid"
    )]
    Livelock {
        /// When that was clear.
        at: Time,
        /// Which worker.
        place: String,
        /// How many iterations.
        iterations: u32,
    },
    /// Nothing can happen any more, but requests are unfinished.
    #[error(
        "at {at} nothing can happen any more, but {unfinished} requests are unfinished, the first of them request {first} {place}"
    )]
    Stuck {
        /// When it stopped.
        at: Time,
        /// How many are unfinished.
        unfinished: usize,
        /// The first of them.
        first: u32,
        /// Where it is.
        place: String,
    },
    /// An invariant does not hold: the results would be wrong.
    #[error("{place} at {at}: {what}; this is a bug of servecast")]
    Invariant {
        /// When it was found.
        at: Time,
        /// Which worker or which request.
        place: String,
        /// What does not hold.
        what: String,
    },
    /// The observer asked to stop.
    #[error("interrupted at {at} of virtual time")]
    Interrupted {
        /// How far the run had come.
        at: Time,
    },
}
