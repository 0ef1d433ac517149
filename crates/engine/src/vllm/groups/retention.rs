//! Which full blocks of a group can be found again: in layers that forget, those that a later request can go on from.

use super::GroupedKv;
use crate::kv_groups::{GroupKind, GroupSpec, RetentionInterval};

impl GroupedKv {
    /// Whether a full block is stored: one of those before a place from which a later request goes on.
    ///
    /// `boundaries`: the most tokens of its own prompt that can be hit, and the length of a prefix that others were seen to
    /// share, or 0.
    pub(super) fn is_worth_keeping(&self, spec: GroupSpec, place: u32, boundaries: [u32; 2]) -> bool {
        // Blocks that a hit needs in front of where it ends; a state is one.
        let needed = match spec.kind {
            GroupKind::Full | GroupKind::ChunkedLocal(_) => return true,
            GroupKind::SlidingWindow(window) => spec.blocks_of_window(window),
            GroupKind::Mamba { .. } => 1,
        };
        let (size, unit) = (spec.block_size, self.groups.hit_unit);
        let is_state = matches!(spec.kind, GroupKind::Mamba { .. });
        let interval = match self.groups.retention {
            RetentionInterval::Dense if is_state => return true,
            RetentionInterval::Dense => unit,
            RetentionInterval::Tokens(tokens) => tokens,
        };
        let per_segment = interval / size;
        if per_segment > 0 && (needed >= per_segment || place % per_segment >= per_segment - needed) {
            return true;
        }
        let ends = boundaries.map(|tokens| tokens / unit * unit / size);
        let is_dense = self.groups.retention == RetentionInterval::Dense;
        !is_dense && ends.into_iter().any(|end| place < end && place + needed >= end)
    }
}
