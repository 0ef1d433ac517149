//! When the blocks of a request that decodes change.

use smallvec::SmallVec;

use super::GroupedKv;
use crate::kv_groups::{GroupKind, KvGroups, greatest_common_divisor};
use crate::stretch::LARGEST_WHEEL;
use crate::vllm::Request;

/// When groups take, store or let go of a block of a request that computes a token in each iteration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodePhases {
    /// After so many tokens it is the same again.
    pub(crate) period: u32,
    /// Something may change in an iteration before which so many tokens are computed, modulo the period; ascending, 0 among
    /// them.
    pub(crate) phases: SmallVec<[u32; 4]>,
}

impl KvGroups {
    /// When the blocks of a request that decodes change, if `lead` iterations, 0 or 1, are in flight when one is decided; `None`
    /// if its groups have no period, or one that is too short or too long to be worth anything.
    ///
    /// Tables and stores go by multiples of block sizes, windows and chunks by multiples of them and an offset.
    pub(crate) fn decode_phases(&self, lead: u32) -> Option<DecodePhases> {
        let chunk = |kind| if let GroupKind::ChunkedLocal(chunk) = kind { chunk } else { 0 };
        // A state that nobody hits has one block from the first token on.
        let of_tokens =
            || self.specs.iter().filter(|spec| !matches!(spec.kind, GroupKind::Mamba { align: false, .. }));
        let sizes = of_tokens().flat_map(|spec| [spec.block_size, chunk(spec.kind)]);
        let period = sizes.fold(0, greatest_common_divisor);
        if !(2..=LARGEST_WHEEL).contains(&period) {
            return None;
        }
        // What is let go of is what the next token behind those that are settled does not look back at.
        let behind = if self.waits_for_results { lead } else { 0 };
        let forgets = |kind| match kind {
            GroupKind::Full => 0,
            GroupKind::SlidingWindow(window) => window - 1 + behind,
            GroupKind::ChunkedLocal(_) => behind,
            GroupKind::Mamba { .. } => 1 + behind,
        };
        // A block is taken with its first token, and stored when its last one is known.
        let mut phases: SmallVec<[u32; 4]> = SmallVec::from_slice(&[0, period + lead - 1]);
        phases.extend(of_tokens().map(|spec| forgets(spec.kind)));
        phases.iter_mut().for_each(|phase| *phase %= period);
        phases.sort_unstable();
        phases.dedup();
        Some(DecodePhases { period, phases })
    }
}

impl GroupedKv {
    /// Iterations have passed in which nothing changed.
    pub(in crate::vllm) fn pass(&mut self, iterations: u64) {
        self.iteration += iterations;
        self.drop_hittable();
    }

    /// Whether there are states that cannot be hit yet, but in one of the next iterations.
    pub(in crate::vllm) fn has_fresh_states(&self) -> bool {
        !self.fresh_states.is_empty()
    }

    /// Blocks that so many requests, each of which decodes and is at the beginning of a block, take at most.
    pub(in crate::vllm) fn most_taken(&self, opening: u32) -> u32 {
        opening.saturating_mul(self.groups.specs.len() as u32)
    }

    /// Moves the blocks of a request that decodes: it computes the last of its first `end` tokens, when those of `lead`
    /// iterations before that are in flight.
    #[inline(never)]
    pub(in crate::vllm) fn decode(&mut self, request: &mut Request, end: u32, lead: u32) {
        let mut tables = self.tables(request);
        let behind = if self.groups.waits_for_results { lead } else { 0 };
        self.forget_before(&mut tables, end - 1 - behind);
        request.tables = Some(tables);
        self.extend(request, end);
        self.store(request, end - lead, end - lead);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::EngineArgs;

    fn phases(groups: &Value, version: &str, lead: u32) -> Option<(u32, Vec<u32>)> {
        let settings = json!({
            "vllm_version": version, "async_scheduling": lead > 0, "block_size": 16, "kv_groups": groups,
            "num_gpu_blocks": 1000,
        });
        let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
        let found = config.kv_groups.unwrap().decode_phases(lead)?;
        Some((found.period, found.phases.to_vec()))
    }

    #[test]
    fn windows_of_whole_blocks_move_with_full_attention() {
        let groups = json!([{"type": "full"}, {"type": "sliding_window", "sliding_window": 128}]);
        // A block is full, and the window leaves another one, with the last token of a block; a token later if that is known
        // only then.
        assert_eq!(phases(&groups, "0.33", 0), Some((16, vec![0, 15])));
        assert_eq!(phases(&groups, "0.33", 1), Some((16, vec![0])));
        // Up to 0.28 blocks are let go of with the decision.
        assert_eq!(phases(&groups, "0.28", 1), Some((16, vec![0, 15])));
    }

    #[test]
    fn other_layers_have_phases_of_their_own() {
        let full = || json!({"type": "full"});
        let window = json!([full(), {"type": "sliding_window", "sliding_window": 100}]);
        assert_eq!(phases(&window, "0.33", 0), Some((16, vec![0, 3, 15])));
        assert_eq!(phases(&window, "0.33", 1), Some((16, vec![0, 4])));
        let states = json!([full(), {"type": "mamba"}]);
        assert_eq!(phases(&states, "0.33", 0), Some((16, vec![0, 1, 15])));
        assert_eq!(phases(&states, "0.33", 1), Some((16, vec![0, 2])));
    }

    #[test]
    fn sizes_that_have_little_in_common_have_a_short_period_or_none() {
        let sizes = |size| json!([{"type": "full"}, {"type": "sliding_window", "sliding_window": 64, "block_size": size}]);
        assert_eq!(phases(&sizes(24), "0.33", 0), Some((8, vec![0, 7])));
        assert_eq!(phases(&sizes(5), "0.33", 0), None);
        let chunk = |chunk| json!([{"type": "full"}, {"type": "chunked_local", "chunk": chunk}]);
        assert_eq!(phases(&chunk(100), "0.33", 0), Some((4, vec![0, 3])));
        assert_eq!(phases(&chunk(27), "0.33", 0), None);
    }
}
