//! What TensorRT-LLM does otherwise than vLLM: its capacity scheduler.
//!
//! - `GUARANTEED_NO_EVICT`: a request is admitted only if its blocks to completion fit beside those that the requests in
//!   flight will still take, so that nobody is ever preempted.
//! - `STATIC_BATCH`: the same, and only once all that were admitted before are done.
//! - `MAX_UTILIZATION`: a request is admitted if its blocks fit now. When one that runs lacks a block, the one that was
//!   started last is paused, that is preempted as by vLLM: it loses its blocks, goes to the front of the queue and computes
//!   again what it then finds no more in the cache.
//!
//! A prompt whose next block is being computed for another one in the same iteration is
//! put off, and hits it in the next; those behind it are looked at meanwhile. A prompt that is cached to its last token
//! computes that one again. Behind a hand-off, the first token comes with the KV. Everything else (token budget, running
//! before waiting, block pool, events) is that of [`crate::vllm`]. `GUARANTEED_NO_EVICT` is after Dynamo's mocker 0.13, the
//! other policies are after NVIDIA's documentation ("Useful Runtime Options"); there is no recording of the real engine.

use crate::args::CapacitySchedulerPolicy;
use crate::vllm::Request;

/// What a request is promised when it is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoEvict {
    block_size: u32,
}

impl NoEvict {
    /// What a policy promises, if it does.
    pub(crate) fn of(policy: CapacitySchedulerPolicy, block_size: u32) -> Option<Self> {
        (policy != CapacitySchedulerPolicy::MaxUtilization).then_some(Self { block_size })
    }

    /// Output that a prompt leaves room for: in the model's context, and in the pool.
    pub(crate) fn clamp_output(
        prompt_tokens: u32,
        max_tokens: u32,
        max_model_len: u32,
        capacity: u64,
    ) -> u32 {
        let room = u64::from(max_model_len).min(capacity).saturating_sub(prompt_tokens.into());
        max_tokens.min(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// Blocks of a request when it is complete.
    pub(crate) fn footprint(self, request: &Request) -> u32 {
        (request.prompt_tokens + request.max_tokens).div_ceil(self.block_size)
    }

    /// Blocks that a request in flight will still take.
    pub(crate) fn outstanding(self, request: &Request) -> u32 {
        self.footprint(request).saturating_sub(request.blocks.len() as u32)
    }

    /// Whether a request fits to completion. The `in_use` blocks that it hits and that others use cost nothing; free ones
    /// do.
    pub(crate) fn fits(self, request: &Request, in_use: u32, outstanding: u32, num_free: u32) -> bool {
        u64::from(self.footprint(request) - in_use) + u64::from(outstanding) <= u64::from(num_free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_to_the_context_and_to_the_pool() {
        assert_eq!(NoEvict::clamp_output(100, 50, 1000, 1000), 50);
        assert_eq!(NoEvict::clamp_output(100, 5000, 1000, 2000), 900);
        assert_eq!(NoEvict::clamp_output(100, 5000, u32::MAX, 320), 220);
        assert_eq!(NoEvict::clamp_output(400, 1, 1000, 320), 0);
    }
}
