//! Which full blocks of a group can be found again: in layers that forget, those that a later request can go on from.

use smallvec::SmallVec;

use super::GroupedKv;
use crate::kv_groups::{GroupKind, GroupSpec, RetentionInterval};

impl GroupedKv {
    /// Whether a full block is stored: one of those before a place from which a later request goes on.
    ///
    /// `boundaries`: the tokens after which others can go on, as [`Self::boundaries`] has them.
    pub(super) fn is_worth_keeping(&self, spec: GroupSpec, place: u32, boundaries: &[u32]) -> bool {
        let is_state = matches!(spec.kind, GroupKind::Mamba { .. });
        // Where the last block of a hit is dropped, it has to be there, too; states are none of it.
        let dropped = u32::from(self.groups.drops_last_hit && !is_state);
        // Blocks that a hit needs in front of where it ends; a state is one.
        let needed = match spec.kind {
            GroupKind::Full | GroupKind::ChunkedLocal(_) => return true,
            GroupKind::SlidingWindow(window) => spec.blocks_of_window(window) + dropped,
            GroupKind::Mamba { .. } => 1,
        };
        let (size, unit) = (spec.block_size, self.groups.hit_unit);
        let interval = match self.groups.retention {
            RetentionInterval::Dense if is_state => return true,
            RetentionInterval::Dense => unit,
            RetentionInterval::Tokens(tokens) => tokens,
        };
        let per_segment = interval / size;
        let is_at_end = |per: u32| place >= dropped && (place - dropped) % per >= per.saturating_sub(needed);
        if per_segment > 0 && (needed >= per_segment || is_at_end(per_segment)) {
            return true;
        }
        let mut ends = boundaries.iter().map(|tokens| tokens / unit * unit / size + dropped);
        let is_dense = self.groups.retention == RetentionInterval::Dense;
        !is_dense && ends.any(|end| place < end && place + needed >= end)
    }

    /// The tokens after which others can go on from a request: where the same prompt hits most, a longer one, and where it was
    /// seen to part from others.
    pub(super) fn boundaries(
        &self,
        spec: GroupSpec,
        prompt_tokens: u32,
        junction: u32,
    ) -> SmallVec<[u32; 4]> {
        let unit = self.groups.hit_unit;
        let mut ends = SmallVec::new();
        if self.groups.drops_last_hit {
            ends.extend(
                [prompt_tokens - 1, prompt_tokens].map(|tokens| (tokens / unit * unit).saturating_sub(unit)),
            );
        } else {
            ends.push(prompt_tokens - 1);
        }
        if junction > 0 {
            ends.push(junction);
            if self.groups.drops_last_hit {
                ends.push(junction - spec.block_size);
            }
        }
        ends
    }

    /// How many of the first `tokens` tokens of a request can be stored in a group, of which `hashed` have identities: a hit is
    /// as long in all groups, and where its last block is dropped, that has to be there, too.
    pub(super) fn storable(&self, spec: GroupSpec, tokens: u32, hashed: u32) -> u32 {
        let unit = self.groups.hit_unit;
        let aligned = tokens / unit * unit;
        let most = if self.groups.drops_last_hit && aligned > 0 {
            let settled = tokens.saturating_sub(self.groups.unsettled);
            settled.min(settled / unit * unit + spec.block_size)
        } else {
            aligned
        };
        most.min(hashed)
    }
}
