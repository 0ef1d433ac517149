//! States of sequences (Mamba, linear attention) where other requests can go on from them: vLLM's `MambaManager` in the mode
//! `align`.
//!
//! A table has a place for each block of tokens, but of those only that with the running state is held, the one that it was
//! copied from until the iteration after, and those that were kept for others.

use servecast_types::{BlockId, RequestId};

use super::needs::NEVER;
use super::pool::NULL;
use super::table::Table;
use super::{GroupedKv, StateOffer};
use crate::kv_groups::GroupSpec;
use crate::vllm::Request;

impl GroupedKv {
    /// Frees the states before place `past`, and the one that the running state was copied from if that lies before the last
    /// of `settled` blocks.
    pub(super) fn forget_states(&mut self, table: &mut Table, past: u32, settled: u32) {
        let first = table.retired;
        if first < past {
            self.moved.clear();
            let held = (first..past).rev().filter(|&place| table.blocks[place as usize] != NULL);
            let places: Vec<u32> = held.collect();
            self.moved.extend(places.into_iter().map(|place| table.clear(place)));
            self.pool.release(self.moved.iter().copied());
            table.retired = past;
        }
        if let Some(place) = table.last_state.filter(|place| place + 1 < settled) {
            let block = table.clear(place);
            self.pool.release(std::iter::once(block));
        }
    }

    /// Blocks that a request takes out of what is free for a state after `tokens` tokens, and for those of `drafts`.
    pub(super) fn needed_states(
        &self,
        spec: GroupSpec,
        table: &Table,
        hits: &[BlockId],
        (tokens, drafts): (u32, u32),
    ) -> u32 {
        let is_fresh = |&block: &BlockId| {
            self.pool.content(block).is_some_and(|content| self.fresh_states.contains_key(&content))
        };
        if hits.last().is_some_and(is_fresh) {
            return NEVER;
        }
        let had = table.len() + hits.len() as u32;
        let free = hits.iter().filter(|&&block| self.pool.is_free(block)).count() as u32;
        // Those of drafts move along.
        let new = if table.has_states { 1 } else { 1 + drafts };
        (tokens.div_ceil(spec.block_size) + drafts).saturating_sub(had).min(new) + free
    }

    /// Gives a request a place for the state after `tokens` tokens and for those of `drafts` behind it, and nothing for those
    /// that it passes over.
    pub(super) fn extend_states(&mut self, spec: GroupSpec, table: &mut Table, tokens: u32, drafts: u32) {
        let (running, had) = (tokens.div_ceil(spec.block_size), table.len());
        if running + drafts <= had {
            table.has_states = true;
            return;
        }
        if table.has_states {
            table.last_state = Some(had - 1 - drafts);
        } else if had > 0 {
            // The one that was hit.
            table.last_state = Some(had - 1);
        }
        // The running state is the last but those of drafts.
        let passed = running - 1;
        table.blocks.resize(passed.max(had) as usize, NULL);
        if table.has_states {
            for place in had - drafts..had.min(passed) {
                let block = table.clear(place);
                table.blocks.push(block);
            }
        }
        table.has_states = true;
        self.take(running + drafts - table.len(), table);
    }

    /// Notes the states of a request behind the first `stored` of its blocks that can be hit by now.
    pub(super) fn offer_states(
        &mut self,
        number: usize,
        table: &Table,
        stored: u32,
        (id, prompt_tokens): (RequestId, u32),
    ) {
        let spec = self.groups.specs[number];
        let Some(offers) = self.state_offers.as_mut().filter(|_| spec.aligns_states()) else { return };
        for place in stored..table.stored.unwrap_or(0) {
            let block = table.blocks[place as usize];
            let Some(content) = self.pool.content(block).filter(|_| block != NULL) else { continue };
            let tokens = (place + 1) * spec.block_size;
            offers.push(StateOffer {
                id,
                group: number as u32,
                block,
                tokens,
                hash: content.hash,
                prompt_tokens,
            });
        }
    }

    /// The states that can be hit since they were last asked for: by group, and in a group together those of a request.
    pub(in crate::vllm) fn take_states(&mut self) -> Vec<StateOffer> {
        let mut offers = self.state_offers.as_mut().map(std::mem::take).unwrap_or_default();
        offers.sort_by_key(|offer| offer.group);
        let mut ids: Vec<RequestId> = Vec::new();
        for offer in &offers {
            if !ids.contains(&offer.id) {
                ids.push(offer.id);
            }
        }
        offers.sort_by_key(|offer| ids.iter().position(|&id| id == offer.id));
        offers
    }

    /// A request loses its blocks, so that nobody can store its states any more.
    pub(super) fn withdraw_states(&mut self, id: RequestId) {
        if let Some(offers) = &mut self.state_offers {
            offers.retain(|offer| offer.id != id);
        }
    }

    /// The place of the last state of a prompt that can be hit, if its first `tokens` tokens end there and it was left out of
    /// what is kept: tokens behind it, which its identity covers, may keep it from being the one in front of the last token.
    pub(super) fn last_state_left_out(
        &self,
        number: usize,
        table: &Table,
        tokens: u32,
        prompt_tokens: u32,
    ) -> Option<u32> {
        let (spec, unit) = (self.groups.specs[number], self.groups.hash_unit);
        let end = self.groups.last_state(prompt_tokens, unit);
        if !spec.aligns_states() || end != tokens || !end.is_multiple_of(spec.block_size) {
            return None;
        }
        let place = (end / spec.block_size).checked_sub(1)?;
        let block = table.blocks[place as usize];
        (block != NULL && self.pool.content(block).is_none()).then_some(place)
    }

    /// Cuts the next `tokens` tokens of a request, of which `computed` are computed or hit, so that they end where a state is
    /// to be kept: vLLM's `_mamba_block_aligned_split`. 0 if they do not reach the end of a block.
    #[inline(never)]
    pub(crate) fn align_chunk(&self, request: &Request, computed: u32, tokens: u32, most_tokens: u32) -> u32 {
        let state = self.groups.specs.iter().find(|spec| spec.aligns_states());
        let Some(block) = state.map(|spec| spec.block_size) else { return tokens };
        let (start, mut end) = (computed, computed + tokens);
        let known = request.known();
        let prompt_end = request.prompt_tokens.max(known - 1);
        if start >= prompt_end {
            return tokens;
        }
        if end < prompt_end {
            let aligned = end / block * block;
            // Blocks that are larger than any chunk are computed in pieces.
            if aligned > start || block <= most_tokens {
                end = aligned;
            }
        }
        let last = if self.groups.stops_before_end { self.groups.last_state(known, block) } else { known };
        let junction = request.tables.as_ref().map_or(0, |tables| tables.junction);
        let stops = [
            if start.is_multiple_of(block) { 0 } else { (start / block + 1) * block },
            last / block * block,
            if start < junction && junction < end { start + (junction - start) / block * block } else { 0 },
        ];
        let end = stops.into_iter().filter(|&stop| start < stop && stop < end).min().unwrap_or(end);
        end.saturating_sub(start)
    }
}
