//! How many blocks a request needs, over all groups.

use servecast_types::BlockId;

use super::GroupedKv;
use super::table::Table;
use crate::kv_groups::{GroupKind, GroupSpec};
use crate::vllm::Request;

/// Blocks that a request needs which has to wait for an iteration, however many are free: more than there are.
pub(super) const NEVER: u32 = u32::MAX / 2;

/// For what a request needs blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// For all that it knows, as far as it holds that at a time.
    Admission,
    /// For the tokens of an iteration.
    Iteration,
    /// For tokens that are fetched before an iteration.
    Fetch,
}

impl GroupedKv {
    /// Blocks that a request takes out of what is free, so that it has them for its first `tokens` tokens, of which `computed`
    /// are computed or hit; [`NEVER`] if it has to wait for an iteration.
    #[inline(never)]
    pub(in crate::vllm) fn needed(&self, request: &Request, tokens: u32, computed: u32, need: Need) -> u32 {
        let (none, tables) = (Table::default(), request.tables.as_deref());
        let mut sum = 0_u32;
        for (number, &spec) in self.groups.specs.iter().enumerate() {
            let table = tables.map_or(&none, |tables| &tables.groups[number]);
            let is_new = table.stored.is_none();
            let hits: &[BlockId] = if is_new { &self.hits[number] } else { &[] };
            let needed = match spec.kind {
                GroupKind::Mamba { align: true, drafts } => {
                    self.needed_states(spec, table, hits, (tokens, drafts))
                }
                _ => self.needed_in(spec, table, hits, (tokens, computed), need),
            };
            sum = sum.saturating_add(needed).min(NEVER);
        }
        sum
    }

    /// Whether a request can be admitted, with `spare` blocks left over: there is room for all the tokens that it knows, as far
    /// as it holds them at a time, and for the first `tokens`, of which `computed` are there, `loaded` of them from elsewhere.
    #[inline(never)]
    pub(in crate::vllm) fn has_room(
        &self,
        request: &Request,
        known: u32,
        (tokens, computed, loaded): (u32, u32, u32),
        spare: u32,
    ) -> bool {
        let in_all = self.needed(request, known, computed, Need::Admission);
        let first = self.needed(request, tokens, computed, Need::Iteration);
        // A state that is loaded has a block beside the running one. vLLM does not count it, and fails where it is lacking.
        let states =
            self.groups.specs.iter().filter(|spec| spec.aligns_states() && loaded > 0).count() as u32;
        let free = self.pool.num_free();
        in_all.max(first) + spare <= free && first + states <= free
    }

    fn needed_in(
        &self,
        spec: GroupSpec,
        table: &Table,
        hits: &[BlockId],
        (tokens, computed): (u32, u32),
        need: Need,
    ) -> u32 {
        let ahead = if need == Need::Iteration { self.groups.lookahead } else { 0 };
        let mut required = self.required(spec, tokens, ahead);
        if need == Need::Admission {
            required = required.min(spec.most_blocks(self.groups.most_in_flight, self.max_model_len));
        }
        if table.stored.is_some() {
            return required.saturating_sub(table.len());
        }
        let skipped = spec.skipped(computed) / spec.block_size;
        let had = table.len() + hits.len() as u32;
        let hit = hits.get(skipped.saturating_sub(table.len()) as usize..).unwrap_or(&[]);
        let free = hit.iter().filter(|&&block| self.pool.is_free(block)).count() as u32;
        required.saturating_sub(had.max(skipped)) + free
    }

    /// Places for the first `tokens` tokens of a request and the `ahead` ones behind them, in a group without states that can
    /// be hit.
    pub(super) fn required(&self, spec: GroupSpec, tokens: u32, ahead: u32) -> u32 {
        (tokens + ahead).min(self.max_model_len.max(tokens)).div_ceil(spec.block_size)
            + states_of_drafts(spec)
    }

    /// Blocks that a request will still take for what it knows, and in layers of attention for so many tokens of a verification.
    #[inline(never)]
    pub(in crate::vllm) fn outstanding(&self, request: &Request, verification: u32) -> u32 {
        let Some(tables) = request.tables.as_deref() else { return 0 };
        let known = request.known();
        let of_group = |(spec, table): (&GroupSpec, &Table)| {
            if let GroupKind::Mamba { align: true, drafts } = spec.kind {
                return self.needed_states(*spec, table, &[], (known, drafts));
            }
            let required = (known + verification).div_ceil(spec.block_size) + states_of_drafts(*spec);
            let most = spec.most_blocks(self.groups.most_in_flight, self.max_model_len);
            required.min(most).saturating_sub(table.len())
        };
        self.groups.specs.iter().zip(&tables.groups).map(of_group).sum()
    }
}

/// States that drafts need beside the running one.
fn states_of_drafts(spec: GroupSpec) -> u32 {
    match spec.kind {
        GroupKind::Mamba { drafts, .. } => drafts,
        _ => 0,
    }
}
