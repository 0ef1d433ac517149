//! What speculative decoding adds to `schedule()`: how many drafts a request verifies, padding, and what is proposed next.

use super::request::Request;
use super::scheduler::{Round, Scheduler};
use crate::iteration::{Iteration, Verified};
use crate::speculation::{Proposals, Speculation};
use crate::step::Entry;
use crate::table::Slot;

impl Scheduler {
    /// Tokens that a request gets with its admission, with `computed` of its tokens there and `missing` not; 0 if it is
    /// passed over, `None` if nobody else is looked at either.
    pub(super) fn first_tokens(&self, computed: u32, missing: u32, round: &Round) -> Option<u32> {
        let padded = self.padded(computed, missing, round);
        // Rather not at all than without padding.
        if padded.is_some_and(|tokens| tokens > round.left()) {
            return None;
        }
        let tokens = padded.unwrap_or_else(|| missing.min(round.cap));
        if !self.config.enable_chunked_prefill && tokens > round.left() {
            return None;
        }
        Some(tokens.min(round.left()))
    }

    /// Those `tokens`, cut so that they leave what the drafter reads ahead, unless they are padded.
    pub(super) fn first_leaving_lookahead(
        &self,
        request: &Request,
        computed: u32,
        tokens: u32,
        round: &Round,
    ) -> u32 {
        let is_padded = self.padded(computed, request.known() - computed, round).is_some();
        if is_padded { tokens } else { self.without_lookahead(request, computed, tokens) }
    }

    /// Rows of a request that lacks nothing but its last token, if they are padded to those of a verification, so that the
    /// batch stays uniform.
    fn padded(&self, computed: u32, missing: u32, round: &Round) -> Option<u32> {
        let speculation = self.config.speculation.as_ref().filter(|speculation| !speculation.is_dynamic())?;
        let rows = 1 + speculation.drafts;
        let is_uniform = missing == 1 && !round.prefill_runs && (round.any_runs || computed > 0);
        (is_uniform && computed + rows < self.config.max_model_len).then_some(rows)
    }

    /// `tokens` of a running request, cut so that a chunk of its prompt leaves what the drafter reads ahead.
    pub(super) fn leaving_lookahead(&self, request: &Request, tokens: u32) -> u32 {
        self.without_lookahead(request, request.computed, tokens)
    }

    fn without_lookahead(&self, request: &Request, computed: u32, tokens: u32) -> u32 {
        let Some(speculation) = &self.config.speculation else { return tokens };
        let left = request.known().saturating_sub(computed + tokens);
        let kept = speculation.prefill_lookahead;
        if (1..kept).contains(&left) { tokens.saturating_sub(kept - left) } else { tokens }
    }

    /// How many of the next `tokens` tokens of a request are drafts; those that do not fit are forgotten.
    pub(super) fn drafts_in(&mut self, slot: Slot, tokens: u32) -> u8 {
        let Some(speculation) = &self.config.speculation else { return 0 };
        let request = &mut self.requests[slot];
        let end = request.computed + tokens;
        let rows = end.saturating_sub(request.scheduled_to());
        request.drafts = 0;
        let is_last = end >= request.known() && {
            // Every iteration that is not over gives one token at least, as does this one.
            let least = request.outputs + 1 + u32::from(request.placeholders > 0);
            least >= request.max_tokens
        };
        let uses_drafts = end >= request.known() && !is_last;
        self.drafts_are_needed |= uses_drafts || !speculation.skips_unused();
        rows as u8
    }

    /// Says what becomes of the drafts of the iteration, and what is proposed after it.
    #[inline(never)]
    pub(super) fn commit_drafts(
        &mut self,
        entries: &mut [Entry],
        iteration: &mut Iteration,
        proposals: &mut Proposals,
    ) {
        let Some(speculation) = self.config.speculation.as_deref() else { return };
        let awaits_results = self.awaits_results();
        let next = speculation.drafts_after(entries.len());
        let proposed = if self.drafts_are_needed { next } else { 0 };
        proposals.drafts = proposed;
        for (entry, scheduled) in entries.iter_mut().zip(&iteration.scheduled) {
            let request = &mut self.requests[entry.slot];
            let drafted = u32::from(entry.drafted);
            let real = drafted.min(request.real_drafts.into());
            if real > 0 {
                let number = request.verifications;
                request.verifications += 1;
                let accepted = match request.accepted_drafts.as_deref() {
                    Some(given) if !given.is_empty() => given[number as usize % given.len()].min(real),
                    _ => speculation.acceptance.accepted(request.id, number, real),
                };
                entry.accepted = accepted as u8;
            }
            if drafted > 0 {
                let accepted = entry.accepted.into();
                iteration.verified.push(Verified { id: request.id, drafted, accepted });
            }
            request.real_drafts = if entry.samples { proposed as u8 } else { 0 };
            if entry.samples && self.config.drafter.is_some() {
                proposals.requests.add((scheduled.computed + scheduled.tokens).into());
            }
            if entry.samples && !awaits_results {
                // Decided ahead, the next iteration has rows for them in any case.
                request.drafts = if self.config.async_scheduling { next } else { proposed } as u8;
            }
        }
    }

    /// Tokens behind those that it knows for which a request needs room in its next verification; 0 without speculation.
    pub(super) fn verification_tokens(&self) -> u32 {
        let of = |speculation: &Speculation| 1 + speculation.drafts + speculation.lookahead;
        self.config.speculation.as_deref().map_or(0, of)
    }

    /// Blocks that a request takes for its next verification, which KV on its way must not take away.
    pub(super) fn verification_blocks(&self) -> u32 {
        let tokens = self.verification_tokens();
        let groups = self.config.kv_groups.as_ref();
        groups.map_or_else(|| self.kv.blocks_for(tokens), |groups| groups.verification_blocks(tokens))
    }
}
